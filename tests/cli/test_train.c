/* test_train.c: kdc train as a person uses it: runs, stops, goes on bit for bit, refuses, and says why.
 *
 * One small session has everything that a resumed run must carry: batch norm, dropout, an image pool, Adam's moments, a
 * schedule by epochs, a block that runs every third step, random crops and flips, unpaired order. Skipped when the
 * command is not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"

#include <signal.h>
#include <time.h>

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
    "session all(a: [2, 3, size, size], b: [2, 3, size, size]) from unpaired {\n"
    "    let fake = G(a)\n"
    "    let rate = linear_decay(1e-3, keep = 1, decay = 4)\n"
    "    let d = mean(square(D(b) - 1)) + mean(square(D(history(fake, 4))))\n"
    "    let g = mean(square(D(fake) - 1)) + mean(abs(fake - T(a)))\n"
    "    minimize g over G with adam(rate, 0.5, 0.999)\n"
    "    minimize d over D with adam(rate, 0.5, 0.999)\n"
    "    log g, d\n"
    "    every 3 {\n"
    "        let far = mean(abs(fake - a))\n"
    "        log far\n"
    "    }\n"
    "    show a, fake, b\n"
    "}\n";

static const char faulty_kd[] = "net Gen[](x: [n, 3, h, w]) { return conv2d[3, 3, padding = 1](x) }\n"
                                "let G = Gen[]\n"
                                "session bad(x: [1, 3, 16, 16]) {\n"
                                "    let y = G(x)\n"
                                "    let left = 5.5 - step\n"
                                "    let loss = mean(abs(y - x)) + 0.0 * log(left)\n"
                                "    minimize loss over G with adam(1e-3)\n"
                                "    log loss\n"
                                "}\n";

static void expect_same_picture(const Setup *s, const char *a, const char *b) {
    KdImage x, y;
    KdTrouble t;
    assert_true(kd_image_read(in_folder(s, a), KD_IMAGE_RGB8, &x, &t));
    assert_true(kd_image_read(in_folder(s, b), KD_IMAGE_RGB8, &y, &t));
    assert_int_equal(x.height * x.width, y.height * y.width);
    assert_memory_equal(x.samples, y.samples, (size_t)(x.height * x.width * 3));
    kd_image_free(&x);
    kd_image_free(&y);
}

static int setup(void **state) {
    Setup *s = calloc(1, sizeof *s);
    char name[64];
    *state = s;
    if (!open_setup(s, "train")) {
        return 0;
    }
    write_text(s, "all.kd", everything_kd, sizeof everything_kd - 1);
    write_text(s, "faulty.kd", faulty_kd, sizeof faulty_kd - 1);
    mkdir(in_folder(s, "set"), 0777);
    mkdir(in_folder(s, "set/trainA"), 0777);
    mkdir(in_folder(s, "set/trainB"), 0777);
    mkdir(in_folder(s, "plain"), 0777);
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "set/trainA/a%d.png", i);
        make_image(s, name, 20 + i, 22, 7u + (unsigned)i);
        snprintf(name, sizeof name, "set/trainB/b%d.png", i);
        make_image(s, name, 22, 20 + i, 70u + (unsigned)i);
        snprintf(name, sizeof name, "plain/p%d.png", i);
        make_image(s, name, 24, 24, 700u + (unsigned)i);
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

static int count_lines(const Setup *s, const char *name) {
    char *text = read_text(s, name, NULL);
    int n = 0;
    for (char *p = text; (p = strchr(p, '\n')); p++) {
        n++;
    }
    free(text);
    return n;
}

static void test_run_folder(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 14 --out whole --save-every 5 --sample-every 7", 0);
    expect_message(s, "finished: 14 steps");
    assert_true(there(s, "whole/checkpoint-000014.safetensors"));
    assert_true(there(s, "whole/checkpoint-000010.safetensors"));
    assert_false(there(s, "whole/checkpoint-000005.safetensors")); /* two generations */
    assert_true(there(s, "whole/samples/000001.png"));
    assert_true(there(s, "whole/samples/000014.png"));
    assert_int_equal(count_lines(s, "whole/log.jsonl"), 14);
    char *page = read_text(s, "whole/report.html", NULL);
    assert_non_null(strstr(page, "<svg"));
    assert_non_null(strstr(page, "data:image/png;base64,"));
    assert_null(strstr(page, "src=\"http"));
    free(page);
    KdImage grid;
    KdTrouble t;
    assert_true(kd_image_read(in_folder(s, "whole/samples/000014.png"), KD_IMAGE_RGB8, &grid, &t));
    assert_true(grid.width >= 48 && grid.height >= 32);
    kd_image_free(&grid);
}

/* Weights must have moved: else everything below would compare nothing. */
static void test_it_trains(void **state) {
    const Setup *s = ready(state);
    KdTrouble t;
    KdWeights *a = kd_weights_read(in_folder(s, "whole/checkpoint-000010.safetensors"), &t);
    KdWeights *b = kd_weights_read(in_folder(s, "whole/checkpoint-000014.safetensors"), &t);
    int moved = 0;
    assert_non_null(a);
    assert_non_null(b);
    for (int i = 0; i < a->n; i++) {
        const KdTensor *y = kd_weights_find(b, a->tensor[i].name);
        moved += memcmp(a->tensor[i].data, y->data, (size_t)(y->count * kd_stored_size(y->dtype))) != 0;
    }
    assert_true(moved > a->n / 2);
    kd_weights_free(a);
    kd_weights_free(b);
}

static void test_threads(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 14 --out one --threads 1 --workers 1 -q", 0);
    expect_run(s, TRAIN "--steps 14 --out four --threads 4 --workers 3 -q", 0);
    same_tensors(s, "whole/checkpoint-000014.safetensors", "one/checkpoint-000014.safetensors");
    same_tensors(s, "whole/checkpoint-000014.safetensors", "four/checkpoint-000014.safetensors");
}

static void test_resume(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 6 --out parts", 0);
    expect_run(s, TRAIN "--steps 9 --out parts", 1); /* never over a run that is there */
    expect_message(s, "--resume goes on with it");
    expect_run(s, "train all.kd --out parts --resume", 0);
    expect_message(s, "has done 6 steps");
    expect_run(s, "train all.kd --out parts --resume --steps 14", 0);
    same_tensors(s, "whole/checkpoint-000014.safetensors", "parts/checkpoint-000014.safetensors");
    assert_int_equal(count_lines(s, "parts/log.jsonl"), 14);
    expect_run(s, "train all.kd --out nowhere --resume", 1);
    expect_message(s, "nothing to resume");
}

/* Ends the run by a signal a while after it began, then lets it go on to the end. */
static void stop_and_go(const Setup *s, const char *out, int number, int code) {
    char line[256], log[64], last[64];
    snprintf(line, sizeof line, TRAIN "--steps 400 --out %s --save-every 7", out);
    snprintf(log, sizeof log, "%s/log.jsonl", out);
    snprintf(last, sizeof last, "%s/checkpoint-000400.safetensors", out);
    pid_t pid = start(s, line, "stderr");
    for (int i = 0; i < 2000 && !(there(s, log) && count_lines(s, log) > 20); i++) {
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    kill(pid, number);
    int got = finish(pid);
    if (there(s, last)) {
        return; /* it was faster than the signal: nothing to see */
    }
    assert_int_equal(got, code);
    snprintf(line, sizeof line, "train all.kd --out %s --resume -q", out);
    expect_run(s, line, 0);
}

static void test_signals(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 400 --out long -q", 0);
    stop_and_go(s, "killed", SIGKILL, 1000 + SIGKILL);
    stop_and_go(s, "interrupted", SIGINT, 130);
    stop_and_go(s, "ended", SIGTERM, 143);
    same_tensors(s, "long/checkpoint-000400.safetensors", "killed/checkpoint-000400.safetensors");
    same_tensors(s, "long/checkpoint-000400.safetensors", "interrupted/checkpoint-000400.safetensors");
    same_tensors(s, "long/checkpoint-000400.safetensors", "ended/checkpoint-000400.safetensors");
}

static void flip_byte(const Setup *s, const char *name) {
    size_t n;
    char *bytes = read_text(s, name, &n);
    bytes[n - 9] ^= 4;
    write_text(s, name, bytes, n);
    free(bytes);
}

static void test_damaged_checkpoint(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 12 --out hurt --save-every 4 -q", 0);
    flip_byte(s, "hurt/checkpoint-000012.safetensors");
    expect_run(s, "train all.kd --out hurt --resume --steps 14", 0); /* from step 8 */
    expect_message(s, "checkpoint-000012.safetensors");
    same_tensors(s, "whole/checkpoint-000014.safetensors", "hurt/checkpoint-000014.safetensors");
    assert_int_equal(count_lines(s, "hurt/log.jsonl"), 14);
}

static void test_other_program(void **state) {
    const Setup *s = ready(state);
    char *text = strdup(everything_kd), *at = strstr(text, "conv2d[6");
    at[7] = '5';
    write_text(s, "other.kd", text, strlen(text));
    free(text);
    expect_run(s, "train other.kd --out whole --resume --steps 16", 1);
    expect_message(s, "checkpoint of another program");
}

static void test_nan(void **state) {
    const Setup *s = ready(state);
    expect_run(s, "train faulty.kd --data plain --steps 20 --out nan --save-every 2", 1);
    expect_message(s, "loss is NaN at step 6");
    expect_message(s, "made by log");
    expect_message(s, "faulty.kd:6:");
    expect_message(s, "the checkpoint of step 4 is intact");
    assert_true(there(s, "nan/checkpoint-000004.safetensors"));
}

/* The loss is not logged: weights go bad first, and the op is still found, a step earlier. */
static void test_nan_weights(void **state) {
    const Setup *s = ready(state);
    char *text = strdup(faulty_kd), *at = strstr(text, "    log loss");
    strcpy(at, "    log left\n}\n");
    memcpy(strstr(text, " + 0.0 *"), "       *", 8); /* now its gradient is NaN, too */
    write_text(s, "quiet.kd", text, strlen(text));
    free(text);
    expect_run(s, "train quiet.kd --data plain --steps 20 --out quiet", 1);
    expect_message(s, "G.conv2d_0.weight is not finite any more at step 16");
    expect_message(s, "the first NaN of step 6 is made by log");
}

static void test_one_at_a_time(void **state) {
    const Setup *s = ready(state);
    pid_t pid = start(s, TRAIN "--steps 100000 --out busy", "stderr");
    for (int i = 0; i < 2000 && !(there(s, "busy/log.jsonl") && count_lines(s, "busy/log.jsonl") > 2); i++) {
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    int code = run_logged(s, "train all.kd --out busy --resume");
    kill(pid, SIGKILL);
    finish(pid);
    assert_int_equal(code, 1);
    expect_message(s, "another kdc train is at work");
}

static void test_other_arguments(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 4 --out other -q", 0);
    expect_run(s, "train all.kd --out other --resume --steps 6 --load-size 19", 0);
    expect_message(s, "load_h, load_w: what is given now is not what other was begun with");
    expect_run(s, "train all.kd --out other --resume --steps 8 -q", 0); /* what was given last stays */
    expect_run(s, "run all.kd:G --weights other -i plain/p0.png -o g.png", 0);
    expect_run(s, "run faulty.kd:G --weights other -i plain/p0.png -o g.png", 1);
    expect_run(s, "run all.kd:Gen --weights other -i plain/p0.png -o g.png", 1);
    expect_message(s, "other has no tensor for weight");
    /* One network of a run (or of a checkpoint) under another name: the same picture. */
    expect_run(s, "run all.kd:Gen --weights other:G -i plain/p0.png -o named.png", 0);
    expect_run(s, "run all.kd:Gen --weights other/checkpoint-000008.safetensors:G -i plain/p0.png -o file.png", 0);
    expect_run(s, "run all.kd:G --weights G=other:G -i plain/p0.png -o same.png", 0);
    expect_same_picture(s, "named.png", "file.png");
    expect_same_picture(s, "g.png", "same.png");
    expect_run(s, "run all.kd:Gen --weights other:Q -i plain/p0.png -o no.png", 1);
    expect_message(s, "other has no network Q; it has ");
}

static void expect_silence(const Setup *s, const char *part) {
    char *err = read_text(s, "stderr", NULL);
    if (strstr(err, part)) {
        fail_msg("did not expect '%s' in\n%s", part, err);
    }
    free(err);
}

/* A run that has no such network is a mistake, not a random teacher. */
static void test_weights_of_run(void **state) {
    const Setup *s = ready(state);
    char *text = strdup(everything_kd), *at = strstr(text, "let T = frozen Gen[]\n");
    memcpy(at, "let U = frozen Gen[]\n", 21);
    at = strstr(text, "T(a)");
    *at = 'U';
    write_text(s, "under.kd", text, strlen(text));
    free(text);
    expect_run(s, TRAIN "--steps 2 --out source -q", 0);
    expect_run(s, "train under.kd --data set --steps 1 --out u1 --weights U=source", 1);
    expect_message(s, "source has no network U; it has G, D, T");
    expect_message(s, "--weights U=source:G");
    assert_false(there(s, "u1"));
    expect_run(s, "train under.kd --data set --steps 1 --out u1 --weights U=source:G --weights D=source", 0);
    expect_silence(s, "random");
    expect_run(s, "train all.kd --data set --steps 1 --out u2 --weights T=source --weights G=source -q", 0);
    same_tensors(s, "source/frozen.safetensors", "u2/frozen.safetensors");
    expect_run(s, "train all.kd --data set --steps 1 --out u3 --weights Q=source/frozen.safetensors", 1);
    expect_message(s, "no network here is called Q; here are ");
    expect_message(s, "G, ");
}

/* A frozen network without weights is warned of, even with -q; a frozen part of a network that is none is not. */
static void test_frozen_warning(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 1 --out f1 -q", 0);
    expect_message(s, "T is frozen, and no weights were given for it: all 6 tensors are random (--weights T=FILE)");
    expect_run(s, TRAIN "--steps 1 --out f2 --weights T=f1/frozen.safetensors:T", 0);
    expect_silence(s, "frozen, and");
    static const char parts[] = "net Part[](x: [n, 3, h, w]) { return conv2d[3, 1](x) }\n"
                                "net Loss[](x: [n, 3, h, w]) {\n"
                                "    let parts = [frozen Part[] for i in range(2)]\n"
                                "    return mean(square(parts[0](x))) + mean(square(parts[1](x)))\n"
                                "}\n"
                                "let G = conv2d[3, 1]\n"
                                "let K = Loss[]\n"
                                "let T = frozen Loss[]\n"
                                "session s(x: [1, 3, 16, 16]) { minimize K(G(x)) + T(x) over G with sgd(0.1) }\n";
    write_text(s, "parts.kd", parts, sizeof parts - 1);
    expect_run(s, "train parts.kd --data plain --steps 1 --out f3", 0);
    expect_silence(s, "K is frozen");
    expect_silence(s, "K: ");
    expect_message(s, "T is frozen, and no weights were given for it: all 4 tensors are random");
    expect_run(s, "train parts.kd --data plain --steps 1 --out f4 -v", 0);
    expect_message(s, "K: 4 tensors of frozen networks inside it");
    /* T.parts[1] alone */
    KdTrouble t;
    KdWeights *w = kd_weights_read(in_folder(s, "f3/frozen.safetensors"), &t);
    KdTensorOut some[2];
    int n = 0;
    assert_non_null(w);
    for (int i = 0; i < w->n; i++) {
        const KdTensor *x = &w->tensor[i];
        if (strncmp(x->name, "T.parts[1]", 10) == 0) {
            assert_true(n < 2);
            some[n++] = (KdTensorOut){x->name, x->dtype, x->rank, x->dim, x->data};
        }
    }
    assert_int_equal(n, 2);
    assert_true(kd_weights_write(in_folder(s, "some.safetensors"), some, n, NULL, 0, &t));
    kd_weights_free(w);
    expect_run(s, "train parts.kd --data plain --steps 1 --out f5 --weights some.safetensors", 0);
    expect_message(s, "T is frozen, and weights were given for 2 of its 4 tensors: the others are random");
}

/* A run that goes on keeps its teacher: other weights are refused, not left out; the same ones are no change. */
static void test_weights_on_resume(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 2 --out w0 -q", 0);
    expect_run(s, TRAIN "--steps 2 --out w1 -q --weights T=w0/frozen.safetensors", 0);
    expect_run(s, TRAIN "--steps 3 --out w1 --resume --weights T=w0:G", 1);
    expect_message(s, "--weights T=w0:G: w1 goes on with the weights it has");
    assert_false(there(s, "w1/checkpoint-000003.safetensors"));
    expect_run(s, TRAIN "--steps 3 --out w1 --resume --weights T=w0/frozen.safetensors", 0);
    expect_silence(s, "not bit for bit");
    expect_run(s, TRAIN "--steps 4 --out w1 --resume", 0);
    same_tensors(s, "w0/frozen.safetensors", "w1/frozen.safetensors");
    expect_run(s, TRAIN "--steps 1 --out w2 --weights G=w1 --weights T=w0:G", 0); /* what the hint says */
}

static void test_memory_limit(void **state) {
    const Setup *s = ready(state);
    expect_run(s, TRAIN "--steps 3 --out small --memory-limit 20M", 1);
    expect_message(s, "--memory-limit allows 20 MiB");
    assert_false(there(s, "small"));
}

static void test_bad_image(void **state) {
    const Setup *s = ready(state);
    write_text(s, "plain/p2x.png", "\x89PNG\r\n\x1a\nnothing", 15);
    expect_run(s, "train faulty.kd:bad --data plain --steps 4 --serial-batches --out torn", 1);
    expect_message(s, "p2x.png");
    assert_true(there(s, "torn/checkpoint-000003.safetensors")); /* the good steps are kept */
    unlink(in_folder(s, "plain/p2x.png"));
}

/* Pairs of one level each: picture i is i on the left and 200 + i on the right, the truth. */
static void make_pairs(const Setup *s, const char *folder, int n) {
    char name[64];
    mkdir(in_folder(s, folder), 0777);
    snprintf(name, sizeof name, "%s/train", folder);
    mkdir(in_folder(s, name), 0777);
    for (int i = 0; i < n; i++) {
        KdImage x;
        KdTrouble t;
        assert_true(kd_image_new(32, 16, 3, 8, &x, &t));
        for (int k = 0; k < 32 * 16 * 3; k++) {
            ((uint8_t *)x.samples)[k] = (uint8_t)(k % 96 < 48 ? i : 200 + i);
        }
        snprintf(name, sizeof name, "%s/train/%02d.png", folder, i);
        assert_true(kd_png_write(in_folder(s, name), &x, NULL, 0, &t));
        kd_image_free(&x);
    }
}

/* Which levels the log's values NAME had: level v is v / 127.5 - 1 there. */
static void levels_of(const Setup *s, const char *log, const char *name, bool seen[256]) {
    char *text = read_text(s, log, NULL), key[32];
    int n = 0;
    snprintf(key, sizeof key, "\"%s\":", name);
    memset(seen, 0, 256 * sizeof *seen);
    for (char *p = text; (p = strstr(p, key)); n++) {
        double v = (strtod(p += strlen(key), NULL) + 1) * 127.5;
        assert_true(v > -0.1 && v < 255.1);
        seen[(int)(v + 0.5)] = true;
    }
    assert_int_equal(n, 60);
    free(text);
}

static void test_labelled(void **state) {
    const Setup *s = ready(state);
    static const char semi[] =
        "let G = conv2d[3, 3, padding = 1]\n"
        "session semi(x: [1, 3, 16, 16], y: [1, 3, 16, 16], unlabelled: [1, 3, 16, 16]) from paired {\n"
        "    let loss = l1_loss(G(x), y) + l1_loss(G(unlabelled), unlabelled)\n"
        "    minimize loss over G with adam(1e-3)\n"
        "    let a = mean(x)\n    let b = mean(y)\n    let u = mean(unlabelled)\n    log loss, a, b, u\n}\n"
        "session alone(x: [1, 3, 16, 16], unlabelled: [1, 3, 16, 16]) { minimize mean(G(x)) over G with sgd(0.1) }\n";
    write_text(s, "semi.kd", semi, sizeof semi - 1);
    make_pairs(s, "pairs", 16);
    expect_run(s, "train semi.kd:semi --data pairs --load-size 16 --labelled 0.25 --steps 60 --save-every 20 --out semi", 0);
    expect_message(s, "the truth of 4 samples; of 12 the input alone");
    assert_int_equal(count_lines(s, "semi/labelled.txt"), 4);
    bool a[256], b[256], u[256];
    levels_of(s, "semi/log.jsonl", "a", a);
    levels_of(s, "semi/log.jsonl", "b", b);
    levels_of(s, "semi/log.jsonl", "u", u);
    char *list = read_text(s, "semi/labelled.txt", NULL), name[16];
    for (int v = 0; v < 256; v++) {
        snprintf(name, sizeof name, "/%02d.png\n", v);
        bool labelled = v < 16 && strstr(list, name);
        assert_int_equal(a[v], labelled);
        assert_int_equal(b[v], v >= 200 && a[v - 200]);
        assert_int_equal(u[v], v < 16 && !labelled); /* never the truth of any, never a labelled one */
    }
    free(list);
    expect_run(s, "train semi.kd:semi --data pairs --load-size 16 --labelled 25% --steps 23 --out semi2", 0);
    expect_run(s, "train semi.kd:semi --out semi2 --resume --steps 60", 0);
    same_tensors(s, "semi/checkpoint-000060.safetensors", "semi2/checkpoint-000060.safetensors");
    expect_run(s, "train semi.kd:semi --out semi2 --resume --steps 61 --labelled 0.5", 0);
    expect_message(s, "labelled: what is given now is not");
    expect_run(s, "train semi.kd:alone --data pairs --steps 2", 1);
    expect_message(s, "part of a session from paired or labels");
    expect_run(s, "train all.kd --data set --steps 2 --labelled 0.5 --out u", 1);
    expect_message(s, "has a truth to leave out");
    expect_run(s, "train semi.kd:semi --data pairs --steps 2 --labelled 1.5", 2);
}

static void test_usage(void **state) {
    const Setup *s = ready(state);
    expect_run(s, "train all.kd", 2);
    expect_message(s, "--data");
    expect_run(s, "train all.kd --data nowhere --steps 2", 1);
    expect_message(s, "nowhere");
    expect_run(s, "train all.kd --data set", 2);
    expect_message(s, "how long?");
    expect_run(s, "train all.kd:none --data set --steps 2", 1);
    expect_message(s, "no session called none");
    expect_run(s, "train all.kd --data set --steps 2 --crop-size 32", 1);
    expect_message(s, "the session takes 16x16");
    expect_run(s, "train all.kd --data plain --steps 2", 1);
    expect_run(s, "train all.kd --data set --steps 2 --batch 4", 1);
    expect_message(s, "the session takes 2; its params decide");
    expect_run(s, "train all.kd --data set --steps 2 --epochs 3", 2);
    static const char empty[] = "let G = conv2d[3, 1]\nsession e(x: [0, 3, 8, 8]) { minimize mean(G(x)) over G with sgd(0.1) }\n";
    write_text(s, "empty.kd", empty, sizeof empty - 1);
    expect_run(s, "train empty.kd --data plain --steps 2", 1);
    expect_message(s, "must be at least 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_folder),  cmocka_unit_test(test_it_trains), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_resume),      cmocka_unit_test(test_signals),   cmocka_unit_test(test_damaged_checkpoint),
        cmocka_unit_test(test_other_program), cmocka_unit_test(test_nan),     cmocka_unit_test(test_memory_limit),
        cmocka_unit_test(test_nan_weights),   cmocka_unit_test(test_one_at_a_time), cmocka_unit_test(test_other_arguments),
        cmocka_unit_test(test_bad_image),   cmocka_unit_test(test_usage),        cmocka_unit_test(test_weights_of_run),
        cmocka_unit_test(test_frozen_warning), cmocka_unit_test(test_weights_on_resume), cmocka_unit_test(test_labelled),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
