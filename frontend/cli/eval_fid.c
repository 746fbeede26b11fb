/* eval_fid.c: FID: Inception's features of the pictures made and of the reference, and the distance of their Gaussians.
 *
 * The network is models/nets/inception.kd, compiled like any other; its weights must all be there by name. A picture is
 * 8-bit RGB of any size (metrics.h: kd_fid_input). The reference is --ref, or else what the pictures are compared with.
 */
#include "frontend/cli/eval.h"
#include "runtime/host/npz.h"
#include "runtime/host/pth.h"

#include <string.h>
#include <sys/stat.h>

enum { SIZE = 299, FEATURES = 2048 };

struct KdcEvalFid {
    KdcProgram *own; /* Inception's */
    KdcRunnable *r;
    KdWeights *weights;
    KdMoments *made, *reference;
    double *mean,
        *cov; /* the reference's: of a statistics file, or of `reference` after the first round; NULL: not known yet */
    bool given;         /* they are of a file */
};

/* ---- the network --------------------------------------------------------------------------------------- */

/* In own's landing. */
static bool compile(KdcEvalFid *f, const char *file) {
    KdcProgram *q = f->own;
    KdTrouble t;
    KdcMatch m;
    f->r = kdc_net(q, "I", &(KdcShapes){0});
    if (!f->r) {
        return false;
    }
    if (!(f->weights = kd_checkpoint_file_read(file, &t))) {
        return kdc_cli_trouble(q, &t);
    }
    int n = kdc_input_count(f->r), count = 0;
    KdcTensor **w = KD_NEW_ARRAY(q->cx, KdcTensor *, n + 1);
    for (int i = 0; i < n; i++) {
        if (kdc_input(f->r, i)->role != KDC_DATA) {
            w[count++] = kdc_input(f->r, i);
        }
    }
    if (!kdc_match(q, "I", w, count, f->weights, file, false, &m)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (!m.from[i]) {
            kd_error(q->cx, 0, "%s: there is no tensor %s: these are not the weights of FID's Inception network", file,
                     w[i]->name);
            return false;
        }
        if (!kdc_load_tensor(q, w[i], m.from[i], file)) {
            return false;
        }
    }
    kdc_hold_weights(f->r, true);
    return true;
}

static bool open_network(KdcEval *e, KdcEvalFid *f) {
    static const char text[] = "import \"nets/inception.kd\"\nlet I = Inception[]\n";
    KdcOptions o = {.batch = 1, .height = SIZE, .width = SIZE, .threads = (int)e->a->threads};
    o.cache = e->a->no_cache ? "" : NULL;
    KdcProgram *q = f->own = kdc_open("kdc eval", text, sizeof text - 1, &o);
    if (!q) {
        kd_raise(e->p->cx, KD_FAIL_MACHINE, "out of memory for the Inception network");
    }
    volatile bool ok = false;
    KdLanding l;
    if (kdc_status(q) == KDC_OK && KD_TRY(q->cx, l)) {
        ok = compile(f, e->a->inception);
        kd_landing_pop(q->cx);
    } else if (kdc_status(q) == KDC_OK) {
        kdc_failed(q);
    }
    if (!ok) {
        kdc_settle(q, 0);
        kdc_print_messages(q, stderr, e->a->color);
        e->p->status = kdc_status(q) == KDC_OK ? KDC_INPUT : kdc_status(q);
    }
    kd_weights_free(f->weights);
    f->weights = NULL;
    return ok;
}

static void add(const KdcEvalFid *f, KdMoments *m, const KdImage *x) {
    kd_fid_input(x, SIZE, kdc_find(f->r, "x")->data);
    kdc_run(f->r);
    kd_moments_add(m, kdc_find_output(f->r, "out")->data);
}

/* ---- the reference ------------------------------------------------------------------------------------- */

/* Its numbers, in p's memory; NULL after a message. */
static double *take_array(KdcEval *e, const KdArrays *all, const char *name, int rank) {
    const KdArray *x = kd_npz_find(all, name);
    if (!x || x->rank != rank || x->dim[0] != FEATURES || (rank == 2 && x->dim[1] != FEATURES)) {
        kd_error(e->p->cx, 0, "%s: expected %s of 2048%s numbers, found %s", e->a->ref, name, rank == 2 ? " x 2048" : "",
                 x ? "another shape" : "no such array");
        return NULL;
    }
    double *copy = kdc_memory(e->p, x->count * (int64_t)sizeof *copy);
    memcpy(copy, x->data, (size_t)x->count * sizeof *copy);
    return copy;
}

static bool read_statistics(KdcEval *e, KdcEvalFid *f) {
    KdArrays all;
    KdTrouble t;
    if (!kd_npz_read(e->a->ref, &all, &t)) {
        return kdc_cli_trouble(e->p, &t);
    }
    f->mean = take_array(e, &all, "mu", 1);
    f->cov = f->mean ? take_array(e, &all, "sigma", 2) : NULL;
    kd_npz_free(&all);
    f->given = f->cov != NULL;
    return f->given;
}

static bool add_folder(KdcEval *e, KdcEvalFid *f) {
    const char **path;
    int n;
    if (!kdc_eval_list(e->p, e->a->ref, &path, &n)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        KdImage x = {0};
        KdTrouble t;
        if (!kd_image_read(path[i], KD_IMAGE_RGB8, &x, &t)) {
            return kdc_cli_trouble(e->p, &t);
        }
        add(f, f->reference, &x);
        kd_image_free(&x);
    }
    e->references = n;
    return true;
}

/* ---- the metric ---------------------------------------------------------------------------------------- */

/* A statistics file is looked at before the network is compiled; a folder needs the network. */
bool kdc_eval_fid_open(KdcEval *e) {
    KdcEvalFid *f = e->features = KD_NEW(e->p->cx, KdcEvalFid);
    KdTrouble t;
    struct stat st;
    bool folder = e->a->ref && stat(e->a->ref, &st) == 0 && S_ISDIR(st.st_mode);
    e->reference = e->a->ref ? e->a->ref : e->against;
    if ((e->a->ref && !folder && !read_statistics(e, f)) || !open_network(e, f)) {
        return false;
    }
    f->made = kd_moments_new(FEATURES, &t);
    f->reference = f->made ? kd_moments_new(FEATURES, &t) : NULL;
    return f->reference ? !folder || add_folder(e, f) : kdc_cli_trouble(e->p, &t);
}

bool kdc_eval_fid_add(KdcEval *e, const KdcEvalPair *pair) {
    if (pair->got.samples) {
        add(e->features, e->features->made, &pair->got);
        e->generated++;
    }
    if (pair->want.samples && !e->a->ref && !e->features->mean) {
        add(e->features, e->features->reference, &pair->want);
        e->references++;
    }
    return true;
}

bool kdc_eval_fid_rewind(KdcEval *e) {
    KdcEvalFid *f = e->features;
    KdTrouble t;
    e->generated = 0;
    kd_moments_free(f->made);
    f->made = kd_moments_new(FEATURES, &t);
    if (f->made && e->a->against && !e->a->ref && f->mean) { /* the other network may be trained, too */
        kdc_memory_free(e->p, f->mean);
        f->mean = f->cov = NULL;
    }
    if (f->made && !f->given && !f->mean && !e->a->ref) {
        kd_moments_free(f->reference);
        f->reference = kd_moments_new(FEATURES, &t);
        e->references = 0;
    }
    return (f->made && f->reference) || kdc_cli_trouble(e->p, &t);
}

bool kdc_eval_fid_finish(KdcEval *e) {
    KdcEvalFid *f = e->features;
    int64_t n = FEATURES, bytes = n * (n + 1) * (int64_t)sizeof(double);
    double *made = kdc_memory(e->p, bytes);
    KdTrouble t;
    bool ok = kd_moments_get(f->made, made, made + n, &t);
    if (ok && !f->mean) {
        f->mean = kdc_memory(e->p, bytes);
        f->cov = f->mean + n;
        ok = kd_moments_get(f->reference, f->mean, f->cov, &t);
    }
    ok = ok && kd_frechet(FEATURES, made, made + n, f->mean, f->cov, &e->fid, &t);
    kdc_memory_free(e->p, made);
    if (!ok) {
        KdTrouble named;
        kd_trouble(&named, t.machine, "FID: %s", t.text);
        return kdc_cli_trouble(e->p, &named);
    }
    return true;
}

void kdc_eval_fid_close(KdcEval *e) {
    KdcEvalFid *f = e->features;
    if (f) {
        kd_moments_free(f->made);
        kd_moments_free(f->reference);
        kd_weights_free(f->weights);
        if (f->own) {
            kdc_close(f->own);
        }
    }
}
