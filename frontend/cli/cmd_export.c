/* cmd_export.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_export(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc export is not there yet");
}
