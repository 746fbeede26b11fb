/* lower_row.c: row groups: reductions, what is folded, and what is computed with their results, in one pass.
 *
 * A row is one place of the kept dims. Per row, stages follow each other: stage s folds every reduction that stands on
 * s others (their producers composed into the loops), and the last loop also writes the values over the whole domain; a
 * row that does not fit the caches' first level is found in the second when it is read again. Values of a row (means,
 * per-row results) are computed between the loops.
 *
 * If the innermost dim is folded, rows are the parallel index and the innermost loop folds vectors. If it is kept,
 * neighbouring rows are lanes: the vectorised loop runs over the innermost kept dims and holds the loops that fold.
 *
 * Few long rows are folded in two stages: pieces whose number depends on the shapes alone give partial results in a
 * temporary, and a second kernel folds these in order. So the result does not depend on threads.
 *
 * A maximum must return NaN if there is one, and the fold's `max` does not: a second fold notes whether there was.
 */
#include "passes/schedule/stream.h"

#include <math.h>

enum {
    LANE_WORK = 16384,    /* elements a column block folds, about */
    STAGE_PIECE = 16384,  /* elements of one partial result */
    MAX_FOLDS = 16,       /* reductions that one loop folds */
};

typedef struct Row {
    KdLower *l;
    KdDomain d;
    KdSegments sg;
    int *level;              /* by touch: reductions it stands on, longest chain */
    int stages;
    KdValue full[96], row[96], tail[96];
    int n_full, n_row, n_tail;
    int full_level;          /* the highest of the full stores' */
    bool columns;            /* the innermost segment is kept */
    KlValue at[KD_MAX_RANK];
    bool inner[KD_MAX_RANK]; /* dims of the loops that fold */
    KlValue folded[96];      /* by number in g->local: result of this kernel's loops */
    int innermost;           /* the segment whose loop is the vectoriser's */
    int chunk;               /* two stages: the segment that is cut, else -1 */
    KlValue chunk_lo, chunk_n;
} Row;

/* ---- analysis ----------------------------------------------------------------------------------- */

static int level_of(const Row *r, KdValue v) {
    const KdWalk *w = r->l->binding->walk;
    return w->stamp[v] == w->now ? r->level[w->slot[v]] : 0;
}

static void find_levels(Row *r) {
    const KdWalk *w = r->l->binding->walk;
    const KdFunc *f = r->l->fu->f;
    r->level = KD_NEW_ARRAY(r->l->cx, int, w->touch.n + 1);
    for (int i = 0; i < w->touch.n; i++) { /* ascending: operands come first */
        const KdTouch *t = &w->touch.v[i];
        const KdNode *n = kd_node(f, t->v);
        for (int k = 0; !t->load && k < n->n_in; k++) {
            int below = level_of(r, n->in[k]);
            r->level[i] = below > r->level[i] ? below : r->level[i];
        }
        if (!t->load && kd_class(f, t->v) == KD_REDUCE) {
            r->level[i]++;
            r->stages = r->level[i] > r->stages ? r->level[i] : r->stages;
        }
    }
}

static void find_stores(Row *r) {
    const KdGroup *g = r->l->g;
    const KdFunc *f = r->l->fu->f;
    for (int i = 0; i < g->stores.n; i++) {
        KdValue v = g->stores.v[i];
        bool row = kd_class(f, v) == KD_REDUCE || !kd_domain_is(&r->d, kd_vtype(f, v)) || !r->d.rows;
        if (kd_class(f, v) == KD_ANCHOR) {
            r->tail[r->n_tail++] = v;
        } else if (row) {
            r->row[r->n_row++] = v;
        } else {
            r->full[r->n_full++] = v;
            int level = level_of(r, v);
            r->full_level = level > r->full_level ? level : r->full_level;
        }
    }
}

/* ---- folds -------------------------------------------------------------------------------------- */

/* One loop folds alike: sums of one type, or maxima of one type. */
typedef struct Fold {
    int which[MAX_FOLDS], n; /* numbers in g->local */
    bool max, real;
    int carried;             /* values the loops carry: maxima of floats need two each */
} Fold;

static bool fold_is(const Row *r, int local, bool max, bool real) {
    const KdNode *n = kd_node(r->l->fu->f, r->l->g->local.v[local]);
    return !(kd_op_info[n->op].flags & KD_MAX) == !max && (n->type->dtype == KD_F32) == real;
}

static void fold_init(KlBuilder *b, const Fold *f, KlValue *acc) {
    for (int k = 0; k < f->n; k++) {
        if (!f->max) {
            acc[k] = f->real ? kl_f32(b, 0) : kl_i32(b, 0);
        } else if (!f->real) {
            acc[k] = kl_i32(b, INT32_MIN);
        } else {
            acc[2 * k] = kl_f32(b, -INFINITY);
            acc[2 * k + 1] = kl_f32(b, 0);
        }
    }
}

/* Folds x into reduction k's carried values. */
static void fold_step(KlBuilder *b, const Fold *f, int k, KlValue x, const KlValue *acc, KlValue *next) {
    KlOp op = f->max ? KL_OP_MAX : KL_OP_ADD;
    if (!f->max || !f->real) {
        next[k] = kl_op2(b, op, acc[k], x);
        return;
    }
    KlValue nan = kl_select(b, kl_cmp(b, KL_NE, x, x), kl_f32(b, 1), kl_f32(b, 0));
    next[2 * k] = kl_op2(b, op, acc[2 * k], x);
    next[2 * k + 1] = kl_op2(b, op, acc[2 * k + 1], nan);
}

static KlValue fold_result(KlBuilder *b, const Fold *f, int k, const KlValue *acc) {
    if (!f->max || !f->real) {
        return acc[k];
    }
    KlValue none = kl_cmp(b, KL_EQ, acc[2 * k + 1], kl_f32(b, 0));
    return kl_select(b, none, acc[2 * k], kl_f32(b, NAN));
}

static void mark_fold(KlFor *loop, const Fold *f) {
    if (f && f->n > 0) {
        loop->instr->fold = f->max ? KL_OP_MAX : KL_OP_ADD;
    }
}

/* ---- the loops of one stage --------------------------------------------------------------------- */

/* Loops over the folded segments from s on. Innermost: folds what f says (f->n may be 0) and writes the full stores if
 * asked to. acc: carried values in, results out. */
static void inner_loops(Row *r, int s, const Fold *f, bool stores, KlValue *acc) {
    KdLower *l = r->l;
    KlBuilder *b = &l->b;
    while (s < r->sg.n && !r->d.reduced[r->sg.first[s]]) {
        s++;
    }
    if (s == r->sg.n) {
        KlValue next[2 * MAX_FOLDS], idx[KD_MAX_RANK];
        for (int k = 0; k < f->n; k++) {
            const KdNode *n = kd_node(l->fu->f, l->g->local.v[f->which[k]]);
            kd_place_in(l, kd_vtype(l->fu->f, n->in[0]), r->at, idx);
            fold_step(b, f, k, kd_compose(l, n->in[0], idx), acc, next);
        }
        if (stores) {
            kd_compose_stores(l, r->full, r->n_full, r->at);
        }
        for (int k = 0; k < f->carried; k++) {
            acc[k] = next[k];
        }
        return;
    }
    KlValue lo = kl_i64(b, 0), hi = kl_i64(b, r->sg.extent[s]);
    hi = s == r->chunk ? r->chunk_n : hi;
    KlFor loop = s == r->innermost ? kd_vector_loop(l, lo, hi, f->carried, acc)
                                   : kl_for_begin(b, lo, hi, 1, f->carried, acc);
    if (s == r->innermost) {
        mark_fold(&loop, f);
    }
    KlValue inside[2 * MAX_FOLDS];
    for (int k = 0; k < f->carried; k++) {
        inside[k] = loop.carried[k];
    }
    KlValue i = s == r->chunk ? kl_op2(b, KL_OP_ADD, r->chunk_lo, loop.i) : loop.i;
    kd_segment_indices(l, &r->d, &r->sg, s, i, r->at);
    inner_loops(r, s + 1, f, stores, inside);
    kl_for_end(b, &loop, inside, acc);
}

/* Folds the reductions of one stage; the loop that comes last writes the full stores if `stores`. */
static void run_stage(Row *r, int stage, bool stores) {
    KdLower *l = r->l;
    Fold folds[8];
    int n = 0;
    for (int i = 0; i < l->g->local.n; i++) {
        if (level_of(r, l->g->local.v[i]) != stage + 1) {
            continue;
        }
        bool max = !fold_is(r, i, false, true) && !fold_is(r, i, false, false);
        bool real = fold_is(r, i, max, true);
        int k = 0;
        while (k < n && (folds[k].max != max || folds[k].real != real || folds[k].n == MAX_FOLDS)) {
            k++;
        }
        if (k == n) {
            folds[n++] = (Fold){.max = max, .real = real};
        }
        folds[k].which[folds[k].n++] = i;
        folds[k].carried += max && real ? 2 : 1;
    }
    kd_compose_invariants(l, &r->d, r->inner, r->at, r->level, stage);
    for (int k = 0; k < n; k++) {
        KlValue acc[2 * MAX_FOLDS];
        fold_init(&l->b, &folds[k], acc);
        inner_loops(r, 0, &folds[k], stores && k == n - 1, acc);
        for (int j = 0; j < folds[k].n; j++) {
            r->folded[folds[k].which[j]] = fold_result(&l->b, &folds[k], j, acc);
        }
    }
    for (int i = 0; i < l->g->local.n; i++) {
        if (level_of(r, l->g->local.v[i]) == stage + 1) {
            l->binding->local[i] = r->folded[i];
        }
    }
}

/* The indices of the row in the kept dims, in order. */
static void row_place(const Row *r, KlValue *place) {
    for (int k = 0, n = 0; k < r->d.n; k++) {
        if (!r->d.reduced[k]) {
            place[n++] = r->at[k];
        }
    }
}

static void row_stores(Row *r) {
    KlValue place[KD_MAX_RANK] = {0};
    row_place(r, place);
    kd_compose_stores(r->l, r->row, r->n_row, place);
}

static void whole_row(Row *r) {
    bool last = r->full_level < r->stages;
    for (int s = 0; s < r->stages; s++) {
        run_stage(r, s, r->n_full > 0 && last && s == r->stages - 1);
    }
    if (r->n_full > 0 && !last) {
        Fold none = {0};
        kd_compose_invariants(r->l, &r->d, r->inner, r->at, NULL, 0);
        inner_loops(r, 0, &none, true, NULL);
    }
    row_stores(r);
}

/* ---- kernels ------------------------------------------------------------------------------------ */

/* Splits the parallel index into the kept segments, but for the innermost one if rows are lanes. */
static int64_t outer_rows(const Row *r) {
    int64_t n = 1;
    for (int s = 0; s < r->sg.n - (r->columns ? 1 : 0); s++) {
        n *= r->d.reduced[r->sg.first[s]] ? 1 : r->sg.extent[s];
    }
    return n;
}

static void open_rows(Row *r, KlValue row) {
    int64_t dim[KD_MAX_RANK];
    KlValue i[KD_MAX_RANK];
    int which[KD_MAX_RANK], n = 0;
    for (int s = 0; s < r->sg.n - (r->columns ? 1 : 0); s++) {
        if (!r->d.reduced[r->sg.first[s]]) {
            dim[n] = r->sg.extent[s];
            which[n++] = s;
        }
    }
    if (n > 0) {
        kd_run_split(r->l, n, dim, row, i);
    }
    for (int k = 0; k < n; k++) {
        kd_segment_indices(r->l, &r->d, &r->sg, which[k], i[k], r->at);
    }
    /* all kept dims together are the row: per-row values are then one load away */
    KlValue place[KD_MAX_RANK] = {0};
    int64_t kept[KD_MAX_RANK];
    int m = 0;
    for (int k = 0; k < r->d.n; k++) {
        if (!r->d.reduced[k]) {
            kept[m++] = r->d.dim[k];
        }
    }
    if (!r->columns) {
        row_place(r, place);
        kd_run_add(r->l, m, kept, place, row);
    }
}

static void lower_rows(Row *r) {
    KdLower *l = r->l;
    KlBuilder *b = &l->b;
    int64_t rows = outer_rows(r);
    if (!r->columns) {
        kd_lower_begin(l, kd_lower_what(l, &r->d), rows);
        open_rows(r, kl_parallel_index(l->k));
        whole_row(r);
        kd_lower_end(l);
        return;
    }
    int last = r->sg.n - 1;
    int64_t width = r->sg.extent[last], inner = kd_domain_inner(&r->d);
    int64_t block = LANE_WORK / (inner > 0 ? inner : 1);
    block = block < 64 ? 64 : block > 4096 ? 4096 : block / 64 * 64;
    block = block > width ? width : block;
    int64_t blocks = (width + block - 1) / block;
    kd_lower_begin(l, kd_lower_what(l, &r->d), rows * blocks);
    KlValue p = kl_parallel_index(l->k), by = kl_i64(b, blocks);
    open_rows(r, kl_op2(b, KL_OP_DIV, p, by));
    KlValue lo = kl_op2(b, KL_OP_MUL, kl_op2(b, KL_OP_REM, p, by), kl_i64(b, block));
    KlValue n = kl_i64(b, block);
    if (width % block != 0) {
        n = kl_op2(b, KL_OP_MIN, n, kl_op2(b, KL_OP_SUB, kl_i64(b, width), lo));
    }
    KlFor lanes = kd_vector_loop(l, kl_i64(b, 0), n, 0, NULL);
    kd_segment_indices(l, &r->d, &r->sg, last, kl_op2(b, KL_OP_ADD, lo, lanes.i), r->at);
    whole_row(r);
    kd_loop_end(l, &lanes);
    kd_lower_end(l);
}

/* Rows of products that are never in memory: a block of them at a time. */
static void lower_streamed(Row *r, int side) {
    KdLower *l = r->l;
    KlBuilder *b = &l->b;
    KdStream st;
    kd_stream_plan(&st, l, side, r->tail, r->n_tail);
    kd_stream_begin(&st, kd_lower_what(l, &r->d));
    for (int s = 0; s < r->sg.n; s++) {
        r->innermost = r->d.reduced[r->sg.first[s]] ? s : r->innermost;
    }
    if (r->d.n > 2) {
        r->at[0] = st.at_batch;
    }
    KlFor f = kl_for_begin(b, kl_i64(b, 0), st.n_rows, 1, 0, NULL);
    r->at[r->d.n - 2 + side] = kl_op2(b, KL_OP_ADD, st.first, f.i);
    whole_row(r);
    kd_compose_invariants(l, &r->d, r->inner, r->at, NULL, 0);
    kd_stream_make_row(&st, f.i);
    kd_loop_end(l, &f);
    kd_stream_tails(&st);
    kd_stream_end(&st);
}

static int temp_of(int local) { return local; }

static KlScalar scalar_of(const Row *r, int local) {
    return kd_vtype(r->l->fu->f, r->l->g->local.v[local])->dtype == KD_F32 ? KL_F32 : KL_I32;
}

/* First kernel: partial results of pieces of the longest folded segment, and the full stores. */
static void lower_pieces(Row *r, int64_t rows, int64_t pieces, int64_t piece) {
    KdLower *l = r->l;
    kd_lower_begin(l, kd_lower_what(l, &r->d), rows * pieces);
    KlBuilder *b = &l->b;
    KlValue p = kl_parallel_index(l->k), by = kl_i64(b, pieces);
    open_rows(r, kl_op2(b, KL_OP_DIV, p, by));
    r->chunk_lo = kl_op2(b, KL_OP_MUL, kl_op2(b, KL_OP_REM, p, by), kl_i64(b, piece));
    r->chunk_n = kl_i64(b, piece);
    int64_t extent = r->sg.extent[r->chunk];
    if (extent % piece != 0) {
        r->chunk_n = kl_op2(b, KL_OP_MIN, r->chunk_n, kl_op2(b, KL_OP_SUB, kl_i64(b, extent), r->chunk_lo));
    }
    run_stage(r, 0, r->n_full > 0);
    for (int i = 0; i < l->g->local.n; i++) {
        int buf = kd_lower_temp(l, temp_of(i), scalar_of(r, i), rows * pieces, KL_OUT);
        kl_store(b, buf, p, r->folded[i]);
    }
    kd_lower_end(l);
}

/* Second kernel: a row's partial results, in order, and what is computed with the results. */
static void lower_combine(Row *r, int64_t rows, int64_t pieces) {
    KdLower *l = r->l;
    kd_lower_begin(l, kd_format(l->cx, "combine %s", kd_lower_what(l, &r->d)), rows);
    KlBuilder *b = &l->b;
    open_rows(r, kl_parallel_index(l->k));
    KlValue base = kl_op2(b, KL_OP_MUL, kl_parallel_index(l->k), kl_i64(b, pieces));
    for (int i = 0; i < l->g->local.n; i++) {
        bool max = fold_is(r, i, true, true) || fold_is(r, i, true, false);
        Fold f = {.which = {i}, .n = 1, .max = max, .real = fold_is(r, i, max, true)};
        f.carried = f.max && f.real ? 2 : 1;
        KlValue acc[2], next[2];
        int buf = kd_lower_temp(l, temp_of(i), scalar_of(r, i), rows * pieces, KL_IN);
        fold_init(b, &f, acc);
        KlFor loop = kd_vector_loop(l, kl_i64(b, 0), kl_i64(b, pieces), f.carried, acc);
        mark_fold(&loop, &f);
        fold_step(b, &f, 0, kl_load(b, buf, kl_op2(b, KL_OP_ADD, base, loop.i), 1), loop.carried, next);
        kl_for_end(b, &loop, next, acc);
        l->binding->local[i] = fold_result(b, &f, 0, acc);
    }
    row_stores(r);
    kd_lower_end(l);
}

void kd_lower_row(KdLower *l) {
    Row r = {.l = l, .d = kd_group_domain(l->fu, l->g), .chunk = -1};
    r.sg = kd_segments(l, &r.d);
    r.columns = r.sg.n > 0 && r.d.rows && !r.d.reduced[r.sg.first[r.sg.n - 1]];
    for (int k = 0; k < r.d.n; k++) {
        r.inner[k] = r.d.reduced[k];
    }
    r.innermost = r.sg.n - 1;
    find_levels(&r);
    find_stores(&r);
    if (kd_streams(l)) {
        r.columns = false;
        lower_streamed(&r, r.d.reduced[r.d.n - 1] ? 0 : 1);
        return;
    }
    if (!kd_domain_two_stage(&r.d) || r.stages != 1 || (r.n_full > 0 && r.full_level > 0)) {
        lower_rows(&r);
        return;
    }
    r.columns = false; /* too few rows for lanes */
    for (int s = 0; s < r.sg.n; s++) {
        if (r.d.reduced[r.sg.first[s]] && (r.chunk < 0 || r.sg.extent[s] >= r.sg.extent[r.chunk])) {
            r.chunk = s;
        }
    }
    int64_t extent = r.sg.extent[r.chunk], inner = kd_domain_inner(&r.d);
    int64_t pieces = inner / STAGE_PIECE < 1 ? 1 : inner / STAGE_PIECE;
    pieces = pieces > extent ? extent : pieces;
    int64_t piece = (extent + pieces - 1) / pieces;
    piece = piece > 64 ? (piece + 63) / 64 * 64 : piece;
    pieces = (extent + piece - 1) / piece;
    lower_pieces(&r, kd_domain_rows(&r.d), pieces, piece);
    lower_combine(&r, kd_domain_rows(&r.d), pieces);
}
