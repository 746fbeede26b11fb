/* channels.c: see channels.h.
 *
 * Every index of every dimension of a value has a label, an atom; atoms that belong together are one set (union-find).
 * A dimension without labels (NULL) says nothing: a constant, what was summed over. Elementwise operations join the
 * labels of their operands, contractions join those that they sum over, concatenations and slices move them. Atoms of
 * data inputs, of outputs and of what an operation does that is not followed are stuck: they stay as they are.
 */
#include "passes/channels.h"

#include <string.h>

typedef struct Scale {
    int input;
    const int *label;
    int64_t n;
} Scale;
typedef struct Maker {
    int input, dim;
    KdLoc loc;
} Maker;

typedef struct Walk {
    const KdFunc *f;
    KdContext *cx;
    KD_VEC(int) parent;
    KD_VEC(const char *) stuck; /* by root: why, or NULL */
    KD_VEC(KdLoc) where;
    const int *(*label)[KD_MAX_RANK]; /* by node */
    int *number;                      /* by node: of an input, its place in f->inputs */
    bool *varies;                     /* by node: it is made of data */
    int constant;                     /* the atom of what is stuck from the start */
    KD_VEC(Maker) makers;
    KD_VEC(Scale) scales;
} Walk;

/* ---- atoms ------------------------------------------------------------------------------------------- */

static int root(const Walk *w, int a) {
    while (w->parent.v[a] != a) {
        w->parent.v[a] = w->parent.v[w->parent.v[a]];
        a = w->parent.v[a];
    }
    return a;
}

static int new_atom(Walk *w, const char *why, KdLoc where) {
    int a = w->parent.n;
    kd_push(w->cx, &w->parent, a);
    kd_push(w->cx, &w->stuck, why);
    kd_push(w->cx, &w->where, where);
    return a;
}

static void join(Walk *w, int a, int b) {
    a = root(w, a);
    b = root(w, b);
    if (a == b) {
        return;
    }
    int into = a < b ? a : b, from = a < b ? b : a;
    w->parent.v[from] = into;
    if (!w->stuck.v[into] && w->stuck.v[from]) {
        w->stuck.v[into] = w->stuck.v[from];
        w->where.v[into] = w->where.v[from];
    }
}

/* Both are the same channels now. */
static const int *meet(Walk *w, const int *x, const int *y, int64_t n) {
    if (!x || !y) {
        return x ? x : y;
    }
    for (int64_t i = 0; i < n && x != y; i++) {
        join(w, x[i], y[i]);
    }
    return x;
}

static void stick(Walk *w, const int *x, int64_t n, const char *why, KdLoc where) {
    for (int64_t i = 0; x && i < n; i++) {
        int r = root(w, x[i]);
        if (!w->stuck.v[r]) {
            w->stuck.v[r] = why;
            w->where.v[r] = where;
        }
    }
}

static bool all_stuck(const Walk *w, const int *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (!w->stuck.v[root(w, x[i])]) {
            return false;
        }
    }
    return true;
}

static const int *constants(Walk *w, int64_t n) {
    int *x = KD_NEW_ARRAY(w->cx, int, n + 1);
    for (int64_t i = 0; i < n; i++) {
        x[i] = w->constant;
    }
    return x;
}

/* ---- operations -------------------------------------------------------------------------------------- */

/* What is not followed: nothing that goes in or comes out may change. */
static void give_up(Walk *w, KdValue v, const char *why) {
    const KdNode *n = kd_node(w->f, v);
    for (int k = 0; k < n->n_in; k++) {
        const KdType *t = kd_vtype(w->f, n->in[k]);
        for (int d = 0; d < t->rank; d++) {
            stick(w, w->label[n->in[k]][d], t->dim[d], why, n->loc);
        }
    }
    for (int d = 0; d < n->type->rank; d++) {
        w->label[v][d] = constants(w, n->type->dim[d]);
    }
}

static void walk_input(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    KdRole role = kd_input_role(w->f, v);
    for (int d = 0; d < n->type->rank; d++) {
        if (role == KD_DATA || role == KD_STATE) {
            w->label[v][d] = constants(w, n->type->dim[d]);
        } else if (n->type->rank < 4 || d < 2) { /* not the height and width of a filter */
            int *x = KD_NEW_ARRAY(w->cx, int, n->type->dim[d] + 1);
            for (int64_t i = 0; i < n->type->dim[d]; i++) {
                x[i] = new_atom(w, NULL, n->loc);
            }
            w->label[v][d] = x;
        }
    }
}

/* The input that v is a reshape or broadcast of; KD_NONE. */
static KdValue plain_origin(const KdFunc *f, KdValue v) {
    while (f->nodes[v].op == KD_OP_BROADCAST || f->nodes[v].op == KD_OP_RESHAPE) {
        v = f->nodes[v].in[0];
    }
    return f->nodes[v].op == KD_OP_INPUT ? v : KD_NONE;
}

static void note_scale(Walk *w, const KdNode *n) {
    for (int k = 0; k < 2; k++) {
        KdValue by = plain_origin(w->f, n->in[k]);
        KdRole role = by == KD_NONE ? KD_DATA : kd_input_role(w->f, by);
        const KdType *t = by == KD_NONE ? NULL : kd_vtype(w->f, by);
        if (t && t->rank == 1 && (role == KD_WEIGHT || role == KD_FROZEN)) {
            kd_push(w->cx, &w->scales, (Scale){w->number[by], w->label[by][0], t->dim[0]});
        }
    }
}

static void walk_elementwise(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    for (int d = 0; d < n->type->rank; d++) {
        const int *x = NULL;
        for (int k = 0; k < n->n_in; k++) {
            x = meet(w, x, w->label[n->in[k]][d], n->type->dim[d]);
        }
        w->label[v][d] = x;
    }
    if (n->op == KD_OP_MUL) {
        note_scale(w, n);
    }
}

/* A run of dimensions, of equal product before and after a reshape; those of size 1 are left out. */
typedef struct Run {
    int n, dim[KD_MAX_RANK];
} Run;

static Run run_of(const KdType *t, int from, int to) {
    Run r = {0};
    for (int d = from; d < to; d++) {
        if (t->dim[d] != 1) {
            r.dim[r.n++] = d;
        }
    }
    return r;
}

/* [.., c, h, w] becomes [.., c h w]: each index is of the channel that it came from. */
static const int *merged(Walk *w, KdValue x, const Run *from, int labelled, int64_t count) {
    const KdType *t = kd_vtype(w->f, x);
    int *label = KD_NEW_ARRAY(w->cx, int, count + 1);
    int64_t inner = 1, size = t->dim[labelled];
    for (int i = from->n; i-- > 0 && from->dim[i] != labelled;) {
        inner *= t->dim[from->dim[i]];
    }
    for (int64_t i = 0; i < count; i++) {
        label[i] = w->label[x][labelled][i / inner % size];
    }
    return label;
}

static void reshape_run(Walk *w, KdValue v, const Run *from, const Run *to) {
    const KdNode *n = kd_node(w->f, v);
    KdValue x = n->in[0];
    const KdType *t = kd_vtype(w->f, x);
    int labelled = -1, count = 0, stuck = 0;
    for (int i = 0; i < from->n; i++) {
        if (w->label[x][from->dim[i]]) {
            bool all = all_stuck(w, w->label[x][from->dim[i]], t->dim[from->dim[i]]);
            stuck += all;
            count++;
            labelled = all && labelled >= 0 ? labelled : from->dim[i];
        }
    }
    if (!count) {
        return;
    }
    if (from->n == 1 && to->n == 1) {
        w->label[v][to->dim[0]] = w->label[x][from->dim[0]];
    } else if (to->n == 1 && (count == 1 || count == stuck)) {
        w->label[v][to->dim[0]] = merged(w, x, from, labelled, n->type->dim[to->dim[0]]);
    } else {
        for (int i = 0; i < from->n; i++) {
            stick(w, w->label[x][from->dim[i]], t->dim[from->dim[i]], "a reshape takes its channels apart", n->loc);
        }
        for (int i = 0; i < to->n; i++) {
            w->label[v][to->dim[i]] = constants(w, n->type->dim[to->dim[i]]);
        }
    }
}

static void walk_reshape(Walk *w, KdValue v) {
    const KdType *s = kd_vtype(w->f, kd_node(w->f, v)->in[0]), *t = kd_vtype(w->f, v);
    if (t->count == 0) {
        give_up(w, v, "nothing is left of it");
        return;
    }
    for (int i = 0, j = 0; i < s->rank && j < t->rank;) {
        int i0 = i, j0 = j;
        int64_t a = s->dim[i++], b = t->dim[j++];
        while (a != b) {
            if (a < b) {
                a *= s->dim[i++];
            } else {
                b *= t->dim[j++];
            }
        }
        Run from = run_of(s, i0, i), to = run_of(t, j0, j);
        reshape_run(w, v, &from, &to);
    }
}

/* slice, pad, concat and the like: index i of the result is of the operand's index. */
static void walk_slice(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    KdInts begin = kd_attr_ints(w->f, n, "begin"), step = kd_attr_ints(w->f, n, "step");
    for (int d = 0; d < n->type->rank; d++) {
        const int *x = w->label[n->in[0]][d];
        int *label = x ? KD_NEW_ARRAY(w->cx, int, n->type->dim[d] + 1) : NULL;
        for (int64_t i = 0; x && i < n->type->dim[d]; i++) {
            label[i] = x[begin.v[d] + i * step.v[d]];
        }
        w->label[v][d] = label;
    }
}

static void walk_concat(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    int axis = (int)kd_attr_int(w->f, n, "axis");
    int *label = KD_NEW_ARRAY(w->cx, int, n->type->dim[axis] + 1);
    int64_t at = 0;
    for (int k = 0; k < n->n_in; k++) {
        int64_t size = kd_vtype(w->f, n->in[k])->dim[axis];
        const int *x = w->label[n->in[k]][axis];
        for (int64_t i = 0; i < size; i++) {
            label[at++] = x ? x[i] : w->constant;
        }
        for (int d = 0; d < n->type->rank; d++) {
            if (d != axis) {
                w->label[v][d] = meet(w, w->label[v][d], w->label[n->in[k]][d], n->type->dim[d]);
            }
        }
    }
    w->label[v][axis] = label;
}

/* Dimensions of the result that are the operand's keep their labels; the others change by what is no channel. */
static void walk_same(Walk *w, KdValue v, const char *why) {
    const KdNode *n = kd_node(w->f, v);
    const KdType *t = kd_vtype(w->f, n->in[0]);
    bool windows = n->op == KD_OP_UPSAMPLE_NEAREST || n->op == KD_OP_POOL_SUM || n->op == KD_OP_MAX_POOL_INDEX;
    bool pads = n->op == KD_OP_PAD || n->op == KD_OP_PAD_REFLECT || n->op == KD_OP_PAD_REPLICATE;
    KdInts lo = pads ? kd_attr_ints(w->f, n, "lo") : (KdInts){0}, hi = pads ? kd_attr_ints(w->f, n, "hi") : (KdInts){0};
    KdInts between = n->op == KD_OP_PAD ? kd_attr_ints(w->f, n, "interior") : (KdInts){0};
    for (int d = 0; d < t->rank; d++) {
        bool changes = t->dim[d] != n->type->dim[d] || (windows && d >= t->rank - 2) ||
                       (pads && (lo.v[d] || hi.v[d])) || (between.n && between.v[d]);
        if (!changes) {
            w->label[v][d] = w->label[n->in[0]][d];
        } else if (t->dim[d] != 1) {
            stick(w, w->label[n->in[0]][d], t->dim[d], why, n->loc);
        }
    }
}

static void walk_transpose(Walk *w, KdValue v) {
    KdInts perm = kd_attr_ints(w->f, kd_node(w->f, v), "perm");
    for (int d = 0; d < perm.n; d++) {
        w->label[v][d] = w->label[kd_node(w->f, v)->in[0]][perm.v[d]];
    }
}

static void walk_reduce(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    KdInts axes = kd_attr_ints(w->f, n, "axes");
    for (int d = 0; d < n->type->rank; d++) {
        bool gone = false;
        for (int i = 0; i < axes.n; i++) {
            gone = gone || axes.v[i] == d;
        }
        w->label[v][d] = gone ? NULL : w->label[n->in[0]][d];
    }
}

/* ---- contractions ------------------------------------------------------------------------------------- */

/* The input whose rows the filters `v` are, as far as they are its numbers moved and scaled. */
static void note_maker(Walk *w, KdValue v, const int *label, int64_t size, KdLoc loc) {
    const KdFunc *f = w->f;
    if (w->varies[v]) {
        return;
    }
    while (f->nodes[v].n_in && f->nodes[v].op != KD_OP_INPUT) {
        v = f->nodes[v].in[0];
    }
    KdRole role = f->nodes[v].op == KD_OP_INPUT ? kd_input_role(f, v) : KD_DATA;
    for (int d = 0; (role == KD_WEIGHT || role == KD_FROZEN) && d < kd_vtype(f, v)->rank; d++) {
        if (label && w->label[v][d] == label) {
            kd_push(w->cx, &w->makers, (Maker){w->number[v], d, loc});
            return;
        }
    }
    if (role == KD_WEIGHT || role == KD_FROZEN) {
        stick(w, label, size, "its filters are computed from weights", loc);
    }
}

/* Each channel has its own filters: those of result o see channel o / each alone. */
static const int *walk_depthwise(Walk *w, const int *x, const int *filters, int64_t count, int64_t each) {
    int *label = KD_NEW_ARRAY(w->cx, int, count + 1);
    for (int64_t o = 0; o < count; o++) {
        label[o] = x ? x[o / each] : filters ? filters[o] : w->constant;
        if (x && filters) {
            join(w, label[o], filters[o]);
        }
    }
    return x || filters ? label : NULL;
}

static void walk_conv(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    KdValue x = n->in[0], filter = n->in[1];
    const KdType *tx = kd_vtype(w->f, x), *tw = kd_vtype(w->f, filter);
    int64_t groups = kd_attr_int(w->f, n, "groups"), out = n->type->dim[1];
    int from = n->op == KD_OP_CONV2D ? 1 : 0, to = 1 - from; /* dimensions of the filter */
    const int *in = w->label[x][1], *rows = w->label[filter][to];
    for (int d = 2; d < 4; d++) {
        stick(w, w->label[x][d], tx->dim[d], "a convolution runs along it", n->loc);
        stick(w, w->label[filter][d], tw->dim[d], "a convolution runs along it", n->loc);
    }
    if (groups == 1) {
        meet(w, in, w->label[filter][from], tx->dim[1]);
        if (!rows) {
            stick(w, in, tx->dim[1], "its filters are constants", n->loc);
            rows = constants(w, out);
        }
        note_maker(w, filter, w->label[filter][to], out, n->loc);
        w->label[v][1] = rows;
    } else if (groups == tx->dim[1] && (n->op == KD_OP_CONV2D || out == groups)) {
        const int *own = n->op == KD_OP_CONV2D ? rows : w->label[filter][0];
        w->label[v][1] = walk_depthwise(w, in, own, out, out / groups);
    } else {
        give_up(w, v, "a convolution in groups");
    }
    w->label[v][0] = w->label[x][0];
}

static void walk_matmul(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    KdValue a = n->in[0], b = n->in[1];
    const KdType *ta = kd_vtype(w->f, a), *tb = kd_vtype(w->f, b);
    int r = ta->rank, turned_a = kd_attr_int(w->f, n, "ta") != 0, turned_b = kd_attr_int(w->f, n, "tb") != 0;
    int rows = turned_a ? r - 1 : r - 2, inner_a = turned_a ? r - 2 : r - 1;
    int columns = turned_b ? r - 2 : r - 1, inner_b = turned_b ? r - 1 : r - 2;
    meet(w, w->label[a][inner_a], w->label[b][inner_b], ta->dim[inner_a]);
    note_maker(w, a, w->label[a][rows], ta->dim[rows], n->loc);
    note_maker(w, b, w->label[b][columns], tb->dim[columns], n->loc);
    w->label[v][r - 2] = w->label[a][rows];
    w->label[v][r - 1] = w->label[b][columns];
    if (r == 3) {
        w->label[v][0] = meet(w, w->label[a][0], w->label[b][0], ta->dim[0]);
    }
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

static void walk_leaf(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    for (int d = 0; d < n->type->rank; d++) {
        bool own = n->op == KD_OP_LITERAL || (n->op == KD_OP_IOTA && d == kd_attr_int(w->f, n, "axis"));
        if (own && n->type->dim[d] > 1) { /* numbers of its own at each index */
            w->label[v][d] = constants(w, n->type->dim[d]);
        }
    }
}

static void walk_node(Walk *w, KdValue v) {
    const KdNode *n = kd_node(w->f, v);
    KdRole role = n->op == KD_OP_INPUT ? kd_input_role(w->f, v) : KD_WEIGHT;
    w->varies[v] = role == KD_DATA || role == KD_STATE;
    for (int k = 0; k < n->n_in; k++) {
        w->varies[v] = w->varies[v] || w->varies[n->in[k]];
    }
    switch (n->op) {
    case KD_OP_INPUT:
        walk_input(w, v);
        return;
    case KD_OP_RESHAPE:
        walk_reshape(w, v);
        return;
    case KD_OP_TRANSPOSE:
        walk_transpose(w, v);
        return;
    case KD_OP_SLICE:
        walk_slice(w, v);
        return;
    case KD_OP_CONCAT:
        walk_concat(w, v);
        return;
    case KD_OP_BROADCAST:
    case KD_OP_PAD:
    case KD_OP_PAD_REFLECT:
    case KD_OP_PAD_REPLICATE:
    case KD_OP_UPSAMPLE_NEAREST:
    case KD_OP_POOL_SUM:
    case KD_OP_MAX_POOL_INDEX:
        walk_same(w, v, "it is padded, pooled or enlarged along its channels");
        return;
    case KD_OP_SUM:
    case KD_OP_MAX:
        walk_reduce(w, v);
        return;
    case KD_OP_CONV2D:
    case KD_OP_CONV_TRANSPOSE2D:
        walk_conv(w, v);
        return;
    case KD_OP_MATMUL:
        walk_matmul(w, v);
        return;
    case KD_OP_RANDOM:
        return;
    default:
        break;
    }
    if (kd_op_info[n->op].cls == KD_LEAF) {
        walk_leaf(w, v);
    } else if (kd_op_info[n->op].cls == KD_ELEMENTWISE) {
        walk_elementwise(w, v);
    } else {
        give_up(w, v, kd_format(w->cx, "%s is not followed", kd_op_info[n->op].name));
    }
}

/* ---- groups -------------------------------------------------------------------------------------------- */

typedef struct Grouping {
    Walk *w;
    KdChannels *c;
    int *set;             /* by root atom: another one of its group, or itself; -1: no filter makes it */
    int *group, *channel; /* by root atom; -1 */
} Grouping;

static int set_of(const Grouping *g, int a) {
    while (g->set[a] != a) {
        a = g->set[a];
    }
    return a;
}

static const KdType *input_type(const Walk *w, int input) {
    return kd_vtype(w->f, w->f->inputs.v[input]);
}

static const int *input_label(const Walk *w, int input, int dim) {
    return w->label[w->f->inputs.v[input]][dim];
}

/* Channels that one filter makes are of one group. */
static void join_sets(Grouping *g) {
    const Walk *w = g->w;
    for (int m = 0; m < w->makers.n; m++) {
        const Maker *k = &w->makers.v[m];
        const int *x = input_label(w, k->input, k->dim);
        int first = root(w, x[0]);
        for (int64_t i = 0; i < input_type(w, k->input)->dim[k->dim]; i++) {
            int r = root(w, x[i]);
            g->set[r] = g->set[r] < 0 ? r : g->set[r];
            int a = set_of(g, first), b = set_of(g, r);
            g->set[a < b ? b : a] = a < b ? a : b;
        }
    }
}

static const char *layer_name(const Walk *w, int input) {
    const char *name = kd_attr_str(w->f, kd_node(w->f, w->f->inputs.v[input]), "name"), *dot = strrchr(name, '.');
    return dot ? kd_intern(w->cx, name, (size_t)(dot - name)) : name;
}

/* Numbers groups and their channels in the order of the filters that make them. */
static void number_groups(Grouping *g) {
    const Walk *w = g->w;
    KdContext *cx = w->cx;
    for (int m = 0; m < w->makers.n; m++) {
        const Maker *k = &w->makers.v[m];
        const int *x = input_label(w, k->input, k->dim);
        for (int64_t i = 0; i < input_type(w, k->input)->dim[k->dim]; i++) {
            int r = root(w, x[i]), s = set_of(g, r);
            if (g->group[s] < 0) {
                kd_push(cx, &g->c->groups, (KdChannelGroup){.name = layer_name(w, k->input), .where = k->loc});
                g->group[s] = g->c->groups.n - 1;
            }
            KdChannelGroup *o = &g->c->groups.v[g->group[s]];
            g->group[r] = g->group[s];
            g->channel[r] = g->channel[r] < 0 ? o->n++ : g->channel[r];
            if (w->stuck.v[r] && !o->why) {
                o->why = w->stuck.v[r];
                o->where = w->where.v[r] ? w->where.v[r] : o->where;
            }
        }
    }
}

static void describe_groups(Grouping *g) {
    Walk *w = g->w;
    KdContext *cx = w->cx;
    for (int i = 0; i < g->c->groups.n; i++) {
        KdChannelGroup *o = &g->c->groups.v[i];
        o->scale = KD_NEW_ARRAY(cx, KdPlaceOf, o->n);
        o->makers = kd_alloc_array(cx, (size_t)o->n, sizeof *o->makers);
        for (int k = 0; k < o->n; k++) {
            o->scale[k].input = -1;
        }
        if (o->n == 1 && !o->why) { /* it may have been broadcast, and so lost sight of */
            o->why = "it is one channel";
        }
    }
    for (int m = 0; m < w->makers.n; m++) {
        const Maker *k = &w->makers.v[m];
        const int *x = input_label(w, k->input, k->dim);
        bool again = false;
        for (int before = 0; before < m; before++) {
            again = again || (w->makers.v[before].input == k->input && w->makers.v[before].dim == k->dim);
        }
        for (int64_t i = 0; !again && i < input_type(w, k->input)->dim[k->dim]; i++) {
            int r = root(w, x[i]);
            kd_push(cx, &g->c->groups.v[g->group[r]].makers[g->channel[r]], (KdPlaceOf){k->input, k->dim, (int)i});
        }
    }
    for (int s = 0; s < w->scales.n; s++) {
        for (int64_t i = 0; i < w->scales.v[s].n; i++) {
            int r = root(w, w->scales.v[s].label[i]);
            KdPlaceOf *p = g->group[r] < 0 ? NULL : &g->c->groups.v[g->group[r]].scale[g->channel[r]];
            if (p && p->input < 0) {
                *p = (KdPlaceOf){w->scales.v[s].input, 0, (int)i};
            }
        }
    }
}

static void label_dims(Grouping *g) {
    const Walk *w = g->w;
    g->c->dim = kd_alloc_array(w->cx, (size_t)w->f->inputs.n + 1, sizeof *g->c->dim);
    for (int i = 0; i < w->f->inputs.n; i++) {
        const KdType *t = input_type(w, i);
        for (int d = 0; d < t->rank; d++) {
            const int *x = input_label(w, i, d);
            KdChannelDim *o = &g->c->dim[i][d];
            for (int64_t k = 0; x && k < t->dim[d]; k++) {
                int r = root(w, x[k]);
                if (g->group[r] >= 0 && !o->group) {
                    o->group = KD_NEW_ARRAY(w->cx, int, t->dim[d]);
                    o->channel = KD_NEW_ARRAY(w->cx, int, t->dim[d]);
                    memset(o->group, -1, sizeof *o->group * (size_t)t->dim[d]);
                }
                if (g->group[r] >= 0) {
                    o->group[k] = g->group[r];
                    o->channel[k] = g->channel[r];
                }
            }
        }
    }
}

/* How often each channel of `group` is in a dimension of n indices; -1: not all as often. */
static int times_in(const KdChannelDim *d, int64_t n, int group, int size) {
    int all = 0, first = 0, i0 = -1;
    for (int64_t i = 0; d->group && i < n; i++) {
        all += d->group[i] == group;
        i0 = d->group[i] == group && i0 < 0 ? d->channel[i] : i0;
        first += d->group[i] == group && d->channel[i] == i0;
    }
    return all == first * size ? first : -1;
}

/* A count of channels must say how large each dimension is. */
static void check_uses(const Walk *w, KdChannels *c) {
    for (int i = 0; i < w->f->inputs.n; i++) {
        const KdType *t = input_type(w, i);
        for (int d = 0; d < t->rank; d++) {
            for (int k = 0; c->dim[i][d].group && k < c->groups.n; k++) {
                KdChannelGroup *o = &c->groups.v[k];
                if (!o->why && times_in(&c->dim[i][d], t->dim[d], k, o->n) < 0) {
                    o->why = kd_format(w->cx, "%s uses some of its channels more often than others",
                                       kd_attr_str(w->f, kd_node(w->f, w->f->inputs.v[i]), "name"));
                }
            }
        }
    }
}

KdChannels *kd_channels(const KdFunc *f) {
    KdContext *cx = f->cx;
    Walk w = {.f = f, .cx = cx, .number = KD_NEW_ARRAY(cx, int, f->n + 1), .varies = KD_NEW_ARRAY(cx, bool, f->n + 1)};
    w.label = kd_alloc_array(cx, (size_t)f->n + 1, sizeof *w.label);
    w.constant = new_atom(&w, "it is joined or added to what the network is given, or to constants", 0);
    for (int i = 0; i < f->inputs.n; i++) {
        w.number[f->inputs.v[i]] = i;
    }
    for (KdValue v = 0; v < f->n; v++) {
        walk_node(&w, v);
    }
    for (int i = 0; i < f->outputs.n; i++) {
        const KdType *t = kd_vtype(f, f->outputs.v[i].value);
        for (int d = 0; d < t->rank; d++) {
            stick(&w, w.label[f->outputs.v[i].value][d], t->dim[d], "it is what the network gives back", 0);
        }
    }
    KdChannels *c = KD_NEW(cx, KdChannels);
    c->f = f;
    Grouping g = {&w, c, KD_NEW_ARRAY(cx, int, w.parent.n), KD_NEW_ARRAY(cx, int, w.parent.n),
                  KD_NEW_ARRAY(cx, int, w.parent.n)};
    for (int a = 0; a < w.parent.n; a++) {
        g.set[a] = g.group[a] = g.channel[a] = -1;
    }
    join_sets(&g);
    number_groups(&g);
    describe_groups(&g);
    label_dims(&g);
    check_uses(&w, c);
    return c;
}

/* ---- narrower networks ---------------------------------------------------------------------------------- */

typedef struct Fit {
    const KdChannels *c;
    const KdFunc *g;
    int *count; /* -1: not known yet */
    KdStr *why;
    int next; /* of c->f's inputs: where the next name is likely */
} Fit;

static const char *name_of(const KdFunc *f, int input) {
    return kd_attr_str(f, kd_node(f, f->inputs.v[input]), "name");
}

/* Indices of a dimension that are of no group that can change, and the groups that are there: how often each. */
typedef struct Parts {
    int64_t fixed;
    int n, group[KD_MAX_RANK * 8], times[KD_MAX_RANK * 8];
} Parts;

static bool parts_of(const KdChannels *c, int input, int dim, Parts *p) {
    const KdChannelDim *d = &c->dim[input][dim];
    int64_t n = kd_vtype(c->f, c->f->inputs.v[input])->dim[dim];
    *p = (Parts){0};
    for (int64_t i = 0; i < n; i++) {
        int group = d->group ? d->group[i] : -1, k = 0;
        if (group < 0 || c->groups.v[group].why) {
            p->fixed++;
            continue;
        }
        while (k < p->n && p->group[k] != group) {
            k++;
        }
        if (k == KD_COUNT(p->group)) {
            return false;
        }
        if (k == p->n) {
            p->group[p->n] = group;
            p->times[p->n++] = times_in(d, n, group, c->groups.v[group].n);
        }
    }
    return true;
}

static bool misfit(Fit *t, int input, const KdType *now, const char *what) {
    const KdFunc *f = t->c->f;
    kd_str_printf(t->why, "%s %s would become %s: %s", name_of(f, input),
                  kd_shape_text(f->cx, kd_vtype(f, f->inputs.v[input])), kd_shape_text(t->g->cx, now), what);
    return false;
}

/* What a dimension of `size` says of the groups in it. pass 0: of one that is alone; 1: is it the sum of all? */
static bool fit_dim(Fit *t, int input, int dim, const KdType *now, int pass) {
    Parts p;
    int64_t size = now->dim[dim], sum;
    if (!parts_of(t->c, input, dim, &p)) {
        return misfit(t, input, now, "too many groups of channels in one dimension");
    }
    sum = p.fixed;
    for (int k = 0; k < p.n; k++) {
        int64_t rest = size - p.fixed, most = t->c->groups.v[p.group[k]].n;
        int *count = &t->count[p.group[k]];
        if (pass == 0 && p.n == 1 && *count < 0) {
            if (rest < 0 || rest % p.times[k] || rest / p.times[k] > most) {
                return misfit(t, input, now,
                              rest > most * p.times[k] ? "it has more channels than there are"
                                                       : "that fits no number of channels");
            }
            *count = (int)(rest / p.times[k]);
        }
        sum += (int64_t)*count * p.times[k];
        if (pass == 1 && *count < 0) {
            return misfit(t, input, now, "how many channels that leaves of each layer is not known");
        }
    }
    if (pass == 1 && sum != size) {
        return misfit(t, input, now,
                      p.n ? "that does not fit the layers before it"
                          : "no channels are there that could be taken away");
    }
    return true;
}

static bool fit_input(Fit *t, int k, int pass) {
    const KdFunc *f = t->c->f, *g = t->g;
    const KdType *now = kd_vtype(g, g->inputs.v[k]);
    const char *name = name_of(g, k);
    int n = f->inputs.n, tried = 0, i = t->next % n;
    for (; tried < n && strcmp(name_of(f, i), name) != 0; tried++) {
        i = (i + 1) % n;
    }
    if (tried == n) {
        kd_str_printf(t->why, "it would have a weight %s %s, which the network does not have", name,
                      kd_shape_text(g->cx, now));
        return false;
    }
    t->next = i + 1;
    if (now->rank != kd_vtype(f, f->inputs.v[i])->rank) {
        return misfit(t, i, now, "that is no narrower layer");
    }
    for (int d = 0; d < now->rank; d++) {
        if (!fit_dim(t, i, d, now, pass)) {
            return false;
        }
    }
    return true;
}

bool kd_channels_fit(const KdChannels *c, const KdFunc *g, int *count, KdStr *why) {
    Fit t = {c, g, count, why, 0};
    for (int i = 0; i < c->groups.n; i++) {
        count[i] = c->groups.v[i].why ? c->groups.v[i].n : -1;
    }
    if (!c->f->inputs.n) {
        return g->inputs.n == 0;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; k < g->inputs.n; k++) {
            if (!fit_input(&t, k, pass)) {
                return false;
            }
        }
    }
    for (int i = 0; i < c->groups.n; i++) {
        count[i] = count[i] < 0 ? 0 : count[i];
    }
    return true;
}
