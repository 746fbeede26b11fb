/* vectorize.h: what the halves of the vectoriser share (vectorize.c: which loops, and their shape; vector_lanes.c: what
 * becomes of one instruction). Private to them.
 *
 * While a loop is widened by W, an old scalar value stands for W new ones, in one of three forms:
 *   UNIFORM  the same in every lane: one scalar v
 *   PATTERN  an integer v + off[lane] with constant offsets, off[0] = 0: index arithmetic stays scalar
 *   VECTOR   a vector v of W lanes. Of an i64: i32 lanes of the same values where these are known to fit, else i64
 */
#ifndef KL_VECTORIZE_H
#define KL_VECTORIZE_H

#include "ir/loop.h"

typedef enum KlForm { KL_UNIFORM, KL_PATTERN, KL_VECTOR } KlForm;

typedef struct KlLanes {
    KlForm form;
    bool wide; /* a VECTOR of an i64 that has i64 lanes */
    KlValue v;
    const int32_t *off;
} KlLanes;

typedef struct KlWiden {
    KdContext *cx;
    const KlKernel *old;
    KlBuilder b;            /* of the new kernel */
    KlLanes *lanes;         /* by old value */
    const KlInstr **def;    /* by old value: its instruction; of a loop variable: the loop */
    bool *varying;          /* by old value, of the loop being widened: may differ between lanes */
    bool *ready;            /* by old value: a load that was moved before the loop */
    int w;                  /* lanes of the loop being widened, or 1 */
    const KlInstr *loop;    /* which it is */
    KlValue mask;           /* lanes that take part, or KL_NONE for all */
    bool guarded;           /* maybe none does: inside an if whose condition varies */
} KlWiden;

/* One instruction that is no for, if or yield: e->lanes of its result. */
void kl_widen_instr(KlWiden *e, const KlInstr *i);
/* As a vector whatever the form; i64 lanes for i64 values. */
KlValue kl_widen_vector(KlWiden *e, KlValue old);
KlLanes kl_uniform(KlValue v);
/* v + lane * stride */
KlLanes kl_progression(KlWiden *e, KlValue v, int64_t stride);

#endif
