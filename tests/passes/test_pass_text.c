/* test_pass_text.c: each pass, text in, text out.
 *
 * tests/passes/text/PASS/NAME.kir holds graph IR, a line `---- after PASS`, and what must come out: graph IR for graph
 * passes, the printed groups or places for analyses. Every file of every folder is one test. The input and the graph that
 * comes out must satisfy the verifier, and what is printed must read back. KDC_BLESS=1 writes what came out into the file.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "passes/passes.h"

#define ROOT KDC_SOURCE_DIR "/tests/passes/text"

typedef struct Runner {
    const char *pass;
    KdFunc *(*graph)(const KdFunc *f);
    void (*analysis)(KdStr *out, const KdFunc *f);
} Runner;

static const KdPassOptions options = {.machine = {.lanes = 16, .registers = 32, .fma = true, .gather = true,
                                                  .l1 = 32 << 10, .l2 = 1 << 20, .l3 = 8 << 20},
                                      .fuse = true};
static const KdPassOptions unfused = {.machine = {.lanes = 16, .registers = 32, .fma = true, .gather = true,
                                                  .l1 = 32 << 10, .l2 = 1 << 20, .l3 = 8 << 20}};

static void fuse(KdStr *out, const KdFunc *f) { kd_print_fusion(out, kd_fuse(f, &options)); }

/* Order and memory plan are told apart best where nothing is fused: the groups are the nodes. */
static void order(KdStr *out, const KdFunc *f) {
    KdFusion *fu = kd_fuse(f, &unfused);
    kd_order(fu);
    KdStr why = {.cx = f->cx};
    if (!kd_fusion_verify(fu, &why)) fail_msg("after order: %s", why.s);
    kd_print_fusion(out, fu);
}

static void memplan(KdStr *out, const KdFunc *f) {
    KdFusion *fu = kd_fuse(f, &unfused);
    kd_print_memplan(out, fu, kd_memplan(fu));
}

static const Runner runners[] = {
    {"autodiff", kd_pass_autodiff, NULL}, {"optimizer", kd_pass_optimizer, NULL}, {"freeze", kd_pass_freeze, NULL},
    {"dce", kd_pass_dce, NULL},           {"fuse", NULL, fuse},                   {"order", NULL, order},
    {"memplan", NULL, memplan},
};

typedef struct Case {
    const Runner *runner;
    char name[128], path[512];
} Case;

static char *read_all(const char *path) {
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    size_t n = 0, cap = 1 << 20;
    char *text = malloc(cap);
    n = fread(text, 1, cap - 1, in);
    assert_true(n < cap - 1);
    text[n] = 0;
    fclose(in);
    return text;
}

static KdModule *parse(KdContext *cx, const char *path, const char *text, size_t n) {
    KdModule *m = kd_parse_module(cx, path, text, n);
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    return m;
}

static void run_graph(KdContext *cx, const Case *c, const KdModule *m, KdStr *out) {
    KdModule after = {.cx = cx};
    KdStr why = {.cx = cx}, again = {.cx = cx};
    for (int k = 0; k < m->funcs.n; k++) {
        KdFunc *g = c->runner->graph(m->funcs.v[k]);
        if (!kd_verify(g, &why)) fail_msg("after %s: %s", c->runner->pass, why.s);
        kd_push(cx, &after.funcs, g);
    }
    kd_print_module(out, &after);
    kd_print_module(&again, parse(cx, c->path, out->s, out->n));
    assert_string_equal(again.s, out->s);
}

static void bless(const char *path, const char *text, size_t head, const char *after) {
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fwrite(text, 1, head, out);
    fputs(after, out);
    fclose(out);
}

static void run_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    char *text = read_all(c->path), line[64];
    snprintf(line, sizeof line, "---- after %s\n", c->runner->pass);
    char *cut = strstr(text, line);
    if (!cut) fail_msg("%s: there is no line '---- after %s'", c->path, c->runner->pass);
    size_t head = (size_t)(cut - text) + strlen(line);
    KdModule *m = parse(cx, c->path, text, (size_t)(cut - text));
    KdStr out = {.cx = cx};
    if (c->runner->graph) run_graph(cx, c, m, &out);
    for (int k = 0; !c->runner->graph && k < m->funcs.n; k++) c->runner->analysis(&out, m->funcs.v[k]);
    if (getenv("KDC_BLESS")) bless(c->path, text, head, out.s);
    else assert_string_equal(out.s, text + head);
    kd_context_free(cx);
    free(text);
}

static int by_path(const void *a, const void *b) { return strcmp(((const Case *)a)->path, ((const Case *)b)->path); }

static int collect(const Runner *r, Case *to, int room) {
    char folder[256];
    snprintf(folder, sizeof folder, "%s/%s", ROOT, r->pass);
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e = d ? readdir(d) : NULL; e && n < room; e = readdir(d)) {
        size_t length = strlen(e->d_name);
        if (length < 5 || strcmp(e->d_name + length - 4, ".kir")) continue;
        Case *c = &to[n++];
        c->runner = r;
        snprintf(c->name, sizeof c->name, "%s/%.90s", r->pass, e->d_name);
        snprintf(c->path, sizeof c->path, "%s/%.200s", folder, e->d_name);
    }
    if (d) closedir(d);
    return n;
}

int main(void) {
    enum { MOST = 256 };
    static Case cases[MOST];
    struct CMUnitTest t[MOST];
    int n = 0;
    for (int k = 0; k < KD_COUNT(runners); k++) n += collect(&runners[k], cases + n, MOST - n);
    qsort(cases, (size_t)n, sizeof *cases, by_path);
    for (int k = 0; k < n; k++) t[k] = (struct CMUnitTest){cases[k].name, run_case, NULL, NULL, &cases[k]};
    if (n == 0) {
        fprintf(stderr, "there are no cases under %s\n", ROOT);
        return 1;
    }
    return _cmocka_run_group_tests("pass text", t, (size_t)n, NULL, NULL);
}
