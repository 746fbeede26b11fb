/* window.h: what pools, convolutions and reductions share: attribute checks, sizes, guarded loops.
 *
 * A window op has one kernel extent, stride, dilation and padding per spatial axis (0: height, 1: width);
 * pads come as top, left, bottom, right. Position p of the output looks at positions
 * p * stride - lo + a * dilation of the input for a in 0..kernel; what lies outside is padding.
 * Element rules open their loops with kd_nest_begin: plain loops with carried values, those of one
 * iteration left out.
 */
#ifndef KD_OPS_WINDOW_H
#define KD_OPS_WINDOW_H

#include "ir/elem.h"
#include "ir/ops/shape.h"

typedef struct KdWindow {
    int64_t kernel[2], stride[2], dilation[2], lo[2], hi[2];
} KdWindow;

/* `what` of op has exactly n integers, each in least .. 2^31-1; false after a diagnostic. */
bool kd_window_ints(KdBuilder *b, KdOp op, const char *what, KdInts v, int n, int64_t least);
KdWindow kd_window(KdInts kernel, KdInts stride, KdInts pad, const KdInts *dilation);
/* The extent (kernel - 1) * dilation + 1 of axis k; false after a diagnostic. */
bool kd_window_extent(KdBuilder *b, KdOp op, const KdWindow *w, int k, int64_t *extent);
/* Output size floor((size + lo + hi - extent) / stride) + 1, at least 1; false after a diagnostic. */
bool kd_window_out(KdBuilder *b, KdOp op, const KdWindow *w, int k, int64_t size, int64_t *out);
KdInts kd_ints_new(KdContext *cx, int n, const int64_t *v); /* copied into the arena */

extern const char *const kd_axis_name[2]; /* "height", "width" */

/* Up to 8 loops around one body, with up to 2 carried values. */
typedef struct KdNest {
    KlFor loop[8];
    bool open[8];
    int n, m;
} KdNest;
/* Opens loops over 0..len[k]; i[k] are their variables, acc[0..m) the carried values inside. */
void kd_nest_begin(KlBuilder *b, KdNest *t, int n, const int64_t *len, KlValue *i, int m,
                   const KlValue *init, KlValue *acc);
void kd_nest_end(KlBuilder *b, KdNest *t, const KlValue *next, KlValue *result);

/* Conditions; KL_NONE means "always". */
KlValue kd_guard_and(KlBuilder *b, KlValue cond, KlValue also);
KlValue kd_guard_range(KlBuilder *b, KlValue cond, KlValue v, int64_t n); /* and 0 <= v < n */
KlValue kd_guarded(KdElem *e, KdValue n, int k, const KlValue *idx, KlValue cond, KlValue els);

/* p * stride + a * dilation - lo along axis k: where output position p with offset a looks. */
KlValue kd_window_source(KlBuilder *b, const KdWindow *w, int k, KlValue p, KlValue a);
/* The other way: the output position that looks at `at` with offset a; *cond is and-ed with "there is one in 0..n". */
KlValue kd_window_target(KlBuilder *b, const KdWindow *w, int k, KlValue at, KlValue a, int64_t n, KlValue *cond);

#endif
