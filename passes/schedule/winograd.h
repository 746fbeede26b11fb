/* winograd.h: what conv_winograd (winograd.c) and wgrad_winograd (winograd_wgrad.c) share. */
#ifndef KD_SCHEDULE_WINOGRAD_H
#define KD_SCHEDULE_WINOGRAD_H

#include "passes/schedule/schedule.h"

enum { SCH_WINOGRAD_TAPS = 4, SCH_WINOGRAD_MOST = 6 }; /* the most taps, and inputs, of a dimension */

typedef struct SchWinograd {
    int m, n, taps; /* outputs and inputs of a tile, and taps, in each dimension: n = m + taps - 1 */
    bool fma;
    int lanes; /* of pictures' vectors */
} SchWinograd;

/* Is there a transform for so many outputs and taps? */
static inline bool sch_winograd_exists(int m, int64_t taps) {
    return (taps == 3 && (m == 2 || m == 4)) || (taps == 4 && m == 2);
}

/* One dimension each; n, m or taps values in, see winograd_transform.c. */
void sch_winograd_input(KlBuilder *b, const SchWinograd *w, const KlValue *d, KlValue *r);    /* B^T d: n -> n */
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
    bool gradient;          /* of outputs: m of them a tile, not n inputs */
    int buffer;             /* scratch: across * m + lanes elements */
} SchWinogradLine;

/* to[j * plane + tile] = transformed element j of the tile, j in 0 .. n, tile in 0 .. across. */
void sch_winograd_line(KdLower *l, const SchWinograd *w, const SchWinogradLine *line, int buffer, KlValue to,
                       int64_t plane);

#endif
