/* test_text.c: graph IR text: what is printed reads back to the same text; what is wrong is named with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ir/ir.h"

typedef struct Case {
    const char *name, *text;
    const char *want; /* NULL: the text itself; else a diagnostic's beginning "t:LINE:COL: error: ..." */
} Case;

static const Case round_trips[] = {
    {"empty", "func @f {\n}\n", NULL},
    {"leaves",
     "func @leaves {\n"
     "  %0 = input {name=\"x\"}: f32[2, 3]\n"
     "  %1 = input {name=\"S.conv.weight\", role=\"weight\", init=\"normal 0.02\"}: f32[4, 3, 3, 3]\n"
     "  %2 = const {value=0.1}: f32[]\n"
     "  %3 = const {value=-2147483648}: i32[7]\n"
     "  %4 = literal {values=[1, -0.5, 3.4028235e+38, 1e-45]}: f32[4]\n"
     "  %5 = literal {values=[]}: u8[0]\n"
     "  %6 = iota {axis=1}: i32[2, 5]\n"
     "  %7 = const {value=inf}: f32[1]\n"
     "  %8 = const {value=-inf}: f32[1]\n"
     "  %9 = const {value=nan}: f32[1]\n"
     "  output \"a\" = %2\n"
     "}\n", NULL},
    {"attributes",
     "func @attrs {\n"
     "  %0 = input {name=\"x\"}: f32[1, 4, 9, 9]\n"
     "  %1 = input {name=\"w\"}: f32[6, 2, 3, 3]\n"
     "  %2 = conv2d(%0, %1) {stride=[2, 2], pad=[1, 0, 1, 2], groups=2}: f32[1, 6, 5, 5]\n"
     "  %3 = leaky_relu(%2) {slope=0.2}: f32[1, 6, 5, 5]\n"
     "  %4 = leaky_relu(%2): f32[1, 6, 5, 5]\n"
     "  %5 = clamp(%3) {min=-1, max=0.3333333333333333}: f32[1, 6, 5, 5]\n"
     "  %6 = cast(%5) {dtype=\"u8\"}: u8[1, 6, 5, 5]\n"
     "  %7 = pad(%5) {lo=[0, 0, 1, 1], hi=[0, 0, -1, 0], interior=[0, 0, 0, 1], value=-inf}: f32[1, 6, 5, 10]\n"
     "  %8 = concat(%3, %4, %5) {axis=1}: f32[1, 18, 5, 5]\n"
     "}\n", NULL},
    {"nothing is simplified or shared",
     "func @plain {\n"
     "  %0 = input {name=\"x\"}: f32[2]\n"
     "  %1 = const {value=0}: f32[2]\n"
     "  %2 = add(%1, %0): f32[2]\n"
     "  %3 = add(%1, %0): f32[2]\n"
     "  %4 = neg(%3): f32[2]\n"
     "  %5 = neg(%4): f32[2]\n"
     "  output \"y\" = %5\n"
     "}\n", NULL},
    {"outputs and updates",
     "func @step {\n"
     "  %0 = input {name=\"w\", role=\"weight\"}: f32[2]\n"
     "  %1 = input {name=\"g\"}: f32[2]\n"
     "  %2 = sub(%0, %1): f32[2]\n"
     "  output \"w\" = %2 updates %0\n"
     "  output \"old \\\"w\\\"\\n\" = %0\n"
     "}\n", NULL},
    {"meta ops",
     "func @meta {\n"
     "  %0 = input {name=\"w\"}: f32[2]\n"
     "  %1 = square(%0): f32[2]\n"
     "  %2 = sum(%1) {axes=[0]}: f32[1]\n"
     "  %3 = reshape(%2) {shape=[]}: f32[]\n"
     "  %4 = grad(%3, %0): f32[2]\n"
     "  %5 = sgd(%0, %4, %1, %3) {part=0, momentum=0.9}: f32[2]\n"
     "}\n", NULL},
    {"two functions", "func @a {\n}\n\nfunc @\"a name: with 'signs\" {\n}\n", NULL},
};

static const Case loose[] = { /* text, and what it prints as */
    {"comments, numbers and blanks",
     "# a comment\nfunc @f{%7=input{name=\"x\"}:f32[2]  # and here\n\n %3 = add ( %7 , %7 ) : f32 [ 2 ] output \"y\"=%3}",
     "func @f {\n  %0 = input {name=\"x\"}: f32[2]\n  %1 = add(%0, %0): f32[2]\n  output \"y\" = %1\n}\n"},
    {"defaults written out",
     "func @f {\n  %0 = input {name=\"x\", init=\"\", role=\"data\"}: f32[2]\n  %1 = leaky_relu(%0) {slope=1e-2}: f32[2]\n}\n",
     "func @f {\n  %0 = input {name=\"x\"}: f32[2]\n  %1 = leaky_relu(%0): f32[2]\n}\n"},
    {"escapes", "func @f {\n  %0 = input {name=\"\\x41\\\\\\x07\"}: f32[]\n}\n",
     "func @f {\n  %0 = input {name=\"A\\\\\\x07\"}: f32[]\n}\n"},
};

#define X "func @f {\n  %0 = input {name=\"x\"}: f32[2, 3]\n"
static const Case errors[] = {
    {"not a function", "fun @f {\n}\n", "t:1:1: error: expected 'func', found 'fun'"},
    {"no name", "func f {\n}\n", "t:1:6: error: expected '@', found 'f'"},
    {"no end", "func @f {\n", "t:2:1: error: the function does not end"},
    {"no such op", X "  %1 = nge(%0): f32[2, 3]\n}\n", "t:3:8: error: there is no operation 'nge'\n"},
    {"nearest op", X "  %1 = sigmod(%0): f32[2, 3]\n}\n", "did you mean 'sigmoid'?"},
    {"no such attribute", X "  %1 = leaky_relu(%0) {slop=1}: f32[2, 3]\n}\n",
     "t:3:24: error: leaky_relu has no attribute 'slop'"},
    {"attribute twice", X "  %1 = leaky_relu(%0) {slope=1, slope=2}: f32[2, 3]\n}\n", "t:3:33: error: 'slope' is given twice"},
    {"attribute missing", X "  %1 = sum(%0): f32[]\n}\n", "t:3:8: error: sum needs its attribute 'axes'"},
    {"undefined", X "  %1 = neg(%2): f32[2, 3]\n}\n", "t:3:12: error: %2 is not defined before this"},
    {"of itself", X "  %1 = neg(%1): f32[2, 3]\n}\n", "t:3:12: error: %1 is not defined before this"},
    {"twice", X "  %0 = neg(%0): f32[2, 3]\n}\n", "t:3:3: error: %0 is defined twice"},
    {"operands", X "  %1 = add(%0): f32[2, 3]\n}\n", "t:3:8: error: add: expects 2 operands, found 1"},
    {"wrong type", X "  %1 = neg(%0): f32[3, 2]\n}\n", "t:3:17: error: the result of this neg is f32[2, 3]"},
    {"op's own check", X "  %1 = transpose(%0) {perm=[0, 0]}: f32[2, 2]\n}\n", "t:3:8: error: transpose: "},
    {"no such dtype", "func @f {\n  %0 = input {name=\"x\"}: f64[2]\n}\n", "t:2:26: error: there is no element type 'f64'"},
    {"too large", "func @f {\n  %0 = input {name=\"x\"}: f32[65536, 65536]\n}\n", "t:2:26: error: a size is negative, or"},
    {"negative size", "func @f {\n  %0 = input {name=\"x\"}: f32[-1]\n}\n", "t:2:26: error: a size is negative, or"},
    {"rank", "func @f {\n  %0 = input {name=\"x\"}: f32[1, 1, 1, 1, 1, 1, 1]\n}\n", "t:2:26: error: a tensor has at most 6"},
    {"role", "func @f {\n  %0 = input {name=\"x\", role=\"king\"}: f32[]\n}\n", "t:2:8: error: input: the role is one of"},
    {"literal", "func @f {\n  %0 = literal {values=[1, 2]}: f32[3]\n}\n", "t:2:8: error: literal: it needs one value"},
    {"int does not fit", "func @f {\n  %0 = const {value=300}: u8[3]\n}\n", "t:2:8: error: const: the value does not fit"},
    {"open string", "func @f {\n  %0 = input {name=\"x}: f32[]\n}\n", "t:2:20: error: this string does not end"},
    {"bad escape", "func @f {\n  %0 = input {name=\"\\x00\"}: f32[]\n}\n", "t:2:20: error: an escape is"},
    {"integer", X "  %1 = sum(%0) {axes=[1.5]}: f32[2, 1]\n}\n", "t:3:23: error: expected an integer, found '1.5'"},
    {"huge integer", X "  %1 = sum(%0) {axes=[99999999999999999999]}: f32[2, 1]\n}\n", "t:3:23: error: 99999999999999999999 does not"},
    {"float", "func @f {\n  %0 = const {value=0x10}: f32[]\n}\n", "t:2:21: error: expected a number, found '0x10'"},
    {"output of nothing", "func @f {\n  output \"y\" = %0\n}\n", "t:2:16: error: %0 is not defined"},
    {"updates no input", X "  %1 = neg(%0): f32[2, 3]\n  output \"y\" = %1 updates %1\n}\n", "t:1:1: error: @f: output \"y\" updates what is no input"},
    {"two of a name", X "  %1 = input {name=\"x\"}: f32[]\n}\n", "t:1:1: error: @f: %1 = input: two inputs have this name"},
    {"strange byte", "func @f {\n  \x01\n}\n", "t:2:3: error: expected a definition, an output or '}', found byte 1"},
    {"goes on", X "  %1 = nge(%0): f32[2, 3]\n  %2 = neg(%1): f32[2, 3]\n  %3 = neg(%9): f32[2, 3]\n}\n", "t:5:12: error: %9 is not"},
};

static KdModule *parse(KdContext *cx, const char *text, size_t n) { return kd_parse_module(cx, "t", text, n); }

static char *diagnostics(KdContext *cx) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    kd_diag_print(cx, out, false);
    fclose(out);
    return text;
}

static void expect_print(const Case *c, const char *want) {
    KdContext *cx = kd_context_new();
    KdModule *m = parse(cx, c->text, strlen(c->text));
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    KdStr s = {.cx = cx};
    kd_print_module(&s, m);
    assert_string_equal(s.s, want);
    kd_context_free(cx);
}

static void round_trip(void **state) { expect_print(*state, ((const Case *)*state)->text); }

static void loose_text(void **state) { expect_print(*state, ((const Case *)*state)->want); }

static void wrong_text(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    assert_null(parse(cx, c->text, strlen(c->text)));
    char *said = diagnostics(cx);
    if (!strstr(said, c->want)) fail_msg("expected \"%s\" in:\n%s", c->want, said);
    free(said);
    kd_context_free(cx);
}

/* A value whose line failed is not complained about again. */
static void silent_users(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    const char *text = X "  %1 = nge(%0): f32[2, 3]\n  %2 = neg(%1): f32[2, 3]\n  output \"y\" = %2\n}\n";
    assert_null(parse(cx, text, strlen(text)));
    assert_int_equal(kd_error_count(cx), 1);
    kd_context_free(cx);
}

static bool parse_survives(KdContext *cx, const char *text, size_t n) {
    KdLanding l;
    if (!KD_TRY(cx, l)) return false;
    parse(cx, text, n);
    kd_landing_pop(cx);
    return true;
}

/* Every prefix of a good text, and the text with single bytes changed: refused or accepted, never worse. */
static void damaged(void **state) {
    (void)state;
    const char *text = round_trips[2].text;
    size_t n = strlen(text);
    for (size_t at = 0; at < n; at++) {
        char *copy = malloc(n); /* exactly as long, so that reading beyond it shows */
        memcpy(copy, text, n);
        KdContext *cx = kd_context_new();
        assert_true(parse_survives(cx, copy, at));
        copy[at] = "%{}[]()\"0-,=:#@\\\n"[at % 18];
        assert_true(parse_survives(cx, copy, n));
        kd_context_free(cx);
        free(copy);
    }
}

/* Many errors: twenty are shown, and reading stops. */
static void many_errors(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdStr text = {.cx = cx};
    kd_str_printf(&text, "func @f {\n");
    for (int i = 0; i < 1000; i++) kd_str_printf(&text, "  %%%d = what\n", i);
    assert_null(parse(cx, text.s, text.n));
    assert_int_equal(kd_error_count(cx), 20);
    kd_context_free(cx);
}

static void add(struct CMUnitTest *t, size_t *n, const Case *c, int count, CMUnitTestFunction fn) {
    for (int i = 0; i < count; i++) t[(*n)++] = (struct CMUnitTest){c[i].name, fn, NULL, NULL, (void *)&c[i]};
}

int main(void) {
    struct CMUnitTest t[KD_COUNT(round_trips) + KD_COUNT(loose) + KD_COUNT(errors) + 3];
    size_t n = 0;
    add(t, &n, round_trips, KD_COUNT(round_trips), round_trip);
    add(t, &n, loose, KD_COUNT(loose), loose_text);
    add(t, &n, errors, KD_COUNT(errors), wrong_text);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(silent_users);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(damaged);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(many_errors);
    return _cmocka_run_group_tests("text", t, n, NULL, NULL);
}
