/* elem.c: row-major indices as loop IR.
 *
 * Both directions go through the same chain of quotients, so that the builder folds one after the
 * other away: r = q * n + (r rem n) where q = r div n. Dims of size 1 have index 0 and take no
 * part.
 */
#include "ir/elem.h"

KlValue kd_linear_index(KlBuilder *b, const KdType *t, const KlValue *idx) {
    KlValue linear = KL_NONE;
    for (int d = 0; d < t->rank; d++) {
        if (t->dim[d] == 1) continue;
        if (linear == KL_NONE) {
            linear = idx[d];
        } else {
            KlValue row = kl_op2(b, KL_OP_MUL, linear, kl_i64(b, t->dim[d]));
            linear = kl_op2(b, KL_OP_ADD, row, idx[d]);
        }
    }
    return linear == KL_NONE ? kl_i64(b, 0) : linear;
}

void kd_unlinear_index(KlBuilder *b, const KdType *t, KlValue linear, KlValue *idx) {
    int first = 0; /* the outermost dim that is not 1: what is left belongs to it */
    while (first < t->rank && t->dim[first] == 1) first++;
    for (int d = t->rank - 1; d >= 0; d--) {
        if (t->dim[d] == 1) {
            idx[d] = kl_i64(b, 0);
        } else if (d == first) {
            idx[d] = linear;
        } else {
            KlValue n = kl_i64(b, t->dim[d]);
            idx[d] = kl_op2(b, KL_OP_REM, linear, n);
            linear = kl_op2(b, KL_OP_DIV, linear, n);
        }
    }
}
