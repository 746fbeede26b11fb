/* calibrate.h: running statistics of batch norms, estimated anew (methods B.3).
 *
 * A network that is a slice of a larger one, or whose weights were changed in any other way, has running statistics of
 * activations that it no longer sees. Here it runs in training mode over batches of pictures, and each norm's running mean and
 * (unbiased) variance become the plain averages of the batches' own, as PyTorch's momentum = None gives them; nothing else of
 * the network changes.
 */
#ifndef KDC_CALIBRATE_H
#define KDC_CALIBRATE_H

#include "frontend/cli/eval_net.h"

typedef struct KdcCalibration {
    int64_t batches, batch; /* asked for; pictures in each */
    int norms;              /* that were estimated; 0: there are none, and nothing was run */
    const char *pictures;   /* "facades (aligned, train)" */
} KdcCalibration;

/* Pictures of d, spread evenly over it, all of one size: n->input of each sample, as a run of the network takes it. Writes
 * the statistics of n, which has run once; c->batches and c->batch are given, norms is filled. false after a message in n's
 * program. */
bool kdc_calibrate(KdcEvalNet *n, const KdDataset *d, KdcCalibration *c);

/* n's weights and buffers by their own names, as safetensors: what --weights takes. false after a message. */
bool kdc_calibrate_save(const KdcEvalNet *n, const char *path);

#endif
