/* shape.h: what the op rules share: words for dimensions, checks of operands and attributes in the
 * user's terms, and walking over the elements of a dense tensor. Private to ir/ops. */
#ifndef KD_OPS_SHAPE_H
#define KD_OPS_SHAPE_H

#include "ir/ir.h"

/* "batch sizes", "channels", "heights", "widths" of a rank-4 tensor; else "sizes". And of one:
 * "height", "size". */
const char *kd_dim_plural(int rank, int d);
const char *kd_dim_singular(int rank, int d);

/* Each check returns true, or false after kd_error(b->cx, b->loc, "OP: ...").
 * ints: attribute `what` has one entry for each of `want` dims. axis: inside t. f32, not_u8:
 * operand's type. equal: both shapes and element types are the same; equal_but: except along
 * `axis`. scalar: of rank 0 and type d. */
bool kd_check_ints(KdBuilder *b, KdOp op, const char *what, KdInts v, int want);
bool kd_check_axis(KdBuilder *b, KdOp op, const KdType *t, int64_t axis);
bool kd_check_f32(KdBuilder *b, KdOp op, const KdType *t);
bool kd_check_not_u8(KdBuilder *b, KdOp op, const KdType *t);
bool kd_check_equal(KdBuilder *b, KdOp op, const KdType *x, const KdType *y);
bool kd_check_equal_but(KdBuilder *b, KdOp op, const KdType *x, const KdType *y, int axis);
bool kd_check_scalar(KdBuilder *b, KdOp op, const char *what, const KdType *t, KdDType d);

/* kd_type, but a result that cannot exist is diagnosed. */
const KdType *kd_result_type(KdBuilder *b, KdOp op, KdDType d, int rank, const int64_t *dim);
/* t, but of `size` along `axis`. */
const KdType *kd_type_with_dim(KdBuilder *b, KdOp op, const KdType *t, int axis, int64_t size);

/* Row-major element number <-> indices. */
static inline void kd_unravel(const KdType *t, int64_t i, int64_t *idx) {
    for (int d = t->rank - 1; d >= 0; d--) {
        idx[d] = i % t->dim[d];
        i /= t->dim[d];
    }
}

static inline int64_t kd_ravel(const KdType *t, const int64_t *idx) {
    int64_t i = 0;
    for (int d = 0; d < t->rank; d++) i = i * t->dim[d] + idx[d];
    return i;
}

/* i32 arithmetic wraps. */
static inline int32_t kd_wrap32(int64_t v) {
    return (int32_t)(uint32_t)(uint64_t)v;
}

/* A real number as an element of dtype d: i32 and u8 truncate toward 0 and saturate, NaN is 0. */
static inline double kd_fit(KdDType d, double v) {
    if (d == KD_F32) return v;
    double lo = d == KD_U8 ? 0 : INT32_MIN, hi = d == KD_U8 ? UINT8_MAX : INT32_MAX;
    if (v != v) return 0;
    if (v <= lo) return lo;
    if (v >= hi) return hi;
    return (double)(int64_t)v;
}

#endif
