/* explain.h: which schedule each anchor of a function gets, and why: what --explain prints.
 *
 * Estimates are the cost model's own, of one core, and only good for comparing: see passes/schedule/schedule.def.
 */
#ifndef KD_EXPLAIN_H
#define KD_EXPLAIN_H

#include "passes/passes.h"

typedef struct KdConsidered {
    const char *schedule; /* as in schedule.def, or "generic" */
    double seconds;
} KdConsidered;

typedef struct KdExplained {
    KdOp op;
    const char *shape;    /* "[1, 3, 262, 262] x [64, 3, 7, 7] -> [1, 64, 256, 256]", then strides and the like */
    const char *place;    /* "resnet.kd:31:12" of the first of them, outside the prelude; "" where it has none */
    int count;            /* so many anchors are equal */
    const char *schedule; /* "generic": the element rule in plain loops; "streamed": see KdFusion.streamed */
    const char *plan;     /* its tile, how it cuts the work, what it packs; "" if it has nothing to say */
    const char *why;      /* "cheapest", "forced", "generic is cheaper", "no other applies", ... */
    double seconds;       /* the estimate; 0: none */
    KD_VEC(KdConsidered) others; /* that apply but were not taken, cheapest first */
} KdExplained;

typedef KD_VEC(KdExplained) KdExplanation;

/* All anchor groups of fu in order, equal ones once, then the products that are streamed or part of a pass over rows.
 * Lowers nothing. */
KdExplanation kd_schedule_explain(const KdFusion *fu, const KdPassOptions *o);

/* What KdPassOptions.schedule may be: the names of schedule.def, and "generic". */
const char *const *kd_schedule_names(int *n);

#endif
