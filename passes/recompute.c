/* recompute.c: less memory for more arithmetic. In: a function and a limit on its arena. Out: the same function
 * where values that are needed again much later are computed again instead of kept, until the plan fits the limit;
 * or the function itself, when it fits anyway or no limit is given.
 *
 * A value is a candidate when the planned order has a gap between two uses of it during which more than the limit
 * is alive: what a forward pass leaves for its backward pass. Dropping it means that the uses after the gap take a
 * copy of the nodes that made it, down to what is in memory at that time anyway (inputs, values with later uses,
 * small ones) or to copies of other dropped values. Copies compute the same bits: every op, `random` too, is a
 * function of its operands and attributes.
 *
 * Which ones: candidates are taken in the order of time. One is dropped when computing it again costs at most so
 * many operations a byte (the price), and the dropped values that have to be computed again together with it stay
 * below a size (the stretch), so that in each chain of values some are kept as starting points. Prices are tried
 * from low to high, with stretches from long to short, each by fusing, ordering and planning the result, which
 * costs tens of milliseconds for a large step; of the first price that fits, the cheapest stretch and the next
 * longer ones are taken, and the dearest drops of each are taken back as far as the limit allows. If none fits,
 * the smallest result is the start of another round.
 *
 * The result is built group by group, in the order of time, and plain: copies are equal to what they copy, and the
 * builder's sharing would merge them. No graph pass that rebuilds a function may come after this one. Nodes are
 * marked with their time (the group of the plan they came from), and fusion joins none of different times: else it
 * would compute a copy together with what it is a copy of. Trials live in contexts of their own, which are freed.
 */
#include <stdlib.h>
#include <string.h>

#include "passes/fuse.h"

enum {
    ROUNDS = 3,
    STRETCHES = 8,
    TAKE_BACKS = 3,    /* stretches from which drops are taken back */
    SMALL = 4096,      /* values of fewer bytes than the arena's over this are kept */
    MAX_CLOSURE = 512, /* nodes that one value is computed again with */
    BYTE_COST = 20,    /* operations that storing a byte and loading it again is worth */
};

static const double prices[] = {8, 96, 384, 1536, 6144, 1e18}; /* operations a byte; 8: elementwise */

typedef struct Trial { /* a function, laid out */
    KdContext *cx;     /* owns it */
    KdFunc *f;
    KdFusion *fu;
    KdMemPlan *plan;
    double work, cost; /* operations of its contractions; and with what is stored */
} Trial;

typedef struct Life { /* of a value in the arena: groups */
    int from, last;   /* stored, loaded last */
    int early, late;  /* the last use before its longest gap, the first after it */
} Life;

typedef struct Cost {
    double ops;
    int n; /* nodes */
    bool possible;
} Cost;

typedef struct Search {
    const KdPassOptions *o;
    const KdFunc *f;     /* what the pass was given, in `outer` */
    KdContext *outer;
    KdRecomputed *info;
    const KdFunc *result;
    KdFail failure;
    int64_t packed, limit, small;
    Trial base, best, now; /* of this round; NULL contexts: none */
    KdContext *cx;         /* for one round */
    KdMap seen;            /* hash of `dropped` -> did it fit */
    Life *life;
    int64_t *alive; /* by group */
    KD_VEC(KdValue) candidates; /* in the order of time */
    int64_t total;  /* their bytes */
    bool *dropped;
    double *ops;    /* by dropped value: of computing it again */
    int *part;      /* by dropped value: its stretch, joined by union; and its size */
    int64_t *part_bytes;
    uint32_t *mark, stamp;
    KD_VEC(KdValue) met; /* dropped values that the last closure rests on */
} Search;

/* ---- copying between contexts -------------------------------------------------------------------------- */

/* Node v of f, into b->f, which may be in another context, as a new node. */
static KdValue append(KdBuilder *b, const KdFunc *f, KdValue v, const KdValue *in, uint32_t when) {
    const KdNode *n = kd_node(f, v);
    const KdType *t = n->type;
    t = kd_op_info[n->op].flags & KD_TYPED ? kd_type(b->cx, t->dtype, t->rank, t->dim) : NULL;
    b->loc = n->loc;
    b->plain = true;
    KdValue made = kd_build(b, n->op, t, in, n->n_in, n->attr);
    if (made == KD_NONE)
        kd_raise(b->cx, KD_FAIL_INTERNAL, "recompute: %%%u (%s) could not be copied", v, kd_op_info[n->op].name);
    b->f->nodes[made].group = when;
    return made;
}

static KdFunc *copy_function(const KdFunc *f) {
    KdFunc *g = kd_func_like(f);
    KdBuilder b = kd_builder(g);
    for (KdValue v = 0; v < f->n; v++) append(&b, f, v, kd_node(f, v)->in, kd_node(f, v)->group);
    for (int i = 0; i < f->outputs.n; i++)
        kd_output(g, f->outputs.v[i].name, f->outputs.v[i].value, f->outputs.v[i].updates);
    return g;
}

/* ---- what things cost ------------------------------------------------------------------------------------ */

static int64_t bytes_of(const KdFunc *f, KdValue v) {
    const KdType *t = kd_vtype(f, v);
    return t->count * kd_dtype_size(t->dtype);
}

/* Multiplications and additions of a contraction: two for each pair of elements that meet. */
static double contraction_ops(const KdFunc *f, const KdNode *n) {
    const KdType *x = kd_vtype(f, n->in[0]), *w = kd_vtype(f, n->in[1]);
    const KdType *filter = n->op == KD_OP_CONV2D_WGRAD ? n->type : w;
    const KdType *met = n->op == KD_OP_CONV2D ? n->type : n->op == KD_OP_CONV_TRANSPOSE2D ? x : w;
    if (n->op != KD_OP_MATMUL)
        return 2.0 * (double)met->count * (double)(filter->count / (filter->dim[0] ? filter->dim[0] : 1));
    return 2.0 * (double)n->type->count * (double)x->dim[kd_attr_int(f, n, "ta") ? x->rank - 2 : x->rank - 1];
}

static double ops_of(const KdFunc *f, KdValue v) {
    const KdNode *n = kd_node(f, v);
    switch (kd_class(f, v)) {
    case KD_LEAF: return 0;
    case KD_INDEX: return n->op == KD_OP_RANDOM ? 16.0 * (double)n->type->count : 0;
    case KD_ELEMENTWISE: return (kd_op_info[n->op].flags & KD_COSTLY ? 16.0 : 1.0) * (double)n->type->count;
    case KD_WINDOW: return 4.0 * (double)n->type->count;
    case KD_REDUCE: return (double)kd_vtype(f, n->in[0])->count;
    case KD_ANCHOR: return contraction_ops(f, n);
    case KD_OPAQUE:
    case KD_META: break;
    }
    return 1e18;
}

static double work_of(const KdFunc *f) {
    double work = 0;
    for (KdValue v = 0; v < f->n; v++)
        if (kd_class(f, v) == KD_ANCHOR) work += contraction_ops(f, kd_node(f, v));
    return work;
}

/* ---- laying out ----------------------------------------------------------------------------------------- */

static bool skips(const KdPassOptions *o, const char *pass) {
    for (int i = 0; i < o->n_skip; i++)
        if (strcmp(o->skip[i], pass) == 0) return true;
    return false;
}

static void lay_out(Trial *t, const KdPassOptions *o) {
    t->fu = kd_fuse(t->f, o);
    if (!skips(o, "order")) kd_order(t->fu);
    t->plan = kd_memplan(t->fu);
    t->work = work_of(t->f);
    t->cost = t->work + BYTE_COST * (double)t->plan->naive;
}

static void free_trial(Trial *t) {
    if (t->cx) kd_context_free(t->cx);
    *t = (Trial){0};
}

/* Is a better than b? What fits comes first, then the least cost, then the least memory. */
static bool better(const Trial *a, const Trial *b, int64_t limit) {
    bool fits = a->plan->arena <= limit;
    if (!b->cx) return true;
    if (fits != (b->plan->arena <= limit)) return fits;
    if (fits && a->cost != b->cost) return a->cost < b->cost;
    return a->plan->arena < b->plan->arena;
}

/* ---- lives and candidates --------------------------------------------------------------------------------- */

static bool in_arena(const Trial *t, KdValue v) {
    return t->fu->stored[v] && t->fu->group[v] >= 0 && t->plan->place[v].kind == KL_ARG_ARENA;
}

static void find_lives(Search *s) {
    const KdFusion *fu = s->base.fu;
    const KdFunc *f = fu->f;
    int n = fu->groups.n;
    s->life = KD_NEW_ARRAY(s->cx, Life, f->n + 1);
    s->alive = KD_NEW_ARRAY(s->cx, int64_t, n + 2);
    for (KdValue v = 0; v < f->n; v++) s->life[v] = (Life){fu->group[v], fu->group[v], fu->group[v], fu->group[v]};
    for (int g = 0; g < n; g++) {
        const KdWalk *w = kd_group_walk(fu, g);
        for (int i = 0; i < w->touch.n; i++) {
            Life *l = &s->life[w->touch.v[i].v];
            if (!w->touch.v[i].load || l->from < 0) continue;
            if (g - l->last > l->late - l->early) {
                l->early = l->last;
                l->late = g;
            }
            l->last = g;
        }
    }
    for (int i = 0; i < f->outputs.n; i++) { /* needed to the end: never dropped */
        KdValue v = f->outputs.v[i].value;
        v = fu->alias[v] != KD_NONE ? fu->alias[v] : v;
        if (s->life[v].from >= 0) s->life[v] = (Life){s->life[v].from, n, n, n};
    }
    for (KdValue v = 0; v < f->n; v++) {
        if (!in_arena(&s->base, v)) continue;
        s->alive[s->life[v].from] += bytes_of(f, v);
        s->alive[s->life[v].last + 1] -= bytes_of(f, v);
    }
    for (int g = 0; g < n; g++) s->alive[g + 1] += s->alive[g];
}

static bool crosses_a_peak(const Search *s, const Life *l) {
    for (int g = l->early + 1; g < l->late; g++)
        if (s->alive[g] > s->limit) return true;
    return false;
}

static void find_candidates(Search *s) {
    const KdFusion *fu = s->base.fu;
    const KdFunc *f = fu->f;
    for (int g = 0; g < fu->groups.n; g++)
        for (int i = 0; i < fu->groups.v[g].stores.n; i++) {
            KdValue v = fu->groups.v[g].stores.v[i];
            if (!in_arena(&s->base, v) || bytes_of(f, v) < s->small || kd_class(f, v) == KD_OPAQUE ||
                !crosses_a_peak(s, &s->life[v]))
                continue;
            kd_push(s->cx, &s->candidates, v);
            s->total += bytes_of(f, v);
        }
}

/* ---- what computing again rests on ------------------------------------------------------------------------- */

typedef enum Source {
    SOURCE_KEPT,    /* there at that time, or small enough to keep until then */
    SOURCE_DROPPED, /* computed again */
    SOURCE_THROUGH, /* computed on the way */
} Source;

static Source source_of(const Search *s, KdValue v, int time) {
    const KdFusion *fu = s->base.fu;
    if (kd_class(fu->f, v) == KD_LEAF) return SOURCE_KEPT;
    if (!fu->stored[v]) return SOURCE_THROUGH;
    const Life *l = &s->life[v];
    if (s->dropped[v]) return time <= l->early ? SOURCE_KEPT : SOURCE_DROPPED;
    return l->last >= time || bytes_of(fu->f, v) < s->small ? SOURCE_KEPT : SOURCE_THROUGH;
}

static void close(Search *s, KdValue v, int time, Cost *c) {
    const KdFunc *f = s->base.f;
    const KdNode *n = kd_node(f, v);
    c->ops += ops_of(f, v);
    c->possible = c->possible && ++c->n <= MAX_CLOSURE && kd_class(f, v) != KD_OPAQUE;
    for (int k = 0; k < n->n_in && c->possible; k++) {
        KdValue o = n->in[k];
        Source from = source_of(s, o, time);
        if (from == SOURCE_KEPT || s->mark[o] == s->stamp) continue;
        s->mark[o] = s->stamp;
        if (from == SOURCE_DROPPED) kd_push(s->cx, &s->met, o);
        else close(s, o, time, c);
    }
}

static int find_part(const Search *s, KdValue v) {
    int p = (int)v;
    while (s->part[p] != p) p = s->part[p];
    return p;
}

/* Drops v, if that is within the price and the stretch. */
static void consider(Search *s, KdValue v, double price, int64_t stretch) {
    const KdFunc *f = s->base.f;
    Cost c = {.possible = true};
    s->stamp++;
    s->met.n = 0;
    close(s, v, s->life[v].late, &c);
    if (!c.possible || c.ops > price * (double)bytes_of(f, v)) return;
    int64_t size = bytes_of(f, v);
    for (int i = 0; i < s->met.n; i++) {
        int p = find_part(s, s->met.v[i]);
        if (s->mark[p] != s->stamp + 1) size += s->part_bytes[p];
        s->mark[p] = s->stamp + 1;
    }
    s->stamp++;
    if (size > stretch && s->met.n) return;
    s->part[v] = (int)v;
    for (int i = 0; i < s->met.n; i++) s->part[find_part(s, s->met.v[i])] = (int)v;
    s->part_bytes[v] = size;
    s->dropped[v] = true;
    s->ops[v] = c.ops;
}

static int choose(Search *s, double price, int64_t stretch) {
    int n = 0;
    memset(s->dropped, 0, s->base.f->n * sizeof *s->dropped);
    for (int i = 0; i < s->candidates.n; i++) {
        consider(s, s->candidates.v[i], price, stretch);
        n += s->dropped[s->candidates.v[i]];
    }
    return n;
}

/* ---- the function with copies --------------------------------------------------------------------------------- */

typedef struct Rebuild {
    const Search *s;
    const KdFunc *f;
    KdBuilder b;
    KdValue *first, *again; /* by old value: as it was made; its copy */
    KdValue *here;          /* by old value: in the group or the copy being made */
    uint32_t *stamp, now;   /* which of `here` are valid */
    KdMap known;            /* hash of an old value and its new operands -> the new value */
    int time;
} Rebuild;

/* v with these operands: as it was made before, or now. */
static KdValue made_of(Rebuild *r, KdValue v, const KdValue *in) {
    const KdNode *n = kd_node(r->f, v);
    size_t size = n->n_in * sizeof *in;
    uint64_t key = kd_hash_bytes(in, size, v), found;
    for (; kd_map_get(&r->known, key, &found); key++) { /* a colliding hash moves on to the next key */
        const KdNode *m = kd_node(r->b.f, (KdValue)(found & UINT32_MAX));
        if ((found >> 32) == v && (size == 0 || memcmp(m->in, in, size) == 0)) return (KdValue)(found & UINT32_MAX);
    }
    KdValue made = append(&r->b, r->f, v, in, 1 + (uint32_t)r->time);
    kd_map_put(&r->known, key, (uint64_t)v << 32 | made);
    return made;
}

static KdValue copy_again(Rebuild *r, KdValue v);

/* The value that stands for v at this time, for a copy. */
static KdValue source(Rebuild *r, KdValue v) {
    if (r->stamp[v] == r->now) return r->here[v];
    KdValue made = KD_NONE;
    switch (source_of(r->s, v, r->time)) {
    case SOURCE_KEPT:
        made = r->first[v];
        break;
    case SOURCE_DROPPED:
        if (r->again[v] == KD_NONE) r->again[v] = copy_again(r, v);
        made = r->again[v];
        break;
    case SOURCE_THROUGH:
        made = copy_again(r, v);
        break;
    }
    if (made == KD_NONE) made = made_of(r, v, NULL); /* a leaf */
    r->here[v] = made;
    r->stamp[v] = r->now;
    return made;
}

static KdValue copy_again(Rebuild *r, KdValue v) {
    const KdNode *n = kd_node(r->f, v);
    KdValue *in = KD_NEW_ARRAY(r->b.cx, KdValue, n->n_in + 1);
    for (int k = 0; k < n->n_in; k++) in[k] = source(r, n->in[k]);
    return kd_is_view(r->f, v) ? made_of(r, v, in) : append(&r->b, r->f, v, in, 1 + (uint32_t)r->time);
}

/* A value that a group loads, or a view of one. */
static KdValue loaded(Rebuild *r, KdValue v) {
    const KdFusion *fu = r->s->base.fu;
    if (fu->alias[v] != KD_NONE) {
        KdValue in = loaded(r, kd_node(r->f, v)->in[0]);
        return made_of(r, v, &in);
    }
    bool again = r->s->dropped[v] && r->time > r->s->life[v].early;
    if (again && r->again[v] == KD_NONE) {
        r->now++;
        r->again[v] = copy_again(r, v);
    }
    return again ? r->again[v] : r->first[v];
}

/* Nodes in the order of time, group by group. */
static void rebuild_group(Rebuild *r, int g) {
    const KdFusion *fu = r->s->base.fu;
    r->time = g;
    const KdWalk *w = kd_group_walk(fu, g);
    for (int i = 0; i < w->touch.n; i++) /* copies first: they use `here` themselves */
        if (w->touch.v[i].load) loaded(r, w->touch.v[i].v);
    r->now++;
    for (int i = 0; i < w->touch.n; i++) {
        KdValue v = w->touch.v[i].v;
        const KdNode *n = kd_node(r->f, v);
        if (w->touch.v[i].load) continue;
        KdValue *in = KD_NEW_ARRAY(r->b.cx, KdValue, n->n_in + 1);
        for (int k = 0; k < n->n_in; k++) in[k] = r->stamp[n->in[k]] == r->now ? r->here[n->in[k]] : loaded(r, n->in[k]);
        r->here[v] = made_of(r, v, in);
        r->stamp[v] = r->now;
        if (fu->stored[v]) r->first[v] = r->here[v];
    }
}

static KdFunc *rebuild(const Search *s, KdContext *cx) {
    const KdFunc *f = s->base.f;
    Rebuild r = {.s = s, .f = f, .b = kd_builder(kd_func_like(f))};
    size_t n = (size_t)f->n + 1;
    r.first = KD_NEW_ARRAY(cx, KdValue, n);
    r.again = KD_NEW_ARRAY(cx, KdValue, n);
    r.here = KD_NEW_ARRAY(cx, KdValue, n);
    r.stamp = KD_NEW_ARRAY(cx, uint32_t, n);
    r.known.cx = cx;
    for (KdValue v = 0; v < f->n; v++) r.first[v] = r.again[v] = KD_NONE;
    for (int i = 0; i < f->inputs.n; i++) r.first[f->inputs.v[i]] = append(&r.b, f, f->inputs.v[i], NULL, 0);
    for (KdValue v = 0; v < f->n; v++)
        if (kd_node(f, v)->op == KD_OP_LITERAL) r.first[v] = append(&r.b, f, v, NULL, 0);
    for (int g = 0; g < s->base.fu->groups.n; g++) rebuild_group(&r, g);
    r.time = -1; /* outputs are never dropped */
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        kd_output(r.b.f, o->name, loaded(&r, o->value), o->updates == KD_NONE ? KD_NONE : r.first[o->updates]);
    }
    return r.b.f;
}

/* ---- the search ----------------------------------------------------------------------------------------------- */

/* Runs fn, which uses cx. What is raised in cx is raised in the function's own context. */
static void guarded(Search *s, KdContext *cx, void (*fn)(Search *s)) {
    KdLanding l;
    const char *message = NULL;
    if (KD_TRY(cx, l)) {
        fn(s);
        kd_landing_pop(cx);
        return;
    }
    KdFail kind = kd_failure(cx, &message);
    kd_raise(s->outer, kind, "%s", kd_format(s->outer, "%s", message));
}

static KdContext *new_context(const Search *s) {
    KdContext *cx = kd_context_new();
    if (!cx) kd_raise(s->outer, KD_FAIL_MACHINE, "out of memory");
    return cx;
}

static void try_now(Search *s) {
    s->now.f = rebuild(s, s->now.cx);
    lay_out(&s->now, s->o);
}

/* Lays out what the drops give; keeps it as s->best if it is better. Does it fit? */
static bool attempt(Search *s) {
    Trial *t = &s->now;
    uint64_t key = kd_hash_bytes(s->dropped, s->base.f->n, 0), known;
    if (kd_map_get(&s->seen, key, &known)) return known;
    t->cx = new_context(s);
    guarded(s, t->cx, try_now);
    bool fits = t->plan->arena <= s->limit;
    kd_map_put(&s->seen, key, fits);
    if (better(t, &s->best, s->limit)) {
        Trial worse = s->best;
        s->best = *t;
        *t = worse;
    }
    free_trial(t);
    return fits;
}

typedef struct Drop { KdValue v; double price; } Drop;

static int by_price(const void *a, const void *b) {
    const Drop *x = a, *y = b;
    if (x->price != y->price) return x->price < y->price ? -1 : 1;
    return x->v < y->v ? -1 : x->v > y->v;
}

/* As few of the chosen drops as fit, the cheapest first. */
static void take_back(Search *s) {
    Drop *drops = KD_NEW_ARRAY(s->cx, Drop, s->candidates.n + 1);
    int n = 0;
    for (int i = 0; i < s->candidates.n; i++) {
        KdValue v = s->candidates.v[i];
        if (s->dropped[v]) drops[n++] = (Drop){v, s->ops[v] / (double)bytes_of(s->base.f, v)};
    }
    qsort(drops, (size_t)n, sizeof *drops, by_price);
    for (int lo = 0, hi = n; hi - lo > 1 + n / 64;) {
        int mid = lo + (hi - lo) / 2;
        for (int i = 0; i < n; i++) s->dropped[drops[i].v] = i < mid;
        if (attempt(s)) hi = mid;
        else lo = mid;
    }
}

/* One round from s->base: s->best is the best trial, if there was any. */
static void search(Search *s) {
    uint32_t n = s->base.f->n + 1;
    s->dropped = KD_NEW_ARRAY(s->cx, bool, n);
    s->ops = KD_NEW_ARRAY(s->cx, double, n);
    s->part = KD_NEW_ARRAY(s->cx, int, n);
    s->part_bytes = KD_NEW_ARRAY(s->cx, int64_t, n);
    s->mark = KD_NEW_ARRAY(s->cx, uint32_t, n);
    s->stamp = 0;
    s->total = 0;
    s->small = s->base.plan->arena / SMALL;
    s->candidates = (__typeof__(s->candidates)){0};
    s->met = (__typeof__(s->met)){0};
    s->seen = (KdMap){.cx = s->cx};
    find_lives(s);
    find_candidates(s);
    for (int p = 0; p < KD_COUNT(prices); p++) {
        double least = 0;
        int fitting = -1;
        for (int k = 0; k < STRETCHES; k++) {
            if (choose(s, prices[p], s->total >> (k + 1)) == 0 || !attempt(s)) continue;
            if (fitting < 0 || s->best.cost < least) fitting = k;
            least = s->best.cost;
        }
        if (fitting < 0) continue;
        for (int k = fitting; k >= 0 && k > fitting - (p ? TAKE_BACKS : 1); k--)
            if (choose(s, prices[p], s->total >> (k + 1)) && attempt(s)) take_back(s);
        return;
    }
}

static void search_from_base(Search *s) {
    s->cx = new_context(s);
    guarded(s, s->cx, search);
    kd_context_free(s->cx);
    s->cx = NULL;
}

static void lay_out_base(Search *s) {
    s->base.f = copy_function(s->f);
    lay_out(&s->base, s->o);
}

static void run(Search *s) {
    s->base.cx = new_context(s);
    guarded(s, s->base.cx, lay_out_base);
    s->info->naive = s->base.plan->naive;
    s->info->planned = s->base.plan->arena;
    double work = s->base.work;
    if (s->packed >= 0) s->info->packed = s->packed;
    else if (s->base.plan->arena > s->o->memory_limit) s->info->packed = s->o->memory_limit / 32;
    s->limit = s->o->memory_limit - s->info->packed;
    for (int round = 0; round < ROUNDS && s->base.plan->arena > s->limit; round++) {
        int64_t before = s->base.plan->arena;
        guarded(s, s->base.cx, search_from_base);
        if (!s->best.cx || s->best.plan->arena >= before) break;
        free_trial(&s->base);
        s->base = s->best;
        s->best = (Trial){0};
        if (s->base.plan->arena > before - before / 16) break; /* hardly worth another round */
    }
    s->info->least = s->base.plan->arena;
    s->info->more_work = work > 0 ? s->base.work / work - 1 : 0;
}

const KdFunc *kd_recompute(const KdFunc *f, const KdPassOptions *o, int64_t packed, KdRecomputed *info) {
    KdContext *cx = f->cx;
    *info = (KdRecomputed){0};
    if (o->memory_limit <= 0) return f;
    Search *s = KD_NEW(cx, Search);
    *s = (Search){.o = o, .packed = packed, .info = info, .outer = cx, .f = f};
    KdLanding l;
    const char *message = NULL;
    if (KD_TRY(cx, l)) {
        run(s);
        s->result = info->least < info->planned ? copy_function(s->base.f) : f;
        kd_landing_pop(cx);
    } else {
        s->failure = kd_failure(cx, &message);
    }
    free_trial(&s->base);
    free_trial(&s->best);
    free_trial(&s->now);
    if (s->cx) kd_context_free(s->cx);
    if (!s->result) kd_raise(cx, s->failure, "%s", kd_format(cx, "%s", message));
    return s->result;
}
