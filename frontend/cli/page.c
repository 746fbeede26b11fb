/* page.c: see page.h. */
#include "frontend/cli/page.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
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

void kdc_page_put(KdcPage *p, const char *text, size_t n) {
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

void kdc_page_raw(KdcPage *p, const char *text) {
    kdc_page_put(p, text, strlen(text));
}

__attribute__((format(printf, 2, 3))) void kdc_page_print(KdcPage *p, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    kdc_page_raw(p, text);
}

void kdc_page_escaped(KdcPage *p, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            kdc_page_raw(p, "&lt;");
            break;
        case '>':
            kdc_page_raw(p, "&gt;");
            break;
        case '&':
            kdc_page_raw(p, "&amp;");
            break;
        case '"':
            kdc_page_raw(p, "&quot;");
            break;
        case '\'':
            kdc_page_raw(p, "&#39;");
            break;
        default:
            kdc_page_put(p, text, 1);
        }
    }
}

/* 1234567 as 1,234,567 */
void kdc_page_grouped(int64_t v, char *text, size_t n) {
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

void kdc_page_begin(KdcPage *p, const char *title, const char *state) {
    kdc_page_raw(p, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                    "content=\"width=device-width,initial-scale=1\"><title>");
    kdc_page_escaped(p, title);
    kdc_page_raw(p, "</title><style>");
    kdc_page_raw(p, style);
    kdc_page_raw(p, "</style></head><body><main><h1>");
    kdc_page_escaped(p, title);
    kdc_page_raw(p, "</h1><p class=\"state\">");
    kdc_page_escaped(p, state);
    kdc_page_raw(p, "</p>");
}

void kdc_page_end(KdcPage *p) {
    kdc_page_raw(p, "</main></body></html>\n");
}

void kdc_page_pairs(KdcPage *p, const char *title, const KdcPagePair *v, int n) {
    if (n == 0) {
        return;
    }
    kdc_page_print(p, "<h2>%s</h2><div class=\"card\"><table>", title);
    for (int i = 0; i < n; i++) {
        kdc_page_raw(p, "<tr><th>");
        kdc_page_escaped(p, v[i].key);
        kdc_page_raw(p, "</th><td>");
        kdc_page_escaped(p, v[i].value);
        kdc_page_raw(p, "</td></tr>");
    }
    kdc_page_raw(p, "</table></div>");
}

/* ---- plots ------------------------------------------------------------------------------------------- */

double kdc_axes_x(const KdcAxes *a, double x) {
    return KDC_PLOT_LEFT + (a->x1 > a->x0 ? (x - a->x0) / (a->x1 - a->x0) : 0.5) * KDC_PLOT_COLUMNS;
}

double kdc_axes_y(const KdcAxes *a, double y) {
    return KDC_PLOT_H - KDC_PLOT_BOTTOM -
           (a->y1 > a->y0 ? (y - a->y0) / (a->y1 - a->y0) : 0.5) * (KDC_PLOT_H - KDC_PLOT_TOP - KDC_PLOT_BOTTOM);
}

/* 1, 2 or 5 times a power of ten: about `n` of it in the range */
double kdc_axes_step(double range, int n) {
    double raw_step = range / n, power = pow(10, floor(log10(raw_step))), f = raw_step / power;
    return (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10) * power;
}

void kdc_page_levels(KdcPage *p, const KdcAxes *a) {
    double step = kdc_axes_step(a->y1 - a->y0, 4);
    for (double y = ceil(a->y0 / step) * step; y <= a->y1 + step * 1e-9; y += step) {
        double v = fabs(y) < step * 1e-6 ? 0 : y;
        kdc_page_print(p, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", KDC_PLOT_LEFT,
                       KDC_PLOT_W - KDC_PLOT_RIGHT, kdc_axes_y(a, y), kdc_axes_y(a, y));
        kdc_page_print(p, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>", KDC_PLOT_LEFT - 5,
                       kdc_axes_y(a, y) + 4, v);
    }
}

void kdc_page_ticks(KdcPage *p, const KdcAxes *a) {
    kdc_page_levels(p, a);
    double step = kdc_axes_step(a->x1 - a->x0 > 0 ? a->x1 - a->x0 : 1, 4);
    step = step < 1 ? 1 : step;
    for (double x = ceil(a->x0 / step) * step; x <= a->x1; x += step) {
        kdc_page_print(p, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%.8g</text>", kdc_axes_x(a, x),
                       KDC_PLOT_H - 6, kdc_axes_x(a, x) > KDC_PLOT_W - KDC_PLOT_RIGHT - 18 ? "end" : "middle", x);
    }
}
