/* sample.c: sample number -> images. Order, crop and flip are functions of (seed, number) alone: a keyed permutation of the
 * epoch's items (a four-round Feistel network over the next power of four, walked until it lands inside) and counters into
 * splitmix64. See dataset.h. */
#include "runtime/host/dataset_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t kd_mix(uint64_t key, uint64_t counter) {
    uint64_t z = key + (counter + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Where index i of 0..n-1 goes under the permutation of that key. */
static int64_t permuted(uint64_t key, int64_t n, int64_t i) {
    int half = 1;
    while (half < 31 && 1LL << 2 * half < n) {
        half++;
    }
    uint64_t mask = (1u << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (kd_mix(key + round, right) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

enum { ORDER = 1, PARTNER, PLACE }; /* streams of random numbers */

static uint64_t key_of(const KdDataset *d, uint64_t stream) {
    return kd_mix(kd_mix(d->o.seed, 0x6b6463), stream);
}

static int64_t item_of(const KdDataset *d, int64_t number) {
    int64_t epoch = number / d->count, i = number % d->count;
    return d->o.test || d->o.serial ? i : permuted(kd_mix(key_of(d, ORDER), (uint64_t)epoch), d->count, i);
}

/* ---- one image -------------------------------------------------------------------------------------- */

/* Where to cut and whether to mirror, as fractions that sizes turn into pixels. */
typedef struct Draw {
    uint64_t x, y;
    bool mirror;
} Draw;

static Draw draw(const KdDataset *d, int64_t number, int side) {
    uint64_t key = kd_mix(kd_mix(key_of(d, PLACE), (uint64_t)number), (uint64_t)side);
    return (Draw){kd_mix(key, 0), kd_mix(key, 1), !d->o.test && !d->o.no_flip && kd_mix(key, 2) >> 63};
}

/* 0..room, both included; the middle in test mode */
static int offset(const KdDataset *d, uint64_t bits, int room) {
    return d->o.test ? room / 2 : (int)((bits >> 32) * (uint64_t)(room + 1) >> 32);
}

static int scaled(int a, int b, int c) { /* a * b / c, rounded, at least 1 */
    int v = (int)floor((double)a * b / c + 0.5);
    return v < 1 ? 1 : v;
}

static int multiple_of_4(int n) {
    int v = (int)nearbyint(n / 4.0) * 4; /* Python's round: halves to even */
    return v < 4 ? 4 : v;
}

/* The size before cropping. */
static void load_size(const KdDataset *d, const KdImage *x, int *w, int *h) {
    const KdDataOptions *o = &d->o;
    int load_w = o->load_w ? o->load_w : o->test ? o->crop_w : scaled(o->crop_w, 286, 256);
    int load_h = o->load_h ? o->load_h : o->test ? o->crop_h : scaled(o->crop_h, 286, 256);
    *w = x->width;
    *h = x->height;
    switch (o->preprocess) {
    case KD_PRE_RESIZE_AND_CROP:
        *w = load_w;
        *h = load_h;
        return;
    case KD_PRE_CROP:
        return;
    case KD_PRE_SCALE_WIDTH:
        load_w = o->load_w ? o->load_w : o->crop_w ? o->crop_w : x->width; /* nothing is cut from the width */
        *h = scaled(load_w, x->height, x->width);
        *w = load_w;
        return;
    case KD_PRE_SCALE_WIDTH_AND_CROP:
        *w = load_w;
        *h = scaled(load_w, x->height, x->width);
        *h = *h < o->crop_h ? o->crop_h : *h;
        return;
    case KD_PRE_NONE:
        *w = multiple_of_4(x->width);
        *h = multiple_of_4(x->height);
        return;
    }
}

static bool resize(KdImage *x, int w, int h, KdTrouble *t) {
    KdImage y;
    if (w == x->width && h == x->height) {
        return true;
    }
    if (!kd_image_resize(x, w, h, x->channels == 1 ? KD_FILTER_NEAREST : KD_FILTER_BICUBIC, &y, t)) {
        return false;
    }
    kd_image_free(x);
    *x = y;
    return true;
}

static bool crop(const KdDataset *d, KdImage *x, const char *name, const Draw *at, KdTrouble *t) {
    int w = d->o.crop_w, h = d->o.crop_h;
    KdImage y;
    if (w <= 0 || h <= 0 || (w == x->width && h == x->height)) {
        return true;
    }
    if (w > x->width || h > x->height) {
        return kd_trouble(t, false, "%s: %d x %d (height x width) is smaller than the crop of %d x %d", name, x->height, x->width, h, w);
    }
    if (!kd_image_crop(x, offset(d, at->x, x->width - w), offset(d, at->y, x->height - h), w, h, &y, t)) {
        return false;
    }
    kd_image_free(x);
    *x = y;
    return true;
}

static bool place(const KdDataset *d, KdImage *x, const char *name, const Draw *at, bool *mirrored, KdTrouble *t) {
    int w, h;
    load_size(d, x, &w, &h);
    if (!resize(x, w, h, t) || !crop(d, x, name, at, t)) {
        return false;
    }
    *mirrored = at->mirror;
    if (at->mirror) {
        kd_image_mirror(x);
    }
    return true;
}

/* ---- samples ---------------------------------------------------------------------------------------- */

static bool check_labels(const KdDataset *d, const KdImage *x, const char *name, KdTrouble *t) {
    int classes = d->o.classes ? d->o.classes : 256;
    for (int64_t i = 0; i < (int64_t)x->width * x->height; i++) {
        int label = x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
        if (label >= classes && label != d->o.ignore) {
            return kd_trouble(t, false, "%s: label %d at row %lld, column %lld; expected 0..%d (--classes; --ignore-label N leaves N out)",
                              name, label, (long long)(i / x->width), (long long)(i % x->width), classes - 1);
        }
    }
    return true;
}

/* Halves of an image that holds a pair side by side. */
static bool split(KdImage *both, const char *name, KdImage *a, KdImage *b, KdTrouble *t) {
    int w = both->width / 2;
    if (w < 1) {
        return kd_trouble(t, false, "%s: one pixel wide; expected two images side by side", name);
    }
    if (!kd_image_crop(both, 0, 0, w, both->height, a, t)) {
        return false;
    }
    if (b && !kd_image_crop(both, w, 0, w, both->height, b, t)) {
        kd_image_free(a);
        return false;
    }
    kd_image_free(both);
    return true;
}

static bool read_pair(const char *name, KdSample *s, KdTrouble *t) {
    KdImage both;
    if (!kd_image_read(name, KD_IMAGE_RGB8, &both, t)) {
        return false;
    }
    s->name[0] = s->name[1] = name;
    if (!split(&both, name, &s->image[0], &s->image[1], t)) {
        kd_image_free(&both);
        return false;
    }
    return true;
}

/* The stored images of item i, before anything is done to them. */
static bool read_item(const KdDataset *d, int64_t number, KdSample *s, KdTrouble *t) {
    int64_t i = item_of(d, number);
    if (d->layout == KD_LAYOUT_ALIGNED) {
        return read_pair(d->list[0].path[i], s, t);
    }
    for (int k = 0; k < d->images; k++) {
        int64_t at = i;
        if (d->layout == KD_LAYOUT_UNPAIRED) {
            bool by_number = k == 0 || d->o.test || d->o.serial;
            uint64_t bits = kd_mix(key_of(d, PARTNER), (uint64_t)number);
            at = by_number ? i % d->list[k].n : (int64_t)(bits % (uint64_t)d->list[k].n);
        }
        bool label = d->layout == KD_LAYOUT_LABELS && k != 1;
        KdImage x;
        s->name[k] = d->list[k].path[at];
        if (!kd_image_read(s->name[k], label ? KD_IMAGE_INDEX : KD_IMAGE_RGB8, &x, t)) {
            return false;
        }
        if (d->half && k == 1) {
            if (!split(&x, s->name[k], &s->image[k], NULL, t)) {
                kd_image_free(&x);
                return false;
            }
        } else {
            s->image[k] = x;
        }
        if (label && k == 0 && !check_labels(d, &s->image[k], s->name[k], t)) {
            return false;
        }
    }
    return true;
}

static bool same_sizes(const KdSample *s, KdTrouble *t) {
    for (int k = 1; k < s->n; k++) {
        if (s->image[k].width != s->image[0].width || s->image[k].height != s->image[0].height) {
            return kd_trouble(t, false, "%s is %d x %d (height x width), %s is %d x %d", s->name[0], s->image[0].height, s->image[0].width,
                              s->name[k], s->image[k].height, s->image[k].width);
        }
    }
    return true;
}

static void swap_sides(KdSample *s) {
    KdImage x = s->image[0];
    const char *name = s->name[0];
    bool mirrored = s->mirrored[0];
    s->image[0] = s->image[1];
    s->name[0] = s->name[1];
    s->mirrored[0] = s->mirrored[1];
    s->image[1] = x;
    s->name[1] = name;
    s->mirrored[1] = mirrored;
}

bool kd_dataset_sample(const KdDataset *d, int64_t number, KdSample *s, KdTrouble *t) {
    *s = (KdSample){.n = d->images};
    bool together = d->layout != KD_LAYOUT_UNPAIRED;
    bool ok = read_item(d, number, s, t);
    ok = ok && (!together || d->o.preprocess == KD_PRE_RESIZE_AND_CROP || same_sizes(s, t));
    for (int k = 0; ok && k < s->n; k++) {
        Draw at = draw(d, number, together ? 0 : k);
        ok = place(d, &s->image[k], s->name[k], &at, &s->mirrored[k], t);
    }
    if (!ok) {
        kd_sample_free(s);
        return false;
    }
    if (d->o.b_to_a && s->n == 2 && d->layout != KD_LAYOUT_LABELS) {
        swap_sides(s);
    }
    return true;
}

void kd_sample_free(KdSample *s) {
    for (int k = 0; k < 3; k++) {
        kd_image_free(&s->image[k]);
    }
    s->n = 0;
}

/* ---- planes ----------------------------------------------------------------------------------------- */

void kd_image_to_planes(const KdImage *x, float *out) {
    const uint8_t *in = x->samples;
    int64_t plane = (int64_t)x->width * x->height;
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < 3; c++) {
            out[c * plane + i] = ((float)in[x->channels == 3 ? 3 * i + c : i] / 255 - 0.5f) / 0.5f;
        }
    }
}

static uint8_t to_byte(float v, bool truncate) {
    float x = (v + 1) / 2 * 255;
    if (!(x > 0)) { /* NaN too */
        return 0;
    }
    return x >= 255 ? 255 : (uint8_t)(truncate ? x : x + 0.5f);
}

bool kd_image_from_planes(const float *x, int channels, int height, int width, bool truncate, KdImage *out, KdTrouble *t) {
    int stored = channels == 1 ? 1 : 3;
    if (channels != 1 && channels != 3) {
        *out = (KdImage){0};
        return kd_trouble(t, false, "%d channels are no picture: expected 1 or 3", channels);
    }
    if (!kd_image_new(width, height, stored, 8, out, t)) {
        return false;
    }
    int64_t plane = (int64_t)width * height;
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < stored; c++) {
            ((uint8_t *)out->samples)[stored * i + c] = to_byte(x[c * plane + i], truncate);
        }
    }
    return true;
}
