/* freeze.c: once gradients are nodes, `detach` has said what it had to say: it becomes its operand, and what the builder
 * can now simplify it does (rebuilding runs every node through its rules again). */
#include "passes/rewrite.h"

static KdValue undetach(KdBuilder *b, const KdFunc *f, KdValue n, const KdValue *in, void *user) {
    (void)b;
    (void)user;
    return kd_node(f, n)->op == KD_OP_DETACH ? in[0] : KD_NONE;
}

KdFunc *kd_pass_freeze(const KdFunc *f) { return kd_rewrite(f, NULL, undetach, NULL); }
