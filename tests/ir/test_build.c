/* test_build.c: the one door: what it simplifies, shares, orders and refuses, and the shorthands over it.
 *
 * A row of `rules` is the body of a function as written and as it must come out when every node goes through the builder.
 * Beyond the text, both are evaluated on the same numbers: a rule may not change a value.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ir/ir.h"

#define X "%0 = input {name=\"x\"}: f32[2, 3]\n"
#define C(n, v) "%" #n " = const {value=" v "}: f32[2, 3]\n"
#define U(n, op, a) "%" #n " = " op "(%" #a "): f32[2, 3]\n"
#define B(n, op, a, c) "%" #n " = " op "(%" #a ", %" #c "): f32[2, 3]\n"
#define Y(n) "output \"y\" = %" #n "\n"

static const struct Rule { const char *name, *before, *after; } rules[] = {
    {"x + 0", X C(1, "0") B(2, "add", 0, 1) Y(2), X C(1, "0") Y(0)},
    {"0 + x", X C(1, "0") B(2, "add", 1, 0) Y(2), X C(1, "0") Y(0)},
    {"x + -0", X C(1, "-0") B(2, "add", 0, 1) Y(2), X C(1, "-0") Y(0)},
    {"x - 0", X C(1, "0") B(2, "sub", 0, 1) Y(2), X C(1, "0") Y(0)},
    {"0 - x stays", X C(1, "0") B(2, "sub", 1, 0) Y(2), X C(1, "0") B(2, "sub", 1, 0) Y(2)},
    {"x * 1", X C(1, "1") B(2, "mul", 1, 0) Y(2), X C(1, "1") Y(0)},
    {"x * -1", X C(1, "-1") B(2, "mul", 0, 1) Y(2), X C(1, "-1") U(2, "neg", 0) Y(2)},
    {"x * 0 stays", X C(1, "0") B(2, "mul", 0, 1) Y(2), X C(1, "0") B(2, "mul", 0, 1) Y(2)},
    {"x / 1", X C(1, "1") B(2, "div", 0, 1) Y(2), X C(1, "1") Y(0)},
    {"1 / x stays", X C(1, "1") B(2, "div", 1, 0) Y(2), X C(1, "1") B(2, "div", 1, 0) Y(2)},
    {"--x", X U(1, "neg", 0) U(2, "neg", 1) Y(2), X U(1, "neg", 0) Y(0)},
    {"relu(relu(x))", X U(1, "relu", 0) U(2, "relu", 1) Y(2), X U(1, "relu", 0) Y(1)},
    {"|-x| stays", X U(1, "neg", 0) U(2, "abs", 1) Y(2), X U(1, "neg", 0) U(2, "abs", 1) Y(2)},
    {"where true", X C(1, "2") C(2, "5") "%3 = where(%1, %0, %2): f32[2, 3]\n" Y(3), X C(1, "2") C(2, "5") Y(0)},
    {"where false", X C(1, "0") C(2, "5") "%3 = where(%1, %2, %0): f32[2, 3]\n" Y(3), X C(1, "0") C(2, "5") Y(0)},
    {"where both", X "%1 = where(%0, %0, %0): f32[2, 3]\n" Y(1), X Y(0)},
    {"constants fold", C(0, "2") C(1, "3") B(2, "pow", 0, 1) U(3, "rsqrt", 2) U(4, "detach", 3) Y(4),
     C(0, "2") C(1, "3") C(2, "8") C(3, "0.35355338") Y(3)},
    {"what is not finite does not fold", C(0, "0") U(1, "log", 0) Y(1), C(0, "0") U(1, "log", 0) Y(1)},
    {"integers fold", "%0 = const {value=7}: i32[]\n%1 = const {value=-2}: i32[]\n%2 = div(%0, %1): i32[]\n"
     "%3 = cast(%2) {dtype=\"f32\"}: f32[]\n" Y(3),
     "%0 = const {value=7}: i32[]\n%1 = const {value=-2}: i32[]\n%2 = const {value=-3}: i32[]\n%3 = const {value=-3}: f32[]\n" Y(3)},
    {"moved constants", C(0, "4") "%1 = transpose(%0) {perm=[1, 0]}: f32[3, 2]\n%2 = reshape(%1) {shape=[6, 1]}: f32[6, 1]\n"
     "%3 = broadcast(%2) {shape=[6, 5]}: f32[6, 5]\n%4 = slice(%3) {begin=[0, 0], end=[6, 1], step=[2, 1]}: f32[3, 1]\n"
     "%5 = sum(%4) {axes=[0]}: f32[1, 1]\n" Y(5),
     C(0, "4") "%1 = const {value=4}: f32[3, 2]\n%2 = const {value=4}: f32[6, 1]\n%3 = const {value=4}: f32[6, 5]\n"
     "%4 = const {value=4}: f32[3, 1]\n%5 = const {value=12}: f32[1, 1]\n" Y(5)},
    {"a padded constant", C(0, "0") "%1 = pad(%0) {lo=[1, 0], hi=[0, 0], interior=[0, 0]}: f32[3, 3]\n" Y(1),
     C(0, "0") "%1 = const {value=0}: f32[3, 3]\n" Y(1)},
    {"a constant padded with another", C(0, "1") "%1 = pad(%0) {lo=[1, 0], hi=[0, 0], interior=[0, 0]}: f32[3, 3]\n" Y(1),
     C(0, "1") "%1 = pad(%0) {lo=[1, 0], hi=[0, 0], interior=[0, 0]}: f32[3, 3]\n" Y(1)},
    {"transposes that undo each other", X "%1 = transpose(%0) {perm=[1, 0]}: f32[3, 2]\n%2 = transpose(%1) {perm=[1, 0]}: f32[2, 3]\n" Y(2),
     X "%1 = transpose(%0) {perm=[1, 0]}: f32[3, 2]\n" Y(0)},
    {"transposes merge", "%0 = input {name=\"x\"}: f32[2, 3, 4]\n%1 = transpose(%0) {perm=[1, 2, 0]}: f32[3, 4, 2]\n"
     "%2 = transpose(%1) {perm=[0, 2, 1]}: f32[3, 2, 4]\n" Y(2),
     "%0 = input {name=\"x\"}: f32[2, 3, 4]\n%1 = transpose(%0) {perm=[1, 2, 0]}: f32[3, 4, 2]\n"
     "%2 = transpose(%0) {perm=[1, 0, 2]}: f32[3, 2, 4]\n" Y(2)},
    {"reshapes merge", X "%1 = reshape(%0) {shape=[6]}: f32[6]\n%2 = reshape(%1) {shape=[3, 2]}: f32[3, 2]\n" Y(2),
     X "%1 = reshape(%0) {shape=[6]}: f32[6]\n%2 = reshape(%0) {shape=[3, 2]}: f32[3, 2]\n" Y(2)},
    {"broadcasts merge", "%0 = input {name=\"x\"}: f32[1, 1]\n%1 = broadcast(%0) {shape=[2, 1]}: f32[2, 1]\n"
     "%2 = broadcast(%1) {shape=[2, 3]}: f32[2, 3]\n" Y(2),
     "%0 = input {name=\"x\"}: f32[1, 1]\n%1 = broadcast(%0) {shape=[2, 1]}: f32[2, 1]\n"
     "%2 = broadcast(%0) {shape=[2, 3]}: f32[2, 3]\n" Y(2)},
    {"a slice with a step stays", X "%1 = slice(%0) {begin=[0, 0], end=[2, 3], step=[1, 2]}: f32[2, 2]\n" Y(1),
     X "%1 = slice(%0) {begin=[0, 0], end=[2, 3], step=[1, 2]}: f32[2, 2]\n" Y(1)},
    {"a shift is no empty pad", X "%1 = pad(%0) {lo=[1, 0], hi=[-1, 0], interior=[0, 0]}: f32[2, 3]\n" Y(1),
     X "%1 = pad(%0) {lo=[1, 0], hi=[-1, 0], interior=[0, 0]}: f32[2, 3]\n" Y(1)},
    {"sums over single elements", "%0 = input {name=\"x\"}: f32[1, 3, 1]\n%1 = sum(%0) {axes=[0, 1, 2]}: f32[1, 1, 1]\n"
     "%2 = sum(%0) {axes=[0, 2]}: f32[1, 3, 1]\n%3 = add(%1, %1): f32[1, 1, 1]\noutput \"s\" = %3\n" Y(2),
     "%0 = input {name=\"x\"}: f32[1, 3, 1]\n%1 = sum(%0) {axes=[1]}: f32[1, 1, 1]\n"
     "%2 = add(%1, %1): f32[1, 1, 1]\noutput \"s\" = %2\n" Y(0)},
    {"equal nodes are one", X U(1, "exp", 0) U(2, "exp", 0) B(3, "add", 1, 2) Y(3), X U(1, "exp", 0) B(2, "add", 1, 1) Y(2)},
    {"commuting operands in one order", X "%1 = input {name=\"z\"}: f32[2, 3]\n" B(2, "mul", 0, 1) B(3, "mul", 1, 0) B(4, "sub", 2, 3) Y(4),
     X "%1 = input {name=\"z\"}: f32[2, 3]\n" B(2, "mul", 0, 1) B(3, "sub", 2, 2) Y(3)},
    {"others keep theirs", X "%1 = input {name=\"z\"}: f32[2, 3]\n" B(2, "sub", 1, 0) B(3, "lt", 1, 0) B(4, "add", 2, 3) Y(4),
     X "%1 = input {name=\"z\"}: f32[2, 3]\n" B(2, "sub", 1, 0) B(3, "lt", 1, 0) B(4, "add", 2, 3) Y(4)},
    {"attributes tell nodes apart", X "%1 = leaky_relu(%0) {slope=0.1}: f32[2, 3]\n%2 = leaky_relu(%0) {slope=0.2}: f32[2, 3]\n" B(3, "add", 1, 2) Y(3),
     X "%1 = leaky_relu(%0) {slope=0.1}: f32[2, 3]\n%2 = leaky_relu(%0) {slope=0.2}: f32[2, 3]\n" B(3, "add", 1, 2) Y(3)},
    {"random draws with one stream are one draw",
     "%0 = input {name=\"seed\"}: i32[]\n%1 = random(%0, %0) {stream=1, shape=[4]}: f32[4]\n%2 = random(%0, %0) {stream=1, shape=[4]}: f32[4]\n"
     "%3 = random(%0, %0) {stream=2, shape=[4]}: f32[4]\n%4 = sub(%1, %2): f32[4]\n%5 = add(%4, %3): f32[4]\n" Y(5),
     "%0 = input {name=\"seed\"}: i32[]\n%1 = random(%0, %0) {stream=1, shape=[4]}: f32[4]\n%2 = random(%0, %0) {stream=2, shape=[4]}: f32[4]\n"
     "%3 = sub(%1, %1): f32[4]\n%4 = add(%2, %3): f32[4]\n" Y(4)},
};

static KdFunc *parse(KdContext *cx, const char *body) {
    const char *text = kd_format(cx, "func @f {\n%s}\n", body);
    KdModule *m = kd_parse_module(cx, "t", text, strlen(text));
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    return m->funcs.v[0];
}

static KdFunc *through_the_door(const KdFunc *f) {
    KdFunc *g = kd_func_new(f->cx, f->name);
    KdBuilder b = kd_builder(g);
    KdValue *to = KD_NEW_ARRAY(f->cx, KdValue, f->n), in[8];
    for (KdValue v = 0; v < f->n; v++) {
        for (int k = 0; k < f->nodes[v].n_in; k++) in[k] = to[f->nodes[v].in[k]];
        to[v] = kd_rebuild(&b, f, v, in);
        assert_int_not_equal(to[v], KD_NONE);
    }
    for (int k = 0; k < f->outputs.n; k++) kd_output(g, f->outputs.v[k].name, to[f->outputs.v[k].value], KD_NONE);
    return g;
}

static const char *print(const KdFunc *f) {
    KdStr s = {.cx = f->cx};
    kd_print_func(&s, f);
    return s.s;
}

static double **evaluate(const KdFunc *f) {
    KdContext *cx = f->cx;
    double **in = KD_NEW_ARRAY(cx, double *, f->inputs.n + 1), **out = KD_NEW_ARRAY(cx, double *, f->outputs.n + 1);
    for (int k = 0; k < f->inputs.n; k++) {
        const KdType *t = kd_vtype(f, f->inputs.v[k]);
        in[k] = KD_NEW_ARRAY(cx, double, t->count + 1);
        for (int64_t i = 0; i < t->count; i++) in[k][i] = t->dtype == KD_I32 ? 5 : 1.37 * (double)(i + k) - 2.2;
    }
    for (int k = 0; k < f->outputs.n; k++)
        out[k] = KD_NEW_ARRAY(cx, double, kd_vtype(f, f->outputs.v[k].value)->count + 1);
    kd_eval(f, (const double *const *)in, out);
    return out;
}

static void run_rule(void **state) {
    const struct Rule *r = *state;
    KdContext *cx = kd_context_new();
    KdFunc *before = parse(cx, r->before), *after = through_the_door(before);
    assert_string_equal(print(after), print(parse(cx, r->after)));
    assert_string_equal(print(through_the_door(after)), print(after)); /* nothing is left to do */
    double **want = evaluate(before), **got = evaluate(after);
    for (int k = 0; k < before->outputs.n; k++)
        for (int64_t i = 0; i < kd_vtype(before, before->outputs.v[k].value)->count; i++)
            if (!(got[k][i] == want[k][i] || fabs(got[k][i] - want[k][i]) <= 1e-7 * fabs(want[k][i])))
                fail_msg("element %d is %g, was %g", (int)i, got[k][i], want[k][i]);
    kd_context_free(cx);
}

/* ---- the shorthands ---------------------------------------------------------------------------------- */

typedef struct Bench {
    KdContext *cx;
    KdBuilder b;
} Bench;

static int open_bench(void **state) {
    Bench *t = malloc(sizeof *t);
    t->cx = kd_context_new();
    t->b = kd_builder(kd_func_new(t->cx, "f"));
    *state = t;
    return 0;
}

static int close_bench(void **state) {
    kd_context_free(((Bench *)*state)->cx);
    free(*state);
    return 0;
}

static KdValue input(Bench *t, int rank, const int64_t *dim) {
    return kd_input(&t->b, kd_format(t->cx, "x%u", t->b.f->n), KD_DATA, kd_type(t->cx, KD_F32, rank, dim), "");
}

static void expect_type(Bench *t, KdValue v, const char *want) {
    assert_int_not_equal(v, KD_NONE);
    assert_string_equal(kd_type_text(t->cx, kd_vtype(t->b.f, v)), want);
}

static void expect_error(Bench *t, KdValue v, const char *want) {
    assert_int_equal(v, KD_NONE);
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    kd_diag_print(t->cx, out, false);
    fclose(out);
    if (!strstr(text, want)) fail_msg("expected \"%s\", found \"%s\"", want, text);
    free(text);
}

static void broadcasting(void **state) {
    Bench *t = *state;
    KdBuilder *b = &t->b;
    KdValue x = input(t, 4, (int64_t[]){2, 3, 4, 5}), c = input(t, 3, (int64_t[]){3, 1, 1}), s = input(t, 0, NULL);
    KdValue row = input(t, 2, (int64_t[]){4, 1}), other = input(t, 1, (int64_t[]){7});
    expect_type(t, kd_binary(b, KD_OP_ADD, x, c), "f32[2, 3, 4, 5]");
    expect_type(t, kd_binary(b, KD_OP_SUB, s, x), "f32[2, 3, 4, 5]");
    expect_type(t, kd_binary(b, KD_OP_MUL, row, other), "f32[4, 7]");
    expect_type(t, kd_binary(b, KD_OP_LT, s, s), "f32[]");
    expect_type(t, kd_where(b, s, row, other), "f32[4, 7]");
    expect_type(t, kd_where(b, x, s, c), "f32[2, 3, 4, 5]");
    expect_error(t, kd_binary(b, KD_OP_ADD, x, other), "add: widths differ along dimension 3: 5 and 7");
    expect_error(t, kd_where(b, other, x, s), "where: widths differ along dimension 3");
    assert_int_equal(kd_binary(b, KD_OP_ADD, KD_NONE, x), KD_NONE); /* silently: it has been said */
    assert_int_equal(kd_error_count(t->cx), 2);
}

static void sums_down(void **state) {
    Bench *t = *state;
    KdValue x = input(t, 4, (int64_t[]){2, 3, 4, 5});
    static const int64_t shapes[][4] = {{3, 1, 1}, {4, 5}, {1, 3, 1, 5}, {2, 3, 4, 5}};
    static const int ranks[] = {3, 2, 4, 4};
    for (int k = 0; k < 4; k++) {
        const KdType *to = kd_type(t->cx, KD_F32, ranks[k], shapes[k]);
        assert_ptr_equal(kd_vtype(t->b.f, kd_sum_to(&t->b, x, to)), to);
    }
    assert_int_equal(kd_sum_to(&t->b, x, kd_vtype(t->b.f, x)), x);
    expect_type(t, kd_sum_to(&t->b, x, kd_type(t->cx, KD_F32, 0, NULL)), "f32[]");
}

static void refusals(void **state) {
    Bench *t = *state;
    KdBuilder *b = &t->b;
    KdValue x = input(t, 2, (int64_t[]){2, 3}), i = kd_cast(b, x, KD_I32);
    expect_error(t, kd_build(b, KD_OP_ADD, NULL, &x, 1, NULL), "add: expects 2 operands, found 1");
    expect_error(t, kd_build(b, KD_OP_CONCAT, NULL, NULL, 0, (KdAttr[]){{.i = 0}}), "concat: needs at least one operand");
    expect_error(t, kd_reshape(b, x, 1, (int64_t[]){7}), "reshape: ");
    expect_error(t, kd_binary(b, KD_OP_ADD, x, i), "add: element types differ: f32 and i32");
    expect_error(t, kd_unary(b, KD_OP_EXP, i), "exp: expected f32 elements");
    expect_error(t, kd_transpose(b, x, (int64_t[]){0, 2}), "transpose: ");
}

/* An equal node keeps the place of the first. */
static void first_place_wins(void **state) {
    Bench *t = *state;
    KdValue x = input(t, 1, (int64_t[]){4});
    t->b.loc = kd_loc(t->cx, (KdPlace){.file = "a", .line = 1, .col = 1});
    KdLoc first = t->b.loc;
    KdValue y = kd_unary(&t->b, KD_OP_EXP, x);
    t->b.loc = kd_loc(t->cx, (KdPlace){.file = "a", .line = 2, .col = 1});
    assert_int_equal(kd_unary(&t->b, KD_OP_EXP, x), y);
    assert_int_equal(kd_node(t->b.f, y)->loc, first);
    assert_int_not_equal(kd_input(&t->b, "same", KD_DATA, kd_vtype(t->b.f, x), ""), x); /* inputs are never shared */
}

/* Attribute arrays belong to the node: the caller's may change afterwards. */
static void attributes_are_copied(void **state) {
    Bench *t = *state;
    int64_t perm[] = {1, 0};
    KdValue x = input(t, 2, (int64_t[]){2, 3}), y = kd_transpose(&t->b, x, perm);
    perm[0] = 0, perm[1] = 1;
    assert_int_equal(kd_attr_ints(t->b.f, kd_node(t->b.f, y), "perm").v[0], 1);
}

static void many_nodes(void **state) {
    Bench *t = *state;
    KdValue x = input(t, 1, (int64_t[]){4}), v = x;
    for (int k = 0; k < 5000; k++) v = kd_unary(&t->b, k % 2 ? KD_OP_EXP : KD_OP_TANH, v);
    uint32_t n = t->b.f->n;
    v = x;
    for (int k = 0; k < 5000; k++) v = kd_unary(&t->b, k % 2 ? KD_OP_EXP : KD_OP_TANH, v);
    assert_int_equal(t->b.f->n, n); /* all of them found again */
    assert_int_equal(n, 5001);
}

#define WITH_BENCH(fn) cmocka_unit_test_setup_teardown(fn, open_bench, close_bench)

int main(void) {
    const struct CMUnitTest more[] = {
        WITH_BENCH(broadcasting), WITH_BENCH(sums_down), WITH_BENCH(refusals), WITH_BENCH(first_place_wins),
        WITH_BENCH(attributes_are_copied), WITH_BENCH(many_nodes),
    };
    struct CMUnitTest t[KD_COUNT(rules) + KD_COUNT(more)];
    for (int k = 0; k < KD_COUNT(rules); k++)
        t[k] = (struct CMUnitTest){rules[k].name, run_rule, NULL, NULL, (void *)&rules[k]};
    for (int k = 0; k < KD_COUNT(more); k++) t[KD_COUNT(rules) + k] = more[k];
    return _cmocka_run_group_tests("build", t, KD_COUNT(t), NULL, NULL);
}
