/* train_eval.c: metrics on test pictures while a session trains (methods C.12): networks of the session, measured as
 * kdc eval does.
 *
 * A network is compiled in a program of its own and works on the session's tensors where they are; it only reads them.
 * Each network of --eval has its own program, so that a failure (a file that went away, a full disk under the cache)
 * ends there: it is said, and the program is opened again the next time.
 */
#include "frontend/cli/eval.h"
#include "frontend/cli/train.h"

#include <inttypes.h>
#include <string.h>

typedef struct One {
    const char *net;
    KdcArgs a;     /* as kdc eval has them */
    KdcProgram *q; /* NULL: to be opened again */
    KdcEval e;
    const char *name[KDC_METRICS]; /* "S.psnr" */
} One;

struct KdcTrainEval {
    KdcProgram *p;
    KdcTensor **live;
    int n_live;
    const volatile sig_atomic_t *stop;
    One *one;
    int n;
    const char **name; /* of the latest round */
    double *value;
    const char *text;
};

/* ---- what is asked for --------------------------------------------------------------------------------- */

/* NET or NET:BtoA. */
static bool take_net(KdcTrainEval *e, One *o, const KdcArgs *a, const char *text, const char *layout, int height,
                     int width) {
    const char *colon = strchr(text, ':');
    o->net = kd_intern(e->p->cx, text, colon ? (size_t)(colon - text) : strlen(text));
    o->a = *a;
    o->a.verb = KDC_VERB_EVAL;
    o->a.name = o->net;
    o->a.layout = !a->eval_data || a->against ? layout : NULL; /* pairs may be there to evaluate alone */
    o->a.data = a->eval_data ? a->eval_data : a->data;
    o->a.phase = a->eval_phase ? a->eval_phase : "test";
    o->a.b_to_a = colon ? strcmp(colon + 1, "BtoA") == 0 : a->b_to_a;
    o->a.preprocess = NULL;
    o->a.load_h = o->a.load_w = o->a.crop_h = o->a.crop_w = o->a.n_weights = 0;
    if (a->eval_h || !a->eval_stored) {
        o->a.crop_h = a->eval_h ? a->eval_h : height;
        o->a.crop_w = a->eval_h ? a->eval_w : width;
    }
    o->a.limit = a->eval_pictures;
    o->a.hold_out = 0; /* that is of the training pictures */
    if (colon && !o->a.b_to_a && strcmp(colon + 1, "AtoB") != 0) {
        kd_error(e->p->cx, 0, "--eval %s: expected NET, NET:AtoB or NET:BtoA", text);
        return false;
    }
    for (const One *before = e->one; before < o; before++) {
        if (before->net == o->net) {
            kd_error(e->p->cx, 0, "--eval names %s twice", o->net);
            return false;
        }
    }
    for (int m = 0; m < KDC_METRICS; m++) {
        o->name[m] = kd_format(e->p->cx, "%s.%s", o->net, kdc_metric_key((KdcMetric)m));
    }
    return true;
}

/* Does the session have weights of that network? */
static bool in_session(const KdcTrainEval *e, const char *option, const char *net) {
    KdStr all = {.cx = e->p->cx};
    const char *last = "";
    for (int i = 0; i < e->n_live; i++) {
        const KdcTensor *t = e->live[i];
        size_t n = strcspn(t->name, ".");
        if (t->role == KDC_DATA || t->role == KDC_STATE || !t->name[n]) {
            continue;
        }
        if (strlen(net) == n && strncmp(net, t->name, n) == 0) {
            return true;
        }
        if (strncmp(last, t->name, n + 1) != 0) {
            kd_str_printf(&all, "%s%.*s", all.n ? ", " : "", (int)n, t->name);
            last = t->name;
        }
    }
    kd_error(e->p->cx, 0, "%s %s: the session has no network of that name; it has %s", option, net,
             all.n ? all.s : "none");
    return false;
}

/* ---- one network ----------------------------------------------------------------------------------------- */

static void close_one(One *o) {
    if (o->q) {
        kdc_eval_end(&o->e);
        kdc_close(o->q);
    }
    o->q = NULL;
}

/* false: o->q, if there is any, has messages. */
static bool open_one(KdcTrainEval *e, One *o) {
    KdcOptions options = e->p->o;
    volatile bool ok = false;
    KdLanding l;
    options.memory_limit = 0; /* that is of the session's activations */
    o->q = kdc_open(e->p->file, e->p->text, e->p->text_size, &options);
    o->e = (KdcEval){.a = &o->a, .p = o->q, .live = e->live, .n_live = e->n_live, .stop = e->stop};
    if (!o->q || kdc_status(o->q) != KDC_OK || kdc_eval_metrics(&o->a, o->e.asked) != 0) {
        return false;
    }
    if (KD_TRY(o->q->cx, l)) {
        ok = kdc_eval_begin(&o->e);
        kd_landing_pop(o->q->cx);
    } else {
        kdc_failed(o->q);
    }
    kdc_settle(o->q, 0);
    return ok;
}

static bool measure_one(One *o, bool *stopped) {
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(o->q->cx, l)) {
        ok = kdc_eval_measure(&o->e, stopped);
        kd_landing_pop(o->q->cx);
    } else {
        kdc_failed(o->q);
    }
    return ok;
}

static void print_messages(const One *o) {
    if (o->q) {
        kdc_settle(o->q, 0);
        kdc_print_messages(o->q, stderr, o->a.color);
    } else {
        fprintf(stderr, "kdc: error: out of memory\n");
    }
}

/* ---- all -------------------------------------------------------------------------------------------------- */

static bool try_one(KdcTrainEval *e, One *o, KdStr *text) {
    KdcProgram *p = e->p;
    if (!open_one(e, o)) {
        print_messages(o);
        p->status = !o->q ? KDC_MACHINE : kdc_status(o->q) == KDC_OK ? KDC_INPUT : kdc_status(o->q);
        return false;
    }
    kd_str_printf(text, "%s%s (", text->n ? "; " : "", o->net);
    for (int m = 0, n = 0; m < KDC_METRICS; m++) {
        if (o->e.compute[m]) {
            kd_str_printf(text, "%s%s", n++ ? ", " : "", kdc_metric_name((KdcMetric)m));
        }
    }
    kd_str_printf(text, ") against %s, %" PRId64 " pictures of %s", o->e.against, kdc_eval_pictures(&o->e), o->e.set);
    kd_str_printf(text, o->a.crop_h ? " at %" PRId64 "x%" PRId64 : " as stored", o->a.crop_h, o->a.crop_w);
    return true;
}

bool kdc_train_eval_open(KdcTrainEval **out, KdcProgram *p, KdcSession *s, const KdcArgs *a, const char *layout,
                         int height, int width, const volatile sig_atomic_t *stop) {
    *out = NULL;
    if (a->n_evals == 0 || (a->n_evals == 1 && strcmp(a->evals[0], "none") == 0)) {
        return true;
    }
    KdcTrainEval *e = *out = KD_NEW(p->cx, KdcTrainEval);
    *e = (KdcTrainEval){.p = p, .stop = stop, .n_live = kdc_session_count(s), .n = a->n_evals};
    e->live = KD_NEW_ARRAY(p->cx, KdcTensor *, e->n_live + 1);
    e->one = KD_NEW_ARRAY(p->cx, One, e->n);
    e->name = KD_NEW_ARRAY(p->cx, const char *, e->n *KDC_METRICS);
    e->value = KD_NEW_ARRAY(p->cx, double, e->n *KDC_METRICS);
    for (int i = 0; i < e->n_live; i++) {
        e->live[i] = kdc_session_tensor(s, i);
    }
    KdStr text = {.cx = p->cx};
    for (int i = 0; i < e->n; i++) {
        One *o = &e->one[i];
        if (!take_net(e, o, a, a->evals[i], layout, height, width) || !in_session(e, "--eval", o->net) ||
            (a->against && !in_session(e, "--against", a->against)) || !try_one(e, o, &text)) {
            return false;
        }
        if (!a->eval_data && !*kdc_eval_phase(&o->e)) {
            kd_error(p->cx, 0,
                     "--eval: %s has no test pictures apart from those that are trained on: --eval-data FOLDER says "
                     "which to use",
                     a->data);
            return false;
        }
    }
    e->text = text.s;
    return true;
}

const char *kdc_train_eval_text(const KdcTrainEval *e) {
    return e->text;
}

bool kdc_train_eval_run(KdcTrainEval *e, int64_t step, const char *const **name, const double **value, int *n) {
    *n = 0;
    *name = e->name;
    *value = e->value;
    for (int i = 0; i < e->n; i++) {
        One *o = &e->one[i];
        bool stopped = false;
        if ((o->q || open_one(e, o)) && measure_one(o, &stopped)) {
            for (int m = 0; m < KDC_METRICS; m++) {
                if (o->e.compute[m]) {
                    e->name[*n] = o->name[m];
                    e->value[(*n)++] = kdc_eval_value(&o->e, (KdcMetric)m);
                }
            }
            continue;
        }
        if (stopped) {
            return false;
        }
        fprintf(stderr,
                "kdc: warning: %s could not be evaluated after step %" PRId64 "; the run goes on. What was wrong:\n",
                o->net, step);
        print_messages(o);
        close_one(o);
    }
    return true;
}

void kdc_train_eval_close(KdcTrainEval *e) {
    for (int i = 0; e && i < e->n; i++) {
        close_one(&e->one[i]);
    }
}
