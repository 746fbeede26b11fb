/* loop_parse.c: reads the text that loop_print.c writes (its head comment holds the grammar).
 *
 * In: any bytes. Out: a module that kl_verify accepts, or NULL after one diagnostic with file, line
 * and column. Nothing is folded or moved: every line becomes its instruction, and constants go to
 * the top of the kernel's body, once each. Recursive descent, one line an instruction; blocks nest
 * at most MAX_DEPTH deep, so no text can exhaust the stack.
 */
#include "ir/loop.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/loop_text.h"

enum { MAX_DEPTH = 64, MAX_IN = 4096 };

typedef struct Parser {
    KdContext *cx;
    const char *file, *text, *end, *at; /* a NUL follows the text */
    bool failed;
    KlModule *m;
    KlKernel *k;
    KdMap values;             /* the text's number -> value; UINT64_MAX where it is out of sight */
    KD_VEC(KlInstr *) consts; /* of the kernel */
    KD_VEC(uint64_t) visible; /* numbers, in order of definition */
} Parser;

/* ---- places and errors
 * ------------------------------------------------------------------------------  */

static KdLoc place(const Parser *p, const char *at) {
    KdPlace pl = {.file = p->file, .line = 1, .col = 1, .len = 1};
    for (const char *c = p->text; c < at; c++) {
        pl.col++;
        if (*c == '\n') pl.line++, pl.col = 1;
    }
    return kd_loc(p->cx, pl);
}

static bool wrong_at(Parser *p, const char *at, const char *fmt, ...) KD_PRINTF(3, 4);
static bool wrong_at(Parser *p, const char *at, const char *fmt, ...) {
    va_list ap;
    if (p->failed) return false;
    p->failed = true;
    va_start(ap, fmt);
    kd_error(p->cx, place(p, at), "%s", kd_vformat(p->cx, fmt, ap));
    va_end(ap);
    return false;
}

/* ---- words
 * --------------------------------------------------------------------------------------------  */

static void skip_blanks(Parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\r')) p->at++;
    if (p->at < p->end && *p->at == '#')
        while (p->at < p->end && *p->at != '\n') p->at++;
}

static void skip_lines(Parser *p) {
    for (skip_blanks(p); p->at < p->end && *p->at == '\n'; skip_blanks(p)) p->at++;
}

static bool line_end(Parser *p) {
    skip_blanks(p);
    if (p->at < p->end && *p->at != '\n') return wrong_at(p, p->at, "expected the end of the line");
    skip_lines(p);
    return true;
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
}

static size_t word_length(const Parser *p) {
    size_t n = 0;
    while (p->at + n < p->end && is_word(p->at[n])) n++;
    return n;
}

/* Takes the word if it is next. */
static bool accept(Parser *p, const char *word) {
    size_t n = strlen(word);
    skip_blanks(p);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n)) return false;
    if (is_word(word[n - 1]) && p->at + n < p->end && is_word(p->at[n])) return false;
    p->at += n;
    return true;
}

static bool expect(Parser *p, const char *word) {
    return accept(p, word) || wrong_at(p, p->at, "expected '%s'", word);
}

static bool name(Parser *p, const char **r) {
    skip_blanks(p);
    size_t n = word_length(p);
    if (n == 0) return wrong_at(p, p->at, "expected a name");
    *r = kd_intern(p->cx, p->at, n);
    p->at += n;
    return true;
}

static bool integer(Parser *p, int64_t *r) {
    skip_blanks(p);
    const char *from = p->at;
    bool minus = from < p->end && *from == '-';
    char *stop;
    if (!(from + minus < p->end && from[minus] >= '0' && from[minus] <= '9'))
        return wrong_at(p, from, "expected an integer");
    errno = 0;
    *r = strtoll(from, &stop, 10);
    if (errno) return wrong_at(p, from, "the integer does not fit 64 bits");
    p->at = stop;
    return true;
}

static bool natural(Parser *p, int64_t *r) {
    const char *from = p->at;
    return integer(p, r) &&
           (*r >= 0 || wrong_at(p, from, "expected an integer that is not negative"));
}

/* strtod on a copy: the text need not be a number at all, and hex floats or "infinity" are not
 * ours. */
static bool real(Parser *p, double *r) {
    char copy[64];
    size_t n = 0;
    skip_blanks(p);
    while (p->at + n < p->end && n < sizeof copy - 1 && p->at[n] &&
           strchr("0123456789+-.eE", p->at[n]))
        copy[n] = p->at[n], n++;
    copy[n] = 0;
    char *stop;
    *r = strtod(copy, &stop);
    if (stop == copy) return wrong_at(p, p->at, "expected a number");
    p->at += stop - copy;
    return true;
}

/* One of a list of words; -1 if none is next. */
static int one_of(Parser *p, const char *const *words, int n) {
    skip_blanks(p);
    size_t length = word_length(p);
    for (int j = 0; j < n; j++) {
        if (strlen(words[j]) != length || memcmp(words[j], p->at, length)) continue;
        p->at += length;
        return j;
    }
    return -1;
}

static bool string(Parser *p, const char **r) {
    KdStr s = {.cx = p->cx};
    kd_str_add(&s, "", 0);
    if (!expect(p, "\"")) return false;
    while (p->at < p->end && *p->at != '"' && *p->at != '\n') {
        char c = *p->at++;
        if (c == '\\' && p->end - p->at >= 3 && *p->at == 'x') {
            char hex[3] = {p->at[1], p->at[2], 0};
            c = (char)strtol(hex, NULL, 16);
            p->at += 3;
        } else if (c == '\\' && p->at < p->end) {
            c = *p->at++;
        }
        kd_str_add(&s, &c, 1);
    }
    if (!expect(p, "\"")) return false;
    *r = kd_intern(p->cx, s.n ? s.s : "", s.n);
    return true;
}

static bool scalar_type(Parser *p, KlScalar *s) {
    size_t n = 0;
    skip_blanks(p);
    while (p->at + n < p->end && is_word(p->at[n]) && p->at[n] != 'x') n++;
    for (int j = KL_I1; j <= KL_F32; j++) {
        if (strlen(kl_scalar_text[j]) != n || memcmp(kl_scalar_text[j], p->at, n)) continue;
        *s = (KlScalar)j;
        p->at += n;
        return true;
    }
    return wrong_at(p, p->at, "expected a type");
}

static bool type(Parser *p, KlType *t) {
    KlScalar s;
    int64_t lanes = 1;
    if (!scalar_type(p, &s)) return false;
    const char *from = p->at;
    if (from < p->end && *from == 'x') {
        p->at++;
        if (!natural(p, &lanes)) return false;
        if (lanes < 2 || lanes > 64 || (lanes & (lanes - 1)))
            return wrong_at(p, from + 1, "lanes are a power of two up to 64");
    }
    *t = kl_type(s, (int)lanes);
    return true;
}

/* ---- values
 * ---------------------------------------------------------------------------------------------  */

static bool same(KlType a, KlType b) {
    return a.scalar == b.scalar && a.lanes == b.lanes;
}

static const char *type_text(Parser *p, KlType t) {
    return kd_format(p->cx, t.lanes > 1 ? "%sx%d" : "%s", kl_scalar_text[t.scalar], t.lanes);
}

static bool number(Parser *p, int64_t *n) {
    skip_blanks(p);
    const char *from = p->at;
    if (!expect(p, "%") || !natural(p, n)) return false;
    return *n < INT32_MAX || wrong_at(p, from, "the value's number is too large");
}

static bool define(Parser *p, int64_t n, const char *at, KlType t, KlValue *v) {
    uint64_t old;
    if (kd_map_get(&p->values, (uint64_t)n, &old))
        return wrong_at(p, at, "%%%lld is defined twice", (long long)n);
    kd_push(p->cx, &p->k->types, t);
    *v = (KlValue)(p->k->types.n - 1);
    kd_map_put(&p->values, (uint64_t)n, *v);
    kd_push(p->cx, &p->visible, (uint64_t)n);
    return true;
}

static void forget(Parser *p, int from) {
    for (int j = from; j < p->visible.n; j++) kd_map_put(&p->values, p->visible.v[j], UINT64_MAX);
    p->visible.n = from;
}

static KlValue constant(Parser *p, KlType t, int64_t imm, double fimm) {
    for (int j = p->consts.n - 1; j >= 0 && j >= p->consts.n - 256;
         j--) { /* a look back is enough: it only saves room */
        const KlInstr *c = p->consts.v[j];
        if (same(c->type, t) && c->imm == imm && !memcmp(&c->fimm, &fimm, sizeof fimm))
            return c->result;
    }
    KlInstr *i = KD_NEW(p->cx, KlInstr);
    i->op = KL_OP_CONST;
    i->type = t;
    i->imm = imm;
    i->fimm = fimm;
    i->n_results = 1;
    kd_push(p->cx, &p->k->types, t);
    i->result = (KlValue)(p->k->types.n - 1);
    kd_push(p->cx, &p->consts, i);
    return i->result;
}

static bool float_literal(Parser *p, double *r) {
    if (accept(p, "inf")) return *r = (double)INFINITY, true;
    if (accept(p, "-inf")) return *r = -(double)INFINITY, true;
    if (!accept(p, "nan")) return real(p, r) && (*r = (double)(float)*r, true);
    uint32_t bits = UINT32_C(0x7fc00000);
    float f;
    if (accept(p, ":")) {
        char *stop;
        unsigned long long read = strtoull(p->at, &stop, 16);
        if (stop != p->at + 8) return wrong_at(p, p->at, "expected the eight hex digits of a NaN");
        bits = (uint32_t)read;
        p->at = stop;
    }
    memcpy(&f, &bits, sizeof f);
    if (!isnan(f)) return wrong_at(p, p->at, "these are not the bits of a NaN");
    *r = (double)f;
    return true;
}

static bool literal(Parser *p, KlType t, KlValue *v) {
    int64_t imm = 0, lo = INT64_MIN, hi = INT64_MAX;
    double fimm = 0;
    const char *from = p->at;
    if (t.scalar == KL_F32) {
        if (!float_literal(p, &fimm)) return false;
    } else if (t.scalar == KL_I1) {
        imm = accept(p, "true");
        if (!imm && !expect(p, "false")) return false;
    } else {
        if (!integer(p, &imm)) return false;
        if (t.scalar == KL_I32) lo = INT32_MIN, hi = INT32_MAX;
        if (t.scalar == KL_U8) lo = 0, hi = 255;
        if (imm < lo || imm > hi)
            return wrong_at(p, from, "%lld is no %s", (long long)imm, kl_scalar_text[t.scalar]);
    }
    *v = constant(p, t, imm, fimm);
    return true;
}

static bool operand(Parser *p, KlType t, KlValue *v) {
    skip_blanks(p);
    const char *from = p->at;
    int64_t n;
    uint64_t known;
    if (p->at >= p->end || *p->at != '%') return literal(p, t, v);
    if (!number(p, &n)) return false;
    if (!kd_map_get(&p->values, (uint64_t)n, &known))
        return wrong_at(p, from, "%%%lld is not defined", (long long)n);
    if (known == UINT64_MAX)
        return wrong_at(p, from, "%%%lld is defined in a block that has ended", (long long)n);
    *v = (KlValue)known;
    KlType have = kl_vtype(p->k, *v);
    return same(have, t) || wrong_at(p, from, "%%%lld is %s, not %s", (long long)n,
                                     type_text(p, have), type_text(p, t));
}

/* ---- instructions
 * ------------------------------------------------------------------------------------------  */

static KlInstr *new_instr(Parser *p, KlOp op, KlType t, int n_in) {
    KlInstr *i = KD_NEW(p->cx, KlInstr);
    i->op = (uint16_t)op;
    i->type = t;
    i->n_in = (uint16_t)n_in;
    i->in = KD_NEW_ARRAY(p->cx, KlValue, n_in + 1);
    i->result = KL_NONE;
    return i;
}

static bool same_operands(Parser *p, KlInstr *i, KlType t) {
    for (int j = 0; j < i->n_in; j++)
        if ((j && !expect(p, ",")) || !operand(p, t, &i->in[j])) return false;
    return true;
}

static bool selector(Parser *p, KlInstr *i, int from_lanes) {
    int *sel = KD_NEW_ARRAY(p->cx, int, i->type.lanes);
    i->shuffle = sel;
    if (!expect(p, "[")) return false;
    for (int l = 0; l < i->type.lanes; l++) {
        int64_t s;
        if ((l && !expect(p, ",")) || !natural(p, &s)) return false;
        if (s >= 2 * from_lanes) return wrong_at(p, p->at, "there is no lane %lld", (long long)s);
        sel[l] = (int)s;
    }
    return expect(p, "]");
}

static bool memory(Parser *p, KlOp op, KlInstr **r) {
    bool writes = op == KL_OP_STORE || op == KL_OP_SCATTER,
         many = op == KL_OP_GATHER || op == KL_OP_SCATTER;
    KlType t;
    const char *buf;
    if (!type(p, &t)) return false;
    skip_blanks(p);
    const char *from = p->at;
    if (!name(p, &buf)) return false;
    KlInstr *i = *r = new_instr(p, op, t, 3);
    i->imm = -1;
    for (int j = 0; j < p->k->bufs.n; j++)
        if (p->k->bufs.v[j].name == buf) i->imm = j;
    if (i->imm < 0) return wrong_at(p, from, "there is no buffer '%s'", buf);
    KlType idx = many ? kl_type(KL_I32, t.lanes) : kl_type(KL_I64, 1),
           mask = kl_type(KL_I1, t.lanes);
    if (!expect(p, "[") || !operand(p, idx, &i->in[0]) || !expect(p, "]")) return false;
    i->n_in = 1;
    if (writes) {
        if (!expect(p, ",") || !operand(p, t, &i->in[i->n_in++])) return false;
    }
    if (op != KL_OP_PREFETCH && accept(p, "if")) {
        if (!operand(p, mask, &i->in[i->n_in++])) return false;
        if (!writes && (!expect(p, "else") || !operand(p, t, &i->in[i->n_in++]))) return false;
    }
    return true;
}

/* After the op's name, everything that is one line. */
static bool plain(Parser *p, KlOp op, KlInstr **r) {
    KlType t, from;
    int pred = 0;
    if (op == KL_OP_LOAD || op == KL_OP_GATHER || op == KL_OP_STORE || op == KL_OP_SCATTER ||
        op == KL_OP_PREFETCH)
        return memory(p, op, r);
    if (op == KL_OP_CMP && (pred = one_of(p, kl_pred_text, KD_COUNT(kl_pred_text))) < 0)
        return wrong_at(p, p->at, "expected a predicate");
    if (!type(p, &t)) return false;
    KlInstr *i;
    switch (op) {
    case KL_OP_ADD: case KL_OP_SUB: case KL_OP_MUL: case KL_OP_DIV: case KL_OP_REM: case KL_OP_MIN:
    case KL_OP_MAX: case KL_OP_AND: case KL_OP_OR: case KL_OP_XOR: case KL_OP_SHL: case KL_OP_SHR:
    case KL_OP_FMA: case KL_OP_NEG: case KL_OP_ABS: case KL_OP_SQRT: case KL_OP_FLOOR:
    case KL_OP_ROUND: case KL_OP_CMP: {
        bool one = op >= KL_OP_NEG && op <= KL_OP_ROUND;
        i = *r = new_instr(p, op, op == KL_OP_CMP ? kl_type(KL_I1, t.lanes) : t,
                           one               ? 1
                           : op == KL_OP_FMA ? 3
                                             : 2);
        i->imm = pred;
        return same_operands(p, i, t);
    }
    case KL_OP_IOTA: *r = new_instr(p, op, t, 0); return true;
    case KL_OP_SELECT:
        i = *r = new_instr(p, op, t, 3);
        return operand(p, kl_type(KL_I1, t.lanes), &i->in[0]) && expect(p, ",") &&
               operand(p, t, &i->in[1]) && expect(p, ",") && operand(p, t, &i->in[2]);
    case KL_OP_CVT: case KL_OP_BITCAST: case KL_OP_SPLAT:
        i = *r = new_instr(p, op, t, 1);
        return type(p, &from) && operand(p, from, &i->in[0]);
    case KL_OP_EXTRACT:
        i = *r = new_instr(p, op, kl_type((KlScalar)t.scalar, 1), 1);
        return operand(p, t, &i->in[0]) && expect(p, ",") && natural(p, &i->imm);
    case KL_OP_SHUFFLE:
        i = *r = new_instr(p, op, t, 2);
        return type(p, &from) && same_operands(p, i, from) && selector(p, i, from.lanes);
    case KL_OP_REDUCE_ADD: case KL_OP_REDUCE_MAX: case KL_OP_REDUCE_MIN:
        i = *r = new_instr(p, op, kl_type((KlScalar)t.scalar, 1), 1);
        return operand(p, t, &i->in[0]);
    case KL_OP_CONST: case KL_OP_LOAD: case KL_OP_GATHER: case KL_OP_STORE: case KL_OP_SCATTER:
    case KL_OP_PREFETCH:
    case KL_OP_FOR: case KL_OP_IF: case KL_OP_YIELD: case KL_OP_COUNT: break;
    }
    return wrong_at(p, p->at, "not an instruction that stands on its own");
}

static bool block(Parser *p, KlBlock *b, const KlInstr *owner, int depth);

/* "{ lines }", with the yield that an empty or valueless one leaves out. */
static bool body(Parser *p, KlInstr *i, int depth) {
    int mark = p->visible.n - i->body->params.n;
    if (!expect(p, "{") || !line_end(p) || !block(p, i->body, i, depth + 1) || !expect(p, "}"))
        return false;
    KlBlock *b = i->body;
    if (b->instrs.n == 0 || b->instrs.v[b->instrs.n - 1]->op != KL_OP_YIELD) {
        if (i->n_results)
            return wrong_at(p, p->at - 1, "a loop that carries values ends in a yield");
        kd_push(p->cx, &b->instrs, new_instr(p, KL_OP_YIELD, kl_type(KL_VOID, 1), 0));
    }
    forget(p, mark);
    return true;
}

static bool loop_marks(Parser *p, KlInstr *i) {
    static const struct {
        const char *name;
        KlOp op;
    } folds[] = {{"add", KL_OP_ADD}, {"max", KL_OP_MAX}, {"min", KL_OP_MIN}};
    int64_t n;
    if (accept(p, "unroll")) {
        if (accept(p, "full")) i->unroll = UINT16_MAX;
        else if (!natural(p, &n) || n >= UINT16_MAX)
            return wrong_at(p, p->at, "expected a small number");
        else i->unroll = (uint16_t)n;
    }
    if (accept(p, "vector")) {
        if (!natural(p, &n) || n >= UINT16_MAX)
            return wrong_at(p, p->at, "expected a small number");
        i->vector = (uint16_t)n;
    }
    if (accept(p, "fold")) {
        for (int j = 0; j < KD_COUNT(folds) && !i->fold; j++)
            if (accept(p, folds[j].name)) i->fold = (uint16_t)folds[j].op;
        if (!i->fold) return wrong_at(p, p->at, "expected add, max or min");
    }
    return true;
}

/* The numbers before the `=` are in results; at: where they stand. */
static bool loop(Parser *p, KlBlock *b, const int64_t *results, int n, const char *at, int depth) {
    const KlType i64 = kl_type(KL_I64, 1);
    KlInstr *i = new_instr(p, KL_OP_FOR, kl_type(KL_VOID, 1), 2 + n);
    i->body = KD_NEW(p->cx, KlBlock);
    i->n_results = (uint16_t)n;
    int64_t var, *numbers = KD_NEW_ARRAY(p->cx, int64_t, n + 1);
    KlType *types = KD_NEW_ARRAY(p->cx, KlType, n + 1);
    KlValue v;
    if (!number(p, &var) || !expect(p, "=") || !operand(p, i64, &i->in[0]) || !expect(p, "..") ||
        !operand(p, i64, &i->in[1]) || !expect(p, "step") || !natural(p, &i->imm))
        return false;
    if (n && (!expect(p, "carry") || !expect(p, "("))) return false;
    for (int j = 0; j < n; j++) {
        if ((j && !expect(p, ",")) || !number(p, &numbers[j]) || !expect(p, ":") ||
            !type(p, &types[j]) || !expect(p, "=") || !operand(p, types[j], &i->in[2 + j]))
            return false;
    }
    if ((n && !expect(p, ")")) || !loop_marks(p, i)) return false;
    if (n) i->type = types[0];
    if (!define(p, var, at, i64, &v)) return false;
    kd_push(p->cx, &i->body->params, v);
    for (int j = 0; j < n; j++) {
        if (!define(p, numbers[j], at, types[j], &v)) return false;
        kd_push(p->cx, &i->body->params, v);
    }
    if (!body(p, i, depth)) return false;
    for (int j = 0; j < n; j++) {
        if (!define(p, results[j], at, types[j], &v)) return false;
        if (j == 0) i->result = v;
    }
    kd_push(p->cx, &b->instrs, i);
    return line_end(p);
}

static bool yield(Parser *p, KlBlock *b, const KlInstr *owner) {
    int n = owner && owner->op == KL_OP_FOR ? owner->n_results : 0;
    if (n == 0) return wrong_at(p, p->at, "a yield belongs into a loop that carries values");
    KlInstr *i = new_instr(p, KL_OP_YIELD, kl_type(KL_VOID, 1), n);
    for (int j = 0; j < n; j++)
        if ((j && !expect(p, ",")) || !operand(p, kl_vtype(p->k, owner->in[2 + j]), &i->in[j]))
            return false;
    kd_push(p->cx, &b->instrs, i);
    if (!line_end(p)) return false;
    skip_blanks(p);
    return (p->at < p->end && *p->at == '}') ||
           wrong_at(p, p->at, "a yield is the last line of its block");
}

static bool results(Parser *p, int64_t *n, int *count) {
    for (*count = 0; *count < MAX_IN; ++*count) {
        if (*count && !accept(p, ",")) return expect(p, "=");
        if (!number(p, &n[*count])) return false;
    }
    return wrong_at(p, p->at, "too many results");
}

static bool line(Parser *p, KlBlock *b, const KlInstr *owner, int depth) {
    skip_blanks(p);
    const char *from = p->at;
    int count = 0;
    int64_t *n = NULL;
    if (p->at < p->end && *p->at == '%') {
        int commas = 1;
        for (const char *c = p->at; c < p->end && *c != '=' && *c != '\n'; c++) commas += *c == ',';
        n = KD_NEW_ARRAY(p->cx, int64_t, commas < MAX_IN ? commas + 1 : MAX_IN);
        if (!results(p, n, &count)) return false;
    }
    if (accept(p, "for")) return loop(p, b, n, count, from, depth);
    if (count == 0 && accept(p, "if")) {
        KlInstr *i = new_instr(p, KL_OP_IF, kl_type(KL_VOID, 1), 1);
        i->body = KD_NEW(p->cx, KlBlock);
        if (!operand(p, kl_type(KL_I1, 1), &i->in[0]) || !body(p, i, depth)) return false;
        kd_push(p->cx, &b->instrs, i);
        return line_end(p);
    }
    if (count == 0 && accept(p, "yield")) return yield(p, b, owner);
    skip_blanks(p);
    const char *word = p->at;
    int op = one_of(p, kl_op_text, KL_OP_COUNT);
    if (op < 0) return wrong_at(p, word, "expected an instruction");
    KlInstr *i = NULL;
    if (!plain(p, (KlOp)op, &i)) return false;
    int want = op == KL_OP_STORE || op == KL_OP_SCATTER || op == KL_OP_PREFETCH ? 0 : 1;
    if (count != want)
        return wrong_at(p, word, "%s has %s", kl_op_text[op], want ? "one result" : "no result");
    i->n_results = (uint16_t)want;
    if (want && !define(p, n[0], from, i->type, &i->result)) return false;
    kd_push(p->cx, &b->instrs, i);
    return line_end(p);
}

static bool block(Parser *p, KlBlock *b, const KlInstr *owner, int depth) {
    if (depth > MAX_DEPTH) return wrong_at(p, p->at, "blocks nest too deeply");
    int mark = p->visible.n;
    skip_lines(p);
    while (p->at < p->end && *p->at != '}') {
        if (!line(p, b, owner, depth)) return false;
        skip_blanks(p);
    }
    forget(p, mark);
    return true;
}

/* ---- kernels, the plan
 * ----------------------------------------------------------------------------------------  */

static bool array_type(Parser *p, KlScalar *s, int64_t *count) {
    return expect(p, ":") && scalar_type(p, s) && expect(p, "[") && natural(p, count) &&
           expect(p, "]");
}

static bool buffer(Parser *p, bool scratch) {
    const char *n, *from = p->at;
    KlScalar s;
    int64_t count;
    int access = KL_SCRATCH;
    if (!name(p, &n) || !array_type(p, &s, &count)) return false;
    if (!scratch && (access = one_of(p, kl_access_text, KL_SCRATCH)) < 0)
        return wrong_at(p, p->at, "expected in, out or inout");
    int number = kl_buf(p->k, n, s, count, (KlAccess)access);
    if (p->k->bufs.v[number].name != n)
        return wrong_at(p, from, "two buffers '%s', or not a buffer's name", n);
    return line_end(p);
}

static bool kernel(Parser *p) {
    const char *n, *what = "";
    int64_t range, number0;
    KlValue v;
    if (!expect(p, "@") || !name(p, &n) || !expect(p, "range") || !natural(p, &range)) return false;
    KlKernel *k = p->k = kl_kernel_new(p->cx, "", range);
    k->name = n;
    k->types.n = 0;
    k->body.params.n = 0;
    p->values = (KdMap){.cx = p->cx};
    p->consts.n = p->visible.n = 0;
    if (accept(p, "grain") && !natural(p, &k->grain)) return false;
    if (accept(p, "flops") && !real(p, &k->flops)) return false;
    if (accept(p, "bytes") && !real(p, &k->bytes)) return false;
    skip_blanks(p);
    if (p->at < p->end && *p->at == '"' && !string(p, &what)) return false;
    k->what = what;
    if (!expect(p, "{") || !line_end(p)) return false;
    for (;;) {
        if (accept(p, "buf")) {
            if (!buffer(p, false)) return false;
        } else if (accept(p, "scratch")) {
            if (!buffer(p, true)) return false;
        } else {
            break;
        }
    }
    if (!expect(p, "body") || !expect(p, "(") || !number(p, &number0) || !expect(p, ")") ||
        !expect(p, "{") || !line_end(p))
        return false;
    if (!define(p, number0, p->at, kl_type(KL_I64, 1), &v)) return false;
    kd_push(p->cx, &k->body.params, v);
    KlBlock lines = {0};
    if (!block(p, &lines, NULL, 0) || !expect(p, "}") || !line_end(p) || !expect(p, "}") ||
        !line_end(p))
        return false;
    for (int j = 0; j < p->consts.n; j++) kd_push(p->cx, &k->body.instrs, p->consts.v[j]);
    for (int j = 0; j < lines.instrs.n; j++) kd_push(p->cx, &k->body.instrs, lines.instrs.v[j]);
    kd_push(p->cx, &p->m->kernels, k);
    return true;
}

static bool external(Parser *p) {
    KlExtern e = {0};
    if (!string(p, &e.name) || !array_type(p, &e.dtype, &e.count)) return false;
    e.written = accept(p, "written");
    kd_push(p->cx, &p->m->externs, e);
    return line_end(p);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool pool(Parser *p) {
    int64_t bytes;
    const char *from = p->at;
    if (!natural(p, &bytes) || !expect(p, "{") || !line_end(p)) return false;
    while (p->at + 1 < p->end && hex_digit(p->at[0]) >= 0 && hex_digit(p->at[1]) >= 0) {
        kd_push(p->cx, &p->m->pool, (uint8_t)(hex_digit(p->at[0]) * 16 + hex_digit(p->at[1])));
        p->at += 2;
        skip_lines(p);
    }
    if (p->m->pool.n != bytes)
        return wrong_at(p, from, "the pool has %d bytes, not %lld", p->m->pool.n, (long long)bytes);
    return expect(p, "}") && line_end(p);
}

static bool arg(Parser *p, KlArg *a) {
    int64_t index;
    if (accept(p, "extern")) {
        if (!natural(p, &index)) return false;
        if (index >= p->m->externs.n)
            return wrong_at(p, p->at, "there is no extern %lld", (long long)index);
        a->index = (int)index;
    } else if (accept(p, "arena")) {
        a->kind = KL_ARG_ARENA;
    } else {
        a->kind = KL_ARG_POOL;
        if (!expect(p, "pool")) return false;
    }
    return expect(p, "+") && natural(p, &a->offset);
}

static bool call(Parser *p) {
    KlCall c = {.kernel = -1, .once = accept(p, "once")};
    const char *n, *from = p->at;
    if (!expect(p, "@") || !name(p, &n)) return false;
    for (int j = 0; j < p->m->kernels.n; j++)
        if (p->m->kernels.v[j]->name == n) c.kernel = j;
    if (c.kernel < 0) return wrong_at(p, from, "there is no kernel @%s", n);
    const KlKernel *k = p->m->kernels.v[c.kernel];
    KlArg *args = KD_NEW_ARRAY(p->cx, KlArg, k->bufs.n + 1);
    c.args = args;
    if (!expect(p, "(")) return false;
    for (int j = 0, got = 0; j < k->bufs.n; j++) {
        if (k->bufs.v[j].access == KL_SCRATCH) continue;
        if ((got && !expect(p, ",")) || !arg(p, &args[got++])) return false;
    }
    kd_push(p->cx, &p->m->calls, c);
    return expect(p, ")") && line_end(p);
}

static bool module(Parser *p) {
    const char *n;
    skip_lines(p);
    if (!expect(p, "module") || !expect(p, "@") || !name(p, &n)) return false;
    p->m = kl_module_new(p->cx, n);
    if (!line_end(p)) return false;
    while (p->at < p->end) {
        bool ok = true;
        if (accept(p, "kernel")) ok = kernel(p);
        else if (accept(p, "extern")) ok = external(p);
        else if (accept(p, "arena")) ok = natural(p, &p->m->arena) && (!accept(p, "kept") || natural(p, &p->m->kept)) && line_end(p);
        else if (accept(p, "pool")) ok = pool(p);
        else if (accept(p, "call")) ok = call(p);
        else ok = wrong_at(p, p->at, "expected kernel, extern, arena, pool or call");
        if (!ok) return false;
    }
    return true;
}

KlModule *kl_parse_module(KdContext *cx, const char *file, const char *text, size_t n) {
    KdStr copy = {.cx = cx}, why = {.cx = cx};
    kd_str_add(&copy, text, n);
    kd_str_add(&copy, "\n", 1);
    kd_source_add(cx, file, copy.s, copy.n);
    Parser p = {.cx = cx, .file = file, .text = copy.s, .at = copy.s, .end = copy.s + copy.n};
    if (!module(&p)) return NULL;
    if (kl_verify(p.m, &why)) return p.m;
    wrong_at(&p, p.text, "%s", why.s);
    return NULL;
}
