/* dataset_private.h: what dataset.c, sample.c and dataset_check.c share; not for others. */
#ifndef KD_HOST_DATASET_PRIVATE_H
#define KD_HOST_DATASET_PRIVATE_H

#include "runtime/host/dataset.h"

typedef struct KdNames { /* paths of images, sorted by name */
    int64_t n;
    char **path;
} KdNames;

struct KdDataset {
    KdDataOptions o; /* strings copied */
    KdLayout layout;
    KdNames list[3]; /* aligned, plain: 1; unpaired, folders, labels: one per image, paired ones by index */
    int lists, images;
    int64_t count;
    bool half; /* labels: images are the left halves of aligned pairs */
    KdNames unmatched; /* without a partner */
    int64_t decode_bytes;
};

/* splitmix64 (Steele, Lea and Flood 2014) of a key and a counter: the only random numbers here. */
uint64_t kd_mix(uint64_t key, uint64_t counter);

#endif
