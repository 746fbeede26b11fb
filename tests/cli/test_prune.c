/* test_prune.c: kdc prune as a person uses it: targets that are met, layers that share a number, skips, given widths,
 * weights that are rows and columns of the old ones, a pruned network that computes what the old one did where the
 * channels that went gave nothing, and what is wrong said in a sentence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/lang/lang.h"
#include "tests/cli/command.h"

static const char nets_kd[] = "import \"nets/cat.kd\"\n"
                              "import \"nets/unet.kd\"\n"
                              "import \"nets/mobile_resnet.kd\"\n"
                              "param ngf = 12\n"
                              "param n_blocks = 1\n"
                              "let C = CatGen[ngf = 16, n_blocks = 1]\n"
                              "let B = frozen CatGen[ngf = 8, n_blocks = 1, norm = \"batch\", reduction = 4]\n"
                              "let R = CatGen[ngf = 8, n_blocks = n_blocks, norm = \"batch\"]\n"
                              "let U = Unet[ngf = 8, depth = 3]\n"
                              "let M = MobileResnetGen[ngf = ngf, n_blocks = 3]\n"
                              "net Up[ch = 4](x: [n, 3, h, w]) {\n"
                              "    let down = conv2d[2 * ch, 3, stride = 2, padding = 1]\n"
                              "    let up = conv_transpose2d[ch, 4, stride = 2, padding = 1]\n"
                              "    return conv2d[3, 1](relu(up(relu(down(x)))))\n"
                              "}\n"
                              "net Fixed[](x: [n, 3, h, w]) { return conv2d[3, 1](conv2d[8, 1](x)) }\n"
                              "net Six[ch = 4](x: [n, c, h, w]) { return conv2d[3, 1](conv2d[ch, 1](x)) }\n"
                              "let P = Up[ch = 8]\n";

static Setup env;

static const char *here(const char *name) {
    return in_folder(&env, name);
}

static void works(const char *line) {
    expect(&env, line, 0, "stdout", "");
}

static void fails(const char *line, int code, const char *says) {
    expect(&env, line, code, "stderr", says);
}

static char *text_of(const char *name) {
    return read_text(&env, name, NULL);
}

static void prints(const char *says) {
    char *text = text_of("stdout");
    if (!strstr(text, says)) {
        fail_msg("expected '%s' in\n%s", says, text);
    }
    free(text);
}

/* ---- networks and weights -------------------------------------------------------------------------------- */

enum { SIZE = 16 };

typedef struct Net {
    KdContext *cx;
    KdFunc *f;
    KdWeights *w;
} Net;

static Net net_of(const char *file, const char *name, const char *weights) {
    Net n = {.cx = kd_context_new()};
    KdTrouble t;
    KdProgram *p = kd_lang_load(n.cx, kd_intern_z(n.cx, here(file)), NULL, 0, NULL);
    n.f = p ? kd_lang_net(p, kd_intern_z(n.cx, name), &(KdNetOptions){.height = SIZE, .width = SIZE}) : NULL;
    if (!n.f) {
        kd_diag_print(n.cx, stderr, false);
        fail_msg("%s:%s", file, name);
    }
    n.w = weights ? kd_weights_read(here(weights), &t) : NULL;
    assert_true(!weights || n.w);
    return n;
}

static void free_net(Net *n) {
    kd_weights_free(n->w);
    kd_context_free(n->cx);
}

static const char *name_of(const Net *n, int input) {
    return kd_attr_str(n->f, kd_node(n->f, n->f->inputs.v[input]), "name");
}

static bool ends_in(const char *name, const char *end) {
    return strlen(name) >= strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

static double noise(uint64_t i) { /* in [-1, 1): splitmix64 */
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 40) / 8388608 - 1;
}

/* Numbers of which no two are alike: scales between 0.1 and 1.9, variances 1, the rest small. Where `gone` is given,
 * the scales and shifts of those channels are 0: gone(name, channel). */
static void make_weights(const char *net, const char *to, bool (*gone)(const char *name, int channel)) {
    Net n = net_of("nets.kd", net, NULL);
    KdTensorOut *out = KD_NEW_ARRAY(n.cx, KdTensorOut, n.f->inputs.n);
    KdTrouble t;
    int count = 0;
    for (int i = 0; i < n.f->inputs.n; i++) {
        const KdType *type = kd_vtype(n.f, n.f->inputs.v[i]);
        float *data = KD_NEW_ARRAY(n.cx, float, type->count);
        const char *name = name_of(&n, i);
        if (kd_input_role(n.f, n.f->inputs.v[i]) == KD_DATA) {
            continue;
        }
        bool norm = type->rank == 1 && (strstr(name, "norm") || strstr(name, "_bn")),
             scale = norm && ends_in(name, "weight");
        for (int64_t k = 0; k < type->count; k++) {
            double v = noise((uint64_t)(i * 100003 + k));
            data[k] = (float)(scale                          ? 1 + 0.9 * v
                              : ends_in(name, "running_var") ? 1
                              : type->rank == 1              ? 0.1 * v
                                                             : 0.3 * v);
            if (norm && gone && gone(name, (int)k) && !strstr(name, "running")) {
                data[k] = 0;
            }
        }
        out[count++] = (KdTensorOut){name, KD_STORED_F32, type->rank, type->dim, data};
    }
    assert_true(kd_weights_write(here(to), out, count, NULL, 0, &t));
    free_net(&n);
}

/* What the network gives for one picture, in double precision; *n values, to free. */
static double *result(const Net *net, int *n) {
    double **in = KD_NEW_ARRAY(net->cx, double *, net->f->inputs.n);
    for (int i = 0; i < net->f->inputs.n; i++) {
        int64_t count = kd_vtype(net->f, net->f->inputs.v[i])->count;
        const KdTensor *t = kd_weights_find(net->w, name_of(net, i));
        bool data = kd_input_role(net->f, net->f->inputs.v[i]) == KD_DATA;
        KdTrouble trouble;
        in[i] = KD_NEW_ARRAY(net->cx, double, count);
        float *v = KD_NEW_ARRAY(net->cx, float, count);
        assert_true(data || (t && t->count == count && kd_tensor_f32(t, v, &trouble)));
        for (int64_t k = 0; k < count; k++) {
            in[i][k] = data ? noise((uint64_t)(k + 77)) : (double)v[k];
        }
    }
    *n = (int)kd_vtype(net->f, net->f->outputs.v[0].value)->count;
    double *out = calloc((size_t)*n, sizeof *out);
    kd_eval(net->f, (const double *const *)in, &out);
    return out;
}

static void same_result(const char *net, const char *weights, const char *student, const char *its_weights,
                        double most) {
    Net a = net_of("nets.kd", net, weights), b = net_of(student, net, its_weights);
    int n, m;
    double *x = result(&a, &n), *y = result(&b, &m), worst = 0, spread = 0;
    assert_int_equal(n, m);
    assert_true(kd_lang_parameters(b.f) < kd_lang_parameters(a.f));
    for (int i = 0; i < n; i++) {
        worst = fmax(worst, fabs(x[i] - y[i]));
        spread = fmax(spread, fabs(x[i] - x[0]));
    }
    assert_true(spread > 0.01);
    if (!(worst <= most)) {
        fail_msg("%s: the pruned network differs by %g", net, worst);
    }
    free(x);
    free(y);
    free_net(&a);
    free_net(&b);
}

/* The file of weights holds exactly the network's. */
static void is_whole(const Net *n) {
    int count = 0;
    for (int i = 0; i < n->f->inputs.n; i++) {
        const KdType *type = kd_vtype(n->f, n->f->inputs.v[i]);
        const KdTensor *t = kd_weights_find(n->w, name_of(n, i));
        if (kd_input_role(n->f, n->f->inputs.v[i]) == KD_DATA) {
            continue;
        }
        assert_non_null(t);
        assert_int_equal(t->rank, type->rank);
        for (int d = 0; d < t->rank; d++) {
            assert_int_equal(t->dim[d], type->dim[d]);
        }
        count++;
    }
    assert_int_equal(n->w->n, count);
}

static float element(const KdWeights *w, const char *name, int64_t i) {
    float v;
    const KdTensor *t = kd_weights_find(w, name);
    assert_non_null(t);
    memcpy(&v, t->data + i * 4, 4);
    return v;
}

/* ---- tests ------------------------------------------------------------------------------------------------- */

static void setup_file(void) {
    skip_unless(&env);
    write_text(&env, "nets.kd", nets_kd, strlen(nets_kd));
}

/* CAT: one threshold over the first scales. Those of the stem that stay are the largest, and its filters go with them.
 */
static void test_scale(void **state) {
    (void)state;
    setup_file();
    make_weights("C", "c.safetensors", NULL);
    Net whole = net_of("nets.kd", "C", "c.safetensors");
    double aim = floor(0.3 * kd_lang_macs(whole.f).t_out);
    works(kd_format(
        whole.cx,
        "prune nets.kd:C --weights c.safetensors --size 16x16 --by scale --macs %.0f --min-channels 4 -o small.kd",
        aim));
    prints("features[0].ops.dw_ops[2].first.conv");
    prints("channels[0]");
    Net small = net_of("small.kd", "C", "small.safetensors");
    double got = kd_lang_macs(small.f).t_out;
    if (!(got <= aim && got > 0.97 * aim)) { /* a channel of the widest stream is 2 % */
        fail_msg("%.0f MACs for a target of %.0f", got, aim);
    }
    is_whole(&small);
    /* of 16 scales of the stem those that stay, in order */
    const KdTensor *kept = kd_weights_find(small.w, "stem.norm.weight");
    double least = INFINITY;
    int n = 0;
    for (int i = 0; i < 16; i++) {
        float scale = element(whole.w, "stem.norm.weight", i);
        if (n < kept->count && scale == element(small.w, "stem.norm.weight", n)) {
            least = fmin(least, (double)scale);
            assert_true(element(small.w, "stem.conv.weight", n * 147 + 5) ==
                        element(whole.w, "stem.conv.weight", i * 147 + 5));
            assert_true(
                element(small.w, "down[0].conv.weight", n * 9) == element(whole.w, "down[0].conv.weight", i * 9) || n);
            n++;
        }
    }
    assert_int_equal(n, kept->count);
    assert_true(n < 16);
    for (int i = 0, k = 0; i < 16; i++) {
        bool stays = k < n && element(whole.w, "stem.norm.weight", i) == element(small.w, "stem.norm.weight", k);
        k += stays;
        assert_true(stays || (double)element(whole.w, "stem.norm.weight", i) <= least);
    }
    free_net(&whole);
    free_net(&small);
}

/* A third of the channels, more of some layers, and the second dense branch of the first block. */
static bool gone_cat(const char *name, int channel) {
    return strstr(name, "features[0].ops.res_ops[1]") ? true
           : strstr(name, "dw_ops")                   ? channel % 4 == 1
                                                      : channel % 3 == 1;
}

/* The norms of a batch-normed inception network: channels without scale and shift give nothing. */
static void test_zero_scales(void **state) {
    (void)state;
    setup_file();
    make_weights("B", "b.safetensors", gone_cat);
    /* widths 8, 16, 32, 16, 8 and 8: what is not gone of each */
    works("prune nets.kd:B --weights b.safetensors --size 16x16 --by scale --to channels=[5,11,21,11,5] "
          "--to branches=[[5,0,5,6,6,6]] -o zero.kd");
    same_result("B", "b.safetensors", "zero.kd", "zero.safetensors", 1e-6);
    prints("-> 0 ");
    /* and the threshold finds the same ones: those with a scale of 0 are the first to go */
    Net small = net_of("zero.kd", "B", "zero.safetensors");
    works(kd_format(
        small.cx,
        "prune nets.kd:B --weights b.safetensors --size 16x16 --by scale --macs %.0f --min-channels 1 -o found.kd",
        kd_lang_macs(small.f).t_out));
    Net found = net_of("found.kd", "B", "found.safetensors");
    assert_true(kd_lang_macs(found.f).t_out == kd_lang_macs(small.f).t_out);
    assert_int_equal(kd_lang_parameters(found.f), kd_lang_parameters(small.f));
    free_net(&small);
    free_net(&found);
}

static bool gone_unet(const char *name, int channel) {
    return strstr(name, "down[1]") ? channel % 2 : channel % 4 == 0;
}

/* Skips: what level 1 gives down goes into the innermost level and into the way up. */
static void test_unet(void **state) {
    (void)state;
    setup_file();
    make_weights("U", "u.safetensors", gone_unet);
    works("prune nets.kd:U --weights u.safetensors --size 16x16 --by scale --to channels=[8,8,32,12,6] -o unet.kd");
    same_result("U", "u.safetensors", "unet.kd", "unet.safetensors", 1e-6);
    fails("prune nets.kd:U --weights u.safetensors --by scale --to channels=[4,16,32,16,8] -o x.kd", 1,
          "down[0].conv is to have 4 of its 8 channels, but no norm");
    /* layers without a norm behind them stay */
    Net whole = net_of("nets.kd", "U", NULL);
    works(kd_format(
        whole.cx,
        "prune nets.kd:U --weights u.safetensors --size 16x16 --by scale --params %d --min-channels 2 -o params.kd",
        (int)(0.7 * (double)kd_lang_parameters(whole.f))));
    prints("channels[2]: stays");
    Net small = net_of("params.kd", "U", "params.safetensors");
    is_whole(&small);
    assert_true((double)kd_lang_parameters(small.f) <= 0.7 * (double)kd_lang_parameters(whole.f));
    free_net(&whole);
    free_net(&small);
}

/* Numbers of which one is 4 channels, with a param of -D, to parameters; each third of the blocks has one. */
static void test_shared(void **state) {
    (void)state;
    setup_file();
    make_weights("M", "m.safetensors", NULL);
    works("prune nets.kd:M --weights m.safetensors --size 16x16 --by l1 --macs 0.9M --convention Tin --min-channels 2 "
          "-o mobile.kd");
    Net small = net_of("mobile.kd", "M", "mobile.safetensors");
    is_whole(&small);
    assert_true(kd_lang_macs(small.f).t_in <= 0.9e6);
    assert_true(kd_lang_macs(small.f).t_in > 0.85e6);
    const KdTensor *down = kd_weights_find(small.w, "down[1].weight"),
                   *inner = kd_weights_find(small.w, "blocks[1].conv1.pointwise.weight");
    assert_int_equal(down->dim[0] % 4, 0);
    assert_int_equal(inner->dim[0] % 4, 0);
    assert_int_equal(inner->dim[1], down->dim[0]);
    free_net(&small);
    /* ngf means all of them, and what is given goes before what is the default */
    works("prune nets.kd:M --weights m.safetensors --size 16x16 --to ngf=6 -o sixes.kd");
    char *text = text_of("sixes.kd");
    assert_non_null(strstr(text, "MobileResnetGen[\n    ngf = 6,\n    n_blocks = 3\n]"));
    free(text);
    fails("prune nets.kd:M --weights m.safetensors --to ngf=13 -o x.kd", 1, "more channels than there are");
    fails("prune nets.kd:M --weights m.safetensors --to nfg=6 -o x.kd", 1, "did you mean 'ngf'?");
    fails("prune nets.kd:M --weights m.safetensors --by scale --macs 1e6 -o x.kd", 1, "no norms with scales");
}

/* A network of the user's own, from another folder: one number, two layers of different width. */
static void test_own(void **state) {
    (void)state;
    setup_file();
    make_weights("P", "p.safetensors", NULL);
    make_folder(&env, "out");
    works("prune nets.kd:P --weights p.safetensors --size 16x16 --params 400 --min-channels 1 -o out/own.kd");
    Net small = net_of("out/own.kd", "P", "out/own.safetensors");
    is_whole(&small);
    assert_int_equal(kd_weights_find(small.w, "down.weight")->dim[0],
                     2 * kd_weights_find(small.w, "up.weight")->dim[1]);
    assert_true(kd_lang_parameters(small.f) <= 400);
    char *text = text_of("out/own.kd");
    assert_non_null(strstr(text, "import \"../nets.kd\""));
    free(text);
    free_net(&small);
    /* nothing is written */
    works("prune nets.kd:P --weights p.safetensors --params 400 --min-channels 1 --dry-run -o out/dry.kd");
    prints("nothing written");
    assert_false(there(&env, "out/dry.kd"));
}

/* The student as a recipe's own: params, and what -D says for both. */
static void test_recipe(void **state) {
    (void)state;
    setup_file();
    make_weights("R", "r.safetensors", NULL);
    make_weights("C", "c.safetensors", NULL);
    works("prune nets.kd:R -D n_blocks=1 --weights r.safetensors --size 16x16 --by scale --macs 0.5M --min-channels 2 "
          "--recipe recipes/pix2pix_cat.kd -o student.kd");
    char *text = text_of("student.kd");
    assert_non_null(
        strstr(text, "import \"recipes/pix2pix_cat.kd\"\n\nparam n_blocks = 1\nparam student_channels = ["));
    assert_non_null(strstr(text, "param student_branches = [["));
    free(text);
    Net small = net_of("student.kd", "S", "student.safetensors");
    is_whole(&small);
    assert_true(kd_lang_macs(small.f).t_out <= 0.5e6);
    free_net(&small);
    /* params that only the recipe has */
    works("prune nets.kd:R -D n_blocks=1 --weights r.safetensors --size 16x16 --by scale --macs 0.5M --min-channels 2 "
          "--recipe recipes/pix2pix_cat.kd -D teacher_ngf=8 -o student.kd");
    text = text_of("student.kd");
    assert_non_null(strstr(text, "param n_blocks = 1\nparam teacher_ngf = 8\nparam student_channels"));
    free(text);
    fails("prune nets.kd:R -D n_blocks=1 --weights r.safetensors --macs 0.5M --recipe recipes/pix2pix_cat.kd "
          "-D teacher_nfg=8 -o x.kd", 1, "neither nets.kd nor recipes/pix2pix_cat.kd has a param 'teacher_nfg'");
    /* another kind of norm than the recipe's student has, no such network, no such recipe */
    fails("prune nets.kd:C --weights c.safetensors --to channels=[8,16,32,16,8] --recipe recipes/pix2pix_cat.kd "
          "-o x.kd", 1, "is not this student");
    fails("prune nets.kd:R --weights r.safetensors --to channels=[4,8,16,8,4] --recipe recipes/pix2pix_cat.kd:Q "
          "-o x.kd", 1, "'Q'");
    fails("prune nets.kd:R --weights r.safetensors --to channels=[4,8,16,8,4] --recipe no.kd -o x.kd", 1,
          "cannot find \"no.kd\"");
}

/* Weights of Six for six channels: what it takes is known from the picture alone. */
static void make_six(void) {
    static const float data[4 * 6] = {1};
    static const int64_t first[] = {4, 6, 1, 1}, second[] = {3, 4, 1, 1}, bias[] = {4}, last[] = {3};
    const KdTensorOut out[] = {{"conv2d_0.weight", KD_STORED_F32, 4, first, data},
                               {"conv2d_0.bias", KD_STORED_F32, 1, bias, data},
                               {"conv2d_1.weight", KD_STORED_F32, 4, second, data},
                               {"conv2d_1.bias", KD_STORED_F32, 1, last, data}};
    KdTrouble t;
    assert_true(kd_weights_write(here("six.safetensors"), out, KD_COUNT(out), NULL, 0, &t));
}

static void test_errors(void **state) {
    (void)state;
    setup_file();
    make_weights("P", "p.safetensors", NULL);
    make_weights("Fixed", "f.safetensors", NULL);
    fails("prune nets.kd:P --weights p.safetensors -o x.kd", 2, "how small?");
    fails("prune nets.kd:P --weights p.safetensors --macs 1e6 --to ch=4 -o x.kd", 2, "not several");
    fails("prune nets.kd:P --weights p.safetensors --macs 0 -o x.kd", 2, "--macs needs a number above 0");
    fails("prune nets.kd:P --weights p.safetensors --macs 1e6 --by size -o x.kd", 2, "--by needs scale, l1 or norm");
    fails("prune nets.kd:P --weights p.safetensors --params 9 --convention Tin -o x.kd", 2,
          "--convention is for --macs");
    fails("prune nets.kd:P --macs 1e6 -o x.kd", 2, "which weights?");
    fails("prune nets.kd:P --weights p.safetensors --macs 1e6", 2, "where to?");
    fails("prune nets.kd:Q --weights p.safetensors --macs 1e6 -o x.kd", 1, "no fn, net or network 'Q'");
    fails("prune nets.kd:P --weights p.safetensors --params 1G -o x.kd", 1, "already");
    fails("prune nets.kd:P --weights p.safetensors --macs 50e6 --size 16x16 -o x.kd", 1,
          "k MACs (Tout) already for input [1, 3, 16, 16]: at most 50 M MACs (Tout)");
    fails("prune nets.kd:P --weights p.safetensors --params 1 -o x.kd", 1, "cannot be pruned below");
    fails("prune nets.kd:P --weights p.safetensors --latency 1e-6 --size 16x16 --runs 1 -o x.kd", 1,
          "cannot be pruned below");
    fails("prune nets.kd:Fixed --weights f.safetensors --params 20 -o x.kd", 1, "no hyper-parameter of Fixed");
    fails("prune nets.kd:P --weights p.safetensors --params 400 -o nets.kd", 1, "would be overwritten");
    fails("prune nets.kd:P --weights p.safetensors --params 400 -o p.kd", 1, "would be overwritten");
    fails("prune nets.kd:P --weights p.safetensors --params 400 -o nowhere/x.kd", 1, "no folder nowhere");
    assert_false(there(&env, "x.kd"));
    write_text(&env, "mine.kd", "# mine\n", 7);
    fails("prune nets.kd:P --weights p.safetensors --params 400 -o mine.kd", 1, "mine.kd is there already, and not from");
    write_text(&env, "old.safetensors", "mine", 4);
    fails("prune nets.kd:P --weights p.safetensors --params 400 -o old.kd", 1, "old.safetensors is there already");
    make_six();
    fails("prune nets.kd:Six --weights six.safetensors --params 20 -o x.kd", 1, "--shape x=1x6x256x256 gives it as many");
    works("prune --help");
    prints("--min-channels");
}

static int setup(void **state) {
    (void)state;
    if (open_setup(&env, "prune")) {
        own_cache(&env);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    close_setup(&env);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scale),  cmocka_unit_test(test_zero_scales), cmocka_unit_test(test_unet),
        cmocka_unit_test(test_shared), cmocka_unit_test(test_own),         cmocka_unit_test(test_errors),
        cmocka_unit_test(test_recipe),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
