/* artefact.h: what an exported network is, to the C code that runs it (artefact.c) and to `kdc export`, which writes it.
 *
 * An artefact is one object: the plan and kernels of a network, artefact.c, and the constants below. kdc writes these
 * as bytes, so every field has eight bytes and there are no pointers; both sides are little-endian.
 */
#ifndef KDX_ARTEFACT_H
#define KDX_ARTEFACT_H

#include <stddef.h>
#include <stdint.h>

/* What the functions of an artefact return; the header that goes with it has them as NET_OK, ... */
enum {
    KDX_OK = 0,
    KDX_MEMORY = 1,    /* no memory for the arena */
    KDX_CPU = 2,       /* this processor lacks instructions that the code was made for */
    KDX_WEIGHTS = 3,   /* these are not the weights of this network, or they are damaged */
    KDX_STATE = 4,     /* not initialised */
    KDX_DIFFERENT = 5, /* self-test: values other than when the network was exported */
};

typedef enum KdxKind { KDX_INPUT, KDX_WEIGHT, KDX_OUTPUT } KdxKind;
typedef enum KdxType { KDX_F32, KDX_I32, KDX_U8 } KdxType;

/* One pointer of the plan, in the plan's order. */
typedef struct KdxExtern {
    int64_t kind, type; /* KdxKind, KdxType */
    int64_t count;
    int64_t at; /* bytes; weight: into the weights; input, output: into the arena's room for the self-test and rgb8 */
} KdxExtern;

/* A value of the golden output: element `index` of the plan's extern `from`. */
typedef struct KdxReference {
    int64_t from, index;
    double value;
} KdxReference;

typedef enum KdxLevel { KDX_LEVEL_ANY, KDX_LEVEL_AVX, KDX_LEVEL_AVX2, KDX_LEVEL_AVX512 } KdxLevel;

typedef struct KdxNet {
    int64_t n_externs;
    /* the arena: activations, the table of externs, scratch of each thread, inputs and outputs */
    int64_t externs_at, scratch_at, io_at, arena_bytes;
    int64_t scratch_bytes, threads;
    int64_t level; /* KdxLevel */
    int64_t weight_bytes;
    uint64_t weight_hash; /* kdx_hash of them */
    /* rgb8: 0 for networks that are not picture to picture */
    int64_t rgb8, height, width, out_height, out_width, truncate;
    double lo, hi; /* what 0 and 255 are to the network */
    /* the self-test */
    int64_t exact;        /* golden_hash counts: it was computed on a processor of this kind */
    uint64_t golden_hash; /* kdx_hash of each output, one after the other */
    int64_t n_references;
    double tolerance;
} KdxNet;

/* In front of the weights when they are a file. */
#define KDX_WEIGHTS_MAGIC "KDCWGT1\n"
typedef struct KdxWeightsHead {
    char magic[8];
    uint64_t bytes, hash; /* of what follows */
    char zero[40];        /* what follows is on a multiple of 64 */
} KdxWeightsHead;

/* FNV-1a over words of four bytes (the rest, if any, as one word filled up with zeros), finished as in MurmurHash3. */
static inline uint64_t kdx_hash(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    h = h ? h : 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t word = 0;
        for (size_t k = 0; k < 4 && i + k < n; k++) {
            word |= (uint32_t)p[i + k] << (8 * k);
        }
        h = (h ^ word) * 0x100000001b3u;
    }
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    return h ^ h >> 33;
}

/* The golden input: element i of an input whose extern has number `number`. Real numbers are spread over lo..hi by a hash of
 * the two; whole numbers (labels, seeds) are 0, which is valid whatever they mean. */
static inline void kdx_golden(const KdxExtern *e, int64_t number, double lo, double hi, void *data) {
    for (int64_t i = 0; i < e->count; i++) {
        uint32_t h = (uint32_t)i * 0x9e3779b1u + (uint32_t)number * 0x85ebca6bu + 1;
        h ^= h >> 16;
        h *= 0x7feb352du;
        h ^= h >> 15;
        h *= 0x846ca68bu;
        h ^= h >> 16;
        if (e->type == KDX_F32) {
            ((float *)data)[i] = (float)(lo + (hi - lo) * ((double)(h >> 8) / 16777216));
        } else if (e->type == KDX_I32) {
            ((int32_t *)data)[i] = 0;
        } else {
            ((unsigned char *)data)[i] = 0;
        }
    }
}

#endif
