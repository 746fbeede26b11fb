/* test_emit.c: every instruction of the loop IR, scalar and vector, gives the evaluator's bits as machine code; so do
 * loops with any unrolling, the mathematical functions, and random kernels. */
#include "tests/codegen/harness.h"

enum { RANGE = 6 };

/* ---- every instruction -------------------------------------------------------------------------- */

/* A kernel under construction: L lanes of each input at index p, and a place for each result. */
typedef struct Maker {
    KlBuilder b;
    KlKernel *k;
    int lanes, n_float, n_int;
    int fin, iin, bin, fout, iout, bout;
    KlValue p;
} Maker;

enum { SLOTS = 96 };

static Maker maker_new(KdContext *cx, int lanes) {
    Maker k = {.k = kl_kernel_new(cx, "test", RANGE), .lanes = lanes};
    k.fin = kl_buf(k.k, "fin", KL_F32, RANGE * 4 * lanes + 64, KL_IN);
    k.iin = kl_buf(k.k, "iin", KL_I32, RANGE * 4 * lanes + 64, KL_IN);
    k.bin = kl_buf(k.k, "bin", KL_U8, RANGE * 4 * lanes + 64, KL_IN);
    k.fout = kl_buf(k.k, "fout", KL_F32, RANGE * SLOTS * lanes, KL_OUT);
    k.iout = kl_buf(k.k, "iout", KL_I32, RANGE * SLOTS * lanes, KL_OUT);
    k.bout = kl_buf(k.k, "bout", KL_U8, RANGE * SLOTS * lanes, KL_OUT);
    k.b = kl_builder(k.k);
    k.p = kl_parallel_index(k.k);
    return k;
}

static KlValue i64(Maker *k, int64_t c) { return kl_i64(&k->b, c); }

static KlValue index_at(Maker *k, int64_t scale, int64_t offset) {
    return kl_op2(&k->b, KL_OP_ADD, kl_op2(&k->b, KL_OP_MUL, k->p, i64(k, scale)), i64(k, offset));
}

static KlValue input(Maker *k, int buf, int which) {
    return kl_load(&k->b, buf, index_at(k, 4 * k->lanes, which * k->lanes), k->lanes);
}

static void out_float(Maker *k, KlValue v) {
    assert_true(k->n_float < SLOTS);
    kl_store(&k->b, k->fout, index_at(k, SLOTS * k->lanes, k->n_float++ * k->lanes), v);
}

static void out_int(Maker *k, KlValue v) {
    assert_true(k->n_int < SLOTS);
    KlType t = kl_vtype(k->k, v);
    KlValue low = t.scalar == KL_I32 ? v : kl_cvt(&k->b, KL_I32, v);
    kl_store(&k->b, k->iout, index_at(k, SLOTS * k->lanes, k->n_int++ * k->lanes), low);
    if (t.scalar == KL_I64) { /* the upper half too */
        KlValue high = kl_op2(&k->b, KL_OP_SHR, v, kl_constant_like(&k->b, v, 32));
        kl_store(&k->b, k->iout, index_at(k, SLOTS * k->lanes, k->n_int++ * k->lanes), kl_cvt(&k->b, KL_I32, high));
    }
}

static void float_instructions(Maker *k) {
    KlBuilder *b = &k->b;
    KlValue x = input(k, k->fin, 0), y = input(k, k->fin, 1), z = input(k, k->fin, 2);
    static const KlOp unary[] = {KL_OP_NEG, KL_OP_ABS, KL_OP_SQRT, KL_OP_FLOOR, KL_OP_ROUND};
    static const KlOp binary[] = {KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_DIV, KL_OP_MIN, KL_OP_MAX};
    for (int i = 0; i < KD_COUNT(unary); i++)
        out_float(k, kl_op1(b, unary[i], x));
    for (int i = 0; i < KD_COUNT(binary); i++)
        out_float(k, kl_op2(b, binary[i], x, y));
    out_float(k, kl_fma(b, x, y, z));
    out_float(k, kl_fma(b, x, y, kl_op1(b, KL_OP_NEG, kl_op2(b, KL_OP_MUL, x, y)))); /* the rounding error itself */
    for (int p = KL_EQ; p <= KL_GE; p++) {
        out_float(k, kl_select(b, kl_cmp(b, (KlPred)p, x, y), x, z));
        out_int(k, kl_cvt(b, KL_I32, kl_cmp(b, (KlPred)p, x, kl_constant_like(b, x, 0))));
        out_float(k, kl_cvt(b, KL_F32, kl_cmp(b, (KlPred)p, y, y)));
    }
    out_int(k, kl_cvt(b, KL_I32, x));
    out_int(k, kl_cvt(b, KL_I64, y));
    kl_store(b, k->bout, index_at(k, SLOTS * k->lanes, 0), kl_cvt(b, KL_U8, x));
    /* Bits of a number, not of a NaN. */
    out_int(k, kl_bitcast(b, KL_I32, kl_select(b, kl_cmp(b, KL_EQ, x, x), x, kl_constant_like(b, x, 7))));
    out_float(k, kl_op2(b, KL_OP_MUL, x, kl_f32(b, 0x1.99999ap-4)));
}

static void int_instructions(Maker *k, KlScalar s) {
    KlBuilder *b = &k->b;
    KlValue x = input(k, k->iin, 0), y = input(k, k->iin, 1), z = input(k, k->iin, 2);
    if (s == KL_I64) { /* values that need more than 32 bits */
        KlValue big = kl_constant_like(b, kl_cvt(b, KL_I64, x), 0x10001ULL << 16 | 77);
        x = kl_op2(b, KL_OP_MUL, kl_cvt(b, KL_I64, x), big);
        y = kl_cvt(b, KL_I64, y);
        z = kl_cvt(b, KL_I64, z);
    }
    static const KlOp binary[] = {KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_MIN, KL_OP_MAX, KL_OP_AND, KL_OP_OR, KL_OP_XOR};
    for (int i = 0; i < KD_COUNT(binary); i++)
        out_int(k, kl_op2(b, binary[i], x, y));
    static const int divisors[] = {3, -1, 8, -7, 1000003};
    for (int i = 0; i < KD_COUNT(divisors); i++) {
        KlValue d = kl_constant_like(b, x, divisors[i]);
        out_int(k, kl_op2(b, KL_OP_DIV, x, d));
        out_int(k, kl_op2(b, KL_OP_REM, x, d));
    }
    KlValue any = kl_select(b, kl_cmp(b, KL_EQ, y, kl_constant_like(b, y, 0)), kl_constant_like(b, y, -1), y);
    out_int(k, kl_op2(b, KL_OP_DIV, x, any));
    out_int(k, kl_op2(b, KL_OP_REM, x, any));
    KlValue count = kl_op2(b, KL_OP_AND, y, kl_constant_like(b, y, s == KL_I64 ? 63 : 31));
    out_int(k, kl_op2(b, KL_OP_SHL, x, count));
    out_int(k, kl_op2(b, KL_OP_SHR, x, count));
    out_int(k, kl_op2(b, KL_OP_SHL, x, kl_constant_like(b, x, 5)));
    out_int(k, kl_op1(b, KL_OP_NEG, x));
    out_int(k, kl_op1(b, KL_OP_ABS, x));
    for (int p = KL_EQ; p <= KL_GE; p++)
        out_int(k, kl_select(b, kl_cmp(b, (KlPred)p, x, y), x, z));
    out_float(k, kl_cvt(b, KL_F32, x));
    kl_store(b, k->bout, index_at(k, SLOTS * k->lanes, 0), kl_cvt(b, KL_U8, x));
    if (s == KL_I32) {
        KlValue f = kl_bitcast(b, KL_F32, x);
        out_float(k, f);
        out_int(k, kl_op2(b, KL_OP_ADD, kl_cvt(b, KL_I32, kl_cvt(b, KL_I64, x)), y));
    }
}

static void byte_and_mask_instructions(Maker *k) {
    KlBuilder *b = &k->b;
    KlValue u = input(k, k->bin, 0), x = input(k, k->iin, 0), y = input(k, k->iin, 1);
    out_int(k, kl_cvt(b, KL_I32, u));
    out_int(k, kl_cvt(b, KL_I64, u));
    out_float(k, kl_cvt(b, KL_F32, u));
    kl_store(b, k->bout, index_at(k, SLOTS * k->lanes, 0), u);
    KlValue c = kl_cmp(b, KL_LT, x, y), d = kl_cmp(b, KL_GT, kl_cvt(b, KL_I32, u), kl_constant_like(b, x, 100));
    static const KlOp binary[] = {KL_OP_AND, KL_OP_OR, KL_OP_XOR};
    for (int i = 0; i < KD_COUNT(binary); i++) {
        KlValue m = kl_op2(b, binary[i], c, d);
        out_int(k, kl_select(b, m, x, y));
        out_int(k, kl_cvt(b, KL_I64, m));
        out_float(k, kl_cvt(b, KL_F32, m));
    }
}

static void lane_instructions(Maker *k) {
    KlBuilder *b = &k->b;
    int n = k->lanes, reverse[64], zip[64], half[64], swap[64];
    KlValue x = input(k, k->fin, 0), y = input(k, k->fin, 1), i = input(k, k->iin, 0);
    out_int(k, kl_op2(b, KL_OP_ADD, kl_iota(b, KL_I32, n), i));
    out_int(k, kl_op2(b, KL_OP_ADD, kl_iota(b, KL_I64, n), kl_cvt(b, KL_I64, i)));
    for (int l = 0; l < n; l++) {
        reverse[l] = n - 1 - l;
        zip[l] = l % 2 ? n + l / 2 : l / 2;
        half[l] = l % (n > 1 ? n / 2 : 1) + n;
        swap[l] = (l + n / 2) % n;
    }
    out_float(k, kl_shuffle(b, x, KL_NONE, n, reverse));
    out_float(k, kl_shuffle(b, x, y, n, zip));
    out_int(k, kl_shuffle(b, i, KL_NONE, n, reverse));
    if (n > 1) {
        KlValue low = kl_shuffle(b, x, y, n / 2, half);
        out_float(k, kl_shuffle(b, low, kl_shuffle(b, y, x, n / 2, half), n, swap));
    }
    out_float(k, kl_splat(b, n, kl_extract(b, x, n - 1)));
    out_float(k, kl_splat(b, n, kl_extract(b, x, n / 2)));
    static const KlOp fold[] = {KL_OP_ADD, KL_OP_MAX, KL_OP_MIN};
    for (int f = 0; f < 3; f++) {
        out_float(k, kl_splat(b, n, kl_reduce(b, fold[f], x)));
        out_int(k, kl_splat(b, n, kl_reduce(b, fold[f], i)));
        out_int(k, kl_splat(b, n, kl_reduce(b, fold[f], kl_cvt(b, KL_I64, i))));
    }
}

static void memory_instructions(Maker *k) {
    KlBuilder *b = &k->b;
    int n = k->lanes;
    KlValue x = input(k, k->fin, 0), i = input(k, k->iin, 1), zero = kl_constant_like(b, i, 0);
    KlValue mask = kl_cmp(b, KL_GT, i, zero), near_end = i64(k, RANGE * 4 * n + 64 - n);
    out_float(k, kl_load_if(b, k->fin, index_at(k, 3 * n, 1), mask, x));
    out_int(k, kl_load_if(b, k->iin, index_at(k, 3 * n, 1), mask, zero));
    out_int(k, kl_cvt(b, KL_I32, kl_load_if(b, k->bin, near_end, mask, KL_NONE)));
    /* Masked-off lanes may lie outside of the buffer. */
    KlValue past = kl_cmp(b, KL_LT, kl_iota(b, KL_I32, n), kl_constant_like(b, i, n / 2));
    out_float(k, kl_load_if(b, k->fin, i64(k, RANGE * 4 * n + 64 - n / 2), past, x));
    KlValue at = kl_op2(b, KL_OP_AND, i, kl_constant_like(b, i, 63));
    out_float(k, kl_gather(b, k->fin, at, KL_NONE, KL_NONE));
    out_int(k, kl_gather(b, k->iin, at, mask, i));
    out_int(k, kl_cvt(b, KL_I32, kl_gather(b, k->bin, at, mask, KL_NONE)));
    KlValue wild = kl_select(b, mask, at, kl_constant_like(b, i, 1 << 30));
    out_float(k, kl_gather(b, k->fin, wild, mask, x));
    KlValue slot = kl_cvt(b, KL_I32, index_at(k, SLOTS * n, k->n_float++ * n));
    kl_store_if(b, k->fout, kl_cvt(b, KL_I64, slot), x, mask);
    slot = kl_splat(b, n, kl_cvt(b, KL_I32, index_at(k, SLOTS * n, k->n_float++ * n)));
    /* Several lanes to one element: the last one wins. */
    KlValue lane = kl_op2(b, KL_OP_AND, at, kl_constant_like(b, at, n / 2));
    kl_scatter(b, k->fout, kl_op2(b, KL_OP_ADD, slot, lane), x, KL_NONE);
    kl_scatter(b, k->iout, kl_op2(b, KL_OP_ADD, slot, lane), i, mask);
    kl_store_if(b, k->bout, index_at(k, SLOTS * n, 3), kl_cvt(b, KL_U8, i), mask);
}

typedef enum Group { FLOATS, INTS, LONGS, BYTES, LANES, MEMORY, GROUPS } Group;

static KlModule *instruction_module(KdContext *cx, Group g, int lanes) {
    KlModule *m = kl_module_new(cx, "instructions");
    Maker k = maker_new(cx, lanes);
    switch (g) {
    case FLOATS: float_instructions(&k); break;
    case INTS: int_instructions(&k, KL_I32); break;
    case LONGS: int_instructions(&k, KL_I64); break;
    case BYTES: byte_and_mask_instructions(&k); break;
    case LANES: lane_instructions(&k); break;
    case MEMORY: memory_instructions(&k); break;
    case GROUPS: break;
    }
    k.k->range = RANGE;
    add_kernel_with_externs(m, k.k);
    return m;
}

typedef struct InstructionCase {
    Group group;
    int lanes;
} InstructionCase;

static void test_instructions(void **state) {
    const InstructionCase *c = *state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = instruction_module(cx, c->group, c->lanes);
    check_module(cx, m, 1, 8, c->lanes == 8 ? WAY_ALL : WAY_JIT);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* Roundings and fused operations need more numbers than six indices of a kernel show. */
static void test_exact_operations(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = kl_module_new(cx, "exact");
    KlKernel *k = kl_kernel_new(cx, "exact", 2048);
    int in = kl_buf(k, "in", KL_F32, 2048 * 12, KL_IN), out = kl_buf(k, "out", KL_F32, 2048 * 20, KL_OUT);
    KlBuilder b = kl_builder(k);
    KlValue p = kl_parallel_index(k), v[3];
    for (int i = 0; i < 3; i++)
        v[i] = kl_load(&b, in, kl_op2(&b, KL_OP_ADD, kl_op2(&b, KL_OP_MUL, p, kl_i64(&b, 12)), kl_i64(&b, 4 * i)), 4);
    /* Near cancellation: z = -(x*y), one rounding apart. */
    KlValue near_z = kl_op1(&b, KL_OP_NEG, kl_op2(&b, KL_OP_MUL, v[0], v[1]));
    KlValue tiny = kl_op2(&b, KL_OP_MUL, v[2], kl_f32(&b, 0x1p-100));
    KlValue r[5] = {kl_fma(&b, v[0], v[1], v[2]), kl_fma(&b, v[0], v[1], near_z), kl_fma(&b, v[0], v[1], tiny),
                    kl_op1(&b, KL_OP_ROUND, v[0]), kl_op1(&b, KL_OP_FLOOR, v[0])};
    for (int i = 0; i < 5; i++)
        kl_store(&b, out, kl_op2(&b, KL_OP_ADD, kl_op2(&b, KL_OP_MUL, p, kl_i64(&b, 20)), kl_i64(&b, 4 * i)), r[i]);
    add_kernel_with_externs(m, k);
    check_module(cx, m, 11, 4, WAY_O3 | WAY_POOR);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* ---- loops -------------------------------------------------------------------------------------- */

/* Nested loops with carried values of every kind, ifs inside, bounds known and unknown. */
static KlModule *loop_module(KdContext *cx, int trips, int step, int unroll, bool known) {
    KlModule *m = kl_module_new(cx, "loops");
    KlKernel *k = kl_kernel_new(cx, "loops", RANGE);
    int n_in = trips * step + 64;
    int in = kl_buf(k, "in", KL_F32, n_in, KL_IN), bounds = kl_buf(k, "bounds", KL_I32, 8, KL_IN);
    int out = kl_buf(k, "out", KL_F32, RANGE * 16, KL_OUT), counts = kl_buf(k, "counts", KL_I32, RANGE * 2, KL_OUT);
    int tmp = kl_buf(k, "tmp", KL_F32, n_in, KL_SCRATCH);
    KlBuilder bb = kl_builder(k), *b = &bb;
    KlValue p = kl_parallel_index(k), hi = kl_i64(b, trips * step - (step > 1));
    if (!known) { /* 0..trips by what is in memory */
        KlValue any = kl_cvt(b, KL_I64, kl_load(b, bounds, kl_i64(b, 0), 1));
        any = kl_op2(b, KL_OP_REM, kl_op1(b, KL_OP_ABS, any), kl_i64(b, trips * step + 1));
        hi = kl_op2(b, KL_OP_MAX, any, kl_i64(b, 0));
    }
    KlValue init[3] = {kl_constant_like(b, kl_splat(b, 4, kl_f32(b, 0)), 1), kl_i32(b, 3), p}, next[3], result[3];
    KlFor f = kl_for_begin(b, kl_i64(b, 0), hi, step, 3, init);
    f.instr->unroll = (uint16_t)unroll;
    KlValue v = kl_load(b, in, kl_op2(b, KL_OP_ADD, f.i, kl_i64(b, 3)), 4);
    KlValue inner_init[1] = {v}, inner_next[1], inner[1];
    KlFor g = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, 3), 1, 1, inner_init);
    g.instr->unroll = unroll == 3 ? UINT16_MAX : 0;
    KlValue w = kl_load(b, in, kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, g.i, kl_i64(b, 5)), kl_i64(b, 1)), 4);
    inner_next[0] = kl_fma(b, w, kl_f32(b, 0.5), g.carried[0]);
    kl_for_end(b, &g, inner_next, inner);
    KlIf odd = kl_if_begin(b, kl_cmp(b, KL_EQ, kl_op2(b, KL_OP_REM, f.i, kl_i64(b, 2)), kl_i64(b, 1)));
    kl_store(b, tmp, f.i, inner[0]);
    kl_if_end(b, &odd);
    KlIf even = kl_if_begin(b, kl_cmp(b, KL_EQ, kl_op2(b, KL_OP_REM, f.i, kl_i64(b, 2)), kl_i64(b, 0)));
    kl_store(b, tmp, f.i, v);
    kl_if_end(b, &even);
    KlValue back = kl_load(b, tmp, f.i, 4);
    next[0] = kl_op2(b, KL_OP_ADD, f.carried[0], back);
    next[1] = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, f.carried[1], kl_i32(b, 31)), kl_cvt(b, KL_I32, f.i));
    next[2] = kl_op2(b, KL_OP_XOR, f.carried[2], f.i);
    kl_for_end(b, &f, next, result);
    kl_store(b, out, kl_op2(b, KL_OP_MUL, p, kl_i64(b, 16)), result[0]);
    KlValue at = kl_op2(b, KL_OP_MUL, p, kl_i64(b, 2));
    kl_store(b, counts, at, result[1]);
    kl_store(b, counts, kl_op2(b, KL_OP_ADD, at, kl_i64(b, 1)), kl_cvt(b, KL_I32, result[2]));
    add_kernel_with_externs(m, k);
    return m;
}

static void test_loops(void **state) {
    (void)state;
    static const int trips[] = {0, 1, 2, 5, 8, 12}, unrolls[] = {0, 2, 3, 4, UINT16_MAX};
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    for (int t = 0; t < KD_COUNT(trips); t++)
        for (int u = 0; u < KD_COUNT(unrolls); u++)
            check_module(cx, loop_module(cx, trips[t], 1 + (t + u) % 3, unrolls[u], (t + u) % 4 != 0), 5, 3,
                         u == 0 ? WAY_O0 | WAY_O3 : WAY_O3);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* A loop with hi = lo + 12 and lo unknown is unrolled too. */
static void test_shifted_loop(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = kl_module_new(cx, "shifted");
    KlKernel *k = kl_kernel_new(cx, "shifted", RANGE);
    int in = kl_buf(k, "in", KL_F32, RANGE * 12, KL_IN), out = kl_buf(k, "out", KL_F32, RANGE, KL_OUT);
    KlBuilder b = kl_builder(k);
    KlValue p = kl_parallel_index(k), lo = kl_op2(&b, KL_OP_MUL, p, kl_i64(&b, 12)), sum[1] = {kl_f32(&b, 0)}, next[1];
    KlFor f = kl_for_begin(&b, lo, kl_op2(&b, KL_OP_ADD, lo, kl_i64(&b, 12)), 1, 1, sum);
    f.instr->unroll = 5; /* two turns of five and two alone */
    next[0] = kl_op2(&b, KL_OP_ADD, kl_op2(&b, KL_OP_MUL, f.carried[0], kl_f32(&b, 0.75)), kl_load(&b, in, f.i, 1));
    kl_for_end(&b, &f, next, sum);
    kl_store(&b, out, p, sum[0]);
    add_kernel_with_externs(m, k);
    check_module(cx, m, 3, 2, WAY_O0 | WAY_O3);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* ---- mathematical functions ------------------------------------------------------------------------ */

static KlModule *math_module(KdContext *cx, int lanes) {
    enum { N = 64, OUTS = 9 };
    KlModule *m = kl_module_new(cx, "math");
    KlKernel *k = kl_kernel_new(cx, "math", N);
    int in = kl_buf(k, "in", KL_F32, N * lanes, KL_IN), iin = kl_buf(k, "iin", KL_I32, N * lanes, KL_IN);
    int out = kl_buf(k, "out", KL_F32, N * lanes * OUTS, KL_OUT), bits = kl_buf(k, "bits", KL_I32, N * lanes, KL_OUT);
    KlBuilder bb = kl_builder(k), *b = &bb;
    KlValue p = kl_parallel_index(k), at = kl_op2(b, KL_OP_MUL, p, kl_i64(b, lanes));
    KlValue x = kl_load(b, in, at, lanes), i = kl_load(b, iin, at, lanes);
    KlValue small = kl_op2(b, KL_OP_MUL, x, kl_f32(b, 0x1p-2));
    KlValue r[OUTS] = {kl_exp(b, x), kl_log(b, x), kl_tanh(b, small), kl_sigmoid(b, x), kl_softplus(b, x), kl_rsqrt(b, x),
                       kl_pow(b, kl_op1(b, KL_OP_ABS, x), small), kl_log(b, kl_op1(b, KL_OP_ABS, x)), kl_exp(b, small)};
    for (int o = 0; o < OUTS; o++)
        kl_store(b, out, kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, p, kl_i64(b, lanes * OUTS)), kl_i64(b, lanes * o)), r[o]);
    kl_store(b, bits, at, kl_random_bits(b, kl_constant_like(b, i, 1234567), i));
    add_kernel_with_externs(m, k);
    return m;
}

static void test_math(void **state) {
    (void)state;
    static const int lanes[] = {1, 4, 16};
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    for (int i = 0; i < KD_COUNT(lanes); i++)
        check_module(cx, math_module(cx, lanes[i]), 21, 3, i == 2 ? WAY_ALL : WAY_O0 | WAY_O3);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* ---- random kernels ---------------------------------------------------------------------------------- */

typedef struct Fuzz {
    uint64_t s;
    Maker k;
    KlValue f[512], i[512], c[512]; /* f32, i32 and i1 vectors made so far */
    int nf, ni, nc, depth;
} Fuzz;

static KlValue any_f(Fuzz *z) { return z->f[rnd_below(&z->s, z->nf)]; }
static KlValue any_i(Fuzz *z) { return z->i[rnd_below(&z->s, z->ni)]; }
static KlValue any_c(Fuzz *z) { return z->c[rnd_below(&z->s, z->nc)]; }

/* An index below limit - lanes, by p and the loop variable. */
static KlValue any_index(Fuzz *z, KlValue loop, int64_t limit) {
    KlBuilder *b = &z->k.b;
    KlValue v = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, z->k.p, i64(&z->k, 1 + rnd_below(&z->s, 9))),
                       i64(&z->k, rnd_below(&z->s, 16)));
    if (loop != KL_NONE)
        v = kl_op2(b, KL_OP_ADD, v, kl_op2(b, KL_OP_MUL, loop, i64(&z->k, 1 + rnd_below(&z->s, 7))));
    return kl_op2(b, KL_OP_REM, v, i64(&z->k, limit - z->k.lanes + 1));
}

static void fuzz_float(Fuzz *z) {
    KlBuilder *b = &z->k.b;
    static const KlOp unary[] = {KL_OP_NEG, KL_OP_ABS, KL_OP_SQRT, KL_OP_FLOOR, KL_OP_ROUND};
    static const KlOp binary[] = {KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_DIV, KL_OP_MIN, KL_OP_MAX};
    KlValue r;
    switch (rnd_below(&z->s, 6)) {
    case 0: r = kl_op1(b, unary[rnd_below(&z->s, 5)], any_f(z)); break;
    case 1: r = kl_fma(b, any_f(z), any_f(z), any_f(z)); break;
    case 2: r = kl_select(b, any_c(z), any_f(z), any_f(z)); break;
    case 3: r = kl_cvt(b, KL_F32, any_i(z)); break;
    case 4: r = kl_op2(b, binary[rnd_below(&z->s, 6)], any_f(z), kl_f32(b, (double)rnd_below(&z->s, 9) - 4)); break;
    default: r = kl_op2(b, binary[rnd_below(&z->s, 6)], any_f(z), any_f(z));
    }
    z->f[z->nf++] = r;
}

static void fuzz_int(Fuzz *z) {
    KlBuilder *b = &z->k.b;
    static const KlOp binary[] = {KL_OP_ADD, KL_OP_SUB, KL_OP_MUL, KL_OP_MIN, KL_OP_MAX, KL_OP_AND, KL_OP_OR, KL_OP_XOR};
    static const KlOp shifts[] = {KL_OP_SHL, KL_OP_SHR};
    static const KlOp divisions[] = {KL_OP_DIV, KL_OP_REM};
    KlValue x = any_i(z), y = any_i(z), r;
    switch (rnd_below(&z->s, 8)) {
    case 0: r = kl_op2(b, shifts[rnd_below(&z->s, 2)], x, kl_constant_like(b, x, rnd_below(&z->s, 32))); break;
    case 1: r = kl_op2(b, divisions[rnd_below(&z->s, 2)], x, kl_constant_like(b, x, 1 + rnd_below(&z->s, 40))); break;
    case 2: r = kl_select(b, any_c(z), x, y); break;
    case 3: r = kl_cvt(b, KL_I32, any_f(z)); break;
    case 4: r = kl_cvt(b, KL_I32, kl_op2(b, binary[rnd_below(&z->s, 8)], kl_cvt(b, KL_I64, x), kl_cvt(b, KL_I64, y))); break;
    case 5: {
        KlValue f = any_f(z);
        r = kl_bitcast(b, KL_I32, kl_select(b, kl_cmp(b, KL_EQ, f, f), f, kl_constant_like(b, f, 3)));
        break;
    }
    default: r = kl_op2(b, binary[rnd_below(&z->s, 8)], x, y);
    }
    z->i[z->ni++] = r;
}

static void fuzz_mask(Fuzz *z) {
    KlBuilder *b = &z->k.b;
    KlPred p = (KlPred)rnd_below(&z->s, 6);
    static const KlOp binary[] = {KL_OP_AND, KL_OP_OR, KL_OP_XOR};
    int kind = rnd_below(&z->s, 3);
    z->c[z->nc++] = kind == 0   ? kl_op2(b, binary[rnd_below(&z->s, 3)], any_c(z), any_c(z))
                    : kind == 1 ? kl_cmp(b, p, any_f(z), any_f(z))
                                : kl_cmp(b, p, any_i(z), any_i(z));
}

static void fuzz_lanes(Fuzz *z) {
    KlBuilder *b = &z->k.b;
    int n = z->k.lanes, sel[64];
    for (int l = 0; l < n; l++)
        sel[l] = rnd_below(&z->s, 2 * n);
    static const KlOp fold[] = {KL_OP_ADD, KL_OP_MAX, KL_OP_MIN};
    switch (rnd_below(&z->s, 4)) {
    case 0: z->f[z->nf++] = kl_shuffle(b, any_f(z), any_f(z), n, sel); break;
    case 1: z->i[z->ni++] = kl_shuffle(b, any_i(z), any_i(z), n, sel); break;
    case 2: z->f[z->nf++] = kl_splat(b, n, kl_reduce(b, fold[rnd_below(&z->s, 3)], any_f(z))); break;
    default: z->i[z->ni++] = kl_splat(b, n, kl_extract(b, any_i(z), rnd_below(&z->s, n)));
    }
}

static void fuzz_load(Fuzz *z, KlValue loop) {
    KlBuilder *b = &z->k.b;
    Maker *k = &z->k;
    int64_t limit = RANGE * 4 * k->lanes + 64;
    KlValue at = kl_op2(b, KL_OP_AND, any_i(z), kl_constant_like(b, any_i(z), 63));
    switch (rnd_below(&z->s, 6)) {
    case 0: z->f[z->nf++] = kl_load_if(b, k->fin, any_index(z, loop, limit), any_c(z), any_f(z)); break;
    case 1: z->i[z->ni++] = kl_load(b, k->iin, any_index(z, loop, limit), k->lanes); break;
    case 2: z->f[z->nf++] = kl_gather(b, k->fin, at, any_c(z), any_f(z)); break;
    case 3: z->i[z->ni++] = kl_cvt(b, KL_I32, kl_load(b, k->bin, any_index(z, loop, limit), k->lanes)); break;
    case 4: z->i[z->ni++] = kl_gather(b, k->iin, at, KL_NONE, KL_NONE); break;
    default: z->f[z->nf++] = kl_load(b, k->fin, any_index(z, loop, limit), k->lanes);
    }
}

static void fuzz_block(Fuzz *z, int n, KlValue loop);

static void fuzz_loop(Fuzz *z) {
    static const int unrolls[] = {0, 2, 3, UINT16_MAX};
    KlBuilder *b = &z->k.b;
    int nf = z->nf, ni = z->ni, nc = z->nc;
    KlValue carried[2] = {any_f(z), any_i(z)}, next[2], result[2];
    KlFor f = kl_for_begin(b, i64(&z->k, rnd_below(&z->s, 3)), i64(&z->k, 2 + rnd_below(&z->s, 6)),
                           1 + rnd_below(&z->s, 2), 2, carried);
    f.instr->unroll = (uint16_t)unrolls[rnd_below(&z->s, 4)];
    z->f[z->nf++] = f.carried[0];
    z->i[z->ni++] = f.carried[1];
    fuzz_block(z, 6, f.i);
    next[0] = any_f(z);
    next[1] = any_i(z);
    kl_for_end(b, &f, next, result);
    z->nf = nf; /* what was made inside is not to be seen outside */
    z->ni = ni;
    z->nc = nc;
    z->f[z->nf++] = result[0];
    z->i[z->ni++] = result[1];
}

static void fuzz_if(Fuzz *z) {
    KlBuilder *b = &z->k.b;
    if (z->k.n_float >= SLOTS - 9)
        return;
    int nf = z->nf, ni = z->ni, nc = z->nc;
    KlIf f = kl_if_begin(b, kl_extract(b, any_c(z), 0));
    fuzz_block(z, 4, KL_NONE);
    kl_store_if(b, z->k.fout, index_at(&z->k, SLOTS * z->k.lanes, z->k.n_float++ * z->k.lanes), any_f(z), any_c(z));
    kl_if_end(b, &f);
    z->nf = nf;
    z->ni = ni;
    z->nc = nc;
}

static void fuzz_block(Fuzz *z, int n, KlValue loop) {
    z->depth++;
    for (; n > 0; n--) {
        int kind = rnd_below(&z->s, 20);
        if (kind < 7)
            fuzz_float(z);
        else if (kind < 11)
            fuzz_int(z);
        else if (kind < 13)
            fuzz_mask(z);
        else if (kind < 15)
            fuzz_lanes(z);
        else if (kind < 18 || z->depth > 3)
            fuzz_load(z, loop);
        else if (kind == 18)
            fuzz_loop(z);
        else
            fuzz_if(z);
    }
    z->depth--;
}

static KlModule *fuzz_module(KdContext *cx, uint64_t seed) {
    static const int lanes[] = {1, 2, 4, 8, 16, 16};
    Fuzz *z = KD_NEW(cx, Fuzz);
    z->s = seed * 977;
    rnd(&z->s);
    z->k = maker_new(cx, lanes[rnd_below(&z->s, 6)]);
    for (int i = 0; i < 3; i++) {
        z->f[z->nf++] = input(&z->k, z->k.fin, i);
        z->i[z->ni++] = input(&z->k, z->k.iin, i);
    }
    z->c[z->nc++] = kl_cmp(&z->k.b, KL_LT, z->i[0], z->i[1]);
    fuzz_block(z, 24, KL_NONE);
    for (int i = 0; i < 8; i++) {
        out_float(&z->k, any_f(z));
        out_int(&z->k, any_i(z));
    }
    KlModule *m = kl_module_new(cx, "fuzz");
    add_kernel_with_externs(m, z->k.k);
    return m;
}

static void check_random_kernel(uint64_t seed) {
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = fuzz_module(cx, seed);
    m->name = kd_format(cx, "fuzz_%d", (int)seed);
    check_module(cx, m, seed, 3, seed % 30 == 0 ? WAY_ALL : seed % 5 == 0 ? WAY_JIT : WAY_O3);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

static void test_random_kernels(void **state) {
    const uint64_t *first = *state;
    for (uint64_t seed = *first; seed < *first + 30; seed++)
        check_random_kernel(seed);
}

int main(void) {
    static const char *const group_names[GROUPS] = {"f32", "i32", "i64", "bytes_masks", "lanes", "memory"};
    static const int lanes[] = {1, 2, 4, 8, 16, 32};
    static InstructionCase cases[GROUPS * 6];
    static uint64_t seeds[4] = {0, 30, 60, 90};
    static char names[GROUPS * 6 + 4][48];
    struct CMUnitTest tests[GROUPS * 6 + 12] = {
        cmocka_unit_test(test_loops),
        cmocka_unit_test(test_shifted_loop),
        cmocka_unit_test(test_exact_operations),
        cmocka_unit_test(test_math),
    };
    int n = 4;
    for (int g = 0; g < GROUPS; g++)
        for (int i = 0; i < KD_COUNT(lanes); i++) {
            int c = g * KD_COUNT(lanes) + i;
            cases[c] = (InstructionCase){(Group)g, lanes[i]};
            snprintf(names[c], sizeof names[c], "instructions_%s_x%d", group_names[g], lanes[i]);
            tests[n++] = (struct CMUnitTest){.name = names[c], .test_func = test_instructions, .initial_state = &cases[c]};
        }
    for (int i = 0; i < KD_COUNT(seeds); i++) {
        char *name = names[GROUPS * 6 + i];
        snprintf(name, sizeof names[0], "random_kernels_from_%d", (int)seeds[i]);
        tests[n++] = (struct CMUnitTest){.name = name, .test_func = test_random_kernels, .initial_state = &seeds[i]};
    }
    return _cmocka_run_group_tests("emit", tests, (size_t)n, NULL, NULL);
}
