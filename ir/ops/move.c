/* move.c: result types and gradients of the index ops: the same elements in other places.
 *
 * The gradient of a move is the opposite move: slice <-> pad with interior zeros, concat -> slices,
 * broadcast -> sum, gather <-> scatter_add, and the borders and enlargements come in pairs
 * (pad_reflect <-> pad_reflect_grad), so each is differentiable as often as one likes. Attributes
 * are refused here when they name nothing; sizes and offsets are held to 31 bits, so the index
 * arithmetic of the other rules cannot overflow.
 */
#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

/* ---- checks ---------------------------------------------------------------------------------- */

static const char *name_of(KdOp op) {
    return kd_op_info[op].name;
}

/* Every entry of v lies in least .. 2^31 - 1. */
static bool check_entries(KdBuilder *b, KdOp op, const char *what, KdInts v, const KdType *t,
                          int64_t least) {
    if (!kd_check_ints(b, op, what, v, t->rank)) return false;
    for (int d = 0; d < v.n; d++) {
        if (v.v[d] >= least && v.v[d] <= INT32_MAX) continue;
        kd_error(b->cx, b->loc, "%s: %s along dimension %d must be in %lld .. %d, found %lld",
                 name_of(op), what, d, (long long)least, INT32_MAX, (long long)v.v[d]);
        return false;
    }
    return true;
}

static bool check_rank_equal(KdBuilder *b, KdOp op, const KdType *x, const KdType *y) {
    if (x->rank == y->rank) return true;
    kd_error(b->cx, b->loc, "%s: numbers of dimensions differ: %s and %s", name_of(op),
             kd_shape_text(b->cx, x), kd_shape_text(b->cx, y));
    return false;
}

static bool check_index(KdBuilder *b, KdOp op, const KdType *t) {
    if (t->dtype == KD_I32) return true;
    kd_error(b->cx, b->loc, "%s: the index must have i32 elements, found %s", name_of(op),
             kd_type_text(b->cx, t));
    return false;
}

/* Borders of pad_reflect (each smaller than the size) and pad_replicate (some to repeat). */
static bool check_border(KdBuilder *b, KdOp op, const KdType *t, int d, int64_t size, int64_t lo,
                         int64_t hi, bool reflect) {
    int64_t most = lo > hi ? lo : hi;
    if (most == 0 || (reflect ? most < size : size > 0)) return true;
    if (reflect)
        kd_error(b->cx, b->loc, "%s: a border of %lld needs a %s (dimension %d) of at least %lld, "
                 "found %lld", name_of(op), (long long)most, kd_dim_singular(t->rank, d), d,
                 (long long)most + 1, (long long)size);
    else
        kd_error(b->cx, b->loc, "%s: nothing to repeat along dimension %d", name_of(op), d);
    return false;
}

/* ---- reshape, transpose, broadcast ----------------------------------------------------------- */

const KdType *infer_reshape(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    const KdType *r = kd_result_type(b, op, t->dtype, attr[0].ints.n, attr[0].ints.v);
    if (!r || r->count == t->count) return r;
    kd_error(b->cx, b->loc, "reshape: %s has %lld elements, %s has %lld", kd_shape_text(b->cx, t),
             (long long)t->count, kd_shape_text(b->cx, r), (long long)r->count);
    return NULL;
}

void grad_reshape(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    const KdType *t = kd_vtype(b->f, kd_node(b->f, n)->in[0]);
    gin[0] = kd_reshape(b, gy, t->rank, t->dim);
}

const KdType *infer_transpose(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    KdInts perm = attr[0].ints;
    if (!kd_check_ints(b, op, "perm", perm, t->rank)) return NULL;
    int64_t dim[KD_MAX_RANK];
    unsigned seen = 0;
    for (int d = 0; d < t->rank; d++) {
        if (perm.v[d] < 0 || perm.v[d] >= t->rank || (seen >> perm.v[d] & 1)) {
            kd_error(b->cx, b->loc, "transpose: perm must name each of the %d dimensions of %s once",
                     t->rank, kd_shape_text(b->cx, t));
            return NULL;
        }
        seen |= 1u << perm.v[d];
        dim[d] = t->dim[perm.v[d]];
    }
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}

void grad_transpose(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdInts perm = kd_attr_ints(b->f, kd_node(b->f, n), "perm");
    int64_t inverse[KD_MAX_RANK];
    for (int d = 0; d < perm.n; d++) inverse[perm.v[d]] = d;
    gin[0] = kd_transpose(b, gy, inverse);
}

const KdType *infer_broadcast(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    KdInts shape = attr[0].ints;
    if (!kd_check_ints(b, op, "shape", shape, t->rank)) return NULL;
    for (int d = 0; d < t->rank; d++) {
        if (t->dim[d] == 1 || t->dim[d] == shape.v[d]) continue;
        kd_error(b->cx, b->loc, "broadcast: a %s (dimension %d) of %lld cannot be repeated to %lld",
                 kd_dim_singular(t->rank, d), d, (long long)t->dim[d], (long long)shape.v[d]);
        return NULL;
    }
    return kd_result_type(b, op, t->dtype, shape.n, shape.v);
}

void grad_broadcast(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = kd_sum_to(b, gy, kd_vtype(b->f, kd_node(b->f, n)->in[0]));
}

/* ---- slice, pad ------------------------------------------------------------------------------ */

const KdType *infer_slice(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    KdInts begin = attr[0].ints, end = attr[1].ints, step = attr[2].ints;
    if (!check_entries(b, op, "begin", begin, t, 0) || !check_entries(b, op, "end", end, t, 0) ||
        !check_entries(b, op, "step", step, t, 1))
        return NULL;
    int64_t dim[KD_MAX_RANK];
    for (int d = 0; d < t->rank; d++) {
        if (begin.v[d] > end.v[d] || end.v[d] > t->dim[d]) {
            kd_error(b->cx, b->loc, "slice: %lld..%lld is not inside the %s (dimension %d), 0..%lld",
                     (long long)begin.v[d], (long long)end.v[d], kd_dim_singular(t->rank, d), d,
                     (long long)t->dim[d]);
            return NULL;
        }
        dim[d] = (end.v[d] - begin.v[d] + step.v[d] - 1) / step.v[d];
    }
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}

void grad_slice(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdNode node = *kd_node(b->f, n);
    const KdType *x = kd_vtype(b->f, node.in[0]), *y = node.type;
    KdInts begin = node.attr[0].ints, step = node.attr[2].ints;
    int64_t hi[KD_MAX_RANK], interior[KD_MAX_RANK];
    for (int d = 0; d < x->rank; d++) {
        int64_t covered = y->dim[d] ? (y->dim[d] - 1) * step.v[d] + 1 : 0;
        interior[d] = step.v[d] - 1;
        hi[d] = x->dim[d] - begin.v[d] - covered;
    }
    gin[0] = kd_pad(b, gy, begin.v, hi, interior, 0);
}

/* size elements with `interior` more between each two */
static int64_t dilated(int64_t size, int64_t interior) {
    return size ? size + (size - 1) * interior : 0;
}

const KdType *infer_pad(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    KdInts lo = attr[0].ints, hi = attr[1].ints, interior = attr[2].ints;
    if (!check_entries(b, op, "lo", lo, t, -INT32_MAX) ||
        !check_entries(b, op, "hi", hi, t, -INT32_MAX) ||
        !check_entries(b, op, "interior", interior, t, 0))
        return NULL;
    int64_t dim[KD_MAX_RANK];
    for (int d = 0; d < t->rank; d++)
        dim[d] = lo.v[d] + dilated(t->dim[d], interior.v[d]) + hi.v[d];
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}

/* What was cropped is put back as zeros; then every (interior + 1)-th element is an operand's. */
void grad_pad(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdNode node = *kd_node(b->f, n);
    const KdType *x = kd_vtype(b->f, node.in[0]);
    KdInts lo = node.attr[0].ints, hi = node.attr[1].ints, interior = node.attr[2].ints;
    int64_t back_lo[KD_MAX_RANK], back_hi[KD_MAX_RANK], none[KD_MAX_RANK] = {0};
    int64_t begin[KD_MAX_RANK], end[KD_MAX_RANK], step[KD_MAX_RANK];
    bool cropped = false;
    for (int d = 0; d < x->rank; d++) {
        back_lo[d] = lo.v[d] < 0 ? -lo.v[d] : 0;
        back_hi[d] = hi.v[d] < 0 ? -hi.v[d] : 0;
        cropped |= back_lo[d] > 0 || back_hi[d] > 0;
        begin[d] = lo.v[d] > 0 ? lo.v[d] : 0;
        end[d] = begin[d] + dilated(x->dim[d], interior.v[d]);
        step[d] = interior.v[d] + 1;
        if (step[d] > INT32_MAX) step[d] = INT32_MAX; /* then there is one element at most */
    }
    if (cropped) gy = kd_pad(b, gy, back_lo, back_hi, none, 0);
    gin[0] = kd_slice(b, gy, begin, end, step);
}

/* ---- borders --------------------------------------------------------------------------------- */

/* sign 1: the borders are added; -1: they are folded back into what they surround. */
static const KdType *bordered(KdBuilder *b, KdOp op, const KdType *t, const KdAttr *attr, int sign,
                              bool reflect) {
    KdInts lo = attr[0].ints, hi = attr[1].ints;
    if (!check_entries(b, op, "lo", lo, t, 0) || !check_entries(b, op, "hi", hi, t, 0)) return NULL;
    int64_t dim[KD_MAX_RANK];
    for (int d = 0; d < t->rank; d++) {
        dim[d] = t->dim[d] + sign * (lo.v[d] + hi.v[d]);
        int64_t inner = sign > 0 ? t->dim[d] : dim[d];
        if (!check_border(b, op, t, d, inner, lo.v[d], hi.v[d], reflect)) return NULL;
    }
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}

const KdType *infer_pad_reflect(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                const KdAttr *attr) {
    (void)n_in;
    return bordered(b, op, kd_vtype(b->f, in[0]), attr, 1, true);
}

const KdType *infer_pad_replicate(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                  const KdAttr *attr) {
    (void)n_in;
    return bordered(b, op, kd_vtype(b->f, in[0]), attr, 1, false);
}

const KdType *infer_unpad(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    if (!kd_check_f32(b, op, t)) return NULL;
    return bordered(b, op, t, attr, -1, op == KD_OP_PAD_REFLECT_GRAD);
}

/* The op `opposite` with n's attributes, of the gradient. */
static void grad_opposite(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin, KdOp opposite) {
    const KdAttr *attr = kd_node(b->f, n)->attr;
    gin[0] = kd_build(b, opposite, NULL, &gy, 1, attr);
}

void grad_pad_reflect(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_opposite(b, n, gy, gin, KD_OP_PAD_REFLECT_GRAD);
}

void grad_pad_reflect_grad(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_opposite(b, n, gy, gin, KD_OP_PAD_REFLECT);
}

void grad_pad_replicate(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_opposite(b, n, gy, gin, KD_OP_PAD_REPLICATE_GRAD);
}

void grad_pad_replicate_grad(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_opposite(b, n, gy, gin, KD_OP_PAD_REPLICATE);
}

/* ---- concat ---------------------------------------------------------------------------------- */

const KdType *infer_concat(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    if (n_in < 1) {
        kd_error(b->cx, b->loc, "concat: nothing to put together");
        return NULL;
    }
    const KdType *t = kd_vtype(b->f, in[0]);
    if (!kd_check_axis(b, op, t, attr[0].i)) return NULL;
    int axis = (int)attr[0].i;
    int64_t size = t->dim[axis];
    for (int k = 1; k < n_in; k++) {
        const KdType *u = kd_vtype(b->f, in[k]);
        if (!check_rank_equal(b, op, t, u) || !kd_check_equal_but(b, op, t, u, axis)) return NULL;
        size += u->dim[axis]; /* at most 2^16 operands of less than 2^31 */
    }
    return kd_type_with_dim(b, op, t, axis, size);
}

void grad_concat(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdNode node = *kd_node(b->f, n);
    int64_t axis = node.attr[0].i, at = 0;
    int64_t begin[KD_MAX_RANK] = {0}, step[KD_MAX_RANK];
    for (int d = 0; d < KD_MAX_RANK; d++) step[d] = 1;
    for (int k = 0; k < node.n_in; k++) {
        const KdType *t = kd_vtype(b->f, node.in[k]);
        int64_t end[KD_MAX_RANK];
        for (int d = 0; d < t->rank; d++) end[d] = t->dim[d];
        begin[axis] = at;
        end[axis] = at += t->dim[axis];
        gin[k] = kd_slice(b, gy, begin, end, step);
    }
}

/* ---- nearest-neighbour resampling ------------------------------------------------------------ */

/* Both directions: t with its last two dims replaced by `size`; neither side may be empty. */
const KdType *infer_upsample_nearest(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                     const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    KdInts size = attr[0].ints;
    if (t->rank < 2) {
        kd_error(b->cx, b->loc, "%s: expected a height and a width, found %s", name_of(op),
                 kd_shape_text(b->cx, t));
        return NULL;
    }
    if (!kd_check_ints(b, op, "size", size, 2)) return NULL;
    int64_t dim[KD_MAX_RANK];
    for (int d = 0; d < t->rank; d++) dim[d] = d < t->rank - 2 ? t->dim[d] : size.v[d - t->rank + 2];
    for (int d = t->rank - 2; d < t->rank; d++) {
        if (dim[d] >= 1 && t->dim[d] >= 1) continue;
        kd_error(b->cx, b->loc, "%s: cannot resize a %s of %lld to %lld", name_of(op),
                 d == t->rank - 1 ? "width" : "height", (long long)t->dim[d], (long long)dim[d]);
        return NULL;
    }
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}

const KdType *infer_upsample_nearest_grad(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                          const KdAttr *attr) {
    if (!kd_check_f32(b, op, kd_vtype(b->f, in[0]))) return NULL;
    return infer_upsample_nearest(b, op, in, n_in, attr);
}

/* `opposite`, to the operand's height and width. */
static void grad_resample(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin, KdOp opposite) {
    const KdType *t = kd_vtype(b->f, kd_node(b->f, n)->in[0]);
    KdAttr size = {.ints = {2, t->dim + t->rank - 2}};
    gin[0] = kd_build(b, opposite, NULL, &gy, 1, &size);
}

void grad_upsample_nearest(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_resample(b, n, gy, gin, KD_OP_UPSAMPLE_NEAREST_GRAD);
}

void grad_upsample_nearest_grad(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_resample(b, n, gy, gin, KD_OP_UPSAMPLE_NEAREST);
}

/* ---- gather, scatter_add, update_row --------------------------------------------------------- */

const KdType *infer_gather(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]), *index = kd_vtype(b->f, in[1]);
    if (!check_index(b, op, index) || !check_rank_equal(b, op, t, index) ||
        !kd_check_axis(b, op, t, attr[0].i))
        return NULL;
    for (int d = 0; d < t->rank; d++) {
        if (d == attr[0].i ? t->dim[d] > 0 || index->count == 0 : index->dim[d] <= t->dim[d])
            continue;
        kd_error(b->cx, b->loc, "gather: the index %s reaches beyond %s along dimension %d",
                 kd_shape_text(b->cx, index), kd_shape_text(b->cx, t), d);
        return NULL;
    }
    return kd_result_type(b, op, t->dtype, index->rank, index->dim);
}

/* Where the index is smaller than the operand, the rest had no influence: zeros. */
void grad_gather(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdNode node = *kd_node(b->f, n);
    const KdType *x = kd_vtype(b->f, node.in[0]), *y = node.type;
    int64_t axis = node.attr[0].i, none[KD_MAX_RANK] = {0}, hi[KD_MAX_RANK];
    KdValue in[2] = {gy, node.in[1]};
    KdAttr attr[2] = {{.i = axis}, {.i = x->dim[axis]}};
    KdValue sum = kd_build(b, KD_OP_SCATTER_ADD, NULL, in, 2, attr);
    bool smaller = false;
    for (int d = 0; d < x->rank; d++) {
        hi[d] = d == axis ? 0 : x->dim[d] - y->dim[d];
        smaller |= hi[d] > 0;
    }
    gin[0] = smaller ? kd_pad(b, sum, none, hi, none, 0) : sum;
    gin[1] = KD_NONE;
}

const KdType *infer_scatter_add(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]), *index = kd_vtype(b->f, in[1]);
    if (!kd_check_not_u8(b, op, t) || !check_index(b, op, index)) return NULL;
    const KdType *shape = kd_result_type(b, op, KD_I32, t->rank, t->dim);
    if (!shape || !kd_check_equal(b, op, shape, index) || !kd_check_axis(b, op, t, attr[0].i))
        return NULL;
    if (attr[1].i < 1 && index->count > 0) {
        kd_error(b->cx, b->loc, "scatter_add: no room for %s along dimension %lld in a size of %lld",
                 kd_shape_text(b->cx, t), (long long)attr[0].i, (long long)attr[1].i);
        return NULL;
    }
    return kd_type_with_dim(b, op, t, (int)attr[0].i, attr[1].i);
}

void grad_scatter_add(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdNode node = *kd_node(b->f, n);
    KdValue in[2] = {gy, node.in[1]};
    gin[0] = kd_build(b, KD_OP_GATHER, NULL, in, 2, node.attr);
    gin[1] = KD_NONE;
}

const KdType *infer_update_row(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                               const KdAttr *attr) {
    (void)n_in, (void)attr;
    const KdType *pool = kd_vtype(b->f, in[0]);
    if (!kd_check_axis(b, op, pool, 0)) return NULL;
    const KdType *row = kd_type_with_dim(b, op, pool, 0, 1);
    if (!row || !kd_check_equal(b, op, row, kd_vtype(b->f, in[1])) ||
        !kd_check_scalar(b, op, "index", kd_vtype(b->f, in[2]), KD_I32))
        return NULL;
    return pool;
}
