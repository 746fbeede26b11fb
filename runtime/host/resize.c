/* resize.c: Pillow's resampling, to the bit for 8-bit samples.
 *
 * An output sample is a sum of input samples around centre (i + 0.5) * scale, weighted by a filter whose support
 * grows with the scale when shrinking. Weights are normalised in double, then rounded to 22 bits after the point; a
 * sum begins at one half and is clipped to 0..255. The horizontal pass comes first and is rounded to 8 bits before
 * the vertical one; a pass along a side that does not change is left out. */
#include "runtime/host/image_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PRECISION = 32 - 8 - 2, HALF = 1 << (PRECISION - 1), BLOCK = 32 };

static double triangle(double x) {
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static double cubic(double x) { /* Keys 1981, a = -0.5 */
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) {
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

typedef struct Weights {
    int size;   /* of a window at most */
    int *first; /* by output: the window's first input and length */
    int *count;
    int32_t *k; /* [out][size] */
} Weights;

static void free_weights(Weights *w) {
    free(w->first);
    free(w->count);
    free(w->k);
}

static bool make_weights(int in, int out, KdFilter filter, Weights *w) {
    double (*f)(double) = filter == KD_FILTER_BICUBIC ? cubic : triangle;
    double scale = (double)in / out, filter_scale = scale < 1 ? 1 : scale;
    double support = (filter == KD_FILTER_BICUBIC ? 2.0 : 1.0) * filter_scale;
    w->size = (int)ceil(support) * 2 + 1;
    w->first = malloc(sizeof *w->first * (size_t)out);
    w->count = malloc(sizeof *w->count * (size_t)out);
    w->k = calloc((size_t)out * (size_t)w->size, sizeof *w->k);
    double *real = malloc(sizeof *real * (size_t)w->size);
    bool ok = w->first && w->count && w->k && real;
    for (int i = 0; ok && i < out; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > in ? in : hi;
        for (int j = 0; j < hi - lo; j++) {
            real[j] = f((j + lo - centre + 0.5) * (1.0 / filter_scale));
            sum += real[j];
        }
        for (int j = 0; j < hi - lo; j++) {
            double v = (sum != 0 ? real[j] / sum : real[j]) * (1 << PRECISION);
            w->k[(size_t)i * (size_t)w->size + (size_t)j] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
        }
        w->first[i] = lo;
        w->count[i] = hi - lo;
    }
    free(real);
    return ok;
}

static uint8_t clip(int32_t v) {
    v >>= PRECISION; /* of a negative: towards minus infinity, as Pillow's table does */
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void across_gray(const uint8_t *line, const Weights *w, int out_width, uint8_t *to) {
    for (int i = 0; i < out_width; i++) {
        const int32_t *k = w->k + (size_t)i * (size_t)w->size;
        const uint8_t *from = line + w->first[i];
        int32_t sum = HALF;
        for (int j = 0; j < w->count[i]; j++) {
            sum += from[j] * k[j];
        }
        to[i] = clip(sum);
    }
}

static void across_rgb(const uint8_t *line, const Weights *w, int out_width, uint8_t *to) {
    for (int i = 0; i < out_width; i++, to += 3) {
        const int32_t *k = w->k + (size_t)i * (size_t)w->size;
        const uint8_t *from = line + (size_t)w->first[i] * 3;
        int32_t r = HALF, g = HALF, b = HALF;
        for (int j = 0; j < w->count[i]; j++, from += 3) {
            r += from[0] * k[j];
            g += from[1] * k[j];
            b += from[2] * k[j];
        }
        to[0] = clip(r);
        to[1] = clip(g);
        to[2] = clip(b);
    }
}

static void across(const KdImage *x, const Weights *w, KdImage *out) {
    const uint8_t *in = x->samples;
    uint8_t *to = out->samples;
    for (int r = 0; r < x->height; r++) {
        (x->channels == 3 ? across_rgb : across_gray)(in, w, out->width, to);
        in += (size_t)x->width * (size_t)x->channels;
        to += (size_t)out->width * (size_t)x->channels;
    }
}

/* A block of columns at a time: its sums stay in the first cache, and its fixed length lets -O2 vectorise. */
static void down(const uint8_t *in, size_t row, const Weights *w, int out_height, uint8_t *out) {
    for (int i = 0; i < out_height; i++, out += row) {
        const int32_t *k = w->k + (size_t)i * (size_t)w->size;
        const uint8_t *window = in + (size_t)w->first[i] * row;
        size_t x = 0;
        for (; x + BLOCK <= row; x += BLOCK) {
            int32_t sum[BLOCK];
            for (int b = 0; b < BLOCK; b++) {
                sum[b] = HALF;
            }
            for (int j = 0; j < w->count[i]; j++) {
                const uint8_t *line = window + (size_t)j * row + x;
                int32_t weight = k[j];
                for (int b = 0; b < BLOCK; b++) {
                    sum[b] += line[b] * weight;
                }
            }
            for (int b = 0; b < BLOCK; b++) {
                out[x + (size_t)b] = clip(sum[b]);
            }
        }
        for (; x < row; x++) {
            int32_t sum = HALF;
            for (int j = 0; j < w->count[i]; j++) {
                sum += window[(size_t)j * row + x] * k[j];
            }
            out[x] = clip(sum);
        }
    }
}

static int at(double place, int n) {
    return place < n ? (int)place : n - 1;
}

static bool nearest(const KdImage *x, int width, int height, KdImage *out, KdTrouble *t) {
    if (!kd_image_new(width, height, x->channels, x->bits, out, t)) {
        return false;
    }
    size_t pixel = (size_t)x->channels * (x->bits == 16 ? 2 : 1);
    double down_scale = (double)x->height / height, across_scale = (double)x->width / width;
    double from_row = down_scale * 0.5;
    for (int r = 0; r < height; r++, from_row += down_scale) { /* added up as Pillow does: exact halves fall as there */
        const char *line = (const char *)x->samples + (size_t)at(from_row, x->height) * (size_t)x->width * pixel;
        double from = across_scale * 0.5;
        for (int c = 0; c < width; c++, from += across_scale) {
            memcpy((char *)out->samples + ((size_t)r * (size_t)width + (size_t)c) * pixel,
                   line + (size_t)at(from, x->width) * pixel, pixel);
        }
    }
    return true;
}

static bool smooth(const KdImage *x, int width, int height, KdFilter filter, KdImage *out, KdTrouble *t) {
    Weights across_w = {0}, down_w = {0};
    KdImage between = {0};
    const KdImage *from = x;
    bool ok = true;
    if (width != x->width) {
        ok = make_weights(x->width, width, filter, &across_w);
        ok = (ok || kd_trouble(t, true, "out of memory while resizing")) &&
             kd_image_new(width, x->height, x->channels, 8, &between, t);
        if (ok) {
            across(x, &across_w, &between);
        }
        from = &between;
    }
    if (ok && height == x->height) {
        ok = kd_image_crop(from, 0, 0, width, height, out, t);
    } else if (ok) {
        ok = make_weights(x->height, height, filter, &down_w) || kd_trouble(t, true, "out of memory while resizing");
        ok = ok && kd_image_new(width, height, x->channels, 8, out, t);
        if (ok) {
            down(from->samples, (size_t)width * (size_t)x->channels, &down_w, height, out->samples);
        }
    }
    free_weights(&across_w);
    free_weights(&down_w);
    kd_image_free(&between);
    if (!ok) {
        kd_image_free(out);
    }
    return ok;
}

bool kd_image_resize(const KdImage *x, int width, int height, KdFilter filter, KdImage *out, KdTrouble *t) {
    *out = (KdImage){0};
    if (filter == KD_FILTER_NEAREST) {
        return nearest(x, width, height, out, t);
    }
    if (x->bits != 8) {
        return kd_trouble(t, false, "16-bit samples are only resized to the nearest");
    }
    return kd_image_size_ok(NULL, width, height, t) && smooth(x, width, height, filter, out, t);
}
