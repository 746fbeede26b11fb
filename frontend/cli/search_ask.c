/* search_ask.c: what kdc search asks of its workers, and what comes of the answers: costs against
 * budgets, metrics, times.
 *
 * Latency comes last: a configuration that another budget refuses is never compiled. Predicted, it
 * is a sum over a plan's kernels; the networks that between them have all kernels that nobody has
 * measured are compiled and timed, and their kernels go into the table. Networks are timed a few
 * together, in rounds in which each runs once, by one worker while the others rest. The widest
 * configuration, the anchor, runs along in all rounds. What counts is a
 * network's time without interruptions (each call's low tenth of rounds, added up) by the anchor's,
 * times the least that the anchor's has ever been: what was measured while other work slowed the
 * machine down compares with what was not.
 */
#include "frontend/cli/search.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOGETHER = 6 }; /* networks that are timed in the same rounds */

typedef struct Ask {
    KdcSearch *s;
    KdcCandidate **v;
    int n, runs;
    bool plan;
    const char *path;
} Ask;

/* ---- texts
 * ------------------------------------------------------------------------------------------------
 */

const char *kdc_cost_key(KdcCost k) {
    static const char *const keys[KDC_COSTS] = {[KDC_COST_LATENCY] = "latency",
                                                [KDC_COST_MACS] = "macs",
                                                [KDC_COST_MEMORY] = "memory",
                                                [KDC_COST_PARAMS] = "params"};
    return keys[k];
}

const char *kdc_cost_name(const KdcSearch *s, KdcCost k) {
    switch (k) {
    case KDC_COST_LATENCY:
        return s->predict ? "predicted latency" : "latency";
    case KDC_COST_MACS:
        return kd_format(s->p->cx, "MACs (%s)", s->budget.macs);
    case KDC_COST_MEMORY:
        return s->budget.layers ? "layers' memory" : "peak memory";
    case KDC_COST_PARAMS:
        return "parameters";
    case KDC_COSTS:
        break;
    }
    return "";
}

const char *kdc_cost_text(KdContext *cx, KdcCost k, double v) {
    if (isnan(v)) {
        return "-";
    }
    switch (k) {
    case KDC_COST_LATENCY:
        return kd_format(cx, "%.*f ms", v < 1e-3 ? 4 : v < 0.1 ? 2 : 1, v * 1e3);
    case KDC_COST_MACS:
    case KDC_COST_PARAMS:
        return v >= 1e9   ? kd_format(cx, "%.4g G", v / 1e9)
               : v >= 1e6 ? kd_format(cx, "%.4g M", v / 1e6)
                          : kd_format(cx, v >= 1e4 ? "%.4g k" : "%.0f", v >= 1e4 ? v / 1e3 : v);
    case KDC_COST_MEMORY:
        return v >= 1 << 20 ? kd_format(cx, "%.2f MiB", v / (1 << 20))
                            : kd_format(cx, "%.1f KiB", v / 1024);
    case KDC_COSTS:
        break;
    }
    return "";
}

/* ---- budgets
 * --------------------------------------------------------------------------------------------- */

double kdc_search_cost(const KdcSearch *s, const KdcCandidate *x, KdcCost k) {
    switch (k) {
    case KDC_COST_LATENCY:
        return s->anchor * (s->predict && !isnan(x->latency.predicted) ? x->latency.predicted
                                                                       : x->latency.measured);
    case KDC_COST_MACS:
        return !x->counted                          ? NAN
               : strcmp(s->budget.macs, "noT") == 0 ? x->macs.no_t
               : strcmp(s->budget.macs, "Tin") == 0 ? x->macs.t_in
                                                    : x->macs.t_out;
    case KDC_COST_MEMORY:
        return s->budget.layers ? (x->counted ? x->layers : NAN)
               : x->planned     ? (double)x->peak
                                : NAN;
    case KDC_COST_PARAMS:
        return x->counted ? (double)x->parameters : NAN;
    case KDC_COSTS:
        break;
    }
    return NAN;
}

static bool keeps(const KdcSearch *s, const KdcCandidate *x, KdcCost k) {
    return isnan(s->budget.limit[k]) || kdc_search_cost(s, x, k) <= s->budget.limit[k];
}

bool kdc_search_fits(const KdcSearch *s, const KdcCandidate *x) {
    bool fits = !x->refused && x->counted;
    for (int k = 0; k < KDC_COSTS && fits; k++) {
        fits = keeps(s, x, (KdcCost)k);
    }
    return fits;
}

/* By all but the latency. */
static bool may_fit(const KdcSearch *s, const KdcCandidate *x) {
    return !x->refused && x->counted && keeps(s, x, KDC_COST_MACS) &&
           keeps(s, x, KDC_COST_MEMORY) && keeps(s, x, KDC_COST_PARAMS);
}

/* ---- requests and answers
 * ---------------------------------------------------------------------------------- */

static json_t *define_of(const KdcSearch *s, const KdcCandidate *x) {
    json_t *v = json_array();
    for (int k = 0; k < s->space.n_params; k++) {
        json_array_append_new(v, json_string(kdc_space_define(&s->space, s->p->cx, k, x->pick)));
    }
    return v;
}

/* An answer that says what is wrong with more than one configuration ends the search. */
static bool is_error(KdcSearch *s, const json_t *answer) {
    const char *text = json_string_value(json_object_get(answer, "error"));
    if (text) {
        fprintf(stderr, "%s", text);
        s->p->status = (KdcStatus)json_integer_value(json_object_get(answer, "status"));
    }
    return text != NULL;
}

/* The first line of what a configuration failed with, without what stands in front of every
 * message. */
static const char *reason(KdcSearch *s, const json_t *answer, const char *key) {
    const char *text = json_string_value(json_object_get(answer, key)),
               *mark = text ? strstr(text, "error: ") : NULL;
    text = mark ? mark + strlen("error: ") : text;
    return text ? kd_intern(s->p->cx, text, strcspn(text, "\n")) : NULL;
}

static double real_of(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    const char *text = json_string_value(v);
    return text                ? (strcmp(text, "inf") == 0 ? INFINITY : NAN)
           : json_is_number(v) ? json_number_value(v)
                               : NAN;
}

/* Kernels' seconds of one call go to *seconds, or nowhere: NULL. */
static void take_kernels(KdcSearch *s, KdcCandidate *x, json_t *kernels, double **seconds) {
    KdContext *cx = s->p->cx;
    const char *name;
    json_t *v;
    int n = 0, room = (int)json_object_size(kernels);
    x->kernel = KD_NEW_ARRAY(cx, KdcKernelUse, room + 1);
    if (seconds) {
        *seconds = KD_NEW_ARRAY(cx, double, room + 1);
    }
    json_object_foreach(kernels, name, v) {
        int calls = (int)json_integer_value(json_array_get(v, 0));
        x->kernel[n] = (KdcKernelUse){strtoull(name, NULL, 16), calls};
        if (seconds) {
            (*seconds)[n] = json_number_value(json_array_get(v, 1)) / (calls > 0 ? calls : 1);
        }
        n++;
    }
    x->n_kernels = n;
}

/* ---- costs
 * ------------------------------------------------------------------------------------------------
 */

static json_t *ask_cost(void *user, int i) {
    Ask *a = user;
    return json_pack("{s:s, s:o, s:b}", "do", "cost", "define", define_of(a->s, a->v[i]), "plan",
                     a->plan);
}

static bool take_cost(void *user, int i, json_t *answer) {
    Ask *a = user;
    KdcCandidate *x = a->v[i];
    if (is_error(a->s, answer)) {
        return false;
    }
    x->refused = reason(a->s, answer, "refused");
    x->fresh.elaborate = real_of(answer, "elaborate");
    if (x->refused) {
        a->s->refused++;
        return true;
    }
    const json_t *macs = json_object_get(answer, "macs");
    x->counted = true;
    x->parameters = json_integer_value(json_object_get(answer, "parameters"));
    x->macs = (KdMacs){json_number_value(json_array_get(macs, 0)),
                       json_number_value(json_array_get(macs, 1)),
                       json_number_value(json_array_get(macs, 2))};
    x->layers = real_of(answer, "layers");
    if (a->plan) {
        x->planned = true;
        x->peak = json_integer_value(json_object_get(answer, "peak"));
        x->fresh.plan = real_of(answer, "planning");
        take_kernels(a->s, x, json_object_get(answer, "kernels"), NULL);
    }
    return true;
}

/* Those of v for which `wanted` is true. */
static KdcCandidate **some(KdcSearch *s, KdcCandidate **v, int n,
                           bool (*wanted)(const KdcSearch *, const KdcCandidate *), int *count) {
    KdcCandidate **out = KD_NEW_ARRAY(s->p->cx, KdcCandidate *, n + 1);
    *count = 0;
    for (int i = 0; i < n; i++) {
        bool known = false;
        for (int k = 0; k < *count; k++) {
            known = known || out[k] == v[i];
        }
        if (!known && wanted(s, v[i])) {
            out[(*count)++] = v[i];
        }
    }
    return out;
}

static bool needs_plan(const KdcSearch *s) {
    return s->predict || (!isnan(s->budget.limit[KDC_COST_MEMORY]) && !s->budget.layers);
}

static bool not_counted(const KdcSearch *s, const KdcCandidate *x) {
    return !x->refused && (!x->counted || (needs_plan(s) && !x->planned));
}

static bool not_timed(const KdcSearch *s, const KdcCandidate *x) {
    return may_fit(s, x) && isnan(x->latency.measured);
}

/* ---- latency
 * ---------------------------------------------------------------------------------------------- */

static json_t *ask_time(void *user, int i) {
    Ask *a = user;
    json_t *configs = json_array();
    json_array_append_new(configs, json_array()); /* the anchor: what workers begin with */
    for (int k = i * TOGETHER; k < a->n && k < (i + 1) * TOGETHER; k++) {
        json_array_append_new(configs, define_of(a->s, a->v[k]));
    }
    return json_pack("{s:s, s:o, s:i}", "do", "time", "configs", configs, "runs", a->runs);
}

static bool take_time(void *user, int i, json_t *answer) {
    Ask *a = user;
    const json_t *times = json_object_get(answer, "times");
    if (is_error(a->s, answer)) {
        return false;
    }
    double anchor = real_of(json_array_get(times, 0), "run");
    if (isnan(anchor) || anchor <= 0) {
        kd_error(a->s->p->cx, 0, "the widest configuration cannot be timed: %s",
                 reason(a->s, json_array_get(times, 0), "refused"));
        return false;
    }
    a->s->anchor = fmin(a->s->anchor, anchor); /* of NaN: anchor */
    a->s->slower = anchor / a->s->anchor;
    for (int k = i * TOGETHER; k < a->n && k < (i + 1) * TOGETHER; k++) {
        json_t *one = json_array_get(times, (size_t)(1 + k - i * TOGETHER));
        KdcCandidate *x = a->v[k];
        double *seconds;
        x->refused = reason(a->s, one, "refused");
        if (x->refused) {
            a->s->refused++;
            continue;
        }
        x->latency.measured = real_of(one, "ratio");
        x->clock[0] = real_of(one, "low");
        x->clock[1] = real_of(one, "median");
        if (a->s->kernels && !a->path) { /* for the table, not for a check of it */
            take_kernels(a->s, x, json_object_get(one, "kernels"), &seconds);
            kdc_kernels_add(a->s->kernels, x->kernel, seconds, x->n_kernels, x->latency.measured);
            a->s->measured++;
        }
    }
    return true;
}

static bool time_some(KdcSearch *s, KdcCandidate **v, int n, int runs, bool check) {
    Ask a = {.s = s, .v = v, .n = n, .runs = runs, .path = check ? "check" : NULL};
    return kdc_pool_run(s->pool, (n + TOGETHER - 1) / TOGETHER, 1, ask_time, take_time, &a);
}

bool kdc_ask_anchor(KdcSearch *s) {
    enum { TIMES = 4 };
    Ask a = {.s = s, .n = 0, .runs = s->runs, .path = "check"};
    return kdc_pool_run(s->pool, TIMES, 1, ask_time, take_time, &a);
}

bool kdc_ask_times(KdcSearch *s, KdcCandidate **v, int n, int runs) {
    return time_some(s, v, n, runs, true);
}

/* Of networks with kernels that the table does not have, in their order, those that have one that
 * none before them has. */
static KdcCandidate **to_measure(KdcSearch *s, KdcCandidate **v, int n, int *count) {
    KdContext *cx = s->p->cx;
    KdcCandidate **out = KD_NEW_ARRAY(cx, KdcCandidate *, n + 1);
    KdMap seen = {.cx = cx};
    *count = 0;
    for (int i = 0; i < n; i++) {
        bool wanted = false;
        for (int k = 0; k < v[i]->n_kernels && isnan(v[i]->latency.predicted); k++) {
            uint64_t hash = v[i]->kernel[k].hash, ignored;
            if (!kdc_kernels_knows(s->kernels, hash) && !kd_map_get(&seen, hash, &ignored)) {
                kd_map_put(&seen, hash, 1);
                wanted = true;
            }
        }
        if (wanted) {
            out[(*count)++] = v[i];
        }
    }
    return out;
}

static bool predict_all(KdcSearch *s, KdcCandidate **v, int n) {
    int count;
    KdcCandidate **first = to_measure(s, v, n, &count);
    if (!time_some(s, first, count, s->runs, false)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (isnan(v[i]->latency.predicted)) {
            v[i]->latency.predicted =
                kdc_kernels_predict(s->kernels, v[i]->kernel, v[i]->n_kernels);
            v[i]->refused = isnan(v[i]->latency.predicted) && !v[i]->refused
                                ? "its kernels could not be measured"
                                : v[i]->refused;
        }
    }
    return true;
}

static bool may_fit_at_all(const KdcSearch *s, const KdcCandidate *x) { return may_fit(s, x); }

bool kdc_ask_costs(KdcSearch *s, KdcCandidate **v, int n) {
    Ask a = {.s = s, .plan = needs_plan(s)};
    int count;
    a.v = some(s, v, n, not_counted, &a.n);
    if (!kdc_pool_run(s->pool, a.n, s->jobs, ask_cost, take_cost, &a)) {
        return false;
    }
    if (isnan(s->budget.limit[KDC_COST_LATENCY])) {
        return true;
    }
    KdcCandidate **rest = some(s, v, n, s->predict ? may_fit_at_all : not_timed, &count);
    return s->predict ? predict_all(s, rest, count) : time_some(s, rest, count, s->runs, false);
}

/* ---- metrics
 * ------------------------------------------------------------------------------------------------
 */

static json_t *ask_value(void *user, int i) {
    Ask *a = user;
    return json_pack("{s:s, s:o}", "do", "value", "define", define_of(a->s, a->v[i]));
}

static bool take_value(void *user, int i, json_t *answer) {
    Ask *a = user;
    KdcCandidate *x = a->v[i];
    if (is_error(a->s, answer)) {
        return false;
    }
    x->valued = true;
    x->failed = reason(a->s, answer, "failed");
    for (int m = 0; m < KDC_METRICS && !x->failed; m++) {
        x->metric[m] = real_of(json_object_get(answer, "metrics"), kdc_metric_key((KdcMetric)m));
    }
    if (!x->failed && isnan(x->metric[a->s->objective])) {
        x->failed = "the metric is no number";
    }
    x->fresh.code = real_of(answer, "code");
    x->fresh.from_cache = json_is_true(json_object_get(answer, "from_cache"));
    x->fresh.evaluate = real_of(answer, "evaluate");
    x->fresh.whole = real_of(answer, "whole");
    return true;
}

static bool not_valued(const KdcSearch *s, const KdcCandidate *x) {
    (void)s;
    return !x->valued;
}

bool kdc_ask_values(KdcSearch *s, KdcCandidate **v, int n) {
    Ask a = {.s = s};
    a.v = some(s, v, n, not_valued, &a.n);
    return kdc_pool_run(s->pool, a.n, s->jobs, ask_value, take_value, &a);
}

/* ---- the beginning and the end
 * ------------------------------------------------------------------------------- */

static json_t *ask_open(void *user, int i) {
    (void)user, (void)i;
    return json_pack("{s:s}", "do", "open");
}

static const char *text_of(KdcSearch *s, const json_t *answer, const char *key) {
    const char *text = json_string_value(json_object_get(answer, key));
    return kd_intern_z(s->p->cx, text ? text : "");
}

static bool take_open(void *user, int i, json_t *answer) {
    KdcSearch *s = ((Ask *)user)->s;
    (void)i;
    if (is_error(s, answer)) {
        return false;
    }
    const char *warnings = text_of(s, answer, "warnings");
    if (*warnings && !s->a->quiet) {
        fprintf(stderr, "%s", warnings);
    }
    s->inputs = text_of(s, answer, "inputs");
    s->set = text_of(s, answer, "set");
    s->preprocess = text_of(s, answer, "preprocess");
    s->pictures = json_integer_value(json_object_get(answer, "pictures"));
    s->list = strtoull(text_of(s, answer, "list"), NULL, 16);
    return true;
}

bool kdc_ask_open(KdcSearch *s) {
    Ask a = {.s = s};
    return kdc_pool_run(s->pool, 1, 1, ask_open, take_open, &a);
}

static json_t *ask_extract(void *user, int i) {
    Ask *a = user;
    return json_pack("{s:s, s:o, s:s}", "do", "extract", "define", define_of(a->s, a->v[i]), "to",
                     a->path);
}

static bool take_extract(void *user, int i, json_t *answer) {
    (void)i;
    return !is_error(((Ask *)user)->s, answer);
}

bool kdc_ask_extract(KdcSearch *s, const KdcCandidate *x, const char *path) {
    KdcCandidate *one = (KdcCandidate *)(uintptr_t)x;
    Ask a = {.s = s, .v = &one, .n = 1, .path = path};
    return kdc_pool_run(s->pool, 1, 1, ask_extract, take_extract, &a);
}
