/* cmd_import.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_import(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc import is not there yet");
}
