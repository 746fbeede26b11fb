/* rewrite.c: rebuilds a function node by node; see rewrite.h. */
#include "passes/rewrite.h"

KdFunc *kd_rewrite(const KdFunc *f, const bool *keep, KdRewriteFn *fn, void *user) {
    KdFunc *g = kd_func_like(f);
    KdBuilder b = kd_builder(g);
    KdValue *to = KD_NEW_ARRAY(f->cx, KdValue, f->n);
    for (KdValue n = 0; n < f->n; n++) {
        const KdNode *old = kd_node(f, n);
        to[n] = KD_NONE;
        if (keep && !keep[n] && old->op != KD_OP_INPUT) continue;
        KdValue few[8], *in = old->n_in <= KD_COUNT(few) ? few : KD_NEW_ARRAY(f->cx, KdValue, old->n_in);
        for (int k = 0; k < old->n_in; k++) in[k] = to[old->in[k]];
        b.loc = old->loc;
        if (fn) to[n] = fn(&b, f, n, in, user);
        if (to[n] == KD_NONE) to[n] = kd_rebuild(&b, f, n, in);
        if (to[n] == KD_NONE)
            kd_raise(f->cx, KD_FAIL_INTERNAL, "%%%u (%s) could not be rebuilt", n, kd_op_info[old->op].name);
    }
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        kd_output(g, o->name, to[o->value], o->updates == KD_NONE ? KD_NONE : to[o->updates]);
    }
    return g;
}
