/* report.c: report.html: one page that needs nothing but itself. Curves are SVG made here, pictures are embedded; there is no
 * script. All text that comes from a user is escaped. */
#include "frontend/cli/report.h"

#include "runtime/host/log.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void base64(KdcPage *p, const unsigned char *b, size_t n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        unsigned v = (unsigned)b[i] << 16 | (left > 1 ? (unsigned)b[i + 1] << 8 : 0) | (left > 2 ? b[i + 2] : 0u);
        char four[4] = {digit[v >> 18 & 63], digit[v >> 12 & 63], left > 1 ? digit[v >> 6 & 63] : '=', left > 2 ? digit[v & 63] : '='};
        kdc_page_put(p, four, 4);
    }
}

/* ---- curves ----------------------------------------------------------------------------------------- */

/* Least and greatest of a pixel column each: thousands of steps stay a few hundred points. */
static void raw_curve(KdcPage *p, const KdcAxes *a, const KdLogData *d, const double *v) {
    kdc_page_raw(p, "<path class=\"raw\" d=\"");
    bool pen = false;
    for (int i = 0; i < d->n_steps;) {
        int column = (int)kdc_axes_x(a, (double)d->step[i]);
        double lo = INFINITY, hi = -INFINITY;
        for (; i < d->n_steps && (int)kdc_axes_x(a, (double)d->step[i]) == column; i++) {
            lo = v[i] < lo ? v[i] : lo; /* false for NaN */
            hi = v[i] > hi ? v[i] : hi;
        }
        if (lo <= hi) {
            kdc_page_print(p, "%c%d %.1fL%d %.1f", pen ? 'L' : 'M', column, kdc_axes_y(a, hi), column, kdc_axes_y(a, lo));
            pen = true;
        }
    }
    kdc_page_raw(p, "\"/>");
}

/* Means over a window of a twentieth of the run around each step, a point a pixel column: unlike a running mean it does not
 * lag. sum[i], count[i]: of the finite values before step i. */
static void smooth_curve(KdcPage *p, const KdcAxes *a, const KdLogData *d, const double *v) {
    int n = d->n_steps, half = n / 40, last = -1;
    double *sum = calloc((size_t)n + 1, sizeof *sum);
    int *count = calloc((size_t)n + 1, sizeof *count);
    for (int i = 0; sum && count && i < n; i++) {
        bool there = isfinite(v[i]);
        sum[i + 1] = sum[i] + (there ? v[i] : 0);
        count[i + 1] = count[i] + (there ? 1 : 0);
    }
    kdc_page_raw(p, "<path class=\"smooth\" d=\"");
    for (int i = 0; sum && count && i < n; i++) {
        int column = (int)kdc_axes_x(a, (double)d->step[i]);
        int reach = i < n - 1 - i ? i : n - 1 - i; /* as far to both sides, so that ends are no flatter; but not to one value */
        reach = reach > half ? half : reach < half / 2 ? half / 2 : reach;
        int from = i > reach ? i - reach : 0, to = n - 1 - i > reach ? i + reach + 1 : n;
        if (count[to] > count[from] && (column != last || i + 1 == n)) {
            kdc_page_print(p, "%c%d %.1f", last < 0 ? 'M' : 'L', column, kdc_axes_y(a, (sum[to] - sum[from]) / (count[to] - count[from])));
            last = column;
        }
    }
    kdc_page_raw(p, "\"/>");
    p->failed = p->failed || !sum || !count;
    free(sum);
    free(count);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The range shown: all but the outermost hundredth, so that one spike does not flatten the rest. */
static bool range_of(const double *v, int n, KdcAxes *a, double *least, double *final) {
    double *sorted = malloc(sizeof *sorted * (size_t)(n + 1));
    int count = 0;
    for (int i = 0; sorted && i < n; i++) {
        if (isfinite(v[i])) {
            sorted[count++] = v[i];
            *final = v[i];
        }
    }
    if (count == 0) {
        free(sorted);
        return false;
    }
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    *least = sorted[0];
    a->y0 = sorted[count / 100];
    a->y1 = sorted[count - 1 - count / 100];
    if (a->y0 > 0 && a->y0 < 0.5 * a->y1) {
        a->y0 = 0; /* losses near zero are read from zero */
    }
    double pad = a->y1 > a->y0 ? 0.04 * (a->y1 - a->y0) : fabs(a->y1) * 0.1 + 1e-6;
    a->y1 += pad;
    a->y0 -= a->y0 == 0 ? 0 : pad;
    free(sorted);
    return true;
}

static void panel(KdcPage *p, const KdLogData *d, int k) {
    const double *v = d->value + (size_t)k * (size_t)d->n_steps;
    KdcAxes a = {(double)d->step[0], (double)d->step[d->n_steps - 1], 0, 1};
    double least = 0, final = 0;
    if (!range_of(v, d->n_steps, &a, &least, &final)) {
        return;
    }
    kdc_page_raw(p, "<div class=\"card\"><h3>");
    kdc_page_escaped(p, d->name[k]);
    kdc_page_print(p, "</h3><p>last %.4g, least %.4g</p><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", final, least, KDC_PLOT_W, KDC_PLOT_H);
    kdc_page_escaped(p, d->name[k]);
    kdc_page_print(p, " by step\"><clipPath id=\"c%d\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>", k, KDC_PLOT_LEFT, KDC_PLOT_TOP - 2, KDC_PLOT_COLUMNS,
          KDC_PLOT_H - KDC_PLOT_TOP - KDC_PLOT_BOTTOM + 4);
    kdc_page_ticks(p, &a);
    kdc_page_print(p, "<g clip-path=\"url(#c%d)\">", k);
    raw_curve(p, &a, d, v);
    smooth_curve(p, &a, d, v);
    kdc_page_raw(p, "</g></svg></div>");
}

static void curves(KdcPage *p, const KdLogData *d) {
    if (d->n_steps == 0) {
        return;
    }
    kdc_page_raw(p, "<h2>Losses by step</h2><div class=\"curves\">");
    for (int k = 0; k < d->n_names; k++) {
        panel(p, d, k);
    }
    kdc_page_raw(p, "</div>");
}

/* ---- metrics ---------------------------------------------------------------------------------------- */

/* A line through all evaluations, a dot each, and a ring around the best one, which is another thing than the last. */
static void metric_curve(KdcPage *p, const KdLogData *d, int k, const KdLogMetric *m) {
    const double *v = d->eval_value + (size_t)k * (size_t)d->n_evals;
    KdcAxes a = {0, (double)d->eval_step[d->n_evals - 1], INFINITY, -INFINITY};
    for (int i = 0; i < d->n_evals; i++) {
        a.y0 = isfinite(v[i]) && v[i] < a.y0 ? v[i] : a.y0;
        a.y1 = isfinite(v[i]) && v[i] > a.y1 ? v[i] : a.y1;
    }
    double pad = a.y1 > a.y0 ? 0.08 * (a.y1 - a.y0) : fabs(a.y1) * 0.1 + 1e-6;
    a.y0 -= pad;
    a.y1 += pad;
    kdc_page_ticks(p, &a);
    kdc_page_raw(p, "<path class=\"smooth\" d=\"");
    for (int i = 0, n = 0; i < d->n_evals; i++) {
        if (isfinite(v[i])) {
            kdc_page_print(p, "%c%.1f %.1f", n++ ? 'L' : 'M', kdc_axes_x(&a, (double)d->eval_step[i]), kdc_axes_y(&a, v[i]));
        }
    }
    kdc_page_raw(p, "\"/>");
    for (int i = 0; i < d->n_evals && d->n_evals <= 60; i++) {
        if (isfinite(v[i])) {
            kdc_page_print(p, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>", kdc_axes_x(&a, (double)d->eval_step[i]),
                  kdc_axes_y(&a, v[i]));
        }
    }
    kdc_page_print(p, "<circle class=\"best\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>", kdc_axes_x(&a, (double)m->best_step),
          kdc_axes_y(&a, m->best));
}

static void metrics(KdcPage *p, const KdLogData *d) {
    if (d->n_evals == 0) {
        return;
    }
    kdc_page_raw(p, "<h2>Metrics on test pictures by step</h2><div class=\"curves\">");
    for (int k = 0; k < d->n_metrics; k++) {
        KdLogMetric m;
        if (!kd_log_metric(d, k, &m)) {
            continue;
        }
        kdc_page_raw(p, "<div class=\"card\"><h3>");
        kdc_page_escaped(p, d->metric[k]);
        kdc_page_print(p, "</h3><p>last %.4g, best %.4g (%s, step %" PRId64 "), mean of the last %d %.4g</p>", m.last, m.best,
              m.more_is_better ? "highest" : "lowest", m.best_step, m.of, m.mean);
        kdc_page_print(p, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", KDC_PLOT_W, KDC_PLOT_H);
        kdc_page_escaped(p, d->metric[k]);
        kdc_page_raw(p, " by step\">");
        metric_curve(p, d, k, &m);
        kdc_page_raw(p, "</svg></div>");
    }
    kdc_page_raw(p, "</div>");
}

/* ---- samples ---------------------------------------------------------------------------------------- */

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of samples/NNNNNN.png, newest first. */
static int64_t *list_samples(const char *folder, int *n) {
    char path[4096];
    snprintf(path, sizeof path, "%s/samples", folder);
    DIR *d = opendir(path);
    int64_t *step = NULL;
    *n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        int64_t s;
        int end = 0;
        int64_t *more = NULL;
        if (sscanf(e->d_name, "%" SCNd64 ".png%n", &s, &end) == 1 && end && !e->d_name[end] &&
            (more = realloc(step, sizeof *step * (size_t)(*n + 1)))) {
            step = more;
            step[(*n)++] = s;
        }
    }
    if (d) {
        closedir(d);
    }
    if (*n) {
        qsort(step, (size_t)*n, sizeof *step, newest_first);
    }
    return step;
}

/* One grid. It is left out when it cannot be read or does not fit into what is left of the page's size. */
static void sample(KdcPage *p, const char *folder, int64_t step, size_t *left) {
    char path[4096];
    size_t n;
    KdTrouble t;
    snprintf(path, sizeof path, "%s/samples/%06" PRId64 ".png", folder, step);
    char *png = kd_file_read(path, &n, &t);
    bool fits = png && n <= *left;
    if (fits) {
        *left -= n;
        kdc_page_print(p, "<figure><figcaption>step %" PRId64 "</figcaption><div class=\"wide\"><img alt=\"samples of step %" PRId64
                 "\" src=\"data:image/png;base64,", step, step);
        base64(p, (const unsigned char *)png, n);
        kdc_page_raw(p, "\"></div></figure>");
    }
    free(png);
}

/* The newest large, whatever its size; then the oldest and some evenly between, as far as the page stays below some 10 MB. */
static void samples(KdcPage *p, const char *folder) {
    enum { MOST = 12 };
    size_t any = SIZE_MAX, left = 7 << 20; /* base64 makes four bytes of three */
    int n;
    int64_t *step = list_samples(folder, &n);
    if (n) {
        kdc_page_raw(p, "<h2>Samples</h2><div class=\"latest\">");
        sample(p, folder, step[0], &any);
        kdc_page_raw(p, "</div>");
        left -= SIZE_MAX - any < left ? SIZE_MAX - any : left;
    }
    if (n > 1) {
        kdc_page_raw(p, "<div class=\"earlier\">");
        int shown = n - 1 < MOST ? n - 1 : MOST;
        for (int i = 0; i < shown; i++) {
            sample(p, folder, step[shown > 1 ? 1 + (int64_t)i * (n - 2) / (shown - 1) : n - 1], &left);
        }
        kdc_page_raw(p, "</div>");
    }
    free(step);
}

/* ---- the page --------------------------------------------------------------------------------------- */

static void tile(KdcPage *p, const char *name, const char *value) {
    kdc_page_raw(p, "<div class=\"tile\"><b>");
    kdc_page_escaped(p, value);
    kdc_page_raw(p, "</b><span>");
    kdc_page_escaped(p, name);
    kdc_page_raw(p, "</span></div>");
}

static void tiles(KdcPage *p, const KdLogData *d) {
    char text[64];
    int last = d->n_steps - 1;
    if (last < 0) {
        return;
    }
    kdc_page_raw(p, "<div class=\"tiles\">");
    snprintf(text, sizeof text, "%" PRId64, d->step[last]);
    tile(p, "steps", text);
    snprintf(text, sizeof text, "%" PRId64, d->epoch[last]);
    tile(p, "epoch", text);
    snprintf(text, sizeof text, "%.3g", d->rate[last]);
    tile(p, "images a second", text);
    tile(p, "from first to last step", kdc_duration(d->time[last] - d->time[0], text, sizeof text));
    snprintf(text, sizeof text, "%" PRId64 " MiB", kdc_peak_bytes() >> 20);
    tile(p, "peak memory", text);
    kdc_page_raw(p, "</div>");
}

static void networks(KdcPage *p, const KdcReport *r) {
    bool macs = false;
    for (int i = 0; i < r->n_nets; i++) {
        macs = macs || r->net[i].macs >= 0;
    }
    kdc_page_print(p, "<h2>Networks</h2><div class=\"card\"><table><tr><th>name</th><th>what</th><th></th><th class=\"n\">parameters</th>%s</tr>",
          macs ? "<th class=\"n\">MACs</th>" : "");
    for (int i = 0; i < r->n_nets; i++) {
        char text[48];
        const KdcReportRow *row = &r->net[i];
        kdc_page_grouped(row->parameters, text, sizeof text);
        kdc_page_raw(p, "<tr><td>");
        kdc_page_escaped(p, row->name);
        kdc_page_raw(p, "</td><td>");
        kdc_page_escaped(p, row->what);
        kdc_page_print(p, "</td><td>%s</td><td class=\"n\">%s</td>", row->frozen ? "frozen" : "trained", text);
        if (macs) {
            snprintf(text, sizeof text, "%.4g G", row->macs / 1e9);
            kdc_page_print(p, "<td class=\"n\">%s</td>", row->macs >= 0 ? text : "");
        }
        kdc_page_raw(p, "</tr>");
    }
    kdc_page_raw(p, "</table></div>");
}

bool kdc_report_write(const KdcReport *r, KdTrouble *t) {
    char path[4096];
    KdLogData d;
    KdcPage p = {0};
    snprintf(path, sizeof path, "%s/log.jsonl", r->folder);
    if (!kd_log_read(path, &d, t)) {
        return false;
    }
    kdc_page_begin(&p, r->title, r->state);
    tiles(&p, &d);
    metrics(&p, &d);
    curves(&p, &d);
    samples(&p, r->folder);
    if (r->n_nets) {
        networks(&p, r);
    }
    kdc_page_pairs(&p, "Plan", r->plan, r->n_plan);
    kdc_page_pairs(&p, "Settings", r->setting, r->n_settings);
    kdc_page_end(&p);
    snprintf(path, sizeof path, "%s/report.html", r->folder);
    bool ok = p.failed ? kd_trouble(t, true, "%s: out of memory", path) : kd_file_write(path, p.s, p.n, t);
    free(p.s);
    kd_log_data_free(&d);
    return ok;
}
