/* cmd_eval.c: kdc eval: how near a network's pictures (or those of a folder) are to what they should be. See
 * eval_measure.c. */
#include "frontend/cli/eval.h"

#include <string.h>

static int check_usage(const KdcArgs *a) {
    if (a->pred || a->truth) {
        if (!a->pred || (!a->truth && !a->ref)) {
            return kdc_usage_error(a, a->pred ? "--pred needs --truth FOLDER to compare with (or, for FID alone, --ref)"
                                              : "--truth needs --pred FOLDER");
        }
        if (a->file || a->data || a->against || a->calibrate) {
            return kdc_usage_error(a, "--pred compares pictures made earlier: no %s",
                                   a->file ? "network" : a->data ? "--data" : a->against ? "--against" : "--calibrate");
        }
        return 0;
    }
    if (!a->name) {
        return kdc_usage_error(a, "which network of %s? name it: %s:NAME", a->file, a->file);
    }
    if ((a->calibrate_phase || a->save_calibrated) && !a->calibrate) {
        return kdc_usage_error(a, "--%s needs --calibrate N", a->calibrate_phase ? "calibrate-phase" : "save-calibrated");
    }
    return a->data ? 0 : kdc_usage_error(a, "which pictures? --data FOLDER");
}

/* ---- the verb ---------------------------------------------------------------------------------------- */

/* Two folders need no program: an empty one carries the messages. */
static KdcProgram *open_program(const KdcArgs *a, KdcWatch *w, int *code) {
    if (a->file) {
        return kdc_cli_open(a, w, code);
    }
    *w = (KdcWatch){.args = a};
    KdcProgram *p = kdc_open("kdc eval", "", 0, &(KdcOptions){.threads = (int)a->threads});
    if (!p) {
        fprintf(stderr, "kdc: error: out of memory\n");
        *code = 3;
    }
    return p;
}

/* What --save-calibrated writes is nothing that is read. */
static bool spares(const KdcEval *e) {
    const KdcArgs *a = e->a;
    const char **inputs = KD_NEW_ARRAY(e->p->cx, const char *, a->n_weights + 1);
    for (int i = 0; i < a->n_weights; i++) {
        const char *equals = strchr(a->weights[i], '=');
        inputs[i] = equals ? equals + 1 : a->weights[i];
    }
    return kdc_cli_spares(e->p, a, a->save_calibrated, inputs, a->n_weights);
}

static bool run(KdcEval *e) {
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(e->p->cx, l)) {
        ok = spares(e) && kdc_eval_begin(e) && kdc_eval_measure(e, NULL) && kdc_eval_print(e);
        kd_landing_pop(e->p->cx);
    } else {
        kdc_failed(e->p);
    }
    kdc_eval_end(e);
    kdc_settle(e->p, 0);
    return ok;
}

int kdc_cmd_eval(const KdcArgs *a) {
    KdcWatch w;
    KdcEval e = {.a = a};
    int code = check_usage(a);
    code = code ? code : kdc_eval_metrics(a, e.asked);
    if (code) {
        return code;
    }
    KdcProgram *p = open_program(a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = a->name;
    e.p = p;
    bool ok = run(&e);
    return kdc_cli_close(a, &w, p, ok);
}
