/* loop_rebuild.c: what rewrites of kernels need: an old instruction again through the builder, and
 * the removal of what nothing uses.
 */
#include "ir/loop.h"

/* An integer constant of any type; i1 and u8 have no maker of their own. */
static KlValue constant(KlBuilder *b, const KlInstr *i, KlType t) {
    KlValue c = KL_NONE;
    switch ((KlScalar)t.scalar) {
    case KL_F32: c = kl_f32(b, i->fimm); break;
    case KL_I64: c = kl_i64(b, i->imm); break;
    case KL_I32: c = kl_i32(b, (int32_t)i->imm); break;
    case KL_U8: c = kl_cvt(b, KL_U8, kl_i32(b, (int32_t)i->imm)); break;
    case KL_I1: c = kl_cmp(b, KL_NE, kl_i32(b, (int32_t)i->imm), kl_i32(b, 0)); break;
    case KL_VOID: break;
    }
    return kl_splat(b, t.lanes, c);
}

KlValue kl_rebuild(KlBuilder *b, const KlInstr *i, const KlValue *in, KlType t) {
    KlOp op = (KlOp)i->op;
    int buf = (int)i->imm;
    switch (op) {
    case KL_OP_CONST: return constant(b, i, t);
    case KL_OP_IOTA: return kl_iota(b, (KlScalar)t.scalar, t.lanes);
    case KL_OP_ADD: case KL_OP_SUB: case KL_OP_MUL: case KL_OP_DIV: case KL_OP_REM: case KL_OP_MIN:
    case KL_OP_MAX: case KL_OP_AND: case KL_OP_OR: case KL_OP_XOR: case KL_OP_SHL:
    case KL_OP_SHR: return kl_op2(b, op, in[0], in[1]);
    case KL_OP_FMA: return kl_fma(b, in[0], in[1], in[2]);
    case KL_OP_NEG: case KL_OP_ABS: case KL_OP_SQRT: case KL_OP_FLOOR:
    case KL_OP_ROUND: return kl_op1(b, op, in[0]);
    case KL_OP_CMP: return kl_cmp(b, (KlPred)i->imm, in[0], in[1]);
    case KL_OP_SELECT: return kl_select(b, in[0], in[1], in[2]);
    case KL_OP_CVT: return kl_cvt(b, (KlScalar)i->type.scalar, in[0]);
    case KL_OP_BITCAST: return kl_bitcast(b, (KlScalar)i->type.scalar, in[0]);
    case KL_OP_SPLAT: return kl_splat(b, i->type.lanes, in[0]);
    case KL_OP_EXTRACT: return kl_extract(b, in[0], (int)i->imm);
    case KL_OP_SHUFFLE: return kl_shuffle(b, in[0], in[1], i->type.lanes, i->shuffle);
    case KL_OP_REDUCE_ADD: return kl_reduce(b, KL_OP_ADD, in[0]);
    case KL_OP_REDUCE_MAX: return kl_reduce(b, KL_OP_MAX, in[0]);
    case KL_OP_REDUCE_MIN: return kl_reduce(b, KL_OP_MIN, in[0]);
    case KL_OP_LOAD:
        return i->n_in > 1 ? kl_load_if(b, buf, in[0], in[1], in[2])
                           : kl_load(b, buf, in[0], i->type.lanes);
    case KL_OP_GATHER:
        return kl_gather(b, buf, in[0], i->n_in > 1 ? in[1] : KL_NONE,
                         i->n_in > 1 ? in[2] : KL_NONE);
    case KL_OP_PREFETCH: kl_prefetch(b, buf, in[0]); return KL_NONE;
    case KL_OP_STORE:
        if (i->n_in > 2) kl_store_if(b, buf, in[0], in[1], in[2]);
        else kl_store(b, buf, in[0], in[1]);
        return KL_NONE;
    case KL_OP_SCATTER:
        kl_scatter(b, buf, in[0], in[1], i->n_in > 2 ? in[2] : KL_NONE);
        return KL_NONE;
    case KL_OP_FOR: case KL_OP_IF: case KL_OP_YIELD: case KL_OP_COUNT: break;
    }
    kd_raise(b->cx, KD_FAIL_INTERNAL, "loop IR: a block cannot be rebuilt as one instruction");
}

/* ---- sweeping
 * ---------------------------------------------------------------------------------------  */

static bool removable(const KlInstr *i) {
    return i->op != KL_OP_STORE && i->op != KL_OP_SCATTER && i->op != KL_OP_PREFETCH && i->op != KL_OP_FOR &&
           i->op != KL_OP_IF && i->op != KL_OP_YIELD;
}

static bool writes(const KlBlock *block) {
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_STORE || i->op == KL_OP_SCATTER || (i->body && writes(i->body)))
            return true;
    }
    return false;
}

static bool used_results(const KlInstr *i, const bool *used) {
    for (int r = 0; r < i->n_results; r++)
        if (used[i->result + (KlValue)r]) return true;
    return false;
}

static bool live(const KlInstr *i, const bool *used) {
    if (!removable(i))
        return i->op == KL_OP_YIELD || !i->body || writes(i->body) || used_results(i, used);
    return used[i->result];
}

/* Backwards, so that what only dead instructions use is dead too. */
static void sweep_block(KlBlock *block, bool *used) {
    for (int j = block->instrs.n - 1; j >= 0; j--) {
        KlInstr *i = block->instrs.v[j];
        if (!live(i, used)) {
            block->instrs.v[j] = NULL;
            continue;
        }
        if (i->body) sweep_block(i->body, used);
        for (int k = 0; k < i->n_in; k++) used[i->in[k]] = true;
    }
    int n = 0;
    for (int j = 0; j < block->instrs.n; j++)
        if (block->instrs.v[j]) block->instrs.v[n++] = block->instrs.v[j];
    block->instrs.n = n;
}

void kl_sweep(KlKernel *k) {
    bool *used = KD_NEW_ARRAY(k->cx, bool, k->types.n);
    sweep_block(&k->body, used);
}
