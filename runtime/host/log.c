/* log.c: log.jsonl, one JSON object a line: written by hand (a line is one write), read back through jansson. */
#include "runtime/host/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct KdLog {
    int fd;
    char *path;
};

static bool step_of_line(const char *line, size_t n, int64_t *step) {
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    const json_t *v = json_object_get(o, "step");
    bool ok = json_is_integer(v);
    *step = ok ? json_integer_value(v) : 0;
    json_decref(o);
    return ok;
}

/* Rewrites the file without lines that are torn or of steps after keep. */
static bool cut_back(const char *path, int64_t keep, KdTrouble *t) {
    size_t n;
    if (access(path, F_OK) != 0) {
        return true;
    }
    char *text = kd_file_read(path, &n, t);
    KdFileOut *out = text ? kd_file_begin(path, t) : NULL;
    if (!out) {
        free(text);
        return false;
    }
    for (char *line = text, *end; line < text + n && (end = memchr(line, '\n', n - (size_t)(line - text))); line = end + 1) {
        int64_t step;
        if (step_of_line(line, (size_t)(end - line), &step) && step <= keep) {
            kd_file_put(out, line, (size_t)(end + 1 - line));
        }
    }
    free(text);
    return kd_file_commit(out, t);
}

KdLog *kd_log_open(const char *path, int64_t keep, KdTrouble *t) {
    KdLog *l = calloc(1, sizeof *l);
    if (!l || !(l->path = strdup(path))) {
        free(l);
        kd_trouble(t, true, "%s: out of memory", path);
        return NULL;
    }
    if (!cut_back(path, keep, t)) {
        free(l->path);
        free(l);
        return NULL;
    }
    l->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (l->fd < 0) {
        kd_trouble(t, true, "%s: %s", path, strerror(errno));
        free(l->path);
        free(l);
        return NULL;
    }
    return l;
}

typedef struct Line {
    char *s;
    size_t n, room;
    bool failed;
} Line;

static void put(Line *l, const char *text, size_t n) {
    if (!l->failed && l->n + n > l->room) {
        size_t room = 2 * l->room + n + 256;
        char *more = realloc(l->s, room);
        l->failed = !more;
        l->s = more ? more : l->s;
        l->room = more ? room : l->room;
    }
    if (!l->failed) {
        memcpy(l->s + l->n, text, n);
        l->n += n;
    }
}

static void put_number(Line *l, double v) {
    char text[40];
    snprintf(text, sizeof text, isfinite(v) ? "%.9g" : "null", v);
    put(l, text, strlen(text));
}

static void put_string(Line *l, const char *text) {
    json_t *v = json_string_nocheck(text);
    char *quoted = json_dumps(v, JSON_ENCODE_ANY);
    l->failed = l->failed || !quoted;
    if (quoted) {
        put(l, quoted, strlen(quoted));
    }
    free(quoted);
    json_decref(v);
}

/* All of it, or an error: short writes are taken up again. */
static bool write_all(const KdLog *l, const char *p, size_t n, KdTrouble *t) {
    while (n) {
        ssize_t k = write(l->fd, p, n);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return kd_trouble(t, true, "%s: %s", l->path, strerror(errno));
        }
        p += k;
        n -= (size_t)k;
    }
    return true;
}

/* Ends a line with {names: values}}. */
static bool write_line(const KdLog *l, Line *line, const char *const *name, const double *value, int n, KdTrouble *t) {
    put(line, "{", 1);
    for (int i = 0; i < n; i++) {
        put(line, ",", i ? 1 : 0);
        put_string(line, name[i]);
        put(line, ":", 1);
        put_number(line, value[i]);
    }
    put(line, "}}\n", 3);
    bool ok = line->failed ? kd_trouble(t, true, "%s: out of memory", l->path) : write_all(l, line->s, line->n, t);
    free(line->s);
    return ok;
}

static void begin_line(Line *line, double unix_time, int64_t step, int64_t epoch) {
    char head[128];
    snprintf(head, sizeof head, "{\"ts\":%.3f,\"step\":%" PRId64 ",\"epoch\":%" PRId64, unix_time, step, epoch);
    put(line, head, strlen(head));
}

bool kd_log_step(KdLog *l, double unix_time, int64_t step, int64_t epoch, double images_per_s, const char *const *name,
                 const double *value, int n, KdTrouble *t) {
    Line line = {0};
    begin_line(&line, unix_time, step, epoch);
    put(&line, ",\"images_per_s\":", 16);
    put_number(&line, images_per_s);
    put(&line, ",\"loss\":", 8);
    return write_line(l, &line, name, value, n, t);
}

bool kd_log_eval(KdLog *l, double unix_time, int64_t step, int64_t epoch, const char *const *name, const double *value,
                 int n, KdTrouble *t) {
    Line line = {0};
    begin_line(&line, unix_time, step, epoch);
    put(&line, ",\"eval\":", 8);
    return write_line(l, &line, name, value, n, t);
}

void kd_log_close(KdLog *l) {
    if (l) {
        close(l->fd);
        free(l->path);
        free(l);
    }
}

/* ---- reading ---------------------------------------------------------------------------------------- */

static int name_at(char ***list, int *n, const char *name) {
    for (int i = 0; i < *n; i++) {
        if (strcmp((*list)[i], name) == 0) {
            return i;
        }
    }
    char **more = realloc(*list, sizeof *more * (size_t)(*n + 1));
    if (!more) {
        return -1;
    }
    *list = more;
    more[*n] = strdup(name);
    return more[*n] ? (*n)++ : -1;
}

static double *no_numbers(size_t n) {
    double *v = malloc(sizeof *v * (n + 1));
    for (size_t i = 0; v && i < n; i++) {
        v[i] = NAN;
    }
    return v;
}

/* Every line is a step's but those of evaluations. */
static bool is_step(const json_t *line) {
    return json_object_get(line, "loss") || !json_object_get(line, "eval");
}

/* The names that occur under `what`. */
static bool collect_names(json_t *const *line, int n, const char *what, char ***list, int *n_names) {
    const char *key;
    json_t *v;
    for (int i = 0; i < n; i++) {
        json_t *values = json_object_get(line[i], what);
        json_object_foreach(values, key, v) {
            if (name_at(list, n_names, key) < 0) {
                return false;
            }
        }
    }
    return true;
}

static void collect_row(json_t *values, char **list, int n_names, double *out, int row, int rows) {
    const char *key;
    json_t *v;
    json_object_foreach(values, key, v) {
        if (json_is_number(v)) {
            out[(size_t)name_at(&list, &n_names, key) * (size_t)rows + (size_t)row] = json_number_value(v);
        }
    }
}

/* Two passes: the names, then the numbers. Lines that are none of ours are left out. */
static bool collect(json_t *const *line, int n, KdLogData *d) {
    if (!collect_names(line, n, "loss", &d->name, &d->n_names) ||
        !collect_names(line, n, "eval", &d->metric, &d->n_metrics)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        d->n_steps += is_step(line[i]);
        d->n_evals += json_object_get(line[i], "eval") != NULL;
    }
    size_t rows = (size_t)d->n_steps + 1;
    d->step = calloc(rows, sizeof *d->step);
    d->epoch = calloc(rows, sizeof *d->epoch);
    d->time = calloc(rows, sizeof *d->time);
    d->rate = calloc(rows, sizeof *d->rate);
    d->value = no_numbers(rows * (size_t)d->n_names);
    d->eval_step = calloc((size_t)d->n_evals + 1, sizeof *d->eval_step);
    d->eval_value = no_numbers((size_t)d->n_evals * (size_t)d->n_metrics);
    if (!d->step || !d->epoch || !d->time || !d->rate || !d->value || !d->eval_step || !d->eval_value) {
        return false;
    }
    for (int i = 0, at = 0, eval = 0; i < n; i++) {
        json_t *loss = json_object_get(line[i], "loss"), *metrics = json_object_get(line[i], "eval");
        int64_t step = json_integer_value(json_object_get(line[i], "step"));
        if (is_step(line[i])) {
            d->step[at] = step;
            d->epoch[at] = json_integer_value(json_object_get(line[i], "epoch"));
            d->time[at] = json_number_value(json_object_get(line[i], "ts"));
            d->rate[at] = json_number_value(json_object_get(line[i], "images_per_s"));
            collect_row(loss, d->name, d->n_names, d->value, at++, d->n_steps);
        }
        if (metrics) {
            d->eval_step[eval] = step;
            collect_row(metrics, d->metric, d->n_metrics, d->eval_value, eval++, d->n_evals);
        }
    }
    return true;
}

bool kd_log_read(const char *path, KdLogData *out, KdTrouble *t) {
    size_t n;
    int count = 0;
    char *text = kd_file_read(path, &n, t);
    *out = (KdLogData){0};
    if (!text) {
        return false;
    }
    size_t lines = 1;
    for (size_t i = 0; i < n; i++) {
        lines += text[i] == '\n';
    }
    json_t **line = calloc(lines, sizeof *line);
    for (char *p = text, *end; line && p < text + n && (end = memchr(p, '\n', n - (size_t)(p - text))); p = end + 1) {
        line[count] = json_loadb(p, (size_t)(end - p), JSON_REJECT_DUPLICATES, NULL);
        count += json_is_integer(json_object_get(line[count], "step")) ? 1 : (json_decref(line[count]), 0);
    }
    bool ok = line && collect(line, count, out);
    for (int i = 0; i < count; i++) {
        json_decref(line[i]);
    }
    free(line);
    free(text);
    if (!ok) {
        kd_log_data_free(out);
        return kd_trouble(t, true, "%s: out of memory", path);
    }
    return true;
}

void kd_log_data_free(KdLogData *d) {
    for (int i = 0; i < d->n_names; i++) {
        free(d->name[i]);
    }
    for (int i = 0; i < d->n_metrics; i++) {
        free(d->metric[i]);
    }
    free(d->name);
    free(d->metric);
    free(d->eval_step);
    free(d->eval_value);
    free(d->step);
    free(d->epoch);
    free(d->time);
    free(d->rate);
    free(d->value);
    *d = (KdLogData){0};
}

bool kd_log_metric(const KdLogData *d, int metric, KdLogMetric *m) {
    enum { FEW = 5 };
    static const char *const more[] = {"psnr", "ssim", "miou"};
    const double *v = d->eval_value + (size_t)metric * (size_t)d->n_evals;
    const char *dot = strrchr(d->metric[metric], '.'), *what = dot ? dot + 1 : d->metric[metric];
    *m = (KdLogMetric){0};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        m->more_is_better = m->more_is_better || strcmp(what, more[i]) == 0;
    }
    bool any = false;
    for (int i = 0; i < d->n_evals; i++) {
        if (!isfinite(v[i])) {
            continue;
        }
        if (!any || (m->more_is_better ? v[i] > m->best : v[i] < m->best)) {
            m->best = v[i];
            m->best_step = d->eval_step[i];
        }
        m->last = v[i];
        m->last_step = d->eval_step[i];
        any = true;
    }
    for (int i = d->n_evals - 1; i >= 0 && m->of < FEW; i--) {
        if (isfinite(v[i])) {
            m->mean += v[i];
            m->of++;
        }
    }
    m->mean /= m->of ? m->of : 1;
    return any;
}
