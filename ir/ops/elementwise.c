/* elementwise.c: result types and gradients of the elementwise ops.
 *
 * Operands have one equal type (kd_binary has broadcast them). Gradients follow PyTorch at every
 * kink, and are written in ops that are differentiable again; where a branch must not be reached by
 * a second derivative (0 * inf), its operand is replaced before the function is applied, not only
 * after it. Where PyTorch keeps the result instead of the operand (tanh, relu, ...), so do we: then
 * the operand's memory is free earlier.
 */
#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

/* ---- result types ------------------------------------------------------------------------------
 * */

static const KdType *all_equal(KdBuilder *b, KdOp op, const KdValue *in, int n_in) {
    const KdType *t = kd_vtype(b->f, in[0]);
    for (int k = 1; k < n_in; k++)
        if (!kd_check_equal(b, op, t, kd_vtype(b->f, in[k]))) return NULL;
    return t;
}

/* f32 or i32; detach is a move, and may have u8. */
const KdType *infer_same(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)attr;
    const KdType *t = all_equal(b, op, in, n_in);
    if (!t || (op != KD_OP_DETACH && !kd_check_not_u8(b, op, t))) return NULL;
    return t;
}

const KdType *infer_float1(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)attr;
    const KdType *t = all_equal(b, op, in, n_in);
    return t && kd_check_f32(b, op, t) ? t : NULL;
}

const KdType *infer_float2(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    return infer_float1(b, op, in, n_in, attr);
}

const KdType *infer_cast(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *t = kd_vtype(b->f, in[0]);
    const char *names[KD_DTYPE_COUNT];
    for (int d = 0; d < KD_DTYPE_COUNT; d++) {
        names[d] = kd_dtype_name((KdDType)d);
        if (kd_intern_z(b->cx, names[d]) == attr[0].s)
            return kd_result_type(b, op, (KdDType)d, t->rank, t->dim);
    }
    kd_error(b->cx, b->loc, "cast: unknown element type '%s', expected f32, i32 or u8", attr[0].s);
    const char *near = kd_nearest(attr[0].s, names, KD_DTYPE_COUNT);
    if (near) kd_hint(b->cx, "did you mean %s?", near);
    return NULL;
}

const KdType *infer_compare(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)attr;
    const KdType *t = all_equal(b, op, in, n_in);
    if (!t || !kd_check_not_u8(b, op, t)) return NULL;
    return kd_result_type(b, op, KD_F32, t->rank, t->dim);
}

const KdType *infer_where(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in, (void)attr;
    const KdType *c = kd_vtype(b->f, in[0]), *t = kd_vtype(b->f, in[1]);
    if (!kd_check_f32(b, op, c) || !kd_check_equal(b, op, t, kd_vtype(b->f, in[2]))) return NULL;
    const KdType *shape = kd_result_type(b, op, KD_F32, t->rank, t->dim);
    return shape && kd_check_equal(b, op, c, shape) ? t : NULL;
}

/* ---- gradients ----------------------------------------------------------------------------------
 * */

static KdValue operand(KdBuilder *b, KdValue n, int k) {
    return kd_node(b->f, n)->in[k];
}
static KdValue mul(KdBuilder *b, KdValue x, KdValue y) {
    return kd_binary(b, KD_OP_MUL, x, y);
}
static KdValue divide(KdBuilder *b, KdValue x, KdValue y) {
    return kd_binary(b, KD_OP_DIV, x, y);
}
static KdValue neg(KdBuilder *b, KdValue x) {
    return kd_unary(b, KD_OP_NEG, x);
}
static KdValue less(KdBuilder *b, KdValue x, KdValue y) {
    return kd_binary(b, KD_OP_LT, x, y);
}
static KdValue at_most(KdBuilder *b, KdValue x, KdValue y) {
    return kd_binary(b, KD_OP_LE, x, y);
}
static KdValue one_minus(KdBuilder *b, KdValue x) {
    return kd_binary(b, KD_OP_SUB, kd_const_like(b, x, 1), x);
}

void grad_neg(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    (void)n;
    gin[0] = neg(b, gy);
}

void grad_abs(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = mul(b, gy, kd_unary(b, KD_OP_SIGN, operand(b, n, 0)));
}

void grad_square(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = kd_scale(b, mul(b, gy, operand(b, n, 0)), 2);
}

void grad_sqrt(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = divide(b, kd_scale(b, gy, 0.5), n);
}

void grad_rsqrt(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdValue cube = mul(b, mul(b, n, n), n);
    gin[0] = kd_scale(b, mul(b, gy, cube), -0.5);
}

void grad_reciprocal(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = neg(b, mul(b, gy, mul(b, n, n)));
}

void grad_exp(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = mul(b, gy, n);
}

void grad_log(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = divide(b, gy, operand(b, n, 0));
}

void grad_tanh(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = mul(b, gy, one_minus(b, mul(b, n, n)));
}

void grad_sigmoid(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = mul(b, gy, mul(b, n, one_minus(b, n)));
}

void grad_softplus(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = mul(b, gy, kd_unary(b, KD_OP_SIGMOID, operand(b, n, 0)));
}

/* PyTorch's threshold_backward: zero where the result is <= 0; so NaN passes the gradient on. */
void grad_relu(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdValue zero = kd_zero_like(b, gy);
    gin[0] = kd_where(b, at_most(b, n, zero), zero, gy);
}

/* x > 0 and slope x > 0 agree in the result's sign when slope >= 0; then the result will do. */
void grad_leaky_relu(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    double slope = kd_attr_float(b->f, kd_node(b->f, n), "slope");
    KdValue x = slope >= 0 ? n : operand(b, n, 0);
    KdValue positive = less(b, kd_zero_like(b, x), x);
    gin[0] = kd_where(b, positive, gy, kd_scale(b, gy, slope));
}

void grad_clamp(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdNode node = *kd_node(b->f, n);
    KdValue x = node.in[0], zero = kd_zero_like(b, gy);
    KdValue above = at_most(b, kd_const_like(b, x, kd_attr_float(b->f, &node, "min")), x);
    KdValue below = at_most(b, x, kd_const_like(b, x, kd_attr_float(b->f, &node, "max")));
    gin[0] = kd_where(b, mul(b, above, below), gy, zero);
}

void grad_cast(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    bool f32 = kd_vtype(b->f, operand(b, n, 0))->dtype == KD_F32;
    gin[0] = f32 && kd_vtype(b->f, n)->dtype == KD_F32 ? gy : KD_NONE;
}

void grad_add(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    (void)b, (void)n;
    gin[0] = gin[1] = gy;
}

void grad_sub(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    (void)n;
    gin[0] = gy;
    gin[1] = neg(b, gy);
}

void grad_mul(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdValue x = operand(b, n, 0), y = operand(b, n, 1);
    gin[0] = mul(b, gy, y);
    gin[1] = mul(b, gy, x);
}

void grad_div(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    gin[0] = divide(b, gy, operand(b, n, 1));
    gin[1] = neg(b, mul(b, gin[0], n));
}

/* By x: y x^(y-1), and 0 where y = 0. By y: x^y log x, and 0 where x = 0 <= y. */
void grad_pow(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdValue x = operand(b, n, 0), y = operand(b, n, 1);
    KdValue zero = kd_zero_like(b, x), one = kd_const_like(b, x, 1);
    KdValue flat = kd_binary(b, KD_OP_EQ, y, zero);
    KdValue base = kd_where(b, flat, one, x);
    KdValue lower = kd_binary(b, KD_OP_POW, base, kd_binary(b, KD_OP_SUB, y, one));
    gin[0] = mul(b, gy, mul(b, y, lower));

    KdValue edge = mul(b, kd_binary(b, KD_OP_EQ, x, zero), at_most(b, zero, y));
    KdValue log = kd_unary(b, KD_OP_LOG, kd_where(b, edge, one, x));
    gin[1] = mul(b, gy, mul(b, n, log));
}

/* wins: where the first operand is strictly the result; ties share. Unordered operands both get gy,
 * as in PyTorch. */
static void grad_extremum(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin, bool maximum) {
    KdValue x = operand(b, n, 0), y = operand(b, n, 1), zero = kd_zero_like(b, gy);
    KdValue shared = kd_where(b, kd_binary(b, KD_OP_EQ, x, y), kd_scale(b, gy, 0.5), gy);
    KdValue below = less(b, x, y), above = less(b, y, x);
    gin[0] = kd_where(b, maximum ? below : above, zero, shared);
    gin[1] = kd_where(b, maximum ? above : below, zero, shared);
}

void grad_maximum(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_extremum(b, n, gy, gin, true);
}

void grad_minimum(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    grad_extremum(b, n, gy, gin, false);
}

void grad_where(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    KdValue c = operand(b, n, 0), zero = kd_zero_like(b, gy);
    gin[0] = KD_NONE;
    gin[1] = kd_where(b, c, gy, zero);
    gin[2] = kd_where(b, c, zero, gy);
}
