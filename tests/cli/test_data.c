/* test_data.c: kdc data as a person runs it: what it prints, JSON, exit codes.
 *
 * Runs the built binary: $KDC_BIN, or ../kdc beside this program; skipped when there is none.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/image.h"

#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char binary[600], top[64], out[65536], err[8192];

static void slurp(const char *name, char *text, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", top, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t got = fread(text, 1, n - 1, f);
    text[got] = '\0';
    fclose(f);
}

/* kdc data ARGUMENTS, quoted for a shell, in the folder; fills out and err. Returns the exit code. */
static int data(const char *arguments) {
    char line[1200];
    if (!*binary) {
        skip();
    }
    snprintf(line, sizeof line, "cd %s && '%s' data %s >stdout 2>stderr", top, binary, arguments);
    int status = system(line);
    assert_true(WIFEXITED(status));
    slurp("stdout", out, sizeof out);
    slurp("stderr", err, sizeof err);
    return WEXITSTATUS(status);
}

static void says(const char *text, const char *words) {
    if (!strstr(text, words)) {
        fail_msg("no '%s' in:\n%s", words, text);
    }
}

static void image(const char *name, int width, int height, int channels, int bits, int value) {
    char path[256];
    KdImage x;
    KdTrouble t;
    snprintf(path, sizeof path, "%s/%s", top, name);
    assert_true(kd_image_new(width, height, channels, bits, &x, &t));
    memset(x.samples, value, (size_t)(width * height * channels * bits / 8));
    assert_true(kd_png_write(path, &x, NULL, 0, &t));
    kd_image_free(&x);
}

static void folder(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", top, name);
    assert_int_equal(mkdir(path, 0777), 0);
}

static int set_up(void **state) {
    (void)state;
    const char *given = getenv("KDC_BIN");
    char self[512];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) {
        *slash = '\0';
    }
    snprintf(binary, sizeof binary, "%s%s", given ? given : self, given ? "" : "/../kdc");
    if (access(binary, X_OK) != 0) {
        *binary = '\0';
    }
    strcpy(top, "/tmp/kdc-data-XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static int tear_down(void **state) {
    (void)state;
    return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void a_good_set(void **state) {
    (void)state;
    folder("good");
    folder("good/train_label");
    folder("good/train_img");
    folder("good/val_label");
    folder("good/val_img");
    image("good/train_label/a.png", 16, 8, 1, 8, 3);
    image("good/train_img/a.png", 16, 8, 3, 8, 3);
    image("good/train_label/b.png", 32, 24, 1, 8, 4);
    image("good/train_img/b.png", 32, 24, 1, 16, 4); /* gray, 16 bits */
    image("good/train_img/only one.png", 16, 8, 3, 8, 3);
    image("good/val_label/a.png", 16, 8, 1, 8, 7);
    image("good/val_img/a.png", 16, 8, 3, 8, 3);
    assert_int_equal(data("good"), 0);
    assert_string_equal(err, "");
    says(out, "layout labels\ntrain\n  samples   2\n  files     4\n");
    says(out, "  sizes     width 16 to 32, height 8 to 24\n  gray      1");
    says(out, "16 bits   1");
    says(out, "labels    2 different: 3..4\n  unreadable 0, wrong 0, without counterpart 1\n");
    says(out, "  warning: good/train_img/only one.png: no counterpart");
    says(out, "val\n  samples   1\n  files     2\n  sizes     all 8x16 (height x width)\n  labels    1 different: 7\n");
    assert_int_equal(data("good --classes 5"), 1);
    says(out, "error: good/val_label/a.png: label 7 at column 0, row 0; expected 0..4");
    assert_int_equal(data("good --classes 5 --ignore-label 7"), 0);
    assert_int_equal(data("good --classes 5 --phase train"), 0);
    assert_null(strstr(out, "val\n"));
    assert_int_equal(data("good --preprocess crop --crop-size 8x20 --phase train"), 1);
    says(out, "error: good/train_label/a.png: 8x16");
}

static void broken_and_strange(void **state) {
    (void)state;
    char path[256];
    KdTrouble t;
    folder("bad");
    image("bad/fine.png", 16, 16, 3, 8, 1);
    snprintf(path, sizeof path, "%s/bad/new\nline \xff.png", top);
    assert_true(kd_file_write(path, "junk", 4, &t));
    assert_int_equal(data("bad"), 1);
    says(out, "layout plain\n(no phases)\n  samples   2\n");
    says(out, "unreadable 1");
    says(out, "error: bad/new\\nline \\xff.png is neither PNG nor JPEG");
    assert_int_equal(data("bad --json"), 1);
    json_t *all = json_loads(out, 0, NULL), *phase = json_array_get(json_object_get(all, "phases"), 0);
    assert_string_equal(json_string_value(json_object_get(all, "layout")), "plain");
    assert_int_equal(json_integer_value(json_object_get(phase, "files")), 2);
    assert_int_equal(json_integer_value(json_object_get(phase, "unreadable")), 1);
    assert_int_equal(json_array_size(json_object_get(phase, "errors")), 1);
    assert_int_equal(json_array_size(json_object_get(phase, "warnings")), 0);
    says(json_string_value(json_array_get(json_object_get(phase, "errors"), 0)), "new\\nline \\xff.png");
    json_decref(all);
}

/* A pipe is no image; pictures of other kinds are counted. */
static void other_kinds(void **state) {
    (void)state;
    static const char *const names[] = {"a.bmp", "b.BMP", "c.webp", "notes.txt", ".hidden.bmp"};
    char path[256];
    KdTrouble t;
    folder("mixed");
    folder("mixed/train");
    image("mixed/train/fine.png", 16, 16, 3, 8, 1);
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/mixed/train/%s", top, names[i]);
        assert_true(kd_file_write(path, "junk", 4, &t));
    }
    assert_int_equal(data("mixed"), 0);
    says(out, "unreadable 0");
    says(out, "\n  3 files of other kinds are not read: .bmp 2, .webp 1; PNG and JPEG are\n");
    assert_int_equal(data("mixed --json"), 0);
    json_t *all = json_loads(out, 0, NULL), *phase = json_array_get(json_object_get(all, "phases"), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(phase, "other_kinds"), ".bmp")), 2);
    json_decref(all);
    snprintf(path, sizeof path, "%s/mixed/train/pipe.png", top);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(30);
    assert_int_equal(data("mixed"), 1);
    alarm(0);
    says(out, "error: mixed/train/pipe.png is a pipe, not a plain file");
    folder("only");
    snprintf(path, sizeof path, "%s/only/x.tif", top);
    assert_true(kd_file_write(path, "junk", 4, &t));
    assert_int_equal(data("only"), 1);
    says(err, "1 file of other kinds is not read: .tif 1; PNG and JPEG are");
}

static void mistakes(void **state) {
    (void)state;
    assert_int_equal(data("nowhere"), 1);
    says(err, "nowhere");
    assert_string_equal(out, "");
    folder("empty");
    assert_int_equal(data("empty"), 1);
    says(err, "no images");
    assert_int_equal(data("empty --layout pairs"), 2);
    says(err, "pairs");
    assert_int_equal(data("empty --preprocess shrink"), 2);
    assert_int_equal(data(""), 2);
    assert_int_equal(data("--help"), 0);
    says(out, "PHASE_label");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_set), cmocka_unit_test(broken_and_strange), cmocka_unit_test(other_kinds),
        cmocka_unit_test(mistakes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
