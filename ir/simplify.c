/* simplify.c: the rules the builder tries before it makes a node.
 *
 * A rule looks at an op, its operands and its attributes, and answers with a value that is equal to what the node would
 * compute, or with KD_NONE. Three requirements keep the set sound:
 *   1. Equal means: the same f32 value for every finite input, with one licence: x + 0 is x (so -0 may stay -0).
 *      Nothing is reassociated, and x * 0 is not 0, since x may be infinite or NaN.
 *   2. A rule only builds nodes that are nearer to a leaf than the one it replaces (fewer ops between it and the leaves),
 *      so rewriting ends.
 *   3. A rule reads only the node's operands and their operands; it never searches.
 * Rules stand in a table by op; the general ones (constant operands) come first.
 */
#include "ir/simplify.h"

#include <math.h>
#include <string.h>

#include "ir/ops/ops.h"

typedef struct Want { /* the node that would be made */
    KdOp op;
    const KdType *type;
    const KdValue *in;
    int n_in;
    const KdAttr *attr;
} Want;

static const KdNode *operand(const KdBuilder *b, const Want *w, int k) { return kd_node(b->f, w->in[k]); }

static bool is_const(const KdBuilder *b, KdValue v, double *c) {
    const KdNode *n = kd_node(b->f, v);
    if (n->op != KD_OP_CONST) return false;
    *c = n->attr[0].f;
    return true;
}

static bool is_value(const KdBuilder *b, const Want *w, int k, double c) {
    double x;
    return is_const(b, w->in[k], &x) && x == c;
}

static bool all_equal(KdInts v, int64_t c) {
    for (int i = 0; i < v.n; i++)
        if (v.v[i] != c) return false;
    return true;
}

/* ---- constants --------------------------------------------------------------------------------- */

/* An elementwise op of filled tensors is a filled tensor: evaluate one element. */
static KdValue fold_elementwise(KdBuilder *b, const Want *w) {
    double value[3], out;
    const double *in[3];
    if (w->n_in > 3) return KD_NONE;
    for (int k = 0; k < w->n_in; k++) {
        if (!is_const(b, w->in[k], &value[k])) return KD_NONE;
        in[k] = &value[k];
    }
    KdNode one = {.op = (uint16_t)w->op, .n_in = (uint16_t)w->n_in, .in = w->in, .attr = w->attr,
                  .type = kd_type(b->cx, w->type->dtype, 0, NULL)};
    kd_op_info[w->op].eval(b->f, &one, in, &out);
    if (w->type->dtype == KD_F32) out = (float)out;
    return isfinite(out) ? kd_const(b, w->type, out) : KD_NONE;
}

/* Moving the elements of a filled tensor changes nothing but its shape. */
static KdValue fold_index(KdBuilder *b, const Want *w) {
    double c;
    if (w->n_in != 1 || !is_const(b, w->in[0], &c)) return KD_NONE;
    if (w->op == KD_OP_PAD && w->attr[3].f != c) return KD_NONE;
    return kd_const(b, w->type, c);
}

/* ---- elementwise --------------------------------------------------------------------------------- */

static KdValue add(KdBuilder *b, const Want *w) {
    if (is_value(b, w, 1, 0)) return w->in[0];
    if (is_value(b, w, 0, 0)) return w->in[1];
    return KD_NONE;
}

static KdValue sub(KdBuilder *b, const Want *w) { return is_value(b, w, 1, 0) ? w->in[0] : KD_NONE; }

static KdValue mul(KdBuilder *b, const Want *w) {
    for (int k = 0; k < 2; k++) {
        if (is_value(b, w, k, 1)) return w->in[1 - k];
        if (is_value(b, w, k, -1)) return kd_unary(b, KD_OP_NEG, w->in[1 - k]);
    }
    return KD_NONE;
}

static KdValue divide(KdBuilder *b, const Want *w) { return is_value(b, w, 1, 1) ? w->in[0] : KD_NONE; }

static KdValue neg(KdBuilder *b, const Want *w) {
    const KdNode *x = operand(b, w, 0);
    return x->op == KD_OP_NEG ? x->in[0] : KD_NONE;
}

static KdValue where(KdBuilder *b, const Want *w) {
    double c;
    if (is_const(b, w->in[0], &c)) return c != 0 ? w->in[1] : w->in[2];
    return w->in[1] == w->in[2] ? w->in[1] : KD_NONE;
}

/* relu(relu(x)), detach(detach(x)): once is enough. */
static KdValue idempotent(KdBuilder *b, const Want *w) {
    return operand(b, w, 0)->op == w->op ? w->in[0] : KD_NONE;
}

/* An op that changed nothing: result and operand have one type, and that decides it. */
static KdValue same_type(KdBuilder *b, const Want *w) {
    return operand(b, w, 0)->type == w->type ? w->in[0] : KD_NONE;
}

/* ---- moves --------------------------------------------------------------------------------------------- */

static KdValue reshape(KdBuilder *b, const Want *w) {
    const KdNode *x = operand(b, w, 0);
    if (x->type == w->type) return w->in[0];
    return x->op == KD_OP_RESHAPE ? kd_reshape(b, x->in[0], w->type->rank, w->type->dim) : KD_NONE;
}

static KdValue broadcast(KdBuilder *b, const Want *w) {
    const KdNode *x = operand(b, w, 0);
    if (x->type == w->type) return w->in[0];
    return x->op == KD_OP_BROADCAST ? kd_broadcast(b, x->in[0], w->type->rank, w->type->dim) : KD_NONE;
}

static KdValue transpose(KdBuilder *b, const Want *w) {
    KdInts perm = w->attr[0].ints;
    const KdNode *x = operand(b, w, 0);
    bool identity = true;
    for (int i = 0; i < perm.n; i++) identity &= perm.v[i] == i;
    if (identity) return w->in[0];
    if (x->op != KD_OP_TRANSPOSE) return KD_NONE;
    int64_t both[KD_MAX_RANK];
    for (int i = 0; i < perm.n; i++) both[i] = x->attr[0].ints.v[perm.v[i]];
    return kd_transpose(b, x->in[0], both);
}

static KdValue slice(KdBuilder *b, const Want *w) {
    return operand(b, w, 0)->type == w->type && all_equal(w->attr[2].ints, 1) ? w->in[0] : KD_NONE;
}

static KdValue pad(KdBuilder *b, const Want *w) {
    (void)b;
    return all_equal(w->attr[0].ints, 0) && all_equal(w->attr[1].ints, 0) && all_equal(w->attr[2].ints, 0)
               ? w->in[0]
               : KD_NONE;
}

static KdValue concat(KdBuilder *b, const Want *w) {
    (void)b;
    return w->n_in == 1 ? w->in[0] : KD_NONE;
}

/* ---- reductions ------------------------------------------------------------------------------------------ */

/* Axes of size 1 fold away. */
static KdValue reduce(KdBuilder *b, const Want *w) {
    const KdType *t = operand(b, w, 0)->type;
    if (t == w->type) return w->in[0];
    KdInts axes = w->attr[0].ints;
    int64_t keep[KD_MAX_RANK];
    int n = 0;
    for (int i = 0; i < axes.n; i++)
        if (t->dim[axes.v[i]] != 1) keep[n++] = axes.v[i];
    if (n == axes.n) return KD_NONE;
    KdAttr a = {.ints = {n, keep}};
    return kd_build(b, w->op, NULL, w->in, 1, &a);
}

static KdValue sum(KdBuilder *b, const Want *w) {
    double c;
    const KdType *t = operand(b, w, 0)->type;
    if (is_const(b, w->in[0], &c) && w->type->count > 0 && w->type->dtype == KD_F32)
        return kd_const(b, w->type, (float)(c * (double)(t->count / w->type->count)));
    return reduce(b, w);
}

/* ---- the table ---------------------------------------------------------------------------------------------- */

static KdValue (*const rules[KD_OP_COUNT])(KdBuilder *b, const Want *w) = {
    [KD_OP_ADD] = add,
    [KD_OP_SUB] = sub,
    [KD_OP_MUL] = mul,
    [KD_OP_DIV] = divide,
    [KD_OP_NEG] = neg,
    [KD_OP_WHERE] = where,
    [KD_OP_RELU] = idempotent,
    [KD_OP_ABS] = idempotent,
    [KD_OP_FLOOR] = idempotent,
    [KD_OP_DETACH] = idempotent,
    [KD_OP_CAST] = same_type,
    [KD_OP_RESHAPE] = reshape,
    [KD_OP_BROADCAST] = broadcast,
    [KD_OP_TRANSPOSE] = transpose,
    [KD_OP_SLICE] = slice,
    [KD_OP_PAD] = pad,
    [KD_OP_PAD_REFLECT] = same_type,
    [KD_OP_PAD_REFLECT_GRAD] = same_type,
    [KD_OP_PAD_REPLICATE] = same_type,
    [KD_OP_PAD_REPLICATE_GRAD] = same_type,
    [KD_OP_UPSAMPLE_NEAREST] = same_type,
    [KD_OP_UPSAMPLE_NEAREST_GRAD] = same_type,
    [KD_OP_CONCAT] = concat,
    [KD_OP_SUM] = sum,
    [KD_OP_MAX] = reduce,
};

KdValue kd_simplify(KdBuilder *b, KdOp op, const KdType *type, const KdValue *in, int n_in, const KdAttr *attr) {
    Want w = {op, type, in, n_in, attr};
    KdValue v = KD_NONE;
    if (kd_op_info[op].cls == KD_ELEMENTWISE) v = fold_elementwise(b, &w);
    if (kd_op_info[op].cls == KD_INDEX && op != KD_OP_RANDOM) v = fold_index(b, &w);
    if (v == KD_NONE && rules[op]) v = rules[op](b, &w);
    return v;
}
