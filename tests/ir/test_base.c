/* test_base.c: contexts, memory, strings, maps, checked arithmetic, failures, and diagnostics as a user sees them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ir/base.h"
#include "ir/ir.h"

static int open_context(void **state) {
    *state = kd_context_new();
    return *state ? 0 : -1;
}

static int close_context(void **state) {
    kd_context_free(*state);
    return 0;
}

static void memory(void **state) {
    KdContext *cx = *state;
    size_t sizes[] = {0, 1, 15, 16, 17, 4000, 1 << 16, 1 << 20, 3, 8u << 20, 5};
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < KD_COUNT(sizes); i++) {
            unsigned char *p = kd_alloc(cx, sizes[i]);
            assert_int_equal((uintptr_t)p % 16, 0);
            for (size_t k = 0; k < sizes[i]; k += 97) assert_int_equal(p[k], 0);
            memset(p, 0xAA, sizes[i]);
        }
}

static bool raises(KdContext *cx, size_t count, size_t size) {
    KdLanding l;
    if (!KD_TRY(cx, l)) return true;
    kd_alloc_array(cx, count, size);
    kd_landing_pop(cx);
    return false;
}

static void out_of_memory(void **state) {
    KdContext *cx = *state;
    const char *message;
    assert_true(raises(cx, SIZE_MAX / 2, 3)); /* the product overflows */
    assert_int_equal(kd_failure(cx, &message), KD_FAIL_MACHINE);
    assert_non_null(strstr(message, "out of memory"));
    assert_true(raises(cx, SIZE_MAX / 2, 1));
    assert_false(raises(cx, 100, 10));
}

/* An inner landing catches first, and the outer one is still there. */
static void landings(void **state) {
    KdContext *cx = *state;
    const char *message;
    volatile int at = 0;
    KdLanding outer, inner;
    if (KD_TRY(cx, outer)) {
        if (KD_TRY(cx, inner)) {
            at = 1;
            kd_raise(cx, KD_FAIL_INTERNAL, "first %d", 1);
        }
        assert_int_equal(at, 1);
        assert_int_equal(kd_failure(cx, &message), KD_FAIL_INTERNAL);
        assert_string_equal(message, "first 1");
        at = 2;
        kd_raise(cx, KD_FAIL_MACHINE, "second");
    }
    assert_int_equal(at, 2);
    assert_int_equal(kd_failure(cx, &message), KD_FAIL_MACHINE);
    assert_string_equal(message, "second");
}

static void vectors_and_strings(void **state) {
    KdContext *cx = *state;
    KD_VEC(int) v = {0};
    for (int i = 0; i < 1000; i++) kd_push(cx, &v, i * i);
    assert_int_equal(v.n, 1000);
    for (int i = 0; i < 1000; i++) assert_int_equal(v.v[i], i * i);
    KdStr s = {.cx = cx};
    for (int i = 0; i < 300; i++) kd_str_printf(&s, "%d,", i);
    assert_int_equal(strlen(s.s), s.n);
    assert_int_equal(strncmp(s.s, "0,1,2,3,", 8), 0);
    const char *wide = kd_format(cx, "%0500d|%s", 7, "end"); /* longer than the buffer on the stack */
    assert_int_equal(strlen(wide), 504);
    assert_string_equal(wide + 499, "7|end");
}

static void interning(void **state) {
    KdContext *cx = *state;
    const char *seen[2000];
    for (int i = 0; i < 2000; i++) seen[i] = kd_intern_z(cx, kd_format(cx, "name%d", i));
    for (int i = 0; i < 2000; i++) {
        assert_ptr_equal(seen[i], kd_intern_z(cx, kd_format(cx, "name%d", i)));
        assert_string_equal(seen[i], kd_format(cx, "name%d", i));
    }
    assert_ptr_equal(kd_intern(cx, "name1234", 5), seen[1]); /* n bytes */
    assert_ptr_equal(kd_intern(cx, "", 0), kd_intern_z(cx, ""));
}

static void maps(void **state) {
    enum { KEYS = 500 };
    KdMap m = {.cx = *state};
    uint64_t want[KEYS] = {0}, got;
    bool there[KEYS] = {false};
    uint64_t seed = 1;
    assert_false(kd_map_get(&m, 0, &got));
    for (int i = 0; i < 5000; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        int k = (int)(seed >> 40) % KEYS;
        kd_map_put(&m, (uint64_t)k << 32, seed);
        want[k] = seed;
        there[k] = true;
        k = (int)(seed >> 20 & 0xffff) % KEYS;
        assert_int_equal(kd_map_get(&m, (uint64_t)k << 32, &got), there[k]);
        if (there[k]) assert_true(got == want[k]);
    }
    assert_true(kd_map_get(&m, (uint64_t)0 << 32, NULL) == there[0]);
}

static void exact_arithmetic(void **state) {
    (void)state;
    int64_t r = 42;
    assert_true(kd_add_ok(INT64_MAX - 1, 1, &r) && r == INT64_MAX);
    r = 42;
    assert_false(kd_add_ok(INT64_MAX, 1, &r));
    assert_false(kd_mul_ok(INT64_MIN, -1, &r));
    assert_false(kd_mul_ok(INT64_C(1) << 32, INT64_C(1) << 31, &r));
    assert_int_equal(r, 42);
    assert_true(kd_mul_ok(-(INT64_C(1) << 31), INT64_C(1) << 32, &r) && r == INT64_MIN);
}

static void nearest(void **state) {
    (void)state;
    static const char *const names[] = {"conv2d", "conv_transpose2d", "concat", "relu", "leaky_relu"};
    int n = KD_COUNT(names);
    assert_string_equal(kd_nearest("conv2", names, n), "conv2d");
    assert_string_equal(kd_nearest("cocnat", names, n), "concat");
    assert_string_equal(kd_nearest("leakyrelu", names, n), "leaky_relu");
    assert_null(kd_nearest("batch_norm", names, n));
    assert_null(kd_nearest("x", names, n));
    assert_null(kd_nearest("relu", names, 0));
}

static void types(void **state) {
    KdContext *cx = *state;
    int64_t d[] = {1, 3, 256, 256, 2, 2, 2}, big[] = {1 << 16, 1 << 15}, zero[] = {0, INT32_MAX}, minus[] = {2, -1};
    const KdType *t = kd_type(cx, KD_F32, 4, d);
    assert_ptr_equal(t, kd_type(cx, KD_F32, 4, d));
    assert_ptr_not_equal(t, kd_type(cx, KD_I32, 4, d));
    assert_ptr_not_equal(t, kd_type(cx, KD_F32, 3, d));
    assert_int_equal(t->count, 3 * 256 * 256);
    assert_string_equal(kd_type_text(cx, t), "f32[1, 3, 256, 256]");
    assert_string_equal(kd_shape_text(cx, t), "[1, 3, 256, 256]");
    assert_string_equal(kd_type_text(cx, kd_type(cx, KD_U8, 0, NULL)), "u8[]");
    assert_null(kd_type(cx, KD_F32, 7, d));
    assert_null(kd_type(cx, KD_F32, -1, d));
    assert_null(kd_type(cx, KD_F32, 2, big)); /* 2^31 */
    big[1]--;
    assert_non_null(kd_type(cx, KD_F32, 2, big));
    assert_null(kd_type(cx, KD_F32, 2, minus));
    assert_int_equal(kd_type(cx, KD_F32, 2, zero)->count, 0);
    zero[1]++;
    assert_null(kd_type(cx, KD_F32, 2, zero)); /* a single size must fit, too */
}

/* ---- diagnostics ------------------------------------------------------------------------------------ */

static const char *printed(KdContext *cx) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    kd_diag_print(cx, out, false);
    fclose(out);
    const char *kept = kd_format(cx, "%s", text);
    free(text);
    return kept;
}

static void expect_printed(KdContext *cx, const char *want) {
    assert_string_equal(printed(cx), want);
}

static const char unet[] = "net Unet {\n    h = concat(skip[i], h)\n}\nlet y = Unet(x)\n";

static void a_chain(void **state) {
    KdContext *cx = *state;
    kd_source_add(cx, "unet.kd", unet, sizeof unet - 1);
    KdLoc outer = kd_loc(cx, (KdPlace){.file = "unet.kd", .line = 4, .col = 9, .len = 4,
                                       .what = "in Unet applied to x: [1, 3, 264, 256]"});
    KdLoc at = kd_loc(cx, (KdPlace){.file = "unet.kd", .line = 2, .col = 9, .len = 6, .outer = outer});
    kd_error(cx, at, "concat: heights differ along dimension %d: %d and %d", 2, 33, 32);
    kd_hint(cx, "264 is not divisible by 2^8");
    assert_int_equal(kd_error_count(cx), 1);
    expect_printed(cx, "unet.kd:2:9: error: concat: heights differ along dimension 2: 33 and 32\n"
                       "    2 |     h = concat(skip[i], h)\n"
                       "      |         ^~~~~~\n"
                       "unet.kd:4:9: note: in Unet applied to x: [1, 3, 264, 256]\n"
                       "    4 | let y = Unet(x)\n"
                       "      |         ^~~~\n"
                       "  hint: 264 is not divisible by 2^8\n");
    expect_printed(cx, ""); /* forgotten once printed */
    assert_int_equal(kd_error_count(cx), 1);
}

static void a_long_chain(void **state) {
    KdContext *cx = *state;
    KdLoc at = 0;
    for (int i = 0; i < 100; i++)
        at = kd_loc(cx, (KdPlace){.file = "a.kd", .line = i + 1, .col = 1, .outer = at, .what = "in f"});
    kd_error(cx, at, "too deep");
    const char *text = printed(cx);
    int lines = 0;
    for (const char *p = text; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, 1 + 6 + 1 + 2); /* the error, six nearest, "more", the two outermost */
    assert_non_null(strstr(text, "more applications"));
    assert_non_null(strstr(text, "a.kd:1:1: note"));
}

static void places(void **state) {
    KdContext *cx = *state;
    KdLoc a = kd_loc(cx, (KdPlace){.file = "a.kd", .line = 1, .col = 2, .len = 3});
    assert_int_equal(a, kd_loc(cx, (KdPlace){.file = "a.kd", .line = 1, .col = 2, .len = 3}));
    assert_int_not_equal(a, kd_loc(cx, (KdPlace){.file = "a.kd", .line = 1, .col = 2, .len = 4}));
    assert_int_not_equal(a, kd_loc(cx, (KdPlace){.file = "a.kd", .line = 1, .col = 2, .len = 3, .outer = a}));
    assert_null(kd_place(cx, 0));
    assert_null(kd_place(cx, 100000));
    assert_int_equal(kd_place(cx, a)->col, 2);
}

/* Places outside of the text, without a source, with strange bytes: something sensible, never a crash. */
static void odd_places(void **state) {
    KdContext *cx = *state;
    kd_source_add(cx, "odd", "a\tb\x01\xc3\xa9" "cd\r\nlast", 14);
    kd_error(cx, kd_loc(cx, (KdPlace){.file = "odd", .line = 1, .col = 7, .len = 2}), "tab and bytes");
    kd_error(cx, kd_loc(cx, (KdPlace){.file = "odd", .line = 2, .col = 1000, .len = 1000}), "far right");
    kd_error(cx, kd_loc(cx, (KdPlace){.file = "odd", .line = 77, .col = 1}), "no such line");
    kd_error(cx, kd_loc(cx, (KdPlace){.file = "nowhere", .line = 1, .col = 1}), "no source");
    kd_error(cx, 0, "no place");
    kd_warning(cx, 0, "only a warning");
    assert_int_equal(kd_error_count(cx), 5);
    expect_printed(cx, "odd:1:7: error: tab and bytes\n"
                       "    1 | a b \xc3\xa9" "cd\n"
                       "      |      ^~\n"
                       "odd:2:1000: error: far right\n"
                       "    2 | last\n"
                       "      |     ^\n"
                       "odd:77:1: error: no such line\n"
                       "nowhere:1:1: error: no source\n"
                       "kdc: error: no place\n"
                       "kdc: warning: only a warning\n");
}

static void a_long_line(void **state) {
    KdContext *cx = *state;
    char *line = kd_alloc(cx, 1001);
    memset(line, 'x', 1000);
    line[500] = '!';
    kd_source_add(cx, "long", line, 1000);
    kd_error(cx, kd_loc(cx, (KdPlace){.file = "long", .line = 1, .col = 501, .len = 400}), "here");
    const char *text = printed(cx), *mark = strchr(text, '!'), *caret = strchr(text, '^');
    assert_non_null(mark);
    assert_non_null(caret);
    const char *mark_line = mark, *caret_line = caret;
    while (mark_line[-1] != '\n') mark_line--;
    while (caret_line[-1] != '\n') caret_line--;
    assert_int_equal(mark - mark_line, caret - caret_line);
    for (const char *p = text, *end; (end = strchr(p, '\n')); p = end + 1) assert_true(end - p < 140);
}

static void many_errors(void **state) {
    KdContext *cx = *state;
    for (int i = 0; i < 50; i++) {
        kd_error(cx, 0, "error %d", i);
        kd_note(cx, 0, "note %d", i);
    }
    assert_int_equal(kd_error_count(cx), 50);
    const char *text = printed(cx);
    assert_non_null(strstr(text, "note 19"));
    assert_null(strstr(text, "error 20"));
    assert_null(strstr(text, "note 20"));
    assert_non_null(strstr(text, "30 more errors"));
}

static void two_contexts(void **state) {
    KdContext *a = *state, *b = kd_context_new();
    kd_error(a, 0, "in a");
    assert_int_equal(kd_error_count(b), 0);
    assert_ptr_not_equal(kd_intern_z(a, "x"), kd_intern_z(b, "x"));
    kd_context_free(b);
    assert_string_equal(kd_intern_z(a, "x"), "x");
}

#define WITH_CONTEXT(fn) cmocka_unit_test_setup_teardown(fn, open_context, close_context)

int main(void) {
    const struct CMUnitTest t[] = {
        WITH_CONTEXT(memory),      WITH_CONTEXT(out_of_memory), WITH_CONTEXT(landings), WITH_CONTEXT(vectors_and_strings),
        WITH_CONTEXT(interning),   WITH_CONTEXT(maps),          WITH_CONTEXT(types),    cmocka_unit_test(exact_arithmetic),
        cmocka_unit_test(nearest), WITH_CONTEXT(a_chain),       WITH_CONTEXT(places),   WITH_CONTEXT(a_long_chain),
        WITH_CONTEXT(odd_places),  WITH_CONTEXT(a_long_line),   WITH_CONTEXT(many_errors), WITH_CONTEXT(two_contexts),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}
