/* winograd.c: 3x3 and 4x4 convolutions of stride 1 and 2, forward and backward-data, by Winograd's minimal
 * filtering F(2x2, 3x3), F(4x4, 3x3) and F(2x2, 4x4) (Lavin and Gray 2016, "Fast Algorithms for
 * Convolutional Neural Networks"): 2.25, 4 and 2.56 times fewer multiplications.
 *
 * With m = 2 or 4 outputs a tile and dimension, and n = m + taps - 1 inputs:  Y = A^T [sum over channels of
 * (G w G^T) * (B^T d B)] A, where * is elementwise. A first kernel transforms the weights: n * n
 * matrices [out][in]. An item of the second is a band of tile rows of one picture and a block of
 * output channels:
 *   1. each channel's input lines go through the prologue into a line buffer, are split into tiles
 *      (lanes are neighbouring tiles) and transformed, first along x, then along y, into n * n
 *      matrices [in][tile]. The tiles of a band follow one another without gaps, whatever the width.
 *   2. n * n matrix products, tile by register tile: channels are broadcast, tiles are lanes.
 *   3. each output channel is transformed back along y, then x, its lines are put together in a row
 *      buffer and go through the epilogue.
 * A transposed convolution of stride 1 is a convolution with the kernel turned by 180 degrees, its
 * channels swapped, and padding taps - 1 - pad. With stride 2 the transforms are those of the parities
 * (winograd_transform.c), and tiles lie `step` apart in the input: all else is the same.
 *
 * Rounding, over the models' shapes, as shares of the output's root mean square: the root mean
 * square error is below 5e-6 (m = 4, or 4 taps) and 1.5e-6 (m = 2, 3 taps), the largest of hundreds
 * of outputs below 1e-4 and 1e-5 (tests/codegen/test_winograd.c; a direct sum in float: about 3e-7 and 2e-6). With
 * stride 2 they are a direct sum's.
 * KdPassOptions.winograd is the largest m that may be used.
 */
#include "passes/schedule/winograd.h"

enum { CHUNK = 8 };

typedef struct Wino {
    KdValue node;
    SchMachine machine;
    bool strided;
    bool transposed, turned;                /* weights are [in, out, ...]; and to be turned by 180 degrees */
    SchWinograd t;                          /* outputs and inputs of a tile */
    int64_t batch, groups, rows_out, depth; /* channels of a group */
    int64_t keep;                           /* bytes of transformed weights that may stay from run to run */
    int64_t in[2], out[2], origin[2], tiles_y, tiles_x;
    /* the plan */
    SchTile tile;
    SchCut blocks; /* row tiles of mr output channels, cut into blocks */
    SchCut bands;  /* tile rows, cut into bands */
    SchCut slices; /* input channels, cut into slices that stay in the first cache */
    double cycles;
    /* what follows from it */
    int64_t across; /* tiles of a tile row, rounded up to whole vectors */
    int64_t pitch;  /* a channel's tiles of one matrix */
    int64_t input, product, weights; /* from one of the n * n matrices to the next */
} Wino;

typedef struct Buffers {
    int weights, line, lines, input, product, half, row;
} Buffers;

typedef struct Item {
    KlValue image, group, band, block, length; /* length: tile rows of the band */
} Item;

/* ---- weights ----------------------------------------------------------------------------- */

/* Transformed they lie in the order in which the products read them, so that they stream in:
 * [n * n][group][slice of input channels][row tile][input channel][mr output channels]. */
static int64_t row_tiles(const Wino *w) { return sch_ceil(w->rows_out, w->tile.mr); }
static int64_t block_rows(const Wino *w) { return w->blocks.size * w->tile.mr; }
static int64_t panel(const Wino *w) { return w->slices.size * w->tile.mr; }
static int64_t weights_count(const Wino *w) { return w->t.n * w->t.n * w->weights; }

/* Lanes of the weight kernel: enough for the rows of a tile, if a vector has so many. */
static int weight_lanes(const Wino *w) {
    int lanes = 4;
    while (lanes < w->tile.mr && lanes < w->tile.lanes)
        lanes *= 2;
    return lanes;
}

/* Copies a chunk's taps as they lie in memory, then turns them: turned[(k * taps + tap) * rows + r]. (Both in
 * scratch, where blocks may reach too far; loading them as vectors of distant elements costs five
 * times as much.) at: the first weight of the tile; weights are [out, in, taps], transposed
 * [in, out, taps]. */
static void turn_taps(KdLower *l, const Wino *w, int from, KlValue at, KlValue count, int taken,
                      int turned) {
    KlBuilder *b = &l->b;
    int lanes = weight_lanes(w), all = w->t.taps * w->t.taps;
    int64_t rows = sch_ceil(w->tile.mr, lanes) * lanes;
    int64_t line = w->transposed ? w->tile.mr * all : CHUNK * all; /* what lies together */
    int64_t lines = w->transposed ? CHUNK : w->tile.mr;
    int64_t apart = all * (w->transposed ? w->rows_out : w->depth);
    KlFor y = sch_loop(b, kl_i64(b, 0), w->transposed ? count : kl_i64(b, lines), 1);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), w->transposed ? kl_i64(b, line) : sch_mulc(b, count, all),
                              w->tile.lanes);
    KlValue v = kl_load(b, from, sch_add(b, sch_madc(b, y.i, apart, at), x.i), 1);
    kl_store(b, taken, sch_madc(b, y.i, line, x.i), v);
    sch_loop_end(b, &x);
    sch_loop_end(b, &y);
    int64_t row = w->transposed ? all : line, channel = w->transposed ? line : all;
    KlFor k = sch_loop(b, kl_i64(b, 0), count, 1); /* ascending: the next one mends what is too far */
    for (int64_t r = 0; r < rows; r += lanes)
        for (int tap = 0; tap < all; tap += lanes)
            sch_transpose(b, lanes, taken, sch_addc(b, sch_mulc(b, k.i, channel), r * row + tap), row,
                          turned, sch_addc(b, sch_mulc(b, k.i, all * rows), tap * rows + r), rows);
    sch_loop_end(b, &k);
}

/* One item is a row tile of a slice; lanes are its output channels. A few input channels at a time,
 * that the first cache holds, are kept in a chunk and then copied: 36 places far apart, each written
 * a little, are slow. */
static void build_weights(KdLower *l, const Wino *w) {
    int n = w->t.n, lanes = weight_lanes(w), size = w->t.taps, all = size * size;
    int64_t rows = sch_ceil(w->tile.mr, lanes) * lanes, some = CHUNK * w->tile.mr + rows;
    sch_keep(l, w->node, 1, 0, weights_count(w));
    kd_lower_begin(l, "winograd weights", w->groups * w->slices.count * row_tiles(w));
    KlBuilder *b = &l->b;
    int from = sch_operand_buffer(l, w->node, 1, 1);
    int to = kd_lower_temp(l, 0, KL_F32, weights_count(w), KL_OUT);
    int64_t room = (CHUNK * w->tile.mr + rows + 2 * lanes) * all + 2 * lanes;
    int taken = kl_buf(l->k, "taken", KL_F32, room + CHUNK * all * (rows - w->tile.mr), KL_SCRATCH);
    int turned = kl_buf(l->k, "turned", KL_F32, (CHUNK * all + 2 * lanes) * rows, KL_SCRATCH);
    int half = kl_buf(l->k, "half", KL_F32, n * size * lanes, KL_SCRATCH);
    int chunk = kl_buf(l->k, "chunk", KL_F32, n * n * some, KL_SCRATCH);
    sch_zero(b, taken, kl_i64(b, 0), room + CHUNK * all * (rows - w->tile.mr), w->tile.lanes);
    KlValue p = kl_parallel_index(l->k), place = sch_mulc(b, p, panel(w));
    KlValue tile = sch_split(b, &p, row_tiles(w)), slice = sch_split(b, &p, w->slices.count);
    KlValue row = sch_tile_first(b, tile, w->tile.mr, w->rows_out);
    KlValue channel = sch_mulc(b, slice, w->slices.size), depth = sch_cut_length(b, &w->slices, slice);
    KlFor c = sch_loop(b, kl_i64(b, 0), depth, CHUNK);
    KlValue count = sch_minc(b, kl_op2(b, KL_OP_SUB, depth, c.i), CHUNK), in = sch_add(b, channel, c.i);
    KlValue at = w->transposed
                     ? sch_madc(b, sch_madc(b, p, w->depth, in), w->rows_out, row)
                     : sch_madc(b, sch_madc(b, p, w->rows_out, row), w->depth, in);
    turn_taps(l, w, from, sch_mulc(b, at, all), count, taken, turned);
    KlFor k = sch_loop(b, kl_i64(b, 0), count, 1);
    for (int64_t r = 0; r < rows; r += lanes) {
        KlValue taps = sch_addc(b, sch_mulc(b, k.i, all * rows), r), g[SCH_WINOGRAD_TAPS], t[SCH_WINOGRAD_MOST];
        KlFor x = sch_loop_n(b, size);
        for (int y = 0; y < size; y++) {
            KlValue tap = sch_addc(b, sch_mulc(b, x.i, w->turned ? -1 : 1), w->turned ? all - 1 - y * size : y * size);
            g[y] = kl_load(b, turned, sch_madc(b, tap, rows, taps), lanes);
        }
        sch_winograd_weights(b, &w->t, g, t);
        for (int y = 0; y < n; y++)
            kl_store(b, half, sch_mulc(b, sch_addc(b, x.i, y * size), lanes), t[y]);
        sch_loop_end(b, &x);
        KlFor y = sch_loop_n(b, n);
        for (int i = 0; i < size; i++)
            g[i] = kl_load(b, half, sch_mulc(b, sch_addc(b, sch_mulc(b, y.i, size), i), lanes), lanes);
        sch_winograd_weights(b, &w->t, g, t);
        KlValue held = sch_addc(b, sch_madc(b, k.i, w->tile.mr, sch_mulc(b, y.i, n * some)), r);
        for (int i = 0; i < n; i++)
            kl_store(b, chunk, sch_addc(b, held, i * some), t[i]);
        sch_loop_end(b, &y);
    }
    sch_loop_end(b, &k);
    place = sch_madc(b, c.i, w->tile.mr, place);
    KlFor e = sch_loop_n(b, n * n);
    KlFor i = sch_vector_loop(b, kl_i64(b, 0), sch_mulc(b, count, w->tile.mr), w->tile.lanes);
    KlValue v = kl_load(b, chunk, sch_madc(b, e.i, some, i.i), 1);
    kl_store(b, to, sch_add(b, sch_madc(b, e.i, w->weights, place), i.i), v);
    sch_loop_end(b, &i);
    sch_loop_end(b, &e);
    sch_loop_end(b, &c);
    l->k->bytes = 4.0 * (double)(weights_count(w) + sch_operand_type(l, w->node, 1)->count);
    kd_lower_end(l);
}

/* ---- 1: the picture ---------------------------------------------------------------------- */

/* Lines of one input channel, transformed along x: [line mod step][n][line / step][tile]. So what a tile
 * needs of the same line lies tiles_x further for the tile below, and the tiles of a band can be
 * taken one after the other, whatever the width. The last vector of a line may be partly empty: the
 * next line of the same kind overwrites the rest. */
static int64_t line_plane(const Wino *w) {
    int64_t rows = w->bands.size + (w->t.inputs - 1) / w->t.step;
    return sch_ceil(rows * w->tiles_x + w->across, w->tile.lanes) * w->tile.lanes;
}

static void fill_lines(KdLower *l, const Wino *w, const Buffers *u, const Item *it, KlValue channel) {
    KlBuilder *b = &l->b;
    int64_t plane = line_plane(w);
    SchSource s = {.element = sch_picture_element,
                   .node = w->node,
                   .operand = 0,
                   .width = w->in[1],
                   .border = sch_border(l, w->node, 0, 3)};
    KlFor r = sch_loop(b, kl_i64(b, 0), sch_addc(b, sch_mulc(b, it->length, w->t.step), w->t.inputs - w->t.step), 1);
    KlValue y = sch_madc(b, it->band, w->bands.size * w->t.step, r.i), row = r.i;
    y = sch_addc(b, y, w->origin[0]);
    KlValue kind = sch_split(b, &row, w->t.step), to = sch_madc(b, kind, w->t.n * plane, sch_mulc(b, row, w->tiles_x));
    KlValue place[3] = {it->image, channel, y};
    SchWinogradLine line = {.source = &s,
                            .place = place,
                            .height = w->in[0],
                            .origin = w->origin[1],
                            .across = w->across,
                            .buffer = u->line};
    sch_winograd_line(l, &w->t, &line, u->lines, to, plane);
    sch_loop_end(b, &r);
}

/* The last column tile may reach beyond the tiles of a channel: zeros there. */
static void clear_rest(KlBuilder *b, const Wino *w, const Buffers *u, KlValue tiles, KlValue channel) {
    int64_t lanes = w->tile.lanes, width = w->tile.nv * lanes;
    if (w->tile.nv == 1) return;
    KlValue held = sch_mulc(b, kl_op2(b, KL_OP_DIV, sch_addc(b, tiles, lanes - 1), kl_i64(b, lanes)), lanes);
    KlValue end = sch_mulc(b, kl_op2(b, KL_OP_DIV, sch_addc(b, tiles, width - 1), kl_i64(b, width)), width);
    KlFor e = sch_loop_n(b, w->t.n * w->t.n);
    KlFor x = sch_loop(b, held, end, lanes);
    KlValue at = sch_add(b, sch_madc(b, e.i, w->input, sch_mulc(b, channel, w->pitch)), x.i);
    kl_store(b, u->input, at, kl_splat(b, w->tile.lanes, kl_f32(b, 0)));
    sch_loop_end(b, &x);
    sch_loop_end(b, &e);
}

/* One input channel's tiles: transformed along y into the n * n matrices. */
static void fill_input(KdLower *l, const Wino *w, const Buffers *u, const Item *it) {
    KlBuilder *b = &l->b;
    int n = w->t.n, lanes = w->tile.lanes;
    int64_t plane = line_plane(w);
    KlValue tiles = sch_mulc(b, it->length, w->tiles_x);
    KlFor c = sch_loop_n(b, w->depth);
    fill_lines(l, w, u, it, sch_madc(b, it->group, w->depth, c.i));
    KlFor v = sch_loop(b, kl_i64(b, 0), tiles, lanes), j = sch_loop_n(b, n);
    KlValue from = sch_madc(b, j.i, plane, v.i);
    KlValue to = sch_add(b, sch_madc(b, c.i, w->pitch, sch_mulc(b, j.i, w->input)), v.i);
    KlValue d[SCH_WINOGRAD_MOST] = {0}, t[SCH_WINOGRAD_MOST] = {0};
    for (int i = 0; i < w->t.inputs; i++)
        d[i] = kl_load(b, u->lines, sch_addc(b, from, i % w->t.step * n * plane + i / w->t.step * w->tiles_x), lanes);
    sch_winograd_input(b, &w->t, d, t);
    for (int i = 0; i < n; i++)
        kl_store(b, u->input, sch_addc(b, to, i * n * w->input), t[i]);
    sch_loop_end(b, &j);
    sch_loop_end(b, &v);
    clear_rest(b, w, u, tiles, c.i);
    sch_loop_end(b, &c);
}

/* ---- 2: the products --------------------------------------------------------------------- */

/* One slice of input channels of a column tile: all row tiles of the block. */
static void multiply_slice(KlBuilder *b, const Wino *w, const Buffers *u, const Item *it, KlValue e, KlValue column,
                           KlValue slice, bool first) {
    const SchTile *t = &w->tile;
    KlValue depth = sch_cut_length(b, &w->slices, slice);
    KlFor m = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &w->blocks, it->block), 1);
    KlValue weights = sch_madc(b, it->group, w->slices.count, slice);
    weights = sch_madc(b, weights, row_tiles(w), sch_madc(b, it->block, w->blocks.size, m.i));
    weights = sch_madc(b, weights, panel(w), sch_mulc(b, e, w->weights));
    KlValue input = sch_add(b, sch_madc(b, e, w->input, column), sch_mulc(b, slice, w->slices.size * w->pitch));
    KlValue at = sch_add(b, sch_madc(b, e, w->product, column), sch_mulc(b, m.i, t->mr * w->pitch));
    SchProduct p = {.rows = u->weights, .row = weights, .apart = 1, .row_step = t->mr,
                    .columns = u->input, .column = input, .column_step = w->pitch};
    sch_tile_product(b, t, &p, depth, w->slices.size, first, u->product, at, w->pitch);
    sch_loop_end(b, &m);
}

static void multiply(KlBuilder *b, const Wino *w, const Buffers *u, const Item *it) {
    KlFor e = sch_loop_n(b, w->t.n * w->t.n);
    KlFor c = sch_loop(b, kl_i64(b, 0), sch_mulc(b, it->length, w->tiles_x), (int64_t)w->tile.nv * w->tile.lanes);
    multiply_slice(b, w, u, it, e.i, c.i, kl_i64(b, 0), true);
    if (w->slices.count > 1) {
        KlFor s = sch_loop(b, kl_i64(b, 1), kl_i64(b, w->slices.count), 1);
        multiply_slice(b, w, u, it, e.i, c.i, s.i, false);
        sch_loop_end(b, &s);
    }
    sch_loop_end(b, &c);
    sch_loop_end(b, &e);
}

/* ---- 3: the way back --------------------------------------------------------------------- */

/* row[at + m * t + j] = y[j][t] */
static void join_tiles(KlBuilder *b, const Wino *w, const KlValue *y, int row, KlValue at) {
    int lanes = w->tile.lanes, mix[2][64];
    for (int i = 0; i < lanes; i++) {
        mix[0][i] = i / 2 + (i & 1 ? lanes : 0);
        mix[1][i] = mix[0][i] + lanes / 2;
    }
    KlValue out[4];
    if (w->t.m == 2) {
        for (int h = 0; h < 2; h++)
            out[h] = kl_shuffle(b, y[0], y[1], lanes, mix[h]);
    } else {
        for (int h = 0; h < 2; h++) {
            KlValue even = kl_shuffle(b, y[0], y[2], lanes, mix[h]),
                    odd = kl_shuffle(b, y[1], y[3], lanes, mix[h]);
            out[2 * h] = kl_shuffle(b, even, odd, lanes, mix[0]);
            out[2 * h + 1] = kl_shuffle(b, even, odd, lanes, mix[1]);
        }
    }
    for (int h = 0; h < w->t.m; h++)
        kl_store(b, row, sch_addc(b, at, (int64_t)h * lanes), out[h]);
}

/* All tiles of one output channel, transformed along y: half[m][n][tile]. */
static void output_tiles(KlBuilder *b, const Wino *w, const Buffers *u, const Item *it, KlValue from) {
    int n = w->t.n, lanes = w->tile.lanes;
    KlFor v = sch_loop(b, kl_i64(b, 0), sch_mulc(b, it->length, w->tiles_x), lanes), j = sch_loop_n(b, n);
    KlValue at = sch_add(b, sch_madc(b, j.i, w->product, from), v.i), p[SCH_WINOGRAD_MOST] = {0}, y[4] = {0};
    for (int i = 0; i < n; i++)
        p[i] = kl_load(b, u->product, sch_addc(b, at, i * n * w->product), lanes);
    sch_winograd_output(b, &w->t, p, y);
    for (int i = 0; i < w->t.m; i++)
        kl_store(b, u->half, sch_addc(b, sch_madc(b, j.i, w->pitch, v.i), i * n * w->pitch), y[i]);
    sch_loop_end(b, &j);
    sch_loop_end(b, &v);
}

/* Tile row r of them along x, into the row buffer: [m lines][across * m]. */
static void output_lines(KlBuilder *b, const Wino *w, const Buffers *u, KlValue r) {
    int n = w->t.n, m = w->t.m, lanes = w->tile.lanes;
    KlFor v = sch_loop(b, kl_i64(b, 0), kl_i64(b, w->across), lanes), i = sch_loop_n(b, m);
    KlValue at = sch_add(b, sch_madc(b, r, w->tiles_x, sch_mulc(b, i.i, n * w->pitch)), v.i);
    KlValue p[SCH_WINOGRAD_MOST] = {0}, y[4] = {0};
    for (int k = 0; k < n; k++)
        p[k] = kl_load(b, u->half, sch_addc(b, at, k * w->pitch), lanes);
    sch_winograd_output(b, &w->t, p, y);
    join_tiles(b, w, y, u->row, sch_add(b, sch_mulc(b, v.i, m), sch_mulc(b, i.i, m * w->across)));
    sch_loop_end(b, &i);
    sch_loop_end(b, &v);
}

static void finish(KdLower *l, const Wino *w, const Buffers *u, const Item *it) {
    KlBuilder *b = &l->b;
    KlValue m0 = sch_mulc(b, it->block, block_rows(w));
    KlValue rows = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, w->rows_out), m0), block_rows(w));
    KlFor o = sch_loop(b, kl_i64(b, 0), rows, 1);
    KlValue row = sch_add(b, m0, o.i), held = sch_tile_row(b, o.i, row, w->tile.mr, w->rows_out);
    output_tiles(b, w, u, it, sch_mulc(b, held, w->pitch));
    KlFor r = sch_loop(b, kl_i64(b, 0), it->length, 1);
    output_lines(b, w, u, r.i);
    KlFor i = sch_loop_n(b, w->t.m);
    KlValue y = sch_madc(b, sch_madc(b, it->band, w->bands.size, r.i), w->t.m, i.i);
    SchGuard guard = sch_guard_begin(b, y, w->out[0]);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, w->out[1]), w->tile.lanes);
    KlValue idx[4] = {it->image, sch_madc(b, it->group, w->rows_out, row), y, x.i};
    KlValue v = kl_load(b, u->row, sch_madc(b, i.i, w->across * w->t.m, x.i), 1);
    kd_lower_finish(l, v, idx);
    sch_loop_end(b, &x);
    if (sch_guard_else(b, &guard)) sch_guard_end(b, &guard);
    sch_loop_end(b, &i);
    sch_loop_end(b, &r);
    sch_loop_end(b, &o);
}

/* ---- the plan ---------------------------------------------------------------------------- */

static bool geometry(Wino *w, const KdLower *l, KdValue root) {
    const KdFunc *f = l->fu->f;
    const KdNode *node = kd_node(f, root);
    const KdType *x = sch_operand_type(l, root, 0), *k = sch_operand_type(l, root, 1), *y = node->type;
    KdInts stride = kd_attr_ints(f, node, "stride"), pad = kd_attr_ints(f, node, "pad");
    KdInts dilation = kd_attr_ints(f, node, "dilation");
    int64_t groups = kd_attr_int(f, node, "groups");
    *w = (Wino){.node = root,
                .machine = sch_machine(l),
                .transposed = node->op == KD_OP_CONV_TRANSPOSE2D,
                .batch = x->dim[0],
                .keep = l->o->keep,
                .groups = groups,
                .rows_out = y->dim[1] / groups,
                .depth = x->dim[1] / groups};
    if (y->count == 0 || x->count == 0 || x->dtype != KD_F32 || w->machine.lanes < 4) return false;
    for (int d = 0; d < 2; d++) {
        if (k->dim[2 + d] != k->dim[2] || stride.v[d] != stride.v[0] || stride.v[d] > 2 || dilation.v[d] != 1) return false;
        w->in[d] = x->dim[2 + d], w->out[d] = y->dim[2 + d];
        w->origin[d] = w->transposed ? pad.v[d] - (k->dim[2] - 1) : -pad.v[d];
        if (stride.v[0] == 2 &&
            !sch_winograd_strided(&w->t, &w->machine, k->dim[2], w->transposed, pad.v[d], &w->origin[d]))
            return false;
    }
    w->strided = stride.v[0] == 2;
    w->turned = w->transposed && !w->strided;
    return !w->strided || !w->transposed || (pad.v[0] - pad.v[1]) % 2 == 0; /* else the two dimensions' transforms differ */
}

/* Everything that follows from m, tile, blocks.size and bands.size; then the cycles. */
static void derive(Wino *w) {
    const SchMachine *k = &w->machine;
    const SchTile *t = &w->tile;
    int64_t lanes = t->lanes, width = t->nv * lanes, all = (int64_t)w->t.n * w->t.n;
    int64_t columns = sch_ceil(w->bands.size * w->tiles_x, width);
    w->across = sch_ceil(w->tiles_x, lanes) * lanes;
    w->pitch = columns * width;
    /* Channels a power of two apart would fall into the same lines of the caches. */
    if (columns > 1 && w->pitch / lanes % 2 == 0) w->pitch += lanes;
    w->input = w->depth * w->pitch + 5 * lanes;
    w->product = block_rows(w) * w->pitch + 5 * lanes;
    int64_t slice = (int64_t)(0.7 * k->l1 / 4 / (double)(width + t->mr));
    w->slices = sch_cut(w->depth, sch_max(slice, sch_min(w->depth, 8)));
    w->weights = w->groups * w->slices.count * row_tiles(w) * panel(w) + 5 * lanes;

    double rows = (double)block_rows(w), depth = (double)w->depth, matrices = (double)all;
    double band = (double)w->bands.size, vectors = (double)(w->across / lanes), m = w->t.m, n = w->t.n;
    double items = (double)(w->batch * w->groups * w->bands.count * w->blocks.count);
    double step = sch_tile_cycles(k, t->mr, t->nv, true);
    double work = matrices * (double)(columns * w->blocks.size) *
                  (depth * step + (double)w->slices.count * (1.5 * t->mr * t->nv + 20));
    /* What does not stay in the second cache comes from the third, or further: about 7 bytes a
     * cycle, half of them hidden behind the sums. */
    double weights = 4 * matrices * rows * depth, pictures = 4 * matrices * depth * (double)w->pitch,
           products = 4 * matrices * rows * (double)w->pitch, moved = 0;
    if (weights * (double)w->blocks.count > 0.5 * k->l2) moved += weights;
    if (pictures + products > 0.6 * k->l2) moved += (pictures + products > 5 * k->l2 ? 4 : 2) * (pictures + products);
    /* The weights of a matrix pass once for each column tile: from the second cache, but for the first time. */
    work += 0.5 * moved / 7 + weights * (double)(columns - 1) / 20;
    double dense = (double)sch_ceil(w->bands.size * w->tiles_x, lanes); /* vectors of tiles of a band */
    double step_in = w->t.step, inputs = w->t.inputs;
    double fill = depth * ((step_in * band + inputs - step_in) * (vectors * (14 + 5 * n) + (double)w->in[1] * 4 / (double)lanes + 30) +
                           dense * n * 2.5 * n);
    double row = m * ((double)w->out[1] * 6 / (double)lanes + 10);
    double out = rows * (dense * n * 2.5 * n + band * (vectors * m * 3 * n + row));
    /* Four items are enough: more of them would stream the weights more often. */
    double idle = items > 16 ? sch_dealt(items) - items
                             : 0.5 * ((double)(sch_ceil((int64_t)items, 4) * 4) - items);
    /* The last band is shorter. */
    double dealt = items * (double)w->tiles_y / (double)(w->bands.count * w->bands.size) + idle;
    w->cycles = dealt * (work + fill + out + 100) + 4000;
    /* The weights, unless they stay from run to run; written by the line, which the line has to be fetched for. */
    double count = (double)(w->groups * w->rows_out * w->depth), bytes = 4 * (double)weights_count(w);
    if (bytes > (double)w->keep)
        w->cycles += count * (2.5 * (60 + 2.2 * matrices) / (double)t->mr + 4 * matrices * (bytes > 0.5 * k->l2 ? 0.6 : 0.25)) + 4000;
}

static void try_blocks(Wino *best, Wino *w) {
    int64_t tiles = sch_ceil(w->rows_out, w->tile.mr);
    for (int64_t blocks = 1; blocks <= tiles && blocks <= 32; blocks = sch_next_count(blocks)) {
        w->blocks = sch_cut(tiles, sch_ceil(tiles, blocks));
        for (int64_t bands = 1; bands <= w->tiles_y; bands = sch_next_count(bands)) {
            w->bands = sch_cut(w->tiles_y, sch_ceil(w->tiles_y, bands));
            derive(w);
            if (best->cycles < 0 || w->cycles < best->cycles) *best = *w;
        }
    }
}

static bool plan(Wino *w, const KdLower *l, KdValue root) {
    if (l->o->winograd < 2 || !geometry(w, l, root)) return false;
    Wino best = *w, trial = *w;
    if (sch_recall(l, root, "winograd", w, sizeof *w)) {
        w->node = root;
        return w->cycles >= 0;
    }
    best.cycles = -1;
    int64_t taps = sch_operand_type(l, root, 1)->dim[2];
    for (int m = 2; m <= l->o->winograd && m <= 4; m += 2) {
        if (w->strided ? m != 2 : !sch_winograd(&trial.t, &w->machine, m, taps)) continue;
        trial.tiles_y = sch_ceil(w->out[0], trial.t.m), trial.tiles_x = sch_ceil(w->out[1], trial.t.m);
        for (int mr = 1; mr <= 14 && mr <= w->rows_out; mr++)
            for (int nv = 1; nv <= 4; nv++) {
                if (!sch_tile_fits(&w->machine, mr, nv) || mr * nv < w->machine.registers / 3) continue;
                trial.tile = (SchTile){mr, nv, w->machine.lanes, w->machine.fma};
                try_blocks(&best, &trial);
            }
    }
    *w = best;
    sch_remember(l, root, "winograd", w, sizeof *w);
    return w->cycles >= 0;
}

double cost_winograd(const KdLower *l, const KdGroup *g) {
    Wino w;
    return plan(&w, l, g->root) ? w.cycles / SCH_HERTZ : -1;
}

/* ---- the whole --------------------------------------------------------------------------- */

void build_winograd(KdLower *l, const KdGroup *g) {
    Wino plan_, *w = &plan_;
    plan(w, l, g->root);
    sch_materialise(l, w->node, 1, 1);
    build_weights(l, w);
    const KdType *t = kd_vtype(l->fu->f, w->node);
    const char *what = kd_format(l->cx, "%s %s winograd %dx%d", kd_op_info[sch_root(l, g)->op].name,
                                 kd_shape_text(l->cx, t), w->t.m, w->t.m);
    kd_lower_begin(l, what, w->batch * w->groups * w->bands.count * w->blocks.count);
    KlBuilder *b = &l->b;
    int64_t lanes = w->tile.lanes, all = (int64_t)w->t.n * w->t.n;
    int64_t lines = w->t.step * w->t.n * line_plane(w), half = w->t.m * w->t.n * w->pitch;
    Buffers u = {.weights = kd_lower_temp(l, 0, KL_F32, weights_count(w), KL_IN)};
    u.line = kl_buf(l->k, "line", KL_F32, w->across * w->t.step + lanes, KL_SCRATCH);
    u.lines = kl_buf(l->k, "lines", KL_F32, lines, KL_SCRATCH);
    u.half = kl_buf(l->k, "half", KL_F32, half + w->across, KL_SCRATCH);
    u.row = kl_buf(l->k, "row", KL_F32, w->t.m * w->across * w->t.m, KL_SCRATCH);
    u.input = kl_buf(l->k, "input", KL_F32, all * w->input, KL_SCRATCH);
    u.product = kl_buf(l->k, "product", KL_F32, all * w->product, KL_SCRATCH);
    KlValue p = kl_parallel_index(l->k);
    Item it;
    it.block = sch_split(b, &p, w->blocks.count);
    it.band = sch_split(b, &p, w->bands.count);
    it.group = sch_split(b, &p, w->groups);
    it.image = p;
    it.length = sch_cut_length(b, &w->bands, it.band);
    /* What vectors that are partly empty meet must be initialised. */
    sch_zero(b, u.lines, kl_i64(b, 0), lines, w->tile.lanes);
    sch_zero(b, u.half, kl_i64(b, 0), half + w->across, w->tile.lanes);
    fill_input(l, w, &u, &it);
    multiply(b, w, &u, &it);
    finish(l, w, &u, &it);
    const KdType *x = sch_operand_type(l, w->node, 0), *k = sch_operand_type(l, w->node, 1);
    l->k->flops = 2 * sch_macs(l, w->node);
    l->k->bytes = 4.0 * (double)(x->count + k->count + t->count);
    kd_lower_end(l);
}

void explain_winograd(KdStr *s, const KdLower *l, const KdGroup *g) {
    Wino w;
    if (!plan(&w, l, g->root)) return;
    kd_str_printf(s, w.strided ? "F(2x2) by parity, " : "F(%dx%d), ", w.t.m, w.t.m);
    sch_explain_tile(s, &w.tile);
    sch_explain_cut(s, &w.blocks, "blocks", w.tile.mr, "channels");
    sch_explain_cut(s, &w.bands, "bands", w.t.m, "rows");
    sch_explain_cut(s, &w.slices, "slices", 1, "input channels");
    kd_str_printf(s, ", weights transformed once, %d matrices", w.t.n * w.t.n);
}
