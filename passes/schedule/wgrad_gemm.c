/* wgrad_gemm.c: conv2d_wgrad as a product, for few pixels and many channels.
 *
 * Rows are output channels of the gradient, broadcast from memory as they lie; columns are (input
 * channel, kernel row, kernel column), so that results are written as they lie, too; what is packed
 * is the picture's windows.
 */
#include "passes/schedule/gemm.h"
#include "passes/schedule/wgrad.h"

static KlValue column_parts(KlBuilder *b, const SchWgrad *w, KlValue column, KlValue *ky,
                            KlValue *kx) {
    *kx = sch_split(b, &column, w->x.kernel);
    *ky = sch_split(b, &column, w->y.kernel);
    return column;
}

/* batch is the group, outer the picture, k the pixel; slices are whole output rows. */
static void pack(KdLower *l, const SchGemm *m, const SchPanel *p) {
    KlBuilder *b = &l->b;
    const SchWgrad *w = m->more;
    KlFor c = sch_loop(b, kl_i64(b, 0), sch_mulc(b, p->tiles, p->width), 1);
    KlValue tile = c.i, at = sch_split(b, &tile, p->width);
    at = sch_add(b, p->at, sch_madc(b, tile, p->stride, at));
    KlValue ky, kx, column = sch_minc(b, sch_add(b, p->first, c.i), m->columns - 1);
    KlValue channel = column_parts(b, w, column, &ky, &kx);
    channel = sch_madc(b, p->batch, w->inputs, channel);
    KlValue row0 = kl_op2(b, KL_OP_DIV, p->k0, kl_i64(b, m->unit));
    KlValue rows = kl_op2(b, KL_OP_DIV, p->depth, kl_i64(b, m->unit));
    KlFor r = sch_loop(b, kl_i64(b, 0), rows, 1);
    KlValue y = sch_madc(b, sch_add(b, row0, r.i), w->y.stride, sch_mulc(b, ky, w->y.dilation));
    y = sch_addc(b, y, -w->y.pad);
    KlValue y_in = kl_op2(b, KL_OP_AND, kl_cmp(b, KL_GE, y, kl_i64(b, 0)),
                          kl_cmp(b, KL_LT, y, kl_i64(b, w->y.in)));
    KlFor q = sch_loop_n(b, w->x.out);
    KlValue x =
        sch_addc(b, sch_madc(b, q.i, w->x.stride, sch_mulc(b, kx, w->x.dilation)), -w->x.pad);
    KlValue x_in = kl_op2(b, KL_OP_AND, kl_cmp(b, KL_GE, x, kl_i64(b, 0)),
                          kl_cmp(b, KL_LT, x, kl_i64(b, w->x.in)));
    KlValue idx[4] = {p->outer, channel, y, x};
    KlValue v =
        l->e.operand_if(&l->e, w->node, 0, idx, kl_op2(b, KL_OP_AND, y_in, x_in), kl_f32(b, 0));
    KlValue k = sch_madc(b, r.i, w->x.out, q.i);
    kl_store(b, p->buf, sch_madc(b, k, p->width, at), v);
    sch_loop_end(b, &q);
    sch_loop_end(b, &r);
    sch_loop_end(b, &c);
}

static void finish(KdLower *l, const SchGemm *m, KlValue acc, KlValue batch, KlValue row,
                   KlValue column) {
    const SchWgrad *w = m->more;
    KlValue ky, kx, channel = column_parts(&l->b, w, column, &ky, &kx);
    KlValue idx[4] = {sch_madc(&l->b, batch, w->outputs, row), channel, ky, kx};
    kd_lower_finish(l, acc, idx);
}

static bool plan(const KdLower *l, const KdGroup *g, SchGemm *m, SchWgrad *w) {
    if (!sch_wgrad_shape(w, l, g->root)) return false;
    int64_t pixels = w->y.out * w->x.out;
    *m = (SchGemm){.node = g->root,
                   .machine = w->machine,
                   .batch = w->groups,
                   .outer = w->batch,
                   .rows = w->outputs,
                   .columns = w->inputs * w->y.kernel * w->x.kernel,
                   .depth = pixels,
                   .rows_operand = 1,
                   .row_stride = pixels,
                   .depth_stride = 1,
                   .batch_stride = w->outputs * pixels,
                   .outer_stride = w->groups * w->outputs * pixels,
                   .unit = w->x.out,
                   .windows = true,
                   .may_pack_once = true,
                   .pack_cost = 4,
                   .finish_cost = 0.5,
                   .pack = pack,
                   .finish = finish,
                   .more = w};
    return sch_gemm_plan(m, l, "windows");
}

double cost_wgrad_gemm(const KdLower *l, const KdGroup *g) {
    SchGemm m;
    SchWgrad w;
    return plan(l, g, &m, &w) ? m.cycles / SCH_HERTZ : -1;
}

void build_wgrad_gemm(KdLower *l, const KdGroup *g) {
    SchGemm m;
    SchWgrad w;
    plan(l, g, &m, &w);
    sch_gemm_build(l, &m);
}

void explain_wgrad_gemm(KdStr *s, const KdLower *l, const KdGroup *g) {
    SchGemm m;
    SchWgrad w;
    if (plan(l, g, &m, &w)) sch_explain_gemm(s, &m);
}
