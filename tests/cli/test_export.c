/* test_export.c: exported networks as their users compile them: C and C++, every target that can be run here, weights inside
 * and beside, against what the JIT computes in this process and what kdc run writes.
 *
 * Runs the built kdc ($KDC_BIN, or ../kdc beside this program), cc, and what else is installed; what is not is skipped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/api/kdc.h"
#include "runtime/host/dataset.h"
#include "runtime/host/weights.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char model[] = "import \"nets/style.kd\"\n"
                            "net Two[](a: [n, 2, h, w], mark: u8[n, 1, h, w]) {\n"
                            "    let y = conv2d[2, 3, padding = 1](a) + cast(mark, \"f32\")\n"
                            "    return [y, mean(y)]\n"
                            "}\n"
                            "let G = StyleGen[width = 4, n_blocks = 1, unit = true]\n"
                            "let D = StyleGen[width = 4, n_blocks = 1]\n"
                            "let T = Two[]\n"
                            "session s(x: [1, 3, 8, 8]) { let l = mean(G(x))\n"
                            " minimize l over G with adam(0.1) }\n";

enum { H = 24, W = 20 };

typedef struct Setup {
    char folder[64];
} Setup;

/* ---- running ---------------------------------------------------------------------------------------- */

/* A shell's exit code; $KDC is the command, the folder is the working one. What it printed is in `log`. */
static int sh(const char *line) {
    char all[2048];
    snprintf(all, sizeof all, "(%s) >log 2>&1 </dev/null", line);
    int status = system(all);
    return status == -1 ? -1 : status >> 8;
}

static void must(const char *line) {
    int code = sh(line);
    if (code != 0) {
        size_t n;
        KdTrouble t;
        char *text = kd_file_read("log", &n, &t);
        print_error("exit code %d: %s\n%s\n", code, line, text ? text : "");
        free(text);
        fail();
    }
}

static bool have(const char *tool) {
    char line[128];
    snprintf(line, sizeof line, "command -v %s", tool);
    return sh(line) == 0;
}

static void log_has(const char *text) {
    size_t n;
    KdTrouble t;
    char *log = kd_file_read("log", &n, &t);
    assert_non_null(log);
    if (!strstr(log, text)) {
        fail_msg("'%s' is not in: %s", text, log);
    }
    free(log);
}

static void save(const char *path, const void *bytes, size_t n) {
    KdTrouble t;
    assert_true(kd_file_write(path, bytes, n, &t));
}

/* ---- what the JIT says ----------------------------------------------------------------------------- */

static KdcRunnable *net(KdcProgram *p, const char *name, const char *weights) {
    KdcRunnable *r = kdc_net(p, name, &(KdcShapes){0});
    if (!r || kdc_initialise(r, 5) != KDC_OK) {
        kdc_print_messages(p, stderr, false);
        fail();
    }
    KdTensorOut out[64];
    int n = 0;
    for (int i = 0; i < kdc_input_count(r); i++) {
        const KdcTensor *t = kdc_input(r, i);
        if (t->role != KDC_DATA) {
            out[n++] = (KdTensorOut){t->name, KD_STORED_F32, t->rank, t->dim, t->data};
        }
    }
    KdTrouble t;
    assert_true(kd_weights_write(weights, out, n, NULL, 0, &t));
    return r;
}

static void floats(KdcRunnable *r) {
    KdcTensor *x = kdc_find(r, "x"), *y = kdc_find_output(r, "out");
    for (int64_t i = 0; i < x->count; i++) {
        ((float *)x->data)[i] = (float)((i * 7919) % 2001 - 1000) / 1000;
    }
    assert_int_equal(kdc_run(r), KDC_OK);
    save("x.bin", x->data, sizeof(float) * (size_t)x->count);
    save("y.bin", y->data, sizeof(float) * (size_t)y->count);
}

/* As runtime/host/dataset.h has it. */
static void pictures(KdcRunnable *r) {
    KdcTensor *x = kdc_find(r, "x"), *y = kdc_find_output(r, "out");
    KdImage in, out;
    KdTrouble t;
    assert_true(kd_image_new(W, H, 3, 8, &in, &t));
    for (int i = 0; i < 3 * W * H; i++) {
        ((uint8_t *)in.samples)[i] = (uint8_t)(i * 31 + i / 97);
    }
    kd_image_to_planes(&in, x->data);
    assert_int_equal(kdc_run(r), KDC_OK);
    assert_true(kd_image_from_planes(y->data, 3, H, W, false, &out, &t));
    save("rgb.bin", in.samples, 3 * W * H);
    save("want.bin", out.samples, 3 * W * H);
    assert_true(kd_png_write("in.png", &in, NULL, 0, &t));
    kd_image_free(&in);
    kd_image_free(&out);
}

/* Do both files show the same picture? */
static void same_pictures(const char *a, const char *b) {
    KdImage x, y;
    KdTrouble t;
    assert_true(kd_image_read(a, KD_IMAGE_RGB8, &x, &t));
    assert_true(kd_image_read(b, KD_IMAGE_RGB8, &y, &t));
    assert_true(x.width == W && y.width == W && x.height == H && y.height == H);
    assert_memory_equal(x.samples, y.samples, 3 * W * H);
    kd_image_free(&x);
    kd_image_free(&y);
}

static int setup(void **state) {
    static Setup s;
    char kdc[512], path[600];
    const char *bin = getenv("KDC_BIN");
    snprintf(s.folder, sizeof s.folder, "/tmp/kdc_export_XXXXXX");
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    snprintf(kdc, sizeof kdc, "%.*s/../kdc", slash ? (int)(slash - path) % 400 : 0, path);
    setenv("KDC", bin ? bin : kdc, 1);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    if (!mkdtemp(s.folder) || chdir(s.folder) != 0) {
        return -1;
    }
    setenv("XDG_CACHE_HOME", s.folder, 1);
    setenv("USE", KDC_SOURCE_DIR "/tests/cli/export_use.c", 1);
    setenv("CC", "cc -std=gnu99 -O1 -Wall -Wextra -Werror -I out", 1);
    save("m.kd", model, sizeof model - 1);
    KdcOptions o = {.height = H, .width = W, .threads = 2, .cache = ""};
    KdcProgram *p = kdc_open("m.kd", NULL, 0, &o);
    KdcRunnable *g = net(p, "G", "g.safetensors");
    net(p, "D", "d.safetensors");
    net(p, "T", "t.safetensors");
    floats(g);
    pictures(g);
    kdc_close(p);
    *state = &s;
    return 0;
}

static int teardown(void **state) {
    char line[128];
    if (!*state) {
        return -1;
    }
    snprintf(line, sizeof line, "rm -r %s", ((Setup *)*state)->folder);
    return chdir("/") || system(line);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

#define EXPORT "rm -rf out && $KDC export m.kd:G --weights g.safetensors --size 24x20 -o out "

static void test_host(void **state) {
    (void)state;
    must(EXPORT);
    log_has("functions  G_init G_free G_run_rgb8 G_selftest G_run\n");
    log_has("self-test  every bit");
    must("$CC -pedantic $USE out/G.o -o use -lpthread && ./use");
    must("$CC $USE -Lout -lG -o use && ./use"); /* the archive's index */
    must("test -z \"$(nm -u out/G.o | grep -vE ' (memcpy|memset|malloc|free)$')\"");
    must("test \"$(nm out/G.o | grep -E ' [A-TV-Z] ' | cut -d' ' -f3 | tr '\\n' ' ')\" = "
         "'G_free G_init G_run G_run_rgb8 G_selftest '");
    must("cp -r out first && " EXPORT "&& diff -r out first"); /* equal bytes every time */
}

static void test_cpp(void **state) {
    (void)state;
    const char *cpp = have("g++") ? "g++" : have("clang++-19") ? "clang++-19" : NULL;
    char line[512];
    if (!cpp) {
        skip();
    }
    must(EXPORT);
    static const char use[] = "#include \"G.h\"\nint main() { G_net n; return G_init(&n, 0) || G_selftest(&n); }\n";
    save("u.cpp", use, sizeof use - 1);
    snprintf(line, sizeof line, "%s -Wall -Wextra -Werror -pedantic -Iout u.cpp out/libG.a -o u && ./u", cpp);
    must(line);
}

static void test_beside(void **state) {
    (void)state;
    must(EXPORT "--beside");
    must("$CC $USE out/libG.a -o use -lpthread && ./use");
    must("test $(stat -c %s out/G.o) -lt $(( $(stat -c %s out/G.weights) + 100000 ))");
    must("cd out && cc -std=c99 -Wall -Wextra -Werror main.c libG.a -o s && "
         "(printf 'P6\\n20 24\\n255\\n'; cat ../rgb.bin) >i.ppm && ./s G.weights i.ppm o.ppm && tail -c 1440 o.ppm | cmp - ../want.bin");
    assert_int_not_equal(sh("cd out && ./s i.ppm i.ppm o.ppm"), 0);
}

static void test_sample(void **state) {
    (void)state;
    must(EXPORT);
    must("cd out && cc -std=c99 -Wall -Wextra -Werror -pedantic main.c libG.a -o s");
    must("cd out && (printf 'P6 # size\\n20 24 # wide, high\\n255\\n'; cat ../rgb.bin) >i.ppm && ./s i.ppm o.ppm");
    must("cd out && test \"$(head -c 13 o.ppm | tr '\\n' ' ')\" = 'P6 20 24 255 ' && "
         "tail -c 1440 o.ppm | cmp - ../want.bin");
    must("cd out && head -c 1000 i.ppm >cut.ppm && ! ./s cut.ppm o2.ppm && ! test -e o2.ppm && "
         "! ./s none.ppm o2.ppm");
    must("cd out && (printf 'P6\\n24 20\\n255\\n'; cat ../rgb.bin) >i2.ppm && ! ./s i2.ppm o2.ppm");
    log_has("24 wide and 20 high; G takes 20 and 24");
    must("cd out && cc -Wall -Wextra -Werror -DWITH_PNG main.c libG.a -o s -lpng && ./s i.ppm o.png && "
         "./s o.png o3.ppm && ./s o.ppm o4.ppm && cmp o3.ppm o4.ppm");
    must("printf 'int main(void) { return 0; }\\n' >out/main.c && "
         "$KDC export m.kd:G --weights g.safetensors --size 24x20 -o out");
    log_has("yours: left alone");
    must("grep -q 'return 0; }' out/main.c");
}

/* The same pictures as kdc run makes. */
static void test_like_run(void **state) {
    (void)state;
    static const char *const options[] = {"", "--truncate", "--range 0..255", "--range 0..1 --truncate"};
    for (int i = 0; i < 4; i++) {
        char line[512];
        const char *name = i == 2 ? "D" : "G", *weights = i == 2 ? "d" : "g";
        snprintf(line, sizeof line, "rm -rf out && $KDC export m.kd:%s --weights %s.safetensors --size 24x20 %s -o out && "
                 "cd out && cc -DWITH_PNG main.c lib%s.a -o s -lpng && ./s ../in.png o.png",
                 name, weights, options[i], name);
        must(line);
        snprintf(line, sizeof line, "$KDC run m.kd:%s --weights %s.safetensors %s --in in.png -o run.png", name, weights,
                 options[i]);
        must(line);
        same_pictures("out/o.png", "run.png");
    }
}

static void level(const char *cpu, bool runs) {
    char line[512];
    snprintf(line, sizeof line, EXPORT "--cpu %s", cpu);
    must(line);
    must("$CC -DNEAR $USE out/libG.a -o use -lpthread");
    if (runs) {
        must("./use"); /* its self-test counts every bit of what the JIT made for this level */
    } else {
        must("! ./use");
    }
}

static void test_levels(void **state) {
    (void)state;
#if defined(__x86_64__)
    level("x86-64", true);
    level("x86-64-v3", __builtin_cpu_supports("x86-64-v3"));
    level("x86-64-v4", __builtin_cpu_supports("x86-64-v4"));
#else
    skip();
#endif
}

static void test_valgrind(void **state) {
    (void)state;
    if (!have("valgrind")) {
        skip();
    }
    must(EXPORT "--cpu x86-64");
    must("$CC -g -DNEAR $USE out/libG.a -o use -lpthread && "
         "valgrind -q --error-exitcode=9 --leak-check=full ./use");
}

static void test_aarch64(void **state) {
    (void)state;
    if (!have("qemu-aarch64") || !have("aarch64-linux-gnu-gcc")) {
        skip();
    }
    must(EXPORT "--target aarch64-linux-gnu --cpu cortex-a72");
    log_has("aarch64-linux-gnu-gcc -static");
    must("aarch64-linux-gnu-gcc -static -std=gnu99 -Wall -Wextra -Werror -DNEAR -Iout $USE out/libG.a -o use -lpthread && "
         "qemu-aarch64 ./use");
}

static void test_openmp(void **state) {
    (void)state;
    must(EXPORT "--openmp --threads 3");
    must("grep -q 'MOST_THREADS 3' out/G.h");
    must("test -z \"$(nm -u out/G.o | grep -vE ' (memcpy|memset|malloc|free|GOMP_parallel|omp_get_[a-z_]*)$')\"");
    must("$CC -fopenmp $USE out/libG.a -o use -lpthread && ./use && OMP_NUM_THREADS=7 ./use && OMP_NUM_THREADS=1 ./use");
}

/* Two networks in one program, and a network that is not picture to picture. */
static void test_several(void **state) {
    (void)state;
    static const char use[] =
        "#include \"G.h\"\n#include \"T.h\"\n"
        "int main(void) {\n"
        "    static float a[T_INPUT_a_COUNT], y[T_OUTPUT_out_0_COUNT], mean[T_OUTPUT_out_1_COUNT];\n"
        "    static unsigned char mark[T_INPUT_mark_COUNT];\n"
        "    G_net g; T_net t;\n"
        "    double sum = 0;\n"
        "    int i;\n"
        "    if (G_init(&g, 0) || T_init(&t, 0) || G_selftest(&g) || T_selftest(&t)) return 1;\n"
        "    for (i = 0; i < T_INPUT_mark_COUNT; i++) mark[i] = (unsigned char)(i % 5);\n"
        "    T_run(&t, a, mark, y, mean);\n"
        "    for (i = 0; i < T_OUTPUT_out_0_COUNT; i++) sum += y[i];\n"
        "    sum = sum / T_OUTPUT_out_0_COUNT - mean[0];\n"
        "    G_free(&g); T_free(&t);\n"
        "    return mean[0] < 1.9 || mean[0] > 2.1 || sum > 1e-4 || sum < -1e-4;\n"
        "}\n";
    must(EXPORT "&& $KDC export m.kd:T --weights t.safetensors --size 10x10 -o out");
    save("u.c", use, sizeof use - 1);
    must("$CC u.c -Lout -lG -lT -o u && ./u");
    must("! grep -q rgb8 out/T.h && cd out && cc -std=c99 -Wall -Wextra -Werror main.c libT.a -o s && ./s");
}

/* Spectral norms are folded: the quotient is the weight, u and v are gone, and the results are the JIT's to the bit. */
static void test_folded(void **state) {
    (void)state;
    static const char kd[] = "net Sn[](x: [n, 3, h, w]) {\n"
                             "    let a = conv2d[4, 3, padding = 1, spectral = true]\n"
                             "    let b = conv2d[3, 1, bias = false, spectral = true]\n"
                             "    return b(relu(a(x)))\n"
                             "}\n"
                             "let N = Sn[]\n";
    static const char use[] =
        "#include \"N.h\"\n#include <stdio.h>\n#include <string.h>\n"
        "static float x[N_INPUT_COUNT], y[N_OUTPUT_COUNT], want[N_OUTPUT_COUNT];\n"
        "int main(void) {\n"
        "    N_net n;\n"
        "    FILE *f = fopen(\"nx.bin\", \"rb\"), *g = fopen(\"ny.bin\", \"rb\");\n"
        "    if (!f || !g || fread(x, sizeof x, 1, f) != 1 || fread(want, sizeof want, 1, g) != 1) return 1;\n"
        "    if (N_init(&n, 0) || N_selftest(&n)) return 2;\n"
        "    N_run(&n, x, y);\n"
        "    return memcmp(y, want, sizeof y) ? 3 : 0;\n"
        "}\n";
    save("n.kd", kd, sizeof kd - 1);
    save("u.c", use, sizeof use - 1);
    KdcOptions o = {.height = H, .width = W, .threads = 1, .cache = ""};
    KdcProgram *p = kdc_open("n.kd", NULL, 0, &o);
    KdcRunnable *r = net(p, "N", "n.safetensors");
    KdcTensor *x = kdc_find(r, "x"), *y = kdc_find_output(r, "out");
    for (int64_t i = 0; i < x->count; i++) {
        ((float *)x->data)[i] = (float)((i * 7919) % 2001 - 1000) / 1000;
    }
    assert_int_equal(kdc_run(r), KDC_OK);
    save("nx.bin", x->data, sizeof(float) * (size_t)x->count);
    save("ny.bin", y->data, sizeof(float) * (size_t)y->count);
    kdc_close(p);
    must("rm -rf out && $KDC export n.kd:N --weights n.safetensors --size 24x20 -o out");
    log_has("parameters 124, 576 bytes"); /* 108 + 4 and 12 of them, each tensor on a multiple of 64 bytes */
    must("$CC u.c out/libN.a -o u && ./u");
    must("rm -rf out && $KDC export n.kd:N --weights n.safetensors --size 24x20 -o out --target aarch64-linux-gnu");
    log_has("parameters 124, 576 bytes");
}

static void refused(const char *args, int code, const char *sentence) {
    char line[512];
    snprintf(line, sizeof line, "$KDC export %s", args);
    assert_int_equal(sh(line), code);
    log_has(sentence);
}

/* Channels that nothing tells are three, as kdc run has it; --shape tells others. */
static void test_channels(void **state) {
    (void)state;
    static const float zeros[3 * 3 * 9 + 3];
    const int64_t three[4] = {3, 3, 3, 3}, one[4] = {3, 1, 3, 3};
    const KdTensorOut o3[] = {{"weight", KD_STORED_F32, 4, three, zeros}, {"bias", KD_STORED_F32, 1, three, zeros}};
    const KdTensorOut o1[] = {{"weight", KD_STORED_F32, 4, one, zeros}, {"bias", KD_STORED_F32, 1, one, zeros}};
    KdTrouble t;
    assert_true(kd_weights_write("o3.safetensors", o3, 2, NULL, 0, &t) && kd_weights_write("o1.safetensors", o1, 2, NULL, 0, &t));
    must("echo 'let Open = conv2d[3, 3, padding = 1]' >o.kd");
    must("$KDC export o.kd:Open --weights o3.safetensors --size 12x16 -o open && grep -q 'INPUT_CHANNELS 3' open/Open.h && "
         "grep -q 'INPUT_WIDTH 16' open/Open.h && cd open && cc main.c libOpen.a -o s");
    must("$KDC export o.kd:Open --weights o1.safetensors --shape x=1x1x12x16 -o open && grep -q 'INPUT_CHANNELS 1' open/Open.h");
    refused("o.kd:Open --weights o1.safetensors --shape y=1x1x12x16 -o open", 1, "no input of Open is called 'y'; it takes x: [1, 3, 256, 256]");
}

static void test_refusals(void **state) {
    (void)state;
    refused("m.kd -o x", 2, "which network");
    refused("m.kd:G", 2, "-o FOLDER");
    refused("m.kd:G -o ''", 2, "--output needs FOLDER, got ''");
    refused("m.kd:G -o x --threads 4", 2, "--threads is for --openmp");
    refused("m.kd:G -o x --threads 1", 1, "no weights are given for"); /* what it is without --openmp */
    refused("m.kd:s -o x", 2, "is a session");
    refused("m.kd:G -o x", 1, "no weights are given for");
    refused("m.kd:G -o x --weights t.safetensors", 1, "t.safetensors");
    refused("m.kd:G -o x --weights g.safetensors --target riscv64-linux-gnu", 1, "no code generator for 'riscv64");
    refused("m.kd:G -o x --weights g.safetensors --cpu pentium", 1, "no CPU 'pentium'");
    refused("m.kd:G -o x --weights g.safetensors --size 8x8 --target x86_64-apple-darwin", 1, "is no ELF object");
    refused("m.kd:G -o m.kd --weights g.safetensors --size 8x8", 3, "it is a file");
    refused("m.kd:G -o /proc/x --weights g.safetensors --size 8x8", 3, "cannot be made");
    assert_int_not_equal(access("x", F_OK), 0);
    must("mkdir -p in && cp g.safetensors in/G.weights && cp m.kd in/G.h && cp in/G.h h && cp in/G.weights w");
    refused("m.kd:G --weights in/G.weights --size 8x8 --beside -o in", 1, "in/G.weights would be overwritten by the result");
    refused("in/G.h:G --weights in/G.weights --size 8x8 -o in", 1, "in/G.h would be overwritten by the result");
    must("rm in/G.h && ln m.kd in/libG.a");
    refused("m.kd:G --weights in/G.weights --size 8x8 -o in", 1, "m.kd would be overwritten by the result");
    must("test $(ls in | wc -l) = 2 && cmp h m.kd && cmp w in/G.weights");
    static const char unet[] = "import \"nets/unet.kd\"\nlet U = Unet[depth = 5, ngf = 4]\nlet Deep = Unet[depth = 6, ngf = 4]\n"
                               "net One[](x: [n, 3, h, w]) { return x + zeros([n, 3, 64, 64]) }\n";
    save("u.kd", unet, sizeof unet - 1);
    refused("u.kd:U -o x --size 40x64", 1, "U takes multiples of 32: --size 64x64");
    refused("u.kd:Deep -o x --size 60x60", 1, "Deep takes multiples of 64: --size 64x64"); /* not of 8, as 64 is, too */
    refused("u.kd:One -o x --size 60x60", 1, "One takes --size 64x64");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),     cmocka_unit_test(test_cpp),     cmocka_unit_test(test_beside),
        cmocka_unit_test(test_sample),   cmocka_unit_test(test_like_run),  cmocka_unit_test(test_levels),
        cmocka_unit_test(test_valgrind), cmocka_unit_test(test_aarch64), cmocka_unit_test(test_openmp),
        cmocka_unit_test(test_several),  cmocka_unit_test(test_refusals), cmocka_unit_test(test_channels),
        cmocka_unit_test(test_folded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
