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
} KdrtContext;

typedef struct KdrtProfile {
    int n;
    struct { double seconds; int64_t calls; } *call; /* by number of the call in the plan */
} KdrtProfile;

/* Runs fn over 0..n in at most cx->threads contiguous pieces of at least `grain` indices. */
void kdrt_parallel_for(KdrtContext *cx, KdrtKernel *fn, void *const *bufs, int64_t n, int64_t grain, int64_t call);

/* Aligned memory: 64 bytes, zeroed; NULL when there is none. */
void *kdrt_alloc(size_t bytes);
void kdrt_free(void *p);

#ifdef __cplusplus
}
#endif
#endif
