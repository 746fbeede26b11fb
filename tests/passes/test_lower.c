/* test_lower.c: small graphs (graphs.h) as loops against the graph evaluator in double precision: with and without
 * fusion, with planned memory and with memory of one's own, before the vectoriser and after it at 16, 8 and 4 lanes. */
#include "tests/passes/graphs.h"
#include "tests/passes/lower_harness.h"

static void run_graph(void **state) {
    const GGraph *g = *state;
    static const LhOptions options[] = {
        {.fuse = true, .own_plan = true},      {.fuse = false, .own_plan = true}, {.fuse = true},
        {.fuse = false},                       {.fuse = true, .lanes = 16},       {.fuse = true, .lanes = 8},
        {.fuse = true, .lanes = 4},            {.fuse = false, .lanes = 8},
    };
    KdContext *cx = kd_context_new();
    KdFunc *f = g_build(cx, g);
    if (!f) {
        kd_diag_print(cx, stderr, false);
        fail();
    }
    double **in = lh_fill(f, 42), **want = lh_want(f, in);
    for (int i = 0; i < KD_COUNT(options); i++) {
        const char *wrong = lh_check(f, in, want, &options[i]);
        if (wrong) {
            KdStr text = {.cx = cx};
            KdPassOptions o = {.machine = lh_machine(16), .fuse = options[i].fuse};
            kd_print_fusion(&text, kd_fuse(f, &o));
            fail_msg("%s: %s\n%s", g->name, wrong, text.s);
        }
    }
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest tests[KD_COUNT(g_graphs)];
    for (int i = 0; i < KD_COUNT(g_graphs); i++) {
        tests[i] = (struct CMUnitTest){g_graphs[i].name, run_graph, NULL, NULL, (void *)(uintptr_t)&g_graphs[i]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
