/* weights.c: see weights.h. The JSON goes through jansson; offsets and lengths are ours to distrust. */
#include "runtime/host/weights.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 100000000 /* as the reference implementation */
#define MAX_RANK 32

static const struct {
    const char *name;
    int size;
} stored[] = {
    [KD_STORED_BOOL] = {"BOOL", 1}, [KD_STORED_U8] = {"U8", 1},     [KD_STORED_I8] = {"I8", 1},
    [KD_STORED_I16] = {"I16", 2},   [KD_STORED_U16] = {"U16", 2},   [KD_STORED_F16] = {"F16", 2},
    [KD_STORED_BF16] = {"BF16", 2}, [KD_STORED_I32] = {"I32", 4},   [KD_STORED_U32] = {"U32", 4},
    [KD_STORED_F32] = {"F32", 4},   [KD_STORED_F64] = {"F64", 8},   [KD_STORED_I64] = {"I64", 8},
    [KD_STORED_U64] = {"U64", 8},
};
#define N_STORED ((int)(sizeof stored / sizeof stored[0]))

const char *kd_stored_name(KdStored s) {
    return stored[s].name;
}

int kd_stored_size(KdStored s) {
    return stored[s].size;
}

/* ---- reading ------------------------------------------------------------------------------------ */

typedef struct Memory {
    void *file;   /* to be freed, or NULL */
    json_t *root; /* owns the names */
    int64_t *dims;
} Memory;

typedef struct Reader {
    const char *from;
    KdTrouble *t;
    int64_t buffer; /* its length */
    int64_t *dims;  /* room for all dims, handed out */
} Reader;

static bool read_shape(Reader *r, KdTensor *x, const json_t *shape) {
    size_t rank = json_array_size(shape), i;
    json_t *v;
    if (!json_is_array(shape) || rank > MAX_RANK) {
        return kd_trouble(r->t, false, "%s: tensor %s: shape is not a list of at most %d numbers",
                          r->from, x->name, MAX_RANK);
    }
    x->rank = (int)rank;
    x->dim = r->dims;
    x->count = 1;
    json_array_foreach(shape, i, v) {
        int64_t d = json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
        if (d < 0) {
            return kd_trouble(r->t, false, "%s: tensor %s: dimension %zu is no whole number >= 0",
                              r->from, x->name, i);
        }
        if (d > 0 && x->count > INT64_MAX / 8 / d) {
            return kd_trouble(r->t, false, "%s: tensor %s: too many elements", r->from, x->name);
        }
        x->count *= d;
        *r->dims++ = d;
    }
    return true;
}

static bool read_offsets(Reader *r, KdTensor *x, const json_t *offsets, const unsigned char *buffer) {
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e)) {
        return kd_trouble(r->t, false, "%s: tensor %s: data_offsets is not two numbers", r->from,
                          x->name);
    }
    int64_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || end > r->buffer) {
        return kd_trouble(r->t, false,
                          "%s: tensor %s: bytes %" PRId64 " to %" PRId64
                          " are not inside the %" PRId64 " bytes of data",
                          r->from, x->name, begin, end, r->buffer);
    }
    if (end - begin != x->count * stored[x->dtype].size) {
        return kd_trouble(r->t, false,
                          "%s: tensor %s: %" PRId64 " elements of %s need %" PRId64
                          " bytes, it has %" PRId64,
                          r->from, x->name, x->count, stored[x->dtype].name,
                          x->count * stored[x->dtype].size, end - begin);
    }
    x->data = buffer + begin;
    return true;
}

static bool read_entry(Reader *r, KdTensor *x, const json_t *v, const unsigned char *buffer) {
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    if (!dtype || !json_object_get(v, "shape") || !json_object_get(v, "data_offsets") ||
        json_object_size(v) != 3) {
        return kd_trouble(r->t, false,
                          "%s: tensor %s: expected exactly dtype, shape and data_offsets", r->from,
                          x->name);
    }
    int k = 0;
    while (k < N_STORED && strcmp(stored[k].name, dtype) != 0) {
        k++;
    }
    if (k == N_STORED) {
        return kd_trouble(r->t, false, "%s: tensor %s: element type %.20s is not supported",
                          r->from, x->name, dtype);
    }
    x->dtype = (KdStored)k;
    return read_shape(r, x, json_object_get(v, "shape")) &&
           read_offsets(r, x, json_object_get(v, "data_offsets"), buffer);
}

static int by_offset(const void *a, const void *b) {
    const KdTensor *x = a, *y = b;
    int64_t nx = x->count * stored[x->dtype].size, ny = y->count * stored[y->dtype].size;
    if (x->data != y->data) {
        return x->data < y->data ? -1 : 1;
    }
    if (nx != ny) { /* an empty one before the one that begins there too */
        return nx < ny ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static bool check_cover(Reader *r, KdWeights *w, const unsigned char *buffer) {
    const unsigned char *at = buffer;
    qsort(w->tensor, (size_t)w->n, sizeof *w->tensor, by_offset);
    for (int i = 0; i < w->n; i++) {
        const KdTensor *x = &w->tensor[i];
        if (x->data != at) {
            return kd_trouble(r->t, false, "%s: tensor %s %s (at byte %td of the data)", r->from,
                              x->name,
                              x->data < at ? "overlaps another" : "has a hole before it",
                              x->data - buffer);
        }
        at += x->count * stored[x->dtype].size;
    }
    if (at != buffer + r->buffer) {
        return kd_trouble(r->t, false, "%s: %td bytes after the last tensor belong to nothing",
                          r->from, buffer + r->buffer - at);
    }
    return true;
}

static bool read_meta(Reader *r, KdWeights *w, json_t *meta) {
    const char *key;
    json_t *v;
    if (!json_is_object(meta)) {
        return kd_trouble(r->t, false, "%s: __metadata__ is not an object", r->from);
    }
    w->meta = calloc(json_object_size(meta) * 2 + 1, sizeof *w->meta);
    if (!w->meta) {
        return kd_trouble(r->t, true, "out of memory");
    }
    json_object_foreach(meta, key, v) {
        if (!json_is_string(v)) {
            return kd_trouble(r->t, false, "%s: __metadata__ entry %.100s is not a string", r->from,
                              key);
        }
        w->meta[2 * w->n_meta] = key;
        w->meta[2 * w->n_meta++ + 1] = json_string_value(v);
    }
    return true;
}

static bool read_entries(Reader *r, KdWeights *w, json_t *root, const unsigned char *buffer) {
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v) {
        if (strcmp(key, "__metadata__") == 0) {
            if (!read_meta(r, w, v)) {
                return false;
            }
            continue;
        }
        w->tensor[w->n].name = key;
        if (!read_entry(r, &w->tensor[w->n++], v, buffer)) {
            return false;
        }
    }
    return check_cover(r, w, buffer);
}

/* All dims of all entries, so that they can share one allocation. */
static size_t count_dims(json_t *root) {
    const char *key;
    json_t *v;
    size_t n = 1;
    json_object_foreach(root, key, v) {
        n += json_array_size(json_object_get(v, "shape"));
    }
    return n;
}

KdWeights *kd_weights_parse(const char *from, const void *data, size_t n, KdTrouble *t) {
    const unsigned char *p = data;
    uint64_t header = 0;
    if (n < 8) {
        kd_trouble(t, false, "%s: %zu bytes are too few for a safetensors file", from, n);
        return NULL;
    }
    for (int i = 7; i >= 0; i--) {
        header = header << 8 | p[i];
    }
    if (header > n - 8 || header > MAX_HEADER) {
        kd_trouble(t, false,
                   "%s: not a safetensors file, or cut off: its header should be %" PRIu64
                   " bytes long, the file is %zu",
                   from, header, n);
        return NULL;
    }
    json_error_t error;
    json_t *root = header && p[8] == '{' ? json_loadb((const char *)p + 8, (size_t)header,
                                                      JSON_REJECT_DUPLICATES, &error)
                                         : NULL;
    if (!root) {
        kd_trouble(t, false, "%s: the header is not a JSON object%s%.200s", from,
                   header && p[8] == '{' ? ": " : "", header && p[8] == '{' ? error.text : "");
        return NULL;
    }
    KdWeights *w = calloc(1, sizeof *w);
    Memory *m = calloc(1, sizeof *m);
    int64_t *dims = calloc(count_dims(root), sizeof *dims);
    KdTensor *tensor = calloc(json_object_size(root) + 1, sizeof *tensor);
    if (!w || !m || !dims || !tensor || json_object_size(root) > INT_MAX) {
        free(w), free(m), free(dims), free(tensor);
        json_decref(root);
        kd_trouble(t, true, "out of memory");
        return NULL;
    }
    *m = (Memory){NULL, root, dims};
    w->memory = m;
    w->tensor = tensor;
    Reader r = {from, t, (int64_t)(n - 8 - header), dims};
    if (!read_entries(&r, w, root, p + 8 + header)) {
        kd_weights_free(w);
        return NULL;
    }
    return w;
}

KdWeights *kd_weights_read(const char *path, KdTrouble *t) {
    size_t n = 0;
    char *data = kd_file_plain(path, t) ? kd_file_read(path, &n, t) : NULL;
    if (!data) {
        return NULL;
    }
    KdWeights *w = kd_weights_parse(path, data, n, t);
    if (w) {
        ((Memory *)w->memory)->file = data;
    } else {
        free(data);
    }
    return w;
}

KdWeights *kd_weights_new(KdTensor *tensor, int n, void *block) {
    KdWeights *w = calloc(1, sizeof *w);
    Memory *m = calloc(1, sizeof *m);
    if (!w || !m) {
        free(w), free(m);
        return NULL;
    }
    m->file = block;
    *w = (KdWeights){.n = n, .tensor = tensor, .memory = m};
    return w;
}

void kd_weights_free(KdWeights *w) {
    if (w) {
        Memory *m = w->memory;
        json_decref(m->root);
        free(m->file);
        free(m->dims);
        free(m);
        free(w->meta);
        free(w->tensor);
        free(w);
    }
}

const KdTensor *kd_weights_find(const KdWeights *w, const char *name) {
    for (int i = 0; i < w->n; i++) {
        if (strcmp(w->tensor[i].name, name) == 0) {
            return &w->tensor[i];
        }
    }
    return NULL;
}

/* ---- elements ----------------------------------------------------------------------------------- */

static uint64_t little(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) {
        v = v << 8 | p[i];
    }
    return v;
}

static double from_f16(uint64_t h) {
    int exponent = (int)(h >> 10 & 31);
    double fraction = (double)(h & 1023), v;
    if (exponent == 31) {
        v = fraction != 0 ? NAN : INFINITY;
    } else {
        v = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    }
    return h >> 15 ? -v : v;
}

static double from_f32_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

/* Element i. Whole numbers of 64 bits are not all doubles: *whole gets them exactly (saturated), *is_whole says so. */
static double element(const KdTensor *x, int64_t i, int64_t *whole, bool *is_whole) {
    int size = stored[x->dtype].size;
    uint64_t v = little(x->data + i * size, size);
    double d = 0;
    *is_whole = true;
    *whole = (int64_t)v;
    switch (x->dtype) {
    case KD_STORED_BOOL:
        *whole = v != 0;
        break;
    case KD_STORED_U8:
    case KD_STORED_U16:
    case KD_STORED_U32:
    case KD_STORED_I64:
        break;
    case KD_STORED_I8:
        *whole = (int8_t)v;
        break;
    case KD_STORED_I16:
        *whole = (int16_t)v;
        break;
    case KD_STORED_I32:
        *whole = (int32_t)v;
        break;
    case KD_STORED_U64:
        if (v > INT64_MAX) {
            *whole = INT64_MAX;
            return (double)v;
        }
        break;
    case KD_STORED_F16:
        *is_whole = false;
        d = from_f16(v);
        break;
    case KD_STORED_BF16:
        *is_whole = false;
        d = from_f32_bits((uint32_t)v << 16);
        break;
    case KD_STORED_F32:
        *is_whole = false;
        d = from_f32_bits((uint32_t)v);
        break;
    case KD_STORED_F64:
        *is_whole = false;
        memcpy(&d, &v, sizeof d);
        break;
    }
    return *is_whole ? (double)*whole : d;
}

bool kd_tensor_f32(const KdTensor *x, float *out, KdTrouble *t) {
    (void)t;
    int64_t whole;
    bool is_whole;
    for (int64_t i = 0; i < x->count; i++) {
        double d = element(x, i, &whole, &is_whole);
        out[i] = is_whole && whole != INT64_MAX ? (float)whole : (float)d;
    }
    return true;
}

static bool integer(const KdTensor *x, int64_t i, int64_t lo, int64_t hi, int64_t *v, KdTrouble *t) {
    bool is_whole;
    double d = element(x, i, v, &is_whole);
    if (!is_whole) {
        if (!(d >= (double)lo && d <= (double)hi) || d != floor(d)) {
            return kd_trouble(t, false,
                              "tensor %s: element %" PRId64 " is %g, expected a whole number from %"
                              PRId64 " to %" PRId64,
                              x->name, i, d, lo, hi);
        }
        *v = (int64_t)d;
    }
    if (*v < lo || *v > hi) {
        return kd_trouble(t, false,
                          "tensor %s: element %" PRId64 " is %.0f, expected %" PRId64 " to %" PRId64,
                          x->name, i, d, lo, hi);
    }
    return true;
}

bool kd_tensor_i32(const KdTensor *x, int32_t *out, KdTrouble *t) {
    for (int64_t i = 0, v; i < x->count; i++) {
        if (!integer(x, i, INT32_MIN, INT32_MAX, &v, t)) {
            return false;
        }
        out[i] = (int32_t)v;
    }
    return true;
}

bool kd_tensor_u8(const KdTensor *x, uint8_t *out, KdTrouble *t) {
    for (int64_t i = 0, v; i < x->count; i++) {
        if (!integer(x, i, 0, UINT8_MAX, &v, t)) {
            return false;
        }
        out[i] = (uint8_t)v;
    }
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------ */

static int64_t bytes_of(const KdTensorOut *x) {
    int64_t n = stored[x->dtype].size;
    for (int d = 0; d < x->rank; d++) {
        n *= x->dim[d];
    }
    return n;
}

static json_t *entry_of(const KdTensorOut *x, int64_t begin) {
    json_t *shape = json_array();
    for (int d = 0; d < x->rank; d++) {
        json_array_append_new(shape, json_integer(x->dim[d]));
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", stored[x->dtype].name, "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + bytes_of(x)));
}

/* Wide elements first, so that all are aligned: the header is padded to 8 bytes. pass 0: wide, 1: bytes. */
static bool in_pass(const KdTensorOut *x, int pass) {
    return (stored[x->dtype].size == 1) == (pass == 1);
}

static char *header_of(const KdTensorOut *x, int n, const char *const *meta, int n_meta) {
    json_t *root = json_object();
    int64_t at = 0;
    bool ok = root != NULL;
    if (ok && n_meta) {
        json_t *m = json_object();
        for (int i = 0; i < n_meta; i++) {
            ok = ok && json_object_set_new(m, meta[2 * i], json_string(meta[2 * i + 1])) == 0;
        }
        ok = json_object_set_new(root, "__metadata__", m) == 0 && ok;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < n && ok; i++) {
            if (in_pass(&x[i], pass)) {
                ok = !json_object_get(root, x[i].name) &&
                     json_object_set_new(root, x[i].name, entry_of(&x[i], at)) == 0;
                at += bytes_of(&x[i]);
            }
        }
    }
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

/* Little-endian, whatever the machine is. */
static void put_elements(KdFileOut *f, const KdTensorOut *x) {
    const uint16_t probe = 1;
    int size = stored[x->dtype].size;
    int64_t n = bytes_of(x);
    if (size == 1 || *(const unsigned char *)&probe == 1) {
        kd_file_put(f, x->data, (size_t)n);
        return;
    }
    const unsigned char *p = x->data;
    for (int64_t i = 0; i < n; i += size) {
        unsigned char e[8];
        for (int k = 0; k < size; k++) {
            e[k] = p[i + size - 1 - k];
        }
        kd_file_put(f, e, (size_t)size);
    }
}

bool kd_weights_write(const char *path, const KdTensorOut *x, int n, const char *const *meta,
                      int n_meta, KdTrouble *t) {
    char *text = header_of(x, n, meta, n_meta);
    if (!text) {
        return kd_trouble(t, false, "cannot write %s: two tensors of one name, or a name that is not UTF-8",
                          path);
    }
    KdFileOut *f = kd_file_begin(path, t);
    if (!f) {
        free(text);
        return false;
    }
    uint64_t length = strlen(text), padded = (length + 7) / 8 * 8;
    unsigned char head[8];
    for (int i = 0; i < 8; i++) {
        head[i] = (unsigned char)(padded >> 8 * i);
    }
    kd_file_put(f, head, 8);
    kd_file_put(f, text, length);
    kd_file_put(f, "        ", padded - length);
    free(text);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < n; i++) {
            if (in_pass(&x[i], pass)) {
                put_elements(f, &x[i]);
            }
        }
    }
    return kd_file_commit(f, t);
}
