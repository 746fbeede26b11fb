/* builtins.c: finding and calling what is not written in the language: builtin functions
 * (builtins_*.c), the primitive ops, which need no more than their row in ops.def, and the builtin
 * values.
 *
 * A primitive op is called with its operands and then its attributes, by position or by name:
 * pad(x, [0, 1], [0, 1], interior = [0, 0]). `dim` is understood for `axis`, `dims` for `axes`, and
 * negative ones count from the end. An elementwise op broadcasts; of numbers alone it is computed
 * here.
 */
#include "frontend/lang/elaborate.h"

#include <math.h>
#include <string.h>

/* ---- tables ---------------------------------------------------------------------------------- */

static const KdBuiltin op_rows[KD_OP_COUNT] = {
#define OP(id, spelling, ...) {spelling, NULL, NULL, KD_OP_##id},
#include "ir/ops.def"
#undef OP
};

static const KdBuiltin *const tables[] = {kd_builtins_list, kd_builtins_tensor, kd_builtins_train};

static const char *const value_names[] = {"step", "epoch", "training", "pi", "op"};

const KdBuiltin *kd_find_builtin(const char *name) {
    for (int t = 0; t < KD_COUNT(tables); t++)
        for (const KdBuiltin *b = tables[t]; b->name; b++)
            if (strcmp(b->name, name) == 0) return b;
    return NULL;
}

/* Ops without operands and the optimisers have builtins of their own. */
static bool callable(int op) {
    return kd_op_info[op].n_in != 0 && (kd_op_info[op].cls != KD_META || op == KD_OP_GRAD) &&
           op != KD_OP_RANDOM;
}

const KdBuiltin *kd_find_op(KdElab *E, const char *name) {
    KdOp op;
    (void)E;
    return kd_op_by_name(name, &op) && callable((int)op) ? &op_rows[op] : NULL;
}

bool kd_is_builtin_value(const char *name) {
    for (int i = 0; i < KD_COUNT(value_names); i++)
        if (strcmp(value_names[i], name) == 0) return true;
    return false;
}

const char *const *kd_builtin_names(KdContext *cx, int *n) {
    KD_VEC(const char *) v = {0};
    for (int t = 0; t < KD_COUNT(tables); t++)
        for (const KdBuiltin *b = tables[t]; b->name; b++)
            kd_push(cx, &v, b->name);
    for (int op = 0; op < KD_OP_COUNT; op++)
        if (callable(op)) kd_push(cx, &v, kd_op_info[op].name);
    for (int i = 0; i < KD_COUNT(value_names); i++)
        kd_push(cx, &v, value_names[i]);
    *n = v.n;
    return v.v;
}

bool kd_builtin_value(KdElab *E, const char *name, KdSpan at, KdVal *v) {
    if (!kd_is_builtin_value(name)) return false;
    if (strcmp(name, "training") == 0)
        *v = kd_bool(E->mode == KD_TRAIN);
    else if (strcmp(name, "pi") == 0)
        *v = kd_float(3.14159265358979323846);
    else if (strcmp(name, "op") == 0)
        *v = (KdVal){.kind = KD_VAL_OPS};
    else
        *v = kd_session_scalar(E, name, at);
    return true;
}

/* ---- parameters of builtins ------------------------------------------------------------------ */

typedef struct Params {
    const char *name[12];
    bool optional[12];
    int n;
    bool variadic;
} Params;

static Params read_params(KdContext *cx, const char *text) {
    Params p = {0};
    p.variadic = *text == '*';
    while (*text) {
        text += strspn(text, ", *");
        size_t n = strcspn(text, ",?");
        p.name[p.n] = kd_intern(cx, text, n);
        p.optional[p.n++] = text[n] == '?';
        text += n + (text[n] == '?');
    }
    return p;
}

const char *kd_param_name(KdContext *cx, const KdBuiltin *b, int k) {
    Params p = read_params(cx, b->params);
    return k < p.n ? p.name[k] : p.name[0];
}

static bool is_poison(KdVal v) {
    if (v.kind == KD_VAL_LIST)
        for (int i = 0; i < v.list->n; i++)
            if (is_poison(v.list->v[i])) return true;
    return v.kind == KD_VAL_POISON;
}

/* Positional arguments of a variadic builtin become one list in its first parameter. */
static KdVal call_table(KdElab *E, const KdBuiltin *b, const KdActuals *args, const KdExpr *call) {
    if (b->raw) return b->fn(&(KdCall){.E = E, .expr = call, .at = args->at, .name = b->name, .args = args});
    Params p = read_params(E->cx, b->params);
    KdFormal f[12];
    const KdActual *slot[12];
    KdVal v[12];
    KdSpan span[12];
    KdActuals rest = {KD_NEW_ARRAY(E->cx, KdActual, args->n + 1), 0, args->at};
    KdCall c = {.E = E, .expr = call, .at = args->at, .name = b->name, .v = v, .span = span};
    int first = p.variadic ? 1 : 0;
    static KdExpr optional = {.kind = KD_EXPR_NONE};
    for (int i = 0; i < p.n; i++)
        f[i] = (KdFormal){.name = p.name[i], .def = p.optional[i] ? &optional : NULL};
    for (int i = 0; i < args->n; i++)
        if (args->v[i].name || !p.variadic)
            rest.v[rest.n++] = args->v[i];
        else
            c.n++;
    if (p.variadic) {
        KdVal all = kd_list(E, c.n);
        span[0] = args->at;
        for (int i = 0, k = 0; i < args->n; i++) {
            if (args->v[i].name) continue;
            if (k == 0) span[0] = args->v[i].span;
            kd_items(all)[k++] = args->v[i].value;
        }
        if (c.n == 0) return kd_elab_error(E, args->at, "%s: needs at least one argument", b->name);
        v[0] = all;
        if (is_poison(all)) return kd_poison();
    }
    if (!kd_match_args(E, b->name, f + first, p.n - first, &rest, slot + first)) return kd_poison();
    for (int i = first; i < p.n; i++) {
        v[i] = slot[i] ? slot[i]->value : kd_none();
        span[i] = slot[i] ? slot[i]->span : args->at;
        if (is_poison(v[i])) return kd_poison();
    }
    return b->fn(&c);
}

KdVal kd_arg_error(KdCall *c, int k, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const char *text = kd_vformat(c->E->cx, fmt, ap);
    va_end(ap);
    return kd_elab_error(c->E, c->span[k], "%s: %s", c->name, text);
}

static const char *param(KdCall *c, int k) {
    return kd_param_name(c->E->cx, kd_find_builtin(c->name), k);
}

bool kd_arg_tensor(KdCall *c, int k, KdValue *t) {
    KdVal v = c->v[k];
    if (kd_is_number(v) && kd_elab_begin(c->E, c->span[k]))
        v = kd_to_tensor(c->E, v, KD_F32, c->span[k]);
    if (v.kind == KD_VAL_TENSOR) {
        *t = v.t;
        return true;
    }
    if (v.kind != KD_VAL_POISON)
        kd_arg_error(c, k, "expected a tensor, found %s", kd_val_describe(c->E, v));
    return false;
}

bool kd_arg_int(KdCall *c, int k, int64_t *i) {
    if (c->v[k].kind == KD_VAL_INT) {
        *i = c->v[k].i;
        return true;
    }
    kd_arg_error(c, k, "'%s' must be an integer, found %s", param(c, k),
                 kd_val_describe(c->E, c->v[k]));
    return false;
}

bool kd_arg_float(KdCall *c, int k, double *f) {
    if (kd_is_number(c->v[k])) {
        *f = kd_number(c->v[k]);
        return true;
    }
    kd_arg_error(c, k, "'%s' must be a number known when compiling, found %s", param(c, k),
                 kd_val_describe(c->E, c->v[k]));
    return false;
}

bool kd_arg_bool(KdCall *c, int k, bool def, bool *b) {
    *b = c->v[k].kind == KD_VAL_BOOL ? c->v[k].i : def;
    if (c->v[k].kind == KD_VAL_BOOL || c->v[k].kind == KD_VAL_NONE) return true;
    kd_arg_error(c, k, "'%s' must be true or false, found %s", param(c, k),
                 kd_val_describe(c->E, c->v[k]));
    return false;
}

bool kd_arg_string(KdCall *c, int k, const char **s) {
    *s = c->v[k].s;
    if (c->v[k].kind == KD_VAL_STRING) return true;
    kd_arg_error(c, k, "'%s' must be a string, found %s", param(c, k),
                 kd_val_describe(c->E, c->v[k]));
    return false;
}

bool kd_arg_ints(KdCall *c, int k, int max, int *n, int64_t *v) {
    KdVal a = c->v[k];
    if (a.kind == KD_VAL_INT) {
        *n = 1;
        v[0] = a.i;
        return true;
    }
    bool ok = a.kind == KD_VAL_LIST && a.list->n <= max;
    for (int i = 0; ok && i < a.list->n; i++) {
        ok = a.list->v[i].kind == KD_VAL_INT;
        if (ok) v[i] = a.list->v[i].i;
    }
    if (ok)
        *n = a.list->n;
    else if (a.kind == KD_VAL_LIST && a.list->n > max)
        kd_arg_error(c, k, "'%s' has at most %d entries, found %d", param(c, k), max, a.list->n);
    else
        kd_arg_error(c, k, "'%s' must be a list of integers, found %s", param(c, k),
                     kd_val_describe(c->E, a));
    return ok;
}

bool kd_arg_shape(KdCall *c, int k, int *rank, int64_t *dim) {
    if (!kd_arg_ints(c, k, KD_MAX_RANK, rank, dim)) return false;
    if (c->v[k].kind == KD_VAL_LIST && kd_type(c->E->cx, KD_F32, *rank, dim)) return true;
    if (c->v[k].kind == KD_VAL_INT)
        kd_arg_error(c, k, "a shape is a list: [%lld]", (long long)dim[0]);
    else
        kd_arg_error(c, k, "there is no tensor of shape %s", kd_val_text(c->E, c->v[k]));
    return false;
}

bool kd_arg_dim(KdCall *c, int k, int rank, int64_t def, int64_t *dim) {
    *dim = def;
    if (c->v[k].kind != KD_VAL_NONE && !kd_arg_int(c, k, dim)) return false;
    int64_t given = *dim;
    if (*dim < 0) *dim += rank;
    if (*dim >= 0 && *dim < rank) return true;
    kd_arg_error(c, k, "there is no dimension %lld in a tensor of %d dimensions", (long long)given,
                 rank);
    return false;
}

/* ---- primitive ops --------------------------------------------------------------------------- */

static bool attr_value(KdElab *E, const KdAttrSpec *spec, KdVal v, const char *op, KdSpan at,
                       KdAttr *out) {
    static const char *const want[] = {"an integer", "a number", "a string", "a list of integers",
                                       "a list of numbers"};
    bool list = v.kind == KD_VAL_LIST, ok = false;
    int n = list ? v.list->n : 1;
    const KdVal *item = list ? v.list->v : &v;
    switch (spec->kind) {
    case KD_ATTR_INT:
        ok = v.kind == KD_VAL_INT || v.kind == KD_VAL_BOOL;
        out->i = v.i;
        break;
    case KD_ATTR_FLOAT:
        ok = kd_is_number(v);
        if (ok) out->f = kd_number(v);
        break;
    case KD_ATTR_STR:
        ok = v.kind == KD_VAL_STRING;
        out->s = v.s;
        break;
    case KD_ATTR_INTS: {
        int64_t *x = KD_NEW_ARRAY(E->cx, int64_t, n);
        ok = true;
        for (int i = 0; i < n; i++) {
            ok = ok && item[i].kind == KD_VAL_INT;
            x[i] = item[i].i;
        }
        out->ints = (KdInts){n, x};
        break;
    }
    case KD_ATTR_FLOATS: {
        double *x = KD_NEW_ARRAY(E->cx, double, n);
        ok = true;
        for (int i = 0; i < n; i++) {
            ok = ok && kd_is_number(item[i]);
            if (ok) x[i] = kd_number(item[i]);
        }
        out->floats = (KdFloats){n, x};
        break;
    }
    }
    if (!ok)
        kd_elab_error(E, at, "%s: '%s' must be %s, found %s", op, spec->name, want[spec->kind],
                      kd_val_describe(E, v));
    return ok;
}

/* Matches what follows the operands with the attributes. false after a diagnostic. */
static bool op_attrs(KdElab *E, int op, const KdActuals *args, int from, int rank, KdAttr *attr) {
    int n, at = 0;
    const KdAttrSpec *spec = kd_op_attrs(E->cx, (KdOp)op, &n);
    KdFormal f[KD_MAX_ATTRS];
    const KdActual *slot[KD_MAX_ATTRS] = {0};
    static KdExpr optional = {.kind = KD_EXPR_NONE};
    KdActuals rest = {KD_NEW_ARRAY(E->cx, KdActual, args->n + 1), 0, args->at};
    for (int i = 0; i < n; i++)
        f[i] = (KdFormal){.name = kd_intern_z(E->cx, spec[i].name),
                          .def = spec[i].required ? NULL : &optional};
    for (int i = 0; i < args->n; i++) {
        if (!args->v[i].name && at++ < from) continue;
        KdActual a = args->v[i];
        if (a.name && strcmp(a.name, "dim") == 0 && kd_attr_index(E->cx, (KdOp)op, "axis") >= 0)
            a.name = kd_intern_z(E->cx, "axis");
        if (a.name && strcmp(a.name, "dims") == 0 && kd_attr_index(E->cx, (KdOp)op, "axes") >= 0)
            a.name = kd_intern_z(E->cx, "axes");
        rest.v[rest.n++] = a;
    }
    if (at > from + n) {
        kd_elab_error(E, args->at, "%s takes %d argument%s, found %d", kd_op_info[op].name,
                      from + n, from + n == 1 ? "" : "s", at);
        return false;
    }
    if (!kd_match_args(E, kd_op_info[op].name, f, n, &rest, slot)) return false;
    for (int i = 0; i < n; i++) {
        attr[i] = spec[i].def;
        if (slot[i] &&
            !attr_value(E, &spec[i], slot[i]->value, kd_op_info[op].name, slot[i]->span, &attr[i]))
            return false;
        if (strcmp(spec[i].name, "axis") == 0 && attr[i].i < 0) attr[i].i += rank;
        if (strcmp(spec[i].name, "axes") == 0 && slot[i])
            for (int k = 0; k < attr[i].ints.n; k++)
                if (attr[i].ints.v[k] < 0)
                    ((int64_t *)attr[i].ints.v)[k] += rank; /* made just above */
    }
    return true;
}

/* An elementwise op of numbers: one element of its reference. */
static KdVal op_of_numbers(KdElab *E, int op, const KdVal *v, int n, const KdAttr *attr,
                           KdSpan at) {
    double x[3], out;
    const double *in[3] = {&x[0], &x[1], &x[2]};
    KdValue none[3] = {KD_NONE, KD_NONE, KD_NONE};
    bool ints = true, exact = true;
    for (int i = 0; i < n; i++) {
        x[i] = kd_number(v[i]);
        ints = ints && v[i].kind == KD_VAL_INT;
        exact = exact && fabs(x[i]) < 9e15;
    }
    const KdType *t = kd_type(E->cx, KD_F32, 0, NULL);
    KdNode one = {.op = (uint16_t)op, .n_in = (uint16_t)n, .in = none, .attr = attr, .type = t};
    kd_op_info[op].eval(E->f, &one, in, &out);
    if (!isfinite(out))
        return kd_elab_error(E, at, "%s(%s) is not a number", kd_op_info[op].name,
                             kd_val_text(E, v[0]));
    bool whole = op == KD_OP_FLOOR || op == KD_OP_SIGN;
    bool keeps = op == KD_OP_NEG || op == KD_OP_ABS || op == KD_OP_SQUARE || op == KD_OP_RELU ||
                 op == KD_OP_MAXIMUM || op == KD_OP_MINIMUM;
    if (exact && fabs(out) < 9e15 && (whole || (ints && keeps))) return kd_int((int64_t)out);
    return kd_float(out);
}

static KdVal where_op(KdElab *E, KdVal *v, KdSpan at) {
    bool real = false;
    if (v[0].kind == KD_VAL_BOOL) return v[0].i ? v[1] : v[2];
    for (int i = 1; i < 3; i++)
        real = real || v[i].kind == KD_VAL_FLOAT ||
               (v[i].kind == KD_VAL_TENSOR && kd_val_type(E, v[i])->dtype == KD_F32);
    KdDType d = real ? KD_F32 : KD_I32;
    if (!kd_elab_begin(E, at)) return kd_poison();
    for (int i = 0; i < 3; i++) {
        v[i] = kd_to_tensor(E, v[i], i ? d : KD_F32, at);
        if (v[i].kind == KD_VAL_POISON) return v[i];
        if (kd_val_type(E, v[i])->dtype != (i ? d : KD_F32))
            v[i].t = kd_cast(&E->b, v[i].t, i ? d : KD_F32);
    }
    if (!kd_broadcast_ok(E, "where", kd_val_type(E, v[1]), kd_val_type(E, v[2]), at) ||
        !kd_broadcast_ok(E, "where", kd_val_type(E, v[0]), kd_val_type(E, v[1]), at) ||
        !kd_broadcast_ok(E, "where", kd_val_type(E, v[0]), kd_val_type(E, v[2]), at))
        return kd_poison();
    return kd_elab_end(E, at, kd_where(&E->b, v[0].t, v[1].t, v[2].t));
}

/* detach, grad and the like of a list: of each element. */
static KdVal map_list(KdElab *E, const KdBuiltin *b, const KdActuals *args, const KdExpr *call,
                      int which) {
    KdVal list = args->v[which].value, l = kd_list(E, list.list->n);
    for (int i = 0; i < list.list->n; i++) {
        KdActual *copy = KD_NEW_ARRAY(E->cx, KdActual, args->n);
        memcpy(copy, args->v, (size_t)args->n * sizeof *copy);
        copy[which].value = list.list->v[i];
        kd_items(l)[i] = kd_call_builtin(E, b, &(KdActuals){copy, args->n, args->at}, call);
    }
    return l;
}

static KdVal call_op(KdElab *E, const KdBuiltin *b, const KdActuals *args, const KdExpr *call) {
    const KdOpInfo *info = &kd_op_info[b->op];
    int positional = 0, op = b->op, n = info->n_in;
    for (int i = 0; i < args->n; i++) {
        positional += !args->v[i].name;
        if (is_poison(args->v[i].value)) return kd_poison();
    }
    if (info->flags & KD_VARIADIC) n = positional;
    if (positional < n || n == 0)
        return kd_elab_error(E, args->at, "%s: expected %d operand%s, found %d", b->name, n ? n : 1,
                             n == 1 ? "" : "s", positional);
    if (op == KD_OP_DETACH && args->v[0].value.kind == KD_VAL_LIST)
        return map_list(E, b, args, call, 0);
    if (op == KD_OP_GRAD && args->v[1].value.kind == KD_VAL_LIST)
        return map_list(E, b, args, call, 1);
    if (op == KD_OP_DETACH && kd_is_number(args->v[0].value)) return args->v[0].value;
    KdVal *v = KD_NEW_ARRAY(E->cx, KdVal, n);
    bool numbers = info->cls == KD_ELEMENTWISE && n <= 3;
    int rank = 0;
    for (int i = 0, k = 0; k < n; i++) {
        if (args->v[i].name) continue;
        v[k++] = args->v[i].value;
        numbers = numbers && kd_is_number(args->v[i].value);
    }
    if (v[0].kind == KD_VAL_TENSOR) rank = kd_val_type(E, v[0])->rank;
    KdAttr attr[KD_MAX_ATTRS] = {0};
    if (!op_attrs(E, op, args, n, rank, attr)) return kd_poison();
    if (numbers) return op_of_numbers(E, op, v, n, attr, args->at);
    if (op == KD_OP_WHERE) return where_op(E, v, args->at);
    if (info->cls == KD_ELEMENTWISE && n == 2)
        return kd_elementwise2(E, (KdOp)op, v[0], v[1], args->at, b->name);
    if (!kd_elab_begin(E, args->at)) return kd_poison();
    KdValue *in = KD_NEW_ARRAY(E->cx, KdValue, n);
    for (int i = 0; i < n; i++) {
        KdVal t = kd_to_tensor(E, v[i], KD_F32, args->at);
        if (t.kind != KD_VAL_TENSOR) return kd_poison();
        in[i] = t.t;
    }
    return kd_elab_end(E, args->at, kd_build(&E->b, (KdOp)op, NULL, in, n, attr));
}

KdVal kd_call_builtin(KdElab *E, const KdBuiltin *b, const KdActuals *args, const KdExpr *call) {
    return b->op >= 0 && !b->fn ? call_op(E, b, args, call) : call_table(E, b, args, call);
}
