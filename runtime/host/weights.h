/* weights.h: safetensors files: strictly read, atomically written.
 *
 * A file is u64 little-endian N, N bytes of JSON, then the tensors' bytes. Before any byte is used, everything is
 * checked: N against the file, the JSON (no duplicate keys), each entry's three members, dtype, shape (products
 * checked), that a tensor's length is what dtype and shape say, and that the tensors cover the buffer without hole or
 * overlap. Rank 0 and empty tensors are fine.
 */
#ifndef KD_HOST_WEIGHTS_H
#define KD_HOST_WEIGHTS_H

#include "runtime/host/file.h"

#include <stdint.h>

typedef enum KdStored {
    KD_STORED_BOOL, KD_STORED_U8, KD_STORED_I8, KD_STORED_I16, KD_STORED_U16, KD_STORED_F16, KD_STORED_BF16,
    KD_STORED_I32, KD_STORED_U32, KD_STORED_F32, KD_STORED_F64, KD_STORED_I64, KD_STORED_U64,
} KdStored;

const char *kd_stored_name(KdStored s); /* "F32" */
int kd_stored_size(KdStored s);         /* bytes */

typedef struct KdTensor {
    const char *name;
    KdStored dtype;
    int rank;
    const int64_t *dim;
    int64_t count;
    const unsigned char *data; /* in the file's bytes: not aligned */
} KdTensor;

typedef struct KdWeights {
    int n;
    KdTensor *tensor; /* in the order of their bytes, which is the order they were written in */
    int n_meta;
    const char **meta; /* key, value, key, value, ... */
    void *memory;      /* private */
} KdWeights;

KdWeights *kd_weights_read(const char *path, KdTrouble *t);
/* The same from memory; `from` names it in messages. data is kept by reference. */
KdWeights *kd_weights_parse(const char *from, const void *data, size_t n, KdTrouble *t);
/* For readers of other formats: n tensors whose names, dims and data lie in `block`. Both are malloc'ed and belong to the
 * result. NULL: out of memory, and both are still the caller's. */
KdWeights *kd_weights_new(KdTensor *tensor, int n, void *block);
void kd_weights_free(KdWeights *w); /* NULL is fine */
const KdTensor *kd_weights_find(const KdWeights *w, const char *name); /* NULL: none */

/* Elements converted. f32: every dtype (rounded to nearest). i32: every integer dtype and BOOL, and floats that are
 * whole numbers; u8 likewise, 0..255. false, with the place in *t, when a value does not fit. */
bool kd_tensor_f32(const KdTensor *x, float *out, KdTrouble *t);
bool kd_tensor_i32(const KdTensor *x, int32_t *out, KdTrouble *t);
bool kd_tensor_u8(const KdTensor *x, uint8_t *out, KdTrouble *t);

/* What to write: F32, I32 or U8, data in host order. Names must be different and UTF-8. */
typedef struct KdTensorOut {
    const char *name;
    KdStored dtype;
    int rank;
    const int64_t *dim;
    const void *data;
} KdTensorOut;
bool kd_weights_write(const char *path, const KdTensorOut *x, int n, const char *const *meta,
                      int n_meta, KdTrouble *t);

#endif
