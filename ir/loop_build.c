/* loop_build.c: the only way loop IR comes into existence (but for loop_parse.c, which writes what
 * it reads).
 *
 * In: calls of the builder's functions. Out: instructions in the kernel's blocks, folded
 * (loop_fold.c), shared, and hoisted: see loop_fold.h for where an instruction goes. Loops of one
 * trip and ifs whose condition is known dissolve into their surroundings; loops of no trip and ifs
 * that never happen are built into a block nobody sees. A type error here is a bug of the caller,
 * so it raises KD_FAIL_INTERNAL.
 */
#include "ir/loop_fold.h"
#include "ir/loop_text.h"

#include <math.h>
#include <string.h>

/* ---- modules and kernels --------------------------------------------------------------------- */

KlModule *kl_module_new(KdContext *cx, const char *name) {
    KlModule *m = KD_NEW(cx, KlModule);
    m->cx = cx;
    m->name = kd_intern_z(cx, name);
    return m;
}

KlKernel *kl_kernel_new(KdContext *cx, const char *what, int64_t range) {
    KlKernel *k = KD_NEW(cx, KlKernel);
    k->cx = cx;
    k->name = kd_intern_z(cx, "k");
    k->what = what ? kd_intern_z(cx, what) : kd_intern_z(cx, "");
    k->range = range;
    k->grain = 1;
    kd_push(cx, &k->types, kl_type(KL_I64, 1));
    kd_push(cx, &k->body.params, 0);
    return k;
}

/* A name that the text can hold and that no other buffer of the kernel has. */
static const char *buffer_name(KlKernel *k, const char *name) {
    KdStr s = {.cx = k->cx};
    if (!name || !*name) kd_str_printf(&s, "b%d", k->bufs.n);
    for (; name && *name; name++) {
        char c = *name;
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        bool digit = (c >= '0' && c <= '9') || c == '.';
        if (s.n == 0 && !letter) kd_str_add(&s, "_", 1);
        kd_str_add(&s, letter || digit ? &c : "_", 1);
    }
    const char *base = kd_intern(k->cx, s.s, s.n), *unique = base;
    for (int j = 0, n = 1; j < k->bufs.n; j++) {
        if (k->bufs.v[j].name != unique) continue;
        unique = kd_intern_z(k->cx, kd_format(k->cx, "%s.%d", base, n++));
        j = -1;
    }
    return unique;
}

int kl_buf(KlKernel *k, const char *name, KlScalar dtype, int64_t count, KlAccess access) {
    KlBuf buf = {buffer_name(k, name), dtype, count, access};
    kd_push(k->cx, &k->bufs, buf);
    return k->bufs.n - 1;
}

KlValue kl_parallel_index(const KlKernel *k) {
    return k->body.params.v[0];
}

int kl_module_add(KlModule *m, KlKernel *k) {
    kl_sweep(k);
    KdStr identity = {.cx = m->cx};
    kl_identity(&identity, k);
    k->identity = identity.s;
    k->identity_bytes = identity.n;
    for (int j = 0; j < m->kernels.n; j++) {
        const KlKernel *o = m->kernels.v[j];
        if (o->identity_bytes == identity.n && !memcmp(o->identity, identity.s, identity.n)) return j;
    }
    k->name = kd_intern_z(m->cx, kd_format(m->cx, "k%d", m->kernels.n));
    kd_push(m->cx, &m->kernels, k);
    return m->kernels.n - 1;
}

/* ---- what is known of values -------------------------------------------------------------------
 */

bool kl_is_integer(KlScalar s) {
    return s == KL_I1 || s == KL_U8 || s == KL_I32 || s == KL_I64;
}

void kl_scalar_range(KlScalar s, int64_t *lo, int64_t *hi) {
    *lo = INT64_MIN;
    *hi = INT64_MAX;
    if (s == KL_I1) *lo = 0, *hi = 1;
    if (s == KL_U8) *lo = 0, *hi = 255;
    if (s == KL_I32) *lo = INT32_MIN, *hi = INT32_MAX;
}

int64_t kl_wrap(KlScalar s, int64_t c) {
    if (s == KL_I1) return c & 1;
    if (s == KL_U8) return c & 255;
    if (s == KL_I32) return (int32_t)(uint32_t)(uint64_t)c;
    return c;
}

KlFact kl_fact(const KlBuilder *b, KlValue v) {
    if (v < (KlValue)b->scope->facts.n) return b->scope->facts.v[v];
    KlFact f = {0};
    kl_scalar_range(kl_vtype(b->k, v).scalar, &f.lo, &f.hi);
    return f;
}

void kl_range(const KlBuilder *b, KlValue v, int64_t *lo, int64_t *hi) {
    KlFact f = kl_fact(b, v);
    *lo = f.lo;
    *hi = f.hi;
}

bool kl_is_const(const KlBuilder *b, KlValue v, int64_t *c) {
    if (!kl_is_integer(kl_vtype(b->k, v).scalar)) return false;
    KlFact f = kl_fact(b, v);
    if (f.lo != f.hi) return false;
    if (c) *c = f.lo;
    return true;
}

bool kl_is_float_const(const KlBuilder *b, KlValue v, float *c) {
    const KlInstr *d = kl_def(b, v);
    if (!d || d->op != KL_OP_CONST || d->type.scalar != KL_F32) return false;
    *c = (float)d->fimm;
    return true;
}

static KlValue new_value(KlBuilder *b, KlType t, KlInstr *def, int level, int64_t lo, int64_t hi) {
    struct KlScope *s = b->scope;
    while (s->facts.n < b->k->types.n) { /* made by someone else: nothing is known */
        KlFact unknown = kl_fact(b, (KlValue)s->facts.n);
        kd_push(b->cx, &s->facts, unknown);
    }
    kd_push(b->cx, &b->k->types, t);
    KlFact f = {def, lo, hi, level};
    if (!kl_is_integer(t.scalar)) kl_scalar_range(KL_I64, &f.lo, &f.hi);
    kd_push(b->cx, &s->facts, f);
    return (KlValue)(b->k->types.n - 1);
}

static KlValue new_param(KlBuilder *b, KlBlock *block, KlType t, int64_t lo, int64_t hi) {
    KlValue v = new_value(b, t, NULL, b->scope->levels.n - 1, lo, hi);
    kd_push(b->cx, &block->params, v);
    return v;
}

KlBuilder kl_builder(KlKernel *k) {
    KlBuilder b = {k->cx, k, &k->body, KD_NEW(k->cx, struct KlScope), 0};
    struct KlScope *s = b.scope;
    s->n_heads = 256;
    s->heads = KD_NEW_ARRAY(k->cx, int, s->n_heads);
    KlLevel top = {&k->body, false};
    kd_push(k->cx, &s->levels, top);
    for (KlValue v = 0; v < (KlValue)k->types.n; v++) {
        KlFact f = {0};
        kl_scalar_range(kl_vtype(k, v).scalar, &f.lo, &f.hi);
        if (v == k->body.params.v[0]) f.lo = 0, f.hi = k->range > 0 ? k->range - 1 : 0;
        kd_push(k->cx, &s->facts, f);
    }
    for (int j = 0; j < k->body.instrs.n; j++) {
        KlInstr *i = k->body.instrs.v[j];
        if (i->result == KL_NONE) continue;
        KlFact *f = &s->facts.v[i->result];
        f->def = i;
        if (i->op == KL_OP_CONST && kl_is_integer(i->type.scalar)) f->lo = f->hi = i->imm;
    }
    return b;
}

/* ---- appending
 * -----------------------------------------------------------------------------------  */

static _Noreturn void wrong(KlBuilder *b, KlOp op, const char *why) {
    kd_raise(b->cx, KD_FAIL_INTERNAL, "loop IR: %s in kernel \"%s\": %s", kl_op_text[op],
             b->k->what, why);
}

static KlInstr *copy_instr(KlBuilder *b, const KlInstr *proto) {
    KlInstr *i = KD_NEW(b->cx, KlInstr);
    *i = *proto;
    i->in = KD_NEW_ARRAY(b->cx, KlValue, proto->n_in ? proto->n_in : 1);
    if (proto->n_in) memcpy(i->in, proto->in, proto->n_in * sizeof *i->in);
    if (proto->shuffle) {
        int *sel = KD_NEW_ARRAY(b->cx, int, proto->type.lanes);
        memcpy(sel, proto->shuffle, proto->type.lanes * sizeof *sel);
        i->shuffle = sel;
    }
    return i;
}

static uint64_t instr_hash(const KlInstr *i) {
    uint64_t head[4] = {i->op | (uint64_t)i->type.scalar << 16 | (uint64_t)i->type.lanes << 32,
                        (uint64_t)i->imm, 0, 0};
    memcpy(&head[2], &i->fimm, sizeof i->fimm);
    uint64_t h = kd_hash_bytes(head, sizeof head, 1);
    if (i->n_in) h = kd_hash_bytes(i->in, i->n_in * sizeof *i->in, h);
    if (i->shuffle) h = kd_hash_bytes(i->shuffle, i->type.lanes * sizeof *i->shuffle, h);
    return h;
}

static bool instr_equal(const KlInstr *a, const KlInstr *c) {
    return a->op == c->op && a->type.scalar == c->type.scalar && a->type.lanes == c->type.lanes &&
           a->n_in == c->n_in && a->imm == c->imm && !memcmp(&a->fimm, &c->fimm, sizeof a->fimm) &&
           (!a->n_in || !memcmp(a->in, c->in, a->n_in * sizeof *a->in)) &&
           (!a->shuffle || !memcmp(a->shuffle, c->shuffle, a->type.lanes * sizeof *a->shuffle));
}

/* An equal instruction in the open block of that level (exactly) or, for level < 0, in any open
 * block. */
static KlInstr *find_shared(KlBuilder *b, const KlInstr *proto, uint64_t hash, int level,
                            int writes) {
    struct KlScope *s = b->scope;
    for (int j = s->heads[hash & (uint64_t)(s->n_heads - 1)]; j > 0; j = s->shared.v[j - 1].next) {
        const KlShared *e = &s->shared.v[j - 1];
        if (e->hash != hash || e->writes != writes) continue;
        if (e->level >= s->levels.n || s->levels.v[e->level].block != e->block)
            continue; /* closed */
        if (level >= 0 && e->level != level) continue;
        if (instr_equal(e->instr, proto)) return e->instr;
    }
    return NULL;
}

static void add_shared(KlBuilder *b, KlInstr *i, uint64_t hash, int level, int writes) {
    struct KlScope *s = b->scope;
    if (s->shared.n >= 2 * s->n_heads) {
        s->n_heads *= 4;
        s->heads = KD_NEW_ARRAY(b->cx, int, s->n_heads);
        for (int j = 0; j < s->shared.n; j++) {
            int *head = &s->heads[s->shared.v[j].hash & (uint64_t)(s->n_heads - 1)];
            s->shared.v[j].next = *head;
            *head = j + 1;
        }
    }
    int *head = &s->heads[hash & (uint64_t)(s->n_heads - 1)];
    KlShared e = {hash, i, s->levels.v[level].block, level, *head, writes};
    kd_push(b->cx, &s->shared, e);
    *head = s->shared.n;
}

/* May it be computed where it was not asked for? Only division can trap. */
static bool may_move(const KlBuilder *b, const KlInstr *i) {
    if (i->op != KL_OP_DIV && i->op != KL_OP_REM) return true;
    if (i->type.scalar == KL_F32) return true;
    KlFact d = kl_fact(b, i->in[1]);
    return d.lo > 0;
}

KlValue kl_pure(KlBuilder *b, const KlInstr *proto, int64_t lo, int64_t hi) {
    struct KlScope *s = b->scope;
    if (lo == hi && proto->op != KL_OP_CONST && kl_is_integer(proto->type.scalar))
        return kl_int(b, proto->type, lo);
    uint64_t hash = instr_hash(proto);
    KlInstr *same = find_shared(b, proto, hash, -1, 0);
    if (same) return same->result;
    int level = 0, top = s->levels.n - 1;
    for (int j = 0; j < proto->n_in; j++) {
        int l = kl_fact(b, proto->in[j]).level;
        if (l > level) level = l;
    }
    if (level > top) level = top;
    if (!may_move(b, proto)) level = top;
    if (proto->op != KL_OP_CONST && proto->op != KL_OP_IOTA)
        for (int l = top; l > level; l--)
            if (s->levels.v[l].guarded) level = l;
    KlInstr *i = copy_instr(b, proto);
    i->n_results = 1;
    i->result = new_value(b, proto->type, i, level, lo, hi);
    kd_push(b->cx, &s->levels.v[level].block->instrs, i);
    add_shared(b, i, hash, level, 0);
    return i->result;
}

/* ---- constants
 * ---------------------------------------------------------------------------------------  */

KlValue kl_int(KlBuilder *b, KlType t, int64_t c) {
    c = kl_wrap(t.scalar, c);
    KlInstr proto = {.op = KL_OP_CONST, .type = t, .imm = c};
    return kl_pure(b, &proto, c, c);
}

KlValue kl_float(KlBuilder *b, KlType t, double c) {
    KlInstr proto = {.op = KL_OP_CONST, .type = t, .fimm = (double)(float)c};
    return kl_pure(b, &proto, 0, 0);
}

KlValue kl_i64(KlBuilder *b, int64_t c) {
    return kl_int(b, kl_type(KL_I64, 1), c);
}

KlValue kl_i32(KlBuilder *b, int32_t c) {
    return kl_int(b, kl_type(KL_I32, 1), c);
}

KlValue kl_f32(KlBuilder *b, double c) {
    return kl_float(b, kl_type(KL_F32, 1), c);
}

KlValue kl_constant_like(KlBuilder *b, KlValue like, double c) {
    KlType t = kl_vtype(b->k, like);
    return t.scalar == KL_F32 ? kl_float(b, t, c) : kl_int(b, t, (int64_t)c);
}

/* ---- arithmetic
 * ---------------------------------------------------------------------------------------  */

KlValue kl_splat(KlBuilder *b, int lanes, KlValue x) {
    KlType t = kl_vtype(b->k, x);
    if (t.lanes == lanes) return x;
    if (t.lanes != 1) wrong(b, KL_OP_SPLAT, "of a vector");
    float c;
    if (kl_is_float_const(b, x, &c)) return kl_float(b, kl_type(KL_F32, lanes), (double)c);
    KlFact f = kl_fact(b, x);
    KlInstr proto = {.op = KL_OP_SPLAT, .type = kl_type(t.scalar, lanes), .n_in = 1, .in = &x};
    return kl_pure(b, &proto, f.lo, f.hi);
}

KlValue kl_iota(KlBuilder *b, KlScalar s, int lanes) {
    KlInstr proto = {.op = KL_OP_IOTA, .type = kl_type(s, lanes)};
    if (s != KL_I32 && s != KL_I64) wrong(b, KL_OP_IOTA, "neither i32 nor i64");
    return kl_pure(b, &proto, 0, lanes - 1);
}

/* Splats whichever operand is a scalar beside a vector. */
static void match_lanes(KlBuilder *b, KlOp op, KlValue *x, KlValue *y) {
    int lx = kl_vtype(b->k, *x).lanes, ly = kl_vtype(b->k, *y).lanes;
    if (lx == ly) return;
    if (lx != 1 && ly != 1) wrong(b, op, "operands of different lane counts");
    if (lx == 1) *x = kl_splat(b, ly, *x);
    else *y = kl_splat(b, lx, *y);
}

static void same_scalar(KlBuilder *b, KlOp op, KlValue x, KlValue y) {
    if (kl_vtype(b->k, x).scalar != kl_vtype(b->k, y).scalar)
        wrong(b, op, "operands of different types");
}

/* Which element types an operation takes. */
static bool op_takes(KlOp op, KlScalar s) {
    bool number = s == KL_F32 || s == KL_I32 || s == KL_I64;
    if (op == KL_OP_FMA || op == KL_OP_SQRT || op == KL_OP_FLOOR || op == KL_OP_ROUND)
        return s == KL_F32;
    if (op == KL_OP_REM || op == KL_OP_SHL || op == KL_OP_SHR) return s == KL_I32 || s == KL_I64;
    if (op == KL_OP_AND || op == KL_OP_OR || op == KL_OP_XOR)
        return s == KL_I1 || s == KL_I32 || s == KL_I64;
    return number;
}

KlValue kl_op1(KlBuilder *b, KlOp op, KlValue x) {
    KlType t = kl_vtype(b->k, x);
    if (op != KL_OP_NEG && op != KL_OP_ABS && op != KL_OP_SQRT && op != KL_OP_FLOOR &&
        op != KL_OP_ROUND)
        wrong(b, op, "not an operation of one operand");
    if (!op_takes(op, t.scalar)) wrong(b, op, "operand type");
    KlValue folded = kl_fold_op1(b, op, t, x);
    if (folded != KL_NONE) return folded;
    int64_t lo, hi;
    kl_scalar_range(t.scalar, &lo, &hi);
    KlFact f = kl_fact(b, x);
    if (f.lo > lo && op == KL_OP_NEG) lo = -f.hi, hi = -f.lo;
    else if (f.lo > lo && op == KL_OP_ABS)
        lo = f.lo > 0 ? f.lo : f.hi < 0 ? -f.hi : 0, hi = f.hi > -f.lo ? f.hi : -f.lo;
    KlInstr proto = {.op = op, .type = t, .n_in = 1, .in = &x};
    return kl_pure(b, &proto, lo, hi);
}

KlValue kl_op2(KlBuilder *b, KlOp op, KlValue x, KlValue y) {
    if (op < KL_OP_ADD || op > KL_OP_SHR || (op >= KL_OP_FMA && op <= KL_OP_ROUND))
        wrong(b, op, "not an operation of two operands");
    same_scalar(b, op, x, y);
    match_lanes(b, op, &x, &y);
    KlType t = kl_vtype(b->k, x);
    if (!op_takes(op, t.scalar)) wrong(b, op, "operand type");
    KlValue folded =
        t.scalar == KL_F32 ? kl_fold_float2(b, op, t, x, y) : kl_fold_int2(b, op, t, x, y);
    if (folded != KL_NONE) return folded;
    int64_t lo, hi;
    kl_range_op2(b, op, t, x, y, &lo, &hi);
    bool commutes = op == KL_OP_ADD || op == KL_OP_MUL || op == KL_OP_MIN || op == KL_OP_MAX ||
                    op == KL_OP_AND || op == KL_OP_OR || op == KL_OP_XOR;
    if (t.scalar != KL_F32 && commutes && kl_is_const(b, x, NULL)) { /* constants go second */
        KlValue z = x;
        x = y;
        y = z;
    }
    KlValue in[2] = {x, y};
    KlInstr proto = {.op = op, .type = t, .n_in = 2, .in = in};
    return kl_pure(b, &proto, lo, hi);
}

KlValue kl_fma(KlBuilder *b, KlValue x, KlValue y, KlValue z) {
    same_scalar(b, KL_OP_FMA, x, y);
    same_scalar(b, KL_OP_FMA, x, z);
    match_lanes(b, KL_OP_FMA, &x, &y);
    match_lanes(b, KL_OP_FMA, &x, &z);
    match_lanes(b, KL_OP_FMA, &x, &y);
    KlType t = kl_vtype(b->k, x);
    if (!op_takes(KL_OP_FMA, t.scalar)) wrong(b, KL_OP_FMA, "operand type");
    float cx, cy, cz;
    bool x_const = kl_is_float_const(b, x, &cx), y_const = kl_is_float_const(b, y, &cy);
    if (x_const && cx == 1) return kl_op2(b, KL_OP_ADD, y, z);
    if (y_const && cy == 1) return kl_op2(b, KL_OP_ADD, x, z);
    if (x_const && y_const && kl_is_float_const(b, z, &cz) && !isnan(fmaf(cx, cy, cz)))
        return kl_float(b, t, (double)fmaf(cx, cy, cz));
    KlValue in[3] = {x, y, z};
    KlInstr proto = {.op = KL_OP_FMA, .type = t, .n_in = 3, .in = in};
    return kl_pure(b, &proto, 0, 0);
}

KlValue kl_cmp(KlBuilder *b, KlPred p, KlValue x, KlValue y) {
    same_scalar(b, KL_OP_CMP, x, y);
    match_lanes(b, KL_OP_CMP, &x, &y);
    KlType t = kl_vtype(b->k, x), mask = kl_type(KL_I1, t.lanes);
    if (!op_takes(KL_OP_CMP, t.scalar)) wrong(b, KL_OP_CMP, "operand type");
    KlValue folded = kl_fold_cmp(b, p, mask, x, y);
    if (folded != KL_NONE) return folded;
    KlValue in[2] = {x, y};
    KlInstr proto = {.op = KL_OP_CMP, .type = mask, .n_in = 2, .in = in, .imm = p};
    return kl_pure(b, &proto, 0, 1);
}

KlValue kl_select(KlBuilder *b, KlValue c, KlValue x, KlValue y) {
    same_scalar(b, KL_OP_SELECT, x, y);
    if (kl_vtype(b->k, c).scalar != KL_I1) wrong(b, KL_OP_SELECT, "condition is not i1");
    match_lanes(b, KL_OP_SELECT, &x, &y);
    if (x == y && kl_vtype(b->k, c).lanes <= kl_vtype(b->k, x).lanes) return x;
    match_lanes(b, KL_OP_SELECT, &c, &x);
    match_lanes(b, KL_OP_SELECT, &c, &y);
    match_lanes(b, KL_OP_SELECT, &c, &x);
    if (x == y) return x;
    int64_t known;
    if (kl_is_const(b, c, &known)) return known ? x : y;
    KlFact fx = kl_fact(b, x), fy = kl_fact(b, y);
    KlValue in[3] = {c, x, y};
    KlInstr proto = {.op = KL_OP_SELECT, .type = kl_vtype(b->k, x), .n_in = 3, .in = in};
    return kl_pure(b, &proto, fx.lo < fy.lo ? fx.lo : fy.lo, fx.hi > fy.hi ? fx.hi : fy.hi);
}

KlValue kl_cvt(KlBuilder *b, KlScalar to, KlValue x) {
    KlType t = kl_vtype(b->k, x), r = kl_type(to, t.lanes);
    if (t.scalar == to) return x;
    if (to == KL_I1 || to == KL_VOID) wrong(b, KL_OP_CVT, "to a type that is no number");
    int64_t c, lo, hi;
    float f;
    if (kl_is_const(b, x, &c))
        return to == KL_F32 ? kl_float(b, r, (double)(float)c) : kl_int(b, r, c);
    kl_scalar_range(to, &lo, &hi);
    if (kl_is_float_const(b, x, &f) && to != KL_U8) {
        double limit = to == KL_I32 ? 0x1p31 : 0x1p63;
        int64_t v = isnan(f) ? 0 : (double)f >= limit ? hi : (double)f < -limit ? lo : (int64_t)f;
        return kl_int(b, r, v);
    }
    KlFact fact = kl_fact(b, x);
    if (t.scalar != KL_F32 && to != KL_F32 && fact.lo >= lo && fact.hi <= hi)
        lo = fact.lo, hi = fact.hi;
    KlInstr *d = kl_def(b, x);
    if (d && d->op == KL_OP_CVT && t.scalar == KL_I32 && to == KL_I64 &&
        kl_vtype(b->k, d->in[0]).scalar == KL_I64) {
        KlFact inner = kl_fact(b, d->in[0]); /* i64 -> i32 -> i64 that lost nothing */
        if (inner.lo >= INT32_MIN && inner.hi <= INT32_MAX) return d->in[0];
    }
    if (d && d->op == KL_OP_CVT && t.scalar == KL_I64 && to == KL_I32 &&
        kl_vtype(b->k, d->in[0]).scalar == KL_I32)
        return d->in[0];
    KlInstr proto = {.op = KL_OP_CVT, .type = r, .n_in = 1, .in = &x};
    return kl_pure(b, &proto, lo, hi);
}

KlValue kl_bitcast(KlBuilder *b, KlScalar to, KlValue x) {
    KlType t = kl_vtype(b->k, x), r = kl_type(to, t.lanes);
    if (t.scalar == to) return x;
    if (!(t.scalar == KL_F32 && to == KL_I32) && !(t.scalar == KL_I32 && to == KL_F32))
        wrong(b, KL_OP_BITCAST, "only between f32 and i32");
    KlInstr *d = kl_def(b, x);
    if (d && d->op == KL_OP_BITCAST) return d->in[0];
    float f;
    int64_t c;
    if (kl_is_float_const(b, x, &f) && !isnan(f)) {
        int32_t bits;
        memcpy(&bits, &f, sizeof bits);
        return kl_int(b, r, bits);
    }
    if (kl_is_const(b, x, &c)) {
        int32_t bits = (int32_t)c;
        memcpy(&f, &bits, sizeof f);
        if (!isnan(f)) return kl_float(b, r, (double)f);
    }
    int64_t lo, hi;
    kl_scalar_range(to, &lo, &hi);
    KlInstr proto = {.op = KL_OP_BITCAST, .type = r, .n_in = 1, .in = &x};
    return kl_pure(b, &proto, lo, hi);
}

/* ---- lanes
 * --------------------------------------------------------------------------------------------  */

KlValue kl_extract(KlBuilder *b, KlValue x, int lane) {
    KlType t = kl_vtype(b->k, x);
    if (lane < 0 || lane >= t.lanes) wrong(b, KL_OP_EXTRACT, "no such lane");
    if (t.lanes == 1) return x;
    const KlInstr *d = kl_def(b, x);
    if (d && d->op == KL_OP_SPLAT) return d->in[0];
    if (d && d->op == KL_OP_CONST && t.scalar == KL_F32) return kl_f32(b, d->fimm);
    if (d && d->op == KL_OP_IOTA) return kl_int(b, kl_type(t.scalar, 1), lane);
    KlFact f = kl_fact(b, x);
    KlInstr proto = {
        .op = KL_OP_EXTRACT, .type = kl_type(t.scalar, 1), .n_in = 1, .in = &x, .imm = lane};
    return kl_pure(b, &proto, f.lo, f.hi);
}

KlValue kl_shuffle(KlBuilder *b, KlValue x, KlValue y, int lanes, const int *selector) {
    KlType t = kl_vtype(b->k, x);
    if (y == KL_NONE) y = x;
    KlType ty = kl_vtype(b->k, y);
    if (t.scalar != ty.scalar || t.lanes != ty.lanes)
        wrong(b, KL_OP_SHUFFLE, "operands of different types");
    bool identity = lanes == t.lanes;
    for (int j = 0; j < lanes; j++) {
        if (selector[j] < 0 || selector[j] >= 2 * t.lanes)
            wrong(b, KL_OP_SHUFFLE, "selector out of range");
        identity = identity && selector[j] == j;
    }
    if (identity) return x;
    const KlInstr *d = kl_def(b, x);
    if (x == y && d && d->op == KL_OP_SPLAT) return kl_splat(b, lanes, d->in[0]);
    if (x == y && d && d->op == KL_OP_CONST && t.scalar == KL_F32)
        return kl_float(b, kl_type(KL_F32, lanes), d->fimm);
    KlFact fx = kl_fact(b, x), fy = kl_fact(b, y);
    KlValue in[2] = {x, y};
    KlInstr proto = {.op = KL_OP_SHUFFLE,
                     .type = kl_type(t.scalar, lanes),
                     .n_in = 2,
                     .in = in,
                     .shuffle = selector};
    return kl_pure(b, &proto, fx.lo < fy.lo ? fx.lo : fy.lo, fx.hi > fy.hi ? fx.hi : fy.hi);
}

KlValue kl_reduce(KlBuilder *b, KlOp op, KlValue x) {
    KlType t = kl_vtype(b->k, x);
    if (op != KL_OP_ADD && op != KL_OP_MAX && op != KL_OP_MIN) wrong(b, op, "not a reduction");
    if (!op_takes(op, t.scalar)) wrong(b, op, "operand type");
    if (t.lanes == 1) return x;
    KlOp r = op == KL_OP_ADD   ? KL_OP_REDUCE_ADD
             : op == KL_OP_MAX ? KL_OP_REDUCE_MAX
                               : KL_OP_REDUCE_MIN;
    KlFact f = kl_fact(b, x);
    if (op == KL_OP_ADD) kl_scalar_range(t.scalar, &f.lo, &f.hi);
    KlInstr proto = {.op = r, .type = kl_type(t.scalar, 1), .n_in = 1, .in = &x};
    return kl_pure(b, &proto, f.lo, f.hi);
}

/* ---- memory
 * ---------------------------------------------------------------------------------------------  */

static int *writes_of(KlBuilder *b, int buf) {
    while (b->scope->writes.n <= buf) kd_push(b->cx, &b->scope->writes, 0);
    return &b->scope->writes.v[buf];
}

static KlScalar access(KlBuilder *b, KlOp op, int buf, KlValue idx) {
    if (buf < 0 || buf >= b->k->bufs.n) wrong(b, op, "no such buffer");
    KlType t = kl_vtype(b->k, idx);
    bool vector = op == KL_OP_GATHER || op == KL_OP_SCATTER;
    if (t.scalar != (vector ? KL_I32 : KL_I64) || (!vector && t.lanes != 1))
        wrong(b, op, "index type");
    return b->k->bufs.v[buf].dtype;
}

/* Loads and gathers: shared within one block as long as the buffer was not written in between. */
static KlValue append_read(KlBuilder *b, KlInstr *proto) {
    struct KlScope *s = b->scope;
    int level = s->levels.n - 1, writes = 1 + *writes_of(b, (int)proto->imm);
    uint64_t hash = instr_hash(proto);
    KlInstr *same = find_shared(b, proto, hash, level, writes);
    if (same) return same->result;
    KlInstr *i = copy_instr(b, proto);
    int64_t lo, hi;
    kl_scalar_range(proto->type.scalar, &lo, &hi);
    i->n_results = 1;
    i->result = new_value(b, proto->type, i, level, lo, hi);
    kd_push(b->cx, &b->at->instrs, i);
    add_shared(b, i, hash, level, writes);
    return i->result;
}

static void append_write(KlBuilder *b, KlInstr *proto) {
    KlInstr *i = copy_instr(b, proto);
    i->result = KL_NONE;
    kd_push(b->cx, &b->at->instrs, i);
    if (b->k->bufs.v[proto->imm].access != KL_IN) ++*writes_of(b, (int)proto->imm);
}

/* Brings mask and else to `lanes`; false when no lane is on, and *mask = KL_NONE when all are. */
static bool settle_mask(KlBuilder *b, KlOp op, int lanes, KlValue *mask) {
    int64_t known;
    if (*mask == KL_NONE) return true;
    if (kl_vtype(b->k, *mask).scalar != KL_I1) wrong(b, op, "mask is not i1");
    if (kl_is_const(b, *mask, &known)) {
        *mask = KL_NONE;
        return known != 0;
    }
    if (kl_vtype(b->k, *mask).lanes == 1) *mask = kl_splat(b, lanes, *mask);
    if (kl_vtype(b->k, *mask).lanes != lanes) wrong(b, op, "mask of another lane count");
    return true;
}

KlValue kl_load(KlBuilder *b, int buf, KlValue idx, int lanes) {
    KlScalar s = access(b, KL_OP_LOAD, buf, idx);
    KlInstr proto = {
        .op = KL_OP_LOAD, .type = kl_type(s, lanes), .n_in = 1, .in = &idx, .imm = buf};
    return append_read(b, &proto);
}

void kl_prefetch(KlBuilder *b, int buf, KlValue idx) {
    KlScalar s = access(b, KL_OP_PREFETCH, buf, idx);
    KlInstr *i = copy_instr(
        b, &(KlInstr){.op = KL_OP_PREFETCH, .type = kl_type(s, 1), .n_in = 1, .in = &idx, .imm = buf});
    i->result = KL_NONE;
    kd_push(b->cx, &b->at->instrs, i);
}

static KlValue load_masked(KlBuilder *b, KlOp op, int buf, int lanes, KlValue idx, KlValue mask,
                           KlValue els) {
    KlType t = kl_type(access(b, op, buf, idx), lanes);
    bool any = settle_mask(b, op, lanes, &mask);
    if (els == KL_NONE) els = t.scalar == KL_F32 ? kl_float(b, t, 0) : kl_int(b, t, 0);
    els = kl_splat(b, lanes, els);
    if (kl_vtype(b->k, els).scalar != t.scalar) wrong(b, op, "else of another type");
    if (!any) return els;
    KlValue in[3] = {idx, mask, els};
    KlInstr proto = {.op = op, .type = t, .n_in = mask == KL_NONE ? 1 : 3, .in = in, .imm = buf};
    return append_read(b, &proto);
}

KlValue kl_load_if(KlBuilder *b, int buf, KlValue idx, KlValue mask, KlValue els) {
    return load_masked(b, KL_OP_LOAD, buf, kl_vtype(b->k, mask).lanes, idx, mask, els);
}

KlValue kl_gather(KlBuilder *b, int buf, KlValue idx, KlValue mask, KlValue els) {
    return load_masked(b, KL_OP_GATHER, buf, kl_vtype(b->k, idx).lanes, idx, mask, els);
}

static void store_masked(KlBuilder *b, KlOp op, int buf, KlValue idx, KlValue v, KlValue mask) {
    KlType t = kl_vtype(b->k, v);
    if (access(b, op, buf, idx) != t.scalar) wrong(b, op, "value of another type than the buffer");
    if (b->k->bufs.v[buf].access == KL_IN) wrong(b, op, "into an input buffer");
    if (op == KL_OP_SCATTER && t.lanes != kl_vtype(b->k, idx).lanes)
        wrong(b, op, "lanes of value and index");
    if (!settle_mask(b, op, t.lanes, &mask)) return;
    KlValue in[3] = {idx, v, mask};
    KlInstr proto = {.op = op, .type = t, .n_in = mask == KL_NONE ? 2 : 3, .in = in, .imm = buf};
    append_write(b, &proto);
}

void kl_store(KlBuilder *b, int buf, KlValue idx, KlValue v) {
    store_masked(b, KL_OP_STORE, buf, idx, v, KL_NONE);
}

void kl_store_if(KlBuilder *b, int buf, KlValue idx, KlValue v, KlValue mask) {
    store_masked(b, KL_OP_STORE, buf, idx, v, mask);
}

void kl_scatter(KlBuilder *b, int buf, KlValue idx, KlValue v, KlValue mask) {
    if (kl_vtype(b->k, v).lanes == 1) v = kl_splat(b, kl_vtype(b->k, idx).lanes, v);
    store_masked(b, KL_OP_SCATTER, buf, idx, v, mask);
}

/* ---- loops and ifs
 * ------------------------------------------------------------------------------------------  */

static void open_block(KlBuilder *b, KlBlock *block, bool guarded) {
    KlLevel l = {block, guarded};
    kd_push(b->cx, &b->scope->levels, l);
    b->at = block;
}

static void close_block(KlBuilder *b, KlBlock *outer) {
    b->scope->levels.n--;
    b->at = outer;
}

/* Bounds of the loop variable; *trips: how often the body runs, if known, else -1. */
static void loop_bounds(KlBuilder *b, KlValue lo, KlValue hi, int64_t step, int64_t *least,
                        int64_t *most, int64_t *trips) {
    KlFact fl = kl_fact(b, lo), fh = kl_fact(b, hi);
    *least = fl.lo;
    *most = fh.hi == INT64_MIN ? INT64_MIN : fh.hi - 1;
    *trips = -1;
    if (fl.lo == fl.hi && fh.lo == fh.hi && fl.lo > -(INT64_C(1) << 62) &&
        fh.lo < INT64_C(1) << 62) {
        *trips = fh.lo > fl.lo ? (fh.lo - fl.lo - 1) / step + 1 : 0;
        if (*trips > 0) *most = fl.lo + (*trips - 1) * step;
    }
    if (*most < *least) *most = *least;
}

KlFor kl_for_begin(KlBuilder *b, KlValue lo, KlValue hi, int64_t step, int n, const KlValue *init) {
    if (step <= 0) wrong(b, KL_OP_FOR, "step is not positive");
    KlType i64 = kl_type(KL_I64, 1), tl = kl_vtype(b->k, lo), th = kl_vtype(b->k, hi);
    if (memcmp(&tl, &i64, sizeof tl) || memcmp(&th, &i64, sizeof th))
        wrong(b, KL_OP_FOR, "bounds are not i64");
    int64_t least, most, trips;
    loop_bounds(b, lo, hi, step, &least, &most, &trips);
    KlInstr *i = KD_NEW(b->cx, KlInstr);
    i->op = KL_OP_FOR;
    i->imm = step;
    i->n_in = (uint16_t)(2 + n);
    i->n_results = (uint16_t)n;
    i->in = KD_NEW_ARRAY(b->cx, KlValue, 2 + n);
    i->in[0] = lo;
    i->in[1] = hi;
    for (int j = 0; j < n; j++) i->in[2 + j] = init[j];
    i->result = KL_NONE;
    i->type = n ? kl_vtype(b->k, init[0]) : kl_type(KL_VOID, 1);
    KlFor l = {i, lo, i->in + 2, b->at};
    if (trips == 1) return l; /* dissolved: no body */
    i->body = KD_NEW(b->cx, KlBlock);
    open_block(b, i->body, false);
    l.i = new_param(b, i->body, i64, least, most);
    KlValue *carried = KD_NEW_ARRAY(b->cx, KlValue, n ? n : 1);
    for (int j = 0; j < n; j++) {
        KlType t = kl_vtype(b->k, init[j]);
        int64_t rlo, rhi;
        kl_scalar_range(t.scalar, &rlo, &rhi);
        carried[j] = new_param(b, i->body, t, rlo, rhi);
    }
    l.carried = carried;
    return l;
}

static void append_yield(KlBuilder *b, KlBlock *block, const KlValue *in, int n) {
    KlValue *copy = KD_NEW_ARRAY(b->cx, KlValue, n ? n : 1);
    if (n) memcpy(copy, in, (size_t)n * sizeof *copy);
    KlInstr proto = {.op = KL_OP_YIELD,
                     .type = kl_type(KL_VOID, 1),
                     .n_in = (uint16_t)n,
                     .in = copy,
                     .result = KL_NONE};
    KlInstr *i = KD_NEW(b->cx, KlInstr);
    *i = proto;
    kd_push(b->cx, &block->instrs, i);
}

void kl_for_end(KlBuilder *b, KlFor *l, const KlValue *next, KlValue *results) {
    KlInstr *i = l->instr;
    int n = i->n_results;
    for (int j = 0; j < n; j++) {
        KlType a = kl_vtype(b->k, next[j]), c = kl_vtype(b->k, i->in[2 + j]);
        if (a.scalar != c.scalar || a.lanes != c.lanes)
            wrong(b, KL_OP_FOR, "a carried value changes its type");
    }
    if (b->at != (i->body ? i->body : l->outer)) wrong(b, KL_OP_FOR, "loops do not nest");
    if (!i->body) {
        for (int j = 0; j < n; j++) results[j] = next[j];
        return;
    }
    append_yield(b, i->body, next, n);
    close_block(b, l->outer);
    int64_t lo, hi, least, most, trips;
    loop_bounds(b, i->in[0], i->in[1], i->imm, &least, &most, &trips);
    int level = b->scope->levels.n - 1;
    for (int j = 0; j < n; j++) {
        if (trips == 0) {
            results[j] = i->in[2 + j];
            continue;
        }
        KlType t = kl_vtype(b->k, i->in[2 + j]);
        kl_scalar_range(t.scalar, &lo, &hi);
        results[j] = new_value(b, t, NULL, level, lo, hi);
        if (j == 0) i->result = results[0];
    }
    if (trips != 0) kd_push(b->cx, &b->at->instrs, i);
}

bool kl_is_open(const KlBuilder *b, const KlBlock *block) {
    for (int l = b->scope->levels.n - 1; l >= 0; l--)
        if (b->scope->levels.v[l].block == block) return true;
    return false;
}

KlIf kl_if_begin(KlBuilder *b, KlValue cond) {
    KlType t = kl_vtype(b->k, cond);
    if (t.scalar != KL_I1 || t.lanes != 1) wrong(b, KL_OP_IF, "condition is not a scalar i1");
    KlInstr *i = KD_NEW(b->cx, KlInstr);
    i->op = KL_OP_IF;
    i->n_in = 1;
    i->in = KD_NEW_ARRAY(b->cx, KlValue, 1);
    i->in[0] = cond;
    i->result = KL_NONE;
    i->type = kl_type(KL_VOID, 1);
    KlIf f = {i, b->at};
    int64_t known;
    if (kl_is_const(b, cond, &known) && known) return f; /* dissolved */
    i->body = KD_NEW(b->cx, KlBlock);
    open_block(b, i->body, true);
    return f;
}

void kl_if_end(KlBuilder *b, KlIf *f) {
    KlInstr *i = f->instr;
    if (b->at != (i->body ? i->body : f->outer)) wrong(b, KL_OP_IF, "ifs do not nest");
    if (!i->body) return;
    append_yield(b, i->body, NULL, 0);
    close_block(b, f->outer);
    if (!kl_is_const(b, i->in[0], NULL) && i->body->instrs.n > 1) kd_push(b->cx, &b->at->instrs, i);
}
