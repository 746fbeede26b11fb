/* train_feed.c: samples of a data set become a session's inputs. What an input gets follows from the session's `from`, from
 * the order of its parameters, and from their types (see KdcInputKind); nothing has to be named twice. */
#include "frontend/cli/train.h"

#include <string.h>

static bool scalar_of_step(const KdcTensor *t) {
    return t->rank == 0 && (strcmp(t->name, "step") == 0 || strcmp(t->name, "epoch") == 0 || strcmp(t->name, "seed") == 0);
}

static bool refuse(KdcProgram *p, const KdcTensor *t, const char *expected) {
    kd_error(p->cx, 0, "input %s %s cannot be fed from images: expected %s", t->name, kdc_tensor_shape(p->cx, t), expected);
    return false;
}

static bool kind_of_image(KdcProgram *p, KdcFeedInput *in) {
    const KdcTensor *t = in->t;
    bool rgb = t->rank == 4 && t->dim[1] == 3, gray = t->rank == 4 && t->dim[1] == 1;
    in->kind = t->dtype == KDC_U8 ? KDC_IN_STORED : gray ? KDC_IN_GRAY : KDC_IN_RGB;
    return (t->dtype == KDC_F32 && (rgb || gray)) || (t->dtype == KDC_U8 && rgb) ||
           refuse(p, t, "[batch, 3, height, width], or 1 channel for gray");
}

static bool kind_of_labels(KdcProgram *p, KdcFeedInput *in) {
    const KdcTensor *t = in->t;
    in->kind = t->dtype == KDC_I32 ? KDC_IN_LABEL : KDC_IN_ONE_HOT;
    return (t->dtype == KDC_F32 && t->rank == 4) ||
           (t->dtype == KDC_I32 && (t->rank == 3 || (t->rank == 4 && t->dim[1] == 1))) ||
           refuse(p, t, "label maps as f32 [batch, classes, height, width] or i32 [batch, height, width]");
}

static bool kind_of_instances(KdcProgram *p, KdcFeedInput *in) {
    const KdcTensor *t = in->t;
    in->kind = KDC_IN_EDGES;
    return (t->dtype == KDC_F32 && t->rank == 4 && t->dim[1] == 1) ||
           refuse(p, t, "instance edges as f32 [batch, 1, height, width]");
}

/* `batch`: that of the first input of its kind, 0 before it. */
static bool same_size(KdcProgram *p, KdcFeed *f, const KdcTensor *t, int64_t *batch) {
    int h = (int)t->dim[t->rank - 2], w = (int)t->dim[t->rank - 1];
    if (t->count == 0) {
        kd_error(p->cx, 0, "input %s %s is empty: batch, height and width must be at least 1", t->name, kdc_tensor_shape(p->cx, t));
        return false;
    }
    if (f->height == 0) {
        f->height = h;
        f->width = w;
    }
    *batch = *batch ? *batch : t->dim[0];
    if (*batch == t->dim[0] && f->height == h && f->width == w) {
        return true;
    }
    kd_error(p->cx, 0, "input %s %s: expected the batch, height and width of the first input, %lld, %d, %d", t->name,
             kdc_tensor_shape(p->cx, t), (long long)*batch, f->height, f->width);
    return false;
}

/* Input t of the image of that number in a sample. */
static bool plan_input(KdcProgram *p, KdcFeed *f, KdcTensor *t, int image, KdcFeedInput *in, int64_t *batch) {
    bool labels = f->wanted == KD_LAYOUT_LABELS;
    *in = (KdcFeedInput){.t = t, .image = image};
    if (!(labels && image == 0 ? kind_of_labels(p, in) : labels && image == 2 ? kind_of_instances(p, in) : kind_of_image(p, in)) ||
        !same_size(p, f, t, batch)) {
        return false;
    }
    if (in->kind == KDC_IN_ONE_HOT && f->classes && f->classes != t->dim[1]) {
        kd_error(p->cx, 0, "input %s %s: expected the %d classes of the first input", t->name, kdc_tensor_shape(p->cx, t), f->classes);
        return false;
    }
    f->classes = in->kind == KDC_IN_ONE_HOT ? (int)t->dim[1] : f->classes;
    return true;
}

/* Inputs by these names are of samples whose truth stays outside; they get all of a sample but the truth. -1: another name. */
static int image_of_rest(const char *name) {
    return strcmp(name, "unlabelled") == 0 ? 0 : strcmp(name, "unlabelled_edges") == 0 ? 2 : -1;
}

static bool plan_rest(KdcProgram *p, KdcFeed *f, KdcTensor *t, const char *from) {
    int image = image_of_rest(t->name);
    if (image == 2 ? strcmp(from, "labels") != 0 : strcmp(from, "labels") != 0 && strcmp(from, "paired") != 0) {
        kd_error(p->cx, 0, "input %s: samples without a label are part of a session from %s, not of one %s%s", t->name,
                 image == 2 ? "labels" : "paired or labels", *from ? "from " : "without 'from'", from);
        return false;
    }
    return plan_input(p, f, t, image, &f->rest[f->n_rest++], &f->rest_batch);
}

bool kdc_feed_plan(KdcProgram *p, KdcSession *s, KdcFeed *f) {
    const char *from = kdc_session_from(s);
    bool labels = strcmp(from, "labels") == 0, pair = strcmp(from, "paired") == 0, unpaired = strcmp(from, "unpaired") == 0;
    int least = *from ? 2 : 1, most = labels ? 3 : least;
    *f = (KdcFeed){.wanted = labels ? KD_LAYOUT_LABELS : pair ? KD_LAYOUT_ALIGNED : unpaired ? KD_LAYOUT_UNPAIRED : KD_LAYOUT_PLAIN};
    for (int i = 0; i < kdc_session_count(s); i++) {
        KdcTensor *t = kdc_session_tensor(s, i);
        if (t->role != KDC_DATA || scalar_of_step(t)) {
            continue;
        }
        if (image_of_rest(t->name) >= 0) {
            if (!plan_rest(p, f, t, from)) {
                return false;
            }
            continue;
        }
        if (f->n == most) {
            kd_error(p->cx, 0, "input %s has no image to come from: a session %s%s takes %d input%s", t->name,
                     *from ? "from " : "without 'from'", from, most, most > 1 ? "s" : "");
            return false;
        }
        if (!plan_input(p, f, t, f->n, &f->in[f->n], &f->batch)) {
            return false;
        }
        f->n++;
    }
    if (f->n < least) {
        kd_error(p->cx, 0, "a session %s%s needs %d input%s to train on images, this one has %d", *from ? "from " : "without 'from'",
                 from, least, least > 1 ? "s" : "", f->n);
        return false;
    }
    return true;
}

bool kdc_feed_fits(KdcProgram *p, const KdcFeed *f, const KdDataset *d, const char *root) {
    int wanted = f->n;
    for (int k = 0; k < f->n_rest; k++) {
        wanted = f->rest[k].image + 1 > wanted ? f->rest[k].image + 1 : wanted;
    }
    if (wanted <= kd_dataset_images(d)) {
        return true;
    }
    kd_error(p->cx, 0, "%s: a sample of this data set (%s) has %d image%s, the session takes %d", root,
             kd_layout_name(kd_dataset_layout(d)), kd_dataset_images(d), kd_dataset_images(d) == 1 ? "" : "s", wanted);
    return false;
}

/* "--size 32x32: the session takes 64x64; its params decide (-D size=64)" */
static bool other_size(KdcProgram *p, const KdcFeed *f, const char *option, int64_t h, int64_t w) {
    if ((!h || h == f->height) && (!w || w == f->width)) {
        return false;
    }
    kd_error(p->cx, 0, "--%s %lldx%lld: the session takes %dx%d; its params decide (-D size=%lld)", option, (long long)h, (long long)w,
             f->height, f->width, (long long)h);
    return true;
}

bool kdc_feed_options(KdcProgram *p, const KdcArgs *a, const KdcFeed *f, KdDataOptions *o) {
    bool pairs = f->wanted == KD_LAYOUT_ALIGNED || f->wanted == KD_LAYOUT_LABELS, ok = true;
    *o = (KdDataOptions){.root = a->data, .phase = a->phase, .wanted = f->wanted, .b_to_a = a->b_to_a,
                         .load_h = (int)a->load_h, .load_w = (int)a->load_w,
                         .crop_h = f->height, .crop_w = f->width, .no_flip = a->no_flip, .serial = a->serial,
                         .limit = a->limit, .classes = f->classes ? f->classes : (int)a->classes,
                         .ignore = (int)a->ignore, .seed = a->seed, .share = a->labelled,
                         .hold_out = a->hold_out};
    if (a->preprocess && !kd_preprocess_named(a->preprocess, &o->preprocess)) {
        kd_error(p->cx, 0, "--preprocess %s: expected resize_and_crop, crop, scale_width, scale_width_and_crop or none", a->preprocess);
        ok = false;
    }
    if (a->layout && !kd_layout_named(a->layout, &o->layout)) {
        kd_error(p->cx, 0, "--layout %s: expected aligned, unpaired, folders, labels or plain", a->layout);
        ok = false;
    }
    if (f->classes && a->classes && a->classes != f->classes) {
        kd_error(p->cx, 0, "--classes %lld: the session takes maps of %d classes", (long long)a->classes, f->classes);
        ok = false;
    }
    if (a->batch && a->batch != f->batch) {
        kd_error(p->cx, 0, "--batch %lld: the session takes %lld; its params decide (-D batch=%lld)", (long long)a->batch,
                 (long long)f->batch, (long long)a->batch);
        ok = false;
    }
    if (a->labelled > 0 && !pairs) {
        kd_error(p->cx, 0, "--labelled %g: only a session from paired or labels has a truth to leave out", a->labelled);
        ok = false;
    }
    return !other_size(p, f, "size", a->height, a->width) && !other_size(p, f, "crop-size", a->crop_h, a->crop_w) && ok;
}

static void put_gray(const KdImage *x, float *out) {
    const uint8_t *rgb = x->samples;
    for (int64_t i = 0; i < (int64_t)x->width * x->height; i++) {
        out[i] = ((float)kd_image_luma(rgb + 3 * i) / 255 - 0.5f) / 0.5f;
    }
}

static void put_stored(const KdImage *x, uint8_t *out) {
    const uint8_t *rgb = x->samples;
    int64_t plane = (int64_t)x->width * x->height;
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < 3; c++) {
            out[c * plane + i] = rgb[3 * i + c];
        }
    }
}

static int index_at(const KdImage *x, int64_t i) {
    return x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
}

/* A label outside 0..classes-1 is the ignored one: no class. */
static void put_one_hot(const KdImage *x, int classes, float *out) {
    int64_t plane = (int64_t)x->width * x->height;
    memset(out, 0, sizeof *out * (size_t)(plane * classes));
    for (int64_t i = 0; i < plane; i++) {
        int label = index_at(x, i);
        if (label < classes) {
            out[label * plane + i] = 1;
        }
    }
}

static void put_labels(const KdImage *x, int32_t *out) {
    for (int64_t i = 0; i < (int64_t)x->width * x->height; i++) {
        out[i] = index_at(x, i);
    }
}

static void put_edges(const KdImage *x, float *out) {
    int w = x->width, h = x->height;
    for (int r = 0; r < h; r++) {
        for (int c = 0; c < w; c++) {
            int64_t i = (int64_t)r * w + c;
            int id = index_at(x, i);
            bool edge = (c > 0 && index_at(x, i - 1) != id) || (c + 1 < w && index_at(x, i + 1) != id) ||
                        (r > 0 && index_at(x, i - w) != id) || (r + 1 < h && index_at(x, i + w) != id);
            out[i] = edge ? 1 : 0;
        }
    }
}

static void put(const KdcFeedInput *in, const KdSample *s, int64_t i, int64_t batch) {
    const KdImage *x = &s->image[in->image];
    int64_t at = i * (in->t->count / batch);
    float *real = (float *)in->t->data + at;
    switch (in->kind) {
    case KDC_IN_RGB:
        kd_image_to_planes(x, real);
        break;
    case KDC_IN_GRAY:
        put_gray(x, real);
        break;
    case KDC_IN_STORED:
        put_stored(x, (uint8_t *)in->t->data + at);
        break;
    case KDC_IN_ONE_HOT:
        put_one_hot(x, (int)in->t->dim[1], real);
        break;
    case KDC_IN_LABEL:
        put_labels(x, (int32_t *)in->t->data + at);
        break;
    case KDC_IN_EDGES:
        put_edges(x, real);
        break;
    }
}

void kdc_feed_sample(const KdcFeed *f, const KdSample *s, int64_t i) {
    for (int k = 0; k < f->n; k++) {
        put(&f->in[k], s, i, f->batch);
    }
}

void kdc_feed_rest(const KdcFeed *f, const KdSample *s, int64_t i) {
    for (int k = 0; k < f->n_rest; k++) {
        put(&f->rest[k], s, i, f->rest_batch);
    }
}
