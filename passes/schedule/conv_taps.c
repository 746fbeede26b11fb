/* conv_taps.c: conv_transpose2d where the picture has few pixels and the weights are what is read:
 * the inner levels of a U-Net, and the gradient of their strided convolutions.
 *
 * The weights of an input channel are one dense row over (output channel, kernel row, kernel
 * column): a matrix [input channels][columns] that is multiplied from the left by the pixels. An
 * item of the parallel range is a block of output channels. It walks down the input channels in
 * slices of a few rows at a time, so that memory is read in a few long streams and once only; the
 * sums for each pixel and tap wait in scratch, tile by tile. Then each channel's taps are added
 * where they belong in a padded plane, in a fixed order, and go through the epilogue. Where the
 * pixels need several register tiles, a tile's weights are first copied together: their rows are a
 * power of two apart, and would drive each other out of the cache.
 */
#include "passes/schedule/conv.h"

typedef struct Taps {
    SchConv c; /* the geometry */
    int64_t pixels, kernel, columns; /* of all pictures; taps; columns of a block */
    SchTile tile;                    /* mr pixels by nv vectors of columns */
    SchCut blocks;                   /* output channels */
    SchCut slices;                   /* input channels */
    int64_t row_tiles, column_tiles, plane[2]; /* plane: its height and width */
    bool copied;                               /* weights go through a panel */
    double cycles;
} Taps;

static int64_t width_of(const Taps *t) { return (int64_t)t->tile.nv * t->tile.lanes; }

/* The pixels lie in memory as they are needed: [group][input channel][pixel]. */
static bool pixels_stored(const KdLower *l, const Taps *t) {
    return t->c.batch == 1 && sch_is_stored(l, t->c.node, 0);
}

/* Rows of weights that are read side by side: as many as the hardware follows. */
enum { STREAMS = 16 };

static void derive(Taps *t) {
    const SchMachine *m = &t->c.machine;
    int mr = t->tile.mr, nv = t->tile.nv;
    int64_t width = width_of(t);
    t->columns = t->blocks.size * t->kernel;
    t->row_tiles = sch_ceil(t->pixels, mr);
    t->column_tiles = sch_ceil(t->columns, width);
    t->copied = t->row_tiles > 1;
    t->slices = sch_cut(t->c.depth, STREAMS);
    double calls = (double)(t->row_tiles * t->column_tiles), depth = (double)t->c.depth;
    double work = calls * (depth * sch_tile_cycles(m, mr, nv, true) +
                           (double)t->slices.count * (2.0 * mr * nv + 20));
    /* From memory there come about three bytes a cycle, and each stream starts slowly. A copy waits
     * for most of it, the multiplications hardly. */
    double bytes = 4 * depth * (double)t->columns,
           all = bytes * (double)(t->c.groups * t->blocks.count),
           fetch = all > 0.5 * m->l2 ? bytes / 3.3 + 80 * depth : bytes / 24;
    if (t->copied)
        work += (double)(t->column_tiles * nv) * depth * 1.5 + 0.7 * fetch;
    else if (work < fetch)
        work = fetch;
    double adds = (double)(t->pixels * t->columns),
           out = (double)(t->c.batch * t->blocks.size * t->c.y.out) *
                 (10 + (double)t->c.x.out * (t->c.x.out >= t->tile.lanes ? 0.5 : 1.5));
    double scratch = 4 * (double)(t->row_tiles * mr * t->column_tiles * width);
    double item = work * sch_crowding(m, scratch) + adds + out + 100;
    t->cycles = item * sch_dealt((double)(t->c.groups * t->blocks.count)) + 4000;
}

static bool plan(const KdLower *l, const KdGroup *g, Taps *best) {
    Taps t = {0};
    if (!sch_conv_geometry(&t.c, l, g->root)) return false;
    if (sch_recall(l, g->root, "taps", best, sizeof *best)) {
        best->c.node = g->root;
        return best->cycles >= 0;
    }
    t.pixels = t.c.batch * t.c.y.in * t.c.x.in;
    t.kernel = t.c.y.kernel * t.c.x.kernel;
    for (int k = 0; k < 2; k++) {
        const SchDim *d = k ? &t.c.x : &t.c.y;
        t.plane[k] = sch_max((d->in - 1) * d->stride + (d->kernel - 1) * d->dilation + 1,
                             d->pad + d->out);
    }
    *best = t;
    best->cycles = -1;
    for (int mr = 1; mr <= 16 && mr <= t.pixels && t.pixels <= 256; mr++)
        for (int nv = 1; nv <= 8; nv++) {
            if (!sch_tile_fits(&t.c.machine, mr, nv)) continue;
            t.tile = (SchTile){mr, nv, t.c.machine.lanes, t.c.machine.fma};
            for (int64_t blocks = 1; blocks <= t.c.rows_out; blocks = sch_next_count(blocks)) {
                t.blocks = sch_cut(t.c.rows_out, sch_ceil(t.c.rows_out, blocks));
                if (t.blocks.size * t.kernel < width_of(&t)) continue;
                derive(&t);
                if (best->cycles < 0 || t.cycles < best->cycles) *best = t;
            }
        }
    double gather = pixels_stored(l, best) ? 0 : 4000 + 3.0 * (double)(t.pixels * t.c.depth);
    if (best->cycles >= 0) best->cycles += gather * (double)t.c.groups;
    sch_remember(l, g->root, "taps", best, sizeof *best);
    return best->cycles >= 0;
}

static int64_t pixel_count(const Taps *t) { return t->c.groups * t->c.depth * t->pixels; }

static int pixel_buffer(KdLower *l, const Taps *t, KlAccess access) {
    if (pixels_stored(l, t)) return kd_lower_buffer(l, kd_node(l->fu->f, t->c.node)->in[0]);
    return kd_lower_temp(l, 0, KL_F32, pixel_count(t), access);
}

/* [group, input channel][picture, pixel] */
static void gather_pixels(KdLower *l, const Taps *t) {
    const SchConv *c = &t->c;
    int64_t size = c->y.in * c->x.in;
    kd_lower_begin(l, "pixels", c->groups * c->depth);
    KlBuilder *b = &l->b;
    int buf = pixel_buffer(l, t, KL_OUT);
    KlValue channel = kl_parallel_index(l->k);
    KlFor n = sch_loop_n(b, c->batch);
    KlFor p = size >= c->machine.lanes
                  ? sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, size), c->machine.lanes)
                  : sch_loop_n(b, size);
    KlValue y = p.i, x = sch_split(b, &y, c->x.in), idx[4] = {n.i, channel, y, x};
    KlValue at = sch_madc(b, channel, t->pixels, sch_madc(b, n.i, size, p.i));
    kl_store(b, buf, at, kd_lower_operand(l, c->node, 0, idx));
    sch_loop_end(b, &p);
    sch_loop_end(b, &n);
    l->k->bytes = 8.0 * (double)pixel_count(t);
    kd_lower_end(l);
}

typedef struct Buffers {
    int pixels, weights, panel, sums, plane;
} Buffers;

/* All pixels against one tile of columns, over one slice. weights: the tile's first; at: its sums. */
static void one_column_tile(KlBuilder *b, const Taps *t, const Buffers *u, KlValue depth,
                            KlValue pixels, KlValue weights, KlValue at) {
    const SchTile *tile = &t->tile;
    int64_t width = width_of(t), row = t->c.rows_out * t->kernel;
    int64_t boff[SCH_MAX_TILE];
    sch_strides(boff, tile->nv, tile->lanes);
    if (t->copied) {
        KlFor k = sch_loop(b, kl_i64(b, 0), depth, 1);
        for (int j = 0; j < tile->nv; j++)
            kl_store(b, u->panel, sch_addc(b, sch_mulc(b, k.i, width), boff[j]),
                     kl_load(b, u->weights, sch_addc(b, sch_madc(b, k.i, row, weights), boff[j]),
                             tile->lanes));
        sch_loop_end(b, &k);
    }
    KlFor f = sch_loop_n(b, t->row_tiles);
    KlValue a = sch_add(b, pixels, sch_tile_first(b, f.i, tile->mr, t->pixels));
    KlValue to = sch_madc(b, f.i, tile->mr * width, at);
    SchProduct p = {.rows = u->pixels, .row = a, .apart = 1, .row_step = t->pixels,
                    .columns = t->copied ? u->panel : u->weights,
                    .column = t->copied ? kl_i64(b, 0) : weights,
                    .column_step = t->copied ? width : row};
    sch_tile_product(b, tile, &p, depth, t->slices.size, t->slices.count == 1, u->sums, to, width);
    sch_loop_end(b, &f);
}

/* The sums of a block: [column tile][pixel][column of the tile]. first: its first output channel. */
static void sum_up(KlBuilder *b, const Taps *t, const Buffers *u, KlValue group, KlValue first) {
    int64_t width = width_of(t), tile = t->row_tiles * t->tile.mr * width;
    int64_t row = t->c.rows_out * t->kernel;
    if (t->slices.count > 1)
        sch_zero(b, u->sums, kl_i64(b, 0), t->column_tiles * tile, t->tile.lanes);
    KlFor s = sch_loop_n(b, t->slices.count), c = sch_loop_n(b, t->column_tiles);
    KlValue k0 = sch_madc(b, group, t->c.depth, sch_mulc(b, s.i, t->slices.size));
    KlValue column =
        sch_madc(b, first, t->kernel, sch_tile_first(b, c.i, width, t->columns));
    one_column_tile(b, t, u, sch_cut_length(b, &t->slices, s.i), sch_mulc(b, k0, t->pixels),
                    sch_madc(b, k0, row, column), sch_mulc(b, c.i, tile));
    sch_loop_end(b, &c);
    sch_loop_end(b, &s);
}

/* Adds the taps of one channel of the block, for picture n, to the plane. */
static void add_taps(KlBuilder *b, const Taps *t, const Buffers *u, KlValue channel, KlValue n) {
    const SchConv *c = &t->c;
    int64_t width = width_of(t), tile = t->row_tiles * t->tile.mr * width;
    int64_t kw = c->x.kernel;
    /* A row of taps is a vector where it is one in both places. */
    bool vector = kw <= t->tile.lanes && (kw & (kw - 1)) == 0 && width % kw == 0 &&
                  t->columns % width == 0 && c->x.dilation == 1;
    int lanes = vector ? (int)kw : 1;
    sch_zero(b, u->plane, kl_i64(b, 0), t->plane[0] * t->plane[1], t->tile.lanes);
    KlFor y = sch_loop_n(b, c->y.in), x = sch_loop_n(b, c->x.in);
    KlValue pixel = sch_madc(b, sch_madc(b, n, c->y.in, y.i), c->x.in, x.i);
    pixel = sch_tile_row(b, pixel, pixel, t->tile.mr, t->pixels);
    KlFor a = sch_loop_n(b, c->y.kernel), e = sch_loop_n(b, kw / lanes);
    KlValue column = sch_madc(b, sch_madc(b, channel, c->y.kernel, a.i), kw, e.i);
    column = sch_tile_row(b, column, column, width, t->columns);
    KlValue part = sch_split(b, &column, width);
    KlValue at = sch_madc(b, column, tile, sch_madc(b, pixel, width, part));
    KlValue py = sch_madc(b, y.i, c->y.stride, sch_mulc(b, a.i, c->y.dilation));
    KlValue px = sch_madc(b, x.i, c->x.stride, sch_mulc(b, e.i, c->x.dilation));
    KlValue to = sch_madc(b, py, t->plane[1], px);
    KlValue sum = kl_op2(b, KL_OP_ADD, kl_load(b, u->plane, to, lanes),
                         kl_load(b, u->sums, at, lanes));
    kl_store(b, u->plane, to, sum);
    sch_loop_end(b, &e);
    if (t->kernel / lanes <= 8) a.instr->unroll = UINT16_MAX;
    sch_loop_end(b, &a);
    sch_loop_end(b, &x);
    sch_loop_end(b, &y);
}

/* The plane without its padding through the epilogue. channel: of all groups. */
static void finish(KdLower *l, const Taps *t, const Buffers *u, KlValue channel, KlValue n) {
    KlBuilder *b = &l->b;
    const SchConv *c = &t->c;
    int64_t skip = c->y.pad * t->plane[1] + c->x.pad;
    bool wide = c->x.out >= t->tile.lanes;
    KlFor y = sch_loop_n(b, wide ? c->y.out : 1);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, wide ? c->x.out : c->y.out * c->x.out),
                              t->tile.lanes);
    KlValue row = y.i, column = x.i;
    if (!wide) row = x.i, column = sch_split(b, &row, c->x.out);
    KlValue idx[4] = {n, channel, row, column};
    KlValue at = sch_addc(b, sch_madc(b, row, t->plane[1], column), skip);
    kd_lower_finish(l, kl_load(b, u->plane, at, 1), idx);
    sch_loop_end(b, &x);
    sch_loop_end(b, &y);
}

double cost_conv_taps(const KdLower *l, const KdGroup *g) {
    Taps t;
    return plan(l, g, &t) ? t.cycles / SCH_HERTZ : -1;
}

void build_conv_taps(KdLower *l, const KdGroup *g) {
    Taps t;
    plan(l, g, &t);
    const SchConv *c = &t.c;
    const KdType *y = kd_vtype(l->fu->f, g->root);
    int64_t sums = t.row_tiles * t.tile.mr * t.column_tiles * width_of(&t);
    sch_materialise(l, g->root, 1, 1);
    if (!pixels_stored(l, &t)) gather_pixels(l, &t);
    kd_lower_begin(l, kd_format(l->cx, "conv_transpose2d %s", kd_shape_text(l->cx, y)),
                   c->groups * t.blocks.count);
    KlBuilder *b = &l->b;
    Buffers u = {.pixels = pixel_buffer(l, &t, KL_IN),
                 .weights = sch_operand_buffer(l, g->root, 1, 1),
                 .panel = -1};
    if (t.copied)
        u.panel = kl_buf(l->k, "panel", KL_F32, t.slices.size * width_of(&t), KL_SCRATCH);
    u.sums = kl_buf(l->k, "sums", KL_F32, sums, KL_SCRATCH);
    u.plane = kl_buf(l->k, "plane", KL_F32, t.plane[0] * t.plane[1], KL_SCRATCH);
    KlValue group = kl_parallel_index(l->k), block = sch_split(b, &group, t.blocks.count);
    /* The last block is shifted back for its sums; what it shares with its neighbour is not
     * finished twice. */
    KlValue own = sch_mulc(b, block, t.blocks.size),
            first = sch_tile_first(b, block, t.blocks.size, c->rows_out);
    sum_up(b, &t, &u, group, first);
    KlFor o = sch_loop(b, kl_op2(b, KL_OP_SUB, own, first), kl_i64(b, t.blocks.size), 1);
    KlFor n = sch_loop_n(b, c->batch);
    add_taps(b, &t, &u, o.i, n.i);
    finish(l, &t, &u, sch_madc(b, group, c->rows_out, sch_add(b, first, o.i)), n.i);
    sch_loop_end(b, &n);
    sch_loop_end(b, &o);
    l->k->flops = 2 * sch_macs(l, g->root);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, g->root, 0)->count +
                                 sch_operand_type(l, g->root, 1)->count + y->count);
    kd_lower_end(l);
}

void explain_conv_taps(KdStr *s, const KdLower *l, const KdGroup *g) {
    Taps t;
    if (!plan(l, g, &t)) return;
    sch_explain_tile(s, &t.tile);
    sch_explain_cut(s, &t.blocks, "blocks", 1, "channels");
    sch_explain_cut(s, &t.slices, "slices", 1, "input channels");
    kd_str_printf(s, ", weights %s", t.copied ? "copied into panels" : "read as they lie");
}
