/* test_recompute.c: functions with a memory limit: they fit it, give the same bits as without, and are left alone
 * when they fit anyway; a limit that cannot be met is the user's error and says what can. Chains of convolutions
 * with their gradients, with random numbers in them and weights that are updated, and random graphs. And what
 * order.c does before that: several applications of one network take turns.
 */
#include "tests/passes/lower_harness.h"
#include "tests/passes/random_graph.h"

enum { LAYERS = 12, CHANNELS = 4, SIZE = 24 };

static KdPassOptions options(int64_t limit) {
    return (KdPassOptions){.machine = lh_machine(16), .fuse = true, .memory_limit = limit};
}

/* LAYERS convolutions with tanh, dropped out where asked for, and weights moved against the gradient of the mean square. */
static KdFunc *chain(KdContext *cx, bool dropout) {
    KdFunc *f = kd_func_new(cx, "chain");
    KdBuilder b = kd_builder(f);
    int64_t image[4] = {1, CHANNELS, SIZE, SIZE}, kernel[4] = {CHANNELS, CHANNELS, 3, 3}, ones[2] = {1, 1}, pad[4] = {1, 1, 1, 1};
    int64_t all[4] = {0, 1, 2, 3};
    KdValue x = kd_input(&b, "x", KD_DATA, kd_type(cx, KD_F32, 4, image), ""), w[LAYERS];
    KdValue seed = kd_input(&b, "seed", KD_DATA, kd_type(cx, KD_I32, 0, NULL), "");
    for (int i = 0; i < LAYERS; i++)
        w[i] = kd_input(&b, kd_format(cx, "w%d", i), KD_WEIGHT, kd_type(cx, KD_F32, 4, kernel), "");
    for (int i = 0; i < LAYERS; i++) {
        KdAttr conv[4] = {{.ints = {2, ones}}, {.ints = {4, pad}}, {.ints = {2, ones}}, {.i = 1}};
        x = kd_unary(&b, KD_OP_TANH, kd_build(&b, KD_OP_CONV2D, NULL, (KdValue[]){x, kd_scale(&b, w[i], 0.3)}, 2, conv));
        KdAttr random[2] = {{.i = i}, {.ints = {4, image}}};
        KdValue r = kd_build(&b, KD_OP_RANDOM, NULL, (KdValue[]){seed, seed}, 2, random);
        if (dropout) x = kd_binary(&b, KD_OP_MUL, x, kd_binary(&b, KD_OP_LT, r, kd_const_like(&b, r, 0.7)));
    }
    KdValue loss = kd_reshape(&b, kd_sum(&b, kd_unary(&b, KD_OP_SQUARE, x), 4, all), 0, NULL);
    kd_output(f, "loss", loss, KD_NONE);
    for (int i = 0; i < LAYERS; i++) {
        KdValue g = kd_build(&b, KD_OP_GRAD, NULL, (KdValue[]){loss, w[i]}, 2, NULL);
        kd_output(f, kd_format(cx, "w%d", i), kd_binary(&b, KD_OP_SUB, w[i], kd_scale(&b, g, 1e-3)), w[i]);
    }
    return f;
}

/* The results of f's loops as laid out for this limit; *info says what became of it. */
static double **results(const KdFunc *f, int64_t limit, bool fuse, double **in, KdRecomputed *info) {
    KdPassOptions o = options(limit);
    o.fuse = fuse;
    KdStr why = {.cx = f->cx};
    const KdFunc *g = kd_recompute(f, &o, 0, info);
    if (!kd_verify(g, &why)) fail_msg("not valid: %s", why.s);
    KdFusion *fu = kd_fuse(g, &o);
    kd_order(fu);
    if (!kd_fusion_verify(fu, &why)) fail_msg("fusion is not valid: %s", why.s);
    const KdMemPlan *plan = kd_memplan(fu);
    if (limit) assert_int_equal(plan->arena, info->least);
    double **got = lh_results(f);
    const char *wrong = lh_execute(f, kd_lower(fu, plan, &o), in, got);
    if (wrong) fail_msg("%s", wrong);
    return got;
}

static void same_bits(const KdFunc *f, double *const *want, double *const *got, const char *what) {
    for (int k = 0; k < f->outputs.n; k++) {
        int64_t n = kd_vtype(f, f->outputs.v[k].value)->count;
        for (int64_t i = 0; i < n; i++)
            if (memcmp(&want[k][i], &got[k][i], sizeof want[k][i]) != 0)
                fail_msg("%s: %s[%lld] is %.9g and was %.9g", what, f->outputs.v[k].name, (long long)i, got[k][i], want[k][i]);
    }
}

static void chains(void **state) {
    (void)state;
    for (int dropout = 0; dropout < 2; dropout++) {
        KdContext *cx = kd_context_new();
        const KdFunc *f = kd_pass_dce(kd_pass_autodiff(chain(cx, dropout)));
        double **in = lh_fill(f, 3);
        KdRecomputed info;
        double **want = results(f, 0, true, in, &info);
        assert_int_equal(info.planned, 0);
        results(f, 1, true, in, &info);
        int64_t planned = info.planned, least = info.least;
        assert_true(least < planned * 2 / 3);
        for (int64_t limit = planned - 1; limit >= least; limit -= 1 + (planned - least) / 4) {
            double **got = results(f, limit, true, in, &info);
            assert_int_equal(info.planned, planned);
            assert_true(info.naive >= planned);
            assert_true(info.least <= limit);
            assert_true(info.more_work >= 0 && info.more_work < 4);
            same_bits(f, want, got, dropout ? "with random numbers" : "without");
        }
        kd_context_free(cx);
    }
}

static void what_fits_is_left_alone(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    const KdFunc *f = kd_pass_dce(kd_pass_autodiff(chain(cx, false)));
    KdRecomputed info;
    KdPassOptions none = options(0), much = options(INT64_C(1) << 30);
    assert_ptr_equal(kd_recompute(f, &none, -1, &info), f);
    assert_ptr_equal(kd_recompute(f, &much, -1, &info), f);
    assert_int_equal(info.planned, info.least);
    assert_true(info.planned > 0 && info.more_work == 0);
    KdPassOptions same = options(info.planned);
    assert_ptr_equal(kd_recompute(f, &same, -1, &info), f);
    kd_context_free(cx);
}

static void impossible(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdFunc *f = chain(cx, false);
    KdPassOptions o = options(1000);
    KdLanding landing;
    if (KD_TRY(cx, landing)) {
        kd_pipeline(f, &o, NULL, NULL);
        fail_msg("1000 bytes were enough");
    }
    const char *message;
    assert_int_equal(kd_failure(cx, &message), KD_FAIL_INPUT);
    assert_non_null(strstr(message, "chain: activations are limited to 1.0 KiB; the smallest plan found has "));
    assert_non_null(strstr(message, " without recomputation)"));
    const char *const skip[] = {"recompute"};
    o.skip = skip;
    o.n_skip = 1;
    assert_int_equal(kd_pipeline(f, &o, NULL, NULL).recomputed.planned, 0);
    kd_context_free(cx);
}

/* The weights' gradients of the sum of so many applications of one network, with shared biases. */
static KdFunc *applications(KdContext *cx, int n) {
    KdFunc *f = kd_func_new(cx, "applications");
    KdBuilder b = kd_builder(f);
    int64_t image[4] = {1, CHANNELS, SIZE, SIZE}, kernel[4] = {CHANNELS, CHANNELS, 3, 3}, ones[2] = {1, 1}, pad[4] = {1, 1, 1, 1};
    int64_t all[4] = {0, 1, 2, 3}, bias[4] = {1, CHANNELS, 1, 1};
    KdValue loss = kd_const(&b, kd_type(cx, KD_F32, 0, NULL), 0), w[LAYERS], c[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        w[i] = kd_input(&b, kd_format(cx, "w%d", i), KD_WEIGHT, kd_type(cx, KD_F32, 4, kernel), "");
        c[i] = kd_input(&b, kd_format(cx, "b%d", i), KD_WEIGHT, kd_type(cx, KD_F32, 4, bias), "");
    }
    for (int k = 0; k < n; k++) {
        KdValue x = kd_input(&b, kd_format(cx, "x%d", k), KD_DATA, kd_type(cx, KD_F32, 4, image), "");
        for (int i = 0; i < LAYERS; i++) {
            KdAttr conv[4] = {{.ints = {2, ones}}, {.ints = {4, pad}}, {.ints = {2, ones}}, {.i = 1}};
            x = kd_build(&b, KD_OP_CONV2D, NULL, (KdValue[]){x, w[i]}, 2, conv);
            x = kd_unary(&b, KD_OP_TANH, kd_binary(&b, KD_OP_ADD, x, c[i]));
        }
        x = kd_sum(&b, kd_unary(&b, KD_OP_SQUARE, x), 4, all);
        loss = kd_binary(&b, KD_OP_ADD, loss, kd_reshape(&b, x, 0, NULL));
    }
    for (int i = 0; i < LAYERS; i++) {
        kd_output(f, kd_format(cx, "gw%d", i), kd_build(&b, KD_OP_GRAD, NULL, (KdValue[]){loss, w[i]}, 2, NULL), KD_NONE);
        kd_output(f, kd_format(cx, "gb%d", i), kd_build(&b, KD_OP_GRAD, NULL, (KdValue[]){loss, c[i]}, 2, NULL), KD_NONE);
    }
    return f;
}

/* One application after the other, forward and backward: many need hardly more than one. */
static void applications_take_turns(void **state) {
    (void)state;
    int64_t one = 0;
    for (int n = 1; n <= 5; n += 2) {
        KdContext *cx = kd_context_new();
        KdPassOptions o = options(0);
        int64_t arena = kd_pipeline(applications(cx, n), &o, NULL, NULL).plan->arena;
        one = n == 1 ? arena : one;
        assert_true(arena <= one * 3 / 2);
        kd_context_free(cx);
    }
}

static void random_graphs(void **state) {
    (void)state;
    int smaller = 0;
    for (int seed = 1; seed <= 150; seed++) {
        KdContext *cx = kd_context_new();
        const KdFunc *f = kd_pass_dce(kd_pass_freeze(kd_pass_optimizer(kd_pass_autodiff(rg_graph(cx, (uint64_t)seed)))));
        double **in = lh_fill(f, 5);
        KdRecomputed info;
        for (int fuse = 0; fuse < 2; fuse++) { /* unfused, much more is stored */
            double **want = results(f, 0, fuse, in, &info);
            double **got = results(f, 1, fuse, in, &info);
            smaller += info.least < info.planned;
            same_bits(f, want, got, kd_format(cx, "seed %d", seed));
        }
        kd_context_free(cx);
    }
    assert_in_range(smaller, 20, 300);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains),
        cmocka_unit_test(what_fits_is_left_alone),
        cmocka_unit_test(impossible),
        cmocka_unit_test(applications_take_turns),
        cmocka_unit_test(random_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
