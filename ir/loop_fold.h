/* loop_fold.h: what the halves of the loop builder share (loop_build.c, loop_fold.c). Private to them.
 *
 * The builder remembers of every value: who defines it, at which nesting level, and between which bounds it lies.
 * A pure instruction is appended to the outermost open block that sees its operands (so loop invariants are computed
 * outside their loops), and only if no equal one is visible. For that reason a loop is appended to its block when it
 * ends, not when it begins.
 */
#ifndef KL_LOOP_FOLD_H
#define KL_LOOP_FOLD_H

#include "ir/loop.h"

typedef struct KlFact {
    KlInstr *def; /* NULL: a block's parameter, or not known to this builder */
    int64_t lo, hi; /* bounds of an integer value; of every lane if it is a vector */
    int level;    /* of the block that defines it */
} KlFact;

typedef struct KlLevel {
    KlBlock *block;
    bool guarded; /* an `if`: what is costly or may trap stays inside */
} KlLevel;

typedef struct KlShared { /* an instruction that may be used again */
    uint64_t hash;
    KlInstr *instr;
    KlBlock *block;
    int level, next, writes;
} KlShared;

struct KlScope {
    KD_VEC(KlFact) facts;    /* by value */
    KD_VEC(KlLevel) levels;  /* open blocks, outermost first */
    KD_VEC(KlShared) shared; /* chained by hash through `next` */
    int *heads;
    int n_heads; /* a power of two */
    KD_VEC(int) writes; /* by buffer: how often it was written so far */
};

/* The instruction (op, type, operands, immediates), shared or appended; lo..hi are the bounds of its result. */
KlValue kl_pure(KlBuilder *b, const KlInstr *proto, int64_t lo, int64_t hi);
KlFact kl_fact(const KlBuilder *b, KlValue v);
static inline KlInstr *kl_def(const KlBuilder *b, KlValue v) { return kl_fact(b, v).def; }
KlValue kl_int(KlBuilder *b, KlType t, int64_t c); /* wraps c to the type */
KlValue kl_float(KlBuilder *b, KlType t, double c);
bool kl_is_float_const(const KlBuilder *b, KlValue v, float *c);
bool kl_is_integer(KlScalar s);
void kl_scalar_range(KlScalar s, int64_t *lo, int64_t *hi);
int64_t kl_wrap(KlScalar s, int64_t c);

/* loop_fold.c. Operands have equal types and are not splat further; KL_NONE: nothing to fold. */
KlValue kl_fold_int2(KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y);
KlValue kl_fold_float2(KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y);
KlValue kl_fold_op1(KlBuilder *b, KlOp op, KlType t, KlValue x);
KlValue kl_fold_cmp(KlBuilder *b, KlPred p, KlType t, KlValue x, KlValue y); /* t: of the mask */
void kl_range_op2(const KlBuilder *b, KlOp op, KlType t, KlValue x, KlValue y, int64_t *lo, int64_t *hi);

/* loop_identity.c */
void kl_identity(KdStr *out, const KlKernel *k);

#endif
