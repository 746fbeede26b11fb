/* simplify.h: what the builder tries before it makes a node. Private to ir/. */
#ifndef KD_SIMPLIFY_H
#define KD_SIMPLIFY_H

#include "ir/ir.h"

/* An existing or simpler value equal to the node that would be made, or KD_NONE. `type` is its inferred type. */
KdValue kd_simplify(KdBuilder *b, KdOp op, const KdType *type, const KdValue *in, int n_in, const KdAttr *attr);

#endif
