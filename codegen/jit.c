/* jit.c: a module made executable in this process.
 *
 * In: a loop module and a target that this machine can run. Out: the entry's address. Kernels are dealt out, largest
 * first, to bins of about equal weight; threads take bins, and each bin becomes one object (its own LLVM context and
 * module: LLVM shares nothing). The entry and the plan's tables are one more object. Objects come from the cache
 * instead if they are there. ORC's LLJIT links them in memory; runtime functions and the constant pool are given to it
 * by address, and nothing else of the process is needed.
 *
 * The worker threads must not touch the KdContext: it belongs to the caller's thread.
 */
#include "codegen/internal.h"

#include <llvm-c/LLJIT.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/kdrt/kdrt.h"

struct KdJit {
    LLVMOrcLLJITRef lljit;
    KdEntry *entry;
    size_t scratch;
    void *pool; /* the module's constants, 64-byte aligned */
};

/* ---- compiling on several threads -------------------------------------------------------------- */

typedef struct Bin {
    KdEmitJob job;
    int *kernels;
    double weight;
    LLVMMemoryBufferRef object;
    char *why;
    bool ok;
} Bin;

typedef struct Work {
    Bin *bins;
    int n, opt;
    atomic_int next;
} Work;

static void *compile_bins(void *arg) {
    Work *w = arg;
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < w->n;) {
        Bin *bin = &w->bins[i];
        bin->ok = kd_compile(&bin->job, w->opt, KD_EMIT_OBJ, &bin->object, &bin->why);
    }
    return NULL;
}

/* About how many instructions LLVM will see. */
static double block_weight(const KlBlock *b) {
    double sum = 0;
    for (int i = 0; i < b->instrs.n; i++) {
        const KlInstr *in = b->instrs.v[i];
        double trips = in->unroll == UINT16_MAX ? 8 : in->unroll > 1 ? in->unroll : 1;
        sum += in->body ? trips * block_weight(in->body) : 1;
    }
    return sum;
}

typedef struct Weighed {
    int kernel;
    double weight;
} Weighed;

static int heavier(const void *a, const void *b) {
    const Weighed *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return x->kernel - y->kernel;
}

/* Deals the kernels to bins 1..n-1; bin 0 is the entry's. */
static void fill_bins(KdContext *cx, const KlModule *m, Work *w) {
    int n = m->kernels.n;
    Weighed *order = KD_NEW_ARRAY(cx, Weighed, n + 1);
    for (int i = 0; i < n; i++)
        order[i] = (Weighed){i, 20 + block_weight(&m->kernels.v[i]->body)};
    qsort(order, (size_t)n, sizeof *order, heavier);
    for (int i = 0; i < n; i++) {
        Bin *least = &w->bins[1];
        for (int b = 2; b < w->n; b++)
            if (w->bins[b].weight < least->weight)
                least = &w->bins[b];
        least->kernels[least->job.n_kernels++] = order[i].kernel;
        least->weight += order[i].weight;
    }
}

static void run_workers(Work *w, int threads) {
    pthread_t ids[64];
    pthread_attr_t attributes;
    int started = 0;
    threads = threads > w->n ? w->n : threads > 64 ? 64 : threads;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)16 << 20); /* LLVM recurses over expressions */
    while (started < threads - 1 && pthread_create(&ids[started], &attributes, compile_bins, w) == 0)
        started++;
    pthread_attr_destroy(&attributes);
    compile_bins(w); /* whatever was not started, this thread does */
    for (int i = 0; i < started; i++)
        pthread_join(ids[i], NULL);
}

static bool keep_objects(const Work *w, KdObjects *o) {
    o->object = calloc((size_t)w->n, sizeof *o->object);
    for (int i = 0; o->object && i < w->n; i++) {
        size_t size = LLVMGetBufferSize(w->bins[i].object);
        char *copy = malloc(size + 1);
        if (!copy)
            return false;
        memcpy(copy, LLVMGetBufferStart(w->bins[i].object), size);
        o->object[o->n].bytes = copy;
        o->object[o->n++].size = size;
    }
    return o->object != NULL;
}

static void compile_module(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o,
                           KdObjects *objects) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int jobs = o->jobs > 0 ? o->jobs : cores > 0 ? (int)cores : 1;
    /* Several bins a thread even out what the weights misjudge. */
    int n = m->kernels.n < 4 * jobs ? m->kernels.n : 4 * jobs;
    Work w = {.bins = KD_NEW_ARRAY(cx, Bin, n + 1), .n = n + 1, .opt = o->opt};
    for (int i = 0; i <= n; i++) {
        w.bins[i].kernels = KD_NEW_ARRAY(cx, int, m->kernels.n + 1);
        w.bins[i].job = (KdEmitJob){.m = m, .t = t, .kernels = w.bins[i].kernels, .entry = i == 0};
    }
    if (n)
        fill_bins(cx, m, &w);
    run_workers(&w, jobs);
    bool ok = true;
    for (int i = 0; i <= n; i++)
        ok = ok && w.bins[i].ok;
    bool kept = ok && keep_objects(&w, objects);
    char *why = NULL;
    for (int i = 0; i <= n; i++) {
        if (w.bins[i].object)
            LLVMDisposeMemoryBuffer(w.bins[i].object);
        if (w.bins[i].why && why)
            LLVMDisposeMessage(w.bins[i].why);
        else if (w.bins[i].why)
            why = w.bins[i].why;
    }
    if (!kept) {
        kd_objects_free(objects);
        kd_raise_compile(cx, why);
    }
}

/* ---- loading -------------------------------------------------------------------------------------- */

/* Adds `name` = address to the JIT's symbols. */
static LLVMErrorRef define_address(LLVMOrcLLJITRef lljit, LLVMOrcJITDylibRef lib, const char *name, const void *p) {
    LLVMOrcCSymbolMapPair pair = {LLVMOrcLLJITMangleAndIntern(lljit, name),
                                  {(LLVMOrcExecutorAddress)(uintptr_t)p, {LLVMJITSymbolGenericFlagsExported, 0}}};
    LLVMOrcMaterializationUnitRef unit = LLVMOrcAbsoluteSymbols(&pair, 1);
    LLVMErrorRef error = LLVMOrcJITDylibDefine(lib, unit);
    if (error)
        LLVMOrcDisposeMaterializationUnit(unit);
    return error;
}

static LLVMErrorRef link_objects(KdJit *j, const KlModule *m, const KdObjects *objects, const char *pool_name) {
    LLVMErrorRef error = LLVMOrcCreateLLJIT(&j->lljit, NULL);
    if (error) {
        j->lljit = NULL;
        return error;
    }
    LLVMOrcJITDylibRef lib = LLVMOrcLLJITGetMainJITDylib(j->lljit);
    error = kd_rt_define(LLVMOrcLLJITGetExecutionSession(j->lljit), lib);
    if (!error && j->pool)
        error = define_address(j->lljit, lib, pool_name, j->pool);
    for (int i = 0; i < objects->n && !error; i++) {
        LLVMMemoryBufferRef copy = LLVMCreateMemoryBufferWithMemoryRangeCopy(objects->object[i].bytes,
                                                                             objects->object[i].size, "kdc");
        error = LLVMOrcLLJITAddObjectFile(j->lljit, lib, copy);
    }
    LLVMOrcExecutorAddress entry = 0;
    if (!error)
        error = LLVMOrcLLJITLookup(j->lljit, &entry, m->name);
    if (!error)
        j->entry = (KdEntry *)(uintptr_t)entry;
    return error;
}

/* NULL after writing why. */
static KdJit *load(KdContext *cx, const KlModule *m, const KdObjects *objects, const char **why) {
    KdJit *j = calloc(1, sizeof *j);
    *why = "out of memory";
    if (!j)
        return NULL;
    j->scratch = (size_t)kd_scratch_bytes(m);
    if (m->pool.n && !(j->pool = kdrt_alloc((size_t)m->pool.n))) {
        kd_jit_free(j);
        return NULL;
    }
    if (j->pool)
        memcpy(j->pool, m->pool.v, (size_t)m->pool.n);
    LLVMErrorRef error = link_objects(j, m, objects, kd_format(cx, "%s_pool", m->name));
    if (!error)
        return j;
    char *text = LLVMGetErrorMessage(error);
    *why = kd_format(cx, "%s", text);
    LLVMDisposeErrorMessage(text);
    kd_jit_free(j);
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The architecture is all that is looked at: a CPU with fewer features than the host's is a valid choice. */
static bool runs_here(KdContext *cx, const KdTarget *t) {
    char *host = LLVMGetDefaultTargetTriple();
    size_t n = strcspn(host, "-");
    bool same = strcspn(t->triple, "-") == n && strncmp(host, t->triple, n) == 0;
    if (!same)
        kd_error(cx, 0, "code for '%s' cannot run on this machine, which is '%s'", t->triple, host);
    LLVMDisposeMessage(host);
    return same;
}

KdJit *kd_jit_new(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, KdJitStats *stats) {
    double start = now();
    kd_llvm_init();
    if (!runs_here(cx, t))
        return NULL;
    KdObjects objects = {0};
    const char *path = o->cache ? kd_cache_path(cx, m, t, o) : NULL;
    bool cached = path && kd_cache_load(path, &objects);
    const char *why = "";
    KdJit *j = cached ? load(cx, m, &objects, &why) : NULL;
    if (!j) {
        kd_objects_free(&objects);
        cached = false;
        compile_module(cx, m, t, o, &objects);
        if (path)
            kd_cache_save(path, &objects);
        j = load(cx, m, &objects, &why);
    }
    KdJitStats s = {.kernels = m->kernels.n, .from_cache = cached};
    for (int i = 0; i < objects.n; i++)
        s.object_bytes += (int64_t)objects.object[i].size;
    kd_objects_free(&objects);
    s.seconds = now() - start;
    if (stats)
        *stats = s;
    if (!j)
        kd_raise(cx, KD_FAIL_INTERNAL, "codegen: the compiled kernels cannot be loaded: %s", why);
    return j;
}

KdEntry *kd_jit_entry(KdJit *j) { return j->entry; }

size_t kd_jit_scratch(const KdJit *j) { return j->scratch; }

void kd_jit_free(KdJit *j) {
    if (!j)
        return;
    if (j->lljit)
        LLVMConsumeError(LLVMOrcDisposeLLJIT(j->lljit));
    kdrt_free(j->pool);
    free(j);
}
