/* search_page.c: the page of kdc search (the configurations as points of metric against cost, the
 * front, the budget, the curve over generations, the front's table) and the same plot as a picture,
 * front.png. */
#include "frontend/cli/page.h"
#include "frontend/cli/report.h"
#include "frontend/cli/search.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char style[] = "<style>.point{fill:var(--raw)}.front{fill:var(--curve)}.line{stroke:"
                            "var(--curve);stroke-width:1.5;fill:none}"
                            ".mean{stroke:var(--raw);stroke-width:1.5;fill:none}.limit{stroke:#"
                            "c2255c;stroke-width:1.5;stroke-dasharray:4 3}"
                            "td code{white-space:normal;font-size:13px}</style>";

/* ---- what is plotted
 * ------------------------------------------------------------------------------------------- */

typedef struct Plot {
    const KdcSearch *s;
    KdcCost cost;
    double scale; /* of the numbers below: a cost / scale */
    const char *unit;
    KdcCandidate **all, **front;
    int n, n_front;
    KdcAxes axes;
} Plot;

static double x_of(const Plot *p, const KdcCandidate *x) {
    return kdc_search_cost(p->s, x, p->cost) / p->scale;
}

static bool shown(const Plot *p, const KdcCandidate *x) {
    return isfinite(x_of(p, x)) && isfinite(kdc_search_value(p->s, x));
}

static void find_scale(Plot *p, double most) {
    p->scale = p->cost == KDC_COST_LATENCY  ? 1e-3
               : p->cost == KDC_COST_MEMORY ? (most >= 1 << 20 ? 1 << 20 : 1024)
                                            : (most >= 1e9   ? 1e9
                                               : most >= 1e6 ? 1e6
                                                             : 1e3);
    p->unit = p->cost == KDC_COST_LATENCY  ? "ms"
              : p->cost == KDC_COST_MEMORY ? (most >= 1 << 20 ? "MiB" : "KiB")
                                           : (most >= 1e9   ? "G"
                                              : most >= 1e6 ? "M"
                                                            : "k");
}

/* Around all points and the budget; a far budget is left out. A few very bad configurations do not
 * flatten the rest: nothing below the worst tenth is shown where it is far away. false: fewer than
 * two points. */
static bool find_plot(const KdcSearch *s, KdcCost cost, Plot *p) {
    KdcAxes *a = &p->axes;
    double most = 0, limit = s->budget.limit[cost];
    int n = 0;
    *p = (Plot){.s = s, .cost = cost, .scale = 1};
    kdc_search_sorted(s, &p->all, &p->n);
    kdc_search_front(s, cost, &p->front, &p->n_front);
    *a = (KdcAxes){INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; i < p->n; i++) {
        most = shown(p, p->all[i]) ? fmax(most, x_of(p, p->all[i])) : most;
    }
    find_scale(p, most);
    int usual = p->n > 20 ? p->n * 9 / 10 : p->n;
    for (int i = 0; i < p->n; i++) {
        if (shown(p, p->all[i])) {
            double x = x_of(p, p->all[i]), y = kdc_search_value(s, p->all[i]);
            n++;
            a->x0 = fmin(a->x0, x);
            a->x1 = fmax(a->x1, x);
            if (i < usual || (i > 0 && fabs(y - kdc_search_value(s, p->all[0])) <
                                           2 * fabs(kdc_search_value(s, p->all[usual - 1]) -
                                                    kdc_search_value(s, p->all[0])))) {
                a->y0 = fmin(a->y0, y);
                a->y1 = fmax(a->y1, y);
            }
        }
    }
    if (n < 2) {
        return false;
    }
    if (limit / p->scale < a->x1 + (a->x1 - a->x0)) {
        a->x1 = fmax(a->x1, limit / p->scale);
    }
    double side = a->x1 > a->x0 ? 0.04 * (a->x1 - a->x0) : 0.1 * fabs(a->x1) + 1e-9;
    double pad = a->y1 > a->y0 ? 0.06 * (a->y1 - a->y0) : 0.1 * fabs(a->y1) + 1e-9;
    *a = (KdcAxes){a->x0 - side, a->x1 + side, a->y0 - pad, a->y1 + pad};
    return true;
}

static bool inside(const Plot *p, const KdcCandidate *x) {
    double y = kdc_search_value(p->s, x);
    return shown(p, x) && y >= p->axes.y0 && y <= p->axes.y1;
}

static double mark(double from, double step, int i) {
    double v = (ceil(from / step) + i) * step;
    return fabs(v) < step * 1e-6 ? 0 : v;
}

/* ---- the page
 * ----------------------------------------------------------------------------------------------------
 */

static const char *axis_name(const Plot *p) {
    return kd_format(p->s->p->cx, "%s, %s", kdc_cost_name(p->s, p->cost), p->unit);
}

static void begin_svg(KdcPage *page, const char *title, const char *under) {
    kdc_page_raw(page, "<div class=\"card\"><h3>");
    kdc_page_escaped(page, title);
    kdc_page_raw(page, "</h3><p>");
    kdc_page_escaped(page, under);
    kdc_page_print(page, "</p><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", KDC_PLOT_W,
                   KDC_PLOT_H);
    kdc_page_escaped(page, title);
    kdc_page_raw(page, "\">");
}

static void draw_points(KdcPage *page, const Plot *p) {
    const KdcAxes *a = &p->axes;
    double step = kdc_axes_step(a->x1 - a->x0, 4), limit = p->s->budget.limit[p->cost] / p->scale;
    for (int i = 0; mark(a->x0, step, i) <= a->x1; i++) {
        kdc_page_print(page, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>",
                       kdc_axes_x(a, mark(a->x0, step, i)), KDC_PLOT_H - 6, mark(a->x0, step, i));
    }
    if (limit >= a->x0 && limit <= a->x1) {
        kdc_page_print(page,
                       "<line class=\"limit\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" "
                       "y2=\"%d\"><title>budget %.4g %s</title></line>",
                       kdc_axes_x(a, limit), kdc_axes_x(a, limit), KDC_PLOT_TOP,
                       KDC_PLOT_H - KDC_PLOT_BOTTOM, limit, p->unit);
    }
    for (int i = p->n - 1; i >= 0; i--) {
        const KdcCandidate *x = p->all[i];
        if (inside(p, x)) {
            kdc_page_print(page, "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\"/>",
                           kdc_axes_x(a, x_of(p, x)), kdc_axes_y(a, kdc_search_value(p->s, x)));
        }
    }
}

static void draw_front(KdcPage *page, const Plot *p) {
    const KdcAxes *a = &p->axes;
    bool pen = false;
    kdc_page_raw(page, "<path class=\"line\" d=\"");
    for (int i = 0; i < p->n_front; i++) {
        if (inside(p, p->front[i])) {
            kdc_page_print(page, "%c%.1f %.1f", pen ? 'L' : 'M',
                           kdc_axes_x(a, x_of(p, p->front[i])),
                           kdc_axes_y(a, kdc_search_value(p->s, p->front[i])));
            pen = true;
        }
    }
    kdc_page_raw(page, "\"/>");
    for (int i = 0; i < p->n_front; i++) {
        const KdcCandidate *x = p->front[i];
        if (inside(p, x)) {
            kdc_page_print(page, "<circle class=\"front\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>",
                           kdc_axes_x(a, x_of(p, x)), kdc_axes_y(a, kdc_search_value(p->s, x)));
            kdc_page_escaped(page, x->key);
            kdc_page_print(page, ": %.6g, %.4g %s</title></circle>", kdc_search_value(p->s, x),
                           x_of(p, x), p->unit);
        }
    }
    if (p->s->best && inside(p, p->s->best)) {
        kdc_page_print(page, "<circle class=\"best\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"/>",
                       kdc_axes_x(a, x_of(p, p->s->best)),
                       kdc_axes_y(a, kdc_search_value(p->s, p->s->best)));
    }
}

static void draw_plot(KdcPage *page, const KdcSearch *s, KdcCost cost) {
    Plot p;
    if (!find_plot(s, cost, &p)) {
        return;
    }
    begin_svg(page,
              kd_format(s->p->cx, "%s against %s", kdc_metric_name(s->objective), axis_name(&p)),
              kd_format(s->p->cx, "%d configurations, the front, the best (ring)%s", p.n,
                        isnan(s->budget.limit[cost]) ? "" : ", the budget (dashed)"));
    kdc_page_levels(page, &p.axes);
    draw_points(page, &p);
    draw_front(page, &p);
    kdc_page_raw(page, "</svg></div>");
}

static void draw_line(KdcPage *page, const KdcSearch *s, const KdcAxes *a, bool best) {
    bool pen = false;
    kdc_page_print(page, "<path class=\"%s\" d=\"", best ? "line" : "mean");
    for (int i = 0; i < s->curve.n; i++) {
        double y = best ? s->curve.v[i].best : s->curve.v[i].mean;
        if (isfinite(y)) {
            kdc_page_print(page, "%c%.1f %.1f", pen ? 'L' : 'M', kdc_axes_x(a, i),
                           kdc_axes_y(a, y));
            pen = true;
        }
    }
    kdc_page_raw(page, "\"/>");
}

static void draw_curve(KdcPage *page, const KdcSearch *s) {
    KdcAxes a = {0, s->curve.n - 1, INFINITY, -INFINITY};
    for (int i = 0; i < s->curve.n; i++) {
        double v[2] = {s->curve.v[i].best, s->curve.v[i].mean};
        for (int k = 0; k < 2; k++) {
            a.y0 = isfinite(v[k]) ? fmin(a.y0, v[k]) : a.y0;
            a.y1 = isfinite(v[k]) ? fmax(a.y1, v[k]) : a.y1;
        }
    }
    if (s->curve.n < 2 || !(a.y0 <= a.y1)) {
        return;
    }
    double pad = a.y1 > a.y0 ? 0.06 * (a.y1 - a.y0) : 0.1 * fabs(a.y1) + 1e-9;
    a.y0 -= pad;
    a.y1 += pad;
    begin_svg(page, kd_format(s->p->cx, "%s over generations", kdc_metric_name(s->objective)),
              "the best so far, and the population's mean (lighter)");
    kdc_page_ticks(page, &a);
    draw_line(page, s, &a, false);
    draw_line(page, s, &a, true);
    kdc_page_raw(page, "</svg></div>");
}

static void tile(KdcPage *page, const char *value, const char *what) {
    kdc_page_raw(page, "<div class=\"tile\"><b>");
    kdc_page_escaped(page, value);
    kdc_page_raw(page, "</b><span>");
    kdc_page_escaped(page, what);
    kdc_page_raw(page, "</span></div>");
}

static void tiles(KdcPage *page, const KdcSearch *s) {
    KdContext *cx = s->p->cx;
    kdc_page_raw(page, "<div class=\"tiles\">");
    tile(page, kd_format(cx, "%.4g", kdc_search_value(s, s->best)), kdc_metric_name(s->objective));
    for (int k = 0; k < KDC_COSTS; k++) {
        double v = kdc_search_cost(s, s->best, (KdcCost)k), limit = s->budget.limit[k];
        if (!isnan(v)) {
            tile(page, kdc_cost_text(cx, (KdcCost)k, v),
                 isnan(limit) ? kdc_cost_name(s, (KdcCost)k)
                              : kd_format(cx, "%s of %s allowed", kdc_cost_name(s, (KdcCost)k),
                                          kdc_cost_text(cx, (KdcCost)k, limit)));
        }
    }
    if (!isnan(s->best->final)) {
        tile(page, kdc_cost_text(cx, KDC_COST_LATENCY, s->anchor * s->best->final),
             "measured again");
    }
    kdc_page_raw(page, "</div><p><code>");
    kdc_page_escaped(page, kdc_search_line(s, s->best));
    kdc_page_raw(page, "</code></p>");
}

static void front_table(KdcPage *page, const KdcSearch *s) {
    KdContext *cx = s->p->cx;
    KdcCandidate **front;
    int n;
    kdc_search_front(s, s->axis, &front, &n);
    kdc_page_raw(page, "<h2>The front</h2><div class=\"card "
                       "wide\"><table><tr><th>configuration</th><th class=\"n\">");
    kdc_page_escaped(page, kdc_metric_name(s->objective));
    kdc_page_raw(page, "</th>");
    for (int k = 0; k < KDC_COSTS; k++) {
        bool any = n > 0 && !isnan(kdc_search_cost(s, front[0], (KdcCost)k));
        if (any) {
            kdc_page_print(page, "<th class=\"n\">%s</th>", kdc_cost_name(s, (KdcCost)k));
        }
    }
    kdc_page_raw(page, "</tr>");
    for (int i = 0; i < n; i++) {
        kdc_page_raw(page, front[i] == s->best ? "<tr><td><b><code>" : "<tr><td><code>");
        kdc_page_escaped(page, front[i]->key);
        kdc_page_print(page, "</code>%s</td><td class=\"n\">%.5g</td>",
                       front[i] == s->best ? "</b>" : "", kdc_search_value(s, front[i]));
        for (int k = 0; k < KDC_COSTS; k++) {
            double v = kdc_search_cost(s, front[i], (KdcCost)k);
            if (!isnan(kdc_search_cost(s, front[0], (KdcCost)k))) {
                kdc_page_print(page, "<td class=\"n\">%s</td>", kdc_cost_text(cx, (KdcCost)k, v));
            }
        }
        kdc_page_raw(page, "</tr>");
    }
    kdc_page_raw(page, "</table></div>");
}

static void how_it_went(KdcPage *page, KdcSearch *s) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f) {
        kdc_search_summary(s, f);
        fclose(f);
    }
    kdc_page_raw(page, "<h2>How it went</h2><div class=\"card\">");
    for (char *line = text, *end; line && *line; line = end) {
        end = line + strcspn(line, "\n");
        end += *end == '\n' ? (*end = '\0', 1) : 0;
        kdc_page_raw(page, "<p>");
        kdc_page_escaped(page, line);
        kdc_page_raw(page, "</p>");
    }
    kdc_page_raw(page, "</div>");
    free(text);
}

static void settings(KdcPage *page, KdcSearch *s) {
    KdContext *cx = s->p->cx;
    KD_VEC(KdcPagePair) v = {0};
    kd_push(
        cx, &v,
        (KdcPagePair){"network", kd_format(cx, "%s of %s, %s", s->a->name, s->a->file, s->inputs)});
    kd_push(cx, &v,
            (KdcPagePair){"pictures", kd_format(cx, "%" PRId64 " of %s, %s", s->pictures, s->set,
                                                s->preprocess)});
    for (int i = 0; i < s->a->n_weights; i++) {
        kd_push(cx, &v, (KdcPagePair){"weights", s->a->weights[i]});
    }
    kd_push(cx, &v,
            (KdcPagePair){"space", kd_format(cx, "%d picks, %.6g configurations", s->space.n,
                                             s->space.size)});
    kd_push(cx, &v, (KdcPagePair){"seed", kd_format(cx, "%" PRIu64, s->a->seed)});
    kd_push(cx, &v,
            (KdcPagePair){"processor",
                          kd_format(cx, "%s, %d thread%s", s->p->host.cpu, (int)s->base.threads,
                                    s->base.threads == 1 ? "" : "s")});
    kdc_page_pairs(page, "Settings", v.v, v.n);
}

bool kdc_search_page(KdcSearch *s, const char *path) {
    KdcPage page = {0};
    KdTrouble t;
    kdc_page_begin(&page, kd_format(s->p->cx, "kdc search: %s", s->a->name),
                   kd_format(s->p->cx, "%d configurations of %.6g, on %d pictures of %s; costs at %s",
                             s->curve.v[s->curve.n - 1].valued, s->space.size, (int)s->pictures, s->set, s->inputs));
    kdc_page_raw(&page, style);
    tiles(&page, s);
    kdc_page_raw(&page, "<div class=\"curves\">");
    draw_plot(&page, s, s->axis);
    draw_curve(&page, s);
    for (int k = 0; k < KDC_COSTS; k++) {
        if ((KdcCost)k != s->axis) {
            draw_plot(&page, s, (KdcCost)k);
        }
    }
    kdc_page_raw(&page, "</div>");
    front_table(&page, s);
    how_it_went(&page, s);
    settings(&page, s);
    kdc_page_end(&page);
    bool ok = page.failed ? kd_trouble(&t, true, "%s: out of memory", path)
                          : kd_file_write(path, page.s, page.n, &t);
    free(page.s);
    return ok || kdc_cli_trouble(s->p, &t);
}

/* ---- the picture
 * -----------------------------------------------------------------------------------------------------
 */

enum { WIDTH = 720, HEIGHT = 420, LEFT = 64, RIGHT = 16, TOP = 30, BOTTOM = 40 };

static void put(KdImage *x, int left, int top, const uint8_t *rgb) {
    if (left >= 0 && left < x->width && top >= 0 && top < x->height) {
        memcpy((uint8_t *)x->samples + 3 * ((size_t)top * (size_t)x->width + (size_t)left), rgb, 3);
    }
}

static void disc(KdImage *x, double cx, double cy, double inner, double outer, const uint8_t *rgb) {
    for (int i = (int)(cy - outer); i <= (int)(cy + outer) + 1; i++) {
        for (int k = (int)(cx - outer); k <= (int)(cx + outer) + 1; k++) {
            double d = hypot(k - cx, i - cy);
            if (d <= outer && d >= inner) {
                put(x, k, i, rgb);
            }
        }
    }
}

static void segment(KdImage *x, double x0, double y0, double x1, double y1, int dash,
                    const uint8_t *rgb) {
    double length = hypot(x1 - x0, y1 - y0);
    for (int i = 0; i <= (int)length; i++) {
        if (!dash || i / dash % 2 == 0) {
            double at = length > 0 ? i / length : 0;
            disc(x, x0 + at * (x1 - x0), y0 + at * (y1 - y0), 0, 0.8, rgb);
        }
    }
}

static double left_of(const KdcAxes *a, double x) {
    return LEFT + (x - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}

static double top_of(const KdcAxes *a, double y) {
    return HEIGHT - BOTTOM - (y - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

static void label(KdImage *x, double middle, int top, const char *text) {
    int width = (int)strlen(text) * KDC_GLYPH_WIDTH;
    kdc_put_text(x, (int)(middle - width / 2.0), top, width + 1, text);
}

static void draw_frame(KdImage *x, const Plot *p) {
    static const uint8_t grid[3] = {217, 222, 228};
    const KdcAxes *a = &p->axes;
    char text[64];
    double step = kdc_axes_step(a->y1 - a->y0, 4);
    for (int i = 0; mark(a->y0, step, i) <= a->y1; i++) {
        double y = mark(a->y0, step, i);
        segment(x, LEFT, top_of(a, y), WIDTH - RIGHT, top_of(a, y), 0, grid);
        int n = snprintf(text, sizeof text, "%.4g", y);
        kdc_put_text(x, LEFT - 6 - n * KDC_GLYPH_WIDTH, (int)top_of(a, y) - KDC_GLYPH_HEIGHT / 2,
                     n * KDC_GLYPH_WIDTH + 1, text);
    }
    step = kdc_axes_step(a->x1 - a->x0, 4);
    for (int i = 0; mark(a->x0, step, i) <= a->x1; i++) {
        snprintf(text, sizeof text, "%.4g", mark(a->x0, step, i));
        label(x, left_of(a, mark(a->x0, step, i)), HEIGHT - BOTTOM + 8, text);
    }
    label(x, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14, axis_name(p));
    kdc_put_text(
        x, LEFT, 12, WIDTH - LEFT,
        kd_format(p->s->p->cx, "%s of %s", kdc_metric_name(p->s->objective), p->s->a->name));
}

bool kdc_search_picture(KdcSearch *s, const char *path) {
    static const uint8_t point[3] = {156, 194, 247}, curve[3] = {31, 111, 235},
                         ink[3] = {27, 31, 36}, red[3] = {194, 37, 92};
    Plot p;
    KdImage x = {0};
    KdTrouble t;
    if (!find_plot(s, s->axis, &p)) {
        return true; /* one point is no picture */
    }
    if (!kd_image_new(WIDTH, HEIGHT, 3, 8, &x, &t)) {
        return kdc_cli_trouble(s->p, &t);
    }
    memset(x.samples, 255, (size_t)3 * WIDTH * HEIGHT);
    const KdcAxes *a = &p.axes;
    double limit = s->budget.limit[s->axis] / p.scale;
    draw_frame(&x, &p);
    if (limit >= a->x0 && limit <= a->x1) {
        segment(&x, left_of(a, limit), TOP, left_of(a, limit), HEIGHT - BOTTOM, 5, red);
    }
    for (int i = p.n - 1; i >= 0; i--) {
        if (inside(&p, p.all[i])) {
            disc(&x, left_of(a, x_of(&p, p.all[i])), top_of(a, kdc_search_value(s, p.all[i])), 0,
                 2.5, point);
        }
    }
    for (int i = 0; i < p.n_front; i++) {
        double left = left_of(a, x_of(&p, p.front[i])),
               top = top_of(a, kdc_search_value(s, p.front[i]));
        if (inside(&p, p.front[i])) {
            disc(&x, left, top, 0, 4, curve);
            if (i > 0 && inside(&p, p.front[i - 1])) {
                segment(&x, left_of(a, x_of(&p, p.front[i - 1])),
                        top_of(a, kdc_search_value(s, p.front[i - 1])), left, top, 0, curve);
            }
        }
    }
    if (inside(&p, s->best)) {
        disc(&x, left_of(a, x_of(&p, s->best)), top_of(a, kdc_search_value(s, s->best)), 6, 7.5,
             ink);
    }
    bool ok = kd_png_write(path, &x, NULL, 0, &t);
    kd_image_free(&x);
    return ok || kdc_cli_trouble(s->p, &t);
}
