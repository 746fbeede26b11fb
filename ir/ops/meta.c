/* meta.c: result types of the ops that passes expand (grad, optimiser updates). They have no other
 * rules. */
#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

const KdType *infer_grad(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in, (void)attr;
    if (!kd_check_scalar(b, op, "loss", kd_vtype(b->f, in[0]), KD_F32)) return NULL;
    const KdType *t = kd_vtype(b->f, in[1]);
    return kd_check_f32(b, op, t) ? t : NULL;
}

/* (w, g, moments..., lr [, t]), part: which of the updated tensors. */
const KdType *infer_optimizer(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    int tensors = op == KD_OP_ADAM ? 4 : 3;
    const KdType *w = kd_vtype(b->f, in[0]);
    if (!kd_check_f32(b, op, w)) return NULL;
    for (int k = 1; k < tensors; k++)
        if (!kd_check_equal(b, op, w, kd_vtype(b->f, in[k]))) return NULL;
    for (int k = tensors; k < n_in; k++) {
        const char *what = k == tensors ? "learning rate" : "step number";
        if (!kd_check_scalar(b, op, what, kd_vtype(b->f, in[k]), KD_F32)) return NULL;
    }
    if (attr[0].i >= 0 && attr[0].i < tensors - 1) return w;
    kd_error(b->cx, b->loc, "%s: part must be in 0 .. %d, found %lld", kd_op_info[op].name,
             tensors - 2, (long long)attr[0].i);
    return NULL;
}
