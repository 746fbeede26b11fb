/* emit.c: loop IR -> an LLVM module.
 *
 * In: kernels and the plan of a KlModule. Out, in an LLVM module:
 *   - a function per kernel. Its buffers' addresses are loaded once, scratch buffers lie at fixed offsets of the
 *     thread's scratch, and a loop over [begin, end) surrounds the body. A `for` becomes one LLVM loop whose phis are
 *     the carried values. Unrolling is done here, by emitting the body several times: loop IR says how often, and LLVM
 *     is not asked for its opinion.
 *   - the entry: a call of kdrt_run with constant tables of the plan's calls, so that thousands of calls are data and
 *     take no time to compile.
 *
 * Nothing here changes an order of evaluation that loop.h promises. Memory accesses say which buffers they cannot
 * touch: those that no call of the plan lets overlap (in-place calls do). Distinct externs count as distinct memory.
 */
#include "codegen/internal.h"

#include "runtime/kdrt/kdrt.h"

#include <stdlib.h>
#include <string.h>

#define SYMBOL_SIZE 1024

static void emit_block(KdEmitter *e, const KlBlock *block);

/* ---- buffers ----------------------------------------------------------------------------------- */

static int64_t element_size(KlScalar s) { return s == KL_U8 ? 1 : 4; }

static int64_t buffer_bytes(const KlBuf *b) { return b->count * element_size(b->dtype); }

static int64_t scratch_of_kernel(const KlKernel *k) {
    int64_t bytes = 0;
    for (int i = 0; i < k->bufs.n; i++)
        if (k->bufs.v[i].access == KL_SCRATCH)
            bytes += (buffer_bytes(&k->bufs.v[i]) + 63) & ~INT64_C(63);
    return bytes;
}

int64_t kd_scratch_bytes(const KlModule *m) {
    int64_t most = 0;
    for (int i = 0; i < m->kernels.n; i++) {
        int64_t bytes = scratch_of_kernel(m->kernels.v[i]);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static const KlArg *arg_of(const KlKernel *k, const KlCall *call, int buf) {
    int arg = 0;
    for (int i = 0; i < buf; i++)
        arg += k->bufs.v[i].access != KL_SCRATCH;
    return &call->args[arg];
}

static bool args_overlap(const KlArg *a, int64_t a_bytes, const KlArg *b, int64_t b_bytes) {
    return a->kind == b->kind && (a->kind != KL_ARG_EXTERN || a->index == b->index) &&
           a->offset < b->offset + b_bytes && b->offset < a->offset + a_bytes;
}

/* Whether some call of kernel number `kernel` lets two of its buffers share memory. */
static bool may_overlap(const KlModule *m, int kernel, int i, int j) {
    const KlKernel *k = m->kernels.v[kernel];
    const KlBuf *x = &k->bufs.v[i], *y = &k->bufs.v[j];
    if (x->access == KL_SCRATCH || y->access == KL_SCRATCH)
        return false;
    for (int c = 0; c < m->calls.n; c++) {
        const KlCall *call = &m->calls.v[c];
        if (call->kernel == kernel &&
            args_overlap(arg_of(k, call, i), buffer_bytes(x), arg_of(k, call, j), buffer_bytes(y)))
            return true;
    }
    return false;
}

/* For each buffer an alias scope of its own, and the list of scopes it stays out of. */
static bool make_scopes(KdEmitter *e, int kernel) {
    int n = e->k->bufs.n, n_written = 0;
    for (int i = 0; i < n; i++)
        n_written += e->k->bufs.v[i].access != KL_IN;
    memset(e->scope, 0, (size_t)n * sizeof *e->scope);
    memset(e->noalias, 0, (size_t)n * sizeof *e->noalias);
    if (n_written == 0 || n < 2)
        return true;
    LLVMMetadataRef *scopes = calloc((size_t)n * 2, sizeof *scopes), *others = scopes + n;
    if (!scopes)
        return false;
    char name[64];
    snprintf(name, sizeof name, "kernel %d", kernel);
    LLVMMetadataRef text = LLVMMDStringInContext2(e->cx, name, strlen(name));
    LLVMMetadataRef domain = LLVMMDNodeInContext2(e->cx, &text, 1);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "kernel %d buffer %d", kernel, i);
        LLVMMetadataRef pair[2] = {LLVMMDStringInContext2(e->cx, name, strlen(name)), domain};
        scopes[i] = LLVMMDNodeInContext2(e->cx, pair, 2);
        e->scope[i] = LLVMMetadataAsValue(e->cx, LLVMMDNodeInContext2(e->cx, &scopes[i], 1));
    }
    for (int i = 0; i < n; i++) {
        size_t n_others = 0;
        for (int j = 0; j < n; j++)
            if (j != i && !may_overlap(e->m, kernel, i, j))
                others[n_others++] = scopes[j];
        if (n_others)
            e->noalias[i] = LLVMMetadataAsValue(e->cx, LLVMMDNodeInContext2(e->cx, others, n_others));
    }
    free(scopes);
    return true;
}

static LLVMValueRef mark_access(KdEmitter *e, LLVMValueRef access, int buf) {
    if (e->scope[buf])
        LLVMSetMetadata(access, LLVMGetMDKindIDInContext(e->cx, "alias.scope", 11), e->scope[buf]);
    if (e->noalias[buf])
        LLVMSetMetadata(access, LLVMGetMDKindIDInContext(e->cx, "noalias", 7), e->noalias[buf]);
    return access;
}

/* ---- memory ------------------------------------------------------------------------------------- */

static LLVMValueRef const_i64(KdEmitter *e, int64_t c) {
    return LLVMConstInt(e->i64, (unsigned long long)c, true);
}

static bool known_i64(const KdEmitter *e, KlValue v, int64_t *c) {
    const KlInstr *d = e->def[v];
    if (!d || d->op != KL_OP_CONST || d->type.scalar != KL_I64)
        return false;
    *c = d->imm;
    return true;
}

static LLVMTypeRef buffer_type(const KdEmitter *e, int buf) {
    return kd_emit_type(e, kl_type(e->k->bufs.v[buf].dtype, 1));
}

static LLVMValueRef gep(KdEmitter *e, int buf, LLVMValueRef base, LLVMValueRef index) {
    return LLVMBuildGEP2(e->b, buffer_type(e, buf), base, &index, 1, "");
}

/* The address of an element. Constant addends become displacements of one shared address. */
static LLVMValueRef emit_address(KdEmitter *e, int buf, KlValue idx) {
    if (!e->base[idx])
        return gep(e, buf, e->buf[buf], e->value[idx]);
    LLVMValueRef p = gep(e, buf, e->buf[buf], e->base[idx]);
    return e->addend[idx] ? gep(e, buf, p, const_i64(e, e->addend[idx])) : p;
}

static unsigned alignment(const KdEmitter *e, int buf) {
    return (unsigned)element_size(e->k->bufs.v[buf].dtype);
}

static LLVMValueRef plain_load(KdEmitter *e, int buf, KlType t, LLVMValueRef p) {
    LLVMValueRef v = LLVMBuildLoad2(e->b, kd_emit_type(e, t), p, "");
    LLVMSetAlignment(v, alignment(e, buf));
    return mark_access(e, v, buf);
}

static void plain_store(KdEmitter *e, int buf, LLVMValueRef v, LLVMValueRef p) {
    LLVMValueRef s = LLVMBuildStore(e->b, v, p);
    LLVMSetAlignment(s, alignment(e, buf));
    mark_access(e, s, buf);
}

/* No branch: where the mask is off, element 0 is read and dropped. */
static LLVMValueRef scalar_load_if(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    LLVMValueRef mask = e->value[in->in[1]], els = e->value[in->in[2]], idx = e->value[in->in[0]];
    if (e->k->bufs.v[buf].count < 1)
        return els;
    LLVMValueRef safe = LLVMBuildSelect(e->b, mask, idx, LLVMConstNull(LLVMTypeOf(idx)), "");
    LLVMValueRef v = plain_load(e, buf, in->type, gep(e, buf, e->buf[buf], safe));
    return LLVMBuildSelect(e->b, mask, v, els, "");
}

static void scalar_store_if(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    LLVMBasicBlockRef then = LLVMAppendBasicBlockInContext(e->cx, e->fn, "");
    LLVMBasicBlockRef after = LLVMAppendBasicBlockInContext(e->cx, e->fn, "");
    LLVMBuildCondBr(e->b, e->value[in->in[2]], then, after);
    LLVMPositionBuilderAtEnd(e->b, then);
    plain_store(e, buf, e->value[in->in[1]], gep(e, buf, e->buf[buf], e->value[in->in[0]]));
    LLVMBuildBr(e->b, after);
    LLVMPositionBuilderAtEnd(e->b, after);
}

static LLVMValueRef all_lanes(KdEmitter *e, int lanes) {
    return LLVMConstAllOnes(LLVMVectorType(e->i1, (unsigned)lanes));
}

/* In front of a vector load of a tile loop: a fence for the compiler alone (no instruction comes of it), unless the
 * instruction before was a load too. LLVM likes to gather loads that are near each other in one place, up to four of
 * them, and so brings the next step's operands into registers that accumulators have all taken. */
static void keep_order(KdEmitter *e) {
    if (e->in_tile && e->computed)
        LLVMBuildFence(e->b, LLVMAtomicOrderingSequentiallyConsistent, true, "");
    e->computed = false;
}

static LLVMValueRef emit_load(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    if (in->type.lanes == 1)
        return in->n_in > 1 ? scalar_load_if(e, in)
                            : plain_load(e, buf, in->type, emit_address(e, buf, in->in[0]));
    keep_order(e);
    LLVMValueRef p = emit_address(e, buf, in->in[0]);
    if (in->n_in == 1)
        return plain_load(e, buf, in->type, p);
    LLVMTypeRef types[2] = {kd_emit_type(e, in->type), e->ptr};
    LLVMValueRef args[4] = {p, LLVMConstInt(e->i32, alignment(e, buf), false),
                            e->value[in->in[1]], e->value[in->in[2]]};
    return mark_access(e, kd_emit_intrinsic(e, "llvm.masked.load", types, 2, args, 4), buf);
}

static void emit_store(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    KlType t = kl_vtype(e->k, in->in[1]);
    if (in->n_in == 2) {
        plain_store(e, buf, e->value[in->in[1]], emit_address(e, buf, in->in[0]));
    } else if (t.lanes == 1) {
        scalar_store_if(e, in);
    } else {
        LLVMTypeRef types[2] = {kd_emit_type(e, t), e->ptr};
        LLVMValueRef args[4] = {e->value[in->in[1]], emit_address(e, buf, in->in[0]),
                                LLVMConstInt(e->i32, alignment(e, buf), false), e->value[in->in[2]]};
        mark_access(e, kd_emit_intrinsic(e, "llvm.masked.store", types, 2, args, 4), buf);
    }
}

/* llvm.prefetch(address, write, locality: to the second cache, data). */
static void emit_prefetch(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    bool writes = e->k->bufs.v[buf].access != KL_IN;
    LLVMValueRef args[4] = {emit_address(e, buf, in->in[0]), LLVMConstInt(e->i32, writes, false),
                            LLVMConstInt(e->i32, 2, false), LLVMConstInt(e->i32, 1, false)};
    kd_emit_intrinsic(e, "llvm.prefetch", &e->ptr, 1, args, 4);
}

static LLVMValueRef emit_gather(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    bool masked = in->n_in > 1;
    if (in->type.lanes == 1)
        return masked ? scalar_load_if(e, in)
                      : plain_load(e, buf, in->type, gep(e, buf, e->buf[buf], e->value[in->in[0]]));
    LLVMTypeRef type = kd_emit_type(e, in->type);
    LLVMTypeRef types[2] = {type, LLVMVectorType(e->ptr, in->type.lanes)};
    LLVMValueRef args[4] = {gep(e, buf, e->buf[buf], e->value[in->in[0]]),
                            LLVMConstInt(e->i32, alignment(e, buf), false),
                            masked ? e->value[in->in[1]] : all_lanes(e, in->type.lanes),
                            masked ? e->value[in->in[2]] : LLVMGetPoison(type)};
    return mark_access(e, kd_emit_intrinsic(e, "llvm.masked.gather", types, 2, args, 4), buf);
}

static void emit_scatter(KdEmitter *e, const KlInstr *in) {
    int buf = (int)in->imm;
    bool masked = in->n_in > 2;
    KlType t = kl_vtype(e->k, in->in[1]);
    if (t.lanes == 1 && masked) {
        scalar_store_if(e, in);
        return;
    }
    LLVMValueRef v = e->value[in->in[1]], p = gep(e, buf, e->buf[buf], e->value[in->in[0]]);
    if (t.lanes == 1) {
        plain_store(e, buf, v, p);
        return;
    }
    LLVMTypeRef types[2] = {kd_emit_type(e, t), LLVMVectorType(e->ptr, t.lanes)};
    LLVMValueRef args[4] = {v, p, LLVMConstInt(e->i32, alignment(e, buf), false),
                            masked ? e->value[in->in[2]] : all_lanes(e, t.lanes)};
    mark_access(e, kd_emit_intrinsic(e, "llvm.masked.scatter", types, 2, args, 4), buf);
}

/* ---- loops ---------------------------------------------------------------------------------------- */

/* A loop while it is emitted: `carried` holds the values that enter, then those that leave. */
typedef struct Loop {
    const KlBlock *body;
    int64_t step;
    int n;
    LLVMValueRef *carried;
} Loop;

static LLVMValueRef plus(KdEmitter *e, LLVMValueRef i, int64_t c) {
    return c ? LLVMBuildNSWAdd(e->b, i, const_i64(e, c), "") : i;
}

/* The body once, for loop variable i + c. */
static void emit_trip(KdEmitter *e, Loop *l, LLVMValueRef i, int64_t c) {
    KlValue var = l->body->params.v[0];
    e->value[var] = plus(e, i, c);
    e->base[var] = i;
    e->addend[var] = c;
    for (int j = 0; j < l->n; j++)
        e->value[l->body->params.v[1 + j]] = l->carried[j];
    emit_block(e, l->body);
    if (l->n == 0)
        return;
    const KlInstr *yield = l->body->instrs.v[l->body->instrs.n - 1];
    for (int j = 0; j < l->n; j++)
        l->carried[j] = e->value[yield->in[j]];
}

/* From lo while below hi, `copies` trips to a turn. The caller knows that copies divide the number of trips, and
 * whether there is at least one. `phis`: room for 2 * l->n values. */
static void emit_loop(KdEmitter *e, Loop *l, LLVMValueRef lo, LLVMValueRef hi, int copies, bool some,
                      LLVMValueRef *phis) {
    LLVMBasicBlockRef before = LLVMGetInsertBlock(e->b);
    LLVMBasicBlockRef body = LLVMAppendBasicBlockInContext(e->cx, e->fn, "");
    LLVMBasicBlockRef after = LLVMAppendBasicBlockInContext(e->cx, e->fn, "");
    LLVMValueRef *inner = phis, *outer = phis + l->n;
    if (some)
        LLVMBuildBr(e->b, body);
    else
        LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, lo, hi, ""), body, after);
    LLVMPositionBuilderAtEnd(e->b, after);
    for (int j = 0; j < l->n; j++) {
        outer[j] = LLVMBuildPhi(e->b, LLVMTypeOf(l->carried[j]), "");
        if (!some)
            LLVMAddIncoming(outer[j], &l->carried[j], &before, 1);
    }
    LLVMPositionBuilderAtEnd(e->b, body);
    LLVMValueRef i = LLVMBuildPhi(e->b, e->i64, "");
    LLVMAddIncoming(i, &lo, &before, 1);
    for (int j = 0; j < l->n; j++) {
        inner[j] = LLVMBuildPhi(e->b, LLVMTypeOf(l->carried[j]), "");
        LLVMAddIncoming(inner[j], &l->carried[j], &before, 1);
        l->carried[j] = inner[j];
    }
    for (int c = 0; c < copies; c++)
        emit_trip(e, l, i, c * l->step);
    LLVMValueRef next = plus(e, i, copies * l->step);
    LLVMBuildCondBr(e->b, LLVMBuildICmp(e->b, LLVMIntSLT, next, hi, ""), body, after);
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(e->b);
    LLVMAddIncoming(i, &next, &latch, 1);
    for (int j = 0; j < l->n; j++) {
        LLVMAddIncoming(inner[j], &l->carried[j], &latch, 1);
        LLVMAddIncoming(outer[j], &l->carried[j], &latch, 1);
        l->carried[j] = outer[j];
    }
    LLVMMoveBasicBlockAfter(after, latch);
    LLVMPositionBuilderAtEnd(e->b, after);
}

/* How often the body runs, where that is written in the bounds (both constant, or hi = lo + constant); else -1. */
static int64_t trips_of(const KdEmitter *e, const KlInstr *in) {
    int64_t lo, hi;
    const KlInstr *d = e->def[in->in[1]];
    if (known_i64(e, in->in[0], &lo) && known_i64(e, in->in[1], &hi)) {
        if (hi <= lo)
            return 0;
        if (!kd_add_ok(hi, -lo, &hi))
            return -1;
    } else if (!d || d->op != KL_OP_ADD || d->in[0] != in->in[0] || !known_i64(e, d->in[1], &hi)) {
        return -1;
    }
    return hi <= 0 ? 0 : (hi - 1) / in->imm + 1;
}

/* A loop that carries so many vectors that most registers are taken. */
static bool is_tile(const KdEmitter *e, const KlInstr *in) {
    int vectors = 0, lanes = e->isa.machine.lanes;
    for (int j = 0; j < in->n_results; j++) {
        KlType t = kl_vtype(e->k, in->in[2 + j]);
        vectors += t.lanes > 1 ? (t.lanes + lanes - 1) / lanes : 0;
    }
    return vectors > e->isa.machine.registers / 2;
}

static void emit_for(KdEmitter *e, const KlInstr *in) {
    LLVMValueRef few[16], *carried = few;
    size_t n = in->n_results;
    if (n * 3 > (size_t)KD_COUNT(few) && !(carried = malloc(n * 3 * sizeof *carried))) {
        e->out_of_memory = true;
        return;
    }
    Loop l = {in->body, in->imm, in->n_results, carried};
    LLVMValueRef lo = e->value[in->in[0]], hi = e->value[in->in[1]];
    bool outer_tile = e->in_tile;
    e->in_tile = outer_tile || is_tile(e, in);
    for (size_t j = 0; j < n; j++)
        carried[j] = e->value[in->in[2 + j]];
    int64_t trips = trips_of(e, in), copies = in->unroll > 1 ? in->unroll : 1;
    if (trips < 0) {
        emit_loop(e, &l, lo, hi, 1, false, carried + n);
    } else {
        bool fully = in->unroll == UINT16_MAX || copies >= trips;
        int64_t looped = fully ? 0 : trips / copies * copies;
        if (looped)
            emit_loop(e, &l, lo, looped == trips ? hi : plus(e, lo, looped * l.step), (int)copies, true, carried + n);
        for (int64_t t = looped; t < trips; t++)
            emit_trip(e, &l, lo, t * l.step);
    }
    e->in_tile = outer_tile;
    for (size_t j = 0; j < n; j++)
        e->value[in->result + j] = carried[j];
    if (carried != few)
        free(carried);
}

static void emit_if(KdEmitter *e, const KlInstr *in) {
    LLVMBasicBlockRef then = LLVMAppendBasicBlockInContext(e->cx, e->fn, "");
    LLVMBasicBlockRef after = LLVMAppendBasicBlockInContext(e->cx, e->fn, "");
    LLVMBuildCondBr(e->b, e->value[in->in[0]], then, after);
    LLVMPositionBuilderAtEnd(e->b, then);
    emit_block(e, in->body);
    LLVMBuildBr(e->b, after);
    LLVMMoveBasicBlockAfter(after, LLVMGetInsertBlock(e->b));
    LLVMPositionBuilderAtEnd(e->b, after);
}

static void emit_instr(KdEmitter *e, const KlInstr *in) {
    if (in->op == KL_OP_LOAD)
        e->value[in->result] = emit_load(e, in);
    else if (in->op == KL_OP_GATHER)
        e->value[in->result] = emit_gather(e, in);
    else if (in->op == KL_OP_PREFETCH)
        emit_prefetch(e, in);
    else if (in->op == KL_OP_STORE)
        emit_store(e, in);
    else if (in->op == KL_OP_SCATTER)
        emit_scatter(e, in);
    else if (in->op == KL_OP_FOR)
        emit_for(e, in);
    else if (in->op == KL_OP_IF)
        emit_if(e, in);
    else if (in->op != KL_OP_YIELD) {
        e->value[in->result] = kd_emit_expr(e, in);
        e->computed = e->computed || in->type.lanes > 1;
    }
}

static void emit_block(KdEmitter *e, const KlBlock *block) {
    for (int i = 0; i < block->instrs.n && !e->out_of_memory; i++)
        emit_instr(e, block->instrs.v[i]);
}

/* ---- kernels ---------------------------------------------------------------------------------------- */

static void note_definitions(KdEmitter *e, const KlBlock *block) {
    for (int i = 0; i < block->instrs.n; i++) {
        const KlInstr *in = block->instrs.v[i];
        if (in->body)
            note_definitions(e, in->body);
        else if (in->result != KL_NONE)
            e->def[in->result] = in;
    }
}

static void add_attribute(KdEmitter *e, const char *name, const char *value) {
    LLVMAddAttributeAtIndex(e->fn, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                            LLVMCreateStringAttribute(e->cx, name, (unsigned)strlen(name), value,
                                                      (unsigned)strlen(value)));
}

static void set_attributes(KdEmitter *e) {
    unsigned nounwind = LLVMGetEnumAttributeKindForName("nounwind", 8);
    LLVMAddAttributeAtIndex(e->fn, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                            LLVMCreateEnumAttribute(e->cx, nounwind, 0));
    add_attribute(e, "target-cpu", e->t->cpu);
    if (*e->t->features)
        add_attribute(e, "target-features", e->t->features);
    if (e->isa.machine.lanes == 16) { /* LLVM prefers half of the register on some CPUs; our schedules counted on it */
        add_attribute(e, "prefer-vector-width", "512");
        add_attribute(e, "min-legal-vector-width", "512");
    }
}

static LLVMTypeRef kernel_type(const KdEmitter *e) {
    LLVMTypeRef params[4] = {e->ptr, e->i64, e->i64, e->ptr};
    return LLVMFunctionType(e->empty, params, 4, false);
}

static void symbol(char *out, const KlModule *m, const char *suffix) {
    snprintf(out, SYMBOL_SIZE, "%s%s", m->name, suffix);
}

/* The kernel's function; declared if it is in another object of the JIT. */
static LLVMValueRef kernel_function(KdEmitter *e, int kernel) {
    char name[SYMBOL_SIZE], suffix[32];
    snprintf(suffix, sizeof suffix, "_k%d", kernel);
    if (e->symbol)
        snprintf(name, sizeof name, "%s", e->symbol);
    else
        symbol(name, e->m, suffix);
    LLVMValueRef f = LLVMGetNamedFunction(e->module, name);
    return f ? f : LLVMAddFunction(e->module, name, kernel_type(e));
}

static void emit_buffers(KdEmitter *e) {
    LLVMValueRef bufs = LLVMGetParam(e->fn, 0), scratch = LLVMGetParam(e->fn, 3);
    int64_t args = 0, offset = 0;
    for (int i = 0; i < e->k->bufs.n; i++) {
        const KlBuf *buf = &e->k->bufs.v[i];
        LLVMValueRef at = const_i64(e, buf->access == KL_SCRATCH ? offset : args);
        if (buf->access == KL_SCRATCH) {
            e->buf[i] = LLVMBuildGEP2(e->b, e->i8, scratch, &at, 1, "");
            offset += (buffer_bytes(buf) + 63) & ~INT64_C(63);
        } else {
            e->buf[i] = LLVMBuildLoad2(e->b, e->ptr, LLVMBuildGEP2(e->b, e->ptr, bufs, &at, 1, ""), "");
            args++;
        }
    }
}

static bool emit_kernel(KdEmitter *e, int kernel, bool local) {
    e->k = e->m->kernels.v[kernel];
    size_t n = (size_t)e->k->types.n, n_bufs = (size_t)e->k->bufs.n;
    e->value = calloc(n, sizeof *e->value);
    e->def = calloc(n, sizeof *e->def);
    e->base = calloc(n, sizeof *e->base);
    e->addend = calloc(n, sizeof *e->addend);
    LLVMValueRef *per_buf = calloc(3 * n_bufs + 1, sizeof *per_buf);
    e->buf = per_buf;
    e->scope = per_buf ? per_buf + n_bufs : NULL;
    e->noalias = per_buf ? per_buf + 2 * n_bufs : NULL;
    bool ok = e->value && e->def && e->base && e->addend && per_buf && make_scopes(e, kernel);
    if (ok) {
        e->fn = kernel_function(e, kernel);
        LLVMSetLinkage(e->fn, local ? LLVMInternalLinkage : LLVMExternalLinkage);
        set_attributes(e);
        note_definitions(e, &e->k->body);
        LLVMPositionBuilderAtEnd(e->b, LLVMAppendBasicBlockInContext(e->cx, e->fn, ""));
        emit_buffers(e);
        LLVMValueRef nothing[1];
        Loop all = {.body = &e->k->body, .step = 1, .carried = nothing};
        emit_loop(e, &all, LLVMGetParam(e->fn, 1), LLVMGetParam(e->fn, 2), 1, false, nothing);
        LLVMBuildRetVoid(e->b);
        ok = !e->out_of_memory;
    }
    free(e->value);
    free(e->def);
    free(e->base);
    free(e->addend);
    free(per_buf);
    return ok;
}

/* ---- the entry ---------------------------------------------------------------------------------------- */

static LLVMValueRef table(KdEmitter *e, LLVMTypeRef element, LLVMValueRef *rows, int64_t n) {
    LLVMValueRef init = LLVMConstArray2(element, rows, (uint64_t)n);
    LLVMValueRef g = LLVMAddGlobal(e->module, LLVMTypeOf(init), "");
    LLVMSetInitializer(g, init);
    LLVMSetGlobalConstant(g, true);
    LLVMSetLinkage(g, LLVMPrivateLinkage);
    return g;
}

static LLVMValueRef constant_i64(KdEmitter *e, const char *suffix, int64_t value) {
    char name[SYMBOL_SIZE];
    symbol(name, e->m, suffix);
    LLVMValueRef g = LLVMAddGlobal(e->module, e->i64, name);
    LLVMSetInitializer(g, const_i64(e, value));
    LLVMSetGlobalConstant(g, true);
    return g;
}

static LLVMValueRef emit_pool(KdEmitter *e, bool define) {
    char name[SYMBOL_SIZE];
    if (e->m->pool.n == 0)
        return LLVMConstNull(e->ptr);
    symbol(name, e->m, "_pool");
    LLVMTypeRef type = LLVMArrayType2(e->i8, (uint64_t)e->m->pool.n);
    LLVMValueRef g = LLVMAddGlobal(e->module, type, name);
    LLVMSetGlobalConstant(g, true);
    LLVMSetAlignment(g, 64);
    if (define) {
        LLVMSetLinkage(g, LLVMInternalLinkage);
        LLVMSetInitializer(g, LLVMConstStringInContext2(e->cx, (const char *)e->m->pool.v, (size_t)e->m->pool.n, true));
    }
    return g;
}

int kd_args_of(const KlKernel *k) {
    int n = 0;
    for (int i = 0; i < k->bufs.n; i++)
        n += k->bufs.v[i].access != KL_SCRATCH;
    return n;
}

int64_t kd_arg_base(const KlArg *a) {
    return a->kind == KL_ARG_ARENA ? KDRT_ARENA : a->kind == KL_ARG_POOL ? KDRT_POOL : a->index;
}

/* The tables of kdrt.h: all arguments, one after the other, and the calls that point into them. */
static bool emit_calls(KdEmitter *e, LLVMValueRef *calls) {
    const KlModule *m = e->m;
    LLVMTypeRef pair[2] = {e->i64, e->i64}, arg_type = LLVMStructTypeInContext(e->cx, pair, 2, false);
    LLVMTypeRef call[6] = {e->ptr, e->ptr, e->i64, e->i64, e->i64, e->i64};
    LLVMTypeRef call_type = LLVMStructTypeInContext(e->cx, call, 6, false);
    int64_t n_args = 0, arg = 0;
    for (int c = 0; c < m->calls.n; c++)
        n_args += kd_args_of(m->kernels.v[m->calls.v[c].kernel]);
    LLVMValueRef *rows = malloc((size_t)(n_args + m->calls.n + 1) * sizeof *rows);
    if (!rows)
        return false;
    for (int c = 0; c < m->calls.n; c++)
        for (int a = 0; a < kd_args_of(m->kernels.v[m->calls.v[c].kernel]); a++) {
            const KlArg *from = &m->calls.v[c].args[a];
            LLVMValueRef both[2] = {const_i64(e, kd_arg_base(from)), const_i64(e, from->offset)};
            rows[arg++] = LLVMConstStructInContext(e->cx, both, 2, false);
        }
    LLVMValueRef args = table(e, arg_type, rows, n_args);
    arg = 0;
    for (int c = 0; c < m->calls.n; c++) {
        const KlKernel *k = m->kernels.v[m->calls.v[c].kernel];
        LLVMValueRef index = const_i64(e, arg);
        LLVMValueRef all[6] = {kernel_function(e, m->calls.v[c].kernel), LLVMConstGEP2(arg_type, args, &index, 1),
                               const_i64(e, kd_args_of(k)), const_i64(e, k->range), const_i64(e, k->grain),
                               const_i64(e, m->calls.v[c].once)};
        rows[c] = LLVMConstStructInContext(e->cx, all, 6, false);
        arg += kd_args_of(k);
    }
    *calls = table(e, call_type, rows, m->calls.n);
    free(rows);
    return true;
}

static bool emit_entry(KdEmitter *e, bool pool) {
    LLVMValueRef calls;
    if (!emit_calls(e, &calls))
        return false;
    LLVMValueRef fields[3] = {calls, const_i64(e, e->m->calls.n), emit_pool(e, pool)};
    LLVMValueRef init = LLVMConstStructInContext(e->cx, fields, 3, false);
    LLVMValueRef plan = table(e, LLVMTypeOf(init), &init, 1);
    LLVMTypeRef params[3] = {e->ptr, e->ptr, e->ptr}, run_type;
    e->fn = LLVMAddFunction(e->module, e->m->name, LLVMFunctionType(e->empty, params, 3, false));
    set_attributes(e);
    LLVMPositionBuilderAtEnd(e->b, LLVMAppendBasicBlockInContext(e->cx, e->fn, ""));
    LLVMValueRef run = kd_rt_declare(e->module, "kdrt_run", &run_type);
    LLVMValueRef args[4] = {LLVMGetParam(e->fn, 0), plan, LLVMGetParam(e->fn, 1), LLVMGetParam(e->fn, 2)};
    LLVMBuildCall2(e->b, run_type, run, args, 4, "");
    LLVMBuildRetVoid(e->b);
    constant_i64(e, "_scratch_bytes", kd_scratch_bytes(e->m));
    constant_i64(e, "_arena_bytes", e->m->arena);
    return true;
}

bool kd_emit(const KdEmitJob *job, LLVMModuleRef module) {
    LLVMContextRef cx = LLVMGetModuleContext(module);
    KdEmitter e = {
        .m = job->m,
        .t = job->t,
        .symbol = job->symbol,
        .cx = cx,
        .module = module,
        .b = LLVMCreateBuilderInContext(cx),
        .i1 = LLVMInt1TypeInContext(cx),
        .i8 = LLVMInt8TypeInContext(cx),
        .i32 = LLVMInt32TypeInContext(cx),
        .i64 = LLVMInt64TypeInContext(cx),
        .f32 = LLVMFloatTypeInContext(cx),
        .f64 = LLVMDoubleTypeInContext(cx),
        .ptr = LLVMPointerTypeInContext(cx, 0),
        .empty = LLVMVoidTypeInContext(cx),
    };
    bool ok = kd_isa_of(job->t->triple, job->t->cpu, job->t->features, &e.isa);
    for (int i = 0; i < job->n_kernels && ok; i++)
        ok = emit_kernel(&e, job->kernels[i], job->local);
    if (ok && job->entry)
        ok = emit_entry(&e, job->pool);
    LLVMDisposeBuilder(e.b);
    return ok;
}
