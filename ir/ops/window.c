/* window.c: see window.h. Attribute checks and sizes for infer functions, loops for element rules.
 * All arithmetic on sizes is checked: a size that does not fit is a diagnostic, never a wrong shape. */
#include "ir/ops/window.h"

#include <inttypes.h>

const char *const kd_axis_name[2] = {"height", "width"};

bool kd_window_ints(KdBuilder *b, KdOp op, const char *what, KdInts v, int n, int64_t least) {
    const char *name = kd_op_info[op].name;
    if (v.n != n) {
        kd_error(b->cx, b->loc, "%s: %s needs %d numbers, got %d", name, what, n, v.n);
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (v.v[i] < least) {
            kd_error(b->cx, b->loc, "%s: %s must be at least %" PRId64 ", got %" PRId64, name, what,
                     least, v.v[i]);
            return false;
        }
        if (v.v[i] > INT32_MAX) {
            kd_error(b->cx, b->loc, "%s: %s %" PRId64 " is too large", name, what, v.v[i]);
            return false;
        }
    }
    return true;
}

KdWindow kd_window(KdInts kernel, KdInts stride, KdInts pad, const KdInts *dilation) {
    KdWindow w;
    for (int k = 0; k < 2; k++) {
        w.kernel[k] = kernel.v[k];
        w.stride[k] = stride.v[k];
        w.dilation[k] = dilation ? dilation->v[k] : 1;
        w.lo[k] = pad.v[k];
        w.hi[k] = pad.v[k + 2];
    }
    return w;
}

bool kd_window_extent(KdBuilder *b, KdOp op, const KdWindow *w, int k, int64_t *extent) {
    int64_t r;
    if (kd_mul_ok(w->kernel[k] - 1, w->dilation[k], &r) && kd_add_ok(r, 1, &r) && r <= INT32_MAX) {
        *extent = r;
        return true;
    }
    kd_error(b->cx, b->loc, "%s: a kernel of %s %" PRId64 " with dilation %" PRId64 " is too large",
             kd_op_info[op].name, kd_axis_name[k], w->kernel[k], w->dilation[k]);
    return false;
}

bool kd_window_out(KdBuilder *b, KdOp op, const KdWindow *w, int k, int64_t size, int64_t *out) {
    const char *name = kd_op_info[op].name;
    int64_t extent, padded;
    if (!kd_window_extent(b, op, w, k, &extent)) {
        return false;
    }
    if (!kd_add_ok(size, w->lo[k], &padded) || !kd_add_ok(padded, w->hi[k], &padded)) {
        kd_error(b->cx, b->loc, "%s: the padded %s is too large", name, kd_axis_name[k]);
        return false;
    }
    if (padded < extent) {
        kd_error(b->cx, b->loc,
                 "%s: the %s %" PRId64 " with padding %" PRId64 " and %" PRId64
                 " is smaller than the kernel's %" PRId64,
                 name, kd_axis_name[k], size, w->lo[k], w->hi[k], extent);
        return false;
    }
    *out = (padded - extent) / w->stride[k] + 1;
    return true;
}

KdInts kd_ints_new(KdContext *cx, int n, const int64_t *v) {
    int64_t *copy = KD_NEW_ARRAY(cx, int64_t, n ? n : 1);
    for (int i = 0; i < n; i++) {
        copy[i] = v[i];
    }
    return (KdInts){n, copy};
}

void kd_nest_begin(KlBuilder *b, KdNest *t, int n, const int64_t *len, KlValue *i, int m,
                   const KlValue *init, KlValue *acc) {
    t->n = n;
    t->m = m;
    for (int j = 0; j < m; j++) {
        acc[j] = init[j];
    }
    for (int k = 0; k < n; k++) {
        t->open[k] = len[k] != 1;
        if (!t->open[k]) {
            i[k] = kl_i64(b, 0);
            continue;
        }
        t->loop[k] = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, len[k]), 1, m, acc);
        i[k] = t->loop[k].i;
        for (int j = 0; j < m; j++) {
            acc[j] = t->loop[k].carried[j];
        }
    }
}

void kd_nest_end(KlBuilder *b, KdNest *t, const KlValue *next, KlValue *result) {
    KlValue v[2] = {next[0], t->m > 1 ? next[1] : KL_NONE};
    for (int k = t->n - 1; k >= 0; k--) {
        if (t->open[k]) {
            KlValue r[2] = {KL_NONE, KL_NONE};
            kl_for_end(b, &t->loop[k], v, r);
            v[0] = r[0];
            v[1] = r[1];
        }
    }
    for (int j = 0; j < t->m; j++) {
        result[j] = v[j];
    }
}

KlValue kd_guard_and(KlBuilder *b, KlValue cond, KlValue also) {
    return cond == KL_NONE ? also : kl_op2(b, KL_OP_AND, cond, also);
}

KlValue kd_guard_range(KlBuilder *b, KlValue cond, KlValue v, int64_t n) {
    int64_t lo, hi;
    kl_range(b, v, &lo, &hi);
    if (lo < 0) {
        cond = kd_guard_and(b, cond, kl_cmp(b, KL_GE, v, kl_i64(b, 0)));
    }
    if (hi >= n) {
        cond = kd_guard_and(b, cond, kl_cmp(b, KL_LT, v, kl_i64(b, n)));
    }
    return cond;
}

KlValue kd_guarded(KdElem *e, KdValue n, int k, const KlValue *idx, KlValue cond, KlValue els) {
    return cond == KL_NONE ? e->operand(e, n, k, idx) : e->operand_if(e, n, k, idx, cond, els);
}

KlValue kd_window_source(KlBuilder *b, const KdWindow *w, int k, KlValue p, KlValue a) {
    KlValue at = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, p, kl_i64(b, w->stride[k])),
                        kl_op2(b, KL_OP_MUL, a, kl_i64(b, w->dilation[k])));
    return kl_op2(b, KL_OP_SUB, at, kl_i64(b, w->lo[k]));
}

KlValue kd_window_target(KlBuilder *b, const KdWindow *w, int k, KlValue at, KlValue a, int64_t n,
                         KlValue *cond) {
    KlValue t = kl_op2(b, KL_OP_ADD, at, kl_i64(b, w->lo[k]));
    t = kl_op2(b, KL_OP_SUB, t, kl_op2(b, KL_OP_MUL, a, kl_i64(b, w->dilation[k])));
    if (w->stride[k] == 1) {
        *cond = kd_guard_range(b, *cond, t, n);
        return t;
    }
    /* t < 0 must be ruled out before dividing: division rounds toward zero. */
    int64_t lo, hi;
    kl_range(b, t, &lo, &hi);
    if (lo < 0) {
        *cond = kd_guard_and(b, *cond, kl_cmp(b, KL_GE, t, kl_i64(b, 0)));
    }
    KlValue s = kl_i64(b, w->stride[k]);
    KlValue p = kl_op2(b, KL_OP_DIV, t, s);
    *cond = kd_guard_and(b, *cond, kl_cmp(b, KL_EQ, kl_op2(b, KL_OP_REM, t, s), kl_i64(b, 0)));
    kl_range(b, p, &lo, &hi);
    if (hi >= n) {
        *cond = kd_guard_and(b, *cond, kl_cmp(b, KL_LT, p, kl_i64(b, n)));
    }
    return p;
}
