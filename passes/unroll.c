/* unroll.c: repeats the bodies of short loops that are marked `unroll full`, so that their variable
 * becomes a constant.
 *
 * In: a kernel. Out: the same kernel rebuilt without those loops. Loops of unknown or many trips,
 * and partial unrolling, are left to code generation.
 */
#include "passes/passes.h"

enum { MOST_TRIPS = 64, MOST_INSTRS = 4096 };

typedef struct Unroll {
    const KlKernel *old;
    KlBuilder b;
    KlValue *map; /* by old value */
} Unroll;

static int size(const KlBlock *block) {
    int n = block->instrs.n;
    for (int j = 0; j < block->instrs.n; j++)
        if (block->instrs.v[j]->body) n += size(block->instrs.v[j]->body);
    return n;
}

static const KlInstr *copy_block(Unroll *u, const KlBlock *block);

static void copy_loop(Unroll *u, const KlInstr *i) {
    KlBuilder *b = &u->b;
    int n = i->n_results;
    const KlValue *params = i->body->params.v;
    KlValue *values = KD_NEW_ARRAY(b->cx, KlValue, n + 1), lo = u->map[i->in[0]],
            hi = u->map[i->in[1]];
    int64_t span, trips = -1;
    for (int j = 0; j < n; j++) values[j] = u->map[i->in[2 + j]];
    if (kl_is_const(b, kl_op2(b, KL_OP_SUB, hi, lo), &span))
        trips = span > 0 ? (span - 1) / i->imm + 1 : 0;
    bool repeat = i->unroll == UINT16_MAX && trips >= 0 && trips <= MOST_TRIPS &&
                  trips * size(i->body) <= MOST_INSTRS;
    if (repeat) {
        for (int64_t t = 0; t < trips; t++) {
            u->map[params[0]] = kl_op2(b, KL_OP_ADD, lo, kl_i64(b, t * i->imm));
            for (int j = 0; j < n; j++) u->map[params[1 + j]] = values[j];
            const KlInstr *yield = copy_block(u, i->body);
            for (int j = 0; j < n; j++) values[j] = u->map[yield->in[j]];
        }
    } else {
        KlFor f = kl_for_begin(b, lo, hi, i->imm, n, values);
        f.instr->unroll = i->unroll;
        f.instr->vector = i->vector;
        f.instr->fold = i->fold;
        u->map[params[0]] = f.i;
        for (int j = 0; j < n; j++) u->map[params[1 + j]] = f.carried[j];
        const KlInstr *yield = copy_block(u, i->body);
        for (int j = 0; j < n; j++) values[j] = u->map[yield->in[j]];
        kl_for_end(b, &f, values, values);
    }
    for (int j = 0; j < n; j++) u->map[i->result + (KlValue)j] = values[j];
}

/* The block's yield, if it has one. */
static const KlInstr *copy_block(Unroll *u, const KlBlock *block) {
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_YIELD) return i;
        if (i->op == KL_OP_FOR) {
            copy_loop(u, i);
        } else if (i->op == KL_OP_IF) {
            KlIf f = kl_if_begin(&u->b, u->map[i->in[0]]);
            copy_block(u, i->body);
            kl_if_end(&u->b, &f);
        } else {
            KlValue in[3] = {KL_NONE, KL_NONE, KL_NONE};
            for (int k = 0; k < i->n_in; k++) in[k] = u->map[i->in[k]];
            KlValue v = kl_rebuild(&u->b, i, in, i->type);
            if (i->n_results) u->map[i->result] = v;
        }
    }
    return NULL;
}

static bool has_full(const KlBlock *block) {
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if ((i->op == KL_OP_FOR && i->unroll == UINT16_MAX) || (i->body && has_full(i->body)))
            return true;
    }
    return false;
}

void kl_unroll(KlKernel *k) {
    if (!has_full(&k->body)) return;
    KlKernel *new = kl_kernel_new(k->cx, k->what, k->range);
    for (int j = 0; j < k->bufs.n; j++) kd_push(k->cx, &new->bufs, k->bufs.v[j]);
    Unroll u = {k, kl_builder(new), KD_NEW_ARRAY(k->cx, KlValue, k->types.n)};
    u.map[k->body.params.v[0]] = kl_parallel_index(new);
    copy_block(&u, &k->body);
    kl_sweep(new);
    k->body = new->body;
    k->types.v = new->types.v;
    k->types.n = new->types.n;
    k->types.cap = new->types.cap;
}
