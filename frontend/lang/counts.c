/* counts.c: multiply-accumulates and parameters of a function as it was elaborated, before
 * gradients: methods.md A.5.
 *
 * One multiply-add for each use of a weight; bias, norms and activations are left out, and what is made
 * of weights alone (spectral norm), which an exported network has no more. A transposed convolution is
 * counted in three ways: not at all, by its input's pixels (the true work), by its output's pixels.
 * Only what an output needs counts.
 */
#include "frontend/lang/lang.h"

#include <string.h>

static bool *live_nodes(const KdFunc *f) {
    bool *live = KD_NEW_ARRAY(f->cx, bool, f->n);
    for (int i = 0; i < f->outputs.n; i++)
        live[f->outputs.v[i].value] = true;
    for (KdValue v = f->n; v-- > 0;)
        for (int i = 0; live[v] && i < f->nodes[v].n_in; i++)
            live[f->nodes[v].in[i]] = true;
    return live;
}

/* Which nodes change with the inputs; the others are functions of weights and constants. */
static bool *varying_nodes(const KdFunc *f) {
    bool *varies = KD_NEW_ARRAY(f->cx, bool, f->n);
    for (int i = 0; i < f->inputs.n; i++) {
        KdRole role = kd_input_role(f, f->inputs.v[i]);
        varies[f->inputs.v[i]] = role == KD_DATA || role == KD_STATE;
    }
    for (KdValue v = 0; v < f->n; v++)
        for (int i = 0; i < f->nodes[v].n_in; i++)
            varies[v] = varies[v] || varies[f->nodes[v].in[i]];
    return varies;
}

KdMacs kd_lang_macs(const KdFunc *f) {
    KdMacs m = {0};
    bool *live = live_nodes(f), *varies = varying_nodes(f);
    for (KdValue v = 0; v < f->n; v++) {
        const KdNode *n = kd_node(f, v);
        if (!live[v] || !varies[v]) continue;
        if (n->op == KD_OP_MATMUL) {
            const KdType *x = kd_vtype(f, n->in[0]);
            double inner = (double)x->dim[x->rank - (kd_attr_int(f, n, "ta") ? 2 : 1)],
                   all = (double)n->type->count * inner;
            m.no_t += all;
            m.t_in += all;
            m.t_out += all;
        } else if (n->op == KD_OP_CONV2D) {
            const KdType *w = kd_vtype(f, n->in[1]);
            double all = (double)n->type->count * (double)(w->dim[1] * w->dim[2] * w->dim[3]);
            m.no_t += all;
            m.t_in += all;
            m.t_out += all;
        } else if (n->op == KD_OP_CONV_TRANSPOSE2D) {
            const KdType *x = kd_vtype(f, n->in[0]), *w = kd_vtype(f, n->in[1]);
            double each = (double)(w->dim[1] * w->dim[2] * w->dim[3]); /* of one input element */
            m.t_in += (double)x->count * each;
            m.t_out += (double)x->dim[0] * (double)x->dim[1] *
                       (double)(n->type->dim[2] * n->type->dim[3]) * each;
        }
    }
    return m;
}

/* What v is a broadcast or another shape of. */
static KdValue origin(const KdFunc *f, KdValue v) {
    while (f->nodes[v].op == KD_OP_BROADCAST || f->nodes[v].op == KD_OP_RESHAPE)
        v = f->nodes[v].in[0];
    return v;
}

static bool contraction(const KdFunc *f, KdValue v) {
    int op = f->nodes[v].op;
    return op == KD_OP_CONV2D || op == KD_OP_CONV_TRANSPOSE2D || op == KD_OP_MATMUL;
}

static bool vector_of_weights(const KdFunc *f, KdValue v) {
    if (f->nodes[v].op != KD_OP_INPUT || kd_vtype(f, v)->rank != 1) return false;
    KdRole role = kd_input_role(f, v);
    return role == KD_WEIGHT || role == KD_FROZEN;
}

KdElements kd_lang_elements(const KdFunc *f) {
    KdElements e = {0};
    bool *live = live_nodes(f), *varies = varying_nodes(f);
    bool *normed = KD_NEW_ARRAY(f->cx, bool, f->n);
    for (KdValue v = 0; v < f->n; v++) {
        const KdNode *n = kd_node(f, v);
        double count = (double)n->type->count;
        if (!live[v] || !varies[v]) continue;
        if (contraction(f, v)) e.results += count;
        if (n->op == KD_OP_RELU || n->op == KD_OP_LEAKY_RELU || n->op == KD_OP_TANH ||
            n->op == KD_OP_SIGMOID)
            e.activations += count;
        if (n->op == KD_OP_PAD_REFLECT || n->op == KD_OP_PAD_REPLICATE || n->op == KD_OP_POOL_SUM ||
            n->op == KD_OP_MAX_POOL_INDEX || n->op == KD_OP_UPSAMPLE_NEAREST)
            e.moved += count;
        for (int k = 0; k < 2 && (n->op == KD_OP_MUL || n->op == KD_OP_ADD); k++) {
            KdValue by = origin(f, n->in[k]), to = origin(f, n->in[1 - k]);
            if (n->op == KD_OP_ADD) {
                e.biases += vector_of_weights(f, by) && contraction(f, to) ? count : 0;
            } else if (f->nodes[by].op == KD_OP_RSQRT) {
                normed[v] = true;
                e.norms += count;
            } else if (vector_of_weights(f, by) && normed[to]) {
                e.scales += count;
            }
        }
    }
    return e;
}

double kd_lang_layer_bytes(const KdFunc *f) {
    KdElements e = kd_lang_elements(f);
    return 4 * (e.results + e.norms + e.activations + e.moved);
}

int64_t kd_lang_parameters(const KdFunc *f) {
    int64_t n = 0;
    for (int i = 0; i < f->inputs.n; i++) {
        KdRole role = kd_input_role(f, f->inputs.v[i]);
        if (role == KD_WEIGHT || role == KD_FROZEN) n += kd_vtype(f, f->inputs.v[i])->count;
    }
    return n;
}
