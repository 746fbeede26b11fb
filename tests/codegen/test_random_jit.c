/* test_random_jit.c: random graphs (tests/passes/random_graph.h), forward and gradients, compiled and evaluated.
 *
 * Each graph goes through the whole pipeline. Then the graph evaluator (double precision) and the loop evaluator agree
 * within a tolerance, and the loop evaluator and the machine code agree bit for bit: the JIT at -O0 or -O3 with one, two
 * or four threads, for the machine's vectors or narrower ones, alternating from graph to graph. Every tenth graph is run
 * again with each pass left out that may be; every twentieth is an object file, too, linked by the system's compiler.
 * Memory is filled with NaN, what has several threads is cut as finely as it can be, and behind each buffer are bytes
 * that must not change.
 *
 * KDC_RANDOM_GRAPHS=N   how many (default 1000; with sanitizers 150);  KDC_RANDOM_SEED=S   the first seed (default 10001)
 *
 * How a graph is run depends on its seed alone, so that a seed that failed fails again. A graph whose reference itself
 * moves when its inputs move by 1e-6 (a relu's gradient at zero, a small divisor) may differ that much between double
 * and single precision. Between loops and machine code nothing may differ.
 */
#include "tests/codegen/harness.h"
#include "tests/passes/lower_harness.h"
#include "tests/passes/random_graph.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(SANITIZED)
enum { GRAPHS = 150 };
#else
enum { GRAPHS = 1000 };
#endif
enum { FIRST = 10001, GUARD = 256, GUARD_BYTE = 0xa5 };

typedef struct Way {
    const char *skip; /* a pass, or NULL */
    int lanes;        /* 0: the machine's */
    int opt, threads;
    bool object;
} Way;

typedef struct Graph {
    int seed;
    KdContext *cx;
    KdFunc *f;         /* as made: may hold gradients and optimisers still to be derived */
    const KdFunc *ref; /* without them */
    double **in, **want;
} Graph;

typedef struct Done {
    int compiled, objects, calls, kernels;
} Done;

/* ---- memory ------------------------------------------------------------------------------------------ */

static size_t extern_bytes(const KlExtern *e) { return (size_t)e->count * scalar_bytes(e->dtype); }

/* 0xff is NaN: what is read before it is written shows. */
static void *guarded(size_t bytes) {
    unsigned char *p = kdrt_alloc(bytes + GUARD);
    assert_non_null(p);
    memset(p, 0xff, bytes);
    memset(p + bytes, GUARD_BYTE, GUARD);
    return p;
}

static bool guard_holds(const void *p, size_t bytes) {
    for (size_t i = bytes; i < bytes + GUARD; i++) {
        if (((const unsigned char *)p)[i] != GUARD_BYTE) {
            return false;
        }
    }
    return true;
}

/* One block per extern: the inputs hold their values, the outputs NaN. */
static void **externs_new(const Graph *g, const KlModule *m) {
    void **ext = calloc((size_t)m->externs.n + 1, sizeof *ext);
    assert_non_null(ext);
    for (int k = 0; k < m->externs.n; k++) {
        const KlExtern *e = &m->externs.v[k];
        ext[k] = guarded(extern_bytes(e));
        for (int64_t i = 0; k < g->ref->inputs.n && i < e->count; i++) {
            if (e->dtype == KL_F32) {
                ((float *)ext[k])[i] = (float)g->in[k][i];
            } else if (e->dtype == KL_I32) {
                ((int32_t *)ext[k])[i] = (int32_t)g->in[k][i];
            } else {
                ((uint8_t *)ext[k])[i] = (uint8_t)g->in[k][i];
            }
        }
    }
    return ext;
}

static void externs_free(const KlModule *m, void **ext) {
    for (int k = 0; k < m->externs.n; k++) {
        kdrt_free(ext[k]);
    }
    free(ext);
}

static const char *guards(KdContext *cx, const KlModule *m, void **ext) {
    for (int k = 0; k < m->externs.n; k++) {
        if (!guard_holds(ext[k], extern_bytes(&m->externs.v[k]))) {
            return kd_format(cx, "something is written behind '%s'", m->externs.v[k].name);
        }
    }
    return NULL;
}

/* NULL, or the first element whose bits differ; NaN equals NaN. */
static const char *different(KdContext *cx, const KlModule *m, void **want, void **got) {
    for (int k = 0; k < m->externs.n; k++) {
        const KlExtern *e = &m->externs.v[k];
        size_t size = scalar_bytes(e->dtype);
        for (int64_t i = 0; memcmp(want[k], got[k], extern_bytes(e)) != 0 && i < e->count; i++) {
            const char *a = (const char *)want[k] + (size_t)i * size, *b = (const char *)got[k] + (size_t)i * size;
            double x = lh_element(e, want[k], i), y = lh_element(e, got[k], i);
            if (memcmp(a, b, size) != 0 && !(e->dtype == KL_F32 && isnan(x) && isnan(y))) {
                return kd_format(cx, "%s[%lld] is %.9g (%a), not %.9g (%a)", e->name, (long long)i, y, y, x, x);
            }
        }
    }
    return NULL;
}

/* ---- double against single precision --------------------------------------------------------------------- */

/* Do the loops' outputs leave the range that the reference covers when its inputs move by 1e-6? */
static const char *beyond_precision(const Graph *g, double *const *got, const char *wrong) {
    enum { TURNS = 4 };
    const KdFunc *f = g->ref;
    double **x = lh_fill(f, 1), **moved[TURNS];
    uint64_t seed = 77;
    for (int turn = 0; turn < TURNS; turn++) {
        for (int k = 0; k < f->inputs.n; k++) {
            const KdType *t = kd_vtype(f, f->inputs.v[k]);
            for (int64_t i = 0; i < t->count; i++) {
                x[k][i] = g->in[k][i] * (t->dtype == KD_F32 ? 1 + 1e-6 * lh_number(&seed, KD_F32) : 1);
            }
        }
        moved[turn] = lh_want(f, x);
    }
    for (int o = 0; o < f->outputs.n; o++) {
        for (int64_t i = 0; i < kd_vtype(f, f->outputs.v[o].value)->count; i++) {
            double want = g->want[o][i], low = want, high = want;
            for (int turn = 0; turn < TURNS; turn++) {
                low = fmin(low, moved[turn][o][i]);
                high = fmax(high, moved[turn][o][i]);
            }
            if (!lh_near(got[o][i], want, 3e-4 + 8 * (high - low) / fmax(1, fabs(want)))) {
                return wrong;
            }
        }
    }
    return NULL;
}

static const char *loops_against_graph(const Graph *g, const KlModule *m, void **ext) {
    const KdFunc *f = g->ref;
    double **got = lh_results(f);
    for (int o = 0; o < f->outputs.n; o++) {
        int k = lh_extern_of(f, o);
        for (int64_t i = 0; i < kd_vtype(f, f->outputs.v[o].value)->count; i++) {
            got[o][i] = lh_element(&m->externs.v[k], ext[k], i);
        }
    }
    const char *wrong = lh_compare(f, got, g->want, 3e-4);
    wrong = wrong ? beyond_precision(g, got, wrong) : NULL;
    return wrong ? kd_format(g->cx, "evaluator and loops: %s", wrong) : NULL;
}

/* ---- machine code --------------------------------------------------------------------------------------------- */

/* Runs what was made on fresh memory and compares all of it with `want`. */
static const char *run_made(const Graph *g, const KlModule *m, const Made *made, int threads, void **want) {
    void **got = externs_new(g, m);
    size_t scratch_bytes = made->scratch * (size_t)threads;
    void *arena = guarded((size_t)m->arena), *scratch = guarded(scratch_bytes);
    KdrtContext rt = {.threads = threads, .scratch = scratch, .scratch_bytes = made->scratch};
    run_made_once(made, &rt, got, arena);
    const char *wrong = different(g->cx, m, want, got);
    wrong = wrong ? wrong : guards(g->cx, m, got);
    wrong = wrong ? wrong : guard_holds(arena, (size_t)m->arena) ? NULL : "something is written behind the arena";
    wrong = wrong ? wrong : guard_holds(scratch, scratch_bytes) ? NULL : "something is written behind the scratch";
    kdrt_free(arena);
    kdrt_free(scratch);
    externs_free(m, got);
    return wrong;
}

static const char *code_against_loops(const Graph *g, KlModule *m, const KdTarget *t, const Way *w, void **want,
                                      Done *done) {
    for (int k = 0; k < m->kernels.n && w->threads > 1; k++) {
        m->kernels.v[k]->grain = 1; /* these kernels are small: by their own grain most would stay on one thread */
    }
    Made jit = make_jit(g->cx, m, t, w->opt);
    done->compiled++;
    done->kernels += m->kernels.n;
    done->calls += m->calls.n;
    const char *wrong = run_made(g, m, &jit, w->threads, want);
    wrong = wrong ? kd_format(g->cx, "loops and JIT: %s", wrong) : NULL;
    if (!wrong && w->object) { /* the JIT's bits are the loops' */
        Made object = make_object(g->cx, m, t, 2);
        done->objects++;
        wrong = run_made(g, m, &object, 2, want);
        wrong = wrong ? kd_format(g->cx, "JIT and object file: %s", wrong) : NULL;
    }
    kd_jit_free(jit.jit);
    return wrong;
}

/* NULL, or what went wrong with this graph run this way. */
static const char *check(const Graph *g, const Way *w, Done *done) {
    KdContext *cx = g->cx;
    KdLanding landing;
    const char *volatile wrong = NULL;
    if (!KD_TRY(cx, landing)) {
        const char *message;
        kd_failure(cx, &message);
        return kd_format(cx, "raised: %s", message);
    }
    KdTarget target;
    assert_true(kd_target_host(cx, &target));
    KdPassOptions o = {.machine = target.machine, .fuse = true, .skip = &w->skip, .n_skip = w->skip ? 1 : 0};
    o.machine.lanes = w->lanes ? w->lanes : o.machine.lanes;
    KlModule *m = kd_pipeline(g->f, &o, NULL, NULL).loops;
    m->name = kd_intern_z(cx, kd_format(cx, "graph%d", g->seed)); /* an entry's symbol */
    KdStr why = {.cx = cx};
    void **loops = externs_new(g, m);
    if (!kl_eval(m, loops, &why)) {
        wrong = kd_format(cx, "loop evaluator: %s", why.s);
    }
    wrong = wrong ? wrong : guards(cx, m, loops);
    wrong = wrong ? wrong : loops_against_graph(g, m, loops);
    wrong = wrong ? wrong : code_against_loops(g, m, &target, w, loops, done);
    externs_free(m, loops);
    kd_landing_pop(cx);
    return wrong;
}

/* ---- the test --------------------------------------------------------------------------------------------------- */

static Way way_of(int seed, int variant, const char *skip) {
    static const int threads[] = {1, 2, 4};
    Way w = {.skip = skip, .opt = (seed + variant) % 2 ? 3 : 0, .threads = threads[(seed + variant) % 3]};
    static const int lanes[] = {0, 4, 0, 8}; /* narrow vectors fit into small graphs' rows */
    w.lanes = lanes[(seed / 3 + variant) % 4];
    w.object = variant == 0 && seed % 20 == 0;
    return w;
}

static bool report(const Graph *g, const Way *w, const char *wrong) {
    if (!wrong) {
        return true;
    }
    KdStr text = {.cx = g->cx};
    kd_print_func(&text, g->ref);
    print_error("seed %d, skip %s, lanes %d, -O%d, %d threads: %s\n%s\n", g->seed, w->skip ? w->skip : "nothing",
                w->lanes, w->opt, w->threads, wrong, text.s);
    return false;
}

/* All ways of running one seed's graph; false after printing what disagrees. */
static bool check_seed(int seed, Done *done) {
    KdContext *cx = kd_context_new();
    Graph g = {.seed = seed, .cx = cx, .f = rg_graph(cx, (uint64_t)seed)};
    if (kd_error_count(cx)) {
        kd_diag_print(cx, stderr, false);
        fail_msg("seed %d: the graph is not valid", seed);
    }
    g.ref = kd_pass_optimizer(kd_pass_autodiff(g.f));
    g.in = lh_fill(g.ref, (uint64_t)seed);
    g.want = lh_want(g.ref, g.in);
    Way w = way_of(seed, 0, NULL);
    bool ok = report(&g, &w, check(&g, &w, done));
    int n, variant = 0;
    const char *const *passes = kd_pass_names(&n);
    for (int i = 0; i < n && seed % 10 == 0; i++) {
        if (kd_pass_may_skip(passes[i])) {
            w = way_of(seed, ++variant, passes[i]);
            ok = report(&g, &w, check(&g, &w, done)) && ok;
        }
    }
    kd_context_free(cx);
    return ok;
}

static int environment(const char *name, int otherwise) {
    const char *s = getenv(name);
    return s && *s ? atoi(s) : otherwise;
}

static void random_graphs(void **state) {
    (void)state;
    int count = environment("KDC_RANDOM_GRAPHS", GRAPHS), first = environment("KDC_RANDOM_SEED", FIRST);
    int failed = 0, last = 0;
    Done done = {0};
    for (int seed = first; seed < first + count && failed < 8; seed++) {
        if (!check_seed(seed, &done)) {
            failed++;
            last = seed;
        }
    }
    print_message("%d graphs from seed %d: compiled %d times, %d kernels, %d calls; %d object files\n", count, first,
                  done.compiled, done.kernels, done.calls, done.objects);
    if (failed) {
        fail_msg("%d graphs disagree; again: KDC_RANDOM_SEED=%d KDC_RANDOM_GRAPHS=1", failed, last);
    }
    assert_true(done.compiled >= count && done.objects >= count / 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_graphs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
