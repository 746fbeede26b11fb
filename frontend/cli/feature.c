/* feature.c: see feature.h.
 *
 * An adaptor is any network of the file that maps features to features. It is applied by a function written behind the
 * program's own text, with the feature's shape as its annotation, so that it does not matter what its parameter is
 * called: first to rows [1, positions, channels], which a network of linear layers takes (ReKo's projection), and, if
 * it refuses those, to [1, channels, height, width].
 */
#include "frontend/cli/feature.h"

#include "frontend/cli/eval_net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void kdc_feature_free(KdcFeature *f) {
    free(f->attention);
    free(f->v);
    *f = (KdcFeature){0};
}

/* What files hold inside the network PARENT, "K.": "K.mlp[0]" and so on, each once; names in a file of K alone are
 * without it. */
static const char *inside(KdContext *cx, const KdcFiles *files, const char *parent) {
    KdStr all = {.cx = cx};
    size_t length = strlen(parent);
    const char *last = "";
    for (int i = 0; i < files->weights.n; i++) {
        const KdcWeightsFile *w = &files->weights.v[i];
        bool full = kdc_weights_hold(w->w, parent);
        for (int k = 0; k < w->w->n && (full || strcmp(w->net, parent) == 0); k++) {
            const char *name = w->w->tensor[k].name;
            const char *part = !full ? name : strncmp(name, parent, length) == 0 ? name + length : "";
            size_t m = strcspn(part, ".");
            if (part[m] && (strlen(last) != m || strncmp(last, part, m) != 0)) {
                last = kd_intern(cx, part, m);
                kd_str_printf(&all, "%s%s%s", all.n ? ", " : "", parent, last);
            }
        }
    }
    return all.n ? all.s : "";
}

/* An adaptor inside another network, of which a run or a file of the whole program has nothing: a wrong path. false
 * after a message. */
static bool known_inside(KdcProgram *p, const KdcFiles *all, const char *adaptor) {
    const char *dot = strrchr(adaptor, '.');
    const char *parent = dot ? kd_intern(p->cx, adaptor, (size_t)(dot + 1 - adaptor)) : NULL;
    for (int i = 0; i < all->weights.n; i++) {
        const KdcWeightsFile *w = &all->weights.v[i];
        if (!*w->net && (w->run || (parent && kdc_weights_hold(w->w, parent)))) {
            const char *has = parent ? inside(p->cx, all, parent) : "";
            kd_error(p->cx, 0, "%s%s has no weights under %s%s%s", w->run ? "the run " : "", w->run ? w->run : w->file,
                     adaptor, *has ? "; it has " : "", has);
            return false;
        }
    }
    return true;
}

bool kdc_feature_open(KdcFeatureNet *n, KdcProgram *p, const KdcArgs *a, const KdcFiles *all, const char *name,
                      const char *tap, const char *adaptor, bool first, int height, int width) {
    *n = (KdcFeatureNet){.p = p, .a = a, .name = name, .tap = tap, .adaptor = adaptor};
    kdc_own_files(p, all, name, first, &n->files);
    if (adaptor) {
        const char *colon = strchr(adaptor, ':');
        const KdDecl *d = colon ? NULL : kdc_cli_find(p, adaptor);
        if (colon) {
            n->adaptor = kd_intern(p->cx, adaptor, (size_t)(colon - adaptor));
            n->make = colon + 1;
        } else if (!d || (d->kind != KD_DECL_INSTANCE && d->kind != KD_DECL_NET)) {
            kd_error(p->cx, 0, "--adaptor %s: the file has no network of that name", adaptor);
            kd_hint(p->cx, "one inside another: its path and how it is made, such as K.mlp[0]:RekoProjection[32]");
            return false;
        }
        kdc_own_files(p, all, n->adaptor, false, &n->adaptor_files);
        if (colon && n->adaptor_files.weights.n == 0 && !known_inside(p, all, n->adaptor)) {
            return false;
        }
        if (n->adaptor_files.weights.n == 0 && !a->quiet) {
            fprintf(stderr, "kdc: warning: no weights for %s were given: they are random (--weights FILE)\n",
                    n->adaptor);
        }
    }
    n->net = kdc_feature_net(p, a, &n->files, name, tap, height, width);
    return n->net != NULL;
}

void kdc_feature_close(KdcFeatureNet *n) {
    kdc_picture_free(n->net);
    if (n->q) {
        kdc_close(n->q);
    }
    n->net = NULL;
    n->q = NULL;
}

/* ---- the adaptor ---------------------------------------------------------------------------------------- */

/* The program with a function behind it that applies the adaptor. NULL after a message in p. */
static KdcProgram *wrap(KdcFeatureNet *n, const char *shape) {
    KdContext *cx = n->p->cx;
    KdStr s = {.cx = cx};
    size_t size = n->p->text_size;
    KdTrouble t;
    char *read = n->p->text ? NULL : kd_file_read(n->p->file, &size, &t);
    const char *text = n->p->text ? n->p->text : read;
    if (!text) {
        kdc_cli_trouble(n->p, &t);
        return NULL;
    }
    kd_str_add(&s, text, size);
    n->lines = 1;
    for (size_t i = 0; i < size; i++) {
        n->lines += text[i] == '\n';
    }
    if (n->make) {
        kd_str_printf(&s, "\nlet kdc_adaptor = %s", n->make);
    }
    kd_str_printf(&s, "\nfn kdc_adapted(f: %s) { return %s(f) }\n", shape, n->make ? "kdc_adaptor" : n->adaptor);
    free(read);
    KdcProgram *q = kdc_open(n->p->file, s.s, (size_t)s.n, &n->p->o);
    if (!q) {
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory for %s", n->adaptor);
    }
    return q;
}

/* In q's landing: elaborates; does it map features to features of as many positions? */
static bool elaborate(const KdcFeatureNet *n, KdcProgram *q, KdcUnit *u) {
    KdNetOptions o;
    if (!kdc_net_options(q, &(KdcShapes){0}, &o) || !kdc_unit_net(q, "kdc_adapted", &o, u)) {
        return false;
    }
    const KdType *t = kd_vtype(u->func, u->func->outputs.v[0].value);
    bool same = n->rows ? t->rank == 3 && t->dim[0] == 1 && t->dim[1] == n->dim[1] * n->dim[2]
                        : t->rank == 4 && t->dim[0] == 1 && t->dim[2] == n->dim[1] && t->dim[3] == n->dim[2];
    if (u->func->outputs.n > 1) {
        kd_error(q->cx, 0, "%s gives %d of them", n->adaptor, u->func->outputs.n);
        return false;
    }
    if (!same || t->dtype != KD_F32) {
        kd_error(q->cx, 0, "%s makes %s of %lld channels at %lld x %lld positions: expected as many positions",
                 n->adaptor, kd_type_text(q->cx, t), (long long)n->dim[0], (long long)n->dim[1], (long long)n->dim[2]);
    }
    return same && t->dtype == KD_F32;
}

/* In q's landing. */
static bool compile(KdcFeatureNet *n, KdcProgram *q, KdcUnit *u) {
    static const char own[] = "kdc_adaptor.";
    KdcArgs a = *n->a;
    a.name = n->adaptor;
    a.in = NULL;
    kdc_unit_passes(q, u, &q->host);
    if (!kdc_unit_jit(q, u)) {
        return false;
    }
    n->r = kdc_runnable_new(q, u, NULL, NULL, NULL);
    int count = kdc_input_count(n->r);
    KdcTensor **all = KD_NEW_ARRAY(q->cx, KdcTensor *, count + 1);
    for (int i = 0; i < count; i++) {
        all[i] = kdc_input(n->r, i);
        if (n->make && strncmp(all[i]->name, own, strlen(own)) == 0) {
            all[i]->name = kd_format(q->cx, "%s.%s", n->adaptor, all[i]->name + strlen(own));
        }
    }
    KdcFiles files = n->adaptor_files;
    for (int i = 0; i < files.weights.n; i++) { /* the names are A.PATH: a file of A alone has them without A */
        files.weights.v[i].net = kdc_weights_hold(files.weights.v[i].w, kd_format(q->cx, "%s.", n->adaptor))
                                     ? ""
                                     : kd_format(q->cx, "%s.", n->adaptor);
    }
    n->in = kdc_find(n->r, "f");
    n->out = kdc_output(n->r, 0);
    return kdc_fill_weights(q, &a, &files, false, all, count);
}

/* One way, by n->rows. *fits: the network takes features so. */
static bool try_adaptor(KdcFeatureNet *n, bool *fits) {
    KdContext *cx = n->p->cx;
    const long long c = n->dim[0], h = n->dim[1], w = n->dim[2];
    volatile bool elaborated = false, ok = false;
    KdLanding l;
    KdcUnit u;
    if (n->q) {
        kdc_close(n->q);
    }
    n->q =
        wrap(n, n->rows ? kd_format(cx, "[1, %lld, %lld]", h * w, c) : kd_format(cx, "[1, %lld, %lld, %lld]", c, h, w));
    if (n->q && kdc_status(n->q) == KDC_OK && KD_TRY(n->q->cx, l)) {
        elaborated = elaborate(n, n->q, &u);
        ok = elaborated && compile(n, n->q, &u);
        kd_landing_pop(n->q->cx);
    } else if (n->q && kdc_status(n->q) == KDC_OK) {
        kdc_failed(n->q);
    }
    *fits = elaborated || !n->q;
    return ok;
}

/* What q's first error says, with its place unless that is in the lines behind the program's own, which the user has
 * not written. "" where there is none. */
static const char *first_error(const KdcFeatureNet *n) {
    KdContext *cx = n->p->cx;
    char *text = NULL;
    size_t size = 0, file = strlen(n->p->file);
    const char *said = "";
    FILE *f = open_memstream(&text, &size);
    if (f) {
        kdc_print_messages(n->q, f, false);
        fclose(f);
    }
    const char *error = text ? strstr(text, "error: ") : NULL;
    if (error) {
        const char *line = error;
        while (line > text && line[-1] != '\n') {
            line--;
        }
        bool placed = strncmp(line, n->p->file, file) == 0 && line[file] == ':' && atoi(line + file + 1) <= n->lines;
        const char *what = error + strlen("error: ");
        said = kd_format(cx, "%.*s%.*s", placed ? (int)(error - line) : 0, line, (int)strcspn(what, "\n"), what);
    }
    free(text);
    return said;
}

/* Neither way did the adaptor take the features. */
static void no_map(KdcFeatureNet *n) {
    KdContext *cx = n->p->cx;
    const char *why = first_error(n), *has = inside(cx, &n->adaptor_files, kd_format(cx, "%s.", n->adaptor));
    kd_error(cx, 0, "%s is no map of features [1, %lld, %lld, %lld]: an adaptor takes a tensor and gives one%s%s%s",
             n->adaptor, (long long)n->dim[0], (long long)n->dim[1], (long long)n->dim[2], *why ? " (" : "", why,
             *why ? ")" : "");
    if (*has && !n->make) {
        kd_hint(cx, "inside it are %s: --adaptor '%s=%.*s:TEMPLATE[...]'", has, n->name, (int)strcspn(has, ","), has);
    }
}

static bool open_adaptor(KdcFeatureNet *n, const KdcTensor *x) {
    bool fits;
    n->r = NULL;
    memcpy(n->dim, x->dim + 1, sizeof n->dim);
    n->rows = true;
    bool ok = try_adaptor(n, &fits);
    if (!ok && !fits) {
        n->rows = false;
        ok = try_adaptor(n, &fits);
    }
    if (!ok && !fits && kdc_status(n->q) <= KDC_INPUT) {
        no_map(n);
    } else if (!ok && n->q) {
        kdc_settle(n->q, 0);
        kdc_print_messages(n->q, stderr, n->a->color);
        n->p->status = kdc_status(n->q) == KDC_OK ? KDC_INPUT : kdc_status(n->q);
    }
    return ok;
}

/* [c, h, w] or rows [h w, c] of the tensor to planes. */
static void copy_planes(float *to, const float *from, int64_t channels, int64_t positions, bool to_rows,
                        bool from_rows) {
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t i = 0; i < positions; i++) {
            to[to_rows ? i * channels + c : c * positions + i] = from[from_rows ? i * channels + c : c * positions + i];
        }
    }
}

/* What the network's tap becomes behind the adaptor: planes, *channels of them, the caller's. NULL after a message in
 * p. */
static float *adapted(KdcFeatureNet *n, const KdcTensor *x, int64_t *channels) {
    int64_t positions = x->dim[2] * x->dim[3];
    if (n->adaptor && (!n->r || memcmp(n->dim, x->dim + 1, sizeof n->dim) != 0) && !open_adaptor(n, x)) {
        return NULL;
    }
    const KdcTensor *y = n->adaptor ? n->out : x;
    if (n->adaptor) {
        copy_planes(n->in->data, x->data, x->dim[1], positions, n->rows, false);
        kdc_run(n->r);
    }
    *channels = n->adaptor && n->rows ? y->dim[2] : y->dim[1];
    float *v = malloc(sizeof *v * (size_t)(*channels * positions + 1));
    if (!v) {
        kd_raise(n->p->cx, KD_FAIL_MACHINE, "out of memory for the features of %s", n->name);
    }
    copy_planes(v, y->data, *channels, positions, false, n->adaptor && n->rows);
    return v;
}

/* ---- running --------------------------------------------------------------------------------------------- */

/* The part of planes [n][h][w] at rows below `rows` and columns below `columns`, in place. */
static void cut(float *v, int64_t n, int64_t h, int64_t w, int rows, int columns) {
    for (int64_t c = 0, at = 0; c < n; c++) {
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t k = 0; k < columns; k++) {
                v[at++] = v[(c * h + r) * w + k];
            }
        }
    }
}

/* How many positions of `cell` pixels a picture of n pixels has. */
static int positions_of(int n, double cell, int64_t most) {
    int k = (int)ceil((double)n / cell - 1e-9);
    return k < 1 ? 1 : k > most ? (int)most : k;
}

/* false: there is a value that is no finite number. */
static bool take_attention(KdcFeature *f, const KdcTensor *x) {
    int64_t h = x->dim[2], w = x->dim[3];
    const float *v = x->data;
    for (int64_t r = 0; r < f->map.height; r++) {
        for (int64_t k = 0; k < f->map.width; k++) {
            double sum = 0;
            for (int64_t c = 0; c < x->dim[1]; c++) {
                sum += fabs((double)v[(c * h + r) * w + k]);
            }
            f->attention[r * f->map.width + k] = sum / (double)x->dim[1];
            if (!isfinite(sum)) {
                return false;
            }
        }
    }
    return true;
}

bool kdc_feature_run(KdcFeatureNet *n, const KdImage *in, KdImage *out, KdcFeature *f, KdTrouble *t) {
    KdImage made = {0};
    KdcPictureRun run;
    int64_t channels;
    *f = (KdcFeature){0};
    *out = (KdImage){0};
    bool ok = kdc_picture_run(n->net, in, &made, &run, t);
    ok = ok && (!made.samples || kdc_heat_rgb(&made, out, t));
    kd_image_free(&made);
    const KdcTensor *x = ok ? kdc_picture_feature(n->net) : NULL;
    if (!ok) {
        return false;
    }
    if (!x || x->count == 0) {
        return kd_trouble(t, false, "%s has no feature %s at %d x %d pixels", n->name, n->tap, in->width, in->height);
    }
    f->map.cell_h = (double)run.height / (double)x->dim[2];
    f->map.cell_w = (double)run.width / (double)x->dim[3];
    f->map.height = positions_of(in->height, f->map.cell_h, x->dim[2]);
    f->map.width = positions_of(in->width, f->map.cell_w, x->dim[3]);
    f->attention = malloc(sizeof *f->attention * (size_t)f->map.height * (size_t)f->map.width);
    if (!f->attention) {
        return kd_trouble(t, true, "out of memory for the features of %s", n->name);
    }
    f->map.v = f->attention;
    if (!take_attention(f, x)) {
        return kd_trouble(t, false, "%s of %s holds NaN or infinity", n->tap, n->name);
    }
    f->v = adapted(n, x, &channels);
    f->channels = f->v ? (int)channels : 0;
    if (f->v) {
        cut(f->v, channels, x->dim[2], x->dim[3], f->map.height, f->map.width);
    }
    return f->v != NULL;
}
