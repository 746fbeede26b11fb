/* emit_expr.c: the PURE instructions of the loop IR as LLVM instructions, scalar and vector alike.
 *
 * What must not break: bits. No fast-math flags are ever set, min and max are a comparison and a select in loop.h's
 * order, trees of reductions are written out, and an operation that the target has no instruction for is computed
 * exactly from ones it has, because LLVM would call libm, and generated code calls nothing but the runtime:
 *   round, floor   x + 2^23 - 2^23 rounds to even where a float has fraction bits at all (|x| < 2^23)
 *   fma            in double: the product is exact, the sum is rounded to odd (Boldo, Melquiond: "Emulation of a FMA
 *                  and correctly rounded sums: proved algorithms using rounding to odd"), then to float once
 */
#include "codegen/internal.h"

#include <string.h>

LLVMTypeRef kd_emit_type(const KdEmitter *e, KlType t) {
    LLVMTypeRef s = e->empty;
    switch ((KlScalar)t.scalar) {
    case KL_VOID: return e->empty;
    case KL_I1: s = e->i1; break;
    case KL_U8: s = e->i8; break;
    case KL_I32: s = e->i32; break;
    case KL_I64: s = e->i64; break;
    case KL_F32: s = e->f32; break;
    }
    return t.lanes == 1 ? s : LLVMVectorType(s, t.lanes);
}

LLVMValueRef kd_emit_intrinsic(KdEmitter *e, const char *name, LLVMTypeRef *types, int n_types,
                               LLVMValueRef *args, int n_args) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    LLVMValueRef f = LLVMGetIntrinsicDeclaration(e->module, id, types, (size_t)n_types);
    return LLVMBuildCall2(e->b, LLVMGlobalGetValueType(f), f, args, (unsigned)n_args, "");
}

/* The type with t's lanes and another element. */
static LLVMTypeRef lanes_of(LLVMTypeRef scalar, KlType t) {
    return t.lanes == 1 ? scalar : LLVMVectorType(scalar, t.lanes);
}

static LLVMValueRef splat_const(LLVMValueRef c, int lanes) {
    LLVMValueRef all[64];
    if (lanes == 1)
        return c;
    for (int i = 0; i < lanes; i++)
        all[i] = c;
    return LLVMConstVector(all, (unsigned)lanes);
}

static LLVMValueRef const_f32(KdEmitter *e, KlType t, double c) {
    return splat_const(LLVMConstReal(e->f32, c), t.lanes);
}

static LLVMValueRef const_int(LLVMTypeRef scalar, KlType t, int64_t c) {
    return splat_const(LLVMConstInt(scalar, (unsigned long long)c, true), t.lanes);
}

static LLVMValueRef unary(KdEmitter *e, const char *name, LLVMTypeRef type, LLVMValueRef x) {
    return kd_emit_intrinsic(e, name, &type, 1, &x, 1);
}

static LLVMValueRef emit_round(KdEmitter *e, KlType t, LLVMValueRef x) {
    LLVMTypeRef type = kd_emit_type(e, t);
    if (e->isa.round)
        return unary(e, "llvm.roundeven", type, x);
    LLVMValueRef big = const_f32(e, t, 0x1p23), size = unary(e, "llvm.fabs", type, x);
    LLVMValueRef whole = LLVMBuildFSub(e->b, LLVMBuildFAdd(e->b, size, big, ""), big, "");
    LLVMValueRef with_sign[2] = {whole, x};
    LLVMValueRef r = kd_emit_intrinsic(e, "llvm.copysign", &type, 1, with_sign, 2);
    return LLVMBuildSelect(e->b, LLVMBuildFCmp(e->b, LLVMRealOLT, size, big, ""), r, x, "");
}

static LLVMValueRef emit_floor(KdEmitter *e, KlType t, LLVMValueRef x) {
    if (e->isa.round)
        return unary(e, "llvm.floor", kd_emit_type(e, t), x);
    LLVMValueRef r = emit_round(e, t, x);
    LLVMValueRef above = LLVMBuildFCmp(e->b, LLVMRealOGT, r, x, "");
    LLVMValueRef less = LLVMBuildFSub(e->b, r, const_f32(e, t, 1), "");
    return LLVMBuildSelect(e->b, above, less, r, "");
}

/* x*y + z with one rounding, in double arithmetic: see the head of the file. */
static LLVMValueRef emit_exact_fma(KdEmitter *e, KlType t, LLVMValueRef x, LLVMValueRef y, LLVMValueRef z) {
    LLVMBuilderRef b = e->b;
    LLVMTypeRef f64 = lanes_of(e->f64, t), i64 = lanes_of(e->i64, t);
    LLVMValueRef p = LLVMBuildFMul(b, LLVMBuildFPExt(b, x, f64, ""), LLVMBuildFPExt(b, y, f64, ""), "");
    LLVMValueRef c = LLVMBuildFPExt(b, z, f64, "");
    /* s + err == p + c exactly (Knuth's two-sum). */
    LLVMValueRef s = LLVMBuildFAdd(b, p, c, "");
    LLVMValueRef part = LLVMBuildFSub(b, s, p, "");
    LLVMValueRef err = LLVMBuildFAdd(b, LLVMBuildFSub(b, p, LLVMBuildFSub(b, s, part, ""), ""),
                                     LLVMBuildFSub(b, c, part, ""), "");
    LLVMValueRef zero = splat_const(LLVMConstReal(e->f64, 0), t.lanes);
    LLVMValueRef none = const_int(e->i64, t, 0), one = const_int(e->i64, t, 1);
    /* Inexact, and s was rounded to an even neighbour: take the odd one on the other side of the true sum. For
     * infinities and NaN err is NaN, and s stays. */
    LLVMValueRef bits = LLVMBuildBitCast(b, s, i64, "");
    LLVMValueRef even = LLVMBuildICmp(b, LLVMIntEQ, LLVMBuildAnd(b, bits, one, ""), none, "");
    LLVMValueRef inexact = LLVMBuildFCmp(b, LLVMRealONE, err, zero, "");
    LLVMValueRef inward = LLVMBuildXor(b, LLVMBuildFCmp(b, LLVMRealOLT, err, zero, ""),
                                       LLVMBuildFCmp(b, LLVMRealOLT, s, zero, ""), "");
    LLVMValueRef move = LLVMBuildSelect(b, inward, const_int(e->i64, t, -1), one, "");
    LLVMValueRef odd = LLVMBuildAdd(b, bits, move, "");
    LLVMValueRef r = LLVMBuildSelect(b, LLVMBuildAnd(b, inexact, even, ""), odd, bits, "");
    return LLVMBuildFPTrunc(b, LLVMBuildBitCast(b, r, f64, ""), kd_emit_type(e, t), "");
}

static LLVMValueRef emit_fma(KdEmitter *e, KlType t, LLVMValueRef x, LLVMValueRef y, LLVMValueRef z) {
    if (!e->isa.machine.fma)
        return emit_exact_fma(e, t, x, y, z);
    LLVMTypeRef type = kd_emit_type(e, t);
    LLVMValueRef args[3] = {x, y, z};
    return kd_emit_intrinsic(e, "llvm.fma", &type, 1, args, 3);
}

/* Quotient or remainder of integers. The one overflow, MIN / -1, wraps (MIN, remainder 0); LLVM leaves it undefined
 * and x86 traps, so a divisor that may be -1 is replaced: q = 0 - x, r = 0. */
static LLVMValueRef emit_divide(KdEmitter *e, const KlInstr *in, LLVMValueRef x, LLVMValueRef y) {
    LLVMBuilderRef b = e->b;
    const KlInstr *d = e->def[in->in[1]];
    bool quotient = in->op == KL_OP_DIV;
    bool safe = d && d->op == KL_OP_CONST && d->imm != -1;
    if (safe)
        return quotient ? LLVMBuildSDiv(b, x, y, "") : LLVMBuildSRem(b, x, y, "");
    LLVMTypeRef scalar = in->type.scalar == KL_I64 ? e->i64 : e->i32;
    LLVMValueRef zero = const_int(scalar, in->type, 0), one = const_int(scalar, in->type, 1);
    LLVMValueRef minus = LLVMBuildICmp(b, LLVMIntEQ, y, const_int(scalar, in->type, -1), "");
    LLVMValueRef by = LLVMBuildSelect(b, minus, one, y, "");
    if (!quotient)
        return LLVMBuildSRem(b, x, by, "");
    return LLVMBuildSelect(b, minus, LLVMBuildSub(b, zero, x, ""), LLVMBuildSDiv(b, x, by, ""), "");
}

static LLVMValueRef emit_minmax(KdEmitter *e, KlType t, bool max, LLVMValueRef x, LLVMValueRef y) {
    if (t.scalar == KL_F32) {
        LLVMValueRef first = LLVMBuildFCmp(e->b, max ? LLVMRealOGT : LLVMRealOLT, x, y, "");
        return LLVMBuildSelect(e->b, first, x, y, "");
    }
    LLVMTypeRef type = kd_emit_type(e, t);
    LLVMValueRef args[2] = {x, y};
    return kd_emit_intrinsic(e, max ? "llvm.smax" : "llvm.smin", &type, 1, args, 2);
}

static LLVMValueRef emit_add(KdEmitter *e, KlType t, LLVMValueRef x, LLVMValueRef y) {
    return t.scalar == KL_F32 ? LLVMBuildFAdd(e->b, x, y, "") : LLVMBuildAdd(e->b, x, y, "");
}

static LLVMValueRef emit_cmp(KdEmitter *e, KlPred p, KlScalar s, LLVMValueRef x, LLVMValueRef y) {
    static const LLVMRealPredicate real[] = {[KL_EQ] = LLVMRealOEQ, [KL_NE] = LLVMRealUNE, [KL_LT] = LLVMRealOLT,
                                             [KL_LE] = LLVMRealOLE, [KL_GT] = LLVMRealOGT, [KL_GE] = LLVMRealOGE};
    static const LLVMIntPredicate whole[] = {[KL_EQ] = LLVMIntEQ,  [KL_NE] = LLVMIntNE,  [KL_LT] = LLVMIntSLT,
                                             [KL_LE] = LLVMIntSLE, [KL_GT] = LLVMIntSGT, [KL_GE] = LLVMIntSGE};
    static const LLVMIntPredicate natural[] = {[KL_EQ] = LLVMIntEQ,  [KL_NE] = LLVMIntNE,  [KL_LT] = LLVMIntULT,
                                               [KL_LE] = LLVMIntULE, [KL_GT] = LLVMIntUGT, [KL_GE] = LLVMIntUGE};
    if (s == KL_F32)
        return LLVMBuildFCmp(e->b, real[p], x, y, "");
    return LLVMBuildICmp(e->b, s == KL_U8 || s == KL_I1 ? natural[p] : whole[p], x, y, "");
}

static LLVMValueRef emit_cvt(KdEmitter *e, KlType from, KlType to, LLVMValueRef x) {
    LLVMTypeRef type = kd_emit_type(e, to), source = kd_emit_type(e, from);
    bool natural = from.scalar == KL_U8 || from.scalar == KL_I1;
    if (to.scalar == KL_F32)
        return natural ? LLVMBuildUIToFP(e->b, x, type, "") : LLVMBuildSIToFP(e->b, x, type, "");
    if (from.scalar != KL_F32)
        return LLVMBuildIntCast2(e->b, x, type, !natural, "");
    if (to.scalar == KL_U8) /* the low byte of the whole number */
        return LLVMBuildTrunc(e->b, emit_cvt(e, from, kl_type(KL_I32, to.lanes), x), type, "");
    LLVMTypeRef types[2] = {type, source};
    return kd_emit_intrinsic(e, "llvm.fptosi.sat", types, 2, &x, 1);
}

static LLVMValueRef emit_shuffle(KdEmitter *e, LLVMValueRef x, LLVMValueRef y, int n, const int *selector) {
    LLVMValueRef mask[64];
    for (int i = 0; i < n; i++)
        mask[i] = LLVMConstInt(e->i32, (unsigned long long)selector[i], false);
    return LLVMBuildShuffleVector(e->b, x, y, LLVMConstVector(mask, (unsigned)n), "");
}

/* One lane of a vector, or of a scalar that stands for a vector of one. */
static LLVMValueRef emit_lane(KdEmitter *e, KlType t, LLVMValueRef x, int lane) {
    return t.lanes == 1 ? x : LLVMBuildExtractElement(e->b, x, LLVMConstInt(e->i32, (unsigned)lane, false), "");
}

/* A scalar shuffled is a splat; LLVM shuffles vectors only. */
static LLVMValueRef emit_any_shuffle(KdEmitter *e, const KlInstr *in, KlType from, LLVMValueRef x, LLVMValueRef y) {
    if (from.lanes > 1 && in->type.lanes > 1)
        return emit_shuffle(e, x, y, in->type.lanes, in->shuffle);
    LLVMValueRef r = in->type.lanes > 1 ? LLVMGetPoison(kd_emit_type(e, in->type)) : NULL;
    for (int i = 0; i < in->type.lanes; i++) {
        int lane = in->shuffle[i];
        LLVMValueRef v = emit_lane(e, from, lane < from.lanes ? x : y, lane % from.lanes);
        r = r ? LLVMBuildInsertElement(e->b, r, v, LLVMConstInt(e->i32, (unsigned)i, false), "") : v;
    }
    return r;
}

/* Halves, quarters, ...: lane i with lane i + n/2. */
static LLVMValueRef emit_reduce(KdEmitter *e, KlOp op, KlType t, LLVMValueRef x) {
    for (int n = t.lanes / 2; n >= 1; n /= 2) {
        int low[64], high[64];
        for (int i = 0; i < n; i++) {
            low[i] = i;
            high[i] = i + n;
        }
        KlType half = kl_type((KlScalar)t.scalar, n);
        LLVMValueRef a, c;
        if (n == 1) {
            a = LLVMBuildExtractElement(e->b, x, LLVMConstInt(e->i32, 0, false), "");
            c = LLVMBuildExtractElement(e->b, x, LLVMConstInt(e->i32, 1, false), "");
        } else {
            a = emit_shuffle(e, x, LLVMGetPoison(LLVMTypeOf(x)), n, low);
            c = emit_shuffle(e, x, LLVMGetPoison(LLVMTypeOf(x)), n, high);
        }
        x = op == KL_OP_REDUCE_ADD ? emit_add(e, half, a, c) : emit_minmax(e, half, op == KL_OP_REDUCE_MAX, a, c);
    }
    return x;
}

static LLVMValueRef emit_const(KdEmitter *e, const KlInstr *in) {
    if (in->type.scalar == KL_F32)
        return const_f32(e, in->type, in->fimm);
    return const_int(kd_emit_type(e, kl_type((KlScalar)in->type.scalar, 1)), in->type, in->imm);
}

static LLVMValueRef emit_iota(KdEmitter *e, KlType t) {
    LLVMValueRef lanes[64];
    LLVMTypeRef scalar = t.scalar == KL_I64 ? e->i64 : e->i32;
    for (unsigned i = 0; i < t.lanes; i++)
        lanes[i] = LLVMConstInt(scalar, i, false);
    return t.lanes == 1 ? lanes[0] : LLVMConstVector(lanes, t.lanes);
}

static LLVMValueRef emit_splat(KdEmitter *e, KlType t, LLVMValueRef x) {
    if (t.lanes == 1)
        return x;
    if (LLVMIsConstant(x))
        return splat_const(x, t.lanes);
    LLVMTypeRef type = kd_emit_type(e, t);
    LLVMValueRef one = LLVMBuildInsertElement(e->b, LLVMGetPoison(type), x, LLVMConstInt(e->i32, 0, false), "");
    static const int zeros[64] = {0};
    return emit_shuffle(e, one, LLVMGetPoison(type), t.lanes, zeros);
}

static LLVMValueRef emit_abs(KdEmitter *e, KlType t, LLVMValueRef x) {
    LLVMTypeRef type = kd_emit_type(e, t);
    if (t.scalar == KL_F32)
        return unary(e, "llvm.fabs", type, x);
    LLVMValueRef args[2] = {x, LLVMConstInt(e->i1, 0, false)}; /* MIN stays MIN */
    return kd_emit_intrinsic(e, "llvm.abs", &type, 1, args, 2);
}

/* Index arithmetic: notes sums and multiples as base + addend where an operand is one, so that unrolled copies of a
 * body differ in displacements only and share their address computations. */
static void note_index(KdEmitter *e, const KlInstr *in) {
    KlValue x = in->in[0], y = in->in[1];
    const KlInstr *d = e->def[y];
    bool by_const = d && d->op == KL_OP_CONST;
    LLVMValueRef bx = e->base[x] ? e->base[x] : e->value[x], by = e->base[y] ? e->base[y] : e->value[y];
    uint64_t ax = e->base[x] ? (uint64_t)e->addend[x] : 0, ay = e->base[y] ? (uint64_t)e->addend[y] : 0;
    LLVMValueRef base = NULL;
    if (in->op == KL_OP_ADD && by_const) {
        base = bx;
        ax += (uint64_t)d->imm;
    } else if (in->op == KL_OP_ADD && (ax || ay)) {
        base = LLVMBuildAdd(e->b, bx, by, "");
        ax += ay;
    } else if (in->op == KL_OP_MUL && by_const && ax) {
        base = LLVMBuildMul(e->b, bx, by, "");
        ax *= (uint64_t)d->imm;
    }
    e->base[in->result] = base;
    e->addend[in->result] = (int64_t)ax;
}

LLVMValueRef kd_emit_expr(KdEmitter *e, const KlInstr *in) {
    LLVMBuilderRef b = e->b;
    KlType t = in->type, from = in->n_in ? kl_vtype(e->k, in->in[0]) : t;
    bool real = from.scalar == KL_F32;
    LLVMValueRef x = in->n_in > 0 ? e->value[in->in[0]] : NULL;
    LLVMValueRef y = in->n_in > 1 ? e->value[in->in[1]] : NULL;
    LLVMValueRef z = in->n_in > 2 ? e->value[in->in[2]] : NULL;
    if (t.scalar == KL_I64 && t.lanes == 1 && in->n_in == 2)
        note_index(e, in);
    switch ((KlOp)in->op) {
    case KL_OP_CONST: return emit_const(e, in);
    case KL_OP_IOTA: return emit_iota(e, t);
    case KL_OP_ADD: return emit_add(e, t, x, y);
    case KL_OP_SUB: return real ? LLVMBuildFSub(b, x, y, "") : LLVMBuildSub(b, x, y, "");
    case KL_OP_MUL: return real ? LLVMBuildFMul(b, x, y, "") : LLVMBuildMul(b, x, y, "");
    case KL_OP_DIV: return real ? LLVMBuildFDiv(b, x, y, "") : emit_divide(e, in, x, y);
    case KL_OP_REM: return emit_divide(e, in, x, y);
    case KL_OP_MIN: return emit_minmax(e, t, false, x, y);
    case KL_OP_MAX: return emit_minmax(e, t, true, x, y);
    case KL_OP_FMA: return emit_fma(e, t, x, y, z);
    case KL_OP_NEG: return real ? LLVMBuildFNeg(b, x, "") : LLVMBuildNeg(b, x, "");
    case KL_OP_ABS: return emit_abs(e, t, x);
    case KL_OP_SQRT: return unary(e, "llvm.sqrt", kd_emit_type(e, t), x);
    case KL_OP_FLOOR: return emit_floor(e, t, x);
    case KL_OP_ROUND: return emit_round(e, t, x);
    case KL_OP_AND: return LLVMBuildAnd(b, x, y, "");
    case KL_OP_OR: return LLVMBuildOr(b, x, y, "");
    case KL_OP_XOR: return LLVMBuildXor(b, x, y, "");
    case KL_OP_SHL: return LLVMBuildShl(b, x, y, "");
    case KL_OP_SHR: return LLVMBuildLShr(b, x, y, "");
    case KL_OP_CMP: return emit_cmp(e, (KlPred)in->imm, (KlScalar)from.scalar, x, y);
    case KL_OP_SELECT: return LLVMBuildSelect(b, x, y, z, "");
    case KL_OP_CVT: return emit_cvt(e, from, t, x);
    case KL_OP_BITCAST: return LLVMBuildBitCast(b, x, kd_emit_type(e, t), "");
    case KL_OP_SPLAT: return emit_splat(e, t, x);
    case KL_OP_EXTRACT: return emit_lane(e, from, x, (int)in->imm);
    case KL_OP_SHUFFLE: return emit_any_shuffle(e, in, from, x, y ? y : x);
    case KL_OP_REDUCE_ADD:
    case KL_OP_REDUCE_MAX:
    case KL_OP_REDUCE_MIN: return emit_reduce(e, (KlOp)in->op, from, x);
    case KL_OP_LOAD:
    case KL_OP_GATHER:
    case KL_OP_PREFETCH:
    case KL_OP_STORE:
    case KL_OP_SCATTER:
    case KL_OP_FOR:
    case KL_OP_IF:
    case KL_OP_YIELD:
    case KL_OP_COUNT: break; /* emit.c's */
    }
    return NULL;
}
