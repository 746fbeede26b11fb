/* test_supernet.c: a sub-network of a supernet computes what a network of its widths computes with the leading parts of the weights:
 * output, updates of buffers, and all gradients, which are zero outside the slice. Random configurations of each family, in double
 * precision. */
#include "tests/lang/lang_test.h"

#include "passes/passes.h"

enum { MOST_GENES = 16 };

/* Each program has `choice`s, a fn `part` over slices of networks S, K, ..., and a fn `plain` over networks P_S, P_K, ... of those widths. */
static const char mobile[] =
    "import \"nets/mobile_resnet.kd\"\n"
    "choice channels = [[2, 3], [1, 2], [1, 2, 3], [1, 2, 3], [1, 2], [1, 2], [1, 2], [2, 4]]\n"
    "let S = MobileResnetGen[n_blocks = 3, channels = [3, 2, 3, 3, 2, 2, 2, 4]]\n"
    "let P_S = MobileResnetGen[n_blocks = 3, channels = channels]\n"
    "fn part(x: [1, 3, 8, 8]) {\n    let whole = S(x)\n    return narrow(S, channels = channels)(x)\n}\n"
    "fn plain(x: [1, 3, 8, 8]) { return P_S(x) }\n";

/* The features' way through trained 1x1 convolutions, sliced by what comes in. */
static const char adaptors[] =
    "import \"nets/generators.kd\"\n"
    "import \"nets/mobile_resnet.kd\"\n"
    "import \"losses/fitnets.kd\"\n"
    "choice channels = [[2, 3], [1, 2], [1, 2, 3], [1, 2, 3], [1, 2], [1, 2], [1, 2], [2, 4]]\n"
    "let T = MobileResnetGen[n_blocks = 3, ngf = 2]\n"
    "let S = MobileResnetGen[n_blocks = 3, channels = [3, 2, 3, 3, 2, 2, 2, 4]]\n"
    "let K = FitNets[]\n"
    "let P_S = MobileResnetGen[n_blocks = 3, channels = channels]\n"
    "let P_K = FitNets[]\n"
    "fn taps(y) { return features(\"mobile\", y, usual_taps(\"mobile\", 3)) }\n"
    "fn part(x: [1, 3, 8, 8]) {\n"
    "    let soft = taps(T(x))\n"
    "    let whole = K(taps(S(x)), soft)\n"
    "    return narrow(K)(taps(narrow(S, channels = channels)(x)), soft)\n"
    "}\n"
    "fn plain(x: [1, 3, 8, 8]) { return P_K(taps(P_S(x)), taps(T(x))) }\n";

/* Batch norms: their statistics are sliced, too. */
static const char unet[] =
    "import \"nets/unet.kd\"\n"
    "choice channels = [[1, 2, 3], [2, 3], [2, 4], [1, 3], [2, 3], [1, 2, 4], [2, 3]]\n"
    "let S = Unet[depth = 4, dropout = 0, channels = [3, 3, 4, 3, 3, 4, 3]]\n"
    "let P_S = Unet[depth = 4, dropout = 0, channels = channels]\n"
    "fn part(x: [2, 3, 16, 16]) {\n    let whole = eval_mode(S)(x)\n    return narrow(S, channels = channels)(x)\n}\n"
    "fn plain(x: [2, 3, 16, 16]) { return P_S(x) }\n";

/* Blocks that are left out. */
static const char depths[] =
    "import \"nets/resnet.kd\"\n"
    "choice depth = [[1, 2]] * 2\n"
    "choice stem = [2, 3]\n"
    "let S = ResnetGen[n_blocks = 4, n_down = 1, channels = [3, 4, 4, 4, 4, 4, 2]]\n"
    "let P_S = ResnetGen[n_blocks = 4, n_down = 1, depth = depth, channels = [stem, 4, 4, 4, 4, 4, 2]]\n"
    "fn part(x: [1, 3, 8, 8]) {\n    let whole = S(x)\n    return narrow(S, depth = depth, channels = [stem, 4, 4, 4, 4, 4, 2])(x)\n}\n"
    "fn plain(x: [1, 3, 8, 8]) { return P_S(x) }\n";

/* Also where two widths that follow each other come out equal (16 * 1 = 8 * 2): the block keeps its shortcut. */
static const char spade[] =
    "import \"nets/spade.kd\"\n"
    "choice channels = [[1, 2]] * 8\n"
    "let S = SpadeGen[up = \"normal\", hidden = 0, mobile = true, spectral = false, in_channels = 3, channels = [2] * 8]\n"
    "let P_S = SpadeGen[up = \"normal\", hidden = 0, mobile = true, spectral = false, in_channels = 3, channels = channels]\n"
    "fn part(s: [1, 3, 32, 32]) {\n    let whole = S(s)\n    return narrow(S, channels = channels)(s)\n}\n"
    "fn plain(s: [1, 3, 32, 32]) { return P_S(s) }\n";

static LtRun elaborate(KdProgram *p, KdContext *cx, const char *name, KdMode mode, const int *draw) {
    LtRun r = {.cx = cx, .p = p};
    r.f = kd_lang_net(p, name, &(KdNetOptions){.mode = mode, .grads = true, .draw = draw});
    if (!r.f) lt_fail(cx, name);
    r.f = kd_pass_dce(kd_pass_autodiff(r.f));
    return r;
}

static const char *input_name(const KdFunc *f, int k) { return kd_attr_str(f, kd_node(f, f->inputs.v[k]), "name"); }

/* "grad.P_S.stem.weight" -> "grad.S.stem.weight"; NULL: not of the plain networks */
static const char *whole_name(KdContext *cx, const char *name) {
    const char *own = strstr(name, "P_");
    return own ? kd_format(cx, "%.*s%s", (int)(own - name), name, own + 2) : NULL;
}

/* Where element i of a tensor stands in a larger one of which it is the leading part. */
static int64_t place(const KdType *part, const KdType *whole, int64_t i) {
    int64_t at = 0, stride = 1;
    for (int d = part->rank; d-- > 0;) {
        if (part->dim[d] > whole->dim[d]) fail_msg("a slice is larger than the whole");
        at += i % part->dim[d] * stride;
        i /= part->dim[d];
        stride *= whole->dim[d];
    }
    return at;
}

static int find_input(const KdFunc *f, const char *name) {
    for (int k = 0; k < f->inputs.n; k++)
        if (strcmp(input_name(f, k), name) == 0) return k;
    fail_msg("there is no input %s", name);
    return -1;
}

static int find_output(const KdFunc *f, const char *name) {
    for (int k = 0; k < f->outputs.n; k++)
        if (strcmp(f->outputs.v[k].name, name) == 0) return k;
    return -1;
}

/* Inputs of `plain` are those of `part` of the same name, or their leading parts. */
static void evaluate(LtRun *part, LtRun *plain) {
    LtValues given[512];
    assert_true(plain->f->inputs.n <= 512);
    lt_eval(part, NULL, 0);
    for (int k = 0; k < plain->f->inputs.n; k++) {
        const char *name = input_name(plain->f, k), *whole = whole_name(plain->cx, name);
        int from = find_input(part->f, whole ? whole : name);
        const KdType *small = kd_vtype(plain->f, plain->f->inputs.v[k]), *large = kd_vtype(part->f, part->f->inputs.v[from]);
        double *v = KD_NEW_ARRAY(plain->cx, double, small->count + 1);
        for (int64_t i = 0; i < small->count; i++) v[i] = part->in[from][place(small, large, i)];
        given[k] = (LtValues){name, v, (int)small->count};
    }
    lt_eval(plain, given, plain->f->inputs.n);
}

/* What is outside a slice: a gradient of zero, a buffer as it was. */
static double outside(const LtRun *part, const KdOutput *o, int64_t i) {
    return o->updates == KD_NONE ? 0 : part->in[find_input(part->f, o->name)][i];
}

/* All outputs; returns how many tensors had something outside the slice. */
static int compare(const LtRun *part, const LtRun *plain, bool skips) {
    int sliced = 0;
    for (int k = 0; k < part->f->outputs.n; k++) {
        const KdOutput *o = &part->f->outputs.v[k];
        const KdType *large = kd_vtype(part->f, o->value);
        double *want = malloc(sizeof *want * (size_t)large->count);
        int other = -1;
        for (int j = 0; j < plain->f->outputs.n && other < 0; j++) {
            const char *name = plain->f->outputs.v[j].name, *whole = whole_name(plain->cx, name);
            other = strcmp(whole ? whole : name, o->name) == 0 ? j : -1;
        }
        bool own = strncmp(o->name, "grad.", 5) == 0 || o->updates != KD_NONE;
        for (int64_t i = 0; i < large->count; i++) want[i] = own ? outside(part, o, i) : NAN;
        if (other >= 0) {
            const KdType *small = kd_vtype(plain->f, plain->f->outputs.v[other].value);
            for (int64_t i = 0; i < small->count; i++) want[place(small, large, i)] = plain->out[other][i];
            sliced += small->count < large->count;
        } else {
            if (!skips) fail_msg("the plain network has no %s", o->name);
            sliced++;
        }
        for (int64_t i = 0; i < large->count; i++) lt_near(part->out[k][i], want[i], 1e-9, o->name, (int)i);
        free(want);
    }
    for (int k = 0; k < plain->f->outputs.n; k++) { /* nothing of the plain networks was left out */
        const char *name = plain->f->outputs.v[k].name, *whole = whole_name(plain->cx, name);
        if (find_output(part->f, whole ? whole : name) < 0) fail_msg("the slice has no %s", name);
    }
    return sliced;
}

static void free_values(LtRun *r) {
    for (int k = 0; k < r->f->inputs.n; k++) free(r->in[k]);
    for (int k = 0; k < r->f->outputs.n; k++) free(r->out[k]);
    free(r->in);
    free(r->out);
}

/* n configurations drawn by a fixed generator, then (if there were several) the largest. skips: layers may be left out. */
static void check(const char *text, int n, KdMode mode, uint32_t seed, bool skips) {
    int sliced = 0;
    for (int c = 0; c < (n > 1 ? n + 1 : 1); c++) {
        KdContext *cx = kd_context_new();
        KdProgram *p = lt_load(cx, "test.kd", text, NULL);
        int draw[MOST_GENES], genes = 0, choices;
        const KdChoice *choice = kd_lang_choices(p, &choices);
        for (int i = 0; i < choices; i++)
            for (int g = 0; g < choice[i].n_genes; g++) {
                seed = seed * 1664525u + 1013904223u;
                int alternatives = choice[i].genes[g].n;
                draw[genes++] = c == n ? alternatives - 1 : (int)((seed >> 16) % (uint32_t)alternatives);
            }
        LtRun part = elaborate(p, cx, "part", mode, draw), plain = elaborate(p, cx, "plain", mode, draw);
        evaluate(&part, &plain);
        int outside_of = compare(&part, &plain, skips);
        if (c == n) assert_int_equal(outside_of, 0);
        sliced += outside_of;
        free_values(&part);
        free_values(&plain);
        kd_context_free(cx);
    }
    assert_true(sliced > 4 * n);
}

static void test_mobile(void **state) { (void)state, check(mobile, 20, KD_INFER, 1, false); }
static void test_adaptors(void **state) { (void)state, check(adaptors, 5, KD_INFER, 2, false); }
static void test_unet(void **state) { (void)state, check(unet, 20, KD_INFER, 3, false), check(unet, 20, KD_TRAIN, 4, false); }
static void test_depths(void **state) { (void)state, check(depths, 5, KD_INFER, 5, true); }
static void test_spade(void **state) { (void)state, check(spade, 1, KD_INFER, 50, false); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mobile), cmocka_unit_test(test_adaptors), cmocka_unit_test(test_unet), cmocka_unit_test(test_depths),
        cmocka_unit_test(test_spade),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
