/* test_random_graphs.c: random valid graphs (random_graph.h), forward and gradients: the graph evaluator in double
 * precision against the loops of the whole pipeline, as it is, with each pass that may be skipped off in turn, and at
 * other vector widths.
 *
 * KDC_RANDOM_GRAPHS=N   how many (default 1000);  KDC_RANDOM_SEED=S   the first seed (default 1)
 *
 * Single precision may fall on the other side of a jump (a relu's gradient at zero), and some graphs are badly
 * conditioned. So before a difference counts, the reference is computed again from inputs moved by 1e-6: where it moves,
 * too, the difference is within what the inputs' own precision explains. A real failure prints the seed and the graph,
 * made small: one output at the first node that differs, and every value below it that can be an input instead is one.
 */
#include "tests/passes/lower_harness.h"
#include "tests/passes/random_graph.h"

typedef struct Setup {
    const char *skip; /* a pass, or NULL */
    int lanes;
} Setup;

static const Setup setups[] = {{NULL, 16},     {"fuse", 16},     {NULL, 8},      {"vectorize", 16},
                               {"freeze", 16}, {"dce", 16},      {"order", 16},  {NULL, 4}};

static bool f_is_stable(const KdFunc *ref, double *const *in, double *const *want, double *const *got) {
    double **low = lh_results(ref), **high = lh_results(ref), **moved = lh_results(ref);
    for (int o = 0; o < ref->outputs.n; o++) {
        for (int64_t i = 0; i < kd_vtype(ref, ref->outputs.v[o].value)->count; i++) {
            low[o][i] = high[o][i] = want[o][i];
        }
    }
    double **x = lh_fill(ref, 1);
    uint64_t seed = 77;
    for (int turn = 0; turn < 4; turn++) {
        for (int k = 0; k < ref->inputs.n; k++) {
            const KdType *t = kd_vtype(ref, ref->inputs.v[k]);
            for (int64_t i = 0; i < t->count; i++) {
                x[k][i] = in[k][i] * (t->dtype == KD_F32 ? 1 + 1e-6 * lh_number(&seed, KD_F32) : 1);
            }
        }
        kd_eval(ref, (const double *const *)x, moved);
        for (int o = 0; o < ref->outputs.n; o++) {
            for (int64_t i = 0; i < kd_vtype(ref, ref->outputs.v[o].value)->count; i++) {
                low[o][i] = fmin(low[o][i], moved[o][i]);
                high[o][i] = fmax(high[o][i], moved[o][i]);
            }
        }
    }
    for (int o = 0; o < ref->outputs.n; o++) {
        for (int64_t i = 0; i < kd_vtype(ref, ref->outputs.v[o].value)->count; i++) {
            double slack = 3e-4 + 8 * (high[o][i] - low[o][i]) / fmax(1, fabs(want[o][i]));
            if (!lh_near(got[o][i], want[o][i], slack)) {
                return true;
            }
        }
    }
    return false;
}

/* NULL, or what went wrong with f under this setup. ref: f without KD_META nodes. */
static const char *check(const KdFunc *f, const KdFunc *ref, const Setup *s) {
    KdContext *cx = f->cx;
    KdLanding landing;
    const char *volatile wrong = NULL;
    double **in = lh_fill(ref, 5);
    double **want = lh_want(ref, in), **got = lh_results(ref);
    if (KD_TRY(cx, landing)) {
        KdPassOptions o = {.machine = lh_machine(s->lanes), .fuse = true, .skip = &s->skip, .n_skip = s->skip ? 1 : 0};
        KdPipelineResult r = kd_pipeline(f, &o, NULL, NULL);
        wrong = lh_execute(ref, r.loops, in, got);
        wrong = wrong ? wrong : lh_compare(ref, got, want, 3e-4);
        kd_landing_pop(cx);
    } else {
        const char *message;
        kd_failure(cx, &message);
        return kd_format(cx, "raised: %s", message);
    }
    return wrong && f_is_stable(ref, in, want, got) ? wrong : NULL;
}

/* ---- making a failure small ------------------------------------------------------------------------- */

/* f with the single output v, and the marked nodes as inputs of their own. */
static KdFunc *cut(const KdFunc *f, KdValue v, const bool *as_input) {
    KdFunc *g = kd_func_new(f->cx, f->name);
    KdBuilder b = kd_builder(g);
    KdValue *now = KD_NEW_ARRAY(f->cx, KdValue, f->n);
    bool *need = KD_NEW_ARRAY(f->cx, bool, f->n);
    need[v] = true;
    for (KdValue u = v + 1; u-- > 0;) {
        const KdNode *n = kd_node(f, u);
        for (int k = 0; need[u] && !as_input[u] && k < n->n_in; k++) {
            need[n->in[k]] = true;
        }
    }
    for (KdValue u = 0; u <= v; u++) {
        const KdNode *n = kd_node(f, u);
        KdValue in[64];
        for (int k = 0; k < n->n_in && k < 64; k++) {
            in[k] = now[n->in[k]];
        }
        if (need[u] && as_input[u]) {
            now[u] = kd_input(&b, kd_format(f->cx, "cut%u", u), KD_DATA, n->type, "");
        } else if (need[u]) {
            now[u] = kd_rebuild(&b, f, u, in);
        }
    }
    kd_output(g, "out", now[v], KD_NONE);
    return g;
}

static const char *smaller(const KdFunc *ref, const Setup *s) {
    bool *as_input = KD_NEW_ARRAY(ref->cx, bool, ref->n + 1);
    const KdFunc *found = NULL;
    KdValue v = 0;
    for (; v < ref->n && !found; v++) {
        if (kd_op_info[kd_node(ref, v)->op].cls != KD_LEAF) {
            KdFunc *g = cut(ref, v, as_input);
            found = check(g, g, s) ? g : NULL;
        }
    }
    for (KdValue u = v; found && u-- > 0;) {
        if (u + 1 == v || kd_op_info[kd_node(ref, u)->op].cls == KD_LEAF || kd_vtype(ref, u)->dtype != KD_F32) {
            continue;
        }
        as_input[u] = true;
        KdFunc *g = cut(ref, v - 1, as_input);
        const char *wrong = check(g, g, s);
        as_input[u] = wrong != NULL;
        found = wrong ? g : found;
    }
    KdStr text = {.cx = ref->cx};
    kd_print_func(&text, found ? found : ref);
    return text.s;
}

/* ---- the test ------------------------------------------------------------------------------------------ */

static int environment(const char *name, int otherwise) {
    const char *s = getenv(name);
    return s && *s ? atoi(s) : otherwise;
}

static void random_graphs(void **state) {
    (void)state;
    int count = environment("KDC_RANDOM_GRAPHS", 1000), first = environment("KDC_RANDOM_SEED", 1);
    int ops[KD_OP_COUNT] = {0};
    for (int seed = first; seed < first + count; seed++) {
        KdContext *cx = kd_context_new();
        KdFunc *f = rg_graph(cx, (uint64_t)seed);
        if (kd_error_count(cx)) {
            kd_diag_print(cx, stderr, false);
            fail_msg("seed %d: the graph is not valid", seed);
        }
        const KdFunc *ref = kd_pass_optimizer(kd_pass_autodiff(f));
        for (KdValue v = 0; v < ref->n; v++) {
            ops[kd_node(ref, v)->op]++;
        }
        for (int i = 0; i < KD_COUNT(setups); i++) {
            const char *wrong = check(f, ref, &setups[i]);
            if (wrong) {
                fail_msg("seed %d, lanes %d, skip %s: %s\n%s", seed, setups[i].lanes,
                         setups[i].skip ? setups[i].skip : "nothing", wrong, smaller(ref, &setups[i]));
            }
        }
        kd_context_free(cx);
    }
    for (int op = 0; op < KD_OP_COUNT && count >= 500; op++) {
        if (ops[op] == 0 && kd_op_info[op].cls != KD_META) {
            fail_msg("%d graphs, and not one %s", count, kd_op_info[op].name);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_graphs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
