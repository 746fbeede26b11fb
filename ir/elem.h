/* elem.h: element rules: "what is the element of your result at these indices?"
 *
 * A rule emits scalar loop IR through e->b and asks e for its operands' elements. Whether an operand's
 * element is loaded from memory or computed in place is the group's business (passes/lower.c): so fusion
 * is composition, and a rule never knows what it was fused with. Rules emit scalars only; the vectoriser
 * widens whole loops afterwards. Elements are KL_F32 for f32, KL_I32 for i32 and for u8 (0..255).
 * Indices are scalar KL_I64, one per dimension of the node's type, always in range.
 *
 * A KD_REDUCE, KD_WINDOW or KD_ANCHOR rule opens loops (with kl_for_begin); lower.c and the schedules have
 * better ways for those, but the rule is always right and serves as the generic path.
 */
#ifndef KD_ELEM_H
#define KD_ELEM_H

#include "ir/ir.h"
#include "ir/loop.h"

struct KdElem {
    KlBuilder *b;
    const KdFunc *f;
    /* The element of operand k of node n at idx. */
    KlValue (*operand)(KdElem *e, KdValue n, int k, const KlValue *idx);
    /* The same by row-major linear index (one i64): what reshape uses, exact when the operand is in memory. */
    KlValue (*operand_linear)(KdElem *e, KdValue n, int k, KlValue linear);
    /* Guarded: the element where cond (i1) holds, else `els`; idx is only in range where cond holds. */
    KlValue (*operand_if)(KdElem *e, KdValue n, int k, const KlValue *idx, KlValue cond, KlValue els);
    void *user; /* the owner's */
};

/* Row-major linear index of idx in type t, and back. */
KlValue kd_linear_index(KlBuilder *b, const KdType *t, const KlValue *idx);
void kd_unlinear_index(KlBuilder *b, const KdType *t, KlValue linear, KlValue *idx);

static inline KlValue kd_elem(KdElem *e, KdValue n, const KlValue *idx) {
    return kd_op_info[e->f->nodes[n].op].elem(e, n, idx);
}

#endif
