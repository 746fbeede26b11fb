/* conv.c: conv2d and conv_transpose2d: any kernel, stride, dilation, groups, padding; NCHW in
 * memory.
 *
 * One item of the parallel range is a band of output rows and a block of output channels of one
 * picture and group: for each slice of input channels
 *     1. the input lines of the band go into scratch, once, through the prologue: padded, split by
 * class (conv.h)
 *     2. for each column tile, row tile and phase: the register tile. Pixels are lanes. Output rows
 * lie in scratch at one pitch, so that a vector may run over the end of a row into the next: the
 * few pixels between are computed in vain, and any width fits any vector. Weights are broadcast
 * from where they are, or from a packed copy.
 *   3. the output tile goes row by row through the epilogue; the phases of a transposed convolution
 * are interleaved. Where the picture is small the lines of 1. are made once for all by a kernel of
 * their own (prefill).
 */
#include "passes/schedule/conv.h"

typedef struct Buffers {
    int picture, line, tile, row, weights;
} Buffers; /* line: of sch_conv_fill */

/* What an item knows of its place. Values of the current kernel. */
typedef struct Item {
    KlValue image, group, band, block;
} Item;

/* ---- 1: input lines into scratch --------------------------------------------------------- */

/* dest[at + class * plane + i] = line[i * step + class] for i in 0 .. n, from the line buffer. */
static void split_classes(KdLower *l, const SchConv *c, int from_line, int dest, KlValue at) {
    KlBuilder *b = &l->b;
    int lanes = c->tile.lanes;
    int64_t n = c->pitch, step = c->x.step;
    if (step != 2) {
        KlFor k = sch_loop_n(b, c->x.classes);
        KlValue to = sch_madc(b, k.i, c->plane, at);
        KlFor i = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, n), lanes);
        KlValue v = kl_load(b, from_line, sch_madc(b, i.i, step, k.i), 1);
        kl_store(b, dest, sch_add(b, to, i.i), v);
        sch_loop_end(b, &i);
        sch_loop_end(b, &k);
        return;
    }
    int pick[2][64];
    for (int i = 0; i < lanes; i++)
        pick[0][i] = 2 * i, pick[1][i] = 2 * i + 1;
    KlFor f = sch_loop(b, kl_i64(b, 0), kl_i64(b, n), lanes);
    KlValue from = sch_mulc(b, f.i, 2);
    KlValue lo = kl_load(b, from_line, from, lanes),
            hi = kl_load(b, from_line, sch_addc(b, from, lanes), lanes);
    KlValue mask = KL_NONE;
    if (n % lanes) {
        KlValue left = kl_cvt(b, KL_I32, kl_op2(b, KL_OP_SUB, kl_i64(b, n), f.i));
        mask = kl_cmp(b, KL_LT, kl_iota(b, KL_I32, lanes), kl_splat(b, lanes, left));
    }
    for (int k = 0; k < c->x.classes; k++) {
        KlValue v = kl_shuffle(b, lo, hi, lanes, pick[k]),
                to = sch_add(b, sch_addc(b, at, k * c->plane), f.i);
        if (mask == KL_NONE)
            kl_store(b, dest, to, v);
        else
            kl_store_if(b, dest, to, v, mask);
    }
    sch_loop_end(b, &f);
}

void sch_conv_fill(KdLower *l, const SchConv *c, int line_buf, KlValue image, KlValue channel,
                   KlValue grid, int64_t lines, int dest, KlValue at) {
    KlBuilder *b = &l->b;
    SchSource s = {.element = sch_picture_element,
                   .node = c->node,
                   .operand = 0,
                   .width = c->x.in,
                   .border = sch_border(l, c->node, 0, 3)};
    KlFor k = sch_loop_n(b, c->y.classes), r = sch_loop_n(b, lines);
    KlValue y = sch_addc(b, sch_madc(b, sch_add(b, grid, r.i), c->y.step, k.i), c->y.origin);
    KlValue to =
        sch_add(b, sch_madc(b, k.i, c->plane * c->x.classes, at), sch_mulc(b, r.i, c->pitch));
    SchGuard guard = sch_guard_begin(b, y, c->y.in);
    KlValue line[3] = {image, channel, y};
    if (c->x.step == 1) {
        sch_fill_line(l, &s, line, c->x.origin, c->pitch, dest, to);
    } else {
        sch_fill_line(l, &s, line, c->x.origin, c->pitch * c->x.step, line_buf, kl_i64(b, 0));
        split_classes(l, c, line_buf, dest, to);
    }
    if (sch_guard_else(b, &guard)) {
        for (int64_t i = 0; i < c->x.classes; i++)
            sch_zero(b, dest, sch_addc(b, to, i * c->plane), c->pitch, c->tile.lanes);
        sch_guard_end(b, &guard);
    }
    sch_loop_end(b, &r);
    sch_loop_end(b, &k);
}

/* Column tiles may end behind the last line, and what their vectors meet there must be initialised.
 */
static int64_t overrun(const SchConv *c) {
    return sch_max(c->tile.lanes, c->width + c->x.reach - c->bands.size * c->pitch);
}

int sch_conv_line_buffer(KdLower *l, const SchConv *c) {
    int lanes = c->tile.lanes;
    if (c->x.step == 1) return -1;
    return kl_buf(l->k, "line", KL_F32, sch_ceil(c->pitch, lanes) * lanes * sch_max(c->x.step, 2),
                  KL_SCRATCH);
}

static int64_t prefill_count(const SchConv *c) {
    return c->batch * c->groups * c->depth * c->channel + overrun(c);
}

static void build_prefill(KdLower *l, const SchConv *c) {
    int64_t channels = c->groups * c->depth;
    kd_lower_begin(l, "padded picture", c->batch * channels);
    KlBuilder *b = &l->b;
    int line = sch_conv_line_buffer(l, c);
    int dest = kd_lower_temp(l, 0, KL_F32, prefill_count(c), KL_OUT);
    KlValue p = kl_parallel_index(l->k), image = p, channel = sch_split(b, &image, channels);
    sch_conv_fill(l, c, line, image, channel, kl_i64(b, 0),
                  c->bands.count * c->bands.size + c->y.reach, dest, sch_mulc(b, p, c->channel));
    KlIf last = kl_if_begin(b, kl_cmp(b, KL_EQ, p, kl_i64(b, c->batch * channels - 1)));
    sch_zero(b, dest, kl_i64(b, c->batch * channels * c->channel), overrun(c), c->tile.lanes);
    kl_if_end(b, &last);
    l->k->bytes = 4.0 * (double)(prefill_count(c) + c->batch * channels * c->y.in * c->x.in);
    kd_lower_end(l);
}

/* ---- 2: the register tiles --------------------------------------------------------------- */

/* Weights lie [out, in/groups, kh, kw], transposed [in, out/groups, kh, kw]. Packed:
 * [group][row tile][phase][input channel][tap of the phase][mr output channels], so that they are
 * read in one stream; as they are, rows of a power of two of channels meet in the same few lines of
 * the first cache, and a phase uses a part of each line. Strides of one phase: */
typedef struct Weights {
    int64_t row, depth, y, x;
} Weights;

static int64_t all_taps(const SchConv *c) { return c->y.kernel * c->x.kernel; }

static Weights weight_strides(const SchConv *c, int64_t py, int64_t px) {
    int64_t taps = all_taps(c), mr = c->tile.mr, nx = c->x.taps[px].count;
    if (c->packed) return (Weights){1, c->y.taps[py].count * nx * mr, nx * mr, mr};
    if (c->transposed) return (Weights){taps, c->rows_out * taps, c->x.kernel, 1};
    return (Weights){c->depth * taps, taps, c->x.kernel, 1};
}

static int64_t row_tiles(const SchConv *c) { return sch_ceil(c->rows_out, c->tile.mr); }

/* Packed weights of the phases before this one, of one row tile. */
static int64_t phase_start(const SchConv *c, int64_t py, int64_t px) {
    int64_t taps = 0;
    for (int64_t y = 0; y <= py; y++)
        for (int64_t x = 0; x < (y == py ? px : c->x.phases); x++)
            taps += c->y.taps[y].count * c->x.taps[x].count;
    return taps * c->depth * c->tile.mr;
}

/* Of one row tile; taps that no phase uses are left out. */
static int64_t packed_tile(const SchConv *c) { return phase_start(c, c->y.phases - 1, c->x.phases); }

static int64_t packed_count(const SchConv *c) { return c->groups * row_tiles(c) * packed_tile(c); }

static void pack_phase(KlBuilder *b, const SchConv *c, int64_t py, int64_t px, int from, KlValue at, int to,
                       KlValue dest) {
    SchConv plain = *c;
    plain.packed = false;
    Weights in = weight_strides(&plain, py, px), out = weight_strides(c, py, px);
    const SchTaps *ty = &c->y.taps[py], *tx = &c->x.taps[px];
    if (ty->count * tx->count == 0) return;
    KlFor i = sch_loop_n(b, c->depth), r = sch_loop_n(b, c->tile.mr), y = sch_loop_n(b, ty->count);
    at = sch_madc(b, i.i, in.depth, sch_madc(b, r.i, in.row, at));
    at = sch_madc(b, sch_addc(b, sch_mulc(b, y.i, ty->step), ty->first), in.y, at);
    dest = sch_madc(b, i.i, out.depth, sch_madc(b, r.i, out.row, sch_madc(b, y.i, out.y, dest)));
    for (int64_t x = 0; x < tx->count; x++)
        kl_store(b, to, sch_addc(b, dest, x * out.x), kl_load(b, from, sch_addc(b, at, tx->first + x * tx->step), 1));
    sch_loop_end(b, &y);
    sch_loop_end(b, &r);
    sch_loop_end(b, &i);
}

static void build_packed(KdLower *l, const SchConv *c) {
    sch_keep(l, c->node, 1, 2, packed_count(c));
    kd_lower_begin(l, "packed weights", c->groups * row_tiles(c));
    KlBuilder *b = &l->b;
    int from = sch_operand_buffer(l, c->node, 1, 1), to = kd_lower_temp(l, 2, KL_F32, packed_count(c), KL_OUT);
    SchConv plain = *c;
    plain.packed = false;
    Weights in = weight_strides(&plain, 0, 0);
    KlValue p = kl_parallel_index(l->k), dest = sch_mulc(b, p, packed_tile(c)), group = p;
    KlValue row = sch_tile_first(b, sch_split(b, &group, row_tiles(c)), c->tile.mr, c->rows_out);
    KlValue at = sch_madc(b, group, c->transposed ? c->depth * in.depth : c->rows_out * in.row,
                          sch_mulc(b, row, in.row));
    for (int64_t py = 0; py < c->y.phases; py++)
        for (int64_t px = 0; px < c->x.phases; px++)
            pack_phase(b, c, py, px, from, at, to, sch_addc(b, dest, phase_start(c, py, px)));
    l->k->bytes = 4.0 * (double)(packed_count(c) + sch_operand_type(l, c->node, 1)->count);
    kd_lower_end(l);
}

/* Where tap j of a phase lies: its number in the kernel, and its offset in scratch. */
static KlValue tap_offset(KlBuilder *b, const SchDim *d, int64_t phase, KlValue j,
                          int64_t class_stride, int64_t unit, KlValue *tap) {
    const SchTaps *t = &d->taps[phase];
    if (d->transposed) {
        *tap = sch_addc(b, sch_mulc(b, j, t->step), t->first);
        return sch_mulc(b, sch_addc(b, sch_mulc(b, j, t->offset_step), t->offset), unit);
    }
    *tap = j;
    KlValue at = sch_mulc(b, j, d->dilation), class = at;
    if (d->stride == 2) { /* not negative: no sign to take care of, in the innermost loop but one */
        class = kl_op2(b, KL_OP_AND, at, kl_i64(b, 1));
        at = kl_op2(b, KL_OP_SHR, at, kl_i64(b, 1));
    } else {
        class = sch_split(b, &at, d->stride);
    }
    return sch_add(b, sch_mulc(b, class, class_stride), sch_mulc(b, at, unit));
}

/* The same where everything is known. */
static int64_t tap_offset_known(const SchDim *d, int64_t phase, int64_t j, int64_t class_stride,
                                int64_t *tap) {
    const SchTaps *t = &d->taps[phase];
    *tap = t->first + j * t->step;
    if (d->transposed) return t->offset + j * t->offset_step;
    return j * d->dilation % d->stride * class_stride + j * d->dilation / d->stride;
}

/* Sums over the taps of one line of the kernel; s and w: where the line's scratch and weights
 * begin. */
static void sum_line(KlBuilder *b, const SchConv *c, const Buffers *u, int64_t px, Weights ws,
                     KlValue s, KlValue w, KlValue *acc) {
    const SchTile *t = &c->tile;
    int64_t taps = c->x.taps[px].count, aoff[SCH_MAX_TILE], boff[SCH_MAX_TILE];
    sch_strides(aoff, t->mr, ws.row);
    sch_strides(boff, t->nv, t->lanes);
    if (taps <= (t->lanes == 4 ? 4 : 8)) { /* on NEON a longer body spills */
        for (int64_t i = 0; i < taps; i++) {
            int64_t tap, at = tap_offset_known(&c->x, px, i, c->plane, &tap);
            sch_tile_step(b, t, acc, u->weights, sch_addc(b, w, (c->packed ? i : tap) * ws.x), aoff, u->picture,
                          sch_addc(b, s, at), boff);
        }
        return;
    }
    KlFor f = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, taps), 1, t->mr * t->nv, acc);
    KlValue tap, next[SCH_MAX_TILE], at = tap_offset(b, &c->x, px, f.i, c->plane, 1, &tap);
    for (int k = 0; k < t->mr * t->nv; k++)
        next[k] = f.carried[k];
    sch_tile_step(b, t, next, u->weights, sch_madc(b, c->packed ? f.i : tap, ws.x, w), aoff,
                  u->picture, sch_add(b, s, at), boff);
    f.instr->unroll = (uint16_t)sch_unroll(t->mr * t->nv, taps);
    kl_for_end(b, &f, next, acc);
}

/* One register tile of one phase. s: scratch of the slice at this column tile; w: the weights of
 * the row tile at the slice's first channel; at: its place in the output tile. */
static void one_tile(KlBuilder *b, const SchConv *c, const Buffers *u, int64_t py, int64_t px,
                     KlValue depth, KlValue s, KlValue w, KlValue at) {
    const SchTile *t = &c->tile;
    Weights ws = weight_strides(c, py, px);
    int n = t->mr * t->nv;
    int64_t ny = c->y.taps[py].count, nx = c->x.taps[px].count;
    KlValue acc[SCH_MAX_TILE], next[SCH_MAX_TILE];
    int64_t row[SCH_MAX_TILE], column[SCH_MAX_TILE];
    sch_strides(row, t->mr, c->width);
    sch_strides(column, t->nv, t->lanes);
    bool sliced = c->slices.count > 1;
    if (!(ny && nx) && sliced) return; /* this phase's zeros are there already */
    sch_tile_init(b, t, acc, !sliced, u->tile, at, row, column);
    if (ny && nx) {
        KlFor f = kl_for_begin(b, kl_i64(b, 0), depth, 1, n, acc);
        KlValue s1 = sch_madc(b, f.i, c->channel, s), w1 = sch_madc(b, f.i, ws.depth, w);
        for (int k = 0; k < n; k++)
            next[k] = f.carried[k];
        if (ny == 1) {
            KlValue tap, off = tap_offset(b, &c->y, py, kl_i64(b, 0), c->plane * c->x.classes,
                                          c->pitch, &tap);
            tap = c->packed ? kl_i64(b, 0) : tap;
            sum_line(b, c, u, px, ws, sch_add(b, s1, off), sch_madc(b, tap, ws.y, w1), next);
            f.instr->unroll = (uint16_t)sch_unroll(n * nx, c->slices.size);
        } else {
            KlFor g = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, ny), 1, n, next);
            KlValue tap,
                off = tap_offset(b, &c->y, py, g.i, c->plane * c->x.classes, c->pitch, &tap);
            KlValue inner[SCH_MAX_TILE];
            for (int k = 0; k < n; k++)
                inner[k] = g.carried[k];
            tap = c->packed ? g.i : tap;
            sum_line(b, c, u, px, ws, sch_add(b, s1, off), sch_madc(b, tap, ws.y, w1), inner);
            kl_for_end(b, &g, inner, next);
        }
        kl_for_end(b, &f, next, acc);
    }
    sch_tile_store(b, t, acc, u->tile, at, row, column);
}

/* Number of output rows that the output tile holds, all phases. */
static int64_t tile_rows(const SchConv *c) { return c->tiles.size * c->tile.mr; }

static void all_tiles(KlBuilder *b, const SchConv *c, const Buffers *u, const Item *it,
                      KlValue first, KlValue depth, KlValue s) {
    const SchTile *t = &c->tile;
    KlFor f = sch_loop_n(b, c->vectors);
    KlValue column = sch_mulc(b, f.i, (int64_t)t->nv * t->lanes);
    KlFor m = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &c->tiles, it->block), 1);
    KlValue tile = sch_madc(b, it->block, c->tiles.size, m.i);
    KlValue row = sch_tile_first(b, tile, t->mr, c->rows_out);
    KlValue at = sch_madc(b, m.i, t->mr * c->width, column);
    for (int64_t py = 0; py < c->y.phases; py++)
        for (int64_t px = 0; px < c->x.phases; px++) {
            int64_t phase = (py * c->x.phases + px) * tile_rows(c) * c->width;
            Weights ws = weight_strides(c, py, px);
            int64_t group = c->transposed ? c->depth * ws.depth : c->rows_out * ws.row;
            KlValue w = sch_madc(b, it->group, group, sch_mulc(b, row, ws.row));
            if (c->packed) {
                w = sch_mulc(b, sch_madc(b, it->group, row_tiles(c), tile), packed_tile(c));
                w = sch_addc(b, w, phase_start(c, py, px));
            }
            w = sch_madc(b, first, ws.depth, w);
            one_tile(b, c, u, py, px, depth, sch_add(b, s, column), w, sch_addc(b, at, phase));
        }
    sch_loop_end(b, &m);
    sch_loop_end(b, &f);
}

/* ---- 3: the epilogue --------------------------------------------------------------------- */

/* One output row: from: its place in the output tile (phase x = 0). */
static void finish_row(KdLower *l, const SchConv *c, const Buffers *u, KlValue from,
                       const KlValue *place) {
    KlBuilder *b = &l->b;
    int lanes = c->tile.lanes;
    int64_t stride = c->x.phases, next = tile_rows(c) * c->width;
    int buf = u->tile;
    if (stride == 2) {
        int mix[2][64];
        for (int i = 0; i < lanes; i++) {
            mix[0][i] = i / 2 + (i & 1 ? lanes : 0);
            mix[1][i] = mix[0][i] + lanes / 2;
        }
        KlFor f = sch_loop(b, kl_i64(b, 0), kl_i64(b, c->x.grid), lanes);
        KlValue at = sch_add(b, from, f.i), to = sch_mulc(b, f.i, 2);
        KlValue even = kl_load(b, buf, at, lanes),
                odd = kl_load(b, buf, sch_addc(b, at, next), lanes);
        kl_store(b, u->row, to, kl_shuffle(b, even, odd, lanes, mix[0]));
        kl_store(b, u->row, sch_addc(b, to, lanes), kl_shuffle(b, even, odd, lanes, mix[1]));
        sch_loop_end(b, &f);
        buf = u->row, from = kl_i64(b, 0);
    }
    KlFor f = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, c->x.out), lanes);
    KlValue x = f.i, at = x;
    if (stride > 2) {
        KlValue phase = sch_split(b, &at, stride);
        at = sch_madc(b, phase, next, at);
    }
    KlValue idx[4] = {place[0], place[1], place[2], x};
    kd_lower_finish(l, kl_load(b, buf, sch_add(b, from, at), 1), idx);
    sch_loop_end(b, &f);
}

static void finish(KdLower *l, const SchConv *c, const Buffers *u, const Item *it) {
    KlBuilder *b = &l->b;
    KlValue m0 = sch_mulc(b, it->block, tile_rows(c));
    KlValue rows = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, c->rows_out), m0), tile_rows(c));
    KlFor m = sch_loop(b, kl_i64(b, 0), rows, 1);
    KlValue row = sch_add(b, m0, m.i), held = sch_tile_row(b, m.i, row, c->tile.mr, c->rows_out);
    KlFor r = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &c->bands, it->band), 1);
    KlValue grid = sch_madc(b, it->band, c->bands.size, r.i);
    KlFor p = sch_loop_n(b, c->y.phases);
    KlValue y = sch_madc(b, grid, c->y.phases, p.i);
    KlValue from = sch_madc(b, held, c->width, sch_mulc(b, r.i, c->pitch));
    from = sch_madc(b, p.i, c->x.phases * tile_rows(c) * c->width, from);
    KlValue place[3] = {it->image, sch_madc(b, it->group, c->rows_out, row), y};
    SchGuard guard = sch_guard_begin(b, y, c->y.out);
    finish_row(l, c, u, from, place);
    if (sch_guard_else(b, &guard)) sch_guard_end(b, &guard);
    sch_loop_end(b, &p);
    sch_loop_end(b, &r);
    sch_loop_end(b, &m);
}

/* ---- the whole --------------------------------------------------------------------------- */

static void build_slices(KdLower *l, const SchConv *c, const Buffers *u, const Item *it) {
    KlBuilder *b = &l->b;
    KlFor f = sch_loop_n(b, c->slices.count);
    KlValue first = sch_mulc(b, f.i, c->slices.size), depth = sch_cut_length(b, &c->slices, f.i), s;
    KlValue channel = sch_madc(b, it->group, c->depth, first);
    KlValue grid = sch_mulc(b, it->band, c->bands.size);
    if (c->prefill) {
        KlValue which = sch_madc(b, it->image, c->groups * c->depth, channel);
        s = sch_madc(b, which, c->channel, sch_mulc(b, grid, c->pitch));
    } else {
        s = kl_i64(b, 0);
        KlFor i = sch_loop(b, kl_i64(b, 0), depth, 1);
        sch_conv_fill(l, c, u->line, it->image, sch_add(b, channel, i.i), grid,
                      c->bands.size + c->y.reach, u->picture, sch_mulc(b, i.i, c->channel));
        sch_loop_end(b, &i);
    }
    all_tiles(b, c, u, it, first, depth, s);
    sch_loop_end(b, &f);
}

double cost_conv(const KdLower *l, const KdGroup *g) {
    SchConv c;
    if (!sch_conv_geometry(&c, l, g->root) || !sch_conv_plan(&c, l)) return -1;
    return c.cycles / SCH_HERTZ;
}

void build_conv(KdLower *l, const KdGroup *g) {
    SchConv plan, *c = &plan;
    sch_conv_geometry(c, l, g->root);
    sch_conv_plan(c, l);
    sch_materialise(l, c->node, 1, 1);
    if (c->prefill) build_prefill(l, c);
    if (c->packed) build_packed(l, c);

    const KdType *t = kd_vtype(l->fu->f, c->node);
    const char *what =
        kd_format(l->cx, "%s %s", kd_op_info[sch_root(l, g)->op].name, kd_shape_text(l->cx, t));
    kd_lower_begin(l, what, c->batch * c->groups * c->bands.count * c->tiles.count);
    KlBuilder *b = &l->b;
    int lanes = c->tile.lanes;
    int64_t slice = c->slices.size * c->channel;
    Buffers u = {.row = -1, .line = -1};
    u.weights = c->packed ? kd_lower_temp(l, 2, KL_F32, packed_count(c), KL_IN)
                          : sch_operand_buffer(l, c->node, 1, 1);
    if (c->prefill) {
        u.picture = kd_lower_temp(l, 0, KL_F32, prefill_count(c), KL_IN);
    } else {
        u.line = sch_conv_line_buffer(l, c);
        u.picture = kl_buf(l->k, "picture", KL_F32, slice + overrun(c), KL_SCRATCH);
        sch_zero(b, u.picture, kl_i64(b, slice), overrun(c), lanes);
    }
    int64_t tile = sch_conv_phases(c) * tile_rows(c) * c->width;
    u.tile = kl_buf(l->k, "tile", KL_F32, tile + lanes, KL_SCRATCH);
    if (c->x.phases == 2)
        u.row = kl_buf(l->k, "row", KL_F32, sch_ceil(c->x.grid, lanes) * lanes * 2, KL_SCRATCH);
    if (c->slices.count > 1) sch_zero(b, u.tile, kl_i64(b, 0), tile, lanes);
    KlValue p = kl_parallel_index(l->k);
    Item it;
    it.block = sch_split(b, &p, c->tiles.count);
    it.band = sch_split(b, &p, c->bands.count);
    it.group = sch_split(b, &p, c->groups);
    it.image = p;
    build_slices(l, c, &u, &it);
    finish(l, c, &u, &it);
    const KdType *x = sch_operand_type(l, c->node, 0), *w = sch_operand_type(l, c->node, 1);
    l->k->flops = 2 * sch_macs(l, c->node);
    l->k->bytes = 4.0 * (double)(x->count + w->count + t->count);
    kd_lower_end(l);
}

void explain_conv(KdStr *s, const KdLower *l, const KdGroup *g) {
    SchConv c;
    if (!sch_conv_geometry(&c, l, g->root) || !sch_conv_plan(&c, l)) return;
    sch_explain_tile(s, &c.tile);
    if (sch_conv_phases(&c) > 1) kd_str_printf(s, ", %lld phases", (long long)sch_conv_phases(&c));
    sch_explain_cut(s, &c.tiles, "blocks", c.tile.mr, "channels");
    sch_explain_cut(s, &c.bands, "bands", 1, "rows");
    sch_explain_cut(s, &c.slices, "slices", 1, "input channels");
    kd_str_printf(s, ", picture copied %s in rows of %lld", c.prefill ? "once" : "by each item",
                  (long long)c.pitch);
    if (c.packed) kd_str_printf(s, ", weights packed");
}
