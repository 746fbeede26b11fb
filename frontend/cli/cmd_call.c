/* cmd_call.c: kdc call FILE.kd:NAME: evaluates a fn, a net, or steps of a session on tensors from files.
 *
 * A session's inputs may have one dimension more than the parameter: step n (from 1, over all runs) then gets slice
 * n - 1, beginning again after the last. How many a parameter has is found by elaborating in a context of its own, first
 * with nothing given, then with the shapes as they stand, then with the first dimension taken off all that could be
 * sliced. The result may take the place of --weights, so that a session goes on in one file, but of no other input. A log that a step does not compute (its `every` block did not run) is NaN there.
 */
#include "frontend/cli/tensors.h"

#include <math.h>
#include <string.h>

typedef struct Call {
    const KdcArgs *a;
    KdcProgram *p;
    KdcFiles files;
} Call;

/* The compiler's own scalars, when the file does not say: what random numbers (dropout) are drawn from. */
static bool known_scalar(const Call *c, KdcTensor *t) {
    bool seed = strcmp(t->name, "rng_seed") == 0;
    if (t->rank != 0 || (!seed && strcmp(t->name, "rng_step") != 0)) {
        return false;
    }
    *(int32_t *)t->data = seed ? (int32_t)(uint32_t)c->a->seed : 1; /* both i32 */
    return true;
}

static bool missing(Call *c, const KdcTensor *t) {
    kd_error(c->p->cx, 0, "%s: no input '%s': %s expects %s %s", c->a->in ? c->a->in : "kdc call", t->name,
             c->a->name, t->name, kdc_tensor_shape(c->p->cx, t));
    return false;
}

/* ---- fn and net ------------------------------------------------------------------------------------- */

static bool fill_inputs(Call *c, KdcRunnable *r) {
    int n = kdc_input_count(r);
    KdcTensor **all = KD_NEW_ARRAY(c->p->cx, KdcTensor *, n + 1);
    bool ok = true;
    for (int i = 0; i < n; i++) {
        KdcTensor *t = all[i] = kdc_input(r, i);
        if (t->role != KDC_DATA) {
            continue;
        }
        const KdTensor *x = c->files.in ? kd_weights_find(c->files.in, t->name) : NULL;
        ok = (x ? kdc_load_tensor(c->p, t, x, c->a->in) : known_scalar(c, t) || missing(c, t)) && ok;
    }
    return ok && kdc_fill_weights(c->p, c->a, &c->files, true, all, n);
}

static bool call_net(Call *c) {
    KdcShapes s = {.train = c->a->train, .grads = c->a->grad, .taps = c->a->taps, .n_taps = c->a->n_taps};
    s.given = kdc_files_shapes(c->p, &c->files, &s.n_given);
    KdcRunnable *r = kdc_net(c->p, c->a->name, &s);
    if (!r || !fill_inputs(c, r) || kdc_run(r) != KDC_OK) {
        return false;
    }
    KdcResults out = {.p = c->p};
    for (int i = 0; i < kdc_output_count(r); i++) {
        const KdcTensor *t = kdc_output(r, i);
        kdc_results_add(&out, t->name, t->dtype, t->rank, t->dim, t->data);
    }
    return kdc_results_write(&out, c->a);
}

/* ---- sessions --------------------------------------------------------------------------------------- */

static bool may_slice(const KdcShape *g) {
    return g->rank > 0 && g->dim[0] > 0;
}

static void drop_first(KdcShape *g) {
    g->rank--;
    memmove(g->dim, g->dim + 1, sizeof *g->dim * (size_t)g->rank);
}

/* Ranks of the session's parameters by the first way of elaborating that works; -1 where not known. */
static void find_ranks(Call *c, const KdcShape *given, int n, const char *const *names, int *rank) {
    KdcShape *sliced = KD_NEW_ARRAY(c->p->cx, KdcShape, n + 1);
    for (int i = 0; i < n; i++) {
        rank[i] = -1;
        sliced[i] = given[i];
        if (may_slice(&given[i])) {
            drop_first(&sliced[i]);
        }
    }
    const KdcShapes ways[3] = {{.train = true}, {.given = given, .n_given = n}, {.given = sliced, .n_given = n}};
    for (int i = 0; i < 3; i++) {
        KdNetOptions o;
        if (kdc_net_options(c->p, &ways[i], &o) && kdc_probe(c->p, c->a->name, true, &o, names, n, rank)) {
            return;
        }
    }
}

/* The shapes of one step. */
static KdcShape *step_shapes(Call *c, int *n) {
    KdcShape *given = kdc_files_shapes(c->p, &c->files, n);
    const char **names = KD_NEW_ARRAY(c->p->cx, const char *, *n + 1);
    int *rank = KD_NEW_ARRAY(c->p->cx, int, *n + 1);
    bool any = false;
    for (int i = 0; i < *n; i++) {
        names[i] = given[i].name;
        any = any || may_slice(&given[i]);
    }
    if (any) {
        find_ranks(c, given, *n, names, rank);
        for (int i = 0; i < *n; i++) {
            if (may_slice(&given[i]) && rank[i] == given[i].rank - 1) {
                drop_first(&given[i]);
            }
        }
    }
    return given;
}

/* x into t: all of it, or slice i. */
static bool load_step(Call *c, KdcTensor *t, const KdTensor *x, int64_t i) {
    KdTensor slice = *x;
    if (x->rank == t->rank + 1 && x->dim[0] > 0) {
        slice.rank--;
        slice.dim++;
        slice.count /= x->dim[0];
        slice.data += slice.count * kd_stored_size(x->dtype) * (i % x->dim[0]);
    }
    return kdc_load_tensor(c->p, t, &slice, c->a->in);
}

static bool load_step_inputs(Call *c, KdcSession *s, int64_t i) {
    bool ok = true;
    for (int k = 0; k < kdc_session_count(s); k++) {
        KdcTensor *t = kdc_session_tensor(s, k);
        bool scalar = t->rank == 0 && (strcmp(t->name, "step") == 0 || strcmp(t->name, "epoch") == 0 ||
                                       strcmp(t->name, "seed") == 0);
        if (t->role != KDC_DATA || scalar) { /* those are kdc_session_step's */
            continue;
        }
        const KdTensor *x = c->files.in ? kd_weights_find(c->files.in, t->name) : NULL;
        ok = (x ? load_step(c, t, x, i) : missing(c, t)) && ok;
    }
    return ok;
}

typedef struct Logs {
    int n;
    KdcTensor *t; /* name "log.X", shape [steps, ...] */
} Logs;

static void copy_log(Call *c, KdcTensor *log, const KdcTensor *out, int64_t i) {
    int64_t bytes = kdc_tensor_bytes(out);
    if (!log->data) {
        const char *name = log->name;
        *log = *out;
        log->name = name;
        log->rank = out->rank < 6 ? out->rank + 1 : 6;
        log->dim[0] = c->a->steps;
        for (int d = 1; d < log->rank; d++) {
            log->dim[d] = out->dim[d - 1];
        }
        log->count = out->count * c->a->steps;
        log->data = kdc_memory(c->p, bytes * c->a->steps);
        for (int64_t k = 0; k < log->count && log->dtype == KDC_F32; k++) {
            ((float *)log->data)[k] = NAN;
        }
    }
    memcpy((char *)log->data + bytes * i, out->data, (size_t)bytes);
}

static void record(Call *c, KdcSession *s, Logs *logs, int64_t i) {
    for (int k = 0; k < kdc_session_output_count(s); k++) {
        const KdcTensor *out = kdc_session_output(s, k);
        for (int j = 0; j < logs->n; j++) {
            if (strcmp(logs->t[j].name, out->name) == 0) {
                copy_log(c, &logs->t[j], out, i);
            }
        }
    }
}

/* What kdc_session_step's `step` and `epoch` begin with: the inputs may say, or the file that an earlier run wrote
 * (all of it: of one that is only a network's weights, the step is not this run's). */
static int64_t given_scalar(const Call *c, const char *name) {
    const KdTensor *x = c->files.in ? kd_weights_find(c->files.in, name) : NULL;
    for (int i = 0; i < c->files.weights.n && !x; i++) {
        x = *c->files.weights.v[i].net ? NULL : kd_weights_find(c->files.weights.v[i].w, name);
    }
    KdTrouble t;
    int32_t v;
    return x && x->count == 1 && kd_tensor_i32(x, &v, &t) && v > 0 ? v : 1;
}

static bool write_session(Call *c, KdcSession *s, const Logs *logs, int64_t next) {
    KdcResults out = {.p = c->p};
    int32_t step = (int32_t)next; /* a run that is given this file goes on from here */
    kdc_results_add(&out, "step", KDC_I32, 0, NULL, &step);
    for (int k = 0; k < kdc_session_count(s); k++) {
        const KdcTensor *t = kdc_session_tensor(s, k);
        if (t->role != KDC_DATA && t->role != KDC_FROZEN) {
            kdc_results_add(&out, t->name, t->dtype, t->rank, t->dim, t->data);
        }
    }
    for (int j = 0; j < logs->n; j++) {
        if (logs->t[j].data) {
            kdc_results_add(&out, logs->t[j].name, logs->t[j].dtype, logs->t[j].rank, logs->t[j].dim,
                            logs->t[j].data);
        }
    }
    for (int k = 0; k < kdc_session_output_count(s); k++) {
        const KdcTensor *t = kdc_session_output(s, k);
        if (strncmp(t->name, "show.", 5) == 0) {
            kdc_results_add(&out, t->name, t->dtype, t->rank, t->dim, t->data);
        }
    }
    return kdc_results_write(&out, c->a);
}

/* Ten lines a run, to stderr: what each scalar log was on average since the last line. */
static void report(const Call *c, const Logs *logs, int64_t first, int64_t i) {
    int64_t every = (c->a->steps + 9) / 10;
    if (c->a->quiet || c->a->steps < 2 || ((i + 1) % every && i + 1 < c->a->steps)) {
        return;
    }
    fprintf(stderr, "step %lld:", (long long)(first + i));
    for (int j = 0; j < logs->n; j++) {
        const KdcTensor *t = &logs->t[j];
        double sum = 0;
        int n = 0;
        for (int64_t k = i - i % every; t->data && t->rank == 1 && t->dtype == KDC_F32 && k <= i; k++) {
            float x = ((const float *)t->data)[k];
            if (!isnan(x)) {
                sum += (double)x;
                n++;
            }
        }
        if (n) {
            fprintf(stderr, "  %s %.5g", t->name + strlen("log."), sum / n);
        }
    }
    fprintf(stderr, "\n");
}

static bool call_session(Call *c) {
    KdcShapes shapes = {.train = true};
    shapes.given = step_shapes(c, &shapes.n_given);
    KdcSession *s = kdc_session(c->p, c->a->name, &shapes);
    if (!s) {
        return false;
    }
    int n = kdc_session_count(s);
    KdcTensor **all = KD_NEW_ARRAY(c->p->cx, KdcTensor *, n + 1);
    for (int i = 0; i < n; i++) {
        all[i] = kdc_session_tensor(s, i);
    }
    Logs logs = {kdc_session_log_count(s), NULL};
    logs.t = KD_NEW_ARRAY(c->p->cx, KdcTensor, logs.n + 1);
    for (int j = 0; j < logs.n; j++) {
        const char *name = kdc_session_log(s, j);
        logs.t[j].name = strncmp(name, "log.", 4) == 0 ? name : kd_format(c->p->cx, "log.%s", name);
    }
    if (!kdc_fill_weights(c->p, c->a, &c->files, false, all, n)) {
        return false;
    }
    int64_t first = given_scalar(c, "step"), epoch = given_scalar(c, "epoch");
    for (int64_t i = 0; i < c->a->steps; i++) {
        if (!load_step_inputs(c, s, first + i - 1) ||
            kdc_session_step(s, first + i, epoch, c->a->seed) != KDC_OK) {
            return false;
        }
        record(c, s, &logs, i);
        report(c, &logs, first, i);
    }
    return write_session(c, s, &logs, first + c->a->steps);
}

/* ---- the verb --------------------------------------------------------------------------------------- */

static int check_kind(const KdcArgs *a, const KdDecl *d) {
    bool session = d && d->kind == KD_DECL_SESSION;
    if (session && (a->grad || a->train || a->n_taps)) {
        return kdc_usage_error(a, "--%s is for networks and functions; %s is a session",
                               a->grad ? "grad" : a->train ? "train" : "tap", a->name);
    }
    if (!session && a->steps != 1) {
        return kdc_usage_error(a, "--steps is for sessions; %s is none", a->name);
    }
    return 0;
}

static bool work(Call *c, const KdDecl *d) {
    return kdc_cli_spares(c->p, c->a, c->a->out, &c->a->in, 1) && kdc_files_read(c->p, c->a, &c->files) &&
           (d && d->kind == KD_DECL_SESSION ? call_session(c) : call_net(c));
}

int kdc_cmd_call(const KdcArgs *a) {
    KdcWatch w;
    int code;
    if (!a->name) {
        return kdc_usage_error(a, "which function, network or session of %s? name it: %s:NAME", a->file, a->file);
    }
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    const KdDecl *d = kdc_cli_find(p, a->name);
    code = check_kind(a, d);
    if (code) {
        kdc_close(p);
        return code;
    }
    w.unit = a->name;
    Call c = {.a = a, .p = p};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(&c, d);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_files_free(&c.files);
    kdc_settle(p, 0);
    return kdc_cli_close(a, &w, p, ok);
}
