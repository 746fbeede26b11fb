/* eval_net.c: see eval_net.h. */
#include "frontend/cli/eval_net.h"

#include <string.h>

/* ---- weights ----------------------------------------------------------------------------------------- */

/* Which of a command's files network `name` ("Sub.") takes: those given as NAME=FILE; else those given for all; else those given for
 * `whole` ("S."), the network that it was narrowed from. */
enum { NAMED, FOR_ALL, FOR_WHOLE, NONE };

static int kind_of(const KdcWeightsFile *w, const char *name, const char *whole, bool first) {
    bool holds = first || kdc_weights_hold(w->w, name) || (whole && kdc_weights_hold(w->w, whole));
    return strcmp(w->net, name) == 0            ? NAMED
           : !*w->net && holds                  ? FOR_ALL
           : whole && strcmp(w->net, whole) == 0 ? FOR_WHOLE
                                                : NONE;
}

void kdc_own_files(KdcProgram *p, const KdcFiles *all, const char *name, bool first, KdcFiles *out) {
    const KdDecl *d = kdc_cli_find(p, name);
    const char *dotted = kd_format(p->cx, "%s.", name), *whole = d && d->part_of ? kd_format(p->cx, "%s.", d->part_of) : NULL;
    int best = NONE;
    out->live = all->live;
    out->n_live = all->n_live;
    for (int i = 0; i < all->weights.n; i++) {
        int kind = kind_of(&all->weights.v[i], dotted, whole, first);
        best = kind < best ? kind : best;
    }
    for (int i = 0; i < all->weights.n && best != NONE; i++) {
        KdcWeightsFile w = all->weights.v[i];
        if (kind_of(&w, dotted, whole, first) == best) {
            w.net = "";
            kd_push(p->cx, &out->weights, w);
        }
    }
}

/* ---- what kind of network ------------------------------------------------------------------------------ */

static bool is_picture(int64_t channels) {
    return channels == 1 || channels == 3;
}

/* By the first input that is no scalar, and the output. */
static KdLayout layout_for(const KdFunc *f, int *classes) {
    const KdType *out = kd_vtype(f, f->outputs.v[0].value), *in = NULL;
    for (int i = 0; i < f->inputs.n && !in; i++) {
        const KdType *t = kd_vtype(f, f->inputs.v[i]);
        in = kd_input_role(f, f->inputs.v[i]) == KD_DATA && t->rank > 0 ? t : NULL;
    }
    if (!in || out->rank != 4 || in->rank < 3) {
        return KD_LAYOUT_AUTO;
    }
    bool from_picture = in->rank == 4 && in->dtype != KD_I32 && is_picture(in->dim[1]), one_hot = in->dtype == KD_F32;
    int64_t n = from_picture ? (is_picture(out->dim[1]) ? 0 : out->dim[1]) : one_hot ? in->dim[1] : 0;
    *classes = n <= 65536 ? (int)n : 0;
    return from_picture && !n ? KD_LAYOUT_ALIGNED : KD_LAYOUT_LABELS;
}

KdLayout kdc_eval_net_kind(KdcProgram *p, const char *name, int height, int width, int *classes) {
    KdcOptions options = p->o;
    volatile KdLayout layout = KD_LAYOUT_AUTO;
    KdLanding l;
    options.batch = 1;
    options.height = height;
    options.width = width;
    KdcProgram *q = kdc_open(p->file, p->text, p->text_size, &options);
    if (!q) {
        kd_raise(p->cx, KD_FAIL_MACHINE, "out of memory for %s", p->file);
    }
    *classes = 0;
    if (kdc_status(q) == KDC_OK && KD_TRY(q->cx, l)) {
        KdcShape x = {.name = "x", .dtype = KDC_F32, .rank = 4, .dim = {1, 3, height, width}};
        for (int give = 0; give < 2 && layout == KD_LAYOUT_AUTO; give++) {
            KdNetOptions o;
            KdcUnit u;
            if (kdc_net_options(q, &(KdcShapes){.given = &x, .n_given = give}, &o) && kdc_unit_net(q, name, &o, &u)) {
                layout = layout_for(u.func, classes);
            }
        }
        kd_landing_pop(q->cx);
    }
    kdc_close(q);
    return layout;
}

/* ---- samples ------------------------------------------------------------------------------------------- */

/* The picture, or the map, of a labels sample. */
static int image_of(const KdSample *x, bool map) {
    for (int i = 0; i < x->n; i++) {
        if ((x->image[i].channels == 1) == map) {
            return i;
        }
    }
    return 0;
}

int kdc_eval_net_target(const KdcEvalNet *n, const KdSample *x) {
    return x->n < 2 ? -1 : n->layout == KD_LAYOUT_LABELS ? image_of(x, n->logits) : 1;
}

bool kdc_eval_net_open(KdcEvalNet *n, KdcProgram *p, const KdcArgs *a, const KdcFiles *files, const char *name,
                       KdLayout layout, const KdSample *x) {
    KdImage out = {0};
    *n = (KdcEvalNet){.p = p, .a = a, .name = name, .layout = layout};
    kdc_own_files(p, files, name, !a->against || strcmp(a->against, name) != 0, &n->files);
    n->net = kdc_picture_net(p, a, &n->files, name, x->image[0].height, x->image[0].width);
    if (!n->net) {
        return false;
    }
    bool labels = layout == KD_LAYOUT_LABELS, map = kdc_picture_want(n->net) == KD_IMAGE_INDEX;
    if (map && !labels) {
        kd_error(p->cx, 0, "%s takes a label map, the data set (%s) has pictures", name, kd_layout_name(layout));
        kd_hint(p->cx, "--layout labels, where there are PHASE_label folders");
        return false;
    }
    n->input = labels ? image_of(x, map) : 0;
    if (!kdc_eval_net_run(n, x, &out)) {
        return false;
    }
    kd_image_free(&out);
    n->channels = (int)kdc_picture_output(n->net)->dim[1];
    n->logits = !is_picture(n->channels);
    if (!a->against && ((n->logits && !labels) || (labels && n->logits == map))) {
        kd_error(p->cx, 0, "%s makes %s of %s: the data set (%s) has nothing to compare that with", name,
                 n->logits ? "label maps" : "pictures", map ? "label maps" : "pictures", kd_layout_name(layout));
        return false;
    }
    return true;
}

void kdc_eval_net_close(KdcEvalNet *n) {
    kdc_picture_free(n->net);
    n->net = NULL;
}

/* ---- running ------------------------------------------------------------------------------------------- */

bool kdc_eval_gray(const KdImage *x, KdImage *out, KdTrouble *t) {
    const uint8_t *rgb = x->samples;
    if (!kd_image_new(x->width, x->height, 1, 8, out, t)) {
        return false;
    }
    for (int64_t i = 0; i < (int64_t)x->width * x->height; i++) {
        ((uint8_t *)out->samples)[i] = kd_image_luma(rgb + 3 * i);
    }
    return true;
}

/* In place: the pictures of a data set are RGB. */
static bool to_rgb(KdImage *x, KdTrouble *t) {
    KdImage out;
    if (!kd_image_new(x->width, x->height, 3, 8, &out, t)) {
        return false;
    }
    for (int64_t i = 0; i < 3 * (int64_t)x->width * x->height; i++) {
        ((uint8_t *)out.samples)[i] = ((const uint8_t *)x->samples)[i / 3];
    }
    kd_image_free(x);
    *x = out;
    return true;
}

static bool apply(KdcEvalNet *n, const KdImage *in, KdImage *out, KdTrouble *t) {
    KdImage gray = {0};
    KdcPictureRun r;
    bool luma = kdc_picture_want(n->net) == KD_IMAGE_GRAY8 && in->channels == 3;
    bool ok = (!luma || kdc_eval_gray(in, &gray, t)) && kdc_picture_run(n->net, luma ? &gray : in, out, &r, t);
    kd_image_free(&gray);
    return ok && (kdc_picture_output(n->net)->dim[1] != 1 || to_rgb(out, t));
}

bool kdc_eval_net_run(KdcEvalNet *n, const KdSample *x, KdImage *out) {
    KdTrouble t = {0}, named;
    int errors = kd_error_count(n->p->cx);
    if (apply(n, &x->image[n->input], out, &t)) {
        return true;
    }
    kd_image_free(out);
    if (kdc_status(n->p) == KDC_OK && kd_error_count(n->p->cx) == errors) { /* else it has been said */
        kd_trouble(&named, t.machine, "%s: %s", x->name[n->input], t.text);
        kdc_cli_trouble(n->p, &named);
    }
    return false;
}
