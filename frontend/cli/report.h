/* report.h: what a person looks at while training and after: the progress line, sample grids, report.html.
 *
 * report.html is one self-contained page: no script is needed to read it, no network, no fonts; curves are SVG. It is
 * made anew from log.jsonl and samples/ each time, written atomically.
 */
#ifndef KDC_REPORT_H
#define KDC_REPORT_H

#include "frontend/cli/page.h"
#include "runtime/host/image.h"

#include <stdint.h>
#include <stdio.h>

/* ---- grids ------------------------------------------------------------------------------------------ */

typedef struct KdcShown { /* one column: a tensor that `show` names */
    const char *name;
    int n, channels, height, width; /* f32 [n, channels, h, w] in [-1, 1]; 1 or 3 channels; others: the first is shown */
    const float *data;
} KdcShown;
/* Columns side by side with their names above them, a row for each image of the batch; at most `rows` rows. */
bool kdc_sample_grid(const KdcShown *v, int n, int rows, KdImage *out, KdTrouble *t);

/* Text in the font of the names, cut at `width` pixels; (left, top) is its upper left corner. On RGB8. */
enum { KDC_GLYPH_WIDTH = 6, KDC_GLYPH_HEIGHT = 7 };
void kdc_put_text(KdImage *x, int left, int top, int width, const char *text);

/* ---- progress --------------------------------------------------------------------------------------- */

typedef struct KdcProgress {
    FILE *out;
    bool live;        /* a terminal: one line that is rewritten; else a whole line every `seconds` seconds */
    double seconds, last;
    int64_t first, total, images_per_step; /* steps: this run begins after `first`, ends at `total` */
    double start;
    double extra;              /* seconds that will go into something else than steps: evaluations */
    double mark, step_seconds; /* when the latest step ended; what recent ones took; 0: none yet */
} KdcProgress;
void kdc_progress_begin(KdcProgress *p, FILE *out, bool terminal, int64_t first, int64_t total, int64_t images_per_step);
/* "epoch 3  step 120/600  adv 0.312  rec 8.1  12.3 images/s  1:32 left  620 MiB"; value: recent means. */
void kdc_progress_step(KdcProgress *p, int64_t epoch, int64_t step, const char *const *name, const double *value, int n);
void kdc_progress_end(KdcProgress *p); /* leaves the line, so that messages begin on a new one */
int64_t kdc_resident_bytes(void), kdc_peak_bytes(void); /* of this process, now and at most; 0: unknown */
const char *kdc_duration(double seconds, char *text, size_t n); /* "1:32", "2:05:00" */

/* ---- the page --------------------------------------------------------------------------------------- */

typedef struct KdcReportRow { /* a network of the model table */
    const char *name, *what;
    bool frozen;
    int64_t parameters;
    double macs; /* of one application at the training size; < 0: not known */
} KdcReportRow;

typedef struct KdcReport {
    const char *title;      /* "distill_style.kd: distill_style" */
    const char *folder;     /* the run folder: log.jsonl, samples/ are read from there */
    const KdcReportRow *net;
    int n_nets;
    const KdcPagePair *plan; /* "time per step", "memory" and its parts, ... */
    int n_plan;
    const KdcPagePair *setting; /* arguments, params, seed, source hash, machine */
    int n_settings;
    const char *state; /* "running", "finished", "interrupted at step 120", "stopped: d_loss is NaN at step 7" */
} KdcReport;
bool kdc_report_write(const KdcReport *r, KdTrouble *t);

#endif
