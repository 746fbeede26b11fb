/* move_elem.c: the element rules of the index ops: from where does the element at idx come?
 *
 * Every rule is arithmetic on indices that folds where the range of idx is known (the interior of a
 * padded tensor has no border left in its code). Reads that may fall outside are guarded
 * (operand_if). The adjoints of borders and of nearest resampling add up the few positions that a
 * source element went to, in a fixed order.
 */
#include "ir/ops/ops.h"
#include "ir/ops/window.h"

static KlValue constant(KdElem *e, KdValue n, double v) {
    KdDType d = kd_vtype(e->f, n)->dtype;
    return d == KD_F32 ? kl_f32(e->b, v) : kl_i32(e->b, (int32_t)kd_fit(d, v));
}

static KlValue add(KlBuilder *b, KlValue x, int64_t c) {
    return kl_op2(b, KL_OP_ADD, x, kl_i64(b, c));
}
static KlValue times(KlBuilder *b, KlValue x, int64_t c) {
    return kl_op2(b, KL_OP_MUL, x, kl_i64(b, c));
}
static KlValue over(KlBuilder *b, KlValue x, int64_t c) {
    return kl_op2(b, KL_OP_DIV, x, kl_i64(b, c));
}

/* and "x is a multiple of c" */
static KlValue guard_multiple(KlBuilder *b, KlValue cond, KlValue x, int64_t c) {
    if (c == 1) return cond;
    KlValue rest = kl_op2(b, KL_OP_REM, x, kl_i64(b, c));
    return kd_guard_and(b, cond, kl_cmp(b, KL_EQ, rest, kl_i64(b, 0)));
}

/* ---- pure renamings of indices --------------------------------------------------------------- */

uint32_t elem_reshape(KdElem *e, KdValue n, const uint32_t *idx) {
    return e->operand_linear(e, n, 0, kd_linear_index(e->b, kd_vtype(e->f, n), idx));
}

uint32_t elem_transpose(KdElem *e, KdValue n, const uint32_t *idx) {
    KdInts perm = kd_attr_ints(e->f, kd_node(e->f, n), "perm");
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < perm.n; d++) at[perm.v[d]] = idx[d];
    return e->operand(e, n, 0, at);
}

uint32_t elem_broadcast(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdType *x = kd_vtype(e->f, kd_node(e->f, n)->in[0]);
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < x->rank; d++) at[d] = x->dim[d] == 1 ? kl_i64(e->b, 0) : idx[d];
    return e->operand(e, n, 0, at);
}

uint32_t elem_slice(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    KdInts begin = kd_attr_ints(e->f, node, "begin"), step = kd_attr_ints(e->f, node, "step");
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < begin.n; d++) at[d] = add(e->b, times(e->b, idx[d], step.v[d]), begin.v[d]);
    return e->operand(e, n, 0, at);
}

uint32_t elem_pad(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]);
    KdInts lo = kd_attr_ints(e->f, node, "lo"), interior = kd_attr_ints(e->f, node, "interior");
    KlValue value = constant(e, n, kd_attr_float(e->f, node, "value"));
    if (x->count == 0) return value;
    KlValue at[KD_MAX_RANK + 1], cond = KL_NONE;
    for (int d = 0; d < x->rank; d++) {
        int64_t step = interior.v[d] + 1;
        KlValue i = add(e->b, idx[d], -lo.v[d]);
        cond = kd_guard_range(e->b, cond, i, (x->dim[d] - 1) * step + 1);
        cond = guard_multiple(e->b, cond, i, step);
        at[d] = over(e->b, i, step);
    }
    return kd_guarded(e, n, 0, at, cond, value);
}

uint32_t elem_concat(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    int64_t axis = kd_attr_int(e->f, node, "axis"), begin = 0, lo, hi;
    kl_range(e->b, idx[axis], &lo, &hi);
    KlValue at[KD_MAX_RANK + 1], v = constant(e, n, 0);
    for (int d = 0; d < node->type->rank; d++) at[d] = idx[d];
    for (int k = 0; k < node->n_in; k++) {
        int64_t size = kd_vtype(e->f, node->in[k])->dim[axis], end = begin + size;
        if (size > 0 && lo < end && hi >= begin) {
            at[axis] = add(e->b, idx[axis], -begin);
            KlValue cond = kd_guard_range(e->b, KL_NONE, at[axis], size);
            v = kd_guarded(e, n, k, at, cond, v);
        }
        begin = end;
    }
    return v;
}

/* ---- borders --------------------------------------------------------------------------------- */

uint32_t elem_pad_reflect(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]);
    KdInts border = kd_attr_ints(e->f, node, "lo");
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < x->rank; d++) {
        int64_t last = x->dim[d] - 1, lo, hi;
        KlValue i = add(e->b, idx[d], -border.v[d]);
        kl_range(e->b, i, &lo, &hi);
        if (lo < 0) i = kl_op1(e->b, KL_OP_ABS, i);
        if (hi > last) { /* min(i, 2 last - i) */
            KlValue mirrored = kl_op2(e->b, KL_OP_SUB, kl_i64(e->b, 2 * last), i);
            i = kl_op2(e->b, KL_OP_MIN, i, mirrored);
        }
        at[d] = i;
    }
    return e->operand(e, n, 0, at);
}

uint32_t elem_pad_replicate(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]);
    KdInts border = kd_attr_ints(e->f, node, "lo");
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < x->rank; d++) {
        KlValue i = kl_op2(e->b, KL_OP_MAX, add(e->b, idx[d], -border.v[d]), kl_i64(e->b, 0));
        at[d] = kl_op2(e->b, KL_OP_MIN, i, kl_i64(e->b, x->dim[d] - 1));
    }
    return e->operand(e, n, 0, at);
}

/* The sum over all combinations of places, dims d.. still open: an element at i of a dim was read
 * from lo + i, and, when it is at most `lo` from the first or `hi` from the last, once more from
 * either border. at and cond hold the choice for the dims before d. */
static KlValue reflect_sum(KdElem *e, KdValue n, int d, const KlValue *idx, KlValue *at, KlValue cond) {
    const KdNode *node = kd_node(e->f, n);
    if (d == node->type->rank) return kd_guarded(e, n, 0, at, cond, constant(e, n, 0));
    KlBuilder *b = e->b;
    int64_t border_lo = kd_attr_ints(e->f, node, "lo").v[d];
    int64_t border_hi = kd_attr_ints(e->f, node, "hi").v[d];
    int64_t last = node->type->dim[d] - 1, first_hi = last - border_hi, lo, hi;
    kl_range(b, idx[d], &lo, &hi);
    at[d] = add(b, idx[d], border_lo);
    KlValue sum = reflect_sum(e, n, d + 1, idx, at, cond);
    if (border_lo > 0 && hi >= 1 && lo <= border_lo) {
        KlValue near = kd_guard_range(b, cond, add(b, idx[d], -1), border_lo);
        at[d] = kl_op2(b, KL_OP_SUB, kl_i64(b, border_lo), idx[d]);
        sum = kl_op2(b, KL_OP_ADD, sum, reflect_sum(e, n, d + 1, idx, at, near));
    }
    if (border_hi > 0 && hi >= first_hi && lo < last) {
        KlValue near = kd_guard_range(b, cond, add(b, idx[d], -first_hi), border_hi);
        at[d] = kl_op2(b, KL_OP_SUB, kl_i64(b, border_lo + 2 * last), idx[d]);
        sum = kl_op2(b, KL_OP_ADD, sum, reflect_sum(e, n, d + 1, idx, at, near));
    }
    return sum;
}

uint32_t elem_pad_reflect_grad(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue at[KD_MAX_RANK + 1];
    return reflect_sum(e, n, 0, idx, at, KL_NONE);
}

/* A loop over begin <= i < end that adds up what `rest` gives for the dims after d. */
typedef KlValue RestFn(KdElem *e, KdValue n, int d, const KlValue *idx, KlValue *at, KlValue cond);

static KlValue sum_loop(KdElem *e, KdValue n, int d, const KlValue *idx, KlValue *at, KlValue cond,
                        KlValue begin, KlValue end, KlValue offset, RestFn *rest) {
    KlValue acc[1] = {constant(e, n, 0)}, sum[1];
    KlFor l = kl_for_begin(e->b, begin, end, 1, 1, acc);
    at[d] = offset == KL_NONE ? l.i : kl_op2(e->b, KL_OP_ADD, offset, l.i);
    KlValue next[1] = {kl_op2(e->b, KL_OP_ADD, l.carried[0], rest(e, n, d + 1, idx, at, cond))};
    kl_for_end(e->b, &l, next, sum);
    return sum[0];
}

/* Likewise for replicated borders: the first and the last element of a dim were read from a whole
 * border. */
static KlValue replicate_sum(KdElem *e, KdValue n, int d, const KlValue *idx, KlValue *at, KlValue cond) {
    const KdNode *node = kd_node(e->f, n);
    if (d == node->type->rank) return kd_guarded(e, n, 0, at, cond, constant(e, n, 0));
    KlBuilder *b = e->b;
    int64_t border_lo = kd_attr_ints(e->f, node, "lo").v[d];
    int64_t border_hi = kd_attr_ints(e->f, node, "hi").v[d];
    int64_t last = node->type->dim[d] - 1, lo, hi;
    kl_range(b, idx[d], &lo, &hi);
    at[d] = add(b, idx[d], border_lo);
    bool first = border_lo > 0 && lo <= 0, final = border_hi > 0 && hi >= last;
    if (!first && !final) return replicate_sum(e, n, d + 1, idx, at, cond);
    KlValue begin = at[d], end = add(b, begin, 1);
    if (first) {
        KlValue is_first = kl_cmp(b, KL_EQ, idx[d], kl_i64(b, 0));
        begin = kl_select(b, is_first, kl_i64(b, 0), begin);
    }
    if (final) {
        KlValue is_last = kl_cmp(b, KL_EQ, idx[d], kl_i64(b, last));
        end = kl_select(b, is_last, kl_i64(b, border_lo + last + 1 + border_hi), end);
    }
    return sum_loop(e, n, d, idx, at, cond, begin, end, KL_NONE, replicate_sum);
}

uint32_t elem_pad_replicate_grad(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue at[KD_MAX_RANK + 1];
    return replicate_sum(e, n, 0, idx, at, KL_NONE);
}

/* ---- nearest-neighbour resampling ------------------------------------------------------------ */

/* floor(i * in / out); a division by 1 or a factor that divides evenly is simpler, and its range
 * better known. */
static KlValue nearest(KlBuilder *b, KlValue i, int64_t in, int64_t out) {
    if (out % in == 0) return over(b, i, out / in);
    if (in % out == 0) return times(b, i, in / out);
    return over(b, times(b, i, in), out);
}

uint32_t elem_upsample_nearest(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]), *y = node->type;
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < x->rank; d++)
        at[d] = d < x->rank - 2 ? idx[d] : nearest(e->b, idx[d], x->dim[d], y->dim[d]);
    return e->operand(e, n, 0, at);
}

/* The places p with floor(p * small / large) = i are ceil(i * large / small) <= p < ceil((i + 1) *
 * large / small). */
static KlValue nearest_sum(KdElem *e, KdValue n, int d, const KlValue *idx, KlValue *at, KlValue cond) {
    const KdNode *node = kd_node(e->f, n);
    KlBuilder *b = e->b;
    int rank = node->type->rank;
    if (d == rank) return kd_guarded(e, n, 0, at, cond, constant(e, n, 0));
    int64_t small = node->type->dim[d], large = kd_vtype(e->f, node->in[0])->dim[d];
    if (d < rank - 2 || small == large) {
        at[d] = idx[d];
        return nearest_sum(e, n, d + 1, idx, at, cond);
    }
    if (large % small == 0) {
        KlValue base = times(b, idx[d], large / small);
        return sum_loop(e, n, d, idx, at, cond, kl_i64(b, 0), kl_i64(b, large / small), base,
                        nearest_sum);
    }
    if (small % large == 0) { /* every (small / large)-th element was read, once */
        at[d] = over(b, idx[d], small / large);
        return nearest_sum(e, n, d + 1, idx, at, guard_multiple(b, cond, idx[d], small / large));
    }
    KlValue begin = over(b, add(b, times(b, idx[d], large), small - 1), small);
    KlValue end = over(b, add(b, times(b, idx[d], large), large + small - 1), small);
    return sum_loop(e, n, d, idx, at, cond, begin, end, KL_NONE, nearest_sum);
}

uint32_t elem_upsample_nearest_grad(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue at[KD_MAX_RANK + 1];
    return nearest_sum(e, n, 0, idx, at, KL_NONE);
}

/* ---- gather, scatter_add, update_row --------------------------------------------------------- */

uint32_t elem_gather(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]);
    int64_t axis = kd_attr_int(e->f, node, "axis");
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < x->rank; d++) at[d] = idx[d];
    KlValue i = kl_cvt(e->b, KL_I64, e->operand(e, n, 1, idx));
    i = kl_op2(e->b, KL_OP_MAX, i, kl_i64(e->b, 0));
    at[axis] = kl_op2(e->b, KL_OP_MIN, i, kl_i64(e->b, x->dim[axis] - 1));
    return e->operand(e, n, 0, at);
}

uint32_t elem_scatter_add(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    const KdType *x = kd_vtype(e->f, node->in[0]);
    int64_t axis = kd_attr_int(e->f, node, "axis");
    KlValue at[KD_MAX_RANK + 1], zero = constant(e, n, 0), sum[1];
    for (int d = 0; d < x->rank; d++) at[d] = idx[d];
    KlValue target = kl_cvt(e->b, KL_I32, idx[axis]);
    KlFor l = kl_for_begin(e->b, kl_i64(e->b, 0), kl_i64(e->b, x->dim[axis]), 1, 1, &zero);
    at[axis] = l.i;
    KlValue here = kl_cmp(e->b, KL_EQ, e->operand(e, n, 1, at), target);
    KlValue next[1] = {
        kl_op2(e->b, KL_OP_ADD, l.carried[0], e->operand_if(e, n, 0, at, here, zero))};
    kl_for_end(e->b, &l, next, sum);
    return sum[0];
}

uint32_t elem_update_row(KdElem *e, KdValue n, const uint32_t *idx) {
    const KlValue none[1] = {KL_NONE};
    KlValue at[KD_MAX_RANK + 1];
    for (int d = 0; d < kd_vtype(e->f, n)->rank; d++) at[d] = idx[d];
    at[0] = kl_i64(e->b, 0);
    KlValue row = kl_cvt(e->b, KL_I64, e->operand(e, n, 2, none));
    KlValue here = kl_cmp(e->b, KL_EQ, idx[0], row);
    return e->operand_if(e, n, 1, at, here, e->operand(e, n, 0, idx));
}
