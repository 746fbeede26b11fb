/* cmd_search.c: kdc search: the configuration of a network that is best by a metric among those
 * that keep a budget (methods B.3). See search.h.
 *
 * At the end the winner is measured again, with more rounds; predicted latencies are checked on a
 * sample of configurations that are measured for that alone. Where the winner turns out slower than
 * the budget, the next best ones are measured until one keeps it.
 */
#include "frontend/cli/search.h"
#include "frontend/cli/page.h"
#include "frontend/cli/train.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    POPULATION = 100,
    GENERATIONS = 500,
    PARENTS = 25,
    MUTANTS = 50,
    CROSSOVERS = 50, /* GAN Compression's */
    RUNS = 20,
    FINAL_RUNS = 40,
    SAMPLE = 12,
    TRIES = 10
};

static volatile sig_atomic_t stopped;

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

/* ---- what is asked for
 * --------------------------------------------------------------------------------------- */

static int one_of(const KdcArgs *a, const char *option, const char *text, const char *const *words,
                  int n, int *value) {
    char all[128] = "";
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        if (!text || strcmp(text, words[i]) == 0) {
            *value = text ? i : 0;
            return 0;
        }
        used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", words[i]);
    }
    return kdc_usage_error(a, "--%s takes one of %s, got '%s'", option, all, text);
}

/* SIZE, SIZE:layers or SIZE:peak */
static int take_memory(KdcSearch *s) {
    const char *text = s->a->search.memory;
    double v;
    if (!text) {
        return 0;
    }
    const char *end = kdc_read_bytes(text, &v);
    s->budget.layers = strcmp(end, ":layers") == 0;
    if (!(v >= 1 && v < 9e18) || (*end && !s->budget.layers && strcmp(end, ":peak") != 0)) {
        return kdc_usage_error(
            s->a,
            "--memory needs bytes, such as 900K or 1.5M (planned peak) or 12M:layers, got '%s'",
            text);
    }
    s->budget.limit[KDC_COST_MEMORY] = v;
    return 0;
}

static int take_budget(KdcSearch *s) {
    static const char *const counts[] = {"Tout", "Tin", "noT"};
    const KdcArgs *a = s->a;
    int which, code = one_of(a, "convention", a->convention, counts, KD_COUNT(counts), &which);
    for (int k = 0; k < KDC_COSTS; k++) {
        s->budget.limit[k] = NAN;
    }
    s->budget.macs = counts[code ? 0 : which];
    s->budget.limit[KDC_COST_MACS] = a->macs > 0 ? a->macs : NAN;
    s->budget.limit[KDC_COST_PARAMS] = a->parameters > 0 ? a->parameters : NAN;
    s->budget.limit[KDC_COST_LATENCY] = a->latency > 0 ? a->latency * 1e-3 : NAN;
    code = code ? code : take_memory(s);
    s->axis = KDC_COSTS;
    for (int k = 0; k < KDC_COSTS; k++) {
        s->axis = s->axis == KDC_COSTS && !isnan(s->budget.limit[k]) ? (KdcCost)k : s->axis;
    }
    if (!code && s->axis == KDC_COSTS) {
        return kdc_usage_error(a,
                               "which budget? --macs N, --params N, --memory SIZE or --latency MS");
    }
    s->predict = a->search.predict;
    return code || !s->predict || !isnan(s->budget.limit[KDC_COST_LATENCY])
               ? code
               : kdc_usage_error(a, "--predict is for a budget of latency: --latency MS");
}

static int take_objective(KdcSearch *s) {
    KdStr all = {.cx = s->p->cx};
    const char *text = s->a->search.objective;
    for (int m = 0; m < KDC_METRICS; m++) {
        if (text && strcmp(text, kdc_metric_key((KdcMetric)m)) == 0) {
            s->objective = (KdcMetric)m;
            s->more = m == KDC_PSNR || m == KDC_SSIM || m == KDC_MIOU;
            return 0;
        }
        kd_str_printf(&all, "%s%s", m ? ", " : "", kdc_metric_key((KdcMetric)m));
    }
    return text ? kdc_usage_error(s->a, "--objective takes one of %s, got '%s'", all.s, text)
                : kdc_usage_error(s->a, "which metric? --objective, one of %s", all.s);
}

static int check_usage(const KdcArgs *a) {
    if (!a->name) {
        return kdc_usage_error(a, "which network of %s? name it: %s:NET", a->file, a->file);
    }
    if (strcmp(a->file, "-") == 0) {
        return kdc_usage_error(a,
                               "the program is a file, not standard input: every worker reads it");
    }
    if (!a->data) {
        return kdc_usage_error(a, "which pictures? --data FOLDER");
    }
    if (a->format && a->json && strcmp(a->format, "json") != 0) {
        return kdc_usage_error(a, "--json and --format %s: one of them", a->format);
    }
    static const char *const formats[] = {"text", "markdown", "csv", "json"};
    int ignored;
    return one_of(a, "format", a->format, formats, KD_COUNT(formats), &ignored);
}

static int or_else(int64_t given, int otherwise) { return given ? (int)given : otherwise; }

static int take_settings(KdcSearch *s) {
    static const char *const strategies[] = {"evolution", "random", "all"}, *const firsts[] = {
                                                                                "uniform",
                                                                                "arithmetic",
                                                                                "geometric"};
    const KdcSearchArgs *o = &s->a->search;
    int strategy, first,
        code = one_of(s->a, "strategy", o->strategy, strategies, KD_COUNT(strategies), &strategy);
    code = code ? code : one_of(s->a, "first", o->first, firsts, KD_COUNT(firsts), &first);
    code = code ? code : take_objective(s);
    code = code ? code : take_budget(s);
    if (code) {
        return code;
    }
    s->strategy = (KdcStrategy)strategy;
    s->first = (KdcFirst)first;
    s->population = or_else(o->population, POPULATION);
    s->generations = o->generations >= 0 ? o->generations : GENERATIONS;
    s->parents = or_else(o->parents, PARENTS);
    s->mutants = o->mutants >= 0 ? (int)o->mutants : MUTANTS;
    s->crossovers = o->crossovers >= 0 ? (int)o->crossovers : CROSSOVERS;
    s->mutate = o->mutate > 0 ? o->mutate : 0.2;
    s->evaluations = (int)o->evaluations;
    s->patience = (int)o->patience;
    s->jobs = or_else(o->jobs, 1);
    s->runs = or_else(s->a->runs, RUNS);
    if (s->strategy == KDC_RANDOM && !s->evaluations) {
        s->evaluations = 10 * s->population;
    }
    if (s->strategy == KDC_EVOLUTION && s->mutants + s->crossovers == 0) {
        return kdc_usage_error(s->a, "--mutants 0 and --crossovers 0: there would be no children");
    }
    return 0;
}

/* ---- the space
 * -------------------------------------------------------------------------------------------------
 */

/* The elaborated network with these definitions, as text; NULL: it cannot be. */
static const char *elaborated(KdcSearch *s, const KdcSpace *space, const uint8_t *pick) {
    KdcArgs a = s->base;
    KdContext *cx = s->p->cx;
    const char *volatile text = NULL;
    KdNetOptions o;
    KdcUnit u;
    KdLanding l;
    a.defines = KD_NEW_ARRAY(cx, const char *, s->a->n_defines + space->n_params + 1);
    a.n_defines = 0;
    for (int i = 0; i < s->a->n_defines; i++) {
        a.defines[a.n_defines++] = s->a->defines[i];
    }
    for (int k = 0; k < space->n_params; k++) {
        a.defines[a.n_defines++] = kdc_space_define(space, cx, k, pick);
    }
    KdcOptions options = kdc_cli_options(&a);
    KdcProgram *q = kdc_open(a.file, NULL, 0, &options);
    if (q && kdc_status(q) == KDC_OK && KD_TRY(q->cx, l)) {
        KdcShapes shapes = {0};
        KdStr print = {.cx = q->cx};
        if (kdc_cli_shapes(q, &a, &shapes)) {
            kdc_cli_default_shape(q, &a, a.name, &shapes);
            if (kdc_net_options(q, &shapes, &o) && kdc_unit_net(q, a.name, &o, &u)) {
                kd_print_func(&print, u.func);
                text = kd_format(cx, "%s", print.s);
            }
        }
        kd_landing_pop(q->cx);
    }
    kdc_close(q);
    return text;
}

/* Does the network change where param k of the space is as narrow as it can be? One that then
 * cannot be built counts, too. */
static bool depends(KdcSearch *s, const KdcSpace *space, int k, const char *widest) {
    uint8_t pick[KDC_GENES];
    for (int i = 0; i < space->n; i++) {
        bool own = i >= space->param[k].first && i < space->param[k].first + space->param[k].n;
        pick[i] = own ? 0 : (uint8_t)(space->gene[i].n - 1);
    }
    const char *text = elaborated(s, space, pick);
    return !text || strcmp(text, widest) != 0;
}

static void widest_of(const KdcSpace *space, uint8_t *pick) {
    for (int i = 0; i < space->n; i++) {
        pick[i] = (uint8_t)(space->gene[i].n - 1);
    }
}

static bool add_given(KdcSearch *s, KdcSpace *space) {
    for (int i = 0; i < s->a->n_chooses; i++) {
        const char *text = s->a->chooses[i];
        const char *name = kd_intern(s->p->cx, text, strcspn(text, "="));
        const KdDecl *d = kdc_cli_find(s->p, name);
        if (!d || (d->kind != KD_DECL_PARAM && d->kind != KD_DECL_CHOICE)) {
            kd_error(s->p->cx, d ? d->loc : 0,
                     "--choose %s: %s has no param or choice of that name", name, s->a->file);
            return false;
        }
        for (int k = 0; k < s->a->n_defines; k++) {
            if (strncmp(s->a->defines[k], text, strlen(name) + 1) == 0) {
                kd_error(s->p->cx, 0, "%s is fixed by -D and searched by --choose: which is meant?",
                         name);
                return false;
            }
        }
        if (!kdc_space_add(space, s->p->cx, name, strchr(text, '=') + 1)) {
            return false;
        }
    }
    return true;
}

/* A choice of the program, as if its space had been given. */
static bool add_choice(KdcSearch *s, KdcSpace *space, const KdChoice *c) {
    KdStr text = {.cx = s->p->cx};
    for (int i = 0; i < c->n_genes; i++) {
        kd_str_printf(&text, "%s[", i ? "," : c->list ? "[" : "");
        for (int k = 0; k < c->genes[i].n; k++) {
            kd_str_printf(&text, "%s%s", k ? "," : "", c->genes[i].alternative[k]);
        }
        kd_str_add(&text, "]", 1);
    }
    kd_str_printf(&text, "%s", c->list ? "]" : "");
    return kdc_space_add(space, s->p->cx, c->name, text.s);
}

static bool is_given(const KdcSpace *space, const char *name) {
    bool yes = false;
    for (int k = 0; k < space->n_params; k++) {
        yes = yes || strcmp(space->param[k].name, name) == 0;
    }
    return yes;
}

/* --choose, and those choices of the program that the network depends on and that -D does not fix.
 */
static bool find_space(KdcSearch *s) {
    KdcSpace all = {0};
    uint8_t pick[KDC_GENES];
    int n;
    const KdChoice *c = kd_lang_choices(s->p->lang, &n);
    if (!add_given(s, &all)) {
        return false;
    }
    int given = all.n_params;
    for (int i = 0; i < n; i++) {
        if (!c[i].fixed && !is_given(&all, c[i].name) && !add_choice(s, &all, &c[i])) {
            return false;
        }
    }
    widest_of(&all, pick);
    const char *widest = all.n_params > given ? elaborated(s, &all, pick) : NULL;
    for (int k = 0; k < all.n_params; k++) {
        const KdcSpaceParam *q = &all.param[k];
        if (k >= given && widest && !depends(s, &all, k, widest)) {
            continue;
        }
        KdcSpaceParam *more = KD_NEW_ARRAY(s->p->cx, KdcSpaceParam, s->space.n_params + 1);
        for (int i = 0; i < s->space.n_params; i++) {
            more[i] = s->space.param[i];
        }
        more[s->space.n_params] = (KdcSpaceParam){q->name, q->list, s->space.n, q->n};
        s->space.param = more;
        s->space.n_params++;
        for (int i = 0; i < q->n; i++) {
            s->space.gene[s->space.n++] = all.gene[q->first + i];
        }
    }
    kdc_space_finish(&s->space);
    if (s->space.size < 2) {
        KdStr fixed = {.cx = s->p->cx};
        for (int i = 0; i < n; i++) {
            if (c[i].fixed) {
                kd_str_printf(&fixed, "%s%s", fixed.n ? ", " : "", c[i].name);
            }
        }
        kd_error(s->p->cx, 0, "there is nothing to choose: %s%s depends on no %s`choice` of %s%s",
                 fixed.n ? kd_format(s->p->cx, "-D fixes %s, and ", fixed.s) : "", s->a->name, fixed.n ? "other " : "",
                 s->a->file, s->space.n_params ? " with more than one alternative" : "");
        kd_hint(s->p->cx, "--choose NAME=SPACE searches a param: --choose 'width=[8, 16, 32]'");
        return false;
    }
    return true;
}

/* Workers begin with the widest of everything. */
static void define_widest(KdcSearch *s) {
    uint8_t pick[KDC_GENES];
    KdContext *cx = s->p->cx;
    int n = s->a->n_defines;
    widest_of(&s->space, pick);
    const char **define = KD_NEW_ARRAY(cx, const char *, n + s->space.n_params + 1);
    for (int i = 0; i < n; i++) {
        define[i] = s->a->defines[i];
    }
    for (int k = 0; k < s->space.n_params; k++) {
        define[n + k] = kdc_space_define(&s->space, cx, k, pick);
    }
    s->base.defines = define;
    s->base.n_defines = n + s->space.n_params;
}

/* ---- the end: what was found, measured
 * ----------------------------------------------------------------------------- */

/* Predictions against measurements of configurations whose kernels were measured in others. */
static bool check_predictions(KdcSearch *s) {
    KdContext *cx = s->p->cx;
    KdcCandidate **all, *sample[SAMPLE];
    double error[SAMPLE];
    int n, count = 0;
    KdcDraw d = kdc_draw_new(s->a->seed, -2, 0);
    kdc_search_sorted(s, &all, &n);
    KdcCandidate **left = KD_NEW_ARRAY(cx, KdcCandidate *, n + 1);
    int rest = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(all[i]->latency.measured) && !isnan(all[i]->latency.predicted)) {
            left[rest++] = all[i];
        }
    }
    while (count < SAMPLE && rest > 0) {
        int64_t at = kdc_draw_below(&d, rest);
        sample[count++] = left[at];
        left[at] = left[--rest];
    }
    if (!count) {
        return true;
    }
    if (!kdc_ask_times(s, sample, count, s->runs)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        error[i] = fabs(sample[i]->latency.predicted / sample[i]->latency.measured - 1);
    }
    s->check.n = count;
    s->check.median = kdc_median(error, count);
    s->check.most = error[count - 1];
    return true;
}

/* The winner is the best that keeps the latency when it is measured once more. */
static bool measure_winner(KdcSearch *s) {
    KdcCandidate **all;
    int n;
    kdc_search_sorted(s, &all, &n);
    for (int i = 0, tries = 0; i < n && tries < TRIES; i++) {
        if (!kdc_search_fits(s, all[i])) {
            continue;
        }
        KdcLatency searched = all[i]->latency;
        tries++;
        if (!kdc_ask_times(s, &all[i], 1, FINAL_RUNS)) {
            return false;
        }
        all[i]->final = all[i]->latency.measured;
        all[i]->latency = searched;
        if (s->anchor * all[i]->final <= s->budget.limit[KDC_COST_LATENCY]) {
            s->passed = tries - 1;
            s->best = all[i];
            return true;
        }
    }
    s->over = true;
    return true;
}

static bool finish(KdcSearch *s) {
    bool ok = true;
    if (!isnan(s->budget.limit[KDC_COST_LATENCY])) {
        ok = (!s->predict || check_predictions(s)) && measure_winner(s);
    }
    s->seconds = kdc_now() - s->start;
    const char *weights = kd_format(s->p->cx, "%s/best.safetensors", s->folder);
    return ok &&
           (s->a->search.no_extract || s->a->n_weights == 0 ||
            kdc_ask_extract(s, s->best, weights)) &&
           kdc_state_save(s) &&
           kdc_search_page(s, kd_format(s->p->cx, "%s/search.html", s->folder)) &&
           kdc_search_picture(s, kd_format(s->p->cx, "%s/front.png", s->folder)) &&
           kdc_search_print(s);
}

/* ---- the verb
 * --------------------------------------------------------------------------------------------------------
 */

/* Which size costs are counted at, where it follows from an option for something else, and whether a run that is given was trained
 * at another one, by its param `size`. */
static void say_size(KdcSearch *s) {
    KdContext *cx = s->p->cx;
    const KdcArgs *a = s->a;
    long long h = (long long)s->base.height, w = (long long)s->base.width;
    if (a->quiet || !h || !strstr(s->inputs, kd_format(cx, ", %lld, %lld]", h, w))) {
        return; /* the program's own, or what is said in any case */
    }
    if (!a->height) {
        fprintf(stderr, "kdc: note: costs are counted at %lldx%lld, the pictures' size (--size HxW: another)\n", h, w);
    } else if (!a->crop_h && s->base.crop_h) {
        fprintf(stderr, "kdc: note: pictures are resized to %lldx%lld, as costs are counted (--crop-size HxW: another)\n", h, w);
    }
}

/* The `size` that a run folder's network was trained with, where it was given or the program here has such a param. */
static void warn_of_size(KdcSearch *s, const char *given) {
    const char *equals = strchr(given, '='), *folder = equals ? equals + 1 : given, *colon = strrchr(folder, ':');
    const KdDecl *d = kdc_cli_find(s->p, "size");
    const KdcArgs none = {.ignore = -1};
    KdcArgs stored = none;
    KdcRunArgs r;
    KdTrouble ignored;
    KdContext *cx = s->p->cx;
    if (!kdc_cli_is_folder(folder) && colon) {
        folder = kd_intern(cx, folder, (size_t)(colon - folder));
    }
    if (!kdc_cli_is_folder(folder)) {
        return;
    }
    const char *size = d && d->kind == KD_DECL_PARAM ? d->value : NULL;
    if (kdc_run_args_read(folder, &stored, &r, &ignored)) {
        for (int i = 0; i < stored.n_defines; i++) {
            size = strncmp(stored.defines[i], "size=", 5) == 0 ? kd_intern_z(cx, stored.defines[i] + 5) : size;
        }
    }
    kdc_run_args_free(&stored, &none, &r);
    bool number = size && *size && !size[strspn(size, "0123456789")];
    if (number && !strstr(s->inputs, kd_format(cx, ", %s, %s]", size, size))) {
        fprintf(stderr, "kdc: warning: %s was trained with size %s, and costs are counted at %s (--size %s)\n", folder, size,
                s->inputs, size);
    }
}

static bool work(KdcSearch *s) {
    KdContext *cx = s->p->cx;
    const char *kernels = s->a->search.kernels;
    s->folder = s->a->output ? s->a->output : kd_format(cx, "runs/search-%s", s->a->name);
    s->cache = s->a->search.cache ? s->a->search.cache : kd_format(cx, "%s/cache.json", s->folder);
    s->index = (KdMap){.cx = cx};
    if (!kdc_cli_find(s->p, s->a->name)) {
        kd_error(cx, 0, "%s has no network called '%s'", s->a->file, s->a->name);
        return false;
    }
    if (!find_space(s)) {
        return false;
    }
    define_widest(s);
    s->pool = kdc_pool_new(s, s->jobs);
    if (!kdc_state_folder(s) || !kdc_ask_open(s)) {
        return false;
    }
    if (!isnan(s->budget.limit[KDC_COST_LATENCY]) && !kdc_ask_anchor(s)) {
        return false;
    }
    if (s->predict && !(s->kernels = kdc_kernels_open(
                            s, kernels ? kernels : kd_format(cx, "%s/kernels.json", s->folder)))) {
        return false;
    }
    say_size(s);
    for (int i = 0; i < s->a->n_weights && !s->a->quiet; i++) {
        warn_of_size(s, s->a->weights[i]);
    }
    if (!kdc_state_begin(s)) {
        return false;
    }
    if (!s->a->quiet) {
        fprintf(stderr, "%.6g configurations of %s, %d pictures of %s, by %s; costs at %s\n", s->space.size,
                s->a->name, (int)s->pictures, s->set, kdc_metric_name(s->objective), s->inputs);
    }
    return kdc_search_evolve(s) && finish(s);
}

/* What was interrupted is saved as far as it came; 130, as a shell has it. */
static int interrupted(KdcSearch *s) {
    s->seconds = kdc_now() - s->start;
    bool saved = s->fingerprint && kdc_state_save(s);
    fprintf(stderr, "%skdc: interrupted%s\n", isatty(2) ? "\n" : "",
            saved ? ", saved: --resume goes on" : "");
    const KdcArgs *a = s->a;
    for (int i = 0; saved && i < a->argc; i++) {
        bool split = a->argv[i] == a->file && a->name == a->file + strlen(a->file) + 1; /* FILE:NET, when options were read */
        fprintf(stderr, "%s %s%s%s", i ? "" : " ", kdc_cli_quoted(s->p->cx, a->argv[i]), split ? ":" : "", split ? a->name : "");
    }
    fprintf(stderr, "%s", !saved ? "" : a->resume ? "\n" : " --resume\n");
    return 130;
}

int kdc_cmd_search(const KdcArgs *a) {
    KdcWatch w;
    int code = a->search.worker ? 0 : check_usage(a);
    if (code || a->search.worker) {
        return code ? code : kdc_search_worker(a);
    }
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = a->name;
    KdcSearch s = {.a = a,
                   .base = *a,
                   .p = p,
                   .stop = &stopped,
                   .generation = -1,
                   .anchor = NAN,
                   .start = kdc_now()};
    struct sigaction action = {.sa_handler = stop}, old;
    volatile bool ok = false;
    KdLanding l;
    s.base.threads = a->threads ? a->threads : 1;
    kdc_search_sizes(&s.base);
    sigaction(SIGINT, &action, &old);
    sigaction(SIGTERM, &action, NULL);
    if (KD_TRY(p->cx, l)) {
        code = take_settings(&s);
        ok = !code && work(&s);
        if (!ok && s.interrupted && kdc_status(p) == KDC_OK) {
            code = interrupted(&s);
        }
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_pool_free(s.pool);
    kdc_state_leave(&s);
    sigaction(SIGINT, &old, NULL);
    kdc_settle(p, 0);
    int closed = kdc_cli_close(a, &w, p, ok || code);
    return closed ? closed : code;
}
