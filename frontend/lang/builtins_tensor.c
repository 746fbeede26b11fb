/* builtins_tensor.c: functions that make and reshape tensors and need more than an op's row:
 * optional dims, lists of tensors, shapes with a -1, constants that are computed here. Everything
 * that can be written in the language is in prelude.kd.
 */
#include "frontend/lang/elaborate.h"

#include <math.h>
#include <string.h>

static const KdType *type_of(KdCall *c, KdValue v) { return kd_vtype(c->E->f, v); }

static bool dtype_arg(KdCall *c, int k, KdDType *d) {
    const char *s;
    *d = KD_F32;
    if (c->v[k].kind == KD_VAL_NONE) return true;
    if (!kd_arg_string(c, k, &s)) return false;
    for (int i = 0; i < KD_DTYPE_COUNT; i++)
        if (strcmp(s, kd_dtype_name((KdDType)i)) == 0) {
            *d = (KdDType)i;
            return true;
        }
    kd_arg_error(c, k, "unknown element type \"%s\", expected \"f32\", \"i32\" or \"u8\"", s);
    return false;
}

/* ---- constants ------------------------------------------------------------------------------- */

static KdVal filled(KdCall *c, double value, int dtype_at) {
    int rank;
    int64_t dim[KD_MAX_RANK];
    KdDType d;
    if (!kd_arg_shape(c, 0, &rank, dim) || !dtype_arg(c, dtype_at, &d) ||
        !kd_elab_begin(c->E, c->at))
        return kd_poison();
    return kd_tensor(kd_const(&c->E->b, kd_type(c->E->cx, d, rank, dim), value));
}

static KdVal do_zeros(KdCall *c) { return filled(c, 0, 1); }
static KdVal do_ones(KdCall *c) { return filled(c, 1, 1); }

static KdVal do_full(KdCall *c) {
    double value;
    return kd_arg_float(c, 1, &value) ? filled(c, value, 2) : kd_poison();
}

/* iota(shape, dim): i32, each element its index along dim. */
static KdVal do_iota(KdCall *c) {
    int rank;
    int64_t dim[KD_MAX_RANK];
    KdAttr a;
    if (!kd_arg_shape(c, 0, &rank, dim) || !kd_arg_dim(c, 1, rank, 0, &a.i) ||
        !kd_elab_begin(c->E, c->at))
        return kd_poison();
    return kd_elab_end(
        c->E, c->at,
        kd_build(&c->E->b, KD_OP_IOTA, kd_type(c->E->cx, KD_I32, rank, dim), NULL, 0, &a));
}

static KdVal literal(KdCall *c, KdDType d, int rank, const int64_t *dim, const double *v) {
    const KdType *t = kd_type(c->E->cx, d, rank, dim);
    if (!t) return kd_arg_error(c, 0, "the tensor is too large");
    if (!kd_elab_begin(c->E, c->at)) return kd_poison();
    KdAttr a = {.floats = {(int)t->count, v}};
    return kd_elab_end(c->E, c->at, kd_build(&c->E->b, KD_OP_LITERAL, t, NULL, 0, &a));
}

static bool flatten(KdCall *c, KdVal v, int depth, int rank, const int64_t *dim, double *out,
                    int64_t *n, bool *real) {
    if (depth == rank) {
        if (!kd_is_number(v)) {
            kd_arg_error(c, 0,
                         "expected a list of numbers, or of lists of one length; found %s in it",
                         kd_val_describe(c->E, v));
            return false;
        }
        *real = *real || v.kind == KD_VAL_FLOAT;
        out[(*n)++] = kd_number(v);
        return true;
    }
    if (v.kind != KD_VAL_LIST || v.list->n != dim[depth]) {
        kd_arg_error(c, 0, "the lists inside have different lengths");
        return false;
    }
    for (int i = 0; i < v.list->n; i++)
        if (!flatten(c, v.list->v[i], depth + 1, rank, dim, out, n, real)) return false;
    return true;
}

/* tensor([[1, 2], [3, 4]]): i32 when all are integers, else f32. */
static KdVal do_tensor(KdCall *c) {
    int rank = 0;
    int64_t dim[KD_MAX_RANK], count = 1, n = 0;
    bool real = false;
    KdDType d;
    for (KdVal v = c->v[0]; v.kind == KD_VAL_LIST; v = v.list->v[0]) {
        if (rank == KD_MAX_RANK)
            return kd_arg_error(c, 0, "a tensor has at most %d dimensions", KD_MAX_RANK);
        dim[rank++] = v.list->n;
        if (!kd_mul_ok(count, v.list->n, &count) || count > KD_MAX_LIST)
            return kd_arg_error(c, 0, "more than %d numbers", KD_MAX_LIST);
        if (v.list->n == 0) break;
    }
    double *out = KD_NEW_ARRAY(c->E->cx, double, count);
    if (!dtype_arg(c, 1, &d) || !flatten(c, c->v[0], 0, rank, dim, out, &n, &real))
        return kd_poison();
    if (c->v[1].kind == KD_VAL_NONE && !real) d = KD_I32;
    if (rank == 0)
        return kd_elab_begin(c->E, c->at) ? kd_to_tensor(c->E, c->v[0], d, c->at) : kd_poison();
    return literal(c, d, rank, dim, out);
}

/* ---- resampling matrices --------------------------------------------------------------------- */

static double kernel_weight(const char *kind, double x) {
    x = fabs(x);
    if (strcmp(kind, "bilinear") == 0) return x < 1 ? 1 - x : 0;
    const double a = -0.5; /* bicubic, as Pillow's */
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/* One row of the matrix: the weights of the input positions in output position o; their sum is 1.
 */
static void matrix_row(double *row, int64_t n_in, int64_t n_out, int64_t o, const char *kind,
                       bool antialias) {
    double ratio = (double)n_in / (double)n_out, sum = 0;
    if (strcmp(kind, "area") == 0) { /* adaptive average: floor and ceil of the borders */
        int64_t begin = o * n_in / n_out, end = ((o + 1) * n_in + n_out - 1) / n_out;
        for (int64_t i = begin; i < end; i++)
            row[i] = 1.0 / (double)(end - begin);
        return;
    }
    double scale = antialias && ratio > 1 ? ratio : 1, center = ((double)o + 0.5) * ratio;
    if (antialias) { /* Pillow: what lies outside is left out, the rest normalised */
        double support = (strcmp(kind, "bilinear") == 0 ? 1 : 2) * scale;
        int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5);
        if (lo < 0) lo = 0;
        if (hi > n_in) hi = n_in;
        for (int64_t i = lo; i < hi; i++)
            sum += row[i] = kernel_weight(kind, ((double)i - center + 0.5) / scale);
        for (int64_t i = lo; i < hi && sum != 0; i++)
            row[i] /= sum;
        return;
    }
    double at = center - 0.5; /* PyTorch, align_corners = False: positions outside are the border */
    if (strcmp(kind, "bilinear") == 0 && at < 0) at = 0;
    int64_t base = (int64_t)floor(at), reach = strcmp(kind, "bilinear") == 0 ? 1 : 2;
    for (int64_t i = base - reach + 1; i <= base + reach; i++) {
        int64_t k = i < 0 ? 0 : i >= n_in ? n_in - 1 : i;
        double x = fabs(at - (double)i), a = -0.75; /* bicubic, as PyTorch's */
        if (reach == 1)
            row[k] += x < 1 ? 1 - x : 0;
        else
            row[k] += x < 1   ? ((a + 2) * x - (a + 3)) * x * x + 1
                      : x < 2 ? (((x - 5) * x + 8) * x - 4) * a
                              : 0;
    }
}

/* resample_matrix(n_in, n_out, kind, antialias): [n_out, n_in]; kind "bilinear", "bicubic", "area".
 */
static KdVal do_resample_matrix(KdCall *c) {
    int64_t dim[2];
    const char *kind;
    bool antialias;
    if (!kd_arg_int(c, 0, &dim[1]) || !kd_arg_int(c, 1, &dim[0]) || !kd_arg_string(c, 2, &kind) ||
        !kd_arg_bool(c, 3, false, &antialias))
        return kd_poison();
    if (strcmp(kind, "bilinear") != 0 && strcmp(kind, "bicubic") != 0 && strcmp(kind, "area") != 0)
        return kd_arg_error(
            c, 2, "unknown kind \"%s\", expected \"bilinear\", \"bicubic\" or \"area\"", kind);
    int64_t count;
    if (dim[0] < 1 || dim[1] < 1 || !kd_mul_ok(dim[0], dim[1], &count) || count > 1 << 22)
        return kd_arg_error(c, 0, "cannot resample %lld to %lld positions", (long long)dim[1],
                            (long long)dim[0]);
    c->E->steps += count / 4;
    double *v = KD_NEW_ARRAY(c->E->cx, double, count);
    for (int64_t o = 0; o < dim[0]; o++)
        matrix_row(v + o * dim[1], dim[1], dim[0], o, kind, antialias);
    return literal(c, KD_F32, 2, dim, v);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static KdVal do_shape(KdCall *c) {
    KdValue x;
    return kd_arg_tensor(c, 0, &x)
               ? kd_eval_field(c->E, c->v[0], kd_intern_z(c->E->cx, "shape"), c->at)
               : kd_poison();
}

static KdVal do_reshape(KdCall *c) {
    KdValue x;
    int rank, hole = -1;
    int64_t dim[KD_MAX_RANK], known = 1;
    if (!kd_arg_tensor(c, 0, &x) || !kd_arg_ints(c, 1, KD_MAX_RANK, &rank, dim)) return kd_poison();
    const KdType *t = type_of(c, x);
    for (int i = 0; i < rank; i++) {
        if (dim[i] == -1 && hole < 0) {
            hole = i;
            continue;
        }
        if (dim[i] < 0)
            return kd_arg_error(c, 1, "a dim cannot be %lld; one of them may be -1",
                                (long long)dim[i]);
        if (!kd_mul_ok(known, dim[i], &known))
            return kd_arg_error(c, 1, "%s has too many elements", kd_val_text(c->E, c->v[1]));
    }
    if (hole >= 0 && (known == 0 || t->count % known != 0))
        return kd_arg_error(c, 1, "%s has %lld elements, which %s cannot hold",
                            kd_shape_text(c->E->cx, t), (long long)t->count,
                            kd_val_text(c->E, c->v[1]));
    if (hole >= 0)
        dim[hole] = t->count / known;
    else if (known != t->count)
        return kd_arg_error(c, 1, "%s has %lld elements, %s would have %lld",
                            kd_shape_text(c->E->cx, t), (long long)t->count,
                            kd_val_text(c->E, c->v[1]), (long long)known);
    if (!kd_elab_begin(c->E, c->at)) return kd_poison();
    return kd_elab_end(c->E, c->at, kd_reshape(&c->E->b, x, rank, dim));
}

/* transpose(x): the last two dimensions; transpose(x, a, b): these two. */
static KdVal do_transpose(KdCall *c) {
    KdValue x;
    int64_t a, b, perm[KD_MAX_RANK];
    if (!kd_arg_tensor(c, 0, &x)) return kd_poison();
    int rank = type_of(c, x)->rank;
    if (rank < 2)
        return kd_arg_error(c, 0, "expected at least 2 dimensions, found %s",
                            kd_val_describe(c->E, c->v[0]));
    if (!kd_arg_dim(c, 1, rank, -2, &a) || !kd_arg_dim(c, 2, rank, -1, &b) ||
        !kd_elab_begin(c->E, c->at))
        return kd_poison();
    for (int i = 0; i < rank; i++)
        perm[i] = i == a ? b : i == b ? a : i;
    return kd_elab_end(c->E, c->at, kd_transpose(&c->E->b, x, perm));
}

static KdVal do_permute(KdCall *c) {
    KdValue x;
    int n, seen = 0;
    int64_t perm[KD_MAX_RANK];
    if (!kd_arg_tensor(c, 0, &x) || !kd_arg_ints(c, 1, KD_MAX_RANK, &n, perm)) return kd_poison();
    int rank = type_of(c, x)->rank;
    for (int i = 0; i < n; i++) {
        if (perm[i] < 0) perm[i] += rank;
        if (perm[i] >= 0 && perm[i] < rank) seen |= 1 << perm[i];
    }
    if (n != rank || seen != (1 << rank) - 1)
        return kd_arg_error(c, 1, "%s does not name each of the %d dimensions once",
                            kd_val_text(c->E, c->v[1]), rank);
    if (!kd_elab_begin(c->E, c->at)) return kd_poison();
    return kd_elab_end(c->E, c->at, kd_transpose(&c->E->b, x, perm));
}

static KdVal do_expand(KdCall *c) {
    KdValue x;
    int rank;
    int64_t dim[KD_MAX_RANK];
    if (!kd_arg_tensor(c, 0, &x) || !kd_arg_shape(c, 1, &rank, dim)) return kd_poison();
    const KdType *t = type_of(c, x);
    bool ok = rank >= t->rank;
    for (int i = 0; ok && i < t->rank; i++)
        ok = t->dim[i] == 1 || t->dim[i] == dim[i + rank - t->rank];
    if (!ok)
        return kd_arg_error(c, 1, "%s cannot be repeated to %s", kd_shape_text(c->E->cx, t),
                            kd_val_text(c->E, c->v[1]));
    if (!kd_elab_begin(c->E, c->at)) return kd_poison();
    return kd_elab_end(c->E, c->at, kd_broadcast(&c->E->b, x, rank, dim));
}

/* concat(a, b, ..., dim = 1), or of one list. */
static KdVal do_concat(KdCall *c) {
    KdVal list = c->n == 1 && c->v[0].list->v[0].kind == KD_VAL_LIST ? c->v[0].list->v[0] : c->v[0];
    int n = list.list->n;
    if (n == 0) return kd_arg_error(c, 0, "there is nothing to join");
    KdValue *in = KD_NEW_ARRAY(c->E->cx, KdValue, n);
    for (int i = 0; i < n; i++) {
        KdVal v = list.list->v[i];
        if (v.kind != KD_VAL_TENSOR)
            return v.kind == KD_VAL_POISON
                       ? v
                       : kd_arg_error(c, 0, "expected tensors, found %s", kd_val_describe(c->E, v));
        in[i] = v.t;
    }
    KdAttr a;
    int rank = type_of(c, in[0])->rank;
    if (rank == 0)
        return kd_arg_error(c, 0, "single numbers cannot be joined; stack makes a list of them");
    if (!kd_arg_dim(c, 1, rank, rank > 1 ? 1 : 0, &a.i) || !kd_elab_begin(c->E, c->span[0]))
        return kd_poison();
    return kd_elab_end(c->E, c->span[0], kd_build(&c->E->b, KD_OP_CONCAT, NULL, in, n, &a));
}

/* ---- matmul ---------------------------------------------------------------------------------- */

/* x itself, or what it is the transpose of (of the last two dims). */
static KdValue untransposed(KdCall *c, KdValue x, bool *t) {
    const KdNode *n = kd_node(c->E->f, x);
    if (n->op != KD_OP_TRANSPOSE) return x;
    const int64_t *perm = n->attr[0].ints.v;
    int r = n->type->rank;
    for (int i = 0; i < r - 2; i++)
        if (perm[i] != i) return x;
    if (perm[r - 1] != r - 2) return x;
    *t = !*t;
    return n->in[0];
}

static KdValue batched(KdCall *c, KdValue x, const KdType *like) { /* to rank 3 */
    const KdType *t = type_of(c, x);
    int64_t dim[KD_MAX_RANK], flat[3] = {1, t->dim[t->rank - 2], t->dim[t->rank - 1]};
    for (int i = 0; i < like->rank - 2; i++)
        flat[0] *= dim[i] = like->dim[i];
    dim[like->rank - 2] = flat[1];
    dim[like->rank - 1] = flat[2];
    return kd_reshape(&c->E->b, kd_broadcast(&c->E->b, x, like->rank, dim), 3, flat);
}

static KdVal do_matmul(KdCall *c) {
    KdValue x, y;
    bool tx = false, ty = false;
    if (!kd_arg_tensor(c, 0, &x) || !kd_arg_tensor(c, 1, &y)) return kd_poison();
    const KdType *a = type_of(c, x), *b = type_of(c, y);
    KdBuilder *B = &c->E->b;
    if (a->rank < 2 || b->rank < 2)
        return kd_elab_error(c->E, c->at,
                             "matmul: expected matrices or batches of them, found %s and %s",
                             kd_shape_text(c->E->cx, a), kd_shape_text(c->E->cx, b));
    if (a->dim[a->rank - 1] != b->dim[b->rank - 2])
        return kd_elab_error(c->E, c->at,
                             "matmul: the columns of %s and the rows of %s differ: %lld and %lld",
                             kd_shape_text(c->E->cx, a), kd_shape_text(c->E->cx, b),
                             (long long)a->dim[a->rank - 1], (long long)b->dim[b->rank - 2]);
    if (!kd_elab_begin(c->E, c->at)) return kd_poison();
    if (a->rank == 2 && b->rank == 2) {
        x = untransposed(c, x, &tx);
        y = untransposed(c, y, &ty);
        return kd_elab_end(c->E, c->at, kd_matmul(B, x, y, tx, ty));
    }
    const KdType *like = a->rank >= b->rank ? a : b, *less = like == a ? b : a;
    for (int i = 0; i < less->rank - 2; i++)
        if (less->dim[i] != like->dim[i + like->rank - less->rank] || less->rank != like->rank)
            return kd_elab_error(c->E, c->at, "matmul: batch sizes differ: %s and %s",
                                 kd_shape_text(c->E->cx, a), kd_shape_text(c->E->cx, b));
    int64_t dim[KD_MAX_RANK];
    for (int i = 0; i < like->rank; i++)
        dim[i] = like->dim[i];
    dim[like->rank - 2] = a->dim[a->rank - 2];
    dim[like->rank - 1] = b->dim[b->rank - 1];
    if (a->rank == 3) x = untransposed(c, x, &tx);
    if (b->rank == 3) y = untransposed(c, y, &ty);
    if (a->rank != 3) x = batched(c, x, like);
    if (b->rank != 3) y = batched(c, y, like);
    KdValue z = kd_matmul(B, x, y, tx, ty);
    return kd_elab_end(c->E, c->at, like->rank == 3 ? z : kd_reshape(B, z, like->rank, dim));
}

/* ---- reductions ------------------------------------------------------------------------------ */

typedef enum Fold { FOLD_SUM, FOLD_MEAN, FOLD_MAX, FOLD_MIN } Fold;

static KdVal reduce(KdCall *c, KdValue x, int dim_at, Fold fold) {
    KdElab *E = c->E;
    KdBuilder *b = &E->b;
    int n = 0, kept = 0;
    int64_t axes[KD_MAX_RANK], dim[KD_MAX_RANK], count = 1;
    bool keepdim, gone[KD_MAX_RANK] = {0};
    const KdType *t = type_of(c, x);
    if (!kd_arg_bool(c, dim_at + 1, false, &keepdim)) return kd_poison();
    if (c->v[dim_at].kind == KD_VAL_NONE) {
        for (int i = 0; i < t->rank; i++)
            axes[n++] = i;
    } else if (!kd_arg_ints(c, dim_at, KD_MAX_RANK, &n, axes)) {
        return kd_poison();
    }
    for (int i = 0; i < n; i++) {
        int64_t given = axes[i];
        if (axes[i] < 0) axes[i] += t->rank;
        if (axes[i] < 0 || axes[i] >= t->rank)
            return kd_arg_error(c, dim_at, "there is no dimension %lld in %s", (long long)given,
                                kd_shape_text(E->cx, t));
        if (gone[axes[i]])
            return kd_arg_error(c, dim_at, "dimension %lld is named twice", (long long)given);
        gone[axes[i]] = true;
        count *= t->dim[axes[i]];
    }
    if (!kd_elab_begin(E, c->at)) return kd_poison();
    if (t->dtype == KD_I32 && fold == FOLD_MEAN) x = kd_cast(b, x, KD_F32);
    if (fold == FOLD_MIN) x = kd_unary(b, KD_OP_NEG, x);
    KdAttr a = {.ints = {n, axes}};
    KdValue v =
        kd_build(b, fold == FOLD_MAX || fold == FOLD_MIN ? KD_OP_MAX : KD_OP_SUM, NULL, &x, 1, &a);
    if (fold == FOLD_MIN && v != KD_NONE) v = kd_unary(b, KD_OP_NEG, v);
    if (fold == FOLD_MEAN && v != KD_NONE) v = kd_scale(b, v, count ? 1.0 / (double)count : 0);
    for (int i = 0; i < t->rank; i++)
        if (!gone[i]) dim[kept++] = t->dim[i];
    return kd_elab_end(E, c->at, keepdim ? v : kd_reshape(b, v, kept, dim));
}

static KdVal fold_two(KdCall *c, Fold fold, KdVal a, KdVal b) {
    if (fold == FOLD_SUM || fold == FOLD_MEAN)
        return kd_eval_binary(c->E, KD_TOK_PLUS, a, b, c->at);
    if (kd_is_number(a) && kd_is_number(b))
        return (kd_number(a) < kd_number(b)) == (fold == FOLD_MAX) ? b : a;
    return kd_elementwise2(c->E, fold == FOLD_MAX ? KD_OP_MAXIMUM : KD_OP_MINIMUM, a, b, c->at,
                           c->name);
}

static KdVal fold_list(KdCall *c, const KdListVal *l, Fold fold) {
    if (l->n == 0) return fold == FOLD_SUM ? kd_int(0) : kd_arg_error(c, 0, "of an empty list");
    KdVal v = l->v[0];
    if (v.kind != KD_VAL_TENSOR && !kd_is_number(v))
        return kd_arg_error(c, 0, "expected tensors or numbers, found %s",
                            kd_val_describe(c->E, v));
    for (int i = 1; i < l->n; i++)
        v = fold_two(c, fold, v, l->v[i]);
    return fold == FOLD_MEAN ? kd_eval_binary(c->E, KD_TOK_SLASH, v, kd_int(l->n), c->at) : v;
}

static KdVal reduce_one(KdCall *c, Fold fold) {
    KdValue x;
    if (c->v[0].kind == KD_VAL_LIST) return fold_list(c, c->v[0].list, fold);
    return kd_arg_tensor(c, 0, &x) ? reduce(c, x, 1, fold) : kd_poison();
}

static KdVal do_sum(KdCall *c) { return reduce_one(c, FOLD_SUM); }
static KdVal do_mean(KdCall *c) { return reduce_one(c, FOLD_MEAN); }

/* max(x, dim, keepdim) of a tensor, max(xs) of a list, max(a, b, ...) of two or more. */
static KdVal extreme(KdCall *c, Fold fold) {
    KdVal only = c->v[0].list->v[0];
    if (c->n > 1) {
        if (c->v[1].kind != KD_VAL_NONE)
            return kd_elab_error(c->E, c->at, "%s: 'dim' goes with one tensor, not with %d values",
                                 c->name, c->n);
        return fold_list(c, c->v[0].list, fold);
    }
    if (only.kind == KD_VAL_LIST) return fold_list(c, only.list, fold);
    if (only.kind != KD_VAL_TENSOR)
        return kd_arg_error(c, 0, "expected a tensor, a list or several values, found %s",
                            kd_val_describe(c->E, only));
    return reduce(c, only.t, 1, fold);
}

static KdVal do_max(KdCall *c) { return extreme(c, FOLD_MAX); }
static KdVal do_min(KdCall *c) { return extreme(c, FOLD_MIN); }

static KdVal do_argmax(KdCall *c) {
    KdValue x;
    KdAttr a;
    bool keepdim;
    if (!kd_arg_tensor(c, 0, &x)) return kd_poison();
    const KdType *t = type_of(c, x);
    if (!kd_arg_dim(c, 1, t->rank, -1, &a.i) || !kd_arg_bool(c, 2, false, &keepdim) ||
        !kd_elab_begin(c->E, c->at))
        return kd_poison();
    KdValue v = kd_build(&c->E->b, KD_OP_ARGMAX, NULL, &x, 1, &a);
    int64_t dim[KD_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < t->rank; i++)
        if (i != a.i) dim[rank++] = t->dim[i];
    return kd_elab_end(c->E, c->at, keepdim ? v : kd_reshape(&c->E->b, v, rank, dim));
}

/* narrow(x, dim, start, length), PyTorch's */
static KdVal do_narrow_tensor(KdCall *c) {
    KdValue x;
    int64_t dim, start, length, begin[KD_MAX_RANK] = {0}, end[KD_MAX_RANK];
    if (!kd_arg_tensor(c, 0, &x)) return kd_poison();
    const KdType *t = kd_vtype(c->E->f, x);
    if (!kd_arg_dim(c, 1, t->rank, 0, &dim) || !kd_arg_int(c, 2, &start) || !kd_arg_int(c, 3, &length)) return kd_poison();
    if (start < 0 || length < 1 || start > t->dim[dim] - length)
        return kd_arg_error(c, 2, "%lld + %lld is outside of dimension %lld of %s", (long long)start, (long long)length,
                            (long long)dim, kd_shape_text(c->E->cx, t));
    memcpy(end, t->dim, (size_t)t->rank * sizeof *end);
    begin[dim] = start;
    end[dim] = start + length;
    if (!kd_elab_begin(c->E, c->at)) return kd_poison();
    return kd_elab_end(c->E, c->at, kd_slice(&c->E->b, x, begin, end, NULL));
}

/* The same word for the part of a network: narrow(S, name = value, ...). */
static KdVal do_narrow(KdCall *c) {
    static const KdBuiltin of_tensor = {"narrow", "x, dim, start, length", do_narrow_tensor, -1, false};
    bool tensor = c->args->n > 0 && c->args->v[0].value.kind == KD_VAL_TENSOR;
    return tensor ? kd_call_builtin(c->E, &of_tensor, c->args, c->expr) : kd_narrow(c->E, c->args);
}

/* random(shape): uniform in [0, 1), a stream of its own for each call. */
static KdVal do_random(KdCall *c) {
    int rank;
    int64_t dim[KD_MAX_RANK];
    KdValue in[2];
    if (!kd_arg_shape(c, 0, &rank, dim) || !kd_elab_begin(c->E, c->at)) return kd_poison();
    kd_random_inputs(c->E, &in[0], &in[1]);
    KdAttr a[2] = {{.i = c->E->streams++}, {.ints = {rank, dim}}};
    return kd_elab_end(c->E, c->at, kd_build(&c->E->b, KD_OP_RANDOM, NULL, in, 2, a));
}

const KdBuiltin kd_builtins_tensor[] = {
    {"shape", "x", do_shape, -1},
    {"zeros", "shape, dtype?", do_zeros, -1},
    {"ones", "shape, dtype?", do_ones, -1},
    {"full", "shape, value, dtype?", do_full, -1},
    {"iota", "shape, dim?", do_iota, -1},
    {"tensor", "values, dtype?", do_tensor, -1},
    {"resample_matrix", "n_in, n_out, kind, antialias?", do_resample_matrix, -1},
    {"reshape", "x, shape", do_reshape, -1},
    {"transpose", "x, dim0?, dim1?", do_transpose, -1},
    {"permute", "x, dims", do_permute, -1},
    {"expand", "x, shape", do_expand, -1},
    {"concat", "*xs, dim?", do_concat, -1},
    {"matmul", "x, y", do_matmul, -1},
    {"sum", "x, dim?, keepdim?", do_sum, -1},
    {"mean", "x, dim?, keepdim?", do_mean, -1},
    {"max", "*x, dim?, keepdim?", do_max, -1},
    {"min", "*x, dim?, keepdim?", do_min, -1},
    {"argmax", "x, dim?, keepdim?", do_argmax, -1},
    {"narrow", "x, dim, start, length", do_narrow, -1, true},
    {"random", "shape", do_random, -1},
    {NULL, NULL, NULL, -1},
};
