/* gemm.c: the blocked product behind matmul and the weight gradient of small pictures.
 *
 * An item of the parallel range is a block of rows and a block of columns. For each slice of the
 * contraction its columns are packed into panels of one column tile each (through the prologue),
 * which then stay in the first cache while all row tiles pass (or are read where they are, by a
 * single row tile); rows are broadcast from memory as they lie. The sums live in an output tile in
 * scratch between slices and go through the epilogue row by row at the end. Where many items need
 * the same columns and packing them is dear, all panels are packed once, into a temporary.
 */
#include "passes/schedule/gemm.h"

static void derive(SchGemm *m) {
    const SchTile *t = &m->tile;
    int64_t width = (int64_t)t->nv * t->lanes, units = m->depth / m->unit;
    /* The packed columns of one tile and the rows that meet them. */
    int64_t deep = (int64_t)(0.7 * m->machine.l1 / 4 / (double)(width + t->mr));
    m->slices = sch_cut(units, m->direct || m->once ? units
                                                    : sch_max(1, sch_min(units, deep / m->unit)));
    double rows = (double)(m->row_tiles.size * t->mr),
           columns = (double)(m->column_tiles.size * width);
    double all = (double)m->depth * (double)m->outer, rounds = (double)(m->slices.count * m->outer);
    double step = sch_tile_cycles(&m->machine, t->mr, t->nv, true);
    double calls = (double)(m->row_tiles.size * m->column_tiles.size);
    double work = calls * (all * step + rounds * (1.5 * t->mr * t->nv + 20));
    double pack = m->direct ? 0 : all * columns * m->pack_cost,
           out = rows * columns * m->finish_cost;
    /* In memory, each run of results starts slowly. */
    if (4.0 * (double)m->rows * (double)m->columns * (double)m->batch > m->machine.l2)
        out += 150 * rows;
    /* What comes from memory is waited for where there is little work for it. */
    double row_bytes = 4 * all * (double)m->rows,
           column_bytes = 4 * all * (double)m->columns * (double)m->batch;
    if (row_bytes * (double)m->batch > 0.5 * m->machine.l2 && work < rows * all * 4 / 3)
        work = rows * all * 4 / 3;
    if (!m->windows && column_bytes > 0.5 * m->machine.l2) {
        double fetch = 4 * all * columns / (m->direct ? 3 : 1.5),
               *least = m->direct ? &work : &pack;
        *least = *least > fetch ? *least : fetch;
    }
    double scratch = 4 * (rows * columns + (double)(m->slices.size * m->unit) * (columns + rows));
    int64_t items = m->batch * m->row_tiles.count * m->column_tiles.count;
    double beside = 4000;
    if (m->once) { /* panels come from the second cache, or the third */
        double panels = 4 * all * (double)m->columns * (double)m->batch;
        beside += 4000 + panels / 4 * m->pack_cost;
        pack = 4 * all * columns / (panels > 0.5 * m->machine.l2 ? 14 : 40);
    }
    m->cycles =
        sch_dealt((double)items) * (work * sch_crowding(&m->machine, scratch) + pack + out + 100) +
        beside;
}

static void try_blocks(SchGemm *best, SchGemm *m) {
    int64_t rows = sch_ceil(m->rows, m->tile.mr);
    int64_t columns = sch_ceil(m->columns, (int64_t)m->tile.nv * m->tile.lanes);
    for (int64_t i = 1; i <= rows; i = sch_next_count(i))
        for (int64_t j = 1; j <= columns; j = sch_next_count(j)) {
            if (i * j > 256) continue;
            m->row_tiles = sch_cut(rows, sch_ceil(rows, i));
            m->column_tiles = sch_cut(columns, sch_ceil(columns, j));
            /* Not worth packing for a single tile of rows; but then tiles must not reach beyond the
             * last column. */
            m->direct = m->may_skip_packing && rows == 1 && m->outer == 1 &&
                        m->columns % (m->tile.nv * m->tile.lanes) == 0;
            for (int once = 0; once <= m->may_pack_once && !(once && m->direct); once++) {
                m->once = once != 0;
                derive(m);
                if (best->cycles < 0 || m->cycles < best->cycles) *best = *m;
            }
        }
}

bool sch_gemm_plan(SchGemm *m, const KdLower *l, const char *schedule) {
    SchGemm best = *m, c = *m;
    if (sch_recall(l, m->node, schedule, &c, sizeof c)) {
        m->tile = c.tile, m->row_tiles = c.row_tiles, m->column_tiles = c.column_tiles;
        m->slices = c.slices, m->cycles = c.cycles, m->direct = c.direct, m->once = c.once;
        return m->cycles >= 0;
    }
    best.cycles = -1;
    double least = 1e300;
    for (int pass = 0; pass < 2; pass++)
        for (int mr = 1; mr <= 14 && mr <= m->rows; mr++)
            for (int nv = 1; nv <= 8; nv++) {
                int64_t width = (int64_t)nv * m->machine.lanes;
                double price = sch_tile_cycles(&m->machine, mr, nv, true) *
                               (double)sch_ceil(m->rows, mr) * (double)sch_ceil(m->columns, width);
                if (!sch_tile_fits(&m->machine, mr, nv) || (pass && price > 1.25 * least)) continue;
                c.tile = (SchTile){mr, nv, m->machine.lanes, m->machine.fma};
                if (pass)
                    try_blocks(&best, &c);
                else
                    least = price < least ? price : least;
            }
    *m = best;
    sch_remember(l, m->node, schedule, m, sizeof *m);
    return best.cycles >= 0;
}

/* ---- packing ----------------------------------------------------------------------------- */

void sch_pack_along(KdLower *l, const SchSource *s, const SchGemm *m, const SchPanel *p) {
    KlBuilder *b = &l->b;
    int lanes = m->tile.lanes;
    KlFor t = sch_loop(b, kl_i64(b, 0), p->tiles, 1);
    KlValue skip = sch_mulc(b, t.i, p->width);
    KlValue n = sch_minc(b, kl_op2(b, KL_OP_SUB, p->count, skip), p->width);
    KlFor k = sch_loop(b, kl_i64(b, 0), p->depth, 1);
    KlValue at = sch_add(b, p->at, sch_madc(b, t.i, p->stride, sch_mulc(b, k.i, p->width)));
    if (m->columns % p->width) sch_zero(b, p->buf, at, p->width, lanes);
    KlFor f =
        sch_vector_loop(b, kl_i64(b, 0), m->columns % p->width ? n : kl_i64(b, p->width), lanes);
    KlValue line[2] = {p->batch, sch_add(b, p->k0, k.i)};
    KlValue x = sch_add(b, sch_add(b, p->first, skip), f.i);
    kl_store(b, p->buf, sch_add(b, at, f.i), s->element(l, s, line, x));
    sch_loop_end(b, &f);
    sch_loop_end(b, &k);
    sch_loop_end(b, &t);
}

/* Depth of a slice, rounded up to whole vectors. */
static int64_t slice_room(const SchGemm *m) {
    return sch_ceil(m->slices.size * m->unit, m->tile.lanes) * m->tile.lanes;
}

int64_t sch_pack_across_line(const SchGemm *m) { return slice_room(m) * m->tile.lanes; }

void sch_pack_across(KdLower *l, const SchSource *s, const SchGemm *m, const SchPanel *p) {
    KlBuilder *b = &l->b;
    int lanes = m->tile.lanes;
    int64_t room = slice_room(m);
    KlFor v = sch_loop(b, kl_i64(b, 0), sch_mulc(b, p->tiles, p->width / lanes), 1);
    KlFor y = sch_loop_n(b, lanes);
    /* Beyond the last column its neighbour is repeated: lanes that nobody reads. */
    KlValue column = sch_add(b, p->first, sch_madc(b, v.i, lanes, y.i));
    column = sch_minc(b, column, m->columns - 1);
    KlFor k = sch_vector_loop(b, kl_i64(b, 0), p->depth, lanes);
    KlValue line[2] = {p->batch, column};
    KlValue value = s->element(l, s, line, sch_add(b, p->k0, k.i));
    kl_store(b, p->line, sch_madc(b, y.i, room, k.i), value);
    sch_loop_end(b, &k);
    sch_loop_end(b, &y);
    KlValue at = v.i, part = sch_split(b, &at, p->width / lanes);
    at = sch_add(b, p->at, sch_madc(b, at, p->stride, sch_mulc(b, part, lanes)));
    KlFor f = sch_loop(b, kl_i64(b, 0), p->depth, lanes);
    sch_transpose(b, lanes, p->line, f.i, room, p->buf, sch_madc(b, f.i, p->width, at), p->width);
    sch_loop_end(b, &f);
    sch_loop_end(b, &v);
}

/* ---- the tiles --------------------------------------------------------------------------- */

typedef struct Blocks {
    int rows, panel, tile;
    int64_t panel_row;
} Blocks; /* panel_row: from one k to the next */

/* Row tiles of a block against one panel. rows: where the operand's slice begins; row0: the block's
 * first tile. */
static void row_tiles(KlBuilder *b, const SchGemm *m, const Blocks *u, KlValue rows, KlValue block,
                      KlValue depth, KlValue panel, KlValue column) {
    const SchTile *t = &m->tile;
    int64_t width = (int64_t)t->nv * t->lanes, all = m->column_tiles.size * width;
    bool whole = m->slices.count == 1 && m->outer == 1;
    KlFor f = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &m->row_tiles, block), 1);
    KlValue row = sch_tile_first(b, sch_madc(b, block, m->row_tiles.size, f.i), t->mr, m->rows);
    KlValue a = sch_madc(b, row, m->row_stride, rows), at = sch_madc(b, f.i, t->mr * all, column);
    SchProduct p = {.rows = u->rows, .row = a, .apart = m->row_stride, .row_step = m->depth_stride,
                    .columns = u->panel, .column = panel, .column_step = u->panel_row};
    sch_tile_product(b, t, &p, depth, m->slices.size * m->unit, whole, u->tile, at, all);
    sch_loop_end(b, &f);
}

static void finish_block(KdLower *l, const SchGemm *m, const Blocks *u, KlValue batch,
                         KlValue row_block, KlValue first_column, KlValue columns) {
    KlBuilder *b = &l->b;
    const SchTile *t = &m->tile;
    int64_t all = m->column_tiles.size * t->nv * t->lanes, most = m->row_tiles.size * t->mr;
    KlValue r0 = sch_mulc(b, row_block, most);
    KlFor f = sch_loop(b, kl_i64(b, 0),
                       sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, m->rows), r0), most), 1);
    KlValue row = sch_add(b, r0, f.i), held = sch_tile_row(b, f.i, row, t->mr, m->rows);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), columns, t->lanes);
    KlValue acc = kl_load(b, u->tile, sch_madc(b, held, all, x.i), 1);
    m->finish(l, m, acc, batch, row, sch_add(b, first_column, x.i));
    sch_loop_end(b, &x);
    sch_loop_end(b, &f);
}

/* Elements of all panels: [batch][outer][column tile][k][column of the tile]. */
static int64_t panel_count(const SchGemm *m) {
    int64_t width = (int64_t)m->tile.nv * m->tile.lanes;
    return m->batch * m->outer * sch_ceil(m->columns, width) * slice_room(m) * width;
}

static void pack_once(KdLower *l, const SchGemm *m) {
    int64_t width = (int64_t)m->tile.nv * m->tile.lanes, tiles = sch_ceil(m->columns, width);
    kd_lower_begin(l, "panels", m->batch * m->outer * tiles);
    KlBuilder *b = &l->b;
    KlValue i = kl_parallel_index(l->k), at = sch_mulc(b, i, slice_room(m) * width);
    SchPanel p = {.buf = kd_lower_temp(l, 1, KL_F32, panel_count(m), KL_OUT),
                  .line = m->line_count ? kl_buf(l->k, "line", KL_F32, m->line_count(m), KL_SCRATCH)
                                        : -1,
                  .width = width,
                  .stride = slice_room(m) * width,
                  .at = at,
                  .k0 = kl_i64(b, 0),
                  .depth = kl_i64(b, m->depth),
                  .tiles = kl_i64(b, 1)};
    p.first = sch_mulc(b, sch_split(b, &i, tiles), width);
    p.count = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, m->columns), p.first), width);
    p.outer = sch_split(b, &i, m->outer);
    p.batch = i;
    m->pack(l, m, &p);
    l->k->bytes = 8.0 * (double)panel_count(m);
    kd_lower_end(l);
}

void sch_gemm_build(KdLower *l, const SchGemm *m) {
    sch_materialise(l, m->node, m->rows_operand, 0);
    if (m->once) pack_once(l, m);
    const KdType *y = kd_vtype(l->fu->f, m->node);
    const SchTile *t = &m->tile;
    const char *name = kd_op_info[kd_node(l->fu->f, m->node)->op].name;
    kd_lower_begin(l, kd_format(l->cx, "%s %s", name, kd_shape_text(l->cx, y)),
                   m->batch * m->row_tiles.count * m->column_tiles.count);
    KlBuilder *b = &l->b;
    int64_t width = (int64_t)t->nv * t->lanes, block = m->column_tiles.size * width;
    SchPanel p = {.width = width, .stride = slice_room(m) * width, .line = -1};
    Blocks u = {.rows = sch_operand_buffer(l, m->node, m->rows_operand, 0)};
    if (m->direct)
        u.panel = kd_lower_buffer(l, kd_node(l->fu->f, m->node)->in[1 - m->rows_operand]);
    else if (m->once)
        u.panel = kd_lower_temp(l, 1, KL_F32, panel_count(m), KL_IN);
    else
        u.panel = p.buf =
            kl_buf(l->k, "panel", KL_F32, m->column_tiles.size * p.stride, KL_SCRATCH);
    u.panel_row = m->direct ? m->columns : width;
    if (m->line_count && !m->direct && !m->once)
        p.line = kl_buf(l->k, "line", KL_F32, m->line_count(m), KL_SCRATCH);
    int64_t tile = m->row_tiles.size * t->mr * block;
    u.tile = kl_buf(l->k, "tile", KL_F32, tile, KL_SCRATCH);
    KlValue i = kl_parallel_index(l->k);
    KlValue row_block = sch_split(b, &i, m->row_tiles.count),
            column_block = sch_split(b, &i, m->column_tiles.count);
    p.at = kl_i64(b, 0);
    p.batch = i;
    p.first = sch_mulc(b, column_block, block);
    p.tiles = sch_cut_length(b, &m->column_tiles, column_block);
    p.count = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, m->columns), p.first), block);
    if (m->slices.count * m->outer > 1) sch_zero(b, u.tile, kl_i64(b, 0), tile, t->lanes);

    KlFor o = sch_loop_n(b, m->outer), s = sch_loop_n(b, m->slices.count);
    p.outer = o.i;
    p.k0 = sch_mulc(b, s.i, m->slices.size * m->unit);
    p.depth = sch_mulc(b, sch_cut_length(b, &m->slices, s.i), m->unit);
    if (!m->direct && !m->once) m->pack(l, m, &p);
    KlValue rows = sch_madc(b, i, m->batch_stride, sch_mulc(b, o.i, m->outer_stride));
    rows = sch_madc(b, p.k0, m->depth_stride, rows);
    KlFor c = sch_loop(b, kl_i64(b, 0), p.tiles, 1);
    KlValue column = sch_mulc(b, c.i, width), panel = sch_mulc(b, c.i, p.stride);
    if (m->direct) panel = sch_add(b, sch_madc(b, i, m->depth * m->columns, p.first), column);
    if (m->once) {
        KlValue tiles = sch_madc(b, i, m->outer, o.i);
        tiles = sch_madc(b, tiles, sch_ceil(m->columns, width),
                         sch_mulc(b, column_block, m->column_tiles.size));
        panel = sch_madc(b, tiles, p.stride, panel);
    }
    row_tiles(b, m, &u, rows, row_block, p.depth, panel, column);
    sch_loop_end(b, &c);
    sch_loop_end(b, &s);
    sch_loop_end(b, &o);
    finish_block(l, m, &u, i, row_block, p.first, p.count);
    l->k->flops = 2 * sch_macs(l, m->node);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, m->node, 0)->count +
                                 sch_operand_type(l, m->node, 1)->count + y->count);
    kd_lower_end(l);
}
