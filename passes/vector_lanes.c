/* vector_lanes.c: one scalar instruction of a loop body, widened.
 *
 * In: the forms of its operands (vectorize.h). Out: instructions in the new kernel, and the form of
 * its result, as near to UNIFORM as can be proven: sums of patterns, and their quotients and
 * remainders by constants where the loop variable's residue is known, stay patterns. Loads of
 * patterns become one or two contiguous loads and a shuffle that read nothing outside of what the
 * lanes need; everything else is a gather. Lanes outside the mask never touch memory, and never
 * divide by zero.
 */
#include "passes/vectorize.h"

#include <string.h>

enum { MAX_LANES = 64 };

/* ---- forms --------------------------------------------------------------------------------------
 */

KlLanes kl_uniform(KlValue v) {
    return (KlLanes){.form = KL_UNIFORM, .v = v};
}

static int64_t gcd(int64_t a, int64_t c) {
    a = a < 0 ? -a : a;
    c = c < 0 ? -c : c;
    while (c) {
        int64_t r = a % c;
        a = c;
        c = r;
    }
    return a;
}

/* Least offset and the unit in which the offsets above it are counted. */
static int64_t pattern_unit(int w, const int64_t *off, int64_t *min, int64_t *most) {
    int64_t unit = 0;
    *min = *most = off[0];
    for (int l = 1; l < w; l++) {
        *min = off[l] < *min ? off[l] : *min;
        *most = off[l] > *most ? off[l] : *most;
    }
    for (int l = 0; l < w; l++) unit = gcd(unit, off[l] - *min);
    return unit;
}

/* v + off[lane], if a pattern can hold it: offsets that two iotas, scaled, can make. */
static bool make_pattern(KlWiden *e, KlValue v, const int64_t *off, KlLanes *r) {
    int64_t min, most, unit = pattern_unit(e->w, off, &min, &most);
    if (min < INT32_MIN / 4 || most > INT32_MAX / 4) return false;
    KlValue first = kl_vtype(e->b.k, v).scalar == KL_I64 ? kl_i64(&e->b, off[0])
                                                         : kl_i32(&e->b, (int32_t)off[0]);
    first = kl_op2(&e->b, KL_OP_ADD, v, first);
    if (unit == 0) {
        *r = kl_uniform(first);
        return true;
    }
    if ((most - min) / unit >= 2 * e->w) return false;
    int32_t *o = KD_NEW_ARRAY(e->cx, int32_t, e->w);
    for (int l = 0; l < e->w; l++) o[l] = (int32_t)(off[l] - off[0]);
    *r = (KlLanes){.form = KL_PATTERN, .v = first, .off = o};
    return true;
}

KlLanes kl_progression(KlWiden *e, KlValue v, int64_t stride) {
    int64_t off[MAX_LANES] = {0};
    KlLanes r;
    for (int l = 0; l < e->w; l++) off[l] = l * stride;
    if (make_pattern(e, v, off, &r)) return r;
    KlValue step = kl_op2(&e->b, KL_OP_MUL, kl_iota(&e->b, KL_I64, e->w), kl_i64(&e->b, stride));
    return (KlLanes){.form = KL_VECTOR, .wide = true, .v = kl_op2(&e->b, KL_OP_ADD, step, v)};
}

/* The offsets as a vector of that type. */
static KlValue offset_vector(KlWiden *e, KlScalar s, const int32_t *off) {
    int64_t wide[MAX_LANES] = {0}, min, most;
    int sel[MAX_LANES];
    for (int l = 0; l < e->w; l++) wide[l] = off[l];
    int64_t unit = pattern_unit(e->w, wide, &min, &most);
    for (int l = 0; l < e->w; l++) sel[l] = (int)((wide[l] - min) / unit);
    KlValue iota = kl_iota(&e->b, s, e->w);
    KlValue width = s == KL_I64 ? kl_i64(&e->b, e->w) : kl_i32(&e->b, e->w);
    KlValue steps = kl_shuffle(&e->b, iota, kl_op2(&e->b, KL_OP_ADD, iota, width), e->w, sel);
    KlValue u = s == KL_I64 ? kl_i64(&e->b, unit) : kl_i32(&e->b, (int32_t)unit);
    KlValue m = s == KL_I64 ? kl_i64(&e->b, min) : kl_i32(&e->b, (int32_t)min);
    return kl_op2(&e->b, KL_OP_ADD, kl_op2(&e->b, KL_OP_MUL, steps, u), m);
}

/* Bounds over all lanes. */
static void lane_range(const KlWiden *e, KlLanes x, int64_t *lo, int64_t *hi) {
    kl_range(&e->b, x.v, lo, hi);
    int64_t min = 0, most = 0;
    for (int l = 0; x.form == KL_PATTERN && l < e->w; l++) {
        min = x.off[l] < min ? x.off[l] : min;
        most = x.off[l] > most ? x.off[l] : most;
    }
    if (!kd_add_ok(*lo, min, lo) || !kd_add_ok(*hi, most, hi)) *lo = INT64_MIN, *hi = INT64_MAX;
}

/* An integer (i64 or i32) as i32 lanes with the same values, or KL_NONE if they may not fit. */
static KlValue narrow(KlWiden *e, KlLanes x) {
    int64_t lo, hi;
    KlType t = kl_vtype(e->b.k, x.v);
    if (x.form == KL_VECTOR) return x.wide ? KL_NONE : x.v;
    lane_range(e, x, &lo, &hi);
    if (t.scalar == KL_I64 && (lo < INT32_MIN || hi > INT32_MAX)) return KL_NONE;
    KlValue v = kl_splat(&e->b, e->w, kl_cvt(&e->b, KL_I32, x.v));
    return x.form == KL_PATTERN ? kl_op2(&e->b, KL_OP_ADD, v, offset_vector(e, KL_I32, x.off)) : v;
}

/* As a vector of i64 lanes. */
static KlValue widen(KlWiden *e, KlLanes x) {
    if (x.form == KL_VECTOR) return kl_cvt(&e->b, KL_I64, x.v);
    KlValue v = kl_splat(&e->b, e->w, x.v);
    return x.form == KL_PATTERN ? kl_op2(&e->b, KL_OP_ADD, v, offset_vector(e, KL_I64, x.off)) : v;
}

static bool is_i64(const KlWiden *e, KlValue old) {
    return kl_vtype(e->old, old).scalar == KL_I64;
}

KlValue kl_widen_vector(KlWiden *e, KlValue old) {
    KlLanes x = e->lanes[old];
    if (is_i64(e, old)) return widen(e, x);
    if (x.form == KL_PATTERN) return narrow(e, x);
    return kl_splat(&e->b, e->w, x.v);
}

/* ---- residues
 * ------------------------------------------------------------------------------------  */

/* x = r modulo m; m == 0: x is r. */
typedef struct Residue {
    int64_t m, r;
} Residue;

static Residue residue(int64_t m, int64_t r) {
    if (m == 0 || m > INT32_MAX || r > INT32_MAX || r < -INT32_MAX)
        return m == 0 ? (Residue){0, r} : (Residue){1, 0};
    return (Residue){m, (r % m + m) % m};
}

/* Of an old integer in lane 0. Only what index maps need. */
static Residue residue_of(const KlWiden *e, KlValue old, int depth) {
    const KlInstr *d = e->def[old];
    const Residue unknown = {1, 0};
    if (!d || depth > 12) return unknown;
    if (d->op == KL_OP_CONST) return (Residue){0, d->imm};
    if (d->op == KL_OP_FOR) {
        if (d->body->params.v[0] != old) return unknown;
        Residue lo = residue_of(e, d->in[0], depth + 1);
        int64_t step = d->imm * (d == e->loop ? e->w : 1);
        return residue(gcd(lo.m, step), lo.r);
    }
    if (d->op == KL_OP_SHL || (d->op != KL_OP_ADD && d->op != KL_OP_SUB && d->op != KL_OP_MUL &&
                               d->op != KL_OP_DIV && d->op != KL_OP_REM))
        return unknown;
    Residue x = residue_of(e, d->in[0], depth + 1), y = residue_of(e, d->in[1], depth + 1);
    int64_t m, r, lo, hi;
    if (d->op == KL_OP_ADD) return kd_add_ok(x.r, y.r, &r) ? residue(gcd(x.m, y.m), r) : unknown;
    if (d->op == KL_OP_SUB)
        return y.r != INT64_MIN && kd_add_ok(x.r, -y.r, &r) ? residue(gcd(x.m, y.m), r) : unknown;
    if (y.m != 0) return unknown;
    if (d->op == KL_OP_MUL) {
        if (!kd_mul_ok(x.m, y.r, &m) || !kd_mul_ok(x.r, y.r, &r)) return unknown;
        return residue(m < 0 ? -m : m, r);
    }
    lane_range(e, e->lanes[d->in[0]], &lo,
               &hi); /* quotients and remainders, of what is not negative */
    if (lo < 0 || y.r <= 0) return unknown;
    if (d->op == KL_OP_REM)
        return x.m % y.r == 0 && x.m ? (Residue){0, x.r % y.r} : residue(gcd(x.m, y.r), x.r);
    return x.m && x.m % y.r == 0 ? residue(x.m / y.r, x.r / y.r) : unknown;
}

/* ---- integer arithmetic on patterns
 * ---------------------------------------------------------------  */

static bool divide_pattern(KlWiden *e, const KlInstr *i, KlLanes x, int64_t d, KlLanes *r) {
    int64_t lo, hi, off[MAX_LANES], most = 0;
    bool rem = i->op == KL_OP_REM;
    lane_range(e, x, &lo, &hi);
    if (lo < 0 || d <= 0 || (i->type.scalar == KL_I32 && hi > INT32_MAX)) return false;
    Residue s = residue_of(e, i->in[0], 0);
    KlType t = kl_vtype(e->b.k, x.v);
    KlValue divisor = t.scalar == KL_I64 ? kl_i64(&e->b, d) : kl_i32(&e->b, (int32_t)d);
    KlValue first = kl_op2(&e->b, (KlOp)i->op, x.v, divisor);
    if (s.m % d == 0 && s.r >= 0) { /* lane 0's remainder is known, so every lane's is */
        for (int l = 0; l < e->w; l++) {
            int64_t n = s.r % d + x.off[l];
            if (n < 0) return false;
            off[l] = rem ? n % d - s.r % d : n / d;
        }
        if (rem)
            first = t.scalar == KL_I64 ? kl_i64(&e->b, s.r % d) : kl_i32(&e->b, (int32_t)(s.r % d));
        return make_pattern(e, first, off, r);
    }
    for (int l = 0; l < e->w; l++) {
        if (x.off[l] < 0) return false;
        most = x.off[l] > most ? x.off[l] : most;
        off[l] = rem ? x.off[l] : 0;
    }
    int64_t block = 1; /* are all lanes in one block of a size that divides d? */
    while (block <= most) block *= 2;
    if (d % block || s.m == 0 || s.m % block || s.r % block + most >= block) return false;
    return make_pattern(e, first, off, r);
}

/* A pattern from patterns and uniform values; false: it takes vectors. */
static bool pattern_op(KlWiden *e, const KlInstr *i, KlLanes *r) {
    KlType t = i->type;
    if ((t.scalar != KL_I64 && t.scalar != KL_I32) || i->n_in == 0) return false;
    KlLanes x = e->lanes[i->in[0]], y = i->n_in > 1 ? e->lanes[i->in[1]] : x;
    if (x.form == KL_VECTOR || y.form == KL_VECTOR) return false;
    int64_t off[MAX_LANES], c, lo, hi;
    if (i->op == KL_OP_ADD || i->op == KL_OP_SUB) {
        for (int l = 0; l < e->w; l++) {
            int64_t a = x.form == KL_PATTERN ? x.off[l] : 0,
                    d = y.form == KL_PATTERN ? y.off[l] : 0;
            off[l] = i->op == KL_OP_ADD ? a + d : a - d;
        }
        return make_pattern(e, kl_op2(&e->b, (KlOp)i->op, x.v, y.v), off, r);
    }
    if (i->op == KL_OP_CVT) {
        KlScalar from = (KlScalar)kl_vtype(e->old, i->in[0]).scalar;
        if (from != KL_I32 && from != KL_I64) return false;
        lane_range(e, x, &lo, &hi);
        if (t.scalar == KL_I64 && (lo < INT32_MIN || hi > INT32_MAX)) return false;
        for (int l = 0; l < e->w; l++) off[l] = x.off[l];
        return make_pattern(e, kl_cvt(&e->b, (KlScalar)t.scalar, x.v), off, r);
    }
    if (i->op == KL_OP_MUL && x.form == KL_UNIFORM) {
        KlLanes z = x;
        x = y;
        y = z;
    }
    if (x.form != KL_PATTERN || y.form != KL_UNIFORM || !kl_is_const(&e->b, y.v, &c)) return false;
    if (i->op == KL_OP_DIV || i->op == KL_OP_REM) return divide_pattern(e, i, x, c, r);
    if (i->op == KL_OP_SHL && c >= 0 && c < 20) c = INT64_C(1) << c;
    else if (i->op != KL_OP_MUL || c > INT32_MAX || c < -INT32_MAX) return false;
    for (int l = 0; l < e->w; l++) off[l] = x.off[l] * c;
    return make_pattern(e, kl_op2(&e->b, (KlOp)i->op, x.v, y.v), off, r);
}

/* ---- vectors
 * -----------------------------------------------------------------------------------------  */

/* An operand that could trap in a lane that takes no part becomes `safe` there. */
static KlValue guard(KlWiden *e, KlOp op, KlValue y) {
    int64_t lo, hi;
    KlType t = kl_vtype(e->b.k, y);
    bool divides = (op == KL_OP_DIV || op == KL_OP_REM) && t.scalar != KL_F32,
         shifts = op == KL_OP_SHL || op == KL_OP_SHR;
    if (e->mask == KL_NONE || (!divides && !shifts)) return y;
    kl_range(&e->b, y, &lo, &hi);
    if (divides ? lo > 0 : lo >= 0 && hi < (t.scalar == KL_I64 ? 64 : 32)) return y;
    return kl_select(&e->b, e->mask, y, kl_constant_like(&e->b, y, divides ? 1 : 0));
}

/* Does the operation on i32 lanes give what the one on i64 would? */
static bool same_in_i32(KlWiden *e, KlOp op, const KlValue *in, int n_in) {
    int64_t x[2], y[2] = {0, 0}, lo = INT64_MAX, hi = INT64_MIN;
    kl_range(&e->b, in[0], &x[0], &x[1]);
    if (n_in > 1) kl_range(&e->b, in[1], &y[0], &y[1]);
    if (op == KL_OP_DIV || op == KL_OP_REM) return y[0] > 0;
    if (op == KL_OP_SHR) return x[0] >= 0;
    if (op == KL_OP_SHL && (y[0] < 0 || y[1] > 31)) return false;
    if (op != KL_OP_ADD && op != KL_OP_SUB && op != KL_OP_MUL && op != KL_OP_SHL &&
        op != KL_OP_NEG && op != KL_OP_ABS)
        return true;
    for (int j = 0; j < 4; j++) {
        int64_t a = x[j & 1], c = y[j >> 1], r = a + c;
        if (op == KL_OP_SUB) r = a - c;
        if (op == KL_OP_MUL) r = a * c;
        if (op == KL_OP_SHL) r = a * (INT64_C(1) << c);
        if (op == KL_OP_NEG || op == KL_OP_ABS) r = -a;
        lo = r < lo ? r : lo;
        hi = r > hi ? r : hi;
    }
    return lo >= INT32_MIN && hi <= INT32_MAX;
}

/* Arithmetic, comparison or selection with i64 operands: in i32 lanes if that is the same. */
static KlLanes wide_op(KlWiden *e, const KlInstr *i) {
    KlValue in[3] = {KL_NONE, KL_NONE, KL_NONE};
    bool fits = true;
    for (int pass = 0; pass < 2; pass++) {
        for (int j = 0; j < i->n_in; j++) {
            if (!is_i64(e, i->in[j])) in[j] = kl_widen_vector(e, i->in[j]);
            else in[j] = pass == 0 ? narrow(e, e->lanes[i->in[j]]) : widen(e, e->lanes[i->in[j]]);
            fits = fits && in[j] != KL_NONE;
        }
        if (pass == 0 && !fits) continue;
        if (i->n_in == 2) in[1] = guard(e, (KlOp)i->op, in[1]);
        if (pass == 0 && !same_in_i32(e, (KlOp)i->op, in, i->n_in)) continue;
        KlValue r = kl_rebuild(&e->b, i, in, i->type);
        return (KlLanes){.form = KL_VECTOR, .wide = pass == 1 && i->type.scalar == KL_I64, .v = r};
    }
    return (KlLanes){0}; /* not reached: the second pass always answers */
}

static KlLanes convert(KlWiden *e, const KlInstr *i) {
    KlLanes x = e->lanes[i->in[0]], r = {.form = KL_VECTOR};
    KlScalar from = (KlScalar)kl_vtype(e->old, i->in[0]).scalar, to = (KlScalar)i->type.scalar;
    if (from == KL_I64) {
        KlValue v = narrow(e, x);
        r.v = kl_cvt(&e->b, to, v == KL_NONE ? widen(e, x) : v);
    } else if (to == KL_I64 && from != KL_F32) {
        r.v =
            kl_cvt(&e->b, KL_I32, kl_widen_vector(e, i->in[0])); /* the same values, in i32 lanes */
    } else {
        r.v = kl_cvt(&e->b, to, kl_widen_vector(e, i->in[0]));
        r.wide = to == KL_I64;
    }
    return r;
}

/* ---- memory
 * --------------------------------------------------------------------------------------------  */

static bool contiguous(const KlWiden *e, KlLanes x) {
    if (x.form != KL_PATTERN) return false;
    for (int l = 0; l < e->w; l++)
        if (x.off[l] != l) return false;
    return true;
}

/* i32 indices for gathers and scatters. Where lanes take part they are inside a buffer, so they
 * fit. */
static KlValue index_vector(KlWiden *e, KlLanes x) {
    KlValue v = narrow(e, x);
    return v != KL_NONE ? v : kl_cvt(&e->b, KL_I32, widen(e, x));
}

/* Both masks; KL_NONE stands for all lanes. */
static KlValue both(KlWiden *e, KlValue a, KlValue c) {
    if (a == KL_NONE) return c;
    return c == KL_NONE ? a : kl_op2(&e->b, KL_OP_AND, a, c);
}

/* All lanes of a pattern, from contiguous loads inside the span of the lanes. */
static KlValue load_pattern(KlWiden *e, int buf, KlLanes x) {
    int64_t off[MAX_LANES] = {0}, min, most;
    int sel[MAX_LANES], n = e->w;
    for (int l = 0; l < e->w; l++) off[l] = x.off[l];
    pattern_unit(e->w, off, &min, &most);
    int64_t span = most - min + 1;
    if (span > 2 * e->w) return kl_gather(&e->b, buf, index_vector(e, x), KL_NONE, KL_NONE);
    while (n > span) n /= 2;
    KlValue low = kl_load(&e->b, buf, kl_op2(&e->b, KL_OP_ADD, x.v, kl_i64(&e->b, min)), n);
    if (contiguous(e, x)) return low;
    KlValue high = span > n ? kl_load(&e->b, buf,
                                      kl_op2(&e->b, KL_OP_ADD, x.v, kl_i64(&e->b, most - n + 1)), n)
                            : low;
    for (int l = 0; l < e->w; l++)
        sel[l] = (int)(off[l] - min < n ? off[l] - min : off[l] - (most - n + 1) + n);
    return kl_shuffle(&e->b, low, high, e->w, sel);
}

static void widen_load(KlWiden *e, const KlInstr *i) {
    KlLanes x = e->lanes[i->in[0]], *r = &e->lanes[i->result];
    int buf = (int)i->imm;
    bool masked = i->n_in > 1;
    if (e->ready[i->result]) return;
    bool same_mask =
        !masked || (e->lanes[i->in[1]].form == KL_UNIFORM && e->lanes[i->in[2]].form == KL_UNIFORM);
    if (x.form == KL_UNIFORM && same_mask && !e->guarded) {
        KlValue in[3] = {x.v, masked ? e->lanes[i->in[1]].v : KL_NONE,
                         masked ? e->lanes[i->in[2]].v : KL_NONE};
        *r = kl_uniform(kl_rebuild(&e->b, i, in, i->type));
        return;
    }
    KlValue els = masked ? kl_widen_vector(e, i->in[2]) : KL_NONE, v;
    KlValue mask = both(e, masked ? kl_widen_vector(e, i->in[1]) : KL_NONE, e->mask);
    int64_t on;
    if (mask != KL_NONE && kl_is_const(&e->b, mask, &on) && on) mask = KL_NONE;
    if (mask == KL_NONE && x.form == KL_PATTERN) v = load_pattern(e, buf, x);
    else if (mask != KL_NONE && contiguous(e, x)) v = kl_load_if(&e->b, buf, x.v, mask, els);
    else v = kl_gather(&e->b, buf, index_vector(e, x), mask, els);
    *r = (KlLanes){.form = KL_VECTOR, .v = v};
}

static void widen_store(KlWiden *e, const KlInstr *i) {
    KlLanes x = e->lanes[i->in[0]];
    int buf = (int)i->imm;
    KlValue v = kl_widen_vector(e, i->in[1]);
    KlValue mask = both(e, i->n_in > 2 ? kl_widen_vector(e, i->in[2]) : KL_NONE, e->mask);
    if (!contiguous(e, x)) kl_scatter(&e->b, buf, index_vector(e, x), v, mask);
    else if (mask == KL_NONE) kl_store(&e->b, buf, x.v, v);
    else kl_store_if(&e->b, buf, x.v, v, mask);
}

/* ---- one instruction
 * ---------------------------------------------------------------------------------------  */

void kl_widen_instr(KlWiden *e, const KlInstr *i) {
    bool memory = i->op == KL_OP_LOAD || i->op == KL_OP_STORE;
    bool uniform = true, wide = i->type.scalar == KL_I64 && i->n_results;
    for (int j = 0; j < i->n_in; j++) {
        uniform = uniform && e->lanes[i->in[j]].form == KL_UNIFORM;
        wide = wide || (!memory && is_i64(e, i->in[j]));
    }
    if (e->w > 1 && memory) {
        if (i->op == KL_OP_LOAD) widen_load(e, i);
        else widen_store(e, i);
        return;
    }
    if (uniform) {
        KlValue in[3] = {KL_NONE, KL_NONE, KL_NONE};
        for (int j = 0; j < i->n_in; j++) in[j] = e->lanes[i->in[j]].v;
        KlValue v = kl_rebuild(&e->b, i, in, i->type);
        if (i->n_results) e->lanes[i->result] = kl_uniform(v);
        return;
    }
    KlLanes r;
    if (pattern_op(e, i, &r)) {
        e->lanes[i->result] = r;
    } else if (i->op == KL_OP_CVT) {
        e->lanes[i->result] = convert(e, i);
    } else if (wide) {
        e->lanes[i->result] = wide_op(e, i);
    } else {
        KlValue in[3] = {KL_NONE, KL_NONE, KL_NONE};
        for (int j = 0; j < i->n_in; j++) in[j] = kl_widen_vector(e, i->in[j]);
        if (i->n_in == 2) in[1] = guard(e, (KlOp)i->op, in[1]);
        e->lanes[i->result] = (KlLanes){.form = KL_VECTOR, .v = kl_rebuild(&e->b, i, in, i->type)};
    }
}
