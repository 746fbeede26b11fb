/* winograd_wgrad.c: the weight gradient of 3x3 and 4x4 convolutions of stride 1, by the same transforms as winograd.c.
 *
 * dw = G^T [sum over tiles of (A dy A^T) * (B^T d B)] G: n * n matrix products again, summed over tiles. Four kernels:
 *   1., 2. pictures and gradients go through the prologue, line by line, are transformed with neighbouring tiles as
 *      lanes and turned, a block of channels at a time, so that channels lie side by side:
 *      pictures in panels [n * n][group][panel][tile][columns of a panel], gradients [n * n][group][tile][channel]
 *   3. for each of the n * n matrices and a block of output channels: sums over the tiles, in slices that stay in the
 *      first cache; gradients are broadcast, pictures are lanes
 *   4. for each output channel: transformed back, turned into the order of the weights, and through the epilogue
 * Tiles of all images of a batch are one sum. Rounding is that of winograd.c.
 */
#include "passes/schedule/winograd.h"

enum { MOST = SCH_WINOGRAD_MOST };

typedef struct Wgrad {
    KdValue node;
    SchMachine machine;
    SchWinograd t;
    int64_t batch, groups, inputs, outputs; /* channels of a group */
    int64_t in[2], out[2], pad[2], tiles_y, tiles_x;
    /* the plan */
    SchTile tile;
    SchCut blocks; /* row tiles of mr output channels, cut into blocks */
    SchCut slices; /* tiles of the pictures, cut into slices */
    double cycles;
    /* what follows from it */
    int64_t across;                   /* tiles of a tile row, rounded up to whole vectors */
    int64_t tiles, room;              /* of all images; with what the last vector of the last row may write */
    int64_t width, panels;            /* a panel's columns; panels of a group */
    int64_t rows, columns;            /* from one tile's gradients, one output channel's results, to the next */
    int64_t picture, gradient, result; /* from one of the n * n matrices to the next */
} Wgrad;

/* ---- 1, 2: pictures and gradients -------------------------------------------------------- */

typedef struct Side {
    int operand;
    int64_t channels, blocks; /* of a group; blocks of `lanes` channels */
    int64_t height, width, step, lines, origin_y, origin_x; /* its size; how far a tile moves; lines of a tile */
} Side;

static Side side_of(const Wgrad *w, int operand) {
    Side s = {.operand = operand, .step = w->t.m};
    s.channels = operand ? w->outputs : w->inputs;
    s.blocks = operand ? sch_ceil(s.channels, w->tile.lanes) : w->panels * w->tile.nv;
    s.height = operand ? w->out[0] : w->in[0], s.width = operand ? w->out[1] : w->in[1];
    s.lines = operand ? w->t.m : w->t.n;
    s.origin_y = operand ? 0 : -w->pad[0], s.origin_x = operand ? 0 : -w->pad[1];
    return s;
}

static void transform(KlBuilder *b, const Wgrad *w, const Side *s, const KlValue *d, KlValue *t) {
    if (s->operand)
        sch_winograd_gradient(b, &w->t, d, t);
    else
        sch_winograd_input(b, &w->t, d, t);
}

/* The lines of one tile row of one channel: [line][n][across], transformed along x. */
static void fill_lines(KdLower *l, const Wgrad *w, const Side *s, KlValue image, KlValue channel, KlValue row,
                       int line, int lines) {
    KlBuilder *b = &l->b;
    int n = w->t.n;
    SchSource source = {.element = sch_picture_element,
                        .node = w->node,
                        .operand = s->operand,
                        .width = s->width,
                        .border = sch_border(l, w->node, s->operand, 3)};
    KlFor r = sch_loop_n(b, s->lines);
    KlValue y = sch_addc(b, sch_madc(b, row, s->step, r.i), s->origin_y), to = sch_mulc(b, r.i, n * w->across);
    KlValue place[3] = {image, channel, y};
    SchWinogradLine data = {.source = &source,
                            .place = place,
                            .height = s->height,
                            .origin = s->origin_x,
                            .across = w->across,
                            .gradient = s->operand == 1,
                            .buffer = line};
    sch_winograd_line(l, &w->t, &data, lines, to, w->across);
    sch_loop_end(b, &r);
}

/* Along y, for the c-th channel of a block: held[n * n][c][across]. */
static void transform_tiles(KlBuilder *b, const Wgrad *w, const Side *s, int lines, KlValue c, int held) {
    int lanes = w->tile.lanes, n = w->t.n;
    KlFor j = sch_loop_n(b, n), v = sch_loop(b, kl_i64(b, 0), kl_i64(b, w->across), lanes);
    KlValue from = sch_madc(b, j.i, w->across, v.i);
    KlValue to = sch_add(b, sch_mulc(b, sch_madc(b, j.i, lanes, c), w->across), v.i), d[MOST] = {0}, t[MOST] = {0};
    for (int64_t i = 0; i < s->lines; i++)
        d[i] = kl_load(b, lines, sch_addc(b, from, i * n * w->across), lanes);
    transform(b, w, s, d, t);
    for (int i = 0; i < n; i++)
        kl_store(b, held, sch_addc(b, to, (int64_t)i * n * lanes * w->across), t[i]);
    sch_loop_end(b, &v);
    sch_loop_end(b, &j);
}

/* Turns [c][tile] into [tile][c], for each of the matrices; the last vector of a tile row may be partly empty: its
 * tiles are written nonetheless, into the places of the next tile row, which is written afterwards. */
static void turn_tiles(KlBuilder *b, const Wgrad *w, int held, int to, KlValue place, int64_t matrix, int64_t tile) {
    int lanes = w->tile.lanes;
    KlFor e = sch_loop_n(b, w->t.n * w->t.n), v = sch_loop(b, kl_i64(b, 0), kl_i64(b, w->across), lanes);
    KlValue from = sch_madc(b, e.i, lanes * w->across, v.i);
    KlValue at = sch_add(b, sch_madc(b, e.i, matrix, place), sch_mulc(b, v.i, tile));
    sch_transpose(b, lanes, held, from, w->across, to, at, tile);
    sch_loop_end(b, &v);
    sch_loop_end(b, &e);
}

static int64_t side_count(const Wgrad *w, int operand) {
    return w->t.n * w->t.n * (operand ? w->gradient : w->picture);
}

/* An item is a block of channels of one image: all its tile rows, from the first to the last. */
static void build_side(KdLower *l, const Wgrad *w, int operand) {
    Side s = side_of(w, operand);
    int lanes = w->tile.lanes, n = w->t.n;
    kd_lower_begin(l, operand ? "winograd gradients" : "winograd pictures", w->groups * s.blocks);
    KlBuilder *b = &l->b;
    int to = kd_lower_temp(l, operand, KL_F32, side_count(w, operand), KL_OUT);
    int line = kl_buf(l->k, "line", KL_F32, w->across * w->t.m + lanes, KL_SCRATCH);
    int lines = kl_buf(l->k, "lines", KL_F32, s.lines * n * w->across, KL_SCRATCH);
    int64_t room = n * n * lanes * w->across;
    int held = kl_buf(l->k, "held", KL_F32, room, KL_SCRATCH);
    if (s.blocks * lanes > s.channels) sch_zero(b, held, kl_i64(b, 0), room, lanes);
    KlValue p = kl_parallel_index(l->k), block = sch_split(b, &p, s.blocks), first = sch_mulc(b, block, lanes);
    KlValue count = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, s.channels), first), lanes);
    /* Where the block begins: pictures in panels, gradients in rows. */
    int64_t tile = operand ? w->rows : w->width;
    KlValue base;
    if (operand) {
        base = sch_madc(b, p, w->room * w->rows, first);
    } else {
        KlValue panel = sch_mulc(b, block, lanes), within = sch_split(b, &panel, w->width);
        base = sch_madc(b, sch_madc(b, p, w->panels, panel), w->room * w->width, within);
    }
    KlFor i = sch_loop_n(b, w->batch), r = sch_loop_n(b, w->tiles_y);
    KlFor c = sch_loop(b, kl_i64(b, 0), count, 1);
    KlValue channel = sch_add(b, sch_madc(b, p, s.channels, first), c.i);
    fill_lines(l, w, &s, i.i, channel, r.i, line, lines);
    transform_tiles(b, w, &s, lines, c.i, held);
    sch_loop_end(b, &c);
    KlValue t = sch_mulc(b, sch_madc(b, i.i, w->tiles_y, r.i), w->tiles_x);
    turn_tiles(b, w, held, to, sch_madc(b, t, tile, base), operand ? w->gradient : w->picture, tile);
    sch_loop_end(b, &r);
    sch_loop_end(b, &i);
    l->k->bytes = 4.0 * (double)(side_count(w, operand) + sch_operand_type(l, w->node, operand)->count);
    kd_lower_end(l);
}

/* ---- 3: the products --------------------------------------------------------------------- */

static int64_t result_count(const Wgrad *w) { return w->t.n * w->t.n * w->result; }

static void build_products(KdLower *l, const Wgrad *w) {
    const SchTile *t = &w->tile;
    const KdType *type = kd_vtype(l->fu->f, w->node);
    int64_t matrices = w->t.n * w->t.n, held = w->blocks.size * t->mr * w->width;
    bool sliced = w->slices.count > 1;
    kd_lower_begin(l, kd_format(l->cx, "conv2d_wgrad %s winograd %dx%d", kd_shape_text(l->cx, type), w->t.m, w->t.m),
                   matrices * w->groups * w->blocks.count);
    KlBuilder *b = &l->b;
    int picture = kd_lower_temp(l, 0, KL_F32, side_count(w, 0), KL_IN);
    int gradient = kd_lower_temp(l, 1, KL_F32, side_count(w, 1), KL_IN);
    int result = kd_lower_temp(l, 2, KL_F32, result_count(w), KL_OUT);
    int sums = kl_buf(l->k, "sums", KL_F32, held, KL_SCRATCH);
    KlValue p = kl_parallel_index(l->k), which = sch_split(b, &p, w->blocks.count), group = sch_split(b, &p, w->groups);
    KlValue pictures = sch_madc(b, p, w->picture, sch_mulc(b, group, w->panels * w->room * w->width));
    KlValue gradients = sch_madc(b, p, w->gradient, sch_mulc(b, group, w->room * w->rows));
    KlValue results = sch_madc(b, p, w->result, sch_mulc(b, group, w->outputs * w->columns));
    KlValue tiles = sch_cut_length(b, &w->blocks, which), first_tile = sch_mulc(b, which, w->blocks.size);
    KlFor c = sch_loop_n(b, w->panels);
    KlValue panel = sch_madc(b, c.i, w->room * w->width, pictures);
    if (sliced) sch_zero(b, sums, kl_i64(b, 0), held, t->lanes);
    KlFor s = sch_loop_n(b, w->slices.count);
    KlValue first = sch_mulc(b, s.i, w->slices.size), depth = sch_cut_length(b, &w->slices, s.i);
    KlFor m = sch_loop(b, kl_i64(b, 0), tiles, 1);
    KlValue row = sch_tile_first(b, sch_add(b, first_tile, m.i), t->mr, w->outputs);
    SchProduct q = {.rows = gradient, .row = sch_add(b, sch_madc(b, first, w->rows, row), gradients),
                    .apart = 1, .row_step = w->rows,
                    .columns = picture, .column = sch_madc(b, first, w->width, panel), .column_step = w->width};
    sch_tile_product(b, t, &q, depth, w->slices.size, !sliced, sums, sch_mulc(b, m.i, t->mr * w->width), w->width);
    sch_loop_end(b, &m);
    sch_loop_end(b, &s);
    m = sch_loop(b, kl_i64(b, 0), tiles, 1);
    row = sch_tile_first(b, sch_add(b, first_tile, m.i), t->mr, w->outputs);
    KlFor r = sch_loop_n(b, t->mr), x = sch_loop(b, kl_i64(b, 0), kl_i64(b, w->width), t->lanes);
    KlValue from = sch_madc(b, sch_madc(b, m.i, t->mr, r.i), w->width, x.i);
    KlValue to = sch_add(b, sch_madc(b, sch_add(b, row, r.i), w->columns, sch_madc(b, c.i, w->width, x.i)), results);
    kl_store(b, result, to, kl_load(b, sums, from, t->lanes));
    sch_loop_end(b, &x);
    sch_loop_end(b, &r);
    sch_loop_end(b, &m);
    sch_loop_end(b, &c);
    l->k->flops = 2 * sch_macs(l, w->node);
    l->k->bytes = 4.0 * (double)(side_count(w, 0) + side_count(w, 1) + result_count(w));
    kd_lower_end(l);
}

/* ---- 4: the way back --------------------------------------------------------------------- */

/* An item is an output channel. The taps of a vector of input channels are turned into the order of the weights:
 * blocks of lanes taps, the last block first, since it writes beyond its taps into the next channel's. */
static void build_back(KdLower *l, const Wgrad *w) {
    int n = w->t.n, lanes = w->tile.lanes, size = w->t.taps, all = size * size;
    int64_t blocks = sch_ceil(all, lanes), vectors = sch_ceil(w->inputs, lanes);
    kd_lower_begin(l, "winograd weight gradients", w->groups * w->outputs);
    KlBuilder *b = &l->b;
    int from = kd_lower_temp(l, 2, KL_F32, result_count(w), KL_IN);
    int half = kl_buf(l->k, "half", KL_F32, size * n * lanes, KL_SCRATCH);
    int taps = kl_buf(l->k, "taps", KL_F32, blocks * lanes * lanes, KL_SCRATCH);
    int turned = kl_buf(l->k, "turned", KL_F32, vectors * lanes * all + blocks * lanes, KL_SCRATCH);
    sch_zero(b, taps, kl_i64(b, 0), blocks * lanes * lanes, lanes);
    KlValue o = kl_parallel_index(l->k), u[MOST], g[SCH_WINOGRAD_TAPS];
    KlFor v = sch_loop_n(b, vectors);
    KlValue at = sch_madc(b, o, w->columns, sch_mulc(b, v.i, lanes));
    KlFor j = sch_loop_n(b, n);
    for (int i = 0; i < n; i++)
        u[i] = kl_load(b, from, sch_add(b, at, sch_mulc(b, sch_addc(b, j.i, (int64_t)i * n), w->result)), lanes);
    sch_winograd_taps(b, &w->t, u, g);
    for (int y = 0; y < size; y++)
        kl_store(b, half, sch_mulc(b, sch_addc(b, j.i, (int64_t)y * n), lanes), g[y]);
    sch_loop_end(b, &j);
    KlFor y = sch_loop_n(b, size);
    for (int i = 0; i < n; i++)
        u[i] = kl_load(b, half, sch_mulc(b, sch_addc(b, sch_mulc(b, y.i, n), i), lanes), lanes);
    sch_winograd_taps(b, &w->t, u, g);
    for (int x = 0; x < size; x++)
        kl_store(b, taps, sch_mulc(b, sch_addc(b, sch_mulc(b, y.i, size), x), lanes), g[x]);
    sch_loop_end(b, &y);
    for (int64_t k = blocks - 1; k >= 0; k--)
        sch_transpose(b, lanes, taps, kl_i64(b, k * lanes * lanes), lanes, turned,
                      sch_addc(b, sch_mulc(b, v.i, (int64_t)lanes * all), k * lanes), all);
    sch_loop_end(b, &v);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, w->inputs * all), lanes);
    KlValue i = x.i, kx = sch_split(b, &i, size), ky = sch_split(b, &i, size), idx[4] = {o, i, ky, kx};
    kd_lower_finish(l, kl_load(b, turned, x.i, 1), idx);
    sch_loop_end(b, &x);
    l->k->bytes = 4.0 * (double)(result_count(w) + kd_vtype(l->fu->f, w->node)->count);
    kd_lower_end(l);
}

/* ---- the plan ---------------------------------------------------------------------------- */

static bool geometry(Wgrad *w, const KdLower *l, KdValue root) {
    const KdFunc *f = l->fu->f;
    const KdNode *node = kd_node(f, root);
    const KdType *x = sch_operand_type(l, root, 0), *gy = sch_operand_type(l, root, 1), *k = node->type;
    KdInts stride = kd_attr_ints(f, node, "stride"), pad = kd_attr_ints(f, node, "pad");
    KdInts dilation = kd_attr_ints(f, node, "dilation");
    *w = (Wgrad){.node = root, .machine = sch_machine(l), .batch = x->dim[0], .groups = kd_attr_int(f, node, "groups")};
    if (x->count == 0 || gy->count == 0 || k->count == 0 || x->dtype != KD_F32 || w->machine.lanes < 4) return false;
    w->inputs = k->dim[1], w->outputs = k->dim[0] / w->groups;
    for (int d = 0; d < 2; d++) {
        if (k->dim[2 + d] != k->dim[2] || stride.v[d] != 1 || dilation.v[d] != 1) return false;
        w->in[d] = x->dim[2 + d], w->out[d] = gy->dim[2 + d], w->pad[d] = pad.v[d];
    }
    return true;
}

/* Everything that follows from t, tile and blocks.size; then the cycles. */
static void derive(Wgrad *w) {
    const SchMachine *k = &w->machine;
    const SchTile *t = &w->tile;
    int64_t lanes = t->lanes, matrices = w->t.n * w->t.n;
    w->tiles_y = sch_ceil(w->out[0], w->t.m), w->tiles_x = sch_ceil(w->out[1], w->t.m);
    w->across = sch_ceil(w->tiles_x, lanes) * lanes;
    w->tiles = w->batch * w->tiles_y * w->tiles_x;
    w->room = w->tiles + w->across - w->tiles_x;
    w->width = t->nv * lanes;
    w->panels = sch_ceil(w->inputs, w->width);
    /* Odd numbers of vectors: powers of two would meet in a few sets of the caches. */
    w->rows = (sch_ceil(w->outputs, lanes) | 1) * lanes;
    w->columns = (w->panels * t->nv | 1) * lanes;
    w->picture = w->groups * w->panels * w->room * w->width + 5 * lanes;
    w->gradient = w->groups * w->room * w->rows + 5 * lanes;
    w->result = w->groups * w->outputs * w->columns + 5 * lanes;
    int64_t slice = (int64_t)(0.7 * k->l1 / 4 / (double)(w->width + t->mr));
    w->slices = sch_cut(w->tiles, sch_max(slice, sch_min(w->tiles, 8)));

    double items = (double)(matrices * w->groups * w->blocks.count), all = (double)matrices;
    double calls = (double)(w->panels * w->blocks.size);
    double work = calls * ((double)w->tiles * (sch_tile_cycles(k, t->mr, t->nv, true)) +
                           (double)w->slices.count * (1.5 * t->mr * t->nv + 20) + 2.0 * t->mr * t->nv);
    double moved = 4 * (2 * (double)side_count(w, 0) + 2 * (double)side_count(w, 1) + 2 * (double)result_count(w));
    double vectors = (double)(w->across / lanes) * (double)(w->batch * w->tiles_y), n = w->t.n, m = w->t.m;
    double channels = (double)(w->groups * (w->panels * w->width)), gradients = (double)(w->groups * w->outputs);
    double sides = channels * vectors * (n * (20 + 4 * n) + 2.5 * n * n + all * 4.5) +
                   gradients * vectors * (m * (20 + 4 * n) + 2.5 * n * n + all * 4.5);
    double back = gradients * (double)sch_ceil(w->inputs, lanes) * (all * 2 + 4 * n * 3 + 90 + 9 * 6);
    w->cycles = sch_dealt(items) * (work + 100) + sides + back + (moved > 0.5 * k->l2 ? 0.5 * moved / 7 : 0) + 16000;
}

static bool plan(Wgrad *w, const KdLower *l, KdValue root) {
    if (l->o->winograd < 2 || !geometry(w, l, root)) return false;
    Wgrad best = *w, trial = *w;
    if (sch_recall(l, root, "wgrad_winograd", w, sizeof *w)) {
        w->node = root;
        return w->cycles >= 0;
    }
    best.cycles = -1;
    int64_t taps = kd_vtype(l->fu->f, root)->dim[2];
    for (int m = 2; m <= l->o->winograd && m <= 4 && sch_winograd(&trial.t, &w->machine, m, taps); m += 2)
        for (int mr = 1; mr <= 14 && mr <= w->outputs; mr++)
            for (int nv = 1; nv <= 4; nv++) {
                if (!sch_tile_fits(&w->machine, mr, nv) || mr * nv < w->machine.registers / 3) continue;
                trial.tile = (SchTile){mr, nv, w->machine.lanes, w->machine.fma};
                int64_t tiles = sch_ceil(w->outputs, mr);
                for (int64_t blocks = 1; blocks <= tiles && blocks <= 8; blocks = sch_next_count(blocks)) {
                    trial.blocks = sch_cut(tiles, sch_ceil(tiles, blocks));
                    derive(&trial);
                    if (best.cycles < 0 || trial.cycles < best.cycles) best = trial;
                }
            }
    *w = best;
    sch_remember(l, root, "wgrad_winograd", w, sizeof *w);
    return w->cycles >= 0;
}

double cost_wgrad_winograd(const KdLower *l, const KdGroup *g) {
    Wgrad w;
    return plan(&w, l, g->root) ? w.cycles / SCH_HERTZ : -1;
}

void build_wgrad_winograd(KdLower *l, const KdGroup *g) {
    Wgrad w;
    plan(&w, l, g->root);
    build_side(l, &w, 0);
    build_side(l, &w, 1);
    build_products(l, &w);
    build_back(l, &w);
}

void explain_wgrad_winograd(KdStr *s, const KdLower *l, const KdGroup *g) {
    Wgrad w;
    if (!plan(&w, l, g->root)) return;
    kd_str_printf(s, "F(%dx%d), ", w.t.m, w.t.m);
    sch_explain_tile(s, &w.tile);
    sch_explain_cut(s, &w.blocks, "blocks", w.tile.mr, "channels");
    sch_explain_cut(s, &w.slices, "slices", 1, "tiles");
    kd_str_printf(s, ", pictures and gradients transformed once, %d matrices", w.t.n * w.t.n);
}
