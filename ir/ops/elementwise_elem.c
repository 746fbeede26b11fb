/* elementwise_elem.c: the element rules of the elementwise ops: result[i] from operands[i].
 *
 * Operands and results are scalar KL_F32 or KL_I32. Loop IR's min and max give their second operand when unordered: the
 * order of the operands below decides what becomes of a NaN, and is PyTorch's.
 */
#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

static bool is_f32(const KdElem *e, KdValue n) {
    return kd_vtype(e->f, n)->dtype == KD_F32;
}

static KlValue op1(KdElem *e, KlOp op, KdValue n, const KlValue *idx) {
    return kl_op1(e->b, op, e->operand(e, n, 0, idx));
}

static KlValue op2(KdElem *e, KlOp op, KdValue n, const KlValue *idx) {
    KlValue x = e->operand(e, n, 0, idx), y = e->operand(e, n, 1, idx);
    return kl_op2(e->b, op, x, y);
}

static KlValue like(KdElem *e, KlValue v, double c) {
    return kl_constant_like(e->b, v, c);
}

/* ---- one operand ----------------------------------------------------------------------------- */

/* Loop IR negates floats only (the sign of a zero matters there); integers wrap in 0 - x. */
static KlValue negated(KdElem *e, KlValue x, bool f32) {
    return f32 ? kl_op1(e->b, KL_OP_NEG, x) : kl_op2(e->b, KL_OP_SUB, like(e, x, 0), x);
}

uint32_t elem_neg(KdElem *e, KdValue n, const uint32_t *idx) {
    return negated(e, e->operand(e, n, 0, idx), is_f32(e, n));
}

uint32_t elem_abs(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue x = e->operand(e, n, 0, idx);
    if (is_f32(e, n)) return kl_op1(e->b, KL_OP_ABS, x);
    return kl_op2(e->b, KL_OP_MAX, x, negated(e, x, false));
}

uint32_t elem_sign(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue x = e->operand(e, n, 0, idx), zero = like(e, x, 0);
    KlValue below = kl_select(e->b, kl_cmp(e->b, KL_LT, x, zero), like(e, x, -1), zero);
    return kl_select(e->b, kl_cmp(e->b, KL_GT, x, zero), like(e, x, 1), below);
}

uint32_t elem_square(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue x = e->operand(e, n, 0, idx);
    return kl_op2(e->b, KL_OP_MUL, x, x);
}

uint32_t elem_sqrt(KdElem *e, KdValue n, const uint32_t *idx) {
    return op1(e, KL_OP_SQRT, n, idx);
}

uint32_t elem_rsqrt(KdElem *e, KdValue n, const uint32_t *idx) {
    return kl_rsqrt(e->b, e->operand(e, n, 0, idx));
}

uint32_t elem_reciprocal(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue x = e->operand(e, n, 0, idx);
    return kl_op2(e->b, KL_OP_DIV, like(e, x, 1), x);
}

uint32_t elem_exp(KdElem *e, KdValue n, const uint32_t *idx) {
    return kl_exp(e->b, e->operand(e, n, 0, idx));
}

uint32_t elem_log(KdElem *e, KdValue n, const uint32_t *idx) {
    return kl_log(e->b, e->operand(e, n, 0, idx));
}

uint32_t elem_tanh(KdElem *e, KdValue n, const uint32_t *idx) {
    return kl_tanh(e->b, e->operand(e, n, 0, idx));
}

uint32_t elem_sigmoid(KdElem *e, KdValue n, const uint32_t *idx) {
    return kl_sigmoid(e->b, e->operand(e, n, 0, idx));
}

uint32_t elem_softplus(KdElem *e, KdValue n, const uint32_t *idx) {
    return kl_softplus(e->b, e->operand(e, n, 0, idx));
}

uint32_t elem_floor(KdElem *e, KdValue n, const uint32_t *idx) {
    return op1(e, KL_OP_FLOOR, n, idx);
}

uint32_t elem_relu(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue x = e->operand(e, n, 0, idx);
    return kl_op2(e->b, KL_OP_MAX, like(e, x, 0), x);
}

uint32_t elem_leaky_relu(KdElem *e, KdValue n, const uint32_t *idx) {
    double slope = kd_attr_float(e->f, kd_node(e->f, n), "slope");
    KlValue x = e->operand(e, n, 0, idx);
    KlValue scaled = kl_op2(e->b, KL_OP_MUL, x, like(e, x, slope));
    return kl_select(e->b, kl_cmp(e->b, KL_GT, x, like(e, x, 0)), x, scaled);
}

uint32_t elem_clamp(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    KlValue x = e->operand(e, n, 0, idx);
    KlValue lo = like(e, x, kd_fit(node->type->dtype, kd_attr_float(e->f, node, "min")));
    KlValue hi = like(e, x, kd_fit(node->type->dtype, kd_attr_float(e->f, node, "max")));
    return kl_op2(e->b, KL_OP_MIN, hi, kl_op2(e->b, KL_OP_MAX, lo, x));
}

uint32_t elem_copy(KdElem *e, KdValue n, const uint32_t *idx) {
    return e->operand(e, n, 0, idx);
}

uint32_t elem_cast(KdElem *e, KdValue n, const uint32_t *idx) {
    KdDType from = kd_vtype(e->f, kd_node(e->f, n)->in[0])->dtype;
    KdDType to = kd_vtype(e->f, n)->dtype;
    KlValue x = e->operand(e, n, 0, idx);
    if (from == to) return x;
    if (to == KD_F32) return kl_cvt(e->b, KL_F32, x);
    KlValue i = from == KD_F32 ? kl_cvt(e->b, KL_I32, x) : x;
    if (to == KD_I32) return i;
    i = kl_op2(e->b, KL_OP_MAX, i, kl_i32(e->b, 0));
    return kl_op2(e->b, KL_OP_MIN, i, kl_i32(e->b, UINT8_MAX));
}

/* ---- two and three operands ------------------------------------------------------------------ */

uint32_t elem_add(KdElem *e, KdValue n, const uint32_t *idx) {
    return op2(e, KL_OP_ADD, n, idx);
}

uint32_t elem_sub(KdElem *e, KdValue n, const uint32_t *idx) {
    return op2(e, KL_OP_SUB, n, idx);
}

uint32_t elem_mul(KdElem *e, KdValue n, const uint32_t *idx) {
    return op2(e, KL_OP_MUL, n, idx);
}

/* Integers: division by 0 gives 0 and by -1 wraps, neither of which a machine's instruction does. */
uint32_t elem_div(KdElem *e, KdValue n, const uint32_t *idx) {
    if (is_f32(e, n)) return op2(e, KL_OP_DIV, n, idx);
    KlBuilder *b = e->b;
    KlValue x = e->operand(e, n, 0, idx), y = e->operand(e, n, 1, idx);
    KlValue zero = kl_cmp(b, KL_EQ, y, like(e, y, 0)), minus = kl_cmp(b, KL_EQ, y, like(e, y, -1));
    KlValue safe = kl_select(b, kl_op2(b, KL_OP_OR, zero, minus), like(e, y, 1), y);
    KlValue q = kl_op2(b, KL_OP_DIV, x, safe);
    q = kl_select(b, minus, negated(e, x, false), q);
    return kl_select(b, zero, like(e, y, 0), q);
}

uint32_t elem_pow(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue x = e->operand(e, n, 0, idx), y = e->operand(e, n, 1, idx);
    return kl_pow(e->b, x, y);
}

/* max and min give y when unordered: right for a NaN in y; one in x is chosen by hand. */
static KlValue extremum(KdElem *e, KlOp op, KdValue n, const KlValue *idx) {
    KlValue x = e->operand(e, n, 0, idx), y = e->operand(e, n, 1, idx);
    KlValue v = kl_op2(e->b, op, x, y);
    return is_f32(e, n) ? kl_select(e->b, kl_cmp(e->b, KL_NE, x, x), x, v) : v;
}

uint32_t elem_maximum(KdElem *e, KdValue n, const uint32_t *idx) {
    return extremum(e, KL_OP_MAX, n, idx);
}

uint32_t elem_minimum(KdElem *e, KdValue n, const uint32_t *idx) {
    return extremum(e, KL_OP_MIN, n, idx);
}

static KlValue compare(KdElem *e, KlPred p, KdValue n, const KlValue *idx) {
    KlValue x = e->operand(e, n, 0, idx), y = e->operand(e, n, 1, idx);
    return kl_select(e->b, kl_cmp(e->b, p, x, y), kl_f32(e->b, 1), kl_f32(e->b, 0));
}

uint32_t elem_eq(KdElem *e, KdValue n, const uint32_t *idx) {
    return compare(e, KL_EQ, n, idx);
}

uint32_t elem_ne(KdElem *e, KdValue n, const uint32_t *idx) {
    return compare(e, KL_NE, n, idx);
}

uint32_t elem_lt(KdElem *e, KdValue n, const uint32_t *idx) {
    return compare(e, KL_LT, n, idx);
}

uint32_t elem_le(KdElem *e, KdValue n, const uint32_t *idx) {
    return compare(e, KL_LE, n, idx);
}

uint32_t elem_where(KdElem *e, KdValue n, const uint32_t *idx) {
    KlValue c = e->operand(e, n, 0, idx);
    KlValue x = e->operand(e, n, 1, idx), y = e->operand(e, n, 2, idx);
    return kl_select(e->b, kl_cmp(e->b, KL_NE, c, kl_f32(e->b, 0)), x, y);
}
