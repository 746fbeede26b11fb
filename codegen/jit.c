/* jit.c: a module made executable in this process.
 *
 * In: a loop module and a target that this machine can run. Out: its plan as kdrt runs it, with the addresses of its
 * kernels, which are the store's (kernels.c), and of its constants. An object file's entry holds the same tables; here
 * they are memory, so that nothing but kernels is compiled.
 */
#include "codegen/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/kdrt/kdrt.h"

struct KdJit {
    KdKernels *own; /* NULL: the kernels are another store's */
    KdrtPlan plan;
    KdrtCall *calls;
    KdrtArg *args; /* of all calls, one after the other */
    size_t scratch;
    void *pool; /* the module's constants, 64-byte aligned */
};

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

/* The plan's tables. false: out of memory. */
static bool make_plan(KdJit *j, const KlModule *m, KdrtKernel *const *fn) {
    size_t n_args = 0, arg = 0;
    for (int c = 0; c < m->calls.n; c++)
        n_args += (size_t)kd_args_of(m->kernels.v[m->calls.v[c].kernel]);
    j->calls = calloc((size_t)m->calls.n + 1, sizeof *j->calls);
    j->args = calloc(n_args + 1, sizeof *j->args);
    j->pool = m->pool.n ? kdrt_alloc((size_t)m->pool.n) : NULL;
    if (!j->calls || !j->args || (m->pool.n && !j->pool))
        return false;
    if (j->pool)
        memcpy(j->pool, m->pool.v, (size_t)m->pool.n);
    for (int c = 0; c < m->calls.n; c++) {
        const KlCall *call = &m->calls.v[c];
        const KlKernel *k = m->kernels.v[call->kernel];
        j->calls[c] = (KdrtCall){.fn = fn[call->kernel],
                                 .args = &j->args[arg],
                                 .n_args = kd_args_of(k),
                                 .range = k->range,
                                 .grain = k->grain,
                                 .once = call->once};
        for (int a = 0; a < kd_args_of(k); a++)
            j->args[arg++] = (KdrtArg){kd_arg_base(&call->args[a]), call->args[a].offset};
    }
    j->plan = (KdrtPlan){j->calls, m->calls.n, j->pool};
    return true;
}

KdJit *kd_jit_new(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, KdJitStats *stats) {
    double start = now();
    kd_llvm_init();
    if (!runs_here(cx, t))
        return NULL;
    KdJitStats s = {.kernels = m->kernels.n};
    KdrtKernel **fn = KD_NEW_ARRAY(cx, KdrtKernel *, m->kernels.n + 1);
    KdJit *volatile j = calloc(1, sizeof *j);
    KdLanding l;
    if (j && !o->kernels)
        j->own = kd_kernels_new();
    if (!j || (!o->kernels && !j->own)) {
        kd_jit_free(j);
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory: compiled code");
    }
    if (KD_TRY(cx, l)) {
        kd_kernels_get(cx, o->kernels ? o->kernels : j->own, m, t, o, fn, &s);
        if (!make_plan(j, m, fn))
            kd_raise(cx, KD_FAIL_MACHINE, "out of memory: compiled code");
        kd_landing_pop(cx);
    } else {
        const char *why;
        KdFail kind = kd_failure(cx, &why);
        kd_jit_free(j);
        kd_raise(cx, kind, "%s", why);
    }
    j->scratch = (size_t)kd_scratch_bytes(m);
    s.from_cache = s.compiled == 0;
    s.seconds = now() - start;
    if (stats)
        *stats = s;
    return j;
}

void kd_jit_run(const KdJit *j, void *kdrt_context, void *const *ext, void *arena) {
    kdrt_run(kdrt_context, &j->plan, ext, arena);
}

size_t kd_jit_scratch(const KdJit *j) { return j->scratch; }

void kd_jit_free(KdJit *j) {
    if (!j)
        return;
    kd_kernels_free(j->own);
    kdrt_free(j->pool);
    free(j->calls);
    free(j->args);
    free(j);
}
