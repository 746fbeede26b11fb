/* parallel.c: executes plans and kernels, on one thread or several.
 *
 * A kernel's range is cut into contiguous pieces whose sizes differ by at most one; piece p is run by whichever
 * thread OpenMP gives it to, with that thread's own scratch. Nothing a kernel computes depends on where the cuts are
 * (kernels combine partial results in an order of their own), so bits do not depend on the number of threads.
 * One piece never enters OpenMP: a run with one thread, or a small range, costs a function call.
 */
#include "runtime/kdrt/kdrt.h"

#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static void *thread_scratch(const KdrtContext *cx, int thread) {
    return cx->scratch ? (char *)cx->scratch + (size_t)thread * cx->scratch_bytes : NULL; /* no kernel may need any */
}

/* The first index of piece p of `pieces`; the remainder goes to the first pieces. */
static int64_t piece_begin(int64_t n, int64_t pieces, int64_t p) {
    int64_t extra = n % pieces;
    return n / pieces * p + (p < extra ? p : extra);
}

static void run_pieces(const KdrtContext *cx, KdrtKernel *fn, void *const *bufs, int64_t n, int pieces) {
    /* OpenMP may give fewer threads than asked for; the loop then hands a thread several pieces. The team always has
     * the same size, also when there are fewer pieces: libgomp ends and starts threads whenever the size changes. */
#ifdef _OPENMP
#pragma omp parallel for num_threads(cx->threads) schedule(static, 1)
#endif
    for (int p = 0; p < pieces; p++) {
#ifdef _OPENMP
        void *scratch = thread_scratch(cx, omp_get_thread_num());
#else
        void *scratch = thread_scratch(cx, 0);
#endif
        fn(bufs, piece_begin(n, pieces, p), piece_begin(n, pieces, p + 1), scratch);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void kdrt_parallel_for(KdrtContext *cx, KdrtKernel *fn, void *const *bufs, int64_t n, int64_t grain, int64_t call) {
    if (n <= 0)
        return;
    KdrtProfile *profile = call < (cx->profile ? cx->profile->n : 0) ? cx->profile : NULL;
    double start = profile ? now() : 0;
    int64_t pieces = n / (grain > 1 ? grain : 1);
    if (pieces > cx->threads)
        pieces = cx->threads;
    if (pieces <= 1)
        fn(bufs, 0, n, thread_scratch(cx, 0));
    else
        run_pieces(cx, fn, bufs, n, (int)pieces);
    if (profile) {
        profile->call[call].seconds += now() - start;
        profile->call[call].calls++;
    }
}

void kdrt_run(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena) {
    void *bufs[KDRT_MAX_ARGS];
    for (int64_t c = 0; c < plan->n_calls; c++) {
        const KdrtCall *call = &plan->calls[c];
        if (call->once && cx->prepared)
            continue;
        for (int64_t a = 0; a < call->n_args; a++) {
            const KdrtArg *arg = &call->args[a];
            const void *base = arg->base == KDRT_ARENA  ? arena
                               : arg->base == KDRT_POOL ? plan->pool
                                                        : ext[arg->base];
            bufs[a] = (char *)base + arg->offset;
        }
        kdrt_parallel_for(cx, call->fn, bufs, call->range, call->grain, c);
        if (cx->after)
            cx->after(cx->user, c);
    }
}
