/* autodiff.c: reverse-mode differentiation of the graph.
 *
 * In: a function with `grad(loss, v)` nodes. Out: the same function with each of them replaced by the nodes that compute
 * d loss / d v; none is left. What is not connected gets zeros.
 *
 * The function is rebuilt in order. When the first grad of a loss is met, everything before it, inner gradients
 * included, already consists of ordinary nodes: one sweep from the loss down computes the adjoints of all values that
 * any grad of this loss asks for, calling each op's gradient rule once. Rules build ops, so the result can be
 * differentiated again: a gradient penalty is this pass meeting a second grad later on.
 *
 * Gradients flow only through nodes that lie between an asked value and the loss. They stop at `detach` and at optimiser
 * updates, whose rows say grad_none: an updated weight is a new leaf. Adjoints that meet are added in the order of
 * the sweep (latest user first), which is fixed by the graph, so the sum has one value. A repeated input is met by
 * every application of a network: each application's gradient is summed over the repetitions before they are added,
 * so that no application waits, with its large gradients, for another.
 */
#include "passes/passes.h"

typedef struct Sweep { /* all grads of one loss, in the old function */
    KdValue loss;
    KD_VEC(KdValue) wrt; /* old values asked for */
    KD_VEC(KdValue) adjoint; /* their gradients, new values; filled by the sweep */
    bool done;
} Sweep;

typedef struct Autodiff {
    KdContext *cx;
    const KdFunc *f; /* old */
    KdBuilder b;     /* new */
    KdValue *to;     /* old value -> new */
    KD_VEC(Sweep) sweeps;
    KdMap by_loss; /* old loss -> index of its sweep */
} Autodiff;

static void collect(Autodiff *a) {
    for (KdValue n = 0; n < a->f->n; n++) {
        const KdNode *node = kd_node(a->f, n);
        if (node->op != KD_OP_GRAD) continue;
        uint64_t at;
        if (!kd_map_get(&a->by_loss, node->in[0], &at)) {
            at = (uint64_t)a->sweeps.n;
            kd_map_put(&a->by_loss, node->in[0], at);
            kd_push(a->cx, &a->sweeps, (Sweep){.loss = node->in[0]});
        }
        kd_push(a->cx, &a->sweeps.v[at].wrt, node->in[1]);
    }
}

/* Which new values up to `loss` depend on an asked one (or are one). */
static bool *between(Autodiff *a, const Sweep *s, KdValue loss) {
    bool *on_path = KD_NEW_ARRAY(a->cx, bool, loss + 1);
    for (int i = 0; i < s->wrt.n; i++) {
        KdValue w = a->to[s->wrt.v[i]];
        if (w != KD_NONE && w <= loss) on_path[w] = true;
    }
    for (KdValue n = 0; n <= loss; n++) {
        const KdNode *node = kd_node(a->b.f, n);
        if (kd_op_info[node->op].grad == kd_op_info[KD_OP_DETACH].grad) continue; /* grad_none */
        for (int k = 0; k < node->n_in; k++) on_path[n] |= on_path[node->in[k]];
    }
    return on_path;
}

/* A bias or a scale, repeated over what it is added to or multiplied with. */
static bool is_repeated_input(const KdFunc *f, KdValue v) {
    if (kd_node(f, v)->op != KD_OP_BROADCAST) return false;
    while (kd_node(f, v)->op == KD_OP_BROADCAST || kd_node(f, v)->op == KD_OP_RESHAPE) v = kd_node(f, v)->in[0];
    return kd_node(f, v)->op == KD_OP_INPUT;
}

static void accumulate(Autodiff *a, KdValue *adjoint, KdValue v, KdValue g) {
    if (kd_vtype(a->b.f, g) != kd_vtype(a->b.f, v))
        kd_raise(a->cx, KD_FAIL_INTERNAL, "autodiff: the gradient of a %s is %s, not %s",
                 kd_op_info[kd_node(a->b.f, v)->op].name, kd_type_text(a->cx, kd_vtype(a->b.f, g)),
                 kd_type_text(a->cx, kd_vtype(a->b.f, v)));
    if (is_repeated_input(a->b.f, v)) { /* each gradient is summed at once */
        accumulate(a, adjoint, kd_node(a->b.f, v)->in[0], kd_sum_to(&a->b, g, kd_vtype(a->b.f, kd_node(a->b.f, v)->in[0])));
        return;
    }
    adjoint[v] = adjoint[v] == KD_NONE ? g : kd_binary(&a->b, KD_OP_ADD, adjoint[v], g);
}

static void sweep(Autodiff *a, Sweep *s) {
    KdValue loss = a->to[s->loss];
    bool *on_path = between(a, s, loss);
    KdValue *adjoint = KD_NEW_ARRAY(a->cx, KdValue, loss + 1);
    for (KdValue n = 0; n <= loss; n++) adjoint[n] = KD_NONE;
    adjoint[loss] = kd_const_like(&a->b, loss, 1);
    for (KdValue n = loss + 1; n-- > 0;) {
        const KdNode node = *kd_node(a->b.f, n); /* a copy: the array grows */
        bool inner = false;
        for (int k = 0; k < node.n_in; k++) inner |= on_path[node.in[k]];
        if (adjoint[n] == KD_NONE || !on_path[n] || !inner) continue;
        KdValue few[8], *gin = node.n_in <= KD_COUNT(few) ? few : KD_NEW_ARRAY(a->cx, KdValue, node.n_in);
        for (int k = 0; k < node.n_in; k++) gin[k] = KD_NONE;
        a->b.loc = node.loc;
        int errors = kd_error_count(a->cx);
        kd_op_info[node.op].grad(&a->b, n, adjoint[n], gin);
        if (kd_error_count(a->cx) != errors) /* never drop a gradient silently */
            kd_raise(a->cx, KD_FAIL_INTERNAL, "autodiff: the gradient rule of %s builds what is not allowed (%%%u)",
                     kd_op_info[node.op].name, n);
        for (int k = 0; k < node.n_in; k++)
            if (gin[k] != KD_NONE && on_path[node.in[k]]) accumulate(a, adjoint, node.in[k], gin[k]);
    }
    for (int i = 0; i < s->wrt.n; i++) {
        KdValue w = a->to[s->wrt.v[i]];
        kd_push(a->cx, &s->adjoint, w == KD_NONE || w > loss ? KD_NONE : adjoint[w]);
    }
    s->done = true;
}

static KdValue differentiate(Autodiff *a, const KdNode *grad) {
    uint64_t at = 0;
    kd_map_get(&a->by_loss, grad->in[0], &at);
    Sweep *s = &a->sweeps.v[at];
    if (!s->done) sweep(a, s);
    KdValue found = KD_NONE;
    for (int i = 0; i < s->wrt.n && found == KD_NONE; i++)
        if (s->wrt.v[i] == grad->in[1]) found = s->adjoint.v[i];
    return found == KD_NONE ? kd_zero_like(&a->b, a->to[grad->in[1]]) : found;
}

KdFunc *kd_pass_autodiff(const KdFunc *f) {
    Autodiff a = {.cx = f->cx, .f = f, .b = kd_builder(kd_func_like(f))};
    a.by_loss.cx = f->cx;
    a.to = KD_NEW_ARRAY(f->cx, KdValue, f->n);
    for (KdValue n = 0; n < f->n; n++) a.to[n] = KD_NONE;
    collect(&a);
    for (KdValue n = 0; n < f->n; n++) {
        const KdNode *node = kd_node(f, n);
        if (node->op == KD_OP_GRAD) {
            a.b.loc = node->loc;
            a.to[n] = differentiate(&a, node);
            continue;
        }
        KdValue few[8], *in = node->n_in <= KD_COUNT(few) ? few : KD_NEW_ARRAY(f->cx, KdValue, node->n_in);
        for (int k = 0; k < node->n_in; k++) in[k] = a.to[node->in[k]];
        a.to[n] = kd_rebuild(&a.b, f, n, in);
        if (a.to[n] == KD_NONE)
            kd_raise(f->cx, KD_FAIL_INTERNAL, "autodiff: %%%u (%s) could not be rebuilt", n, kd_op_info[node->op].name);
    }
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        kd_output(a.b.f, o->name, a.to[o->value], o->updates == KD_NONE ? KD_NONE : a.to[o->updates]);
    }
    return a.b.f;
}
