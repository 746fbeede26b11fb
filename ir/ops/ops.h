/* ops.h: the rules that the rows of ops.def name, declared from those rows. A rule that is named but not written
 * does not link; `none` is written in ir/ops.c. */
#ifndef KD_OPS_H
#define KD_OPS_H

#include "ir/elem.h"

#define OP(id, spelling, n_in, cls, infer, grad, elem, eval, flags, attrs)                         \
    KdInferFn infer_##infer;                                                                       \
    KdGradFn grad_##grad;                                                                          \
    KdElemFn elem_##elem;                                                                          \
    KdEvalFn eval_##eval;
#include "ir/ops.def"
#undef OP

#endif
