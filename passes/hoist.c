/* hoist.c: see hoist.h. A value is `still` if it depends on no data; one made of weights is taken out where something
 * uses it that is not still, provided a sum or product is in it: reshaping a bias, or the root of a variance, fuses
 * into its user. */
#include "passes/hoist.h"

#include <string.h>

typedef struct Marks {
    const KdFunc *f;
    bool *still, *heavy; /* by node; heavy: still, with a sum or product of weights in it */
    KdValue *weight;     /* by node: the largest weight that it comes from; KD_NONE: none */
    bool *out;           /* taken out */
    bool *early, *late;  /* what `before` and `after` compute */
} Marks;

static void mark(Marks *m, KdValue v) {
    const KdNode *n = kd_node(m->f, v);
    m->weight[v] = KD_NONE;
    m->still[v] = true;
    if (n->op == KD_OP_INPUT) {
        KdRole role = kd_input_role(m->f, v);
        m->still[v] = role == KD_WEIGHT || role == KD_BUFFER || role == KD_FROZEN;
        m->weight[v] = m->still[v] ? v : KD_NONE;
        return;
    }
    KdClass class = kd_op_info[n->op].cls;
    m->heavy[v] = class == KD_ANCHOR || class == KD_REDUCE;
    for (int k = 0; k < n->n_in; k++) {
        KdValue w = m->weight[n->in[k]];
        m->still[v] = m->still[v] && m->still[n->in[k]];
        m->heavy[v] = m->heavy[v] || m->heavy[n->in[k]];
        KdValue most = m->weight[v];
        if (w != KD_NONE && (most == KD_NONE || kd_vtype(m->f, w)->count > kd_vtype(m->f, most)->count)) {
            m->weight[v] = w;
        }
    }
    m->heavy[v] = m->heavy[v] && m->still[v] && m->weight[v] != KD_NONE;
}

/* live: by node, which the roots need; those in `stop` are leaves. */
static void reach(const KdFunc *f, bool *live, const bool *stop) {
    for (KdValue v = f->n; v-- > 0;) {
        for (int k = 0; live[v] && !(stop && stop[v]) && k < f->nodes[v].n_in; k++) {
            live[f->nodes[v].in[k]] = true;
        }
    }
}

static bool find(Marks *m) {
    bool any = false;
    const KdFunc *f = m->f;
    for (KdValue v = 0; v < f->n; v++) {
        mark(m, v);
        for (int k = 0; k < f->nodes[v].n_in && !m->still[v]; k++) {
            KdValue in = f->nodes[v].in[k];
            m->out[in] = m->out[in] || m->heavy[in];
        }
    }
    for (int i = 0; i < f->outputs.n; i++) {
        m->out[f->outputs.v[i].value] = m->out[f->outputs.v[i].value] || m->heavy[f->outputs.v[i].value];
        m->late[f->outputs.v[i].value] = true;
    }
    reach(f, m->late, m->out);
    for (KdValue v = 0; v < f->n; v++) {
        m->out[v] = m->out[v] && m->late[v];
        m->early[v] = m->out[v];
        any = any || m->out[v];
    }
    reach(f, m->early, NULL);
    return any;
}

/* "conv.weight_orig" makes "conv.weight"; with a number behind it where that is somebody's name already. */
static const char *name_of(const Marks *m, KdValue v, const KdFunc *taken) {
    KdContext *cx = m->f->cx;
    const char *weight = kd_attr_str(m->f, kd_node(m->f, m->weight[v]), "name");
    size_t n = strlen(weight), tail = strlen("_orig");
    n -= n > tail && strcmp(weight + n - tail, "_orig") == 0 ? tail : 0;
    const char *name = kd_intern(cx, weight, n);
    for (int k = 1; kd_find_input(m->f, name) != KD_NONE || kd_find_input(taken, name) != KD_NONE; k++) {
        name = kd_intern_z(cx, kd_format(cx, "%.*s_%d", (int)n, weight, k));
    }
    return name;
}

static KdValue copy(KdBuilder *b, const KdFunc *f, KdValue v, const KdValue *to) {
    const KdNode *n = kd_node(f, v);
    KdValue *in = KD_NEW_ARRAY(f->cx, KdValue, n->n_in + 1);
    for (int k = 0; k < n->n_in; k++) {
        in[k] = to[n->in[k]];
    }
    KdValue made = kd_rebuild(b, f, v, in);
    if (made == KD_NONE) {
        kd_raise(f->cx, KD_FAIL_INTERNAL, "hoist: %%%u (%s) could not be rebuilt", v, kd_op_info[n->op].name);
    }
    return made;
}

static bool is_data(const KdFunc *f, KdValue v) {
    KdRole role = kd_input_role(f, v);
    return role == KD_DATA || role == KD_STATE;
}

bool kd_hoist(const KdFunc *f, KdFunc **before, KdFunc **after) {
    KdContext *cx = f->cx;
    Marks m = {f, KD_NEW_ARRAY(cx, bool, f->n), KD_NEW_ARRAY(cx, bool, f->n), KD_NEW_ARRAY(cx, KdValue, f->n),
               KD_NEW_ARRAY(cx, bool, f->n), KD_NEW_ARRAY(cx, bool, f->n), KD_NEW_ARRAY(cx, bool, f->n)};
    if (!find(&m)) {
        return false;
    }
    *before = kd_func_like(f);
    *after = kd_func_like(f);
    KdBuilder early = kd_builder(*before), late = kd_builder(*after);
    KdValue *to_early = KD_NEW_ARRAY(cx, KdValue, f->n), *to_late = KD_NEW_ARRAY(cx, KdValue, f->n);
    for (KdValue v = 0; v < f->n; v++) {
        bool input = kd_node(f, v)->op == KD_OP_INPUT;
        if (m.early[v] && !(input && is_data(f, v))) {
            to_early[v] = copy(&early, f, v, to_early);
        }
        if (m.out[v]) {
            const char *name = name_of(&m, v, *after);
            to_late[v] = kd_input(&late, name, kd_input_role(f, m.weight[v]), kd_vtype(f, v), "");
            kd_output(*before, name, to_early[v], KD_NONE);
        } else if (m.late[v] || (input && !m.early[v])) {
            to_late[v] = copy(&late, f, v, to_late);
        }
    }
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        kd_output(*after, o->name, to_late[o->value], o->updates == KD_NONE ? KD_NONE : to_late[o->updates]);
    }
    return true;
}
