/* common.c: see common.h. */
#include "frontend/cli/common.h"

#include "passes/explain.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- watching passes ------------------------------------------------------------------------------- */

static bool wanted(const KdcArgs *a, const char *pass) {
    bool yes = a->print_all;
    for (int i = 0; i < a->n_prints; i++) {
        yes = yes || strcmp(a->prints[i], pass) == 0;
    }
    return yes;
}

static void print_stage(const KdcWatch *w, const KdStage *s) {
    KdStr text = {.cx = s->func ? s->func->cx : s->loops->cx};
    if (s->loops) {
        kl_print_module(&text, s->loops);
    } else if (s->plan) {
        kd_print_memplan(&text, s->fusion, s->plan);
    } else if (s->fusion) {
        kd_print_fusion(&text, s->fusion);
    } else {
        kd_print_func(&text, s->func);
    }
    fprintf(stderr, "# ---- %s after %s\n%s", w->unit ? w->unit : "", s->name, text.s ? text.s : "");
}

static void observe(void *user, const KdStage *s) {
    KdcWatch *w = user;
    int i = 0;
    while (i < w->n && strcmp(w->name[i], s->name) != 0) {
        i++;
    }
    if (i == w->n && w->n < KD_COUNT(w->name)) {
        w->name[w->n++] = s->name;
    }
    if (i < KD_COUNT(w->name)) {
        w->seconds[i] += s->seconds;
    }
    if (wanted(w->args, s->name)) {
        print_stage(w, s);
    }
}

static void print_times(const KdcWatch *w) {
    double sum = 0;
    for (int i = 0; i < w->n; i++) {
        sum += w->seconds[i];
    }
    for (int i = 0; i < w->n; i++) {
        fprintf(stderr, "%9.4f s %5.1f %%  %s\n", w->seconds[i],
                sum > 0 ? 100 * w->seconds[i] / sum : 0, w->name[i]);
    }
    fprintf(stderr, "%9.4f s          all passes\n", sum);
}

/* ---- opening and closing ---------------------------------------------------------------------------- */

static bool is_one_of(const char *name, const char *const *names, int n) {
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static int check_passes(const KdcArgs *a) {
    static const struct { const char *name; bool may; } rows[] = {
#define PASS(name, kind, skippable, purpose) {#name, skippable},
#include "passes/passes.def"
#undef PASS
    };
    int n;
    const char *const *passes = kd_pass_names(&n);
    for (int i = 0; i < a->n_skips + a->n_prints; i++) {
        const char *name = i < a->n_skips ? a->skips[i] : a->prints[i - a->n_skips];
        if (!is_one_of(name, passes, n)) {
            const char *near = kd_nearest(name, passes, n);
            return kdc_usage_error(a, "no pass is called '%s'%s%s%s", name,
                                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        }
        for (int k = 0; i < a->n_skips && k < KD_COUNT(rows); k++) {
            if (strcmp(rows[k].name, name) == 0 && !rows[k].may) {
                return kdc_usage_error(a, "pass %s cannot be left out", name);
            }
        }
    }
    return 0;
}

static int check_schedule(const KdcArgs *a) {
    int n;
    const char *const *names = kd_schedule_names(&n);
    char list[1024] = "";
    size_t used = 0;
    if (!a->schedule || is_one_of(a->schedule, names, n)) {
        return 0;
    }
    for (int i = 0; i < n && used < sizeof list; i++) {
        int wrote = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
    return kdc_usage_error(a, "--schedule: no schedule is called '%s'; there are %s", a->schedule, list);
}

static KdcWinograd winograd_of(const KdcArgs *a) {
    if (!a->winograd || strcmp(a->winograd, "4x4") == 0) {
        return KDC_WINOGRAD_4X4;
    }
    return strcmp(a->winograd, "2x2") == 0 ? KDC_WINOGRAD_2X2 : KDC_WINOGRAD_OFF;
}

KdcOptions kdc_cli_options(const KdcArgs *a) {
    return (KdcOptions){.defines = a->defines,
                        .n_defines = a->n_defines,
                        .import_path = a->imports,
                        .n_import_path = a->n_imports,
                        .batch = a->batch,
                        .height = a->height,
                        .width = a->width,
                        .threads = (int)a->threads,
                        .cache = a->no_cache ? "" : NULL,
                        .skip = a->skips,
                        .n_skip = a->n_skips,
                        .schedule = a->schedule,
                        .memory_limit = a->verb == KDC_VERB_TRAIN ? 0 : a->memory_limit, /* of train: see there */
                        .winograd = winograd_of(a),
                        .opt = a->opt,
                        .triple = a->triple,
                        .cpu = a->cpu};
}

KdcProgram *kdc_cli_open_text(const KdcArgs *a, const char *text, size_t n, KdcWatch *w, int *code) {
    *w = (KdcWatch){.args = a};
    *code = check_passes(a);
    *code = *code ? *code : check_schedule(a);
    if (*code) {
        return NULL;
    }
    KdcOptions o = kdc_cli_options(a);
    KdcProgram *p = kdc_open(a->file, text, n, &o);
    if (!p) {
        fprintf(stderr, "kdc: error: out of memory\n");
        *code = 3;
        return NULL;
    }
    if (kdc_status(p) != KDC_OK) {
        *code = kdc_cli_close(a, w, p, false);
        return NULL;
    }
    p->observe = observe;
    p->observe_user = w;
    return p;
}

KdcProgram *kdc_cli_open(const KdcArgs *a, KdcWatch *w, int *code) {
    KdTrouble trouble;
    KdcArgs from_stdin = *a;
    size_t n = 0;
    if (strcmp(a->file, "-") != 0) {
        return kdc_cli_open_text(a, NULL, 0, w, code);
    }
    char *text = kd_file_read("/dev/stdin", &n, &trouble);
    if (!text) {
        fprintf(stderr, "kdc: error: %s\n", trouble.text);
        *code = 3;
        return NULL;
    }
    from_stdin.file = "<stdin>";
    KdcProgram *p = kdc_cli_open_text(&from_stdin, text, n, w, code);
    w->args = a;
    free(text);
    return p;
}

int kdc_cli_close(const KdcArgs *a, KdcWatch *w, KdcProgram *p, bool ok) {
    kdc_print_messages(p, stderr, a->color);
    if (a->time_passes && w->n) {
        print_times(w);
    }
    int code = (int)kdc_status(p);
    kdc_close(p);
    return code ? code : ok ? 0 : 1;
}

bool kdc_cli_trouble(KdcProgram *p, const KdTrouble *t) {
    return kdc_host_trouble(p, t);
}

const KdDecl *kdc_cli_find(const KdcProgram *p, const char *name) {
    int n;
    const KdDecl *d = kd_lang_decls(p->lang, &n);
    for (int i = 0; i < n; i++) {
        if (strcmp(d[i].name, name) == 0) {
            return &d[i];
        }
    }
    return NULL;
}

/* ---- files ------------------------------------------------------------------------------------------- */

bool kdc_cli_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool kdc_cli_ends_in(const char *path, const char *ending) {
    size_t n = strlen(path), m = strlen(ending);
    return n > m && strcasecmp(path + n - m, ending) == 0;
}

const char *kdc_cli_result_path(KdContext *cx, const char *folder, const char *in) {
    const char *base = strrchr(in, '/'), *name = base ? base + 1 : in, *dot = strrchr(name, '.');
    size_t n = dot && dot > name ? (size_t)(dot - name) : strlen(name), end = strlen(folder);
    return kd_format(cx, "%s%s%.*s.png", folder, end && folder[end - 1] == '/' ? "" : "/", (int)n, name);
}

bool kdc_cli_make_folder(KdcProgram *p, const char *path) {
    KdTrouble t;
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && kdc_cli_is_folder(path))) {
        return true;
    }
    int why = errno;
    kd_trouble(&t, why != EEXIST && why != ENOENT && why != ENOTDIR, "cannot make the folder %s: %s", path,
               why == EEXIST ? "it is a file" : strerror(why));
    return kdc_cli_trouble(p, &t);
}

const char *kdc_cli_quoted(KdContext *cx, const char *text) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/+=:,@%";
    KdStr s = {.cx = cx};
    if (text[strspn(text, plain)] == '\0') {
        return text;
    }
    kd_str_add(&s, "'", 1);
    for (; *text; text++) {
        if (*text == '\'') {
            kd_str_add(&s, "'\\''", 4);
        } else {
            kd_str_add(&s, text, 1);
        }
    }
    kd_str_add(&s, "'", 1);
    return s.s;
}

bool kdc_cli_lock_folder(KdcProgram *p, const char *path, const char *verb, const char *kind, int *lock) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(fd);
        kd_error(p->cx, 0, "%s: another %s is at work in this %s", path, verb, kind);
        return false;
    }
    *lock = fd;
    return true;
}

bool kdc_cli_same_file(const char *x, const char *y) {
    struct stat a, b;
    return stat(x, &a) == 0 && stat(y, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The program's own file and those that it imports, by what they declare. NULL: the place is nowhere. */
static const char *source_of(const KdcProgram *p, const KdcArgs *a, const KdDecl *d) {
    const KdPlace *place = d ? kd_place(p->cx, d->loc) : NULL;
    return d ? (place ? place->file : NULL) : strcmp(a->file, "-") == 0 ? "/dev/stdin" : a->file;
}

bool kdc_cli_spares(KdcProgram *p, const KdcArgs *a, const char *path, const char *const *inputs, int n) {
    struct stat st;
    int n_decls;
    const KdDecl *d = kd_lang_decls(p->lang, &n_decls);
    const char *hit = NULL;
    if (!path || strcmp(path, "-") == 0 || stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
        return true;
    }
    for (int i = -1; i < n_decls && !hit; i++) {
        const char *source = source_of(p, a, i < 0 ? NULL : &d[i]);
        hit = source && kdc_cli_same_file(path, source) ? source : NULL;
    }
    for (int i = 0; i < n && !hit; i++) {
        hit = inputs[i] && kdc_cli_same_file(path, inputs[i]) ? inputs[i] : NULL;
    }
    if (hit) {
        kd_error(p->cx, 0, "%s would be overwritten by the result", hit);
        kd_hint(p->cx, "write to another place than %s", path);
    }
    return !hit;
}

bool kdc_cli_write(KdcProgram *p, const char *path, const void *data, size_t n) {
    KdTrouble t;
    if (path && strcmp(path, "-") != 0) {
        return kd_file_write(path, data, n, &t) || kdc_cli_trouble(p, &t);
    }
    if (fwrite(data, 1, n, stdout) == n && fflush(stdout) == 0) {
        return true;
    }
    kd_trouble(&t, true, "cannot write to standard output");
    clearerr(stdout); /* said once */
    return kdc_cli_trouble(p, &t);
}

int kdc_cli_check_pictures(const KdcArgs *a) {
    if (!a->name) {
        return kdc_usage_error(a, "which network of %s? name it: %s:NAME", a->file, a->file);
    }
    if (!a->in || !*a->in) {
        return kdc_usage_error(a, "which image? --in FILE, or a folder of them");
    }
    if (!a->output || !*a->output) {
        return kdc_usage_error(a, "where to? --out FILE.png or FOLDER");
    }
    return a->batch > 1 ? kdc_usage_error(a, "images go through the network one at a time: no --batch") : 0;
}

const char *kdc_cli_without_blanks(KdContext *cx, const char *text, size_t n) {
    KdStr s = {.cx = cx};
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        quoted ^= text[i] == '"';
        if (quoted || !isspace((unsigned char)text[i])) {
            kd_str_add(&s, &text[i], 1);
        }
    }
    return kd_intern(cx, s.s ? s.s : "", s.n);
}

int kdc_ascending(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

double kdc_median(double *v, int n) {
    if (n == 0) {
        return NAN;
    }
    qsort(v, (size_t)n, sizeof *v, kdc_ascending);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}
