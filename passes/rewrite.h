/* rewrite.h: the walk that every graph pass is: old nodes in order, new nodes through the builder. */
#ifndef KD_REWRITE_H
#define KD_REWRITE_H

#include "passes/passes.h"

/* The value that stands for node n of f_old in b->f, given its new operands; KD_NONE: the same node again. */
typedef KdValue KdRewriteFn(KdBuilder *b, const KdFunc *f_old, KdValue n, const KdValue *in, void *user);

/* A new function with f's inputs and outputs. keep: by old node, which to visit (NULL: all); inputs always are. */
KdFunc *kd_rewrite(const KdFunc *f, const bool *keep, KdRewriteFn *fn, void *user);

#endif
