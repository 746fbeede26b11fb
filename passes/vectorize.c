/* vectorize.c: widens the loops that are marked `vector`.
 *
 * In: a kernel. Out: the same kernel rebuilt, every marked loop of W lanes being
 *   - a main loop whose step is W times the old one, and
 *   - if iterations are left over, one masked iteration of W lanes (a loop of at most one trip).
 * What one instruction becomes is decided in vector_lanes.c. Loops inside a widened loop stay
 * loops, if their bounds are the same in every lane; what they carry becomes a vector where it
 * differs between lanes. An if whose condition varies masks the stores and loads inside. A marked
 * loop that does not fit these rules stays scalar: never wrong, only slow. Loads from inputs at a
 * place that does not depend on the loop move before it, and with them (the builder lifts what it
 * can) all that is computed from them; short loops inside are repeated instead.
 *
 * Carried values (KlInstr.fold) become vectors that start from the fold's identity; lanes that take
 * no part keep theirs. After the loop the lanes are folded by a balanced tree and joined with the
 * initial value: init op lanes. Because one accumulator waits for itself, long loops with small
 * bodies use four, joined as (0 op 1) op (2 op 3). A maximum of floats is joined so that NaN stays.
 * Everything but such folds is equal to the scalar loop bit for bit.
 */
#include "passes/vectorize.h"

#include <math.h>
#include <string.h>

enum {
    COPIES = 4,
    MAX_CARRIED = 64,
    SMALL_BODY = 96,
    MOST_MOVED = 16,
    SHORT_LOOP = 4,
    UNROLLED_BODY = 128
};

/* ---- may it be widened?
 * --------------------------------------------------------------------------  */

static bool analyse_block(KlWiden *e, const KlBlock *block, bool guarded);

static bool is_const(const KlWiden *e, KlValue old) {
    return e->def[old] && e->def[old]->op == KL_OP_CONST;
}

/* A loop inside: what is carried varies if it does so at the start or after any iteration. */
static bool analyse_for(KlWiden *e, const KlInstr *i, bool guarded) {
    if (guarded || e->varying[i->in[0]] || e->varying[i->in[1]]) return false;
    const KlBlock *body = i->body;
    const KlInstr *yield = body->instrs.v[body->instrs.n - 1];
    e->varying[body->params.v[0]] = false;
    for (int j = 0; j < i->n_results; j++)
        e->varying[body->params.v[1 + j]] = e->varying[i->in[2 + j]];
    for (bool again = true; again;) {
        again = false;
        if (!analyse_block(e, body, guarded)) return false;
        for (int j = 0; j < i->n_results; j++) {
            bool *param = &e->varying[body->params.v[1 + j]];
            if (!e->varying[yield->in[j]] || *param) continue;
            *param = again = true;
        }
    }
    for (int j = 0; j < i->n_results; j++)
        e->varying[i->result + (KlValue)j] = e->varying[body->params.v[1 + j]];
    return true;
}

static bool analyse_instr(KlWiden *e, const KlInstr *i, bool guarded) {
    bool varies = false;
    for (int j = 0; j < i->n_in; j++) {
        if (kl_vtype(e->old, i->in[j]).lanes != 1) return false;
        varies = varies || e->varying[i->in[j]];
    }
    if (i->op == KL_OP_FOR) return analyse_for(e, i, guarded);
    if (i->op == KL_OP_IF) return analyse_block(e, i->body, guarded || varies);
    if (i->op == KL_OP_YIELD) return true;
    if (i->op == KL_OP_PREFETCH) return false; /* once for all iterations, not for each lane */
    if (i->op == KL_OP_STORE)
        return e->varying[i->in[0]]; /* one place for all iterations is not independent */
    if (i->type.lanes != 1) return false;
    bool traps =
        i->op == KL_OP_DIV || i->op == KL_OP_REM || i->op == KL_OP_SHL || i->op == KL_OP_SHR;
    if (guarded && traps && i->type.scalar != KL_F32 && !is_const(e, i->in[1])) return false;
    e->varying[i->result] = varies;
    return true;
}

static bool analyse_block(KlWiden *e, const KlBlock *block, bool guarded) {
    for (int j = 0; j < block->instrs.n; j++)
        if (!analyse_instr(e, block->instrs.v[j], guarded)) return false;
    return true;
}

static bool may_widen(KlWiden *e, const KlInstr *i) {
    if (i->n_results > MAX_CARRIED ||
        (i->n_results && i->fold != KL_OP_ADD && i->fold != KL_OP_MAX && i->fold != KL_OP_MIN))
        return false;
    memset(e->varying, 0, (size_t)e->old->types.n * sizeof *e->varying);
    for (int j = 0; j < i->body->params.n; j++) {
        if (kl_vtype(e->old, i->body->params.v[j]).lanes != 1) return false;
        e->varying[i->body->params.v[j]] = true;
    }
    return analyse_block(e, i->body, false);
}

/* Instructions of a body without loops; a large number if it has one. */
static int body_size(const KlBlock *block) {
    int n = block->instrs.n;
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_FOR) return INT32_MAX / 2;
        if (i->body) n += body_size(i->body);
    }
    return n;
}

/* ---- folds
 * -------------------------------------------------------------------------------------------  */

static KlValue identity(KlWiden *e, KlOp fold, KlType t) {
    KlValue v = KL_NONE;
    bool max = fold == KL_OP_MAX;
    if (t.scalar == KL_F32)
        v = kl_f32(&e->b, fold == KL_OP_ADD ? -0.0 : max ? -(double)INFINITY : (double)INFINITY);
    else if (t.scalar == KL_I32)
        v = kl_i32(&e->b, fold == KL_OP_ADD ? 0 : max ? INT32_MIN : INT32_MAX);
    else v = kl_i64(&e->b, fold == KL_OP_ADD ? 0 : max ? INT64_MIN : INT64_MAX);
    return kl_splat(&e->b, e->w, v);
}

/* a op c; of floats, a maximum or minimum that is NaN if one of both is. */
static KlValue join(KlWiden *e, KlOp fold, KlValue a, KlValue c) {
    if (fold == KL_OP_ADD || kl_vtype(e->b.k, a).scalar != KL_F32) return kl_op2(&e->b, fold, a, c);
    KlValue first = kl_cmp(&e->b, fold == KL_OP_MAX ? KL_GT : KL_LT, a, c);
    return kl_select(&e->b, kl_op2(&e->b, KL_OP_OR, first, kl_cmp(&e->b, KL_NE, a, a)), a, c);
}

static KlValue join_lanes(KlWiden *e, KlOp fold, KlValue v) {
    KlType t = kl_vtype(e->b.k, v);
    if (fold == KL_OP_ADD || t.scalar != KL_F32) return kl_reduce(&e->b, fold, v);
    for (int n = t.lanes / 2; n >= 1; n /= 2) {
        int low[64], high[64];
        for (int l = 0; l < n; l++) low[l] = l, high[l] = l + n;
        KlValue a = n > 1 ? kl_shuffle(&e->b, v, KL_NONE, n, low) : kl_extract(&e->b, v, 0);
        KlValue c = n > 1 ? kl_shuffle(&e->b, v, KL_NONE, n, high) : kl_extract(&e->b, v, 1);
        v = join(e, fold, a, c);
    }
    return v;
}

/* ---- blocks
 * --------------------------------------------------------------------------------------------  */

static const KlInstr *widen_block(KlWiden *e, const KlBlock *block);

/* A carried value as the loop being widened needs it. */
static KlValue carried(KlWiden *e, KlValue old, bool vector) {
    return vector ? kl_widen_vector(e, old) : e->lanes[old].v;
}

static KlLanes carried_form(KlWiden *e, KlValue old, KlValue v, bool vector) {
    if (!vector) return kl_uniform(v);
    return (KlLanes){.form = KL_VECTOR, .wide = kl_vtype(e->old, old).scalar == KL_I64, .v = v};
}

/* Trips of a loop whose bounds are constants of the old kernel, else -1. */
static int64_t known_trips(const KlWiden *e, const KlInstr *i) {
    int64_t span;
    if (!is_const(e, i->in[0]) || !is_const(e, i->in[1])) return -1;
    int64_t lo = e->def[i->in[0]]->imm;
    if (lo == INT64_MIN || !kd_add_ok(e->def[i->in[1]]->imm, -lo, &span)) return -1;
    return span > 0 ? (span - 1) / i->imm + 1 : 0;
}

/* Instructions if all loops are repeated; large if one of them is not short. */
static int64_t repeated_size(const KlWiden *e, const KlInstr *i) {
    int64_t trips = known_trips(e, i), n = i->body->instrs.n;
    if (trips < 0 || trips > SHORT_LOOP) return UNROLLED_BODY + 1;
    for (int j = 0; j < i->body->instrs.n && n <= UNROLLED_BODY; j++) {
        const KlInstr *c = i->body->instrs.v[j];
        if (c->body) n += c->op == KL_OP_FOR ? repeated_size(e, c) : c->body->instrs.n;
    }
    return n * trips;
}

/* A short loop inside a widened one: its body as often as it runs. */
static void repeat_loop(KlWiden *e, const KlInstr *i) {
    int n = i->n_results;
    KlLanes *values = KD_NEW_ARRAY(e->cx, KlLanes, n + 1);
    const KlValue *params = i->body->params.v;
    for (int j = 0; j < n; j++) values[j] = e->lanes[i->in[2 + j]];
    for (int64_t t = 0; t < known_trips(e, i); t++) {
        e->lanes[params[0]] = kl_uniform(kl_i64(&e->b, e->def[i->in[0]]->imm + t * i->imm));
        for (int j = 0; j < n; j++) e->lanes[params[1 + j]] = values[j];
        const KlInstr *yield = widen_block(e, i->body);
        for (int j = 0; j < n; j++) values[j] = e->lanes[yield->in[j]];
    }
    for (int j = 0; j < n; j++) e->lanes[i->result + (KlValue)j] = values[j];
}

/* A loop that stays what it is, outside of widened loops or inside one. */
static void keep_loop(KlWiden *e, const KlInstr *i) {
    int n = i->n_results;
    KlValue *values = KD_NEW_ARRAY(e->cx, KlValue, n + 1);
    const KlValue *params = i->body->params.v;
    if (e->w > 1 && repeated_size(e, i) <= UNROLLED_BODY) {
        repeat_loop(e, i);
        return;
    }
    for (int j = 0; j < n; j++)
        values[j] = carried(e, i->in[2 + j], e->w > 1 && e->varying[params[1 + j]]);
    KlFor f = kl_for_begin(&e->b, e->lanes[i->in[0]].v, e->lanes[i->in[1]].v, i->imm, n, values);
    f.instr->unroll = i->unroll;
    e->lanes[params[0]] = kl_uniform(f.i);
    for (int j = 0; j < n; j++)
        e->lanes[params[1 + j]] =
            carried_form(e, params[1 + j], f.carried[j], e->w > 1 && e->varying[params[1 + j]]);
    const KlInstr *yield = widen_block(e, i->body);
    for (int j = 0; j < n; j++)
        values[j] = carried(e, yield->in[j], e->w > 1 && e->varying[params[1 + j]]);
    kl_for_end(&e->b, &f, values, values);
    for (int j = 0; j < n; j++)
        e->lanes[i->result + (KlValue)j] =
            carried_form(e, params[1 + j], values[j], e->w > 1 && e->varying[params[1 + j]]);
}

static void keep_if(KlWiden *e, const KlInstr *i) {
    KlLanes c = e->lanes[i->in[0]];
    if (c.form == KL_UNIFORM) {
        KlIf f = kl_if_begin(&e->b, c.v);
        widen_block(e, i->body);
        kl_if_end(&e->b, &f);
        return;
    }
    KlValue mask = e->mask;
    bool guarded = e->guarded;
    e->mask = mask == KL_NONE ? c.v : kl_op2(&e->b, KL_OP_AND, mask, c.v);
    e->guarded = true;
    widen_block(e, i->body);
    e->mask = mask;
    e->guarded = guarded;
}

/* ---- what does not depend on the loop
 * ----------------------------------------------------------------------  */

static void mark_inside(const KlBlock *block, bool *inside) {
    for (int j = 0; j < block->params.n; j++) inside[block->params.v[j]] = true;
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        for (int r = 0; r < i->n_results; r++) inside[i->result + (KlValue)r] = true;
        if (i->body) mark_inside(i->body, inside);
    }
}

/* Loads that are in range whether or not the loop runs. Before the first instruction of the loop is
 * widened. */
static void move_loads(KlWiden *e, const KlBlock *block, const bool *inside, int *left) {
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->body) move_loads(e, i->body, inside, left);
        if (i->op != KL_OP_LOAD || i->n_in != 1 || inside[i->in[0]] || *left == 0) continue;
        const KlBuf *buf = &e->old->bufs.v[i->imm];
        int64_t lo, hi;
        kl_range(&e->b, e->lanes[i->in[0]].v, &lo, &hi);
        if (buf->access != KL_IN || lo < 0 || hi >= buf->count) continue;
        e->lanes[i->result] = kl_uniform(kl_load(&e->b, (int)i->imm, e->lanes[i->in[0]].v, 1));
        e->ready[i->result] = true;
        --*left;
    }
}

/* ---- a widened loop
 * -------------------------------------------------------------------------------------  */

/* One iteration for the lanes at first + lane * step; acc: the carried vectors, replaced by the
 * next ones. */
static void widen_iteration(KlWiden *e, const KlInstr *i, KlValue first, KlValue mask,
                            KlValue *acc) {
    const KlValue *params = i->body->params.v;
    e->lanes[params[0]] = kl_progression(e, first, i->imm);
    for (int j = 0; j < i->n_results; j++)
        e->lanes[params[1 + j]] = carried_form(e, params[1 + j], acc[j], true);
    e->mask = mask;
    const KlInstr *yield = widen_block(e, i->body);
    e->mask = KL_NONE;
    for (int j = 0; j < i->n_results; j++) {
        KlValue next = kl_widen_vector(e, yield->in[j]);
        acc[j] = mask == KL_NONE ? next : kl_select(&e->b, mask, next, acc[j]);
    }
}

/* lo .. hi, `copies` iterations of W lanes a trip, each with accumulators of its own (n each). */
static void full_loop(KlWiden *e, const KlInstr *i, KlValue lo, KlValue hi, int copies,
                      KlValue *acc) {
    int n = i->n_results;
    int64_t step = i->imm * e->w;
    KlFor f = kl_for_begin(&e->b, lo, hi, step * copies, n * copies, acc);
    if (copies == 1) f.instr->unroll = i->unroll;
    if (n) memcpy(acc, f.carried, (size_t)(n * copies) * sizeof *acc);
    for (int c = 0; c < copies; c++)
        widen_iteration(e, i, kl_op2(&e->b, KL_OP_ADD, f.i, kl_i64(&e->b, c * step)), KL_NONE,
                        acc + c * n);
    kl_for_end(&e->b, &f, acc, acc);
}

/* What is left from lo to hi, fewer than W iterations: none or one trip. */
static void masked_loop(KlWiden *e, const KlInstr *i, KlValue lo, KlValue hi, KlValue *acc) {
    int n = i->n_results;
    KlFor f = kl_for_begin(&e->b, lo, hi, i->imm * e->w, n, acc);
    if (n) memcpy(acc, f.carried, (size_t)n * sizeof *acc);
    KlValue left =
        kl_op2(&e->b, KL_OP_ADD, kl_op2(&e->b, KL_OP_SUB, hi, f.i), kl_i64(&e->b, i->imm - 1));
    left = kl_cvt(&e->b, KL_I32, kl_op2(&e->b, KL_OP_DIV, left, kl_i64(&e->b, i->imm)));
    KlValue mask = kl_cmp(&e->b, KL_LT, kl_iota(&e->b, KL_I32, e->w), kl_splat(&e->b, e->w, left));
    widen_iteration(e, i, f.i, mask, acc);
    kl_for_end(&e->b, &f, acc, acc);
}

static int power_of_two(int64_t n, bool up) {
    int p = 1;
    while (up ? p < n : 2 * p <= n) p *= 2;
    return p;
}

static void widen_loop(KlWiden *e, const KlInstr *i, int w, int64_t trips) {
    KlBuilder *b = &e->b;
    int n = i->n_results;
    KlValue lo = e->lanes[i->in[0]].v, hi = e->lanes[i->in[1]].v, acc[COPIES * MAX_CARRIED];
    int64_t group = i->imm * w;
    bool *inside = KD_NEW_ARRAY(e->cx, bool, e->old->types.n);
    int left = MOST_MOVED;
    mark_inside(i->body, inside);
    move_loads(e, i->body, inside, &left);
    e->w = w;
    e->loop = i;
    for (int j = 0; j < COPIES * n; j++)
        acc[j] = identity(e, (KlOp)i->fold, kl_vtype(e->old, i->in[2 + j % n]));
    KlValue at = lo;
    bool many = n && n <= 4 && trips >= 2 * COPIES * w && body_size(i->body) <= SMALL_BODY;
    if (many) {
        KlValue end = kl_op2(b, KL_OP_ADD, lo, kl_i64(b, trips / (COPIES * w) * COPIES * group));
        full_loop(e, i, at, end, COPIES, acc);
        at = end;
    }
    KlValue count = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_SUB, hi, lo), kl_i64(b, i->imm - 1));
    count = kl_op2(b, KL_OP_DIV, count,
                   kl_i64(b, group)); /* toward zero: an empty range gives end >= hi */
    KlValue end = trips >= 0
                      ? kl_op2(b, KL_OP_ADD, lo, kl_i64(b, trips / w * group))
                      : kl_op2(b, KL_OP_ADD, lo, kl_op2(b, KL_OP_MUL, count, kl_i64(b, group)));
    bool some_full = trips < 0 || trips / w > (many ? trips / (COPIES * w) * COPIES : 0);
    if (some_full) full_loop(e, i, at, end, 1, acc);
    if (trips < 0 || trips % w) masked_loop(e, i, end, hi, acc);
    for (int j = 0; j < n; j++) {
        if (many)
            acc[j] = join(e, (KlOp)i->fold, join(e, (KlOp)i->fold, acc[j], acc[n + j]),
                          join(e, (KlOp)i->fold, acc[2 * n + j], acc[3 * n + j]));
        KlValue all = join_lanes(e, (KlOp)i->fold, acc[j]);
        e->lanes[i->result + (KlValue)j] =
            kl_uniform(join(e, (KlOp)i->fold, e->lanes[i->in[2 + j]].v, all));
    }
    e->w = 1;
    e->loop = NULL;
}

static void visit_loop(KlWiden *e, const KlInstr *i) {
    int64_t trips = -1, span;
    int w = i->vector > 64 ? 64 : power_of_two(i->vector, false);
    if (e->w > 1 || w <= 1 || !may_widen(e, i)) {
        keep_loop(e, i);
        return;
    }
    KlValue lo = e->lanes[i->in[0]].v, hi = e->lanes[i->in[1]].v;
    if (kl_is_const(&e->b, kl_op2(&e->b, KL_OP_SUB, hi, lo), &span))
        trips = span > 0 ? (span - 1) / i->imm + 1 : 0;
    if (trips >= 0 && trips < w) w = power_of_two(trips, true);
    if (trips >= 0 && trips < 3) keep_loop(e, i);
    else widen_loop(e, i, w, trips);
}

/* The block's yield, if it has one. */
static const KlInstr *widen_block(KlWiden *e, const KlBlock *block) {
    const KlInstr *yield = NULL;
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_FOR) visit_loop(e, i);
        else if (i->op == KL_OP_IF) keep_if(e, i);
        else if (i->op == KL_OP_YIELD) yield = i;
        else kl_widen_instr(e, i);
    }
    return yield;
}

/* ---- kernels
 * -----------------------------------------------------------------------------------------------
 */

static bool find_definitions(KlWiden *e, const KlBlock *block) {
    bool marked = false;
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_FOR) e->def[i->body->params.v[0]] = i;
        else if (i->n_results) e->def[i->result] = i;
        marked = marked || (i->op == KL_OP_FOR && i->vector > 1);
        if (i->body && find_definitions(e, i->body)) marked = true;
    }
    return marked;
}

void kl_vectorize(KlKernel *k, const KlMachine *machine) {
    if (machine->lanes < 2) return;
    KlWiden e = {.cx = k->cx, .old = k, .w = 1, .mask = KL_NONE};
    e.def = KD_NEW_ARRAY(k->cx, const KlInstr *, k->types.n);
    if (!find_definitions(&e, &k->body)) return;
    e.lanes = KD_NEW_ARRAY(k->cx, KlLanes, k->types.n);
    e.ready = KD_NEW_ARRAY(k->cx, bool, k->types.n);
    e.varying = KD_NEW_ARRAY(k->cx, bool, k->types.n);
    KlKernel *new = kl_kernel_new(k->cx, k->what, k->range);
    for (int j = 0; j < k->bufs.n; j++) kd_push(k->cx, &new->bufs, k->bufs.v[j]);
    e.b = kl_builder(new);
    e.lanes[k->body.params.v[0]] = kl_uniform(kl_parallel_index(new));
    widen_block(&e, &k->body);
    kl_sweep(new);
    k->body = new->body;
    k->types.v = new->types.v;
    k->types.n = new->types.n;
    k->types.cap = new->types.cap;
}
