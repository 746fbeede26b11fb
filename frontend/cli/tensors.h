/* tensors.h: tensors between safetensors files and compiled functions. */
#ifndef KDC_TENSORS_H
#define KDC_TENSORS_H

#include "frontend/cli/common.h"

/* One --weights [NET=]FILE: of all weights, or of those under NET. */
typedef struct KdcWeightsFile {
    const char *net, *file; /* net: "T.", or "" */
    const char *run;        /* the run folder that it is of: networks by name, not all of which need be asked for; or NULL */
    const char *trained;    /* the same, also where one network was chosen from it: for hints */
    KdWeights *w;
} KdcWeightsFile;

typedef struct KdcFiles { /* what the command line names */
    KdWeights *in; /* or NULL */
    KD_VEC(KdcWeightsFile) weights;
    KdcTensor *const
        *live; /* instead of files: a session's tensors, "NET.PATH", which a network uses where they are; or NULL */
    int n_live;
} KdcFiles;

/* Reads --in and --weights. false after a message in p. */
bool kdc_files_read(KdcProgram *p, const KdcArgs *a, KdcFiles *f);
void kdc_files_free(KdcFiles *f);

bool kdc_weights_hold(const KdWeights *w, const char *net); /* any tensor under "NET."? */

/* Types of what --in gives, for elaboration: everything whose name could be a parameter's. */
KdcShape *kdc_files_shapes(KdcProgram *p, const KdcFiles *f, int *n);

/* Fills every tensor but data inputs: from --in by name, then from each --weights by name and (where whole_net or NET= says
 * which network the file is for) by order and shape, the rest by its init. With -v the map is printed to stderr. */
bool kdc_fill_weights(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, bool whole_net, KdcTensor *const *t, int n);

/* What will be written to --out, or printed. */
typedef struct KdcResults {
    KdcProgram *p;
    KD_VEC(KdTensorOut) v;
} KdcResults;
void kdc_results_add(KdcResults *r, const char *name, KdcDType d, int rank, const int64_t *dim, const void *data);
bool kdc_results_write(KdcResults *r, const KdcArgs *a);

#endif
