/* build.c: the one door. kd_build infers, checks, simplifies, looks for an equal node, and only then appends.
 *
 * Functions and the shorthands over kd_build live here too. Shorthands that broadcast follow numpy: shapes are
 * aligned at their last dimension, missing and size-1 dimensions are repeated. In the graph itself broadcasting is
 * always explicit, so every elementwise node has operands of one type.
 */
#include <inttypes.h>
#include <string.h>

#include "ir/ops/ops.h"
#include "ir/ops/shape.h"
#include "ir/simplify.h"

/* ---- functions ------------------------------------------------------------------------------------ */

KdFunc *kd_func_new(KdContext *cx, const char *name) {
    KdFunc *f = KD_NEW(cx, KdFunc);
    f->cx = cx;
    f->name = kd_intern_z(cx, name);
    f->cons.cx = cx;
    return f;
}

KdFunc *kd_func_like(const KdFunc *f) {
    KdFunc *g = kd_func_new(f->cx, f->name);
    g->part_of = f->part_of;
    return g;
}

void kd_output(KdFunc *f, const char *name, KdValue v, KdValue updates) {
    kd_push(f->cx, &f->outputs, (KdOutput){kd_intern_z(f->cx, name), v, updates});
}

KdValue kd_find_input(const KdFunc *f, const char *name) {
    for (int i = 0; i < f->inputs.n; i++)
        if (strcmp(kd_attr_str(f, kd_node(f, f->inputs.v[i]), "name"), name) == 0) return f->inputs.v[i];
    return KD_NONE;
}

/* ---- attributes --------------------------------------------------------------------------------------- */

/* All attributes of op, owned by the context: given ones copied, or the row's defaults. */
static KdAttr *own_attrs(KdContext *cx, KdOp op, const KdAttr *given) {
    int n;
    const KdAttrSpec *spec = kd_op_attrs(cx, op, &n);
    if (n == 0) return NULL;
    KdAttr *a = KD_NEW_ARRAY(cx, KdAttr, n);
    for (int i = 0; i < n; i++) {
        if (!given && spec[i].required)
            kd_raise(cx, KD_FAIL_INTERNAL, "%s needs its attribute '%s'", kd_op_info[op].name, spec[i].name);
        a[i] = given ? given[i] : spec[i].def;
        switch (spec[i].kind) {
        case KD_ATTR_STR: a[i].s = kd_intern_z(cx, a[i].s ? a[i].s : ""); break;
        case KD_ATTR_INTS: {
            int64_t *v = KD_NEW_ARRAY(cx, int64_t, a[i].ints.n);
            for (int k = 0; k < a[i].ints.n; k++) v[k] = a[i].ints.v[k];
            a[i].ints.v = v;
            break;
        }
        case KD_ATTR_FLOATS: {
            double *v = KD_NEW_ARRAY(cx, double, a[i].floats.n);
            for (int k = 0; k < a[i].floats.n; k++) v[k] = a[i].floats.v[k];
            a[i].floats.v = v;
            break;
        }
        case KD_ATTR_INT:
        case KD_ATTR_FLOAT: break;
        }
    }
    return a;
}

/* The floats of an f32 leaf are its elements: single precision. The arrays are our own (own_attrs). */
static void round_elements(KdContext *cx, KdOp op, KdAttr *a) {
    int n;
    const KdAttrSpec *spec = kd_op_attrs(cx, op, &n);
    for (int i = 0; i < n; i++) {
        if (spec[i].kind == KD_ATTR_FLOAT) a[i].f = (float)a[i].f;
        if (spec[i].kind != KD_ATTR_FLOATS) continue;
        double *v = (double *)a[i].floats.v;
        for (int k = 0; k < a[i].floats.n; k++) v[k] = (float)v[k];
    }
}

static bool attr_equal(KdAttrKind kind, const KdAttr *a, const KdAttr *b) {
    switch (kind) {
    case KD_ATTR_INT: return a->i == b->i;
    case KD_ATTR_FLOAT: return memcmp(&a->f, &b->f, sizeof a->f) == 0;
    case KD_ATTR_STR: return a->s == b->s;
    case KD_ATTR_INTS:
        return a->ints.n == b->ints.n &&
               (a->ints.n == 0 || memcmp(a->ints.v, b->ints.v, (size_t)a->ints.n * sizeof *a->ints.v) == 0);
    case KD_ATTR_FLOATS:
        return a->floats.n == b->floats.n &&
               (a->floats.n == 0 || memcmp(a->floats.v, b->floats.v, (size_t)a->floats.n * sizeof *a->floats.v) == 0);
    }
    return false;
}

static uint64_t attr_hash(KdAttrKind kind, const KdAttr *a, uint64_t h) {
    switch (kind) {
    case KD_ATTR_INT: return kd_hash_bytes(&a->i, sizeof a->i, h);
    case KD_ATTR_FLOAT: return kd_hash_bytes(&a->f, sizeof a->f, h);
    case KD_ATTR_STR: return kd_hash_bytes(&a->s, sizeof a->s, h);
    case KD_ATTR_INTS: return kd_hash_bytes(a->ints.v, (size_t)a->ints.n * sizeof *a->ints.v, h);
    case KD_ATTR_FLOATS: return kd_hash_bytes(a->floats.v, (size_t)a->floats.n * sizeof *a->floats.v, h);
    }
    return h;
}

/* ---- the door --------------------------------------------------------------------------------------------- */

static bool node_equal(const KdFunc *f, const KdNode *n, const KdNode *want) {
    if (n->op != want->op || n->type != want->type || n->n_in != want->n_in) return false;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] != want->in[i]) return false;
    int k;
    const KdAttrSpec *spec = kd_op_attrs(f->cx, (KdOp)n->op, &k);
    for (int i = 0; i < k; i++)
        if (!attr_equal(spec[i].kind, &n->attr[i], &want->attr[i])) return false;
    return true;
}

static uint64_t node_hash(const KdFunc *f, const KdNode *n) {
    uint64_t h = kd_hash_bytes(&n->type, sizeof n->type, n->op);
    h = kd_hash_bytes(n->in, n->n_in * sizeof *n->in, h);
    int k;
    const KdAttrSpec *spec = kd_op_attrs(f->cx, (KdOp)n->op, &k);
    for (int i = 0; i < k; i++) h = attr_hash(spec[i].kind, &n->attr[i], h);
    return h;
}

static KdValue append(KdBuilder *b, const KdNode *n) {
    KdFunc *f = b->f;
    if (f->n == f->cap) {
        uint32_t cap = f->cap ? f->cap * 2 : 64;
        KdNode *grown = KD_NEW_ARRAY(f->cx, KdNode, cap);
        if (f->n) memcpy(grown, f->nodes, f->n * sizeof *grown);
        f->nodes = grown;
        f->cap = cap;
    }
    f->nodes[f->n] = *n;
    if (n->op == KD_OP_INPUT) kd_push(f->cx, &f->inputs, f->n);
    return f->n++;
}

/* An operand list that is certain to be legal: number and order. */
static bool check_operands(KdBuilder *b, KdOp op, const KdValue *in, int n_in) {
    const KdOpInfo *info = &kd_op_info[op];
    bool ok = info->flags & KD_VARIADIC ? n_in >= 1 && n_in <= UINT16_MAX : n_in == info->n_in;
    if (!ok) {
        if (info->flags & KD_VARIADIC) kd_error(b->cx, b->loc, "%s: needs at least one operand", info->name);
        else kd_error(b->cx, b->loc, "%s: expects %d operands, found %d", info->name, info->n_in, n_in);
        return false;
    }
    for (int i = 0; i < n_in; i++)
        if (in[i] >= b->f->n)
            kd_raise(b->cx, KD_FAIL_INTERNAL, "%s: operand %d is no earlier value", info->name, i);
    return true;
}

/* Commuting operands in one order: constants last, else the earlier value first. */
static void order_operands(const KdFunc *f, KdOp op, KdValue *in, int n_in) {
    if (!(kd_op_info[op].flags & KD_COMMUTES) || n_in < 2) return;
    bool c0 = f->nodes[in[0]].op == KD_OP_CONST, c1 = f->nodes[in[1]].op == KD_OP_CONST;
    if (c0 != c1 ? c0 : in[0] > in[1]) {
        KdValue t = in[0];
        in[0] = in[1];
        in[1] = t;
    }
}

KdValue kd_build(KdBuilder *b, KdOp op, const KdType *type, const KdValue *in, int n_in, const KdAttr *attr) {
    const KdOpInfo *info = &kd_op_info[op];
    for (int i = 0; i < n_in; i++)
        if (in[i] == KD_NONE) return KD_NONE;
    if (!check_operands(b, op, in, n_in)) return KD_NONE;
    KdNode n = {.op = (uint16_t)op, .n_in = (uint16_t)n_in, .loc = b->loc};
    KdAttr *own_attr = own_attrs(b->cx, op, attr);
    n.attr = own_attr;
    KdValue *own = KD_NEW_ARRAY(b->cx, KdValue, n_in);
    for (int i = 0; i < n_in; i++) own[i] = in[i];
    if (!b->plain) order_operands(b->f, op, own, n_in);
    n.in = own;
    if (info->flags & KD_TYPED) {
        if (!type) kd_raise(b->cx, KD_FAIL_INTERNAL, "%s needs a type", info->name);
        if (!kd_check_typed(b, op, type, n.attr)) return KD_NONE;
        if (type->dtype == KD_F32) round_elements(b->cx, op, own_attr);
        n.type = type;
    } else {
        n.type = info->infer(b, op, own, n_in, n.attr);
        if (!n.type) return KD_NONE;
    }
    if (b->plain) return append(b, &n);
    KdValue simpler = kd_simplify(b, op, n.type, own, n_in, n.attr);
    if (simpler != KD_NONE) return simpler;
    if (info->flags & KD_UNIQUE) return append(b, &n);
    uint64_t key = node_hash(b->f, &n), found;
    for (; kd_map_get(&b->f->cons, key, &found); key++) /* a colliding hash moves on to the next key */
        if (node_equal(b->f, &b->f->nodes[found], &n)) return (KdValue)found;
    KdValue v = append(b, &n);
    kd_map_put(&b->f->cons, key, v);
    return v;
}

KdValue kd_rebuild(KdBuilder *b, const KdFunc *f_old, KdValue old, const KdValue *in) {
    const KdNode *n = kd_node(f_old, old);
    KdLoc was = b->loc;
    b->loc = n->loc;
    KdValue v = kd_build(b, (KdOp)n->op, kd_op_info[n->op].flags & KD_TYPED ? n->type : NULL, in, n->n_in, n->attr);
    b->loc = was;
    return v;
}

/* ---- shorthands ---------------------------------------------------------------------------------------------- */

KdValue kd_input(KdBuilder *b, const char *name, KdRole role, const KdType *t, const char *init) {
    KdAttr a[3] = {{.s = name}, {.s = kd_role_name[role]}, {.s = init ? init : ""}};
    return kd_build(b, KD_OP_INPUT, t, NULL, 0, a);
}

KdValue kd_const(KdBuilder *b, const KdType *t, double value) {
    KdAttr a = {.f = t->dtype == KD_F32 ? (double)(float)value : kd_fit(t->dtype, value)};
    return kd_build(b, KD_OP_CONST, t, NULL, 0, &a);
}

KdValue kd_const_like(KdBuilder *b, KdValue v, double value) {
    return v == KD_NONE ? KD_NONE : kd_const(b, kd_vtype(b->f, v), value);
}

KdValue kd_zero_like(KdBuilder *b, KdValue v) { return kd_const_like(b, v, 0); }

KdValue kd_unary(KdBuilder *b, KdOp op, KdValue x) { return kd_build(b, op, NULL, &x, 1, NULL); }

/* The numpy shape of x and y together; false after a diagnostic. */
static bool joint_shape(KdBuilder *b, KdOp op, const KdType *x, const KdType *y, int *rank, int64_t *dim) {
    *rank = x->rank > y->rank ? x->rank : y->rank;
    for (int i = 0; i < *rank; i++) {
        int ix = i - (*rank - x->rank), iy = i - (*rank - y->rank);
        int64_t dx = ix < 0 ? 1 : x->dim[ix], dy = iy < 0 ? 1 : y->dim[iy];
        if (dx != dy && dx != 1 && dy != 1) {
            kd_error(b->cx, b->loc, "%s: %s differ along dimension %d: %" PRId64 " and %" PRId64, kd_op_info[op].name,
                     kd_dim_plural(*rank, i), i, dx, dy);
            return false;
        }
        dim[i] = dx == 1 ? dy : dx;
    }
    return true;
}

KdValue kd_binary(KdBuilder *b, KdOp op, KdValue x, KdValue y) {
    if (x == KD_NONE || y == KD_NONE) return KD_NONE;
    int rank;
    int64_t dim[KD_MAX_RANK];
    if (!joint_shape(b, op, kd_vtype(b->f, x), kd_vtype(b->f, y), &rank, dim)) return KD_NONE;
    KdValue in[2] = {kd_broadcast(b, x, rank, dim), kd_broadcast(b, y, rank, dim)};
    return kd_build(b, op, NULL, in, 2, NULL);
}

KdValue kd_scale(KdBuilder *b, KdValue x, double s) {
    return kd_binary(b, KD_OP_MUL, x, kd_const_like(b, x, s));
}

KdValue kd_where(KdBuilder *b, KdValue c, KdValue x, KdValue y) {
    if (c == KD_NONE || x == KD_NONE || y == KD_NONE) return KD_NONE;
    int rank, all;
    int64_t dim[KD_MAX_RANK], joint[KD_MAX_RANK];
    if (!joint_shape(b, KD_OP_WHERE, kd_vtype(b->f, x), kd_vtype(b->f, y), &rank, dim)) return KD_NONE;
    const KdType *xy = kd_type(b->cx, kd_vtype(b->f, x)->dtype, rank, dim);
    if (!xy || !joint_shape(b, KD_OP_WHERE, kd_vtype(b->f, c), xy, &all, joint)) return KD_NONE;
    KdValue in[3] = {kd_broadcast(b, c, all, joint), kd_broadcast(b, x, all, joint), kd_broadcast(b, y, all, joint)};
    return kd_build(b, KD_OP_WHERE, NULL, in, 3, NULL);
}

KdValue kd_reshape(KdBuilder *b, KdValue x, int rank, const int64_t *dim) {
    KdAttr a = {.ints = {rank, dim}};
    return kd_build(b, KD_OP_RESHAPE, NULL, &x, 1, &a);
}

KdValue kd_broadcast(KdBuilder *b, KdValue x, int rank, const int64_t *dim) {
    if (x == KD_NONE) return KD_NONE;
    const KdType *t = kd_vtype(b->f, x);
    if (t->rank < rank && rank <= KD_MAX_RANK) {
        int64_t grown[KD_MAX_RANK];
        for (int i = 0; i < rank; i++) grown[i] = i < rank - t->rank ? 1 : t->dim[i - (rank - t->rank)];
        x = kd_reshape(b, x, rank, grown);
    }
    KdAttr a = {.ints = {rank, dim}};
    return kd_build(b, KD_OP_BROADCAST, NULL, &x, 1, &a);
}

KdValue kd_transpose(KdBuilder *b, KdValue x, const int64_t *perm) {
    if (x == KD_NONE) return KD_NONE;
    KdAttr a = {.ints = {kd_vtype(b->f, x)->rank, perm}};
    return kd_build(b, KD_OP_TRANSPOSE, NULL, &x, 1, &a);
}

KdValue kd_sum(KdBuilder *b, KdValue x, int n_axes, const int64_t *axes) {
    KdAttr a = {.ints = {n_axes, axes}};
    return kd_build(b, KD_OP_SUM, NULL, &x, 1, &a);
}

KdValue kd_sum_to(KdBuilder *b, KdValue x, const KdType *t) {
    if (x == KD_NONE) return KD_NONE;
    const KdType *from = kd_vtype(b->f, x);
    int64_t axes[KD_MAX_RANK];
    int n = 0, extra = from->rank - t->rank;
    for (int i = 0; i < from->rank; i++)
        if (i < extra || (t->dim[i - extra] == 1 && from->dim[i] != 1)) axes[n++] = i;
    if (n) x = kd_sum(b, x, n, axes);
    return kd_reshape(b, x, t->rank, t->dim);
}

KdValue kd_slice(KdBuilder *b, KdValue x, const int64_t *begin, const int64_t *end, const int64_t *step) {
    if (x == KD_NONE) return KD_NONE;
    static const int64_t ones[KD_MAX_RANK] = {1, 1, 1, 1, 1, 1};
    int r = kd_vtype(b->f, x)->rank;
    KdAttr a[3] = {{.ints = {r, begin}}, {.ints = {r, end}}, {.ints = {r, step ? step : ones}}};
    return kd_build(b, KD_OP_SLICE, NULL, &x, 1, a);
}

KdValue kd_pad(KdBuilder *b, KdValue x, const int64_t *lo, const int64_t *hi, const int64_t *interior, double value) {
    if (x == KD_NONE) return KD_NONE;
    static const int64_t zeros[KD_MAX_RANK] = {0};
    int r = kd_vtype(b->f, x)->rank;
    KdAttr a[4] = {{.ints = {r, lo}}, {.ints = {r, hi}}, {.ints = {r, interior ? interior : zeros}}, {.f = value}};
    return kd_build(b, KD_OP_PAD, NULL, &x, 1, a);
}

KdValue kd_matmul(KdBuilder *b, KdValue x, KdValue y, bool tx, bool ty) {
    KdAttr a[2] = {{.i = tx}, {.i = ty}};
    KdValue in[2] = {x, y};
    return kd_build(b, KD_OP_MATMUL, NULL, in, 2, a);
}

KdValue kd_cast(KdBuilder *b, KdValue x, KdDType d) {
    KdAttr a = {.s = kd_dtype_name(d)};
    return kd_build(b, KD_OP_CAST, NULL, &x, 1, &a);
}
