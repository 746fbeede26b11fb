/* graphs.h: small graphs for the tests of fusion and lowering, built through the builder. A graph adds its outputs to
 * the function of its builder; g_graphs lists them all. Sizes are odd and small, but for those that must be cut into
 * pieces or folded in two stages.
 */
#ifndef KD_TEST_GRAPHS_H
#define KD_TEST_GRAPHS_H

#include "ir/ir.h"

#define G_DIMS(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__}
#define G_INTS(...) {.ints = {G_DIMS(__VA_ARGS__)}}
#define G_OP(b, op, x, ...) kd_build(b, op, NULL, (KdValue[]){x}, 1, (KdAttr[]){__VA_ARGS__})
#define G_OP2(b, op, x, y, ...) kd_build(b, op, NULL, (KdValue[]){x, y}, 2, (KdAttr[]){__VA_ARGS__})

static inline KdValue g_typed(KdBuilder *b, const char *name, KdDType d, int rank, const int64_t *dim) {
    return kd_input(b, name, KD_DATA, kd_type(b->cx, d, rank, dim), "");
}
static inline KdValue g_in(KdBuilder *b, const char *name, int rank, const int64_t *dim) {
    return g_typed(b, name, KD_F32, rank, dim);
}
static inline KdValue g_scalar(KdBuilder *b, const char *name) { return g_in(b, name, 0, NULL); }
static inline void g_out(KdBuilder *b, const char *name, KdValue v) { kd_output(b->f, kd_intern_z(b->cx, name), v, KD_NONE); }

static inline KdValue g_add(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_ADD, x, y); }
static inline KdValue g_sub(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_SUB, x, y); }
static inline KdValue g_mul(KdBuilder *b, KdValue x, KdValue y) { return kd_binary(b, KD_OP_MUL, x, y); }
static inline KdValue g_relu(KdBuilder *b, KdValue x) { return kd_unary(b, KD_OP_RELU, x); }
static inline KdValue g_max(KdBuilder *b, KdValue x, int n, const int64_t *axes) {
    return kd_build(b, KD_OP_MAX, NULL, &x, 1, (KdAttr[]){{.ints = {n, axes}}});
}
static inline KdValue g_mean(KdBuilder *b, KdValue x, int n, const int64_t *axes) {
    double count = 1;
    for (int i = 0; i < n; i++) {
        count *= (double)kd_vtype(b->f, x)->dim[axes[i]];
    }
    return kd_scale(b, kd_sum(b, x, n, axes), 1 / count);
}
static inline KdValue g_all(KdBuilder *b, KdValue x) { /* the mean of everything, rank 0 */
    int64_t axes[KD_MAX_RANK] = {0, 1, 2, 3, 4, 5};
    return kd_reshape(b, g_mean(b, x, kd_vtype(b->f, x)->rank, axes), 0, NULL);
}
/* Normalised over the axes, biased variance. */
static inline KdValue g_norm(KdBuilder *b, KdValue x, int n, const int64_t *axes) {
    KdValue c = g_sub(b, x, g_mean(b, x, n, axes));
    KdValue var = g_mean(b, kd_unary(b, KD_OP_SQUARE, c), n, axes);
    return g_mul(b, c, kd_unary(b, KD_OP_RSQRT, g_add(b, var, kd_const_like(b, var, 1e-5))));
}
static inline KdValue g_instance_norm(KdBuilder *b, KdValue x) { return g_norm(b, x, G_DIMS(2, 3)); }
static inline KdValue g_softmax(KdBuilder *b, KdValue x, int64_t axis) {
    KdValue e = kd_unary(b, KD_OP_EXP, g_sub(b, x, g_max(b, x, 1, &axis)));
    return kd_binary(b, KD_OP_DIV, e, kd_sum(b, e, 1, &axis));
}
static inline KdValue g_conv(KdBuilder *b, KdValue x, KdValue w, int64_t stride, int64_t pad) {
    KdAttr a[4] = {G_INTS(stride, stride), G_INTS(pad, pad, pad, pad), G_INTS(1, 1), {.i = 1}};
    return kd_build(b, KD_OP_CONV2D, NULL, (KdValue[]){x, w}, 2, a);
}
static inline KdValue g_pad_reflect(KdBuilder *b, KdValue x, int64_t p) {
    return G_OP(b, KD_OP_PAD_REFLECT, x, G_INTS(0, 0, p, p), G_INTS(0, 0, p, p));
}
static inline KdValue g_concat(KdBuilder *b, KdValue x, KdValue y, int64_t axis) { return G_OP2(b, KD_OP_CONCAT, x, y, {.i = axis}); }

/* ---- elementwise ---------------------------------------------------------------------------------- */

static inline void g_chain(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(3, 5, 7)), y = g_in(b, "y", G_DIMS(3, 5, 7));
    KdValue t = kd_unary(b, KD_OP_TANH, g_add(b, g_mul(b, x, y), kd_scale(b, x, 0.5)));
    g_out(b, "a", kd_where(b, kd_binary(b, KD_OP_LT, x, y), t, kd_unary(b, KD_OP_SIGMOID, y)));
    g_out(b, "b", kd_unary(b, KD_OP_SOFTPLUS, t));
}
static inline void g_long(KdBuilder *b) { /* several pieces, the last one shorter */
    KdValue x = g_in(b, "x", G_DIMS(20011));
    g_out(b, "a", g_add(b, kd_unary(b, KD_OP_SQUARE, x), kd_const_like(b, x, 1)));
}
static inline void g_long_rows(KdBuilder *b) { /* rows longer than two pieces, a value per row */
    KdValue x = g_in(b, "x", G_DIMS(2, 17000)), y = g_in(b, "y", G_DIMS(2, 1));
    g_out(b, "a", g_mul(b, x, kd_unary(b, KD_OP_EXP, y)));
}
static inline void g_broadcasts(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 3, 5, 7)), c = g_in(b, "c", G_DIMS(1, 3, 1, 1));
    KdValue n = g_in(b, "n", G_DIMS(2, 1, 1, 1)), w = g_in(b, "w", G_DIMS(7)), h = g_in(b, "h", G_DIMS(5, 1));
    KdValue s = g_scalar(b, "s");
    KdValue t = g_add(b, g_mul(b, x, kd_unary(b, KD_OP_EXP, c)), n);
    g_out(b, "a", g_mul(b, g_add(b, t, w), g_add(b, h, s)));
    g_out(b, "b", kd_broadcast(b, c, G_DIMS(2, 3, 2, 2)));
    g_out(b, "c", kd_broadcast(b, s, G_DIMS(4)));
}
static inline void g_integers(KdBuilder *b) {
    KdValue i = g_typed(b, "i", KD_I32, G_DIMS(4, 6)), u = g_typed(b, "u", KD_U8, G_DIMS(4, 6));
    KdValue x = kd_scale(b, kd_cast(b, u, KD_F32), 1 / 255.0);
    KdValue j = g_add(b, g_mul(b, i, i), kd_cast(b, u, KD_I32));
    g_out(b, "a", g_mul(b, x, kd_cast(b, j, KD_F32)));
    g_out(b, "b", kd_cast(b, kd_scale(b, x, 300), KD_U8));
    g_out(b, "c", kd_binary(b, KD_OP_DIV, j, g_add(b, i, kd_const_like(b, i, 2))));
    g_out(b, "d", kd_sum(b, j, G_DIMS(1)));
}
static inline void g_leaves(KdBuilder *b) {
    const KdType *t = kd_type(b->cx, KD_F32, G_DIMS(3, 4)), *ti = kd_type(b->cx, KD_I32, G_DIMS(3, 4));
    KdFloats values = {12, (double[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12.5}};
    KdValue lit = kd_build(b, KD_OP_LITERAL, t, NULL, 0, (KdAttr[]){{.floats = values}});
    KdValue iota = kd_build(b, KD_OP_IOTA, ti, NULL, 0, (KdAttr[]){{.i = 1}});
    KdValue x = g_in(b, "x", G_DIMS(3, 4));
    g_out(b, "a", g_mul(b, lit, g_add(b, kd_cast(b, iota, KD_F32), x)));
    g_out(b, "b", iota);
    g_out(b, "c", kd_const(b, t, 2.5));
    g_out(b, "d", x);
    g_out(b, "e", kd_reshape(b, lit, G_DIMS(2, 6)));
}
static inline void g_dropout(KdBuilder *b) {
    KdValue seed = g_typed(b, "seed", KD_I32, 0, NULL), step = g_typed(b, "step", KD_I32, 0, NULL);
    KdValue x = g_in(b, "x", G_DIMS(2, 3, 5, 5));
    KdValue r = G_OP2(b, KD_OP_RANDOM, seed, g_add(b, step, kd_const_like(b, step, 3)), {.i = 7}, G_INTS(2, 3, 5, 5));
    KdValue keep = kd_binary(b, KD_OP_LT, r, kd_const_like(b, r, 0.5));
    g_out(b, "a", g_mul(b, x, kd_scale(b, keep, 2)));
    g_out(b, "b", g_mul(b, g_pad_reflect(b, x, 1), g_pad_reflect(b, keep, 1)));
}
static inline void g_adam(KdBuilder *b) {
    const KdType *t = kd_type(b->cx, KD_F32, G_DIMS(7, 130, 11)), *scalar = kd_type(b->cx, KD_F32, 0, NULL);
    KdValue w = kd_input(b, "w", KD_WEIGHT, t, ""), m = kd_input(b, "m", KD_STATE, t, "");
    KdValue v = kd_input(b, "v", KD_STATE, t, ""), g = kd_input(b, "g", KD_DATA, t, ""), lr = g_scalar(b, "lr");
    KdValue m1 = g_add(b, kd_scale(b, m, 0.9), kd_scale(b, g, 0.1));
    KdValue v1 = g_add(b, kd_scale(b, kd_unary(b, KD_OP_ABS, v), 0.99), kd_scale(b, g_mul(b, g, g), 0.01));
    KdValue root = g_add(b, kd_unary(b, KD_OP_SQRT, v1), kd_const(b, scalar, 0.1));
    KdValue rate = kd_binary(b, KD_OP_POW, kd_unary(b, KD_OP_ABS, lr), kd_const(b, scalar, 0.5));
    KdValue w1 = g_sub(b, w, g_mul(b, rate, kd_binary(b, KD_OP_DIV, m1, root)));
    kd_output(b->f, "w", w1, w);
    kd_output(b->f, "m", m1, m);
    kd_output(b->f, "v", v1, v);
}

/* ---- index ops ------------------------------------------------------------------------------------- */

static inline void g_pads(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 3, 6, 21));
    KdValue y = kd_unary(b, KD_OP_TANH, x);
    g_out(b, "a", g_relu(b, g_pad_reflect(b, y, 3)));
    g_out(b, "b", G_OP(b, KD_OP_PAD_REPLICATE, y, G_INTS(0, 0, 2, 1), G_INTS(0, 0, 0, 4)));
    g_out(b, "c", kd_scale(b, kd_pad(b, x, (int64_t[]){0, 1, -1, 2}, (int64_t[]){0, 0, 2, -1}, (int64_t[]){0, 0, 0, 1}, 0.25), 2));
    KdValue big = g_in(b, "g", G_DIMS(1, 2, 8, 25));
    g_out(b, "d", G_OP(b, KD_OP_PAD_REFLECT_GRAD, big, G_INTS(0, 0, 1, 2), G_INTS(0, 0, 1, 3)));
    g_out(b, "e", g_relu(b, G_OP(b, KD_OP_PAD_REPLICATE_GRAD, big, G_INTS(0, 0, 1, 2), G_INTS(0, 0, 0, 3))));
}
static inline void g_moves(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 5, 6)), y = g_in(b, "y", G_DIMS(6, 2, 5));
    KdValue t = kd_transpose(b, x, (int64_t[]){2, 0, 1});
    g_out(b, "a", g_add(b, t, y));
    g_out(b, "b", kd_slice(b, kd_unary(b, KD_OP_EXP, x), (int64_t[]){0, 1, 1}, (int64_t[]){2, 5, 6}, (int64_t[]){1, 2, 3}));
    KdValue c = g_concat(b, g_concat(b, x, kd_scale(b, x, 3), 2), g_in(b, "z", G_DIMS(2, 5, 3)), 2);
    g_out(b, "c", g_relu(b, c));
    g_out(b, "d", g_mul(b, g_concat(b, x, x, 1), g_concat(b, x, kd_unary(b, KD_OP_NEG, x), 1)));
    g_out(b, "e", kd_reshape(b, g_add(b, t, t), G_DIMS(4, 15)));
    g_out(b, "f", g_relu(b, kd_reshape(b, t, G_DIMS(12, 5))));
}
static inline void g_resizes(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 3, 4, 5));
    g_out(b, "a", g_relu(b, G_OP(b, KD_OP_UPSAMPLE_NEAREST, x, G_INTS(8, 10))));
    g_out(b, "b", G_OP(b, KD_OP_UPSAMPLE_NEAREST, kd_unary(b, KD_OP_EXP, x), G_INTS(7, 9)));
    g_out(b, "c", g_relu(b, G_OP(b, KD_OP_UPSAMPLE_NEAREST_GRAD, g_in(b, "g", G_DIMS(1, 2, 8, 15)), G_INTS(4, 5))));
}
static inline void g_gathers(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(3, 2, 5)), i = g_typed(b, "i", KD_I32, G_DIMS(3, 4, 5));
    g_out(b, "a", g_relu(b, G_OP2(b, KD_OP_GATHER, kd_unary(b, KD_OP_TANH, x), i, {.i = 1})));
    KdValue s = g_in(b, "s", G_DIMS(3, 4, 5));
    g_out(b, "b", g_relu(b, G_OP2(b, KD_OP_SCATTER_ADD, kd_scale(b, s, 2), i, {.i = 1}, {.i = 2})));
    g_out(b, "c", G_OP(b, KD_OP_ARGMAX, s, {.i = 2}));
    g_out(b, "d", kd_cast(b, G_OP(b, KD_OP_RANK, kd_unary(b, KD_OP_NEG, s), {.i = 1}), KD_F32));
}
/* Transposes that read along one dim and write along another, in tiles, with what is computed before and after. */
static inline void g_turns(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 17, 5, 70)), y = g_in(b, "y", G_DIMS(2, 5, 70, 17));
    KdValue t = G_OP(b, KD_OP_TRANSPOSE, x, G_INTS(0, 2, 3, 1));
    KdValue u = G_OP(b, KD_OP_TRANSPOSE, kd_unary(b, KD_OP_SQUARE, x), G_INTS(0, 2, 3, 1));
    g_out(b, "a", g_add(b, g_relu(b, t), g_mul(b, u, y)));
    KdValue z = g_in(b, "z", G_DIMS(1, 130, 1, 65)), c = g_in(b, "c", G_DIMS(65, 1, 1, 1));
    KdValue turned = G_OP(b, KD_OP_TRANSPOSE, z, G_INTS(3, 0, 2, 1));
    g_out(b, "b", kd_scale(b, g_add(b, turned, kd_broadcast(b, c, G_DIMS(65, 1, 1, 130))), 3));
    g_out(b, "c", turned);
    g_out(b, "d", G_OP(b, KD_OP_TRANSPOSE, g_in(b, "w", G_DIMS(16, 3, 20)), G_INTS(2, 1, 0)));
}
/* Indices repeat, and some lie outside; along the first, a middle and the last axis; in pieces. */
static inline void g_scatters(KdBuilder *b) {
    KdValue i = g_typed(b, "i", KD_I32, G_DIMS(2, 9, 1)), s = g_in(b, "s", G_DIMS(2, 9, 70));
    KdValue wide = kd_broadcast(b, i, G_DIMS(2, 9, 70));
    g_out(b, "a", G_OP2(b, KD_OP_SCATTER_ADD, s, wide, {.i = 1}, {.i = 5}));
    KdValue j = g_typed(b, "j", KD_I32, G_DIMS(13, 150)), t = g_in(b, "t", G_DIMS(13, 150));
    KdValue off = kd_binary(b, KD_OP_SUB, g_add(b, j, j), kd_const_like(b, j, 1)); /* -1 or 1 */
    g_out(b, "b", g_relu(b, G_OP2(b, KD_OP_SCATTER_ADD, g_mul(b, t, t), off, {.i = 0}, {.i = 3})));
    g_out(b, "c", G_OP2(b, KD_OP_SCATTER_ADD, t, j, {.i = 1}, {.i = 1}));
    g_out(b, "d", G_OP2(b, KD_OP_SCATTER_ADD, j, off, {.i = 1}, {.i = 20}));
    KdValue k = g_typed(b, "k", KD_I32, G_DIMS(37)), u = g_in(b, "u", G_DIMS(37));
    g_out(b, "e", G_OP2(b, KD_OP_SCATTER_ADD, u, k, {.i = 0}, {.i = 2}));
}
static inline void g_pool_of_rows(KdBuilder *b) {
    const KdType *t = kd_type(b->cx, KD_F32, G_DIMS(4, 3, 5));
    KdValue pool = kd_input(b, "pool", KD_STATE, t, ""), row = g_in(b, "row", G_DIMS(1, 3, 5));
    KdValue i = g_typed(b, "i", KD_I32, 0, NULL);
    KdValue in[3] = {pool, g_relu(b, row), i};
    KdValue p = kd_build(b, KD_OP_UPDATE_ROW, NULL, in, 3, NULL);
    KdValue none[3] = {p, row, kd_const_like(b, i, -1)};
    KdValue q = kd_build(b, KD_OP_UPDATE_ROW, NULL, none, 3, NULL);
    kd_output(b->f, "pool", q, pool);
    g_out(b, "a", kd_scale(b, p, 2));
}
static inline void g_pools(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 3, 9, 11));
    KdAttr a[3] = {G_INTS(3, 2), G_INTS(2, 1), G_INTS(1, 0, 1, 1)};
    KdValue p = kd_build(b, KD_OP_POOL_SUM, NULL, &x, 1, a);
    g_out(b, "a", g_relu(b, kd_scale(b, p, 1 / 6.0)));
    KdAttr ga[4] = {G_INTS(3, 2), G_INTS(2, 1), G_INTS(1, 0, 1, 1), G_INTS(9, 11)};
    g_out(b, "b", g_mul(b, x, kd_build(b, KD_OP_POOL_SUM_GRAD, NULL, &p, 1, ga)));
    KdValue i = kd_build(b, KD_OP_MAX_POOL_INDEX, NULL, &x, 1, (KdAttr[]){G_INTS(2, 2), G_INTS(2, 2), G_INTS(0, 0, 0, 0)});
    KdValue flat = kd_reshape(b, x, G_DIMS(1, 3, 99));
    KdValue m = G_OP2(b, KD_OP_GATHER, flat, kd_reshape(b, i, G_DIMS(1, 3, 20)), {.i = 2});
    g_out(b, "c", g_relu(b, kd_reshape(b, m, G_DIMS(1, 3, 4, 5))));
}

/* ---- reductions ------------------------------------------------------------------------------------ */

static inline void g_norm_relu(KdBuilder *b) {
    g_out(b, "a", g_relu(b, g_instance_norm(b, g_in(b, "x", G_DIMS(1, 5, 9, 7)))));
}
static inline void g_batch_norm(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(3, 4, 5, 7)), w = g_in(b, "w", G_DIMS(1, 4, 1, 1));
    KdValue mean = g_mean(b, x, G_DIMS(0, 2, 3));
    const KdType *t = kd_type(b->cx, KD_F32, G_DIMS(4));
    KdValue running = kd_input(b, "running", KD_BUFFER, t, "");
    KdValue next = g_add(b, kd_scale(b, running, 0.9), kd_scale(b, kd_reshape(b, mean, G_DIMS(4)), 0.1));
    kd_output(b->f, "running", next, running);
    g_out(b, "a", g_relu(b, g_mul(b, g_norm(b, x, G_DIMS(0, 2, 3)), w)));
}
static inline void g_layer_norm(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(6, 5, 37)), w = g_in(b, "w", G_DIMS(37));
    g_out(b, "a", g_mul(b, g_norm(b, x, G_DIMS(2)), w));
    g_out(b, "b", g_norm(b, kd_unary(b, KD_OP_EXP, x), G_DIMS(1, 2)));
}
static inline void g_norm_by_hand_gradient(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 4, 6, 5)), gy = g_in(b, "gy", G_DIMS(1, 4, 6, 5));
    KdValue c = g_sub(b, x, g_mean(b, x, G_DIMS(2, 3)));
    KdValue var = g_mean(b, kd_unary(b, KD_OP_SQUARE, c), G_DIMS(2, 3));
    KdValue r = kd_unary(b, KD_OP_RSQRT, g_add(b, var, kd_const_like(b, var, 1e-5)));
    KdValue xhat = g_mul(b, c, r);
    g_out(b, "y", g_relu(b, xhat));
    KdValue g = g_mul(b, gy, kd_binary(b, KD_OP_LT, kd_const_like(b, xhat, 0), xhat));
    KdValue a = g_mean(b, g, G_DIMS(2, 3)), p = g_mean(b, g_mul(b, g, xhat), G_DIMS(2, 3));
    g_out(b, "gx", g_mul(b, r, g_sub(b, g_sub(b, g, a), g_mul(b, xhat, p))));
    g_out(b, "gb", kd_sum(b, g, G_DIMS(0, 2, 3)));
}
static inline void g_softmaxes(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(6, 37));
    g_out(b, "a", g_softmax(b, x, 1));
    g_out(b, "b", g_softmax(b, x, 0));
    g_out(b, "c", g_softmax(b, g_in(b, "z", G_DIMS(2, 3, 4, 5)), 1));
}
static inline void g_unit_rows(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(9, 33));
    KdValue n = kd_unary(b, KD_OP_SQRT, kd_sum(b, kd_unary(b, KD_OP_SQUARE, x), G_DIMS(1)));
    g_out(b, "a", kd_binary(b, KD_OP_DIV, x, g_add(b, n, kd_const_like(b, n, 1e-7))));
}
static inline void g_loss(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 3, 128, 128)), y = g_in(b, "y", G_DIMS(1, 3, 128, 128));
    KdValue d = g_sub(b, x, y);
    g_out(b, "l1", g_all(b, kd_unary(b, KD_OP_ABS, d)));
    g_out(b, "l2", g_all(b, kd_unary(b, KD_OP_SQUARE, d)));
    g_out(b, "sign", kd_unary(b, KD_OP_SIGN, d));
}
static inline void g_two_stage(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 3, 120, 150));
    g_out(b, "sum", kd_sum(b, kd_unary(b, KD_OP_TANH, x), G_DIMS(0, 2, 3)));
    g_out(b, "max", g_max(b, x, G_DIMS(0, 2, 3)));
    KdValue y = g_in(b, "y", G_DIMS(40001, 3));
    g_out(b, "columns", kd_sum(b, y, G_DIMS(0)));
    g_out(b, "centred", g_sub(b, y, g_mean(b, y, G_DIMS(0))));
}
static inline void g_many_sums(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(4, 3, 5, 6));
    const int64_t axes[7][4] = {{0}, {1}, {2}, {3}, {0, 2}, {1, 3}, {0, 1, 2, 3}};
    const int n[7] = {1, 1, 1, 1, 2, 2, 4};
    for (int i = 0; i < 7; i++) {
        g_out(b, kd_format(b->cx, "s%d", i), kd_sum(b, x, n[i], axes[i]));
        g_out(b, kd_format(b->cx, "m%d", i), g_max(b, g_relu(b, x), n[i], axes[i]));
    }
}
static inline void g_columns(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(300, 70)), y = g_in(b, "y", G_DIMS(300, 70));
    KdValue p = g_mul(b, x, y);
    g_out(b, "a", kd_sum(b, p, G_DIMS(0)));
    g_out(b, "b", g_norm(b, x, G_DIMS(0)));
}
static inline void g_sum_of_moved(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 3, 6, 8));
    g_out(b, "a", kd_sum(b, kd_transpose(b, x, (int64_t[]){0, 2, 3, 1}), G_DIMS(3)));
    g_out(b, "b", g_max(b, g_pad_reflect(b, x, 2), G_DIMS(2, 3)));
    KdValue c = kd_reshape(b, x, G_DIMS(3, 48));
    g_out(b, "c", g_norm(b, c, G_DIMS(1)));
    g_out(b, "d", kd_sum(b, g_concat(b, x, g_relu(b, x), 1), G_DIMS(1)));
}

static inline void g_empty(KdBuilder *b) { /* values without elements, and sums of nothing */
    KdValue x = g_in(b, "x", G_DIMS(0, 3)), y = g_in(b, "y", G_DIMS(2, 3));
    g_out(b, "a", kd_unary(b, KD_OP_EXP, x));
    g_out(b, "b", kd_sum(b, g_relu(b, x), G_DIMS(0)));
    g_out(b, "c", g_relu(b, g_concat(b, x, y, 0)));
    g_out(b, "d", g_sub(b, x, kd_sum(b, x, G_DIMS(0))));
}

/* ---- contractions ------------------------------------------------------------------------------------ */

static inline void g_conv_bias_relu(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 3, 9, 7)), w = g_in(b, "w", G_DIMS(4, 3, 3, 3));
    KdValue y = g_add(b, g_conv(b, x, w, 1, 1), g_in(b, "b", G_DIMS(1, 4, 1, 1)));
    g_out(b, "a", g_relu(b, y));
}
static inline void g_block(KdBuilder *b) { /* a residual block: reflect, conv, norm, relu, reflect, conv, norm, add */
    KdValue x = g_in(b, "x", G_DIMS(1, 4, 8, 7));
    KdValue h = x;
    for (int i = 0; i < 2; i++) {
        KdValue w = g_in(b, i ? "w1" : "w0", G_DIMS(4, 4, 3, 3)), c = g_in(b, i ? "b1" : "b0", G_DIMS(1, 4, 1, 1));
        h = g_instance_norm(b, g_add(b, g_conv(b, g_pad_reflect(b, h, 1), w, 1, 0), c));
        h = i ? h : g_relu(b, h);
    }
    g_out(b, "a", g_add(b, x, h));
}
static inline void g_directions(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(2, 4, 7, 6)), w = g_in(b, "w", G_DIMS(4, 3, 3, 2)), gy = g_in(b, "gy", G_DIMS(2, 6, 4, 3));
    KdAttr t[5] = {G_INTS(2, 1), G_INTS(1, 0, 1, 1), G_INTS(1, 1), {.i = 2}, G_INTS(1, 0)};
    g_out(b, "a", g_relu(b, G_OP2(b, KD_OP_CONV_TRANSPOSE2D, x, w, t[0], t[1], t[2], t[3], t[4])));
    KdAttr g[5] = {G_INTS(3, 2), G_INTS(2, 2), G_INTS(1, 0, 1, 1), G_INTS(1, 1), {.i = 2}};
    KdValue gw = G_OP2(b, KD_OP_CONV2D_WGRAD, g_relu(b, x), gy, g[0], g[1], g[2], g[3], g[4]);
    g_out(b, "b", kd_scale(b, gw, 0.5));
}
static inline void g_matmuls(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(5, 7)), y = g_in(b, "y", G_DIMS(5, 9)), z = g_in(b, "z", G_DIMS(2, 9, 4));
    g_out(b, "a", g_relu(b, g_add(b, kd_matmul(b, x, y, true, false), g_in(b, "c", G_DIMS(9)))));
    g_out(b, "b", kd_matmul(b, z, z, true, false));
    g_out(b, "c", kd_unary(b, KD_OP_TANH, kd_matmul(b, g_relu(b, x), kd_unary(b, KD_OP_EXP, x), false, true)));
}
static inline void g_prologues(KdBuilder *b) {
    KdValue x = g_in(b, "x", G_DIMS(1, 2, 5, 6)), y = g_in(b, "y", G_DIMS(1, 3, 10, 12)), w = g_in(b, "w", G_DIMS(4, 5, 3, 3));
    KdValue up = G_OP(b, KD_OP_UPSAMPLE_NEAREST, x, G_INTS(10, 12));
    KdValue c = g_concat(b, up, G_OP(b, KD_OP_LEAKY_RELU, y, {.f = 0.2}), 1);
    KdValue p = kd_pad(b, c, (int64_t[]){0, 0, 1, 1}, (int64_t[]){0, 0, 2, 1}, (int64_t[]){0, 0, 0, 0}, 0);
    KdValue r = g_conv(b, p, w, 2, 0);
    g_out(b, "a", r);
    g_out(b, "b", kd_unary(b, KD_OP_TANH, r));
}
static inline void g_mask_and_relu(KdBuilder *b) { /* what a backward pass needs of a convolution */
    KdValue x = g_in(b, "x", G_DIMS(1, 3, 20, 80)), w = g_in(b, "w", G_DIMS(4, 3, 1, 1)), w2 = g_in(b, "w2", G_DIMS(4, 4, 1, 1));
    KdValue t = g_add(b, g_conv(b, x, w, 1, 0), g_in(b, "b", G_DIMS(1, 4, 1, 1)));
    KdValue y = g_conv(b, g_relu(b, t), w2, 1, 0);
    g_out(b, "y", y);
    g_out(b, "g", g_mul(b, y, kd_binary(b, KD_OP_LT, kd_const_like(b, t, 0), t)));
}

typedef struct GGraph {
    const char *name;
    void (*build)(KdBuilder *b);
} GGraph;

static const GGraph g_graphs[] = {
    {"chain", g_chain}, {"long", g_long}, {"long_rows", g_long_rows}, {"broadcasts", g_broadcasts},
    {"integers", g_integers}, {"leaves", g_leaves}, {"dropout", g_dropout}, {"adam", g_adam}, {"pads", g_pads},
    {"moves", g_moves}, {"resizes", g_resizes}, {"gathers", g_gathers}, {"scatters", g_scatters}, {"turns", g_turns}, {"pool_of_rows", g_pool_of_rows},
    {"pools", g_pools}, {"norm_relu", g_norm_relu}, {"batch_norm", g_batch_norm}, {"layer_norm", g_layer_norm},
    {"norm_gradient", g_norm_by_hand_gradient}, {"softmaxes", g_softmaxes}, {"unit_rows", g_unit_rows},
    {"loss", g_loss}, {"two_stage", g_two_stage}, {"many_sums", g_many_sums}, {"columns", g_columns},
    {"sum_of_moved", g_sum_of_moved}, {"conv_bias_relu", g_conv_bias_relu}, {"block", g_block},
    {"directions", g_directions}, {"matmuls", g_matmuls}, {"prologues", g_prologues},
    {"mask_and_relu", g_mask_and_relu}, {"empty", g_empty},
};

static inline KdFunc *g_build(KdContext *cx, const GGraph *g) {
    KdFunc *f = kd_func_new(cx, g->name);
    KdBuilder b = kd_builder(f);
    g->build(&b);
    return kd_error_count(cx) ? NULL : f;
}

#endif
