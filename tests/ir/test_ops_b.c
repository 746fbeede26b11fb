/* test_ops_b.c: reductions, pools, convolutions and matmul.
 *
 * Every row runs through the harness (op_harness.h). Convolutions have expectations of their own here, computed another
 * way than eval_conv2d and its kin do: conv2d on an explicitly padded image, conv_transpose2d by putting zeros
 * between the elements and correlating with the flipped kernel, conv2d_wgrad by the formula in ops.def; and for each row
 * the identity <conv2d(x, w), y> = <x, conv_transpose2d(y, w)> = <w, conv2d_wgrad(x, y)>.
 */
#include "tests/ir/op_harness.h"

static const double nought[6] = {0}; /* an expected result */

/* ---- convolutions -------------------------------------------------------------------------------- */

typedef struct ConvRow {
    int64_t n, ci, h, w, co, kh, kw, stride[2], pad[4], dilation[2], groups;
} ConvRow;

static const ConvRow conv_rows[] = {
    /* n ci  h  w co kh kw  stride  pad           dilation groups */
    {1, 1, 5, 5, 1, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
    {2, 3, 6, 5, 4, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1},
    {1, 2, 8, 9, 3, 4, 4, {2, 2}, {1, 1, 1, 1}, {1, 1}, 1},
    {1, 2, 7, 8, 2, 3, 3, {2, 2}, {0, 1, 1, 0}, {1, 1}, 1}, /* a rest along the height */
    {2, 2, 5, 9, 3, 1, 7, {1, 1}, {0, 3, 0, 3}, {1, 1}, 1},
    {1, 2, 9, 5, 2, 7, 1, {1, 1}, {3, 0, 3, 0}, {1, 1}, 1},
    {1, 2, 9, 10, 2, 3, 3, {1, 1}, {2, 2, 2, 2}, {2, 2}, 1},
    {1, 1, 12, 11, 2, 3, 3, {1, 1}, {4, 4, 4, 4}, {4, 4}, 1},
    {1, 4, 5, 6, 4, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, 4}, /* depthwise */
    {2, 4, 6, 5, 8, 3, 2, {2, 1}, {1, 0, 0, 1}, {1, 1}, 4}, /* depthwise, two maps each */
    {1, 6, 5, 5, 4, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, 2},
    {3, 5, 1, 1, 4, 1, 1, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1}, /* 1x1 everything */
    {1, 2, 1, 1, 3, 3, 3, {2, 2}, {1, 1, 1, 1}, {1, 1}, 1},
    {1, 2, 7, 6, 2, 1, 1, {3, 2}, {0, 0, 0, 0}, {1, 1}, 1}, /* stride beyond the kernel: rests 0 and 1 */
    {1, 2, 8, 9, 2, 3, 2, {2, 3}, {3, 0, 1, 4}, {2, 3}, 1}, /* everything asymmetric */
    {1, 1, 4, 4, 1, 2, 2, {1, 1}, {5, 0, 0, 6}, {1, 1}, 1}, /* pads beyond the kernel */
    {0, 2, 5, 5, 3, 3, 3, {1, 1}, {1, 1, 1, 1}, {1, 1}, 1}, /* an empty batch */
};

static int64_t extent(const ConvRow *r, int k) {
    return ((k ? r->kw : r->kh) - 1) * r->dilation[k] + 1;
}

static int64_t padded(const ConvRow *r, int k) {
    return (k ? r->w : r->h) + r->pad[k] + r->pad[k + 2];
}

static int64_t out_size(const ConvRow *r, int k) {
    return (padded(r, k) - extent(r, k)) / r->stride[k] + 1;
}

static int64_t rest(const ConvRow *r, int k) {
    return (padded(r, k) - extent(r, k)) % r->stride[k];
}

static const char *conv_attrs(KdContext *cx, const ConvRow *r) {
    return kd_format(cx, "stride=%d,%d pad=%d,%d,%d,%d dilation=%d,%d groups=%d", (int)r->stride[0],
                     (int)r->stride[1], (int)r->pad[0], (int)r->pad[1], (int)r->pad[2],
                     (int)r->pad[3], (int)r->dilation[0], (int)r->dilation[1], (int)r->groups);
}

static KhCase conv_case(KdContext *cx, const ConvRow *r, KdOp op) {
    const char *x = kd_format(cx, "%dx%dx%dx%d", (int)r->n, (int)r->ci, (int)r->h, (int)r->w);
    const char *w = kd_format(cx, "%dx%dx%dx%d", (int)r->co, (int)(r->ci / r->groups), (int)r->kh,
                              (int)r->kw);
    const char *y = kd_format(cx, "%dx%dx%dx%d", (int)r->n, (int)r->co, (int)out_size(r, 0),
                              (int)out_size(r, 1));
    KhCase c = {.op = op, .attrs = conv_attrs(cx, r)};
    if (op == KD_OP_CONV2D) {
        c.operands = kd_format(cx, "%s %s", x, w);
    } else if (op == KD_OP_CONV_TRANSPOSE2D) {
        c.operands = kd_format(cx, "%s %s", y, w);
        c.attrs = kd_format(cx, "%s output_padding=%d,%d", c.attrs, (int)rest(r, 0), (int)rest(r, 1));
    } else {
        c.operands = kd_format(cx, "%s %s", x, y);
        c.attrs = kd_format(cx, "%s kernel=%d,%d", c.attrs, (int)r->kh, (int)r->kw);
    }
    return c;
}

/* result[n, o, p, q] = sum over i, a, b of image[n, i, p s + a d, q s + b d] * w(o, i, a, b), image already padded */
static void correlate(const ConvRow *r, const double *image, int64_t ih, int64_t iw, int64_t stride_h,
                      int64_t stride_w, int64_t channels, int64_t maps, int64_t oh, int64_t ow,
                      double (*weight)(const ConvRow *, const double *, int64_t, int64_t, int64_t,
                                       int64_t),
                      const double *w, double *out) {
    int64_t per_c = channels / r->groups, per_m = maps / r->groups;
    for (int64_t n = 0; n < r->n; n++)
        for (int64_t m = 0; m < maps; m++)
            for (int64_t p = 0; p < oh; p++)
                for (int64_t q = 0; q < ow; q++, out++) {
                    *out = 0;
                    for (int64_t i = 0; i < per_c; i++)
                        for (int64_t a = 0; a < r->kh; a++)
                            for (int64_t b = 0; b < r->kw; b++) {
                                int64_t c = m / per_m * per_c + i;
                                int64_t y = p * stride_h + a * r->dilation[0];
                                int64_t x = q * stride_w + b * r->dilation[1];
                                *out += image[((n * channels + c) * ih + y) * iw + x] *
                                        weight(r, w, m, c, a, b);
                            }
                }
}

static double straight(const ConvRow *r, const double *w, int64_t o, int64_t c, int64_t a, int64_t b) {
    int64_t per = r->ci / r->groups;
    return w[((o * per + c % per) * r->kh + a) * r->kw + b];
}

static double flipped(const ConvRow *r, const double *w, int64_t m, int64_t o, int64_t a, int64_t b) {
    int64_t per = r->ci / r->groups;
    return w[((o * per + m % per) * r->kh + r->kh - 1 - a) * r->kw + r->kw - 1 - b];
}

static double *zeros(int64_t n) {
    double *p = calloc((size_t)n + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

static void expect_conv(const ConvRow *r, const double *x, const double *w, double *want) {
    int64_t ih = padded(r, 0), iw = padded(r, 1);
    double *image = zeros(r->n * r->ci * ih * iw);
    for (int64_t i = 0; i < r->n * r->ci; i++)
        for (int64_t y = 0; y < r->h; y++)
            for (int64_t v = 0; v < r->w; v++)
                image[(i * ih + y + r->pad[0]) * iw + v + r->pad[1]] = x[(i * r->h + y) * r->w + v];
    correlate(r, image, ih, iw, r->stride[0], r->stride[1], r->ci, r->co, out_size(r, 0),
              out_size(r, 1), straight, w, want);
    free(image);
}

static void expect_transposed(const ConvRow *r, const double *y, const double *w, double *want) {
    int64_t oh = out_size(r, 0), ow = out_size(r, 1), eh = extent(r, 0), ew = extent(r, 1);
    /* Zeros between the elements, the extent around; the padding is then cut off the full result. */
    int64_t fh = padded(r, 0), fw = padded(r, 1), ih = fh + eh - 1, iw = fw + ew - 1;
    double *image = zeros(r->n * r->co * ih * iw), *full = zeros(r->n * r->ci * fh * fw);
    for (int64_t i = 0; i < r->n * r->co; i++)
        for (int64_t p = 0; p < oh; p++)
            for (int64_t q = 0; q < ow; q++)
                image[(i * ih + p * r->stride[0] + eh - 1) * iw + q * r->stride[1] + ew - 1] =
                    y[(i * oh + p) * ow + q];
    correlate(r, image, ih, iw, 1, 1, r->co, r->ci, fh, fw, flipped, w, full);
    for (int64_t i = 0; i < r->n * r->ci; i++)
        for (int64_t h = 0; h < r->h; h++)
            for (int64_t v = 0; v < r->w; v++)
                *want++ = full[(i * fh + h + r->pad[0]) * fw + v + r->pad[1]];
    free(image);
    free(full);
}

static void expect_wgrad(const ConvRow *r, const double *x, const double *y, double *want) {
    int64_t per_i = r->ci / r->groups, per_o = r->co / r->groups;
    int64_t oh = out_size(r, 0), ow = out_size(r, 1);
    for (int64_t o = 0; o < r->co; o++)
        for (int64_t i = 0; i < per_i; i++)
            for (int64_t a = 0; a < r->kh; a++)
                for (int64_t b = 0; b < r->kw; b++, want++) {
                    *want = 0;
                    for (int64_t n = 0; n < r->n; n++)
                        for (int64_t p = 0; p < oh; p++)
                            for (int64_t q = 0; q < ow; q++) {
                                int64_t c = o / per_o * per_i + i;
                                int64_t h = p * r->stride[0] - r->pad[0] + a * r->dilation[0];
                                int64_t v = q * r->stride[1] - r->pad[1] + b * r->dilation[1];
                                if (h >= 0 && h < r->h && v >= 0 && v < r->w)
                                    *want += y[((n * r->co + o) * oh + p) * ow + q] *
                                             x[((n * r->ci + c) * r->h + h) * r->w + v];
                            }
                }
}

static double dot(const double *a, const double *b, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* The three directions against their expectations, and the adjoint identities. */
static void run_conv_row(void **state) {
    const ConvRow *r = *state;
    static const KdOp ops[3] = {KD_OP_CONV2D, KD_OP_CONV_TRANSPOSE2D, KD_OP_CONV2D_WGRAD};
    KdContext *cx = kd_context_new();
    assert_non_null(cx);
    KhCase c[3];
    KhRun run[3];
    double *x = NULL, *w = NULL, *y = NULL; /* those of the conv2d run, and wgrad's second operand */
    for (int k = 0; k < 3; k++) {
        c[k] = conv_case(cx, r, ops[k]);
        kh_start(&run[k], &c[k]);
        assert_int_not_equal(run[k].node, KD_NONE);
    }
    x = run[0].data[0], w = run[0].data[1], y = run[2].data[1];
    run[1].data[0] = y, run[1].data[1] = w, run[2].data[0] = x;
    for (int k = 0; k < 3; k++) {
        double *out[1] = {run[k].result};
        kd_eval(run[k].f, (const double *const *)run[k].data, out);
        double *want = zeros(run[k].type->count);
        if (k == 0) expect_conv(r, x, w, want);
        if (k == 1) expect_transposed(r, y, w, want);
        if (k == 2) expect_wgrad(r, x, y, want);
        kh_compare(kd_op_info[ops[k]].name, run[k].result, want, run[k].type->count, 1e-12, 1e-12);
        free(want);
    }
    assert_int_equal(run[1].type->count, run[0].operand[0].type->count);
    double a = dot(run[0].result, y, run[0].type->count);
    double b = dot(x, run[1].result, run[1].type->count);
    double d = dot(w, run[2].result, run[2].type->count);
    assert_true(kh_close(b, a, 1e-12, 1e-12));
    assert_true(kh_close(d, a, 1e-12, 1e-12));
    for (int k = 0; k < 3; k++) kd_context_free(run[k].cx);
    kd_context_free(cx);
}

static void add_convs(KhSuite *s) {
    for (int i = 0; i < KD_COUNT(conv_rows); i++) {
        kh_add(s, conv_case(s->cx, &conv_rows[i], KD_OP_CONV2D));
        kh_add(s, conv_case(s->cx, &conv_rows[i], KD_OP_CONV_TRANSPOSE2D));
        kh_add(s, conv_case(s->cx, &conv_rows[i], KD_OP_CONV2D_WGRAD));
    }
    /* PyTorch's output_padding up to max(stride, dilation) - 1, and beyond what a gradient gives back. */
    kh_add(s, (KhCase){KD_OP_CONV_TRANSPOSE2D, "1x2x3x4 2x2x3x3",
                       "stride=2,2 pad=1,1,1,1 output_padding=1,1"});
    kh_add(s, (KhCase){KD_OP_CONV_TRANSPOSE2D, "1x2x3x4 2x1x2x3",
                       "stride=2,1 pad=2,0,1,3 dilation=4,3 output_padding=3,2"});
    kh_add(s, (KhCase){KD_OP_CONV_TRANSPOSE2D, "1x2x3x3 2x2x2x2", "output_padding=4,2"});
    kh_add(s, (KhCase){KD_OP_CONV_TRANSPOSE2D, "1x2x6x6 2x1x2x2", "pad=3,2,1,2"}); /* pad beyond the kernel */
    kh_add(s, (KhCase){KD_OP_CONV2D_WGRAD, "1x2x8x9 1x2x2x3", "kernel=3,3 stride=2,2 pad=1,1,1,1"});
}

static void add_conv_errors(KhSuite *s) {
    static const struct {
        KdOp op;
        const char *operands, *attrs, *error;
    } rows[] = {
        {KD_OP_CONV2D, "1x3x8x8 2x4x3x3", "", "conv2d: the input has 3 channels, the weight expects 4"},
        {KD_OP_CONV2D, "1x6x8x8 2x4x3x3", "groups=2", "the input has 6 channels in 2 groups, the weight expects 4 per group"},
        {KD_OP_CONV2D, "3x8x8 2x3x3x3", "", "the input [3, 8, 8] needs 4 dimensions (batch, channels, height, width)"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3", "", "the weight [2, 3, 3] needs 4 dimensions"},
        {KD_OP_CONV2D, "i3:1x3x8x8 2x3x3x3", "", "f32"},
        {KD_OP_CONV2D, "1x3x2x8 2x3x3x3", "", "the height 2 with padding 0 and 0 is smaller than the kernel's 3"},
        {KD_OP_CONV2D, "1x3x8x3 2x3x3x3", "dilation=1,2", "the width 3 with padding 0 and 0 is smaller than the kernel's 5"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "groups=2", "3 input channels are not divisible by 2 groups"},
        {KD_OP_CONV2D, "1x4x8x8 3x2x3x3", "groups=2", "3 output channels are not divisible by 2 groups"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "groups=0", "groups must be at least 1, got 0"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "stride=0,1", "stride must be at least 1, got 0"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "stride=2", "stride needs 2 numbers, got 1"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "pad=1,1", "pad needs 4 numbers, got 2"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "pad=0,0,-1,0", "pad must be at least 0, got -1"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "dilation=1,0", "dilation must be at least 1, got 0"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "dilation=2147483647,1", "a kernel of height 3 with dilation 2147483647 is too large"},
        {KD_OP_CONV2D, "1x3x0x8 2x3x3x3", "pad=3,3,3,3", "the input [1, 3, 0, 8] has height 0"},
        {KD_OP_CONV2D, "1x3x8x8 2x3x3x3", "pad=2147483647,2147483647,1,1", "more than 2^31 - 1 elements"},
        {KD_OP_CONV_TRANSPOSE2D, "1x3x8x8 4x2x3x3", "", "conv_transpose2d: the input has 3 channels, the weight expects 4"},
        {KD_OP_CONV_TRANSPOSE2D, "1x4x1x8 4x2x3x3", "pad=2,0,1,0", "padding 2 and 1 leaves nothing of the height 3"},
        {KD_OP_CONV_TRANSPOSE2D, "1x4x8x8 4x2x3x3", "output_padding=-1,0", "output_padding must be at least 0, got -1"},
        {KD_OP_CONV_TRANSPOSE2D, "1x4x8x8 4x2x3x3", "groups=3", "4 input channels are not divisible by 3 groups"},
        {KD_OP_CONV_TRANSPOSE2D, "1x1x8x8 1x2x3x3", "stride=2147483647,2147483647", "more than 2^31 - 1 elements"},
        {KD_OP_CONV2D_WGRAD, "1x3x8x8 2x4x6x6", "kernel=3,3", "batch sizes differ: [1, 3, 8, 8] and [2, 4, 6, 6]"},
        {KD_OP_CONV2D_WGRAD, "1x3x8x8 1x4x7x6", "kernel=3,3", "the height of the gradient is 7, the convolution's is 6"},
        {KD_OP_CONV2D_WGRAD, "1x3x8x8 1x4x6x6", "kernel=3", "kernel needs 2 numbers, got 1"},
        {KD_OP_CONV2D_WGRAD, "1x3x8x8 1x4x6x6", "kernel=9,3", "the height 8 with padding 0 and 0 is smaller than the kernel's 9"},
    };
    for (int i = 0; i < KD_COUNT(rows); i++)
        kh_add(s, (KhCase){.op = rows[i].op, .operands = rows[i].operands, .attrs = rows[i].attrs,
                           .error = rows[i].error});
}

/* ---- matmul ----------------------------------------------------------------------------------------- */

static void add_matmul(KhSuite *s) {
    static const double want[4][4] = {{19, 22, 43, 50}, {17, 23, 39, 53}, {26, 30, 38, 44}, {23, 31, 34, 46}};
    static const double values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const char *const operands[4][4] = {
        {"3x4 4x5", "2x3x4 2x4x5", "1x1 1x1", "1x7 7x2"},
        {"3x4 5x4", "2x3x4 2x5x4", "1x6 1x6", "3x1x7 3x2x7"},
        {"4x3 4x5", "2x4x3 2x4x5", "6x1 6x1", "3x7x1 3x7x2"},
        {"4x3 5x4", "2x4x3 2x5x4", "6x2 1x6", "0x4x3 0x5x4"},
    };
    for (int k = 0; k < 4; k++) {
        const char *attrs = kd_format(s->cx, "ta=%d tb=%d", k >> 1, k & 1);
        kh_add(s, (KhCase){KD_OP_MATMUL, "2x2 2x2", attrs, .values = values, .want = want[k]});
        for (int i = 0; i < 4; i++) kh_add(s, (KhCase){KD_OP_MATMUL, operands[k][i], attrs});
    }
    kh_add(s, (KhCase){KD_OP_MATMUL, "3x0 0x2", .want = nought});
    static const char *const errors[][3] = {
        {"3x4 5x4", "", "the first operand [3, 4] has 4 columns, the second [5, 4] has 5 rows"},
        {"3x4 4x5", "ta=1", "the first operand [3, 4] transposed has 3 columns"},
        {"2x3x4 3x4x5", "", "batch sizes differ: [2, 3, 4] and [3, 4, 5]"},
        {"3x4 1x4x5", "", "expected two matrices or two batches of them, got [3, 4] and [1, 4, 5]"},
        {"4 4", "", "expected two matrices"},
        {"3x4 4x5", "tb=2", "tb must be 0 or 1, got 2"},
        {"i5:3x4 4x5", "", "f32"},
    };
    for (int i = 0; i < KD_COUNT(errors); i++)
        kh_add(s, (KhCase){.op = KD_OP_MATMUL, .operands = errors[i][0], .attrs = errors[i][1],
                           .error = errors[i][2]});
}

/* ---- reductions ------------------------------------------------------------------------------------- */

/* By the types alone: the dims that became 1 were reduced. */
static void reduce_reference(const KdType *t, const KdType *r, const double *x, double *want, bool max) {
    for (int64_t o = 0; o < r->count; o++) {
        double acc = max ? -INFINITY : 0;
        int64_t at[KD_MAX_RANK + 1], left = o;
        for (int d = r->rank - 1; d >= 0; d--) {
            at[d] = left % r->dim[d];
            left /= r->dim[d];
        }
        for (int64_t i = 0; i < t->count; i++) {
            bool mine = true;
            int64_t rest_of = i;
            for (int d = t->rank - 1; d >= 0; d--) {
                mine = mine && (r->dim[d] == 1 || rest_of % t->dim[d] == at[d]);
                rest_of /= t->dim[d];
            }
            if (mine) acc = max ? fmax(acc, x[i]) : acc + x[i];
        }
        want[o] = acc;
    }
}

static void sum_reference(const KdType *const *t, int n, const double *const *in, const KdType *r,
                          double *want) {
    (void)n;
    reduce_reference(t[0], r, in[0], want, false);
}

static void max_reference(const KdType *const *t, int n, const double *const *in, const KdType *r,
                          double *want) {
    (void)n;
    reduce_reference(t[0], r, in[0], want, true);
}

static void add_reductions(KhSuite *s) {
    static const char *const rows[][2] = {
        {"5", "axes=0"},         {"3x4", "axes=1"},       {"3x4", "axes=0"},     {"3x4", "axes=0,1"},
        {"2x3x4", "axes=2,0"},   {"2x3x4x5", "axes=2,3"}, {"2x3x4x5", "axes=1"}, {"2x3x5x4", "axes=0,2,3"},
        {"1x1x1", "axes=0,1,2"}, {"2x3x1x2x2", "axes=3"}, {"7x1", "axes=1"},     {"0x3", "axes=1"},
        {"2x2x2x1x2x3", "axes=5,1,3"}, {"3x4", "axes="}, {"s", "axes="}, {"j:4x5", "axes=0"}, {"j:3x2x2", "axes=0,2"},
    };
    for (int i = 0; i < KD_COUNT(rows); i++) {
        kh_add(s, (KhCase){KD_OP_SUM, rows[i][0], rows[i][1], .reference = sum_reference});
        kh_add(s, (KhCase){KD_OP_MAX, rows[i][0], rows[i][1], .reference = max_reference});
    }
    static const double nan_row[6] = {1, NAN, 3, -INFINITY, -INFINITY, -INFINITY};
    static const double nan_max[2] = {NAN, -INFINITY}, big[3] = {2147483647, 1, 5};
    static const double wrapped[1] = {-2147483643};
    kh_add(s, (KhCase){KD_OP_MAX, "2x3", "axes=1", .values = nan_row, .want = nan_max, .flags = KH_NO_GRAD});
    kh_add(s, (KhCase){KD_OP_SUM, "j:3", "axes=0", .values = big, .want = wrapped});
    kh_add(s, (KhCase){KD_OP_SUM, "0x3", "axes=0", .want = nought});
    static const char *const errors[][3] = {
        {"3x4", "axes=2", "there is no dimension 2"}, {"3x4", "axes=-1", "dimension -1"},
        {"3x4", "axes=1,1", "dimension 1 is named twice"}, {"u:3x4", "axes=1", "u8"},
    };
    for (int i = 0; i < KD_COUNT(errors); i++)
        for (int k = 0; k < 2; k++)
            kh_add(s, (KhCase){.op = k ? KD_OP_MAX : KD_OP_SUM, .operands = errors[i][0],
                               .attrs = errors[i][1], .error = errors[i][2]});
    kh_add(s, (KhCase){.op = KD_OP_MAX, .operands = "3x0", .attrs = "axes=1",
                       .error = "max: dimension 1 of [3, 0] is empty"});
}

static void add_selections(KhSuite *s) {
    static const char *const rows[][2] = {
        {"5", "axis=0"},     {"3x4", "axis=1"},     {"3x4", "axis=0"},     {"2x3x4", "axis=1"},
        {"c:2x9", "axis=1"}, {"c:9x2", "axis=0"},   {"c:2x7x3", "axis=1"}, {"1x1x1", "axis=2"},
        {"j:4x5", "axis=0"}, {"i3:2x8", "axis=1"},  {"m:2x3x8", "axis=2"}, {"2x2x2x2x3", "axis=4"},
    };
    for (int i = 0; i < KD_COUNT(rows); i++) {
        kh_add(s, (KhCase){KD_OP_ARGMAX, rows[i][0], rows[i][1]});
        kh_add(s, (KhCase){KD_OP_RANK, rows[i][0], rows[i][1]});
    }
    static const double values[2][6] = {{3, 1, 4, 1, 5, 4}, {1, NAN, 3, NAN, -INFINITY, 3}};
    static const double place[2][6] = {{3, 4, 1, 5, 0, 2}, {4, 0, 2, 1, 5, 3}};
    static const double best[2][1] = {{4}, {1}}, tie[6] = {2, 2, 1, 2, 0, 2}, low[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (int k = 0; k < 2; k++) {
        kh_add(s, (KhCase){KD_OP_RANK, "6", "axis=0", .values = values[k], .want = place[k]});
        kh_add(s, (KhCase){KD_OP_ARGMAX, "6", "axis=0", .values = values[k], .want = best[k]});
    }
    kh_add(s, (KhCase){KD_OP_ARGMAX, "6", "axis=0", .values = tie, .want = nought});
    kh_add(s, (KhCase){KD_OP_ARGMAX, "3", "axis=0", .values = low, .want = nought});
    kh_add(s, (KhCase){.op = KD_OP_RANK, .operands = "0x3", .attrs = "axis=0"});
    static const char *const errors[][2] = {{"axis=2", "there is no dimension 2"}, {"axis=-1", "dimension -1"}};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++)
            kh_add(s, (KhCase){.op = k ? KD_OP_RANK : KD_OP_ARGMAX, .operands = "3x4",
                               .attrs = errors[i][0], .error = errors[i][1]});
    kh_add(s, (KhCase){.op = KD_OP_ARGMAX, .operands = "3x0", .attrs = "axis=1", .error = "is empty"});
    kh_add(s, (KhCase){.op = KD_OP_RANK, .operands = "u:3x2", .attrs = "axis=1", .error = "u8"});
}

/* amax shares its gradient among equal maxima. */
static void test_max_ties(void **state) {
    (void)state;
    static const double values[6] = {3, 1, 3, 2, 2, 2}, want[6] = {0.5, 0, 0.5, 1, 1, 1};
    KhCase c = {KD_OP_MAX, "2x3", "axes=1", .values = values};
    KhRun r;
    kh_start(&r, &c);
    KdBuilder b;
    KdValue gin[KH_MAX_IN];
    KdFunc *f = kh_first(&r, &b, gin, true);
    double w[2] = {1, 3}, got[6], *out[1] = {got};
    const double *in[2] = {values, w};
    kd_eval(f, in, out);
    kh_compare("gradient among ties", got, want, 6, 1e-12, 0);
    kd_context_free(r.cx);
}

/* ---- pools ------------------------------------------------------------------------------------------- */

static void add_pools(KhSuite *s) {
    static const struct {
        const char *lead, *size, *window; /* window: kernel, stride, pad */
        int h, w;
        const char *out;
    } rows[] = {
        {"1x1", "4x4", "kernel=2,2 stride=2,2 pad=0,0,0,0", 4, 4, "2x2"},
        {"2x3", "5x6", "kernel=2,2 stride=2,2 pad=0,0,0,0", 5, 6, "2x3"}, /* floor mode drops a row */
        {"1x2", "7x8", "kernel=3,3 stride=2,2 pad=1,1,1,1", 7, 8, "4x4"},
        {"1x2", "5x4", "kernel=3,3 stride=1,1 pad=1,1,1,1", 5, 4, "5x4"},
        {"2x1", "6x7", "kernel=1,3 stride=1,2 pad=0,1,0,0", 6, 7, "6x3"},
        {"1x1", "9x5", "kernel=2,1 stride=3,2 pad=0,0,0,0", 9, 5, "3x3"}, /* stride beyond the kernel */
        {"3x2", "1x1", "kernel=1,1 stride=1,1 pad=0,0,0,0", 1, 1, "1x1"},
        {"1x3", "6x6", "kernel=6,6 stride=1,1 pad=0,0,0,0", 6, 6, "1x1"}, /* global */
        {"2", "5x7", "kernel=3,2 stride=2,3 pad=2,0,1,1", 5, 7, "3x3"},
        {"1x1x2", "4x6", "kernel=4,3 stride=3,1 pad=1,2,3,0", 4, 6, "2x6"},
        {"1x1", "1x1", "kernel=3,3 stride=2,2 pad=1,1,1,1", 1, 1, "1x1"},
    };
    for (int i = 0; i < KD_COUNT(rows); i++) {
        const char *in = kd_format(s->cx, "%sx%s", rows[i].lead, rows[i].size);
        const char *ties = kd_format(s->cx, "c:%s", in);
        kh_add(s, (KhCase){KD_OP_POOL_SUM, in, rows[i].window});
        kh_add(s, (KhCase){KD_OP_MAX_POOL_INDEX, in, rows[i].window});
        kh_add(s, (KhCase){KD_OP_MAX_POOL_INDEX, ties, rows[i].window});
        kh_add(s, (KhCase){KD_OP_POOL_SUM_GRAD, kd_format(s->cx, "%sx%s", rows[i].lead, rows[i].out),
                           kd_format(s->cx, "%s size=%d,%d", rows[i].window, rows[i].h, rows[i].w)});
    }
    static const double x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const double sums[4] = {12, 16, 24, 28}, padded_sums[4] = {1, 5, 11, 28};
    static const double spread[9] = {1, 3, 2, 4, 10, 6, 3, 7, 4}, g[4] = {1, 2, 3, 4};
    static const double odd[9] = {5, 5, NAN, 5, 5, 1, -INFINITY, 2, 2}, winner[4] = {0, 2, 3, 4};
    kh_add(s, (KhCase){KD_OP_POOL_SUM, "3x3", "kernel=2,2 stride=1,1", .values = x, .want = sums});
    kh_add(s, (KhCase){KD_OP_POOL_SUM, "3x3", "kernel=2,2 stride=2,2 pad=1,1,0,0", .values = x, .want = padded_sums});
    kh_add(s, (KhCase){KD_OP_POOL_SUM_GRAD, "2x2", "kernel=2,2 stride=1,1 pad=0,0,0,0 size=3,3", .values = g, .want = spread});
    kh_add(s, (KhCase){KD_OP_MAX_POOL_INDEX, "3x3", "kernel=2,2 stride=1,1", .values = odd, .want = winner});
    static const struct {
        KdOp op;
        const char *operands, *attrs, *error;
    } errors[] = {
        {KD_OP_POOL_SUM, "4x4", "kernel=2 stride=1,1", "kernel needs 2 numbers, got 1"},
        {KD_OP_POOL_SUM, "4x4", "kernel=2,2 stride=1,0", "stride must be at least 1, got 0"},
        {KD_OP_POOL_SUM, "4", "kernel=2,2 stride=1,1", "expected at least height and width, got [4]"},
        {KD_OP_POOL_SUM, "i3:4x4", "kernel=2,2 stride=1,1", "f32"},
        {KD_OP_POOL_SUM, "1x4x2", "kernel=2,3 stride=1,1", "the width 2 with padding 0 and 0 is smaller than the kernel's 3"},
        {KD_OP_MAX_POOL_INDEX, "4x4", "kernel=2,2 stride=1,1 pad=2,0,0,0", "padding 2 and 0 along the height must be smaller than the kernel's 2"},
        {KD_OP_MAX_POOL_INDEX, "0x4", "kernel=3,2 stride=1,1 pad=2,0,2,0", "the height of [0, 4] is 0"},
        {KD_OP_POOL_SUM_GRAD, "2x2", "kernel=2,2 stride=1,1 pad=0,0,0,0 size=4,3", "the height of the gradient is 2, pooling 4 gives 3"},
        {KD_OP_POOL_SUM_GRAD, "2x2", "kernel=2,2 stride=1,1 pad=0,0,0,0 size=4", "size needs 2 numbers, got 1"},
    };
    for (int i = 0; i < KD_COUNT(errors); i++)
        kh_add(s, (KhCase){.op = errors[i].op, .operands = errors[i].operands, .attrs = errors[i].attrs,
                           .error = errors[i].error});
}

static void test_coverage(void **state) {
    kh_coverage(*state, 'b');
}

static void test_garbage(void **state) {
    (void)state;
    kh_garbage('b', 400);
}

int main(void) {
    KhSuite s = kh_suite();
    add_convs(&s);
    add_conv_errors(&s);
    add_matmul(&s);
    add_reductions(&s);
    add_selections(&s);
    add_pools(&s);
    struct CMUnitTest extra[KD_COUNT(conv_rows) + 3];
    int n = 0;
    for (; n < KD_COUNT(conv_rows); n++)
        extra[n] = (struct CMUnitTest){kd_format(s.cx, "three directions, row %d", n), run_conv_row,
                                       NULL, NULL, (void *)(uintptr_t)&conv_rows[n]};
    extra[n++] = (struct CMUnitTest){"max shares among ties", test_max_ties, NULL, NULL, NULL};
    extra[n++] = (struct CMUnitTest){"coverage", test_coverage, NULL, NULL, &s};
    extra[n++] = (struct CMUnitTest){"garbage", test_garbage, NULL, NULL, NULL};
    return kh_main("ops b", &s, extra, n);
}
