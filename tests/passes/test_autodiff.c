/* test_autodiff.c: what autodiff makes, evaluated, against central differences: gradients, and gradients of gradients.
 *
 * A case is the body of a function, graph IR whose last line is a value. Two functions are made of it, in the order in
 * which a program would ask for it:
 *     first:   s = sum(r * value) with fixed r, and g_i = grad(s, input_i) for every f32 input
 *     second:  the same, then t = sum_i sum(q_i * g_i) with fixed q_i, and h_i = grad(t, input_i)
 * Both go through the pass once. g is compared with differences of s, h with differences of t as the first function's
 * gradients give it: so an error in a gradient cannot hide in both.
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

#include "passes/passes.h"

/* Inputs: f32 in [-1.5, 1.5], a little away from 0; those whose name begins with p in [0.4, 1.9]; i32 in {0, 1, 2}. */
static const struct Case { const char *name, *body; } cases[] = {
    {"elementwise",
     "%0 = input {name=\"x\"}: f32[5]\n%1 = input {name=\"p\"}: f32[5]\n"
     "%2 = mul(%0, %1): f32[5]\n%3 = div(%2, %1): f32[5]\n%4 = pow(%1, %0): f32[5]\n%5 = log(%1): f32[5]\n"
     "%6 = add(%3, %4): f32[5]\n%7 = sub(%5, %6): f32[5]\n%8 = sqrt(%1): f32[5]\n%9 = mul(%7, %8): f32[5]\n"
     "%10 = sigmoid(%9): f32[5]\n%11 = softplus(%0): f32[5]\n%12 = mul(%10, %11): f32[5]\n%13 = reciprocal(%1): f32[5]\n"
     "%14 = rsqrt(%13): f32[5]\n%15 = mul(%12, %14): f32[5]\n%16 = abs(%15): f32[5]\n%17 = neg(%16): f32[5]\n"},
    {"conv, bias, relu",
     "%0 = input {name=\"x\"}: f32[2, 2, 5, 4]\n%1 = input {name=\"w\"}: f32[3, 2, 3, 3]\n%2 = input {name=\"b\"}: f32[1, 3, 1, 1]\n"
     "%3 = conv2d(%0, %1) {stride=[2, 1], pad=[1, 1, 0, 1]}: f32[2, 3, 2, 4]\n%4 = broadcast(%2) {shape=[2, 3, 2, 4]}: f32[2, 3, 2, 4]\n"
     "%5 = add(%3, %4): f32[2, 3, 2, 4]\n%6 = relu(%5): f32[2, 3, 2, 4]\n%7 = square(%6): f32[2, 3, 2, 4]\n"},
    {"instance norm",
     "%0 = input {name=\"x\"}: f32[2, 2, 3, 3]\n%1 = sum(%0) {axes=[2, 3]}: f32[2, 2, 1, 1]\n%2 = const {value=0.11111111}: f32[2, 2, 1, 1]\n"
     "%3 = mul(%1, %2): f32[2, 2, 1, 1]\n%4 = broadcast(%3) {shape=[2, 2, 3, 3]}: f32[2, 2, 3, 3]\n%5 = sub(%0, %4): f32[2, 2, 3, 3]\n"
     "%6 = square(%5): f32[2, 2, 3, 3]\n%7 = sum(%6) {axes=[2, 3]}: f32[2, 2, 1, 1]\n%8 = mul(%7, %2): f32[2, 2, 1, 1]\n"
     "%9 = const {value=1e-5}: f32[2, 2, 1, 1]\n%10 = add(%8, %9): f32[2, 2, 1, 1]\n%11 = rsqrt(%10): f32[2, 2, 1, 1]\n"
     "%12 = broadcast(%11) {shape=[2, 2, 3, 3]}: f32[2, 2, 3, 3]\n%13 = mul(%5, %12): f32[2, 2, 3, 3]\n"},
    {"where, maximum, clamp, leaky relu",
     "%0 = input {name=\"x\"}: f32[9]\n%1 = input {name=\"y\"}: f32[9]\n%2 = lt(%0, %1): f32[9]\n%3 = exp(%0): f32[9]\n%4 = square(%1): f32[9]\n"
     "%5 = where(%2, %3, %4): f32[9]\n%6 = maximum(%5, %0): f32[9]\n%7 = minimum(%6, %1): f32[9]\n%8 = leaky_relu(%7) {slope=0.2}: f32[9]\n"
     "%9 = clamp(%0) {min=-0.7, max=0.9}: f32[9]\n%10 = mul(%8, %9): f32[9]\n%11 = mul(%10, %0): f32[9]\n"},
    {"gather and scatter",
     "%0 = input {name=\"x\"}: f32[3, 4]\n%1 = input {name=\"i\"}: i32[2, 4]\n%2 = gather(%0, %1) {axis=0}: f32[2, 4]\n"
     "%3 = square(%2): f32[2, 4]\n%4 = scatter_add(%3, %1) {axis=0, size=3}: f32[3, 4]\n%5 = mul(%4, %0): f32[3, 4]\n"},
    {"reflection pad",
     "%0 = input {name=\"x\"}: f32[1, 1, 4, 5]\n%1 = input {name=\"w\"}: f32[2, 1, 3, 3]\n"
     "%2 = pad_reflect(%0) {lo=[0, 0, 2, 1], hi=[0, 0, 1, 3]}: f32[1, 1, 7, 9]\n%3 = conv2d(%2, %1): f32[1, 2, 5, 7]\n%4 = tanh(%3): f32[1, 2, 5, 7]\n"},
    {"replicate pad, pools, upsampling",
     "%0 = input {name=\"x\"}: f32[1, 2, 4, 4]\n%1 = pad_replicate(%0) {lo=[0, 0, 1, 1], hi=[0, 0, 1, 0]}: f32[1, 2, 6, 5]\n"
     "%2 = pool_sum(%1) {kernel=[3, 2], stride=[1, 2]}: f32[1, 2, 4, 2]\n%3 = square(%2): f32[1, 2, 4, 2]\n"
     "%4 = upsample_nearest(%3) {size=[7, 4]}: f32[1, 2, 7, 4]\n%5 = tanh(%4): f32[1, 2, 7, 4]\n"},
    {"softmax cross entropy",
     "%0 = input {name=\"x\"}: f32[3, 5]\n%1 = max(%0) {axes=[1]}: f32[3, 1]\n%2 = detach(%1): f32[3, 1]\n"
     "%3 = broadcast(%2) {shape=[3, 5]}: f32[3, 5]\n%4 = sub(%0, %3): f32[3, 5]\n%5 = exp(%4): f32[3, 5]\n%6 = sum(%5) {axes=[1]}: f32[3, 1]\n"
     "%7 = log(%6): f32[3, 1]\n%8 = broadcast(%7) {shape=[3, 5]}: f32[3, 5]\n%9 = sub(%4, %8): f32[3, 5]\n"},
    {"maxima",
     "%0 = input {name=\"x\"}: f32[2, 3, 4]\n%1 = max(%0) {axes=[0, 2]}: f32[1, 3, 1]\n%2 = square(%1): f32[1, 3, 1]\n"},
    {"attention",
     "%0 = input {name=\"q\"}: f32[2, 3, 4]\n%1 = input {name=\"k\"}: f32[2, 5, 4]\n%2 = matmul(%0, %1) {tb=1}: f32[2, 3, 5]\n"
     "%3 = exp(%2): f32[2, 3, 5]\n%4 = sum(%3) {axes=[2]}: f32[2, 3, 1]\n%5 = broadcast(%4) {shape=[2, 3, 5]}: f32[2, 3, 5]\n"
     "%6 = div(%3, %5): f32[2, 3, 5]\n%7 = matmul(%6, %1): f32[2, 3, 4]\n%8 = matmul(%7, %0) {ta=1}: f32[2, 4, 4]\n"},
    {"moves",
     "%0 = input {name=\"x\"}: f32[2, 3, 4]\n%1 = transpose(%0) {perm=[2, 0, 1]}: f32[4, 2, 3]\n%2 = square(%1): f32[4, 2, 3]\n"
     "%3 = slice(%2) {begin=[0, 0, 1], end=[4, 2, 3], step=[2, 1, 1]}: f32[2, 2, 2]\n"
     "%4 = pad(%3) {lo=[1, -1, 0], hi=[0, 1, 2], interior=[1, 0, 2]}: f32[4, 2, 6]\n%5 = concat(%4, %4, %4) {axis=1}: f32[4, 6, 6]\n"
     "%6 = reshape(%5) {shape=[12, 12]}: f32[12, 12]\n%7 = matmul(%6, %6) {ta=1}: f32[12, 12]\n"},
    {"transposed and grouped convolutions",
     "%0 = input {name=\"x\"}: f32[1, 4, 3, 3]\n%1 = input {name=\"w\"}: f32[4, 1, 3, 3]\n%2 = input {name=\"v\"}: f32[2, 2, 2, 2]\n"
     "%3 = conv_transpose2d(%0, %1) {stride=[2, 2], pad=[1, 1, 1, 1], groups=2, output_padding=[1, 1]}: f32[1, 2, 6, 6]\n"
     "%4 = tanh(%3): f32[1, 2, 6, 6]\n%5 = conv2d(%4, %2) {dilation=[2, 1]}: f32[1, 2, 4, 5]\n%6 = square(%5): f32[1, 2, 4, 5]\n"},
    {"a value of many users",
     "%0 = input {name=\"x\"}: f32[3]\n%1 = tanh(%0): f32[3]\n%2 = mul(%1, %1): f32[3]\n%3 = mul(%2, %1): f32[3]\n%4 = add(%3, %1): f32[3]\n"
     "%5 = mul(%4, %0): f32[3]\n%6 = add(%5, %2): f32[3]\n"},
};

static double noise(uint64_t *seed) { /* [0, 1) */
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(*seed >> 40) / (double)(1 << 24);
}

/* sum(r * v) with fixed r in [-1, 1], as a scalar. */
static KdValue weigh(KdBuilder *b, KdValue v, uint64_t seed) {
    const KdType *t = kd_vtype(b->f, v);
    double *r = KD_NEW_ARRAY(b->cx, double, t->count);
    for (int64_t i = 0; i < t->count; i++) r[i] = 2 * noise(&seed) - 1;
    KdAttr a = {.floats = {(int)t->count, r}};
    KdValue p = kd_binary(b, KD_OP_MUL, v, kd_build(b, KD_OP_LITERAL, t, NULL, 0, &a));
    const KdType *scalar = kd_type(b->cx, KD_F32, 0, NULL);
    return kd_sum_to(b, p, scalar);
}

/* The case's body once more, in a function of its own; what is asked for becomes its outputs. */
static KdFunc *make(const KdFunc *body, int order) {
    KdFunc *f = kd_func_new(body->cx, "f");
    KdBuilder b = kd_builder(f);
    KdValue *to = KD_NEW_ARRAY(b.cx, KdValue, body->n), in[8];
    for (KdValue v = 0; v < body->n; v++) {
        for (int k = 0; k < body->nodes[v].n_in; k++) in[k] = to[body->nodes[v].in[k]];
        to[v] = kd_rebuild(&b, body, v, in);
        assert_int_not_equal(to[v], KD_NONE);
    }
    KdValue s = weigh(&b, to[body->n - 1], 1);
    kd_output(f, "s", s, KD_NONE);
    for (int pass = 0; pass < order; pass++) {
        KdValue next = kd_const(&b, kd_type(b.cx, KD_F32, 0, NULL), 0);
        for (int k = 0; k < f->inputs.n; k++) {
            KdValue w[2] = {s, f->inputs.v[k]};
            if (kd_vtype(f, w[1])->dtype != KD_F32) continue;
            KdValue g = kd_build(&b, KD_OP_GRAD, NULL, w, 2, NULL);
            kd_output(f, kd_format(b.cx, "g%d.%d", pass, k), g, KD_NONE);
            next = kd_binary(&b, KD_OP_ADD, next, weigh(&b, g, (uint64_t)k + 2));
        }
        s = next;
        kd_output(f, kd_format(b.cx, "s%d", pass + 1), s, KD_NONE);
    }
    return kd_pass_autodiff(f);
}

static double **results(const KdFunc *f) {
    double **out = KD_NEW_ARRAY(f->cx, double *, f->outputs.n);
    for (int k = 0; k < f->outputs.n; k++)
        out[k] = KD_NEW_ARRAY(f->cx, double, kd_vtype(f, f->outputs.v[k].value)->count + 1);
    return out;
}

static int output_named(const KdFunc *f, const char *name) {
    for (int k = 0; k < f->outputs.n; k++)
        if (!strcmp(f->outputs.v[k].name, name)) return k;
    fail_msg("no output %s", name);
    return -1;
}

static double **fill(const KdFunc *f) {
    double **in = KD_NEW_ARRAY(f->cx, double *, f->inputs.n);
    uint64_t seed = 12345;
    for (int k = 0; k < f->inputs.n; k++) {
        const KdType *t = kd_vtype(f, f->inputs.v[k]);
        bool positive = kd_attr_str(f, kd_node(f, f->inputs.v[k]), "name")[0] == 'p';
        in[k] = KD_NEW_ARRAY(f->cx, double, t->count + 1);
        for (int64_t i = 0; i < t->count; i++) {
            double u = noise(&seed);
            in[k][i] = t->dtype == KD_I32 ? floor(3 * u) : positive ? 0.4 + 1.5 * u : u < 0.5 ? -1.5 + 2.9 * u : 0.05 + 2.9 * (u - 0.5);
        }
    }
    return in;
}

/* Output `gradient` of f against differences of output `scalar` of f along input k. */
static void compare(const KdFunc *f, double **in, int k, const char *gradient, const KdFunc *of, const char *scalar) {
    enum { MOST = 24 }; /* elements looked at */
    const double eps = 1e-6;
    double **out = results(f), **moved = results(of);
    kd_eval(f, (const double *const *)in, out);
    const double *g = out[output_named(f, gradient)];
    int s = output_named(of, scalar);
    int64_t count = kd_vtype(f, f->inputs.v[k])->count, step = count / MOST + 1;
    for (int64_t i = 0; i < count; i += step) {
        double was = in[k][i];
        in[k][i] = was + eps;
        kd_eval(of, (const double *const *)in, moved);
        double high = moved[s][0];
        in[k][i] = was - eps;
        kd_eval(of, (const double *const *)in, moved);
        double want = (high - moved[s][0]) / (2 * eps);
        in[k][i] = was;
        if (!(fabs(g[i] - want) <= 1e-6 + 1e-5 * fabs(want)))
            fail_msg("%s[%d] is %.9g, differences say %.9g", gradient, (int)i, g[i], want);
    }
}

static void run_case(void **state) {
    const struct Case *c = *state;
    KdContext *cx = kd_context_new();
    const char *text = kd_format(cx, "func @body {\n%s}\n", c->body);
    KdModule *m = kd_parse_module(cx, c->name, text, strlen(text));
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    KdFunc *first = make(m->funcs.v[0], 1), *second = make(m->funcs.v[0], 2);
    KdStr why = {.cx = cx};
    if (!kd_verify(first, &why) || !kd_verify(second, &why)) fail_msg("%s", why.s);
    for (KdValue v = 0; v < second->n; v++) assert_int_not_equal(second->nodes[v].op, KD_OP_GRAD);
    double **in = fill(first);
    for (int k = 0; k < first->inputs.n; k++) {
        if (kd_vtype(first, first->inputs.v[k])->dtype != KD_F32) continue;
        compare(first, in, k, kd_format(cx, "g0.%d", k), first, "s");
        compare(second, in, k, kd_format(cx, "g0.%d", k), first, "s");
        compare(second, in, k, kd_format(cx, "g1.%d", k), first, "s1");
    }
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest t[KD_COUNT(cases)];
    for (int k = 0; k < KD_COUNT(cases); k++)
        t[k] = (struct CMUnitTest){cases[k].name, run_case, NULL, NULL, (void *)&cases[k]};
    return _cmocka_run_group_tests("autodiff", t, KD_COUNT(cases), NULL, NULL);
}
