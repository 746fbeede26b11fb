/* The vectoriser against the scalar loop: random bodies of index arithmetic, loads of every pattern, masked loads and
 * stores, ifs and nested loops, over loops of every length, start and step, for 4, 8 and 16 lanes. Results are equal bit
 * for bit; folds of floats to a tolerance (and which zero a maximum of zeros is). Every result is verified, and the evaluator checks every access. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ir/random_bits.h"
#include "passes/passes.h"

enum { N = 512, ROWS = 2, BUFS = 6 };
enum { X, Y, IN, U8, OUT, IOUT };

typedef struct Gen {
    KlBuilder b;
    uint32_t seed, n;
    KlValue i, row, inner;          /* i64 */
    KlValue f[24], ints[24], wide[24]; /* what there is to choose from: f32, i32, i64 */
    int nf, ni, nw;
} Gen;

static uint32_t draw(Gen *g, uint32_t below) {
    return kd_random_bits(g->seed, g->n++) % below;
}

static KlValue c64(Gen *g, int64_t c) { return kl_i64(&g->b, c); }
static KlValue op(Gen *g, KlOp o, KlValue x, KlValue y) { return kl_op2(&g->b, o, x, y); }

/* Into 0..N-1, in one of several ways. */
static KlValue in_range(Gen *g, KlValue x) {
    KlValue top = c64(g, N - 1);
    if (draw(g, 3) == 0) return op(g, KL_OP_MAX, op(g, KL_OP_MIN, x, top), c64(g, 0));
    int64_t lo, hi;
    kl_range(&g->b, x, &lo, &hi);
    if (lo >= 0 && hi < N) return x;
    x = op(g, KL_OP_REM, x, c64(g, N));
    return kl_select(&g->b, kl_cmp(&g->b, KL_LT, x, c64(g, 0)), op(g, KL_OP_ADD, x, c64(g, N)), x);
}

/* An index map as element rules write them: strides, offsets, reversals, quotients, remainders, clamps. */
static KlValue index_of(Gen *g) {
    static const int64_t factor[] = {1, 1, 1, 2, 3, -1, -2, 4, 16, 17, 0}, divisor[] = {2, 4, 16, 32, 3, 7, 64, 256};
    KlValue base = draw(g, 4) && g->nw ? g->wide[draw(g, (uint32_t)g->nw)] : g->i;
    KlValue x = op(g, KL_OP_MUL, base, c64(g, factor[draw(g, KD_COUNT(factor))]));
    if (draw(g, 2)) x = op(g, KL_OP_ADD, x, c64(g, (int64_t)draw(g, 40) - 8));
    if (draw(g, 3) == 0) x = op(g, KL_OP_SUB, c64(g, N - 1), x);
    if (draw(g, 3) == 0) x = op(g, draw(g, 2) ? KL_OP_DIV : KL_OP_REM, x, c64(g, divisor[draw(g, KD_COUNT(divisor))]));
    if (draw(g, 4) == 0) x = op(g, draw(g, 2) ? KL_OP_ADD : KL_OP_MUL, x, g->row);
    if (draw(g, 4) == 0 && g->inner != KL_NONE) x = op(g, KL_OP_ADD, x, g->inner);
    if (draw(g, 6) == 0) x = op(g, KL_OP_MAX, x, g->i);
    return x;
}

static KlValue condition(Gen *g) {
    KlPred p = (KlPred)draw(g, 6);
    if (draw(g, 2)) return kl_cmp(&g->b, p, index_of(g), c64(g, (int64_t)draw(g, 60)));
    if (draw(g, 3) == 0) return kl_cmp(&g->b, p, g->row, c64(g, 1)); /* the same in all lanes */
    return kl_cmp(&g->b, p, g->f[draw(g, (uint32_t)g->nf)], g->f[draw(g, (uint32_t)g->nf)]);
}

static void add_float(Gen *g, KlValue v) { g->f[g->nf < 24 ? g->nf++ : (int)draw(g, 24)] = v; }
static void add_int(Gen *g, KlValue v) { g->ints[g->ni < 24 ? g->ni++ : (int)draw(g, 24)] = v; }
static void add_wide(Gen *g, KlValue v) { g->wide[g->nw < 24 ? g->nw++ : (int)draw(g, 24)] = v; }

static void load_something(Gen *g) {
    KlBuilder *b = &g->b;
    int buf = (int)draw(g, 4);
    KlValue idx = in_range(g, index_of(g)), v;
    if (draw(g, 4) == 0) { /* in range only where the condition holds */
        KlValue x = index_of(g), c = kl_cmp(b, KL_GE, x, c64(g, 0));
        c = op(g, KL_OP_AND, c, kl_cmp(b, KL_LT, x, c64(g, N)));
        v = kl_load_if(b, buf, x, c, buf == IN ? kl_i32(b, 5) : buf == U8 ? kl_cvt(b, KL_U8, kl_i32(b, 7)) : g->f[draw(g, (uint32_t)g->nf)]);
    } else {
        v = kl_load(b, buf, idx, 1);
    }
    if (buf == IN) add_int(g, v);
    else if (buf == U8) add_float(g, kl_cvt(b, KL_F32, v)), add_int(g, kl_cvt(b, KL_I32, v));
    else add_float(g, v);
}

static void float_step(Gen *g) {
    static const KlOp ops[] = {KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_MIN, KL_OP_MAX};
    KlValue x = g->f[draw(g, (uint32_t)g->nf)], y = g->f[draw(g, (uint32_t)g->nf)];
    uint32_t kind = draw(g, 6);
    if (kind < 2) add_float(g, op(g, ops[draw(g, KD_COUNT(ops))], x, y));
    else if (kind == 2) add_float(g, kl_fma(&g->b, x, y, g->f[draw(g, (uint32_t)g->nf)]));
    else if (kind == 3) add_float(g, kl_select(&g->b, condition(g), x, y));
    else if (kind == 4) add_float(g, kl_op1(&g->b, draw(g, 2) ? KL_OP_NEG : KL_OP_FLOOR, x));
    else add_float(g, kl_cvt(&g->b, KL_F32, draw(g, 2) ? g->ints[draw(g, (uint32_t)g->ni)] : index_of(g)));
}

static void int_step(Gen *g) {
    static const KlOp ops[] = {KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_MIN, KL_OP_MAX, KL_OP_AND, KL_OP_OR, KL_OP_XOR};
    KlBuilder *b = &g->b;
    KlValue x = g->ints[draw(g, (uint32_t)g->ni)], y = g->ints[draw(g, (uint32_t)g->ni)];
    uint32_t kind = draw(g, 8);
    if (kind < 2) add_int(g, op(g, ops[draw(g, KD_COUNT(ops))], x, y));
    else if (kind == 2) add_int(g, op(g, draw(g, 2) ? KL_OP_SHL : KL_OP_SHR, x, kl_i32(b, (int32_t)draw(g, 31))));
    else if (kind == 3) add_int(g, op(g, draw(g, 2) ? KL_OP_DIV : KL_OP_REM, x, kl_i32(b, 1 + (int32_t)draw(g, 9))));
    else if (kind == 4) add_int(g, kl_select(b, condition(g), x, y));
    else if (kind == 5) add_int(g, kl_cvt(b, KL_I32, index_of(g)));
    else if (kind == 6) add_wide(g, op(g, ops[draw(g, 5)], kl_cvt(b, KL_I64, x), index_of(g)));
    else add_wide(g, op(g, draw(g, 2) ? KL_OP_DIV : KL_OP_REM, index_of(g), c64(g, 3)));
}

/* A divisor that is zero outside of the loop only: lanes that take no part must not divide. */
static void divide(Gen *g, KlValue hi) {
    KlValue left = op(g, KL_OP_SUB, hi, g->i);
    add_int(g, kl_cvt(&g->b, KL_I32, op(g, KL_OP_DIV, c64(g, 1000), left)));
}

static void steps(Gen *g, int n) {
    for (int j = 0; j < n; j++) {
        uint32_t kind = draw(g, 4);
        if (kind == 0) load_something(g);
        else if (kind == 1) int_step(g);
        else float_step(g);
    }
}

static void nested_loop(Gen *g) {
    KlBuilder *b = &g->b;
    int nf = g->nf, ni = g->ni, nw = g->nw;
    KlValue init[2] = {draw(g, 2) ? kl_f32(b, 1) : g->f[0], draw(g, 2) ? kl_i32(b, 3) : g->ints[0]}, out[2];
    KlFor l = kl_for_begin(b, c64(g, 0), draw(g, 2) ? c64(g, 3) : op(g, KL_OP_ADD, g->row, c64(g, 1)), 1, 2, init);
    g->inner = l.i;
    add_float(g, l.carried[0]);
    add_int(g, l.carried[1]);
    steps(g, 4);
    KlValue next[2] = {op(g, KL_OP_ADD, l.carried[0], g->f[g->nf - 1]), op(g, KL_OP_XOR, l.carried[1], g->ints[g->ni - 1])};
    kl_for_end(b, &l, next, out);
    g->inner = KL_NONE;
    g->nf = nf, g->ni = ni, g->nw = nw; /* what the loop defined is gone */
    add_float(g, out[0]);
    add_int(g, out[1]);
}

/* Stores to places that no other iteration touches: i, or far from it backwards; sometimes only where a condition holds. */
static void stores(Gen *g) {
    KlBuilder *b = &g->b;
    KlValue at = op(g, KL_OP_ADD, op(g, KL_OP_MUL, g->row, c64(g, N)), draw(g, 4) ? g->i : op(g, KL_OP_SUB, c64(g, N - 1), g->i));
    KlValue f = g->f[g->nf - 1], v = g->ints[g->ni - 1];
    uint32_t kind = draw(g, 3);
    if (kind == 0) {
        kl_store(b, OUT, at, f);
        kl_store(b, IOUT, at, v);
    } else if (kind == 1) {
        kl_store_if(b, OUT, at, f, condition(g));
        kl_store(b, IOUT, at, v);
    } else {
        KlIf c = kl_if_begin(b, condition(g));
        kl_store(b, OUT, at, op(g, KL_OP_ADD, f, kl_load(b, X, in_range(g, index_of(g)), 1)));
        KlIf c2 = kl_if_begin(b, condition(g));
        kl_store(b, IOUT, at, v);
        kl_if_end(b, &c2);
        kl_if_end(b, &c);
    }
}

typedef enum Fold { NO_FOLD, FOLD_INT, FOLD_MAX, FOLD_SUM } Fold;

static KlKernel *generate(KdContext *cx, uint32_t seed, int lanes, Fold fold) {
    KlKernel *k = kl_kernel_new(cx, "random", ROWS);
    kl_buf(k, "x", KL_F32, N, KL_IN);
    kl_buf(k, "y", KL_F32, N, KL_IN);
    kl_buf(k, "in", KL_I32, N, KL_IN);
    kl_buf(k, "u8", KL_U8, N, KL_IN);
    kl_buf(k, "out", KL_F32, ROWS * N, KL_OUT);
    kl_buf(k, "iout", KL_I32, ROWS * N, KL_OUT);
    Gen g = {.b = kl_builder(k), .seed = seed, .row = kl_parallel_index(k), .inner = KL_NONE};
    KlBuilder *b = &g.b;
    int64_t length = draw(&g, 3) ? draw(&g, 70) : draw(&g, N - 20), start = draw(&g, 3) ? 0 : (int64_t)draw(&g, 20);
    int64_t step = draw(&g, 5) ? 1 : 1 + (int64_t)draw(&g, 4);
    KlValue lo = c64(&g, start), hi = c64(&g, start + length);
    if (draw(&g, 4) == 0) hi = op(&g, KL_OP_MIN, kl_cvt(b, KL_I64, kl_load(b, IN, op(&g, KL_OP_MUL, g.row, c64(&g, 7)), 1)), c64(&g, N)); /* unknown */
    if (draw(&g, 6) == 0) lo = g.row;
    KlValue init[2] = {fold == FOLD_INT ? kl_i32(b, 11) : kl_f32(b, 0.5), fold == FOLD_INT ? kl_i32(b, -7) : kl_f32(b, -3)}, out[2];
    int n = fold ? 2 : 0;
    KlFor l = kl_for_begin(b, lo, hi, step, n, init);
    l.instr->vector = (uint16_t)lanes;
    if (fold) l.instr->fold = fold == FOLD_MAX ? KL_OP_MAX : KL_OP_ADD;
    g.i = l.i;
    add_float(&g, kl_load(b, X, in_range(&g, l.i), 1));
    add_int(&g, kl_load(b, IN, in_range(&g, l.i), 1));
    if (draw(&g, 3) == 0) divide(&g, hi);
    steps(&g, 3 + (int)draw(&g, 12));
    if (draw(&g, 3) == 0) nested_loop(&g);
    steps(&g, (int)draw(&g, 5));
    if (fold == NO_FOLD || draw(&g, 2)) stores(&g);
    KlValue next[2];
    for (int j = 0; j < n; j++) {
        KlValue v = fold == FOLD_INT ? g.ints[draw(&g, (uint32_t)g.ni)] : g.f[draw(&g, (uint32_t)g.nf)];
        if (fold == FOLD_SUM) v = op(&g, KL_OP_MIN, kl_op1(b, KL_OP_ABS, v), kl_f32(b, 4)); /* no cancellation */
        next[j] = op(&g, fold == FOLD_MAX ? KL_OP_MAX : KL_OP_ADD, l.carried[j], v);
    }
    kl_for_end(b, &l, next, out);
    for (int j = 0; j < n; j++) {
        KlValue at = op(&g, KL_OP_ADD, op(&g, KL_OP_MUL, g.row, c64(&g, N)), c64(&g, N - 2 + j));
        kl_store(b, fold == FOLD_INT ? IOUT : OUT, at, out[j]);
    }
    return k;
}

typedef struct Memory {
    float x[N], y[N], out[ROWS * N];
    int32_t in[N], iout[ROWS * N];
    uint8_t u8[N];
} Memory;

static void run(KdContext *cx, KlKernel *k, Memory *m, uint32_t seed, const char *what) {
    KlModule *mod = kl_module_new(cx, "t");
    KdStr why = {.cx = cx}, text = {.cx = cx};
    KlCall call = {0, NULL};
    KlArg *args = KD_NEW_ARRAY(cx, KlArg, BUFS);
    for (int j = 0; j < BUFS; j++) {
        KlExtern e = {k->bufs.v[j].name, k->bufs.v[j].dtype, k->bufs.v[j].count, j >= OUT};
        args[j].index = j;
        kd_push(cx, &mod->externs, e);
    }
    call.args = args;
    kd_push(cx, &mod->kernels, k);
    kd_push(cx, &mod->calls, call);
    for (uint32_t j = 0; j < N; j++) {
        m->x[j] = kd_random_uniform(kd_random_bits(1, j)) * 8 - 4;
        m->y[j] = kd_random_uniform(kd_random_bits(2, j)) * 2 - 1;
        m->in[j] = (int32_t)(kd_random_bits(3, j) % 400);
        m->u8[j] = (uint8_t)kd_random_bits(4, j);
    }
    for (int j = 0; j < ROWS * N; j++) m->out[j] = -77, m->iout[j] = -77;
    if (seed % 8 == 0) { /* what was made reads back */
        KdStr again = {.cx = cx};
        kl_print_module(&text, mod);
        KlModule *parsed = kl_parse_module(cx, "t.kl", text.s, text.n);
        if (!parsed) fail_msg("seed %u: does not parse:\n%s", seed, text.s);
        kl_print_module(&again, parsed);
        assert_string_equal(again.s, text.s);
        if (seed % 16 == 0) mod = parsed;
        text.n = 0;
    }
    void *ext[BUFS] = {m->x, m->y, m->in, m->u8, m->out, m->iout};
    if (kl_eval(mod, ext, &why)) return;
    kl_print_kernel(&text, k);
    fail_msg("seed %u, %s: %s\n%s", seed, what, why.s, text.s);
}

static bool near(float a, float b, bool exact) {
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return memcmp(&a, &b, sizeof a) == 0 || (!exact && fabsf(a - b) <= 1e-4f * (1 + fabsf(a)));
}

/* 1: the loop was widened */
static int compare(uint32_t seed, int lanes, Fold fold) {
    KdContext *cx = kd_context_new();
    KdLanding landing;
    static Memory want, got;
    if (!KD_TRY(cx, landing)) {
        const char *message;
        kd_failure(cx, &message);
        fail_msg("seed %u: %s", seed, message);
    }
    KlMachine machine = {.lanes = lanes};
    run(cx, generate(cx, seed, lanes, fold), &want, seed, "scalar");
    KlKernel *k = generate(cx, seed, lanes, fold);
    kl_vectorize(k, &machine);
    run(cx, k, &got, seed, "widened");
    KdStr text = {.cx = cx};
    kl_print_kernel(&text, k);
    char lane_text[24];
    snprintf(lane_text, sizeof lane_text, "x%d ", lanes);
    int widened = strstr(text.s, lane_text) != NULL;
    for (int j = 0; j < ROWS * N; j++) {
        bool result = j % N >= N - 2;
        if (want.iout[j] == got.iout[j] && near(want.out[j], got.out[j], !(fold && result))) continue;
        KdStr scalar = {.cx = cx};
        kl_print_kernel(&scalar, generate(cx, seed, lanes, fold));
        fail_msg("seed %u, %d lanes: element %d: f32 %a, widened %a; i32 %d, widened %d\n%s\n%s", seed, lanes, j, (double)want.out[j],
                 (double)got.out[j], want.iout[j], got.iout[j], scalar.s, text.s);
    }
    kd_landing_pop(cx);
    kd_context_free(cx);
    return widened;
}

static void test_random(void **state) {
    Fold fold = *(const Fold *)*state;
    int widened = 0, all = 0;
    for (uint32_t seed = 0; seed < 300; seed++)
        for (int lanes = 4; lanes <= 16; lanes *= 2, all++) widened += compare(seed, lanes, fold);
    print_message("%d of %d loops widened\n", widened, all);
    assert_true(widened * 2 > all); /* the test tests something */
}

/* ---- what it looks like ------------------------------------------------------------------------------------ */

typedef struct Text { const char *name, *in, *out; } Text;

#define MODULE "module @m\nkernel @k range 4 {\n  buf x: f32[256] in\n  buf y: f32[64] inout\n  body(%0) {\n"
#define END "  }\n}\n"

static const Text texts[] = {
    {"a main loop and a masked rest",
     MODULE "    for %1 = 0 .. 21 step 1 vector 8 {\n      %2 = load f32 x[%1]\n      %3 = neg f32 %2\n      store f32 y[%1], %3\n    }\n" END,
     MODULE "    for %1 = 0 .. 16 step 8 {\n      %2 = load f32x8 x[%1]\n      %3 = neg f32x8 %2\n      store f32x8 y[%1], %3\n    }\n"
            "    %4 = iota i32x8\n    %5 = cmp lt i32x8 %4, 5\n    %6 = load f32x8 x[16] if %5 else 0\n    %7 = neg f32x8 %6\n"
            "    store f32x8 y[16], %7 if %5\n" END},
    {"every second, backwards, each twice: contiguous loads and a shuffle",
     MODULE "    for %1 = 0 .. 16 step 1 vector 4 {\n      %2 = mul i64 %1, 2\n      %3 = load f32 x[%2]\n      %4 = sub i64 15, %1\n"
            "      %5 = load f32 x[%4]\n      %6 = add f32 %3, %5\n      %7 = div i64 %1, 2\n      %8 = load f32 x[%7]\n      %9 = add f32 %6, %8\n"
            "      store f32 y[%1], %9\n    }\n" END,
     MODULE "    for %1 = 0 .. 16 step 4 {\n      %2 = mul i64 %1, 2\n      %3 = load f32x4 x[%2]\n      %4 = add i64 %2, 3\n"
            "      %5 = load f32x4 x[%4]\n      %6 = shuffle f32x4 f32x4 %3, %5 [0, 2, 5, 7]\n      %7 = sub i64 15, %1\n      %8 = add i64 %7, -3\n"
            "      %9 = load f32x4 x[%8]\n      %10 = shuffle f32x4 f32x4 %9, %9 [3, 2, 1, 0]\n      %11 = add f32x4 %6, %10\n"
            "      %12 = div i64 %1, 2\n      %13 = load f32x2 x[%12]\n      %14 = shuffle f32x4 f32x2 %13, %13 [0, 0, 1, 1]\n"
            "      %15 = add f32x4 %11, %14\n      store f32x4 y[%1], %15\n    }\n" END},
    {"rows of 16 taken apart: no gather",
     MODULE "    for %1 = 0 .. 64 step 1 vector 8 {\n      %2 = div i64 %1, 16\n      %3 = rem i64 %1, 16\n      %4 = mul i64 %2, 64\n"
            "      %5 = add i64 %4, %3\n      %6 = load f32 x[%5]\n      %7 = load f32 x[%2]\n      %8 = mul f32 %6, %7\n      store f32 y[%1], %8\n    }\n" END,
     MODULE "    for %1 = 0 .. 64 step 8 {\n      %2 = div i64 %1, 16\n      %3 = rem i64 %1, 16\n      %4 = mul i64 %2, 64\n"
            "      %5 = add i64 %4, %3\n      %6 = load f32x8 x[%5]\n      %7 = load f32 x[%2]\n      %8 = splat f32x8 f32 %7\n"
            "      %9 = mul f32x8 %6, %8\n      store f32x8 y[%1], %9\n    }\n" END},
    {"an if masks, what is the same for all moves out",
     MODULE "    for %1 = 0 .. 8 step 1 vector 8 {\n      %2 = load f32 x[%0]\n      %3 = sqrt f32 %2\n      %4 = load f32 x[%1]\n"
            "      %5 = cmp gt f32 %4, %3\n      if %5 {\n        store f32 y[%1], %3\n      }\n    }\n" END,
     MODULE "    %1 = load f32 x[%0]\n    %2 = sqrt f32 %1\n    %3 = load f32x8 x[0]\n    %4 = splat f32x8 f32 %2\n    %5 = cmp gt f32x8 %3, %4\n"
            "    store f32x8 y[0], %4 if %5\n" END},
    {"a loop that cannot be widened is left alone: all store to one place",
     MODULE "    for %1 = 0 .. 8 step 1 vector 8 {\n      %2 = load f32 x[%1]\n      store f32 y[%0], %2\n    }\n" END,
     MODULE "    for %1 = 0 .. 8 step 1 {\n      %2 = load f32 x[%1]\n      store f32 y[%0], %2\n    }\n" END},
    {"a sum in one accumulator",
     MODULE "    %3 = for %1 = 0 .. 16 step 1 carry(%2: f32 = 1) vector 8 fold add {\n      %4 = load f32 x[%1]\n      %5 = add f32 %2, %4\n"
            "      yield %5\n    }\n    store f32 y[%0], %3\n" END,
     MODULE "    %2 = for %1 = 0 .. 16 step 8 carry(%3: f32x8 = -0) {\n      %4 = load f32x8 x[%1]\n      %5 = add f32x8 %3, %4\n      yield %5\n    }\n"
            "    %6 = reduce_add f32x8 %2\n    %7 = add f32 1, %6\n    store f32 y[%0], %7\n" END},
};

static void test_text(void **state) {
    const Text *t = *state;
    KdContext *cx = kd_context_new();
    KdLanding landing;
    assert_true(KD_TRY(cx, landing));
    KlModule *m = kl_parse_module(cx, "t.kl", t->in, strlen(t->in));
    if (!m) kd_diag_print(cx, stderr, false);
    assert_non_null(m);
    KlMachine machine = {.lanes = 8};
    kl_vectorize(m->kernels.v[0], &machine);
    KdStr s = {.cx = cx}, why = {.cx = cx};
    kl_print_module(&s, m);
    assert_string_equal(s.s, t->out);
    assert_true(kl_verify(m, &why));
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* Full unrolling: the variable becomes constants, carried values pass from copy to copy; unknown bounds stay. */
static void test_unroll(void **state) {
    (void)state;
    static const char in[] = MODULE "    %3 = for %1 = 1 .. 6 step 2 carry(%2: f32 = 0) unroll full {\n      %4 = load f32 x[%1]\n"
                                    "      %5 = add f32 %2, %4\n      yield %5\n    }\n    store f32 y[0], %3\n"
                                    "    for %6 = 0 .. %0 step 1 unroll full {\n      store f32 y[%6], 1\n    }\n" END;
    static const char out[] = MODULE "    %1 = load f32 x[1]\n    %2 = add f32 0, %1\n    %3 = load f32 x[3]\n    %4 = add f32 %2, %3\n"
                                     "    %5 = load f32 x[5]\n    %6 = add f32 %4, %5\n    store f32 y[0], %6\n"
                                     "    for %7 = 0 .. %0 step 1 unroll full {\n      store f32 y[%7], 1\n    }\n" END;
    KdContext *cx = kd_context_new();
    KdLanding landing;
    assert_true(KD_TRY(cx, landing));
    KlModule *m = kl_parse_module(cx, "t.kl", in, strlen(in));
    assert_non_null(m);
    kl_unroll(m->kernels.v[0]);
    KdStr s = {.cx = cx};
    kl_print_module(&s, m);
    assert_string_equal(s.s, out);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

int main(void) {
    static const Fold folds[] = {NO_FOLD, FOLD_INT, FOLD_MAX, FOLD_SUM};
    static const char *const names[] = {"random bodies", "integer sums", "maxima", "float sums"};
    struct CMUnitTest tests[KD_COUNT(folds) + KD_COUNT(texts) + 1];
    int n = 0;
    for (int j = 0; j < KD_COUNT(folds); j++)
        tests[n++] = (struct CMUnitTest){.name = names[j], .test_func = test_random, .initial_state = (void *)&folds[j]};
    for (int j = 0; j < KD_COUNT(texts); j++)
        tests[n++] = (struct CMUnitTest){.name = texts[j].name, .test_func = test_text, .initial_state = (void *)&texts[j]};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_unroll);
    return _cmocka_run_group_tests("vectorize", tests, (size_t)n, NULL, NULL);
}
