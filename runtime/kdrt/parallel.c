/* parallel.c: executes plans and kernels, on one thread or several.
 *
 * A kernel's range is cut into contiguous pieces whose sizes differ by at most one; piece p is run by whichever thread
 * comes first, with that thread's own scratch. A plan is one parallel region: from call to call threads wait for the
 * pieces of the call before, not for each other, so that small kernels cost little, a slower core does less, and a thread
 * that has lost its core to another program holds up one piece at most. Nothing a kernel computes depends on where the
 * cuts are (kernels combine partial results in an order of their own), so bits do not depend on the number of threads.
 * A run with one thread never enters OpenMP.
 */
#include "runtime/kdrt/kdrt.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    PIECES = 4,   /* of a kernel, for each thread: cores differ in speed */
    SPINS = 2000, /* some ten microseconds */
};

static inline void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

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

static void run_apart(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena) {
    void *bufs[KDRT_MAX_ARGS];
    for (int64_t c = 0; c < plan->n_calls; c++) {
        const KdrtCall *call = &plan->calls[c];
        if (kdrt_left_out(cx, call))
            continue;
        kdrt_bind(plan, call, ext, arena, bufs);
        kdrt_parallel_for(cx, call->fn, bufs, call->range, call->grain, c);
        if (cx->after)
            cx->after(cx->user, c);
    }
}

#ifdef _OPENMP
/* ---- all calls in one parallel region ----------------------------------------------------------- */

/* A call's pieces: how many are taken, how many are done. */
typedef struct Progress {
    _Atomic int taken, done;
} Progress;

static int pieces_of(const KdrtContext *cx, const KdrtCall *call) {
    int64_t most = call->range / (call->grain > 1 ? call->grain : 1), some = (int64_t)PIECES * cx->threads;
    return (int)(call->range <= 0 ? 0 : most < 1 ? 1 : most < some ? most : some);
}

/* Until `pieces` are done. Who has to wait long gives its core to whoever is to do the work. */
static void wait_for(Progress *p, int pieces) {
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < pieces; spins++) {
        if (spins < SPINS)
            pause_a_little();
        else
            sched_yield();
    }
}

/* What each thread of the team does. Every call has counters of its own, so a thread that the system held up comes past calls
 * that others have finished meanwhile, and nobody waits for it. */
static void run_team(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena, Progress *progress) {
    void *bufs[KDRT_MAX_ARGS], *scratch = thread_scratch(cx, omp_get_thread_num());
    KdrtProfile *profile = omp_get_thread_num() == 0 ? cx->profile : NULL;
    for (int64_t c = 0; c < plan->n_calls; c++) {
        const KdrtCall *call = &plan->calls[c];
        int pieces = kdrt_left_out(cx, call) ? 0 : pieces_of(cx, call);
        if (pieces == 0)
            continue;
        double start = profile && c < profile->n ? now() : 0;
        int p = atomic_fetch_add_explicit(&progress[c].taken, 1, memory_order_relaxed);
        if (p < pieces)
            kdrt_bind(plan, call, ext, arena, bufs);
        for (; p < pieces; p = atomic_fetch_add_explicit(&progress[c].taken, 1, memory_order_relaxed)) {
            call->fn(bufs, piece_begin(call->range, pieces, p), piece_begin(call->range, pieces, p + 1), scratch);
            atomic_fetch_add_explicit(&progress[c].done, 1, memory_order_release);
        }
        wait_for(&progress[c], pieces);
        if (profile && c < profile->n) {
            profile->call[c].seconds += now() - start;
            profile->call[c].calls++;
        }
    }
}

static bool run_together(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena) {
    Progress *progress = calloc((size_t)plan->n_calls + 1, sizeof *progress);
    if (!progress)
        return false;
#pragma omp parallel num_threads(cx->threads)
    run_team(cx, plan, ext, arena, progress);
    free(progress);
    return true;
}
#endif

void kdrt_run(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena) {
#ifdef _OPENMP
    if (cx->threads > 1 && !cx->after && run_together(cx, plan, ext, arena))
        return;
#endif
    run_apart(cx, plan, ext, arena);
}
