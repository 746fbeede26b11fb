/* prune.h: what the files of `kdc prune` share.
 *
 * cmd_prune.c     the verb: weights in, table, network and weights out
 * prune_trial.c   the network with other hyper-parameters: its text, its cost, is it this one with fewer channels
 * prune_genes.c   which numbers among the hyper-parameters say the width of which layers
 * prune_choose.c  scores of channels, thresholds, the search for a target
 */
#ifndef KDC_PRUNE_H
#define KDC_PRUNE_H

#include "frontend/cli/tensors.h"
#include "passes/channels.h"

typedef enum KdcPruneBy { KDC_BY_SCALE, KDC_BY_L1, KDC_BY_NORM, KDC_PRUNE_BYS } KdcPruneBy;

/* A number among the hyper-parameters that says how wide one layer is, or several. */
typedef struct KdcGene {
    int hyper, at;         /* the at-th integer of that hyper-parameter */
    const char *label;     /* "channels[2]" */
    int64_t value, step;   /* now; it can be value - k step */
    bool deletable;        /* it may be 0: its layers vanish */
    bool chosen;           /* scores decide about it */
    int *less;             /* by group of channels: how many fewer for each step */
} KdcGene;

/* What a network with certain hyper-parameters is. */
typedef struct KdcTrial {
    int *count;            /* by group: its channels */
    int inputs;            /* data, weights and buffers */
    int64_t parameters;
    KdMacs macs;
    double seconds;        /* of a run; 0: not measured */
} KdcTrial;

typedef struct KdcPrune {
    const KdcArgs *a;
    KdcProgram *p;
    KdcShapes shapes;
    const char *name;          /* of the network in what is written */
    const char *file, *values; /* STUDENT.kd, and the file of its weights */
    const char *import;        /* "nets/cat.kd"; NULL: the network is of the prelude */
    const char *params;        /* lines `param ...` for -D */
    const char **late;         /* -D of which the network's file knows no param: the recipe's */
    int n_late;
    const char *note;          /* what of the recipe's params to look at; NULL: nothing */
    bool recipe;               /* import is a recipe, `name` of it: hyper-parameters are its params `student_...` */
    KdConfig config;
    const KdFunc *f;
    KdChannels *c;
    KdcTensor **tensor;        /* by input of f; NULL: data */
    KD_VEC(KdcGene) genes;
    int *gene;                 /* by group: its gene, or -1 */
    double **score;            /* by group, channel; NaN: none */
    KdcPruneBy by;
    KdcTrial before, after;
    const char **value;        /* by hyper-parameter: what is written; NULL: left to the default */
    double threshold;          /* of scores; NaN: none */
    const char *target;        /* "2.6 G MACs (Tout)"; NULL: widths were given */
    double aim, got;
    int usage;                 /* an exit code, or 0 */
} KdcPrune;

/* ---- cmd_prune.c ------------------------------------------------------------------------------------ */

/* "[1, 3, 256, 256]": what MACs and latency are for; "none" without a data input. */
const char *kdc_prune_inputs(const KdcPrune *m);

/* ---- prune_trial.c ---------------------------------------------------------------------------------- */

/* Where the network is declared, as STUDENT.kd has to import it; params. false after a message in p. */
bool kdc_prune_place(KdcPrune *m);
/* Has --recipe the params of `late`? false after a message in p. */
bool kdc_prune_check_late(KdcPrune *m);
/* From now on the text is --recipe's with the params that m->value sets, and the network its own. false after a message
 * in p. */
bool kdc_prune_use_recipe(KdcPrune *m);
/* STUDENT.kd without its head; value: by hyper-parameter, NULL: left out. */
const char *kdc_prune_text(const KdcPrune *m, const char *const *value);
/* Elaborates it, with `runs` also compiles it and takes the median time of so many runs. false: it cannot be, or it is
 * not m's network with fewer channels; *why (or NULL) gets the reason. */
bool kdc_prune_try(KdcPrune *m, const char *const *value, int runs, KdcTrial *t, const char **why);
/* Sets to NULL what is the default anyway, beside the others. */
void kdc_prune_shorten(KdcPrune *m, const char **value);
/* STUDENT.kd as it lies on the disk: is it `t`? false after a message in p. */
bool kdc_prune_verify(KdcPrune *m, const KdcTrial *t);

/* ---- prune_genes.c ---------------------------------------------------------------------------------- */

bool kdc_prune_genes(KdcPrune *m); /* fills genes and gene. false after a message in p */
/* Hyper-parameters with number `at` of `text` replaced; in p's memory. */
const char *kdc_prune_replace(KdContext *cx, const char *text, int at, int64_t value);

/* ---- prune_choose.c --------------------------------------------------------------------------------- */

bool kdc_prune_known_by(const char *name, KdcPruneBy *by);
const char *kdc_prune_by_name(KdcPruneBy by);
/* "49.21 M MACs (Tout)", "850,000 parameters", "1.250 ms": v of what the target counts. */
const char *kdc_prune_amount(const KdcPrune *m, double v);
const char *kdc_prune_grouped(KdContext *cx, int64_t v); /* "850,000" */
bool kdc_prune_score(KdcPrune *m);  /* fills score. false after a message in p */
/* To --macs, --params or --latency: fills value and after. false after a message in p. */
bool kdc_prune_choose(KdcPrune *m);
/* Do scores say which channels of t stay? false after a message in p. */
bool kdc_prune_can_choose(const KdcPrune *m, const KdcTrial *t);
/* keep[group][channel]: the best of each group, as many as t has. */
bool **kdc_prune_keep(const KdcPrune *m, const KdcTrial *t);

#endif
