/* page.h: what pages that a verb writes share: text that is escaped, the style, tables of pairs, axes of plots. A page is one file
 * that needs nothing but itself: no script, no network, no fonts; plots are SVG. */
#ifndef KDC_PAGE_H
#define KDC_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct KdcPage { /* begins as zeros; s is the caller's to free */
    char *s;
    size_t n, room;
    bool failed; /* out of memory: what follows is left out */
} KdcPage;

void kdc_page_put(KdcPage *p, const char *text, size_t n);
void kdc_page_raw(KdcPage *p, const char *text);
__attribute__((format(printf, 2, 3))) void kdc_page_print(KdcPage *p, const char *fmt, ...); /* at most 511 bytes */
void kdc_page_escaped(KdcPage *p, const char *text); /* all that comes from a user */
void kdc_page_grouped(int64_t v, char *text, size_t n); /* 1234567 as 1,234,567 */

void kdc_page_begin(KdcPage *p, const char *title, const char *state); /* up to the line under the heading */
void kdc_page_end(KdcPage *p);

typedef struct KdcPagePair { const char *key, *value; } KdcPagePair;
void kdc_page_pairs(KdcPage *p, const char *title, const KdcPagePair *v, int n); /* none: nothing */

/* A plot's frame, in units of its viewBox. */
enum {
    KDC_PLOT_W = 360, KDC_PLOT_H = 190, KDC_PLOT_LEFT = 46, KDC_PLOT_RIGHT = 10, KDC_PLOT_TOP = 8, KDC_PLOT_BOTTOM = 22,
    KDC_PLOT_COLUMNS = KDC_PLOT_W - KDC_PLOT_LEFT - KDC_PLOT_RIGHT,
};
typedef struct KdcAxes {
    double x0, x1, y0, y1;
} KdcAxes;
double kdc_axes_x(const KdcAxes *a, double x), kdc_axes_y(const KdcAxes *a, double y);
double kdc_axes_step(double range, int n); /* between about n marks: 1, 2 or 5 times a power of ten */
void kdc_page_levels(KdcPage *p, const KdcAxes *a); /* lines across and their numbers */
void kdc_page_ticks(KdcPage *p, const KdcAxes *a);  /* and whole numbers below */

#endif
