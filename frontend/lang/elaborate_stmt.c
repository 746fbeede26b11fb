/* elaborate_stmt.c: statements. Control flow runs here; what is left behind are nodes. The
 * statements of sessions are in elaborate_session.c.
 */
#include "frontend/lang/elaborate.h"

#include <string.h>

static KdSpan name_span(const KdStmt *s, int i) { return s->name_spans[i]; }

static bool at_top(KdElab *E) { return !E->frame->def && !E->frame->scope->outer; }

static void define(KdElab *E, const char *name, KdVal v) {
    kd_name_instances(E, v, name, E->frame->scope);
    if (at_top(E))
        kd_bind_global(E, E->frame->module, name, v);
    else
        kd_bind(E, name, v);
}

static void exec_let(KdElab *E, const KdStmt *s) {
    const KdExpr *e = s->exprs[0];
    const KdExpr *was_call = E->hint_call;
    const char *was_name = E->hint_name;
    if (e->kind == KD_EXPR_CALL && s->n_names == 1) {
        E->hint_call = e;
        E->hint_name = s->names[0];
    }
    KdVal v = kd_eval_expr(E, e);
    E->hint_call = was_call;
    E->hint_name = was_name;
    if (s->n_names == 1) {
        define(E, s->names[0], v);
        return;
    }
    bool list = v.kind == KD_VAL_LIST;
    if (v.kind != KD_VAL_POISON && (!list || v.list->n != s->n_names))
        kd_elab_error(E, e->at, "%d names take a list of %d apart, found %s", s->n_names,
                      s->n_names,
                      list ? kd_format(E->cx, "a list of %d", v.list->n) : kd_val_describe(E, v));
    for (int i = 0; i < s->n_names; i++)
        define(E, s->names[i], list && v.list->n == s->n_names ? v.list->v[i] : kd_poison());
}

static void exec_assign(KdElab *E, const KdStmt *s) {
    KdScope *scope = NULL;
    KdVal v = kd_eval_expr(E, s->exprs[0]);
    KdVal *old = kd_find_local(E, s->names[0], &scope);
    if (!old) {
        if (!E->frame->def)
            kd_bind_global(E, E->frame->module, s->names[0], v);
        else
            kd_elab_error(E, name_span(s, 0),
                          "'%s' is not a variable of this block; 'let %s = ...' makes one",
                          s->names[0], s->names[0]);
        return;
    }
    for (KdScope *at = E->frame->scope; at != scope; at = at->outer)
        if (at->every) {
            kd_elab_error(
                E, name_span(s, 0),
                "'%s' belongs outside of this 'every' block, which does not run each time",
                s->names[0]);
            return;
        }
    kd_name_instances(E, v, s->names[0], scope);
    *old = v;
}

static void exec_for(KdElab *E, const KdStmt *s) {
    KdVal over = kd_eval_expr(E, s->exprs[0]);
    if (over.kind != KD_VAL_LIST) E->frame->doubtful = true;
    if (over.kind == KD_VAL_POISON) return;
    if (over.kind != KD_VAL_LIST) {
        kd_elab_error(E, s->exprs[0]->at, "'for' goes over a list or a range, found %s",
                      kd_val_describe(E, over));
        return;
    }
    for (int i = 0; i < over.list->n && !E->frame->returned && !E->dead; i++) {
        KdScope *scope = kd_scope_push(E);
        scope->round = i;
        kd_bind(E, s->names[0], over.list->v[i]);
        kd_exec_block(E, &s->body);
        kd_scope_pop(E);
    }
}

static void exec_tap(KdElab *E, const KdStmt *s) {
    KdFrame *f = E->frame;
    if (!f->def || f->def->kind != KD_DEF_NET) {
        kd_elab_error(E, s->span, "'tap' names a feature of a net; this is not in a net");
        return;
    }
    for (int i = 0; i < f->applied->taps.n; i++)
        if (f->applied->taps.v[i].name == s->names[0]) {
            kd_elab_error(E, name_span(s, 0),
                          "the tap '%s' exists already; collect several in a list", s->names[0]);
            return;
        }
    KdVal v = kd_eval_expr(E, s->exprs[0]);
    kd_push(E->cx, &f->applied->taps, (KdNamed){s->names[0], v});
}

static void exec_update(KdElab *E, const KdStmt *s) {
    KdVal *old = kd_find_local(E, s->names[0], NULL);
    if (old && old->kind == KD_VAL_POISON) return;
    if (!old || !old->weight || !old->weight->buffer) {
        kd_elab_error(E, name_span(s, 0), "'update' changes a buffer, but '%s' is %s", s->names[0],
                      old ? old->weight ? "a weight" : kd_val_describe(E, *old) : "not one");
        return;
    }
    KdWeight *w = old->weight;
    if (E->mode != KD_TRAIN || w->store->frozen) return;
    KdVal v = kd_eval_expr(E, s->exprs[0]);
    if (v.kind == KD_VAL_POISON) return;
    const KdType *type = kd_val_type(E, *old); /* of a narrowed network's: a leading part of w's */
    if (v.kind != KD_VAL_TENSOR || kd_val_type(E, v) != type) {
        kd_elab_error(E, s->exprs[0]->at, "the buffer '%s' is %s, its update %s", s->names[0],
                      kd_type_text(E->cx, type), kd_val_describe(E, v));
        return;
    }
    if (E->session && E->session->idle) return;
    w->now = kd_with_leading_part(E, w, kd_unary(&E->b, KD_OP_DETACH, v.t));
    w->buffer_updated = true;
}

static void exec_value(KdElab *E, const KdStmt *s) {
    KdVal v = kd_eval_expr(E, s->exprs[0]);
    if (v.kind == KD_VAL_NONE || v.kind == KD_VAL_POISON || kd_elab_complained(E, s->exprs[0]->at))
        return;
    kd_elab_error(E, s->exprs[0]->at, "this value is not used: %s", kd_val_describe(E, v));
    const KdExpr *e = s->exprs[0];
    if (e->kind == KD_EXPR_UNARY && e->op != KD_TOK_NOT)
        kd_hint(
            E->cx,
            "a statement ends with its line: the operator belongs at the end of the line above");
    else
        kd_hint(E->cx, "let name = ... keeps it, return ... gives it back");
}

static void exec_return(KdElab *E, const KdStmt *s) {
    if (!E->frame->def || E->frame->def->kind == KD_DEF_SESSION) {
        kd_elab_error(E, s->span, "'return' belongs in a fn or a net");
        return;
    }
    E->frame->ret = s->n_exprs ? kd_eval_expr(E, s->exprs[0]) : kd_none();
    E->frame->returned = true;
}

static bool in_session(KdElab *E, const KdStmt *s, const char *word) {
    if (E->session && E->frame->def == E->session->def) return true;
    kd_elab_error(E, s->span, "'%s' belongs in a session", word);
    return false;
}

void kd_exec_stmt(KdElab *E, const KdStmt *s) {
    bool c;
    switch (s->kind) {
    case KD_STMT_LET:
        exec_let(E, s);
        break;
    case KD_STMT_ASSIGN:
        exec_assign(E, s);
        break;
    case KD_STMT_EXPR:
        exec_value(E, s);
        break;
    case KD_STMT_RETURN:
        exec_return(E, s);
        break;
    case KD_STMT_IF:
        if (kd_eval_bool(E, s->exprs[0], "the condition of 'if'", &c))
            kd_exec_block(E, c ? &s->body : &s->orelse);
        else
            E->frame->doubtful = true;
        break;
    case KD_STMT_FOR:
        exec_for(E, s);
        break;
    case KD_STMT_TAP:
        exec_tap(E, s);
        break;
    case KD_STMT_UPDATE:
        exec_update(E, s);
        break;
    case KD_STMT_MINIMIZE:
        if (in_session(E, s, "minimize")) kd_exec_minimize(E, s);
        break;
    case KD_STMT_TOGETHER:
        if (in_session(E, s, "together")) kd_exec_together(E, s);
        break;
    case KD_STMT_EVERY:
        if (in_session(E, s, "every")) kd_exec_every(E, s);
        break;
    case KD_STMT_LOG:
    case KD_STMT_SHOW:
        if (in_session(E, s, s->kind == KD_STMT_LOG ? "log" : "show")) kd_exec_record(E, s);
        break;
    case KD_STMT_IMPORT:
    case KD_STMT_PARAM:
    case KD_STMT_CHOICE:
    case KD_STMT_DEF:
        break; /* program.c */
    }
}

void kd_exec_block(KdElab *E, const KdBlock *b) {
    kd_scope_push(E);
    for (int i = 0; i < b->n && !E->frame->returned && !E->dead; i++)
        kd_exec_stmt(E, b->v[i]);
    kd_scope_pop(E);
}
