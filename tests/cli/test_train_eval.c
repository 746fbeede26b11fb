/* test_train_eval.c: metrics of test pictures while a session trains: the run is the same with and without, the numbers
 * are those of kdc eval, a resumed run measures what it would have, and nothing that goes wrong there ends a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"
#include "runtime/host/log.h"

#include <signal.h>
#include <time.h>

/* All that an evaluation could disturb: running statistics, dropout, an image pool, moments, a schedule, unpaired
 * order. */
static const char everything_kd[] =
    "param size = 16\n"
    "net Gen[](x: [n, 3, h, w]) {\n"
    "    let y = relu(batch_norm[](conv2d[6, 3, padding = 1](x)))\n"
    "    return tanh(conv2d[3, 3, padding = 1](dropout(y, 0.3)))\n"
    "}\n"
    "net Judge[](x: [n, 3, h, w]) { return conv2d[1, 4, stride = 2](leaky_relu(conv2d[4, 4, stride = 2](x), 0.2)) }\n"
    "let T = frozen Gen[]\n"
    "let G = Gen[]\n"
    "let D = Judge[]\n"
    "let Unused = Gen[]\n"
    "session all(a: [2, 3, size, size], b: [2, 3, size, size]) from unpaired {\n"
    "    let fake = G(a)\n"
    "    let rate = linear_decay(1e-3, keep = 1, decay = 4)\n"
    "    let d = mean(square(D(b) - 1)) + mean(square(D(history(fake, 4))))\n"
    "    let g = mean(square(D(fake) - 1)) + mean(abs(fake - T(a)))\n"
    "    minimize g over G with adam(rate, 0.5, 0.999)\n"
    "    minimize d over D with adam(rate, 0.5, 0.999)\n"
    "    log g, d\n"
    "}\n";

static const char pairs_kd[] = "net Gen[](x: [n, 3, h, w]) { return tanh(conv2d[3, 3, padding = 1](x)) }\n"
                               "let G = Gen[]\n"
                               "let F = Gen[]\n"
                               "session pairs(x: [1, 3, 16, 16], y: [1, 3, 16, 16]) from paired {\n"
                               "    let loss = mean(abs(G(x) - y)) + mean(abs(F(y) - x))\n"
                               "    minimize loss over G, F with adam(1e-2)\n"
                               "    log loss\n"
                               "}\n";

static int setup(void **state) {
    Setup *s = calloc(1, sizeof *s);
    char name[64];
    *state = s;
    if (!open_setup(s, "train-eval")) {
        return 0;
    }
    own_cache(s);
    write_text(s, "all.kd", everything_kd, sizeof everything_kd - 1);
    write_text(s, "pairs.kd", pairs_kd, sizeof pairs_kd - 1);
    static const char *const folders[] = {"set",  "set/trainA", "set/trainB", "set/testA", "set/testB",
                                          "pair", "pair/train", "pair/test",  "plain"};
    for (int i = 0; i < 9; i++) {
        mkdir(in_folder(s, folders[i]), 0777);
    }
    for (int i = 0; i < 5; i++) {
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "%s/%d.png", folders[1 + k], i);
            make_image(s, name, 20 + i, 22, 7u + (unsigned)(10 * k + i));
        }
        snprintf(name, sizeof name, "pair/train/p%d.png", i);
        make_image(s, name, 40, 20, 700u + (unsigned)i);
        snprintf(name, sizeof name, "pair/test/p%d.png", i);
        make_image(s, name, 40, 20, 800u + (unsigned)i);
        snprintf(name, sizeof name, "plain/p%d.png", i);
        make_image(s, name, 20, 20, 900u + (unsigned)i);
    }
    return 0;
}

static int teardown(void **state) {
    close_setup(*state);
    free(*state);
    return 0;
}

static Setup *ready(void **state) {
    skip_unless(*state);
    return *state;
}

#define TRAIN "train all.kd --data set --load-size 18 --seed 3 "
#define EVAL "--eval G --against T --eval-every 5 "

/* ---- what was measured ---------------------------------------------------------------------------------- */

static KdLogData log_of(const Setup *s, const char *run_) {
    KdLogData d;
    KdTrouble t;
    char path[200];
    snprintf(path, sizeof path, "%s/log.jsonl", run_);
    if (!kd_log_read(in_folder(s, path), &d, &t)) {
        fail_msg("%s", t.text);
    }
    return d;
}

static double measured(const KdLogData *d, const char *name, int64_t step) {
    for (int k = 0; k < d->n_metrics; k++) {
        for (int i = 0; strcmp(d->metric[k], name) == 0 && i < d->n_evals; i++) {
            if (d->eval_step[i] == step) {
                return d->eval_value[k * d->n_evals + i];
            }
        }
    }
    fail_msg("no %s at step %d", name, (int)step);
    return 0;
}

static void same_measures(const Setup *s, const char *one, const char *two) {
    KdLogData a = log_of(s, one), b = log_of(s, two);
    assert_int_equal(a.n_evals, b.n_evals);
    assert_int_equal(a.n_metrics, b.n_metrics);
    assert_memory_equal(a.eval_step, b.eval_step, sizeof *a.eval_step * (size_t)a.n_evals);
    assert_memory_equal(a.eval_value, b.eval_value, sizeof(double) * (size_t)(a.n_evals * a.n_metrics));
    kd_log_data_free(&a);
    kd_log_data_free(&b);
}

/* metrics.NAME.mean of what `kdc eval LINE --json` prints. */
static double evaluated(const Setup *s, const char *line, const char *name) {
    expect_run(s, line, 0);
    char *text = read_text(s, "stderr", NULL), *start = strchr(text, '{');
    json_t *v = json_loads(start ? start : "", 0, NULL);
    assert_non_null(v);
    double x = json_real_value(json_object_get(json_object_get(json_object_get(v, "metrics"), name), "mean"));
    json_decref(v);
    free(text);
    return x;
}

static void near(double got, double want) {
    if (!(fabs(got - want) <= 1e-7 * fabs(want))) {
        fail_msg("%.12g, expected %.12g", got, want);
    }
}

static bool holds(const Setup *s, const char *name, const char *what) {
    size_t n, m = strlen(what);
    char *bytes = read_text(s, name, &n);
    bool found = false;
    for (size_t i = 0; i + m <= n && !found; i++) {
        found = memcmp(bytes + i, what, m) == 0;
    }
    free(bytes);
    return found;
}

/* The event file of a run. */
static bool events_hold(const Setup *s, const char *run_, const char *what) {
    DIR *d = opendir(in_folder(s, run_));
    bool found = false;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char name[400];
        snprintf(name, sizeof name, "%s/%s", run_, e->d_name);
        found = found || (strncmp(e->d_name, "events", 6) == 0 && holds(s, name, what));
    }
    closedir(d);
    return found;
}

/* ---- tests ------------------------------------------------------------------------------------------------- */

static void test_same_run(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 14 --out without -q", 0);
    expect_run(s, TRAIN "--steps 14 --out with " EVAL, 0);
    expect_message(s, "G (L1, PSNR, SSIM) against T, 5 pictures of set (unpaired, test, AtoB) at 16x16, every 5 steps");
    expect_message(s, "step 10:  G.l1 ");
    expect_message(s, "G.psnr: last ");
    expect_message(s, "mean of the last 3 ");
    same_tensors(s, "without/checkpoint-000014.safetensors", "with/checkpoint-000014.safetensors");
    KdLogData a = log_of(s, "with"), b = log_of(s, "without");
    assert_int_equal(a.n_steps, 14);
    assert_int_equal(a.n_evals, 3); /* 5, 10, and the last */
    assert_int_equal(a.n_metrics, 3);
    assert_int_equal(b.n_evals, 0);
    assert_memory_equal(a.value, b.value, sizeof(double) * (size_t)(a.n_steps * a.n_names));
    assert_true(measured(&a, "G.l1", 5) != measured(&a, "G.l1", 10)); /* with the weights of that step */
    assert_true(events_hold(s, "with", "eval/G.psnr"));
    assert_false(events_hold(s, "without", "eval/"));
    assert_true(holds(s, "with/report.html", "Metrics on test pictures"));
    assert_true(holds(s, "with/report.html", "<h3>G.ssim</h3>"));
    assert_false(holds(s, "without/report.html", "Metrics on test pictures"));
    double l1 = evaluated(
        s, "eval all.kd:G --against T --weights with --data set --crop-size 16 --layout unpaired --json", "l1");
    near(measured(&a, "G.l1", 14), l1);
    double psnr = evaluated(
        s, "eval all.kd:G --against T --weights with --data set --crop-size 16 --layout unpaired --json", "psnr");
    near(measured(&a, "G.psnr", 14), psnr);
    kd_log_data_free(&a);
    kd_log_data_free(&b);
}

static void test_threads(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 14 --out four --threads 4 --workers 3 -q " EVAL, 0);
    same_measures(s, "with", "four");
}

/* With nothing said again: what is measured is part of what the run was started with. */
static void test_resume(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 10 --out parts -q " EVAL, 0);
    expect_run(s, "train all.kd --out parts --resume --steps 14", 0);
    char *said = read_text(s, "stderr", NULL);
    assert_null(strstr(said, "warning"));
    free(said);
    same_tensors(s, "with/checkpoint-000014.safetensors", "parts/checkpoint-000014.safetensors");
    same_measures(s, "with", "parts");
    expect_run(s, "train all.kd --out parts --resume --steps 16 --eval none", 0);
    KdLogData d = log_of(s, "parts");
    assert_int_equal(d.n_evals, 3);
    kd_log_data_free(&d);
    expect_run(s, "train all.kd --out without --resume --steps 16 --eval G --against T --metrics l1 -q",
               0); /* begun later: 14, 15, 16 */
    d = log_of(s, "without");
    assert_int_equal(d.n_evals, 3);
    assert_int_equal(d.n_metrics, 1);
    kd_log_data_free(&d);
    same_tensors(s, "without/checkpoint-000016.safetensors", "parts/checkpoint-000016.safetensors");
}

/* A run that was killed in the middle of an evaluation has the checkpoint of that step, and measures it when it goes
 * on. */
static void test_killed_in_evaluation(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 5 --out torn -q " EVAL, 0);
    char *text = read_text(s, "torn/log.jsonl", NULL), *line = strstr(text, "\"eval\"");
    assert_non_null(line);
    while (line > text && line[-1] != '\n') {
        line--;
    }
    write_text(s, "torn/log.jsonl", text, (size_t)(line - text)); /* its line had not been written */
    free(text);
    expect_run(s, "train all.kd --out torn --resume --steps 14 -q", 0);
    same_measures(s, "with", "torn");
    same_tensors(s, "with/checkpoint-000014.safetensors", "torn/checkpoint-000014.safetensors");
}

/* A picture that cannot be read, a folder that is gone: the run ends as ever. */
static void test_failure_goes_on(void **state) {
    const Setup *s = ready(state);
    char *good = NULL;
    size_t n;
    good = read_text(s, "set/testA/3.png", &n);
    write_text(s, "set/testA/3.png", good, n / 2);
    expect_run(s, TRAIN "--steps 14 --out hurt " EVAL, 0);
    expect_message(s, "warning: G could not be evaluated after step 5; the run goes on. What was wrong:\nkdc: error: ");
    expect_message(s, "set/testA/3.png");
    expect_message(s, "finished: 14 steps");
    write_text(s, "set/testA/3.png", good, n);
    free(good);
    same_tensors(s, "with/checkpoint-000014.safetensors", "hurt/checkpoint-000014.safetensors");
    KdLogData d = log_of(s, "hurt");
    assert_int_equal(d.n_evals, 0);
    assert_int_equal(d.n_steps, 14);
    kd_log_data_free(&d);
    expect_run(s, "train all.kd --out hurt --resume --steps 15 -q", 0); /* it works again */
    d = log_of(s, "hurt");
    assert_int_equal(d.n_evals, 1);
    kd_log_data_free(&d);
}

/* Two networks, two directions, compared with the data's own pictures. */
static void test_pairs(void **state) {
    const Setup *s = ready(state);
    expect_run(s,
               "train pairs.kd --data pair --steps 6 --out pairs --eval G --eval F:BtoA --eval-every 2 --metrics "
               "l1,ssim --eval-pictures 3",
               0);
    expect_message(s, "G (L1, SSIM) against the data's own pictures, 3 pictures of pair (aligned, test, AtoB) at "
                      "16x16; F (L1, SSIM)");
    KdLogData d = log_of(s, "pairs");
    assert_int_equal(d.n_evals, 3);
    assert_int_equal(d.n_metrics, 4);
    near(measured(&d, "G.l1", 6),
         evaluated(s, "eval pairs.kd:G --weights pairs --data pair --crop-size 16 --max-dataset-size 3 --json", "l1"));
    near(measured(&d, "F.ssim", 6),
         evaluated(
             s,
             "eval pairs.kd:F --weights pairs --data pair --crop-size 16 --max-dataset-size 3 --direction BtoA --json",
             "ssim"));
    assert_true(measured(&d, "G.l1", 6) != measured(&d, "G.l1", 2));
    kd_log_data_free(&d);
    expect_run(s, "train pairs.kd --data pair --steps 2 --out stored --eval G --eval-size stored --metrics l1 -q", 0);
    d = log_of(s, "stored");
    near(measured(&d, "G.l1", 2), evaluated(s, "eval pairs.kd:G --weights stored --data pair --json", "l1"));
    kd_log_data_free(&d);
}

static void test_mistakes(void **state) {
    const Setup *s = ready(state);
    static const struct {
        const char *line;
        int code;
        const char *text;
    } row[] = {
        {"--eval Q", 1, "--eval Q: the session has no network of that name; it has G, D, T"},
        {"--eval Unused", 1, "--eval Unused: the session has no network of that name"},
        {"--eval G --against Q", 1, "--against Q: the session has no network of that name"},
        {"--eval G:up", 1, "--eval G:up: expected NET, NET:AtoB or NET:BtoA"},
        {"--eval G --eval G --against T", 1, "--eval names G twice"},
        {"--eval G", 1, "there is nothing to compare G of all.kd with"},
        {"--eval G --metrics psnr", 1, "no PSNR: the data set has no pairs"},
        {"--eval G --metrics fid", 1, "no FID: --inception FILE is not given"},
        {"--eval G --metrics sharpness", 2, "--metrics takes some of l1,psnr,ssim,fid,miou,frechet, got 'sharpness'"},
        {"--eval-every 5", 2, "which network is to be evaluated? --eval NET"},
        {"--against T", 2, "which network is to be evaluated? --eval NET"},
        {"--eval G --against T --eval-data nowhere", 1, "nowhere"},
        {"--eval G --against T --eval-phase val", 1, "val"},
        {"--eval G --against T --eval-size 3by4", 2, "--eval-size needs HxW"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char line[256];
        snprintf(line, sizeof line, TRAIN "--steps 4 --out none %s", row[i].line);
        expect_run(s, line, row[i].code);
        expect_message(s, row[i].text);
        assert_false(there(s, "none/kdc.json")); /* said before anything begins */
    }
    static const char plain_kd[] =
        "let G = conv2d[3, 3, padding = 1]\nlet T = frozen conv2d[3, 3, padding = 1]\n"
        "session s(x: [1, 3, 16, 16]) { let l = l1_loss(G(x), T(x))\n minimize l over G with sgd(0.1)\n log l }\n";
    write_text(s, "plain.kd", plain_kd, sizeof plain_kd - 1);
    expect_run(s, "train plain.kd --data plain --steps 2 --out none --eval G --against T", 1);
    expect_message(
        s, "plain has no test pictures apart from those that are trained on: --eval-data FOLDER says which to use");
    expect_run(s, "train plain.kd --data plain --steps 2 --out some --eval G --against T --eval-data plain", 0);
    expect_message(s, "5 pictures of plain (plain, test) at 16x16");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_run),        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_resume),          cmocka_unit_test(test_killed_in_evaluation),
        cmocka_unit_test(test_failure_goes_on), cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
