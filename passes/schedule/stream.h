/* stream.h: blocks of streamed products (KdFusion.streamed) in scratch. See stream.c. */
#ifndef KD_STREAM_H
#define KD_STREAM_H

#include "passes/lower.h"
#include "passes/schedule/schedule.h"

#define KD_MAX_TAILS 4

/* A matrix on its way into a register tile: operand `operand` of product `node` is [x, depth], or [depth, x] if
 * `along`. */
typedef struct KdStreamOperand {
    KdValue node;
    int operand, rank;
    bool along;
    int64_t extent, depth;
} KdStreamOperand;

/* The blocks of one group. All its streamed products have the same domain [batch, rows, columns] and are cut the same
 * way: into blocks of rows (side 0), or of columns (side 1), which are then called rows. */
typedef struct KdStream {
    KdLower *l;
    SchMachine machine;
    int side, n;
    KdValue product[KD_MAX_TILES];
    KdStreamOperand rows[KD_MAX_TILES], lanes[KD_MAX_TILES];
    int64_t batch, extent, length; /* rows, and elements of a row */
    int n_tails;                   /* products that contract what is made of the blocks, */
    KdValue tail[KD_MAX_TAILS];
    KdStreamOperand made[KD_MAX_TAILS], other[KD_MAX_TAILS]; /* which is one operand; the one that is in memory */
    /* the plan */
    SchTile tile;
    SchCut blocks;  /* rows in blocks */
    int64_t room;   /* rows of a block, in whole tiles */
    int64_t pitch;
    /* the main kernel */
    KlValue at_batch, first, n_rows;
    int block[KD_MAX_TILES], weight[KD_MAX_TAILS]; /* scratch: products; what is made of them */
} KdStream;

/* Does the group compute streamed products? */
bool kd_streams(const KdLower *l);
void kd_stream_plan(KdStream *s, KdLower *l, int side, const KdValue *tail, int n_tails);
/* Builds the kernels that pack operands, begins the main one and computes the block of the parallel index; then
 * kd_compose knows the products' elements of rows first .. first + n_rows of batch at_batch. */
void kd_stream_begin(KdStream *s, const char *what);
/* In the loop over the block's rows: makes row i of the tails' streamed operands; the last one's take the place of the
 * first product's. After that loop kd_stream_tails contracts them. */
void kd_stream_make_row(KdStream *s, KlValue i);
void kd_stream_tails(KdStream *s);
void kd_stream_end(KdStream *s);
/* An anchor group that contracts what is made of streamed products: builds it, or false. */
bool kd_stream_anchor(KdLower *l);
bool kd_stream_is_anchor(const KdLower *l); /* would it? */

#endif
