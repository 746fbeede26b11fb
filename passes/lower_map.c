/* lower_map.c: map groups: one loop nest over the domain, all stores in its body. Opaque groups and anchors that no
 * schedule takes go the same way: their element rule opens the loops over what it folds.
 *
 * Adjacent dims share one loop unless an access tells them apart: a broadcast that repeats one and not the other, or an
 * index op. A purely elementwise group is thus one flat loop. The innermost loop is for the vectoriser; if its dim has
 * borders (a pad's), it is cut there, so that the long middle piece is free of conditions. What is around the innermost
 * loop is the parallel index; long innermost loops are cut into pieces of fixed length, which are indices too.
 *
 * scatter_add is not built from its element rule, which looks at every source element for each result: the result is
 * zeroed, then the source elements are added one after the other. What may run side by side are places that differ
 * outside the axis; along it the order is the element rule's, so that results are the same bits.
 */
#include "passes/lower.h"

enum {
    PIECE = 8192,     /* elements of a flat loop that one index covers */
    MAX_CUTS = 12,
};

/* ---- segments ----------------------------------------------------------------------------------- */

KdSegments kd_segments(const KdLower *l, const KdDomain *d) {
    const KdFunc *f = l->fu->f;
    bool cut[KD_MAX_RANK + 1] = {false};
    for (int k = 1; k < d->n; k++) {
        cut[k] = d->reduced[k] != d->reduced[k - 1];
    }
    for (int i = 0; i < l->binding->walk->touch.n; i++) {
        const KdTouch *t = &l->binding->walk->touch.v[i];
        const KdNode *n = kd_node(f, t->v);
        if (t->load || kd_is_reshape(f, t->v)) {
            continue;
        }
        KdClass cls = kd_class(f, t->v);
        bool moves = (cls == KD_INDEX && !kd_is_view(f, t->v)) || cls == KD_WINDOW ||
                     cls == KD_ANCHOR || cls == KD_OPAQUE || n->op == KD_OP_IOTA;
        for (int k = 1; k < d->n && moves; k++) {
            cut[k] = true;
        }
        if (!kd_is_view(f, t->v) || !(t->at & KD_AT_FULL) || !kd_domain_is(d, n->type)) {
            continue;
        }
        const KdType *u = kd_vtype(f, n->in[0]);
        bool before = false;
        for (int r = 0, k = 0; r < n->type->rank; r++) {
            if (n->type->dim[r] != 1) {
                bool repeats = u->dim[r] == 1;
                cut[k] = cut[k] || (k > 0 && repeats != before);
                before = repeats;
                k++;
            }
        }
    }
    KdSegments s = {0};
    for (int k = 0; k < d->n; k++) {
        if (k == 0 || cut[k]) {
            s.first[s.n] = k;
            s.extent[s.n++] = 1;
        }
        s.extent[s.n - 1] *= d->dim[k];
    }
    s.first[s.n] = d->n;
    return s;
}

void kd_segment_indices(KdLower *l, const KdDomain *d, const KdSegments *sg, int s, KlValue i, KlValue *at) {
    int first = sg->first[s];
    kd_run_split(l, sg->first[s + 1] - first, d->dim + first, i, at + first);
}

void kd_compose_invariants(KdLower *l, const KdDomain *d, const bool *is_inner, const KlValue *at, const int *level,
                           int max_level) {
    const KdFunc *f = l->fu->f;
    for (int i = 0; i < l->binding->walk->touch.n; i++) {
        const KdTouch *t = &l->binding->walk->touch.v[i];
        const KdNode *n = kd_node(f, t->v);
        if (t->load || kd_is_reshape(f, t->v) || !kd_is_view(f, t->v) || !(t->at & KD_AT_FULL) ||
            !kd_domain_is(d, n->type) || (level && level[i] > max_level)) {
            continue;
        }
        const KdType *u = kd_vtype(f, n->in[0]);
        KlValue idx[KD_MAX_RANK];
        bool outside = true;
        for (int r = 0, k = 0; r < n->type->rank; r++) {
            bool repeats = u->dim[r] == 1;
            idx[r] = repeats ? kl_i64(&l->b, 0) : at[k];
            outside = outside && (n->type->dim[r] == 1 || repeats || !is_inner[k]);
            k += n->type->dim[r] != 1;
        }
        if (outside) {
            kd_compose(l, n->in[0], idx);
        }
    }
}

/* ---- loops -------------------------------------------------------------------------------------- */

KlFor kd_vector_loop(KdLower *l, KlValue lo, KlValue hi, int n, const KlValue *init) {
    KlFor f = kl_for_begin(&l->b, lo, hi, 1, n, init);
    f.instr->vector = (uint16_t)(l->o->machine.lanes > 1 ? l->o->machine.lanes : 0);
    return f;
}

void kd_loop_end(KdLower *l, KlFor *f) {
    kl_for_end(&l->b, f, NULL, NULL);
}

static int add_cut(int64_t *cuts, int n, int64_t c, int64_t extent) {
    int k = n;
    if (c <= 0 || c >= extent || n == MAX_CUTS) {
        return n;
    }
    for (int i = 0; i < n; i++) {
        if (cuts[i] == c) {
            return n;
        }
    }
    for (; k > 0 && cuts[k - 1] > c; k--) {
        cuts[k] = cuts[k - 1];
    }
    cuts[k] = c;
    return n + 1;
}

/* Where along the last dim an op of the group changes its ways: the borders of what has attributes lo and hi. */
static int find_cuts(const KdLower *l, const KdDomain *d, int64_t *cuts) {
    const KdFunc *f = l->fu->f;
    int64_t extent = d->dim[d->n - 1];
    int n = 0;
    for (int i = 0; i < l->binding->walk->touch.n; i++) {
        const KdTouch *t = &l->binding->walk->touch.v[i];
        const KdNode *node = kd_node(f, t->v);
        int lo = kd_attr_index(l->cx, (KdOp)node->op, "lo"), hi = kd_attr_index(l->cx, (KdOp)node->op, "hi");
        int last = node->type->rank - 1;
        if (t->load || !(t->at & KD_AT_FULL) || lo < 0 || hi < 0 || last < 0 ||
            node->type->dim[last] != extent) {
            continue;
        }
        int64_t a = node->attr[lo].ints.v[last], c = node->attr[hi].ints.v[last];
        if (kd_class(f, t->v) == KD_WINDOW) { /* a pad's gradient: the elements next to the border gather more */
            n = add_cut(cuts, n, a > 0 ? a + 1 : 0, extent);
            n = add_cut(cuts, n, 1, extent);
            n = add_cut(cuts, n, extent - 1, extent);
            n = add_cut(cuts, n, c > 0 ? extent - 1 - c : 0, extent);
        } else {
            n = add_cut(cuts, n, a, extent);
            n = add_cut(cuts, n, extent - c, extent);
        }
    }
    return n;
}

static void innermost(KdLower *l, const KdDomain *d, const KdSegments *sg, KlValue lo, KlValue hi, KlValue base,
                      KlValue *at) {
    KlFor f = kd_vector_loop(l, lo, hi, 0, NULL);
    KlValue i = base == KL_NONE ? f.i : kl_op2(&l->b, KL_OP_ADD, base, f.i);
    kd_segment_indices(l, d, sg, sg->n - 1, i, at);
    kd_compose_stores(l, l->g->stores.v, l->g->stores.n, at);
    kd_loop_end(l, &f);
}

/* The result stays where operand 0 is: only the row that changes is written. */
static bool is_in_place(const KdLower *l) {
    const KdNode *n = kd_node(l->fu->f, l->g->root);
    if (l->g->kind != KD_GROUP_OPAQUE || !(kd_op_info[n->op].flags & KD_INPLACE)) {
        return false;
    }
    KlArg a = l->plan->place[l->g->root], p = l->plan->place[n->in[0]];
    return (l->fu->stored[n->in[0]] || l->fu->alias[n->in[0]] != KD_NONE) && a.kind == p.kind &&
           a.index == p.index && a.offset == p.offset;
}

/* KD_INPLACE: operands are (whole [k, ...], row [1, ...], which): row `which` is replaced, none if it is outside. */
static void lower_in_place(KdLower *l) {
    const KdNode *n = kd_node(l->fu->f, l->g->root);
    const KdType *t = n->type, *row = kd_vtype(l->fu->f, n->in[1]);
    KdDomain d = kd_domain(row);
    int64_t pieces = (row->count + PIECE - 1) / PIECE;
    kd_lower_begin(l, kd_lower_what(l, &d), pieces);
    KlBuilder *b = &l->b;
    KlValue none[1] = {KL_NONE};
    KlValue which = kl_cvt(b, KL_I64, kd_compose(l, n->in[2], none));
    KlValue inside = kl_op2(b, KL_OP_AND, kl_cmp(b, KL_GE, which, kl_i64(b, 0)),
                            kl_cmp(b, KL_LT, which, kl_i64(b, t->dim[0])));
    KlValue lo = kl_op2(b, KL_OP_MUL, kl_parallel_index(l->k), kl_i64(b, PIECE));
    KlValue left = kl_op2(b, KL_OP_MIN, kl_op2(b, KL_OP_SUB, kl_i64(b, row->count), lo), kl_i64(b, PIECE));
    KlValue base = kl_op2(b, KL_OP_MUL, kl_select(b, inside, which, kl_i64(b, 0)), kl_i64(b, row->count));
    KlFor f = kd_vector_loop(l, kl_i64(b, 0), kl_select(b, inside, left, kl_i64(b, 0)), 0, NULL);
    KlValue i = kl_op2(b, KL_OP_ADD, lo, f.i), at[KD_MAX_RANK], idx[KD_MAX_RANK];
    if (d.n > 0) {
        kd_run_split(l, d.n, d.dim, i, at);
    }
    kd_place_in(l, row, at, idx);
    KlValue x = kd_compose(l, n->in[1], idx);
    kd_store_element(l, l->g->root, kl_op2(b, KL_OP_ADD, base, i), x);
    kd_loop_end(l, &f);
    kd_lower_end(l);
}

/* ---- scatter_add -------------------------------------------------------------------------------- */

/* The indices of dims from .. to of t, all from one that runs over them. */
static void split_dims(KdLower *l, const KdType *t, int from, int to, KlValue i, KlValue *idx) {
    int64_t dim[KD_MAX_RANK];
    KlValue at[KD_MAX_RANK];
    int n = 0;
    for (int r = from; r < to; r++) {
        dim[n] = t->dim[r];
        n += t->dim[r] != 1;
    }
    if (n > 0) {
        kd_run_split(l, n, dim, i, at);
    }
    for (int r = from, k = 0; r < to; r++) {
        idx[r] = t->dim[r] == 1 ? kl_i64(&l->b, 0) : at[k++];
    }
}

static int64_t extent_of(const KdType *t, int from, int to) {
    int64_t n = 1;
    for (int r = from; r < to; r++) {
        n *= t->dim[r];
    }
    return n;
}

/* An index of the parallel range has one place before the axis, and some of those behind it. */
static void lower_scatter_add(KdLower *l) {
    enum { ITEMS = 16, LEAST = 64 };
    const KdNode *n = kd_node(l->fu->f, l->g->root);
    const KdType *t = n->type, *x = kd_vtype(l->fu->f, n->in[0]);
    int axis = (int)kd_attr_int(l->fu->f, n, "axis");
    int64_t size = t->dim[axis], outer = extent_of(t, 0, axis), inner = extent_of(t, axis + 1, t->rank);
    int64_t pieces = (ITEMS + outer - 1) / outer, most = (inner + LEAST - 1) / LEAST;
    pieces = pieces > most ? most : pieces;
    int64_t piece = ((inner + pieces - 1) / pieces + LEAST - 1) / LEAST * LEAST;
    piece = piece > inner ? inner : piece;
    pieces = (inner + piece - 1) / piece;
    KdDomain d = kd_group_domain(l->fu, l->g);
    kd_lower_begin(l, kd_lower_what(l, &d), outer * pieces);
    KlBuilder *b = &l->b;
    int buf = kd_lower_buffer(l, l->g->root);
    KlValue p = kl_parallel_index(l->k), o = kl_op2(b, KL_OP_DIV, p, kl_i64(b, pieces));
    KlValue lo = kl_op2(b, KL_OP_MUL, kl_op2(b, KL_OP_REM, p, kl_i64(b, pieces)), kl_i64(b, piece));
    KlValue hi = kl_op2(b, KL_OP_MIN, kl_op2(b, KL_OP_ADD, lo, kl_i64(b, piece)), kl_i64(b, inner));
    KlValue first = kl_op2(b, KL_OP_MUL, o, kl_i64(b, size)), idx[KD_MAX_RANK];
    KlFor row = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, inner == 1 ? 1 : size), 1, 0, NULL);
    KlFor z = inner == 1 ? kd_vector_loop(l, kl_i64(b, 0), kl_i64(b, size), 0, NULL)
                         : kd_vector_loop(l, lo, hi, 0, NULL);
    KlValue line = kl_op2(b, KL_OP_MUL, kl_op2(b, KL_OP_ADD, first, row.i), kl_i64(b, inner));
    kl_store(b, buf, kl_op2(b, KL_OP_ADD, line, z.i), t->dtype == KD_F32 ? kl_f32(b, 0) : kl_i32(b, 0));
    kd_loop_end(l, &z);
    kd_loop_end(l, &row);
    split_dims(l, x, 0, axis, o, idx);
    KlFor k = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, x->dim[axis]), 1, 0, NULL);
    idx[axis] = k.i;
    KlFor f = kd_vector_loop(l, lo, hi, 0, NULL);
    split_dims(l, x, axis + 1, x->rank, f.i, idx);
    KlValue target = kd_compose(l, n->in[1], idx), value = kd_compose(l, n->in[0], idx);
    KlValue in = kl_op2(b, KL_OP_AND, kl_cmp(b, KL_GE, target, kl_i32(b, 0)),
                        kl_cmp(b, KL_LT, target, kl_i32(b, size < INT32_MAX ? (int32_t)size : INT32_MAX)));
    KlValue at = kl_op2(b, KL_OP_ADD, first, kl_cvt(b, KL_I64, target));
    at = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, at, kl_i64(b, inner)), f.i);
    KlValue sum = kl_load_if(b, buf, at, in, kl_constant_like(b, value, 0));
    kl_store_if(b, buf, at, kl_op2(b, KL_OP_ADD, sum, value), in);
    kd_loop_end(l, &f);
    kd_loop_end(l, &k);
    kd_lower_end(l);
}

void kd_lower_map(KdLower *l) {
    KdDomain d = kd_group_domain(l->fu, l->g);
    if (l->g->kind == KD_GROUP_OPAQUE && kd_node(l->fu->f, l->g->root)->op == KD_OP_SCATTER_ADD) {
        lower_scatter_add(l);
        return;
    }
    if (is_in_place(l)) {
        lower_in_place(l);
        return;
    }
    if (kd_lower_turn(l, &d)) {
        return;
    }
    KdSegments sg = kd_segments(l, &d);
    int64_t rows = 1, extent = sg.n > 0 ? sg.extent[sg.n - 1] : 1;
    for (int s = 0; s + 1 < sg.n; s++) {
        rows *= sg.extent[s];
    }
    int64_t pieces = extent >= 2 * PIECE || (rows == 1 && extent > PIECE) ? (extent + PIECE - 1) / PIECE : 1;
    kd_lower_begin(l, kd_lower_what(l, &d), rows * pieces);
    KlBuilder *b = &l->b;
    KlValue p = kl_parallel_index(l->k), at[KD_MAX_RANK], outer[KD_MAX_RANK];
    bool inner[KD_MAX_RANK] = {false};
    if (sg.n == 0) {
        kd_compose_stores(l, l->g->stores.v, l->g->stores.n, at);
        kd_lower_end(l);
        return;
    }
    KlValue row = kl_op2(b, KL_OP_DIV, p, kl_i64(b, pieces)), piece = kl_op2(b, KL_OP_REM, p, kl_i64(b, pieces));
    if (sg.n > 1) {
        kd_run_split(l, sg.n - 1, sg.extent, row, outer);
        for (int s = 0; s + 1 < sg.n; s++) {
            kd_segment_indices(l, &d, &sg, s, outer[s], at);
        }
        kd_run_add(l, sg.first[sg.n - 1], d.dim, at, row);
    }
    for (int k = sg.first[sg.n - 1]; k < d.n; k++) {
        inner[k] = true;
    }
    kd_compose_invariants(l, &d, inner, at, NULL, 0);
    if (pieces > 1) {
        KlValue lo = kl_op2(b, KL_OP_MUL, piece, kl_i64(b, PIECE));
        KlValue n = kl_i64(b, PIECE);
        if (extent % PIECE != 0) {
            n = kl_op2(b, KL_OP_MIN, n, kl_op2(b, KL_OP_SUB, kl_i64(b, extent), lo));
        }
        innermost(l, &d, &sg, kl_i64(b, 0), n, lo, at);
        kd_lower_end(l);
        return;
    }
    int64_t cuts[MAX_CUTS + 1];
    int n_cuts = sg.first[sg.n - 1] == d.n - 1 ? find_cuts(l, &d, cuts) : 0;
    cuts[n_cuts] = extent;
    for (int c = 0; c <= n_cuts; c++) {
        innermost(l, &d, &sg, kl_i64(b, c ? cuts[c - 1] : 0), kl_i64(b, cuts[c]), KL_NONE, at);
    }
    kd_lower_end(l);
}
