/* fuse_store.c: second half of fusion: which values live in memory, and the groups in order.
 *
 * Units come in (fuse.c). Walking back from the outputs, every value learns who will compute with it (KdUses): which
 * units, and through what. A value of a unit is in memory when anyone outside the unit needs it, or needs it at other
 * places; an index op is in memory when composing it would be repeated too often or would hide an operand from a
 * schedule. Then, walking forward, elementwise values that are in memory are taken out again if recomputing them is
 * cheaper than storing and loading: a few cheap operations on one big value that is in memory anyway and on small ones
 * (a row's mean) that are then kept. So a relu's gradient mask, or a normalised value that the backward pass needs, is
 * computed again from the convolution's result. Never taken out: what contains a KD_COSTLY operation, what a smaller
 * domain computes for a larger one, and operands that a schedule wants plain.
 */
#include "passes/fuse.h"

#include <stdlib.h>
#include <string.h>

enum {
    USE_INDEX = 1,    /* through an index op that moves elements */
    USE_OUTPUT = 2,
    USE_WINDOW = 4,   /* by a window: several times an element */
    USE_FIRST = 8,    /* as operand 0 of an anchor */
    USE_SECOND = 16,  /* as another operand of an anchor: wanted plain */
    USE_OPAQUE = 32,
    USE_KEEP = 64,    /* a reshape of it is an output */

    MAX_USERS = 6,
    MAX_WEIGHT = 12,  /* index ops composed into one element */
    MAX_COPIES = 4,   /* units that may each compose the same index op */
};

typedef struct KdUses {
    int unit[MAX_USERS], n; /* n may exceed MAX_USERS: then it is only a number */
    unsigned flags;
    int64_t biggest; /* elements of the largest value computed with it */
} KdUses;

typedef struct Store {
    KdFuser *z;
    KdFusion *fu;
    KdUses *uses;
    int *weight; /* by index op: how many are composed below it, itself included */
} Store;

static void add_use(KdUses *u, int unit, unsigned flags, int64_t count) {
    bool known = false;
    for (int i = 0; i < u->n && i < MAX_USERS; i++) {
        known = known || u->unit[i] == unit;
    }
    if (!known) {
        if (u->n < MAX_USERS) {
            u->unit[u->n] = unit;
        }
        u->n++;
    }
    u->flags |= flags;
    u->biggest = count > u->biggest ? count : u->biggest;
}

static void add_uses(KdUses *u, const KdUses *from, unsigned flags) {
    for (int i = 0; i < from->n && i < MAX_USERS; i++) {
        add_use(u, from->unit[i], 0, 0);
    }
    u->flags |= from->flags | flags;
    u->biggest = from->biggest > u->biggest ? from->biggest : u->biggest;
}

/* ---- first decision: whoever is needed outside ---------------------------------------------------- */

static bool index_is_stored(const Store *s, KdValue v) {
    const KdFunc *f = s->z->f;
    const KdUses *u = &s->uses[v];
    if (!s->z->fuse) {
        return true;
    }
    if (kd_is_reshape(f, v)) { /* its operand is kept instead, but for leaves */
        return (u->flags & USE_OUTPUT) && kd_is_leaf(f, kd_node(f, v)->in[0]);
    }
    if (u->flags & (USE_OUTPUT | USE_KEEP)) {
        return true;
    }
    KdValue base = v;
    while (kd_is_view(f, base)) {
        base = kd_node(f, base)->in[0];
    }
    if (kd_is_leaf(f, base)) {
        return false;
    }
    if (u->flags & USE_SECOND) {
        return true;
    }
    return !kd_is_view(f, v) && ((u->flags & USE_OPAQUE) || u->n > MAX_COPIES ||
                                 s->weight[v] > MAX_WEIGHT);
}

static bool member_is_stored(const Store *s, KdValue v) {
    const KdUses *u = &s->uses[v];
    return u->flags != 0 || u->n > 1 || (u->n == 1 && u->unit[0] != s->z->unit[v]) || !s->z->fuse;
}

static unsigned use_as_operand(const KdFunc *f, KdValue v, int k) {
    switch (kd_class(f, v)) {
    case KD_WINDOW:
        return USE_WINDOW;
    case KD_ANCHOR:
        return k == 0 ? USE_FIRST : USE_SECOND;
    case KD_OPAQUE:
    case KD_META:
        return USE_OPAQUE;
    case KD_LEAF:
    case KD_ELEMENTWISE:
    case KD_INDEX:
    case KD_REDUCE:
        break;
    }
    return 0;
}

static void weigh_index_ops(Store *s) {
    const KdFunc *f = s->z->f;
    for (KdValue v = 0; v < f->n; v++) {
        const KdNode *n = kd_node(f, v);
        if (!s->z->live[v] || kd_class(f, v) != KD_INDEX) {
            continue;
        }
        int w = kd_is_view(f, v) ? 0 : 1;
        for (int k = 0; k < n->n_in; k++) {
            int below = s->weight[n->in[k]];
            w += below > MAX_WEIGHT ? 0 : below;
        }
        s->weight[v] = w;
    }
}

/* Can the unit that a broadcast belongs to write it? (Others of the unit may need it there.) */
static bool unit_can_store(const KdFuser *z, KdValue v) {
    const KdUnit *u = z->unit[v] < 0 ? NULL : z->units.v[z->unit[v]];
    return u && kd_domain_is(&u->d, kd_vtype(z->f, v)) &&
           !(u->kind == KD_GROUP_ROW && kd_domain_two_stage(&u->d));
}

static void decide_back(Store *s) {
    KdFuser *z = s->z;
    const KdFunc *f = z->f;
    for (int i = 0; i < f->outputs.n; i++) {
        s->uses[f->outputs.v[i].value].flags |= USE_OUTPUT;
    }
    for (KdValue v = f->n; v-- > 0;) {
        const KdNode *n = kd_node(f, v);
        KdUses *u = &s->uses[v];
        if (!z->live[v]) {
            continue;
        }
        if (kd_class(f, v) == KD_LEAF) {
            s->fu->stored[v] = kd_is_memory(f, v) || (u->flags & USE_OUTPUT);
            if (s->fu->stored[v] && !kd_is_memory(f, v)) {
                kd_unit_new(z, KD_GROUP_MAP, kd_domain(n->type), v);
            }
            continue;
        }
        if (kd_class(f, v) == KD_INDEX) {
            bool stored = index_is_stored(s, v);
            unsigned through = kd_is_view(f, v) ? 0 : USE_INDEX;
            s->fu->stored[v] = stored;
            if (stored && z->fuse && !unit_can_store(z, v)) {
                kd_unit_new(z, KD_GROUP_MAP, kd_domain(n->type), v);
            }
            if (kd_is_reshape(f, v) && !stored && (u->flags & (USE_OUTPUT | USE_KEEP))) {
                through = USE_KEEP;
            }
            for (int k = 0; k < n->n_in; k++) {
                KdUses *below = &s->uses[n->in[k]];
                if (stored) {
                    add_use(below, z->unit[v], through, n->type->count);
                } else {
                    KdUses passed = *u;
                    passed.flags &= ~(unsigned)(USE_OUTPUT | USE_KEEP);
                    add_uses(below, &passed, through);
                    below->biggest = below->biggest > n->type->count ? below->biggest : n->type->count;
                }
            }
            continue;
        }
        if (z->stream[v] != KD_NOT_STREAMED) { /* computed by whoever uses it: what it reads, they read */
            for (int k = 0; k < n->n_in; k++) {
                KdUses *below = &s->uses[n->in[k]];
                KdUses passed = *u;
                passed.flags = u->flags || z->stream[v] == KD_STREAM_PRODUCT ? USE_FIRST : 0;
                add_uses(below, &passed, 0);
                below->biggest = below->biggest > n->type->count ? below->biggest : n->type->count;
            }
            continue;
        }
        s->fu->stored[v] = member_is_stored(s, v);
        bool reduce = kd_class(f, v) == KD_REDUCE;
        for (int k = 0; k < n->n_in; k++) {
            int64_t count = reduce ? kd_vtype(f, n->in[k])->count : n->type->count;
            add_use(&s->uses[n->in[k]], z->unit[v], use_as_operand(f, v, k), count);
        }
    }
}

/* ---- second decision: what is cheaper to compute again --------------------------------------------- */

enum { MAX_BIG = 3, MAX_SMALL = 16 };

typedef struct Chain {
    int ops, max_ops, n_small, n_big;
    KdValue small[MAX_SMALL], big[MAX_BIG];
    int64_t count; /* of the value that would be computed again */
} Chain;

static bool add_leaf(KdValue *list, int *n, int cap, KdValue v) {
    for (int i = 0; i < *n; i++) {
        if (list[i] == v) {
            return true;
        }
    }
    if (*n == cap) {
        return false;
    }
    list[(*n)++] = v;
    return true;
}

/* Can v's element be computed from memory, within the chain's limits? */
static bool follow(const Store *s, KdValue v, Chain *c) {
    const KdFunc *f = s->z->f;
    const KdNode *n = kd_node(f, v);
    if (kd_class(f, v) == KD_ELEMENTWISE &&
        ((kd_op_info[n->op].flags & KD_COSTLY) || ++c->ops > c->max_ops)) {
        return false;
    }
    for (int k = 0; k < n->n_in; k++) {
        KdValue o = n->in[k];
        int64_t count = kd_vtype(f, o)->count;
        bool stored = s->fu->stored[o], computed = kd_class(f, o) != KD_INDEX;
        if (kd_is_leaf(f, o)) {
            continue;
        }
        if (stored && count * 4 > c->count) {
            if (!add_leaf(c->big, &c->n_big, MAX_BIG, o)) {
                return false;
            }
        } else if (stored) {
            continue;
        } else if (computed && count * 8 <= c->count) {
            if (!add_leaf(c->small, &c->n_small, MAX_SMALL, o)) {
                return false;
            }
        } else if ((computed && kd_class(f, o) != KD_ELEMENTWISE) || !follow(s, o, c)) {
            return false;
        }
    }
    return true;
}

static int recompute_limit(const KdUses *u, int64_t count) {
    if ((u->flags & (USE_OUTPUT | USE_KEEP | USE_SECOND | USE_OPAQUE)) ||
        (count > 1 && count * 8 <= u->biggest) || (count == 1 && u->biggest > 1)) {
        return 0;
    }
    int limit = 8;
    limit = u->flags & USE_INDEX ? 3 : limit;
    limit = u->n > MAX_COPIES ? 2 : limit;
    /* Normalise, scale and shift, ReLU: in the prologue of a contraction, which copies its input anyway. */
    limit = u->flags & USE_FIRST ? 5 : limit;
    return u->flags & USE_WINDOW ? 1 : limit;
}

/* Does the unit load v anyway, itself or through what it computes again? */
static bool unit_loads(const Store *s, int unit, KdValue v, int depth) {
    const KdFuser *z = s->z;
    for (KdValue k = z->use_from[v]; k < z->use_from[v + 1] && depth > 0; k++) {
        KdValue u = z->use[k];
        bool passes = !s->fu->stored[u] && (kd_class(z->f, u) == KD_ELEMENTWISE || kd_is_view(z->f, u));
        if (z->unit[u] == unit || (passes && unit_loads(s, unit, u, depth - 1))) {
            return true;
        }
    }
    return false;
}

/* Is it cheaper to compute v again than to store it? At most one big value may have to be loaded for that which whoever
 * uses v does not load anyway. */
static bool is_recomputed(const Store *s, KdValue v, Chain *c) {
    const KdNode *n = kd_node(s->z->f, v);
    const KdUses *u = &s->uses[v];
    *c = (Chain){.max_ops = recompute_limit(u, n->type->count), .count = n->type->count};
    if (kd_class(s->z->f, v) != KD_ELEMENTWISE || c->max_ops == 0 || !follow(s, v, c)) {
        return false;
    }
    int news = 0;
    for (int i = 0; i < c->n_big; i++) {
        bool loaded = u->n <= MAX_USERS;
        for (int k = 0; k < u->n && loaded; k++) {
            loaded = u->unit[k] == s->z->unit[v] || unit_loads(s, u->unit[k], c->big[i], 4);
        }
        news += !loaded;
    }
    return news <= 1;
}

/* A value of a unit that several stored values are cheap functions of is stored instead of them: the sum under a relu
 * and under the mask of its gradient; a gradient under its products. */
static void store_common_source(Store *s) {
    KdFuser *z = s->z;
    const KdFunc *f = z->f;
    uint8_t *votes = kd_alloc(z->cx, f->n + 1);
    Chain c;
    for (KdValue v = 0; v < f->n; v++) {
        const KdNode *n = kd_node(f, v);
        if (!z->live[v] || !s->fu->stored[v] || kd_class(f, v) != KD_ELEMENTWISE ||
            is_recomputed(s, v, &c)) {
            continue;
        }
        for (int k = 0; k < n->n_in; k++) {
            KdValue o = n->in[k];
            KdClass cls = kd_class(f, o);
            if (s->fu->stored[o] || z->unit[o] != z->unit[v] || votes[o] == 2 ||
                (cls != KD_ELEMENTWISE && cls != KD_ANCHOR && cls != KD_WINDOW) ||
                kd_vtype(f, o)->count != n->type->count) {
                continue;
            }
            s->fu->stored[o] = true; /* if it were */
            votes[o] += is_recomputed(s, v, &c);
            s->fu->stored[o] = votes[o] == 2;
        }
    }
}

static void decide_forward(Store *s) {
    KdFuser *z = s->z;
    store_common_source(s);
    for (KdValue v = 0; v < z->f->n; v++) {
        Chain c;
        if (!z->live[v] || !s->fu->stored[v] || !is_recomputed(s, v, &c)) {
            continue;
        }
        s->fu->stored[v] = false;
        for (int i = 0; i < c.n_small; i++) {
            s->fu->stored[c.small[i]] = true;
        }
    }
}

static void find_aliases(Store *s) {
    const KdFunc *f = s->z->f;
    for (KdValue v = 0; v < f->n; v++) {
        KdFusion *fu = s->fu;
        fu->alias[v] = KD_NONE;
        if (s->z->live[v] && s->z->fuse && kd_is_reshape(f, v) && !fu->stored[v]) {
            KdValue u = kd_node(f, v)->in[0];
            fu->alias[v] = fu->stored[u] ? u : fu->alias[u];
        }
    }
}

/* ---- groups ---------------------------------------------------------------------------------------- */

static KdValue domain_node(const KdFunc *f, const KdUnit *u, const KdGroup *g) {
    KdValue any = g->stores.v[0];
    for (int i = 0; i < u->members.n; i++) {
        KdValue v = u->members.v[i];
        KdClass cls = kd_class(f, v);
        if ((cls == KD_ANCHOR && u->kind != KD_GROUP_ROW) || cls == KD_OPAQUE || cls == KD_META) {
            return v;
        }
        if (cls == KD_REDUCE) {
            any = kd_node(f, v)->in[0];
        }
    }
    for (int i = 0; i < g->stores.n && u->kind == KD_GROUP_ROW; i++) {
        if (kd_domain_is(&u->d, kd_vtype(f, g->stores.v[i]))) {
            return g->stores.v[i];
        }
    }
    return any;
}

static void make_groups(Store *s) {
    KdFuser *z = s->z;
    KdFusion *fu = s->fu;
    for (int i = 0; i < z->units.n; i++) {
        const KdUnit *u = z->units.v[i];
        KdGroup g = {0};
        for (int k = 0; u && k < u->members.n; k++) {
            if (fu->stored[u->members.v[k]] && z->unit[u->members.v[k]] == i) {
                kd_push(z->cx, &g.stores, u->members.v[k]);
            }
        }
        if (g.stores.n == 0) {
            continue;
        }
        g.kind = u->kind;
        g.root = domain_node(z->f, u, &g);
        for (int k = 0; k < u->members.n; k++) {
            KdValue v = u->members.v[k];
            KdClass cls = kd_class(z->f, v);
            if (z->unit[v] != i) { /* a broadcast that became a group of its own */
                continue;
            }
            if (cls == KD_REDUCE) {
                kd_push(z->cx, &g.local, v);
            }
            if (fu->stored[v] || cls == KD_REDUCE || cls == KD_WINDOW || cls == KD_ANCHOR) {
                fu->group[v] = fu->groups.n;
            }
        }
        kd_push(z->cx, &fu->groups, g);
    }
}

/* Kahn's algorithm; among the groups that are ready, the one whose first store comes first in the function. */
static void sort_groups(Store *s) {
    KdFusion *fu = s->fu;
    KdContext *cx = s->z->cx;
    int n = fu->groups.n;
    int *waits = KD_NEW_ARRAY(cx, int, n + 1), *first = KD_NEW_ARRAY(cx, int, n + 2);
    int *place = KD_NEW_ARRAY(cx, int, n + 1);
    KD_VEC(int) from = {0}, to = {0}, heap = {0};
    for (int g = 0; g < n; g++) {
        const KdWalk *w = kd_group_walk(fu, g);
        int last = -1;
        for (int i = 0; i < w->touch.n; i++) {
            int p = w->touch.v[i].load ? fu->group[w->touch.v[i].v] : -1;
            if (p >= 0 && p != last) {
                kd_push(cx, &from, p);
                kd_push(cx, &to, g);
                waits[g]++;
                first[p + 1]++;
                last = p;
            }
        }
    }
    for (int g = 0; g < n; g++) {
        first[g + 1] += first[g];
    }
    int *next = KD_NEW_ARRAY(cx, int, from.n + 1), *fill = KD_NEW_ARRAY(cx, int, n + 1);
    for (int i = 0; i < from.n; i++) {
        next[first[from.v[i]] + fill[from.v[i]]++] = to.v[i];
    }
    KdGroup *sorted = KD_NEW_ARRAY(cx, KdGroup, n + 1);
    for (int g = 0; g < n; g++) {
        if (waits[g] == 0) {
            kd_push(cx, &heap, g);
        }
    }
    int done = 0;
    for (; heap.n > 0; done++) {
        int best = 0;
        for (int i = 1; i < heap.n; i++) {
            if (fu->groups.v[heap.v[i]].stores.v[0] < fu->groups.v[heap.v[best]].stores.v[0]) {
                best = i;
            }
        }
        int g = heap.v[best];
        heap.v[best] = heap.v[--heap.n];
        place[g] = done;
        sorted[done] = fu->groups.v[g];
        for (int i = first[g]; i < first[g + 1]; i++) {
            if (--waits[next[i]] == 0) {
                kd_push(cx, &heap, next[i]);
            }
        }
    }
    if (done != n) {
        kd_raise(cx, KD_FAIL_INTERNAL, "fuse: the groups of %s wait for each other", s->z->f->name);
    }
    if (n > 0) {
        memcpy(fu->groups.v, sorted, (size_t)n * sizeof *sorted);
    }
    for (KdValue v = 0; v < s->z->f->n; v++) {
        fu->group[v] = fu->group[v] < 0 ? -1 : place[fu->group[v]];
    }
}

/* Reductions that nothing in the group needs any more are no locals. */
static void trim_locals(KdFusion *fu) {
    for (int g = 0; g < fu->groups.n; g++) {
        KdGroup *group = &fu->groups.v[g];
        const KdWalk *w = kd_group_walk(fu, g);
        int kept = 0;
        for (int i = 0; i < group->local.n; i++) {
            KdValue v = group->local.v[i];
            if (w->stamp[v] == w->now) {
                group->local.v[kept++] = v;
            }
        }
        group->local.n = kept;
        if (group->kind == KD_GROUP_ROW && kept == 0) {
            group->kind = KD_GROUP_MAP;
            group->touch = NULL;
        }
    }
}

KdFusion *kd_fuse_finish(KdFuser *z) {
    const KdFunc *f = z->f;
    KdFusion *fu = KD_NEW(z->cx, KdFusion);
    fu->f = f;
    fu->stored = KD_NEW_ARRAY(z->cx, bool, f->n + 1);
    fu->alias = KD_NEW_ARRAY(z->cx, KdValue, f->n + 1);
    fu->group = KD_NEW_ARRAY(z->cx, int, f->n + 1);
    fu->streamed = KD_NEW_ARRAY(z->cx, bool, f->n + 1);
    fu->stream = z->stream;
    fu->walk = KD_NEW(z->cx, KdWalk);
    fu->walk->slot = KD_NEW_ARRAY(z->cx, uint32_t, f->n + 1);
    fu->walk->stamp = KD_NEW_ARRAY(z->cx, uint32_t, f->n + 1);
    for (KdValue v = 0; v < f->n; v++) {
        fu->group[v] = -1;
        fu->streamed[v] = z->stream[v] == KD_STREAM_PRODUCT;
    }
    Store s = {z, fu, KD_NEW_ARRAY(z->cx, KdUses, f->n + 1), KD_NEW_ARRAY(z->cx, int, f->n + 1)};
    weigh_index_ops(&s);
    decide_back(&s);
    if (z->fuse) {
        decide_forward(&s);
    }
    find_aliases(&s);
    for (KdValue v = 0; v < f->n; v++) { /* inputs are in memory whether or not anyone looks */
        fu->stored[v] = fu->stored[v] || kd_node(f, v)->op == KD_OP_INPUT;
    }
    make_groups(&s);
    sort_groups(&s);
    trim_locals(fu);
    return fu;
}
