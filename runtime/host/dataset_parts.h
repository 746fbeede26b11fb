/* dataset_parts.h: what dataset.c, sample.c, loader.c and dataset_check.c share; nobody else includes it. */
#ifndef KD_HOST_DATASET_PARTS_H
#define KD_HOST_DATASET_PARTS_H

#include "runtime/host/dataset.h"

typedef struct KdDataList {
    char **path; /* owned */
    int64_t n, cap;
} KdDataList;

struct KdDataset {
    KdDataOptions o; /* as given, with load sizes and classes filled in; root and phase point to the copies below */
    char *root, *phase;
    KdLayout layout;
    int lists;          /* files of an item: 1 (aligned, plain), 2, or 3 (labels with instance ids) */
    KdDataList list[3]; /* item k is path[k] of each; unpaired: each of its own length */
    bool half;          /* labels: the image is the left half of what list[1] holds */
    int64_t count, of;  /* samples of an epoch; without a share */
    KdDataList unmatched;
    int64_t decode_bytes;
};

bool kd_data_push(KdDataList *l, char *path); /* takes path over, also when there is no memory (false) */
void kd_data_list_free(KdDataList *l);

/* Adds the folder's files of other kinds to count. What cannot be read has none. */
void kd_data_count_other(const char *folder, int64_t count[KD_OTHER_KINDS]);

/* Is list k of this data set one of label or instance maps? */
bool kd_data_is_index(const KdDataset *d, int k);

/* A permutation of 0..count-1 at i: the same for the same key. sample.c */
int64_t kd_data_permuted(uint64_t key, int64_t i, int64_t count);

/* The size that a stored image of width x height is resized to, and whether what comes out can be cropped to
 * crop_h x crop_w. false after naming `path`. sample.c */
bool kd_data_resized(const KdDataOptions *o, const char *path, int width, int height, int *rw, int *rh, KdTrouble *t);

/* A label map's values against 0..classes-1 and ignore; false after naming path, value and position. sample.c */
bool kd_data_labels_ok(const KdDataOptions *o, const char *path, const KdImage *x, KdTrouble *t);

#endif
