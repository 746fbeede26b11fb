/* leaves.c: input, const, literal, iota: values without operands.
 *
 * Inputs and literals have memory of their own: whoever composes element rules loads them, so their
 * rule is never asked.
 */
#include <string.h>

#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

/* A leaf's type is given; kd_build and the verifier check it with kd_check_typed. */
const KdType *infer_typed(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)in, (void)n_in, (void)attr;
    kd_raise(b->cx, KD_FAIL_INTERNAL, "the type of %s is given, not inferred", kd_op_info[op].name);
}

static bool roles_know(const char *role) {
    for (int i = 0; i < KD_ROLE_COUNT; i++)
        if (strcmp(kd_role_name[i], role) == 0) return true;
    return false;
}

static bool refuse(KdBuilder *b, KdOp op, const char *what) {
    kd_error(b->cx, b->loc, "%s: %s", kd_op_info[op].name, what);
    return false;
}

/* Can an element of t hold v exactly (f32: after rounding)? */
static bool holds(const KdType *t, double v) { return t->dtype == KD_F32 || kd_fit(t->dtype, v) == v; }

bool kd_check_typed(KdBuilder *b, KdOp op, const KdType *t, const KdAttr *attr) {
    if (op == KD_OP_INPUT) {
        if (!attr[0].s[0]) return refuse(b, op, "it needs a name");
        return roles_know(attr[1].s) || refuse(b, op, "the role is one of data, weight, buffer, state, frozen");
    }
    if (op == KD_OP_CONST) return holds(t, attr[0].f) || refuse(b, op, "the value does not fit the element type");
    if (op == KD_OP_IOTA) return kd_check_axis(b, op, t, attr[0].i);
    KdFloats v = attr[0].floats; /* literal */
    if (v.n != t->count) return refuse(b, op, "it needs one value for each element");
    for (int i = 0; i < v.n; i++)
        if (!holds(t, v.v[i])) return refuse(b, op, "a value does not fit the element type");
    return true;
}

uint32_t elem_input(KdElem *e, KdValue n, const uint32_t *idx) {
    (void)idx;
    kd_raise(e->f->cx, KD_FAIL_INTERNAL, "the element of a stored %s was to be computed",
             kd_op_info[kd_node(e->f, n)->op].name);
}

void eval_input(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    (void)f, (void)n, (void)in, (void)out; /* kd_eval has put the caller's values there */
}

uint32_t elem_const(KdElem *e, KdValue n, const uint32_t *idx) {
    (void)idx;
    double v = kd_attr_float(e->f, kd_node(e->f, n), "value");
    KdDType d = kd_vtype(e->f, n)->dtype;
    return d == KD_F32 ? kl_f32(e->b, v) : kl_i32(e->b, (int32_t)kd_fit(d, v));
}

void eval_const(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    (void)in;
    double v = kd_fit(n->type->dtype, kd_attr_float(f, n, "value"));
    for (int64_t i = 0; i < n->type->count; i++) out[i] = v;
}

void eval_literal(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    (void)in;
    KdFloats values = kd_attr_floats(f, n, "values");
    for (int64_t i = 0; i < n->type->count; i++) out[i] = kd_fit(n->type->dtype, values.v[i]);
}

uint32_t elem_iota(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    KlValue i = kl_cvt(e->b, KL_I32, idx[kd_attr_int(e->f, node, "axis")]);
    switch (node->type->dtype) {
    case KD_F32: return kl_cvt(e->b, KL_F32, i);
    case KD_U8: return kl_op2(e->b, KL_OP_MIN, i, kl_i32(e->b, UINT8_MAX));
    case KD_I32:
    case KD_DTYPE_COUNT: break;
    }
    return i;
}

void eval_iota(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    (void)in;
    int64_t axis = kd_attr_int(f, n, "axis"), idx[KD_MAX_RANK];
    for (int64_t i = 0; i < n->type->count; i++) {
        kd_unravel(n->type, i, idx);
        out[i] = kd_fit(n->type->dtype, (double)idx[axis]);
    }
}
