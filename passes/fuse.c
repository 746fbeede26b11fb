/* fuse.c: which values share a pass over memory. A function comes in; a KdFusion goes out.
 *
 * Nodes are visited in topological order and gathered into units, which become kernels. Leaves and index ops belong to
 * none: they are composed into whoever needs them. An elementwise node joins the unit of the operand that was computed
 * last if its domain is that unit's (or, in a row unit, that unit's rows), and pulls the units of its other operands in
 * where that is legal. A reduction opens a row unit, or joins the one that folds the same axes of the same domain, and
 * takes an elementwise producer of its operand with it. So `mean, centred square, variance, normalise, relu` is one row
 * unit, and `conv, bias, relu` one anchor unit. Two units merge only when
 *   - every edge inside the result is met at the same place of the domain, or at its row (fits), and
 *   - no path leads from one to the other through a third (leads), so that the groups have an order.
 * Afterwards units over one domain that read the same big value merge too (join_siblings).
 * fuse_store.c then decides what is in memory. Nothing here depends on the number of threads.
 */
#include "passes/fuse.h"

#include <string.h>

enum {
    MAX_MEMBERS = 96,     /* nodes of a unit */
    MAX_READS = 22,       /* buffers it reads; stores come on top */
    SIBLING_SPAN = 48,    /* siblings further apart (in nodes) stay apart, or memory would grow */
    BIG = 4096,           /* elements: smaller values are not worth a merge of their own */
    MAX_TAILS = 3,        /* products that follow a row unit */
    FEW_ROWS = 16,        /* fewer rows than this, */
    LONG_ROW = 32768,     /* and longer than this: two stages */
};

/* ---- domains ------------------------------------------------------------------------------------ */

KdDomain kd_domain(const KdType *t) {
    return kd_domain_reduced(t, t);
}

KdDomain kd_domain_reduced(const KdType *in, const KdType *out) {
    KdDomain d = {0};
    for (int i = 0; i < in->rank; i++) {
        if (in->dim[i] != 1) {
            d.dim[d.n] = in->dim[i];
            d.reduced[d.n] = out->dim[i] != in->dim[i];
            d.rows = d.rows || d.reduced[d.n];
            d.n++;
        }
    }
    return d;
}

bool kd_domain_same(const KdDomain *a, const KdDomain *b) {
    return a->n == b->n && memcmp(a->dim, b->dim, (size_t)a->n * sizeof *a->dim) == 0;
}

bool kd_domain_equal(const KdDomain *a, const KdDomain *b) {
    return kd_domain_same(a, b) &&
           memcmp(a->reduced, b->reduced, (size_t)a->n * sizeof *a->reduced) == 0;
}

bool kd_domain_is(const KdDomain *d, const KdType *t) {
    KdDomain e = kd_domain(t);
    return kd_domain_same(d, &e);
}

bool kd_domain_is_row(const KdDomain *d, const KdType *t) {
    int k = 0;
    KdDomain e = kd_domain(t);
    for (int i = 0; i < d->n; i++) {
        if (!d->reduced[i]) {
            if (k == e.n || e.dim[k] != d->dim[i]) {
                return false;
            }
            k++;
        }
    }
    return k == e.n;
}

int64_t kd_domain_rows(const KdDomain *d) {
    int64_t n = 1;
    for (int i = 0; i < d->n; i++) {
        n *= d->reduced[i] ? 1 : d->dim[i];
    }
    return n;
}

int64_t kd_domain_inner(const KdDomain *d) {
    int64_t n = 1;
    for (int i = 0; i < d->n; i++) {
        n *= d->reduced[i] ? d->dim[i] : 1;
    }
    return n;
}

bool kd_domain_two_stage(const KdDomain *d) {
    return d->rows && kd_domain_rows(d) < FEW_ROWS && kd_domain_inner(d) >= LONG_ROW;
}

/* ---- how nodes meet ----------------------------------------------------------------------------- */

bool kd_is_reshape(const KdFunc *f, KdValue v) {
    return kd_node(f, v)->op == KD_OP_RESHAPE;
}

bool kd_is_view(const KdFunc *f, KdValue v) {
    return kd_node(f, v)->op == KD_OP_RESHAPE || kd_node(f, v)->op == KD_OP_BROADCAST;
}

bool kd_is_memory(const KdFunc *f, KdValue v) {
    return kd_node(f, v)->op == KD_OP_INPUT || kd_node(f, v)->op == KD_OP_LITERAL;
}

bool kd_is_leaf(const KdFunc *f, KdValue v) {
    return kd_class(f, v) == KD_LEAF && !kd_is_memory(f, v);
}

bool kd_domain_is_exact_row(const KdDomain *d, const KdType *t, const KdType *u) {
    int k = 0;
    for (int i = 0; i < t->rank; i++) {
        if (t->dim[i] != 1) {
            if (u->dim[i] != (d->reduced[k] ? 1 : t->dim[i])) {
                return false;
            }
            k++;
        }
    }
    return true;
}

KdMeet kd_meet(const KdFunc *f, const KdDomain *d, bool full, KdValue o, KdValue *base) {
    KdMeet meet = KD_MEET_SAME;
    KdValue v = o;
    while (kd_is_view(f, v)) {
        KdValue u = kd_node(f, v)->in[0];
        KdDomain a = kd_domain(kd_vtype(f, v)), b = kd_domain(kd_vtype(f, u));
        if (!kd_domain_same(&a, &b)) {
            bool to_row = full && d->rows && meet == KD_MEET_SAME && !kd_is_reshape(f, v) &&
                          kd_domain_is_exact_row(d, kd_vtype(f, v), kd_vtype(f, u));
            meet = to_row ? KD_MEET_ROW : KD_MEET_OTHER;
        }
        v = u;
        if (meet == KD_MEET_OTHER) {
            while (kd_is_view(f, v)) {
                v = kd_node(f, v)->in[0];
            }
        }
    }
    *base = v;
    return meet;
}

/* ---- units -------------------------------------------------------------------------------------- */

int kd_unit_new(KdFuser *z, KdGroupKind kind, KdDomain d, KdValue v) {
    KdUnit *u = KD_NEW(z->cx, KdUnit);
    u->kind = kind;
    u->d = d;
    kd_push(z->cx, &u->members, v);
    kd_push(z->cx, &z->units, u);
    z->unit[v] = z->units.n - 1;
    return z->unit[v];
}

/* A unit that folds in two stages cannot read its own results over the whole domain again. */
static bool two_stage_fits(const KdFuser *z, const KdUnit *u, const KdValue *members, int n) {
    bool *after = KD_NEW_ARRAY(z->cx, bool, n);
    for (int i = 0; i < n; i++) {
        const KdNode *c = kd_node(z->f, members[i]);
        bool reduce = kd_class(z->f, members[i]) == KD_REDUCE;
        for (int k = 0; k < c->n_in; k++) {
            for (int j = 0; j < i; j++) {
                after[i] = after[i] || (members[j] == c->in[k] && after[j]);
            }
        }
        bool full = reduce || kd_domain_is(&u->d, c->type);
        if (after[i] && full && !kd_is_view(z->f, members[i])) {
            return false;
        }
        after[i] = after[i] || reduce;
    }
    return true;
}

typedef struct Reads {
    KdValue v[MAX_READS];
    int n;
} Reads;

/* Do c's operands that the unit computes (marked) meet it at its place or row, and can it read the others? `whole`: c
 * needs all elements of its operands. Operands that are streamed go to z->todo. */
static bool operands_fit(KdFuser *z, const KdUnit *u, KdValue c, bool full, bool whole, Reads *r) {
    const KdNode *node = kd_node(z->f, c);
    for (int k = 0; k < node->n_in; k++) {
        KdValue base;
        KdMeet meet = kd_meet(z->f, &u->d, full, node->in[k], &base);
        if (z->mark[base] == z->stamp) {
            bool tail = u->kind == KD_GROUP_ROW && kd_class(z->f, base) == KD_ANCHOR;
            if (whole || tail || meet == KD_MEET_OTHER) {
                return false;
            }
            continue;
        }
        bool known = kd_is_leaf(z->f, base);
        if (z->stream[base] != KD_NOT_STREAMED) {
            for (int j = 0; j < z->todo.n && !known; j++) {
                known = z->todo.v[j] == base;
            }
            if (!known) {
                kd_push(z->cx, &z->todo, base);
            }
            continue;
        }
        for (int j = 0; j < r->n && !known; j++) {
            known = r->v[j] == base;
        }
        if (!known) {
            if (r->n == MAX_READS) {
                return false;
            }
            r->v[r->n++] = base;
        }
    }
    return true;
}

/* Would these members (ascending; marked with z->stamp) make a unit of this kind over this domain? Counts what it
 * reads from outside. */
static bool fits(KdFuser *z, KdUnit *u, const KdValue *members, int n) {
    Reads r = {.n = 0};
    z->todo.n = 0;
    for (int i = 0; i < n; i++) {
        KdValue c = members[i];
        const KdNode *node = kd_node(z->f, c);
        KdClass cls = kd_class(z->f, c);
        if (kd_is_view(z->f, c)) {
            continue;
        }
        bool full = cls == KD_REDUCE || kd_domain_is(&u->d, node->type);
        bool tail = cls == KD_ANCHOR && u->kind == KD_GROUP_ROW;
        if (!full && !tail && !(u->kind == KD_GROUP_ROW && kd_domain_is_row(&u->d, node->type))) {
            return false;
        }
        if (!operands_fit(z, u, c, full, cls == KD_WINDOW || cls == KD_ANCHOR, &r)) {
            return false;
        }
    }
    for (int i = 0; i < z->todo.n; i++) { /* what members compute block by block */
        KdValue v = z->todo.v[i];
        bool product = z->stream[v] == KD_STREAM_PRODUCT;
        if (!operands_fit(z, u, v, true, product || u->kind != KD_GROUP_ROW, &r)) {
            return false;
        }
    }
    u->reads = r.n;
    return u->kind != KD_GROUP_ROW || !kd_domain_two_stage(&u->d) ||
           two_stage_fits(z, u, members, n);
}

static bool has_window(const KdFuser *z, const KdUnit *u) {
    for (int i = 0; i < u->members.n; i++) {
        if (kd_class(z->f, u->members.v[i]) == KD_WINDOW) {
            return true;
        }
    }
    return false;
}

/* Can product v follow a row unit, being made of what that computes block by block? */
static bool may_follow(const KdFuser *z, const KdUnit *row, KdValue v) {
    bool turned;
    int k = kd_streamed_operand(z->f, z->stream, v, &turned), tails = 0;
    for (int i = 0; i < row->members.n; i++) {
        tails += kd_class(z->f, row->members.v[i]) == KD_ANCHOR;
    }
    return k >= 0 && tails < MAX_TAILS && kd_domain_is(&row->d, kd_vtype(z->f, kd_node(z->f, v)->in[k])) &&
           row->d.reduced[row->d.n - (turned ? 2 : 1)];
}

/* What a and b make together: false if nothing. */
static bool joint_kind(const KdFuser *z, const KdUnit *a, const KdUnit *b, KdUnit *out) {
    if (a->kind != KD_GROUP_MAP && b->kind == KD_GROUP_MAP) {
        const KdUnit *t = a;
        a = b;
        b = t;
    }
    out->kind = b->kind;
    out->d = b->d;
    if (a->kind == KD_GROUP_MAP && b->kind == KD_GROUP_ROW) {
        int k = 0;
        bool row = true;
        for (int i = 0; i < b->d.n; i++) {
            if (!b->d.reduced[i]) {
                row = row && k < a->d.n && a->d.dim[k] == b->d.dim[i];
                k++;
            }
        }
        return !has_window(z, a) && (kd_domain_same(&a->d, &b->d) || (row && k == a->d.n));
    }
    if (a->kind == KD_GROUP_ROW && b->kind == KD_GROUP_ANCHOR) {
        out->kind = a->kind;
        out->d = a->d;
        return b->members.n == 1 && may_follow(z, a, b->members.v[0]);
    }
    if (a->kind == KD_GROUP_ROW && b->kind == KD_GROUP_ROW) {
        return kd_domain_equal(&a->d, &b->d);
    }
    if (b->kind == KD_GROUP_ANCHOR && has_window(z, a)) {
        return false;
    }
    return a->kind == KD_GROUP_MAP && b->kind != KD_GROUP_OPAQUE && kd_domain_same(&a->d, &b->d);
}

static void push_members(KdFuser *z, int unit) {
    const KdUnit *u = z->units.v[unit];
    for (int i = 0; i < u->members.n; i++) {
        kd_push(z->cx, &z->todo, u->members.v[i]);
    }
}

/* Is there a path from unit `from` to unit `to` through anything else? Nodes from `limit` on belong to no unit yet. */
static bool leads(KdFuser *z, int from, int to, KdValue limit) {
    z->stamp++;
    z->todo.n = 0;
    push_members(z, from);
    for (int i = 0; i < z->todo.n; i++) { /* what is streamed is no third: it is composed into both */
        KdValue v = z->todo.v[i];
        for (KdValue k = z->use_from[v]; k < z->use_from[v + 1]; k++) {
            KdValue u = z->use[k];
            if (z->stream[u] != KD_NOT_STREAMED && u < limit && z->mark[u] != z->stamp) {
                z->mark[u] = z->stamp;
                kd_push(z->cx, &z->todo, u);
            }
        }
    }
    z->stamp++; /* the same node may also be reached through a third */
    z->unit_mark[from] = z->unit_mark[to] = z->stamp;
    for (int start = z->todo.n; z->todo.n > 0;) {
        bool own = z->todo.n <= start;
        KdValue v = z->todo.v[--z->todo.n];
        start = own ? z->todo.n : start;
        for (KdValue k = z->use_from[v]; k < z->use_from[v + 1]; k++) {
            KdValue u = z->use[k];
            int g = z->unit[u];
            if (g == to && !own) {
                return true;
            }
            bool listed = own && z->stream[u] != KD_NOT_STREAMED;
            if (z->mark[u] == z->stamp || u >= limit || g == from || g == to || listed) {
                continue;
            }
            z->mark[u] = z->stamp;
            if (g < 0) {
                kd_push(z->cx, &z->todo, u);
            } else if (z->unit_mark[g] != z->stamp) {
                z->unit_mark[g] = z->stamp;
                push_members(z, g);
            }
        }
    }
    return false;
}

/* Merges unit b into a if that is legal. Members that are not yet anyone's users (>= limit) cannot close a cycle. */
static bool merge(KdFuser *z, int a, int b, KdValue limit) {
    KdUnit *x = z->units.v[a], *y = z->units.v[b], joint = {0};
    if (a == b || !x || !y || x->members.n + y->members.n > MAX_MEMBERS ||
        !joint_kind(z, x, y, &joint)) {
        return false;
    }
    if (kd_node(z->f, x->members.v[0])->group != kd_node(z->f, y->members.v[0])->group) {
        return false; /* recompute.c wants them at different times */
    }
    int i = 0, j = 0;
    z->stamp++;
    while (i < x->members.n || j < y->members.n) {
        bool left = j == y->members.n || (i < x->members.n && x->members.v[i] < y->members.v[j]);
        KdValue v = left ? x->members.v[i++] : y->members.v[j++];
        z->mark[v] = z->stamp;
        kd_push(z->cx, &joint.members, v);
    }
    if (!fits(z, &joint, joint.members.v, joint.members.n) || leads(z, a, b, limit) ||
        leads(z, b, a, limit)) {
        return false;
    }
    for (i = 0; i < y->members.n; i++) {
        z->unit[y->members.v[i]] = a;
    }
    *x = joint;
    z->units.v[b] = NULL;
    return true;
}

/* ---- growing units ------------------------------------------------------------------------------ */

/* The units of v's operands, looked through views, latest computed first; at most `cap`. */
static int operand_units(const KdFuser *z, KdValue v, int *out, int cap) {
    const KdNode *n = kd_node(z->f, v);
    int count = 0;
    KdValue last[8];
    for (int k = 0; k < n->n_in; k++) {
        KdValue base = n->in[k];
        while (kd_is_view(z->f, base)) {
            base = kd_node(z->f, base)->in[0];
        }
        int u = z->unit[base];
        bool known = u < 0;
        for (int j = 0; j < count; j++) {
            known = known || out[j] == u;
        }
        if (known || count == cap) {
            continue;
        }
        KdUnit *w = z->units.v[u];
        KdValue at = w->members.v[w->members.n - 1];
        int j = count++;
        for (; j > 0 && last[j - 1] < at; j--) {
            out[j] = out[j - 1];
            last[j] = last[j - 1];
        }
        out[j] = u;
        last[j] = at;
    }
    return count;
}

static int place_alone(KdFuser *z, KdValue v) {
    const KdNode *n = kd_node(z->f, v);
    switch (kd_class(z->f, v)) {
    case KD_REDUCE:
        return kd_unit_new(z, KD_GROUP_ROW, kd_domain_reduced(kd_vtype(z->f, n->in[0]), n->type), v);
    case KD_ANCHOR:
        return kd_unit_new(z, KD_GROUP_ANCHOR, kd_domain(n->type), v);
    case KD_OPAQUE:
    case KD_META:
        return kd_unit_new(z, KD_GROUP_OPAQUE, kd_domain(n->type), v);
    case KD_LEAF:
    case KD_INDEX:
    case KD_ELEMENTWISE:
    case KD_WINDOW:
        break;
    }
    return kd_unit_new(z, KD_GROUP_MAP, kd_domain(n->type), v);
}

static void place_elementwise(KdFuser *z, KdValue v) {
    int near[8];
    int n = operand_units(z, v, near, 8);
    int own = place_alone(z, v);
    int home = -1;
    for (int i = 0; i < n; i++) {
        if (home < 0) {
            if (z->units.v[near[i]] && merge(z, near[i], own, v + 1)) {
                home = near[i];
            }
            continue;
        }
        /* v's other producers come along when they cover the same domain; not for a row's scalar, where that would
         * only hold up the reduction that made it. */
        KdUnit *u = z->units.v[home];
        if (u->kind == KD_GROUP_MAP || kd_domain_is(&u->d, kd_vtype(z->f, v))) {
            merge(z, home, near[i], v + 1);
        }
    }
}

static void place_reduction(KdFuser *z, KdValue v) {
    int near[8];
    int count = operand_units(z, v, near, 8);
    int own = place_alone(z, v);
    for (int i = 0; i < count; i++) {
        KdUnit *u = z->units.v[near[i]];
        if (u && (u->kind == KD_GROUP_MAP || u->kind == KD_GROUP_ROW) &&
            merge(z, near[i], own, v + 1)) {
            return;
        }
    }
}

/* The streamed products that a value of a unit is computed from. */
static uint64_t roots_of(const KdFuser *z, KdValue v) {
    const KdNode *n = kd_node(z->f, v);
    uint64_t roots = 0;
    for (int k = 0; k < n->n_in && (kd_class(z->f, v) == KD_REDUCE || kd_class(z->f, v) == KD_ANCHOR); k++) {
        roots |= z->stream_roots[n->in[k]];
    }
    return roots;
}

/* A reduction of what is computed block by block joins those that fold the same products the same way, and brings
 * them together, so that a block is computed once for all. So does a product of it and something else. */
static void place_streamed(KdFuser *z, KdValue v) {
    int home = place_alone(z, v);
    uint64_t roots = roots_of(z, v);
    for (int i = 0; i < z->units.n; i++) {
        const KdUnit *u = z->units.v[i];
        uint64_t theirs = 0;
        for (int k = 0; u && i != home && u->kind == KD_GROUP_ROW && k < u->members.n; k++) {
            theirs |= roots_of(z, u->members.v[k]);
        }
        if ((theirs & roots) && merge(z, i, home, v + 1)) {
            home = i;
            roots |= theirs;
        }
    }
}

static void place(KdFuser *z, KdValue v) {
    const KdNode *n = kd_node(z->f, v);
    if (z->stream[v] != KD_NOT_STREAMED) {
        return;
    }
    switch (kd_class(z->f, v)) {
    case KD_LEAF:
        break;
    case KD_INDEX:
        if (kd_is_view(z->f, v) && z->unit[n->in[0]] >= 0) { /* goes wherever its operand's unit goes */
            z->unit[v] = z->unit[n->in[0]];
            kd_push(z->cx, &z->units.v[z->unit[v]]->members, v);
        }
        break;
    case KD_ELEMENTWISE:
        place_elementwise(z, v);
        break;
    case KD_REDUCE:
        if (z->stream[n->in[0]] != KD_NOT_STREAMED) {
            place_streamed(z, v);
        } else {
            place_reduction(z, v);
        }
        break;
    case KD_ANCHOR:
        place_streamed(z, v);
        break;
    case KD_WINDOW:
    case KD_OPAQUE:
    case KD_META:
        place_alone(z, v);
        break;
    }
}

/* Units over one domain that read the same big value, and are near each other, read it once. */
static void join_siblings(KdFuser *z) {
    for (KdValue v = 0; v < z->f->n; v++) {
        if (!z->live[v] || kd_vtype(z->f, v)->count < BIG || kd_class(z->f, v) == KD_INDEX ||
            kd_is_leaf(z->f, v)) {
            continue;
        }
        int first = -1;
        for (KdValue k = z->use_from[v]; k < z->use_from[v + 1]; k++) {
            int u = z->unit[z->use[k]];
            if (u < 0 || u == z->unit[v] || u == first ||
                (z->units.v[u]->kind != KD_GROUP_MAP && z->units.v[u]->kind != KD_GROUP_ROW)) {
                continue;
            }
            KdUnit *a = first >= 0 ? z->units.v[first] : NULL, *b = z->units.v[u];
            if (a && a->kind == b->kind && kd_domain_equal(&a->d, &b->d) &&
                b->members.v[0] < a->members.v[a->members.n - 1] + SIBLING_SPAN &&
                a->members.v[0] < b->members.v[b->members.n - 1] + SIBLING_SPAN &&
                merge(z, first, u, z->f->n)) {
                continue;
            }
            first = u;
        }
    }
}

/* ---- the pass ----------------------------------------------------------------------------------- */

static void find_users(KdFuser *z) {
    const KdFunc *f = z->f;
    for (int i = 0; i < f->outputs.n; i++) {
        z->live[f->outputs.v[i].value] = true;
    }
    z->use_from = KD_NEW_ARRAY(z->cx, KdValue, f->n + 2);
    for (KdValue v = f->n; v-- > 0;) {
        const KdNode *n = kd_node(f, v);
        for (int k = 0; z->live[v] && k < n->n_in; k++) {
            z->live[n->in[k]] = true;
            z->use_from[n->in[k] + 2]++;
        }
    }
    for (KdValue v = 0; v <= f->n; v++) {
        z->use_from[v + 1] += z->use_from[v];
    }
    z->use = KD_NEW_ARRAY(z->cx, KdValue, z->use_from[f->n + 1] + 1);
    for (KdValue v = 0; v < f->n; v++) {
        const KdNode *n = kd_node(f, v);
        for (int k = 0; z->live[v] && k < n->n_in; k++) {
            z->use[z->use_from[n->in[k] + 1]++] = v;
        }
    }
}

KdFusion *kd_fuse(const KdFunc *f, const KdPassOptions *o) {
    KdFuser z = {.cx = f->cx, .f = f, .fuse = o->fuse};
    z.live = KD_NEW_ARRAY(f->cx, bool, f->n + 1);
    z.unit = KD_NEW_ARRAY(f->cx, int, f->n + 1);
    z.mark = KD_NEW_ARRAY(f->cx, uint32_t, f->n + 1);
    z.unit_mark = KD_NEW_ARRAY(f->cx, uint32_t, f->n + 1);
    z.stream = KD_NEW_ARRAY(f->cx, uint8_t, f->n + 1);
    z.stream_roots = KD_NEW_ARRAY(f->cx, uint64_t, f->n + 1);
    find_users(&z);
    for (KdValue v = 0; v < f->n; v++) {
        z.unit[v] = -1;
    }
    if (o->fuse) {
        kd_find_streams(&z);
    }
    for (KdValue v = 0; v < f->n; v++) {
        if (z.live[v] && o->fuse) {
            place(&z, v);
        } else if (z.live[v] && !kd_is_leaf(f, v) && !kd_is_memory(f, v)) {
            place_alone(&z, v);
        }
    }
    if (o->fuse) {
        join_siblings(&z);
    }
    return kd_fuse_finish(&z);
}
