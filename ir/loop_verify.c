/* loop_verify.c: checks everything loop.h promises of a module, so that what comes after may rely
 * on it.
 *
 * In: any module whose memory is sound. Out: true, or false and one sentence naming kernel and
 * instruction. Kernels: every value is defined once and before its uses, in a block that encloses
 * them; operand and result types fit the instruction; bodies end in a yield of the right types;
 * buffers exist and have the type and access used; names are unique. The plan: a call has one
 * argument per buffer that is not scratch, of the right type, aligned, and inside the extern, the
 * arena or the pool.
 */
#include "ir/loop.h"

#include <string.h>

#include "ir/loop_text.h"

typedef struct Check {
    const KlKernel *k;
    KdStr *why;
    uint8_t
        *defined; /* by value: 1 visible here, 2 was visible in a block that is closed, 0 not yet */
} Check;

static const int operand_count[KL_OP_COUNT] = {
#define KL(id, spelling, n, ...) [KL_OP_##id] = n,
#include "ir/loop.def"
#undef KL
};

static bool same(KlType a, KlType b) {
    return a.scalar == b.scalar && a.lanes == b.lanes;
}

static bool bad(Check *c, const KlInstr *i, const char *what) {
    kd_str_printf(c->why, "kernel @%s (%s): %s: %s", c->k->name, c->k->what, kl_op_text[i->op],
                  what);
    return false;
}

static bool sound_type(KlType t) {
    return t.scalar >= KL_I1 && t.scalar <= KL_F32 && t.lanes >= 1 && t.lanes <= 64 &&
           (t.lanes & (t.lanes - 1)) == 0;
}

static bool define(Check *c, const KlInstr *i, KlValue v) {
    if (v >= (KlValue)c->k->types.n) return bad(c, i, "result without a type");
    if (c->defined[v]) return bad(c, i, "a value is defined twice");
    if (!sound_type(kl_vtype(c->k, v))) return bad(c, i, "impossible type");
    c->defined[v] = 1;
    return true;
}

static bool check_arithmetic(Check *c, const KlInstr *i) {
    KlOp op = (KlOp)i->op;
    KlType t = kl_vtype(c->k, i->in[0]);
    for (int j = 1; j < i->n_in; j++)
        if (!same(t, kl_vtype(c->k, i->in[j]))) return bad(c, i, "operands of different types");
    bool number = t.scalar == KL_F32 || t.scalar == KL_I32 || t.scalar == KL_I64,
         whole = number && t.scalar != KL_F32;
    bool bits = op == KL_OP_AND || op == KL_OP_OR || op == KL_OP_XOR;
    bool floats = op == KL_OP_FMA || op == KL_OP_SQRT || op == KL_OP_FLOOR || op == KL_OP_ROUND;
    bool ints = op == KL_OP_REM || op == KL_OP_SHL || op == KL_OP_SHR;
    bool ok = bits     ? whole || t.scalar == KL_I1
              : floats ? t.scalar == KL_F32
              : ints   ? whole
                       : number;
    if (!ok) return bad(c, i, "operand type");
    if (op == KL_OP_CMP) {
        if (i->imm < KL_EQ || i->imm > KL_GE) return bad(c, i, "predicate");
        t.scalar = KL_I1;
    }
    return same(i->type, t) || bad(c, i, "result type");
}

static bool check_lanes(Check *c, const KlInstr *i) {
    KlOp op = (KlOp)i->op;
    KlType t = kl_vtype(c->k, i->in[0]), r = i->type;
    if (op == KL_OP_SELECT) {
        bool arms = same(r, kl_vtype(c->k, i->in[1])) && same(r, kl_vtype(c->k, i->in[2]));
        return (arms && t.scalar == KL_I1 && t.lanes == r.lanes) || bad(c, i, "operand types");
    }
    if (op == KL_OP_CVT)
        return (t.lanes == r.lanes && t.scalar != r.scalar && r.scalar != KL_I1) ||
               bad(c, i, "types");
    if (op == KL_OP_BITCAST) {
        bool pair = (t.scalar == KL_F32 && r.scalar == KL_I32) ||
                    (t.scalar == KL_I32 && r.scalar == KL_F32);
        return (pair && t.lanes == r.lanes) || bad(c, i, "types");
    }
    if (t.scalar != r.scalar) return bad(c, i, "result type");
    if (op == KL_OP_SPLAT) return (t.lanes == 1 && r.lanes > 1) || bad(c, i, "lanes");
    if (op == KL_OP_EXTRACT)
        return (r.lanes == 1 && i->imm >= 0 && i->imm < t.lanes) || bad(c, i, "lane");
    if (op == KL_OP_SHUFFLE) {
        if (!same(t, kl_vtype(c->k, i->in[1])) || !i->shuffle) return bad(c, i, "operand types");
        for (int l = 0; l < r.lanes; l++)
            if (i->shuffle[l] < 0 || i->shuffle[l] >= 2 * t.lanes)
                return bad(c, i, "selector out of range");
        return true;
    }
    bool number = t.scalar == KL_F32 || t.scalar == KL_I32 || t.scalar == KL_I64;
    return (r.lanes == 1 && number) || bad(c, i, "types"); /* reductions */
}

static bool check_memory(Check *c, const KlInstr *i) {
    KlOp op = (KlOp)i->op;
    bool writes = op == KL_OP_STORE || op == KL_OP_SCATTER,
         many = op == KL_OP_GATHER || op == KL_OP_SCATTER;
    if (i->imm < 0 || i->imm >= c->k->bufs.n) return bad(c, i, "no such buffer");
    const KlBuf *buf = &c->k->bufs.v[i->imm];
    if (i->type.scalar != buf->dtype || !sound_type(i->type))
        return bad(c, i, "type of the value against the buffer's");
    if (writes && buf->access == KL_IN) return bad(c, i, "writes an input buffer");
    bool counted = writes ? i->n_in == 2 || i->n_in == 3 : i->n_in == 1 || i->n_in == 3;
    if (!counted) return bad(c, i, "operand count");
    KlType idx = kl_vtype(c->k, i->in[0]);
    if (many ? idx.scalar != KL_I32 || idx.lanes != i->type.lanes
             : idx.scalar != KL_I64 || idx.lanes != 1)
        return bad(c, i, "index type");
    if (writes && !same(kl_vtype(c->k, i->in[1]), i->type)) return bad(c, i, "value type");
    if (i->n_in == 3) {
        KlType mask = kl_vtype(c->k, i->in[writes ? 2 : 1]);
        if (mask.scalar != KL_I1 || mask.lanes != i->type.lanes) return bad(c, i, "mask type");
        if (!writes && !same(kl_vtype(c->k, i->in[2]), i->type)) return bad(c, i, "type of else");
    }
    return true;
}

static bool check_block(Check *c, const KlInstr *owner, const KlBlock *block, int depth);

static bool check_for(Check *c, const KlInstr *i, int depth) {
    const KlType i64 = kl_type(KL_I64, 1);
    if (i->n_in < 2 || i->n_in != i->n_results + 2) return bad(c, i, "operand count");
    if (!same(kl_vtype(c->k, i->in[0]), i64) || !same(kl_vtype(c->k, i->in[1]), i64))
        return bad(c, i, "bounds are not i64");
    if (i->imm <= 0) return bad(c, i, "step is not positive");
    if (!i->body || i->body->params.n != i->n_results + 1) return bad(c, i, "body");
    if (i->fold && i->fold != KL_OP_ADD && i->fold != KL_OP_MAX && i->fold != KL_OP_MIN)
        return bad(c, i, "fold");
    for (int j = 0; j < i->body->params.n; j++) {
        KlValue p = i->body->params.v[j];
        if (!define(c, i, p)) return false;
        if (!same(kl_vtype(c->k, p), j ? kl_vtype(c->k, i->in[1 + j]) : i64))
            return bad(c, i, "type of a body parameter");
    }
    return check_block(c, i, i->body, depth + 1);
}

static bool check_yield(Check *c, const KlInstr *owner, const KlInstr *i) {
    int n = owner && owner->op == KL_OP_FOR ? owner->n_results : 0;
    if (!owner) return bad(c, i, "outside of a loop");
    if (i->n_in != n) return bad(c, i, "operand count");
    for (int j = 0; j < n; j++)
        if (!same(kl_vtype(c->k, i->in[j]), kl_vtype(c->k, owner->in[2 + j])))
            return bad(c, i, "a carried value changes its type");
    return true;
}

static bool check_instr(Check *c, const KlInstr *owner, const KlInstr *i, int depth) {
    for (int j = 0; j < i->n_in; j++) {
        if (i->in[j] >= (KlValue)c->k->types.n || c->defined[i->in[j]] == 0)
            return bad(c, i, "an operand is not defined before it is used");
        if (c->defined[i->in[j]] == 2)
            return bad(c, i, "an operand is defined in a block that does not enclose its use");
    }
    if (operand_count[i->op] >= 0 && i->n_in != operand_count[i->op])
        return bad(c, i, "operand count");
    bool ok = true;
    switch ((KlOp)i->op) {
    case KL_OP_CONST: ok = sound_type(i->type) || bad(c, i, "type"); break;
    case KL_OP_IOTA:
        ok = (sound_type(i->type) && (i->type.scalar == KL_I32 || i->type.scalar == KL_I64)) ||
             bad(c, i, "type");
        break;
    case KL_OP_ADD: case KL_OP_SUB: case KL_OP_MUL: case KL_OP_DIV: case KL_OP_REM: case KL_OP_MIN:
    case KL_OP_MAX: case KL_OP_FMA: case KL_OP_NEG: case KL_OP_ABS: case KL_OP_SQRT:
    case KL_OP_FLOOR: case KL_OP_ROUND: case KL_OP_AND: case KL_OP_OR: case KL_OP_XOR:
    case KL_OP_SHL: case KL_OP_SHR: case KL_OP_CMP: ok = check_arithmetic(c, i); break;
    case KL_OP_SELECT: case KL_OP_CVT: case KL_OP_BITCAST: case KL_OP_SPLAT: case KL_OP_EXTRACT:
    case KL_OP_SHUFFLE: case KL_OP_REDUCE_ADD: case KL_OP_REDUCE_MAX:
    case KL_OP_REDUCE_MIN: ok = sound_type(i->type) ? check_lanes(c, i) : bad(c, i, "type"); break;
    case KL_OP_LOAD: case KL_OP_GATHER: case KL_OP_PREFETCH: case KL_OP_STORE:
    case KL_OP_SCATTER: ok = check_memory(c, i); break;
    case KL_OP_FOR: ok = check_for(c, i, depth); break;
    case KL_OP_IF:
        ok = same(kl_vtype(c->k, i->in[0]), kl_type(KL_I1, 1)) && i->body && i->body->params.n == 0
                 ? check_block(c, i, i->body, depth + 1)
                 : bad(c, i, "condition or body");
        break;
    case KL_OP_YIELD: ok = check_yield(c, owner, i); break;
    case KL_OP_COUNT: return false;
    }
    if (!ok) return false;
    bool yields =
        i->op != KL_OP_STORE && i->op != KL_OP_SCATTER && i->op != KL_OP_PREFETCH && i->op != KL_OP_IF &&
        i->op != KL_OP_YIELD;
    if (i->op == KL_OP_FOR ? false : i->n_results != (yields ? 1 : 0))
        return bad(c, i, "result count");
    for (int r = 0; r < i->n_results; r++) {
        if (!define(c, i, i->result + (KlValue)r)) return false;
        KlType t = kl_vtype(c->k, i->result + (KlValue)r);
        if (!same(t, i->op == KL_OP_FOR ? kl_vtype(c->k, i->in[2 + r]) : i->type))
            return bad(c, i, "type of the result");
    }
    return true;
}

static bool check_block(Check *c, const KlInstr *owner, const KlBlock *block, int depth) {
    int n = block->instrs.n;
    if (depth > 200) return bad(c, owner, "nested too deeply");
    for (int j = 0; j < n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op >= KL_OP_COUNT) {
            kd_str_printf(c->why, "kernel @%s: no such instruction", c->k->name);
            return false;
        }
        if (!check_instr(c, owner, i, depth)) return false;
        if (i->op == KL_OP_YIELD && j != n - 1) return bad(c, i, "not last in its block");
    }
    if (owner && (n == 0 || block->instrs.v[n - 1]->op != KL_OP_YIELD))
        return bad(c, owner, "a body without a yield at its end");
    for (int j = 0; j < block->params.n; j++) c->defined[block->params.v[j]] = 2;
    for (int j = 0; j < n; j++)
        for (int r = 0; r < block->instrs.v[j]->n_results; r++)
            c->defined[block->instrs.v[j]->result + (KlValue)r] = 2;
    return true;
}

static bool check_kernel(const KlKernel *k, KdStr *why) {
    const char *wrong = NULL;
    if (k->range < 0) wrong = "negative range";
    if (k->grain < 1) wrong = "grain below 1";
    if (k->body.params.n != 1 || k->types.n < 1 ||
        !same(kl_vtype(k, k->body.params.v[0]), kl_type(KL_I64, 1)))
        wrong = "the body takes one i64";
    for (int j = 0; j < k->bufs.n; j++) {
        const KlBuf *b = &k->bufs.v[j];
        if (b->count < 0 || (b->dtype != KL_F32 && b->dtype != KL_I32 && b->dtype != KL_U8))
            wrong = "a buffer's type";
        for (int l = 0; l < j; l++)
            if (!strcmp(k->bufs.v[l].name, b->name)) wrong = "two buffers of one name";
    }
    if (wrong) {
        kd_str_printf(why, "kernel @%s (%s): %s", k->name, k->what, wrong);
        return false;
    }
    Check c = {k, why, KD_NEW_ARRAY(k->cx, uint8_t, k->types.n)};
    c.defined[k->body.params.v[0]] = 1;
    return check_block(&c, NULL, &k->body, 0);
}

static int64_t dtype_size(KlScalar s) {
    return s == KL_U8 ? 1 : 4;
}

static bool check_arg(const KlModule *m, const KlBuf *buf, const KlArg *a, const char **wrong) {
    int64_t bytes, end, room = 0;
    if (!kd_mul_ok(buf->count, dtype_size(buf->dtype), &bytes) || a->offset < 0 ||
        !kd_add_ok(a->offset, bytes, &end)) {
        *wrong = "offset";
        return false;
    }
    if (a->kind == KL_ARG_EXTERN) {
        if (a->index < 0 || a->index >= m->externs.n) return *wrong = "no such extern", false;
        const KlExtern *e = &m->externs.v[a->index];
        if (e->dtype != buf->dtype) return *wrong = "type of the extern", false;
        if (!e->written && buf->access != KL_IN)
            return *wrong = "writes an extern that is not written", false;
        if (a->offset % dtype_size(buf->dtype)) return *wrong = "alignment", false;
        room = e->count * dtype_size(e->dtype);
    } else {
        if (a->offset % 64) return *wrong = "alignment", false;
        if (a->kind == KL_ARG_POOL && buf->access != KL_IN)
            return *wrong = "writes the constant pool", false;
        room = a->kind == KL_ARG_ARENA ? m->arena : m->pool.n;
    }
    if (end > room) return *wrong = "outside of the memory it names", false;
    return true;
}

/* What stays from run to run is written by calls marked `once`, and these depend on nothing that a run changes. */
static bool check_kept(const KlModule *m, const KlCall *call, const KlBuf *buf, const KlArg *a, const char **wrong) {
    bool writes = buf->access != KL_IN, kept = a->kind == KL_ARG_ARENA && m->kept && a->offset >= m->arena - m->kept;
    if (writes && kept != call->once) {
        *wrong = kept ? "stays from run to run: only a call marked `once` may write it" : "a call marked `once` writes what does not stay";
        return false;
    }
    if (call->once && !kept && (a->kind == KL_ARG_ARENA || (a->kind == KL_ARG_EXTERN && m->externs.v[a->index].written))) {
        *wrong = "a call marked `once` reads what runs change";
        return false;
    }
    return true;
}

bool kl_verify(const KlModule *m, KdStr *why) {
    for (int j = 0; j < m->kernels.n; j++)
        if (!check_kernel(m->kernels.v[j], why)) return false;
    if (m->arena < 0 || m->kept < 0 || m->kept > m->arena) {
        kd_str_printf(why, m->arena < 0 ? "negative arena" : "more of the arena is kept than there is");
        return false;
    }
    for (int c = 0; c < m->calls.n; c++) {
        const KlCall *call = &m->calls.v[c];
        if (call->kernel < 0 || call->kernel >= m->kernels.n) {
            kd_str_printf(why, "call %d: no such kernel", c);
            return false;
        }
        const KlKernel *k = m->kernels.v[call->kernel];
        for (int j = 0, n = 0; j < k->bufs.n; j++) {
            const char *wrong = NULL;
            if (k->bufs.v[j].access == KL_SCRATCH) continue;
            const KlArg *arg = &call->args[n++];
            if (check_arg(m, &k->bufs.v[j], arg, &wrong) && check_kept(m, call, &k->bufs.v[j], arg, &wrong)) continue;
            kd_str_printf(why, "call %d of @%s: buffer %s: %s", c, k->name, k->bufs.v[j].name,
                          wrong);
            return false;
        }
    }
    return true;
}
