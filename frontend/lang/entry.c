/* entry.c: kd_lang_net and kd_lang_session: one thing of a program as a function with inputs and
 * outputs. */
#include "frontend/lang/program.h"

#include <string.h>

/* ---- types of inputs ------------------------------------------------------------------------- */

static const KdType *given_type(const KdNetOptions *o, const char *name) {
    for (int i = 0; i < o->n_given; i++)
        if (strcmp(o->given[i].name, name) == 0) return o->given[i].type;
    return NULL;
}

/* The size of a dim that nothing says: by its place in [n, c, h, w], or by its name. 0: not known.
 */
static int64_t default_dim(const KdNetOptions *o, int rank, int d, const char *name) {
    int64_t batch = o->batch ? o->batch : 1, height = o->height ? o->height : 256,
            width = o->width ? o->width : 256;
    if (rank == 4) return d == 0 ? batch : d == 2 ? height : d == 3 ? width : 0;
    if (!name) return 0;
    if (strcmp(name, "n") == 0 || strcmp(name, "batch") == 0) return batch;
    if (strcmp(name, "h") == 0 || strcmp(name, "height") == 0) return height;
    return strcmp(name, "w") == 0 || strcmp(name, "width") == 0 ? width : 0;
}

static bool known_dim(KdElab *E, const KdExpr *e, int64_t *size) {
    KdVal v;
    if (!e || (e->kind == KD_EXPR_NAME && !(kd_find(E, e->s, &v) && v.kind == KD_VAL_INT)))
        return false;
    return kd_eval_int(E, e, "a dim", size);
}

/* The type of a data parameter without a given tensor; binds the names of its dims. NULL after a
 * diagnostic. */
static const KdType *note_type(KdElab *E, const KdFormal *f, const KdNetOptions *o) {
    const KdTypeNote *t = f->type;
    int64_t dim[KD_MAX_RANK];
    int errors = kd_error_count(E->cx);
    for (int d = 0; d < t->n; d++) {
        const KdExpr *e = t->dim[d];
        if (known_dim(E, e, &dim[d])) continue;
        if (kd_error_count(E->cx) != errors) return NULL;
        const char *name = e && e->kind == KD_EXPR_NAME ? e->s : NULL;
        dim[d] = default_dim(o, t->n, d, name);
        if (!dim[d]) {
            if (kd_elab_complained(E, f->span)) return NULL;
            kd_elab_error(E, f->span, "the %s of '%s' is not known (dimension %d)",
                          t->n == 4 ? "number of channels" : "size", f->name, d);
            kd_hint(E->cx, "write the number into the annotation, or give a tensor");
            return NULL;
        }
        if (name) kd_bind(E, name, kd_int(dim[d]));
    }
    const KdType *type = kd_type(E->cx, t->dtype < 0 ? KD_F32 : (KdDType)t->dtype, t->n, dim);
    if (!type)
        kd_elab_error(E, f->span, "'%s' would have a negative dim, or more than 2^31 - 1 elements",
                      f->name);
    return type;
}

typedef struct Inputs {
    KD_VEC(KdActual) v;
} Inputs;

/* Makes an input of each parameter of d that is a tensor. false after diagnostics. */
static bool make_inputs(KdElab *E, const KdDef *d, const KdVal *hyper, const KdNetOptions *o,
                        Inputs *in) {
    KdFrame *f = kd_frame_new(E, d->module, d); /* where annotations are read */
    bool ok = true;
    if (!kd_enter(E, f, (KdSpan){0}, NULL)) return false;
    for (int i = 0; hyper && i < d->n_hyper; i++)
        kd_bind(E, d->hyper[i].name, hyper[i]);
    for (int i = 0; i < d->n_formal && ok; i++) {
        const KdFormal *p = &d->formal[i];
        const KdType *t = given_type(o, p->name);
        if (!t && (p->def || (p->type && p->type->kind))) {
            if (p->def) {
                kd_bind(E, p->name, kd_eval_expr(E, p->def));
                continue;
            }
            kd_elab_error(
                E, p->span,
                "'%s' of %s is no tensor and has no default: it cannot be given from outside",
                p->name, d->name);
            ok = false;
            break;
        }
        if (!t && !p->type) {
            kd_elab_error(
                E, p->span,
                "the shape of '%s' is not known: %s needs an annotation here, or a tensor", p->name,
                d->name);
            ok = false;
            break;
        }
        /* a file may hold bytes or integers: the parameter's annotation says what they become */
        if (t && p->type)
            t = kd_type(E->cx, p->type->dtype < 0 ? KD_F32 : (KdDType)p->type->dtype, t->rank,
                        t->dim);
        if (!t) t = note_type(E, p, o);
        if (!t) {
            ok = false;
            break;
        }
        E->b.loc = kd_elab_loc(E, p->span);
        KdActual a = {.name = p->name,
                      .value = kd_tensor(kd_input(&E->b, p->name, KD_DATA, t, ""))};
        kd_bind(E, p->name, a.value);
        if (p->type)
            ok = kd_check_type(E, p->type, a.value,
                               kd_format(E->cx, "'%s' of %s", p->name, d->name), p->span, false);
        kd_push(E->cx, &in->v, a);
    }
    kd_leave(E);
    return ok;
}

/* ---- nets and fns ---------------------------------------------------------------------------- */

static bool find_thing(KdElab *E, const char *name, KdVal *v) {
    KdProgram *p = E->p;
    name = kd_intern_z(E->cx, name);
    bool found = kd_find(E, name, v);
    uint64_t at;
    for (int i = p->modules.n - 1; !found && i >= 0; i--) {
        KdGlobals *g = &E->globals[i];
        if ((found = kd_map_get(&g->index, (uint64_t)(uintptr_t)name, &at)))
            *v = g->vars.v[at].value;
    }
    if (found &&
        (v->kind == KD_VAL_INSTANCE || (v->kind == KD_VAL_DEF && v->def->kind != KD_DEF_SESSION)))
        return true;
    if (found) {
        kd_error(E->cx, 0, "'%s' is no fn, net or network, but %s", name, kd_val_describe(E, *v));
        return false;
    }
    KD_VEC(const char *) names = {0};
    for (int i = 0; i < p->decls.n; i++)
        if (p->decls.v[i].kind != KD_DECL_PARAM && p->decls.v[i].kind != KD_DECL_CHOICE &&
            p->decls.v[i].kind != KD_DECL_SESSION)
            kd_push(E->cx, &names, p->decls.v[i].name);
    kd_error(E->cx, 0, "%s has no fn, net or network '%s'", p->main->file, name);
    kd_elab_near(E, name, names.v, names.n);
    return false;
}

static void add_output(KdElab *E, const char *name, KdVal v) {
    if (v.kind == KD_VAL_POISON) return;
    if (v.kind == KD_VAL_LIST) {
        for (int i = 0; i < v.list->n; i++)
            add_output(E, kd_format(E->cx, "%s.%d", name, i), v.list->v[i]);
        return;
    }
    if (kd_is_number(v) || v.kind == KD_VAL_BOOL) v = kd_to_tensor(E, v, KD_F32, (KdSpan){0});
    if (v.kind == KD_VAL_TENSOR)
        kd_output(E->f, name, v.t, KD_NONE);
    else
        kd_error(E->cx, 0, "the result '%s' is no tensor, but %s", name, kd_val_describe(E, v));
}

/* Whether a tap's path begins with a name that the result has; an error that lists them when not. */
static bool has_tap(KdElab *E, KdVal result, const char *path) {
    size_t n = strcspn(path, ".[");
    KD_VEC(const char *) names = {0};
    KdStr list = {.cx = E->cx};
    for (int k = 0; result.applied && k < 2; k++) {
        int count = k ? result.applied->inner.n : result.applied->taps.n;
        for (int i = 0; i < count; i++) {
            const char *s = k ? result.applied->inner.v[i].name : result.applied->taps.v[i].name;
            size_t m = strcspn(s, "[");
            if (m == n && strncmp(s, path, n) == 0) return true;
            kd_push(E->cx, &names, kd_intern(E->cx, s, m));
            bool again = k && i && strcmp(s, result.applied->inner.v[i - 1].name) == 0;
            if ((!k || !result.applied->taps.n) && !again) kd_str_printf(&list, "%s%s", list.n ? ", " : "", s);
        }
    }
    const char *which = !list.n                  ? ": the result has none"
                        : result.applied->taps.n ? "; the taps are "
                                                 : "; the networks inside are ";
    kd_error(E->cx, 0, *path ? "there is no tap '%s'%s%s" : "%sno tap is named%s%s", path, which, list.n ? list.s : "");
    kd_elab_near(E, path, names.v, names.n);
    return false;
}

static void add_taps(KdElab *E, KdVal result, const KdNetOptions *o) {
    kd_bind(E, kd_intern_z(E->cx, "result"), result);
    for (int i = 0; i < o->n_taps; i++) {
        if (!has_tap(E, result, o->taps[i])) continue;
        const char *label = kd_format(E->cx, "--tap %s", o->taps[i]),
                   *text = kd_intern_z(E->cx, kd_format(E->cx, "result.%s", o->taps[i]));
        kd_source_add(E->cx, label, text, strlen(text));
        KdExpr *e = kd_parse_expression(E->cx, label, text, strlen(text));
        if (!e) continue;
        int errors = kd_error_count(E->cx);
        const KdSourceModule *module = E->frame->module;
        KdSourceModule here = *module; /* what is wrong in it is shown there */
        here.file = label;
        E->frame->module = &here;
        KdVal v = kd_eval_expr(E, e);
        E->frame->module = module;
        if (v.kind == KD_VAL_POISON && kd_error_count(E->cx) == errors)
            kd_error(E->cx, 0, "cannot read the tap '%s'", o->taps[i]);
        add_output(E, o->taps[i], v);
    }
}

/* sum(out * seed) over the outputs so far, and its gradient with respect to every input that has
 * one. */
static void add_grads(KdElab *E, const KdNetOptions *o, int n_out) {
    KdBuilder *b = &E->b;
    const KdType *seed_type = given_type(o, "seed");
    KdValue seed = KD_NONE, loss = KD_NONE;
    E->b.loc = 0;
    if (kd_find_input(E->f, "seed") != KD_NONE) {
        kd_error(E->cx, 0, "with gradients, 'seed' is the tensor that weights the output; call this parameter something else");
        return;
    }
    if (seed_type) {
        seed = kd_input(b, "seed", KD_DATA, seed_type, "");
        if (n_out != 1 || seed_type != kd_vtype(E->f, E->f->outputs.v[0].value)) {
            kd_error(E->cx, 0, "the seed %s does not fit the output %s",
                     kd_type_text(E->cx, seed_type),
                     n_out == 1 ? kd_type_text(E->cx, kd_vtype(E->f, E->f->outputs.v[0].value))
                                : "(there are several)");
            return;
        }
    }
    for (int i = 0; i < n_out; i++) {
        KdValue v = E->f->outputs.v[i].value;
        const KdType *t = kd_vtype(E->f, v);
        int64_t axes[KD_MAX_RANK];
        if (t->dtype != KD_F32) continue;
        for (int d = 0; d < t->rank; d++)
            axes[d] = d;
        if (seed != KD_NONE) v = kd_binary(b, KD_OP_MUL, v, seed);
        v = kd_reshape(b, kd_sum(b, v, t->rank, axes), 0, NULL);
        loss = loss == KD_NONE ? v : kd_binary(b, KD_OP_ADD, loss, v);
    }
    for (int i = 0, n = E->f->inputs.n; i < n && loss != KD_NONE; i++) {
        KdValue in = E->f->inputs.v[i];
        KdRole role = kd_input_role(E->f, in);
        if ((role != KD_DATA && role != KD_WEIGHT) || kd_vtype(E->f, in)->dtype != KD_F32 ||
            in == seed)
            continue;
        KdValue pair[2] = {loss, in};
        kd_output(E->f, kd_format(E->cx, "grad.%s", kd_attr_str(E->f, kd_node(E->f, in), "name")),
                  kd_build(b, KD_OP_GRAD, NULL, pair, 2, NULL), KD_NONE);
    }
}

static void buffer_outputs(KdElab *E) {
    for (int i = 0; i < E->weights.n; i++) {
        KdWeight *w = E->weights.v[i];
        if (w->now != w->input)
            kd_output(E->f, kd_attr_str(E->f, kd_node(E->f, w->input), "name"), w->now, w->input);
    }
}

typedef struct NetErrand {
    KdProgram *p;
    const char *name;
    const KdNetOptions *o;
    KdFunc *f;
} NetErrand;

/* From outside a narrowed network is one of its own. Is it a part of the whole one, nevertheless? */
static bool is_part(const NetErrand *n, int errors) {
    KdElab *E = kd_elab_new(n->p, n->name, KD_INFER, false, n->o->draw);
    KdVal v;
    Inputs in = {0};
    E->mode = n->o->mode;
    kd_enter_main(E);
    if (find_thing(E, n->name, &v) && v.kind == KD_VAL_INSTANCE && make_inputs(E, v.inst->net, v.inst->hyper, n->o, &in))
        kd_apply(E, v, &(KdActuals){in.v.v, in.v.n, {0}}, NULL);
    return kd_error_count(n->p->cx) == errors;
}

static void do_net(void *arg) {
    NetErrand *n = arg;
    KdProgram *p = n->p;
    int errors = kd_error_count(p->cx);
    KdElab *E = kd_elab_new(p, n->name, KD_INFER, false, n->o->draw);
    E->mode = n->o->mode;
    kd_enter_main(E);
    KdVal v;
    if (!find_thing(E, n->name, &v)) return;
    if (v.kind == KD_VAL_DEF && v.def->kind == KD_DEF_NET) {
        v = kd_instantiate_default(E, v.def, (KdSpan){0}, false);
        if (v.kind != KD_VAL_INSTANCE) return;
        v.inst->store = kd_store_new(E, NULL, "", v.inst->net);
    } else if (v.kind == KD_VAL_INSTANCE && v.inst->store) {
        if (v.inst->narrow && !v.inst->by_inputs && !is_part(n, errors)) return;
        E->f->part_of = v.inst->narrow ? v.inst->store->path : NULL;
        v.inst->narrow = false; /* from outside: a small network with small weights of its own */
        E->strip = kd_format(E->cx, "%s.", v.inst->store->path);
    }
    const KdDef *d = v.kind == KD_VAL_DEF ? v.def : v.inst->net;
    Inputs in = {0};
    if (!make_inputs(E, d, v.kind == KD_VAL_INSTANCE ? v.inst->hyper : NULL, n->o, &in)) return;
    KdActuals args = {in.v.v, in.v.n, {0}};
    KdVal out = kd_apply(E, v, &args, NULL);
    if (kd_error_count(p->cx) != errors) return;
    if (out.kind == KD_VAL_NONE) {
        kd_error(p->cx, 0, "%s gives nothing back", n->name);
        return;
    }
    add_output(E, "out", out);
    int n_out = E->f->outputs.n;
    buffer_outputs(E);
    add_taps(E, out, n->o);
    if (n->o->grads) add_grads(E, n->o, n_out);
    if (kd_error_count(p->cx) == errors) n->f = E->f;
}

KdFunc *kd_lang_net(KdProgram *p, const char *name, const KdNetOptions *o) {
    NetErrand n = {p, name, o ? o : &(KdNetOptions){0}, NULL};
    kd_on_big_stack(p->cx, do_net, &n);
    return n.f;
}

/* ---- hyper-parameters ------------------------------------------------------------------------ */

typedef struct ConfigErrand {
    KdProgram *p;
    const char *name;
    KdConfig *c;
    bool ok;
} ConfigErrand;

static void do_config(void *arg) {
    ConfigErrand *n = arg;
    KdContext *cx = n->p->cx;
    KdElab *E = kd_elab_new(n->p, n->name, KD_INFER, false, NULL);
    KdVal v;
    kd_enter_main(E);
    if (!find_thing(E, n->name, &v)) return;
    if (v.kind == KD_VAL_DEF && v.def->kind == KD_DEF_NET)
        v = kd_instantiate_default(E, v.def, (KdSpan){0}, false);
    if (v.kind != KD_VAL_INSTANCE) {
        if (v.kind != KD_VAL_POISON)
            kd_error(cx, 0, "%s is no network, but %s", n->name, kd_val_describe(E, v));
        return;
    }
    const KdDef *d = v.inst->net;
    n->c->net = d->name;
    n->c->file = d->module->prelude    ? NULL
                 : d->module->embedded ? d->module->file + strlen("models/")
                                       : d->module->file;
    n->c->embedded = d->module->embedded;
    n->c->n = d->n_hyper;
    n->c->v = KD_NEW_ARRAY(cx, KdHyper, d->n_hyper + 1);
    for (int i = 0; i < d->n_hyper; i++)
        n->c->v[i] = (KdHyper){d->hyper[i].name, kd_intern_z(cx, kd_val_full_text(E, v.inst->hyper[i]))};
    n->ok = true;
}

bool kd_lang_config(KdProgram *p, const char *name, KdConfig *c) {
    ConfigErrand n = {p, name, c, false};
    *c = (KdConfig){0};
    kd_on_big_stack(p->cx, do_config, &n);
    return n.ok;
}

/* ---- sessions -------------------------------------------------------------------------------- */

static KdValue scalar_input(KdElab *E, const char *name, KdDType d) {
    return kd_input(&E->b, name, KD_DATA, kd_type(E->cx, d, 0, NULL), "");
}

bool kd_run_session(KdElab *E, const KdDef *def, unsigned mask, const KdNetOptions *o) {
    static const char *const reserved[] = {"step", "epoch", "seed"};
    int errors = kd_error_count(E->cx);
    Inputs in = {0};
    kd_session_begin(E, def, mask);
    for (int i = 0; i < def->n_formal; i++)
        for (int k = 0; k < 3; k++)
            if (strcmp(def->formal[i].name, reserved[k]) == 0) {
                kd_enter_main(E);
                kd_elab_error(E, def->formal[i].span,
                              "'%s' is given to every session; call this input something else",
                              reserved[k]);
                kd_leave(E);
                return false;
            }
    if (!make_inputs(E, def, NULL, o, &in)) return false;
    KdSession *S = E->session;
    E->b.loc = 0;
    S->step = scalar_input(E, "step", KD_F32);
    S->epoch = scalar_input(E, "epoch", KD_F32);
    S->seed = scalar_input(E, "seed", KD_I32);
    S->step_i32 = kd_cast(&E->b, S->step, KD_I32);
    KdFrame *f = kd_frame_new(E, def->module, def);
    f->store = E->root;
    const KdActual **slot = KD_NEW_ARRAY(E->cx, const KdActual *, def->n_formal + 1);
    KdActuals args = {in.v.v, in.v.n, {0}};
    if (!kd_enter(E, f, (KdSpan){0}, NULL)) return false;
    if (kd_match_args(E, def->name, def->formal, def->n_formal, &args, slot) &&
        kd_bind_formals(E, def->name, def->formal, def->n_formal, slot, NULL))
        kd_exec_block(E, &def->body);
    kd_leave(E);
    return kd_error_count(E->cx) == errors;
}

typedef struct SessionErrand {
    KdProgram *p;
    const char *name;
    unsigned mask;
    const KdNetOptions *o;
    KdSessionInfo *info;
    KdFunc *f;
} SessionErrand;

static const KdDef *find_session(KdProgram *p, const char *name) {
    KD_VEC(const char *) names = {0};
    for (int pass = 0; pass < 2; pass++) /* the file's own first */
        for (int i = 0; i < p->modules.n; i++) {
            const KdSourceModule *m = p->modules.v[i];
            if ((m == p->main) != (pass == 0)) continue;
            for (int k = 0; k < m->block.n; k++) {
                const KdStmt *s = m->block.v[k];
                if (s->kind != KD_STMT_DEF || s->def->kind != KD_DEF_SESSION) continue;
                if (strcmp(s->def->name, name) == 0) return s->def;
                kd_push(p->cx, &names, s->def->name);
            }
        }
    kd_error(p->cx, 0, "%s has no session '%s'", p->main->file, name);
    const char *near = kd_nearest(name, names.v, names.n);
    if (near) kd_hint(p->cx, "did you mean '%s'?", near);
    return NULL;
}

static void do_session(void *arg) {
    SessionErrand *n = arg;
    const KdDef *def = find_session(n->p, n->name);
    if (!def) return;
    KdElab *E = kd_elab_new(n->p, n->name, KD_INFER, false, n->o->draw);
    E->mode = KD_TRAIN;
    if (!kd_run_session(E, def, n->mask, n->o)) return;
    kd_session_outputs(E, n->info);
    n->f = E->f;
}

KdFunc *kd_lang_session(KdProgram *p, const char *name, unsigned every_mask, const KdNetOptions *o,
                        KdSessionInfo *info) {
    SessionErrand n = {p, name, every_mask, o ? o : &(KdNetOptions){0}, info, NULL};
    kd_on_big_stack(p->cx, do_session, &n);
    return n.f;
}
