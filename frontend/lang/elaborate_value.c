/* elaborate_value.c: compile-time values, scopes, and errors with their places. See elaborate.h. */
#include "frontend/lang/elaborate.h"

#include <string.h>

/* ---- values ---------------------------------------------------------------------------------- */

KdVal kd_list(KdElab *E, int n) {
    E->steps += n; /* memory is a step too */
    KdListVal *l = KD_NEW(E->cx, KdListVal);
    l->n = n;
    l->v = KD_NEW_ARRAY(E->cx, KdVal, n);
    return (KdVal){.kind = KD_VAL_LIST, .list = l};
}

bool kd_val_equal(KdVal a, KdVal b) {
    if (kd_is_number(a) && kd_is_number(b))
        return a.kind == KD_VAL_INT && b.kind == KD_VAL_INT ? a.i == b.i
                                                            : kd_number(a) == kd_number(b);
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case KD_VAL_POISON:
    case KD_VAL_NONE:
    case KD_VAL_OPS:
        return true;
    case KD_VAL_INT:
    case KD_VAL_BOOL:
        return a.i == b.i;
    case KD_VAL_FLOAT:
        return a.f == b.f;
    case KD_VAL_STRING:
        return a.s == b.s;
    case KD_VAL_LIST:
        if (a.list->n != b.list->n) return false;
        for (int i = 0; i < a.list->n; i++)
            if (!kd_val_equal(a.list->v[i], b.list->v[i])) return false;
        return true;
    case KD_VAL_TENSOR:
        return a.t == b.t;
    case KD_VAL_DEF:
        return a.def == b.def;
    case KD_VAL_INSTANCE:
        return a.inst == b.inst;
    case KD_VAL_BUILTIN:
        return a.builtin == b.builtin;
    case KD_VAL_OPTIMIZER:
        return a.opt == b.opt;
    }
    return false;
}

const KdType *kd_val_type(KdElab *E, KdVal v) { return kd_vtype(E->f, v.t); }

/* At most `shown` elements of a list and 8 `shown` bytes of a string. */
static void add_text(KdElab *E, KdStr *s, KdVal v, int depth, int shown) {
    switch (v.kind) {
    case KD_VAL_POISON:
        kd_str_printf(s, "?");
        break;
    case KD_VAL_NONE:
        kd_str_printf(s, "none");
        break;
    case KD_VAL_INT:
        kd_str_printf(s, "%lld", (long long)v.i);
        break;
    case KD_VAL_FLOAT:
        kd_str_printf(s, "%s", kd_float_text(E->cx, v.f));
        break;
    case KD_VAL_BOOL:
        kd_str_printf(s, v.i ? "true" : "false");
        break;
    case KD_VAL_STRING:
        kd_str_printf(s, "\"%.*s%s\"", 8 * shown, v.s,
                      strlen(v.s) > (size_t)(8 * shown) ? "..." : "");
        break;
    case KD_VAL_LIST:
        kd_str_printf(s, "[");
        for (int i = 0; i < v.list->n; i++) {
            if (i) kd_str_printf(s, ", ");
            if (i == shown || depth > 3 * shown) {
                kd_str_printf(s, "...");
                break;
            }
            add_text(E, s, v.list->v[i], depth + 1, shown);
        }
        kd_str_printf(s, "]");
        break;
    case KD_VAL_TENSOR: {
        const KdType *t = kd_val_type(E, v);
        kd_str_printf(s, "%s",
                      t->dtype == KD_F32 ? kd_shape_text(E->cx, t) : kd_type_text(E->cx, t));
        break;
    }
    case KD_VAL_DEF:
        kd_str_printf(s, "%s", v.def->name);
        break;
    case KD_VAL_INSTANCE:
        kd_str_printf(s, "%s", v.inst->label);
        break;
    case KD_VAL_BUILTIN:
        kd_str_printf(s, "%s", v.builtin->name);
        break;
    case KD_VAL_OPTIMIZER:
        kd_str_printf(s, "%s", kd_op_info[v.opt->op].name);
        break;
    case KD_VAL_OPS:
        kd_str_printf(s, "op");
        break;
    }
}

const char *kd_val_text(KdElab *E, KdVal v) {
    KdStr s = {E->cx, NULL, 0, 0};
    add_text(E, &s, v, 0, 8);
    return s.s;
}

const char *kd_val_full_text(KdElab *E, KdVal v) {
    KdStr s = {E->cx, NULL, 0, 0};
    add_text(E, &s, v, 0, KD_MAX_LIST);
    E->steps += (int64_t)s.n / 16;
    return s.s;
}

const char *kd_val_describe(KdElab *E, KdVal v) {
    static const char *const def[] = {"the fn", "the net", "the session"};
    const char *t = kd_val_text(E, v);
    switch (v.kind) {
    case KD_VAL_POISON:
    case KD_VAL_NONE:
    case KD_VAL_BOOL:
        return t;
    case KD_VAL_INT:
        return kd_format(E->cx, "the integer %s", t);
    case KD_VAL_FLOAT:
        return kd_format(E->cx, "the float %s", t);
    case KD_VAL_STRING:
        return kd_format(E->cx, "the string %s", t);
    case KD_VAL_LIST:
        return kd_format(E->cx, "the list %s", t);
    case KD_VAL_TENSOR:
        return kd_format(E->cx, "a tensor %s", t);
    case KD_VAL_DEF:
        return kd_format(E->cx, "%s %s", def[v.def->kind], t);
    case KD_VAL_INSTANCE:
        return kd_format(E->cx, "the network %s", t);
    case KD_VAL_BUILTIN:
        return kd_format(E->cx, "the function %s", t);
    case KD_VAL_OPTIMIZER:
        return kd_format(E->cx, "the optimiser %s", t);
    case KD_VAL_OPS:
        return "the namespace op";
    }
    return t;
}

/* ---- places and errors ----------------------------------------------------------------------- */

/* Inside the prelude it is the user's call that is shown. */
KdLoc kd_elab_loc(KdElab *E, KdSpan at) {
    KdFrame *f = E->frame;
    if (!f) return 0;
    if (f->module->prelude && f->user) return f->user;
    if (at.line == 0) return f->outer;
    return kd_loc(E->cx, (KdPlace){.file = f->module->file,
                                   .line = at.line,
                                   .col = at.col,
                                   .len = at.len,
                                   .outer = f->outer});
}

/* One key for a place, whatever application led to it. */
static uint64_t loc_key(KdElab *E, KdLoc loc) {
    const KdPlace *p = kd_place(E->cx, loc);
    if (!p) return 1;
    uint64_t words[2] = {(uint64_t)(uintptr_t)p->file,
                         (uint64_t)(uint32_t)p->line << 32 | (uint32_t)p->col};
    return kd_hash_bytes(words, sizeof words, 7);
}

static uint64_t place_key(KdElab *E, KdSpan at) { return loc_key(E, kd_elab_loc(E, at)); }

bool kd_elab_first(KdElab *E, KdLoc loc) {
    uint64_t key = loc_key(E, loc);
    if (E->dead || kd_map_get(&E->complained, key, NULL)) return false;
    kd_map_put(&E->complained, key, 1);
    return true;
}

bool kd_elab_complained(KdElab *E, KdSpan at) {
    return E->dead || kd_map_get(&E->complained, place_key(E, at), NULL);
}

static void add_hints(KdElab *E) {
    int shown = 0;
    for (KdFrame *f = E->frame; f && shown < 3; f = f->caller)
        for (int i = 0; i < f->hints.n && shown < 3; i++, shown++)
            kd_hint(E->cx, "%s", f->hints.v[i].text);
}

KdVal kd_elab_error(KdElab *E, KdSpan at, const char *fmt, ...) {
    if (kd_elab_complained(E, at)) return kd_poison();
    kd_map_put(&E->complained, place_key(E, at), 1);
    va_list ap;
    va_start(ap, fmt);
    const char *text = kd_vformat(E->cx, fmt, ap);
    va_end(ap);
    kd_error(E->cx, kd_elab_loc(E, at), "%s", text);
    add_hints(E);
    return kd_poison();
}

void kd_elab_near(KdElab *E, const char *name, const char *const *names, int n) {
    const char *near = name[0] && name[1] ? kd_nearest(name, names, n)
                                          : NULL; /* one letter is near to any other */
    if (near) kd_hint(E->cx, "did you mean '%s'?", near);
}

bool kd_elab_begin(KdElab *E, KdSpan at) {
    if (kd_elab_complained(E, at)) return false;
    E->b.loc = kd_elab_loc(E, at);
    if (E->f->n > KD_MAX_NODES) {
        kd_elab_error(E, at, "the program is too large: more than %d operations", KD_MAX_NODES);
        E->dead = true;
        return false;
    }
    return true;
}

KdVal kd_elab_end(KdElab *E, KdSpan at, KdValue v) {
    if (v != KD_NONE) return (KdVal){.kind = KD_VAL_TENSOR, .t = v};
    kd_map_put(&E->complained, place_key(E, at), 1);
    add_hints(E);
    return kd_poison();
}

/* ---- scopes ---------------------------------------------------------------------------------- */

KdScope *kd_scope_push(KdElab *E) {
    KdScope *s = E->free_scopes;
    if (s)
        E->free_scopes = s->outer;
    else
        s = KD_NEW(E->cx, KdScope);
    s->outer = E->frame->scope;
    s->round = -1;
    s->every = false;
    s->vars.n = 0;
    E->frame->scope = s;
    return s;
}

/* Nobody keeps a scope that was left, so it is used again. */
void kd_scope_pop(KdElab *E) {
    KdScope *s = E->frame->scope;
    E->frame->scope = s->outer;
    s->outer = E->free_scopes;
    E->free_scopes = s;
}

void kd_bind(KdElab *E, const char *name, KdVal v) {
    KdScope *s = E->frame->scope;
    for (int i = 0; i < s->vars.n; i++)
        if (s->vars.v[i].name == name) {
            s->vars.v[i].value = v;
            return;
        }
    kd_push(E->cx, &s->vars, (KdNamed){name, v});
}

void kd_bind_global(KdElab *E, const KdSourceModule *m, const char *name, KdVal v) {
    KdGlobals *g = &E->globals[m->index];
    uint64_t at;
    if (kd_map_get(&g->index, (uint64_t)(uintptr_t)name, &at)) {
        g->vars.v[at].value = v;
        return;
    }
    kd_map_put(&g->index, (uint64_t)(uintptr_t)name, (uint64_t)g->vars.n);
    kd_push(E->cx, &g->vars, (KdNamed){name, v});
}

static KdVal *find_global(KdElab *E, const KdSourceModule *m, const char *name) {
    KdGlobals *g = &E->globals[m->index];
    uint64_t at;
    return kd_map_get(&g->index, (uint64_t)(uintptr_t)name, &at) ? &g->vars.v[at].value : NULL;
}

KdVal *kd_find_local(KdElab *E, const char *name, KdScope **scope) {
    for (KdScope *s = E->frame->scope; s; s = s->outer)
        for (int i = 0; i < s->vars.n; i++)
            if (s->vars.v[i].name == name) {
                if (scope) *scope = s;
                return &s->vars.v[i].value;
            }
    return NULL;
}

bool kd_applicable(KdVal v) {
    return v.kind == KD_VAL_DEF || v.kind == KD_VAL_INSTANCE || v.kind == KD_VAL_BUILTIN ||
           v.kind == KD_VAL_POISON;
}

/* The order of lookup: blocks, the file, what it imports, the prelude, builtins, primitive ops. */
static bool find(KdElab *E, const char *name, bool applicable, KdVal *out) {
    const KdSourceModule *m = E->frame->module, *prelude = E->p->modules.v[0];
    for (KdScope *s = E->frame->scope; s; s = s->outer)
        for (int i = 0; i < s->vars.n; i++)
            if (s->vars.v[i].name == name && (!applicable || kd_applicable(s->vars.v[i].value))) {
                *out = s->vars.v[i].value;
                return true;
            }
    const KdVal *v = find_global(E, m, name);
    for (int i = 0; i < m->imports.n && !(v && (!applicable || kd_applicable(*v))); i++)
        v = find_global(E, m->imports.v[i], name);
    if (!(v && (!applicable || kd_applicable(*v)))) v = find_global(E, prelude, name);
    if (v && (!applicable || kd_applicable(*v))) {
        *out = *v;
        return true;
    }
    const KdBuiltin *b = kd_find_builtin(name);
    if (!b) b = kd_find_op(E, name);
    if (b) *out = (KdVal){.kind = KD_VAL_BUILTIN, .builtin = b};
    return b != NULL;
}

bool kd_find(KdElab *E, const char *name, KdVal *v) { return find(E, name, false, v); }

bool kd_find_applicable(KdElab *E, const char *name, KdVal *v) { return find(E, name, true, v); }
