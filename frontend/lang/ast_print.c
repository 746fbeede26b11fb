/* ast_print.c: a tree -> canonical .kd text, which parses to the same tree. Comments are gone;
 * parentheses stand where they are needed. Recursion is bounded by the parser's limits on nesting
 * and chains.
 */
#include "frontend/lang/ast.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *kd_float_text(KdContext *cx, double v) {
    char text[64];
    bool plain = fabs(v) >= 1e-5 && fabs(v) < 1e15; /* 0.0002 rather than 2e-04 */
    for (int digits = plain ? 1 : 0; digits <= 20; digits++) {
        snprintf(text, sizeof text, plain ? "%.*f" : "%.*e", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    return kd_intern_z(cx, v == 0 ? "0.0" : text);
}

enum {
    P_PIPE = 1,
    P_CHOICE,
    P_OR,
    P_AND,
    P_NOT,
    P_COMPARE,
    P_RANGE,
    P_ADD,
    P_MUL,
    P_SIGN,
    P_POWER,
    P_POSTFIX
};

static int strength(const KdExpr *e) {
    switch (e->kind) {
    case KD_EXPR_PIPE:
        return P_PIPE;
    case KD_EXPR_CHOICE:
        return P_CHOICE;
    case KD_EXPR_UNARY:
        return e->op == KD_TOK_NOT ? P_NOT : P_SIGN;
    case KD_EXPR_FROZEN:
        return P_POWER;
    case KD_EXPR_BINARY:
        switch ((int)e->op) {
        case KD_TOK_OR:
            return P_OR;
        case KD_TOK_AND:
            return P_AND;
        case KD_TOK_RANGE:
            return P_RANGE;
        case KD_TOK_PLUS:
        case KD_TOK_MINUS:
            return P_ADD;
        case KD_TOK_STAR:
        case KD_TOK_SLASH:
        case KD_TOK_FLOORDIV:
        case KD_TOK_PERCENT:
        case KD_TOK_AT:
            return P_MUL;
        case KD_TOK_POWER:
            return P_POWER;
        }
        return P_COMPARE;
    case KD_EXPR_ERROR:
    case KD_EXPR_NONE:
    case KD_EXPR_INT:
    case KD_EXPR_FLOAT:
    case KD_EXPR_BOOL:
    case KD_EXPR_STRING:
    case KD_EXPR_NAME:
    case KD_EXPR_LIST:
    case KD_EXPR_EACH:
    case KD_EXPR_CALL:
    case KD_EXPR_BRACKET:
    case KD_EXPR_FIELD:
        break;
    }
    return P_POSTFIX;
}

static const char *sign(KdTok op) {
    switch ((int)op) {
#define TOKEN(id, text)                                                                            \
    case KD_TOK_##id:                                                                              \
        return text;
#include "frontend/lang/tokens.def"
#undef TOKEN
    }
    return "?";
}

static void print_at(KdStr *s, const KdExpr *e, int least) {
    bool paren = strength(e) < least;
    if (paren) kd_str_printf(s, "(");
    kd_print_expr(s, e);
    if (paren) kd_str_printf(s, ")");
}

static void print_string(KdStr *s, const char *text) {
    kd_str_printf(s, "\"");
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            kd_str_printf(s, "\\n");
        else if (*p == '\t')
            kd_str_printf(s, "\\t");
        else if (*p == '"' || *p == '\\')
            kd_str_printf(s, "\\%c", *p);
        else
            kd_str_add(s, p, 1);
    }
    kd_str_printf(s, "\"");
}

static void print_args(KdStr *s, const KdExpr *e, const char *open, const char *close) {
    kd_str_printf(s, "%s", open);
    for (int i = 0; i < e->n_args; i++) {
        const KdArg *a = &e->args[i];
        if (i) kd_str_printf(s, ", ");
        if (a->name) kd_str_printf(s, "%s = ", a->name);
        if (a->value) {
            kd_print_expr(s, a->value);
            continue;
        }
        if (a->lo) kd_print_expr(s, a->lo);
        kd_str_printf(s, ":");
        if (a->hi) kd_print_expr(s, a->hi);
        if (a->step) {
            kd_str_printf(s, ":");
            kd_print_expr(s, a->step);
        }
    }
    kd_str_printf(s, "%s", close);
}

void kd_print_expr(KdStr *s, const KdExpr *e) {
    switch (e->kind) {
    case KD_EXPR_ERROR:
        kd_str_printf(s, "?");
        break;
    case KD_EXPR_NONE:
        kd_str_printf(s, "none");
        break;
    case KD_EXPR_INT:
        kd_str_printf(s, "%lld", (long long)e->i);
        break;
    case KD_EXPR_FLOAT:
        kd_str_printf(s, "%s", kd_float_text(s->cx, e->f));
        break;
    case KD_EXPR_BOOL:
        kd_str_printf(s, "%s", e->i ? "true" : "false");
        break;
    case KD_EXPR_STRING:
        print_string(s, e->s);
        break;
    case KD_EXPR_NAME:
        kd_str_printf(s, "%s", e->s);
        break;
    case KD_EXPR_LIST:
        print_args(s, e, "[", "]");
        break;
    case KD_EXPR_EACH:
        kd_str_printf(s, "[");
        kd_print_expr(s, e->a);
        kd_str_printf(s, " for %s in ", e->s);
        kd_print_expr(s, e->b);
        kd_str_printf(s, "]");
        break;
    case KD_EXPR_UNARY:
        kd_str_printf(s, "%s%s", sign(e->op), e->op == KD_TOK_NOT ? " " : "");
        print_at(s, e->a, strength(e));
        break;
    case KD_EXPR_FROZEN:
        kd_str_printf(s, "frozen ");
        print_at(s, e->a, P_POSTFIX);
        break;
    case KD_EXPR_BINARY: {
        int me = strength(e);
        bool right = e->op == KD_TOK_POWER, alone = me == P_COMPARE || me == P_RANGE;
        print_at(s, e->a, me + (right || alone));
        kd_str_printf(s, e->op == KD_TOK_RANGE ? "%s" : " %s ", sign(e->op));
        print_at(s, e->b, right ? P_SIGN : me + 1);
        break;
    }
    case KD_EXPR_CHOICE:
        print_at(s, e->a, P_OR);
        kd_str_printf(s, " if ");
        print_at(s, e->c, P_OR);
        kd_str_printf(s, " else ");
        print_at(s, e->b, P_CHOICE);
        break;
    case KD_EXPR_CALL:
        print_at(s, e->a, P_POSTFIX);
        print_args(s, e, "(", ")");
        break;
    case KD_EXPR_BRACKET:
        print_at(s, e->a, P_POSTFIX);
        print_args(s, e, "[", "]");
        break;
    case KD_EXPR_FIELD:
        print_at(s, e->a, P_POSTFIX);
        kd_str_printf(s, ".%s", e->s);
        break;
    case KD_EXPR_PIPE:
        print_at(s, e->a, P_PIPE);
        kd_str_printf(s, " |> ");
        print_at(s, e->b, P_POSTFIX);
        break;
    }
}

static void print_type(KdStr *s, const KdTypeNote *t) {
    if (t->kind) {
        kd_str_printf(s, "%s", t->kind);
        return;
    }
    kd_str_printf(s, "%s[", t->dtype < 0 ? "" : kd_dtype_name((KdDType)t->dtype));
    for (int i = 0; i < t->n; i++) {
        if (i) kd_str_printf(s, ", ");
        if (t->dim[i])
            kd_print_expr(s, t->dim[i]);
        else
            kd_str_printf(s, "_");
    }
    kd_str_printf(s, "]");
}

static void print_formals(KdStr *s, const KdFormal *f, int n) {
    for (int i = 0; i < n; i++) {
        kd_str_printf(s, "%s%s", i ? ", " : "", f[i].name);
        if (f[i].type) {
            kd_str_printf(s, ": ");
            print_type(s, f[i].type);
        }
        if (f[i].def) {
            kd_str_printf(s, " = ");
            kd_print_expr(s, f[i].def);
        }
    }
}

static void print_body(KdStr *s, const KdBlock *b, int indent) {
    kd_str_printf(s, " {\n");
    kd_print_block(s, b, indent + 1);
    kd_str_printf(s, "%*s}", indent * 4, "");
}

static void print_def(KdStr *s, const KdDef *d, int indent) {
    static const char *const word[] = {"fn", "net", "session"};
    kd_str_printf(s, "%s %s", word[d->kind], d->name ? d->name : "?");
    if (d->n_hyper) {
        kd_str_printf(s, "[");
        print_formals(s, d->hyper, d->n_hyper);
        kd_str_printf(s, "]");
    }
    kd_str_printf(s, "(");
    print_formals(s, d->formal, d->n_formal);
    kd_str_printf(s, ")");
    if (d->result) {
        kd_str_printf(s, " -> ");
        print_type(s, d->result);
    }
    if (*d->from) kd_str_printf(s, " from %s", d->from);
    print_body(s, &d->body, indent);
}

static void print_names(KdStr *s, const KdStmt *t, const char *word) {
    kd_str_printf(s, "%s", word);
    for (int i = 0; i < t->n_exprs; i++) {
        const KdExpr *e = t->exprs[i];
        kd_str_printf(s, i ? ", " : " ");
        bool plain = (e->kind == KD_EXPR_NAME || e->kind == KD_EXPR_FIELD) && e->s == t->names[i];
        if (t->names[i] && !plain) kd_str_printf(s, "%s = ", t->names[i]);
        kd_print_expr(s, e);
    }
}

static void print_stmt(KdStr *s, const KdStmt *t, int indent) {
    switch (t->kind) {
    case KD_STMT_IMPORT:
        kd_str_printf(s, "import ");
        print_string(s, t->n_names ? t->names[0] : "?");
        return;
    case KD_STMT_PARAM:
        kd_str_printf(s, "param %s", t->n_names ? t->names[0] : "?");
        if (t->type) {
            kd_str_printf(s, ": ");
            print_type(s, t->type);
        }
        kd_str_printf(s, " = ");
        break;
    case KD_STMT_CHOICE:
        kd_str_printf(s, "choice %s = ", t->n_names ? t->names[0] : "?");
        break;
    case KD_STMT_LET:
        for (int i = 0; i < t->n_names; i++)
            kd_str_printf(s, "%s%s", i ? ", " : "let ", t->names[i]);
        kd_str_printf(s, " = ");
        break;
    case KD_STMT_ASSIGN:
        kd_str_printf(s, "%s = ", t->names[0]);
        break;
    case KD_STMT_TAP:
    case KD_STMT_UPDATE:
        kd_str_printf(s, "%s %s = ", t->kind == KD_STMT_TAP ? "tap" : "update",
                      t->n_names ? t->names[0] : "?");
        break;
    case KD_STMT_EXPR:
        break;
    case KD_STMT_RETURN:
        kd_str_printf(s, t->n_exprs ? "return " : "return");
        break;
    case KD_STMT_IF:
        kd_str_printf(s, "if ");
        kd_print_expr(s, t->exprs[0]);
        print_body(s, &t->body, indent);
        if (t->orelse.n == 1 && t->orelse.v[0]->kind == KD_STMT_IF) {
            kd_str_printf(s, " else ");
            print_stmt(s, t->orelse.v[0], indent);
        } else if (t->orelse.n) {
            kd_str_printf(s, " else");
            print_body(s, &t->orelse, indent);
        }
        return;
    case KD_STMT_FOR:
        kd_str_printf(s, "for %s in ", t->n_names ? t->names[0] : "?");
        if (t->n_exprs) kd_print_expr(s, t->exprs[0]);
        print_body(s, &t->body, indent);
        return;
    case KD_STMT_MINIMIZE:
        kd_str_printf(s, "minimize ");
        kd_print_expr(s, t->exprs[0]);
        for (int i = 2; i < t->n_exprs; i++) {
            kd_str_printf(s, i == 2 ? " over " : ", ");
            kd_print_expr(s, t->exprs[i]);
        }
        kd_str_printf(s, " with ");
        if (t->exprs[1]) kd_print_expr(s, t->exprs[1]);
        return;
    case KD_STMT_TOGETHER:
        kd_str_printf(s, "together");
        print_body(s, &t->body, indent);
        return;
    case KD_STMT_EVERY:
        kd_str_printf(s, "every ");
        kd_print_expr(s, t->exprs[0]);
        print_body(s, &t->body, indent);
        return;
    case KD_STMT_LOG:
        print_names(s, t, "log");
        return;
    case KD_STMT_SHOW:
        print_names(s, t, "show");
        return;
    case KD_STMT_DEF:
        print_def(s, t->def, indent);
        return;
    }
    if (t->n_exprs) kd_print_expr(s, t->exprs[0]);
}

void kd_print_block(KdStr *s, const KdBlock *b, int indent) {
    for (int i = 0; i < b->n; i++) {
        if (indent == 0 && i && b->v[i]->kind == KD_STMT_DEF) kd_str_printf(s, "\n");
        kd_str_printf(s, "%*s", indent * 4, "");
        print_stmt(s, b->v[i], indent);
        kd_str_printf(s, "\n");
    }
}
