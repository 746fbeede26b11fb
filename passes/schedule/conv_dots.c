/* conv_dots.c: conv2d where the output has few pixels and the weights are what is read: the inner
 * levels of a U-Net.
 *
 * The weights of an output channel are one dense row; each pixel's window of the picture is copied
 * into a column of a temporary, in the same order; what remains are dot products (dots.c), and the
 * weights stream past once.
 */
#include "passes/schedule/conv.h"
#include "passes/schedule/dots.h"

static int row_buffer(KdLower *l, const SchDots *d) { return sch_operand_buffer(l, d->node, 1, 1); }

static int64_t column_count(const SchDots *d) { return d->batch * d->columns * d->depth; }

static int column_buffer(KdLower *l, const SchDots *d) {
    return kd_lower_temp(l, 0, KL_F32, column_count(d), KL_IN);
}

static void finish(KdLower *l, const SchDots *d, KlValue acc, KlValue batch, KlValue row,
                   KlValue column) {
    const SchConv *c = d->more;
    KlBuilder *b = &l->b;
    KlValue x = sch_split(b, &column, c->x.out), y = sch_split(b, &column, c->y.out);
    KlValue idx[4] = {column, sch_madc(b, batch, c->rows_out, row), y, x};
    kd_lower_finish(l, acc, idx);
}

static KlValue inside(KlBuilder *b, KlValue i, int64_t n) {
    return kl_op2(b, KL_OP_AND, kl_cmp(b, KL_GE, i, kl_i64(b, 0)),
                  kl_cmp(b, KL_LT, i, kl_i64(b, n)));
}

/* [group][picture, pixel][channel, kernel row, kernel column] */
static void build_columns(KdLower *l, const SchDots *d) {
    const SchConv *c = d->more;
    kd_lower_begin(l, "windows", d->batch * d->columns);
    KlBuilder *b = &l->b;
    int buf = kd_lower_temp(l, 0, KL_F32, column_count(d), KL_OUT);
    KlValue p = kl_parallel_index(l->k), group = p, pixel = sch_split(b, &group, d->columns);
    KlValue x0 = sch_split(b, &pixel, c->x.out), y0 = sch_split(b, &pixel, c->y.out);
    KlFor i = sch_loop_n(b, c->depth), a = sch_loop_n(b, c->y.kernel);
    KlValue y =
        sch_addc(b, sch_madc(b, y0, c->y.stride, sch_mulc(b, a.i, c->y.dilation)), -c->y.pad);
    KlValue y_in = inside(b, y, c->y.in);
    KlFor t = sch_loop_n(b, c->x.kernel);
    KlValue x =
        sch_addc(b, sch_madc(b, x0, c->x.stride, sch_mulc(b, t.i, c->x.dilation)), -c->x.pad);
    KlValue idx[4] = {pixel, sch_madc(b, group, c->depth, i.i), y, x};
    KlValue in = kl_op2(b, KL_OP_AND, y_in, inside(b, x, c->x.in));
    KlValue v = l->e.operand_if(&l->e, c->node, 0, idx, in, kl_f32(b, 0));
    KlValue at = sch_madc(b, sch_madc(b, i.i, c->y.kernel, a.i), c->x.kernel, t.i);
    kl_store(b, buf, sch_madc(b, p, d->depth, at), v);
    sch_loop_end(b, &t);
    sch_loop_end(b, &a);
    sch_loop_end(b, &i);
    l->k->bytes = 8.0 * (double)column_count(d);
    kd_lower_end(l);
}

static bool plan(const KdLower *l, const KdGroup *g, SchConv *c, SchDots *d) {
    if (!sch_conv_geometry(c, l, g->root)) return false;
    *d = (SchDots){.node = g->root,
                   .machine = c->machine,
                   .batch = c->groups,
                   .rows = c->rows_out,
                   .columns = c->batch * c->y.out * c->x.out,
                   .depth = c->depth * c->y.kernel * c->x.kernel,
                   .row_buffer = row_buffer,
                   .column_buffer = column_buffer,
                   .finish = finish,
                   .more = c};
    if (d->columns > 256) return false;
    if (!sch_dots_plan(d)) return false;
    d->cycles += 4000 + 5.0 * (double)column_count(d) * (d->batch * d->columns < 8 ? 4 : 1);
    return true;
}

double cost_conv_dots(const KdLower *l, const KdGroup *g) {
    SchConv c;
    SchDots d;
    return plan(l, g, &c, &d) ? d.cycles / SCH_HERTZ : -1;
}

void build_conv_dots(KdLower *l, const KdGroup *g) {
    SchConv c;
    SchDots d;
    plan(l, g, &c, &d);
    sch_materialise(l, c.node, 1, 1);
    build_columns(l, &d);
    sch_dots_build(l, &d);
}

void explain_conv_dots(KdStr *s, const KdLower *l, const KdGroup *g) {
    SchConv c;
    SchDots d;
    if (!plan(l, g, &c, &d)) return;
    sch_explain_dots(s, &d);
    kd_str_printf(s, ", windows copied into %lld columns", (long long)(d.batch * d.columns));
}
