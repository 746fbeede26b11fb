/* cmd_run.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_run(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc run is not there yet");
}
