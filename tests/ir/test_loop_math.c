/* The elementary functions of loop_math.c against libm in double, over millions of floats: every function has a bound in
 * units in the last place of the result (denormals included), and exact answers at the edges. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ir/loop.h"
#include "ir/random_bits.h"

enum { LANES = 64, N = 1 << 18 };

typedef KlValue Unary(KlBuilder *b, KlValue x);

typedef struct Case {
    const char *name;
    Unary *emit;
    KlValue (*emit2)(KlBuilder *b, KlValue x, KlValue y);
    double (*want)(double);
    double bound; /* ulp */
    float lo, hi; /* where the dense samples lie; the sparse ones are all floats */
} Case;

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
static double rsqrt(double x) { return 1 / sqrt(x); }

static const Case cases[] = {
    {"exp", kl_exp, NULL, exp, 1.1, -110, 92},
    {"log", kl_log, NULL, log, 0.9, 0.25f, 4},
    {"tanh", kl_tanh, NULL, tanh, 1.3, -10, 10},
    {"sigmoid", kl_sigmoid, NULL, sigmoid, 1.9, -100, 20},
    {"softplus", kl_softplus, NULL, softplus, 1.6, -100, 20},
    {"rsqrt", kl_rsqrt, NULL, rsqrt, 1.5, 0, 4},
};

/* One kernel of one function over N elements, and its evaluation. */
static void evaluate(Unary *emit, KlValue (*emit2)(KlBuilder *, KlValue, KlValue), int lanes, int n, float *x, float *y, float *r) {
    KdContext *cx = kd_context_new();
    KdLanding landing;
    if (!KD_TRY(cx, landing)) {
        const char *message;
        kd_failure(cx, &message);
        fail_msg("%s", message);
        return;
    }
    KlModule *m = kl_module_new(cx, "t");
    KlKernel *k = kl_kernel_new(cx, "function", n / lanes);
    int bx = kl_buf(k, "x", KL_F32, n, KL_IN), by = kl_buf(k, "y", KL_F32, n, KL_IN), br = kl_buf(k, "r", KL_F32, n, KL_OUT);
    KlBuilder b = kl_builder(k);
    KlValue at = kl_op2(&b, KL_OP_MUL, kl_parallel_index(k), kl_i64(&b, lanes));
    KlValue vx = kl_load(&b, bx, at, lanes);
    kl_store(&b, br, at, emit ? emit(&b, vx) : emit2(&b, vx, kl_load(&b, by, at, lanes)));
    KlCall call = {kl_module_add(m, k), NULL};
    KlArg *args = KD_NEW_ARRAY(cx, KlArg, 3);
    for (int j = 0; j < 3; j++) {
        KlExtern e = {"e", KL_F32, n, j == 2};
        args[j].index = j;
        kd_push(cx, &m->externs, e);
    }
    call.args = args;
    kd_push(cx, &m->calls, call);
    KdStr why = {.cx = cx};
    void *ext[3] = {x, y, r};
    if (!kl_eval(m, ext, &why)) fail_msg("%s", why.s);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* |got - want| in units of the last place a float of want's size has */
static double ulps(float got, double want) {
    float nearest = (float)want;
    if (isnan(want)) return isnan(got) ? 0 : INFINITY;
    if (isinf(nearest) || isinf(got)) {
        if (got == nearest) return 0;
        if (isinf(got) == isinf(nearest)) return INFINITY;
        double limit = 0x1.fffffep127; /* one is the largest float, the other infinite: one apart */
        return fabs(fabs(isinf(got) ? (double)nearest : (double)got) - limit) < 0x1p104 ? 1 : INFINITY;
    }
    int e;
    frexp(want, &e);
    double unit = ldexp(1, (e < -125 ? -125 : e) - 24);
    return fabs((double)got - want) / unit;
}

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void measure(const Case *c, const float *x, const float *r, double *worst, float *at) {
    for (int j = 0; j < N; j++) {
        double u = ulps(r[j], c->want((double)x[j]));
        if (u > *worst) *worst = u, *at = x[j];
    }
}

static void test_bound(void **state) {
    const Case *c = *state;
    float *x = malloc(N * sizeof *x), *r = malloc(N * sizeof *r), at = 0;
    double worst = 0;
    assert_true(x && r);
    for (int round = 0; round < 2; round++) {
        for (int j = 0; j < N; j++)
            x[j] = round == 0 ? c->lo + (c->hi - c->lo) * (float)j / (float)N : from_bits(kd_random_bits(7, (uint32_t)j));
        evaluate(c->emit, NULL, LANES, N, x, x, r);
        measure(c, x, r, &worst, &at);
    }
    print_message("%-9s largest error %.3f ulp (at %a), bound %.1f\n", c->name, worst, (double)at, c->bound);
    assert_true(worst <= c->bound);
    free(x);
    free(r);
}

static void test_pow(void **state) {
    (void)state;
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y), *r = malloc(N * sizeof *r);
    double worst = 0;
    assert_true(x && y && r);
    for (int round = 0; round < 3; round++) {
        int at = 0;
        for (int j = 0; j < N; j++) {
            uint32_t u = kd_random_bits(1, (uint32_t)j), v = kd_random_bits(2, (uint32_t)j);
            x[j] = round == 0 ? from_bits(u) : 4 * kd_random_uniform(u);
            y[j] = round == 0 ? from_bits(v) : round == 1 ? 64 * kd_random_uniform(v) - 32 : rintf(40 * kd_random_uniform(v) - 20);
            if (round == 2 && u % 2) x[j] = -x[j];
        }
        evaluate(NULL, kl_pow, LANES, N, x, y, r);
        for (int j = 0; j < N; j++) {
            double e = ulps(r[j], pow((double)x[j], (double)y[j]));
            if (e > worst) worst = e, at = j;
        }
        print_message("pow       largest error %.3f ulp (at %a, %a), bound 1.6\n", worst, (double)x[at], (double)y[at]);
        assert_true(worst <= 1.6);
    }
    free(x);
    free(y);
    free(r);
}

/* Bit for bit what libm says, signs of zero included. */
static void test_edges(void **state) {
    (void)state;
    const float inf = INFINITY, nan = NAN, least = 0x1p-149f;
    static const float at[] = {0, -0.0f, 1, -1, 0.5f, -0.5f, 88.7f, 89, 128, -87, -103, -104, -200, 1e-3f, FLT_MIN, FLT_MAX, -FLT_MAX};
    float x[32] = {inf, -inf, nan, least, -least}, r[32], y[32] = {0};
    memcpy(x + 5, at, sizeof at);
    for (int c = 0; c < KD_COUNT(cases); c++) {
        for (int lanes = 1; lanes <= 16; lanes *= 4) {
            evaluate(cases[c].emit, NULL, lanes, 32, x, y, r);
            for (int j = 0; j < 32; j++) {
                double want = cases[c].want((double)x[j]);
                if (ulps(r[j], want) > cases[c].bound) fail_msg("%s(%a) = %a, not %a", cases[c].name, (double)x[j], (double)r[j], want);
                if (want == 0 && x[j] == 0 && !signbit(r[j]) != !signbit(want)) fail_msg("%s(%g): sign", cases[c].name, (double)x[j]);
            }
        }
    }
}

static void test_pow_edges(void **state) {
    (void)state;
    const float v[] = {0, -0.0f, 1, -1, 2, -2, 3, -3, 0.5f, -0.5f, 2.5f, -2.5f, 0.999f, 1.001f, INFINITY, -INFINITY, NAN,
                       0x1p-149f, FLT_MAX, -FLT_MAX, 0x1p24f, 0x1.000002p24f, 16777215, -16777215};
    enum { COUNT = KD_COUNT(v) * KD_COUNT(v), ROOM = (COUNT + 15) / 16 * 16 };
    float x[ROOM] = {0}, y[ROOM] = {0}, r[ROOM];
    for (int j = 0; j < COUNT; j++) x[j] = v[j / KD_COUNT(v)], y[j] = v[j % KD_COUNT(v)];
    evaluate(NULL, kl_pow, 16, ROOM, x, y, r);
    for (int j = 0; j < COUNT; j++) {
        double want = pow((double)x[j], (double)y[j]);
        if (ulps(r[j], want) > 2 || (want == 0 && !signbit(r[j]) != !signbit(want)))
            fail_msg("pow(%a, %a) = %a, not %a", (double)x[j], (double)y[j], (double)r[j], want);
    }
}

static KlValue random_of(KlBuilder *b, KlValue x, KlValue y) {
    return kl_bitcast(b, KL_F32, kl_random_bits(b, kl_bitcast(b, KL_I32, x), kl_bitcast(b, KL_I32, y)));
}

static void test_random_bits(void **state) {
    (void)state;
    enum { M = 4096 };
    static uint32_t key[M], counter[M], r[M];
    for (int j = 0; j < M; j++) key[j] = (uint32_t)j * UINT32_C(2654435761), counter[j] = (uint32_t)j % 64;
    evaluate(NULL, random_of, 16, M, (float *)key, (float *)counter, (float *)r);
    for (int j = 0; j < M; j++) assert_int_equal(r[j], kd_random_bits(key[j], counter[j]));
}

int main(void) {
    struct CMUnitTest tests[KD_COUNT(cases) + 4];
    int n = 0;
    for (; n < KD_COUNT(cases); n++)
        tests[n] = (struct CMUnitTest){.name = cases[n].name, .test_func = test_bound, .initial_state = (void *)&cases[n]};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_pow);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_edges);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_pow_edges);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_random_bits);
    return _cmocka_run_group_tests("loop_math", tests, (size_t)n, NULL, NULL);
}
