/* cmd_similarity.c: kdc similarity: how like one patch of a student's features each position of a teacher's is (S001,
 * Fig. 5; methods C.13). Features are compared as ReKo's loss does: products of vectors of unit length (cosine), or of
 * the vectors as they are. */
#include "frontend/cli/eval_net.h"
#include "frontend/cli/feature.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STUDENT, TEACHER };

/* ---- what is compared ----------------------------------------------------------------------------------- */

/* A network of the file that could be the teacher, once: the file's own hides an import's, an earlier a later one. */
static bool candidate(const KdcFeatureVerb *v, const KdDecl *d, int n, int i) {
    bool hidden = d[i].kind != KD_DECL_INSTANCE || strcmp(d[i].name, v->a.name) == 0;
    for (int k = 0; k < n && !hidden; k++) {
        hidden = strcmp(d[k].name, d[i].name) == 0 && (d[k].main > d[i].main || (d[k].main == d[i].main && k < i));
    }
    return !hidden;
}

/* Does it take a picture and give a map? A frozen loss has features of no picture. */
static bool has_features(const KdcFeatureVerb *v, const char *name) {
    int classes;
    return kdc_eval_net_kind(v->p, name, 256, 256, &classes) != KD_LAYOUT_AUTO;
}

/* The only frozen network of the file, if --against names none. NULL after a message. */
static const char *teacher_of(KdcFeatureVerb *v) {
    int n, count = 0, maps = 0;
    KdStr any = {.cx = v->p->cx}, all = {.cx = v->p->cx}, with = {.cx = v->p->cx};
    const KdDecl *d = kd_lang_decls(v->p->lang, &n);
    const char *found = NULL, *map = NULL;
    if (v->a.against) {
        return v->a.against;
    }
    for (int i = 0; i < n; i++) {
        if (candidate(v, d, n, i)) {
            KdStr *s = d[i].frozen ? &all : &any;
            kd_str_printf(s, "%s%s", s->n ? ", " : "", d[i].name);
            count += d[i].frozen;
            found = d[i].frozen ? d[i].name : found;
        }
    }
    for (int i = 0; i < n && count > 1; i++) {
        if (d[i].frozen && candidate(v, d, n, i) && has_features(v, d[i].name)) {
            kd_str_printf(&with, "%s%s", with.n ? ", " : "", d[i].name);
            maps++;
            map = d[i].name;
        }
    }
    if (count == 1 || maps == 1) {
        return count == 1 ? found : map;
    }
    const KdStr *names = with.n ? &with : count ? &all : &any;
    kd_error(v->p->cx, 0, "%s has %s frozen network: which is the teacher? --against NET, one of %s", v->a.file,
             count ? "more than one" : "no", names->n ? names->s : "(there is none)");
    return NULL;
}

/* What "[NET=]NAME" options say for student and teacher; those without NET for both, or only for the student. */
static bool split(KdcFeatureVerb *v, const char *option, const char *const *text, int n, bool both, const char *teacher,
                  const char *out[2]) {
    for (int i = 0; i < n; i++) {
        const char *equals = strchr(text[i], '=');
        size_t length = equals ? (size_t)(equals - text[i]) : 0;
        bool s = equals && strlen(v->a.name) == length && strncmp(text[i], v->a.name, length) == 0;
        bool t = equals && strlen(teacher) == length && strncmp(text[i], teacher, length) == 0;
        if (equals && !s && !t) {
            kd_error(v->p->cx, 0, "--%s %s: the networks compared are %s and %s", option, text[i], v->a.name, teacher);
            return false;
        }
        out[STUDENT] = s ? equals + 1 : !equals && !(both && out[STUDENT]) ? text[i] : out[STUDENT];
        out[TEACHER] = t ? equals + 1 : !equals && both && !out[TEACHER] ? text[i] : out[TEACHER];
    }
    return true;
}

static bool open_nets(KdcFeatureVerb *v, int height, int width) {
    const KdcArgs *a = &v->a;
    const char *teacher = teacher_of(v), *tap[2] = {0}, *adaptor[2] = {0};
    if (!teacher || !split(v, "tap", a->taps, a->n_taps, true, teacher, tap) ||
        !split(v, "adaptor", a->adaptors, a->n_adaptors, false, teacher, adaptor)) {
        return false;
    }
    v->n_nets = 2;
    return kdc_feature_open(&v->net[STUDENT], v->p, a, &v->files, a->name, tap[STUDENT] ? tap[STUDENT] : "",
                            adaptor[STUDENT], true, height, width) &&
           kdc_feature_open(&v->net[TEACHER], v->p, a, &v->files, teacher, tap[TEACHER] ? tap[TEACHER] : "",
                            adaptor[TEACHER], false, height, width);
}

/* ---- the map --------------------------------------------------------------------------------------------- */

typedef struct Similar {
    KdcFeature f[2];
    KdImage made[2];
    KdcMap map; /* over the teacher's positions */
    double *v;
    int at, own, best; /* the student's position; the teacher's at the same place, and its most similar one */
    int rank;          /* of `own`, from 1 */
    int64_t x, y;      /* the pixel */
} Similar;

/* Product of the student's vector at i and the teacher's at k; of unit length as ReKo's code makes them: v / (|v| +
 * 1e-7). */
static double product(const Similar *s, int i, int k, bool dot) {
    const KdcFeature *a = &s->f[STUDENT], *b = &s->f[TEACHER];
    int64_t n = (int64_t)a->map.height * a->map.width, m = (int64_t)b->map.height * b->map.width;
    double sum = 0, aa = 0, bb = 0;
    for (int64_t c = 0; c < a->channels; c++) {
        double x = (double)a->v[c * n + i], y = (double)b->v[c * m + k];
        sum += x * y;
        aa += x * x;
        bb += y * y;
    }
    return dot ? sum : sum / ((sqrt(aa) + 1e-7) * (sqrt(bb) + 1e-7));
}

/* Where the patch is: what --at says, or where the teacher's attention is largest. */
static bool find_patch(const KdcFeatureVerb *v, Similar *s, const KdImage *x, KdTrouble *t) {
    const KdcMap *m = &s->f[TEACHER].map;
    s->x = v->a.at_x;
    s->y = v->a.at_y;
    if (v->a.has_at && (s->x >= x->width || s->y >= x->height)) {
        return kd_trouble(t, false,
                          "--at %" PRId64 ",%" PRId64 " is outside: the picture has x from 0 to %d and y from 0 to %d",
                          s->x, s->y, x->width - 1, x->height - 1);
    }
    if (!v->a.has_at) {
        int most = 0;
        for (int i = 1; i < m->height * m->width; i++) {
            most = m->v[i] > m->v[most] ? i : most;
        }
        s->x = (int64_t)((most % m->width + 0.5) * m->cell_w);
        s->y = (int64_t)((most / m->width + 0.5) * m->cell_h);
        s->x = s->x < x->width ? s->x : x->width - 1;
        s->y = s->y < x->height ? s->y : x->height - 1;
    }
    s->at = kdc_map_position(&s->f[STUDENT].map, s->x, s->y);
    s->own = kdc_map_position(m, s->x, s->y);
    return true;
}

static bool compare(const KdcFeatureVerb *v, Similar *s, KdTrouble *t) {
    const KdcFeature *f = &s->f[TEACHER];
    int n = f->map.height * f->map.width;
    if (s->f[STUDENT].channels != f->channels) {
        const KdcFeatureNet *a = &v->net[STUDENT], *b = &v->net[TEACHER];
        return kd_trouble(
            t, false,
            "%s of %s%s%s has %d channels, %s of %s%s%s %d: --adaptor A names the network of the file that maps "
            "the student's to the teacher's; one inside another network K is given as --adaptor "
            "'%s=K.mlp[0]:RekoProjection[%d]'",
            a->tap, a->name, a->adaptor ? " behind " : "", a->adaptor ? a->adaptor : "", s->f[STUDENT].channels, b->tap,
            b->name, b->adaptor ? " behind " : "", b->adaptor ? b->adaptor : "", f->channels,
            b->name, s->f[STUDENT].channels);
    }
    s->v = malloc(sizeof *s->v * (size_t)n);
    if (!s->v) {
        return kd_trouble(t, true, "out of memory for %d positions", n);
    }
    s->map = f->map;
    s->map.v = s->v;
    for (int i = 0; i < n; i++) {
        s->v[i] = product(s, s->at, i, v->a.dot);
        s->best = s->v[i] > s->v[s->best] ? i : s->best;
    }
    s->rank = 1;
    for (int i = 0; i < n; i++) {
        s->rank += s->v[i] > s->v[s->own];
    }
    return true;
}

/* ---- what is shown ---------------------------------------------------------------------------------------- */

static const uint8_t white[3] = {255, 255, 255}, red[3] = {255, 60, 40};

static bool copy(const KdImage *x, KdImage *out, KdTrouble *t) {
    if (!x->samples) {
        return true;
    }
    if (!kd_image_new(x->width, x->height, 3, 8, out, t)) {
        return false;
    }
    memcpy(out->samples, x->samples, 3 * (size_t)x->width * (size_t)x->height);
    return true;
}

static bool draw_panels(const KdcFeatureVerb *v, Similar *s, const KdImage *rgb, KdImage *out, KdTrouble *t) {
    KdContext *cx = v->p->cx;
    double lo, hi;
    KdImage input = {0}, over = {0}, bar = {0};
    kdc_map_range(&s->map, &lo, &hi);
    bool ok = copy(rgb, &input, t) && kdc_heat_over(rgb, &s->map, lo, hi, &over, t) &&
              kdc_heat_bar(rgb->height, lo, hi, false, &bar, t);
    if (ok) {
        kdc_heat_frame(&input, &s->f[STUDENT].map, s->at, 1, white);
        kdc_heat_frame(&over, &s->map, s->own, 1, white);
        kdc_heat_frame(&over, &s->map, s->best, 1, s->best == s->own ? white : red);
        for (int i = 0; i < 2; i++) {
            KdImage *made = &s->made[i];
            const KdcMap *m = &s->f[i].map;
            if (made->samples) {
                kdc_heat_frame(made, m, i == STUDENT ? s->at : s->own, (double)made->width / rgb->width, white);
            }
        }
    }
    const KdcPanel panels[] = {
        {"input", input},
        {v->net[STUDENT].name, s->made[STUDENT]},
        {v->net[TEACHER].name, s->made[TEACHER]},
        {kd_format(cx, "%s of %s to %s", v->a.dot ? "dot" : "cosine", v->net[TEACHER].name, v->net[STUDENT].name),
         over},
        {"", bar}};
    ok = ok && kdc_heat_panels(panels, KD_COUNT(panels), out, t);
    kd_image_free(&input);
    kd_image_free(&over);
    kd_image_free(&bar);
    return ok;
}

static void say(const KdcFeatureVerb *v, const Similar *s) {
    const KdcMap *m = &s->map;
    int n = m->height * m->width;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += s->v[i];
    }
    if (!v->a.quiet) {
        printf("%s: %s of %s.%s to %s.%s at %" PRId64 ",%" PRId64
               ": the same place %.4f (number %d of %d), the most similar %.4f at %.0f,%.0f, "
               "mean %.4f\n",
               v->in, v->a.dot ? "dot product" : "cosine", v->net[TEACHER].name, v->net[TEACHER].tap,
               v->net[STUDENT].name, v->net[STUDENT].tap, s->x, s->y, s->v[s->own], s->rank, n, s->v[s->best],
               (s->best % m->width + 0.5) * m->cell_w - 0.5, (s->best / m->width + 0.5) * m->cell_h - 0.5, sum / n);
    }
}

static bool raw(const KdcFeatureVerb *v, const Similar *s, KdTrouble *t) {
    const KdcMap *m = &s->map, *student = &s->f[STUDENT].map;
    double at[2] = {s->at / student->width, s->at % student->width}, own[2] = {s->own / m->width, s->own % m->width};
    double best[2] = {s->best / m->width, s->best % m->width};
    const KdArray x[] = {
        {"similarity", 2, {m->height, m->width}, (int64_t)m->height * m->width, s->v},
        {"attention", 2, {m->height, m->width}, (int64_t)m->height * m->width, s->f[TEACHER].attention},
        {"patch", 1, {2}, 2, at},
        {"same_place", 1, {2}, 2, own},
        {"most_similar", 1, {2}, 2, best}};
    return kdc_feature_raw(v, x, KD_COUNT(x), t);
}

static bool draw(KdcFeatureVerb *v, const KdImage *x, const KdImage *rgb, KdImage *out, KdTrouble *t) {
    Similar s = {0};
    bool ok = kdc_feature_run(&v->net[STUDENT], x, &s.made[STUDENT], &s.f[STUDENT], t) &&
              kdc_feature_run(&v->net[TEACHER], x, &s.made[TEACHER], &s.f[TEACHER], t) && find_patch(v, &s, x, t) &&
              compare(v, &s, t) && draw_panels(v, &s, rgb, out, t) && raw(v, &s, t);
    if (ok) {
        say(v, &s);
    }
    for (int i = 0; i < 2; i++) {
        kdc_feature_free(&s.f[i]);
        kd_image_free(&s.made[i]);
    }
    free(s.v);
    return ok;
}

int kdc_cmd_similarity(const KdcArgs *a) {
    KdcFeatureVerb v = {.open = open_nets, .draw = draw};
    if (a->against && a->name && strcmp(a->against, a->name) == 0) {
        return kdc_usage_error(a, "--against %s: that is the student itself", a->name);
    }
    return kdc_feature_verb(&v, a);
}
