/* kernels.c: compiled kernels of one process, by their content.
 *
 * A store holds machine code in one LLJIT and knows each kernel by a key: the hash of all that its code depends on. What a
 * module needs and the store lacks comes from the cache's folder, or is compiled, on several threads, and kept there; each
 * kernel is an object of its own, whose symbol is its key. So modules that share kernels (the steps of a session for other
 * blocks or configurations, two networks of one shape) share their code. Constants and the plan are no part of it.
 *
 * Worker threads must not touch the KdContext: it belongs to the caller's thread. One thread at a time may use a store.
 */
#include "codegen/internal.h"

#include <llvm-c/LLJIT.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Entry {
    KdKernelKey key;
    KdrtKernel *fn; /* NULL: no entry */
} Entry;

struct KdKernels {
    LLVMOrcLLJITRef lljit; /* NULL: nothing was loaded yet */
    Entry *table; /* open addressing; a power of two, at most half full */
    size_t size, n;
    int again; /* kernels compiled because a cached object did not load */
};

KdKernels *kd_kernels_new(void) {
    return calloc(1, sizeof(KdKernels));
}

void kd_kernels_free(KdKernels *k) {
    if (!k)
        return;
    if (k->lljit)
        LLVMConsumeError(LLVMOrcDisposeLLJIT(k->lljit));
    free(k->table);
    free(k);
}

/* Its entry, or the empty one where it belongs. The table is not empty. */
static Entry *find(const KdKernels *k, KdKernelKey key) {
    size_t at = key.a & (k->size - 1);
    while (k->table[at].fn && (k->table[at].key.a != key.a || k->table[at].key.b != key.b))
        at = (at + 1) & (k->size - 1);
    return &k->table[at];
}

/* Room for n more. false: out of memory. */
static bool reserve(KdKernels *k, size_t n) {
    size_t size = k->size ? k->size : 64;
    while (size < 2 * (k->n + n))
        size *= 2;
    if (size == k->size)
        return true;
    KdKernels grown = {.table = calloc(size, sizeof(Entry)), .size = size};
    if (!grown.table)
        return false;
    for (size_t i = 0; i < k->size; i++)
        if (k->table[i].fn)
            *find(&grown, k->table[i].key) = k->table[i];
    free(k->table);
    k->table = grown.table;
    k->size = size;
    return true;
}

/* ---- compiling on several threads -------------------------------------------------------------- */

typedef struct Task {
    KdEmitJob job;
    int kernel;
    KdKernelKey key;
    char symbol[48];
    double weight;
    LLVMMemoryBufferRef object;
    char *why;
    bool cached, ok;
} Task;

typedef struct Work {
    Task *tasks;
    int n, opt;
    atomic_int next;
} Work;

static void *compile_tasks(void *arg) {
    Work *w = arg;
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < w->n;) {
        Task *t = &w->tasks[i];
        if (!t->cached)
            t->ok = kd_compile(&t->job, w->opt, KD_EMIT_OBJ, &t->object, &t->why);
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

static int heavier(const void *a, const void *b) {
    const Task *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return x->kernel - y->kernel;
}

static void run_workers(Work *w, int threads) {
    pthread_t ids[64];
    pthread_attr_t attributes;
    int started = 0;
    threads = threads > w->n ? w->n : threads > 64 ? 64 : threads;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)16 << 20); /* LLVM recurses over expressions */
    while (started < threads - 1 && pthread_create(&ids[started], &attributes, compile_tasks, w) == 0)
        started++;
    pthread_attr_destroy(&attributes);
    compile_tasks(w); /* whatever was not started, this thread does */
    for (int i = 0; i < started; i++)
        pthread_join(ids[i], NULL);
}

/* Compiles what is not cached, the largest first. Raises what LLVM said when something fails. */
static void compile(KdContext *cx, Work *w, const KdCodegenOptions *o) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int jobs = o->jobs > 0 ? o->jobs : cores > 0 ? (int)cores : 1;
    char *why = NULL;
    bool ok = true;
    qsort(w->tasks, (size_t)w->n, sizeof *w->tasks, heavier);
    for (int i = 0; i < w->n; i++) {
        w->tasks[i].job.kernels = &w->tasks[i].kernel; /* they have moved */
        w->tasks[i].job.symbol = w->tasks[i].symbol;
    }
    run_workers(w, jobs);
    for (int i = 0; i < w->n; i++) {
        Task *t = &w->tasks[i];
        ok = ok && (t->cached || t->ok);
        if (t->why && why)
            LLVMDisposeMessage(t->why);
        else if (t->why)
            why = t->why;
    }
    for (int i = 0; i < w->n && !ok; i++)
        if (w->tasks[i].object)
            LLVMDisposeMemoryBuffer(w->tasks[i].object);
    if (!ok)
        kd_raise_compile(cx, why);
}

/* ---- loading -------------------------------------------------------------------------------------- */

_Noreturn static void not_loaded(KdContext *cx, LLVMErrorRef error) {
    char *text = LLVMGetErrorMessage(error);
    const char *why = kd_format(cx, "%s", text);
    LLVMDisposeErrorMessage(text);
    kd_raise(cx, KD_FAIL_INTERNAL, "codegen: the compiled kernels cannot be loaded: %s", why);
}

static void open_store(KdContext *cx, KdKernels *k) {
    if (k->lljit)
        return;
    LLVMErrorRef error = LLVMOrcCreateLLJIT(&k->lljit, NULL);
    if (error) {
        k->lljit = NULL;
        not_loaded(cx, error);
    }
    error = kd_rt_define(LLVMOrcLLJITGetExecutionSession(k->lljit), LLVMOrcLLJITGetMainJITDylib(k->lljit));
    if (error)
        not_loaded(cx, error);
}

/* Takes the object over. NULL after setting *error. */
static KdrtKernel *load(KdKernels *k, LLVMMemoryBufferRef object, const char *symbol, LLVMErrorRef *error) {
    LLVMOrcExecutorAddress address = 0;
    *error = LLVMOrcLLJITAddObjectFile(k->lljit, LLVMOrcLLJITGetMainJITDylib(k->lljit), object);
    if (!*error)
        *error = LLVMOrcLLJITLookup(k->lljit, &address, symbol);
    return *error ? NULL : (KdrtKernel *)(uintptr_t)address;
}

/* A cached object that does not load is not what was written, whatever its checksum says: compiled anew, under another symbol,
 * and not kept. */
static KdrtKernel *load_again(KdContext *cx, KdKernels *k, Task *t, const KdCodegenOptions *o) {
    LLVMErrorRef error;
    snprintf(t->symbol, sizeof t->symbol, "kdk_again_%d", k->again++);
    t->cached = false;
    Work one = {.tasks = t, .n = 1, .opt = o->opt};
    compile(cx, &one, o);
    KdrtKernel *fn = load(k, t->object, t->symbol, &error);
    if (!fn)
        not_loaded(cx, error);
    return fn;
}

/* ---- a module's kernels --------------------------------------------------------------------------- */

/* Those the store lacks, each once; what the folder has of them with its object. */
static Work missing(KdContext *cx, KdKernels *k, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o,
                    const KdKernelKey *key) {
    Work w = {.tasks = KD_NEW_ARRAY(cx, Task, m->kernels.n + 1), .opt = o->opt};
    for (int i = 0; i < m->kernels.n; i++) {
        bool again = find(k, key[i])->fn != NULL;
        for (int s = 0; s < w.n && !again; s++)
            again = w.tasks[s].key.a == key[i].a && w.tasks[s].key.b == key[i].b;
        if (again)
            continue;
        Task *task = &w.tasks[w.n++];
        *task = (Task){.job = {.m = m, .t = t, .n_kernels = 1},
                       .kernel = i,
                       .key = key[i],
                       .weight = block_weight(&m->kernels.v[i]->body)};
        snprintf(task->symbol, sizeof task->symbol, "kdk_%016llx%016llx", (unsigned long long)key[i].a, (unsigned long long)key[i].b);
        task->object = o->cache ? kd_cache_load(kd_cache_path(cx, o->cache, key[i])) : NULL;
        task->cached = task->object != NULL;
    }
    return w;
}

static int save(KdContext *cx, const Work *w, const KdCodegenOptions *o) {
    int compiled = 0;
    for (int i = 0; i < w->n; i++)
        if (!w->tasks[i].cached) {
            compiled++;
            if (o->cache)
                kd_cache_save(kd_cache_path(cx, o->cache, w->tasks[i].key), LLVMGetBufferStart(w->tasks[i].object),
                              LLVMGetBufferSize(w->tasks[i].object));
        }
    if (compiled && o->cache)
        kd_cache_prune(o->cache);
    return compiled;
}

void kd_kernels_get(KdContext *cx, KdKernels *k, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o,
                    KdrtKernel **fn, KdJitStats *stats) {
    KdKernelKey *key = KD_NEW_ARRAY(cx, KdKernelKey, m->kernels.n + 1);
    if (!reserve(k, (size_t)m->kernels.n))
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory: compiled kernels");
    for (int i = 0; i < m->kernels.n; i++)
        key[i] = kd_kernel_key(m->kernels.v[i], t, o);
    open_store(cx, k);
    Work w = missing(cx, k, m, t, o, key);
    compile(cx, &w, o);
    stats->compiled = save(cx, &w, o);
    for (int i = 0; i < w.n; i++) {
        LLVMErrorRef error;
        stats->object_bytes += (int64_t)LLVMGetBufferSize(w.tasks[i].object);
        KdrtKernel *loaded = load(k, w.tasks[i].object, w.tasks[i].symbol, &error);
        if (!loaded && !w.tasks[i].cached)
            not_loaded(cx, error);
        if (!loaded) {
            LLVMConsumeError(error);
            loaded = load_again(cx, k, &w.tasks[i], o);
            stats->compiled++;
        }
        *find(k, w.tasks[i].key) = (Entry){w.tasks[i].key, loaded};
        k->n++;
    }
    for (int i = 0; i < m->kernels.n; i++)
        fn[i] = find(k, key[i])->fn;
}
