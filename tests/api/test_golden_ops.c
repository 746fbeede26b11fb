/* test_golden_ops.c: operations, functions of the prelude, losses and layers of models/ against
 * PyTorch. A family is a file tests/golden/FAMILY_cases.py; each fn and net of its FAMILY.kd is a
 * case: its result, its gradients and its buffers' new values, in every way of running it
 * (fourways.h). The evaluator (double precision) must give the file's float32 numbers to 1e-5 of
 * the largest, compiled code to 2e-4; integers exactly. How the files are made:
 * tests/golden/make_ops.py.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "frontend/lang/lang.h"
#include "tests/fourways.h"
#include "tests/golden/golden.h"

enum { MAX_FAMILIES = 64 };

typedef struct Family {
    char name[128];
    KdWeights *values;
    char *source;
    size_t source_size;
} Family;

typedef struct Case {
    const Family *family;
    char name[256];
} Case;

static const KdWeights *golden; /* of the family of the case that runs */

static KdProgram *load(KdContext *cx, const Family *y) {
    KdLangOptions o = {0};
    return kd_lang_load(cx, kd_format(cx, "tests/golden/%s.kd", y->name), y->source, y->source_size,
                        &o);
}

/* ---- one case ---- */

static bool has_any(const char *name, const char *kind) {
    char prefix[256];
    int n = snprintf(prefix, sizeof prefix, "%s.%s.", name, kind);
    for (int i = 0; i < golden->n; i++)
        if (strncmp(golden->tensor[i].name, prefix, (size_t)n) == 0) return true;
    return false;
}

static KdFunc *elaborate(KdContext *cx, const Family *y, const char *name) {
    KdProgram *p = load(cx, y);
    if (!p) return NULL;
    bool grads = has_any(name, "grad");
    const KdTensor *seed = golden_find(golden, name, "seed", NULL);
    KdGiven given = {"seed", seed ? kd_type(cx, KD_F32, seed->rank, seed->dim) : NULL};
    KdNetOptions o = {.mode = golden_ends(name, "_train") ? KD_TRAIN : KD_INFER, .grads = grads};
    if (grads) {
        o.given = &given;
        o.n_given = 1;
    }
    return kd_lang_net(p, name, &o);
}

/* The inputs' elements from the file; NULL after saying what is missing. */
static void **inputs_of(KdContext *cx, const KdFunc *f, const char *name) {
    void **in = KD_NEW_ARRAY(cx, void *, f->inputs.n + 1);
    for (int i = 0; i < f->inputs.n; i++) {
        const KdType *t = kd_vtype(f, f->inputs.v[i]);
        const char *input = kd_attr_str(f, kd_node(f, f->inputs.v[i]), "name");
        const KdTensor *x = strcmp(input, "seed") == 0 ? golden_find(golden, name, "seed", NULL)
                                                       : golden_find(golden, name, "in", input);
        if (!x || x->count != t->count) {
            print_error("%s: no '%s' of %lld elements in the file\n", name, input,
                        (long long)t->count);
            return NULL;
        }
        in[i] = KD_NEW_ARRAY(cx, float, t->count + 1);
        memcpy(in[i], x->data, fw_bytes(t));
    }
    return in;
}

/* What output o must be: NULL when the file does not say. */
static const KdTensor *expected(const KdFunc *f, int o, const char *name) {
    const char *out = f->outputs.v[o].name;
    if (strcmp(out, "out") == 0) return golden_find(golden, name, "out", NULL);
    if (strncmp(out, "grad.", 5) == 0) return golden_find(golden, name, "grad", out + 5);
    return golden_find(golden, name, "new", out);
}

static double element(const KdType *t, const void *p, int64_t i) {
    return t->dtype == KD_I32 ? (double)((const int32_t *)p)[i] : (double)((const float *)p)[i];
}

static bool compare(const char *name, const FwResult *r, int o, const KdTensor *want) {
    const KdType *t = kd_vtype(r->f, r->f->outputs.v[o].value);
    double largest = 1e-3;
    if (t->count != want->count) {
        print_error("%s: '%s' has %lld elements, PyTorch's %lld\n", name, r->f->outputs.v[o].name,
                    (long long)t->count, (long long)want->count);
        return false;
    }
    for (int64_t i = 0; i < t->count; i++)
        largest = fmax(largest, fabs(golden_at(want, i)));
    for (int64_t i = 0; i < t->count; i++) {
        double w = golden_at(want, i), e = r->eval[o][i], c = element(t, r->jit[o], i);
        bool exact = t->dtype != KD_F32;
        if (fabs(e - w) <= (exact ? 0 : 1e-5 * largest) &&
            fabs(c - w) <= (exact ? 0 : 2e-4 * largest))
            continue;
        print_error("%s: '%s' differs at %lld: PyTorch %.9g, evaluator %.9g, compiled %.9g "
                    "(largest %.3g)\n",
                    name, r->f->outputs.v[o].name, (long long)i, w, e, c, largest);
        return false;
    }
    return true;
}

static bool run_case(KdContext *cx, const Case *c) {
    const char *name = c->name;
    KdFunc *f = elaborate(cx, c->family, name);
    if (!f) return false;
    void **in = inputs_of(cx, f, name);
    if (!in) return false;
    FwResult r;
    FwOptions o = {.tolerance = 2e-4};
    bool ok = fw_run(cx, f, (const void *const *)in, &o, &r);
    if (!ok) print_error("%s: %s\n", name, r.why);
    int grads = 0, wanted = 0;
    for (int k = 0; ok && k < f->outputs.n; k++) {
        const KdTensor *want = expected(r.f, k, name);
        grads += strncmp(r.f->outputs.v[k].name, "grad.", 5) == 0;
        ok = want && compare(name, &r, k, want);
        if (!want)
            print_error("%s: nothing in the file to compare '%s' with\n", name,
                        r.f->outputs.v[k].name);
    }
    char prefix[256];
    int n = snprintf(prefix, sizeof prefix, "%s.grad.", name);
    for (int i = 0; i < golden->n; i++)
        wanted += strncmp(golden->tensor[i].name, prefix, (size_t)n) == 0;
    if (ok && grads != wanted) {
        print_error("%s: %d gradients, PyTorch has %d\n", name, grads, wanted);
        ok = false;
    }
    fw_result_free(&r);
    return ok;
}

static void test_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    bool ok = false;
    golden = c->family->values;
    assert_non_null(cx);
    if (KD_TRY(cx, l)) {
        ok = run_case(cx, c);
        kd_landing_pop(cx);
    } else {
        const char *why;
        kd_failure(cx, &why);
        print_error("%s: %s\n", c->name, why);
    }
    kd_diag_print(cx, stderr, false);
    kd_context_free(cx);
    assert_true(ok);
}

/* ---- all of them ---- */

static struct CMUnitTest *tests;
static int n_tests;

static bool add_cases(KdContext *cx, const Family *y) {
    KdProgram *p = load(cx, y);
    int n = 0;
    if (!p) return false;
    const KdDecl *d = kd_lang_decls(p, &n);
    tests = realloc(tests, (size_t)(n_tests + n) * sizeof *tests);
    for (int i = 0; i < n; i++)
        if (d[i].main && (d[i].kind == KD_DECL_FN || d[i].kind == KD_DECL_NET)) {
            Case *c = calloc(1, sizeof *c);
            c->family = y;
            snprintf(c->name, sizeof c->name, "%s", d[i].name);
            tests[n_tests++] =
                (struct CMUnitTest){.name = c->name, .test_func = test_case, .initial_state = c};
        }
    return true;
}

/* False after saying what cannot be read: a family whose files were not made is a failure. */
static bool read_family(Family *y) {
    char file[256], path[1024];
    KdTrouble t;
    KdContext *cx = kd_context_new();
    KdLanding l;
    bool ok = false;
    snprintf(file, sizeof file, "%s.safetensors", y->name);
    y->values = golden_read(file);
    snprintf(path, sizeof path, "%s/tests/golden/%s.kd", KDC_SOURCE_DIR, y->name);
    y->source = kd_file_read(path, &y->source_size, &t);
    if (!y->source) fprintf(stderr, "%s: %s\n", path, t.text);
    if (cx && y->values && y->source && KD_TRY(cx, l)) {
        ok = add_cases(cx, y);
        kd_landing_pop(cx);
    }
    if (cx) kd_diag_print(cx, stderr, false);
    kd_context_free(cx);
    return ok;
}

/* Their names, sorted: the entries FAMILY_cases.py of tests/golden. */
static int find_families(Family *y) {
    static const char end[] = "_cases.py";
    struct dirent **entry;
    int n = scandir(KDC_SOURCE_DIR "/tests/golden", &entry, NULL, alphasort), count = 0;
    for (int i = 0; i < n; i++) {
        const char *file = entry[i]->d_name;
        if (golden_ends(file, end) && count < MAX_FAMILIES)
            snprintf(y[count++].name, sizeof y->name, "%.*s", (int)(strlen(file) - strlen(end)),
                     file);
        free(entry[i]);
    }
    if (n >= 0) free(entry);
    return count;
}

int main(int argc, char **argv) {
    static Family family[MAX_FAMILIES];
    int n = find_families(family), failed = 0;
    for (int i = 0; i < n; i++)
        if (argc < 2 || strcmp(argv[1], family[i].name) == 0) failed += !read_family(&family[i]);
    if (n_tests >= (argc < 2 ? 80 : 1))
        failed += _cmocka_run_group_tests("golden_ops", tests, (size_t)n_tests, NULL, NULL);
    else
        failed += fprintf(stderr, "golden_ops: only %d cases could be read\n", n_tests) > 0;
    for (int i = 0; i < n_tests; i++)
        free(tests[i].initial_state);
    for (int i = 0; i < n; i++) {
        kd_weights_free(family[i].values);
        free(family[i].source);
    }
    free(tests);
    return failed;
}
