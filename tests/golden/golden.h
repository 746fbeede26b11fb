/* golden.h: reading golden files, and the numbers that golden_lib.py and the tests both make: weights and images are not
 * stored, both sides compute them from an integer hash.
 */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/host/weights.h"

/* n floats in [-1, 1): golden_lib.uniform. */
static inline void golden_uniform(uint32_t key, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)i + key * 0x9E3779B9u;
        x ^= x >> 16;
        x *= 0x21F0AAADu;
        x ^= x >> 15;
        x *= 0x735A2D97u;
        x ^= x >> 15;
        out[i] = (float)(x >> 8) / 8388608.0f - 1.0f;
    }
}

static inline bool golden_ends(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* golden_lib.fill: the tensor `name` of this rank with the numbers of `key`. */
static inline void golden_fill(const char *name, int rank, uint32_t key, float scale, float *out,
                               int64_t n) {
    golden_uniform(key, out, n);
    for (int64_t i = 0; i < n; i++) {
        if (rank > 1) {
            out[i] *= scale;
        } else {
            out[i] = out[i] * 0.1f;
            if (golden_ends(name, "weight")) out[i] = 1.0f + out[i];
        }
    }
}

/* golden_lib.fill_running, one tensor. */
static inline void golden_fill_running(const char *name, uint32_t key, float *out, int64_t n) {
    golden_uniform(key, out, n);
    for (int64_t i = 0; i < n; i++) {
        out[i] = out[i] * 0.1f;
        if (!golden_ends(name, "mean")) out[i] = 1.0f + out[i];
    }
}

/* golden_lib.fill_vectors, one tensor. */
static inline void golden_fill_vector(uint32_t key, float *out, int64_t n) {
    double sum = 0;
    golden_uniform(key, out, n);
    for (int64_t i = 0; i < n; i++) sum += (double)out[i] * out[i];
    for (int64_t i = 0; i < n; i++) out[i] = (float)(out[i] / sqrt(sum));
}

/* golden_lib.class_map: h x w numbers 0 .. classes - 1 of each of n images. */
static inline void golden_class_map(uint32_t key, int64_t n, int64_t h, int64_t w, int classes, int block, int *out) {
    int64_t rows = (h + block - 1) / block, columns = (w + block - 1) / block;
    float *u = malloc((size_t)(n * rows * columns) * sizeof *u);
    golden_uniform(key, u, n * rows * columns);
    for (int64_t i = 0; i < n * h * w; i++) {
        int64_t image = i / (h * w), y = i / w % h, x = i % w;
        int id = (int)(((double)u[(image * rows + y / block) * columns + x / block] + 1) / 2 * classes);
        out[i] = id < classes ? id : classes - 1;
    }
    free(u);
}

static inline KdWeights *golden_read(const char *name) {
    char path[1024];
    KdTrouble t;
    snprintf(path, sizeof path, "%s/tests/golden/%s", KDC_SOURCE_DIR, name);
    KdWeights *w = kd_weights_read(path, &t);
    if (!w) fprintf(stderr, "%s: %s\n", path, t.text);
    return w;
}

/* "NAME.KIND.WHAT", or "NAME.KIND" when what is NULL; NULL: not in the file. */
static inline const KdTensor *golden_find(const KdWeights *w, const char *name, const char *kind,
                                          const char *what) {
    char key[512];
    snprintf(key, sizeof key, "%s.%s%s%s", name, kind, what ? "." : "", what ? what : "");
    return kd_weights_find(w, key);
}

/* Element i of an F32, F64 or I32 tensor. */
static inline double golden_at(const KdTensor *t, int64_t i) {
    double d;
    float f;
    int32_t k;
    switch ((int)t->dtype) {
    case KD_STORED_F64: memcpy(&d, t->data + 8 * i, 8); return d;
    case KD_STORED_F32: memcpy(&f, t->data + 4 * i, 4); return f;
    case KD_STORED_I32: memcpy(&k, t->data + 4 * i, 4); return k;
    }
    return NAN;
}

#endif
