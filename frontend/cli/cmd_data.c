/* cmd_data.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_data(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc data is not there yet");
}
