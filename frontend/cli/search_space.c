/* search_space.c: the space of kdc search: genes, configurations as text and as indices, random
 * draws.
 *
 * A space is written as in the language: [16, 24, 32] is one gene, whose value is one of the three;
 * a list of such lists is a list with one pick from each; either may be followed by `* N`.
 * Alternatives are kept as text. A configuration is the index of an alternative for each gene.
 */
#include "frontend/cli/search.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading
 * ------------------------------------------------------------------------------------------ */

static const char *skip(const char *p) {
    while (isspace((unsigned char)*p)) {
        p++;
    }
    return p;
}

/* Behind the value at p: at a comma or bracket of its own level, or at the end. */
static const char *end_of(const char *p) {
    bool quoted = false;
    int depth = 0;
    for (; *p; p++) {
        quoted ^= *p == '"';
        if (!quoted && !depth && (*p == ',' || *p == ']')) {
            break;
        }
        depth += quoted ? 0 : (*p == '[') - (*p == ']');
    }
    return p;
}

/* "[a, b]" and what is behind it. false: it is no such list. */
static bool elements(KdContext *cx, const char *text, const char ***v, int *n, const char **rest) {
    KD_VEC(const char *) found = {0};
    const char *p = skip(text);
    if (*p++ != '[') {
        return false;
    }
    for (p = skip(p); *p && *p != ']';) {
        const char *end = end_of(p), *one = kdc_cli_without_blanks(cx, p, (size_t)(end - p));
        if (!*one) {
            return false;
        }
        kd_push(cx, &found, one);
        p = *end == ',' ? skip(end + 1) : end;
    }
    *v = found.v;
    *n = found.n;
    *rest = *p ? skip(p + 1) : p;
    return *p == ']';
}

/* `* N` behind a list: 1 when there is nothing; 0: something else. */
static long times_of(const char *p) {
    char *end;
    if (!*p) {
        return 1;
    }
    if (*p != '*' || !isdigit((unsigned char)*skip(p + 1))) {
        return 0;
    }
    long n = strtol(skip(p + 1), &end, 10);
    return *skip(end) || n > KDC_GENES ? 0 : n;
}

static bool refuse(KdContext *cx, const char *name, const char *what, const char *text) {
    kd_error(cx, 0, "the space of %s: %s, got '%s'", name, what, text);
    kd_hint(cx,
            "[16, 24, 32] is one of three; [[16, 24, 32]] * 8 a list of eight, each one of three");
    return false;
}

static bool add_gene(KdcSpace *s, KdContext *cx, const char *name, const char *const *value,
                     int n) {
    if (s->n == KDC_GENES) {
        kd_error(cx, 0, "the space of %s: more than %d picks in all", name, KDC_GENES);
        return false;
    }
    KdcPicks *g = &s->gene[s->n++];
    g->value = KD_NEW_ARRAY(cx, const char *, n);
    g->n = n;
    for (int i = 0; i < n; i++) {
        g->value[i] = value[i];
        for (int k = 0; k < i; k++) {
            if (g->value[k] == value[i]) {
                kd_error(cx, 0, "the space of %s has %s twice in one list of alternatives", name,
                         value[i]);
                return false;
            }
        }
    }
    return true;
}

bool kdc_space_add(KdcSpace *s, KdContext *cx, const char *name, const char *text) {
    enum { MOST = 250 };
    const char **outer, **inner, *rest;
    int n, m;
    KdcSpaceParam *more = KD_NEW_ARRAY(cx, KdcSpaceParam, s->n_params + 1);
    for (int i = 0; i < s->n_params; i++) {
        more[i] = s->param[i];
        if (strcmp(more[i].name, name) == 0) {
            kd_error(cx, 0, "%s is given two spaces", name);
            return false;
        }
    }
    if (!elements(cx, text, &outer, &n, &rest) || !times_of(rest) || n < 1 || n > MOST) {
        return refuse(cx, name, "expected a list of alternatives", text);
    }
    long times = times_of(rest);
    bool list = *outer[0] == '[';
    more[s->n_params] = (KdcSpaceParam){kd_intern_z(cx, name), list, s->n, 0};
    for (int i = 0; i < n; i++) {
        if ((*outer[i] == '[') != list) {
            return refuse(cx, name, "some alternatives are lists and some are not", text);
        }
    }
    if (!list && times > 1) {
        return refuse(cx, name, "one list of alternatives cannot be repeated (double brackets can)",
                      text);
    }
    for (long t = 0; t < times; t++) {
        for (int i = 0; i < (list ? n : 1); i++) {
            if (list &&
                (!elements(cx, outer[i], &inner, &m, &rest) || *rest || m < 1 || m > MOST)) {
                return refuse(cx, name, "expected a list of alternatives at each place", text);
            }
            if (!add_gene(s, cx, name, list ? inner : outer, list ? m : n)) {
                return false;
            }
        }
    }
    more[s->n_params].n = s->n - more[s->n_params].first;
    s->param = more;
    s->n_params++;
    return true;
}

void kdc_space_finish(KdcSpace *s) {
    s->size = 1;
    for (int i = 0; i < s->n; i++) {
        s->size *= s->gene[i].n;
    }
}

/* ---- configurations
 * -------------------------------------------------------------------------------------- */

const char *kdc_space_define(const KdcSpace *s, KdContext *cx, int k, const uint8_t *pick) {
    const KdcSpaceParam *q = &s->param[k];
    KdStr text = {.cx = cx};
    kd_str_printf(&text, "%s=%s", q->name, q->list ? "[" : "");
    for (int i = q->first; i < q->first + q->n; i++) {
        kd_str_printf(&text, "%s%s", i > q->first ? "," : "", s->gene[i].value[pick[i]]);
    }
    kd_str_printf(&text, "%s", q->list ? "]" : "");
    return kd_intern(cx, text.s, text.n);
}

const char *kdc_space_key(const KdcSpace *s, KdContext *cx, const uint8_t *pick) {
    KdStr text = {.cx = cx};
    for (int k = 0; k < s->n_params; k++) {
        kd_str_printf(&text, "%s%s", k ? " " : "", kdc_space_define(s, cx, k, pick));
    }
    return kd_intern(cx, text.s ? text.s : "", text.n);
}

/* ---- draws
 * ------------------------------------------------------------------------------------------------
 */

/* splitmix64: Steele, Lea and Flood 2014 */
static uint64_t mixed(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t next(KdcDraw *d) { return mixed(d->key + 0x9e3779b97f4a7c15u * ++d->counter); }

KdcDraw kdc_draw_new(uint64_t seed, int64_t generation, int64_t place) {
    KdcDraw d = {.key = mixed(seed + 0x9e3779b97f4a7c15u)};
    d.key = mixed(d.key ^ ((uint64_t)generation + 1) * 0xd1342543de82ef95u);
    d.key = mixed(d.key ^ ((uint64_t)place + 1) * 0xda942042e4dd58b5u);
    return d;
}

int64_t kdc_draw_below(KdcDraw *d, int64_t n) {
    return (int64_t)(((next(d) >> 32) * (uint64_t)n) >> 32);
}

double kdc_draw_unit(KdcDraw *d) { return (double)(next(d) >> 11) * 0x1p-53; }

/* An alternative of n, with the weights that `first` says. */
static int weighted(KdcDraw *d, KdcFirst first, int n) {
    double sum = 0, weight = 1;
    if (first == KDC_UNIFORM) {
        return (int)kdc_draw_below(d, n);
    }
    for (int i = 0; i < n; i++) {
        sum += weight;
        weight = first == KDC_ARITHMETIC ? weight + 1 : 2 * weight;
    }
    double at = kdc_draw_unit(d) * sum;
    weight = 1;
    for (int i = 0; i < n - 1; i++) {
        if (at < weight) {
            return i;
        }
        at -= weight;
        weight = first == KDC_ARITHMETIC ? weight + 1 : 2 * weight;
    }
    return n - 1;
}

void kdc_space_draw(const KdcSpace *s, KdcDraw *d, KdcFirst first, uint8_t *pick) {
    for (int i = 0; i < s->n; i++) {
        pick[i] = (uint8_t)weighted(d, first, s->gene[i].n);
    }
}

bool kdc_space_lower(const KdcSpace *s, KdcDraw *d, uint8_t *pick) {
    int n = 0, chosen = -1;
    for (int i = 0; i < s->n; i++) {
        n += pick[i] > 0;
    }
    int at = n ? (int)kdc_draw_below(d, n) : 0;
    for (int i = 0; i < s->n; i++) {
        chosen = pick[i] > 0 && at-- == 0 ? i : chosen;
    }
    if (chosen >= 0) {
        pick[chosen]--;
    }
    return chosen >= 0;
}
