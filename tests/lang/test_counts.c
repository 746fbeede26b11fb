/* test_counts.c: parameters and multiply-accumulates of the reference networks: every row of methods.md A.5.1 to A.5.5 to the
 * last digit printed there, the PatchGAN, GauGAN and Pix2PixHD rows of A.5.6, VGG, and the closed forms. */
#include "tests/lang/lang_test.h"

typedef struct Row {
    const char *net;
    int size, channels;
    int64_t params; /* 0: see count */
    int digits;
    double count; /* the table's parameters in millions, to so many digits */
    double no_t, t_in, t_out;
    int width;      /* 0: size, which is the height */
    int mac_digits; /* 0: three */
} Row;

static const Row rows[] = {
    {"ResnetGen[ngf = 64]", 256, 3, 11378179, 0, 0, 47.136, 49.552, 56.799},
    {"ResnetGen[ngf = 48]", 256, 3, 6404739, 0, 0, 26.745, 28.104, 32.181},
    {"ResnetGen[ngf = 32]", 256, 3, 2850563, 0, 0, 12.092, 12.696, 14.508},
    {"ResnetGen[ngf = 24]", 256, 3, 1605699, 0, 0, 6.917, 7.257, 8.276},
    {"ResnetGen[ngf = 16]", 256, 3, 715651, 0, 0, 3.177, 3.328, 3.781},
    {"ResnetGen[ngf = 12]", 256, 3, 403683, 0, 0, 1.845, 1.930, 2.185},
    {"ResnetGen[ngf = 8]", 256, 3, 180419, 0, 0, 0.871, 0.909, 1.022},
    {"ResnetGen[ngf = 64, n_blocks = 6]", 256, 3, 0, 3, 7.838, 32.640, 35.056, 42.304},
    {"MobileResnetGen[ngf = 96]", 256, 3, 0, 4, 4.4183, 18.412, 23.848, 40.155},
    {"MobileResnetGen[ngf = 64]", 256, 3, 0, 4, 1.9871, 8.651, 11.067, 18.314},
    {"MobileResnetGen[ngf = 48]", 256, 3, 0, 4, 1.1309, 5.129, 6.488, 10.565},
    {"MobileResnetGen[ngf = 32]", 256, 3, 0, 4, 0.5143, 2.513, 3.117, 4.929},
    {"MobileResnetGen[ngf = 24]", 256, 3, 0, 4, 0.2959, 1.545, 1.885, 2.904},
    {"MobileResnetGen[ngf = 16]", 256, 3, 0, 4, 0.1373, 0.804, 0.955, 1.408},
    {"MobileResnetGen[ngf = 12]", 256, 3, 0, 4, 0.0805, 0.518, 0.603, 0.858},
    {"MobileResnetGen[ngf = 8]", 256, 3, 0, 4, 0.0387, 0.289, 0.326, 0.440},
    {"DeepMobileResnetGen[ngf = 24]", 256, 3, 5715723, 0, 0, -1, -1, 40.769},
    {"DeepMobileResnetGen[ngf = 16]", 256, 3, 0, 3, 2.547, -1, -1, 18.237},
    {"DeepMobileResnetGen[ngf = 12]", 256, 3, 0, 3, 1.437, -1, -1, 10.324},
    {"MobileResnetGen[channels = [16, 16, 32, 16, 32, 32, 16, 16]]", 256, 3, 0, 4, 0.3569, -1, -1, 2.525}, /* sub-networks that GAN Compression released */
    {"MobileResnetGen[channels = [16, 16, 24, 16, 32, 64, 16, 24]]", 256, 3, 0, 4, 0.3552, -1, -1, 2.618},
    {"MobileResnetGen[channels = [32, 32, 48, 32, 32, 48, 24, 24]]", 256, 3, 0, 3, 0.781, -1, -1, 5.56},
    {"MobileResnetGen[channels = [16, 24, 48, 56, 40, 48, 24, 16]]", 256, 3, 0, 3, 0.886, -1, -1, 5.419},
    {"MobileResnetGen[channels = [32, 32, 48, 32, 48, 48, 16, 16]]", 256, 3, 0, 3, 0.822, -1, -1, 4.962},
    {"MobileResnetGen[channels = [24, 24, 24, 32, 20, 16]]", 256, 3, 0, 4, 0.3416, -1, -1, 2.649},
    {"CatGen[]", 256, 3, 0, 3, 8.154, -1, -1, 43.490},
    {"Unet[ngf = 64]", 256, 3, 54413955, 0, 0, 2.017, 6.048, 18.140},
    {"Unet[ngf = 48]", 256, 3, 30611427, 0, 0, 1.144, 3.430, 10.289},
    {"Unet[ngf = 32]", 256, 3, 13608259, 0, 0, 0.517, 1.550, 4.648},
    {"Unet[ngf = 24]", 256, 3, 7656435, 0, 0, 0.296, 0.886, 2.657},
    {"Unet[ngf = 16]", 256, 3, 3404451, 0, 0, 0.136, 0.406, 1.219},
    {"Unet[ngf = 12]", 256, 3, 1915899, 0, 0, 0.079, 0.236, 0.707},
    {"Unet[ngf = 8]", 256, 3, 852307, 0, 0, 0.037, 0.111, 0.333},
    {"Unet[ngf = 64]", 1024, 3, 54413955, 0, 0, -1, 96.771, -1},
    {"Unet[ngf = 32]", 1024, 3, 13608259, 0, 0, -1, 24.797, -1},
    {"PatchGan[ndf = 64, norm = \"instance\"]", 256, 3, 0, 4, 2.7647, 3.147, 3.147, 3.147},
    {"PatchGan[ndf = 64, norm = \"batch\"]", 256, 6, 0, 4, 2.7687, 3.197, 3.197, 3.197},
    {"PatchGan[ndf = 128, norm = \"batch\"]", 256, 6, 0, 4, 11.0424, 12.572, 12.572, 12.572},
    {"PatchGan[ndf = 128, norm = \"instance\"]", 256, 6, 0, 4, 11.0406, 12.572, 12.572, 12.572},
    {"StyleGen[]", 256, 3, 1677638, 0, 0, -1, -1, -1},
    {"SpadeGen[ngf = 64]", 256, 36, 0, 3, 93.048, 281.277, 281.277, 281.277, 512},
    {"SpadeGen[ngf = 48]", 256, 36, 0, 3, 57.463, 202.331, 202.331, 202.331, 512},
    {"SpadeGen[ngf = 32]", 256, 36, 30218467, 0, 0, 132.755, 132.755, 132.755, 512}, /* the table's 30.219 was rounded twice */
    {"SpadeGen[ngf = 16]", 256, 36, 0, 3, 11.314, 72.550, 72.550, 72.550, 512},
    {"SpadeGen[ngf = 48, hidden = 96]", 256, 36, 0, 3, 52.548, 162.334, 162.334, 162.334, 512},
    {"SpadeGen[ngf = 32, hidden = 64]", 256, 36, 0, 3, 23.540, 75.807, 75.807, 75.807, 512},
    {"SpadeGen[ngf = 16, hidden = 32]", 256, 36, 0, 3, 6.024, 21.696, 21.696, 21.696, 512},
    {"SpadeGen[ngf = 64, up = \"normal\", in_channels = 183]", 256, 183, 0, 3, 97.451, 190.837, 190.837, 190.837},
    {"SpadeGen[ngf = 64, mobile = true, hidden = 128]", 256, 36, 0, 3, 70.681, 118.603, 118.603, 118.603, 512},
    {"SpadeGen[ngf = 48, mobile = true, hidden = 96]", 256, 36, 0, 3, 39.975, 71.056, 71.056, 71.056, 512},
    {"SpadeGen[ngf = 32, mobile = true, hidden = 64]", 256, 36, 0, 3, 17.960, 35.440, 35.440, 35.440, 512},
    {"SpadeGen[ngf = 16, mobile = true, hidden = 32]", 256, 36, 0, 3, 4.635, 11.755, 11.755, 11.755, 512},
    {"SpadeDisc[]", 256, 39, 0, 4, 5.6014, 10.47, 10.47, 10.47, 512, 2},
    {"ResnetGen[ngf = 64, n_down = 3]", 256, 3, 0, 4, 45.5933, 48.344, 51.967, 62.839},
    {"ResnetGen[ngf = 48, n_down = 3]", 256, 3, 0, 4, 25.6518, 27.424, 29.463, 35.578},
    {"ResnetGen[ngf = 32, n_down = 3]", 256, 3, 0, 4, 11.4057, 12.394, 13.300, 16.018},
    {"ResnetGen[ngf = 24, n_down = 3]", 256, 3, 0, 4, 6.4185, 7.087, 7.597, 9.126},
    {"ResnetGen[ngf = 16, n_down = 3]", 256, 3, 0, 4, 2.8551, 3.253, 3.479, 4.159},
    {"ResnetGen[ngf = 12, n_down = 3]", 256, 3, 0, 4, 1.6074, 1.887, 2.015, 2.397},
    {"ResnetGen[ngf = 64, n_down = 4]", 256, 3, 0, 3, 182.443, 49.552, 54.383, 68.879},
    {"ResnetGen[ngf = 48, n_down = 4]", 256, 3, 0, 3, 102.632, 28.104, 30.822, 38.976},
    {"ResnetGen[ngf = 32, n_down = 4]", 256, 3, 0, 3, 45.621, 12.696, 13.904, 17.528},
    {"ResnetGen[ngf = 16, n_down = 4]", 256, 3, 0, 3, 11.410, 3.328, 3.630, 4.536},
    {"ResnetGen[n_down = 4, in_channels = 36]", 256, 36, 0, 3, 182.547, -1, -1, 151.322, 512},
    {"ResnetGen[n_down = 4, in_channels = 36]", 512, 36, 0, 3, 182.547, -1, -1, 605.29, 1024, 2},
    {"LocalEnhancer[base = ResnetGen[n_down = 4, in_channels = 36, out_channels = 0], in_channels = 36]", 1024, 36, 0, 3, 182.857, 699.6, 747.9,
     892.9, 2048, 1},
    {"MultiscaleGan[]", 256, 39, 0, 4, 5.6032, 10.47, 10.47, 10.47, 512, 2},
    {"Vgg[16, [\"relu5_3\"]]", 224, 3, 14714688, 0, 0, 15.347, 15.347, 15.347},
    {"Vgg[19, [\"relu5_4\"]]", 224, 3, 20024384, 0, 0, 19.508, 19.508, 19.508},
};

static void same_digits(double got, double want, int digits, const char *what) {
    char a[40], b[40];
    if (want < 0) return;
    snprintf(a, sizeof a, "%.*f", digits, got);
    snprintf(b, sizeof b, "%.*f", digits, want);
    if (strcmp(a, b) != 0) fail_msg("%s: %s, the table says %s", what, a, b);
}

static KdFunc *net_of(KdContext *cx, const char *net, int channels, int height, int width, bool frozen) {
    const char *text = kd_format(cx, "import \"nets/resnet.kd\"\nimport \"nets/mobile_resnet.kd\"\nimport \"nets/cat.kd\"\nimport \"nets/unet.kd\"\nimport \"nets/patchgan.kd\"\n"
                                     "import \"nets/style.kd\"\nimport \"nets/spade.kd\"\nimport \"nets/pix2pixhd.kd\"\nimport \"nets/vgg.kd\"\nimport \"nets/omgd_teachers.kd\"\nlet G = %s%s\n"
                                     "net Main(x: [1, %d, %d, %d]) { return flat(G(x)) }\n"
                                     "fn flat(v) {\nif kind(v) != \"list\" { return [v] }\nlet all = []\n"
                                     "for one in v { all = all + flat(one) }\nreturn all\n}\n",
                                 frozen ? "frozen " : "", net, channels, height, width);
    KdFunc *f = kd_lang_net(lt_load(cx, "test.kd", text, NULL), "Main", NULL);
    if (!f) lt_fail(cx, net);
    return f;
}

static void test_row(void **state) {
    const Row *r = *state;
    KdContext *cx = kd_context_new();
    int width = r->width ? r->width : r->size, digits = r->mac_digits ? r->mac_digits : 3;
    KdFunc *f = net_of(cx, r->net, r->channels, r->size, width, false);
    KdMacs m = kd_lang_macs(f);
    int64_t params = kd_lang_parameters(f);
    if (r->params) assert_int_equal(params, r->params);
    else same_digits((double)params / 1e6, r->count, r->digits, "parameters");
    same_digits(m.no_t / 1e9, r->no_t, digits, "MACs, noT");
    same_digits(m.t_in / 1e9, r->t_in, digits, "MACs, Tin");
    same_digits(m.t_out / 1e9, r->t_out, digits, "MACs, Tout");
    assert_int_equal(kd_lang_parameters(net_of(cx, r->net, r->channels, r->size, width, true)), params); /* frozen ones count */
    kd_context_free(cx);
}

static void test_closed_forms(void **state) { /* of A.5, exactly */
    (void)state;
    static const struct { const char *net; int64_t p2, p1, p0; double a2, a1, in2, in1, out2, out1; } forms[] = {
        {"ResnetGen[ngf = %d]", 2772, 376, 3, 11206656, 19267584, 589824, 0, 2359296, 0},
        {"MobileResnetGen[ngf = %d]", 468, 1096, 3, 1769472, 21921792, 589824, 0, 2359296, 0},
        {"ResnetGen[ngf = %d, n_down = 3]", 11124, 460, 3, 11501568, 19267584, 884736, 0, 3538944, 0},
        {"ResnetGen[ngf = %d, n_down = 4]", 44532, 628, 3, 11796480, 19267584, 1179648, 0, 4718592, 0},
        {"Unet[ngf = %d]", 13280, 298, 3, 480256, 786432, 959488, 1572864, 3837952, 6291456},
    };
    for (int i = 0; i < KD_COUNT(forms); i++)
        for (int n = 5; n <= 20; n += 15) {
            KdContext *cx = kd_context_new();
            char net[64];
            snprintf(net, sizeof net, forms[i].net, n);
            KdFunc *f = net_of(cx, net, 3, 256, 256, false);
            KdMacs m = kd_lang_macs(f);
            assert_int_equal(kd_lang_parameters(f), forms[i].p2 * n * n + forms[i].p1 * n + forms[i].p0);
            double base = forms[i].a2 * n * n + forms[i].a1 * n;
            assert_true(m.no_t == base);
            assert_true(m.t_in == base + forms[i].in2 * n * n + forms[i].in1 * n);
            assert_true(m.t_out == base + forms[i].out2 * n * n + forms[i].out1 * n);
            kd_context_free(cx);
        }
}

/* The weights of the style generator stand in the order and shapes of ../shared/data/styles. */
static void test_style_order(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdFunc *f = kd_lang_net(lt_load(cx, "t.kd", "import \"nets/style.kd\"\n", NULL), "StyleGen", &(KdNetOptions){.height = 64, .width = 64});
    assert_non_null(f);
    static const char *const want[] = {"down[0].conv.weight [32, 3, 9, 9]", "down[0].norm.weight [32]", "down[0].norm.bias [32]",
                                       "down[1].conv.weight [64, 32, 3, 3]"};
    for (int i = 0; i < 4; i++) {
        const KdNode *n = kd_node(f, f->inputs.v[i + 1]);
        assert_string_equal(kd_format(cx, "%s %s", kd_attr_str(f, n, "name"), kd_shape_text(cx, n->type)), want[i]);
    }
    assert_int_equal(f->inputs.n, 1 + 16 * 3);
    const KdNode *n = kd_node(f, f->inputs.v[10]);
    assert_string_equal(kd_attr_str(f, n, "name"), "block[0][0].conv.weight");
    n = kd_node(f, f->inputs.v[f->inputs.n - 9]);
    assert_string_equal(kd_format(cx, "%s %s", kd_attr_str(f, n, "name"), kd_shape_text(cx, n->type)), "up[0].conv.weight [128, 64, 3, 3]");
    assert_string_equal(kd_shape_text(cx, kd_vtype(f, f->outputs.v[0].value)), "[1, 3, 64, 64]");
    kd_context_free(cx);
}

int main(void) {
    enum { N = KD_COUNT(rows) };
    struct CMUnitTest tests[N + 2] = {cmocka_unit_test(test_closed_forms), cmocka_unit_test(test_style_order)};
    for (int i = 0; i < N; i++) tests[2 + i] = (struct CMUnitTest){rows[i].net, test_row, NULL, NULL, (void *)&rows[i]};
    return _cmocka_run_group_tests("counts", tests, N + 2, NULL, NULL);
}
