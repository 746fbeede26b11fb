/* checkpoint.h: a training run's state on disk: safetensors with a sum over its tensors, two generations, newest first.
 *
 * FOLDER/checkpoint-STEP.safetensors holds the tensors after STEP steps; __metadata__ has "step", "checksum" (CRC-32C of the
 * tensors' bytes in order, eight hex digits) and the caller's pairs. It is written whole or not at all (file.h); the
 * older of two earlier ones is removed only after the new one is safely there.
 */
#ifndef KD_HOST_CHECKPOINT_H
#define KD_HOST_CHECKPOINT_H

#include "runtime/host/weights.h"

/* meta: n_meta pairs of strings; "step" and "checksum" are added. */
bool kd_checkpoint_write(const char *folder, int64_t step, const KdTensorOut *x, int n, const char *const *meta, int n_meta,
                         KdTrouble *t);

/* The newest whose sum is right. NULL: none (t->text is "" when there is no checkpoint at all). A damaged one that was passed
 * over is named in `note` (size bytes; "" when none). *path (malloc'ed) is its name, *step its step. */
KdWeights *kd_checkpoint_read(const char *folder, int64_t *step, char **path, char *note, size_t size, KdTrouble *t);

/* Do the tensors of w, read from `path`, have the sum that its metadata says? false after "... is damaged". A file whose
 * metadata is not a checkpoint's ("step", and a "checksum" of eight characters) has none to hold them against: true. */
bool kd_checkpoint_sum_ok(const char *path, const KdWeights *w, KdTrouble *t);

const char *kd_weights_meta(const KdWeights *w, const char *key); /* NULL: no such key */

#endif
