/* memplan.c: one arena, all offsets known.
 *
 * In: a fusion with its groups in their final order. Out: where every stored value lives.
 *
 *  1. Inputs live in their externs, literals in the pool.
 *  2. An output lives where it must end, if it can: a plain output in its own extern; an output that updates an input in
 *     that input's memory, when no later group reads the old value and the writing group reads it at most at the very
 *     element it writes. Else it goes through the arena and is copied at the end of the step.
 *  3. Every other value has a life from the group that stores it to the last that loads it. Where a group's store may
 *     overwrite what it reads for the last time (same size, same element), both share one block.
 *  4. Blocks are placed by size, largest first, each at the lowest offset that is free during its whole life.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "passes/fuse.h"

enum { ALIGN = 64 };

typedef struct Block { /* memory that one value after the other may hold */
    int64_t size, offset;
    int from, to; /* first and last group of its life */
    int taken;    /* the last group that stored into it */
} Block;

typedef struct Planner {
    KdContext *cx;
    const KdFusion *fu;
    const KdFunc *f;
    KdMemPlan *p;
    int *last;       /* by stored value: the last group that loads it; n_groups: needed after the end; -1: none */
    int *block;      /* by value; -1 */
    int *extern_of;  /* by INPUT node */
    KD_VEC(Block) blocks;
} Planner;

static int64_t bytes_of(const KdFunc *f, KdValue v) {
    const KdType *t = kd_vtype(f, v);
    return (t->count * kd_dtype_size(t->dtype) + ALIGN - 1) / ALIGN * ALIGN;
}

static KdValue memory_of(const KdFusion *fu, KdValue v) { return fu->alias[v] != KD_NONE ? fu->alias[v] : v; }

static int add_extern(Planner *z, const char *name, KdValue v, bool written) {
    const KdType *t = kd_vtype(z->f, v);
    kd_push(z->cx, &z->p->externs, (KlExtern){name, kd_scalar_of(t->dtype), t->count, written});
    return z->p->externs.n - 1;
}

/* ---- lives --------------------------------------------------------------------------------------------- */

static void find_lives(Planner *z) {
    for (KdValue v = 0; v < z->f->n; v++) z->last[v] = -1;
    for (int g = 0; g < z->fu->groups.n; g++) {
        const KdWalk *w = kd_group_walk(z->fu, g);
        for (int i = 0; i < w->touch.n; i++)
            if (w->touch.v[i].load) z->last[w->touch.v[i].v] = g;
    }
}

static bool loads(const Planner *z, int g, KdValue v) {
    const KdWalk *w = kd_group_walk(z->fu, g);
    for (int i = 0; i < w->touch.n; i++)
        if (w->touch.v[i].load && w->touch.v[i].v == v) return true;
    return false;
}

/* ---- outputs ---------------------------------------------------------------------------------------------- */

/* May v be written over the memory of `old`, whose life ends there? */
static bool may_overwrite(const Planner *z, KdValue v, KdValue old) {
    int g = z->fu->group[v];
    const KdType *t = kd_vtype(z->f, v), *u = kd_vtype(z->f, old);
    if (z->last[old] > g || t->count != u->count || t->dtype != u->dtype) return false;
    return !loads(z, g, old) || kd_group_reads_only_at_index(z->fu, g, old);
}

static void copy_at_end(Planner *z, KdValue from, int to) {
    KdMemPlan *p = z->p;
    p->copies[p->n_copies].from = from;
    p->copies[p->n_copies++].to = (KlArg){KL_ARG_EXTERN, to, 0};
    z->last[from] = z->fu->groups.n;
}

/* Where output i ends, and whether the value is written there at once. */
static void place_output(Planner *z, const KdOutput *o, bool *taken) {
    KdValue v = memory_of(z->fu, o->value);
    bool fresh = z->fu->group[v] >= 0 && z->block[v] < 0 && z->p->place[v].kind != KL_ARG_EXTERN;
    int to = o->updates == KD_NONE ? add_extern(z, o->name, o->value, true) : z->extern_of[o->updates];
    z->p->externs.v[to].written = true;
    if (o->updates == v && z->fu->group[v] < 0) return; /* the input itself, unchanged */
    if (fresh && (o->updates == KD_NONE || (!taken[o->updates] && may_overwrite(z, v, o->updates)))) {
        z->p->place[v] = (KlArg){KL_ARG_EXTERN, to, 0};
        if (o->updates != KD_NONE) taken[o->updates] = true;
        return;
    }
    copy_at_end(z, v, to);
}

/* Inputs that are also copied somewhere are needed to the end, before any update may take their memory. */
static void find_passed_through(Planner *z) {
    for (int i = 0; i < z->f->outputs.n; i++) {
        const KdOutput *o = &z->f->outputs.v[i];
        KdValue v = memory_of(z->fu, o->value);
        if (kd_node(z->f, v)->op == KD_OP_INPUT && o->updates != v) z->last[v] = z->fu->groups.n;
    }
}

/* ---- blocks ------------------------------------------------------------------------------------------------ */

/* A block whose last value dies in group g and which v, stored by g, may take over; -1. */
static int inherit(Planner *z, int g, KdValue v) {
    const KdWalk *w = kd_group_walk(z->fu, g);
    KD_VEC(KdValue) dying = {0};
    for (int i = 0; i < w->touch.n; i++) {
        KdValue u = w->touch.v[i].v;
        if (w->touch.v[i].load && z->block[u] >= 0 && z->last[u] == g) kd_push(z->cx, &dying, u);
    }
    for (int i = 0; i < dying.n; i++) {
        int k = z->block[dying.v[i]];
        if (z->blocks.v[k].taken != g && z->blocks.v[k].to == g && z->blocks.v[k].size == bytes_of(z->f, v) && may_overwrite(z, v, dying.v[i])) return k;
    }
    return -1;
}

static void make_blocks(Planner *z) {
    for (int g = 0; g < z->fu->groups.n; g++) {
        const KdGroup *group = &z->fu->groups.v[g];
        for (int i = 0; i < group->stores.n; i++) {
            KdValue v = group->stores.v[i];
            z->p->naive += bytes_of(z->f, v);
            if (z->p->place[v].kind == KL_ARG_EXTERN) continue;
            int end = z->last[v] < g ? g : z->last[v];
            int k = inherit(z, g, v);
            if (k < 0) {
                k = z->blocks.n;
                kd_push(z->cx, &z->blocks, (Block){.size = bytes_of(z->f, v), .from = g});
            }
            z->blocks.v[k].to = end;
            z->blocks.v[k].taken = g;
            z->block[v] = k;
        }
    }
}

static int by_size(const void *a, const void *b) {
    const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
    if (x->size != y->size) return x->size < y->size ? 1 : -1;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int by_offset(const void *a, const void *b) {
    const Block *x = *(Block *const *)a, *y = *(Block *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* First fit among the blocks alive at the same time, in the order of their offsets. */
static void place_blocks(Planner *z) {
    int n = z->blocks.n;
    Block **order = KD_NEW_ARRAY(z->cx, Block *, n + 1), **alive = KD_NEW_ARRAY(z->cx, Block *, n + 1);
    for (int i = 0; i < n; i++) order[i] = &z->blocks.v[i];
    qsort(order, (size_t)n, sizeof *order, by_size);
    for (int i = 0; i < n; i++) {
        Block *b = order[i];
        int k = 0;
        for (int j = 0; j < i; j++)
            if (order[j]->from <= b->to && b->from <= order[j]->to) alive[k++] = order[j];
        qsort(alive, (size_t)k, sizeof *alive, by_offset);
        int64_t at = 0;
        for (int j = 0; j < k && alive[j]->offset < at + b->size; j++) {
            int64_t end = alive[j]->offset + alive[j]->size;
            if (end > at) at = end;
        }
        b->offset = at;
        if (at + b->size > z->p->arena) z->p->arena = at + b->size;
    }
}

/* ---- copies ----------------------------------------------------------------------------------------------- */

/* Would `copy` overwrite the input that `reader` reads? */
static bool overwrites(const KdMemPlan *p, int copy, int reader) {
    const KlArg *from = &p->place[p->copies[reader].from], *to = &p->copies[copy].to;
    return copy != reader && !p->copies[reader].kept && from->kind == KL_ARG_EXTERN && to->kind == KL_ARG_EXTERN &&
           from->index == to->index;
}

static void move_copy(KdMemPlan *p, int from, int to) {
    __typeof__(p->copies[0]) t = p->copies[from];
    for (int i = from; i > to; i--) p->copies[i] = p->copies[i - 1];
    p->copies[to] = t;
}

/* Before copy `at` overwrites an input, that is kept in the arena for those who have yet to read it. */
static void keep(Planner *z, int at) {
    KdMemPlan *p = z->p;
    int64_t offset = p->arena;
    KdValue v = KD_NONE;
    for (int i = at + 1; i < p->n_copies; i++) {
        if (!overwrites(p, at, i)) continue;
        v = p->copies[i].from;
        p->copies[i].kept = 1 + offset;
    }
    p->arena += bytes_of(z->f, v);
    p->copies[p->n_copies].from = v;
    p->copies[p->n_copies].to = (KlArg){KL_ARG_ARENA, 0, offset};
    move_copy(p, p->n_copies++, at);
}

/* Copies run one after the other: one that reads an input comes before the one that overwrites it. Where inputs replace
 * each other in a circle, one of them is kept in the arena first. */
static void order_copies(Planner *z) {
    KdMemPlan *p = z->p;
    for (int done = 0; done < p->n_copies; done++) {
        int pick = -1;
        for (int i = done; i < p->n_copies && pick < 0; i++) {
            bool blocked = false;
            for (int k = done; k < p->n_copies; k++) blocked |= overwrites(p, i, k);
            if (!blocked) pick = i;
        }
        if (pick < 0) keep(z, done);
        else move_copy(p, pick, done);
    }
}

/* ---- the pass --------------------------------------------------------------------------------------------------- */

static void place_inputs(Planner *z) {
    int64_t pool = 0;
    for (int k = 0; k < z->f->inputs.n; k++) {
        KdValue v = z->f->inputs.v[k];
        z->extern_of[v] = add_extern(z, kd_attr_str(z->f, kd_node(z->f, v), "name"), v, false);
        z->p->place[v] = (KlArg){KL_ARG_EXTERN, z->extern_of[v], 0};
    }
    for (KdValue v = 0; v < z->f->n; v++) {
        if (kd_node(z->f, v)->op != KD_OP_LITERAL || !z->fu->stored[v]) continue;
        z->p->place[v] = (KlArg){KL_ARG_POOL, 0, pool};
        pool += bytes_of(z->f, v);
    }
}

KdMemPlan *kd_memplan(const KdFusion *fu) {
    KdContext *cx = fu->f->cx;
    Planner z = {.cx = cx, .fu = fu, .f = fu->f, .p = KD_NEW(cx, KdMemPlan)};
    size_t n = (size_t)fu->f->n + 1;
    z.p->place = KD_NEW_ARRAY(cx, KlArg, n);
    for (KdValue v = 0; v < fu->f->n; v++) z.p->place[v].kind = KL_ARG_ARENA;
    z.p->copies = kd_alloc_array(cx, 2 * (size_t)fu->f->outputs.n + 1, sizeof *z.p->copies);
    z.last = KD_NEW_ARRAY(cx, int, n);
    z.block = KD_NEW_ARRAY(cx, int, n);
    z.extern_of = KD_NEW_ARRAY(cx, int, n);
    for (size_t v = 0; v < n; v++) z.block[v] = -1;
    bool *taken = KD_NEW_ARRAY(cx, bool, n);
    place_inputs(&z);
    find_lives(&z);
    find_passed_through(&z);
    for (int i = 0; i < fu->f->outputs.n; i++) place_output(&z, &fu->f->outputs.v[i], taken);
    make_blocks(&z);
    place_blocks(&z);
    order_copies(&z);
    for (KdValue v = 0; v < fu->f->n; v++)
        if (z.block[v] >= 0) z.p->place[v].offset = z.blocks.v[z.block[v]].offset;
    for (KdValue v = 0; v < fu->f->n; v++)
        if (fu->alias[v] != KD_NONE) z.p->place[v] = z.p->place[fu->alias[v]];
    return z.p;
}

void kd_print_memplan(KdStr *s, const KdFusion *fu, const KdMemPlan *p) {
    static const char *const where[] = {"extern", "arena", "pool"};
    kd_str_printf(s, "# arena %" PRId64 " bytes; %" PRId64 " if every value had its own\n", p->arena, p->naive);
    for (int k = 0; k < p->externs.n; k++)
        kd_str_printf(s, "extern %d \"%s\" %" PRId64 "%s\n", k, p->externs.v[k].name, p->externs.v[k].count,
                      p->externs.v[k].written ? " written" : "");
    for (int g = 0; g < fu->groups.n; g++)
        for (int i = 0; i < fu->groups.v[g].stores.n; i++) {
            KdValue v = fu->groups.v[g].stores.v[i];
            kd_str_printf(s, "group %d: %%%u %s at %s", g, v, kd_type_text(fu->f->cx, kd_vtype(fu->f, v)), where[p->place[v].kind]);
            if (p->place[v].kind == KL_ARG_EXTERN) kd_str_printf(s, " %d", p->place[v].index);
            kd_str_printf(s, " + %" PRId64 "\n", p->place[v].offset);
        }
    for (int i = 0; i < p->n_copies; i++) {
        const KlArg *to = &p->copies[i].to;
        kd_str_printf(s, "copy %%%u", p->copies[i].from);
        if (p->copies[i].kept) kd_str_printf(s, ", kept at arena + %" PRId64 ",", p->copies[i].kept - 1);
        if (to->kind == KL_ARG_EXTERN) kd_str_printf(s, " to extern %d\n", to->index);
        else kd_str_printf(s, " to arena + %" PRId64 "\n", to->offset);
    }
}
