/* depthwise.h: where the windows of several output rows lie in the picture that sch_conv_fill
 * makes: a vector of the picture is in the windows of neighbouring rows, and is loaded once.
 */
#ifndef KD_SCHEDULE_DEPTHWISE_H
#define KD_SCHEDULE_DEPTHWISE_H

#include "passes/schedule/conv.h"

enum { SCH_MOST_ROWS = 4, SCH_MOST_TAPS = 25, SCH_MOST_PLACES = SCH_MOST_ROWS * SCH_MOST_TAPS };

/* Where tap (a, e) lies, from the output's own place. Transposed: of the only phase. */
int64_t sch_tap_at(const SchConv *c, int64_t a, int64_t e);
/* The places that `rows` output rows meet through kernel rows a0 .. a0 + n_a, in order; their
 * number. */
int sch_places(const SchConv *c, int rows, int64_t a0, int64_t n_a, int64_t *at);

#endif
