/* conv.c: conv2d, conv_transpose2d and conv2d_wgrad: three directions of one trilinear form.
 *
 * For an image x [N, Ci, H, W], a map y [N, Co, P, Q] and a kernel w [Co, Ci/groups, kh, kw] let
 *     T(x, w, y) = sum x[n, i, p*s - lo + a*d, q*s - lo + b*d] * w[o, i, a, b] * y[n, o, p, q]
 * (i counted inside o's group; positions outside the image count as zeros). conv2d is dT/dy, conv_transpose2d dT/dx,
 * conv2d_wgrad dT/dw. So each one's gradients are the other two, and only sizes need care:
 *   - conv2d ignores the last `rest` rows when the stride does not divide; conv_transpose2d gets them back as
 *     output_padding = rest;
 *   - PyTorch allows output_padding >= stride where the dilation is larger; then the convolution back gives more rows
 *     than there were, which are cut (conv2d) or left out of the sum (conv2d_wgrad: y may be smaller than
 *     what the convolution would give). For the same reason infer takes any output_padding >= 0 and any pad.
 * Image, map and kernel of a node are found by roles(); rules and reference are written once for T.
 */
#include "ir/ops/ops.h"
#include "ir/ops/window.h"

#include <inttypes.h>

/* Everything about a node, whichever direction it is. */
typedef struct Conv {
    KdWindow w;
    int64_t groups, n, ci, co; /* batch; channels of the image and the map */
    int64_t image[2], map[2];  /* height, width */
} Conv;

static void roles(const KdFunc *f, const KdNode *n, Conv *c) {
    const KdType *a = kd_vtype(f, n->in[0]), *b = kd_vtype(f, n->in[1]), *r = n->type;
    const KdType *x, *y, *w;
    const KdAttr *attr = n->attr;
    if (n->op == KD_OP_CONV2D) {
        x = a, w = b, y = r;
    } else if (n->op == KD_OP_CONV_TRANSPOSE2D) {
        y = a, w = b, x = r;
    } else {
        x = a, y = b, w = r;
        attr++; /* the kernel size comes first */
    }
    KdInts kernel = {2, &w->dim[2]};
    c->w = kd_window(kernel, attr[0].ints, attr[1].ints, &attr[2].ints);
    c->groups = attr[3].i;
    c->n = x->dim[0];
    c->ci = x->dim[1];
    c->co = y->dim[1];
    for (int k = 0; k < 2; k++) {
        c->image[k] = x->dim[2 + k];
        c->map[k] = y->dim[2 + k];
    }
}

/* ---- shapes ------------------------------------------------------------------------------------- */

typedef enum Part { IMAGE, KERNEL, KERNEL_TRANSPOSED } Part;

static bool check_rank4(KdBuilder *b, KdOp op, const char *what, const KdType *t, Part kind) {
    static const char *const words[3][4] = {
        {"batch", "channels", "height", "width"},
        {"output channels", "input channels", "kernel height", "kernel width"},
        {"input channels", "output channels", "kernel height", "kernel width"}};
    const char *const *part = words[kind];
    const char *name = kd_op_info[op].name;
    if (!kd_check_f32(b, op, t)) {
        return false;
    }
    if (t->rank != 4) {
        kd_error(b->cx, b->loc, "%s: the %s %s needs 4 dimensions (%s, %s, %s, %s)", name, what,
                 kd_shape_text(b->cx, t), part[0], part[1], part[2], part[3]);
        return false;
    }
    for (int d = kind == IMAGE ? 1 : 0; d < 4; d++) {
        if (t->dim[d] == 0) {
            kd_error(b->cx, b->loc, "%s: the %s %s has %s 0", name, what, kd_shape_text(b->cx, t),
                     part[d]);
            return false;
        }
    }
    return true;
}

static bool check_attrs(KdBuilder *b, KdOp op, const KdAttr *attr, int64_t groups) {
    if (groups < 1) {
        kd_error(b->cx, b->loc, "%s: groups must be at least 1, got %" PRId64, kd_op_info[op].name,
                 groups);
        return false;
    }
    return kd_window_ints(b, op, "stride", attr[0].ints, 2, 1) &&
           kd_window_ints(b, op, "pad", attr[1].ints, 4, 0) &&
           kd_window_ints(b, op, "dilation", attr[2].ints, 2, 1);
}

static bool check_groups(KdBuilder *b, KdOp op, const char *what, int64_t channels, int64_t groups) {
    if (channels % groups) {
        kd_error(b->cx, b->loc, "%s: %" PRId64 " %s are not divisible by %" PRId64 " groups",
                 kd_op_info[op].name, channels, what, groups);
        return false;
    }
    return true;
}

const KdType *infer_conv2d(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    const KdType *x = kd_vtype(b->f, in[0]), *w = kd_vtype(b->f, in[1]);
    int64_t groups = attr[3].i;
    if (!check_rank4(b, op, "input", x, IMAGE) || !check_rank4(b, op, "weight", w, KERNEL) ||
        !check_attrs(b, op, attr, groups) ||
        !check_groups(b, op, "input channels", x->dim[1], groups) ||
        !check_groups(b, op, "output channels", w->dim[0], groups)) {
        return NULL;
    }
    if (x->dim[1] / groups != w->dim[1]) {
        if (groups == 1) {
            kd_error(b->cx, b->loc,
                     "%s: the input has %" PRId64 " channels, the weight expects %" PRId64,
                     kd_op_info[op].name, x->dim[1], w->dim[1]);
        } else {
            kd_error(b->cx, b->loc,
                     "%s: the input has %" PRId64 " channels in %" PRId64
                     " groups, the weight expects %" PRId64 " per group",
                     kd_op_info[op].name, x->dim[1], groups, w->dim[1]);
        }
        return NULL;
    }
    KdInts kernel = {2, &w->dim[2]};
    KdWindow win = kd_window(kernel, attr[0].ints, attr[1].ints, &attr[2].ints);
    int64_t dim[4] = {x->dim[0], w->dim[0]};
    if (!kd_window_out(b, op, &win, 0, x->dim[2], &dim[2]) ||
        !kd_window_out(b, op, &win, 1, x->dim[3], &dim[3])) {
        return NULL;
    }
    return kd_result_type(b, op, KD_F32, 4, dim);
}

/* (size - 1) * stride - lo - hi + extent + output_padding, at least 1 */
static bool transposed_size(KdBuilder *b, KdOp op, const KdWindow *w, int k, int64_t size,
                            int64_t extra, int64_t *out) {
    int64_t extent, r;
    if (!kd_window_extent(b, op, w, k, &extent)) {
        return false;
    }
    if (!kd_mul_ok(size - 1, w->stride[k], &r) || !kd_add_ok(r, extent, &r) ||
        !kd_add_ok(r, extra, &r) || !kd_add_ok(r, -w->lo[k], &r) || !kd_add_ok(r, -w->hi[k], &r)) {
        kd_error(b->cx, b->loc, "%s: the result's %s is too large", kd_op_info[op].name,
                 kd_axis_name[k]);
        return false;
    }
    if (r < 1) {
        kd_error(b->cx, b->loc,
                 "%s: padding %" PRId64 " and %" PRId64 " leaves nothing of the %s %" PRId64,
                 kd_op_info[op].name, w->lo[k], w->hi[k], kd_axis_name[k],
                 r + w->lo[k] + w->hi[k]);
        return false;
    }
    *out = r;
    return true;
}

const KdType *infer_conv_transpose2d(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                     const KdAttr *attr) {
    (void)n_in;
    const KdType *x = kd_vtype(b->f, in[0]), *w = kd_vtype(b->f, in[1]);
    int64_t groups = attr[3].i;
    if (!check_rank4(b, op, "input", x, IMAGE) || !check_rank4(b, op, "weight", w, KERNEL_TRANSPOSED) ||
        !check_attrs(b, op, attr, groups) ||
        !kd_window_ints(b, op, "output_padding", attr[4].ints, 2, 0) ||
        !check_groups(b, op, "input channels", x->dim[1], groups)) {
        return NULL;
    }
    if (x->dim[1] != w->dim[0]) {
        kd_error(b->cx, b->loc,
                 "%s: the input has %" PRId64 " channels, the weight expects %" PRId64,
                 kd_op_info[op].name, x->dim[1], w->dim[0]);
        return NULL;
    }
    KdInts kernel = {2, &w->dim[2]};
    KdWindow win = kd_window(kernel, attr[0].ints, attr[1].ints, &attr[2].ints);
    int64_t dim[4] = {x->dim[0]};
    if (!kd_mul_ok(w->dim[1], groups, &dim[1])) {
        kd_error(b->cx, b->loc, "%s: %" PRId64 " groups are too many", kd_op_info[op].name, groups);
        return NULL;
    }
    for (int k = 0; k < 2; k++) {
        if (!transposed_size(b, op, &win, k, x->dim[2 + k], attr[4].ints.v[k], &dim[2 + k])) {
            return NULL;
        }
    }
    return kd_result_type(b, op, KD_F32, 4, dim);
}

const KdType *infer_conv2d_wgrad(KdBuilder *b, KdOp op, const KdValue *in, int n_in,
                                 const KdAttr *attr) {
    (void)n_in;
    const char *name = kd_op_info[op].name;
    const KdType *x = kd_vtype(b->f, in[0]), *y = kd_vtype(b->f, in[1]);
    int64_t groups = attr[4].i;
    if (!check_rank4(b, op, "input", x, IMAGE) || !check_rank4(b, op, "gradient", y, IMAGE) ||
        !kd_window_ints(b, op, "kernel", attr[0].ints, 2, 1) ||
        !check_attrs(b, op, attr + 1, groups) ||
        !check_groups(b, op, "input channels", x->dim[1], groups) ||
        !check_groups(b, op, "output channels", y->dim[1], groups)) {
        return NULL;
    }
    if (x->dim[0] != y->dim[0]) {
        kd_error(b->cx, b->loc, "%s: batch sizes differ: %s and %s", name,
                 kd_shape_text(b->cx, x), kd_shape_text(b->cx, y));
        return NULL;
    }
    KdWindow win = kd_window(attr[0].ints, attr[1].ints, attr[2].ints, &attr[3].ints);
    for (int k = 0; k < 2; k++) {
        int64_t out;
        if (!kd_window_out(b, op, &win, k, x->dim[2 + k], &out)) {
            return NULL;
        }
        if (y->dim[2 + k] > out) {
            kd_error(b->cx, b->loc,
                     "%s: the %s of the gradient is %" PRId64 ", the convolution's is %" PRId64,
                     name, kd_axis_name[k], y->dim[2 + k], out);
            return NULL;
        }
    }
    int64_t dim[4] = {y->dim[1], x->dim[1] / groups, attr[0].ints.v[0], attr[0].ints.v[1]};
    return kd_result_type(b, op, KD_F32, 4, dim);
}

/* ---- gradients ---------------------------------------------------------------------------------- */

/* stride, pad, dilation, groups of node n */
static const KdAttr *common(const KdNode *n) {
    return n->op == KD_OP_CONV2D_WGRAD ? n->attr + 1 : n->attr;
}

/* dT/dx for image sizes as in c */
static KdValue to_image(KdBuilder *b, const Conv *c, const KdAttr *a, KdValue y, KdValue w) {
    int64_t rest[2];
    for (int k = 0; k < 2; k++) {
        int64_t reach = (c->map[k] - 1) * c->w.stride[k] + (c->w.kernel[k] - 1) * c->w.dilation[k] + 1;
        rest[k] = c->image[k] + c->w.lo[k] + c->w.hi[k] - reach;
    }
    KdAttr attr[5] = {a[0], a[1], a[2], a[3], {.ints = kd_ints_new(b->cx, 2, rest)}};
    KdValue in[2] = {y, w};
    return kd_build(b, KD_OP_CONV_TRANSPOSE2D, NULL, in, 2, attr);
}

/* dT/dy for map sizes as in c */
static KdValue to_map(KdBuilder *b, const Conv *c, const KdAttr *a, KdValue x, KdValue w) {
    KdAttr attr[4] = {a[0], a[1], a[2], a[3]};
    KdValue in[2] = {x, w};
    KdValue y = kd_build(b, KD_OP_CONV2D, NULL, in, 2, attr);
    if (y == KD_NONE) {
        return y;
    }
    const KdType *t = kd_vtype(b->f, y);
    if (t->dim[2] == c->map[0] && t->dim[3] == c->map[1]) {
        return y;
    }
    int64_t begin[4] = {0, 0, 0, 0}, step[4] = {1, 1, 1, 1};
    int64_t end[4] = {t->dim[0], t->dim[1], c->map[0], c->map[1]};
    return kd_slice(b, y, begin, end, step);
}

/* dT/dw */
static KdValue to_kernel(KdBuilder *b, const Conv *c, const KdAttr *a, KdValue x, KdValue y) {
    KdAttr attr[5] = {{.ints = kd_ints_new(b->cx, 2, c->w.kernel)}, a[0], a[1], a[2], a[3]};
    KdValue in[2] = {x, y};
    return kd_build(b, KD_OP_CONV2D_WGRAD, NULL, in, 2, attr);
}

void grad_conv2d(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    const KdNode node = *kd_node(b->f, n); /* b->f grows below */
    Conv c;
    roles(b->f, &node, &c);
    gin[0] = to_image(b, &c, common(&node), gy, node.in[1]);
    gin[1] = to_kernel(b, &c, common(&node), node.in[0], gy);
}

void grad_conv_transpose2d(KdBuilder *b, KdValue n, KdValue gx, KdValue *gin) {
    const KdNode node = *kd_node(b->f, n);
    Conv c;
    roles(b->f, &node, &c);
    gin[0] = to_map(b, &c, common(&node), gx, node.in[1]);
    gin[1] = to_kernel(b, &c, common(&node), gx, node.in[0]);
}

void grad_conv2d_wgrad(KdBuilder *b, KdValue n, KdValue gw, KdValue *gin) {
    const KdNode node = *kd_node(b->f, n);
    Conv c;
    roles(b->f, &node, &c);
    gin[0] = to_image(b, &c, common(&node), node.in[1], gw);
    gin[1] = to_map(b, &c, common(&node), node.in[0], gw);
}

/* ---- element rules ------------------------------------------------------------------------------ */

/* c of per: the group that channel c belongs to, and the number inside it */
static void split(KlBuilder *b, const Conv *c, KlValue v, int64_t per, KlValue *group, KlValue *in) {
    *group = c->groups == 1 ? kl_i64(b, 0) : kl_op2(b, KL_OP_DIV, v, kl_i64(b, per));
    *in = c->groups == 1 ? v : kl_op2(b, KL_OP_REM, v, kl_i64(b, per));
}

static KlValue join(KlBuilder *b, const Conv *c, KlValue group, int64_t per, KlValue in) {
    return c->groups == 1 ? in
                          : kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, group, kl_i64(b, per)), in);
}

static KlValue accumulate(KlBuilder *b, KlValue acc, KlValue x, KlValue y) {
    return kl_op2(b, KL_OP_ADD, acc, kl_op2(b, KL_OP_MUL, x, y));
}

uint32_t elem_conv2d(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    Conv c;
    roles(e->f, kd_node(e->f, n), &c);
    int64_t per_i = c.ci / c.groups, per_o = c.co / c.groups;
    int64_t len[3] = {per_i, c.w.kernel[0], c.w.kernel[1]};
    KlValue zero = kl_f32(b, 0), i[3], acc[1], group, o, cond = KL_NONE;
    KdNest nest;
    split(b, &c, idx[1], per_o, &group, &o);
    kd_nest_begin(b, &nest, 3, len, i, 1, &zero, acc);
    KlValue xi[4] = {idx[0], join(b, &c, group, per_i, i[0])}, wi[4] = {idx[1], i[0], i[1], i[2]};
    for (int k = 0; k < 2; k++) {
        xi[2 + k] = kd_window_source(b, &c.w, k, idx[2 + k], i[1 + k]);
        cond = kd_guard_range(b, cond, xi[2 + k], c.image[k]);
    }
    KlValue x = kd_guarded(e, n, 0, xi, cond, zero);
    KlValue next[1] = {accumulate(b, acc[0], x, e->operand(e, n, 1, wi))};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

uint32_t elem_conv_transpose2d(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    Conv c;
    roles(e->f, kd_node(e->f, n), &c);
    int64_t per_i = c.ci / c.groups, per_o = c.co / c.groups;
    int64_t len[3] = {per_o, c.w.kernel[0], c.w.kernel[1]};
    KlValue zero = kl_f32(b, 0), i[3], acc[1], group, in, cond = KL_NONE;
    KdNest nest;
    split(b, &c, idx[1], per_i, &group, &in);
    kd_nest_begin(b, &nest, 3, len, i, 1, &zero, acc);
    KlValue o = join(b, &c, group, per_o, i[0]);
    KlValue yi[4] = {idx[0], o}, wi[4] = {o, in, i[1], i[2]};
    for (int k = 0; k < 2; k++) {
        yi[2 + k] = kd_window_target(b, &c.w, k, idx[2 + k], i[1 + k], c.map[k], &cond);
    }
    KlValue y = kd_guarded(e, n, 0, yi, cond, zero);
    KlValue next[1] = {accumulate(b, acc[0], y, e->operand(e, n, 1, wi))};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

uint32_t elem_conv2d_wgrad(KdElem *e, KdValue n, const uint32_t *idx) {
    KlBuilder *b = e->b;
    Conv c;
    roles(e->f, kd_node(e->f, n), &c);
    int64_t per_i = c.ci / c.groups, per_o = c.co / c.groups;
    int64_t len[3] = {c.n, c.map[0], c.map[1]};
    KlValue zero = kl_f32(b, 0), i[3], acc[1], group, o, cond = KL_NONE;
    KdNest nest;
    split(b, &c, idx[0], per_o, &group, &o);
    kd_nest_begin(b, &nest, 3, len, i, 1, &zero, acc);
    KlValue xi[4] = {i[0], join(b, &c, group, per_i, idx[1])}, yi[4] = {i[0], idx[0], i[1], i[2]};
    for (int k = 0; k < 2; k++) {
        xi[2 + k] = kd_window_source(b, &c.w, k, i[1 + k], idx[2 + k]);
        cond = kd_guard_range(b, cond, xi[2 + k], c.image[k]);
    }
    KlValue x = kd_guarded(e, n, 0, xi, cond, zero);
    KlValue next[1] = {accumulate(b, acc[0], x, e->operand(e, n, 1, yi))};
    kd_nest_end(b, &nest, next, acc);
    return acc[0];
}

/* ---- the reference: every term of T, added where the direction says -------------------------------- */

/* Adds to out over all (image, map, kernel) triples that meet; out_role 0: image, 1: map, 2: kernel. */
static void all_terms(const Conv *c, const double *x, const double *y, const double *w,
                      int out_role, double *out) {
    int64_t per_i = c->ci / c->groups, per_o = c->co / c->groups;
    const KdWindow *k = &c->w;
    int64_t map = c->map[0] * c->map[1], taps = k->kernel[0] * k->kernel[1];
    for (int64_t j = 0; j < c->n * c->co * map; j++) {
        int64_t n = j / (c->co * map), o = j / map % c->co;
        int64_t p = j / c->map[1] % c->map[0], q = j % c->map[1];
        for (int64_t t = 0; t < per_i * taps; t++) {
            int64_t i = t / taps, a = t / k->kernel[1] % k->kernel[0], b = t % k->kernel[1];
            int64_t h = p * k->stride[0] - k->lo[0] + a * k->dilation[0];
            int64_t v = q * k->stride[1] - k->lo[1] + b * k->dilation[1];
            if (h < 0 || h >= c->image[0] || v < 0 || v >= c->image[1]) {
                continue;
            }
            int64_t xi = ((n * c->ci + o / per_o * per_i + i) * c->image[0] + h) * c->image[1] + v;
            int64_t wi = o * per_i * taps + t;
            if (out_role == 0) {
                out[xi] += y[j] * w[wi];
            } else if (out_role == 1) {
                out[j] += x[xi] * w[wi];
            } else {
                out[wi] += x[xi] * y[j];
            }
        }
    }
}

static void clear(const KdNode *n, double *out) {
    for (int64_t i = 0; i < n->type->count; i++) {
        out[i] = 0;
    }
}

void eval_conv2d(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    Conv c;
    roles(f, n, &c);
    clear(n, out);
    all_terms(&c, in[0], NULL, in[1], 1, out);
}

void eval_conv_transpose2d(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    Conv c;
    roles(f, n, &c);
    clear(n, out);
    all_terms(&c, NULL, in[0], in[1], 0, out);
}

void eval_conv2d_wgrad(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    Conv c;
    roles(f, n, &c);
    clear(n, out);
    all_terms(&c, in[0], in[1], NULL, 2, out);
}
