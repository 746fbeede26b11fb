/* artefact.c: the C part of an exported network. Compiled by clang to LLVM bitcode when kdc is built, linked into the
 * network's module by codegen/artefact.c, which gives the functions their public names (NET_init, ...) and makes all
 * else local.
 *
 * It must need nothing but memcpy, memset, malloc and free (and with OpenMP GOMP_parallel, omp_get_thread_num and
 * omp_get_max_threads, which libgomp and libomp both have), so no C library header is included. All that changes lies in
 * the caller's KdxState and in its arena. Results equal `kdc run`'s bit for bit: the plan is executed as
 * runtime/kdrt/parallel.c does, and pictures become numbers and back as in frontend/cli/picture.c.
 */
#include "runtime/export/artefact.h"
#include "runtime/kdrt/kdrt.h"

void *malloc(size_t n);
void free(void *p);
void *memcpy(void *restrict to, const void *restrict from, size_t n);

extern const KdxNet kdx_net;
extern const KdxExtern kdx_externs[];
extern const KdxReference kdx_references[];
extern const char kdx_weights[]; /* when they are inside */
void kdx_entry(KdrtContext *cx, void *const *ext, void *arena);

/* The caller sees an array of pointers. */
typedef struct KdxState {
    char *arena; /* NULL: not initialised; on a multiple of 64 */
    void *owned; /* to free, or NULL */
    const char *weights;
    void *prepared; /* not NULL: what the plan computes from weights alone is in the arena */
} KdxState;

/* ---- the processor ---------------------------------------------------------------------------------- */

#if defined(__x86_64__)
static void cpuid(uint32_t leaf, uint32_t r[4]) {
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

/* Instructions and, by XGETBV, the operating system's care for the registers. */
static int64_t cpu_level(void) {
    uint32_t one[4], seven[4] = {0}, most[4], low, high;
    cpuid(0, most);
    cpuid(1, one);
    if (most[0] >= 7) {
        cpuid(7, seven);
    }
    if ((one[2] >> 27 & 3) != 3) { /* OSXSAVE, AVX */
        return KDX_LEVEL_ANY;
    }
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6) {
        return KDX_LEVEL_ANY;
    }
    if (!(one[2] >> 12 & 1) || !(seven[1] >> 5 & 1)) { /* FMA, AVX2 */
        return KDX_LEVEL_AVX;
    }
    const uint32_t wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* AVX512 F, DQ, BW, VL */
    return (seven[1] & wanted) == wanted && (low & 0xe6) == 0xe6 ? KDX_LEVEL_AVX512 : KDX_LEVEL_AVX2;
}
#else
static int64_t cpu_level(void) {
    return KDX_LEVEL_AVX512; /* NEON is part of every aarch64 */
}
#endif

/* ---- the plan ---------------------------------------------------------------------------------------- */

void kdx_run_serial(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena) {
    void *bufs[KDRT_MAX_ARGS];
    for (int64_t c = 0; c < plan->n_calls; c++) {
        const KdrtCall *call = &plan->calls[c];
        if (kdrt_left_out(cx, call)) {
            continue;
        }
        kdrt_bind(plan, call, ext, arena, bufs);
        if (call->range > 0) {
            call->fn(bufs, 0, call->range, cx->scratch);
        }
    }
}

void GOMP_parallel(void (*fn)(void *), void *data, unsigned threads, unsigned flags);
int omp_get_thread_num(void);
int omp_get_max_threads(void);

typedef struct Team {
    const KdrtContext *cx;
    const KdrtCall *call;
    void *const *bufs;
    int64_t pieces;
    int64_t next; /* the first piece that no thread has taken */
} Team;

/* Contiguous pieces whose sizes differ by at most one; whichever thread comes takes the next. */
static void work(void *data) {
    Team *t = data;
    void *scratch = (char *)t->cx->scratch + (size_t)omp_get_thread_num() * t->cx->scratch_bytes;
    int64_t size = t->call->range / t->pieces, extra = t->call->range % t->pieces;
    for (;;) {
        int64_t p = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
        if (p >= t->pieces) {
            return;
        }
        int64_t begin = size * p + (p < extra ? p : extra);
        t->call->fn(t->bufs, begin, begin + size + (p < extra), scratch);
    }
}

void kdx_run_openmp(KdrtContext *cx, const KdrtPlan *plan, void *const *ext, void *arena) {
    void *bufs[KDRT_MAX_ARGS];
    int64_t threads = omp_get_max_threads();
    threads = threads < 1 ? 1 : threads < cx->threads ? threads : cx->threads;
    for (int64_t c = 0; c < plan->n_calls; c++) {
        const KdrtCall *call = &plan->calls[c];
        if (kdrt_left_out(cx, call)) {
            continue;
        }
        kdrt_bind(plan, call, ext, arena, bufs);
        int64_t pieces = call->range / (call->grain > 1 ? call->grain : 1);
        pieces = pieces < threads ? pieces : threads;
        Team t = {cx, call, bufs, pieces, 0};
        if (pieces > 1) {
            GOMP_parallel(work, &t, (unsigned)threads, 0);
        } else if (call->range > 0) {
            call->fn(bufs, 0, call->range, cx->scratch);
        }
    }
}

/* ---- init and run -------------------------------------------------------------------------------------- */

static int init(KdxState *s, const char *weights, void *arena) {
    *s = (KdxState){0};
    if (cpu_level() < kdx_net.level) {
        return KDX_CPU;
    }
    void *owned = NULL;
    if (!arena && !(arena = owned = malloc((size_t)kdx_net.arena_bytes + 64))) {
        return KDX_MEMORY;
    }
    char *aligned = (char *)(((uintptr_t)arena + 63) & ~(uintptr_t)63);
    void **ext = (void **)(aligned + kdx_net.externs_at);
    for (int64_t i = 0; i < kdx_net.n_externs; i++) {
        const KdxExtern *e = &kdx_externs[i];
        ext[i] = e->kind == KDX_WEIGHT ? (void *)(uintptr_t)(weights + e->at) : (void *)(aligned + kdx_net.io_at + e->at);
    }
    *s = (KdxState){aligned, owned, weights, NULL};
    return KDX_OK;
}

int kdx_init_inside(KdxState *s, void *arena) {
    return init(s, kdx_weights, arena);
}

int kdx_init_beside(KdxState *s, const void *file, size_t bytes, void *arena) {
    KdxWeightsHead head;
    *s = (KdxState){0};
    if (!file || (uintptr_t)file % 4 || bytes < sizeof head) {
        return KDX_WEIGHTS;
    }
    memcpy(&head, file, sizeof head);
    const char *weights = (const char *)file + sizeof head;
    static const char magic[] = KDX_WEIGHTS_MAGIC;
    for (int i = 0; i < 8; i++) {
        if (head.magic[i] != magic[i]) {
            return KDX_WEIGHTS;
        }
    }
    uint64_t size = (uint64_t)kdx_net.weight_bytes;
    if (head.bytes != size || head.hash != kdx_net.weight_hash || bytes - sizeof head != size ||
        kdx_hash(0, weights, (size_t)size) != kdx_net.weight_hash) {
        return KDX_WEIGHTS;
    }
    return init(s, weights, arena);
}

void kdx_free(KdxState *s) {
    free(s->owned);
    *s = (KdxState){0};
}

static void run(KdxState *s, void *const *ext) {
    KdrtContext cx = {.threads = (int)kdx_net.threads,
                      .scratch = s->arena + kdx_net.scratch_at,
                      .scratch_bytes = (size_t)kdx_net.scratch_bytes,
                      .prepared = s->prepared != 0};
    kdx_entry(&cx, ext, s->arena);
    s->prepared = s->arena;
}

/* data: a pointer for each input, then each output, in the plan's order. */
int kdx_run(KdxState *s, void *const *data) {
    if (!s->arena) {
        return KDX_STATE;
    }
    void **ext = (void **)(s->arena + kdx_net.externs_at);
    for (int64_t i = 0, next = 0; i < kdx_net.n_externs; i++) {
        if (kdx_externs[i].kind != KDX_WEIGHT) {
            ext[i] = data[next++];
        }
    }
    run(s, ext);
    return KDX_OK;
}

/* Points all externs but weights into the arena; their numbers: of the only input, and the only output. */
static void **own_room(KdxState *s, int64_t *in, int64_t *out) {
    void **ext = (void **)(s->arena + kdx_net.externs_at);
    for (int64_t i = 0; i < kdx_net.n_externs; i++) {
        const KdxExtern *e = &kdx_externs[i];
        if (e->kind != KDX_WEIGHT) {
            ext[i] = s->arena + kdx_net.io_at + e->at;
            *(e->kind == KDX_INPUT ? in : out) = i;
        }
    }
    return ext;
}

/* ---- pictures -------------------------------------------------------------------------------------------- */

static int as_is(void) {
    return kdx_net.lo == -1 && kdx_net.hi == 1;
}

static unsigned char to_byte(float x) {
    float v = as_is() ? (x + 1) / 2 * 255 : (float)(((double)x - kdx_net.lo) / (kdx_net.hi - kdx_net.lo) * 255);
    if (!(v > 0)) { /* NaN too */
        return 0;
    }
    if (v >= 255) {
        return 255;
    }
    unsigned char whole = (unsigned char)v;
    return kdx_net.truncate || v - (float)whole < 0.5f ? whole : (unsigned char)(whole + 1);
}

int kdx_run_rgb8(KdxState *s, const unsigned char *from, unsigned char *to) {
    if (!s->arena) {
        return KDX_STATE;
    }
    int64_t in = 0, out = 0, plane = kdx_net.height * kdx_net.width, out_plane = kdx_net.out_height * kdx_net.out_width;
    void **ext = own_room(s, &in, &out);
    float value[256], *x = ext[in];
    const float *y = ext[out];
    for (int v = 0; v < 256; v++) {
        value[v] = as_is() ? ((float)v / 255 - 0.5f) / 0.5f : (float)(kdx_net.lo + v * (kdx_net.hi - kdx_net.lo) / 255);
    }
    for (int64_t i = 0; i < plane; i++) {
        for (int c = 0; c < 3; c++) {
            x[c * plane + i] = value[from[3 * i + c]];
        }
    }
    run(s, ext);
    for (int64_t i = 0; i < out_plane; i++) {
        for (int c = 0; c < 3; c++) {
            to[3 * i + c] = to_byte(y[c * out_plane + i]);
        }
    }
    return KDX_OK;
}

/* ---- self-test --------------------------------------------------------------------------------------------- */

static double element(const KdxExtern *e, const void *data, int64_t i) {
    return e->type == KDX_F32   ? (double)((const float *)data)[i]
           : e->type == KDX_I32 ? (double)((const int32_t *)data)[i]
                                : (double)((const unsigned char *)data)[i];
}

int kdx_selftest(KdxState *s) {
    if (!s->arena) {
        return KDX_STATE;
    }
    int64_t in, out;
    void **ext = own_room(s, &in, &out);
    for (int64_t i = 0; i < kdx_net.n_externs; i++) {
        if (kdx_externs[i].kind == KDX_INPUT) {
            kdx_golden(&kdx_externs[i], i, kdx_net.lo, kdx_net.hi, ext[i]);
        }
    }
    if (kdx_hash(0, s->weights, (size_t)kdx_net.weight_bytes) != kdx_net.weight_hash) {
        return KDX_WEIGHTS;
    }
    run(s, ext);
    uint64_t hash = 0;
    for (int64_t i = 0; i < kdx_net.n_externs; i++) {
        const KdxExtern *e = &kdx_externs[i];
        if (e->kind == KDX_OUTPUT) {
            hash = kdx_hash(hash, ext[i], (size_t)(e->count * (e->type == KDX_U8 ? 1 : 4)));
        }
    }
    for (int64_t r = 0; r < kdx_net.n_references; r++) {
        const KdxReference *want = &kdx_references[r];
        double d = element(&kdx_externs[want->from], ext[want->from], want->index) - want->value;
        if (!(d <= kdx_net.tolerance && -d <= kdx_net.tolerance)) {
            return KDX_DIFFERENT;
        }
    }
    return kdx_net.exact && hash != kdx_net.golden_hash ? KDX_DIFFERENT : KDX_OK;
}
