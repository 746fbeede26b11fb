/* test_verify.c: a function that keeps the rules passes; each way to break one, by hand, is found and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ir/ir.h"

static const char good[] = "func @good {\n"
                           "  %0 = input {name=\"x\"}: f32[1, 2, 4, 4]\n"
                           "  %1 = input {name=\"w\", role=\"weight\"}: f32[2, 2, 1, 1]\n"
                           "  %2 = conv2d(%0, %1): f32[1, 2, 4, 4]\n"
                           "  %3 = add(%0, %2): f32[1, 2, 4, 4]\n"
                           "  %4 = concat(%2, %3) {axis=1}: f32[1, 4, 4, 4]\n"
                           "  %5 = mul(%1, %1): f32[2, 2, 1, 1]\n"
                           "  output \"y\" = %4\n"
                           "  output \"w\" = %5 updates %1\n"
                           "}\n";

typedef struct Bench {
    KdContext *cx;
    KdFunc *f;
} Bench;

static KdNode *node(Bench *b, KdValue v) { return &b->f->nodes[v]; }
static KdValue *operands(Bench *b, KdValue v) { return (KdValue *)node(b, v)->in; }
static KdAttr *attrs(Bench *b, KdValue v) { return (KdAttr *)node(b, v)->attr; }
static const KdType *type(Bench *b, int64_t d) { return kd_type(b->cx, KD_F32, 1, &d); }

static void no_op(Bench *b) { node(b, 3)->op = KD_OP_COUNT; }
static void too_few(Bench *b) { node(b, 3)->n_in = 1; }
static void too_many(Bench *b) { node(b, 3)->op = KD_OP_NEG; }
static void no_operands(Bench *b) { node(b, 4)->n_in = 0; }
static void itself(Bench *b) { operands(b, 3)[1] = 3; }
static void a_later_one(Bench *b) { operands(b, 2)[0] = 4; }
static void nothing(Bench *b) { operands(b, 3)[0] = KD_NONE; }
static void no_type(Bench *b) { node(b, 3)->type = NULL; }
static void wrong_type(Bench *b) { node(b, 3)->type = type(b, 32); }
static void own_type(Bench *b) {
    KdType *copy = KD_NEW(b->cx, KdType);
    *copy = *node(b, 3)->type;
    node(b, 3)->type = copy;
}
static void no_attrs(Bench *b) { node(b, 2)->attr = NULL; }
static void wrong_attr(Bench *b) { attrs(b, 4)[0].i = 7; }
static void wrong_ints(Bench *b) { attrs(b, 2)[0].ints.n = 1; }
static void null_ints(Bench *b) { attrs(b, 2)[0].ints.v = NULL; }
static void null_name(Bench *b) { attrs(b, 0)[0].s = NULL; }
static void no_name(Bench *b) { attrs(b, 0)[0].s = kd_intern_z(b->cx, ""); }
static void same_name(Bench *b) { attrs(b, 0)[0].s = kd_intern_z(b->cx, "w"); }
static void role(Bench *b) { attrs(b, 0)[1].s = kd_intern_z(b->cx, "king"); }
static void lost_input(Bench *b) { b->f->inputs.n = 1; }
static void input_order(Bench *b) { b->f->inputs.v[0] = 1, b->f->inputs.v[1] = 0; }
static void no_input(Bench *b) { kd_push(b->cx, &b->f->inputs, 3); }
static void output_of_nothing(Bench *b) { b->f->outputs.v[0].value = 6; }
static void output_names(Bench *b) { b->f->outputs.v[0].name = "w"; }
static void output_name(Bench *b) { b->f->outputs.v[0].name = ""; }
static void updates_a_value(Bench *b) { b->f->outputs.v[1].updates = 5; }
static void updates_other_type(Bench *b) { b->f->outputs.v[1].updates = 0; }
static void updates_twice(Bench *b) { kd_output(b->f, "again", 1, 1); }

static const struct Case {
    const char *name;
    void (*damage)(Bench *b);
    const char *want;
} cases[] = {
    {"an op that does not exist", no_op, "@good: %3 = ?: there is no such op"},
    {"too few operands", too_few, "%3 = add: it has 1 operands"},
    {"too many operands", too_many, "%3 = neg: it has 2 operands"},
    {"variadic, but none", no_operands, "%4 = concat: it has 0 operands"},
    {"an operand is itself", itself, "%3 = add: operand 1 is %3"},
    {"an operand comes later", a_later_one, "%2 = conv2d: operand 0 is %4"},
    {"an operand is nothing", nothing, "%3 = add: operand 0 is"},
    {"no type", no_type, "%3 = add: it has no type"},
    {"the wrong type", wrong_type, "%3 = add: its type is f32[32] and should be f32[1, 2, 4, 4]"},
    {"a type of its own", own_type, "%3 = add: its type is not interned"},
    {"no attributes", no_attrs, "%2 = conv2d: its attributes are missing"},
    {"an attribute out of range", wrong_attr, "%4 = concat: its operands and attributes do not fit"},
    {"a list too short", wrong_ints, "%2 = conv2d: its operands and attributes do not fit"},
    {"a list of nothing", null_ints, "%2 = conv2d: attribute stride has no value"},
    {"a name that is no string", null_name, "%0 = input: attribute name has no value"},
    {"an input without a name", no_name, "%0 = input: its type or attributes are not allowed"},
    {"two inputs of a name", same_name, "%1 = input: two inputs have this name"},
    {"an unknown role", role, "%0 = input: its type or attributes are not allowed"},
    {"an input that is not listed", lost_input, "%1 = input: it is not in its place among the inputs"},
    {"inputs in another order", input_order, "%0 = input: it is not in its place among the inputs"},
    {"a listed input that is none", no_input, "@good: an input is not a node"},
    {"an output of nothing", output_of_nothing, "output \"y\" has no value"},
    {"two outputs of a name", output_names, "two outputs are called \"w\""},
    {"an output without a name", output_name, "an output needs a name"},
    {"an update of a value", updates_a_value, "output \"w\" updates what is no input"},
    {"an update of another type", updates_other_type, "output \"w\" updates an input of another type"},
    {"two updates of one input", updates_twice, "output \"again\" updates an input that another output updates"},
};

static Bench make(void) {
    Bench b = {.cx = kd_context_new()};
    KdModule *m = kd_parse_module(b.cx, "good", good, sizeof good - 1);
    assert_non_null(m);
    b.f = m->funcs.v[0];
    return b;
}

static void whole(void **state) {
    (void)state;
    Bench b = make();
    KdStr why = {.cx = b.cx};
    assert_true(kd_verify(b.f, &why));
    assert_int_equal(why.n, 0);
    assert_int_equal(kd_error_count(b.cx), 0);
    kd_context_free(b.cx);
}

static void broken(void **state) {
    const struct Case *c = *state;
    Bench b = make();
    KdStr why = {.cx = b.cx};
    c->damage(&b);
    assert_false(kd_verify(b.f, &why));
    if (!strstr(why.s, c->want)) fail_msg("said: %s", why.s);
    kd_context_free(b.cx);
}

int main(void) {
    struct CMUnitTest t[KD_COUNT(cases) + 1];
    t[0] = (struct CMUnitTest)cmocka_unit_test(whole);
    for (int k = 0; k < KD_COUNT(cases); k++)
        t[k + 1] = (struct CMUnitTest){cases[k].name, broken, NULL, NULL, (void *)&cases[k]};
    return _cmocka_run_group_tests("verify", t, KD_COUNT(cases) + 1, NULL, NULL);
}
