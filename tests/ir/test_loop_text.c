/* The text of the loop IR: every instruction round-trips, floats exactly; what is wrong is named with line and column;
 * and no bytes whatsoever crash the parser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ir/loop.h"
#include "ir/random_bits.h"

#define HEAD "module @m\nkernel @k0 range 4 {\n  buf x: f32[64] in\n  buf n: i32[64] in\n  buf u: u8[64] in\n  buf y: f32[64] out\n" \
             "  buf z: i32[64] inout\n  scratch t: f32[16]\n  body(%0) {\n"
#define TAIL "  }\n}\n"

static const char everything[] =
    "module @step\n"
    "kernel @k0 range 16 grain 2 flops 123456789012 bytes 0.10000000000000001 \"what \\\"it\\\" does: \\\\ \\x07\" {\n"
    "  buf x: f32[64] in\n"
    "  buf n: i32[64] in\n"
    "  buf u: u8[64] in\n"
    "  buf y: f32[64] out\n"
    "  buf z: i32[64] inout\n"
    "  scratch t.1: f32[16]\n"
    "  body(%0) {\n"
    "    %1 = mul i64 %0, -4096\n"
    "    %2 = div i64 %1, 3\n"
    "    %3 = rem i64 %2, 3\n"
    "    %4 = iota i32x8\n"
    "    %5 = iota i64x2\n"
    "    %6 = cvt i32x2 i64x2 %5\n"
    "    %7 = gather f32x8 x[%4]\n"
    "    %8 = cmp lt i32x8 %4, 5\n"
    "    %9 = gather f32x8 x[%4] if %8 else 0.100000001\n"
    "    %10 = load f32x8 x[0]\n"
    "    %11 = load f32x8 x[%3] if %8 else -0\n"
    "    %12 = fma f32x8 %10, %11, inf\n"
    "    %13 = neg f32x8 %12\n"
    "    %14 = abs f32x8 %13\n"
    "    %15 = sqrt f32x8 %14\n"
    "    %16 = floor f32x8 %15\n"
    "    %17 = round f32x8 %16\n"
    "    %18 = select f32x8 %8, %17, nan\n"
    "    %19 = select f32x8 true, nan:ffc00001, 1.40129846e-45\n"
    "    %20 = bitcast i32x8 f32x8 %19\n"
    "    %21 = and i32x8 %20, -2147483648\n"
    "    %22 = or i32x8 %21, 2147483647\n"
    "    %23 = xor i32x8 %22, 1\n"
    "    %24 = shl i32x8 %23, 3\n"
    "    %25 = shr i32x8 %24, 3\n"
    "    %26 = min i32x8 %25, %24\n"
    "    %27 = max i32x8 %26, 9\n"
    "    %28 = sub i32x8 %27, %26\n"
    "    %29 = reduce_add i32x8 %28\n"
    "    %30 = reduce_max f32x8 %18\n"
    "    %31 = reduce_min f32x8 %18\n"
    "    %32 = extract f32x8 %18, 7\n"
    "    %33 = shuffle f32x4 f32x8 %18, %17 [0, 15, 7, 8]\n"
    "    %34 = splat f32x4 f32 %32\n"
    "    %35 = load u8 u[%0]\n"
    "    %36 = cvt f32 u8 %35\n"
    "    %37 = add f32 %36, 3.40282347e+38\n"
    "    %38 = and i1 true, false\n"
    "    %40, %41 = for %39 = 0 .. %0 step 16 carry(%42: f32 = 0, %43: i32 = 7) unroll 2 vector 16 fold add {\n"
    "      %44 = add f32 %42, 1\n"
    "      for %45 = %39 .. 64 step 1 unroll full {\n"
    "        store f32 t.1[%45], %44\n"
    "      }\n"
    "      yield %44, %43\n"
    "    }\n"
    "    if %38 {\n"
    "      store f32 y[%0], %37 if %38\n"
    "      prefetch f32 y[%0]\n"
    "      scatter i32x8 z[%4], %27\n"
    "      scatter i32x8 z[%4], %27 if %8\n"
    "    }\n"
    "    if true {\n"
    "    }\n"
    "    store i32 z[%0], %41\n"
    "  }\n"
    "}\n"
    "kernel @k1 range 0 {\n"
    "  body(%0) {\n"
    "  }\n"
    "}\n"
    "extern \"net.0 weight\": f32[64]\n"
    "extern \"ids\": i32[256] written\n"
    "extern \"picture\": u8[64]\n"
    "arena 4352 kept 256\n"
    "pool 33 {\n"
    "  000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\n"
    "  ff\n"
    "}\n"
    "call once @k1()\n"
    "call @k0(extern 0 + 0, extern 1 + 256, extern 2 + 0, arena + 64, arena + 3840)\n";

/* Parses, prints; NULL and the diagnostics in *said if the text is refused. */
static char *print_parsed(const char *text, size_t n, char **said) {
    KdContext *cx = kd_context_new();
    KdLanding landing;
    char *result = NULL;
    size_t length = 0;
    FILE *out = open_memstream(said, &length);
    assert_non_null(out);
    if (KD_TRY(cx, landing)) {
        KlModule *m = kl_parse_module(cx, "t.kl", text, n);
        if (m) {
            KdStr s = {.cx = cx};
            kl_print_module(&s, m);
            result = strdup(s.s);
        } else {
            assert_int_equal(kd_error_count(cx), 1);
        }
        kd_landing_pop(cx);
    } else {
        const char *message;
        kd_failure(cx, &message);
        fail_msg("%s", message);
    }
    kd_diag_print(cx, out, false);
    fclose(out);
    kd_context_free(cx);
    return result;
}

static void test_round_trip(void **state) {
    (void)state;
    char *said, *again = print_parsed(everything, strlen(everything), &said);
    if (!again) fail_msg("%s", said);
    assert_string_equal(again, everything);
    free(again);
    free(said);
}

/* Numbers, blanks and comments are free in what is read; what is printed is canonical. */
static void test_free_form(void **state) {
    (void)state;
    static const char loose[] = "# a comment\n\nmodule @m\n\n" "kernel   @a range 4 {\n\tbuf x : f32[4] out # out\n body(%7) {\n\n %3=add i64 %7,1\n"
                                "store f32 x[%7],0.5\n}\n}";
    static const char tidy[] = "module @m\nkernel @a range 4 {\n  buf x: f32[4] out\n  body(%0) {\n    %1 = add i64 %0, 1\n    store f32 x[%0], 0.5\n"
                               "  }\n}\n";
    char *said, *again = print_parsed(loose, strlen(loose), &said);
    if (!again) fail_msg("%s", said);
    assert_string_equal(again, tidy);
    free(again);
    free(said);
}

typedef struct Wrong { const char *text, *want; } Wrong;

static const Wrong wrongs[] = {
    {"", "t.kl:2:1: error: expected 'module'"},
    {"module @m\nfoo\n", "t.kl:2:1: error: expected kernel"},
    {HEAD "    %1 = add i64 %0, %2\n" TAIL, "t.kl:10:22: error: %2 is not defined"},
    {HEAD "    %1 = add f32 %0, 1\n" TAIL, "t.kl:10:18: error: %0 is i64, not f32"},
    {HEAD "    %1 = add i32 1, 4294967296\n" TAIL, "4294967296 is no i32"},
    {HEAD "    %1 = add i64 1, 99999999999999999999\n" TAIL, "does not fit 64 bits"},
    {HEAD "    %0 = add i64 1, 2\n" TAIL, "%0 is defined twice"},
    {HEAD "    %1 = frob i64 1, 2\n" TAIL, "t.kl:10:10: error: expected an instruction"},
    {HEAD "    %1 = add i64 1\n" TAIL, "expected ','"},
    {HEAD "    %1 = add i64 1, 2 3\n" TAIL, "expected the end of the line"},
    {HEAD "    %1 = add i64x3 1, 2\n" TAIL, "lanes are a power of two"},
    {HEAD "    %1 = load f32 w[0]\n" TAIL, "there is no buffer 'w'"},
    {HEAD "    store f32 x[0], 1\n" TAIL, "writes an input buffer"},
    {HEAD "    %1 = load i32 x[0]\n" TAIL, "type of the value against the buffer's"},
    {HEAD "    for %1 = 0 .. 4 step 0 {\n    }\n" TAIL, "step is not positive"},
    {HEAD "    %2 = for %1 = 0 .. 4 step 1 carry(%3: f32 = 0) {\n    }\n" TAIL, "ends in a yield"},
    {HEAD "    %2 = for %1 = 0 .. 4 step 1 carry(%3: f32 = 0) {\n    yield 1\n    store f32 y[0], 1\n    }\n" TAIL, "a yield is the last line"},
    {HEAD "    yield 1\n" TAIL, "a yield belongs into a loop"},
    {HEAD "    if true {\n      %1 = add i64 %0, 1\n    }\n    %2 = add i64 %1, 1\n" TAIL, "t.kl:13:18: error: %1 is defined in a block that has ended"},
    {HEAD "    %1 = rem f32 1, 2\n" TAIL, "rem: operand type"},
    {HEAD "    %1 = shuffle f32x2 f32 1, 2 [0, 2]\n" TAIL, "there is no lane 2"},
    {HEAD "    %1 = extract f32x4 1, 4\n" TAIL, "extract: lane"},
    {HEAD "    %1 = cvt i1 f32 1\n" TAIL, "cvt: types"},
    {HEAD "    %1 = fma f32 1, 2, nan:3f800000\n" TAIL, "not the bits of a NaN"},
    {HEAD TAIL "call @k9()\n", "there is no kernel @k9"},
    {HEAD TAIL "call @k0(extern 0 + 0)\n", "there is no extern 0"},
    {HEAD TAIL "extern \"a\": f32[64]\ncall @k0(extern 0 + 0, extern 0 + 0, extern 0 + 0, extern 0 + 0, extern 0 + 0)\n", "type of the extern"},
    {"module @m\nkernel @k0 range 1 {\n  buf x: f32[65] in\n  body(%0) {\n  }\n}\nextern \"a\": f32[64]\ncall @k0(extern 0 + 0)\n", "outside of the memory"},
    {"module @m\nkernel @k0 range 1 {\n  buf x: f32[64] in\n  body(%0) {\n  }\n}\nextern \"a\": f32[65]\ncall @k0(extern 0 + 2)\n", "alignment"},
    {"module @m\nkernel @k0 range 1 {\n  buf x: f32[1] out\n  body(%0) {\n  }\n}\narena 64\ncall @k0(arena + 4)\n", "alignment"},
    {"module @m\nkernel @k0 range 1 {\n  buf x: f32[1] out\n  body(%0) {\n  }\n}\nextern \"a\": f32[1]\ncall @k0(extern 0 + 0)\n", "not written"},
    {"module @m\nkernel @k0 range 1 {\n  buf x: f32[1] in\n  buf x: f32[1] in\n  body(%0) {\n  }\n}\n", "two buffers 'x'"},
    {"module @m\npool 3 {\n  0001\n}\n", "the pool has 2 bytes, not 3"},
};

static void test_wrong(void **state) {
    const Wrong *w = *state;
    char *said, *again = print_parsed(w->text, strlen(w->text), &said);
    assert_null(again);
    if (!strstr(said, w->want)) fail_msg("expected \"%s\", got:\n%s", w->want, said);
    free(said);
}

static void test_nesting(void **state) {
    (void)state;
    enum { DEEP = 100000 };
    size_t room = sizeof HEAD + DEEP * 12;
    char *text = malloc(room);
    assert_non_null(text);
    size_t n = (size_t)snprintf(text, room, "%s", HEAD);
    for (int j = 0; j < DEEP; j++, n += 10) memcpy(text + n, "if true {\n", 10);
    char *said;
    assert_null(print_parsed(text, n, &said));
    assert_non_null(strstr(said, "nest too deeply"));
    free(said);
    free(text);
}

/* Every prefix, and thousands of texts with a few bytes changed: refused or accepted, and what is accepted reads back. */
static void test_garbage(void **state) {
    (void)state;
    size_t n = strlen(everything);
    char *text = malloc(n + 1);
    assert_non_null(text);
    for (uint32_t round = 0; round < 3000; round++) {
        memcpy(text, everything, n + 1);
        size_t length = round < 1000 ? kd_random_bits(1, round) % n : n;
        for (uint32_t j = 0; round >= 1000 && j < 1 + round % 4; j++) {
            uint32_t r = kd_random_bits(round, j);
            text[(r >> 8) % n] = r % 3 ? everything[(r >> 4) % n] : (char)r;
        }
        char *said, *said2, *once = print_parsed(text, length, &said);
        if (once) {
            char *twice = print_parsed(once, strlen(once), &said2);
            assert_non_null(twice);
            assert_string_equal(once, twice);
            free(twice);
            free(said2);
        }
        free(once);
        free(said);
    }
    free(text);
}

int main(void) {
    struct CMUnitTest tests[KD_COUNT(wrongs) + 4];
    int n = 0;
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_round_trip);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_free_form);
    for (int j = 0; j < KD_COUNT(wrongs); j++)
        tests[n++] = (struct CMUnitTest){.name = wrongs[j].want, .test_func = test_wrong, .initial_state = (void *)&wrongs[j]};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_nesting);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_garbage);
    return _cmocka_run_group_tests("loop_text", tests, (size_t)n, NULL, NULL);
}
