/* compare.h: what the files of `kdc compare` share.
 *
 * cmd_compare.c     the verb: compiling, counting, rounds of timed runs, metrics
 * compare_rows.c    operands and --each as rows, their names, programs and weights
 * compare_table.c   text, Markdown, CSV, JSON
 * compare_page.c    the page: the table, latency and metrics against width
 */
#ifndef KDC_COMPARE_H
#define KDC_COMPARE_H

#include "frontend/cli/eval.h"
#include "frontend/cli/tensors.h"

typedef struct KdcSpread { /* seconds */
    double median, min, max;
} KdcSpread;

enum { KDC_COMPARE_TIMES = 2, KDC_COMPARE_ROWS = 256 };

/* A network with its params. Every row has a program of its own, since a param is the program's. */
typedef struct KdcCompareRow {
    const char *label;  /* "G_A[ngf=16]"; each row has another */
    const char *series; /* as it was given, without what --each adds and without the param that is the width */
    const char *file, *net, *param[32]; /* param: "ngf=16" */
    int n_params, operand;
    KdcArgs a; /* the command's, for this network alone */
    KdcWatch watch;
    KdcProgram *p; /* NULL: not opened, or closed */
    KdcRunnable *r;
    double width; /* NaN: none */
    const char *inputs;
    /* what is compared */
    int64_t parameters, weight_bytes, arena, packed;
    KdMacs macs;
    double layers; /* bytes */
    KdcSpread time[KDC_COMPARE_TIMES];
    double *seconds; /* of the rounds that run now */
    double metric[KDC_METRICS]; /* NaN: not measured */
} KdcCompareRow;

typedef struct KdcCompare {
    const KdcArgs *a;
    KdcProgram *p; /* an empty one: memory, and messages that are of no row */
    KdcCompareRow *row;
    int n, usage; /* usage: an exit code, or 0 */
    int n_times, threads[KDC_COMPARE_TIMES], runs;
    const char *width;           /* the param that rows differ in, "ngf"; NULL: none */
    bool measured[KDC_METRICS];  /* in any row */
    const char *set, *preprocess;
    int64_t pictures;
    uint64_t list;
} KdcCompare;

/* ---- compare_rows.c --------------------------------------------------------------------------------- */

bool kdc_compare_rows(KdcCompare *c); /* fills row and n. false after a message */
bool kdc_compare_open(KdcCompare *c, KdcCompareRow *row, int *code); /* its program */
void kdc_compare_widths(KdcCompare *c); /* of opened rows */

/* ---- compare_table.c -------------------------------------------------------------------------------- */

/* One quantity of all rows. value: in SI units (bytes, seconds); ratio: to the first row where less is better. */
typedef struct KdcColumn {
    const char *head, *key, *unit; /* "noT", "macs_noT", "G" */
    double scale;                  /* a printed number is value / scale */
    int digits;                    /* after the point; -1: a whole number in groups of three */
    bool ratio, spread;            /* to be printed */
    int time;                      /* of a spread: which */
    int metric;                    /* or -1 */
} KdcColumn;
const KdcColumn *kdc_compare_columns(KdcCompare *c, int *n);
double kdc_compare_value(const KdcCompare *c, const KdcColumn *k, int row); /* NaN: there is none */
/* first / this: 15.9 is 15.9 times less than the first row. NaN: there is none. */
double kdc_compare_ratio(const KdcCompare *c, const KdcColumn *k, int row);
/* Parts of a cell as texts in c->p's memory; "" where there is nothing. */
const char *kdc_compare_number(const KdcCompare *c, const KdcColumn *k, int row);
const char *kdc_compare_spread(const KdcCompare *c, const KdcColumn *k, int row);
const char *kdc_compare_times(const KdcCompare *c, const KdcColumn *k, int row); /* "15.90x" */
const char *kdc_compare_note(const KdcCompare *c); /* what was measured how: lines */

bool kdc_compare_print(KdcCompare *c); /* as --format says, to stdout */
bool kdc_compare_known_format(const char *name);

/* ---- compare_page.c --------------------------------------------------------------------------------- */

bool kdc_compare_page(KdcCompare *c); /* to --output */

#endif
