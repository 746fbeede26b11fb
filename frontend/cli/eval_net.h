/* eval_net.h: a network applied to the samples of a data set, one by one.
 *
 * Each size of picture that comes up is compiled (or taken from the cache) as a program of its own, and the one before is
 * closed: memory is one size's, however many there are.
 */
#ifndef KDC_EVAL_NET_H
#define KDC_EVAL_NET_H

#include "frontend/cli/train.h"

typedef struct KdcEvalNet {
    KdcProgram *p; /* of the command: its source and options */
    const KdcArgs *a;
    const KdcFiles *files;
    const char *name;
    KdLayout layout;
    bool logits;  /* gives class logits; its input is the picture of a labels sample */
    int channels; /* of what it gives */
    KdcProgram *own; /* compiled for height x width; NULL: not yet */
    KdcRunnable *r;
    int height, width, input; /* input: number of the image in a sample */
    bool said;                /* which weights: once is enough */
    KdcFeed feed;
} KdcEvalNet;

/* The layout a network of this kind is evaluated on (AUTO: cannot be said without a picture), and the classes of its label maps
 * (0: none): what a data set is opened with. Elaborates at height x width; says nothing. */
KdLayout kdc_eval_net_kind(KdcProgram *p, const KdcArgs *a, const char *name, int height, int width, int *classes);

/* Compiles for sample x and looks at what the network takes and gives. false after a message. */
bool kdc_eval_net_open(KdcEvalNet *n, KdcProgram *p, const KdcArgs *a, const KdcFiles *files, const char *name,
                       KdLayout layout, const KdSample *x);
void kdc_eval_net_close(KdcEvalNet *n);
/* The image of a sample that the network's output is compared with; -1: there is none. */
int kdc_eval_net_target(const KdcEvalNet *n, const KdSample *x);
/* The network's picture (RGB8) or, of logits, its label map. */
bool kdc_eval_net_run(KdcEvalNet *n, const KdSample *x, KdImage *out);

#endif
