/* schedule.h: what the schedules of this folder share; beside them only lower_turn.c includes it.
 *
 * Every schedule is the same small engine: a register tile of `mr` rows by `nv` vectors of
 * accumulators that are carried by a loop over the contraction. One step loads nv vectors,
 * broadcasts mr scalars and does mr * nv FMAs; nothing else is live. What differs is where the
 * vectors and the scalars come from, how they were laid out beforehand (through the group's
 * prologue, once per element), and where the tile goes (through the epilogue).
 */
#ifndef KD_SCHEDULE_H
#define KD_SCHEDULE_H

#include "passes/passes.h"

/* ---- the machine, with sane values where it is unknown ----------------------------------- */

typedef struct SchMachine {
    int lanes, registers;
    bool fma;
    double l1, l2; /* bytes */
} SchMachine;

SchMachine sch_machine(const KdLower *l);

/* A clock that every cost is counted in; only ratios between schedules matter. */
#define SCH_HERTZ 3e9

/* ---- integer helpers --------------------------------------------------------------------- */

static inline int64_t sch_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t sch_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t sch_max(int64_t a, int64_t b) { return a > b ? a : b; }
/* Non-negative remainder and the quotient that goes with it. */
static inline int64_t sch_mod(int64_t a, int64_t b) { return ((a % b) + b) % b; }

static inline KlValue sch_add(KlBuilder *b, KlValue x, KlValue y) {
    return kl_op2(b, KL_OP_ADD, x, y);
}
static inline KlValue sch_addc(KlBuilder *b, KlValue x, int64_t c) {
    return c ? kl_op2(b, KL_OP_ADD, x, kl_i64(b, c)) : x;
}
static inline KlValue sch_mulc(KlBuilder *b, KlValue x, int64_t c) {
    return c == 1 ? x : kl_op2(b, KL_OP_MUL, x, kl_i64(b, c));
}
/* x * c + y */
static inline KlValue sch_madc(KlBuilder *b, KlValue x, int64_t c, KlValue y) {
    return sch_add(b, sch_mulc(b, x, c), y);
}
static inline KlValue sch_minc(KlBuilder *b, KlValue x, int64_t c) {
    return kl_op2(b, KL_OP_MIN, x, kl_i64(b, c));
}
/* Splits an index: returns x % n and leaves x / n in *x. */
KlValue sch_split(KlBuilder *b, KlValue *x, int64_t n);

/* ---- choosing sizes ---------------------------------------------------------------------- */

/* How many pieces to try after n: every small number, then ever fewer. */
static inline int64_t sch_next_count(int64_t n) {
    return n < 4 ? n + 1 : n % 3 ? n + n / 2 : n + n / 3;
}
/* Items as they are dealt out to threads: a handful that does not divide leaves cores idle. */
static inline double sch_dealt(double items) {
    return items < 64 ? (double)(sch_ceil((int64_t)items, 8) * 8) : items;
}
/* How much slower work gets when its scratch crowds the second cache. */
double sch_crowding(const SchMachine *m, double bytes);

/* Plans are remembered by shape in l->schedules: equal anchors are planned once. `schedule` tells
 * plans of one anchor apart. sch_recall copies size bytes to plan, or gives false. */
bool sch_recall(const KdLower *l, KdValue root, const char *schedule, void *plan, size_t size);
void sch_remember(const KdLower *l, KdValue root, const char *schedule, const void *plan,
                  size_t size);

/* ---- loops ------------------------------------------------------------------------------- */

/* A loop without carried values; hi is a value or a constant. */
KlFor sch_loop(KlBuilder *b, KlValue lo, KlValue hi, int64_t step);
KlFor sch_loop_n(KlBuilder *b, int64_t n);
void sch_loop_end(KlBuilder *b, KlFor *f);
/* The same, for the vectoriser: `lanes` iterations may become one. */
KlFor sch_vector_loop(KlBuilder *b, KlValue lo, KlValue hi, int lanes);
/* Writes zeros into buf[at .. at + n): whole vectors, then scalars. n > 0 */
void sch_zero(KlBuilder *b, int buf, KlValue at, int64_t n, int lanes);

/* An axis cut into balanced pieces: `count` pieces of `size`, the last one shorter when it does not
 * divide. */
typedef struct SchCut {
    int64_t n, size, count;
} SchCut;
static inline SchCut sch_cut(int64_t n, int64_t most) {
    int64_t count = sch_ceil(n, sch_max(most, 1)), size = sch_ceil(n, count);
    return (SchCut){n, size, sch_ceil(n, size)};
}
/* The length of piece i: a constant where all are equal. */
KlValue sch_cut_length(KlBuilder *b, const SchCut *c, KlValue i);

/* ---- the register tile ------------------------------------------------------------------- */

#define SCH_MAX_TILE 32

typedef struct SchTile {
    int mr, nv, lanes;
    bool fma;
} SchTile;

bool sch_tile_fits(const SchMachine *m, int mr, int nv);
/* Cycles of one step, given whether vector loads are aligned. */
double sch_tile_cycles(const SchMachine *m, int mr, int nv, bool aligned);
/* acc[r * nv + j] += broadcast(abuf[a + aoff[r]]) * bbuf[b + boff[j] ...] */
void sch_tile_step(KlBuilder *b, const SchTile *t, KlValue *acc, int abuf, KlValue a,
                   const int64_t *aoff, int bbuf, KlValue at, const int64_t *boff);
/* Zero, or loaded from buf[at + row[r] + column[j]]. */
void sch_tile_init(KlBuilder *b, const SchTile *t, KlValue *acc, bool zero, int buf, KlValue at,
                   const int64_t *row, const int64_t *column);
void sch_tile_store(KlBuilder *b, const SchTile *t, const KlValue *acc, int buf, KlValue at,
                    const int64_t *row, const int64_t *column);
/* to[i] = i * stride, for the tile's rows or columns. */
void sch_strides(int64_t *to, int n, int64_t stride);
/* Both operands of a contraction: their buffers, where it begins, how far a step moves; apart: from row to row. */
typedef struct SchProduct {
    int rows, columns;
    KlValue row, column;
    int64_t apart, row_step, column_step;
} SchProduct;

/* buf[at + r * pitch ...] = the sum of `depth` steps, on top of what is there unless zero. most: what depth may be. */
void sch_tile_product(KlBuilder *b, const SchTile *t, const SchProduct *p, KlValue depth, int64_t most, bool zero,
                      int buf, KlValue at, int64_t pitch);
/* How often a step of `fmas` is to be repeated in its innermost loop. */
int sch_unroll(int64_t fmas, int64_t trips);

/* The last tile of an axis is shifted back to end with the axis: first row of tile i. n >= size. */
KlValue sch_tile_first(KlBuilder *b, KlValue i, int64_t size, int64_t n);

/* ---- rows -------------------------------------------------------------------------------- */

/* if (0 <= y < n) { ... } else { ... }, or only the first part where that is known to hold:
 *   SchGuard g = sch_guard_begin(b, y, n); ...; if (sch_guard_else(b, &g)) { ...; sch_guard_end(b,
 * &g); } */
typedef struct SchGuard {
    bool needed;
    KlValue y;
    int64_t n;
    KlIf branch;
} SchGuard;

SchGuard sch_guard_begin(KlBuilder *b, KlValue y, int64_t n);
bool sch_guard_else(KlBuilder *b, SchGuard *g);
void sch_guard_end(KlBuilder *b, SchGuard *g);

/* Row `row` of n is row `local` of its block; tiles have `size` rows and the last one is shifted
 * back (see sch_tile_first), so that its rows are kept further down. */
KlValue sch_tile_row(KlBuilder *b, KlValue local, KlValue row, int64_t size, int64_t n);

/* ---- moving elements through the prologue ------------------------------------------------ */

/* Element (line, x) of some operand; x runs along memory. Emits scalar code; cond is KL_NONE or a
 * guard. */
typedef struct SchSource SchSource;
struct SchSource {
    KlValue (*element)(KdLower *l, const SchSource *s, const KlValue *line, KlValue x);
    KdValue node;
    int operand;
    int64_t width;    /* x is in 0 .. width of the operand; outside are zeros */
    int64_t border;   /* the first and last elements of a line that the prologue treats specially
                         (pads) */
    const void *more; /* the owner's */
};

/* Of an operand [image, channel, y, x]: line is its first three indices. */
KlValue sch_picture_element(KdLower *l, const SchSource *s, const KlValue *line, KlValue x);

/* How many elements at each end of dimension d of node n's operand k a pad in its prologue touches.
 */
int64_t sch_border(const KdLower *l, KdValue n, int k, int d);

/* dest[at + i] = source(line, x0 + i), i in 0 .. n, zero outside the line. x0 is a constant. */
void sch_fill_line(KdLower *l, const SchSource *s, const KlValue *line, int64_t x0, int64_t n,
                   int dest, KlValue at);

/* A lanes x lanes block: dest[dat + x * drow + y] = src[sat + y * srow + x] */
void sch_transpose(KlBuilder *b, int lanes, int src, KlValue sat, int64_t srow, int dest,
                   KlValue dat, int64_t drow);

/* Is operand k of n in memory as it is? Otherwise sch_materialise makes it so, in a kernel of its
 * own. (Unlike kd_lower_is_stored, this may be asked before anything is lowered.) */
bool sch_is_stored(const KdLower *l, KdValue n, int k);
void sch_materialise(KdLower *l, KdValue n, int k, int temp);
/* Before the kernel that packs operand k of n into `temp` (count floats): once for all runs if it is a weight. */
void sch_keep(KdLower *l, KdValue n, int k, int temp, int64_t count);
/* The buffer of operand k in the current kernel: the stored one, or the temp that sch_materialise
 * filled. */
int sch_operand_buffer(KdLower *l, KdValue n, int k, int temp);

/* ---- the rows of schedule.def ------------------------------------------------------------ */

/* Says how g's anchor is cut and packed, in one line, where the schedule applies. */
typedef void SchExplain(KdStr *s, const KdLower *l, const KdGroup *g);
/* The words for it: "tile 14 x 2 vectors of 16", ", 3 blocks of 28 channels" (nothing for a single
 * piece). */
void sch_explain_tile(KdStr *s, const SchTile *t);
void sch_explain_cut(KdStr *s, const SchCut *c, const char *pieces, int64_t unit, const char *units);
struct SchGemm;
struct SchDots;
void sch_explain_gemm(KdStr *s, const struct SchGemm *m);
void sch_explain_dots(KdStr *s, const struct SchDots *d);

/* Multiplications that the anchor needs. */
double sch_macs(const KdLower *l, KdValue root);

static inline const KdNode *sch_root(const KdLower *l, const KdGroup *g) {
    return kd_node(l->fu->f, g->root);
}
static inline const KdType *sch_operand_type(const KdLower *l, KdValue n, int k) {
    return kd_vtype(l->fu->f, kd_node(l->fu->f, n)->in[k]);
}

#endif
