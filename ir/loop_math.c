/* loop_math.c: elementary functions written as loop IR, so that every back end gives the same bits.
 *
 * In: f32 values (i32 for random bits) of any lane count. Out: the function's value, branch-free,
 * with libm's answers for infinities, NaN, zeros and denormals. Largest errors in ulp, measured by
 * tests/ir/test_loop_math.c against libm in double: exp 1.0, log 0.8, tanh 1.3, sigmoid 1.9,
 * softplus 1.5, rsqrt 1.5, pow 1.6.
 *
 * Sources: the polynomials of exp, log and tanh are those of Cephes (Moshier, expf.c, logf.c,
 * tanhf.c), evaluated with fma; exp reduces by n*ln 2 in two parts (Cody and Waite) and rounds to n
 * by adding 1.5*2^23; pow follows Juffa's scheme: log x as an unevaluated sum of two floats through
 * atanh((m-1)/(m+1)), then exp with a first-order correction.
 */
#include "ir/loop.h"

#include <math.h>

static KlValue constant(KlBuilder *b, KlValue like, double c) {
    return kl_constant_like(b, like, c);
}

static KlValue add(KlBuilder *b, KlValue x, KlValue y) {
    return kl_op2(b, KL_OP_ADD, x, y);
}

static KlValue sub(KlBuilder *b, KlValue x, KlValue y) {
    return kl_op2(b, KL_OP_SUB, x, y);
}

static KlValue mul(KlBuilder *b, KlValue x, KlValue y) {
    return kl_op2(b, KL_OP_MUL, x, y);
}

/* c[0] x^(n-1) + ... + c[n-1] */
static KlValue polynomial(KlBuilder *b, KlValue x, int n, const double *c) {
    KlValue p = constant(b, x, c[0]);
    for (int j = 1; j < n; j++) p = kl_fma(b, p, x, constant(b, x, c[j]));
    return p;
}

static KlValue bits_and(KlBuilder *b, KlValue bits, int64_t mask) {
    return kl_op2(b, KL_OP_AND, bits, constant(b, bits, (double)mask));
}

/* |magnitude| with the sign of `sign` */
static KlValue with_sign(KlBuilder *b, KlValue magnitude, KlValue sign) {
    KlValue s = bits_and(b, kl_bitcast(b, KL_I32, sign), INT32_MIN);
    return kl_bitcast(b, KL_F32, kl_op2(b, KL_OP_OR, kl_bitcast(b, KL_I32, magnitude), s));
}

/* ---- exp
 * ------------------------------------------------------------------------------------------  */

KlValue kl_exp(KlBuilder *b, KlValue x) {
    static const double c[] = {1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3,
                               4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1};
    const double magic = 0x1.8p23;
    /* Outside of this range the result is 0 or inf anyway. The constant first: NaN stays. */
    x = kl_op2(b, KL_OP_MIN, constant(b, x, 89), x);
    x = kl_op2(b, KL_OP_MAX, constant(b, x, -104), x);
    KlValue t = kl_fma(b, x, constant(b, x, 0x1.715476p+0), constant(b, x, magic));
    KlValue n = sub(b, t, constant(b, x, magic));
    KlValue r = kl_fma(b, n, constant(b, x, -0.693359375), x);
    r = kl_fma(b, n, constant(b, x, 2.12194440e-4), r);
    KlValue p =
        add(b, kl_fma(b, polynomial(b, r, KD_COUNT(c), c), mul(b, r, r), r), constant(b, r, 1));
    /* times 2^n in two steps, because n may lie outside the exponents: n + 254 = h + rest, each a
     * biased exponent */
    KlValue m = kl_bitcast(b, KL_I32, t);
    m = sub(b, m, constant(b, m, (double)(0x4b400000 - 254)));
    KlValue h = kl_op2(b, KL_OP_SHR, m, constant(b, m, 1)), shift = constant(b, m, 23);
    KlValue s1 = kl_bitcast(b, KL_F32, kl_op2(b, KL_OP_SHL, h, shift));
    KlValue s2 = kl_bitcast(b, KL_F32, kl_op2(b, KL_OP_SHL, sub(b, m, h), shift));
    return mul(b, mul(b, p, s1), s2);
}

/* ---- log
 * ------------------------------------------------------------------------------------------  */

/* log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1] */
static KlValue log_tail(KlBuilder *b, KlValue f) {
    static const double c[] = {7.0376836292e-2,  -1.1514610310e-1, 1.1676998740e-1,
                               -1.2420140846e-1, 1.4249322787e-1,  -1.6668057665e-1,
                               2.0000714765e-1,  -2.4999993993e-1, 3.3333331174e-1};
    KlValue z = mul(b, f, f);
    KlValue p = mul(b, mul(b, polynomial(b, f, KD_COUNT(c), c), f), z);
    return kl_fma(b, z, constant(b, f, -0.5), p);
}

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)), for finite x > 0. e as f32. */
static KlValue split_float(KlBuilder *b, KlValue x, KlValue *e) {
    KlValue tiny = kl_cmp(b, KL_LT, x, constant(b, x, 0x1p-126));
    x = kl_select(b, tiny, mul(b, x, constant(b, x, 0x1p25)), x);
    KlValue bits = kl_bitcast(b, KL_I32, x);
    bits = add(b, bits, constant(b, bits, (double)(0x3f800000 - 0x3f3504f3)));
    KlValue exponent = kl_op2(b, KL_OP_SHR, bits, constant(b, bits, 23));
    KlValue bias = kl_select(b, tiny, constant(b, x, 127 + 25), constant(b, x, 127));
    *e = sub(b, kl_cvt(b, KL_F32, exponent), bias);
    KlValue m = bits_and(b, bits, 0x7fffff);
    return kl_bitcast(b, KL_F32, add(b, m, constant(b, m, (double)0x3f3504f3)));
}

KlValue kl_log(KlBuilder *b, KlValue x) {
    KlValue e, m = split_float(b, x, &e);
    KlValue f = sub(b, m, constant(b, m, 1));
    KlValue y = kl_fma(b, e, constant(b, x, -2.12194440e-4), log_tail(b, f));
    y = kl_fma(b, e, constant(b, x, 0.693359375), add(b, f, y));
    KlValue zero = constant(b, x, 0), inf = constant(b, x, (double)INFINITY);
    y = kl_select(b, kl_cmp(b, KL_LT, x, inf), y, x);
    KlValue outside = kl_select(b, kl_cmp(b, KL_EQ, x, zero), constant(b, x, -(double)INFINITY),
                                constant(b, x, (double)NAN));
    return kl_select(b, kl_cmp(b, KL_GT, x, zero), y, outside);
}

/* log(1 + e) for e in [0, 1], relatively exact for small e */
static KlValue log1p_unit(KlBuilder *b, KlValue e) {
    KlValue big = kl_cmp(b, KL_GT, e, constant(b, e, 0.41421356));
    KlValue half = mul(b, sub(b, e, constant(b, e, 1)), constant(b, e, 0.5)); /* (1 + e) / 2 - 1 */
    KlValue f = kl_select(b, big, half, e);
    KlValue tail = add(b, log_tail(b, f),
                       kl_select(b, big, constant(b, e, -2.12194440e-4), constant(b, e, 0)));
    return add(b, add(b, f, tail),
               kl_select(b, big, constant(b, e, 0.693359375), constant(b, e, 0)));
}

/* ---- saturating functions
 * ----------------------------------------------------------------------------  */

KlValue kl_tanh(KlBuilder *b, KlValue x) {
    static const double c[] = {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2,
                               1.33314422036e-1, -3.33332819422e-1};
    KlValue a = kl_op1(b, KL_OP_ABS, x), one = constant(b, x, 1), two = constant(b, x, 2);
    KlValue z = mul(b, a, a);
    KlValue small = kl_fma(b, mul(b, polynomial(b, z, KD_COUNT(c), c), z), a, a);
    KlValue e = add(b, kl_exp(b, add(b, a, a)), one);
    KlValue large = sub(b, one, kl_op2(b, KL_OP_DIV, two, e));
    return with_sign(b, kl_select(b, kl_cmp(b, KL_LT, a, constant(b, x, 0.625)), small, large), x);
}

KlValue kl_sigmoid(KlBuilder *b, KlValue x) {
    KlValue one = constant(b, x, 1);
    KlValue e = kl_exp(b, kl_op1(b, KL_OP_NEG, kl_op1(b, KL_OP_ABS, x)));
    KlValue top = kl_select(b, kl_cmp(b, KL_GE, x, constant(b, x, 0)), one, e);
    KlValue s = add(b, one, e), q = kl_op2(b, KL_OP_DIV, top, s);
    return kl_fma(b, q, sub(b, sub(b, s, one), e), q); /* gives back what 1 + e was rounded by */
}

KlValue kl_softplus(KlBuilder *b, KlValue x) {
    KlValue e = kl_exp(b, kl_op1(b, KL_OP_NEG, kl_op1(b, KL_OP_ABS, x)));
    return add(b, kl_op2(b, KL_OP_MAX, x, constant(b, x, 0)), log1p_unit(b, e));
}

KlValue kl_rsqrt(KlBuilder *b, KlValue x) {
    return kl_op2(b, KL_OP_DIV, constant(b, x, 1), kl_op1(b, KL_OP_SQRT, x));
}

/* ---- pow
 * ------------------------------------------------------------------------------------------------
 */

/* log(x) = *hi + *lo for finite x > 0 */
static void log_two_floats(KlBuilder *b, KlValue x, KlValue *hi, KlValue *lo) {
    static const double c[] = {0x1.08c000p-3, 0x1.22cd9cp-3, 0x1.99a162p-3, 0x1.555550p-2};
    KlValue e, m = split_float(b, x, &e), one = constant(b, x, 1), two = constant(b, x, 2);
    KlValue d = sub(b, m, one), r = kl_op2(b, KL_OP_DIV, one, add(b, m, one));
    KlValue q = mul(b, d, r), nq = kl_op1(b, KL_OP_NEG, q); /* q + ql = (m - 1) / (m + 1) */
    KlValue ql = mul(b, kl_fma(b, nq, d, kl_fma(b, nq, two, d)), r);
    KlValue s = mul(b, q, q);
    KlValue p = polynomial(b, s, KD_COUNT(c), c);
    KlValue sl =
        kl_fma(b, q, add(b, ql, ql), kl_fma(b, q, q, kl_op1(b, KL_OP_NEG, s))); /* s + sl = q^2 */
    KlValue w = mul(b, s, q);                                                   /* w + wl = q^3 */
    KlValue wl = kl_fma(b, s, ql, kl_fma(b, sl, q, kl_fma(b, s, q, kl_op1(b, KL_OP_NEG, w))));
    KlValue tail = kl_fma(b, p, w, kl_fma(b, p, wl, ql));
    KlValue head = add(b, q, q), ln2 = constant(b, x, 6.93147182e-1);
    KlValue t = kl_fma(b, ln2, e, head);
    KlValue back = kl_fma(b, kl_op1(b, KL_OP_NEG, ln2), e, t);
    tail = kl_fma(b, constant(b, x, -1.90465421e-9), e, kl_fma(b, two, tail, sub(b, head, back)));
    *hi = add(b, t, tail);
    *lo = add(b, sub(b, t, *hi), tail);
}

/* |x|^y for finite x != 0 and any y */
static KlValue pow_magnitude(KlBuilder *b, KlValue a, KlValue y) {
    KlValue hi, lo, zero = constant(b, a, 0);
    log_two_floats(b, a, &hi, &lo);
    KlValue p = mul(b, hi, y);
    KlValue pl = kl_fma(b, lo, y, kl_fma(b, hi, y, kl_op1(b, KL_OP_NEG, p)));
    KlValue inside = kl_cmp(b, KL_LT, kl_op1(b, KL_OP_ABS, p), constant(b, a, 200));
    pl = kl_select(b, inside, pl, zero); /* beyond, p alone decides, and pl may be inf - inf */
    KlValue e = kl_exp(b, p);
    KlValue finite = kl_cmp(b, KL_LT, e, constant(b, a, (double)INFINITY));
    return kl_select(b, finite, kl_fma(b, e, pl, e), e);
}

KlValue kl_pow(KlBuilder *b, KlValue x, KlValue y) {
    int lanes = kl_vtype(b->k, x).lanes > kl_vtype(b->k, y).lanes ? kl_vtype(b->k, x).lanes
                                                                  : kl_vtype(b->k, y).lanes;
    x = kl_splat(b, lanes, x);
    y = kl_splat(b, lanes, y);
    KlValue zero = constant(b, x, 0), one = constant(b, x, 1),
            inf = constant(b, x, (double)INFINITY);
    if (y == one) return x;
    if (y == constant(b, x, 2)) return mul(b, x, x);
    if (y == constant(b, x, -1)) return kl_op2(b, KL_OP_DIV, one, x);
    KlValue a = kl_op1(b, KL_OP_ABS, x);
    KlValue r = pow_magnitude(b, a, y);
    /* the ends: 0 and inf, and 1 to any power */
    KlValue is_zero = kl_cmp(b, KL_EQ, a, zero), falls = kl_cmp(b, KL_LT, y, zero);
    KlValue ends = kl_op2(b, KL_OP_OR, is_zero, kl_cmp(b, KL_EQ, a, inf));
    KlValue end = kl_select(b, kl_op2(b, KL_OP_XOR, is_zero, falls), zero, inf);
    r = kl_select(b, ends, end, r);
    KlValue y_nan = kl_cmp(b, KL_NE, y, y), x_nan = kl_cmp(b, KL_NE, x, x);
    r = kl_select(b, kl_cmp(b, KL_EQ, a, one), one, r);
    /* the sign: odd integral powers keep x's, a negative x has no others */
    KlValue whole = kl_cmp(b, KL_EQ, kl_op1(b, KL_OP_FLOOR, y), y);
    KlValue half = mul(b, y, constant(b, y, 0.5));
    KlValue odd = kl_op2(b, KL_OP_AND, whole, kl_cmp(b, KL_NE, kl_op1(b, KL_OP_FLOOR, half), half));
    r = kl_select(b, odd, with_sign(b, r, x), r);
    KlValue minus = kl_op2(b, KL_OP_AND, kl_cmp(b, KL_LT, x, zero), kl_cmp(b, KL_LT, a, inf));
    KlValue broken = kl_op2(b, KL_OP_AND, minus, kl_cmp(b, KL_NE, kl_op1(b, KL_OP_FLOOR, y), y));
    broken = kl_op2(b, KL_OP_OR, broken, kl_op2(b, KL_OP_OR, x_nan, y_nan));
    r = kl_select(b, broken, constant(b, x, (double)NAN), r);
    KlValue trivial = kl_op2(b, KL_OP_OR, kl_cmp(b, KL_EQ, y, zero), kl_cmp(b, KL_EQ, x, one));
    return kl_select(b, trivial, one, r);
}

/* ---- random bits: ir/random_bits.h, instruction by instruction
 * ----------------------------------------------  */

static KlValue mix_step(KlBuilder *b, KlValue x, int shift) {
    return kl_op2(b, KL_OP_XOR, x, kl_op2(b, KL_OP_SHR, x, constant(b, x, shift)));
}

static KlValue mix(KlBuilder *b, KlValue x) {
    x = mul(b, mix_step(b, x, 16), constant(b, x, (double)0x7feb352d));
    x = mul(b, mix_step(b, x, 15), constant(b, x, (double)(0x846ca68b - 0x100000000)));
    return mix_step(b, x, 16);
}

KlValue kl_random_bits(KlBuilder *b, KlValue key, KlValue counter) {
    KlValue c = add(b, counter, constant(b, counter, (double)(0x9e3779b9 - 0x100000000)));
    return mix(b, kl_op2(b, KL_OP_XOR, mix(b, c), key));
}
