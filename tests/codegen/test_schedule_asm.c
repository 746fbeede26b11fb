/* test_schedule_asm.c: what becomes of the schedules' inner loops: no spills.
 *
 * A contraction is lowered for a named CPU and compiled to assembly. In every basic block with many
 * multiply-adds, no vector register may go to the stack or come back: the register tiles are made
 * to fit, and a compiler that spills costs a third of the speed. At least one such block must
 * exist, and three in eight of its instructions must be multiply-adds. The counting is codegen's
 * (kd_asm_blocks) and is tested here, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "codegen/codegen.h"
#include "passes/passes.h"

typedef struct Target {
    const char *triple, *cpu;
} Target;

static const Target targets[] = {
    {"x86_64-unknown-linux-gnu", "skylake-avx512"},
    {"x86_64-unknown-linux-gnu", "x86-64-v3"},
    {"aarch64-unknown-linux-gnu", "cortex-a72"},
};

typedef struct Shape {
    KdOp op;
    int64_t in, out, size, kernel, stride;
    const char *schedule;
    int64_t groups; /* 0: one */
} Shape;

static const Shape shapes[] = {
    {KD_OP_CONV2D, 256, 256, 64, 3, 1, "conv_direct"},
    {KD_OP_CONV2D, 64, 128, 128, 3, 2, "conv_direct"},
    {KD_OP_CONV2D, 64, 3, 128, 7, 1, "conv_direct"},
    {KD_OP_CONV2D, 3, 64, 128, 7, 1, "conv_direct"},
    {KD_OP_CONV2D, 256, 256, 64, 3, 1, "conv_winograd"},
    {KD_OP_CONV2D, 64, 64, 64, 3, 1, "conv_winograd"},
    {KD_OP_CONV2D, 256, 512, 32, 4, 1, "conv_winograd"},
    {KD_OP_CONV_TRANSPOSE2D, 256, 256, 64, 3, 1, "conv_winograd_back"},
    {KD_OP_CONV2D, 64, 128, 64, 4, 2, "conv_winograd"},
    {KD_OP_CONV_TRANSPOSE2D, 128, 64, 64, 4, 2, "conv_winograd_back"},
    {KD_OP_CONV_TRANSPOSE2D, 256, 256, 64, 3, 1, "conv_phases"},
    {KD_OP_CONV_TRANSPOSE2D, 128, 64, 64, 4, 2, "conv_phases"},
    {KD_OP_CONV_TRANSPOSE2D, 512, 512, 4, 4, 2, "conv_taps"},
    {KD_OP_CONV_TRANSPOSE2D, 512, 512, 8, 4, 2, "conv_taps"},
    {KD_OP_CONV2D_WGRAD, 256, 256, 64, 3, 1, "wgrad_outer"},
    {KD_OP_CONV2D_WGRAD, 256, 256, 64, 3, 1, "wgrad_winograd"},
    {KD_OP_CONV2D_WGRAD, 64, 3, 128, 7, 1, "wgrad_inner"},
    {KD_OP_CONV2D_WGRAD, 512, 512, 16, 4, 2, "wgrad_gemm"},
    {KD_OP_CONV2D, 192, 192, 64, 3, 1, "conv_depthwise", 192},
    {KD_OP_CONV2D, 96, 96, 128, 3, 2, "conv_depthwise", 96},
    {KD_OP_CONV_TRANSPOSE2D, 192, 192, 64, 3, 1, "conv_depthwise_back", 192},
    {KD_OP_CONV2D, 192, 192, 64, 1, 1, "conv_pointwise"},
    {KD_OP_CONV_TRANSPOSE2D, 192, 192, 64, 1, 1, "conv_pointwise_back"},
    {KD_OP_CONV2D_WGRAD, 192, 192, 64, 3, 1, "wgrad_dot", 192},
    {KD_OP_MATMUL, 256, 512, 512, 0, 0, "matmul_packed"},
};

typedef struct Case {
    const Target *target;
    const Shape *shape;
    char name[128];
} Case;

static KdValue input(KdBuilder *b, const char *name, int rank, const int64_t *dim) {
    return kd_input(b, name, KD_DATA, kd_type(b->cx, KD_F32, rank, dim), "");
}

static void build(KdBuilder *b, const Shape *s) {
    if (s->op == KD_OP_MATMUL) {
        int64_t x[2] = {s->in, s->size}, y[2] = {s->size, s->out};
        kd_output(b->f, "y", kd_matmul(b, input(b, "x", 2, x), input(b, "y", 2, y), false, false),
                  KD_NONE);
        return;
    }
    bool transposed = s->op == KD_OP_CONV_TRANSPOSE2D, wgrad = s->op == KD_OP_CONV2D_WGRAD;
    int64_t pad = (s->kernel - 1) / 2, small = (s->size + 2 * pad - s->kernel) / s->stride + 1;
    int64_t x[4] = {1, s->in, s->size, s->size}, gy[4] = {1, s->out, small, small};
    int64_t groups = s->groups ? s->groups : 1, w[4] = {s->out, s->in / groups, s->kernel, s->kernel};
    if (transposed) w[0] = s->in, w[1] = s->out / groups;
    int64_t stride[2] = {s->stride, s->stride}, pads[4] = {pad, pad, pad, pad}, one[2] = {1, 1},
            none[2] = {0, 0};
    KdAttr a[6] = {{.ints = {2, w + 2}},
                   {.ints = {2, stride}},
                   {.ints = {4, pads}},
                   {.ints = {2, one}},
                   {.i = groups},
                   {.ints = {2, none}}};
    KdValue in[2] = {input(b, "x", 4, x), wgrad ? input(b, "gy", 4, gy) : input(b, "w", 4, w)};
    kd_output(b->f, "y", kd_build(b, s->op, NULL, in, 2, wgrad ? a : a + 1), KD_NONE);
}

typedef struct Best {
    const char *name;
    KdAsmBlock block;
} Best;

static void check_block(void *user, const KdAsmBlock *b) {
    Best *best = user;
    if (b->fmas >= KD_ASM_MANY_FMAS && b->spills)
        fail_msg("%s: %d spills in a loop of %d multiply-adds", best->name, b->spills, b->fmas);
    if (b->fmas > best->block.fmas) best->block = *b;
}

static void run_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    KdFunc *f = kd_func_new(cx, "f");
    KdBuilder b = kd_builder(f);
    KdTarget t;
    build(&b, c->shape);
    assert_true(kd_target_named(cx, c->target->triple, c->target->cpu, &t));
    KdPassOptions o = {.machine = t.machine, .fuse = true, .schedule = c->shape->schedule, .winograd = 4};
    KdFusion *fu = kd_fuse(f, &o);
    KlModule *m = kd_lower(fu, kd_memplan(fu), &o);
    for (int k = 0; k < m->kernels.n; k++)
        kl_vectorize(m->kernels.v[k], &t.machine);
    KdStr s = {.cx = cx};
    assert_true(kd_codegen(cx, m, &t, &(KdCodegenOptions){.opt = 2, .jobs = 1}, KD_EMIT_ASM, &s));
    Best best = {.name = c->name};
    kd_asm_blocks(s.s, &t, check_block, &best);
    if (best.block.fmas < 20 || best.block.fmas * 8 < best.block.instructions * 3)
        fail_msg("%s: the best loop has %d multiply-adds in %d instructions", c->name,
                 best.block.fmas, best.block.instructions);
    kd_context_free(cx);
}

typedef struct Seen {
    int n;
    KdAsmBlock block[8];
} Seen;

static void see(void *user, const KdAsmBlock *b) {
    Seen *s = user;
    assert_true(s->n < 8);
    s->block[s->n++] = *b;
}

/* The counting itself, on text with known counts. */
static void count_x86(void **state) {
    (void)state;
    static const char text[] =
        "\t.text\nf_k0:\n\tpushq\t%rbx\n\tvmovups\t%zmm1, 64(%rsp)\n\tjmp\t.LBB0_2\n.LBB0_1:\n"
        "\tvfmadd231ps\t(%rax), %zmm0, %zmm1\n\tvmovups\t64(%rsp), %ymm3\n\tmovq\t8(%rsp), %rcx\n"
        "\tjne\t.LBB0_1\n.LBB0_2:\n\tretq\n\t.size f\nf_k1:\n\taddq\t$1, %rax\n\tjne\t.LBB0_1\n";
    KdTarget t = {.triple = "x86_64-pc-linux-gnu"};
    Seen s = {0};
    kd_asm_blocks(text, &t, see, &s);
    assert_int_equal(s.n, 4);
    assert_int_equal(s.block[0].instructions, 3);
    assert_int_equal(s.block[0].spills, 1);
    assert_false(s.block[0].loop);
    assert_int_equal(s.block[1].instructions, 4);
    assert_int_equal(s.block[1].fmas, 1);
    assert_int_equal(s.block[1].spills, 1);
    assert_true(s.block[1].loop);
    assert_int_equal(s.block[2].instructions, 1);
    assert_memory_equal(s.block[2].function, "f_k0", s.block[2].length);
    assert_memory_equal(s.block[3].function, "f_k1", s.block[3].length);
    assert_false(s.block[3].loop);
}

static void count_aarch64(void **state) {
    (void)state;
    static const char text[] =
        "g_k0:\n\tstp\td9, d8, [sp, #16]\n.LBB0_1:\n\tfmla\tv0.4s, v1.4s, v2.4s\n\tstr\tq3, [sp, #32]\n"
        "\tbl\tf\n\tldp\tq4, q5, [sp]\n\tb.ne\t.LBB0_1\n\tcbz\tx1, .LBB0_1\n";
    KdTarget t = {.triple = "aarch64-linux-gnu"};
    Seen s = {0};
    kd_asm_blocks(text, &t, see, &s);
    assert_int_equal(s.n, 3);
    assert_int_equal(s.block[0].spills, 0); /* what a function saves for its caller */
    assert_int_equal(s.block[1].instructions, 5);
    assert_int_equal(s.block[1].fmas, 1);
    assert_int_equal(s.block[1].spills, 2);
    assert_true(s.block[1].loop);
    assert_false(s.block[2].loop);
}

int main(void) {
    enum { CASES = KD_COUNT(targets) * KD_COUNT(shapes) };
    static Case cases[CASES];
    static struct CMUnitTest tests[CASES + 2] = {[CASES] = cmocka_unit_test(count_x86),
                                                 cmocka_unit_test(count_aarch64)};
    for (int i = 0; i < CASES; i++) {
        Case *c = &cases[i];
        c->target = &targets[i / KD_COUNT(shapes)];
        c->shape = &shapes[i % KD_COUNT(shapes)];
        snprintf(c->name, sizeof c->name, "%s %d->%d k%d s%d on %s", c->shape->schedule,
                 (int)c->shape->in, (int)c->shape->out, (int)c->shape->kernel,
                 (int)c->shape->stride, c->target->cpu);
        tests[i] = (struct CMUnitTest){c->name, run_case, NULL, NULL, c};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
