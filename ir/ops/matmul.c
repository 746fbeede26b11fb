/* matmul.c: x y for rank 2, or rank 3 with equal leading dims (torch.bmm); ta, tb transpose an operand first.
 * Its gradients are matmuls again, for all four cases without a transpose of their own. */
#include "ir/ops/ops.h"
#include "ir/ops/window.h"

#include <inttypes.h>

const KdType *infer_matmul(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const char *name = kd_op_info[op].name;
    const KdType *x = kd_vtype(b->f, in[0]), *y = kd_vtype(b->f, in[1]);
    const char *xs = kd_shape_text(b->cx, x), *ys = kd_shape_text(b->cx, y);
    for (int k = 0; k < 2; k++) {
        const KdType *t = k ? y : x;
        if (!kd_check_f32(b, op, t)) {
            return NULL;
        }
        if (attr[k].i != 0 && attr[k].i != 1) {
            kd_error(b->cx, b->loc, "%s: %s must be 0 or 1, got %" PRId64, name, k ? "tb" : "ta",
                     attr[k].i);
            return NULL;
        }
    }
    if (x->rank != y->rank || (x->rank != 2 && x->rank != 3)) {
        kd_error(b->cx, b->loc, "%s: expected two matrices or two batches of them, got %s and %s",
                 name, xs, ys);
        return NULL;
    }
    int r = x->rank;
    if (r == 3 && x->dim[0] != y->dim[0]) {
        kd_error(b->cx, b->loc, "%s: batch sizes differ: %s and %s", name, xs, ys);
        return NULL;
    }
    bool ta = attr[0].i, tb = attr[1].i;
    int64_t kx = x->dim[ta ? r - 2 : r - 1], ky = y->dim[tb ? r - 1 : r - 2];
    if (kx != ky) {
        kd_error(b->cx, b->loc,
                 "%s: the first operand %s%s has %" PRId64 " columns, the second %s%s has %" PRId64
                 " rows",
                 name, xs, ta ? " transposed" : "", kx, ys, tb ? " transposed" : "", ky);
        return NULL;
    }
    int64_t dim[3];
    dim[0] = x->dim[0];
    dim[r - 2] = x->dim[ta ? r - 1 : r - 2];
    dim[r - 1] = y->dim[tb ? r - 2 : r - 1];
    return kd_result_type(b, op, KD_F32, r, dim);
}

void grad_matmul(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    const KdNode *node = kd_node(b->f, n);
    KdValue x = node->in[0], y = node->in[1];
    bool ta = node->attr[0].i, tb = node->attr[1].i;
    gin[0] = ta ? kd_matmul(b, y, gy, tb, true) : kd_matmul(b, gy, y, false, !tb);
    gin[1] = tb ? kd_matmul(b, gy, x, true, ta) : kd_matmul(b, x, gy, !ta, false);
}

uint32_t elem_matmul(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]);
    int r = x->rank;
    bool ta = node->attr[0].i, tb = node->attr[1].i;
    KlValue init[1] = {kl_f32(b, 0)}, acc[1], k[1], xi[3], yi[3];
    KdNest nest;
    kd_nest_begin(b, &nest, 1, &x->dim[ta ? r - 2 : r - 1], k, 1, init, acc);
    xi[0] = yi[0] = idx[0];
    xi[ta ? r - 1 : r - 2] = idx[r - 2];
    xi[ta ? r - 2 : r - 1] = k[0];
    yi[tb ? r - 1 : r - 2] = k[0];
    yi[tb ? r - 2 : r - 1] = idx[r - 1];
    KlValue p = kl_op2(b, KL_OP_MUL, e->operand(e, n, 0, xi), e->operand(e, n, 1, yi));
    KlValue next[1] = {kl_op2(b, KL_OP_ADD, acc[0], p)};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

void eval_matmul(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    const KdType *x = kd_vtype(f, n->in[0]), *y = kd_vtype(f, n->in[1]);
    int r = x->rank;
    bool ta = n->attr[0].i, tb = n->attr[1].i;
    int64_t batch = r == 3 ? x->dim[0] : 1, rows = n->type->dim[r - 2], cols = n->type->dim[r - 1];
    int64_t depth = x->dim[ta ? r - 2 : r - 1], xw = x->dim[r - 1], yw = y->dim[r - 1];
    for (int64_t i = 0; i < batch; i++) {
        const double *a = in[0] + i * rows * depth, *c = in[1] + i * depth * cols;
        for (int64_t p = 0; p < rows; p++) {
            for (int64_t q = 0; q < cols; q++) {
                double s = 0;
                for (int64_t k = 0; k < depth; k++) {
                    s += (ta ? a[k * xw + p] : a[p * xw + k]) * (tb ? c[q * yw + k] : c[k * yw + q]);
                }
                *out++ = s;
            }
        }
    }
}
