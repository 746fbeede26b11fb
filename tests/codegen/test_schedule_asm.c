/* test_schedule_asm.c: what becomes of the schedules' inner loops: no spills.
 *
 * A contraction is lowered for a named CPU and compiled to assembly. In every basic block with many
 * multiply-adds, no vector register may go to the stack or come back: the register tiles are made
 * to fit, and a compiler that spills costs a third of the speed. At least one such block must
 * exist, and two in five of its instructions must be multiply-adds.
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
    const char *triple, *cpu, *fma, *stack;
} Target;

static const Target targets[] = {
    {"x86_64-unknown-linux-gnu", "skylake-avx512", "vfmadd", "(%rsp"},
    {"x86_64-unknown-linux-gnu", "x86-64-v3", "vfmadd", "(%rsp"},
};

typedef struct Shape {
    KdOp op;
    int64_t in, out, size, kernel, stride;
    const char *schedule;
} Shape;

static const Shape shapes[] = {
    {KD_OP_CONV2D, 256, 256, 64, 3, 1, "conv_direct"},
    {KD_OP_CONV2D, 64, 128, 128, 3, 2, "conv_direct"},
    {KD_OP_CONV2D, 64, 3, 128, 7, 1, "conv_direct"},
    {KD_OP_CONV2D, 3, 64, 128, 7, 1, "conv_direct"},
    {KD_OP_CONV_TRANSPOSE2D, 256, 256, 64, 3, 1, "conv_phases"},
    {KD_OP_CONV_TRANSPOSE2D, 128, 64, 64, 4, 2, "conv_phases"},
    {KD_OP_CONV_TRANSPOSE2D, 512, 512, 4, 4, 2, "conv_taps"},
    {KD_OP_CONV_TRANSPOSE2D, 512, 512, 8, 4, 2, "conv_taps"},
    {KD_OP_CONV2D_WGRAD, 256, 256, 64, 3, 1, "wgrad_outer"},
    {KD_OP_CONV2D_WGRAD, 64, 3, 128, 7, 1, "wgrad_inner"},
    {KD_OP_CONV2D_WGRAD, 512, 512, 16, 4, 2, "wgrad_gemm"},
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
    int64_t w[4] = {s->out, s->in, s->kernel, s->kernel};
    if (transposed) w[0] = s->in, w[1] = s->out;
    int64_t stride[2] = {s->stride, s->stride}, pads[4] = {pad, pad, pad, pad}, one[2] = {1, 1},
            none[2] = {0, 0};
    KdAttr a[6] = {{.ints = {2, w + 2}},
                   {.ints = {2, stride}},
                   {.ints = {4, pads}},
                   {.ints = {2, one}},
                   {.i = 1},
                   {.ints = {2, none}}};
    KdValue in[2] = {input(b, "x", 4, x), wgrad ? input(b, "gy", 4, gy) : input(b, "w", 4, w)};
    kd_output(b->f, "y", kd_build(b, s->op, NULL, in, 2, wgrad ? a : a + 1), KD_NONE);
}

static bool has(const char *line, size_t n, const char *what) {
    size_t m = strlen(what);
    for (size_t i = 0; i + m <= n; i++)
        if (memcmp(line + i, what, m) == 0) return true;
    return false;
}

typedef struct Block {
    int instructions, fmas, spills;
} Block;

/* Adds up one basic block after the other: from a label or jump to the next. */
static void check_blocks(const char *text, const Target *t, const char *name) {
    Block b = {0}, best = {0};
    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        if ((*line != '\t' && *line != '\n') || (n > 1 && line[1] == 'j')) {
            if (b.fmas >= 8 && b.spills)
                fail_msg("%s: %d spills in a loop of %d multiply-adds", name, b.spills, b.fmas);
            best = b.fmas > best.fmas ? b : best;
            b = (Block){0};
        } else if (n > 1 && line[1] != '.' && line[1] != '#') {
            b.instructions++;
            b.fmas += has(line, n, t->fma);
            b.spills += has(line, n, t->stack) && (has(line, n, "%zmm") || has(line, n, "%ymm"));
        }
        line += n + (line[n] == '\n');
    }
    if (best.fmas < 20 || best.fmas * 5 < best.instructions * 2)
        fail_msg("%s: the best loop has %d multiply-adds in %d instructions", name, best.fmas,
                 best.instructions);
}

static void run_case(void **state) {
    const Case *c = *state;
    KdContext *cx = kd_context_new();
    KdFunc *f = kd_func_new(cx, "f");
    KdBuilder b = kd_builder(f);
    KdTarget t;
    build(&b, c->shape);
    assert_true(kd_target_named(cx, c->target->triple, c->target->cpu, &t));
    KdPassOptions o = {.machine = t.machine, .fuse = true, .schedule = c->shape->schedule};
    KdFusion *fu = kd_fuse(f, &o);
    KlModule *m = kd_lower(fu, kd_memplan(fu), &o);
    for (int k = 0; k < m->kernels.n; k++)
        kl_vectorize(m->kernels.v[k], &t.machine);
    KdStr s = {.cx = cx};
    assert_true(kd_codegen(cx, m, &t, &(KdCodegenOptions){.opt = 2, .jobs = 1}, KD_EMIT_ASM, &s));
    check_blocks(s.s, c->target, c->name);
    kd_context_free(cx);
}

int main(void) {
    enum { CASES = KD_COUNT(targets) * KD_COUNT(shapes) };
    static Case cases[CASES];
    static struct CMUnitTest tests[CASES];
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
