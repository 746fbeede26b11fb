/* loop_identity.c: what makes two kernels the same kernel, as bytes.
 *
 * Everything that the canonical text says but names, with values numbered in order of definition: equal bytes if and only
 * if equal texts. A compiled session adds a thousand kernels of which most are repetitions, so this is written as
 * numbers; printing them took longer than making them.
 */
#include <string.h>

#include "ir/loop_fold.h"

typedef struct Identity {
    const KlKernel *k;
    KdStr *out;
    uint32_t *number; /* by value: its place in the order of definition */
    uint32_t next;
} Identity;

static void put(Identity *d, const void *p, size_t n) { kd_str_add(d->out, p, n); }

static void put_number(Identity *d, uint64_t x) { put(d, &x, sizeof x); }

static void define(Identity *d, KlValue v) { d->number[v] = d->next++; }

static void put_block(Identity *d, const KlBlock *b);

static void put_instr(Identity *d, const KlInstr *i) {
    uint32_t head[8] = {i->op, i->n_in, i->n_results, i->type.scalar, i->type.lanes, i->unroll, i->vector, i->fold};
    put(d, head, sizeof head);
    put_number(d, (uint64_t)i->imm);
    put(d, &i->fimm, sizeof i->fimm);
    for (int k = 0; k < i->n_in; k++) put(d, &d->number[i->in[k]], sizeof *d->number);
    if (i->shuffle) put(d, i->shuffle, i->type.lanes * sizeof *i->shuffle);
    if (i->body) put_block(d, i->body);
    for (int k = 0; k < i->n_results; k++) define(d, i->result + (KlValue)k);
}

static void put_block(Identity *d, const KlBlock *b) {
    put_number(d, (uint64_t)b->params.n);
    for (int k = 0; k < b->params.n; k++) {
        KlType t = kl_vtype(d->k, b->params.v[k]);
        put(d, &t, sizeof t);
        define(d, b->params.v[k]);
    }
    put_number(d, (uint64_t)b->instrs.n);
    for (int k = 0; k < b->instrs.n; k++) put_instr(d, b->instrs.v[k]);
}

void kl_identity(KdStr *out, const KlKernel *k) {
    Identity d = {k, out, KD_NEW_ARRAY(k->cx, uint32_t, k->types.n + 1), 0};
    put_number(&d, (uint64_t)k->range);
    put_number(&d, (uint64_t)k->grain);
    put(&d, &k->flops, sizeof k->flops);
    put(&d, &k->bytes, sizeof k->bytes);
    put_number(&d, (uint64_t)k->bufs.n);
    for (int i = 0; i < k->bufs.n; i++) {
        put_number(&d, (uint64_t)k->bufs.v[i].dtype << 8 | (uint64_t)k->bufs.v[i].access);
        put_number(&d, (uint64_t)k->bufs.v[i].count);
    }
    put_block(&d, &k->body);
}
