/* test_elaborate.c: small programs, evaluated. Each case is the body of `fn main()` (or a whole program with a main) and the
 * numbers it gives back, all outputs in a row. */
#include "tests/lang/lang_test.h"

typedef struct Case { const char *name, *text; int n; double want[12]; } Case;

#define FN(body) "fn main() {\n" body "\n}\n"

static const Case cases[] = {
    /* numbers */
    {"precedence", FN("return [1 + 2 * 3, (1 + 2) * 3, 2 ** 3 ** 2, -2 ** 2, 7 - 2 - 1, 2 * 3 % 4]"), 6, {7, 9, 512, -4, 4, 2}},
    {"exact_division", FN("return [8 / 2, 7 / 2, 7 // 2, -7 // 2, -7 % 3, 7 % -3]"), 6, {4, 3.5, 3, -4, 2, -2}},
    {"floats", FN("return [0.5 + 1, 2e-1 * 10, 7.5 // 2, 7.5 % 2, 2.0 ** -1, 2 ** -1]"), 6, {1.5, 2, 3, 1.5, 0.5, 0.5}},
    {"large_integers", FN("return [3037000499 * 3037000499 - 9223372030926249000, 2 ** 62 // 2 ** 60]"), 2, {1, 4}},
    {"comparisons", FN("return [1 < 2, 2 <= 1, 1 == 1.0, 1 != 2, 3 > 2 and 2 > 1, not true or false]"), 6, {1, 0, 1, 1, 1, 0}},
    {"choice", FN("let a = 3\nreturn [1 if a > 2 else 2, 1 if a > 5 else 2 if a > 2 else 3]"), 2, {1, 2}},
    {"number_functions", FN("return [abs(-3), sqrt(9.0), floor(2.7), max(1, 5, 3), min(2, 1.5), round(2.6), int(-2.9), len(\"abc\")]"), 8,
     {3, 3, 2, 5, 1.5, 3, -2, 3}},
    {"exp_and_log", FN("return [exp(0), log(1.0), float(3), pi]"), 4, {1, 0, 3, 3.141592653589793}},
    /* lists */
    {"lists", FN("let xs = [1, 2] + [3]\nreturn [len(xs), xs[0], xs[-1], sum(xs), max(xs), len(xs[1:]), len([0] * 4)]"), 7,
     {3, 1, 3, 6, 3, 2, 4}},
    {"slices_of_lists", FN("let xs = range(10)\nreturn xs[2:8:3] + xs[-2:] + xs[:1] + [len(xs[5:3])]"), 6, {2, 5, 8, 9, 0, 0}},
    {"ranges", FN("return [x * x for x in 2..5] + range(3, 0, -1) + [len(5..2)]"), 7, {4, 9, 16, 3, 2, 1, 0}},
    {"nested_each", FN("let rows = [[i * 10 + j for j in 0..2] for i in 0..2]\nreturn rows[1] + rows[0]"), 4, {10, 11, 0, 1}},
    {"zip_of_three", FN("let a = zip([1, 2], [3, 4], [5, 6])\nreturn a[1] + [len(a)]"), 4, {2, 4, 6, 2}},
    {"zip_enumerate_reversed", FN("let a = zip([1, 2], [3, 4])\nlet e = enumerate([7])\nreturn a[1] + e[0] + reversed([5, 6])"), 6,
     {2, 4, 0, 7, 6, 5}},
    {"take_apart", FN("let a, b = [4, 5]\nreturn [b, a]"), 2, {5, 4}},
    {"equality", FN("return [[1, [2]] == [1, [2]], \"a\" == \"a\", \"a\" + \"b\" == \"ab\", none == none, [1] != [2], 1 == \"1\"]"), 6,
     {1, 1, 1, 1, 1, 0}},
    {"kinds", FN("return [kind(1) == \"int\", kind(1.0) == \"float\", kind([]) == \"list\", kind(main) == \"fn\", kind(zeros([1])) == \"tensor\"]"),
     5, {1, 1, 1, 1, 1}},
    {"strings", FN("return [str(12) == \"12\", str([1, 0.5]) == \"[1, 0.5]\", len(\"a\\\"b\\n\"), str(\"x\") == \"x\"]"), 4, {1, 1, 4, 1}},
    /* control flow */
    {"for_rebinding", FN("let s = 0\nfor i in 0..5 {\n    s = s + i\n}\nreturn [s]"), 1, {10}},
    {"if_else_chain",
     "fn pick(i) {\n    if i == 0 {\n        return 10\n    } else if i == 1 {\n        return 20\n    } else {\n        return 30\n    }\n}\n" FN(
         "return [pick(i) for i in 0..3]"),
     3, {10, 20, 30}},
    {"return_inside_for", "fn first(xs, least) {\n    for x in xs {\n        if x >= least { return x }\n    }\n    return -1\n}\n" FN(
         "return [first([1, 5, 9], 4), first([1], 4)]"), 2, {5, -1}},
    {"scopes", FN("let a = 1\nif true {\n    let a = 2\n    a = 3\n}\nfor i in 0..2 {\n    let a = i\n}\nreturn [a]"), 1, {1}},
    {"recursion", "fn fact(n) {\n    return 1 if n == 0 else n * fact(n - 1)\n}\n" FN("return [fact(10), fact(20)]"), 2,
     {3628800, 2432902008176640000.0}},
    {"deep_recursion", "fn count(n) {\n    return 0 if n == 0 else 1 + count(n - 1)\n}\n" FN("return [count(400)]"), 1, {400}},
    {"defaults_see_earlier", "fn f(a, b = a * 2, c = a + b) { return a + 10 * b + 100 * c }\n" FN("return [f(1), f(1, c = 0), f(b = 1, a = 2)]"), 3,
     {321, 21, 312}},
    {"functions_as_values", "fn twice(f, x) { return f(f(x)) }\nfn inc(x) { return x + 1 }\n" FN("return [twice(inc, 5), twice(f = inc, x = 0)]"), 2,
     {7, 2}},
    {"pipes", "fn add(x, y) { return x + 10 * y }\n" FN("return [1 |> add(2), 1\n    |> add(2)\n    |> add(y = 3)]"), 2, {21, 51}},
    {"pipe_binds_loosest", "fn neg1(x) { return -x }\n" FN("return [1 + 2 |> neg1]"), 1, {-3}},
    {"value_does_not_hide_function", FN("let max = max(1, 2)\nreturn [max(max, 7)]"), 1, {7}},
    {"line_ends", FN("let a = 1 +\n    2\nlet b = (1\n    + 2)\nlet c = [1,\n    2\n]\nreturn [a, b, len(c)]"), 3, {3, 3, 2}},
    {"top_level", "param n = 3\nlet xs = []\nfor i in 0..n { xs = xs + [i * i] }\nlet last = xs[-1]\n" FN("return xs + [last]"), 4, {0, 1, 4, 4}},
    /* tensors */
    {"constants", FN("return [tensor([[1, 2], [3, 4]]), full([2], 0.5), zeros([1]), ones([])]"), 8, {1, 2, 3, 4, 0.5, 0.5, 0, 1}},
    {"broadcasting", FN("return tensor([[1.0], [2.0]]) * tensor([10, 20, 30]) + 0.5"), 6, {10.5, 20.5, 30.5, 20.5, 40.5, 60.5}},
    {"integer_tensors", FN("return [tensor([7, -7]) // 2, tensor([7, -7]) % 3, tensor([7, -7]) / 2, tensor([3, 4]) * 2]"), 8,
     {3, -4, 1, 2, 3.5, -3.5, 6, 8}},
    {"tensor_comparisons", FN("let x = tensor([1.0, 2.0, 3.0])\nreturn [x < 2, x >= 2, x == 2, x != 2]"), 12,
     {1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1}},
    {"numbers_on_the_left", FN("let x = tensor([2.0, 4.0])\nreturn [1 - x, 8 / x, 2 ** x, -x, x ** 2]"), 10, {-1, -3, 4, 2, 4, 16, -2, -4, 4, 16}},
    {"indexing", FN("let x = tensor([[1, 2, 3], [4, 5, 6]])\nreturn [x[1], x[:, 0], x[-1, -1], x[0, 1:], x[:, ::2]]"), 12,
     {4, 5, 6, 1, 4, 6, 2, 3, 1, 3, 4, 6}},
    {"shape_fields", FN("let x = zeros([2, 3, 4])\nreturn x.shape + [x.rank, len(x), shape(x)[1], 1 if x.dtype == \"f32\" else 0]"), 7,
     {2, 3, 4, 3, 2, 3, 1}},
    {"reshape_hole", FN("return reshape(tensor([1, 2, 3, 4, 5, 6]), [2, -1]).shape"), 2, {2, 3}},
    {"transposes", FN("let x = tensor([[1, 2, 3], [4, 5, 6]])\nreturn [transpose(x)[0], permute(x, [1, 0])[2]]"), 4, {1, 4, 3, 6}},
    {"reductions", FN("let x = tensor([[1.0, 2.0], [3.0, 6.0]])\nreturn [sum(x), mean(x, 0), max(x), min(x, dim = 1), sum(x, dim = -1)]"), 8,
     {12, 2, 4, 6, 1, 3, 3, 9}},
    {"keepdim", FN("return sum(zeros([2, 3, 4]), [0, 2], keepdim = true).shape + mean(zeros([2, 3]), 1).shape"), 4, {1, 3, 1, 2}},
    {"elementwise_max", FN("return [max(tensor([1.0, 5.0]), 3), min(tensor([1.0, 5.0]), tensor([2.0, 2.0]))]"), 4, {3, 5, 1, 2}},
    {"sum_of_list", FN("return sum([tensor([1.0]), tensor([2.0]), 3])"), 1, {6}},
    {"concat_defaults_to_channels", FN("return concat(zeros([1, 2]), ones([1, 1])).shape + concat([zeros([2]), ones([1])], dim = 0).shape"), 3, {1, 3, 3}},
    {"matmul", FN("let a = tensor([[1.0, 2.0], [3.0, 4.0]])\nreturn [a @ a, matmul(a, transpose(a))]"), 8, {7, 10, 15, 22, 5, 11, 11, 25}},
    {"matmul_batches", FN("return (zeros([2, 3, 4, 5]) @ zeros([2, 3, 5, 6])).shape + (zeros([7, 4, 5]) @ zeros([5, 6])).shape"), 7, {2, 3, 4, 6, 7, 4, 6}},
    {"where_and_casts", FN("let x = tensor([-1.5, 2.5])\nreturn [where(x < 0, 0, x), cast(x, \"i32\"), where(true, x, 3)]"), 6, {0, 2.5, -1, 2, -1.5, 2.5}},
    {"primitive_by_name", FN("return [op.clamp(tensor([-2.0, 0.5]), min = -1, max = 1), op.sum(tensor([[1.0, 2.0]]), axes = [-1])]"), 3, {-1, 0.5, 3}},
    {"iota_and_argmax", FN("return [iota([2, 2], 1), argmax(tensor([[1.0, 3.0], [5.0, 2.0]]), dim = 1)]"), 6, {0, 1, 0, 1, 1, 0}},
    {"gather_scatter", FN("let x = tensor([[1.0, 2.0], [3.0, 4.0]])\nreturn [gather(x, tensor([[1], [0]]), dim = 1), scatter_add(x, tensor([[0, 0], [1, 1]]), dim = 1, size = 3)]"),
     8, {2, 3, 3, 0, 0, 0, 7, 0}},
    {"detach_maps_lists", FN("let a, b = detach([tensor([1.0]), 2])\nreturn [a, b]"), 2, {1, 2}},
    /* annotations */
    {"dims_are_bound", "fn f(x: [n, c]) { return [n, c, n * c] }\n" FN("return f(zeros([2, 3]))"), 3, {2, 3, 6}},
    {"dims_are_checked_across", "fn f(x: [n, c], y: [c, m]) -> [n, m] { return x @ y }\n" FN("return f(zeros([2, 3]), zeros([3, 4])).shape"), 2, {2, 4}},
    {"dims_by_expression", "fn f(x: [n, 2 * 3], y: [_, n + 1]) { return [n] }\n" FN("return f(zeros([4, 6]), zeros([9, 5]))"), 1, {4}},
    {"value_annotations", "fn f(a: int, b: float = 1, c: list = [], d: fn = f) { return [a, b] }\n" FN("return f(1, 2)"), 2, {1, 2}},
    {"scalar_annotation", "fn f(x: []) { return x * 2 }\n" FN("return [f(3), f(tensor(1.5))]"), 2, {6, 3}},
    /* nets */
    {"shared_weights", "net A[](x) { return x * weight([1], \"ones\") }\nlet a = A[]\n"
     "net B[](x) {\n    let one = A[]\n    return one(one(x))\n}\n" FN("return [kind(a) == \"network\"]"), 1, {1}},
    {"taps", "net In[](x) {\n    tap doubled = x * 2\n    return x + 1\n}\nnet Out[](x) {\n    let first = In[]\n    let rest = [In[] for i in 0..2]\n"
     "    let y = first(x)\n    let ys = []\n    for r in rest {\n        y = r(y)\n        ys = ys + [y]\n    }\n    tap all = ys\n    tap start = x\n    return y\n}\n"
     "let o = Out[]\n" FN("let y = o(tensor([1.0]))\nreturn [y, y.start, y.first, y.first.doubled, y.rest[1], y.rest[1].doubled, y.all[0]]"), 7,
     {4, 1, 2, 2, 4, 6, 3}},
    {"net_as_hyper_parameter", "net Twice[inner: net](x) {\n    let a = inner[]\n    return a(a(x))\n}\nnet Inc[](x) { return x + 1 }\n"
     "let t = Twice[Inc]\n" FN("return t(tensor([1.0]))"), 1, {3}},
    {"bare_net_without_weights", FN("return instance_norm(tensor([[[[1.0, 3.0]]]]), )"), 2, {-0.999995, 0.999995}},
    {"modes", "net M[](x) { return x + (10 if training else 20) }\nlet m = M[]\nlet f = frozen M[]\n"
     FN("let x = tensor([1.0])\nreturn [m(x), train_mode(m)(x), eval_mode(m)(x), f(x), train_mode(f)(x)]"), 5, {21, 11, 21, 21, 11}},
    {"comments_and_bom", "\xEF\xBB\xBF# grüße\nfn main() { return [1] } # end", 1, {1}},
    {"negative_zero_and_sci", FN("return [1e3, 1E-2, 0.0]"), 3, {1000, 0.01, 0}},
};

static void run_case(void **state) {
    const Case *c = *state;
    LtRun r = lt_run(c->text, "main", KD_INFER, NULL, 0);
    int at = 0;
    for (int k = 0; k < r.f->outputs.n; k++) {
        int64_t n = kd_vtype(r.f, r.f->outputs.v[k].value)->count;
        for (int64_t i = 0; i < n; i++, at++) {
            if (at >= c->n) fail_msg("more than %d numbers", c->n);
            lt_near(r.out[k][i], c->want[at], 1e-6, c->name, at);
        }
    }
    assert_int_equal(at, c->n);
    lt_free(&r);
}

/* ---- names, modes, inputs ---------------------------------------------------------------------------------------------- */

static void check_inputs(const char *text, const char *name, KdMode mode, const char *want) {
    KdContext *cx = kd_context_new();
    KdProgram *p = lt_load(cx, "test.kd", text, NULL);
    KdFunc *f = kd_lang_net(p, name, &(KdNetOptions){.mode = mode});
    if (!f) lt_fail(cx, text);
    KdStr s = {cx, NULL, 0, 0};
    for (int i = 0; i < f->inputs.n; i++) {
        const KdNode *n = kd_node(f, f->inputs.v[i]);
        kd_str_printf(&s, "%s%s %s%s", i ? "; " : "", kd_attr_str(f, n, "name"), kd_attr_str(f, n, "role"), kd_shape_text(cx, n->type));
    }
    assert_string_equal(s.s, want);
    kd_context_free(cx);
}

static void test_names(void **state) {
    (void)state;
    check_inputs("net N[](x: [1, 2, 4, 4]) {\n    let stem = conv2d[3, 1]\n    let down = [conv2d[3, 1, bias = false] for i in 0..2]\n"
                 "    let y = stem(x)\n    for d in down { y = d(y) }\n    for i in 0..2 {\n        let block = conv2d[3, 1, bias = false]\n"
                 "        y = block(y)\n    }\n    return y |> conv2d[1, 1, bias = false] |> conv2d[1, 1, bias = false]\n}\n",
                 "N", KD_INFER,
                 "x data[1, 2, 4, 4]; stem.weight weight[3, 2, 1, 1]; stem.bias weight[3]; down[0].weight weight[3, 3, 1, 1]; "
                 "down[1].weight weight[3, 3, 1, 1]; block[0].weight weight[3, 3, 1, 1]; block[1].weight weight[3, 3, 1, 1]; "
                 "conv2d_0.weight weight[1, 3, 1, 1]; conv2d_1.weight weight[1, 1, 1, 1]");
}

static void test_names_grow(void **state) { /* a list that grows, a hyper-parameter, a name used twice, bare weights */
    (void)state;
    check_inputs("net W[inner](x) {\n    let a = weight([1], \"zeros\")\n    return inner(x) + a + weight([1], \"ones\")\n}\n"
                 "net N[](x: [2, 3]) {\n    let parts = []\n    for i in 0..2 { parts = parts + [linear[3, bias = false]] }\n"
                 "    let w = W[inner = linear[3, bias = false]]\n    let y = w(parts[1](parts[0](x)))\n    let one = linear[1]\n    y = one(y)\n"
                 "    let one = linear[1, bias = false]\n    return one(y)\n}\n",
                 "N", KD_INFER,
                 "x data[2, 3]; parts[0].weight weight[3, 3]; parts[1].weight weight[3, 3]; w.a weight[1]; w.inner.weight weight[3, 3]; "
                 "w.weight_0 weight[1]; one.weight weight[1, 3]; one.bias weight[1]; one_1.weight weight[1, 1]");
}

static void test_instance_is_relative(void **state) { /* the paths of an instance leave its own name out; frozen shows */
    (void)state;
    const char *text = "let S = linear[2]\nlet T = frozen batch_norm[]\nfn f(x: [2, 3]) { return S(x) }\nnet N[](x: [2, 3]) { return S(T(x)) }\n";
    KdContext *cx = kd_context_new();
    KdProgram *p = lt_load(cx, "test.kd", text, NULL);
    const KdType *t = kd_type(cx, KD_F32, 2, (int64_t[]){2, 3});
    KdFunc *f = kd_lang_net(p, "S", &(KdNetOptions){.given = &(KdGiven){"x", t}, .n_given = 1});
    assert_non_null(f);
    assert_true(kd_find_input(f, "weight") != KD_NONE && kd_find_input(f, "S.weight") == KD_NONE);
    kd_context_free(cx);
    check_inputs(text, "f", KD_INFER, "x data[2, 3]; S.weight weight[2, 3]; S.bias weight[2]");
    check_inputs(text, "N", KD_TRAIN,
                 "x data[2, 3]; T.weight frozen[3]; T.bias frozen[3]; T.running_mean buffer[3]; T.running_var buffer[3]; S.weight weight[2, 3]; "
                 "S.bias weight[2]");
}

static void test_sharing(void **state) { /* two applications of one instance, one set of weights; two instances, two */
    (void)state;
    check_inputs("net N[](x: [1, 3]) {\n    let a = linear[3, bias = false]\n    let b = linear[3, bias = false]\n    return a(b(a(x)))\n}\n", "N", KD_INFER,
                 "x data[1, 3]; a.weight weight[3, 3]; b.weight weight[3, 3]");
}

static void test_buffers(void **state) { /* updates are outputs in training mode, one after the other */
    (void)state;
    const char *text = "net Count[](x) {\n    let seen = buffer([1], \"zeros\")\n    update seen = seen + 1\n    return x + seen\n}\n"
                       "net N[](x: [1]) {\n    let c = Count[]\n    return c(c(x))\n}\n";
    LtRun r = lt_run(text, "N", KD_TRAIN, (LtValues[]){{"x", (double[]){5}, 1}, {"c.seen", (double[]){3}, 1}}, 2);
    int n;
    assert_true(lt_out(&r, "out", &n)[0] == 5 + 3 + 4);
    assert_true(lt_out(&r, "c.seen", &n)[0] == 5);
    assert_int_equal(r.f->outputs.v[1].updates, kd_find_input(r.f, "c.seen"));
    lt_free(&r);
    r = lt_run(text, "N", KD_INFER, (LtValues[]){{"x", (double[]){5}, 1}, {"c.seen", (double[]){3}, 1}}, 2);
    assert_int_equal(r.f->outputs.n, 1);
    assert_true(r.out[0][0] == 5 + 3 + 3);
    lt_free(&r);
}

static void test_taps_and_grads(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdProgram *p = lt_load(cx, "test.kd", "net N[](x: [2, 3]) {\n    let l = [linear[3], linear[2]]\n    let h = l[0](x)\n    tap hs = [h, x]\n    return [l[1](h), h]\n}\n", NULL);
    const KdType *t = kd_type(cx, KD_F32, 2, (int64_t[]){2, 3});
    KdFunc *f = kd_lang_net(p, "N", &(KdNetOptions){.given = &(KdGiven){"x", t}, .n_given = 1, .grads = true, .taps = (const char *[]){"hs[1]", "l[0]"}, .n_taps = 2});
    if (!f) lt_fail(cx, "taps");
    KdStr s = {cx, NULL, 0, 0};
    for (int i = 0; i < f->outputs.n; i++) kd_str_printf(&s, "%s ", f->outputs.v[i].name);
    assert_string_equal(s.s, "out.0 out.1 hs[1] l[0] grad.x grad.l[0].weight grad.l[0].bias grad.l[1].weight grad.l[1].bias ");
    assert_int_equal(f->outputs.v[2].value, kd_find_input(f, "x"));
    assert_int_equal(f->outputs.v[3].value, f->outputs.v[1].value);
    kd_context_free(cx);
}

static void test_defaults_for_dims(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdProgram *p = lt_load(cx, "test.kd", "fn f(x: [n, 3, h, w], y: [n, k, h, w]) { return sum(x) + sum(y) }\nfn g(x: [batch, h]) { return x }\n", NULL);
    const KdType *t = kd_type(cx, KD_F32, 4, (int64_t[]){2, 7, 8, 6});
    KdFunc *f = kd_lang_net(p, "f", &(KdNetOptions){.given = &(KdGiven){"y", t}, .n_given = 1, .batch = 2, .height = 8, .width = 6});
    if (!f) lt_fail(cx, "dims");
    assert_string_equal(kd_shape_text(cx, kd_vtype(f, f->inputs.v[0])), "[2, 3, 8, 6]");
    f = kd_lang_net(p, "g", NULL);
    assert_string_equal(kd_shape_text(cx, kd_vtype(f, f->inputs.v[0])), "[1, 256]");
    kd_context_free(cx);
}

/* ---- params and imports ------------------------------------------------------------------------------------------------- */

static void test_defines(void **state) {
    (void)state;
    const char *text = "param n = 3\nparam f = 0.5\nparam on = false\nparam word = \"a\"\nparam xs = [1, 2]\nparam m = n * 2\n"
                       "fn main() { return [n, f, 1 if on else 0, len(word), len(xs), xs[0], m] }\n";
    const KdDefine d[] = {{"n", "-7"}, {"f", "2"}, {"on", "true"}, {"word", "hello there"}, {"xs", "[-4, 5, 6]"}};
    LtRun r = {.cx = kd_context_new()};
    r.p = lt_load(r.cx, "test.kd", text, &(KdLangOptions){.define = d, .n_define = 5});
    r.f = kd_lang_net(r.p, "main", NULL);
    lt_eval(&r, NULL, 0);
    const double want[] = {-7, 2, 1, 11, 3, -4, -14};
    for (int i = 0; i < 7; i++) assert_true(r.out[i][0] == want[i]);
    int n;
    const KdDecl *decl = kd_lang_decls(r.p, &n);
    assert_int_equal(n, 7);
    assert_string_equal(decl[0].value, "-7");
    assert_string_equal(decl[1].value, "2.0");
    assert_int_equal(decl[6].kind, KD_DECL_FN);
    lt_free(&r);
}

/* What a fn gives back is named by who calls it, through fns and lists, at the top and in a net. */
static void test_names_of_a_fn(void **state) {
    (void)state;
    check_inputs("fn one(c) { return linear[c, bias = false] }\nfn some(c) { return [one(c), identity[], one(c)] }\n"
                 "net W[inner](x) { return inner(x) }\nfn wrapped(c) { return W[inner = one(c)] }\n"
                 "let S = one(2)\nlet T = frozen wrapped(2)\nfn f(x: [2, 3]) {\n    return S(T(x))\n}\n",
                 "f", KD_INFER, "x data[2, 3]; T.inner.weight frozen[2, 3]; S.weight weight[2, 2]");
    check_inputs("fn one(c) { return linear[c, bias = false] }\nfn some(c) { return [one(c), identity[], one(c)] }\n"
                 "net N[](x: [2, 3]) {\n    let parts = some(4)\n    return one(1)(parts[2](parts[0](x)))\n}\n",
                 "N", KD_INFER, "x data[2, 3]; parts[0].weight weight[4, 3]; parts[2].weight weight[4, 4]; linear_0.weight weight[1, 4]");
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_imports(void **state) { /* relative to the file, then the folders given, then the built-in models */
    (void)state;
    char dir[] = "/tmp/kdc-lang-XXXXXX", path[128];
    assert_non_null(mkdtemp(dir));
    const char *const names[] = {"main.kd", "sub", "sub/a.kd", "sub/b.kd", "lib", "lib/c.kd"};
    const char *const text[] = {"import \"sub/a.kd\"\nimport \"c.kd\"\nimport \"nets/resnet.kd\"\nimport \"sub/b.kd\"\nlet G = ResnetGen[ngf = 2]\n"
                                "fn main() { return [a(1), b(1), c(1)] }\n",
                                NULL, "import \"b.kd\"\nfn a(x) { return b(x) + 10 }\n", "param k = 5\nfn b(x) { return x + k }\n", NULL,
                                "fn c(x) { return -x }\n"};
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (text[i]) write_file(path, text[i]);
        else {
            char cmd[160];
            snprintf(cmd, sizeof cmd, "mkdir %s", path);
            assert_int_equal(system(cmd), 0);
        }
    }
    char lib[128], main_path[128];
    snprintf(lib, sizeof lib, "%s/lib", dir);
    snprintf(main_path, sizeof main_path, "%s/main.kd", dir);
    LtRun r = {.cx = kd_context_new()};
    r.p = lt_load(r.cx, main_path, NULL, &(KdLangOptions){.import_path = (const char *[]){lib}, .n_import_path = 1, .define = &(KdDefine){"k", "6"}, .n_define = 1});
    r.f = kd_lang_net(r.p, "main", NULL);
    lt_eval(&r, NULL, 0);
    const double want[] = {17, 7, -1};
    for (int i = 0; i < 3; i++) assert_true(r.out[i][0] == want[i]);
    int n, from_main = 0;
    const KdDecl *d = kd_lang_decls(r.p, &n);
    for (int i = 0; i < n; i++) from_main += d[i].main;
    assert_int_equal(from_main, 2);
    assert_int_equal(d[0].kind, KD_DECL_INSTANCE);
    assert_string_equal(d[0].value, "ResnetGen[ngf = 2]");
    lt_free(&r);
    for (int i = 5; i >= 0; i--) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        remove(path);
    }
    remove(dir);
}

/* A literal default of an importing file is the imported files' too, whatever lies between; -D comes first. */
static void test_param_of_importer(void **state) {
    (void)state;
    char dir[] = "/tmp/kdc-lang-XXXXXX", path[3][128];
    assert_non_null(mkdtemp(dir));
    const char *const names[] = {"low.kd", "mid.kd", "main.kd"};
    const char *const text[] = {
        "param a = 1\nparam b = 2.0\nparam c = a + 1\nparam l = [1]\nparam s = \"low\"\nparam e = 1\nfn low() { return [a, b, c, l[0], len(s), e] }\n",
        "import \"low.kd\"\nparam a = 3\nparam b = 4.0\nfn mid() { return low() }\n",
        "import \"mid.kd\"\nparam a = 5\nparam l = [7, 8]\nparam s = 6\nparam e = 2 * 4\nfn main() { return mid() + [a, s, e] }\n"};
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", dir, names[i]);
        write_file(path[i], text[i]);
    }
    const double want[2][9] = {{5, 4, 6, 7, 3, 1, 5, 6, 8}, {9, 4, 10, 7, 3, 1, 9, 6, 8}}; /* s: another kind; e: no literal */
    for (int k = 0; k < 2; k++) {
        LtRun r = {.cx = kd_context_new()};
        r.p = lt_load(r.cx, path[2], NULL, &(KdLangOptions){.define = &(KdDefine){"a", "9"}, .n_define = k});
        r.f = kd_lang_net(r.p, "main", NULL);
        lt_eval(&r, NULL, 0);
        for (int i = 0; i < 9; i++) assert_true(r.out[i][0] == want[k][i]);
        lt_free(&r);
    }
    for (int i = 0; i < 3; i++) remove(path[i]);
    remove(dir);
}

int main(void) {
    static const struct CMUnitTest more[] = {
        cmocka_unit_test(test_names_of_a_fn), cmocka_unit_test(test_param_of_importer),
        cmocka_unit_test(test_names),          cmocka_unit_test(test_names_grow), cmocka_unit_test(test_instance_is_relative),
        cmocka_unit_test(test_sharing),        cmocka_unit_test(test_buffers),    cmocka_unit_test(test_taps_and_grads),
        cmocka_unit_test(test_defaults_for_dims), cmocka_unit_test(test_defines), cmocka_unit_test(test_imports),
    };
    enum { N = KD_COUNT(cases), MORE = KD_COUNT(more) };
    struct CMUnitTest tests[N + MORE];
    for (int i = 0; i < N; i++) tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    for (int i = 0; i < MORE; i++) tests[N + i] = more[i];
    return _cmocka_run_group_tests("elaborate", tests, N + MORE, NULL, NULL);
}
