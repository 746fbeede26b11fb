/* test_golden_training.c: whole training steps of the recipes against PyTorch: every
 * tests/golden/training/RUN.json, which says what is run, beside RUN.safetensors, what came out of
 * it (tests/golden/make_training.py says what they hold). Both sides begin with the same weights
 * and see the same images.
 *
 * In double precision (the graph evaluator, its outputs fed back into the inputs they update)
 * losses and weight changes must be PyTorch's float64 ones, which tests the language, the recipes,
 * autodiff and the optimisers. Compiled, losses must be near, and weight changes as near as
 * PyTorch's own float32 run is, which is printed beside ours.
 *
 * A convolution's bias in front of an instance norm has a true gradient of 0; Adam makes steps out
 * of its rounding noise. Those tensors are left out of the comparison of changes (reliability.md,
 * trap 2; `live` in the file).
 *
 * KDC_GOLDEN_FULL=1 also runs what is marked slow (a CycleGAN of nine blocks at 128 x 128: a
 * minute), compiled only.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "codegen/codegen.h"
#include "frontend/api/kdc.h"
#include "frontend/lang/lang.h"
#include "passes/passes.h"
#include "tests/golden/golden.h"

enum { SAMPLES = 16, MAX_RUNS = 128, MAX_DEFINES = 64, MAX_VARIANTS = 8 };

typedef struct Run {
    char name[128];
    json_t *json; /* the manifest; what follows points into it */
    const char *recipe, *session, *defines[MAX_DEFINES + 1];
    json_t *nets; /* [{name, frozen, weights: [[name in PyTorch, dim...]]}] in the order of the
                     weights' keys */
    json_t *logs, *inputs, *constants, *epochs;
    double scale;
    int slow, n_defines;
    KdWeights *golden; /* NULL: a run that cannot be read, which fails */
} Run;

/* ---- the tensors of a session, whichever way it runs ---- */

typedef struct Slot {
    const char *name;
    KdcDType dtype;
    int rank;
    int64_t dim[6], count;
    bool wide; /* double elements, whatever the dtype */
    void *data;
    float *start; /* what a weight began with, or NULL */
} Slot;

typedef struct Slots {
    Slot *v;
    int n;
} Slots;

static double get(const Slot *s, int64_t i) {
    return s->wide ? ((double *)s->data)[i] : ((float *)s->data)[i];
}

static void put(Slot *s, int64_t i, double x) {
    if (s->wide)
        ((double *)s->data)[i] = x;
    else if (s->dtype == KDC_F32)
        ((float *)s->data)[i] = (float)x;
    else if (s->dtype == KDC_I32)
        ((int32_t *)s->data)[i] = (int32_t)x;
    else
        ((uint8_t *)s->data)[i] = (uint8_t)x;
}

static bool running(const Slot *s) {
    return golden_ends(s->name, ".running_mean") || golden_ends(s->name, ".running_var");
}

static bool vector(const Slot *s) {
    return golden_ends(s->name, ".weight_u") || golden_ends(s->name, ".weight_v");
}

/* What constants={...} says of it; NULL: nothing. */
static json_t *constant(const Run *r, const Slot *s) {
    const char *end;
    json_t *value;
    json_object_foreach(r->constants, end, value) if (golden_ends(s->name, end)) return value;
    return NULL;
}

/* Of a net, or of a list of nets. */
static bool belongs(const Slot *s, const json_t *net) {
    const char *name = json_string_value(json_object_get(net, "name"));
    size_t n = strlen(name);
    return strncmp(s->name, name, n) == 0 && (s->name[n] == '.' || s->name[n] == '[');
}

static bool frozen(const json_t *net) { return json_is_true(json_object_get(net, "frozen")); }

static Slot *slot(const Slots *all, const char *name) {
    for (int i = 0; i < all->n; i++)
        if (strcmp(all->v[i].name, name) == 0) return &all->v[i];
    fail_msg("the session has no '%s'", name);
    return NULL;
}

/* PyTorch's tensor of the same place must have as many elements. */
static void same_tensor(const Run *r, const json_t *net, const Slot *s, size_t row) {
    const json_t *theirs = json_array_get(json_object_get(net, "weights"), row);
    int64_t count = 1;
    for (size_t k = 1; k < json_array_size(theirs); k++)
        count *= json_integer_value(json_array_get(theirs, k));
    if (!theirs || count != s->count)
        fail_msg("%s: weight %zu of its net, '%s', has %lld elements; PyTorch's is '%s' of %lld",
                 r->name, row, s->name, (long long)s->count,
                 theirs ? json_string_value(json_array_get(theirs, 0)) : "(none)",
                 (long long)(theirs ? count : 0));
}

/* golden_lib.fill, fill_running and fill_vectors, of all nets. */
static void fill(const Run *r, Slots *all) {
    uint32_t key = 100, key_running = 7000, key_vector = 8000;
    size_t n;
    json_t *net;
    json_array_foreach(r->nets, n, net) {
        size_t row = 0;
        for (int i = 0; i < all->n; i++) {
            Slot *s = &all->v[i];
            if (!belongs(s, net)) continue;
            const json_t *value = constant(r, s);
            float *x = calloc((size_t)s->count, sizeof *x);
            if (value)
                for (int64_t k = 0; k < s->count; k++)
                    x[k] = (float)json_number_value(value);
            else if (vector(s))
                golden_fill_vector(key_vector++, x, s->count);
            else if (running(s) && frozen(net))
                golden_fill_running(s->name, key_running++, x, s->count);
            else if (running(s))
                for (int64_t k = 0; k < s->count; k++)
                    x[k] = golden_ends(s->name, "var");
            else {
                same_tensor(r, net, s, row++);
                golden_fill(s->name, s->rank, key++, (float)r->scale, x, s->count);
            }
            for (int64_t k = 0; k < s->count; k++)
                put(s, k, x[k]);
            s->start = x;
        }
        if (row != json_array_size(json_object_get(net, "weights")))
            fail_msg("%s: %s has %zu weights, PyTorch's %zu", r->name,
                     json_string_value(json_object_get(net, "name")), row,
                     json_array_size(json_object_get(net, "weights")));
    }
}

static void feed_classes(Slot *s, bool one_hot, uint32_t key, int classes, int block) {
    int64_t w = s->dim[s->rank - 1], h = s->dim[s->rank - 2], pixels = h * w;
    int *id = malloc((size_t)(s->dim[0] * pixels) * sizeof *id);
    golden_class_map(key, s->dim[0], h, w, classes, block, id);
    for (int64_t i = 0; i < s->count; i++) {
        int64_t image = i / (classes * pixels), c = i / pixels % classes;
        put(s, i, one_hot ? id[image * pixels + i % pixels] == c : id[i]);
    }
    free(id);
}

/* The inputs of step number `step`, from 0. */
static void feed(const Run *r, Slots *all, int step) {
    size_t k;
    json_t *input;
    json_array_foreach(r->inputs, k, input) {
        const char *name, *kind;
        int classes, block;
        int bad = json_unpack(input, "{s:s,s:s,s:i,s:i}", "name", &name, "kind", &kind, "classes",
                              &classes, "block", &block);
        assert_int_equal(bad, 0);
        Slot *s = slot(all, name);
        uint32_t key = (uint32_t)(1000 * (k + 1)) + (uint32_t)step;
        if (classes > 0) {
            feed_classes(s, strcmp(kind, "onehot") == 0, key, classes, block);
            continue;
        }
        float *x = malloc((size_t)s->count * sizeof *x);
        golden_uniform(key, x, s->count);
        bool bytes = strcmp(kind, "bytes") == 0;
        for (int64_t i = 0; i < s->count; i++)
            put(s, i, bytes ? floor(((double)x[i] + 1) * 128) : x[i]);
        free(x);
    }
}

/* ---- comparisons ---- */

static double change(const Slot *s, int64_t i) { return get(s, i) - (double)s->start[i]; }

/* Of one tensor, against row k of the golden `change`: squares of the difference of the samples,
 * and of the samples. */
static void compare_samples(const Slot *s, bool from_zero, const KdTensor *want, int row,
                            double *error, double *size) {
    for (int j = 0; j < SAMPLES; j++) {
        int64_t at = (int64_t)j * s->count / SAMPLES;
        double w = golden_at(want, (int64_t)row * (2 + SAMPLES) + 2 + j);
        double d = (from_zero ? get(s, at) : change(s, at)) - w;
        *error += d * d;
        *size += w * w;
    }
}

/* The norm of the change and its product with uniform(5000 + row), relative to the norm. */
static double compare_norms(const Slot *s, bool from_zero, const KdTensor *want, int row) {
    float *u = malloc((size_t)s->count * sizeof *u);
    double norm = 0, dot = 0;
    golden_uniform((uint32_t)(5000 + row), u, s->count);
    for (int64_t i = 0; i < s->count; i++) {
        double d = from_zero ? get(s, i) : change(s, i);
        norm += d * d;
        dot += d * u[i];
    }
    free(u);
    double want_norm = golden_at(want, (int64_t)row * (2 + SAMPLES)),
           want_dot = golden_at(want, (int64_t)row * (2 + SAMPLES) + 1);
    return fmax(fabs(sqrt(norm) - want_norm), fabs(dot - want_dot)) / fmax(want_norm, 1e-30);
}

static bool is_live(const Run *r, int row) {
    return golden_at(kd_weights_find(r->golden, "live"), row) != 0;
}

typedef struct Deviation {
    double loss;    /* largest relative difference of a loss */
    double samples; /* of the sampled changes of all tensors, norm-wise */
    double norms;   /* largest of compare_norms */
    double running; /* of the running statistics and spectral norms' vectors, samples norm-wise */
} Deviation;

static double ratio(double error, double size) {
    return error > 0 ? sqrt(error / fmax(size, 1e-60)) : 0;
}

static Deviation changes_of(const Run *r, const Slots *all, Deviation d) {
    const KdTensor *want = kd_weights_find(r->golden, "change"),
                   *want_running = kd_weights_find(r->golden, "running");
    double error = 0, size = 0, error_running = 0, size_running = 0;
    int row = 0, row_running = 0;
    size_t n;
    json_t *net;
    assert_non_null(want);
    json_array_foreach(r->nets, n, net) {
        for (int i = 0; !frozen(net) && i < all->n; i++) {
            const Slot *s = &all->v[i];
            if (!belongs(s, net) || constant(r, s)) continue;
            if (running(s) || vector(s)) {
                assert_true(want_running && row_running < want_running->dim[0]);
                compare_samples(s, true, want_running, row_running++, &error_running,
                                &size_running);
                continue;
            }
            assert_true(row < want->dim[0]);
            if (is_live(r, row)) {
                compare_samples(s, false, want, row, &error, &size);
                d.norms = fmax(d.norms, compare_norms(s, false, want, row));
            }
            row++;
        }
    }
    assert_int_equal(row, want->dim[0]);
    if (want_running) assert_int_equal(row_running, want_running->dim[0]);
    d.samples = ratio(error, size);
    d.running = ratio(error_running, size_running);
    return d;
}

static int steps_of(const Run *r) { return (int)kd_weights_find(r->golden, "losses")->dim[0]; }

/* Of a number that PyTorch logs there; 0 for others. */
static double difference(double got, double want) {
    return isnan(want) ? 0 : fabs(got - want) / fmax(fabs(want), 1e-9);
}

static double loss_at(const Run *r, int step, size_t k) {
    return golden_at(kd_weights_find(r->golden, "losses"),
                     (int64_t)step * (int64_t)json_array_size(r->logs) + (int64_t)k);
}

/* How far PyTorch's own float32 run strays from its float64 run. */
static Deviation pytorch(const Run *r) {
    const KdTensor *a = kd_weights_find(r->golden, "losses"),
                   *b = kd_weights_find(r->golden, "losses32");
    const KdTensor *c = kd_weights_find(r->golden, "change"),
                   *e = kd_weights_find(r->golden, "change32");
    Deviation d = {0};
    double error = 0, size = 0;
    for (int64_t i = 0; i < a->count; i++)
        d.loss = fmax(d.loss, difference(golden_at(b, i), golden_at(a, i)));
    for (int row = 0; row < c->dim[0]; row++)
        for (int j = 2; is_live(r, row) && j < 2 + SAMPLES; j++) {
            double x = golden_at(c, (int64_t)row * (2 + SAMPLES) + j),
                   y = golden_at(e, (int64_t)row * (2 + SAMPLES) + j);
            error += (x - y) * (x - y);
            size += x * x;
        }
    d.samples = ratio(error, size);
    return d;
}

/* The epoch of step number `step`, from 0. */
static int epoch_of(const Run *r, int step) {
    return json_array_size(r->epochs)
               ? (int)json_integer_value(json_array_get(r->epochs, (size_t)step))
               : 1;
}

static void print_deviation(const Run *r, const char *how, Deviation d) {
    print_message(
        "%s, %s: losses to %.1e, weight changes to %.1e (norms %.1e), running statistics to %.1e\n",
        r->name, how, d.loss, d.samples, d.norms, d.running);
}

/* ---- (a) in double precision ---- */

/* The step with the `every` blocks of mask, and where its values are. */
typedef struct Variant {
    unsigned mask;
    const KdFunc *g;
    double **in, **out;
} Variant;

static KdProgram *load(KdContext *cx, const Run *r) {
    KdDefine *d = KD_NEW_ARRAY(cx, KdDefine, MAX_DEFINES); /* sessions read it, too */
    KdLangOptions o = {.define = d, .n_define = r->n_defines};
    for (int i = 0; i < r->n_defines; i++) {
        const char *eq = strchr(r->defines[i], '=');
        d[i] = (KdDefine){kd_intern(cx, r->defines[i], (size_t)(eq - r->defines[i])), eq + 1};
    }
    return kd_lang_load(cx, kd_format(cx, "%s/%s", KDC_SOURCE_DIR, r->recipe), NULL, 0, &o);
}

static bool elaborate(KdContext *cx, KdProgram *p, const Run *r, unsigned mask, KdSessionInfo *info,
                      Variant *v) {
    KdNetOptions none = {.mode = KD_TRAIN};
    KdTarget target;
    KdFunc *f = kd_lang_session(p, r->session, mask, &none, info);
    if (!f || !kd_target_host(cx, &target)) return false;
    KdPassOptions po = {.machine = target.machine, .fuse = true};
    v->mask = mask;
    v->g = kd_pipeline(f, &po, NULL, NULL).final;
    v->in = KD_NEW_ARRAY(cx, double *, v->g->inputs.n + 1);
    v->out = KD_NEW_ARRAY(cx, double *, v->g->outputs.n + 1);
    for (int k = 0; k < v->g->outputs.n; k++)
        v->out[k] = KD_NEW_ARRAY(cx, double, kd_vtype(v->g, v->g->outputs.v[k].value)->count + 1);
    return true;
}

static const char *input_name(const KdFunc *g, int i) {
    return kd_attr_str(g, kd_node(g, g->inputs.v[i]), "name");
}

/* The session with all its blocks names every tensor there is. */
static Slots slots_of(KdContext *cx, const KdFunc *g) {
    Slots all = {KD_NEW_ARRAY(cx, Slot, g->inputs.n), g->inputs.n};
    for (int i = 0; i < all.n; i++) {
        const KdType *t = kd_vtype(g, g->inputs.v[i]);
        all.v[i] =
            (Slot){.name = input_name(g, i), .rank = t->rank, .count = t->count, .wide = true};
        memcpy(all.v[i].dim, t->dim, sizeof t->dim);
        all.v[i].data = KD_NEW_ARRAY(cx, double, t->count + 1);
    }
    return all;
}

static void take_outputs(const Run *r, const Variant *v, int step, Deviation *d) {
    size_t j;
    json_t *log;
    for (int k = 0; k < v->g->outputs.n; k++) {
        const KdOutput *o = &v->g->outputs.v[k];
        for (int i = 0; i < v->g->inputs.n; i++)
            if (o->updates == v->g->inputs.v[i])
                memcpy(v->in[i], v->out[k],
                       (size_t)kd_vtype(v->g, o->updates)->count * sizeof(double));
        json_array_foreach(r->logs, j, log) if (strncmp(o->name, "log.", 4) == 0 &&
                                                strcmp(o->name + 4, json_string_value(log)) == 0)
            d->loss = fmax(d->loss, difference(v->out[k][0], loss_at(r, step, j)));
    }
}

static bool evaluate_steps(KdContext *cx, const Run *r, Deviation *d) {
    Variant v[MAX_VARIANTS];
    KdSessionInfo info;
    int n = 1;
    KdProgram *p = load(cx, r);
    if (!p || !elaborate(cx, p, r, ~0u, &info, &v[0])) return false;
    Slots all = slots_of(cx, v[0].g);
    v[0].mask = (1u << info.n_every) - 1;
    fill(r, &all);
    for (int s = 0; s < steps_of(r); s++) {
        unsigned mask = 0;
        int k = 0;
        for (int e = 0; e < info.n_every; e++)
            mask |= (s + 1) % info.every[e] == 0 ? 1u << e : 0;
        while (k < n && v[k].mask != mask)
            k++;
        if (k == n) {
            assert_true(n < MAX_VARIANTS);
            if (!elaborate(cx, p, r, mask, &info, &v[n++])) return false;
        }
        for (int i = 0; i < v[k].g->inputs.n; i++)
            v[k].in[i] = slot(&all, input_name(v[k].g, i))->data;
        feed(r, &all, s);
        put(slot(&all, "epoch"), 0, epoch_of(r, s));
        put(slot(&all, "step"), 0, s + 1);
        kd_eval(v[k].g, (const double *const *)v[k].in, v[k].out);
        take_outputs(r, &v[k], s, d);
    }
    *d = changes_of(r, &all, *d);
    for (int i = 0; i < all.n; i++)
        free(all.v[i].start);
    return true;
}

static void test_evaluated(void **state) {
    const Run *r = *state;
    KdContext *cx = kd_context_new();
    Deviation d = {0};
    KdLanding l;
    bool ok = false;
    assert_true(cx && r->golden);
    if (KD_TRY(cx, l)) {
        ok = evaluate_steps(cx, r, &d);
        kd_landing_pop(cx);
    } else {
        const char *why;
        kd_failure(cx, &why);
        print_error("%s\n", why);
    }
    kd_diag_print(cx, stderr, false);
    kd_context_free(cx);
    print_deviation(r, "in double precision", d);
    assert_true(ok && d.samples > 0); /* it ran */
    assert_true(d.loss < 1e-6 && d.samples < 1e-6 && d.norms < 1e-6 && d.running < 1e-6);
}

/* ---- (b) compiled ---- */

static void demand(KdcProgram *p, bool ok) {
    if (ok && kdc_status(p) == KDC_OK) return;
    kdc_print_messages(p, stderr, false);
    fail_msg("status %d", (int)kdc_status(p));
}

static double output(KdcSession *s, const char *log) {
    char name[128];
    snprintf(name, sizeof name, "log.%s", log);
    for (int k = 0; k < kdc_session_output_count(s); k++)
        if (strcmp(kdc_session_output(s, k)->name, name) == 0)
            return *(float *)kdc_session_output(s, k)->data;
    return NAN;
}

static Deviation compiled(const Run *r) {
    char path[1024];
    KdcOptions o = {.defines = r->defines, .n_defines = r->n_defines, .threads = 2}; /* with the cache, which tests/run.sh empties */
    snprintf(path, sizeof path, "%s/%s", KDC_SOURCE_DIR, r->recipe);
    KdcProgram *p = kdc_open(path, NULL, 0, &o);
    demand(p, p);
    KdcSession *s = kdc_session(p, r->session, &(KdcShapes){0});
    demand(p, s);
    Slots all = {calloc((size_t)kdc_session_count(s), sizeof(Slot)), kdc_session_count(s)};
    for (int i = 0; i < all.n; i++) {
        KdcTensor *t = kdc_session_tensor(s, i);
        all.v[i] = (Slot){.name = t->name,
                          .dtype = t->dtype,
                          .rank = t->rank,
                          .count = t->count,
                          .data = t->data};
        memcpy(all.v[i].dim, t->dim, sizeof t->dim);
    }
    kdc_session_initialise(s, 1);
    fill(r, &all);
    Deviation d = {0};
    for (int step = 0; step < steps_of(r); step++) {
        size_t j;
        json_t *log;
        feed(r, &all, step);
        demand(p, kdc_session_step(s, step + 1, epoch_of(r, step), 1) == KDC_OK);
        json_array_foreach(r->logs, j, log) {
            double off = difference(output(s, json_string_value(log)), loss_at(r, step, j));
            assert_false(isnan(off)); /* PyTorch logs it, the session does not */
            d.loss = fmax(d.loss, off);
        }
    }
    d = changes_of(r, &all, d);
    for (int i = 0; i < all.n; i++)
        free(all.v[i].start);
    free(all.v);
    kdc_close(p);
    return d;
}

static void test_compiled(void **state) {
    const Run *r = *state;
    assert_non_null(r->golden);
    Deviation theirs = pytorch(r), d = compiled(r);
    print_deviation(r, "compiled", d);
    print_message("%s, PyTorch in float32: losses to %.1e, weight changes to %.1e\n", r->name,
                  theirs.loss, theirs.samples);
    assert_true(d.loss < fmax(1e-4, 10 * theirs.loss));
    assert_true(d.samples < fmax(1e-4, 10 * theirs.samples));
    assert_true(d.running < 1e-4);
}

static void test_full(void **state) {
    const char *full = getenv("KDC_GOLDEN_FULL");
    if (!full || strcmp(full, "1") != 0) skip();
    const Run *r = *state;
    assert_non_null(r->golden);
    Deviation theirs = pytorch(r), d = compiled(r);
    print_deviation(r, "compiled", d);
    print_message("%s, PyTorch in float32: losses to %.1e, weight changes to %.1e\n", r->name,
                  theirs.loss, theirs.samples);
    assert_true(d.loss < 10 * theirs.loss);
    assert_true(d.samples < 10 * theirs.samples);
}

/* ---- all of them ---- */

static Run run[MAX_RUNS];

/* Leaves `golden` NULL, after saying why, when anything is missing. */
static void read_run(Run *r) {
    char path[1024], file[256];
    json_error_t e;
    json_t *defines;
    size_t k;
    json_t *define;
    snprintf(path, sizeof path, "%s/tests/golden/training/%s.json", KDC_SOURCE_DIR, r->name);
    r->json = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    if (!r->json ||
        json_unpack_ex(r->json, &e, 0, "{s:s,s:s,s:b,s:F,s:o,s:o,s:o,s:o,s:o,s:o}", "recipe",
                       &r->recipe, "session", &r->session, "slow", &r->slow, "scale", &r->scale,
                       "constants", &r->constants, "epochs", &r->epochs, "defines", &defines,
                       "logs", &r->logs, "inputs", &r->inputs, "nets", &r->nets) != 0) {
        fprintf(stderr, "%s: line %d: %s\n", path, e.line, e.text);
        return;
    }
    json_array_foreach(defines, k, define) if (r->n_defines < MAX_DEFINES)
        r->defines[r->n_defines++] = json_string_value(define);
    snprintf(file, sizeof file, "training/%s.safetensors", r->name);
    KdWeights *w = golden_read(file);
    static const char *const needed[] = {"losses", "losses32", "change", "change32", "live"};
    for (size_t i = 0; w && i < sizeof needed / sizeof *needed; i++)
        if (!kd_weights_find(w, needed[i])) {
            fprintf(stderr, "%s: has no '%s'\n", file, needed[i]);
            kd_weights_free(w);
            w = NULL;
        }
    r->golden = w;
}

/* The entries RUN.json of tests/golden/training, sorted. */
static int find_runs(void) {
    struct dirent **entry;
    int n = scandir(KDC_SOURCE_DIR "/tests/golden/training", &entry, NULL, alphasort), count = 0;
    for (int i = 0; i < n; i++) {
        const char *file = entry[i]->d_name;
        if (golden_ends(file, ".json") && count < MAX_RUNS)
            snprintf(run[count++].name, sizeof run->name, "%.*s",
                     (int)(strlen(file) - strlen(".json")), file);
        free(entry[i]);
    }
    if (n >= 0) free(entry);
    return count;
}

int main(int argc, char **argv) {
    static struct CMUnitTest tests[2 * MAX_RUNS];
    static char titles[2 * MAX_RUNS][160];
    int n = find_runs(), count = 0;
    for (int i = 0; i < n; i++) {
        if (argc > 1 && strcmp(argv[1], run[i].name) != 0) continue; /* one run by its name */
        read_run(&run[i]);
        for (int k = run[i].slow ? 1 : 0; k < 2; k++, count++) {
            snprintf(titles[count], sizeof *titles, "%.120s%s, %s", run[i].name,
                     run[i].slow ? " in full" : "", k == 0 ? "evaluated" : "compiled");
            tests[count] = (struct CMUnitTest){titles[count],
                                               k == 0        ? test_evaluated
                                               : run[i].slow ? test_full
                                                             : test_compiled,
                                               NULL, NULL, &run[i]};
        }
    }
    if (count == 0) {
        fprintf(stderr, "golden_training: no run found\n");
        return 1;
    }
    int failed = _cmocka_run_group_tests("golden_training", tests, (size_t)count, NULL, NULL);
    for (int i = 0; i < n; i++) {
        kd_weights_free(run[i].golden);
        json_decref(run[i].json);
    }
    return failed;
}
