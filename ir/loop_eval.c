/* loop_eval.c: runs loop IR without LLVM: the reference that lowering and code generation are held
 * against.
 *
 * In: a module and the memory of its externs. Out: what the plan writes, bit for bit what loop.h
 * promises (float arithmetic in float, one rounding for fma, nothing contracted). Every access is
 * checked against its buffer, every divisor and shift count against the type; the first offence
 * stops the run and is described.
 *
 * Each value of a kernel has a fixed place in one frame (its lanes one after the other), so an
 * instruction is a switch and a loop over lanes. The arena, and scratch memory, start out as all
 * ones: NaN as floats.
 */
#include "ir/loop.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/loop_text.h"

typedef struct Eval {
    const KlKernel *k;
    char **buf;  /* by buffer number */
    size_t *at;  /* by value: its place in the frame */
    char *frame; /* the values, then room for what a yield carries */
    size_t room; /* where that room starts */
    KdStr *why;
    int64_t index; /* of the parallel range */
} Eval;

static size_t scalar_size(int s) {
    return s == KL_I64 ? 8 : s == KL_I1 || s == KL_U8 ? 1 : 4;
}

static bool fail(Eval *e, const KlInstr *i, const char *what, int64_t a, int64_t b) {
    kd_str_printf(e->why, "kernel @%s (%s), parallel index %lld: %s: ", e->k->name, e->k->what,
                  (long long)e->index, kl_op_text[i->op]);
    kd_str_printf(e->why, what, (long long)a, (long long)b);
    return false;
}

static bool fail_access(Eval *e, const KlInstr *i, int64_t idx) {
    const KlBuf *buf = &e->k->bufs.v[i->imm];
    kd_str_printf(
        e->why,
        "kernel @%s (%s), parallel index %lld: %s: element %lld of buffer %s, which has %lld",
        e->k->name, e->k->what, (long long)e->index, kl_op_text[i->op], (long long)idx, buf->name,
        (long long)buf->count);
    return false;
}

/* ---- arithmetic
 * ------------------------------------------------------------------------------------  */

#define EACH(T, expr)                                                                              \
    do {                                                                                           \
        const T *x = xp, *y = yp;                                                                  \
        T *r = rp;                                                                                 \
        for (int l = 0; l < n; l++) r[l] = (T)(expr);                                              \
        (void)y;                                                                                   \
    } while (0)

static void float_op(KlOp op, int n, const void *xp, const void *yp, const void *zp, void *rp) {
    const float *z = zp;
    if (op == KL_OP_ADD) EACH(float, x[l] + y[l]);
    else if (op == KL_OP_SUB) EACH(float, x[l] - y[l]);
    else if (op == KL_OP_MUL) EACH(float, x[l] * y[l]);
    else if (op == KL_OP_DIV) EACH(float, x[l] / y[l]);
    else if (op == KL_OP_MIN) EACH(float, x[l] < y[l] ? x[l] : y[l]);
    else if (op == KL_OP_MAX) EACH(float, x[l] > y[l] ? x[l] : y[l]);
    else if (op == KL_OP_FMA) EACH(float, fmaf(x[l], y[l], z[l]));
    else if (op == KL_OP_NEG) EACH(float, -x[l]);
    else if (op == KL_OP_ABS) EACH(float, fabsf(x[l]));
    else if (op == KL_OP_SQRT) EACH(float, sqrtf(x[l]));
    else if (op == KL_OP_FLOOR) EACH(float, floorf(x[l]));
    else if (op == KL_OP_ROUND) EACH(float, rintf(x[l]));
}

/* Unsigned arithmetic wraps; T and U have one size. Division has been checked. */
#define INT_OP(T, U)                                                                               \
    do {                                                                                           \
        if (op == KL_OP_ADD) EACH(T, (U)x[l] + (U)y[l]);                                           \
        else if (op == KL_OP_SUB) EACH(T, (U)x[l] - (U)y[l]);                                      \
        else if (op == KL_OP_MUL) EACH(T, (U)x[l] * (U)y[l]);                                      \
        else if (op == KL_OP_DIV) EACH(T, y[l] == -1 ? (T)(0 - (U)x[l]) : x[l] / y[l]);            \
        else if (op == KL_OP_REM) EACH(T, y[l] == -1 ? 0 : x[l] % y[l]);                           \
        else if (op == KL_OP_MIN) EACH(T, x[l] < y[l] ? x[l] : y[l]);                              \
        else if (op == KL_OP_MAX) EACH(T, x[l] > y[l] ? x[l] : y[l]);                              \
        else if (op == KL_OP_NEG) EACH(T, 0 - (U)x[l]);                                            \
        else if (op == KL_OP_ABS) EACH(T, x[l] < 0 ? 0 - (U)x[l] : (U)x[l]);                       \
        else if (op == KL_OP_AND) EACH(T, x[l] & y[l]);                                            \
        else if (op == KL_OP_OR) EACH(T, x[l] | y[l]);                                             \
        else if (op == KL_OP_XOR) EACH(T, x[l] ^ y[l]);                                            \
        else if (op == KL_OP_SHL) EACH(T, (U)x[l] << y[l]);                                        \
        else if (op == KL_OP_SHR) EACH(T, (U)x[l] >> y[l]);                                        \
    } while (0)

static void i32_op(KlOp op, int n, const void *xp, const void *yp, void *rp) {
    INT_OP(int32_t, uint32_t);
}

static void i64_op(KlOp op, int n, const void *xp, const void *yp, void *rp) {
    INT_OP(int64_t, uint64_t);
}

static void i1_op(KlOp op, int n, const void *xp, const void *yp, void *rp) {
    if (op == KL_OP_AND) EACH(uint8_t, x[l] & y[l]);
    else if (op == KL_OP_OR) EACH(uint8_t, x[l] | y[l]);
    else EACH(uint8_t, x[l] ^ y[l]);
}

static int64_t int_lane(const void *p, int scalar, int l) {
    if (scalar == KL_I64) return ((const int64_t *)p)[l];
    if (scalar == KL_I32) return ((const int32_t *)p)[l];
    return ((const uint8_t *)p)[l];
}

static void set_int_lane(void *p, int scalar, int l, int64_t v) {
    if (scalar == KL_I64) ((int64_t *)p)[l] = v;
    else if (scalar == KL_I32) ((int32_t *)p)[l] = (int32_t)(uint32_t)(uint64_t)v;
    else ((uint8_t *)p)[l] = (uint8_t)v;
}

static bool check_divisor(Eval *e, const KlInstr *i, const void *y) {
    for (int l = 0; l < i->type.lanes; l++)
        if (int_lane(y, i->type.scalar, l) == 0)
            return fail(e, i, "division by zero in lane %lld", l, 0);
    return true;
}

static bool check_shift(Eval *e, const KlInstr *i, const void *y) {
    int width = i->type.scalar == KL_I64 ? 64 : 32;
    for (int l = 0; l < i->type.lanes; l++) {
        int64_t s = int_lane(y, i->type.scalar, l);
        if (s < 0 || s >= width) return fail(e, i, "shift by %lld in lane %lld", s, l);
    }
    return true;
}

static bool arithmetic(Eval *e, const KlInstr *i, void *r, const void *x, const void *y,
                       const void *z) {
    KlOp op = (KlOp)i->op;
    int n = i->type.lanes;
    if (i->type.scalar == KL_F32) {
        float_op(op, n, x, y, z, r);
        return true;
    }
    if ((op == KL_OP_DIV || op == KL_OP_REM) && !check_divisor(e, i, y)) return false;
    if ((op == KL_OP_SHL || op == KL_OP_SHR) && !check_shift(e, i, y)) return false;
    if (i->type.scalar == KL_I32) i32_op(op, n, x, y, r);
    else if (i->type.scalar == KL_I64) i64_op(op, n, x, y, r);
    else i1_op(op, n, x, y, r);
    return true;
}

#define COMPARE(T)                                                                                 \
    do {                                                                                           \
        const T *x = xp, *y = yp;                                                                  \
        for (int l = 0; l < n; l++)                                                                \
            r[l] = p == KL_EQ   ? x[l] == y[l]                                                     \
                   : p == KL_NE ? x[l] != y[l]                                                     \
                   : p == KL_LT ? x[l] < y[l]                                                      \
                   : p == KL_LE ? x[l] <= y[l]                                                     \
                   : p == KL_GT ? x[l] > y[l]                                                      \
                                : x[l] >= y[l];                                                    \
    } while (0)

static void compare(KlPred p, int scalar, int n, const void *xp, const void *yp, uint8_t *r) {
    if (scalar == KL_F32) COMPARE(float);
    else if (scalar == KL_I32) COMPARE(int32_t);
    else COMPARE(int64_t);
}

static int64_t float_to_int(float f, int to) {
    double limit = to == KL_I64 ? 0x1p63 : 0x1p31;
    if (isnan(f)) return 0;
    if ((double)f >= limit) return to == KL_I64 ? INT64_MAX : INT32_MAX;
    if ((double)f < -limit) return to == KL_I64 ? INT64_MIN : INT32_MIN;
    return (int64_t)f;
}

static void convert(int n, int from, const void *x, int to, void *r) {
    for (int l = 0; l < n; l++) {
        if (from == KL_F32) set_int_lane(r, to, l, float_to_int(((const float *)x)[l], to));
        else if (to == KL_F32) ((float *)r)[l] = (float)int_lane(x, from, l);
        else set_int_lane(r, to, l, int_lane(x, from, l));
    }
}

/* Halves first: lane l with lane l + n/2. x is overwritten. */
static void reduce(KlOp op, int scalar, int n, char *x) {
    KlOp fold = op == KL_OP_REDUCE_ADD ? KL_OP_ADD : op == KL_OP_REDUCE_MAX ? KL_OP_MAX : KL_OP_MIN;
    for (n /= 2; n >= 1; n /= 2) {
        char *y = x + scalar_size(scalar) * (size_t)n;
        if (scalar == KL_F32) float_op(fold, n, x, y, NULL, x);
        else if (scalar == KL_I32) i32_op(fold, n, x, y, x);
        else i64_op(fold, n, x, y, x);
    }
}

/* ---- memory
 * ------------------------------------------------------------------------------------------  */

static bool load(Eval *e, const KlInstr *i, char *r) {
    const KlBuf *buf = &e->k->bufs.v[i->imm];
    size_t size = scalar_size(buf->dtype);
    const char *base = e->buf[i->imm], *idx = e->frame + e->at[i->in[0]];
    const uint8_t *mask = i->n_in > 1 ? (const uint8_t *)e->frame + e->at[i->in[1]] : NULL;
    bool gather = i->op == KL_OP_GATHER;
    int n = i->type.lanes;
    if (!mask && !gather) {
        int64_t first = *(const int64_t *)(const void *)idx;
        if (first < 0 || first > buf->count - n)
            return fail_access(e, i, first < 0 ? first : first + n - 1);
        memcpy(r, base + (size_t)first * size, (size_t)n * size);
        return true;
    }
    if (mask) memcpy(r, e->frame + e->at[i->in[2]], (size_t)n * size);
    for (int l = 0; l < n; l++) {
        if (mask && !mask[l]) continue;
        int64_t at = gather ? int_lane(idx, KL_I32, l)
                            : (int64_t)((uint64_t)int_lane(idx, KL_I64, 0) + (uint64_t)l);
        if (at < 0 || at >= buf->count) return fail_access(e, i, at);
        memcpy(r + (size_t)l * size, base + (size_t)at * size, size);
    }
    return true;
}

static bool store(Eval *e, const KlInstr *i) {
    const KlBuf *buf = &e->k->bufs.v[i->imm];
    size_t size = scalar_size(buf->dtype);
    char *base = e->buf[i->imm];
    const char *idx = e->frame + e->at[i->in[0]], *v = e->frame + e->at[i->in[1]];
    const uint8_t *mask = i->n_in > 2 ? (const uint8_t *)e->frame + e->at[i->in[2]] : NULL;
    bool scatter = i->op == KL_OP_SCATTER;
    for (int l = 0; l < i->type.lanes; l++) {
        if (mask && !mask[l]) continue;
        int64_t at = scatter ? int_lane(idx, KL_I32, l)
                             : (int64_t)((uint64_t)int_lane(idx, KL_I64, 0) + (uint64_t)l);
        if (at < 0 || at >= buf->count) return fail_access(e, i, at);
        memcpy(base + (size_t)at * size, v + (size_t)l * size, size);
    }
    return true;
}

/* ---- control
 * -------------------------------------------------------------------------------------------  */

static size_t value_size(const Eval *e, KlValue v) {
    KlType t = kl_vtype(e->k, v);
    return scalar_size(t.scalar) * t.lanes;
}

static void set_const(const KlInstr *i, void *r) {
    for (int l = 0; l < i->type.lanes; l++) {
        if (i->type.scalar == KL_F32) ((float *)r)[l] = (float)i->fimm;
        else set_int_lane(r, i->type.scalar, l, i->imm);
    }
}

static void shuffle(const Eval *e, const KlInstr *i, char *r, const char *x, const char *y) {
    int n = kl_vtype(e->k, i->in[0]).lanes;
    size_t size = scalar_size(i->type.scalar);
    for (int l = 0; l < i->type.lanes; l++) {
        int from = i->shuffle[l];
        memcpy(r + (size_t)l * size,
               (from < n ? x : y) + (size_t)(from < n ? from : from - n) * size, size);
    }
}

static bool run_block(Eval *e, const KlBlock *block, const KlInstr **yield);

/* Copies values to other values' places, all at once: they may overlap. */
static void move_values(Eval *e, int n, const KlValue *from, const KlValue *to) {
    char *p = e->frame + e->room;
    for (int j = 0; j < n; j++) {
        memcpy(p, e->frame + e->at[from[j]], value_size(e, from[j]));
        p += (value_size(e, from[j]) + 7) & ~(size_t)7;
    }
    p = e->frame + e->room;
    for (int j = 0; j < n; j++) {
        memcpy(e->frame + e->at[to[j]], p, value_size(e, to[j]));
        p += (value_size(e, to[j]) + 7) & ~(size_t)7;
    }
}

static bool run_for(Eval *e, const KlInstr *i) {
    int64_t lo = int_lane(e->frame + e->at[i->in[0]], KL_I64, 0),
            hi = int_lane(e->frame + e->at[i->in[1]], KL_I64, 0);
    const KlValue *params = i->body->params.v;
    int n = i->n_results;
    move_values(e, n, i->in + 2, params + 1);
    for (int64_t at = lo; at < hi;) {
        const KlInstr *yield = NULL;
        set_int_lane(e->frame + e->at[params[0]], KL_I64, 0, at);
        if (!run_block(e, i->body, &yield)) return false;
        move_values(e, n, yield->in, params + 1);
        if (!kd_add_ok(at, i->imm, &at)) break;
    }
    for (int j = 0; j < n; j++)
        memcpy(e->frame + e->at[i->result + (KlValue)j], e->frame + e->at[params[1 + j]],
               value_size(e, params[1 + j]));
    return true;
}

static bool run_instr(Eval *e, const KlInstr *i, const KlInstr **yield) {
    char *r = i->n_results ? e->frame + e->at[i->result] : NULL;
    const char *in[3] = {NULL, NULL, NULL};
    for (int j = 0; j < i->n_in && j < 3; j++) in[j] = e->frame + e->at[i->in[j]];
    size_t size = scalar_size(i->type.scalar);
    int n = i->type.lanes;
    switch ((KlOp)i->op) {
    case KL_OP_CONST: set_const(i, r); return true;
    case KL_OP_IOTA:
        for (int l = 0; l < n; l++) set_int_lane(r, i->type.scalar, l, l);
        return true;
    case KL_OP_ADD: case KL_OP_SUB: case KL_OP_MUL: case KL_OP_DIV: case KL_OP_REM: case KL_OP_MIN:
    case KL_OP_MAX: case KL_OP_FMA: case KL_OP_NEG: case KL_OP_ABS: case KL_OP_SQRT:
    case KL_OP_FLOOR: case KL_OP_ROUND: case KL_OP_AND: case KL_OP_OR: case KL_OP_XOR:
    case KL_OP_SHL: case KL_OP_SHR: return arithmetic(e, i, r, in[0], in[1], in[2]);
    case KL_OP_CMP:
        compare((KlPred)i->imm, kl_vtype(e->k, i->in[0]).scalar, n, in[0], in[1], (uint8_t *)r);
        return true;
    case KL_OP_SELECT:
        for (int l = 0; l < n; l++) {
            size_t at = (size_t)l * size;
            memcpy(r + at, (((const uint8_t *)in[0])[l] ? in[1] : in[2]) + at, size);
        }
        return true;
    case KL_OP_CVT:
        convert(n, kl_vtype(e->k, i->in[0]).scalar, in[0], i->type.scalar, r);
        return true;
    case KL_OP_BITCAST: memcpy(r, in[0], (size_t)n * size); return true;
    case KL_OP_SPLAT:
        for (int l = 0; l < n; l++) memcpy(r + (size_t)l * size, in[0], size);
        return true;
    case KL_OP_EXTRACT: memcpy(r, in[0] + (size_t)i->imm * size, size); return true;
    case KL_OP_SHUFFLE: shuffle(e, i, r, in[0], in[1]); return true;
    case KL_OP_REDUCE_ADD: case KL_OP_REDUCE_MAX: case KL_OP_REDUCE_MIN: {
        KlType t = kl_vtype(e->k, i->in[0]);
        int64_t copy[64]; /* the widest vector */
        memcpy(copy, in[0], size * t.lanes);
        reduce((KlOp)i->op, t.scalar, t.lanes, (char *)copy);
        memcpy(r, copy, size);
        return true;
    }
    case KL_OP_LOAD: case KL_OP_GATHER: return load(e, i, r);
    case KL_OP_PREFETCH: return true;
    case KL_OP_STORE: case KL_OP_SCATTER: return store(e, i);
    case KL_OP_FOR: return run_for(e, i);
    case KL_OP_IF: return !*(const uint8_t *)in[0] || run_block(e, i->body, yield);
    case KL_OP_YIELD: *yield = i; return true;
    case KL_OP_COUNT: break; /* the verifier has refused it */
    }
    return false;
}

static bool run_block(Eval *e, const KlBlock *block, const KlInstr **yield) {
    for (int j = 0; j < block->instrs.n; j++)
        if (!run_instr(e, block->instrs.v[j], yield)) return false;
    return true;
}

/* ---- kernels and the plan
 * ---------------------------------------------------------------------------------  */

/* Bytes a yield may need: what move_values copies at most. */
static size_t yield_room(const Eval *e, const KlBlock *block) {
    size_t most = 0;
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        size_t room = 0;
        if (i->body) room = yield_room(e, i->body);
        if (room > most) most = room;
        room = 0;
        for (int r = 0; i->op == KL_OP_FOR && r < i->n_results; r++)
            room += (value_size(e, i->in[2 + r]) + 7) & ~(size_t)7;
        if (room > most) most = room;
    }
    return most;
}

/* bufs: by buffer number, NULL for scratch, which is made here. */
static bool run_kernel(const KlKernel *k, char **bufs, KdStr *why) {
    Eval e = {.k = k, .buf = bufs, .why = why};
    size_t scratch = 0;
    for (int j = 0; j < k->bufs.n; j++)
        if (k->bufs.v[j].access == KL_SCRATCH)
            scratch +=
                ((size_t)k->bufs.v[j].count * scalar_size(k->bufs.v[j].dtype) + 63) & ~(size_t)63;
    e.at = calloc((size_t)k->types.n + 1, sizeof *e.at);
    for (int v = 0; e.at && v < k->types.n; v++) {
        e.at[v] = e.room;
        e.room += (value_size(&e, (KlValue)v) + 7) & ~(size_t)7;
    }
    e.frame = calloc(1, e.room + yield_room(&e, &k->body) + 8);
    char *memory = malloc(scratch + 1);
    if (!e.at || !e.frame || !memory) {
        free(e.at);
        free(e.frame);
        free(memory);
        kd_raise(k->cx, KD_FAIL_MACHINE, "out of memory");
    }
    size_t at = 0;
    for (int j = 0; j < k->bufs.n; j++) {
        if (k->bufs.v[j].access != KL_SCRATCH) continue;
        bufs[j] = memory + at;
        at += ((size_t)k->bufs.v[j].count * scalar_size(k->bufs.v[j].dtype) + 63) & ~(size_t)63;
    }
    bool ok = true;
    for (e.index = 0; ok && e.index < k->range; e.index++) {
        const KlInstr *yield = NULL;
        /* Nothing may live in scratch from one index to the next; forgetting it each time is dear
         * if it is big. */
        if (e.index == 0 || scratch < 65536) memset(memory, 0xff, scratch);
        set_int_lane(e.frame + e.at[k->body.params.v[0]], KL_I64, 0, e.index);
        ok = run_block(&e, &k->body, &yield);
    }
    free(e.at);
    free(e.frame);
    free(memory);
    return ok;
}

bool kl_eval(const KlModule *m, void *const *ext, KdStr *why) {
    if (!kl_verify(m, why)) return false;
    int most = 1;
    for (int j = 0; j < m->kernels.n; j++)
        if (m->kernels.v[j]->bufs.n > most) most = m->kernels.v[j]->bufs.n;
    char **bufs = KD_NEW_ARRAY(m->cx, char *, most);
    char *arena = malloc((size_t)m->arena + 1);
    if (!arena)
        kd_raise(m->cx, KD_FAIL_MACHINE, "out of memory: an arena of %lld bytes",
                 (long long)m->arena);
    memset(arena, 0xff, (size_t)m->arena);
    bool ok = true;
    for (int c = 0; ok && c < m->calls.n; c++) {
        const KlCall *call = &m->calls.v[c];
        const KlKernel *k = m->kernels.v[call->kernel];
        for (int j = 0, n = 0; j < k->bufs.n; j++) {
            if (k->bufs.v[j].access == KL_SCRATCH) continue;
            const KlArg *a = &call->args[n++];
            char *base = a->kind == KL_ARG_EXTERN  ? ext[a->index]
                         : a->kind == KL_ARG_ARENA ? arena
                                                   : (char *)m->pool.v;
            bufs[j] = base + a->offset;
        }
        ok = run_kernel(k, bufs, why);
    }
    free(arena);
    return ok;
}
