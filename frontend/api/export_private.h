/* export_private.h: what export.c and export_text.c share. */
#ifndef KDC_EXPORT_PRIVATE_H
#define KDC_EXPORT_PRIVATE_H

#include "frontend/api/export.h"
#include "runtime/export/artefact.h"
#include "runtime/export/files.h"

struct KdcExport {
    KdcProgram *p;
    const char *name, *id; /* the network's; as a C identifier */
    KdcUnit unit, golden;  /* for the target; what computes the golden output */
    KdcRunnable *r;        /* of golden */
    KdFunc *whole;         /* as elaborated, with all its weights */
    KdcRunnable *folding;  /* makes weights of golden from weights of whole; NULL: they are the same */
    bool exact;            /* golden is for the target, too */
    int n_externs, n_data_in, n_out;
    KdxExtern *extern_of;
    KdcTensor **tensor; /* by extern */
    int64_t weight_bytes, io_bytes, parameters;
    char *weights;
    KdxReference *reference;
    KdxNet net;
};

const KdxFile *kdc_export_text(KdcExport *e, const char *name); /* raises */

/* export_text.c. */
const char *kdc_export_identifier(KdContext *cx, const char *name); /* letters, digits and _ */
void kdc_export_header(KdcExport *e, const KdcExportOptions *o, KdStr *out);
const char *kdc_export_sample(KdcExport *e, const KdcExportOptions *o, KdStr *out); /* gives the cc line */

#endif
