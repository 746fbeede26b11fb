/* dots.h: many dot products: out[z][row, column] = sum over k of rows[z][row][k] *
 * columns[z][column][k], both dense and contiguous along k. See dots.c.
 */
#ifndef KD_SCHEDULE_DOTS_H
#define KD_SCHEDULE_DOTS_H

#include "passes/schedule/schedule.h"

typedef struct SchDots SchDots;

struct SchDots {
    KdValue node;
    SchMachine machine;
    int64_t batch, rows, columns, depth;
    /* Their buffers in the current kernel. */
    int (*row_buffer)(KdLower *l, const SchDots *d);
    int (*column_buffer)(KdLower *l, const SchDots *d);
    void (*finish)(KdLower *l, const SchDots *d, KlValue acc, KlValue batch, KlValue row,
                   KlValue column);
    const void *more; /* the client's */
    /* the plan */
    SchTile tile;     /* mr rows by nv columns of sums, each a vector */
    SchCut row_tiles; /* cut into the items of the parallel range */
    int64_t column_tiles;
    double cycles;
};

bool sch_dots_plan(SchDots *d);
void sch_dots_build(KdLower *l, const SchDots *d);

#endif
