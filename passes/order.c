/* order.c: groups in an order that keeps the peak of memory low.
 *
 * In: a fusion whose groups stand in an executable order. Out: the same groups in another one, or as they were when that
 * is no worse. List scheduling: among the groups whose inputs are there, the one that leaves the least memory alive goes
 * next (bytes it stores minus bytes nobody needs after it), the earlier one on ties. Two kinds of edges are kept: who
 * stores before who loads, and, where it was so already, who reads an input before who writes its update, since else
 * the update could not be made in place.
 */
#include <string.h>

#include "passes/fuse.h"

typedef struct Order {
    KdContext *cx;
    const KdFusion *fu;
    int n; /* groups */
    KD_VEC(KdValue) *loads; /* by group: stored values that are no inputs or literals */
    KD_VEC(int) *after;     /* by group: groups that must come later */
    KD_VEC(int) *readers;   /* by INPUT node: groups that load it, ascending */
    int *waits;             /* by group: edges into it that are not satisfied yet */
    int *users;             /* by value: groups that still load it; an output has one more */
} Order;

static int64_t bytes_of(const KdFunc *f, KdValue v) {
    const KdType *t = kd_vtype(f, v);
    return t->count * kd_dtype_size(t->dtype);
}

static void edge(Order *o, int from, int to) {
    if (from == to) return;
    kd_push(o->cx, &o->after[from], to);
    o->waits[to]++;
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
    KdContext *cx = o->cx = fu->f->cx;
    o->fu = fu;
    o->n = fu->groups.n;
    o->loads = kd_alloc_array(cx, (size_t)o->n + 1, sizeof *o->loads);
    o->after = kd_alloc_array(cx, (size_t)o->n + 1, sizeof *o->after);
    o->readers = kd_alloc_array(cx, (size_t)fu->f->n + 1, sizeof *o->readers);
    o->waits = KD_NEW_ARRAY(cx, int, o->n + 1);
    o->users = KD_NEW_ARRAY(cx, int, fu->f->n + 1);
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
    for (int i = 0; i < fu->f->outputs.n; i++) {
        KdValue v = fu->f->outputs.v[i].value;
        o->users[fu->alias[v] != KD_NONE ? fu->alias[v] : v]++;
        update_edges(o, &fu->f->outputs.v[i]);
    }
}

/* Bytes that group g adds to what is alive, given who still needs what. */
static int64_t growth(const Order *o, int g, const int *users) {
    int64_t grow = 0;
    const KdGroup *group = &o->fu->groups.v[g];
    for (int i = 0; i < group->stores.n; i++) grow += bytes_of(o->fu->f, group->stores.v[i]);
    for (int i = 0; i < o->loads[g].n; i++)
        if (users[o->loads[g].v[i]] == 1) grow -= bytes_of(o->fu->f, o->loads[g].v[i]);
    return grow;
}

/* The largest number of bytes alive while the groups run in this order. */
static int64_t peak_of(const Order *o, const int *order) {
    int *users = KD_NEW_ARRAY(o->cx, int, o->fu->f->n + 1);
    memcpy(users, o->users, o->fu->f->n * sizeof *users);
    int64_t alive = 0, peak = 0;
    for (int i = 0; i < o->n; i++) {
        const KdGroup *group = &o->fu->groups.v[order[i]];
        int64_t stores = 0;
        for (int k = 0; k < group->stores.n; k++) stores += bytes_of(o->fu->f, group->stores.v[k]);
        if (alive + stores > peak) peak = alive + stores;
        alive += growth(o, order[i], users);
        for (int k = 0; k < o->loads[order[i]].n; k++) users[o->loads[order[i]].v[k]]--;
    }
    return peak;
}

static void schedule(const Order *o, int *order) {
    int *users = KD_NEW_ARRAY(o->cx, int, o->fu->f->n + 1), *waits = KD_NEW_ARRAY(o->cx, int, o->n + 1);
    bool *done = KD_NEW_ARRAY(o->cx, bool, o->n + 1);
    memcpy(users, o->users, o->fu->f->n * sizeof *users);
    memcpy(waits, o->waits, (size_t)o->n * sizeof *waits);
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

void kd_order(KdFusion *fu) {
    Order o = {0};
    prepare(&o, fu);
    int *now = KD_NEW_ARRAY(o.cx, int, o.n + 1), *then = KD_NEW_ARRAY(o.cx, int, o.n + 1);
    for (int g = 0; g < o.n; g++) now[g] = g;
    schedule(&o, then);
    if (peak_of(&o, then) >= peak_of(&o, now)) return;
    KdGroup *groups = KD_NEW_ARRAY(o.cx, KdGroup, o.n);
    int *to = KD_NEW_ARRAY(o.cx, int, o.n + 1);
    for (int i = 0; i < o.n; i++) {
        groups[i] = fu->groups.v[then[i]];
        to[then[i]] = i;
    }
    fu->groups.v = groups;
    for (KdValue v = 0; v < fu->f->n; v++)
        if (fu->group[v] >= 0) fu->group[v] = to[fu->group[v]];
}
