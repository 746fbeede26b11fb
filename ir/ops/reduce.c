/* reduce.c: sum, max, argmax, rank. Reduced dims stay, as 1.
 *
 * NaN is the greatest value everywhere here, as in PyTorch: max gives NaN, argmax its first place, rank 0.
 * Ties: max shares its gradient evenly (torch.amax), argmax and rank take the lowest index first.
 * The element rules are plain loops in index order; passes/lower.c has better ones for whole rows.
 */
#include "ir/ops/ops.h"
#include "ir/ops/window.h"

#include <inttypes.h>
#include <math.h>

static bool check_not_empty(KdBuilder *b, KdOp op, const KdType *t, int64_t axis) {
    if (t->dim[axis] == 0) {
        kd_error(b->cx, b->loc, "%s: dimension %" PRId64 " of %s is empty", kd_op_info[op].name,
                 axis, kd_shape_text(b->cx, t));
        return false;
    }
    return true;
}

const KdType *infer_reduce(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    KdInts axes = attr[0].ints;
    int64_t dim[KD_MAX_RANK];
    bool seen[KD_MAX_RANK] = {false};
    if (!kd_check_not_u8(b, op, t)) {
        return NULL;
    }
    for (int i = 0; i < t->rank; i++) {
        dim[i] = t->dim[i];
    }
    for (int i = 0; i < axes.n; i++) {
        int64_t a = axes.v[i];
        if (!kd_check_axis(b, op, t, a)) {
            return NULL;
        }
        if (seen[a]) {
            kd_error(b->cx, b->loc, "%s: dimension %" PRId64 " is named twice",
                     kd_op_info[op].name, a);
            return NULL;
        }
        if (op == KD_OP_MAX && !check_not_empty(b, op, t, a)) {
            return NULL;
        }
        seen[a] = true;
        dim[a] = 1;
    }
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}

void grad_sum(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    const KdType *t = kd_vtype(b->f, kd_node(b->f, n)->in[0]);
    gin[0] = t->dtype == KD_F32 ? kd_broadcast(b, gy, t->rank, t->dim) : KD_NONE;
}

void grad_max(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdValue x = kd_node(b->f, n)->in[0];
    const KdType *t = kd_vtype(b->f, x);
    if (t->dtype != KD_F32) {
        gin[0] = KD_NONE;
        return;
    }
    KdInts axes = kd_node(b->f, n)->attr[0].ints;
    KdValue hit = kd_binary(b, KD_OP_EQ, x, kd_broadcast(b, n, t->rank, t->dim));
    KdValue ties = kd_sum(b, hit, axes.n, axes.v);
    KdValue share = kd_binary(b, KD_OP_DIV, gy, ties);
    gin[0] = kd_binary(b, KD_OP_MUL, hit, kd_broadcast(b, share, t->rank, t->dim));
}

/* The loops of a reduction: over the axes in ascending order; idx is completed by their variables. */
static void open_axes(KdElem *e, KdValue n, const uint32_t *idx, KlValue *at, KdNest *nest, int m,
                      const KlValue *init, KlValue *acc) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *t = kd_vtype(e->f, node->in[0]);
    KdInts axes = node->attr[0].ints;
    int64_t len[KD_MAX_RANK] = {0}, where[KD_MAX_RANK];
    KlValue i[KD_MAX_RANK];
    int count = 0;
    for (int d = 0; d < t->rank; d++) {
        at[d] = idx[d];
        for (int k = 0; k < axes.n; k++) {
            if (axes.v[k] == d) {
                where[count] = d;
                len[count++] = t->dim[d];
            }
        }
    }
    kd_nest_begin(e->b, nest, count, len, i, m, init, acc);
    for (int k = 0; k < count; k++) {
        at[where[k]] = i[k];
    }
}

uint32_t elem_sum(KdElem *e, KdValue n, const uint32_t *idx) {
    KdNest nest;
    KlValue at[KD_MAX_RANK], acc[1];
    bool real = kd_vtype(e->f, n)->dtype == KD_F32;
    KlValue init[1] = {real ? kl_f32(e->b, 0) : kl_i32(e->b, 0)};
    open_axes(e, n, idx, at, &nest, 1, init, acc);
    KlValue next[1] = {kl_op2(e->b, KL_OP_ADD, acc[0], e->operand(e, n, 0, at))};
    kd_nest_end(e->b, &nest, next, acc);
    return acc[0];
}

/* i1: x comes before best in descending order with NaN first; equal values do not. */
static KlValue above(KlBuilder *b, bool real, KlValue x, KlValue best) {
    KlValue more = kl_cmp(b, KL_GT, x, best);
    if (!real) {
        return more;
    }
    KlValue nan = kl_op2(b, KL_OP_AND, kl_cmp(b, KL_NE, x, x), kl_cmp(b, KL_EQ, best, best));
    return kl_op2(b, KL_OP_OR, more, nan);
}

static KlValue lowest(KlBuilder *b, bool real) {
    return real ? kl_f32(b, -INFINITY) : kl_i32(b, INT32_MIN);
}

uint32_t elem_max(KdElem *e, KdValue n, const uint32_t *idx) {
    KdNest nest;
    KlValue at[KD_MAX_RANK], acc[1];
    bool real = kd_vtype(e->f, n)->dtype == KD_F32;
    KlValue init[1] = {lowest(e->b, real)};
    open_axes(e, n, idx, at, &nest, 1, init, acc);
    KlValue x = e->operand(e, n, 0, at);
    KlValue next[1] = {kl_select(e->b, above(e->b, real, x, acc[0]), x, acc[0])};
    kd_nest_end(e->b, &nest, next, acc);
    return acc[0];
}

/* Calls step(user, out index, operand's value) for each element of the operand of a reduction. */
static void walk_reduction(const KdFunc *f, const KdNode *n, const double *x,
                           void (*step)(double *out, double x), double *out) {
    const KdType *t = kd_vtype(f, n->in[0]);
    int64_t at[KD_MAX_RANK] = {0};
    for (int64_t i = 0; i < t->count; i++) {
        int64_t o = 0;
        for (int d = 0; d < t->rank; d++) {
            o = o * n->type->dim[d] + (n->type->dim[d] == 1 ? 0 : at[d]);
        }
        step(&out[o], x[i]);
        for (int d = t->rank - 1; d >= 0 && ++at[d] == t->dim[d]; d--) {
            at[d] = 0;
        }
    }
}

static void step_sum(double *out, double x) {
    *out += x;
}

static void step_sum_i32(double *out, double x) {
    *out = (double)(int32_t)((uint32_t)(int32_t)*out + (uint32_t)(int32_t)x);
}

static void step_max(double *out, double x) {
    if (x > *out || isnan(x)) {
        *out = x;
    }
}

void eval_sum(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    for (int64_t i = 0; i < n->type->count; i++) {
        out[i] = 0;
    }
    walk_reduction(f, n, in[0], n->type->dtype == KD_F32 ? step_sum : step_sum_i32, out);
}

void eval_max(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    for (int64_t i = 0; i < n->type->count; i++) {
        out[i] = -INFINITY;
    }
    walk_reduction(f, n, in[0], step_max, out);
}

/* ---- argmax, rank ----------------------------------------------------------------------------- */

const KdType *infer_argmax(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    int64_t axis = attr[0].i;
    if (!kd_check_not_u8(b, op, t) || !kd_check_axis(b, op, t, axis) ||
        !check_not_empty(b, op, t, axis)) {
        return NULL;
    }
    int64_t dim[KD_MAX_RANK];
    for (int i = 0; i < t->rank; i++) {
        dim[i] = i == axis ? 1 : t->dim[i];
    }
    return kd_result_type(b, op, KD_I32, t->rank, dim);
}

const KdType *infer_rank(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    if (!kd_check_not_u8(b, op, t) || !kd_check_axis(b, op, t, attr[0].i)) {
        return NULL;
    }
    return kd_result_type(b, op, KD_I32, t->rank, t->dim);
}

uint32_t elem_argmax(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    const KdNode *node = kd_node(e->f, n);
    const KdType *t = kd_vtype(e->f, node->in[0]);
    int64_t axis = node->attr[0].i;
    bool real = t->dtype == KD_F32;
    KlValue at[KD_MAX_RANK], i[1], acc[2];
    KlValue init[2] = {lowest(b, real), kl_i32(b, 0)};
    KdNest nest;
    for (int d = 0; d < t->rank; d++) {
        at[d] = idx[d];
    }
    kd_nest_begin(b, &nest, 1, &t->dim[axis], i, 2, init, acc);
    at[axis] = i[0];
    KlValue x = e->operand(e, n, 0, at);
    KlValue better = above(b, real, x, acc[0]);
    KlValue next[2] = {kl_select(b, better, x, acc[0]),
                       kl_select(b, better, kl_cvt(b, KL_I32, i[0]), acc[1])};
    kd_nest_end(b, &nest, next, acc);
    return acc[1];
}

uint32_t elem_rank(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    const KdNode *node = kd_node(e->f, n);
    const KdType *t = kd_vtype(e->f, node->in[0]);
    int64_t axis = node->attr[0].i;
    bool real = t->dtype == KD_F32;
    KlValue at[KD_MAX_RANK], j[1], acc[1], init[1] = {kl_i32(b, 0)};
    KdNest nest;
    for (int d = 0; d < t->rank; d++) {
        at[d] = idx[d];
    }
    KlValue me = e->operand(e, n, 0, at);
    kd_nest_begin(b, &nest, 1, &t->dim[axis], j, 1, init, acc);
    at[axis] = j[0];
    KlValue x = e->operand(e, n, 0, at);
    KlValue tie = kl_cmp(b, KL_EQ, x, me);
    if (real) { /* two NaNs tie */
        tie = kl_op2(b, KL_OP_OR, tie,
                     kl_op2(b, KL_OP_AND, kl_cmp(b, KL_NE, x, x), kl_cmp(b, KL_NE, me, me)));
    }
    KlValue first = kl_op2(b, KL_OP_AND, tie, kl_cmp(b, KL_LT, j[0], idx[axis]));
    KlValue before = kl_op2(b, KL_OP_OR, above(b, real, x, me), first);
    KlValue next[1] = {kl_op2(b, KL_OP_ADD, acc[0], kl_cvt(b, KL_I32, before))};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

/* An axis as (outer, length, inner): element i along it is at (outer * length + i) * inner + rest. */
static void split_axis(const KdType *t, int64_t axis, int64_t *outer, int64_t *len, int64_t *inner) {
    *outer = *inner = 1;
    *len = t->dim[axis];
    for (int d = 0; d < t->rank; d++) {
        if (d < axis) {
            *outer *= t->dim[d];
        } else if (d > axis) {
            *inner *= t->dim[d];
        }
    }
}

static bool greater(double a, double b) {
    return a > b || (isnan(a) && !isnan(b));
}

void eval_argmax(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    int64_t outer, len, inner;
    split_axis(kd_vtype(f, n->in[0]), n->attr[0].i, &outer, &len, &inner);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t r = 0; r < inner; r++) {
            const double *x = in[0] + o * len * inner + r;
            int64_t best = 0;
            for (int64_t i = 1; i < len; i++) {
                best = greater(x[i * inner], x[best * inner]) ? i : best;
            }
            out[o * inner + r] = (double)best;
        }
    }
}

void eval_rank(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    int64_t outer, len, inner;
    split_axis(kd_vtype(f, n->in[0]), n->attr[0].i, &outer, &len, &inner);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t r = 0; r < inner; r++) {
            const double *x = in[0] + o * len * inner + r;
            for (int64_t i = 0; i < len; i++) {
                int64_t place = 0;
                for (int64_t j = 0; j < len; j++) {
                    double a = x[j * inner], c = x[i * inner];
                    place += greater(a, c) || (!greater(c, a) && j < i);
                }
                out[(o * len + i) * inner + r] = (double)place;
            }
        }
    }
}
