/* lower_compose.c: the element of any value at any place, as loop IR.
 *
 * A value in memory is loaded; anything else is composed: its element rule runs, and asks for its operands here. What
 * was computed in a block that is still open is not computed again (memo). Under a guard (operand_if) loads are masked.
 *
 * Index arithmetic stays linear: when a loop variable runs over several dims at once (or a reshape regroups dims), the
 * table of runs remembers that these indices together are that variable, so that the linear index of a load is the
 * variable again and not a sum of quotients and remainders.
 */
#include "passes/lower.h"

#include <string.h>

void kd_compose_begin(KdLower *l) {
    struct KdBinding *x = l->binding;
    x->memo.n = x->runs.n = x->bound.n = 0;
    x->n_tiles = 0;
    memset(x->heads, 0, sizeof x->heads);
    x->guard = KL_NONE;
    for (int i = 0; i < KD_COUNT(x->local); i++) {
        x->local[i] = KL_NONE;
    }
}

/* ---- index arithmetic --------------------------------------------------------------------------- */

void kd_run_add(KdLower *l, int n, const int64_t *dim, const KlValue *idx, KlValue value) {
    if (n < 2) {
        return;
    }
    KdRun r = {.n = n, .value = value};
    memcpy(r.dim, dim, (size_t)n * sizeof *dim);
    memcpy(r.idx, idx, (size_t)n * sizeof *idx);
    kd_push(l->cx, &l->binding->runs, r);
}

void kd_run_split(KdLower *l, int n, const int64_t *dim, KlValue value, KlValue *idx) {
    if (n == 1) {
        idx[0] = value;
        return;
    }
    for (int i = l->binding->runs.n - 1; i >= 0; i--) {
        const KdRun *r = &l->binding->runs.v[i];
        if (r->value == value && r->n == n && memcmp(r->dim, dim, (size_t)n * sizeof *dim) == 0) {
            memcpy(idx, r->idx, (size_t)n * sizeof *idx);
            return;
        }
    }
    KlValue rest = value;
    for (int d = n - 1; d > 0; d--) {
        KlValue by = kl_i64(&l->b, dim[d]);
        idx[d] = kl_op2(&l->b, KL_OP_REM, rest, by);
        rest = kl_op2(&l->b, KL_OP_DIV, rest, by);
    }
    idx[0] = rest;
    kd_run_add(l, n, dim, idx, value);
}

/* The longest run that idx begins with; its value, and how many dims it covers. */
static KlValue longest_run(const KdLower *l, int n, const int64_t *dim, const KlValue *idx, int *covers) {
    KlValue best = idx[0];
    *covers = 1;
    for (int i = 0; i < l->binding->runs.n; i++) {
        const KdRun *r = &l->binding->runs.v[i];
        if (r->n <= n && r->n > *covers && memcmp(r->dim, dim, (size_t)r->n * sizeof *dim) == 0 &&
            memcmp(r->idx, idx, (size_t)r->n * sizeof *idx) == 0) {
            *covers = r->n;
            best = r->value;
        }
    }
    return best;
}

static KlValue linear_of(KdLower *l, int n, const int64_t *dim, const KlValue *idx) {
    KlBuilder *b = &l->b;
    KlValue sum = KL_NONE;
    for (int d = 0, covers; d < n; d += covers) {
        KlValue part = longest_run(l, n - d, dim + d, idx + d, &covers);
        int64_t extent = 1;
        for (int k = 0; k < covers; k++) {
            extent *= dim[d + k];
        }
        sum = sum == KL_NONE ? part
                             : kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, sum, kl_i64(b, extent)), part);
    }
    return sum == KL_NONE ? kl_i64(b, 0) : sum;
}

/* Dims other than 1 and their indices. */
static int without_ones(const KdType *t, const KlValue *idx, int64_t *dim, KlValue *at) {
    int n = 0;
    for (int d = 0; d < t->rank; d++) {
        if (t->dim[d] != 1) {
            dim[n] = t->dim[d];
            at[n++] = idx[d];
        }
    }
    return n;
}

KlValue kd_compose_linear(KdLower *l, const KdType *t, const KlValue *idx) {
    int64_t dim[KD_MAX_RANK];
    KlValue at[KD_MAX_RANK];
    int n = without_ones(t, idx, dim, at);
    return linear_of(l, n, dim, at);
}

void kd_place_in(KdLower *l, const KdType *t, const KlValue *at, KlValue *idx) {
    for (int d = 0, k = 0; d < t->rank; d++) {
        idx[d] = t->dim[d] == 1 ? kl_i64(&l->b, 0) : at[k++];
    }
}

/* The same element in another shape: dims are joined and split where the shapes' boundaries meet. */
static void regroup(KdLower *l, const KdType *from, const KlValue *idx, const KdType *to, KlValue *out) {
    int64_t a[KD_MAX_RANK], c[KD_MAX_RANK];
    KlValue at[KD_MAX_RANK], place[KD_MAX_RANK];
    int n = without_ones(from, idx, a, at), m = 0;
    for (int d = 0; d < to->rank; d++) {
        if (to->dim[d] != 1) {
            c[m++] = to->dim[d];
        }
    }
    for (int i = 0, j = 0; i < n && j < m;) {
        int i0 = i, j0 = j;
        int64_t x = a[i++], y = c[j++];
        while (x != y) {
            if (x < y) {
                x *= a[i++];
            } else {
                y *= c[j++];
            }
        }
        if (i - i0 == j - j0 && memcmp(a + i0, c + j0, (size_t)(i - i0) * sizeof *a) == 0) {
            memcpy(place + j0, at + i0, (size_t)(i - i0) * sizeof *at);
        } else {
            kd_run_split(l, j - j0, c + j0, linear_of(l, i - i0, a + i0, at + i0), place + j0);
        }
    }
    kd_place_in(l, to, place, out);
}

/* ---- memory ------------------------------------------------------------------------------------- */

static KdValue home_of(const KdLower *l, KdValue v) {
    return l->fu->alias[v] != KD_NONE ? l->fu->alias[v] : v;
}

static bool is_loaded(const KdLower *l, KdValue v) {
    KdValue home = home_of(l, v);
    return l->fu->stored[home] && l->fu->group[home] != l->binding->group;
}

static KlValue masked(KdLower *l, KlValue cond) {
    KlValue g = l->binding->guard;
    return g == KL_NONE ? cond : cond == KL_NONE ? g : kl_op2(&l->b, KL_OP_AND, g, cond);
}

/* The element of v, which is in memory, or `els` where cond (and the guard) do not hold. */
static KlValue load(KdLower *l, KdValue v, KlValue linear, KlValue cond, KlValue els) {
    KlBuilder *b = &l->b;
    int buf = kd_lower_buffer(l, v);
    bool bytes = l->k->bufs.v[buf].dtype == KL_U8;
    KlValue mask = masked(l, cond);
    if (mask == KL_NONE) {
        KlValue x = kl_load(b, buf, linear, 1);
        return bytes ? kl_cvt(b, KL_I32, x) : x;
    }
    if (!bytes) {
        return kl_load_if(b, buf, linear, mask, els);
    }
    KlValue x = kl_cvt(b, KL_I32, kl_load_if(b, buf, linear, mask, KL_NONE));
    return els == KL_NONE ? x : kl_select(b, mask, x, els);
}

void kd_store_element(KdLower *l, KdValue v, KlValue linear, KlValue x) {
    int buf = kd_lower_buffer(l, v);
    bool bytes = l->k->bufs.v[buf].dtype == KL_U8;
    kl_store(&l->b, buf, linear, bytes ? kl_cvt(&l->b, KL_U8, x) : x);
}

/* ---- elements ----------------------------------------------------------------------------------- */

static uint64_t memo_hash(KdValue v, int n, const KlValue *idx, KlValue guard) {
    uint64_t h = kd_hash_bytes(&v, sizeof v, guard);
    return n ? kd_hash_bytes(idx, (size_t)n * sizeof *idx, h) : h;
}

static KlValue recall(KdLower *l, KdValue v, int n, const KlValue *idx) {
    struct KdBinding *x = l->binding;
    int i = x->heads[memo_hash(v, n, idx, x->guard) % KD_COUNT(x->heads)];
    for (; i > 0; i = x->memo.v[i - 1].next) {
        const KdMemo *m = &x->memo.v[i - 1];
        if (m->v == v && m->guard == x->guard &&
            (n == 0 || memcmp(m->idx, idx, (size_t)n * sizeof *idx) == 0) && kl_is_open(&l->b, m->at)) {
            return m->value;
        }
    }
    return KL_NONE;
}

static void remember(KdLower *l, KdValue v, int n, const KlValue *idx, KlValue value) {
    struct KdBinding *x = l->binding;
    int *head = &x->heads[memo_hash(v, n, idx, x->guard) % KD_COUNT(x->heads)];
    KdMemo m = {.v = v, .n = n, .next = *head, .guard = x->guard, .value = value, .at = l->b.at};
    memcpy(m.idx, idx, (size_t)n * sizeof *idx);
    kd_push(l->cx, &x->memo, m);
    *head = x->memo.n;
}

static KlValue local_value(const KdLower *l, KdValue v) {
    for (int i = 0; l->g->kind == KD_GROUP_ROW && i < l->g->local.n; i++) {
        if (l->g->local.v[i] == v) {
            return l->binding->local[i];
        }
    }
    return KL_NONE;
}

/* From the kernel's block of a streamed product; KL_NONE if it holds none of v. */
static KlValue tile_element(KdLower *l, KdValue v, const KlValue *idx) {
    KlBuilder *b = &l->b;
    for (int i = 0; i < l->binding->n_tiles; i++) {
        const struct KdTile *t = &l->binding->tile[i];
        if (t->v == v) {
            int r = kd_vtype(l->fu->f, v)->rank;
            KlValue row = kl_op2(b, KL_OP_SUB, idx[r - 2 + t->side], t->first);
            KlValue at = kl_op2(b, KL_OP_MUL, row, kl_i64(b, t->pitch));
            return kl_load(b, t->buf, kl_op2(b, KL_OP_ADD, at, idx[r - 1 - t->side]), 1);
        }
    }
    return KL_NONE;
}

KlValue kd_compose(KdLower *l, KdValue v, const KlValue *idx) {
    const KdType *t = kd_vtype(l->fu->f, v);
    KlValue at[KD_MAX_RANK + 1] = {0};
    KlValue r = local_value(l, v);
    if (r != KL_NONE) {
        return r;
    }
    for (int d = 0; d < t->rank; d++) {
        at[d] = t->dim[d] == 1 ? kl_i64(&l->b, 0) : idx[d];
    }
    r = recall(l, v, t->rank, at);
    if (r != KL_NONE) {
        return r;
    }
    if (l->fu->streamed[v]) {
        r = tile_element(l, v, at);
    }
    if (r != KL_NONE) {
        remember(l, v, t->rank, at, r);
        return r;
    }
    if (is_loaded(l, v)) {
        r = load(l, home_of(l, v), kd_compose_linear(l, t, at), KL_NONE, KL_NONE);
    } else if (kd_is_reshape(l->fu->f, v)) {
        KlValue below[KD_MAX_RANK];
        KdValue o = kd_node(l->fu->f, v)->in[0];
        regroup(l, t, at, kd_vtype(l->fu->f, o), below);
        r = kd_compose(l, o, below);
    } else {
        r = kd_elem(&l->e, v, at);
    }
    remember(l, v, t->rank, at, r);
    return r;
}

/* ---- what element rules call ---------------------------------------------------------------------- */

static KlValue operand(KdElem *e, KdValue n, int k, const KlValue *idx) {
    KdLower *l = e->user;
    return kd_compose(l, kd_node(l->fu->f, n)->in[k], idx);
}

static KlValue operand_linear(KdElem *e, KdValue n, int k, KlValue linear) {
    KdLower *l = e->user;
    KdValue v = kd_node(l->fu->f, n)->in[k];
    const KdType *t = kd_vtype(l->fu->f, v);
    if (is_loaded(l, v)) {
        return load(l, home_of(l, v), linear, KL_NONE, KL_NONE);
    }
    int64_t dim[KD_MAX_RANK];
    KlValue at[KD_MAX_RANK], idx[KD_MAX_RANK] = {0};
    int m = without_ones(t, idx, dim, at);
    if (m > 0) {
        kd_run_split(l, m, dim, linear, at);
    }
    kd_place_in(l, t, at, idx);
    return kd_compose(l, v, idx);
}

static KlValue operand_if(KdElem *e, KdValue n, int k, const KlValue *idx, KlValue cond, KlValue els) {
    KdLower *l = e->user;
    KdValue v = kd_node(l->fu->f, n)->in[k];
    int64_t known;
    if (kl_is_const(&l->b, cond, &known)) {
        return known ? kd_compose(l, v, idx) : els;
    }
    if (is_loaded(l, v)) {
        KlValue linear = kd_compose_linear(l, kd_vtype(l->fu->f, v), idx);
        return load(l, home_of(l, v), linear, cond, els);
    }
    KlValue outer = l->binding->guard;
    l->binding->guard = masked(l, cond);
    KlValue x = kd_compose(l, v, idx);
    l->binding->guard = outer;
    return kl_select(&l->b, cond, x, els);
}

void kd_compose_stores(KdLower *l, const KdValue *v, int n, const KlValue *at) {
    KlValue *x = KD_NEW_ARRAY(l->cx, KlValue, n + 1), *linear = KD_NEW_ARRAY(l->cx, KlValue, n + 1);
    KlValue idx[KD_MAX_RANK];
    for (int i = 0; i < n; i++) {
        const KdType *t = kd_vtype(l->fu->f, v[i]);
        kd_place_in(l, t, at, idx);
        x[i] = kd_compose(l, v[i], idx);
        linear[i] = kd_compose_linear(l, t, idx);
    }
    for (int i = 0; i < n; i++) {
        kd_store_element(l, v[i], linear[i], x[i]);
    }
}

/* ---- for schedules ------------------------------------------------------------------------------- */

KlValue kd_lower_operand(KdLower *l, KdValue n, int k, const KlValue *idx) {
    return kd_compose(l, kd_node(l->fu->f, n)->in[k], idx);
}

bool kd_lower_is_stored(const KdLower *l, KdValue n, int k) {
    return is_loaded(l, kd_node(l->fu->f, n)->in[k]);
}

void kd_lower_finish(KdLower *l, KlValue acc, const KlValue *idx) {
    KlValue place[KD_MAX_RANK];
    int64_t dim[KD_MAX_RANK];
    kd_compose_known(l, l->g->root, idx, acc);
    (void)without_ones(kd_vtype(l->fu->f, l->g->root), idx, dim, place);
    kd_compose_stores(l, l->g->stores.v, l->g->stores.n, place);
}

void kd_compose_known(KdLower *l, KdValue v, const KlValue *idx, KlValue x) {
    const KdType *t = kd_vtype(l->fu->f, v);
    KlValue at[KD_MAX_RANK + 1] = {0};
    for (int d = 0; d < t->rank; d++) {
        at[d] = t->dim[d] == 1 ? kl_i64(&l->b, 0) : idx[d];
    }
    remember(l, v, t->rank, at, x);
}

void kd_compose_init(KdLower *l) {
    l->e = (KdElem){&l->b, l->fu->f, operand, operand_linear, operand_if, l};
}
