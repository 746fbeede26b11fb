/* test_ops_a.c: rows of op_harness.h for leaves, elementwise ops, index ops and random; PyTorch's edge conventions.
 *
 * Every op has rows over shapes (forward against the element rule, both gradients against differences), rows with
 * literal expectations, and rows that must be refused. The kinks, where differences say nothing, have a table of their
 * own: which gradient flows at relu(0), abs(0), ties, clamp's edges, NaN.
 */
#include "tests/ir/op_harness.h"
#include "ir/random_bits.h"

#define V(...) (const double[]){__VA_ARGS__}

static const char *const shapes[] = {"s",       "1",         "7",           "1x1",         "3x5",        "5x1",
                                     "2x3x4",   "1x1x1x1",   "2x3x5x7",     "3x1x4x1x2",   "2x1x3x1x2x2", "0x3"};

static void cross(KhSuite *s, KhCase c) {
    kh_cross(s, c, shapes, KD_COUNT(shapes));
}

static void add_table(KhSuite *s, const KhCase *row, int n, unsigned flags) {
    for (int i = 0; i < n; i++) {
        KhCase c = row[i];
        c.flags |= flags;
        kh_add(s, c);
    }
}
#define ADD(s, table, flags) add_table(s, table, KD_COUNT(table), flags)

/* ---- leaves ------------------------------------------------------------------------------------------ */

static const KhCase leaf_edges[] = {
    {KD_OP_CONST, "2", "value=0.1", .want = V(0.1, 0.1)},
    {KD_OP_CONST, "j:2x1", "value=-7", .want = V(-7, -7)},
    {KD_OP_CONST, "u:2", "value=255", .want = V(255, 255)},
    {KD_OP_CONST, "j:1", "value=2147483647", .want = V(2147483647)},
    {KD_OP_LITERAL, "2x2", "values=1,-2,3,0.5", .want = V(1, -2, 3, 0.5), .flags = KH_NO_ELEM},
    {KD_OP_IOTA, "j:2x3", "axis=1", .want = V(0, 1, 2, 0, 1, 2)},
    {KD_OP_IOTA, "2x3", "axis=0", .want = V(0, 0, 0, 1, 1, 1)},
    {KD_OP_IOTA, "2x3", "axis=2", .error = "iota"},
    {KD_OP_LITERAL, "2x3", "values=1,2", .error = "literal"},
};

static void add_leaves(KhSuite *s) {
    cross(s, (KhCase){KD_OP_INPUT, "%", "name=x", .flags = KH_NO_ELEM});
    kh_add(s, (KhCase){KD_OP_INPUT, "u:2x3", "name=img role=frozen", .flags = KH_NO_ELEM});
    cross(s, (KhCase){KD_OP_CONST, "%", "value=-2.5"});

    static const char *const literal[][2] = {{"s", "values=4"}, {"1", "values=-1"}, {"3", "values=1,2,3"},
        {"2x2", "values=1,-2,3,0.5"}, {"1x4", "values=0,0,1,2"}, {"j:3", "values=-1,0,7"}, {"u:2x1", "values=0,255"},
        {"1x1x1", "values=9"}, {"2x1x2", "values=1,2,3,4"}, {"0", "values="}, {"1x2x1x2", "values=1e-3,2,3,4"}};
    for (int i = 0; i < KD_COUNT(literal); i++)
        kh_add(s, (KhCase){KD_OP_LITERAL, literal[i][0], literal[i][1], .flags = KH_NO_ELEM});

    static const char *const iota[][2] = {{"1", "axis=0"}, {"7", "axis=0"}, {"3x5", "axis=0"}, {"3x5", "axis=1"},
        {"j:2x3x4", "axis=2"}, {"j:1x1x1x1", "axis=3"}, {"2x3x5x7", "axis=2"}, {"u:4", "axis=0"}, {"j:5x1", "axis=1"},
        {"2x1x3x1x2x2", "axis=2"}, {"u:300", "axis=0"}, {"0x3", "axis=1"}};
    for (int i = 0; i < KD_COUNT(iota); i++) kh_add(s, (KhCase){KD_OP_IOTA, iota[i][0], iota[i][1]});
}

/* ---- elementwise -------------------------------------------------------------------------------------- */

static void add_unary(KhSuite *s) {
    static const struct { KdOp op; const char *operands, *attrs; } row[] = {
        {KD_OP_NEG, "%"}, {KD_OP_NEG, "j:%"}, {KD_OP_ABS, "%"}, {KD_OP_ABS, "j:%"}, {KD_OP_SIGN, "c:%"},
        {KD_OP_SIGN, "j:%"}, {KD_OP_SQUARE, "%"}, {KD_OP_SQUARE, "j:%"}, {KD_OP_SQRT, "p:%"}, {KD_OP_RSQRT, "p:%"},
        {KD_OP_RECIPROCAL, "%"}, {KD_OP_EXP, "%"}, {KD_OP_LOG, "p:%"}, {KD_OP_TANH, "%"}, {KD_OP_SIGMOID, "%"},
        {KD_OP_SOFTPLUS, "%"}, {KD_OP_FLOOR, "%"}, {KD_OP_RELU, "%"}, {KD_OP_RELU, "j:%"}, {KD_OP_LEAKY_RELU, "%"},
        {KD_OP_LEAKY_RELU, "%", "slope=0.2"}, {KD_OP_LEAKY_RELU, "%", "slope=-0.5"},
        {KD_OP_CLAMP, "%", "min=-1 max=1"}, {KD_OP_CLAMP, "j:%", "min=-10 max=10"}, {KD_OP_DETACH, "%"},
        {KD_OP_DETACH, "u:%"}, {KD_OP_CAST, "%", "dtype=i32"}, {KD_OP_CAST, "%", "dtype=u8"},
        {KD_OP_CAST, "j:%", "dtype=f32"}, {KD_OP_CAST, "j:%", "dtype=u8"}, {KD_OP_CAST, "u:%", "dtype=f32"},
        {KD_OP_CAST, "u:%", "dtype=i32"},
    };
    for (int i = 0; i < KD_COUNT(row); i++) {
        /* detach has no gradient by design; differences see one */
        unsigned flags = row[i].op == KD_OP_DETACH ? KH_NO_GRAD : 0;
        cross(s, (KhCase){row[i].op, row[i].operands, row[i].attrs ? row[i].attrs : "", .flags = flags});
    }
}

static const KhCase unary_edges[] = {
    {KD_OP_NEG, "4", "", V(-1, 0, INFINITY, NAN), V(1, 0, -INFINITY, NAN)},
    {KD_OP_NEG, "j:2", "", V(INT32_MIN, 5), V(INT32_MIN, -5)},
    {KD_OP_ABS, "4", "", V(-1, -0.0, -INFINITY, NAN), V(1, 0, INFINITY, NAN)},
    {KD_OP_ABS, "j:3", "", V(INT32_MIN, -5, 5), V(INT32_MIN, 5, 5)},
    {KD_OP_SIGN, "5", "", V(-2, -0.0, 0, 3, NAN), V(-1, 0, 0, 1, 0)},
    {KD_OP_SQUARE, "3", "", V(-3, 0.5, NAN), V(9, 0.25, NAN)},
    {KD_OP_SQUARE, "j:2", "", V(65536, 46341), V(0, -2147479015)},
    {KD_OP_SQRT, "4", "", V(0, 4, -1, INFINITY), V(0, 2, NAN, INFINITY)},
    {KD_OP_RSQRT, "3", "", V(4, 0, INFINITY), V(0.5, INFINITY, 0)},
    {KD_OP_RECIPROCAL, "3", "", V(4, 0, -INFINITY), V(0.25, INFINITY, 0)},
    {KD_OP_EXP, "5", "", V(0, 1, -INFINITY, INFINITY, NAN), V(1, 2.718281828459, 0, INFINITY, NAN)},
    {KD_OP_LOG, "5", "", V(1, 2.718281828459, 0, -1, INFINITY), V(0, 1, -INFINITY, NAN, INFINITY)},
    {KD_OP_TANH, "5", "", V(0, 0.5, -30, INFINITY, NAN), V(0, 0.46211715726, -1, 1, NAN)},
    {KD_OP_SIGMOID, "5", "", V(0, 2, -200, 200, NAN), V(0.5, 0.88079707797788, 0, 1, NAN)},
    {KD_OP_SOFTPLUS, "5", "", V(0, -200, 200, 1, NAN), V(0.69314718056, 0, 200, 1.31326168752, NAN)},
    {KD_OP_FLOOR, "4", "", V(-1.5, 1.99, -2, NAN), V(-2, 1, -2, NAN)},
    {KD_OP_RELU, "6", "", V(-1, 0, 2, NAN, INFINITY, -INFINITY), V(0, 0, 2, NAN, INFINITY, 0)},
    {KD_OP_RELU, "j:3", "", V(-4, 0, 9), V(0, 0, 9)},
    {KD_OP_LEAKY_RELU, "4", "slope=0.25", V(-2, 0, 3, NAN), V(-0.5, 0, 3, NAN)},
    {KD_OP_LEAKY_RELU, "1", "", V(-1), V(-0.01)},
    {KD_OP_CLAMP, "5", "min=-1 max=2", V(-3, -1, 0.5, 7, NAN), V(-1, -1, 0.5, 2, NAN)},
    {KD_OP_CLAMP, "3", "min=2 max=-1", V(-3, 0, 9), V(-1, -1, -1)}, /* PyTorch: max wins */
    {KD_OP_CLAMP, "2", "min=-inf max=1", V(-1e30, 3), V(-1e30, 1)},
    {KD_OP_CLAMP, "j:3", "min=-1.5 max=1e30", V(-3, 0, 9), V(-1, 0, 9)},
    {KD_OP_CAST, "7", "dtype=i32", V(-1.9, 1.9, 3e9, -3e9, NAN, INFINITY, 0),
     V(-1, 1, INT32_MAX, INT32_MIN, 0, INT32_MAX, 0)},
    {KD_OP_CAST, "6", "dtype=u8", V(-1.9, 1.9, 254.9, 256, NAN, INFINITY), V(0, 1, 254, 255, 0, 255)},
    {KD_OP_CAST, "j:4", "dtype=u8", V(-5, 5, 256, INT32_MAX), V(0, 5, 255, 255)},
    {KD_OP_CAST, "u:2", "dtype=f32", V(0, 200), V(0, 200)},
    {KD_OP_CAST, "2", "dtype=f32", V(0.5, NAN), V(0.5, NAN)},
};

static void add_binary(KhSuite *s) {
    static const struct { KdOp op; const char *operands; } row[] = {
        {KD_OP_ADD, "% %"}, {KD_OP_ADD, "j:% j:%"}, {KD_OP_SUB, "% %"}, {KD_OP_SUB, "j:% j:%"}, {KD_OP_MUL, "% %"},
        {KD_OP_MUL, "j:% j:%"}, {KD_OP_DIV, "% %"}, {KD_OP_DIV, "j:% j:%"}, {KD_OP_DIV, "j:% i4:%"},
        {KD_OP_POW, "p:% %"}, {KD_OP_MAXIMUM, "% %"}, {KD_OP_MAXIMUM, "j:% j:%"}, {KD_OP_MINIMUM, "% %"},
        {KD_OP_MINIMUM, "j:% j:%"}, {KD_OP_EQ, "c:% c:%"}, {KD_OP_EQ, "i3:% i3:%"}, {KD_OP_NE, "c:% c:%"},
        {KD_OP_NE, "i3:% i3:%"}, {KD_OP_LT, "c:% c:%"}, {KD_OP_LT, "i3:% i3:%"}, {KD_OP_LE, "c:% c:%"},
        {KD_OP_LE, "i3:% i3:%"}, {KD_OP_WHERE, "m:% % %"}, {KD_OP_WHERE, "m:% j:% j:%"}, {KD_OP_WHERE, "m:% u:% u:%"},
    };
    for (int i = 0; i < KD_COUNT(row); i++) {
        unsigned flags = row[i].op == KD_OP_EQ ? KH_NO_GRAD : 0;
        cross(s, (KhCase){row[i].op, row[i].operands, .flags = flags});
    }
}

static const KhCase binary_edges[] = {
    {KD_OP_ADD, "3 3", "", V(1, 2, NAN, 0.5, -2, 1), V(1.5, 0, NAN)},
    {KD_OP_ADD, "j:1 j:1", "", V(INT32_MAX, 1), V(INT32_MIN)},
    {KD_OP_SUB, "2 2", "", V(1, 2, 0.5, -2), V(0.5, 4)},
    {KD_OP_SUB, "j:1 j:1", "", V(INT32_MIN, 1), V(INT32_MAX)},
    {KD_OP_MUL, "2 2", "", V(3, 0, 0.5, INFINITY), V(1.5, NAN)},
    {KD_OP_MUL, "j:2 j:2", "", V(65536, INT32_MAX, 65537, INT32_MAX), V(65536, 1)},
    {KD_OP_DIV, "4 4", "", V(1, -1, 0, 6, 0, 0, 0, 4), V(INFINITY, -INFINITY, NAN, 1.5)},
    {KD_OP_DIV, "j:6 j:6", "", V(7, -7, 7, INT32_MIN, 5, -5, 2, 2, -2, -1, 0, -1), V(3, -3, -3, INT32_MIN, 0, 5)},
    {KD_OP_POW, "6 6", "", V(2, 0, -2, 4, 0, 9, 3, 0, 3, -0.5, 2, 0.5), V(8, 1, -8, 0.5, 0, 3)},
    {KD_OP_POW, "2 2", "", V(-2, -1, 0.5, 2), V(NAN, 1)},
    {KD_OP_MAXIMUM, "5 5", "", V(1, NAN, 2, -1, 3, 2, 1, NAN, -1, INFINITY), V(2, NAN, NAN, -1, INFINITY)},
    {KD_OP_MINIMUM, "5 5", "", V(1, NAN, 2, -1, 3, 2, 1, NAN, -1, -INFINITY), V(1, NAN, NAN, -1, -INFINITY)},
    {KD_OP_EQ, "4 4", "", V(1, 1, NAN, 0, 1, 2, NAN, -0.0), V(1, 0, 0, 1)},
    {KD_OP_NE, "4 4", "", V(1, 1, NAN, 0, 1, 2, NAN, -0.0), V(0, 1, 1, 0)},
    {KD_OP_LT, "4 4", "", V(1, 1, NAN, 2, 1, 2, 1, 1), V(0, 1, 0, 0)},
    {KD_OP_LE, "4 4", "", V(1, 1, NAN, 2, 1, 2, 1, 1), V(1, 1, 0, 0)},
    {KD_OP_LT, "j:2 j:2", "", V(INT32_MIN, 3, INT32_MAX, 3), V(1, 0)},
    {KD_OP_WHERE, "4 4 4", "", V(1, 0, -0.5, NAN, 1, 2, 3, 4, 5, 6, 7, 8), V(1, 6, 3, 4)},
    {KD_OP_WHERE, "2 2 2", "", V(1, 0, 1, NAN, NAN, 2), V(1, 2)}, /* the other branch does not matter */
};

static const KhCase elementwise_errors[] = {
    {KD_OP_ADD, "1x3x33x32 1x3x32x32", "", .error = "add: heights differ along dimension 2: 33 and 32"},
    {KD_OP_MUL, "2x3x4x4 1x3x4x4", "", .error = "mul: batch sizes differ along dimension 0: 2 and 1"},
    {KD_OP_SUB, "1x3x4x4 1x4x4x4", "", .error = "sub: channels differ along dimension 1: 3 and 4"},
    {KD_OP_DIV, "1x3x4x4 1x3x4x5", "", .error = "div: widths differ along dimension 3: 4 and 5"},
    {KD_OP_POW, "2x3 2x4", "", .error = "pow: sizes differ along dimension 1: 3 and 4"},
    {KD_OP_ADD, "2x3 3", "", .error = "add: shapes differ: [2, 3] and [3]"},
    {KD_OP_ADD, "3 j:3", "", .error = "add: element types differ: f32 and i32"},
    {KD_OP_ADD, "u:3 u:3", "", .error = "add: u8 elements are only stored and moved"},
    {KD_OP_LT, "u:3 u:3", "", .error = "lt: u8 elements are only stored and moved"},
    {KD_OP_EXP, "j:3", "", .error = "exp: expected f32 elements, found i32[3]"},
    {KD_OP_POW, "j:3 j:3", "", .error = "pow: expected f32 elements"},
    {KD_OP_CAST, "3", "dtype=f16", .error = "cast: unknown element type 'f16'"},
    {KD_OP_WHERE, "j:3 3 3", "", .error = "where: expected f32 elements"},
    {KD_OP_WHERE, "3 4 4", "", .error = "where: sizes differ along dimension 0: 3 and 4"},
    {KD_OP_WHERE, "3 3 4", "", .error = "where: sizes differ along dimension 0: 3 and 4"},
    {KD_OP_GRAD, "3 3", "", .error = "grad: the loss must be one f32 number, found f32[3]"},
    {KD_OP_GRAD, "s i3:3", "", .error = "grad: expected f32 elements"},
    {KD_OP_ADAM, "3 3 4 3 s s", "part=0", .error = "adam: sizes differ along dimension 0: 3 and 4"},
    {KD_OP_ADAM, "3 3 3 3 1 s", "part=0", .error = "adam: the learning rate must be one f32 number"},
    {KD_OP_ADAM, "3 3 3 3 s s", "part=3", .error = "adam: part must be in 0 .. 2, found 3"},
    {KD_OP_SGD, "3 3 3 s", "part=2", .error = "sgd: part must be in 0 .. 1, found 2"},
    {KD_OP_RMSPROP, "3 3 3 s", "part=-1", .error = "rmsprop: part must be in 0 .. 1, found -1"},
};

/* ---- index ops ----------------------------------------------------------------------------------------- */

static const KhCase shape_ops[] = {
    {KD_OP_RESHAPE, "6", "shape=2,3"},
    {KD_OP_RESHAPE, "2x3", "shape=6"},
    {KD_OP_RESHAPE, "s", "shape=1,1"},
    {KD_OP_RESHAPE, "1", "shape="},
    {KD_OP_RESHAPE, "2x3x5x7", "shape=2,3,35"},
    {KD_OP_RESHAPE, "2x3x4", "shape=4,3,2"},
    {KD_OP_RESHAPE, "1x1", "shape=1"},
    {KD_OP_RESHAPE, "3x1x4x1x2", "shape=3,8"},
    {KD_OP_RESHAPE, "u:4x3", "shape=2,6"},
    {KD_OP_RESHAPE, "i9:2x2x2", "shape=8,1"},
    {KD_OP_RESHAPE, "0x3", "shape=3,0,7"},
    {KD_OP_RESHAPE, "5x7", "shape=1,35,1,1"},
    {KD_OP_RESHAPE, "2x2", "shape=4", V(1, 2, 3, 4), V(1, 2, 3, 4)},
    {KD_OP_TRANSPOSE, "3x5", "perm=1,0"},
    {KD_OP_TRANSPOSE, "2x3x4", "perm=2,0,1"},
    {KD_OP_TRANSPOSE, "2x3x4", "perm=1,2,0"},
    {KD_OP_TRANSPOSE, "2x3x5x7", "perm=0,2,3,1"},
    {KD_OP_TRANSPOSE, "2x3x5x7", "perm=3,2,1,0"},
    {KD_OP_TRANSPOSE, "1x7", "perm=1,0"},
    {KD_OP_TRANSPOSE, "s", "perm="},
    {KD_OP_TRANSPOSE, "4", "perm=0"},
    {KD_OP_TRANSPOSE, "3x1x4x1x2", "perm=4,3,2,1,0"},
    {KD_OP_TRANSPOSE, "2x1x3x1x2x2", "perm=5,0,2,1,4,3"},
    {KD_OP_TRANSPOSE, "u:3x2", "perm=1,0"},
    {KD_OP_TRANSPOSE, "0x3", "perm=1,0"},
    {KD_OP_TRANSPOSE, "2x3", "perm=1,0", V(1, 2, 3, 4, 5, 6), V(1, 4, 2, 5, 3, 6)},
    {KD_OP_BROADCAST, "1", "shape=7"},
    {KD_OP_BROADCAST, "1x5", "shape=3,5"},
    {KD_OP_BROADCAST, "3x1", "shape=3,5"},
    {KD_OP_BROADCAST, "1x1", "shape=3,5"},
    {KD_OP_BROADCAST, "s", "shape="},
    {KD_OP_BROADCAST, "2x1x4", "shape=2,3,4"},
    {KD_OP_BROADCAST, "1x3x1x1", "shape=2,3,5,7"},
    {KD_OP_BROADCAST, "2x3x1x1", "shape=2,3,4,4"},
    {KD_OP_BROADCAST, "3x1x4x1x2", "shape=3,5,4,2,2"},
    {KD_OP_BROADCAST, "i9:1x2", "shape=3,2"},
    {KD_OP_BROADCAST, "u:2x1", "shape=2,3"},
    {KD_OP_BROADCAST, "1x3", "shape=0,3"},
    {KD_OP_BROADCAST, "1x1x1x1x1x1", "shape=2,1,3,1,2,2"},
    {KD_OP_BROADCAST, "2x1", "shape=2,3", V(1, 2), V(1, 1, 1, 2, 2, 2)},
    {KD_OP_SLICE, "7", "begin=2 end=5 step=1"},
    {KD_OP_SLICE, "7", "begin=0 end=7 step=3"},
    {KD_OP_SLICE, "7", "begin=1 end=7 step=2"},
    {KD_OP_SLICE, "7", "begin=3 end=3 step=1"},
    {KD_OP_SLICE, "s", "begin= end= step="},
    {KD_OP_SLICE, "3x5", "begin=1,0 end=3,5 step=1,2"},
    {KD_OP_SLICE, "2x3x4", "begin=0,2,1 end=2,3,4 step=1,1,3"},
    {KD_OP_SLICE, "2x3x5x7", "begin=0,1,1,1 end=2,2,5,6 step=1,1,2,2"},
    {KD_OP_SLICE, "1x1x1x1", "begin=0,0,0,0 end=1,1,1,1 step=5,5,5,5"},
    {KD_OP_SLICE, "u:4x3", "begin=1,1 end=4,3 step=2,1"},
    {KD_OP_SLICE, "3x1x4x1x2", "begin=0,0,3,0,1 end=3,1,4,1,2 step=2,1,1,1,1"},
    {KD_OP_SLICE, "5x1", "begin=4,0 end=5,1 step=2147483647,1"},
    {KD_OP_SLICE, "7", "begin=1 end=6 step=2", V(0, 1, 2, 3, 4, 5, 6), V(1, 3, 5)},
};

static const KhCase pads[] = {
    {KD_OP_PAD, "3", "lo=1 hi=2 interior=0"},
    {KD_OP_PAD, "3", "lo=0 hi=0 interior=2"},
    {KD_OP_PAD, "5", "lo=-1 hi=-2 interior=0"},
    {KD_OP_PAD, "5", "lo=-2 hi=1 interior=1"},
    {KD_OP_PAD, "5", "lo=1 hi=-4 interior=2"},
    {KD_OP_PAD, "s", "lo= hi= interior="},
    {KD_OP_PAD, "3x5", "lo=1,0 hi=0,2 interior=0,1 value=0.5"},
    {KD_OP_PAD, "2x3x4x5", "lo=0,0,1,1 hi=0,0,1,1 interior=0,0,0,0"},
    {KD_OP_PAD, "2x3x4x5", "lo=0,-1,2,-1 hi=0,1,-1,3 interior=0,0,1,2"},
    {KD_OP_PAD, "1x1x1x1", "lo=1,1,1,1 hi=1,1,1,1 interior=3,3,3,3"},
    {KD_OP_PAD, "0x3", "lo=2,0 hi=1,0 interior=5,0"},
    {KD_OP_PAD, "5", "lo=-2 hi=-3 interior=0"},
    {KD_OP_PAD, "5", "lo=-9 hi=9 interior=0"},
    {KD_OP_PAD, "5", "lo=-3 hi=-6 interior=1"},
    {KD_OP_PAD, "u:2x2", "lo=1,1 hi=0,1 interior=0,0 value=7"},
    {KD_OP_PAD, "j:3", "lo=2 hi=0 interior=1 value=-3.9"},
    {KD_OP_PAD, "2x1x3x1x2x2", "lo=0,0,1,0,0,1 hi=0,1,0,0,0,0 interior=0,0,0,0,1,0"},
    {KD_OP_PAD, "1", "lo=0 hi=0 interior=2147483647"},
    {KD_OP_PAD, "1", "lo=1 hi=0 interior=2147483647"},
    {KD_OP_PAD, "3", "lo=1 hi=2 interior=1 value=9", V(1, 2, 3), V(9, 1, 9, 2, 9, 3, 9, 9)},
    {KD_OP_PAD, "4", "lo=-1 hi=1 interior=0", V(1, 2, 3, 4), V(2, 3, 4, 0)},
    {KD_OP_PAD_REFLECT, "3", "lo=1 hi=2"},
    {KD_OP_PAD_REFLECT, "2", "lo=1 hi=1"},
    {KD_OP_PAD_REFLECT, "1", "lo=0 hi=0"},
    {KD_OP_PAD_REFLECT, "7", "lo=6 hi=0"},
    {KD_OP_PAD_REFLECT, "7", "lo=0 hi=6"},
    {KD_OP_PAD_REFLECT, "s", "lo= hi="},
    {KD_OP_PAD_REFLECT, "4x5", "lo=3,3 hi=3,3"},
    {KD_OP_PAD_REFLECT, "2x3x4x5", "lo=0,0,1,1 hi=0,0,1,1"},
    {KD_OP_PAD_REFLECT, "2x3x7x9", "lo=0,0,3,3 hi=0,0,3,3"},
    {KD_OP_PAD_REFLECT, "1x2x5x4", "lo=0,0,4,1 hi=0,0,2,3"},
    {KD_OP_PAD_REFLECT, "u:3x3", "lo=1,1 hi=1,1"},
    {KD_OP_PAD_REFLECT, "3x2x4", "lo=2,1,3 hi=1,1,0"},
    {KD_OP_PAD_REFLECT, "1x1x8x1", "lo=0,0,7,0 hi=0,0,7,0"},
    {KD_OP_PAD_REFLECT, "4", "lo=2 hi=3", V(1, 2, 3, 4), V(3, 2, 1, 2, 3, 4, 3, 2, 1)},
    {KD_OP_PAD_REFLECT_GRAD, "6", "lo=1 hi=2"},
    {KD_OP_PAD_REFLECT_GRAD, "4", "lo=1 hi=1"},
    {KD_OP_PAD_REFLECT_GRAD, "1", "lo=0 hi=0"},
    {KD_OP_PAD_REFLECT_GRAD, "13", "lo=6 hi=0"},
    {KD_OP_PAD_REFLECT_GRAD, "13", "lo=0 hi=6"},
    {KD_OP_PAD_REFLECT_GRAD, "s", "lo= hi="},
    {KD_OP_PAD_REFLECT_GRAD, "10x11", "lo=3,3 hi=3,3"},
    {KD_OP_PAD_REFLECT_GRAD, "2x3x6x7", "lo=0,0,1,1 hi=0,0,1,1"},
    {KD_OP_PAD_REFLECT_GRAD, "1x2x13x15", "lo=0,0,3,3 hi=0,0,3,3"},
    {KD_OP_PAD_REFLECT_GRAD, "1x2x11x8", "lo=0,0,4,1 hi=0,0,2,3"},
    {KD_OP_PAD_REFLECT_GRAD, "6x4x7", "lo=2,1,3 hi=1,1,0"},
    {KD_OP_PAD_REFLECT_GRAD, "1x1x22x1", "lo=0,0,7,0 hi=0,0,7,0"},
    {KD_OP_PAD_REFLECT_GRAD, "9", "lo=2 hi=3", V(1, 2, 3, 4, 5, 6, 7, 8, 9), V(3 + 9, 2 + 4 + 8, 1 + 5 + 7, 6)},
    {KD_OP_PAD_REPLICATE, "3", "lo=1 hi=2"},
    {KD_OP_PAD_REPLICATE, "1", "lo=3 hi=2"},
    {KD_OP_PAD_REPLICATE, "1", "lo=0 hi=0"},
    {KD_OP_PAD_REPLICATE, "4", "lo=9 hi=0"},
    {KD_OP_PAD_REPLICATE, "4", "lo=0 hi=9"},
    {KD_OP_PAD_REPLICATE, "s", "lo= hi="},
    {KD_OP_PAD_REPLICATE, "4x5", "lo=3,3 hi=3,3"},
    {KD_OP_PAD_REPLICATE, "2x3x4x5", "lo=0,0,1,1 hi=0,0,1,1"},
    {KD_OP_PAD_REPLICATE, "1x1x1x1", "lo=1,1,1,1 hi=1,1,1,1"},
    {KD_OP_PAD_REPLICATE, "1x2x5x4", "lo=0,0,4,1 hi=0,0,2,6"},
    {KD_OP_PAD_REPLICATE, "u:3x3", "lo=1,1 hi=1,1"},
    {KD_OP_PAD_REPLICATE, "3x2x4", "lo=2,1,3 hi=1,1,0"},
    {KD_OP_PAD_REPLICATE, "3", "lo=2 hi=1", V(1, 2, 3), V(1, 1, 1, 2, 3, 3)},
    {KD_OP_PAD_REPLICATE_GRAD, "6", "lo=1 hi=2"},
    {KD_OP_PAD_REPLICATE_GRAD, "6", "lo=3 hi=2"},
    {KD_OP_PAD_REPLICATE_GRAD, "1", "lo=0 hi=0"},
    {KD_OP_PAD_REPLICATE_GRAD, "13", "lo=9 hi=0"},
    {KD_OP_PAD_REPLICATE_GRAD, "13", "lo=0 hi=9"},
    {KD_OP_PAD_REPLICATE_GRAD, "s", "lo= hi="},
    {KD_OP_PAD_REPLICATE_GRAD, "10x11", "lo=3,3 hi=3,3"},
    {KD_OP_PAD_REPLICATE_GRAD, "2x3x6x7", "lo=0,0,1,1 hi=0,0,1,1"},
    {KD_OP_PAD_REPLICATE_GRAD, "3x3x3x3", "lo=1,1,1,1 hi=1,1,1,1"},
    {KD_OP_PAD_REPLICATE_GRAD, "1x2x11x11", "lo=0,0,4,1 hi=0,0,2,6"},
    {KD_OP_PAD_REPLICATE_GRAD, "6x4x7", "lo=2,1,3 hi=1,1,0"},
    {KD_OP_PAD_REPLICATE_GRAD, "6", "lo=2 hi=1", V(1, 2, 3, 4, 5, 6), V(6, 4, 11)},
};

static const KhCase joins[] = {
    {KD_OP_CONCAT, "3", "axis=0"},
    {KD_OP_CONCAT, "3 2", "axis=0"},
    {KD_OP_CONCAT, "2x3 2x1", "axis=1"},
    {KD_OP_CONCAT, "2x3 5x3 1x3", "axis=0"},
    {KD_OP_CONCAT, "2x3x4x5 2x1x4x5", "axis=1"},
    {KD_OP_CONCAT, "1x3x5x7 1x3x2x7", "axis=2"},
    {KD_OP_CONCAT, "1x3x5x2 1x3x5x3 1x3x5x1 1x3x5x4", "axis=3"},
    {KD_OP_CONCAT, "u:2x2 u:2x3", "axis=1"},
    {KD_OP_CONCAT, "i9:4 i9:1", "axis=0"},
    {KD_OP_CONCAT, "0x3 2x3", "axis=0"},
    {KD_OP_CONCAT, "2x0 2x3 2x0 2x2", "axis=1"},
    {KD_OP_CONCAT, "1x1x1x1 1x1x1x1", "axis=2"},
    {KD_OP_CONCAT, "2x1x2x1x2x2 2x3x2x1x2x2", "axis=1"},
    {KD_OP_CONCAT, "2x1 2x2", "axis=1", V(1, 2, 3, 4, 5, 6), V(1, 3, 4, 2, 5, 6)},
    {KD_OP_UPSAMPLE_NEAREST, "2x3", "size=4,6"},
    {KD_OP_UPSAMPLE_NEAREST, "2x3", "size=6,3"},
    {KD_OP_UPSAMPLE_NEAREST, "1x1", "size=5,7"},
    {KD_OP_UPSAMPLE_NEAREST, "4x6", "size=2,3"},
    {KD_OP_UPSAMPLE_NEAREST, "5x7", "size=3,4"},
    {KD_OP_UPSAMPLE_NEAREST, "3x4", "size=5,7"},
    {KD_OP_UPSAMPLE_NEAREST, "2x3x4x5", "size=8,10"},
    {KD_OP_UPSAMPLE_NEAREST, "2x3x4x5", "size=7,3"},
    {KD_OP_UPSAMPLE_NEAREST, "1x2x3x3", "size=9,2"},
    {KD_OP_UPSAMPLE_NEAREST, "u:3x3", "size=4,4"},
    {KD_OP_UPSAMPLE_NEAREST, "i9:2x2x2", "size=3,5"},
    {KD_OP_UPSAMPLE_NEAREST, "1x1x7x1", "size=1,1"},
    {KD_OP_UPSAMPLE_NEAREST, "1x3", "size=1,5", V(1, 2, 3), V(1, 1, 2, 2, 3)},
    {KD_OP_UPSAMPLE_NEAREST, "1x3", "size=1,2", V(1, 2, 3), V(1, 2)},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "4x6", "size=2,3"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "6x3", "size=2,3"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "5x7", "size=1,1"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "2x3", "size=4,6"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "3x4", "size=5,7"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "5x7", "size=3,4"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "2x3x8x10", "size=4,5"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "2x3x7x3", "size=4,5"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "1x2x9x2", "size=3,3"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "1x1x1x1", "size=7,1"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "2x2x3x5", "size=2,2"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "1x5", "size=1,3", V(1, 2, 3, 4, 5), V(3, 7, 5)},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "1x2", "size=1,3", V(1, 2), V(1, 2, 0)},
    {KD_OP_GATHER, "5 i5:3", "axis=0"},
    {KD_OP_GATHER, "3x4 i3:2x4", "axis=0"},
    {KD_OP_GATHER, "3x4 i4:3x7", "axis=1"},
    {KD_OP_GATHER, "3x4 i4:2x5", "axis=1"},
    {KD_OP_GATHER, "2x3x5 i5:2x3x1", "axis=2"},
    {KD_OP_GATHER, "2x3x5 i3:1x4x2", "axis=1"},
    {KD_OP_GATHER, "1 i1:6", "axis=0"},
    {KD_OP_GATHER, "2x3x4x5 i4:2x3x2x5", "axis=2"},
    {KD_OP_GATHER, "1x1x1x1 i1:1x1x1x1", "axis=3"},
    {KD_OP_GATHER, "j:4 i4:4", "axis=0"},
    {KD_OP_GATHER, "u:4x2 i4:3x2", "axis=0"},
    {KD_OP_GATHER, "0x3 i1:0x3", "axis=0"},
    {KD_OP_GATHER, "2x1x3x1x2x2 i3:2x1x4x1x2x1", "axis=2"},
    {KD_OP_SCATTER_ADD, "3 i5:3", "axis=0 size=5"},
    {KD_OP_SCATTER_ADD, "6 i2:6", "axis=0 size=2"},
    {KD_OP_SCATTER_ADD, "3x4 i3:3x4", "axis=0 size=3"},
    {KD_OP_SCATTER_ADD, "3x4 i7:3x4", "axis=1 size=7"},
    {KD_OP_SCATTER_ADD, "2x3x5 i2:2x3x5", "axis=2 size=2"},
    {KD_OP_SCATTER_ADD, "2x3x5 i4:2x3x5", "axis=1 size=4"},
    {KD_OP_SCATTER_ADD, "1 i1:1", "axis=0 size=1"},
    {KD_OP_SCATTER_ADD, "2x3x4x5 i6:2x3x4x5", "axis=2 size=6"},
    {KD_OP_SCATTER_ADD, "j:7 i3:7", "axis=0 size=3"},
    {KD_OP_SCATTER_ADD, "0x3 i1:0x3", "axis=0 size=2"},
    {KD_OP_SCATTER_ADD, "2x1x3x1x2x2 i4:2x1x3x1x2x2", "axis=2 size=4"},
    {KD_OP_SCATTER_ADD, "1x9 i9:1x9", "axis=1 size=9"},
    {KD_OP_SCATTER_ADD, "4 i9:4", "axis=0 size=3", V(1, 2, 3, 4, 2, 0, 2, 1), V(2, 4, 4)},
    {KD_OP_UPDATE_ROW, "4x3 1x3 i4:s", ""},
    {KD_OP_UPDATE_ROW, "1x1 1x1 i1:s", ""},
    {KD_OP_UPDATE_ROW, "7 1 i7:s", ""},
    {KD_OP_UPDATE_ROW, "2x3x4x5 1x3x4x5 i2:s", ""},
    {KD_OP_UPDATE_ROW, "5x1x3 1x1x3 i5:s", ""},
    {KD_OP_UPDATE_ROW, "u:3x2 u:1x2 i3:s", ""},
    {KD_OP_UPDATE_ROW, "i9:3x2 i9:1x2 i3:s", ""},
    {KD_OP_UPDATE_ROW, "50x2 1x2 i50:s", ""},
    {KD_OP_UPDATE_ROW, "3x2x1x2 1x2x1x2 i3:s", ""},
    {KD_OP_UPDATE_ROW, "0x3 1x3 i1:s", ""},
    {KD_OP_UPDATE_ROW, "2x2 1x2 j:s", "", V(1, 2, 3, 4, 8, 9, 1), V(1, 2, 8, 9)},
    {KD_OP_UPDATE_ROW, "2x2 1x2 j:s", "", V(1, 2, 3, 4, 8, 9, -1), V(1, 2, 3, 4)},
    {KD_OP_UPDATE_ROW, "2x2 1x2 j:s", "", V(1, 2, 3, 4, 8, 9, 2), V(1, 2, 3, 4)},
};

/* An index out of range: the nearest is taken, also when compiled. */
static const KhCase gather_edges[] = {
    {KD_OP_GATHER, "3 j:4", "axis=0", V(10, 20, 30, 2, 0, -5, 99), V(30, 10, 10, 30)},
};

static const KhCase index_errors[] = {
    {KD_OP_RESHAPE, "2x3x4", "shape=5,5", .error = "reshape: [2, 3, 4] has 24 elements, [5, 5] has 25"},
    {KD_OP_RESHAPE, "6", "shape=-1,6", .error = "reshape: the result's size (dimension 0) would be negative: -1"},
    {KD_OP_RESHAPE, "6", "shape=1,1,1,1,1,1,6", .error = "at most 6 dimensions, the result would have 7"},
    {KD_OP_RESHAPE, "6", "shape=4294967296,4294967296", .error = "more than 2^31 - 1 elements"},
    {KD_OP_TRANSPOSE, "2x3", "perm=0,0", .error = "perm must name each of the 2 dimensions of [2, 3] once"},
    {KD_OP_TRANSPOSE, "2x3", "perm=0,-1", .error = "perm must name each"},
    {KD_OP_TRANSPOSE, "2x3", "perm=0", .error = "transpose: perm has 1 entries, expected 2"},
    {KD_OP_BROADCAST, "1x3x4x5", "shape=1,3,4,10", .error = "a width (dimension 3) of 5 cannot be repeated to 10"},
    {KD_OP_BROADCAST, "1", "shape=-5", .error = "would be negative: -5"},
    {KD_OP_SLICE, "1x3x64x64", "begin=0,0,3,0 end=1,3,70,64 step=1,1,1,1",
     .error = "slice: 3..70 is not inside the height (dimension 2), 0..64"},
    {KD_OP_SLICE, "5", "begin=3 end=2 step=1", .error = "slice: 3..2 is not inside the size (dimension 0), 0..5"},
    {KD_OP_SLICE, "5", "begin=-1 end=2 step=1", .error = "slice: begin along dimension 0 must be in 0"},
    {KD_OP_SLICE, "5", "begin=0 end=2 step=0", .error = "slice: step along dimension 0 must be in 1"},
    {KD_OP_PAD, "5", "lo=-3 hi=-3 interior=0", .error = "pad: the result's size (dimension 0) would be negative: -1"},
    {KD_OP_PAD, "5", "lo=1 hi=1 interior=-1", .error = "pad: interior along dimension 0 must be in 0"},
    {KD_OP_PAD, "5", "lo=1 hi=9223372036854775807 interior=0", .error = "pad: hi along dimension 0"},
    {KD_OP_PAD, "5", "lo=0 hi=0 interior=2147483647", .error = "more than 2^31 - 1 elements"},
    {KD_OP_PAD, "5", "lo=1,1 hi=1 interior=0", .error = "pad: lo has 2 entries, expected 1"},
    {KD_OP_PAD_REFLECT, "1x3x3x8", "lo=0,0,3,3 hi=0,0,3,3",
     .error = "pad_reflect: a border of 3 needs a height (dimension 2) of at least 4, found 3"},
    {KD_OP_PAD_REFLECT, "5", "lo=-1 hi=0", .error = "pad_reflect: lo along dimension 0 must be in 0"},
    {KD_OP_PAD_REFLECT_GRAD, "5", "lo=2 hi=2",
     .error = "a border of 2 needs a size (dimension 0) of at least 3, found 1"},
    {KD_OP_PAD_REFLECT_GRAD, "i9:5", "lo=1 hi=1", .error = "expected f32 elements"},
    {KD_OP_PAD_REPLICATE, "0", "lo=1 hi=0", .error = "pad_replicate: nothing to repeat along dimension 0"},
    {KD_OP_PAD_REPLICATE_GRAD, "3", "lo=2 hi=1", .error = "nothing to repeat along dimension 0"},
    {KD_OP_CONCAT, "1x3x33x32 1x3x32x32", "axis=1", .error = "concat: heights differ along dimension 2: 33 and 32"},
    {KD_OP_CONCAT, "2x3 2x3x1", "axis=0", .error = "concat: numbers of dimensions differ: [2, 3] and [2, 3, 1]"},
    {KD_OP_CONCAT, "2x3 i3:2x3", "axis=0", .error = "concat: element types differ: f32 and i32"},
    {KD_OP_CONCAT, "2x3 2x3", "axis=2", .error = "concat: there is no dimension 2 in [2, 3]"},
    {KD_OP_CONCAT, "2x3 2x3", "axis=-1", .error = "concat: there is no dimension -1 in [2, 3]"},
    {KD_OP_CONCAT, "s s", "axis=0", .error = "concat: there is no dimension 0 in []"},
    {KD_OP_UPSAMPLE_NEAREST, "5", "size=2,2", .error = "expected a height and a width, found [5]"},
    {KD_OP_UPSAMPLE_NEAREST, "1x1x4x4", "size=8,0", .error = "cannot resize a width of 4 to 0"},
    {KD_OP_UPSAMPLE_NEAREST, "1x1x0x4", "size=8,8", .error = "cannot resize a height of 0 to 8"},
    {KD_OP_UPSAMPLE_NEAREST, "4x4", "size=1000000,1000000", .error = "more than 2^31 - 1 elements"},
    {KD_OP_UPSAMPLE_NEAREST_GRAD, "u:4x4", "size=2,2", .error = "expected f32 elements"},
    {KD_OP_GATHER, "5 3", "axis=0", .error = "gather: the index must have i32 elements, found f32[3]"},
    {KD_OP_GATHER, "5 i5:3x1", "axis=0", .error = "gather: numbers of dimensions differ"},
    {KD_OP_GATHER, "2x5 i5:3x1", "axis=1", .error = "the index [3, 1] reaches beyond [2, 5] along dimension 0"},
    {KD_OP_GATHER, "0 i5:3", "axis=0", .error = "the index [3] reaches beyond [0] along dimension 0"},
    {KD_OP_GATHER, "5 i5:3", "axis=1", .error = "gather: there is no dimension 1 in [5]"},
    {KD_OP_SCATTER_ADD, "5 i5:4", "axis=0 size=5", .error = "scatter_add: sizes differ along dimension 0: 5 and 4"},
    {KD_OP_SCATTER_ADD, "5 i5:5", "axis=0 size=0",
     .error = "scatter_add: no room for [5] along dimension 0 in a size of 0"},
    {KD_OP_SCATTER_ADD, "5 5", "axis=0 size=5", .error = "scatter_add: the index must have i32 elements"},
    {KD_OP_UPDATE_ROW, "4x3 2x3 i4:s", "", .error = "update_row: sizes differ along dimension 0: 1 and 2"},
    {KD_OP_UPDATE_ROW, "4x3 1x3 s", "", .error = "update_row: the index must be one i32 number, found f32[]"},
    {KD_OP_UPDATE_ROW, "s s i4:s", "", .error = "update_row: there is no dimension 0 in []"},
    {KD_OP_RANDOM, "s i4:s", "stream=0 shape=2", .error = "random: the seed must be one i32 number, found f32[]"},
    {KD_OP_RANDOM, "i4:s i4:2", "stream=0 shape=2", .error = "random: the step must be one i32 number, found i32[2]"},
    {KD_OP_RANDOM, "i4:s i4:s", "stream=-1 shape=2", .error = "random: the stream must be in 0 .. 2^31 - 1, found -1"},
    {KD_OP_RANDOM, "i4:s i4:s", "stream=0 shape=2,-2", .error = "would be negative: -2"},
};

/* ---- random ----------------------------------------------------------------------------------------------- */

/* Both evaluators give the numbers of random_bits.h exactly. */
static void random_reference(const KdType *const *t, int n_in, const double *const *in, const KdType *result,
                             double *want) {
    (void)t, (void)n_in;
    uint32_t key = kd_random_key((uint32_t)(int32_t)in[0][0], (uint32_t)(int32_t)in[1][0], 5);
    for (int64_t i = 0; i < result->count; i++) want[i] = ldexp(kd_random_bits(key, (uint32_t)i) >> 8, -24);
}

static void add_random(KhSuite *s) {
    static const char *const shape[] = {"", "1", "7", "1,1", "3,5", "5,1", "2,3,4", "1,1,1,1", "2,3,5,7", "3,1,4,1,2",
                                        "2,1,3,1,2,2", "0,3", "1000"};
    for (int i = 0; i < KD_COUNT(shape); i++)
        kh_add(s, (KhCase){KD_OP_RANDOM, "j:s j:s", kd_format(s->cx, "stream=5 shape=%s", shape[i]),
                           .reference = random_reference, .tolerance = 1e-300});
}

static void test_random_is_pinned(void **state) {
    (void)state; /* other numbers would silently change every seeded run */
    assert_int_equal(kd_random_mix(1), 0x688990c0);
    assert_int_equal(kd_random_bits(0, 0), 0xae6f80f1);
    assert_int_equal(kd_random_bits(1, 2), 0x230069ce);
    assert_int_equal(kd_random_key(1, 2, 3), 0x292467df);
}

static void test_random_is_uniform(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    double sum = 0, square = 0, lag = 0, before = 0;
    int bin[64] = {0};
    uint32_t key = kd_random_key(1, 2, 3), other = kd_random_key(1, 3, 3);
    int equal = 0;
    for (uint32_t i = 0; i < N; i++) {
        double u = (double)kd_random_uniform(kd_random_bits(key, i));
        assert_true(u >= 0 && u < 1);
        equal += kd_random_bits(key, i) == kd_random_bits(other, i);
        bin[(int)(u * 64)]++;
        sum += u;
        square += u * u;
        lag += u * before;
        before = u;
    }
    assert_true(fabs(sum / N - 0.5) < 0.005);
    assert_true(fabs(square / N - 1.0 / 3) < 0.005);
    assert_true(fabs(lag / N - 0.25) < 0.005);
    double chi = 0;
    for (int i = 0; i < 64; i++) chi += (bin[i] - N / 64.0) * (bin[i] - N / 64.0) / (N / 64.0);
    assert_true(chi > 25 && chi < 115); /* 63 degrees of freedom; both bounds beyond 1 in 10^4 */
    assert_true(equal <= 2);
}

/* ---- gradients at the kinks -------------------------------------------------------------------------------- */

typedef struct Kink {
    KdOp op;
    const char *operands, *attrs;
    const double *values; /* of all operands */
    const double *want;   /* gradients of the f32 operands, one after the other, for a gradient of ones */
} Kink;

static const Kink kinks[] = {
    {KD_OP_RELU, "4", "", V(-1, 0, 2, NAN), V(0, 0, 1, 1)},
    {KD_OP_ABS, "3", "", V(-1, 0, 2), V(-1, 0, 1)},
    {KD_OP_LEAKY_RELU, "4", "slope=0.2", V(-1, 0, 2, NAN), V(0.2, 0.2, 1, 0.2)},
    {KD_OP_LEAKY_RELU, "3", "slope=-2", V(-1, 0, 2), V(-2, -2, 1)},
    {KD_OP_CLAMP, "6", "min=-1 max=1", V(-2, -1, 0, 1, 1.5, NAN), V(0, 1, 1, 1, 0, 0)},
    {KD_OP_MAXIMUM, "4 4", "", V(1, 2, 3, NAN, 2, 2, 2, 2), V(0, 0.5, 1, 1, 1, 0.5, 0, 1)},
    {KD_OP_MINIMUM, "4 4", "", V(1, 2, 3, NAN, 2, 2, 2, 2), V(1, 0.5, 0, 1, 0, 0.5, 1, 1)},
    {KD_OP_SQRT, "2", "", V(0, 4), V(INFINITY, 0.25)},
    {KD_OP_LOG, "2", "", V(0, 4), V(INFINITY, 0.25)},
    {KD_OP_DIV, "2 2", "", V(1, 6, 4, 3), V(0.25, 1.0 / 3, -1.0 / 16, -2.0 / 3)},
    {KD_OP_POW, "5 5", "", V(0, 0, 2, -2, 0, 2, 0, 0, 3, 1), V(0, 0, 0, 12, 1, 0, 0, 0.69314718056, NAN, 0)},
    {KD_OP_WHERE, "3 3 3", "", V(1, 0, NAN, 1, 2, 3, 4, 5, 6), V(1, 0, 1, 0, 1, 0)},
    {KD_OP_WHERE, "1 1 1", "", V(0, INFINITY, 1), V(0, 1)},
};

static void run_kink(void **state) {
    const Kink *k = *state;
    KhCase c = {k->op, k->operands, k->attrs, k->values};
    KhRun r;
    kh_start(&r, &c);
    KdBuilder b;
    KdValue gin[KH_MAX_IN];
    KdFunc *f = kh_first(&r, &b, gin, true);
    double *in[KH_MAX_IN + 1], *out[KH_MAX_IN];
    for (int i = 0; i < r.n_in; i++) in[i] = r.data[i];
    in[r.n_in] = KD_NEW_ARRAY(r.cx, double, r.type->count);
    for (int64_t i = 0; i < r.type->count; i++) in[r.n_in][i] = 1;
    for (int i = 0; i < f->outputs.n; i++)
        out[i] = KD_NEW_ARRAY(r.cx, double, kd_vtype(f, f->outputs.v[i].value)->count);
    kd_eval(f, (const double *const *)in, out);
    const double *want = k->want;
    for (int i = 0; i < f->outputs.n; i++) {
        kh_compare(f->outputs.v[i].name, out[i], want, r.type->count, 1e-6, 1e-9); /* float constants */
        want += r.type->count;
    }
    kd_context_free(r.cx);
}

/* x^2 at 0: the second derivative is 2, not 0 * inf. */
static void test_pow_twice_at_zero(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdFunc *f = kd_func_new(cx, "f");
    KdBuilder b = kd_builder(f);
    const KdType *t = kd_type(cx, KD_F32, 1, (const int64_t[]){2});
    KdValue x = kd_input(&b, "x", KD_DATA, t, "");
    KdValue y = kd_binary(&b, KD_OP_POW, x, kd_const(&b, t, 2));
    KdValue seed = kd_const(&b, t, 1);
    for (int order = 0; order < 2; order++) {
        uint32_t n = f->n;
        KdValue *adjoint = KD_NEW_ARRAY(cx, KdValue, n);
        for (uint32_t i = 0; i < n; i++) adjoint[i] = KD_NONE;
        adjoint[y] = seed;
        kh_reverse(&b, adjoint, n);
        y = adjoint[x];
        assert_int_not_equal(y, KD_NONE);
    }
    kd_output(f, "g", y, KD_NONE);
    const double in0[2] = {0, 3};
    double out0[2];
    kd_eval(f, (const double *const[]){in0}, (double *const[]){out0});
    kh_compare("second derivative of x^2", out0, V(2, 2), 2, 1e-9, 0);
    kd_context_free(cx);
}

/* ---- element rules fold ------------------------------------------------------------------------------------- */

/* In the interior of a padded tensor, no rule leaves a test or a border behind. */
static void test_interior_is_free(void **state) {
    (void)state;
    static const struct { KdOp op; const char *operands, *attrs; } row[] = {
        {KD_OP_PAD, "1x2x40x40", "lo=0,0,3,3 hi=0,0,3,3 interior=0,0,0,0"},
        {KD_OP_PAD_REFLECT, "1x2x40x40", "lo=0,0,3,3 hi=0,0,3,3"},
        {KD_OP_PAD_REFLECT_GRAD, "1x2x40x40", "lo=0,0,3,3 hi=0,0,3,3"},
        {KD_OP_PAD_REPLICATE, "1x2x40x40", "lo=0,0,3,3 hi=0,0,3,3"},
        {KD_OP_PAD_REPLICATE_GRAD, "1x2x40x40", "lo=0,0,3,3 hi=0,0,3,3"},
        {KD_OP_CONCAT, "1x2x40x8 1x2x40x24 1x2x40x8", "axis=3"},
    };
    static const char *const words[] = {" abs ", " min ", " max ", " cmp ", " select ", " if "};
    for (int i = 0; i < KD_COUNT(row); i++) {
        KhCase c = {row[i].op, row[i].operands, row[i].attrs};
        KhRun r;
        kh_start(&r, &c);
        KlKernel *k = kl_kernel_new(r.cx, "interior", r.type->dim[1]);
        for (int j = 0; j <= r.n_in; j++)
            kl_buf(k, "b", KL_F32, j < r.n_in ? r.operand[j].type->count : r.type->count, j < r.n_in ? KL_IN : KL_OUT);
        KlBuilder b = kl_builder(k);
        KdElem e = {&b, r.f, kh_operand, kh_operand_linear, kh_operand_if, &r};
        KlFor l[2];
        KlValue idx[4] = {kl_i64(&b, 0), kl_parallel_index(k)};
        for (int d = 0; d < 2; d++) {
            int64_t n = r.type->dim[d + 2];
            l[d] = kl_for_begin(&b, kl_i64(&b, 8), kl_i64(&b, n - 8), 1, 0, NULL);
            idx[d + 2] = l[d].i;
        }
        kh_store(&e, &r, idx);
        kl_for_end(&b, &l[1], NULL, NULL);
        kl_for_end(&b, &l[0], NULL, NULL);
        KdStr text = {.cx = r.cx};
        kl_print_kernel(&text, k);
        for (int w = 0; w < KD_COUNT(words); w++)
            if (strstr(text.s, words[w]))
                fail_msg("%s: '%s' in its interior:\n%s", kd_op_info[c.op].name, words[w], text.s);
        kd_context_free(r.cx);
    }
}

/* ---- the group -------------------------------------------------------------------------------------------- */

static void test_coverage(void **state) {
    kh_coverage(*state, 'a');
}

static void test_garbage(void **state) {
    (void)state;
    kh_garbage('a', 300);
}

int main(void) {
    KhSuite s = kh_suite();
    add_leaves(&s);
    add_unary(&s);
    add_binary(&s);
    add_random(&s);
    ADD(&s, leaf_edges, 0);
    ADD(&s, unary_edges, KH_NO_GRAD);
    ADD(&s, binary_edges, KH_NO_GRAD);
    ADD(&s, elementwise_errors, 0);
    ADD(&s, shape_ops, 0);
    ADD(&s, pads, 0);
    ADD(&s, joins, 0);
    ADD(&s, gather_edges, KH_NO_GRAD);
    ADD(&s, index_errors, 0);
    struct CMUnitTest extra[KD_COUNT(kinks) + 6] = {
        {"every op has rows", test_coverage, NULL, NULL, &s},
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_random_is_pinned),
        cmocka_unit_test(test_random_is_uniform),
        cmocka_unit_test(test_pow_twice_at_zero),
        cmocka_unit_test(test_interior_is_free),
    };
    for (int i = 0; i < KD_COUNT(kinks); i++)
        extra[6 + i] = (struct CMUnitTest){
            kd_format(s.cx, "gradient at the kinks of %s %s", kd_op_info[kinks[i].op].name, kinks[i].attrs), run_kink,
            NULL, NULL, (void *)&kinks[i]};
    return kh_main("ops a", &s, extra, KD_COUNT(extra));
}
