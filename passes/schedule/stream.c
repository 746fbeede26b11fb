/* stream.c: products of matrices that are never in memory.
 *
 * A group comes in that reduces, or contracts, what is made of the elements of products S = A B (KdFusion.streamed).
 * Its parallel index runs over blocks of S's rows (or columns: then everything is turned). For a block, S is computed
 * into scratch that stays in the caches, with the register tile of the other schedules: the block's rows of A are
 * copied to scratch and broadcast, B comes in panels of a tile's columns, packed once in a kernel before. Then
 *   - a row group runs its stages over the block's rows, as on memory (lower_row.c);
 *   - a product W Z, with W elementwise in S, writes the elements of W over those of S, or beside them, and contracts
 *     them with panels of Z (the group's anchor, or a row group's tail).
 * So a block of S is computed once for each group. The sum in an element of S runs over the contraction in order, the
 * same for rows and for columns; blocks depend on shapes alone.
 */
#include "passes/schedule/stream.h"

enum {
    SLICE_BYTES = 24576, /* of a panel: with the rows that meet it, in the first cache */
    L2_BYTES = 32,       /* a cycle, from the second cache */
    L3_BYTES = 7,        /* and from the third */
    MOST_SCRATCH = 4,    /* times the second cache */
};

bool kd_streams(const KdLower *l) {
    const KdWalk *w = l->binding->walk;
    for (int i = 0; i < w->touch.n; i++) {
        if (!w->touch.v[i].load && l->fu->streamed[w->touch.v[i].v]) {
            return true;
        }
    }
    return false;
}

/* ---- the plan ------------------------------------------------------------------------------------ */

static KdStreamOperand operand_of(const KdLower *l, KdValue node, int k) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, node);
    const KdType *t = kd_vtype(f, n->in[k]);
    bool turned = kd_attr_int(f, n, k ? "tb" : "ta") != 0;
    KdStreamOperand o = {.node = node, .operand = k, .rank = t->rank, .along = turned == (k == 0)};
    o.extent = t->dim[t->rank - (o.along ? 1 : 2)];
    o.depth = t->dim[t->rank - (o.along ? 2 : 1)];
    return o;
}

/* Scratch of a block of `rows` rows: the products, the rows of their operands, what is made of them, and results. */
static double block_bytes(const KdStream *s, int64_t rows) {
    double floats = (double)((s->n + (s->n_tails > 1 ? s->n_tails - 1 : 0)) * s->pitch);
    for (int i = 0; i < s->n; i++) {
        floats += (double)s->rows[i].depth;
    }
    for (int i = 0; i < s->n_tails; i++) {
        floats += (double)s->other[i].extent;
    }
    return 4.0 * (double)rows * floats;
}

/* Cycles of all blocks with this tile, at the best number of tiles a block. */
static double price(const KdStream *s, SchCut *blocks) {
    const SchTile *t = &s->tile;
    int64_t width = (int64_t)t->nv * t->lanes, tiles = sch_ceil(s->extent, t->mr);
    double depth = 0;
    for (int i = 0; i < s->n_tails; i++) {
        depth += (double)sch_ceil(s->other[i].extent, width) * (double)s->length;
    }
    for (int i = 0; i < s->n; i++) {
        depth += (double)sch_ceil(s->length, width) * (double)s->rows[i].depth;
    }
    /* Panels come from the second cache for every tile of rows, and from the third for every block, which is what large
     * blocks save; what does not fit the second itself is written to the third and read again. */
    double bytes = 4 * (double)width, best = -1;
    double step = sch_tile_cycles(&s->machine, t->mr, t->nv, true) + bytes / L2_BYTES;
    for (int64_t n = 1; n <= tiles; n++) {
        SchCut c = sch_cut(tiles, n);
        double held = block_bytes(s, c.size * t->mr), over = held - 0.6 * s->machine.l2;
        if (n > 1 && held > MOST_SCRATCH * s->machine.l2) {
            break;
        }
        double block = depth * (step * (double)c.size + bytes / L3_BYTES) + (over > 0 ? 3 * over / L3_BYTES : 0);
        double all = sch_dealt((double)(c.count * s->batch)) * block;
        if (best < 0 || all < best) {
            best = all;
            *blocks = c;
        }
    }
    return best;
}

void kd_stream_plan(KdStream *s, KdLower *l, int side, const KdValue *tail, int n_tails) {
    const KdWalk *w = l->binding->walk;
    *s = (KdStream){.l = l, .machine = sch_machine(l), .side = side, .n_tails = n_tails};
    for (int i = 0; i < w->touch.n; i++) {
        KdValue v = w->touch.v[i].v;
        if (!w->touch.v[i].load && l->fu->streamed[v]) {
            if (s->n == KD_MAX_TILES) {
                kd_raise(l->cx, KD_FAIL_INTERNAL, "stream: a group of more than %d products", KD_MAX_TILES);
            }
            s->rows[s->n] = operand_of(l, v, side);
            s->lanes[s->n] = operand_of(l, v, 1 - side);
            s->product[s->n++] = v;
        }
    }
    for (int i = 0; i < n_tails; i++) {
        bool turned;
        int k = kd_streamed_operand(l->fu->f, l->fu->stream, tail[i], &turned);
        s->tail[i] = tail[i];
        s->made[i] = operand_of(l, tail[i], k);
        s->other[i] = operand_of(l, tail[i], 1 - k);
    }
    const KdType *t = kd_vtype(l->fu->f, s->product[0]);
    s->batch = t->rank == 3 ? t->dim[0] : 1;
    s->extent = s->rows[0].extent;
    s->length = s->lanes[0].extent;
    double least = -1;
    SchTile best = {0};
    for (int mr = 1; mr <= 14; mr++) {
        for (int nv = 1; nv <= 8; nv++) {
            SchCut c = {0};
            s->tile = (SchTile){mr, nv, s->machine.lanes, s->machine.fma};
            s->pitch = s->length;
            double cycles = sch_tile_fits(&s->machine, mr, nv) ? price(s, &c) : -1;
            if (cycles >= 0 && (least < 0 || cycles < least)) {
                least = cycles;
                best = s->tile;
                s->blocks = c;
            }
        }
    }
    s->tile = best;
    int64_t width = (int64_t)best.nv * best.lanes;
    /* Rows a power of two apart would meet in the caches. */
    s->pitch = sch_ceil(s->length, width) * width + best.lanes;
    s->room = s->blocks.size * best.mr;
}

/* ---- operands ------------------------------------------------------------------------------------ */

static KlValue element(KdStream *s, const KdStreamOperand *o, KlValue batch, KlValue x, KlValue k) {
    KlValue idx[3] = {batch, o->along ? k : x, o->along ? x : k};
    return kd_lower_operand(s->l, o->node, o->operand, idx + (3 - o->rank));
}

/* Panels of a tile's columns: element (x, k) is at ((batch * panels + x / width) * depth + k) * width + x % width. */
static int64_t panel_depth(const KdStream *s, const KdStreamOperand *o) {
    return sch_ceil(o->depth, s->tile.lanes) * s->tile.lanes;
}

static int64_t panel_count(const KdStream *s, const KdStreamOperand *o) {
    return sch_ceil(o->extent, (int64_t)s->tile.nv * s->tile.lanes);
}

static int panels_buffer(KdStream *s, const KdStreamOperand *o, int temp, KlAccess access) {
    int64_t width = (int64_t)s->tile.nv * s->tile.lanes;
    return kd_lower_temp(s->l, temp, KL_F32, s->batch * panel_count(s, o) * panel_depth(s, o) * width, access);
}

static void pack_panels(KdStream *s, const KdStreamOperand *o, int temp) {
    KdLower *l = s->l;
    KlBuilder *b = &l->b;
    int lanes = s->tile.lanes;
    int64_t width = (int64_t)s->tile.nv * lanes, depth = panel_depth(s, o), panels = panel_count(s, o);
    kd_lower_begin(l, "pack", s->batch * panels);
    int buf = panels_buffer(s, o, temp, KL_OUT);
    KlValue batch = kl_parallel_index(l->k), base = sch_mulc(b, batch, depth * width);
    KlValue first = sch_mulc(b, sch_split(b, &batch, panels), width);
    if (o->along) {
        KlFor k = sch_loop_n(b, o->depth);
        KlValue at = sch_madc(b, k.i, width, base);
        KlValue n = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, o->extent), first), width);
        if (o->extent % width) {
            sch_zero(b, buf, at, width, lanes);
        } else {
            n = kl_i64(b, width);
        }
        KlFor x = sch_vector_loop(b, kl_i64(b, 0), n, lanes);
        kl_store(b, buf, sch_add(b, at, x.i), element(s, o, batch, sch_add(b, first, x.i), k.i));
        sch_loop_end(b, &x);
        sch_loop_end(b, &k);
    } else {
        int line = kl_buf(l->k, "line", KL_F32, depth * lanes, KL_SCRATCH);
        KlFor v = sch_loop_n(b, s->tile.nv), y = sch_loop_n(b, lanes);
        /* Beyond the last column its neighbour is repeated: lanes that nobody reads. */
        KlValue x = sch_minc(b, sch_add(b, first, sch_madc(b, v.i, lanes, y.i)), o->extent - 1);
        if (depth != o->depth) {
            sch_zero(b, line, sch_mulc(b, y.i, depth), depth, lanes);
        }
        KlFor k = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, o->depth), lanes);
        kl_store(b, line, sch_madc(b, y.i, depth, k.i), element(s, o, batch, x, k.i));
        sch_loop_end(b, &k);
        sch_loop_end(b, &y);
        KlValue at = sch_madc(b, v.i, lanes, base);
        KlFor f = sch_loop(b, kl_i64(b, 0), kl_i64(b, depth), lanes);
        sch_transpose(b, lanes, line, f.i, depth, buf, sch_madc(b, f.i, width, at), width);
        sch_loop_end(b, &f);
        sch_loop_end(b, &v);
    }
    l->k->bytes = 8.0 * (double)(s->batch * o->extent * o->depth);
    kd_lower_end(l);
}

/* Rows of the block in scratch, to be broadcast: their strides. Rows beyond the last are zero. */
typedef struct Broadcast {
    int buf;
    int64_t row, depth;
} Broadcast;

static Broadcast copy_rows(KdStream *s, const KdStreamOperand *o) {
    KlBuilder *b = &s->l->b;
    int lanes = s->tile.lanes;
    int64_t pitch = sch_ceil(o->depth, lanes) * lanes + lanes;
    Broadcast r = {.row = o->along ? 1 : pitch, .depth = o->along ? s->room : 1};
    int64_t count = o->along ? s->room * o->depth : s->room * pitch;
    r.buf = kl_buf(s->l->k, "rows", KL_F32, count, KL_SCRATCH);
    if (s->extent % s->room) {
        sch_zero(b, r.buf, kl_i64(b, 0), count, lanes);
    }
    KlFor outer = o->along ? sch_loop_n(b, o->depth) : sch_loop(b, kl_i64(b, 0), s->n_rows, 1);
    KlFor inner = sch_vector_loop(b, kl_i64(b, 0), o->along ? s->n_rows : kl_i64(b, o->depth), lanes);
    KlValue k = o->along ? outer.i : inner.i, i = o->along ? inner.i : outer.i;
    KlValue x = element(s, o, s->at_batch, sch_add(b, s->first, i), k);
    kl_store(b, r.buf, sch_madc(b, i, r.row, sch_mulc(b, k, r.depth)), x);
    sch_loop_end(b, &inner);
    sch_loop_end(b, &outer);
    return r;
}

/* ---- products ------------------------------------------------------------------------------------ */

/* out[i * pitch + x] (+)= sum over k of rows(i, k) * panels(k, x), for the block's rows, in whole tiles; k in slices if
 * the panels are long, and then out holds the sums in between. */
static void multiply(KdStream *s, const Broadcast *rows, const KdStreamOperand *o, int temp, int out, int64_t pitch) {
    KlBuilder *b = &s->l->b;
    const SchTile *t = &s->tile;
    int64_t width = (int64_t)t->nv * t->lanes, depth = panel_depth(s, o), panels = panel_count(s, o);
    int64_t slice = sch_max(16, SLICE_BYTES / 4 / width);
    int buf = panels_buffer(s, o, temp, KL_IN);
    SchCut slices = sch_cut(o->depth, o->depth > 2 * slice ? slice : o->depth);
    bool whole = slices.count == 1;
    if (!whole) {
        sch_zero(b, out, kl_i64(b, 0), s->room * pitch, t->lanes);
    }
    KlValue tiles = kl_op2(b, KL_OP_DIV, sch_addc(b, s->n_rows, t->mr - 1), kl_i64(b, t->mr));
    KlFor c = sch_loop_n(b, slices.count), p = sch_loop_n(b, panels), f = sch_loop(b, kl_i64(b, 0), tiles, 1);
    KlValue k0 = sch_mulc(b, c.i, slices.size), row = sch_mulc(b, f.i, t->mr);
    KlValue panel = sch_add(b, sch_mulc(b, s->at_batch, panels), p.i);
    KlValue column = sch_mulc(b, sch_madc(b, panel, depth, k0), width);
    KlValue a = sch_madc(b, row, rows->row, sch_mulc(b, k0, rows->depth));
    KlValue at = sch_madc(b, row, pitch, sch_mulc(b, p.i, width));
    SchProduct q = {.rows = rows->buf, .row = a, .apart = rows->row, .row_step = rows->depth,
                    .columns = buf, .column = column, .column_step = width};
    sch_tile_product(b, t, &q, sch_cut_length(b, &slices, c.i), slices.size, whole, out, at, pitch);
    sch_loop_end(b, &f);
    sch_loop_end(b, &p);
    sch_loop_end(b, &c);
    s->l->k->flops += 2.0 * (double)s->batch * (double)s->extent * (double)o->extent * (double)o->depth;
}

void kd_stream_begin(KdStream *s, const char *what) {
    KdLower *l = s->l;
    KlBuilder *b = &l->b;
    for (int i = 0; i < s->n; i++) {
        pack_panels(s, &s->lanes[i], i);
    }
    for (int i = 0; i < s->n_tails; i++) {
        pack_panels(s, &s->other[i], s->n + i);
    }
    kd_lower_begin(l, what, s->batch * s->blocks.count);
    KlValue batch = kl_parallel_index(l->k);
    KlValue block = sch_split(b, &batch, s->blocks.count);
    s->at_batch = batch;
    s->first = sch_mulc(b, block, s->room);
    s->n_rows = kl_i64(b, s->room);
    if (s->extent % s->room) {
        s->n_rows = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, s->extent), s->first), s->room);
    }
    for (int i = 0; i < s->n; i++) {
        Broadcast rows = copy_rows(s, &s->rows[i]);
        s->block[i] = kl_buf(l->k, "block", KL_F32, s->room * s->pitch, KL_SCRATCH);
        multiply(s, &rows, &s->lanes[i], i, s->block[i], s->pitch);
        l->binding->tile[l->binding->n_tiles++] =
            (struct KdTile){s->product[i], s->block[i], s->side, s->first, s->pitch};
    }
    for (int i = 0; i < s->n_tails; i++) {
        bool last = i == s->n_tails - 1;
        s->weight[i] = last ? s->block[0] : kl_buf(l->k, "weight", KL_F32, s->room * s->pitch, KL_SCRATCH);
        if (!last && s->extent % s->room) { /* rows beyond the last are multiplied, too */
            sch_zero(b, s->weight[i], kl_i64(b, 0), s->room * s->pitch, s->tile.lanes);
        }
    }
}

void kd_stream_end(KdStream *s) { kd_lower_end(s->l); }

/* ---- contractions -------------------------------------------------------------------------------- */

void kd_stream_make_row(KdStream *s, KlValue i) {
    KlBuilder *b = &s->l->b;
    for (int t = 0; t < s->n_tails; t++) {
        KlFor k = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, s->length), s->tile.lanes);
        KlValue x = element(s, &s->made[t], s->at_batch, sch_add(b, s->first, i), k.i);
        kl_store(b, s->weight[t], sch_madc(b, i, s->pitch, k.i), x);
        sch_loop_end(b, &k);
    }
}

/* Tail t's block of rows, into scratch. Its elements are pitch apart. */
static int contract(KdStream *s, int t, int64_t *pitch) {
    *pitch = panel_count(s, &s->other[t]) * s->tile.nv * s->tile.lanes + s->tile.lanes;
    int out = kl_buf(s->l->k, "result", KL_F32, s->room * *pitch, KL_SCRATCH);
    Broadcast rows = {s->weight[t], s->pitch, 1};
    multiply(s, &rows, &s->other[t], s->n + t, out, *pitch);
    return out;
}

/* Loops over the elements of tail t's block: begin gives their indices in idx, and the element. */
typedef struct Elements {
    KlFor row, column;
} Elements;

static KlValue elements_begin(KdStream *s, int t, Elements *e, KlValue *idx) {
    KlBuilder *b = &s->l->b;
    int64_t pitch;
    int out = contract(s, t, &pitch);
    e->row = sch_loop(b, kl_i64(b, 0), s->n_rows, 1);
    e->column = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, s->other[t].extent), s->tile.lanes);
    KlValue row = sch_add(b, s->first, e->row.i), column = e->column.i;
    bool first = s->made[t].operand == 0;
    KlValue at[3] = {s->at_batch, first ? row : column, first ? column : row};
    for (int d = 0; d < s->made[t].rank; d++) {
        idx[d] = at[3 - s->made[t].rank + d];
    }
    return kl_load(b, out, sch_madc(b, e->row.i, pitch, e->column.i), 1);
}

static void elements_end(KdStream *s, Elements *e) {
    sch_loop_end(&s->l->b, &e->column);
    sch_loop_end(&s->l->b, &e->row);
}

void kd_stream_tails(KdStream *s) {
    for (int t = 0; t < s->n_tails; t++) {
        Elements e;
        KlValue idx[3], x = elements_begin(s, t, &e, idx);
        kd_store_element(s->l, s->tail[t], kd_compose_linear(s->l, kd_vtype(s->l->fu->f, s->tail[t]), idx), x);
        elements_end(s, &e);
    }
}

bool kd_stream_is_anchor(const KdLower *l) {
    bool turned;
    return l->g->kind == KD_GROUP_ANCHOR && kd_streamed_operand(l->fu->f, l->fu->stream, l->g->root, &turned) >= 0;
}

bool kd_stream_anchor(KdLower *l) {
    KlBuilder *b = &l->b;
    KdStream s;
    KdValue root = l->g->root;
    bool turned;
    if (!kd_stream_is_anchor(l)) {
        return false;
    }
    (void)kd_streamed_operand(l->fu->f, l->fu->stream, root, &turned);
    kd_stream_plan(&s, l, turned, &root, 1);
    kd_stream_begin(&s, kd_format(l->cx, "matmul %s, streamed", kd_shape_text(l->cx, kd_vtype(l->fu->f, root))));
    KlFor i = sch_loop(b, kl_i64(b, 0), s.n_rows, 1);
    kd_stream_make_row(&s, i.i);
    sch_loop_end(b, &i);
    Elements e;
    KlValue idx[3], x = elements_begin(&s, 0, &e, idx);
    kd_lower_finish(l, x, idx);
    elements_end(&s, &e);
    kd_stream_end(&s);
    return true;
}
