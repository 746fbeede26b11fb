/* parse.c: tokens -> expressions, by operator precedence. Statements are in parse_stmt.c.
 *
 * From loosest to tightest:  |>   x if c else y   or   and   not   == != < <= > >=   ..   + -   * /
 * // % @   - (sign)   ** and then calls, brackets and fields. A line's end ends an expression,
 * except inside ( and [, after an operator, and before a line that begins with |>.
 *
 * An error is reported once, sets `panic`, and the pieces that could not be read become
 * KD_EXPR_ERROR; parse_stmt.c finds the next statement. Depth is bounded by kd_parse_enter, chains
 * by KD_MAX_CHAIN.
 */
#include "frontend/lang/ast.h"

#include <string.h>

/* ---- tokens, errors, limits ------------------------------------------------------------------ */

KdToken *kd_parse_peek(KdParser *p) { return &p->t.v[p->at]; }

KdToken *kd_parse_next(KdParser *p) {
    KdToken *t = &p->t.v[p->at];
    if (t->kind != KD_TOK_END) p->at++;
    return t;
}

/* Is the next token on a new line, where that matters? */
static bool line_ended(KdParser *p) { return kd_parse_peek(p)->newline && p->paren == 0; }

bool kd_parse_take(KdParser *p, KdTok kind) {
    KdToken *t = kd_parse_peek(p);
    if (t->kind != kind || line_ended(p)) return false;
    p->at++;
    return true;
}

const char *kd_token_text(KdParser *p, const KdToken *t) {
    if (t->newline && p->paren == 0 && t->kind != KD_TOK_END) return "the end of the line";
    switch ((int)t->kind) {
    case KD_TOK_END:
        return "the end of the file";
    case KD_TOK_NAME:
    case KD_TOK_INT:
    case KD_TOK_FLOAT:
        return kd_format(p->cx, "'%s'", t->text);
    case KD_TOK_STRING:
        return "a string";
    case KD_TOK_BAD:
        return "something unreadable";
    default:
        return kd_format(p->cx, "'%s'", t->text);
    }
}

void kd_parse_error(KdParser *p, KdSpan at, const char *fmt, ...) {
    if (p->panic || p->over) return;
    p->panic = true;
    va_list ap;
    va_start(ap, fmt);
    const char *text = kd_vformat(p->cx, fmt, ap);
    va_end(ap);
    kd_error(p->cx, kd_span_loc(p->cx, p->file, at), "%s", text);
}

/* Where to point when the next token is not what was expected: at it, or behind the last one of the
 * line. */
static KdSpan here(KdParser *p) {
    KdToken *t = kd_parse_peek(p);
    if (p->at > 0 && (t->kind == KD_TOK_END || (t->newline && p->paren == 0))) {
        KdSpan s = p->t.v[p->at - 1].span;
        return (KdSpan){s.line, s.col + s.len, 1};
    }
    return t->span;
}

bool kd_parse_expect(KdParser *p, KdTok kind, const char *where) {
    if (kd_parse_take(p, kind)) return true;
    KdToken *t = kd_parse_peek(p);
    const char *found = kd_token_text(p, t);
    if (t->kind == KD_TOK_BAD) p->panic = true; /* the lexer has said it */
    static const char *const what[] = {"a name", "an integer", "a number", "a string"};
    if (kind >= KD_TOK_NAME && kind <= KD_TOK_STRING)
        kd_parse_error(p, here(p), "expected %s %s, found %s", what[kind - KD_TOK_NAME], where,
                       found);
    else {
        KdToken sign = {0};
#define TOKEN(id, spell)                                                                           \
    if (kind == KD_TOK_##id) sign.text = spell;
#include "frontend/lang/tokens.def"
#undef TOKEN
        kd_parse_error(p, here(p), "expected '%s' %s, found %s", sign.text, where, found);
    }
    return false;
}

bool kd_parse_enter(KdParser *p, KdSpan at) {
    if (p->nesting < KD_MAX_NESTING) {
        p->nesting++;
        return true;
    }
    kd_parse_error(p, at,
                   "nested too deeply: at most %d levels of brackets, blocks and prefix operators",
                   KD_MAX_NESTING);
    p->over = true;
    p->at = p->t.n - 1; /* whatever follows is inside it */
    return false;
}

void kd_parse_leave(KdParser *p) { p->nesting--; }

KdSpan kd_span_join(KdSpan a, KdSpan b) {
    if (a.line != b.line || b.col + b.len < a.col) return a;
    return (KdSpan){a.line, a.col, b.col + b.len - a.col};
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static KdExpr *node(KdParser *p, KdExprKind kind, KdSpan span) {
    KdExpr *e = KD_NEW(p->cx, KdExpr);
    *e = (KdExpr){.kind = kind, .span = span, .at = span};
    return e;
}

static KdExpr *error_node(KdParser *p) { return node(p, KD_EXPR_ERROR, kd_parse_peek(p)->span); }

/* Takes e's operands into account; a chain that is too long is an error. */
static KdExpr *grown(KdParser *p, KdExpr *e, KdExpr *a, KdExpr *b) {
    int h = a ? a->height : 0;
    if (b && b->height > h) h = b->height;
    e->height = h + 1;
    if (e->height <= KD_MAX_CHAIN) return e;
    kd_parse_error(p, e->at, "this expression is too long: at most %d operations in one",
                   KD_MAX_CHAIN);
    e->kind = KD_EXPR_ERROR;
    e->height = 0;
    return e;
}

/* ---- arguments ------------------------------------------------------------------------------- */

typedef struct ArgList {
    KD_VEC(KdArg) args;
} ArgList;

static KdExpr *slice_part(KdParser *p) {
    KdTok k = kd_parse_peek(p)->kind;
    return k == KD_TOK_COLON || k == KD_TOK_COMMA || k == KD_TOK_RBRACKET ? NULL : kd_parse_expr(p);
}

static KdArg parse_arg(KdParser *p, bool bracket) {
    KdArg a = {0};
    KdToken *t = kd_parse_peek(p);
    a.span = t->span;
    if (t->kind == KD_TOK_NAME && p->t.v[p->at + 1].kind == KD_TOK_ASSIGN) {
        a.name = t->text;
        a.name_span = t->span;
        p->at += 2;
    }
    KdExpr *first = bracket && !a.name ? slice_part(p) : kd_parse_expr(p);
    if (bracket && !a.name && kd_parse_take(p, KD_TOK_COLON)) {
        a.lo = first;
        a.hi = slice_part(p);
        if (kd_parse_take(p, KD_TOK_COLON)) a.step = slice_part(p);
    } else {
        a.value = first ? first : error_node(p);
        if (!first) kd_parse_error(p, t->span, "expected a value, found %s", kd_token_text(p, t));
    }
    a.span = kd_span_join(a.span, p->t.v[p->at > 0 ? p->at - 1 : 0].span);
    return a;
}

/* Takes the closing bracket, or says what is wrong with it. */
static void close_bracket(KdParser *p, KdTok close, KdSpan open) {
    if (p->panic || kd_parse_take(p, close)) return;
    KdToken *t = kd_parse_peek(p);
    const char *c = close == KD_TOK_RPAREN ? ")" : "]";
    if (t->kind == KD_TOK_BAD)
        p->panic = true; /* the lexer has said it */
    else if (t->newline)
        kd_parse_error(p, open, "this '%s' is never closed", close == KD_TOK_RPAREN ? "(" : "[");
    else
        kd_parse_error(p, t->span, "expected ',' or '%s', found %s", c, kd_token_text(p, t));
}

/* Until the closing bracket, which is taken. `open` is the opening one. */
static void parse_args(KdParser *p, KdExpr *e, KdTok close, KdSpan open) {
    ArgList list = {0};
    if (!kd_parse_enter(p, open)) return;
    p->paren++;
    while (!p->panic && kd_parse_peek(p)->kind != close) {
        KdArg a = parse_arg(p, close == KD_TOK_RBRACKET && e->kind == KD_EXPR_BRACKET);
        kd_push(p->cx, &list.args, a);
        KdExpr *parts[] = {a.value, a.lo, a.hi, a.step};
        for (int i = 0; i < 4; i++)
            if (parts[i] && parts[i]->height > e->height) e->height = parts[i]->height;
        if (!kd_parse_take(p, KD_TOK_COMMA)) break;
    }
    close_bracket(p, close, open);
    p->paren--;
    kd_parse_leave(p);
    e->args = list.args.v;
    e->n_args = list.args.n;
    e->height++;
    e->span = kd_span_join(e->span, p->t.v[p->at > 0 ? p->at - 1 : 0].span);
}

/* ---- what stands alone ----------------------------------------------------------------------- */

/* After "[value for": the rest of [value for name in list]. */
static void parse_each(KdParser *p, KdExpr *e, KdExpr *value) {
    e->kind = KD_EXPR_EACH;
    e->a = value;
    if (kd_parse_expect(p, KD_TOK_NAME, "after 'for'")) {
        e->s = p->t.v[p->at - 1].text;
        e->at = p->t.v[p->at - 1].span;
    }
    if (!p->panic) kd_parse_expect(p, KD_TOK_IN, "after the name");
    e->b = p->panic ? error_node(p) : kd_parse_expr(p);
    grown(p, e, e->a, e->b);
}

static KdExpr *parse_list(KdParser *p) {
    KdToken *open = kd_parse_next(p);
    KdExpr *e = node(p, KD_EXPR_LIST, open->span);
    ArgList list = {0};
    if (!kd_parse_enter(p, open->span)) return e;
    p->paren++;
    while (!p->panic && kd_parse_peek(p)->kind != KD_TOK_RBRACKET) {
        if (kd_parse_peek(p)->kind == KD_TOK_NAME && p->t.v[p->at + 1].kind == KD_TOK_ASSIGN)
            kd_parse_error(p, kd_parse_peek(p)->span, "a list has no names in it");
        KdArg a = {.span = kd_parse_peek(p)->span};
        a.value = kd_parse_expr(p);
        if (list.args.n == 0 && !p->panic && kd_parse_take(p, KD_TOK_FOR)) {
            parse_each(p, e, a.value);
            break;
        }
        kd_push(p->cx, &list.args, a);
        if (a.value->height > e->height) e->height = a.value->height;
        if (!kd_parse_take(p, KD_TOK_COMMA)) break;
    }
    close_bracket(p, KD_TOK_RBRACKET, open->span);
    p->paren--;
    kd_parse_leave(p);
    e->args = list.args.v;
    e->n_args = list.args.n;
    e->height++;
    e->span = kd_span_join(open->span, p->t.v[p->at - 1].span);
    return e;
}

static KdExpr *parse_group(KdParser *p) {
    KdSpan open = kd_parse_next(p)->span;
    if (!kd_parse_enter(p, open)) return error_node(p);
    p->paren++;
    KdExpr *e = kd_parse_expr(p);
    if (!p->panic && kd_parse_peek(p)->kind != KD_TOK_RPAREN) {
        KdToken *t = kd_parse_peek(p);
        if (t->kind == KD_TOK_BAD)
            p->panic = true;
        else if (t->newline)
            kd_parse_error(p, open, "this '(' is never closed");
        else
            kd_parse_error(p, t->span, "expected ')', found %s", kd_token_text(p, t));
    } else if (!p->panic) {
        p->at++;
    }
    p->paren--;
    kd_parse_leave(p);
    return e;
}

static KdExpr *parse_atom(KdParser *p) {
    KdToken *t = kd_parse_peek(p);
    KdExpr *e;
    switch ((int)t->kind) {
    case KD_TOK_INT:
        e = node(p, KD_EXPR_INT, t->span);
        e->i = t->i;
        break;
    case KD_TOK_FLOAT:
        e = node(p, KD_EXPR_FLOAT, t->span);
        e->f = t->f;
        break;
    case KD_TOK_STRING:
        e = node(p, KD_EXPR_STRING, t->span);
        e->s = t->text;
        break;
    case KD_TOK_NAME:
        e = node(p, KD_EXPR_NAME, t->span);
        e->s = t->text;
        break;
    case KD_TOK_TRUE:
    case KD_TOK_FALSE:
        e = node(p, KD_EXPR_BOOL, t->span);
        e->i = t->kind == KD_TOK_TRUE;
        break;
    case KD_TOK_NONE:
        e = node(p, KD_EXPR_NONE, t->span);
        break;
    case KD_TOK_LBRACKET:
        return parse_list(p);
    case KD_TOK_LPAREN:
        return parse_group(p);
    default:
        if (t->kind == KD_TOK_BAD) p->panic = true; /* the lexer has said it */
        kd_parse_error(p, here(p), "expected a value, found %s", kd_token_text(p, t));
        return error_node(p);
    }
    p->at++;
    return e;
}

/* Calls, brackets and fields behind a value. */
static KdExpr *parse_postfix(KdParser *p) {
    KdExpr *e = parse_atom(p);
    while (!p->panic && !line_ended(p)) {
        KdToken *t = kd_parse_peek(p);
        if (t->kind == KD_TOK_LPAREN || t->kind == KD_TOK_LBRACKET) {
            bool call = t->kind == KD_TOK_LPAREN;
            p->at++;
            KdExpr *c = node(p, call ? KD_EXPR_CALL : KD_EXPR_BRACKET, e->span);
            c->at = e->kind == KD_EXPR_FIELD ? e->at : e->span;
            c->a = e;
            parse_args(p, c, call ? KD_TOK_RPAREN : KD_TOK_RBRACKET, t->span);
            KdExpr inner = {.height = c->height};
            e = grown(p, c, e, &inner);
        } else if (t->kind == KD_TOK_DOT) {
            p->at++;
            if (!kd_parse_expect(p, KD_TOK_NAME, "after '.'")) break;
            KdToken *name = &p->t.v[p->at - 1];
            KdExpr *f = node(p, KD_EXPR_FIELD, kd_span_join(e->span, name->span));
            f->at = name->span;
            f->a = e;
            f->s = name->text;
            e = grown(p, f, e, NULL);
        } else {
            break;
        }
    }
    return e;
}

/* ---- operators ------------------------------------------------------------------------------- */

enum {
    BP_PIPE = 1,
    BP_CHOICE,
    BP_OR,
    BP_AND,
    BP_NOT,
    BP_COMPARE,
    BP_RANGE,
    BP_ADD,
    BP_MUL,
    BP_SIGN,
    BP_POWER
};

static int binding(KdTok k) {
    switch ((int)k) {
    case KD_TOK_PIPE:
        return BP_PIPE;
    case KD_TOK_IF:
        return BP_CHOICE;
    case KD_TOK_OR:
        return BP_OR;
    case KD_TOK_AND:
        return BP_AND;
    case KD_TOK_EQ:
    case KD_TOK_NE:
    case KD_TOK_LT:
    case KD_TOK_LE:
    case KD_TOK_GT:
    case KD_TOK_GE:
        return BP_COMPARE;
    case KD_TOK_RANGE:
        return BP_RANGE;
    case KD_TOK_PLUS:
    case KD_TOK_MINUS:
        return BP_ADD;
    case KD_TOK_STAR:
    case KD_TOK_SLASH:
    case KD_TOK_FLOORDIV:
    case KD_TOK_PERCENT:
    case KD_TOK_AT:
        return BP_MUL;
    case KD_TOK_POWER:
        return BP_POWER;
    }
    return 0;
}

static KdExpr *parse_binary(KdParser *p, int least);

static KdExpr *parse_prefix(KdParser *p) {
    KdToken *t = kd_parse_peek(p);
    int tight = t->kind == KD_TOK_MINUS || t->kind == KD_TOK_PLUS ? BP_SIGN
                : t->kind == KD_TOK_NOT                           ? BP_NOT
                : t->kind == KD_TOK_FROZEN                        ? BP_POWER + 1
                                                                  : 0;
    if (!tight) return parse_postfix(p);
    p->at++;
    if (!kd_parse_enter(p, t->span)) return error_node(p);
    KdExpr *e = node(p, t->kind == KD_TOK_FROZEN ? KD_EXPR_FROZEN : KD_EXPR_UNARY, t->span);
    e->op = t->kind;
    e->a = tight > BP_POWER ? parse_prefix(p) : parse_binary(p, tight);
    kd_parse_leave(p);
    e->span = kd_span_join(t->span, e->a->span);
    return grown(p, e, e->a, NULL);
}

static KdExpr *parse_pipe(KdParser *p, KdExpr *left, KdSpan at) {
    KdExpr *e = node(p, KD_EXPR_PIPE, left->span);
    e->op = KD_TOK_PIPE;
    e->at = at;
    e->a = left;
    e->b = parse_postfix(p);
    e->span = kd_span_join(left->span, e->b->span);
    return grown(p, e, e->a, e->b);
}

static KdExpr *parse_choice(KdParser *p, KdExpr *left, KdSpan at) {
    KdExpr *e = node(p, KD_EXPR_CHOICE, left->span);
    e->at = at;
    e->a = left;
    e->c = parse_binary(p, BP_OR);
    if (!p->panic) kd_parse_expect(p, KD_TOK_ELSE, "after the condition");
    e->b = error_node(p);
    if (!p->panic && kd_parse_enter(p, at)) {
        e->b = parse_binary(p, BP_CHOICE);
        kd_parse_leave(p);
    }
    grown(p, e, e->a, e->b);
    return e->kind == KD_EXPR_ERROR ? e : grown(p, e, e, e->c);
}

static KdExpr *parse_binary(KdParser *p, int least) {
    KdExpr *left = parse_prefix(p);
    while (!p->panic) {
        KdToken *t = kd_parse_peek(p);
        int tight = binding(t->kind);
        if (tight < least || tight == 0) break;
        if (line_ended(p) && t->kind != KD_TOK_PIPE) break;
        p->at++;
        if (t->kind == KD_TOK_PIPE) {
            left = parse_pipe(p, left, t->span);
            continue;
        }
        if (t->kind == KD_TOK_IF) {
            left = parse_choice(p, left, t->span);
            continue;
        }
        KdExpr *e = node(p, KD_EXPR_BINARY, left->span);
        e->op = t->kind;
        e->at = t->span;
        e->a = left;
        bool right = t->kind == KD_TOK_POWER; /* a ** b ** c is a ** (b ** c) */
        if (right && !kd_parse_enter(p, t->span)) return error_node(p);
        e->b = parse_binary(p, right ? BP_SIGN : tight + 1);
        if (right) kd_parse_leave(p);
        e->span = kd_span_join(left->span, e->b->span);
        left = grown(p, e, e->a, e->b);
        if ((tight == BP_COMPARE || tight == BP_RANGE) && !p->panic &&
            binding(kd_parse_peek(p)->kind) == tight && !line_ended(p))
            kd_parse_error(p, kd_parse_peek(p)->span,
                           "'%s' and '%s' cannot be chained; use 'and' or parentheses", t->text,
                           kd_parse_peek(p)->text);
    }
    return left;
}

KdExpr *kd_parse_expr(KdParser *p) { return parse_binary(p, BP_PIPE); }
