/* cmd_attention.c: kdc attention: the positions that ReKo distils (S001, Fig. 1; methods C.13): the K largest of the
 * mean over channels of |feature|, which needs no parameters. */
#include "frontend/cli/feature.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct Place {
    double value;
    int position;
} Place;

/* Largest first; of equal ones the first position, as topk_index of the prelude. */
static int by_value(const void *x, const void *y) {
    const Place *a = x, *b = y;
    return a->value > b->value ? -1 : a->value < b->value ? 1 : a->position - b->position;
}

static bool open_net(KdcFeatureVerb *v, int height, int width) {
    v->n_nets = 1;
    return kdc_feature_open(&v->net[0], v->p, &v->a, &v->files, v->a.name, v->a.n_taps ? v->a.taps[0] : "", NULL, true,
                            height, width);
}

static void say(const KdcFeatureVerb *v, const KdcMap *m, const Place *place, int k) {
    double all = 0, part = 0;
    int n = m->height * m->width;
    for (int i = 0; i < n; i++) {
        all += place[i].value;
        part += i < k ? place[i].value : 0;
    }
    if (v->a.quiet) {
        return;
    }
    int row = place[0].position / m->width, column = place[0].position % m->width;
    printf("%s: %d of %d x %d positions of %s.%s (height, width) hold %.1f %% of the attention; the largest, %.4g, is "
           "at %.0f,%.0f\n",
           v->in, k, m->height, m->width, v->a.name, v->net[0].tap, all > 0 ? 100 * part / all : 0, place[0].value,
           (column + 0.5) * m->cell_w - 0.5, (row + 0.5) * m->cell_h - 0.5);
}

/* [row, column] of each chosen position, the largest first. */
static bool raw(const KdcFeatureVerb *v, const KdcMap *m, const Place *place, int k, KdTrouble *t) {
    double *at = malloc(sizeof *at * 2 * (size_t)k);
    for (int i = 0; at && i < k; i++) {
        at[2 * i] = place[i].position / m->width;
        at[2 * i + 1] = place[i].position % m->width;
    }
    const KdArray x[] = {
        {"attention", 2, {m->height, m->width}, (int64_t)m->height * m->width, (double *)(uintptr_t)m->v},
        {"positions", 2, {k, 2}, 2 * (int64_t)k, at}};
    bool ok = at ? kdc_feature_raw(v, x, KD_COUNT(x), t) : kd_trouble(t, true, "out of memory for %d positions", k);
    free(at);
    return ok;
}

static bool draw_map(KdcFeatureVerb *v, const KdcMap *m, const bool *chosen, int k, double least, const KdImage *rgb,
                     KdImage *out, KdTrouble *t) {
    double lo, hi;
    KdImage over = {0}, marked = {0}, bar = {0};
    kdc_map_range(m, &lo, &hi);
    bool more = least > lo && least < hi; /* a few positions stand out far: the scale ends where the choice begins */
    hi = more ? least : hi;
    bool ok = kdc_heat_over(rgb, m, lo, hi, &over, t) && kdc_heat_bar(rgb->height, lo, hi, more, &bar, t) &&
              kdc_heat_chosen(rgb, m, chosen, &marked, t);
    const KdcPanel panels[] = {{"input", *rgb},
                               {kd_format(v->p->cx, "attention of %s.%s", v->a.name, v->net[0].tap), over},
                               {"", bar},
                               {kd_format(v->p->cx, "the %d largest", k), marked}};
    ok = ok && kdc_heat_panels(panels, KD_COUNT(panels), out, t);
    kd_image_free(&over);
    kd_image_free(&marked);
    kd_image_free(&bar);
    return ok;
}

static bool draw(KdcFeatureVerb *v, const KdImage *x, const KdImage *rgb, KdImage *out, KdTrouble *t) {
    KdcFeature f;
    KdImage made;
    if (!kdc_feature_run(&v->net[0], x, &made, &f, t)) {
        kd_image_free(&made);
        kdc_feature_free(&f);
        return false;
    }
    int n = f.map.height * f.map.width, most = v->a.k ? (int)v->a.k : 64, k = most < n ? most : n;
    Place *place = malloc(sizeof *place * (size_t)n);
    bool *chosen = calloc((size_t)n, sizeof *chosen);
    bool ok = (place && chosen) || kd_trouble(t, true, "out of memory for %d positions", n);
    if (ok) {
        for (int i = 0; i < n; i++) {
            place[i] = (Place){f.attention[i], i};
        }
        qsort(place, (size_t)n, sizeof *place, by_value);
        for (int i = 0; i < k; i++) {
            chosen[place[i].position] = true;
        }
        ok = draw_map(v, &f.map, chosen, k, place[k - 1].value, rgb, out, t) && raw(v, &f.map, place, k, t);
    }
    if (ok) {
        say(v, &f.map, place, k);
    }
    free(place);
    free(chosen);
    kd_image_free(&made);
    kdc_feature_free(&f);
    return ok;
}

int kdc_cmd_attention(const KdcArgs *a) {
    KdcFeatureVerb v = {.open = open_net, .draw = draw};
    return a->n_taps > 1 ? kdc_usage_error(a, "one --tap at a time: '%s' after '%s'", a->taps[1], a->taps[0])
                         : kdc_feature_verb(&v, a);
}
