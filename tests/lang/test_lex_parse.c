/* test_lex_parse.c: tokens, precedence, the canonical print of programs and its reading back, recovery, and hostile input:
 * depth is refused fast and on a small stack. */
#include <pthread.h>
#include <time.h>

#include "frontend/lang/ast.h"
#include "frontend/lang/embedded.h"
#include "tests/lang/lang_test.h"

static char *printed(const char *text, int *errors) {
    KdContext *cx = kd_context_new();
    KdBlock b = kd_parse_source(cx, "t.kd", text, strlen(text));
    KdStr s = {cx, NULL, 0, 0};
    kd_str_add(&s, "", 0);
    kd_print_block(&s, &b, 0);
    *errors = kd_error_count(cx);
    char *copy = strdup(s.s);
    kd_context_free(cx);
    return copy;
}

/* ---- what is printed for what is written ----------------------------------------------------------------------------- */

typedef struct Pair { const char *name, *text, *want; } Pair;

static const Pair pairs[] = {
    {"spaces", "let  a=1+2 # sum", "let a = 1 + 2\n"},
    {"precedence", "let a = (1 + 2) * 3 - (4 - (5 - 6))", "let a = (1 + 2) * 3 - (4 - (5 - 6))\n"},
    {"needless_parentheses", "let a = ((1 * 2)) + (3)", "let a = 1 * 2 + 3\n"},
    {"power_and_sign", "let a = -2 ** 2 + (-2) ** 2 + 2 ** -1 + 2 ** 3 ** 2 + (2 ** 3) ** 2", "let a = -2 ** 2 + (-2) ** 2 + 2 ** -1 + 2 ** 3 ** 2 + (2 ** 3) ** 2\n"},
    {"logic", "let a = not (x and y) or z and not w == 1", "let a = not (x and y) or z and not w == 1\n"},
    {"comparison", "let a = (1 < 2) == true", "let a = (1 < 2) == true\n"},
    {"choice", "let a = 1 if x else 2 if y else 3\nlet b = (1 if x else 2) + 1", "let a = 1 if x else 2 if y else 3\nlet b = (1 if x else 2) + 1\n"},
    {"ranges", "let a = 0..n+1\nlet b = (0..n)[1]", "let a = 0..n + 1\nlet b = (0..n)[1]\n"},
    {"pipes_over_lines", "let y = x\n    |> f(1)\n  # a comment between\n    |> g[2]\n    |> h", "let y = x |> f(1) |> g[2] |> h\n"},
    {"pipe_in_operands", "let y = (x |> f) + 1", "let y = (x |> f) + 1\n"},
    {"operator_at_line_end", "let y = 1 +\n  2 *\n\n  3", "let y = 1 + 2 * 3\n"},
    {"brackets_over_lines", "let y = f(\n 1,\n 2\n)\nlet z = [\n1\n,2]", "let y = f(1, 2)\nlet z = [1, 2]\n"},
    {"call_on_next_line_is_another", "fn f() {\n let y = a\n (b)\n}", "fn f() {\n    let y = a\n    b\n}\n"},
    {"slices", "let y = x[:, 1:2, ::3, a:b:c, -1]", "let y = x[:, 1:2, ::3, a:b:c, -1]\n"},
    {"keywords_and_trailing_comma", "let y = f(1, b = 2,)[ngf=16](x)", "let y = f(1, b = 2)[ngf = 16](x)\n"},
    {"each", "let y = [i * 2 for i in 0..3]", "let y = [i * 2 for i in 0..3]\n"},
    {"frozen", "let T = frozen Unet[ngf = 64]\nlet U = frozen f(x).y", "let T = frozen Unet[ngf = 64]\nlet U = frozen f(x).y\n"},
    {"strings", "let s = \"a\\\"b\\\\c\\n\\t\" + \"ü\"", "let s = \"a\\\"b\\\\c\\n\\t\" + \"ü\"\n"},
    {"numbers", "let a = [2e-4, 1.50, 100.0, 1e30, 7, 0.0]", "let a = [0.0002, 1.5, 100.0, 1e+30, 7, 0.0]\n"},
    {"declarations",
     "import \"a.kd\"\nparam n: int = 3\nfn f(x: [n, _, 2*c], k: float = 1, l: i32[]) -> [n] { return x }\nnet N[a, b: net = M](x) { tap t = x\n update u = x\n return x }",
     "import \"a.kd\"\nparam n: int = 3\n\nfn f(x: [n, _, 2 * c], k: float = 1, l: i32[]) -> [n] {\n    return x\n}\n\nnet N[a, b: net = M](x) {\n    tap t = x\n    update u = x\n    return x\n}\n"},
    {"sessions",
     "session s(x: [1, 3]) from paired { minimize a + b over P, Q.r with adam(lr, 0.5)\n together { minimize c over R with sgd(1) }\n every 5 { log a, b.c, d = e + 1 }\n show x, y = z }",
     "session s(x: [1, 3]) from paired {\n    minimize a + b over P, Q.r with adam(lr, 0.5)\n    together {\n        minimize c over R with sgd(1)\n    }\n    every 5 {\n        log a, b.c, d = e + 1\n    }\n    show x, y = z\n}\n"},
    {"else_chain", "fn f() { if a { return 1 } else if b { return 2 } else { return 3 } }",
     "fn f() {\n    if a {\n        return 1\n    } else if b {\n        return 2\n    } else {\n        return 3\n    }\n}\n"},
    {"soft_words_as_names", "fn f(x) {\n let log = log(x)\n show = 1\n let over = show\n let with = every + tap.update\n return minimize(log)\n}",
     "fn f(x) {\n    let log = log(x)\n    show = 1\n    let over = show\n    let with = every + tap.update\n    return minimize(log)\n}\n"},
    {"crlf", "let a = 1\r\nlet b = 2\r\n", "let a = 1\nlet b = 2\n"},
    {"empty", "", ""},
    {"only_comments", "# one\n   # two", ""},
};

static void test_pair(void **state) {
    const Pair *p = *state;
    int errors;
    char *once = printed(p->text, &errors);
    assert_int_equal(errors, 0);
    assert_string_equal(once, p->want);
    char *twice = printed(once, &errors);
    assert_int_equal(errors, 0);
    assert_string_equal(twice, once);
    free(once);
    free(twice);
}

/* ---- every file that ships ----------------------------------------------------------------------------------------------- */

static void test_shipped(void **state) {
    (void)state;
    int n = 0, errors;
    for (const KdEmbedded *e = kd_embedded; e->name; e++, n++) {
        char *once = printed(e->text, &errors);
        if (errors) fail_msg("%s does not parse", e->name);
        char *twice = printed(once, &errors);
        assert_string_equal(once, twice);
        free(once);
        free(twice);
    }
    assert_true(n > 8);
}

static void test_print_program(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdProgram *p = lt_load(cx, "t.kd", "let a=1\nfn f(x){return x}\n", NULL);
    KdStr s = {cx, NULL, 0, 0};
    kd_lang_print_ast(&s, p);
    assert_string_equal(s.s, "let a = 1\n\nfn f(x) {\n    return x\n}\n");
    kd_context_free(cx);
}

/* ---- hostile input --------------------------------------------------------------------------------------------------------- */

typedef struct Hostile { const char *name, *before, *deep, *middle, *shallow; int times; const char *want; } Hostile;

static const Hostile hostile[] = {
    {"parentheses", "let a = ", "(", "1", ")", 100000, "nested too deeply"},
    {"parentheses_never_closed", "let a = ", "(", "", "", 100000, "nested too deeply"},
    {"lists", "let a = ", "[", "1", "]", 100000, "nested too deeply"},
    {"minus_signs", "let a = ", "-", "1", "", 100000, "nested too deeply"},
    {"nots", "let a = ", "not ", "true", "", 100000, "nested too deeply"},
    {"frozens", "let a = ", "frozen ", "x", "", 100000, "nested too deeply"},
    {"powers", "let a = 1", " ** 1", "", "", 100000, "nested too deeply"},
    {"choices", "let a = 1", " if true else 1", "", "", 100000, "nested too deeply"},
    {"blocks", "fn f() ", "{ if true ", "{ }", "}", 100000, "nested too deeply"},
    {"else_ifs", "fn f() { if a { }", " else if a { }", "", "}", 100000, "nested too deeply"},
    {"calls", "let a = ", "f(", "1", ")", 100000, "nested too deeply"},
    {"each", "let a = ", "[", "1", " for i in b]", 100000, "nested too deeply"},
    {"annotations", "fn f(x: [", "(", "n", ")", 100000, "nested too deeply"},
    {"sums", "let a = 1", " + 1", "", "", 100000, "at most 1000 operations"},
    {"pipes", "let a = 1", " |> f", "", "", 100000, "at most 1000 operations"},
    {"fields", "let a = b", ".c", "", "", 100000, "at most 1000 operations"},
    {"applications", "let a = b", "(1)", "", "", 100000, "at most 1000 operations"},
};

typedef struct Attempt { const char *text; int errors; char *said; double seconds; bool loaded; } Attempt;

static void *attempt(void *arg) {
    Attempt *a = arg;
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (KD_TRY(cx, l)) {
        a->loaded = kd_lang_load(cx, "deep.kd", a->text, strlen(a->text), NULL) != NULL;
        kd_landing_pop(cx);
    }
    a->errors = kd_error_count(cx);
    a->said = lt_messages(cx);
    kd_context_free(cx);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    a->seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
    return NULL;
}

/* On a thread with a stack of 256 KB, as a process under `ulimit -s 256` would have. */
static Attempt on_small_stack(const char *text) {
    Attempt a = {.text = text};
    pthread_attr_t attr;
    pthread_t t;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 << 10);
    assert_int_equal(pthread_create(&t, &attr, attempt, &a), 0);
    pthread_join(t, NULL);
    pthread_attr_destroy(&attr);
    return a;
}

static void test_hostile(void **state) {
    const Hostile *h = *state;
    size_t each = strlen(h->deep) + strlen(h->shallow);
    char *text = malloc(strlen(h->before) + strlen(h->middle) + each * (size_t)h->times + 16), *p = text;
    p += sprintf(p, "%s", h->before);
    for (int i = 0; i < h->times; i++) p = stpcpy(p, h->deep);
    p = stpcpy(p, h->middle);
    for (int i = 0; i < h->times; i++) p = stpcpy(p, h->shallow);
    Attempt a = on_small_stack(text);
    assert_false(a.loaded);
    assert_int_equal(a.errors, 1);
    if (!strstr(a.said, h->want)) fail_msg("%s", a.said);
    assert_true(a.seconds < 1);
    free(a.said);
    free(text);
}

/* What is allowed must work: deep, but within the limits, also when elaborated on a small stack. */
static void test_within_limits(void **state) {
    (void)state;
    char text[20000], *p = text;
    p = stpcpy(p, "let a = ");
    for (int i = 0; i < 150; i++) p = stpcpy(p, "(1 + ");
    p = stpcpy(p, "1");
    for (int i = 0; i < 150; i++) p = stpcpy(p, ")");
    p = stpcpy(p, "\nlet b = 0");
    for (int i = 0; i < 900; i++) p = stpcpy(p, " + 1");
    p = stpcpy(p, "\nfn count(n) { return 0 if n == 0 else [count(n - 1)][0] + 1 }\nlet c = count(490)\n");
    Attempt a = on_small_stack(text);
    if (!a.loaded) fail_msg("%s", a.said);
    free(a.said);
    a = on_small_stack("fn f(n) { return f(n + 1) + f(n + 2) }\nlet x = f(0)\n");
    assert_false(a.loaded);
    assert_int_equal(a.errors, 1);
    assert_non_null(strstr(a.said, "applications nest more than 500 deep"));
    free(a.said);
}

/* Endless loops and giant values end with a sentence. */
static void test_endless(void **state) {
    (void)state;
    Attempt a = on_small_stack("let xs = range(1000000)\nfn f(x) {\n    for i in xs { for j in xs { let y = i + j } }\n    return x\n}\nlet y = f(1)\n");
    assert_int_equal(a.errors, 1);
    assert_non_null(strstr(a.said, "steps of compile-time evaluation"));
    free(a.said);
    a = on_small_stack("let s = \"abc\"\nfn f(s) {\n    for i in 0..40 { s = s + s }\n    return s\n}\nlet y = f(s)\n");
    assert_int_equal(a.errors, 1);
    assert_non_null(strstr(a.said, "a string has at most"));
    free(a.said);
}

/* Any bytes: a sentence or a program, never a crash. Cut and altered forms of real programs. */
static void test_altered(void **state) {
    (void)state;
    uint32_t seed = 20261121;
    for (const KdEmbedded *e = kd_embedded; e->name; e++) {
        size_t n = strlen(e->text) < 6000 ? strlen(e->text) : 6000;
        for (int round = 0; round < 25; round++) {
            char *text = strndup(e->text, n);
            for (int k = 0; k < 4; k++) {
                seed = seed * 1664525u + 1013904223u;
                size_t at = (seed >> 8) % n;
                static const char alphabet[] = "()[]{},.:=+-*/\"#\n |>@01xlf\xff\x80 ";
                text[at] = alphabet[seed % (sizeof alphabet - 1)];
            }
            if (round % 3 == 0) text[(seed >> 4) % n] = 0;
            Attempt a = {.text = text};
            attempt(&a);
            free(a.said);
            free(text);
        }
    }
}

int main(void) {
    enum { P = KD_COUNT(pairs), H = KD_COUNT(hostile) };
    struct CMUnitTest tests[P + H + 5] = {
        cmocka_unit_test(test_shipped), cmocka_unit_test(test_print_program), cmocka_unit_test(test_within_limits),
        cmocka_unit_test(test_endless), cmocka_unit_test(test_altered),
    };
    for (int i = 0; i < P; i++) tests[5 + i] = (struct CMUnitTest){pairs[i].name, test_pair, NULL, NULL, (void *)&pairs[i]};
    for (int i = 0; i < H; i++) tests[5 + P + i] = (struct CMUnitTest){hostile[i].name, test_hostile, NULL, NULL, (void *)&hostile[i]};
    return _cmocka_run_group_tests("lex and parse", tests, P + H + 5, NULL, NULL);
}
