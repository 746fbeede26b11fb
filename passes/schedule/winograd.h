/* winograd.h: what conv_winograd (winograd.c) and wgrad_winograd (winograd_wgrad.c) share. */
#ifndef KD_SCHEDULE_WINOGRAD_H
#define KD_SCHEDULE_WINOGRAD_H

#include "passes/schedule/schedule.h"

enum { SCH_WINOGRAD_TAPS = 4, SCH_WINOGRAD_MOST = 6 }; /* the most taps, and inputs, of a dimension */

/* One dimension of a tile. Stride 1: F(m, taps), n = inputs = m + taps - 1, step = m. Stride 2: see sch_winograd_strided. */
typedef struct SchWinograd {
    int m, n, taps;   /* outputs, products, and taps */
    int inputs, step; /* inputs, and from the first one of a tile to the first of the next */
    bool fma;
    int lanes;   /* of pictures' vectors */
    bool tabled; /* the transforms are the tables; else they are written out */
    double b[SCH_WINOGRAD_MOST][SCH_WINOGRAD_MOST], g[SCH_WINOGRAD_MOST][SCH_WINOGRAD_TAPS], /* [product][input], [product][tap], */
        a[SCH_WINOGRAD_MOST][SCH_WINOGRAD_TAPS];                                              /* [product][output] */
} SchWinograd;

/* Stride 1, F(m, taps). false: there is none. */
bool sch_winograd(SchWinograd *w, const SchMachine *machine, int m, int64_t taps);
/* Stride 2, of 3 or 4 taps, forward or transposed; *origin: the first input of tile 0. false: there is none. */
bool sch_winograd_strided(SchWinograd *w, const SchMachine *machine, int64_t taps, bool transposed, int64_t pad, int64_t *origin);

/* One dimension each, see winograd_transform.c. */
void sch_winograd_input(KlBuilder *b, const SchWinograd *w, const KlValue *d, KlValue *r);    /* B^T d: inputs -> n */
void sch_winograd_weights(KlBuilder *b, const SchWinograd *w, const KlValue *g, KlValue *u);  /* G g: taps -> n */
void sch_winograd_output(KlBuilder *b, const SchWinograd *w, const KlValue *p, KlValue *y);   /* A^T p: n -> m */
void sch_winograd_gradient(KlBuilder *b, const SchWinograd *w, const KlValue *y, KlValue *r); /* A dy: m -> n */
void sch_winograd_taps(KlBuilder *b, const SchWinograd *w, const KlValue *u, KlValue *g);     /* G^T u: n -> taps */

/* One line of a picture, transformed along x. */
typedef struct SchWinogradLine {
    const SchSource *source;
    const KlValue *place;   /* for source->element: place[2] is its y; outside of 0 .. height are zeros */
    int64_t height, origin; /* the line's element at x = 0 of tile 0 */
    int64_t across;         /* tiles, in whole vectors */
    bool gradient;          /* of outputs: m of them a tile, not inputs */
    int buffer;             /* scratch: across * step (of outputs: m) + lanes elements */
} SchWinogradLine;

/* to[j * plane + tile] = transformed element j of the tile, j in 0 .. n, tile in 0 .. across. */
void sch_winograd_line(KdLower *l, const SchWinograd *w, const SchWinogradLine *line, int buffer, KlValue to,
                       int64_t plane);

#endif
