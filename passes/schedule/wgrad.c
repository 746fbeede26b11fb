/* wgrad.c: conv2d_wgrad where there are many pixels: wgrad_outer and wgrad_inner.
 *
 * Both sum over pixels one at a time. One operand, the lanes' one, is transposed so that the
 * channels of a pixel are neighbours; the other stays as it is and is broadcast. No sums across
 * lanes, any stride and dilation. outer: lanes are output channels; tile rows are (input channel,
 * kernel column): gw's own shape, transposed inner: lanes are input channels; tile rows are output
 * channels, tile columns (kernel column, input channels): for convolutions with a few outputs An
 * item of the parallel range is a block of lanes, a block of the other channels, and a chunk of the
 * pixels (bands of rows of all pictures). It copies a band of both operands into scratch through
 * the prologue, sums it into its output tile, and goes on. With one chunk the tile goes through the
 * epilogue; else it is kept as a partial sum and a second kernel adds the chunks, always in the
 * same order. Transposed lines that several items need are made by a kernel of their own.
 */
#include "passes/schedule/wgrad.h"

typedef struct Outer {
    SchWgrad w;
    bool inner;
    int64_t lane_channels, other_channels;
    int64_t other;    /* channels of the other operand in a tile */
    int64_t taps;     /* kernel columns in a tile: all, or one */
    int lane_vectors; /* vectors of lane channels in a tile */
    SchTile tile;
    SchCut lane_tiles, other_tiles;
    SchCut bands;  /* output rows */
    SchCut chunks; /* of all pictures' bands */
    bool shared;   /* transposed lines are in a temp */
    double cycles;
    /* what follows */
    int64_t lanes; /* lane channels of a block, padded to tiles */
    int64_t lane_lines,
        lane_pixels; /* of a band of the transposed operand; pixels padded to vectors */
    int64_t other_lines, other_pitch;
    int64_t result; /* elements of an item's output tile: [other][a][b][lanes] */
} Outer;

bool sch_wgrad_shape(SchWgrad *w, const KdLower *l, KdValue root) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, root);
    const KdType *x = sch_operand_type(l, root, 0), *gy = sch_operand_type(l, root, 1),
                 *y = n->type;
    KdInts stride = kd_attr_ints(f, n, "stride"), pad = kd_attr_ints(f, n, "pad");
    KdInts dilation = kd_attr_ints(f, n, "dilation");
    int64_t groups = kd_attr_int(f, n, "groups");
    if (x->count == 0 || gy->count == 0 || y->count == 0 || x->dtype != KD_F32) return false;
    *w = (SchWgrad){.node = root,
                    .machine = sch_machine(l),
                    .batch = x->dim[0],
                    .groups = groups,
                    .outputs = gy->dim[1] / groups,
                    .inputs = x->dim[1] / groups};
    for (int k = 0; k < 2; k++) {
        SchSpan *s = k ? &w->x : &w->y;
        *s = (SchSpan){.kernel = y->dim[2 + k],
                       .stride = stride.v[k],
                       .dilation = dilation.v[k],
                       .pad = pad.v[k],
                       .in = x->dim[2 + k],
                       .out = gy->dim[2 + k]};
        s->padded = (s->out - 1) * s->stride + (s->kernel - 1) * s->dilation + 1;
    }
    return true;
}

/* ---- the plan ---------------------------------------------------------------------------- */

/* Input lines that a number of output rows touch. */
static int64_t input_lines(const SchWgrad *w, int64_t rows) {
    return (rows - 1) * w->y.stride + (w->y.kernel - 1) * w->y.dilation + 1;
}

static int64_t round_up(int64_t a, int64_t b) { return sch_ceil(a, b) * b; }

/* Lane channels of a lane tile. */
static int64_t tile_width(const Outer *u) { return (int64_t)u->lane_vectors * u->tile.lanes; }

static void derive(Outer *u) {
    const SchWgrad *w = &u->w;
    const SchTile *t = &u->tile;
    int64_t rows = u->bands.size, steps = w->batch * u->bands.count,
            kernel = w->y.kernel * w->x.kernel;
    int64_t lines = input_lines(w, rows), width = tile_width(u);
    u->lanes = u->lane_tiles.size * width;
    u->lane_lines = u->inner ? lines : rows;
    u->lane_pixels = round_up(u->inner ? w->x.padded : w->x.out, t->lanes);
    u->other_lines = u->inner ? rows : lines;
    u->other_pitch = u->inner ? w->x.out : w->x.padded;
    u->result = u->other_tiles.size * u->other * kernel * u->lanes;

    double tiles =
        (double)(u->lane_tiles.size * u->other_tiles.size * w->y.kernel * (w->x.kernel / u->taps));
    double pixels = (double)(rows * w->x.out),
           step = sch_tile_cycles(&w->machine, t->mr, t->nv, true);
    /* The lanes of a tile's band stay in the first cache while all tiles of the others pass, or
     * stream past. */
    double fresh = (double)(width * (u->inner ? w->x.stride : 1));
    if (4 * (double)(u->lane_lines * u->lane_pixels * width) > 0.6 * w->machine.l1 &&
        step < fresh / 4)
        step = fresh / 4;
    double sum = tiles * (pixels * step + (double)rows * 4 + 1.5 * t->mr * t->nv + 20);
    double spread = (double)(u->lane_lines * u->lane_pixels * u->lanes) * 0.6 +
                    (double)(u->lane_lines * u->lanes) * 4;
    double copy = (double)(u->other_tiles.size * u->other * u->other_lines) *
                  ((double)u->other_pitch * 0.3 + 10);
    double scratch =
        4 * (double)(u->result + u->other_tiles.size * u->other * u->other_lines * u->other_pitch +
                     u->lane_lines * u->lane_pixels * u->lanes);
    double band = sum * sch_crowding(&w->machine, scratch) + copy + (u->shared ? 0.1 : 1) * spread;
    double blocks = (double)(w->groups * u->lane_tiles.count * u->other_tiles.count);
    double items = blocks * (double)u->chunks.count;
    double item = band * (double)u->chunks.size + (double)u->result * 0.1 + 100;
    u->cycles = item * sch_dealt(items) + 4000 +
                blocks * (double)u->result * (1.0 + 0.2 * (double)u->chunks.count);
    if (u->chunks.count > 1) u->cycles += 4000;
    if (u->shared) u->cycles += 4000 + spread * (double)(u->lane_tiles.count * w->groups * steps);
}

static void try_chunks(Outer *best, Outer *u) {
    for (int64_t bands = 1; bands <= u->w.y.out; bands = sch_next_count(bands)) {
        u->bands = sch_cut(u->w.y.out, sch_ceil(u->w.y.out, bands));
        int64_t steps = u->w.batch * u->bands.count;
        int64_t blocks = u->w.groups * u->lane_tiles.count * u->other_tiles.count;
        for (int64_t chunks = 1; chunks <= steps && (chunks == 1 || chunks * blocks <= 32);
             chunks *= 2)
            for (int shared = 0; shared < 2; shared++) {
                u->chunks = sch_cut(steps, sch_ceil(steps, chunks));
                u->shared = shared;
                derive(u);
                if (best->cycles < 0 || u->cycles < best->cycles) *best = *u;
            }
    }
}

static void try_blocks(Outer *best, Outer *u) {
    int64_t lanes = sch_ceil(u->lane_channels, tile_width(u));
    int64_t others = sch_ceil(u->other_channels, u->other);
    for (int64_t i = 1; i <= lanes; i = sch_next_count(i))
        for (int64_t j = 1; j <= others; j = sch_next_count(j)) {
            if (i * j > 64) continue;
            u->lane_tiles = sch_cut(lanes, sch_ceil(lanes, i));
            u->other_tiles = sch_cut(others, sch_ceil(others, j));
            try_chunks(best, u);
        }
}

/* Cycles for one useful multiplication in the register tile alone. */
static double tile_price(const Outer *u) {
    double step = sch_tile_cycles(&u->w.machine, u->tile.mr, u->tile.nv, true);
    double lanes = (double)round_up(u->lane_channels, tile_width(u));
    double others = (double)round_up(u->other_channels, u->other);
    return step / (u->tile.mr * u->tile.nv) * lanes * others;
}

static bool plan(Outer *u, const KdLower *l, KdValue root, bool inner) {
    if (sch_recall(l, root, inner ? "inner" : "outer", u, sizeof *u)) {
        u->w.node = root;
        return u->cycles >= 0;
    }
    *u = (Outer){.inner = inner, .cycles = -1};
    if (!sch_wgrad_shape(&u->w, l, root)) return false;
    const SchWgrad *w = &u->w;
    u->lane_channels = inner ? w->inputs : w->outputs;
    u->other_channels = inner ? w->outputs : w->inputs;
    Outer best = *u, c = *u;
    double least = 1e30;
    for (int pass = 0; pass < 2; pass++)
        for (int other = 1; other <= 14 && other <= u->other_channels; other++)
            for (int vectors = 1; vectors <= 8; vectors++)
                for (int single = 0; single < 2; single++) {
                    c.taps = single ? 1 : w->x.kernel;
                    int64_t mr = inner ? other : other * c.taps,
                            nv = inner ? vectors * c.taps : vectors;
                    if (mr > 14 || nv > 14 || !sch_tile_fits(&w->machine, (int)mr, (int)nv))
                        continue;
                    c.other = other, c.lane_vectors = vectors;
                    c.tile = (SchTile){(int)mr, (int)nv, w->machine.lanes, w->machine.fma};
                    double price = tile_price(&c);
                    if (pass == 0)
                        least = price < least ? price : least;
                    else if (price <= 1.05 * least)
                        try_blocks(&best, &c);
                }
    *u = best;
    sch_remember(l, root, inner ? "inner" : "outer", u, sizeof *u);
    return best.cycles >= 0;
}

/* ---- bands of the operands --------------------------------------------------------------- */

typedef struct Buffers {
    int lanes, other, line, tile, turned;
} Buffers;

static SchSource source(KdLower *l, const SchWgrad *w, int operand) {
    return (SchSource){.element = sch_picture_element,
                       .node = w->node,
                       .operand = operand,
                       .width = operand == 0 ? w->x.in : w->x.out,
                       .border = sch_border(l, w->node, operand, 3)};
}

/* One line of operand 0 (padded, n = x.padded) or 1 (n = x.out); row: of the padded picture, or the
 * output row. */
static void fill_row(KdLower *l, const SchWgrad *w, int operand, KlValue image, KlValue channel,
                     KlValue row, int dest, KlValue at) {
    KlBuilder *b = &l->b;
    SchSource s = source(l, w, operand);
    int64_t n = operand == 0 ? w->x.padded : w->x.out;
    KlValue y = operand == 0 ? sch_addc(b, row, -w->y.pad) : row;
    SchGuard guard = sch_guard_begin(b, y, operand == 0 ? w->y.in : w->y.out);
    KlValue line[3] = {image, channel, y};
    sch_fill_line(l, &s, line, operand == 0 ? -w->x.pad : 0, n, dest, at);
    if (sch_guard_else(b, &guard)) {
        sch_zero(b, dest, at, n, w->machine.lanes);
        sch_guard_end(b, &guard);
    }
}

/* One line of the transposed operand: dest[at + tile * stride + pixel * width + channel of the
 * tile], for `tiles` lane tiles from channel `first` of the group on. The sums read one tile after
 * the other, so that each lies together. */
static void spread_line(KdLower *l, const Outer *u, const Buffers *f, KlValue image, KlValue group,
                        KlValue first, KlValue tiles, KlValue row, int dest, KlValue at,
                        int64_t stride) {
    KlBuilder *b = &l->b;
    int w = u->tile.lanes, operand = u->inner ? 0 : 1;
    int64_t width = tile_width(u);
    KlFor v = sch_loop(b, kl_i64(b, 0), sch_mulc(b, tiles, u->lane_vectors), 1),
          y = sch_loop_n(b, w);
    KlValue channel = sch_add(b, first, sch_madc(b, v.i, w, y.i));
    KlValue line = sch_mulc(b, y.i, u->lane_pixels);
    SchGuard guard = sch_guard_begin(b, channel, u->lane_channels);
    fill_row(l, &u->w, operand, image, sch_madc(b, group, u->lane_channels, channel), row, f->line,
             line);
    if (sch_guard_else(b, &guard)) {
        sch_zero(b, f->line, line, u->lane_pixels, w);
        sch_guard_end(b, &guard);
    }
    sch_loop_end(b, &y);
    KlFor x = sch_loop(b, kl_i64(b, 0), kl_i64(b, u->lane_pixels), w);
    KlValue tile = v.i, part = sch_split(b, &tile, u->lane_vectors);
    KlValue to =
        sch_add(b, sch_madc(b, tile, stride, at), sch_madc(b, part, w, sch_mulc(b, x.i, width)));
    sch_transpose(b, w, f->line, x.i, u->lane_pixels, dest, to, width);
    sch_loop_end(b, &x);
    sch_loop_end(b, &v);
}

static int line_buffer(KdLower *l, const Outer *u) {
    return kl_buf(l->k, "line", KL_F32, u->lane_pixels * u->tile.lanes, KL_SCRATCH);
}

/* The shared temp: [image][group][lane tile][lines of the whole picture][pixels][lanes of the
 * tile]. */
static int64_t shared_lines(const Outer *u) {
    return u->inner ? input_lines(&u->w, u->bands.count * u->bands.size)
                    : u->bands.count * u->bands.size;
}
static int64_t shared_tile(const Outer *u) {
    return shared_lines(u) * u->lane_pixels * tile_width(u);
}
static int64_t shared_tiles(const Outer *u) { return u->lane_tiles.count * u->lane_tiles.size; }
static int64_t shared_count(const Outer *u) {
    return u->w.batch * u->w.groups * shared_tiles(u) * shared_tile(u);
}

static void build_shared(KdLower *l, const Outer *u) {
    int64_t lines = shared_lines(u), line = u->lane_pixels * tile_width(u);
    kd_lower_begin(l, "channels last", u->w.batch * u->w.groups * lines);
    KlBuilder *b = &l->b;
    Buffers f = {.line = line_buffer(l, u)};
    int dest = kd_lower_temp(l, 0, KL_F32, shared_count(u), KL_OUT);
    KlValue p = kl_parallel_index(l->k), image = p, row = sch_split(b, &image, lines);
    KlValue group = sch_split(b, &image, u->w.groups);
    KlValue at = sch_madc(b, sch_madc(b, image, u->w.groups, group),
                          shared_tiles(u) * shared_tile(u), sch_mulc(b, row, line));
    SchGuard guard = sch_guard_begin(b, row, u->inner ? u->w.y.padded : u->w.y.out);
    spread_line(l, u, &f, image, group, kl_i64(b, 0), kl_i64(b, shared_tiles(u)), row, dest, at,
                shared_tile(u));
    if (sch_guard_else(b, &guard)) {
        KlFor v = sch_loop_n(b, shared_tiles(u));
        sch_zero(b, dest, sch_madc(b, v.i, shared_tile(u), at), line, u->tile.lanes);
        sch_loop_end(b, &v);
        sch_guard_end(b, &guard);
    }
    l->k->bytes = 8.0 * (double)shared_count(u);
    kd_lower_end(l);
}

/* ---- the sums ---------------------------------------------------------------------------- */

typedef struct Item {
    KlValue group, lane_block, other_block, image, band, rows;
} Item;

/* The other operand's band: [channel of the block][line][pitch]. Beyond the last channel it is
 * repeated: rows of the tile that nobody reads. */
static void fill_other(KdLower *l, const Outer *u, const Buffers *f, const Item *it) {
    KlBuilder *b = &l->b;
    int64_t channels = u->other_tiles.size * u->other;
    KlFor c = sch_loop_n(b, channels);
    KlValue channel = sch_madc(b, it->other_block, channels, c.i);
    channel = sch_minc(b, channel, u->other_channels - 1);
    channel = sch_madc(b, it->group, u->other_channels, channel);
    KlFor r = sch_loop(b, kl_i64(b, 0), u->inner ? it->rows : kl_i64(b, u->other_lines), 1);
    KlValue row = sch_madc(b, it->band, u->bands.size * (u->inner ? 1 : u->w.y.stride), r.i);
    KlValue at = sch_mulc(b, sch_madc(b, c.i, u->other_lines, r.i), u->other_pitch);
    fill_row(l, &u->w, u->inner ? 1 : 0, it->image, channel, row, f->other, at);
    sch_loop_end(b, &r);
    sch_loop_end(b, &c);
}

/* The transposed operand's band; returns where it begins in f->lanes. */
static KlValue fill_lanes(KdLower *l, const Outer *u, const Buffers *f, const Item *it) {
    KlBuilder *b = &l->b;
    int64_t rows = u->bands.size * (u->inner ? u->w.y.stride : 1);
    KlValue first = sch_mulc(b, it->lane_block, u->lanes);
    int64_t line = u->lane_pixels * tile_width(u);
    if (u->shared) {
        KlValue tile = sch_madc(b, sch_madc(b, it->image, u->w.groups, it->group), shared_tiles(u),
                                sch_mulc(b, it->lane_block, u->lane_tiles.size));
        return sch_madc(b, tile, shared_tile(u), sch_mulc(b, it->band, rows * line));
    }
    KlFor r = sch_loop(b, kl_i64(b, 0), u->inner ? kl_i64(b, u->lane_lines) : it->rows, 1);
    KlValue tiles = sch_cut_length(b, &u->lane_tiles, it->lane_block);
    spread_line(l, u, f, it->image, it->group, first, tiles, sch_madc(b, it->band, rows, r.i),
                f->lanes, sch_mulc(b, r.i, line), u->lane_lines * line);
    sch_loop_end(b, &r);
    return kl_i64(b, 0);
}

/* One register tile over a band. from, lanes: where the operands begin for this tile; at: its place
 * in the result. */
static void sum_tile(KlBuilder *b, const Outer *u, const Buffers *f, KlValue rows, KlValue from,
                     KlValue lanes, KlValue at) {
    const SchWgrad *w = &u->w;
    const SchTile *t = &u->tile;
    int n = t->mr * t->nv, kernel = (int)(w->y.kernel * w->x.kernel), taps = (int)u->taps,
        v = u->lane_vectors;
    int64_t channel = u->other_lines * u->other_pitch, lane_row = tile_width(u), aoff[SCH_MAX_TILE],
            boff[SCH_MAX_TILE];
    int64_t row[SCH_MAX_TILE], column[SCH_MAX_TILE];
    for (int r = 0; r < t->mr; r++) {
        int c = u->inner ? r : r / taps, tap = u->inner ? 0 : r % taps;
        aoff[r] = c * channel + tap * w->x.dilation;
        row[r] = (int64_t)(c * kernel + tap) * u->lanes;
    }
    for (int j = 0; j < t->nv; j++) {
        int tap = u->inner ? j / v : 0, vector = u->inner ? j % v : j;
        boff[j] = tap * w->x.dilation * lane_row + (int64_t)vector * t->lanes;
        column[j] = tap * u->lanes + (int64_t)vector * t->lanes;
    }
    int64_t ay = u->inner ? 1 : w->y.stride, ax = u->inner ? 1 : w->x.stride;
    int64_t by = u->inner ? w->y.stride : 1, bx = u->inner ? w->x.stride : 1;
    KlValue acc[SCH_MAX_TILE], next[SCH_MAX_TILE], inner[SCH_MAX_TILE];
    sch_tile_init(b, t, acc, false, f->tile, at, row, column);
    KlFor p = kl_for_begin(b, kl_i64(b, 0), rows, 1, n, acc);
    for (int k = 0; k < n; k++)
        next[k] = p.carried[k];
    KlValue a = sch_madc(b, p.i, ay * u->other_pitch, from);
    KlValue c = sch_madc(b, p.i, by * u->lane_pixels * lane_row, lanes);
    KlFor q = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, w->x.out), 1, n, next);
    for (int k = 0; k < n; k++)
        inner[k] = q.carried[k];
    sch_tile_step(b, t, inner, f->other, sch_madc(b, q.i, ax, a), aoff, f->lanes,
                  sch_madc(b, q.i, bx * lane_row, c), boff);
    q.instr->unroll = (uint16_t)sch_unroll(n, w->x.out);
    kl_for_end(b, &q, inner, next);
    kl_for_end(b, &p, next, acc);
    sch_tile_store(b, t, acc, f->tile, at, row, column);
}

static void sum_band(KlBuilder *b, const Outer *u, const Buffers *f, const Item *it, KlValue lanes,
                     KlValue result) {
    const SchWgrad *w = &u->w;
    int64_t kernel = w->y.kernel * w->x.kernel, width = tile_width(u);
    int64_t tile = u->shared ? shared_tile(u) : u->lane_lines * u->lane_pixels * width;
    KlFor v = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &u->lane_tiles, it->lane_block), 1);
    KlFor i = sch_loop_n(b, u->other_tiles.size);
    KlFor y = sch_loop_n(b, w->y.kernel), x = sch_loop_n(b, w->x.kernel / u->taps);
    KlValue from = sch_mulc(b, i.i, u->other * u->other_lines * u->other_pitch);
    KlValue to = sch_madc(b, i.i, u->other * kernel, sch_madc(b, y.i, w->x.kernel, x.i));
    to = sch_add(b, sch_madc(b, to, u->lanes, sch_mulc(b, v.i, width)), result);
    KlValue at = sch_madc(b, v.i, tile, lanes);
    KlValue down = sch_mulc(b, y.i, w->y.dilation), right = sch_mulc(b, x.i, w->x.dilation);
    if (u->inner)
        at = sch_madc(b, sch_madc(b, down, u->lane_pixels, right), width, at);
    else
        from = sch_add(b, from, sch_madc(b, down, u->other_pitch, right));
    sum_tile(b, u, f, it->rows, from, at, to);
    sch_loop_end(b, &x);
    sch_loop_end(b, &y);
    sch_loop_end(b, &i);
    sch_loop_end(b, &v);
}

/* ---- the epilogue ------------------------------------------------------------------------ */

/* Output channels are lanes of the result, but far apart in memory: turned, a vector of them at a
 * time. */
static void finish_outer(KdLower *l, const Outer *u, const Buffers *f, const Item *it) {
    KlBuilder *b = &l->b;
    const SchWgrad *w = &u->w;
    int lanes = u->tile.lanes;
    int64_t kernel = w->y.kernel * w->x.kernel, channels = u->other_tiles.size * u->other;
    int64_t room = round_up(channels * kernel, lanes);
    KlValue first = sch_mulc(b, it->other_block, channels);
    KlValue n = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, w->inputs), first), channels);
    KlValue o0 = sch_mulc(b, it->lane_block, u->lanes);
    KlValue held = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, w->outputs), o0), u->lanes);
    KlFor v = sch_loop(b, kl_i64(b, 0), held, lanes);
    KlFor r = sch_loop(b, kl_i64(b, 0), kl_i64(b, channels * kernel), lanes);
    sch_transpose(b, lanes, f->tile, sch_madc(b, r.i, u->lanes, v.i), u->lanes, f->turned, r.i,
                  room);
    sch_loop_end(b, &r);
    KlFor o = sch_loop(b, kl_i64(b, 0), sch_minc(b, kl_op2(b, KL_OP_SUB, held, v.i), lanes), 1);
    KlValue out = sch_madc(b, it->group, w->outputs, sch_add(b, o0, sch_add(b, v.i, o.i)));
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), sch_mulc(b, n, kernel), lanes);
    KlValue place = sch_madc(b, first, kernel, x.i);
    KlValue kx = sch_split(b, &place, w->x.kernel), ky = sch_split(b, &place, w->y.kernel);
    KlValue idx[4] = {out, place, ky, kx};
    kd_lower_finish(l, kl_load(b, f->turned, sch_madc(b, o.i, room, x.i), 1), idx);
    sch_loop_end(b, &x);
    sch_loop_end(b, &o);
    sch_loop_end(b, &v);
}

static void finish_inner(KdLower *l, const Outer *u, const Buffers *f, const Item *it) {
    KlBuilder *b = &l->b;
    const SchWgrad *w = &u->w;
    int64_t channels = u->other_tiles.size * u->other;
    KlValue first = sch_mulc(b, it->other_block, channels),
            i0 = sch_mulc(b, it->lane_block, u->lanes);
    KlFor o =
        sch_loop(b, kl_i64(b, 0),
                 sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, w->outputs), first), channels), 1);
    KlFor y = sch_loop_n(b, w->y.kernel), x = sch_loop_n(b, w->x.kernel);
    KlFor i = sch_vector_loop(b, kl_i64(b, 0),
                              sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, w->inputs), i0), u->lanes),
                              u->tile.lanes);
    KlValue row = sch_madc(b, sch_madc(b, o.i, w->y.kernel, y.i), w->x.kernel, x.i);
    KlValue out = sch_madc(b, it->group, w->outputs, sch_add(b, first, o.i));
    KlValue idx[4] = {out, sch_add(b, i0, i.i), y.i, x.i};
    kd_lower_finish(l, kl_load(b, f->tile, sch_madc(b, row, u->lanes, i.i), 1), idx);
    sch_loop_end(b, &i);
    sch_loop_end(b, &x);
    sch_loop_end(b, &y);
    sch_loop_end(b, &o);
}

static void finish(KdLower *l, const Outer *u, Buffers *f, const Item *it) {
    if (u->inner) {
        finish_inner(l, u, f, it);
        return;
    }
    int64_t rows = u->other_tiles.size * u->other * u->w.y.kernel * u->w.x.kernel,
            lanes = u->tile.lanes;
    f->turned = kl_buf(l->k, "turned", KL_F32, round_up(rows, lanes) * lanes, KL_SCRATCH);
    finish_outer(l, u, f, it);
}

/* The tile is turned in whole blocks of lanes rows: a little more than the result. */
static int64_t result_room(const Outer *u) { return u->result + (u->tile.lanes - 1) * u->lanes; }

static int64_t blocks(const Outer *u) {
    return u->w.groups * u->lane_tiles.count * u->other_tiles.count;
}

static void split_blocks(KlBuilder *b, const Outer *u, KlValue p, Item *it) {
    it->other_block = sch_split(b, &p, u->other_tiles.count);
    it->lane_block = sch_split(b, &p, u->lane_tiles.count);
    it->group = p;
}

/* Adds the chunks' partial results in order. */
static void build_total(KdLower *l, const Outer *u) {
    kd_lower_begin(l, "sum of chunks", blocks(u));
    KlBuilder *b = &l->b;
    int lanes = u->tile.lanes,
        parts = kd_lower_temp(l, 2, KL_F32, blocks(u) * u->chunks.count * u->result, KL_IN);
    Buffers f = {.tile = kl_buf(l->k, "tile", KL_F32, result_room(u), KL_SCRATCH)};
    KlValue p = kl_parallel_index(l->k), at = sch_mulc(b, p, u->chunks.count * u->result);
    Item it = {0};
    split_blocks(b, u, p, &it);
    KlFor i = sch_loop(b, kl_i64(b, 0), kl_i64(b, u->result), lanes);
    KlValue sum = kl_load(b, parts, sch_add(b, at, i.i), lanes);
    for (int64_t c = 1; c < u->chunks.count; c++)
        sum = kl_op2(b, KL_OP_ADD, sum,
                     kl_load(b, parts, sch_addc(b, sch_add(b, at, i.i), c * u->result), lanes));
    kl_store(b, f.tile, i.i, sum);
    sch_loop_end(b, &i);
    finish(l, u, &f, &it);
    l->k->bytes = 4.0 * (double)(blocks(u) * u->chunks.count * u->result);
    kd_lower_end(l);
}

static void build_sums(KdLower *l, const Outer *u) {
    const SchWgrad *w = &u->w;
    const KdType *t = kd_vtype(l->fu->f, w->node);
    bool chunked = u->chunks.count > 1;
    kd_lower_begin(l, kd_format(l->cx, "conv2d_wgrad %s", kd_shape_text(l->cx, t)),
                   blocks(u) * u->chunks.count);
    KlBuilder *b = &l->b;
    Buffers f = {.line = -1};
    f.other = kl_buf(l->k, "other", KL_F32,
                     u->other_tiles.size * u->other * u->other_lines * u->other_pitch, KL_SCRATCH);
    if (u->shared) {
        f.lanes = kd_lower_temp(l, 0, KL_F32, shared_count(u), KL_IN);
    } else {
        f.line = line_buffer(l, u);
        f.lanes =
            kl_buf(l->k, "lanes", KL_F32, u->lane_lines * u->lane_pixels * u->lanes, KL_SCRATCH);
    }
    f.tile = chunked
                 ? kd_lower_temp(l, 2, KL_F32, blocks(u) * u->chunks.count * u->result, KL_INOUT)
                 : kl_buf(l->k, "tile", KL_F32, result_room(u), KL_SCRATCH);
    KlValue p = kl_parallel_index(l->k), whole = p, chunk = sch_split(b, &whole, u->chunks.count);
    KlValue result = chunked ? sch_mulc(b, p, u->result) : kl_i64(b, 0);
    Item it = {0};
    split_blocks(b, u, whole, &it);
    sch_zero(b, f.tile, result, u->result, u->tile.lanes);
    KlFor s = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &u->chunks, chunk), 1);
    it.image = sch_madc(b, chunk, u->chunks.size, s.i);
    it.band = sch_split(b, &it.image, u->bands.count);
    it.rows = sch_cut_length(b, &u->bands, it.band);
    fill_other(l, u, &f, &it);
    KlValue lanes = fill_lanes(l, u, &f, &it);
    sum_band(b, u, &f, &it, lanes, result);
    sch_loop_end(b, &s);
    if (!chunked) finish(l, u, &f, &it);
    l->k->flops = 2 * sch_macs(l, w->node);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, w->node, 0)->count +
                                 sch_operand_type(l, w->node, 1)->count + t->count);
    kd_lower_end(l);
}

static void build(KdLower *l, const KdGroup *g, bool inner) {
    Outer u;
    plan(&u, l, g->root, inner);
    if (u.shared) build_shared(l, &u);
    build_sums(l, &u);
    if (u.chunks.count > 1) build_total(l, &u);
}

double cost_wgrad_outer(const KdLower *l, const KdGroup *g) {
    Outer u;
    return plan(&u, l, g->root, false) ? u.cycles / SCH_HERTZ : -1;
}

double cost_wgrad_inner(const KdLower *l, const KdGroup *g) {
    Outer u;
    return plan(&u, l, g->root, true) ? u.cycles / SCH_HERTZ : -1;
}

void build_wgrad_outer(KdLower *l, const KdGroup *g) { build(l, g, false); }
void build_wgrad_inner(KdLower *l, const KdGroup *g) { build(l, g, true); }

static void explain(KdStr *s, const KdLower *l, const KdGroup *g, bool inner) {
    Outer u;
    if (!plan(&u, l, g->root, inner)) return;
    sch_explain_tile(s, &u.tile);
    kd_str_printf(s, " (%lld %s channels x %lld kernel columns)", (long long)u.other,
                  inner ? "output" : "input", (long long)u.taps);
    sch_explain_cut(s, &u.lane_tiles, "blocks", (int64_t)u.lane_vectors * u.tile.lanes, "lane channels");
    sch_explain_cut(s, &u.other_tiles, "blocks", u.other, "other channels");
    sch_explain_cut(s, &u.bands, "bands", 1, "rows");
    sch_explain_cut(s, &u.chunks, "partial sums", 1, "bands");
    kd_str_printf(s, ", %s transposed %s", inner ? "picture" : "gradient",
                  u.shared ? "once" : "by each item");
}

void explain_wgrad_outer(KdStr *s, const KdLower *l, const KdGroup *g) { explain(s, l, g, false); }
void explain_wgrad_inner(KdStr *s, const KdLower *l, const KdGroup *g) { explain(s, l, g, true); }
