/* test_determinism.c: training gives the same bits whatever the number of threads, and again when it is run again.
 *
 * A small CycleGAN (residual generators, patch discriminators, image pools, two optimisers) is trained for 50 steps on
 * the same images: compiled at -O3 with 1, 2, 3, 4, 8 and 16 threads, a second time with one thread, and compiled anew at
 * -O0. All weights, buffers and states and the last step's outputs are those of the first run, bit for bit. More threads
 * than the machine has cores is deliberate: the pieces then run in ever different orders.
 *
 * The runs at -O3 share their machine code through a cache folder, so that the time goes into steps. That the steps are
 * really cut into as many pieces as there are threads is seen by standing between the runtime and OpenMP.
 */
#define _GNU_SOURCE

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/api/kdc.h"

#include <dirent.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(SANITIZED)
enum { STEPS = 10 };
#else
enum { STEPS = 50 };
#endif

typedef struct Training {
    KdcProgram *p;
    KdcSession *s;
} Training;

static void demand(KdcProgram *p, bool ok) {
    if (!ok || kdc_status(p) != KDC_OK) {
        kdc_print_messages(p, stderr, false);
        fail_msg("status %d", (int)kdc_status(p));
    }
}

static Training start(int threads, int opt, const char *cache, uint64_t seed) {
    static const char *const defines[] = {"size=32", "ngf=4", "ndf=16", "n_blocks=2", "pool=2"};
    KdcOptions o = {.defines = defines, .n_defines = sizeof defines / sizeof *defines, .threads = threads,
                    .opt = opt + 1, .cache = cache};
    Training t = {.p = kdc_open(KDC_SOURCE_DIR "/models/recipes/cyclegan.kd", NULL, 0, &o)};
    assert_non_null(t.p);
    demand(t.p, true);
    t.s = kdc_session(t.p, "cyclegan", &(KdcShapes){0});
    demand(t.p, t.s);
    demand(t.p, kdc_session_initialise(t.s, seed) == KDC_OK);
    return t;
}

/* Images of smooth patches and noise, in [-1, 1], new ones for each step. */
static void fill(KdcTensor *t, uint64_t seed) {
    assert_non_null(t);
    for (int64_t i = 0; i < t->count; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        float noise = (float)(int32_t)(seed >> 32) / 2147483648.0f;
        ((float *)t->data)[i] = 0.7f * (float)((i / 8 + (int64_t)seed % 3) % 5 - 2) / 2 + 0.3f * noise;
    }
}

static void train(Training *t) {
    for (int step = 1; step <= STEPS; step++) {
        fill(kdc_session_find(t->s, "a"), (uint64_t)step);
        fill(kdc_session_find(t->s, "b"), (uint64_t)step + 1000);
        demand(t->p, kdc_session_step(t->s, step, 1 + step / 25, 5) == KDC_OK);
    }
}

static size_t bytes_of(const KdcTensor *t) { return (size_t)t->count * (t->dtype == KDC_U8 ? 1 : 4); }

static void same_tensor(const KdcTensor *want, const KdcTensor *got, const char *run) {
    assert_string_equal(want->name, got->name);
    assert_int_equal(bytes_of(want), bytes_of(got));
    const char *a = want->data, *b = got->data;
    size_t at = 0;
    while (at < bytes_of(want) && a[at] == b[at]) {
        at++;
    }
    if (at < bytes_of(want)) {
        fail_msg("%s: %s differs at element %zu of %lld", run, want->name, at / (want->dtype == KDC_U8 ? 1 : 4),
                 (long long)want->count);
    }
}

static void same_session(const Training *want, const Training *got, const char *run) {
    assert_int_equal(kdc_session_count(want->s), kdc_session_count(got->s));
    for (int i = 0; i < kdc_session_count(want->s); i++) {
        same_tensor(kdc_session_tensor(want->s, i), kdc_session_tensor(got->s, i), run);
    }
    assert_int_equal(kdc_session_output_count(want->s), kdc_session_output_count(got->s));
    for (int i = 0; i < kdc_session_output_count(want->s); i++) {
        same_tensor(kdc_session_output(want->s, i), kdc_session_output(got->s, i), run);
    }
}

/* Something was trained: all is finite, and what the optimisers own has moved away from where it began. */
static void assert_trained(const Training *t) {
    Training fresh = start(1, 3, "", 11);
    int moved = 0, weights = 0;
    for (int i = 0; i < kdc_session_count(t->s); i++) {
        const KdcTensor *a = kdc_session_tensor(t->s, i), *b = kdc_session_tensor(fresh.s, i);
        for (int64_t k = 0; a->dtype == KDC_F32 && k < a->count; k++) {
            if (!isfinite(((const float *)a->data)[k])) {
                fail_msg("%s[%lld] is not finite", a->name, (long long)k);
            }
        }
        weights += a->role == KDC_WEIGHT;
        moved += a->role == KDC_WEIGHT && memcmp(a->data, b->data, bytes_of(a)) != 0;
    }
    assert_true(weights > 40);
    assert_int_equal(moved, weights);
    kdc_close(fresh.p);
}

#if defined(_OPENMP) && !defined(__clang__)
#define SEES_TEAMS 1
static unsigned largest_team;

/* What gcc makes of `omp parallel`: the runtime's calls come by here on their way to libgomp. */
void GOMP_parallel(void (*fn)(void *), void *data, unsigned threads, unsigned flags);
void GOMP_parallel(void (*fn)(void *), void *data, unsigned threads, unsigned flags) {
    void (*real)(void (*)(void *), void *, unsigned, unsigned);
    *(void **)&real = dlsym(RTLD_NEXT, "GOMP_parallel");
    largest_team = threads > largest_team ? threads : largest_team;
    real(fn, data, threads, flags);
}
#endif

static void remove_folder(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        unlink(path);
    }
    if (d) {
        closedir(d);
    }
    rmdir(folder);
}

static void any_number_of_threads(void **state) {
    (void)state;
    static const struct { int threads, opt; } runs[] = {{1, 3}, {2, 3}, {3, 3}, {4, 3}, {8, 3}, {16, 3}, {1, 0}};
    char cache[] = "/tmp/kdc-test-XXXXXX";
    assert_non_null(mkdtemp(cache));
    Training first = start(1, 3, cache, 11);
    train(&first);
    assert_trained(&first);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char run[64];
        snprintf(run, sizeof run, "%d threads, -O%d", runs[i].threads, runs[i].opt);
        Training t = start(runs[i].threads, runs[i].opt, runs[i].opt ? cache : "", 11);
#ifdef SEES_TEAMS
        largest_team = 1;
#endif
        train(&t);
        same_session(&first, &t, run);
        kdc_close(t.p);
#ifdef SEES_TEAMS
        assert_int_equal(largest_team, runs[i].threads);
#endif
    }
    kdc_close(first.p);
    remove_folder(cache);
}

/* Bits that never change would pass everything above. */
static void another_seed_gives_other_bits(void **state) {
    (void)state;
    Training a = start(2, 3, "", 11), b = start(2, 3, "", 12);
    int differ = 0, weights = 0;
    for (int i = 0; i < kdc_session_count(a.s); i++) {
        const KdcTensor *x = kdc_session_tensor(a.s, i), *y = kdc_session_tensor(b.s, i);
        bool random = x->role == KDC_WEIGHT && strncmp(x->init, "normal", 6) == 0;
        weights += random;
        differ += random && memcmp(x->data, y->data, bytes_of(x)) != 0;
    }
    assert_true(weights > 0);
    assert_int_equal(differ, weights);
    kdc_close(a.p);
    kdc_close(b.p);
}

int main(int argc, char **argv) {
    /* Sixteen threads on two cores: who waits must not spin. OpenMP reads this before main, hence once more from there. */
    if (argc > 0 && !getenv("OMP_WAIT_POLICY") && setenv("OMP_WAIT_POLICY", "passive", 1) == 0) {
        execv("/proc/self/exe", argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(another_seed_gives_other_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
