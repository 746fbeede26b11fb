/* cmd_train.c: not written yet. */
#include "frontend/cli/options.h"

int kdc_cmd_train(const KdcArgs *a) {
    return kdc_usage_error(a, "kdc train is not there yet");
}
