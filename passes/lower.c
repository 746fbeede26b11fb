/* lower.c: groups become kernels, and the plan that calls them.
 *
 * A fusion and a memory plan come in; a loop-IR module goes out, with one or more kernels a group in the groups' order,
 * equal kernels being one. kd_lower_begin and kd_lower_end frame a kernel; in between, values in memory are bound to
 * its buffers when they are first touched, and kd_lower_end turns the bindings into the call's arguments. Temporaries
 * (partial sums, packed operands) live behind the plan's arena for the time of their group, weights that are packed once
 * behind those, from run to run. At the end come the plan's
 * copies. Constants are written into the pool where the plan put them.
 */
#include "passes/schedule/stream.h"

#include <math.h>
#include <string.h>

enum {
    TASK = 100000, /* scalar operations that are worth a thread */
    ALIGN = 64,
};

static const int64_t KEPT = (int64_t)1 << 60; /* added to the offset of a temporary that lives from run to run */

/* ---- kernels ------------------------------------------------------------------------------------ */

static int64_t align_up(int64_t n) {
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

void kd_lower_begin(KdLower *l, const char *what, int64_t range) {
    l->k = kl_kernel_new(l->cx, what, range);
    l->b = kl_builder(l->k);
    kd_compose_init(l);
    kd_compose_begin(l);
}

static int bind(KdLower *l, KdBound bound, const char *name, KlScalar s, int64_t count, KlAccess access) {
    bound.buf = kl_buf(l->k, name, s, count, access);
    kd_push(l->cx, &l->binding->bound, bound);
    return bound.buf;
}

int kd_lower_buffer(KdLower *l, KdValue v) {
    const KdFunc *f = l->fu->f;
    v = l->fu->alias[v] != KD_NONE ? l->fu->alias[v] : v;
    for (int i = 0; i < l->binding->bound.n; i++) {
        if (l->binding->bound.v[i].temp < 0 && l->binding->bound.v[i].v == v) {
            return l->binding->bound.v[i].buf;
        }
    }
    if (!l->fu->stored[v]) {
        kd_raise(l->cx, KD_FAIL_INTERNAL, "lower: %%%u (%s) is not in memory", v,
                 kd_op_info[kd_node(f, v)->op].name);
    }
    const KdType *t = kd_vtype(f, v);
    bool own = l->fu->group[v] == l->binding->group;
    bool keeps = own && l->g->kind == KD_GROUP_OPAQUE &&
                 (kd_op_info[kd_node(f, v)->op].flags & KD_INPLACE); /* what is not written stays */
    const char *name = kd_node(f, v)->op == KD_OP_INPUT
                           ? kd_attr_str(f, kd_node(f, v), "name")
                           : kd_format(l->cx, "%s.%u", kd_op_info[kd_node(f, v)->op].name, v);
    return bind(l, (KdBound){v, -1, l->plan->place[v], 0}, name, kd_scalar_of(t->dtype), t->count,
                keeps ? KL_INOUT : own ? KL_OUT : KL_IN);
}

int kd_lower_temp(KdLower *l, int temp, KlScalar s, int64_t count, KlAccess access) {
    struct KdBinding *x = l->binding;
    for (int i = 0; i < x->bound.n; i++) {
        if (x->bound.v[i].temp == temp) {
            return x->bound.v[i].buf;
        }
    }
    while (x->temps.n <= temp) {
        kd_push(l->cx, &x->temps, -1);
    }
    if (x->temps.v[temp] < 0) {
        x->temps.v[temp] = x->temp_end;
        x->temp_end = align_up(x->temp_end + count * (s == KL_U8 ? 1 : 4));
        l->m->arena = x->temp_end > l->m->arena ? x->temp_end : l->m->arena;
    }
    bool kept = x->temps.v[temp] >= KEPT;
    KlArg arg = {KL_ARG_ARENA, kept, x->temps.v[temp] - (kept ? KEPT : 0)};
    return bind(l, (KdBound){KD_NONE, temp, arg, 0}, kd_format(l->cx, "temp%d", temp), s, count, access);
}

bool kd_lower_keep(KdLower *l, KdValue source, int temp, int64_t bytes) {
    struct KdBinding *x = l->binding;
    const KdFunc *f = l->fu->f;
    source = l->fu->alias[source] != KD_NONE ? l->fu->alias[source] : source;
    if (kd_node(f, source)->op != KD_OP_INPUT || kd_input_role(f, source) == KD_DATA || kd_input_role(f, source) == KD_STATE ||
        align_up(bytes) > l->o->keep - x->kept) {
        return false;
    }
    for (int i = 0; i < f->outputs.n; i++) {
        if (f->outputs.v[i].updates == source) {
            return false;
        }
    }
    while (x->temps.n <= temp) {
        kd_push(l->cx, &x->temps, -1);
    }
    x->temps.v[temp] = KEPT + x->kept;
    x->kept += align_up(bytes);
    x->once = true;
    return true;
}

/* Now that the arena's size is known: kept temporaries behind it. */
static void place_kept(KdLower *l) {
    int64_t end = align_up(l->m->arena);
    for (int c = 0; c < l->m->calls.n && l->binding->kept; c++) {
        const KlKernel *k = l->m->kernels.v[l->m->calls.v[c].kernel];
        KlArg *args = (KlArg *)l->m->calls.v[c].args;
        for (int i = 0, a = 0; i < k->bufs.n; i++) {
            if (k->bufs.v[i].access == KL_SCRATCH) {
                continue;
            }
            if (args[a].kind == KL_ARG_ARENA && args[a].index) {
                args[a] = (KlArg){KL_ARG_ARENA, 0, end + args[a].offset};
            }
            a++;
        }
    }
    l->m->kept = l->binding->kept;
    l->m->arena = l->binding->kept ? end + l->binding->kept : l->m->arena;
}

/* ---- what a kernel costs ------------------------------------------------------------------------ */

typedef struct Cost { double flops, ops; } Cost;

static double flops_of(const KlInstr *i) {
    if (i->type.scalar != KL_F32) {
        return 0;
    }
    switch ((KlOp)i->op) {
    case KL_OP_FMA:
        return 2.0 * i->type.lanes;
    case KL_OP_ADD:
    case KL_OP_SUB:
    case KL_OP_MUL:
    case KL_OP_DIV:
    case KL_OP_MIN:
    case KL_OP_MAX:
    case KL_OP_NEG:
    case KL_OP_ABS:
    case KL_OP_SQRT:
    case KL_OP_FLOOR:
    case KL_OP_ROUND:
        return i->type.lanes;
    case KL_OP_REDUCE_ADD:
    case KL_OP_REDUCE_MAX:
    case KL_OP_REDUCE_MIN:
        return 1;
    case KL_OP_CONST:
    case KL_OP_IOTA:
    case KL_OP_REM:
    case KL_OP_AND:
    case KL_OP_OR:
    case KL_OP_XOR:
    case KL_OP_SHL:
    case KL_OP_SHR:
    case KL_OP_CMP:
    case KL_OP_SELECT:
    case KL_OP_CVT:
    case KL_OP_BITCAST:
    case KL_OP_SPLAT:
    case KL_OP_EXTRACT:
    case KL_OP_SHUFFLE:
    case KL_OP_LOAD:
    case KL_OP_GATHER:
    case KL_OP_PREFETCH:
    case KL_OP_STORE:
    case KL_OP_SCATTER:
    case KL_OP_FOR:
    case KL_OP_IF:
    case KL_OP_YIELD:
    case KL_OP_COUNT:
        break;
    }
    return 0;
}

/* Of one execution of a block; a loop whose bounds are not constants counts with the most it may run. */
static Cost block_cost(const KlBuilder *b, const KlBlock *block) {
    Cost c = {0, 0};
    for (int k = 0; k < block->instrs.n; k++) {
        const KlInstr *i = block->instrs.v[k];
        double times = 1;
        if (i->op == KL_OP_FOR) {
            int64_t lo, hi, x;
            kl_range(b, i->in[0], &lo, &x);
            kl_range(b, i->in[1], &x, &hi);
            times = hi > lo && hi < INT64_MAX / 2 ? ceil((double)(hi - lo) / (double)i->imm) : 1;
        }
        if (i->body) {
            Cost inner = block_cost(b, i->body);
            c.flops += times * inner.flops;
            c.ops += times * inner.ops;
            continue;
        }
        bool free = i->op == KL_OP_CONST || i->op == KL_OP_IOTA || i->op == KL_OP_YIELD;
        c.flops += flops_of(i);
        c.ops += free ? 0 : i->type.lanes;
    }
    return c;
}

static void set_cost(KdLower *l) {
    KlKernel *k = l->k;
    Cost c = block_cost(&l->b, &k->body);
    if (k->flops == 0) {
        k->flops = c.flops * (double)k->range;
    }
    for (int i = 0; i < k->bufs.n && k->bytes == 0; i++) {
        for (int j = i; j < k->bufs.n && i == 0; j++) {
            const KlBuf *buf = &k->bufs.v[j];
            double size = (double)buf->count * (buf->dtype == KL_U8 ? 1 : 4);
            k->bytes += buf->access == KL_SCRATCH ? 0 : buf->access == KL_INOUT ? 2 * size : size;
        }
    }
    if (k->grain <= 1 && c.ops > 0) {
        double grain = ceil(TASK / c.ops);
        double most = k->range > 1 ? (double)k->range : 1;
        k->grain = (int64_t)(grain > most ? most : grain);
    }
}

static void add_call(KdLower *l, int kernel, const KdBound *bound, int n) {
    int args = 0;
    KlArg *arg = KD_NEW_ARRAY(l->cx, KlArg, l->k->bufs.n + 1);
    for (int buf = 0; buf < l->k->bufs.n; buf++) {
        if (l->k->bufs.v[buf].access == KL_SCRATCH) {
            continue;
        }
        int i = 0;
        while (i < n && bound[i].buf != buf) {
            i++;
        }
        if (i == n) {
            kd_raise(l->cx, KD_FAIL_INTERNAL, "lower: buffer %s of \"%s\" is bound to nothing",
                     l->k->bufs.v[buf].name, l->k->what);
        }
        arg[args++] = bound[i].arg;
    }
    KdLoc loc = l->binding->group < 0 ? 0 : kd_node(l->fu->f, l->g->root)->loc;
    kd_push(l->cx, &l->m->calls, (KlCall){kernel, arg, l->binding->once, loc});
}

void kd_lower_end(KdLower *l) {
    set_cost(l);
    int kernel = kl_module_add(l->m, l->k);
    add_call(l, kernel, l->binding->bound.v, l->binding->bound.n);
    l->binding->once = false;
    l->k = NULL;
}

const char *kd_lower_what(KdLower *l, const KdDomain *d) {
    const KdWalk *w = l->binding->walk;
    KdStr s = {.cx = l->cx};
    const char *last = NULL;
    int names = 0, more = 0;
    for (int i = 0; i < w->touch.n; i++) {
        KdValue v = w->touch.v[i].v;
        const char *name = kd_op_info[kd_node(l->fu->f, v)->op].name;
        if (w->touch.v[i].load || kd_is_view(l->fu->f, v) || kd_is_leaf(l->fu->f, v) || name == last) {
            continue;
        }
        last = name;
        if (names == 6) {
            more++;
            continue;
        }
        kd_str_printf(&s, "%s%s", names++ ? "+" : "", name);
    }
    if (more) {
        kd_str_printf(&s, "+%d", more);
    }
    for (int k = 0; k < d->n; k++) {
        kd_str_printf(&s, "%s%lld", k ? "x" : " ", (long long)d->dim[k]);
    }
    return s.s ? s.s : "map";
}

/* ---- constants and copies ----------------------------------------------------------------------- */

static void put_literal(KdLower *l, KdValue v) {
    const KdNode *n = kd_node(l->fu->f, v);
    KdFloats values = kd_attr_floats(l->fu->f, n, "values");
    KlArg at = l->plan->place[v];
    int64_t end = at.offset + align_up(n->type->count * kd_dtype_size(n->type->dtype));
    while (l->m->pool.n < end) {
        kd_push(l->cx, &l->m->pool, 0);
    }
    uint8_t *p = l->m->pool.v + at.offset;
    for (int64_t i = 0; i < n->type->count; i++) {
        double x = values.v[i];
        float real = (float)x;
        int32_t whole = n->type->dtype == KD_I32 ? (int32_t)x : 0;
        switch (n->type->dtype) {
        case KD_F32:
            memcpy(p + 4 * i, &real, 4);
            break;
        case KD_I32:
            memcpy(p + 4 * i, &whole, 4);
            break;
        case KD_U8:
        case KD_DTYPE_COUNT:
            p[i] = (uint8_t)x;
            break;
        }
    }
}

static void lower_copy(KdLower *l, KdValue from, KlArg at, KlArg to) {
    enum { PIECE = 16384 };
    const KdType *t = kd_vtype(l->fu->f, from);
    KlScalar s = kd_scalar_of(t->dtype);
    int64_t pieces = (t->count + PIECE - 1) / PIECE;
    l->binding->group = -1;
    kd_lower_begin(l, kd_format(l->cx, "copy %lld", (long long)t->count), pieces);
    KlBuilder *b = &l->b;
    int in = bind(l, (KdBound){from, -1, at, 0}, "from", s, t->count, KL_IN);
    int out = bind(l, (KdBound){KD_NONE, -1, to, 0}, "to", s, t->count, KL_OUT);
    KlValue lo = kl_op2(b, KL_OP_MUL, kl_parallel_index(l->k), kl_i64(b, PIECE));
    KlValue n = kl_op2(b, KL_OP_MIN, kl_op2(b, KL_OP_SUB, kl_i64(b, t->count), lo), kl_i64(b, PIECE));
    KlFor f = kd_vector_loop(l, kl_i64(b, 0), n, 0, NULL);
    KlValue i = kl_op2(b, KL_OP_ADD, lo, f.i);
    kl_store(b, out, i, kl_load(b, in, i, 1));
    kd_loop_end(l, &f);
    kd_lower_end(l);
}

/* ---- the pass ----------------------------------------------------------------------------------- */

static void lower_group(KdLower *l, int g) {
    l->g = &l->fu->groups.v[g];
    l->binding->group = g;
    l->binding->walk = kd_group_walk(l->fu, g);
    l->binding->temps.n = 0;
    l->binding->temp_end = align_up(l->plan->arena);
    bool any = false;
    for (int i = 0; i < l->g->stores.n; i++) {
        any = any || kd_vtype(l->fu->f, l->g->stores.v[i])->count > 0;
    }
    if (!any) {
        return;
    }
    switch (l->g->kind) {
    case KD_GROUP_ANCHOR:
        if (kd_stream_anchor(l) || kd_schedule_build(l, l->g)) {
            return;
        }
        kd_lower_map(l);
        return;
    case KD_GROUP_ROW:
        kd_lower_row(l);
        return;
    case KD_GROUP_MAP:
    case KD_GROUP_OPAQUE:
        kd_lower_map(l);
        return;
    }
}

KlModule *kd_lower(const KdFusion *fu, const KdMemPlan *plan, const KdPassOptions *o) {
    KdContext *cx = fu->f->cx;
    KdLower l = {.cx = cx, .fu = fu, .plan = plan, .o = o, .m = kl_module_new(cx, fu->f->name)};
    l.binding = KD_NEW(cx, struct KdBinding);
    l.m->arena = plan->arena;
    for (int i = 0; i < plan->externs.n; i++) {
        kd_push(cx, &l.m->externs, plan->externs.v[i]);
    }
    for (KdValue v = 0; v < fu->f->n; v++) {
        if (fu->stored[v] && kd_node(fu->f, v)->op == KD_OP_LITERAL) {
            put_literal(&l, v);
        }
    }
    for (int g = 0; g < fu->groups.n; g++) {
        lower_group(&l, g);
    }
    for (int i = 0; i < plan->n_copies; i++) {
        KdValue from = plan->copies[i].from;
        int64_t kept = plan->copies[i].kept;
        KlArg at = kept ? (KlArg){KL_ARG_ARENA, 0, kept - 1} : plan->place[from];
        lower_copy(&l, from, at, plan->copies[i].to);
    }
    place_kept(&l);
    return l.m;
}
