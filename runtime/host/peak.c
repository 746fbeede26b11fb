/* peak.c: measures the f32 multiply-add peak and the memory's bandwidth.
 *
 * In: a number of threads, of which no more are started than there are cores: more would not add to the peak, and threads
 * that wait for the start signal in turns make a round take minutes. Out: GFLOP/s. Each thread runs a loop of independent multiply-adds on registers only,
 * enough of them to cover the latency of two units (12 chains; 4 cycles x 2 units = 8 would just do). The
 * instructions are written as inline assembly on vector-extension types, because whether a compiler contracts a*b + c
 * into one instruction depends on its flags. The widest version that this CPU has is picked at run time. A machine
 * has moods, so the best of several short rounds counts. For the bandwidth each thread has its own part of arrays that
 * are larger than caches, written once before (so that there is memory behind them, near that thread): reading one, and
 * the triad of McCalpin's STREAM.
 */
#include "runtime/host/peak.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { CHAINS = 12, ROUNDS = 7, PASSES = 5 };

/* Declares NAME(trips): `trips` rounds of CHAINS multiply-adds of LANES floats. INSN takes %0 += %1 * %2. */
#define MULTIPLY_ADD(NAME, TARGET, LANES, REG, INSN)                                               \
    TARGET static void NAME(int64_t trips) {                                                       \
        typedef float V __attribute__((vector_size(4 * (LANES))));                                 \
        V x = {0}, y = {0};                                                                        \
        V a = {0}, b = {0}, c = {0}, d = {0}, e = {0}, f = {0};                                    \
        V g = {0}, h = {0}, i = {0}, j = {0}, k = {0}, l = {0};                                    \
        for (int64_t t = 0; t < trips; t++) {                                                      \
            __asm__ volatile(INSN : "+" REG(a) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(b) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(c) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(d) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(e) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(f) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(g) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(h) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(i) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(j) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(k) : REG(x), REG(y));                                  \
            __asm__ volatile(INSN : "+" REG(l) : REG(x), REG(y));                                  \
        }                                                                                          \
    }

typedef struct Unit {
    const char *name;
    int lanes;
    void (*run)(int64_t trips);
} Unit;

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f")))
#define AVX2 __attribute__((target("avx2,fma")))
MULTIPLY_ADD(run_avx512, AVX512, 16, "v", "vfmadd231ps %2, %1, %0")
MULTIPLY_ADD(run_avx2, AVX2, 8, "x", "vfmadd231ps %2, %1, %0")
/* Without FMA a multiply and an add share the work: one of each per chain is the same two operations. */
MULTIPLY_ADD(run_sse2, , 4, "x", "mulps %2, %0\n\taddps %1, %0")

static Unit best_unit(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return (Unit){"avx512", 16, run_avx512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (Unit){"avx2+fma", 8, run_avx2};
    return (Unit){"sse2", 4, run_sse2};
}
#elif defined(__aarch64__)
MULTIPLY_ADD(run_neon, , 4, "w", "fmla %0.4s, %1.4s, %2.4s")

static Unit best_unit(void) { return (Unit){"neon", 4, run_neon}; }
#else
static void run_scalar(int64_t trips) {
    volatile float x = 0;
    for (int64_t t = 0; t < trips * CHAINS; t++)
        x = x * x + x;
}

static Unit best_unit(void) { return (Unit){"scalar", 1, run_scalar}; }
#endif

/* ---- threads ------------------------------------------------------------------------------------------------ */

/* One round: the workers report ready, wait for `go`, run, and note when they were done. */
typedef struct Round {
    void (*run)(const struct Round *r, int worker);
    Unit unit;
    int64_t trips;
    float *a, *b, *c; /* of the bandwidth: `part` elements for each worker */
    int64_t part;
    atomic_int ready, go; /* go: 1 = run, -1 = give up */
} Round;

typedef struct Worker {
    Round *round;
    pthread_t id;
    int number;
    double end;
} Worker;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *worker_main(void *arg) {
    Worker *w = arg;
    Round *r = w->round;
    atomic_fetch_add(&r->ready, 1);
    while (atomic_load(&r->go) == 0)
        sched_yield();
    if (atomic_load(&r->go) > 0)
        r->run(r, w->number);
    w->end = now();
    return NULL;
}

/* Seconds from the start signal to the last end; 0 when a thread could not be started. */
static double round_seconds(Round *r, Worker *workers, int threads) {
    int started = 0;
    atomic_store(&r->ready, 0);
    atomic_store(&r->go, 0);
    for (; started < threads; started++) {
        workers[started].round = r;
        workers[started].number = started;
        if (pthread_create(&workers[started].id, NULL, worker_main, &workers[started]) != 0)
            break;
    }
    while (atomic_load(&r->ready) < started)
        sched_yield();
    double start = now(), last = start;
    atomic_store(&r->go, started == threads ? 1 : -1);
    for (int t = 0; t < started; t++) {
        pthread_join(workers[t].id, NULL);
        last = workers[t].end > last ? workers[t].end : last;
    }
    return started == threads ? last - start : 0;
}

/* The least of `rounds`; 0 when threads cannot be started. */
static double least_seconds(Round *r, Worker *workers, int threads, int rounds) {
    double best = 0;
    for (int i = 0; i < rounds; i++) {
        double seconds = round_seconds(r, workers, threads);
        if (i == 0 || seconds < best)
            best = seconds;
    }
    return best;
}

/* No more than there are cores; 0: none. */
static int useful_threads(int threads) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores > 0 && threads > cores ? (int)cores : threads < 1 ? 0 : threads;
}

/* ---- multiply-adds ------------------------------------------------------------------------------------------ */

static void run_unit(const Round *r, int worker) {
    (void)worker;
    r->unit.run(r->trips);
}

/* As many trips as take about 10 ms alone. */
static int64_t calibrate(const Unit *u) {
    for (int64_t trips = 1 << 12;; trips *= 2) {
        double start = now();
        u->run(trips);
        if (now() - start > 0.01)
            return trips;
    }
}

double kd_host_fma_peak(int threads) {
    threads = useful_threads(threads);
    Worker *workers = threads ? calloc((size_t)threads, sizeof *workers) : NULL;
    if (!workers)
        return 0;
    Round r = {.run = run_unit, .unit = best_unit()};
    r.trips = calibrate(&r.unit);
    double best = least_seconds(&r, workers, threads, ROUNDS);
    free(workers);
    return best > 0 ? 2.0 * CHAINS * r.unit.lanes * (double)r.trips * threads / best * 1e-9 : 0;
}

const char *kd_host_fma_name(void) { return best_unit().name; }

/* ---- memory ------------------------------------------------------------------------------------------------- */

typedef float Four __attribute__((vector_size(16)));

static void fill(const Round *r, int worker) {
    for (int64_t i = worker * r->part; i < (worker + 1) * r->part; i++)
        r->a[i] = 0, r->b[i] = 1, r->c[i] = 2;
}

static void triad(const Round *r, int worker) {
    Four *a = (Four *)(r->a + worker * r->part);
    const Four *b = (const Four *)(r->b + worker * r->part), *c = (const Four *)(r->c + worker * r->part);
    for (int64_t i = 0; i < r->part / 4; i += 2) {
        a[i] = b[i] + 3 * c[i];
        a[i + 1] = b[i + 1] + 3 * c[i + 1];
    }
}

/* Sums, which are kept so that nobody leaves them out. */
static void read_all(const Round *r, int worker) {
    const Four *b = (const Four *)(r->b + worker * r->part);
    Four s = {0}, t = {0}, u = {0}, v = {0}; /* an addition takes longer than a load */
    for (int64_t i = 0; i < r->part / 4; i += 4)
        s += b[i], t += b[i + 1], u += b[i + 2], v += b[i + 3];
    *(Four *)(r->a + worker * r->part) = s + t + u + v;
}

KdBandwidth kd_host_bandwidth(int threads) {
    const int64_t all = 16 << 20; /* elements of an array */
    KdBandwidth found = {0, 0};
    threads = useful_threads(threads);
    Worker *workers = threads ? calloc((size_t)threads, sizeof *workers) : NULL;
    float *memory = workers ? aligned_alloc(64, (size_t)all * 3 * sizeof *memory) : NULL;
    if (memory) {
        Round r = {.run = fill, .a = memory, .b = memory + all, .c = memory + 2 * all, .part = all / threads / 16 * 16};
        double bytes = (double)sizeof(float) * (double)r.part * threads;
        double filled = round_seconds(&r, workers, threads);
        r.run = triad;
        double t = filled > 0 ? least_seconds(&r, workers, threads, PASSES) : 0;
        r.run = read_all;
        double s = t > 0 ? least_seconds(&r, workers, threads, PASSES) : 0;
        found.triad = t > 0 ? 3 * bytes / t * 1e-9 : 0;
        found.read = s > 0 ? bytes / s * 1e-9 : 0;
    }
    free(memory);
    free(workers);
    return found;
}
