/* print.c: graph IR as canonical text; parse.c reads it back: print(parse(t)) == t. docs/ir.md holds the grammar.
 *
 * One node a line, numbered by its place in the function. An attribute is printed when it differs from the default that its
 * row in ops.def names, in the row's order. Places in source texts are not printed. A float is written with the fewest
 * digits that read back as the same number: elements of f32 leaves as floats, all others as doubles.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/text.h"

static void print_string(KdStr *s, const char *text) {
    kd_str_add(s, "\"", 1);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\') kd_str_printf(s, "\\%c", *c);
        else if (*c == '\n') kd_str_add(s, "\\n", 2);
        else if (*c == '\t') kd_str_add(s, "\\t", 2);
        else if (*c < 32 || *c == 127) kd_str_printf(s, "\\x%02x", *c);
        else kd_str_add(s, (const char *)c, 1);
    }
    kd_str_add(s, "\"", 1);
}

static bool plain_name(const char *name) {
    for (const char *c = name; *c; c++)
        if (!kd_name_char(*c)) return false;
    return *name != 0;
}

static void print_float(KdStr *s, double v, bool single) {
    if (isnan(v)) kd_str_printf(s, "nan");
    else if (isinf(v)) kd_str_printf(s, v < 0 ? "-inf" : "inf");
    else {
        char text[40];
        int digits = 1, most = single ? 9 : 17;
        do snprintf(text, sizeof text, "%.*g", digits, v);
        while (digits++ < most && (single ? strtof(text, NULL) != (float)v : strtod(text, NULL) != v));
        kd_str_printf(s, "%s", text);
    }
}

static bool is_default(const KdAttrSpec *spec, const KdAttr *a) {
    if (spec->required) return false;
    switch (spec->kind) {
    case KD_ATTR_INT: return a->i == spec->def.i;
    case KD_ATTR_FLOAT: return memcmp(&a->f, &spec->def.f, sizeof a->f) == 0;
    case KD_ATTR_STR: return a->s == spec->def.s;
    case KD_ATTR_INTS:
        if (a->ints.n != spec->def.ints.n) return false;
        return !a->ints.n || memcmp(a->ints.v, spec->def.ints.v, (size_t)a->ints.n * sizeof *a->ints.v) == 0;
    case KD_ATTR_FLOATS: break; /* no row has a default list of floats */
    }
    return false;
}

static void print_attr(KdStr *s, KdAttrKind kind, const KdAttr *a, bool single) {
    switch (kind) {
    case KD_ATTR_INT: kd_str_printf(s, "%" PRId64, a->i); break;
    case KD_ATTR_FLOAT: print_float(s, a->f, single); break;
    case KD_ATTR_STR: print_string(s, a->s); break;
    case KD_ATTR_INTS:
        for (int i = 0; i < a->ints.n; i++) kd_str_printf(s, "%s%" PRId64, i ? ", " : "[", a->ints.v[i]);
        kd_str_printf(s, a->ints.n ? "]" : "[]");
        break;
    case KD_ATTR_FLOATS:
        for (int i = 0; i < a->floats.n; i++) {
            kd_str_printf(s, i ? ", " : "[");
            print_float(s, a->floats.v[i], single);
        }
        kd_str_printf(s, a->floats.n ? "]" : "[]");
        break;
    }
}

static void print_node(KdStr *s, const KdFunc *f, KdValue v) {
    const KdNode *n = kd_node(f, v);
    kd_str_printf(s, "%%%u = %s", v, kd_op_info[n->op].name);
    for (int k = 0; k < n->n_in; k++) kd_str_printf(s, "%s%%%u", k ? ", " : "(", n->in[k]);
    if (n->n_in) kd_str_printf(s, ")");
    int count, printed = 0;
    const KdAttrSpec *spec = kd_op_attrs(f->cx, (KdOp)n->op, &count);
    for (int k = 0; k < count; k++) {
        if (is_default(&spec[k], &n->attr[k])) continue;
        kd_str_printf(s, "%s%s=", printed++ ? ", " : " {", spec[k].name);
        print_attr(s, spec[k].kind, &n->attr[k], kd_single_floats((KdOp)n->op, n->type));
    }
    kd_str_printf(s, "%s: %s", printed ? "}" : "", kd_type_text(f->cx, n->type));
}

void kd_print_func(KdStr *s, const KdFunc *f) {
    kd_str_printf(s, "func @");
    if (plain_name(f->name)) kd_str_printf(s, "%s", f->name);
    else print_string(s, f->name);
    kd_str_printf(s, " {\n");
    for (KdValue v = 0; v < f->n; v++) {
        kd_str_printf(s, "  ");
        print_node(s, f, v);
        kd_str_printf(s, "\n");
    }
    for (int k = 0; k < f->outputs.n; k++) {
        const KdOutput *o = &f->outputs.v[k];
        kd_str_printf(s, "  output ");
        print_string(s, o->name);
        kd_str_printf(s, " = %%%u", o->value);
        if (o->updates != KD_NONE) kd_str_printf(s, " updates %%%u", o->updates);
        kd_str_printf(s, "\n");
    }
    kd_str_printf(s, "}\n");
}

void kd_print_module(KdStr *s, const KdModule *m) {
    for (int k = 0; k < m->funcs.n; k++) {
        if (k) kd_str_printf(s, "\n");
        kd_print_func(s, m->funcs.v[k]);
    }
}
