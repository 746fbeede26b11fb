/* search_worker.c: what a worker of kdc search does: a request is a line of JSON on standard input,
 * its answer one on the same socket.
 *
 *   {"do": "open"}                                 is all there? what the data and the network are
 *   {"do": "cost", "define": [...], "plan": bool}  counts; the plan's memory and kernels
 *   {"do": "time", "configs": [[...], ...], "runs": N}   how long each and its kernels take, by
 * what the first takes in the same rounds, and in seconds
 *   {"do": "value", "define": [...]}               metrics
 *   {"do": "extract", "define": [...], "to": FILE} the weights that metrics are measured with, to a
 * file
 *
 * "define" are definitions as -D takes them. The program with the widest of everything stays open,
 * with the pictures and the metric's own network; every other configuration is a program of its
 * own, closed after its answer.
 */
#include "frontend/cli/search.h"
#include "frontend/cli/tensors.h"
#include "runtime/kdrt/kdrt.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Server {
    KdcArgs a;     /* as kdc eval would have them; --batch is the calibration's */
    KdcArgs costs; /* the same with batch 1: costs are one picture's */
    KdcWatch watch;
    KdcProgram *p;    /* the widest */
    KdcShapes shapes; /* of the network's inputs, in p's memory */
    KdcEval e;
    bool begun, evaluates; /* e is to be closed; it is open */
} Server;

/* ---- messages
 * -------------------------------------------------------------------------------------------- */

/* What p has to say, as text of its own; "" if nothing. */
static char *messages_of(KdcProgram *p) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f) {
        kdc_print_messages(p, f, false);
        fclose(f);
    }
    return text;
}

static json_t *text_json(const char *text) {
    json_t *v = json_string(text ? text : "");
    return v ? v : json_string("(a message that is no text)");
}

/* {KEY: what p says}; status: its exit code. */
static json_t *said(KdcProgram *p, const char *key) {
    char *text = messages_of(p);
    json_t *o = json_object();
    int status = (int)kdc_status(p);
    /* Of a metric's own network it has been said on stderr. */
    const char *otherwise = status ? "" : "it does not work, without a reason given\n";
    json_object_set_new(o, key, text_json(text && *text ? text : otherwise));
    json_object_set_new(o, "status", json_integer(status ? status : KDC_INPUT));
    free(text);
    return o;
}

/* ---- a configuration
 * -------------------------------------------------------------------------------------- */

static bool same_name(const char *x, const char *y) {
    size_t n = strcspn(x, "=");
    return strncmp(x, y, n) == 0 && y[n] == '=';
}

/* The program with these definitions in place of those of the same names. It is there even if it
 * did not load. */
static KdcProgram *open_with(Server *v, const json_t *define) {
    KdContext *cx = v->p->cx;
    KdcArgs a = v->costs;
    size_t n = json_array_size(define);
    a.defines = KD_NEW_ARRAY(cx, const char *, (size_t)v->a.n_defines + n + 1);
    a.n_defines = 0;
    for (int i = 0; i < v->a.n_defines; i++) {
        bool replaced = false;
        for (size_t k = 0; k < n; k++) {
            replaced = replaced ||
                       same_name(json_string_value(json_array_get(define, k)), v->a.defines[i]);
        }
        if (!replaced) {
            a.defines[a.n_defines++] = v->a.defines[i];
        }
    }
    for (size_t k = 0; k < n; k++) {
        a.defines[a.n_defines++] = json_string_value(json_array_get(define, k));
    }
    KdcOptions o = kdc_cli_options(&a);
    KdcProgram *q = kdc_open(a.file, NULL, 0, &o);
    if (!q) {
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory for %s", a.file);
    }
    return q;
}

/* Does `work` where what is raised in q lands. */
static bool within(KdcProgram *q, bool (*work)(KdcProgram *q, void *user), void *user) {
    volatile bool ok = false;
    KdLanding l;
    if (kdc_status(q) != KDC_OK) {
        return false;
    }
    if (KD_TRY(q->cx, l)) {
        ok = work(q, user);
        kd_landing_pop(q->cx);
    } else {
        kdc_failed(q);
    }
    kdc_settle(q, 0);
    return ok && kdc_status(q) == KDC_OK;
}

/* ---- costs
 * ------------------------------------------------------------------------------------------------
 */

typedef struct CostWork {
    Server *v;
    bool plan;
    json_t *o;
    KdcUnit u;
} CostWork;

/* {"hash": [calls, what they take together]}: those that run every time */
static json_t *kernels_json(const KlModule *m, const double *takes) {
    json_t *o = json_object();
    for (int c = 0; c < m->calls.n; c++) {
        const KlKernel *k = m->kernels.v[m->calls.v[c].kernel];
        char name[32];
        if (m->calls.v[c].once && m->kept > 0) {
            continue;
        }
        snprintf(name, sizeof name, "%016" PRIx64,
                 kd_hash_bytes(k->identity, k->identity_bytes, 0x6b646373));
        json_t *one = json_object_get(o, name);
        if (!one) {
            one = json_pack("[i, f]", 0, 0.0);
            json_object_set_new(o, name, one);
        }
        double sum = json_real_value(json_array_get(one, 1)) + (takes ? takes[c] : 0);
        json_array_set_new(one, 0, json_integer(json_integer_value(json_array_get(one, 0)) + 1));
        json_array_set_new(one, 1, json_real(sum));
    }
    return o;
}

static bool count(KdcProgram *q, void *user) {
    CostWork *w = user;
    KdNetOptions o;
    if (!kdc_net_options(q, &w->v->shapes, &o) || !kdc_unit_net(q, w->v->a.name, &o, &w->u)) {
        return false;
    }
    KdMacs macs = kd_lang_macs(w->u.func);
    w->o = json_pack("{s:I, s:[f, f, f], s:f}", "parameters",
                     (json_int_t)kd_lang_parameters(w->u.func), "macs", macs.no_t, macs.t_in,
                     macs.t_out, "layers", kd_lang_layer_bytes(w->u.func));
    if (w->plan) {
        kdc_unit_passes(q, &w->u, &q->host);
        const KlModule *m = w->u.result.loops;
        json_object_set_new(w->o, "peak", json_integer(m->arena - m->kept));
        json_object_set_new(w->o, "kernels", kernels_json(m, NULL));
    }
    return true;
}

static json_t *answer_cost(Server *v, const json_t *request) {
    CostWork w = {.v = v, .plan = json_is_true(json_object_get(request, "plan"))};
    double start = kdc_now();
    KdcProgram *q = open_with(v, json_object_get(request, "define"));
    json_t *answer = within(q, count, &w) ? w.o : said(q, "refused");
    json_object_set_new(answer, "elaborate", json_real(kdc_now() - start - w.u.pass_seconds));
    json_object_set_new(answer, "planning", json_real(w.u.pass_seconds));
    kdc_close(q);
    return answer;
}

/* ---- times
 * -------------------------------------------------------------------------------------------------
 */

typedef struct Timed {
    Server *v;
    KdcProgram *q;
    KdcRunnable *r;
    KD_VEC(double) seconds; /* of the rounds */
    double usual;
    KdrtProfile one;      /* each call of the latest round */
    KD_VEC(double) calls;   /* and of all rounds */
    KD_VEC(double) rest;    /* what is between calls, in all rounds */
    bool ready;
} Timed;

/* f32 in [-1, 1); whole numbers, which may be labels of few classes, 0. */
static void fill_data(KdcTensor *t) {
    KdcDraw d = kdc_draw_new(1, 0, 0);
    for (int64_t i = 0; i < t->count && t->dtype == KDC_F32; i++) {
        ((float *)t->data)[i] = (float)(2 * kdc_draw_unit(&d) - 1);
    }
}

static void *zeroed(KdcProgram *q, size_t bytes) {
    void *m = kd_alloc(q->cx, bytes + 1);
    memset(m, 0, bytes);
    return m;
}

/* Compiled, filled at random, and run twice. */
static bool prepare(KdcProgram *q, void *user) {
    Timed *x = user;
    x->r = kdc_net(q, x->v->a.name, &x->v->shapes);
    if (!x->r || kdc_initialise(x->r, 1) != KDC_OK) {
        return false;
    }
    for (int i = 0; i < kdc_input_count(x->r); i++) {
        if (kdc_input(x->r, i)->role == KDC_DATA) {
            fill_data(kdc_input(x->r, i));
        }
    }
    kdc_hold_weights(x->r, true);
    int n = kdc_runnable_unit(x->r)->result.loops->calls.n;
    x->one = (KdrtProfile){n, zeroed(q, sizeof *x->one.call * (size_t)n)};
    bool ok = kdc_run(x->r) == KDC_OK;
    double start = kdc_now();
    ok = ok && kdc_run(x->r) == KDC_OK;
    x->usual = kdc_now() - start;
    return ok;
}

/* A run for the total and, of a network that takes so little that reading clocks between calls
 * counts, another for each kernel; before both, one that brings its own data into the caches in
 * place of its neighbour's. */
static bool run_round(Timed *x) {
    bool small = x->usual < 0.02, ok = !small || kdc_run(x->r) == KDC_OK;
    double start = kdc_now(), rest;
    if (small) {
        ok = ok && kdc_run(x->r) == KDC_OK;
        kd_push(x->q->cx, &x->seconds, kdc_now() - start);
    }
    memset(x->one.call, 0, sizeof *x->one.call * (size_t)x->one.n);
    kdc_runnable_profile(x->r, &x->one);
    start = kdc_now();
    ok = ok && kdc_run(x->r) == KDC_OK;
    rest = kdc_now() - start;
    if (!small) {
        kd_push(x->q->cx, &x->seconds, rest);
    }
    kdc_runnable_profile(x->r, NULL);
    for (int i = 0; i < x->one.n; i++) {
        kd_push(x->q->cx, &x->calls, x->one.call[i].seconds);
        rest -= x->one.call[i].seconds;
    }
    kd_push(x->q->cx, &x->rest, rest);
    return ok;
}

/* What a tenth of v are at most: nearly the least, without resting on a single one. Sorts v. */
static double low_of(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, kdc_ascending);
    return v[n / 10];
}

/* A run as it is when nothing interrupts it: what each call takes, in *takes where that is asked for, and what is between calls, all
 * in the low tenth of rounds. A whole run without an interruption there may never be on a machine that others use, too. */
static double undisturbed(Timed *x, double *takes) {
    int n = x->rest.n, calls = x->one.n;
    double *v = KD_NEW_ARRAY(x->q->cx, double, n + 1);
    memcpy(v, x->rest.v, sizeof *v * (size_t)n);
    double sum = low_of(v, n);
    for (int c = 0; c < calls; c++) {
        for (int i = 0; i < n; i++) {
            v[i] = x->calls.v[i * calls + c];
        }
        double low = low_of(v, n);
        sum += low;
        if (takes) {
            takes[c] = low;
        }
    }
    return sum;
}

/* Times of x by the anchor's in the same rounds, and by the clock. */
static json_t *timed_json(Timed *x, double anchor) {
    KdContext *cx = x->q->cx;
    int n = x->seconds.n, calls = x->one.n;
    double *v = x->seconds.v, *takes = KD_NEW_ARRAY(cx, double, calls + 1);
    double run = undisturbed(x, takes), low = low_of(v, n);
    double median = kdc_median(v, n);
    for (int c = 0; c < calls; c++) {
        takes[c] /= anchor;
    }
    json_t *o = json_pack("{s:f, s:f, s:f, s:f, s:i}", "run", run, "ratio", run / anchor, "low", low, "median", median,
                          "rounds", n);
    json_object_set_new(o, "kernels", kernels_json(kdc_runnable_unit(x->r)->result.loops, takes));
    return o;
}

/* At least `runs` rounds, and for small networks so many that they take a quarter of a second each:
 * what disturbs them lasts longer than one run. Large ones are left after five rounds and two
 * seconds each. */
static bool run_rounds(Timed *x, int n, int runs) {
    enum { LEAST = 5, MOST = 10 };
    double start = kdc_now();
    bool ok = true;
    for (int k = 0; ok && k < MOST * runs; k++) {
        double each = (kdc_now() - start) / n;
        if ((k >= runs && each > 0.25) || (k >= LEAST && each > 2)) {
            break;
        }
        for (int i = 0; i < n && ok; i++) { /* another one begins each time: no one's turn falls in
                                               with another process's */
            Timed *one = &x[(i + k) % n];
            ok = !one->ready || run_round(one);
        }
    }
    return ok;
}

static json_t *answer_time(Server *v, const json_t *request) {
    const json_t *configs = json_object_get(request, "configs");
    int n = (int)json_array_size(configs),
        runs = (int)json_integer_value(json_object_get(request, "runs"));
    Timed *x = KD_NEW_ARRAY(v->p->cx, Timed, n + 1);
    json_t *answer = json_object(), *times = json_array();
    for (int i = 0; i < n; i++) {
        x[i] = (Timed){.v = v, .q = open_with(v, json_array_get(configs, (size_t)i))};
        x[i].ready = within(x[i].q, prepare, &x[i]);
    }
    bool ok = run_rounds(x, n, runs);
    double anchor = x[0].ready && ok ? undisturbed(&x[0], NULL) : 0;
    for (int i = 0; i < n; i++) {
        json_array_append_new(times, x[i].ready && anchor > 0 ? timed_json(&x[i], anchor)
                                                              : said(x[i].q, "refused"));
        kdc_close(x[i].q);
    }
    json_object_set_new(answer, "times", times);
    return answer;
}

/* ---- metrics
 * ------------------------------------------------------------------------------------------------
 */

static bool begin_evaluation(KdcProgram *p, void *user) {
    Server *v = user;
    (void)p;
    return kdc_eval_begin(&v->e);
}

static bool open_evaluation(Server *v) {
    if (!v->evaluates) {
        v->e = (KdcEval){.a = &v->a, .p = v->p, .keep = true};
        v->begun = true;
        v->evaluates =
            kdc_eval_metrics(&v->a, v->e.asked) == 0 && within(v->p, begin_evaluation, v);
    }
    return v->evaluates;
}

static bool take_net(KdcProgram *q, void *user) {
    Server *v = user;
    return kdc_eval_take_net(&v->e, q);
}

static bool measure(KdcProgram *p, void *user) {
    Server *v = user;
    (void)p;
    return kdc_eval_measure(&v->e, NULL);
}

static bool save_net(KdcProgram *q, void *user) {
    const json_t *request = ((void **)user)[1];
    Server *v = ((void **)user)[0];
    (void)q;
    return kdc_eval_save_net(&v->e, json_string_value(json_object_get(request, "to")));
}

static json_t *values_json(const Server *v) {
    json_t *metrics = json_object();
    for (int m = 0; m < KDC_METRICS; m++) {
        double x = v->e.compute[m] ? kdc_eval_value(&v->e, (KdcMetric)m) : NAN;
        if (!isnan(x)) { /* JSON has no infinity: PSNR of equal pictures */
            json_object_set_new(metrics, kdc_metric_key((KdcMetric)m),
                                isinf(x) ? json_string("inf") : json_real(x));
        }
    }
    return metrics;
}

static json_t *answer_value(Server *v, const json_t *request) {
    const json_t *define = json_object_get(request, "define");
    if (!open_evaluation(v)) {
        return said(v->p, "error");
    }
    double start = kdc_now();
    KdcProgram *q = open_with(v, define);
    json_t *answer = NULL;
    bool ready = within(q, take_net, v);
    double opened = kdc_now();
    if (!ready) {
        answer = said(q, "failed");
    } else if (within(q, measure, v)) {
        KdcStats stats = kdc_eval_net_stats(&v->e);
        answer = json_pack("{s:o, s:f, s:f, s:b, s:f}", "metrics", values_json(v), "whole",
                           opened - start, "code", stats.code_seconds, "from_cache",
                           stats.from_cache, "evaluate", kdc_now() - opened);
    } else {
        answer = kdc_settle(v->p, 0) == KDC_OK ? said(q, "failed") : said(v->p, "error");
    }
    kdc_eval_drop_net(&v->e);
    kdc_close(q);
    return answer;
}

static json_t *answer_extract(Server *v, json_t *request) {
    void *user[2] = {v, request};
    if (!open_evaluation(v)) {
        return said(v->p, "error");
    }
    KdcProgram *q = open_with(v, json_object_get(request, "define"));
    bool ok = within(q, take_net, v) && within(q, save_net, user);
    json_t *answer = ok ? json_object() : said(q, "error");
    kdc_eval_drop_net(&v->e);
    kdc_close(q);
    return answer;
}

/* ---- the server
 * ------------------------------------------------------------------------------------------- */

typedef struct OpenWork {
    Server *v;
    KdStr inputs;
} OpenWork;

/* What the network is applied to, for costs and times. */
static bool find_shapes(KdcProgram *p, void *user) {
    Server *v = user;
    if (!kdc_cli_shapes(p, &v->costs, &v->shapes)) {
        return false;
    }
    kdc_cli_default_shape(p, &v->costs, v->a.name, &v->shapes);
    return true;
}

static bool list_inputs(KdcProgram *p, void *user) {
    OpenWork *w = user;
    KdNetOptions o;
    KdcUnit u;
    KD_VEC(KdcTensor *) data = {0};
    if (!kdc_net_options(p, &w->v->shapes, &o) || !kdc_unit_net(p, w->v->a.name, &o, &u)) {
        return false;
    }
    w->inputs = (KdStr){.cx = p->cx};
    for (int i = 0; i < u.func->inputs.n; i++) {
        KdValue x = u.func->inputs.v[i];
        if (kd_input_role(u.func, x) == KD_DATA && kd_vtype(u.func, x)->rank > 0) {
            KdcTensor *t = KD_NEW(p->cx, KdcTensor);
            *t = kdc_tensor_of(p, u.func, x);
            kd_push(p->cx, &data, t);
            kd_str_printf(&w->inputs, "%s%s: %s", w->inputs.n ? ", " : "", t->name,
                          kdc_tensor_shape(p->cx, t));
        }
    }
    return kdc_cli_check_shapes(p, &w->v->a, data.v, data.n);
}

static json_t *answer_open(Server *v) {
    OpenWork w = {.v = v};
    if (!within(v->p, list_inputs, &w) || !open_evaluation(v)) {
        return said(v->p, "error");
    }
    char *warnings = messages_of(v->p);
    json_t *o = json_pack("{s:o, s:o, s:s, s:I, s:s, s:o}", "inputs", text_json(w.inputs.s), "set",
                          text_json(v->e.set), "preprocess", v->e.preprocess, "pictures",
                          (json_int_t)kdc_eval_pictures(&v->e), "cpu", v->p->host.cpu, "warnings",
                          text_json(warnings));
    free(warnings);
    if (within(v->p, measure, v)) { /* the widest: pictures can be read, the metric can be had */
        char list[32];
        snprintf(list, sizeof list, "%016" PRIx64, v->e.list ^ v->e.pixels);
        json_object_set_new(o, "list", json_string(list));
        return o;
    }
    json_decref(o);
    return said(v->p, "error");
}

static json_t *answer_to(Server *v, json_t *request) {
    const char *what = json_string_value(json_object_get(request, "do"));
    what = what ? what : "";
    return strcmp(what, "cost") == 0      ? answer_cost(v, request)
           : strcmp(what, "time") == 0    ? answer_time(v, request)
           : strcmp(what, "value") == 0   ? answer_value(v, request)
           : strcmp(what, "extract") == 0 ? answer_extract(v, request)
           : strcmp(what, "open") == 0
               ? answer_open(v)
               : json_pack("{s:s, s:i}", "error", "no such request", "status", KDC_MACHINE);
}

static bool reply(json_t *answer) {
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    size_t n = text ? strlen(text) : 0, at = 0;
    while (text && at <= n) { /* with a newline in place of the NUL */
        text[n] = '\n';
        ssize_t wrote = write(0, text + at, n + 1 - at);
        if (wrote <= 0) {
            break;
        }
        at += (size_t)wrote;
    }
    free(text);
    return n && at > n;
}

static bool serve(Server *v) {
    char *line = NULL;
    size_t room = 0;
    volatile bool ok = true;
    FILE *in = fdopen(dup(0), "r");
    while (ok && in && getline(&line, &room, in) > 0) {
        json_error_t error;
        json_t *request = json_loads(line, 0, &error), *volatile answer = NULL;
        KdLanding l;
        if (KD_TRY(v->p->cx, l)) {
            answer = answer_to(v, request);
            kd_landing_pop(v->p->cx);
        } else {
            kdc_failed(v->p);
            answer = said(v->p, "error");
        }
        ok = reply(answer);
        json_decref(answer);
        json_decref(request);
    }
    free(line);
    if (in) {
        fclose(in);
    }
    return in != NULL;
}

void kdc_search_sizes(KdcArgs *a) {
    bool pictures = a->crop_h || a->load_h;
    if (pictures && !a->height && !a->width) {
        a->height = a->crop_h ? a->crop_h : a->load_h;
        a->width = a->crop_h ? a->crop_w : a->load_w;
    } else if (!pictures && !a->preprocess && a->height && a->width) {
        a->crop_h = a->height;
        a->crop_w = a->width;
    }
}

int kdc_search_worker(const KdcArgs *a) {
    Server v = {.a = *a};
    int code;
    v.a.metrics = a->search.objective;
    v.a.phase = a->phase ? a->phase : "train";
    v.a.threads = a->threads ? a->threads : 1;
    v.a.quiet = true;
    v.a.verbose = 0;
    kdc_search_sizes(&v.a);
    v.costs = v.a;
    v.costs.batch = 1;
    v.p = kdc_cli_open(&v.costs, &v.watch, &code);
    if (!v.p) {
        return code;
    }
    v.watch.unit = a->name;
    bool ok = within(v.p, find_shapes, &v) && serve(&v);
    if (v.begun) {
        kdc_eval_end(&v.e);
    }
    return kdc_cli_close(&v.costs, &v.watch, v.p, ok);
}
