/* test_eval.c: kdc eval as a person uses it, on small pictures made here: two folders, a network on pairs, two networks,
 * label maps, FID; the JSON against numbers computed here; what is missing or wrong is said, with its exit code.
 *
 * FID's Inception network gets weights that are quick to write and still tell pictures apart: each filter is a single 1 (as
 * U8), so features are values of the picture that were carried through.
 *
 * Runs the built binary: $KDC_BIN, or ../kdc beside this program; skipped when there is none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"
#include "frontend/api/api.h"
#include "runtime/host/checkpoint.h"
#include "runtime/host/metrics.h"
#include "runtime/host/npz.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

enum { W = 24, H = 20, PICTURES = 3 };

static const char model_kd[] =
    "net Same(x: [n, 3, h, w]) { return x }\n"
    "net Half(x: [n, 3, h, w]) { return x * 0.5 }\n"
    "net Scale[](x: [n, 3, h, w]) { return x * reshape(weight([1], \"ones\", name = \"w\"), [1, 1, 1, 1]) }\n"
    "let S = Scale[]\n"
    "let T = Scale[]\n"
    "net Nan(x: [n, 3, h, w]) { return log(x - 5) }\n"
    "net Dark(x: [n, 3, h, w]) { return concat([0 - x[:, 0:1], x[:, 0:1]], dim = 1) }\n" /* class 1: bright red */
    "net Paint(x: [n, 2, h, w]) { return concat([x[:, 0:1], x[:, 1:2], x[:, 1:2]], dim = 1) }\n"
    "net Fixed(x: [1, 3, 8, 8]) { return x }\n"
    "net Means(x: [n, 3, h, w]) { return mean(x, [2, 3]) }\n"
    "net Inner(x: [n, 3, h, w]) {\n    tap doubled = x * 2\n    tap half = x[0] * 0.5\n    return x\n}\n";

static Setup here;

/* Runs `kdc eval LINE` in the folder. */
static int eval(const char *line) {
    char all[1024];
    snprintf(all, sizeof all, "eval %s", line);
    int code = run(&here, all);
    if (code >= 1000) {
        fail_msg("kdc %s: signal %d\n%s", all, code - 1000, read_text(&here, "stderr", NULL));
    }
    return code;
}

static json_t *evaluated(const char *line) {
    char all[1024];
    snprintf(all, sizeof all, "eval %s", line);
    return results(&here, all);
}

static void near(double got, double want, double absolute) {
    if (!(fabs(got - want) <= absolute)) {
        fail_msg("%.12g, expected %.12g", got, want);
    }
}

/* ---- pictures ---------------------------------------------------------------------------------------- */

/* Sample i of picture k; which: 0 A, 1 B. */
static uint8_t value(int which, int k, int i) {
    uint32_t x = (uint32_t)(i + 1) * 2654435761u + (uint32_t)k * 40503u + (uint32_t)which * 7919u;
    x ^= x >> 15;
    x *= 2246822519u;
    return (uint8_t)(which ? 128 + (x >> 25) : 64 + (x >> 25)); /* B is brighter */
}

static KdImage picture(int which, int k, int width, int height, int channels) {
    KdImage x;
    KdTrouble t;
    assert_true(kd_image_new(width, height, channels, 8, &x, &t));
    for (int i = 0; i < width * height * channels; i++) {
        ((uint8_t *)x.samples)[i] = value(which, k, i);
    }
    return x;
}

static void write_png(const char *name, const KdImage *x) {
    KdTrouble t;
    if (!kd_png_write(in_folder(&here, name), x, NULL, 0, &t)) {
        fail_msg("%s", t.text);
    }
}

static void make_folders(void) {
    static const char *const names[] = {"a", "b", "pair", "pair/test", "set", "set/test_label", "set/test_img", "un", "un/testA",
                                        "un/testB", "truth", "pred", "odd", "empty"};
    for (int i = 0; i < COUNT(names); i++) {
        assert_int_equal(mkdir(in_folder(&here, names[i]), 0777), 0);
    }
}

static void make_pictures(void) {
    for (int k = 0; k < PICTURES; k++) {
        char name[64];
        KdImage a = picture(0, k, W, H, 3), b = picture(1, k, W, H, 3), map = picture(0, k, W, H, 1), both, guess;
        KdTrouble t;
        assert_true(kd_image_new(2 * W, H, 3, 8, &both, &t) && kd_image_new(W, H, 1, 8, &guess, &t));
        for (int i = 0; i < W * H; i++) {
            uint8_t *to = (uint8_t *)both.samples + (i / W * 2 * W + i % W) * 3;
            memcpy(to, (uint8_t *)a.samples + 3 * i, 3);
            memcpy(to + 3 * W, (uint8_t *)b.samples + 3 * i, 3);
            bool bright = ((uint8_t *)a.samples)[3 * i] >= 128;
            ((uint8_t *)map.samples)[i] = i % 10 == 0 ? 7 : i % 4 == 0 ? !bright : bright; /* 7: ignored */
            ((uint8_t *)guess.samples)[i] = bright;
        }
        static const struct { const char *form; int which; } to[] = {
            {"a/p%d.png", 0}, {"b/p%d.png", 1}, {"pair/test/p%d.png", 2}, {"set/test_label/p%d.png", 3},
            {"set/test_img/p%d.png", 0}, {"un/testB/p%d.png", 1}, {"truth/p%d_gtFine_labelIds.png", 3}, {"pred/p%d.png", 4}};
        const KdImage *const images[] = {&a, &b, &both, &map, &guess};
        for (int i = 0; i < COUNT(to); i++) {
            snprintf(name, sizeof name, to[i].form, k);
            write_png(name, images[to[i].which]);
        }
        if (k < 2) { /* fewer of A */
            snprintf(name, sizeof name, "un/testA/q%d.png", k);
            write_png(name, &a);
        }
        kd_image_free(&a), kd_image_free(&b), kd_image_free(&map), kd_image_free(&both), kd_image_free(&guess);
    }
    KdImage small = picture(0, 0, W - 1, H, 3);
    write_png("odd/p0.png", &small);
    kd_image_free(&small);
}

static int set_up(void **state) {
    (void)state;
    if (!open_setup(&here, "eval")) {
        return 0;
    }
    own_cache(&here);
    make_folders();
    make_pictures();
    const int64_t one = 1;
    const float half = 0.5f;
    const KdTensorOut w = {"w", KD_STORED_F32, 1, &one, &half};
    KdTrouble t;
    write_text(&here, "m.kd", model_kd, strlen(model_kd));
    return kd_weights_write(in_folder(&here, "w.safetensors"), &w, 1, NULL, 0, &t) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    close_setup(&here);
    return 0;
}

/* ---- pictures against pictures ------------------------------------------------------------------------- */

typedef struct Expected { /* over the pictures: mean, deviation (n - 1) of L1, PSNR, SSIM */
    double mean[3], deviation[3];
} Expected;

static Expected expected_of(KdImage (*make)(int k)) {
    Expected e = {{0}, {0}};
    double v[3][PICTURES];
    KdTrouble t;
    for (int k = 0; k < PICTURES; k++) {
        KdImage got = make(k), want = picture(1, k, W, H, 3);
        assert_true(kd_metric_l1(&got, &want, &v[0][k], &t) && kd_metric_psnr(&got, &want, &v[1][k], &t) &&
                    kd_metric_ssim(&got, &want, &v[2][k], &t));
        kd_image_free(&got);
        kd_image_free(&want);
    }
    for (int m = 0; m < 3; m++) {
        for (int k = 0; k < PICTURES; k++) {
            e.mean[m] += v[m][k] / PICTURES;
        }
        for (int k = 0; k < PICTURES; k++) {
            e.deviation[m] += (v[m][k] - e.mean[m]) * (v[m][k] - e.mean[m]) / (PICTURES - 1);
        }
        e.deviation[m] = sqrt(e.deviation[m]);
    }
    return e;
}

static KdImage same(int k) {
    return picture(0, k, W, H, 3);
}

/* What Half makes of A: half the distance to middle gray, in the arithmetic of pictures. */
static KdImage halved(int k) {
    KdImage x = same(k);
    for (int i = 0; i < W * H * 3; i++) {
        uint8_t *v = (uint8_t *)x.samples + i;
        *v = (uint8_t)floorf((((float)*v / 255 - 0.5f) / 0.5f * 0.5f + 1) / 2 * 255 + 0.5f);
    }
    return x;
}

static void agrees(json_t *all, const Expected *e) {
    static const char *const names[] = {"l1", "psnr", "ssim"};
    for (int m = 0; m < 3; m++) {
        char path[64];
        snprintf(path, sizeof path, "metrics.%s.mean", names[m]);
        near(at(all, path), e->mean[m], 1e-9);
        snprintf(path, sizeof path, "metrics.%s.deviation", names[m]);
        near(at(all, path), e->deviation[m], 1e-9);
    }
    assert_int_equal((int)at(all, "data.count"), PICTURES);
    assert_int_equal(json_array_size(json_object_get(all, "pictures")), PICTURES);
    json_decref(all);
}

static void folders_and_networks(void **state) {
    (void)state;
    skip_unless(&here);
    Expected e = expected_of(same), h = expected_of(halved);
    agrees(evaluated("--pred a --truth b --json"), &e);
    agrees(evaluated("m.kd:Same --data pair --json"), &e);
    agrees(evaluated("m.kd:Half --data pair --json"), &h);
    agrees(evaluated("m.kd:S --data pair --weights w.safetensors --json"), &h);
    agrees(evaluated("m.kd:S --data pair --weights S=w.safetensors --threads 1 --json"), &h);
    /* 0..1: half of it is another picture than half of -1..1 */
    json_t *range = evaluated("m.kd:Half --data pair --range 0..1 --json");
    assert_true(at(range, "metrics.l1.mean") > h.mean[0] + 1);
    json_decref(range);
}

static void other_direction(void **state) {
    (void)state;
    skip_unless(&here);
    json_t *ab = evaluated("m.kd:Same --data pair --json"), *ba = evaluated("m.kd:Same --data pair --direction BtoA --json");
    near(at(ba, "metrics.psnr.mean"), at(ab, "metrics.psnr.mean"), 1e-9);
    const char *x = json_string_value(json_object_get(json_object_get(ab, "data"), "reference_pixels_hash"));
    const char *y = json_string_value(json_object_get(json_object_get(ba, "data"), "reference_pixels_hash"));
    assert_string_not_equal(x, y);
    json_decref(ab);
    json_decref(ba);
}

/* A run folder of that direction, as kdc train leaves it. */
static void run_of_the_other_direction(void **state) {
    (void)state;
    skip_unless(&here);
    static const char toward_a[] = "{\"program\": \"0\", \"arguments\": {\"file\": \"m.kd\", \"b_to_a\": true}}",
                      toward_b[] = "{\"program\": \"0\", \"arguments\": {\"file\": \"m.kd\"}}",
                      warning[] = "warning: run was trained with --direction BtoA, this is AtoB\n";
    const int64_t one = 1;
    const float half = 0.5f;
    const KdTensorOut w = {"S.w", KD_STORED_F32, 1, &one, &half};
    KdTrouble t;
    assert_int_equal(mkdir(in_folder(&here, "run"), 0777), 0);
    assert_true(kd_checkpoint_write(in_folder(&here, "run"), 1, &w, 1, NULL, 0, &t));
    for (int k = 0; k < 3; k++) { /* told; asked for; trained so */
        const char *kept = k == 2 ? toward_b : toward_a;
        assert_true(kd_file_write(in_folder(&here, "run/kdc.json"), kept, strlen(kept), &t));
        int code = eval(k == 1 ? "m.kd:S --data pair --weights run --direction BtoA" : "m.kd:S --data pair --weights run");
        char *text = read_text(&here, "stderr", NULL);
        if (code != 0 || (k == 0) != (strstr(text, warning) != NULL)) {
            fail_msg("%d: exit code %d: %s", k, code, text);
        }
        free(text);
    }
}

/* S halves, T does not: against T, S is as far as Half is from Same. */
static void one_network_against_another(void **state) {
    (void)state;
    skip_unless(&here);
    json_t *v = evaluated("m.kd:S --against T --data pair --weights S=w.safetensors --json");
    double sum = 0;
    KdTrouble t;
    for (int k = 0; k < PICTURES; k++) {
        KdImage a = halved(k), b = same(k);
        double l1;
        assert_true(kd_metric_l1(&a, &b, &l1, &t));
        sum += l1 / PICTURES;
        kd_image_free(&a);
        kd_image_free(&b);
    }
    near(at(v, "metrics.l1.mean"), sum, 1e-9);
    assert_string_equal(json_string_value(json_object_get(v, "against")), "T");
    json_decref(v);
    json_t *w = evaluated("m.kd:Same --against Half --data a --layout plain --max-dataset-size 2 --json"); /* no pairs needed */
    assert_int_equal((int)at(w, "data.count"), 2);
    json_decref(w);
}

static void sizes(void **state) {
    (void)state;
    skip_unless(&here);
    json_t *v = evaluated("m.kd:Fixed --data pair --crop-size 8x8 --metrics l1 --json");
    assert_non_null(strstr(json_string_value(json_object_get(json_object_get(v, "data"), "preprocess")), "crop 8x8"));
    assert_true(at(v, "metrics.l1.mean") > 1);
    json_decref(v);
    assert_int_equal(eval("m.kd:Fixed --data pair"), 1);
    char *text = read_text(&here, "stderr", NULL);
    assert_non_null(strstr(text, "Fixed takes x: [1, 3, 8, 8] only"));
    free(text);
}

/* SSIM's window is 11 x 11: of smaller pictures there is none, but the rest. */
static void small_pictures(void **state) {
    (void)state;
    skip_unless(&here);
    assert_int_equal(mkdir(in_folder(&here, "small"), 0777), 0);
    assert_int_equal(mkdir(in_folder(&here, "small/got"), 0777), 0);
    assert_int_equal(mkdir(in_folder(&here, "small/want"), 0777), 0);
    for (int k = 0; k < 2; k++) {
        int width = k ? 10 : W;
        KdImage x = picture(0, k, width, H, 3), y = picture(1, k, width, H, 3);
        write_png(k ? "small/got/p1.png" : "small/got/p0.png", &x);
        write_png(k ? "small/want/p1.png" : "small/want/p0.png", &y);
        kd_image_free(&x);
        kd_image_free(&y);
    }
    json_t *v = evaluated("--pred small/got --truth small/want --json");
    assert_true(at(v, "metrics.l1.mean") > 1 && at(v, "metrics.psnr.mean") > 1);
    assert_null(json_object_get(json_object_get(v, "metrics"), "ssim"));
    const char *why = json_string_value(json_object_get(json_object_get(v, "not_computed"), "ssim"));
    assert_string_equal(why, "it needs pictures of at least 11 x 11, p1.png is 10 x 20");
    json_decref(v);
    assert_int_equal(eval("--pred small/got --truth small/want -v"), 0);
    char *text = read_text(&here, "stdout", NULL);
    assert_non_null(strstr(text, "SSIM              -  it needs pictures of at least 11 x 11, p1.png is 10 x 20\n"));
    free(text);
    assert_int_equal(eval("--pred small/got --truth small/want --metrics l1,ssim"), 1);
    text = read_text(&here, "stderr", NULL);
    assert_non_null(strstr(text, "p1.png: SSIM needs pictures of at least 11 x 11, found 10 x 20"));
    free(text);
}

/* ---- label maps ---------------------------------------------------------------------------------------- */

/* Of the maps of make_pictures: every tenth pixel is ignored, of the others every fourth is wrong. */
static void label_scores(json_t *all) {
    int right = 0, all_pixels = 0;
    for (int i = 0; i < W * H; i++) {
        all_pixels += i % 10 != 0;
        right += i % 10 != 0 && i % 4 != 0;
    }
    near(at(all, "metrics.pixel_accuracy"), (double)right / all_pixels, 1e-12);
    assert_true(at(all, "metrics.miou") > 0.3 && at(all, "metrics.miou") < 0.75);
    assert_true(at(all, "metrics.class_accuracy") > 0.4);
    assert_null(json_object_get(json_object_get(all, "metrics"), "l1"));
    json_decref(all);
}

static void label_maps(void **state) {
    (void)state;
    skip_unless(&here);
    label_scores(evaluated("--pred pred --truth truth --classes 2 --ignore-label 7 --json"));
    label_scores(evaluated("m.kd:Dark --data set --ignore-label 7 --json"));
    json_t *painted = evaluated("m.kd:Paint --data set --ignore-label 7 --json");
    assert_true(at(painted, "metrics.l1.mean") > 1);
    json_decref(painted);
    json_t *perfect = evaluated("--pred pred --truth pred --classes 2 --json");
    near(at(perfect, "metrics.miou"), 1, 0);
    json_decref(perfect);
    assert_int_equal(eval("--pred pred --truth truth --classes 2"), 1);
    char *text = read_text(&here, "stderr", NULL);
    assert_non_null(strstr(text, "label 7 at"));
    free(text);
}

/* ---- FID ----------------------------------------------------------------------------------------------- */

/* Weights as the head of this file says. */
static void write_inception(void) {
    static const char text[] = "import \"nets/inception.kd\"\nlet I = Inception[]\n";
    KdcProgram *p = kdc_open("test", text, sizeof text - 1, &(KdcOptions){0});
    KdNetOptions o;
    KdcUnit u; /* names and shapes alone: nothing is compiled */
    assert_true(kdc_net_options(p, &(KdcShapes){0}, &o) && kdc_unit_net(p, "I", &o, &u));
    KdTensorOut *out = calloc((size_t)u.func->inputs.n, sizeof *out);
    int n = 0;
    for (int i = 0; i < u.func->inputs.n; i++) {
        KdValue input = u.func->inputs.v[i];
        const KdType *type = kd_vtype(u.func, input);
        const char *name = kd_attr_str(u.func, kd_node(u.func, input), "name");
        if (kd_input_role(u.func, input) == KD_DATA) {
            continue;
        }
        uint8_t *v = kdc_memory(p, type->count);
        size_t end = strlen(name);
        int ones = type->rank == 1 && (strcmp(name + end - 6, "weight") == 0 || strcmp(name + end - 3, "var") == 0);
        memset(v, ones, (size_t)type->count);
        for (int64_t k = 0, each = type->rank == 4 ? type->count / type->dim[0] : 0; each && k < type->dim[0]; k++) {
            v[k * each + (int64_t)((k * 2654435761u >> 3) % (uint64_t)each)] = 1;
        }
        out[n++] = (KdTensorOut){name, KD_STORED_U8, type->rank, type->dim, v};
    }
    KdTrouble t;
    assert_true(kd_weights_write(in_folder(&here, "inception.safetensors"), out, n, NULL, 0, &t));
    free(out);
    kdc_close(p);
}

static void fid(void **state) {
    (void)state;
    skip_unless(&here);
    write_inception();
    json_t *v = evaluated("--pred a --truth b --max-dataset-size 2 --inception inception.safetensors --metrics fid,l1 --json");
    double ab = at(v, "metrics.fid.value");
    assert_true(ab > 0.01);
    assert_int_equal((int)at(v, "metrics.fid.generated"), 2);
    assert_int_equal((int)at(v, "metrics.fid.references"), 2);
    json_decref(v);
    v = evaluated("--pred un/testA --ref un/testA --inception inception.safetensors --json"); /* the same set */
    near(at(v, "metrics.fid.value"), 0, 1e-6 * ab);
    json_decref(v);
    v = evaluated("m.kd:Same --data un --inception inception.safetensors --json"); /* 2 of A, 3 of B */
    assert_int_equal((int)at(v, "metrics.fid.generated"), 2);
    assert_int_equal((int)at(v, "metrics.fid.references"), 3);
    assert_int_equal((int)at(v, "data.count"), 2);
    json_decref(v);
    double *stats = calloc(2048 * 2049, sizeof *stats);
    const KdArray arrays[] = {{"mu", 1, {2048}, 2048, stats}, {"sigma", 2, {2048, 2048}, 2048 * 2048, stats + 2048}};
    KdTrouble t;
    assert_true(kd_npz_write(in_folder(&here, "stats.npz"), arrays, 2, &t) && kd_npz_write(in_folder(&here, "bad.npz"), arrays, 1, &t));
    free(stats);
    v = evaluated("--pred a --max-dataset-size 2 --ref stats.npz --inception inception.safetensors --json");
    assert_true(at(v, "metrics.fid.value") > 0.01);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json_object_get(v, "metrics"), "fid"), "reference")),
                        "stats.npz");
    json_decref(v);
    assert_int_equal(eval("--pred a --ref bad.npz --inception inception.safetensors"), 1);
    char *text = read_text(&here, "stderr", NULL);
    assert_non_null(strstr(text, "expected sigma of 2048 x 2048 numbers, found no such array"));
    free(text);
}

/* ---- a Frechet distance of other features ------------------------------------------------------------------ */

/* Means of the channels, as -1..1, of which = 0 against 1; `factor`: the features are so many times that. */
static double expected_distance(double factor) {
    double mean[2][3], cov[2][9], d;
    KdTrouble t;
    for (int which = 0; which < 2; which++) {
        KdMoments *m = kd_moments_new(3, &t);
        for (int k = 0; k < PICTURES; k++) {
            float row[3];
            for (int c = 0; c < 3; c++) {
                double sum = 0;
                for (int i = 0; i < W * H; i++) {
                    sum += (value(which, k, 3 * i + c) / 255.0 - 0.5) / 0.5;
                }
                row[c] = (float)(factor * sum / (W * H));
            }
            kd_moments_add(m, row);
        }
        assert_true(kd_moments_get(m, mean[which], cov[which], &t));
        kd_moments_free(m);
    }
    assert_true(kd_frechet(3, mean[0], cov[0], mean[1], cov[1], &d, &t));
    return d;
}

static void frechet(void **state) {
    (void)state;
    skip_unless(&here);
    static const struct { const char *line; double factor; } rows[] = {
        {"m.kd:Same --data pair --features m.kd:Means --json", 1},
        {"--pred a --truth b --features m.kd:Inner.doubled --metrics frechet --json", 2},
        {"--pred a --ref b --features m.kd:Same --json", 1}, /* what it gives; the reference is a folder */
        {"--pred a --truth b --features m.kd:S --feature-weights w.safetensors --json", 0.5},
    };
    for (int i = 0; i < COUNT(rows); i++) {
        json_t *v = evaluated(rows[i].line), *metrics = json_object_get(v, "metrics");
        double want = expected_distance(rows[i].factor);
        near(at(v, "metrics.frechet.value"), want, 1e-5 * want);
        assert_int_equal((int)at(v, "metrics.frechet.feature_count"), 3);
        assert_int_equal((int)at(v, "metrics.frechet.generated"), PICTURES);
        assert_int_equal((int)at(v, "metrics.frechet.references"), PICTURES);
        const char *features = json_string_value(json_object_get(json_object_get(metrics, "frechet"), "features"));
        assert_non_null(features);
        assert_non_null(strstr(rows[i].line, features));
        assert_null(json_object_get(metrics, "fid"));
        json_decref(v);
    }
    double mu[3] = {0}, sigma[9] = {0};
    const KdArray arrays[] = {{"mu", 1, {3}, 3, mu}, {"sigma", 2, {3, 3}, 9, sigma}}, two = {"mu", 1, {2}, 2, mu};
    const KdArray wrong[] = {two, {"sigma", 2, {2, 2}, 4, sigma}};
    KdTrouble t;
    assert_true(kd_npz_write(in_folder(&here, "three.npz"), arrays, 2, &t) && kd_npz_write(in_folder(&here, "two.npz"), wrong, 2, &t));
    json_t *v = evaluated("--pred a --ref three.npz --features m.kd:Means --json");
    assert_true(at(v, "metrics.frechet.value") > 0);
    json_decref(v);
    assert_int_equal(eval("m.kd:Same --data pair --features m.kd:Means"), 0);
    char *text = read_text(&here, "stdout", NULL);
    assert_non_null(strstr(text, "3 features of m.kd:Means: no FID"));
    assert_non_null(strstr(text, "fewer than 4 pictures"));
    free(text);
}

/* ---- what is said -------------------------------------------------------------------------------------- */

static void the_table(void **state) {
    (void)state;
    skip_unless(&here);
    assert_int_equal(eval("m.kd:Same --data pair -v"), 0);
    static const char *const has[] = {"Same of m.kd against the data's own pictures", "3 pictures of pair (aligned, test, AtoB)",
                                      "preprocess none", "p1.png", "mean  deviation", "PSNR",
                                      "FID               -  --inception FILE is not given"};
    char *text = read_text(&here, "stdout", NULL);
    for (int i = 0; i < COUNT(has); i++) {
        if (!strstr(text, has[i])) {
            fail_msg("no '%s' in\n%s", has[i], text);
        }
    }
    free(text);
}

/* ---- running statistics, estimated anew ------------------------------------------------------------------ */

static const char norms_kd[] =
    "net Sum[](x: [n, 3, h, w]) {\n"
    "    let running_mean = buffer([1], \"zeros\")\n"
    "    if training { update running_mean = running_mean + mean(x) }\n"
    "    return x + running_mean\n"
    "}\n"
    "net Two[](x: [n, 3, h, w]) {\n"
    "    let first = batch_norm[momentum = 0.3]\n"
    "    let second = conv2d[3, 1, spectral = true]\n"
    "    let third = batch_norm[affine = false, momentum = 1]\n"
    "    return x |> first |> second |> third\n"
    "}\n"
    "let S = Two[]\n";

/* Mean and unbiased variance of channel c of the A pictures first..last together, as -1..1. */
static void moments_of(int first, int last, int c, double *mean, double *var) {
    double sum = 0, squares = 0, n = (last - first + 1) * W * H;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = first; k <= last; k++) {
            for (int i = 0; i < W * H; i++) {
                double v = (value(0, k, 3 * i + c) / 255.0 - 0.5) / 0.5;
                sum += pass ? 0 : v / n;
                squares += pass ? (v - sum) * (v - sum) / (n - 1) : 0;
            }
        }
    }
    *mean = sum;
    *var = squares;
}

static const float *tensor(const KdWeights *w, const char *name) {
    const KdTensor *t = kd_weights_find(w, name);
    assert_non_null(t);
    return (const float *)t->data;
}

static KdWeights *calibrated(const char *options) {
    char line[512];
    KdTrouble t;
    snprintf(line, sizeof line, "norms.kd:S --data pair --calibrate-phase test --save-calibrated c.safetensors --json -q %s", options);
    json_t *all = evaluated(line);
    assert_int_equal((int)at(all, "calibration.norms"), 2);
    json_decref(all);
    KdWeights *w = kd_weights_read(in_folder(&here, "c.safetensors"), &t);
    assert_non_null(w);
    return w;
}

static void statistics_anew(void **state) {
    (void)state;
    skip_unless(&here);
    KdTrouble t;
    assert_true(kd_file_write(in_folder(&here, "norms.kd"), norms_kd, strlen(norms_kd), &t));
    KdWeights *one = calibrated("--calibrate 3"), *all = calibrated("--calibrate 1 --batch 3");
    for (int c = 0; c < 3; c++) {
        double mean[PICTURES], var[PICTURES], m, v;
        moments_of(0, PICTURES - 1, c, &m, &v);
        near(tensor(all, "first.running_mean")[c], m, 1e-6);
        near(tensor(all, "first.running_var")[c], v, 1e-6);
        for (int k = 0; k < PICTURES; k++) {
            moments_of(k, k, c, &mean[k], &var[k]);
        }
        near(tensor(one, "first.running_mean")[c], (mean[0] + mean[1] + mean[2]) / 3, 1e-6);
        near(tensor(one, "first.running_var")[c], (var[0] + var[1] + var[2]) / 3, 1e-6);
        /* buffers that are no statistics stay as they were, however many steps there were */
        near(tensor(one, "second.weight_u")[c], tensor(all, "second.weight_u")[c], 0);
    }
    kd_weights_free(one);
    json_t *now = evaluated("norms.kd:S --data pair --calibrate-phase test --calibrate 1 --batch 3 --json");
    json_t *later = evaluated("norms.kd:S --data pair --weights c.safetensors --json");
    json_t *before = evaluated("norms.kd:S --data pair --json");
    near(at(now, "metrics.l1.mean"), at(later, "metrics.l1.mean"), 0);
    assert_true(fabs(at(now, "metrics.l1.mean") - at(before, "metrics.l1.mean")) > 1);
    json_decref(now), json_decref(later), json_decref(before);
    kd_weights_free(all);
    json_t *none = evaluated("m.kd:S --data pair --calibrate-phase test --calibrate 2 --json");
    assert_int_equal((int)at(none, "calibration.norms"), 0);
    json_decref(none);
    char *text = read_text(&here, "stderr", NULL);
    assert_non_null(strstr(text, "S has no running statistics"));
    free(text);
    assert_int_equal(eval("norms.kd:Sum --data pair --calibrate-phase test --calibrate 2"), 1);
    text = read_text(&here, "stderr", NULL);
    assert_non_null(strstr(text, "running_mean of Sum is not updated as a running average"));
    free(text);
    assert_int_equal(eval("norms.kd:S --data pair --save-calibrated c.safetensors"), 2);
    assert_int_equal(eval("norms.kd:S --data pair --calibrate 2 --save-calibrated norms.kd"), 1);
}

static void wrong_lines(void **state) {
    (void)state;
    skip_unless(&here);
    static const struct { const char *line; int code; const char *says; } rows[] = {
        {"", 2, "which file?"},
        {"m.kd --data pair", 2, "which network of m.kd?"},
        {"m.kd:Same", 2, "--data FOLDER"},
        {"m.kd:Same --data pair --metrics l1,fod", 2, "got 'fod'"},
        {"--pred a", 2, "--pred needs --truth"},
        {"m.kd:Same --truth b", 2, "--truth needs --pred"},
        {"m.kd:Same --pred a --truth b", 2, "no network"},
        {"m.kd:Same --data pair --preprocess shrink", 1, "not 'shrink'"},
        {"m.kd:Same --data pair --layout pairs", 1, "not 'pairs'"},
        {"m.kd:Same --data nowhere", 1, "nowhere"},
        {"m.kd:None --data pair", 1, "None"},
        {"m.kd:Same --data pair --metrics fid", 1, "no FID: --inception FILE is not given"},
        {"m.kd:Same --data pair --metrics miou", 1, "no mIoU: the network gives pictures"},
        {"m.kd:Same --data un --metrics ssim", 1, "no SSIM: the data set has no pairs"},
        {"--pred a --truth b --metrics miou", 1, "no mIoU: --classes N is not given"},
        {"m.kd:Same --data a", 1, "there is nothing to compare Same of m.kd with: the data set has no pairs (--against NET"},
        {"m.kd:Same --data a", 1, "give --against NET, or a paired data set"},
        {"m.kd:Same --data un", 1, "no FID: --inception FILE is not given"},
        {"--pred a --ref a", 1, "--truth FOLDER is not given; no FID: --inception FILE is not given"},
        {"--pred a --ref a --metrics l1", 1, "no L1: --truth FOLDER is not given"},
        {"--pred odd --truth b", 1, "of different sizes: 23 x 20 with 3 channels and 24 x 20 with 3"},
        {"--pred a --truth empty", 1, "empty: no images there"},
        {"--pred a --truth un/testA", 1, "no image of a has the name of one of un/testA"},
        {"m.kd:Nan --data pair", 1, "p0.png: Nan gives NaN or infinity"},
        {"m.kd:Dark --data pair", 1, ""},
        {"m.kd:Same --against Dark --data pair", 1, "they cannot be compared"},
        {"m.kd:S --data pair --weights w2.safetensors", 1, "w2.safetensors"},
        {"--pred a --truth b --inception w.safetensors", 1, "these are not the weights of FID's Inception network"},
        {"m.kd:Same --data pair --weight S", 1, ""},
        {"m.kd:Same --data pair --metrics frechet", 1, "no Frechet: --features FILE.kd:NET.TAP is not given"},
        {"--pred a --truth b --features m.kd", 1, "--features m.kd: expected FILE.kd:NET or FILE.kd:NET.TAP"},
        {"--pred a --truth b --features m.kd:Same.", 1, "--features m.kd:Same.: expected FILE.kd:NET"},
        {"--pred a --truth b --features gone.kd:S", 1, "gone.kd"},
        {"--pred a --truth b --features m.kd:Gone", 1, "Gone"},
        {"--pred a --truth b --features m.kd:Inner.outer", 1, "outer"},
        {"--pred a --truth b --features m.kd:Inner.half", 1, "the tap half of Inner is f32[3, 20, 24]"},
        {"--pred a --truth b --features a:S", 1, "a is no run folder"},
        {"--pred a --truth b --features m.kd:Paint", 1, "m.kd:Paint takes no colour pictures"},
        {"--pred a --ref two.npz --features m.kd:Means", 1, "two.npz has statistics of 2 features, m.kd:Means gives 3"},
        {"--pred a --truth b --features m.kd:S --feature-weights gone.safetensors", 1, "gone.safetensors"},
    };
    for (int i = 0; i < COUNT(rows); i++) {
        int code = eval(rows[i].line);
        char *text = read_text(&here, "stderr", NULL), *out = read_text(&here, "stdout", NULL);
        if (code != rows[i].code || !strstr(text, rows[i].says) || *out) {
            fail_msg("kdc eval %s: exit code %d (expected %d), expected '%s' in\n%s%s", rows[i].line, code, rows[i].code,
                     rows[i].says, text, out);
        }
        free(text);
        free(out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_and_networks), cmocka_unit_test(other_direction),
        cmocka_unit_test(run_of_the_other_direction),
        cmocka_unit_test(one_network_against_another), cmocka_unit_test(sizes), cmocka_unit_test(small_pictures),
        cmocka_unit_test(label_maps),
        cmocka_unit_test(fid), cmocka_unit_test(frechet), cmocka_unit_test(the_table), cmocka_unit_test(statistics_anew),
        cmocka_unit_test(wrong_lines),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
