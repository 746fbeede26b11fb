/* explain.h: --explain: which schedule each convolution and product got, and why. */
#ifndef KDC_EXPLAIN_H
#define KDC_EXPLAIN_H

#include "frontend/cli/common.h"

#include <jansson.h>

/* Of u, which went through kdc_unit_passes for target t: two lines for each anchor; equal ones once. */
void kdc_cli_explain_text(KdStr *s, const KdcProgram *p, const KdcUnit *u, const KdTarget *t);
json_t *kdc_cli_explain_json(const KdcProgram *p, const KdcUnit *u, const KdTarget *t);

#endif
