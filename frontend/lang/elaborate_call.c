/* elaborate_call.c: everything with parentheses, and the brackets that create.
 *
 * A call evaluates its arguments in the caller's frame, matches them to parameters there (so that
 * errors point to the caller's text), enters a frame for the callee, binds parameters and the dims
 * named in annotations, runs the body, and leaves. Only files are lexical scopes around a body: fns
 * and nets stand at the top of a file.
 *
 * Frames outlive their application: instances remember where they were created (see
 * elaborate_store.c).
 */
#include "frontend/lang/elaborate.h"

#include <string.h>

/* ---- frames ---------------------------------------------------------------------------------- */

KdFrame *kd_frame_new(KdElab *E, const KdSourceModule *m, const KdDef *def) {
    KdFrame *f = KD_NEW(E->cx, KdFrame);
    f->module = m;
    f->def = def;
    f->serial = ++E->serial;
    f->applied = KD_NEW(E->cx, KdApplied);
    f->ret = kd_none();
    return f;
}

bool kd_enter(KdElab *E, KdFrame *f, KdSpan at, const char *what) {
    if (E->depth >= E->max_depth) {
        kd_elab_error(E, at, "applications nest more than %d deep; does %s end its recursion?",
                      E->max_depth, f->def ? f->def->name : "it");
        E->dead = true;
        return false;
    }
    KdFrame *from = E->frame;
    f->caller = from;
    f->what = what;
    if (from) {
        KdLoc here = kd_elab_loc(E, at);
        if (f->module->prelude) {
            f->user = from->module->prelude ? from->user : here;
            f->outer = from->outer;
        } else if (here) {
            KdPlace p = *kd_place(E->cx, here);
            p.what = what;
            f->outer = kd_loc(E->cx, p);
        }
    }
    E->frame = f;
    E->depth++;
    kd_scope_push(E);
    return true;
}

void kd_leave(KdElab *E) {
    kd_scope_pop(E);
    E->frame = E->frame->caller;
    E->depth--;
}

/* ---- annotations ----------------------------------------------------------------------------- */

static KdVal type_error(KdElab *E, KdSpan at, bool in_caller, const char *fmt, ...) KD_PRINTF(4, 5);
static KdVal type_error(KdElab *E, KdSpan at, bool in_caller, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const char *text = kd_vformat(E->cx, fmt, ap);
    va_end(ap);
    KdFrame *f = E->frame;
    if (in_caller && f->caller) E->frame = f->caller;
    kd_elab_error(E, at, "%s", text);
    E->frame = f;
    return kd_poison();
}

static bool check_kind(KdElab *E, const KdTypeNote *t, KdVal v, const char *what, KdSpan at,
                       bool in_caller) {
    static const struct {
        const char *name;
        KdValKind kind;
    } kinds[] = {
        {"int", KD_VAL_INT},   {"bool", KD_VAL_BOOL},     {"string", KD_VAL_STRING},
        {"list", KD_VAL_LIST}, {"tensor", KD_VAL_TENSOR},
    };
    const char *k = t->kind;
    bool ok = strcmp(k, "any") == 0;
    for (int i = 0; i < KD_COUNT(kinds); i++)
        ok = ok || (strcmp(k, kinds[i].name) == 0 && v.kind == kinds[i].kind);
    if (strcmp(k, "float") == 0) ok = kd_is_number(v);
    if (strcmp(k, "net") == 0)
        ok = (v.kind == KD_VAL_DEF && v.def->kind == KD_DEF_NET) || v.kind == KD_VAL_INSTANCE;
    if (strcmp(k, "fn") == 0) ok = kd_applicable(v);
    if (!ok)
        type_error(E, at, in_caller, "%s: expected %s %s, found %s", what,
                   strcmp(k, "int") == 0 ? "an" : "a", k, kd_val_describe(E, v));
    return ok;
}

static const char *note_text(KdElab *E, const KdTypeNote *t) {
    KdStr s = {E->cx, NULL, 0, 0};
    kd_str_printf(&s, "[");
    for (int i = 0; i < t->n; i++) {
        if (i) kd_str_printf(&s, ", ");
        if (t->dim[i])
            kd_print_expr(&s, t->dim[i]);
        else
            kd_str_printf(&s, "_");
    }
    kd_str_printf(&s, "]");
    return s.s;
}

static const char *dim_word(int rank, int d) {
    static const char *const words[4] = {"the batch size", "the number of channels", "the height",
                                         "the width"};
    return rank == 4 ? words[d] : "the size";
}

/* One dim against its annotation: binds a name that is not yet an integer, compares anything else.
 */
static bool check_dim(KdElab *E, const KdTypeNote *t, int d, int64_t size, const char *what,
                      KdSpan at, bool in_caller) {
    const KdExpr *e = t->dim[d];
    KdVal v;
    if (!e) return true;
    if (e->kind == KD_EXPR_NAME) {
        KdVal *local = kd_find_local(E, e->s, NULL);
        if (!local && !(kd_find(E, e->s, &v) && v.kind == KD_VAL_INT)) {
            kd_bind(E, e->s, kd_int(size));
            return true;
        }
        if (local && local->kind != KD_VAL_INT) {
            if (local->kind != KD_VAL_POISON)
                kd_elab_error(E, e->at, "a dim is an integer, but '%s' is %s", e->s,
                              kd_val_describe(E, *local));
            return false;
        }
    }
    int64_t want;
    if (!kd_eval_int(E, e, "a dim", &want)) return false;
    if (want == size) return true;
    KdStr s = {E->cx, NULL, 0, 0};
    kd_print_expr(&s, e);
    const char *equals = e->kind == KD_EXPR_INT ? "" : kd_format(E->cx, "%s = ", s.s);
    type_error(E, at, in_caller, "%s: %s (dimension %d) is %lld, expected %s%lld", what,
               dim_word(t->n, d), d, (long long)size, equals, (long long)want);
    return false;
}

bool kd_check_type(KdElab *E, const KdTypeNote *t, KdVal v, const char *what, KdSpan at,
                   bool in_caller) {
    if (v.kind == KD_VAL_POISON) return false;
    if (t->kind) return check_kind(E, t, v, what, at, in_caller);
    if (t->n == 0 && kd_is_number(v)) return true;
    if (v.kind != KD_VAL_TENSOR) {
        type_error(E, at, in_caller, "%s: expected a tensor %s, found %s", what, note_text(E, t),
                   kd_val_describe(E, v));
        return false;
    }
    const KdType *type = kd_val_type(E, v);
    if (t->dtype >= 0 && (KdDType)t->dtype != type->dtype) {
        type_error(E, at, in_caller, "%s: expected %s elements, found %s", what,
                   kd_dtype_name((KdDType)t->dtype), kd_type_text(E->cx, type));
        return false;
    }
    if (t->n != type->rank) {
        type_error(E, at, in_caller, "%s: expected %d dimensions %s, found %d: %s", what, t->n,
                   note_text(E, t), type->rank, kd_shape_text(E->cx, type));
        return false;
    }
    for (int d = 0; d < t->n; d++)
        if (!check_dim(E, t, d, type->dim[d], what, at, in_caller)) return false;
    return true;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int find_formal(const KdFormal *f, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (f[i].name == name) return i;
    return -1;
}

static void unknown_argument(KdElab *E, const char *what, const KdFormal *f, int n,
                             const KdActual *a) {
    if (kd_elab_complained(E, a->name_span)) return;
    const char **names = KD_NEW_ARRAY(E->cx, const char *, n + 1);
    for (int i = 0; i < n; i++)
        names[i] = f[i].name;
    kd_elab_error(E, a->name_span, "%s has no parameter '%s'", what, a->name);
    kd_elab_near(E, a->name, names, n);
}

bool kd_match_args(KdElab *E, const char *what, const KdFormal *f, int n, const KdActuals *args,
                   const KdActual **slot) {
    bool ok = true;
    int at = 0;
    for (int i = 0; i < n; i++)
        slot[i] = NULL;
    for (int i = 0; i < args->n; i++) {
        const KdActual *a = &args->v[i];
        int k = a->name ? find_formal(f, n, a->name) : at++;
        if (a->name && k < 0) {
            unknown_argument(E, what, f, n, a);
            ok = false;
        } else if (!a->name && i > 0 && args->v[i - 1].name) {
            kd_elab_error(E, a->span, "%s: arguments without a name come before those with one",
                          what);
            return false;
        } else if (k >= n) {
            kd_elab_error(E, a->span, "%s takes %d argument%s, found %d", what, n,
                          n == 1 ? "" : "s", args->n);
            return false;
        } else if (slot[k]) {
            kd_elab_error(E, a->name ? a->name_span : a->span, "%s: '%s' is given twice", what,
                          f[k].name);
            ok = false;
        } else {
            slot[k] = a;
        }
    }
    for (int i = 0; i < n && ok; i++)
        if (!slot[i] && !f[i].def) {
            kd_elab_error(E, args->at, "%s: the argument '%s' is missing", what, f[i].name);
            ok = false;
        }
    for (int i = 0; i < n && ok; i++)
        ok = !slot[i] || slot[i]->value.kind != KD_VAL_POISON;
    return ok;
}

bool kd_bind_formals(KdElab *E, const char *what, const KdFormal *f, int n,
                     const KdActual *const *slot, KdVal *out) {
    bool ok = true;
    for (int i = 0; i < n; i++) {
        KdVal v = slot[i] ? slot[i]->value : kd_eval_expr(E, f[i].def);
        bool from_text = slot[i] && slot[i]->span.line > 0;
        if (f[i].type && v.kind != KD_VAL_POISON && !(v.kind == KD_VAL_NONE && !slot[i]))
            ok = kd_check_type(E, f[i].type, v, kd_format(E->cx, "'%s' of %s", f[i].name, what),
                               from_text ? slot[i]->span : f[i].span, from_text) &&
                 ok;
        ok = ok && v.kind != KD_VAL_POISON;
        kd_bind(E, f[i].name, v);
        if (out) out[i] = v;
    }
    return ok;
}

static KdActuals eval_args(KdElab *E, const KdExpr *e, const KdVal *first, KdSpan first_span) {
    KdActuals a = {KD_NEW_ARRAY(E->cx, KdActual, e->n_args + 1), 0, e->at};
    if (first) a.v[a.n++] = (KdActual){.value = *first, .span = first_span};
    for (int i = 0; i < e->n_args; i++) {
        const KdArg *g = &e->args[i];
        KdActual one = {.name = g->name,
                        .name_span = g->name_span,
                        .span = g->value ? g->value->span : g->span};
        one.value = g->value ? kd_eval_expr(E, g->value)
                             : kd_elab_error(E, g->span, "a slice has no place here");
        a.v[a.n++] = one;
    }
    return a;
}

static int find_actual(const KdActuals *args, const char *name) {
    for (int i = 0; i < args->n; i++)
        if (args->v[i].name == name) return i;
    return -1;
}

/* ---- instances ------------------------------------------------------------------------------- */

static KdVal make_instance(KdElab *E, const KdDef *net, const KdActuals *args, const char *label,
                           bool bare) {
    const char *what = bare ? net->name : kd_format(E->cx, "%s[]", net->name);
    const KdActual **slot = KD_NEW_ARRAY(E->cx, const KdActual *, net->n_hyper + 1);
    if (!kd_match_args(E, what, net->hyper, net->n_hyper, args, slot)) return kd_poison();
    KdInst *inst = KD_NEW(E->cx, KdInst);
    *inst = (KdInst){.net = net,
                     .label = label,
                     .frame = E->frame,
                     .bare = bare,
                     .where = kd_elab_loc(E, args->at)};
    inst->hyper = KD_NEW_ARRAY(E->cx, KdVal, net->n_hyper + 1);
    inst->given = KD_NEW_ARRAY(E->cx, bool, net->n_hyper + 1);
    for (int i = 0; i < net->n_hyper; i++)
        inst->given[i] = slot[i] != NULL;
    KdFrame *f = kd_frame_new(E, net->module,
                              net); /* defaults see earlier hyper-parameters and the net's file */
    if (!kd_enter(E, f, args->at, kd_format(E->cx, "in %s", label))) return kd_poison();
    bool ok = kd_bind_formals(E, what, net->hyper, net->n_hyper, slot, inst->hyper);
    kd_leave(E);
    return ok ? (KdVal){.kind = KD_VAL_INSTANCE, .inst = inst} : kd_poison();
}

KdVal kd_instantiate(KdElab *E, const KdDef *net, const KdExpr *e) {
    KdActuals args = eval_args(E, e, NULL, e->at);
    args.at = e->at;
    KdStr s = {E->cx, NULL, 0, 0};
    kd_str_printf(&s, "%s[", net->name);
    for (int i = 0; i < args.n; i++) {
        if (i) kd_str_printf(&s, ", ");
        if (args.v[i].name) kd_str_printf(&s, "%s = ", args.v[i].name);
        kd_str_printf(&s, "%s", kd_val_text(E, args.v[i].value));
    }
    kd_str_printf(&s, "]");
    return make_instance(E, net, &args, kd_intern_z(E->cx, s.s), false);
}

KdVal kd_instantiate_default(KdElab *E, const KdDef *net, KdSpan at, bool bare) {
    return make_instance(E, net, &(KdActuals){.at = at},
                         bare ? net->name : kd_format(E->cx, "%s[]", net->name), bare);
}

/* S's hyper-parameters but for those in args: what S was not given follows from the others, as where S was made. */
KdVal kd_narrow(KdElab *E, const KdActuals *args) {
    KdVal whole = args->n ? args->v[0].value : kd_none();
    if (whole.kind == KD_VAL_POISON) return whole;
    if (whole.kind != KD_VAL_INSTANCE || args->v[0].name || !whole.inst->hyper || whole.inst->bare)
        return kd_elab_error(E, args->at, "narrow: first comes the network, made with brackets; found %s",
                             kd_val_describe(E, whole));
    if (!whole.inst->store)
        return kd_elab_error(E, args->at, "narrow: give the network a name first, let S = %s", whole.inst->label);
    const KdInst *of = whole.inst;
    KdActuals all = {KD_NEW_ARRAY(E->cx, KdActual, args->n + of->net->n_hyper), 0, args->at};
    for (int i = 1; i < args->n; i++) {
        if (!args->v[i].name)
            return kd_elab_error(E, args->v[i].span, 
                                 "narrow: hyper-parameters are given by name, narrow(%s, name = value)", of->store->path);
        all.v[all.n++] = args->v[i];
    }
    for (int i = 0; i < of->net->n_hyper; i++)
        if (of->given[i] && find_actual(args, of->net->hyper[i].name) < 0)
            all.v[all.n++] = (KdActual){.name = of->net->hyper[i].name, .value = of->hyper[i]};
    KdStr label = {.cx = E->cx};
    kd_str_printf(&label, "narrow(%s", of->store->path);
    for (int i = 1; i < args->n; i++)
        kd_str_printf(&label, ", %s = %s", args->v[i].name, kd_val_text(E, args->v[i].value));
    kd_str_printf(&label, ")");
    KdVal v = make_instance(E, of->net, &all, kd_intern_z(E->cx, label.s), false);
    if (v.kind != KD_VAL_INSTANCE) return v;
    v.inst->frame = of->frame;
    v.inst->store = of->store;
    v.inst->frozen = of->frozen;
    v.inst->narrow = true;
    v.inst->whole = of;
    v.inst->by_inputs = args->n == 1;
    v.has_mode = whole.has_mode;
    v.mode = whole.mode;
    return v;
}

/* ---- application ----------------------------------------------------------------------------- */

/* "in Unet[ngf = 16] applied to x: [1, 3, 264, 256]" */
static const char *application_text(KdElab *E, const char *label, const KdDef *d,
                                    const KdActual *const *slot) {
    KdStr s = {E->cx, NULL, 0, 0};
    kd_str_printf(&s, "in %s", label);
    int shown = 0;
    for (int i = 0; i < d->n_formal; i++) {
        if (!slot[i] || slot[i]->value.kind != KD_VAL_TENSOR) continue;
        kd_str_printf(&s, "%s%s: %s", shown++ ? ", " : " applied to ", d->formal[i].name,
                      kd_val_text(E, slot[i]->value));
    }
    return s.s;
}

/* Runs d's body; the frame is ready, `inst` when d is a net. */
static KdVal run_body(KdElab *E, KdFrame *f, const KdDef *d, const KdInst *inst,
                      const KdActual *const *slot, const char *label) {
    bool ok = true;
    if (inst)
        for (int i = 0; i < d->n_hyper; i++)
            kd_bind(E, d->hyper[i].name, inst->hyper[i]);
    ok = kd_bind_formals(E, label, d->formal, d->n_formal, slot, NULL);
    if (!ok) return kd_poison();
    kd_exec_block(E, &d->body);
    if (!f->returned && f->doubtful) return kd_poison();
    if (!f->returned && !E->dead) {
        if (d->kind == KD_DEF_NET)
            kd_elab_error(E, d->span, "the net %s ends without 'return'", d->name);
        return d->kind == KD_DEF_NET ? kd_poison() : kd_none();
    }
    KdVal v = f->ret;
    if (d->result && v.kind != KD_VAL_POISON &&
        !kd_check_type(E, d->result, v, kd_format(E->cx, "the result of %s", d->name), d->span,
                       false))
        return kd_poison();
    return v;
}

static KdVal apply_fn(KdElab *E, const KdDef *d, const KdActuals *args) {
    const KdActual **slot = KD_NEW_ARRAY(E->cx, const KdActual *, d->n_formal + 1);
    if (!kd_match_args(E, d->name, d->formal, d->n_formal, args, slot)) return kd_poison();
    KdFrame *f = kd_frame_new(E, d->module, d);
    if (!kd_enter(E, f, args->at, application_text(E, d->name, d, slot))) return kd_poison();
    KdVal v = run_body(E, f, d, NULL, slot, d->name);
    kd_leave(E);
    kd_hand_over(v, f, E->frame);
    return v;
}

static KdVal apply_instance(KdElab *E, KdVal handle, const KdActuals *args);

/* The weights of a narrowed network are those that its whole one declares where it is applied, which nobody reads. */
static bool apply_whole(KdElab *E, const KdInst *narrow, const KdActuals *args) {
    if (narrow->by_inputs) { /* which do not say what the whole one's are */
        kd_elab_error(E, args->at, "narrow(%s): %s has not been applied at its full size yet", narrow->store->path,
                      narrow->store->path);
        kd_hint(E->cx, "apply it first to what the whole networks give; what nobody reads is not computed");
        return false;
    }
    KdVal whole = {.kind = KD_VAL_INSTANCE, .inst = (KdInst *)narrow->whole, .has_mode = true, .mode = KD_INFER};
    return apply_instance(E, whole, args).kind != KD_VAL_POISON;
}

static KdVal apply_instance(KdElab *E, KdVal handle, const KdActuals *args) {
    KdInst *inst = handle.inst;
    const KdDef *d = inst->net;
    const KdActual **slot = KD_NEW_ARRAY(E->cx, const KdActual *, d->n_formal + 1);
    if (!kd_match_args(E, d->name, d->formal, d->n_formal, args, slot)) return kd_poison();
    if (!inst->hyper)
        return kd_elab_error(E, args->at,
                             "%s was read from inside a network; apply the whole network instead",
                             inst->label);
    if (!inst->store && inst->frame->store) kd_name_anonymous(E, inst);
    KdFrame *f = kd_frame_new(E, d->module, d);
    if (inst->narrow && !inst->store->applied && !apply_whole(E, inst, args)) return kd_poison();
    if (!kd_enter(E, f, args->at, application_text(E, inst->label, d, slot))) return kd_poison();
    f->store = inst->bare ? NULL : inst->store;
    f->bare = inst->bare;
    KdMode mode = E->mode;
    if (handle.has_mode)
        E->mode = handle.mode;
    else if (inst->frozen)
        E->mode = KD_INFER;
    E->narrow += inst->narrow;
    KdVal v = run_body(E, f, d, inst, slot, inst->label);
    E->narrow -= inst->narrow;
    E->mode = mode;
    kd_leave(E);
    if (inst->store) inst->store->applied = true;
    v.applied = f->applied;
    v.weight = NULL;
    if (inst->store && inst->frame->applied)
        kd_push(E->cx, &inst->frame->applied->inner, (KdNamed){inst->store->local, v});
    return v;
}

KdVal kd_apply(KdElab *E, KdVal callee, const KdActuals *args, const KdExpr *call) {
    switch (callee.kind) {
    case KD_VAL_POISON:
        return callee;
    case KD_VAL_INSTANCE:
        return apply_instance(E, callee, args);
    case KD_VAL_BUILTIN:
        return kd_call_builtin(E, callee.builtin, args, call);
    case KD_VAL_DEF:
        if (callee.def->kind == KD_DEF_FN) return apply_fn(E, callee.def, args);
        if (callee.def->kind == KD_DEF_NET) {
            bool missing = false;
            for (int i = 0; i < callee.def->n_hyper; i++)
                missing = missing || !callee.def->hyper[i].def;
            if (!missing) {
                KdVal one = kd_instantiate_default(E, callee.def, args->at, true);
                return one.kind == KD_VAL_INSTANCE ? apply_instance(E, one, args) : one;
            }
            if (kd_elab_complained(E, args->at)) return kd_poison();
            kd_elab_error(E, args->at,
                          "%s is a net, not an instance: brackets create, parentheses apply",
                          callee.def->name);
            kd_hint(E->cx, "write %s[...](...)", callee.def->name);
            return kd_poison();
        }
        return kd_elab_error(E, args->at, "the session %s cannot be applied", callee.def->name);
    case KD_VAL_NONE:
    case KD_VAL_INT:
    case KD_VAL_FLOAT:
    case KD_VAL_BOOL:
    case KD_VAL_STRING:
    case KD_VAL_LIST:
    case KD_VAL_TENSOR:
    case KD_VAL_OPTIMIZER:
    case KD_VAL_OPS:
        break;
    }
    return kd_elab_error(E, args->at, "%s cannot be applied", kd_val_describe(E, callee));
}

/* What stands before the parentheses. A plain name is looked up among what can be applied: a tensor
 * `l1` does not hide the function of that name. */
static KdVal eval_callee(KdElab *E, const KdExpr *e) {
    KdVal v;
    if (e->kind == KD_EXPR_NAME && kd_find_applicable(E, e->s, &v)) return v;
    return kd_eval_expr(E, e);
}

KdVal kd_eval_call(KdElab *E, const KdExpr *e) {
    KdVal callee = eval_callee(E, e->a);
    KdActuals args = eval_args(E, e, NULL, e->at);
    return kd_apply(E, callee, &args, e);
}

/* x |> f(a) is f(x, a); x |> f is f(x). */
KdVal kd_eval_pipe(KdElab *E, const KdExpr *e) {
    KdVal left = kd_eval_expr(E, e->a);
    bool call = e->b->kind == KD_EXPR_CALL;
    KdVal callee = eval_callee(E, call ? e->b->a : e->b);
    if (!call && callee.kind != KD_VAL_POISON && !kd_applicable(callee))
        return kd_elab_error(E, e->b->at, "'|>' needs a function or a network to apply, found %s",
                             kd_val_describe(E, callee));
    KdExpr none = {.kind = KD_EXPR_CALL, .at = e->b->at};
    KdActuals args = eval_args(E, call ? e->b : &none, &left, e->a->span);
    return kd_apply(E, callee, &args, call ? e->b : NULL);
}
