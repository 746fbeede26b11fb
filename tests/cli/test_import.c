/* test_import.c: kdc import on checkpoints with the official key names (golden/pth, made by make_pth.py): the map it
 * prints, and that the network with the imported weights gives what PyTorch gave; --map; what is refused, by name.
 *
 * Runs the built binary: $KDC_BIN, or ../kdc beside this program; skipped when there is none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/api/kdc.h"
#include "runtime/host/checkpoint.h"
#include "runtime/host/pth.h"

#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GOLDEN KDC_SOURCE_DIR "/tests/golden/pth/"
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

extern char **environ;

static const char nets_kd[] = "import \"nets/resnet.kd\"\n"
                              "import \"nets/unet.kd\"\n"
                              "import \"nets/patchgan.kd\"\n"
                              "let R = ResnetGen[ngf = 3, n_blocks = 2]\n"
                              "let RD = ResnetGen[ngf = 3, n_blocks = 2, dropout = true]\n"
                              "let G_B = ResnetGen[ngf = 2, n_blocks = 2]\n"
                              "let Wide = ResnetGen[ngf = 4, n_blocks = 2]\n"
                              "let U = Unet[ngf = 2, depth = 5]\n"
                              "let Open = conv2d[3, 1, bias = false]\n"
                              "let D = PatchGan[ndf = 2, norm = \"batch\"]\n"
                              "net Two[](x: [n, 3, h, w]) {\n"
                              "    let a = conv2d[3, 1, bias = false]\n"
                              "    let b = conv2d[3, 1, bias = false]\n"
                              "    return b(a(x))\n"
                              "}\n";

static char binary[512], folder[64];

static int setup(void **state) {
    (void)state;
    const char *given = getenv("KDC_BIN");
    if (given) {
        snprintf(binary, sizeof binary, "%s", given);
    } else {
        ssize_t n = readlink("/proc/self/exe", binary, sizeof binary - 16);
        if (n <= 0) {
            return -1;
        }
        binary[n] = '\0';
        for (int up = 0; up < 2; up++) {
            *strrchr(binary, '/') = '\0';
        }
        strcat(binary, "/kdc");
    }
    strcpy(folder, "/tmp/kdc-test-import-XXXXXX");
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    static const char *const files[] = {"w.safetensors", "w.pth", "again.safetensors", "two.safetensors", "map", "nets.kd", "out", "err"};
    for (size_t i = 0; i < COUNT(files); i++) {
        unlink(files[i]);
    }
    unlink("run/checkpoint-000003.safetensors");
    rmdir("run");
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

static void write_text(const char *name, const char *text) {
    KdTrouble t;
    assert_true(kd_file_write(name, text, strlen(text), &t));
}

static void needs_binary(void) {
    if (access(binary, X_OK) != 0) {
        print_message("skipped: no binary at %s\n", binary);
        skip();
    }
    write_text("nets.kd", nets_kd);
}

/* kdc LINE, with stdout and stderr to files of the folder; returns the exit code. */
static int run(const char *line) {
    char copy[1024], *argv[32] = {(char *)(uintptr_t)"kdc"};
    int argc = 1, status;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) {
        argv[argc++] = w;
    }
    pid_t pid;
    posix_spawn_file_actions_t a;
    assert_int_equal(posix_spawn_file_actions_init(&a), 0);
    posix_spawn_file_actions_addopen(&a, 1, "out", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_addopen(&a, 2, "err", O_WRONLY | O_CREAT | O_TRUNC, 0666);
    assert_int_equal(posix_spawn(&pid, binary, &a, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&a);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(const char *file, const char *text) {
    KdTrouble t;
    size_t n;
    char *all = kd_file_read(file, &n, &t);
    assert_non_null(all);
    if (!strstr(all, text)) {
        fail_msg("%s has no '%s':\n%s", file, text, all);
    }
    free(all);
}

static void must(const char *line) {
    if (run(line) != 0) {
        KdTrouble t;
        size_t n;
        fail_msg("kdc %s\n%s", line, kd_file_read("err", &n, &t));
    }
}

/* The network with weights of `file` by name, against PyTorch's `output` in `golden`. */
static void check_output(const char *net, const char *file, const char *golden, bool train, const char *output) {
    KdTrouble t;
    KdWeights *w = kd_weights_read(file, &t), *g = kd_weights_read(golden, &t);
    assert_true(w && g);
    const KdTensor *x = kd_weights_find(g, "x"), *y = kd_weights_find(g, output);
    KdcShape shape = {"x", KDC_F32, 4, {x->dim[0], x->dim[1], x->dim[2], x->dim[3]}};
    KdcOptions o = {.threads = 2, .cache = "", .opt = 1};
    KdcProgram *p = kdc_open("nets.kd", NULL, 0, &o);
    KdcRunnable *r = kdc_net(p, net, &(KdcShapes){.given = &shape, .n_given = 1, .train = train});
    if (!r) {
        kdc_print_messages(p, stderr, false);
        fail_msg("%s does not compile", net);
    }
    for (int i = 0; i < kdc_input_count(r); i++) {
        KdcTensor *in = kdc_input(r, i);
        if (in->dtype == KDC_F32) { /* and none of the compiler's own scalars */
            const KdTensor *from = in->role == KDC_DATA ? x : kd_weights_find(w, in->name);
            assert_non_null(from);
            assert_int_equal(from->count, in->count);
            assert_true(kd_tensor_f32(from, in->data, &t));
        }
    }
    assert_int_equal(kdc_run(r), KDC_OK);
    const float *out = kdc_find_output(r, "out")->data;
    float *expected = malloc(sizeof *expected * (size_t)y->count);
    assert_true(expected && kd_tensor_f32(y, expected, &t));
    double worst = 0;
    for (int64_t i = 0; i < y->count; i++) {
        worst = fmax(worst, fabs((double)out[i] - (double)expected[i]));
    }
    if (!(worst <= 1e-4)) {
        fail_msg("%s with %s: off by %g", net, file, worst);
    }
    free(expected);
    kdc_close(p);
    kd_weights_free(w);
    kd_weights_free(g);
}

typedef struct Row {
    const char *net, *options, *file, *golden; /* golden NULL: compared with the previous row's weights, bit for bit */
    const char *out, *err;                     /* what is printed, or NULL */
} Row;

static const Row rows[] = {
    {"R", "", "resnet.pth", "resnet", "down[1].weight = model.7.weight   [12, 6, 3, 3]  (by convention)\n", NULL},
    {"R", "", "resnet_old.pth", NULL, "20 tensors of R: 20 by convention; written to again.safetensors\n",
     "not used: model.10.conv_block.6.running_var (statistics of a normalisation that has none here)\n"},
    {"RD", "", "resnet_dropout.pth", "resnet_dropout", "blocks[1].conv2.bias = G_A.module.model.11.conv_block.6.bias   [12]",
     "not used: G_B.model.1.weight (no weight takes it)\n"},
    {"RD", "", "resnet_dropout_old.pth", NULL, "= model.11.conv_block.6.bias ", NULL},
    {"U", "", "unet.pth", "unet", "up[3].conv.weight = model.model.1.model.3.model.3.model.5.weight   [32, 8, 4, 4]",
     "not used: model.model.1.model.6.num_batches_tracked (a counter)\n"},
    {"U", "", "unet_old.pth", NULL, "down[3].norm.running_var = model.model.1.model.3.model.3.model.2.running_var ", NULL},
    {"D", " --shape x=1x6x48x40", "patchgan.pth", "patchgan", "bn[3].running_mean = model.9.running_mean   [16]", NULL},
    {"D", " --shape x=1x6x48x40", "patchgan_old.pth", NULL, "conv[4].weight = model.11.weight   [1, 16, 4, 4]", NULL},
};

static void test_official(void **state) {
    (void)state;
    needs_binary();
    for (size_t i = 0; i < COUNT(rows); i++) {
        const Row *r = &rows[i];
        char line[512], golden[512];
        const char *to = r->golden ? "w.safetensors" : "again.safetensors";
        snprintf(line, sizeof line, "import " GOLDEN "%s nets.kd:%s -o %s --size 32x32%s", r->file, r->net, to, r->options);
        must(line);
        expect("out", r->out);
        if (r->err) {
            expect("err", r->err);
        }
        if (r->golden) {
            snprintf(golden, sizeof golden, GOLDEN "%s.safetensors", r->golden);
            check_output(r->net, to, golden, false, "out");
        } else {
            KdTrouble t;
            size_t n, m;
            char *a = kd_file_read("w.safetensors", &n, &t), *b = kd_file_read("again.safetensors", &m, &t);
            assert_true(a && b && n == m);
            assert_memory_equal(a, b, n);
            free(a);
            free(b);
        }
        if (strcmp(r->file, "unet.pth") == 0) { /* as released models are run: with the picture's own statistics */
            check_output("U", "w.safetensors", golden, true, "out_train");
        }
    }
}

/* Which of two generators: the network's name, or a line of the map. */
static void test_parts(void **state) {
    (void)state;
    needs_binary();
    must("import " GOLDEN "resnet_dropout.pth nets.kd:G_B -o w.safetensors --size 32x32");
    expect("out", "stem.weight = G_B.model.1.weight   [2, 3, 7, 7]  (by convention)\n");
    must("import w.safetensors nets.kd:G_B -o w.pth --size 32x32");
    expect("out", "20 tensors of G_B: 20 by name; written to w.pth\n");
    must("import w.pth nets.kd:G_B -o again.safetensors --size 32x32");
    KdTrouble t;
    size_t n, m;
    char *a = kd_file_read("w.safetensors", &n, &t), *b = kd_file_read("again.safetensors", &m, &t);
    assert_true(a && b && n == m && memcmp(a, b, n) == 0);
    free(a);
    free(b);
    const float v[4][9] = {{1}, {2}, {3}, {4}};
    const int64_t dim[4] = {3, 3, 1, 1};
    const KdTensorOut x[4] = {{"P.0.weight", KD_STORED_F32, 4, dim, v[0]}, {"P.2.weight", KD_STORED_F32, 4, dim, v[1]},
                              {"Q.0.weight", KD_STORED_F32, 4, dim, v[2]}, {"Q.10.weight", KD_STORED_F32, 4, dim, v[3]}};
    assert_true(kd_weights_write("two.safetensors", x, 4, NULL, 0, &t));
    assert_int_equal(run("import two.safetensors nets.kd:Two -o w.safetensors"), 1);
    expect("err", "two.safetensors: what lies under 'P' and what lies under 'Q' both fit");
    write_text("map", "# the second one\n\n* = Q # whole\r\n");
    must("import two.safetensors nets.kd:Two -o w.safetensors --map map");
    expect("out", "a.weight = Q.0.weight   [3, 3, 1, 1]  (by convention)\nb.weight = Q.10.weight ");
    write_text("map", "b.weight = P.0.weight\na.weight = Q.10.weight");
    must("import two.safetensors nets.kd:Two -o w.safetensors --map map");
    expect("out", "a.weight = Q.10.weight   [3, 3, 1, 1]  (by map)\nb.weight = P.0.weight   [3, 3, 1, 1]  (by map)\n"
                  "2 tensors of Two: 2 by map; written to w.safetensors\n");
    expect("err", "not used: P.2.weight (no weight takes it)\n");
    const KdTensorOut open = {"weight", KD_STORED_F32, 4, dim, v[0]};
    assert_true(kd_weights_write("again.safetensors", &open, 1, NULL, 0, &t));
    must("import again.safetensors nets.kd:Open -o w.safetensors"); /* three channels, as kdc run takes them */
    expect("out", "weight = weight   [3, 3, 1, 1]  (by name)\n");
    assert_int_equal(run("import again.safetensors nets.kd:Open -o w.safetensors --shape x=1x1x8x8"), 1);
    expect("err", "[3, 1, 1, 1]");
    assert_int_equal(run("import again.safetensors nets.kd:Open -o w.safetensors --shape y=1x1x8x8"), 1);
    expect("err", "--shape: no input of Open is called 'y'; it takes x: [1, 3, 256, 256]");
}

/* Names as torch has them in a .pth; a run folder; a run's state is counted; a damaged checkpoint. */
static void test_runs(void **state) {
    (void)state;
    needs_binary();
    KdTrouble t;
    must("import " GOLDEN "resnet.pth nets.kd:R -o w.pth --size 32x32");
    KdWeights *w = kd_pth_read("w.pth", &t);
    assert_non_null(w);
    assert_non_null(kd_weights_find(w, "down.0.weight"));
    for (int i = 0; i < w->n; i++) {
        assert_null(strpbrk(w->tensor[i].name, "[]"));
    }
    kd_weights_free(w);
    must("import w.pth nets.kd:R -o again.safetensors --size 32x32");
    expect("out", "down[0].weight = down.0.weight ");
    const float v[2][9] = {{1}, {2}};
    const int64_t dim[4] = {3, 3, 1, 1};
    const KdTensorOut x[5] = {{"Two.a.weight", KD_STORED_F32, 4, dim, v[0]}, {"Two.b.weight", KD_STORED_F32, 4, dim, v[1]},
                              {"opt.Two.a.weight.m", KD_STORED_F32, 4, dim, v[0]}, {"pool.x", KD_STORED_F32, 4, dim, v[0]},
                              {"Other.weight", KD_STORED_F32, 4, dim, v[0]}};
    assert_int_equal(mkdir("run", 0777), 0);
    assert_int_equal(run("import run nets.kd:Two -o w.safetensors"), 1);
    expect("err", "run is a folder without a checkpoint of kdc train");
    assert_true(kd_checkpoint_write("run", 3, x, 5, NULL, 0, &t));
    must("import run nets.kd:Two -o w.safetensors");
    expect("out", "a.weight = Two.a.weight   [3, 3, 1, 1]  (by name)\n");
    expect("err", "not used: Other.weight (no weight takes it)\n"
                  "not used: 2 tensors of the training run's state (opt, pool, every)\n");
    must("import run:Two nets.kd:Two -o w.safetensors"); /* one network of it */
    expect("out", "a.weight = a.weight   [3, 3, 1, 1]  (by name)\n");
    must("import run/checkpoint-000003.safetensors:Two nets.kd:Two -o w.safetensors");
    assert_int_equal(run("import run:Tow nets.kd:Two -o no"), 1);
    expect("err", "run has no network Tow; it has Two, Other");
    size_t n;
    char *b = kd_file_read("run/checkpoint-000003.safetensors", &n, &t);
    b[n - 1] ^= 1;
    assert_true(kd_file_write("run/checkpoint-000003.safetensors", b, n, &t));
    free(b);
    assert_int_equal(run("import run/checkpoint-000003.safetensors nets.kd:Two -o no"), 1);
    expect("err", "checkpoint-000003.safetensors is damaged: its checksum is ");
    assert_int_equal(run("import run nets.kd:Two -o no"), 1);
    expect("err", "is damaged");
    assert_int_equal(run("import /dev/zero nets.kd:Two -o no"), 1);
    expect("err", "/dev/zero is a device, not a plain file");
}

typedef struct Refused {
    const char *line, *map, *says;
    int code;
} Refused;

static const Refused refused[] = {
    {"import two.safetensors nets.kd:Two -o no --map map", "a.weight: P", "map:1: expected 'OUR.NAME = THEIR.NAME', found 'a.weight: P'", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "\n= P", "map:2: expected", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "a.weight =", "map:1: expected", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "a = b = c", "map:1: expected", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "a.wight = P.0.weight", "did you mean 'a.weight'?", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "a.weight = P.1.weight", "map:1: two.safetensors has no tensor 'P.1.weight'", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "a.weight = P.0.weight\na.weight = P.2.weight", "map:2: 'a.weight' is mapped already", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "a.weight = P.0.weight\nb.weight = P.0.weight", "map:2: 'P.0.weight' is mapped already", 1},
    {"import two.safetensors nets.kd:Two -o no --map map", "* = R", "map:1: nothing in two.safetensors lies under 'R'", 1},
    {"import two.safetensors nets.kd:Two -o no --map nowhere", NULL, "nowhere", 1},
    {"import " GOLDEN "resnet.pth nets.kd:Wide -o no --size 32x32", NULL, "no tensor for weight stem.weight [4, 3, 7, 7]", 1},
    {"import " GOLDEN "resnet.pth nets.kd:Nothing -o no", NULL, "Nothing", 1},
    {"import nets.kd nets.kd:Two -o no", NULL, "nets.kd: not a safetensors file", 1},
    {"import two.safetensors nets.kd:Two", NULL, "where to?", 2},
    {"import two.safetensors nets.kd -o no", NULL, "which network", 2},
};

static void test_refused(void **state) {
    (void)state;
    needs_binary();
    for (size_t i = 0; i < COUNT(refused); i++) {
        if (refused[i].map) {
            write_text("map", refused[i].map);
        }
        assert_int_equal(run(refused[i].line), refused[i].code);
        expect("err", refused[i].says);
        assert_int_equal(access("no", F_OK), -1);
    }
    KdTrouble t;
    write_text("map", "a.weight = P.0.weight");
    static const char *const inputs[] = {"nets.kd", "two.safetensors", "map"};
    for (size_t i = 0; i < COUNT(inputs); i++) {
        char line[128];
        size_t n, m;
        char *before = kd_file_read(inputs[i], &n, &t);
        snprintf(line, sizeof line, "import two.safetensors nets.kd:Two --map map -o %s", inputs[i]);
        assert_int_equal(run(line), 1);
        snprintf(line, sizeof line, "%s would be overwritten by the result", inputs[i]);
        expect("err", line);
        char *after = kd_file_read(inputs[i], &m, &t);
        assert_true(before && after && n == m && memcmp(before, after, n) == 0);
        free(before);
        free(after);
    }
    static const char code[] = "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}(U\x0dlittle_endian\x88u."
                               "\x80\x02" "cos\nsystem\n(U\x07" "echo hitR.";
    assert_true(kd_file_write("w.pth", code, sizeof code - 1, &t));
    assert_int_equal(run("import w.pth nets.kd:Two -o no"), 1);
    expect("err", "w.pth: the pickle asks for 'os.system' at byte 2; only state dicts of tensors are read");
    assert_int_equal(run("call nets.kd:Two --in " GOLDEN "resnet.safetensors --weights w.pth"), 1);
    expect("err", "the pickle asks for 'os.system'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_official),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
