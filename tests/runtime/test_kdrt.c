/* test_kdrt.c: the runtime: who executes which indices, with which scratch; plans; memory; the peak measure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/host/peak.h"
#include "runtime/kdrt/kdrt.h"

enum { MOST = 1000, SCRATCH = 192 };

/* bufs[0]: how often each index was run. bufs[1]: the scratch that ran it. Each piece fills its whole scratch with its
 * begin and finds it untouched at its end. */
static void count_kernel(void *const *bufs, int64_t begin, int64_t end, void *scratch) {
    int *times = bufs[0];
    void **where = bufs[1];
    int64_t *mine = scratch;
    for (int i = 0; i < SCRATCH / 8; i++)
        mine[i] = begin;
    for (int64_t i = begin; i < end; i++) {
        times[i]++;
        where[i] = scratch;
    }
    for (int i = 0; i < SCRATCH / 8; i++)
        if (mine[i] != begin)
            times[begin] = -1000;
}

static void test_every_index_once(void **state) {
    (void)state;
    static const int64_t ranges[] = {0, 1, 2, 3, 7, 16, 37, 1000}, grains[] = {0, 1, 2, 5, 40, 2000};
    static int times[MOST];
    static void *where[MOST];
    void *bufs[2] = {times, where};
    for (int threads = 1; threads <= 6; threads++) {
        char *scratch = kdrt_alloc((size_t)threads * SCRATCH);
        KdrtContext cx = {.threads = threads, .scratch = scratch, .scratch_bytes = SCRATCH};
        for (int r = 0; r < 8; r++)
            for (int g = 0; g < 6; g++) {
                memset(times, 0, sizeof times);
                kdrt_parallel_for(&cx, count_kernel, bufs, ranges[r], grains[g], 0);
                for (int64_t i = 0; i < MOST; i++)
                    assert_int_equal(times[i], i < ranges[r]);
                int64_t run = 0;
                for (int64_t i = 0; i < ranges[r]; i++) {
                    size_t thread = (size_t)((char *)where[i] - scratch) / SCRATCH;
                    assert_true(thread < (size_t)threads);
                    /* Pieces are contiguous, and none is smaller than the grain. */
                    run = i && where[i] == where[i - 1] ? run + 1 : 1;
                    bool last = i + 1 == ranges[r] || where[i + 1] != where[i];
                    if (last && run < ranges[r])
                        assert_true(run >= grains[g]);
                }
            }
        kdrt_free(scratch);
    }
}

static void add_kernel(void *const *bufs, int64_t begin, int64_t end, void *scratch) {
    (void)scratch;
    const float *x = bufs[0], *y = bufs[1];
    float *r = bufs[2];
    for (int64_t i = begin; i < end; i++)
        r[i] = x[i] + y[i];
}

static void test_plan(void **state) {
    (void)state;
    enum { N = 64 };
    float x[2 * N], out[N], arena[2 * N] = {0};
    static const float pool[2 * N] = {[N] = 100, [N + 1] = 200};
    for (int i = 0; i < 2 * N; i++)
        x[i] = (float)i;
    const KdrtArg first[] = {{0, 0}, {0, N * 4}, {KDRT_ARENA, N * 4}};
    const KdrtArg second[] = {{KDRT_ARENA, N * 4}, {KDRT_POOL, N * 4}, {1, 0}};
    const KdrtCall calls[] = {{add_kernel, first, 3, N, 1}, {add_kernel, second, 3, N, 1}};
    const KdrtPlan plan = {calls, 2, pool};
    void *ext[] = {x, out};
    KdrtProfile profile = {.n = 2, .call = calloc(2, sizeof *profile.call)};
    for (int threads = 1; threads <= 3; threads++) {
        memset(out, 0, sizeof out);
        KdrtContext cx = {.threads = threads, .profile = &profile};
        kdrt_run(&cx, &plan, ext, arena);
        for (int i = 0; i < N; i++)
            assert_true(out[i] == (float)(i + i + N) + (i == 0 ? 100 : i == 1 ? 200 : 0));
        assert_true(profile.call[0].calls == threads && profile.call[1].calls == threads);
    }
    assert_true(profile.call[0].seconds > 0 && profile.call[1].seconds > 0);
    profile.n = 1; /* calls beyond the profile are not counted */
    KdrtContext cx = {.threads = 1, .profile = &profile};
    kdrt_run(&cx, &plan, ext, arena);
    assert_true(profile.call[0].calls == 4 && profile.call[1].calls == 3);
    free(profile.call);
}

static void test_memory(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 1 << 20, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 9 << 20};
    for (int i = 0; i < 11; i++) {
        unsigned char *p = kdrt_alloc(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t j = 0; j < sizes[i]; j += sizes[i] > 4096 ? 509 : 1)
            assert_int_equal(p[j], 0);
        memset(p, 255, sizes[i]);
        kdrt_free(p);
    }
    kdrt_free(NULL);
    assert_null(kdrt_alloc(SIZE_MAX));
    assert_null(kdrt_alloc(SIZE_MAX - 100));
    assert_null(kdrt_alloc(SIZE_MAX / 2));
}

static void test_peak(void **state) {
    (void)state;
    double one = kd_host_fma_peak(1), two = kd_host_fma_peak(2);
    /* Anything slower than 0.5 or faster than 2000 GFLOP/s a core is a mistake of ours. */
    assert_true(one > 0.5 && one < 2000);
    assert_true(two > 0.25 * one && two < 4000);
    assert_true(kd_host_fma_peak(0) == 0);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    assert_true(kd_host_fma_peak(1024) > 0); /* measured with the machine's cores */
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(end.tv_sec - start.tv_sec < 10);
    assert_true(strlen(kd_host_fma_name()) > 0);
    KdBandwidth one_bw = kd_host_bandwidth(1), none = kd_host_bandwidth(0);
    /* Less than 0.2 or more than 500 GB/s for one core is a mistake of ours, too: caches, or a loop left out. */
    assert_true(one_bw.triad > 0.2 && one_bw.triad < 500 && one_bw.read > 0.2 && one_bw.read < 500);
    assert_true(none.triad == 0 && none.read == 0);
    assert_true(kd_host_bandwidth(1024).triad > 0.2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_index_once),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_peak),
    };
    return cmocka_run_group_tests_name("kdrt", tests, NULL, NULL);
}
