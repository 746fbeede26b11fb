/* feature.h: what the verbs that draw features share: a network's feature of a picture, what comes from and goes where.
 *
 * heat.c          colours and panels
 * feature.c       a tap of a network, through an adaptor where widths differ
 * feature_verb.c  opening a program or a run folder, the pictures one after the other, the numbers of --raw
 */
#ifndef KDC_FEATURE_H
#define KDC_FEATURE_H

#include "frontend/cli/heat.h"
#include "frontend/cli/picture.h"
#include "frontend/cli/train.h"
#include "runtime/host/npz.h"

/* Of one picture. Positions that are only of its mirrored edge (picture.h) are left out. */
typedef struct KdcFeature {
    int channels;
    KdcMap map; /* its values: the attention, the mean over the tap's own channels of |value| (methods C.13) */
    double *attention;
    float *v; /* [channels][height][width], behind the adaptor */
} KdcFeature;
void kdc_feature_free(KdcFeature *f);

typedef struct KdcFeatureNet {
    KdcProgram *p;
    const KdcArgs *a;
    const char *name, *tap, *adaptor; /* adaptor: or NULL */
    const char *make;                 /* how the adaptor is made, if it is inside another network; or NULL */
    KdcFiles files, adaptor_files;
    KdcPictureNet *net;
    /* the adaptor, compiled for one shape; rows: it takes [1, positions, channels] */
    KdcProgram *q;
    KdcRunnable *r;
    KdcTensor *in, *out;
    int64_t dim[3];
    bool rows;
    int lines; /* of the program's own text, before what applies the adaptor */
} KdcFeatureNet;

/* Looks at the network with pictures of height x width. first: files without NET= are its own (eval_net.h). false after
 * a message; free in any case. */
bool kdc_feature_open(KdcFeatureNet *n, KdcProgram *p, const KdcArgs *a, const KdcFiles *all, const char *name,
                      const char *tap, const char *adaptor, bool first, int height, int width);
void kdc_feature_close(KdcFeatureNet *n);
/* out: what the network gives, for looking at: RGB8; no samples where that is no picture. As kdc_picture_run, and f is
 * the caller's. */
bool kdc_feature_run(KdcFeatureNet *n, const KdImage *in, KdImage *out, KdcFeature *f, KdTrouble *t);

/* ---- feature_verb.c ----------------------------------------------------------------------------------- */

/* A run folder in the place of a program: its file, its -D (given ones go first) and its weights, after those given. */
typedef struct KdcRunProgram {
    KdcArgs stored;
    KdcRunArgs run;
    const char **weights;
} KdcRunProgram;
/* *a: as given, unless given->file is such a folder. 0, or the exit code after a message. To be freed in any case, after *a
 * is no longer used. */
int kdc_cli_open_run(KdcRunProgram *r, const KdcArgs *given, KdcArgs *a);
void kdc_cli_free_run(KdcRunProgram *r, const KdcArgs *given);

typedef struct KdcFeatureVerb KdcFeatureVerb;
struct KdcFeatureVerb {
    KdcArgs a; /* a run folder resolved into its program */
    KdcProgram *p;
    KdcFiles files;
    int n_nets;
    KdcFeatureNet net[2];
    const char *in; /* the picture at work */
    /* Opens nets, for pictures of this size. false after a message. */
    bool (*open)(KdcFeatureVerb *v, int height, int width);
    /* From a picture (as net[0] wants it; rgb: for looking at) to what is written. false: as kdc_picture_run. */
    bool (*draw)(KdcFeatureVerb *v, const KdImage *x, const KdImage *rgb, KdImage *out, KdTrouble *t);
};
int kdc_feature_verb(KdcFeatureVerb *v, const KdcArgs *a); /* the exit code */
/* --raw, if it is given: float64 arrays. */
bool kdc_feature_raw(const KdcFeatureVerb *v, const KdArray *x, int n, KdTrouble *t);

#endif
