/* The loop evaluator: what each instruction means at its edges, the order of folds and scatters, control, the plan, and
 * that every access outside of its buffer is stopped. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ir/loop.h"

/* A kernel over x: f32[16], n: i32[16], u: u8[16] (in) and y: f32[16], z: i32[16] (out), called once. */
#define KERNEL(range, lines)                                                                                           \
    "module @m\nkernel @k range " range " {\n  buf x: f32[16] in\n  buf n: i32[16] in\n  buf u: u8[16] in\n  buf y: f32[16] out\n"    \
    "  buf z: i32[16] out\n  scratch t: f32[16]\n  body(%0) {\n" lines "  }\n}\n"                                                       \
    "extern \"x\": f32[16]\nextern \"n\": i32[16]\nextern \"u\": u8[16]\nextern \"y\": f32[16] written\nextern \"z\": i32[16] written\n" \
    "call @k(extern 0 + 0, extern 1 + 0, extern 2 + 0, extern 3 + 0, extern 4 + 0)\n"

#define INF INFINITY

typedef struct Case {
    const char *name, *text;
    float x[4];
    int32_t n[4];
    const char *stopped; /* NULL: runs */
    float y[4];
    int32_t z[4];
} Case;

static const Case cases[] = {
    {"min and max take the second when unordered",
     KERNEL("1", "%1 = load f32x4 x[0]\n%2 = min f32x4 %1, 1\n%3 = max f32x4 1, %1\nstore f32x4 y[0], %2\n%4 = bitcast i32x4 f32x4 %3\nstore i32x4 z[0], %4\n"),
     {0.5f, 2, NAN, -INF}, {0}, NULL, {0.5f, 1, 1, -INF}, {0x3f800000, 0x40000000, 0x7fc00000, 0x3f800000}},
    {"float to int truncates and saturates",
     KERNEL("1", "%1 = load f32x4 x[0]\n%2 = cvt i32x4 f32x4 %1\nstore i32x4 z[0], %2\n"), {-1.9f, 3e9f, -INF, NAN}, {0}, NULL, {0},
     {-1, INT32_MAX, INT32_MIN, 0}},
    {"int to float rounds", KERNEL("1", "%1 = load i32x4 n[0]\n%2 = cvt f32x4 i32x4 %1\nstore f32x4 y[0], %2\n"), {0},
     {16777217, 16777219, -1, INT32_MIN}, NULL, {16777216, 16777220, -1, -2147483648.0f}, {0}},
    {"u8 is extended with zeros", KERNEL("1", "%1 = load u8x4 u[0]\n%2 = cvt i32x4 u8x4 %1\nstore i32x4 z[0], %2\n"), {0}, {0}, NULL, {0},
     {200, 201, 202, 203}},
    {"fma rounds once",
     KERNEL("1", "%1 = load f32x4 x[0]\n%2 = fma f32x4 %1, %1, -1\n%3 = mul f32x4 %1, %1\n%4 = sub f32x4 %3, 1\n%5 = sub f32x4 %2, %4\nstore f32x4 y[0], %5\n"),
     {1 + 0x1p-13f, 1, 2, 1 - 0x1p-13f}, {0}, NULL, {0x1p-26f, 0, 0, 0x1p-26f}, {0}},
    {"neg flips the sign of zero", KERNEL("1", "%1 = load f32x4 x[0]\n%2 = neg f32x4 %1\n%3 = bitcast i32x4 f32x4 %2\nstore i32x4 z[0], %3\n"),
     {0, -0.0f, 1, -INF}, {0}, NULL, {0}, {INT32_MIN, 0, (int32_t)0xbf800000, 0x7f800000}},
    {"round is half to even", KERNEL("1", "%1 = load f32x4 x[0]\n%2 = round f32x4 %1\nstore f32x4 y[0], %2\n"), {0.5f, 1.5f, 2.5f, -0.5f}, {0},
     NULL, {0, 2, 2, -0.0f}, {0}},
    {"integers wrap, division truncates",
     KERNEL("1", "%1 = load i32 n[0]\n%2 = mul i32 %1, 2\nstore i32 z[0], %2\n%3 = load i32 n[1]\n%4 = div i32 %3, 2\nstore i32 z[1], %4\n"
                 "%5 = rem i32 %3, 2\nstore i32 z[2], %5\n%6 = load i32 n[2]\n%7 = div i32 %6, -1\nstore i32 z[3], %7\n"),
     {0}, {INT32_MAX, -7, INT32_MIN, 0}, NULL, {0}, {-2, -3, -1, INT32_MIN}},
    {"shr is logical, shl drops", KERNEL("1", "%1 = load i32x4 n[0]\n%2 = shr i32x4 %1, 28\n%3 = shl i32x4 %2, 30\n%4 = or i32x4 %2, %3\nstore i32x4 z[0], %4\n"),
     {0}, {-1, 0x10000000, 0, INT32_MIN}, NULL, {0}, {(int32_t)0xc000000f, (int32_t)0x40000001, 0, 8}},
    {"reduce folds halves first", KERNEL("1", "%1 = load f32x4 x[0]\n%2 = reduce_add f32x4 %1\nstore f32 y[0], %2\n"), {1e8f, 1, -1e8f, 1}, {0}, NULL,
     {2, 0, 0, 0}, {0}},
    {"comparisons with NaN", KERNEL("1", "%1 = load f32x4 x[0]\n%2 = cmp ne f32x4 %1, %1\n%3 = cvt i32x4 i1x4 %2\nstore i32x4 z[0], %3\n"), {1, NAN, INF, 0},
     {0}, NULL, {0}, {0, 1, 0, 0}},
    {"masked lanes touch nothing",
     KERNEL("1", "%1 = load i32x4 n[0]\n%2 = cmp gt i32x4 %1, 0\n%3 = load f32x4 x[14] if %2 else 5\nstore f32x4 y[14], %3 if %2\n%4 = extract f32x4 %3, 3\nstore f32 y[0], %4\n"),
     {0}, {1, 1, 0, 0}, NULL, {5, 0, 0, 0}, {0}},
    {"scatter: the later lane wins", KERNEL("1", "%1 = load i32x4 n[0]\nscatter i32x4 z[%1], %1\n%2 = iota i32x4\nscatter i32x4 z[%1], %2\n"), {0}, {2, 0, 2, 0},
     NULL, {0}, {3, 0, 2, 0}},
    {"gather", KERNEL("1", "%1 = load i32x4 n[0]\n%2 = gather f32x4 x[%1]\nstore f32x4 y[0], %2\n"), {10, 11, 12, 13}, {3, 0, 3, 1}, NULL, {13, 10, 13, 11}, {0}},
    {"shuffle of two", KERNEL("1", "%1 = load f32x4 x[0]\n%2 = neg f32x4 %1\n%3 = shuffle f32x4 f32x4 %1, %2 [3, 4, 0, 7]\nstore f32x4 y[0], %3\n"), {1, 2, 3, 4},
     {0}, NULL, {4, -1, 1, -4}, {0}},
    {"carried values move all at once",
     KERNEL("1", "%1, %2 = for %3 = 0 .. 3 step 1 carry(%4: f32 = 1, %5: f32 = 2) {\nyield %5, %4\n}\nstore f32 y[0], %1\nstore f32 y[1], %2\n"), {0}, {0}, NULL,
     {2, 1, 0, 0}, {0}},
    {"a loop that does not run", KERNEL("1", "%1 = for %2 = 3 .. 3 step 2 carry(%3: f32 = 7) {\nyield 8\n}\nstore f32 y[0], %1\n"), {0}, {0}, NULL, {7, 0, 0, 0}, {0}},
    {"steps", KERNEL("1", "%1 = for %2 = 1 .. 8 step 3 carry(%3: i64 = 0) {\n%4 = add i64 %3, %2\nyield %4\n}\n%5 = cvt i32 i64 %1\nstore i32 z[0], %5\n"), {0}, {0}, NULL, {0},
     {12, 0, 0, 0}},
    {"the parallel index and if", KERNEL("4", "%1 = cmp ge i64 %0, 2\nif %1 {\n%2 = cvt i32 i64 %0\nstore i32 z[%0], %2\n}\n"), {0}, {0}, NULL, {0}, {0, 0, 2, 3}},
    {"scratch does not last", KERNEL("2", "%1 = load f32 t[0]\nstore f32 y[%0], %1\nstore f32 t[0], 1\n"), {0}, {0}, NULL, {NAN, NAN, 0, 0}, {0}},
    {"a load outside", KERNEL("1", "%1 = load f32x4 x[13]\nstore f32x4 y[0], %1\n"), {0}, {0}, "load: element 16 of buffer x, which has 16", {0}, {0}},
    {"a load before", KERNEL("4", "%1 = sub i64 2, %0\n%2 = load f32 x[%1]\nstore f32 y[0], %2\n"), {0}, {0}, "parallel index 3: load: element -1", {0}, {0}},
    {"a store outside", KERNEL("1", "store f32 y[16], 1\n"), {0}, {0}, "store: element 16 of buffer y", {0}, {0}},
    {"a gather outside", KERNEL("1", "%1 = load i32x4 n[0]\n%2 = gather f32x4 x[%1]\nstore f32x4 y[0], %2\n"), {0}, {0, -1, 0, 0}, "gather: element -1", {0}, {0}},
    {"a masked store outside", KERNEL("1", "store f32x4 y[14], 1 if true\n"), {0}, {0}, "store: element 16", {0}, {0}},
    {"division by zero", KERNEL("1", "%1 = load i32x4 n[0]\n%2 = div i32x4 %1, %1\nstore i32x4 z[0], %2\n"), {0}, {1, 2, 0, 3}, "division by zero in lane 2", {0}, {0}},
    {"a shift too far", KERNEL("1", "%1 = load i32 n[0]\n%2 = shl i32 1, %1\nstore i32 z[0], %2\n"), {0}, {32, 0, 0, 0}, "shift by 32", {0}, {0}},
};

static void test_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    KdLanding landing;
    if (!KD_TRY(cx, landing)) {
        const char *message;
        kd_failure(cx, &message);
        fail_msg("%s", message);
    }
    KlModule *m = kl_parse_module(cx, "t.kl", c->text, strlen(c->text));
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    float x[16] = {0}, y[16] = {0};
    int32_t n[16] = {0}, z[16] = {0};
    uint8_t u[16];
    memcpy(x, c->x, sizeof c->x);
    memcpy(n, c->n, sizeof c->n);
    for (int j = 0; j < 16; j++) u[j] = (uint8_t)(200 + j);
    void *ext[5] = {x, n, u, y, z};
    KdStr why = {.cx = cx};
    bool ok = kl_eval(m, ext, &why);
    if (ok != !c->stopped || (!ok && !strstr(why.s, c->stopped))) fail_msg("expected \"%s\", got \"%s\"", c->stopped ? c->stopped : "", ok ? "" : why.s);
    for (int j = 0; ok && j < 4; j++) {
        bool same = isnan(c->y[j]) ? isnan(y[j]) : y[j] == c->y[j] && !signbit(y[j]) == !signbit(c->y[j]);
        if (!same || z[j] != c->z[j]) fail_msg("element %d: y %a, want %a; z %d, want %d", j, (double)y[j], (double)c->y[j], z[j], c->z[j]);
    }
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* Two calls with the arena between them, and constants from the pool. */
static void test_plan(void **state) {
    (void)state;
    static const char text[] =
        "module @m\nkernel @k range 4 {\n  buf a: f32[4] in\n  buf b: f32[4] in\n  buf y: f32[4] out\n  body(%0) {\n"
        "%1 = load f32 a[%0]\n%2 = load f32 b[%0]\n%3 = add f32 %1, %2\nstore f32 y[%0], %3\n}\n}\n"
        "extern \"x\": f32[4]\nextern \"y\": f32[8] written\narena 128\npool 16 {\n0000803f000000400000404000008040\n}\n"
        "call @k(extern 0 + 0, pool + 0, arena + 64)\ncall @k(arena + 64, arena + 64, extern 1 + 16)\n";
    KdContext *cx = kd_context_new();
    KdLanding landing;
    assert_true(KD_TRY(cx, landing));
    KlModule *m = kl_parse_module(cx, "t.kl", text, strlen(text));
    assert_non_null(m);
    float x[4] = {10, 20, 30, 40}, y[8] = {0};
    void *ext[2] = {x, y};
    KdStr why = {.cx = cx};
    assert_true(kl_eval(m, ext, &why));
    for (int j = 0; j < 4; j++) assert_true(y[j] == 0 && y[4 + j] == (float)(22 * (j + 1)));
    kd_landing_pop(cx);
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest tests[KD_COUNT(cases) + 1];
    int n = 0;
    for (; n < KD_COUNT(cases); n++)
        tests[n] = (struct CMUnitTest){.name = cases[n].name, .test_func = test_case, .initial_state = (void *)&cases[n]};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_plan);
    return _cmocka_run_group_tests("loop_eval", tests, (size_t)n, NULL, NULL);
}
