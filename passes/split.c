/* split.c: what is made of the elements of a big product, in a form that suits computing it block by block
 * (fuse_stream.c).
 *
 * In: any function. Out: the same, but of values that are elementwise in a product which may be streamed,
 *   - a sum over both of the last dims (1s aside) is two sums: over the last dim, then over the rest. So a mean over
 *     all pairs (a distance of two similarity matrices) folds rows, and the product need not be in memory for it;
 *   - a division by a constant is a multiplication by its reciprocal, since these values are computed more than once.
 *     That may differ in the last bit.
 */
#include "passes/fuse.h"
#include "passes/rewrite.h"

#include <math.h>

/* Whether the node is elementwise in such a product, by node of the old function. */
static bool *find_pairs(const KdFunc *f) {
    bool *pairs = KD_NEW_ARRAY(f->cx, bool, f->n + 1);
    for (KdValue v = 0; v < f->n; v++) {
        const KdNode *n = kd_node(f, v);
        KdDomain d = kd_domain(n->type);
        pairs[v] = kd_may_stream(f, v);
        bool passes = kd_class(f, v) == KD_ELEMENTWISE || kd_is_view(f, v);
        for (int k = 0; k < n->n_in && passes; k++) {
            pairs[v] = pairs[v] || (pairs[n->in[k]] && kd_domain_is(&d, kd_vtype(f, n->in[k])));
        }
    }
    return pairs;
}

static KdValue multiply_instead(KdBuilder *b, const KdFunc *f, const KdNode *n, const KdValue *in) {
    const KdNode *by = kd_node(f, n->in[1]);
    if (by->op != KD_OP_CONST || n->type->dtype != KD_F32) {
        return KD_NONE;
    }
    float c = (float)(1 / (double)(float)kd_attr_float(f, by, "value"));
    return isnormal(c) ? kd_binary(b, KD_OP_MUL, in[0], kd_const_like(b, in[0], c)) : KD_NONE;
}

static KdValue split_node(KdBuilder *b, const KdFunc *f, KdValue v, const KdValue *in, void *user) {
    const KdNode *n = kd_node(f, v);
    const bool *pairs = user;
    if (n->op == KD_OP_DIV && pairs[n->in[0]]) {
        return multiply_instead(b, f, n, in);
    }
    if (n->op != KD_OP_SUM || !pairs[n->in[0]]) {
        return KD_NONE;
    }
    const KdType *t = kd_vtype(f, n->in[0]);
    KdDomain d = kd_domain_reduced(t, n->type);
    if (d.n < 2 || !d.reduced[d.n - 1] || !d.reduced[d.n - 2]) {
        return KD_NONE;
    }
    int64_t last = t->rank - 1, axes[KD_MAX_RANK];
    while (t->dim[last] == 1) {
        last--;
    }
    int rest = 0;
    for (int64_t r = 0; r < t->rank; r++) {
        if (n->type->dim[r] != t->dim[r] && r != last) {
            axes[rest++] = r;
        }
    }
    return kd_sum(b, kd_sum(b, in[0], 1, &last), rest, axes);
}

KdFunc *kd_pass_split(const KdFunc *f) {
    return kd_rewrite(f, NULL, split_node, find_pairs(f));
}
