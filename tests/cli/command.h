/* command.h: what tests of the command share: a folder of their own under /tmp, `kdc LINE` run in it, and what it wrote there.
 *
 * The binary is $KDC_BIN, or ../kdc beside the test program; without it tests are skipped. To be included after cmocka.h.
 */
#ifndef KDC_TESTS_COMMAND_H
#define KDC_TESTS_COMMAND_H

#include "runtime/host/file.h"
#include "runtime/host/image.h"
#include "runtime/host/weights.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct Setup {
    char binary[512], folder[64];
    bool ready; /* there is a binary, and the folder */
} Setup;

/* ---- the folder ---------------------------------------------------------------------------------------- */

static inline const char *in_folder(const Setup *s, const char *name) {
    static char path[8][700];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", s->folder, name);
    return p;
}

static inline void write_text(const Setup *s, const char *name, const char *text, size_t n) {
    KdTrouble t;
    if (!kd_file_write(in_folder(s, name), text, n, &t)) {
        fail_msg("%s", t.text);
    }
}

/* To free; n: its size, or NULL. */
static inline char *read_text(const Setup *s, const char *name, size_t *n) {
    KdTrouble t = {0};
    size_t size;
    char *text = kd_file_read(in_folder(s, name), &size, &t);
    if (!text) {
        fail_msg("%s", t.text);
    }
    if (n) {
        *n = size;
    }
    return text;
}

static inline bool there(const Setup *s, const char *name) {
    struct stat st;
    return stat(in_folder(s, name), &st) == 0;
}

static inline void make_folder(const Setup *s, const char *name) {
    assert_int_equal(mkdir(in_folder(s, name), 0777), 0);
}

static inline void remove_tree(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            char inner[1024];
            int n = snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
            if (n > 0 && n < (int)sizeof inner) {
                remove_tree(inner);
            }
        }
    }
    if (d) {
        closedir(d);
    }
    remove(path);
}

/* Finds the binary and makes the folder, /tmp/kdc-test-NAME-XXXXXX. false: there is no binary. */
static inline bool open_setup(Setup *s, const char *name) {
    const char *given = getenv("KDC_BIN");
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) {
        *slash = '\0';
    }
    *s = (Setup){.ready = false};
    snprintf(s->binary, sizeof s->binary, given ? "%s" : "%s/../kdc", given ? given : self);
    snprintf(s->folder, sizeof s->folder, "/tmp/kdc-test-%s-XXXXXX", name);
    s->ready = access(s->binary, X_OK) == 0 && mkdtemp(s->folder);
    setenv("OMP_WAIT_POLICY", "passive", 1);
    return s->ready;
}

/* Kernels are kept in the folder, and none that are kept elsewhere are used. */
static inline void own_cache(const Setup *s) {
    setenv("XDG_CACHE_HOME", in_folder(s, "cache"), 1);
}

static inline void close_setup(const Setup *s) {
    if (s->ready) {
        remove_tree(s->folder);
    }
}

static inline void skip_unless(const Setup *s) {
    if (!s->ready) {
        print_message("skipped: no binary at %s\n", s->binary);
        skip();
    }
}

/* ---- the command ----------------------------------------------------------------------------------------- */

/* Starts `kdc LINE` (words separated by blanks) in the folder; its stderr goes to the file "stderr" there, its stdout to `out`:
 * "stdout", or "stderr", too. */
static inline pid_t start(const Setup *s, const char *line, const char *out) {
    char copy[1024], *argv[64] = {(char *)(uintptr_t) "kdc"};
    int argc = 1;
    assert_true(strlen(line) < sizeof copy);
    strcpy(copy, line);
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) {
        argv[argc++] = w;
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int e = chdir(s->folder) == 0 ? open("stderr", O_WRONLY | O_CREAT | O_TRUNC, 0666) : -1;
        int o = strcmp(out, "stderr") == 0 ? e : open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        if (e < 0 || o < 0) {
            _exit(99);
        }
        dup2(o, 1);
        dup2(e, 2);
        execv(s->binary, argv);
        _exit(98);
    }
    return pid;
}

/* Its exit code; 1000 and the signal that ended it. */
static inline int finish(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static inline int run(const Setup *s, const char *line) {
    return finish(start(s, line, "stdout"));
}

/* The same with all that it says in "stderr". */
static inline int run_logged(const Setup *s, const char *line) {
    return finish(start(s, line, "stderr"));
}

static inline void expect_run(const Setup *s, const char *line, int code) {
    int got = run_logged(s, line);
    if (got != code) {
        fail_msg("kdc %s: exit %d, expected %d\n%s", line, got, code, read_text(s, "stderr", NULL));
    }
}

/* Did the last run say that? */
static inline void expect_message(const Setup *s, const char *part) {
    char *err = read_text(s, "stderr", NULL);
    if (!strstr(err, part)) {
        fail_msg("expected '%s' in\n%s", part, err);
    }
    free(err);
}

/* Runs and demands the exit code and, in that stream ("stdout", "stderr"), the text. */
static inline void expect(const Setup *s, const char *line, int code, const char *stream, const char *text) {
    int got = run(s, line);
    char *out = read_text(s, stream, NULL), *err = read_text(s, "stderr", NULL);
    if (got != code || !strstr(out, text)) {
        fail_msg("kdc %s: exit code %d, expected %d with '%s' on %s\n%s%s", line, got, code, text, stream, out, err);
    }
    free(out);
    free(err);
}

/* What it prints, which has to work, as JSON. */
static inline json_t *results(const Setup *s, const char *line) {
    expect(s, line, 0, "stdout", "");
    json_error_t error;
    char *text = read_text(s, "stdout", NULL);
    json_t *all = json_loads(text, 0, &error);
    if (!all) {
        fail_msg("kdc %s: no JSON: %s\n%s", line, error.text, text);
    }
    free(text);
    return all;
}

/* A number by its path: "metrics.l1.mean". */
static inline double at(const json_t *v, const char *path) {
    char copy[128];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *w = strtok(copy, "."); w; w = strtok(NULL, ".")) {
        v = json_object_get(v, w);
    }
    if (!json_is_number(v)) {
        fail_msg("%s is no number", path);
    }
    return json_number_value(v);
}

/* ---- what it reads and writes ------------------------------------------------------------------------------ */

/* Colour noise as NAME, a PNG; other numbers for each seed. */
static inline void make_image(const Setup *s, const char *name, int width, int height, unsigned seed) {
    KdImage x;
    KdTrouble t;
    assert_true(kd_image_new(width, height, 3, 8, &x, &t));
    for (int i = 0; i < width * height * 3; i++) {
        seed = seed * 1664525u + 1013904223u;
        ((uint8_t *)x.samples)[i] = (uint8_t)(seed >> 24);
    }
    assert_true(kd_png_write(in_folder(s, name), &x, NULL, 0, &t));
    kd_image_free(&x);
}

/* Two files of weights: the same names and bits. */
static inline void same_tensors(const Setup *s, const char *one, const char *two) {
    KdTrouble t = {0};
    KdWeights *a = kd_weights_read(in_folder(s, one), &t), *b = a ? kd_weights_read(in_folder(s, two), &t) : NULL;
    if (!b) {
        fail_msg("%s", t.text);
    }
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        const KdTensor *x = &a->tensor[i], *y = kd_weights_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->count, y->count);
        if (memcmp(x->data, y->data, (size_t)(x->count * kd_stored_size(x->dtype))) != 0) {
            fail_msg("%s differs between %s and %s", x->name, one, two);
        }
    }
    kd_weights_free(a);
    kd_weights_free(b);
}

#endif
