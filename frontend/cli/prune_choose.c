/* prune_choose.c: which channels stay. See prune.h.
 *
 * Scores of channels (methods B.3 to B.5):
 *   scale  |gamma| of the first norm behind the channel: of a stem or of what goes down or up its own norm, of a
 *          residual stream the norm that began it, of an inception branch the first one (CAT)
 *   l1     the mean of |w| over the filters that make it (GCC on convolutions)
 *   norm   its place among the channels of its layer, by the L1 norm of the filters that make it: each layer keeps the
 *          same share, to within a channel
 *
 * One threshold holds for all layers: what scores no more than it goes. The threshold is the smallest that meets the
 * target, found by bisection over the scores themselves. CAT's code bisects the number and stops at a relative width of
 * 1e-3; here no score is left between the two bounds.
 */
#include "frontend/cli/prune.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LEAST = 16, RUNS = 10 };

static const char *const by_names[KDC_PRUNE_BYS] = {
    [KDC_BY_SCALE] = "scale", [KDC_BY_L1] = "l1", [KDC_BY_NORM] = "norm"};

bool kdc_prune_known_by(const char *name, KdcPruneBy *by) {
    for (int i = 0; i < KDC_PRUNE_BYS; i++) {
        if (strcmp(name, by_names[i]) == 0) {
            *by = (KdcPruneBy)i;
            return true;
        }
    }
    return false;
}

const char *kdc_prune_by_name(KdcPruneBy by) {
    return by_names[by];
}

/* ---- scores -------------------------------------------------------------------------------------------- */

/* The sum of |w| over index `index` of a dimension; *n grows by how many these are. */
static double sum_of(const KdcTensor *t, int dim, int index, int64_t *n) {
    int64_t inner = 1, outer = 1;
    double sum = 0;
    for (int d = 0; d < t->rank; d++) {
        inner *= d > dim ? t->dim[d] : 1;
        outer *= d < dim ? t->dim[d] : 1;
    }
    for (int64_t o = 0; o < outer; o++) {
        const float *row = (const float *)t->data + (o * t->dim[dim] + index) * inner;
        for (int64_t i = 0; i < inner; i++) {
            sum += fabs((double)row[i]);
        }
    }
    *n += inner * outer;
    return sum;
}

static double filters_score(const KdcPrune *m, const KdChannelGroup *g, int channel, bool mean) {
    double sum = 0;
    int64_t n = 0;
    for (int k = 0; k < g->makers[channel].n; k++) {
        const KdPlaceOf *p = &g->makers[channel].v[k];
        sum += sum_of(m->tensor[p->input], p->dim, p->index, &n);
    }
    return mean ? sum / (double)n : sum;
}

static double scale_score(const KdcPrune *m, const KdPlaceOf *p) {
    return p->input < 0 ? NAN : fabs((double)((const float *)m->tensor[p->input]->data)[p->index]);
}

typedef struct Ranked {
    double score;
    int channel;
} Ranked;

/* From the least; of equal ones the later channel is the lesser. */
static int by_rank(const void *x, const void *y) {
    const Ranked *a = x, *b = y;
    return a->score != b->score ? (a->score > b->score) - (a->score < b->score) : b->channel - a->channel;
}

static Ranked *ranked(KdContext *cx, const double *score, int n) {
    Ranked *r = KD_NEW_ARRAY(cx, Ranked, n + 1);
    for (int k = 0; k < n; k++) {
        r[k] = (Ranked){isnan(score[k]) ? 0 : score[k], k};
    }
    qsort(r, (size_t)n, sizeof *r, by_rank);
    return r;
}

static void score_group(KdcPrune *m, int group) {
    const KdChannelGroup *g = &m->c->groups.v[group];
    double *score = m->score[group] = KD_NEW_ARRAY(m->p->cx, double, g->n + 1);
    for (int k = 0; k < g->n; k++) {
        score[k] = m->by == KDC_BY_SCALE ? scale_score(m, &g->scale[k]) : filters_score(m, g, k, m->by == KDC_BY_L1);
    }
    if (m->by == KDC_BY_NORM) {
        const Ranked *r = ranked(m->p->cx, score, g->n);
        for (int k = 0; k < g->n; k++) {
            double place = k + (group + 0.5) / m->c->groups.n; /* layers as wide go one after the other */
            score[r[k].channel] = place / g->n;
        }
    }
}

static bool scored(const KdcPrune *m, int group) {
    bool all = true;
    for (int k = 0; k < m->c->groups.v[group].n; k++) {
        all = all && !isnan(m->score[group][k]);
    }
    return all;
}

bool kdc_prune_score(KdcPrune *m) {
    int n = 0;
    m->score = KD_NEW_ARRAY(m->p->cx, double *, m->c->groups.n + 1);
    for (int i = 0; i < m->c->groups.n; i++) {
        score_group(m, i);
        n += !m->c->groups.v[i].why && scored(m, i);
    }
    if (!n) {
        kd_error(m->p->cx, 0,
                 m->by == KDC_BY_SCALE ? "%s has no norms with scales: no channels can be chosen by them"
                                       : "%s has no channels that could go",
                 m->a->name);
        if (m->by == KDC_BY_SCALE) {
            kd_hint(m->p->cx, "--by l1 or --by norm looks at filters instead");
        }
    }
    return n > 0;
}

bool kdc_prune_can_choose(const KdcPrune *m, const KdcTrial *t) {
    bool ok = true;
    for (int i = 0; i < m->c->groups.n; i++) {
        const KdChannelGroup *g = &m->c->groups.v[i];
        if (t->count[i] > 0 && t->count[i] < g->n && !scored(m, i)) {
            kd_error(m->p->cx, 0, "%s is to have %d of its %d channels, but no norm behind it has scales to choose by",
                     g->name, t->count[i], g->n);
            ok = false;
        }
    }
    if (!ok) {
        kd_hint(m->p->cx, "--by l1 or --by norm looks at filters instead");
    }
    return ok;
}

bool **kdc_prune_keep(const KdcPrune *m, const KdcTrial *t) {
    KdContext *cx = m->p->cx;
    bool **keep = KD_NEW_ARRAY(cx, bool *, m->c->groups.n + 1);
    for (int i = 0; i < m->c->groups.n; i++) {
        int n = m->c->groups.v[i].n;
        const Ranked *r = ranked(cx, m->score[i], n);
        keep[i] = KD_NEW_ARRAY(cx, bool, n + 1);
        for (int k = n - t->count[i]; k < n; k++) {
            keep[i][r[k].channel] = true;
        }
    }
    return keep;
}

/* ---- one threshold ---------------------------------------------------------------------------------------- */

typedef struct Choice {
    KdcPrune *m;
    double *score; /* of all channels that scores decide about, from the least */
    int n;
    int *above; /* scratch, by group */
    const char **value;
} Choice;

/* The most steps that a gene can go down: its layers keep --min-channels, those that could vanish one. */
static int64_t most_steps(const KdcPrune *m, const KdcGene *g) {
    int64_t given = m->a->min_channels ? m->a->min_channels : LEAST, least = g->deletable ? 1 : given;
    int64_t steps = (g->value - 1) / g->step;
    for (int i = 0; i < m->c->groups.n; i++) {
        int64_t n = m->c->groups.v[i].n, most = g->less[i] ? (n > least ? n - least : 0) / g->less[i] : steps;
        steps = most < steps ? most : steps;
    }
    return steps;
}

/* The gene's value where so many channels of its layers are above the threshold. Layers that share it keep as many
 * each: the mean. */
static int64_t value_of(const KdcPrune *m, const KdcGene *g, const int *above) {
    double gone = 0, each = 0;
    int64_t kept = 0;
    for (int i = 0; i < m->c->groups.n; i++) {
        gone += g->less[i] ? m->c->groups.v[i].n - above[i] : 0;
        kept += g->less[i] ? above[i] : 0;
        each += g->less[i];
    }
    int64_t steps = (int64_t)floor(gone / each + 0.5), most = most_steps(m, g);
    return g->deletable && kept == 0 ? 0 : g->value - g->step * (steps < most ? steps : most);
}

/* Hyper-parameters without the `gone` lowest scores, and those equal to the last of them. */
static void set_values(Choice *c, int gone) {
    KdcPrune *m = c->m;
    m->threshold = gone > 0 ? c->score[gone - 1] : NAN;
    for (int i = 0; i < m->config.n; i++) {
        c->value[i] = m->config.v[i].value;
    }
    for (int i = 0; i < m->c->groups.n; i++) {
        c->above[i] = 0;
        for (int k = 0; k < m->c->groups.v[i].n; k++) {
            c->above[i] += !(m->score[i][k] <= m->threshold);
        }
    }
    for (int k = 0; k < m->genes.n; k++) {
        const KdcGene *g = &m->genes.v[k];
        if (g->chosen) {
            c->value[g->hyper] = kdc_prune_replace(m->p->cx, c->value[g->hyper], g->at, value_of(m, g, c->above));
        }
    }
}

static double cost_of(const KdcPrune *m, const KdcTrial *t) {
    const char *how = m->a->convention ? m->a->convention : "Tout";
    return m->a->latency                    ? 1e3 * t->seconds
           : m->a->parameters               ? (double)t->parameters
           : how[1] == 'o' && how[2] == 'T' ? t->macs.no_t
           : how[1] == 'i'                  ? t->macs.t_in
                                            : t->macs.t_out;
}

static bool cost(Choice *c, int gone, KdcTrial *t, double *result) {
    KdcPrune *m = c->m;
    const char *why;
    set_values(c, gone);
    if (!kdc_prune_try(m, c->value, m->a->latency ? m->a->runs ? (int)m->a->runs : RUNS : 0, t, &why)) {
        kd_error(m->p->cx, 0, "with the threshold %.6g, %s cannot be made narrower: %s", m->threshold, m->config.net,
                 why);
        return false;
    }
    *result = cost_of(m, t);
    if (m->a->latency && !m->a->quiet && isatty(2)) {
        fprintf(stderr, "\r%d of %d channels below the threshold: %.3f ms\033[K", gone, c->n, *result);
    }
    return true;
}

/* Genes all of whose layers have scores, and these scores. */
static void collect(Choice *c) {
    KdcPrune *m = c->m;
    int most = 0;
    for (int i = 0; i < m->c->groups.n; i++) {
        most += m->c->groups.v[i].n;
    }
    c->score = KD_NEW_ARRAY(m->p->cx, double, most + 1);
    c->above = KD_NEW_ARRAY(m->p->cx, int, m->c->groups.n + 1);
    c->value = KD_NEW_ARRAY(m->p->cx, const char *, m->config.n + 1);
    for (int k = 0; k < m->genes.n; k++) {
        KdcGene *g = &m->genes.v[k];
        g->chosen = true;
        for (int i = 0; i < m->c->groups.n; i++) {
            g->chosen = g->chosen && (!g->less[i] || scored(m, i));
        }
        for (int i = 0; g->chosen && i < m->c->groups.n; i++) {
            for (int j = 0; g->less[i] && j < m->c->groups.v[i].n; j++) {
                c->score[c->n++] = m->score[i][j];
            }
        }
    }
    qsort(c->score, (size_t)c->n, sizeof *c->score, kdc_ascending);
}

const char *kdc_prune_grouped(KdContext *cx, int64_t v) {
    return v < 1000 ? kd_format(cx, "%" PRId64, v)
                    : kd_format(cx, "%s,%03" PRId64, kdc_prune_grouped(cx, v / 1000), v % 1000);
}

const char *kdc_prune_amount(const KdcPrune *m, double v) {
    KdContext *cx = m->p->cx;
    double unit = v >= 1e9 ? 1e9 : v >= 1e6 ? 1e6 : v >= 1e3 ? 1e3 : 1;
    const char *letter = unit >= 1e9 ? " G" : unit >= 1e6 ? " M" : unit >= 1e3 ? " k" : "";
    return m->a->latency      ? kd_format(cx, "%.3f ms", v)
           : m->a->parameters ? kd_format(cx, "%s parameters", kdc_prune_grouped(cx, (int64_t)v))
                              : kd_format(cx, "%.4g%s MACs (%s)", v / unit, letter,
                                          m->a->convention ? m->a->convention : "Tout");
}

/* " for input [1, 3, 256, 256]", which parameters do not depend on. */
static const char *for_input(const KdcPrune *m) {
    return m->a->parameters ? "" : kd_format(m->p->cx, " for input %s", kdc_prune_inputs(m));
}

/* The least number of channels that have to go. */
static bool bisect(Choice *c) {
    KdcPrune *m = c->m;
    int lo = 0, hi = c->n; /* too many are left at lo, few enough at hi */
    double had, got, at_hi;
    KdcTrial t;
    if (!cost(c, lo, &m->before, &had) || !cost(c, hi, &m->after, &at_hi)) {
        return false;
    }
    if (had <= m->aim) {
        kd_error(m->p->cx, 0, "%s has %s already%s: at most %s was asked for", m->a->name, kdc_prune_amount(m, had),
                 for_input(m), kdc_prune_amount(m, m->aim));
        return false;
    }
    if (at_hi > m->aim) {
        kd_error(m->p->cx, 0, "%s cannot be pruned below %s%s: at most %s was asked for", m->a->name,
                 kdc_prune_amount(m, at_hi), for_input(m), kdc_prune_amount(m, m->aim));
        kd_hint(m->p->cx, "each layer keeps %d channels: --min-channels says how many",
                m->a->min_channels ? (int)m->a->min_channels : LEAST);
        return false;
    }
    while (hi - lo > 1) {
        int middle = lo + (hi - lo) / 2;
        if (!cost(c, middle, &t, &got)) {
            return false;
        }
        *(got <= m->aim ? &hi : &lo) = middle;
        if (got <= m->aim) {
            m->after = t;
            at_hi = got;
        }
        if (m->a->latency && got <= m->aim && got >= 0.99 * m->aim) { /* a clock says no more */
            break;
        }
    }
    m->got = at_hi;
    set_values(c, hi);
    return true;
}

/* Widths that go in steps of several channels were rounded, some to fewer channels than are above the threshold: these
 * may go up again by a step, as long as the target is met. The one that lost most goes first. */
static bool round_up(Choice *c) {
    KdcPrune *m = c->m;
    bool *tried = KD_NEW_ARRAY(m->p->cx, bool, m->genes.n + 1);
    for (;;) {
        int best = -1, lost = 0;
        for (int k = 0; k < m->genes.n; k++) {
            int less = 0;
            for (int i = 0; i < m->c->groups.n; i++) {
                less += m->genes.v[k].less[i] ? c->above[i] - m->after.count[i] : 0;
            }
            if (m->genes.v[k].chosen && !tried[k] && less > lost) {
                best = k;
                lost = less;
            }
        }
        if (best < 0 || m->a->latency) {
            return true;
        }
        const KdcGene *g = &m->genes.v[best];
        const char *kept = c->value[g->hyper];
        KdcTrial t;
        tried[best] = true;
        c->value[g->hyper] = kdc_prune_replace(m->p->cx, kept, g->at, value_of(m, g, c->above) + g->step);
        if (!kdc_prune_try(m, c->value, 0, &t, NULL) || cost_of(m, &t) > m->aim) {
            c->value[g->hyper] = kept;
            continue;
        }
        m->after = t;
        m->got = cost_of(m, &t);
    }
}

bool kdc_prune_choose(KdcPrune *m) {
    Choice c = {.m = m};
    m->aim = m->a->latency ? m->a->latency : m->a->parameters ? m->a->parameters : m->a->macs;
    m->target = kdc_prune_amount(m, m->aim);
    collect(&c);
    if (!c.n) {
        kd_error(m->p->cx, 0, "no hyper-parameter of %s says the width of a layer that could be narrower",
                 m->config.net);
        kd_hint(m->p->cx, "a width for each layer, `channels: list = [...]`, or one number such as ngf");
        return false;
    }
    bool ok = bisect(&c) && round_up(&c);
    if (m->a->latency && !m->a->quiet && isatty(2)) {
        fprintf(stderr, "\r\033[K");
    }
    m->value = c.value;
    return ok;
}
