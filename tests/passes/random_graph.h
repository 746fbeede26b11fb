/* random_graph.h: valid graphs from a seed, over every op of the table.
 *
 * A graph is a few inputs, some ten random ops on random earlier values, gradients of a scalar of them, now and then an
 * optimiser, and outputs. Values stay finite and of moderate size: every value has a bound (rg.bound), what grows is
 * scaled down, and roots, logarithms and divisors see positive operands. Ops that jump (comparisons, floor, argmax, ...)
 * are applied to inputs alone, whose values are equal in single and double precision.
 */
#ifndef KD_RANDOM_GRAPH_H
#define KD_RANDOM_GRAPH_H

#include <math.h>
#include <string.h>

#include "ir/ir.h"

typedef struct Rg {
    KdBuilder b;
    uint64_t seed;
    bool big; /* one of the few graphs with values large enough for pieces and two stages */
    KD_VEC(KdValue) values; /* f32, to be picked from */
    KD_VEC(KdValue) exact;  /* those of them that are inputs, or moved inputs */
    KD_VEC(double) bound;   /* by node */
    int names;
} Rg;

static inline int64_t rg_int(Rg *g, int64_t lo, int64_t hi) { /* inclusive */
    g->seed = g->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return lo + (int64_t)((g->seed >> 33) % (uint64_t)(hi - lo + 1));
}
static inline bool rg_chance(Rg *g, int percent) { return rg_int(g, 0, 99) < percent; }

static inline double rg_bound(Rg *g, KdValue v) {
    while (g->bound.n <= (int)v) {
        kd_push(g->b.cx, &g->bound, 2);
    }
    return g->bound.v[v];
}
static inline void rg_set_bound(Rg *g, KdValue v, double b) {
    rg_bound(g, v);
    g->bound.v[v] = b;
}
static inline const KdType *rg_type(Rg *g, KdValue v) { return kd_vtype(g->b.f, v); }

/* Makes v one of the values to pick from; too large ones are scaled. */
static inline void rg_keep(Rg *g, KdValue v, double bound) {
    if (v == KD_NONE || rg_type(g, v)->count == 0 || rg_type(g, v)->count > (g->big ? 120000 : 3000)) {
        return;
    }
    if (bound > 6) {
        v = kd_scale(&g->b, v, 2 / bound);
        bound = 2;
    }
    rg_set_bound(g, v, bound);
    kd_push(g->b.cx, &g->values, v);
}

static inline KdValue rg_input(Rg *g, KdDType d, int rank, const int64_t *dim) {
    KdValue v = kd_input(&g->b, kd_format(g->b.cx, "x%d", g->names++), KD_DATA, kd_type(g->b.cx, d, rank, dim), "");
    rg_set_bound(g, v, 1.5);
    if (d == KD_F32) {
        kd_push(g->b.cx, &g->values, v);
        kd_push(g->b.cx, &g->exact, v);
    }
    return v;
}

static inline KdValue rg_new_input(Rg *g) {
    int64_t dim[4];
    int rank = (int)rg_int(g, 0, 7);
    rank = rank > 4 ? 4 : rank;
    for (int i = 0; i < rank; i++) {
        dim[i] = rg_int(g, 1, i == rank - 1 ? 11 : i == 0 && rank == 4 ? 2 : 6);
    }
    if (g->big && rank >= 2) {
        dim[rank - 1] = rg_int(g, 90, 150);
        dim[rank - 2] = rg_int(g, 90, 150);
    }
    return rg_input(g, KD_F32, rank, dim);
}

static inline KdValue rg_pick(Rg *g) { /* recent ones more often */
    int n = g->values.n;
    int k = rg_chance(g, 50) ? (int)rg_int(g, n > 4 ? n - 4 : 0, n - 1) : (int)rg_int(g, 0, n - 1);
    return g->values.v[k];
}
static inline KdValue rg_pick_exact(Rg *g) { return g->exact.v[rg_int(g, 0, g->exact.n - 1)]; }
static inline KdValue rg_pick_rank(Rg *g, int least) { /* a value of at least this rank, or KD_NONE */
    for (int i = 0; i < 8; i++) {
        KdValue v = rg_pick(g);
        if (rg_type(g, v)->rank >= least) {
            return v;
        }
    }
    return KD_NONE;
}
static inline KdValue rg_same(Rg *g, KdValue v) { /* another value of v's type, if there is one; else a function of v */
    for (int i = 0; i < 12; i++) {
        KdValue u = rg_pick(g);
        if (u != v && rg_type(g, u) == rg_type(g, v)) {
            return u;
        }
    }
    const KdType *t = rg_type(g, v);
    return rg_chance(g, 50) ? rg_input(g, KD_F32, t->rank, t->dim) : v;
}
static inline KdValue rg_positive(Rg *g, KdValue v) { /* |v| + 0.5 */
    KdValue p = kd_unary(&g->b, KD_OP_ABS, v);
    p = kd_binary(&g->b, KD_OP_ADD, p, kd_const_like(&g->b, p, 0.5));
    rg_set_bound(g, p, rg_bound(g, v) + 0.5);
    return p;
}
static inline KdInts rg_ints(Rg *g, int n) { return (KdInts){n, KD_NEW_ARRAY(g->b.cx, int64_t, n + 1)}; }
static inline KdInts rg_random_ints(Rg *g, int n, int64_t lo, int64_t hi) {
    KdInts r = rg_ints(g, n);
    for (int i = 0; i < n; i++) {
        ((int64_t *)r.v)[i] = rg_int(g, lo, hi);
    }
    return r;
}
#define RG_SET(ints, i, x) (((int64_t *)(ints).v)[i] = (x))

static inline KdValue rg_build(Rg *g, KdOp op, int n, const KdValue *in, const KdAttr *attr) {
    return kd_build(&g->b, op, NULL, in, n, attr);
}

static inline void rg_unary(Rg *g, KdOp op) {
    KdValue x = rg_pick(g);
    double m = rg_bound(g, x), r = m;
    KdAttr a[2] = {{.f = 0.2}, {.f = 0.7}};
    bool attrs = false;
    switch ((int)op) {
    case KD_OP_SQRT: case KD_OP_LOG: case KD_OP_RSQRT: case KD_OP_RECIPROCAL:
        x = rg_positive(g, x);
        r = 3;
        break;
    case KD_OP_SIGN: case KD_OP_FLOOR:
        x = rg_pick_exact(g);
        r = 2;
        break;
    case KD_OP_EXP:
        x = m > 2 ? kd_unary(&g->b, KD_OP_TANH, x) : x;
        r = 8;
        break;
    case KD_OP_SQUARE: r = m * m; break;
    case KD_OP_SOFTPLUS: r = m + 1; break;
    case KD_OP_TANH: case KD_OP_SIGMOID: r = 1; break;
    case KD_OP_LEAKY_RELU: attrs = true; break;
    case KD_OP_CLAMP:
        attrs = true;
        a[0].f = -0.625; /* exact, so that values on the edge are on it in every precision */
        a[1].f = 0.75;
        r = 1;
        break;
    case KD_OP_CAST:
        a[0].s = kd_intern_z(g->b.cx, "f32");
        attrs = true;
        if (rg_chance(g, 60)) { /* there and back */
            x = kd_scale(&g->b, rg_pick_exact(g), 4);
            x = kd_cast(&g->b, x, rg_chance(g, 50) ? KD_I32 : KD_U8);
            r = 6;
        }
        break;
    default: break;
    }
    rg_keep(g, rg_build(g, op, 1, &x, attrs ? a : NULL), r);
}

static inline void rg_binary(Rg *g, KdOp op) {
    KdValue x = rg_pick(g), y = rg_same(g, x);
    bool jumps = op == KD_OP_EQ || op == KD_OP_NE || op == KD_OP_LT || op == KD_OP_LE;
    if (jumps) {
        x = rg_pick_exact(g);
        y = kd_const_like(&g->b, x, 0.25);
    } else if (rg_chance(g, 40) && rg_type(g, x)->rank > 0) { /* a broadcast */
        const KdType *t = rg_type(g, x);
        int64_t dim[KD_MAX_RANK];
        for (int i = 0; i < t->rank; i++) {
            dim[i] = rg_chance(g, 50) ? 1 : t->dim[i];
        }
        y = rg_input(g, KD_F32, t->rank, dim);
        y = rg_chance(g, 30) ? kd_unary(&g->b, KD_OP_EXP, y) : y;
        rg_set_bound(g, y, 5);
    }
    if (op == KD_OP_DIV || op == KD_OP_POW) {
        KdValue p = rg_positive(g, op == KD_OP_DIV ? y : x);
        y = op == KD_OP_DIV ? p : kd_unary(&g->b, KD_OP_TANH, y);
        x = op == KD_OP_DIV ? x : p;
    }
    double a = rg_bound(g, x), c = rg_bound(g, y);
    double r = op == KD_OP_MUL ? a * c : op == KD_OP_DIV ? 2 * a : op == KD_OP_POW ? a + 3 : jumps ? 1 : a + c;
    rg_keep(g, kd_binary(&g->b, op, x, y), r);
}

static inline void rg_move(Rg *g, KdOp op) {
    bool exact = rg_chance(g, 25);
    KdValue x = exact ? rg_pick_exact(g) : rg_pick_rank(g, 1);
    if (x == KD_NONE || rg_type(g, x)->rank == 0) {
        return;
    }
    const KdType *t = rg_type(g, x);
    int r = t->rank;
    KdInts p = rg_ints(g, r), q = rg_ints(g, r), s = rg_ints(g, r);
    KdAttr a[4] = {{.ints = p}, {.ints = q}, {.ints = s}, {.f = 0.5}};
    KdValue v = KD_NONE;
    switch ((int)op) {
    case KD_OP_RESHAPE: {
        int64_t rest = t->count, dim[4];
        int n = (int)rg_int(g, 1, 4);
        for (int i = 0; i < n; i++) {
            int64_t d = i == n - 1 ? rest : rg_int(g, 1, 4);
            dim[i] = rest % d == 0 ? d : 1;
            rest /= dim[i];
        }
        if (rest == 1) {
            v = kd_reshape(&g->b, x, n, dim);
        }
        break;
    }
    case KD_OP_TRANSPOSE:
        for (int i = 0; i < r; i++) {
            int j = (int)rg_int(g, 0, i);
            RG_SET(p, i, p.v[j]);
            RG_SET(p, j, i);
        }
        v = rg_build(g, op, 1, &x, a);
        break;
    case KD_OP_BROADCAST:
        for (int i = 0; i < r; i++) {
            RG_SET(p, i, t->dim[i] == 1 ? rg_int(g, 1, 5) : t->dim[i]);
        }
        v = rg_build(g, op, 1, &x, a);
        break;
    case KD_OP_SLICE:
        for (int i = 0; i < r; i++) {
            RG_SET(p, i, rg_int(g, 0, t->dim[i] - 1));
            RG_SET(q, i, rg_int(g, p.v[i] + 1, t->dim[i]));
            RG_SET(s, i, rg_int(g, 1, 3));
        }
        v = rg_build(g, op, 1, &x, a);
        break;
    case KD_OP_PAD:
        for (int i = 0; i < r; i++) {
            RG_SET(p, i, rg_int(g, t->dim[i] > 2 ? -1 : 0, 2));
            RG_SET(q, i, rg_int(g, t->dim[i] > 2 ? -1 : 0, 2));
            RG_SET(s, i, rg_chance(g, 20));
        }
        v = rg_build(g, op, 1, &x, a);
        break;
    case KD_OP_PAD_REFLECT: case KD_OP_PAD_REPLICATE:
    case KD_OP_PAD_REFLECT_GRAD: case KD_OP_PAD_REPLICATE_GRAD: {
        bool grad = op == KD_OP_PAD_REFLECT_GRAD || op == KD_OP_PAD_REPLICATE_GRAD;
        for (int i = 0; i < r; i++) {
            int64_t most = grad ? (t->dim[i] - 1) / 3 : op == KD_OP_PAD_REFLECT ? t->dim[i] - 1 : 3;
            most = most > 3 ? 3 : most;
            RG_SET(p, i, rg_int(g, 0, most));
            RG_SET(q, i, rg_int(g, 0, most));
        }
        v = rg_build(g, op, 1, &x, a);
        rg_keep(g, v, rg_bound(g, x) * (grad ? 8 : 1));
        return;
    }
    case KD_OP_CONCAT: {
        KdValue in[3] = {x, rg_same(g, x), x};
        a[0].i = rg_int(g, 0, r - 1);
        v = rg_build(g, op, (int)rg_int(g, 1, 3), in, a);
        rg_keep(g, v, fmax(rg_bound(g, x), rg_bound(g, in[1])));
        return;
    }
    default: break;
    }
    if (v != KD_NONE && exact && op != KD_OP_PAD) {
        kd_push(g->b.cx, &g->exact, v);
    }
    rg_keep(g, v, rg_bound(g, x));
}

static inline void rg_picture(Rg *g, KdOp op) { /* pools and resizes: the last two dims */
    KdValue x = rg_pick_rank(g, op == KD_OP_UPSAMPLE_NEAREST || op == KD_OP_UPSAMPLE_NEAREST_GRAD ? 2 : 4);
    if (x == KD_NONE) {
        return;
    }
    const KdType *t = rg_type(g, x);
    int64_t h = t->dim[t->rank - 2], w = t->dim[t->rank - 1];
    KdInts kernel = rg_random_ints(g, 2, 1, 3), stride = rg_random_ints(g, 2, 1, 2), pad = rg_random_ints(g, 4, 0, 1);
    RG_SET(kernel, 0, kernel.v[0] > h ? h : kernel.v[0]);
    RG_SET(kernel, 1, kernel.v[1] > w ? w : kernel.v[1]);
    for (int i = 0; i < 4; i++) { /* no window lies in the padding alone */
        RG_SET(pad, i, kernel.v[i % 2] > 1 ? pad.v[i] : 0);
    }
    KdAttr a[4] = {{.ints = kernel}, {.ints = stride}, {.ints = pad}, {.ints = rg_ints(g, 2)}};
    KdAttr size = {.ints = rg_ints(g, 2)};
    switch ((int)op) {
    case KD_OP_POOL_SUM:
        rg_keep(g, rg_build(g, op, 1, &x, a), 9 * rg_bound(g, x));
        break;
    case KD_OP_POOL_SUM_GRAD: {
        KdValue p = rg_build(g, KD_OP_POOL_SUM, 1, &x, a);
        RG_SET(a[3].ints, 0, h);
        RG_SET(a[3].ints, 1, w);
        if (p != KD_NONE) {
            rg_set_bound(g, p, 9 * rg_bound(g, x));
            rg_keep(g, rg_build(g, op, 1, &p, a), 81 * rg_bound(g, x));
        }
        break;
    }
    case KD_OP_MAX_POOL_INDEX: {
        x = rg_pick_exact(g);
        t = rg_type(g, x);
        if (t->rank != 4 || t->dim[2] < 3 || t->dim[3] < 3) {
            return;
        }
        KdValue i = rg_build(g, op, 1, &x, a);
        if (i == KD_NONE) {
            return;
        }
        const KdType *ti = rg_type(g, i);
        KdValue in[2] = {kd_reshape(&g->b, x, 3, (int64_t[]){t->dim[0], t->dim[1], t->dim[2] * t->dim[3]}),
                         kd_reshape(&g->b, i, 3, (int64_t[]){t->dim[0], t->dim[1], ti->dim[2] * ti->dim[3]})};
        KdValue m = rg_build(g, KD_OP_GATHER, 2, in, (KdAttr[]){{.i = 2}});
        rg_keep(g, kd_reshape(&g->b, m, 4, ti->dim), 2);
        break;
    }
    case KD_OP_UPSAMPLE_NEAREST:
        RG_SET(size.ints, 0, rg_chance(g, 50) ? 2 * h : rg_int(g, h, 3 * h));
        RG_SET(size.ints, 1, rg_chance(g, 50) ? 2 * w : rg_int(g, w, 3 * w));
        rg_keep(g, rg_build(g, op, 1, &x, &size), rg_bound(g, x));
        break;
    case KD_OP_UPSAMPLE_NEAREST_GRAD:
        RG_SET(size.ints, 0, rg_int(g, (h + 2) / 3, h));
        RG_SET(size.ints, 1, rg_int(g, (w + 2) / 3, w));
        rg_keep(g, rg_build(g, op, 1, &x, &size), 25 * rg_bound(g, x));
        break;
    default: break;
    }
}

static inline void rg_fold(Rg *g, KdOp op) {
    KdValue x = rg_pick_rank(g, 1);
    if (x == KD_NONE) {
        return;
    }
    KdInts axes = rg_ints(g, rg_type(g, x)->rank);
    axes.n = 0;
    double count = 1;
    for (int i = 0; i < rg_type(g, x)->rank; i++) {
        if (rg_chance(g, 50)) {
            RG_SET(axes, axes.n, i);
            axes.n++;
            count *= (double)rg_type(g, x)->dim[i];
        }
    }
    if (axes.n == 0) {
        return;
    }
    KdValue v = rg_build(g, op, 1, &x, (KdAttr[]){{.ints = axes}});
    if (op == KD_OP_SUM && rg_chance(g, 60)) { /* a mean, often taken off again */
        v = kd_scale(&g->b, v, 1 / count);
        rg_set_bound(g, v, rg_bound(g, x));
        if (rg_chance(g, 60)) {
            rg_keep(g, kd_binary(&g->b, rg_chance(g, 50) ? KD_OP_SUB : KD_OP_MUL, x, v), 2 * fmax(1, rg_bound(g, x) * rg_bound(g, x)));
        }
        count = 1;
    }
    rg_keep(g, v, op == KD_OP_SUM ? count * rg_bound(g, x) : rg_bound(g, x));
}

static inline void rg_by_index(Rg *g, KdOp op) {
    KdValue x = op == KD_OP_ARGMAX || op == KD_OP_RANK ? rg_pick_exact(g) : rg_pick_rank(g, 1);
    if (x == KD_NONE || rg_type(g, x)->rank == 0) {
        return;
    }
    const KdType *t = rg_type(g, x);
    int axis = (int)rg_int(g, 0, t->rank - 1);
    KdAttr a[2] = {{.i = axis}, {.i = rg_int(g, 2, 4)}};
    if (op == KD_OP_ARGMAX || op == KD_OP_RANK) {
        KdValue i = rg_build(g, op, 1, &x, a);
        rg_keep(g, kd_cast(&g->b, i, KD_F32), (double)t->dim[axis]);
        return;
    }
    int64_t dim[KD_MAX_RANK];
    memcpy(dim, t->dim, sizeof dim);
    if (op == KD_OP_GATHER && t->dim[axis] >= 2) {
        dim[axis] = rg_int(g, 1, 5);
        KdValue in[2] = {x, rg_input(g, KD_I32, t->rank, dim)};
        rg_keep(g, rg_build(g, op, 2, in, a), rg_bound(g, x));
    } else if (op == KD_OP_SCATTER_ADD) {
        KdValue in[2] = {x, rg_input(g, KD_I32, t->rank, dim)};
        rg_keep(g, rg_build(g, op, 2, in, a), rg_bound(g, x) * (double)dim[axis]);
    } else if (op == KD_OP_UPDATE_ROW && !g->big) {
        dim[0] = 1;
        KdValue in[3] = {x, rg_input(g, KD_F32, t->rank, dim), rg_input(g, KD_I32, 0, NULL)};
        rg_keep(g, rg_build(g, op, 3, in, NULL), rg_bound(g, x) + 2);
    }
}

static inline void rg_contract(Rg *g, KdOp op) {
    if (g->big) {
        return;
    }
    if (op == KD_OP_MATMUL) {
        KdValue x = rg_pick_rank(g, 2);
        if (x == KD_NONE || rg_type(g, x)->rank > 3) {
            return;
        }
        const KdType *t = rg_type(g, x);
        bool ta = rg_chance(g, 40), tb = rg_chance(g, 40);
        int r = t->rank;
        int64_t k = t->dim[ta ? r - 2 : r - 1], n = rg_int(g, 1, 9), dim[3] = {t->dim[0]};
        dim[r - 2] = tb ? n : k;
        dim[r - 1] = tb ? k : n;
        KdValue y = rg_input(g, KD_F32, r, dim);
        rg_keep(g, kd_matmul(&g->b, x, y, ta, tb), 2 * (double)k * rg_bound(g, x));
        return;
    }
    KdValue x = rg_pick_rank(g, 4);
    if (x == KD_NONE || rg_type(g, x)->rank != 4) {
        return;
    }
    const KdType *t = rg_type(g, x);
    int64_t groups = t->dim[1] % 2 == 0 && rg_chance(g, 30) ? 2 : 1, o = rg_int(g, 1, 3) * groups;
    int64_t kh = rg_int(g, 1, 3), kw = rg_int(g, 1, 3);
    KdAttr a[5] = {{.ints = rg_random_ints(g, 2, 1, 2)}, {.ints = rg_random_ints(g, 4, 0, 1)},
                   {.ints = rg_random_ints(g, 2, 1, 1)}, {.i = groups}, {.ints = rg_ints(g, 2)}};
    KdValue in[2] = {x, KD_NONE};
    if (op == KD_OP_CONV2D && t->dim[2] >= kh && t->dim[3] >= kw) {
        in[1] = rg_input(g, KD_F32, 4, (int64_t[]){o, t->dim[1] / groups, kh, kw});
    } else if (op == KD_OP_CONV_TRANSPOSE2D && t->dim[2] > 2 && t->dim[3] > 2) {
        in[1] = rg_input(g, KD_F32, 4, (int64_t[]){t->dim[1], o / groups, kh, kw});
        RG_SET(a[4].ints, 0, rg_int(g, 0, a[0].ints.v[0] - 1));
    } else if (op == KD_OP_CONV2D_WGRAD && t->dim[2] >= kh && t->dim[3] >= kw) {
        KdAttr w[5] = {{.ints = rg_ints(g, 2)}, a[0], a[1], a[2], a[3]};
        RG_SET(w[0].ints, 0, kh);
        RG_SET(w[0].ints, 1, kw);
        int64_t p = (t->dim[2] + a[1].ints.v[0] + a[1].ints.v[2] - kh) / a[0].ints.v[0] + 1;
        int64_t q = (t->dim[3] + a[1].ints.v[1] + a[1].ints.v[3] - kw) / a[0].ints.v[1] + 1;
        in[1] = rg_input(g, KD_F32, 4, (int64_t[]){t->dim[0], o, p, q});
        rg_keep(g, rg_build(g, op, 2, in, w), (double)(t->dim[0] * p * q) * rg_bound(g, x));
        return;
    }
    if (in[1] != KD_NONE) {
        KdValue y = rg_build(g, op, 2, in, a);
        if (rg_chance(g, 50) && y != KD_NONE) { /* a bias */
            y = kd_binary(&g->b, KD_OP_ADD, y, rg_input(g, KD_F32, 4, (int64_t[]){1, rg_type(g, y)->dim[1], 1, 1}));
        }
        rg_keep(g, y, (double)(kh * kw * t->dim[1]) * rg_bound(g, x));
    }
}

static inline void rg_other(Rg *g, KdOp op) {
    KdValue x = rg_pick(g);
    const KdType *t = rg_type(g, x);
    switch ((int)op) {
    case KD_OP_WHERE: {
        KdValue c = rg_pick_exact(g);
        KdValue y = rg_input(g, KD_F32, rg_type(g, c)->rank, rg_type(g, c)->dim);
        KdValue cond = kd_binary(&g->b, KD_OP_LT, c, kd_const_like(&g->b, c, 0));
        rg_keep(g, kd_where(&g->b, cond, y, kd_unary(&g->b, KD_OP_TANH, c)), 2);
        break;
    }
    case KD_OP_CONST: case KD_OP_DETACH:
        rg_keep(g, kd_unary(&g->b, KD_OP_DETACH, x), rg_bound(g, x));
        break;
    case KD_OP_LITERAL: {
        if (t->count > 200) {
            return;
        }
        KdFloats values = {(int)t->count, NULL};
        double *v = KD_NEW_ARRAY(g->b.cx, double, t->count);
        for (int64_t i = 0; i < t->count; i++) {
            v[i] = (double)(rg_int(g, -8, 8)) / 8;
        }
        values.v = v;
        KdValue lit = kd_build(&g->b, op, t, NULL, 0, (KdAttr[]){{.floats = values}});
        rg_keep(g, kd_binary(&g->b, KD_OP_ADD, x, lit), rg_bound(g, x) + 1);
        break;
    }
    case KD_OP_IOTA:
        if (t->rank > 0) {
            int64_t axis = rg_int(g, 0, t->rank - 1);
            KdValue i = kd_build(&g->b, op, kd_type(g->b.cx, KD_I32, t->rank, t->dim), NULL, 0, (KdAttr[]){{.i = axis}});
            rg_keep(g, kd_binary(&g->b, KD_OP_MUL, x, kd_cast(&g->b, i, KD_F32)), rg_bound(g, x) * (double)t->dim[axis]);
        }
        break;
    case KD_OP_RANDOM: {
        KdValue in[2] = {rg_input(g, KD_I32, 0, NULL), rg_input(g, KD_I32, 0, NULL)};
        KdAttr a[2] = {{.i = rg_int(g, 0, 5)}, {.ints = {t->rank, t->dim}}};
        KdValue r = rg_build(g, op, 2, in, a);
        KdValue keep = kd_binary(&g->b, KD_OP_LT, r, kd_const_like(&g->b, r, 0.5));
        rg_keep(g, kd_binary(&g->b, KD_OP_MUL, x, keep), rg_bound(g, x));
        break;
    }
    default: break;
    }
}

static inline void rg_op(Rg *g, KdOp op) {
    const KdOpInfo *info = &kd_op_info[op];
    switch ((int)op) {
    case KD_OP_RESHAPE: case KD_OP_TRANSPOSE: case KD_OP_BROADCAST: case KD_OP_SLICE: case KD_OP_PAD:
    case KD_OP_PAD_REFLECT: case KD_OP_PAD_REFLECT_GRAD: case KD_OP_PAD_REPLICATE: case KD_OP_PAD_REPLICATE_GRAD:
    case KD_OP_CONCAT:
        rg_move(g, op);
        return;
    case KD_OP_UPSAMPLE_NEAREST: case KD_OP_UPSAMPLE_NEAREST_GRAD: case KD_OP_POOL_SUM: case KD_OP_POOL_SUM_GRAD:
    case KD_OP_MAX_POOL_INDEX:
        rg_picture(g, op);
        return;
    case KD_OP_GATHER: case KD_OP_SCATTER_ADD: case KD_OP_UPDATE_ROW: case KD_OP_ARGMAX: case KD_OP_RANK:
        rg_by_index(g, op);
        return;
    default: break;
    }
    if (info->cls == KD_REDUCE) {
        rg_fold(g, op);
    } else if (info->cls == KD_ANCHOR) {
        rg_contract(g, op);
    } else if (info->cls == KD_ELEMENTWISE && info->n_in == 1) {
        rg_unary(g, op);
    } else if (info->cls == KD_ELEMENTWISE && info->n_in == 2) {
        rg_binary(g, op);
    } else {
        rg_other(g, op);
    }
}

static inline KdValue rg_loss(Rg *g, KdValue v) { /* the mean of squares */
    int64_t axes[KD_MAX_RANK] = {0, 1, 2, 3, 4, 5};
    KdValue s = kd_unary(&g->b, KD_OP_SQUARE, v);
    s = kd_sum(&g->b, s, rg_type(g, v)->rank, axes);
    return kd_scale(&g->b, kd_reshape(&g->b, s, 0, NULL), 1 / (double)rg_type(g, v)->count);
}

static inline void rg_gradients(Rg *g) {
    KdValue loss = rg_loss(g, g->values.v[g->values.n - 1]);
    KdValue last = KD_NONE;
    for (int i = 0; i < 2; i++) {
        KdValue in[2] = {loss, rg_pick(g)};
        last = rg_build(g, KD_OP_GRAD, 2, in, NULL);
        kd_output(g->b.f, kd_intern_z(g->b.cx, kd_format(g->b.cx, "grad%d", i)), last, KD_NONE);
    }
    if (rg_chance(g, 25)) { /* the gradient of a gradient */
        KdValue in[2] = {rg_loss(g, last), rg_pick_exact(g)};
        kd_output(g->b.f, "grad2", rg_build(g, KD_OP_GRAD, 2, in, NULL), KD_NONE);
    }
}

static inline void rg_update(Rg *g) { /* a state that is replaced, by an optimiser or by hand */
    KdValue v = g->values.v[g->values.n - 1];
    const KdType *t = rg_type(g, v);
    KdValue w = kd_input(&g->b, "w", KD_WEIGHT, t, ""), m = kd_input(&g->b, "m", KD_STATE, t, "");
    KdValue s = kd_input(&g->b, "s", KD_STATE, t, ""), lr = kd_const(&g->b, kd_type(g->b.cx, KD_F32, 0, NULL), 0.01);
    KdValue in[6] = {w, v, m, kd_unary(&g->b, KD_OP_SQUARE, s), lr, kd_const_like(&g->b, lr, 1)};
    for (int part = 0; part < 3; part++) {
        KdAttr a[6] = {{.i = part}, {.f = 0.9}, {.f = 0.99}, {.f = 0.1}, {.f = 0.01}, {.i = 0}};
        KdValue u = rg_build(g, KD_OP_ADAM, 6, in, a);
        kd_output(g->b.f, part == 0 ? "w" : part == 1 ? "m" : "s", u, part == 0 ? w : part == 1 ? m : s);
    }
}

/* Any value that happens to have an input's type replaces it: what may be done in place, and what must not, both occur. */
static inline void rg_replace(Rg *g) {
    KdFunc *f = g->b.f;
    for (int i = 0; i < f->inputs.n; i++) {
        KdValue x = f->inputs.v[i], v = KD_NONE;
        bool taken = false;
        for (int k = 0; k < f->outputs.n; k++) {
            taken = taken || f->outputs.v[k].updates == x;
        }
        for (int k = 0; k < 6 && v == KD_NONE; k++) {
            KdValue u = rg_pick(g);
            v = u != x && rg_type(g, u) == rg_type(g, x) ? u : KD_NONE;
        }
        if (v != KD_NONE && !taken && rg_chance(g, 60)) {
            if (rg_chance(g, 50)) { /* a function of the old value at the same place */
                v = kd_binary(&g->b, KD_OP_ADD, kd_scale(&g->b, x, 0.5), v);
            }
            kd_output(f, kd_intern_z(g->b.cx, kd_format(g->b.cx, "new%d", i)), v, x);
        }
    }
}

/* The graph of this seed; it may hold KD_META nodes. */
static inline KdFunc *rg_graph(KdContext *cx, uint64_t seed) {
    Rg g = {.seed = seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    KdFunc *f = kd_func_new(cx, "random");
    g.b = kd_builder(f);
    for (int i = 0; i < 4; i++) {
        rg_int(&g, 0, 1);
    }
    g.big = rg_chance(&g, 2);
    for (int i = 0, n = (int)rg_int(&g, 2, 4); i < n; i++) {
        rg_new_input(&g);
    }
    if (g.big) {
        rg_input(&g, KD_F32, 4, (int64_t[]){1, 3, rg_int(&g, 105, 120), rg_int(&g, 105, 120)});
    } else {
        rg_input(&g, KD_F32, 4, (int64_t[]){rg_int(&g, 1, 2), rg_int(&g, 1, 4), rg_int(&g, 2, 7), rg_int(&g, 2, 9)});
    }
    int ops = (int)rg_int(&g, 3, g.big ? 6 : 16);
    for (int i = 0; i < ops; i++) {
        rg_op(&g, (KdOp)rg_int(&g, KD_OP_CONST, KD_OP_GRAD - 1));
    }
    int outs = (int)rg_int(&g, 1, 3);
    for (int i = 0; i < outs; i++) {
        kd_output(f, kd_intern_z(cx, kd_format(cx, "out%d", i)), rg_pick(&g), KD_NONE);
    }
    if (rg_chance(&g, 55)) {
        rg_gradients(&g);
    }
    if (rg_chance(&g, 10)) {
        rg_update(&g);
    }
    if (rg_chance(&g, 35)) {
        rg_replace(&g);
    }
    return f;
}

#endif
