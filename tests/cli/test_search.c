/* test_search.c: kdc search as a person uses it: the optimum of a small space is found, budgets are
 * kept, an interrupted search and one with more processes give the same, predictions are shown, and
 * what is wrong is said in a sentence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"

#include <signal.h>
#include <sys/file.h>
#include <time.h>

/* out = a x + b, through `depth` convolutions that change nothing: 27 * 256 multiply-adds each, of
 * 16x16. Pictures are such that a = -0.5, b = 0.5 gives them; of the 45 configurations, 3 do. Sub
 * is a slice of Wide: its outputs are those of the first `width` of 4 channels, whose sum is the
 * picture if all are there. */
static const char nets_kd[] =
    "param gain = [1.0, 0.0]\n"
    "net Line[g = [1.0, 0.0], depth = 1](x: [n, 3, h, w]) {\n"
    "    let y = x * reshape(weight([1], \"ones\", name = \"w\"), [1, 1, 1, 1]) * g[0] + g[1]\n"
    "    for i in 0..depth {\n"
    "        let c = conv2d[3, 3, padding = 1]\n"
    "        y = y + c(y) * 0.0\n"
    "    }\n"
    "    return y\n"
    "}\n"
    "param layers = 1\n"
    "let S = Line[g = gain, depth = layers]\n"
    "choice width = [1, 2, 4]\n"
    "choice unused = [1, 2]\n"
    "net Sum[width = 4](x: [n, 3, h, w]) {\n"
    "    let a = conv2d[width, 1]\n"
    "    let b = conv2d[3, 1]\n"
    "    return b(a(x))\n"
    "}\n"
    "let Wide = Sum[width = 4]\n"
    "let Sub = narrow(Wide, width = width)\n";

#define LINE                                                                                       \
    "--data set --objective l1 --weights line.safetensors --size 16x16 --choose "                                             \
    "gain=[[-0.9,-0.5,-0.1,0.3,0.5],[-0.5,0.0,0.5]] --choose layers=[1,2,3] "
#define LARGER "--population 8 --parents 4 --mutants 4 --crossovers 4 --generations 12 "
#define SMALL "--population 6 --parents 3 --mutants 3 --crossovers 3 -q "

static Setup here;

static json_t *state_of(const char *name) {
    json_error_t error;
    char path[64];
    snprintf(path, sizeof path, "%s/search.json", name);
    json_t *o = json_load_file(in_folder(&here, path), 0, &error);
    if (!o) {
        fail_msg("%s: %s", path, error.text);
    }
    return o;
}

/* What must not depend on jobs or interruptions: everything but times. */
static void without_times(json_t *o) {
    size_t i;
    json_t *v;
    static const char *const keys[] = {"configurations", "over_budget"};
    json_object_del(o, "seconds");
    json_object_del(o, "drawn");
    json_object_del(json_object_get(o, "best"), "seconds");
    for (int k = 0; k < 2; k++) {
        json_array_foreach(json_object_get(o, keys[k]), i, v) { json_object_del(v, "seconds"); }
    }
}

static void assert_same(const char *x, const char *y) {
    json_t *a = state_of(x), *b = state_of(y);
    without_times(a);
    without_times(b);
    char *s = json_dumps(a, JSON_INDENT(1) | JSON_SORT_KEYS),
         *t = json_dumps(b, JSON_INDENT(1) | JSON_SORT_KEYS);
    assert_string_equal(s, t);
    free(s);
    free(t);
    json_decref(a);
    json_decref(b);
}

static const char *best_of(json_t *state) {
    return json_string_value(json_object_get(json_object_get(state, "best"), "config"));
}

/* Did the last run print that? */
static void says(const char *text) {
    char *out = read_text(&here, "stdout", NULL);
    if (!strstr(out, text)) {
        fail_msg("expected '%s' in\n%s", text, out);
    }
    free(out);
}

/* ---- tests
 * ------------------------------------------------------------------------------------------------------
 */

static void test_finds_the_optimum(void **state) {
    (void)state;
    skip_unless(&here);
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M --strategy all -o all", 0, "stdout",
           "");
    expect(&here, "search nets.kd:S " LINE SMALL LARGER "--macs 1M -o evolution", 0,
           "stdout", "");
    json_t *all = state_of("all"), *evolution = state_of("evolution");
    assert_int_equal(json_array_size(json_object_get(all, "configurations")), 45);
    assert_string_equal(
        best_of(all), "gain=[-0.5,0.5] layers=1"); /* of three that are equally good the cheapest */
    assert_string_equal(best_of(evolution), best_of(all));
    assert_true(json_array_size(json_object_get(evolution, "configurations")) <= 45);
    double l1 = json_number_value(
        json_object_get(json_object_get(json_object_get(all, "best"), "metrics"), "l1"));
    assert_true(l1 < 0.6); /* the pictures were rounded */
    json_decref(all);
    json_decref(evolution);
    expect(&here, "search nets.kd:S " LINE SMALL LARGER "--macs 1M -o evolution --resume",
           0, "stdout", "-D 'gain=[-0.5,0.5]'");
    char *page = read_text(&here, "all/search.html", NULL);
    assert_non_null(strstr(page, "L1 against MACs (Tout)"));
    free(page);
    KdImage picture = {0};
    KdTrouble t;
    assert_true(kd_image_read(in_folder(&here, "all/front.png"), KD_IMAGE_RGB8, &picture, &t));
    assert_int_equal(picture.width, 720);
    kd_image_free(&picture);
}

static void test_keeps_budgets(void **state) {
    size_t i;
    json_t *v;
    (void)state;
    skip_unless(&here);
    /* 81 multiply-adds for each of 256 pixels and a layer, 85 parameters in all of one layer; of one picture, whatever --batch is */
    expect(&here,
           "search nets.kd:S " LINE SMALL "--macs 41472 --params 200 --batch 4 --generations 2 -o kept", 0,
           "stdout", "");
    json_t *o = state_of("kept"), *all = json_object_get(o, "configurations");
    assert_true(json_array_size(all) > 5);
    json_array_foreach(all, i, v) {
        assert_true(json_number_value(json_object_get(json_object_get(v, "macs"), "Tout")) <=
                    41472);
        assert_true(json_integer_value(json_object_get(v, "parameters")) <= 200);
        assert_null(strstr(json_string_value(json_object_get(v, "config")), "layers=3"));
    }
    json_decref(o);
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 20000 -o none", 1, "stderr",
           "keeps the budget at x: [1, 3, 16, 16]");
    expect_message(&here, "the least found is 20.74 k with gain=[");
    expect(&here, "search nets.kd:S " LINE SMALL "--memory 10:layers -o none2", 1, "stderr",
           "layers' memory: 0.0 KiB allowed");
}

/* SIGINT as soon as the first generation is on disk; then --resume. */
static void test_goes_on(void **state) {
    (void)state;
    skip_unless(&here);
    const struct timespec pause = {0, 2000000};
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M --generations 3 -o whole", 0, "stdout",
           "");
    pid_t pid =
        start(&here, "search nets.kd:S " LINE SMALL "--macs 1M --generations 3 -o parts", "stdout");
    for (int i = 0; i < 5000 && access(in_folder(&here, "parts/search.json"), F_OK) != 0; i++) {
        nanosleep(&pause, NULL);
    }
    kill(pid, SIGINT);
    int code = finish(pid);
    assert_true(code == 130 || code == 0); /* it may have been done by then */
    if (code == 130) {
        expect_message(&here, "--resume goes on");
        expect_message(&here, "kdc search nets.kd:S --data set");
        expect_message(&here, "--macs 1M --generations 3 -o parts --resume\n");
    }
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M --generations 3 -o parts --resume", 0,
           "stdout", "");
    assert_same("whole", "parts");
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M --generations 3 -o two --jobs 2", 0,
           "stdout", "");
    assert_same("whole", "two");
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M -o whole", 1, "stderr",
           "holds a search already");
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M --seed 4 -o whole --resume", 1,
           "stderr", "begun with seed 0, not 4");
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 2M -o whole --resume", 1, "stderr",
           "MACs (Tout) of at most 1 M, not MACs (Tout) of at most 2 M");
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M --range 0..1 -o whole --resume", 1, "stderr",
           "of another metric (or other settings of it)");
    expect(&here,
           "search nets.kd:S " LINE "--macs 1M --strategy random --evaluations 6 "
           "--cache whole/cache.json -o other",
           0, "stdout", "from the cache");
}

/* A folder that another search is at work in is refused; one that a failed search made and left empty goes again. */
static void test_folder(void **state) {
    (void)state;
    skip_unless(&here);
    make_folder(&here, "busy");
    int fd = open(in_folder(&here, "busy"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1M -o busy", 1, "stderr", "another kdc search is at work in this folder");
    close(fd);
    expect(&here, "search nets.kd:S " LINE SMALL "--macs 1 -o deep/none", 1, "stderr", "keeps the budget");
    assert_false(there(&here, "deep"));
    assert_true(there(&here, "busy")); /* which was there before */
}

/* A slice is searched with its whole's weights; of the choices only the one that it depends on. */
static void test_narrowed(void **state) {
    float a[12], b[12], zero[4] = {0};
    (void)state;
    skip_unless(&here);
    const int64_t da[4] = {4, 3, 1, 1}, db[4] = {3, 4, 1, 1}, d4[1] = {4}, d3[1] = {3};
    for (int i = 0; i < 12; i++) {
        a[i] = i / 3 == i % 3 ? 1 : 0; /* channels 0, 1, 2 as they are; 3: nothing */
        b[i] = i / 4 == i % 4 ? -0.5f : 0;
    }
    float half[3] = {0.5f, 0.5f, 0.5f};
    KdTensorOut out[] = {{"a.weight", KD_STORED_F32, 4, da, a},
                         {"a.bias", KD_STORED_F32, 1, d4, zero},
                         {"b.weight", KD_STORED_F32, 4, db, b},
                         {"b.bias", KD_STORED_F32, 1, d3, half}};
    KdTrouble t;
    assert_true(kd_weights_write(in_folder(&here, "wide.safetensors"), out, 4, NULL, 0, &t));
    expect(
        &here,
        "search nets.kd:Sub --weights wide.safetensors --data set --objective psnr --params 1000 "
        "--size 16x16 --strategy all -o sub",
        0, "stdout", "");
    json_t *o = state_of("sub");
    assert_int_equal(json_array_size(json_object_get(o, "configurations")), 3);
    assert_string_equal(best_of(o), "width=4");
    json_decref(o);
    says("front, PSNR against parameters");
    expect(&here,
           "search nets.kd:Sub --weights Wide=wide.safetensors --data set --objective psnr --params 18 "
           "--size 16x16 --format csv -o sub2",
           0, "stdout", "configuration,generation,front,best,psnr,");
    KdWeights *w = kd_weights_read(in_folder(&here, "sub2/best.safetensors"), &t);
    assert_non_null(w);
    const KdTensor *x = kd_weights_find(w, "a.weight");
    assert_true(x && x->dim[0] == 2);
    kd_weights_free(w);
}

static void test_latency(void **state) {
    (void)state;
    skip_unless(&here);
    expect(&here,
           "search nets.kd:S " LINE "--latency 1000 --predict --runs 3 --population 6 --parents 3 "
           "--mutants 3 --crossovers 3 --generations 1 -o fast",
           0, "stdout", "predicted latency");
    says("against what was predicted");
    says("predictions: off by");
    json_t *o = state_of("fast"),
           *latency = json_object_get(json_object_get(o, "best"), "latency_ms");
    assert_true(json_number_value(json_object_get(latency, "predicted")) > 0);
    assert_true(json_number_value(json_object_get(
                    json_object_get(json_object_get(o, "best"), "measured_again_ms"), "measured")) >
                0);
    json_decref(o);
    expect(&here, "search nets.kd:S " LINE SMALL "--latency 0.0000001 --runs 1 -o slow", 1,
           "stderr", "latency");
    expect_message(&here, "the least found is");
}

static void test_says_what_is_wrong(void **state) {
    static const struct {
        const char *line;
        int code;
        const char *says;
    } cases[] = {
        {"search nets.kd:S --data set --macs 1M", 2, "which metric? --objective"},
        {"search nets.kd:S --data set --objective loss --macs 1M", 2, "--objective takes one of"},
        {"search nets.kd:S --data set --objective l1", 2, "which budget?"},
        {"search nets.kd --data set --objective l1 --macs 1M", 2, "which network of nets.kd?"},
        {"search nets.kd:S --objective l1 --macs 1M", 2, "which pictures?"},
        {"search nets.kd:S --data set --objective l1 --macs 1M -o x1", 1,
         "there is nothing to choose"},
        {"search nets.kd:Sub -D width=2 --data set --objective l1 --macs 1M -o x1", 1, "-D fixes width"},
        {"search nets.kd:S --data set --objective l1 --macs 1M --choose nope=[1,2] -o x2", 1,
         "no param or choice of that name"},
        {"search nets.kd:S --data set --objective l1 --macs 1M --choose layers=3 -o x3", 1,
         "expected a list of alternatives"},
        {"search nets.kd:S --weights line.safetensors --data set --objective fid --macs 1M --choose layers=[1,2] -o x4", 1,
         "--inception FILE is not given"},
        {"search nets.kd:S --data gone --objective l1 --macs 1M --choose layers=[1,2] -o x5", 1,
         "gone"},
        {"search nets.kd:S --data set --hold-out 9 --objective l1 --macs 1M --choose layers=[1,2] "
         "-o x6",
         1, "has only 4"},
        {"search nets.kd:S --data set --objective l1 --macs 1M --predict", 2,
         "--predict is for a budget of latency"},
        {"search nets.kd:S --data set --objective l1 --macs 1M --mutate-prob 2", 2, "at most 1"},
        /* random weights are nothing to search by */
        {"search nets.kd:S --data set --objective l1 --macs 1M --choose layers=[1,2] -o x7", 1,
         "no weights for S were given"},
        {"search nets.kd:S --weights line.safetensors --against Wide --data set --objective l1 --macs 1M "
         "--choose layers=[1,2] -o x8",
         1, "no weights for Wide were given"},
        {"search nets.kd:S --weights line.safetensors --features nets.kd:Wide --data set --objective frechet --macs 1M "
         "--choose layers=[1,2] -o x9",
         1, "no weights for nets.kd:Wide were given"},
    };
    (void)state;
    skip_unless(&here);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect(&here, cases[i].line, cases[i].code, "stderr", cases[i].says);
    }
}

/* ---- the folder
 * ---------------------------------------------------------------------------------------------------
 */

/* Of S with as many layers as are ever asked for. */
static void write_line(void) {
    static const char *const names[] = {"w", "c[0].weight", "c[0].bias", "c[1].weight", "c[1].bias", "c[2].weight", "c[2].bias"};
    static const float zero[81], one[1] = {1};
    static const int64_t d1[1] = {1}, dw[4] = {3, 3, 3, 3}, db[1] = {3};
    KdTensorOut out[7];
    KdTrouble t;
    for (int i = 0; i < 7; i++) {
        bool weight = i % 2 == 1;
        out[i] = (KdTensorOut){names[i], KD_STORED_F32, weight ? 4 : 1, !i ? d1 : weight ? dw : db, i ? zero : one};
    }
    assert_true(kd_weights_write(in_folder(&here, "line.safetensors"), out, 7, NULL, 0, &t));
}

/* Four pairs of 16x16: the right half is 255 - left / 2. */
static int setup(void **state) {
    KdTrouble t;
    (void)state;
    if (!open_setup(&here, "search")) {
        return 0;
    }
    own_cache(&here);
    write_text(&here, "nets.kd", nets_kd, strlen(nets_kd));
    write_line();
    make_folder(&here, "set");
    make_folder(&here, "set/train");
    for (int i = 0; i < 4; i++) {
        KdImage x = {0};
        char name[32];
        assert_true(kd_image_new(32, 16, 3, 8, &x, &t));
        for (int k = 0; k < 16 * 16 * 3; k++) {
            int row = k / 48, at = k % 48, v = (k * 37 + i * 91 + row * 13) % 256;
            uint8_t *line = (uint8_t *)x.samples + row * 96;
            line[at] = (uint8_t)v;
            line[48 + at] = (uint8_t)(255 - v / 2);
        }
        snprintf(name, sizeof name, "set/train/%d.png", i);
        assert_true(kd_png_write(in_folder(&here, name), &x, NULL, 0, &t));
        kd_image_free(&x);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    close_setup(&here);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_optimum), cmocka_unit_test(test_keeps_budgets),
        cmocka_unit_test(test_goes_on),           cmocka_unit_test(test_narrowed),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_latency),           cmocka_unit_test(test_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
