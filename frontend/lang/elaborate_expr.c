/* elaborate_expr.c: expressions -> values. Numbers, strings and lists are computed here and now;
 * tensors become nodes.
 *
 * Integer arithmetic is exact: an overflow, a division by zero are errors at their operator. `/` of
 * two integers is the integer where the division comes out even and the float quotient otherwise;
 * `//` and `%` round down. Between tensors: numpy broadcasting; a number takes the tensor's element
 * type; an i32 tensor that meets an f32 tensor or a float becomes f32, as in PyTorch.
 */
#include "frontend/lang/elaborate.h"

#include <math.h>
#include <string.h>

static const char *sign_text(KdTok op) {
    switch ((int)op) {
#define TOKEN(id, text)                                                                            \
    case KD_TOK_##id:                                                                              \
        return text;
#include "frontend/lang/tokens.def"
#undef TOKEN
    }
    return "?";
}

/* ---- numbers --------------------------------------------------------------------------------- */

static bool int_power(int64_t base, int64_t exponent, int64_t *out) {
    int64_t r = 1;
    for (int64_t k = 0; k < exponent; k++) {
        if (!kd_mul_ok(r, base, &r)) return false;
        if (r == 0 || (base == 1) || (base == -1)) { /* no need to go on one by one */
            *out = base == -1 ? (exponent % 2 ? -1 : 1) : r;
            return true;
        }
    }
    *out = r;
    return true;
}

static KdVal int_binary(KdElab *E, KdTok op, int64_t a, int64_t b, KdSpan at) {
    int64_t r = 0;
    bool ok = true;
    if ((op == KD_TOK_SLASH || op == KD_TOK_FLOORDIV || op == KD_TOK_PERCENT) && b == 0)
        return kd_elab_error(E, at, "division by zero: %lld %s 0", (long long)a, sign_text(op));
    switch ((int)op) {
    case KD_TOK_PLUS:
        ok = kd_add_ok(a, b, &r);
        break;
    case KD_TOK_MINUS:
        ok = b != INT64_MIN ? kd_add_ok(a, -b, &r) : a < 0 && (r = a - b, true);
        break;
    case KD_TOK_STAR:
        ok = kd_mul_ok(a, b, &r);
        break;
    case KD_TOK_POWER:
        if (b < 0) return kd_float(pow((double)a, (double)b));
        ok = int_power(a, b, &r);
        break;
    default:
        if (b == -1) { /* INT64_MIN / -1 does not fit */
            if (op == KD_TOK_PERCENT) return kd_int(0);
            ok = a != INT64_MIN;
            r = ok ? -a : 0;
            break;
        }
        if (op == KD_TOK_SLASH && a % b != 0) return kd_float((double)a / (double)b);
        r = a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) r--;
        if (op == KD_TOK_PERCENT) r = a - r * b;
    }
    if (!ok)
        return kd_elab_error(E, at, "integer overflow: %lld %s %lld does not fit into 64 bits",
                             (long long)a, sign_text(op), (long long)b);
    return kd_int(r);
}

static KdVal float_binary(KdElab *E, KdTok op, double a, double b, KdSpan at) {
    if ((op == KD_TOK_SLASH || op == KD_TOK_FLOORDIV || op == KD_TOK_PERCENT) && b == 0)
        return kd_elab_error(E, at, "division by zero: %s %s 0", kd_float_text(E->cx, a),
                             sign_text(op));
    switch ((int)op) {
    case KD_TOK_PLUS:
        return kd_float(a + b);
    case KD_TOK_MINUS:
        return kd_float(a - b);
    case KD_TOK_STAR:
        return kd_float(a * b);
    case KD_TOK_SLASH:
        return kd_float(a / b);
    case KD_TOK_FLOORDIV:
        return kd_float(floor(a / b));
    case KD_TOK_PERCENT:
        return kd_float(a - floor(a / b) * b);
    case KD_TOK_POWER:
        return kd_float(pow(a, b));
    }
    return kd_poison();
}

static KdVal compare_numbers(KdTok op, double a, double b) {
    switch ((int)op) {
    case KD_TOK_LT:
        return kd_bool(a < b);
    case KD_TOK_LE:
        return kd_bool(a <= b);
    case KD_TOK_GT:
        return kd_bool(a > b);
    case KD_TOK_GE:
        return kd_bool(a >= b);
    }
    return kd_poison();
}

/* ---- tensors --------------------------------------------------------------------------------- */

KdVal kd_to_tensor(KdElab *E, KdVal v, KdDType d, KdSpan at) {
    if (v.kind == KD_VAL_TENSOR || v.kind == KD_VAL_POISON) return v;
    if (v.kind == KD_VAL_BOOL) v = kd_int(v.i);
    if (!kd_is_number(v))
        return kd_elab_error(E, at, "expected a tensor, found %s", kd_val_describe(E, v));
    if (d == KD_I32 && (v.i < INT32_MIN || v.i > INT32_MAX))
        return kd_elab_error(E, at, "%lld does not fit into an i32 element", (long long)v.i);
    return kd_tensor(kd_const(&E->b, kd_type(E->cx, d, 0, NULL), kd_number(v)));
}

bool kd_broadcast_ok(KdElab *E, const char *name, const KdType *a, const KdType *b, KdSpan at) {
    static const char *const words[4] = {"batch sizes", "channels", "heights", "widths"};
    int rank = a->rank > b->rank ? a->rank : b->rank;
    for (int i = 0; i < rank; i++) {
        int ia = i - (rank - a->rank), ib = i - (rank - b->rank);
        int64_t da = ia < 0 ? 1 : a->dim[ia], db = ib < 0 ? 1 : b->dim[ib];
        if (da == db || da == 1 || db == 1) continue;
        kd_elab_error(E, at, "%s: %s differ along dimension %d: %lld and %lld, in %s and %s", name,
                      rank == 4 ? words[i] : "sizes", i, (long long)da, (long long)db,
                      kd_shape_text(E->cx, a), kd_shape_text(E->cx, b));
        return false;
    }
    return true;
}

KdVal kd_elementwise2(KdElab *E, KdOp op, KdVal a, KdVal b, KdSpan at, const char *name) {
    if (a.kind == KD_VAL_POISON || b.kind == KD_VAL_POISON || !kd_elab_begin(E, at))
        return kd_poison();
    bool real =
        a.kind == KD_VAL_FLOAT || b.kind == KD_VAL_FLOAT || op == KD_OP_POW || op == KD_OP_DIV;
    bool bytes = false;
    KdVal *two[2] = {&a, &b};
    for (int k = 0; k < 2; k++) {
        if (two[k]->kind != KD_VAL_TENSOR) {
            if (!kd_is_number(*two[k]) && two[k]->kind != KD_VAL_BOOL)
                return kd_elab_error(E, at, "%s: expected a tensor or a number, found %s", name,
                                     kd_val_describe(E, *two[k]));
            continue;
        }
        real = real || kd_val_type(E, *two[k])->dtype == KD_F32;
        bytes = bytes || kd_val_type(E, *two[k])->dtype == KD_U8;
    }
    if (bytes) {
        const KdVal *u = a.kind == KD_VAL_TENSOR && kd_val_type(E, a)->dtype == KD_U8 ? &a : &b;
        return kd_elab_error(E, at,
                             "%s: u8 elements are only stored and moved, not computed with: "
                             "cast(x, \"f32\") first; found %s",
                             name, kd_type_text(E->cx, kd_val_type(E, *u)));
    }
    KdDType d = real ? KD_F32 : KD_I32;
    for (int k = 0; k < 2; k++) {
        *two[k] = kd_to_tensor(E, *two[k], d, at);
        if (two[k]->kind == KD_VAL_POISON) return kd_poison();
        if (kd_val_type(E, *two[k])->dtype != d) two[k]->t = kd_cast(&E->b, two[k]->t, d);
    }
    if (!kd_broadcast_ok(E, name, kd_val_type(E, a), kd_val_type(E, b), at)) return kd_poison();
    return kd_elab_end(E, at, kd_binary(&E->b, op, a.t, b.t));
}

static KdVal floor_div(KdElab *E, KdVal a, KdVal b, KdSpan at) {
    bool ints = true;
    KdVal two[2] = {a, b};
    for (int k = 0; k < 2; k++)
        ints = ints && (two[k].kind == KD_VAL_INT ||
                        (two[k].kind == KD_VAL_TENSOR && kd_val_type(E, two[k])->dtype == KD_I32));
    if (!ints) {
        KdVal q = kd_elementwise2(E, KD_OP_DIV, a, b, at, "//");
        return q.kind == KD_VAL_TENSOR ? kd_elab_end(E, at, kd_unary(&E->b, KD_OP_FLOOR, q.t)) : q;
    }
    /* the IR's i32 division rounds toward zero: one less where the rest has the other sign */
    if (!kd_elab_begin(E, at)) return kd_poison();
    a = kd_to_tensor(E, a, KD_I32, at);
    b = kd_to_tensor(E, b, KD_I32, at);
    if (a.kind != KD_VAL_TENSOR || b.kind != KD_VAL_TENSOR ||
        !kd_broadcast_ok(E, "//", kd_val_type(E, a), kd_val_type(E, b), at))
        return kd_poison();
    KdValue q = kd_binary(&E->b, KD_OP_DIV, a.t, b.t);
    KdValue rest = kd_binary(&E->b, KD_OP_SUB, a.t, kd_binary(&E->b, KD_OP_MUL, q, b.t));
    KdVal less = kd_elementwise2(E, KD_OP_LT, kd_tensor(kd_binary(&E->b, KD_OP_MUL, rest, b.t)),
                                 kd_int(0), at, "//");
    if (less.kind != KD_VAL_TENSOR) return kd_poison();
    return kd_elab_end(E, at, kd_binary(&E->b, KD_OP_SUB, q, kd_cast(&E->b, less.t, KD_I32)));
}

static KdVal tensor_power(KdElab *E, KdVal a, KdVal b, KdSpan at) {
    double p = kd_is_number(b) ? kd_number(b) : 0;
    KdOp op = p == 2     ? KD_OP_SQUARE
              : p == 0.5 ? KD_OP_SQRT
              : p == -1  ? KD_OP_RECIPROCAL
                         : KD_OP_POW;
    if (!kd_is_number(b) || op == KD_OP_POW) return kd_elementwise2(E, KD_OP_POW, a, b, at, "**");
    if (a.kind != KD_VAL_TENSOR || !kd_elab_begin(E, at)) return kd_poison();
    KdValue x = kd_val_type(E, a)->dtype == KD_I32 ? kd_cast(&E->b, a.t, KD_F32) : a.t;
    return kd_elab_end(E, at, kd_unary(&E->b, op, x));
}

static KdVal tensor_binary(KdElab *E, KdTok op, KdVal a, KdVal b, KdSpan at) {
    const char *name = sign_text(op);
    switch ((int)op) {
    case KD_TOK_PLUS:
        return kd_elementwise2(E, KD_OP_ADD, a, b, at, name);
    case KD_TOK_MINUS:
        return kd_elementwise2(E, KD_OP_SUB, a, b, at, name);
    case KD_TOK_STAR:
        return kd_elementwise2(E, KD_OP_MUL, a, b, at, name);
    case KD_TOK_SLASH:
        return kd_elementwise2(E, KD_OP_DIV, a, b, at, name);
    case KD_TOK_FLOORDIV:
        return floor_div(E, a, b, at);
    case KD_TOK_PERCENT:
        return kd_eval_binary(E, KD_TOK_MINUS, a,
                              kd_eval_binary(E, KD_TOK_STAR, floor_div(E, a, b, at), b, at), at);
    case KD_TOK_POWER:
        return tensor_power(E, a, b, at);
    case KD_TOK_EQ:
        return kd_elementwise2(E, KD_OP_EQ, a, b, at, name);
    case KD_TOK_NE:
        return kd_elementwise2(E, KD_OP_NE, a, b, at, name);
    case KD_TOK_LT:
        return kd_elementwise2(E, KD_OP_LT, a, b, at, name);
    case KD_TOK_LE:
        return kd_elementwise2(E, KD_OP_LE, a, b, at, name);
    case KD_TOK_GT:
        return kd_elementwise2(E, KD_OP_LT, b, a, at, name);
    case KD_TOK_GE:
        return kd_elementwise2(E, KD_OP_LE, b, a, at, name);
    }
    return kd_elab_error(E, at, "'%s' is not defined for tensors", name);
}

/* ---- lists and strings ----------------------------------------------------------------------- */

static KdVal list_plus(KdElab *E, KdVal a, KdVal b, KdSpan at) {
    int n = a.list->n + b.list->n;
    if (n > KD_MAX_LIST) return kd_elab_error(E, at, "a list has at most %d elements", KD_MAX_LIST);
    KdVal l = kd_list(E, n);
    for (int i = 0; i < n; i++)
        kd_items(l)[i] = i < a.list->n ? a.list->v[i] : b.list->v[i - a.list->n];
    return l;
}

static KdVal list_times(KdElab *E, KdVal a, int64_t times, KdSpan at) {
    int64_t n = 0;
    if (times < 0) times = 0;
    if (!kd_mul_ok(a.list->n, times, &n) || n > KD_MAX_LIST)
        return kd_elab_error(E, at, "a list has at most %d elements", KD_MAX_LIST);
    KdVal l = kd_list(E, (int)n);
    for (int i = 0; i < n; i++)
        kd_items(l)[i] = a.list->v[i % a.list->n];
    return l;
}

static KdVal range_list(KdElab *E, KdVal a, KdVal b, KdSpan at) {
    if (a.kind != KD_VAL_INT || b.kind != KD_VAL_INT)
        return kd_elab_error(E, at, "a range goes from integer to integer, found %s .. %s",
                             kd_val_text(E, a), kd_val_text(E, b));
    int64_t n;
    if (b.i <= a.i) return kd_list(E, 0);
    if (a.i == INT64_MIN || !kd_add_ok(b.i, -a.i, &n) || n > KD_MAX_LIST)
        return kd_elab_error(E, at, "the range %lld..%lld has more than %d elements",
                             (long long)a.i, (long long)b.i, KD_MAX_LIST);
    KdVal l = kd_list(E, (int)n);
    for (int i = 0; i < n; i++)
        kd_items(l)[i] = kd_int(a.i + i);
    return l;
}

/* ---- binary operators ------------------------------------------------------------------------ */

static bool is_order(KdTok op) {
    return op == KD_TOK_LT || op == KD_TOK_LE || op == KD_TOK_GT || op == KD_TOK_GE;
}

KdVal kd_eval_binary(KdElab *E, KdTok op, KdVal a, KdVal b, KdSpan at) {
    if (a.kind == KD_VAL_POISON || b.kind == KD_VAL_POISON) return kd_poison();
    bool tensor = a.kind == KD_VAL_TENSOR || b.kind == KD_VAL_TENSOR;
    if (op == KD_TOK_RANGE) return range_list(E, a, b, at);
    if (op == KD_TOK_AT) {
        KdActual two[2] = {{.value = a, .span = at}, {.value = b, .span = at}};
        return kd_call_builtin(E, kd_find_builtin("matmul"), &(KdActuals){two, 2, at}, NULL);
    }
    if (tensor && (a.kind == KD_VAL_NONE || b.kind == KD_VAL_NONE) &&
        (op == KD_TOK_EQ || op == KD_TOK_NE))
        return kd_bool(op == KD_TOK_NE);
    if (tensor) return tensor_binary(E, op, a, b, at);
    if (op == KD_TOK_EQ) return kd_bool(kd_val_equal(a, b));
    if (op == KD_TOK_NE) return kd_bool(!kd_val_equal(a, b));
    if (kd_is_number(a) && kd_is_number(b)) {
        if (is_order(op)) {
            if (a.kind == KD_VAL_FLOAT || b.kind == KD_VAL_FLOAT)
                return compare_numbers(op, kd_number(a), kd_number(b));
            return kd_bool(op == KD_TOK_LT   ? a.i < b.i
                           : op == KD_TOK_LE ? a.i <= b.i
                           : op == KD_TOK_GT ? a.i > b.i
                                             : a.i >= b.i);
        }
        if (a.kind == KD_VAL_INT && b.kind == KD_VAL_INT) return int_binary(E, op, a.i, b.i, at);
        return float_binary(E, op, kd_number(a), kd_number(b), at);
    }
    if (op == KD_TOK_PLUS && a.kind == KD_VAL_LIST && b.kind == KD_VAL_LIST)
        return list_plus(E, a, b, at);
    if (op == KD_TOK_STAR && a.kind == KD_VAL_LIST && b.kind == KD_VAL_INT)
        return list_times(E, a, b.i, at);
    if (op == KD_TOK_PLUS && a.kind == KD_VAL_STRING && b.kind == KD_VAL_STRING) {
        if (strlen(a.s) + strlen(b.s) > KD_MAX_LIST)
            return kd_elab_error(E, at, "a string has at most %d bytes", KD_MAX_LIST);
        E->steps += (int64_t)(strlen(a.s) + strlen(b.s)) / 16; /* memory is a step too */
        return kd_string(kd_intern_z(E->cx, kd_format(E->cx, "%s%s", a.s, b.s)));
    }
    if (op == KD_TOK_PLUS && a.kind == KD_VAL_LIST)
        return kd_elab_error(E, at, "a list grows by a list: xs + [x]; found %s + %s",
                             kd_val_text(E, a), kd_val_describe(E, b));
    return kd_elab_error(E, at, "'%s' is not defined for %s and %s", sign_text(op),
                         kd_val_describe(E, a), kd_val_describe(E, b));
}

/* ---- conditions and integers ----------------------------------------------------------------- */

bool kd_eval_bool(KdElab *E, const KdExpr *e, const char *what, bool *out) {
    KdVal v = kd_eval_expr(E, e);
    if (v.kind == KD_VAL_BOOL) {
        *out = v.i;
        return true;
    }
    if (v.kind == KD_VAL_TENSOR) {
        if (kd_elab_complained(E, e->at)) return false;
        kd_elab_error(E, e->at, "%s must be known when compiling, but this is %s", what,
                      kd_val_describe(E, v));
        kd_hint(E->cx, "where(c, a, b) chooses element by element");
    } else if (v.kind != KD_VAL_POISON) {
        kd_elab_error(E, e->at, "%s must be true or false, found %s", what, kd_val_describe(E, v));
    }
    return false;
}

bool kd_eval_int(KdElab *E, const KdExpr *e, const char *what, int64_t *out) {
    KdVal v = kd_eval_expr(E, e);
    if (v.kind == KD_VAL_INT) {
        *out = v.i;
        return true;
    }
    if (v.kind != KD_VAL_POISON)
        kd_elab_error(E, e->at, "%s must be an integer, found %s", what, kd_val_describe(E, v));
    return false;
}

/* ---- fields ---------------------------------------------------------------------------------- */

/* What an application recorded under `name`, or the list of what it recorded under name[0],
 * name[1], ... */
static bool find_inner(KdElab *E, const KdApplied *a, const char *name, KdVal *out) {
    for (int i = a->inner.n - 1; i >= 0; i--)
        if (strcmp(a->inner.v[i].name, name) == 0) {
            *out = a->inner.v[i].value;
            return true;
        }
    size_t n = strlen(name);
    int64_t most = -1;
    for (int i = 0; i < a->inner.n; i++) {
        const char *s = a->inner.v[i].name;
        int at;
        if (strncmp(s, name, n) == 0 && s[n] == '[' && sscanf(s + n, "[%d]", &at) == 1 && at > most)
            most = at;
    }
    if (most < 0 || most > KD_MAX_LIST) return false;
    KdVal l = kd_list(E, (int)most + 1);
    for (int64_t i = 0; i <= most; i++)
        if (!find_inner(E, a, kd_format(E->cx, "%s[%lld]", name, (long long)i), &kd_items(l)[i]))
            kd_items(l)[i] = kd_none();
    *out = l;
    return true;
}

static KdVal missing_tap(KdElab *E, KdVal v, const char *name, KdSpan at) {
    if (kd_elab_complained(E, at)) return kd_poison();
    KD_VEC(const char *) names = {0};
    for (int i = 0; v.applied && i < v.applied->taps.n; i++)
        kd_push(E->cx, &names, v.applied->taps.v[i].name);
    for (int i = 0; v.applied && i < v.applied->inner.n; i++) {
        const char *s = v.applied->inner.v[i].name, *bracket = strchr(s, '[');
        kd_push(E->cx, &names, bracket ? kd_intern(E->cx, s, (size_t)(bracket - s)) : s);
    }
    if (v.applied)
        kd_elab_error(E, at, "there is no tap '%s' in this result", name);
    else {
        kd_elab_error(E, at, "%s has no '.%s'", kd_val_describe(E, v), name);
        if (v.kind == KD_VAL_TENSOR)
            kd_hint(E->cx, "taps are read from what a network gave back: S(x).name");
    }
    kd_push(E->cx, &names, "shape");
    kd_push(E->cx, &names, "rank");
    kd_push(E->cx, &names, "dtype");
    kd_elab_near(E, name, names.v, names.n);
    return kd_poison();
}

static KdVal instance_field(KdElab *E, KdVal v, const char *name, KdSpan at) {
    KdStore *s = v.inst->store;
    if (s) {
        for (int i = 0; i < s->weights.n; i++)
            if (s->weights.v[i]->name == name) {
                KdVal w = kd_tensor(s->weights.v[i]->now);
                w.weight = s->weights.v[i];
                return w;
            }
        KdVal list = kd_poison();
        size_t n = strlen(name);
        int found = 0;
        KD_VEC(KdVal) items = {0};
        for (int i = 0; i < s->subs.n; i++) {
            const char *local = s->subs.v[i]->local;
            if (strncmp(local, name, n) != 0 || (local[n] != 0 && local[n] != '[')) continue;
            KdInst *inst = KD_NEW(E->cx, KdInst);
            *inst = (KdInst){.net = s->subs.v[i]->net,
                             .label = s->subs.v[i]->path,
                             .store = s->subs.v[i],
                             .frame = v.inst->frame};
            KdVal one = {.kind = KD_VAL_INSTANCE, .inst = inst};
            if (!local[n]) return one;
            kd_push(E->cx, &items, one);
            found++;
        }
        if (found) {
            list = kd_list(E, items.n);
            for (int i = 0; i < items.n; i++)
                kd_items(list)[i] = items.v[i];
            return list;
        }
    }
    if (kd_elab_complained(E, at)) return kd_poison();
    kd_elab_error(E, at, "there is no weight or inner network '%s' in %s", name, v.inst->label);
    kd_hint(E->cx,
            "they exist once the network has been applied; taps are read from a result: S(x).%s",
            name);
    return kd_poison();
}

KdVal kd_eval_field(KdElab *E, KdVal v, const char *name, KdSpan at) {
    if (v.kind == KD_VAL_POISON) return v;
    if (v.kind == KD_VAL_OPS) {
        const KdBuiltin *op = kd_find_op(E, name);
        if (op) return (KdVal){.kind = KD_VAL_BUILTIN, .builtin = op};
        if (kd_elab_complained(E, at)) return kd_poison();
        kd_elab_error(E, at, "there is no primitive operation '%s'", name);
        const char *names[KD_OP_COUNT];
        for (int i = 0; i < KD_OP_COUNT; i++)
            names[i] = kd_op_info[i].name;
        kd_elab_near(E, name, names, KD_OP_COUNT);
        return kd_poison();
    }
    if (v.applied) {
        KdVal out;
        for (int i = 0; i < v.applied->taps.n; i++)
            if (v.applied->taps.v[i].name == name) return v.applied->taps.v[i].value;
        if (find_inner(E, v.applied, name, &out)) return out;
    }
    if (v.kind == KD_VAL_INSTANCE) return instance_field(E, v, name, at);
    if (v.kind == KD_VAL_TENSOR) {
        const KdType *t = kd_val_type(E, v);
        if (strcmp(name, "rank") == 0) return kd_int(t->rank);
        if (strcmp(name, "dtype") == 0)
            return kd_string(kd_intern_z(E->cx, kd_dtype_name(t->dtype)));
        if (strcmp(name, "shape") == 0) {
            KdVal l = kd_list(E, t->rank);
            for (int i = 0; i < t->rank; i++)
                kd_items(l)[i] = kd_int(t->dim[i]);
            return l;
        }
    }
    return missing_tap(E, v, name, at);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static KdVal unknown_name(KdElab *E, const KdExpr *e) {
    if (kd_elab_complained(E, e->at)) return kd_poison();
    return kd_elab_error(E, e->at, "'%s' is not defined yet at this point", e->s);
}

static KdVal eval_unary(KdElab *E, const KdExpr *e) {
    KdVal v = kd_eval_expr(E, e->a);
    if (v.kind == KD_VAL_POISON) return v;
    if (e->op == KD_TOK_NOT) {
        if (v.kind == KD_VAL_BOOL) return kd_bool(!v.i);
        return kd_elab_error(E, e->at, "'not' needs true or false, found %s",
                             kd_val_describe(E, v));
    }
    if (e->op == KD_TOK_PLUS && (kd_is_number(v) || v.kind == KD_VAL_TENSOR)) return v;
    if (v.kind == KD_VAL_INT) return int_binary(E, KD_TOK_MINUS, 0, v.i, e->at);
    if (v.kind == KD_VAL_FLOAT) return kd_float(-v.f);
    if (v.kind == KD_VAL_TENSOR && kd_elab_begin(E, e->at))
        return kd_elab_end(E, e->at, kd_unary(&E->b, KD_OP_NEG, v.t));
    if (v.kind == KD_VAL_TENSOR) return kd_poison();
    return kd_elab_error(E, e->at, "'%s' is not defined for %s", sign_text(e->op),
                         kd_val_describe(E, v));
}

static KdVal freeze(KdElab *E, KdVal v, KdSpan at) {
    if (v.kind == KD_VAL_LIST) {
        KdVal l = kd_list(E, v.list->n);
        for (int i = 0; i < v.list->n; i++)
            kd_items(l)[i] = freeze(E, v.list->v[i], at);
        return l;
    }
    if (v.kind == KD_VAL_POISON) return v;
    if (v.kind == KD_VAL_DEF && v.def->kind == KD_DEF_NET) {
        if (kd_elab_complained(E, at)) return kd_poison();
        kd_elab_error(E, at, "'frozen' needs an instance, found the net %s", v.def->name);
        kd_hint(E->cx, "brackets create: frozen %s[...]", v.def->name);
        return kd_poison();
    }
    if (v.kind != KD_VAL_INSTANCE)
        return kd_elab_error(E, at, "'frozen' needs an instance of a net, found %s",
                             kd_val_describe(E, v));
    if (v.inst->store) {
        if (kd_elab_complained(E, at)) return kd_poison();
        kd_elab_error(E, at, "%s is in use already; 'frozen' is said where a network is created",
                      v.inst->label);
        kd_hint(E->cx, "eval_mode(%s) applies it in inference mode", v.inst->store->path);
        return kd_poison();
    }
    v.inst->frozen = true;
    return v;
}

static KdVal eval_logic(KdElab *E, const KdExpr *e) {
    bool a, b, is_and = e->op == KD_TOK_AND;
    const char *what = is_and ? "an operand of 'and'" : "an operand of 'or'";
    if (!kd_eval_bool(E, e->a, what, &a)) return kd_poison();
    if (a != is_and) return kd_bool(a);
    return kd_eval_bool(E, e->b, what, &b) ? kd_bool(b) : kd_poison();
}

static KdVal eval_each(KdElab *E, const KdExpr *e) {
    KdVal over = kd_eval_expr(E, e->b);
    if (over.kind == KD_VAL_POISON) return over;
    if (over.kind != KD_VAL_LIST)
        return kd_elab_error(E, e->b->at, "'for' goes over a list or a range, found %s",
                             kd_val_describe(E, over));
    KdVal l = kd_list(E, over.list->n);
    kd_scope_push(E);
    for (int i = 0; i < over.list->n && !E->dead; i++) {
        kd_bind(E, e->s, over.list->v[i]);
        kd_items(l)[i] = kd_eval_expr(E, e->a);
    }
    kd_scope_pop(E);
    return l;
}

static KdVal eval_node(KdElab *E, const KdExpr *e) {
    switch (e->kind) {
    case KD_EXPR_ERROR:
        return kd_poison();
    case KD_EXPR_NONE:
        return kd_none();
    case KD_EXPR_INT:
        return kd_int(e->i);
    case KD_EXPR_FLOAT:
        return kd_float(e->f);
    case KD_EXPR_BOOL:
        return kd_bool(e->i);
    case KD_EXPR_STRING:
        return kd_string(e->s);
    case KD_EXPR_NAME: {
        KdVal v;
        if (kd_find(E, e->s, &v) || kd_builtin_value(E, e->s, e->at, &v)) return v;
        return unknown_name(E, e);
    }
    case KD_EXPR_LIST: {
        KdVal l = kd_list(E, e->n_args);
        for (int i = 0; i < e->n_args; i++)
            kd_items(l)[i] = kd_eval_expr(E, e->args[i].value);
        return l;
    }
    case KD_EXPR_EACH:
        return eval_each(E, e);
    case KD_EXPR_UNARY:
        return eval_unary(E, e);
    case KD_EXPR_FROZEN:
        return freeze(E, kd_eval_expr(E, e->a), e->at);
    case KD_EXPR_BINARY: {
        if (e->op == KD_TOK_AND || e->op == KD_TOK_OR) return eval_logic(E, e);
        KdVal a = kd_eval_expr(E, e->a);
        KdVal b = kd_eval_expr(E, e->b);
        return kd_eval_binary(E, e->op, a, b, e->at);
    }
    case KD_EXPR_CHOICE: {
        bool c;
        if (!kd_eval_bool(E, e->c, "the condition of 'if'", &c)) return kd_poison();
        return kd_eval_expr(E, c ? e->a : e->b);
    }
    case KD_EXPR_CALL:
        return kd_eval_call(E, e);
    case KD_EXPR_BRACKET: {
        KdVal base = kd_eval_expr(E, e->a);
        if (base.kind == KD_VAL_DEF && base.def->kind == KD_DEF_NET)
            return kd_instantiate(E, base.def, e);
        return kd_eval_index(E, base, e);
    }
    case KD_EXPR_FIELD:
        return kd_eval_field(E, kd_eval_expr(E, e->a), e->s, e->at);
    case KD_EXPR_PIPE:
        return kd_eval_pipe(E, e);
    }
    return kd_poison();
}

KdVal kd_eval_expr(KdElab *E, const KdExpr *e) {
    if (E->dead || !e) return kd_poison();
    if (++E->steps > KD_MAX_EVAL_STEPS) {
        kd_elab_error(E, e->at,
                      "the program runs too long: more than %d steps of compile-time evaluation",
                      KD_MAX_EVAL_STEPS);
        E->dead = true;
        return kd_poison();
    }
    if (E->nesting >= KD_MAX_EVAL_NESTING) {
        kd_elab_error(E, e->at,
                      "expressions nest too deeply through the applications: more than %d levels",
                      KD_MAX_EVAL_NESTING);
        E->dead = true;
        return kd_poison();
    }
    E->nesting++;
    KdVal v = eval_node(E, e);
    E->nesting--;
    return v;
}
