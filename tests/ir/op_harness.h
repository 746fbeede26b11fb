/* op_harness.h: one row of text tests one op on one shape. Shared by test_ops_a.c and test_ops_b.c.
 *
 * A row says the op, its operands' types and how to fill them, and its attributes:
 *
 *     kh_add(s, (KhCase){KD_OP_PAD, "2x3 ", "lo=0,1 hi=1,0 interior=0,0"});
 *
 * operands: types separated by blanks, each `[fill:]dims`; dims as 2x3x4, `s` for a scalar. For KD_TYPED ops the text is the
 * result's type. Fills (the values are exact in float, and the same in every run):
 *     n  f32 in [-2, 2], all distinct, away from 0 and +-1: where gradients exist (the default)
 *     p  f32 in [0.3, 2.5], all distinct          m  f32, 0 or 1         c  f32 small integers: ties, zeros
 *     iK i32 in 0..K-1                            j  i32 in -100..100    u  u8
 * attrs: `name=value` separated by blanks; lists as 1,2,3 or empty; what is not named has its default.
 *
 * Running a row (kh_run_case, as a cmocka test):
 *   1. forward: kd_eval gives `want` (literal values) or what `reference` computes, where the row has one;
 *   2. gradient: the op's gradient rule against central differences of kd_eval, eps 1e-6, atol 1e-5, rtol 1e-3;
 *   3. its gradient: likewise, by a small reverse mode of our own over the nodes the rule made;
 *   4. element rule: a kernel that calls it for every element (once over a flat index, once in nested loops split at
 *      the borders, so that known ranges fold), run by kl_eval, against kd_eval to 1e-5.
 * A row with `error` must instead be refused with a diagnostic that contains that text.
 * kh_coverage fails when an op of the family has fewer than ten rows, so that no op goes untested; kh_garbage feeds
 * every op of the family nonsense attributes, which must be diagnosed.
 */
#ifndef KD_OP_HARNESS_H
#define KD_OP_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ir/elem.h"
#include "ir/ir.h"
#include "ir/loop.h"

enum { /* KhCase.flags */
    KH_NO_GRAD = 1,    /* not checked against differences (kinks on purpose); grad_none ops need no flag */
    KH_NO_GRAD2 = 2,   /* the first gradient is checked, its own is not */
    KH_NO_ELEM = 4,    /* no element rule (stored leaves) */
};

/* The independent expectation: in[k] are the operands' elements, of types t[k]. */
typedef void KhReference(const KdType *const *t, int n_in, const double *const *in,
                         const KdType *result, double *want);

typedef struct KhCase {
    KdOp op;
    const char *operands, *attrs;
    const double *values; /* operands' elements, one after the other, instead of the fills; or NULL */
    const double *want;   /* the result's elements, or NULL */
    KhReference *reference;
    const char *error; /* expected diagnostic */
    unsigned flags;
    double tolerance; /* of the element rule, relative; 0: 1e-5 */
} KhCase;

typedef struct KhSuite {
    KdContext *cx;
    KD_VEC(KhCase *) cases;
} KhSuite;

static inline KhSuite kh_suite(void) {
    KhSuite s = {.cx = kd_context_new()};
    assert_non_null(s.cx);
    return s;
}

static inline void kh_add(KhSuite *s, KhCase c) {
    KhCase *copy = KD_NEW(s->cx, KhCase);
    *copy = c;
    if (!copy->attrs) copy->attrs = "";
    kd_push(s->cx, &s->cases, copy);
}

/* One row per shape: every `%` in the operands' pattern is replaced by the shape. */
static inline void kh_cross(KhSuite *s, KhCase c, const char *const *shapes, int n) {
    const char *pattern = c.operands;
    for (int i = 0; i < n; i++) {
        KdStr text = {.cx = s->cx};
        for (const char *p = pattern; *p; p++)
            if (*p == '%') kd_str_printf(&text, "%s", shapes[i]);
            else kd_str_add(&text, p, 1);
        c.operands = text.s;
        kh_add(s, c);
    }
}

/* ---- reading the row --------------------------------------------------------------------------- */

#define KH_MAX_IN 8

typedef struct KhOperand {
    char fill;
    int64_t limit;
    const KdType *type;
} KhOperand;

static inline uint64_t kh_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline KhOperand kh_parse_operand(KdContext *cx, const char *word) {
    KhOperand o = {.fill = 'n'};
    const char *p = strchr(word, ':');
    if (p) {
        o.fill = word[0];
        o.limit = strtoll(word + 1, NULL, 10);
        p++;
    } else {
        p = word;
    }
    int64_t dim[KD_MAX_RANK];
    int rank = 0;
    if (*p != 's') {
        for (char *end; *p; p = *end == 'x' ? end + 1 : end) {
            assert_true(rank < KD_MAX_RANK);
            dim[rank++] = strtoll(p, &end, 10);
            assert_true(end != p);
        }
    }
    KdDType d = strchr("ij", o.fill) ? KD_I32 : o.fill == 'u' ? KD_U8 : KD_F32;
    o.type = kd_type(cx, d, rank, dim);
    assert_non_null(o.type);
    return o;
}

static inline int kh_parse_operands(KdContext *cx, const char *text, KhOperand *o) {
    int n = 0;
    char word[128];
    for (int used; sscanf(text, " %127s%n", word, &used) == 1; text += used) {
        assert_true(n < KH_MAX_IN);
        o[n++] = kh_parse_operand(cx, word);
    }
    return n;
}

static inline KdAttr kh_parse_attr(KdContext *cx, KdAttrKind kind, char *text) {
    KdAttr a = {0};
    KD_VEC(int64_t) ints = {0};
    KD_VEC(double) floats = {0};
    switch (kind) {
    case KD_ATTR_INT: a.i = strtoll(text, NULL, 10); break;
    case KD_ATTR_FLOAT: a.f = strtod(text, NULL); break;
    case KD_ATTR_STR: a.s = kd_intern_z(cx, text); break;
    case KD_ATTR_INTS:
        for (char *w = strtok(text, ","); w; w = strtok(NULL, ","))
            kd_push(cx, &ints, strtoll(w, NULL, 10));
        a.ints = (KdInts){ints.n, ints.v};
        break;
    case KD_ATTR_FLOATS:
        for (char *w = strtok(text, ","); w; w = strtok(NULL, ","))
            kd_push(cx, &floats, strtod(w, NULL));
        a.floats = (KdFloats){floats.n, floats.v};
        break;
    }
    return a;
}

static inline KdAttr *kh_parse_attrs(KdContext *cx, KdOp op, const char *text) {
    int n;
    const KdAttrSpec *spec = kd_op_attrs(cx, op, &n);
    KdAttr *a = KD_NEW_ARRAY(cx, KdAttr, KD_MAX_ATTRS);
    for (int i = 0; i < n; i++) a[i] = spec[i].def;
    char word[1024];
    for (int used; sscanf(text, " %1023s%n", word, &used) == 1; text += used) {
        char *value = strchr(word, '=');
        assert_non_null(value);
        *value++ = 0;
        int i = kd_attr_index(cx, op, word);
        if (i < 0) fail_msg("%s has no attribute %s", kd_op_info[op].name, word);
        a[i] = kh_parse_attr(cx, spec[i].kind, value);
    }
    return a;
}

/* 0..1 onto [-2, 2] without the neighbourhoods (1/32) of -1, 0 and 1, on a grid that is exact in float. */
static inline double kh_smooth(double unit) {
    static const double piece[4][2] = {
        {-2, -1.03125}, {-0.96875, -0.03125}, {0.03125, 0.96875}, {1.03125, 2}};
    double x = unit * 3.8125;
    int i = 0;
    for (; i < 3 && x > piece[i][1] - piece[i][0]; i++) x -= piece[i][1] - piece[i][0];
    return floor((piece[i][0] + x) * 0x1p16) * 0x1p-16;
}

/* Distinct values, also between operands (their seeds differ by 1), lie far wider apart than the differences' step. */
static inline void kh_fill(const KhOperand *o, uint64_t seed, double *v) {
    uint64_t state = seed;
    int64_t n = o->type->count;
    double offset = 0.05 + 0.9 * fmod((double)(seed % 1000) * 0.6180339887, 1);
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = kh_random(&state);
        double unit = ((double)i + offset) / (double)n; /* shuffled below: distinct and scattered */
        switch (o->fill) {
        case 'n': v[i] = kh_smooth(unit); break;
        case 'p': v[i] = floor((0.3 + 2.2 * unit) * 0x1p16) * 0x1p-16; break;
        case 'm': v[i] = (double)(r >> 40 & 1); break;
        case 'c': v[i] = (double)(int64_t)(r % 7) - 3; break;
        case 'i': v[i] = (double)(r % (uint64_t)(o->limit ? o->limit : 1)); break;
        case 'j': v[i] = (double)(int64_t)(r % 201) - 100; break;
        case 'u': v[i] = (double)(r & 255); break;
        default: fail_msg("unknown fill %c", o->fill);
        }
    }
    if (o->fill != 'n' && o->fill != 'p') return;
    for (int64_t i = n - 1; i > 0; i--) { /* shuffle */
        int64_t j = (int64_t)(kh_random(&state) % (uint64_t)(i + 1));
        double t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
}

/* ---- one case, built --------------------------------------------------------------------------- */

typedef struct KhRun {
    const KhCase *c;
    KdContext *cx;
    KdFunc *f; /* inputs: the operands; output: the op's result */
    KdBuilder b;
    int n_in;
    KhOperand operand[KH_MAX_IN];
    KdValue in[KH_MAX_IN];
    double *data[KH_MAX_IN];
    const KdAttr *attrs;
    KdValue node;
    const KdType *type; /* of the result */
    double *result;     /* by kd_eval */
} KhRun;

static inline char *kh_diagnostics(KdContext *cx) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    kd_diag_print(cx, out, false);
    fclose(out);
    return text; /* freed by the caller */
}

/* Builds the row's function and evaluates it. r->node is KD_NONE when it was refused. */
static inline void kh_start(KhRun *r, const KhCase *c) {
    *r = (KhRun){.c = c, .cx = kd_context_new()};
    assert_non_null(r->cx);
    r->f = kd_func_new(r->cx, "f");
    r->b = kd_builder(r->f);
    r->n_in = kh_parse_operands(r->cx, c->operands, r->operand);
    bool typed = kd_op_info[c->op].flags & KD_TYPED;
    const KdType *type = typed ? r->operand[0].type : NULL;
    if (typed) r->n_in = 0;
    const double *values = c->values;
    for (int k = 0; k < r->n_in; k++) {
        const KdType *t = r->operand[k].type;
        r->in[k] = kd_input(&r->b, kd_format(r->cx, "x%d", k), KD_DATA, t, "");
        r->data[k] = KD_NEW_ARRAY(r->cx, double, t->count + 1);
        if (values) {
            memcpy(r->data[k], values, sizeof(double) * (size_t)t->count);
            values += t->count;
        } else {
            kh_fill(&r->operand[k], 77u + (unsigned)k, r->data[k]);
        }
    }
    if (c->op == KD_OP_INPUT) { /* it is its own data */
        r->data[0] = KD_NEW_ARRAY(r->cx, double, type->count + 1);
        kh_fill(&r->operand[0], 77, r->data[0]);
    }
    r->attrs = kh_parse_attrs(r->cx, c->op, c->attrs);
    r->node = kd_build(&r->b, c->op, type, r->in, r->n_in, r->attrs);
    if (r->node == KD_NONE) return;
    r->type = kd_vtype(r->f, r->node);
    kd_output(r->f, "y", r->node, KD_NONE);
    r->result = KD_NEW_ARRAY(r->cx, double, r->type->count + 1);
}

static inline void kh_verify(const KdFunc *f) {
    KdStr why = {.cx = f->cx};
    if (!kd_verify(f, &why)) fail_msg("the verifier objects: %s", why.s);
}

static inline bool kh_close(double got, double want, double rtol, double atol) {
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got)) return want == got;
    return fabs(got - want) <= atol + rtol * fabs(want);
}

static inline void kh_compare(const char *what, const double *got, const double *want, int64_t n,
                              double rtol, double atol) {
    for (int64_t i = 0; i < n; i++)
        if (!kh_close(got[i], want[i], rtol, atol))
            fail_msg("%s: element %lld is %.9g, expected %.9g", what, (long long)i, got[i], want[i]);
}

/* ---- gradients --------------------------------------------------------------------------------- */

/* Adds v to the adjoint of node x. */
static inline void kh_accumulate(KdBuilder *b, KdValue *adjoint, KdValue x, KdValue v) {
    if (v == KD_NONE) return;
    assert_ptr_equal(kd_vtype(b->f, x), kd_vtype(b->f, v));
    adjoint[x] = adjoint[x] == KD_NONE ? v : kd_binary(b, KD_OP_ADD, adjoint[x], v);
}

/* The least reverse mode: adjoint[0..n) holds the seeds; every node below n passes its adjoint on. */
static inline void kh_reverse(KdBuilder *b, KdValue *adjoint, uint32_t n) {
    for (uint32_t i = n; i-- > 0;) {
        if (adjoint[i] == KD_NONE) continue;
        KdNode node = *kd_node(b->f, i); /* a copy: building moves the nodes */
        KdValue gin[16];
        assert_true(node.n_in <= KD_COUNT(gin));
        for (int k = 0; k < KD_COUNT(gin); k++) gin[k] = KD_NONE;
        kd_op_info[node.op].grad(b, i, adjoint[i], gin);
        for (int k = 0; k < node.n_in; k++) kh_accumulate(b, adjoint, node.in[k], gin[k]);
    }
}

/* A function of inputs to be differentiated numerically: L(inputs) = sum over k of <weight[k], output k>. */
typedef struct KhObjective {
    const KdFunc *f;
    double **in, **out;
    double **weight; /* by output; NULL: not part of it */
} KhObjective;

static inline double kh_objective(const KhObjective *o) {
    kd_eval(o->f, (const double *const *)o->in, o->out);
    double sum = 0;
    for (int k = 0; k < o->f->outputs.n; k++) {
        if (!o->weight[k]) continue;
        int64_t n = kd_vtype(o->f, o->f->outputs.v[k].value)->count;
        for (int64_t i = 0; i < n; i++) sum += o->weight[k][i] * o->out[k][i];
    }
    return sum;
}

/* Compares grad (of L by input k) with central differences, at up to 20 elements. */
static inline void kh_differences(const KhObjective *o, int k, const double *grad, const char *what) {
    const double eps = 1e-6;
    int64_t n = kd_vtype(o->f, o->f->inputs.v[k])->count, step = n <= 20 ? 1 : n / 17;
    for (int64_t i = 0; i < n; i += step) {
        double x = o->in[k][i];
        o->in[k][i] = x + eps;
        double hi = kh_objective(o);
        o->in[k][i] = x - eps;
        double lo = kh_objective(o);
        o->in[k][i] = x;
        double want = (hi - lo) / (2 * eps);
        if (!kh_close(grad[i], want, 1e-3, 1e-5))
            fail_msg("%s by operand %d: element %lld is %.9g, differences give %.9g", what, k,
                     (long long)i, grad[i], want);
    }
}

static inline double *kh_seeds(KdContext *cx, const KdType *t, uint64_t seed) {
    double *v = KD_NEW_ARRAY(cx, double, t->count + 1);
    KhOperand o = {.fill = 'n', .type = t};
    kh_fill(&o, seed, v);
    return v;
}

/* The second gradient: f2 has inputs x0.. and w; gin[] are its first gradients. */
static inline void kh_second(KhRun *r, const KdFunc *first, KdFunc *f, KdBuilder *b,
                             const KdValue *gin, double **in, int n_inputs) {
    KdContext *cx = r->cx;
    uint32_t n = f->n;
    KdValue *adjoint = KD_NEW_ARRAY(cx, KdValue, n);
    for (uint32_t i = 0; i < n; i++) adjoint[i] = KD_NONE;
    double **seeds = KD_NEW_ARRAY(cx, double *, r->n_in + 1);
    double **all = KD_NEW_ARRAY(cx, double *, n_inputs + r->n_in);
    int n_all = n_inputs, n_out = 0;
    memcpy(all, in, sizeof(double *) * (size_t)n_inputs);
    for (int k = 0; k < r->n_in; k++) {
        if (gin[k] == KD_NONE) continue;
        const KdType *t = kd_vtype(f, gin[k]);
        seeds[n_out] = kh_seeds(cx, t, 1234u + (unsigned)k);
        KdValue v = kd_input(b, kd_format(cx, "v%d", k), KD_DATA, t, "");
        all[n_all++] = seeds[n_out++];
        kh_accumulate(b, adjoint, gin[k], v);
    }
    kh_reverse(b, adjoint, n);
    assert_int_equal(kd_error_count(cx), 0);

    double **out2 = KD_NEW_ARRAY(cx, double *, n_inputs);
    int place[KH_MAX_IN + 1];
    for (int k = 0; k < n_inputs; k++) {
        place[k] = -1;
        KdValue x = f->inputs.v[k];
        if (kd_vtype(f, x)->dtype != KD_F32) continue;
        KdValue g = adjoint[x] == KD_NONE ? kd_zero_like(b, x) : adjoint[x];
        place[k] = f->outputs.n;
        out2[place[k]] = KD_NEW_ARRAY(cx, double, kd_vtype(f, g)->count + 1);
        kd_output(f, kd_format(cx, "g%d", k), g, KD_NONE);
    }
    kh_verify(f);
    kd_eval(f, (const double *const *)all, out2);

    double **out1 = KD_NEW_ARRAY(cx, double *, first->outputs.n);
    for (int k = 0; k < first->outputs.n; k++)
        out1[k] = KD_NEW_ARRAY(cx, double, kd_vtype(first, first->outputs.v[k].value)->count + 1);
    KhObjective o = {first, in, out1, seeds};
    for (int k = 0; k < n_inputs; k++)
        if (place[k] >= 0) kh_differences(&o, k, out2[place[k]], "second gradient");
}

/* Builds x.. -> op -> gradients by w into f; fills gin. Outputs are added for the gradients that exist. */
static inline KdFunc *kh_first(KhRun *r, KdBuilder *b, KdValue *gin, bool outputs) {
    KdFunc *f = kd_func_new(r->cx, "g");
    *b = kd_builder(f);
    KdValue in[KH_MAX_IN];
    for (int k = 0; k < r->n_in; k++) {
        in[k] = kd_input(b, kd_format(r->cx, "x%d", k), KD_DATA, r->operand[k].type, "");
        gin[k] = KD_NONE;
    }
    KdValue y = kd_build(b, r->c->op, NULL, in, r->n_in, r->attrs);
    KdValue w = kd_input(b, "w", KD_DATA, r->type, "");
    /* The builder may have simplified the op away: then its gradient is that of what it became. */
    uint32_t n = f->n;
    KdValue *adjoint = KD_NEW_ARRAY(r->cx, KdValue, n);
    for (uint32_t i = 0; i < n; i++) adjoint[i] = KD_NONE;
    adjoint[y] = w;
    kh_reverse(b, adjoint, n);
    for (int k = 0; k < r->n_in; k++) {
        gin[k] = adjoint[in[k]];
        if (gin[k] != KD_NONE && outputs) kd_output(f, kd_format(r->cx, "g%d", k), gin[k], KD_NONE);
    }
    assert_int_equal(kd_error_count(r->cx), 0);
    return f;
}

static inline void kh_gradients(KhRun *r) {
    const KhCase *c = r->c;
    KdContext *cx = r->cx;
    if (r->n_in == 0 || r->type->dtype != KD_F32 || (c->flags & KH_NO_GRAD)) return;
    KdBuilder b;
    KdValue gin[KH_MAX_IN];
    KdFunc *f = kh_first(r, &b, gin, true);
    kh_verify(f);
    double *in[KH_MAX_IN + 1];
    for (int k = 0; k < r->n_in; k++) in[k] = r->data[k];
    double *w = in[r->n_in] = kh_seeds(cx, r->type, 99);

    double **out = KD_NEW_ARRAY(cx, double *, r->n_in + 1);
    for (int k = 0; k < f->outputs.n; k++)
        out[k] = KD_NEW_ARRAY(cx, double, kd_vtype(f, f->outputs.v[k].value)->count + 1);
    kd_eval(f, (const double *const *)in, out);
    double *result[1] = {KD_NEW_ARRAY(cx, double, r->type->count + 1)};
    KhObjective o = {r->f, in, result, &w};
    int place = 0;
    for (int k = 0; k < r->n_in; k++) {
        if (gin[k] != KD_NONE) {
            assert_ptr_equal(kd_vtype(f, gin[k]), r->operand[k].type);
            kh_differences(&o, k, out[place++], "gradient");
        }
    }
    if (!place || (c->flags & KH_NO_GRAD2)) return;
    KdBuilder b2;
    KdFunc *f2 = kh_first(r, &b2, gin, false);
    kh_second(r, f, f2, &b2, gin, in, r->n_in + 1);
}

/* ---- element rule ------------------------------------------------------------------------------ */

static inline KlScalar kh_scalar(KdDType d) {
    return d == KD_F32 ? KL_F32 : d == KD_I32 ? KL_I32 : KL_U8;
}

/* Elements of u8 tensors are i32. */
static inline KlValue kh_widen(KdElem *e, KdDType d, KlValue v) {
    return d == KD_U8 ? kl_cvt(e->b, KL_I32, v) : v;
}

/* The kernel's buffer holding v: operand k of the row is buffer k. -1: a node the builder made, computed in place. */
static inline int kh_buffer(const KdElem *e, KdValue v) {
    const KhRun *r = e->user;
    for (int k = 0; k < r->n_in; k++)
        if (r->in[k] == v) return k;
    return -1;
}

static inline KlValue kh_value(KdElem *e, KdValue v, const KlValue *idx) {
    const KdType *t = kd_vtype(e->f, v);
    int buf = kh_buffer(e, v);
    if (buf < 0) return kd_elem(e, v, idx);
    return kh_widen(e, t->dtype, kl_load(e->b, buf, kd_linear_index(e->b, t, idx), 1));
}

static inline KlValue kh_operand(KdElem *e, KdValue n, int k, const KlValue *idx) {
    return kh_value(e, kd_node(e->f, n)->in[k], idx);
}

static inline KlValue kh_operand_linear(KdElem *e, KdValue n, int k, KlValue linear) {
    KdValue v = kd_node(e->f, n)->in[k];
    KlValue idx[KD_MAX_RANK + 1];
    int buf = kh_buffer(e, v);
    if (buf >= 0) return kh_widen(e, kd_vtype(e->f, v)->dtype, kl_load(e->b, buf, linear, 1));
    kd_unlinear_index(e->b, kd_vtype(e->f, v), linear, idx);
    return kd_elem(e, v, idx);
}

static inline KlValue kh_operand_if(KdElem *e, KdValue n, int k, const KlValue *idx, KlValue cond,
                                    KlValue els) {
    KdValue v = kd_node(e->f, n)->in[k];
    const KdType *t = kd_vtype(e->f, v);
    int buf = kh_buffer(e, v);
    if (buf < 0) return kl_select(e->b, cond, kd_elem(e, v, idx), els);
    if (t->dtype == KD_U8) els = kl_cvt(e->b, KL_U8, els);
    KlValue i = kd_linear_index(e->b, t, idx);
    return kh_widen(e, t->dtype, kl_load_if(e->b, buf, i, cond, els));
}

static inline void kh_store(KdElem *e, const KhRun *r, const KlValue *idx) {
    KlValue v = kh_value(e, r->node, idx);
    if (r->type->dtype == KD_U8) v = kl_cvt(e->b, KL_U8, v);
    kl_store(e->b, r->n_in, kd_linear_index(e->b, r->type, idx), v);
}

/* Loops over dims d.. of the result; the last two are split at their borders. */
static inline void kh_nest(KdElem *e, const KhRun *r, int d, KlValue *idx) {
    if (d == r->type->rank) {
        kh_store(e, r, idx);
        return;
    }
    int64_t n = r->type->dim[d], cut = n / 3;
    int64_t bound[4] = {0, cut, n - cut, n};
    if (d < r->type->rank - 2) bound[1] = 0, bound[2] = n;
    for (int i = 0; i < 3; i++) {
        if (bound[i] == bound[i + 1]) continue;
        KlFor l = kl_for_begin(e->b, kl_i64(e->b, bound[i]), kl_i64(e->b, bound[i + 1]), 1, 0, NULL);
        idx[d] = l.i;
        kh_nest(e, r, d + 1, idx);
        kl_for_end(e->b, &l, NULL, NULL);
    }
}

static inline void *kh_narrow(KdContext *cx, const KdType *t, const double *v) {
    void *p = kd_alloc(cx, (size_t)(t->count + 1) * 4);
    for (int64_t i = 0; v && i < t->count; i++) {
        if (t->dtype == KD_F32) ((float *)p)[i] = (float)v[i];
        else if (t->dtype == KD_I32) ((int32_t *)p)[i] = (int32_t)v[i];
        else ((uint8_t *)p)[i] = (uint8_t)v[i];
    }
    return p;
}

static inline void kh_widen_result(const KdType *t, const void *p, double *v) {
    for (int64_t i = 0; i < t->count; i++)
        v[i] = t->dtype == KD_F32   ? (double)((const float *)p)[i]
               : t->dtype == KD_I32 ? (double)((const int32_t *)p)[i]
                                    : (double)((const uint8_t *)p)[i];
}

static inline void kh_element_rule(KhRun *r, bool nested) {
    KdContext *cx = r->cx;
    const KdType *t = r->type;
    if (t->count == 0) return;
    KlModule *m = kl_module_new(cx, "test");
    KlKernel *k = kl_kernel_new(cx, kd_op_info[r->c->op].name, nested ? 1 : t->count);
    void *memory[KH_MAX_IN + 1];
    KlArg *args = KD_NEW_ARRAY(cx, KlArg, r->n_in + 1);
    for (int i = 0; i <= r->n_in; i++) {
        const KdType *ti = i < r->n_in ? r->operand[i].type : t;
        KlScalar s = kh_scalar(ti->dtype);
        kl_buf(k, kd_format(cx, "b%d", i), s, ti->count, i < r->n_in ? KL_IN : KL_OUT);
        kd_push(cx, &m->externs, (KlExtern){kd_format(cx, "b%d", i), s, ti->count, i == r->n_in});
        args[i] = (KlArg){KL_ARG_EXTERN, i, 0};
        memory[i] = kh_narrow(cx, ti, i < r->n_in ? r->data[i] : NULL);
    }
    KlBuilder b = kl_builder(k);
    KdElem e = {&b, r->f, kh_operand, kh_operand_linear, kh_operand_if, r};
    KlValue idx[KD_MAX_RANK + 1] = {0};
    if (nested) {
        kh_nest(&e, r, 0, idx);
    } else {
        kd_unlinear_index(&b, t, kl_parallel_index(k), idx);
        kh_store(&e, r, idx);
    }
    kd_push(cx, &m->calls, (KlCall){kl_module_add(m, k), args});
    KdStr why = {.cx = cx};
    if (!kl_verify(m, &why)) fail_msg("element rule: the loop verifier objects: %s", why.s);
    if (!kl_eval(m, memory, &why)) fail_msg("element rule: %s", why.s);
    double *got = KD_NEW_ARRAY(cx, double, t->count);
    kh_widen_result(t, memory[r->n_in], got);
    double tolerance = r->c->tolerance > 0 ? r->c->tolerance : 1e-5;
    kh_compare(nested ? "element rule, nested loops" : "element rule", got, r->result, t->count,
               tolerance, tolerance);
}

/* ---- running ----------------------------------------------------------------------------------- */

static inline void kh_expect_error(KhRun *r) {
    char *text = kh_diagnostics(r->cx);
    bool found = r->node == KD_NONE && kd_error_count(r->cx) > 0 && strstr(text, r->c->error);
    if (!found) print_error("diagnosed: %s\n", text);
    free(text);
    if (!found) fail_msg("expected the error: %s", r->c->error);
}

static inline void kh_forward(KhRun *r) {
    double *out[1] = {r->result};
    kd_eval(r->f, (const double *const *)r->data, out);
    int64_t n = r->type->count;
    if (r->c->want) kh_compare("forward", r->result, r->c->want, n, 1e-6, 1e-6);
    if (r->c->reference) {
        const KdType *t[KH_MAX_IN];
        for (int k = 0; k < r->n_in; k++) t[k] = r->operand[k].type;
        double *want = KD_NEW_ARRAY(r->cx, double, n + 1);
        r->c->reference(t, r->n_in, (const double *const *)r->data, r->type, want);
        kh_compare("forward", r->result, want, n, 1e-9, 1e-9);
    }
}

static inline void kh_run_case(void **state) {
    KhRun r;
    kh_start(&r, *state); /* r.c points to the row */
    if (r.c->error) {
        kh_expect_error(&r);
        kd_context_free(r.cx);
        return;
    }
    if (r.node == KD_NONE) {
        char *text = kh_diagnostics(r.cx);
        print_error("%s", text);
        free(text);
        fail_msg("refused");
    }
    kh_verify(r.f);
    kh_forward(&r);
    kh_gradients(&r);
    if (!(r.c->flags & KH_NO_ELEM)) {
        kh_element_rule(&r, false);
        kh_element_rule(&r, true);
    }
    kd_context_free(r.cx);
}

/* Every op is tested by one of the two programs. */
static inline char kh_family(KdOp op) {
    return op <= KD_OP_UPDATE_ROW || op == KD_OP_RANDOM ? 'a' : 'b';
}

static inline void kh_coverage(const KhSuite *s, char family) {
    for (int op = 0; op < KD_OP_COUNT; op++) {
        if (kd_op_info[op].cls == KD_META || kh_family((KdOp)op) != family) continue;
        int rows = 0;
        for (int i = 0; i < s->cases.n; i++)
            rows += s->cases.v[i]->op == (KdOp)op && !s->cases.v[i]->error;
        if (rows < 10) fail_msg("%s has %d rows, ten are needed", kd_op_info[op].name, rows);
    }
}

static inline int64_t kh_garbage_int(uint64_t *state) {
    static const int64_t odd[] = {0, 1, 2, 3, -1, -2, 7, 100000, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN,
                                  INT64_MAX / 2, INT64_C(1) << 32, 5, 4};
    return odd[kh_random(state) % KD_COUNT(odd)];
}

static inline KdAttr kh_garbage_attr(KdContext *cx, KdAttrKind kind, uint64_t *state) {
    static const double odd[] = {0, 1, -1, NAN, INFINITY, -INFINITY, 1e300, 0.5};
    static const char *const words[] = {"", "f32", "i32", "u8", "f16", "data", "x"};
    KdAttr a = {0};
    int n = (int)(kh_random(state) % 7);
    switch (kind) {
    case KD_ATTR_INT: a.i = kh_garbage_int(state); break;
    case KD_ATTR_FLOAT: a.f = odd[kh_random(state) % KD_COUNT(odd)]; break;
    case KD_ATTR_STR: a.s = kd_intern_z(cx, words[kh_random(state) % KD_COUNT(words)]); break;
    case KD_ATTR_INTS: {
        int64_t *v = KD_NEW_ARRAY(cx, int64_t, n + 1);
        for (int i = 0; i < n; i++) v[i] = kh_garbage_int(state);
        a.ints = (KdInts){n, v};
        break;
    }
    case KD_ATTR_FLOATS: {
        double *v = KD_NEW_ARRAY(cx, double, n + 1);
        for (int i = 0; i < n; i++) v[i] = odd[kh_random(state) % KD_COUNT(odd)];
        a.floats = (KdFloats){n, v};
        break;
    }
    }
    return a;
}

/* Nonsense attributes and operands for every op of the family (META ops too): a diagnostic or a verified node. */
static inline void kh_garbage(char family, int tries) {
    static const char *const types[] = {"s",         "1",       "5",     "2x3",   "2x3x4",   "1x2x5x4", "1x1x2x3x2",
                                        "i9:2x3",    "u:2x3",   "i9:s",  "0x3",   "2x0x2x2", "2x2x2x2x2x2",
                                        "70000x5000", "46340x46340x1x1", "2147483647"};
    uint64_t state = 5;
    for (int op = 0; op < KD_OP_COUNT; op++) {
        if (kh_family((KdOp)op) != family) continue;
        for (int i = 0; i < tries; i++) {
            KdContext *cx = kd_context_new();
            assert_non_null(cx);
            KdFunc *f = kd_func_new(cx, "f");
            KdBuilder b = kd_builder(f);
            int n_attr, n = kd_op_info[op].n_in < 0 ? (int)(kh_random(&state) % 4) : kd_op_info[op].n_in;
            const KdAttrSpec *spec = kd_op_attrs(cx, (KdOp)op, &n_attr);
            KdAttr attr[KD_MAX_ATTRS] = {0};
            for (int k = 0; k < n_attr; k++) attr[k] = kh_garbage_attr(cx, spec[k].kind, &state);
            KdValue in[KH_MAX_IN];
            size_t same = kh_random(&state) % KD_COUNT(types);
            for (int k = 0; k < n; k++) {
                size_t pick = kh_random(&state) % 4 ? same : kh_random(&state) % KD_COUNT(types);
                in[k] = kd_input(&b, kd_format(cx, "x%d", k), KD_DATA,
                                 kh_parse_operand(cx, types[pick]).type, "");
            }
            const KdType *t = NULL;
            if (kd_op_info[op].flags & KD_TYPED) t = kh_parse_operand(cx, types[same]).type;
            KdValue v = kd_build(&b, (KdOp)op, t, in, n, attr);
            if (v != KD_NONE) kh_verify(f);
            else assert_true(kd_error_count(cx) > 0);
            kd_context_free(cx);
        }
    }
}

/* Runs the suite's rows and the extra tests as one group. */
static inline int kh_main(const char *name, KhSuite *s, const struct CMUnitTest *extra, int n_extra) {
    int n = s->cases.n + n_extra;
    struct CMUnitTest *tests = KD_NEW_ARRAY(s->cx, struct CMUnitTest, n);
    for (int i = 0; i < s->cases.n; i++) {
        KhCase *c = s->cases.v[i];
        tests[i] = (struct CMUnitTest){
            kd_format(s->cx, "%s %s %s%s%s", kd_op_info[c->op].name, c->operands, c->attrs,
                      c->error ? " refused: " : "", c->error ? c->error : ""),
            kh_run_case, NULL, NULL, c};
    }
    for (int i = 0; i < n_extra; i++) tests[s->cases.n + i] = extra[i];
    int failed = _cmocka_run_group_tests(name, tests, (size_t)n, NULL, NULL);
    kd_context_free(s->cx);
    return failed;
}

#endif
