/* resolve.c: names that do not exist, found before anything runs, so that a misspelling in a branch
 * that is not taken, or in a net that nobody applies, is an error too. One walk over a module with
 * the language's scopes. A name that is unknown becomes KD_EXPR_ERROR, of which the elaborator
 * makes poison without a second complaint.
 */
#include "frontend/lang/elaborate.h"

#include <string.h>

typedef struct Scope {
    struct Scope *outer;
    KD_VEC(const char *) names;
} Scope;

typedef struct Resolver {
    KdProgram *p;
    KdContext *cx;
    KdSourceModule *m;
    Scope *scope;
} Resolver;

static void walk_expr(Resolver *r, KdExpr *e);
static void walk_block(Resolver *r, const KdBlock *b);

static void push(Resolver *r, Scope *s) {
    *s = (Scope){.outer = r->scope};
    r->scope = s;
}

static void pop(Resolver *r) { r->scope = r->scope->outer; }

static void bind(Resolver *r, const char *name) { kd_push(r->cx, &r->scope->names, name); }

static bool in_module(const KdSourceModule *m, const char *name) {
    return kd_map_get(&m->resolved, (uint64_t)(uintptr_t)name, NULL);
}

static bool is_local(const Resolver *r, const char *name) {
    for (Scope *s = r->scope; s; s = s->outer)
        for (int i = 0; i < s->names.n; i++)
            if (s->names.v[i] == name) return true;
    return false;
}

static bool known(const Resolver *r, const char *name) {
    if (is_local(r, name) || in_module(r->m, name)) return true;
    for (int i = 0; i < r->m->imports.n; i++)
        if (in_module(r->m->imports.v[i], name)) return true;
    KdOp op;
    return in_module(r->p->modules.v[0], name) || kd_find_builtin(name) ||
           kd_op_by_name(name, &op) || kd_is_builtin_value(name);
}

static void complain(Resolver *r, KdSpan at, const char *name, const char *fmt) {
    KD_VEC(const char *) names = {0};
    int n;
    kd_error(r->cx, kd_span_loc(r->cx, r->m->file, at), fmt, name);
    for (Scope *s = r->scope; s; s = s->outer)
        for (int i = 0; i < s->names.n; i++)
            kd_push(r->cx, &names, s->names.v[i]);
    const KdSourceModule *prelude = r->p->modules.v[0];
    for (int k = -2; k < r->m->imports.n; k++) {
        const KdSourceModule *m = k == -2 ? r->m : k == -1 ? prelude : r->m->imports.v[k];
        for (int i = 0; i < m->resolved.cap; i++)
            if (m->resolved.used[i])
                kd_push(r->cx, &names, (const char *)(uintptr_t)m->resolved.keys[i]);
    }
    const char *const *builtin = kd_builtin_names(r->cx, &n);
    for (int i = 0; i < n; i++)
        kd_push(r->cx, &names, builtin[i]);
    const char *near = name[0] && name[1] ? kd_nearest(name, names.v, names.n) : NULL;
    if (near) kd_hint(r->cx, "did you mean '%s'?", near);
}

static void walk_args(Resolver *r, KdExpr *e) {
    for (int i = 0; i < e->n_args; i++) {
        KdArg *a = &e->args[i];
        walk_expr(r, a->value);
        walk_expr(r, a->lo);
        walk_expr(r, a->hi);
        walk_expr(r, a->step);
    }
}

static void walk_expr(Resolver *r, KdExpr *e) {
    if (!e) return;
    switch (e->kind) {
    case KD_EXPR_NAME:
        if (known(r, e->s)) return;
        complain(r, e->at, e->s, "'%s' is not known here");
        e->kind = KD_EXPR_ERROR;
        return;
    case KD_EXPR_EACH: {
        Scope s;
        walk_expr(r, e->b);
        push(r, &s);
        if (e->s) bind(r, e->s);
        walk_expr(r, e->a);
        pop(r);
        return;
    }
    case KD_EXPR_LIST:
    case KD_EXPR_CALL:
    case KD_EXPR_BRACKET:
    case KD_EXPR_UNARY:
    case KD_EXPR_FROZEN:
    case KD_EXPR_BINARY:
    case KD_EXPR_CHOICE:
    case KD_EXPR_FIELD:
    case KD_EXPR_PIPE:
        walk_expr(r, e->a);
        walk_expr(r, e->c);
        walk_expr(r, e->b);
        walk_args(r, e);
        return;
    case KD_EXPR_ERROR:
    case KD_EXPR_NONE:
    case KD_EXPR_INT:
    case KD_EXPR_FLOAT:
    case KD_EXPR_BOOL:
    case KD_EXPR_STRING:
        return;
    }
}

/* The names of dims that are not known yet are bound here. */
static void walk_type(Resolver *r, const KdTypeNote *t) {
    for (int i = 0; t && i < t->n; i++) {
        KdExpr *e = t->dim[i];
        if (e && e->kind == KD_EXPR_NAME)
            bind(r, e->s);
        else
            walk_expr(r, e);
    }
}

static void walk_formals(Resolver *r, const KdFormal *f, int n) {
    for (int i = 0; i < n; i++) {
        walk_expr(r, f[i].def);
        walk_type(r, f[i].type);
        bind(r, f[i].name);
    }
}

static void walk_def(Resolver *r, const KdDef *d) {
    Scope s;
    push(r, &s);
    walk_formals(r, d->hyper, d->n_hyper);
    walk_formals(r, d->formal, d->n_formal);
    walk_type(r, d->result);
    walk_block(r, &d->body);
    pop(r);
}

static void walk_stmt(Resolver *r, KdStmt *s) {
    Scope inner;
    switch (s->kind) {
    case KD_STMT_IMPORT:
        return;
    case KD_STMT_DEF:
        walk_def(r, s->def);
        return;
    case KD_STMT_FOR:
        walk_expr(r, s->exprs[0]);
        push(r, &inner);
        bind(r, s->names[0]);
        walk_block(r, &s->body);
        pop(r);
        return;
    case KD_STMT_ASSIGN:
    case KD_STMT_UPDATE:
        walk_expr(r, s->exprs[0]);
        if (is_local(r, s->names[0]) || (!r->scope->outer && in_module(r->m, s->names[0]))) return;
        complain(r, s->name_spans[0], s->names[0],
                 s->kind == KD_STMT_ASSIGN ? "'%s' is not a variable of this block; 'let' makes one"
                                           : "there is no buffer '%s' here");
        s->kind = KD_STMT_LET;
        bind(r, s->names[0]);
        return;
    case KD_STMT_PARAM:
    case KD_STMT_CHOICE:
    case KD_STMT_LET:
    case KD_STMT_EXPR:
    case KD_STMT_RETURN:
    case KD_STMT_IF:
    case KD_STMT_TAP:
    case KD_STMT_MINIMIZE:
    case KD_STMT_TOGETHER:
    case KD_STMT_EVERY:
    case KD_STMT_LOG:
    case KD_STMT_SHOW:
        break;
    }
    if (s->kind == KD_STMT_PARAM) walk_type(r, s->type);
    for (int i = 0; i < s->n_exprs; i++)
        walk_expr(r, s->exprs[i]);
    walk_block(r, &s->body);
    walk_block(r, &s->orelse);
    if (s->kind == KD_STMT_LET)
        for (int i = 0; i < s->n_names; i++)
            bind(r, s->names[i]);
}

static void walk_block(Resolver *r, const KdBlock *b) {
    Scope s;
    push(r, &s);
    for (int i = 0; i < b->n; i++)
        walk_stmt(r, b->v[i]);
    pop(r);
}

/* What the top of a file defines; twice is an error. */
static void collect(Resolver *r, KdSourceModule *m) {
    m->resolved.cx = r->cx;
    for (int i = 0; i < m->block.n; i++) {
        KdStmt *s = m->block.v[i];
        if (s->kind != KD_STMT_DEF && s->kind != KD_STMT_LET && s->kind != KD_STMT_PARAM && s->kind != KD_STMT_CHOICE)
            continue;
        for (int k = 0; k < s->n_names; k++) {
            uint64_t first;
            if (kd_map_get(&m->resolved, (uint64_t)(uintptr_t)s->names[k], &first)) {
                kd_error(r->cx, kd_span_loc(r->cx, m->file, s->name_spans[k]),
                         "'%s' is defined twice", s->names[k]);
                kd_note(r->cx, kd_span_loc(r->cx, m->file, m->block.v[first]->name_spans[0]),
                        "first here");
                continue;
            }
            kd_map_put(&m->resolved, (uint64_t)(uintptr_t)s->names[k], (uint64_t)i);
        }
    }
}

/* A name from two imports is nobody's. */
static void check_imports(Resolver *r, KdSourceModule *m) {
    for (int i = 0; i < m->imports.n; i++)
        for (int k = i + 1; k < m->imports.n; k++) {
            const KdSourceModule *a = m->imports.v[i], *b = m->imports.v[k];
            for (int at = 0; a != b && at < a->resolved.cap; at++) {
                const char *name =
                    a->resolved.used[at] ? (const char *)(uintptr_t)a->resolved.keys[at] : NULL;
                if (!name || !in_module(b, name) || in_module(m, name)) continue;
                KdSpan where = {1, 1, 1};
                for (int s = 0, seen = 0; s < m->block.n; s++)
                    if (m->block.v[s]->kind == KD_STMT_IMPORT && seen++ == k)
                        where = m->block.v[s]->name_spans[0];
                kd_error(r->cx, kd_span_loc(r->cx, m->file, where),
                         "'%s' is defined in %s and in %s", name, a->file, b->file);
            }
        }
}

void kd_resolve(KdProgram *p, KdSourceModule *m) {
    Resolver r = {.p = p, .cx = p->cx, .m = m};
    Scope top = {0};
    collect(&r, m);
    check_imports(&r, m);
    r.scope = &top;
    for (int i = 0; i < m->block.n; i++)
        walk_stmt(&r, m->block.v[i]);
}
