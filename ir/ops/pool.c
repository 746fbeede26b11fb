/* pool.c: pool_sum, its adjoint, and the index of a window's maximum, over the last two dims.
 *
 * pool_sum adds a window, padding counting as zeros: average pooling of either kind is the prelude's division
 * by a constant count. max_pool_index gives h * W + w of PyTorch's winner, so that max pooling is a gather and its gradient
 * a scatter_add: the first of equal values wins, a NaN beats everything (the last one, as in PyTorch), padding never
 * wins. Output sizes round down (PyTorch's floor mode).
 */
#include "ir/ops/ops.h"
#include "ir/ops/window.h"

#include <inttypes.h>
#include <math.h>

static bool check_image(KdBuilder *b, KdOp op, const KdType *t) {
    const char *name = kd_op_info[op].name;
    if (!kd_check_f32(b, op, t)) {
        return false;
    }
    if (t->rank < 2) {
        kd_error(b->cx, b->loc, "%s: expected at least height and width, got %s", name,
                 kd_shape_text(b->cx, t));
        return false;
    }
    return true;
}

static bool check_attrs(KdBuilder *b, KdOp op, const KdAttr *attr) {
    return kd_window_ints(b, op, "kernel", attr[0].ints, 2, 1) &&
           kd_window_ints(b, op, "stride", attr[1].ints, 2, 1) &&
           kd_window_ints(b, op, "pad", attr[2].ints, 4, 0);
}

static KdWindow window_of(const KdAttr *attr) {
    return kd_window(attr[0].ints, attr[1].ints, attr[2].ints, NULL);
}

static const KdType *pooled(KdBuilder *b, KdOp op, const KdType *t, const KdWindow *w, KdDType d) {
    int64_t dim[KD_MAX_RANK];
    for (int i = 0; i < t->rank; i++) {
        dim[i] = t->dim[i];
    }
    for (int k = 0; k < 2; k++) {
        if (!kd_window_out(b, op, w, k, t->dim[t->rank - 2 + k], &dim[t->rank - 2 + k])) {
            return NULL;
        }
    }
    return kd_result_type(b, op, d, t->rank, dim);
}

const KdType *infer_pool_sum(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                             const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    if (!check_image(b, op, t) || !check_attrs(b, op, attr)) {
        return NULL;
    }
    KdWindow w = window_of(attr);
    return pooled(b, op, t, &w, KD_F32);
}

const KdType *infer_max_pool_index(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                   const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    if (!check_image(b, op, t) || !check_attrs(b, op, attr)) {
        return NULL;
    }
    KdWindow w = window_of(attr);
    for (int k = 0; k < 2; k++) {
        int64_t size = t->dim[t->rank - 2 + k];
        /* A window that saw padding only would have no maximum. */
        if (w.lo[k] >= w.kernel[k] || w.hi[k] >= w.kernel[k]) {
            kd_error(b->cx, b->loc,
                     "%s: padding %" PRId64 " and %" PRId64
                     " along the %s must be smaller than the kernel's %" PRId64,
                     kd_op_info[op].name, w.lo[k], w.hi[k], kd_axis_name[k], w.kernel[k]);
            return NULL;
        }
        if (size == 0) {
            kd_error(b->cx, b->loc, "%s: the %s of %s is 0", kd_op_info[op].name, kd_axis_name[k],
                     kd_shape_text(b->cx, t));
            return NULL;
        }
    }
    return pooled(b, op, t, &w, KD_I32);
}

const KdType *infer_pool_sum_grad(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                  const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    if (!check_image(b, op, t) || !check_attrs(b, op, attr) ||
        !kd_window_ints(b, op, "size", attr[3].ints, 2, 0)) {
        return NULL;
    }
    KdWindow w = window_of(attr);
    int64_t dim[KD_MAX_RANK];
    for (int i = 0; i < t->rank; i++) {
        dim[i] = t->dim[i];
    }
    for (int k = 0; k < 2; k++) {
        int64_t size = attr[3].ints.v[k], out, have = t->dim[t->rank - 2 + k];
        if (!kd_window_out(b, op, &w, k, size, &out)) {
            return NULL;
        }
        if (out != have) {
            kd_error(b->cx, b->loc,
                     "%s: the %s of the gradient is %" PRId64 ", pooling %" PRId64 " gives %" PRId64,
                     kd_op_info[op].name, kd_axis_name[k], have, size, out);
            return NULL;
        }
        dim[t->rank - 2 + k] = size;
    }
    return kd_result_type(b, op, KD_F32, t->rank, dim);
}

void grad_pool_sum(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    const KdNode *node = kd_node(b->f, n);
    const KdType *t = kd_vtype(b->f, node->in[0]);
    KdAttr attr[4] = {node->attr[0], node->attr[1], node->attr[2],
                      {.ints = kd_ints_new(b->cx, 2, &t->dim[t->rank - 2])}};
    gin[0] = kd_build(b, KD_OP_POOL_SUM_GRAD, NULL, &gy, 1, attr);
}

void grad_pool_sum_grad(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    const KdAttr *a = kd_node(b->f, n)->attr;
    KdAttr attr[3] = {a[0], a[1], a[2]};
    gin[0] = kd_build(b, KD_OP_POOL_SUM, NULL, &gy, 1, attr);
}

uint32_t elem_pool_sum(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    const KdNode *node = kd_node(e->f, n);
    const KdType *t = kd_vtype(e->f, node->in[0]);
    KdWindow w = window_of(node->attr);
    int r = t->rank;
    KlValue zero = kl_f32(b, 0), a[2], acc[1], at[KD_MAX_RANK], cond = KL_NONE;
    KdNest nest;
    for (int d = 0; d < r - 2; d++) {
        at[d] = idx[d];
    }
    kd_nest_begin(b, &nest, 2, w.kernel, a, 1, &zero, acc);
    for (int k = 0; k < 2; k++) {
        at[r - 2 + k] = kd_window_source(b, &w, k, idx[r - 2 + k], a[k]);
        cond = kd_guard_range(b, cond, at[r - 2 + k], t->dim[r - 2 + k]);
    }
    KlValue next[1] = {kl_op2(b, KL_OP_ADD, acc[0], kd_guarded(e, n, 0, at, cond, zero))};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

uint32_t elem_pool_sum_grad(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    const KdNode *node = kd_node(e->f, n);
    const KdType *t = kd_vtype(e->f, node->in[0]);
    KdWindow w = window_of(node->attr);
    int r = t->rank;
    KlValue zero = kl_f32(b, 0), a[2], acc[1], at[KD_MAX_RANK], cond = KL_NONE;
    KdNest nest;
    for (int d = 0; d < r - 2; d++) {
        at[d] = idx[d];
    }
    kd_nest_begin(b, &nest, 2, w.kernel, a, 1, &zero, acc);
    for (int k = 0; k < 2; k++) {
        at[r - 2 + k] =
            kd_window_target(b, &w, k, idx[r - 2 + k], a[k], t->dim[r - 2 + k], &cond);
    }
    KlValue next[1] = {kl_op2(b, KL_OP_ADD, acc[0], kd_guarded(e, n, 0, at, cond, zero))};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

uint32_t elem_max_pool_index(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    const KdNode *node = kd_node(e->f, n);
    const KdType *t = kd_vtype(e->f, node->in[0]);
    KdWindow w = window_of(node->attr);
    int r = t->rank;
    KlValue a[2], acc[2], at[KD_MAX_RANK], cond = KL_NONE, first[2];
    KlValue width = kl_i64(b, t->dim[r - 1]), low = kl_f32(b, -INFINITY);
    KdNest nest;
    for (int d = 0; d < r - 2; d++) {
        at[d] = idx[d];
    }
    for (int k = 0; k < 2; k++) { /* the first position inside: what wins when all are -inf */
        KlValue at0 = kd_window_source(b, &w, k, idx[r - 2 + k], kl_i64(b, 0));
        first[k] = kl_op2(b, KL_OP_MAX, at0, kl_i64(b, 0));
    }
    KlValue start = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, first[0], width), first[1]);
    KlValue init[2] = {low, kl_cvt(b, KL_I32, start)};
    kd_nest_begin(b, &nest, 2, w.kernel, a, 2, init, acc);
    for (int k = 0; k < 2; k++) {
        at[r - 2 + k] = kd_window_source(b, &w, k, idx[r - 2 + k], a[k]);
        cond = kd_guard_range(b, cond, at[r - 2 + k], t->dim[r - 2 + k]);
    }
    KlValue x = kd_guarded(e, n, 0, at, cond, low);
    KlValue win = kl_op2(b, KL_OP_OR, kl_cmp(b, KL_GT, x, acc[0]), kl_cmp(b, KL_NE, x, x));
    KlValue here = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, at[r - 2], width), at[r - 1]);
    KlValue next[2] = {kl_select(b, win, x, acc[0]),
                       kl_select(b, win, kl_cvt(b, KL_I32, here), acc[1])};
    kd_nest_end(b, &nest, next, acc);
    return acc[1];
}

/* ---- the reference ---------------------------------------------------------------------------- */

void eval_pool_sum(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    const KdType *t = kd_vtype(f, n->in[0]);
    KdWindow w = window_of(n->attr);
    int64_t h = t->dim[t->rank - 2], wd = t->dim[t->rank - 1];
    int64_t oh = n->type->dim[t->rank - 2], ow = n->type->dim[t->rank - 1];
    int64_t planes = n->type->count ? n->type->count / (oh * ow) : 0;
    for (int64_t c = 0; c < planes; c++) {
        for (int64_t p = 0; p < oh; p++) {
            for (int64_t q = 0; q < ow; q++) {
                double s = 0;
                for (int64_t y = p * w.stride[0] - w.lo[0], a = 0; a < w.kernel[0]; a++, y++) {
                    for (int64_t x = q * w.stride[1] - w.lo[1], k = 0; k < w.kernel[1]; k++, x++) {
                        s += y >= 0 && y < h && x >= 0 && x < wd ? in[0][(c * h + y) * wd + x] : 0;
                    }
                }
                *out++ = s;
            }
        }
    }
}

void eval_pool_sum_grad(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    const KdType *t = kd_vtype(f, n->in[0]);
    KdWindow w = window_of(n->attr);
    int64_t oh = t->dim[t->rank - 2], ow = t->dim[t->rank - 1];
    int64_t h = n->type->dim[t->rank - 2], wd = n->type->dim[t->rank - 1];
    int64_t planes = t->count ? t->count / (oh * ow) : 0;
    for (int64_t i = 0; i < n->type->count; i++) {
        out[i] = 0;
    }
    for (int64_t i = 0; i < planes * oh * ow; i++) {
        int64_t c = i / (oh * ow), p = i / ow % oh, q = i % ow;
        for (int64_t y = p * w.stride[0] - w.lo[0], a = 0; a < w.kernel[0]; a++, y++) {
            for (int64_t x = q * w.stride[1] - w.lo[1], k = 0; k < w.kernel[1]; k++, x++) {
                if (y >= 0 && y < h && x >= 0 && x < wd) {
                    out[(c * h + y) * wd + x] += in[0][i];
                }
            }
        }
    }
}

void eval_max_pool_index(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    const KdType *t = kd_vtype(f, n->in[0]);
    KdWindow w = window_of(n->attr);
    int64_t h = t->dim[t->rank - 2], wd = t->dim[t->rank - 1];
    int64_t oh = n->type->dim[t->rank - 2], ow = n->type->dim[t->rank - 1];
    for (int64_t i = 0; i < n->type->count; i++) {
        const double *plane = in[0] + i / (oh * ow) * h * wd;
        int64_t y0 = i / ow % oh * w.stride[0] - w.lo[0], x0 = i % ow * w.stride[1] - w.lo[1];
        int64_t best = -1;
        for (int64_t y = y0 < 0 ? 0 : y0; y < y0 + w.kernel[0] && y < h; y++) {
            for (int64_t x = x0 < 0 ? 0 : x0; x < x0 + w.kernel[1] && x < wd; x++) {
                double v = plane[y * wd + x];
                if (best < 0 || v > plane[best] || isnan(v)) {
                    best = y * wd + x;
                }
            }
        }
        out[i] = (double)best;
    }
}
