/* eval_measure.c: which metrics there are and the loop over pictures, of `kdc eval` and of the evaluations of `kdc
 * train`.
 *
 * Pictures come one after the other from eval_source.c, as a pair to be compared; nothing but numbers is kept. Which
 * metrics there are follows from what was given: each that cannot be computed says what it lacks, and --metrics makes
 * that an error. Every result carries what it was measured on.
 */
#include "frontend/cli/eval.h"

#include <math.h>
#include <string.h>

/* ---- what was asked for ------------------------------------------------------------------------------ */

static const char *const words[KDC_METRICS] = {"l1", "psnr", "ssim", "fid", "miou", "frechet"};

int kdc_eval_metrics(const KdcArgs *a, bool *asked) {
    for (const char *p = a->metrics; p && *p;) {
        size_t n = strcspn(p, ",");
        int m = 0;
        while (m < KDC_METRICS && (strlen(words[m]) != n || strncmp(words[m], p, n) != 0)) {
            m++;
        }
        if (m == KDC_METRICS) {
            return kdc_usage_error(a, "--metrics takes some of l1,psnr,ssim,fid,miou,frechet, got '%.*s'", (int)n, p);
        }
        asked[m] = true;
        p += n + (p[n] == ',');
    }
    return 0;
}

/* Sets compute and missing. false after a message: something asked for cannot be had, or nothing can. */
static bool choose(KdcEval *e) {
    const char *no_pairs = e->a->pred ? "--truth FOLDER is not given"
                                      : "the data set has no pairs (--against NET compares networks)";
    for (int m = 0; m < KDC_PER_IMAGE; m++) {
        e->missing[m] = e->labels ? "label maps are compared by mIoU" : e->paired ? NULL : no_pairs;
    }
    e->missing[KDC_FID] = e->labels           ? "label maps are compared by mIoU"
                          : !e->a->inception ? "--inception FILE is not given (weights of models/nets/inception.kd)"
                          : !e->targets && !e->a->ref ? "--ref FILE|FOLDER is not given, nor pictures to compare with"
                                                      : NULL;
    e->missing[KDC_FRECHET] = e->labels           ? "label maps are compared by mIoU"
                              : !e->a->features ? "--features FILE.kd:NET.TAP is not given"
                              : !e->targets && !e->a->ref ? "--ref FILE|FOLDER is not given, nor pictures to compare with"
                                                          : NULL;
    e->missing[KDC_MIOU] = !e->labels && e->a->pred ? "--classes N is not given: these are pictures, not label maps"
                           : !e->labels
                               ? "the network gives pictures, not class logits, or the data set has no label maps"
                               : NULL;
    bool ok = true, any = false;
    for (int m = 0; m < KDC_METRICS; m++) {
        e->compute[m] = !e->missing[m] && (e->asked[m] || !e->a->metrics);
        any = any || e->compute[m];
        if (e->asked[m] && e->missing[m]) {
            kd_error(e->p->cx, 0, "no %s: %s", kdc_metric_name((KdcMetric)m), e->missing[m]);
            ok = false;
        }
    }
    if (ok && !any) {
        kd_error(e->p->cx, 0, "there is nothing to compare %s with: %s; no FID: %s", e->what, e->missing[KDC_L1],
                 e->missing[KDC_FID]);
        if (!e->a->pred) {
            kd_hint(e->p->cx, "give --against NET, or a paired data set (kdc data --help has the layouts)");
        }
    }
    return ok && any;
}

static bool distances(const KdcEval *e) {
    return e->compute[KDC_FID] || e->compute[KDC_FRECHET];
}

/* ---- measuring --------------------------------------------------------------------------------------- */

/* A metric refused this pair: says which. */
static bool refused(KdcEval *e, const KdcEvalPair *pair, const KdTrouble *t) {
    KdTrouble named;
    kd_trouble(&named, t->machine, "%s and %s: %s", pair->got_from, pair->want_from, t->text);
    return kdc_cli_trouble(e->p, &named);
}

/* SSIM of a picture that is smaller than its window: where nobody asked for it, there is none of the whole set. */
static bool too_small(KdcEval *e, const KdcEvalPair *pair) {
    enum { WINDOW = 11 };
    const KdImage *x = &pair->got;
    if (!e->compute[KDC_SSIM] || e->asked[KDC_SSIM] || (x->width >= WINDOW && x->height >= WINDOW)) {
        return false;
    }
    e->compute[KDC_SSIM] = false;
    e->missing[KDC_SSIM] = kd_format(e->p->cx, "it needs pictures of at least %d x %d, %s is %d x %d", WINDOW, WINDOW,
                                     pair->name, x->width, x->height);
    for (int i = 0; i < e->rows.n; i++) {
        e->rows.v[i].value[KDC_SSIM] = NAN;
    }
    return true;
}

static bool measure_pair(KdcEval *e, const KdcEvalPair *pair) {
    typedef bool Metric(const KdImage *, const KdImage *, double *, KdTrouble *);
    static Metric *const metrics[KDC_PER_IMAGE] = {kd_metric_l1, kd_metric_psnr, kd_metric_ssim};
    KdcEvalRow row = {.name = pair->name};
    KdTrouble t;
    for (int m = 0; m < KDC_PER_IMAGE; m++) {
        row.value[m] = NAN;
        bool skipped = !e->compute[m] || (m == KDC_SSIM && too_small(e, pair));
        if (!skipped && !metrics[m](&pair->got, &pair->want, &row.value[m], &t)) {
            return refused(e, pair, &t);
        }
    }
    kd_push(e->p->cx, &e->rows, row);
    return true;
}

static void remember(KdcEval *e, const KdcEvalPair *pair) {
    if (pair->want.samples) {
        const KdImage *x = &pair->want;
        const int32_t head[4] = {x->height, x->width, x->channels, x->bits};
        kdc_eval_hash(&e->pixels, head, sizeof head);
        kdc_eval_hash(&e->pixels, x->samples, (size_t)x->width * (size_t)x->height * (size_t)x->channels *
                                                  (size_t)(x->bits / 8));
    }
    e->count += pair->got.samples != NULL;
}

static bool take(KdcEval *e, const KdcEvalPair *pair) {
    KdTrouble t;
    remember(e, pair);
    if (e->labels) {
        return kd_confusion_add(&e->confusion, &pair->want, &pair->got, &t) || refused(e, pair, &t);
    }
    if (e->paired && !measure_pair(e, pair)) {
        return false;
    }
    return !distances(e) || kdc_eval_fid_add(e, pair);
}

static bool measure_all(KdcEval *e, bool *stopped) {
    bool done = false;
    while (!done) {
        KdcEvalPair pair = {0};
        *stopped = e->stop && *e->stop;
        if (*stopped) {
            return false;
        }
        bool ok = kdc_eval_next(e, &pair, &done);
        ok = ok && (done || take(e, &pair));
        kd_image_free(&pair.got);
        kd_image_free(&pair.want);
        if (!ok) {
            return false;
        }
        if (!done && !e->a->quiet && e->a->verbose > 1) {
            fprintf(stderr, "%s\n", pair.name);
        }
    }
    return true;
}

/* ---- from beginning to end ---------------------------------------------------------------------------- */

bool kdc_eval_begin(KdcEval *e) {
    KdTrouble t;
    if (!kdc_eval_open(e) || !choose(e)) {
        return false;
    }
    if (e->labels && !kd_confusion_init(&e->confusion, kdc_eval_classes(e), (int)e->a->ignore, &t)) {
        return kdc_cli_trouble(e->p, &t);
    }
    return !distances(e) || kdc_eval_fid_open(e);
}

static bool again(KdcEval *e) {
    e->rows.n = 0;
    e->count = 0;
    if (e->labels) {
        memset(e->confusion.count, 0,
               sizeof *e->confusion.count * (size_t)e->confusion.classes * (size_t)e->confusion.classes);
    }
    if (distances(e)) {
        kdc_eval_fid_rewind(e);
    }
    return kdc_eval_rewind(e);
}

bool kdc_eval_measure(KdcEval *e, bool *stopped) {
    bool ignored;
    if (!again(e) || !measure_all(e, stopped ? stopped : &ignored)) {
        return false;
    }
    if (e->labels) {
        kd_confusion_scores(&e->confusion, &e->pixel, &e->per_class, &e->miou);
    }
    return !distances(e) || kdc_eval_fid_finish(e);
}

void kdc_eval_end(KdcEval *e) {
    kdc_eval_fid_close(e);
    kdc_eval_close(e);
    kd_confusion_free(&e->confusion);
}
