/* elaborate_index.c: brackets behind a value. xs[i] and xs[a:b] of a list; x[i, a:b:step, :] of a
 * tensor, as in PyTorch: an integer takes one element and drops the dimension, a slice keeps it,
 * missing dimensions are taken whole, and negative positions count from the end.
 */
#include "frontend/lang/elaborate.h"

/* An optional integer of a slice; false after a diagnostic. */
static bool part(KdElab *E, const KdExpr *e, int64_t def, int64_t *out) {
    *out = def;
    if (!e) return true;
    KdVal v = kd_eval_expr(E, e);
    if (v.kind == KD_VAL_NONE) return true;
    if (v.kind == KD_VAL_INT) {
        *out = v.i;
        return true;
    }
    if (v.kind != KD_VAL_POISON)
        kd_elab_error(E, e->at, "a slice is made of integers, found %s", kd_val_describe(E, v));
    return false;
}

/* The positions begin, end, step of a slice of n elements, clipped as in Python. */
static bool slice(KdElab *E, const KdArg *a, int64_t n, int64_t *begin, int64_t *end,
                  int64_t *step) {
    if (!part(E, a->lo, 0, begin) || !part(E, a->hi, n, end) || !part(E, a->step, 1, step))
        return false;
    if (*step < 1) {
        kd_elab_error(E, a->step->at, "the step of a slice must be at least 1, found %lld",
                      (long long)*step);
        return false;
    }
    if (*step > n) *step = n > 0 ? n : 1; /* only the first element either way */
    int64_t *two[2] = {begin, end};
    for (int k = 0; k < 2; k++) {
        if (*two[k] < 0) *two[k] += n;
        if (*two[k] < 0) *two[k] = 0;
        if (*two[k] > n) *two[k] = n;
    }
    if (*end < *begin) *end = *begin;
    return true;
}

static bool element(KdElab *E, const KdArg *a, int64_t n, const char *of, int64_t *at) {
    KdVal v = kd_eval_expr(E, a->value);
    if (v.kind == KD_VAL_POISON) return false;
    if (v.kind != KD_VAL_INT) {
        kd_elab_error(E, a->span, "expected an integer or a slice a:b, found %s",
                      kd_val_describe(E, v));
        return false;
    }
    *at = v.i < 0 ? v.i + n : v.i;
    if (*at >= 0 && *at < n) return true;
    kd_elab_error(E, a->span, "there is no element %lld: %s has %lld", (long long)v.i, of,
                  (long long)n);
    return false;
}

static KdVal index_list(KdElab *E, KdVal base, const KdExpr *e) {
    int64_t begin, end, step;
    if (e->n_args != 1)
        return kd_elab_error(E, e->at, "a list takes one index, found %d", e->n_args);
    const KdArg *a = &e->args[0];
    if (a->value)
        return element(E, a, base.list->n, "the list", &begin) ? base.list->v[begin] : kd_poison();
    if (!slice(E, a, base.list->n, &begin, &end, &step)) return kd_poison();
    KdVal l = kd_list(E, (int)((end - begin + step - 1) / step));
    for (int i = 0; i < l.list->n; i++)
        kd_items(l)[i] = base.list->v[begin + i * step];
    return l;
}

static KdVal index_tensor(KdElab *E, KdVal base, const KdExpr *e) {
    const KdType *t = kd_val_type(E, base);
    int64_t begin[KD_MAX_RANK], end[KD_MAX_RANK], step[KD_MAX_RANK], kept[KD_MAX_RANK];
    int rank = 0;
    if (e->n_args > t->rank)
        return kd_elab_error(E, e->at, "%d indices for a tensor of %d dimensions, %s", e->n_args,
                             t->rank, kd_shape_text(E->cx, t));
    for (int d = 0; d < t->rank; d++) {
        begin[d] = 0;
        end[d] = t->dim[d];
        step[d] = 1;
        const KdArg *a = d < e->n_args ? &e->args[d] : NULL;
        if (a && a->value) {
            if (!element(E, a, t->dim[d],
                         kd_format(E->cx, "dimension %d of %s", d, kd_shape_text(E->cx, t)),
                         &begin[d]))
                return kd_poison();
            end[d] = begin[d] + 1;
            continue;
        }
        if (a && !slice(E, a, t->dim[d], &begin[d], &end[d], &step[d])) return kd_poison();
        kept[rank++] = (end[d] - begin[d] + step[d] - 1) / step[d];
    }
    if (!kd_elab_begin(E, e->at)) return kd_poison();
    KdValue v = kd_slice(&E->b, base.t, begin, end, step);
    return kd_elab_end(E, e->at, kd_reshape(&E->b, v, rank, kept));
}

KdVal kd_eval_index(KdElab *E, KdVal base, const KdExpr *e) {
    if (base.kind == KD_VAL_POISON) return base;
    for (int i = 0; i < e->n_args; i++)
        if (e->args[i].name)
            return kd_elab_error(E, e->args[i].name_span,
                                 "brackets with names create an instance of a net, but this is %s",
                                 kd_val_describe(E, base));
    if (base.kind == KD_VAL_LIST) return index_list(E, base, e);
    if (base.kind == KD_VAL_TENSOR) return index_tensor(E, base, e);
    if (kd_elab_complained(E, e->at)) return kd_poison();
    kd_elab_error(
        E, e->at,
        "brackets create instances of nets and take elements of lists and tensors; this is %s",
        kd_val_describe(E, base));
    if (kd_applicable(base)) kd_hint(E->cx, "parentheses apply: %s(...)", kd_val_text(E, base));
    return kd_poison();
}
