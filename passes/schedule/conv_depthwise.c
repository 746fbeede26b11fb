/* conv_depthwise.c: conv2d with one input channel in a group, and its backward-data at stride 1,
 * which is such a convolution again.
 *
 * There is nothing to reuse but the picture itself: each input line is in as many windows as the
 * kernel is high. An item of the parallel range is a band of rows of one channel, copied into
 * scratch through the prologue, padded and by class as in conv.c. Lanes are pixels of a row; the
 * taps stay in registers, and several output rows are computed together, so that a vector of the
 * picture is loaded once for all rows and taps that meet it. Sums go through the epilogue without
 * touching memory in between.
 */
#include "passes/schedule/depthwise.h"

typedef struct Depthwise {
    SchConv c;
    int rows;       /* output rows computed together */
    int64_t places; /* vectors of the picture that they meet */
    int64_t lines;  /* of a class, in scratch */
    double cycles;
} Depthwise;

int64_t sch_tap_at(const SchConv *c, int64_t a, int64_t e) {
    if (c->transposed) {
        const SchTaps *y = &c->y.taps[0], *x = &c->x.taps[0];
        return (y->offset + a * y->offset_step) * c->pitch + x->offset + e * x->offset_step;
    }
    int64_t y = a * c->y.dilation, x = e * c->x.dilation;
    return (y % c->y.stride * c->x.classes + x % c->x.stride) * c->plane +
           y / c->y.stride * c->pitch + x / c->x.stride;
}

int sch_places(const SchConv *c, int rows, int64_t a0, int64_t n_a, int64_t *at) {
    int n = 0;
    for (int r = 0; r < rows; r++)
        for (int64_t a = a0; a < a0 + n_a; a++)
            for (int64_t e = 0; e < c->x.kernel; e++) {
                int64_t p = r * c->pitch + sch_tap_at(c, a, e);
                int k = 0;
                while (k < n && at[k] < p)
                    k++;
                if (k < n && at[k] == p) continue;
                for (int i = n++; i > k; i--)
                    at[i] = at[i - 1];
                at[k] = p;
            }
    return n;
}

static void derive(Depthwise *d, int64_t bands) {
    SchConv *c = &d->c;
    const SchMachine *m = &c->machine;
    c->bands = sch_cut(c->y.grid, sch_ceil(sch_ceil(c->y.grid, bands), d->rows) * d->rows);
    d->lines = c->bands.size + c->y.reach;
    c->pitch = c->x.grid + c->x.reach;
    c->plane = d->lines * c->pitch;
    c->channel = c->plane * c->y.classes * c->x.classes;
    int64_t at[SCH_MOST_PLACES];
    d->places = sch_places(c, d->rows, 0, c->y.kernel, at);
    double taps = (double)(c->y.kernel * c->x.kernel), lanes = m->lanes;
    double line = (double)(c->pitch * c->x.step), wide = line >= 2 * lanes ? 4.0 / lanes : 2.5;
    double fill =
        (double)(c->y.classes * d->lines) * (line * wide * (c->x.step > 1 ? 1.6 : 1) + 8);
    double fmas = taps * (m->fma ? 0.5 : 1), loads = 0.8 * (double)d->places / d->rows;
    /* Rows that are left over are computed one by one, and load everything for themselves. */
    loads += 0.8 * taps * (double)(c->bands.size % d->rows) / (double)c->bands.size;
    double vector = (fmas > loads ? fmas + 0.3 * loads : loads + 0.3 * fmas) + 3;
    double work = (double)c->bands.size * (double)c->rows_out *
                  ((double)sch_ceil(c->x.grid, m->lanes) * vector + 10);
    if (4.0 * (double)c->channel > 0.7 * m->l1) work *= 1.3;
    d->cycles = (work + fill + 100) * sch_dealt((double)(c->batch * c->groups * c->bands.count)) +
                4000;
}

static bool plan(const KdLower *l, const KdGroup *g, Depthwise *best) {
    Depthwise d = {0};
    SchConv *c = &d.c;
    if (!sch_conv_geometry(c, l, g->root)) return false;
    c->tile.lanes = c->machine.lanes;
    int64_t taps = c->y.kernel * c->x.kernel;
    if (c->depth != 1 || taps > SCH_MOST_TAPS || c->y.phases * c->x.phases > 1) return false;
    if (sch_recall(l, g->root, "depthwise", best, sizeof *best)) {
        best->c.node = g->root;
        return best->cycles >= 0;
    }
    *best = d;
    best->cycles = -1;
    /* Taps, sums, and a little for the picture and the epilogue. */
    for (d.rows = 1; d.rows <= SCH_MOST_ROWS && taps + d.rows + 3 <= c->machine.registers; d.rows++)
        for (int64_t bands = 1; bands <= c->y.grid; bands = sch_next_count(bands)) {
            derive(&d, bands);
            if (best->cycles < 0 || d.cycles < best->cycles) *best = d;
        }
    sch_remember(l, g->root, "depthwise", best, sizeof *best);
    return best->cycles >= 0;
}

/* n rows of a channel from row `first` of the band on. taps: its weights; out: image, channel, and
 * the output row of the first. */
static void some_rows(KdLower *l, const Depthwise *d, int n, int picture, KlValue first,
                      const KlValue *taps, const KlValue *out) {
    KlBuilder *b = &l->b;
    const SchConv *c = &d->c;
    int64_t at[SCH_MOST_PLACES];
    int places = sch_places(c, n, 0, c->y.kernel, at);
    KlFor x = sch_vector_loop(b, kl_i64(b, 0), kl_i64(b, c->x.grid), c->machine.lanes);
    KlValue from = sch_madc(b, first, c->pitch, x.i), sum[SCH_MOST_ROWS];
    for (int r = 0; r < n; r++)
        sum[r] = KL_NONE;
    for (int k = 0; k < places; k++) {
        KlValue v = kl_load(b, picture, sch_addc(b, from, at[k]), 1);
        for (int r = 0; r < n; r++)
            for (int64_t t = 0; t < c->y.kernel * c->x.kernel; t++) {
                int64_t a = t / c->x.kernel, e = t % c->x.kernel;
                if (r * c->pitch + sch_tap_at(c, a, e) != at[k]) continue;
                if (sum[r] == KL_NONE)
                    sum[r] = kl_op2(b, KL_OP_MUL, v, taps[t]);
                else if (c->machine.fma)
                    sum[r] = kl_fma(b, v, taps[t], sum[r]);
                else
                    sum[r] = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, v, taps[t]), sum[r]);
            }
    }
    for (int r = 0; r < n; r++) {
        KlValue idx[4] = {out[0], out[1], sch_addc(b, out[2], r), x.i};
        kd_lower_finish(l, sum[r], idx);
    }
    sch_loop_end(b, &x);
}

static void all_rows(KdLower *l, const Depthwise *d, int picture, KlValue image, KlValue channel,
                     KlValue first, KlValue rows, const KlValue *taps) {
    KlBuilder *b = &l->b;
    KlValue whole = sch_mulc(b, kl_op2(b, KL_OP_DIV, rows, kl_i64(b, d->rows)), d->rows);
    KlFor y = sch_loop(b, kl_i64(b, 0), whole, d->rows);
    KlValue out[3] = {image, channel, sch_add(b, first, y.i)};
    some_rows(l, d, d->rows, picture, y.i, taps, out);
    sch_loop_end(b, &y);
    if (d->c.bands.size % d->rows == 0 && d->c.y.grid % d->rows == 0) return; /* the last band may be shorter */
    y = sch_loop(b, whole, rows, 1);
    out[2] = sch_add(b, first, y.i);
    some_rows(l, d, 1, picture, y.i, taps, out);
    sch_loop_end(b, &y);
}

double cost_conv_depthwise(const KdLower *l, const KdGroup *g) {
    Depthwise d;
    return plan(l, g, &d) ? d.cycles / SCH_HERTZ : -1;
}

void build_conv_depthwise(KdLower *l, const KdGroup *g) {
    Depthwise d;
    plan(l, g, &d);
    const SchConv *c = &d.c;
    const KdNode *n = sch_root(l, g);
    kd_lower_begin(l, kd_format(l->cx, "%s %s depthwise", kd_op_info[n->op].name,
                                kd_shape_text(l->cx, n->type)),
                   c->batch * c->groups * c->bands.count);
    KlBuilder *b = &l->b;
    int line = sch_conv_line_buffer(l, c);
    int picture = kl_buf(l->k, "picture", KL_F32, c->channel, KL_SCRATCH);
    KlValue image = kl_parallel_index(l->k), band = sch_split(b, &image, c->bands.count),
            group = sch_split(b, &image, c->groups);
    KlValue first = sch_mulc(b, band, c->bands.size);
    sch_conv_fill(l, c, line, image, group, first, d.lines, picture, kl_i64(b, 0));
    KlFor o = sch_loop_n(b, c->rows_out);
    KlValue channel = sch_madc(b, group, c->rows_out, o.i), taps[SCH_MOST_TAPS];
    for (int64_t t = 0; t < c->y.kernel * c->x.kernel; t++) {
        KlValue idx[4] = {c->transposed ? group : channel, c->transposed ? o.i : kl_i64(b, 0),
                          kl_i64(b, t / c->x.kernel), kl_i64(b, t % c->x.kernel)};
        taps[t] = kd_lower_operand(l, g->root, 1, idx);
    }
    all_rows(l, &d, picture, image, channel, first, sch_cut_length(b, &c->bands, band), taps);
    sch_loop_end(b, &o);
    l->k->flops = 2 * sch_macs(l, g->root);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, g->root, 0)->count +
                                 sch_operand_type(l, g->root, 1)->count + n->type->count);
    kd_lower_end(l);
}

void explain_conv_depthwise(KdStr *s, const KdLower *l, const KdGroup *g) {
    Depthwise d;
    if (!plan(l, g, &d)) return;
    kd_str_printf(s, "%d row%s at a time, taps in registers", d.rows, d.rows == 1 ? "" : "s");
    sch_explain_cut(s, &d.c.bands, "bands", 1, "rows");
}
