/* test_seed_figures.c: the figures that the papers print of ResNets and U-Nets, each under the convention that reproduces it (methods.md
 * A.6). Those that are multiply-accumulates alone are in test_counts.c. */
#include "tests/lang/lang_test.h"

#include <math.h>

typedef struct Figures {
    double params;
    KdMacs m;
    KdElements e;
    double layers; /* MiB */
} Figures;

static Figures figures_of(const char *net) {
    KdContext *cx = kd_context_new();
    const char *text = kd_format(cx, "import \"nets/resnet.kd\"\nimport \"nets/mobile_resnet.kd\"\nimport \"nets/unet.kd\"\nlet G = %s\n"
                                     "net Main(x: [1, 3, 256, 256]) { return G(x) }\n", net);
    KdFunc *f = kd_lang_net(lt_load(cx, "test.kd", text, NULL), "Main", NULL);
    if (!f) lt_fail(cx, net);
    Figures v = {(double)kd_lang_parameters(f), kd_lang_macs(f), kd_lang_elements(f), kd_lang_layer_bytes(f) / (1 << 20)};
    kd_context_free(cx);
    return v;
}

static void prints(double got, const char *format, const char *want) {
    char text[40];
    snprintf(text, sizeof text, format, got);
    if (strcmp(text, want) != 0) fail_msg("found %s, the paper prints %s", text, want);
}

static double cut(double v) { return round(v * 100) / 100; }

/* ptflops: the true work; a bias, a norm and an activation cost one for each element, a norm with parameters two. */
static double ptflops(const Figures *v) { return (v->m.t_in + v->e.biases + v->e.norms + v->e.scales + v->e.activations) / 1e9; }

/* torchstat: no transposed convolutions, whose biases it leaves out, too. */
static double torchstat(const Figures *v) { return (v->m.no_t + v->e.norms + v->e.scales + v->e.activations) / 1e9; }

static void test_resnet(void **state) { /* S001 Table 1, S002 */
    (void)state;
    Figures r64 = figures_of("ResnetGen[ngf = 64]"), r24 = figures_of("ResnetGen[ngf = 24]"), r16 = figures_of("ResnetGen[ngf = 16]");
    prints(r64.layers, "%.4f", "431.6147"); /* by hooks on PyTorch's leaf modules, ReflectionPad2d among them */
    prints(r64.params / 1e6, "%.2f", "11.38");
    prints(r24.params / 1e6, "%.2f", "1.61");
    prints(r16.params / 1e6, "%.2f", "0.72");
    prints(r16.params / 1e3, "%.2f", "715.65");
    prints(ptflops(&r64), "%.5f", "49.63998");
    prints(ptflops(&r24), "%.5f", "7.29062");
    prints(ptflops(&r16), "%.5f", "3.35059");
    prints(r64.m.t_out / 1e9, "%.1f", "56.8");
    prints(cut(r64.params / 1e6) / cut(r16.params / 1e6), "%.2f", "15.81"); /* of rounded figures, as the text has it */
    prints(cut(ptflops(&r64)) / cut(ptflops(&r16)), "%.2f", "14.82");
    prints((r64.m.no_t + r64.e.biases + r64.e.activations) / 1e9, "%.2f", "47.19");
    prints((r16.m.no_t + r16.e.biases + r16.e.activations) / 1e9, "%.2f", "3.19");
}

static void test_unet(void **state) { /* S000, S001, S002 */
    (void)state;
    Figures u64 = figures_of("Unet[ngf = 64]"), u32 = figures_of("Unet[ngf = 32]"), u16 = figures_of("Unet[ngf = 16]");
    prints(u64.params / 1e6, "%.2f", "54.41");
    prints(u32.params / 1e6, "%.2f", "13.61");
    prints(ptflops(&u64), "%.2f", "6.06");
    prints(ptflops(&u32), "%.2f", "1.56");
    prints(16 * ptflops(&u64), "%.2f", "96.97"); /* 1024 x 1024 */
    prints(16 * ptflops(&u32), "%.2f", "24.90");
    prints(cut(u64.params / 1e6) / cut(u32.params / 1e6), "%.2f", "4.00");
    prints(cut(ptflops(&u64)) / cut(ptflops(&u32)), "%.2f", "3.88");
    prints(u64.m.t_out / 1e9, "%.2f", "18.14"); /* S002's 18.15, 4.65 and 1.22 have something small on top */
    prints(u32.m.t_out / 1e9, "%.2f", "4.65");
    prints(u16.m.t_out / 1e9, "%.2f", "1.22");
    prints(torchstat(&u64), "%.2f", "2.03");
    prints(torchstat(&u16), "%.2f", "0.14");
    prints(u64.layers, "%.3f", "51.152"); /* S000 prints 51.16 and 13.91 */
    prints(u16.layers, "%.3f", "13.913");
    prints(4 * u64.params / (1 << 20), "%.0f", "208");
    prints(4 * u16.params / (1 << 20), "%.1f", "13.0"); /* S000's 11 is wrong */
}

static void test_ratios(void **state) { /* S003, S004 */
    (void)state;
    Figures r64 = figures_of("ResnetGen[ngf = 64]"), m16 = figures_of("MobileResnetGen[ngf = 16]");
    prints(m16.params / 1e6, "%.4f", "0.1373"); /* S003's 82.5 times less */
    prints(r64.m.t_out / 1e9 / 1.378, "%.1f", "41.2");
    prints(r64.m.t_out / 1e9 / 0.845, "%.1f", "67.2");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resnet), cmocka_unit_test(test_unet), cmocka_unit_test(test_ratios)};
    return cmocka_run_group_tests_name("seed_figures", tests, NULL, NULL);
}
