/* test_npz.c: .npz archives: what numpy wrote reads (tests/golden/make_metrics.py), what is written reads back and has not
 * changed, damaged and unusual files are refused with a sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/npz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char folder[] = "/tmp/kdc-npz-XXXXXX";

static int set_up(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/x.npz", folder);
    unlink(path);
    return rmdir(folder);
}

static const char *here(const char *name, char *path, size_t n) {
    snprintf(path, n, "%s/%s", folder, name);
    return path;
}

static const char *fixture(const char *name, char *path, size_t n) {
    snprintf(path, n, "%s/tests/golden/metrics/%s", KDC_SOURCE_DIR, name);
    return path;
}

/* ---- what numpy wrote -------------------------------------------------------------------------------- */

/* arange(24) * 5 % 100 as [2, 3, 4]; odd: 1 where that is odd. */
static void is_base(const KdArrays *all, const char *name, bool odd) {
    const KdArray *x = kd_npz_find(all, name);
    if (!x) {
        fail_msg("no array %s", name);
    }
    assert_true(x->rank == 3 && x->dim[0] == 2 && x->dim[1] == 3 && x->dim[2] == 4 && x->count == 24);
    for (int i = 0; i < 24; i++) {
        double want = odd ? i * 5 % 100 % 2 : i * 5 % 100;
        if (x->data[i] != want) {
            fail_msg("%s[%d] is %g, expected %g", name, i, x->data[i], want);
        }
    }
}

static void numpy_reads(void **state) {
    (void)state;
    static const char *const files[] = {"stored.npz", "deflated.npz"};
    static const char *const dtypes[] = {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "fortran"};
    for (size_t f = 0; f < COUNT(files); f++) {
        char path[512];
        KdArrays all;
        KdTrouble t;
        if (!kd_npz_read(fixture(files[f], path, sizeof path), &all, &t)) {
            fail_msg("%s", t.text);
        }
        assert_int_equal(all.n, 17);
        for (size_t i = 0; i < COUNT(dtypes); i++) {
            is_base(&all, dtypes[i], false);
        }
        is_base(&all, "b1", true);
        const KdArray *scalar = kd_npz_find(&all, "scalar"), *empty = kd_npz_find(&all, "empty");
        const KdArray *special = kd_npz_find(&all, "special"), *half = kd_npz_find(&all, "half");
        assert_true(scalar && scalar->rank == 0 && scalar->count == 1 && scalar->data[0] == -2.5);
        assert_true(empty && empty->rank == 2 && empty->count == 0 && empty->dim[1] == 3);
        assert_true(special && isinf(special->data[0]) && special->data[1] < 0 && isnan(special->data[2]));
        assert_true(signbit(special->data[4]) && special->data[5] == 1e308);
        static const double halves[] = {1, -2.5, 1.0 / (1 << 24), 65504, INFINITY, 0.0999755859375};
        for (int i = 0; i < 6; i++) {
            assert_true(half && half->data[i] == halves[i]);
        }
        assert_null(kd_npz_find(&all, "f16"));
        kd_npz_free(&all);
    }
}

static void header_versions(void **state) {
    (void)state;
    char path[512];
    KdArrays all;
    KdTrouble t;
    if (!kd_npz_read(fixture("versions.npz", path, sizeof path), &all, &t)) {
        fail_msg("%s", t.text);
    }
    is_base(&all, "v1", false);
    is_base(&all, "v2", false);
    is_base(&all, "v3", false);
    kd_npz_free(&all);
}

static void other_elements_are_refused(void **state) {
    (void)state;
    static const struct { const char *file, *says; } rows[] = {
        {"big_endian.npz", "x.npy: its elements are not little-endian floats or integers, but >f8"},
        {"complex.npz", "but <c16"},
        {"text.npz", "but <U1"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[512];
        KdArrays all;
        KdTrouble t;
        assert_false(kd_npz_read(fixture(rows[i].file, path, sizeof path), &all, &t));
        assert_false(t.machine);
        if (!strstr(t.text, rows[i].says) || !strstr(t.text, rows[i].file)) {
            fail_msg("expected '%s' in '%s'", rows[i].says, t.text);
        }
    }
}

/* ---- written and read back ---------------------------------------------------------------------------- */

static void written_reads_back(void **state) {
    (void)state;
    char path[512];
    KdArrays all;
    KdTrouble t;
    size_t n1, n2;
    double mu[5] = {1, -2, 1e-300, INFINITY, 0.1}, sigma[6] = {1, 2, 3, 4, 5, 6}, one = 7;
    const KdArray x[] = {{"mu", 1, {5}, 5, mu}, {"sigma", 2, {3, 2}, 6, sigma}, {"one", 0, {0}, 1, &one},
                         {"none", 3, {2, 0, 4}, 0, NULL}};
    here("x.npz", path, sizeof path);
    assert_true(kd_npz_write(path, x, 4, &t));
    char *first = kd_file_read(path, &n1, &t);
    assert_true(kd_npz_write(path, x, 4, &t));
    char *second = kd_file_read(path, &n2, &t);
    assert_true(first && second && n1 == n2 && memcmp(first, second, n1) == 0); /* no time of day in it */
    free(first);
    free(second);
    assert_true(kd_npz_read(path, &all, &t));
    assert_int_equal(all.n, 4);
    for (int i = 0; i < 4; i++) {
        const KdArray *y = kd_npz_find(&all, x[i].name);
        assert_true(y && y->rank == x[i].rank && y->count == x[i].count);
        assert_memory_equal(y->dim, x[i].dim, sizeof(int64_t) * (size_t)x[i].rank);
        assert_true(x[i].count == 0 || memcmp(y->data, x[i].data, sizeof(double) * (size_t)x[i].count) == 0);
    }
    kd_npz_free(&all);
}

/* ---- hostile ------------------------------------------------------------------------------------------ */

/* An archive of one entry. */
static void archive(const char *path, const char *entry, const void *data, size_t n) {
    int error;
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &error);
    assert_non_null(z);
    zip_source_t *s = zip_source_buffer(z, data, n, 0);
    assert_true(zip_file_add(z, entry, s, 0) >= 0);
    zip_set_file_compression(z, 0, ZIP_CM_STORE, 0);
    assert_int_equal(zip_close(z), 0);
}

typedef struct Hostile {
    const char *header; /* of a .npy of version 1.0 */
    size_t data;
    const char *says;
} Hostile;

static const Hostile hostile[] = {
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 16, NULL}, /* fine */
    {"{\"shape\": (2,), \"fortran_order\": False, \"descr\": \"<f8\",  } \n", 16, NULL},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 15, "holds 15 bytes of elements, its shape needs 16"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 24, "holds 24 bytes"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2)}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (-2,)}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2)}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 16, "needs more than"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 536870912)}", 16, "needs more than"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}", 0, NULL},
    {"{'descr': '<f8', 'fortran_order': 0, 'shape': (2,)}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False}", 16, "no dictionary"},
    {"{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'x': 1}", 16, "no dictionary"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)} x", 16, "no dictionary"},
    {"{'descr': '<f8\\', 'fortran_order': False, 'shape': (2,)}", 16, "little-endian"},
    {"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,)}", 16, "little-endian"},
    {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 16, "but |O"},
    {"{'descr': '<f8", 0, "little-endian"},
    {"{", 0, "no dictionary"},
    {"", 0, "no dictionary"},
};

static void hostile_headers(void **state) {
    (void)state;
    char path[512];
    here("x.npz", path, sizeof path);
    for (size_t i = 0; i < COUNT(hostile); i++) {
        unsigned char npy[512] = "\x93NUMPY\x01";
        size_t n = strlen(hostile[i].header);
        KdArrays all;
        KdTrouble t;
        npy[8] = (unsigned char)n;
        memcpy(npy + 10, hostile[i].header, n);
        archive(path, "a.npy", npy, 10 + n + hostile[i].data);
        bool ok = kd_npz_read(path, &all, &t);
        if (ok != !hostile[i].says || (!ok && !strstr(t.text, hostile[i].says))) {
            fail_msg("%s: %s", hostile[i].header, ok ? "was read" : t.text);
        }
        if (ok) {
            kd_npz_free(&all);
        }
    }
}

static void refuses(const char *path, const char *says) {
    KdArrays all;
    KdTrouble t = {0};
    assert_false(kd_npz_read(path, &all, &t));
    assert_true(all.n == 0 && all.array == NULL);
    if (!strstr(t.text, says)) {
        fail_msg("expected '%s' in '%s'", says, t.text);
    }
}

/* Without kd_file_write's care, which is slow a thousand times over. */
static void dump(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void no_archives(void **state) {
    (void)state;
    char path[512], other[512];
    KdTrouble t;
    here("x.npz", path, sizeof path);
    refuses("/nowhere/x.npz", "No such file");
    archive(path, "a.txt", "text", 4);
    refuses(path, "does not end in .npy");
    archive(path, "a.npy", "text", 4);
    refuses(path, "no .npy file");
    archive(path, "a.npy", "\x93NUMPY\x04\x00\x00\x00", 10);
    refuses(path, "version 4.0");
    archive(path, "a.npy", "\x93NUMPY\x01\x00\x40\x00{", 11);
    refuses(path, "cut off in its header");
    archive(path, "a.npy", "\x93NUMPY\x02\x00\xff\xff", 10);
    refuses(path, "cut off in its header");
    dump(path, "PK", 2);
    refuses(path, "expected an .npz archive");
    dump(path, "", 0);
    refuses(path, "x.npz");
    /* a byte of an element turned over: the sum of the entry does not fit */
    size_t n;
    char *data = kd_file_read(fixture("stats.npz", other, sizeof other), &n, &t);
    assert_non_null(data);
    data[190] ^= 1;
    dump(path, data, n);
    refuses(path, "damaged");
    for (size_t cut = 1; cut < n; cut += 37) {
        KdArrays all;
        dump(path, data, n - cut);
        assert_false(kd_npz_read(path, &all, &t));
    }
    free(data);
}

/* Every byte of an archive changed in turn: read or refused, nothing worse. */
static void changed_bytes(void **state) {
    (void)state;
    char path[512], other[512];
    KdTrouble t;
    size_t n;
    char *data = kd_file_read(fixture("versions.npz", other, sizeof other), &n, &t);
    assert_non_null(data);
    here("x.npz", path, sizeof path);
    for (size_t i = 0; i < n; i++) {
        KdArrays all;
        data[i] ^= (char)(1 << i % 8);
        dump(path, data, n);
        if (kd_npz_read(path, &all, &t)) {
            kd_npz_free(&all);
        }
        data[i] ^= (char)(1 << i % 8);
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numpy_reads),        cmocka_unit_test(header_versions),
        cmocka_unit_test(other_elements_are_refused), cmocka_unit_test(written_reads_back),
        cmocka_unit_test(hostile_headers),    cmocka_unit_test(no_archives),
        cmocka_unit_test(changed_bytes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
