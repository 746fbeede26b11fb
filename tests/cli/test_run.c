/* test_run.c: kdc run as a person uses it: pictures in, pictures out.
 *
 * Networks with known weights (identities, one colour for each class) make results that are known to the bit; sizes that a
 * network cannot take are compared with the same picture mirrored by this file. Runs the built binary in a folder of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"

#include <png.h>
#include <signal.h>
#include <time.h>

static const char nets_kd[] =
    "net Id[](x: [n, 3, h, w]) {\n"
    "    let conv = conv2d[3, 1, bias = false]\n"
    "    return conv(x)\n"
    "}\n"
    "net Gray[](x: [n, 1, h, w]) {\n"
    "    return x * 1.0\n"
    "}\n"
    "net Open[](x: [n, c, h, w]) {\n"
    "    return x * 1.0\n"
    "}\n"
    "net Map[](x: [n, 4, h, w]) {\n"
    "    let conv = conv2d[3, 1, bias = false]\n"
    "    return conv(x)\n"
    "}\n"
    "net Logits[](x: [n, 3, h, w]) {\n"
    "    let conv = conv2d[4, 1, bias = false]\n"
    "    return conv(x)\n"
    "}\n"
    "net Eight[](x: [n, 3, h, w]) {\n"
    "    let y = x\n"
    "    for i in 0..3 {\n"
    "        y = conv2d[3, 2, stride = 2](y)\n"
    "    }\n"
    "    for i in 0..3 {\n"
    "        y = conv_transpose2d[3, 2, stride = 2](y)\n"
    "    }\n"
    "    return y * 1.0e7 + x\n"
    "}\n"
    "net Twice[](x: [n, 3, h, w]) {\n"
    "    return conv_transpose2d[3, 2, stride = 2](x)\n"
    "}\n"
    "net Patch[](x: [n, 3, h, w]) {\n"
    "    return conv2d[1, 4, stride = 2](x)\n"
    "}\n"
    "net Two[](x: [n, 3, h, w], y: [n, 3, h, w]) {\n"
    "    return x + y\n"
    "}\n"
    "net Fixed[](x: [1, 3, 16, 16]) {\n"
    "    return x * 1.0\n"
    "}\n"
    "net Nan[](x: [n, 3, h, w]) {\n"
    "    return log(x * 0.0 - 1.0)\n"
    "}\n"
    "net Slow[](x: [n, 3, h, w]) {\n"
    "    let y = conv2d[64, 7, padding = 3](x)\n"
    "    return conv2d[3, 7, padding = 3](conv2d[64, 7, padding = 3](y))\n"
    "}\n"
    "let T = Id[]\n"
    "session fit(x: [1, 3, 8, 8]) {\n"
    "    let loss = mean(square(T(x)))\n"
    "    minimize loss over T with adam(0.01)\n"
    "}\n";

/* ---- pictures ------------------------------------------------------------------------------------------- */

static KdImage noise(int width, int height, int channels, int most) {
    KdImage x;
    KdTrouble t;
    uint32_t state = 7;
    assert_true(kd_image_new(width, height, channels, 8, &x, &t));
    for (int i = 0; i < width * height * channels; i++) {
        state = state * 1664525u + 1013904223u;
        ((uint8_t *)x.samples)[i] = (uint8_t)((state >> 16) % (uint32_t)(most + 1));
    }
    return x;
}

static void save(const Setup *s, const char *name, const KdImage *x) {
    KdTrouble t;
    if (!kd_png_write(in_folder(s, name), x, NULL, 0, &t)) {
        fail_msg("%s", t.text);
    }
}

static void save_noise(const Setup *s, const char *name, int width, int height) {
    KdImage x = noise(width, height, 3, 255);
    save(s, name, &x);
    kd_image_free(&x);
}

static KdImage load(const Setup *s, const char *name, KdImageWant want) {
    KdImage x = {0};
    KdTrouble t;
    if (!kd_image_read(in_folder(s, name), want, &x, &t)) {
        fail_msg("%s", t.text);
    }
    return x;
}

static void assert_same(const KdImage *x, const KdImage *y) {
    assert_int_equal(x->width, y->width);
    assert_int_equal(x->height, y->height);
    assert_int_equal(x->channels, y->channels);
    assert_memory_equal(x->samples, y->samples, (size_t)x->width * (size_t)x->height * (size_t)x->channels);
}

static void save_weights(const Setup *s, const char *name, int64_t out, int64_t in, const float *w) {
    const int64_t dim[4] = {out, in, 1, 1};
    KdTensorOut t = {"conv.weight", KD_STORED_F32, 4, dim, w};
    KdTrouble trouble;
    assert_true(kd_weights_write(in_folder(s, name), &t, 1, NULL, 0, &trouble));
}

static int setup(void **state) {
    static Setup s;
    static const float id[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    static const float logits[12] = {1, 0, 0, 0, 1, 0, 0, 0, 1, -1, -1, -1};
    *state = &s;
    if (!open_setup(&s, "run")) {
        return 0;
    }
    own_cache(&s);
    write_text(&s, "nets.kd", nets_kd, strlen(nets_kd));
    save_weights(&s, "id.safetensors", 3, 3, id);
    save_weights(&s, "four.safetensors", 3, 4, logits);
    save_weights(&s, "logits.safetensors", 4, 3, logits);
    return 0;
}

static int teardown(void **state) {
    close_setup(*state);
    return 0;
}

static const Setup *ready(void **state) {
    skip_unless(*state);
    return *state;
}

static bool holds(const char *bytes, size_t n, const char *what, size_t size) {
    for (size_t i = 0; i + size <= n; i++) {
        if (memcmp(bytes + i, what, size) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- one picture ------------------------------------------------------------------------------------------ */

static void test_identity(void **state) {
    const Setup *s = ready(state);
    static const char *const ranges[] = {"", " --range 0..255", " --range 0..1", " --range 0..255 --truncate", " --range -127.5..127.5"};
    KdImage x = noise(17, 9, 3, 255);
    save(s, "x.png", &x);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        char line[256];
        snprintf(line, sizeof line, "run nets.kd:Id --weights id.safetensors -i x.png -o y.png%s", ranges[i]);
        expect(s, line, 0, "stdout", "1 image to y.png");
        KdImage y = load(s, "y.png", KD_IMAGE_RGB8);
        assert_same(&x, &y);
        kd_image_free(&y);
    }
    size_t n;
    char *file = read_text(s, "y.png", &n);
    assert_true(holds(file, n, "tEXtSoftware\0kdc 0.", 19));
    assert_true(holds(file, n, "tEXtNetwork\0nets.kd:Id", 22));
    assert_true(holds(file, n, "tEXtWeights\0id.safetensors", 26));
    free(file);
    kd_image_free(&x);
}

/* Values outside the range are cut off: 2 * x in -1..1. */
static void test_range_is_cut(void **state) {
    const Setup *s = ready(state);
    static const float twice[9] = {2, 0, 0, 0, 2, 0, 0, 0, 2};
    save_weights(s, "twice.safetensors", 3, 3, twice);
    KdImage x = noise(8, 8, 3, 255);
    save(s, "x.png", &x);
    expect(s, "run nets.kd:Id --weights twice.safetensors -i x.png -o y.png --range 0..255", 0, "stdout", "1 image");
    KdImage y = load(s, "y.png", KD_IMAGE_RGB8);
    for (int i = 0; i < 8 * 8 * 3; i++) {
        int v = 2 * ((uint8_t *)x.samples)[i];
        assert_int_equal(((uint8_t *)y.samples)[i], v > 255 ? 255 : v);
    }
    kd_image_free(&x);
    kd_image_free(&y);
}

static void test_gray_alpha_sixteen(void **state) {
    const Setup *s = ready(state);
    KdTrouble t;
    KdImage gray = noise(12, 7, 1, 255), wide, y;
    save(s, "gray.png", &gray);
    expect(s, "run nets.kd:Id --weights id.safetensors -i gray.png -o y.png", 0, "stdout", "1 image");
    y = load(s, "y.png", KD_IMAGE_RGB8);
    for (int i = 0; i < 12 * 7 * 3; i++) {
        assert_int_equal(((uint8_t *)y.samples)[i], ((uint8_t *)gray.samples)[i / 3]);
    }
    kd_image_free(&y);
    assert_true(kd_image_new(12, 7, 1, 16, &wide, &t));
    for (int i = 0; i < 12 * 7; i++) {
        ((uint16_t *)wide.samples)[i] = (uint16_t)(((uint8_t *)gray.samples)[i] * 257);
    }
    save(s, "wide.png", &wide);
    expect(s, "run nets.kd:Gray -i wide.png -o y.png", 0, "stdout", "1 image");
    y = load(s, "y.png", KD_IMAGE_GRAY8);
    assert_same(&gray, &y);
    kd_image_free(&y);
    uint8_t rgba[5 * 5 * 4];
    for (int i = 0; i < 5 * 5 * 4; i++) {
        rgba[i] = (uint8_t)(i * 37);
    }
    png_image png = {.version = PNG_IMAGE_VERSION, .width = 5, .height = 5, .format = PNG_FORMAT_RGBA};
    assert_true(png_image_write_to_file(&png, in_folder(s, "alpha.png"), 0, rgba, 0, NULL));
    expect(s, "run nets.kd:Id --weights id.safetensors -i alpha.png -o y.png", 0, "stdout", "1 image");
    y = load(s, "y.png", KD_IMAGE_RGB8);
    for (int i = 0; i < 5 * 5 * 3; i++) {
        assert_int_equal(((uint8_t *)y.samples)[i], rgba[i / 3 * 4 + i % 3]);
    }
    kd_image_free(&y);
    kd_image_free(&gray);
    kd_image_free(&wide);
}

/* A network of one channel gets a colour picture's luma. */
static void test_luma(void **state) {
    const Setup *s = ready(state);
    save_noise(s, "x.png", 10, 6);
    expect(s, "run nets.kd:Gray -i x.png -o y.png", 0, "stdout", "1 image");
    KdImage want = load(s, "x.png", KD_IMAGE_GRAY8), got = load(s, "y.png", KD_IMAGE_INDEX);
    assert_same(&want, &got);
    kd_image_free(&want);
    kd_image_free(&got);
}

static void test_label_maps(void **state) {
    const Setup *s = ready(state);
    static const float w[3][4] = {{-1, 1, 0, 1}, {-1, 0, 1, 1}, {-1, 0, 0, 1}}; /* a colour for each class */
    save_weights(s, "colours.safetensors", 3, 4, &w[0][0]);
    KdImage x = noise(9, 5, 1, 4);
    save(s, "map.png", &x);
    expect(s, "run nets.kd:Map --weights colours.safetensors -i map.png -o y.png", 0, "stdout", "1 image");
    KdImage y = load(s, "y.png", KD_IMAGE_RGB8);
    for (int i = 0; i < 9 * 5; i++) {
        int label = ((uint8_t *)x.samples)[i]; /* 4 is no class: 0 in all channels */
        for (int c = 0; c < 3; c++) {
            float v = label < 4 ? w[c][label] : 0;
            int want = v < 0 ? 0 : v > 0 ? 255 : 128;
            assert_int_equal(((uint8_t *)y.samples)[3 * i + c], want);
        }
    }
    kd_image_free(&y);
    expect(s, "run nets.kd:Logits --weights logits.safetensors -i y.png -o labels.png", 0, "stdout", "1 image");
    y = load(s, "labels.png", KD_IMAGE_INDEX); /* black: the fourth; (255, 128, 128): the first; ... ; equal ones: the first */
    for (int i = 0; i < 9 * 5; i++) {
        int label = ((uint8_t *)x.samples)[i];
        assert_int_equal(((uint8_t *)y.samples)[i], label == 0 ? 3 : label == 2 ? 1 : 0);
    }
    kd_image_free(&x);
    kd_image_free(&y);
    save_noise(s, "rgb.png", 8, 8);
    expect(s, "run nets.kd:Map --weights colours.safetensors -i rgb.png -o y.png", 1, "stderr", "rgb.png");
}

/* ---- sizes ---------------------------------------------------------------------------------------------- */

static KdImage mirrored(const KdImage *x, int width, int height) {
    KdImage y;
    KdTrouble t;
    assert_true(kd_image_new(width, height, 3, 8, &y, &t));
    for (int r = 0; r < height; r++) {
        for (int k = 0; k < width; k++) {
            int from_r = r < x->height ? r : 2 * (x->height - 1) - r, from_k = k < x->width ? k : 2 * (x->width - 1) - k;
            memcpy((uint8_t *)y.samples + 3 * (r * width + k), (uint8_t *)x->samples + 3 * (from_r * x->width + from_k), 3);
        }
    }
    return y;
}

static void test_mirrored_sizes(void **state) {
    const Setup *s = ready(state);
    KdTrouble t;
    KdImage x = noise(21, 13, 3, 255), larger = mirrored(&x, 24, 16), part;
    save(s, "odd.png", &x);
    save(s, "even.png", &larger);
    expect(s, "run nets.kd:Eight -i odd.png -o odd-out.png -v", 0, "stderr", "odd.png: 21 x 13, mirrored to 24 x 16");
    expect(s, "run nets.kd:Eight -i odd.png -o odd-out.png", 0, "stdout", "1 mirrored");
    expect(s, "run nets.kd:Eight -i even.png -o even-out.png", 0, "stdout", "1 image");
    KdImage got = load(s, "odd-out.png", KD_IMAGE_RGB8), whole = load(s, "even-out.png", KD_IMAGE_RGB8);
    assert_true(memcmp(got.samples, x.samples, 21 * 13 * 3) != 0); /* it is no identity */
    assert_true(kd_image_crop(&whole, 0, 0, 21, 13, &part, &t));
    assert_same(&part, &got);
    kd_image_free(&part);
    kd_image_free(&got);
    kd_image_free(&whole);
    kd_image_free(&larger);
    kd_image_free(&x);
    save_noise(s, "tiny.png", 4, 20);
    expect(s, "run nets.kd:Eight -i tiny.png -o y.png", 1, "stderr", "4 x 20 pixels are too few for Eight: it works from 8 x 24 on");
    save_noise(s, "twelve.png", 12, 11);
    expect(s, "run nets.kd:Fixed -i twelve.png -o y.png", 0, "stdout", "1 mirrored");
    save_noise(s, "x.png", 20, 20);
    expect(s, "run nets.kd:Fixed -i x.png -o z.png", 1, "stderr", "Fixed cannot take 20 x 20 pixels");
    assert_int_equal(access(in_folder(s, "z.png"), F_OK), -1);
}

static void test_other_sizes(void **state) {
    const Setup *s = ready(state);
    save_noise(s, "x.png", 15, 10);
    expect(s, "run nets.kd:Twice -i x.png -o y.png", 0, "stdout", "1 image");
    KdImage y = load(s, "y.png", KD_IMAGE_RGB8);
    assert_int_equal(y.width, 30);
    assert_int_equal(y.height, 20);
    kd_image_free(&y);
    expect(s, "run nets.kd:Id --weights id.safetensors -i x.png -o y.png --size 8x24", 0, "stdout", "1 image");
    KdImage x = load(s, "x.png", KD_IMAGE_RGB8), want;
    KdTrouble t;
    assert_true(kd_image_resize(&x, 24, 8, KD_FILTER_BICUBIC, &want, &t));
    y = load(s, "y.png", KD_IMAGE_RGB8);
    assert_same(&want, &y);
    kd_image_free(&x);
    kd_image_free(&y);
    kd_image_free(&want);
    expect(s, "run nets.kd:Open -i x.png -o y.png", 0, "stdout", "1 image");
}

/* ---- folders ------------------------------------------------------------------------------------------ */

static void test_folder(void **state) {
    const Setup *s = ready(state);
    KdTrouble t;
    make_folder(s, "in");
    make_folder(s, "in/sub.png");
    static const int sizes[][2] = {{8, 8}, {9, 8}, {8, 9}, {10, 8}, {8, 10}, {11, 8}, {8, 8}}; /* more than are kept */
    for (int i = 0; i < 7; i++) {
        char name[32];
        snprintf(name, sizeof name, "in/%c.%s", 'a' + i, i == 3 ? "PNG" : i == 4 ? "jpeg" : "png");
        save_noise(s, name, sizes[i][0], sizes[i][1]);
    }
    size_t n;
    char *bytes = read_text(s, "in/a.png", &n);
    assert_true(kd_file_write(in_folder(s, "in/broken.png"), bytes, n / 2, &t));
    assert_true(kd_file_write(in_folder(s, "in/notes.txt"), "x", 1, &t));
    free(bytes);
    const char *line = "run nets.kd:Id --weights id.safetensors -i in -o out/ --workers 1";
    expect(s, line, 1, "stderr", "in/broken.png");
    expect(s, line, 1, "stderr", "1 of 8 images failed");
    expect(s, line, 1, "stdout", "7 images to out/");
    expect(s, "run nets.kd:Id --weights id.safetensors -i in/ -o out8 --workers 8", 1, "stdout", "7 images to out8");
    for (int i = 0; i < 7; i++) {
        char in[32], one[32], other[32];
        snprintf(in, sizeof in, "in/%c.%s", 'a' + i, i == 3 ? "PNG" : i == 4 ? "jpeg" : "png");
        snprintf(one, sizeof one, "out/%c.png", 'a' + i);
        snprintf(other, sizeof other, "out8/%c.png", 'a' + i);
        KdImage x = load(s, in, KD_IMAGE_RGB8), y = load(s, one, KD_IMAGE_RGB8), z = load(s, other, KD_IMAGE_RGB8);
        assert_same(&x, &y);
        assert_same(&x, &z);
        kd_image_free(&x);
        kd_image_free(&y);
        kd_image_free(&z);
    }
    assert_int_equal(access(in_folder(s, "out/broken.png"), F_OK), -1);
    expect(s, "run nets.kd:Id --weights id.safetensors -i in -o out2 --max-dataset-size 1", 0, "stdout", "1 image to out2");
}

static void test_nothing_is_overwritten(void **state) {
    const Setup *s = ready(state);
    make_folder(s, "two");
    save_noise(s, "two/a.png", 8, 8);
    save_noise(s, "two/a.jpg", 8, 8);
    expect(s, "run nets.kd:Gray -i two -o out3", 1, "stderr", "two/a.jpg and two/a.png would both become out3/a.png");
    assert_int_equal(access(in_folder(s, "out3"), F_OK), -1);
    expect(s, "run nets.kd:Gray -i two -o two", 1, "stderr", "results need another");
    expect(s, "run nets.kd:Gray -i two -o two/../two/", 1, "stderr", "results need another");
    expect(s, "run nets.kd:Gray -i two/a.png -o two/a.png", 1, "stderr", "would be overwritten");
    expect(s, "run nets.kd:Gray -i two/a.png -o two", 1, "stderr", "would be overwritten");
    assert_int_equal(symlink("two/a.png", in_folder(s, "link.png")), 0);
    expect(s, "run nets.kd:Gray -i two/a.png -o link.png", 1, "stderr", "would be overwritten");
    expect(s, "run nets.kd:Gray -i two/a.jpg -o two/b.png", 0, "stdout", "1 image");
}

static void test_what_is_wrong_is_said(void **state) {
    const Setup *s = ready(state);
    save_noise(s, "x.png", 16, 16);
    make_folder(s, "none");
    static const struct { const char *line; int code; const char *err; } rows[] = {
        {"run nets.kd -i x.png -o y.png", 2, "name it: nets.kd:NAME"},
        {"run nets.kd:Id -o y.png", 2, "which image?"},
        {"run nets.kd:Id -i x.png", 2, "where to?"},
        {"run nets.kd:Id -i x.png -o y.png --batch 2", 2, "one at a time"},
        {"run nets.kd:Id -i x.png -o y.jpg", 1, "must end in .png"},
        {"run nets.kd:Id -i absent.png -o y.png", 1, "absent.png"},
        {"run nets.kd:Id -i none -o out4", 1, "no images"},
        {"run nets.kd:Id -i nets.kd -o y.png", 1, "nets.kd"},
        {"run nets.kd:Id -i x.png -o no/such/y.png", 1, "no/such"},
        {"run nets.kd:fit -i x.png -o y.png", 1, "fit is a session"},
        {"run nets.kd:Idd -i x.png -o y.png", 1, "'Idd'"},
        {"run nets.kd:Two -i x.png -o y.png", 1, "x: [1, 3, 16, 16], y: [1, 3, 16, 16]"},
        {"run nets.kd:Patch -i x.png -o y.png", 1, "no whole number of times"},
        {"run nets.kd:Nan -i x.png -o y.png", 1, "NaN"},
        {"run nets.kd:Id -i x.png -o y.png --weights four.safetensors", 1, "conv.weight"},
        {"run nets.kd:Id -i x.png -o y.png --weights T=id.safetensors", 1, "given for T"},
        {"run nets.kd:Id -i x.png -o y.png --weights Id=id.safetensors", 0, ""},
        {"run nets.kd:T -i x.png -o y.png", 0, "they are random"},
        {"run nets.kd:T -i x.png -o y.png -q", 0, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strstr(rows[i].err, "no/such")) { /* a folder that is not there is the machine's or the user's fault */
            assert_int_not_equal(run(s, rows[i].line), 0);
            continue;
        }
        expect(s, rows[i].line, rows[i].code, "stderr", rows[i].err);
    }
    size_t n;
    free(read_text(s, "stdout", &n));
    assert_int_equal(n, 0); /* -q */
}

static int count_files(const Setup *s, const char *folder) {
    int n = 0;
    DIR *d = opendir(in_folder(s, folder));
    for (struct dirent *e; d && (e = readdir(d));) {
        n += e->d_name[0] != '.';
    }
    if (d) {
        closedir(d);
    }
    return n;
}

static void test_interrupt(void **state) {
    const Setup *s = ready(state);
    make_folder(s, "many");
    save_noise(s, "many/000.png", 256, 256);
    for (int i = 1; i < 400; i++) {
        char name[32];
        snprintf(name, sizeof name, "many/%03d.png", i);
        assert_int_equal(link(in_folder(s, "many/000.png"), in_folder(s, name)), 0);
    }
    const char *line = "run nets.kd:Slow -i many -o some";
    pid_t pid = start(s, line, "stdout");
    for (int i = 0; i < 4000 && count_files(s, "some") == 0; i++) {
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    kill(pid, SIGINT);
    assert_int_equal(finish(pid), 130);
    int n = count_files(s, "some");
    assert_in_range(n, 1, 399);
    for (int i = 0; i < n; i++) { /* the first n, each whole */
        char name[32];
        snprintf(name, sizeof name, "some/%03d.png", i);
        KdImage x = load(s, name, KD_IMAGE_RGB8);
        kd_image_free(&x);
    }
}

/* ---- a real network ---------------------------------------------------------------------------------------- */

static void test_style(void **state) {
    const Setup *s = ready(state);
    char photo[512], line[1024];
    const char *data = KDC_SOURCE_DIR "/../shared/data";
    KdImage x = {0}, small = {0};
    KdTrouble t;
    snprintf(photo, sizeof photo, "%s/photos/01.png", data);
    if (access(photo, R_OK) != 0) {
        skip();
    }
    assert_true(kd_image_read(photo, KD_IMAGE_RGB8, &x, &t));
    assert_true(kd_image_resize(&x, 96, 64, KD_FILTER_BICUBIC, &small, &t));
    save(s, "photo.png", &small);
    float *planes = malloc(sizeof *planes * 3 * 96 * 64);
    for (int i = 0; i < 3 * 96 * 64; i++) {
        planes[i] = ((uint8_t *)small.samples)[i % (96 * 64) * 3 + i / (96 * 64)];
    }
    const int64_t dim[4] = {1, 3, 64, 96};
    KdTensorOut tensor = {"x", KD_STORED_F32, 4, dim, planes};
    assert_true(kd_weights_write(in_folder(s, "photo.safetensors"), &tensor, 1, NULL, 0, &t));
    snprintf(line, sizeof line, "call %s:StyleGen --weights %s/styles/wave.safetensors --in photo.safetensors --out made.safetensors",
             KDC_SOURCE_DIR "/models/nets/style.kd", data);
    expect(s, line, 0, "stdout", "");
    snprintf(line, sizeof line, "run %s:StyleGen --weights %s/styles/wave.safetensors -i photo.png -o made.png --range 0..255",
             KDC_SOURCE_DIR "/models/nets/style.kd", data);
    expect(s, line, 0, "stdout", "1 image");
    KdWeights *w = kd_weights_read(in_folder(s, "made.safetensors"), &t);
    const KdTensor *out = w ? kd_weights_find(w, "out") : NULL;
    KdImage y = load(s, "made.png", KD_IMAGE_RGB8);
    assert_non_null(out);
    assert_true(kd_tensor_f32(out, planes, &t));
    for (int i = 0; i < 3 * 96 * 64; i++) {
        float v = planes[i % 3 * 96 * 64 + i / 3];
        int want = v >= 255 ? 255 : v > 0 ? (int)(v + 0.5f) : 0;
        assert_int_equal(((uint8_t *)y.samples)[i], want);
    }
    kd_weights_free(w);
    free(planes);
    kd_image_free(&x);
    kd_image_free(&y);
    kd_image_free(&small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_range_is_cut),
        cmocka_unit_test(test_gray_alpha_sixteen),
        cmocka_unit_test(test_luma),
        cmocka_unit_test(test_label_maps),
        cmocka_unit_test(test_mirrored_sizes),
        cmocka_unit_test(test_other_sizes),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_nothing_is_overwritten),
        cmocka_unit_test(test_what_is_wrong_is_said),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_style),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
