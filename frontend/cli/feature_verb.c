/* feature_verb.c: see feature.h. What kdc similarity and kdc attention share: a run folder stands for its program, its
 * -D and its weights; -i is a picture or a folder; results are written whole or not at all. */
#include "frontend/cli/feature.h"

#include "frontend/cli/eval.h"
#include "frontend/cli/train.h"

#include <stdlib.h>
#include <string.h>

/* ---- what goes where ------------------------------------------------------------------------------------ */

typedef struct Jobs {
    const char **in, **out;
    int n;
} Jobs;

static bool check_out(KdcFeatureVerb *v, const Jobs *jobs) {
    KdContext *cx = v->p->cx;
    for (int i = 0; i < jobs->n; i++) {
        for (int k = 0; k < i; k++) {
            if (strcmp(jobs->out[i], jobs->out[k]) == 0) {
                kd_error(cx, 0, "%s and %s would both become %s", jobs->in[k], jobs->in[i], jobs->out[i]);
                return false;
            }
        }
        if (!kdc_cli_spares(v->p, &v->a, jobs->out[i], jobs->in, jobs->n)) {
            return false;
        }
    }
    return true;
}

static bool check_raw(KdcFeatureVerb *v, const Jobs *jobs) {
    const char *raw = v->a.raw;
    if (raw && !kdc_cli_ends_in(raw, ".npz") && !kdc_cli_ends_in(raw, ".safetensors")) {
        kd_error(v->p->cx, 0, "--raw %s: the name must end in .npz or .safetensors", raw);
        return false;
    }
    if (raw && jobs->n > 1) {
        kd_error(v->p->cx, 0, "--raw is for one picture, %s has %d", v->a.in, jobs->n);
        return false;
    }
    return kdc_cli_spares(v->p, &v->a, raw, jobs->in, jobs->n);
}

static bool list_jobs(KdcFeatureVerb *v, Jobs *jobs) {
    KdContext *cx = v->p->cx;
    const KdcArgs *a = &v->a;
    bool folder = kdc_cli_is_folder(a->in),
         into = folder || kdc_cli_is_folder(a->output) || a->output[strlen(a->output) - 1] == '/';
    if (folder) {
        if (!kdc_eval_list(v->p, a->in, &jobs->in, &jobs->n)) {
            return false;
        }
        jobs->n = a->limit && a->limit < jobs->n ? (int)a->limit : jobs->n;
    } else {
        jobs->in = KD_NEW_ARRAY(cx, const char *, 1);
        jobs->in[0] = a->in;
        jobs->n = 1;
    }
    if (folder && kdc_cli_same_file(a->in, a->output)) {
        kd_error(cx, 0, "%s is the folder with the images: results need another", a->output);
        return false;
    }
    if (!into && !kdc_cli_ends_in(a->output, ".png")) {
        kd_error(cx, 0, "%s: results are PNG files: the name must end in .png, or be a folder", a->output);
        return false;
    }
    jobs->out = KD_NEW_ARRAY(cx, const char *, jobs->n + 1);
    for (int i = 0; i < jobs->n; i++) {
        jobs->out[i] = into ? kdc_cli_result_path(cx, a->output, jobs->in[i]) : a->output;
    }
    return check_out(v, jobs) && check_raw(v, jobs) && (!into || kdc_cli_make_folder(v->p, a->output));
}

bool kdc_feature_raw(const KdcFeatureVerb *v, const KdArray *x, int n, KdTrouble *t) {
    enum { MOST = 8 };
    KdTensorOut out[MOST];
    if (!v->a.raw) {
        return true;
    }
    if (kdc_cli_ends_in(v->a.raw, ".npz")) {
        return kd_npz_write(v->a.raw, x, n, t);
    }
    for (int i = 0; i < n && i < MOST; i++) {
        out[i] = (KdTensorOut){x[i].name, KD_STORED_F64, x[i].rank, x[i].dim, x[i].data};
    }
    return kd_weights_write(v->a.raw, out, n < MOST ? n : MOST, NULL, 0, t);
}

/* ---- pictures --------------------------------------------------------------------------------------------- */

static bool read_picture(const KdcFeatureVerb *v, const char *path, KdImage *x, KdTrouble *t) {
    KdImage to;
    KdImageWant want = kdc_picture_want(v->net[0].net);
    const KdcArgs *a = &v->a;
    if (!kd_image_read(path, want, x, t)) {
        return false;
    }
    if (!a->height || (x->height == a->height && x->width == a->width)) {
        return true;
    }
    KdFilter filter = want == KD_IMAGE_INDEX ? KD_FILTER_NEAREST : KD_FILTER_BICUBIC;
    if (!kd_image_resize(x, (int)a->width, (int)a->height, filter, &to, t)) {
        return false;
    }
    kd_image_free(x);
    *x = to;
    return true;
}

static bool one_picture(KdcFeatureVerb *v, const char *out, KdTrouble *t) {
    const char *base = strrchr(v->a.file, '/');
    const char *const text[] = {"Software", "kdc " KDC_VERSION, "Network",
                                kd_format(v->p->cx, "%s:%s", base ? base + 1 : v->a.file, v->a.name)};
    KdImage x = {0}, rgb = {0}, made = {0};
    bool ok = read_picture(v, v->in, &x, t) && kdc_heat_rgb(&x, &rgb, t) && v->draw(v, &x, &rgb, &made, t) &&
              kd_png_write(out, &made, text, KD_COUNT(text), t);
    kd_image_free(&x);
    kd_image_free(&rgb);
    kd_image_free(&made);
    return ok;
}

/* One after the other; one that cannot be done is named, and the others go on. */
static bool all_pictures(KdcFeatureVerb *v, const Jobs *jobs) {
    int failed = 0;
    for (int i = 0; i < jobs->n; i++) {
        KdTrouble t = {0};
        int errors = kd_error_count(v->p->cx);
        v->in = jobs->in[i];
        if (one_picture(v, jobs->out[i], &t)) {
            continue;
        }
        if (kdc_status(v->p) != KDC_OK || kd_error_count(v->p->cx) > errors) {
            return false;
        }
        if (jobs->n == 1 || t.machine) {
            bool named = strstr(t.text, v->in) || strstr(t.text, jobs->out[i]);
            KdTrouble full;
            kd_trouble(&full, t.machine, "%s%s%s", named ? "" : v->in, named ? "" : ": ", t.text);
            return kdc_cli_trouble(v->p, &full);
        }
        fprintf(stderr, "kdc: error: %s%s%s\n", strstr(t.text, v->in) ? "" : v->in, strstr(t.text, v->in) ? "" : ": ",
                t.text);
        failed++;
    }
    if (failed) {
        kd_error(v->p->cx, 0, "%d of %d images failed", failed, jobs->n);
    }
    return !failed;
}

/* A file that is given to a network which has no part in this is a mistake. */
static bool check_weights(const KdcFeatureVerb *v) {
    for (int i = 0; i < v->files.weights.n; i++) {
        const KdcWeightsFile *w = &v->files.weights.v[i];
        size_t n = strcspn(w->net, ".");
        bool known = !*w->net;
        for (int k = 0; k < v->n_nets && !known; k++) {
            const char *names[] = {v->net[k].name, v->net[k].adaptor};
            for (int j = 0; j < 2; j++) {
                known = known || (names[j] && strlen(names[j]) == n && strncmp(names[j], w->net, n) == 0);
            }
        }
        if (!known) {
            kd_error(v->p->cx, 0, "--weights %.*s=%s: no network at work is called %.*s", (int)n, w->net, w->file,
                     (int)n, w->net);
            return false;
        }
    }
    return true;
}

static bool work(KdcFeatureVerb *v) {
    Jobs jobs = {0};
    KdImageInfo info = {0};
    KdTrouble t;
    KdcArgs tensors = v->a;
    tensors.in = NULL; /* here it names pictures */
    if (!kdc_files_read(v->p, &tensors, &v->files) || !list_jobs(v, &jobs)) {
        return false;
    }
    for (int i = 0; i < jobs.n && !info.width; i++) {
        if (!kd_image_probe(jobs.in[i], &info, &t)) {
            info = (KdImageInfo){0};
        }
    }
    if (!info.width) {
        return kdc_cli_trouble(v->p, &t);
    }
    return v->open(v, v->a.height ? (int)v->a.height : info.height, v->a.width ? (int)v->a.width : info.width) &&
           check_weights(v) && all_pictures(v, &jobs);
}

/* ---- the verb -------------------------------------------------------------------------------------------- */

int kdc_cli_open_run(KdcRunProgram *r, const KdcArgs *given, KdcArgs *a) {
    KdTrouble t = {0};
    *r = (KdcRunProgram){.stored = *given};
    if (!kdc_cli_is_folder(given->file)) {
        return 0;
    }
    r->stored.file = NULL;
    r->weights = calloc((size_t)given->n_weights + 2, sizeof *r->weights);
    if (!r->weights || !kdc_run_args_read(given->file, &r->stored, &r->run, &t) || !r->stored.file) {
        fprintf(stderr, "kdc: error: %s is no run folder of kdc train%s%s\n", given->file,
                r->weights && r->stored.file ? "" : ": ", r->weights ? t.text : "out of memory");
        return r->weights && !t.machine ? 1 : 3;
    }
    a->file = r->stored.file;
    a->defines = r->stored.defines;
    a->n_defines = r->stored.n_defines;
    a->schedule = r->stored.schedule;
    a->winograd = r->stored.winograd;
    for (int i = 0; i < given->n_weights; i++) {
        r->weights[i] = given->weights[i];
    }
    r->weights[given->n_weights] = given->file;
    a->weights = r->weights;
    a->n_weights = given->n_weights + 1;
    return 0;
}

void kdc_cli_free_run(KdcRunProgram *r, const KdcArgs *given) {
    kdc_run_args_free(&r->stored, given, &r->run);
    free(r->weights);
    *r = (KdcRunProgram){0};
}

static int run(KdcFeatureVerb *v) {
    KdcWatch w;
    int code;
    KdcProgram *p = v->p = kdc_cli_open(&v->a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = v->a.name;
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(v);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    for (int i = 0; i < v->n_nets; i++) {
        kdc_feature_close(&v->net[i]);
    }
    kdc_files_free(&v->files);
    kdc_settle(p, 0);
    return kdc_cli_close(&v->a, &w, p, ok);
}

int kdc_feature_verb(KdcFeatureVerb *v, const KdcArgs *given) {
    KdcRunProgram r;
    v->a = *given;
    int code = kdc_cli_check_pictures(given);
    if (code == 0) {
        code = kdc_cli_open_run(&r, given, &v->a);
        code = code ? code : run(v);
        kdc_cli_free_run(&r, given);
    }
    return code;
}
