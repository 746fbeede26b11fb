/* test_resize.c: resampling against Pillow's, bit for bit (images/resize.txt, made by images/make_images.py from the
 * same random samples), nearest on 16 bits, crop, mirror, and what is refused. */
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

static uint32_t state;

static uint8_t next_byte(void) {
    state = state * 1664525u + 1013904223u;
    return (uint8_t)(state >> 24);
}

static uint64_t fnv(const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001b3u;
    }
    return h;
}

static KdImage noise(int width, int height, int channels) {
    KdImage x;
    KdTrouble t;
    assert_true(kd_image_new(width, height, channels, 8, &x, &t));
    for (int i = 0; i < width * height * channels; i++) {
        ((uint8_t *)x.samples)[i] = next_byte();
    }
    return x;
}

static KdFilter filter_of(const char *name) {
    return strcmp(name, "nearest") == 0    ? KD_FILTER_NEAREST
           : strcmp(name, "bilinear") == 0 ? KD_FILTER_BILINEAR
                                           : KD_FILTER_BICUBIC;
}

static void test_as_pillow(void **unused) {
    (void)unused;
    FILE *f = fopen(KDC_SOURCE_DIR "/tests/runtime/images/resize.txt", "r");
    assert_non_null(f);
    char name[16];
    int channels, w, h, ow, oh, lines = 0, wrong = 0;
    uint64_t hash;
    KdImage x = {0};
    state = 12345;
    while (fscanf(f, "%15s %d %d %d %d %d %" SCNx64, name, &channels, &w, &h, &ow, &oh, &hash) == 7) {
        if (lines++ % 3 == 0) { /* three filters of one image */
            kd_image_free(&x);
            x = noise(w, h, channels);
        }
        KdImage y;
        KdTrouble t;
        assert_true(kd_image_resize(&x, ow, oh, filter_of(name), &y, &t));
        assert_int_equal(y.width, ow);
        assert_int_equal(y.height, oh);
        assert_int_equal(y.channels, channels);
        if (fnv(y.samples, (size_t)ow * (size_t)oh * (size_t)channels) != hash) {
            print_error("%s, %d channels, %dx%d to %dx%d differs from Pillow\n", name, channels, w, h, ow, oh);
            wrong++;
        }
        kd_image_free(&y);
    }
    kd_image_free(&x);
    fclose(f);
    assert_int_equal(lines, 2 * 17 * 3);
    assert_int_equal(wrong, 0);
}

static void test_nearest_16(void **unused) {
    (void)unused;
    uint16_t samples[6] = {1, 500, 65535, 7, 8, 9};
    KdImage x = {3, 2, 1, 16, samples}, y;
    KdTrouble t;
    assert_true(kd_image_resize(&x, 6, 1, KD_FILTER_NEAREST, &y, &t));
    const uint16_t want[6] = {7, 7, 8, 8, 9, 9}; /* the middle of two rows is the lower one's */
    assert_memory_equal(y.samples, want, sizeof want);
    assert_int_equal(y.bits, 16);
    kd_image_free(&y);
    assert_false(kd_image_resize(&x, 6, 1, KD_FILTER_BICUBIC, &y, &t));
    assert_string_equal(t.text, "16-bit samples are only resized to the nearest");
    assert_null(y.samples);
}

static void test_refused_sizes(void **unused) {
    (void)unused;
    KdImage x = noise(4, 4, 3), y;
    static const int sizes[][2] = {{0, 4}, {4, 0}, {-1, 4}, {1 << 20, 1 << 20}, {INT32_MAX, 1}};
    for (int f = KD_FILTER_NEAREST; f <= KD_FILTER_BICUBIC; f++) {
        for (int i = 0; i < 5; i++) {
            KdTrouble t = {0};
            assert_false(kd_image_resize(&x, sizes[i][0], sizes[i][1], (KdFilter)f, &y, &t));
            assert_null(y.samples);
            assert_false(t.machine);
            assert_non_null(strstr(t.text, "at most 268435456 pixels"));
            assert_ptr_equal(strstr(t.text, "an image cannot be "), t.text); /* no file is to blame */
        }
    }
    kd_image_free(&x);
}

static void test_crop(void **unused) {
    (void)unused;
    KdImage x = noise(9, 7, 3), y;
    KdTrouble t;
    assert_true(kd_image_crop(&x, 2, 3, 5, 4, &y, &t));
    for (int r = 0; r < 4; r++) {
        assert_memory_equal((uint8_t *)y.samples + r * 15, (uint8_t *)x.samples + ((r + 3) * 9 + 2) * 3, 15);
    }
    kd_image_free(&y);
    static const int outside[][4] = {{-1, 0, 2, 2}, {0, -1, 2, 2}, {5, 0, 5, 7},
                                     {0, 4, 9, 4},  {0, 0, 0, 1},  {INT32_MAX, 0, 2, 2}};
    for (int i = 0; i < 6; i++) {
        const int *o = outside[i];
        assert_false(kd_image_crop(&x, o[0], o[1], o[2], o[3], &y, &t));
        assert_null(y.samples);
    }
    kd_image_free(&x);
}

static void test_mirror(void **unused) {
    (void)unused;
    for (int w = 1; w <= 6; w++) {
        KdImage x = noise(w, 2, 3), y;
        KdTrouble t;
        assert_true(kd_image_crop(&x, 0, 0, w, 2, &y, &t));
        kd_image_mirror(&y);
        for (int i = 0; i < 2 * w; i++) {
            int r = i / w, c = i % w;
            assert_memory_equal((uint8_t *)y.samples + i * 3, (uint8_t *)x.samples + (r * w + w - 1 - c) * 3, 3);
        }
        kd_image_free(&x);
        kd_image_free(&y);
    }
    uint16_t wide[5] = {1, 2, 3, 4, 60000};
    KdImage x = {5, 1, 1, 16, wide};
    kd_image_mirror(&x);
    const uint16_t want[5] = {60000, 4, 3, 2, 1};
    assert_memory_equal(wide, want, sizeof want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_pillow), cmocka_unit_test(test_nearest_16), cmocka_unit_test(test_refused_sizes),
        cmocka_unit_test(test_crop),      cmocka_unit_test(test_mirror),
    };
    return cmocka_run_group_tests_name("resize", tests, NULL, NULL);
}
