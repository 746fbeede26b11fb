/* kdrt.h: the small runtime that JIT kernels and exported students share. Plain C; knows nothing of the compiler.
 *
 * Determinism: kdrt_parallel_for only decides who executes which indices, never in what order partial results are
 * combined (that is written in the kernels), so any thread count gives the same bits.
 */
#ifndef KDRT_H
#define KDRT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void KdrtKernel(void *const *bufs, int64_t begin, int64_t end, void *scratch);

/* Everything a run needs besides buffers; one per concurrent run. scratch: threads * scratch_bytes, 64-byte aligned. */
typedef struct KdrtContext {
    int threads;
    void *scratch;
    size_t scratch_bytes; /* per thread */
    struct KdrtProfile *profile; /* NULL, or where kernel times are added up */
    void (*after)(void *user, int64_t call); /* NULL, or called after each call of a plan, by its number */
    void *user;
    int prepared; /* not 0: weights are what they were in the last run with this arena, calls marked `once` are left out */
} KdrtContext;

typedef struct KdrtProfile {
    int n;
    struct { double seconds; int64_t calls; } *call; /* by number of the call in the plan */
} KdrtProfile;

/* A plan as generated code holds it: constant tables, so that an entry of thousands of calls costs no code. */
#define KDRT_ARENA (-1)
#define KDRT_POOL (-2)
#define KDRT_MAX_ARGS 256 /* buffers of one kernel, scratch aside */

typedef struct KdrtArg {
    int64_t base;   /* number of an extern, or KDRT_ARENA, or KDRT_POOL */
    int64_t offset; /* bytes */
} KdrtArg;

typedef struct KdrtCall {
    KdrtKernel *fn;
    const KdrtArg *args;
    int64_t n_args, range, grain;
    int64_t once; /* not 0: it depends on weights alone */
} KdrtCall;

typedef struct KdrtPlan {
    const KdrtCall *calls;
    int64_t n_calls;
    const void *pool;
} KdrtPlan;

/* Is this call left out, because what it computes from weights alone is in the arena still? */
static inline int kdrt_left_out(const KdrtContext *cx, const KdrtCall *call) { return call->once && cx->prepared; }

/* The addresses of a call's buffers. */
static inline void kdrt_bind(const KdrtPlan *plan, const KdrtCall *call, void *const *ext, void *arena, void **bufs) {
    for (int64_t a = 0; a < call->n_args; a++) {
        const KdrtArg *arg = &call->args[a];
        const void *base = arg->base == KDRT_ARENA ? arena : arg->base == KDRT_POOL ? plan->pool : ext[arg->base];
        bufs[a] = (char *)base + arg->offset;
    }
}

/* Executes the plan's calls in order. What an entry consists of. */
void kdrt_run(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena);

/* Runs fn over 0..n in at most cx->threads contiguous pieces of at least `grain` indices; returns when all are done.
 * `call` is where cx->profile, if there is one, adds the time. */
void kdrt_parallel_for(KdrtContext *cx, KdrtKernel *fn, void *const *bufs, int64_t n, int64_t grain, int64_t call);

/* Aligned memory: 64 bytes, zeroed; NULL when there is none. Large blocks ask for large pages. */
void *kdrt_alloc(size_t bytes);
void kdrt_free(void *p);

#ifdef __cplusplus
}
#endif
#endif
