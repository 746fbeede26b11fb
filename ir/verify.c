/* verify.c: does a function keep what the builder promises? Driven by the op table alone.
 *
 * Every node: a known op, as many operands as its row says, all of them earlier nodes; attributes present; and its type
 * is what the op's infer gives for these operands and attributes (for leaves: what kd_check_typed accepts). The whole:
 * f->inputs are the INPUT nodes in order, with distinct names; outputs have distinct names, name existing values, and
 * update inputs of their own type, none twice. infer may leave a diagnostic that says more than *why.
 */
#include <string.h>

#include "ir/ir.h"

typedef struct Verify {
    const KdFunc *f;
    KdStr *why;
} Verify;

static bool bad_node(Verify *c, KdValue v, const char *what) {
    const KdNode *n = &c->f->nodes[v];
    const char *op = n->op < KD_OP_COUNT ? kd_op_info[n->op].name : "?";
    kd_str_printf(c->why, "@%s: %%%u = %s: %s", c->f->name, v, op, what);
    return false;
}

static bool attrs_present(Verify *c, KdValue v) {
    const KdNode *n = &c->f->nodes[v];
    int count;
    const KdAttrSpec *spec = kd_op_attrs(c->f->cx, n->op, &count);
    if (count && !n->attr) return bad_node(c, v, "its attributes are missing");
    for (int k = 0; k < count; k++) {
        bool there = true;
        switch (spec[k].kind) {
        case KD_ATTR_INT:
        case KD_ATTR_FLOAT: break;
        case KD_ATTR_STR: there = n->attr[k].s != NULL; break;
        case KD_ATTR_INTS: there = n->attr[k].ints.n >= 0 && (!n->attr[k].ints.n || n->attr[k].ints.v); break;
        case KD_ATTR_FLOATS:
            there = n->attr[k].floats.n >= 0 && (!n->attr[k].floats.n || n->attr[k].floats.v);
            break;
        }
        if (!there) return bad_node(c, v, kd_format(c->f->cx, "attribute %s has no value", spec[k].name));
    }
    return true;
}

static bool node_ok(Verify *c, KdValue v) {
    const KdFunc *f = c->f;
    const KdNode *n = &f->nodes[v];
    if (n->op >= KD_OP_COUNT) return bad_node(c, v, "there is no such op");
    const KdOpInfo *op = &kd_op_info[n->op];
    if (op->flags & KD_VARIADIC ? n->n_in < 1 : n->n_in != op->n_in)
        return bad_node(c, v, kd_format(f->cx, "it has %d operands", n->n_in));
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] >= v)
            return bad_node(c, v, kd_format(f->cx, "operand %d is %%%u, which is no earlier node", k, n->in[k]));
    if (!n->type) return bad_node(c, v, "it has no type");
    if (kd_type(f->cx, n->type->dtype, n->type->rank, n->type->dim) != n->type)
        return bad_node(c, v, "its type is not interned");
    if (!attrs_present(c, v)) return false;
    KdBuilder b = kd_builder((KdFunc *)f); /* infer only reads it */
    b.loc = n->loc;
    if (op->flags & KD_TYPED)
        return kd_check_typed(&b, n->op, n->type, n->attr) || bad_node(c, v, "its type or attributes are not allowed");
    const KdType *t = op->infer(&b, n->op, n->in, n->n_in, n->attr);
    if (!t) return bad_node(c, v, "its operands and attributes do not fit");
    if (t != n->type)
        return bad_node(c, v, kd_format(f->cx, "its type is %s and should be %s", kd_type_text(f->cx, n->type),
                                        kd_type_text(f->cx, t)));
    return true;
}

static bool bad(Verify *c, const char *what) {
    kd_str_printf(c->why, "@%s: %s", c->f->name, what);
    return false;
}

/* Interned names, so that equal means the same pointer. */
static bool fresh_name(KdMap *seen, const char *name) {
    if (kd_map_get(seen, (uint64_t)(uintptr_t)name, NULL)) return false;
    kd_map_put(seen, (uint64_t)(uintptr_t)name, 1);
    return true;
}

static bool inputs_ok(Verify *c) {
    const KdFunc *f = c->f;
    KdMap seen = {.cx = f->cx};
    int k = 0;
    for (KdValue v = 0; v < f->n; v++) {
        if (f->nodes[v].op != KD_OP_INPUT) continue;
        if (k >= f->inputs.n || f->inputs.v[k++] != v) return bad_node(c, v, "it is not in its place among the inputs");
        const char *name = kd_attr_str(f, &f->nodes[v], "name");
        if (!*name) return bad_node(c, v, "an input needs a name");
        if (!fresh_name(&seen, name)) return bad_node(c, v, "two inputs have this name");
    }
    return k == f->inputs.n || bad(c, "an input is not a node");
}

static bool outputs_ok(Verify *c) {
    const KdFunc *f = c->f;
    KdMap seen = {.cx = f->cx}, updated = {.cx = f->cx};
    for (int k = 0; k < f->outputs.n; k++) {
        const KdOutput *o = &f->outputs.v[k];
        if (!o->name || !*o->name) return bad(c, "an output needs a name");
        const char *name = kd_intern_z(f->cx, o->name);
        if (!fresh_name(&seen, name)) return bad(c, kd_format(f->cx, "two outputs are called \"%s\"", name));
        if (o->value >= f->n) return bad(c, kd_format(f->cx, "output \"%s\" has no value", name));
        if (o->updates == KD_NONE) continue;
        if (o->updates >= f->n || f->nodes[o->updates].op != KD_OP_INPUT)
            return bad(c, kd_format(f->cx, "output \"%s\" updates what is no input", name));
        if (kd_vtype(f, o->updates) != kd_vtype(f, o->value))
            return bad(c, kd_format(f->cx, "output \"%s\" updates an input of another type", name));
        if (kd_map_get(&updated, o->updates, NULL))
            return bad(c, kd_format(f->cx, "output \"%s\" updates an input that another output updates", name));
        kd_map_put(&updated, o->updates, 1);
    }
    return true;
}

bool kd_verify(const KdFunc *f, KdStr *why) {
    Verify c = {f, why};
    for (KdValue v = 0; v < f->n; v++)
        if (!node_ok(&c, v)) return false;
    return inputs_ok(&c) && outputs_ok(&c);
}
