/* call.c: a compiled function with memory: inputs and outputs by name, one call to run it.
 *
 * The externs of a module are the function's inputs in order, then the outputs that update no input (passes.h). An
 * output that updates an input is that input's memory after the run. Activations live in one arena, scratch in one
 * block per thread; both are allocated once, here.
 */
#include "frontend/api/api.h"

#include "runtime/kdrt/kdrt.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

struct KdcRunnable {
    KdcProgram *p;
    KdcUnit unit;
    int n_in, n_out;
    KdcTensor **in, **out;
    void **ext;
    void *arena;
    KdrtContext rt;
    bool held; /* kdc_hold_weights */
};

/* ---- memory --------------------------------------------------------------------------------------- */

void *kdc_memory(KdcProgram *p, int64_t bytes) {
    void *m = kdrt_alloc(bytes > 64 ? (size_t)bytes : 64);
    if (!m) {
        kd_raise(p->cx, KD_FAIL_MACHINE, "out of memory: %.1f MB were needed", (double)bytes / 1e6);
    }
    kd_push(p->cx, &p->memory, m);
    return m;
}

void kdc_memory_free(KdcProgram *p, void *m) {
    for (int i = 0; i < p->memory.n && m; i++) {
        if (p->memory.v[i] == m) {
            p->memory.v[i] = p->memory.v[--p->memory.n];
            kdrt_free(m);
            return;
        }
    }
}

static KdcTensor describe(const char *name, const KdType *t, KdcRole role) {
    static const KdcDType dtype[] = {[KD_F32] = KDC_F32, [KD_I32] = KDC_I32, [KD_U8] = KDC_U8};
    KdcTensor v = {.name = name,
                   .dtype = dtype[t->dtype],
                   .role = role,
                   .rank = t->rank,
                   .count = t->count,
                   .init = ""};
    for (int i = 0; i < t->rank; i++) {
        v.dim[i] = t->dim[i];
    }
    return v;
}

int64_t kdc_tensor_bytes(const KdcTensor *t) {
    return t->count * (t->dtype == KDC_U8 ? 1 : 4);
}

const char *kdc_tensor_shape(KdContext *cx, const KdcTensor *t) {
    KdStr s = {.cx = cx};
    kd_str_add(&s, "[", 1);
    for (int i = 0; i < t->rank; i++) {
        kd_str_printf(&s, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    }
    kd_str_add(&s, "]", 1);
    return s.s;
}

KdcTensor kdc_tensor_of(KdcProgram *p, const KdFunc *f, KdValue input) {
    static const KdcRole role[] = {[KD_DATA] = KDC_DATA,
                                   [KD_WEIGHT] = KDC_WEIGHT,
                                   [KD_BUFFER] = KDC_BUFFER,
                                   [KD_STATE] = KDC_STATE,
                                   [KD_FROZEN] = KDC_FROZEN};
    const KdNode *n = kd_node(f, input);
    KdcTensor t = describe(kd_attr_str(f, n, "name"), n->type, role[kd_input_role(f, input)]);
    t.init = kd_attr_str(f, n, "init");
    t.part_of = t.role == KDC_DATA ? NULL : f->part_of;
    t.data = kdc_memory(p, kdc_tensor_bytes(&t));
    for (int i = 0; i < f->outputs.n; i++) {
        t.updated = t.updated || f->outputs.v[i].updates == input;
    }
    return t;
}

/* ---- runnables ------------------------------------------------------------------------------------- */

static void bind_inputs(KdcRunnable *r, const KdFunc *f, KdcShareFn *share, void *user) {
    for (int i = 0; i < r->n_in; i++) {
        KdcTensor *t = share ? share(user, f, f->inputs.v[i]) : NULL;
        if (!t) {
            t = KD_NEW(r->p->cx, KdcTensor);
            *t = kdc_tensor_of(r->p, f, f->inputs.v[i]);
        }
        r->in[i] = t;
        r->ext[i] = t->data;
    }
}

static void bind_outputs(KdcRunnable *r, const KdFunc *f) {
    int next = r->n_in;
    for (int i = 0; i < r->n_out; i++) {
        const KdOutput *o = &f->outputs.v[i];
        KdcTensor *t = KD_NEW(r->p->cx, KdcTensor);
        *t = describe(o->name, kd_vtype(f, o->value), KDC_OUTPUT);
        for (int k = 0; o->updates != KD_NONE && k < r->n_in; k++) {
            if (f->inputs.v[k] == o->updates) {
                t->data = r->in[k]->data;
            }
        }
        if (!t->data) {
            t->data = kdc_memory(r->p, kdc_tensor_bytes(t));
            r->ext[next++] = t->data;
        }
        r->out[i] = t;
    }
    if (next != r->unit.result.loops->externs.n) {
        kd_raise(r->p->cx, KD_FAIL_INTERNAL, "memplan: %s has %d externs, its inputs and outputs need %d",
                 r->unit.name, r->unit.result.loops->externs.n, next);
    }
}

int kdc_threads(const KdcProgram *p) {
    long n = p->o.threads > 0 ? p->o.threads : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 1024 ? 1024 : (int)n;
}

void kdc_runnable_threads(KdcRunnable *r, int threads) {
    int most = kdc_threads(r->p);
    r->rt.threads = threads < 1 ? 1 : threads > most ? most : threads;
}

KdcRunnable *kdc_runnable_new(KdcProgram *p, const KdcUnit *u, KdcShareFn *share, void *user, void *arena) {
    const KdFunc *f = u->result.final;
    KdcRunnable *r = KD_NEW(p->cx, KdcRunnable);
    r->p = p;
    r->unit = *u;
    r->n_in = f->inputs.n;
    r->n_out = f->outputs.n;
    r->in = KD_NEW_ARRAY(p->cx, KdcTensor *, r->n_in + 1);
    r->out = KD_NEW_ARRAY(p->cx, KdcTensor *, r->n_out + 1);
    r->ext = KD_NEW_ARRAY(p->cx, void *, r->n_in + r->n_out + 1);
    bind_inputs(r, f, share, user);
    bind_outputs(r, f);
    r->arena = arena ? arena : kdc_memory(p, u->result.loops->arena);
    r->rt.threads = kdc_threads(p);
    r->rt.scratch_bytes = ((size_t)kd_scratch_bytes(u->result.loops) + 63) / 64 * 64;
    r->rt.scratch = kdc_memory(p, (int64_t)r->rt.scratch_bytes * r->rt.threads);
    return r;
}

static KdcRunnable *build_net(KdcProgram *p, const char *name, const KdcShapes *s) {
    KdNetOptions o;
    KdcUnit u;
    if (!kdc_net_options(p, s, &o) || !kdc_unit_net(p, name, &o, &u)) {
        return NULL;
    }
    kdc_unit_passes(p, &u, &p->host);
    return kdc_unit_jit(p, &u) ? kdc_runnable_new(p, &u, NULL, NULL, NULL) : NULL;
}

KdcRunnable *kdc_net(KdcProgram *p, const char *name, const KdcShapes *s) {
    KdcRunnable *volatile r = NULL;
    int errors = kd_error_count(p->cx);
    KdLanding l;
    if (!p->lang) {
        return NULL;
    }
    if (KD_TRY(p->cx, l)) {
        r = build_net(p, name, s);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_settle(p, errors);
    return r;
}

int kdc_input_count(const KdcRunnable *r) {
    return r->n_in;
}

KdcTensor *kdc_input(KdcRunnable *r, int i) {
    return r->in[i];
}

int kdc_output_count(const KdcRunnable *r) {
    return r->n_out;
}

KdcTensor *kdc_output(KdcRunnable *r, int i) {
    return r->out[i];
}

static KdcTensor *find(KdcTensor **v, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (strcmp(v[i]->name, name) == 0) {
            return v[i];
        }
    }
    return NULL;
}

KdcTensor *kdc_find(KdcRunnable *r, const char *input) {
    return find(r->in, r->n_in, input);
}

KdcTensor *kdc_find_output(KdcRunnable *r, const char *output) {
    return find(r->out, r->n_out, output);
}

KdcStatus kdc_initialise(KdcRunnable *r, uint64_t seed) {
    int errors = kd_error_count(r->p->cx);
    KdLanding l;
    if (KD_TRY(r->p->cx, l)) {
        for (int i = 0; i < r->n_in; i++) {
            if (r->in[i]->role != KDC_DATA) {
                kdc_init_tensor(r->p->cx, r->in[i], seed);
            }
        }
        kd_landing_pop(r->p->cx);
    } else {
        kdc_failed(r->p);
    }
    return kdc_settle(r->p, errors);
}

KdcStatus kdc_run(KdcRunnable *r) {
    kd_jit_run(r->unit.jit, &r->rt, r->ext, r->arena);
    r->rt.prepared = r->held;
    return KDC_OK;
}

void kdc_hold_weights(KdcRunnable *r, bool held) {
    r->held = held;
    r->rt.prepared = 0;
}

void kdc_runnable_arena(KdcRunnable *r, void *arena) {
    r->arena = arena;
    r->rt.prepared = 0;
}

void kdc_runnable_profile(KdcRunnable *r, struct KdrtProfile *profile) {
    r->rt.profile = profile;
}

const KdcUnit *kdc_runnable_unit(const KdcRunnable *r) {
    return &r->unit;
}

/* ---- watching --------------------------------------------------------------------------------------- */

typedef struct Watch {
    KdcRunnable *r;
    int call; /* the first whose result is not finite; -1: none yet */
    bool nan; /* and that it has a NaN */
} Watch;

static void look(Watch *w, int call, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) {
            w->call = call;
            w->nan = w->nan || isnan(x[i]);
        }
    }
}

static void watch(void *user, int64_t call) {
    Watch *w = user;
    const KlModule *m = w->r->unit.result.loops;
    const KlCall *c = &m->calls.v[call];
    const KlKernel *k = m->kernels.v[c->kernel];
    bool done = w->call >= 0;
    for (int b = 0, a = 0; b < k->bufs.n && !done; b++) {
        const KlBuf *buf = &k->bufs.v[b];
        if (buf->access == KL_SCRATCH) {
            continue;
        }
        const KlArg *arg = &c->args[a++];
        const char *base = arg->kind == KL_ARG_ARENA ? w->r->arena : arg->kind == KL_ARG_EXTERN ? w->r->ext[arg->index] : NULL;
        if (base && buf->dtype == KL_F32 && buf->access != KL_IN) {
            look(w, (int)call, (const float *)(base + arg->offset), buf->count);
        }
    }
}

bool kdc_run_watched(KdcRunnable *r, int *call, bool *nan) {
    Watch w = {r, -1, false};
    r->rt.after = watch;
    r->rt.user = &w;
    kd_jit_run(r->unit.jit, &r->rt, r->ext, r->arena);
    r->rt.after = NULL;
    *call = w.call;
    *nan = w.nan;
    return w.call >= 0;
}

KdcStats kdc_stats(const KdcRunnable *r) {
    return kdc_unit_stats(&r->unit);
}
