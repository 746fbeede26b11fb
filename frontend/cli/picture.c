/* picture.c: see picture.h. Whether a size works is found by elaborating at it in a program of its own, which is then
 * compiled, or thrown away together with what it had to say. */
#include "frontend/cli/picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIZES = 4, MOST_MULTIPLE = 1024 };
#define MOST_KEPT (1LL << 30) /* bytes of activations of the sizes that are kept */

typedef enum Takes { TAKES_RGB, TAKES_GRAY, TAKES_STORED, TAKES_ONE_HOT, TAKES_LABELS } Takes;

typedef struct Size {
    KdcProgram *q; /* NULL: free */
    KdcRunnable *r;
    KdcTensor *in, *out, *feature; /* feature: NULL without a tap */
    int height, width;               /* of the picture */
    int padded_height, padded_width; /* of what the network is given */
    int scale; /* 0: what comes out is no picture */
    int64_t bytes, used; /* used: number of the run */
} Size;

struct KdcPictureNet {
    KdcProgram *p;
    const KdcArgs *a;
    const KdcFiles *files;
    const char *name, *tap; /* tap: or NULL */
    bool loose;             /* what it gives need be no picture */
    Takes takes;
    bool give; /* the number of channels is the caller's to say: 3 */
    bool said; /* what is wrong with a size: once is enough */
    KD_VEC(KdcTensor *) weights; /* in p's memory */
    int filled;                  /* of them */
    Size size[SIZES];
    Size *last;
    int64_t runs;
};

/* ---- looking at an elaborated network ------------------------------------------------------------------ */

typedef enum Fit {
    FIT_YES,
    FIT_NOT_NOW, /* not at this size */
    FIT_NEVER,   /* it is no network for pictures; said in its context */
} Fit;

/* The compiler's own scalars: what random numbers (dropout left on) are drawn from. */
static bool own_scalar(const char *name, int rank) {
    return rank == 0 && (strcmp(name, "rng_seed") == 0 || strcmp(name, "rng_step") == 0);
}

static bool takes_of(const KdType *t, Takes *takes) {
    bool four = t->rank == 4, batch = t->rank > 0 && t->dim[0] == 1;
    if (batch && four && t->dtype == KD_F32) {
        *takes = t->dim[1] == 3 ? TAKES_RGB : t->dim[1] == 1 ? TAKES_GRAY : TAKES_ONE_HOT;
        return true;
    }
    if (batch && four && t->dtype == KD_U8 && t->dim[1] == 3) {
        *takes = TAKES_STORED;
        return true;
    }
    *takes = TAKES_LABELS;
    return batch && t->dtype == KD_I32 && (t->rank == 3 || (four && t->dim[1] == 1));
}

static const char *input_text(const KdFunc *f, KdValue v) {
    KdStr s = {.cx = f->cx};
    const KdType *t = kd_vtype(f, v);
    static const char *const dtype[] = {[KD_F32] = "", [KD_I32] = "i32", [KD_U8] = "u8"};
    kd_str_printf(&s, "%s: %s[", kd_attr_str(f, kd_node(f, v), "name"), dtype[t->dtype]);
    for (int i = 0; i < t->rank; i++) {
        kd_str_printf(&s, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    }
    kd_str_add(&s, "]", 1);
    return s.s;
}

static Fit find_input(const char *name, const KdFunc *f, KdValue *input, Takes *takes) {
    KdStr all = {.cx = f->cx};
    int n = 0;
    for (int i = 0; i < f->inputs.n; i++) {
        KdValue v = f->inputs.v[i];
        const char *called = kd_attr_str(f, kd_node(f, v), "name");
        if (kd_input_role(f, v) == KD_DATA && !own_scalar(called, kd_vtype(f, v)->rank)) {
            kd_str_printf(&all, "%s%s", n++ ? ", " : "", input_text(f, v));
            *input = v;
        }
    }
    if (n == 1 && takes_of(kd_vtype(f, *input), takes)) {
        return FIT_YES;
    }
    kd_error(f->cx, 0, "%s takes %s: expected one picture, [1, 3, h, w] or [1, 1, h, w], or a label map, [1, classes, h, w] "
             "or i32[1, h, w]", name, n ? all.s : "no input");
    return FIT_NEVER;
}

/* How many times as large as the picture the output is; 0: no whole number of times, or no picture. */
static int scale_of(const KdType *out, int height, int width) {
    int64_t s = out->rank == 4 && out->dtype == KD_F32 ? out->dim[2] / height : 0;
    bool whole = s >= 1 && out->dim[0] == 1 && out->dim[2] == s * height && out->dim[3] == s * width && s <= 64;
    return whole ? (int)s : 0;
}

static Fit look(const KdcPictureNet *n, const KdFunc *f, int height, int width, Takes *takes, int *scale) {
    const char *name = n->name;
    KdValue input = KD_NONE;
    Fit fit = find_input(name, f, &input, takes);
    if (fit != FIT_YES) {
        return fit;
    }
    const KdType *in = kd_vtype(f, input), *out = kd_vtype(f, f->outputs.v[0].value);
    if (!n->loose &&
        (strcmp(f->outputs.v[0].name, "out") != 0 || out->rank != 4 || out->dtype != KD_F32 || out->dim[1] > 65536)) {
        kd_error(f->cx, 0, "%s gives no picture: expected one output, [1, channels, h, w]", name);
        return FIT_NEVER;
    }
    if (in->dim[in->rank - 2] != height || in->dim[in->rank - 1] != width) {
        kd_error(f->cx, 0, "%s takes %s only, not %d x %d pixels (height, width)", name, input_text(f, input), height, width);
        return FIT_NOT_NOW;
    }
    *scale = out->rank == 4 && out->dim[1] > 65536 ? 0 : scale_of(out, height, width);
    if (!*scale && !n->loose) {
        kd_error(f->cx, 0, "%s makes [%lld, %lld, %lld, %lld] of a picture of %d x %d (height, width): no whole number of "
                 "times as large", name, (long long)out->dim[0], (long long)out->dim[1], (long long)out->dim[2],
                 (long long)out->dim[3], height, width);
    }
    return *scale || n->loose ? FIT_YES : FIT_NOT_NOW;
}

/* ---- one size ---------------------------------------------------------------------------------------- */

typedef struct Try {
    KdcProgram *q;
    KdcUnit unit;
    Takes takes;
    int scale, height, width;
    bool known; /* takes, though this size may not fit */
    Fit fit;
} Try;

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

/* Elaborates at height x width. The program stays open: t->q. */
static void attempt(const KdcPictureNet *n, int height, int width, bool give, Try *t) {
    KdcShape x = {.name = "x", .dtype = KDC_F32, .rank = 4, .dim = {1, 3, height, width}};
    KdcShapes s = {.given = &x, .n_given = give, .taps = &n->tap, .n_taps = n->tap != NULL};
    volatile Fit fit = FIT_NOT_NOW;
    KdNetOptions o;
    KdLanding l;
    *t = (Try){.q = open_at(n->p, height, width), .height = height, .width = width};
    if (kdc_status(t->q) == KDC_OK && KD_TRY(t->q->cx, l)) {
        if (kdc_net_options(t->q, &s, &o) && kdc_unit_net(t->q, n->name, &o, &t->unit)) {
            fit = look(n, t->unit.func, height, width, &t->takes, &t->scale);
            t->known = fit != FIT_NEVER;
        }
        kd_landing_pop(t->q->cx);
    } else if (kdc_status(t->q) == KDC_OK) {
        kdc_failed(t->q);
    }
    t->fit = fit;
}

static int64_t up_to(int64_t x, int64_t multiple) {
    return (x + multiple - 1) / multiple * multiple;
}

/* The first size at or above height x width that works. mirrored: only those that one mirroring reaches; *far is then
 * the first that works beyond. The messages of the exact size are printed if nothing works at all (print). */
static Try find_size(KdcPictureNet *n, int height, int width, bool mirrored, bool give, bool print, Try *far) {
    Try first = {0}, t = {0};
    *far = (Try){0};
    for (int64_t multiple = 1; multiple <= MOST_MULTIPLE; multiple *= 2) {
        int64_t h = up_to(height, multiple), w = up_to(width, multiple);
        if (h > INT32_MAX || w > INT32_MAX || (first.q && h == t.height && w == t.width)) {
            continue;
        }
        attempt(n, (int)h, (int)w, give, &t);
        bool reached = !mirrored || (h < 2LL * height && w < 2LL * width);
        if (t.fit == FIT_YES && !reached) {
            *far = t;
            far->q = NULL;
        }
        if ((t.fit == FIT_YES && reached) || t.fit == FIT_NEVER) {
            if (first.q) {
                kdc_close(first.q);
            }
            return t;
        }
        if (first.q) {
            kdc_close(t.q);
        } else {
            first = t;
        }
        if (far->height) {
            break;
        }
    }
    kdc_settle(first.q, 0);
    if (print && !far->height) {
        kdc_print_messages(first.q, stderr, n->a->color);
    }
    return first;
}

/* ---- weights ----------------------------------------------------------------------------------------- */

/* A weight of any size is the one that p holds by that name. */
static KdcTensor *shared(void *user, const KdFunc *f, KdValue input) {
    KdcPictureNet *n = user;
    const KdType *type = kd_vtype(f, input);
    if (kd_input_role(f, input) == KD_DATA) {
        return NULL;
    }
    const char *name = kd_attr_str(f, kd_node(f, input), "name");
    for (int i = 0; i < n->weights.n; i++) {
        KdcTensor *t = n->weights.v[i];
        if (strcmp(t->name, name) != 0) {
            continue;
        }
        if (t->rank != type->rank || memcmp(t->dim, type->dim, sizeof *t->dim * (size_t)t->rank) != 0) {
            kd_raise(f->cx, KD_FAIL_INPUT, "%s: the shape of weight %s depends on the size of the picture; it was %s at first",
                     n->name, name, kdc_tensor_shape(f->cx, t));
        }
        return t;
    }
    KdcTensor *t = KD_NEW(n->p->cx, KdcTensor);
    *t = kdc_tensor_of(n->p, f, input); /* names and text of it are the other program's */
    t->name = kd_intern_z(n->p->cx, t->name);
    t->init = kd_intern_z(n->p->cx, t->init);
    t->part_of = t->part_of ? kd_intern_z(n->p->cx, t->part_of) : NULL;
    kd_push(n->p->cx, &n->weights, t);
    return t;
}

/* The files for this network: those given as NAME=FILE, by its own name or that of the network it was narrowed from, and those
 * given for all. */
static bool own_files(KdcPictureNet *n, KdcFiles *out) {
    const char *dotted = kd_format(n->p->cx, "%s.", n->name), *part_of = n->weights.n ? n->weights.v[0]->part_of : NULL;
    const char *whole = part_of ? kd_format(n->p->cx, "%s.", part_of) : dotted;
    *out = (KdcFiles){.in = NULL};
    for (int i = 0; i < n->files->weights.n; i++) {
        KdcWeightsFile w = n->files->weights.v[i];
        if (*w.net && strcmp(w.net, dotted) != 0 && strcmp(w.net, whole) != 0) {
            kd_error(n->p->cx, 0, "%s: given for %.*s, but the network is %s%s%s%s", w.file, (int)strlen(w.net) - 1, w.net,
                     n->name, part_of ? " (a part of " : "", part_of ? part_of : "", part_of ? ")" : "");
            return false;
        }
        w.net = "";
        kd_push(n->p->cx, &out->weights, w);
    }
    return true;
}

static bool fill_weights(KdcPictureNet *n) {
    KdcArgs a = *n->a;
    KdcFiles files;
    if (n->filled == n->weights.n) {
        return true;
    }
    if (n->files->n_live) {
        kd_error(n->p->cx, 0, "%s needs weight %s, which the session does not have", n->name,
                 n->weights.v[n->filled]->name);
        return false;
    }
    a.name = n->name;
    if (!own_files(n, &files)) {
        return false;
    }
    const char *option = a.weights_by ? a.weights_by : "--weights FILE";
    const char *whose = a.weights_by ? kd_format(n->p->cx, "%s:%s", a.file, n->name) : n->name; /* of another program */
    if (files.weights.n == 0 && a.verb == KDC_VERB_SEARCH) {
        kd_error(n->p->cx, 0, "no weights for %s were given: what random ones give is nothing to search by (%s)", whose, option);
        return false;
    }
    if (files.weights.n == 0 && !a.quiet) {
        fprintf(stderr, "kdc: warning: no weights for %s were given: they are random (%s)\n", whose, option);
    }
    n->filled = n->weights.n;
    return kdc_fill_weights(n->p, &a, &files, true, n->weights.v, n->weights.n);
}

/* ---- sizes that are kept -------------------------------------------------------------------------------- */

static void drop(KdcPictureNet *n, Size *s) {
    if (s->q) {
        kdc_close(s->q);
    }
    n->last = n->last == s ? NULL : n->last;
    *s = (Size){0};
}

/* A free place, after dropping what was used longest ago: so much that `bytes` more may be kept. */
static Size *place_for(KdcPictureNet *n, int64_t bytes) {
    for (;;) {
        Size *free_one = NULL, *oldest = NULL;
        int64_t kept = 0;
        for (int i = 0; i < SIZES; i++) {
            Size *s = &n->size[i];
            free_one = s->q ? free_one : s;
            oldest = s->q && (!oldest || s->used < oldest->used) ? s : oldest;
            kept += s->bytes;
        }
        if (free_one && (!oldest || kept + bytes <= MOST_KEPT)) {
            return free_one;
        }
        drop(n, oldest);
    }
}

/* In q's landing. */
static bool compile(KdcPictureNet *n, Try *t, Size *s) {
    kdc_unit_passes(t->q, &t->unit, &t->q->host);
    int64_t bytes = t->unit.result.loops->arena;
    place_for(n, bytes); /* before there is more */
    if (!kdc_unit_jit(t->q, &t->unit)) {
        return false;
    }
    *s = (Size){.padded_height = t->height, .padded_width = t->width, .scale = t->scale, .bytes = bytes};
    s->r = kdc_runnable_new(t->q, &t->unit, shared, n, NULL);
    s->out = kdc_find_output(s->r, "out");
    s->feature = n->tap ? kdc_find_output(s->r, n->tap) : NULL;
    for (int i = 0; i < kdc_input_count(s->r); i++) {
        KdcTensor *x = kdc_input(s->r, i);
        if (x->role == KDC_DATA && own_scalar(x->name, x->rank)) {
            *(int32_t *)x->data = strcmp(x->name, "rng_step") == 0;
        } else if (x->role == KDC_DATA) {
            s->in = x;
        }
    }
    return true;
}

/* The messages of a size's own program are printed now; the command's program carries the exit code. */
static bool failed_size(KdcPictureNet *n, KdcProgram *q) {
    kdc_settle(q, 0);
    kdc_print_messages(q, stderr, n->a->color);
    n->p->status = kdc_status(q) == KDC_OK ? KDC_INPUT : kdc_status(q);
    kdc_close(q);
    return false;
}

static bool too_small(const KdcPictureNet *n, const KdImage *in, const Try *far, KdTrouble *t) {
    if (far->height) {
        return kd_trouble(t, false, "%d x %d pixels are too few for %s: it works from %d x %d on (mirroring makes up for less "
                          "than half)", in->width, in->height, n->name, far->width, far->height);
    }
    return kd_trouble(t, false, "%s cannot take %d x %d pixels, nor more around them", n->name, in->width, in->height);
}

static Size *open_size(KdcPictureNet *n, const KdImage *in, KdTrouble *trouble) {
    Try far;
    Try t = find_size(n, in->height, in->width, true, n->give, !n->said, &far);
    if (t.fit != FIT_YES) {
        KdcStatus status = kdc_status(t.q);
        kdc_close(t.q);
        n->said = true;
        kd_trouble(trouble, status == KDC_MACHINE, "%s failed at %d x %d", n->name, in->width, in->height);
        if (status != KDC_MACHINE) {
            too_small(n, in, &far, trouble);
        }
        return NULL;
    }
    volatile bool ok = false;
    Size s = {0};
    KdLanding l;
    if (KD_TRY(t.q->cx, l)) {
        ok = compile(n, &t, &s);
        kd_landing_pop(t.q->cx);
    } else {
        kdc_failed(t.q);
    }
    if (!ok) {
        failed_size(n, t.q);
        return NULL;
    }
    if (!fill_weights(n)) {
        kdc_settle(n->p, 0);
        kdc_close(t.q);
        return NULL;
    }
    kdc_hold_weights(s.r, n->files->n_live == 0); /* those of a session change under way */
    Size *place = place_for(n, s.bytes);
    s.q = t.q;
    s.height = in->height;
    s.width = in->width;
    *place = s;
    return place;
}

/* ---- pixels ------------------------------------------------------------------------------------------- */

/* Where the pixel at i of a row that was made longer comes from: 0 1 2 3 | 2 1 0 1 2 3 ... */
static int mirrored_index(int i, int n) {
    int period = n > 1 ? 2 * (n - 1) : 1;
    i %= period;
    return i < n ? i : period - i;
}

static int sample_at(const KdImage *x, int64_t i) {
    return x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
}

/* Sample v of channel c as the network has it. */
static void put(Takes takes, const float *value, KdcTensor *t, int classes, int64_t at, int64_t plane, int c, int v) {
    switch (takes) {
    case TAKES_RGB:
    case TAKES_GRAY:
        ((float *)t->data)[c * plane + at] = value[v];
        return;
    case TAKES_STORED:
        ((uint8_t *)t->data)[c * plane + at] = (uint8_t)v;
        return;
    case TAKES_ONE_HOT:
        if (v < classes) {
            ((float *)t->data)[v * plane + at] = 1;
        }
        return;
    case TAKES_LABELS:
        ((int32_t *)t->data)[at] = v;
        return;
    }
}

static void fill_input(const KdcPictureNet *n, KdcTensor in, const KdImage *x) {
    double lo = n->a->range_lo, hi = n->a->range_hi;
    int height = (int)in.dim[in.rank - 2], width = (int)in.dim[in.rank - 1];
    int64_t plane = (int64_t)height * width;
    int classes = in.rank == 4 ? (int)in.dim[1] : 1;
    float value[256]; /* of -1..1: in the arithmetic of training scripts */
    for (int v = 0; v < 256; v++) {
        value[v] = lo == -1 && hi == 1 ? ((float)v / 255 - 0.5f) / 0.5f : (float)(lo + v * (hi - lo) / 255);
    }
    if (n->takes == TAKES_ONE_HOT) {
        memset(in.data, 0, (size_t)(kdc_tensor_bytes(&in) / in.dim[0]));
    }
    for (int r = 0; r < height; r++) {
        int64_t row = (int64_t)mirrored_index(r, x->height) * x->width;
        for (int k = 0; k < width; k++) {
            int64_t from = row + mirrored_index(k, x->width);
            for (int c = 0; c < x->channels; c++) {
                int64_t at = (int64_t)r * width + k;
                put(n->takes, value, &in, classes, at, plane, c, sample_at(x, from * x->channels + c));
            }
        }
    }
}

static int to_byte(const KdcArgs *a, float x) {
    double lo = a->range_lo, hi = a->range_hi;
    float v = lo == -1 && hi == 1 ? (x + 1) / 2 * 255 : (float)(((double)x - lo) / (hi - lo) * 255);
    v = a->truncate ? v : floorf(v) + (v - floorf(v) >= 0.5f ? 1 : 0);
    return v >= 255 ? 255 : v > 0 ? (int)v : 0;
}

static int largest(const float *x, int64_t plane, int64_t channels) {
    int best = 0;
    for (int c = 1; c < channels; c++) {
        best = x[c * plane] > x[best * plane] ? c : best;
    }
    return best;
}

/* The part of the output that belongs to the picture. */
static bool take_output(const KdcPictureNet *n, const Size *s, KdImage *out, KdTrouble *t) {
    if (!s->scale) {
        return true;
    }
    const float *y = s->out->data;
    int64_t channels = s->out->dim[1], row = s->out->dim[3], plane = s->out->dim[2] * row;
    bool labels = channels != 1 && channels != 3;
    int count = labels ? 1 : (int)channels;
    for (int64_t i = 0; i < s->out->count; i++) {
        if (!isfinite(y[i])) {
            return kd_trouble(t, false, "%s gives NaN or infinity", n->name);
        }
    }
    if (!kd_image_new(s->width * s->scale, s->height * s->scale, count, labels && channels > 256 ? 16 : 8, out, t)) {
        return false;
    }
    for (int r = 0; r < out->height; r++) {
        for (int k = 0; k < out->width; k++) {
            const float *at = y + r * row + k;
            for (int c = 0; c < count; c++) {
                int v = labels ? largest(at, plane, channels) : to_byte(n->a, at[c * plane]);
                int64_t to = ((int64_t)r * out->width + k) * count + c;
                if (out->bits == 16) {
                    ((uint16_t *)out->samples)[to] = (uint16_t)v;
                } else {
                    ((uint8_t *)out->samples)[to] = (uint8_t)v;
                }
            }
        }
    }
    return true;
}

/* ---- public ------------------------------------------------------------------------------------------- */

KdImageWant kdc_picture_want(const KdcPictureNet *n) {
    switch (n->takes) {
    case TAKES_RGB:
    case TAKES_STORED:
        return KD_IMAGE_RGB8;
    case TAKES_GRAY:
        return KD_IMAGE_GRAY8;
    case TAKES_ONE_HOT:
    case TAKES_LABELS:
        return KD_IMAGE_INDEX;
    }
    return KD_IMAGE_RGB8;
}

KdcStats kdc_picture_stats(const KdcPictureNet *n) {
    return n && n->last ? kdc_stats(n->last->r) : (KdcStats){0};
}

const KdcTensor *kdc_picture_output(const KdcPictureNet *n) {
    return n->last ? n->last->out : NULL;
}

const KdcTensor *kdc_picture_feature(const KdcPictureNet *n) {
    return n->last ? n->last->feature : NULL;
}

const KdcTensor *kdc_picture_input(const KdcPictureNet *n) {
    return n->last ? n->last->in : NULL;
}

void kdc_picture_put(const KdcPictureNet *n, const KdImage *x, const KdcTensor *in, int64_t i) {
    KdcTensor element = *in;
    element.data = (char *)in->data + i * (kdc_tensor_bytes(in) / in->dim[0]);
    fill_input(n, element, x);
}

KdcTensor *const *kdc_picture_weights(const KdcPictureNet *n, int *count) {
    *count = n->weights.n;
    return n->weights.v;
}

void kdc_picture_changed(KdcPictureNet *n) {
    for (int i = 0; i < SIZES; i++) {
        if (n->size[i].q) {
            kdc_hold_weights(n->size[i].r, n->files->n_live == 0); /* packed again in the next run */
        }
    }
}

static bool is_net(KdcProgram *p, const char *name) {
    const KdDecl *d = kdc_cli_find(p, name);
    if (!d || d->kind != KD_DECL_SESSION) {
        return true; /* elaboration says the rest */
    }
    kd_error(p->cx, 0, "%s is a session; expected a network", name);
    return false;
}

/* At the picture's size, or at the language's own when that is not known or too small; channels as declared, else 3. */
static bool look_at(KdcPictureNet *n, int height, int width) {
    Try far, t = {0};
    for (int i = 0; i < 4; i++) {
        bool exact = i < 2 && height;
        n->give = i % 2;
        t = find_size(n, exact ? height : 256, exact ? width : 256, false, n->give, false, &far);
        if (t.known) {
            n->takes = t.takes;
            kdc_close(t.q);
            return true;
        }
        if (t.fit == FIT_NEVER || i == 3) {
            break;
        }
        kdc_close(t.q);
    }
    if (t.fit == FIT_NOT_NOW) { /* again as it is declared, for the messages */
        kdc_close(t.q);
        t = find_size(n, height ? height : 256, width ? width : 256, false, false, true, &far);
    }
    return failed_size(n, t.q);
}

/* The session's own memory: what it trains is seen at once. */
static void use_live(KdcPictureNet *n) {
    size_t length = strlen(n->name);
    for (int i = 0; i < n->files->n_live; i++) {
        const KdcTensor *x = n->files->live[i];
        if (x->role == KDC_DATA || x->role == KDC_STATE || strncmp(x->name, n->name, length) != 0 ||
            x->name[length] != '.') {
            continue;
        }
        KdcTensor *t = KD_NEW(n->p->cx, KdcTensor);
        *t = *x;
        t->name += length + 1;
        kd_push(n->p->cx, &n->weights, t);
    }
    n->filled = n->weights.n;
}

static KdcPictureNet *new_net(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, const char *name) {
    KdcPictureNet *n = KD_NEW(p->cx, KdcPictureNet);
    *n = (KdcPictureNet){.p = p, .a = a, .files = f, .name = kd_intern_z(p->cx, name)};
    use_live(n);
    return n;
}

KdcPictureNet *kdc_picture_net(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, const char *name, int height,
                               int width) {
    KdcPictureNet *n = new_net(p, a, f, name);
    return is_net(p, name) && look_at(n, height, width) ? n : NULL;
}

/* Is the tap one map of features? What is wrong with it is said in f's context. */
static bool feature_fits(const KdcPictureNet *n, const KdFunc *f) {
    const char *list = kd_format(f->cx, "%s.", n->tap);
    int count = 0;
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        const KdType *t = kd_vtype(f, o->value);
        count += strncmp(o->name, list, strlen(list)) == 0;
        if (strcmp(o->name, n->tap) == 0) {
            if (t->rank == 4 && t->dim[0] == 1 && t->dtype == KD_F32) {
                return true;
            }
            kd_error(f->cx, 0, "the tap %s of %s is %s: expected features [1, channels, height, width]", n->tap,
                     n->name, kd_type_text(f->cx, t));
            return false;
        }
    }
    kd_error(f->cx, 0, "the tap %s of %s is a list of %d: name one of %s[0] to %s[%d]", n->tap, n->name, count, n->tap,
             n->tap, count - 1);
    return false;
}

/* Elaborates once with the tap at a size that works without it: what is wrong then is the tap. */
static bool take_tap(KdcPictureNet *n, const char *tap, int height, int width) {
    Try far, t = find_size(n, height, width, true, n->give, false, &far);
    volatile bool ok = t.fit != FIT_YES; /* of another picture it may be told */
    KdLanding l;
    kdc_close(t.q);
    n->tap = kd_intern_z(n->p->cx, tap);
    if (ok) {
        return true;
    }
    attempt(n, t.height, t.width, n->give, &t);
    if (t.fit == FIT_YES && KD_TRY(t.q->cx, l)) {
        ok = feature_fits(n, t.unit.func);
        kd_landing_pop(t.q->cx);
    }
    if (!ok) {
        return failed_size(n, t.q);
    }
    kdc_close(t.q);
    return true;
}

KdcPictureNet *kdc_feature_net(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, const char *name, const char *tap,
                               int height, int width) {
    KdcPictureNet *n = new_net(p, a, f, name);
    if (!is_net(p, name)) {
        return NULL;
    }
    bool fits = false;
    for (int give = 0; give < 2 && !fits; give++) {
        Try far, t = find_size(n, height, width, true, give, false, &far);
        fits = t.fit == FIT_YES || far.height;
        kdc_close(t.q);
    }
    n->loose = !fits;
    return look_at(n, height, width) && (!tap || take_tap(n, tap, height, width)) ? n : NULL;
}

void kdc_picture_free(KdcPictureNet *n) {
    for (int i = 0; n && i < SIZES; i++) {
        drop(n, &n->size[i]);
    }
}

bool kdc_picture_run(KdcPictureNet *n, const KdImage *in, KdImage *out, KdcPictureRun *r, KdTrouble *t) {
    Size *s = NULL;
    for (int i = 0; i < SIZES; i++) {
        if (n->size[i].q && n->size[i].height == in->height && n->size[i].width == in->width) {
            s = &n->size[i];
        }
    }
    *r = (KdcPictureRun){.compiled = !s};
    s = s ? s : open_size(n, in, t);
    if (!s) {
        return false;
    }
    n->last = s;
    s->used = ++n->runs;
    fill_input(n, *s->in, in);
    double start = kdc_now();
    kdc_run(s->r);
    r->seconds = kdc_now() - start;
    r->height = s->padded_height;
    r->width = s->padded_width;
    return take_output(n, s, out, t);
}
