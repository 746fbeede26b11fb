/* test_session.c: sessions: what a step takes and gives, order of updates, together, every, frozen, the image pool's exact
 * behaviour over many steps, schedules. Gradients and optimisers are run in tests/api. */
#include "tests/lang/lang_test.h"

static const char nets[] = "net G[](x) {\n    let conv = conv2d[3, 1]\n    return conv(x)\n}\nlet S = G[]\nlet D = conv2d[1, 1, bias = false]\nlet T = frozen G[]\n";

static KdFunc *session(KdContext *cx, const char *text, unsigned mask, KdSessionInfo *info) {
    KdProgram *p = lt_load(cx, "test.kd", kd_format(cx, "%s%s", nets, text), NULL);
    KdFunc *f = kd_lang_session(p, "s", mask, NULL, info);
    if (!f) lt_fail(cx, text);
    KdStr why = {cx, NULL, 0, 0};
    if (!kd_verify(f, &why)) fail_msg("%s", why.s);
    return f;
}

static const char *inputs_text(KdContext *cx, const KdFunc *f) {
    KdStr s = {cx, NULL, 0, 0};
    for (int i = 0; i < f->inputs.n; i++) {
        const KdNode *n = kd_node(f, f->inputs.v[i]);
        kd_str_printf(&s, "%s%s %s", i ? "; " : "", kd_attr_str(f, n, "name"), kd_attr_str(f, n, "role"));
    }
    return s.s;
}

static const char *outputs_text(KdContext *cx, const KdFunc *f) {
    KdStr s = {cx, NULL, 0, 0};
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        kd_str_printf(&s, "%s%s%s", i ? "; " : "", o->name, o->updates == KD_NONE ? "" : "'");
        if (o->updates != KD_NONE) assert_string_equal(o->name, kd_attr_str(f, kd_node(f, o->updates), "name"));
    }
    return s.s;
}

static KdValue output(const KdFunc *f, const char *name) {
    for (int i = 0; i < f->outputs.n; i++)
        if (strcmp(f->outputs.v[i].name, name) == 0) return f->outputs.v[i].value;
    fail_msg("there is no output %s", name);
    return KD_NONE;
}

static bool depends(const KdFunc *f, KdValue v, KdValue on) {
    bool *seen = calloc(f->n, 1);
    seen[v] = true;
    for (KdValue k = v + 1; k-- > 0;)
        for (int i = 0; seen[k] && i < f->nodes[k].n_in; i++) seen[f->nodes[k].in[i]] = true;
    bool yes = seen[on];
    free(seen);
    return yes;
}

static int count_ops(const KdFunc *f, KdOp op) {
    int n = 0;
    for (KdValue v = 0; v < f->n; v++) n += f->nodes[v].op == op;
    return n;
}

static void test_interface(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdSessionInfo info;
    KdFunc *f = session(cx, "session s(x: [2, 3, 4, 4], y: i32[2]) from labels {\n    let soft = T(x)\n    let fake = S(x)\n"
                            "    let loss = l1_loss(fake, soft)\n    minimize loss over S with adam(1e-3)\n    log loss, twice = loss * 2\n    show x, fake\n}\n",
                        0, &info);
    assert_string_equal(inputs_text(cx, f), "x data; y data; step data; epoch data; seed data; T.conv.weight frozen; T.conv.bias frozen; "
                                            "S.conv.weight weight; S.conv.bias weight; opt.0.m.S.conv.weight state; opt.0.v.S.conv.weight state; "
                                            "opt.0.m.S.conv.bias state; opt.0.v.S.conv.bias state");
    assert_string_equal(outputs_text(cx, f), "log.loss; log.twice; show.x; show.fake; S.conv.weight'; S.conv.bias'; opt.0.m.S.conv.weight'; "
                                             "opt.0.v.S.conv.weight'; opt.0.m.S.conv.bias'; opt.0.v.S.conv.bias'");
    assert_string_equal(info.from, "labels");
    assert_int_equal(info.n_logs, 2);
    assert_string_equal(info.shows[1], "fake");
    assert_int_equal(count_ops(f, KD_OP_GRAD), 2);
    kd_context_free(cx);
}

/* Program order decides which D judges; together takes the old ones. */
static void test_order(void **state) {
    (void)state;
    static const struct { const char *before, *after; bool new_d; } forms[] = {
        {"", "", true}, {"together {\n", "}\n", false},
    };
    for (int i = 0; i < 2; i++) {
        KdContext *cx = kd_context_new();
        KdFunc *f = session(cx, kd_format(cx, "session s(x: [1, 3, 4, 4], y: [1, 3, 4, 4]) {\n    let fake = S(x)\n%s    minimize mean(D(detach(fake))) - mean(D(y)) over D with sgd(0.1)\n"
                                              "    minimize -mean(D(fake)) over S with sgd(0.1)\n%s    log after = mean(D(y))\n}\n", forms[i].before, forms[i].after), 0, NULL);
        KdValue new_d = output(f, "D.weight");
        assert_true(depends(f, output(f, "S.conv.weight"), new_d) == forms[i].new_d);
        assert_true(depends(f, output(f, "log.after"), new_d)); /* what is applied afterwards sees the update */
        kd_context_free(cx);
    }
}

static void test_regenerated(void **state) { /* SPADE: the fake is made anew by the updated S */
    (void)state;
    KdContext *cx = kd_context_new();
    KdFunc *f = session(cx, "session s(x: [1, 3, 4, 4]) {\n    minimize mean(D(S(x))) over S with adam(1e-3)\n    let fake = detach(S(x))\n"
                            "    minimize mean(D(fake)) over D with rmsprop(1e-3)\n}\n", 0, NULL);
    assert_true(depends(f, output(f, "D.weight"), output(f, "S.conv.weight")));
    assert_true(kd_find_input(f, "opt.1.v.D.weight") != KD_NONE);
    kd_context_free(cx);
}

static void test_list_of_networks(void **state) { /* over a list, over an inner network, weights(S) in a loss */
    (void)state;
    KdContext *cx = kd_context_new();
    KdFunc *f = session(cx, "let Ds = [conv2d[1, 1], conv2d[1, 3]]\nsession s(x: [1, 3, 4, 4]) {\n    let d = mean([mean(one(x)) for one in Ds])\n"
                            "    minimize d over Ds with sgd(0.1)\n    let y = S(x)\n    minimize mean(y) + 0.1 * sum([sum(abs(w)) for w in weights(S, \"weight\")]) over S.conv with sgd(0.1)\n"
                            "    log w = sum(S.conv.weight)\n}\n", 0, NULL);
    assert_true(kd_find_input(f, "Ds[1].bias") != KD_NONE);
    assert_true(kd_find_input(f, "opt.0.m.Ds[0].weight") != KD_NONE);
    assert_true(depends(f, output(f, "log.w"), output(f, "S.conv.weight")));
    kd_context_free(cx);
}

static void test_clamped(void **state) { /* the new weight is what the optimiser gives, cut; its moments are not */
    (void)state;
    static const char *const optimisers[] = {"adam(1e-3, clamp = [0, 1])", "adamw(clamp = [0, 1])", "sgd(0.1, clamp = [0, 1])", "rmsprop(clamp = [0, 1])"};
    for (int i = 0; i < 4; i++) {
        KdContext *cx = kd_context_new();
        KdFunc *f = session(cx, kd_format(cx, "session s(x: [1, 3, 4, 4]) {\n    minimize mean(D(x)) over D with %s\n    log w = sum(D.weight)\n}\n", optimisers[i]), 0, NULL);
        const KdNode *w = kd_node(f, output(f, "D.weight"));
        assert_int_equal(w->op, KD_OP_CLAMP);
        assert_true(kd_attr_float(f, w, "min") == 0 && kd_attr_float(f, w, "max") == 1);
        assert_int_equal(count_ops(f, KD_OP_CLAMP), 1);
        assert_true(depends(f, output(f, "log.w"), output(f, "D.weight")));
        kd_context_free(cx);
    }
}

static void test_loss_without_weights(void **state) { /* beside others; alone there is nothing to train */
    (void)state;
    KdContext *cx = kd_context_new();
    const char *text = "let K = identity[]\nsession s(x: [1, 3, 4, 4]) {\n    minimize mean(K(S(x))) over %sK with sgd(0.1)\n}\n";
    KdFunc *f = session(cx, kd_format(cx, text, "S, "), 0, NULL);
    assert_true(kd_find_input(f, "opt.0.m.S.conv.weight") != KD_NONE);
    char *said = lt_messages(cx);
    assert_string_equal(said, ""); /* not even a warning */
    free(said);
    KdProgram *p = lt_load(cx, "test.kd", kd_format(cx, "%s%s", nets, kd_format(cx, text, "")), NULL);
    assert_null(p ? kd_lang_session(p, "s", 0, NULL, NULL) : NULL);
    kd_context_free(cx);
}

/* Variants differ in what runs, never in what they take. */
static void test_every(void **state) {
    (void)state;
    const char *text = "session s(x: [1, 3, 4, 4]) {\n    let fake = S(x)\n    every 3 {\n        let d = mean(D(history(fake, 2)))\n        minimize d over D with adam(1e-3)\n"
                       "        log d\n    }\n    minimize mean(square(fake)) over S with adam(1e-3)\n    every 5 { log e = mean(dropout(fake)) }\n}\n";
    const char *inputs[4];
    for (unsigned mask = 0; mask < 4; mask++) {
        KdContext *cx = kd_context_new();
        KdSessionInfo info;
        KdFunc *f = session(cx, text, mask, &info);
        inputs[mask] = strdup(inputs_text(cx, f));
        assert_string_equal(inputs[mask], inputs[0]);
        assert_int_equal(info.n_every, 2);
        assert_true(info.every[0] == 3 && info.every[1] == 5);
        assert_int_equal(info.n_logs, (mask & 1) + (mask >> 1 & 1));
        bool updated = false, pool = false, tick = false;
        for (int i = 0; i < f->outputs.n; i++) {
            updated = updated || strcmp(f->outputs.v[i].name, "D.weight") == 0;
            pool = pool || strcmp(f->outputs.v[i].name, "pool.0") == 0;
            tick = tick || strcmp(f->outputs.v[i].name, "every.0") == 0;
        }
        assert_true(updated == (mask & 1) && pool == updated && tick == updated);
        kd_context_free(cx);
    }
    for (int i = 0; i < 4; i++) free((void *)inputs[i]);
}

/* ---- the image pool -------------------------------------------------------------------------------------------------- */

/* Against P2P's image_pool.py, by hand: batch 2, capacity 3, images of one pixel that carry their number. */
static void test_pool(void **state) {
    (void)state;
    enum { CAPACITY = 3, BATCH = 2, STEPS = 200 };
    KdContext *cx = kd_context_new();
    LtRun r = {.cx = cx};
    r.f = session(cx, "session s(x: [2, 1, 1, 1]) {\n    let y = history(x, 3)\n    log a = y[0, 0, 0, 0], b = y[1, 0, 0, 0]\n}\n", 0, NULL);
    double pool[CAPACITY] = {0}, old[CAPACITY];
    int swapped = 0, kept = 0, slots[CAPACITY] = {0};
    for (int s = 1; s <= STEPS; s++) {
        double x[BATCH] = {2 * s, 2 * s + 1}, step = s, seed = 7;
        memcpy(old, pool, sizeof old);
        LtValues given[] = {{"x", x, BATCH}, {"step", &step, 1}, {"seed", &seed, 1}, {"pool.0", old, CAPACITY}};
        lt_eval(&r, given, 4);
        int n = 0;
        const double got[BATCH] = {lt_out(&r, "log.a", &n)[0], lt_out(&r, "log.b", &n)[0]};
        for (int i = 0; i < BATCH; i++) {
            int before = (s - 1) * BATCH + i;
            if (before < CAPACITY) { /* not full: stored and given back */
                assert_true(got[i] == x[i]);
                pool[before] = x[i];
            } else if (got[i] == x[i]) {
                kept++;
            } else { /* one of the stored, in whose place the new one stands now */
                int at = -1;
                for (int k = 0; k < CAPACITY; k++)
                    if (pool[k] == got[i]) at = k;
                assert_true(at >= 0);
                pool[at] = x[i];
                slots[at]++;
                swapped++;
            }
        }
        const double *after = lt_out(&r, "pool.0", &n);
        for (int k = 0; k < CAPACITY; k++) assert_true(after[k] == pool[k]);
        for (int k = 0; k < r.f->inputs.n; k++) free(r.in[k]);
        for (int k = 0; k < r.f->outputs.n; k++) free(r.out[k]);
        free(r.in);
        free(r.out);
    }
    int all = STEPS * BATCH - CAPACITY;
    assert_true(swapped + kept == all && abs(swapped - kept) < 60); /* even odds; 60 is three sigma */
    for (int k = 0; k < CAPACITY; k++) assert_true(slots[k] > swapped / 3 - 35 && slots[k] < swapped / 3 + 35);
    kd_context_free(cx);
}

static void test_pool_off(void **state) { /* capacity 0: detached, and no state */
    (void)state;
    KdContext *cx = kd_context_new();
    KdFunc *f = session(cx, "session s(x: [1, 3, 4, 4]) {\n    minimize mean(D(history(S(x), 0))) over D with sgd(1)\n}\n", 0, NULL);
    assert_true(kd_find_input(f, "pool.0") == KD_NONE);
    kd_context_free(cx);
}

/* ---- dropout and schedules ---------------------------------------------------------------------------------------------- */

static void test_dropout(void **state) { /* half of the elements, doubled; two applications differ; a seed repeats */
    (void)state;
    KdContext *cx = kd_context_new();
    LtRun r = {.cx = cx};
    r.f = session(cx, "session s(x: [1, 1, 32, 32]) {\n    let a = dropout(x)\n    let b = dropout(x, 0.25)\n    log na = mean(a), nb = mean(b), same = mean(a * b)\n    show a\n}\n", 0, NULL);
    double x[1024], step = 3, seed = 11;
    for (int i = 0; i < 1024; i++) x[i] = 1;
    LtValues given[] = {{"x", x, 1024}, {"step", &step, 1}, {"seed", &seed, 1}};
    lt_eval(&r, given, 3);
    int n = 0;
    const double *a = lt_out(&r, "show.a", &n);
    for (int i = 0; i < n; i++) assert_true(a[i] == 0 || a[i] == 2);
    assert_true(fabs(lt_out(&r, "log.na", &n)[0] - 1) < 0.15 && fabs(lt_out(&r, "log.nb", &n)[0] - 1) < 0.1);
    assert_true(fabs(lt_out(&r, "log.same", &n)[0] - 1) < 0.2); /* independent */
    lt_free(&r);
}

typedef struct Rate { const char *text; double epoch, want; } Rate;

static const Rate rates[] = {
    {"linear_decay(2.0)", 1, 2},
    {"linear_decay(2.0)", 99, 2},
    {"linear_decay(2.0)", 100, 2.0 * (1 - 1 / 101.0)},
    {"linear_decay(2.0)", 200, 0},
    {"linear_decay(2.0)", 260, 0},
    {"linear_decay(2.0, offset = 0)", 200, 2.0 / 101},
    {"linear_decay(1.0, keep = 5, decay = 3)", 7, 1 - 3 / 4.0},
    {"subtractive_decay(1.0, keep = 10, decay = 4)", 12, 0.5},
    {"step_decay(1.0, 10, 0.5)", 10, 1},
    {"step_decay(1.0, 10, 0.5)", 21, 0.25},
    {"cosine(1.0, 100)", 1, 1},
    {"cosine(1.0, 100)", 51, 0.5},
    {"cosine(1.0, 100, least = 0.1)", 101, 0.1},
    {"cosine(1.0, 100)", 26, 0.8535533905932737},
    {"constant(0.3)", 9, 0.3},
    {"warmup(1.0, 10)", 1, 0.4},
};

static void test_schedules(void **state) {
    (void)state;
    for (int i = 0; i < KD_COUNT(rates); i++) {
        KdContext *cx = kd_context_new();
        LtRun r = {.cx = cx};
        r.f = session(cx, kd_format(cx, "session s(x: [1]) {\n    log rate = %s\n}\n", rates[i].text), 0, NULL);
        double step = 4;
        lt_eval(&r, (LtValues[]){{"epoch", &rates[i].epoch, 1}, {"step", &step, 1}}, 2);
        int n = 0;
        lt_near(lt_out(&r, "log.rate", &n)[0], rates[i].want, 2e-7, rates[i].text, (int)rates[i].epoch);
        lt_free(&r);
    }
}

/* ---- the example of the language's page, and the recipes ------------------------------------------------------------------ */

static void test_recipes(void **state) {
    (void)state;
    static const struct { const char *file, *session; } recipes[] = {
        {"models/recipes/cyclegan.kd", "cyclegan"}, {"models/recipes/pix2pix_reko.kd", "pix2pix_reko"}, {"models/recipes/pix2pix.kd", "pix2pix"},
        {"models/recipes/distill_style.kd", "distill_style"}, {"models/recipes/pix2pix_facades.kd", "pix2pix_facades"},
        {"models/recipes/cyclegan_day2night.kd", "cyclegan_day2night"}, {"models/recipes/distill_pix2pix.kd", "distill_pix2pix"},
        {"models/recipes/distill_cyclegan.kd", "distill_cyclegan"}, {"models/recipes/distill_single.kd", "distill_single"},
        {"models/recipes/pix2pix_gan_compression.kd", "pix2pix_gan_compression"}, {"models/recipes/pix2pix_cat.kd", "pix2pix_cat"},
        {"models/recipes/cyclegan_gan_compression.kd", "cyclegan_gan_compression"}, {"models/recipes/cyclegan_cat.kd", "cyclegan_cat"}, {"tests/lang/pix2pix_reko.kd", "pix2pix_reko"},
        {"models/recipes/pix2pix_gcc_pretrain.kd", "pix2pix_gcc_pretrain"}, {"models/recipes/cyclegan_gcc_pretrain.kd", "cyclegan_gcc_pretrain"},
    };
    for (int i = 0; i < KD_COUNT(recipes); i++) {
        KdContext *cx = kd_context_new();
        KdProgram *p = lt_load(cx, kd_format(cx, "%s/%s", KDC_SOURCE_DIR, recipes[i].file), NULL, NULL);
        KdFunc *f = kd_lang_session(p, recipes[i].session, ~0u, NULL, NULL);
        if (!f) lt_fail(cx, recipes[i].file);
        KdStr why = {cx, NULL, 0, 0};
        if (!kd_verify(f, &why)) fail_msg("%s", why.s);
        kd_context_free(cx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interface), cmocka_unit_test(test_order),   cmocka_unit_test(test_regenerated), cmocka_unit_test(test_list_of_networks),
        cmocka_unit_test(test_every),     cmocka_unit_test(test_pool),    cmocka_unit_test(test_pool_off),    cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_recipes), cmocka_unit_test(test_clamped), cmocka_unit_test(test_loss_without_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
