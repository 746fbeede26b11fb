/* pickle.h: Python's pickle as data, as far as state dicts of tensors need it. Nothing is looked up, called or built.
 *
 * In: the bytes of one pickle. Out: a tree of tagged values. An explicit stack machine with marks and a memo runs the
 * opcodes that PyTorch writes for state dicts (protocols 2 to 5); the few globals it knows become tags, REDUCE on
 * them becomes a dict, a tuple or a tensor's description. Any other opcode or global is refused by name, with its
 * position. Values, memo and storages are counted and bounded (KD_PICKLE_MAX_*); all numbers of a tensor are checked
 * here, against its storage's count as the pickle states it. That the file really has so many elements is the
 * caller's to check.
 */
#ifndef KD_HOST_PICKLE_H
#define KD_HOST_PICKLE_H

#include "runtime/host/weights.h"

#define KD_PICKLE_MAX_BYTES 67108864  /* of one pickle */
#define KD_PICKLE_MAX_VALUES 8000000  /* values made, pushed and stored together; slots of the memo */
#define KD_PICKLE_MAX_RANK 32

typedef enum KdPickleKind {
    KD_PICKLE_NONE, KD_PICKLE_BOOL, KD_PICKLE_INT, KD_PICKLE_LONG, /* LONG: beyond 64 bits */
    KD_PICKLE_FLOAT, KD_PICKLE_TEXT, KD_PICKLE_TUPLE, KD_PICKLE_LIST, KD_PICKLE_DICT, KD_PICKLE_GLOBAL, KD_PICKLE_STORAGE,
    KD_PICKLE_TENSOR,
} KdPickleKind;

/* Elements that a file keeps under `key`. */
typedef struct KdPickleStorage {
    uint64_t key;
    KdStored dtype;
    int64_t count;
} KdPickleStorage;

/* Elements offset + sum of index[d] * stride[d] of storage number `storage`. */
typedef struct KdPickleTensor {
    int storage, rank;
    int64_t offset, count;
    int64_t *dim, *stride;
} KdPickleTensor;

typedef struct KdPickleValue {
    KdPickleKind kind;
    int n, capacity; /* items, or bytes of text (a NUL follows); a dict's items are key, value, key, value, ... */
    union {
        int64_t i; /* BOOL, INT; STORAGE: its number; GLOBAL: which */
        const char *text;
        struct KdPickleValue **item;
        KdPickleTensor *tensor;
    };
    int64_t from, size; /* STORAGE: the part of it that is meant */
} KdPickleValue;

typedef struct KdPickle {
    const char *from; /* the file, in messages */
    KdPickleStorage *storage;
    int n_storages;
    void *memory; /* private: all values */
} KdPickle;

/* Reads one pickle of at most n bytes; *used: its length. p->from is set before the first; storages add up over several
 * pickles. NULL after *t. */
const KdPickleValue *kd_pickle_read(KdPickle *p, const unsigned char *data, size_t n, size_t *used, KdTrouble *t);
int kd_pickle_storage(const KdPickle *p, uint64_t key); /* its number, or -1 */
void kd_pickle_free(KdPickle *p);

/* "123" -> 123: digits without sign and leading zeros. */
bool kd_pickle_key(const char *text, int n, uint64_t *key);
const char *kd_pickle_storage_name(KdStored s); /* "FloatStorage"; NULL: PyTorch has none */

#endif
