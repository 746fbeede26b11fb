/* tile.c: the engine the schedules share: loops, the register tile, moving elements through the
 * prologue.
 *
 * In: a KdLower whose current kernel is being built. Out: instructions appended to it. See
 * schedule.h for what each function promises; nothing here knows which contraction it serves.
 */
#include "passes/schedule/schedule.h"

SchMachine sch_machine(const KdLower *l) {
    const KlMachine *m = &l->o->machine;
    return (SchMachine){
        .lanes = m->lanes > 1 ? m->lanes : 4,
        .registers = m->registers > 0 ? m->registers : 16,
        .fma = m->fma,
        .l1 = m->l1 > 0 ? (double)m->l1 : 32768.0,
        .l2 = m->l2 > 0 ? (double)m->l2 : 262144.0,
    };
}

KlValue sch_split(KlBuilder *b, KlValue *x, int64_t n) {
    if (n == 1) return kl_i64(b, 0);
    KlValue c = kl_i64(b, n), rest = kl_op2(b, KL_OP_REM, *x, c);
    *x = kl_op2(b, KL_OP_DIV, *x, c);
    return rest;
}

double sch_crowding(const SchMachine *m, double bytes) {
    double room = 0.7 * m->l2, slower = bytes > room ? 1 + 0.5 * (bytes / room - 1) : 1;
    return slower < 3 ? slower : 3;
}

/* ---- loops ------------------------------------------------------------------------------- */

KlFor sch_loop(KlBuilder *b, KlValue lo, KlValue hi, int64_t step) {
    return kl_for_begin(b, lo, hi, step, 0, NULL);
}

KlFor sch_loop_n(KlBuilder *b, int64_t n) { return sch_loop(b, kl_i64(b, 0), kl_i64(b, n), 1); }

void sch_loop_end(KlBuilder *b, KlFor *f) { kl_for_end(b, f, NULL, NULL); }

KlFor sch_vector_loop(KlBuilder *b, KlValue lo, KlValue hi, int lanes) {
    KlFor f = sch_loop(b, lo, hi, 1);
    f.instr->vector = (uint16_t)lanes;
    return f;
}

void sch_zero(KlBuilder *b, int buf, KlValue at, int64_t n, int lanes) {
    int64_t whole = n / lanes;
    if (whole) {
        KlValue z = kl_splat(b, lanes, kl_f32(b, 0));
        KlFor f = sch_loop_n(b, whole);
        kl_store(b, buf, sch_madc(b, f.i, lanes, at), z);
        sch_loop_end(b, &f);
    }
    if (n % lanes) {
        KlValue z = kl_f32(b, 0);
        KlFor f = sch_loop(b, kl_i64(b, whole * lanes), kl_i64(b, n), 1);
        kl_store(b, buf, sch_add(b, at, f.i), z);
        sch_loop_end(b, &f);
    }
}

KlValue sch_cut_length(KlBuilder *b, const SchCut *c, KlValue i) {
    if (c->n % c->size == 0) return kl_i64(b, c->size);
    KlValue rest = kl_op2(b, KL_OP_SUB, kl_i64(b, c->n), sch_mulc(b, i, c->size));
    return sch_minc(b, rest, c->size);
}

/* ---- the register tile ------------------------------------------------------------------- */

bool sch_tile_fits(const SchMachine *m, int mr, int nv) {
    /* Accumulators, one vector of each column, one broadcast; without FMA a product as well, and
     * instructions that overwrite an operand. One or two are left over, because the register
     * allocator is not perfect. */
    int used = mr * nv + nv + (m->fma ? 1 : 3);
    return mr * nv <= SCH_MAX_TILE && used <= m->registers - m->registers / 16;
}

double sch_tile_cycles(const SchMachine *m, int mr, int nv, bool aligned) {
    double split = aligned ? 1.0 : m->lanes >= 16 ? 2.0 : m->lanes >= 8 ? 1.5 : 1.25;
    double fmas = mr * nv * (m->fma ? 0.5 : 1.0), loads = (mr + nv * split) * 0.5;
    /* Measured: a vector that lies in two lines occupies a load port for almost three cycles. */
    double splits = aligned ? 0 : nv * (m->lanes >= 16 ? 2.85 : 1.4);
    double cycles = fmas > loads ? fmas : loads;
    cycles = cycles > splits ? cycles : splits;
    return (cycles > 4.0 ? cycles : 4.0) + 0.4;
}

void sch_tile_step(KlBuilder *b, const SchTile *t, KlValue *acc, int abuf, KlValue a,
                   const int64_t *aoff, int bbuf, KlValue at, const int64_t *boff) {
    KlValue column[SCH_MAX_TILE];
    for (int j = 0; j < t->nv; j++)
        column[j] = kl_load(b, bbuf, sch_addc(b, at, boff[j]), t->lanes);
    for (int r = 0; r < t->mr; r++) {
        KlValue row = kl_splat(b, t->lanes, kl_load(b, abuf, sch_addc(b, a, aoff[r]), 1));
        for (int j = 0; j < t->nv; j++) {
            KlValue *to = &acc[r * t->nv + j];
            *to = t->fma ? kl_fma(b, row, column[j], *to)
                         : kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, row, column[j]), *to);
        }
    }
}

void sch_tile_init(KlBuilder *b, const SchTile *t, KlValue *acc, bool zero, int buf, KlValue at,
                   const int64_t *row, const int64_t *column) {
    for (int r = 0; r < t->mr; r++)
        for (int j = 0; j < t->nv; j++)
            acc[r * t->nv + j] =
                zero ? kl_splat(b, t->lanes, kl_f32(b, 0))
                     : kl_load(b, buf, sch_addc(b, at, row[r] + column[j]), t->lanes);
}

void sch_tile_store(KlBuilder *b, const SchTile *t, const KlValue *acc, int buf, KlValue at,
                    const int64_t *row, const int64_t *column) {
    for (int r = 0; r < t->mr; r++)
        for (int j = 0; j < t->nv; j++)
            kl_store(b, buf, sch_addc(b, at, row[r] + column[j]), acc[r * t->nv + j]);
}

void sch_strides(int64_t *to, int n, int64_t stride) {
    for (int i = 0; i < n; i++)
        to[i] = i * stride;
}

int sch_unroll(int64_t fmas, int64_t trips) {
    int u = 1;
    while (u < 4 && fmas * u * 2 <= 96 && trips >= u * 2)
        u *= 2;
    return u;
}

void sch_tile_product(KlBuilder *b, const SchTile *t, const SchProduct *p, KlValue depth, int64_t most, bool zero,
                      int buf, KlValue at, int64_t pitch) {
    int n = t->mr * t->nv;
    int64_t row[SCH_MAX_TILE], column[SCH_MAX_TILE], from[SCH_MAX_TILE];
    KlValue acc[SCH_MAX_TILE], next[SCH_MAX_TILE];
    sch_strides(from, t->mr, p->apart);
    sch_strides(row, t->mr, pitch);
    sch_strides(column, t->nv, t->lanes);
    sch_tile_init(b, t, acc, zero, buf, at, row, column);
    KlFor k = kl_for_begin(b, kl_i64(b, 0), depth, 1, n, acc);
    for (int i = 0; i < n; i++)
        next[i] = k.carried[i];
    sch_tile_step(b, t, next, p->rows, sch_madc(b, k.i, p->row_step, p->row), from, p->columns,
                  sch_madc(b, k.i, p->column_step, p->column), column);
    k.instr->unroll = (uint16_t)sch_unroll(n, most);
    kl_for_end(b, &k, next, acc);
    sch_tile_store(b, t, acc, buf, at, row, column);
}

KlValue sch_tile_first(KlBuilder *b, KlValue i, int64_t size, int64_t n) {
    KlValue first = sch_mulc(b, i, size);
    return n % size ? sch_minc(b, first, n - size) : first;
}

/* ---- rows -------------------------------------------------------------------------------- */

SchGuard sch_guard_begin(KlBuilder *b, KlValue y, int64_t n) {
    int64_t lo, hi;
    kl_range(b, y, &lo, &hi);
    SchGuard g = {.needed = lo < 0 || hi >= n, .y = y, .n = n};
    if (g.needed) {
        KlValue above = kl_cmp(b, KL_GE, y, kl_i64(b, 0)),
                below = kl_cmp(b, KL_LT, y, kl_i64(b, n));
        g.branch = kl_if_begin(b, kl_op2(b, KL_OP_AND, above, below));
    }
    return g;
}

bool sch_guard_else(KlBuilder *b, SchGuard *g) {
    if (!g->needed) return false;
    kl_if_end(b, &g->branch);
    KlValue above = kl_cmp(b, KL_LT, g->y, kl_i64(b, 0)),
            below = kl_cmp(b, KL_GE, g->y, kl_i64(b, g->n));
    g->branch = kl_if_begin(b, kl_op2(b, KL_OP_OR, above, below));
    return true;
}

void sch_guard_end(KlBuilder *b, SchGuard *g) { kl_if_end(b, &g->branch); }

KlValue sch_tile_row(KlBuilder *b, KlValue local, KlValue row, int64_t size, int64_t n) {
    if (n % size == 0) return local;
    int64_t last = n / size * size, shift = last + size - n;
    KlValue late = kl_cmp(b, KL_GE, row, kl_i64(b, last));
    return kl_select(b, late, sch_addc(b, local, shift), local);
}

/* ---- moving elements through the prologue ------------------------------------------------ */

KlValue sch_picture_element(KdLower *l, const SchSource *s, const KlValue *line, KlValue x) {
    KlValue idx[4] = {line[0], line[1], line[2], x};
    return kd_lower_operand(l, s->node, s->operand, idx);
}

static int64_t border_of(const KdLower *l, KdValue v, int rank, int d, int *budget) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, v);
    if (l->fu->stored[v] || n->type->rank != rank || --*budget < 0) return 0;
    int64_t own = 0, most = 0;
    if (kd_attr_index(l->cx, (KdOp)n->op, "lo") >= 0 &&
        kd_attr_index(l->cx, (KdOp)n->op, "hi") >= 0) {
        KdInts lo = kd_attr_ints(f, n, "lo"), hi = kd_attr_ints(f, n, "hi");
        if (d < lo.n && d < hi.n) own = sch_max(0, sch_max(lo.v[d], hi.v[d]));
    }
    for (int k = 0; k < n->n_in; k++)
        most = sch_max(most, border_of(l, n->in[k], rank, d, budget));
    return own + most;
}

int64_t sch_border(const KdLower *l, KdValue n, int k, int d) {
    KdValue v = kd_node(l->fu->f, n)->in[k];
    int budget = 64;
    return border_of(l, v, kd_vtype(l->fu->f, v)->rank, d, &budget);
}

/* dest[at + x - x0] = element(x) for x in lo .. hi; a loop of its own so that its range is known.
 */
static void fill_zone(KdLower *l, const SchSource *s, const KlValue *line, int64_t x0, int64_t lo,
                      int64_t hi, int dest, KlValue at) {
    if (lo >= hi) return;
    KlBuilder *b = &l->b;
    int lanes = sch_machine(l).lanes;
    KlFor f = sch_loop(b, kl_i64(b, lo), kl_i64(b, hi), 1);
    if (hi - lo >= lanes) f.instr->vector = (uint16_t)lanes;
    KlValue v = s->element(l, s, line, f.i);
    kl_store(b, dest, sch_add(b, at, sch_addc(b, f.i, -x0)), v);
    sch_loop_end(b, &f);
}

void sch_fill_line(KdLower *l, const SchSource *s, const KlValue *line, int64_t x0, int64_t n,
                   int dest, KlValue at) {
    KlBuilder *b = &l->b;
    int lanes = sch_machine(l).lanes;
    int64_t x1 = x0 + n, lo = sch_min(sch_max(x0, 0), x1), hi = sch_max(sch_min(x1, s->width), lo);
    if (lo > x0) sch_zero(b, dest, at, lo - x0, lanes);
    /* Inside the borders the prologue's own bounds checks fold away. Not worth it where little is
     * inside. */
    int64_t inner_lo = sch_max(lo, s->border), inner_hi = sch_min(hi, s->width - s->border);
    if (inner_hi - inner_lo < lanes) inner_lo = lo, inner_hi = hi;
    fill_zone(l, s, line, x0, lo, inner_lo, dest, at);
    fill_zone(l, s, line, x0, inner_lo, inner_hi, dest, at);
    fill_zone(l, s, line, x0, inner_hi, hi, dest, at);
    if (x1 > hi) sch_zero(b, dest, sch_addc(b, at, hi - x0), x1 - hi, lanes);
}

void sch_transpose(KlBuilder *b, int lanes, int src, KlValue sat, int64_t srow, int dest,
                   KlValue dat, int64_t drow) {
    KlValue row[64];
    for (int y = 0; y < lanes; y++)
        row[y] = kl_load(b, src, sch_addc(b, sat, y * srow), lanes);
    /* Each stage swaps the off-diagonal halves of every 2s x 2s block. */
    for (int s = lanes / 2; s >= 1; s /= 2) {
        int up[64], down[64];
        for (int x = 0; x < lanes; x++) {
            up[x] = x & s ? lanes + (x ^ s) : x;
            down[x] = x & s ? lanes + x : x ^ s;
        }
        for (int y = 0; y < lanes; y++) {
            if (y & s) continue;
            KlValue a = row[y], c = row[y + s];
            row[y] = kl_shuffle(b, a, c, lanes, up);
            row[y + s] = kl_shuffle(b, a, c, lanes, down);
        }
    }
    for (int y = 0; y < lanes; y++)
        kl_store(b, dest, sch_addc(b, dat, y * drow), row[y]);
}

bool sch_is_stored(const KdLower *l, KdValue n, int k) {
    KdValue v = kd_node(l->fu->f, n)->in[k];
    return l->fu->stored[l->fu->alias[v] != KD_NONE ? l->fu->alias[v] : v];
}

void sch_keep(KdLower *l, KdValue n, int k, int temp, int64_t count) {
    if (sch_is_stored(l, n, k)) kd_lower_keep(l, kd_node(l->fu->f, n)->in[k], temp, 4 * count);
}

void sch_materialise(KdLower *l, KdValue n, int k, int temp) {
    if (sch_is_stored(l, n, k)) return;
    const KdType *t = sch_operand_type(l, n, k);
    int outer =
        t->rank - 1 < 2 ? t->rank - 1 : 2; /* dimensions that the parallel index runs over */
    int64_t range = 1;
    for (int d = 0; d < outer; d++)
        range *= t->dim[d];
    kd_lower_begin(l, "operand", range);
    KlBuilder *b = &l->b;
    int buf = kd_lower_temp(l, temp, KL_F32, t->count, KL_OUT), lanes = sch_machine(l).lanes;
    KlValue idx[KD_MAX_RANK], p = kl_parallel_index(l->k);
    for (int d = outer - 1; d >= 0; d--)
        idx[d] = sch_split(b, &p, t->dim[d]);
    KlFor f[KD_MAX_RANK];
    for (int d = outer; d < t->rank; d++) {
        f[d] = sch_loop_n(b, t->dim[d]);
        idx[d] = f[d].i;
    }
    if (t->dim[t->rank - 1] >= lanes) f[t->rank - 1].instr->vector = (uint16_t)lanes;
    kl_store(b, buf, kd_linear_index(b, t, idx), kd_lower_operand(l, n, k, idx));
    for (int d = t->rank - 1; d >= outer; d--)
        sch_loop_end(b, &f[d]);
    l->k->bytes = 8.0 * (double)t->count;
    kd_lower_end(l);
}

int sch_operand_buffer(KdLower *l, KdValue n, int k, int temp) {
    if (sch_is_stored(l, n, k)) return kd_lower_buffer(l, kd_node(l->fu->f, n)->in[k]);
    return kd_lower_temp(l, temp, KL_F32, sch_operand_type(l, n, k)->count, KL_IN);
}

double sch_macs(const KdLower *l, KdValue root) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, root);
    const KdType *p = sch_operand_type(l, root, 0), *q = sch_operand_type(l, root, 1), *y = n->type;
    if (n->op == KD_OP_CONV2D) return (double)y->count * (double)q->count / (double)q->dim[0];
    if (n->op == KD_OP_CONV_TRANSPOSE2D)
        return (double)p->count * (double)q->count / (double)q->dim[0];
    if (n->op == KD_OP_CONV2D_WGRAD) return (double)q->count * (double)y->count / (double)y->dim[0];
    return (double)y->count * (double)p->count / (double)(y->count / y->dim[y->rank - 1]);
}
