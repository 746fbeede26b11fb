/* shape.c: see shape.h. */
#include "ir/ops/shape.h"

const char *kd_dim_plural(int rank, int d) {
    static const char *const words[4] = {"batch sizes", "channels", "heights", "widths"};
    return rank == 4 && d >= 0 && d < 4 ? words[d] : "sizes";
}

const char *kd_dim_singular(int rank, int d) {
    static const char *const words[4] = {"batch size", "number of channels", "height", "width"};
    return rank == 4 && d >= 0 && d < 4 ? words[d] : "size";
}

bool kd_check_ints(KdBuilder *b, KdOp op, const char *what, KdInts v, int want) {
    if (v.n == want) return true;
    kd_error(b->cx, b->loc, "%s: %s has %d entries, expected %d", kd_op_info[op].name, what, v.n,
             want);
    return false;
}

bool kd_check_axis(KdBuilder *b, KdOp op, const KdType *t, int64_t axis) {
    if (axis >= 0 && axis < t->rank) return true;
    kd_error(b->cx, b->loc, "%s: there is no dimension %lld in %s", kd_op_info[op].name,
             (long long)axis, kd_shape_text(b->cx, t));
    return false;
}

bool kd_check_f32(KdBuilder *b, KdOp op, const KdType *t) {
    if (t->dtype == KD_F32) return true;
    kd_error(b->cx, b->loc, "%s: expected f32 elements, found %s", kd_op_info[op].name,
             kd_type_text(b->cx, t));
    return false;
}

bool kd_check_not_u8(KdBuilder *b, KdOp op, const KdType *t) {
    if (t->dtype != KD_U8) return true;
    kd_error(b->cx, b->loc, "%s: u8 elements are only stored and moved; cast %s to f32 or i32 first",
             kd_op_info[op].name, kd_type_text(b->cx, t));
    return false;
}

bool kd_check_equal(KdBuilder *b, KdOp op, const KdType *x, const KdType *y) {
    return kd_check_equal_but(b, op, x, y, -1);
}

bool kd_check_equal_but(KdBuilder *b, KdOp op, const KdType *x, const KdType *y, int axis) {
    const char *name = kd_op_info[op].name;
    if (x == y) return true;
    if (x->rank != y->rank) {
        kd_error(b->cx, b->loc, "%s: shapes differ: %s and %s", name, kd_shape_text(b->cx, x),
                 kd_shape_text(b->cx, y));
        return false;
    }
    for (int d = 0; d < x->rank; d++) {
        if (d == axis || x->dim[d] == y->dim[d]) continue;
        kd_error(b->cx, b->loc, "%s: %s differ along dimension %d: %lld and %lld", name,
                 kd_dim_plural(x->rank, d), d, (long long)x->dim[d], (long long)y->dim[d]);
        return false;
    }
    if (x->dtype == y->dtype) return true;
    kd_error(b->cx, b->loc, "%s: element types differ: %s and %s", name, kd_dtype_name(x->dtype),
             kd_dtype_name(y->dtype));
    return false;
}

bool kd_check_scalar(KdBuilder *b, KdOp op, const char *what, const KdType *t, KdDType d) {
    if (t->rank == 0 && t->dtype == d) return true;
    kd_error(b->cx, b->loc, "%s: the %s must be one %s number, found %s", kd_op_info[op].name, what,
             kd_dtype_name(d), kd_type_text(b->cx, t));
    return false;
}

const KdType *kd_result_type(KdBuilder *b, KdOp op, KdDType d, int rank, const int64_t *dim) {
    const char *name = kd_op_info[op].name;
    if (rank < 0 || rank > KD_MAX_RANK) {
        kd_error(b->cx, b->loc, "%s: a tensor has at most %d dimensions, the result would have %d",
                 name, KD_MAX_RANK, rank);
        return NULL;
    }
    for (int i = 0; i < rank; i++) {
        if (dim[i] >= 0) continue;
        kd_error(b->cx, b->loc, "%s: the result's %s (dimension %d) would be negative: %lld", name,
                 kd_dim_singular(rank, i), i, (long long)dim[i]);
        return NULL;
    }
    const KdType *t = kd_type(b->cx, d, rank, dim);
    if (!t)
        kd_error(b->cx, b->loc, "%s: the result would have more than 2^31 - 1 elements", name);
    return t;
}

const KdType *kd_type_with_dim(KdBuilder *b, KdOp op, const KdType *t, int axis, int64_t size) {
    int64_t dim[KD_MAX_RANK];
    for (int d = 0; d < t->rank; d++) dim[d] = d == axis ? size : t->dim[d];
    return kd_result_type(b, op, t->dtype, t->rank, dim);
}
