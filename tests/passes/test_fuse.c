/* test_fuse.c: what fusion must and must not do, seen in the groups it makes. Every graph of graphs.h must also verify,
 * with and without fusion. */
#include "tests/passes/graphs.h"
#include "tests/passes/lower_harness.h"

typedef struct Fused {
    KdContext *cx;
    KdFunc *f;
    KdFusion *fu;
} Fused;

static Fused fuse(void (*build)(KdBuilder *), bool on) {
    Fused r = {.cx = kd_context_new()};
    r.f = kd_func_new(r.cx, "f");
    KdBuilder b = kd_builder(r.f);
    build(&b);
    if (kd_error_count(r.cx)) {
        kd_diag_print(r.cx, stderr, false);
        fail();
    }
    KdPassOptions o = {.machine = lh_machine(16), .fuse = on};
    r.fu = kd_fuse(r.f, &o);
    KdStr why = {.cx = r.cx};
    if (!kd_fusion_verify(r.fu, &why)) {
        fail_msg("%s", why.s);
    }
    return r;
}

static void done(Fused *r) { kd_context_free(r->cx); }

static int count_kind(const Fused *r, KdGroupKind k) {
    int n = 0;
    for (int g = 0; g < r->fu->groups.n; g++) {
        n += r->fu->groups.v[g].kind == k;
    }
    return n;
}

/* How many values of that op are in memory. */
static int count_stored(const Fused *r, KdOp op) {
    int n = 0;
    for (KdValue v = 0; v < r->f->n; v++) {
        n += r->fu->stored[v] && kd_node(r->f, v)->op == op;
    }
    return n;
}

static KdValue find(const Fused *r, KdOp op) {
    for (KdValue v = 0; v < r->f->n; v++) {
        if (kd_node(r->f, v)->op == op) {
            return v;
        }
    }
    fail_msg("no %s", kd_op_info[op].name);
    return KD_NONE;
}

static void norm_and_relu_are_one_group(void **state) {
    (void)state;
    Fused r = fuse(g_norm_relu, true);
    assert_int_equal(r.fu->groups.n, 1);
    const KdGroup *g = &r.fu->groups.v[0];
    assert_int_equal(g->kind, KD_GROUP_ROW);
    assert_int_equal(g->stores.n, 1);
    assert_int_equal(kd_node(r.f, g->stores.v[0])->op, KD_OP_RELU);
    assert_int_equal(g->local.n, 2);
    done(&r);
}

static void normalisations_are_one_group(void **state) {
    (void)state;
    Fused r = fuse(g_batch_norm, true);
    assert_int_equal(r.fu->groups.n, 1);
    assert_int_equal(r.fu->groups.v[0].stores.n, 2); /* the result, and the running mean */
    done(&r);
    r = fuse(g_norm_by_hand_gradient, true);
    assert_int_equal(r.fu->groups.n, 1);
    done(&r);
    r = fuse(g_softmaxes, true);
    assert_int_equal(r.fu->groups.n, 3);
    assert_int_equal(count_kind(&r, KD_GROUP_ROW), 3);
    done(&r);
    r = fuse(g_unit_rows, true);
    assert_int_equal(r.fu->groups.n, 1);
    done(&r);
}

static void convolutions_take_their_surroundings(void **state) {
    (void)state;
    Fused r = fuse(g_conv_bias_relu, true);
    assert_int_equal(r.fu->groups.n, 1);
    assert_int_equal(r.fu->groups.v[0].kind, KD_GROUP_ANCHOR);
    done(&r);
    r = fuse(g_prologues, true); /* upsample, leaky, concat, pad before; tanh after */
    assert_int_equal(r.fu->groups.n, 1);
    assert_int_equal(r.fu->groups.v[0].stores.n, 2);
    done(&r);
    r = fuse(g_block, true); /* conv | statistics | norm, relu, pad, conv | norm, add; nothing between in memory */
    assert_int_equal(r.fu->groups.n, 4);
    assert_int_equal(count_stored(&r, KD_OP_PAD_REFLECT), 0);
    assert_int_equal(count_stored(&r, KD_OP_RELU), 0);
    done(&r);
}

static void masks_are_computed_again(void **state) {
    (void)state;
    Fused r = fuse(g_mask_and_relu, true);
    assert_int_equal(r.fu->groups.n, 2);
    assert_int_equal(count_stored(&r, KD_OP_LT), 0);
    assert_int_equal(count_stored(&r, KD_OP_RELU), 0);
    assert_int_equal(count_stored(&r, KD_OP_ADD), 1);
    done(&r);
}

static void adam_is_one_group_of_three_stores(void **state) {
    (void)state;
    Fused r = fuse(g_adam, true);
    assert_int_equal(r.fu->groups.n, 2); /* the learning rate's scalar, and the update */
    const KdGroup *g = &r.fu->groups.v[1];
    assert_int_equal(g->kind, KD_GROUP_MAP);
    assert_int_equal(g->stores.n, 3);
    for (int k = 0; k < r.f->inputs.n; k++) { /* so w, m and v are updated in place */
        assert_true(kd_group_reads_only_at_index(r.fu, 1, r.f->inputs.v[k]));
    }
    done(&r);
}

static void losses_fold_in_one_pass(void **state) {
    (void)state;
    Fused r = fuse(g_loss, true);
    assert_int_equal(r.fu->groups.n, 1);
    assert_int_equal(r.fu->groups.v[0].stores.n, 3);
    assert_int_equal(r.fu->groups.v[0].local.n, 2);
    done(&r);
    r = fuse(g_two_stage, true); /* a two-stage sum is not read back in its own group */
    assert_int_equal(count_kind(&r, KD_GROUP_ROW), 2);
    assert_int_equal(count_kind(&r, KD_GROUP_MAP), 1);
    done(&r);
}

static void costly_values_under_pads(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 2, 8, 8)), c = g_in(b, "c", G_DIMS(1, 2, 1, 1));
    KdValue e = kd_unary(b, KD_OP_EXP, x);
    g_out(b, "a", g_add(b, g_pad_reflect(b, e, 1), g_pad_reflect(b, e, 1)));
    g_out(b, "b", g_mul(b, x, kd_unary(b, KD_OP_RSQRT, c)));
    g_out(b, "c", G_OP(b, KD_OP_POOL_SUM, kd_unary(b, KD_OP_TANH, x), G_INTS(2, 2), G_INTS(1, 1), G_INTS(0, 0, 0, 0)));
}
static void nothing_costly_is_repeated(void **state) {
    (void)state;
    Fused r = fuse(costly_values_under_pads, true);
    assert_int_equal(count_stored(&r, KD_OP_EXP), 1);
    assert_int_equal(count_stored(&r, KD_OP_RSQRT), 1);
    assert_int_equal(count_stored(&r, KD_OP_TANH), 1);
    assert_int_equal(count_stored(&r, KD_OP_PAD_REFLECT), 0);
    done(&r);
}

static void a_cycle_in_waiting(KdBuilder *b) { /* y = f(x), z = g(moved y, y'): y and z must not be one group */
    KdValue x = g_in(b, "x", G_DIMS(6, 6));
    KdValue y = kd_unary(b, KD_OP_TANH, x);
    KdValue t = kd_transpose(b, y, (int64_t[]){1, 0});
    g_out(b, "a", g_add(b, y, t));
    KdValue s = kd_sum(b, y, G_DIMS(0, 1));
    g_out(b, "b", g_mul(b, kd_unary(b, KD_OP_EXP, t), s));
}
static void groups_never_wait_for_each_other(void **state) {
    (void)state;
    Fused r = fuse(a_cycle_in_waiting, true);
    KdValue y = find(&r, KD_OP_TANH), a = r.f->outputs.v[0].value;
    assert_true(r.fu->stored[y]);
    assert_true(r.fu->group[y] < r.fu->group[a]);
    assert_false(kd_group_reads_only_at_index(r.fu, r.fu->group[a], y)); /* it reads y transposed, too */
    done(&r);
}

static void rows_of_a_pool(void **state) {
    (void)state;
    Fused r = fuse(g_pool_of_rows, true);
    KdValue pool = kd_find_input(r.f, "pool"), first = find(&r, KD_OP_UPDATE_ROW);
    assert_true(kd_group_reads_only_at_index(r.fu, r.fu->group[first], pool));
    done(&r);
}

static void reshapes_are_aliases(void **state) {
    (void)state;
    Fused r = fuse(g_leaves, true);
    KdValue e = r.f->outputs.v[4].value;
    assert_int_equal(kd_node(r.f, e)->op, KD_OP_RESHAPE);
    assert_false(r.fu->stored[e]);
    assert_int_equal(r.fu->alias[e], kd_node(r.f, e)->in[0]);
    done(&r);
}

static void without_fusion_everything_is_stored(void **state) {
    (void)state;
    for (int i = 0; i < KD_COUNT(g_graphs); i++) {
        Fused r = fuse(g_graphs[i].build, false);
        for (int g = 0; g < r.fu->groups.n; g++) {
            assert_int_equal(r.fu->groups.v[g].stores.n, 1);
        }
        done(&r);
    }
}

static void everything_verifies(void **state) {
    (void)state;
    for (int i = 0; i < KD_COUNT(g_graphs); i++) {
        Fused r = fuse(g_graphs[i].build, true);
        KdStr text = {.cx = r.cx};
        kd_print_fusion(&text, r.fu);
        assert_non_null(strstr(text.s, "group 0: "));
        done(&r);
    }
}

/* The verifier sees what it is there for. */
static void broken_fusions_are_found(void **state) {
    (void)state;
    KdStr why;
    Fused r = fuse(g_block, true);
    why = (KdStr){.cx = r.cx};
    KdGroup swap = r.fu->groups.v[0];
    r.fu->groups.v[0] = r.fu->groups.v[1];
    r.fu->groups.v[1] = swap;
    assert_false(kd_fusion_verify(r.fu, &why));
    done(&r);
    r = fuse(costly_values_under_pads, true);
    why = (KdStr){.cx = r.cx};
    KdValue pool = find(&r, KD_OP_POOL_SUM);
    r.fu->stored[pool] = false; /* an output in no memory */
    assert_false(kd_fusion_verify(r.fu, &why));
    done(&r);
    r = fuse(g_norm_relu, true);
    why = (KdStr){.cx = r.cx};
    r.fu->group[find(&r, KD_OP_SUM)] = -1; /* a reduction that nobody keeps */
    assert_false(kd_fusion_verify(r.fu, &why));
    assert_non_null(strstr(why.s, "over and over"));
    done(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_and_relu_are_one_group),
        cmocka_unit_test(normalisations_are_one_group),
        cmocka_unit_test(convolutions_take_their_surroundings),
        cmocka_unit_test(masks_are_computed_again),
        cmocka_unit_test(adam_is_one_group_of_three_stores),
        cmocka_unit_test(losses_fold_in_one_pass),
        cmocka_unit_test(nothing_costly_is_repeated),
        cmocka_unit_test(groups_never_wait_for_each_other),
        cmocka_unit_test(rows_of_a_pool),
        cmocka_unit_test(reshapes_are_aliases),
        cmocka_unit_test(without_fusion_everything_is_stored),
        cmocka_unit_test(everything_verifies),
        cmocka_unit_test(broken_fusions_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
