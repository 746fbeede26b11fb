/* parse_stmt.c: statements, declarations and blocks; and the recovery after an error.
 *
 * The words tap, update, minimize, together, every, log, show, over, with, from, together are not
 * reserved: they mean something only where a statement begins (or where the statement asks for
 * them), so `log(x)` stays a function and a tensor may be called `show`.
 */
#include "frontend/lang/ast.h"

#include <string.h>

typedef struct Items {
    KD_VEC(KdStmt *) v;
} Items;
typedef struct Exprs {
    KD_VEC(KdExpr *) v;
} Exprs;

static void parse_stmts(KdParser *p, KdBlock *b, bool inner);

static KdStmt *stmt(KdParser *p, KdStmtKind kind, KdSpan span) {
    KdStmt *s = KD_NEW(p->cx, KdStmt);
    s->kind = kind;
    s->span = span;
    return s;
}

static void add_name(KdParser *p, KdStmt *s, const char *name, KdSpan span) {
    const char **names = KD_NEW_ARRAY(p->cx, const char *, s->n_names + 1);
    KdSpan *spans = KD_NEW_ARRAY(p->cx, KdSpan, s->n_names + 1);
    for (int i = 0; i < s->n_names; i++) {
        names[i] = s->names[i];
        spans[i] = s->name_spans[i];
    }
    names[s->n_names] = name;
    spans[s->n_names++] = span;
    s->names = names;
    s->name_spans = spans;
}

static void add_expr(KdParser *p, KdStmt *s, KdExpr *e) {
    KdExpr **v = KD_NEW_ARRAY(p->cx, KdExpr *, s->n_exprs + 1);
    if (s->n_exprs) memcpy(v, s->exprs, (size_t)s->n_exprs * sizeof *v);
    v[s->n_exprs++] = e;
    s->exprs = v;
}

/* A name is expected and recorded. */
static bool take_name(KdParser *p, KdStmt *s, const char *where) {
    if (!kd_parse_expect(p, KD_TOK_NAME, where)) return false;
    KdToken *t = &p->t.v[p->at - 1];
    add_name(p, s, t->text, t->span);
    return true;
}

static bool next_is_word(KdParser *p, const char *word) {
    KdToken *t = kd_parse_peek(p);
    return t->kind == KD_TOK_NAME && !t->newline && strcmp(t->text, word) == 0;
}

static bool expect_word(KdParser *p, const char *word, const char *where) {
    if (next_is_word(p, word)) {
        p->at++;
        return true;
    }
    KdToken *t = kd_parse_peek(p);
    KdSpan at = t->span;
    if (p->at > 0 && (t->newline || t->kind == KD_TOK_END)) {
        KdSpan s = p->t.v[p->at - 1].span;
        at = (KdSpan){s.line, s.col + s.len, 1};
    }
    kd_parse_error(p, at, "expected '%s' %s, found %s", word, where, kd_token_text(p, t));
    return false;
}

/* ---- annotations and parameters -------------------------------------------------------------- */

static const char *const value_kinds[] = {"int", "float", "bool",   "string", "list",
                                          "net", "fn",    "tensor", "any"};

static KdTypeNote *parse_type(KdParser *p) {
    KdTypeNote *t = KD_NEW(p->cx, KdTypeNote);
    KdToken *word = kd_parse_peek(p);
    t->span = word->span;
    t->dtype = -1;
    if (word->kind == KD_TOK_NET || word->kind == KD_TOK_FN || word->kind == KD_TOK_NAME) {
        p->at++;
        for (int d = 0; d < KD_DTYPE_COUNT; d++)
            if (strcmp(word->text, kd_dtype_name((KdDType)d)) == 0) t->dtype = d;
        for (int i = 0; i < KD_COUNT(value_kinds); i++)
            if (strcmp(word->text, value_kinds[i]) == 0) t->kind = value_kinds[i];
        if (t->kind) return t;
        if (t->dtype < 0) {
            const char *near = kd_nearest(word->text, value_kinds, KD_COUNT(value_kinds));
            bool first = !p->panic;
            kd_parse_error(p, word->span,
                           "there is no type '%s'; a type is [dims], f32[dims], i32[dims], "
                           "u8[dims], int, float, "
                           "bool, string, list, net, fn, tensor or any",
                           word->text);
            if (near && first) kd_hint(p->cx, "did you mean '%s'?", near);
            return t;
        }
    }
    if (!kd_parse_expect(p, KD_TOK_LBRACKET, "to begin the dims of a tensor")) return t;
    Exprs dims = {0};
    p->paren++;
    while (!p->panic && kd_parse_peek(p)->kind != KD_TOK_RBRACKET) {
        KdToken *d = kd_parse_peek(p);
        if (d->kind == KD_TOK_NAME && strcmp(d->text, "_") == 0) {
            p->at++;
            kd_push(p->cx, &dims.v, (KdExpr *)NULL);
        } else {
            kd_push(p->cx, &dims.v, kd_parse_expr(p));
        }
        if (!kd_parse_take(p, KD_TOK_COMMA)) break;
    }
    if (!p->panic) kd_parse_expect(p, KD_TOK_RBRACKET, "after the dims");
    p->paren--;
    t->n = dims.v.n;
    t->dim = dims.v.v;
    t->span = kd_span_join(t->span, p->t.v[p->at - 1].span);
    if (t->n > KD_MAX_RANK)
        kd_parse_error(p, t->span, "a tensor has at most %d dimensions", KD_MAX_RANK);
    return t;
}

/* name [: type] [= default], ... up to `close`, which is taken. */
static KdFormal *parse_formals(KdParser *p, KdTok close, int *n) {
    KD_VEC(KdFormal) v = {0};
    p->paren++;
    while (!p->panic && kd_parse_peek(p)->kind != close) {
        if (!kd_parse_expect(p, KD_TOK_NAME, "of a parameter")) break;
        KdToken *name = &p->t.v[p->at - 1];
        KdFormal f = {.name = name->text, .span = name->span};
        for (int i = 0; i < v.n; i++)
            if (v.v[i].name == f.name)
                kd_parse_error(p, f.span, "there are two parameters '%s'", f.name);
        if (kd_parse_take(p, KD_TOK_COLON)) f.type = parse_type(p);
        if (!p->panic && kd_parse_take(p, KD_TOK_ASSIGN)) f.def = kd_parse_expr(p);
        kd_push(p->cx, &v, f);
        if (!kd_parse_take(p, KD_TOK_COMMA)) break;
    }
    if (!p->panic) kd_parse_expect(p, close, "after the parameters");
    p->paren--;
    *n = v.n;
    return v.v;
}

/* ---- blocks and recovery --------------------------------------------------------------------- */

static bool starts_statement(KdTok k) {
    return k == KD_TOK_LET || k == KD_TOK_FN || k == KD_TOK_NET || k == KD_TOK_SESSION ||
           k == KD_TOK_IMPORT || k == KD_TOK_PARAM || k == KD_TOK_FOR || k == KD_TOK_IF ||
           k == KD_TOK_RETURN;
}

/* After an error: on to the next line that can begin a statement, over whole { } blocks, but not
 * out of this one. */
static void synchronize(KdParser *p) {
    int depth = 0;
    p->paren = 0;
    for (;; p->at++) {
        KdToken *t = kd_parse_peek(p);
        if (t->kind == KD_TOK_END) break;
        if (t->kind == KD_TOK_LBRACE) {
            depth++;
        } else if (t->kind == KD_TOK_RBRACE) {
            if (depth == 0) break;
            depth--;
        } else if (depth == 0 && t->newline && t->kind != KD_TOK_PIPE && t->kind != KD_TOK_RPAREN &&
                   t->kind != KD_TOK_RBRACKET &&
                   (starts_statement(t->kind) || t->kind == KD_TOK_NAME)) {
            break;
        }
    }
    p->panic = false;
}

static KdBlock parse_block(KdParser *p, const char *what) {
    KdBlock b = {0};
    if (!kd_parse_expect(p, KD_TOK_LBRACE, what)) return b;
    KdSpan open = p->t.v[p->at - 1].span;
    if (!kd_parse_enter(p, open)) return b;
    int paren = p->paren;
    p->paren = 0;
    parse_stmts(p, &b, true);
    p->paren = paren;
    kd_parse_leave(p);
    if (kd_parse_peek(p)->kind == KD_TOK_RBRACE)
        p->at++;
    else
        kd_parse_error(p, open, "this '{' is never closed");
    return b;
}

/* ---- statements ------------------------------------------------------------------------------ */

static KdStmt *parse_if(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_IF, kd_parse_next(p)->span);
    add_expr(p, s, kd_parse_expr(p));
    if (!p->panic) s->body = parse_block(p, "after the condition");
    KdToken *t = kd_parse_peek(p);
    if (p->panic || t->kind != KD_TOK_ELSE) return s;
    p->at++;
    if (kd_parse_peek(p)->kind != KD_TOK_IF) {
        s->orelse = parse_block(p, "after 'else'");
    } else if (kd_parse_enter(p, t->span)) {
        KdStmt **one = KD_NEW(p->cx, KdStmt *);
        *one = parse_if(p);
        s->orelse = (KdBlock){one, 1};
        kd_parse_leave(p);
    }
    return s;
}

static KdStmt *parse_for(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_FOR, kd_parse_next(p)->span);
    if (!take_name(p, s, "after 'for'") || !kd_parse_expect(p, KD_TOK_IN, "after the name"))
        return s;
    add_expr(p, s, kd_parse_expr(p));
    if (!p->panic) s->body = parse_block(p, "after what 'for' goes over");
    return s;
}

static KdStmt *parse_let(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_LET, kd_parse_next(p)->span);
    do {
        if (!take_name(p, s, "after 'let'")) return s;
    } while (kd_parse_take(p, KD_TOK_COMMA));
    if (kd_parse_expect(p, KD_TOK_ASSIGN, "after the name")) add_expr(p, s, kd_parse_expr(p));
    return s;
}

static KdStmt *parse_import(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_IMPORT, kd_parse_next(p)->span);
    if (kd_parse_expect(p, KD_TOK_STRING, "(a path) after 'import'"))
        add_name(p, s, p->t.v[p->at - 1].text, p->t.v[p->at - 1].span);
    return s;
}

static KdStmt *parse_param(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_PARAM, kd_parse_next(p)->span);
    if (!take_name(p, s, "after 'param'")) return s;
    if (kd_parse_take(p, KD_TOK_COLON)) s->type = parse_type(p);
    if (!p->panic && kd_parse_expect(p, KD_TOK_ASSIGN, "and a default after the name of a param"))
        add_expr(p, s, kd_parse_expr(p));
    return s;
}

static KdStmt *parse_choice(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_CHOICE, kd_parse_next(p)->span);
    if (take_name(p, s, "after 'choice'") && kd_parse_expect(p, KD_TOK_ASSIGN, "and the alternatives after the name of a choice"))
        add_expr(p, s, kd_parse_expr(p));
    return s;
}

static KdStmt *parse_def(KdParser *p, KdDefKind kind) {
    KdStmt *s = stmt(p, KD_STMT_DEF, kd_parse_next(p)->span);
    KdDef *d = s->def = KD_NEW(p->cx, KdDef);
    d->kind = kind;
    d->from = "";
    const char *word = kind == KD_DEF_FN    ? "after 'fn'"
                       : kind == KD_DEF_NET ? "after 'net'"
                                            : "after 'session'";
    if (!take_name(p, s, word)) return s;
    d->name = s->names[0];
    d->span = s->name_spans[0];
    if (kd_parse_peek(p)->kind == KD_TOK_LBRACKET) {
        KdSpan at = kd_parse_next(p)->span;
        d->hyper = parse_formals(p, KD_TOK_RBRACKET, &d->n_hyper);
        if (kind != KD_DEF_NET) kd_parse_error(p, at, "only a net has parameters in brackets");
    }
    if (p->panic || !kd_parse_expect(p, KD_TOK_LPAREN, "before the parameters")) return s;
    d->formal = parse_formals(p, KD_TOK_RPAREN, &d->n_formal);
    if (!p->panic && kd_parse_take(p, KD_TOK_ARROW)) d->result = parse_type(p);
    if (!p->panic && kind == KD_DEF_SESSION && next_is_word(p, "from")) {
        p->at++;
        if (kd_parse_expect(p, KD_TOK_NAME, "(paired, unpaired or labels) after 'from'")) {
            static const char *const known[] = {"paired", "unpaired", "labels"};
            KdToken *t = &p->t.v[p->at - 1];
            d->from = t->text;
            bool ok = false;
            for (int i = 0; i < 3; i++)
                ok = ok || strcmp(known[i], t->text) == 0;
            if (!ok) {
                kd_error(p->cx, kd_span_loc(p->cx, p->file, t->span),
                         "expected paired, unpaired or labels, found '%s'", t->text);
                const char *near = kd_nearest(t->text, known, 3);
                if (near) kd_hint(p->cx, "did you mean '%s'?", near);
            }
        }
    }
    if (!p->panic) d->body = parse_block(p, "before the body");
    return s;
}

static KdStmt *parse_minimize(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_MINIMIZE, kd_parse_next(p)->span);
    add_expr(p, s, kd_parse_expr(p));
    add_expr(p, s, NULL);
    if (p->panic || !expect_word(p, "over", "and the networks to train, after the loss")) return s;
    do
        add_expr(p, s, kd_parse_expr(p));
    while (!p->panic && kd_parse_take(p, KD_TOK_COMMA));
    if (p->panic || !expect_word(p, "with", "and an optimiser, after the networks")) return s;
    s->exprs[1] = kd_parse_expr(p);
    return s;
}

/* log and show: names, or NAME = value. */
static KdStmt *parse_record(KdParser *p, KdStmtKind kind) {
    KdStmt *s = stmt(p, kind, kd_parse_next(p)->span);
    do {
        KdToken *t = kd_parse_peek(p);
        bool named = t->kind == KD_TOK_NAME && p->t.v[p->at + 1].kind == KD_TOK_ASSIGN;
        if (named) p->at += 2;
        KdExpr *e = kd_parse_expr(p);
        const char *name = named                                                 ? t->text
                           : e->kind == KD_EXPR_NAME || e->kind == KD_EXPR_FIELD ? e->s
                                                                                 : NULL;
        add_name(p, s, name, named ? t->span : e->at);
        add_expr(p, s, e);
    } while (!p->panic && kd_parse_take(p, KD_TOK_COMMA));
    return s;
}

static KdStmt *parse_named(KdParser *p, KdStmtKind kind) { /* tap, update */
    KdStmt *s = stmt(p, kind, kd_parse_next(p)->span);
    if (!take_name(p, s, kind == KD_STMT_TAP ? "after 'tap'" : "after 'update'")) return s;
    if (kd_parse_expect(p, KD_TOK_ASSIGN, "after the name")) add_expr(p, s, kd_parse_expr(p));
    return s;
}

static KdStmt *parse_every(KdParser *p) {
    KdStmt *s = stmt(p, KD_STMT_EVERY, kd_parse_next(p)->span);
    add_expr(p, s, kd_parse_expr(p));
    if (!p->panic) s->body = parse_block(p, "after the number of iterations");
    return s;
}

/* Words that begin a statement when what follows is not `=`, `.`, `[`, an operator: see the head of
 * this file. */
static KdStmt *parse_word(KdParser *p, KdToken *t) {
    static const struct {
        const char *word;
        KdStmtKind kind;
    } words[] = {
        {"tap", KD_STMT_TAP},           {"update", KD_STMT_UPDATE}, {"minimize", KD_STMT_MINIMIZE},
        {"together", KD_STMT_TOGETHER}, {"every", KD_STMT_EVERY},   {"log", KD_STMT_LOG},
        {"show", KD_STMT_SHOW},
    };
    KdToken *after = t + 1; /* END is last, so this exists */
    if (after->newline && strcmp(t->text, "minimize") != 0) return NULL;
    bool value = after->kind == KD_TOK_NAME || after->kind == KD_TOK_INT ||
                 after->kind == KD_TOK_FLOAT || after->kind == KD_TOK_NOT ||
                 after->kind == KD_TOK_LPAREN || after->kind == KD_TOK_MINUS;
    for (int i = 0; i < KD_COUNT(words); i++) {
        if (strcmp(words[i].word, t->text) != 0) continue;
        switch ((int)words[i].kind) {
        case KD_STMT_TOGETHER:
            if (after->kind == KD_TOK_LBRACE) {
                KdStmt *s = stmt(p, KD_STMT_TOGETHER, kd_parse_next(p)->span);
                s->body = parse_block(p, "after 'together'");
                return s;
            }
            return NULL;
        case KD_STMT_TAP:
        case KD_STMT_UPDATE:
            return after->kind == KD_TOK_NAME ? parse_named(p, words[i].kind) : NULL;
        case KD_STMT_MINIMIZE:
            return value ? parse_minimize(p) : NULL;
        case KD_STMT_EVERY:
            return value ? parse_every(p) : NULL;
        default:
            return value && after->kind != KD_TOK_MINUS ? parse_record(p, words[i].kind) : NULL;
        }
    }
    return NULL;
}

static KdStmt *parse_simple(KdParser *p) {
    KdToken *t = kd_parse_peek(p);
    if (t->kind == KD_TOK_NAME) {
        KdStmt *s = parse_word(p, t);
        if (s) return s;
        if (p->t.v[p->at + 1].kind == KD_TOK_ASSIGN && !p->t.v[p->at + 1].newline) {
            s = stmt(p, KD_STMT_ASSIGN, t->span);
            add_name(p, s, t->text, t->span);
            p->at += 2;
            add_expr(p, s, kd_parse_expr(p));
            return s;
        }
    }
    KdStmt *s = stmt(p, KD_STMT_EXPR, t->span);
    add_expr(p, s, kd_parse_expr(p));
    if (!p->panic && kd_parse_peek(p)->kind == KD_TOK_ASSIGN && !kd_parse_peek(p)->newline)
        kd_parse_error(p, s->exprs[0]->span,
                       "only a name can be assigned to: values do not change");
    return s;
}

static KdStmt *parse_statement(KdParser *p, bool inner) {
    KdToken *t = kd_parse_peek(p);
    bool top_only = t->kind == KD_TOK_IMPORT || t->kind == KD_TOK_PARAM || t->kind == KD_TOK_FN ||
                    t->kind == KD_TOK_NET || t->kind == KD_TOK_SESSION;
    bool choice = t->kind == KD_TOK_NAME && strcmp(t->text, "choice") == 0 && t[1].kind == KD_TOK_NAME && !t[1].newline;
    if (inner && (top_only || choice))
        kd_parse_error(p, t->span, "'%s' stands at the top of a file, not inside a block", t->text);
    if (choice) return parse_choice(p);
    switch ((int)t->kind) {
    case KD_TOK_LET:
        return parse_let(p);
    case KD_TOK_FN:
        return parse_def(p, KD_DEF_FN);
    case KD_TOK_NET:
        return parse_def(p, KD_DEF_NET);
    case KD_TOK_SESSION:
        return parse_def(p, KD_DEF_SESSION);
    case KD_TOK_IMPORT:
        return parse_import(p);
    case KD_TOK_PARAM:
        return parse_param(p);
    case KD_TOK_IF:
        return parse_if(p);
    case KD_TOK_FOR:
        return parse_for(p);
    case KD_TOK_RETURN: {
        KdStmt *s = stmt(p, KD_STMT_RETURN, kd_parse_next(p)->span);
        KdToken *v = kd_parse_peek(p);
        if (!v->newline && v->kind != KD_TOK_RBRACE) add_expr(p, s, kd_parse_expr(p));
        return s;
    }
    }
    return parse_simple(p);
}

/* t comes after a return in its block: often the rest of an expression that its line has ended. */
static void unreachable(KdParser *p, const KdToken *t) {
    if (p->panic || !t->newline || t->kind == KD_TOK_RBRACE || t->kind == KD_TOK_END) return;
    kd_parse_error(p, t->span, "what comes after a 'return' in its block is never reached");
    if (t->kind == KD_TOK_PLUS || t->kind == KD_TOK_MINUS)
        kd_hint(p->cx, "a statement ends with its line: the operator belongs at the end of the line above");
}

static void parse_stmts(KdParser *p, KdBlock *b, bool inner) {
    Items items = {0};
    for (;;) {
        KdToken *t = kd_parse_peek(p);
        if (t->kind == KD_TOK_END) break;
        if (t->kind == KD_TOK_RBRACE) {
            if (inner) break;
            kd_parse_error(p, t->span, "this '}' closes nothing");
            p->at++;
            p->panic = false;
            continue;
        }
        int before = p->at;
        KdStmt *s = parse_statement(p, inner);
        kd_push(p->cx, &items.v, s);
        t = kd_parse_peek(p);
        if (!p->panic && !t->newline && t->kind != KD_TOK_RBRACE && t->kind != KD_TOK_END) {
            if (t->kind == KD_TOK_BAD) p->panic = true;
            kd_parse_error(p, t->span, "expected the end of the line, found %s",
                           kd_token_text(p, t));
        }
        if (s && s->kind == KD_STMT_RETURN) unreachable(p, t);
        if (p->panic) synchronize(p);
        if (p->at == before) p->at++; /* always forward */
    }
    b->v = items.v.v;
    b->n = items.v.n;
}

KdBlock kd_parse_source(KdContext *cx, const char *file, const char *text, size_t n) {
    KdParser p = {.cx = cx, .file = file, .t = kd_lex(cx, file, text, n)};
    KdBlock b = {0};
    parse_stmts(&p, &b, false);
    return b;
}

KdExpr *kd_parse_expression(KdContext *cx, const char *file, const char *text, size_t n) {
    int errors = kd_error_count(cx);
    KdParser p = {.cx = cx, .file = file, .t = kd_lex(cx, file, text, n), .paren = 1};
    KdExpr *e = kd_parse_expr(&p);
    KdToken *t = kd_parse_peek(&p);
    if (!p.panic && t->kind != KD_TOK_END)
        kd_parse_error(&p, t->span, "expected the end, found %s", kd_token_text(&p, t));
    return kd_error_count(cx) == errors ? e : NULL;
}
