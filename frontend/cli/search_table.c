/* search_table.c: what kdc search prints: the best configuration, the front as text, Markdown, CSV
 * or JSON, and how it went. */
#include "frontend/cli/search.h"
#include "frontend/cli/page.h"
#include "frontend/cli/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *kdc_search_line(const KdcSearch *s, const KdcCandidate *x) {
    KdStr text = {.cx = s->p->cx};
    for (int i = 0; i < s->a->n_defines; i++) { /* what was fixed belongs to it */
        kd_str_printf(&text, "%s-D %s", i ? " " : "", kdc_cli_quoted(s->p->cx, s->a->defines[i]));
    }
    for (int k = 0; k < s->space.n_params; k++) {
        const char *one = kdc_space_define(&s->space, s->p->cx, k, x->pick);
        kd_str_printf(&text, "%s-D %s", text.n ? " " : "", kdc_cli_quoted(s->p->cx, one));
    }
    return text.s ? text.s : "";
}

/* ---- columns
 * ----------------------------------------------------------------------------------------------------
 */

typedef enum Column {
    COLUMN_METRIC,
    COLUMN_PREDICTED,
    COLUMN_MEASURED,
    COLUMN_MACS,
    COLUMN_PARAMS,
    COLUMN_PEAK,
    COLUMN_LAYERS,
    COLUMNS
} Column;

static double value_of(const KdcSearch *s, const KdcCandidate *x, Column c) {
    switch (c) {
    case COLUMN_METRIC:
        return kdc_search_value(s, x);
    case COLUMN_PREDICTED:
        return s->anchor * x->latency.predicted;
    case COLUMN_MEASURED:
        return s->anchor * (isnan(x->final) ? x->latency.measured : x->final);
    case COLUMN_MACS:
        return kdc_search_cost(s, x, KDC_COST_MACS);
    case COLUMN_PARAMS:
        return (double)x->parameters;
    case COLUMN_PEAK:
        return x->planned ? (double)x->peak : NAN;
    case COLUMN_LAYERS:
        return x->layers;
    case COLUMNS:
        break;
    }
    return NAN;
}

static const char *head_of(const KdcSearch *s, Column c, bool key) {
    switch (c) {
    case COLUMN_METRIC:
        return key ? kdc_metric_key(s->objective) : kdc_metric_name(s->objective);
    case COLUMN_PREDICTED:
        return key ? "latency_predicted_ms" : "predicted";
    case COLUMN_MEASURED:
        return key ? "latency_measured_ms" : "measured";
    case COLUMN_MACS:
        return key ? kd_format(s->p->cx, "macs_%s", s->budget.macs) : s->budget.macs;
    case COLUMN_PARAMS:
        return "parameters";
    case COLUMN_PEAK:
        return key ? "peak_bytes" : "peak";
    case COLUMN_LAYERS:
        return key ? "layer_bytes" : "layers";
    case COLUMNS:
        break;
    }
    return "";
}

static const char *cell_of(const KdcSearch *s, const KdcCandidate *x, Column c) {
    static const KdcCost costs[COLUMNS] = {
        [COLUMN_PREDICTED] = KDC_COST_LATENCY, [COLUMN_MEASURED] = KDC_COST_LATENCY,
        [COLUMN_MACS] = KDC_COST_MACS,         [COLUMN_PARAMS] = KDC_COST_PARAMS,
        [COLUMN_PEAK] = KDC_COST_MEMORY,       [COLUMN_LAYERS] = KDC_COST_MEMORY};
    double v = value_of(s, x, c);
    char text[64];
    if (c == COLUMN_METRIC) {
        return kd_format(s->p->cx,
                         s->objective == KDC_SSIM || s->objective == KDC_MIOU ? "%.4f"
                         : s->objective == KDC_FRECHET && fabs(v) < 10        ? "%.4g" /* how large: by the features */
                                                                              : "%.3f",
                         v);
    }
    if (c == COLUMN_PARAMS) {
        kdc_page_grouped(x->parameters, text, sizeof text);
        return kd_format(s->p->cx, "%s", text);
    }
    return kdc_cost_text(s->p->cx, costs[c], v);
}

/* Those that have a number in any row. */
static int columns_of(const KdcSearch *s, KdcCandidate *const *v, int n, Column *out) {
    int count = 0;
    for (int c = 0; c < COLUMNS; c++) {
        bool any = false;
        for (int i = 0; i < n; i++) {
            any = any || !isnan(value_of(s, v[i], (Column)c));
        }
        if (any) {
            out[count++] = (Column)c;
        }
    }
    return count;
}

/* ---- the front
 * ----------------------------------------------------------------------------------------------------
 */

static void print_aligned(const KdcSearch *s, FILE *out, KdcCandidate *const *v, int n) {
    Column column[COLUMNS];
    int count = columns_of(s, v, n, column), width[COLUMNS];
    for (int c = 0; c < count; c++) {
        width[c] = (int)strlen(head_of(s, column[c], false));
        for (int i = 0; i < n; i++) {
            int w = (int)strlen(cell_of(s, v[i], column[c]));
            width[c] = w > width[c] ? w : width[c];
        }
    }
    for (int i = -1; i < n; i++) {
        for (int c = 0; c < count; c++) {
            fprintf(out, "%*s  ", width[c],
                    i < 0 ? head_of(s, column[c], false) : cell_of(s, v[i], column[c]));
        }
        fprintf(out, "%s%s\n", i < 0 ? "configuration" : v[i]->key,
                i >= 0 && v[i] == s->best ? "  (best)" : "");
    }
}

static void print_markdown(const KdcSearch *s, KdcCandidate *const *v, int n) {
    Column column[COLUMNS];
    int count = columns_of(s, v, n, column);
    printf("| configuration |");
    for (int c = 0; c < count; c++) {
        printf(" %s |", head_of(s, column[c], false));
    }
    printf("\n|---|");
    for (int c = 0; c < count; c++) {
        printf("---:|");
    }
    for (int i = 0; i < n; i++) {
        printf("\n| `%s`%s |", v[i]->key, v[i] == s->best ? " (best)" : "");
        for (int c = 0; c < count; c++) {
            printf(" %s |", cell_of(s, v[i], column[c]));
        }
    }
    printf("\n");
}

static void put_quoted(const char *text) {
    printf("\"");
    for (; *text; text++) {
        printf(*text == '"' ? "\"\"" : "%c", *text);
    }
    printf("\"");
}

/* All configurations, best first, in plain numbers: milliseconds, multiply-accumulates, bytes. */
static void print_csv(const KdcSearch *s, KdcCandidate *const *front, int n_front) {
    KdcCandidate **v;
    Column column[COLUMNS];
    int n;
    kdc_search_sorted(s, &v, &n);
    int count = columns_of(s, v, n, column);
    printf("configuration,generation,front,best");
    for (int c = 0; c < count; c++) {
        printf(",%s", head_of(s, column[c], true));
    }
    for (int i = 0; i < n; i++) {
        bool on = false;
        for (int k = 0; k < n_front; k++) {
            on = on || front[k] == v[i];
        }
        printf("\n");
        put_quoted(v[i]->key);
        printf(",%d,%d,%d", v[i]->generation, on, v[i] == s->best);
        for (int c = 0; c < count; c++) {
            double x = value_of(s, v[i], column[c]) *
                       (column[c] == COLUMN_PREDICTED || column[c] == COLUMN_MEASURED ? 1e3 : 1);
            printf(isnan(x) ? "," : x == floor(x) && fabs(x) < 1e15 ? ",%.0f" : ",%.9g", x);
        }
    }
    printf("\n");
}

/* ---- how it went
 * ----------------------------------------------------------------------------------------------------
 */

KdcFreshSummary kdc_search_fresh(const KdcSearch *s) {
    enum { PARTS = 6 };
    KdcFreshSummary r = {0};
    double *v[PARTS];
    double *out[PARTS] = {&r.elaborate, &r.plan, &r.code, &r.compiled, &r.shared, &r.evaluate};
    int n[PARTS] = {0};
    for (int k = 0; k < PARTS; k++) {
        v[k] = KD_NEW_ARRAY(s->p->cx, double, s->all.n + 1);
    }
    for (int i = 0; i < s->all.n; i++) {
        const KdcFresh *f = &s->all.v[i]->fresh;
        double x[PARTS] = {f->elaborate, f->plan, f->from_cache ? NAN : f->code, f->from_cache ? NAN : f->whole,
                           f->from_cache ? f->whole : NAN, f->evaluate};
        r.n += !isnan(f->code);
        r.cached += !isnan(f->code) && f->from_cache;
        for (int k = 0; k < PARTS; k++) {
            if (!isnan(x[k])) {
                v[k][n[k]++] = x[k];
            }
        }
    }
    for (int k = 0; k < PARTS; k++) {
        *out[k] = kdc_median(v[k], n[k]);
    }
    return r;
}

static const char *seconds_text(KdContext *cx, double v) {
    return isnan(v) ? "-" : v < 1 ? kd_format(cx, "%.3g ms", 1e3 * v) : kd_format(cx, "%.3g s", v);
}

static void print_costs(const KdcSearch *s, FILE *out) {
    KdContext *cx = s->p->cx;
    const KdcCandidate *x = s->best;
    for (int k = 0; k < KDC_COSTS; k++) {
        double limit = s->budget.limit[k], v = kdc_search_cost(s, x, (KdcCost)k);
        if (isnan(limit)) {
            continue;
        }
        fprintf(out, "  %-15s %s of %s allowed (%.1f %%)\n", kdc_cost_name(s, (KdcCost)k),
                kdc_cost_text(cx, (KdcCost)k, v), kdc_cost_text(cx, (KdcCost)k, limit),
                100 * v / limit);
    }
    if (!isnan(x->final)) {
        double limit = s->budget.limit[KDC_COST_LATENCY],
               searched = kdc_search_cost(s, x, KDC_COST_LATENCY);
        double again = s->anchor * x->final;
        fprintf(out, "  %-15s %s: %.1f %% of what is allowed, %+.1f %% against what was %s\n",
                "measured again", kdc_cost_text(cx, KDC_COST_LATENCY, again), 100 * again / limit,
                100 * (again / searched - 1), s->predict ? "predicted" : "searched with");
        fprintf(out, "  %-15s %s in the low tenth of rounds, %s in the median\n", "by the clock",
                kdc_cost_text(cx, KDC_COST_LATENCY, x->clock[0]),
                kdc_cost_text(cx, KDC_COST_LATENCY, x->clock[1]));
    }
    if (isnan(s->budget.limit[KDC_COST_MACS])) {
        fprintf(out, "  %-15s %s\n", kdc_cost_name(s, KDC_COST_MACS), cell_of(s, x, COLUMN_MACS));
    }
    if (isnan(s->budget.limit[KDC_COST_PARAMS])) {
        fprintf(out, "  %-15s %s\n", "parameters", cell_of(s, x, COLUMN_PARAMS));
    }
}

/* What a configuration takes that has not been seen, from the file to its first picture. */
static void print_fresh(const KdcSearch *s, FILE *out) {
    KdContext *cx = s->p->cx;
    KdcFreshSummary f = kdc_search_fresh(s);
    if (!f.n) {
        return;
    }
    fprintf(out, "a new configuration took ");
    if (f.cached) {
        fprintf(out, "%s from the file to its first picture where others had its kernels (%d of %d)%s",
                seconds_text(cx, f.shared), f.cached, f.n, f.n > f.cached ? ", " : "");
    }
    if (f.n > f.cached) {
        fprintf(out, "%s where some had to be compiled (%s of it)", seconds_text(cx, f.compiled),
                seconds_text(cx, f.code));
    }
    fprintf(out, "; counting one %s", seconds_text(cx, f.elaborate));
    if (!isnan(f.plan)) {
        fprintf(out, ", planning it %s", seconds_text(cx, f.plan));
    }
    fprintf(out, "; %" PRId64 " pictures %s\n", s->pictures, seconds_text(cx, f.evaluate));
}

void kdc_search_summary(KdcSearch *s, FILE *out) {
    int valued = s->curve.n ? s->curve.v[s->curve.n - 1].valued : 0;
    char took[32];
    if (s->predict && s->check.n) {
        fprintf(out,
                "predictions: off by %.1f %% in the median and %.1f %% at most on %d "
                "configurations that were measured for that; %d "
                "kernels, of %d measured networks\n",
                100 * s->check.median, 100 * s->check.most, s->check.n,
                kdc_kernels_count(s->kernels), s->measured);
    }
    if (s->passed) {
        fprintf(out, "%d better configuration%s slower than the budget when measured again\n",
                s->passed, s->passed > 1 ? "s were" : " was");
    }
    print_fresh(s, out);
    fprintf(out, "%d configurations of %.6g in %s (%d draws; %d from the cache); %s\n", valued,
            s->space.size, kdc_duration(s->seconds + s->before, took, sizeof took), s->drawn,
            s->reused, s->ended ? s->ended : "");
    fprintf(out, "written: %s/search.json, search.html, front.png%s\n", s->folder,
            s->a->search.no_extract || !s->a->n_weights ? "" : ", best.safetensors");
}

static void print_text(KdcSearch *s, KdcCandidate *const *front, int n) {
    printf("best: %s %s, of %d pictures\n  %s\n", kdc_metric_name(s->objective),
           cell_of(s, s->best, COLUMN_METRIC), (int)s->pictures, kdc_search_line(s, s->best));
    print_costs(s, stdout);
    printf("\nfront, %s against %s:\n", kdc_metric_name(s->objective), kdc_cost_name(s, s->axis));
    print_aligned(s, stdout, front, n);
    if (!s->a->quiet) {
        printf("\n");
        kdc_search_summary(s, stdout);
    }
}

bool kdc_search_print(KdcSearch *s) {
    const char *format = s->a->json ? "json" : s->a->format ? s->a->format : "text";
    KdcCandidate **front;
    int n;
    kdc_search_front(s, s->axis, &front, &n);
    if (s->over && !s->a->quiet) {
        fprintf(stderr, "kdc: warning: none of the best configurations keeps the latency when "
                        "measured again: a search with a "
                        "smaller --latency finds one\n");
    }
    if (strcmp(format, "json") == 0) {
        json_t *o = kdc_state_json(s);
        char *text = json_dumps(o, JSON_INDENT(1));
        json_decref(o);
        bool ok = text && kdc_cli_write(s->p, NULL, text, strlen(text)) &&
                  kdc_cli_write(s->p, NULL, "\n", 1);
        free(text);
        return ok;
    }
    if (strcmp(format, "csv") == 0) {
        print_csv(s, front, n);
    } else if (strcmp(format, "markdown") == 0) {
        print_markdown(s, front, n);
    } else {
        print_text(s, front, n);
    }
    return true;
}
