/* compare_page.c: the page of kdc compare: latency and metrics against width (or, where rows differ in no number,
 * against MACs) as plots, and the table. */
#include "frontend/cli/compare.h"
#include "frontend/cli/page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SERIES = 6 };

static const char style[] =
    "<style>.s0{--c:#1f6feb}.s1{--c:#d1600f}.s2{--c:#1a8a4c}.s3{--c:#9a3fc4}.s4{--c:#c2255c}.s5{--c:#5b6570}"
    "@media(prefers-color-scheme:dark){.s0{--c:#6cb1ff}.s1{--c:#f0a35e}.s2{--c:#5fd08d}.s3{--c:#c89be8}.s4{--c:#f48fb1}"
    ".s5{--c:#aab4be}}"
    ".s0,.s1,.s2,.s3,.s4,.s5{color:var(--c)}.line{stroke:currentColor;stroke-width:2;fill:none;stroke-linejoin:round}"
    ".bar{stroke:currentColor;stroke-width:1.5;opacity:.55}.mark{fill:currentColor}"
    ".key{font-size:13px;margin-right:14px}"
    ".plots .card{max-width:560px}"
    "td.n small{color:var(--soft);display:block}.wide table{font-size:13.5px}.wide td,.wide th{padding-right:9px}"
    ".wide td:first-child{white-space:nowrap}</style>";

/* ---- what is plotted ---------------------------------------------------------------------------------- */

static double x_of(const KdcCompare *c, int row) {
    return c->width ? c->row[row].width : c->row[row].macs.t_in / 1e9;
}

static bool before(const KdcCompare *c, int row, int other) { /* what has no x is first: it is not shown */
    double x = x_of(c, row), y = x_of(c, other);
    return isnan(x) ? !isnan(y) : x < y;
}

/* Numbers of series, in order of first appearance; without a width all rows are one. */
static int series_of(const KdcCompare *c, int *number) {
    int n = 0;
    for (int i = 0; i < c->n; i++) {
        number[i] = c->width ? n : 0;
        for (int k = 0; k < i && c->width; k++) {
            if (strcmp(c->row[k].series, c->row[i].series) == 0) {
                number[i] = number[k];
            }
        }
        n = number[i] == n ? n + 1 : n;
    }
    return n;
}

typedef struct Plot {
    KdcCompare *c;
    const KdcColumn *k;
    const int *series, *order; /* order: rows by x */
    int n_series;
    KdcAxes axes;
} Plot;

static double middle(const Plot *p, int row) {
    return kdc_compare_value(p->c, p->k, row) / p->k->scale;
}

static double low(const Plot *p, int row) {
    return p->k->spread ? p->c->row[row].time[p->k->time].min / p->k->scale : middle(p, row);
}

static double high(const Plot *p, int row) {
    return p->k->spread ? p->c->row[row].time[p->k->time].max / p->k->scale : middle(p, row);
}

static bool shown(const Plot *p, int row) {
    return isfinite(x_of(p->c, row)) && isfinite(kdc_compare_value(p->c, p->k, row));
}

/* From zero, or for a metric around its values. false: nothing to show. A spike of one run does not flatten the rest:
 * bars may leave the plot above 1.3 times the largest median; an arrow ends those. */
static bool find_axes(Plot *p) {
    KdcAxes *a = &p->axes;
    double most = 0;
    *a = (KdcAxes){INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; i < p->c->n; i++) {
        if (shown(p, i)) {
            double x = x_of(p->c, i), v = middle(p, i);
            a->x0 = fmin(a->x0, x);
            a->x1 = fmax(a->x1, x);
            a->y0 = fmin(a->y0, low(p, i));
            a->y1 = fmax(a->y1, high(p, i));
            most = fmax(most, v);
        }
    }
    if (!(a->x0 <= a->x1)) {
        return false;
    }
    if (p->k->spread) {
        a->y0 = 0;
        a->y1 = fmin(a->y1, 1.3 * most) * 1.04;
    } else {
        double pad = a->y1 > a->y0 ? 0.1 * (a->y1 - a->y0) : fabs(a->y1) * 0.1 + 1e-6;
        a->y0 -= pad;
        a->y1 += pad;
    }
    double side = a->x1 > a->x0 ? 0.03 * (a->x1 - a->x0) : 1;
    a->x0 -= side;
    a->x1 += side;
    return true;
}

/* ---- drawing ---------------------------------------------------------------------------------------- */

/* The rows' own widths below, as far as there is room. */
static void draw_widths(KdcPage *page, const Plot *p) {
    double last = -INFINITY;
    for (int i = 0; i < p->c->n; i++) {
        int row = p->order[i];
        char text[32];
        double x = kdc_axes_x(&p->axes, x_of(p->c, row));
        snprintf(text, sizeof text, "%.4g", x_of(p->c, row));
        if (shown(p, row) && x - last > 5 + 6.5 * (double)strlen(text)) {
            kdc_page_print(page, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>", x, KDC_PLOT_H - 6, text);
            last = x;
        }
    }
}

static void draw_series(KdcPage *page, const Plot *p, int series) {
    const KdcAxes *a = &p->axes;
    bool pen = false;
    kdc_page_print(page, "<g class=\"s%d\" clip-path=\"url(#inside)\"><path class=\"line\" d=\"", series % SERIES);
    for (int i = 0; i < p->c->n; i++) {
        int row = p->order[i];
        if (p->series[row] == series && shown(p, row)) {
            kdc_page_print(page, "%c%.1f %.1f", pen ? 'L' : 'M', kdc_axes_x(a, x_of(p->c, row)),
                           kdc_axes_y(a, middle(p, row)));
            pen = true;
        }
    }
    kdc_page_raw(page, "\"/>");
    for (int i = 0; i < p->c->n; i++) {
        if (p->series[i] != series || !shown(p, i)) {
            continue;
        }
        double x = kdc_axes_x(a, x_of(p->c, i)), y = kdc_axes_y(a, middle(p, i));
        kdc_page_print(page, "<line class=\"bar\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", x, x,
                       kdc_axes_y(a, low(p, i)), kdc_axes_y(a, fmin(high(p, i), a->y1)));
        if (high(p, i) > a->y1) {
            kdc_page_print(page, "<path class=\"mark\" d=\"M%.1f %.1fl-3.5 6h7z\"><title>up to %.*f %s</title></path>", x,
                           kdc_axes_y(a, a->y1), p->k->digits, high(p, i), p->k->unit);
        }
        kdc_page_print(page, "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>", x, y);
        kdc_page_escaped(page, p->c->row[i].label);
        kdc_page_print(page, ": %s %s</title></circle>", kdc_compare_number(p->c, p->k, i), p->k->unit);
    }
    kdc_page_raw(page, "</g>");
}

static bool any_cut(const Plot *p) {
    bool cut = false;
    for (int i = 0; i < p->c->n; i++) {
        cut = cut || (shown(p, i) && high(p, i) > p->axes.y1);
    }
    return cut;
}

static void draw(KdcPage *page, Plot *p) {
    const KdcColumn *k = p->k;
    const char *what = k->spread ? kd_format(p->c->p->cx, "Latency on %s, %s", k->head, k->unit)
                                 : kd_format(p->c->p->cx, "%s%s%s", k->head, *k->unit ? ", " : "", k->unit);
    if (!find_axes(p)) {
        return;
    }
    kdc_page_raw(page, "<div class=\"card\"><h3>");
    kdc_page_escaped(page, what);
    kdc_page_raw(page, "</h3><p>against ");
    kdc_page_escaped(page, p->c->width ? p->c->width : "MACs (Tin, G)");
    kdc_page_raw(page, k->spread ? "; bars: least to most" : "");
    kdc_page_raw(page, any_cut(p) ? ", an arrow: more than is shown</p>" : "</p>");
    kdc_page_print(page, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", KDC_PLOT_W, KDC_PLOT_H);
    kdc_page_escaped(page, what);
    kdc_page_raw(page, "\">");
    kdc_page_levels(page, &p->axes);
    draw_widths(page, p);
    for (int s = 0; s < p->n_series; s++) {
        draw_series(page, p, s);
    }
    kdc_page_raw(page, "</svg></div>");
}

static void draw_all(KdcPage *page, KdcCompare *c, const KdcColumn *k, int n) {
    int *series = KD_NEW_ARRAY(c->p->cx, int, c->n + 1), *order = KD_NEW_ARRAY(c->p->cx, int, c->n + 1);
    Plot p = {.c = c, .series = series, .order = order, .n_series = series_of(c, series)};
    bool any = false;
    for (int i = 0; i < c->n; i++) {
        int at = i;
        for (; at > 0 && before(c, i, order[at - 1]); at--) {
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    for (int j = 0; j < n; j++) {
        any = any || k[j].spread || k[j].metric >= 0;
    }
    if (!any || c->n < 2) {
        return;
    }
    kdc_page_raw(page, "<svg width=\"0\" height=\"0\" style=\"position:absolute\"><clipPath id=\"inside\">");
    kdc_page_print(page, "<rect x=\"%d\" y=\"0\" width=\"%d\" height=\"%d\"/></clipPath></svg>", KDC_PLOT_LEFT - 4,
                   KDC_PLOT_COLUMNS + 8, KDC_PLOT_H - KDC_PLOT_BOTTOM + 4);
    if (p.n_series > 1) {
        kdc_page_raw(page, "<p>");
        for (int s = 0; s < p.n_series; s++) {
            int row = 0;
            for (; series[row] != s; row++) {
            }
            kdc_page_print(page, "<span class=\"key s%d\">&#9679; ", s % SERIES);
            kdc_page_escaped(page, c->row[row].series);
            kdc_page_raw(page, "</span>");
        }
        kdc_page_raw(page, "</p>");
    }
    kdc_page_raw(page, "<div class=\"curves plots\">");
    for (int j = 0; j < n; j++) {
        p.k = &k[j];
        if (k[j].spread || k[j].metric >= 0) {
            draw(page, &p);
        }
    }
    kdc_page_raw(page, "</div>");
}

/* ---- the table -------------------------------------------------------------------------------------- */

static void table(KdcPage *page, const KdcCompare *c, const KdcColumn *k, int n) {
    kdc_page_raw(page, "<h2>Networks</h2><div class=\"card wide\"><table><tr><th>network</th>");
    for (int j = 0; j < n; j++) {
        kdc_page_print(page, "<th class=\"n\">%s %s</th>", k[j].head, k[j].unit);
    }
    kdc_page_raw(page, "</tr>");
    for (int i = 0; i < c->n; i++) {
        kdc_page_raw(page, "<tr><td>");
        kdc_page_escaped(page, c->row[i].label);
        kdc_page_raw(page, "</td>");
        for (int j = 0; j < n; j++) {
            const char *spread = kdc_compare_spread(c, &k[j], i), *times = kdc_compare_times(c, &k[j], i);
            kdc_page_print(page, "<td class=\"n\">%s", kdc_compare_number(c, &k[j], i));
            if (*spread || *times) {
                kdc_page_print(page, "<small>%s%s%s</small>", times, *spread && *times ? ", " : "", spread);
            }
            kdc_page_raw(page, "</td>");
        }
        kdc_page_raw(page, "</tr>");
    }
    kdc_page_raw(page, "</table></div><p class=\"state\" style=\"margin-top:10px\">");
    kdc_page_escaped(page, kdc_compare_note(c));
    kdc_page_raw(page, "</p>");
}

static void settings(KdcPage *page, KdcCompare *c) {
    KdContext *cx = c->p->cx;
    KD_VEC(KdcPagePair) v = {0};
    kd_push(cx, &v, (KdcPagePair){"input", c->row[0].inputs});
    kd_push(cx, &v, (KdcPagePair){"processor", c->row[0].p->host.cpu});
    if (c->n_times) {
        kd_push(cx, &v, (KdcPagePair){"rounds", kd_format(cx, "%d, each over all networks", c->runs)});
    }
    for (int i = 0; i < c->a->n_defines; i++) {
        kd_push(cx, &v, (KdcPagePair){"-D", c->a->defines[i]});
    }
    for (int i = 0; i < c->n; i++) {
        for (int k = 0; k < c->row[i].a.n_weights; k++) {
            kd_push(cx, &v, (KdcPagePair){kd_format(cx, "weights of %s", c->row[i].label), c->row[i].a.weights[k]});
        }
    }
    kdc_page_pairs(page, "Settings", v.v, v.n);
}

bool kdc_compare_page(KdcCompare *c) {
    KdcPage page = {0};
    KdTrouble t;
    int n;
    const KdcColumn *k = kdc_compare_columns(c, &n);
    const char *title = kd_format(c->p->cx, "kdc compare: %d network%s", c->n, c->n == 1 ? "" : "s");
    kdc_page_begin(&page, title, kd_format(c->p->cx, "input %s", c->row[0].inputs));
    kdc_page_raw(&page, style);
    draw_all(&page, c, k, n);
    table(&page, c, k, n);
    settings(&page, c);
    kdc_page_end(&page);
    bool ok = page.failed ? kd_trouble(&t, true, "%s: out of memory", c->a->output)
                          : kd_file_write(c->a->output, page.s, page.n, &t);
    free(page.s);
    return ok || kdc_cli_trouble(c->p, &t);
}
