/* save.c: a session's state to disk and back.
 *
 * What makes a run go on bit for bit is the session's tensors and the number of the step: random numbers and the order of the
 * data are functions of seed and step. So a checkpoint holds every weight, buffer and state by name. Frozen networks are
 * kept once, apart. Restoring demands every tensor with its type and shape: a checkpoint of another program never loads
 * by halves.
 */
#include "frontend/api/api.h"

#include "runtime/host/checkpoint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static KdStored stored(KdcDType d) {
    switch (d) {
    case KDC_F32:
        return KD_STORED_F32;
    case KDC_I32:
        return KD_STORED_I32;
    case KDC_U8:
        return KD_STORED_U8;
    }
    return KD_STORED_F32;
}

static bool kept(const KdcTensor *t, bool frozen) {
    return frozen ? t->role == KDC_FROZEN : t->role != KDC_DATA && t->role != KDC_FROZEN;
}

static bool all_finite(KdcProgram *p, const KdcTensor *t) {
    const float *x = t->data;
    for (int64_t i = 0; t->dtype == KDC_F32 && i < t->count; i++) {
        if (!isfinite(x[i])) {
            kd_error(p->cx, 0, "%s is not finite any more (%g): nothing is saved over the last checkpoint", t->name, (double)x[i]);
            return false;
        }
    }
    return true;
}

/* The tensors to write, and how many; to be freed (saving happens often: not in the program's arena). NULL after a
 * diagnostic. */
static KdTensorOut *collect(KdcSession *s, bool frozen, int *n) {
    KdcProgram *p = kdc_session_program(s);
    KdTensorOut *out = calloc((size_t)kdc_session_count(s) + 1, sizeof *out);
    *n = 0;
    if (!out) {
        kd_raise(p->cx, KD_FAIL_MACHINE, "out of memory while saving");
    }
    for (int i = 0; i < kdc_session_count(s); i++) {
        const KdcTensor *t = kdc_session_tensor(s, i);
        if (!kept(t, frozen)) {
            continue;
        }
        if (!all_finite(p, t)) {
            free(out);
            return NULL;
        }
        out[(*n)++] = (KdTensorOut){t->name, stored(t->dtype), t->rank, t->dim, t->data};
    }
    return out;
}

/* One of two: folder and step, or file. */
static bool save(KdcSession *s, const char *folder, int64_t step, const char *file, const char *const *meta, int n_meta) {
    KdTrouble t;
    int n;
    KdTensorOut *out = collect(s, file != NULL, &n);
    bool ok = out && (file ? kd_weights_write(file, out, n, NULL, 0, &t)
                           : kd_checkpoint_write(folder, step, out, n, meta, n_meta, &t));
    bool tried = out != NULL;
    free(out);
    return ok || !tried ? ok : kdc_host_trouble(kdc_session_program(s), &t);
}

static bool restore(KdcSession *s, const KdWeights *w, const char *file, bool frozen) {
    KdcProgram *p = kdc_session_program(s);
    for (int i = 0; i < kdc_session_count(s); i++) {
        KdcTensor *t = kdc_session_tensor(s, i);
        if (!kept(t, frozen)) {
            continue;
        }
        const KdTensor *x = kd_weights_find(w, t->name);
        bool same = x && x->dtype == stored(t->dtype) && x->rank == t->rank;
        for (int d = 0; same && d < t->rank; d++) {
            same = x->dim[d] == t->dim[d];
        }
        if (!same) {
            kd_error(p->cx, 0, "%s is a checkpoint of another program: %s %s", file, x ? "it has another shape for" : "it has no",
                     t->name);
            return false;
        }
        if (!kdc_load_tensor(p, t, x, file)) {
            return false;
        }
    }
    return true;
}

/* save() for callers outside. */
static KdcStatus guarded_save(KdcSession *s, const char *folder, int64_t step, const char *file, const char *const *meta, int n_meta) {
    KdcProgram *p = kdc_session_program(s);
    int errors = kd_error_count(p->cx);
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        save(s, folder, step, file, meta, n_meta);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    return kdc_settle(p, errors);
}

KdcStatus kdc_session_save(KdcSession *s, const char *folder, int64_t step, const char *const *meta, int n_meta) {
    return guarded_save(s, folder, step, NULL, meta, n_meta);
}

KdcStatus kdc_session_save_frozen(KdcSession *s, const char *file) {
    return guarded_save(s, NULL, 0, file, NULL, 0);
}

/* Takes what was read from `file` and frees it; w NULL: *t says why, or nothing when there was nothing to read. */
static KdcStatus guarded_restore(KdcSession *s, KdWeights *w, const char *file, bool frozen, const char *note, const KdTrouble *t) {
    KdcProgram *p = kdc_session_program(s);
    int errors = kd_error_count(p->cx);
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        if (*note) {
            kd_warning(p->cx, 0, "%s", note);
        }
        if (w) {
            restore(s, w, file, frozen);
        } else if (*t->text) {
            kdc_host_trouble(p, t);
        }
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kd_weights_free(w);
    return kdc_settle(p, errors);
}

KdcStatus kdc_session_restore(KdcSession *s, const char *folder, int64_t *step) {
    KdTrouble t = {0};
    char *path = NULL, note[512] = "";
    KdWeights *w = kd_checkpoint_read(folder, step, &path, note, sizeof note, &t);
    if (!w && !*t.text) {
        *step = 0;
    }
    KdcStatus status = guarded_restore(s, w, path, false, note, &t);
    free(path);
    return status;
}

KdcStatus kdc_session_restore_frozen(KdcSession *s, const char *file) {
    KdTrouble t = {0};
    return guarded_restore(s, kd_weights_read(file, &t), file, true, "", &t);
}
