/* dots.c: dot products along memory, for matrices that are read once: a vector or a few pixels
 * times many weights.
 *
 * Lanes run along the contraction of both operands, so that the larger one streams past as it lies
 * in memory, with no packing and no lane in vain however few columns there are. Each sum is a
 * vector that is folded across lanes at the end. An item of the parallel range is a block of rows;
 * its results wait in scratch and then go through the epilogue.
 */
#include "passes/schedule/dots.h"

static double step_cycles(const SchDots *d, int mr, int nv) {
    /* Columns come from the second cache, rows as well where they are read again for the next
     * columns. */
    bool far = 4.0 * (double)d->depth * (double)(mr + nv) > 0.6 * d->machine.l1;
    double bytes = 4.0 * d->machine.lanes * (nv + (nv < d->columns ? mr : 0)),
           fetch = far ? bytes / 24 : 0;
    double fmas = mr * nv * (d->machine.fma ? 0.5 : 1.0), loads = 0.6 * (mr + nv),
           most = fmas > loads ? fmas : loads;
    most = most > fetch ? most : fetch;
    return (most > 4.0 ? most : 4.0) + 0.4;
}

bool sch_dots_plan(SchDots *d) {
    d->cycles = -1;
    for (int mr = 1; mr <= 8 && mr <= d->rows; mr++)
        for (int nv = 1; nv <= 8 && nv <= d->columns; nv++) {
            if (!sch_tile_fits(&d->machine, mr, nv)) continue;
            int64_t tiles = sch_ceil(d->rows, mr), columns = sch_ceil(d->columns, nv);
            SchCut cut = sch_cut(tiles, sch_max(1, sch_ceil(tiles, sch_ceil(32, d->batch))));
            double vectors = (double)sch_ceil(d->depth, d->machine.lanes);
            double work = (double)(cut.size * columns) *
                          (vectors * step_cycles(d, mr, nv) + 7.0 * mr * nv + 20);
            double bytes = 4.0 * (double)d->depth * (double)(cut.size * mr);
            double all = bytes * (double)(cut.count * d->batch),
                   fetch = all > 0.5 * d->machine.l2 ? bytes / 4 : 0;
            double item =
                (work > fetch ? work : fetch) + 2.0 * (double)(cut.size * mr * d->columns) + 100;
            double cycles = item * sch_dealt((double)(cut.count * d->batch)) + 4000;
            if (d->cycles < 0 || cycles < d->cycles) {
                d->tile = (SchTile){mr, nv, d->machine.lanes, d->machine.fma};
                d->row_tiles = cut;
                d->column_tiles = columns;
                d->cycles = cycles;
            }
        }
    return d->cycles >= 0;
}

typedef struct Buffers {
    int rows, columns, sums;
} Buffers;

/* acc[r, j] += rows[a + aoff[r] ...] * columns[c + coff[j] ...]; mask: of the lanes that count, or
 * KL_NONE. */
static void step(KlBuilder *b, const SchDots *d, const Buffers *f, KlValue *acc, KlValue a,
                 const int64_t *aoff, KlValue c, const int64_t *coff, KlValue mask) {
    const SchTile *t = &d->tile;
    KlValue column[SCH_MAX_TILE],
        zero = mask == KL_NONE ? KL_NONE : kl_splat(b, t->lanes, kl_f32(b, 0));
    for (int j = 0; j < t->nv; j++) {
        KlValue at = sch_addc(b, c, coff[j]);
        column[j] = mask == KL_NONE ? kl_load(b, f->columns, at, t->lanes)
                                    : kl_load_if(b, f->columns, at, mask, zero);
    }
    for (int r = 0; r < t->mr; r++) {
        KlValue at = sch_addc(b, a, aoff[r]);
        KlValue row = mask == KL_NONE ? kl_load(b, f->rows, at, t->lanes)
                                      : kl_load_if(b, f->rows, at, mask, zero);
        for (int j = 0; j < t->nv; j++) {
            KlValue *to = &acc[r * t->nv + j];
            *to = t->fma ? kl_fma(b, row, column[j], *to)
                         : kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, row, column[j]), *to);
        }
    }
}

/* One tile of sums; rows, columns: where its operands begin; at: its place in the results. */
static void one_tile(KlBuilder *b, const SchDots *d, const Buffers *f, KlValue rows,
                     KlValue columns, KlValue at) {
    const SchTile *t = &d->tile;
    int n = t->mr * t->nv;
    int64_t whole = d->depth / t->lanes * t->lanes, off[SCH_MAX_TILE];
    KlValue acc[SCH_MAX_TILE], next[SCH_MAX_TILE];
    sch_strides(off, SCH_MAX_TILE, d->depth);
    for (int k = 0; k < n; k++)
        acc[k] = kl_splat(b, t->lanes, kl_f32(b, 0));
    if (whole) {
        KlFor k = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, whole), t->lanes, n, acc);
        for (int i = 0; i < n; i++)
            next[i] = k.carried[i];
        step(b, d, f, next, sch_add(b, rows, k.i), off, sch_add(b, columns, k.i), off, KL_NONE);
        k.instr->unroll = (uint16_t)sch_unroll(n, whole / t->lanes);
        kl_for_end(b, &k, next, acc);
    }
    if (d->depth % t->lanes) {
        KlValue left = kl_i32(b, (int32_t)(d->depth - whole));
        KlValue mask = kl_cmp(b, KL_LT, kl_iota(b, KL_I32, t->lanes), kl_splat(b, t->lanes, left));
        step(b, d, f, acc, sch_addc(b, rows, whole), off, sch_addc(b, columns, whole), off, mask);
    }
    for (int r = 0; r < t->mr; r++)
        for (int j = 0; j < t->nv; j++)
            kl_store(b, f->sums, sch_addc(b, at, r * d->column_tiles * t->nv + j),
                     kl_reduce(b, KL_OP_ADD, acc[r * t->nv + j]));
}

/* Results are [row of the block][column], the last tiles shifted back as their operands are. */
static void finish(KdLower *l, const SchDots *d, const Buffers *f, KlValue batch, KlValue block) {
    KlBuilder *b = &l->b;
    const SchTile *t = &d->tile;
    int64_t most = d->row_tiles.size * t->mr, pitch = d->column_tiles * t->nv;
    KlValue r0 = sch_mulc(b, block, most);
    KlValue rows = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, d->rows), r0), most);
    bool column = d->columns == 1; /* then rows are neighbours in memory */
    KlFor r = column ? sch_vector_loop(b, kl_i64(b, 0), rows, t->lanes)
                     : sch_loop(b, kl_i64(b, 0), rows, 1);
    KlValue row = sch_add(b, r0, r.i),
            at = sch_mulc(b, sch_tile_row(b, r.i, row, t->mr, d->rows), pitch);
    if (column) {
        d->finish(l, d, kl_load(b, f->sums, at, 1), batch, row, kl_i64(b, 0));
    } else {
        KlFor c = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, d->columns), t->lanes);
        KlValue held = sch_tile_row(b, c.i, c.i, t->nv, d->columns);
        d->finish(l, d, kl_load(b, f->sums, sch_add(b, at, held), 1), batch, row, c.i);
        sch_loop_end(b, &c);
    }
    sch_loop_end(b, &r);
}

void sch_dots_build(KdLower *l, const SchDots *d) {
    const KdType *y = kd_vtype(l->fu->f, d->node);
    const SchTile *t = &d->tile;
    const char *name = kd_op_info[kd_node(l->fu->f, d->node)->op].name;
    kd_lower_begin(l, kd_format(l->cx, "%s %s", name, kd_shape_text(l->cx, y)),
                   d->batch * d->row_tiles.count);
    KlBuilder *b = &l->b;
    int64_t pitch = d->column_tiles * t->nv;
    Buffers f = {.rows = d->row_buffer(l, d), .columns = d->column_buffer(l, d)};
    f.sums = kl_buf(l->k, "sums", KL_F32, d->row_tiles.size * t->mr * pitch, KL_SCRATCH);
    KlValue batch = kl_parallel_index(l->k), block = sch_split(b, &batch, d->row_tiles.count);
    KlFor r = sch_loop(b, kl_i64(b, 0), sch_cut_length(b, &d->row_tiles, block), 1);
    KlValue row = sch_tile_first(b, sch_madc(b, block, d->row_tiles.size, r.i), t->mr, d->rows);
    KlValue rows = sch_mulc(b, sch_madc(b, batch, d->rows, row), d->depth);
    KlFor c = sch_loop_n(b, d->column_tiles);
    KlValue column = sch_tile_first(b, c.i, t->nv, d->columns);
    KlValue columns = sch_mulc(b, sch_madc(b, batch, d->columns, column), d->depth);
    one_tile(b, d, &f, rows, columns, sch_madc(b, r.i, t->mr * pitch, sch_mulc(b, c.i, t->nv)));
    sch_loop_end(b, &c);
    sch_loop_end(b, &r);
    finish(l, d, &f, batch, block);
    l->k->flops = 2 * sch_macs(l, d->node);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, d->node, 0)->count +
                                 sch_operand_type(l, d->node, 1)->count + y->count);
    kd_lower_end(l);
}
