/* train.h: what the files of `kdc train` share.
 *
 * cmd_train.c   the verb: open, plan, loop, faults
 * train_feed.c  samples of a data set -> a session's inputs
 * train_eval.c  metrics on test pictures while it trains
 * train_folder.c  the run folder: kdc.json, logs, samples, report
 *
 * A run is a pure function of its arguments and its seed: sample number and step number decide everything, so what a
 * checkpoint needs beside the session's tensors is the number of its step.
 */
#ifndef KDC_TRAIN_H
#define KDC_TRAIN_H

#include "frontend/cli/report.h"
#include "frontend/cli/tensors.h"
#include "runtime/host/dataset.h"
#include "runtime/host/log.h"

#include <signal.h>

/* ---- train_feed.c ----------------------------------------------------------------------------------- */

typedef enum KdcInputKind {
    KDC_IN_RGB,      /* f32 [n, 3, h, w] in [-1, 1] */
    KDC_IN_GRAY,     /* f32 [n, 1, h, w] in [-1, 1] */
    KDC_IN_STORED,   /* u8 [n, 3, h, w], 0..255 */
    KDC_IN_ONE_HOT,  /* f32 [n, classes, h, w], of a label map */
    KDC_IN_LABEL,    /* i32 [n, h, w] or [n, 1, h, w] */
    KDC_IN_EDGES,    /* f32 [n, 1, h, w], 1 where an instance id differs from a neighbour's */
} KdcInputKind;

typedef struct KdcFeedInput {
    KdcTensor *t;
    KdcInputKind kind;
    int image; /* number in a sample */
} KdcFeedInput;

typedef struct KdcFeed {
    int n;
    KdcFeedInput in[4];
    int64_t batch;
    int height, width, classes; /* classes: of one-hot maps; 0: none */
    KdLayout wanted;
    /* inputs of samples whose truth nobody may see: `unlabelled`, `unlabelled_edges` */
    int n_rest;
    KdcFeedInput rest[2];
    int64_t rest_batch;
} KdcFeed;

/* Which image goes to which input, by the session's `from`. false after a diagnostic. */
bool kdc_feed_plan(KdcProgram *p, KdcSession *s, KdcFeed *f);
/* Do the data set's samples have what f needs? false after a diagnostic. */
bool kdc_feed_fits(KdcProgram *p, const KdcFeed *f, const KdDataset *d, const char *root);
/* How the arguments and f want the data set opened. false after a diagnostic. */
bool kdc_feed_options(KdcProgram *p, const KdcArgs *a, const KdcFeed *f, KdDataOptions *o);
/* Writes sample s as element i of the batch; of the unlabelled one. */
void kdc_feed_sample(const KdcFeed *f, const KdSample *s, int64_t i);
void kdc_feed_rest(const KdcFeed *f, const KdSample *s, int64_t i);

/* ---- train_eval.c ----------------------------------------------------------------------------------- */

/* Metrics of networks of the session on test pictures, with the weights as they stand. It only reads them, in programs
 * of its own, so that a run is the same with it and without, and what goes wrong in it stays in it. */
typedef struct KdcTrainEval KdcTrainEval;

/* What --eval asks for, layout being the training data's and height x width the session's; NULL in *out when it asks
 * for nothing. Everything is opened and tried, so that a mistake is found before training begins: false after a message
 * in p. */
bool kdc_train_eval_open(KdcTrainEval **out, KdcProgram *p, KdcSession *s, const KdcArgs *a, const char *layout,
                         int height, int width, const volatile sig_atomic_t *stop);
const char *kdc_train_eval_text(const KdcTrainEval *e); /* "S (L1, PSNR) on 10 pictures of photos (plain, test)" */
/* Measures: names as "S.psnr" and their values, n of them; those of networks with which something was wrong, which is
 * said on stderr, are left out. false: `stop` became true. */
bool kdc_train_eval_run(KdcTrainEval *e, int64_t step, const char *const **name, const double **value, int *n);
void kdc_train_eval_close(KdcTrainEval *e); /* NULL is fine */

/* ---- train_folder.c --------------------------------------------------------------------------------- */

/* FOLDER/kdc.json: what a run was started with, all that --resume must not be told again. */
typedef struct KdcRunArgs {
    uint32_t hash;   /* kdc_session_hash */
    int64_t samples; /* of an epoch */
    json_t *owner;   /* of the strings */
    char changed[256]; /* names of options that were given again, differently */
    bool other_weights; /* --weights is one of them */
} KdcRunArgs;
bool kdc_run_args_write(KdcProgram *p, const char *folder, const KdcArgs *a, const KdcRunArgs *r);
/* Fills what `a` was not given; what was given again wins. kdc_run_args_free even if it fails. */
bool kdc_run_args_read(const char *folder, KdcArgs *a, KdcRunArgs *r, KdTrouble *t);
void kdc_run_args_free(KdcArgs *a, const KdcArgs *given, KdcRunArgs *r);
/* For the report: options that were given, as "--data=FOLDER ...". */
const char *kdc_run_args_text(KdcProgram *p, const KdcArgs *a);

typedef struct KdcRunFolder {
    KdcProgram *p;
    const char *path;
    int lock; /* of the folder, open; 0: not taken */
    KdLog *log;
    KdEvents *events;
    KdcReport report;
} KdcRunFolder;
/* Makes the folder and takes it for this process alone, until closed. */
bool kdc_run_folder_take(KdcRunFolder *f, KdcProgram *p, const char *path);
/* Opens its logs; what they say of steps after `keep` is dropped. */
bool kdc_run_folder_open(KdcRunFolder *f, int64_t keep);
/* labelled.txt: the files whose truth is used, a line each. */
bool kdc_run_folder_labelled(KdcRunFolder *f, const KdDataset *d);
bool kdc_run_folder_log(KdcRunFolder *f, int64_t step, int64_t epoch, double rate, const char *const *name, const double *value,
                        int n);
/* What an evaluation measured. */
bool kdc_run_folder_eval(KdcRunFolder *f, int64_t step, int64_t epoch, const char *const *name, const double *value,
                         int n);
bool kdc_run_folder_evaluated(const KdcRunFolder *f, int64_t step); /* does the log have an evaluation of that step? */
void kdc_run_folder_metrics(const KdcRunFolder *f, FILE *out); /* a line a metric: last, best, mean of the last few */
bool kdc_run_folder_samples(KdcRunFolder *f, KdcSession *s, int64_t step, uint64_t seed);
bool kdc_run_folder_report(KdcRunFolder *f, const char *state);
void kdc_run_folder_close(KdcRunFolder *f);

#endif
