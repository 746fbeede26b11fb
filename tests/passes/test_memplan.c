/* test_memplan.c: plans by their results: functions whose outputs update inputs in all sorts of ways, executed as loops
 * against the evaluator; and by their shape: values alive together do not share memory, and offsets are aligned. */
#include "tests/passes/lower_harness.h"
#include "passes/fuse.h"

#define IN(n, name, size) "%" #n " = input {name=\"" name "\", role=\"state\"}: f32[" #size "]\n"

static const struct Case { const char *name, *body; } cases[] = {
    {"an update in place", IN(0, "w", 40) IN(1, "g", 40) "%2 = sub(%0, %1): f32[40]\noutput \"w\" = %2 updates %0\n"},
    {"the old value is read later", IN(0, "w", 40) "%1 = exp(%0): f32[40]\n%2 = sum(%1) {axes=[0]}: f32[1]\n"
     "%3 = broadcast(%2) {shape=[40]}: f32[40]\n%4 = mul(%0, %3): f32[40]\noutput \"w\" = %1 updates %0\noutput \"y\" = %4\n"},
    {"the new value is read elsewhere", IN(0, "w", 40) "%1 = pad(%0) {lo=[3], hi=[-3], interior=[0]}: f32[40]\noutput \"w\" = %1 updates %0\n"},
    {"transposed over itself", "%0 = input {name=\"w\"}: f32[7, 7]\n%1 = transpose(%0) {perm=[1, 0]}: f32[7, 7]\n"
     "output \"w\" = %1 updates %0\n"},
    {"a sum over itself", IN(0, "w", 40) "%1 = sum(%0) {axes=[0]}: f32[1]\n%2 = broadcast(%1) {shape=[40]}: f32[40]\n"
     "%3 = sub(%0, %2): f32[40]\noutput \"w\" = %3 updates %0\n"},
    {"inputs trade places", IN(0, "a", 9) IN(1, "b", 9) "output \"a\" = %1 updates %0\noutput \"b\" = %0 updates %1\n"},
    {"three in a circle, and one who looks on", IN(0, "a", 9) IN(1, "b", 9) IN(2, "c", 9) IN(3, "d", 9)
     "output \"a\" = %1 updates %0\noutput \"b\" = %2 updates %1\noutput \"c\" = %0 updates %2\noutput \"d\" = %2 updates %3\n"
     "output \"was a\" = %0\n"},
    {"two circles", IN(0, "a", 9) IN(1, "b", 9) IN(2, "c", 5) IN(3, "d", 5)
     "output \"a\" = %1 updates %0\noutput \"b\" = %0 updates %1\noutput \"c\" = %3 updates %2\noutput \"d\" = %2 updates %3\n"},
    {"computed from each other", IN(0, "a", 40) IN(1, "b", 40) "%2 = add(%0, %1): f32[40]\n%3 = sub(%0, %1): f32[40]\n"
     "output \"a\" = %3 updates %0\noutput \"b\" = %2 updates %1\n"},
    {"crosswise", IN(0, "a", 40) IN(1, "b", 40) "%2 = exp(%0): f32[40]\n%3 = tanh(%1): f32[40]\n"
     "output \"a\" = %3 updates %0\noutput \"b\" = %2 updates %1\n"},
    {"one value for two", IN(0, "a", 40) IN(1, "b", 40) "%2 = mul(%0, %1): f32[40]\noutput \"a\" = %2 updates %0\n"
     "output \"b\" = %2 updates %1\noutput \"y\" = %2\noutput \"z\" = %2\n"},
    {"itself", IN(0, "a", 40) "output \"a\" = %0 updates %0\noutput \"y\" = %0\n"},
    {"kept, and updated", IN(0, "a", 40) "%1 = neg(%0): f32[40]\noutput \"old\" = %0\noutput \"a\" = %1 updates %0\n"},
    {"a view of an input, and of a value", IN(0, "a", 40) "%1 = reshape(%0) {shape=[8, 5]}: f32[8, 5]\n%2 = exp(%1): f32[8, 5]\n"
     "%3 = reshape(%2) {shape=[40]}: f32[40]\noutput \"view\" = %1\noutput \"a\" = %3 updates %0\n"},
    {"a constant", IN(0, "a", 5) "%1 = const {value=2.5}: f32[5]\n%2 = literal {values=[1, 2, 3, 4, 5]}: f32[5]\n"
     "output \"a\" = %1 updates %0\noutput \"l\" = %2\noutput \"l2\" = %2\n"},
    {"a row of a pool", "%0 = input {name=\"pool\", role=\"state\"}: f32[4, 6]\n%1 = input {name=\"x\"}: f32[1, 6]\n%2 = input {name=\"i\"}: i32[]\n"
     "%3 = exp(%1): f32[1, 6]\n%4 = update_row(%0, %3, %2): f32[4, 6]\noutput \"pool\" = %4 updates %0\n"},
    {"a row of a pool that is read afterwards",
     "%0 = input {name=\"pool\", role=\"state\"}: f32[4, 6]\n%1 = input {name=\"x\"}: f32[1, 6]\n%2 = input {name=\"i\"}: i32[]\n"
     "%3 = update_row(%0, %1, %2): f32[4, 6]\n%4 = mul(%0, %3): f32[4, 6]\noutput \"pool\" = %3 updates %0\noutput \"y\" = %4\n"},
    {"a long chain with branches", IN(0, "x", 200)
     "%1 = exp(%0): f32[200]\n%2 = sum(%1) {axes=[0]}: f32[1]\n%3 = broadcast(%2) {shape=[200]}: f32[200]\n%4 = div(%1, %3): f32[200]\n"
     "%5 = max(%4) {axes=[0]}: f32[1]\n%6 = broadcast(%5) {shape=[200]}: f32[200]\n%7 = sub(%4, %6): f32[200]\n%8 = tanh(%7): f32[200]\n"
     "%9 = sum(%8) {axes=[0]}: f32[1]\n%10 = broadcast(%9) {shape=[200]}: f32[200]\n%11 = mul(%10, %1): f32[200]\n"
     "%12 = add(%11, %8): f32[200]\noutput \"x\" = %12 updates %0\noutput \"s\" = %2\n"},
};

static KdFunc *parse(KdContext *cx, const struct Case *c) {
    const char *text = kd_format(cx, "func @f {\n%s}\n", c->body);
    KdModule *m = kd_parse_module(cx, c->name, text, strlen(text));
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    return m->funcs.v[0];
}

static void by_results(void **state) {
    static const LhOptions options[] = {{.fuse = true}, {.fuse = false}, {.fuse = true, .lanes = 16}, {.fuse = false, .lanes = 4}};
    KdContext *cx = kd_context_new();
    KdFunc *f = parse(cx, *state);
    for (uint64_t seed = 0; seed < 3; seed++) {
        double **in = lh_fill(f, seed), **want = lh_want(f, in);
        for (int k = 0; k < KD_COUNT(options); k++) {
            const char *wrong = lh_check(f, in, want, &options[k]);
            if (wrong) fail_msg("%s", wrong);
        }
    }
    kd_context_free(cx);
}

/* First and last group in which v's memory matters. */
static void life(const KdFusion *fu, KdValue v, int *from, int *to) {
    *from = fu->group[v];
    *to = fu->group[v];
    for (int g = 0; g < fu->groups.n; g++) {
        const KdWalk *w = kd_group_walk(fu, g);
        for (int i = 0; i < w->touch.n; i++)
            if (w->touch.v[i].load && w->touch.v[i].v == v) *to = g;
    }
    for (int k = 0; k < fu->f->outputs.n; k++) {
        KdValue o = fu->f->outputs.v[k].value;
        if (o == v || fu->alias[o] == v) *to = fu->groups.n;
    }
}

/* Two values in the arena whose bytes meet: one dies no later than the other is born, and if in the same group, then
 * the other is written element by element over it. */
static void by_shape(void **state) {
    KdContext *cx = kd_context_new();
    KdFunc *f = parse(cx, *state);
    for (int fuse = 0; fuse < 2; fuse++) {
        KdPassOptions o = {.machine = lh_machine(16), .fuse = fuse};
        KdFusion *fu = kd_fuse(f, &o);
        const KdMemPlan *p = kd_memplan(fu);
        assert_true(p->arena <= p->naive + 64 * f->outputs.n);
        for (KdValue v = 0; v < f->n; v++) {
            if (!fu->stored[v] || fu->group[v] < 0 || p->place[v].kind != KL_ARG_ARENA) continue;
            int64_t at = p->place[v].offset, end = at + kd_vtype(f, v)->count * 4;
            assert_int_equal(at % 64, 0);
            assert_true(end <= p->arena);
            int born, died, other_born, other_died;
            life(fu, v, &born, &died);
            for (KdValue u = 0; u < f->n; u++) {
                if (u == v || !fu->stored[u] || fu->group[u] < 0 || p->place[u].kind != KL_ARG_ARENA) continue;
                if (p->place[u].offset >= end || p->place[u].offset + kd_vtype(f, u)->count * 4 <= at) continue;
                life(fu, u, &other_born, &other_died);
                assert_true(died <= other_born || other_died <= born);
                if (died == other_born) assert_true(kd_group_reads_only_at_index(fu, died, v));
            }
        }
    }
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest t[2 * KD_COUNT(cases)];
    for (int k = 0; k < KD_COUNT(cases); k++) {
        t[2 * k] = (struct CMUnitTest){cases[k].name, by_results, NULL, NULL, (void *)&cases[k]};
        t[2 * k + 1] = (struct CMUnitTest){cases[k].name, by_shape, NULL, NULL, (void *)&cases[k]};
    }
    return _cmocka_run_group_tests("memplan", t, 2 * KD_COUNT(cases), NULL, NULL);
}
