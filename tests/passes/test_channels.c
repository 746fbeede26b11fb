/* test_channels.c: which channels of a graph belong together, what may not be taken away, and whether another graph is the same one with
 * fewer channels.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "passes/channels.h"

#include <stdlib.h>
#include <string.h>

typedef struct Case {
    KdContext *cx;
    KdFunc *f;
    KdChannels *c;
} Case;

/* The texts below name values by a letter: %s4 is %9184, since 's' is the letter number 18. */
static KdFunc *parse(KdContext *cx, const char *named) {
    KdStr s = {.cx = cx};
    for (const char *p = named; *p; p++) {
        bool name = p > named && p[-1] == '%' && *p >= 'a';
        kd_str_printf(&s, name ? "9%02d" : "%c", name ? *p - 'a' : *p);
    }
    const char *text = s.s;
    KdModule *m = kd_parse_module(cx, "t", text, strlen(text));
    if (!m || kd_error_count(cx)) {
        kd_diag_print(cx, stderr, false);
        fail();
    }
    return m->funcs.v[0];
}

static Case analyse(const char *text) {
    Case k = {.cx = kd_context_new()};
    k.f = parse(k.cx, text);
    k.c = kd_channels(k.f);
    return k;
}

static const KdChannelGroup *group(const Case *k, const char *name) {
    for (int i = 0; i < k->c->groups.n; i++) {
        if (strcmp(k->c->groups.v[i].name, name) == 0) {
            return &k->c->groups.v[i];
        }
    }
    fail_msg("no group %s", name);
    return NULL;
}

static int number(const Case *k, const char *name) {
    return (int)(group(k, name) - k->c->groups.v);
}

/* Index i of dimension `dim` of input `name` is channel `channel` of the group `of` (NULL: of none). */
static void is_channel(const Case *k, const char *name, int dim, int i, const char *of, int channel) {
    KdValue v = kd_find_input(k->f, kd_intern_z(k->cx, name));
    int input = 0;
    while (k->f->inputs.v[input] != v) {
        input++;
    }
    const KdChannelDim *d = &k->c->dim[input][dim];
    int found = d->group ? d->group[i] : -1;
    if (found != (of ? number(k, of) : -1) || (of && d->channel[i] != channel)) {
        fail_msg("%s, dimension %d, index %d: channel %d of %s", name, dim, i, found < 0 ? 0 : d->channel[i],
                 found < 0 ? "none" : k->c->groups.v[found].name);
    }
}

static void stays(const Case *k, const char *name, const char *why) {
    const KdChannelGroup *g = group(k, name);
    if (!g->why || !strstr(g->why, why)) {
        fail_msg("%s: %s, expected '%s'", name, g->why ? g->why : "may go", why);
    }
}

static void may_go(const Case *k, const char *name, int n) {
    const KdChannelGroup *g = group(k, name);
    if (g->why) {
        fail_msg("%s stays: %s", name, g->why);
    }
    assert_int_equal(g->n, n);
}

#define CONV(v, x, w, shape) "  " v " = conv2d(" x ", " w "): f32[1, " shape ", 4, 4]\n"
#define X3 "  %x = input {name=\"x\"}: f32[1, 3, 4, 4]\n"
#define W(v, name, shape) "  " v " = input {name=\"" name "\", role=\"weight\"}: f32[" shape "]\n"
#define CHANNEL(v, of, n) \
    "  " v "1 = reshape(" of ") {shape=[1, " n ", 1, 1]}: f32[1, " n ", 1, 1]\n" \
    "  " v " = broadcast(" v "1) {shape=[1, " n ", 4, 4]}: f32[1, " n ", 4, 4]\n"

/* A stem with a norm's two numbers a channel, two blocks that add to it, and a head. */
#define RESIDUAL(n, m) \
    "func @f {\n" X3 W("%w", "stem.weight", n ", 3, 1, 1") W("%s", "norm.weight", n) W("%b", "norm.bias", n) \
    W("%u", "a.weight", m ", " n ", 1, 1") W("%d", "dw.weight", m ", 1, 1, 1") W("%v", "b.weight", n ", " m ", 1, 1") \
    W("%t", "late.weight", n) W("%h", "head.weight", "3, " n ", 1, 1") \
    CONV("%1", "%x", "%w", n) CHANNEL("%s4", "%s", n) CHANNEL("%b4", "%b", n) \
    "  %2 = mul(%1, %s4): f32[1, " n ", 4, 4]\n  %3 = add(%2, %b4): f32[1, " n ", 4, 4]\n" CONV("%4", "%3", "%u", m) \
    "  %5 = conv2d(%4, %d) {groups=" m "}: f32[1, " m ", 4, 4]\n" CONV("%6", "%5", "%v", n) CHANNEL("%t4", "%t", n) \
    "  %7 = mul(%6, %t4): f32[1, " n ", 4, 4]\n  %8 = add(%3, %7): f32[1, " n ", 4, 4]\n" CONV("%9", "%8", "%h", "3") \
    "  output \"out\" = %9\n}\n"

static void test_residual(void **state) {
    (void)state;
    Case k = analyse(RESIDUAL("5", "6"));
    may_go(&k, "stem", 5);
    may_go(&k, "a", 6);
    stays(&k, "head", "gives back");
    assert_int_equal(k.c->groups.n, 3);
    is_channel(&k, "stem.weight", 0, 4, "stem", 4);
    is_channel(&k, "stem.weight", 1, 0, NULL, 0);
    is_channel(&k, "norm.bias", 0, 2, "stem", 2);
    is_channel(&k, "a.weight", 1, 1, "stem", 1);
    is_channel(&k, "a.weight", 0, 1, "a", 1);
    is_channel(&k, "dw.weight", 0, 5, "a", 5);
    is_channel(&k, "dw.weight", 1, 0, NULL, 0);
    is_channel(&k, "b.weight", 0, 3, "stem", 3);
    is_channel(&k, "b.weight", 1, 3, "a", 3);
    is_channel(&k, "head.weight", 1, 4, "stem", 4);
    /* the first scale in program order, not the block's; both filters make the channel, the depthwise one makes none */
    const KdChannelGroup *g = group(&k, "stem");
    assert_int_equal(k.f->inputs.v[g->scale[3].input], kd_find_input(k.f, kd_intern_z(k.cx, "norm.weight")));
    assert_int_equal(g->scale[3].index, 3);
    assert_int_equal(g->makers[3].n, 2);
    assert_int_equal(group(&k, "a")->scale[0].input, -1);
    assert_int_equal(group(&k, "a")->makers[0].n, 1);
    kd_context_free(k.cx);
}

static void test_concat_and_slice(void **state) { /* a U-Net's skip, and a scale and shift made together */
    (void)state;
    Case k = analyse("func @f {\n" X3 W("%a", "a.weight", "4, 3, 1, 1") W("%b", "b.weight", "4, 2, 1, 1") W("%c", "c.weight", "6, 8, 1, 1")
                     W("%h", "head.weight", "2, 3, 1, 1") CONV("%1", "%x", "%a", "4")
                     "  %2 = slice(%1) {begin=[0, 2, 0, 0], end=[1, 4, 4, 4], step=[1, 1, 1, 1]}: f32[1, 2, 4, 4]\n"
                     CONV("%3", "%2", "%b", "4") "  %4 = concat(%1, %3) {axis=1}: f32[1, 8, 4, 4]\n" CONV("%5", "%4", "%c", "6")
                     "  %6 = slice(%5) {begin=[0, 0, 0, 0], end=[1, 3, 4, 4], step=[1, 1, 1, 1]}: f32[1, 3, 4, 4]\n"
                     "  %7 = slice(%5) {begin=[0, 3, 0, 0], end=[1, 6, 4, 4], step=[1, 1, 1, 1]}: f32[1, 3, 4, 4]\n"
                     "  %8 = mul(%6, %7): f32[1, 3, 4, 4]\n" CONV("%9", "%8", "%h", "2") "  output \"out\" = %9\n}\n");
    stays(&k, "a", "more often"); /* half of its channels are read by b */
    may_go(&k, "b", 4);
    may_go(&k, "c", 3); /* each twice */
    is_channel(&k, "b.weight", 1, 0, "a", 2);
    is_channel(&k, "c.weight", 1, 3, "a", 3);
    is_channel(&k, "c.weight", 1, 4, "b", 0);
    is_channel(&k, "c.weight", 0, 1, "c", 1);
    is_channel(&k, "c.weight", 0, 4, "c", 1);
    is_channel(&k, "head.weight", 1, 2, "c", 2);
    kd_context_free(k.cx);
}

static void test_linear(void **state) { /* a transposed convolution, flattened, into a linear layer */
    (void)state;
    Case k = analyse("func @f {\n" X3 W("%a", "a.weight", "3, 2, 1, 1") W("%l", "l.weight", "5, 32") W("%m", "m.weight", "2, 5")
                     "  %1 = conv_transpose2d(%x, %a): f32[1, 2, 4, 4]\n  %2 = reshape(%1) {shape=[1, 32]}: f32[1, 32]\n"
                     "  %3 = transpose(%l) {perm=[1, 0]}: f32[32, 5]\n  %4 = matmul(%2, %3): f32[1, 5]\n"
                     "  %5 = matmul(%4, %m) {tb=1}: f32[1, 2]\n  output \"out\" = %5\n}\n");
    may_go(&k, "a", 2);
    may_go(&k, "l", 5);
    stays(&k, "m", "gives back");
    is_channel(&k, "a.weight", 1, 1, "a", 1);
    is_channel(&k, "l.weight", 1, 15, "a", 0);
    is_channel(&k, "l.weight", 1, 16, "a", 1);
    is_channel(&k, "l.weight", 0, 3, "l", 3);
    is_channel(&k, "m.weight", 1, 3, "l", 3);
    kd_context_free(k.cx);
}

static void test_what_stays(void **state) {
    (void)state;
    /* added to the input; taken apart by a reshape; convolved in two groups */
    Case k = analyse("func @f {\n" X3 W("%a", "a.weight", "3, 3, 1, 1") W("%b", "b.weight", "4, 3, 1, 1") W("%c", "c.weight", "4, 2, 1, 1")
                     W("%d", "d.weight", "6, 4, 1, 1") W("%e", "e.weight", "4, 2, 1, 1") CONV("%1", "%x", "%a", "3") "  %2 = add(%x, %1): f32[1, 3, 4, 4]\n" CONV("%3", "%2", "%b", "4")
                     "  %4 = reshape(%3) {shape=[2, 2, 4, 4]}: f32[2, 2, 4, 4]\n  %5 = conv2d(%4, %e): f32[2, 4, 4, 4]\n"
                     "  %6 = conv2d(%5, %d): f32[2, 6, 4, 4]\n  %7 = conv2d(%5, %c) {groups=2}: f32[2, 4, 4, 4]\n"
                     "  output \"out\" = %6\n  output \"out2\" = %7\n}\n");
    stays(&k, "a", "what the network is given");
    stays(&k, "b", "reshape");
    stays(&k, "e", "in groups");
    kd_context_free(k.cx);
}

static void test_fit(void **state) {
    (void)state;
    Case k = analyse(RESIDUAL("5", "6"));
    KdContext *other = kd_context_new();
    KdStr why = {.cx = k.cx};
    int count[3];
    assert_true(kd_channels_fit(k.c, parse(other, RESIDUAL("3", "2")), count, &why));
    assert_int_equal(count[number(&k, "stem")], 3);
    assert_int_equal(count[number(&k, "a")], 2);
    assert_int_equal(count[number(&k, "head")], 3);
    assert_false(kd_channels_fit(k.c, parse(other, RESIDUAL("7", "2")), count, &why));
    assert_non_null(strstr(why.s, "more channels than there are"));
    /* without the block: its inner channels are gone */
    why = (KdStr){.cx = k.cx};
    assert_true(kd_channels_fit(k.c, parse(other, "func @f {\n" X3 W("%w", "stem.weight", "2, 3, 1, 1") W("%h", "head.weight", "3, 2, 1, 1")
                                                  CONV("%1", "%x", "%w", "2") CONV("%2", "%1", "%h", "3") "  output \"out\" = %2\n}\n"), count, &why));
    assert_int_equal(count[number(&k, "stem")], 2);
    assert_int_equal(count[number(&k, "a")], 0);
    /* what no narrower layer could be */
    static const struct { const char *text, *why; } bad[] = {
        {"func @f {\n" X3 W("%w", "stem.weight", "2, 3, 1, 1") W("%h", "head.weight", "3, 3, 1, 1")
         "  output \"out\" = %x\n}\n", "does not fit the layers before it"},
        {"func @f {\n" X3 W("%w", "stem.weight", "2, 2, 1, 1") "  output \"out\" = %x\n}\n", "no channels are there"},
        {"func @f {\n" X3 W("%w", "stem.weight", "2, 3") "  output \"out\" = %x\n}\n", "no narrower layer"},
        {"func @f {\n" X3 W("%w", "new.weight", "2") "  output \"out\" = %x\n}\n", "which the network does not have"},
    };
    for (int i = 0; i < KD_COUNT(bad); i++) {
        why = (KdStr){.cx = k.cx};
        assert_false(kd_channels_fit(k.c, parse(other, bad[i].text), count, &why));
        if (!strstr(why.s, bad[i].why)) {
            fail_msg("%s, expected '%s'", why.s, bad[i].why);
        }
    }
    kd_context_free(other);
    kd_context_free(k.cx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residual), cmocka_unit_test(test_concat_and_slice), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_what_stays), cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
