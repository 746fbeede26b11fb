/* lower_turn.c: map groups with a transpose that changes the fastest dim: what is read along one dim of the domain is
 * written along another.
 *
 * An index of the parallel range is a tile of these two dims. The transpose's operand is composed (loaded, as a rule)
 * along its own fastest dim, one line after the other, into scratch; there the tile is turned by shuffles, a block of
 * few lines at a time; then all stores are computed along the domain's last dim, and find the transpose's elements in
 * the turned tile. So memory is read and written in runs.
 */
#include "passes/lower.h"
#include "passes/schedule/schedule.h"

/* LANES: of a block. Wider ones are hardly faster, and slow to compile. */
enum { TILE = 64, LANES = 8, MAX_TURNS = 4 };

typedef struct Turns {
    int n, dim; /* dim: of the domain, along which the operands are contiguous */
    KdValue v[MAX_TURNS];
} Turns;

static int last_dim(const KdType *t) {
    int r = t->rank - 1;
    while (r > 0 && t->dim[r] == 1) {
        r--;
    }
    return r;
}

/* The dim of the domain along which transpose v's operand is contiguous; -1: the last one, or unknown. */
static int turned_dim(const KdLower *l, const KdDomain *d, KdValue v) {
    const KdNode *n = kd_node(l->fu->f, v);
    KdInts perm = kd_attr_ints(l->fu->f, n, "perm");
    int fastest = last_dim(kd_vtype(l->fu->f, n->in[0]));
    for (int r = 0, k = 0; r < n->type->rank; r++) {
        if (n->type->dim[r] != 1 && perm.v[r] == fastest) {
            return k == d->n - 1 ? -1 : k;
        }
        k += n->type->dim[r] != 1;
    }
    return -1;
}

static Turns find_turns(const KdLower *l, const KdDomain *d) {
    Turns t = {.dim = -1};
    for (int i = 0; i < l->binding->walk->touch.n && t.n < MAX_TURNS; i++) {
        const KdTouch *at = &l->binding->walk->touch.v[i];
        const KdNode *n = kd_node(l->fu->f, at->v);
        if (at->load || n->op != KD_OP_TRANSPOSE || n->type->dtype != KD_F32 || !(at->at & KD_AT_FULL) ||
            !kd_domain_is(d, n->type)) {
            continue;
        }
        int k = turned_dim(l, d, at->v);
        if (k >= 0 && (t.n == 0 || k == t.dim)) {
            t.dim = k;
            t.v[t.n++] = at->v;
        }
    }
    return t;
}

/* A tile's lines of transpose v's operand go to scratch: [place along the last dim][place along the turned one]. */
static void read_lines(KdLower *l, const KdDomain *d, const Turns *t, KdValue v, int buf, int64_t pitch,
                       const KlValue *first, const KlValue *count, const KlValue *at) {
    KlBuilder *b = &l->b;
    const KdNode *n = kd_node(l->fu->f, v);
    KdInts perm = kd_attr_ints(l->fu->f, n, "perm");
    KlValue place[KD_MAX_RANK], idx[KD_MAX_RANK], below[KD_MAX_RANK];
    for (int k = 0; k < d->n; k++) {
        place[k] = at[k];
    }
    KlFor y = kl_for_begin(b, kl_i64(b, 0), count[1], 1, 0, NULL);
    KlFor x = kd_vector_loop(l, kl_i64(b, 0), count[0], 0, NULL);
    place[d->n - 1] = sch_add(b, first[1], y.i);
    place[t->dim] = sch_add(b, first[0], x.i);
    kd_place_in(l, n->type, place, idx);
    for (int r = 0; r < n->type->rank; r++) {
        below[perm.v[r]] = idx[r];
    }
    kl_store(b, buf, sch_madc(b, y.i, pitch, x.i), kd_compose(l, n->in[0], below));
    kd_loop_end(l, &x);
    kd_loop_end(l, &y);
}

/* to[x][y] = from[y][x], whole blocks: what lies outside the tile is room that nobody reads. */
static void turn(KdLower *l, int from, int to, const int64_t *pitch, const KlValue *count, int lanes) {
    KlBuilder *b = &l->b;
    KlFor y = kl_for_begin(b, kl_i64(b, 0), count[1], lanes, 0, NULL);
    KlFor x = kl_for_begin(b, kl_i64(b, 0), count[0], lanes, 0, NULL);
    sch_transpose(b, lanes, from, sch_madc(b, y.i, pitch[0], x.i), pitch[0], to, sch_madc(b, x.i, pitch[1], y.i),
                  pitch[1]);
    kd_loop_end(l, &x);
    kd_loop_end(l, &y);
}

static void write_rows(KdLower *l, const KdDomain *d, const Turns *t, const int *buf, int64_t pitch,
                       const KlValue *first, const KlValue *count, KlValue *at) {
    KlBuilder *b = &l->b;
    KlValue idx[KD_MAX_RANK];
    KlFor x = kl_for_begin(b, kl_i64(b, 0), count[0], 1, 0, NULL);
    KlFor y = kd_vector_loop(l, kl_i64(b, 0), count[1], 0, NULL);
    at[t->dim] = sch_add(b, first[0], x.i);
    at[d->n - 1] = sch_add(b, first[1], y.i);
    for (int i = 0; i < t->n; i++) {
        kd_place_in(l, kd_vtype(l->fu->f, t->v[i]), at, idx);
        kd_compose_known(l, t->v[i], idx, kl_load(b, buf[i], sch_madc(b, x.i, pitch, y.i), 1));
    }
    kd_compose_stores(l, l->g->stores.v, l->g->stores.n, at);
    kd_loop_end(l, &y);
    kd_loop_end(l, &x);
}

bool kd_lower_turn(KdLower *l, const KdDomain *d) {
    int lanes = l->o->machine.lanes;
    if (l->g->kind != KD_GROUP_MAP || d->n < 2) {
        return false;
    }
    Turns t = find_turns(l, d);
    if (t.n == 0 || d->dim[t.dim] < lanes || d->dim[d->n - 1] < lanes) {
        return false;
    }
    int64_t extent[2] = {d->dim[t.dim], d->dim[d->n - 1]}, size[2], tiles[2], range = 1;
    for (int k = 0; k < 2; k++) {
        size[k] = extent[k] < TILE ? extent[k] : TILE;
        tiles[k] = sch_ceil(extent[k], size[k]);
    }
    for (int k = 0; k < d->n; k++) {
        range *= k == t.dim ? tiles[0] : k == d->n - 1 ? tiles[1] : d->dim[k];
    }
    kd_lower_begin(l, kd_lower_what(l, d), range);
    KlBuilder *b = &l->b;
    int block = lanes < LANES ? lanes : LANES, lines, turned[MAX_TURNS];
    int64_t pitch[2] = {sch_ceil(size[0], block) * block, sch_ceil(size[1], block) * block};
    lines = kl_buf(l->k, "lines", KL_F32, pitch[0] * pitch[1], KL_SCRATCH);
    for (int i = 0; i < t.n; i++) {
        turned[i] = kl_buf(l->k, "turned", KL_F32, pitch[0] * pitch[1], KL_SCRATCH);
    }
    /* Outer dims, then tiles of the turned dim, then of the last one. */
    KlValue p = kl_parallel_index(l->k), at[KD_MAX_RANK] = {0}, first[2], count[2];
    for (int k = 1; k >= 0; k--) {
        first[k] = sch_mulc(b, sch_split(b, &p, tiles[k]), size[k]);
        count[k] = kl_i64(b, size[k]);
        if (extent[k] % size[k] != 0) {
            count[k] = sch_minc(b, kl_op2(b, KL_OP_SUB, kl_i64(b, extent[k]), first[k]), size[k]);
        }
    }
    int64_t dim[KD_MAX_RANK];
    KlValue outer[KD_MAX_RANK];
    int n = 0;
    for (int k = 0; k < d->n - 1; k++) {
        if (k != t.dim) {
            dim[n++] = d->dim[k];
        }
    }
    if (n > 0) {
        kd_run_split(l, n, dim, p, outer);
    }
    for (int k = 0, i = 0; k < d->n - 1; k++) {
        at[k] = k == t.dim ? at[k] : outer[i++];
    }
    for (int i = 0; i < t.n; i++) {
        read_lines(l, d, &t, t.v[i], lines, pitch[0], first, count, at);
        turn(l, lines, turned[i], pitch, count, block);
    }
    write_rows(l, d, &t, turned, pitch[1], first, count, at);
    kd_lower_end(l);
    return true;
}
