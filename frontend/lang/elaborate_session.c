/* elaborate_session.c: the statements of a session, one training iteration in program order.
 *
 * Everything stays pure: `minimize` makes grad and optimiser nodes, and from then on the weight's
 * value is the updated one (KdWeight.now), so what is applied later sees it. Old values stay nodes
 * like any others. Using them where a gradient would need them is legal in the graph but not what a
 * person means, so it is refused: see stale_use.
 *
 * A step is compiled once for each set of `every` blocks that run. A block that does not run is
 * elaborated too, with `idle` set: its names, weights, states and random streams are then the same
 * in all variants, but nothing it does counts.
 */
#include "frontend/lang/elaborate.h"

#include <string.h>

/* ---- states and counters --------------------------------------------------------------------- */

static int state(KdElab *E, const char *name, const KdType *t) {
    KdSession *S = E->session;
    name = kd_intern_z(E->cx, name);
    for (int i = 0; i < S->n_state; i++)
        if (S->state[i].name == name) return i;
    kd_vec_room(E->cx, (void **)&S->state, &S->n_state, &S->cap_state, sizeof *S->state);
    KdValue v = kd_input(&E->b, name, KD_STATE, t, "zeros");
    S->state[S->n_state].input = v;
    S->state[S->n_state].now = v;
    S->state[S->n_state].name = name;
    return S->n_state++;
}

static const KdType *scalar_type(KdElab *E) { return kd_type(E->cx, KD_F32, 0, NULL); }

/* How often this place has run, now included: the step, or inside `every` a counter of its own. */
static KdValue ticks(KdElab *E) {
    KdSession *S = E->session;
    if (S->every_now < 0) return S->step;
    if (S->every_tick == KD_NONE) {
        int k = state(E, kd_format(E->cx, "every.%d", S->every_now), scalar_type(E));
        S->every_tick =
            kd_binary(&E->b, KD_OP_ADD, S->state[k].input, kd_const(&E->b, scalar_type(E), 1));
        if (!S->idle) S->state[k].now = S->every_tick;
    }
    return S->every_tick;
}

KdVal kd_session_scalar(KdElab *E, const char *name, KdSpan at) {
    if (E->session)
        return kd_tensor(strcmp(name, "step") == 0 ? E->session->step : E->session->epoch);
    return kd_elab_error(E, at, "'%s' exists only in a session", name);
}

void kd_random_inputs(KdElab *E, KdValue *seed, KdValue *step) {
    if (E->session) {
        *seed = E->session->seed;
        *step = E->session->step_i32;
        return;
    }
    if (E->rng_seed == KD_NONE) {
        const KdType *t = kd_type(E->cx, KD_I32, 0, NULL);
        E->rng_seed = kd_input(&E->b, "rng_seed", KD_DATA, t, "");
        E->rng_step = kd_input(&E->b, "rng_step", KD_DATA, t, "");
    }
    *seed = E->rng_seed;
    *step = E->rng_step;
}

/* ---- stale values ---------------------------------------------------------------------------- */

typedef struct Flow { /* of a loss, by node */
    bool *reach;      /* the loss depends on it differentiably */
    bool *wanted;     /* it depends on a weight to be trained, in any version */
    int *old;         /* index + 1 of a stale weight it depends on; 0: none */
} Flow;

static bool passes_gradient(const KdNode *n) {
    return n->n_in > 0 && n->type->dtype == KD_F32 &&
           kd_op_info[n->op].grad != kd_op_info[KD_OP_DETACH].grad;
}

static Flow flow_of(KdElab *E, KdValue loss, const KdMap *trained) {
    KdSession *S = E->session;
    uint32_t n = loss + 1;
    Flow w = {KD_NEW_ARRAY(E->cx, bool, n), KD_NEW_ARRAY(E->cx, bool, n),
              KD_NEW_ARRAY(E->cx, int, n)};
    w.reach[loss] = true;
    for (KdValue v = loss + 1; v-- > 0;) {
        const KdNode *node = kd_node(E->f, v);
        if (w.reach[v] && passes_gradient(node))
            for (int i = 0; i < node->n_in; i++)
                w.reach[node->in[i]] = true;
    }
    for (KdValue v = 0; v <= loss; v++) {
        if (!w.reach[v]) continue;
        const KdNode *node = kd_node(E->f, v);
        uint64_t at;
        w.wanted[v] = kd_map_get(trained, v, NULL);
        if (kd_map_get(&S->stale, v, &at))
            w.old[v] = (int)at + 1;
        else if (passes_gradient(node)) /* an updated weight is a fresh start: the optimiser
                                                 passes no gradient */
            for (int i = 0; i < node->n_in; i++) {
                w.wanted[v] = w.wanted[v] || w.wanted[node->in[i]];
                if (!w.old[v]) w.old[v] = w.old[node->in[i]];
            }
    }
    return w;
}

/* The gradient to one operand does not need the value of another. */
static bool linear(int op) {
    return op == KD_OP_ADD || op == KD_OP_SUB || op == KD_OP_CONCAT || op == KD_OP_WHERE;
}

/* The node below v that reads the stale weight itself. */
static KdValue first_use(KdElab *E, const Flow *w, KdValue v) {
    for (;;) {
        const KdNode *n = kd_node(E->f, v);
        KdValue next = KD_NONE;
        for (int i = 0; i < n->n_in; i++) {
            if (kd_map_get(&E->session->stale, n->in[i], NULL)) return v;
            if (w->old[n->in[i]] && next == KD_NONE) next = n->in[i];
        }
        if (next == KD_NONE) return v;
        v = next;
    }
}

static KdLoc outermost(KdElab *E, KdLoc loc) {
    for (const KdPlace *p = kd_place(E->cx, loc); p && p->outer; p = kd_place(E->cx, loc))
        loc = p->outer;
    return loc;
}

static const char *root_name(KdElab *E, const KdWeight *w) {
    size_t n = strcspn(w->path, ".");
    return kd_intern(E->cx, w->path, n);
}

/* Would the gradient need what has been updated since? True after a diagnostic with both places. */
static bool stale_use(KdElab *E, const KdStmt *s, KdValue loss, const Flow *w,
                      const KdMap *trained) {
    KdSession *S = E->session;
    KdValue culprit = KD_NONE;
    int record = 0;
    for (KdValue v = 0; v <= loss && culprit == KD_NONE; v++) {
        const KdNode *n = kd_node(E->f, v);
        if (!w->reach[v] || !w->wanted[v] || !passes_gradient(n)) continue;
        for (int i = 0; i < n->n_in && culprit == KD_NONE; i++) {
            KdValue o = n->in[i];
            if (!w->old[o]) continue;
            bool own = kd_map_get(&S->stale, o, NULL) && kd_map_get(trained, o, NULL);
            if (!own && (linear(n->op) || !w->reach[o])) continue;
            culprit = kd_map_get(&S->stale, o, NULL) ? v : first_use(E, w, o);
            record = w->old[o] - 1;
        }
    }
    if (culprit == KD_NONE) return false;
    if (kd_elab_complained(E, s->exprs[0]->at)) return true;
    const KdStale *old = &S->stales.v[record];
    const char *name = root_name(E, old->weight);
    kd_elab_error(
        E, s->exprs[0]->at,
        "minimize: this loss was computed with parameters of %s that have been updated since",
        name);
    kd_note(E->cx, outermost(E, kd_node(E->f, culprit)->loc),
            "computed here, with %s as it was before its update", name);
    kd_note(E->cx, old->updated, "%s is updated here", name);
    kd_hint(
        E->cx,
        "apply %s again after the update, detach the value, or put both minimize into together { }",
        name);
    return true;
}

/* ---- minimize -------------------------------------------------------------------------------- */

static bool add_network(KdElab *E, KdVal v, KdSpan at, KdWeights *all) {
    if (v.kind == KD_VAL_POISON) return false;
    if (v.kind == KD_VAL_LIST) {
        bool ok = true;
        for (int i = 0; i < v.list->n; i++)
            ok = add_network(E, v.list->v[i], at, all) && ok;
        return ok;
    }
    if (v.kind != KD_VAL_INSTANCE) {
        if (kd_elab_complained(E, at)) return false;
        kd_elab_error(E, at, "after 'over' come networks, found %s", kd_val_describe(E, v));
        if (v.kind == KD_VAL_DEF && v.def->kind == KD_DEF_NET)
            kd_hint(E->cx, "let name = %s[...] makes a network of it", v.def->name);
        return false;
    }
    if (v.inst->frozen || (v.inst->store && v.inst->store->frozen)) {
        kd_elab_error(E, at, "%s is frozen: it has nothing to train",
                      v.inst->store ? v.inst->store->path : v.inst->label);
        return false;
    }
    int before = all->v.n;
    if (v.inst->store) kd_store_weights(E, v.inst->store, false, all);
    if (all->v.n > before || (v.inst->store && v.inst->store->applied)) return true; /* a loss may be a net without weights */
    kd_elab_error(E, at, "%s has no weights%s", v.inst->store ? v.inst->store->path : v.inst->label,
                  v.inst->store ? ", or has not been applied yet" : "");
    return false;
}

static KdValue part(KdElab *E, const KdOptimizer *o, const KdValue *in, int n_in, int k) {
    KdAttr a[KD_MAX_ATTRS];
    memcpy(a, o->attr, sizeof a);
    a[0].i = k;
    return kd_build(&E->b, o->op, NULL, in, n_in, a);
}

/* w's value after one step of the optimiser; its moments become states "opt.K.m.PATH". */
static KdValue step_weight(KdElab *E, const KdOptimizer *o, int k, KdWeight *w, KdValue loss,
                           KdValue t) {
    KdSession *S = E->session;
    bool adam = o->op == KD_OP_ADAM;
    int m =
        state(E, kd_format(E->cx, "opt.%d.%s.%s", k, o->op == KD_OP_RMSPROP ? "v" : "m", w->path),
              w->type);
    int v = adam ? state(E, kd_format(E->cx, "opt.%d.v.%s", k, w->path), w->type) : -1;
    if (S->idle) return w->now;
    KdValue pair[2] = {loss, w->now};
    KdValue g = kd_build(&E->b, KD_OP_GRAD, NULL, pair, 2, NULL);
    KdValue in[6] = {w->now, g, S->state[m].now, adam ? S->state[v].now : o->lr, o->lr, t};
    int n_in = adam ? 6 : 4;
    KdValue fresh = part(E, o, in, n_in, 0), m2 = part(E, o, in, n_in, 1);
    if (adam) S->state[v].now = part(E, o, in, n_in, 2);
    S->state[m].now = m2;
    if (o->clamped) fresh = kd_build(&E->b, KD_OP_CLAMP, NULL, &fresh, 1, (KdAttr[]){{.f = o->lo}, {.f = o->hi}});
    return fresh;
}

static void apply_pending(KdElab *E, int from) {
    KdSession *S = E->session;
    for (int i = from; i < S->pending.n; i++) {
        KdPending *p = &S->pending.v[i];
        kd_map_put(&S->stale, p->weight->now, (uint64_t)S->stales.n);
        kd_push(E->cx, &S->stales, (KdStale){p->weight, p->where});
        p->weight->now = p->value;
    }
    S->pending.n = from;
}

static bool already_pending(KdElab *E, const KdWeights *all, KdSpan at) {
    KdSession *S = E->session;
    for (int i = 0; i < S->pending.n; i++)
        for (int k = 0; k < all->v.n; k++)
            if (S->pending.v[i].weight == all->v.v[k]) {
                if (kd_elab_complained(E, at)) return true;
                kd_elab_error(
                    E, at, "%s is updated twice in one 'together'; minimize the sum of the losses",
                    root_name(E, all->v.v[k]));
                kd_note(E->cx, S->pending.v[i].where, "first here");
                return true;
            }
    return false;
}

static bool loss_ok(KdElab *E, KdVal v, const KdExpr *e) {
    if (v.kind == KD_VAL_POISON) return false;
    if (v.kind != KD_VAL_TENSOR) {
        kd_elab_error(E, e->at, "minimize needs a loss that was computed from networks, found %s",
                      kd_val_describe(E, v));
        return false;
    }
    const KdType *t = kd_val_type(E, v);
    if (t->rank == 0 && t->dtype == KD_F32) return true;
    if (kd_elab_complained(E, e->at)) return false;
    kd_elab_error(E, e->at, "minimize needs a loss that is one number, found a tensor %s",
                  kd_type_text(E->cx, t));
    kd_hint(E->cx, "mean(...) or sum(...) makes one number of it");
    return false;
}

static KdMap weight_versions(KdElab *E, const KdWeights *all) {
    KdMap m = {.cx = E->cx};
    for (int i = 0; i < all->v.n; i++)
        kd_map_put(&m, all->v.v[i]->now, 1);
    for (int i = 0; i < E->session->stale.cap; i++) {
        if (!E->session->stale.used[i]) continue;
        const KdWeight *w = E->session->stales.v[E->session->stale.vals[i]].weight;
        for (int k = 0; k < all->v.n; k++)
            if (all->v.v[k] == w) kd_map_put(&m, E->session->stale.keys[i], 1);
    }
    return m;
}

static bool in_reach(const Flow *w, KdValue loss, KdValue v) { return v <= loss && w->reach[v]; }

/* Does the loss depend on each of the networks? None at all is an error, one that does not matter a
 * warning. */
static bool depends(KdElab *E, const KdStmt *s, KdValue loss, const Flow *w, const KdVal *nets) {
    int used = 0, n = s->n_exprs - 2;
    for (int i = 0; i < n; i++) {
        KdWeights some = {0};
        bool any = false;
        add_network(E, nets[i], s->exprs[i + 2]->at, &some);
        for (int k = 0; k < some.v.n; k++)
            any = any || in_reach(w, loss, some.v.v[k]->now);
        used += any;
        if (!any && some.v.n > 0 && (n > 1 || used)) {
            KdStr name = {E->cx, NULL, 0, 0};
            kd_print_expr(&name, s->exprs[i + 2]);
            KdLoc at = kd_elab_loc(E, s->exprs[i + 2]->at);
            if (!kd_map_get(&E->p->warned, at, NULL))
                kd_warning(E->cx, at, "the loss does not depend on %s, which stays as it is",
                           name.s);
            kd_map_put(&E->p->warned, at, 1);
        }
    }
    if (used) return true;
    kd_elab_error(E, s->exprs[0]->at,
                  "minimize: the loss does not depend on the networks after 'over'");
    return false;
}

void kd_exec_minimize(KdElab *E, const KdStmt *s) {
    KdSession *S = E->session;
    int k = S->n_minimize++, n = s->n_exprs - 2;
    KdVal loss = kd_eval_expr(E, s->exprs[0]);
    KdVal *nets = KD_NEW_ARRAY(E->cx, KdVal, n);
    KdWeights all = {0};
    bool ok = loss_ok(E, loss, s->exprs[0]);
    for (int i = 0; i < n; i++) {
        nets[i] = kd_eval_expr(E, s->exprs[i + 2]);
        if (loss.kind != KD_VAL_POISON)
            ok = add_network(E, nets[i], s->exprs[i + 2]->at, &all) && ok;
    }
    KdVal opt = kd_eval_expr(E, s->exprs[1]);
    if (opt.kind != KD_VAL_OPTIMIZER && opt.kind != KD_VAL_POISON)
        kd_elab_error(
            E, s->exprs[1]->at,
            "expected an optimiser: adam(...), adamw(...), sgd(...) or rmsprop(...), found %s",
            kd_val_describe(E, opt));
    if (!ok || opt.kind != KD_VAL_OPTIMIZER || already_pending(E, &all, s->span)) return;
    KdMap trained = weight_versions(E, &all);
    Flow w = flow_of(E, loss.t, &trained);
    if (stale_use(E, s, loss.t, &w, &trained) || !depends(E, s, loss.t, &w, nets)) return;
    E->b.loc = kd_elab_loc(E, s->span);
    KdValue t = ticks(E);
    int from = S->pending.n;
    KdMap seen = {.cx = E->cx};
    for (int i = 0; i < all.v.n; i++) {
        KdWeight *one = all.v.v[i];
        if (!in_reach(&w, loss.t, one->now) || kd_map_get(&seen, (uint64_t)(uintptr_t)one, NULL))
            continue;
        kd_map_put(&seen, (uint64_t)(uintptr_t)one, 1);
        KdValue fresh = step_weight(E, opt.opt, k, one, loss.t, t);
        if (!S->idle) kd_push(E->cx, &S->pending, (KdPending){one, fresh, kd_elab_loc(E, s->span)});
    }
    if (!S->together) apply_pending(E, from);
}

void kd_exec_together(KdElab *E, const KdStmt *s) {
    KdSession *S = E->session;
    if (S->together) {
        kd_elab_error(E, s->span, "one 'together' inside another means nothing more");
        return;
    }
    S->together++;
    kd_exec_block(E, &s->body);
    S->together--;
    apply_pending(E, 0);
}

void kd_exec_every(KdElab *E, const KdStmt *s) {
    KdSession *S = E->session;
    int64_t k;
    if (!kd_eval_int(E, s->exprs[0], "the number after 'every'", &k)) return;
    if (k < 1) {
        kd_elab_error(E, s->exprs[0]->at,
                      "'every' needs a number of iterations of at least 1, found %lld",
                      (long long)k);
        return;
    }
    if (S->every_now >= 0 || S->together) {
        kd_elab_error(E, s->span, "'every' stands in the session itself, not inside %s",
                      S->together ? "'together'" : "another 'every'");
        return;
    }
    if (S->every.n == KD_MAX_EVERY) {
        kd_elab_error(E, s->span, "a session has at most %d 'every' blocks", KD_MAX_EVERY);
        return;
    }
    S->every_now = S->every.n;
    kd_push(E->cx, &S->every, k);
    S->idle = !(S->mask >> S->every_now & 1);
    S->every_tick = KD_NONE;
    KdScope *scope = kd_scope_push(E);
    scope->every = true;
    kd_exec_block(E, &s->body);
    kd_scope_pop(E);
    S->idle = false;
    S->every_now = -1;
}

/* ---- log and show ---------------------------------------------------------------------------- */

static bool record_ok(KdElab *E, KdVal v, KdSpan at, bool log) {
    const KdType *t = v.kind == KD_VAL_TENSOR ? kd_val_type(E, v) : NULL;
    if (log && t && t->rank == 0 && t->dtype == KD_F32) return true;
    if (!log && t && t->rank == 4) return true;
    if (v.kind == KD_VAL_POISON || kd_elab_complained(E, at)) return false;
    if (log) {
        kd_elab_error(E, at, "'log' records single numbers, found %s", kd_val_describe(E, v));
        if (t) kd_hint(E->cx, "mean(...) makes one number of it");
    } else {
        kd_elab_error(E, at, "'show' shows images [n, c, h, w], found %s", kd_val_describe(E, v));
    }
    return false;
}

void kd_exec_record(KdElab *E, const KdStmt *s) {
    KdSession *S = E->session;
    bool log = s->kind == KD_STMT_LOG;
    for (int i = 0; i < s->n_exprs; i++) {
        KdSpan at = s->name_spans[i];
        if (!s->names[i]) {
            kd_eval_expr(E, s->exprs[i]);
            kd_elab_error(E, s->exprs[i]->at, "this needs a name: %s name = ...",
                          log ? "log" : "show");
            continue;
        }
        KdVal v = kd_eval_expr(E, s->exprs[i]);
        if (log && kd_is_number(v)) v = kd_to_tensor(E, v, KD_F32, at);
        if (!record_ok(E, v, at, log)) continue;
        bool twice = false;
        for (int k = 0; k < (log ? S->logs.n : S->shows.n); k++)
            twice = twice || (log ? S->logs.v : S->shows.v)[k].name == s->names[i];
        if (twice) {
            kd_elab_error(E, at, "'%s' is in the %s already", s->names[i],
                          log ? "log" : "sample grid");
            continue;
        }
        if (S->idle) continue;
        if (log)
            kd_push(E->cx, &S->logs, (KdRecord){s->names[i], v.t});
        else
            kd_push(E->cx, &S->shows, (KdRecord){s->names[i], v.t});
    }
}

/* ---- history: the image pool, methods.md A.1.3 ----------------------------------------------- */

static KdValue pick(KdElab *E, KdValue r, int64_t row, int64_t col) {
    int64_t begin[2] = {row, col}, end[2] = {row + 1, col + 1};
    return kd_reshape(&E->b, kd_slice(&E->b, r, begin, end, NULL), 0, NULL);
}

/* One image [1, ...] goes through the pool; n: how many went before. r: two random numbers in row
 * i. */
static KdValue pool_one(KdElab *E, KdValue image, KdValue *pool, KdValue n, int64_t capacity,
                        KdValue r, int64_t i) {
    KdBuilder *b = &E->b;
    const KdType *t = kd_vtype(E->f, image), *s = scalar_type(E);
    KdValue full = kd_binary(b, KD_OP_LE, kd_const(b, s, (double)capacity), n);
    KdValue swap = kd_binary(b, KD_OP_LT, kd_const(b, s, 0.5), pick(E, r, i, 0));
    KdValue place = kd_unary(b, KD_OP_FLOOR, kd_scale(b, pick(E, r, i, 1), (double)capacity));
    place = kd_binary(b, KD_OP_MINIMUM, place, kd_const(b, s, (double)(capacity - 1)));
    KdValue row = kd_where(b, full, kd_where(b, swap, place, kd_const(b, s, -1)), n);
    int64_t ones[KD_MAX_RANK] = {1, 1, 1, 1, 1, 1};
    KdValue index =
        kd_broadcast(b, kd_reshape(b, kd_cast(b, place, KD_I32), t->rank, ones), t->rank, t->dim);
    KdValue two[2] = {*pool, index};
    KdAttr axis = {.i = 0};
    KdValue stored = kd_build(b, KD_OP_GATHER, NULL, two, 2, &axis);
    KdValue out = kd_where(b, kd_binary(b, KD_OP_MUL, full, swap), stored, image);
    KdValue three[3] = {*pool, image, kd_cast(b, row, KD_I32)};
    *pool = kd_build(b, KD_OP_UPDATE_ROW, NULL, three, 3, NULL);
    return out;
}

KdVal kd_history(KdElab *E, KdVal v, int64_t capacity, KdSpan at) {
    KdSession *S = E->session;
    KdBuilder *b = &E->b;
    if (!S)
        return kd_elab_error(
            E, at, "'history' exists only in a session: it keeps images from step to step");
    const KdType *t = kd_val_type(E, v);
    if (t->rank < 1 || t->dtype != KD_F32 || t->count == 0)
        return kd_elab_error(E, at, "history: expected a batch of images, found %s",
                             kd_val_describe(E, v));
    if (!kd_elab_begin(E, at)) return kd_poison();
    KdValue x = kd_unary(b, KD_OP_DETACH, v.t);
    int64_t dim[KD_MAX_RANK], begin[KD_MAX_RANK] = {0}, end[KD_MAX_RANK], batch = t->dim[0];
    for (int d = 0; d < t->rank; d++)
        dim[d] = end[d] = t->dim[d];
    dim[0] = capacity;
    if (capacity == 0) return kd_tensor(x);
    const KdType *pool_type = kd_type(E->cx, KD_F32, t->rank, dim);
    if (!pool_type)
        return kd_elab_error(E, at, "history: %lld images of %s are too many", (long long)capacity,
                             kd_shape_text(E->cx, t));
    int k = state(E, kd_format(E->cx, "pool.%d", S->n_history++), pool_type);
    KdAttr a[2] = {{.i = E->streams++}, {.ints = {2, (int64_t[]){batch, 2}}}};
    KdValue in[2] = {S->seed, S->step_i32};
    KdValue r = kd_build(b, KD_OP_RANDOM, NULL, in, 2, a);
    const KdType *s = scalar_type(E);
    KdValue before =
        kd_scale(b, kd_binary(b, KD_OP_SUB, ticks(E), kd_const(b, s, 1)), (double)batch);
    KdValue pool = S->state[k].now, *out = KD_NEW_ARRAY(E->cx, KdValue, batch);
    for (int64_t i = 0; i < batch; i++) {
        begin[0] = i;
        end[0] = i + 1;
        KdValue n = kd_binary(b, KD_OP_ADD, before, kd_const(b, s, (double)i));
        out[i] = pool_one(E, kd_slice(b, x, begin, end, NULL), &pool, n, capacity, r, i);
    }
    if (!S->idle) S->state[k].now = pool;
    KdAttr axis = {.i = 0};
    return kd_elab_end(E, at, kd_build(b, KD_OP_CONCAT, NULL, out, (int)batch, &axis));
}

/* ---- begin and end --------------------------------------------------------------------------- */

void kd_session_begin(KdElab *E, const KdDef *def, unsigned mask) {
    KdSession *S = E->session = KD_NEW(E->cx, KdSession);
    S->def = def;
    S->mask = mask;
    S->every_now = -1;
    S->every_tick = KD_NONE;
    S->stale.cx = E->cx;
}

void kd_session_outputs(KdElab *E, KdSessionInfo *info) {
    KdSession *S = E->session;
    const char **logs = KD_NEW_ARRAY(E->cx, const char *, S->logs.n),
               **shows = KD_NEW_ARRAY(E->cx, const char *, S->shows.n);
    for (int i = 0; i < S->logs.n; i++) {
        logs[i] = S->logs.v[i].name;
        kd_output(E->f, kd_format(E->cx, "log.%s", logs[i]), S->logs.v[i].value, KD_NONE);
    }
    for (int i = 0; i < S->shows.n; i++) {
        shows[i] = S->shows.v[i].name;
        kd_output(E->f, kd_format(E->cx, "show.%s", shows[i]), S->shows.v[i].value, KD_NONE);
    }
    for (int i = 0; i < E->weights.n; i++) {
        KdWeight *w = E->weights.v[i];
        if (w->now != w->input) kd_output(E->f, w->path, w->now, w->input);
    }
    for (int i = 0; i < S->n_state; i++)
        if (S->state[i].now != S->state[i].input)
            kd_output(E->f, S->state[i].name, S->state[i].now, S->state[i].input);
    if (!info) return;
    *info = (KdSessionInfo){.name = S->def->name,
                            .from = S->def->from,
                            .n_every = S->every.n,
                            .every = S->every.v,
                            .n_logs = S->logs.n,
                            .logs = logs,
                            .n_shows = S->shows.n,
                            .shows = shows};
}
