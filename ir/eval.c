/* eval.c: the reference: a function's values in double precision, one node after the other.
 *
 * In: one dense row-major array of doubles per input. Out: one per output, the caller's. Each node that some output
 * needs is computed by its op's naive `eval`; a value's memory is freed after its last reader. Nothing is rounded to
 * float, so this is what compiled code approximates, not what it repeats bit for bit.
 */
#include <stdlib.h>
#include <string.h>

#include "ir/ir.h"

typedef struct Eval {
    const KdFunc *f;
    double **value;    /* by node: what it computed, ours to free; NULL for inputs */
    const double **at; /* by node: where its elements are */
    uint32_t *last;    /* by node: its last reader; 0: not needed (no node is read by node 0) */
} Eval;

static void find_last_readers(Eval *e) {
    const KdFunc *f = e->f;
    for (int k = 0; k < f->outputs.n; k++) e->last[f->outputs.v[k].value] = f->n;
    for (KdValue v = f->n; v-- > 0;) {
        if (!e->last[v]) continue;
        for (int k = 0; k < f->nodes[v].n_in; k++) {
            uint32_t *last = &e->last[f->nodes[v].in[k]];
            if (*last < v) *last = v;
        }
    }
}

static void free_values(Eval *e) {
    for (KdValue v = 0; v < e->f->n; v++) free(e->value[v]);
}

static void eval_node(Eval *e, KdValue v, const double **in) {
    const KdNode *n = &e->f->nodes[v];
    const KdOpInfo *op = &kd_op_info[n->op];
    if (op->cls == KD_META) {
        free_values(e);
        kd_raise(e->f->cx, KD_FAIL_INTERNAL, "eval: `%s` must be expanded first (%%%u)", op->name, v);
    }
    for (int k = 0; k < n->n_in; k++) in[k] = e->at[n->in[k]];
    e->value[v] = calloc((size_t)n->type->count + 1, sizeof(double)); /* never 0 bytes */
    if (!e->value[v]) {
        free_values(e);
        kd_raise(e->f->cx, KD_FAIL_MACHINE, "out of memory (evaluating `%s`)", op->name);
    }
    op->eval(e->f, n, in, e->value[v]);
    e->at[v] = e->value[v];
    for (int k = 0; k < n->n_in; k++) {
        if (e->last[n->in[k]] != v) continue;
        free(e->value[n->in[k]]);
        e->value[n->in[k]] = NULL;
    }
}

void kd_eval(const KdFunc *f, const double *const *in, double *const *out) {
    Eval e = {f, KD_NEW_ARRAY(f->cx, double *, f->n), KD_NEW_ARRAY(f->cx, const double *, f->n),
              KD_NEW_ARRAY(f->cx, uint32_t, f->n)};
    find_last_readers(&e);
    for (int k = 0; k < f->inputs.n; k++) e.at[f->inputs.v[k]] = in[k];
    int widest = 1;
    for (KdValue v = 0; v < f->n; v++)
        if (f->nodes[v].n_in > widest) widest = f->nodes[v].n_in;
    const double **operands = KD_NEW_ARRAY(f->cx, const double *, widest);
    for (KdValue v = 0; v < f->n; v++)
        if (e.last[v] && f->nodes[v].op != KD_OP_INPUT) eval_node(&e, v, operands);
    for (int k = 0; k < f->outputs.n; k++) {
        KdValue v = f->outputs.v[k].value;
        memcpy(out[k], e.at[v], (size_t)kd_vtype(f, v)->count * sizeof(double));
    }
    free_values(&e);
}
