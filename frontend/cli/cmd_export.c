/* cmd_export.c: kdc export FILE.kd:NET: a network with its weights as a C library (docs/export.md). */
#include "frontend/api/export.h"
#include "frontend/cli/tensors.h"

#include <inttypes.h>
#include <string.h>

/* ---- sizes that do not fit ------------------------------------------------------------------------------ */

static bool takes(KdcProgram *p, const KdcArgs *a, const KdcShapes *s, int64_t h, int64_t w) {
    KdNetOptions o;
    if (!kdc_net_options(p, s, &o)) {
        return false;
    }
    o.height = h;
    o.width = w;
    return kdc_probe(p, a->name, false, &o, NULL, 0, NULL);
}

/* Why it was refused stands there already; which multiple would do is found by trying two of them: a size that is taken
 * can be a multiple of more than was asked of it. Where no two are, one that is. */
static void hint_multiple(KdcProgram *p, const KdcArgs *a, const KdcShapes *s) {
    int64_t h = a->height ? a->height : 256, w = a->width ? a->width : 256, near_h = 0, near_w = 0;
    for (int64_t m = 2; m <= 512; m *= 2) {
        int64_t up_h = (h + m - 1) / m * m, up_w = (w + m - 1) / m * m;
        if ((up_h == h && up_w == w) || !takes(p, a, s, up_h, up_w)) {
            continue;
        }
        near_h = near_h ? near_h : up_h;
        near_w = near_w ? near_w : up_w;
        if (takes(p, a, s, up_h + m, up_w + m)) {
            kd_hint(p->cx, "%s takes multiples of %" PRId64 ": --size %" PRId64 "x%" PRId64, a->name, m, up_h, up_w);
            return;
        }
    }
    if (near_h) {
        kd_hint(p->cx, "%s takes --size %" PRId64 "x%" PRId64, a->name, near_h, near_w);
    }
}

/* ---- the summary ---------------------------------------------------------------------------------------------- */

static void print_bytes(int64_t n) {
    if (n < 10000) {
        printf("%" PRId64 " bytes", n);
    } else if (n < 10000000) {
        printf("%.1f kB", (double)n / 1e3);
    } else {
        printf("%.1f MB", (double)n / 1e6);
    }
}

static void print_report(KdcProgram *p, const KdcArgs *a, const KdcExportReport *r) {
    for (int i = 0; i < r->n_files; i++) {
        printf("%-28s ", r->file[i].path);
        print_bytes((int64_t)r->file[i].bytes);
        printf("%s\n", r->file[i].kept ? ", yours: left alone" : "");
    }
    printf("for        %s, %s\n", p->target.triple, *p->target.cpu ? p->target.cpu : "any processor");
    printf("parameters %" PRId64 ", ", r->parameters);
    print_bytes(r->weight_bytes);
    printf("%s\narena      ", a->beside ? " beside" : "");
    print_bytes(r->arena_bytes);
    printf("\nfunctions ");
    for (int i = 0; i < r->symbols.defined.n; i++) {
        printf(" %s", r->symbols.defined.v[i]);
    }
    printf("\nneeds     ");
    for (int i = 0; i < r->symbols.undefined.n; i++) {
        printf(" %s", r->symbols.undefined.v[i]);
    }
    printf("\nself-test  %s\n", r->exact ? "every bit" : "64 values to 1e-4: this machine cannot run that code");
    printf("sample     cd %s && %s\n", kdc_cli_quoted(p->cx, a->output), r->cc);
}

/* ---- the verb -------------------------------------------------------------------------------------------------- */

static bool fill(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, KdcExport *e) {
    int n;
    KdcTensor **all = kdc_export_inputs(e, &n);
    return kdc_cli_check_shapes(p, a, all, n) && kdc_fill_weights(p, a, f, true, all, n);
}

static bool spares_inputs(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, const KdcExportOptions *o) {
    const char *path[4], **inputs = KD_NEW_ARRAY(p->cx, const char *, f->weights.n + 1);
    bool ok = true;
    for (int i = 0; i < f->weights.n; i++) {
        inputs[i] = f->weights.v[i].file;
    }
    for (int i = 0, n = kdc_export_paths(p, a->name, o, path); i < n && ok; i++) {
        ok = kdc_cli_spares(p, a, path[i], inputs, f->weights.n);
    }
    return ok;
}

static bool work(KdcProgram *p, const KdcArgs *a, KdcFiles *f) {
    const KdcExportOptions o = {.folder = a->output, .beside = a->beside, .openmp = a->openmp, .truncate = a->truncate,
                                .lo = a->range_lo, .hi = a->range_hi, .threads = a->threads ? (int)a->threads : 16};
    KdcShapes s = {0};
    KdcExportReport r;
    if (!kdc_files_read(p, a, f) || !spares_inputs(p, a, f, &o) || !kdc_cli_shapes(p, a, &s)) {
        return false;
    }
    kdc_cli_default_shape(p, a, a->name, &s);
    int errors = kd_error_count(p->cx);
    KdcExport *e = kdc_export_new(p, a->name, &s);
    if (!e) {
        if (kd_error_count(p->cx) > errors) {
            hint_multiple(p, a, &s);
        }
        return false;
    }
    if (!fill(p, a, f, e) || !kdc_export_write(e, &o, &r)) {
        return false;
    }
    if (!a->quiet) {
        print_report(p, a, &r);
    }
    return true;
}

static int check(const KdcArgs *a) {
    if (!a->name) {
        return kdc_usage_error(a, "which network of %s? name it: %s:NET", a->file, a->file);
    }
    if (a->threads > 1 && !a->openmp) { /* 1 is what it is */
        return kdc_usage_error(a, "--threads is for --openmp; without it a run stays on the thread that calls it");
    }
    return a->output ? 0 : kdc_usage_error(a, "where to? -o FOLDER");
}

int kdc_cmd_export(const KdcArgs *a) {
    KdcWatch w;
    int code = check(a);
    KdcProgram *p = code ? NULL : kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    const KdDecl *d = kdc_cli_find(p, a->name);
    if (d && d->kind == KD_DECL_SESSION) {
        kdc_close(p);
        return kdc_usage_error(a, "%s is a session; networks are what can be exported", a->name);
    }
    w.unit = a->name;
    KdcFiles files = {0};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(p, a, &files);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_files_free(&files);
    kdc_settle(p, 0);
    return kdc_cli_close(a, &w, p, ok);
}
