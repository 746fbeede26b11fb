/* memory.c: zeroed memory on 64-byte boundaries.
 *
 * Small blocks come from calloc, moved up to a boundary. Large ones are mapped on a 2 MiB boundary and ask for large
 * pages: tensors are swept from end to end, and 4 KiB pages cost a tenth of the bandwidth in TLB misses. Either way
 * the 64 bytes in front of the block remember what to give back, and untouched pages cost nothing.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* MAP_ANONYMOUS, madvise */
#endif
#include "runtime/kdrt/kdrt.h"

#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define ALIGNMENT ((size_t)64)
#define LARGE_PAGE ((size_t)2 << 20)

typedef struct Header {
    void *base;
    size_t mapped; /* 0: base is from calloc */
} Header;

static void *place(void *base, size_t mapped, size_t boundary) {
    uintptr_t p = ((uintptr_t)base + sizeof(Header) + boundary - 1) & ~(uintptr_t)(boundary - 1);
    ((Header *)p)[-1] = (Header){base, mapped};
    return (void *)p;
}

#ifdef __linux__
static void *alloc_large(size_t bytes) {
    size_t whole = bytes + LARGE_PAGE + ALIGNMENT;
    char *base = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    char *p = place(base, whole, LARGE_PAGE);
    /* Only a wish, and only for whole large pages: the tail must not cost up to 2 MiB. */
    (void)madvise(p, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
    return p;
}
#endif

void *kdrt_alloc(size_t bytes) {
    if (bytes > SIZE_MAX - 2 * LARGE_PAGE)
        return NULL;
#ifdef __linux__
    if (bytes >= LARGE_PAGE)
        return alloc_large(bytes);
#endif
    void *base = calloc(1, bytes + sizeof(Header) + ALIGNMENT);
    return base ? place(base, 0, ALIGNMENT) : NULL;
}

void kdrt_free(void *p) {
    if (!p)
        return;
    Header h = ((Header *)p)[-1];
#ifdef __linux__
    if (h.mapped) {
        munmap(h.base, h.mapped);
        return;
    }
#endif
    free(h.base);
}
