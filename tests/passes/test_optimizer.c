/* test_optimizer.c: adam, sgd and rmsprop, expanded and evaluated for four steps, against loops written from the text of
 * torch.optim's documentation, one scalar at a time. */
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

enum { N = 5, STEPS = 4 };

typedef struct State { double w, m, v; } State;

typedef struct Settings { double lr, beta1, beta2, eps, decay, momentum; bool decoupled, nesterov; } Settings;

typedef void StepFn(const Settings *s, State *x, double g, int t);

static void adam(const Settings *s, State *x, double g, int t) {
    if (s->decoupled) x->w -= s->lr * s->decay * x->w;
    else g += s->decay * x->w;
    x->m = s->beta1 * x->m + (1 - s->beta1) * g;
    x->v = s->beta2 * x->v + (1 - s->beta2) * g * g;
    double m_hat = x->m / (1 - pow(s->beta1, t)), v_hat = x->v / (1 - pow(s->beta2, t));
    x->w -= s->lr * m_hat / (sqrt(v_hat) + s->eps);
}

static void sgd(const Settings *s, State *x, double g, int t) {
    g += s->decay * x->w;
    if (s->momentum != 0) {
        x->m = t > 1 ? s->momentum * x->m + g : g;
        g = s->nesterov ? g + s->momentum * x->m : x->m;
    } else x->m = g;
    x->w -= s->lr * g;
}

static void rmsprop(const Settings *s, State *x, double g, int t) {
    (void)t;
    g += s->decay * x->w;
    x->v = s->beta2 * x->v + (1 - s->beta2) * g * g; /* beta2: alpha */
    x->w -= s->lr * g / (sqrt(x->v) + s->eps);
}

static const struct Case {
    const char *name, *op, *operands, *attrs;
    int parts;
    StepFn *step;
    Settings s;
} cases[] = {
    {"adam", "adam", "%0, %1, %2, %3, %4, %5", "", 3, adam, {1e-2, 0.9, 0.999, 1e-8, 0, 0, false, false}},
    {"adam, GAN's betas", "adam", "%0, %1, %2, %3, %4, %5", ", beta1=0.5", 3, adam, {2e-4, 0.5, 0.999, 1e-8, 0, 0, false, false}},
    {"adam without the first moment", "adam", "%0, %1, %2, %3, %4, %5", ", beta1=0, beta2=0.9, eps=1e-3", 3, adam,
     {1e-2, 0, 0.9, 1e-3, 0, 0, false, false}},
    {"adam with decay", "adam", "%0, %1, %2, %3, %4, %5", ", weight_decay=0.1", 3, adam, {1e-2, 0.9, 0.999, 1e-8, 0.1, 0, false, false}},
    {"adamw", "adam", "%0, %1, %2, %3, %4, %5", ", weight_decay=0.1, decoupled=1", 3, adam, {1e-2, 0.9, 0.999, 1e-8, 0.1, 0, true, false}},
    {"sgd", "sgd", "%0, %1, %2, %4", "", 2, sgd, {0.1, 0, 0, 0, 0, 0, false, false}},
    {"sgd with decay", "sgd", "%0, %1, %2, %4", ", weight_decay=0.01", 2, sgd, {0.1, 0, 0, 0, 0.01, 0, false, false}},
    {"sgd with momentum", "sgd", "%0, %1, %2, %4", ", momentum=0.9, weight_decay=0.01", 2, sgd, {0.1, 0, 0, 0, 0.01, 0.9, false, false}},
    {"sgd, nesterov", "sgd", "%0, %1, %2, %4", ", momentum=0.9, nesterov=1", 2, sgd, {0.1, 0, 0, 0, 0, 0.9, false, true}},
    {"rmsprop", "rmsprop", "%0, %1, %3, %4", "", 2, rmsprop, {1e-2, 0, 0.99, 1e-8, 0, 0, false, false}},
    {"rmsprop with decay", "rmsprop", "%0, %1, %3, %4", ", alpha=0.9, eps=1e-3, weight_decay=0.1", 2, rmsprop,
     {1e-2, 0, 0.9, 1e-3, 0.1, 0, false, false}},
};

static KdFunc *make(KdContext *cx, const struct Case *c) {
    KdStr s = {.cx = cx};
    kd_str_printf(&s, "func @step {\n");
    static const char *const names[] = {"w", "g", "m", "v"};
    for (int k = 0; k < 4; k++) kd_str_printf(&s, "%%%d = input {name=\"%s\"}: f32[%d]\n", k, names[k], N);
    kd_str_printf(&s, "%%4 = input {name=\"lr\"}: f32[]\n%%5 = input {name=\"t\"}: f32[]\n");
    for (int k = 0; k < c->parts; k++)
        kd_str_printf(&s, "%%%d = %s(%s) {part=%d%s}: f32[%d]\n", 6 + k, c->op, c->operands, k, c->attrs, N);
    for (int k = 0; k < c->parts; k++) kd_str_printf(&s, "output \"%d\" = %%%d\n", k, 6 + k);
    kd_str_printf(&s, "}\n");
    KdModule *m = kd_parse_module(cx, c->name, s.s, s.n);
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    KdFunc *f = kd_pass_optimizer(m->funcs.v[0]);
    KdStr why = {.cx = cx};
    if (!kd_verify(f, &why)) fail_msg("%s", why.s);
    return f;
}

static void expect(const char *what, int step, int i, double got, double want) {
    if (!(fabs(got - want) <= 2e-6 * fabs(want) + 1e-7)) /* constants are floats: 0.9 is not exactly that */
        fail_msg("%s[%d] after step %d is %.12g, not %.12g", what, i, step, got, want);
}

static void run_case(void **state) {
    const struct Case *c = *state;
    KdContext *cx = kd_context_new();
    KdFunc *f = make(cx, c);
    double w[N], g[N], m[N] = {0}, v[N] = {0}, lr = (float)c->s.lr, t;
    double out[3][N];
    State want[N] = {{0, 0, 0}};
    for (int i = 0; i < N; i++) want[i].w = w[i] = 0.7 * i - 1.3;
    for (int step = 1; step <= STEPS; step++) {
        t = step;
        for (int i = 0; i < N; i++) g[i] = sin(3.7 * i + 1.9 * step) * pow(10, i - 3);
        const double *in[6] = {w, g, m, v, &lr, &t};
        double *to[3] = {out[0], out[1], out[2]};
        kd_eval(f, in, to);
        memcpy(w, out[0], sizeof w);
        if (c->step != rmsprop) memcpy(m, out[1], sizeof m);
        if (c->step == rmsprop) memcpy(v, out[1], sizeof v);
        if (c->step == adam) memcpy(v, out[2], sizeof v);
        for (int i = 0; i < N; i++) {
            c->step(&c->s, &want[i], g[i], step);
            expect("w", step, i, w[i], want[i].w);
            expect("m", step, i, m[i], want[i].m);
            expect("v", step, i, v[i], want[i].v);
        }
    }
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest t[KD_COUNT(cases)];
    for (int k = 0; k < KD_COUNT(cases); k++)
        t[k] = (struct CMUnitTest){cases[k].name, run_case, NULL, NULL, (void *)&cases[k]};
    return _cmocka_run_group_tests("optimizer", t, KD_COUNT(cases), NULL, NULL);
}
