/* test_faults.c: every n-th write, fsync, rename and open that fails while kdc train runs: a message and a clean exit, and what was
 * saved before can be gone on from, to the bits of a run that nothing happened to. Each call fails in turn, by a library
 * that is compiled here and preloaded (faults.c). Skipped without the command or a C compiler, and under the sanitizers,
 * which must be loaded first themselves. KDC_FAULTS=all tries every call, not a few.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/image.h"
#include "runtime/host/weights.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORD(text) ((char *)(uintptr_t)(text)) /* argv is not const */

static const char program[] = "net Gen[](x: [n, 3, h, w]) { return tanh(conv2d[3, 3, padding = 1](x)) }\n"
                              "let G = Gen[]\n"
                              "session fit(x: [1, 3, 12, 12]) {\n"
                              "    let loss = mean(abs(G(x) + x))\n"
                              "    minimize loss over G with adam(1e-2)\n"
                              "    log loss\n"
                              "    show x\n"
                              "}\n";

typedef struct Setup {
    char binary[512], folder[64];
    const char *why; /* not ready because */
} Setup;

static int spawn(const Setup *s, char *const *argv, const char *exe) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int e = -1;
        if (chdir(s->folder) == 0) {
            e = creat("stderr", 0666);
        }
        dup2(e, 1);
        dup2(e, 2);
        execvp(exe, argv);
        _exit(98);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* kdc train into the folder `out`, going on with it when resume is set; call: what fails, or NULL; at: which one. */
static int train(const Setup *s, const char *out, bool resume, const char *call, int at) {
    char number[16], preload[128];
    char *argv[] = {WORD("kdc"),     WORD("train"),        WORD("fit.kd"), WORD("--data"),
                    WORD("images"),  WORD("--steps"),      WORD("6"),      WORD("--save-every"),
                    WORD("2"),       WORD("--threads"),    WORD("1"),      WORD("--out"),
                    WORD(out),       WORD("-q"),           WORD("--no-cache"),
                    resume ? WORD("--resume") : NULL, NULL};
    snprintf(number, sizeof number, "%d", at);
    snprintf(preload, sizeof preload, "%s/faults.so", s->folder);
    if (call) {
        setenv("LD_PRELOAD", preload, 1);
        setenv("KD_FAULT_CALL", call, 1);
        setenv("KD_FAULT_AT", number, 1);
    }
    int code = spawn(s, argv, s->binary);
    unsetenv("LD_PRELOAD");
    return code;
}

static void remove_all(const Setup *s, const char *name) {
    char *argv[] = {WORD("rm"), WORD("-rf"), WORD(name), NULL};
    spawn(s, argv, "rm");
}

static int setup(void **state) {
    Setup *s = calloc(1, sizeof *s);
    const char *bin = getenv("KDC_BIN");
    char self[400], path[128];
    KdTrouble t;
    KdImage x;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) {
        *slash = '\0';
    }
    *state = s;
    snprintf(s->binary, sizeof s->binary, bin ? "%s" : "%s/../kdc", bin ? bin : self);
    /* In memory where there is such a file system: thousands of fsyncs of a disk would take minutes. */
    strcpy(s->folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/kdc-faults-XXXXXX" : "/tmp/kdc-faults-XXXXXX");
#if defined(__SANITIZE_ADDRESS__)
    s->why = "sanitizers";
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    s->why = "sanitizers";
#endif
#endif
    if (s->why || access(s->binary, X_OK) != 0 || !mkdtemp(s->folder)) {
        s->why = s->why ? s->why : "no command";
        return 0;
    }
    snprintf(path, sizeof path, "%s/fit.kd", s->folder);
    assert_true(kd_file_write(path, program, sizeof program - 1, &t));
    snprintf(path, sizeof path, "%s/images", s->folder);
    mkdir(path, 0777);
    assert_true(kd_image_new(14, 14, 3, 8, &x, &t));
    for (int i = 0; i < 3; i++) {
        memset(x.samples, 40 * i + 30, 14 * 14 * 3);
        snprintf(path, sizeof path, "%s/images/%d.png", s->folder, i);
        assert_true(kd_png_write(path, &x, NULL, 0, &t));
    }
    kd_image_free(&x);
    char *argv[] = {WORD("cc"), WORD("-shared"), WORD("-fPIC"), WORD("-o"),
                    WORD("faults.so"), WORD(KDC_SOURCE_DIR "/tests/cli/faults.c"), WORD("-ldl"), NULL};
    s->why = spawn(s, argv, "cc") == 0 ? NULL : "no compiler";
    return 0;
}

static int teardown(void **state) {
    Setup *s = *state;
    char folder[64];
    strcpy(folder, s->folder);
    if (!strstr(folder, "XXXXXX")) {
        strcpy(s->folder, "/tmp");
        remove_all(s, folder);
    }
    free(s);
    return 0;
}

static void same(const Setup *s, const char *one, const char *two) {
    char a[128], b[128];
    KdTrouble t = {0};
    snprintf(a, sizeof a, "%s/%s/checkpoint-000006.safetensors", s->folder, one);
    snprintf(b, sizeof b, "%s/%s/checkpoint-000006.safetensors", s->folder, two);
    KdWeights *x = kd_weights_read(a, &t), *y = x ? kd_weights_read(b, &t) : NULL;
    if (!y) {
        fail_msg("%s", t.text);
    }
    for (int i = 0; i < x->n; i++) {
        const KdTensor *other = kd_weights_find(y, x->tensor[i].name);
        assert_non_null(other);
        assert_memory_equal(x->tensor[i].data, other->data, (size_t)(other->count * kd_stored_size(other->dtype)));
    }
    kd_weights_free(x);
    kd_weights_free(y);
}

/* The n-th call fails, for n = 1, 1 + stride, ...; until a run has fewer calls. */
static void each(void **state, const char *call, int stride) {
    const Setup *s = *state;
    int n = 1, failed = 0;
    if (s->why) {
        skip();
    }
    const char *all = getenv("KDC_FAULTS");
    stride = all && strcmp(all, "all") == 0 ? 1 : stride;
    for (; n < 2000; n += stride) {
        remove_all(s, "run");
        int code = train(s, "run", false, call, n);
        if (code != 0 && code != 1 && code != 3) {
            fail_msg("%s number %d fails: exit %d", call, n, code);
        }
        char path[128];
        struct stat st;
        snprintf(path, sizeof path, "%s/stderr", s->folder);
        assert_true(code == 0 || (stat(path, &st) == 0 && st.st_size > 0)); /* it says something */
        snprintf(path, sizeof path, "%s/run/kdc.json", s->folder);
        bool begun = stat(path, &st) == 0;
        if (code == 0) {
            same(s, "whole", "run");
            if (failed) {
                break; /* beyond the last */
            }
            continue; /* what did not matter */
        }
        failed++;
        if (!begun) {
            remove_all(s, "run");
        }
        code = train(s, "run", begun, NULL, 0);
        snprintf(path, sizeof path, "%s/run/checkpoint-000006.safetensors", s->folder);
        assert_true(code == 0 || stat(path, &st) == 0); /* it may have been finished already */
        same(s, "whole", "run");
    }
    assert_true(failed > 0);
}

static void test_whole(void **state) {
    const Setup *s = *state;
    if (s->why) {
        skip();
    }
    assert_int_equal(train(s, "whole", false, NULL, 0), 0);
}

static void test_write(void **state) {
    each(state, "write", 7);
}

static void test_fsync(void **state) {
    each(state, "fsync", 5);
}

static void test_rename(void **state) {
    each(state, "rename", 3);
}

static void test_open(void **state) {
    each(state, "open", 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),  cmocka_unit_test(test_write), cmocka_unit_test(test_fsync),
        cmocka_unit_test(test_rename), cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
