/* eval_fid.c: Frechet distances: of the pictures made and of the reference, the distance of the Gaussians of their features
 * (eval_features.c). FID is the one of Inception's; with any other network it is called just that. The reference is --ref, or
 * else what the pictures are compared with.
 */
#include "frontend/cli/eval.h"
#include "runtime/host/npz.h"

#include <string.h>
#include <sys/stat.h>

typedef struct Distance {
    KdcMetric metric;
    KdcEvalFeatures *features;
    int dims; /* 0: not known before the first picture */
    KdMoments *made, *reference;
    double *mean,
        *cov; /* the reference's: of a statistics file, or of `reference` after the first round; NULL: not known yet */
    bool given; /* they are of a file */
} Distance;

struct KdcEvalFid {
    Distance distance[2]; /* FID, and of a network of one's own */
    int n;
};

static bool add(KdcEval *e, Distance *d, KdMoments **m, const KdImage *x) {
    int dims;
    KdTrouble t;
    const float *row = kdc_eval_features_of(e, d->features, x, &dims);
    if (!row) {
        return false;
    }
    if (d->dims && d->dims != dims) {
        kd_error(e->p->cx, 0, "%s has statistics of %d features, %s gives %d", e->a->ref, d->dims, e->a->features, dims);
        return false;
    }
    d->dims = dims;
    if (!*m && !(*m = kd_moments_new(dims, &t))) {
        return kdc_cli_trouble(e->p, &t);
    }
    kd_moments_add(*m, row);
    return true;
}

/* ---- the reference ------------------------------------------------------------------------------------- */

/* Its numbers, in p's memory; NULL after a message. n: how many features, or 0: as many as there are. */
static double *take_array(KdcEval *e, const KdArrays *all, const char *name, int rank, int64_t n) {
    const KdArray *x = kd_npz_find(all, name);
    if (!x || x->rank != rank || x->dim[0] < 1 || (n && x->dim[0] != n) || (rank == 2 && x->dim[1] != x->dim[0])) {
        const char *count = n ? kd_format(e->p->cx, "%lld", (long long)n) : "n";
        kd_error(e->p->cx, 0, "%s: expected %s of %s%s%s numbers, found %s", e->a->ref, name, count, rank == 2 ? " x " : "",
                 rank == 2 ? count : "", x ? "another shape" : "no such array");
        return NULL;
    }
    double *copy = kdc_memory(e->p, x->count * (int64_t)sizeof *copy);
    memcpy(copy, x->data, (size_t)x->count * sizeof *copy);
    return copy;
}

static bool read_statistics(KdcEval *e, Distance *d) {
    KdArrays all;
    KdTrouble t;
    if (!kd_npz_read(e->a->ref, &all, &t)) {
        return kdc_cli_trouble(e->p, &t);
    }
    d->mean = take_array(e, &all, "mu", 1, d->metric == KDC_FID ? KDC_INCEPTION_FEATURES : 0);
    d->dims = d->mean ? (int)kd_npz_find(&all, "mu")->dim[0] : 0;
    d->cov = d->mean ? take_array(e, &all, "sigma", 2, d->dims) : NULL;
    kd_npz_free(&all);
    d->given = d->cov != NULL;
    return d->given;
}

static bool add_folder(KdcEval *e, Distance *d) {
    const char **path;
    int n;
    if (!kdc_eval_list(e->p, e->a->ref, &path, &n)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        KdImage x = {0};
        KdTrouble t;
        if (!kd_image_read(path[i], KD_IMAGE_RGB8, &x, &t)) {
            return kdc_cli_trouble(e->p, &t);
        }
        bool ok = add(e, d, &d->reference, &x);
        kd_image_free(&x);
        if (!ok) {
            return false;
        }
    }
    e->references = n;
    return true;
}

/* ---- the metrics --------------------------------------------------------------------------------------- */

/* A statistics file is looked at before the network is compiled; a folder needs the network. */
static bool open_distance(KdcEval *e, Distance *d) {
    struct stat st;
    bool folder = e->a->ref && stat(e->a->ref, &st) == 0 && S_ISDIR(st.st_mode);
    if (e->a->ref && !folder && !read_statistics(e, d)) {
        return false;
    }
    d->features = kdc_eval_features(e, d->metric);
    return d->features && (!folder || add_folder(e, d));
}

bool kdc_eval_fid_open(KdcEval *e) {
    KdcEvalFid *f = e->features = KD_NEW(e->p->cx, KdcEvalFid);
    const KdcMetric metrics[] = {KDC_FID, KDC_FRECHET};
    e->reference = e->a->ref ? e->a->ref : e->against;
    for (int i = 0; i < KD_COUNT(metrics); i++) {
        if (e->compute[metrics[i]]) {
            Distance *d = &f->distance[f->n++];
            d->metric = metrics[i];
            if (!open_distance(e, d)) {
                return false;
            }
        }
    }
    return true;
}

bool kdc_eval_fid_add(KdcEval *e, const KdcEvalPair *pair) {
    KdcEvalFid *f = e->features;
    bool made = pair->got.samples != NULL, reference = pair->want.samples && !e->a->ref && !f->distance[0].mean;
    for (int i = 0; i < f->n; i++) {
        Distance *d = &f->distance[i];
        if ((made && !add(e, d, &d->made, &pair->got)) || (reference && !add(e, d, &d->reference, &pair->want))) {
            return false;
        }
    }
    e->generated += made;
    e->references += reference;
    return true;
}

void kdc_eval_fid_rewind(KdcEval *e) {
    KdcEvalFid *f = e->features;
    e->generated = 0;
    for (int i = 0; i < f->n; i++) {
        Distance *d = &f->distance[i];
        kd_moments_free(d->made);
        d->made = NULL;
        if (e->a->against && !e->a->ref && d->mean) { /* the other network may be trained, too */
            kdc_memory_free(e->p, d->mean);
            d->mean = d->cov = NULL;
        }
        if (!d->given && !d->mean && !e->a->ref) {
            kd_moments_free(d->reference);
            d->reference = NULL;
            e->references = 0;
        }
    }
}

static bool finish(KdcEval *e, Distance *d, double *value, KdTrouble *t) {
    int64_t n = d->dims, bytes = n * (n + 1) * (int64_t)sizeof(double);
    if (!d->made || (!d->mean && !d->reference)) {
        return kd_trouble(t, false, "%s", "there are no pictures on one side");
    }
    double *made = kdc_memory(e->p, bytes);
    bool ok = kd_moments_get(d->made, made, made + n, t);
    if (ok && !d->mean) {
        d->mean = kdc_memory(e->p, bytes);
        d->cov = d->mean + n;
        ok = kd_moments_get(d->reference, d->mean, d->cov, t);
    }
    ok = ok && kd_frechet((int)n, made, made + n, d->mean, d->cov, value, t);
    kdc_memory_free(e->p, made);
    return ok;
}

bool kdc_eval_fid_finish(KdcEval *e) {
    KdcEvalFid *f = e->features;
    for (int i = 0; i < f->n; i++) {
        Distance *d = &f->distance[i];
        KdTrouble t, named;
        if (!finish(e, d, d->metric == KDC_FID ? &e->fid : &e->frechet, &t)) {
            kd_trouble(&named, t.machine, "%s: %s", kdc_metric_name(d->metric), t.text);
            return kdc_cli_trouble(e->p, &named);
        }
        e->feature_count = d->metric == KDC_FRECHET ? d->dims : e->feature_count;
    }
    return true;
}

void kdc_eval_fid_close(KdcEval *e) {
    KdcEvalFid *f = e->features;
    for (int i = 0; f && i < f->n; i++) {
        kd_moments_free(f->distance[i].made);
        kd_moments_free(f->distance[i].reference);
        kdc_eval_features_close(f->distance[i].features);
    }
}
