/* elementwise_eval.c: the naive reference of the elementwise ops: one plain expression each, in double precision.
 *
 * i32 arithmetic is done in 64-bit integers and wraps. Written apart from the element rules, so that each can catch the
 * other's mistakes.
 */
#include <math.h>

#include "ir/ops/ops.h"
#include "ir/ops/shape.h"

#define ARGUMENTS const KdFunc *f, const KdNode *n, const double *const *in, double *out

/* x: the operand's element, as double in the f32 expression, as int64_t in the i32 one. */
#define UNARY(name, f32, i32)                                                                      \
    void eval_##name(ARGUMENTS) {                                                                  \
        (void)f;                                                                                   \
        for (int64_t i = 0; i < n->type->count; i++) {                                             \
            if (n->type->dtype == KD_F32) {                                                        \
                double x = in[0][i];                                                               \
                out[i] = (f32);                                                                    \
            } else {                                                                               \
                int64_t x = (int64_t)in[0][i];                                                     \
                out[i] = kd_wrap32(i32);                                                           \
            }                                                                                      \
        }                                                                                          \
    }

#define FLOAT_UNARY(name, f32)                                                                     \
    void eval_##name(ARGUMENTS) {                                                                  \
        (void)f;                                                                                   \
        for (int64_t i = 0; i < n->type->count; i++) {                                             \
            double x = in[0][i];                                                                   \
            out[i] = (f32);                                                                        \
        }                                                                                          \
    }

#define BINARY(name, f32, i32)                                                                     \
    void eval_##name(ARGUMENTS) {                                                                  \
        (void)f;                                                                                   \
        for (int64_t i = 0; i < n->type->count; i++) {                                             \
            if (n->type->dtype == KD_F32) {                                                        \
                double x = in[0][i], y = in[1][i];                                                 \
                out[i] = (f32);                                                                    \
            } else {                                                                               \
                int64_t x = (int64_t)in[0][i], y = (int64_t)in[1][i];                              \
                out[i] = kd_wrap32(i32);                                                           \
            }                                                                                      \
        }                                                                                          \
    }

/* Comparisons: the same for both element types, i32 values being exact in double. */
#define COMPARE(name, f32)                                                                         \
    void eval_##name(ARGUMENTS) {                                                                  \
        (void)f;                                                                                   \
        for (int64_t i = 0; i < n->type->count; i++) {                                             \
            double x = in[0][i], y = in[1][i];                                                     \
            out[i] = (f32) ? 1 : 0;                                                                \
        }                                                                                          \
    }

UNARY(neg, -x, -x)
UNARY(abs, fabs(x), x < 0 ? -x : x)
UNARY(sign, (x > 0) - (x < 0), (x > 0) - (x < 0))
UNARY(square, x * x, x * x)
UNARY(relu, x < 0 ? 0 : x, x < 0 ? 0 : x)
FLOAT_UNARY(sqrt, sqrt(x))
FLOAT_UNARY(rsqrt, 1 / sqrt(x))
FLOAT_UNARY(reciprocal, 1 / x)
FLOAT_UNARY(exp, exp(x))
FLOAT_UNARY(log, log(x))
FLOAT_UNARY(tanh, tanh(x))
FLOAT_UNARY(sigmoid, 1 / (1 + exp(-x)))
FLOAT_UNARY(softplus, x != x ? x : fmax(x, 0) + log1p(exp(-fabs(x))))
FLOAT_UNARY(floor, floor(x))
FLOAT_UNARY(copy, x)

BINARY(add, x + y, x + y)
BINARY(sub, x - y, x - y)
BINARY(mul, x *y, x *y)
BINARY(div, x / y, y == 0 ? 0 : x / y) /* i32: by zero gives 0, where PyTorch would throw */
BINARY(maximum, x != x || x > y ? x : y, x > y ? x : y)
BINARY(minimum, x != x || x < y ? x : y, x < y ? x : y)
FLOAT_UNARY(leaky_relu, x > 0 ? x : x * kd_attr_float(f, n, "slope"))

void eval_pow(ARGUMENTS) {
    (void)f;
    for (int64_t i = 0; i < n->type->count; i++) out[i] = pow(in[0][i], in[1][i]);
}

COMPARE(eq, x == y)
COMPARE(ne, x != y)
COMPARE(lt, x < y)
COMPARE(le, x <= y)

/* PyTorch: min(max(x, lo), hi), so hi wins when lo > hi; bounds of integers are truncated. */
void eval_clamp(ARGUMENTS) {
    double lo = kd_fit(n->type->dtype, kd_attr_float(f, n, "min"));
    double hi = kd_fit(n->type->dtype, kd_attr_float(f, n, "max"));
    for (int64_t i = 0; i < n->type->count; i++) {
        double x = in[0][i];
        if (x < lo) x = lo;
        if (x > hi) x = hi;
        out[i] = x;
    }
}

void eval_cast(ARGUMENTS) {
    (void)f;
    for (int64_t i = 0; i < n->type->count; i++) out[i] = kd_fit(n->type->dtype, in[0][i]);
}

void eval_where(ARGUMENTS) {
    (void)f;
    for (int64_t i = 0; i < n->type->count; i++) out[i] = in[0][i] != 0 ? in[1][i] : in[2][i];
}
