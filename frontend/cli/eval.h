/* eval.h: what the files of `kdc eval` share.
 *
 * cmd_eval.c    the verb
 * eval_measure.c which metrics, the loop over pictures; kdc train measures with it, too
 * eval_source.c where pictures come from: two folders, or a data set through a network
 * eval_net.c    a network applied to samples, through picture.h
 * eval_fid.c    Frechet distances: FID, and of a network of one's own; reference statistics
 * eval_features.c what they are measured on: a row of numbers for each picture
 * eval_print.c  the table and the JSON
 */
#ifndef KDC_EVAL_H
#define KDC_EVAL_H

#include "frontend/cli/calibrate.h"
#include "frontend/cli/common.h"
#include "runtime/host/metrics.h"

#include <signal.h>

typedef enum KdcMetric { KDC_L1, KDC_PSNR, KDC_SSIM, KDC_FID, KDC_MIOU, KDC_FRECHET, KDC_METRICS } KdcMetric;
enum { KDC_PER_IMAGE = KDC_SSIM + 1 }; /* the first so many have a value for each picture */

/* What is compared: `got` with `want`; either may have no samples (an unpaired set has more of one than of the other). */
typedef struct KdcEvalPair {
    const char *name, *got_from, *want_from; /* name: for tables; the others for messages */
    KdImage got, want;
} KdcEvalPair;

typedef struct KdcEvalRow {
    const char *name;
    double value[KDC_PER_IMAGE];
} KdcEvalRow;

typedef struct KdcEvalSource KdcEvalSource;
typedef struct KdcEvalFid KdcEvalFid;
typedef struct KdcEvalFeatures KdcEvalFeatures;

typedef struct KdcEval {
    const KdcArgs *a;
    KdcProgram *p;
    KdcTensor *const *live; /* weights are a session's tensors, wherever training has brought them (tensors.h) */
    int n_live;
    bool keep;                         /* samples stay in memory once they have been read */
    const volatile sig_atomic_t *stop; /* not 0: leave off; or NULL */
    KdcEvalSource *source;
    bool labels;                       /* pictures are label maps: `want` is the truth */
    bool paired;                       /* got and want belong together */
    bool targets;                      /* there is something to compare with, picture by picture or as a set */
    bool asked[KDC_METRICS];           /* --metrics names it */
    bool compute[KDC_METRICS];
    const char *missing[KDC_METRICS];  /* why a metric is not computed: "--inception FILE is not given" */
    KD_VEC(KdcEvalRow) rows;
    int64_t count;                     /* pictures made or read */
    KdConfusion confusion;
    double pixel, per_class, miou, fid, frechet;
    int feature_count;                 /* of the network of --features */
    KdcEvalFid *features;
    /* For the record. list: names of all files used, in order; pixels: what `want` showed, after pre-processing. FNV-1a. */
    uint64_t list, pixels;
    const char *what, *against;        /* "S of model.kd", "the data's own pictures" */
    const char *set, *preprocess;      /* "facades (aligned, test, AtoB)", "none" */
    KdcCalibration calibration;        /* batches 0: not asked for */
    int64_t generated, references;     /* the two sets of FID and Frechet */
    const char *reference;             /* "stats.npz", "the data's own pictures" */
} KdcEval;

/* eval_measure.c */
int kdc_eval_metrics(const KdcArgs *a, bool *asked);  /* reads --metrics. 0, or 2 after a message */
/* Opens what is compared and chooses what is computed; with FID its network. false after a message in p. */
bool kdc_eval_begin(KdcEval *e);
/* Goes through the pictures; then again, with the weights as they are by then. false after a message in p, and *stopped
 * (or NULL) when it was told to leave off. */
bool kdc_eval_measure(KdcEval *e, bool *stopped);
void kdc_eval_end(KdcEval *e);
double kdc_eval_value(const KdcEval *e, KdcMetric m); /* of the set: a mean over pictures, or FID, or mIoU */

/* eval_source.c. Each: false after a message in p. */
bool kdc_eval_open(KdcEval *e);                                  /* fills source, labels to set */
bool kdc_eval_next(KdcEval *e, KdcEvalPair *pair, bool *done);   /* the images are the caller's; name lives as long as e */
bool kdc_eval_rewind(KdcEval *e);                                /* to the first picture */
void kdc_eval_close(KdcEval *e);
/* From now on the network of q is measured: the same file with other params, which shares pictures, weights' files and the
 * metric's own network. Opened and, with --calibrate, calibrated. false after a message in q. */
bool kdc_eval_take_net(KdcEval *e, KdcProgram *q);
void kdc_eval_drop_net(KdcEval *e); /* before q is closed */
bool kdc_eval_save_net(KdcEval *e, const char *path); /* its weights, as measured. false after a message in q */
KdcStats kdc_eval_net_stats(const KdcEval *e); /* of what ran last */
int kdc_eval_classes(const KdcEval *e);                          /* of label maps; 0: not known */
const char *kdc_eval_phase(const KdcEval *e);                    /* of a data set: "test"; "": it has no phases */
int64_t kdc_eval_pictures(const KdcEval *e);                     /* how many pairs there are */
/* Images of a folder, sorted by name: paths in p's memory. false after a message; none is a mistake. */
bool kdc_eval_list(KdcProgram *p, const char *folder, const char ***path, int *n);
void kdc_eval_hash(uint64_t *hash, const void *data, size_t n);
#define KDC_EVAL_HASH_START 0xcbf29ce484222325u

/* eval_fid.c: FID and Frechet, whichever of them are computed */
bool kdc_eval_fid_open(KdcEval *e);
bool kdc_eval_fid_add(KdcEval *e, const KdcEvalPair *pair);
void kdc_eval_fid_rewind(KdcEval *e); /* before another round: forgets pictures, keeps a reference that stays the same */
bool kdc_eval_fid_finish(KdcEval *e); /* fills fid, frechet, feature_count, generated, references, reference */
void kdc_eval_fid_close(KdcEval *e);

/* eval_features.c */
enum { KDC_INCEPTION_FEATURES = 2048 };
KdcEvalFeatures *kdc_eval_features(KdcEval *e, KdcMetric m); /* of FID or Frechet. NULL after a message */
/* Of an RGB8 picture: *dims numbers, until the next call. NULL after a message. */
const float *kdc_eval_features_of(KdcEval *e, KdcEvalFeatures *f, const KdImage *x, int *dims);
void kdc_eval_features_close(KdcEvalFeatures *f); /* NULL is fine */

/* eval_print.c */
const char *kdc_metric_name(KdcMetric m); /* "L1" */
const char *kdc_metric_key(KdcMetric m);  /* "l1" */
bool kdc_eval_print(KdcEval *e);

#endif
