/* optimizer.c: parameter updates become elementwise nodes, so that fusion makes one pass over memory of each.
 *
 * In: adam, sgd and rmsprop nodes, one for each part (new weight, new moments). Out: PyTorch's formulas
 * (torch.optim, 1.13) over add, mul, sqrt, div; what the parts share, hash-consing shares. Everything that depends on the
 * step alone stays a scalar and is computed once.
 *
 * C leaves the order in which arguments are evaluated open: where two arguments both build nodes, one of them has a name
 * here, so that every compiler builds the same graph.
 */
#include <math.h>

#include "passes/rewrite.h"

static KdValue mul(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_MUL, x, y); }
static KdValue add(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_ADD, x, y); }
static KdValue sub(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_SUB, x, y); }
static KdValue divide(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_DIV, x, y); }

/* decay * old + (1 - decay) * x: a running mean. */
static KdValue running(KdBuilder *b, KdValue old, KdValue x, double decay) {
    KdValue kept = kd_scale(b, old, decay);
    return add(b, kept, kd_scale(b, x, 1 - decay));
}

/* g + weight_decay * w, or g. */
static KdValue decayed(KdBuilder *b, KdValue g, KdValue w, double weight_decay) {
    return weight_decay != 0 ? add(b, g, kd_scale(b, w, weight_decay)) : g;
}

/* 1 - beta^t. With h = tanh(-t ln(beta) / 2) it is 2h / (1 + h): no digits cancel, where 1 - 0.999f already loses
 * half of them. */
static KdValue bias_correction(KdBuilder *b, KdValue t, double beta) {
    if (beta <= 0) return kd_const_like(b, t, 1);
    KdValue h = kd_unary(b, KD_OP_TANH, kd_scale(b, t, -log(beta) / 2));
    KdValue twice = kd_scale(b, h, 2);
    return divide(b, twice, add(b, h, kd_const_like(b, h, 1)));
}

/* Adam (decoupled: AdamW), operands (w, g, m, v, lr, t):
 *   m' = beta1 m + (1 - beta1) g        v' = beta2 v + (1 - beta2) g^2
 *   w' = w - lr / (1 - beta1^t) * m' / (sqrt(v') / sqrt(1 - beta2^t) + eps) */
static KdValue adam(KdBuilder *b, const KdFunc *f, const KdNode *n, const KdValue *in) {
    KdValue w = in[0], lr = in[4], t = in[5];
    double beta1 = kd_attr_float(f, n, "beta1"), beta2 = kd_attr_float(f, n, "beta2");
    double eps = kd_attr_float(f, n, "eps"), decay = kd_attr_float(f, n, "weight_decay");
    bool decoupled = kd_attr_int(f, n, "decoupled") != 0;
    KdValue g = decoupled ? in[1] : decayed(b, in[1], w, decay);
    KdValue m = running(b, in[2], g, beta1);
    KdValue v = running(b, in[3], kd_unary(b, KD_OP_SQUARE, g), beta2);
    if (kd_attr_int(f, n, "part") == 1) return m;
    if (kd_attr_int(f, n, "part") == 2) return v;
    if (decoupled && decay != 0) {
        KdValue one = kd_const_like(b, lr, 1);
        w = mul(b, w, sub(b, one, kd_scale(b, lr, decay)));
    }
    KdValue rate = divide(b, lr, bias_correction(b, t, beta1));
    KdValue scale = kd_unary(b, KD_OP_RSQRT, bias_correction(b, t, beta2));
    KdValue root = mul(b, kd_unary(b, KD_OP_SQRT, v), scale);
    return sub(b, w, mul(b, divide(b, m, add(b, root, kd_const_like(b, root, eps))), rate));
}

/* SGD, operands (w, g, m, lr): m' = momentum m + g; w' = w - lr (nesterov ? g + momentum m' : m'). PyTorch's first step
 * sets m' = g, which is the same with m = 0. */
static KdValue sgd(KdBuilder *b, const KdFunc *f, const KdNode *n, const KdValue *in) {
    double momentum = kd_attr_float(f, n, "momentum");
    KdValue g = decayed(b, in[1], in[0], kd_attr_float(f, n, "weight_decay"));
    KdValue m = momentum != 0 ? add(b, kd_scale(b, in[2], momentum), g) : g;
    if (kd_attr_int(f, n, "part") == 1) return m;
    KdValue step = kd_attr_int(f, n, "nesterov") ? add(b, g, kd_scale(b, m, momentum)) : m;
    return sub(b, in[0], mul(b, step, in[3]));
}

/* RMSprop, operands (w, g, v, lr): v' = alpha v + (1 - alpha) g^2; w' = w - lr g / (sqrt(v') + eps). */
static KdValue rmsprop(KdBuilder *b, const KdFunc *f, const KdNode *n, const KdValue *in) {
    KdValue g = decayed(b, in[1], in[0], kd_attr_float(f, n, "weight_decay"));
    KdValue v = running(b, in[2], kd_unary(b, KD_OP_SQUARE, g), kd_attr_float(f, n, "alpha"));
    if (kd_attr_int(f, n, "part") == 1) return v;
    KdValue root = kd_unary(b, KD_OP_SQRT, v);
    root = add(b, root, kd_const_like(b, root, kd_attr_float(f, n, "eps")));
    return sub(b, in[0], mul(b, divide(b, g, root), in[3]));
}

static KdValue expand(KdBuilder *b, const KdFunc *f, KdValue v, const KdValue *in, void *user) {
    (void)user;
    const KdNode *n = kd_node(f, v);
    if (n->op == KD_OP_ADAM) return adam(b, f, n, in);
    if (n->op == KD_OP_SGD) return sgd(b, f, n, in);
    if (n->op == KD_OP_RMSPROP) return rmsprop(b, f, n, in);
    return KD_NONE;
}

KdFunc *kd_pass_optimizer(const KdFunc *f) { return kd_rewrite(f, NULL, expand, NULL); }
