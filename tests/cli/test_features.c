/* test_features.c: kdc similarity and kdc attention: what is drawn, to the pixel, and the numbers behind it.
 *
 * Networks whose features are the picture itself, or a known linear map of it, make maps that this file works out by
 * itself; one case runs the shipped teacher on a shipped photograph and compares with what kdc call gives for the same
 * tap.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"
#include "runtime/host/npz.h"

static const char nets_kd[] = "param width = 2\n"
                              "net Id[](x: [n, 3, h, w]) {\n"
                              "    tap same = x\n"
                              "    tap half = avg_pool2d(x, 2)\n"
                              "    tap list = [x, x]\n"
                              "    tap flat = mean(x, 1)\n"
                              "    tap bad = log(x - 2)\n"
                              "    return x * 1.0\n"
                              "}\n"
                              "net Mix[out = 3](x: [n, 3, h, w]) {\n"
                              "    let conv = conv2d[out, 1, bias = false]\n"
                              "    tap mixed = conv(x)\n"
                              "    return x * 0.5\n"
                              "}\n"
                              "net Pool[](x: [n, 3, h, w]) {\n"
                              "    let y = avg_pool2d(x, 2)\n"
                              "    tap half = y\n"
                              "    return upsample_nearest(y)\n"
                              "}\n"
                              "net Code[](x: [n, 3, h, w]) {\n"
                              "    let conv = conv2d[4, 4, stride = 4]\n"
                              "    let y = conv(x)\n"
                              "    tap code = y\n"
                              "    return mean(y, 3)\n"
                              "}\n"
                              "net Rows[](rows) {\n"
                              "    let first = linear[2, bias = false]\n"
                              "    return first(rows)\n"
                              "}\n"
                              "net Bare[](x: [n, 3, h, w]) {\n"
                              "    let conv = conv2d[3, 1]\n"
                              "    return conv(x)\n"
                              "}\n"
                              "let I = Id[]\n"
                              "let T = frozen Mix[]\n"
                              "let S = Mix[out = width]\n"
                              "let A = conv2d[3, 1, bias = false]\n"
                              "let P = Rows[]\n"
                              "net Keeper[](a: list, b) {\n"
    "    let mlp = [frozen Rows[] for f in a]\n"
    "    return mean(square(a[0] - mlp[0](b)))\n"
    "}\n"
    "net Twice[](x) {\n"
    "    return [x, x]\n"
    "}\n"
    "net Third[](x) {\n"
    "    return x[7]\n"
    "}\n"
    "let K = Keeper[]\n"
    "session fit(x: [1, 3, 8, 8]) {\n"
                              "    let s = S(x)\n"
                              "    let loss = mean(square(A(s.mixed) - T(x).mixed)) + mean(square(s))\n"
    "    log inner = K([zeros([4, 2])], ones([4, 3]))\n"
                              "    minimize loss over S, A with adam(0.01)\n"
                              "    log loss\n"
                              "}\n";

static const float mix[9] = {1, 2, 0, 0, 1, 0, 0.5f, 0, -1}, two[6] = {1, 0, 1, 0, -1, 1},
                   widen[6] = {1, 0, 0, 1, 1, 1}, rows[6] = {1, 0, 0, 0, 1, -2};

/* ---- pictures ------------------------------------------------------------------------------------------- */

static KdImage noise(int width, int height) {
    KdImage x;
    KdTrouble t;
    uint32_t state = 11;
    assert_true(kd_image_new(width, height, 3, 8, &x, &t));
    for (int i = 0; i < width * height * 3; i++) {
        state = state * 1664525u + 1013904223u;
        ((uint8_t *)x.samples)[i] = (uint8_t)(state >> 24);
    }
    return x;
}

static KdImage saved_noise(const Setup *s, const char *name, int width, int height) {
    KdTrouble t;
    KdImage x = noise(width, height);
    assert_true(kd_png_write(in_folder(s, name), &x, NULL, 0, &t));
    return x;
}

static KdImage load(const Setup *s, const char *name) {
    KdImage x = {0};
    KdTrouble t;
    if (!kd_image_read(in_folder(s, name), KD_IMAGE_RGB8, &x, &t)) {
        fail_msg("%s", t.text);
    }
    return x;
}

static const uint8_t *pixel(const KdImage *x, int column, int row) {
    assert_true(column >= 0 && row >= 0 && column < x->width && row < x->height);
    return (const uint8_t *)x->samples + 3 * (row * x->width + column);
}

static void expect_pixel(const KdImage *x, int column, int row, int r, int g, int b) {
    const uint8_t *p = pixel(x, column, row);
    if (p[0] != r || p[1] != g || p[2] != b) {
        fail_msg("at %d,%d: %d %d %d, expected %d %d %d", column, row, p[0], p[1], p[2], r, g, b);
    }
}

static double value(const KdImage *x, int column, int row, int c) { /* as networks get it */
    return pixel(x, column, row)[c] / 127.5 - 1;
}

static KdArrays arrays(const Setup *s, const char *name) {
    KdArrays a = {0};
    KdTrouble t;
    if (!kd_npz_read(in_folder(s, name), &a, &t)) {
        fail_msg("%s", t.text);
    }
    return a;
}

static const KdArray *array(const KdArrays *a, const char *name, int64_t rows_, int64_t columns) {
    const KdArray *x = kd_npz_find(a, name);
    assert_non_null(x);
    assert_int_equal(x->dim[0], rows_);
    assert_int_equal(x->rank > 1 ? x->dim[1] : 0, columns);
    return x;
}

static void near(double got, double want) {
    if (!(fabs(got - want) <= 1e-5 * (1 + fabs(want)))) {
        fail_msg("%.9g, expected %.9g", got, want);
    }
}

static void save_weights(const Setup *s, const char *file, const char *name, int rank, int64_t out, int64_t in,
                         const float *w) {
    const int64_t dim[4] = {out, in, 1, 1};
    KdTensorOut t = {name, KD_STORED_F32, rank, dim, w};
    KdTrouble trouble;
    assert_true(kd_weights_write(in_folder(s, file), &t, 1, NULL, 0, &trouble));
}

static int setup(void **state) {
    static Setup s;
    *state = &s;
    if (!open_setup(&s, "features")) {
        return 0;
    }
    own_cache(&s);
    write_text(&s, "nets.kd", nets_kd, strlen(nets_kd));
    save_weights(&s, "mix.safetensors", "conv.weight", 4, 3, 3, mix);
    save_weights(&s, "two.safetensors", "conv.weight", 4, 2, 3, two);
    save_weights(&s, "widen.safetensors", "weight", 4, 3, 2, widen);
    save_weights(&s, "rows.safetensors", "first.weight", 2, 2, 3, rows);
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

/* ---- attention -------------------------------------------------------------------------------------------- */

enum { TOP = 11, GAP = 2, BAR = 60 }; /* of panels: see grid.c, heat.c */

static int luma(const uint8_t *p) {
    return kd_image_luma(p);
}

/* The picture itself is the feature: one position a pixel. */
static void test_attention(void **state) {
    const Setup *s = ready(state);
    enum { W = 30, H = 24, K = 10 };
    KdImage x = saved_noise(s, "x.png", W, H);
    expect(s, "attention nets.kd:I --tap same -i x.png -o att.png --k 10 --raw att.npz", 0, "stdout",
           "10 of 24 x 30 positions of I.same");
    KdArrays a = arrays(s, "att.npz");
    const KdArray *map = array(&a, "attention", H, W), *at = array(&a, "positions", K, 2);
    for (int i = 0; i < H * W; i++) {
        double want = 0;
        for (int c = 0; c < 3; c++) {
            want += fabs(value(&x, i % W, i / W, c)) / 3;
        }
        near(map->data[i], want);
    }
    bool chosen[H * W] = {false};
    double least = INFINITY, lo = INFINITY;
    int first = 0, last = 0;
    for (int i = 0; i < K; i++) {
        int k = (int)at->data[2 * i] * W + (int)at->data[2 * i + 1];
        chosen[k] = true;
        assert_true(map->data[k] <= least); /* the largest first */
        least = map->data[k];
    }
    for (int i = 0; i < H * W; i++) {
        assert_true(chosen[i] || map->data[i] <= least);
        last = map->data[i] < lo ? i : last;
        lo = map->data[i] < lo ? map->data[i] : lo;
        first = chosen[i] && !chosen[first] ? i : first;
    }
    KdImage y = load(s, "att.png");
    assert_int_equal(y.width, GAP + 3 * (W + GAP) + BAR + GAP);
    assert_int_equal(y.height, TOP + H + GAP);
    int heat = GAP + W + GAP, marked = heat + W + GAP + BAR + GAP;
    for (int i = 0; i < H * W; i++) {
        const uint8_t *p = pixel(&x, i % W, i / W);
        int g = luma(p), dim = g / 2;
        expect_pixel(&y, GAP + i % W, TOP + i / W, p[0], p[1], p[2]);
        expect_pixel(&y, marked + i % W, TOP + i / W, chosen[i] ? p[0] : dim, chosen[i] ? p[1] : dim,
                     chosen[i] ? p[2] : dim);
        if (chosen[i] || i == last) { /* the scale's two ends */
            const int end[2][3] = {{40, 10, 90}, {255, 235, 60}}, *c = end[chosen[i]];
            expect_pixel(&y, heat + i % W, TOP + i / W, (2 * g + 3 * c[0] + 2) / 5, (2 * g + 3 * c[1] + 2) / 5,
                         (2 * g + 3 * c[2] + 2) / 5);
        }
    }
    expect_pixel(&y, heat + W + GAP, TOP, 255, 235, 60);
    expect_pixel(&y, heat + W + GAP, TOP + H - 1, 40, 10, 90);
    kd_npz_free(&a);
    kd_image_free(&x);
    kd_image_free(&y);
}

/* Larger cells: chosen ones are outlined, and the whole map may be chosen. */
static void test_attention_cells(void **state) {
    const Setup *s = ready(state);
    KdImage x = saved_noise(s, "x.png", 16, 16);
    expect(s, "attention nets.kd:Code --tap code -i x.png -o att.png --k 1 --raw att.npz", 0, "stdout",
           "1 of 4 x 4 positions of Code.code");
    KdArrays a = arrays(s, "att.npz");
    const KdArray *at = array(&a, "positions", 1, 2);
    int row = 4 * (int)at->data[0], column = 4 * (int)at->data[1], left = GAP + 2 * (16 + GAP) + BAR + GAP;
    KdImage y = load(s, "att.png");
    for (int i = 0; i < 16 * 16; i++) {
        int r = i / 16, c = i % 16;
        bool inside = r >= row && r < row + 4 && c >= column && c < column + 4;
        bool edge = inside && (r == row || r == row + 3 || c == column || c == column + 3);
        const uint8_t *p = pixel(&x, c, r);
        int dim = luma(p) / 2;
        expect_pixel(&y, left + c, TOP + r,
                     edge     ? 255
                     : inside ? p[0]
                              : dim,
                     edge     ? 225
                     : inside ? p[1]
                              : dim,
                     edge     ? 40
                     : inside ? p[2]
                              : dim);
    }
    kd_npz_free(&a);
    kd_image_free(&x);
    kd_image_free(&y);
    expect(s, "attention nets.kd:Code --tap code -i x.png -o att.png", 0, "stdout",
           "16 of 4 x 4 positions of Code.code (height, width) hold 100.0 %");
}

/* A size that the network does not take is mirrored; positions that are only of the mirrored part are left out. */
static void test_mirrored(void **state) {
    const Setup *s = ready(state);
    KdImage x = saved_noise(s, "odd.png", 13, 9);
    expect(s, "attention nets.kd:Pool --tap half -i odd.png -o att.png --raw att.safetensors", 0, "stdout",
           "of 5 x 7 positions of Pool.half");
    KdTrouble t;
    KdWeights *w = kd_weights_read(in_folder(s, "att.safetensors"), &t);
    assert_non_null(w);
    const KdTensor *map = kd_weights_find(w, "attention");
    assert_non_null(map);
    assert_int_equal(map->count, 35);
    float v[35];
    assert_true(kd_tensor_f32(map, v, &t));
    for (int i = 0; i < 35; i++) {
        double want = 0;
        for (int c = 0; c < 3; c++) {
            double sum = 0;
            for (int k = 0; k < 4; k++) {
                int r = 2 * (i / 7) + k / 2, q = 2 * (i % 7) + k % 2;
                sum += value(&x, q < 13 ? q : 11, r < 9 ? r : 7, c) / 4;
            }
            want += fabs(sum) / 3;
        }
        near((double)v[i], want);
    }
    kd_weights_free(w);
    kd_image_free(&x);
}

/* ---- similarity ------------------------------------------------------------------------------------------- */

static void apply(const float *m, int out, int in, const double *x, double *y) {
    for (int i = 0; i < out; i++) {
        y[i] = 0;
        for (int k = 0; k < in; k++) {
            y[i] += (double)m[i * in + k] * x[k];
        }
    }
}

static double cosine(const double *a, const double *b, int n, bool dot) {
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return dot ? ab : ab / ((sqrt(aa) + 1e-7) * (sqrt(bb) + 1e-7));
}

typedef void Feature(const double *x, double *student, double *teacher);

static void as_they_are(const double *x, double *student, double *teacher) {
    memcpy(student, x, 3 * sizeof *x);
    apply(mix, 3, 3, x, teacher);
}

static void widened(const double *x, double *student, double *teacher) {
    double narrow[2];
    apply(two, 2, 3, x, narrow);
    apply(widen, 3, 2, narrow, student);
    apply(mix, 3, 3, x, teacher);
}

static void narrowed(const double *x, double *student, double *teacher) {
    double wide[3];
    apply(two, 2, 3, x, student);
    apply(mix, 3, 3, x, wide);
    apply(rows, 2, 3, wide, teacher);
}

/* The map of sim.npz for the patch at (column, row) of a 30 x 24 picture is what this file makes it. */
static void check_map(const Setup *s, const KdImage *x, Feature *feature, int channels, bool dot, int column, int row) {
    KdArrays a = arrays(s, "sim.npz");
    const KdArray *map = array(&a, "similarity", 24, 30), *patch = array(&a, "patch", 2, 0),
                  *best = array(&a, "most_similar", 2, 0);
    double in[3], student[3], teacher[3], other[3], most = -INFINITY;
    for (int c = 0; c < 3; c++) {
        in[c] = value(x, column, row, c);
    }
    feature(in, student, other);
    assert_int_equal((int)patch->data[0], row);
    assert_int_equal((int)patch->data[1], column);
    for (int i = 0; i < 24 * 30; i++) {
        for (int c = 0; c < 3; c++) {
            in[c] = value(x, i % 30, i / 30, c);
        }
        feature(in, other, teacher);
        near(map->data[i], cosine(student, teacher, channels, dot));
        most = map->data[i] > most ? map->data[i] : most;
    }
    assert_true(map->data[(int)best->data[0] * 30 + (int)best->data[1]] == most);
    kd_npz_free(&a);
}

#define BOTH "--against T --weights T=mix.safetensors -i x.png -o sim.png --raw sim.npz "

static void test_similarity(void **state) {
    const Setup *s = ready(state);
    KdImage x = saved_noise(s, "x.png", 30, 24);
    expect(s, "similarity nets.kd:I --tap same --tap T=mixed --at 12,9 " BOTH, 0, "stdout",
           "cosine of T.mixed to I.same at 12,9: the same place");
    check_map(s, &x, as_they_are, 3, false, 12, 9);
    KdImage y = load(s, "sim.png");
    assert_int_equal(y.width, GAP + 4 * (30 + GAP) + BAR + GAP); /* input, student, teacher, map, bar */
    assert_int_equal(y.height, TOP + 24 + GAP);
    for (int panel = 0; panel < 3;
         panel++) { /* a frame of white in one of black around 12,9, and the pictures elsewhere */
        int left = GAP + panel * (30 + GAP);
        for (int k = -4; k <= 4; k++) {
            expect_pixel(&y, left + 12 + k, TOP + 9 - 4, 255, 255, 255);
            expect_pixel(&y, left + 12 - 4, TOP + 9 + k, 255, 255, 255);
            expect_pixel(&y, left + 12 + k, TOP + 9 - 5, 0, 0, 0);
        }
        const uint8_t *p = pixel(&x, 12, 9), *far = pixel(&x, 29, 23);
        int half[3], there[3];
        for (int c = 0; c < 3; c++) { /* T gives half of what it gets, around gray */
            half[c] = (int)((p[c] / 127.5 - 1) / 2 * 127.5 + 127.5 + 0.5);
            there[c] = (int)((far[c] / 127.5 - 1) / 2 * 127.5 + 127.5 + 0.5);
        }
        expect_pixel(&y, left + 12, TOP + 9, panel == 2 ? half[0] : p[0], panel == 2 ? half[1] : p[1],
                     panel == 2 ? half[2] : p[2]);
        expect_pixel(&y, left + 29, TOP + 23, panel == 2 ? there[0] : far[0], panel == 2 ? there[1] : far[1],
                     panel == 2 ? there[2] : far[2]);
    }
    kd_image_free(&y);
    expect(s, "similarity nets.kd:I --tap I=same --tap mixed --at 0,23 --measure dot " BOTH, 0, "stdout",
           "dot product of T.mixed to I.same");
    check_map(s, &x, as_they_are, 3, true, 0, 23);
    kd_image_free(&x);
}

/* The same network on both sides: nothing is as like a patch as itself. Without --at the patch is the teacher's largest
 * attention. */
static void test_itself(void **state) {
    const Setup *s = ready(state);
    KdImage x = saved_noise(s, "x.png", 30, 24);
    expect(s, "similarity nets.kd:I --against Id --tap same -i x.png -o sim.png --raw sim.npz", 0, "stdout",
           "the same place 1.0000 (number 1 of 720)");
    KdArrays a = arrays(s, "sim.npz");
    const KdArray *attention = array(&a, "attention", 24, 30), *patch = array(&a, "patch", 2, 0);
    for (int i = 0; i < 720; i++) {
        assert_true(attention->data[i] <= attention->data[(int)patch->data[0] * 30 + (int)patch->data[1]]);
    }
    kd_npz_free(&a);
    expect(s, "similarity nets.kd:I --against Id --tap half --at 5,3 -i x.png -o sim.png --raw sim.npz", 0, "stdout",
           "(number 1 of 180)");
    a = arrays(s, "sim.npz");
    patch = array(&a, "patch", 2, 0);
    assert_int_equal((int)patch->data[0], 1);
    assert_int_equal((int)patch->data[1], 2);
    kd_npz_free(&a);
    kd_image_free(&x);
}

static void test_adaptors(void **state) {
    const Setup *s = ready(state);
    KdImage x = saved_noise(s, "x.png", 30, 24);
#define NARROW "similarity nets.kd:S --tap mixed --at 4,20 --weights S=two.safetensors " BOTH
    expect(s, NARROW, 1, "stderr", "mixed of S has 2 channels, mixed of T 3: --adaptor A names the network");
    expect(s, NARROW "--adaptor A --weights A=widen.safetensors", 0, "stdout", "cosine of T.mixed to S.mixed");
    check_map(s, &x, widened, 3, false, 4, 20);
    expect(s, NARROW "--adaptor T=P --weights P=rows.safetensors", 0, "stdout",
           "cosine"); /* rows of the teacher's, as ReKo's projection */
    check_map(s, &x, narrowed, 2, false, 4, 20);
    expect(s, NARROW "--adaptor T=P -q", 0, "stderr", "");
    expect(s, NARROW "--adaptor A", 0, "stderr", "no weights for A were given: they are random");
    expect(s, NARROW "--adaptor A --weights A=mix.safetensors", 1, "stderr", "");
    expect(s, NARROW "--adaptor Q", 1, "stderr", "--adaptor Q: the file has no network of that name");
    expect(s, NARROW "--adaptor Code", 1, "stderr",
           "Code is no map of features [1, 2, 24, 30]: an adaptor takes a tensor and gives one ('x' of Code: the ");
    expect(s, NARROW "--adaptor K", 1, "stderr",
           "K is no map of features [1, 2, 24, 30]: an adaptor takes a tensor and gives one (Keeper: the argu");
    expect(s, NARROW "--adaptor T=Twice", 1, "stderr", "gives one (Twice gives 2 of them)");
    char *text = read_text(s, "stderr", NULL);
    assert_null(strstr(text, "kdc_adapted"));
    free(text);
    expect(s, NARROW "--adaptor Third", 1, "stderr", "gives one (nets.kd:47:14: ");
#undef NARROW
    kd_image_free(&x);
}

static float inner[6];

static void inside(const double *x, double *student, double *teacher) {
    double wide[3];
    apply(inner, 2, 3, x, student);
    apply(mix, 3, 3, x, wide);
    apply(inner, 2, 3, wide, teacher);
}

/* A run folder is its program, its -D and its weights. */
static void test_run_folder(void **state) {
    const Setup *s = ready(state);
    KdTrouble t;
    KdImage x = saved_noise(s, "x.png", 30, 24);
    mkdir(in_folder(s, "set"), 0777);
    KdImage y = saved_noise(s, "set/a.png", 12, 12);
    expect(s, "train nets.kd --data set --steps 2 --out run -D width=5 --weights T=mix.safetensors -q", 0, "stderr",
           "");
    expect(s, "similarity run:S --tap mixed --adaptor A -i x.png -o one.png --raw one.npz", 0, "stdout",
           "cosine of T.mixed to S.mixed");
    expect(s,
           "similarity nets.kd:S --against T --tap mixed --adaptor A -i x.png -o two.png --raw two.npz --weights run "
           "-D width=5",
           0, "stdout", "");
    KdArrays a = arrays(s, "one.npz"), b = arrays(s, "two.npz");
    assert_memory_equal(array(&a, "similarity", 24, 30)->data, array(&b, "similarity", 24, 30)->data,
                        720 * sizeof(double));
    kd_npz_free(&a);
    kd_npz_free(&b);
    /* one that is inside another network: what K made for itself and keeps */
#define INNER "similarity run:I --against T --tap T=mixed --tap same --at 4,20 -i x.png -o two.png --raw sim.npz "
    expect(s, INNER "--adaptor K.mlp[0]:Rows[] --adaptor T=K.mlp[0]:Rows[]", 0, "stdout", "cosine of T.mixed to I.same");
    KdWeights *kept = kd_weights_read(in_folder(s, "run/frozen.safetensors"), &t);
    assert_non_null(kept);
    assert_true(kd_tensor_f32(kd_weights_find(kept, "K.mlp[0].first.weight"), inner, &t));
    kd_weights_free(kept);
    check_map(s, &x, inside, 2, false, 4, 20);
    assert_int_equal(unlink(in_folder(s, "two.png")), 0);
    expect(s, INNER "--adaptor K.mlp[7]:Rows[]", 1, "stderr",
           "the run run has no weights under K.mlp[7]; it has K.mlp[0]\n");
    expect(s, INNER "--adaptor Z:Rows[]", 1, "stderr", "the run run has no weights under Z\n");
    expect(s, INNER "--adaptor K", 1, "stderr", "hint: inside it are K.mlp[0]: --adaptor 'I=K.mlp[0]:TEMPLATE[...]'");
    assert_int_not_equal(access(in_folder(s, "two.png"), F_OK), 0);
    expect(s, INNER "--adaptor K.mlp[0]:Nothing[]", 1, "stderr", "Nothing");
#undef INNER
    expect(s, "attention run:S --tap mixed -i x.png -o att.png", 0, "stdout", "64 of 24 x 30");
    expect(s, "attention run:S --tap mixed -D width=4 -i x.png -o att.png", 1, "stderr",
           "run was trained with -D width=5");
    expect(s, "attention run:fit --tap mixed -i x.png -o att.png", 1, "stderr", "fit is a session; expected a network");
    expect(s, "attention set:S --tap mixed -i x.png -o att.png", 1, "stderr", "set is no run folder of kdc train");
    kd_image_free(&x);
    kd_image_free(&y);
}

/* ---- the shipped teacher ------------------------------------------------------------------------------------ */

static void test_teacher(void **state) {
    const Setup *s = ready(state);
    enum { W = 96, H = 64, N = W * H };
    const char *models = KDC_SOURCE_DIR "/models";
    KdImage x, small;
    KdTrouble t;
    char line[700];
    snprintf(line, sizeof line, "%s/data/photos/test/kodak-07.jpg", models);
    assert_true(kd_image_read(line, KD_IMAGE_RGB8, &x, &t));
    assert_true(kd_image_resize(&x, W, H, KD_FILTER_BICUBIC, &small, &t));
    float *planes = malloc(sizeof *planes * 3 * N);
    for (int i = 0; i < 3 * N; i++) {
        planes[i] = ((uint8_t *)small.samples)[i % N * 3 + i / N];
    }
    const int64_t dim[4] = {1, 3, H, W};
    KdTensorOut tensor = {"x", KD_STORED_F32, 4, dim, planes};
    assert_true(kd_weights_write(in_folder(s, "photo.safetensors"), &tensor, 1, NULL, 0, &t));
    snprintf(line, sizeof line,
             "call %s/nets/style.kd:StyleGen --weights %s/data/wave.safetensors --in photo.safetensors --tap blocks[2] "
             "--out made.safetensors",
             models, models);
    expect(s, line, 0, "stderr", "");
    snprintf(
        line, sizeof line,
        "attention %s/nets/style.kd:StyleGen --weights %s/data/wave.safetensors -i %s/data/photos/test/kodak-07.jpg "
        "--size 64x96 --range 0..255 --tap blocks[2] -o teacher.png --raw teacher.npz --k 5",
        models, models, models);
    expect(s, line, 0, "stdout", "5 of 16 x 24 positions");
    KdWeights *w = kd_weights_read(in_folder(s, "made.safetensors"), &t);
    const KdTensor *f = w ? kd_weights_find(w, "blocks[2]") : NULL;
    assert_non_null(f);
    assert_int_equal(f->count, 128 * 16 * 24);
    float *v = malloc(sizeof *v * (size_t)f->count);
    assert_true(kd_tensor_f32(f, v, &t));
    KdArrays a = arrays(s, "teacher.npz");
    const KdArray *map = array(&a, "attention", 16, 24);
    for (int i = 0; i < 16 * 24; i++) {
        double sum = 0;
        for (int c = 0; c < 128; c++) {
            sum += fabs((double)v[c * 16 * 24 + i]);
        }
        near(map->data[i], sum / 128);
    }
    KdImage y = load(s, "teacher.png");
    assert_memory_equal(pixel(&y, GAP, TOP), small.samples, 3 * W); /* the picture at --size */
    kd_image_free(&y);
    kd_npz_free(&a);
    kd_weights_free(w);
    free(v);
    free(planes);
    kd_image_free(&x);
    kd_image_free(&small);
}

/* ---- folders and mistakes ------------------------------------------------------------------------------------ */

static void test_folder(void **state) {
    const Setup *s = ready(state);
    KdTrouble t;
    mkdir(in_folder(s, "many"), 0777);
    KdImage a = saved_noise(s, "many/a.png", 8, 8), b = saved_noise(s, "many/b.png", 12, 8);
    expect(s, "attention nets.kd:I --tap half -i many -o made", 0, "stdout", "many/b.png: 24 of 4 x 6");
    KdImage y = load(s, "made/a.png");
    assert_int_equal(y.height, TOP + 8 + GAP);
    kd_image_free(&y);
    assert_true(kd_file_write(in_folder(s, "many/aa.png"), "\x89PNG\r\n\x1a\nnothing", 15, &t));
    assert_int_equal(unlink(in_folder(s, "made/b.png")), 0);
    expect(s, "attention nets.kd:I --tap half -i many -o made", 1, "stderr", "1 of 3 images failed");
    expect(s, "attention nets.kd:I --tap half -i many -o made", 1, "stderr", "many/aa.png");
    assert_int_equal(access(in_folder(s, "made/b.png"), F_OK), 0); /* the others go on */
    expect(s, "attention nets.kd:I --tap half -i many -o made --raw r.npz", 1, "stderr",
           "--raw is for one picture, many has 3");
    expect(s, "attention nets.kd:I --tap half -i many -o many", 1, "stderr", "many is the folder with the images");
    kd_image_free(&a);
    kd_image_free(&b);
}

static void test_mistakes(void **state) {
    const Setup *s = ready(state);
    static const struct {
        const char *line;
        int code;
        const char *text;
    } rows_[] = {
        {"attention nets.kd:I -i x.png -o y.png", 1, "no tap is named; the taps are same, half, list, flat, bad"},
        {"attention nets.kd:I --tap sam -i x.png -o y.png", 1,
         "there is no tap 'sam'; the taps are same, half, list, flat, bad"},
        {"attention nets.kd:Bare --tap none -i x.png -o y.png", 1,
         "there is no tap 'none'; the networks inside are conv"},
        {"attention nets.kd:I --tap list -i x.png -o y.png", 1,
         "the tap list of I is a list of 2: name one of list[0] to list[1]"},
        {"attention nets.kd:I --tap list[4] -i x.png -o y.png", 1,
         "--tap list[4]:1:13: error: there is no element 4: the list has 2"},
        {"attention nets.kd:I --tap flat -i x.png -o y.png", 1,
         "the tap flat of I is f32[1, 24, 30]: expected features [1, channels, height, width]"},
        {"attention nets.kd:I --tap bad -i x.png -o y.png", 1, "x.png: bad of I holds NaN or infinity"},
        {"attention nets.kd:I --tap same --tap half -i x.png -o y.png", 2, "one --tap at a time"},
        {"attention nets.kd:I --tap same -i x.png -o y.jpg", 1, "the name must end in .png"},
        {"attention nets.kd:I --tap same -i x.png -o x.png", 1, "x.png would be overwritten"},
        {"attention nets.kd:I --tap same -i x.png -o y.png --raw y.txt", 1,
         "the name must end in .npz or .safetensors"},
        {"attention nets.kd:I --tap same -i none.png -o y.png", 1, "none.png"},
        {"attention nets.kd:I --tap same -o y.png", 2, "which image?"},
        {"attention nets.kd:I --tap same -i x.png", 2, "where to?"},
        {"attention nets.kd --tap same -i x.png -o y.png", 2, "which network of nets.kd?"},
        {"attention nets.kd:I --tap same -i x.png -o y.png --k 0", 2, "--k needs a number"},
        {"attention nets.kd:I --tap same -i x.png -o y.png --at 1,1", 2, "unknown option --at"},
        {"similarity nets.kd:I --tap same --tap T=mixed -i x.png -o y.png --at 30,4", 1,
         "--at 30,4 is outside: the picture has x from 0 to 29 and y from 0 to 23"},
        {"similarity nets.kd:I --tap same -i x.png -o y.png --at 30", 2, "--at needs X,Y in pixels"},
        {"similarity nets.kd:I --tap same --tap Q=mixed -i x.png -o y.png", 1,
         "--tap Q=mixed: the networks compared are I and T"},
        {"similarity nets.kd:I --tap same -i x.png -o y.png", 1, "there is no tap 'same'; the taps are mixed"},
        {"similarity nets.kd:T --tap mixed -i x.png -o y.png", 1,
         "no frozen network: which is the teacher? --against NET, one of I, S, A, P, K"},
        {"similarity two.kd:S --tap mixed -i x.png -o y.png", 1,
         "more than one frozen network: which is the teacher? --against NET, one of U, T\n"},
        {"similarity loss.kd:S --tap none -i x.png -o y.png", 1, "the taps are mixed"}, /* T: a loss is no teacher */
        {"similarity nets.kd:T --against T --tap mixed -i x.png -o y.png", 2, "that is the student itself"},
        {"similarity nets.kd:I --against nobody --tap same -i x.png -o y.png", 1, "no fn, net or network 'nobody'"},
        {"similarity nets.kd:I --measure l2 --tap same -i x.png -o y.png", 2,
         "--measure needs cosine or dot, got 'l2'"},
        {"similarity nets.kd:I --tap same --tap T=mixed --weights X=mix.safetensors -i x.png -o y.png", 1,
         "--weights X=mix.safetensors: no network at work is called X"},
    };
    static const char imports_two[] = "import \"nets.kd\"\nlet U = frozen Mix[]\nlet S = Mix[out = 2]\n"
                                      "let F = frozen Keeper[]\n",
                      imports_loss[] = "import \"nets.kd\"\nlet F = frozen Keeper[]\nlet T = frozen Mix[]\n";
    KdTrouble t;
    assert_true(kd_file_write(in_folder(s, "two.kd"), imports_two, sizeof imports_two - 1, &t));
    assert_true(kd_file_write(in_folder(s, "loss.kd"), imports_loss, sizeof imports_loss - 1, &t));
    KdImage x = saved_noise(s, "x.png", 30, 24);
    for (size_t i = 0; i < sizeof rows_ / sizeof *rows_; i++) {
        expect(s, rows_[i].line, rows_[i].code, "stderr", rows_[i].text);
    }
    assert_int_not_equal(access(in_folder(s, "y.png"), F_OK), 0); /* nothing was written by any of them */
    kd_image_free(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),  cmocka_unit_test(test_attention_cells), cmocka_unit_test(test_mirrored),
        cmocka_unit_test(test_similarity), cmocka_unit_test(test_itself),          cmocka_unit_test(test_adaptors),
        cmocka_unit_test(test_run_folder), cmocka_unit_test(test_teacher),         cmocka_unit_test(test_folder),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
