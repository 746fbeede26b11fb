/* calibrate.c: see calibrate.h.
 *
 * A norm's update is running = (1 - m) running + m batch, whatever its momentum m: from running = 0 a step gives m batch. m
 * itself is what is missing from a large power of two after a step from there, which swallows the batch's part. So norms
 * written by users are estimated as well, as long as they call their statistics running_mean and running_var.
 */
#include "frontend/cli/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef struct Statistic {
    KdcTensor *t, *home; /* in training mode; where the network has it */
    double *sum, momentum;
} Statistic;

typedef struct Calibrate {
    KdcEvalNet *n;
    const KdDataset *d;
    KdcCalibration *c;
    KdcProgram *q; /* the network in training mode, at this batch */
    KdcRunnable *r;
    KdcTensor *in;
    KD_VEC(Statistic) stat;
    int height, width; /* of the first picture */
} Calibrate;

/* ---- the network in training mode --------------------------------------------------------------------- */

static bool is_statistic(const char *name) {
    const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
    return strcmp(last, "running_mean") == 0 || strcmp(last, "running_var") == 0;
}

/* q's messages belong to the command's program. */
static bool failed(Calibrate *k) {
    kdc_print_messages(k->q, stderr, k->n->a->color);
    k->n->p->status = kdc_status(k->q) == KDC_OK ? KDC_INPUT : kdc_status(k->q);
    return false;
}

/* At the size at which the network has just run, as it was given to it: what does not fit is mirrored there. */
static bool open_training(Calibrate *k) {
    const KdcTensor *in = kdc_picture_input(k->n->net);
    KdcOptions o = k->n->p->o;
    KdcShape x = {.name = in->name, .dtype = in->dtype, .rank = in->rank};
    memcpy(x.dim, in->dim, sizeof x.dim);
    x.dim[0] = o.batch = k->c->batch;
    o.height = in->dim[in->rank - 2];
    o.width = in->dim[in->rank - 1];
    k->q = kdc_open(k->n->p->file, k->n->p->text, k->n->p->text_size, &o);
    if (!k->q) {
        kd_raise(k->n->p->cx, KD_FAIL_MACHINE, "out of memory for %s", k->n->p->file);
    }
    k->r = kdc_net(k->q, k->n->name, &(KdcShapes){.given = &x, .n_given = 1, .train = true});
    if (!k->r) {
        return failed(k);
    }
    for (int i = 0; i < kdc_input_count(k->r) && !k->in; i++) {
        KdcTensor *t = kdc_input(k->r, i);
        k->in = t->role == KDC_DATA && strcmp(t->name, in->name) == 0 ? t : NULL;
    }
    return true;
}

static KdcTensor *weight_of(const KdcPictureNet *net, const char *name) {
    int n;
    KdcTensor *const *t = kdc_picture_weights(net, &n);
    for (int i = 0; i < n; i++) {
        if (strcmp(t[i]->name, name) == 0) {
            return t[i];
        }
    }
    return NULL;
}

static bool find_statistics(Calibrate *k) {
    for (int i = 0; i < kdc_input_count(k->r); i++) {
        KdcTensor *t = kdc_input(k->r, i);
        if (t->role == KDC_DATA || !t->updated || !is_statistic(t->name)) {
            continue;
        }
        Statistic s = {.t = t, .home = weight_of(k->n->net, t->name)};
        if (!s.home) {
            kd_error(k->n->p->cx, 0, "%s has %s in training mode only: nothing to estimate it for", k->n->name, t->name);
            return false;
        }
        s.sum = KD_NEW_ARRAY(k->n->p->cx, double, t->count);
        kd_push(k->n->p->cx, &k->stat, s);
        k->c->norms += strstr(t->name, "running_mean") != NULL;
    }
    return true;
}

/* ---- batches -------------------------------------------------------------------------------------------- */

static int64_t sample_number(const Calibrate *k, int64_t i) {
    int64_t count = kd_dataset_count(k->d), wanted = k->c->batches * k->c->batch;
    return wanted <= count ? i * count / wanted : i % count;
}

static bool fits(Calibrate *k, const KdImage *x, const char *name) {
    if (x->height == k->height && x->width == k->width) {
        return true;
    }
    kd_error(k->n->p->cx, 0, "%s has %d x %d pixels, the pictures before it %d x %d: --calibrate needs one size", name, x->width,
             x->height, k->width, k->height);
    kd_hint(k->n->p->cx, "--crop-size HxW");
    return false;
}

static bool take_batch(Calibrate *k, int64_t batch) {
    for (int64_t i = 0; i < k->c->batch; i++) {
        KdSample s;
        KdTrouble t;
        if (!kd_dataset_sample(k->d, sample_number(k, batch * k->c->batch + i), &s, &t)) {
            return kdc_cli_trouble(k->n->p, &t);
        }
        KdImage gray = {0}, *x = &s.image[k->n->input];
        bool luma = kdc_picture_want(k->n->net) == KD_IMAGE_GRAY8 && x->channels == 3;
        bool ok = fits(k, x, s.name[k->n->input]);
        if (ok && luma && !kdc_eval_gray(x, &gray, &t)) {
            ok = kdc_cli_trouble(k->n->p, &t);
        }
        if (ok) {
            kdc_picture_put(k->n->net, luma ? &gray : x, k->in, i);
        }
        kd_image_free(&gray);
        kd_sample_free(&s);
        if (!ok) {
            return false;
        }
    }
    return true;
}

/* One step in training mode from the weights and buffers as the network has them, each statistic from `start` of it. */
static void run_from(Calibrate *k, int64_t batch, bool probe) {
    for (int i = 0; i < kdc_input_count(k->r); i++) {
        KdcTensor *t = kdc_input(k->r, i);
        const KdcTensor *home = t->role == KDC_DATA ? NULL : weight_of(k->n->net, t->name);
        if (home) {
            memcpy(t->data, home->data, (size_t)kdc_tensor_bytes(t));
        } else if (t->role == KDC_DATA && t != k->in) { /* what random numbers are drawn from: dropout */
            *(int32_t *)t->data = strcmp(t->name, "rng_step") == 0 ? (int32_t)batch + 1 : 0;
        }
    }
    for (int i = 0; i < k->stat.n; i++) {
        const Statistic *s = &k->stat.v[i];
        for (int64_t c = 0; c < s->t->count; c++) {
            ((float *)s->t->data)[c] = probe ? (float)s->momentum : 0;
        }
    }
    kdc_run(k->r);
}

/* Fills momentum of each statistic: what a step takes away of a start so large that the batch adds nothing to it, and that
 * is a power of two, so that the product is exact. */
static bool find_momentum(Calibrate *k) {
    run_from(k, 0, false);
    for (int i = 0; i < k->stat.n; i++) {
        Statistic *s = &k->stat.v[i];
        double most = 1;
        for (int64_t c = 0; c < s->t->count; c++) {
            most = fmax(most, fabs((double)((const float *)s->t->data)[c]));
        }
        s->momentum = exp2(ceil(log2(most)) + 27);
    }
    run_from(k, 0, true);
    for (int i = 0; i < k->stat.n; i++) {
        Statistic *s = &k->stat.v[i];
        const float *after = s->t->data;
        double m = 1 - after[0] / s->momentum, decimal = round(m * 1e4) / 1e4;
        bool affine = isfinite(m) && m > 1e-5 && m < 1 + 1e-6;
        for (int64_t c = 1; c < s->t->count; c++) {
            affine = affine && fabs(1 - after[c] / s->momentum - m) < 1e-6;
        }
        if (!affine) {
            kd_error(k->n->p->cx, 0, "%s of %s is not updated as a running average of the batches: it cannot be estimated",
                     s->t->name, k->n->name);
            return false;
        }
        s->momentum = fabs(decimal - m) < 1e-7 ? decimal : m; /* 1 - 0.9f is 0.1 */
    }
    return true;
}

static bool measure(Calibrate *k) {
    for (int64_t b = 0; b < k->c->batches; b++) {
        if (!take_batch(k, b) || (b == 0 && !find_momentum(k))) {
            return false;
        }
        run_from(k, b, false);
        for (int i = 0; i < k->stat.n; i++) {
            Statistic *s = &k->stat.v[i];
            for (int64_t c = 0; c < s->t->count; c++) {
                double v = ((const float *)s->t->data)[c] / s->momentum;
                if (!isfinite(v)) {
                    kd_error(k->n->p->cx, 0, "%s of %s is NaN or infinite in batch %" PRId64 " of --calibrate", s->t->name,
                             k->n->name, b + 1);
                    return false;
                }
                s->sum[c] += v;
            }
        }
    }
    return true;
}

static void keep(Calibrate *k) {
    for (int i = 0; i < k->stat.n; i++) {
        const Statistic *s = &k->stat.v[i];
        for (int64_t c = 0; c < s->t->count; c++) {
            ((float *)s->home->data)[c] = (float)(s->sum[c] / (double)k->c->batches);
        }
    }
    kdc_picture_changed(k->n->net);
}

/* Runs the network once as it is, which says the size. */
static bool look_at_first(Calibrate *k) {
    KdSample s;
    KdTrouble t;
    KdImage out = {0};
    if (!kd_dataset_sample(k->d, 0, &s, &t)) {
        return kdc_cli_trouble(k->n->p, &t);
    }
    k->height = s.image[k->n->input].height;
    k->width = s.image[k->n->input].width;
    bool ok = kdc_eval_net_run(k->n, &s, &out);
    kd_image_free(&out);
    kd_sample_free(&s);
    return ok;
}

bool kdc_calibrate(KdcEvalNet *n, const KdDataset *d, KdcCalibration *c) {
    Calibrate k = {.n = n, .d = d, .c = c};
    volatile bool ok = false;
    KdLanding l;
    c->norms = 0;
    if (!look_at_first(&k) || !open_training(&k)) {
        kdc_close(k.q);
        return false;
    }
    if (KD_TRY(n->p->cx, l)) {
        ok = find_statistics(&k) && (k.stat.n == 0 || measure(&k));
        if (ok && k.stat.n) {
            keep(&k);
        }
        kd_landing_pop(n->p->cx);
    } else {
        kdc_failed(n->p);
    }
    kdc_close(k.q);
    return ok;
}

bool kdc_calibrate_save(const KdcEvalNet *n, const char *path) {
    int count;
    KdTrouble t;
    KdcTensor *const *w = kdc_picture_weights(n->net, &count);
    KdTensorOut *out = KD_NEW_ARRAY(n->p->cx, KdTensorOut, count + 1);
    for (int i = 0; i < count; i++) {
        KdStored stored = w[i]->dtype == KDC_F32 ? KD_STORED_F32 : w[i]->dtype == KDC_I32 ? KD_STORED_I32 : KD_STORED_U8;
        out[i] = (KdTensorOut){w[i]->name, stored, w[i]->rank, w[i]->dim, w[i]->data};
    }
    return kd_weights_write(path, out, count, NULL, 0, &t) || kdc_cli_trouble(n->p, &t);
}
