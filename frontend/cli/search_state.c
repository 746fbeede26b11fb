/* search_state.c: what kdc search keeps in its folder.
 *
 * search.json   settings, the generation that is over, the population, the curve, and every
 * configuration that was taken up, with its costs and metrics: the results, and all that --resume
 * needs cache.json    metrics by configuration, for another search with the same program, weights,
 * pictures and metric
 *
 * Both are written whole after each generation and when the search is interrupted. A configuration
 * that an interrupted generation had measured keeps its place in it, so what comes out is the same
 * as without the interruption.
 */
#include "frontend/cli/search.h"
#include "frontend/cli/tensors.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what a metric depends on
 * -------------------------------------------------------------------------------- */

static void hash_text(uint64_t *h, const char *text) {
    text = text ? text : "";
    kdc_eval_hash(h, text, strlen(text) + 1);
}

static uint64_t weights_hash(KdcSearch *s, bool *ok) {
    KdcFiles files;
    uint64_t h = KDC_EVAL_HASH_START;
    *ok = kdc_files_read(s->p, &s->base, &files);
    for (int i = 0; *ok && i < files.weights.n; i++) {
        const KdWeights *w = files.weights.v[i].w;
        hash_text(&h, files.weights.v[i].net);
        for (int k = 0; k < w->n; k++) {
            const KdTensor *t = &w->tensor[k];
            uint64_t data =
                kd_hash_bytes(t->data, (size_t)t->count * (size_t)kd_stored_size(t->dtype), h);
            hash_text(&h, t->name);
            kdc_eval_hash(&h, &data, sizeof data);
        }
    }
    kdc_files_free(&files);
    return h;
}

/* The network with the widest of everything; what it is at other configurations follows from the
 * same files. */
static bool hash_program(KdcSearch *s, uint64_t *h) {
    KdStr text = {.cx = s->p->cx};
    int n;
    kd_lang_print_ast(&text, s->p->lang);
    const KdDecl *d = kd_lang_decls(s->p->lang, &n);
    const char *last = "";
    for (int i = 0; i < n; i++) {
        const KdPlace *place = kd_place(s->p->cx, d[i].loc);
        size_t size = 0;
        KdTrouble ignored;
        if (!place || strcmp(place->file, last) == 0) {
            continue;
        }
        last = place->file;
        char *source = kd_file_read(
            last, &size, &ignored); /* what is built in is no file; it belongs to the version */
        kdc_eval_hash(h, source ? source : last, source ? size : strlen(last));
        free(source);
    }
    hash_text(h, text.s);
    hash_text(h, KDC_VERSION);
    return true;
}

static bool take_fingerprint(KdcSearch *s) {
    const KdcArgs *a = &s->base;
    const int64_t sizes[] = {a->load_h, a->load_w, a->crop_h, a->crop_w, (int64_t)s->list};
    const int64_t counts[] = {a->truncate, a->calibrate, a->batch};
    const double range[] = {a->range_lo, a->range_hi};
    const char *metric[] = {kdc_metric_key(s->objective), a->against, a->inception, a->ref, a->features, a->feature_weights};
    uint64_t h = KDC_EVAL_HASH_START, *part = s->part;
    bool ok;
    for (int i = 0; i < KDC_PARTS; i++) {
        part[i] = KDC_EVAL_HASH_START;
    }
    hash_program(s, &part[KDC_PART_PROGRAM]);
    for (int i = 0; i < a->n_defines; i++) {
        hash_text(&part[KDC_PART_PROGRAM], a->defines[i]);
    }
    hash_text(&part[KDC_PART_PROGRAM], a->name);
    hash_text(&part[KDC_PART_PROGRAM], a->schedule);
    hash_text(&part[KDC_PART_PROGRAM], a->winograd);
    part[KDC_PART_WEIGHTS] = weights_hash(s, &ok);
    hash_text(&part[KDC_PART_PICTURES], a->preprocess);
    kdc_eval_hash(&part[KDC_PART_PICTURES], sizes, sizeof sizes);
    for (int i = 0; i < KD_COUNT(metric); i++) {
        hash_text(&part[KDC_PART_METRIC], metric[i]);
    }
    kdc_eval_hash(&part[KDC_PART_METRIC], counts, sizeof counts);
    kdc_eval_hash(&part[KDC_PART_METRIC], range, sizeof range);
    kdc_eval_hash(&h, part, sizeof s->part);
    s->fingerprint = kd_format(s->p->cx, "%016" PRIx64, h);
    return ok;
}

static const char *const part_names[KDC_PARTS] = {[KDC_PART_PROGRAM] = "program",
                                                  [KDC_PART_WEIGHTS] = "weights",
                                                  [KDC_PART_PICTURES] = "pictures",
                                                  [KDC_PART_METRIC] = "metric"};

static json_t *parts_json(const KdcSearch *s) {
    json_t *o = json_object();
    for (int i = 0; i < KDC_PARTS; i++) {
        json_object_set_new(o, part_names[i], json_string(kd_format(s->p->cx, "%016" PRIx64, s->part[i])));
    }
    return o;
}

/* "another program, other weights": what the fingerprint of a file differs in. */
static const char *other_parts(const KdcSearch *s, const json_t *o) {
    static const char *const texts[KDC_PARTS] = {[KDC_PART_PROGRAM] = "another program (or other -D)",
                                                 [KDC_PART_WEIGHTS] = "other weights",
                                                 [KDC_PART_PICTURES] = "other pictures",
                                                 [KDC_PART_METRIC] = "another metric (or other settings of it)"};
    KdStr text = {.cx = s->p->cx};
    json_t *now = parts_json(s), *then = json_object_get(o, "parts");
    for (int i = 0; i < KDC_PARTS; i++) {
        if (!json_equal(json_object_get(now, part_names[i]), json_object_get(then, part_names[i]))) {
            kd_str_printf(&text, "%s%s", text.n ? ", " : "", texts[i]);
        }
    }
    json_decref(now);
    return text.n ? text.s : "something else";
}

/* ---- settings: what a search that goes on must have in common with its beginning
 * -------------------------------- */

static json_t *text_json(const char *text) {
    json_t *v = json_string(text ? text : "");
    return v ? v : json_string("?");
}

static json_t *real(double v) {
    return isnan(v) ? json_null() : isinf(v) ? json_string(v > 0 ? "inf" : "-inf") : json_real(v);
}

static json_t *settings_json(const KdcSearch *s) {
    static const char *const strategies[] = {
        [KDC_EVOLUTION] = "evolution", [KDC_RANDOM] = "random", [KDC_ALL] = "all"};
    static const char *const firsts[] = {
        [KDC_UNIFORM] = "uniform", [KDC_ARITHMETIC] = "arithmetic", [KDC_GEOMETRIC] = "geometric"};
    json_t *space = json_object(), *budget = json_object();
    for (int k = 0; k < s->space.n_params; k++) {
        const KdcSpaceParam *q = &s->space.param[k];
        json_t *genes = json_array();
        for (int i = q->first; i < q->first + q->n; i++) {
            json_t *gene = json_array();
            for (int j = 0; j < s->space.gene[i].n; j++) {
                json_array_append_new(gene, text_json(s->space.gene[i].value[j]));
            }
            json_array_append_new(genes, gene);
        }
        json_object_set_new(space, q->name, genes);
    }
    for (int k = 0; k < KDC_COSTS; k++) {
        if (!isnan(s->budget.limit[k])) {
            json_object_set_new(budget, kdc_cost_key((KdcCost)k), json_real(s->budget.limit[k]));
        }
    }
    json_object_set_new(budget, "macs_count", text_json(s->budget.macs));
    json_object_set_new(budget, "memory_count", json_string(s->budget.layers ? "layers" : "peak"));
    json_object_set_new(budget, "predicted", json_boolean(s->predict));
    return json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:f, s:I, s:s, s:o, s:o}",
                     "strategy", strategies[s->strategy], "objective", kdc_metric_key(s->objective),
                     "first", firsts[s->first], "seed", (json_int_t)s->a->seed, "population",
                     s->population, "parents", s->parents, "mutants", s->mutants, "crossovers",
                     s->crossovers, "mutate_prob", s->mutate, "threads",
                     (json_int_t)s->base.threads, "input", s->inputs, "budget", budget, "space",
                     space);
}

/* ---- configurations
 * -------------------------------------------------------------------------------------------- */

static json_t *metrics_json(const KdcCandidate *x) {
    json_t *o = json_object();
    for (int m = 0; m < KDC_METRICS; m++) {
        if (!isnan(x->metric[m])) {
            json_object_set_new(o, kdc_metric_key((KdcMetric)m), real(x->metric[m]));
        }
    }
    return o;
}

static json_t *ms(const KdcSearch *s, double latency) { return real(latency * s->anchor * 1e3); }

static json_t *candidate_json(const KdcSearch *s, const KdcCandidate *x) {
    json_t *o = json_object(), *pick = json_array();
    for (int i = 0; i < s->space.n; i++) {
        json_array_append_new(pick, json_integer(x->pick[i]));
    }
    json_object_set_new(o, "config", text_json(x->key));
    json_object_set_new(o, "pick", pick);
    json_object_set_new(o, "generation", json_integer(x->generation));
    json_object_set_new(o, "place", json_integer(x->place));
    json_object_set_new(o, "parameters", json_integer(x->parameters));
    json_object_set_new(o, "macs",
                        json_pack("{s:f, s:f, s:f}", "noT", x->macs.no_t, "Tin", x->macs.t_in,
                                  "Tout", x->macs.t_out));
    json_object_set_new(o, "layer_bytes", json_real(x->layers));
    if (x->planned) {
        json_object_set_new(o, "peak_bytes", json_integer(x->peak));
    }
    if (!isnan(x->latency.measured) || !isnan(x->latency.predicted)) {
        json_object_set_new(o, "latency_ms",
                            json_pack("{s:o, s:o}", "measured", ms(s, x->latency.measured),
                                      "predicted", ms(s, x->latency.predicted)));
    }
    if (!isnan(x->final)) {
        json_object_set_new(o, "measured_again_ms",
                            json_pack("{s:o, s:f, s:f}", "measured", ms(s, x->final), "clock_low",
                                      x->clock[0] * 1e3, "clock_median", x->clock[1] * 1e3));
    }
    if (x->valued && !x->failed) {
        json_object_set_new(o, "metrics", metrics_json(x));
    }
    if (x->failed || x->refused) {
        json_object_set_new(o, x->failed ? "failed" : "refused",
                            text_json(x->failed ? x->failed : x->refused));
    }
    json_object_set_new(o, "seconds",
                        json_pack("{s:o, s:o, s:o, s:o, s:o, s:b}", "elaborate",
                                  real(x->fresh.elaborate), "plan", real(x->fresh.plan), "code",
                                  real(x->fresh.code), "evaluate", real(x->fresh.evaluate), "whole",
                                  real(x->fresh.whole), "from_cache", x->fresh.from_cache));
    return o;
}

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    const char *text = json_string_value(v);
    return text                ? (strcmp(text, "inf") == 0    ? INFINITY
                                  : strcmp(text, "-inf") == 0 ? -INFINITY
                                                              : NAN)
           : json_is_number(v) ? json_number_value(v)
                               : NAN;
}

static bool take_metrics(KdcCandidate *x, const json_t *o) {
    for (int m = 0; m < KDC_METRICS; m++) {
        x->metric[m] = number(o, kdc_metric_key((KdcMetric)m));
    }
    return json_is_object(o);
}

static const char *text_at(KdcSearch *s, const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    return text ? kd_intern_z(s->p->cx, text) : NULL;
}

/* false: no configuration of this space. */
static bool take_candidate(KdcSearch *s, const json_t *state, const json_t *o) {
    uint8_t pick[KDC_GENES];
    const json_t *picks = json_object_get(o, "pick"), *macs = json_object_get(o, "macs"),
                 *latency = json_object_get(o, "latency_ms"),
                 *seconds = json_object_get(o, "seconds");
    for (int i = 0; i < s->space.n; i++) {
        json_int_t v = json_integer_value(json_array_get(picks, (size_t)i));
        if (v < 0 || v >= s->space.gene[i].n) {
            return false;
        }
        pick[i] = (uint8_t)v;
    }
    KdcCandidate *x = kdc_search_candidate(s, pick);
    x->generation = (int)json_integer_value(json_object_get(o, "generation"));
    x->place = (int)json_integer_value(json_object_get(o, "place"));
    x->refused = text_at(s, o, "refused");
    x->failed = text_at(s, o, "failed");
    x->counted = !x->refused;
    x->parameters = json_integer_value(json_object_get(o, "parameters"));
    x->macs = (KdMacs){number(macs, "noT"), number(macs, "Tin"), number(macs, "Tout")};
    x->layers = number(o, "layer_bytes");
    double anchor = number(state, "anchor_ms");
    x->latency =
        (KdcLatency){number(latency, "measured") / anchor, number(latency, "predicted") / anchor};
    x->peak = json_integer_value(json_object_get(o, "peak_bytes"));
    x->planned = json_object_get(o, "peak_bytes") && (!s->predict || !isnan(x->latency.predicted));
    x->valued = take_metrics(x, json_object_get(o, "metrics")) || x->failed;
    x->fresh = (KdcFresh){
        number(seconds, "elaborate"), number(seconds, "plan"),
        number(seconds, "code"),      number(seconds, "evaluate"),
        number(seconds, "whole"),     json_is_true(json_object_get(seconds, "from_cache"))};
    return true;
}

/* ---- the files
 * -------------------------------------------------------------------------------------------------
 */

static const char *in_folder(const KdcSearch *s, const char *name) {
    return kd_format(s->p->cx, "%s/%s", s->folder, name);
}

/* NULL without a message: it is not there. */
static json_t *read_json(KdcSearch *s, const char *path, bool *ok) {
    KdTrouble t;
    json_error_t error;
    size_t n = 0;
    *ok = true;
    if (access(path, F_OK) != 0 && errno == ENOENT) {
        return NULL;
    }
    char *text = kd_file_read(path, &n, &t);
    json_t *o = text ? json_loadb(text, n, 0, &error) : NULL;
    if (text && !json_is_object(o)) {
        kd_trouble(&t, false, "%s:%d: not what kdc search writes: %s", path, o ? 1 : error.line,
                   o ? "no object" : error.text);
        json_decref(o);
        o = NULL;
    }
    free(text);
    *ok = o || kdc_cli_trouble(s->p, &t);
    return o;
}

static bool write_json(KdcSearch *s, const char *path, json_t *o) {
    KdTrouble t;
    char *text = json_dumps(o, JSON_INDENT(1));
    json_decref(o);
    bool ok = text ? kd_file_write(path, text, strlen(text), &t)
                   : kd_trouble(&t, true, "out of memory for %s", path);
    free(text);
    return ok || kdc_cli_trouble(s->p, &t);
}

bool kdc_state_folder(KdcSearch *s) {
    const char *path = in_folder(s, "search.json"), *slash = strrchr(s->folder, '/');
    if (slash && slash > s->folder) {
        const char *parent = kd_intern(s->p->cx, s->folder, (size_t)(slash - s->folder));
        s->made[0] = kdc_cli_is_folder(parent) ? NULL : parent;
        if (!kdc_cli_make_folder(s->p, parent)) {
            return false;
        }
    }
    s->made[1] = kdc_cli_is_folder(s->folder) ? NULL : s->folder;
    if (!kdc_cli_make_folder(s->p, s->folder) ||
        !kdc_cli_lock_folder(s->p, s->folder, "kdc search", "folder", &s->lock)) {
        return false;
    }
    if (!s->a->resume && access(path, F_OK) == 0) {
        kd_error(s->p->cx, 0, "%s holds a search already", s->folder);
        kd_hint(s->p->cx,
                "--resume goes on with it; another -o begins a new one (--cache %s takes over its "
                "metrics)",
                in_folder(s, "cache.json"));
        return false;
    }
    return true;
}

void kdc_state_leave(KdcSearch *s) {
    for (int i = 1; i >= 0; i--) { /* rmdir leaves what is not empty */
        if (s->made[i]) {
            rmdir(s->made[i]);
        }
    }
    if (s->lock > 0) {
        close(s->lock);
    }
}

static bool before(const KdcCandidate *x, const KdcCandidate *y) {
    return x->generation != y->generation ? x->generation < y->generation : x->place < y->place;
}

/* In the order in which they were taken up, however far an interrupted generation had come. */
static void add_candidates(const KdcSearch *s, json_t *list, bool within) {
    KdcCandidate **v = KD_NEW_ARRAY(s->p->cx, KdcCandidate *, s->all.n + 1);
    int n = 0;
    for (int i = 0; i < s->all.n; i++) {
        KdcCandidate *x = s->all.v[i];
        bool known = x->refused || (x->counted && !isnan(kdc_search_cost(s, x, KDC_COST_LATENCY)));
        if (within ? x->generation >= 0 && x->valued : x->generation < 0 && known) {
            v[n++] = x;
        }
    }
    for (int width = 1; within && width < n;
         width *= 2) { /* merged from the bottom: as stable as short */
        KdcCandidate **to = KD_NEW_ARRAY(s->p->cx, KdcCandidate *, n + 1);
        for (int at = 0; at < n; at += 2 * width) {
            int i = at, j = at + width, mid = j < n ? j : n,
                end = at + 2 * width < n ? at + 2 * width : n;
            j = mid;
            for (int k = at; k < end; k++) {
                to[k] = i < mid && (j >= end || !before(v[j], v[i])) ? v[i++] : v[j++];
            }
        }
        v = to;
    }
    for (int i = 0; i < n; i++) {
        json_array_append_new(list, candidate_json(s, v[i]));
    }
}

json_t *kdc_state_json(const KdcSearch *s) {
    json_t *o = json_object(), *people = json_array(), *curve = json_array(), *all = json_array(),
           *refused = json_array();
    for (int i = 0; i < s->people.n; i++) {
        json_array_append_new(people, text_json(s->people.v[i]->key));
    }
    for (int i = 0; i < s->curve.n; i++) {
        const KdcGeneration *g = &s->curve.v[i];
        json_array_append_new(curve, json_pack("{s:o, s:o, s:i}", "best", real(g->best), "mean",
                                               real(g->mean), "valued", g->valued));
    }
    add_candidates(s, all, true);
    add_candidates(s, refused, false);
    json_object_set_new(o, "program", text_json(s->a->file));
    json_object_set_new(o, "net", text_json(s->a->name));
    json_object_set_new(o, "fingerprint", text_json(s->fingerprint));
    json_object_set_new(o, "parts", parts_json(s));
    json_object_set_new(o, "machine", text_json(s->p->host.cpu));
    json_object_set_new(o, "data",
                        json_pack("{s:o, s:o, s:I}", "set", text_json(s->set), "preprocess",
                                  text_json(s->preprocess), "pictures", (json_int_t)s->pictures));
    json_object_set_new(o, "settings", settings_json(s));
    json_object_set_new(o, "seconds", json_real(s->seconds + s->before));
    if (!isnan(s->anchor)) {
        json_object_set_new(o, "anchor_ms", json_real(s->anchor * 1e3));
    }
    json_object_set_new(o, "drawn", json_integer(s->drawn));
    json_object_set_new(o, "ended", s->ended ? text_json(s->ended) : json_null());
    json_object_set_new(o, "best", s->best ? candidate_json(s, s->best) : json_null());
    if (s->check.n) {
        json_object_set_new(o, "prediction_error",
                            json_pack("{s:i, s:f, s:f}", "configurations", s->check.n, "median",
                                      s->check.median, "most", s->check.most));
    }
    json_object_set_new(o, "generation", json_integer(s->generation));
    json_object_set_new(o, "population", people);
    json_object_set_new(o, "curve", curve);
    json_object_set_new(o, "configurations", all);
    json_object_set_new(o, "over_budget", refused);
    return o;
}

static json_t *cache_json(const KdcSearch *s) {
    json_t *values = json_object();
    for (int i = 0; i < s->all.n; i++) {
        const KdcCandidate *x = s->all.v[i];
        if (x->valued && !x->failed) {
            json_object_set_new(values, x->key, metrics_json(x));
        }
    }
    return json_pack("{s:s, s:o, s:o}", "fingerprint", s->fingerprint, "parts", parts_json(s), "values", values);
}

bool kdc_state_save(KdcSearch *s) {
    return write_json(s, in_folder(s, "search.json"), kdc_state_json(s)) &&
           write_json(s, s->cache, cache_json(s)) && (!s->kernels || kdc_kernels_save(s->kernels));
}

/* ---- going on
 * ----------------------------------------------------------------------------------------------------
 */

/* The alternative of this text at a gene; -1: none. */
static int alternative(const KdcPicks *g, const char *text, size_t n) {
    for (int i = 0; i < g->n; i++) {
        if (strlen(g->value[i]) == n && strncmp(g->value[i], text, n) == 0) {
            return i;
        }
    }
    return -1;
}

/* "channels=[16,24] depth=2" back to indices. */
static bool picks_of(const KdcSpace *space, const char *key, uint8_t *pick) {
    for (int k = 0; k < space->n_params; k++) {
        const KdcSpaceParam *q = &space->param[k];
        size_t n = strlen(q->name);
        if (strncmp(key, q->name, n) != 0 || key[n] != '=') {
            return false;
        }
        key += n + 1 + q->list;
        for (int i = q->first; i < q->first + q->n; i++) {
            const char *stop = q->list ? ",]" : " ";
            n = strcspn(key, stop);
            int at = alternative(&space->gene[i], key, n);
            if (at < 0) {
                return false;
            }
            pick[i] = (uint8_t)at;
            key += n + (key[n] != '\0');
        }
        key += q->list && *key == ' ';
    }
    return true;
}

static bool read_cache(KdcSearch *s) {
    bool ok;
    const char *key;
    json_t *o = read_json(s, s->cache, &ok), *v;
    const char *print = json_string_value(json_object_get(o, "fingerprint"));
    if (o && (!print || strcmp(print, s->fingerprint) != 0)) {
        if (!s->a->quiet) {
            fprintf(stderr, "kdc: note: %s is of %s, and begun anew\n", s->cache, other_parts(s, o));
        }
        json_decref(o);
        return true;
    }
    json_object_foreach(json_object_get(o, "values"), key, v) {
        uint8_t pick[KDC_GENES];
        KdcCandidate *x = picks_of(&s->space, key, pick) ? kdc_search_candidate(s, pick) : NULL;
        if (x && !x->valued && take_metrics(x, v) && !isnan(x->metric[s->objective])) {
            x->valued = x->cached = true;
        }
    }
    json_decref(o);
    return ok;
}

/* The first setting that is another one now; NULL: none. */
static const char *different(const json_t *now, const json_t *then) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)now, key, v) {
        if (!json_equal(v, json_object_get(then, key))) {
            return key;
        }
    }
    return NULL;
}

/* "MACs (Tout) of at most 2.6 G" */
static const char *budget_text(const KdcSearch *s, const json_t *budget) {
    KdcSearch then = *s;
    KdStr text = {.cx = s->p->cx};
    const char *macs = json_string_value(json_object_get(budget, "macs_count")),
               *memory = json_string_value(json_object_get(budget, "memory_count"));
    then.budget.macs = macs ? macs : "?";
    then.budget.layers = memory && strcmp(memory, "layers") == 0;
    then.predict = json_is_true(json_object_get(budget, "predicted"));
    for (int k = 0; k < KDC_COSTS; k++) {
        double limit = number(budget, kdc_cost_key((KdcCost)k));
        if (!isnan(limit)) {
            kd_str_printf(&text, "%s%s of at most %s", text.n ? ", " : "", kdc_cost_name(&then, (KdcCost)k),
                          kdc_cost_text(s->p->cx, (KdcCost)k, limit));
        }
    }
    return text.n ? text.s : "none";
}

static bool check_state(KdcSearch *s, const json_t *o, const char *path) {
    json_t *now = settings_json(s);
    const char *print = json_string_value(json_object_get(o, "fingerprint"));
    const char *other = different(now, json_object_get(o, "settings"));
    bool ok = false;
    if (!print || strcmp(print, s->fingerprint) != 0) {
        kd_error(s->p->cx, 0, "%s: the search there is of %s", path, other_parts(s, o));
    } else if (other && strcmp(other, "budget") == 0) {
        const json_t *then = json_object_get(json_object_get(o, "settings"), other);
        kd_error(s->p->cx, 0, "%s: the search there was begun with another budget: %s, not %s", path, budget_text(s, then),
                 budget_text(s, json_object_get(now, other)));
    } else if (other) {
        char *was = json_dumps(json_object_get(json_object_get(o, "settings"), other),
                               JSON_ENCODE_ANY | JSON_COMPACT),
             *is = json_dumps(json_object_get(now, other), JSON_ENCODE_ANY | JSON_COMPACT);
        kd_error(s->p->cx, 0, "%s: the search there was begun with %s %s, not %s", path, other,
                 was ? was : "?", is ? is : "?");
        free(was);
        free(is);
    } else {
        ok = true;
    }
    json_decref(now);
    if (!ok) {
        kd_hint(s->p->cx, "without --resume and with another -o a new search begins");
    }
    return ok;
}

static bool read_state(KdcSearch *s) {
    const char *path = in_folder(s, "search.json");
    bool ok;
    size_t i;
    json_t *o = read_json(s, path, &ok), *v;
    if (!o) {
        if (ok && !s->a->quiet) {
            fprintf(stderr, "kdc: note: there is no search in %s: a new one begins\n", s->folder);
        }
        return ok;
    }
    ok = check_state(s, o, path);
    json_array_foreach(ok ? json_object_get(o, "configurations") : NULL, i, v) {
        ok = ok && take_candidate(s, o, v);
    }
    json_array_foreach(ok ? json_object_get(o, "over_budget") : NULL, i, v) {
        ok = ok && take_candidate(s, o, v);
    }
    json_array_foreach(ok ? json_object_get(o, "population") : NULL, i, v) {
        uint8_t pick[KDC_GENES];
        ok = ok && json_is_string(v) && picks_of(&s->space, json_string_value(v), pick);
        if (ok) {
            kd_push(s->p->cx, &s->people, kdc_search_candidate(s, pick));
        }
    }
    json_array_foreach(ok ? json_object_get(o, "curve") : NULL, i, v) {
        KdcGeneration g = {number(v, "best"), number(v, "mean"),
                           (int)json_integer_value(json_object_get(v, "valued"))};
        kd_push(s->p->cx, &s->curve, g);
    }
    s->generation = json_integer_value(json_object_get(o, "generation"));
    s->before = number(o, "seconds");
    s->anchor = fmin(s->anchor, number(o, "anchor_ms") / 1e3);
    s->drawn = (int)json_integer_value(json_object_get(o, "drawn"));
    if (ok && s->generation + 1 != s->curve.n) {
        ok = false;
    }
    if (!ok && kd_error_count(s->p->cx) == 0) {
        kd_error(s->p->cx, 0, "%s: the state there does not fit together", path);
    }
    for (int k = 0; ok && k < s->all.n; k++) { /* of generations that are over */
        KdcCandidate *x = s->all.v[k];
        bool counts =
            x->generation >= 0 && x->generation <= s->generation && !isnan(kdc_search_value(s, x));
        s->best = counts && (!s->best || kdc_search_better(s, x, s->best)) ? x : s->best;
    }
    json_decref(o);
    return ok;
}

bool kdc_state_begin(KdcSearch *s) {
    return take_fingerprint(s) && (!s->a->resume || read_state(s)) && read_cache(s);
}
