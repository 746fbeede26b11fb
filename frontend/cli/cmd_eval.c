/* cmd_eval.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_eval(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc eval is not there yet");
}
