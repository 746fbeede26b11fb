/* eval_net.h: a network (picture.h) applied to the samples of a data set: which image of a sample it takes, which of the files
 * of weights are its own, and what its answer is compared with.
 */
#ifndef KDC_EVAL_NET_H
#define KDC_EVAL_NET_H

#include "frontend/cli/picture.h"
#include "runtime/host/dataset.h"

typedef struct KdcEvalNet {
    KdcProgram *p;
    const KdcArgs *a;
    const char *name;
    KdcFiles files; /* its own of the command line's */
    KdcPictureNet *net;
    KdLayout layout;
    bool logits;  /* gives class logits: a label map */
    int channels; /* of what it gives */
    int input;    /* number of the image in a sample that it takes */
} KdcEvalNet;

/* The layout a network of this kind is evaluated on (AUTO: cannot be said), and the classes of its label maps (0: none): what a
 * data set is opened with. Elaborates at height x width; says nothing. */
KdLayout kdc_eval_net_kind(KdcProgram *p, const char *name, int height, int width, int *classes);

/* The files that are network `name`'s: those given as NAME=FILE; without one, those given for all, where any but the
 * first of a command's networks takes only files that hold it by name; else those given for the network that it was narrowed from. Into *out, which is to be empty. */
void kdc_own_files(KdcProgram *p, const KdcFiles *all, const char *name, bool first, KdcFiles *out);

/* Compiles for sample x and looks at what comes out. false after a message in p. */
bool kdc_eval_net_open(KdcEvalNet *n, KdcProgram *p, const KdcArgs *a, const KdcFiles *files, const char *name,
                       KdLayout layout, const KdSample *x);
void kdc_eval_net_close(KdcEvalNet *n);
/* The image of a sample that the network's output is compared with; -1: there is none. */
int kdc_eval_net_target(const KdcEvalNet *n, const KdSample *x);
bool kdc_eval_gray(const KdImage *x, KdImage *out, KdTrouble *t); /* 8 bits, of RGB8 */
/* The network's picture (RGB8) or, of logits, its label map. */
bool kdc_eval_net_run(KdcEvalNet *n, const KdSample *x, KdImage *out);

#endif
