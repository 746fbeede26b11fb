/* lang_test.h: what the tests of the language share: a program from a string, one of its functions evaluated in double precision.
 * Inputs are filled by name or, without a value of their own, with small numbers that differ from element to element.
 */
#ifndef KD_LANG_TEST_H
#define KD_LANG_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/lang/lang.h"

typedef struct LtValues { const char *name; const double *v; int n; } LtValues; /* the value of an input */

typedef struct LtRun {
    KdContext *cx;
    KdProgram *p;
    KdFunc *f;
    double **in, **out;
} LtRun;

/* All diagnostics so far, printed. */
static inline char *lt_messages(KdContext *cx) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    kd_diag_print(cx, f, false);
    fclose(f);
    return text;
}

static inline void lt_fail(KdContext *cx, const char *what) {
    char *m = lt_messages(cx);
    print_error("%s\n%s", what, m);
    free(m);
    fail();
}

static inline KdProgram *lt_load(KdContext *cx, const char *file, const char *text, const KdLangOptions *o) {
    KdProgram *p = kd_lang_load(cx, file, text, text ? strlen(text) : 0, o);
    if (!p) lt_fail(cx, text ? text : file);
    return p;
}

static inline double lt_number(int input, int64_t i) { /* in (-1, 1), never equal neighbours */
    uint32_t h = (uint32_t)i * 2654435761u + (uint32_t)(input + 1) * 40503u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    return (double)(h % 20011) / 10006.0 - 0.99987;
}

static inline double *lt_fill(KdFunc *f, int k, const LtValues *given, int n_given) {
    const KdNode *node = kd_node(f, f->inputs.v[k]);
    const char *name = kd_attr_str(f, node, "name"), *init = kd_attr_str(f, node, "init");
    double *v = calloc((size_t)node->type->count + 1, sizeof *v);
    double fixed = strcmp(init, "ones") == 0 ? 1 : 0;
    bool zero = strcmp(init, "zeros") == 0 || strcmp(init, "ones") == 0;
    for (int64_t i = 0; i < node->type->count; i++) v[i] = zero ? fixed : node->type->dtype == KD_F32 ? (double)(float)lt_number(k, i) : 0;
    for (int g = 0; g < n_given; g++) {
        if (strcmp(given[g].name, name) != 0) continue;
        if (given[g].n != node->type->count) fail_msg("%s has %lld elements, given %d", name, (long long)node->type->count, given[g].n);
        for (int i = 0; i < given[g].n; i++) v[i] = given[g].v[i];
    }
    return v;
}

static inline void lt_eval(LtRun *r, const LtValues *given, int n_given) {
    KdFunc *f = r->f;
    KdStr why = {r->cx, NULL, 0, 0};
    if (!kd_verify(f, &why)) fail_msg("not valid: %s", why.s);
    r->in = calloc((size_t)f->inputs.n + 1, sizeof *r->in);
    r->out = calloc((size_t)f->outputs.n + 1, sizeof *r->out);
    for (int k = 0; k < f->inputs.n; k++) r->in[k] = lt_fill(f, k, given, n_given);
    for (int k = 0; k < f->outputs.n; k++) r->out[k] = calloc((size_t)kd_vtype(f, f->outputs.v[k].value)->count + 1, sizeof(double));
    kd_eval(f, (const double *const *)r->in, r->out);
}

static inline void lt_free(LtRun *r) {
    for (int k = 0; r->in && k < r->f->inputs.n; k++) free(r->in[k]);
    for (int k = 0; r->out && k < r->f->outputs.n; k++) free(r->out[k]);
    free(r->in);
    free(r->out);
    kd_context_free(r->cx);
}

/* Loads text, elaborates `name`, evaluates it. */
static inline LtRun lt_run(const char *text, const char *name, KdMode mode, const LtValues *given, int n_given) {
    LtRun r = {.cx = kd_context_new()};
    r.p = lt_load(r.cx, "test.kd", text, NULL);
    r.f = kd_lang_net(r.p, name, &(KdNetOptions){.mode = mode});
    if (!r.f) lt_fail(r.cx, text);
    lt_eval(&r, given, n_given);
    return r;
}

static inline const double *lt_out(const LtRun *r, const char *name, int *n) {
    for (int k = 0; k < r->f->outputs.n; k++)
        if (strcmp(r->f->outputs.v[k].name, name) == 0) {
            *n = (int)kd_vtype(r->f, r->f->outputs.v[k].value)->count;
            return r->out[k];
        }
    fail_msg("there is no output %s", name);
    return NULL;
}

static inline const double *lt_in(const LtRun *r, const char *name) {
    for (int k = 0; k < r->f->inputs.n; k++)
        if (strcmp(kd_attr_str(r->f, kd_node(r->f, r->f->inputs.v[k]), "name"), name) == 0) return r->in[k];
    fail_msg("there is no input %s", name);
    return NULL;
}

static inline void lt_near(double got, double want, double tolerance, const char *what, int i) {
    if (fabs(got - want) <= tolerance * (1 + fabs(want))) return;
    fail_msg("%s[%d] is %.9g, expected %.9g", what, i, got, want);
}

#endif
