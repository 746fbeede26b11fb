/* elaborate_store.c: what instances and weights are called, and where weights are kept.
 *
 * A body runs anew at each application of its instance and creates its inner instances anew; their
 * weights must be those of the last time. So weights live in stores, a tree of names under the
 * root, and an instance finds its store by name:
 *   - bound by `let conv = conv2d[...]` (or assigned): the name of the variable;
 *   - inside a list that is bound: `down[0]`, `down[1]`, ...; and inside a loop, `let` adds the
 * round: `block[0]`, ...;
 *   - given to another net as a hyper-parameter: the parameter's name, inside that net's store;
 *   - else, when first applied: the net's name and a number, `conv2d_0`.
 * A fn has no store: instances that it creates and gives back are named by its caller in the same way.
 * A name that one application uses a second time gets `_1`, `_2`, ... Weights are named alike: by
 * `name =`, by the `let` that takes the call, or `weight_0`.
 */
#include "frontend/lang/elaborate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- stores ---------------------------------------------------------------------------------- */

static const char *join_path(KdElab *E, const KdStore *owner, const char *local) {
    const char *p = owner && owner->path[0] ? kd_format(E->cx, "%s.%s", owner->path, local) : local;
    return kd_intern_z(E->cx, p);
}

KdStore *kd_store_new(KdElab *E, KdStore *owner, const char *local, const KdDef *net) {
    KdStore *s = KD_NEW(E->cx, KdStore);
    s->local = kd_intern_z(E->cx, local);
    s->path = join_path(E, owner, local);
    s->owner = owner;
    s->net = net;
    s->frozen = owner && owner->frozen;
    if (owner) kd_push(E->cx, &owner->subs, s);
    return s;
}

static KdStore *find_sub(KdStore *s, const char *local) {
    for (int i = 0; i < s->subs.n; i++)
        if (s->subs.v[i]->local == local) return s->subs.v[i];
    return NULL;
}

/* The store called `local` under owner, for the application `serial`; NULL when that has used the
 * name already. */
static KdStore *claim(KdElab *E, KdStore *owner, const char *local, uint64_t serial,
                      const KdDef *net) {
    local = kd_intern_z(E->cx, local);
    KdStore *s = find_sub(owner, local);
    if (s && s->claim == serial) return NULL;
    if (!s) s = kd_store_new(E, owner, local, net);
    s->claim = serial;
    s->net = net;
    return s;
}

static void settle(KdElab *E, KdInst *inst, KdStore *owner, const char *base, int first) {
    KdStore *s = first < 0 ? claim(E, owner, base, inst->frame->serial, inst->net) : NULL;
    for (int k = first < 0 ? 1 : first; !s; k++)
        s = claim(E, owner, kd_format(E->cx, "%s_%d", base, k), inst->frame->serial, inst->net);
    inst->store = s;
    s->frozen = s->frozen || inst->frozen;
    for (int i = 0; inst->hyper && i < inst->net->n_hyper; i++) {
        KdVal h = inst->hyper[i];
        if (h.kind == KD_VAL_INSTANCE && !h.inst->store && h.inst->frame == inst->frame)
            settle(E, h.inst, s, inst->net->hyper[i].name, -1);
    }
}

void kd_name_anonymous(KdElab *E, KdInst *inst) {
    settle(E, inst, inst->frame->store, inst->net->name, 0);
}

static void name_all(KdElab *E, KdVal v, const char *base) {
    if (v.kind == KD_VAL_LIST) {
        for (int i = 0; i < v.list->n; i++) {
            KdVal item = v.list->v[i];
            if (item.kind == KD_VAL_LIST || (item.kind == KD_VAL_INSTANCE && !item.inst->store))
                name_all(E, item, kd_format(E->cx, "%s[%d]", base, i));
        }
    } else if (v.kind == KD_VAL_INSTANCE && !v.inst->store && v.inst->frame == E->frame &&
               E->frame->store) {
        settle(E, v.inst, E->frame->store, base, -1);
    }
}

/* base, with the rounds of the loops around the scope: "block[2]" */
static const char *in_rounds(KdElab *E, const char *base, const KdScope *scope) {
    if (!scope) return base;
    base = in_rounds(E, base, scope->outer);
    return scope->round < 0 ? base : kd_format(E->cx, "%s[%d]", base, scope->round);
}

void kd_name_instances(KdElab *E, KdVal v, const char *base, const KdScope *scope) {
    if (v.kind != KD_VAL_LIST && v.kind != KD_VAL_INSTANCE) return;
    name_all(E, v, in_rounds(E, base, scope));
}

/* A fn has no weights: what it creates and gives back belongs to its caller, who names it. */
void kd_hand_over(KdVal v, const KdFrame *from, KdFrame *to) {
    if (v.kind == KD_VAL_LIST) {
        for (int i = 0; i < v.list->n; i++)
            kd_hand_over(v.list->v[i], from, to);
        return;
    }
    if (v.kind != KD_VAL_INSTANCE || v.inst->frame != from || v.inst->store) return;
    v.inst->frame = to;
    for (int i = 0; v.inst->hyper && i < v.inst->net->n_hyper; i++)
        kd_hand_over(v.inst->hyper[i], from, to);
}

void kd_store_weights(KdElab *E, const KdStore *s, bool buffers, KdWeights *out) {
    for (int i = 0; i < E->weights.n; i++) {
        KdWeight *w = E->weights.v[i];
        const KdStore *at = w->store;
        while (at && at != s)
            at = at->owner;
        if (at && (buffers || !w->buffer)) kd_push(E->cx, &out->v, w);
    }
}

/* ---- init specs ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int least, most;
    const char *args;
    double def[2];
} inits[] = {
    {"zeros", 0, 0, "", {0}},
    {"ones", 0, 0, "", {0}},
    {"constant", 1, 1, "value", {0}},
    {"normal", 1, 2, "mean, std", {0}},
    {"uniform", 2, 2, "lo, hi", {0}},
    {"xavier_normal", 0, 1, "gain", {1}},
    {"xavier_uniform", 0, 1, "gain", {1}},
    {"kaiming_normal", 0, 1, "slope", {0}},
    {"kaiming_uniform", 0, 1, "slope", {0}},
    {"orthogonal", 0, 1, "gain", {1}},
    {"unit", 0, 0, "", {0}},
};

const char *kd_canonical_init(KdElab *E, const char *text, KdSpan at) {
    size_t n = strcspn(text, "( ");
    const char *name = kd_intern(E->cx, text, n), *p = text + n;
    int row = -1, args = 0;
    double v[2] = {0};
    for (int i = 0; i < KD_COUNT(inits); i++)
        if (strcmp(inits[i].name, name) == 0) row = i;
    if (row < 0) {
        if (kd_elab_complained(E, at)) return NULL;
        const char *names[KD_COUNT(inits)];
        for (int i = 0; i < KD_COUNT(inits); i++)
            names[i] = inits[i].name;
        kd_elab_error(E, at, "unknown initialisation \"%s\"", text);
        kd_elab_near(E, name, names, KD_COUNT(inits));
        return NULL;
    }
    bool ok = true;
    while (*p == ' ')
        p++;
    if (*p == '(') {
        p++;
        while (ok && *p && *p != ')') {
            char *end;
            double x = strtod(p, &end);
            ok = end != p && args < 2 && isfinite(x);
            if (ok) v[args++] = x;
            p = end + strspn(end, " ");
            if (*p == ',')
                p++;
            else
                ok = ok && *p == ')';
            p += strspn(p, " ");
        }
        ok = ok && *p == ')' && p[1 + strspn(p + 1, " ")] == 0;
    } else {
        ok = *p == 0;
    }
    if (!ok || args < inits[row].least || args > inits[row].most) {
        kd_elab_error(E, at, "initialisation \"%s\": expected %s%s%s%s", text, name,
                      inits[row].most ? "(" : "", inits[row].args, inits[row].most ? ")" : "");
        return NULL;
    }
    if (strcmp(name, "normal") == 0 && args == 1) { /* normal(0.02) */
        v[1] = v[0];
        v[0] = 0;
    }
    if (strcmp(name, "normal") == 0) args = 2;
    if (args == 0 && inits[row].most == 1) v[0] = inits[row].def[0];
    KdStr s = {E->cx, NULL, 0, 0};
    kd_str_printf(&s, "%s", name);
    for (int i = 0; i < inits[row].most; i++)
        kd_str_printf(&s, "%s%s", i ? ", " : "(", kd_float_text(E->cx, v[i]));
    if (inits[row].most) kd_str_printf(&s, ")");
    return kd_intern_z(E->cx, s.s);
}

/* ---- weights --------------------------------------------------------------------------------- */

static KdWeight *find_weight(KdStore *s, const char *name) {
    for (int i = 0; i < s->weights.n; i++)
        if (s->weights.v[i]->name == name) return s->weights.v[i];
    return NULL;
}

static KdVal weight_value(KdElab *E, KdWeight *w) {
    w->claim = E->frame->serial;
    KdVal v = kd_tensor(w->now);
    v.weight = w;
    return v;
}

/* Why there is no place for a weight here. */
static KdVal refuse(KdElab *E, const char *what, KdSpan at) {
    for (KdFrame *f = E->frame; f; f = f->caller) {
        if (f->bare) {
            KdLoc loc = f->module->prelude
                            ? f->user
                            : f->outer; /* the application itself, not the depths of the net */
            if (!kd_elab_first(E, loc)) return kd_poison();
            kd_error(E->cx, loc, "%s is a net with weights: brackets create, parentheses apply",
                     f->def->name);
            kd_hint(E->cx, "write %s[...](...), or let name = %s[...] and apply that", f->def->name,
                    f->def->name);
            return kd_poison();
        }
        if (f->def && f->def->kind == KD_DEF_FN)
            return kd_elab_error(E, at,
                                 "%s: the fn %s has no weights of its own; make it a net, or give "
                                 "it the network as an argument",
                                 what, f->def->name);
    }
    return kd_elab_error(E, at, "%s: only a net has weights and buffers", what);
}

/* A new weight: its input node, with the name that the outside sees. */
static KdWeight *create(KdElab *E, KdStore *s, const char *name, const KdType *t, const char *init,
                        bool buffer, KdSpan at) {
    KdWeight *w = KD_NEW(E->cx, KdWeight);
    w->name = name;
    w->path = join_path(E, s, name);
    w->type = t;
    w->init = init;
    w->buffer = buffer;
    w->store = s;
    w->where = kd_elab_loc(E, at);
    size_t strip = strlen(E->strip);
    const char *outside = strncmp(w->path, E->strip, strip) == 0 ? w->path + strip : w->path;
    E->b.loc = w->where;
    w->input = kd_input(&E->b, outside,
                        buffer      ? KD_BUFFER
                        : s->frozen ? KD_FROZEN
                                    : KD_WEIGHT,
                        t, init);
    w->now = w->input;
    kd_push(E->cx, &s->weights, w);
    kd_push(E->cx, &E->weights, w);
    return w;
}

/* W[:o, :i], ...: what a narrowed network has of w. */
static KdVal leading_part(KdElab *E, KdWeight *w, const KdType *t, KdSpan at) {
    int64_t begin[KD_MAX_RANK] = {0};
    bool fits = t->rank == w->type->rank;
    for (int d = 0; fits && d < t->rank; d++)
        fits = t->dim[d] <= w->type->dim[d];
    if (!fits) {
        if (kd_elab_complained(E, at)) return kd_poison();
        kd_elab_error(E, at, "%s is %s, of which no leading part is %s: a narrowed network is nowhere wider than the whole one",
                      w->path, kd_shape_text(E->cx, w->type), kd_shape_text(E->cx, t));
        kd_note(E->cx, w->where, "created here");
        if (E->p->choices.n) kd_hint(E->cx, "the alternatives of a choice are written from small to large; the whole network is as wide as the last");
        return kd_poison();
    }
    if (!kd_elab_begin(E, at)) return kd_poison();
    KdVal v = weight_value(E, w);
    v.t = kd_slice(&E->b, w->now, begin, t->dim, NULL);
    return v;
}

KdValue kd_with_leading_part(KdElab *E, const KdWeight *w, KdValue part) {
    for (int d = w->type->rank - 1; d >= 0; d--) {
        const KdType *t = kd_vtype(E->f, part);
        int64_t begin[KD_MAX_RANK] = {0}, end[KD_MAX_RANK];
        if (t->dim[d] == w->type->dim[d]) continue;
        for (int k = 0; k < t->rank; k++)
            end[k] = k == d ? w->type->dim[d] : t->dim[k];
        begin[d] = t->dim[d];
        KdValue both[2] = {part, kd_slice(&E->b, w->now, begin, end, NULL)};
        part = kd_build(&E->b, KD_OP_CONCAT, NULL, both, 2, (KdAttr[]){{.i = d}});
    }
    return part;
}

KdVal kd_declare_weight(KdElab *E, const KdExpr *call, KdVal shape, KdVal init, KdVal given,
                        bool buffer, KdSpan at) {
    const char *what = buffer ? "buffer" : "weight", *base = what;
    KdStore *s = E->frame->store;
    if (!s || !E->frame->def || E->frame->def->kind != KD_DEF_NET) return refuse(E, what, at);
    int64_t dim[KD_MAX_RANK];
    if (shape.list->n > KD_MAX_RANK)
        return kd_elab_error(E, at, "%s: a tensor has at most %d dimensions", what, KD_MAX_RANK);
    for (int i = 0; i < shape.list->n; i++) {
        KdVal d = shape.list->v[i];
        if (d.kind == KD_VAL_POISON) return d;
        if (d.kind != KD_VAL_INT || d.i < 1)
            return kd_elab_error(E, at, "%s: a dim must be an integer of at least 1, found %s",
                                 what, kd_val_text(E, d));
        dim[i] = d.i;
    }
    const KdType *t = kd_type(E->cx, KD_F32, shape.list->n, dim);
    if (!t)
        return kd_elab_error(E, at, "%s: %s has more than 2^31 - 1 elements", what,
                             kd_val_text(E, shape));
    const char *spec = kd_canonical_init(E, init.s, at);
    if (!spec) return kd_poison();
    bool numbered = false;
    if (given.kind == KD_VAL_STRING)
        base = given.s;
    else if (call && call == E->hint_call)
        base = E->hint_name;
    else
        numbered = true;
    if (given.kind != KD_VAL_STRING && !numbered) base = in_rounds(E, base, E->frame->scope);
    const char *name = kd_intern_z(E->cx, numbered ? kd_format(E->cx, "%s_0", base) : base);
    KdWeight *w = find_weight(s, name);
    for (int k = 1; w && w->claim == E->frame->serial; k++) {
        name = kd_intern_z(E->cx, kd_format(E->cx, "%s_%d", base, k));
        w = find_weight(s, name);
    }
    if (!w && E->narrow)
        return kd_elab_error(E, at, "the whole network has no %s: a narrowed one has nothing of its own", join_path(E, s, name));
    if (!w) {
        if (!kd_elab_begin(E, at)) return kd_poison();
        return weight_value(E, create(E, s, name, t, spec, buffer, at));
    }
    if (w->type != t && E->narrow) return leading_part(E, w, t, at);
    if (w->type != t) {
        if (kd_elab_complained(E, at)) return kd_poison();
        kd_elab_error(E, at,
                      "%s was created as %s and is used again here as %s: one instance has one set "
                      "of weights",
                      w->path, kd_shape_text(E->cx, w->type), kd_shape_text(E->cx, t));
        kd_note(E->cx, w->where, "created here");
        return kd_poison();
    }
    return weight_value(E, w);
}
