/* lower_harness.h: runs a graph as loops and compares with the graph evaluator. Shared by test_lower.c and
 * test_random_graphs.c.
 *
 * lh_check fuses, plans, lowers, verifies and executes a function with kl_eval (before and after the vectoriser) on
 * inputs that lh_fill makes from the function and a seed, and compares all outputs with kd_eval's. It returns NULL or
 * what went wrong, as text that names the stage, the output and the element.
 */
#ifndef KD_LOWER_HARNESS_H
#define KD_LOWER_HARNESS_H

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

#include "passes/passes.h"

typedef struct LhOptions {
    bool fuse;
    int lanes;          /* of the machine: 16, 8, 4; 0: before vectorising, at 16 */
    bool own_plan;      /* the planner that gives every value its own memory, instead of the compiler's */
    double tolerance;   /* relative to the larger of 1 and the value; 0: 2e-4 */
} LhOptions;

static inline KlMachine lh_machine(int lanes) {
    int n = lanes ? lanes : 16;
    return (KlMachine){n, n == 16 ? 32 : 16, n > 4, n > 4, 32 << 10, 1 << 20, 8 << 20};
}

/* Numbers in [-1.5, 1.5], a little away from the places where results jump; indices are small; u8 is anything. */
static inline double lh_number(uint64_t *seed, KdDType d) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint32_t bits = (uint32_t)(*seed >> 33);
    switch (d) {
    case KD_F32: {
        double x = (double)(bits % 30011) / 10003.7 - 1.5;
        return (double)(float)(fabs(x) < 0.01 ? 0.0123 : x);
    }
    case KD_I32:
        return bits % 2;
    case KD_U8:
    case KD_DTYPE_COUNT:
        break;
    }
    return bits % 256;
}

static inline double **lh_fill(const KdFunc *f, uint64_t seed) {
    double **in = KD_NEW_ARRAY(f->cx, double *, f->inputs.n + 1);
    for (int k = 0; k < f->inputs.n; k++) {
        const KdType *t = kd_vtype(f, f->inputs.v[k]);
        in[k] = KD_NEW_ARRAY(f->cx, double, t->count + 1);
        uint64_t s = seed + (uint64_t)k * 7919;
        for (int64_t i = 0; i < t->count; i++) {
            in[k][i] = lh_number(&s, t->dtype);
        }
    }
    return in;
}

static inline KlScalar lh_scalar(KdDType d) {
    return d == KD_F32 ? KL_F32 : d == KD_I32 ? KL_I32 : KL_U8;
}

/* Every stored value has its own memory; outputs that are not written where they must be are copied. */
static inline KdMemPlan *lh_plan(const KdFusion *fu) {
    const KdFunc *f = fu->f;
    KdContext *cx = f->cx;
    KdMemPlan *p = KD_NEW(cx, KdMemPlan);
    p->place = KD_NEW_ARRAY(cx, KlArg, f->n + 1);
    int64_t pool = 0;
    for (int k = 0; k < f->inputs.n; k++) {
        const KdType *t = kd_vtype(f, f->inputs.v[k]);
        KlExtern e = {kd_attr_str(f, kd_node(f, f->inputs.v[k]), "name"), lh_scalar(t->dtype), t->count, false};
        kd_push(cx, &p->externs, e);
        p->place[f->inputs.v[k]] = (KlArg){KL_ARG_EXTERN, k, 0};
    }
    for (KdValue v = 0; v < f->n; v++) {
        if (!fu->stored[v] || kd_node(f, v)->op == KD_OP_INPUT) {
            continue;
        }
        int64_t size = (kd_vtype(f, v)->count * 4 + 63) / 64 * 64;
        bool literal = kd_node(f, v)->op == KD_OP_LITERAL;
        p->place[v] = (KlArg){literal ? KL_ARG_POOL : KL_ARG_ARENA, 0, literal ? pool : p->arena};
        *(literal ? &pool : &p->arena) += size;
    }
    p->naive = p->arena;
    p->copies = kd_alloc_array(cx, (size_t)f->outputs.n + 1, sizeof *p->copies);
    for (int i = 0; i < f->outputs.n; i++) {
        const KdOutput *o = &f->outputs.v[i];
        const KdType *t = kd_vtype(f, o->value);
        int to = -1;
        for (int k = 0; k < f->inputs.n && o->updates != KD_NONE; k++) {
            to = f->inputs.v[k] == o->updates ? k : to;
        }
        if (to < 0) {
            KlExtern e = {o->name, lh_scalar(t->dtype), t->count, true};
            to = p->externs.n;
            kd_push(cx, &p->externs, e);
        }
        p->externs.v[to].written = true;
        p->copies[p->n_copies].from = o->value;
        p->copies[p->n_copies++].to = (KlArg){KL_ARG_EXTERN, to, 0};
    }
    for (KdValue v = 0; v < f->n; v++) {
        if (fu->alias[v] != KD_NONE) {
            p->place[v] = p->place[fu->alias[v]];
        }
    }
    return p;
}

static inline void *lh_memory(KdContext *cx, const KlExtern *e, const double *from) {
    size_t size = e->dtype == KL_U8 ? 1 : 4;
    char *p = kd_alloc(cx, (size_t)e->count * size + 128);
    p += (64 - (uintptr_t)p % 64) % 64;
    for (int64_t i = 0; from && i < e->count; i++) {
        float x = (float)from[i];
        int32_t n = e->dtype == KL_I32 ? (int32_t)from[i] : 0;
        if (e->dtype == KL_U8) {
            ((uint8_t *)p)[i] = (uint8_t)from[i];
        } else {
            memcpy(p + 4 * i, e->dtype == KL_F32 ? (void *)&x : (void *)&n, 4);
        }
    }
    return p;
}

static inline double lh_element(const KlExtern *e, const void *p, int64_t i) {
    float x;
    int32_t n;
    if (e->dtype == KL_U8) {
        return ((const uint8_t *)p)[i];
    }
    memcpy(&x, (const char *)p + 4 * i, 4);
    memcpy(&n, (const char *)p + 4 * i, 4);
    return e->dtype == KL_F32 ? (double)x : n;
}

/* The extern that receives output i. */
static inline int lh_extern_of(const KdFunc *f, int i) {
    int n = f->inputs.n;
    for (int k = 0; k < f->inputs.n; k++) {
        if (f->outputs.v[i].updates == f->inputs.v[k]) {
            return k;
        }
    }
    for (int k = 0; k < i; k++) {
        n += f->outputs.v[k].updates == KD_NONE;
    }
    return n;
}

/* Executes m and brings all outputs to got; NULL, or what went wrong. */
static inline const char *lh_execute(const KdFunc *f, const KlModule *m, double *const *in, double **got) {
    KdContext *cx = f->cx;
    KdStr why = {.cx = cx};
    if (!kl_verify(m, &why)) {
        return kd_format(cx, "the loops are malformed: %s", why.s);
    }
    void **ext = KD_NEW_ARRAY(cx, void *, m->externs.n + 1);
    for (int k = 0; k < m->externs.n; k++) {
        ext[k] = lh_memory(cx, &m->externs.v[k], k < f->inputs.n ? in[k] : NULL);
    }
    if (!kl_eval(m, ext, &why)) {
        return why.s;
    }
    for (int o = 0; o < f->outputs.n; o++) {
        int e = lh_extern_of(f, o);
        for (int64_t i = 0; i < kd_vtype(f, f->outputs.v[o].value)->count; i++) {
            got[o][i] = lh_element(&m->externs.v[e], ext[e], i);
        }
    }
    return NULL;
}

static inline double **lh_results(const KdFunc *f) {
    double **r = KD_NEW_ARRAY(f->cx, double *, f->outputs.n + 1);
    for (int i = 0; i < f->outputs.n; i++) {
        r[i] = KD_NEW_ARRAY(f->cx, double, kd_vtype(f, f->outputs.v[i].value)->count + 1);
    }
    return r;
}

static inline double **lh_want(const KdFunc *f, double *const *in) {
    double **want = lh_results(f);
    kd_eval(f, (const double *const *)in, want);
    return want;
}

static inline bool lh_near(double got, double want, double slack) {
    double scale = fabs(want) > 1 ? fabs(want) : 1;
    return isnan(want) ? isnan(got) : isinf(want) ? got == want : fabs(got - want) <= slack * scale;
}

static inline const char *lh_compare(const KdFunc *f, double *const *got, double *const *want, double tolerance) {
    for (int o = 0; o < f->outputs.n; o++) {
        for (int64_t i = 0; i < kd_vtype(f, f->outputs.v[o].value)->count; i++) {
            if (!lh_near(got[o][i], want[o][i], tolerance)) {
                return kd_format(f->cx, "%s[%lld] is %.9g, not %.9g", f->outputs.v[o].name, (long long)i, got[o][i],
                                 want[o][i]);
            }
        }
    }
    return NULL;
}

static inline KlModule *lh_lower(const KdFunc *f, const LhOptions *o, KdFusion **fusion) {
    KdPassOptions po = {.machine = lh_machine(o->lanes), .fuse = o->fuse};
    KdFusion *fu = kd_fuse(f, &po);
    KdStr why = {.cx = f->cx};
    if (!kd_fusion_verify(fu, &why)) {
        kd_raise(f->cx, KD_FAIL_INTERNAL, "fuse: %s", why.s);
    }
    if (!o->own_plan) {
        kd_order(fu);
        if (!kd_fusion_verify(fu, &why)) {
            kd_raise(f->cx, KD_FAIL_INTERNAL, "order: %s", why.s);
        }
    }
    KdMemPlan *plan = o->own_plan ? lh_plan(fu) : kd_memplan(fu);
    *fusion = fu;
    return kd_lower(fu, plan, &po);
}

/* NULL, or what went wrong. f has no KD_META nodes. */
static inline const char *lh_check(const KdFunc *f, double *const *in, double *const *want, const LhOptions *o) {
    const char *wrong = NULL, *message;
    KdLanding landing;
    double tolerance = o->tolerance > 0 ? o->tolerance : 2e-4;
    if (KD_TRY(f->cx, landing)) {
        KdFusion *fu;
        KlModule *m = lh_lower(f, o, &fu);
        const char *stage = kd_format(f->cx, "fuse %s, %s, lanes %d", o->fuse ? "on" : "off",
                                      o->own_plan ? "own memory" : "planned memory", o->lanes);
        if (o->lanes) {
            KlMachine machine = lh_machine(o->lanes);
            for (int k = 0; k < m->kernels.n; k++) {
                kl_vectorize(m->kernels.v[k], &machine);
            }
        }
        double **got = lh_results(f);
        wrong = lh_execute(f, m, in, got);
        wrong = wrong ? wrong : lh_compare(f, got, want, tolerance);
        wrong = wrong ? kd_format(f->cx, "%s: %s", stage, wrong) : NULL;
        kd_landing_pop(f->cx);
    } else {
        kd_failure(f->cx, &message);
        wrong = kd_format(f->cx, "raised: %s", message);
    }
    return wrong;
}

#endif
