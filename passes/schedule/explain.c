/* explain.c: how a plan is put into words, for --explain. In: a plan. Out: part of a line. */
#include "passes/schedule/dots.h"
#include "passes/schedule/gemm.h"

void sch_explain_tile(KdStr *s, const SchTile *t) {
    kd_str_printf(s, "tile %d x %d vector%s of %d", t->mr, t->nv, t->nv == 1 ? "" : "s", t->lanes);
}

void sch_explain_cut(KdStr *s, const SchCut *c, const char *pieces, int64_t unit, const char *units) {
    if (c->count > 1)
        kd_str_printf(s, ", %lld %s of %lld %s", (long long)c->count, pieces,
                      (long long)(c->size * unit), units);
}

void sch_explain_gemm(KdStr *s, const struct SchGemm *m) {
    sch_explain_tile(s, &m->tile);
    sch_explain_cut(s, &m->row_tiles, "blocks", m->tile.mr, "rows");
    sch_explain_cut(s, &m->column_tiles, "blocks", (int64_t)m->tile.nv * m->tile.lanes, "columns");
    sch_explain_cut(s, &m->slices, "slices", m->unit, "of the contraction");
    kd_str_printf(s, ", operand %d %s", 1 - m->rows_operand,
                  m->direct ? "read as it lies" : "packed into panels of a tile's columns");
}

void sch_explain_dots(KdStr *s, const struct SchDots *d) {
    kd_str_printf(s, "tile %d rows x %d columns, each a vector of %d along the contraction", d->tile.mr,
                  d->tile.nv, d->tile.lanes);
    sch_explain_cut(s, &d->row_tiles, "blocks", d->tile.mr, "rows");
}
