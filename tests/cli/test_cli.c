/* test_cli.c: the command as a person uses it: flags, exit codes, streams, stages that read back, tensors in and out.
 *
 * Runs the built binary: $KDC_BIN, or ../kdc beside this program; skipped when there is none. Everything it reads and
 * writes is in a folder of its own, the kernel cache too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ir/ir.h"
#include "ir/loop.h"
#include "runtime/host/weights.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char tiny_kd[] =
    "param ch = 4\n"
    "fn twice(x: [n]) {\n"
    "    return x * 2.0\n"
    "}\n"
    "net Tiny[ch = 4](x: [n, 3, h, w]) {\n"
    "    let f = conv2d[ch, 3](x)\n"
    "    let m = relu(f)\n"
    "    tap mid = m\n"
    "    return tanh(conv2d[3, 1](m))\n"
    "}\n"
    "let T = Tiny[ch = ch]\n"
    "session fit(x: [2, 3, 8, 8], y: [2, 3, 6, 6]) from paired {\n"
    "    let out = T(x)\n"
    "    let loss = mean(square(out - y))\n"
    "    minimize loss over T with adam(0.01)\n"
    "    log loss\n"
    "    every 2 {\n"
    "        let size = mean(abs(out))\n"
    "        log size\n"
    "    }\n"
    "    show out\n"
    "}\n";

static const char bad_kd[] = "fn f(x: [n]) {\n"
                             "    return relv(x)\n"
                             "}\n"
                             "net N[k = 1](x: [n, 3, h, w]) {\n"
                             "    return relv(x)\n"
                             "}\n"
                             "let M = N[k = 1]\n";

/* ---- running ---------------------------------------------------------------------------------------- */

typedef struct Setup {
    char binary[512], folder[64];
    bool ready;
} Setup;

static void in_folder(const Setup *s, const char *name, char *path, size_t n) {
    snprintf(path, n, "%s/%s", s->folder, name);
}

static void write_text(const Setup *s, const char *name, const char *text) {
    char path[512];
    KdTrouble t;
    in_folder(s, name, path, sizeof path);
    assert_true(kd_file_write(path, text, strlen(text), &t));
}

static char *read_text(const Setup *s, const char *name, size_t *n) {
    char path[512];
    KdTrouble t = {0};
    in_folder(s, name, path, sizeof path);
    char *text = kd_file_read(path, n, &t);
    if (!text) {
        fail_msg("%s", t.text);
    }
    return text;
}

/* Runs `kdc LINE` (words separated by blanks; '' is an empty one) in the folder, with stdout to `out`; returns the exit code. */
static int run_to(const Setup *s, const char *line, const char *out) {
    char copy[1024], *argv[64] = {(char *)(uintptr_t)"kdc"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) {
        argv[argc++] = strcmp(w, "''") == 0 ? w + 2 : w;
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int o = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666), e;
        if (chdir(s->folder) != 0 || (e = open("stderr", O_WRONLY | O_CREAT | O_TRUNC, 0666)) < 0) {
            _exit(99);
        }
        dup2(o, 1);
        dup2(e, 2);
        execve(s->binary, argv, environ);
        _exit(98);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status)) {
        size_t n;
        fail_msg("kdc %s: killed by signal %d\n%s", line, WTERMSIG(status), read_text(s, "stderr", &n));
    }
    return WEXITSTATUS(status);
}

static int run(const Setup *s, const char *line) {
    char out[512];
    in_folder(s, "stdout", out, sizeof out);
    return run_to(s, line, out);
}

/* Runs and demands success. */
static void must(const Setup *s, const char *line) {
    size_t n;
    int code = run(s, line);
    if (code != 0) {
        fail_msg("kdc %s: exit code %d\n%s", line, code, read_text(s, "stderr", &n));
    }
}

static int setup(void **state) {
    static Setup s;
    const char *given = getenv("KDC_BIN");
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
    strcpy(s.folder, "/tmp/kdc-test-cli-XXXXXX");
    if (!mkdtemp(s.folder)) {
        return -1;
    }
    char cache[512];
    in_folder(&s, "cache", cache, sizeof cache);
    setenv("XDG_CACHE_HOME", cache, 1);
    setenv("KDC_TEST", "1", 1);
    unsetenv("NO_COLOR");
    s.ready = access(s.binary, X_OK) == 0;
    write_text(&s, "tiny.kd", tiny_kd);
    write_text(&s, "bad.kd", bad_kd);
    write_text(&s, "empty.kd", "# nothing\n");
    write_text(&s, "open.kd", "let S = conv2d[3, 3, padding = 1]\nlet F = conv2d[3, 3, groups = 2]\n");
    *state = &s;
    return 0;
}

static void remove_all(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            char inner[1024];
            snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
            remove_all(inner);
        }
    }
    if (d) {
        closedir(d);
    }
    remove(path);
}

static int teardown(void **state) {
    const Setup *s = *state;
    remove_all(s->folder);
    return 0;
}

static const Setup *ready(void **state) {
    const Setup *s = *state;
    if (!s->ready) {
        print_message("skipped: no binary at %s\n", s->binary);
        skip();
    }
    return s;
}

/* ---- flags, exit codes, streams ------------------------------------------------------------------------- */

typedef struct Row {
    const char *line;
    int code;
    const char *out, *err; /* must be in there; "" : must be empty; NULL: anything */
} Row;

static const Row rows[] = {
    {"", 2, "", "usage: kdc"},
    {"--help", 0, "usage: kdc FILE.kd", ""},
    {"-h", 0, "--list-ops", ""},
    {"call --help", 0, "usage: kdc call", ""},
    {"help call", 0, "usage: kdc call", ""},
    {"help", 0, "usage: kdc FILE.kd", ""},
    {"--version", 0, "kdc 0.", ""},
    {"--list-ops", 0, "conv_transpose2d", ""},
    {"--unknown tiny.kd", 2, "", "unknown option --unknown"},
    {"--grad tiny.kd", 2, "", "unknown option --grad"},
    {"call --gradd tiny.kd:T", 2, "", "did you mean --grad?"},
    {"call --thread=1 --outt x tiny.kd:T", 2, "", "did you mean --out?"},
    {"-x tiny.kd", 2, "", "unknown option -x"},
    {"cal tiny.kd:T", 2, "", "did you mean call?"},
    {"tiny.kd tiny.kd", 2, "", "one file at a time"},
    {"--print-a=fuse tiny.kd", 2, "", "--print-a could be --print-after or --print-after-all"},
    {"tiny.kd --emit=irr", 2, "", "did you mean ir?"},
    {"tiny.kd --emit", 2, "", "--emit needs STAGE"},
    {"tiny.kd --json=yes", 2, "", "--json takes no value"},
    {"tiny.kd --size 0x8", 2, "", "--size needs HxW"},
    {"tiny.kd --size 8x", 2, "", "--size needs HxW"},
    {"tiny.kd --batch 0", 2, "", "--batch needs a number from 1"},
    {"tiny.kd --batch 1e3", 2, "", "--batch needs a number from 1"},
    {"tiny.kd --threads -1", 2, "", "--threads needs a number"},
    {"call tiny.kd:T --seed x", 2, "", "--seed needs a number"},
    {"tiny.kd -O4", 2, "", "-O needs a level from 0 to 3"},
    {"tiny.kd -D 3=4", 2, "", "-D needs NAME=VALUE"},
    {"tiny.kd -Dch", 2, "", "-D needs NAME=VALUE"},
    {"tiny.kd:T -o ''", 2, "", "--output needs FILE, got ''"},
    {"tiny.kd:T --output=", 2, "", "--output needs FILE, got ''"},
    {"tiny.kd -I ''", 2, "", "--import needs FOLDER, got ''"},
    {"call tiny.kd:T --in ''", 2, "", "--in needs FILE, got ''"},
    {"call tiny.kd:T --out ''", 2, "", "--out needs FILE, got ''"},
    {"call tiny.kd:T --weights ''", 2, "", "--weights needs [NET=]FILE[:FROM], got ''"},
    {"run tiny.kd:T --in ''", 2, "", "--in needs PATH, got ''"},
    {"run tiny.kd:T --in x.png --out ''", 2, "", "--out needs PATH, got ''"},
    {"train tiny.kd:fit --data ''", 2, "", "--data needs FOLDER, got ''"},
    {"train tiny.kd:fit --out ''", 2, "", "--out needs FOLDER, got ''"},
    {"eval tiny.kd:T --data ''", 2, "", "--data needs FOLDER, got ''"},
    {"export tiny.kd:T -o ''", 2, "", "--output needs FOLDER, got ''"},
    {"import w.pth tiny.kd:T -o ''", 2, "", "--output needs FILE, got ''"},
    {"tiny.kd --color=red", 2, "", "--color needs auto, always or never"},
    {"tiny.kd --skip=fus", 2, "", "did you mean fuse?"},
    {"tiny.kd --skip=lower", 2, "", "pass lower cannot be left out"},
    {"tiny.kd --print-after=fus", 2, "", "did you mean fuse?"},
    {"call tiny.kd", 2, "", "tiny.kd:NAME"},
    {"call tiny.kd:T --steps 2", 2, "", "--steps is for sessions"},
    {"call tiny.kd:fit --grad", 2, "", "--grad is for networks"},
    {"absent.kd", 1, "", "absent.kd"},
    {"bad.kd", 1, "", "bad.kd:5:"},
    {"bad.kd --color=always", 1, "", "\033["},
    {"bad.kd:f", 1, "", "bad.kd:2:12: error:"},
    {"tiny.kd:S", 1, "", "nothing is called 'S'"},
    {"tiny.kd -o tiny.o", 1, "", "need one network or session"},
    {"tiny.kd:T -o no/such/folder/t.o", 1, "", "no/such/folder"},
    {"call tiny.kd:T --in absent.safetensors", 1, "", "absent.safetensors"},
    {"call tiny.kd:T --in tiny.kd", 1, "", "tiny.kd: not a safetensors file"},
    {"call tiny.kd:T", 1, "", "no input 'x'"},
    {"empty.kd", 0, "no network and no session", ""},
    {"tiny.kd", 0, "parameters    127", ""},
    {"tiny.kd -Dch=8", 0, "parameters    251", ""},
    {"tiny.kd:T --size 10x12 --batch 2", 0, "x: [2, 3, 10, 12]", ""},
    {"tiny.kd:Tiny --shape x=2x3x9x7", 0, "x: [2, 3, 9, 7]", ""},
    {"tiny.kd:Tiny --shape x=2x4x9x7", 1, "", "tiny.kd:5:"},
    {"tiny.kd:Tiny --shape xx=2x3x9x7", 2, "", "no input is called 'xx'; did you mean x?"},
    {"tiny.kd --shape x", 2, "", "--shape needs NAME=DIMS"},
    {"tiny.kd --shape x=3x", 2, "", "--shape needs NAME=DIMS"},
    {"tiny.kd", 0, "x: [2, 3, 8, 8])\n  parameters    127", ""}, /* as the session applies T */
    {"open.kd:S", 0, "x: [1, 3, 256, 256])\n  parameters    84", ""}, /* channels as kdc run takes them */
    {"open.kd:S --size 8x9 --batch 2", 0, "x: [2, 3, 8, 9]", ""},
    {"open.kd:S --shape x=1x1x8x8", 0, "x: [1, 1, 8, 8])\n  parameters    30", ""},
    {"open.kd:F", 1, "", "the number of channels of 'x' is not known"},
    {"tiny.kd -q", 0, "", ""},
    {"tiny.kd:T --print-after=dce", 0, NULL, "after dce"},
    {"tiny.kd:T --print-after-all", 0, NULL, "after memplan"},
    {"tiny.kd:T --time-passes", 0, NULL, "all passes"},
    {"tiny.kd:T --skip=fuse --skip=vectorize", 0, "kernels", ""},
};

static void expect_stream(const Setup *s, const Row *r, const char *stream, const char *want) {
    size_t n;
    char *text = read_text(s, stream, &n);
    if (want && (*want ? !strstr(text, want) : n != 0)) {
        fail_msg("kdc %s: %s should %s%s, is:\n%s", r->line, stream, *want ? "contain " : "be empty", want,
                 text);
    }
    free(text);
}

static void test_rows(void **state) {
    const Setup *s = ready(state);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int code = run(s, rows[i].line);
        if (code != rows[i].code) {
            size_t n;
            fail_msg("kdc %s: exit code %d, expected %d\n%s", rows[i].line, code, rows[i].code,
                     read_text(s, "stderr", &n));
        }
        expect_stream(s, &rows[i], "stdout", rows[i].out);
        expect_stream(s, &rows[i], "stderr", rows[i].err);
    }
}

static void test_full_stdout(void **state) {
    const Setup *s = ready(state);
    if (access("/dev/full", W_OK) != 0) {
        skip();
    }
    assert_int_equal(run_to(s, "tiny.kd:T", "/dev/full"), 3);
    assert_int_equal(run_to(s, "--list-ops", "/dev/full"), 3);
}

/* ---- summary and stages --------------------------------------------------------------------------------- */

static json_t *run_json(const Setup *s, const char *line) {
    size_t n;
    must(s, line);
    char *text = read_text(s, "stdout", &n);
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    assert_non_null(o);
    return o;
}

static void test_json(void **state) {
    const Setup *s = ready(state);
    json_t *o = run_json(s, "tiny.kd --size 10x12 --json"), *net, *macs;
    assert_string_equal(json_string_value(json_object_get(o, "file")), "tiny.kd");
    assert_int_equal(json_array_size(json_object_get(o, "networks")), 1);
    assert_int_equal(json_array_size(json_object_get(o, "sessions")), 1);
    net = json_array_get(json_object_get(o, "networks"), 0);
    macs = json_object_get(net, "macs");
    assert_int_equal(json_integer_value(json_object_get(net, "parameters")), 127);
    /* 8 x 10 pixels: 4 x 27 and 3 x 4 products each */
    assert_int_equal(json_integer_value(json_object_get(macs, "noT")), 80 * (108 + 12));
    assert_int_equal(json_integer_value(json_object_get(macs, "Tout")), 80 * (108 + 12));
    assert_true(json_integer_value(json_object_get(net, "kernels")) >= 1);
    json_decref(o);
    o = run_json(s, "--list-ops --json");
    assert_int_equal(json_array_size(o), KD_OP_COUNT);
    json_decref(o);
}

static void test_cache(void **state) {
    const Setup *s = ready(state);
    json_t *o = run_json(s, "tiny.kd:T --size 16x16 --json");
    json_decref(o);
    o = run_json(s, "tiny.kd:T --size 16x16 --json");
    assert_true(json_is_true(json_object_get(json_array_get(json_object_get(o, "networks"), 0), "from_cache")));
    json_decref(o);
    o = run_json(s, "tiny.kd:T --size 16x16 --json --no-cache");
    assert_true(json_is_false(json_object_get(json_array_get(json_object_get(o, "networks"), 0), "from_cache")));
    json_decref(o);
}

static void test_ast_reads_back(void **state) {
    const Setup *s = ready(state);
    size_t n;
    must(s, "tiny.kd --emit=ast -o again.kd");
    char *first = read_text(s, "again.kd", &n);
    must(s, "again.kd --emit=ast");
    char *second = read_text(s, "stdout", &n);
    assert_string_equal(first, second);
    free(first);
    free(second);
}

static void graph_reads_back(const Setup *s, const char *line) {
    size_t n;
    must(s, line);
    char *text = read_text(s, "stdout", &n);
    KdContext *cx = kd_context_new();
    KdModule *m = kd_parse_module(cx, "stdout", text, n);
    assert_non_null(m);
    KdStr again = {.cx = cx};
    kd_print_module(&again, m);
    assert_string_equal(again.s, text);
    kd_context_free(cx);
    free(text);
}

static void test_stages(void **state) {
    const Setup *s = ready(state);
    size_t n;
    graph_reads_back(s, "tiny.kd --emit=ir");
    graph_reads_back(s, "tiny.kd --emit=grad");
    must(s, "tiny.kd:fit --emit=loops");
    char *text = read_text(s, "stdout", &n);
    KdContext *cx = kd_context_new();
    KlModule *m = kl_parse_module(cx, "stdout", text, n);
    assert_non_null(m);
    KdStr again = {.cx = cx};
    kl_print_module(&again, m);
    assert_string_equal(again.s, text);
    kd_context_free(cx);
    free(text);
    static const struct { const char *line, *has; } others[] = {
        {"tiny.kd --emit=fused", "conv2d"}, {"tiny.kd:T --emit=llvm", "define"}, {"tiny.kd:T --emit=asm", "globl"},
        {"tiny.kd:T --emit=obj", "\177ELF"}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        must(s, others[i].line);
        text = read_text(s, "stdout", &n);
        if (!strstr(text, others[i].has)) {
            fail_msg("kdc %s: no %s in the output", others[i].line, others[i].has);
        }
        free(text);
    }
    must(s, "tiny.kd:T -o t.o");
    text = read_text(s, "t.o", &n);
    assert_true(n > 100 && memcmp(text, "\177ELF", 4) == 0);
    free(text);
}

/* ---- tensors -------------------------------------------------------------------------------------------- */

static void write_tensors(const Setup *s, const char *name, const KdTensorOut *x, int n) {
    char path[512];
    KdTrouble t = {0};
    in_folder(s, name, path, sizeof path);
    assert_true(kd_weights_write(path, x, n, NULL, 0, &t));
}

static KdWeights *read_tensors(const Setup *s, const char *name) {
    char path[512];
    KdTrouble t = {0};
    in_folder(s, name, path, sizeof path);
    KdWeights *w = kd_weights_read(path, &t);
    if (!w) {
        fail_msg("%s", t.text);
    }
    return w;
}

/* The named tensor's elements: freed by the caller. */
static float *floats(const KdWeights *w, const char *name, int64_t count) {
    KdTrouble t;
    const KdTensor *x = kd_weights_find(w, name);
    if (!x || x->count != count) {
        fail_msg("%s is %s", name, x ? "of another size" : "not in the file");
    }
    float *v = malloc(sizeof *v * (size_t)(count + 1));
    assert_true(kd_tensor_f32(x, v, &t));
    return v;
}

static void fill(float *v, int n, unsigned seed) {
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        v[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
}

static void test_call_fn(void **state) {
    const Setup *s = ready(state);
    static const float x[3] = {1, -2, 0.5f}, seed[3] = {1, 10, 100};
    static const int64_t three[1] = {3};
    const KdTensorOut in[2] = {{"x", KD_STORED_F32, 1, three, x}, {"seed", KD_STORED_F32, 1, three, seed}};
    write_tensors(s, "in.safetensors", in, 1);
    must(s, "call tiny.kd:twice --in in.safetensors --out out.safetensors --grad");
    KdWeights *w = read_tensors(s, "out.safetensors");
    float *y = floats(w, "out", 3), *g = floats(w, "grad.x", 3);
    for (int i = 0; i < 3; i++) {
        assert_true(y[i] == 2 * x[i]);
        assert_true(g[i] == 2);
    }
    free(y), free(g), kd_weights_free(w);
    write_tensors(s, "in.safetensors", in, 2);
    must(s, "call tiny.kd:twice --in in.safetensors --out out.safetensors --grad");
    w = read_tensors(s, "out.safetensors");
    g = floats(w, "grad.x", 3);
    for (int i = 0; i < 3; i++) {
        assert_true(g[i] == 2 * seed[i]);
    }
    free(g), kd_weights_free(w);
    must(s, "call tiny.kd:twice --in in.safetensors");
    size_t n;
    char *text = read_text(s, "stdout", &n);
    assert_non_null(strstr(text, "out [3]: mean"));
    free(text);
}

static const int64_t image[4] = {2, 3, 8, 8}, small[4] = {2, 3, 6, 6};
static const char *const weight_names[4] = {"conv2d.weight", "conv2d.bias", "conv2d_1.weight", "conv2d_1.bias"};

/* Weights as --grad names them, in order; their shapes from the gradients. */
static int weights_of(const KdWeights *w, const KdTensor **v) {
    int n = 0;
    for (int i = 0; i < w->n; i++) {
        const char *name = w->tensor[i].name;
        if (strncmp(name, "grad.", 5) == 0 && strcmp(name, "grad.x") != 0 && n < 4) {
            v[n++] = &w->tensor[i];
        }
    }
    return n;
}

static void test_call_net(void **state) {
    const Setup *s = ready(state);
    (void)weight_names;
    float x[384], v[4][128];
    fill(x, 384, 1);
    KdTensorOut in[5] = {{"x", KD_STORED_F32, 4, image, x}};
    write_tensors(s, "in.safetensors", in, 1);
    must(s, "call tiny.kd:T --in in.safetensors --out out.safetensors --grad --seed 3 --tap mid");
    KdWeights *w = read_tensors(s, "out.safetensors");
    const KdTensor *g[4];
    assert_int_equal(weights_of(w, g), 4);
    free(floats(w, "grad.x", 384));
    free(floats(w, "mid", 2 * 4 * 36));
    float *seeded = floats(w, "out", 216);
    for (int i = 0; i < 4; i++) { /* the same weights under other names, then under their own */
        static const char *const other[4] = {"a.w", "a.b", "b.w", "b.b"};
        fill(v[i], (int)g[i]->count, 10u + (unsigned)i);
        in[1 + i] = (KdTensorOut){other[i], KD_STORED_F32, g[i]->rank, g[i]->dim, v[i]};
    }
    write_tensors(s, "w.safetensors", in + 1, 4);
    must(s, "call tiny.kd:T --in in.safetensors --weights w.safetensors --out o1.safetensors -v");
    size_t n;
    char *text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, "w.safetensors:b.w (by order and shape)"));
    free(text);
    for (int i = 0; i < 4; i++) {
        in[1 + i].name = g[i]->name + 5;
    }
    write_tensors(s, "both.safetensors", in, 5);
    must(s, "call tiny.kd:T --in both.safetensors --out o2.safetensors --threads 1");
    KdWeights *w1 = read_tensors(s, "o1.safetensors"), *w2 = read_tensors(s, "o2.safetensors");
    float *y1 = floats(w1, "out", 216), *y2 = floats(w2, "out", 216);
    assert_memory_equal(y1, y2, sizeof *y1 * 216);
    assert_memory_not_equal(y1, seeded, sizeof *y1 * 216);
    /* one weight short: an error that names it */
    write_tensors(s, "w.safetensors", in + 1, 3);
    assert_int_equal(run(s, "call tiny.kd:T --in in.safetensors --weights w.safetensors --out o3.safetensors"), 1);
    text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, in[4].name));
    free(text);
    char path[512];
    in_folder(s, "o3.safetensors", path, sizeof path);
    assert_int_equal(access(path, F_OK), -1); /* nothing half done */
    assert_int_equal(run(s, "call tiny.kd:T --in in.safetensors --tap midd"), 1);
    text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, "error: there is no tap 'midd'; the taps are mid"));
    free(text);
    /* a name with another shape */
    in[1].dim = small;
    in[1].data = x;
    write_tensors(s, "w.safetensors", in + 1, 4);
    assert_int_equal(run(s, "call tiny.kd:T --in in.safetensors --weights w.safetensors"), 1);
    text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, "the file has [2, 3, 6, 6]"));
    free(text), free(y1), free(y2), free(seeded);
    kd_weights_free(w), kd_weights_free(w1), kd_weights_free(w2);
}

static void same_files(const Setup *s, const char *a, const char *b) {
    size_t n, m;
    char *x = read_text(s, a, &n), *y = read_text(s, b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

static void test_call_session(void **state) {
    const Setup *s = ready(state);
    static const int64_t four_images[5] = {4, 2, 3, 8, 8};
    float *x = malloc(sizeof *x * 4 * 384), y[216];
    fill(x, 4 * 384, 1);
    fill(y, 216, 2);
    KdTensorOut in[2] = {{"x", KD_STORED_F32, 5, four_images, x}, {"y", KD_STORED_F32, 4, small, y}};
    write_tensors(s, "in.safetensors", in, 2);
    must(s, "call tiny.kd:fit --in in.safetensors --out four.safetensors --steps 4");
    KdWeights *w = read_tensors(s, "four.safetensors");
    float *loss = floats(w, "log.loss", 4), *size = floats(w, "log.size", 4), *out = floats(w, "show.out", 216);
    assert_true(loss[3] < loss[0] && loss[3] > 0);
    assert_true(isnan(size[0]) && size[1] > 0 && isnan(size[2]) && size[3] > 0);
    assert_true(isfinite(out[0]));
    /* one thread and three give the same file */
    must(s, "call tiny.kd:fit --in in.safetensors --out one.safetensors --steps 4 --threads 1");
    must(s, "call tiny.kd:fit --in in.safetensors --out three.safetensors --steps 4 --threads 3");
    same_files(s, "one.safetensors", "three.safetensors");
    same_files(s, "one.safetensors", "four.safetensors");
    /* T's weights from a file of its own, by order; for another network there is none */
    static const float w0[108] = {0.5f}, w1[4] = {0}, w2[12] = {0.25f}, w3[3] = {2, 2, 2};
    static const int64_t dims[4][4] = {{4, 3, 3, 3}, {4}, {3, 4, 1, 1}, {3}};
    const KdTensorOut own[4] = {{"a", KD_STORED_F32, 4, dims[0], w0}, {"b", KD_STORED_F32, 1, dims[1], w1},
                                {"c", KD_STORED_F32, 4, dims[2], w2}, {"d", KD_STORED_F32, 1, dims[3], w3}};
    write_tensors(s, "w.safetensors", own, 4);
    must(s, "call tiny.kd:fit --in in.safetensors --weights T=w.safetensors --out own.safetensors --steps 4 -v");
    size_t n;
    char *text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, "w.safetensors:c (by order and shape)"));
    free(text);
    assert_int_equal(run(s, "call tiny.kd:fit --in in.safetensors --weights S=w.safetensors --steps 4"), 1);
    text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, "no network here is called S"));
    free(text);
    /* a file of which nothing fits is a mistake */
    assert_int_equal(run(s, "call tiny.kd:fit --in in.safetensors --weights in.safetensors --steps 4"), 1);
    text = read_text(s, "stderr", &n);
    assert_non_null(strstr(text, "none of its 2 tensors"));
    free(text);
    /* of a file that is T's weights only, the step is not taken: the moments begin again too */
    must(s, "call tiny.kd:fit --in in.safetensors --weights T=four.safetensors --out own.safetensors --steps 2");
    KdWeights *own_run = read_tensors(s, "own.safetensors");
    int32_t step;
    KdTrouble trouble;
    assert_true(kd_tensor_i32(kd_weights_find(own_run, "step"), &step, &trouble));
    assert_int_equal(step, 3);
    kd_weights_free(own_run);
    /* two steps, then two more from what they wrote, are four */
    in[0] = (KdTensorOut){"x", KD_STORED_F32, 5, (const int64_t[5]){2, 2, 3, 8, 8}, x};
    write_tensors(s, "in.safetensors", in, 2);
    must(s, "call tiny.kd:fit --in in.safetensors --out two.safetensors --steps 2");
    in[0].data = x + 2 * 384;
    write_tensors(s, "in.safetensors", in, 2);
    must(s, "call tiny.kd:fit --in in.safetensors --weights two.safetensors --out rest.safetensors --steps 2");
    KdWeights *r = read_tensors(s, "rest.safetensors");
    for (int i = 0; i < w->n; i++) {
        const KdTensor *a = &w->tensor[i], *b = kd_weights_find(r, a->name);
        assert_non_null(b);
        if (strncmp(a->name, "log.", 4) != 0) {
            assert_int_equal(a->count, b->count);
            assert_memory_equal(a->data, b->data, (size_t)(a->count * kd_stored_size(a->dtype)));
        }
    }
    free(x), free(loss), free(size), free(out);
    kd_weights_free(w), kd_weights_free(r);
}

/* Whatever the result would be, the file is as it was. */
static void refuses(const Setup *s, const char *line, const char *file, const char *sentence) {
    size_t before, after, n;
    char *old = read_text(s, file, &before);
    if (run(s, line) != 1) {
        fail_msg("kdc %s: should be refused", line);
    }
    char *new = read_text(s, file, &after), *err = read_text(s, "stderr", &n);
    assert_int_equal(before, after);
    assert_memory_equal(old, new, before);
    if (!strstr(err, sentence)) {
        fail_msg("kdc %s: no '%s' in:\n%s", line, sentence, err);
    }
    free(old), free(new), free(err);
}

static void test_spares_inputs(void **state) {
    const Setup *s = ready(state);
    char from[512], to[512];
    write_text(s, "own.kd", "import \"part.kd\"\nlet T = Part[]\n");
    write_text(s, "part.kd", "net Part[](x: [n, 3, h, w]) {\n    return relu(x)\n}\n");
    in_folder(s, "own.kd", from, sizeof from);
    in_folder(s, "link.o", to, sizeof to);
    assert_int_equal(symlink("own.kd", to), 0);
    in_folder(s, "hard.o", to, sizeof to);
    assert_int_equal(link(from, to), 0);
    refuses(s, "own.kd:T -o own.kd", "own.kd", "own.kd would be overwritten by the result");
    refuses(s, "own.kd:T -o ./own.kd", "own.kd", "own.kd would be overwritten");
    refuses(s, "own.kd:T --emit ir -o own.kd", "own.kd", "own.kd would be overwritten");
    refuses(s, "own.kd --emit ast -o own.kd", "own.kd", "own.kd would be overwritten");
    refuses(s, "own.kd:T -o link.o", "own.kd", "own.kd would be overwritten");
    refuses(s, "own.kd:T -o hard.o", "own.kd", "own.kd would be overwritten");
    refuses(s, "own.kd:T -o part.kd", "part.kd", "part.kd would be overwritten");
    float x[3] = {1, -2, 3};
    const KdTensorOut in = {"x", KD_STORED_F32, 4, (const int64_t[4]){1, 3, 1, 1}, x};
    write_tensors(s, "x.safetensors", &in, 1);
    refuses(s, "call own.kd:T --in x.safetensors --out own.kd", "own.kd", "own.kd would be overwritten");
    refuses(s, "call own.kd:T --in x.safetensors --out x.safetensors", "x.safetensors", "x.safetensors would be");
    must(s, "call own.kd:T --in x.safetensors --out y.safetensors");
    must(s, "call own.kd:T --in x.safetensors --out y.safetensors");
    must(s, "own.kd:T -o own.o");
    must(s, "own.kd:T -o own.o");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),       cmocka_unit_test(test_full_stdout), cmocka_unit_test(test_spares_inputs),
        cmocka_unit_test(test_json),       cmocka_unit_test(test_cache),
        cmocka_unit_test(test_ast_reads_back), cmocka_unit_test(test_stages),
        cmocka_unit_test(test_call_fn),    cmocka_unit_test(test_call_net),
        cmocka_unit_test(test_call_session),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
