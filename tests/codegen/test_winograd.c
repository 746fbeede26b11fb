/* test_winograd.c: how far Winograd's convolutions round, over the models' shapes.
 *
 * A convolution, its input's gradient or its weights' gradient is compiled with the schedule forced, run on normally
 * distributed data, and a sample of its results is compared with the direct sum in double precision. As shares of the
 * sample's root mean square, the root mean square error and the largest error stay below what
 * passes/schedule/winograd.c states. The same results come from 1, 2, 3 and 4 threads, bit for bit.
 *   KDC_SHOW=1   prints the errors
 */
#include "tests/codegen/harness.h"

#include "passes/passes.h"

enum { SAMPLE = 400 };

typedef struct Shape {
    int64_t n, in, out, h, w, pad, taps, stride;
} Shape;

static const Shape shapes[] = {
    {1, 256, 256, 64, 64, 1, 3, 1}, /* ResNet's blocks at ngf 64, 32, 16 and at a quarter of the size */
    {1, 256, 256, 66, 66, 0, 3, 1}, /* after a reflection pad */
    {1, 128, 128, 64, 64, 1, 3, 1}, {1, 64, 64, 64, 64, 1, 3, 1}, {2, 64, 64, 18, 18, 0, 3, 1}, {1, 32, 48, 33, 47, 1, 3, 1},
    {1, 256, 512, 32, 32, 1, 4, 1}, /* a discriminator's last but one */
    {1, 64, 128, 128, 128, 1, 4, 2}, /* U-Net's and the discriminators' */
    {1, 256, 512, 32, 32, 1, 4, 2}, {2, 24, 40, 30, 34, 1, 4, 2},
    {1, 128, 256, 64, 64, 1, 3, 2}, /* ResNet's second stride */
};

typedef enum Mode { FORWARD, BACK, WEIGHTS, MODES } Mode;

typedef struct Case {
    const Shape *shape;
    Mode mode;
    int tile;
    char name[96];
} Case;

static const char *const mode_name[] = {"conv_winograd", "conv_winograd_back", "wgrad_winograd"};

/* Sums of twelve: near enough to a normal distribution. */
static float normal(uint64_t *s) {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += (double)rnd(s) / 4294967296.0;
    return (float)sum;
}

static KdValue input(KdBuilder *b, const char *name, const int64_t *dim) {
    return kd_input(b, name, KD_DATA, kd_type(b->cx, KD_F32, 4, dim), "");
}

static int64_t out_size(const Shape *s, int64_t size) { return (size + 2 * s->pad - s->taps) / s->stride + 1; }

static KdFunc *build(KdContext *cx, const Case *c) {
    const Shape *s = c->shape;
    KdFunc *f = kd_func_new(cx, "f");
    KdBuilder b = kd_builder(f);
    int64_t oh = out_size(s, s->h), ow = out_size(s, s->w), step[2] = {s->stride, s->stride};
    int64_t extra[2] = {(s->h + 2 * s->pad - s->taps) % s->stride, (s->w + 2 * s->pad - s->taps) % s->stride};
    int64_t x[4] = {s->n, s->in, s->h, s->w}, y[4] = {s->n, s->out, oh, ow}, w[4] = {s->out, s->in, s->taps, s->taps};
    int64_t taps[2] = {s->taps, s->taps}, one[2] = {1, 1}, none[2] = {0, 0}, pads[4] = {s->pad, s->pad, s->pad, s->pad};
    KdAttr a[6] = {{.ints = {2, taps}}, {.ints = {2, step}}, {.ints = {4, pads}}, {.ints = {2, one}}, {.i = 1},
                   {.ints = {2, c->mode == BACK ? extra : none}}};
    KdValue in[2];
    in[0] = input(&b, "a", c->mode == BACK ? y : x);
    in[1] = input(&b, "b", c->mode == WEIGHTS ? y : w);
    static const KdOp op[] = {KD_OP_CONV2D, KD_OP_CONV_TRANSPOSE2D, KD_OP_CONV2D_WGRAD};
    kd_output(f, "out", kd_build(&b, op[c->mode], NULL, in, 2, c->mode == WEIGHTS ? a : a + 1), KD_NONE);
    return f;
}

/* ---- the direct sum of one result --------------------------------------------------------- */

/* Element (i, c, y, x) of a [., channels, h, w] tensor; zero outside. */
static double at(const float *p, int64_t channels, int64_t h, int64_t w, int64_t i, int64_t c, int64_t y, int64_t x) {
    return y < 0 || x < 0 || y >= h || x >= w ? 0 : (double)p[((i * channels + c) * h + y) * w + x];
}

static double direct(const Case *c, const float *a, const float *b, int64_t k) {
    const Shape *s = c->shape;
    int64_t oh = out_size(s, s->h), ow = out_size(s, s->w), t = s->stride;
    double sum = 0;
    if (c->mode == WEIGHTS) {
        int64_t n_taps = s->taps, x = k % n_taps, y = k / n_taps % n_taps, i = k / (n_taps * n_taps) % s->in,
                o = k / (n_taps * n_taps) / s->in;
        for (int64_t n = 0; n < s->n; n++)
            for (int64_t py = 0; py < oh; py++)
                for (int64_t px = 0; px < ow; px++)
                    sum += at(b, s->out, oh, ow, n, o, py, px) *
                           at(a, s->in, s->h, s->w, n, i, py + y - s->pad, px + x - s->pad);
        return sum;
    }
    int64_t h = c->mode == BACK ? s->h : oh, w = c->mode == BACK ? s->w : ow;
    int64_t channels = c->mode == BACK ? s->in : s->out, others = c->mode == BACK ? s->out : s->in;
    int64_t px = k % w, py = k / w % h, ch = k / w / h % channels, n = k / w / h / channels;
    for (int64_t o = 0; o < others; o++)
        for (int64_t y = 0; y < s->taps; y++)
            for (int64_t x = 0; x < s->taps; x++) {
                int64_t v = py + s->pad - y, u = px + s->pad - x; /* transposed: where stride divides them */
                if (c->mode == BACK && !(v % t || u % t))
                    sum += at(a, s->out, oh, ow, n, o, v / t, u / t) * (double)b[((o * s->in + ch) * s->taps + y) * s->taps + x];
                if (c->mode == FORWARD)
                    sum += at(a, s->in, s->h, s->w, n, o, py * t + y - s->pad, px * t + x - s->pad) *
                           (double)b[((ch * s->in + o) * s->taps + y) * s->taps + x];
            }
    return sum;
}

/* ---- running ------------------------------------------------------------------------------ */

/* The largest error and the root mean square error of a sample, as shares of its root mean square. */
static double error_of(const Case *c, float *const *ext, int64_t count, double *rms) {
    double most = 0, squares = 0, errors = 0;
    for (int64_t i = 0; i < SAMPLE; i++) {
        int64_t k = (i * 7919 + i / 3) % count;
        double want = direct(c, ext[0], ext[1], k), d = fabs((double)ext[2][k] - want);
        most = d <= most ? most : d;
        squares += want * want, errors += d * d;
    }
    *rms = sqrt(errors / squares);
    return most / sqrt(squares / SAMPLE);
}

static void run_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    KdTarget t;
    assert_true(kd_target_host(cx, &t));
    KdPassOptions o = {.machine = t.machine, .fuse = true, .schedule = mode_name[c->mode], .winograd = c->tile};
    KdFusion *fu = kd_fuse(build(cx, c), &o);
    KdLower l = {.cx = cx, .fu = fu, .o = &o};
    assert_string_equal(kd_schedule_choose(&l, &fu->groups.v[0]), mode_name[c->mode]);
    KlModule *m = kd_lower(fu, kd_memplan(fu), &o);
    for (int k = 0; k < m->kernels.n; k++) {
        kl_vectorize(m->kernels.v[k], &t.machine);
        m->kernels.v[k]->grain = 1; /* cut as finely as it can be */
    }
    KdJitStats stats = {0};
    KdJit *jit = kd_jit_new(cx, m, &t, &(KdCodegenOptions){.opt = 2, .jobs = 1}, &stats);
    assert_non_null(jit);
    float *ext[3];
    uint64_t seed = 7;
    for (int k = 0; k < 3; k++) {
        ext[k] = kdrt_alloc((size_t)m->externs.v[k].count * 4);
        for (int64_t i = 0; i < m->externs.v[k].count && k < 2; i++) ext[k][i] = normal(&seed);
    }
    int64_t count = m->externs.v[2].count;
    void *arena = kdrt_alloc((size_t)m->arena + 64);
    float *first = kdrt_alloc((size_t)count * 4);
    KdrtContext rt = {.scratch_bytes = kd_jit_scratch(jit)};
    rt.scratch = kdrt_alloc(rt.scratch_bytes * 4 + 64);
    for (int threads = 1; threads <= 4; threads++) {
        memset(ext[2], 255, (size_t)count * 4); /* NaN: what is read before it is written shows */
        memset(arena, 255, (size_t)m->arena);
        memset(rt.scratch, 255, rt.scratch_bytes * 4);
        rt.threads = threads;
        kd_jit_run(jit, &rt, (void **)ext, arena);
        if (threads == 1) memcpy(first, ext[2], (size_t)count * 4);
        assert_memory_equal(first, ext[2], (size_t)count * 4);
    }
    double rms, error = error_of(c, ext, count, &rms);
    if (getenv("KDC_SHOW")) print_message("%s: largest %.2g, rms %.2g\n", c->name, error, rms);
    bool large = c->shape->stride == 1 && (c->tile == 4 || c->shape->taps == 4);
    if (!(error < (large ? 1e-4 : 1e-5)) || !(rms < (large ? 5e-6 : 1.5e-6)))
        fail_msg("%s: the largest error is %g of the root mean square, the root mean square error %g", c->name, error, rms);
    for (int k = 0; k < 3; k++) kdrt_free(ext[k]);
    kdrt_free(first);
    kdrt_free(arena);
    kdrt_free(rt.scratch);
    kd_jit_free(jit);
    kd_context_free(cx);
}

int main(void) {
    enum { CASES = KD_COUNT(shapes) * MODES * 2 };
    static Case cases[CASES];
    struct CMUnitTest tests[CASES];
    size_t n = 0;
    for (int i = 0; i < CASES; i++) {
        const Shape *s = &shapes[i / 2 / MODES];
        Case *c = &cases[n];
        *c = (Case){.shape = s, .mode = (Mode)(i / 2 % MODES), .tile = i % 2 ? 4 : 2};
        if (s->stride == 2 && (c->mode == WEIGHTS || c->tile == 4)) continue; /* there is one form, and none for weights */
        snprintf(c->name, sizeof c->name, "%s %dx%d, n%d %d->%d %d taps s%d at %dx%d", mode_name[c->mode], c->tile, c->tile,
                 (int)s->n, (int)s->in, (int)s->out, (int)s->taps, (int)s->stride, (int)s->h, (int)s->w);
        tests[n++] = (struct CMUnitTest){.name = c->name, .test_func = run_case, .initial_state = c};
    }
    return _cmocka_run_group_tests("winograd", tests, n, NULL, NULL);
}
