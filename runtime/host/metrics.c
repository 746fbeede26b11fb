/* metrics.c: see metrics.h. Pictures in, numbers out: L1, PSNR, SSIM, confusion counts, and Inception's input.
 *
 * SSIM: the five windowed means (a, b, aa, bb, ab) are separable. Each row is filtered along its length into one slot of a
 * ring of 11 rows; once the ring is full, the filter across the ring gives the means of one row of windows. So memory is
 * a few rows whatever the picture's height.
 */
#include "runtime/host/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- two pictures ----------------------------------------------------------------------------------- */

static bool comparable(const KdImage *a, const KdImage *b, KdTrouble *t) {
    if (a->bits != 8 || b->bits != 8) {
        return kd_trouble(t, false, "pictures are compared with 8 bits a sample, found %d and %d", a->bits, b->bits);
    }
    if (a->width != b->width || a->height != b->height || a->channels != b->channels) {
        return kd_trouble(t, false, "pictures of different sizes: %d x %d with %d channels and %d x %d with %d", a->width,
                          a->height, a->channels, b->width, b->height, b->channels);
    }
    if (a->width < 1 || a->height < 1) {
        return kd_trouble(t, false, "an empty picture, %d x %d", a->width, a->height);
    }
    return true;
}

static int64_t sample_count(const KdImage *x) {
    return (int64_t)x->width * x->height * x->channels;
}

bool kd_metric_l1(const KdImage *a, const KdImage *b, double *out, KdTrouble *t) {
    if (!comparable(a, b, t)) {
        return false;
    }
    const uint8_t *p = a->samples, *q = b->samples;
    int64_t n = sample_count(a), sum = 0; /* whole numbers: exact */
    for (int64_t i = 0; i < n; i++) {
        sum += abs((int)p[i] - (int)q[i]);
    }
    *out = (double)sum / (double)n;
    return true;
}

bool kd_metric_psnr(const KdImage *a, const KdImage *b, double *out, KdTrouble *t) {
    if (!comparable(a, b, t)) {
        return false;
    }
    const uint8_t *p = a->samples, *q = b->samples;
    int64_t n = sample_count(a), sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int d = (int)p[i] - (int)q[i];
        sum += d * d;
    }
    *out = sum == 0 ? INFINITY : 10 * log10(255.0 * 255.0 * (double)n / (double)sum);
    return true;
}

enum { WINDOW = 11, MEANS = 5 };

static void gaussian(double *w) {
    double sum = 0;
    for (int i = 0; i < WINDOW; i++) {
        double d = i - WINDOW / 2;
        w[i] = exp(-d * d / (2 * 1.5 * 1.5));
        sum += w[i];
    }
    for (int i = 0; i < WINDOW; i++) {
        w[i] /= sum;
    }
}

/* One row of one channel, filtered along its length: out[m * n + j], j < n = width - 10. */
static void filter_row(const uint8_t *a, const uint8_t *b, int step, int n, const double *w, double *out) {
    for (int j = 0; j < n; j++) {
        double s[MEANS] = {0};
        for (int k = 0; k < WINDOW; k++) {
            double x = a[(size_t)(j + k) * (size_t)step], y = b[(size_t)(j + k) * (size_t)step];
            s[0] += w[k] * x;
            s[1] += w[k] * y;
            s[2] += w[k] * (x * x);
            s[3] += w[k] * (y * y);
            s[4] += w[k] * (x * y);
        }
        for (int m = 0; m < MEANS; m++) {
            out[(size_t)m * (size_t)n + (size_t)j] = s[m];
        }
    }
}

static double ssim_of(const double *s) {
    const double c1 = (0.01 * 255) * (0.01 * 255), c2 = (0.03 * 255) * (0.03 * 255);
    double va = s[2] - s[0] * s[0], vb = s[3] - s[1] * s[1], vab = s[4] - s[0] * s[1];
    return (2 * s[0] * s[1] + c1) * (2 * vab + c2) / ((s[0] * s[0] + s[1] * s[1] + c1) * (va + vb + c2));
}

/* The sum of SSIM over the windows of one channel. ring: 11 rows as filter_row writes them. */
static double ssim_channel(const KdImage *a, const KdImage *b, int channel, const double *w, double *ring) {
    int n = a->width - WINDOW + 1;
    size_t row = (size_t)a->width * (size_t)a->channels, slot = (size_t)MEANS * (size_t)n;
    double sum = 0;
    for (int i = 0; i < a->height; i++) {
        size_t at = (size_t)i * row + (size_t)channel;
        filter_row((const uint8_t *)a->samples + at, (const uint8_t *)b->samples + at, a->channels, n, w,
                   ring + (size_t)(i % WINDOW) * slot);
        for (int j = 0; j < n && i >= WINDOW - 1; j++) {
            double s[MEANS] = {0};
            for (int k = 0; k < WINDOW; k++) { /* rows i - 10 .. i; row i + 1 + k is in the slot of row i - 10 + k */
                const double *r = ring + (size_t)((i + 1 + k) % WINDOW) * slot + (size_t)j;
                for (int m = 0; m < MEANS; m++) {
                    s[m] += w[k] * r[(size_t)m * (size_t)n];
                }
            }
            sum += ssim_of(s);
        }
    }
    return sum;
}

bool kd_metric_ssim(const KdImage *a, const KdImage *b, double *out, KdTrouble *t) {
    if (!comparable(a, b, t)) {
        return false;
    }
    if (a->width < WINDOW || a->height < WINDOW) {
        return kd_trouble(t, false, "SSIM needs pictures of at least 11 x 11, found %d x %d", a->width, a->height);
    }
    double w[WINDOW], sum = 0;
    gaussian(w);
    double *ring = malloc(sizeof *ring * WINDOW * MEANS * (size_t)a->width);
    if (!ring) {
        return kd_trouble(t, true, "out of memory for SSIM of pictures %d wide", a->width);
    }
    for (int c = 0; c < a->channels; c++) {
        sum += ssim_channel(a, b, c, w, ring);
    }
    free(ring);
    *out = sum / ((double)(a->width - WINDOW + 1) * (a->height - WINDOW + 1) * a->channels);
    return true;
}

/* ---- label maps ------------------------------------------------------------------------------------- */

bool kd_confusion_init(KdConfusion *c, int classes, int ignore, KdTrouble *t) {
    *c = (KdConfusion){.classes = classes, .ignore = ignore};
    if (classes < 1 || classes > 4096) {
        return kd_trouble(t, false, "label maps are compared with 1 to 4096 classes, not %d", classes);
    }
    c->count = calloc((size_t)classes * (size_t)classes, sizeof *c->count);
    return c->count || kd_trouble(t, true, "out of memory for confusion counts of %d classes", classes);
}

void kd_confusion_free(KdConfusion *c) {
    free(c->count);
    c->count = NULL;
}

static int label_at(const KdImage *x, int64_t i) {
    return x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
}

bool kd_confusion_add(KdConfusion *c, const KdImage *truth, const KdImage *prediction, KdTrouble *t) {
    if (truth->channels != 1 || prediction->channels != 1) {
        return kd_trouble(t, false, "label maps have one channel, found %d and %d", truth->channels,
                          prediction->channels);
    }
    if (truth->width != prediction->width || truth->height != prediction->height) {
        return kd_trouble(t, false, "label maps of different sizes: truth %d x %d, prediction %d x %d", truth->width,
                          truth->height, prediction->width, prediction->height);
    }
    int64_t n = sample_count(truth);
    for (int pass = 0; pass < 2; pass++) { /* first look, then count: an error counts nothing */
        for (int64_t i = 0; i < n; i++) {
            int row = label_at(truth, i), col = label_at(prediction, i);
            if (row == c->ignore) {
                continue;
            }
            if (row >= c->classes || col >= c->classes) {
                bool of_truth = row >= c->classes;
                return kd_trouble(t, false, "%s has label %d at x = %d, y = %d, expected 0..%d%s",
                                  of_truth ? "truth" : "prediction", of_truth ? row : col, (int)(i % truth->width),
                                  (int)(i / truth->width), c->classes - 1,
                                  of_truth ? " (--ignore-label leaves one out)" : "");
            }
            c->count[(int64_t)row * c->classes + col] += pass;
        }
    }
    return true;
}

void kd_confusion_scores(const KdConfusion *c, double *pixel, double *per_class, double *miou) {
    double right = 0, all = 0, accuracy = 0, iou = 0;
    int in_truth = 0, anywhere = 0;
    for (int k = 0; k < c->classes; k++) {
        int64_t row = 0, col = 0, hit = c->count[(int64_t)k * c->classes + k];
        for (int j = 0; j < c->classes; j++) {
            row += c->count[(int64_t)k * c->classes + j];
            col += c->count[(int64_t)j * c->classes + k];
        }
        right += (double)hit;
        all += (double)row;
        if (row > 0) {
            in_truth++;
            accuracy += (double)hit / (double)row;
        }
        if (row + col > 0) {
            anywhere++;
            iou += (double)hit / (double)(row + col - hit);
        }
    }
    *pixel = all > 0 ? right / all : NAN;
    *per_class = in_truth ? accuracy / in_truth : NAN;
    *miou = anywhere ? iou / anywhere : NAN;
}

/* ---- Inception's input ------------------------------------------------------------------------------ */

/* Where output i of `size` lies among n: between samples *lo and *hi, *part of the way. PyTorch's f32 arithmetic. */
static void place(int i, int size, int n, int *lo, int *hi, float *part) {
    float at = ((float)n / (float)size) * ((float)i + 0.5f) - 0.5f;
    at = at < 0 ? 0 : at;
    *lo = (int)at < n - 1 ? (int)at : n - 1;
    *hi = *lo + (*lo < n - 1);
    *part = at - (float)*lo;
}

void kd_fid_input(const KdImage *x, int size, float *out) {
    const uint8_t *p = x->samples;
    size_t c = (size_t)x->channels, row = (size_t)x->width * c;
    for (int k = 0; k < 3; k++) {
        size_t channel = c == 1 ? 0 : (size_t)k;
        for (int i = 0; i < size; i++) {
            int top, bottom;
            float down;
            place(i, size, x->height, &top, &bottom, &down);
            const uint8_t *r0 = p + (size_t)top * row + channel, *r1 = p + (size_t)bottom * row + channel;
            for (int j = 0; j < size; j++) {
                int left, right;
                float along;
                place(j, size, x->width, &left, &right, &along);
                float a = (float)r0[(size_t)left * c] / 255, b = (float)r0[(size_t)right * c] / 255;
                float d = (float)r1[(size_t)left * c] / 255, e = (float)r1[(size_t)right * c] / 255;
                float v = (1 - down) * ((1 - along) * a + along * b) + down * ((1 - along) * d + along * e);
                *out++ = 2 * v - 1;
            }
        }
    }
}
