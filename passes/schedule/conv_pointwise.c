/* conv_pointwise.c: conv2d with a 1x1 kernel, stride 1 and no padding, and its backward-data: a matrix product of
 * the weights with the picture, whose pixels stand in one line.
 *
 * Weights are packed, once for all items: a row tile of mr output channels lies in one stream, [input channel][mr]. An
 * item of the parallel range is a block of pixels and a block of row tiles. It copies its pixels through the prologue
 * into panels of one column tile each, [column tile][input channel][pixels], which stay in the second cache; for each
 * row tile, whose weights stay in the first, the panels stream past. Each register tile goes through a small scratch
 * to the epilogue at once, so that results are written while the next tile is computed and never wait in memory. While
 * it computes, an item asks for the lines that the next one will copy and for those it is about to write: the copying
 * and writing would wait for memory a third of the time.
 */
#include "passes/lower.h"
#include "passes/schedule/conv.h"

typedef struct Pointwise {
    SchConv c;
    int64_t pixels, width; /* of a picture; of a column tile */
    SchCut columns;        /* column tiles, cut into blocks */
    double cycles;
} Pointwise;

static int64_t row_tiles(const SchConv *c) { return sch_ceil(c->rows_out, c->tile.mr); }

static int64_t packed_tile(const SchConv *c) { return c->depth * c->tile.mr; }

static int64_t packed_count(const SchConv *c) { return c->groups * row_tiles(c) * packed_tile(c); }

/* ---- the plan ---------------------------------------------------------------------------- */

/* Cycles of one step of the contraction: panels come from the second cache at some 24 bytes a cycle. */
static double step_cycles(const SchMachine *m, int mr, int nv) {
    double tile = sch_tile_cycles(m, mr, nv, true), fetch = nv * m->lanes * 4 / 24.0;
    return tile > fetch ? tile + 0.15 * fetch : fetch + 0.15 * tile;
}

static void derive(Pointwise *p) {
    SchConv *c = &p->c;
    const SchMachine *m = &c->machine;
    const SchTile *t = &c->tile;
    double depth = (double)c->depth, rows = (double)(c->tiles.size * t->mr);
    double pixels = (double)(p->columns.size * p->width), tile = (double)t->mr * (double)p->width;
    double panels = 4 * depth * pixels, weights = 4 * depth * rows;
    double all_weights = weights * (double)(c->tiles.count * c->groups);
    double call = depth * step_cycles(m, t->mr, t->nv) + tile * 6.0 / m->lanes + 10.0 * t->mr;
    double work = 1.1 * call * (double)(c->tiles.size * p->columns.size);
    work += weights / (all_weights > 0.5 * m->l2 ? 2 : 16);
    double pack = depth * (pixels * 4.0 / m->lanes + 8.0 * (double)p->columns.size);
    double items = (double)(c->batch * c->groups * c->tiles.count * p->columns.count);
    /* What the next item will copy comes into the second cache meanwhile. */
    p->cycles = (work * sch_crowding(m, 2 * panels + weights) + pack + 100) * sch_dealt(items) + 4000;
    if (all_weights > (double)c->keep) p->cycles += all_weights / 4 * 2 + 4000;
}

static void try_blocks(Pointwise *best, Pointwise *p) {
    SchConv *c = &p->c;
    int64_t rows = row_tiles(c), columns = sch_ceil(p->pixels, p->width);
    for (int64_t i = 1; i <= rows; i = sch_next_count(i))
        for (int64_t j = 1; j <= columns; j = sch_next_count(j)) {
            if (i * j > 256 && i > 1) continue;
            c->tiles = sch_cut(rows, sch_ceil(rows, i));
            p->columns = sch_cut(columns, sch_ceil(columns, j));
            derive(p);
            if (best->cycles < 0 || p->cycles < best->cycles) *best = *p;
        }
}

static bool applies(const KdLower *l, const SchConv *c) {
    const SchDim *dims[2] = {&c->y, &c->x};
    for (int k = 0; k < 2; k++) {
        const SchDim *d = dims[k];
        /* Beside a border of the prologue pixels in one line are no neighbours. */
        if (d->kernel != 1 || d->stride != 1 || d->pad || d->in != d->out || sch_border(l, c->node, 0, 2 + k))
            return false;
    }
    return true;
}

static bool plan(const KdLower *l, const KdGroup *g, Pointwise *best) {
    Pointwise p = {0};
    SchConv *c = &p.c;
    if (!sch_conv_geometry(c, l, g->root) || !applies(l, c)) return false;
    if (sch_recall(l, g->root, "pointwise", best, sizeof *best)) {
        best->c.node = g->root;
        return best->cycles >= 0;
    }
    p.pixels = c->y.out * c->x.out;
    *best = p;
    best->cycles = -1;
    double least = 1e300;
    for (int pass = 0; pass < 2; pass++)
        for (int mr = 1; mr <= 14 && mr <= c->rows_out; mr++)
            for (int nv = 1; nv <= 8; nv++) {
                if (!sch_tile_fits(&c->machine, mr, nv)) continue;
                p.width = (int64_t)nv * c->machine.lanes;
                double price = step_cycles(&c->machine, mr, nv) * (double)sch_ceil(c->rows_out, mr) *
                               (double)sch_ceil(p.pixels, p.width);
                if (pass && price > 1.1 * least) continue;
                c->tile = (SchTile){mr, nv, c->machine.lanes, c->machine.fma};
                if (pass)
                    try_blocks(best, &p);
                else
                    least = price < least ? price : least;
            }
    sch_remember(l, g->root, "pointwise", best, sizeof *best);
    return best->cycles >= 0;
}

/* ---- packing ----------------------------------------------------------------------------- */

static void pack_weights(KdLower *l, const SchConv *c) {
    sch_materialise(l, c->node, 1, 1);
    sch_keep(l, c->node, 1, 2, packed_count(c));
    kd_lower_begin(l, "packed weights", c->groups * row_tiles(c));
    KlBuilder *b = &l->b;
    int from = sch_operand_buffer(l, c->node, 1, 1), to = kd_lower_temp(l, 2, KL_F32, packed_count(c), KL_OUT);
    KlValue i = kl_parallel_index(l->k), dest = sch_mulc(b, i, packed_tile(c)), group = i;
    KlValue row = sch_tile_first(b, sch_split(b, &group, row_tiles(c)), c->tile.mr, c->rows_out);
    int64_t row_step = c->transposed ? 1 : c->depth, depth_step = c->transposed ? c->rows_out : 1;
    KlValue at = sch_madc(b, group, c->rows_out * c->depth, sch_mulc(b, row, row_step));
    KlFor k = sch_loop_n(b, c->depth), r = sch_loop_n(b, c->tile.mr);
    KlValue v = kl_load(b, from, sch_madc(b, r.i, row_step, sch_madc(b, k.i, depth_step, at)), 1);
    kl_store(b, to, sch_add(b, dest, sch_madc(b, k.i, c->tile.mr, r.i)), v);
    sch_loop_end(b, &r);
    sch_loop_end(b, &k);
    l->k->bytes = 4.0 * (double)(packed_count(c) + sch_operand_type(l, c->node, 1)->count);
    kd_lower_end(l);
}

/* What an item knows of its place. Values of the current kernel. */
typedef struct Item {
    KlValue image, group, block, column_block, columns; /* columns: how many column tiles */
    int panel, tile, weights;
} Item;

/* [image, channel, y, x] of a pixel. */
static void place(KdLower *l, const Pointwise *p, KlValue image, KlValue channel, KlValue pixel, KlValue *idx) {
    int64_t dim[2] = {p->c.y.out, p->c.x.out};
    bool rows = dim[0] > 1, many = dim[1] > 1;
    idx[0] = image, idx[1] = channel;
    idx[2] = rows ? pixel : kl_i64(&l->b, 0), idx[3] = many ? pixel : kl_i64(&l->b, 0);
    if (rows && many) kd_run_split(l, 2, dim, pixel, idx + 2);
}

/* How many pixels of the tile that begins at `first` are in the picture. */
static KlValue tile_length(KlBuilder *b, const Pointwise *p, KlValue first) {
    if (p->pixels % p->width == 0) return kl_i64(b, p->width);
    return sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, p->pixels), first), p->width);
}

static void pack_panels(KdLower *l, const Pointwise *p, const Item *it) {
    KlBuilder *b = &l->b;
    const SchConv *c = &p->c;
    KlFor k = sch_loop_n(b, c->depth), t = sch_loop(b, kl_i64(b, 0), it->columns, 1);
    KlValue channel = sch_madc(b, it->group, c->depth, k.i);
    KlValue at = sch_mulc(b, sch_madc(b, t.i, c->depth, k.i), p->width);
    KlValue first = sch_mulc(b, sch_madc(b, it->column_block, p->columns.size, t.i), p->width);
    if (p->pixels % p->width) sch_zero(b, it->panel, at, p->width, c->tile.lanes);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), tile_length(b, p, first), c->tile.lanes);
    KlValue idx[4];
    place(l, p, it->image, channel, sch_add(b, first, x.i), idx);
    kl_store(b, it->panel, sch_add(b, at, x.i), kd_lower_operand(l, c->node, 0, idx));
    sch_loop_end(b, &x);
    sch_loop_end(b, &t);
    sch_loop_end(b, &k);
}

/* ---- the tiles --------------------------------------------------------------------------- */

/* Lines that are asked for while a register tile is computed, a few every ASK steps of the contraction. */
enum { ASK = 8, LINE = 16, MOST_ASKED = 2 };

typedef struct Asked {
    KdValue value[MOST_ASKED];
    int n;
} Asked;

static void add_asked(Asked *a, KdValue v) {
    for (int i = 0; i < a->n; i++)
        if (a->value[i] == v) return;
    if (a->n < MOST_ASKED) a->value[a->n++] = v;
}

/* What is loaded, element by element, for v, which has `count` elements. */
static void find_asked(const KdLower *l, KdValue v, int64_t count, int depth, Asked *a) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, v);
    KdValue home = l->fu->alias[v] != KD_NONE ? l->fu->alias[v] : v;
    if (n->type->count != count || n->type->dtype != KD_F32 || depth == 0) return;
    if (l->fu->stored[home]) {
        add_asked(a, home);
        return;
    }
    for (int k = 0; k < n->n_in && kd_op_info[n->op].cls == KD_ELEMENTWISE; k++)
        find_asked(l, n->in[k], count, depth - 1, a);
}

/* Part `i` of `parts` of n lines of the pixels from `pixel` on, of channel after channel; each of `a` in turn. */
static void ask(KdLower *l, const Pointwise *p, const Asked *a, KlValue channel, KlValue pixel, int64_t n, int64_t wide,
                KlValue i, int64_t parts) {
    KlBuilder *b = &l->b;
    int64_t each = sch_ceil(n, parts);
    for (int64_t j = 0; j < each; j++) {
        KlValue line = sch_minc(b, sch_addc(b, sch_mulc(b, i, each), j), n - 1);
        KlValue at = sch_mulc(b, sch_split(b, &line, wide), LINE);
        at = sch_add(b, sch_madc(b, sch_add(b, channel, line), p->pixels, pixel), at);
        for (int k = 0; k < a->n; k++)
            kl_prefetch(b, kd_lower_buffer(l, a->value[k]), at);
    }
}

typedef struct Asking {
    Asked in, out;
} Asking;

/* Nothing where it is in the second cache anyway. */
static Asking find_asking(const KdLower *l, const Pointwise *p) {
    Asking a = {0};
    const KdNode *n = kd_node(l->fu->f, p->c.node);
    const KdType *x = sch_operand_type(l, p->c.node, 0);
    if (4.0 * (double)(x->count + n->type->count) < 0.5 * p->c.machine.l2 || p->c.depth < ASK) return a;
    if (p->columns.count > 1 && p->c.tiles.count == 1) find_asked(l, n->in[0], x->count, 6, &a.in);
    for (int i = 0; i < l->g->stores.n; i++) {
        const KdType *t = kd_vtype(l->fu->f, l->g->stores.v[i]);
        if (t->count == n->type->count && t->dtype == KD_F32) add_asked(&a.out, l->g->stores.v[i]);
    }
    return a;
}

/* Where an item is among its register tiles. */
typedef struct Place {
    KlValue call, row, first;
} Place;

/* Steps first .. first + count of the contraction. */
static void some_steps(KlBuilder *b, const SchTile *t, const SchProduct *q, KlValue first, int64_t count, KlValue *acc) {
    int n = t->mr * t->nv;
    int64_t from[SCH_MAX_TILE], column[SCH_MAX_TILE];
    KlValue next[SCH_MAX_TILE];
    sch_strides(from, t->mr, q->apart);
    sch_strides(column, t->nv, t->lanes);
    KlFor k = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, count), 1, n, acc);
    for (int i = 0; i < n; i++)
        next[i] = k.carried[i];
    KlValue step = sch_add(b, first, k.i);
    sch_tile_step(b, t, next, q->rows, sch_madc(b, step, q->row_step, q->row), from, q->columns,
                  sch_madc(b, step, q->column_step, q->column), column);
    k.instr->unroll = (uint16_t)sch_unroll(n, count);
    kl_for_end(b, &k, next, acc);
}

/* One register tile into it->tile, which asks for lines while it is computed. */
static void one_tile(KdLower *l, const Pointwise *p, const Item *it, const Asking *asking, const Place *at,
                     const SchProduct *q) {
    KlBuilder *b = &l->b;
    const SchConv *c = &p->c;
    const SchTile *t = &c->tile;
    int n = t->mr * t->nv;
    int64_t row[SCH_MAX_TILE], column[SCH_MAX_TILE], parts = c->depth / ASK;
    KlValue acc[SCH_MAX_TILE], next[SCH_MAX_TILE];
    sch_strides(row, t->mr, p->width);
    sch_strides(column, t->nv, t->lanes);
    sch_tile_init(b, t, acc, true, it->tile, kl_i64(b, 0), row, column);
    KlFor f = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, parts), 1, n, acc);
    for (int i = 0; i < n; i++)
        next[i] = f.carried[i];
    if (asking->in.n) { /* of the next block of columns, the calls one after the other */
        int64_t wide = p->columns.size * p->width / LINE, calls = c->tiles.size * p->columns.size;
        KlValue channel = sch_mulc(b, sch_madc(b, it->image, c->groups, it->group), c->depth);
        KlValue pixel = sch_mulc(b, sch_addc(b, it->column_block, 1), p->columns.size * p->width);
        ask(l, p, &asking->in, channel, pixel, c->depth * wide, wide, sch_madc(b, at->call, parts, f.i), calls * parts);
    }
    if (asking->out.n) {
        KlValue channel = sch_madc(b, sch_madc(b, it->image, c->groups, it->group), c->rows_out, at->row);
        int64_t wide = p->width / LINE;
        ask(l, p, &asking->out, channel, at->first, t->mr * wide, wide, f.i, parts);
    }
    some_steps(b, t, q, sch_mulc(b, f.i, ASK), ASK, next);
    kl_for_end(b, &f, next, acc);
    if (c->depth % ASK) some_steps(b, t, q, kl_i64(b, parts * ASK), c->depth % ASK, acc);
    sch_tile_store(b, t, acc, it->tile, kl_i64(b, 0), row, column);
}

/* Rows of the last tile that the one before it has done are left out: each element is finished once. */
static void finish_tile(KdLower *l, const Pointwise *p, const Item *it, KlValue row_tile, KlValue row, KlValue first) {
    KlBuilder *b = &l->b;
    const SchConv *c = &p->c;
    KlValue done = kl_op2(b, KL_OP_SUB, sch_mulc(b, row_tile, c->tile.mr), row);
    KlFor r = sch_loop(b, done, kl_i64(b, c->tile.mr), 1);
    KlValue channel = sch_madc(b, it->group, c->rows_out, sch_add(b, row, r.i)), idx[4];
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), tile_length(b, p, first), c->tile.lanes);
    KlValue sum = kl_load(b, it->tile, sch_madc(b, r.i, p->width, x.i), 1);
    place(l, p, it->image, channel, sch_add(b, first, x.i), idx);
    kd_lower_finish(l, sum, idx);
    sch_loop_end(b, &x);
    sch_loop_end(b, &r);
}

static void all_tiles(KdLower *l, const Pointwise *p, const Item *it) {
    Asking asking = find_asking(l, p);
    KlBuilder *b = &l->b;
    const SchConv *c = &p->c;
    KlFor m = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &c->tiles, it->block), 1);
    KlValue tile = sch_madc(b, it->block, c->tiles.size, m.i);
    KlValue row = sch_tile_first(b, tile, c->tile.mr, c->rows_out);
    KlValue weights = sch_mulc(b, sch_madc(b, it->group, row_tiles(c), tile), packed_tile(c));
    KlFor t = sch_loop(b, kl_i64(b, 0), it->columns, 1);
    KlValue first = sch_mulc(b, sch_madc(b, it->column_block, p->columns.size, t.i), p->width);
    SchProduct product = {.rows = it->weights, .row = weights, .apart = 1, .row_step = c->tile.mr,
                          .columns = it->panel, .column = sch_mulc(b, t.i, c->depth * p->width),
                          .column_step = p->width};
    Place at = {sch_madc(b, m.i, p->columns.size, t.i), row, first};
    if (asking.in.n + asking.out.n)
        one_tile(l, p, it, &asking, &at, &product);
    else
        sch_tile_product(b, &c->tile, &product, kl_i64(b, c->depth), c->depth, true, it->tile, kl_i64(b, 0), p->width);
    finish_tile(l, p, it, tile, row, first);
    sch_loop_end(b, &t);
    sch_loop_end(b, &m);
}

/* ---- the whole --------------------------------------------------------------------------- */

double cost_conv_pointwise(const KdLower *l, const KdGroup *g) {
    Pointwise p;
    return plan(l, g, &p) ? p.cycles / SCH_HERTZ : -1;
}

void build_conv_pointwise(KdLower *l, const KdGroup *g) {
    Pointwise p;
    plan(l, g, &p);
    const SchConv *c = &p.c;
    pack_weights(l, c);
    const KdNode *n = sch_root(l, g);
    kd_lower_begin(l, kd_format(l->cx, "%s %s pointwise", kd_op_info[n->op].name, kd_shape_text(l->cx, n->type)),
                   c->batch * c->groups * c->tiles.count * p.columns.count);
    KlBuilder *b = &l->b;
    Item it = {.weights = kd_lower_temp(l, 2, KL_F32, packed_count(c), KL_IN)};
    it.panel = kl_buf(l->k, "panel", KL_F32, p.columns.size * c->depth * p.width, KL_SCRATCH);
    it.tile = kl_buf(l->k, "tile", KL_F32, c->tile.mr * p.width, KL_SCRATCH);
    KlValue i = kl_parallel_index(l->k);
    it.block = sch_split(b, &i, c->tiles.count);
    it.column_block = sch_split(b, &i, p.columns.count);
    it.group = sch_split(b, &i, c->groups);
    it.image = i;
    it.columns = sch_cut_length(b, &p.columns, it.column_block);
    pack_panels(l, &p, &it);
    all_tiles(l, &p, &it);
    l->k->flops = 2 * sch_macs(l, c->node);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, c->node, 0)->count + sch_operand_type(l, c->node, 1)->count +
                                 n->type->count);
    kd_lower_end(l);
}

void explain_conv_pointwise(KdStr *s, const KdLower *l, const KdGroup *g) {
    Pointwise p;
    if (!plan(l, g, &p)) return;
    sch_explain_tile(s, &p.c.tile);
    sch_explain_cut(s, &p.c.tiles, "blocks", p.c.tile.mr, "channels");
    sch_explain_cut(s, &p.columns, "blocks", p.width, "pixels");
    kd_str_printf(s, ", weights packed, picture in panels");
}
