/* cmd_bench.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_bench(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc bench is not there yet");
}
