/* pth.h: PyTorch checkpoints (.pth, .pt; zip and legacy form) as data: no name is ever resolved to code.
 *
 * The pickle is read by an explicit stack machine that knows the opcodes and globals of state dicts
 * (docs/weights.md lists them); anything else is refused by name, with its position. Every count, offset and stride
 * is checked against the storage before a byte is used; depth, sizes and counts are bounded; zip entries' CRCs are
 * checked.
 */
#ifndef KD_HOST_PTH_H
#define KD_HOST_PTH_H

#include "runtime/host/weights.h"

/* All tensors found, contiguous, in the order of the file's dicts, named by their path: {'G': {'conv.weight': T}} gives
 * "G.conv.weight"; a single wrapping dict (state_dict, params, params_ema, model, net, generator) is looked through.
 * The result is as of kd_weights_read: free with kd_weights_free. NULL after *t. */
KdWeights *kd_pth_read(const char *path, KdTrouble *t);

/* By content: safetensors (of kdc's checkpoints the sum is checked), PyTorch zip, PyTorch legacy. */
KdWeights *kd_checkpoint_file_read(const char *path, KdTrouble *t);

/* A state dict that torch.load reads: a zip of stored entries. */
bool kd_pth_write(const char *path, const KdTensorOut *x, int n, KdTrouble *t);

#endif
