/* init.c: how weights, buffers and states begin: the words of the language, drawn on the host.
 *
 * Each tensor has a key made of the seed and its name, so that its numbers depend on nothing else: adding a layer
 * does not change another's weights. Element i takes the bits at counters 2i and 2i + 1 of that key (random_bits.h).
 * Fans are PyTorch's: of a weight [a, b, kh, kw], fan_in = b kh kw and fan_out = a kh kw, for transposed ones too.
 */
#include "frontend/api/api.h"

#include "ir/random_bits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Spec {
    const KdcTensor *t;
    uint32_t key;
    double arg[2];
    int n_arg;
} Spec;

typedef double DrawFn(const Spec *s, int64_t i);

static double unit(const Spec *s, uint32_t counter) { /* in [0, 1), 2^-32 apart */
    return (double)kd_random_bits(s->key, counter) * 0x1p-32;
}

static double normal(const Spec *s, int64_t i) { /* Box and Muller; the log's argument is never 0 */
    const double two_pi = 6.283185307179586;
    double u = unit(s, (uint32_t)(2 * i)), v = unit(s, (uint32_t)(2 * i + 1));
    return sqrt(-2 * log(1 - u)) * cos(two_pi * v);
}

static void fans(const Spec *s, double *in, double *out) {
    double field = 1;
    for (int d = 2; d < s->t->rank; d++) {
        field *= (double)s->t->dim[d];
    }
    *in = (s->t->rank > 1 ? (double)s->t->dim[1] : 1) * field;
    *out = (s->t->rank > 0 ? (double)s->t->dim[0] : 1) * field;
    *in = *in < 1 ? 1 : *in;
    *out = *out < 1 ? 1 : *out;
}

static double arg(const Spec *s, int k, double otherwise) {
    return k < s->n_arg ? s->arg[k] : otherwise;
}

static double xavier_scale(const Spec *s) {
    double in, out;
    fans(s, &in, &out);
    return arg(s, 0, 1) * sqrt(2 / (in + out));
}

/* torch's gain of leaky_relu: kaiming_*(a) = gain(a) / sqrt(fan) */
static double kaiming_scale(const Spec *s) {
    double in, out, a = arg(s, 0, 0);
    fans(s, &in, &out);
    return sqrt(2 / (1 + a * a)) / sqrt(in);
}

static double draw_zeros(const Spec *s, int64_t i) {
    (void)s, (void)i;
    return 0;
}

static double draw_ones(const Spec *s, int64_t i) {
    (void)s, (void)i;
    return 1;
}

static double draw_constant(const Spec *s, int64_t i) {
    (void)i;
    return arg(s, 0, 0);
}

static double draw_normal(const Spec *s, int64_t i) {
    return arg(s, 0, 0) + arg(s, 1, 1) * normal(s, i);
}

static double draw_uniform(const Spec *s, int64_t i) {
    double lo = arg(s, 0, 0), hi = arg(s, 1, 1);
    return lo + (hi - lo) * unit(s, (uint32_t)i);
}

static double draw_xavier_normal(const Spec *s, int64_t i) {
    return xavier_scale(s) * normal(s, i);
}

static double draw_xavier_uniform(const Spec *s, int64_t i) {
    return xavier_scale(s) * sqrt(3) * (2 * unit(s, (uint32_t)i) - 1);
}

static double draw_kaiming_normal(const Spec *s, int64_t i) {
    return kaiming_scale(s) * normal(s, i);
}

static double draw_kaiming_uniform(const Spec *s, int64_t i) {
    return kaiming_scale(s) * sqrt(3) * (2 * unit(s, (uint32_t)i) - 1);
}

/* ---- what concerns a tensor as a whole, after its elements are drawn from the standard normal ------------- */

typedef void FinishFn(const Spec *s, float *v);

static double dot(const float *x, const float *y, int64_t n, int64_t step) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i * step] * (double)y[i * step];
    }
    return sum;
}

static void scale(float *x, int64_t n, int64_t step, double by) {
    for (int64_t i = 0; i < n; i++) {
        x[i * step] = (float)((double)x[i * step] * by);
    }
}

static void finish_unit(const Spec *s, float *v) {
    double norm = sqrt(dot(v, v, s->t->count, 1));
    scale(v, s->t->count, 1, norm > 0 ? 1 / norm : 0);
}

/* torch.nn.init.orthogonal_: as a matrix [dim 0, rest], the shorter side's vectors become orthonormal, times gain.
 * Gram and Schmidt, each vector twice against those before it, which is accurate to rounding. */
static void finish_orthogonal(const Spec *s, float *v) {
    int64_t rows = s->t->rank > 0 ? s->t->dim[0] : 1, cols = s->t->count / rows;
    bool wide = rows <= cols;
    int64_t n = wide ? rows : cols, length = wide ? cols : rows;
    int64_t next = wide ? cols : 1, step = wide ? 1 : cols; /* from vector to vector; inside one */
    for (int64_t i = 0; i < n; i++) {
        float *x = v + i * next;
        for (int64_t k = 0; k < 2 * i; k++) {
            float *y = v + k % i * next;
            double p = dot(x, y, length, step);
            for (int64_t j = 0; j < length; j++) {
                x[j * step] = (float)((double)x[j * step] - p * (double)y[j * step]);
            }
        }
        double norm = sqrt(dot(x, x, length, step));
        scale(x, length, step, norm > 0 ? 1 / norm : 0);
    }
    scale(v, s->t->count, 1, arg(s, 0, 1));
}

static double draw_standard(const Spec *s, int64_t i) {
    return normal(s, i);
}

typedef struct Word {
    const char *name;
    DrawFn *draw;
    FinishFn *finish; /* or NULL */
    int args;         /* at most */
} Word;

static const Word words[] = {
    {"zeros", draw_zeros, NULL, 0},
    {"ones", draw_ones, NULL, 0},
    {"constant", draw_constant, NULL, 1},
    {"normal", draw_normal, NULL, 2},
    {"uniform", draw_uniform, NULL, 2},
    {"xavier_normal", draw_xavier_normal, NULL, 1},
    {"xavier_uniform", draw_xavier_uniform, NULL, 1},
    {"kaiming_normal", draw_kaiming_normal, NULL, 1},
    {"kaiming_uniform", draw_kaiming_uniform, NULL, 1},
    {"orthogonal", draw_standard, finish_orthogonal, 1},
    {"unit", draw_standard, finish_unit, 0},
};

/* "word" or "word(1, 2)", as the language writes them; NULL when it is none of ours. */
static const Word *parse(const char *init, Spec *s) {
    size_t n = strcspn(init, "( ");
    int k = 0;
    while (k < KD_COUNT(words) && (strlen(words[k].name) != n || memcmp(words[k].name, init, n) != 0)) {
        k++;
    }
    const char *p = init + n;
    s->n_arg = 0;
    if (k == KD_COUNT(words) || (*p && *p != '(')) {
        return NULL;
    }
    for (p += *p == '('; *p && *p != ')'; p += strspn(p, ", ")) {
        char *end;
        double v = strtod(p, &end);
        if (end == p || s->n_arg == words[k].args) {
            return NULL;
        }
        s->arg[s->n_arg++] = v;
        p = end;
    }
    return &words[k];
}

bool kdc_init_tensor(KdContext *cx, KdcTensor *t, uint64_t seed) {
    uint64_t h = kd_hash_bytes(t->name, strlen(t->name), seed);
    Spec s = {.t = t, .key = kd_random_key((uint32_t)seed, (uint32_t)h, (uint32_t)(h >> 32))};
    const Word *word = parse(*t->init ? t->init : "zeros", &s);
    if (!word || (word->finish && t->dtype != KDC_F32)) {
        kd_error(cx, 0, "%s: unknown initialisation '%s'", t->name, t->init);
        return false;
    }
    for (int64_t i = 0; i < t->count; i++) {
        double v = word->draw(&s, i);
        switch (t->dtype) {
        case KDC_F32:
            ((float *)t->data)[i] = (float)v;
            break;
        case KDC_I32:
            ((int32_t *)t->data)[i] = (int32_t)v;
            break;
        case KDC_U8:
            ((uint8_t *)t->data)[i] = (uint8_t)v;
            break;
        }
    }
    if (word->finish && t->count > 0) {
        word->finish(&s, t->data);
    }
    return true;
}
