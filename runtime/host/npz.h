/* npz.h: NumPy .npz archives: a zip (stored or deflated) of .npy arrays. Read strictly, written whole. */
#ifndef KD_HOST_NPZ_H
#define KD_HOST_NPZ_H

#include "runtime/host/file.h"

#include <stdint.h>

typedef struct KdArray { /* float64, C order */
    const char *name;    /* without ".npy" */
    int rank;
    int64_t dim[8], count;
    double *data;
} KdArray;

typedef struct KdArrays {
    int n;
    KdArray *array;
} KdArrays;

/* Float and integer dtypes, little-endian, C or Fortran order, become float64. false after *t. */
bool kd_npz_read(const char *path, KdArrays *out, KdTrouble *t);
void kd_npz_free(KdArrays *a);
const KdArray *kd_npz_find(const KdArrays *a, const char *name); /* NULL: none */
bool kd_npz_write(const char *path, const KdArray *x, int n, KdTrouble *t);

#endif
