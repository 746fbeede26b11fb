/* npz.c: see npz.h. The zip is libzip's business (sizes and CRC of entries are checked there, and consistency is asked for);
 * an entry is read whole, at most 2 GB of it, and only if it unpacks to what its header says.
 *
 * A .npy is "\x93NUMPY", version (1 to 3), the header's length (16 bits; from version 2 on 32), the header: a Python dict
 * with exactly descr, fortran_order and shape, in any order; then the elements. The dict is parsed by hand: quotes of either
 * kind, no escapes, numbers in decimal.
 */
#include "runtime/host/npz.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

static const int64_t most_bytes = INT64_C(1) << 31;

/* ---- the header ----------------------------------------------------------------------------------------- */

typedef struct Header {
    char kind; /* f, i, u, b */
    int size;
    bool fortran;
    int rank;
    int64_t dim[8], count;
} Header;

typedef struct Parser {
    const char *p, *end;
} Parser;

static void blanks(Parser *s) {
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t')) {
        s->p++;
    }
}

static bool sign(Parser *s, char c) {
    blanks(s);
    if (s->p < s->end && *s->p == c) {
        s->p++;
        return true;
    }
    return false;
}

/* 'text' or "text", without escapes. */
static bool quoted(Parser *s, const char **text, size_t *n) {
    blanks(s);
    if (s->p >= s->end || (*s->p != '\'' && *s->p != '"')) {
        return false;
    }
    char quote = *s->p++;
    *text = s->p;
    while (s->p < s->end && *s->p != quote) {
        if (*s->p == '\\' || *s->p == '\n') {
            return false;
        }
        s->p++;
    }
    *n = (size_t)(s->p - *text);
    return s->p++ < s->end;
}

static bool word(Parser *s, const char *w) {
    size_t n = strlen(w);
    blanks(s);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, w, n) != 0) {
        return false;
    }
    s->p += n;
    return true;
}

static bool truth(Parser *s, bool *v) {
    *v = word(s, "True");
    return *v || word(s, "False");
}

/* (2, 3), (2,), () */
static bool shape(Parser *s, Header *h) {
    if (!sign(s, '(')) {
        return false;
    }
    h->rank = 0;
    while (!sign(s, ')')) {
        int64_t v = 0;
        blanks(s);
        const char *start = s->p;
        for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++) {
            if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *s->p - '0', &v)) {
                return false;
            }
        }
        if (s->p == start || h->rank == 8) {
            return false;
        }
        h->dim[h->rank++] = v;
        if (!sign(s, ',') && (s->p >= s->end || *s->p != ')' || h->rank < 2)) {
            return false; /* (2) is a number, no tuple */
        }
    }
    return true;
}

static bool dtype(const char *text, size_t n, Header *h) {
    static const char *const known[] = {"<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1", "|b1"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (n == 3 && memcmp(text, known[i], 3) == 0) {
            h->kind = known[i][1];
            h->size = known[i][2] - '0';
            return true;
        }
    }
    return false;
}

/* The dict; *bad: what is wrong with it. */
static bool dict(Parser s, Header *h, const char **bad, char *found, size_t n_found) {
    bool have[3] = {false};
    *bad = "its header is no dictionary of descr, fortran_order and shape";
    if (!sign(&s, '{')) {
        return false;
    }
    while (!sign(&s, '}')) {
        const char *key, *text;
        size_t n, m;
        if (!quoted(&s, &key, &n) || !sign(&s, ':')) {
            return false;
        }
        bool ok = false;
        int which = n == 5 && memcmp(key, "descr", n) == 0            ? 0
                    : n == 13 && memcmp(key, "fortran_order", n) == 0 ? 1
                    : n == 5 && memcmp(key, "shape", n) == 0          ? 2
                                                                      : -1;
        if (which < 0 || have[which]) {
            return false;
        }
        have[which] = true;
        if (which == 0) {
            ok = quoted(&s, &text, &m);
            if (!ok || !dtype(text, m, h)) {
                *bad = "its elements are not little-endian floats or integers";
                snprintf(found, n_found, "%.*s", ok && m < 32 ? (int)m : 0, text);
                return false;
            }
        } else {
            ok = which == 1 ? truth(&s, &h->fortran) : shape(&s, h);
        }
        if (!ok || (!sign(&s, ',') && (s.p >= s.end || *s.p != '}'))) {
            return false;
        }
    }
    blanks(&s);
    return have[0] && have[1] && have[2] && s.p == s.end;
}

/* ---- the elements --------------------------------------------------------------------------------------- */

static double half(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    union { uint64_t bits; double v; } u;
    if (exponent == 31) {
        u.bits = UINT64_C(0x7ff) << 52 | (uint64_t)fraction << 42;
    } else if (exponent) {
        u.bits = (uint64_t)(exponent - 15 + 1023) << 52 | (uint64_t)fraction << 42;
    } else {
        u.v = fraction / 16777216.0; /* 2^-24 */
    }
    u.bits |= (uint64_t)(h >> 15) << 63;
    return u.v;
}

static uint64_t bits_at(const unsigned char *p, int size) {
    uint64_t v = 0;
    for (int i = 0; i < size; i++) {
        v |= (uint64_t)p[i] << 8 * i;
    }
    return v;
}

static double element(const Header *h, const unsigned char *p) {
    uint64_t v = bits_at(p, h->size);
    union { uint64_t bits; double v; } wide = {v};
    union { uint32_t bits; float v; } narrow = {(uint32_t)v};
    switch (h->kind) {
    case 'f':
        return h->size == 8 ? wide.v : h->size == 4 ? (double)narrow.v : half((uint16_t)v);
    case 'i': /* the sign bit moves up to bit 63 and back */
        return (double)((int64_t)(v << (64 - 8 * h->size)) >> (64 - 8 * h->size));
    case 'b':
        return v != 0;
    default:
        return (double)v;
    }
}

static void fill(const Header *h, const unsigned char *p, double *out) {
    int64_t at[8] = {0}, stride[8], step = 1; /* stride: of the file, in elements */
    for (int d = 0; d < h->rank && h->count; d++) { /* of an empty array the other dims may be any */
        int k = h->fortran ? d : h->rank - 1 - d;
        stride[k] = step;
        step *= h->dim[k];
    }
    for (int64_t i = 0, from = 0; i < h->count; i++) {
        out[i] = element(h, p + from * h->size);
        for (int d = h->rank - 1; d >= 0; d--) {
            from += stride[d];
            if (++at[d] < h->dim[d]) {
                break;
            }
            from -= stride[d] * h->dim[d];
            at[d] = 0;
        }
    }
}

/* ---- one .npy ------------------------------------------------------------------------------------------- */

static bool refuse(KdTrouble *t, const char *path, const char *entry, const char *what) {
    return kd_trouble(t, false, "%s: array %.100s: %s", path, entry, what);
}

static bool parse(const char *path, const char *entry, const unsigned char *p, size_t n, KdArray *x, KdTrouble *t) {
    Header h = {0};
    char text[160], found[40] = "";
    const char *bad;
    if (n < 10 || memcmp(p, "\x93NUMPY", 6) != 0) {
        return refuse(t, path, entry, "it is no .npy file");
    }
    if (p[6] < 1 || p[6] > 3 || p[7] != 0) {
        snprintf(text, sizeof text, "version %d.%d of .npy is not known (1.0, 2.0 and 3.0 are)", p[6], p[7]);
        return refuse(t, path, entry, text);
    }
    size_t start = p[6] == 1 ? 10 : 12, length = n < start ? 0 : (size_t)bits_at(p + 8, p[6] == 1 ? 2 : 4);
    if (n < start || length > n - start) {
        return refuse(t, path, entry, "it is cut off in its header");
    }
    const char *header = (const char *)p + start;
    if (!dict((Parser){header, header + length}, &h, &bad, found, sizeof found)) {
        snprintf(text, sizeof text, "%s%s%s", bad, *found ? ", but " : "", found);
        return refuse(t, path, entry, text);
    }
    int64_t bytes = h.size;
    bool none = false, large = false;
    for (int d = 0; d < h.rank; d++) {
        none = none || h.dim[d] == 0;
    }
    for (int d = 0; d < h.rank && !none; d++) {
        large = large || __builtin_mul_overflow(bytes, h.dim[d], &bytes);
    }
    bytes = none ? 0 : bytes;
    if (large || (uint64_t)bytes != n - start - length) {
        snprintf(text, sizeof text, "it holds %zu bytes of elements, its shape needs %s%" PRId64, n - start - length,
                 large ? "more than " : "", large ? INT64_MAX : bytes);
        return refuse(t, path, entry, text);
    }
    h.count = bytes / h.size;
    *x = (KdArray){.rank = h.rank, .count = h.count, .data = malloc((size_t)h.count * sizeof(double) + 1)};
    memcpy(x->dim, h.dim, sizeof h.dim);
    if (!x->data) {
        return kd_trouble(t, true, "out of memory for array %s of %s", entry, path);
    }
    fill(&h, p + start + length, x->data);
    return true;
}

/* ---- the archive ---------------------------------------------------------------------------------------- */

/* "mu.npy" -> "mu"; NULL: no such ending, or no memory */
static char *array_name(const char *entry) {
    size_t n = strlen(entry);
    if (n < 5 || strcmp(entry + n - 4, ".npy") != 0) {
        return NULL;
    }
    char *name = malloc(n - 3);
    if (name) {
        memcpy(name, entry, n - 4);
        name[n - 4] = '\0';
    }
    return name;
}

static bool read_entry(const char *path, zip_t *z, zip_uint64_t i, KdArray *x, KdTrouble *t) {
    zip_stat_t st;
    if (zip_stat_index(z, i, 0, &st) != 0 || !(st.valid & ZIP_STAT_SIZE) || !(st.valid & ZIP_STAT_NAME)) {
        return kd_trouble(t, false, "%s: entry %d of the archive cannot be read", path, (int)i);
    }
    if (st.size > (zip_uint64_t)most_bytes) {
        return refuse(t, path, st.name, "it is larger than 2 GB");
    }
    char *name = array_name(st.name);
    unsigned char *p = name ? malloc((size_t)st.size + 1) : NULL;
    zip_file_t *f = p ? zip_fopen_index(z, i, 0) : NULL;
    /* A second call, which must find the end: only there does libzip look at the CRC. */
    char more;
    bool ok = f && zip_fread(f, p, st.size) == (zip_int64_t)st.size && zip_fread(f, &more, 1) == 0;
    if (!name) {
        kd_trouble(t, false, "%s: entry %.100s is no array: its name does not end in .npy", path, st.name);
    } else if (!p) {
        kd_trouble(t, true, "out of memory for array %s of %s", name, path);
    } else if (!ok) {
        refuse(t, path, st.name, "the archive is damaged there");
    }
    if (f) {
        zip_fclose(f);
    }
    ok = ok && parse(path, st.name, p, (size_t)st.size, x, t);
    x->name = ok ? name : NULL;
    free(ok ? NULL : name);
    free(p);
    return ok;
}

static bool read_all(const char *path, zip_t *z, KdArrays *out, KdTrouble *t) {
    zip_int64_t n = zip_get_num_entries(z, 0);
    if (n < 1 || n > 65536) {
        return kd_trouble(t, false, "%s: %s", path, n < 1 ? "the archive is empty" : "the archive has more than 65536 entries");
    }
    out->array = calloc((size_t)n, sizeof *out->array);
    if (!out->array) {
        return kd_trouble(t, true, "out of memory for %s", path);
    }
    for (; out->n < n; out->n++) {
        KdArray *x = &out->array[out->n];
        if (!read_entry(path, z, (zip_uint64_t)out->n, x, t)) {
            free(x->data);
            return false;
        }
        if (kd_npz_find(out, x->name)) {
            refuse(t, path, x->name, "it is there twice");
            out->n++;
            return false;
        }
    }
    return true;
}

bool kd_npz_read(const char *path, KdArrays *out, KdTrouble *t) {
    *out = (KdArrays){0};
    size_t n;
    char *data = kd_file_read(path, &n, t);
    if (!data) {
        return false;
    }
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(data, n, 0, &error);
    zip_t *z = source ? zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error) : NULL;
    bool ok = z != NULL;
    if (!z) {
        kd_trouble(t, zip_error_code_zip(&error) == ZIP_ER_MEMORY, "%s: expected an .npz archive: %s", path,
                   zip_error_strerror(&error));
        if (source) {
            zip_source_free(source);
        }
    } else {
        ok = read_all(path, z, out, t);
        zip_discard(z);
    }
    zip_error_fini(&error);
    free(data);
    if (!ok) {
        kd_npz_free(out);
    }
    return ok;
}

void kd_npz_free(KdArrays *a) {
    for (int i = 0; i < a->n; i++) {
        free((char *)a->array[i].name);
        free(a->array[i].data);
    }
    free(a->array);
    *a = (KdArrays){0};
}

const KdArray *kd_npz_find(const KdArrays *a, const char *name) {
    for (int i = 0; i < a->n; i++) {
        if (strcmp(a->array[i].name, name) == 0) {
            return &a->array[i];
        }
    }
    return NULL;
}

/* ---- writing -------------------------------------------------------------------------------------------- */

/* Version 1.0, float64, C order; malloc'ed. NULL after *t. */
static unsigned char *npy_of(const char *path, const KdArray *x, size_t *n, KdTrouble *t) {
    char text[320] = "{'descr': '<f8', 'fortran_order': False, 'shape': (";
    size_t at = strlen(text);
    for (int d = 0; d < x->rank; d++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "%" PRId64 "%s", x->dim[d],
                               x->rank == 1 ? "," : d + 1 < x->rank ? ", " : "");
    }
    at += (size_t)snprintf(text + at, sizeof text - at, "), }");
    size_t header = (10 + at + 1 + 63) / 64 * 64; /* with the newline that ends it */
    *n = header + (size_t)x->count * 8;
    unsigned char *p = malloc(*n);
    if (!p) {
        kd_trouble(t, true, "out of memory for array %s of %s", x->name, path);
        return NULL;
    }
    memcpy(p, "\x93NUMPY\x01\0", 8);
    p[8] = (unsigned char)(header - 10);
    p[9] = (unsigned char)((header - 10) >> 8);
    memcpy(p + 10, text, at);
    memset(p + 10 + at, ' ', header - 10 - at);
    p[header - 1] = '\n';
    for (int64_t i = 0; i < x->count; i++) {
        union { double v; uint64_t bits; } u = {x->data[i]};
        for (int b = 0; b < 8; b++) {
            p[header + (size_t)i * 8 + (size_t)b] = (unsigned char)(u.bits >> 8 * b);
        }
    }
    return p;
}

/* Stored, and dated 1980: equal arrays make equal files. */
static bool add_array(const char *path, zip_t *z, const KdArray *x, KdTrouble *t) {
    char name[256];
    size_t n;
    if (snprintf(name, sizeof name, "%s.npy", x->name) >= (int)sizeof name) {
        return kd_trouble(t, false, "%s: the array name %.40s... is too long", path, x->name);
    }
    unsigned char *p = npy_of(path, x, &n, t);
    if (!p) {
        return false;
    }
    zip_source_t *s = zip_source_buffer(z, p, n, 1); /* frees p */
    if (!s) {
        free(p);
        return kd_trouble(t, true, "out of memory for %s", path);
    }
    zip_int64_t i = zip_file_add(z, name, s, ZIP_FL_ENC_UTF_8);
    if (i < 0) {
        zip_source_free(s);
        return kd_trouble(t, false, "%s: array %.100s: %s", path, x->name, zip_strerror(z));
    }
    return (zip_set_file_compression(z, (zip_uint64_t)i, ZIP_CM_STORE, 0) == 0 &&
            zip_file_set_dostime(z, (zip_uint64_t)i, 0, 1 << 5 | 1, 0) == 0) ||
           kd_trouble(t, true, "%s: %s", path, zip_strerror(z));
}

/* The finished archive, from memory to the file. */
static bool put(const char *path, zip_source_t *s, KdTrouble *t) {
    zip_stat_t st;
    if (zip_source_stat(s, &st) != 0 || !(st.valid & ZIP_STAT_SIZE) || zip_source_open(s) != 0) {
        return kd_trouble(t, true, "%s: %s", path, zip_error_strerror(zip_source_error(s)));
    }
    char *p = malloc((size_t)st.size + 1);
    bool ok = p && zip_source_read(s, p, st.size) == (zip_int64_t)st.size;
    zip_source_close(s);
    ok = ok ? kd_file_write(path, p, (size_t)st.size, t) : kd_trouble(t, true, "out of memory for %s", path);
    free(p);
    return ok;
}

bool kd_npz_write(const char *path, const KdArray *x, int n, KdTrouble *t) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *s = zip_source_buffer_create(NULL, 0, 0, &error);
    zip_t *z = s ? zip_open_from_source(s, ZIP_CREATE | ZIP_TRUNCATE, &error) : NULL;
    if (!z) {
        kd_trouble(t, true, "%s: %s", path, zip_error_strerror(&error));
        if (s) {
            zip_source_free(s);
        }
        zip_error_fini(&error);
        return false;
    }
    zip_error_fini(&error);
    zip_source_keep(s);
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        ok = add_array(path, z, &x[i], t);
    }
    if (ok && zip_close(z) != 0) {
        ok = kd_trouble(t, true, "%s: %s", path, zip_strerror(z));
        zip_discard(z);
    } else if (!ok) {
        zip_discard(z);
    }
    ok = ok && put(path, s, t);
    zip_source_free(s);
    return ok;
}
