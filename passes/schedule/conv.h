/* conv.h: the geometry of a convolution, one dimension at a time; shared by conv.c and conv_plan.c.
 *
 * Forward: output position p reads input p * stride - pad + a * dilation. Input positions are kept
 * in scratch by class (position mod stride), so that the outputs p, p + 1, ... read neighbours: tap
 * a lies in class (a * dilation) mod stride, (a * dilation) / stride further on. Transposed: output
 * p collects input (p + pad - a * dilation) / stride where that divides. The outputs of one phase
 * (p mod stride) use the same taps and neighbouring inputs: a dense convolution of stride 1 for
 * each phase. Both become: for phase: out[grid position t] += sum over taps of scratch[t +
 * offset(tap)].
 */
#ifndef KD_SCHEDULE_CONV_H
#define KD_SCHEDULE_CONV_H

#include "passes/schedule/schedule.h"

#define SCH_MAX_PHASES 4

/* The taps of one phase: first, first + step, ...; transposed: their offsets likewise. */
typedef struct SchTaps {
    int64_t count, first, step, offset, offset_step;
} SchTaps;

typedef struct SchDim {
    bool transposed;
    int64_t in, out, kernel, stride, dilation, pad;
    int64_t phases;  /* 1, or the stride of a transposed convolution */
    int64_t grid;    /* output positions of a phase */
    int64_t step;    /* how far one grid position moves in the input */
    int64_t origin;  /* the input position of scratch position 0 of class 0 */
    int64_t classes; /* input positions are in scratch by position mod step */
    int64_t reach;   /* scratch positions read beyond the grid's own */
    SchTaps taps[SCH_MAX_PHASES];
} SchDim;

typedef struct SchConv {
    KdValue node;
    SchMachine machine;
    bool transposed;
    int64_t batch, groups, rows_out, depth; /* output and input channels of a group */
    int64_t keep;                           /* bytes of packed weights that may stay from run to run */
    SchDim y, x;
    /* the plan */
    SchTile tile;
    SchCut tiles;  /* row tiles of mr channels, cut into blocks */
    SchCut bands;  /* grid rows, cut into bands */
    SchCut slices; /* input channels, cut into slices that stay in the first cache */
    bool prefill;  /* the padded picture is made once, by a kernel of its own */
    bool packed;   /* so are the weights: in the order in which they are read */
    double cycles;
    /* what follows from it */
    int64_t pitch, plane, channel; /* scratch: a line, a class, an input channel (elements) */
    int64_t vectors, width; /* column tiles of nv vectors; elements of a row of the output tile */
} SchConv;

bool sch_conv_geometry(SchConv *c, const KdLower *l, KdValue root);
bool sch_conv_plan(SchConv *c, const KdLower *l);

/* One dimension of a forward convolution, from its numbers. */
void sch_dim_forward(SchDim *d);

/* All lines of one input channel (`channel`: of all groups) for grid rows from `grid` on go to
 * dest[at ...], padded and by class: [class y][class x][lines][pitch]. Uses node, x, y, tile.lanes,
 * pitch and plane of c. */
void sch_conv_fill(KdLower *l, const SchConv *c, int line_buf, KlValue image, KlValue channel,
                   KlValue grid, int64_t lines, int dest, KlValue at);
/* Its scratch; -1 where it needs none. */
int sch_conv_line_buffer(KdLower *l, const SchConv *c);

static inline int64_t sch_conv_phases(const SchConv *c) { return c->y.phases * c->x.phases; }

#endif
