/* bench_conv.c: how fast the schedules are, as a share of the machine's own multiply-add peak.
 *
 *   bench_conv [-t THREADS]... [-s SCHEDULE] [-c CPU] [-r ROUNDS] [-w WINOGRAD] [-a] [-b] [-v] [PATTERN]
 *
 * For each layer of the table whose line contains PATTERN, the forward pass, the gradient of its
 * input and the gradient of its weights are lowered as single anchors, compiled, and run. A line
 * gives GFLOP/s and the share of the peak that was measured right before and after, for each number
 * of threads (1 and 2 unless -t): the median of several rounds, because machines have moods (-b: the
 * best round and the best peak, where other work disturbs). -c
 * compiles for another CPU (x86-64-v3: AVX2). -a prints loops and assembly instead; -v compares the
 * results, with 1, 2 and 4 threads, with those of the generic path, bit for bit (the data are small
 * integers; Winograd's differ in the last bits: then the largest difference as a share of the root
 * mean square is shown). -w: the largest tile Winograd may take: 4, 2 or 0. Not part of the test suite.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "passes/passes.h"
#include "runtime/host/peak.h"
#include "runtime/kdrt/kdrt.h"

enum { MAX_ROUNDS = 99 };

typedef struct Layer {
    const char *name;
    bool transposed;
    int64_t n, groups, in, out, h, w, k, stride, pad,
        extra;  /* channels of all groups; h, w: of its input */
    bool fused; /* relu(x * a + b), reflected instead of padded with zeros, goes in; relu(y + c)
                   comes out */
} Layer;

/* clang-format off */
static const Layer layers[] = {
    /*                                T  n   g   in   out   h    w   k  s  p  e */
    {"resnet64 res 3x3",              0, 1, 1, 256, 256, 64, 64, 3, 1, 1, 0},
    {"resnet64 res 3x3 padded before",0, 1, 1, 256, 256, 66, 66, 3, 1, 0, 0},
    {"resnet64 res 3x3 fused",        0, 1, 1, 256, 256, 64, 64, 3, 1, 1, 0, true},
    {"resnet16 res 3x3 fused",        0, 1, 1, 64, 64, 64, 64, 3, 1, 1, 0, true},
    {"resnet16 last 7x7 fused",       0, 1, 1, 16, 3, 256, 256, 7, 1, 3, 0, true},
    {"resnet64 stem 7x7",             0, 1, 1, 3, 64, 256, 256, 7, 1, 3, 0},
    {"resnet64 down1 3x3 s2",         0, 1, 1, 64, 128, 256, 256, 3, 2, 1, 0},
    {"resnet64 down2 3x3 s2",         0, 1, 1, 128, 256, 128, 128, 3, 2, 1, 0},
    {"resnet64 up1 3x3 s2 T",         1, 1, 1, 256, 128, 64, 64, 3, 2, 1, 1},
    {"resnet64 up2 3x3 s2 T",         1, 1, 1, 128, 64, 128, 128, 3, 2, 1, 1},
    {"resnet64 last 7x7",             0, 1, 1, 64, 3, 256, 256, 7, 1, 3, 0},
    {"resnet32 res 3x3",              0, 1, 1, 128, 128, 64, 64, 3, 1, 1, 0},
    {"resnet16 res 3x3",              0, 1, 1, 64, 64, 64, 64, 3, 1, 1, 0},
    {"resnet16 stem 7x7",             0, 1, 1, 3, 16, 256, 256, 7, 1, 3, 0},
    {"resnet16 down1 3x3 s2",         0, 1, 1, 16, 32, 256, 256, 3, 2, 1, 0},
    {"resnet16 up1 3x3 s2 T",         1, 1, 1, 64, 32, 64, 64, 3, 2, 1, 1},
    {"resnet16 up2 3x3 s2 T",         1, 1, 1, 32, 16, 128, 128, 3, 2, 1, 1},
    {"resnet16 last 7x7",             0, 1, 1, 16, 3, 256, 256, 7, 1, 3, 0},
    {"mobile48 depthwise 3x3",        0, 1, 192, 192, 192, 64, 64, 3, 1, 1, 0},
    {"mobile96 depthwise 3x3 s2",     0, 1, 96, 96, 96, 128, 128, 3, 2, 1, 0},
    {"mobile48 pointwise",            0, 1, 1, 192, 192, 64, 64, 1, 1, 0, 0},
    {"unet64 down1 4x4 s2",           0, 1, 1, 3, 64, 256, 256, 4, 2, 1, 0},
    {"unet64 down2 4x4 s2",           0, 1, 1, 64, 128, 128, 128, 4, 2, 1, 0},
    {"unet64 down4 4x4 s2",           0, 1, 1, 256, 512, 32, 32, 4, 2, 1, 0},
    {"unet64 down5 4x4 s2",           0, 1, 1, 512, 512, 16, 16, 4, 2, 1, 0},
    {"unet64 down6 4x4 s2",           0, 1, 1, 512, 512, 8, 8, 4, 2, 1, 0},
    {"unet64 down7 4x4 s2",           0, 1, 1, 512, 512, 4, 4, 4, 2, 1, 0},
    {"unet64 down8 4x4 s2",           0, 1, 1, 512, 512, 2, 2, 4, 2, 1, 0},
    {"unet64 up8 4x4 s2 T",           1, 1, 1, 512, 512, 1, 1, 4, 2, 1, 0},
    {"unet64 up7 4x4 s2 T",           1, 1, 1, 1024, 512, 2, 2, 4, 2, 1, 0},
    {"unet64 up6 4x4 s2 T",           1, 1, 1, 1024, 512, 4, 4, 4, 2, 1, 0},
    {"unet64 up5 4x4 s2 T",           1, 1, 1, 1024, 512, 8, 8, 4, 2, 1, 0},
    {"unet64 up4 4x4 s2 T",           1, 1, 1, 1024, 256, 16, 16, 4, 2, 1, 0},
    {"unet64 up3 4x4 s2 T",           1, 1, 1, 512, 128, 32, 32, 4, 2, 1, 0},
    {"unet64 up1 4x4 s2 T",           1, 1, 1, 128, 3, 128, 128, 4, 2, 1, 0},
    {"unet16 down2 4x4 s2",           0, 1, 1, 16, 32, 128, 128, 4, 2, 1, 0},
    {"unet16 down6 4x4 s2",           0, 1, 1, 128, 128, 8, 8, 4, 2, 1, 0},
    {"unet16 up6 4x4 s2 T",           1, 1, 1, 256, 128, 4, 4, 4, 2, 1, 0},
    {"unet16 up4 4x4 s2 T",           1, 1, 1, 256, 64, 16, 16, 4, 2, 1, 0},
    {"patch down2 4x4 s2",            0, 1, 1, 64, 128, 128, 128, 4, 2, 1, 0},
    {"patch conv4 4x4 s1",            0, 1, 1, 256, 512, 32, 32, 4, 1, 1, 0},
    {"patch last 4x4 s1",             0, 1, 1, 512, 1, 31, 31, 4, 1, 1, 0},
};

/* clang-format on */

typedef struct Product {
    const char *name;
    int64_t rows, columns, depth;
    int ta, tb;
} Product;

static const Product products[] = {
    {"infonce logits", 256, 4096, 256, 0, 1},     {"infonce grad", 256, 256, 4096, 0, 0},
    {"square 512", 512, 512, 512, 0, 0},          {"square 512 ta", 512, 512, 512, 1, 0},
    {"head 1x1 as matmul", 4096, 256, 256, 0, 1}, {"matrix vector", 2048, 1, 2048, 0, 0},
    {"vector matrix", 1, 2048, 2048, 0, 0},
};

typedef enum Mode { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, MODES } Mode;
static const char *const mode_name[MODES] = {"forward", "input grad", "weight grad"};

typedef struct Options {
    int threads[4], n_threads, rounds;
    const char *schedule, *pattern, *cpu;
    bool assembly, verify, best;
    int winograd;
} Options;

/* One thread alone is measured by its own clock: other processes do not count. */
static double seconds(int threads) {
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- graphs ------------------------------------------------------------------------------ */

static KdValue input(KdBuilder *b, const char *name, int rank, const int64_t *dim) {
    return kd_input(b, name, KD_DATA, kd_type(b->cx, KD_F32, rank, dim), "");
}

static KdValue fused_input(KdBuilder *b, KdValue x, int64_t pad) {
    int64_t c[4] = {1, kd_vtype(b->f, x)->dim[1], 1, 1}, edge[4] = {0, 0, pad, pad};
    KdAttr reflect[2] = {{.ints = {4, edge}}, {.ints = {4, edge}}};
    x = kd_binary(b, KD_OP_MUL, x, input(b, "a", 4, c));
    x = kd_unary(b, KD_OP_RELU, kd_binary(b, KD_OP_ADD, x, input(b, "b", 4, c)));
    return kd_build(b, KD_OP_PAD_REFLECT, NULL, &x, 1, reflect);
}

static KdFunc *layer_func(KdContext *cx, const Layer *l, Mode mode, double *flops) {
    KdFunc *f = kd_func_new(cx, "bench");
    KdBuilder b = kd_builder(f);
    int64_t out_h = (l->h + 2 * l->pad - l->k) / l->stride + 1,
            out_w = (l->w + 2 * l->pad - l->k) / l->stride + 1;
    if (l->transposed)
        out_h = (l->h - 1) * l->stride - 2 * l->pad + l->k + l->extra,
        out_w = (l->w - 1) * l->stride - 2 * l->pad + l->k + l->extra;
    int64_t x[4] = {l->n, l->in, l->h, l->w}, y[4] = {l->n, l->out, out_h, out_w};
    int64_t w[4] = {l->out, l->in / l->groups, l->k, l->k};
    if (l->transposed) w[0] = l->in, w[1] = l->out / l->groups;
    int64_t s2[2] = {l->stride, l->stride}, p4[4] = {l->pad, l->pad, l->pad, l->pad},
            k2[2] = {l->k, l->k};
    int64_t d2[2] = {1, 1}, e2[2] = {l->extra, l->extra};
    if (!l->transposed) { /* the gradient must give back the input's size */
        e2[0] = l->h - ((out_h - 1) * l->stride - 2 * l->pad + l->k);
        e2[1] = l->w - ((out_w - 1) * l->stride - 2 * l->pad + l->k);
    }
    KdAttr stride = {.ints = {2, s2}}, pad = {.ints = {4, p4}}, dilation = {.ints = {2, d2}},
           groups = {.i = l->groups};
    KdAttr conv[4] = {stride, pad, dilation, groups},
           deconv[5] = {stride, pad, dilation, groups, {.ints = {2, e2}}};
    KdAttr wgrad[5] = {{.ints = {2, k2}}, stride, pad, dilation, groups};
    KdValue in[2], v;
    bool plain = (mode == FORWARD) != l->transposed;
    if (mode == WEIGHT_GRADIENT) {
        in[0] = input(&b, "x", 4, l->transposed ? y : x),
        in[1] = input(&b, "gy", 4, l->transposed ? x : y);
        v = kd_build(&b, KD_OP_CONV2D_WGRAD, NULL, in, 2, wgrad);
    } else {
        in[0] = input(&b, "x", 4, mode == FORWARD ? x : y), in[1] = input(&b, "w", 4, w);
        if (l->fused && mode == FORWARD)
            in[0] = fused_input(&b, in[0], l->pad), p4[0] = p4[1] = p4[2] = p4[3] = 0;
        v = kd_build(&b, plain ? KD_OP_CONV2D : KD_OP_CONV_TRANSPOSE2D, NULL, in, 2,
                     plain ? conv : deconv);
    }
    if (l->fused && mode == FORWARD) {
        int64_t c[4] = {1, l->out, 1, 1};
        v = kd_unary(&b, KD_OP_RELU, kd_binary(&b, KD_OP_ADD, v, input(&b, "c", 4, c)));
    }
    kd_output(f, "out", v, KD_NONE);
    int64_t *small = l->transposed ? x : y;
    *flops = 2.0 * (double)(l->n * small[2] * small[3] * l->k * l->k) * (double)l->in *
             (double)l->out / (double)l->groups;
    return f;
}

static KdFunc *product_func(KdContext *cx, const Product *p, double *flops) {
    KdFunc *f = kd_func_new(cx, "bench");
    KdBuilder b = kd_builder(f);
    int64_t x[2] = {p->ta ? p->depth : p->rows, p->ta ? p->rows : p->depth};
    int64_t y[2] = {p->tb ? p->columns : p->depth, p->tb ? p->depth : p->columns};
    kd_output(f, "out", kd_matmul(&b, input(&b, "a", 2, x), input(&b, "b", 2, y), p->ta, p->tb),
              KD_NONE);
    *flops = 2.0 * (double)p->rows * (double)p->columns * (double)p->depth;
    return f;
}

/* ---- running ----------------------------------------------------------------------------- */

typedef struct Runnable {
    KdJit *jit;
    KdrtContext rt;
    void **ext, *arena;
    int n_ext;
    double compile; /* seconds */
} Runnable;

static void run_for(Runnable *r, int threads, double least, double *per_run) {
    r->rt.threads = threads;
    double t0 = seconds(threads), t = 0;
    int runs = 0;
    do {
        kd_jit_run(r->jit, &r->rt, r->ext, r->arena);
        runs++;
        t = seconds(threads) - t0;
    } while (t < least);
    *per_run = t / runs;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void measure(Runnable *r, int threads, const Options *o, double flops) {
    double share[MAX_ROUNDS], rate[MAX_ROUNDS], t, peak = 0;
    int rounds = o->rounds;
    run_for(r, threads, 0, &t);
    for (int i = 0; i < rounds; i++) {
        double before = kd_host_fma_peak(threads);
        run_for(r, threads, 0.04, &t);
        double after = kd_host_fma_peak(threads);
        peak = fmax(peak, fmax(before, after));
        rate[i] = flops / t * 1e-9;
        share[i] = rate[i] / (0.5 * (before + after));
    }
    qsort(rate, (size_t)rounds, sizeof *rate, by_value);
    qsort(share, (size_t)rounds, sizeof *share, by_value);
    if (o->best)
        printf("  %7.1f %3.0f%%", rate[rounds - 1], 100 * rate[rounds - 1] / peak);
    else
        printf("  %7.1f %3.0f%%", rate[rounds / 2], 100 * share[rounds / 2]);
    fflush(stdout);
}

static bool runnable_open(Runnable *r, KdContext *cx, const KlModule *m, const KdTarget *t) {
    KdCodegenOptions co = {.opt = 2, .jobs = 1};
    KdJitStats stats = {0};
    *r = (Runnable){.n_ext = m->externs.n};
    r->jit = kd_jit_new(cx, m, t, &co, &stats);
    if (!r->jit) {
        kd_diag_print(cx, stderr, false);
        return false;
    }
    r->compile = stats.seconds;
    r->ext = calloc((size_t)r->n_ext, sizeof *r->ext);
    for (int k = 0; k < r->n_ext; k++) {
        float *p = r->ext[k] = kdrt_alloc((size_t)m->externs.v[k].count * 4);
        for (int64_t i = 0; i < m->externs.v[k].count; i++)
            p[i] = (float)(i * 7 % 11 % 7) - 3;
    }
    r->arena = kdrt_alloc((size_t)m->arena + 64);
    r->rt.scratch_bytes = kd_jit_scratch(r->jit);
    r->rt.scratch = kdrt_alloc(r->rt.scratch_bytes * 4 + 64);
    return true;
}

static void runnable_close(Runnable *r) {
    for (int k = 0; k < r->n_ext; k++)
        kdrt_free(r->ext[k]);
    free(r->ext);
    kdrt_free(r->arena);
    kdrt_free(r->rt.scratch);
    kd_jit_free(r->jit);
}

/* f with everything in memory; chosen: the schedule of its anchor. */
static KlModule *lower(KdContext *cx, const KdFunc *f, const KdTarget *t, const char *schedule, int winograd,
                       const char **chosen) {
    KdPassOptions *po = KD_NEW(cx, KdPassOptions);
    *po = (KdPassOptions){.machine = t->machine, .fuse = true, .schedule = schedule, .winograd = winograd};
    KdFusion *fu = kd_fuse(f, po);
    KdLower l = {.cx = cx, .fu = fu, .o = po};
    *chosen = NULL;
    for (int g = 0; g < fu->groups.n && !*chosen; g++)
        *chosen = kd_schedule_choose(&l, &fu->groups.v[g]);
    KlModule *m = kd_lower(fu, kd_memplan(fu), po);
    for (int k = 0; k < m->kernels.n; k++)
        kl_vectorize(m->kernels.v[k], &t->machine);
    return m;
}

/* The largest difference between a and b, as a share of b's root mean square. */
static double difference(const float *a, const float *b, int64_t n) {
    double most = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        most = d > most || d != d ? d : most;
        sum += (double)b[i] * (double)b[i];
    }
    return most / sqrt(sum / (double)n);
}

static bool same_as_generic(KdContext *cx, const KdFunc *f, const KlModule *m, const KdTarget *t,
                            double *off) {
    const char *chosen;
    KlModule *plain = lower(cx, f, t, "generic", 0, &chosen);
    Runnable r, want;
    if (!runnable_open(&r, cx, m, t) || !runnable_open(&want, cx, plain, t)) return false;
    double time;
    bool same = true;
    run_for(&want, 2, 0, &time);
    for (int threads = 1; threads <= 4; threads *= 2) {
        size_t bytes = (size_t)m->externs.v[r.n_ext - 1].count * 4;
        memset(r.ext[r.n_ext - 1], 255, bytes);
        memset(r.rt.scratch, 255, r.rt.scratch_bytes * 4);
        memset(r.arena, 255, (size_t)m->arena);
        run_for(&r, threads, 0, &time);
        double d = difference(r.ext[r.n_ext - 1], want.ext[r.n_ext - 1], (int64_t)bytes / 4);
        *off = d > *off || d != d ? d : *off;
        same = same && memcmp(r.ext[r.n_ext - 1], want.ext[r.n_ext - 1], bytes) == 0;
    }
    runnable_close(&r);
    runnable_close(&want);
    return same;
}

static void bench_func(KdContext *cx, const KdFunc *f, const char *name, double flops,
                       const Options *o) {
    KdTarget t;
    if (!(o->cpu ? kd_target_named(cx, NULL, o->cpu, &t) : kd_target_host(cx, &t))) {
        kd_diag_print(cx, stderr, false);
        return;
    }
    const char *chosen;
    KlModule *m = lower(cx, f, &t, o->schedule, o->winograd, &chosen);
    if (o->assembly) {
        KdStr s = {.cx = cx};
        kl_print_module(&s, m);
        kd_codegen(cx, m, &t, &(KdCodegenOptions){.opt = 2, .jobs = 1}, KD_EMIT_ASM, &s);
        printf("%s\n", s.s);
        return;
    }
    printf("%-36s %-13s", name, chosen ? chosen : "generic");
    fflush(stdout);
    if (o->verify) {
        double off = 0;
        bool same = same_as_generic(cx, f, m, &t, &off);
        printf(" %s %.1e\n", same ? "same" : "DIFFERENT", off);
        return;
    }
    Runnable r;
    if (!runnable_open(&r, cx, m, &t)) return;
    printf(" %6.0f", 1000 * r.compile);
    for (int k = 0; k < o->n_threads; k++)
        measure(&r, o->threads[k], o, flops);
    printf("\n");
    runnable_close(&r);
}

typedef KdFunc *MakeFn(KdContext *cx, const void *what, int mode, double *flops);

static KdFunc *make_layer(KdContext *cx, const void *what, int mode, double *flops) {
    return layer_func(cx, what, (Mode)mode, flops);
}

static KdFunc *make_product(KdContext *cx, const void *what, int mode, double *flops) {
    (void)mode;
    return product_func(cx, what, flops);
}

static void bench(MakeFn *make, const void *what, int mode, const char *name, const Options *o) {
    if (o->pattern && !strstr(name, o->pattern)) return;
    KdContext *cx = kd_context_new();
    KdLanding landing;
    const char *message;
    if (KD_TRY(cx, landing)) {
        double flops;
        const KdFunc *f = make(cx, what, mode, &flops);
        bench_func(cx, f, name, flops, o);
        kd_landing_pop(cx);
    } else {
        kd_failure(cx, &message);
        printf("%s: %s\n", name, message);
    }
    kd_context_free(cx);
}

int main(int argc, char **argv) {
    Options o = {.rounds = 5, .winograd = 4};
    for (int c; (c = getopt(argc, argv, "t:s:c:r:w:abv")) != -1;) {
        if (c == 't' && o.n_threads < 4)
            o.threads[o.n_threads++] = atoi(optarg);
        else if (c == 's')
            o.schedule = optarg;
        else if (c == 'w')
            o.winograd = atoi(optarg);
        else if (c == 'c')
            o.cpu = optarg;
        else if (c == 'v')
            o.verify = true;
        else if (c == 'r' && atoi(optarg) > 0 && atoi(optarg) <= MAX_ROUNDS)
            o.rounds = atoi(optarg);
        else if (c == 'b')
            o.best = true;
        else if (c == 'a')
            o.assembly = true;
        else
            return 2;
    }
    o.pattern = optind < argc ? argv[optind] : NULL;
    if (!o.n_threads) o.threads[0] = 1, o.threads[1] = 2, o.n_threads = 2;
    if (!o.assembly && !o.verify) {
        printf("%-36s %-13s %6s", "", "schedule", "ms");
        for (int k = 0; k < o.n_threads; k++)
            printf("  %7s %2dT ", "GFLOP/s", o.threads[k]);
        printf("\n");
    }
    char name[128];
    for (int i = 0; i < KD_COUNT(layers); i++)
        for (int mode = 0; mode < MODES; mode++) {
            snprintf(name, sizeof name, "%s, %s", layers[i].name, mode_name[mode]);
            bench(make_layer, &layers[i], mode, name, &o);
        }
    for (int i = 0; i < KD_COUNT(products); i++) {
        snprintf(name, sizeof name, "matmul %s", products[i].name);
        bench(make_product, &products[i], 0, name, &o);
    }
    return 0;
}
