/* loop_fold.c: what the loop builder knows without running: bounds of integers, and identities.
 *
 * In: an operation and its operands. Out: an existing (or simpler) value with the same bits, or
 * KL_NONE.
 *
 * Index arithmetic is folded as sums of terms: a numerator is taken apart into coefficient * value,
 * and what a divisor divides leaves the division. That holds only where nothing wraps, so it is
 * done only where the known bounds of all terms together stay far inside the type. Canonical forms:
 * constants second; x - c is x + -c; an added constant moves to the end of a sum and out of
 * products ((x + c1) + y -> (x + y) + c1), where addressing modes take it for free. Floats:
 * operations on two constants (same bits as at run time) and x*1, x/1, x-0, x+(-0) only.
 */
#include "ir/loop_fold.h"

#include <math.h>
#include <string.h>

enum { MAX_TERMS = 12 };

typedef struct Terms {
    int n;
    KlValue v[MAX_TERMS];
    int64_t c[MAX_TERMS];
    int64_t k;     /* the constant */
    int64_t bound; /* of the absolute value of any partial sum; INT64_MAX: unknown */
} Terms;

static int64_t least_abs_bound(int64_t lo, int64_t hi) {
    if (lo == INT64_MIN) return INT64_MAX;
    int64_t a = lo < 0 ? -lo : lo, c = hi < 0 ? -hi : hi;
    return a > c ? a : c;
}

static void widen_bound(Terms *t, int64_t lo, int64_t hi, int64_t coeff) {
    int64_t part, sum;
    if (coeff == INT64_MIN ||
        !kd_mul_ok(least_abs_bound(lo, hi), coeff < 0 ? -coeff : coeff, &part) ||
        !kd_add_ok(part, t->bound, &sum))
        t->bound = INT64_MAX;
    else t->bound = sum;
}

static bool add_term(Terms *t, KlValue v, int64_t coeff) {
    for (int j = 0; j < t->n; j++) {
        if (t->v[j] != v) continue;
        if (!kd_add_ok(t->c[j], coeff, &t->c[j])) return false;
        if (t->c[j] == 0) {
            t->n--;
            t->v[j] = t->v[t->n];
            t->c[j] = t->c[t->n];
        }
        return true;
    }
    if (t->n == MAX_TERMS) return false;
    t->v[t->n] = v;
    t->c[t->n++] = coeff;
    return true;
}

/* Adds coeff * v to t; false when it does not fit. */
static bool collect(const KlBuilder *b, KlValue v, int64_t coeff, Terms *t, int depth) {
    int64_t c, m;
    if (kl_is_const(b, v, &c)) {
        widen_bound(t, c, c, coeff);
        return kd_mul_ok(c, coeff, &m) && kd_add_ok(t->k, m, &t->k);
    }
    const KlInstr *d = kl_def(b, v);
    if (d && depth < 16) {
        if (d->op == KL_OP_ADD)
            return collect(b, d->in[0], coeff, t, depth + 1) &&
                   collect(b, d->in[1], coeff, t, depth + 1);
        if (d->op == KL_OP_SUB && coeff != INT64_MIN)
            return collect(b, d->in[0], coeff, t, depth + 1) &&
                   collect(b, d->in[1], -coeff, t, depth + 1);
        if (d->op == KL_OP_MUL && kl_is_const(b, d->in[1], &c) && kd_mul_ok(c, coeff, &m))
            return m == 0 || collect(b, d->in[0], m, t, depth + 1);
    }
    KlFact f = kl_fact(b, v);
    widen_bound(t, f.lo, f.hi, coeff);
    return add_term(t, v, coeff);
}

static bool never_wraps(const Terms *t, KlScalar s) {
    return t->bound <= (s == KL_I32 ? INT64_C(0x7fffffff) : INT64_C(1) << 62);
}

static void sum_range(const KlBuilder *b, const Terms *t, int64_t *lo, int64_t *hi) {
    *lo = *hi = t->k; /* the caller knows that nothing wraps */
    for (int j = 0; j < t->n; j++) {
        KlFact f = kl_fact(b, t->v[j]);
        *lo += t->c[j] * (t->c[j] > 0 ? f.lo : f.hi);
        *hi += t->c[j] * (t->c[j] > 0 ? f.hi : f.lo);
    }
}

static KlValue build_sum(KlBuilder *b, const Terms *t, KlType type) {
    KlValue sum = KL_NONE;
    for (int j = 0; j < t->n; j++) {
        KlValue part = kl_op2(b, KL_OP_MUL, t->v[j], kl_int(b, type, t->c[j]));
        sum = sum == KL_NONE ? part : kl_op2(b, KL_OP_ADD, sum, part);
    }
    if (sum == KL_NONE) return kl_int(b, type, t->k);
    return t->k ? kl_op2(b, KL_OP_ADD, sum, kl_int(b, type, t->k)) : sum;
}

static int64_t floor_div(int64_t a, int64_t c) {
    return a / c - (a % c < 0 ? 1 : 0);
}

static int64_t gcd(int64_t a, int64_t c) {
    if (a < 0) a = -a;
    while (c) {
        int64_t r = a % c;
        a = c;
        c = r;
    }
    return a;
}

/* t = whole * g + rest, coefficient by coefficient. */
static void split(const Terms *t, int64_t g, Terms *whole, Terms *rest) {
    *whole = (Terms){.k = floor_div(t->k, g)};
    *rest = (Terms){.k = t->k - whole->k * g};
    for (int j = 0; j < t->n; j++) {
        if (t->c[j] % g == 0) add_term(whole, t->v[j], t->c[j] / g);
        else add_term(rest, t->v[j], t->c[j]);
    }
}

/* x / c or x % c with c > 1 and x known not to be negative. */
static KlValue fold_division(KlBuilder *b, bool rem, KlType type, KlValue x, int64_t c) {
    Terms t = {0}, whole, rest;
    int64_t lo, hi;
    if (!collect(b, x, 1, &t, 0) || !never_wraps(&t, type.scalar)) return KL_NONE;
    split(&t, c, &whole, &rest);
    sum_range(b, &rest, &lo, &hi);
    int64_t q = floor_div(lo, c);
    if (q == floor_div(hi, c)) { /* the rest adds a known quotient */
        whole.k += q;
        rest.k -= q * c;
        return build_sum(b, rem ? &rest : &whole, type);
    }
    if (whole.n && lo >= 0) {
        KlValue r = build_sum(b, &rest, type);
        KlValue part = kl_op2(b, rem ? KL_OP_REM : KL_OP_DIV, r, kl_int(b, type, c));
        return rem ? part : kl_op2(b, KL_OP_ADD, build_sum(b, &whole, type), part);
    }
    for (int j = 0; j < t.n; j++) { /* (X*g + r) / (c'*g) with 0 <= r < g: X / c' */
        int64_t g = gcd(t.c[j], c);
        if (g <= 1 || g == c) continue;
        split(&t, g, &whole, &rest);
        sum_range(b, &rest, &lo, &hi);
        if (lo < 0 || hi >= g) continue;
        KlValue big = build_sum(b, &whole, type);
        if (!rem) return kl_op2(b, KL_OP_DIV, big, kl_int(b, type, c / g));
        big = kl_op2(b, KL_OP_MUL, kl_op2(b, KL_OP_REM, big, kl_int(b, type, c / g)),
                     kl_int(b, type, g));
        return kl_op2(b, KL_OP_ADD, big, build_sum(b, &rest, type));
    }
    return KL_NONE;
}

/* The value v's operand x if v is x op c with constant c. */
static bool by_const(const KlBuilder *b, KlValue v, KlOp op, KlValue *x, int64_t *c) {
    const KlInstr *d = kl_def(b, v);
    if (!d || d->op != op || !kl_is_const(b, d->in[1], c)) return false;
    *x = d->in[0];
    return true;
}

/* In a sum: k*(x % c) + k*c*(x / c) -> k*x, where x / c may itself be (y / w) / c folded into y /
 * (w*c). */
static bool join_quotients(const KlBuilder *b, Terms *t) {
    for (int r = 0; r < t->n; r++) {
        KlValue x, y, z;
        int64_t c, w = 1, d, want;
        if (!by_const(b, t->v[r], KL_OP_REM, &x, &c) || c <= 0 || !kd_mul_ok(t->c[r], c, &want))
            continue;
        if (!by_const(b, x, KL_OP_DIV, &y, &w) || w <= 0) y = x, w = 1;
        for (int q = 0; q < t->n; q++) {
            if (t->c[q] != want || !by_const(b, t->v[q], KL_OP_DIV, &z, &d)) continue;
            int64_t product;
            if (!(z == x && d == c) && !(z == y && kd_mul_ok(w, c, &product) && d == product))
                continue;
            int64_t coeff = t->c[r];
            int last = r > q ? r : q, first = r > q ? q : r;
            t->n--;
            t->v[last] = t->v[t->n];
            t->c[last] = t->c[t->n];
            t->n--;
            t->v[first] = t->v[t->n];
            t->c[first] = t->c[t->n];
            return add_term(t, x, coeff);
        }
    }
    return false;
}

static KlValue fold_quotients(KlBuilder *b, KlType type, KlValue x, KlValue y) {
    Terms t = {0};
    if (!collect(b, x, 1, &t, 0) || !collect(b, y, 1, &t, 0)) return KL_NONE;
    if (!join_quotients(b, &t)) return KL_NONE;
    while (join_quotients(b, &t)) {
    }
    return build_sum(b, &t, type);
}

/* ---- integers, by operation
 * ------------------------------------------------------------------------  */

static KlValue fold_add(KlBuilder *b, KlType t, KlValue x, KlValue y) {
    KlValue u;
    int64_t c, d;
    if (kl_is_const(b, x, &c) && !kl_is_const(b, y, NULL)) return kl_op2(b, KL_OP_ADD, y, x);
    if (kl_is_const(b, y, &d)) {
        if (d == 0) return x;
        if (by_const(b, x, KL_OP_ADD, &u, &c))
            return kl_op2(b, KL_OP_ADD, u, kl_int(b, t, (int64_t)((uint64_t)c + (uint64_t)d)));
        return KL_NONE;
    }
    if (by_const(b, x, KL_OP_ADD, &u, &c))
        return kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_ADD, u, y), kl_int(b, t, c));
    if (by_const(b, y, KL_OP_ADD, &u, &c))
        return kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_ADD, x, u), kl_int(b, t, c));
    return fold_quotients(b, t, x, y);
}

static KlValue fold_sub(KlBuilder *b, KlType t, KlValue x, KlValue y) {
    int64_t c;
    KlValue u;
    if (x == y) return kl_int(b, t, 0);
    if (kl_is_const(b, y, &c))
        return kl_op2(b, KL_OP_ADD, x, kl_int(b, t, (int64_t)(0 - (uint64_t)c)));
    if (by_const(b, x, KL_OP_ADD, &u, &c))
        return kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_SUB, u, y), kl_int(b, t, c));
    if (by_const(b, y, KL_OP_ADD, &u, &c))
        return kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_SUB, x, u),
                      kl_int(b, t, (int64_t)(0 - (uint64_t)c)));
    Terms s = {0};
    if (collect(b, x, 1, &s, 0) && collect(b, y, -1, &s, 0) && s.n <= 1 &&
        (s.n == 0 || s.c[0] == 1))
        return build_sum(b, &s, t);
    return KL_NONE;
}

static KlValue fold_mul(KlBuilder *b, KlType t, KlValue x, KlValue y) {
    KlValue u;
    int64_t c, d;
    if (kl_is_const(b, x, &c) && !kl_is_const(b, y, NULL)) return kl_op2(b, KL_OP_MUL, y, x);
    if (!kl_is_const(b, y, &d)) return KL_NONE;
    if (d == 0) return y;
    if (d == 1) return x;
    if (by_const(b, x, KL_OP_MUL, &u, &c))
        return kl_op2(b, KL_OP_MUL, u, kl_int(b, t, (int64_t)((uint64_t)c * (uint64_t)d)));
    if (by_const(b, x, KL_OP_ADD, &u, &c))
        return kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, u, y),
                      kl_int(b, t, (int64_t)((uint64_t)c * (uint64_t)d)));
    return KL_NONE;
}

static KlValue fold_div_rem(KlBuilder *b, bool rem, KlType t, KlValue x, KlValue y) {
    KlValue u;
    int64_t c, d, product;
    if (!kl_is_const(b, y, &d)) return KL_NONE;
    if (d == 1) return rem ? kl_int(b, t, 0) : x;
    if (d <= 0) return KL_NONE;
    KlFact f = kl_fact(b, x);
    if (f.lo > -d && f.hi < d) return rem ? x : kl_int(b, t, 0);
    if (!rem && by_const(b, x, KL_OP_DIV, &u, &c) && c > 0 && kd_mul_ok(c, d, &product) &&
        kl_wrap(t.scalar, product) == product)
        return kl_op2(b, KL_OP_DIV, u, kl_int(b, t, product));
    if (rem && by_const(b, x, KL_OP_REM, &u, &c) && c > 0 && c % d == 0)
        return kl_op2(b, KL_OP_REM, u, y);
    if (f.lo >= 0) return fold_division(b, rem, t, x, d);
    Terms s = {0}, whole, rest; /* any sign, but divisible: (x*c) / c */
    if (!collect(b, x, 1, &s, 0) || !never_wraps(&s, t.scalar)) return KL_NONE;
    split(&s, d, &whole, &rest);
    if (rest.n || rest.k) return KL_NONE;
    return rem ? kl_int(b, t, 0) : build_sum(b, &whole, t);
}

static KlValue fold_min_max(KlBuilder *b, KlOp op, KlValue x, KlValue y) {
    KlFact fx = kl_fact(b, x), fy = kl_fact(b, y);
    KlValue u;
    int64_t c, d;
    if (x == y) return x;
    if (fx.hi <= fy.lo) return op == KL_OP_MIN ? x : y;
    if (fy.hi <= fx.lo) return op == KL_OP_MIN ? y : x;
    if (kl_is_const(b, y, &d) && by_const(b, x, op, &u, &c))
        return (op == KL_OP_MIN) == (c < d) ? x : kl_op2(b, op, u, y);
    return KL_NONE;
}

static KlValue fold_bits(KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y) {
    int64_t c;
    int64_t ones = kl_wrap(t.scalar, -1);
    if (x == y && (op == KL_OP_AND || op == KL_OP_OR)) return x;
    if (x == y && op == KL_OP_XOR) return kl_int(b, t, 0);
    if (kl_is_const(b, x, &c) && op != KL_OP_SHL && op != KL_OP_SHR) {
        KlValue z = x;
        x = y;
        y = z;
    }
    if (!kl_is_const(b, y, &c)) return KL_NONE;
    if (op == KL_OP_AND) return c == 0 ? y : c == ones ? x : KL_NONE;
    if (op == KL_OP_OR) return c == 0 ? x : c == ones ? y : KL_NONE;
    return c == 0 ? x : KL_NONE; /* xor, shifts */
}

static bool eval_int(KlOp op, KlScalar s, int64_t x, int64_t y, int64_t *r) {
    uint64_t ux = (uint64_t)x, uy = (uint64_t)y;
    int width = s == KL_I32 ? 32 : s == KL_I64 ? 64 : 1;
    bool shift = op == KL_OP_SHL || op == KL_OP_SHR;
    if (shift && (y < 0 || y >= width)) return false;
    if ((op == KL_OP_DIV || op == KL_OP_REM) && (y == 0 || y == -1)) {
        if (y == 0) return false;
        *r = op == KL_OP_DIV ? kl_wrap(s, (int64_t)(0 - ux)) : 0;
        return true;
    }
    uint64_t v = 0;
    if (op == KL_OP_ADD) v = ux + uy;
    else if (op == KL_OP_SUB) v = ux - uy;
    else if (op == KL_OP_MUL) v = ux * uy;
    else if (op == KL_OP_DIV) v = (uint64_t)(x / y);
    else if (op == KL_OP_REM) v = (uint64_t)(x % y);
    else if (op == KL_OP_MIN) v = x < y ? ux : uy;
    else if (op == KL_OP_MAX) v = x > y ? ux : uy;
    else if (op == KL_OP_AND) v = ux & uy;
    else if (op == KL_OP_OR) v = ux | uy;
    else if (op == KL_OP_XOR) v = ux ^ uy;
    else if (op == KL_OP_SHL) v = ux << uy;
    else if (op == KL_OP_SHR) v = (s == KL_I32 ? (uint64_t)(uint32_t)ux : ux) >> uy;
    else return false;
    *r = kl_wrap(s, (int64_t)v);
    return true;
}

KlValue kl_fold_int2(KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y) {
    int64_t cx, cy, r;
    if (kl_is_const(b, x, &cx) && kl_is_const(b, y, &cy) &&
        eval_int(op, (KlScalar)t.scalar, cx, cy, &r))
        return kl_int(b, t, r);
    if (op == KL_OP_ADD) return fold_add(b, t, x, y);
    if (op == KL_OP_SUB) return fold_sub(b, t, x, y);
    if (op == KL_OP_MUL) return fold_mul(b, t, x, y);
    if (op == KL_OP_DIV || op == KL_OP_REM) return fold_div_rem(b, op == KL_OP_REM, t, x, y);
    if (op == KL_OP_MIN || op == KL_OP_MAX) return fold_min_max(b, op, x, y);
    return fold_bits(b, op, t, x, y);
}

/* ---- bounds
 * -----------------------------------------------------------------------------------------  */

static int64_t low4(const int64_t *v) {
    int64_t m = v[0];
    for (int j = 1; j < 4; j++) m = v[j] < m ? v[j] : m;
    return m;
}

static int64_t high4(const int64_t *v) {
    int64_t m = v[0];
    for (int j = 1; j < 4; j++) m = v[j] > m ? v[j] : m;
    return m;
}

/* Bounds of the exact result; false when they are not known. */
static bool exact_range(KlOp op, KlFact x, KlFact y, int64_t *lo, int64_t *hi) {
    int64_t p[4];
    if (op == KL_OP_ADD) return kd_add_ok(x.lo, y.lo, lo) && kd_add_ok(x.hi, y.hi, hi);
    if (op == KL_OP_SUB)
        return y.lo != INT64_MIN && y.hi != INT64_MIN && kd_add_ok(x.lo, -y.hi, lo) &&
               kd_add_ok(x.hi, -y.lo, hi);
    if (op == KL_OP_SHL && y.lo == y.hi && y.lo >= 0 && y.lo < 62) {
        y.lo = y.hi = INT64_C(1) << y.lo;
        op = KL_OP_MUL;
    }
    if (op == KL_OP_MUL) {
        if (!kd_mul_ok(x.lo, y.lo, &p[0]) || !kd_mul_ok(x.lo, y.hi, &p[1]) ||
            !kd_mul_ok(x.hi, y.lo, &p[2]) || !kd_mul_ok(x.hi, y.hi, &p[3]))
            return false;
        *lo = low4(p);
        *hi = high4(p);
        return true;
    }
    if (op == KL_OP_DIV && y.lo > 0) {
        p[0] = x.lo / y.lo, p[1] = x.lo / y.hi, p[2] = x.hi / y.lo, p[3] = x.hi / y.hi;
        *lo = low4(p);
        *hi = high4(p);
        return true;
    }
    if (op == KL_OP_REM && y.lo > 0) {
        *lo = x.lo >= 0 ? 0 : x.lo > -(y.hi - 1) ? x.lo : -(y.hi - 1);
        *hi = x.hi <= 0 ? 0 : x.hi < y.hi - 1 ? x.hi : y.hi - 1;
        return true;
    }
    if (op == KL_OP_MIN || op == KL_OP_MAX) {
        bool min = op == KL_OP_MIN;
        *lo = (x.lo < y.lo) == min ? x.lo : y.lo;
        *hi = (x.hi < y.hi) == min ? x.hi : y.hi;
        return true;
    }
    if (op == KL_OP_AND && (x.lo >= 0 || y.lo >= 0)) {
        *lo = 0;
        *hi = x.lo < 0 ? y.hi : y.lo < 0 ? x.hi : x.hi < y.hi ? x.hi : y.hi;
        return true;
    }
    if ((op == KL_OP_OR || op == KL_OP_XOR) && x.lo >= 0 && y.lo >= 0) {
        uint64_t m = (uint64_t)x.hi | (uint64_t)y.hi;
        for (int s = 1; s < 64; s *= 2) m |= m >> s;
        *lo = 0;
        *hi = (int64_t)m;
        return true;
    }
    if (op == KL_OP_SHR && y.lo == y.hi && y.lo >= 0 && y.lo < 63 && x.lo >= 0) {
        *lo = x.lo >> y.lo;
        *hi = x.hi >> y.lo;
        return true;
    }
    return false;
}

void kl_range_op2(const KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y, int64_t *lo,
                  int64_t *hi) {
    int64_t l, h;
    kl_scalar_range((KlScalar)t.scalar, lo, hi);
    if (t.scalar == KL_F32 || !exact_range(op, kl_fact(b, x), kl_fact(b, y), &l, &h)) {
        if (t.scalar == KL_I32 &&
            op == KL_OP_SHR) { /* logical: not negative once something is shifted out */
            KlFact f = kl_fact(b, y);
            if (f.lo == f.hi && f.lo > 0 && f.lo < 32) *lo = 0, *hi = (int64_t)(UINT32_MAX >> f.lo);
        }
        return;
    }
    if (l < *lo || h > *hi) return; /* wraps */
    *lo = l;
    *hi = h;
}

/* ---- comparisons, floats, one operand
 * ------------------------------------------------------------------  */

KlValue kl_fold_cmp(KlBuilder *b, KlPred p, KlType t, KlValue x, KlValue y) {
    float a, c;
    if (kl_is_float_const(b, x, &a) && kl_is_float_const(b, y, &c)) {
        bool r = p == KL_EQ   ? a == c
                 : p == KL_NE ? a != c
                 : p == KL_LT ? a < c
                 : p == KL_LE ? a <= c
                 : p == KL_GT ? a > c
                              : a >= c;
        return kl_int(b, t, r);
    }
    if (!kl_is_integer((KlScalar)kl_vtype(b->k, x).scalar)) return KL_NONE;
    KlFact fx = kl_fact(b, x), fy = kl_fact(b, y);
    if (p == KL_GT || p == KL_GE) {
        KlFact f = fx;
        fx = fy;
        fy = f;
    }
    bool strict = p == KL_LT || p == KL_GT;
    if (p == KL_EQ || p == KL_NE) {
        if (x == y || (fx.lo == fx.hi && fy.lo == fy.hi && fx.lo == fy.lo))
            return kl_int(b, t, p == KL_EQ);
        if (fx.hi < fy.lo || fy.hi < fx.lo) return kl_int(b, t, p == KL_NE);
        return KL_NONE;
    }
    if (x == y) return kl_int(b, t, !strict);
    if (strict ? fx.hi < fy.lo : fx.hi <= fy.lo) return kl_int(b, t, 1);
    if (strict ? fx.lo >= fy.hi : fx.lo > fy.hi) return kl_int(b, t, 0);
    return KL_NONE;
}

KlValue kl_fold_float2(KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y) {
    float cx, cy, r = NAN;
    bool x_const = kl_is_float_const(b, x, &cx), y_const = kl_is_float_const(b, y, &cy);
    if (y_const && cy == 1 && (op == KL_OP_MUL || op == KL_OP_DIV)) return x;
    if (x_const && cx == 1 && op == KL_OP_MUL) return y;
    if (y_const && cy == 0 && (op == KL_OP_ADD ? signbit(cy) : op == KL_OP_SUB && !signbit(cy)))
        return x;
    if (x_const && cx == 0 && signbit(cx) && op == KL_OP_ADD) return y;
    if (!x_const || !y_const) return KL_NONE;
    if (op == KL_OP_ADD) r = cx + cy;
    else if (op == KL_OP_SUB) r = cx - cy;
    else if (op == KL_OP_MUL) r = cx * cy;
    else if (op == KL_OP_DIV) r = cx / cy;
    else if (op == KL_OP_MIN) r = cx < cy ? cx : cy;
    else if (op == KL_OP_MAX) r = cx > cy ? cx : cy;
    return isnan(r) ? KL_NONE : kl_float(b, t, (double)r);
}

KlValue kl_fold_op1(KlBuilder *b, KlOp op, KlType t, KlValue x) {
    const KlInstr *d = kl_def(b, x);
    int64_t c;
    float f;
    if (d && d->op == op && op == KL_OP_NEG) return d->in[0];
    if (d && d->op == op && (op == KL_OP_ABS || op == KL_OP_FLOOR || op == KL_OP_ROUND)) return x;
    if (kl_is_float_const(b, x, &f)) {
        float r = op == KL_OP_NEG     ? -f
                  : op == KL_OP_ABS   ? fabsf(f)
                  : op == KL_OP_SQRT  ? sqrtf(f)
                  : op == KL_OP_FLOOR ? floorf(f)
                                      : rintf(f);
        return isnan(r) ? KL_NONE : kl_float(b, t, (double)r);
    }
    if (!kl_is_integer((KlScalar)t.scalar)) return KL_NONE;
    if (kl_is_const(b, x, &c))
        return kl_int(b, t, op == KL_OP_ABS && c >= 0 ? c : (int64_t)(0 - (uint64_t)c));
    if (op == KL_OP_ABS && kl_fact(b, x).lo >= 0) return x;
    return KL_NONE;
}
