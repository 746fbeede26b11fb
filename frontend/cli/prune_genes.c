/* prune_genes.c: which numbers among a network's hyper-parameters say the width of which layers. See prune.h.
 *
 * No network is known by name: every integer of every hyper-parameter that is one, or a list of them, is made a little
 * smaller, the network is elaborated again, and the shapes of its weights tell which layers became narrower, by how
 * much. What is left out (a default that follows from ngf, say) is written out first, so that one number is one layer
 * wherever the network allows it.
 */
#include "frontend/cli/prune.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Nothing but integers: 64, [1, 2], [[1, 2], [3]]. */
static bool is_integers(const char *text) {
    return *text && strspn(text, "[], -0123456789") == strlen(text) && strpbrk(text, "0123456789");
}

/* The at-th integer of text; NULL: there are fewer. */
static const char *integer_at(const char *text, int at) {
    const char *p = text;
    for (int k = 0;; k++) {
        p += strcspn(p, "-0123456789");
        if (!*p || k == at) {
            return *p ? p : NULL;
        }
        p += strspn(p, "-0123456789");
    }
}

const char *kdc_prune_replace(KdContext *cx, const char *text, int at, int64_t value) {
    const char *p = integer_at(text, at);
    return kd_format(cx, "%.*s%" PRId64 "%s", (int)(p - text), text, value, p + strspn(p, "-0123456789"));
}

/* channels[2], branches[0][5], ngf */
static const char *label_of(KdContext *cx, const char *name, const char *text, int at) {
    int index[16] = {0}, depth = 0;
    KdStr s = {.cx = cx};
    for (const char *p = text, *stop = integer_at(text, at); p < stop; p++) {
        if (*p == '[' && depth < KD_COUNT(index) - 1) {
            index[++depth] = 0;
        } else if (*p == ']') {
            depth--;
        } else if (*p == ',') {
            index[depth]++;
        }
    }
    kd_str_printf(&s, "%s", name);
    for (int d = 1; d <= depth; d++) {
        kd_str_printf(&s, "[%d]", index[d]);
    }
    return s.s;
}

typedef struct Search {
    KdcPrune *m;
    const char **value; /* all of them, as they are */
    KdcTrial now;
} Search;

static bool try_with(Search *s, int hyper, int at, int64_t number, KdcTrial *t) {
    const char *kept = s->value[hyper];
    s->value[hyper] = kdc_prune_replace(s->m->p->cx, kept, at, number);
    bool ok = kdc_prune_try(s->m, s->value, 0, t, NULL);
    s->value[hyper] = kept;
    return ok;
}

static void add_gene(Search *s, KdcGene *g) {
    KdcPrune *m = s->m;
    bool any = false, taken = false;
    for (int i = 0; i < m->c->groups.n; i++) {
        any = any || g->less[i] > 0;
        taken = taken || (g->less[i] && m->gene[i] >= 0);
    }
    if (!any || taken) { /* a layer follows one number: the first that says its width */
        return;
    }
    for (int i = 0; i < m->c->groups.n; i++) {
        m->gene[i] = g->less[i] ? m->genes.n : m->gene[i];
    }
    kd_push(m->p->cx, &m->genes, *g);
}

/* May it be 0? Then its layers vanish, no others change, and each is as many channels a step as it has for all. */
static bool is_deletable(Search *s, KdcGene *g) {
    KdcTrial t;
    if (!try_with(s, g->hyper, g->at, 0, &t) || t.inputs >= s->now.inputs) {
        return false;
    }
    for (int i = 0; i < s->m->c->groups.n; i++) {
        int gone = s->now.count[i] - t.count[i];
        if (gone && (t.count[i] || gone % g->value)) {
            return false;
        }
        g->less[i] = (int)(gone / g->value);
    }
    return true;
}

static void probe(Search *s, int hyper, int at) {
    KdcPrune *m = s->m;
    const char *text = s->value[hyper];
    KdcGene g = {.hyper = hyper, .at = at, .value = strtoll(integer_at(text, at), NULL, 10), .step = 1};
    g.label = label_of(m->p->cx, m->config.v[hyper].name, text, at);
    g.less = KD_NEW_ARRAY(m->p->cx, int, m->c->groups.n + 1);
    g.deletable = *text == '[' && g.value > 0 && is_deletable(s, &g);
    if (g.deletable) {
        add_gene(s, &g);
        return;
    }
    for (; g.step <= 16 && g.step < g.value; g.step *= 2) { /* where it must be divisible by something */
        KdcTrial t;
        if (try_with(s, hyper, at, g.value - g.step, &t) && t.inputs == s->now.inputs) {
            for (int i = 0; i < m->c->groups.n; i++) {
                g.less[i] = s->now.count[i] - t.count[i];
            }
            add_gene(s, &g);
            return;
        }
    }
}

bool kdc_prune_genes(KdcPrune *m) {
    KdContext *cx = m->p->cx;
    Search s = {m, KD_NEW_ARRAY(cx, const char *, m->config.n + 1), {0}};
    const char *why;
    m->gene = KD_NEW_ARRAY(cx, int, m->c->groups.n + 1);
    for (int i = 0; i < m->c->groups.n; i++) {
        m->gene[i] = -1;
    }
    for (int i = 0; i < m->config.n; i++) {
        s.value[i] = m->config.v[i].value;
    }
    if (!kdc_prune_try(m, s.value, 0, &s.now, &why) || s.now.inputs != m->f->inputs.n) {
        kd_error(cx, 0, "%s[...] with its hyper-parameters written out is not %s: %s", m->config.net, m->a->name, why);
        return false;
    }
    for (int lists = 1; lists >= 0; lists--) { /* lists first: they say more */
        for (int i = 0; i < m->config.n; i++) {
            bool list = *s.value[i] == '[';
            for (int k = 0; list == lists && is_integers(s.value[i]) && integer_at(s.value[i], k); k++) {
                probe(&s, i, k);
            }
        }
    }
    return true;
}
