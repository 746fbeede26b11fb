/* test_stream.c: products that are never in memory (passes/fuse_stream.c, passes/schedule/stream.c), from programs in .kd.
 *
 * Each case is a function, most with gradients: it must give what the graph evaluator gives in every way
 * of running it (fourways.h), at several vector widths; so many of its products must be streamed; and its planned arena, what
 * kernels pack included, must be smaller than one of the matrices of all pairs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "frontend/lang/lang.h"
#include "tests/fourways.h"

typedef struct Case {
    const char *name, *source;
    int streamed;  /* products; of none, nothing else is tested */
    int64_t pairs; /* elements of a matrix of all pairs: the arena must be smaller; 0: nothing is asked */
    double tolerance; /* 0: fourways.h's */
    bool narrow;      /* also with vectors of 4 */
} Case;

#define GRADS(loss, a, b) "let loss = " loss "\nreturn [loss, grad(loss, " a "), grad(loss, " b ")]"
#define NAMED(name, inputs, body) "import \"losses/reko.kd\"\nimport \"losses/srp.kd\"\nfn " name "(" inputs ") {\n" body "\n}\n"
#define FN(inputs, body) NAMED("f", inputs, body)

static const Case cases[] = {
    {"contrast", FN("q: [64, 11], k: [1100, 11]", GRADS("mean(logsumexp(matmul(q, transpose(k)) / 0.07, dim = 1) - sum(q, 1))", "q", "k")), 1, 64 * 1100, 0, true},
    {"contrast, positives masked", FN("q: [260, 20], k: [260, 20]", GRADS("mean(logsumexp(where(eye(260), -10.0, matmul(q, transpose(k))), dim = 1))", "q", "k")), 1, 260 * 260},
    {"over columns", FN("q: [1030, 17], k: [67, 17]", GRADS("sum(square(logsumexp(matmul(q, transpose(k)), dim = 0)))", "q", "k")), 1, 1030 * 67},
    {"over rows and over columns", FN("q: [290, 9], k: [257, 9]", "let s = matmul(q, transpose(k))\n"
     GRADS("mean(logsumexp(s, dim = 0)) + mean(square(logsumexp(s, dim = 1)))", "q", "k")), 1, 290 * 257},
    {"attention, batch 2", FN("q: [2, 68, 8], k: [2, 964, 8], v: [2, 964, 9]", "let o = attention(q, k, v)\nlet loss = sum(square(o))\n"
     "return [o, grad(loss, q), grad(loss, k), grad(loss, v)]"), 2, 2 * 68 * 964},
    {"attention, alone", FN("q: [300, 8], k: [300, 8], v: [300, 40]", "return matmul(softmax(matmul(q, transpose(k))), v)"), 1, 300 * 300, 0, true},
    {"attention, turned", FN("q: [8, 300], k: [8, 300], v: [40, 300]", "return matmul(v, transpose(softmax(matmul(transpose(q), k))))"), 1, 300 * 300},
    {"similarities", FN("s: [1, 5, 17, 16], t: [1, 7, 17, 16]", GRADS("srp(s, t, form = \"pairs\")", "s", "s")), 2, 272 * 272},
    {"similarities, l1, batch 2", FN("s: [2, 5, 16, 16], t: [2, 3, 16, 16]", GRADS("srp(s, t, distance = \"l1\")", "s", "s")), 2, 2 * 256 * 256, 2e-3},
    {"similarities by a function of the prelude", FN("s: [1, 4, 16, 16], t: [1, 4, 16, 16]", GRADS("mse_loss(similarity(s), similarity(t))", "s", "t")), 2, 256 * 256},
    {"reko as published", FN("s: [2, 12, 16, 17], t: [2, 12, 16, 17]", GRADS("reko(s, t, k = 272)", "s", "s")), 1, 2 * 272 * 272},
    {"reko as written", FN("s: [1, 12, 32, 33], t: [1, 12, 32, 33]", GRADS("reko(s, t, k = 64, form = \"paper\", tau = 1.0)", "s", "s")), 1, 0},
    {"a value for the pairs alone", FN("q: [260, 8], k: [260, 8], b: [260]", "let far = exp(-abs(b - reshape(b, [260, 1])))\n"
     "return matmul(softmax(matmul(q, transpose(k)) + far), k)"), 1, 260 * 260},
    {"two results of one softmax", FN("q: [260, 8], k: [260, 8], v: [260, 5]", "let p = softmax(matmul(q, transpose(k)))\n"
     "return [matmul(p, v), matmul(p * p, k), matmul(transpose(q), p)]"), 1, 260 * 260},
    /* what must stay as it is */
    {"small", FN("q: [64, 8], k: [200, 8]", "return logsumexp(matmul(q, transpose(k)), dim = 1)"), 0},
    {"an output", FN("q: [260, 8], k: [260, 8]", "let s = matmul(q, transpose(k))\nreturn [s, logsumexp(s, dim = 1)]"), 0},
    {"one column of it", FN("q: [260, 8], k: [260, 8]", "let s = matmul(q, transpose(k))\nreturn logsumexp(s, dim = 1) - s[:, 0]"), 0},
    {"its transpose", FN("q: [260, 8], k: [260, 8]", "let s = matmul(q, transpose(k))\nreturn logsumexp(s + transpose(s), dim = 1)"), 0},
    {"a gram matrix", FN("x: [1, 260, 16, 16]", "return mean(square(sum(gram(x), dim = 2)))"), 0},
    {"layers with biases", FN("x: [1024, 100], w: [128, 100], v: [9, 128], b: [128]", "let loss = sum(square(matmul(relu(matmul(x, transpose(w)) + b), transpose(v))))\n"
     "return [grad(loss, b), grad(loss, w), grad(loss, v)]"), 0},
    {"a layer before a norm", FN("x: [1024, 100], w: [128, 100]", "let y = matmul(x, transpose(w))\nreturn relu(y - mean(y, 1, keepdim = true)) @ w"), 0},
    {"an infinity", FN("q: [260, 8], k: [260, 8]", "return logsumexp(where(eye(260), 1e38 * 1e38, matmul(q, transpose(k))), dim = 1)"), 1, 0},
};

static void fill(float *p, int64_t n, uint32_t seed) {
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (float)(int32_t)seed / 2147483648.0f;
    }
}

static KdFunc *elaborate(KdContext *cx, const Case *c) {
    const char *const folders[] = {KDC_SOURCE_DIR "/models"};
    KdLangOptions lo = {.import_path = folders, .n_import_path = 1};
    KdProgram *p = kd_lang_load(cx, "stream.kd", c->source, strlen(c->source), &lo);
    KdNetOptions o = {.mode = KD_INFER};
    KdFunc *f = p ? kd_lang_net(p, "f", &o) : NULL;
    if (!f) {
        kd_diag_print(cx, stderr, false);
        fail_msg("%s: does not elaborate", c->name);
    }
    return f;
}

static int count_streamed(const KdFusion *fu) {
    int n = 0;
    for (KdValue v = 0; v < fu->f->n; v++) {
        n += fu->streamed[v];
        if (fu->streamed[v] && fu->stored[v]) {
            fail_msg("%%%u is streamed and in memory", v);
        }
    }
    return n;
}

/* Three do not divide what one, two and four do. */
static void same_with_three_threads(KdContext *cx, const KdPipelineResult *p, const KdTarget *target,
                                    const void *const *in, const FwResult *r) {
    void **ext = fw_externs(p->final, p->plan, in);
    assert_true(fw_jit(cx, p->loops, target, 3, 3, ext));
    for (int o = 0; o < p->final->outputs.n; o++) {
        size_t bytes = fw_bytes(kd_vtype(p->final, p->final->outputs.v[o].value));
        assert_memory_equal(ext[fw_output_extern(p->final, o)], r->jit[o], bytes);
    }
    fw_free(ext, p->plan->externs.n);
}

static void run_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    KdFunc *f = elaborate(cx, c);
    KdTarget target;
    assert_true(kd_target_host(cx, &target));
    KdPassOptions po = {.machine = target.machine, .fuse = true};
    KdPipelineResult p = kd_pipeline(f, &po, NULL, NULL);
    assert_int_equal(count_streamed(p.fusion), c->streamed);
    if (c->pairs) {
        assert_in_range(p.loops->arena, 0, c->pairs * 4 - 1);
    }
    void *in[4];
    for (int k = 0; k < f->inputs.n; k++) {
        const KdType *t = kd_vtype(f, f->inputs.v[k]);
        in[k] = malloc(fw_bytes(t));
        fill(in[k], t->count, (uint32_t)k + 1);
    }
    static const int lanes[] = {0, 4};
    for (int i = 0; i < KD_COUNT(lanes) && c->streamed > 0; i++) {
        FwResult r;
        FwOptions o = {.tolerance = c->tolerance, .lanes = lanes[i]};
        if (i > 0 && !c->narrow) {
            break;
        }
        bool ok = fw_run(cx, f, (const void *const *)in, &o, &r);
        if (!ok) {
            fail_msg("%s, %d lanes: %s", c->name, lanes[i], r.why);
        }
        if (i == 0 && c->narrow) {
            same_with_three_threads(cx, &p, &target, (const void *const *)in, &r);
        }
        fw_result_free(&r);
    }
    for (int k = 0; k < f->inputs.n; k++) {
        free(in[k]);
    }
    kd_context_free(cx);
}

/* The two ways of computing srp's mean square distance, and its gradients, agree. */
static void srp_forms_agree(void **state) {
    (void)state;
    static const Case c = {"srp's forms", FN("s: [2, 6, 9, 8], t: [2, 4, 9, 8]",
        "let a = srp(s, t, form = \"pairs\")\nlet b = srp(s, t, form = \"channels\")\nlet g = grad(a, s)\n"
        "return [b / a - 1, max(abs(grad(b, s) - g)) / max(abs(g)), srp(s * 3, s) * 72, max(abs(grad(srp(s * 0, t), s)))]"), 0};
    KdContext *cx = kd_context_new();
    KdFunc *f = elaborate(cx, &c);
    float *in[2];
    for (int k = 0; k < 2; k++) {
        int64_t n = kd_vtype(f, f->inputs.v[k])->count;
        in[k] = malloc((size_t)n * sizeof(float));
        fill(in[k], n, (uint32_t)k + 5);
    }
    FwOptions o = {.evaluator_only = true};
    FwResult r;
    assert_true(fw_run(cx, f, (const void *const *)in, &o, &r));
    for (int k = 0; k < 4; k++) {
        assert_true(fabs(r.eval[k][0]) < 1e-6);
    }
    fw_result_free(&r);
    free(in[0]);
    free(in[1]);
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest t[KD_COUNT(cases) + 1];
    for (int i = 0; i < KD_COUNT(cases); i++) {
        t[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    }
    t[KD_COUNT(cases)] = (struct CMUnitTest)cmocka_unit_test(srp_forms_agree);
    return _cmocka_run_group_tests("stream", t, KD_COUNT(t), NULL, NULL);
}
