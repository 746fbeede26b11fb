/* move_eval.c: the naive reference of the index ops.
 *
 * A move is given by a map from the places of one tensor to those of another: forward, each result
 * element is fetched through it; backward (the adjoints), each operand element is added to where
 * the map sends it. The element rules solve the adjoints the other way round, which is what makes
 * this an independent check.
 */
#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

#define ARGUMENTS const KdFunc *f, const KdNode *n, const double *const *in, double *out

static const KdType *operand_type(const KdFunc *f, const KdNode *n, int k) {
    return kd_vtype(f, n->in[k]);
}

/* Turns place idx of the larger side into the place of the smaller that it repeats. a: an
 * attribute. */
typedef void MapFn(const KdType *small, const KdType *large, KdInts a, int64_t *idx);

static void fetch(ARGUMENTS, const char *attr, MapFn *map) {
    const KdType *small = operand_type(f, n, 0), *large = n->type;
    KdInts a = kd_attr_ints(f, n, attr);
    int64_t idx[KD_MAX_RANK];
    for (int64_t i = 0; i < large->count; i++) {
        kd_unravel(large, i, idx);
        map(small, large, a, idx);
        out[i] = in[0][kd_ravel(small, idx)];
    }
}

static void collect(ARGUMENTS, const char *attr, MapFn *map) {
    const KdType *small = n->type, *large = operand_type(f, n, 0);
    KdInts a = kd_attr_ints(f, n, attr);
    int64_t idx[KD_MAX_RANK];
    for (int64_t i = 0; i < small->count; i++) out[i] = 0;
    for (int64_t i = 0; i < large->count; i++) {
        kd_unravel(large, i, idx);
        map(small, large, a, idx);
        out[kd_ravel(small, idx)] += in[0][i];
    }
}

static void map_transpose(const KdType *small, const KdType *large, KdInts perm, int64_t *idx) {
    (void)small;
    int64_t old[KD_MAX_RANK];
    for (int d = 0; d < large->rank; d++) old[d] = idx[d];
    for (int d = 0; d < large->rank; d++) idx[perm.v[d]] = old[d];
}

static void map_broadcast(const KdType *small, const KdType *large, KdInts shape, int64_t *idx) {
    (void)large, (void)shape;
    for (int d = 0; d < small->rank; d++) idx[d] %= small->dim[d];
}

static void map_reflect(const KdType *small, const KdType *large, KdInts lo, int64_t *idx) {
    (void)large;
    for (int d = 0; d < small->rank; d++) {
        int64_t i = idx[d] - lo.v[d], last = small->dim[d] - 1;
        if (i < 0) i = -i;
        if (i > last) i = last - (i - last);
        idx[d] = i;
    }
}

static void map_replicate(const KdType *small, const KdType *large, KdInts lo, int64_t *idx) {
    (void)large;
    for (int d = 0; d < small->rank; d++) {
        int64_t i = idx[d] - lo.v[d], last = small->dim[d] - 1;
        idx[d] = i < 0 ? 0 : i > last ? last : i;
    }
}

static void map_nearest(const KdType *small, const KdType *large, KdInts size, int64_t *idx) {
    (void)size;
    for (int d = small->rank - 2; d < small->rank; d++)
        idx[d] = idx[d] * small->dim[d] / large->dim[d];
}

void eval_transpose(ARGUMENTS) {
    fetch(f, n, in, out, "perm", map_transpose);
}
void eval_broadcast(ARGUMENTS) {
    fetch(f, n, in, out, "shape", map_broadcast);
}
void eval_pad_reflect(ARGUMENTS) {
    fetch(f, n, in, out, "lo", map_reflect);
}
void eval_pad_reflect_grad(ARGUMENTS) {
    collect(f, n, in, out, "lo", map_reflect);
}
void eval_pad_replicate(ARGUMENTS) {
    fetch(f, n, in, out, "lo", map_replicate);
}
void eval_pad_replicate_grad(ARGUMENTS) {
    collect(f, n, in, out, "lo", map_replicate);
}
void eval_upsample_nearest(ARGUMENTS) {
    fetch(f, n, in, out, "size", map_nearest);
}
void eval_upsample_nearest_grad(ARGUMENTS) {
    collect(f, n, in, out, "size", map_nearest);
}

void eval_slice(ARGUMENTS) {
    const KdType *x = operand_type(f, n, 0);
    KdInts begin = kd_attr_ints(f, n, "begin"), step = kd_attr_ints(f, n, "step");
    int64_t idx[KD_MAX_RANK];
    for (int64_t i = 0; i < n->type->count; i++) {
        kd_unravel(n->type, i, idx);
        for (int d = 0; d < x->rank; d++) idx[d] = begin.v[d] + idx[d] * step.v[d];
        out[i] = in[0][kd_ravel(x, idx)];
    }
}

void eval_pad(ARGUMENTS) {
    const KdType *x = operand_type(f, n, 0), *y = n->type;
    KdInts lo = kd_attr_ints(f, n, "lo"), interior = kd_attr_ints(f, n, "interior");
    double value = kd_fit(y->dtype, kd_attr_float(f, n, "value"));
    int64_t idx[KD_MAX_RANK];
    for (int64_t i = 0; i < y->count; i++) out[i] = value;
    for (int64_t i = 0; i < x->count; i++) {
        bool inside = true;
        kd_unravel(x, i, idx);
        for (int d = 0; d < x->rank; d++) {
            idx[d] = lo.v[d] + idx[d] * (interior.v[d] + 1);
            inside &= idx[d] >= 0 && idx[d] < y->dim[d];
        }
        if (inside) out[kd_ravel(y, idx)] = in[0][i];
    }
}

void eval_concat(ARGUMENTS) {
    int64_t axis = kd_attr_int(f, n, "axis"), at = 0, idx[KD_MAX_RANK];
    for (int k = 0; k < n->n_in; k++) {
        const KdType *x = operand_type(f, n, k);
        for (int64_t i = 0; i < x->count; i++) {
            kd_unravel(x, i, idx);
            idx[axis] += at;
            out[kd_ravel(n->type, idx)] = in[k][i];
        }
        at += x->dim[axis];
    }
}

/* An index out of range breaks the caller's promise; like compiled code, we take the nearest. */
void eval_gather(ARGUMENTS) {
    const KdType *x = operand_type(f, n, 0);
    int64_t axis = kd_attr_int(f, n, "axis"), idx[KD_MAX_RANK];
    for (int64_t i = 0; i < n->type->count; i++) {
        kd_unravel(n->type, i, idx);
        int64_t at = (int64_t)in[1][i], last = x->dim[axis] - 1;
        idx[axis] = at < 0 ? 0 : at > last ? last : at;
        out[i] = in[0][kd_ravel(x, idx)];
    }
}

/* Here it goes nowhere. */
void eval_scatter_add(ARGUMENTS) {
    const KdType *x = operand_type(f, n, 0), *y = n->type;
    int64_t axis = kd_attr_int(f, n, "axis"), idx[KD_MAX_RANK];
    for (int64_t i = 0; i < y->count; i++) out[i] = 0;
    for (int64_t i = 0; i < x->count; i++) {
        kd_unravel(x, i, idx);
        idx[axis] = (int64_t)in[1][i];
        if (idx[axis] < 0 || idx[axis] >= y->dim[axis]) continue;
        double *sum = &out[kd_ravel(y, idx)];
        *sum += in[0][i];
        if (y->dtype == KD_I32) *sum = kd_wrap32((int64_t)*sum);
    }
}

void eval_update_row(ARGUMENTS) {
    (void)f;
    int64_t rows = n->type->dim[0], row = (int64_t)in[2][0];
    for (int64_t i = 0; i < n->type->count; i++) out[i] = in[0][i];
    if (row < 0 || row >= rows) return;
    int64_t size = n->type->count / rows;
    for (int64_t i = 0; i < size; i++) out[row * size + i] = in[1][i];
}
