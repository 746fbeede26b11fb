/* eval_print.c: the results as a table for people and as JSON for programs. Both say what was measured on what. */
#include "frontend/cli/eval.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const struct { const char *name, *key, *unit; bool more_is_better; } metrics[KDC_METRICS] = {
    [KDC_L1] = {"L1", "l1", "", false},       [KDC_PSNR] = {"PSNR", "psnr", " dB", true},
    [KDC_SSIM] = {"SSIM", "ssim", "", true},  [KDC_FID] = {"FID", "fid", "", false},
    [KDC_MIOU] = {"mIoU", "miou", "", true},  [KDC_FRECHET] = {"Frechet", "frechet", "", false},
};

const char *kdc_metric_name(KdcMetric m) {
    return metrics[m].name;
}

const char *kdc_metric_key(KdcMetric m) {
    return metrics[m].key;
}

/* Over pictures: mean, deviation (n - 1; NaN of one), the worst picture's row. */
typedef struct Column {
    double mean, deviation;
    const KdcEvalRow *worst;
} Column;

static Column column(const KdcEval *e, KdcMetric m) {
    Column c = {0, NAN, NULL};
    int n = e->rows.n;
    for (int i = 0; i < n; i++) {
        double v = e->rows.v[i].value[m];
        c.mean += v;
        if (!c.worst || (metrics[m].more_is_better ? v < c.worst->value[m] : v > c.worst->value[m])) {
            c.worst = &e->rows.v[i];
        }
    }
    c.mean /= n;
    if (n > 1 && isfinite(c.mean)) {
        double sum = 0;
        for (int i = 0; i < n; i++) {
            double d = e->rows.v[i].value[m] - c.mean;
            sum += d * d;
        }
        c.deviation = sqrt(sum / (n - 1));
    }
    return c;
}

double kdc_eval_value(const KdcEval *e, KdcMetric m) {
    return m == KDC_FID ? e->fid : m == KDC_FRECHET ? e->frechet : m == KDC_MIOU ? e->miou : column(e, m).mean;
}

/* ---- the table --------------------------------------------------------------------------------------- */

static const char *number(double v, char *text, size_t n) {
    if (isnan(v)) {
        snprintf(text, n, "-");
    } else {
        snprintf(text, n, isinf(v) ? "%f" : fabs(v) < 10 ? "%.4f" : "%.3f", v);
    }
    return text;
}

static void print_pictures(KdStr *s, const KdcEval *e) {
    kd_str_printf(s, "%10s %10s %10s  %s\n", "L1", "PSNR", "SSIM", "picture");
    for (int i = 0; i < e->rows.n; i++) {
        for (int m = 0; m < KDC_PER_IMAGE; m++) {
            char text[64];
            kd_str_printf(s, "%10s ", number(e->rows.v[i].value[m], text, sizeof text));
        }
        kd_str_printf(s, " %s\n", e->rows.v[i].name);
    }
    kd_str_printf(s, "\n");
}

static void print_per_picture(KdStr *s, const KdcEval *e) {
    bool any = false;
    for (int m = 0; m < KDC_PER_IMAGE; m++) {
        any = any || e->compute[m];
    }
    if (!any) {
        return;
    }
    if (e->a->verbose) {
        print_pictures(s, e);
    }
    kd_str_printf(s, "%-8s %10s %10s %10s\n", "", "mean", "deviation", "worst");
    for (int m = 0; m < KDC_PER_IMAGE; m++) {
        if (e->compute[m]) {
            Column c = column(e, (KdcMetric)m);
            char mean[64], deviation[64], worst[64];
            kd_str_printf(s, "%-8s %10s %10s %10s  %s\n", metrics[m].name, number(c.mean, mean, sizeof mean),
                          number(c.deviation, deviation, sizeof deviation),
                          number(c.worst->value[m], worst, sizeof worst), c.worst->name);
        }
    }
}

static void print_distances(KdStr *s, const KdcEval *e) {
    for (int own = 0; own < 2; own++) {
        KdcMetric m = own ? KDC_FRECHET : KDC_FID;
        int least = own ? e->feature_count + 1 : KDC_INCEPTION_FEATURES; /* below it the covariance is singular */
        if (!e->compute[m]) {
            continue;
        }
        double v = kdc_eval_value(e, m); /* how large a Frechet distance is depends on the features */
        kd_str_printf(s, own && fabs(v) < 1 ? "%-8s %10.4g" : "%-8s %10.4f", metrics[m].name, v);
        kd_str_printf(s, "  %" PRId64 " pictures against %" PRId64 " of %s\n", e->generated, e->references, e->reference);
        if (own) {
            kd_str_printf(s, "%-8s %10s  %d features of %s: no FID; compare only with figures of the same network\n", "", "",
                          e->feature_count, e->a->features);
        }
        if (e->generated < least) {
            kd_str_printf(s, "%-8s %10s  fewer than %d pictures: compare only with figures of the same counts\n", "", "",
                          least);
        }
    }
}

static void print_table(KdStr *s, const KdcEval *e) {
    kd_str_printf(s, "%s against %s\n", e->what, e->against);
    kd_str_printf(s, "%" PRId64 " %s of %s; preprocess %s; list %016" PRIx64 "\n", e->count,
                  e->labels ? "label maps" : "pictures", e->set, e->preprocess, e->list);
    const KdcCalibration *c = &e->calibration;
    if (c->norms) {
        kd_str_printf(s, "statistics of %d norm%s estimated over %" PRId64 " batch%s of %" PRId64 " of %s\n", c->norms,
                      c->norms > 1 ? "s" : "", c->batches, c->batches > 1 ? "es" : "", c->batch, c->pictures);
    }
    kd_str_printf(s, "\n");
    print_per_picture(s, e);
    print_distances(s, e);
    if (e->compute[KDC_MIOU]) {
        kd_str_printf(s, "%-20s %8.4f\n%-20s %8.4f\n%-20s %8.4f\n", "mIoU", e->miou, "pixel accuracy", e->pixel,
                      "class accuracy", e->per_class);
    }
    for (int m = 0; m < KDC_METRICS && !e->a->metrics; m++) {
        if (e->missing[m]) {
            kd_str_printf(s, "%-8s %10s  %s\n", metrics[m].name, "-", e->missing[m]);
        }
    }
}

/* ---- JSON -------------------------------------------------------------------------------------------- */

/* A number; what is none in JSON is its name, and what is not defined is null. */
static json_t *real(double v) {
    return isnan(v) ? json_null() : isinf(v) ? json_string(v > 0 ? "inf" : "-inf") : json_real(v);
}

/* A string; bytes that are no UTF-8 (a file's name may hold any) become '?'. */
static json_t *text(KdcProgram *p, const char *s) {
    json_t *v = json_string(s);
    if (!v) {
        char *copy = (char *)kd_format(p->cx, "%s", s);
        for (char *c = copy; *c; c++) {
            *c = (unsigned char)*c >= 0x80 ? '?' : *c;
        }
        v = json_string(copy);
    }
    return v;
}

static json_t *hash(KdcProgram *p, uint64_t h) {
    return json_string(kd_format(p->cx, "%016" PRIx64, h));
}

static json_t *rows_json(const KdcEval *e) {
    json_t *rows = json_array();
    for (int i = 0; i < e->rows.n; i++) {
        json_t *row = json_object();
        json_object_set_new(row, "name", text(e->p, e->rows.v[i].name));
        for (int m = 0; m < KDC_PER_IMAGE; m++) {
            if (e->compute[m]) {
                json_object_set_new(row, metrics[m].key, real(e->rows.v[i].value[m]));
            }
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static json_t *column_json(const KdcEval *e, KdcMetric m) {
    Column c = column(e, m);
    json_t *v = json_object(), *worst = json_object();
    json_object_set_new(worst, "name", text(e->p, c.worst->name));
    json_object_set_new(worst, "value", real(c.worst->value[m]));
    json_object_set_new(v, "mean", real(c.mean));
    json_object_set_new(v, "deviation", real(c.deviation));
    json_object_set_new(v, "worst", worst);
    return v;
}

static json_t *metrics_json(const KdcEval *e) {
    json_t *all = json_object();
    for (int m = 0; m < KDC_PER_IMAGE; m++) {
        if (e->compute[m]) {
            json_object_set_new(all, metrics[m].key, column_json(e, (KdcMetric)m));
        }
    }
    if (e->compute[KDC_FID]) {
        json_t *v = json_object();
        json_object_set_new(v, "value", real(e->fid));
        json_object_set_new(v, "generated", json_integer(e->generated));
        json_object_set_new(v, "references", json_integer(e->references));
        json_object_set_new(v, "reference", text(e->p, e->reference));
        json_object_set_new(v, "resize", json_string("bilinear to 299x299, align_corners off, no antialias"));
        json_object_set_new(all, "fid", v);
    }
    if (e->compute[KDC_FRECHET]) {
        json_t *v = json_object();
        json_object_set_new(v, "value", real(e->frechet));
        json_object_set_new(v, "features", text(e->p, e->a->features));
        json_object_set_new(v, "feature_count", json_integer(e->feature_count));
        json_object_set_new(v, "generated", json_integer(e->generated));
        json_object_set_new(v, "references", json_integer(e->references));
        json_object_set_new(v, "reference", text(e->p, e->reference));
        json_object_set_new(all, "frechet", v);
    }
    if (e->compute[KDC_MIOU]) {
        json_object_set_new(all, "miou", real(e->miou));
        json_object_set_new(all, "pixel_accuracy", real(e->pixel));
        json_object_set_new(all, "class_accuracy", real(e->per_class));
    }
    return all;
}

static json_t *eval_json(const KdcEval *e) {
    json_t *all = json_object(), *missing = json_object(), *data = json_object();
    for (int m = 0; m < KDC_METRICS; m++) {
        if (e->missing[m]) {
            json_object_set_new(missing, metrics[m].key, json_string(e->missing[m]));
        }
    }
    json_object_set_new(data, "set", text(e->p, e->set));
    json_object_set_new(data, "preprocess", json_string(e->preprocess));
    json_object_set_new(data, "count", json_integer(e->count));
    json_object_set_new(data, "list_hash", hash(e->p, e->list));
    json_object_set_new(data, "reference_pixels_hash", hash(e->p, e->pixels));
    json_object_set_new(all, "what", text(e->p, e->what));
    json_object_set_new(all, "against", text(e->p, e->against));
    json_object_set_new(all, "data", data);
    if (e->calibration.batches) {
        json_t *c = json_object();
        json_object_set_new(c, "norms", json_integer(e->calibration.norms));
        json_object_set_new(c, "batches", json_integer(e->calibration.batches));
        json_object_set_new(c, "batch", json_integer(e->calibration.batch));
        json_object_set_new(c, "pictures", text(e->p, e->calibration.pictures));
        json_object_set_new(all, "calibration", c);
    }
    json_object_set_new(all, "metrics", metrics_json(e));
    json_object_set_new(all, "not_computed", missing);
    json_object_set_new(all, "pictures", rows_json(e));
    return all;
}

bool kdc_eval_print(KdcEval *e) {
    KdStr s = {.cx = e->p->cx};
    if (e->a->json) {
        json_t *all = eval_json(e);
        char *line = json_dumps(all, JSON_INDENT(2));
        json_decref(all);
        if (!line) {
            kd_raise(e->p->cx, KD_FAIL_MACHINE, "out of memory for the results");
        }
        kd_str_printf(&s, "%s\n", line);
        free(line);
    } else {
        print_table(&s, e);
    }
    return kdc_cli_write(e->p, NULL, s.s, (size_t)s.n);
}
