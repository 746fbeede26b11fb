/* compare_table.c: the columns of kdc compare, and the table as text, Markdown, CSV and JSON. */
#include "frontend/cli/compare.h"
#include "frontend/cli/page.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const formats[] = {"text", "markdown", "csv", "json"};

bool kdc_compare_known_format(const char *name) {
    bool known = false;
    for (int i = 0; i < KD_COUNT(formats); i++) {
        known = known || strcmp(name, formats[i]) == 0;
    }
    return known;
}

/* ---- columns ---------------------------------------------------------------------------------------- */

static double macs_of(const KdMacs *m, const char *key) {
    return strcmp(key, "macs_noT") == 0 ? m->no_t : strcmp(key, "macs_Tin") == 0 ? m->t_in : m->t_out;
}

double kdc_compare_value(const KdcCompare *c, const KdcColumn *k, int row) {
    const KdcCompareRow *r = &c->row[row];
    double parameters = (double)r->parameters;
    return k->metric >= 0                          ? r->metric[k->metric]
           : k->spread                             ? r->time[k->time].median
           : strcmp(k->key, "parameters") == 0     ? parameters
           : strcmp(k->key, "size_bytes") == 0     ? 4 * parameters
           : strcmp(k->key, "layer_bytes") == 0    ? r->layers
           : strcmp(k->key, "peak_bytes") == 0     ? (double)r->arena
                                                   : macs_of(&r->macs, k->key);
}

double kdc_compare_ratio(const KdcCompare *c, const KdcColumn *k, int row) {
    double first = kdc_compare_value(c, k, 0), this = kdc_compare_value(c, k, row);
    return k->metric < 0 && first > 0 && this > 0 ? first / this : NAN;
}

static double extreme(const KdcCompare *c, const KdcColumn *k, bool most) {
    double v = NAN;
    for (int i = 0; i < c->n; i++) {
        double x = kdc_compare_value(c, k, i);
        v = isnan(v) || (most ? x > v : x < v) ? x : v;
    }
    return v;
}

/* The least MACs of any row by any convention that are not 0; infinity where all are. */
static double least_macs(const KdcCompare *c) {
    double least = INFINITY;
    for (int i = 0; i < c->n; i++) {
        const KdMacs *m = &c->row[i].macs;
        double v[] = {m->no_t, m->t_in, m->t_out};
        for (int k = 0; k < KD_COUNT(v); k++) {
            least = v[k] > 0 ? fmin(least, v[k]) : least;
        }
    }
    return least;
}

const KdcColumn *kdc_compare_columns(KdcCompare *c, int *n) {
    enum { MIB = 1 << 20 };
    KdContext *cx = c->p->cx;
    KdcColumn *v = KD_NEW_ARRAY(cx, KdcColumn, 8 + KDC_COMPARE_TIMES + KDC_METRICS);
    static const KdcColumn counts[] = {
        {"parameters", "parameters", "", 1, -1, true, false, 0, -1},
        {"size", "size_bytes", "MiB", MIB, 2, false, false, 0, -1},
        {"noT", "macs_noT", "G", 1e9, 3, false, false, 0, -1},
        {"Tin", "macs_Tin", "G", 1e9, 3, true, false, 0, -1},
        {"Tout", "macs_Tout", "G", 1e9, 3, false, false, 0, -1},
        {"layers", "layer_bytes", "MiB", MIB, 2, false, false, 0, -1},
        {"peak", "peak_bytes", "MiB", MIB, 2, false, false, 0, -1},
    };
    *n = KD_COUNT(counts);
    memcpy(v, counts, sizeof counts);
    for (int i = 0; i < *n; i++) {
        if (*v[i].unit == 'G') { /* of the smallest that is not 0, three figures */
            double least = least_macs(c), most = extreme(c, &v[i], true);
            v[i].unit = least >= 1e8 ? "G" : least >= 1e5 ? "M" : "k";
            v[i].scale = least >= 1e8 ? 1e9 : least >= 1e5 ? 1e6 : 1e3;
            v[i].digits = most < 1e4 * v[i].scale ? 3 : least >= 10 * v[i].scale ? 1 : least >= v[i].scale ? 2 : 3;
        } else if (v[i].scale == MIB && extreme(c, &v[i], true) < MIB) {
            v[i].unit = "KiB";
            v[i].scale = 1024;
        }
    }
    for (int t = 0; t < c->n_times; t++) {
        const char *cores = c->threads[t] == 1 ? "1 core" : kd_format(cx, "%d cores", c->threads[t]);
        KdcColumn *k = &v[(*n)++];
        *k = (KdcColumn){cores, kd_format(cx, "latency_%d", c->threads[t]), "ms", 1e-3, 1, true, true, t, -1};
        double least = extreme(c, k, false);
        k->digits = least < 1e-3 ? 3 : least < 1e-2 ? 2 : 1;
    }
    for (int m = 0; m < KDC_METRICS; m++) {
        if (c->measured[m]) {
            const char *unit = m == KDC_PSNR ? "dB" : "";
            int digits = m == KDC_SSIM || m == KDC_MIOU ? 4 : 3;
            v[(*n)++] = (KdcColumn){kdc_metric_name((KdcMetric)m), kdc_metric_key((KdcMetric)m), unit, 1, digits,
                                    false, false, 0, m};
            KdcColumn *k = &v[*n - 1];
            double least = m == KDC_FRECHET ? extreme(c, k, false) : NAN;
            if (least > 1e-9 && least < 1) { /* how large it is depends on the features: 4 digits of the least */
                k->digits = 3 - (int)floor(log10(least));
            }
        }
    }
    return v;
}

const char *kdc_compare_number(const KdcCompare *c, const KdcColumn *k, int row) {
    double v = kdc_compare_value(c, k, row);
    char text[64];
    if (isnan(v)) {
        return "";
    }
    if (k->digits >= 0) {
        return isinf(v) ? "inf" : kd_format(c->p->cx, "%.*f", k->digits, v / k->scale);
    }
    kdc_page_grouped((int64_t)v, text, sizeof text);
    return kd_intern_z(c->p->cx, text);
}

const char *kdc_compare_spread(const KdcCompare *c, const KdcColumn *k, int row) {
    const KdcSpread *s = &c->row[row].time[k->time];
    int digits = k->digits;
    return k->spread ? kd_format(c->p->cx, "%.*f..%.*f", digits, s->min / k->scale, digits, s->max / k->scale) : "";
}

const char *kdc_compare_times(const KdcCompare *c, const KdcColumn *k, int row) {
    double v = kdc_compare_ratio(c, k, row);
    return k->ratio && !isnan(v) ? kd_format(c->p->cx, v < 0.1 ? "%.2gx" : "%.2fx", v) : "";
}

const char *kdc_compare_note(const KdcCompare *c) {
    KdStr s = {.cx = c->p->cx};
    kd_str_printf(&s,
                  "Input %s. MACs: noT leaves transposed convolutions out, Tin counts them by their input (the true "
                  "work), Tout by their output.\nlayers: 4 bytes for each result of a layer (torchstat's memory); peak: "
                  "activations as they are planned. 2.00x: half of the first row's.\n",
                  c->row[0].inputs);
    if (c->n_times) {
        kd_str_printf(&s, "Latency: median and least..most of %d rounds over all networks, on %s.\n", c->runs,
                      c->row[0].p->host.cpu);
    }
    if (c->set) {
        kd_str_printf(&s, "Metrics: %" PRId64 " pictures of %s; preprocess %s; list %016" PRIx64 ".\n", c->pictures,
                      c->set, c->preprocess, c->list);
    }
    if (c->measured[KDC_FRECHET]) {
        kd_str_printf(&s, "Frechet: of the features of %s; no FID.\n", c->a->features);
    }
    return s.s;
}

/* ---- text ------------------------------------------------------------------------------------------- */

static const char *head_of(const KdcCompare *c, const KdcColumn *k) {
    return *k->unit ? kd_format(c->p->cx, "%s %s", k->head, k->unit) : k->head;
}

static int wider(int width, const char *text) {
    int n = (int)strlen(text);
    return n > width ? n : width;
}

static void print_text(KdStr *s, KdcCompare *c) {
    int n, name = 7;
    const KdcColumn *k = kdc_compare_columns(c, &n);
    int *width = KD_NEW_ARRAY(c->p->cx, int, 3 * n + 3);
    for (int j = 0; j < n; j++) {
        width[3 * j] = (int)strlen(head_of(c, &k[j]));
        for (int i = 0; i < c->n; i++) {
            name = wider(name, c->row[i].label);
            width[3 * j] = wider(width[3 * j], kdc_compare_number(c, &k[j], i));
            width[3 * j + 1] = wider(width[3 * j + 1], kdc_compare_spread(c, &k[j], i));
            width[3 * j + 2] = wider(width[3 * j + 2], kdc_compare_times(c, &k[j], i));
        }
    }
    for (int i = -1; i < c->n; i++) {
        KdStr line = {.cx = c->p->cx};
        kd_str_printf(&line, "%-*s", name, i < 0 ? "network" : c->row[i].label);
        for (int j = 0; j < n; j++) {
            kd_str_printf(&line, "  %*s", width[3 * j], i < 0 ? head_of(c, &k[j]) : kdc_compare_number(c, &k[j], i));
            if (k[j].spread) {
                kd_str_printf(&line, "  %-*s", width[3 * j + 1], i < 0 ? "" : kdc_compare_spread(c, &k[j], i));
            }
            if (k[j].ratio) {
                kd_str_printf(&line, " %*s", width[3 * j + 2], i < 0 ? "" : kdc_compare_times(c, &k[j], i));
            }
        }
        while (line.n && line.s[line.n - 1] == ' ') {
            line.s[--line.n] = '\0';
        }
        kd_str_printf(s, "%s\n", line.s);
    }
    if (!c->a->quiet) {
        kd_str_printf(s, "\n%s", kdc_compare_note(c));
    }
}

/* ---- Markdown --------------------------------------------------------------------------------------- */

/* "715,651 (15.90x)", "12.3 (12.1..13.0, 4.02x)" */
static const char *cell(const KdcCompare *c, const KdcColumn *k, int row) {
    const char *number = kdc_compare_number(c, k, row), *spread = kdc_compare_spread(c, k, row),
               *times = kdc_compare_times(c, k, row);
    if (!*number || (!*spread && !*times)) {
        return number;
    }
    return kd_format(c->p->cx, "%s (%s%s%s)", number, spread, *spread && *times ? ", " : "", times);
}

static void put_markdown(KdStr *s, const char *text) { /* a bar would end the cell */
    for (; *text; text++) {
        kd_str_printf(s, *text == '|' ? "\\%c" : "%c", *text);
    }
}

static void print_markdown(KdStr *s, KdcCompare *c) {
    int n;
    const KdcColumn *k = kdc_compare_columns(c, &n);
    kd_str_printf(s, "| network |");
    for (int j = 0; j < n; j++) {
        kd_str_printf(s, " %s |", head_of(c, &k[j]));
    }
    kd_str_printf(s, "\n|---|");
    for (int j = 0; j < n; j++) {
        kd_str_printf(s, "---:|");
    }
    for (int i = 0; i < c->n; i++) {
        kd_str_printf(s, "\n| ");
        put_markdown(s, c->row[i].label);
        kd_str_printf(s, " |");
        for (int j = 0; j < n; j++) {
            kd_str_printf(s, " %s |", cell(c, &k[j], i));
        }
    }
    kd_str_printf(s, "\n");
    if (!c->a->quiet) {
        kd_str_printf(s, "\n%s", kdc_compare_note(c));
    }
}

/* ---- CSV -------------------------------------------------------------------------------------------- */

static void put_csv(KdStr *s, const char *text) {
    if (!strpbrk(text, ",\"\n\r")) {
        kd_str_printf(s, "%s", text);
        return;
    }
    kd_str_printf(s, "\"");
    for (; *text; text++) {
        kd_str_printf(s, *text == '"' ? "\"\"" : "%c", *text);
    }
    kd_str_printf(s, "\"");
}

static void put_number(KdStr *s, double v) {
    if (isnan(v)) {
        kd_str_printf(s, ",");
    } else if (isinf(v)) {
        kd_str_printf(s, ",%sinf", v < 0 ? "-" : "");
    } else {
        kd_str_printf(s, v == floor(v) && fabs(v) < 1e15 ? ",%.0f" : ",%.9g", v);
    }
}

/* Raw numbers: bytes, multiply-accumulates, milliseconds. */
static void print_csv(KdStr *s, KdcCompare *c) {
    int n;
    const KdcColumn *k = kdc_compare_columns(c, &n);
    kd_str_printf(s, "network,file,net");
    if (c->width) {
        kd_str_printf(s, ",%s", c->width);
    }
    for (int j = 0; j < n; j++) {
        const char *key = k[j].key;
        kd_str_printf(s, k[j].spread ? ",%s_median_ms,%s_min_ms,%s_max_ms" : ",%s", key, key, key);
        if (k[j].metric < 0) {
            kd_str_printf(s, ",%s_ratio", key);
        }
    }
    for (int i = 0; i < c->n; i++) {
        kd_str_printf(s, "\n");
        put_csv(s, c->row[i].label);
        kd_str_printf(s, ",");
        put_csv(s, c->row[i].file);
        kd_str_printf(s, ",");
        put_csv(s, c->row[i].net);
        if (c->width) {
            put_number(s, c->row[i].width);
        }
        for (int j = 0; j < n; j++) {
            put_number(s, kdc_compare_value(c, &k[j], i) * (k[j].spread ? 1e3 : 1));
            if (k[j].spread) {
                put_number(s, c->row[i].time[k[j].time].min * 1e3);
                put_number(s, c->row[i].time[k[j].time].max * 1e3);
            }
            if (k[j].metric < 0) {
                put_number(s, kdc_compare_ratio(c, &k[j], i));
            }
        }
    }
    kd_str_printf(s, "\n");
}

/* ---- JSON ------------------------------------------------------------------------------------------- */

/* Bytes that are no UTF-8 (a file's name may hold any) become '?'. */
static json_t *text_json(const KdcCompare *c, const char *text) {
    json_t *v = json_string(text);
    if (!v) {
        char *copy = (char *)(uintptr_t)kd_format(c->p->cx, "%s", text);
        for (char *p = copy; *p; p++) {
            *p = (unsigned char)*p >= 0x80 ? '?' : *p;
        }
        v = json_string(copy);
    }
    return v;
}

static json_t *real(double v) {
    return isnan(v) ? json_null() : isinf(v) ? json_string(v > 0 ? "inf" : "-inf") : json_real(v);
}

static json_t *row_json(KdcCompare *c, int row) {
    const KdcCompareRow *r = &c->row[row];
    json_t *o = json_object(), *params = json_object(), *latency = json_array(), *ratio = json_object();
    json_t *metrics = json_object();
    int n;
    const KdcColumn *k = kdc_compare_columns(c, &n);
    for (int i = 0; i < r->n_params; i++) {
        size_t length = strcspn(r->param[i], "=");
        json_object_set_new(params, kd_intern(c->p->cx, r->param[i], length), text_json(c, r->param[i] + length + 1));
    }
    for (int t = 0; t < c->n_times; t++) {
        const KdcSpread *v = &r->time[t];
        json_array_append_new(latency, json_pack("{s:i, s:f, s:f, s:f}", "threads", c->threads[t], "median_ms",
                                                 1e3 * v->median, "min_ms", 1e3 * v->min, "max_ms", 1e3 * v->max));
    }
    for (int j = 0; j < n; j++) {
        json_t *v = real(k[j].metric >= 0 ? kdc_compare_value(c, &k[j], row) : kdc_compare_ratio(c, &k[j], row));
        json_object_set_new(k[j].metric >= 0 ? metrics : ratio, k[j].key, v);
    }
    json_object_set_new(o, "network", text_json(c, r->label));
    json_object_set_new(o, "file", text_json(c, r->file));
    json_object_set_new(o, "net", text_json(c, r->net));
    json_object_set_new(o, "params", params);
    json_object_set_new(o, "parameters", json_integer(r->parameters));
    json_object_set_new(o, "size_bytes", json_integer(4 * r->parameters));
    json_object_set_new(o, "macs", json_pack("{s:I, s:I, s:I}", "noT", (json_int_t)r->macs.no_t, "Tin",
                                             (json_int_t)r->macs.t_in, "Tout", (json_int_t)r->macs.t_out));
    json_object_set_new(o, "memory", json_pack("{s:I, s:I, s:I, s:I}", "layers", (json_int_t)r->layers, "peak",
                                               (json_int_t)r->arena, "weights", (json_int_t)r->weight_bytes, "packed",
                                               (json_int_t)r->packed));
    json_object_set_new(o, "latency", latency);
    json_object_set_new(o, "metrics", metrics);
    json_object_set_new(o, "ratio", ratio);
    return o;
}

static void print_json(KdStr *s, KdcCompare *c) {
    json_t *o = json_object(), *rows = json_array();
    for (int i = 0; i < c->n; i++) {
        json_array_append_new(rows, row_json(c, i));
    }
    json_object_set_new(o, "input", json_string(c->row[0].inputs));
    json_object_set_new(o, "width", c->width ? text_json(c, c->width) : json_null());
    json_object_set_new(o, "cpu", json_string(c->row[0].p->host.cpu));
    json_object_set_new(o, "rounds", json_integer(c->n_times ? c->runs : 0));
    if (c->set) {
        json_t *data = json_object();
        json_object_set_new(data, "set", text_json(c, c->set));
        json_object_set_new(data, "preprocess", json_string(c->preprocess));
        if (c->measured[KDC_FRECHET]) {
            json_object_set_new(data, "frechet_features", text_json(c, c->a->features));
        }
        json_object_set_new(data, "count", json_integer(c->pictures));
        json_object_set_new(data, "list_hash", json_string(kd_format(c->p->cx, "%016" PRIx64, c->list)));
        json_object_set_new(o, "data", data);
    }
    json_object_set_new(o, "networks", rows);
    char *text = json_dumps(o, JSON_INDENT(2));
    json_decref(o);
    if (!text) {
        kd_raise(c->p->cx, KD_FAIL_MACHINE, "out of memory for the results");
    }
    kd_str_printf(s, "%s\n", text);
    free(text);
}

bool kdc_compare_print(KdcCompare *c) {
    const char *format = c->a->format ? c->a->format : c->a->json ? "json" : "text";
    KdStr s = {.cx = c->p->cx};
    switch (*format) {
    case 't':
        print_text(&s, c);
        break;
    case 'm':
        print_markdown(&s, c);
        break;
    case 'c':
        print_csv(&s, c);
        break;
    default:
        print_json(&s, c);
    }
    return kdc_cli_write(c->p, NULL, s.s, (size_t)s.n);
}
