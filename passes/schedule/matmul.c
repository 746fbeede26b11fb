/* matmul.c: rank 2 and 3, either operand transposed, any size.
 *
 * Lanes run along the longer side of the result: usually its columns; its rows where there are
 * hardly any columns (a matrix times a vector), and then the second operand is what is broadcast.
 * Where both operands are contiguous along the contraction and one is hardly more than a vector,
 * nothing is packed at all: dots.c.
 */
#include "passes/schedule/dots.h"
#include "passes/schedule/gemm.h"

typedef struct Matmul {
    bool swapped; /* lanes run along the result's rows */
    bool along;   /* the packed operand's lines run along its lanes */
    SchSource source;
    int rank;
} Matmul;

/* line[0] = batch, line[1] and x in memory order of the packed operand. */
static KlValue packed_element(KdLower *l, const SchSource *s, const KlValue *line, KlValue x) {
    const Matmul *mm = s->more;
    KlValue idx[3] = {line[0], line[1], x};
    return kd_lower_operand(l, s->node, s->operand, idx + (3 - mm->rank));
}

static void pack_along(KdLower *l, const SchGemm *m, const SchPanel *p) {
    sch_pack_along(l, &((const Matmul *)m->more)->source, m, p);
}

static void pack_across(KdLower *l, const SchGemm *m, const SchPanel *p) {
    sch_pack_across(l, &((const Matmul *)m->more)->source, m, p);
}

static void finish_element(KdLower *l, const SchGemm *m, KlValue acc, KlValue batch, KlValue row,
                           KlValue column) {
    const Matmul *mm = m->more;
    KlValue idx[3] = {batch, mm->swapped ? column : row, mm->swapped ? row : column};
    kd_lower_finish(l, acc, idx + (3 - mm->rank));
}

static bool plan(const KdLower *l, const KdGroup *g, SchGemm *m, Matmul *mm) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, g->root);
    const KdType *a = sch_operand_type(l, g->root, 0), *y = n->type;
    if (y->count == 0 || a->count == 0 || a->dtype != KD_F32) return false;
    bool turned[2] = {kd_attr_int(f, n, "ta") != 0, kd_attr_int(f, n, "tb") != 0};
    int64_t rows = y->dim[y->rank - 2], columns = y->dim[y->rank - 1];
    int64_t depth = a->dim[a->rank - (turned[0] ? 2 : 1)];
    *mm = (Matmul){.rank = y->rank, .swapped = columns < sch_machine(l).lanes && rows > columns};
    int lanes_operand = mm->swapped ? 0 : 1, rows_operand = 1 - lanes_operand;
    *m = (SchGemm){.node = g->root,
                   .machine = sch_machine(l),
                   .batch = y->rank == 3 ? y->dim[0] : 1,
                   .outer = 1,
                   .rows = mm->swapped ? columns : rows,
                   .columns = mm->swapped ? rows : columns,
                   .depth = depth,
                   .unit = 1,
                   .rows_operand = rows_operand,
                   .more = mm};
    /* Operand 0 is [rows, depth], operand 1 [depth, columns], unless turned. */
    bool depth_last = rows_operand == 0 ? !turned[0] : turned[1];
    m->row_stride = depth_last ? depth : 1;
    m->depth_stride = depth_last ? 1 : m->rows;
    m->batch_stride = m->rows * depth;
    mm->along = lanes_operand == 1 ? !turned[1] : turned[0];
    mm->source = (SchSource){
        .element = packed_element, .node = g->root, .operand = lanes_operand, .more = mm};
    m->may_skip_packing = mm->along && sch_is_stored(l, g->root, lanes_operand);
    m->pack = mm->along ? pack_along : pack_across;
    m->line_count = mm->along ? NULL : sch_pack_across_line;
    m->pack_cost = mm->along ? 0.15 : 0.6;
    m->finish = finish_element;
    m->finish_cost = mm->swapped && columns > 1 ? 1.5 : 0.4;
    return sch_gemm_plan(m, l, "matmul");
}

double cost_matmul(const KdLower *l, const KdGroup *g) {
    SchGemm m;
    Matmul mm;
    return plan(l, g, &m, &mm) ? m.cycles / SCH_HERTZ : -1;
}

void build_matmul(KdLower *l, const KdGroup *g) {
    SchGemm m;
    Matmul mm;
    plan(l, g, &m, &mm);
    sch_gemm_build(l, &m);
}

/* ---- as dot products --------------------------------------------------------------------- */

typedef struct Dots {
    bool swapped;
    int rank;
} Dots; /* swapped: operand 1's are the rows */

static int dots_rows(KdLower *l, const SchDots *d) {
    int k = ((const Dots *)d->more)->swapped;
    return sch_operand_buffer(l, d->node, k, k);
}

static int dots_columns(KdLower *l, const SchDots *d) {
    int k = !((const Dots *)d->more)->swapped;
    return sch_operand_buffer(l, d->node, k, k);
}

static void dots_finish(KdLower *l, const SchDots *d, KlValue acc, KlValue batch, KlValue row,
                        KlValue column) {
    const Dots *v = d->more;
    KlValue idx[3] = {batch, v->swapped ? column : row, v->swapped ? row : column};
    kd_lower_finish(l, acc, idx + (3 - v->rank));
}

static bool plan_dots(const KdLower *l, const KdGroup *g, SchDots *d, Dots *v) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, g->root);
    const KdType *a = sch_operand_type(l, g->root, 0), *y = n->type;
    if (y->count == 0 || a->count == 0 || a->dtype != KD_F32) return false;
    bool ta = kd_attr_int(f, n, "ta") != 0, tb = kd_attr_int(f, n, "tb") != 0;
    int64_t rows = y->dim[y->rank - 2], columns = y->dim[y->rank - 1];
    if ((ta && rows > 1) || (!tb && columns > 1) || (rows > 32 && columns > 32)) return false;
    *v = (Dots){.swapped = columns > rows, .rank = y->rank};
    *d = (SchDots){.node = g->root,
                   .machine = sch_machine(l),
                   .batch = y->rank == 3 ? y->dim[0] : 1,
                   .rows = v->swapped ? columns : rows,
                   .columns = v->swapped ? rows : columns,
                   .depth = a->dim[a->rank - (ta ? 2 : 1)],
                   .row_buffer = dots_rows,
                   .column_buffer = dots_columns,
                   .finish = dots_finish,
                   .more = v};
    return sch_dots_plan(d);
}

double cost_matmul_dots(const KdLower *l, const KdGroup *g) {
    SchDots d;
    Dots v;
    return plan_dots(l, g, &d, &v) ? d.cycles / SCH_HERTZ : -1;
}

void build_matmul_dots(KdLower *l, const KdGroup *g) {
    SchDots d;
    Dots v;
    plan_dots(l, g, &d, &v);
    sch_materialise(l, g->root, 0, 0);
    sch_materialise(l, g->root, 1, 1);
    sch_dots_build(l, &d);
}

void explain_matmul(KdStr *s, const KdLower *l, const KdGroup *g) {
    SchGemm m;
    Matmul mm;
    if (plan(l, g, &m, &mm)) sch_explain_gemm(s, &m);
}

void explain_matmul_dots(KdStr *s, const KdLower *l, const KdGroup *g) {
    SchDots d;
    Dots v;
    if (plan_dots(l, g, &d, &v)) sch_explain_dots(s, &d);
}
