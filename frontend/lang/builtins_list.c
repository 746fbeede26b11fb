/* builtins_list.c: functions on compile-time values; min and max, sum and mean also reduce tensors
 * (builtins_tensor.c). A row is what the language reference lists.
 */
#include "frontend/lang/elaborate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static KdVal do_len(KdCall *c) {
    KdVal v = c->v[0];
    if (v.kind == KD_VAL_LIST) return kd_int(v.list->n);
    if (v.kind == KD_VAL_STRING) return kd_int((int64_t)strlen(v.s));
    if (v.kind == KD_VAL_TENSOR && kd_val_type(c->E, v)->rank > 0)
        return kd_int(kd_val_type(c->E, v)->dim[0]);
    return kd_arg_error(c, 0, "expected a list, a string or a tensor, found %s",
                        kd_val_describe(c->E, v));
}

/* range(n), range(a, b), range(a, b, step) */
static KdVal do_range(KdCall *c) {
    int64_t a = 0, b, step = 1, n = 0;
    if (!kd_arg_int(c, 0, &b)) return kd_poison();
    if (c->v[1].kind != KD_VAL_NONE) {
        a = b;
        if (!kd_arg_int(c, 1, &b)) return kd_poison();
    }
    if (c->v[2].kind != KD_VAL_NONE && !kd_arg_int(c, 2, &step)) return kd_poison();
    if (step == 0) return kd_arg_error(c, 2, "the step is 0");
    int64_t most = INT64_C(1) << 40;
    if (llabs(a) > most || llabs(b) > most || llabs(step) > most)
        return kd_arg_error(c, 0, "these numbers are too large for a list");
    if (step > 0 ? b > a : b < a) n = (llabs(b - a) + llabs(step) - 1) / llabs(step);
    if (n > KD_MAX_LIST) return kd_arg_error(c, 0, "a list has at most %d elements", KD_MAX_LIST);
    KdVal l = kd_list(c->E, (int)n);
    for (int i = 0; i < n; i++)
        kd_items(l)[i] = kd_int(a + i * step);
    return l;
}

static KdVal do_int(KdCall *c) {
    KdVal v = c->v[0];
    if (v.kind == KD_VAL_INT || v.kind == KD_VAL_BOOL) return kd_int(v.i);
    if (v.kind == KD_VAL_FLOAT && fabs(v.f) < 9e18) return kd_int((int64_t)v.f);
    return kd_arg_error(c, 0, "expected a number, found %s", kd_val_describe(c->E, v));
}

static KdVal do_float(KdCall *c) {
    double f;
    return kd_arg_float(c, 0, &f) ? kd_float(f) : kd_poison();
}

static KdVal do_round(KdCall *c) {
    double f;
    if (!kd_arg_float(c, 0, &f)) return kd_poison();
    if (!(fabs(f) < 9e15)) return kd_arg_error(c, 0, "%s is too large", kd_val_text(c->E, c->v[0]));
    return kd_int((int64_t)nearbyint(f));
}

static KdVal do_str(KdCall *c) {
    if (c->v[0].kind == KD_VAL_STRING) return c->v[0];
    return kd_string(kd_intern_z(c->E->cx, kd_val_full_text(c->E, c->v[0])));
}

static KdVal do_kind(KdCall *c) {
    static const char *const names[] = {"poison", "none",      "int",      "float", "bool",
                                        "string", "list",      "tensor",   "fn",    "network",
                                        "fn",     "optimiser", "namespace"};
    KdVal v = c->v[0];
    const char *s = names[v.kind];
    if (v.kind == KD_VAL_DEF)
        s = v.def->kind == KD_DEF_NET ? "net" : v.def->kind == KD_DEF_FN ? "fn" : "session";
    return kd_string(kd_intern_z(c->E->cx, s));
}

/* check(condition, message): an error in the words of the one who wrote the net. */
static KdVal do_check(KdCall *c) {
    bool ok;
    const char *text;
    if (c->v[0].kind != KD_VAL_BOOL)
        return kd_arg_error(c, 0, "expected true or false, found %s",
                            kd_val_describe(c->E, c->v[0]));
    if (!kd_arg_bool(c, 0, true, &ok) || !kd_arg_string(c, 1, &text)) return kd_poison();
    if (ok) return kd_none();
    kd_elab_error(c->E, c->at, "%s", text);
    c->E->frame->doubtful = true;
    return kd_poison();
}

/* hint(condition, message): said if something fails in this application or inside it. */
static KdVal do_hint(KdCall *c) {
    bool when;
    const char *text;
    if (!kd_arg_bool(c, 0, false, &when) || !kd_arg_string(c, 1, &text)) return kd_poison();
    if (when) kd_push(c->E->cx, &c->E->frame->hints, (KdHint){text});
    return kd_none();
}

static bool want_list(KdCall *c, int k) {
    if (c->v[k].kind == KD_VAL_LIST) return true;
    kd_arg_error(c, k, "expected a list, found %s", kd_val_describe(c->E, c->v[k]));
    return false;
}

static KdVal do_reversed(KdCall *c) {
    if (!want_list(c, 0)) return kd_poison();
    int n = c->v[0].list->n;
    KdVal l = kd_list(c->E, n);
    for (int i = 0; i < n; i++)
        kd_items(l)[i] = c->v[0].list->v[n - 1 - i];
    return l;
}

static KdVal pair(KdElab *E, KdVal a, KdVal b) {
    KdVal p = kd_list(E, 2);
    kd_items(p)[0] = a;
    kd_items(p)[1] = b;
    return p;
}

/* Of two to four lists. */
static KdVal do_zip(KdCall *c) {
    int lists = 2;
    while (lists < 4 && c->v[lists].kind != KD_VAL_NONE) lists++;
    for (int k = 0; k < lists; k++) {
        if (!want_list(c, k)) return kd_poison();
        if (c->v[k].list->n != c->v[0].list->n)
            return kd_arg_error(c, k, "the lists have %d and %d elements", c->v[0].list->n, c->v[k].list->n);
    }
    KdVal l = kd_list(c->E, c->v[0].list->n);
    for (int i = 0; i < l.list->n; i++) {
        kd_items(l)[i] = kd_list(c->E, lists);
        for (int k = 0; k < lists; k++)
            kd_items(kd_items(l)[i])[k] = c->v[k].list->v[i];
    }
    return l;
}

static KdVal do_enumerate(KdCall *c) {
    if (!want_list(c, 0)) return kd_poison();
    KdVal l = kd_list(c->E, c->v[0].list->n);
    for (int i = 0; i < l.list->n; i++)
        kd_items(l)[i] = pair(c->E, kd_int(i), c->v[0].list->v[i]);
    return l;
}

const KdBuiltin kd_builtins_list[] = {
    {"len", "x", do_len, -1},
    {"range", "a, b?, step?", do_range, -1},
    {"int", "x", do_int, -1},
    {"float", "x", do_float, -1},
    {"round", "x", do_round, -1},
    {"str", "x", do_str, -1},
    {"kind", "x", do_kind, -1},
    {"check", "condition, message", do_check, -1},
    {"hint", "condition, message", do_hint, -1},
    {"reversed", "xs", do_reversed, -1},
    {"zip", "xs, ys, zs?, vs?", do_zip, -1},
    {"enumerate", "xs", do_enumerate, -1},
    {NULL, NULL, NULL, -1},
};
