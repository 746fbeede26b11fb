/* program.c: a loaded program: params and -D, the top level of its modules, its declarations;
 * kd_lang_load.
 *
 * Loading parses everything, resolves names, and runs the top level once. If that finds errors, the
 * sessions are elaborated as well before giving up, so that one run reports what is independent of
 * them.
 */
#include "frontend/lang/program.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/lang/source.h"

/* ---- a stack that does not depend on the caller's -------------------------------------------- */

typedef struct Errand {
    KdContext *cx;
    void (*fn)(void *);
    void *arg;
    KdFail failed;
    char message[1024];
} Errand;

static void *run_errand(void *p) {
    Errand *e = p;
    KdLanding l;
    if (KD_TRY(e->cx, l)) {
        e->fn(e->arg);
        kd_landing_pop(e->cx);
    } else {
        const char *m;
        e->failed = kd_failure(e->cx, &m);
        snprintf(e->message, sizeof e->message, "%s", m);
    }
    return NULL;
}

void kd_on_big_stack(KdContext *cx, void (*fn)(void *), void *arg) {
    Errand e = {.cx = cx, .fn = fn, .arg = arg};
    pthread_attr_t attr;
    pthread_t thread;
    int err = pthread_attr_init(&attr);
    if (!err) {
        err = pthread_attr_setstacksize(&attr, KD_STACK_BYTES);
        if (!err) err = pthread_create(&thread, &attr, run_errand, &e);
        pthread_attr_destroy(&attr);
    }
    if (err)
        kd_raise(cx, KD_FAIL_MACHINE, "cannot start a thread to elaborate in: %s", strerror(err));
    pthread_join(thread, NULL);
    if (e.failed != KD_FAIL_NONE) kd_raise(cx, e.failed, "%s", e.message);
}

/* ---- params ---------------------------------------------------------------------------------- */

static const char *kind_word(KdValKind k) {
    switch (k) {
    case KD_VAL_INT:
        return "an integer";
    case KD_VAL_FLOAT:
        return "a float";
    case KD_VAL_BOOL:
        return "true or false";
    case KD_VAL_STRING:
        return "a string";
    case KD_VAL_LIST:
        return "a list";
    case KD_VAL_POISON:
    case KD_VAL_NONE:
    case KD_VAL_TENSOR:
    case KD_VAL_DEF:
    case KD_VAL_INSTANCE:
    case KD_VAL_BUILTIN:
    case KD_VAL_OPTIMIZER:
    case KD_VAL_OPS:
        break;
    }
    return "a value";
}

/* A literal, a sign before a number, or a list of them. */
static bool literal_value(KdElab *E, const KdExpr *e, KdVal *v) {
    bool minus = e->kind == KD_EXPR_UNARY && e->op == KD_TOK_MINUS;
    if (minus) e = e->a;
    if (e->kind == KD_EXPR_INT)
        *v = kd_int(minus ? -e->i : e->i);
    else if (e->kind == KD_EXPR_FLOAT)
        *v = kd_float(minus ? -e->f : e->f);
    else if (e->kind == KD_EXPR_BOOL && !minus)
        *v = kd_bool(e->i);
    else if (e->kind == KD_EXPR_STRING && !minus)
        *v = kd_string(e->s);
    else if (e->kind == KD_EXPR_LIST && !minus) {
        *v = kd_list(E, e->n_args);
        for (int i = 0; i < e->n_args; i++)
            if (!literal_value(E, e->args[i].value, &kd_items(*v)[i])) return false;
    } else {
        return false;
    }
    return true;
}

/* The text behind -D name= as a value of the default's kind. */
static KdVal define_value(KdElab *E, const KdDefine *d, KdVal def, KdSpan at) {
    KdContext *cx = E->cx;
    char *end;
    errno = 0;
    if (def.kind == KD_VAL_STRING) return kd_string(kd_intern_z(cx, d->value));
    if (def.kind == KD_VAL_INT) {
        long long i = strtoll(d->value, &end, 10);
        if (*d->value && !*end && errno == 0) return kd_int(i);
    } else if (def.kind == KD_VAL_FLOAT) {
        double f = strtod(d->value, &end);
        if (*d->value && !*end && isfinite(f)) return kd_float(f);
    } else if (def.kind == KD_VAL_BOOL) {
        if (strcmp(d->value, "true") == 0 || strcmp(d->value, "false") == 0)
            return kd_bool(d->value[0] == 't');
    } else if (def.kind == KD_VAL_LIST) {
        KdVal v;
        const char *copy = kd_intern_z(cx, d->value), *label = kd_format(cx, "-D %s", d->name);
        kd_source_add(cx, label, copy, strlen(copy));
        KdExpr *e = kd_parse_expression(cx, label, copy, strlen(copy));
        if (!e) return kd_poison();
        if (e->kind == KD_EXPR_LIST && literal_value(E, e, &v)) return v;
    }
    kd_elab_error(E, at, "param %s: expected %s, found '%s' (-D %s=%s)", d->name,
                  kind_word(def.kind), d->value, d->name, d->value);
    if (def.kind == KD_VAL_INT && isfinite(strtod(d->value, &end)) && !*end && *d->value)
        kd_hint(cx, "it is an integer because its default is; write the default as a float");
    return kd_poison();
}

/* Does `from` import `to`, itself or through others? Modules stand after those they import. */
static bool reaches(KdElab *E, const KdSourceModule *from, const KdSourceModule *to) {
    bool *seen = KD_NEW_ARRAY(E->cx, bool, from->index + 1);
    seen[from->index] = true;
    for (int i = from->index; i > to->index; i--)
        for (int k = 0; seen[i] && k < E->p->modules.v[i]->imports.n; k++)
            seen[E->p->modules.v[i]->imports.v[k]->index] = true;
    return seen[to->index];
}

/* A param has one value in all files. A file that imports this one, itself or through others, gives its own default,
 * a literal of the same kind, to the imported files' params of that name; of several the one nearest to the main file. */
static KdVal importers_default(KdElab *E, const char *name, KdVal def) {
    const KdSourceModule *m = E->frame->module;
    KdVal v;
    for (int i = E->p->modules.n - 1; i > m->index; i--) {
        const KdSourceModule *o = E->p->modules.v[i];
        for (int k = 0; k < o->block.n; k++) {
            const KdStmt *s = o->block.v[k];
            if (s->kind != KD_STMT_PARAM || !s->n_names || !s->n_exprs || strcmp(s->names[0], name) != 0) continue;
            if (!literal_value(E, s->exprs[0], &v) || !reaches(E, o, m)) continue;
            if (v.kind == KD_VAL_INT && def.kind == KD_VAL_FLOAT) v = kd_float(kd_number(v));
            if (v.kind == def.kind) return v;
        }
    }
    return def;
}

/* The -D of that name, now used; NULL: there is none. */
static const KdDefine *find_define(KdElab *E, const char *name) {
    const KdLangOptions *o = &E->p->options;
    const KdDefine *found = NULL;
    for (int i = 0; i < o->n_define; i++) {
        if (strcmp(o->define[i].name, name) != 0) continue;
        E->p->define_used[i] = true;
        found = &o->define[i];
    }
    return found;
}

static void run_param(KdElab *E, const KdStmt *s) {
    if (!s->n_names || !s->n_exprs) return;
    KdVal v = kd_eval_expr(E, s->exprs[0]);
    if (v.kind != KD_VAL_POISON && v.kind != KD_VAL_NONE && (v.kind > KD_VAL_LIST))
        v = kd_elab_error(
            E, s->exprs[0]->at,
            "a param is a number, a string, true or false, or a list of them, found %s",
            kd_val_describe(E, v));
    if (s->type && v.kind != KD_VAL_POISON) {
        if (!kd_check_type(E, s->type, v, kd_format(E->cx, "param %s", s->names[0]),
                           s->exprs[0]->at, false))
            v = kd_poison();
        else if (s->type->kind && strcmp(s->type->kind, "float") == 0)
            v = kd_float(kd_number(v));
    }
    if (v.kind != KD_VAL_POISON) v = importers_default(E, s->names[0], v);
    const KdDefine *d = find_define(E, s->names[0]);
    if (d && v.kind != KD_VAL_POISON) v = define_value(E, d, v, s->name_spans[0]);
    kd_bind_global(E, E->frame->module, s->names[0], v);
}

/* ---- choices --------------------------------------------------------------------------------- */

static bool is_literal_kind(KdVal v) { return v.kind >= KD_VAL_INT && v.kind <= KD_VAL_STRING; }

/* The genes of a space: one, or one for each of its lists. false after a diagnostic. */
static bool read_space(KdElab *E, KdVal space, KdSpan at, KdVal *genes, int *n, bool *list) {
    bool ok = space.kind == KD_VAL_LIST && space.list->n > 0;
    *list = ok && space.list->v[0].kind == KD_VAL_LIST;
    *n = *list ? space.list->n : 1;
    for (int i = 0; ok && i < *n; i++) {
        genes[i] = *list ? space.list->v[i] : space;
        ok = genes[i].kind == KD_VAL_LIST && genes[i].list->n > 0;
        for (int k = 0; ok && k < genes[i].list->n; k++)
            ok = is_literal_kind(genes[i].list->v[k]);
    }
    if (!ok && space.kind != KD_VAL_POISON)
        kd_elab_error(E, at, "a choice is between the elements of a list of numbers, strings or booleans, or of each of a list of such lists; found %s",
                      kd_val_describe(E, space));
    return ok;
}

/* Is the value of a -D in the space? */
static bool in_space(KdElab *E, KdVal v, const KdVal *genes, int n, bool list, const char *name, KdSpan at) {
    if (list && v.list->n != n) {
        kd_elab_error(E, at, "choice %s: expected a list of %d, found %s", name, n, kd_val_text(E, v));
        return false;
    }
    for (int i = 0; i < n; i++) {
        KdVal pick = list ? v.list->v[i] : v;
        bool found = false;
        for (int k = 0; k < genes[i].list->n; k++)
            found = found || kd_val_equal(pick, genes[i].list->v[k]);
        if (found) continue;
        kd_elab_error(E, at, list ? "choice %s: %s is not among the alternatives %s of element %d" : "choice %s: %s is not among the alternatives %s",
                      name, kd_val_text(E, pick), kd_val_text(E, genes[i]), i);
        return false;
    }
    return true;
}

static void record_choice(KdElab *E, const KdStmt *s, const KdVal *genes, int n, bool list, bool fixed) {
    KdGene *g = KD_NEW_ARRAY(E->cx, KdGene, n);
    for (int i = 0; i < n; i++) {
        const char **text = KD_NEW_ARRAY(E->cx, const char *, genes[i].list->n);
        for (int k = 0; k < genes[i].list->n; k++)
            text[k] = kd_intern_z(E->cx, kd_val_full_text(E, genes[i].list->v[k]));
        g[i] = (KdGene){text, genes[i].list->n};
    }
    KdChoice c = {s->names[0], g, n, E->n_genes, list, fixed, kd_elab_loc(E, s->name_spans[0])};
    kd_push(E->cx, &E->p->choices, c);
    E->p->n_genes = E->n_genes + n;
}

static void run_choice(KdElab *E, const KdStmt *s) {
    if (!s->n_names || !s->n_exprs) return;
    KdVal space = kd_eval_expr(E, s->exprs[0]), v = kd_poison();
    KdVal *genes = KD_NEW_ARRAY(E->cx, KdVal, space.kind == KD_VAL_LIST ? space.list->n + 1 : 1);
    const KdDefine *d = find_define(E, s->names[0]);
    int n;
    bool list;
    if (read_space(E, space, s->exprs[0]->at, genes, &n, &list)) {
        KdVal picks = kd_list(E, n);
        for (int i = 0; i < n; i++) {
            int last = genes[i].list->n - 1, pick = E->draw ? E->draw[E->n_genes + i] : last;
            kd_items(picks)[i] = genes[i].list->v[pick < 0 || pick > last ? last : pick];
        }
        v = list ? picks : kd_items(picks)[0];
        if (d) v = define_value(E, d, v, s->name_spans[0]);
        if (d && v.kind != KD_VAL_POISON && !in_space(E, v, genes, n, list, s->names[0], s->name_spans[0])) v = kd_poison();
        if (E->loading) record_choice(E, s, genes, n, list, d != NULL);
        E->n_genes += n;
    }
    kd_bind_global(E, E->frame->module, s->names[0], v);
}

const KdChoice *kd_lang_choices(const KdProgram *p, int *n) {
    *n = p->choices.n;
    return p->choices.v;
}

int kd_lang_genes(const KdProgram *p) { return p->n_genes; }

/* ---- the top level --------------------------------------------------------------------------- */

static void run_module(KdElab *E, const KdSourceModule *m) {
    for (int i = 0; i < m->block.n; i++) {
        const KdStmt *s = m->block.v[i];
        if (s->kind == KD_STMT_DEF && s->def->name)
            kd_bind_global(E, m, s->def->name, (KdVal){.kind = KD_VAL_DEF, .def = s->def});
    }
    KdFrame *f = kd_frame_new(E, m, NULL);
    f->store = E->root;
    if (!kd_enter(E, f, (KdSpan){0}, NULL)) return;
    for (int i = 0; i < m->block.n && !E->dead; i++) {
        const KdStmt *s = m->block.v[i];
        if (s->kind == KD_STMT_PARAM)
            run_param(E, s);
        else if (s->kind == KD_STMT_CHOICE)
            run_choice(E, s);
        else
            kd_exec_stmt(E, s);
    }
    kd_leave(E);
}

KdElab *kd_elab_new(KdProgram *p, const char *name, KdMode mode, bool loading, const int *draw) {
    KdElab *E = KD_NEW(p->cx, KdElab);
    E->cx = p->cx;
    E->p = p;
    E->f = kd_func_new(p->cx, name);
    E->b = kd_builder(E->f);
    E->mode = mode;
    E->loading = loading;
    E->draw = draw;
    E->strip = "";
    E->max_depth = p->options.max_depth > 0 ? p->options.max_depth : KD_DEFAULT_DEPTH;
    E->rng_seed = E->rng_step = KD_NONE;
    E->complained.cx = p->cx;
    E->root = kd_store_new(E, NULL, "", NULL);
    E->globals = KD_NEW_ARRAY(p->cx, KdGlobals, p->modules.n);
    for (int i = 0; i < p->modules.n; i++)
        E->globals[i].index.cx = p->cx;
    for (int i = 0; i < p->modules.n; i++)
        run_module(E, p->modules.v[i]);
    return E;
}

void kd_enter_main(KdElab *E) {
    KdFrame *f = kd_frame_new(E, E->p->main, NULL);
    f->store = E->root;
    kd_enter(E, f, (KdSpan){0}, NULL);
}

/* ---- declarations ---------------------------------------------------------------------------- */

static void declare(KdElab *E, const KdSourceModule *m) {
    KdProgram *p = E->p;
    for (int i = 0; i < m->block.n; i++) {
        const KdStmt *s = m->block.v[i];
        if (s->kind != KD_STMT_DEF && s->kind != KD_STMT_LET && s->kind != KD_STMT_PARAM && s->kind != KD_STMT_CHOICE)
            continue;
        for (int k = 0; k < s->n_names; k++) {
            KdDecl d = {.name = s->names[k],
                        .value = "",
                        .main = m == p->main,
                        .loc = kd_span_loc(p->cx, m->file, s->name_spans[k])};
            uint64_t at;
            KdVal v = kd_map_get(&E->globals[m->index].index, (uint64_t)(uintptr_t)d.name, &at)
                          ? E->globals[m->index].vars.v[at].value
                          : kd_poison();
            d.kind = s->kind == KD_STMT_PARAM    ? KD_DECL_PARAM
                     : s->kind == KD_STMT_CHOICE ? KD_DECL_CHOICE
                                                 : KD_DECL_LET;
            if (d.kind != KD_DECL_LET) d.value = kd_intern_z(p->cx, kd_val_text(E, v));
            if (s->kind == KD_STMT_LET && v.kind == KD_VAL_INSTANCE) {
                d.kind = KD_DECL_INSTANCE;
                d.value = v.inst->label;
                d.frozen = v.inst->frozen;
                d.part_of = v.inst->narrow && v.inst->store ? v.inst->store->path : NULL;
            }
            if (s->kind == KD_STMT_DEF)
                d.kind = s->def->kind == KD_DEF_FN    ? KD_DECL_FN
                         : s->def->kind == KD_DEF_NET ? KD_DECL_NET
                                                      : KD_DECL_SESSION;
            kd_push(p->cx, &p->decls, d);
        }
    }
}

const KdDecl *kd_lang_decls(const KdProgram *p, int *n) {
    *n = p->decls.n;
    return p->decls.v;
}

void kd_lang_print_ast(KdStr *s, const KdProgram *p) { kd_print_block(s, &p->main->block, 0); }

/* ---- loading --------------------------------------------------------------------------------- */

typedef struct Load {
    KdProgram *p;
    const char *file, *text;
    size_t n;
    bool ok;
} Load;

static void unknown_defines(KdProgram *p) {
    KD_VEC(const char *) names = {0};
    for (int i = 0; i < p->decls.n; i++)
        if (p->decls.v[i].kind == KD_DECL_PARAM || p->decls.v[i].kind == KD_DECL_CHOICE) kd_push(p->cx, &names, p->decls.v[i].name);
    for (int i = 0; i < p->options.n_define; i++) {
        if (p->define_used[i]) continue;
        const char *name = p->options.define[i].name, *near = kd_nearest(name, names.v, names.n);
        kd_error(p->cx, 0, "-D %s=%s: %s has no param '%s'", name, p->options.define[i].value,
                 p->main->file, name);
        if (near) kd_hint(p->cx, "did you mean '%s'?", near);
    }
}

static void do_load(void *arg) {
    Load *l = arg;
    KdProgram *p = l->p;
    int errors = kd_error_count(p->cx);
    if (!kd_load_sources(p, l->file, l->text, l->n)) return;
    for (int i = 0; i < p->modules.n; i++)
        kd_resolve(p, p->modules.v[i]);
    KdElab *E = kd_elab_new(p, "top", KD_INFER, true, NULL);
    declare(E, p->main);
    for (int i = p->modules.n - 1; i > 0; i--)
        if (p->modules.v[i] != p->main) declare(E, p->modules.v[i]);
    unknown_defines(p);
    l->ok = kd_error_count(p->cx) == errors;
    if (l->ok) return;
    /* what else is wrong, in the sessions: the top level again, its complaints known already */
    for (int i = 0; i < p->main->block.n; i++) {
        const KdStmt *s = p->main->block.v[i];
        if (s->kind != KD_STMT_DEF || s->def->kind != KD_DEF_SESSION) continue;
        E->session = NULL;
        E->dead = false;
        E->mode = KD_TRAIN;
        kd_run_session(E, s->def, ~0u, &(KdNetOptions){0});
    }
}

KdProgram *kd_lang_load(KdContext *cx, const char *file, const char *text, size_t n,
                        const KdLangOptions *o) {
    KdProgram *p = KD_NEW(cx, KdProgram);
    p->cx = cx;
    p->warned.cx = cx;
    if (o) p->options = *o;
    p->define_used = KD_NEW_ARRAY(cx, bool, p->options.n_define);
    Load l = {p, file, text, n, false};
    kd_on_big_stack(cx, do_load, &l);
    return l.ok ? p : NULL;
}
