/* test_pipeline.c: the pipeline's order, its observer, passes left out, and what happens when a step is given or makes
 * something broken: the failure is ours and names the step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "passes/passes.h"

static const char step[] = "func @step {\n"
                           "  %0 = input {name=\"x\"}: f32[4, 64]\n"
                           "  %1 = input {name=\"w\", role=\"weight\"}: f32[64, 8]\n"
                           "  %2 = input {name=\"unused\"}: f32[3]\n"
                           "  %3 = matmul(%0, %1): f32[4, 8]\n"
                           "  %4 = detach(%3): f32[4, 8]\n"
                           "  %5 = mul(%3, %4): f32[4, 8]\n"
                           "  %6 = sum(%5) {axes=[0, 1]}: f32[1, 1]\n"
                           "  %7 = reshape(%6) {shape=[]}: f32[]\n"
                           "  %8 = grad(%7, %1): f32[64, 8]\n"
                           "  %9 = const {value=0.1}: f32[]\n"
                           "  %10 = sgd(%1, %8, %1, %9) {part=0}: f32[64, 8]\n"
                           "  %11 = exp(%10): f32[64, 8]\n"
                           "  output \"loss\" = %7\n"
                           "  output \"w\" = %10 updates %1\n"
                           "}\n";

static KdPassOptions options(void) {
    return (KdPassOptions){.machine = {.lanes = 16, .registers = 32, .fma = true, .gather = true, .l1 = 32 << 10,
                                       .l2 = 1 << 20, .l3 = 8 << 20},
                           .fuse = true};
}

static KdFunc *parse(KdContext *cx) {
    KdModule *m = kd_parse_module(cx, "step", step, sizeof step - 1);
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    return m->funcs.v[0];
}

typedef struct Seen {
    int n;
    bool ok;
} Seen;

static void observe(void *user, const KdStage *s) {
    Seen *seen = user;
    int n;
    const char *const *names = kd_pass_names(&n);
    assert_in_range(seen->n, 0, n - 1);
    assert_string_equal(s->name, names[seen->n++]);
    assert_true(s->seconds >= 0);
    assert_non_null(s->func);
    if (!strcmp(s->name, "fuse")) assert_true(s->fusion && !s->plan);
    if (!strcmp(s->name, "memplan")) assert_true(s->plan && !s->loops);
    if (!strcmp(s->name, "vectorize")) assert_non_null(s->loops);
}

static int count(const KdFunc *f, KdOp op) {
    int n = 0;
    for (KdValue v = 0; v < f->n; v++) n += f->nodes[v].op == op;
    return n;
}

static void whole(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdPassOptions o = options();
    Seen seen = {0};
    int n;
    kd_pass_names(&n);
    KdPipelineResult r = kd_pipeline(parse(cx), &o, observe, &seen);
    assert_int_equal(seen.n, n);
    assert_int_equal(count(r.grad, KD_OP_GRAD) + count(r.grad, KD_OP_SGD), 0);
    assert_int_equal(count(r.grad, KD_OP_DETACH), 1);
    assert_int_equal(count(r.final, KD_OP_DETACH) + count(r.final, KD_OP_EXP), 0);
    assert_int_equal(r.final->inputs.n, 3);
    assert_true(r.fusion && r.plan && r.loops);
    kd_context_free(cx);
}

static void left_out(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    static const char *const skip[] = {"freeze", "fuse", "order", "vectorize", "autodiff"};
    KdPassOptions o = options();
    o.skip = skip;
    o.n_skip = KD_COUNT(skip);
    Seen seen = {0};
    KdPipelineResult r = kd_pipeline(parse(cx), &o, observe, &seen);
    assert_int_equal(count(r.final, KD_OP_DETACH), 1);
    assert_int_equal(count(r.final, KD_OP_GRAD), 0); /* autodiff may not be left out */
    for (KdValue v = 0; v < r.final->n; v++) {
        KdClass cls = kd_op_info[r.final->nodes[v].op].cls;
        if (cls == KD_REDUCE || cls == KD_ANCHOR) assert_true(r.fusion->stored[v]);
    }
    static const char *const dead[] = {"dce"};
    o.skip = dead;
    o.n_skip = 1;
    assert_int_equal(count(kd_pipeline(parse(cx), &o, NULL, NULL).final, KD_OP_EXP), 1);
    kd_context_free(cx);
}

static void names(void **state) {
    (void)state;
    int n;
    const char *const *name = kd_pass_names(&n);
    assert_true(n >= 9);
    for (int k = 0; k < n; k++)
        for (int j = 0; j < k; j++) assert_string_not_equal(name[k], name[j]);
    assert_true(kd_pass_may_skip("dce"));
    assert_false(kd_pass_may_skip("lower"));
    assert_false(kd_pass_may_skip("no such pass"));
}

/* The failure's message, or NULL when there was none. */
static const char *run(KdContext *cx, const KdFunc *f, const KdPassOptions *o, KdStageFn *observer) {
    KdLanding l;
    if (KD_TRY(cx, l)) {
        kd_pipeline(f, o, observer, NULL);
        kd_landing_pop(cx);
        return NULL;
    }
    const char *message;
    assert_int_equal(kd_failure(cx, &message), KD_FAIL_INTERNAL);
    return message;
}

static void broken_input(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdPassOptions o = options();
    KdFunc *f = parse(cx);
    f->nodes[3].type = f->nodes[0].type;
    const char *message = run(cx, f, &o, NULL);
    assert_non_null(message);
    assert_non_null(strstr(message, "before the first pass: @step: %3 = matmul: its type is"));
    kd_context_free(cx);
}

/* Breaks what autodiff made, so that the next pass fails or its verifier does. */
static void saboteur(void *user, const KdStage *s) {
    (void)user;
    if (!strcmp(s->name, "autodiff")) ((KdNode *)s->func->nodes)[3].op = KD_OP_CONCAT;
}

static void broken_on_the_way(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdPassOptions o = options();
    const char *message = run(cx, parse(cx), &o, saboteur);
    assert_non_null(message);
    assert_non_null(strstr(message, "pass 'optimizer'"));
    kd_context_free(cx);
}

int main(void) {
    const struct CMUnitTest t[] = {
        cmocka_unit_test(whole),        cmocka_unit_test(left_out),          cmocka_unit_test(names),
        cmocka_unit_test(broken_input), cmocka_unit_test(broken_on_the_way),
    };
    return cmocka_run_group_tests(t, NULL, NULL);
}
