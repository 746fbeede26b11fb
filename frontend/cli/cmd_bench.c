/* cmd_bench.c: kdc bench: how fast a network, or a training step, is on this machine, and how near to what it could do.
 *
 * Compiles, fills weights (given, or random by seed) and data (random), runs a few times unmeasured and then --runs times.
 * The machine's multiply-add peak is measured right before and right after, with as many threads: a share of it is then a
 * share of what this machine gave at this time. Operations of a network are two for each multiply-accumulate of convolutions
 * and products of matrices, transposed ones counted by their input (Tin), in the median time; those of a training step are
 * what its kernels count, in the mean time, since not all steps run the same blocks. --profile runs as often again and
 * adds up the time of each kernel, measures the memory's bandwidth, and counts spills in the kernels' inner loops.
 */
#include "frontend/cli/explain.h"
#include "frontend/cli/report.h"
#include "frontend/cli/tensors.h"
#include "runtime/host/peak.h"
#include "runtime/kdrt/kdrt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WARM = 2, RUNS = 20 };

typedef struct Kernel { /* one row of the table: a kernel in all its calls */
    const char *what;
    int64_t calls;         /* in one run */
    double seconds;        /* of one run, mean */
    double flops, bytes;   /* of one run */
    int spills;            /* in its inner loops */
} Kernel;

typedef struct Bench {
    const KdcArgs *a;
    KdcProgram *p;
    KdcFiles files;
    KdcRunnable *r; /* of a session: what ran its latest step */
    KdcSession *s;  /* or NULL */
    const char *shapes;
    KD_VEC(KdcTensor *) all;
    int runs;
    double *seconds; /* sorted */
    double median, mean;
    double flops, macs; /* of a run; flops of a session: on average, since `every` blocks run in some steps only */
    double peak_before, peak_after;
    int64_t weight_bytes, parameters;
    KdcStats stats;
    KD_VEC(Kernel) kernels;
    double profiled; /* seconds of a run, all kernels */
    KdBandwidth bandwidth; /* measured after the profile's runs */
    int64_t process_peak;  /* bytes, before that takes its memory */
} Bench;

/* ---- what runs ------------------------------------------------------------------------------------------ */

static bool compile(Bench *b, bool session) {
    KdcShapes s = {.train = b->a->train || session};
    if (!kdc_cli_shapes(b->p, b->a, &s)) {
        return false;
    }
    if (!session) {
        kdc_cli_default_shape(b->p, b->a, b->a->name, &s);
        b->r = kdc_net(b->p, b->a->name, &s);
        for (int i = 0; b->r && i < kdc_input_count(b->r); i++) {
            kd_push(b->p->cx, &b->all, kdc_input(b->r, i));
        }
        return b->r != NULL;
    }
    b->s = kdc_session(b->p, b->a->name, &s);
    if (!b->s || kdc_session_prepare(b->s, 1, WARM + b->runs, &b->stats) != KDC_OK) {
        return false;
    }
    for (int i = 0; i < kdc_session_count(b->s); i++) {
        kd_push(b->p->cx, &b->all, kdc_session_tensor(b->s, i));
    }
    return true;
}

/* splitmix64: Steele, Lea and Flood 2014 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* f32 in [-1, 1), u8 in 0..255; whole numbers, which may be labels of few classes, 0. */
static void fill_data(Bench *b, KdcTensor *t, uint64_t *state) {
    for (int64_t i = 0; i < t->count; i++) {
        uint64_t x = next_random(state) >> 40;
        switch (t->dtype) {
        case KDC_F32:
            ((float *)t->data)[i] = (float)x / 8388608 - 1;
            break;
        case KDC_U8:
            ((uint8_t *)t->data)[i] = (uint8_t)x;
            break;
        case KDC_I32:
            ((int32_t *)t->data)[i] = 0;
            break;
        }
    }
    if (t->rank == 0 && strcmp(t->name, "rng_step") == 0) {
        *(int32_t *)t->data = 1;
    } else if (t->rank == 0 && strcmp(t->name, "rng_seed") == 0) {
        *(int32_t *)t->data = (int32_t)(uint32_t)b->a->seed;
    }
}

static bool fill(Bench *b) {
    KdcArgs a = *b->a;
    uint64_t state = a.seed;
    KdStr shapes = {.cx = b->p->cx};
    const char *own = kd_format(b->p->cx, "%s.", a.name);
    a.quiet = a.quiet || a.n_weights == 0; /* that they are random is said in the results */
    for (int i = 0; i < b->files.weights.n && !b->s; i++) {
        if (strcmp(b->files.weights.v[i].net, own) == 0) {
            b->files.weights.v[i].net = "";
        }
    }
    for (int i = 0; i < b->all.n; i++) {
        KdcTensor *t = b->all.v[i];
        if (t->role == KDC_DATA) {
            fill_data(b, t, &state);
            if (t->rank > 0) {
                kd_str_printf(&shapes, "%s%s: %s", shapes.n ? ", " : "", t->name, kdc_tensor_shape(b->p->cx, t));
            }
        } else if (t->role != KDC_STATE) {
            b->weight_bytes += kdc_tensor_bytes(t);
            b->parameters += t->role == KDC_BUFFER ? 0 : t->count;
        }
    }
    b->shapes = shapes.n ? shapes.s : "no data";
    if (!kdc_cli_check_shapes(b->p, b->a, b->all.v, b->all.n) ||
        !kdc_fill_weights(b->p, &a, &b->files, !b->s, b->all.v, b->all.n)) {
        return false;
    }
    if (b->r) {
        kdc_hold_weights(b->r, true);
    }
    return true;
}

/* ---- measuring ------------------------------------------------------------------------------------------ */

static bool run_once(Bench *b, int64_t step) {
    if (!b->s) {
        return kdc_run(b->r) == KDC_OK;
    }
    bool ok = kdc_session_step(b->s, step, 1, b->a->seed) == KDC_OK;
    b->r = kdc_session_runnable(b->s);
    return ok;
}

static double kernel_flops(const Bench *b) {
    const KlModule *m = kdc_runnable_unit(b->r)->result.loops;
    double flops = 0;
    for (int c = 0; c < m->calls.n; c++) {
        flops += m->kernels.v[m->calls.v[c].kernel]->flops;
    }
    return flops;
}

static bool measure(Bench *b) {
    int threads = kdc_threads(b->p), n = b->runs;
    b->seconds = KD_NEW_ARRAY(b->p->cx, double, n);
    for (int i = 0; i < WARM; i++) {
        if (!run_once(b, 1 + i)) {
            return false;
        }
    }
    b->peak_before = kd_host_fma_peak(threads);
    for (int i = 0; i < n; i++) {
        double start = kdc_now();
        if (!run_once(b, 1 + WARM + i)) {
            return false;
        }
        b->seconds[i] = kdc_now() - start;
        b->mean += b->seconds[i] / n;
        b->flops += kernel_flops(b) / n;
    }
    b->peak_after = kd_host_fma_peak(threads);
    b->median = kdc_median(b->seconds, n);
    return true;
}

static int slowest_first(const void *x, const void *y) {
    double a = ((const Kernel *)x)->seconds, b = ((const Kernel *)y)->seconds;
    return (a < b) - (a > b);
}

/* Rows by kernel, of step 1 when it is a session. */
static bool profile(Bench *b) {
    if (!run_once(b, 1)) { /* sets b->r */
        return false;
    }
    const KlModule *m = kdc_runnable_unit(b->r)->result.loops;
    KdrtProfile all = {.n = m->calls.n};
    all.call = kd_alloc(b->p->cx, sizeof *all.call * (size_t)(m->calls.n + 1));
    memset(all.call, 0, sizeof *all.call * (size_t)(m->calls.n + 1));
    kdc_runnable_profile(b->r, &all);
    bool ok = true;
    for (int i = 0; i < b->runs && ok; i++) {
        ok = run_once(b, 1);
    }
    kdc_runnable_profile(b->r, NULL);
    KdCodegenOptions o = kdc_codegen_options(b->p);
    const int *spills = kd_kernel_spills(b->p->cx, m, &b->p->host, &o);
    b->bandwidth = kd_host_bandwidth(kdc_threads(b->p));
    int *row = KD_NEW_ARRAY(b->p->cx, int, m->kernels.n + 1);
    for (int c = 0; c < m->calls.n; c++) {
        const KlKernel *k = m->kernels.v[m->calls.v[c].kernel];
        int *at = &row[m->calls.v[c].kernel]; /* number of its row, plus 1 */
        if (!*at) {
            int n = spills ? spills[m->calls.v[c].kernel] : 0;
            kd_push(b->p->cx, &b->kernels, (Kernel){.what = k->what, .spills = n});
            *at = b->kernels.n;
        }
        Kernel *x = &b->kernels.v[*at - 1];
        x->calls++;
        x->seconds += all.call[c].seconds / b->runs;
        x->flops += k->flops;
        x->bytes += k->bytes;
        b->profiled += all.call[c].seconds / b->runs;
    }
    qsort(b->kernels.v, (size_t)b->kernels.n, sizeof *b->kernels.v, slowest_first);
    return ok && spills;
}

static void count(Bench *b) {
    b->process_peak = kdc_peak_bytes();
    const KdcUnit *u = kdc_runnable_unit(b->r);
    if (b->s) {
        KdcStats one = kdc_unit_stats(u); /* of the latest step; memory and time are of all variants */
        b->stats.kernels = one.kernels;
        b->stats.calls = one.calls;
        b->macs = kdc_session_macs(b->s).t_in;
        return;
    }
    b->stats = kdc_stats(b->r);
    b->macs = kd_lang_macs(u->func).t_in;
    b->flops = b->macs > 0 ? 2 * b->macs : b->flops;
}

/* ---- results ---------------------------------------------------------------------------------------- */

static double peak(const Bench *b) {
    return b->peak_before > b->peak_after ? b->peak_before : b->peak_after;
}

static double share(const Bench *b, double gflops) {
    return peak(b) > 0 ? 100 * gflops / peak(b) : 0;
}

static double per_second(double x, double seconds) { /* in 1e9 */
    return seconds > 0 ? x / seconds * 1e-9 : 0;
}

static double rate(const Bench *b) {
    return per_second(b->flops, b->s ? b->mean : b->median);
}

/* Of the faster of the two ways that memory was measured, in percent. Above 100 is what the caches gave. */
static double share_of_bandwidth(const Bench *b, double gbytes) {
    double most = b->bandwidth.triad > b->bandwidth.read ? b->bandwidth.triad : b->bandwidth.read;
    return most > 0 ? 100 * gbytes / most : 0;
}

static void print_table(const Bench *b) {
    printf("  bandwidth     triad %.1f GB/s, read %.1f GB/s\n", b->bandwidth.triad, b->bandwidth.read);
    printf("\n%6s %10s %7s %9s %8s %9s %8s %8s %6s  %s\n", "calls", "ms a run", "share", "GFLOP/s", "of peak", "MB",
           "GB/s", "of mem.", "spills", "kernel");
    for (int i = 0; i < b->kernels.n; i++) {
        const Kernel *k = &b->kernels.v[i];
        double gflops = per_second(k->flops, k->seconds), gbytes = per_second(k->bytes, k->seconds);
        printf("%6lld %10.3f %6.1f%% %9.1f %7.1f%% %9.2f %8.1f %7.1f%% %6d  %s\n", (long long)k->calls,
               1e3 * k->seconds, b->profiled > 0 ? 100 * k->seconds / b->profiled : 0, gflops, share(b, gflops), k->bytes * 1e-6, gbytes,
               share_of_bandwidth(b, gbytes), k->spills, k->what ? k->what : "?");
    }
    printf("%6s %10.3f  all kernels\n", "", 1e3 * b->profiled);
}

static void print_text(const Bench *b) {
    double gflops = rate(b);
    int threads = kdc_threads(b->p);
    printf("%s%s: %s, %d thread%s%s\n", b->a->name, b->s ? " (a training step)" : "", b->shapes, threads, threads == 1 ? "" : "s",
           b->a->train && !b->s ? ", training mode" : "");
    printf("  latency       median %.3f ms, %.3f to %.3f (%d runs)\n", 1e3 * b->median, 1e3 * b->seconds[0],
           1e3 * b->seconds[b->runs - 1], b->runs);
    printf("  MACs          %.4g G%s\n", b->macs * 1e-9, b->s ? " in forward passes" : " (Tin)");
    printf("  speed         %.1f GFLOP/s, %.1f%% of the peak%s\n", gflops, share(b, gflops),
           b->s || b->macs == 0 ? " (operations as its kernels count them)" : "");
    printf("  peak          %.1f GFLOP/s with %s, %.1f before and %.1f after\n", peak(b), kd_host_fma_name(), b->peak_before,
           b->peak_after);
    printf("  memory        weights %.2f MB, packed once %.2f MB, activations %.2f MB (%.2f MB unplanned), process %.0f MB at most\n",
           (double)b->weight_bytes * 1e-6, (double)b->stats.memory_packed * 1e-6, (double)b->stats.memory * 1e-6, (double)b->stats.memory_naive * 1e-6,
           (double)b->process_peak * 1e-6);
    printf("  kernels       %d, %d calls a run; compiled in %.2f s%s\n", b->stats.kernels, b->stats.calls, b->stats.seconds,
           b->stats.from_cache ? " (kernels from the cache)" : "");
    if (!b->a->n_weights) {
        printf("  weights       random (seed %llu)\n", (unsigned long long)b->a->seed);
    }
    if (b->a->profile) {
        print_table(b);
    }
    if (b->a->explain) {
        KdStr s = {.cx = b->p->cx};
        kdc_cli_explain_text(&s, b->p, kdc_runnable_unit(b->r), &b->p->host);
        printf("%s", s.s);
    }
}

static json_t *kernels_json(const Bench *b) {
    json_t *list = json_array();
    for (int i = 0; i < b->kernels.n; i++) {
        const Kernel *k = &b->kernels.v[i];
        double gflops = per_second(k->flops, k->seconds), gbytes = per_second(k->bytes, k->seconds);
        json_t *row = json_pack("{s:s, s:I, s:f, s:f, s:f, s:f}", "what", k->what ? k->what : "?", "calls",
                                (json_int_t)k->calls, "ms", 1e3 * k->seconds, "share",
                                b->profiled > 0 ? k->seconds / b->profiled : 0, "gflops", gflops, "of_peak",
                                share(b, gflops) / 100);
        json_t *memory = json_pack("{s:f, s:f, s:f, s:i}", "bytes", k->bytes, "gbytes", gbytes, "of_bandwidth",
                                   share_of_bandwidth(b, gbytes) / 100, "spills", k->spills);
        json_object_update(row, memory);
        json_decref(memory);
        json_array_append_new(list, row);
    }
    return list;
}

static bool print_json(const Bench *b) {
    double gflops = rate(b);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:s}", "file", b->a->file, "name", b->a->name, "kind",
                          b->s ? "session" : "net", "inputs", b->shapes, "threads", kdc_threads(b->p), "train",
                          b->s || b->a->train, "weights", b->a->n_weights ? "given" : "random");
    json_t *latency = json_pack("{s:i, s:f, s:f, s:f}", "runs", b->runs, "median_ms", 1e3 * b->median, "min_ms", 1e3 * b->seconds[0],
                                "max_ms", 1e3 * b->seconds[b->runs - 1]);
    json_t *speed = json_pack("{s:f, s:f, s:s, s:f, s:f, s:f, s:s, s:f}", "macs", b->macs, "flops", b->flops, "flops_from",
                              b->s || b->macs == 0 ? "kernels" : "macs", "gflops", gflops, "peak_before", b->peak_before,
                              "peak_after", b->peak_after, "peak_with", kd_host_fma_name(), "of_peak", share(b, gflops) / 100);
    json_t *memory = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "parameters", (json_int_t)b->parameters, "weights",
                               (json_int_t)b->weight_bytes, "packed", (json_int_t)b->stats.memory_packed, "activations",
                               (json_int_t)b->stats.memory, "unplanned", (json_int_t)b->stats.memory_naive, "process_peak",
                               (json_int_t)b->process_peak);
    json_t *code = json_pack("{s:i, s:i, s:f, s:b}", "kernels", b->stats.kernels, "calls", b->stats.calls, "seconds",
                             b->stats.seconds, "from_cache", b->stats.from_cache);
    json_object_set_new(o, "latency", latency);
    json_object_set_new(o, "speed", speed);
    json_object_set_new(o, "memory", memory);
    json_object_set_new(o, "compiled", code);
    if (b->a->profile) {
        json_object_set_new(o, "profile", kernels_json(b));
        json_object_set_new(o, "bandwidth", json_pack("{s:f, s:f}", "triad", b->bandwidth.triad, "read",
                                                      b->bandwidth.read));
    }
    if (b->a->explain) {
        json_object_set_new(o, "schedules", kdc_cli_explain_json(b->p, kdc_runnable_unit(b->r), &b->p->host));
    }
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text) {
        kd_raise(b->p->cx, KD_FAIL_MACHINE, "out of memory for the results");
    }
    bool ok = kdc_cli_write(b->p, NULL, text, strlen(text)) && kdc_cli_write(b->p, NULL, "\n", 1);
    free(text);
    return ok;
}

/* ---- the verb ---------------------------------------------------------------------------------------- */

static bool work(Bench *b) {
    const KdDecl *d = kdc_cli_find(b->p, b->a->name);
    bool session = d && d->kind == KD_DECL_SESSION;
    if (!kdc_files_read(b->p, b->a, &b->files) || !compile(b, session) || !fill(b) || !measure(b)) {
        return false;
    }
    count(b);
    if (b->a->profile && !profile(b)) {
        return false;
    }
    if (b->a->json) {
        return print_json(b);
    }
    print_text(b);
    return true;
}

int kdc_cmd_bench(const KdcArgs *a) {
    KdcWatch w;
    int code;
    if (!a->name) {
        return kdc_usage_error(a, "which network or session of %s? name it: %s:NAME", a->file, a->file);
    }
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = a->name;
    Bench b = {.a = a, .p = p, .runs = a->runs ? (int)a->runs : RUNS};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(&b);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_files_free(&b.files);
    kdc_settle(p, 0);
    return kdc_cli_close(a, &w, p, ok);
}
