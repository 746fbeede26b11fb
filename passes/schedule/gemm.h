/* gemm.h: a blocked product out[z][row, column] = sum over (outer, k) of rows(z, outer; row, k) *
 * columns(z, outer; k, column), for whoever can say where rows lie in memory and how columns are
 * packed. See gemm.c.
 */
#ifndef KD_SCHEDULE_GEMM_H
#define KD_SCHEDULE_GEMM_H

#include "passes/schedule/schedule.h"

typedef struct SchGemm SchGemm;

/* What a packer fills: columns first .. first + count of the slice k0 .. k0 + depth (values; depth
 * at most slices.size * unit). Element (k, column) belongs at `at` + (column - first) / width *
 * stride + (k - k0) * width + (column - first) % width. */
typedef struct SchPanel {
    int buf, line;         /* line: scratch of the packer's own, line_count elements */
    int64_t width, stride; /* of a panel: a column tile; elements from one panel to the next */
    KlValue at, batch, outer, first, count, k0, depth;
    KlValue tiles; /* panels to fill: count / width, rounded up */
} SchPanel;

struct SchGemm {
    KdValue node;
    SchMachine machine;
    int64_t batch, outer, rows, columns, depth;
    int rows_operand; /* which operand is broadcast, and its strides in memory */
    int64_t row_stride, depth_stride, batch_stride, outer_stride;
    int64_t unit;          /* slices of the contraction are multiples of this; divides depth */
    bool may_skip_packing; /* the columns' operand is in memory, [batch][k][column] */
    bool windows;          /* columns overlap in memory: they are read from a cache */
    bool may_pack_once;    /* the client leaves temp 1 free for all panels */
    double pack_cost, finish_cost; /* cycles per element */
    void (*pack)(KdLower *l, const SchGemm *m, const SchPanel *p);
    int64_t (*line_count)(const SchGemm *m); /* elements of the packer's scratch, or NULL */
    void (*finish)(KdLower *l, const SchGemm *m, KlValue acc, KlValue batch, KlValue row,
                   KlValue column);
    const void *more; /* the client's */
    /* the plan */
    SchTile tile;
    SchCut row_tiles;    /* tiles of mr rows, cut into blocks */
    SchCut column_tiles; /* tiles of nv vectors, cut into blocks */
    SchCut slices;       /* depth / unit, cut into slices that stay in the first cache */
    bool direct;         /* packing is skipped */
    bool once;           /* all panels are packed by a kernel of their own, not by each item */
    double cycles;
};

/* m is filled but for its plan. `schedule`: whose it is, to remember it by. */
bool sch_gemm_plan(SchGemm *m, const KdLower *l, const char *schedule);
void sch_gemm_build(KdLower *l, const SchGemm *m);

/* Panels from lines that run along the columns, or along the contraction (then they are transposed
 * in scratch); element(line, x): line[0] = batch, line[1] = the other index. */
void sch_pack_along(KdLower *l, const SchSource *s, const SchGemm *m, const SchPanel *p);
void sch_pack_across(KdLower *l, const SchSource *s, const SchGemm *m, const SchPanel *p);
int64_t sch_pack_across_line(const SchGemm *m);

#endif
