/* search_evolve.c: which configurations kdc search looks at.
 *
 * Evolution (GAN Compression; methods B.3): a first generation of random configurations within the
 * budget; then in each generation the best are parents, mutants of a random parent draw each gene
 * anew with a probability, and crossovers of two random parents take each gene from either; what is
 * over the budget is drawn again. The population is parents and children. A configuration counts
 * once among the parents, however often it was drawn.
 *
 * Every place of every generation has a stream of random numbers of its own, so all places can be
 * drawn side by side, and drawn again after an interruption. A place that finds nothing within the
 * budget in DRAWS draws goes on from its last draw by making one gene after the other narrower.
 */
#include "frontend/cli/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DRAWS = 100 };

typedef enum Kind { FIRST, MUTANT, CROSSOVER, NEXT } Kind; /* NEXT: in order, of all */

typedef struct Place {
    Kind kind;
    KdcDraw draw;
    uint8_t *pick;
    int draws;
    bool done;
    KdcCandidate *taken; /* NULL: nothing fits */
} Place;

/* ---- configurations
 * ---------------------------------------------------------------------------------------- */

KdcCandidate *kdc_search_candidate(KdcSearch *s, const uint8_t *pick) {
    KdContext *cx = s->p->cx;
    const char *key = kdc_space_key(&s->space, cx, pick);
    uint64_t at;
    if (kd_map_get(&s->index, (uint64_t)(uintptr_t)key, &at)) {
        return s->all.v[at];
    }
    KdcCandidate *x = KD_NEW(cx, KdcCandidate);
    x->pick = KD_NEW_ARRAY(cx, uint8_t, s->space.n + 1);
    memcpy(x->pick, pick, (size_t)s->space.n);
    x->key = key;
    x->generation = -1;
    x->latency = (KdcLatency){NAN, NAN};
    x->final = NAN;
    x->fresh = (KdcFresh){NAN, NAN, NAN, NAN, NAN, false};
    for (int m = 0; m < KDC_METRICS; m++) {
        x->metric[m] = NAN;
    }
    kd_map_put(&s->index, (uint64_t)(uintptr_t)key, (uint64_t)s->all.n);
    kd_push(cx, &s->all, x);
    return x;
}

double kdc_search_value(const KdcSearch *s, const KdcCandidate *x) {
    return x->valued && !x->failed ? x->metric[s->objective] : NAN;
}

static int in_order(const KdcCandidate *x,
                    const KdcCandidate *y) { /* negative: x was taken up first */
    return x->generation != y->generation ? x->generation - y->generation : x->place - y->place;
}

bool kdc_search_better(const KdcSearch *s, const KdcCandidate *x, const KdcCandidate *y) {
    double a = kdc_search_value(s, x), b = kdc_search_value(s, y);
    if (a != b) {
        return isnan(b) ? !isnan(a) : s->more ? a > b : a < b;
    }
    double c = kdc_search_cost(s, x, s->axis), d = kdc_search_cost(s, y, s->axis);
    return c != d && !isnan(c) && !isnan(d) ? c < d : in_order(x, y) < 0;
}

/* Stable, best first: by merging, as qsort takes no context. */
static void sort(const KdcSearch *s, KdcCandidate **v, int n, KdcCandidate **room) {
    int half = n / 2;
    if (n < 2) {
        return;
    }
    sort(s, v, half, room);
    sort(s, v + half, n - half, room);
    for (int i = 0, j = half, k = 0; k < n; k++) {
        bool second = i == half || (j < n && kdc_search_better(s, v[j], v[i]));
        room[k] = second ? v[j++] : v[i++];
    }
    memcpy(v, room, sizeof(KdcCandidate *) * (size_t)n);
}

/* Those of v with a metric, each once, best first. */
static KdcCandidate **ranked(const KdcSearch *s, KdcCandidate *const *v, int n, int *count) {
    KdcCandidate **out = KD_NEW_ARRAY(s->p->cx, KdcCandidate *, 2 * n + 2);
    int all = 0, kept = 0;
    for (int i = 0; i < n; i++) {
        if (!isnan(kdc_search_value(s, v[i])) && v[i]->generation >= 0) {
            out[all++] = v[i];
        }
    }
    sort(s, out, all, out + n + 1);
    for (int i = 0; i < all; i++) { /* equal ones are next to each other */
        if (!kept || out[kept - 1] != out[i]) {
            out[kept++] = out[i];
        }
    }
    *count = kept;
    return out;
}

bool kdc_search_sorted(const KdcSearch *s, KdcCandidate ***v, int *n) {
    *v = ranked(s, s->all.v, s->all.n, n);
    return true;
}

void kdc_search_front(const KdcSearch *s, KdcCost axis, KdcCandidate ***v, int *n) {
    KdcCandidate **all;
    int count, kept = 0;
    kdc_search_sorted(s, &all, &count);
    for (int i = 0; i < count;
         i++) { /* from the best on, whatever is cheaper than all better ones */
        double cost = kdc_search_cost(s, all[i], axis);
        bool cheaper = !isnan(cost) && kdc_search_fits(s, all[i]);
        for (int k = 0; k < kept && cheaper; k++) {
            cheaper = cost < kdc_search_cost(s, all[k], axis);
        }
        if (cheaper) {
            all[kept++] = all[i];
        }
    }
    for (int i = 0; i < kept / 2; i++) {
        KdcCandidate *x = all[i];
        all[i] = all[kept - 1 - i];
        all[kept - 1 - i] = x;
    }
    *v = all;
    *n = kept;
}

/* ---- one place
 * --------------------------------------------------------------------------------------------- */

static void draw_place(KdcSearch *s, Place *q, KdcCandidate **parent, int n_parents) {
    const KdcSpace *space = &s->space;
    if (q->kind == FIRST) {
        kdc_space_draw(space, &q->draw, s->first, q->pick);
        return;
    }
    const KdcCandidate *x = parent[kdc_draw_below(&q->draw, n_parents)];
    const KdcCandidate *y =
        q->kind == CROSSOVER ? parent[kdc_draw_below(&q->draw, n_parents)] : NULL;
    for (int i = 0; i < space->n; i++) {
        if (y) {
            q->pick[i] = kdc_draw_below(&q->draw, 2) ? y->pick[i] : x->pick[i];
        } else {
            bool anew = kdc_draw_unit(&q->draw) < s->mutate;
            q->pick[i] = anew ? (uint8_t)kdc_draw_below(&q->draw, space->gene[i].n) : x->pick[i];
        }
    }
}

/* What is within the budget, and for random search not looked at yet. */
static bool acceptable(const KdcSearch *s, const KdcCandidate *x, Kind kind, int generation) {
    bool seen = x->generation >= 0 && x->generation < generation;
    return kdc_search_fits(s, x) && !(seen && kind == FIRST);
}

/* The next draw of a place. false: there is none. */
static bool draw_again(KdcSearch *s, Place *q, KdcCandidate **parent, int n_parents) {
    if (q->kind == NEXT) {
        return q->draws++ == 0;
    }
    if (q->draws++ < DRAWS) {
        draw_place(s, q, parent, n_parents);
        return true;
    }
    return kdc_space_lower(&s->space, &q->draw, q->pick);
}

/* Draws for all places at once until each has one that fits or none can. false after a message, or
 * when interrupted. */
static bool fill_places(KdcSearch *s, Place *place, int n, KdcCandidate **parent, int n_parents,
                        int generation) {
    KdContext *cx = s->p->cx;
    KdcCandidate **asked = KD_NEW_ARRAY(cx, KdcCandidate *, n + 1);
    for (bool open = true; open;) {
        int count = 0;
        open = false;
        for (int i = 0; i < n; i++) {
            Place *q = &place[i];
            if (q->done) {
                continue;
            }
            q->done = !draw_again(s, q, parent, n_parents);
            s->drawn += !q->done;
            q->taken = q->done ? NULL : kdc_search_candidate(s, q->pick);
            if (q->taken) {
                asked[count++] = q->taken;
            }
        }
        if (!kdc_ask_costs(s, asked, count)) {
            return false;
        }
        for (int i = 0; i < n; i++) {
            Place *q = &place[i];
            q->done = q->done || acceptable(s, q->taken, q->kind, generation);
            open = open || !q->done;
        }
    }
    return true;
}

/* ---- a generation
 * -------------------------------------------------------------------------------------------- */

static void note_generation(KdcSearch *s) {
    KdcGeneration g = {NAN, 0, 0};
    int n = 0;
    for (int i = 0; i < s->all.n; i++) {
        g.valued += s->all.v[i]->valued && s->all.v[i]->generation >= 0;
    }
    for (int i = 0; i < s->people.n; i++) {
        double v = kdc_search_value(s, s->people.v[i]);
        g.mean += isfinite(v) ? v : 0;
        n += isfinite(v);
    }
    g.mean = n ? g.mean / n : NAN;
    g.best = s->best ? kdc_search_value(s, s->best) : NAN;
    kd_push(s->p->cx, &s->curve, g);
}

static bool take_up(KdcSearch *s, Place *place, int n, int generation) {
    KdcCandidate **v = KD_NEW_ARRAY(s->p->cx, KdcCandidate *, n + 1);
    int count = 0;
    for (int i = 0; i < n; i++) {
        KdcCandidate *x = place[i].taken;
        if (x && x->generation < 0) {
            x->generation = generation;
            x->place = i;
            s->reused += x->cached;
        }
        if (x) {
            v[count++] = x;
        }
    }
    if (!kdc_ask_values(s, v, count)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        kd_push(s->p->cx, &s->people, v[i]);
        if (!isnan(kdc_search_value(s, v[i])) &&
            (!s->best || kdc_search_better(s, v[i], s->best))) {
            s->best = v[i];
        }
    }
    return true;
}

static Place *new_places(KdcSearch *s, int n, int64_t generation) {
    Place *place = KD_NEW_ARRAY(s->p->cx, Place, n + 1);
    for (int i = 0; i < n; i++) {
        place[i].draw = kdc_draw_new(s->a->seed, generation, i);
        place[i].pick = KD_NEW_ARRAY(s->p->cx, uint8_t, s->space.n + 1);
    }
    return place;
}

/* Configuration number `at` of all: the last gene changes fastest. */
static void numbered(const KdcSpace *space, double at, uint8_t *pick) {
    for (int i = space->n - 1; i >= 0; i--) {
        double rest = floor(at / space->gene[i].n);
        pick[i] = (uint8_t)(at - rest * space->gene[i].n);
        at = rest;
    }
}

static int valued(const KdcSearch *s) { return s->curve.n ? s->curve.v[s->curve.n - 1].valued : 0; }

static bool next_generation(KdcSearch *s) {
    int g = (int)s->generation + 1, n = s->population, n_parents = 0, kept = 0;
    KdcCandidate **parent = NULL;
    double first = 0;
    if (s->strategy == KDC_EVOLUTION && g > 0) {
        parent = ranked(s, s->people.v, s->people.n, &n_parents);
        n_parents = n_parents < s->parents ? n_parents : s->parents;
        n = s->mutants + s->crossovers;
        kept = n_parents;
    } else if (s->strategy == KDC_ALL) {
        first = (double)g * s->population;
        n = s->space.size - first < n ? (int)(s->space.size - first) : n;
    } else if (s->strategy == KDC_RANDOM && s->evaluations - valued(s) < n) {
        n = s->evaluations - valued(s);
    }
    Place *place = new_places(s, n, g);
    for (int i = 0; i < n; i++) {
        place[i].kind = s->strategy == KDC_ALL ? NEXT
                        : !parent              ? FIRST
                        : i < s->mutants       ? MUTANT
                                               : CROSSOVER;
        if (place[i].kind == NEXT) {
            numbered(&s->space, first + i, place[i].pick);
        }
    }
    if (!fill_places(s, place, n, parent, n_parents, g)) {
        return false;
    }
    int before = s->people.n;
    if (!take_up(s, place, n, g)) {
        s->people.n = before; /* as it was at the end of the last generation */
        return false;
    }
    KdcCandidate **now = KD_NEW_ARRAY(s->p->cx, KdcCandidate *, kept + n + 1);
    int count = 0;
    for (int i = 0; i < kept; i++) {
        now[count++] = parent[i];
    }
    for (int i = before; i < s->people.n; i++) {
        now[count++] = s->people.v[i];
    }
    s->people.n = 0;
    for (int i = 0; i < count; i++) {
        kd_push(s->p->cx, &s->people, now[i]);
    }
    s->generation = g;
    note_generation(s);
    return true;
}

/* ---- the end
 * ---------------------------------------------------------------------------------------------------
 */

/* Everything there is has been looked at, or is known to be over the budget. */
static bool exhausted(const KdcSearch *s) {
    double known = 0;
    for (int i = 0; i < s->all.n; i++) {
        const KdcCandidate *x = s->all.v[i];
        known += x->refused || (x->counted && (x->generation >= 0 || !kdc_search_fits(s, x)));
    }
    return known >= s->space.size;
}

static const char *over(const KdcSearch *s) {
    KdContext *cx = s->p->cx;
    int g = (int)s->generation, since = 0;
    for (int i = g; i > 0 && s->curve.v[i].best == s->curve.v[i - 1].best; i--) {
        since++;
    }
    return s->strategy == KDC_ALL && (double)(g + 1) * s->population >= s->space.size
               ? "all configurations"
           : exhausted(s) ? "all configurations that keep the budget"
           : s->strategy == KDC_RANDOM && g > 0 && valued(s) == s->curve.v[g - 1].valued
               ? "draws gave nothing new"
           : s->strategy == KDC_EVOLUTION && g >= s->generations
               ? kd_format(cx, "%d generations", (int)s->generations)
           : s->evaluations && valued(s) >= s->evaluations
               ? kd_format(cx, "%d configurations", valued(s))
           : s->patience && since >= s->patience
               ? kd_format(cx, "%d generations without a better one", since)
               : NULL;
}

/* The cheapest of what was drawn, by the first budget that it does not keep. */
static bool nothing_fits(KdcSearch *s) {
    KdStr text = {.cx = s->p->cx};
    const KdcCandidate *refused = NULL;
    for (int k = 0; k < KDC_COSTS; k++) {
        const KdcCandidate *least = NULL;
        for (int i = 0; i < s->all.n && !isnan(s->budget.limit[k]); i++) {
            const KdcCandidate *x = s->all.v[i];
            refused = x->refused ? x : refused;
            bool known = !x->refused && !isnan(kdc_search_cost(s, x, (KdcCost)k));
            least = known && (!least || kdc_search_cost(s, x, (KdcCost)k) <
                                            kdc_search_cost(s, least, (KdcCost)k))
                        ? x
                        : least;
        }
        if (least) {
            kd_str_printf(
                &text, "%s%s: %s allowed, the least found is %s with %s", text.n ? "; " : "",
                kdc_cost_name(s, (KdcCost)k),
                kdc_cost_text(s->p->cx, (KdcCost)k, s->budget.limit[k]),
                kdc_cost_text(s->p->cx, (KdcCost)k, kdc_search_cost(s, least, (KdcCost)k)),
                least->key);
        }
    }
    if (!text.n && refused) {
        kd_error(s->p->cx, 0, "no configuration can be built: %s: %s", refused->key,
                 refused->refused);
    } else {
        kd_error(s->p->cx, 0, "no configuration of %d that were drawn keeps the budget at %s: %s",
                 s->all.n, s->inputs, text.n ? text.s : "");
    }
    return false;
}

static void say(const KdcSearch *s) {
    const KdcGeneration *g = &s->curve.v[s->curve.n - 1];
    const char *key = s->best ? s->best->key : "";
    if (s->a->quiet) {
        return;
    }
    bool live = isatty(2);
    fprintf(stderr, "%sgeneration %d: %d configurations, best %s %.6g  %s%s",
            live ? "\r\033[K" : "", (int)s->generation, g->valued, kdc_metric_name(s->objective),
            g->best, key, live ? "" : "\n");
}

bool kdc_search_evolve(KdcSearch *s) {
    bool spoke = false;
    while (s->generation < 0 || !(s->ended = over(s))) {
        if (!next_generation(s)) {
            return false;
        }
        if (!s->people.n) {
            if (s->strategy == KDC_ALL && !over(s)) {
                continue; /* there are more */
            }
            return nothing_fits(s);
        }
        if (!s->best) {
            kd_error(s->p->cx, 0, "no configuration has a %s: %s: %s",
                     kdc_metric_name(s->objective), s->people.v[0]->key,
                     s->people.v[0]->failed ? s->people.v[0]->failed : "");
            return false;
        }
        say(s);
        spoke = true;
        if (!kdc_state_save(s)) {
            return false;
        }
    }
    if (spoke && !s->a->quiet && isatty(2)) {
        fprintf(stderr, "\n");
    }
    return true;
}
