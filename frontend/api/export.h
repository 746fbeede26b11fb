/* export.h: a network with its weights as a library in C that needs neither kdc nor LLVM (docs/export.md).
 *
 *     KdcExport *e = kdc_export_new(p, "S", &shapes);
 *     ... fill the weights of kdc_export_inputs(e, &n) ...
 *     kdc_export_write(e, &options, &report);
 */
#ifndef KDC_EXPORT_H
#define KDC_EXPORT_H

#include "frontend/api/api.h"

typedef struct KdcExportOptions {
    const char *folder;    /* made if it is not there */
    bool beside;           /* weights in NET.weights */
    bool openmp;
    bool truncate;         /* rgb8: cut instead of round */
    double lo, hi;         /* rgb8: what 0 and 255 are to the network */
    int threads;           /* openmp: at most so many; what each needs is part of the arena */
} KdcExportOptions;

typedef struct KdcExportFile {
    const char *path;
    size_t bytes;
    bool kept; /* it was there, and is the user's: not written */
} KdcExportFile;

typedef struct KdcExportReport {
    const char *net; /* the C identifier */
    KdcExportFile file[5];
    int n_files;
    int64_t arena_bytes, weight_bytes, parameters;
    bool rgb8, exact; /* exact: the self-test compares every bit */
    KdSymbols symbols;
    const char *cc; /* compiles the sample in the folder */
} KdcExportReport;

typedef struct KdcExport KdcExport;

/* What kdc_export_write writes over in any case (a main.c only if it is ours), for network `name`. Gives how many: at most 4. */
int kdc_export_paths(KdcProgram *p, const char *name, const KdcExportOptions *o, const char *path[4]);
/* Elaborates and compiles for p's target, and for this machine what computes the golden output. NULL after diagnostics;
 * raises. Memory is p's. */
KdcExport *kdc_export_new(KdcProgram *p, const char *name, const KdcShapes *s);
/* The network's inputs, in its order: the weights are what the artefact's are made of. */
KdcTensor **kdc_export_inputs(KdcExport *e, int *n);
/* Runs the golden input, generates, writes. Each file is written whole or not at all. false after a diagnostic; raises. */
bool kdc_export_write(KdcExport *e, const KdcExportOptions *o, KdcExportReport *r);

#endif
