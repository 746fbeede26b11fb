/* fuse.h: what the fusion files (fuse.c, fuse_store.c, fuse_print.c) and the lowering share: domains, and how
 * one node's element meets another's. Private to passes/. */
#ifndef KD_PASSES_FUSE_H
#define KD_PASSES_FUSE_H

#include "passes/passes.h"

/* The iteration space of a group, without dims of 1. `reduced` marks the dims that a row group folds. */
typedef struct KdDomain {
    int n;
    int64_t dim[KD_MAX_RANK];
    bool reduced[KD_MAX_RANK];
    bool rows; /* some dim is reduced */
} KdDomain;

KdDomain kd_domain(const KdType *t);
KdDomain kd_domain_reduced(const KdType *in, const KdType *out); /* out: in with folded dims as 1 */
bool kd_domain_equal(const KdDomain *a, const KdDomain *b);      /* dims and folded dims */
bool kd_domain_same(const KdDomain *a, const KdDomain *b);       /* dims */
bool kd_domain_is(const KdDomain *d, const KdType *t);           /* t has these dims, 1s aside */
bool kd_domain_is_row(const KdDomain *d, const KdType *t);       /* t has the kept dims, 1s aside */
/* t has the domain's dims, and u has the kept ones of them in the same positions, else 1 */
bool kd_domain_is_exact_row(const KdDomain *d, const KdType *t, const KdType *u);
int64_t kd_domain_rows(const KdDomain *d);
int64_t kd_domain_inner(const KdDomain *d);
/* Few rows, each so long that one thread should not fold it: chunks first, then their results. Shapes alone decide. */
bool kd_domain_two_stage(const KdDomain *d);
KdDomain kd_group_domain(const KdFusion *fu, const KdGroup *g);

/* Reshape and broadcast: elements stay where they are, or repeat. */
bool kd_is_reshape(const KdFunc *f, KdValue v);
bool kd_is_view(const KdFunc *f, KdValue v);
bool kd_is_leaf(const KdFunc *f, KdValue v);   /* const, iota: composed from nothing */
bool kd_is_memory(const KdFunc *f, KdValue v); /* input, literal: always in memory */
static inline KdClass kd_class(const KdFunc *f, KdValue v) { return kd_op_info[kd_node(f, v)->op].cls; }

/* How operand o of a node that is at place i of the domain (full), or at row r, meets the value below o's
 * reshapes and broadcasts (*base): at the same place, at the place's row, or anywhere. */
typedef enum KdMeet { KD_MEET_SAME, KD_MEET_ROW, KD_MEET_OTHER } KdMeet;
KdMeet kd_meet(const KdFunc *f, const KdDomain *d, bool full, KdValue o, KdValue *base);

/* What elements of d are in memory. */
static inline KlScalar kd_scalar_of(KdDType d) {
    switch (d) {
    case KD_F32:
        return KL_F32;
    case KD_I32:
        return KL_I32;
    case KD_U8:
    case KD_DTYPE_COUNT:
        break;
    }
    return KL_U8;
}

/* A group while groups are being formed. */
typedef struct KdUnit {
    KdGroupKind kind;
    KdDomain d;
    KD_VEC(KdValue) members; /* ascending; with the views of members */
    int reads;               /* distinct values it takes from outside, views looked through */
} KdUnit;

typedef struct KdFuser {
    KdContext *cx;
    const KdFunc *f;
    bool *live;              /* an output needs it */
    int *unit;               /* by node; -1: composed wherever it is needed, or memory */
    KD_VEC(KdUnit *) units;  /* NULL: merged into another */
    KdValue *use, *use_from; /* users of v: use[use_from[v]] .. use[use_from[v + 1]] */
    uint32_t *mark, stamp;   /* by node, for searches */
    uint32_t *unit_mark;     /* by unit */
    KD_VEC(KdValue) todo;    /* of a search */
    bool fuse;
    uint8_t *stream;         /* by node, as in KdFusion */
    uint64_t *stream_roots;  /* by node: which streamed products it is a function of, by number modulo 64 */
} KdFuser;

/* fuse_stream.c. What is streamed belongs to no unit: it is composed into reductions and other products. */
bool kd_may_stream(const KdFunc *f, KdValue v); /* a product that is big against its operands */
void kd_find_streams(KdFuser *z);
/* The operand of a product that is streamed, or -1, and whether the product's rows (or columns) are that one's
 * columns. */
int kd_streamed_operand(const KdFunc *f, const uint8_t *stream, KdValue v, bool *turned);

int kd_unit_new(KdFuser *z, KdGroupKind kind, KdDomain d, KdValue v);
/* Second half: decides which values are in memory and makes the groups, in order. */
KdFusion *kd_fuse_finish(KdFuser *z);

/* What a group evaluates and loads. At which places of its domain it needs a value: bits. */
enum { KD_AT_FULL = 1, KD_AT_ROW = 2, KD_AT_OTHER = 4 };
typedef struct KdTouch {
    KdValue v;   /* of a load: the value whose memory it is */
    bool load;
    unsigned at;
} KdTouch;
typedef struct KdWalk {
    KD_VEC(KdTouch) touch; /* in ascending order of v */
    uint32_t *slot;        /* by node: 1 + index into touch, valid if stamp[v] == now */
    uint32_t *stamp, now;
} KdWalk;
/* The result is valid until the next call on this fusion. */
const KdWalk *kd_group_walk(const KdFusion *fu, int g);
bool kd_group_has(const KdFusion *fu, int g, KdValue v); /* g computes v itself, and may not load it */

#endif
