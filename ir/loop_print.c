/* loop_print.c: loop IR as canonical text. loop_parse.c reads it back: print(parse(t)) == t.
 *
 * Grammar ([x] optional, x* repeated, 'x' literal; a line ends where shown by nl; # starts a comment when parsing):
 *
 *   module   = 'module' '@'name nl kernel* extern* ['arena' int ['kept' int] nl] ['pool' int '{' nl (hex nl)* '}' nl] call*
 *   kernel   = 'kernel' '@'name 'range' int ['grain' int] ['flops' float] ['bytes' float] [string] '{' nl
 *              buffer* 'body' '(' value ')' '{' nl line* '}' nl '}' nl
 *   buffer   = 'buf' name ':' scalar '[' int ']' ('in' | 'out' | 'inout') nl  |  'scratch' name ':' scalar '[' int ']' nl
 *   line     = value '=' op type operand (',' operand)* nl        add sub ... xor shl shr fma neg abs sqrt floor round
 *            | value '=' 'iota' type nl
 *            | value '=' 'cmp' pred type operand ',' operand nl   type: of the operands; pred: eq ne lt le gt ge
 *            | value '=' 'select' type operand ',' operand ',' operand nl
 *            | value '=' ('cvt' | 'bitcast' | 'splat') type type operand nl        to, from
 *            | value '=' 'extract' type operand ',' int nl        type: of the vector
 *            | value '=' 'shuffle' type type operand ',' operand '[' int (',' int)* ']' nl     to, from
 *            | value '=' ('reduce_add' | 'reduce_max' | 'reduce_min') type operand nl          type: of the vector
 *            | value '=' ('load' | 'gather') type name '[' operand ']' ['if' operand 'else' operand] nl
 *            | 'prefetch' type name '[' operand ']' nl
 *            | ('store' | 'scatter') type name '[' operand ']' ',' operand ['if' operand] nl
 *            | [value (',' value)* '='] 'for' value '=' operand '..' operand 'step' int
 *              ['carry' '(' value ':' type '=' operand (',' ...)* ')'] ['unroll' (int | 'full')] ['vector' int]
 *              ['fold' ('add' | 'max' | 'min')] '{' nl line* '}' nl
 *            | 'if' operand '{' nl line* '}' nl
 *            | 'yield' operand (',' operand)* nl                  last in a loop that carries values
 *   extern   = 'extern' string ':' scalar '[' int ']' ['written'] nl
 *   call     = 'call' ['once'] '@'name '(' [arg (',' arg)*] ')' nl
 *   arg      = ('extern' int | 'arena' | 'pool') '+' int          bytes
 *   operand  = value | literal        value = '%'int
 *   type     = scalar ['x' int]       scalar = 'i1' | 'u8' | 'i32' | 'i64' | 'f32'
 *   literal  = int | float | 'true' | 'false' | 'inf' | '-inf' | 'nan' [':' hex]
 *
 * Values are numbered from 0 as they are defined: of a loop first its variable, its results, its carried values, then
 * its body. Constants have no line of their own: they stand where they are used, of the type expected there (9
 * significant digits, which give the float back exactly). Two spaces of indent a level.
 */
#include "ir/loop_text.h"

#include <math.h>
#include <string.h>

const char *const kl_op_text[KL_OP_COUNT] = {
#define KL(id, spelling, ...) [KL_OP_##id] = spelling,
#include "ir/loop.def"
#undef KL
};
const char *const kl_scalar_text[6] = {"void", "i1", "u8", "i32", "i64", "f32"};
const char *const kl_pred_text[6] = {"eq", "ne", "lt", "le", "gt", "ge"};
const char *const kl_access_text[4] = {"in", "out", "inout", "scratch"};

typedef struct Printer {
    KdStr *s;
    const KlKernel *k;
    const KlInstr **consts; /* by value: its CONST, or NULL */
    uint32_t *number;       /* by value */
    uint32_t next;
} Printer;

static void number_block(Printer *p, const KlBlock *block) {
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_CONST) {
            p->consts[i->result] = i;
            continue;
        }
        if (i->op == KL_OP_FOR) p->number[i->body->params.v[0]] = p->next++;
        for (int r = 0; r < i->n_results; r++) p->number[i->result + (KlValue)r] = p->next++;
        if (i->op == KL_OP_FOR)
            for (int r = 1; r < i->body->params.n; r++) p->number[i->body->params.v[r]] = p->next++;
        if (i->body) number_block(p, i->body);
    }
}

static void print_type(Printer *p, KlType t) {
    kd_str_printf(p->s, t.lanes > 1 ? "%sx%d" : "%s", kl_scalar_text[t.scalar], t.lanes);
}

static void print_float(KdStr *s, double value) {
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (isnan(f) && bits == UINT32_C(0x7fc00000)) kd_str_printf(s, "nan");
    else if (isnan(f)) kd_str_printf(s, "nan:%08x", (unsigned)bits);
    else kd_str_printf(s, "%.9g", (double)f);
}

static void print_operand(Printer *p, KlValue v) {
    const KlInstr *c = p->consts[v];
    if (!c) kd_str_printf(p->s, "%%%u", p->number[v]);
    else if (c->type.scalar == KL_F32) print_float(p->s, c->fimm);
    else if (c->type.scalar == KL_I1) kd_str_printf(p->s, c->imm ? "true" : "false");
    else kd_str_printf(p->s, "%lld", (long long)c->imm);
}

static void print_operands(Printer *p, const KlInstr *i) {
    for (int j = 0; j < i->n_in; j++) {
        kd_str_printf(p->s, j ? ", " : " ");
        print_operand(p, i->in[j]);
    }
}

static void print_buffer(Printer *p, int64_t buf) {
    kd_str_printf(p->s, " %s[", p->k->bufs.v[buf].name);
}

static void print_block(Printer *p, const KlBlock *block, int indent);

static void print_loop(Printer *p, const KlInstr *i, int indent) {
    kd_str_printf(p->s, "for %%%u = ", p->number[i->body->params.v[0]]);
    print_operand(p, i->in[0]);
    kd_str_printf(p->s, " .. ");
    print_operand(p, i->in[1]);
    kd_str_printf(p->s, " step %lld", (long long)i->imm);
    for (int j = 2; j < i->n_in; j++) {
        KlValue param = i->body->params.v[j - 1];
        kd_str_printf(p->s, j == 2 ? " carry(%%%u: " : ", %%%u: ", p->number[param]);
        print_type(p, kl_vtype(p->k, param));
        kd_str_printf(p->s, " = ");
        print_operand(p, i->in[j]);
    }
    if (i->n_in > 2) kd_str_printf(p->s, ")");
    if (i->unroll == UINT16_MAX) kd_str_printf(p->s, " unroll full");
    else if (i->unroll > 1) kd_str_printf(p->s, " unroll %d", i->unroll);
    if (i->vector > 1) kd_str_printf(p->s, " vector %d", i->vector);
    if (i->fold) kd_str_printf(p->s, " fold %s", kl_op_text[i->fold]);
    kd_str_printf(p->s, " {\n");
    print_block(p, i->body, indent + 1);
    kd_str_printf(p->s, "%*s}\n", 2 * indent, "");
}

static void print_memory(Printer *p, const KlInstr *i) {
    bool writes = i->op == KL_OP_STORE || i->op == KL_OP_SCATTER;
    int mask = writes ? 2 : 1;
    kd_str_printf(p->s, "%s ", kl_op_text[i->op]);
    print_type(p, i->type);
    print_buffer(p, i->imm);
    print_operand(p, i->in[0]);
    kd_str_printf(p->s, "]");
    if (writes) {
        kd_str_printf(p->s, ", ");
        print_operand(p, i->in[1]);
    }
    if (i->n_in > mask) {
        kd_str_printf(p->s, " if ");
        print_operand(p, i->in[mask]);
    }
    if (!writes && i->n_in > 1) {
        kd_str_printf(p->s, " else ");
        print_operand(p, i->in[2]);
    }
    kd_str_printf(p->s, "\n");
}

static void print_plain(Printer *p, const KlInstr *i) {
    kd_str_printf(p->s, "%s ", kl_op_text[i->op]);
    if (i->op == KL_OP_CMP) kd_str_printf(p->s, "%s ", kl_pred_text[i->imm]);
    bool by_operand = i->op == KL_OP_CMP || i->op == KL_OP_EXTRACT || i->op == KL_OP_REDUCE_ADD ||
                      i->op == KL_OP_REDUCE_MAX || i->op == KL_OP_REDUCE_MIN;
    print_type(p, by_operand ? kl_vtype(p->k, i->in[0]) : i->type);
    if (i->op == KL_OP_CVT || i->op == KL_OP_BITCAST || i->op == KL_OP_SPLAT ||
        i->op == KL_OP_SHUFFLE) {
        kd_str_printf(p->s, " ");
        print_type(p, kl_vtype(p->k, i->in[0]));
    }
    print_operands(p, i);
    if (i->op == KL_OP_EXTRACT) kd_str_printf(p->s, ", %lld", (long long)i->imm);
    if (i->op == KL_OP_SHUFFLE) {
        for (int j = 0; j < i->type.lanes; j++)
            kd_str_printf(p->s, j ? ", %d" : " [%d", i->shuffle[j]);
        kd_str_printf(p->s, "]");
    }
    kd_str_printf(p->s, "\n");
}

static void print_block(Printer *p, const KlBlock *block, int indent) {
    for (int j = 0; j < block->instrs.n; j++) {
        const KlInstr *i = block->instrs.v[j];
        if (i->op == KL_OP_CONST || (i->op == KL_OP_YIELD && i->n_in == 0)) continue;
        kd_str_printf(p->s, "%*s", 2 * indent, "");
        for (int r = 0; r < i->n_results; r++)
            kd_str_printf(p->s, r + 1 < i->n_results ? "%%%u, " : "%%%u = ",
                          p->number[i->result + (KlValue)r]);
        if (i->op == KL_OP_FOR) {
            print_loop(p, i, indent);
        } else if (i->op == KL_OP_IF) {
            kd_str_printf(p->s, "if");
            print_operands(p, i);
            kd_str_printf(p->s, " {\n");
            print_block(p, i->body, indent + 1);
            kd_str_printf(p->s, "%*s}\n", 2 * indent, "");
        } else if (i->op == KL_OP_YIELD) {
            kd_str_printf(p->s, "yield");
            print_operands(p, i);
            kd_str_printf(p->s, "\n");
        } else if (i->op == KL_OP_LOAD || i->op == KL_OP_GATHER || i->op == KL_OP_STORE ||
                   i->op == KL_OP_SCATTER || i->op == KL_OP_PREFETCH) {
            print_memory(p, i);
        } else {
            print_plain(p, i);
        }
    }
}

static void print_string(KdStr *s, const char *text) {
    kd_str_printf(s, " \"");
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') kd_str_printf(s, "\\%c", c);
        else if (c < 32 || c == 127) kd_str_printf(s, "\\x%02x", c);
        else kd_str_add(s, text, 1);
    }
    kd_str_printf(s, "\"");
}

void kl_print_kernel(KdStr *s, const KlKernel *k) {
    Printer p = {.s = s, .k = k};
    int n = k->types.n ? k->types.n : 1;
    p.consts = KD_NEW_ARRAY(s->cx, const KlInstr *, n);
    p.number = KD_NEW_ARRAY(s->cx, uint32_t, n);
    p.number[k->body.params.v[0]] = p.next++;
    number_block(&p, &k->body);
    kd_str_printf(s, "kernel @%s range %lld", k->name, (long long)k->range);
    if (k->grain != 1) kd_str_printf(s, " grain %lld", (long long)k->grain);
    if (k->flops != 0) kd_str_printf(s, " flops %.17g", k->flops);
    if (k->bytes != 0) kd_str_printf(s, " bytes %.17g", k->bytes);
    if (k->what && *k->what) print_string(s, k->what);
    kd_str_printf(s, " {\n");
    for (int j = 0; j < k->bufs.n; j++) {
        const KlBuf *buf = &k->bufs.v[j];
        kd_str_printf(s, buf->access == KL_SCRATCH ? "  scratch " : "  buf ");
        kd_str_printf(s, "%s", buf->name);
        kd_str_printf(s, ": %s[%lld]", kl_scalar_text[buf->dtype], (long long)buf->count);
        if (buf->access != KL_SCRATCH) kd_str_printf(s, " %s", kl_access_text[buf->access]);
        kd_str_printf(s, "\n");
    }
    kd_str_printf(s, "  body(%%0) {\n");
    print_block(&p, &k->body, 2);
    kd_str_printf(s, "  }\n}\n");
}

static void print_pool(KdStr *s, const KlModule *m) {
    static const char digits[] = "0123456789abcdef";
    kd_str_printf(s, "pool %d {", m->pool.n);
    for (int j = 0; j < m->pool.n; j++) {
        char hex[2] = {digits[m->pool.v[j] >> 4], digits[m->pool.v[j] & 15]};
        if (j % 32 == 0) kd_str_add(s, "\n  ", 3);
        kd_str_add(s, hex, 2);
    }
    kd_str_printf(s, "\n}\n");
}

void kl_print_module(KdStr *s, const KlModule *m) {
    kd_str_printf(s, "module @%s\n", m->name);
    for (int j = 0; j < m->kernels.n; j++) kl_print_kernel(s, m->kernels.v[j]);
    for (int j = 0; j < m->externs.n; j++) {
        const KlExtern *e = &m->externs.v[j];
        kd_str_printf(s, "extern");
        print_string(s, e->name);
        kd_str_printf(s, ": %s[%lld]%s\n", kl_scalar_text[e->dtype], (long long)e->count,
                      e->written ? " written" : "");
    }
    if (m->arena) kd_str_printf(s, "arena %lld", (long long)m->arena);
    if (m->kept) kd_str_printf(s, " kept %lld", (long long)m->kept);
    if (m->arena) kd_str_printf(s, "\n");
    if (m->pool.n) print_pool(s, m);
    for (int j = 0; j < m->calls.n; j++) {
        const KlCall *c = &m->calls.v[j];
        const KlKernel *k = m->kernels.v[c->kernel];
        kd_str_printf(s, "call %s@%s(", c->once ? "once " : "", k->name);
        for (int a = 0, n = 0; a < k->bufs.n; a++) {
            if (k->bufs.v[a].access == KL_SCRATCH) continue;
            const KlArg *arg = &c->args[n];
            if (n++) kd_str_printf(s, ", ");
            if (arg->kind == KL_ARG_EXTERN) kd_str_printf(s, "extern %d + ", arg->index);
            else kd_str_printf(s, arg->kind == KL_ARG_ARENA ? "arena + " : "pool + ");
            kd_str_printf(s, "%lld", (long long)arg->offset);
        }
        kd_str_printf(s, ")\n");
    }
}
