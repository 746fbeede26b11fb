/* wgrad.h: the shapes of conv2d_wgrad, shared by its schedules.
 *
 * gw[o, i, a, b] = sum over n, p, q of gy[n, o, p, q] * x[n, i, p * stride - pad + a * dilation,
 * ...], per group.
 */
#ifndef KD_SCHEDULE_WGRAD_H
#define KD_SCHEDULE_WGRAD_H

#include "passes/schedule/schedule.h"

typedef struct SchSpan {
    int64_t kernel, stride, dilation, pad, in, out, padded;
} SchSpan;

typedef struct SchWgrad {
    KdValue node;
    SchMachine machine;
    int64_t batch, groups, outputs, inputs; /* channels of a group */
    SchSpan y, x; /* padded: how much of the input is touched, borders included */
} SchWgrad;

bool sch_wgrad_shape(SchWgrad *w, const KdLower *l, KdValue root);

#endif
