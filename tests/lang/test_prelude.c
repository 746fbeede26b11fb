/* test_prelude.c: the prelude by hand-computed numbers and by the identities of methods.md E.8. PyTorch's values of the same
 * functions, and gradients, are in tests/golden. A case is a program with a main; its inputs are filled with numbers of lang_test.h. */
#include "tests/lang/lang_test.h"

typedef struct Case { const char *name, *text; double tolerance; int n; double want[12]; } Case;

#define NET(params, body) "net main(" params ") {\n" body "\n}\n"

static const Case cases[] = {
    /* shapes and small helpers */
    {"stack_split_squeeze", NET("x: [2, 4]", "let a, b = split(x, 2)\nlet s = stack([a, b])\nreturn s.shape + stack([a, b], dim = -1).shape + squeeze(unsqueeze(x, 0), 0).shape + flatten(s).shape + "
                                             "[0 if kind(narrow(x, 1, 1, 2)) == \"tensor\" else 1]"), 0, 11, {2, 2, 2, 2, 2, 2, 2, 4, 2, 4, 0}},
    {"pair", NET("x: [1]", "return pair(3) + pair([4, 5])"), 0, 4, {3, 3, 4, 5}},
    /* convolutions: sizes of every padding form, "same" as TensorFlow's */
    {"conv_sizes", NET("x: [1, 2, 7, 8]", "return conv2d[3, 3](x).shape[2:] + conv2d[3, 3, 2, padding = \"same\"](x).shape[2:] + conv2d[3, 4, padding = \"same\"](x).shape[2:] + "
                                          "conv2d[3, [1, 5], padding = [0, 2]](x).shape[2:] + conv2d[3, 3, padding = [1, 0, 2, 0]](x).shape[2:] + conv2d[3, 3, padding = \"valid\", dilation = 2](x).shape[2:]"),
     0, 12, {5, 6, 4, 4, 7, 8, 7, 8, 8, 6, 3, 4}},
    {"conv_transpose_sizes", NET("x: [1, 2, 4, 5]", "return conv_transpose2d[3, 3, 2, \"same\"](x).shape[1:] + conv_transpose2d[2, 3, 2, 1, output_padding = 1](x).shape[1:] + conv_transpose2d[2, 4, 2, 1](x).shape[1:]"),
     0, 9, {3, 8, 10, 2, 8, 10, 2, 8, 10}},
    {"conv_transpose_same_cuts_the_end", NET("x: [1, 1, 2, 3]", "let c = conv_transpose2d[1, 3, 2, \"same\", bias = false, init = \"ones\"]\nlet d = conv_transpose2d[1, 3, 2, bias = false, init = \"ones\"]\n"
                                                               "return max(abs(c(x) - d(x)[:, :, 0:4, 0:6]))"), 0, 1, {0}},
    {"conv_same_is_asymmetric", NET("x: [1, 1, 4, 4]", "let c = conv2d[1, 3, 2, \"same\", bias = false, init = \"ones\"]\nlet d = conv2d[1, 3, 2, bias = false, init = \"ones\"]\n"
                                                       "return max(abs(c(x) - d(zero_pad2d(x, [0, 1, 0, 1]))))"), 1e-12, 1, {0}},
    {"adjoint", NET("x: [1, 2, 6, 5], y: [1, 3, 3, 3]", "let w = weight([3, 2, 3, 3], \"normal(0.1)\")\nlet a = sum(op.conv2d(x, w, stride = [2, 2], pad = [1, 1, 1, 1]) * y)\n"
                                                       "let b = sum(x * op.conv_transpose2d(y, w, stride = [2, 2], pad = [1, 1, 1, 1], output_padding = [1, 0]))\nreturn abs(a - b)"), 1e-9, 1, {0}},
    {"linear_is_matmul", NET("x: [2, 3, 4]", "let l = linear[5, bias = false]\nlet y = l(x)\nreturn [max(abs(y[1] - x[1] @ transpose(l.weight)))] + y.shape"), 1e-9, 4, {0, 2, 3, 5}},
    /* norms */
    {"instance_norm_moments", NET("x: [2, 3, 5, 4]", "let y = instance_norm(x * 7 + 3)\nreturn [max(abs(mean(y, [2, 3]))), max(abs(var(y, [2, 3], unbiased = false) - 1))]"), 1e-5, 2, {0, 0}},
    {"layer_norm_moments", NET("x: [2, 3, 8]", "let y = layer_norm[affine = false](x)\nreturn [max(abs(mean(y, -1))), max(abs(var(y, -1, unbiased = false) - 1)) < 1e-3]"), 1e-6, 2, {0, 1}},
    {"batch_norm_inference_is_affine", NET("x: [2, 3, 2, 2]", "let b = batch_norm[init = \"ones\"]\nreturn max(abs(eval_mode(b)(x) * sqrt(1 + 1e-5) - x))"), 1e-7, 1, {0}},
    {"spade_of_constant_maps", NET("x: [1, 2, 4, 4], s: [1, 3, 2, 2]", "let m = spade[hidden = 4]\nreturn m(x, s).shape"), 0, 4, {1, 2, 4, 4}},
    {"modulate", NET("x: [2]", "return modulate(tensor([1.0, 2.0]), tensor([0.5, 1.0]), 3)"), 0, 2, {4.5, 7}},
    {"l2_normalize", NET("x: [2, 3, 4]", "let y = l2_normalize(x)\nreturn [max(abs(sum(square(y), 1) - 1)), max(abs(l2_normalize(x * 0)))]"), 1e-9, 2, {0, 0}},
    {"unit_norm_of_sigma", NET("x: [1]", "let w = tensor([[3.0, 0.0], [0.0, 1.0]])\nlet y = over_sigma(w, tensor([1.0, 0.0]), tensor([1.0, 0.0]))\nreturn y"), 1e-7, 4, {1, 0, 0, 1.0 / 3}},
    /* activations */
    {"softmax", NET("x: [3, 4]", "let y = softmax(x * 100)\nreturn [max(abs(sum(y, -1) - 1)), max(abs(log_softmax(x) - log(softmax(x)))), max(abs(logsumexp(x, dim = 0) - log(sum(exp(x), 0))))]"), 1e-9, 3, {0, 0, 0}},
    {"binary_mask", NET("x: [1]", "return binary_mask(tensor([0.4, 0.6, 1.0]))"), 0, 3, {0, 1, 1}},
    {"dropout_off", NET("x: [4]", "return max(abs(dropout(x, 0.9) - x))"), 0, 1, {0}},
    /* pools and resizing */
    {"avg_pool_counts", NET("x: [1]", "let one = ones([1, 1, 3, 3])\nreturn [avg_pool2d(one, 3, 2, 1, count_include_pad = false), avg_pool2d(one, 3, 2, 1)[0, 0, 0]]"), 1e-7, 6, {1, 1, 1, 1, 4.0 / 9, 4.0 / 9}},
    {"max_pool_ties_and_nan_free", NET("x: [1]", "return max_pool2d(tensor([[[[1.0, 5.0, 2.0], [5.0, 0.0, 7.0], [3.0, 3.0, 3.0]]]]), 2, stride = 1)"), 0, 4, {5, 7, 5, 7}},
    {"adaptive_divides_or_not", NET("x: [1, 1, 4, 6]", "let a = adaptive_avg_pool2d(x, [2, 3])\nlet b = resample(x, resample_matrix(4, 2, \"area\"), resample_matrix(6, 3, \"area\"))\nreturn [max(abs(a - b))] + adaptive_avg_pool2d(x, 5).shape"),
     1e-7, 5, {0, 1, 1, 5, 5}},
    {"bilinear_twice", NET("x: [1]", "return upsample_bilinear(tensor([[[[0.0, 4.0]]]]), size = [1, 4])"), 1e-6, 4, {0, 1, 3, 4}},
    {"pillow_box", NET("x: [1]", "return resize_bilinear(tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), [1, 2])"), 1e-5, 2, {12.0 / 7, 23.0 / 7}}, /* weights 3 3 1 of 7 */
    {"bicubic_keeps_constants_and_identity", NET("x: [1, 2, 6, 5]", "return [max(abs(resize_bicubic(x, [6, 5]) - x)), max(abs(resize_bicubic(ones([1, 1, 9, 7]), [4, 3]) - 1)), max(abs(resize(ones([1, 1, 4, 5]), [9, 7], mode = \"bicubic\") - 1))]"),
     1e-6, 3, {0, 0, 0}},
    {"bicubic_pillow_row", NET("x: [1]", "return resample_matrix(4, 2, \"bicubic\", antialias = true)[0]"), 1e-6, 4, {0.458677686, 0.458677686, 0.119834711, -0.037190083}}, /* f(.25) f(.25) f(.75) f(1.25), a = -0.5, over their sum */
    {"nearest_ratio", NET("x: [1]", "return resize_nearest(reshape(iota([3], 0), [1, 1, 1, 3]), [1, 5])"), 0, 5, {0, 0, 1, 1, 2}},
    /* wavelets */
    {"haar_bands", NET("x: [1]", "let low, high = dwt(tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))\nreturn [low, abs(high[0])]"), 1e-7, 4, {5, 2, 1, 0}},
    {"haar_keeps_energy", NET("x: [2, 3, 8, 12]", "let low, high = dwt(x, levels = 2)\nlet e = sum(square(low)) + sum(square(high[0])) + sum(square(high[1]))\nreturn [e / sum(square(x))] + low.shape + high[0].shape"), 1e-6, 10,
     {1, 2, 3, 2, 3, 2, 3, 3, 4, 6}},
    {"db3_sizes_and_energy_inside", NET("x: [1, 1, 16, 9]", "let low, high = dwt(x, levels = 1, wave = \"db3\")\nreturn low.shape + [len(high), (sum(square(low)) + sum(square(high[0]))) / sum(square(x)) < 1.0001]"), 0, 6, {1, 1, 10, 7, 1, 1}},
    {"db3_filters_are_orthonormal", NET("x: [1]", "let f = wavelet_filters(\"db3\")\nreturn [sum([a * a for a in f[0]]), sum([p[0] * p[1] for p in zip(f[0], f[1])]), sum(f[0]), sum(f[1])]"), 1e-7, 4, {1, 0, 1.4142135623730951, 0}},
    /* statistics */
    {"var_std_norm", NET("x: [1]", "let v = tensor([1.0, 2.0, 3.0, 6.0])\nreturn [var(v), std(v, unbiased = false), norm(v), var(reshape(v, [2, 2]), 1)]"), 1e-7, 5, {14.0 / 3, 1.8708286933869707, 7.0710678118654755, 0.5, 4.5}},
    {"eye_diagonal_trace", NET("x: [1]", "return [eye(2), fill_diagonal(zeros([2, 2]), -10.0), trace(tensor([[1.0, 2.0], [3.0, 4.0]]))]"), 0, 9, {1, 0, 0, 1, -10, 0, 0, -10, 5}},
    {"gram_scale", NET("x: [1]", "return gram(ones([1, 2, 3, 4]))"), 1e-7, 4, {0.5, 0.5, 0.5, 0.5}},
    {"covariance", NET("x: [1]", "return covariance(tensor([[1.0, 2.0], [3.0, 6.0]]))"), 1e-7, 4, {2, 4, 4, 8}},
    {"cosine_similarity", NET("x: [1]", "return cosine_similarity(tensor([[1.0, 0.0], [1.0, 1.0]]), tensor([[2.0, 0.0], [1.0, -1.0]]))"), 1e-7, 2, {1, 0}},
    {"similarity_ignores_scale_and_rotation", NET("x: [1, 3, 4, 4]", "let r = tensor([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])\nlet y = reshape(r @ reshape(x, [1, 3, 16]), [1, 3, 4, 4]) * 5\nreturn max(abs(similarity(x) - similarity(y)))"),
     1e-6, 1, {0}},
    {"attention_of_equal_keys_is_the_mean", NET("q: [1, 2, 4], v: [1, 3, 2]", "return max(abs(attention(q, ones([1, 3, 4]), v) - mean(v, 1, keepdim = true)))"), 1e-7, 1, {0}},
    /* selection */
    {"topk_ties_lowest_index", NET("x: [1]", "let v, i = topk(tensor([1.0, 3.0, 3.0, 2.0]), 3)\nlet w, j = topk(tensor([1.0, 3.0, 1.0, 2.0]), 2, largest = false)\nreturn [v, i, j]"), 0, 8, {3, 3, 2, 1, 2, 3, 0, 2}},
    {"sort_both_ways", NET("x: [1]", "let a = tensor([[2.0, 1.0, 3.0]])\nreturn [sort(a)[0], sort(a, descending = true)[1]]"), 0, 6, {1, 2, 3, 2, 0, 1}},
    {"gather_rows", NET("x: [1]", "let r = tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])\nreturn [gather_rows(r, tensor([2, 0])), gather_rows(unsqueeze(r, 0), tensor([[1]]))]"), 0, 6, {5, 6, 1, 2, 3, 4}},
    {"one_hot", NET("x: [1]", "let l = tensor([[[0, 2]]])\nreturn [one_hot(l, 3), one_hot(l, 3).shape[1]]"), 0, 7, {1, 0, 0, 0, 0, 1, 3}},
    {"edge_map", NET("x: [1]", "return edge_map(tensor([[[[1, 1, 2], [1, 1, 2], [1, 1, 1]]]]))"), 0, 9, {0, 1, 1, 0, 1, 1, 0, 0, 1}},
    {"histogram_and_confusion", NET("x: [1]", "let p = tensor([0, 1, 1, 2])\nlet l = tensor([0, 1, 2, 2])\nreturn [histogram(p, 3), confusion_matrix(p, l, 3)]"), 0, 12, {1, 2, 1, 1, 0, 0, 0, 1, 0, 0, 1, 1}},
    /* losses */
    {"elementary_losses", NET("x: [1]", "let a = tensor([1.0, 2.0, 4.0])\nlet b = tensor([1.5, 2.0, 1.0])\nreturn [l1_loss(a, b), mse_loss(a, b), smooth_l1_loss(a, b), sqrt_mse(a, b)]"), 1e-6, 4,
     {3.5 / 3, 9.25 / 3, (0.125 + 2.5) / 3, 1.7559422921}},
    {"tv_is_a_sum", NET("x: [1]", "return tv_loss(tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))"), 0, 1, {1 + 4 + 3 + 6}},
    {"bce", NET("x: [1]", "return [bce_with_logits(tensor([0.0, 2.0]), 1.0), bce_with_logits(tensor([100.0, -100.0]), tensor([1.0, 0.0]))]"), 1e-7, 2, {0.4100376, 0}},
    {"cross_entropy_uniform", NET("x: [1]", "return [cross_entropy(zeros([2, 5]), tensor([0, 4])), cross_entropy(zeros([1, 3, 2, 2]), zeros([1, 2, 2], \"i32\"))]"), 1e-7, 2, {1.6094379, 1.0986123}},
    {"kl_of_equal_is_zero", NET("x: [2, 5]", "return [kl_distill(x, x), kl_distill(x, x + 3) < 1e-9]"), 1e-9, 2, {0, 1}},
    {"info_nce_equal_logits", NET("x: [1]", "return info_nce(zeros([4, 8]))"), 1e-7, 1, {2.0794415}},
    {"kernel_alignment", NET("x: [3, 2, 2, 2], y: [1, 2, 2, 2], z: [1, 3, 1, 1]", "return [kernel_alignment(x, x * -2.5), kernel_alignment(y, z)]"), 1e-6, 2, {1, 1}},
    {"ssim_of_equal", NET("x: [1, 3, 16, 16]", "return [ssim(x, x), ssim(x, x * 0.5) < 0.99]"), 1e-6, 2, {1, 1}},
    {"gaussian_window", NET("x: [1]", "let g = gaussian_window()\nreturn [sum(g), g[5], g[0], g[10]]"), 1e-6, 4, {1, 0.266011725, 0.00102838, 0.00102838}},
    {"triplet_of_equal_is_the_margin", NET("x: [2, 3], y: [2, 3]", "return triplet_loss(x, y, y, 0.3)"), 1e-7, 1, {0.3}},
    {"gaussian_nll", NET("x: [1]", "return gaussian_nll(ones([1, 2, 1, 1]), zeros([1, 2, 1, 1]), tensor([1.0, 4.0]))"), 1e-7, 1, {0.5 * (0.5 * 1 + 0.5 * (0.25 + 1.3862944))}},
    {"attention_maps", NET("x: [2, 3, 2, 2]", "return max(abs(sum(square(attention_map(x)), 1) - 1))"), 1e-9, 1, {0}},
    {"batch_similarity_of_one", NET("x: [1, 3, 2, 2]", "return batch_similarity(x)"), 1e-7, 1, {1}},
    {"feature_matching", NET("x: [1]", "return feature_matching([tensor([1.0]), tensor([2.0, 3.0])], [tensor([0.0]), tensor([2.0, 5.0])])"), 0, 1, {2}},
    /* models/losses */
    {"gan_modes", "import \"losses/gan.kd\"\n" NET("x: [1]", "let d = tensor([0.5, -2.0])\nreturn [gan_loss(d, true), gan_loss(d, false, mode = \"hinge\"), gan_loss(d, true, \"hinge\", generator = true), gan_loss([d, d], true, mode = \"vanilla\") - gan_loss(d, true, mode = \"vanilla\")]"),
     1e-7, 4, {(0.25 + 9) / 2, 0.75, 0.75, 0}},
    {"reko_equal_rows", "import \"losses/reko.kd\"\n" NET("x: [1]", "let f = ones([1, 4, 3, 3])\nreturn [reko(f, f, k = 9, tau = 1.0, form = \"paper\") / 9, reko(f, f, k = 4, tau = 1.0)]"), 1e-5, 2, {2.1972246, 1.3862953}},
    {"reko_of_few_positions", "import \"losses/reko.kd\"\n" NET("x: [2, 3, 1, 1]", "return reko(x, x, k = 64) < 1e-6"), 0, 1, {1}},
};

static void run_case(void **state) {
    const Case *c = *state;
    LtRun r = lt_run(c->text, "main", KD_INFER, NULL, 0);
    int at = 0;
    for (int k = 0; k < r.f->outputs.n; k++) {
        int64_t n = kd_vtype(r.f, r.f->outputs.v[k].value)->count;
        for (int64_t i = 0; i < n; i++, at++) {
            if (at >= c->n) fail_msg("more than %d numbers: %g", c->n, r.out[k][i]);
            lt_near(r.out[k][i], c->want[at], c->tolerance, c->name, at);
        }
    }
    assert_int_equal(at, c->n);
    lt_free(&r);
}

/* ---- training mode --------------------------------------------------------------------------------------------------------- */

static void test_batch_norm(void **state) { /* running statistics: mean, unbiased variance, momentum 0.1 */
    (void)state;
    const double x[8] = {1, 2, 3, 4, 10, 20, 30, 40};
    LtRun r = lt_run("net main(x: [4, 1, 2, 1]) {\n    let bn = batch_norm[init = \"ones\"]\n    return bn(x)\n}\n", "main", KD_TRAIN, (LtValues[]){{"x", x, 8}}, 1);
    double mean = 110.0 / 8, sum = 0;
    int n = 0;
    for (int i = 0; i < 8; i++) sum += (x[i] - mean) * (x[i] - mean);
    const double *y = lt_out(&r, "out", &n);
    for (int i = 0; i < 8; i++) lt_near(y[i], (x[i] - mean) / sqrt(sum / 8 + 1e-5), 1e-6, "out", i);
    lt_near(lt_out(&r, "bn.running_mean", &n)[0], 0.1 * mean, 1e-6, "running_mean", 0);
    lt_near(lt_out(&r, "bn.running_var", &n)[0], 0.9 + 0.1 * sum / 7, 1e-6, "running_var", 0);
    lt_free(&r);
}

static void test_spectral_norm(void **state) { /* many steps: the largest singular value goes to 1 */
    (void)state;
    double u[3] = {0.6, 0.8, 0}, v[4] = {0.5, 0.5, 0.5, 0.5}, w[12];
    for (int i = 0; i < 12; i++) w[i] = lt_number(5, i);
    LtValues given[] = {{"conv.weight_orig", w, 12}, {"conv.weight_u", u, 3}, {"conv.weight_v", v, 4}};
    const char *text = "net main(x: [1, 4, 1, 1]) {\n    let conv = conv2d[3, 1, bias = false, spectral = true]\n    return conv(x)\n}\n";
    int n = 0;
    for (int step = 0; step < 60; step++) {
        LtRun r = lt_run(text, "main", KD_TRAIN, given, 3);
        memcpy(u, lt_out(&r, "conv.weight_u", &n), sizeof u);
        memcpy(v, lt_out(&r, "conv.weight_v", &n), sizeof v);
        lt_near(u[0] * u[0] + u[1] * u[1] + u[2] * u[2], 1, 1e-9, "|u|", step);
        lt_free(&r);
    }
    double sigma = 0, wv[3] = {0};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++) wv[i] += w[i * 4 + k] * v[k];
    for (int i = 0; i < 3; i++) sigma += u[i] * wv[i];
    for (int i = 0; i < 3; i++) lt_near(wv[i], sigma * u[i], 1e-6, "w v = sigma u", i); /* a singular pair */
    LtRun r = lt_run(text, "main", KD_INFER, given, 3);
    const double *x = lt_in(&r, "x"), *y = lt_out(&r, "out", &n);
    for (int i = 0; i < 3; i++) {
        double want = 0;
        for (int k = 0; k < 4; k++) want += w[i * 4 + k] * x[k] / sigma;
        lt_near(y[i], want, 1e-6, "out", i);
    }
    lt_free(&r);
}

static void test_random_k(void **state) { /* k different positions, another choice with another seed */
    (void)state;
    int first[5] = {0}, same = 0;
    for (int seed = 0; seed < 6; seed++) {
        double s = seed, step = 1;
        LtRun r = lt_run("fn main() { return random_k(40, 5) }\n", "main", KD_TRAIN, (LtValues[]){{"rng_seed", &s, 1}, {"rng_step", &step, 1}}, 2);
        int n = 0, equal = 0;
        const double *v = lt_out(&r, "out", &n);
        assert_int_equal(n, 5);
        for (int i = 0; i < 5; i++) {
            assert_true(v[i] >= 0 && v[i] < 40);
            for (int k = 0; k < i; k++) assert_true(v[i] != v[k]);
            equal += first[i] == (int)v[i];
            if (!seed) first[i] = (int)v[i];
        }
        same += seed && equal == 5;
        lt_free(&r);
    }
    assert_int_equal(same, 0);
}

int main(void) {
    enum { N = KD_COUNT(cases) };
    struct CMUnitTest tests[N + 3] = {cmocka_unit_test(test_batch_norm), cmocka_unit_test(test_spectral_norm), cmocka_unit_test(test_random_k)};
    for (int i = 0; i < N; i++) tests[3 + i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    return _cmocka_run_group_tests("prelude", tests, N + 3, NULL, NULL);
}
