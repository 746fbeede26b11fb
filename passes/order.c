/* order.c: groups in an order that keeps the peak of memory low.
 *
 * In: a fusion whose groups stand in an executable order. Out: the same groups in the best of several orders: as they
 * were, and what list scheduling gives in two ways.
 *  - By growth: among the groups whose inputs are there, the one that leaves the least memory alive goes next (bytes it
 *    stores minus bytes nobody needs after it), the earlier one on ties.
 *  - By demand: one root (a group that nobody waits for, such as a weight's update) after the other, each preceded by what
 *    it waits for, depth first. After each group come those that are ready and leave no more alive than before. A training
 *    step is several forward passes whose gradients meet in sums: so a backward pass comes right after its forward
 *    pass, and what that has kept is gone before the next begins. Which root comes first decides which passes must wait for
 *    others; several are tried.
 * Two kinds of edges are kept: who stores before who loads, and, where it was so already, who reads an input before who writes
 * its update, since else the update could not be made in place. Outputs count nothing: most are written where they end.
 */
#include <string.h>

#include "passes/fuse.h"

enum { MAX_ROOTS = 64 }; /* tried as the first */

typedef KD_VEC(int) Ints;

typedef struct Order {
    KdContext *cx;
    const KdFusion *fu;
    int n; /* groups */
    KD_VEC(KdValue) *loads; /* by group: stored values that are no inputs or literals */
    Ints *after, *before;   /* by group: groups that must come later; earlier, those whose results it loads first */
    Ints *readers;          /* by INPUT node: groups that load it, ascending */
    int *users;             /* by value: groups that load it; an output has one more */
    int64_t *bytes;         /* by stored value */
    int *scratch;           /* as long as users */
} Order;

static void edge(Order *o, int from, int to) {
    if (from == to) return;
    kd_push(o->cx, &o->after[from], to);
    kd_push(o->cx, &o->before[to], from);
}

/* Readers of an input before the group that writes its update, if that is how they stand now. */
static void update_edges(Order *o, const KdOutput *out) {
    const KdFusion *fu = o->fu;
    KdValue v = fu->alias[out->value] != KD_NONE ? fu->alias[out->value] : out->value;
    int writer = fu->group[v];
    if (out->updates == KD_NONE || writer < 0) return;
    int n = o->readers[out->updates].n;
    const int *reader = o->readers[out->updates].v;
    if (n && reader[n - 1] > writer) return;
    for (int i = 0; i < n; i++) edge(o, reader[i], writer);
}

static void prepare(Order *o, const KdFusion *fu) {
    const KdFunc *f = fu->f;
    KdContext *cx = o->cx = f->cx;
    o->fu = fu;
    o->n = fu->groups.n;
    o->loads = kd_alloc_array(cx, (size_t)o->n + 1, sizeof *o->loads);
    o->after = KD_NEW_ARRAY(cx, Ints, o->n + 1);
    o->before = KD_NEW_ARRAY(cx, Ints, o->n + 1);
    o->readers = KD_NEW_ARRAY(cx, Ints, f->n + 1);
    o->users = KD_NEW_ARRAY(cx, int, f->n + 1);
    o->bytes = KD_NEW_ARRAY(cx, int64_t, f->n + 1);
    o->scratch = KD_NEW_ARRAY(cx, int, f->n + 1);
    for (int g = 0; g < o->n; g++) {
        const KdGroup *group = &fu->groups.v[g];
        for (int i = 0; i < group->stores.n; i++) {
            const KdType *t = kd_vtype(f, group->stores.v[i]);
            o->bytes[group->stores.v[i]] = t->count * kd_dtype_size(t->dtype);
        }
    }
    for (int g = 0; g < o->n; g++) {
        const KdWalk *w = kd_group_walk(fu, g);
        for (int i = 0; i < w->touch.n; i++) {
            KdValue v = w->touch.v[i].v;
            if (!w->touch.v[i].load) continue;
            if (fu->group[v] < 0) {
                kd_push(cx, &o->readers[v], g);
                continue;
            }
            kd_push(cx, &o->loads[g], v);
            o->users[v]++;
            edge(o, fu->group[v], g);
        }
    }
    for (int i = 0; i < f->outputs.n; i++) {
        KdValue v = f->outputs.v[i].value;
        v = fu->alias[v] != KD_NONE ? fu->alias[v] : v;
        o->users[v]++;
        o->bytes[v] = 0;
        update_edges(o, &f->outputs.v[i]);
    }
}

/* ---- by growth ------------------------------------------------------------------------------------------- */

/* Bytes that group g adds to what is alive, given how many still need what. */
static int64_t growth(const Order *o, int g, const int *users) {
    int64_t grow = 0;
    const KdGroup *group = &o->fu->groups.v[g];
    for (int i = 0; i < group->stores.n; i++) grow += o->bytes[group->stores.v[i]];
    for (int i = 0; i < o->loads[g].n; i++)
        if (users[o->loads[g].v[i]] == 1) grow -= o->bytes[o->loads[g].v[i]];
    return grow;
}

/* The largest number of bytes alive while the groups run in this order. */
static int64_t peak_of(const Order *o, const int *order) {
    int *users = o->scratch;
    memcpy(users, o->users, o->fu->f->n * sizeof *users);
    int64_t alive = 0, peak = 0;
    for (int i = 0; i < o->n; i++) {
        const KdGroup *group = &o->fu->groups.v[order[i]];
        int64_t stores = 0;
        for (int k = 0; k < group->stores.n; k++) stores += o->bytes[group->stores.v[k]];
        if (alive + stores > peak) peak = alive + stores;
        alive += growth(o, order[i], users);
        for (int k = 0; k < o->loads[order[i]].n; k++) users[o->loads[order[i]].v[k]]--;
    }
    return peak;
}

static void schedule_by_growth(const Order *o, int *order) {
    int *users = KD_NEW_ARRAY(o->cx, int, o->fu->f->n + 1), *waits = KD_NEW_ARRAY(o->cx, int, o->n + 1);
    bool *done = KD_NEW_ARRAY(o->cx, bool, o->n + 1);
    memcpy(users, o->users, o->fu->f->n * sizeof *users);
    for (int g = 0; g < o->n; g++) waits[g] = o->before[g].n;
    for (int at = 0; at < o->n; at++) {
        int best = -1;
        int64_t least = 0;
        for (int g = 0; g < o->n; g++) {
            if (done[g] || waits[g]) continue;
            int64_t grow = growth(o, g, users);
            if (best < 0 || grow < least) {
                best = g;
                least = grow;
            }
        }
        order[at] = best;
        done[best] = true;
        for (int k = 0; k < o->loads[best].n; k++) users[o->loads[best].v[k]]--;
        for (int k = 0; k < o->after[best].n; k++) waits[o->after[best].v[k]]--;
    }
}

/* ---- by demand ------------------------------------------------------------------------------------------- */

typedef struct Demand {
    const Order *o;
    int *order, n; /* what is placed */
    int *users, *waits;
    bool *done;
    Ints ready;    /* waits for nothing any more; may be placed */
    Ints stack;    /* what is demanded, and by whom */
} Demand;

static void place(Demand *d, int g) {
    const Order *o = d->o;
    d->order[d->n++] = g;
    d->done[g] = true;
    for (int k = 0; k < o->loads[g].n; k++) d->users[o->loads[g].v[k]]--;
    for (int k = 0; k < o->after[g].n; k++) {
        int next = o->after[g].v[k];
        if (--d->waits[next] == 0) kd_push(o->cx, &d->ready, next);
    }
}

static void place_shrinking(Demand *d) {
    for (;;) {
        int best = -1, kept = 0;
        int64_t least = 1;
        for (int i = 0; i < d->ready.n; i++) {
            int g = d->ready.v[i];
            if (d->done[g]) continue;
            d->ready.v[kept++] = g;
            int64_t grow = growth(d->o, g, d->users);
            if (grow < least || (best >= 0 && grow == least && g < best)) {
                best = g;
                least = grow;
            }
        }
        d->ready.n = kept;
        if (best < 0) return;
        place(d, best);
    }
}

static int missing(const Demand *d, int g) {
    const Ints *before = &d->o->before[g];
    for (int i = 0; i < before->n && !d->done[g]; i++)
        if (!d->done[before->v[i]]) return before->v[i];
    return -1;
}

static void demand(Demand *d, int root) {
    KdContext *cx = d->o->cx;
    kd_push(cx, &d->stack, root);
    while (d->stack.n) {
        int g = d->stack.v[d->stack.n - 1], first = missing(d, g);
        if (first >= 0) {
            kd_push(cx, &d->stack, first);
            continue;
        }
        d->stack.n--;
        if (d->done[g]) continue;
        place(d, g);
        place_shrinking(d);
    }
}

static void schedule_by_demand(Demand *d, const Ints *roots, int first, int *order) {
    const Order *o = d->o;
    d->order = order;
    d->n = d->ready.n = 0;
    memcpy(d->users, o->users, o->fu->f->n * sizeof *d->users);
    memset(d->done, 0, (size_t)o->n * sizeof *d->done);
    for (int g = 0; g < o->n; g++) d->waits[g] = o->before[g].n;
    demand(d, first);
    for (int i = 0; i < roots->n; i++) demand(d, roots->v[i]);
}

/* ---- the pass -------------------------------------------------------------------------------------------- */

typedef struct Best {
    int64_t peak;
    int *order;
    bool changed;
} Best;

static void offer(const Order *o, Best *best, const int *order) {
    int64_t peak = peak_of(o, order);
    if (peak >= best->peak) return;
    memcpy(best->order, order, (size_t)o->n * sizeof *order);
    best->peak = peak;
    best->changed = true;
}

static void try_demands(const Order *o, Best *best, int *order) {
    Demand d = {.o = o};
    Ints roots = {0};
    d.users = KD_NEW_ARRAY(o->cx, int, o->fu->f->n + 1);
    d.waits = KD_NEW_ARRAY(o->cx, int, o->n + 1);
    d.done = KD_NEW_ARRAY(o->cx, bool, o->n + 1);
    for (int g = 0; g < o->n; g++)
        if (o->after[g].n == 0) kd_push(o->cx, &roots, g);
    int step = 1 + (roots.n - 1) / MAX_ROOTS;
    for (int i = 0; i < roots.n; i += step) {
        schedule_by_demand(&d, &roots, roots.v[i], order);
        offer(o, best, order);
    }
}

void kd_order(KdFusion *fu) {
    Order o = {0};
    prepare(&o, fu);
    int *order = KD_NEW_ARRAY(o.cx, int, o.n + 1);
    Best best = {.order = KD_NEW_ARRAY(o.cx, int, o.n + 1)};
    for (int g = 0; g < o.n; g++) best.order[g] = g;
    best.peak = peak_of(&o, best.order);
    schedule_by_growth(&o, order);
    offer(&o, &best, order);
    try_demands(&o, &best, order);
    if (!best.changed) return;
    KdGroup *groups = KD_NEW_ARRAY(o.cx, KdGroup, o.n);
    int *to = KD_NEW_ARRAY(o.cx, int, o.n + 1);
    for (int i = 0; i < o.n; i++) {
        groups[i] = fu->groups.v[best.order[i]];
        to[best.order[i]] = i;
    }
    fu->groups.v = groups;
    for (KdValue v = 0; v < fu->f->n; v++)
        if (fu->group[v] >= 0) fu->group[v] = to[fu->group[v]];
}
