/* test_api.c: libkdc as another program would use it: runnables by name, errors as status and text, initialisers with
 * the moments they promise, two sessions side by side in one process that do not disturb each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/api/kdc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char source[] =
    "fn mix(x: [n, c], w: [c, k]) {\n"
    "    return matmul(x, w) * 2.0\n"
    "}\n"
    "net Inits[](x: [n, 4, h, w]) {\n"
    "    let a = weight([40, 50, 2, 2], \"normal(0.5, 0.02)\")\n"
    "    let b = weight([40, 50, 2, 2], \"xavier_normal(0.02)\")\n"
    "    let c = weight([40, 50, 2, 2], \"uniform(-1, 3)\")\n"
    "    let d = weight([4], \"ones\")\n"
    "    let e = weight([4], \"zeros\")\n"
    "    let f = weight([4], \"constant(0.25)\")\n"
    "    return x * (mean(a) + mean(b) + mean(c) + mean(d) + mean(e) + mean(f))\n"
    "}\n"
    "net Tiny[](x: [n, 3, h, w]) {\n"
    "    return tanh(conv2d[3, 3, padding = 1](x))\n"
    "}\n"
    "let I = Inits[]\n"
    "let T = Tiny[]\n"
    "session fit(x: [1, 3, 6, 6], y: [1, 3, 6, 6]) from paired {\n"
    "    let loss = mean(square(T(x) - y))\n"
    "    minimize loss over T with adam(0.01)\n"
    "    log loss\n"
    "}\n";

static KdcProgram *open_source(const char *text) {
    KdcOptions o = {.threads = 2, .cache = ""};
    KdcProgram *p = kdc_open("test.kd", text, strlen(text), &o);
    assert_non_null(p);
    return p;
}

static void demand(KdcProgram *p, bool ok) {
    if (!ok || kdc_status(p) != KDC_OK) {
        kdc_print_messages(p, stderr, false);
        fail_msg("status %d", (int)kdc_status(p));
    }
}

static void test_run(void **state) {
    (void)state;
    KdcProgram *p = open_source(source);
    demand(p, true);
    const KdcShape given[2] = {{"x", KDC_F32, 2, {2, 3}}, {"w", KDC_F32, 2, {3, 2}}};
    KdcShapes s = {.given = given, .n_given = 2, .grads = true};
    KdcRunnable *r = kdc_net(p, "mix", &s);
    demand(p, r);
    assert_int_equal(kdc_input_count(r), 2);
    KdcTensor *x = kdc_find(r, "x"), *w = kdc_find(r, "w"), *y = kdc_find_output(r, "out");
    assert_true(x && w && y && !kdc_find(r, "y"));
    assert_int_equal(x->role, KDC_DATA);
    assert_int_equal(y->count, 4);
    for (int i = 0; i < 6; i++) {
        ((float *)x->data)[i] = (float)i;
        ((float *)w->data)[i] = (float)(i + 1);
    }
    for (int again = 0; again < 3; again++) {
        assert_int_equal(kdc_run(r), KDC_OK);
        static const float want[4] = {26, 32, 80, 104}, grad[6] = {6, 14, 22, 6, 14, 22};
        assert_memory_equal(y->data, want, sizeof want);
        assert_memory_equal(kdc_find_output(r, "grad.x")->data, grad, sizeof grad);
    }
    KdcStats st = kdc_stats(r);
    assert_true(st.kernels >= 1 && st.calls >= st.kernels && st.seconds > 0);
    kdc_close(p);
}

static void moments(const KdcTensor *t, double *mean, double *deviation) {
    double s = 0, q = 0;
    for (int64_t i = 0; i < t->count; i++) {
        double v = (double)((const float *)t->data)[i];
        s += v;
        q += v * v;
    }
    *mean = s / (double)t->count;
    *deviation = sqrt(q / (double)t->count - *mean * *mean);
}

/* Weights that are held are packed once: the bits are those of packing them in each run, and a change is seen as soon as
 * they are released. Runs on pairs of two runnables, one of which never holds. */
static void test_held_weights(void **state) {
    (void)state;
    KdcProgram *p = open_source("net N[](x: [1, 32, 32, 32]) {\n"
                                "    return x |> conv2d[32, 3, padding = 1] |> relu |> conv2d[32, 3, stride = 2, padding = 1]\n"
                                "}\n"
                                "let N1 = N[]\n");
    KdcRunnable *r[2] = {kdc_net(p, "N1", &(KdcShapes){0}), kdc_net(p, "N1", &(KdcShapes){0})};
    demand(p, r[0] && r[1]);
    assert_true(kdc_stats(r[0]).memory_packed > 0);
    KdcTensor *y[2] = {kdc_find_output(r[0], "out"), kdc_find_output(r[1], "out")};
    for (int k = 0; k < 2; k++)
        assert_int_equal(kdc_initialise(r[k], 7), KDC_OK);
    kdc_hold_weights(r[1], true);
    for (int round = 0; round < 6; round++) {
        for (int k = 0; k < 2; k++) {
            float *x = kdc_find(r[k], "x")->data, *w = kdc_find(r[k], "conv2d_0.weight")->data;
            for (int i = 0; i < 32 * 1024; i++)
                x[i] = sinf((float)(i * (round + 1)));
            if (round == 3) {
                kdc_hold_weights(r[1], false);
                w[5] += 1;
                kdc_hold_weights(r[1], true);
            }
            assert_int_equal(kdc_run(r[k]), KDC_OK);
        }
        assert_memory_equal(y[0]->data, y[1]->data, (size_t)y[0]->count * 4);
    }
    /* Held weights are not looked at again: that is what makes it fast. */
    ((float *)kdc_find(r[1], "conv2d_0.weight")->data)[5] += 1;
    assert_int_equal(kdc_run(r[1]), KDC_OK);
    assert_memory_equal(y[0]->data, y[1]->data, (size_t)y[0]->count * 4);
    kdc_close(p);
}

static void test_initialisers(void **state) {
    (void)state;
    KdcProgram *p = open_source(source);
    KdcRunnable *r = kdc_net(p, "I", &(KdcShapes){0});
    demand(p, r);
    demand(p, kdc_initialise(r, 7) == KDC_OK);
    static const struct { const char *name; double mean, deviation; } want[] = {
        {"a", 0.5, 0.02}, {"b", 0, 0.02 * 0.0745356}, {"c", 1, 4 / 3.4641016}, /* sqrt(2 / (200 + 160)), 4 / sqrt(12) */
        {"d", 1, 0},      {"e", 0, 0},                {"f", 0.25, 0}};
    float *first = NULL;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        KdcTensor *t = kdc_find(r, want[i].name);
        double mean, deviation;
        assert_non_null(t);
        assert_int_equal(t->role, KDC_WEIGHT);
        moments(t, &mean, &deviation);
        double scale = want[i].deviation; /* 8000 samples: 4 standard errors */
        if (fabs(mean - want[i].mean) > 0.05 * scale + 1e-7 || fabs(deviation - scale) > 0.04 * scale + 1e-4) {
            fail_msg("%s: mean %g, deviation %g", want[i].name, mean, deviation);
        }
        if (i == 0) {
            first = malloc(sizeof *first * (size_t)t->count);
            memcpy(first, t->data, sizeof *first * (size_t)t->count);
        }
    }
    KdcTensor *a = kdc_find(r, "a");
    size_t bytes = sizeof(float) * (size_t)a->count;
    kdc_initialise(r, 8);
    assert_memory_not_equal(a->data, first, bytes); /* another seed, other numbers; the same seed, the same */
    kdc_initialise(r, 7);
    assert_memory_equal(a->data, first, bytes);
    free(first);
    kdc_close(p);
}

static char *messages(KdcProgram *p) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    kdc_print_messages(p, f, false);
    fclose(f);
    return text;
}

static void test_errors(void **state) {
    (void)state;
    KdcProgram *p = open_source("fn f(x: [n]) {\n    return x +\n}\n");
    assert_int_equal(kdc_status(p), KDC_INPUT);
    char *text = messages(p);
    assert_non_null(strstr(text, "test.kd:"));
    free(text);
    assert_null(kdc_net(p, "f", &(KdcShapes){0}));
    assert_null(kdc_session(p, "f", &(KdcShapes){0}));
    kdc_close(p);
    p = open_source(source);
    assert_null(kdc_net(p, "nothing", &(KdcShapes){0}));
    assert_int_equal(kdc_status(p), KDC_INPUT);
    text = messages(p);
    assert_non_null(strstr(text, "nothing"));
    free(text);
    kdc_close(p);
    p = kdc_open("/no/such/file.kd", NULL, 0, &(KdcOptions){0});
    assert_non_null(p);
    assert_int_equal(kdc_status(p), KDC_INPUT);
    kdc_close(p);
    kdc_close(NULL);
}

typedef struct Training {
    KdcProgram *p;
    KdcSession *s;
} Training;

static Training start(uint64_t seed) {
    Training t = {.p = open_source(source)};
    t.s = kdc_session(t.p, "fit", &(KdcShapes){0});
    demand(t.p, t.s);
    demand(t.p, kdc_session_initialise(t.s, seed) == KDC_OK);
    KdcTensor *x = kdc_session_find(t.s, "x"), *y = kdc_session_find(t.s, "y");
    assert_true(x && y);
    for (int i = 0; i < 108; i++) {
        ((float *)x->data)[i] = (float)(i % 13) / 6 - 1;
        ((float *)y->data)[i] = (float)(i % 7) / 4 - 1;
    }
    return t;
}

static float step(Training *t, int64_t i) {
    demand(t->p, kdc_session_step(t->s, i, 1, 0) == KDC_OK);
    assert_int_equal(kdc_session_log_count(t->s), 1);
    for (int k = 0; k < kdc_session_output_count(t->s); k++) {
        KdcTensor *o = kdc_session_output(t->s, k);
        if (strcmp(o->name, "log.loss") == 0) {
            return *(float *)o->data;
        }
    }
    fail_msg("no log.loss");
    return 0;
}

static void test_two_sessions(void **state) {
    (void)state;
    enum { STEPS = 6 };
    float alone[2][STEPS];
    for (int k = 0; k < 2; k++) {
        Training t = start(3 + (uint64_t)k);
        for (int i = 0; i < STEPS; i++) {
            alone[k][i] = step(&t, i + 1);
        }
        assert_true(alone[k][STEPS - 1] < alone[k][0]);
        kdc_close(t.p);
    }
    assert_true(alone[0][0] != alone[1][0]);
    Training a = start(3), b = start(4);
    for (int i = 0; i < STEPS; i++) {
        assert_true(step(&a, i + 1) == alone[0][i]);
        assert_true(step(&b, i + 1) == alone[1][i]);
    }
    kdc_close(a.p);
    kdc_close(b.p);
}

static const char choosing[] =
    "choice width = [1, 2, 4]\n"
    "choice unused = [1, 2]\n"
    "choice pair = [[1, 2], [1, 3]]\n"
    "let S = conv2d[4, 3, padding = 1]\n"
    "let other = conv2d[unused, 1]\n"
    "session fit(x: [1, 3, 6, 6], y: [1, 4, 6, 6]) {\n"
    "    let small = narrow(S, out = width)(x)\n"
    "    let loss = mse_loss(small, y[:, 0:width]) * pair[1]\n"
    "    minimize loss over S with sgd(0.1)\n"
    "    log loss, width = 0.0 * mean(small) + width, scale = 0.0 * mean(small) + pair[1]\n"
    "}\n";

static float logged(KdcSession *s, const char *name) {
    for (int k = 0; k < kdc_session_output_count(s); k++) {
        if (strcmp(kdc_session_output(s, k)->name, name) == 0) {
            return *(float *)kdc_session_output(s, k)->data;
        }
    }
    fail_msg("no %s", name);
    return 0;
}

/* Each step's picks follow from the seed and its number; only what the session depends on is drawn; -D fixes. */
static void test_choices(void **state) {
    (void)state;
    enum { STEPS = 40 };
    float width[2][STEPS];
    int seen[5] = {0};
    for (int k = 0; k < 2; k++) {
        KdcProgram *p = open_source(choosing);
        KdcSession *s = kdc_session(p, "fit", &(KdcShapes){0});
        demand(p, s);
        demand(p, kdc_session_initialise(s, 1) == KDC_OK);
        assert_int_equal(kdc_session_gene_count(s), 3);
        assert_string_equal(kdc_session_gene(s, 0)->choice, "width");
        assert_true(kdc_session_gene(s, 0)->element == -1 && kdc_session_gene(s, 0)->n == 3);
        assert_string_equal(kdc_session_gene(s, 2)->choice, "pair");
        assert_int_equal(kdc_session_gene(s, 2)->element, 1);
        for (int i = 0; i < STEPS; i++) {
            int step = k ? STEPS - i : i + 1; /* in any order */
            float before[4 * 27];
            memcpy(before, kdc_session_find(s, "S.weight")->data, sizeof before);
            demand(p, kdc_session_step(s, step, 1, 7) == KDC_OK);
            width[k][step - 1] = logged(s, "log.width");
            assert_true(width[k][step - 1] == (float)atoi(kdc_session_pick(s, 0, step, 7)));
            assert_true(logged(s, "log.scale") == (float)atoi(kdc_session_pick(s, 2, step, 7)));
            int w = (int)width[k][step - 1];
            seen[w]++;
            const float *after = kdc_session_find(s, "S.weight")->data;
            assert_memory_equal(before + 27 * w, after + 27 * w, sizeof before - sizeof(float) * 27 * (size_t)w);
        }
        KdcDrawnStats d = kdc_session_drawn(s);
        assert_true(d.count > 0 && d.count <= 12 && d.seconds > 0);
        kdc_close(p);
    }
    assert_memory_equal(width[0], width[1], sizeof width[0]);
    assert_true(seen[1] > 10 && seen[2] > 10 && seen[4] > 10);
    KdcProgram *p = kdc_open("test.kd", choosing, strlen(choosing), &(KdcOptions){.defines = (const char *[]){"width=2"}, .n_defines = 1});
    KdcSession *s = kdc_session(p, "fit", &(KdcShapes){0});
    demand(p, s);
    assert_int_equal(kdc_session_gene_count(s), 2);
    demand(p, kdc_session_initialise(s, 1) == KDC_OK && kdc_session_step(s, 3, 1, 7) == KDC_OK);
    assert_true(logged(s, "log.width") == 2);
    kdc_close(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_held_weights),
        cmocka_unit_test(test_initialisers),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_two_sessions),
        cmocka_unit_test(test_choices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
