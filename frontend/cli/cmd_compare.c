/* cmd_compare.c: kdc compare: networks side by side, as papers' tables have them. See compare.h.
 *
 * All networks are compiled first and stay in memory. Then rounds: in each, every network runs once, timed, so that a
 * machine whose clock drifts treats all alike; first all rounds on one core, then all on every core. What needs less
 * than 0.1 s runs once untimed before, so that caches hold its own data and not its neighbour's, as they would in use.
 * Metrics are those of kdc eval.
 */
#include "frontend/cli/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUNS = 30 };

/* ---- one network -------------------------------------------------------------------------------------- */

/* splitmix64: Steele, Lea and Flood 2014 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* f32 in [-1, 1); whole numbers, which may be labels of few classes, 0. */
static void fill_data(KdcTensor *t, uint64_t seed) {
    uint64_t state = seed;
    for (int64_t i = 0; i < t->count && t->dtype == KDC_F32; i++) {
        ((float *)t->data)[i] = (float)(next_random(&state) >> 40) / 8388608 - 1;
    }
}

static bool is_network(const KdDecl *d) {
    return d->kind == KD_DECL_NET || d->kind == KD_DECL_INSTANCE || d->kind == KD_DECL_FN;
}

static bool compile(KdcCompareRow *r) {
    const KdDecl *d = kdc_cli_find(r->p, r->a.name);
    KdcShapes s = {0};
    if (d && !is_network(d)) {
        kd_error(r->p->cx, d->loc, "%s is %s; networks are compared", r->net,
                 d->kind == KD_DECL_SESSION ? "a session" : "no network");
        return false;
    }
    if (!kdc_cli_shapes(r->p, &r->a, &s)) {
        return false;
    }
    kdc_cli_default_shape(r->p, &r->a, r->a.name, &s);
    r->r = kdc_net(r->p, r->a.name, &s);
    return r->r != NULL;
}

static void count(KdcCompareRow *r) {
    KdStr inputs = {.cx = r->p->cx};
    const KdFunc *f = kdc_runnable_unit(r->r)->func;
    KdcStats stats = kdc_stats(r->r);
    for (int i = 0; i < kdc_input_count(r->r); i++) {
        const KdcTensor *t = kdc_input(r->r, i);
        if (t->role == KDC_DATA && t->rank > 0) {
            const char *type = t->dtype == KDC_F32 ? "" : t->dtype == KDC_I32 ? "i32" : "u8";
            kd_str_printf(&inputs, "%s%s%s", inputs.n ? ", " : "", type, kdc_tensor_shape(r->p->cx, t));
        } else if (t->role != KDC_DATA && t->role != KDC_STATE) {
            r->weight_bytes += kdc_tensor_bytes(t);
        }
    }
    r->inputs = inputs.n ? inputs.s : "no data";
    r->parameters = kd_lang_parameters(f);
    r->macs = kd_lang_macs(f);
    r->layers = kd_lang_layer_bytes(f);
    r->arena = stats.memory;
    r->packed = stats.memory_packed;
}

static bool fill(KdcCompareRow *r) {
    KdcArgs a = r->a;
    KdcFiles files;
    KD_VEC(KdcTensor *) all = {0};
    a.quiet = a.quiet || a.n_weights == 0; /* random weights are as fast as others */
    for (int i = 0; i < kdc_input_count(r->r); i++) {
        KdcTensor *t = kdc_input(r->r, i);
        kd_push(r->p->cx, &all, t);
        if (t->role == KDC_DATA) {
            fill_data(t, r->a.seed);
        }
    }
    bool ok = kdc_files_read(r->p, &r->a, &files) && kdc_cli_check_shapes(r->p, &r->a, all.v, all.n) &&
              kdc_fill_weights(r->p, &a, &files, true, all.v, all.n);
    kdc_files_free(&files);
    kdc_hold_weights(r->r, true);
    return ok;
}

static bool build(KdcCompareRow *r) {
    if (!compile(r)) {
        return false;
    }
    count(r);
    return fill(r);
}

/* Does `work` for a row where what is raised in its program lands. */
static bool with_row(KdcCompareRow *r, bool (*work)(KdcCompareRow *r)) {
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(r->p->cx, l)) {
        ok = work(r);
        kd_landing_pop(r->p->cx);
    } else {
        kdc_failed(r->p);
    }
    kdc_settle(r->p, 0);
    return ok && kdc_status(r->p) == KDC_OK;
}

/* Networks side by side are of one task: they take the same. */
static bool same_input(KdcCompare *c, const KdcCompareRow *r) {
    const KdcCompareRow *first = &c->row[0];
    if (strcmp(first->inputs, r->inputs) == 0) {
        return true;
    }
    kd_error(c->p->cx, 0, "%s takes %s, but %s takes %s; networks that are compared take the same input", first->label,
             first->inputs, r->label, r->inputs);
    return false;
}

/* ---- time -------------------------------------------------------------------------------------------- */

static KdcSpread spread_of(double *seconds, int n) {
    double median = kdc_median(seconds, n);
    return (KdcSpread){median, seconds[0], seconds[n - 1]};
}

static bool timed_run(KdcCompareRow *r, double *seconds) {
    double start = kdc_now();
    bool ok = kdc_run(r->r) == KDC_OK;
    *seconds = kdc_now() - start;
    return ok;
}

static void say(const KdcCompare *c, int threads, int round) {
    if (!c->a->quiet && isatty(2)) {
        fprintf(stderr, "\r%d thread%s: round %d of %d\033[K", threads, threads == 1 ? "" : "s", round, c->runs);
    }
}

static bool measure(KdcCompare *c, int time) {
    enum { WARM = 2 };
    double ignored;
    double *usual = KD_NEW_ARRAY(c->p->cx, double, c->n);
    for (int i = 0; i < c->n; i++) {
        kdc_runnable_threads(c->row[i].r, c->threads[time]);
        for (int k = 0; k < WARM; k++) {
            if (!timed_run(&c->row[i], &usual[i])) {
                return false;
            }
        }
    }
    for (int k = 0; k < c->runs; k++) {
        say(c, c->threads[time], k + 1);
        for (int i = 0; i < c->n; i++) {
            KdcCompareRow *r = &c->row[i];
            if ((usual[i] < 0.1 && !timed_run(r, &ignored)) || !timed_run(r, &r->seconds[k])) {
                return false;
            }
        }
    }
    for (int i = 0; i < c->n; i++) {
        c->row[i].time[time] = spread_of(c->row[i].seconds, c->runs);
    }
    return true;
}

static bool measure_all(KdcCompare *c) {
    int cores = kdc_threads(c->row[0].p);
    bool ok = true;
    if (c->a->no_latency) {
        return true;
    }
    for (int i = 0; i < c->n; i++) {
        c->row[i].seconds = KD_NEW_ARRAY(c->p->cx, double, c->runs);
    }
    c->n_times = cores > 1 ? 2 : 1;
    c->threads[0] = 1;
    c->threads[1] = cores;
    for (int t = 0; t < c->n_times && ok; t++) {
        ok = measure(c, t);
    }
    if (!c->a->quiet && isatty(2)) {
        fprintf(stderr, "\r\033[K");
    }
    return ok;
}

/* ---- metrics ------------------------------------------------------------------------------------------ */

typedef struct Measured {
    KdcCompare *c;
    KdcCompareRow *row;
    KdcEval e;
} Measured;

static bool evaluate(Measured *m) {
    volatile bool ok = false;
    KdLanding l;
    KdcEval *e = &m->e;
    if (KD_TRY(e->p->cx, l)) {
        ok = kdc_eval_begin(e) && kdc_eval_measure(e, NULL);
        for (int k = 0; k < KDC_METRICS && ok; k++) {
            m->row->metric[k] = e->compute[k] ? kdc_eval_value(e, (KdcMetric)k) : NAN;
            m->c->measured[k] = m->c->measured[k] || e->compute[k];
        }
        kd_landing_pop(e->p->cx);
    } else {
        kdc_failed(e->p);
    }
    if (ok && !m->c->set) {
        m->c->set = kd_intern_z(m->c->p->cx, e->set);
        m->c->preprocess = kd_intern_z(m->c->p->cx, e->preprocess);
        m->c->pictures = e->count;
        m->c->list = e->list;
    }
    kdc_eval_end(e);
    kdc_settle(e->p, 0);
    return ok;
}

static bool evaluate_all(KdcCompare *c) {
    for (int i = 0; i < c->n; i++) {
        KdcCompareRow *r = &c->row[i];
        if (!c->a->data || !r->a.n_weights) {
            continue;
        }
        Measured m = {.c = c, .row = r, .e = {.a = &r->a, .p = r->p}};
        if (kdc_eval_metrics(c->a, m.e.asked) || !evaluate(&m)) {
            return false;
        }
    }
    return true;
}

/* ---- the verb ---------------------------------------------------------------------------------------- */

static int check_usage(const KdcArgs *a) {
    bool asked[KDC_METRICS];
    if (a->format && !kdc_compare_known_format(a->format)) {
        return kdc_usage_error(a, "--format takes text, markdown, csv or json, got '%s'", a->format);
    }
    if (a->format && a->json && strcmp(a->format, "json") != 0) {
        return kdc_usage_error(a, "--json and --format %s: one of them", a->format);
    }
    if (a->output && !kdc_cli_ends_in(a->output, ".html")) {
        return kdc_usage_error(a, "-o writes a page: expected a name that ends in .html, got '%s' (tables: --format)",
                               a->output);
    }
    if (a->data && !a->n_weights) {
        return kdc_usage_error(a, "--data is for metrics, which need --weights [ROW=]FILE");
    }
    return kdc_eval_metrics(a, asked);
}

/* Opens, compiles, measures. *code: what a program that did not open says. */
static bool work(KdcCompare *c, int *code) {
    if (!kdc_compare_rows(c)) {
        return false;
    }
    for (int i = 0; i < c->n; i++) {
        KdcCompareRow *r = &c->row[i];
        if (!kdc_compare_open(c, r, code) || !kdc_cli_spares(r->p, &r->a, c->a->output, r->a.weights, r->a.n_weights) ||
            !with_row(r, build) || !same_input(c, r)) {
            return false;
        }
    }
    kdc_compare_widths(c);
    return measure_all(c) && evaluate_all(c) && kdc_compare_print(c) && (!c->a->output || kdc_compare_page(c));
}

int kdc_cmd_compare(const KdcArgs *a) {
    KdcCompare c = {.a = a, .runs = a->runs ? (int)a->runs : RUNS};
    volatile int worst = 0;
    int code = check_usage(a), opened = 0;
    volatile bool ok = false;
    KdLanding l;
    if (code) {
        return code;
    }
    KdcWatch w = {.args = a};
    c.p = kdc_open("kdc compare", "", 0, &(KdcOptions){.threads = (int)a->threads});
    if (!c.p) {
        fprintf(stderr, "kdc: error: out of memory\n");
        return 3;
    }
    if (KD_TRY(c.p->cx, l)) {
        ok = work(&c, &opened);
        kd_landing_pop(c.p->cx);
    } else {
        kdc_failed(c.p);
    }
    kdc_settle(c.p, 0);
    for (int i = 0; i < c.n; i++) {
        if (c.row[i].p) {
            kdc_settle(c.row[i].p, 0);
            int one = kdc_cli_close(&c.row[i].a, &c.row[i].watch, c.row[i].p, true);
            worst = one > worst ? one : worst;
        }
    }
    code = kdc_cli_close(a, &w, c.p, true);
    worst = code > worst ? code : worst;
    worst = opened > worst ? opened : worst;
    return c.usage ? c.usage : worst ? worst : ok ? 0 : 1;
}
