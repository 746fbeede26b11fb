/* hoist.h: what a network computes from its weights alone, taken out of it, so that an exported one has it as a
 * constant. */
#ifndef KD_HOIST_H
#define KD_HOIST_H

#include "ir/ir.h"

/* Splits f, which was elaborated for inference. `before` takes weights and gives the values that f makes of them by
 * sums or products (a spectral norm's w / sigma); `after` is f with those as inputs, whose names are those of
 * `before`'s outputs, and without the weights that only they needed. false: f has no such values; nothing is made. */
bool kd_hoist(const KdFunc *f, KdFunc **before, KdFunc **after);

#endif
