/* dce.c: dead code. In: any function. Out: the same without nodes that no output needs; inputs stay, since they are
 * the function's interface. */
#include "passes/rewrite.h"

KdFunc *kd_pass_dce(const KdFunc *f) {
    bool *live = KD_NEW_ARRAY(f->cx, bool, f->n);
    for (int i = 0; i < f->outputs.n; i++) live[f->outputs.v[i].value] = true;
    for (KdValue n = f->n; n-- > 0;)
        for (int k = 0; live[n] && k < f->nodes[n].n_in; k++) live[f->nodes[n].in[k]] = true;
    return kd_rewrite(f, live, NULL, NULL);
}
