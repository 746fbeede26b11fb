/* sample.c: see dataset.h. From a sample's number to its images.
 *
 * Nothing is kept between samples. The order of an epoch is a permutation of 0..count-1 computed at a point: a Feistel
 * network of eight rounds over the next even number of bits, keyed by (seed, epoch), walked until it lands below count
 * (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Random numbers are counters put through the
 * output function of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
 */
#include "runtime/host/dataset_parts.h"

#include <math.h>
#include <string.h>

/* ---- chance ----------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* What a random number is for. SECOND is added for B where it draws its own. */
enum { DRAW_ORDER, DRAW_OTHER, DRAW_FLIP, DRAW_LEFT, DRAW_TOP, DRAW_SECOND = 8 };

static uint64_t draw(uint64_t seed, int64_t number, unsigned what) {
    return mix(mix(mix(seed) ^ (uint64_t)number) ^ what);
}

/* 0..n-1 from the upper 32 bits; chances differ by less than n / 2^32 of themselves. */
static int64_t below(uint64_t r, int64_t n) {
    return (int64_t)(((r >> 32) * (uint64_t)n) >> 32);
}

int64_t kd_data_permuted(uint64_t key, int64_t i, int64_t count) {
    int half = 1;
    while (half < 31 && (INT64_C(1) << (2 * half)) < count) {
        half++;
    }
    uint64_t mask = (UINT64_C(1) << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 8; round++) {
            uint64_t next = left ^ (mix(key ^ (round << 56) ^ right) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)count);
    return (int64_t)x;
}

/* ---- geometry --------------------------------------------------------------------------------------- */

/* n / 4 to the nearest whole number, halves to even (as Python rounds), times 4; never 0 */
static int multiple_of_4(int n) {
    int q = n / 4, r = n % 4;
    q += r == 3 || (r == 2 && q % 2 == 1) ? 1 : 0;
    return q ? q * 4 : 4;
}

bool kd_data_resized(const KdDataOptions *o, const char *path, int width, int height, int *rw, int *rh, KdTrouble *t) {
    int64_t w = width, h = height;
    bool exact = false;
    switch (o->preprocess) {
    case KD_PRE_RESIZE_AND_CROP:
        w = o->load_w;
        h = o->load_h;
        break;
    case KD_PRE_CROP:
        break;
    case KD_PRE_SCALE_WIDTH:
    case KD_PRE_SCALE_WIDTH_AND_CROP:
        w = o->load_w;
        h = w * height / width;
        h = o->preprocess == KD_PRE_SCALE_WIDTH_AND_CROP && h < o->crop_h ? o->crop_h : h > 0 ? h : 1;
        exact = o->preprocess == KD_PRE_SCALE_WIDTH;
        break;
    case KD_PRE_NONE:
        w = multiple_of_4(width);
        h = multiple_of_4(height);
        exact = true;
        break;
    }
    if (w * h > KD_IMAGE_MAX_PIXELS) {
        return kd_trouble(t, false, "%s: %dx%d (height x width) would become %lldx%lld, which is too large", path,
                          height, width, (long long)h, (long long)w);
    }
    if ((o->crop_h && (exact ? h != o->crop_h : h < o->crop_h)) ||
        (o->crop_w && (exact ? w != o->crop_w : w < o->crop_w))) {
        return kd_trouble(t, false, "%s: %dx%d (height x width) comes to %lldx%lld; expected %s %dx%d", path, height,
                          width, (long long)h, (long long)w, exact ? "exactly" : "at least", o->crop_h, o->crop_w);
    }
    *rw = (int)w;
    *rh = (int)h;
    return true;
}

bool kd_data_labels_ok(const KdDataOptions *o, const char *path, const KdImage *x, KdTrouble *t) {
    int64_t n = (int64_t)x->width * x->height;
    int most = x->bits == 16 ? 65535 : 255;
    for (int64_t i = 0; o->classes <= most && i < n; i++) {
        int v = x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
        if (v >= o->classes && v != o->ignore) {
            return kd_trouble(t, false, "%s: label %d at column %d, row %d; expected 0..%d", path, v,
                              (int)(i % x->width), (int)(i / x->width), o->classes - 1);
        }
    }
    return true;
}

/* Puts *y in the place of *x. */
static void replace(KdImage *x, KdImage *y) {
    kd_image_free(x);
    *x = *y;
}

typedef struct Place { /* what chance decides about an image; of images that belong together: the same */
    bool mirror;
    uint64_t left, top;
    bool centre;
} Place;

static Place place_of(const KdDataset *d, int64_t number, unsigned first) {
    const KdDataOptions *o = &d->o;
    return (Place){.mirror = !o->test && !o->no_flip && draw(o->seed, number, first + DRAW_FLIP) >> 63,
                   .left = draw(o->seed, number, first + DRAW_LEFT),
                   .top = draw(o->seed, number, first + DRAW_TOP),
                   .centre = o->test};
}

/* Resizes, crops and mirrors in place. */
static bool preprocess(const KdDataset *d, const Place *p, const char *path, bool index, KdImage *x, KdTrouble *t) {
    const KdDataOptions *o = &d->o;
    KdImage y = {0};
    int w, h;
    if (!kd_data_resized(o, path, x->width, x->height, &w, &h, t)) {
        return false;
    }
    if (w != x->width || h != x->height) {
        if (!kd_image_resize(x, w, h, index ? KD_FILTER_NEAREST : KD_FILTER_BICUBIC, &y, t)) {
            return false;
        }
        replace(x, &y);
    }
    int cw = o->crop_w ? o->crop_w : w, ch = o->crop_h ? o->crop_h : h;
    if (cw != w || ch != h) {
        int left = p->centre ? (w - cw) / 2 : (int)below(p->left, w - cw + 1);
        int top = p->centre ? (h - ch) / 2 : (int)below(p->top, h - ch + 1);
        if (!kd_image_crop(x, left, top, cw, ch, &y, t)) {
            return false;
        }
        replace(x, &y);
    }
    if (p->mirror) {
        kd_image_mirror(x);
    }
    return true;
}

/* ---- samples ---------------------------------------------------------------------------------------- */

static bool too_narrow(const char *path, const KdImage *x, KdTrouble *t) {
    return x->width < 2 && !kd_trouble(t, false, "%s: %d pixel wide; expected two images side by side", path, x->width);
}

/* A picture of two into its halves; right may be NULL. An odd column goes to the right one, as pix2pix cuts. */
static bool split(const char *path, KdImage *x, KdImage *right, KdTrouble *t) {
    KdImage left = {0};
    int w = x->width / 2;
    if (too_narrow(path, x, t) || (right && !kd_image_crop(x, w, 0, x->width - w, x->height, right, t)) ||
        !kd_image_crop(x, 0, 0, w, x->height, &left, t)) {
        return false;
    }
    replace(x, &left);
    return true;
}

static void swap(KdSample *s) {
    KdImage image = s->image[0];
    const char *name = s->name[0];
    s->image[0] = s->image[1];
    s->image[1] = image;
    s->name[0] = s->name[1];
    s->name[1] = name;
}

/* Reads the files of item i, as stored. j: of an unpaired set, the item of B. */
static bool read_item(const KdDataset *d, int64_t i, int64_t j, KdSample *s, KdTrouble *t) {
    s->n = kd_dataset_images(d);
    for (int k = 0; k < d->lists; k++) {
        s->name[k] = d->list[k].path[d->layout == KD_LAYOUT_UNPAIRED && k == 1 ? j : i];
        if (!kd_image_read(s->name[k], kd_data_is_index(d, k) ? KD_IMAGE_INDEX : KD_IMAGE_RGB8, &s->image[k], t)) {
            return false;
        }
    }
    if (d->layout == KD_LAYOUT_ALIGNED) {
        s->name[1] = s->name[0];
        return split(s->name[0], &s->image[0], &s->image[1], t);
    }
    if (d->half && !split(s->name[1], &s->image[1], NULL, t)) {
        return false;
    }
    return d->layout != KD_LAYOUT_LABELS || kd_data_labels_ok(&d->o, s->name[0], &s->image[0], t);
}

/* Before random crops: images that belong together must be of one size by then. */
static bool same_size(const KdDataset *d, const KdSample *s, KdTrouble *t) {
    int w0, h0, w, h;
    for (int k = 1; k < s->n && d->layout != KD_LAYOUT_UNPAIRED; k++) {
        const KdImage *a = &s->image[0], *b = &s->image[k];
        if (!kd_data_resized(&d->o, s->name[0], a->width, a->height, &w0, &h0, t) ||
            !kd_data_resized(&d->o, s->name[k], b->width, b->height, &w, &h, t)) {
            return false;
        }
        if (w != w0 || h != h0) {
            return kd_trouble(t, false,
                              "%s: %dx%d (height x width), but %dx%d in %s: images that belong together need one size",
                              s->name[k], b->height, b->width, a->height, a->width, s->name[0]);
        }
    }
    return true;
}

static bool make(const KdDataset *d, int64_t number, KdSample *s, KdTrouble *t) {
    const KdDataOptions *o = &d->o;
    bool ordered = o->test || o->serial, unpaired = d->layout == KD_LAYOUT_UNPAIRED;
    int64_t epoch = number / d->count, at = number % d->count;
    int64_t i = ordered ? at : kd_data_permuted(draw(o->seed, epoch, DRAW_ORDER), at, d->count), j = 0;
    if (unpaired) {
        int64_t n = d->list[1].n;
        j = ordered ? i % n : below(draw(o->seed, number, DRAW_OTHER), n);
        i %= d->list[0].n;
    }
    if (!read_item(d, i, j, s, t) || !same_size(d, s, t)) {
        return false;
    }
    for (int k = 0; k < s->n; k++) {
        Place p = place_of(d, number, unpaired && k == 1 ? DRAW_SECOND : 0);
        if (!preprocess(d, &p, s->name[k], kd_data_is_index(d, k), &s->image[k], t)) {
            return false;
        }
        s->mirrored[k] = p.mirror;
    }
    if (o->b_to_a && s->n == 2 && d->layout != KD_LAYOUT_LABELS) {
        bool mirrored = s->mirrored[0];
        s->mirrored[0] = s->mirrored[1];
        s->mirrored[1] = mirrored;
        swap(s);
    }
    return true;
}

bool kd_dataset_sample(const KdDataset *d, int64_t number, KdSample *s, KdTrouble *t) {
    *s = (KdSample){0};
    if (number < 0) {
        return kd_trouble(t, false, "sample %lld: numbers begin at 0", (long long)number);
    }
    if (!make(d, number, s, t)) {
        kd_sample_free(s);
        return false;
    }
    return true;
}

void kd_sample_free(KdSample *s) {
    for (int k = 0; k < 3; k++) {
        kd_image_free(&s->image[k]);
    }
    *s = (KdSample){0};
}

/* ---- tensors ---------------------------------------------------------------------------------------- */

void kd_image_to_planes(const KdImage *x, float *out) {
    const uint8_t *rgb = x->samples;
    int64_t plane = (int64_t)x->width * x->height;
    float value[256];
    for (int v = 0; v < 256; v++) {
        value[v] = ((float)v / 255 - 0.5f) / 0.5f;
    }
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < 3; c++) {
            out[c * plane + i] = value[rgb[3 * i + c]];
        }
    }
}

bool kd_image_from_planes(const float *x, int channels, int height, int width, bool truncate, KdImage *out,
                          KdTrouble *t) {
    if (channels != 1 && channels != 3) {
        return kd_trouble(t, false, "%d channels do not make an image; expected 1 or 3", channels);
    }
    if (!kd_image_new(width, height, channels, 8, out, t)) {
        return false;
    }
    uint8_t *to = out->samples;
    int64_t plane = (int64_t)width * height;
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < channels; c++) {
            float v = (x[c * plane + i] + 1) / 2 * 255;
            v = truncate ? v : floorf(v) + (v - floorf(v) >= 0.5f ? 1 : 0);
            to[channels * i + c] = v >= 255 ? 255 : v > 0 ? (uint8_t)v : 0; /* NaN becomes 0 */
        }
    }
    return true;
}
