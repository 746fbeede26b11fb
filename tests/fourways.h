/* fourways.h: one function, every way of running it (law 4).
 *
 * fw_run takes a function that may still hold grad and optimiser nodes, sends it through the pipeline, and runs
 *   1. the graph evaluator (double precision) on the differentiated graph,
 *   2. the loop evaluator on the lowered loops,
 *   3. the JIT at -O0, one thread, and at -O3, with 1, 2 and 4 threads.
 * 2 and 3 must agree bit for bit; 1 and 2 within `tolerance` of the output's largest element. (Object files are
 * compared with the JIT in tests/codegen.)
 */
#ifndef FOURWAYS_H
#define FOURWAYS_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/codegen.h"
#include "passes/passes.h"
#include "runtime/kdrt/kdrt.h"

typedef struct FwOptions {
    double tolerance;        /* 0: 1e-4 */
    bool no_fuse;            /* --skip=fuse */
    const char *skip;        /* one pass to leave out, or NULL */
    const char *schedule;    /* force one, or NULL */
    bool evaluator_only;     /* 1 alone: for networks too large for 2 */
    bool jit_only;           /* 3 at -O3 with two threads alone, compared with nothing */
    int lanes;               /* 0: the host's */
} FwOptions;

typedef struct FwResult {
    const KdFunc *f; /* after all graph passes: its inputs and outputs count */
    double **eval;   /* by output: way 1 */
    void **jit;      /* by output: way 3 (f32 or i32), or NULL */
    char why[512];   /* what disagreed */
} FwResult;

static inline bool fw_fail(FwResult *r, const char *fmt, ...) KD_PRINTF(2, 3);
static inline bool fw_fail(FwResult *r, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->why, sizeof r->why, fmt, ap);
    va_end(ap);
    return false;
}

static inline size_t fw_bytes(const KdType *t) { return (size_t)t->count * (size_t)kd_dtype_size(t->dtype); }

/* Memory for the plan's externs: inputs copied from `in`, the others zero. */
static inline void **fw_externs(const KdFunc *f, const KdMemPlan *plan, const void *const *in) {
    void **ext = calloc((size_t)plan->externs.n + 1, sizeof *ext);
    for (int k = 0; k < plan->externs.n; k++) {
        const KlExtern *e = &plan->externs.v[k];
        size_t size = e->dtype == KL_U8 ? 1 : 4;
        ext[k] = kdrt_alloc((size_t)e->count * size + 64);
        if (k < f->inputs.n) memcpy(ext[k], in[k], fw_bytes(kd_vtype(f, f->inputs.v[k])));
    }
    return ext;
}

static inline void fw_free(void **p, int n) {
    for (int k = 0; k < n; k++) kdrt_free(p[k]);
    free(p);
}

/* Where output o is after a run: an extern of its own, or the input it updates. */
static inline int fw_output_extern(const KdFunc *f, int o) {
    if (f->outputs.v[o].updates != KD_NONE)
        for (int k = 0; k < f->inputs.n; k++)
            if (f->inputs.v[k] == f->outputs.v[o].updates) return k;
    int at = f->inputs.n;
    for (int k = 0; k < o; k++) at += f->outputs.v[k].updates == KD_NONE;
    return at;
}

static inline bool fw_evaluate(const KdFunc *f, const void *const *in, FwResult *r) {
    double **din = calloc((size_t)f->inputs.n + 1, sizeof *din);
    r->eval = calloc((size_t)f->outputs.n + 1, sizeof *r->eval);
    for (int k = 0; k < f->inputs.n; k++) {
        const KdType *t = kd_vtype(f, f->inputs.v[k]);
        din[k] = calloc((size_t)t->count + 1, sizeof **din);
        for (int64_t i = 0; i < t->count; i++)
            din[k][i] = t->dtype == KD_F32   ? ((const float *)in[k])[i]
                        : t->dtype == KD_I32 ? ((const int32_t *)in[k])[i]
                                             : ((const uint8_t *)in[k])[i];
    }
    for (int o = 0; o < f->outputs.n; o++)
        r->eval[o] = calloc((size_t)kd_vtype(f, f->outputs.v[o].value)->count + 1, sizeof(double));
    kd_eval(f, (const double *const *)din, r->eval);
    for (int k = 0; k < f->inputs.n; k++) free(din[k]);
    free(din);
    return true;
}

/* Compares 32-bit words (or the doubles of way 1 when exact is NULL). */
static inline bool fw_same_bits(FwResult *r, const char *what, const KdMemPlan *plan, void **a, void **b) {
    for (int k = 0; k < plan->externs.n; k++) {
        size_t n = (size_t)plan->externs.v[k].count * (plan->externs.v[k].dtype == KL_U8 ? 1 : 4);
        if (memcmp(a[k], b[k], n) == 0) continue;
        size_t i = 0;
        while (((unsigned char *)a[k])[i] == ((unsigned char *)b[k])[i]) i++;
        float x, y;
        memcpy(&x, (char *)a[k] + i / 4 * 4, 4);
        memcpy(&y, (char *)b[k] + i / 4 * 4, 4);
        if (isnan(x) && isnan(y)) continue; /* which NaN is not promised */
        return fw_fail(r, "%s: '%s' differs at %zu: %.9g and %.9g", what, plan->externs.v[k].name, i / 4, x, y);
    }
    return true;
}

static inline bool fw_near(FwResult *r, const KdFunc *f, void **ext, double tolerance) {
    for (int o = 0; o < f->outputs.n; o++) {
        const KdType *t = kd_vtype(f, f->outputs.v[o].value);
        const void *p = ext[fw_output_extern(f, o)];
        double largest = 0;
        for (int64_t i = 0; i < t->count; i++)
            if (fabs(r->eval[o][i]) > largest) largest = fabs(r->eval[o][i]);
        for (int64_t i = 0; i < t->count; i++) {
            double x = t->dtype == KD_F32 ? ((const float *)p)[i] : t->dtype == KD_I32 ? ((const int32_t *)p)[i] : ((const uint8_t *)p)[i];
            double want = r->eval[o][i];
            if (isnan(x) && isnan(want)) continue;
            if (x == want) continue;
            if (!(fabs(x - want) <= tolerance * (largest > 1e-3 ? largest : 1e-3)))
                return fw_fail(r, "evaluator and loops: '%s' differs at %lld: %.9g and %.9g (largest %.3g)",
                               f->outputs.v[o].name, (long long)i, want, x, largest);
        }
    }
    return true;
}

static inline bool fw_jit(KdContext *cx, const KlModule *m, const KdTarget *t, int opt, int threads, void **ext) {
    KdCodegenOptions o = {.opt = opt, .jobs = 1};
    KdJitStats stats;
    KdJit *j = kd_jit_new(cx, m, t, &o, &stats);
    if (!j) return false;
    KdrtContext rt = {.threads = threads, .scratch_bytes = kd_jit_scratch(j)};
    rt.scratch = kdrt_alloc(rt.scratch_bytes * (size_t)threads + 64);
    void *arena = kdrt_alloc((size_t)m->arena + 64);
    memset(arena, 0xff, (size_t)m->arena); /* NaN: what is read before it is written shows */
    kd_jit_run(j, &rt, ext, arena);
    kdrt_free(arena);
    kdrt_free(rt.scratch);
    kd_jit_free(j);
    return true;
}

static inline bool fw_run(KdContext *cx, const KdFunc *f, const void *const *in, const FwOptions *options, FwResult *r) {
    FwOptions zero = {0};
    const FwOptions *o = options ? options : &zero;
    KdTarget target;
    *r = (FwResult){0};
    if (!kd_target_host(cx, &target)) return fw_fail(r, "no host target");
    KdPassOptions po = {.machine = target.machine, .fuse = !o->no_fuse, .schedule = o->schedule};
    if (o->lanes) po.machine.lanes = o->lanes;
    if (o->skip) po.skip = &o->skip, po.n_skip = 1;
    KdPipelineResult p = kd_pipeline(f, &po, NULL, NULL);
    r->f = p.final;
    if (!o->jit_only) fw_evaluate(p.final, in, r);
    if (o->evaluator_only) return true;
    void **loops = fw_externs(p.final, p.plan, in), **jit = fw_externs(p.final, p.plan, in);
    int n = p.plan->externs.n;
    bool ok = true;
    if (!o->jit_only) {
        KdStr why = {cx, NULL, 0, 0};
        ok = kl_eval(p.loops, loops, &why) || fw_fail(r, "loop evaluator: %s", why.s);
        ok = ok && fw_near(r, p.final, loops, o->tolerance > 0 ? o->tolerance : 1e-4);
    }
    static const int ways[][2] = {{0, 1}, {3, 1}, {3, 2}, {3, 4}};
    for (int w = o->jit_only ? 2 : 0; ok && w < KD_COUNT(ways) - (o->jit_only ? 1 : 0); w++) {
        fw_free(jit, n);
        jit = fw_externs(p.final, p.plan, in);
        ok = fw_jit(cx, p.loops, &target, ways[w][0], ways[w][1], jit) || fw_fail(r, "the JIT failed");
        char what[64];
        snprintf(what, sizeof what, "loop evaluator and JIT -O%d with %d threads", ways[w][0], ways[w][1]);
        if (!o->jit_only) ok = ok && fw_same_bits(r, what, p.plan, loops, jit);
    }
    r->jit = calloc((size_t)p.final->outputs.n + 1, sizeof *r->jit);
    for (int k = 0; k < p.final->outputs.n; k++) {
        size_t bytes = fw_bytes(kd_vtype(p.final, p.final->outputs.v[k].value));
        r->jit[k] = malloc(bytes + 1);
        memcpy(r->jit[k], jit[fw_output_extern(p.final, k)], bytes);
    }
    fw_free(loops, n);
    fw_free(jit, n);
    return ok;
}

static inline void fw_result_free(FwResult *r) {
    for (int k = 0; r->f && k < r->f->outputs.n; k++) {
        if (r->eval) free(r->eval[k]);
        if (r->jit) free(r->jit[k]);
    }
    free(r->eval);
    free(r->jit);
    *r = (FwResult){0};
}

#endif
