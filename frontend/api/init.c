/* init.c: how weights, buffers and states begin: the words of the language, drawn on the host.
 *
 * Each tensor has a key made of the seed and its name, so that its numbers depend on nothing else: adding a layer
 * does not change another's weights. Element i takes the bits at counters 2i and 2i + 1 of that key (random_bits.h).
 * Fans are PyTorch's: of a weight [a, b, kh, kw], fan_in = b kh kw and fan_out = a kh kw, for transposed ones too.
 */
#include "frontend/api/api.h"

#include "ir/random_bits.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Spec {
    const KdcTensor *t;
    uint32_t key;
    double arg[2];
    int n_arg;
    const char *mode; /* "fan_out" as a last word, or "" */
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
    return sqrt(2 / (1 + a * a)) / sqrt(strcmp(s->mode, "fan_out") == 0 ? out : in);
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

static const struct {
    const char *name;
    DrawFn *draw;
    int args; /* at most */
} words[] = {
    {"zeros", draw_zeros, 0},
    {"ones", draw_ones, 0},
    {"constant", draw_constant, 1},
    {"normal", draw_normal, 2},
    {"uniform", draw_uniform, 2},
    {"xavier_normal", draw_xavier_normal, 1},
    {"xavier_uniform", draw_xavier_uniform, 1},
    {"kaiming_normal", draw_kaiming_normal, 1},
    {"kaiming_uniform", draw_kaiming_uniform, 1},
};

/* "word", "word(1, 2)", "word(0.5, fan_out)"; NULL when it is none of ours. */
static DrawFn *parse(KdContext *cx, const char *init, Spec *s) {
    size_t n = strcspn(init, "( ");
    int k = 0;
    while (k < KD_COUNT(words) && (strlen(words[k].name) != n || memcmp(words[k].name, init, n) != 0)) {
        k++;
    }
    const char *p = init + n;
    s->mode = "";
    s->n_arg = 0;
    if (k == KD_COUNT(words) || (*p && *p != '(')) {
        return NULL;
    }
    for (p += *p == '('; *p && *p != ')'; p += strspn(p, ", ")) {
        char *end;
        double v = strtod(p, &end);
        size_t word = strcspn(p, ",) ");
        if (end == p + word && word > 0 && s->n_arg < words[k].args) {
            s->arg[s->n_arg++] = v;
        } else if (end == p && isalpha((unsigned char)*p)) {
            s->mode = kd_intern(cx, p, word);
        } else {
            return NULL;
        }
        p += word;
    }
    return words[k].draw;
}

bool kdc_init_tensor(KdContext *cx, KdcTensor *t, uint64_t seed) {
    uint64_t h = kd_hash_bytes(t->name, strlen(t->name), seed);
    Spec s = {.t = t, .key = kd_random_key((uint32_t)seed, (uint32_t)h, (uint32_t)(h >> 32))};
    DrawFn *draw = parse(cx, *t->init ? t->init : "zeros", &s);
    if (!draw) {
        kd_error(cx, 0, "%s: unknown initialisation '%s'", t->name, t->init);
        return false;
    }
    for (int64_t i = 0; i < t->count; i++) {
        double v = draw(&s, i);
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
    return true;
}
