/* test_schedule.c: every schedule against the graph evaluator, bit for bit.
 *
 * A case is an anchor of some shape with a prologue and an epilogue, and the schedule it is forced
 * to use. It is lowered for several machines (vector widths, with and without FMA, caches so small
 * that everything is cut into pieces), before and after the vectoriser, and executed by kl_eval.
 * All data are small integers, so that sums are exact in any order and results must be equal, not
 * close.
 */
#include "tests/passes/lower_harness.h"

typedef enum Prologue {
    PLAIN,
    RELU,
    REFLECT,
    CONCAT,
    SCALED
} Prologue; /* SCALED: both operands are computed */
typedef enum Epilogue { BARE, BIAS_RELU, RESIDUAL, TWO, UPDATE } Epilogue; /* UPDATE: in place */

typedef struct Conv {
    const char *schedule;
    KdOp op;
    int64_t n, groups, in, out, h, w, kh,
        kw; /* in, out: channels of a group; h, w: of the first operand */
    int64_t stride[2], pad[4], dilation[2], extra[2];
    Prologue prologue;
    Epilogue epilogue;
} Conv;

/* clang-format off */
#define CONV(...) {"conv_direct", KD_OP_CONV2D, __VA_ARGS__}
#define FEW(...) {"conv_dots", KD_OP_CONV2D, __VA_ARGS__}
#define WINO(...) {"conv_winograd", KD_OP_CONV2D, __VA_ARGS__}
#define WGWINO(...) {"wgrad_winograd", KD_OP_CONV2D_WGRAD, __VA_ARGS__}
#define WINOBACK(...) {"conv_winograd_back", KD_OP_CONV_TRANSPOSE2D, __VA_ARGS__}
#define DECONV(...) {"conv_phases", KD_OP_CONV_TRANSPOSE2D, __VA_ARGS__}
#define TAPS(...) {"conv_taps", KD_OP_CONV_TRANSPOSE2D, __VA_ARGS__}
#define DEPTH(...) {"conv_depthwise", KD_OP_CONV2D, __VA_ARGS__}
#define DEPTHBACK(...) {"conv_depthwise_back", KD_OP_CONV_TRANSPOSE2D, __VA_ARGS__}
#define POINT(...) {"conv_pointwise", KD_OP_CONV2D, __VA_ARGS__}
#define POINTBACK(...) {"conv_pointwise_back", KD_OP_CONV_TRANSPOSE2D, __VA_ARGS__}
#define OUTER(...) {"wgrad_outer", KD_OP_CONV2D_WGRAD, __VA_ARGS__}
#define INNER(...) {"wgrad_inner", KD_OP_CONV2D_WGRAD, __VA_ARGS__}
#define DOT(...) {"wgrad_dot", KD_OP_CONV2D_WGRAD, __VA_ARGS__}
#define GEMM(...) {"wgrad_gemm", KD_OP_CONV2D_WGRAD, __VA_ARGS__}

static const Conv convs[] = {
    /*    n  g  in out  h   w  kh kw  stride  pad           dilation extra   prologue epilogue */
    CONV(1, 1, 8, 8, 8, 16, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    CONV(2, 1, 3, 5, 9, 21, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BIAS_RELU),
    CONV(1, 1, 5, 9, 7, 5, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, RESIDUAL),
    CONV(1, 1, 4, 7, 6, 37, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, BIAS_RELU),
    CONV(1, 1, 3, 17, 10, 11, 7, 7, {1, 1}, {3, 3, 3, 3}, {1, 1}, {0, 0}, RELU, BARE),
    CONV(1, 1, 19, 3, 9, 8, 7, 7, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, BIAS_RELU),
    CONV(1, 1, 6, 10, 12, 13, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, UPDATE),
    CONV(2, 1, 4, 6, 8, 34, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, CONCAT, BIAS_RELU),
    CONV(1, 1, 7, 20, 4, 4, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    CONV(1, 1, 9, 12, 2, 2, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BARE),
    CONV(3, 2, 3, 4, 7, 7, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, TWO),
    CONV(1, 6, 1, 1, 11, 18, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BIAS_RELU),
    CONV(1, 4, 1, 2, 9, 9, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, REFLECT, BARE),
    CONV(1, 1, 5, 6, 9, 10, 3, 3, {1, 1}, {2, 2, 2, 2}, {2, 2}, {0, 0}, PLAIN, BARE),
    CONV(1, 1, 4, 5, 13, 14, 3, 3, {3, 2}, {2, 1, 0, 3}, {2, 3}, {0, 0}, PLAIN, BIAS_RELU),
    CONV(1, 1, 8, 9, 6, 7, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, SCALED, BIAS_RELU),
    CONV(1, 1, 8, 9, 6, 7, 1, 1, {2, 2}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, BARE),
    CONV(1, 1, 3, 4, 5, 30, 1, 11, {1, 1}, {0, 5, 0, 4}, {1, 1}, {0, 0}, PLAIN, BARE),
    CONV(1, 1, 3, 4, 30, 5, 13, 1, {1, 1}, {6, 0, 2, 0}, {1, 1}, {0, 0}, PLAIN, BARE),
    CONV(1, 1, 2, 3, 12, 25, 1, 10, {1, 3}, {0, 2, 0, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    CONV(2, 1, 3, 16, 8, 8, 4, 4, {4, 4}, {0, 0, 0, 0}, {1, 1}, {0, 0}, SCALED, BARE),
    CONV(1, 1, 2, 2, 5, 6, 3, 2, {1, 1}, {3, 0, 1, 4}, {1, 1}, {0, 0}, PLAIN, BARE),

    FEW(1, 1, 6, 16, 4, 4, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BIAS_RELU),
    FEW(1, 1, 9, 13, 2, 2, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BARE),
    FEW(2, 2, 3, 5, 5, 6, 3, 2, {1, 2}, {1, 0, 2, 1}, {2, 1}, {0, 0}, SCALED, UPDATE),
    FEW(3, 1, 5, 7, 4, 5, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, TWO),

    WINO(1, 1, 8, 8, 8, 16, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    WINO(2, 1, 5, 15, 9, 21, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BIAS_RELU),
    WINO(1, 1, 9, 17, 7, 5, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, RESIDUAL),
    WINO(1, 1, 18, 14, 22, 70, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, TWO),
    WINO(3, 2, 6, 8, 5, 6, 3, 3, {1, 1}, {2, 0, 1, 2}, {1, 1}, {0, 0}, CONCAT, UPDATE),
    WINO(1, 1, 33, 40, 1, 1, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, SCALED, BARE),
    WINO(1, 1, 9, 17, 7, 35, 4, 4, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BIAS_RELU),
    WINO(2, 2, 5, 8, 12, 6, 4, 4, {1, 1}, {0, 2, 1, 3}, {1, 1}, {0, 0}, REFLECT, TWO),
    WINO(1, 1, 8, 8, 8, 32, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    WINO(2, 1, 7, 17, 11, 70, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BIAS_RELU),
    WINO(1, 2, 6, 9, 13, 6, 4, 4, {2, 2}, {2, 0, 1, 3}, {1, 1}, {0, 0}, CONCAT, UPDATE),
    WINO(1, 1, 18, 14, 21, 39, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, SCALED, RESIDUAL),
    WINO(3, 1, 9, 12, 6, 7, 3, 3, {2, 2}, {0, 1, 1, 2}, {1, 1}, {0, 0}, REFLECT, TWO),
    WINOBACK(1, 1, 8, 8, 8, 16, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    WINOBACK(2, 1, 7, 17, 5, 37, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BIAS_RELU),
    WINOBACK(1, 2, 9, 10, 6, 5, 4, 4, {2, 2}, {0, 2, 1, 0}, {1, 1}, {1, 0}, CONCAT, UPDATE),
    WINOBACK(1, 1, 18, 14, 11, 19, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {1, 1}, SCALED, TWO),
    WINOBACK(3, 1, 9, 12, 6, 7, 3, 3, {2, 2}, {2, 0, 1, 1}, {1, 1}, {0, 1}, RELU, BARE),
    WINOBACK(1, 1, 9, 17, 7, 35, 4, 4, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, UPDATE),
    WINOBACK(1, 1, 8, 8, 8, 16, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    WINOBACK(2, 1, 21, 13, 16, 17, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, RELU, BIAS_RELU),
    WINOBACK(1, 2, 7, 9, 6, 33, 3, 3, {1, 1}, {1, 2, 1, 0}, {1, 1}, {0, 0}, SCALED, TWO),
    WINOBACK(1, 1, 40, 18, 3, 2, 3, 3, {1, 1}, {0, 1, 1, 0}, {1, 1}, {0, 0}, CONCAT, UPDATE),

    DECONV(1, 1, 8, 8, 8, 16, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    DECONV(2, 1, 5, 7, 6, 9, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {1, 1}, PLAIN, BIAS_RELU),
    DECONV(1, 1, 9, 5, 7, 17, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, UPDATE),
    DECONV(1, 1, 12, 8, 1, 1, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BARE),
    DECONV(1, 1, 11, 6, 2, 3, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, CONCAT, BARE),
    DECONV(1, 2, 3, 4, 5, 5, 3, 3, {2, 2}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, TWO),
    DECONV(1, 1, 4, 3, 6, 7, 3, 3, {1, 1}, {2, 2, 2, 2}, {2, 2}, {0, 0}, PLAIN, BARE),
    DECONV(1, 1, 4, 3, 5, 6, 3, 3, {2, 2}, {1, 0, 2, 1}, {2, 3}, {0, 1}, PLAIN, BARE),
    DECONV(1, 1, 3, 4, 4, 5, 5, 5, {3, 3}, {1, 1, 1, 1}, {1, 1}, {2, 0}, PLAIN, BIAS_RELU),
    DECONV(1, 1, 3, 4, 4, 5, 2, 2, {4, 3}, {0, 0, 0, 0}, {1, 1}, {1, 1}, PLAIN, BARE),
    DECONV(1, 1, 3, 2, 4, 9, 1, 9, {1, 1}, {0, 4, 0, 4}, {1, 1}, {0, 0}, SCALED, BARE),
    DECONV(1, 4, 1, 1, 6, 6, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    DECONV(1, 1, 6, 3, 5, 20, 7, 7, {1, 1}, {3, 3, 3, 3}, {1, 1}, {0, 0}, PLAIN, BARE),

    TAPS(1, 1, 40, 24, 1, 1, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, BARE),
    TAPS(1, 1, 33, 21, 2, 2, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, CONCAT, BIAS_RELU),
    TAPS(2, 1, 19, 13, 4, 4, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, UPDATE),
    TAPS(1, 1, 20, 7, 8, 9, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, RESIDUAL),
    TAPS(2, 1, 9, 7, 5, 4, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {1, 1}, SCALED, TWO),
    TAPS(1, 2, 6, 5, 3, 5, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, BARE),
    TAPS(2, 2, 5, 6, 4, 3, 3, 2, {2, 3}, {1, 0, 2, 1}, {2, 3}, {0, 1}, RELU, BARE),
    TAPS(1, 1, 4, 5, 3, 17, 2, 2, {4, 3}, {0, 0, 0, 0}, {1, 1}, {1, 1}, PLAIN, BIAS_RELU),
    TAPS(1, 1, 18, 16, 4, 4, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, BARE),

    DEPTH(1, 3, 1, 1, 12, 12, 11, 1, {1, 1}, {5, 0, 5, 0}, {1, 1}, {0, 0}, PLAIN, BARE), /* bands of 6 rows, 4 at a time */
    DEPTH(1, 7, 1, 1, 12, 18, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BIAS_RELU),
    DEPTH(2, 5, 1, 1, 11, 37, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, REFLECT, UPDATE),
    DEPTH(1, 3, 1, 2, 9, 9, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, RESIDUAL),
    DEPTH(1, 4, 1, 1, 14, 33, 2, 3, {3, 1}, {0, 2, 1, 0}, {2, 3}, {0, 0}, SCALED, TWO),
    DEPTH(2, 3, 1, 1, 7, 5, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, RELU, BARE),
    DEPTH(1, 3, 1, 1, 16, 16, 3, 4, {1, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    DEPTHBACK(1, 5, 1, 1, 13, 18, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BIAS_RELU),
    DEPTHBACK(2, 3, 1, 2, 9, 20, 3, 3, {1, 1}, {0, 2, 1, 0}, {1, 1}, {0, 0}, SCALED, TWO),
    DEPTHBACK(1, 4, 1, 1, 8, 7, 3, 2, {1, 1}, {2, 1, 2, 1}, {2, 1}, {0, 0}, RELU, UPDATE),
    POINT(1, 1, 8, 9, 6, 7, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, SCALED, BIAS_RELU),
    POINT(2, 1, 5, 33, 16, 16, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, RESIDUAL),
    POINT(1, 3, 6, 4, 5, 21, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, RELU, UPDATE),
    POINT(2, 1, 12, 3, 1, 9, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, CONCAT, TWO),
    POINT(1, 1, 7, 1, 1, 1, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, BARE),
    POINT(1, 1, 3, 40, 33, 64, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, SCALED, BARE),
    POINTBACK(1, 1, 9, 17, 7, 6, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, RELU, BIAS_RELU),
    POINTBACK(2, 2, 5, 14, 8, 16, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, SCALED, TWO),
    POINTBACK(1, 1, 6, 5, 30, 1, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, UPDATE),

    OUTER(1, 1, 8, 16, 6, 16, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    OUTER(2, 1, 5, 19, 7, 9, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, UPDATE),
    OUTER(1, 1, 3, 17, 9, 18, 7, 7, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, BARE),
    OUTER(1, 1, 6, 10, 9, 11, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, TWO),
    OUTER(2, 1, 4, 5, 8, 8, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, CONCAT, BARE),
    OUTER(3, 3, 2, 3, 6, 5, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, SCALED, BARE),
    OUTER(1, 1, 4, 3, 11, 13, 3, 2, {2, 3}, {0, 2, 1, 0}, {2, 1}, {0, 0}, PLAIN, BARE),
    OUTER(1, 1, 9, 8, 5, 6, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, PLAIN, BARE),
    OUTER(1, 1, 2, 3, 4, 30, 1, 17, {1, 1}, {0, 8, 0, 8}, {1, 1}, {0, 0}, PLAIN, BARE),
    OUTER(1, 4, 1, 1, 6, 7, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),

    INNER(1, 1, 16, 3, 8, 9, 7, 7, {1, 1}, {3, 3, 3, 3}, {1, 1}, {0, 0}, PLAIN, BARE),
    INNER(2, 1, 19, 2, 7, 6, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, UPDATE),
    INNER(1, 1, 5, 4, 9, 8, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, SCALED, BARE),
    INNER(1, 2, 3, 5, 7, 7, 3, 3, {2, 1}, {0, 1, 2, 0}, {1, 2}, {0, 0}, PLAIN, TWO),
    INNER(1, 1, 3, 1, 3, 24, 1, 15, {1, 1}, {0, 7, 0, 7}, {1, 1}, {0, 0}, PLAIN, BARE),

    WGWINO(1, 1, 16, 13, 8, 16, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    WGWINO(2, 1, 5, 19, 7, 9, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, UPDATE),
    WGWINO(1, 1, 40, 17, 9, 70, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, BARE),
    WGWINO(3, 2, 9, 8, 6, 5, 3, 3, {1, 1}, {2, 0, 1, 2}, {1, 1}, {0, 0}, SCALED, TWO),
    WGWINO(2, 1, 19, 14, 9, 18, 4, 4, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, UPDATE),
    WGWINO(1, 2, 5, 15, 8, 7, 4, 4, {1, 1}, {2, 0, 1, 3}, {1, 1}, {0, 0}, SCALED, BARE),
    DOT(1, 8, 1, 1, 9, 18, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    DOT(2, 5, 1, 1, 11, 37, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, REFLECT, UPDATE),
    DOT(1, 3, 2, 3, 6, 9, 5, 5, {1, 1}, {2, 2, 2, 2}, {1, 1}, {0, 0}, RELU, TWO),
    DOT(1, 2, 1, 2, 12, 9, 7, 7, {1, 1}, {0, 3, 2, 1}, {1, 1}, {0, 0}, SCALED, BARE),
    DOT(1, 4, 1, 1, 9, 8, 2, 3, {3, 2}, {0, 2, 1, 0}, {2, 1}, {0, 0}, PLAIN, BARE),

    GEMM(1, 1, 7, 9, 4, 4, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    GEMM(2, 1, 5, 12, 3, 5, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0}, RELU, UPDATE),
    GEMM(1, 1, 8, 3, 2, 2, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, {0, 0}, PLAIN, BARE),
    GEMM(2, 3, 2, 4, 6, 7, 3, 2, {2, 1}, {1, 0, 0, 2}, {1, 2}, {0, 0}, SCALED, BARE),
    GEMM(1, 1, 3, 4, 6, 5, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, {0, 0}, REFLECT, TWO),
};

/* clang-format on */
typedef struct Product {
    const char *schedule;
    int64_t batch, rows, columns, depth; /* batch 0: rank 2 */
    int ta, tb;
    Prologue prologue;
    Epilogue epilogue;
} Product;

/* clang-format off */
#define MATMUL(...) {"matmul_packed", __VA_ARGS__}
#define DOTS(...) {"matmul_dots", __VA_ARGS__}

static const Product products[] = {
    /*     z  rows cols depth ta tb */
    MATMUL(0, 16, 48, 24, 0, 0, PLAIN, BARE),
    MATMUL(0, 13, 37, 29, 0, 0, RELU, BIAS_RELU),
    MATMUL(0, 13, 37, 29, 0, 1, PLAIN, RESIDUAL),
    MATMUL(0, 13, 37, 29, 1, 0, PLAIN, BIAS_RELU),
    MATMUL(0, 13, 37, 29, 1, 1, SCALED, TWO),
    MATMUL(3, 9, 21, 10, 0, 0, PLAIN, BARE),
    MATMUL(2, 9, 21, 10, 1, 1, SCALED, BARE),
    MATMUL(2, 21, 3, 10, 0, 1, RELU, UPDATE),
    MATMUL(2, 21, 3, 10, 1, 0, PLAIN, BARE),
    MATMUL(0, 1, 50, 40, 0, 0, PLAIN, BARE),
    MATMUL(0, 1, 50, 40, 0, 1, PLAIN, BARE),
    MATMUL(0, 50, 1, 40, 0, 0, PLAIN, BIAS_RELU),
    MATMUL(0, 50, 1, 40, 1, 0, PLAIN, BARE),
    MATMUL(0, 1, 1, 70, 0, 0, PLAIN, BARE),
    MATMUL(0, 70, 65, 1, 0, 0, PLAIN, BARE),
    MATMUL(0, 2, 3, 5, 1, 1, PLAIN, BARE),
    MATMUL(4, 17, 16, 33, 0, 1, CONCAT, TWO),
    MATMUL(0, 40, 100, 150, 0, 0, PLAIN, BARE),
    MATMUL(0, 1, 256, 40, 0, 0, PLAIN, BIAS_RELU),
    MATMUL(2, 3, 64, 21, 1, 0, PLAIN, UPDATE),
    DOTS(0, 1, 50, 40, 0, 1, PLAIN, BIAS_RELU),
    DOTS(0, 50, 1, 40, 0, 0, RELU, UPDATE),
    DOTS(0, 45, 1, 33, 0, 1, PLAIN, BARE),
    DOTS(0, 1, 45, 33, 1, 1, SCALED, BARE),
    DOTS(0, 3, 70, 64, 0, 1, PLAIN, TWO),
    DOTS(3, 21, 5, 19, 0, 1, SCALED, RESIDUAL),
    DOTS(2, 1, 1, 5, 0, 0, PLAIN, BARE),
};

/* clang-format on */
typedef struct Case {
    const Conv *conv;
    const Product *product;
    char name[160];
} Case;

/* ---- graphs ------------------------------------------------------------------------------ */

static const KdType *f32(KdContext *cx, int rank, const int64_t *dim) {
    return kd_type(cx, KD_F32, rank, dim);
}

static KdValue input(KdBuilder *b, const char *name, int rank, const int64_t *dim) {
    return kd_input(b, name, KD_DATA, f32(b->cx, rank, dim), "");
}

/* A value of these dims that the anchor's prologue must compute. */
static KdValue operand(KdBuilder *b, const char *name, int rank, const int64_t *dim, Prologue p) {
    int64_t d[4], lo[4] = {0, 0, 0, 0}, hi[4] = {0, 0, 0, 0};
    memcpy(d, dim, (size_t)rank * sizeof *d);
    if (p == REFLECT && d[rank - 1] >= 3 && d[rank - 2] >= 3) {
        lo[rank - 1] = 1, hi[rank - 1] = 1,
                  lo[rank - 2] = 1; /* the operand's size stays, its source shrinks */
        d[rank - 1] -= 2, d[rank - 2] -= 1;
        KdAttr a[2] = {{.ints = {rank, lo}}, {.ints = {rank, hi}}};
        KdValue x = input(b, name, rank, d);
        return kd_build(b, KD_OP_PAD_REFLECT, NULL, &x, 1, a);
    }
    if (p == CONCAT && d[1] >= 2) {
        KdValue part[2];
        d[1] = dim[1] / 2;
        part[0] = input(b, name, rank, d);
        d[1] = dim[1] - dim[1] / 2;
        part[1] = input(b, kd_format(b->cx, "%s2", name), rank, d);
        KdAttr a[1] = {{.i = 1}};
        return kd_unary(b, KD_OP_RELU, kd_build(b, KD_OP_CONCAT, NULL, part, 2, a));
    }
    KdValue x = input(b, name, rank, d);
    return p == RELU ? kd_unary(b, KD_OP_RELU, x) : p == SCALED ? kd_scale(b, x, 2) : x;
}

static void finish(KdBuilder *b, KdValue y, Epilogue e) {
    const KdType *t = kd_vtype(b->f, y);
    KdValue other = KD_NONE, updates = KD_NONE;
    if (e == UPDATE) {
        updates = input(b, "old", t->rank, t->dim);
        y = kd_binary(b, KD_OP_SUB, updates, y);
    } else if (e == BIAS_RELU) {
        int64_t dim[4] = {1, 1, 1, 1};
        int axis = t->rank == 4 ? 1 : t->rank - 1;
        dim[axis] = t->dim[axis];
        y = kd_unary(b, KD_OP_RELU, kd_binary(b, KD_OP_ADD, y, input(b, "bias", t->rank, dim)));
    } else if (e == RESIDUAL || e == TWO) {
        KdValue sum = kd_binary(b, KD_OP_ADD, input(b, "residual", t->rank, t->dim), y);
        other = e == TWO ? y : KD_NONE;
        y = sum;
    }
    kd_output(b->f, "y", y, updates);
    if (other != KD_NONE) kd_output(b->f, "z", other, KD_NONE);
}

static void build_conv(KdBuilder *b, const Conv *c) {
    int64_t x[4] = {c->n, c->groups * c->in, c->h, c->w},
            w[4] = {c->groups * c->out, c->in, c->kh, c->kw};
    int64_t kernel[2] = {c->kh, c->kw};
    Prologue second = c->prologue == SCALED ? SCALED : PLAIN;
    KdAttr stride = {.ints = {2, c->stride}}, pad = {.ints = {4, c->pad}},
           dilation = {.ints = {2, c->dilation}};
    KdAttr groups = {.i = c->groups}, extra = {.ints = {2, c->extra}};
    KdValue in[2] = {operand(b, "x", 4, x, c->prologue), KD_NONE};
    if (c->op == KD_OP_CONV2D) {
        KdAttr a[4] = {stride, pad, dilation, groups};
        in[1] = operand(b, "w", 4, w, second);
        finish(b, kd_build(b, c->op, NULL, in, 2, a), c->epilogue);
    } else if (c->op == KD_OP_CONV_TRANSPOSE2D) {
        KdAttr a[5] = {stride, pad, dilation, groups, extra};
        w[0] = c->groups * c->in, w[1] = c->out;
        in[1] = operand(b, "w", 4, w, second);
        finish(b, kd_build(b, c->op, NULL, in, 2, a), c->epilogue);
    } else {
        KdAttr a[5] = {{.ints = {2, kernel}}, stride, pad, dilation, groups};
        int64_t gy[4] = {c->n, c->groups * c->out};
        gy[2] =
            (c->h + c->pad[0] + c->pad[2] - c->dilation[0] * (c->kh - 1) - 1) / c->stride[0] + 1;
        gy[3] =
            (c->w + c->pad[1] + c->pad[3] - c->dilation[1] * (c->kw - 1) - 1) / c->stride[1] + 1;
        in[1] = operand(b, "gy", 4, gy, second);
        finish(b, kd_build(b, c->op, NULL, in, 2, a), c->epilogue);
    }
}

static void build_product(KdBuilder *b, const Product *p) {
    int rank = p->batch ? 3 : 2, skip = 3 - rank;
    int64_t x[3] = {p->batch, p->ta ? p->depth : p->rows, p->ta ? p->rows : p->depth};
    int64_t y[3] = {p->batch, p->tb ? p->columns : p->depth, p->tb ? p->depth : p->columns};
    KdValue a = operand(b, "a", rank, x + skip, p->prologue);
    KdValue c = operand(b, "b", rank, y + skip, p->prologue);
    finish(b, kd_matmul(b, a, c, p->ta, p->tb), p->epilogue);
}

/* ---- running ----------------------------------------------------------------------------- */

static double **integers(const KdFunc *f) {
    double **in = KD_NEW_ARRAY(f->cx, double *, f->inputs.n + 1);
    uint64_t s = 1;
    for (int k = 0; k < f->inputs.n; k++) {
        int64_t n = kd_vtype(f, f->inputs.v[k])->count;
        in[k] = KD_NEW_ARRAY(f->cx, double, n + 1);
        for (int64_t i = 0; i < n; i++) {
            s = s * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            in[k][i] = (double)((s >> 33) % 9) - 4;
        }
    }
    return in;
}

static const KdGroup *anchor(const KdFusion *fu) {
    for (int g = 0; g < fu->groups.n; g++)
        if (fu->groups.v[g].kind == KD_GROUP_ANCHOR) return &fu->groups.v[g];
    return NULL;
}

/* To 4e-5 of the root mean square of each output. */
static const char *nearly(const KdFunc *f, double *const *got, double *const *want) {
    for (int o = 0; o < f->outputs.n; o++) {
        int64_t n = kd_vtype(f, f->outputs.v[o].value)->count;
        double sum = 0, most = 0;
        for (int64_t i = 0; i < n; i++) {
            double d = fabs(got[o][i] - want[o][i]);
            sum += want[o][i] * want[o][i];
            most = d <= most ? most : d;
        }
        if (!(most <= 4e-5 * sqrt(sum / (double)n)))
            return kd_format(f->cx, "%s differs by %g, at a root mean square of %g", f->outputs.v[o].name, most,
                             sqrt(sum / (double)n));
    }
    return NULL;
}

static const char *run_on(const KdFunc *f, const char *schedule, int winograd, bool exact,
                          KlMachine machine, bool vectorize, double *const *in, double *const *want) {
    KdPassOptions o = {
        .machine = machine, .fuse = true, .schedule = schedule, .winograd = winograd};
    KdFusion *fu = kd_fuse(f, &o);
    KdLower l = {.cx = f->cx, .fu = fu, .o = &o};
    const KdGroup *g = anchor(fu);
    if (!g) return "there is no anchor group";
    const char *chosen = kd_schedule_choose(&l, g);
    if (!chosen || strcmp(chosen, schedule) != 0)
        return kd_format(f->cx, "chose %s", chosen ? chosen : "the generic path");
    KlModule *m = kd_lower(fu, kd_memplan(fu), &o);
    for (int k = 0; k < m->kernels.n && vectorize; k++)
        kl_vectorize(m->kernels.v[k], &machine);
    const char *stage = kd_format(f->cx, "lanes %d, l2 %lld%s", machine.lanes,
                                  (long long)machine.l2, vectorize ? ", vectorised" : "");
    double **got = lh_results(f);
    const char *wrong = lh_execute(f, m, in, got);
    if (!wrong) wrong = exact ? lh_compare(f, got, want, 0) : nearly(f, got, want);
    return wrong ? kd_format(f->cx, "%s: %s", stage, wrong) : NULL;
}

static void run_case(void **state) {
    const Case *c = *state;
    static const KlMachine machines[] = {
        {16, 32, true, true, 32 << 10, 1 << 20, 8 << 20},
        {8, 16, true, true, 32 << 10, 256 << 10, 8 << 20},
        {4, 16, false, false, 600, 3000, 1 << 20},
    };
    KdContext *cx = kd_context_new();
    const char *wrong = NULL;
    KdLanding landing;
    assert_non_null(cx);
    if (KD_TRY(cx, landing)) {
        KdFunc *f = kd_func_new(cx, "case");
        KdBuilder b = kd_builder(f);
        if (c->conv)
            build_conv(&b, c->conv);
        else
            build_product(&b, c->product);
        if (kd_error_count(cx)) {
            wrong = "the case does not build";
        } else {
            double **in = integers(f), **want = lh_want(f, in);
            const char *schedule = c->conv ? c->conv->schedule : c->product->schedule;
            for (int k = 0; k < KD_COUNT(machines) && !wrong; k++)
                for (int v = 0; v < 2 && !wrong; v++) {
                    bool winograd = strstr(schedule, "winograd");
                    /* With 3 taps, tiles of 2x2 have factors of 1/2 alone, with stride 2 none; else there are sixths. */
                    bool exact = !winograd || c->conv->kh == 3 || c->conv->stride[0] == 2;
                    wrong = run_on(f, schedule, winograd ? 2 : 0, exact, machines[k], v, in, want);
                    if (winograd && !wrong)
                        wrong = run_on(f, schedule, 4, false, machines[k], v, in, want);
                }
        }
        kd_landing_pop(cx);
    } else {
        kd_failure(cx, &wrong);
    }
    if (wrong) {
        kd_diag_print(cx, stderr, false);
        print_error("%s: %s\n", c->name, wrong);
    }
    bool failed = wrong != NULL;
    kd_context_free(cx);
    assert_false(failed);
}

/* Too small for a schedule's compile time; large enough; forced away. */
static void test_choice(void **state) {
    (void)state;
    static const struct {
        int64_t size;
        const char *force, *want;
    } rows[] = {
        {1, NULL, NULL},
        {64, NULL, "matmul_packed"},
        {64, "generic", NULL},
        {2, "matmul_packed", "matmul_packed"},
        {64, "conv_direct", "matmul_packed"}, /* a schedule of another op forces nothing */
    };
    for (int i = 0; i < KD_COUNT(rows); i++) {
        KdContext *cx = kd_context_new();
        KdFunc *f = kd_func_new(cx, "choice");
        KdBuilder b = kd_builder(f);
        int64_t dim[2] = {rows[i].size, rows[i].size};
        kd_output(f, "y",
                  kd_matmul(&b, input(&b, "a", 2, dim), input(&b, "b", 2, dim), false, false),
                  KD_NONE);
        KdPassOptions o = {.machine = lh_machine(16), .fuse = true, .schedule = rows[i].force};
        KdLower l = {.cx = cx, .fu = kd_fuse(f, &o), .o = &o};
        const char *got = kd_schedule_choose(&l, anchor(l.fu));
        assert_int_equal(got != NULL, rows[i].want != NULL);
        if (got) assert_string_equal(got, rows[i].want);
        kd_context_free(cx);
    }
}

static void name_case(Case *c) {
    if (c->conv) {
        const Conv *v = c->conv;
        snprintf(c->name, sizeof c->name,
                 "%s n%d g%d %d->%d %dx%d k%dx%d s%d,%d d%d,%d pro%d epi%d", v->schedule, (int)v->n,
                 (int)v->groups, (int)v->in, (int)v->out, (int)v->h, (int)v->w, (int)v->kh,
                 (int)v->kw, (int)v->stride[0], (int)v->stride[1], (int)v->dilation[0],
                 (int)v->dilation[1], (int)v->prologue, (int)v->epilogue);
    } else {
        const Product *p = c->product;
        snprintf(c->name, sizeof c->name, "%s z%d %dx%dx%d t%d%d pro%d epi%d", p->schedule,
                 (int)p->batch, (int)p->rows, (int)p->columns, (int)p->depth, p->ta, p->tb,
                 (int)p->prologue, (int)p->epilogue);
    }
}

int main(void) {
    enum { CASES = KD_COUNT(convs) + KD_COUNT(products) };
    static Case cases[CASES];
    static struct CMUnitTest tests[CASES + 1];
    for (int i = 0; i < CASES; i++) {
        Case *c = &cases[i];
        *c = (Case){.conv = i < KD_COUNT(convs) ? &convs[i] : NULL};
        c->product = c->conv ? NULL : &products[i - KD_COUNT(convs)];
        name_case(c);
        tests[i] = (struct CMUnitTest){c->name, run_case, NULL, NULL, c};
    }
    tests[CASES] = (struct CMUnitTest)cmocka_unit_test(test_choice);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
