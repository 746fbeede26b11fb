/* The loop builder: what is folded (as printed text), what is shared and lifted, and, over random expressions, that
 * folding and bounds are right: every value is what plain C arithmetic gives, and inside its bounds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ir/loop.h"
#include "ir/random_bits.h"

enum { ROWS = 12, COLS = 40 };

/* ---- folding, case by case: what is stored at z[p * COLS + i] ---------------------------------------- */

typedef struct Case {
    const char *name;
    KlValue (*emit)(KlBuilder *b, KlValue p, KlValue i); /* p in 0..11, i in 0..39; an i64 */
    const char *want; /* the lines of the loop that make it, without indent; "" for a constant or a variable */
    const char *value; /* what is stored; NULL: not looked at */
} Case;

static KlValue c64(KlBuilder *b, int64_t c) { return kl_i64(b, c); }
static KlValue add(KlBuilder *b, KlValue x, KlValue y) { return kl_op2(b, KL_OP_ADD, x, y); }
static KlValue sub(KlBuilder *b, KlValue x, KlValue y) { return kl_op2(b, KL_OP_SUB, x, y); }
static KlValue mul(KlBuilder *b, KlValue x, int64_t c) { return kl_op2(b, KL_OP_MUL, x, c64(b, c)); }
static KlValue quo(KlBuilder *b, KlValue x, int64_t c) { return kl_op2(b, KL_OP_DIV, x, c64(b, c)); }
static KlValue rem(KlBuilder *b, KlValue x, int64_t c) { return kl_op2(b, KL_OP_REM, x, c64(b, c)); }
static KlValue plus(KlBuilder *b, KlValue x, int64_t c) { return add(b, x, c64(b, c)); }
static KlValue linear(KlBuilder *b, KlValue p, KlValue i) { return add(b, mul(b, p, COLS), i); }

#define EXPR(name, expr) static KlValue name(KlBuilder *b, KlValue p, KlValue i) { (void)p; (void)i; return expr; }
EXPR(zero_added, add(b, plus(b, i, 0), c64(b, 0)))
EXPR(constants, add(b, c64(b, 2), mul(b, c64(b, 3), 4)))
EXPR(constants_meet, plus(b, plus(b, i, 3), 4))
EXPR(constants_cancel, plus(b, sub(b, i, c64(b, 3)), 3))
EXPR(products_meet, mul(b, mul(b, i, 3), 4))
EXPR(product_zero, mul(b, i, 0))
EXPR(product_of_sum, mul(b, plus(b, i, 1), 4))
EXPR(quotient_of_product, quo(b, mul(b, i, 7), 7))
EXPR(remainder_of_product, rem(b, mul(b, i, 21), 7))
EXPR(quotient_small, quo(b, i, 40))
EXPR(remainder_small, rem(b, i, 40))
EXPR(row_of_linear, quo(b, linear(b, p, i), COLS))
EXPR(column_of_linear, rem(b, linear(b, p, i), COLS))
EXPR(linear_again, linear(b, quo(b, linear(b, p, i), COLS), rem(b, linear(b, p, i), COLS)))
EXPR(split_joined, add(b, mul(b, quo(b, i, 8), 8), rem(b, i, 8)))
static KlValue split_three(KlBuilder *b, KlValue p, KlValue i) { /* [?, 5, 4, 2] taken apart and put together */
    KlValue l = linear(b, p, i), row = rem(b, quo(b, l, 8), 5), col = rem(b, quo(b, l, 2), 4);
    return add(b, mul(b, quo(b, l, 40), 40), add(b, mul(b, row, 8), add(b, mul(b, col, 2), rem(b, l, 2))));
}
EXPR(quotients_meet, quo(b, quo(b, i, 3), 5))
EXPR(remainders_meet, rem(b, rem(b, i, 20), 5))
EXPR(quotient_partly, quo(b, add(b, mul(b, p, 16), i), 8))
EXPR(quotient_scaled, quo(b, plus(b, mul(b, i, 4), 3), 8))
EXPR(min_decided, kl_op2(b, KL_OP_MIN, i, c64(b, 39)))
EXPR(max_decided, kl_op2(b, KL_OP_MAX, plus(b, i, 1), c64(b, 0)))
EXPR(clamp_needed, kl_op2(b, KL_OP_MAX, kl_op2(b, KL_OP_MIN, i, c64(b, 38)), c64(b, 0)))
EXPR(select_decided, kl_select(b, kl_cmp(b, KL_LT, i, c64(b, 40)), i, p))
EXPR(select_equal, kl_select(b, kl_cmp(b, KL_LT, i, c64(b, 4)), p, p))
EXPR(abs_decided, kl_op1(b, KL_OP_ABS, i))
EXPR(difference, sub(b, add(b, i, p), p))
EXPR(lifted, add(b, quo(b, p, 3), i))
EXPR(shared, add(b, mul(b, i, 3), mul(b, i, 3)))
EXPR(there_and_back, kl_cvt(b, KL_I64, kl_cvt(b, KL_I32, i)))

static const Case cases[] = {
    {"x + 0", zero_added, "", "%i"},
    {"constants", constants, "", "14"},
    {"(x + 3) + 4", constants_meet, "add i64 %i, 7\n", NULL},
    {"(x - 3) + 3", constants_cancel, "", "%i"},
    {"(x * 3) * 4", products_meet, "mul i64 %i, 12\n", NULL},
    {"x * 0", product_zero, "", "0"},
    {"(x + 1) * 4", product_of_sum, "mul i64 %i, 4\nadd i64 %, 4\n", NULL},
    {"(x * 7) / 7", quotient_of_product, "", "%i"},
    {"(x * 21) % 7", remainder_of_product, "", "0"},
    {"x / 40, x < 40", quotient_small, "", "0"},
    {"x % 40, x < 40", remainder_small, "", "%i"},
    {"(p * 40 + i) / 40", row_of_linear, "", "%p"},
    {"(p * 40 + i) % 40", column_of_linear, "", "%i"},
    {"linear(unlinear)", linear_again, "add i64 %lifted, %i\n", NULL},
    {"(x / 8) * 8 + x % 8", split_joined, "", "%i"},
    {"three dims and back", split_three, "add i64 %lifted, %i\n", NULL},
    {"(x / 3) / 5", quotients_meet, "div i64 %i, 15\n", NULL},
    {"(x % 20) % 5", remainders_meet, "rem i64 %i, 5\n", NULL},
    {"(p * 16 + i) / 8", quotient_partly, "div i64 %i, 8\nadd i64 %lifted, %\n", NULL},
    {"(i * 4 + 3) / 8", quotient_scaled, "div i64 %i, 2\n", NULL},
    {"min(i, 39)", min_decided, "", "%i"},
    {"max(i + 1, 0)", max_decided, "add i64 %i, 1\n", NULL},
    {"clamp that is needed", clamp_needed, "min i64 %i, 38\n", NULL},
    {"select by a known bound", select_decided, "", "%i"},
    {"select of equals", select_equal, "", "%p"},
    {"|i|", abs_decided, "", "%i"},
    {"(i + p) - p", difference, "", "%i"},
    {"invariants leave the loop", lifted, "add i64 %lifted, %i\n", NULL},
    {"equal instructions are one", shared, "mul i64 %i, 3\nadd i64 %, %\n", NULL},
    {"i64 to i32 and back", there_and_back, "", "%i"},
};

/* The lines of the inner loop but the last two (conversion, store), with values named by what they are. */
static void inner_lines(KdStr *out, const KlKernel *k, char *stored) {
    KdStr s = {.cx = k->cx};
    kl_print_kernel(&s, k);
    char *from = strstr(s.s, " step 1 {\n"), *end = strstr(s.s, "\n    }\n");
    assert_non_null(from);
    assert_non_null(end);
    char *var = from;
    while (*var != '%' || strncmp(var - 4, "for ", 4)) var--;
    int i = atoi(var + 1);
    end[1] = 0;
    kd_str_add(out, "", 0);
    for (char *line = from + 10; *line; line = strchr(line, '\n') + 1) {
        char *eq = strstr(line, " = "), *stop = strchr(line, '\n');
        bool store = !strncmp(line + 6, "store", 5);
        if (!store) line = eq + 3;
        for (char *c = store ? strchr(line, ']') + 3 : line; c < stop; c++) {
            int n = *c == '%' ? atoi(c + 1) : -1;
            char one[16];
            if (n < 0) snprintf(one, sizeof one, "%c", *c);
            else snprintf(one, sizeof one, "%s", n == i ? "%i" : n == 0 ? "%p" : n < i ? "%lifted" : "%");
            while (n >= 0 && c[1] >= '0' && c[1] <= '9') c++;
            if (store) strcat(stored, one);
            else kd_str_add(out, one, strlen(one));
        }
        if (!store) kd_str_add(out, "\n", 1);
    }
}

static KdContext *start(KdLanding *landing) {
    (void)landing;
    KdContext *cx = kd_context_new();
    assert_non_null(cx);
    return cx;
}

static void failed(KdContext *cx) {
    const char *message;
    kd_failure(cx, &message);
    fail_msg("%s", message);
}

static void test_case(void **state) {
    const Case *c = *state;
    KdLanding landing;
    KdContext *cx = start(&landing);
    if (KD_TRY(cx, landing)) {
        KlKernel *k = kl_kernel_new(cx, c->name, ROWS);
        int buf = kl_buf(k, "z", KL_I32, ROWS * COLS, KL_OUT);
        KlBuilder b = kl_builder(k);
        KlFor l = kl_for_begin(&b, c64(&b, 0), c64(&b, COLS), 1, 0, NULL);
        KlValue v = c->emit(&b, kl_parallel_index(k), l.i);
        kl_store(&b, buf, v, kl_i32(&b, 0)); /* as an index, so that no conversion is in the way */
        kl_for_end(&b, &l, NULL, NULL);
        kl_sweep(k);
        KdStr s = {.cx = cx}, text = {.cx = cx};
        kl_print_kernel(&text, k);
        char stored[64] = "", value[64];
        inner_lines(&s, k, stored);
        const char *open = strstr(text.s, "z["), *shut = open ? strchr(open, ']') : NULL;
        assert_non_null(shut);
        snprintf(value, sizeof value, "%.*s", (int)(shut - open - 2), open + 2);
        if (!strcmp(value, "%0")) strcpy(value, "%p");
        else if (value[0] == '%' && !*c->want) strcpy(value, "%i");
        if (strcmp(s.s, c->want) || (c->value && strcmp(value, c->value)))
            fail_msg("%s: want\n%s(stored: %s), got\n%s(stored: %s)\n%s", c->name, c->want, c->value ? c->value : "?", s.s, value, text.s);
        kd_landing_pop(cx);
    } else {
        failed(cx);
    }
    kd_context_free(cx);
}

/* ---- random expressions against C ------------------------------------------------------------------------ */

typedef struct Node { int op; int a, b, c; int64_t k; bool wide; KlValue v; } Node; /* op -1: constant, -2: p, -3: i, -4: loaded, -5: cvt */

typedef struct Expr { Node n[64]; int count; uint32_t seed, drawn; } Expr;

static uint32_t draw(Expr *e, uint32_t below) {
    return kd_random_bits(e->seed, e->drawn++) % below;
}

static int push(Expr *e, Node n) {
    e->n[e->count] = n;
    return e->count++;
}

/* An earlier node of that type: recent ones more often. */
static int pick(Expr *e, bool wide) {
    for (int tries = 0; tries < 200; tries++) {
        int j = draw(e, 2) ? e->count - 1 - (int)draw(e, e->count < 5 ? (uint32_t)e->count : 5) : (int)draw(e, (uint32_t)e->count);
        if (e->n[j].wide == wide) return j;
    }
    return wide ? 0 : 2;
}

static void grow(Expr *e) {
    static const int ops[] = {KL_OP_ADD, KL_OP_ADD, KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_MUL, KL_OP_DIV, KL_OP_DIV, KL_OP_REM, KL_OP_REM,
                              KL_OP_MIN, KL_OP_MAX, KL_OP_AND, KL_OP_OR, KL_OP_XOR, KL_OP_SHL, KL_OP_SHR, KL_OP_NEG, KL_OP_ABS, KL_OP_SELECT};
    static const int64_t ks[] = {1, 2, 3, 4, 5, 8, 12, 16, 40, 64, 160, 480, 0, -1, -2, -8, INT32_MAX, INT32_MIN, 7, 24};
    bool wide = draw(e, 4) != 0;
    if (draw(e, 12) == 0) {
        push(e, (Node){.op = -5, .a = pick(e, !wide), .wide = wide});
        return;
    }
    Node n = {.op = ops[draw(e, KD_COUNT(ops))], .a = pick(e, wide), .wide = wide};
    int64_t k = ks[draw(e, KD_COUNT(ks))];
    bool divides = n.op == KL_OP_DIV || n.op == KL_OP_REM, shifts = n.op == KL_OP_SHL || n.op == KL_OP_SHR;
    if (divides && k == 0) k = 10;
    if (shifts) k = (int64_t)draw(e, wide ? 40 : 31);
    n.k = (int64_t)draw(e, 6); /* the predicate of a select */
    n.b = divides || shifts || draw(e, 2) ? push(e, (Node){.op = -1, .k = k, .wide = wide}) : pick(e, wide);
    n.c = n.op == KL_OP_SELECT ? pick(e, wide) : 0;
    push(e, n);
}

static KlValue build(Expr *e, KlBuilder *b, int buf, KlValue p, KlValue i) {
    for (int j = 0; j < e->count; j++) {
        Node *n = &e->n[j];
        KlValue x = e->n[n->a].v, y = e->n[n->b].v;
        if (n->op == -1) n->v = n->wide ? kl_i64(b, n->k) : kl_i32(b, (int32_t)n->k);
        else if (n->op == -2) n->v = p;
        else if (n->op == -3) n->v = i;
        else if (n->op == -4) n->v = kl_load(b, buf, i, 1);
        else if (n->op == -5) n->v = kl_cvt(b, n->wide ? KL_I64 : KL_I32, x);
        else if (n->op == KL_OP_NEG || n->op == KL_OP_ABS) n->v = kl_op1(b, (KlOp)n->op, x);
        else if (n->op == KL_OP_SELECT) n->v = kl_select(b, kl_cmp(b, (KlPred)n->k, x, y), x, e->n[n->c].v);
        else n->v = kl_op2(b, (KlOp)n->op, x, y);
    }
    return e->n[e->count - 1].v;
}

static int64_t wrap(bool wide, uint64_t v) {
    return wide ? (int64_t)v : (int32_t)(uint32_t)v;
}

static int64_t plain(int op, bool wide, int64_t x, int64_t y) {
    uint64_t ux = (uint64_t)x, uy = (uint64_t)y;
    if (op == KL_OP_ADD) return wrap(wide, ux + uy);
    if (op == KL_OP_SUB) return wrap(wide, ux - uy);
    if (op == KL_OP_MUL) return wrap(wide, ux * uy);
    if (op == KL_OP_DIV) return y == -1 ? wrap(wide, 0 - ux) : x / y;
    if (op == KL_OP_REM) return y == -1 ? 0 : x % y;
    if (op == KL_OP_MIN) return x < y ? x : y;
    if (op == KL_OP_MAX) return x > y ? x : y;
    if (op == KL_OP_AND) return x & y;
    if (op == KL_OP_OR) return x | y;
    if (op == KL_OP_XOR) return x ^ y;
    if (op == KL_OP_SHL) return wrap(wide, ux << y);
    if (op == KL_OP_SHR) return wide ? (int64_t)(ux >> y) : (int32_t)((uint32_t)ux >> y);
    if (op == KL_OP_NEG) return wrap(wide, 0 - ux);
    return x < 0 ? wrap(wide, 0 - ux) : x; /* abs */
}

static bool holds(int pred, int64_t x, int64_t y) {
    return pred == KL_EQ ? x == y : pred == KL_NE ? x != y : pred == KL_LT ? x < y : pred == KL_LE ? x <= y : pred == KL_GT ? x > y : x >= y;
}

static int64_t evaluate(const Expr *e, int64_t *r, const int32_t *loaded, int64_t p, int64_t i) {
    for (int j = 0; j < e->count; j++) {
        const Node *n = &e->n[j];
        if (n->op == -1) r[j] = wrap(n->wide, (uint64_t)n->k);
        else if (n->op == -2) r[j] = p;
        else if (n->op == -3) r[j] = i;
        else if (n->op == -4) r[j] = loaded[i];
        else if (n->op == -5) r[j] = wrap(n->wide, (uint64_t)r[n->a]);
        else if (n->op == KL_OP_SELECT) r[j] = holds((int)n->k, r[n->a], r[n->b]) ? r[n->a] : r[n->c];
        else r[j] = plain(n->op, n->wide, r[n->a], r[n->b]);
    }
    return r[e->count - 1];
}

static void check_expr(uint32_t seed) {
    KdLanding landing;
    KdContext *cx = start(&landing);
    static Expr e;
    e = (Expr){.seed = seed};
    push(&e, (Node){.op = -2, .wide = true});
    push(&e, (Node){.op = -3, .wide = true});
    push(&e, (Node){.op = -4, .wide = false});
    int steps = 4 + (int)draw(&e, 20);
    for (int j = 0; j < steps; j++) grow(&e);
    static int32_t loaded[COLS], low[ROWS * COLS], high[ROWS * COLS];
    for (int j = 0; j < COLS; j++) loaded[j] = j % 3 ? j - 20 : (int32_t)kd_random_bits(seed, (uint32_t)j + 1000);
    if (!KD_TRY(cx, landing)) failed(cx);
    KlModule *m = kl_module_new(cx, "t");
    KlKernel *k = kl_kernel_new(cx, "expression", ROWS);
    kl_buf(k, "n", KL_I32, COLS, KL_IN);
    kl_buf(k, "low", KL_I32, ROWS * COLS, KL_OUT);
    kl_buf(k, "high", KL_I32, ROWS * COLS, KL_OUT);
    KlBuilder b = kl_builder(k);
    KlValue p = kl_parallel_index(k);
    KlFor l = kl_for_begin(&b, c64(&b, 0), c64(&b, COLS), 1, 0, NULL);
    KlValue v = build(&e, &b, 0, p, l.i), at = linear(&b, p, l.i);
    int64_t lo, hi, bounds[64][2], r[64];
    for (int j = 0; j < e.count; j++) kl_range(&b, e.n[j].v, &bounds[j][0], &bounds[j][1]);
    v = kl_cvt(&b, KL_I64, v);
    kl_store(&b, 1, at, kl_cvt(&b, KL_I32, v));
    kl_store(&b, 2, at, kl_cvt(&b, KL_I32, kl_op2(&b, KL_OP_SHR, v, c64(&b, 32))));
    kl_for_end(&b, &l, NULL, NULL);
    kl_range(&b, v, &lo, &hi);
    KlCall call = {kl_module_add(m, k), NULL};
    KlArg *args = KD_NEW_ARRAY(cx, KlArg, 3);
    for (int j = 0; j < 3; j++) {
        KlExtern x = {"e", KL_I32, j ? ROWS * COLS : COLS, j > 0};
        args[j].index = j;
        kd_push(cx, &m->externs, x);
    }
    call.args = args;
    kd_push(cx, &m->calls, call);
    KdStr why = {.cx = cx}, text = {.cx = cx};
    void *ext[3] = {loaded, low, high};
    kl_print_kernel(&text, k);
    if (!kl_eval(m, ext, &why)) fail_msg("seed %u: %s\n%s", seed, why.s, text.s);
    for (int64_t row = 0; row < ROWS; row++) {
        for (int64_t i = 0; i < COLS; i++) {
            int64_t want = evaluate(&e, r, loaded, row, i);
            int64_t got = (int64_t)((uint64_t)(uint32_t)high[row * COLS + i] << 32 | (uint32_t)low[row * COLS + i]);
            if (got != want) fail_msg("seed %u: at %lld, %lld: %lld, not %lld\n%s", seed, (long long)row, (long long)i, (long long)got, (long long)want, text.s);
            for (int j = 0; j < e.count; j++)
                if (r[j] < bounds[j][0] || r[j] > bounds[j][1]) fail_msg("seed %u: value %d: bounds\n%s", seed, j, text.s);
        }
    }
    kd_landing_pop(cx);
    kd_context_free(cx);
}

static void test_random(void **state) {
    (void)state;
    for (uint32_t seed = 0; seed < 1500; seed++) check_expr(seed);
}

/* ---- floats, loads, loops, kernels --------------------------------------------------------------------------- */

static void test_floats(void **state) {
    (void)state;
    KdLanding landing;
    KdContext *cx = start(&landing);
    if (!KD_TRY(cx, landing)) failed(cx);
    KlKernel *k = kl_kernel_new(cx, "floats", 1);
    int x = kl_buf(k, "x", KL_F32, 4, KL_IN);
    KlBuilder b = kl_builder(k);
    KlValue v = kl_load(&b, x, c64(&b, 0), 1);
    assert_int_equal(kl_op2(&b, KL_OP_MUL, v, kl_f32(&b, 1)), v);
    assert_int_equal(kl_op2(&b, KL_OP_DIV, v, kl_f32(&b, 1)), v);
    assert_int_equal(kl_op2(&b, KL_OP_SUB, v, kl_f32(&b, 0)), v);
    assert_int_equal(kl_op2(&b, KL_OP_ADD, v, kl_f32(&b, -0.0)), v);
    assert_int_not_equal(kl_op2(&b, KL_OP_ADD, v, kl_f32(&b, 0)), v);   /* -0 + 0 is 0 */
    assert_int_not_equal(kl_op2(&b, KL_OP_SUB, v, kl_f32(&b, -0.0)), v);
    assert_int_not_equal(kl_op2(&b, KL_OP_MUL, v, kl_f32(&b, 0)), kl_f32(&b, 0)); /* NaN * 0 */
    assert_int_equal(kl_op1(&b, KL_OP_NEG, kl_op1(&b, KL_OP_NEG, v)), v);
    assert_int_equal(kl_op2(&b, KL_OP_ADD, kl_f32(&b, 0.1), kl_f32(&b, 0.2)), kl_f32(&b, (double)(0.1f + 0.2f)));
    assert_int_not_equal(kl_f32(&b, 0), kl_f32(&b, -0.0));
    KlValue v4 = kl_splat(&b, 4, v);
    assert_int_equal(kl_extract(&b, v4, 3), v);
    assert_int_equal(kl_op2(&b, KL_OP_MUL, v4, kl_f32(&b, 1)), v4); /* the scalar is splat */
    assert_int_equal(kl_vtype(k, kl_fma(&b, v, v4, v)).lanes, 4);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

static void test_loads_and_loops(void **state) {
    (void)state;
    KdLanding landing;
    KdContext *cx = start(&landing);
    if (!KD_TRY(cx, landing)) failed(cx);
    KlKernel *k = kl_kernel_new(cx, "loads", 4);
    int x = kl_buf(k, "x", KL_F32, 4, KL_IN), y = kl_buf(k, "x", KL_F32, 4, KL_INOUT);
    assert_string_not_equal(k->bufs.v[0].name, k->bufs.v[1].name);
    KlBuilder b = kl_builder(k);
    KlValue p = kl_parallel_index(k), in = kl_load(&b, x, p, 1), io = kl_load(&b, y, p, 1);
    assert_int_equal(kl_load(&b, x, p, 1), in);
    assert_int_equal(kl_load(&b, y, p, 1), io);
    kl_store(&b, y, p, in);
    assert_int_equal(kl_load(&b, x, p, 1), in);
    assert_int_not_equal(kl_load(&b, y, p, 1), io); /* written in between */
    /* one trip dissolves, none leaves the initial values, a false if leaves nothing */
    KlValue init[1] = {in}, out[1];
    KlFor one = kl_for_begin(&b, c64(&b, 3), c64(&b, 5), 2, 1, init);
    int64_t c;
    assert_true(kl_is_const(&b, one.i, &c) && c == 3);
    KlValue next[1] = {kl_op2(&b, KL_OP_ADD, one.carried[0], io)};
    kl_for_end(&b, &one, next, out);
    assert_int_equal(out[0], next[0]);
    KlFor none = kl_for_begin(&b, c64(&b, 3), c64(&b, 3), 1, 1, init);
    next[0] = kl_op2(&b, KL_OP_MUL, none.carried[0], io);
    kl_for_end(&b, &none, next, out);
    assert_int_equal(out[0], in);
    KlIf never = kl_if_begin(&b, kl_cmp(&b, KL_GT, p, c64(&b, 3)));
    kl_store(&b, y, c64(&b, 0), in);
    kl_if_end(&b, &never);
    KlFor loop = kl_for_begin(&b, c64(&b, 0), p, 3, 0, NULL);
    int64_t lo, hi;
    kl_range(&b, loop.i, &lo, &hi);
    assert_int_equal(lo, 0);
    assert_int_equal(hi, 2);
    kl_for_end(&b, &loop, NULL, NULL);
    kl_sweep(k);
    KdStr s = {.cx = cx};
    kl_print_kernel(&s, k);
    assert_string_equal(s.s, "kernel @k range 4 \"loads\" {\n  buf x: f32[4] in\n  buf x.1: f32[4] inout\n  body(%0) {\n    %1 = load f32 x[%0]\n"
                             "    store f32 x.1[%0], %1\n  }\n}\n");
    kd_landing_pop(cx);
    kd_context_free(cx);
}

static KlKernel *small_kernel(KdContext *cx, const char *what, const char *buf, double c) {
    KlKernel *k = kl_kernel_new(cx, what, 4);
    int y = kl_buf(k, buf, KL_F32, 4, KL_OUT);
    KlBuilder b = kl_builder(k);
    kl_store(&b, y, kl_parallel_index(k), kl_f32(&b, c));
    return k;
}

static void test_equal_kernels(void **state) {
    (void)state;
    KdLanding landing;
    KdContext *cx = start(&landing);
    if (!KD_TRY(cx, landing)) failed(cx);
    KlModule *m = kl_module_new(cx, "m");
    assert_int_equal(kl_module_add(m, small_kernel(cx, "one", "y", 1)), 0);
    assert_int_equal(kl_module_add(m, small_kernel(cx, "two", "y", 2)), 1);
    assert_int_equal(kl_module_add(m, small_kernel(cx, "another", "z", 1)), 0); /* names are not part of it */
    assert_int_equal(m->kernels.n, 2);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* Misuse is our bug, and says where. */
static void test_misuse(void **state) {
    (void)state;
    KdLanding landing;
    KdContext *cx = start(&landing);
    if (KD_TRY(cx, landing)) {
        KlKernel *k = kl_kernel_new(cx, "bad", 4);
        KlBuilder b = kl_builder(k);
        kl_op2(&b, KL_OP_ADD, kl_f32(&b, 1), kl_i32(&b, 1));
        kd_landing_pop(cx);
        fail_msg("f32 + i32 was accepted");
    }
    const char *message;
    assert_int_equal(kd_failure(cx, &message), KD_FAIL_INTERNAL);
    assert_non_null(strstr(message, "add in kernel \"bad\""));
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest tests[KD_COUNT(cases) + 5];
    int n = 0;
    for (int j = 0; j < KD_COUNT(cases); j++)
        tests[n++] = (struct CMUnitTest){.name = cases[j].name, .test_func = test_case, .initial_state = (void *)&cases[j]};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_random);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_floats);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_loads_and_loops);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_equal_kernels);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_misuse);
    return _cmocka_run_group_tests("loop_build", tests, (size_t)n, NULL, NULL);
}
