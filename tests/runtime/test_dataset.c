/* test_dataset.c: every layout of dataset.h, the order of samples, crop and flip, what is refused, the loader, the
 * check.
 *
 * Data sets are made in a folder of their own. A pixel of a made picture says where it came from: red is the number of
 * the picture, green the column, blue the row; so a sample shows by itself how it was cropped and mirrored.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/dataset.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char top[64];

/* ---- making ----------------------------------------------------------------------------------------- */

static const char *at(const char *name) {
    static char text[8][512];
    static int k;
    k = (k + 1) % 8;
    snprintf(text[k], sizeof text[k], "%s/%s", top, name);
    return text[k];
}

/* With the folders above it. */
static const char *place(const char *name) {
    const char *path = at(name);
    char copy[512];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *p = copy + strlen(top) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(copy, 0777);
        *p = '/';
    }
    return path;
}

static void picture(const char *name, int number, int width, int height) {
    KdImage x;
    KdTrouble t;
    assert_true(kd_image_new(width, height, 3, 8, &x, &t));
    for (int i = 0; i < width * height; i++) {
        uint8_t *p = (uint8_t *)x.samples + 3 * i;
        p[0] = (uint8_t)number;
        p[1] = (uint8_t)(i % width);
        p[2] = (uint8_t)(i / width);
    }
    if (!kd_png_write(place(name), &x, NULL, 0, &t)) {
        fail_msg("%s", t.text);
    }
    kd_image_free(&x);
}

/* Label of a pixel: its column modulo 4; `odd` at column 1 of row 2. */
static void map(const char *name, int width, int height, int bits, int odd) {
    KdImage x;
    KdTrouble t;
    assert_true(kd_image_new(width, height, 1, bits, &x, &t));
    for (int i = 0; i < width * height; i++) {
        int v = i == 2 * width + 1 ? odd : i % width % 4;
        if (bits == 16) {
            ((uint16_t *)x.samples)[i] = (uint16_t)v;
        } else {
            ((uint8_t *)x.samples)[i] = (uint8_t)v;
        }
    }
    assert_true(kd_png_write(place(name), &x, NULL, 0, &t));
    kd_image_free(&x);
}

static void text(const char *name, const char *s) {
    KdTrouble t;
    assert_true(kd_file_write(place(name), s, strlen(s), &t));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static int set_up(void **state) {
    (void)state;
    strcpy(top, "/tmp/kdc-dataset-XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- looking ---------------------------------------------------------------------------------------- */

static KdDataset *opened(const KdDataOptions *o) {
    KdTrouble t;
    KdDataset *d = kd_dataset_open(o, &t);
    if (!d) {
        fail_msg("%s", t.text);
    }
    return d;
}

static KdSample sample(const KdDataset *d, int64_t number) {
    KdSample s;
    KdTrouble t;
    if (!kd_dataset_sample(d, number, &s, &t)) {
        fail_msg("%s", t.text);
    }
    return s;
}

static const uint8_t *pixel(const KdImage *x, int column, int row) {
    return (const uint8_t *)x->samples + 3 * (row * x->width + column);
}

static void same_image(const KdImage *a, const KdImage *b) {
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    assert_int_equal(a->channels, b->channels);
    assert_int_equal(a->bits, b->bits);
    assert_memory_equal(a->samples, b->samples,
                        (size_t)a->width * (size_t)a->height * (size_t)(a->channels * a->bits / 8));
}

static void same_sample(const KdSample *a, const KdSample *b) {
    assert_int_equal(a->n, b->n);
    for (int k = 0; k < a->n; k++) {
        assert_string_equal(a->name[k], b->name[k]);
        assert_int_equal(a->mirrored[k], b->mirrored[k]);
        same_image(&a->image[k], &b->image[k]);
    }
}

static void refused(const KdDataOptions *o, const char *const *words, int n) {
    KdTrouble t = {0};
    assert_null(kd_dataset_open(o, &t));
    assert_false(t.machine);
    for (int i = 0; i < n; i++) {
        if (!strstr(t.text, words[i])) {
            fail_msg("'%s' does not say '%s'", t.text, words[i]);
        }
    }
}

#define REFUSED(o, ...)                                                                                                \
    refused(o, (const char *const[]){__VA_ARGS__}, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)))

static void sample_refused(const KdDataOptions *o, int64_t number, const char *a, const char *b) {
    KdDataset *d = opened(o);
    KdSample s;
    KdTrouble t = {0};
    assert_false(kd_dataset_sample(d, number, &s, &t));
    if (!strstr(t.text, a) || !strstr(t.text, b)) {
        fail_msg("'%s' does not say '%s' and '%s'", t.text, a, b);
    }
    assert_null(s.image[0].samples);
    kd_dataset_free(d);
}

/* ---- layouts ---------------------------------------------------------------------------------------- */

static void aligned(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof name, "al/train/%d.png", i);
        picture(name, i, 32, 16);
    }
    picture("al/val/9.png", 9, 32, 16);
    KdDataOptions o = {.root = at("al"), .crop_h = 16, .crop_w = 16, .ignore = -1, .test = true, .phase = "train"};
    KdDataset *d = opened(&o);
    assert_int_equal(kd_dataset_layout(d), KD_LAYOUT_ALIGNED);
    assert_string_equal(kd_dataset_phase(d), "train");
    assert_int_equal(kd_dataset_count(d), 5);
    assert_int_equal(kd_dataset_images(d), 2);
    assert_true(kd_dataset_decode_bytes(d) >= 32 * 16 * 3);
    KdSample s = sample(d, 3);
    assert_int_equal(pixel(&s.image[0], 0, 0)[0], 3);
    assert_int_equal(pixel(&s.image[0], 0, 0)[1], 0);
    assert_int_equal(pixel(&s.image[1], 0, 0)[1], 16);
    assert_int_equal(pixel(&s.image[1], 15, 15)[1], 31);
    kd_sample_free(&s);
    kd_dataset_free(d);
    o.b_to_a = true;
    o.phase = NULL; /* test mode: test, then val */
    d = opened(&o);
    assert_string_equal(kd_dataset_phase(d), "val");
    s = sample(d, 0);
    assert_int_equal(pixel(&s.image[0], 0, 0)[1], 16);
    assert_int_equal(pixel(&s.image[1], 0, 0)[1], 0);
    kd_sample_free(&s);
    kd_dataset_free(d);
    o.phase = "test";
    REFUSED(&o, "al", "test", "train, val");
}

static void unpaired(void **state) {
    (void)state;
    char name[64];
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "un/trainA/%d.png", i);
        picture(name, i, 16, 16);
        snprintf(name, sizeof name, "un/trainB/b%d.png", i);
        if (i < 4) {
            picture(name, 100 + i, 16, 16);
        }
    }
    KdDataOptions o = {.root = at("un"), .crop_h = 8, .crop_w = 8, .load_h = 16, .load_w = 16, .ignore = -1, .seed = 3};
    KdDataset *d = opened(&o);
    assert_int_equal(kd_dataset_layout(d), KD_LAYOUT_UNPAIRED);
    assert_int_equal(kd_dataset_count(d), 7);
    bool a[7] = {0}, b[4] = {0};
    int own = 0, own_flip = 0;
    for (int i = 0; i < 70; i++) {
        KdSample s = sample(d, i);
        int na = pixel(&s.image[0], 0, 0)[0], nb = pixel(&s.image[1], 0, 0)[0] - 100;
        assert_in_range(na, 0, 6);
        assert_in_range(nb, 0, 3);
        if (i < 7) {
            assert_false(a[na]);
        }
        a[na] = b[nb] = true;
        own += pixel(&s.image[0], 0, 0)[2] != pixel(&s.image[1], 0, 0)[2];
        own_flip += s.mirrored[0] != s.mirrored[1];
        kd_sample_free(&s);
    }
    assert_true(b[0] && b[1] && b[2] && b[3] && own > 20 && own_flip > 20);
    kd_dataset_free(d);
    o.serial = o.b_to_a = true;
    d = opened(&o);
    KdSample s = sample(d, 6);
    assert_int_equal(pixel(&s.image[1], 0, 0)[0], 6);
    assert_int_equal(pixel(&s.image[0], 0, 0)[0], 102);
    kd_sample_free(&s);
    kd_dataset_free(d);
    o.limit = 2;
    d = opened(&o);
    assert_int_equal(kd_dataset_count(d), 2);
    kd_dataset_free(d);
    o.wanted = KD_LAYOUT_ALIGNED; /* trainA alone must not be cut in two */
    REFUSED(&o, "un", "A/train and B/train", "trainA");
}

static void two_folders(void **state) {
    (void)state;
    picture("fo/A/train/x_A.png", 1, 16, 16);
    picture("fo/B/train/x_B.png", 2, 16, 16);
    picture("fo/A/train/y.png", 3, 16, 16);
    picture("fo/B/train/y.png", 4, 16, 16);
    picture("fo/A/train/lonely.png", 5, 16, 16);
    picture("fo/A/train/.hidden.png", 5, 16, 16);
    text("fo/A/train/notes.txt", "no image");
    mkdir(place("fo/A/train/folder.png"), 0777);
    KdDataOptions o = {
        .root = at("fo"), .crop_h = 16, .crop_w = 16, .ignore = -1, .test = true, .wanted = KD_LAYOUT_ALIGNED};
    KdDataset *d = opened(&o);
    KdTrouble t;
    assert_int_equal(kd_dataset_layout(d), KD_LAYOUT_FOLDERS);
    assert_int_equal(kd_dataset_count(d), 2);
    for (int i = 0; i < 2; i++) {
        KdSample s = sample(d, i);
        assert_int_equal(pixel(&s.image[0], 0, 0)[0] + 1, pixel(&s.image[1], 0, 0)[0]);
        kd_sample_free(&s);
    }
    KdDataReport *r = malloc(sizeof *r);
    assert_true(kd_dataset_check(d, 2, r, &t));
    assert_int_equal(r->unmatched, 1);
    assert_int_equal(r->unreadable + r->wrong, 0);
    assert_int_equal(r->images, 4);
    assert_non_null(strstr(r->line[0], "lonely.png"));
    kd_data_report_free(r);
    free(r);
    kd_dataset_free(d);
    picture("fo/A/train/y_A.png", 3, 16, 16);
    REFUSED(&o, "y.png", "y_A.png", "stem");
    picture("no/A/x.png", 1, 16, 16);
    picture("no/B/y.png", 1, 16, 16);
    o.root = at("no");
    REFUSED(&o, "x.png", "y.png", "no names match");
}

static void labels(void **state) {
    (void)state;
    map("la/train_label/p_gtFine_labelIds.png", 16, 16, 8, 255);
    map("la/train_inst/p_gtFine_instanceIds.png", 16, 16, 16, 26001);
    picture("la/train_img/p_leftImg8bit.png", 7, 16, 16);
    KdDataOptions o = {
        .root = at("la"), .crop_h = 8, .crop_w = 8, .load_h = 16, .load_w = 16, .classes = 4, .ignore = 255};
    KdDataset *d = opened(&o);
    assert_int_equal(kd_dataset_layout(d), KD_LAYOUT_LABELS);
    assert_int_equal(kd_dataset_images(d), 3);
    for (int i = 0; i < 20; i++) {
        KdSample s = sample(d, i);
        assert_int_equal(s.image[0].channels, 1);
        assert_int_equal(s.image[2].bits, 16);
        for (int p = 0; p < 64; p++) { /* cropped and mirrored alike */
            int v = ((const uint8_t *)s.image[0].samples)[p], c = pixel(&s.image[1], p % 8, p / 8)[1],
                id = ((const uint16_t *)s.image[2].samples)[p];
            assert_int_equal(v == 255 ? 26001 : v, id);
            assert_true(v == 255 || v == c % 4);
        }
        kd_sample_free(&s);
    }
    kd_dataset_free(d);
    o.ignore = -1;
    sample_refused(&o, 0, "p_gtFine_labelIds.png: label 255", "column 1, row 2");
    map("lp/train_label/q.png", 16, 16, 8, 0);
    picture("lp/train/q.png", 7, 32, 16);
    o.root = at("lp");
    d = opened(&o);
    KdSample s = sample(d, 0);
    assert_int_equal(s.n, 2);
    assert_true(pixel(&s.image[1], 7, 7)[1] < 16);
    kd_sample_free(&s);
    kd_dataset_free(d);
    map("ln/train_label/q.png", 16, 16, 8, 0);
    o.root = at("ln");
    REFUSED(&o, "train_img", "no images");
    picture("lr/train_label/q.png", 0, 16, 16); /* colours are no indices */
    picture("lr/train_img/q.png", 0, 16, 16);
    o.root = at("lr");
    sample_refused(&o, 0, "lr/train_label/q.png", "");
}

static void plain(void **state) {
    (void)state;
    picture("pl/b.png", 2, 20, 10);
    picture("pl/a.png", 1, 10, 20);
    KdDataOptions o = {.root = at("pl/"), .preprocess = KD_PRE_NONE, .ignore = -1, .test = true};
    KdDataset *d = opened(&o);
    assert_int_equal(kd_dataset_layout(d), KD_LAYOUT_PLAIN);
    assert_string_equal(kd_dataset_phase(d), "");
    KdSample s = sample(d, 0);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.image[0].width, 8); /* 10 / 4 = 2.5, half to even */
    assert_int_equal(s.image[0].height, 20);
    assert_non_null(strstr(s.name[0], "/a.png"));
    kd_sample_free(&s);
    kd_dataset_free(d);
    o.wanted = KD_LAYOUT_ALIGNED;
    REFUSED(&o, "pl", "layout plain");
    o.wanted = KD_LAYOUT_UNPAIRED;
    REFUSED(&o, "testA and testB");
    o.root = at("nowhere");
    REFUSED(&o, "nowhere", "No such file");
    o.root = at("pl/a.png");
    REFUSED(&o, "a.png", "file");
    mkdir(at("empty"), 0777);
    o.root = at("empty");
    REFUSED(&o, "empty", "no images");
}

/* ---- order, crop, flip ------------------------------------------------------------------------------ */

static void many(const char *folder, int n) {
    for (int i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s/train/%03d.png", folder, i);
        picture(name, i, 24, 24);
    }
}

/* Shares are nested, do not depend on the seed, and together with the others are all. */
static void shares(void **state) {
    (void)state;
    many("sh", 23);
    static const struct { double share; int count; } rows[] = {{0.01, 1}, {0.1, 2}, {0.25, 6}, {0.5, 12}, {1, 23}};
    bool before[23] = {0};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        bool in[23] = {0};
        for (int others = 0; others < 2; others++) {
            KdDataOptions o = {.root = at("sh"), .crop_h = 16, .crop_w = 16, .load_h = 24, .load_w = 24, .ignore = -1,
                               .share = rows[r].share, .others = others};
            o.seed = (uint64_t)(100 * others) + r;
            KdDataset *d = opened(&o);
            int count = others && rows[r].count < 23 ? 23 - rows[r].count : rows[r].count; /* none left: all */
            assert_int_equal(kd_dataset_count(d), count);
            assert_int_equal(kd_dataset_of(d), 23);
            bool seen[23] = {0};
            for (int i = 0; i < count; i++) {
                KdSample s = sample(d, i);
                int k = pixel(&s.image[0], 0, 0)[0];
                assert_false(seen[k]);
                seen[k] = true;
                assert_true(!others || rows[r].count == 23 || !in[k]);
                in[k] = in[k] || !others;
                kd_sample_free(&s);
            }
            assert_non_null(strstr(kd_dataset_path(d, 0), "sh/train/0"));
            kd_dataset_free(d);
        }
        for (int k = 0; k < 23; k++) {
            assert_true(!before[k] || in[k]);
            before[k] = in[k];
        }
    }
}

static void order(void **state) {
    (void)state;
    many("or", 23);
    KdDataOptions o = {
        .root = at("or"), .crop_h = 16, .crop_w = 16, .load_h = 24, .load_w = 24, .ignore = -1, .seed = 5};
    KdDataset *d = opened(&o), *e = opened(&o);
    int differs[2] = {0}, first[23];
    o.seed = 6;
    KdDataset *other = opened(&o);
    for (int epoch = 0; epoch < 3; epoch++) {
        bool seen[23] = {0};
        for (int i = 0; i < 23; i++) {
            KdSample s = sample(d, epoch * 23 + i), z = sample(other, epoch * 23 + i);
            int k = pixel(&s.image[0], 0, 0)[0];
            assert_false(seen[k]);
            seen[k] = true;
            differs[0] += k != pixel(&z.image[0], 0, 0)[0];
            differs[1] += epoch > 0 && k != first[i];
            first[i] = epoch ? first[i] : k;
            kd_sample_free(&s);
            kd_sample_free(&z);
        }
    }
    assert_true(differs[0] > 40 && differs[1] > 25);
    for (int i = 60; i >= 0; i -= 7) { /* from any number, in any order */
        KdSample s = sample(d, i), z = sample(e, i);
        same_sample(&s, &z);
        kd_sample_free(&s);
        kd_sample_free(&z);
    }
    kd_dataset_free(d);
    kd_dataset_free(e);
    kd_dataset_free(other);
    KdSample s;
    KdTrouble t;
    o.serial = true;
    d = opened(&o);
    assert_false(kd_dataset_sample(d, -1, &s, &t));
    s = sample(d, 23 + 4);
    assert_int_equal(pixel(&s.image[0], 0, 0)[0], 4);
    kd_sample_free(&s);
    kd_dataset_free(d);
}

static void crop_and_flip(void **state) {
    (void)state;
    many("cf", 2);
    KdDataOptions o = {
        .root = at("cf"), .crop_h = 16, .crop_w = 20, .load_h = 24, .load_w = 24, .ignore = -1, .seed = 1};
    KdDataset *d = opened(&o);
    int left[5] = {0}, top_row[9] = {0}, flips = 0;
    for (int i = 0; i < 400; i++) {
        KdSample s = sample(d, i);
        const KdImage *x = &s.image[0];
        int a = pixel(x, 0, 0)[1], b = pixel(x, 19, 0)[1], row = pixel(x, 0, 0)[2];
        assert_int_equal(abs(a - b), 19);
        assert_int_equal(s.mirrored[0], a > b);
        assert_int_equal(pixel(x, 0, 15)[2], row + 15);
        flips += a > b;
        left[a < b ? a : b]++;
        top_row[row]++;
        kd_sample_free(&s);
    }
    assert_in_range(flips, 160, 240);
    for (int i = 0; i < 9; i++) {
        assert_true((i > 4 || left[i] > 40) && top_row[i] > 15);
    }
    kd_dataset_free(d);
    o.no_flip = true;
    d = opened(&o);
    for (int i = 0; i < 20; i++) {
        KdSample s = sample(d, i);
        assert_false(s.mirrored[0]);
        kd_sample_free(&s);
    }
    kd_dataset_free(d);
    o.test = true;
    d = opened(&o);
    KdSample s = sample(d, 0);
    assert_int_equal(pixel(&s.image[0], 0, 0)[1], 2); /* the middle */
    assert_int_equal(pixel(&s.image[0], 0, 0)[2], 4);
    kd_sample_free(&s);
    kd_dataset_free(d);
}

static void pairs_move_together(void **state) {
    (void)state;
    picture("pt/train/1.png", 1, 48, 24);
    KdDataOptions o = {
        .root = at("pt"), .crop_h = 16, .crop_w = 16, .load_h = 24, .load_w = 24, .ignore = -1, .b_to_a = true};
    KdDataset *d = opened(&o);
    int flips = 0;
    for (int i = 0; i < 40; i++) {
        KdSample s = sample(d, i);
        flips += s.mirrored[0];
        for (int p = 0; p < 256; p++) {
            const uint8_t *b = pixel(&s.image[0], p % 16, p / 16), *a = pixel(&s.image[1], p % 16, p / 16);
            assert_int_equal(b[1], a[1] + 24);
            assert_int_equal(b[2], a[2]);
        }
        kd_sample_free(&s);
    }
    assert_in_range(flips, 8, 32);
    kd_dataset_free(d);
}

static void sizes(void **state) {
    (void)state;
    picture("sz/train/a.png", 1, 40, 30);
    KdDataOptions o = {.root = at("sz"), .crop_h = 64, .crop_w = 64, .ignore = -1, .no_flip = true};
    KdSample s;
    KdDataset *d = opened(&o); /* by default by way of 71x71 */
    s = sample(d, 0);
    assert_int_equal(s.image[0].width, 64);
    kd_sample_free(&s);
    kd_dataset_free(d);
    o.load_w = 60;
    REFUSED(&o, "load size", "crop size");
    o.load_w = 0;
    o.preprocess = KD_PRE_CROP;
    sample_refused(&o, 0, "a.png", "64x64");
    o = (KdDataOptions){.root = at("sz"), .preprocess = KD_PRE_SCALE_WIDTH, .load_w = 20, .ignore = -1};
    d = opened(&o);
    s = sample(d, 0);
    assert_int_equal(s.image[0].width, 20);
    assert_int_equal(s.image[0].height, 15);
    kd_sample_free(&s);
    kd_dataset_free(d);
    o.crop_h = 16;
    sample_refused(&o, 0, "a.png", "15x20");
    o.preprocess = KD_PRE_SCALE_WIDTH_AND_CROP;
    o.crop_w = 16;
    d = opened(&o);
    s = sample(d, 0);
    assert_int_equal(s.image[0].height, 16);
    kd_sample_free(&s);
    kd_dataset_free(d);
    o = (KdDataOptions){.root = at("sz"), .ignore = -1};
    REFUSED(&o, "crop size");
    KdPreprocess p;
    assert_true(kd_preprocess_named("scale-width_and_crop", &p) && p == KD_PRE_SCALE_WIDTH_AND_CROP);
    assert_false(kd_preprocess_named("scale", &p));
    picture("sp/A/x.png", 1, 16, 16);
    picture("sp/B/x.png", 1, 16, 20);
    o = (KdDataOptions){.root = at("sp"), .preprocess = KD_PRE_CROP, .crop_h = 8, .crop_w = 8, .ignore = -1};
    sample_refused(&o, 0, "16x16", "20x16");
}

/* ---- names and broken files ------------------------------------------------------------------------- */

static void strange_names(void **state) {
    (void)state;
    static const char *const names[] = {"a b",      "quote'\"",   "new\nline", "\xc3\xa4\xe6\x97\xa5",
                                        "\xff\xfe", "dots.in.it", "%s%n",      "-o"};
    for (int i = 0; i < 8; i++) {
        char name[64];
        snprintf(name, sizeof name, "st/A/%s.png", names[i]);
        picture(name, i, 16, 16);
        snprintf(name, sizeof name, "st/B/%s.PNG", names[i]);
        picture(name, i, 16, 16);
    }
    KdDataOptions o = {.root = at("st"), .crop_h = 16, .crop_w = 16, .ignore = -1};
    KdDataset *d = opened(&o);
    assert_int_equal(kd_dataset_count(d), 8);
    for (int i = 0; i < 8; i++) {
        KdSample s = sample(d, i);
        assert_int_equal(pixel(&s.image[0], 0, 0)[0], pixel(&s.image[1], 0, 0)[0]);
        kd_sample_free(&s);
    }
    kd_dataset_free(d);
}

static void broken_files(void **state) {
    (void)state;
    many("br", 5);
    text("br/train/002.png", "\x89PNG but not really");
    assert_int_equal(symlink("nowhere", place("br/train/link.png")), 0);
    KdDataOptions o = {.root = at("br"), .crop_h = 16, .crop_w = 16, .ignore = -1, .serial = true};
    KdTrouble t;
    KdSample s;
    sample_refused(&o, 2, "br/train/002.png", "");
    KdDataset *d = opened(&o);
    KdLoader *l = kd_loader_new(d, 0, 3, 4, &t);
    for (int i = 0; i < 12; i++) { /* each error at its own sample */
        assert_int_equal(kd_loader_next(l, &s, &t), i % 6 != 2 && i % 6 != 5);
        kd_sample_free(&s);
        if (i % 6 == 2) {
            assert_non_null(strstr(t.text, "002.png"));
        }
    }
    kd_loader_free(l);
    KdDataReport *r = malloc(sizeof *r);
    for (int workers = 1; workers < 4; workers += 2) {
        assert_true(kd_dataset_check(d, workers, r, &t));
        assert_int_equal(r->unreadable, 2);
        assert_int_equal(r->n_lines, 2);
        assert_non_null(strstr(r->line[0], "002.png"));
        assert_non_null(strstr(r->line[1], "link.png"));
        assert_int_equal(r->min_w, 24);
        kd_data_report_free(r);
    }
    kd_dataset_free(d);
    map("bl/train_label/a.png", 16, 16, 8, 9);
    picture("bl/train_img/a.png", 1, 16, 16);
    o = (KdDataOptions){.root = at("bl"), .preprocess = KD_PRE_NONE, .ignore = -1, .classes = 4};
    d = opened(&o);
    assert_true(kd_dataset_check(d, 2, r, &t));
    assert_int_equal(r->wrong, 1);
    assert_int_equal(r->label_min, 0);
    assert_int_equal(r->label_max, 9);
    assert_int_equal(r->labels, 5);
    kd_data_report_free(r);
    kd_dataset_free(d);
    free(r);
}

/* A pipe with an image's name must hold up nobody. */
static void pipes(void **state) {
    (void)state;
    many("pi", 3);
    assert_int_equal(mkfifo(place("pi/train/pipe.png"), 0600), 0);
    KdDataOptions o = {.root = at("pi"), .crop_h = 16, .crop_w = 16, .ignore = -1, .serial = true};
    KdTrouble t;
    KdSample s;
    KdImageInfo info;
    KdImage x;
    int refused = 0;
    alarm(30);
    KdDataset *d = opened(&o);
    for (int i = 0; i < 4; i++) {
        bool ok = kd_dataset_sample(d, i, &s, &t);
        refused += !ok;
        if (ok) {
            kd_sample_free(&s);
        } else {
            assert_non_null(strstr(t.text, "is a pipe, not a plain file"));
        }
    }
    assert_int_equal(refused, 1);
    KdDataReport *r = malloc(sizeof *r);
    assert_true(kd_dataset_check(d, 2, r, &t));
    assert_int_equal(r->images, 4);
    assert_int_equal(r->unreadable, 1);
    assert_non_null(strstr(r->line[0], "is a pipe, not a plain file"));
    kd_data_report_free(r);
    free(r);
    kd_dataset_free(d);
    assert_false(kd_image_probe("/dev/zero", &info, &t));
    assert_false(kd_image_read("/dev/zero", KD_IMAGE_RGB8, &x, &t));
    assert_string_equal(t.text, "/dev/zero is a device, not a plain file");
    alarm(0);
}

/* ---- the loader ------------------------------------------------------------------------------------- */

static void loader(void **state) {
    (void)state;
    many("lo", 11);
    KdDataOptions o = {
        .root = at("lo"), .crop_h = 16, .crop_w = 16, .load_h = 20, .load_w = 20, .ignore = -1, .seed = 9};
    KdDataset *d = opened(&o);
    KdTrouble t;
    for (int workers = 1; workers <= 4; workers += 3) {
        for (int ahead = 1; ahead <= 8; ahead += 7) {
            KdLoader *l = kd_loader_new(d, 17, workers, ahead, &t);
            assert_non_null(l);
            for (int i = 17; i < 60; i++) {
                KdSample s, z = sample(d, i);
                assert_true(kd_loader_next(l, &s, &t));
                same_sample(&s, &z);
                kd_sample_free(&s);
                kd_sample_free(&z);
            }
            assert_true(kd_loader_waited(l) >= 0 && kd_loader_waited(l) < 60);
            kd_loader_free(l);
        }
    }
    for (int i = 0; i < 60; i++) { /* freed at any time */
        KdLoader *l = kd_loader_new(d, i, 1 + i % 4, 1 + i % 5, &t);
        KdSample s;
        for (int k = 0; k < i % 3; k++) {
            assert_true(kd_loader_next(l, &s, &t));
            kd_sample_free(&s);
        }
        usleep((useconds_t)(i % 4) * 300);
        kd_loader_free(l);
    }
    kd_loader_free(NULL);
    assert_null(kd_loader_new(d, 0, 0, 1, &t));
    kd_dataset_free(d);
}

/* ---- tensors ---------------------------------------------------------------------------------------- */

static void planes(void **state) {
    (void)state;
    KdImage x, y;
    KdTrouble t;
    float v[3 * 256];
    assert_true(kd_image_new(256, 1, 3, 8, &x, &t));
    for (int i = 0; i < 768; i++) {
        ((uint8_t *)x.samples)[i] = (uint8_t)(i % 3 == 1 ? 255 - i / 3 : i / 3);
    }
    kd_image_to_planes(&x, v);
    assert_true(v[0] == -1 && v[255] == 1 && v[256] == 1 && v[511] == -1 && fabsf(v[512 + 51] + 0.6f) < 1e-6f);
    assert_true(kd_image_from_planes(v, 3, 1, 256, false, &y, &t)); /* and back to the bit */
    same_image(&x, &y);
    kd_image_free(&x);
    kd_image_free(&y);
    float odd[8] = {NAN, -INFINITY, INFINITY, 7, -7, 0, 0.999f, 0.005f}; /* 0: 127.5; 0.999: 254.87; 0.005: 128.1375 */
    assert_true(kd_image_from_planes(odd, 1, 2, 4, false, &y, &t));
    assert_memory_equal(y.samples, ((const uint8_t[]){0, 0, 255, 255, 0, 128, 255, 128}), 8);
    kd_image_free(&y);
    assert_true(kd_image_from_planes(odd, 1, 2, 4, true, &y, &t));
    assert_memory_equal(y.samples, ((const uint8_t[]){0, 0, 255, 255, 0, 127, 254, 128}), 8);
    kd_image_free(&y);
    assert_false(kd_image_from_planes(odd, 2, 2, 2, true, &y, &t));
}

/* ---- real data -------------------------------------------------------------------------------------- */

static void real_sets(void **state) {
    (void)state;
    static const struct { const char *folder; KdLayout wanted, layout; const char *phase; int count; } rows[] = {
        {"facades/aligned", KD_LAYOUT_ALIGNED, KD_LAYOUT_ALIGNED, "train", 300},
        {"facades/aligned", KD_LAYOUT_AUTO, KD_LAYOUT_ALIGNED, "val", 50},
        {"facades", KD_LAYOUT_LABELS, KD_LAYOUT_LABELS, "test", 50},
        {"day2night", KD_LAYOUT_AUTO, KD_LAYOUT_UNPAIRED, "train", 120},
        {"day2night", KD_LAYOUT_UNPAIRED, KD_LAYOUT_UNPAIRED, "test", 30},
        {"photos", KD_LAYOUT_AUTO, KD_LAYOUT_PLAIN, "test", 12},
    };
    char root[512];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(root, sizeof root, "%s/../shared/data/%s", KDC_SOURCE_DIR, rows[i].folder);
        if (access(root, R_OK) != 0) {
            skip();
        }
        KdDataOptions o = {.root = root, .crop_h = 64, .crop_w = 64, .wanted = rows[i].wanted, .phase = rows[i].phase,
                           .classes = 11, .ignore = -1};
        KdDataset *d = opened(&o);
        assert_int_equal(kd_dataset_layout(d), rows[i].layout);
        assert_int_equal(kd_dataset_count(d), rows[i].count);
        KdSample s = sample(d, 1);
        kd_sample_free(&s);
        kd_dataset_free(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(aligned),       cmocka_unit_test(unpaired),
        cmocka_unit_test(two_folders),   cmocka_unit_test(labels),
        cmocka_unit_test(plain),         cmocka_unit_test(order),
        cmocka_unit_test(shares),
        cmocka_unit_test(crop_and_flip), cmocka_unit_test(pairs_move_together),
        cmocka_unit_test(sizes),         cmocka_unit_test(strange_names),
        cmocka_unit_test(broken_files),  cmocka_unit_test(pipes),
        cmocka_unit_test(loader),
        cmocka_unit_test(planes),        cmocka_unit_test(real_sets),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
