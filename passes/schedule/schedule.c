/* schedule.c: which schedule builds an anchor.
 *
 * Each row of schedule.def that serves the anchor's op is asked for its cost; the cheapest wins,
 * against the generic path. o->schedule forces a row by name where it serves the op and applies;
 * forced "generic", none is taken. kd_schedule_explain asks the same question and writes down the
 * whole answer.
 */
#include <string.h>

#include "passes/explain.h"
#include "passes/schedule/schedule.h"
#include "passes/schedule/stream.h"

#define SCHEDULE(name, op, cost, build, explain, purpose)                                          \
    KdScheduleCost cost_##cost;                                                                    \
    KdScheduleBuild build_##build;                                                                 \
    SchExplain explain_##explain;
#include "passes/schedule/schedule.def"
#undef SCHEDULE

typedef struct Row {
    const char *name;
    KdOp op;
    KdScheduleCost *cost;
    KdScheduleBuild *build;
    SchExplain *explain;
} Row;

static const Row rows[] = {
#define SCHEDULE(name, op, cost, build, explain, purpose)                                          \
    {#name, KD_OP_##op, cost_##cost, build_##build, explain_##explain},
#include "passes/schedule/schedule.def"
#undef SCHEDULE
};

/* ---- plans by shape ---------------------------------------------------------------------- */

/* Of what a plan depends on: the op, its operands' and its own type (types are interned), whether
 * operands are in memory, its attributes. */
static uint64_t key_of(const KdLower *l, KdValue root, const char *schedule) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, root);
    uint64_t h = kd_hash_bytes(schedule, strlen(schedule), n->op);
    h = kd_hash_bytes(&n->type, sizeof n->type, h);
    for (int k = 0; k < n->n_in; k++) {
        const KdType *t = kd_vtype(f, n->in[k]);
        h = kd_hash_bytes(&t, sizeof t, h + sch_is_stored(l, root, k));
    }
    int n_attrs;
    const KdAttrSpec *spec = kd_op_attrs(l->cx, (KdOp)n->op, &n_attrs);
    for (int k = 0; k < n_attrs; k++) {
        if (spec[k].kind == KD_ATTR_INTS)
            h = kd_hash_bytes(n->attr[k].ints.v, (size_t)n->attr[k].ints.n * sizeof(int64_t), h);
        else if (spec[k].kind == KD_ATTR_INT)
            h = kd_hash_bytes(&n->attr[k].i, sizeof n->attr[k].i, h);
    }
    return h;
}

bool sch_recall(const KdLower *l, KdValue root, const char *schedule, void *plan, size_t size) {
    uint64_t at;
    if (!l->schedules || !kd_map_get(l->schedules, key_of(l, root, schedule), &at)) return false;
    memcpy(plan, (const void *)(uintptr_t)at, size);
    return true;
}

void sch_remember(const KdLower *l, KdValue root, const char *schedule, const void *plan,
                  size_t size) {
    if (!l->schedules) return;
    void *copy = kd_alloc(l->cx, size);
    memcpy(copy, plan, size);
    kd_map_put(l->schedules, key_of(l, root, schedule), (uint64_t)(uintptr_t)copy);
}

/* ---- the choice -------------------------------------------------------------------------- */

/* The element rule in plain loops, as measured: cycles for a multiplication where rows are long
 * enough for vectors, and where they are not. A schedule has its price in compile time, so that it
 * must save more than a few microseconds. */
static double generic_cost(const KdLower *l, const KdGroup *g) {
    const KdNode *n = sch_root(l, g);
    bool wide = n->type->dim[n->type->rank - 1] >= sch_machine(l).lanes,
         many = n->type->dim[n->type->rank - 2] >= 4;
    double cycles = wide ? 2.5 : 8;
    if (n->op == KD_OP_CONV_TRANSPOSE2D)
        cycles = 10;
    else if (n->op == KD_OP_CONV2D_WGRAD)
        cycles = 1.5;
    else if (n->op == KD_OP_MATMUL)
        cycles = wide && many ? 0.5 : 2.7;
    return cycles * sch_macs(l, g->root) / SCH_HERTZ;
}
static const double compile_price = 20e3 / SCH_HERTZ;

/* What was considered for an anchor, and what became of it. */
typedef struct Choice {
    const Row *taken; /* NULL: generic */
    const char *why;
    double cost[KD_COUNT(rows)], generic; /* < 0: does not apply */
} Choice;

static Choice choose(const KdLower *l, const KdGroup *g) {
    Choice c = {.why = "cheapest", .generic = generic_cost(l, g)};
    const char *forced = l->o->schedule;
    const Row *best = NULL;
    double least = 0;
    for (int i = 0; i < KD_COUNT(rows); i++) {
        bool serves = rows[i].op == (KdOp)sch_root(l, g)->op;
        c.cost[i] = serves ? rows[i].cost(l, g) : -1;
        if (c.cost[i] < 0) continue;
        if (forced && strcmp(forced, rows[i].name) == 0) {
            c.taken = &rows[i];
            c.why = "forced";
        }
        if (!best || c.cost[i] < least) best = &rows[i], least = c.cost[i];
    }
    if (c.taken) return c;
    if (forced && strcmp(forced, "generic") == 0) {
        c.why = "forced";
    } else if (best && least + compile_price < c.generic) {
        c.taken = best;
    } else {
        c.why = best ? "generic is cheaper" : "no other applies";
    }
    return c;
}

const char *kd_schedule_choose(const KdLower *l, const KdGroup *g) {
    const Row *r = g->kind == KD_GROUP_ANCHOR ? choose(l, g).taken : NULL;
    return r ? r->name : NULL;
}

bool kd_schedule_build(KdLower *l, const KdGroup *g) {
    if (!l->schedules) {
        l->schedules = KD_NEW(l->cx, KdMap);
        l->schedules->cx = l->cx;
    }
    const Row *r = g->kind == KD_GROUP_ANCHOR ? choose(l, g).taken : NULL;
    if (r) r->build(l, g);
    return r != NULL;
}

/* ---- --explain --------------------------------------------------------------------------- */

void explain_none(KdStr *s, const KdLower *l, const KdGroup *g) { (void)s, (void)l, (void)g; }

/* "[1, 64, 66, 66] x [64, 64, 3, 3] -> [1, 64, 64, 64], stride 2": of attributes what is not usual. */
static const char *shape_of(const KdLower *l, KdValue v) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, v);
    KdStr s = {.cx = l->cx};
    kd_str_printf(&s, "%s x %s -> %s", kd_shape_text(l->cx, kd_vtype(f, n->in[0])),
                  kd_shape_text(l->cx, kd_vtype(f, n->in[1])), kd_shape_text(l->cx, n->type));
    int n_attrs;
    const KdAttrSpec *spec = kd_op_attrs(l->cx, (KdOp)n->op, &n_attrs);
    for (int k = 0; k < n_attrs; k++) {
        const char *name = spec[k].name;
        if (spec[k].kind == KD_ATTR_INT && n->attr[k].i != (strcmp(name, "groups") == 0))
            kd_str_printf(&s, ", %s %lld", name, (long long)n->attr[k].i);
        if (spec[k].kind != KD_ATTR_INTS || n->attr[k].ints.n < 2) continue;
        KdInts v = n->attr[k].ints;
        bool equal = true;
        for (int i = 1; i < v.n; i++)
            equal = equal && v.v[i] == v.v[0];
        bool usual = strcmp(name, "stride") == 0 || strcmp(name, "dilation") == 0;
        if (strcmp(name, "kernel") == 0 || (equal && v.v[0] == usual)) continue;
        kd_str_printf(&s, ", %s %lld", name, (long long)v.v[0]);
        for (int i = 1; i < v.n && !equal; i++)
            kd_str_printf(&s, "/%lld", (long long)v.v[i]);
    }
    return s.s;
}

/* Where the program says it: the innermost place that is not in the prelude. */
static const char *place_of(const KdLower *l, KdValue v) {
    static const char prelude[] = "prelude.kd";
    const KdPlace *p = kd_place(l->cx, kd_node(l->fu->f, v)->loc);
    for (; p; p = kd_place(l->cx, p->outer)) {
        size_t n = strlen(p->file), m = sizeof prelude - 1;
        if (n < m || strcmp(p->file + n - m, prelude) != 0)
            return kd_format(l->cx, "%s:%d:%d", p->file, p->line, p->col);
    }
    return "";
}

/* Keeps them sorted, the cheapest first. */
static void add_other(KdContext *cx, KdExplained *e, const char *name, double seconds) {
    int at = e->others.n;
    kd_push(cx, &e->others, (KdConsidered){name, seconds});
    for (; at > 0 && e->others.v[at - 1].seconds > seconds; at--)
        e->others.v[at] = e->others.v[at - 1];
    e->others.v[at] = (KdConsidered){name, seconds};
}

static KdExplained explained(const KdLower *l, KdValue v) {
    return (KdExplained){.op = (KdOp)kd_node(l->fu->f, v)->op,
                         .shape = shape_of(l, v),
                         .place = place_of(l, v),
                         .count = 1,
                         .plan = ""};
}

static KdExplained explain(KdLower *l, int group) {
    const KdGroup *g = l->g = &l->fu->groups.v[group];
    KdExplained e = explained(l, g->root);
    KdStr plan = {.cx = l->cx};
    l->binding->group = group;
    l->binding->walk = kd_group_walk(l->fu, group);
    if (kd_stream_is_anchor(l)) {
        e.schedule = "streamed";
        e.why = "an operand is made of a streamed product";
        return e;
    }
    Choice c = choose(l, g);
    e.schedule = c.taken ? c.taken->name : "generic";
    e.why = c.why;
    e.seconds = c.generic;
    for (int i = 0; i < KD_COUNT(rows); i++) {
        if (&rows[i] == c.taken)
            e.seconds = c.cost[i];
        else if (c.cost[i] >= 0)
            add_other(l->cx, &e, rows[i].name, c.cost[i]);
    }
    if (c.taken) {
        add_other(l->cx, &e, "generic", c.generic);
        c.taken->explain(&plan, l, g);
        e.plan = plan.s ? plan.s : "";
    }
    return e;
}

static bool same_choice(const KdExplained *a, const KdExplained *b) {
    return a->op == b->op && strcmp(a->shape, b->shape) == 0 &&
           strcmp(a->schedule, b->schedule) == 0 && strcmp(a->plan, b->plan) == 0;
}

static void add(KdContext *cx, KdExplanation *all, const KdExplained *e) {
    for (int i = 0; i < all->n; i++) {
        if (same_choice(&all->v[i], e)) {
            all->v[i].count++;
            return;
        }
    }
    kd_push(cx, all, *e);
}

KdExplanation kd_schedule_explain(const KdFusion *fu, const KdPassOptions *o) {
    KdContext *cx = fu->f->cx;
    KdLower l = {.cx = cx, .fu = fu, .o = o, .schedules = KD_NEW(cx, KdMap)};
    KdExplanation all = {0};
    l.binding = KD_NEW(cx, struct KdBinding);
    l.schedules->cx = cx;
    for (int g = 0; g < fu->groups.n; g++) {
        if (fu->groups.v[g].kind != KD_GROUP_ANCHOR) continue;
        KdExplained e = explain(&l, g);
        add(cx, &all, &e);
    }
    for (KdValue v = 0; v < fu->f->n; v++) {
        int g = fu->group[v];
        bool in_rows = kd_op_info[kd_node(fu->f, v)->op].cls == KD_ANCHOR && g >= 0 &&
                       fu->groups.v[g].kind != KD_GROUP_ANCHOR;
        if (!fu->streamed[v] && !in_rows) continue;
        KdExplained e = explained(&l, v);
        e.schedule = "streamed";
        e.why = fu->streamed[v] ? "never in memory: whoever needs it computes it, block by block"
                                : "part of the pass over rows that makes its operand";
        add(cx, &all, &e);
    }
    return all;
}

const char *const *kd_schedule_names(int *n) {
    static const char *const names[] = {
#define SCHEDULE(name, op, cost, build, explain, purpose) #name,
#include "passes/schedule/schedule.def"
#undef SCHEDULE
        "generic"};
    *n = KD_COUNT(names);
    return names;
}
