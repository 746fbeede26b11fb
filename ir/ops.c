/* ops.c: the op table as data, made from ops.def; names, and attributes parsed from the rows' text.
 *
 * A row's attribute text is "name:kind=default ..." with kind int, float, str, ints or floats. It is parsed once per
 * context. The text is ours, so a mistake in it is an internal error, found by the first context that is made in
 * the tests.
 */
#include <stdlib.h>
#include <string.h>

#include "ir/ops/ops.h"

const KdOpInfo kd_op_info[KD_OP_COUNT] = {
#define OP(id, spelling, n_in, cls, infer, grad, elem, eval, flags, attrs)                         \
    [KD_OP_##id] = {spelling,    n_in,        cls,   infer_##infer, grad_##grad,                   \
                    elem_##elem, eval_##eval, flags, attrs},
#include "ir/ops.def"
#undef OP
};

/* ---- rules that say "none" -------------------------------------------------------------------- */

void grad_none(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin) {
    (void)gy;
    for (int i = 0; i < b->f->nodes[n].n_in; i++) gin[i] = KD_NONE;
}

uint32_t elem_none(KdElem *e, KdValue n, const uint32_t *idx) {
    (void)idx;
    kd_raise(e->f->cx, KD_FAIL_INTERNAL, "%s has no element: a pass should have expanded it",
             kd_op_info[e->f->nodes[n].op].name);
}

void eval_none(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    (void)in;
    (void)out;
    kd_raise(f->cx, KD_FAIL_INTERNAL, "%s cannot be evaluated: a pass should have expanded it",
             kd_op_info[n->op].name);
}

/* ---- names and attributes ------------------------------------------------------------------------ */

bool kd_op_by_name(const char *name, KdOp *op) {
    for (int i = 0; i < KD_OP_COUNT; i++)
        if (strcmp(kd_op_info[i].name, name) == 0) {
            *op = (KdOp)i;
            return true;
        }
    return false;
}

typedef struct Attrs {
    int n;
    KdAttrSpec spec[KD_MAX_ATTRS];
} Attrs;

static KdAttrKind attr_kind(KdContext *cx, const char *s, size_t n) {
    static const char *const word[] = {"int", "float", "str", "ints", "floats"};
    for (int i = 0; i < KD_COUNT(word); i++)
        if (strlen(word[i]) == n && memcmp(word[i], s, n) == 0) return (KdAttrKind)i;
    kd_raise(cx, KD_FAIL_INTERNAL, "ops.def: unknown attribute kind '%.*s'", (int)n, s);
}

static KdAttr attr_default(KdContext *cx, KdAttrKind kind, const char *s, size_t n) {
    char *text = kd_alloc(cx, n + 1);
    memcpy(text, s, n);
    KdAttr a = {0};
    switch (kind) {
    case KD_ATTR_INT: a.i = strtoll(text, NULL, 10); break;
    case KD_ATTR_FLOAT: a.f = strtod(text, NULL); break;
    case KD_ATTR_STR: a.s = kd_intern(cx, text, n); break;
    case KD_ATTR_INTS: {
        KD_VEC(int64_t) v = {0};
        for (char *p = text; *p;) {
            kd_push(cx, &v, strtoll(p, &p, 10));
            if (*p == ',') p++;
        }
        a.ints = (KdInts){v.n, v.v};
        break;
    }
    case KD_ATTR_FLOATS: break; /* no row has a default list of floats */
    }
    return a;
}

static void parse_attrs(KdContext *cx, const char *s, Attrs *out) {
    while (*s) {
        size_t word = strcspn(s, " ");
        size_t name = strcspn(s, ":");
        const char *kind = s + name + 1;
        size_t kind_n = strcspn(kind, "= ");
        const char *def = kind[kind_n] == '=' ? kind + kind_n + 1 : NULL;
        if (name >= word || out->n == KD_MAX_ATTRS)
            kd_raise(cx, KD_FAIL_INTERNAL, "ops.def: bad attribute text at '%s'", s);
        KdAttrSpec *a = &out->spec[out->n++];
        a->name = kd_intern(cx, s, name);
        a->kind = attr_kind(cx, kind, kind_n);
        a->required = !def;
        if (def) a->def = attr_default(cx, a->kind, def, (size_t)(s + word - def));
        s += word;
        while (*s == ' ') s++;
    }
}

const KdAttrSpec *kd_op_attrs(KdContext *cx, KdOp op, int *n) {
    void **slot = kd_context_ops(cx);
    if (!*slot) {
        Attrs *all = KD_NEW_ARRAY(cx, Attrs, KD_OP_COUNT);
        for (int i = 0; i < KD_OP_COUNT; i++) parse_attrs(cx, kd_op_info[i].attr_text, &all[i]);
        *slot = all;
    }
    const Attrs *a = &((const Attrs *)*slot)[op];
    *n = a->n;
    return a->spec;
}

int kd_attr_index(KdContext *cx, KdOp op, const char *name) {
    int n;
    const KdAttrSpec *a = kd_op_attrs(cx, op, &n);
    for (int i = 0; i < n; i++)
        if (strcmp(a[i].name, name) == 0) return i;
    return -1;
}

static const KdAttr *attr_of(const KdFunc *f, const KdNode *n, const char *name) {
    int i = kd_attr_index(f->cx, (KdOp)n->op, name);
    if (i < 0) kd_raise(f->cx, KD_FAIL_INTERNAL, "%s has no attribute '%s'", kd_op_info[n->op].name, name);
    return &n->attr[i];
}

int64_t kd_attr_int(const KdFunc *f, const KdNode *n, const char *name) { return attr_of(f, n, name)->i; }
double kd_attr_float(const KdFunc *f, const KdNode *n, const char *name) { return attr_of(f, n, name)->f; }
const char *kd_attr_str(const KdFunc *f, const KdNode *n, const char *name) { return attr_of(f, n, name)->s; }
KdInts kd_attr_ints(const KdFunc *f, const KdNode *n, const char *name) { return attr_of(f, n, name)->ints; }
KdFloats kd_attr_floats(const KdFunc *f, const KdNode *n, const char *name) { return attr_of(f, n, name)->floats; }

const char *const kd_role_name[KD_ROLE_COUNT] = {"data", "weight", "buffer", "state", "frozen"};

KdRole kd_input_role(const KdFunc *f, KdValue input) {
    const char *s = kd_attr_str(f, kd_node(f, input), "role");
    for (int i = 0; i < KD_ROLE_COUNT; i++)
        if (strcmp(kd_role_name[i], s) == 0) return (KdRole)i;
    kd_raise(f->cx, KD_FAIL_INTERNAL, "input '%s' has the unknown role '%s'",
             kd_attr_str(f, kd_node(f, input), "name"), s);
}
