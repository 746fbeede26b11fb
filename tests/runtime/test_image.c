/* test_image.c: every PNG colour type, depth and interlacing, JPEG's kinds, against what Pillow decodes or the samples
 * the fixtures were made of (images/expected.txt, by images/make_images.py); hostile heads, every prefix, random
 * damage; writing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/image.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMAGES KDC_SOURCE_DIR "/tests/runtime/images/"

static const char *const small[] = {"gray1i.png", "palette4t.png", "rgb8.png", "rgba16i.png", "gray16.png", "ga8.png",
                                    "gray.jpg",   "420.jpg",       "progressive.jpg", "cmyk.jpg", "ycck.jpg"};
enum { N_SMALL = sizeof small / sizeof *small };

static uint64_t fnv(const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001b3u;
    }
    return h;
}

static size_t bytes(const KdImage *x) {
    return (size_t)x->width * (size_t)x->height * (size_t)x->channels * (x->bits == 16 ? 2 : 1);
}

static char *fixture(const char *name, size_t *n) {
    char path[512];
    KdTrouble t;
    snprintf(path, sizeof path, IMAGES "%s", name);
    char *data = kd_file_read(path, n, &t);
    assert_non_null(data);
    return data;
}

static KdImageWant want_of(const char *name) {
    return strcmp(name, "rgb") == 0 ? KD_IMAGE_RGB8 : strcmp(name, "gray") == 0 ? KD_IMAGE_GRAY8 : KD_IMAGE_INDEX;
}

static bool as_expected(const char *path, const char *name, const char *want, const char *rest) {
    KdImage x;
    KdTrouble t = {0};
    int w, h, channels, bits;
    uint64_t hash;
    bool ok = kd_image_read(path, want_of(want), &x, &t);
    if (strcmp(rest, " refused\n") == 0) {
        if (ok || x.samples || t.machine || !strstr(t.text, name)) {
            print_error("%s as %s: not refused as it must be: %s\n", name, want, t.text);
            kd_image_free(&x);
            return false;
        }
        return true;
    }
    assert_int_equal(sscanf(rest, "%d %d %d %d %" SCNx64, &w, &h, &channels, &bits, &hash), 5);
    bool same = ok && x.width == w && x.height == h && x.channels == channels && x.bits == bits &&
                fnv(x.samples, bytes(&x)) == hash;
    if (!same) {
        print_error("%s as %s: %s\n", name, want, ok ? "other samples" : t.text);
    }
    kd_image_free(&x);
    return same;
}

static void test_decode(void **unused) {
    (void)unused;
    FILE *f = fopen(IMAGES "expected.txt", "r");
    assert_non_null(f);
    char line[256], path[512], name[64], want[16];
    int lines = 0, wrong = 0, used;
    for (; fgets(line, sizeof line, f); lines++) {
        assert_int_equal(sscanf(line, "%63s %15s%n", name, want, &used), 2);
        snprintf(path, sizeof path, IMAGES "%s", name);
        wrong += !as_expected(path, name, want, line + used);
    }
    fclose(f);
    assert_true(lines > 130);
    assert_int_equal(wrong, 0);
}

static void refused(const char *name, KdImageWant want, const char *says) {
    char path[512];
    KdImage x;
    KdTrouble t = {0};
    snprintf(path, sizeof path, IMAGES "%s", name);
    assert_false(kd_image_read(path, want, &x, &t));
    if (!strstr(t.text, says)) {
        fail_msg("%s: \"%s\" does not say \"%s\"", name, t.text, says);
    }
}

static void test_sentences(void **unused) {
    (void)unused;
    refused("hostile_30000.png", KD_IMAGE_RGB8, "an image of 30000 x 30000; at most 268435456 pixels are read");
    refused("hostile_16384.png", KD_IMAGE_RGB8, "cannot hold the 16384 x 16384 samples it claims");
    refused("hostile_wide.png", KD_IMAGE_RGB8, "an image of 2147483647 x 1");
    refused("hostile_row.png", KD_IMAGE_RGB8, "broken PNG: Not enough image data");
    refused("hostile_size.jpg", KD_IMAGE_RGB8, "an image of 65500 x 65500");
    refused("hostile_scans.jpg", KD_IMAGE_RGB8, "more than 100 scans");
    refused("rgb8.png", KD_IMAGE_INDEX, "rgb8.png is an RGB image; a label map is");
    refused("gray.jpg", KD_IMAGE_INDEX, "gray.jpg is a JPEG");
    refused("expected.txt", KD_IMAGE_RGB8, "expected.txt is neither PNG nor JPEG");
    refused("", KD_IMAGE_RGB8, "Is a directory");
    refused("absent.png", KD_IMAGE_RGB8, "No such file");
    KdImage x;
    KdTrouble t;
    assert_false(kd_image_decode("e.png", NULL, 0, KD_IMAGE_RGB8, &x, &t));
    assert_string_equal(t.text, "e.png is empty");
    size_t n;
    char *data = fixture("420.jpg", &n);
    assert_false(kd_image_decode("x.jpg", data, n / 2 + n / 4, KD_IMAGE_RGB8, &x, &t));
    assert_string_equal(t.text, "x.jpg: truncated JPEG: Premature end of JPEG file");
    free(data);
    data = fixture("rgb8.png", &n);
    assert_false(kd_image_decode("x.png", data, n / 2, KD_IMAGE_RGB8, &x, &t));
    assert_string_equal(t.text, "x.png: broken PNG: it ends early");
    free(data);
}

static void test_prefixes(void **unused) {
    (void)unused;
    for (int i = 0; i < N_SMALL; i++) {
        size_t n;
        char *data = fixture(small[i], &n);
        for (size_t cut = 0; cut < n; cut++) {
            char *exact = malloc(cut + !cut); /* so that a sanitiser sees a read past the end */
            memcpy(exact, data, cut);
            KdImage x;
            KdTrouble t = {0};
            if (kd_image_decode(small[i], exact, cut, KD_IMAGE_RGB8, &x, &t)) {
                fail_msg("%s: the first %zu of %zu bytes were taken for the whole", small[i], cut, n);
            }
            assert_null(x.samples);
            assert_non_null(strstr(t.text, small[i]));
            free(exact);
        }
        free(data);
    }
}

static uint32_t crc(const uint8_t *p, size_t n) {
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int b = 0; b < 8; b++) {
            c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
        }
    }
    return ~c;
}

static uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Makes the checksums of a damaged PNG right again, so that the damage gets past them. */
static void mend_crc(uint8_t *p, size_t n) {
    size_t at = 8;
    while (at + 12 <= n && big_endian(p + at) <= n - at - 12) {
        size_t length = big_endian(p + at);
        uint32_t c = crc(p + at + 4, length + 4);
        for (int b = 0; b < 4; b++) {
            p[at + 8 + length + (size_t)b] = (uint8_t)(c >> (24 - 8 * b));
        }
        at += 12 + length;
    }
}

static void test_damage(void **unused) {
    (void)unused;
    uint32_t state = 7;
    int taken = 0, refusals = 0;
    for (int i = 0; i < N_SMALL; i++) {
        size_t n;
        char *data = fixture(small[i], &n), *bad = malloc(n);
        for (int round = 0; round < 400; round++) {
            memcpy(bad, data, n);
            for (int k = 0; k < 1 + round % 4; k++) {
                state = state * 1664525u + 1013904223u;
                bad[(state >> 8) % n] ^= (char)(1 + (state >> 3) % 255);
            }
            if (round % 2) {
                mend_crc((uint8_t *)bad, n);
            }
            KdImage x;
            KdTrouble t = {0};
            if (kd_image_decode("bad", bad, n, (KdImageWant)(round % 3), &x, &t)) {
                assert_non_null(x.samples);
                taken += fnv(x.samples, bytes(&x)) != 0; /* reads all of it */
            } else {
                assert_null(x.samples);
                assert_true(t.text[0]);
                refusals++;
            }
            kd_image_free(&x);
        }
        free(data);
        free(bad);
    }
    assert_true(taken > 100); /* a changed colour is no damage that shows */
    assert_true(refusals > 1000);
}

static void test_probe(void **unused) {
    (void)unused;
    static const struct {
        const char *name;
        KdImageInfo info;
    } cases[] = {
        {"gray1i.png", {13, 9, 1, 1}},
        {"palette4t.png", {13, 9, 1, 4, true, true}},
        {"rgb16.png", {13, 9, 3, 16}},
        {"ga8.png", {13, 9, 2, 8, false, true}},
        {"rgba16i.png", {13, 9, 4, 16, false, true}},
        {"rgb8t.png", {13, 9, 3, 8, false, true}},
        {"gray.jpg", {37, 29, 1, 8, .jpeg = true}},
        {"cmyk.jpg", {37, 29, 4, 8, .jpeg = true}},
    };
    KdTrouble t;
    KdImageInfo got;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        snprintf(path, sizeof path, IMAGES "%s", cases[i].name);
        assert_true(kd_image_probe(path, &got, &t));
        const KdImageInfo *e = &cases[i].info;
        if (got.width != e->width || got.height != e->height || got.channels != e->channels || got.bits != e->bits ||
            got.palette != e->palette || got.alpha != e->alpha || got.jpeg != e->jpeg) {
            fail_msg("%s: probed as %d x %d, %d channels of %d bits", cases[i].name, got.width, got.height,
                     got.channels, got.bits);
        }
    }
    /* A head longer than the piece that is looked at first: 60000 bytes of comment before the rest. */
    size_t n;
    char path[] = "/tmp/kdc-test-image-XXXXXX", *data = fixture("420.jpg", &n), *far = calloc(1, n + 60002);
    memcpy(far, "\xff\xd8\xff\xfe\xea\x60", 6);
    memcpy(far + 2 + 60002, data + 2, n - 2);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(kd_file_write(path, far, n + 60002, &t));
    assert_true(kd_image_probe(path, &got, &t));
    assert_true(got.jpeg && got.width == 37 && got.height == 29 && got.channels == 3);
    unlink(path);
    free(far);
    free(data);
    assert_false(kd_image_probe(KDC_SOURCE_DIR, &got, &t));
    assert_non_null(strstr(t.text, "Is a directory"));
    assert_false(kd_image_probe(IMAGES "absent.png", &got, &t));
    assert_false(kd_image_probe(IMAGES "expected.txt", &got, &t));
    assert_false(kd_image_probe(IMAGES "hostile_zero.png", &got, &t));
    assert_false(kd_image_probe(IMAGES "hostile_size.jpg", &got, &t));
    assert_true(kd_image_name("a/b.PNG") && kd_image_name("x.jpeg") && kd_image_name("x.y.Jpg"));
    assert_false(kd_image_name("png") || kd_image_name("x.png/y") || kd_image_name("x.tiff") || kd_image_name(""));
}

static bool holds(const void *data, size_t n, const char *what, size_t length) {
    for (size_t i = 0; i + length <= n; i++) {
        if (memcmp((const char *)data + i, what, length) == 0) {
            return true;
        }
    }
    return false;
}

static void test_write(void **unused) {
    (void)unused;
    uint32_t state = 3;
    static const int kinds[][2] = {{1, 8}, {3, 8}, {1, 16}, {3, 16}};
    for (int k = 0; k < 4; k++) {
        KdImage x, y;
        KdTrouble t;
        void *data;
        size_t n;
        assert_true(kd_image_new(11, 6, kinds[k][0], kinds[k][1], &x, &t));
        for (size_t i = 0; i < bytes(&x); i++) {
            state = state * 1664525u + 1013904223u;
            ((uint8_t *)x.samples)[i] = (uint8_t)(state >> 24);
        }
        assert_true(kd_png_encode(&x, NULL, 0, &data, &n, &t));
        KdImageWant want = kinds[k][0] == 1 ? KD_IMAGE_INDEX : KD_IMAGE_RGB8;
        assert_true(kd_image_decode("mine", data, n, want, &y, &t));
        assert_int_equal(y.channels, x.channels);
        assert_int_equal(y.bits, k == 3 ? 8 : x.bits);
        if (k < 3) {
            assert_memory_equal(x.samples, y.samples, bytes(&x));
        } else { /* 16-bit colour is scaled on reading: round(v * 255 / 65535) */
            for (int i = 0; i < 11 * 6 * 3; i++) {
                assert_int_equal(((uint8_t *)y.samples)[i], (((uint16_t *)x.samples)[i] * 255u + 32895u) >> 16);
            }
        }
        free(data);
        kd_image_free(&x);
        kd_image_free(&y);
    }
}

static void test_text(void **unused) {
    (void)unused;
    uint8_t pixel = 9;
    KdImage x = {1, 1, 1, 8, &pixel}, y;
    KdTrouble t;
    void *data;
    size_t n;
    char path[] = "/tmp/kdc-test-image-XXXXXX", longer[3000];
    memset(longer, 'v', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    const char *text[] = {"seed", "12\n34", "Author", "J\xc3\xb6rg", "long", longer};
    assert_true(kd_png_encode(&x, text, 6, &data, &n, &t));
    assert_true(holds(data, n, "tEXtseed\0" "12\n34", 14));
    assert_true(holds(data, n, "iTXtAuthor\0\0\0\0\0J\xc3\xb6rg", 20));
    assert_true(holds(data, n, longer, sizeof longer - 1));
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(kd_png_write(path, &x, text, 6, &t));
    size_t m;
    char *file = kd_file_read(path, &m, &t);
    assert_non_null(file);
    assert_int_equal(m, n);
    assert_memory_equal(file, data, n);
    assert_true(kd_image_read(path, KD_IMAGE_GRAY8, &y, &t));
    assert_int_equal(*(uint8_t *)y.samples, 9);
    kd_image_free(&y);
    free(file);
    free(data);
    unlink(path);
    longer[80] = '\0';
    const char *const keys[] = {"", " a", "a ", "a\nb", "\xc3\xb6", longer};
    for (int i = 0; i < 6; i++) {
        const char *pair[] = {keys[i], "v"};
        assert_false(kd_png_encode(&x, pair, 2, &data, &n, &t));
        assert_null(data);
        assert_non_null(strstr(t.text, "cannot name a text in a PNG"));
    }
    assert_false(kd_png_write("/nonexistent/folder/x.png", &x, NULL, 0, &t));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode), cmocka_unit_test(test_sentences), cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_damage), cmocka_unit_test(test_probe),     cmocka_unit_test(test_write),
        cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
