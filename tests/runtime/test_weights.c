/* test_weights.c: safetensors: hostile files are refused with a sentence, unusual valid ones load, what is written
 * reads back, and writing is all or nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/weights.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Header text and `data` zero bytes as one file; header_length < 0: the true one. */
static unsigned char *file_of(const char *header, long long header_length, size_t data, size_t *n) {
    size_t text = strlen(header);
    uint64_t length = header_length < 0 ? text : (uint64_t)header_length;
    unsigned char *p = calloc(1, 8 + text + data + 1);
    assert_non_null(p);
    for (int i = 0; i < 8; i++) {
        p[i] = (unsigned char)(length >> 8 * i);
    }
    memcpy(p + 8, header, text);
    *n = 8 + text + data;
    return p;
}

typedef struct Hostile {
    const char *header;
    size_t data;
    const char *says;
    long long length; /* 0: the true one */
} Hostile;

static const Hostile hostile[] = {
    {"", 0, "not a JSON object", 0},
    {"[]", 0, "not a JSON object", 0},
    {" {}", 0, "not a JSON object", 0},
    {"{", 0, "JSON", 0},
    {"{}x", 0, "JSON", 0},
    {"{\"a\":1}", 0, "expected exactly dtype, shape and data_offsets", 0},
    {"{}", 4, "4 bytes after the last tensor belong to nothing", 0},
    {"{}", 0, "cut off", 3},
    {"{}", 0, "cut off", 100},
    {"{}", 0, "cut off", INT64_MAX},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "duplicate", 0},
    {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "element type F31", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":0}}", 4, "expected exactly", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 0, "expected exactly", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "shape is not a list", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "dimension 0", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "dimension 0", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4, "dimension 0", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "too many", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,0]}}", 0, "too many", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0, "JSON", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, "1 elements of F32 need 4 bytes, it has 8", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "need 8 bytes, it has 4", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, "not inside the 3 bytes", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "not inside", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "not inside", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets is not two numbers", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, "data_offsets is not two numbers", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "a has a hole before it", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12, "b has a hole before it", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "b overlaps another", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "b overlaps another", 0},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ entry k is not a string", 0},
    {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object", 0},
    {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "JSON", 0},
    {"{\"\xff\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, "JSON", 0},
};

static void test_hostile(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(hostile); i++) {
        const Hostile *h = &hostile[i];
        KdTrouble t = {0};
        size_t n;
        unsigned char *p = file_of(h->header, h->length ? h->length : -1, h->data, &n);
        KdWeights *w = kd_weights_parse("bad.safetensors", p, n, &t);
        if (w || !strstr(t.text, h->says) || !strstr(t.text, "bad.safetensors") || t.machine) {
            fail_msg("row %zu: expected \"%s\", got \"%s\"", i, h->says, w ? "a file" : t.text);
        }
        free(p);
    }
}

/* Every beginning of a valid file, and deep nesting. */
static void test_truncated_and_deep(void **state) {
    (void)state;
    KdTrouble t;
    size_t n;
    unsigned char *p = file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", -1, 8, &n);
    for (size_t k = 0; k < n; k++) {
        unsigned char *q = malloc(k + 1); /* its own block: a sanitizer sees reads beyond */
        memcpy(q, p, k);
        assert_null(kd_weights_parse("f", q, k, &t));
        free(q);
    }
    KdWeights *w = kd_weights_parse("f", p, n, &t);
    assert_non_null(w);
    kd_weights_free(w);
    free(p);
    size_t deep = 100000;
    char *text = malloc(2 * deep + 1);
    memset(text, '[', deep);
    memset(text + deep, ']', deep);
    text[0] = '{';
    text[2 * deep] = '\0';
    p = file_of(text, -1, 0, &n);
    assert_null(kd_weights_parse("f", p, n, &t));
    free(p);
    free(text);
}

/* A valid file with bytes changed at random: refused, or read within its bounds (a sanitizer sees the rest). */
static void test_mutated(void **state) {
    (void)state;
    KdTrouble t;
    size_t n;
    unsigned char *p = file_of("{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                               "\"b\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[24,32]}}", -1, 32, &n);
    uint32_t seed = 1;
    int readable = 0;
    for (int i = 0; i < 20000; i++) {
        unsigned char *q = malloc(n);
        memcpy(q, p, n);
        for (int k = 0; k <= i % 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            static const char likely[] = "0123456789[]{},:\"-eF";
            q[(seed >> 8) % (n - 32)] = i % 2 ? (unsigned char)likely[(seed >> 24) % (sizeof likely - 1)] : (unsigned char)(seed >> 16);
        }
        KdWeights *w = kd_weights_parse("f", q, n, &t);
        for (int k = 0; w && k < w->n; k++) {
            float *v = malloc(sizeof *v * (size_t)(w->tensor[k].count + 1));
            kd_tensor_f32(&w->tensor[k], v, &t);
            free(v);
        }
        readable += w != NULL;
        kd_weights_free(w);
        free(q);
    }
    assert_in_range(readable, 100, 19000);
    free(p);
}

/* One tensor of each dtype, with the bytes of its elements and what they are. */
typedef struct Converted {
    const char *dtype, *shape;
    const char *bytes;
    size_t size;
    int count;
    float want[4];
} Converted;

static const Converted converted[] = {
    {"F16", "[4]", "\x00\x3c\x00\xc0\x01\x00\x00\x7c", 8, 4, {1, -2, 5.9604645e-8f, INFINITY}},
    {"BF16", "[2]", "\x80\x3f\x49\xc0", 4, 2, {1, -3.140625f}},
    {"F64", "[2]", "\0\0\0\0\0\0\xf8\x3f\0\0\0\0\0\0\x10\xc0", 16, 2, {1.5f, -4}},
    {"I64", "[1]", "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 1, {-1}},
    {"U64", "[1]", "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 1, {1.8446744073709552e19f}},
    {"I32", "[2]", "\x05\0\0\0\xfe\xff\xff\xff", 8, 2, {5, -2}},
    {"U32", "[1]", "\xff\xff\xff\xff", 4, 1, {4294967296.0f}},
    {"I16", "[1,1]", "\xff\xff", 2, 1, {-1}},
    {"U16", "[1]", "\xff\xff", 2, 1, {65535}},
    {"I8", "[2]", "\x7f\x80", 2, 2, {127, -128}},
    {"U8", "[2]", "\x7f\xff", 2, 2, {127, 255}},
    {"BOOL", "[2]", "\x00\x01", 2, 2, {0, 1}},
    {"F32", "[]", "\0\0\x80\x3f", 4, 1, {1}},
    {"F32", "[3,0]", "", 0, 0, {0}},
};

static void test_dtypes(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(converted); i++) {
        const Converted *c = &converted[i];
        char header[200];
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]}}  ",
                 c->dtype, c->shape, c->size);
        size_t n;
        KdTrouble t = {0};
        unsigned char *p = file_of(header, -1, c->size, &n);
        memcpy(p + n - c->size, c->bytes, c->size);
        KdWeights *w = kd_weights_parse("f", p, n, &t);
        if (!w) {
            fail_msg("%s: %s", c->dtype, t.text);
        }
        const KdTensor *x = kd_weights_find(w, "a");
        assert_non_null(x);
        assert_int_equal(x->count, c->count);
        float got[4] = {0};
        assert_true(kd_tensor_f32(x, got, &t));
        for (int k = 0; k < c->count; k++) {
            assert_true(got[k] == c->want[k]);
        }
        kd_weights_free(w);
        free(p);
    }
}

static const KdTensor *one(KdWeights **w, unsigned char **p, const char *dtype, const void *bytes, size_t size) {
    char header[200];
    size_t n;
    KdTrouble t;
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[0,%zu]}}", dtype, size);
    *p = file_of(header, -1, size, &n);
    memcpy(*p + n - size, bytes, size);
    *w = kd_weights_parse("f", *p, n, &t);
    assert_non_null(*w);
    return kd_weights_find(*w, "a");
}

static void test_integers(void **state) {
    (void)state;
    KdWeights *w;
    unsigned char *p;
    KdTrouble t = {0};
    int32_t v;
    uint8_t u;
    int64_t big = INT64_C(1) << 40, ten = 10;
    float half = 2.5f, whole = 7, nan = NAN, negative = -1;
    const struct { const char *dtype; const void *bytes; size_t size; bool i32, u8; int32_t want; } rows[] = {
        {"I64", &big, 8, false, false, 0}, {"I64", &ten, 8, true, true, 10},
        {"F32", &half, 4, false, false, 0}, {"F32", &whole, 4, true, true, 7},
        {"F32", &nan, 4, false, false, 0}, {"F32", &negative, 4, true, false, -1},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        const KdTensor *x = one(&w, &p, rows[i].dtype, rows[i].bytes, rows[i].size);
        assert_int_equal(kd_tensor_i32(x, &v, &t), rows[i].i32);
        if (rows[i].i32) {
            assert_int_equal(v, rows[i].want);
        } else {
            assert_non_null(strstr(t.text, "tensor a: element 0 is"));
        }
        assert_int_equal(kd_tensor_u8(x, &u, &t), rows[i].u8);
        kd_weights_free(w);
        free(p);
    }
}

/* ---- writing -------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/kdc-test-weights-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static const char *in_folder(const char *name) {
    static char path[8][300]; /* as many as a test holds at once */
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, 300, "%s/%s", folder, name);
    return p;
}

static int count_files(void) {
    DIR *d = opendir(folder);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    }
    closedir(d);
    return n;
}

static int remove_folder(void **state) {
    (void)state;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        remove(in_folder(e->d_name));
    }
    if (d) {
        closedir(d);
    }
    return rmdir(folder);
}

static void test_round_trip(void **state) {
    (void)state;
    static const int64_t shape[3] = {2, 1, 3}, empty[2] = {0, 5};
    static const float x[6] = {1, -2, 3.5f, 1e-40f, 5, -0.0f};
    static const int32_t y[1] = {-7};
    static const uint8_t z[6] = {0, 1, 2, 253, 254, 255};
    const KdTensorOut out[] = {
        {"bytes \"quoted\"\n../$(x)", KD_STORED_U8, 3, shape, z},
        {"down[0].conv.weight", KD_STORED_F32, 3, shape, x},
        {"n\xc3\xbc", KD_STORED_I32, 0, NULL, y},
        {"none", KD_STORED_F32, 2, empty, NULL},
    };
    static const char *const meta[] = {"format", "kdc", "step", "7"};
    const char *path = in_folder("a.safetensors");
    KdTrouble t = {0};
    for (int again = 0; again < 2; again++) { /* over nothing, then over itself */
        assert_true(kd_weights_write(path, out, 4, meta, 2, &t));
        KdWeights *w = kd_weights_read(path, &t);
        if (!w) {
            fail_msg("%s", t.text);
        }
        assert_int_equal(w->n, 4);
        assert_int_equal(w->n_meta, 2);
        assert_string_equal(w->meta[2], "step");
        assert_string_equal(w->meta[3], "7");
        const KdTensor *b = kd_weights_find(w, out[0].name), *f = kd_weights_find(w, "down[0].conv.weight");
        const KdTensor *i = kd_weights_find(w, "n\xc3\xbc"), *e = kd_weights_find(w, "none");
        assert_true(b && f && i && e);
        float got[6];
        int32_t got_i;
        uint8_t got_b[6];
        assert_int_equal(f->rank, 3);
        assert_memory_equal(f->dim, shape, sizeof shape);
        assert_true(kd_tensor_f32(f, got, &t));
        assert_memory_equal(got, x, sizeof x);
        assert_true(kd_tensor_i32(i, &got_i, &t));
        assert_int_equal(got_i, -7);
        assert_int_equal(i->rank, 0);
        assert_true(kd_tensor_u8(b, got_b, &t));
        assert_memory_equal(got_b, z, sizeof z);
        assert_int_equal(e->count, 0);
        kd_weights_free(w);
        assert_int_equal(count_files(), 1); /* no temporary file is left */
    }
    struct stat st;
    assert_int_equal(chmod(path, 0600), 0);
    assert_true(kd_weights_write(path, out, 1, NULL, 0, &t));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    remove(path);
}

static void test_write_refuses(void **state) {
    (void)state;
    static const float x[1] = {1};
    const KdTensorOut twice[] = {{"a", KD_STORED_F32, 0, NULL, x}, {"a", KD_STORED_F32, 0, NULL, x}};
    const KdTensorOut bad[] = {{"\xff", KD_STORED_F32, 0, NULL, x}};
    KdTrouble t = {0};
    assert_false(kd_weights_write(in_folder("b"), twice, 2, NULL, 0, &t));
    assert_false(kd_weights_write(in_folder("b"), bad, 1, NULL, 0, &t));
    assert_false(kd_weights_write(in_folder("no/such/folder"), twice, 1, NULL, 0, &t));
    assert_false(t.machine);
    assert_non_null(strstr(t.text, "no/such/folder"));
    assert_false(kd_weights_write(folder, twice, 1, NULL, 0, &t)); /* a folder */
    assert_null(kd_weights_read(in_folder("absent"), &t));
    assert_false(t.machine);
    assert_int_equal(count_files(), 0);
}

/* A disk that is full: the old file stays, no temporary file does. */
static void test_full_disk(void **state) {
    (void)state;
    KdTrouble t = {0};
    if (access("/dev/full", W_OK) != 0) {
        skip();
    }
    assert_false(kd_file_write("/dev/full", "x", 1, &t));
    assert_true(t.machine);
    assert_non_null(strstr(t.text, "/dev/full"));
    struct stat st;
    assert_int_equal(stat("/dev/full", &st), 0);
    assert_true(S_ISCHR(st.st_mode)); /* written in place, not replaced */
}

static void test_abandon_and_links(void **state) {
    (void)state;
    KdTrouble t = {0};
    const char *target = in_folder("target"), *link_name = in_folder("link");
    assert_true(kd_file_write(target, "old", 3, &t));
    assert_int_equal(symlink("target", link_name), 0);
    KdFileOut *f = kd_file_begin(target, &t);
    assert_non_null(f);
    kd_file_put(f, "half", 4);
    kd_file_abandon(f);
    assert_int_equal(count_files(), 2);
    assert_true(kd_file_write(link_name, "new", 3, &t));
    struct stat st;
    assert_int_equal(lstat(link_name, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    size_t n;
    char *text = kd_file_read(target, &n, &t);
    assert_string_equal(text, "new");
    assert_int_equal(n, 3);
    free(text);
    remove(target);
    remove(link_name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_truncated_and_deep),
        cmocka_unit_test(test_dtypes),    cmocka_unit_test(test_mutated),
           cmocka_unit_test(test_integers),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_write_refuses),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_abandon_and_links),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
