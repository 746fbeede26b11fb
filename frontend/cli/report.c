/* report.c: report.html: one page that needs nothing but itself. Curves are SVG made here, pictures are embedded; there is no
 * script. All text that comes from a user is escaped. */
#include "frontend/cli/report.h"

#include "runtime/host/log.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    ":root{--ink:#1b1f24;--soft:#5b6570;--line:#d9dee4;--back:#f6f7f9;--card:#fff;--curve:#1f6feb;--raw:#9cc2f7}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4af;--line:#343b43;--back:#14171b;--card:#1c2025;"
    "--curve:#6cb1ff;--raw:#2f5580}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}"
    "main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}h1{font-size:22px;margin:0}h2{font-size:16px;margin:36px 0 10px}"
    ".state{color:var(--soft);margin:2px 0 18px}.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px}"
    ".tile,.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}"
    ".tile b{display:block;font-size:20px;font-weight:600;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}"
    ".curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:12px}"
    ".card h3{font-size:14px;margin:0 0 2px}.card p{margin:0 0 4px;color:var(--soft);font-size:13px;font-variant-numeric:tabular-nums}"
    "svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:11px}.grid{stroke:var(--line);stroke-width:1}"
    ".raw{stroke:var(--raw);stroke-width:1;fill:none}.smooth{stroke:var(--curve);stroke-width:2;fill:none;stroke-linejoin:round}"
    ".dot{fill:var(--curve)}.best{fill:none;stroke:var(--ink);stroke-width:1.5}.raw,.smooth{stroke-linecap:round}"
    "figure{margin:0 0 14px}figcaption{color:var(--soft);font-size:13px;margin:0 0 4px}img{max-width:100%;height:auto;border-radius:6px;"
    "display:block}.latest img{min-width:min(100%,640px)}.earlier{display:grid;gap:14px 12px;margin-top:14px;"
    "grid-template-columns:repeat(auto-fill,minmax(min(100%,240px),1fr))}.earlier figure{margin:0}.earlier img{width:100%}"
    "@media(max-width:600px){.earlier{grid-template-columns:1fr 1fr}}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}"
    "th{font-weight:600;font-size:13px;color:var(--soft);white-space:nowrap}th.n{text-align:right}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}";

/* ---- text ------------------------------------------------------------------------------------------- */

typedef struct Page {
    char *s;
    size_t n, room;
    bool failed;
} Page;

static void put(Page *p, const char *text, size_t n) {
    if (!p->failed && n > p->room - p->n) {
        size_t room = 2 * p->room + n + 4096;
        char *more = realloc(p->s, room);
        p->failed = !more;
        p->s = more ? more : p->s;
        p->room = more ? room : p->room;
    }
    if (!p->failed) {
        memcpy(p->s + p->n, text, n);
        p->n += n;
    }
}

static void raw(Page *p, const char *text) {
    put(p, text, strlen(text));
}

__attribute__((format(printf, 2, 3))) static void print(Page *p, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    raw(p, text);
}

static void escaped(Page *p, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            raw(p, "&lt;");
            break;
        case '>':
            raw(p, "&gt;");
            break;
        case '&':
            raw(p, "&amp;");
            break;
        case '"':
            raw(p, "&quot;");
            break;
        case '\'':
            raw(p, "&#39;");
            break;
        default:
            put(p, text, 1);
        }
    }
}

static void base64(Page *p, const unsigned char *b, size_t n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        unsigned v = (unsigned)b[i] << 16 | (left > 1 ? (unsigned)b[i + 1] << 8 : 0) | (left > 2 ? b[i + 2] : 0u);
        char four[4] = {digit[v >> 18 & 63], digit[v >> 12 & 63], left > 1 ? digit[v >> 6 & 63] : '=', left > 2 ? digit[v & 63] : '='};
        put(p, four, 4);
    }
}

/* ---- curves ----------------------------------------------------------------------------------------- */

enum { W = 360, H = 190, LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 22, COLUMNS = W - LEFT - RIGHT };

typedef struct Axes {
    double x0, x1, y0, y1;
} Axes;

static double at_x(const Axes *a, double x) {
    return LEFT + (a->x1 > a->x0 ? (x - a->x0) / (a->x1 - a->x0) : 0.5) * COLUMNS;
}

static double at_y(const Axes *a, double y) {
    return H - BOTTOM - (a->y1 > a->y0 ? (y - a->y0) / (a->y1 - a->y0) : 0.5) * (H - TOP - BOTTOM);
}

/* 1, 2 or 5 times a power of ten: about `n` of it in the range */
static double nice_step(double range, int n) {
    double raw_step = range / n, power = pow(10, floor(log10(raw_step))), f = raw_step / power;
    return (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10) * power;
}

static void ticks(Page *p, const Axes *a) {
    double step = nice_step(a->y1 - a->y0, 4);
    for (double y = ceil(a->y0 / step) * step; y <= a->y1 + step * 1e-9; y += step) {
        double v = fabs(y) < step * 1e-6 ? 0 : y;
        print(p, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>",
              LEFT, W - RIGHT, at_y(a, y), at_y(a, y), LEFT - 5, at_y(a, y) + 4, v);
    }
    step = nice_step(a->x1 - a->x0 > 0 ? a->x1 - a->x0 : 1, 4);
    step = step < 1 ? 1 : step;
    for (double x = ceil(a->x0 / step) * step; x <= a->x1; x += step) {
        print(p, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%.8g</text>", at_x(a, x), H - 6,
              at_x(a, x) > W - RIGHT - 18 ? "end" : "middle", x);
    }
}

/* Least and greatest of a pixel column each: thousands of steps stay a few hundred points. */
static void raw_curve(Page *p, const Axes *a, const KdLogData *d, const double *v) {
    raw(p, "<path class=\"raw\" d=\"");
    bool pen = false;
    for (int i = 0; i < d->n_steps;) {
        int column = (int)at_x(a, (double)d->step[i]);
        double lo = INFINITY, hi = -INFINITY;
        for (; i < d->n_steps && (int)at_x(a, (double)d->step[i]) == column; i++) {
            lo = v[i] < lo ? v[i] : lo; /* false for NaN */
            hi = v[i] > hi ? v[i] : hi;
        }
        if (lo <= hi) {
            print(p, "%c%d %.1fL%d %.1f", pen ? 'L' : 'M', column, at_y(a, hi), column, at_y(a, lo));
            pen = true;
        }
    }
    raw(p, "\"/>");
}

/* Means over a window of a twentieth of the run around each step, a point a pixel column: unlike a running mean it does not
 * lag. sum[i], count[i]: of the finite values before step i. */
static void smooth_curve(Page *p, const Axes *a, const KdLogData *d, const double *v) {
    int n = d->n_steps, half = n / 40, last = -1;
    double *sum = calloc((size_t)n + 1, sizeof *sum);
    int *count = calloc((size_t)n + 1, sizeof *count);
    for (int i = 0; sum && count && i < n; i++) {
        bool there = isfinite(v[i]);
        sum[i + 1] = sum[i] + (there ? v[i] : 0);
        count[i + 1] = count[i] + (there ? 1 : 0);
    }
    raw(p, "<path class=\"smooth\" d=\"");
    for (int i = 0; sum && count && i < n; i++) {
        int column = (int)at_x(a, (double)d->step[i]);
        int reach = i < n - 1 - i ? i : n - 1 - i; /* as far to both sides, so that ends are no flatter; but not to one value */
        reach = reach > half ? half : reach < half / 2 ? half / 2 : reach;
        int from = i > reach ? i - reach : 0, to = n - 1 - i > reach ? i + reach + 1 : n;
        if (count[to] > count[from] && (column != last || i + 1 == n)) {
            print(p, "%c%d %.1f", last < 0 ? 'M' : 'L', column, at_y(a, (sum[to] - sum[from]) / (count[to] - count[from])));
            last = column;
        }
    }
    raw(p, "\"/>");
    p->failed = p->failed || !sum || !count;
    free(sum);
    free(count);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The range shown: all but the outermost hundredth, so that one spike does not flatten the rest. */
static bool range_of(const double *v, int n, Axes *a, double *least, double *final) {
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

static void panel(Page *p, const KdLogData *d, int k) {
    const double *v = d->value + (size_t)k * (size_t)d->n_steps;
    Axes a = {(double)d->step[0], (double)d->step[d->n_steps - 1], 0, 1};
    double least = 0, final = 0;
    if (!range_of(v, d->n_steps, &a, &least, &final)) {
        return;
    }
    raw(p, "<div class=\"card\"><h3>");
    escaped(p, d->name[k]);
    print(p, "</h3><p>last %.4g, least %.4g</p><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", final, least, W, H);
    escaped(p, d->name[k]);
    print(p, " by step\"><clipPath id=\"c%d\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>", k, LEFT, TOP - 2, COLUMNS,
          H - TOP - BOTTOM + 4);
    ticks(p, &a);
    print(p, "<g clip-path=\"url(#c%d)\">", k);
    raw_curve(p, &a, d, v);
    smooth_curve(p, &a, d, v);
    raw(p, "</g></svg></div>");
}

static void curves(Page *p, const KdLogData *d) {
    if (d->n_steps == 0) {
        return;
    }
    raw(p, "<h2>Losses by step</h2><div class=\"curves\">");
    for (int k = 0; k < d->n_names; k++) {
        panel(p, d, k);
    }
    raw(p, "</div>");
}

/* ---- metrics ---------------------------------------------------------------------------------------- */

/* A line through all evaluations, a dot each, and a ring around the best one, which is another thing than the last. */
static void metric_curve(Page *p, const KdLogData *d, int k, const KdLogMetric *m) {
    const double *v = d->eval_value + (size_t)k * (size_t)d->n_evals;
    Axes a = {0, (double)d->eval_step[d->n_evals - 1], INFINITY, -INFINITY};
    for (int i = 0; i < d->n_evals; i++) {
        a.y0 = isfinite(v[i]) && v[i] < a.y0 ? v[i] : a.y0;
        a.y1 = isfinite(v[i]) && v[i] > a.y1 ? v[i] : a.y1;
    }
    double pad = a.y1 > a.y0 ? 0.08 * (a.y1 - a.y0) : fabs(a.y1) * 0.1 + 1e-6;
    a.y0 -= pad;
    a.y1 += pad;
    ticks(p, &a);
    raw(p, "<path class=\"smooth\" d=\"");
    for (int i = 0, n = 0; i < d->n_evals; i++) {
        if (isfinite(v[i])) {
            print(p, "%c%.1f %.1f", n++ ? 'L' : 'M', at_x(&a, (double)d->eval_step[i]), at_y(&a, v[i]));
        }
    }
    raw(p, "\"/>");
    for (int i = 0; i < d->n_evals && d->n_evals <= 60; i++) {
        if (isfinite(v[i])) {
            print(p, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>", at_x(&a, (double)d->eval_step[i]),
                  at_y(&a, v[i]));
        }
    }
    print(p, "<circle class=\"best\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>", at_x(&a, (double)m->best_step),
          at_y(&a, m->best));
}

static void metrics(Page *p, const KdLogData *d) {
    if (d->n_evals == 0) {
        return;
    }
    raw(p, "<h2>Metrics on test pictures by step</h2><div class=\"curves\">");
    for (int k = 0; k < d->n_metrics; k++) {
        KdLogMetric m;
        if (!kd_log_metric(d, k, &m)) {
            continue;
        }
        raw(p, "<div class=\"card\"><h3>");
        escaped(p, d->metric[k]);
        print(p, "</h3><p>last %.4g, best %.4g (%s, step %" PRId64 "), mean of the last %d %.4g</p>", m.last, m.best,
              m.more_is_better ? "highest" : "lowest", m.best_step, m.of, m.mean);
        print(p, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", W, H);
        escaped(p, d->metric[k]);
        raw(p, " by step\">");
        metric_curve(p, d, k, &m);
        raw(p, "</svg></div>");
    }
    raw(p, "</div>");
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
static void sample(Page *p, const char *folder, int64_t step, size_t *left) {
    char path[4096];
    size_t n;
    KdTrouble t;
    snprintf(path, sizeof path, "%s/samples/%06" PRId64 ".png", folder, step);
    char *png = kd_file_read(path, &n, &t);
    bool fits = png && n <= *left;
    if (fits) {
        *left -= n;
        print(p, "<figure><figcaption>step %" PRId64 "</figcaption><div class=\"wide\"><img alt=\"samples of step %" PRId64
                 "\" src=\"data:image/png;base64,", step, step);
        base64(p, (const unsigned char *)png, n);
        raw(p, "\"></div></figure>");
    }
    free(png);
}

/* The newest large, whatever its size; then the oldest and some evenly between, as far as the page stays below some 10 MB. */
static void samples(Page *p, const char *folder) {
    enum { MOST = 12 };
    size_t any = SIZE_MAX, left = 7 << 20; /* base64 makes four bytes of three */
    int n;
    int64_t *step = list_samples(folder, &n);
    if (n) {
        raw(p, "<h2>Samples</h2><div class=\"latest\">");
        sample(p, folder, step[0], &any);
        raw(p, "</div>");
        left -= SIZE_MAX - any < left ? SIZE_MAX - any : left;
    }
    if (n > 1) {
        raw(p, "<div class=\"earlier\">");
        int shown = n - 1 < MOST ? n - 1 : MOST;
        for (int i = 0; i < shown; i++) {
            sample(p, folder, step[shown > 1 ? 1 + (int64_t)i * (n - 2) / (shown - 1) : n - 1], &left);
        }
        raw(p, "</div>");
    }
    free(step);
}

/* ---- the page --------------------------------------------------------------------------------------- */

static void tile(Page *p, const char *name, const char *value) {
    raw(p, "<div class=\"tile\"><b>");
    escaped(p, value);
    raw(p, "</b><span>");
    escaped(p, name);
    raw(p, "</span></div>");
}

static void tiles(Page *p, const KdLogData *d) {
    char text[64];
    int last = d->n_steps - 1;
    if (last < 0) {
        return;
    }
    raw(p, "<div class=\"tiles\">");
    snprintf(text, sizeof text, "%" PRId64, d->step[last]);
    tile(p, "steps", text);
    snprintf(text, sizeof text, "%" PRId64, d->epoch[last]);
    tile(p, "epoch", text);
    snprintf(text, sizeof text, "%.3g", d->rate[last]);
    tile(p, "images a second", text);
    tile(p, "from first to last step", kdc_duration(d->time[last] - d->time[0], text, sizeof text));
    snprintf(text, sizeof text, "%" PRId64 " MiB", kdc_peak_bytes() >> 20);
    tile(p, "peak memory", text);
    raw(p, "</div>");
}

static void pairs(Page *p, const char *title, const KdcReportPair *v, int n) {
    if (n == 0) {
        return;
    }
    print(p, "<h2>%s</h2><div class=\"card\"><table>", title);
    for (int i = 0; i < n; i++) {
        raw(p, "<tr><th>");
        escaped(p, v[i].key);
        raw(p, "</th><td>");
        escaped(p, v[i].value);
        raw(p, "</td></tr>");
    }
    raw(p, "</table></div>");
}

/* 1234567 as 1,234,567 */
static void grouped(int64_t v, char *text, size_t n) {
    char digits[32];
    int count = snprintf(digits, sizeof digits, "%" PRId64, v);
    size_t at = 0;
    for (int i = 0; i < count && at + 2 < n; i++) {
        if (i && (count - i) % 3 == 0) {
            text[at++] = ',';
        }
        text[at++] = digits[i];
    }
    text[at] = '\0';
}

static void networks(Page *p, const KdcReport *r) {
    bool macs = false;
    for (int i = 0; i < r->n_nets; i++) {
        macs = macs || r->net[i].macs >= 0;
    }
    print(p, "<h2>Networks</h2><div class=\"card\"><table><tr><th>name</th><th>what</th><th></th><th class=\"n\">parameters</th>%s</tr>",
          macs ? "<th class=\"n\">MACs</th>" : "");
    for (int i = 0; i < r->n_nets; i++) {
        char text[48];
        const KdcReportRow *row = &r->net[i];
        grouped(row->parameters, text, sizeof text);
        raw(p, "<tr><td>");
        escaped(p, row->name);
        raw(p, "</td><td>");
        escaped(p, row->what);
        print(p, "</td><td>%s</td><td class=\"n\">%s</td>", row->frozen ? "frozen" : "trained", text);
        if (macs) {
            snprintf(text, sizeof text, "%.4g G", row->macs / 1e9);
            print(p, "<td class=\"n\">%s</td>", row->macs >= 0 ? text : "");
        }
        raw(p, "</tr>");
    }
    raw(p, "</table></div>");
}

bool kdc_report_write(const KdcReport *r, KdTrouble *t) {
    char path[4096];
    KdLogData d;
    Page p = {0};
    snprintf(path, sizeof path, "%s/log.jsonl", r->folder);
    if (!kd_log_read(path, &d, t)) {
        return false;
    }
    raw(&p, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
            "content=\"width=device-width,initial-scale=1\"><title>");
    escaped(&p, r->title);
    raw(&p, "</title><style>");
    raw(&p, style);
    raw(&p, "</style></head><body><main><h1>");
    escaped(&p, r->title);
    raw(&p, "</h1><p class=\"state\">");
    escaped(&p, r->state);
    raw(&p, "</p>");
    tiles(&p, &d);
    metrics(&p, &d);
    curves(&p, &d);
    samples(&p, r->folder);
    if (r->n_nets) {
        networks(&p, r);
    }
    pairs(&p, "Plan", r->plan, r->n_plan);
    pairs(&p, "Settings", r->setting, r->n_settings);
    raw(&p, "</main></body></html>\n");
    snprintf(path, sizeof path, "%s/report.html", r->folder);
    bool ok = p.failed ? kd_trouble(t, true, "%s: out of memory", path) : kd_file_write(path, p.s, p.n, t);
    free(p.s);
    kd_log_data_free(&d);
    return ok;
}
