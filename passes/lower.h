/* lower.h: what the lowering's files share. Private to passes/lower*.c; the schedules see KdLower alone.
 *
 *   lower.c          the group loop, kernels and their buffers, calls, literals, copies
 *   lower_compose.c  one element of any value: composed from element rules, or loaded; index arithmetic
 *   lower_map.c      map groups, opaque groups, and anchors that no schedule takes
 *   lower_turn.c     map groups that read along one dim and write along another
 *   lower_row.c      row groups, in one kernel or in two stages
 *   schedule/stream.c   blocks of products that are never in memory, for row groups and for products of such
 */
#ifndef KD_PASSES_LOWER_H
#define KD_PASSES_LOWER_H

#include "passes/fuse.h"

/* Indices of adjacent dims that are quotients and remainders of one value: value == linear index of idx in dim. */
typedef struct KdRun {
    int n;
    int64_t dim[KD_MAX_RANK];
    KlValue idx[KD_MAX_RANK], value;
} KdRun;

/* An element that was computed before. */
typedef struct KdMemo {
    KdValue v;
    int n, next;
    KlValue idx[KD_MAX_RANK], guard, value;
    const KlBlock *at; /* where it was computed: usable while this block is open */
} KdMemo;

typedef struct KdBound { /* a kernel's buffer */
    KdValue v;  /* the stored value, or KD_NONE */
    int temp;   /* the temporary, or -1 */
    KlArg arg;  /* where it is: for copies too */
    int buf;
} KdBound;

#define KD_MAX_TILES 8

struct KdBinding {
    int group;
    const KdWalk *walk;                /* of the group */
    KD_VEC(int64_t) temps;             /* arena offsets of the group's temporaries; -1: not yet */
    int64_t temp_end;
    int64_t kept;                      /* bytes of temporaries that live from run to run: behind the arena (kd_lower_keep) */
    bool once;                         /* the kernel being built fills one of them */
    KD_VEC(KdBound) bound;             /* of the kernel */
    KD_VEC(KdMemo) memo;
    int heads[256];                    /* of memo, by hash; 0: none */
    KD_VEC(KdRun) runs;
    KlValue guard;                     /* of everything being composed; KL_NONE: none */
    KlValue local[96];                 /* by number in g->local: its value in this row, or KL_NONE */
    struct KdTile {                    /* streamed products of which the kernel holds a block of rows in scratch */
        KdValue v;
        int buf, side;                 /* side 0: the block has some of v's rows, 1: some of its columns, as its rows */
        KlValue first;                 /* the block's first row */
        int64_t pitch;                 /* elements from one row of the block to the next */
    } tile[KD_MAX_TILES];
    int n_tiles;
};

/* lower_compose.c */
void kd_compose_init(KdLower *l);
void kd_compose_begin(KdLower *l); /* a new kernel: forget everything */
KlValue kd_compose(KdLower *l, KdValue v, const KlValue *idx);
/* From here on, while this block is open, v's element at idx is x. */
void kd_compose_known(KdLower *l, KdValue v, const KlValue *idx, KlValue x);
KlValue kd_compose_linear(KdLower *l, const KdType *t, const KlValue *idx);
/* Tells that idx[0..n) of dims dim[0..n) are the parts of `value`; kd_run_split makes them so. */
void kd_run_add(KdLower *l, int n, const int64_t *dim, const KlValue *idx, KlValue value);
void kd_run_split(KdLower *l, int n, const int64_t *dim, KlValue value, KlValue *idx);
/* The indices in t of the place of the domain whose dims (1s left out) are at[0..n). */
void kd_place_in(KdLower *l, const KdType *t, const KlValue *at, KlValue *idx);
/* Loads or stores of one element, KL_U8 in memory being KL_I32 outside. */
void kd_store_element(KdLower *l, KdValue v, KlValue linear, KlValue x);

/* Writes values: all are computed before any is stored. at: the domain's indices, or the row's. */
void kd_compose_stores(KdLower *l, const KdValue *v, int n, const KlValue *at);

/* lower_map.c: the dims of a domain, gathered into as few loops as its accesses allow. */
typedef struct KdSegments {
    int n;                       /* segments, outermost first */
    int first[KD_MAX_RANK + 1];  /* segment s holds dims first[s] .. first[s + 1] */
    int64_t extent[KD_MAX_RANK];
} KdSegments;
KdSegments kd_segments(const KdLower *l, const KdDomain *d);
/* The indices of segment s's dims from its loop's variable. */
void kd_segment_indices(KdLower *l, const KdDomain *d, const KdSegments *sg, int s, KlValue i, KlValue *at);
/* Computes what broadcasts repeat along the inner dims, so that it is done (and loaded) outside the loops over them.
 * level: by touch of the walk, or NULL; those above max_level stand on reductions that are not done yet. */
void kd_compose_invariants(KdLower *l, const KdDomain *d, const bool *is_inner, const KlValue *at, const int *level,
                           int max_level);
/* A loop for the vectoriser over 0 .. hi (a value). */
KlFor kd_vector_loop(KdLower *l, KlValue lo, KlValue hi, int n, const KlValue *init);
void kd_loop_end(KdLower *l, KlFor *f); /* of a loop that carries nothing */
void kd_lower_map(KdLower *l);

/* lower_turn.c: false, having built nothing, where the group has nothing to turn. */
bool kd_lower_turn(KdLower *l, const KdDomain *d);

/* lower_row.c */
void kd_lower_row(KdLower *l);

/* lower.c: "conv2d+add+relu 256x64x64" */
const char *kd_lower_what(KdLower *l, const KdDomain *d);

#endif
