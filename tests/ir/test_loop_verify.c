/* The loop verifier: a sound module is accepted, and each way of breaking it is noticed and named. (What text can say
 * wrongly is in test_loop_text.c; here modules are broken in memory, as a faulty pass would.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ir/loop.h"

static const char text[] =
    "module @m\n"
    "kernel @k0 range 4 {\n"
    "  buf x: f32[64] in\n"
    "  buf y: f32[64] out\n"
    "  scratch t: f32[16]\n"
    "  body(%0) {\n"
    "    %1 = mul i64 %0, 16\n"
    "    %2 = iota i32x4\n"
    "    %3 = cmp lt i32x4 %2, 3\n"
    "    %11 = cmp lt i64 %0, 3\n"
    "    %4 = load f32x4 x[%1] if %3 else 0\n"
    "    %5 = reduce_add f32x4 %4\n"
    "    %7 = for %6 = 0 .. 16 step 1 carry(%8: f32 = %5) {\n"
    "      %9 = load f32 x[%6]\n"
    "      %10 = add f32 %8, %9\n"
    "      yield %10\n"
    "    }\n"
    "    store f32 y[%1], %7\n"
    "    if %11 {\n"
    "      store f32 t[%0], %7\n"
    "    }\n"
    "    %12 = shuffle f32x2 f32x4 %4, %4 [0, 7]\n"
    "    store f32x2 y[%1], %12\n"
    "  }\n"
    "}\n"
    "extern \"x\": f32[64]\n"
    "extern \"y\": f32[64] written\n"
    "arena 256\n"
    "call @k0(extern 0 + 0, extern 1 + 0)\n"
    "call @k0(extern 0 + 0, arena + 0)\n";

/* The n-th instruction of that kind, loops and ifs included. */
static KlInstr *find(KlBlock *b, KlOp op, int *n) {
    for (int j = 0; j < b->instrs.n; j++) {
        KlInstr *i = b->instrs.v[j];
        if (i->op == op && (*n)-- == 0) return i;
        KlInstr *inside = i->body ? find(i->body, op, n) : NULL;
        if (inside) return inside;
    }
    return NULL;
}

static KlInstr *get(KlModule *m, KlOp op, int n) {
    KlInstr *i = find(&m->kernels.v[0]->body, op, &n);
    assert_non_null(i);
    return i;
}

typedef struct Break { const char *want; void (*damage)(KlModule *m); } Break;

#define BREAK(name, ...) static void name(KlModule *m) { __VA_ARGS__; }
BREAK(nothing, (void)m)
BREAK(unknown_value, get(m, KL_OP_MUL, 0)->in[0] = 999)
BREAK(late_value, get(m, KL_OP_MUL, 0)->in[0] = get(m, KL_OP_FOR, 0)->in[0] = get(m, KL_OP_MUL, 0)->result)
BREAK(inner_value, get(m, KL_OP_STORE, 0)->in[1] = get(m, KL_OP_ADD, 0)->result)
BREAK(twice, get(m, KL_OP_CMP, 1)->result = get(m, KL_OP_CMP, 0)->result)
BREAK(operand_type, get(m, KL_OP_ADD, 0)->in[1] = get(m, KL_OP_MUL, 0)->result)
BREAK(result_type, get(m, KL_OP_ADD, 0)->type = kl_type(KL_I32, 1))
BREAK(lanes, get(m, KL_OP_IOTA, 0)->type.lanes = 3)
BREAK(predicate, get(m, KL_OP_CMP, 0)->imm = 6)
BREAK(no_op, get(m, KL_OP_ADD, 0)->op = KL_OP_COUNT)
BREAK(few_operands, get(m, KL_OP_ADD, 0)->n_in = 1)
BREAK(no_yield, get(m, KL_OP_FOR, 0)->body->instrs.n--)
BREAK(if_no_yield, get(m, KL_OP_IF, 0)->body->instrs.n--)
BREAK(early_yield, KlBlock *b = get(m, KL_OP_FOR, 0)->body; KlInstr *y = b->instrs.v[2]; b->instrs.v[2] = b->instrs.v[1]; b->instrs.v[1] = y; y->in[0] = b->params.v[1])
BREAK(yield_count, get(m, KL_OP_YIELD, 0)->n_in = 0)
BREAK(yield_type, get(m, KL_OP_YIELD, 0)->in[0] = get(m, KL_OP_MUL, 0)->result)
BREAK(step, get(m, KL_OP_FOR, 0)->imm = 0)
BREAK(bounds, get(m, KL_OP_FOR, 0)->in[1] = get(m, KL_OP_REDUCE_ADD, 0)->result)
BREAK(fold, get(m, KL_OP_FOR, 0)->fold = KL_OP_SUB)
BREAK(no_buffer, get(m, KL_OP_STORE, 0)->imm = 3)
BREAK(negative_buffer, get(m, KL_OP_LOAD, 0)->imm = -1)
BREAK(into_input, get(m, KL_OP_STORE, 0)->imm = 0)
BREAK(buffer_type, m->kernels.v[0]->bufs.v[0].dtype = KL_I32)
BREAK(mask_lanes, get(m, KL_OP_LOAD, 0)->in[1] = get(m, KL_OP_CMP, 1)->result)
BREAK(index_type, get(m, KL_OP_LOAD, 0)->in[0] = get(m, KL_OP_IOTA, 0)->result)
BREAK(condition, get(m, KL_OP_IF, 0)->in[0] = get(m, KL_OP_CMP, 0)->result)
BREAK(selector, ((int *)(uintptr_t)get(m, KL_OP_SHUFFLE, 0)->shuffle)[1] = 8)
BREAK(range, m->kernels.v[0]->range = -1)
BREAK(grain, m->kernels.v[0]->grain = 0)
BREAK(call_kernel, m->calls.v[0].kernel = 1)
BREAK(call_extern, ((KlArg *)(uintptr_t)m->calls.v[0].args)[0].index = 2)
BREAK(call_offset, ((KlArg *)(uintptr_t)m->calls.v[0].args)[0].offset = 4)
BREAK(call_negative, ((KlArg *)(uintptr_t)m->calls.v[0].args)[0].offset = -4)
BREAK(call_aligned, m->arena = 1024; ((KlArg *)(uintptr_t)m->calls.v[1].args)[1].offset = 4)
BREAK(call_written, m->externs.v[1].written = false)
BREAK(call_arena, m->arena = 192)
BREAK(more_kept, m->kept = 512)
BREAK(writes_kept, m->kept = 256)
BREAK(once_elsewhere, m->calls.v[1].once = true)
BREAK(once_reads, (m->kept = 256, m->calls.v[1].once = true, m->externs.v[0].written = true))
BREAK(call_huge, m->kernels.v[0]->bufs.v[0].count = INT64_MAX)

static const Break breaks[] = {
    {NULL, nothing},
    {"mul: an operand is not defined", unknown_value},
    {"mul: an operand is not defined", late_value},
    {"store: an operand is defined in a block that does not enclose", inner_value},
    {"cmp: a value is defined twice", twice},
    {"add: operands of different types", operand_type},
    {"add: result type", result_type},
    {"iota: type", lanes},
    {"cmp: predicate", predicate},
    {"no such instruction", no_op},
    {"add: operand count", few_operands},
    {"for: a body without a yield", no_yield},
    {"if: a body without a yield", if_no_yield},
    {"yield: not last", early_yield},
    {"yield: operand count", yield_count},
    {"yield: a carried value changes its type", yield_type},
    {"for: step", step},
    {"for: bounds", bounds},
    {"for: fold", fold},
    {"store: no such buffer", no_buffer},
    {"load: no such buffer", negative_buffer},
    {"store: writes an input", into_input},
    {"load: type of the value", buffer_type},
    {"load: mask type", mask_lanes},
    {"load: index type", index_type},
    {"if: condition", condition},
    {"shuffle: selector", selector},
    {"negative range", range},
    {"grain", grain},
    {"call 0: no such kernel", call_kernel},
    {"call 0 of @k0: buffer x: no such extern", call_extern},
    {"call 0 of @k0: buffer x: outside", call_offset},
    {"call 0 of @k0: buffer x: offset", call_negative},
    {"call 1 of @k0: buffer y: alignment", call_aligned},
    {"call 0 of @k0: buffer y: writes an extern", call_written},
    {"call 1 of @k0: buffer y: outside", call_arena},
    {"more of the arena is kept", more_kept},
    {"call 1 of @k0: buffer y: stays from run to run", writes_kept},
    {"call 1 of @k0: buffer y: a call marked `once` writes", once_elsewhere},
    {"call 1 of @k0: buffer x: a call marked `once` reads", once_reads},
    {"call 0 of @k0: buffer x: offset", call_huge},
};

static void test_break(void **state) {
    const Break *b = *state;
    KdContext *cx = kd_context_new();
    KdLanding landing;
    if (!KD_TRY(cx, landing)) {
        const char *message;
        kd_failure(cx, &message);
        fail_msg("%s", message);
    }
    KlModule *m = kl_parse_module(cx, "t.kl", text, strlen(text));
    assert_non_null(m);
    KdStr why = {.cx = cx};
    b->damage(m);
    bool ok = kl_verify(m, &why);
    if (!b->want != ok || (b->want && !strstr(why.s, b->want))) fail_msg("expected \"%s\", got \"%s\"", b->want ? b->want : "", ok ? "" : why.s);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest tests[KD_COUNT(breaks)];
    for (int j = 0; j < KD_COUNT(breaks); j++)
        tests[j] = (struct CMUnitTest){.name = breaks[j].want ? breaks[j].want : "sound", .test_func = test_break, .initial_state = (void *)&breaks[j]};
    return _cmocka_run_group_tests("loop_verify", tests, KD_COUNT(breaks), NULL, NULL);
}
