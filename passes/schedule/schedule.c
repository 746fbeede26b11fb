/* schedule.c: which schedule builds an anchor.
 *
 * Each row of schedule.def that serves the anchor's op is asked for its cost; the cheapest wins,
 * against the generic path. o->schedule forces a row by name where it serves the op and applies;
 * forced "generic", none is taken.
 */
#include <string.h>

#include "passes/schedule/schedule.h"

#define SCHEDULE(name, op, cost, build, purpose)                                                   \
    KdScheduleCost cost_##cost;                                                                    \
    KdScheduleBuild build_##build;
#include "passes/schedule/schedule.def"
#undef SCHEDULE

typedef struct Row {
    const char *name;
    KdOp op;
    KdScheduleCost *cost;
    KdScheduleBuild *build;
} Row;

static const Row rows[] = {
#define SCHEDULE(name, op, cost, build, purpose) {#name, KD_OP_##op, cost_##cost, build_##build},
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

static const Row *choose(const KdLower *l, const KdGroup *g) {
    if (g->kind != KD_GROUP_ANCHOR) return NULL;
    const char *forced = l->o->schedule;
    const Row *best = NULL;
    double least = 0;
    for (int i = 0; i < KD_COUNT(rows); i++) {
        if (rows[i].op != (KdOp)sch_root(l, g)->op) continue;
        double cost = rows[i].cost(l, g);
        if (cost < 0) continue;
        if (forced && strcmp(forced, rows[i].name) == 0) return &rows[i];
        if (!best || cost < least) best = &rows[i], least = cost;
    }
    if (forced && strcmp(forced, "generic") == 0) return NULL;
    return best && least + compile_price < generic_cost(l, g) ? best : NULL;
}

const char *kd_schedule_choose(const KdLower *l, const KdGroup *g) {
    const Row *r = choose(l, g);
    return r ? r->name : NULL;
}

bool kd_schedule_build(KdLower *l, const KdGroup *g) {
    if (!l->schedules) {
        l->schedules = KD_NEW(l->cx, KdMap);
        l->schedules->cx = l->cx;
    }
    const Row *r = choose(l, g);
    if (r) r->build(l, g);
    return r != NULL;
}
