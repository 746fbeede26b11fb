/* test_bench.c: kdc bench as a person uses it: what it counts is known, what it measures is consistent with itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/file.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char nets_kd[] =
    "net Tiny[ch = 4](x: [n, 3, h, w]) {\n"
    "    let f = conv2d[ch, 3, padding = 1](x)\n"
    "    return tanh(conv2d[3, 1](relu(f)))\n"
    "}\n"
    "net Plain[](x: [n, 3, h, w]) {\n"
    "    return relu(x)\n"
    "}\n"
    "let T = Tiny[ch = 8]\n"
    "let Open = conv2d[3, 3, padding = 1]\n"
    "session fit(x: [2, 3, 16, 16], y: [2, 3, 16, 16]) from paired {\n"
    "    let out = T(x)\n"
    "    let loss = mean(square(out - y))\n"
    "    minimize loss over T with adam(0.01)\n"
    "    log loss\n"
    "    every 2 {\n"
    "        let size = mean(abs(out))\n"
    "        log size\n"
    "    }\n"
    "}\n";

typedef struct Setup {
    char binary[512], folder[64], source[128], out[128], err[128];
    bool ready;
} Setup;

static int setup(void **state) {
    static Setup s;
    static char cache[128];
    const char *given = getenv("KDC_BIN");
    KdTrouble t;
    if (given) {
        snprintf(s.binary, sizeof s.binary, "%s", given);
    } else {
        ssize_t n = readlink("/proc/self/exe", s.binary, sizeof s.binary - 16);
        if (n <= 0) {
            return -1;
        }
        s.binary[n] = '\0';
        for (int up = 0; up < 2; up++) {
            *strrchr(s.binary, '/') = '\0';
        }
        strcat(s.binary, "/kdc");
    }
    strcpy(s.folder, "/tmp/kdc-test-bench-XXXXXX");
    if (!mkdtemp(s.folder)) {
        return -1;
    }
    snprintf(s.source, sizeof s.source, "%s/n.kd", s.folder);
    snprintf(s.out, sizeof s.out, "%s/stdout", s.folder);
    snprintf(s.err, sizeof s.err, "%s/stderr", s.folder);
    snprintf(cache, sizeof cache, "%s/cache", s.folder);
    setenv("XDG_CACHE_HOME", cache, 1);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    s.ready = access(s.binary, X_OK) == 0;
    *state = &s;
    return kd_file_write(s.source, nets_kd, strlen(nets_kd), &t) ? 0 : -1;
}

static int teardown(void **state) {
    char line[160];
    const Setup *s = *state;
    snprintf(line, sizeof line, "rm -rf %s", s->folder);
    return system(line) == 0 ? 0 : -1;
}

static const Setup *ready(void **state) {
    const Setup *s = *state;
    if (!s->ready) {
        print_message("skipped: no binary at %s\n", s->binary);
        skip();
    }
    return s;
}

/* Runs `kdc LINE` in the folder. Returns the exit code, and both streams to free. */
static int run(const Setup *s, const char *line, char **out, char **err) {
    char copy[512], *argv[32] = {(char *)(uintptr_t)"kdc"};
    int argc = 1, status;
    size_t n;
    KdTrouble t;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) {
        argv[argc++] = w;
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int o = open(s->out, O_WRONLY | O_CREAT | O_TRUNC, 0666), e = open(s->err, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        if (o < 0 || e < 0 || chdir(s->folder) != 0) {
            _exit(99);
        }
        dup2(o, 1);
        dup2(e, 2);
        execve(s->binary, argv, environ);
        _exit(98);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    *out = kd_file_read(s->out, &n, &t);
    *err = kd_file_read(s->err, &n, &t);
    assert_true(*out && *err);
    return WEXITSTATUS(status);
}

static void expect(const Setup *s, const char *line, int code, const char *in_out, const char *in_err) {
    char *out, *err;
    int got = run(s, line, &out, &err);
    if (got != code || !strstr(out, in_out) || !strstr(err, in_err)) {
        fail_msg("kdc %s: exit code %d, expected %d, '%s' on stdout and '%s' on stderr\n%s%s", line, got, code, in_out, in_err, out, err);
    }
    free(out);
    free(err);
}

static json_t *results(const Setup *s, const char *line) {
    char *out, *err;
    json_error_t e;
    if (run(s, line, &out, &err) != 0) {
        fail_msg("kdc %s: %s", line, err);
    }
    json_t *o = json_loads(out, 0, &e);
    if (!o) {
        fail_msg("kdc %s: %s\n%s", line, e.text, out);
    }
    free(out);
    free(err);
    return o;
}

static double number(const json_t *o, const char *part, const char *name) {
    const json_t *v = json_object_get(part ? json_object_get(o, part) : o, name);
    if (!json_is_number(v)) {
        fail_msg("no number %s.%s", part ? part : "", name);
    }
    return json_number_value(v);
}

static void check_latency(const json_t *o, int runs) {
    double median = number(o, "latency", "median_ms");
    assert_int_equal((int)number(o, "latency", "runs"), runs);
    assert_true(number(o, "latency", "min_ms") > 0);
    assert_true(number(o, "latency", "min_ms") <= median && median <= number(o, "latency", "max_ms"));
}

static void test_net(void **state) {
    const Setup *s = ready(state);
    json_t *o = results(s, "bench n.kd:T --size 20x30 --batch 2 --threads 1 --json");
    check_latency(o, 20);
    double macs = 2.0 * 20 * 30 * (8 * 3 * 9 + 3 * 8), median = number(o, "latency", "median_ms");
    assert_true(number(o, "speed", "macs") == macs && number(o, "speed", "flops") == 2 * macs);
    double gflops = 2 * macs / (median * 1e6), peak = number(o, "speed", "peak_before");
    peak = fmax(peak, number(o, "speed", "peak_after"));
    assert_true(fabs(number(o, "speed", "gflops") / gflops - 1) < 1e-9);
    assert_true(peak > 0 && fabs(number(o, "speed", "of_peak") / (gflops / peak) - 1) < 1e-9);
    assert_int_equal((int)number(o, "memory", "parameters"), 8 * 3 * 9 + 8 + 3 * 8 + 3);
    assert_int_equal((int)number(o, "memory", "weights"), 4 * (8 * 3 * 9 + 8 + 3 * 8 + 3));
    assert_true(number(o, "memory", "activations") > 0);
    assert_true(number(o, "memory", "activations") <= number(o, "memory", "unplanned"));
    assert_true(number(o, "memory", "process_peak") > 1e6);
    assert_int_equal((int)number(o, NULL, "threads"), 1);
    assert_string_equal(json_string_value(json_object_get(o, "inputs")), "x: [2, 3, 20, 30]");
    assert_string_equal(json_string_value(json_object_get(o, "weights")), "random");
    assert_null(json_object_get(o, "profile"));
    json_decref(o);
}

/* The table's rows are all kernels: calls add up to the plan's, shares to one. */
static void check_profile(const json_t *o) {
    const json_t *rows = json_object_get(o, "profile"), *row;
    size_t i;
    double share = 0, calls = 0, last = INFINITY;
    json_array_foreach(rows, i, row) {
        share += number(row, NULL, "share");
        calls += number(row, NULL, "calls");
        assert_true(number(row, NULL, "ms") <= last);
        last = number(row, NULL, "ms");
        assert_true(json_string_length(json_object_get(row, "what")) > 0);
    }
    assert_true(fabs(share - 1) < 1e-9);
    assert_true(calls == number(o, "compiled", "calls"));
    assert_true((double)json_array_size(rows) == number(o, "compiled", "kernels"));
    row = json_array_get(rows, 0);
    double ms = number(row, NULL, "ms"), bytes = number(row, NULL, "bytes"), gbytes = number(row, NULL, "gbytes");
    assert_true(ms > 0 && bytes > 0 && fabs(gbytes / (bytes / (ms * 1e6)) - 1) < 1e-9);
    double most = fmax(number(o, "bandwidth", "triad"), number(o, "bandwidth", "read"));
    assert_true(most > 0 && fabs(number(row, NULL, "of_bandwidth") / (gbytes / most) - 1) < 1e-9);
    assert_true(number(row, NULL, "spills") >= 0);
}

static void test_profile(void **state) {
    const Setup *s = ready(state);
    json_t *o = results(s, "bench n.kd:T --shape x=1x3x24x24 --runs 3 --profile --json");
    check_latency(o, 3);
    check_profile(o);
    json_decref(o);
    expect(s, "bench n.kd:T --runs 2 --profile", 0, "MB     GB/s  of mem. spills  kernel", "");
    expect(s, "bench n.kd:T --runs 2 --size 32", 0, "weights       random (seed 0)", "");
}

static void test_session(void **state) {
    const Setup *s = ready(state);
    json_t *o = results(s, "bench n.kd:fit --runs 4 --json");
    check_latency(o, 4);
    assert_string_equal(json_string_value(json_object_get(o, "kind")), "session");
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "speed"), "flops_from")), "kernels");
    assert_true(number(o, "speed", "macs") == 2.0 * 16 * 16 * (8 * 3 * 9 + 3 * 8));
    assert_true(number(o, "speed", "flops") > 2 * number(o, "speed", "macs")); /* gradients, too */
    json_decref(o);
    o = results(s, "bench n.kd:fit --runs 1 --profile --json"); /* the one step measured is step 3: without the block, as step 1 */
    check_profile(o);
    json_decref(o);
    expect(s, "bench n.kd:fit --runs 2", 0, "fit (a training step): x: [2, 3, 16, 16], y: [2, 3, 16, 16]", "");
}

/* T has two convolutions of its own place; each was chosen among what applies, and says what it was. */
static void test_explain(void **state) {
    const Setup *s = ready(state);
    json_t *o = results(s, "bench n.kd:T --size 32 --runs 1 --explain --json"), *row;
    const json_t *rows = json_object_get(o, "schedules"), *others;
    assert_int_equal((int)json_array_size(rows), 2);
    size_t i, k;
    json_array_foreach(rows, i, row) {
        double ms = number(row, NULL, "ms"), last = 0;
        assert_string_equal(json_string_value(json_object_get(row, "op")), "conv2d");
        assert_string_equal(json_string_value(json_object_get(row, "why")), "cheapest");
        assert_int_equal((int)number(row, NULL, "count"), 1);
        others = json_object_get(row, "others");
        assert_true(ms > 0 && json_array_size(others) > 0);
        for (k = 0; k < json_array_size(others); k++) {
            double other = number(json_array_get(others, k), NULL, "ms");
            assert_true(other >= ms && other >= last);
            last = other;
        }
    }
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 0), "shape")),
                        "[1, 3, 32, 32] x [8, 3, 3, 3] -> [1, 8, 32, 32], pad 1");
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 0), "place")), "n.kd:2:13");
    json_decref(o);
    expect(s, "n.kd:T --size 32 --explain -q", 0, "\nT: schedules", "");
    expect(s, "n.kd:T --size 32 --explain", 0, ", cheapest: tile ", "");
    o = results(s, "n.kd:T --size 32 --explain --json");
    assert_int_equal((int)json_array_size(json_object_get(json_object_get(o, "schedules"), "T")), 2);
    json_decref(o);
    expect(s, "n.kd:Plain --size 32 --explain -q", 0, ", of one core)\nnothing in it needs one", "");
    expect(s, "n.kd:fit --explain -q", 0, "conv2d_wgrad [2, 3, 16, 16] x [2, 8, 16, 16] -> [8, 3, 3, 3]", "");
    expect(s, "n.kd:T --explain --emit=ir", 2, "", "not with --emit");
}

/* Forced where it applies: both get the generic path, another schedule only those that it serves. */
static void test_schedule(void **state) {
    const Setup *s = ready(state);
    json_t *o = results(s, "bench n.kd:T --size 32 --runs 1 --explain --json --schedule=generic");
    const json_t *rows = json_object_get(o, "schedules");
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_string_equal(json_string_value(json_object_get(row, "schedule")), "generic");
        assert_string_equal(json_string_value(json_object_get(row, "why")), "forced");
        assert_string_equal(json_string_value(json_object_get(row, "plan")), "");
    }
    json_decref(o);
    expect(s, "n.kd:T --size 8 --explain -q --schedule conv_dots", 0, "    conv_dots ", "");
    expect(s, "n.kd:T --size 8 --explain -q --schedule wgrad_dot", 0, ", cheapest", "");
    expect(s, "n.kd:T --schedule=conv_dotz", 2, "", "no schedule is called 'conv_dotz'; there are conv_direct, ");
    expect(s, "bench n.kd:T --schedule=", 2, "", "no schedule is called ''");
}

static void test_others(void **state) {
    const Setup *s = ready(state);
    expect(s, "bench n.kd:T --train --runs 2", 0, "training mode", "");
    expect(s, "bench n.kd:Plain --runs 2 --size 16", 0, "operations as its kernels count them", "");
    expect(s, "bench n.kd:Plain --runs 1 --size 16 --threads 1024", 0, "1024 threads", "");
    expect(s, "bench n.kd:Open --runs 1 --size 16x24", 0, "x: [1, 3, 16, 24]", "");
    expect(s, "bench n.kd:Open --runs 1 --shape x=1x1x8x8", 0, "x: [1, 1, 8, 8]", "");
    expect(s, "bench n.kd", 2, "", "name it: n.kd:NAME");
    expect(s, "bench n.kd:Q", 1, "", "'Q'");
    expect(s, "bench n.kd:T --runs 0", 2, "", "--runs needs a number");
    expect(s, "bench n.kd:T --shape zz=1x3x8x8 --runs 1", 1, "", "no input of T is called 'zz'; it takes x: [1, 3, 256, 256]");
    expect(s, "bench n.kd:T --shape x=1x4x0x8", 1, "", "sizes from 1 on");
    expect(s, "bench n.kd:T --weights absent.safetensors", 1, "", "absent.safetensors");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net),
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_session),
        cmocka_unit_test(test_explain),
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_others),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
