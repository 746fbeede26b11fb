/* peak.c: measures the f32 multiply-add peak.
 *
 * In: a number of threads, of which no more are started than there are cores: more would not add to the peak, and threads
 * that wait for the start signal in turns make a round take minutes. Out: GFLOP/s. Each thread runs a loop of independent multiply-adds on registers only,
 * enough of them to cover the latency of two units (12 chains; 4 cycles x 2 units = 8 would just do). The
 * instructions are written as inline assembly on vector-extension types, because whether a compiler contracts a*b + c
 * into one instruction depends on its flags. The widest version that this CPU has is picked at run time. A machine
 * has moods, so the best of several short rounds counts.
 */
#include "runtime/host/peak.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { CHAINS = 12, ROUNDS = 7 };

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

/* One round: the workers report ready, wait for `go`, run, and note when they were done. */
typedef struct Round {
    Unit unit;
    int64_t trips;
    atomic_int ready, go; /* go: 1 = run, -1 = give up */
} Round;

typedef struct Worker {
    Round *round;
    pthread_t id;
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
        r->unit.run(r->trips);
    w->end = now();
    return NULL;
}

/* Seconds from the start signal to the last end; 0 when a thread could not be started. */
static double round_seconds(Unit unit, int64_t trips, Worker *workers, int threads) {
    Round r = {.unit = unit, .trips = trips};
    int started = 0;
    for (; started < threads; started++) {
        workers[started].round = &r;
        if (pthread_create(&workers[started].id, NULL, worker_main, &workers[started]) != 0)
            break;
    }
    while (atomic_load(&r.ready) < started)
        sched_yield();
    double start = now(), last = start;
    atomic_store(&r.go, started == threads ? 1 : -1);
    for (int t = 0; t < started; t++) {
        pthread_join(workers[t].id, NULL);
        last = workers[t].end > last ? workers[t].end : last;
    }
    return started == threads ? last - start : 0;
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
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (threads < 1)
        return 0;
    if (cores > 0 && threads > cores)
        threads = (int)cores;
    Worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!workers)
        return 0;
    Unit unit = best_unit();
    int64_t trips = calibrate(&unit);
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double seconds = round_seconds(unit, trips, workers, threads);
        if (round == 0 || seconds < best)
            best = seconds;
    }
    free(workers);
    return best > 0 ? 2.0 * CHAINS * unit.lanes * (double)trips * threads / best * 1e-9 : 0;
}

const char *kd_host_fma_name(void) { return best_unit().name; }
