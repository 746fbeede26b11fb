/* eval_net.c: see eval_net.h. Errors of a size's own program are printed when they happen; the command's program then only
 * carries the exit code. */
#include "frontend/cli/eval_net.h"

#include <math.h>
#include <string.h>

/* ---- weights ----------------------------------------------------------------------------------------- */

static bool holds_net(const KdWeights *w, const char *dotted) {
    for (int i = 0; i < w->n; i++) {
        if (strncmp(w->tensor[i].name, dotted, strlen(dotted)) == 0) {
            return true;
        }
    }
    return false;
}

/* The files that are this network's: those given as NAME=FILE; without one, those given for all, where the other network
 * of --against takes only files that hold it by name. */
static bool own_files(const KdcEvalNet *n, KdcProgram *q, KdcFiles *out) {
    const char *dotted = kd_format(q->cx, "%s.", n->name);
    bool against = n->a->against && strcmp(n->a->against, n->name) == 0, any = false;
    *out = (KdcFiles){0};
    for (int i = 0; i < n->files->weights.n; i++) {
        any = any || strcmp(n->files->weights.v[i].net, dotted) == 0;
    }
    for (int i = 0; i < n->files->weights.n; i++) {
        KdcWeightsFile w = n->files->weights.v[i];
        if (any ? strcmp(w.net, dotted) == 0 : !*w.net && (!against || holds_net(w.w, dotted))) {
            w.net = "";
            kd_push(q->cx, &out->weights, w);
        }
    }
    return out->weights.n > 0;
}

static bool fill_weights(KdcEvalNet *n, KdcProgram *q) {
    int count = kdc_input_count(n->r), weights = 0;
    KdcTensor **all = KD_NEW_ARRAY(q->cx, KdcTensor *, count + 1);
    KdcFiles files;
    KdcArgs a = *n->a;
    for (int i = 0; i < count; i++) {
        all[i] = kdc_input(n->r, i);
        weights += all[i]->role != KDC_DATA;
    }
    bool given = own_files(n, q, &files);
    if (weights && !given && !n->said && !a.quiet) {
        fprintf(stderr, "kdc: warning: no weights for %s were given: they are random (--weights %s=FILE)\n", n->name, n->name);
    }
    a.name = n->name;
    a.quiet = a.quiet || n->said;
    a.verbose = n->said ? 0 : a.verbose;
    n->said = true;
    return kdc_fill_weights(q, &a, &files, true, all, count);
}

/* ---- what goes in and comes out ------------------------------------------------------------------------ */

/* The compiler's own scalars: what random numbers (dropout left on) are drawn from. */
static bool own_scalar(KdcTensor *t) {
    bool seed = t->rank == 0 && strcmp(t->name, "rng_seed") == 0;
    if (!seed && !(t->rank == 0 && strcmp(t->name, "rng_step") == 0)) {
        return false;
    }
    *(int32_t *)t->data = seed ? 0 : 1;
    return true;
}

static int image_of(const KdSample *x, bool map) {
    for (int i = 0; i < x->n; i++) {
        if ((x->image[i].channels == 1) == map) {
            return i;
        }
    }
    return 0;
}

static bool look_at_output(KdcEvalNet *n, KdcProgram *q) {
    const KdcTensor *out = kdc_find_output(n->r, "out");
    if (!out || out->rank != 4 || out->dtype != KDC_F32 || out->dim[0] != 1 || out->dim[1] > 65536) {
        kd_error(q->cx, 0, "%s gives %s: expected pictures [1, 3, height, width], or class logits [1, classes, height, width]",
                 n->name, out ? kdc_tensor_shape(q->cx, out) : "a list");
        return false;
    }
    n->channels = (int)out->dim[1];
    return true;
}

/* What a network is for, by its first input and its output. */
typedef enum Use { PICTURE_TO_PICTURE, PICTURE_TO_LABELS, LABELS_TO_PICTURE, NOTHING } Use;

static Use use_of(const KdcArgs *a, KdcDType d, int rank, const int64_t *dim, int64_t given) {
    bool rgb = rank == 4 && dim[1] == 3, gray = rank == 4 && dim[1] == 1 && d == KDC_F32, picture = given == 3 || given == 1;
    bool three = a->classes == 3 && !a->b_to_a;
    if (rgb && d != KDC_I32 && (!picture || (a->b_to_a && a->classes == given))) {
        return PICTURE_TO_LABELS;
    }
    if ((rgb && d != KDC_I32 && !three) || gray) {
        return picture ? PICTURE_TO_PICTURE : NOTHING;
    }
    bool maps = (d == KDC_F32 && rank == 4) || (d == KDC_I32 && (rank == 3 || (rank == 4 && dim[1] == 1)));
    return maps && picture ? LABELS_TO_PICTURE : NOTHING;
}

/* Which image of a sample the input takes, and how. */
static bool plan_input(KdcEvalNet *n, KdcProgram *q, const KdSample *x, KdcTensor *t) {
    bool labels = n->layout == KD_LAYOUT_LABELS, gray = t->rank == 4 && t->dim[1] == 1;
    KdcFeedInput *in = &n->feed.in[n->feed.n];
    Use use = use_of(n->a, t->dtype, t->rank, t->dim, n->channels);
    *in = (KdcFeedInput){.t = t};
    if (n->feed.n == 1 && labels && x->n == 3 && t->dtype == KDC_F32 && gray) {
        *in = (KdcFeedInput){t, KDC_IN_EDGES, 2};
    } else if (n->feed.n) {
        kd_error(q->cx, 0, "%s has no image to give to the input %s %s", n->name, t->name, kdc_tensor_shape(q->cx, t));
        return false;
    } else if (labels && use == LABELS_TO_PICTURE) {
        in->image = image_of(x, true);
        in->kind = t->dtype == KDC_I32 ? KDC_IN_LABEL : KDC_IN_ONE_HOT;
        n->feed.classes = in->kind == KDC_IN_ONE_HOT ? (int)t->dim[1] : 0;
    } else if ((labels && use == PICTURE_TO_LABELS) || (!labels && use == PICTURE_TO_PICTURE)) {
        in->image = labels ? image_of(x, false) : 0;
        in->kind = t->dtype == KDC_U8 ? KDC_IN_STORED : gray ? KDC_IN_GRAY : KDC_IN_RGB;
        n->logits = labels;
    } else {
        kd_error(q->cx, 0, "%s takes %s %s and gives %d channels: that does not fit a data set of %s", n->name, t->name,
                 kdc_tensor_shape(q->cx, t), n->channels, labels ? "label maps and pictures" : "pictures");
        kd_hint(q->cx, labels ? "pictures to pictures: --layout aligned or folders" : "label maps: --layout labels");
        return false;
    }
    n->input = n->feed.n ? n->input : in->image;
    n->feed.n++;
    return true;
}

static bool fits(const KdcEvalNet *n, KdcProgram *q, const KdSample *x) {
    for (int i = 0; i < n->feed.n; i++) {
        const KdcTensor *t = n->feed.in[i].t;
        const KdImage *image = &x->image[n->feed.in[i].image];
        int64_t h = t->rank >= 3 ? t->dim[t->rank - 2] : 0, w = t->rank >= 3 ? t->dim[t->rank - 1] : 0;
        if (t->dim[0] != 1 || h != image->height || w != image->width) {
            kd_error(q->cx, 0, "%s takes %s %s, %s is %d x %d (width x height)", n->name, t->name, kdc_tensor_shape(q->cx, t),
                     x->name[n->feed.in[i].image], image->width, image->height);
            kd_hint(q->cx, "--crop-size %lldx%lld resizes the pictures", (long long)h, (long long)w);
            return false;
        }
    }
    return true;
}

static bool plan(KdcEvalNet *n, KdcProgram *q, const KdSample *x) {
    n->feed = (KdcFeed){.batch = 1};
    n->logits = false;
    if (!look_at_output(n, q)) {
        return false;
    }
    for (int i = 0; i < kdc_input_count(n->r); i++) {
        KdcTensor *t = kdc_input(n->r, i);
        if (t->role == KDC_DATA && !own_scalar(t) && !plan_input(n, q, x, t)) {
            return false;
        }
    }
    if (n->feed.n == 0) {
        kd_error(q->cx, 0, "%s has no input to give pictures to", n->name);
        return false;
    }
    return fits(n, q, x);
}

/* ---- one size ---------------------------------------------------------------------------------------- */

/* In q's landing: the network's options at q's size: as the program says, or with the shape of x given. */
static void options_for(KdcProgram *q, const char *name, KdcShape *x, KdcShapes *s, KdNetOptions *o) {
    *x = (KdcShape){.name = "x", .dtype = KDC_F32, .rank = 4, .dim = {1, 3, q->o.height, q->o.width}};
    *s = (KdcShapes){0};
    if (kdc_net_options(q, s, o) && kdc_probe(q, name, false, o, NULL, 0, NULL)) {
        return;
    }
    *s = (KdcShapes){.given = x, .n_given = 1};
    if (!kdc_net_options(q, s, o) || !kdc_probe(q, name, false, o, NULL, 0, NULL)) {
        *s = (KdcShapes){0};
        kdc_net_options(q, s, o);
    }
}

static bool compile(KdcEvalNet *n, KdcProgram *q, const KdSample *x) {
    KdcShape given;
    KdcShapes s;
    KdNetOptions o;
    options_for(q, n->name, &given, &s, &o);
    n->r = kdc_net(q, n->name, &s);
    return n->r && plan(n, q, x) && fill_weights(n, q);
}

static KdcProgram *open_at(KdcProgram *p, int height, int width) {
    KdcOptions o = p->o;
    o.batch = 1;
    o.height = height;
    o.width = width;
    KdcProgram *q = kdc_open(p->file, p->text, p->text_size, &o);
    if (!q) {
        kd_raise(p->cx, KD_FAIL_MACHINE, "out of memory for %s at %dx%d", p->file, height, width);
    }
    return q;
}

static bool fail(KdcEvalNet *n, KdcProgram *q) {
    kdc_settle(q, 0);
    kdc_print_messages(q, stderr, n->a->color);
    n->p->status = kdc_status(q) == KDC_OK ? KDC_INPUT : kdc_status(q);
    return false;
}

static bool open_size(KdcEvalNet *n, const KdSample *x, int height, int width) {
    kdc_eval_net_close(n);
    KdcProgram *q = n->own = open_at(n->p, height, width);
    if (kdc_status(q) != KDC_OK) {
        return fail(n, q);
    }
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(q->cx, l)) {
        ok = compile(n, q, x);
        kd_landing_pop(q->cx);
    } else {
        kdc_failed(q);
    }
    n->height = height;
    n->width = width;
    return ok || fail(n, q);
}

/* Of one that elaborates. */
static KdLayout layout_for(const KdcArgs *a, const KdFunc *f, int *classes) {
    static const KdcDType dtype[] = {[KD_F32] = KDC_F32, [KD_I32] = KDC_I32, [KD_U8] = KDC_U8};
    const KdType *out = kd_vtype(f, f->outputs.v[0].value);
    for (int i = 0; i < f->inputs.n && out->rank == 4; i++) {
        const KdType *t = kd_vtype(f, f->inputs.v[i]);
        if (kd_input_role(f, f->inputs.v[i]) != KD_DATA || t->rank == 0) {
            continue;
        }
        switch (use_of(a, dtype[t->dtype], t->rank, t->dim, out->dim[1])) {
        case PICTURE_TO_PICTURE:
            return KD_LAYOUT_ALIGNED;
        case PICTURE_TO_LABELS:
            *classes = (int)(out->dim[1] < 65536 ? out->dim[1] : 0);
            return KD_LAYOUT_LABELS;
        case LABELS_TO_PICTURE:
            *classes = t->dtype == KD_F32 && t->dim[1] < 65536 ? (int)t->dim[1] : 0;
            return KD_LAYOUT_LABELS;
        case NOTHING:
            return KD_LAYOUT_AUTO;
        }
    }
    return KD_LAYOUT_AUTO;
}

KdLayout kdc_eval_net_kind(KdcProgram *p, const KdcArgs *a, const char *name, int height, int width, int *classes) {
    KdcProgram *q = open_at(p, height, width);
    volatile KdLayout layout = KD_LAYOUT_AUTO;
    KdLanding l;
    *classes = 0;
    if (kdc_status(q) == KDC_OK && KD_TRY(q->cx, l)) {
        KdcShape given;
        KdcShapes s;
        KdNetOptions o;
        KdcUnit u;
        options_for(q, name, &given, &s, &o);
        layout = kdc_unit_net(q, name, &o, &u) ? layout_for(a, u.func, classes) : KD_LAYOUT_AUTO;
        kd_landing_pop(q->cx);
    }
    kdc_close(q);
    return layout;
}

/* The size of what the network is given; the input is not known before it was compiled once. */
static bool ensure_size(KdcEvalNet *n, const KdSample *x) {
    const KdImage *image = &x->image[n->own ? n->input : image_of(x, false)];
    return (n->own && n->height == image->height && n->width == image->width) ||
           open_size(n, x, image->height, image->width);
}

bool kdc_eval_net_open(KdcEvalNet *n, KdcProgram *p, const KdcArgs *a, const KdcFiles *files, const char *name,
                       KdLayout layout, const KdSample *x) {
    *n = (KdcEvalNet){.p = p, .a = a, .files = files, .name = name, .layout = layout};
    return ensure_size(n, x);
}

void kdc_eval_net_close(KdcEvalNet *n) {
    if (n->own) {
        kdc_close(n->own);
        n->own = NULL;
    }
}

int kdc_eval_net_target(const KdcEvalNet *n, const KdSample *x) {
    return x->n < 2 ? -1 : n->layout == KD_LAYOUT_LABELS ? image_of(x, n->logits) : 1;
}

/* ---- running ------------------------------------------------------------------------------------------ */

/* [-1, 1], which a feed makes, to --range. */
static void to_range(const KdcEvalNet *n) {
    const KdcFeedInput *in = &n->feed.in[0];
    double lo = n->a->range_lo, hi = n->a->range_hi;
    float *x = in->t->data;
    if ((in->kind == KDC_IN_RGB || in->kind == KDC_IN_GRAY) && !(lo == -1 && hi == 1)) {
        for (int64_t i = 0; i < in->t->count; i++) {
            x[i] = (float)(lo + ((double)x[i] + 1) / 2 * (hi - lo));
        }
    }
}

static bool all_finite(const KdcTensor *out) {
    const float *x = out->data;
    for (int64_t i = 0; i < out->count; i++) {
        if (!isfinite(x[i])) {
            return false;
        }
    }
    return true;
}

/* --range to [-1, 1]; one channel becomes three. */
static bool to_picture(const KdcEvalNet *n, const KdcTensor *out, KdImage *image, KdTrouble *t) {
    int64_t plane = out->dim[2] * out->dim[3];
    const float *x = out->data;
    double lo = n->a->range_lo, hi = n->a->range_hi;
    bool as_is = lo == -1 && hi == 1;
    float *y = malloc(sizeof *y * 3 * (size_t)plane);
    if (!y) {
        return kd_trouble(t, true, "out of memory for a picture of %s", n->name);
    }
    for (int64_t i = 0; i < 3 * plane; i++) {
        float v = x[n->channels == 1 ? i % plane : i];
        y[i] = as_is ? v : (float)(((double)v - lo) / (hi - lo) * 2 - 1);
    }
    bool ok = kd_image_from_planes(y, 3, (int)out->dim[2], (int)out->dim[3], n->a->truncate, image, t);
    free(y);
    return ok;
}

/* The class of the largest logit; of equal ones the first. */
static bool to_labels(const KdcTensor *out, KdImage *image, KdTrouble *t) {
    int64_t plane = out->dim[2] * out->dim[3];
    const float *x = out->data;
    int bits = out->dim[1] > 256 ? 16 : 8;
    if (!kd_image_new((int)out->dim[3], (int)out->dim[2], 1, bits, image, t)) {
        return false;
    }
    for (int64_t i = 0; i < plane; i++) {
        int best = 0;
        for (int c = 1; c < out->dim[1]; c++) {
            best = x[c * plane + i] > x[best * plane + i] ? c : best;
        }
        if (bits == 16) {
            ((uint16_t *)image->samples)[i] = (uint16_t)best;
        } else {
            ((uint8_t *)image->samples)[i] = (uint8_t)best;
        }
    }
    return true;
}

bool kdc_eval_net_run(KdcEvalNet *n, const KdSample *x, KdImage *out) {
    KdTrouble t;
    if (!ensure_size(n, x)) {
        return false;
    }
    if (!fits(n, n->own, x)) {
        return fail(n, n->own);
    }
    kdc_feed_sample(&n->feed, x, 0);
    to_range(n);
    kdc_run(n->r);
    const KdcTensor *y = kdc_find_output(n->r, "out");
    if (!all_finite(y)) {
        kd_trouble(&t, false, "%s gives NaN or infinity for %s", n->name, x->name[n->input]);
        return kdc_cli_trouble(n->p, &t);
    }
    bool ok = n->logits ? to_labels(y, out, &t) : to_picture(n, y, out, &t);
    return ok || kdc_cli_trouble(n->p, &t);
}
