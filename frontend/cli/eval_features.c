/* eval_features.c: what a Frechet distance is measured on: a row of numbers for each picture, 8-bit RGB of any size.
 *
 * FID's: models/nets/inception.kd, compiled like any other network; its weights must all be there by name. --features: any
 * network of another program, as it sees pictures elsewhere (picture.h): the mean over positions of a tap, or of what it
 * gives. The program is of its own, so that its params, and networks called like those evaluated, stay apart.
 */
#include "frontend/cli/eval.h"
#include "frontend/cli/feature.h"
#include "runtime/host/pth.h"

#include <string.h>

enum { SIZE = 299 };

struct KdcEvalFeatures {
    KdcProgram *own; /* the network's */
    /* Inception */
    KdcRunnable *r;
    KdWeights *weights;
    /* --features */
    const char *text, *net, *tap; /* as given; tap: NULL for what the network gives */
    KdcArgs given, a;             /* a: a run folder resolved into its program */
    KdcRunProgram run;
    KdcWatch watch;
    KdcFiles files;
    KdcPictureNet *picture; /* once the first picture has come */
    float *row;
    int64_t dims;
};

/* What went wrong in the network's own program is said now; the command's carries the exit code. */
static bool failed(KdcEval *e, KdcProgram *q) {
    kdc_settle(q, 0);
    kdc_print_messages(q, stderr, e->a->color);
    e->p->status = kdc_status(q) == KDC_OK ? KDC_INPUT : kdc_status(q);
    return false;
}

/* ---- Inception ----------------------------------------------------------------------------------------- */

/* In own's landing. */
static bool compile(KdcEvalFeatures *f, const char *file) {
    KdcProgram *q = f->own;
    KdTrouble t;
    KdcMatch m;
    f->r = kdc_net(q, "I", &(KdcShapes){0});
    if (!f->r) {
        return false;
    }
    if (!(f->weights = kd_checkpoint_file_read(file, &t))) {
        return kdc_cli_trouble(q, &t);
    }
    int n = kdc_input_count(f->r), count = 0;
    KdcTensor **w = KD_NEW_ARRAY(q->cx, KdcTensor *, n + 1);
    for (int i = 0; i < n; i++) {
        if (kdc_input(f->r, i)->role != KDC_DATA) {
            w[count++] = kdc_input(f->r, i);
        }
    }
    if (!kdc_match(q, "I", w, count, f->weights, file, false, &m)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (!m.from[i]) {
            kd_error(q->cx, 0, "%s: there is no tensor %s: these are not the weights of FID's Inception network", file,
                     w[i]->name);
            return false;
        }
        if (!kdc_load_tensor(q, w[i], m.from[i], file)) {
            return false;
        }
    }
    kdc_hold_weights(f->r, true);
    return true;
}

static bool open_inception(KdcEval *e, KdcEvalFeatures *f) {
    static const char text[] = "import \"nets/inception.kd\"\nlet I = Inception[]\n";
    KdcOptions o = {.batch = 1, .height = SIZE, .width = SIZE, .threads = (int)e->a->threads};
    o.cache = e->a->no_cache ? "" : NULL;
    KdcProgram *q = f->own = kdc_open("kdc eval", text, sizeof text - 1, &o);
    if (!q) {
        kd_raise(e->p->cx, KD_FAIL_MACHINE, "out of memory for the Inception network");
    }
    volatile bool ok = false;
    KdLanding l;
    if (kdc_status(q) == KDC_OK && KD_TRY(q->cx, l)) {
        ok = compile(f, e->a->inception);
        kd_landing_pop(q->cx);
    } else if (kdc_status(q) == KDC_OK) {
        kdc_failed(q);
    }
    kd_weights_free(f->weights);
    f->weights = NULL;
    return ok || failed(e, q);
}

/* ---- a network of one's own ------------------------------------------------------------------------------ */

/* FILE.kd:NET[.TAP], or a run folder in the place of the file. */
static bool take_text(KdcEval *e, KdcEvalFeatures *f) {
    KdContext *cx = e->p->cx;
    const char *colon = strrchr(f->text, ':'), *dot = colon ? strchr(colon, '.') : NULL;
    if (!colon || colon == f->text || !colon[1] || strchr(colon, '/') || dot == colon + 1 || (dot && !dot[1])) {
        kd_error(cx, 0, "--features %s: expected FILE.kd:NET or FILE.kd:NET.TAP (or RUN:NET.TAP, of a run folder)", f->text);
        return false;
    }
    f->net = dot ? kd_intern(cx, colon + 1, (size_t)(dot - colon - 1)) : colon + 1;
    f->tap = dot ? dot + 1 : NULL;
    f->given = (KdcArgs){.verb = e->a->verb == KDC_VERB_SEARCH ? KDC_VERB_SEARCH : KDC_VERB_EVAL, /* which refuses random weights */
                         .weights_by = "--feature-weights FILE",
                         .file = kd_intern(cx, f->text, (size_t)(colon - f->text)),
                         .name = f->net,
                         .imports = e->a->imports,
                         .n_imports = e->a->n_imports,
                         .threads = e->a->threads,
                         .no_cache = e->a->no_cache,
                         .quiet = e->a->quiet,
                         .color = e->a->color,
                         .ignore = -1,
                         .range_lo = -1,
                         .range_hi = 1};
    if (e->a->feature_weights) {
        f->given.weights = KD_NEW_ARRAY(cx, const char *, 1);
        f->given.weights[0] = e->a->feature_weights;
        f->given.n_weights = 1;
    }
    f->a = f->given;
    return true;
}

static bool open_own(KdcEval *e, KdcEvalFeatures *f) {
    int code = 0;
    if (!take_text(e, f)) {
        return false;
    }
    code = kdc_cli_open_run(&f->run, &f->given, &f->a);
    f->own = code ? NULL : kdc_cli_open(&f->a, &f->watch, &code);
    if (!f->own) {
        e->p->status = code == 3 ? KDC_MACHINE : KDC_INPUT;
        return false;
    }
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(f->own->cx, l)) {
        ok = kdc_files_read(f->own, &f->a, &f->files);
        kd_landing_pop(f->own->cx);
    } else {
        kdc_failed(f->own);
    }
    return ok || failed(e, f->own);
}

/* The mean over positions of what the last run gave, in f->row. */
static bool take_row(KdcEvalFeatures *f, KdTrouble *t) {
    const KdcTensor *x = f->tap ? kdc_picture_feature(f->picture) : kdc_picture_output(f->picture);
    bool fits = x && x->dtype == KDC_F32 && (x->rank == 2 || x->rank == 4) && x->dim[0] == 1;
    if (!fits) {
        return kd_trouble(t, false, "%s gives no features: expected f32 [1, k], or [1, k, height, width]", f->text);
    }
    int64_t n = x->dim[1], positions = n ? x->count / n : 0;
    if (!positions || (f->dims && f->dims != n)) {
        return kd_trouble(t, false, "%s gives %lld features, and %lld of another picture", f->text, (long long)n,
                          (long long)f->dims);
    }
    if (!f->row) {
        f->row = kdc_memory(f->own, n * (int64_t)sizeof *f->row);
        f->dims = n;
    }
    const float *v = x->data;
    for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t i = 0; i < positions; i++) {
            sum += (double)v[c * positions + i];
        }
        f->row[c] = (float)(sum / (double)positions);
    }
    return true;
}

/* In own's landing. */
static bool run_own(KdcEvalFeatures *f, const KdImage *x) {
    KdImage made = {0};
    KdcPictureRun r;
    KdTrouble t = {0};
    KdcProgram *q = f->own;
    if (!f->picture) {
        f->picture = kdc_feature_net(q, &f->a, &f->files, f->net, f->tap, x->height, x->width);
        if (!f->picture) {
            return false;
        }
        if (kdc_picture_want(f->picture) != KD_IMAGE_RGB8) {
            kd_error(q->cx, 0, "%s takes no colour pictures: expected [1, 3, h, w]", f->text);
            return false;
        }
    }
    int errors = kd_error_count(q->cx);
    bool ok = kdc_picture_run(f->picture, x, &made, &r, &t) && take_row(f, &t);
    kd_image_free(&made);
    return ok || (kdc_status(q) == KDC_OK && kd_error_count(q->cx) == errors && kdc_cli_trouble(q, &t));
}

/* ---- both ------------------------------------------------------------------------------------------------ */

KdcEvalFeatures *kdc_eval_features(KdcEval *e, KdcMetric m) {
    KdcEvalFeatures *f = KD_NEW(e->p->cx, KdcEvalFeatures);
    f->text = e->a->features;
    if (m == KDC_FID ? open_inception(e, f) : open_own(e, f)) {
        return f;
    }
    kdc_eval_features_close(f);
    return NULL;
}

const float *kdc_eval_features_of(KdcEval *e, KdcEvalFeatures *f, const KdImage *x, int *dims) {
    volatile bool ok = false;
    KdLanding l;
    if (f->r) {
        const KdcTensor *out = kdc_find_output(f->r, "out");
        kd_fid_input(x, SIZE, kdc_find(f->r, "x")->data);
        kdc_run(f->r);
        *dims = (int)out->count;
        return out->data;
    }
    if (KD_TRY(f->own->cx, l)) {
        ok = run_own(f, x);
        kd_landing_pop(f->own->cx);
    } else {
        kdc_failed(f->own);
    }
    *dims = (int)f->dims;
    return ok || failed(e, f->own) ? f->row : NULL;
}

void kdc_eval_features_close(KdcEvalFeatures *f) {
    if (!f) {
        return;
    }
    kd_weights_free(f->weights);
    kdc_picture_free(f->picture);
    kdc_files_free(&f->files);
    if (f->own) {
        kdc_close(f->own);
    }
    kdc_cli_free_run(&f->run, &f->given);
    *f = (KdcEvalFeatures){0};
}
