/* train_folder.c: a run's folder: kdc.json, labelled.txt, log.jsonl, event files, samples/, report.html. Checkpoints are the session's own
 * (kdc_session_save). Everything is written whole (file.h) or appended a record at a time (log.h). */
#include "frontend/cli/train.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- kdc.json --------------------------------------------------------------------------------------- */

typedef enum FieldKind { TEXT, WHOLE, FLAG, REAL } FieldKind; /* REAL: 0 when it was not given */

typedef struct Field {
    const char *name;
    FieldKind kind;
    size_t at;
    int64_t none; /* what a whole number is when it was not given */
    bool free;    /* may be another when the run goes on: it is no part of what a step does */
} Field;

#define AT(kind, field, none) {#field, kind, offsetof(KdcArgs, field), none, false}
#define FREE(kind, field) {#field, kind, offsetof(KdcArgs, field), 0, true}
static const Field fields[] = {
    FREE(TEXT, file),        AT(TEXT, name, 0),       AT(TEXT, data, 0),          AT(TEXT, phase, 0),
    AT(TEXT, layout, 0),     AT(TEXT, preprocess, 0), AT(FLAG, b_to_a, 0),        AT(FLAG, no_flip, 0),
    AT(FLAG, serial, 0),     AT(WHOLE, load_h, 0),    AT(WHOLE, load_w, 0),       AT(WHOLE, crop_h, 0),
    AT(WHOLE, crop_w, 0),    AT(WHOLE, limit, 0),     AT(WHOLE, classes, 0),      AT(WHOLE, ignore, -1),
    FREE(WHOLE, steps),      FREE(WHOLE, epochs),     AT(WHOLE, batch, 0),        AT(WHOLE, height, 0),
    AT(WHOLE, width, 0),     FREE(WHOLE, save_every), FREE(WHOLE, sample_every),  AT(TEXT, schedule, 0),
    AT(TEXT, winograd, 0), /* they decide the last bits */
    AT(REAL, labelled, 0),   AT(WHOLE, hold_out, 0),
    FREE(WHOLE, eval_every), FREE(TEXT, eval_data),   FREE(TEXT, eval_phase),     FREE(WHOLE, eval_h),
    FREE(WHOLE, eval_w),     FREE(FLAG, eval_stored), FREE(WHOLE, eval_pictures), FREE(TEXT, metrics),
    FREE(TEXT, against),     FREE(TEXT, ref),         FREE(TEXT, inception),
    FREE(TEXT, features),    FREE(TEXT, feature_weights),
};
#undef AT
#undef FREE

static json_t *field_json(const KdcArgs *a, const Field *f) {
    const char *at = (const char *)a + f->at;
    const char *text;
    switch (f->kind) {
    case TEXT:
        text = *(const char *const *)at;
        return text ? json_string_nocheck(text) : NULL;
    case WHOLE:
        return *(const int64_t *)at != f->none ? json_integer(*(const int64_t *)at) : NULL;
    case FLAG:
        return *(const bool *)at ? json_true() : NULL;
    case REAL:
        return *(const double *)at != 0 ? json_real(*(const double *)at) : NULL;
    }
    return NULL;
}

static json_t *strings(const char *const *v, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(list, json_string_nocheck(v[i]));
    }
    return list;
}

bool kdc_run_args_write(KdcProgram *p, const char *folder, const KdcArgs *a, const KdcRunArgs *r) {
    json_t *root = json_object(), *args = json_object();
    char word[16];
    KdTrouble t;
    for (int i = 0; i < KD_COUNT(fields); i++) {
        json_t *v = field_json(a, &fields[i]);
        if (v) {
            json_object_set_new(args, fields[i].name, v);
        }
    }
    snprintf(word, sizeof word, "%08" PRIx32, r->hash);
    json_object_set_new(args, "defines", strings(a->defines, a->n_defines));
    json_object_set_new(args, "weights", strings(a->weights, a->n_weights));
    json_object_set_new(args, "evals", strings(a->evals, a->n_evals));
    json_object_set_new(args, "seed", json_integer((json_int_t)a->seed));
    json_object_set_new(root, "kdc", json_string(KDC_VERSION));
    json_object_set_new(root, "program", json_string(word));
    json_object_set_new(root, "samples", json_integer(r->samples));
    json_object_set_new(root, "arguments", args);
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    json_decref(root);
    if (!text) { /* a name that is not UTF-8 */
        kd_error(p->cx, 0, "the arguments cannot be written to %s/kdc.json: not UTF-8", folder);
        return false;
    }
    bool ok = kd_file_write(kd_format(p->cx, "%s/kdc.json", folder), text, strlen(text), &t) || kdc_cli_trouble(p, &t);
    free(text);
    return ok;
}

const char *kdc_run_args_text(KdcProgram *p, const KdcArgs *a) {
    KdStr s = {.cx = p->cx};
    for (int i = 0; i < KD_COUNT(fields); i++) {
        json_t *v = field_json(a, &fields[i]);
        bool text = json_is_string(v), whole = json_is_integer(v), real = json_is_real(v);
        bool said = strcmp(fields[i].name, "file") != 0 && strcmp(fields[i].name, "name") != 0; /* in the title */
        if (v && said) {
            kd_str_printf(&s, "%s%s", s.n ? ", " : "", fields[i].name);
            if (text) {
                kd_str_printf(&s, " %s", json_string_value(v));
            } else if (whole) {
                kd_str_printf(&s, " %" PRId64, (int64_t)json_integer_value(v));
            } else if (real) {
                kd_str_printf(&s, " %g", json_real_value(v));
            }
        }
        json_decref(v);
    }
    for (int i = 0; i < a->n_weights; i++) {
        kd_str_printf(&s, ", weights %s", a->weights[i]);
    }
    for (int i = 0; i < a->n_evals; i++) {
        kd_str_printf(&s, ", eval %s", a->evals[i]);
    }
    return s.s ? s.s : "";
}

static void changed(KdcRunArgs *r, const char *name) {
    size_t n = strlen(r->changed);
    snprintf(r->changed + n, sizeof r->changed - n, "%s%s", n ? ", " : "", name);
}

/* Takes a stored value where none was given; notes one that was given differently. */
static void take_field(KdcArgs *a, const Field *f, const json_t *v, KdcRunArgs *r) {
    char *at = (char *)a + f->at;
    const char *text;
    bool other = false;
    switch (f->kind) {
    case TEXT:
        text = json_string_value(v);
        other = *(const char **)at && (!text || strcmp(text, *(const char **)at) != 0);
        *(const char **)at = *(const char **)at ? *(const char **)at : text;
        break;
    case WHOLE:
        other = *(int64_t *)at != f->none && (!json_is_integer(v) || json_integer_value(v) != *(int64_t *)at);
        *(int64_t *)at = *(int64_t *)at == f->none && json_is_integer(v) ? json_integer_value(v) : *(int64_t *)at;
        break;
    case FLAG:
        other = *(bool *)at && !json_is_true(v);
        *(bool *)at = *(bool *)at || json_is_true(v);
        break;
    case REAL:
        other = *(double *)at != 0 && json_number_value(v) != *(double *)at;
        *(double *)at = *(double *)at != 0 ? *(double *)at : json_number_value(v);
        break;
    }
    if (other && !f->free) {
        changed(r, f->name);
    }
}

/* A list of JSON strings as a block of its own. */
static const char **stored_list(const json_t *list, int *n) {
    size_t count = json_array_size(list);
    const char **v = calloc(count + 1, sizeof *v);
    *n = 0;
    for (size_t i = 0; v && i < count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text) {
            v[(*n)++] = text;
        }
    }
    return v;
}

static bool same_strings(const char *const *v, int n, const json_t *list) {
    bool same = json_array_size(list) == (size_t)n;
    for (int i = 0; same && i < n; i++) {
        const char *text = json_string_value(json_array_get(list, (size_t)i));
        same = text && strcmp(text, v[i]) == 0;
    }
    return same;
}

/* The stored -D whose name is not given again, then the given ones. */
static bool merge_defines(KdcArgs *a, const json_t *list) {
    size_t n = json_array_size(list);
    const char **all = calloc(n + (size_t)a->n_defines + 1, sizeof *all);
    int count = 0;
    if (!all) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        size_t name = text ? strcspn(text, "=") + 1 : 0;
        bool again = !text || !strchr(text, '=');
        for (int k = 0; k < a->n_defines; k++) {
            again = again || strncmp(a->defines[k], text, name) == 0;
        }
        if (!again) {
            all[count++] = text;
        }
    }
    for (int k = 0; k < a->n_defines; k++) {
        all[count++] = a->defines[k];
    }
    a->defines = all;
    a->n_defines = count;
    return true;
}

bool kdc_run_args_read(const char *folder, KdcArgs *a, KdcRunArgs *r, KdTrouble *t) {
    char path[4096];
    size_t n;
    json_error_t why;
    *r = (KdcRunArgs){0};
    snprintf(path, sizeof path, "%s/kdc.json", folder);
    char *text = kd_file_read(path, &n, t);
    if (!text) {
        return false;
    }
    json_t *root = r->owner = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    free(text);
    json_t *args = json_object_get(root, "arguments");
    const char *word = json_string_value(json_object_get(root, "program"));
    if (!json_is_object(args) || !word) {
        return kd_trouble(t, false, "%s: expected what kdc train writes there (%s)", path, root ? "no \"arguments\"" : why.text);
    }
    if (a->steps || a->epochs) { /* how long is one question */
        json_object_del(args, "steps");
        json_object_del(args, "epochs");
    }
    for (int i = 0; i < KD_COUNT(fields); i++) {
        take_field(a, &fields[i], json_object_get(args, fields[i].name), r);
    }
    uint64_t seed = (uint64_t)json_integer_value(json_object_get(args, "seed"));
    if (a->has_seed && a->seed != seed) {
        changed(r, "seed");
    }
    a->seed = a->has_seed ? a->seed : seed;
    r->hash = (uint32_t)strtoul(word, NULL, 16);
    r->samples = json_integer_value(json_object_get(root, "samples"));
    if (a->n_weights && !same_strings(a->weights, a->n_weights, json_object_get(args, "weights"))) {
        r->other_weights = true;
        changed(r, "weights");
    }
    const char **weights = a->n_weights ? NULL : stored_list(json_object_get(args, "weights"), &a->n_weights);
    a->weights = weights ? weights : a->weights;
    const char **evals = a->n_evals ? NULL : stored_list(json_object_get(args, "evals"), &a->n_evals);
    a->evals = evals ? evals : a->evals;
    return merge_defines(a, json_object_get(args, "defines")) || kd_trouble(t, true, "out of memory");
}

void kdc_run_args_free(KdcArgs *a, const KdcArgs *given, KdcRunArgs *r) {
    if (a->defines != given->defines) {
        free(a->defines);
    }
    if (a->weights != given->weights) {
        free(a->weights);
    }
    if (a->evals != given->evals) {
        free(a->evals);
    }
    json_decref(r->owner);
}

/* ---- the folder ------------------------------------------------------------------------------------- */

static bool make_folders(KdcProgram *p, const char *path) {
    char *copy = strdup(path);
    KdTrouble t;
    bool ok = copy != NULL;
    for (char *q = copy + (ok && *copy == '/'); ok && q; ) {
        q = strchr(q, '/');
        if (q) {
            *q = '\0';
        }
        ok = !*copy || mkdir(copy, 0777) == 0 || errno == EEXIST;
        if (q) {
            *q++ = '/';
        }
    }
    if (!ok) {
        kd_trouble(&t, errno != ENOTDIR && errno != EEXIST, "cannot make the folder %s: %s", path, copy ? strerror(errno) : "out of memory");
        kdc_cli_trouble(p, &t);
    }
    free(copy);
    return ok;
}

bool kdc_run_folder_take(KdcRunFolder *f, KdcProgram *p, const char *path) {
    if (f->lock) {
        return true;
    }
    f->p = p;
    f->path = path;
    if (!make_folders(p, kd_format(p->cx, "%s/samples", path))) {
        return false;
    }
    return kdc_cli_lock_folder(p, path, "kdc train", "run folder", &f->lock);
}

bool kdc_run_folder_open(KdcRunFolder *f, int64_t keep) {
    KdTrouble t;
    f->log = kd_log_open(kd_format(f->p->cx, "%s/log.jsonl", f->path), keep, &t);
    f->events = f->log ? kd_events_open(f->path, keep, &t) : NULL;
    return f->events || kdc_cli_trouble(f->p, &t);
}

bool kdc_run_folder_labelled(KdcRunFolder *f, const KdDataset *d) {
    KdStr s = {.cx = f->p->cx};
    KdTrouble t;
    for (int64_t i = 0; i < kd_dataset_count(d); i++) {
        kd_str_printf(&s, "%s\n", kd_dataset_path(d, i));
    }
    return kd_file_write(kd_format(f->p->cx, "%s/labelled.txt", f->path), s.s, strlen(s.s), &t) || kdc_cli_trouble(f->p, &t);
}

static double unix_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool kdc_run_folder_log(KdcRunFolder *f, int64_t step, int64_t epoch, double rate, const char *const *name, const double *value,
                        int n) {
    KdTrouble t;
    double now = unix_time();
    bool ok = kd_log_step(f->log, now, step, epoch, rate, name, value, n, &t);
    for (int i = 0; i < n && ok; i++) {
        char tag[256];
        snprintf(tag, sizeof tag, "loss/%s", name[i]);
        ok = isnan(value[i]) || kd_events_scalar(f->events, now, step, tag, value[i], &t); /* NaN: its block did not run */
    }
    return ok || kdc_cli_trouble(f->p, &t);
}

bool kdc_run_folder_eval(KdcRunFolder *f, int64_t step, int64_t epoch, const char *const *name, const double *value,
                         int n) {
    KdTrouble t;
    double now = unix_time();
    bool ok = kd_log_eval(f->log, now, step, epoch, name, value, n, &t);
    for (int i = 0; i < n && ok; i++) {
        char tag[256];
        snprintf(tag, sizeof tag, "eval/%s", name[i]);
        ok = !isfinite(value[i]) || kd_events_scalar(f->events, now, step, tag, value[i], &t);
    }
    return ok || kdc_cli_trouble(f->p, &t);
}

bool kdc_run_folder_evaluated(const KdcRunFolder *f, int64_t step) {
    KdLogData d;
    KdTrouble ignored;
    bool found = false;
    if (kd_log_read(kd_format(f->p->cx, "%s/log.jsonl", f->path), &d, &ignored)) {
        for (int i = 0; i < d.n_evals; i++) {
            found = found || d.eval_step[i] == step;
        }
        kd_log_data_free(&d);
    }
    return found;
}

void kdc_run_folder_metrics(const KdcRunFolder *f, FILE *out) {
    KdLogData d;
    KdTrouble ignored;
    KdLogMetric m;
    if (!kd_log_read(kd_format(f->p->cx, "%s/log.jsonl", f->path), &d, &ignored)) {
        return;
    }
    for (int i = 0; i < d.n_metrics; i++) {
        if (kd_log_metric(&d, i, &m)) {
            fprintf(out, "%s: last %.4g (step %" PRId64 "), best %.4g (step %" PRId64 "), mean of the last %d %.4g\n",
                    d.metric[i], m.last, m.last_step, m.best, m.best_step, m.of, m.mean);
        }
    }
    kd_log_data_free(&d);
}

static bool write_grid(KdcRunFolder *f, const KdImage *grid, int64_t step, uint64_t seed, KdTrouble *t) {
    char path[4096], at[32], seeds[32];
    void *png;
    size_t n;
    snprintf(path, sizeof path, "%s/samples/%06" PRId64 ".png", f->path, step);
    snprintf(at, sizeof at, "%" PRId64, step);
    snprintf(seeds, sizeof seeds, "%" PRIu64, seed);
    const char *const text[] = {"Software", "kdc " KDC_VERSION, "step", at, "seed", seeds};
    if (!kd_png_encode(grid, text, KD_COUNT(text), &png, &n, t)) {
        return false;
    }
    bool ok = kd_file_write(path, png, n, t) &&
              kd_events_image(f->events, unix_time(), step, "samples", png, n, grid->width, grid->height, t);
    free(png);
    return ok;
}

bool kdc_run_folder_samples(KdcRunFolder *f, KdcSession *s, int64_t step, uint64_t seed) {
    KdcShown shown[16];
    int n = 0;
    KdImage grid = {0};
    KdTrouble t;
    for (int i = 0; i < kdc_session_output_count(s) && n < KD_COUNT(shown); i++) {
        const KdcTensor *x = kdc_session_output(s, i);
        if (strncmp(x->name, "show.", 5) == 0 && x->rank == 4 && x->dtype == KDC_F32) {
            shown[n++] = (KdcShown){x->name + 5, (int)x->dim[0], (int)x->dim[1], (int)x->dim[2], (int)x->dim[3], x->data};
        }
    }
    if (n == 0) {
        return true;
    }
    bool ok = kdc_sample_grid(shown, n, 4, &grid, &t) && write_grid(f, &grid, step, seed, &t);
    kd_image_free(&grid);
    return ok || kdc_cli_trouble(f->p, &t);
}

bool kdc_run_folder_report(KdcRunFolder *f, const char *state) {
    KdTrouble t;
    f->report.folder = f->path;
    f->report.state = state;
    return kdc_report_write(&f->report, &t) || kdc_cli_trouble(f->p, &t);
}

void kdc_run_folder_close(KdcRunFolder *f) {
    if (f->events) {
        kd_events_close(f->events);
    }
    if (f->log) {
        kd_log_close(f->log);
    }
    if (f->lock > 0) {
        close(f->lock);
    }
}
