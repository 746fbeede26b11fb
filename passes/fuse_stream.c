/* fuse_stream.c: which products of matrices are streamed: computed block by block where they are needed, and never in
 * memory.
 *
 * A function and its users come in (a KdFuser before units are formed); z->stream and z->stream_roots go out. A product
 * S [.., k, n] is streamed when it is big against its operands, some reduction folds its rows or columns (a softmax, a
 * norm, a contrastive term; see note_fold), and all that uses it is
 *   - elementwise over the same domain (streamed as well: its value is composed from S's), or
 *   - a reduction over its rows or over its columns, or
 *   - another product that contracts its rows or columns.
 * Then whoever needs elements of S has them from a block of rows (or columns) that it computes itself; see
 * passes/schedule/stream.c. If anything else uses it, it is an ordinary anchor. Elementwise values of that domain which
 * only streamed values use are streamed, too. Shapes and uses alone decide.
 */
#include "passes/fuse.h"

enum {
    BIG = 65536,       /* elements: smaller products stay in the second cache */
    LEAST_ROWS = 16,   /* and columns */
    DEEPEST = 1024,    /* terms of an element's sum: longer ones are dearer to compute again than to store */
};

typedef struct Streams {
    KdFuser *z;
    KD_VEC(KdValue) product; /* candidates */
    uint64_t dropped, folded; /* by number modulo 64: used otherwise; folded by some reduction */
    uint64_t *columns;        /* by node: the products of which it is a function of folded columns, and not streamed */
} Streams;

static int64_t depth_of(const KdFunc *f, KdValue v) {
    const KdNode *n = kd_node(f, v);
    const KdType *x = kd_vtype(f, n->in[0]);
    return x->dim[x->rank - (kd_attr_int(f, n, "ta") ? 2 : 1)];
}

bool kd_may_stream(const KdFunc *f, KdValue v) {
    const KdNode *n = kd_node(f, v);
    if (n->op != KD_OP_MATMUL) {
        return false;
    }
    const KdType *t = n->type;
    int64_t rows = t->dim[t->rank - 2], columns = t->dim[t->rank - 1], depth = depth_of(f, v);
    int64_t shorter = rows < columns ? rows : columns, longer = rows < columns ? columns : rows;
    return shorter >= LEAST_ROWS && rows * columns >= BIG && depth >= 1 && depth <= DEEPEST && depth * 2 <= longer;
}

static uint64_t bit_of(const Streams *s, KdValue v) {
    for (int i = 0; i < s->product.n; i++) {
        if (s->product.v[i] == v) {
            return UINT64_C(1) << i % 64;
        }
    }
    return 0;
}

/* Does n fold either rows or columns, and nothing else? */
static bool folds_a_side(const KdDomain *d) {
    int folded = 0;
    for (int k = 0; k < d->n; k++) {
        folded += d->reduced[k];
    }
    return d->n >= 2 && folded == 1 && (d->reduced[d->n - 1] || d->reduced[d->n - 2]);
}

/* A reduction over rows is what streaming is for; one over columns, if its result goes back to them: else it is the
 * gradient of a layer's bias. And what is folded must be long against the contraction, or the product is a layer before
 * a norm. */
static void note_fold(Streams *s, KdValue v, uint64_t roots, const KdDomain *d) {
    bool rows = d->reduced[d->n - 1];
    uint64_t wide = 0;
    for (int i = 0; i < s->product.n; i++) {
        wide |= depth_of(s->z->f, s->product.v[i]) * 2 <= kd_domain_inner(d) ? UINT64_C(1) << i % 64 : 0;
    }
    if (rows) {
        s->folded |= roots & wide;
    } else {
        s->columns[v] = roots & wide;
    }
}

/* A product over a streamed value needs it as a matrix of the product's own rows and columns. */
static bool contracts(const KdFuser *z, const KdNode *n) {
    int streamed = 0;
    bool matrix = n->op == KD_OP_MATMUL;
    for (int k = 0; k < n->n_in && matrix; k++) {
        if (z->stream_roots[n->in[k]]) {
            const KdType *t = kd_vtype(z->f, n->in[k]);
            streamed++;
            matrix = t->dim[t->rank - 1] >= LEAST_ROWS && t->dim[t->rank - 2] >= LEAST_ROWS;
        }
    }
    return matrix && streamed == 1 && n->in[0] != n->in[1];
}

int kd_streamed_operand(const KdFunc *f, const uint8_t *stream, KdValue v, bool *turned) {
    const KdNode *n = kd_node(f, v);
    for (int k = 0; n->op == KD_OP_MATMUL && k < 2; k++) {
        if (stream[n->in[k]] != KD_NOT_STREAMED) {
            *turned = (kd_attr_int(f, n, k ? "tb" : "ta") != 0) == (k == 0);
            return k;
        }
    }
    return -1;
}

/* One visit: v is streamed, or uses what is in a way that allows it or not. */
static void visit(Streams *s, KdValue v) {
    KdFuser *z = s->z;
    const KdNode *n = kd_node(z->f, v);
    uint64_t roots = 0, columns = 0;
    for (int k = 0; k < n->n_in; k++) {
        roots |= z->stream_roots[n->in[k]];
        columns |= kd_class(z->f, v) == KD_ELEMENTWISE || kd_is_view(z->f, v) ? s->columns[n->in[k]] : 0;
    }
    if (roots == 0) {
        uint64_t own = bit_of(s, v);
        if (own && !(own & s->dropped)) {
            z->stream[v] = KD_STREAM_PRODUCT;
            z->stream_roots[v] = own;
        }
        s->columns[v] = columns;
        return;
    }
    bool reduce = kd_class(z->f, v) == KD_REDUCE;
    KdDomain folded = reduce ? kd_domain_reduced(kd_vtype(z->f, n->in[0]), n->type) : (KdDomain){0};
    bool same = true;
    KdDomain d = kd_domain(n->type);
    for (int k = 0; k < n->n_in; k++) {
        same = same && kd_domain_is(&d, kd_vtype(z->f, n->in[k]));
    }
    if (same && (kd_class(z->f, v) == KD_ELEMENTWISE || kd_is_view(z->f, v))) {
        z->stream[v] = KD_STREAM_COMPOSED;
        z->stream_roots[v] = roots;
        s->folded |= roots & columns;
    } else if (folds_a_side(&folded)) {
        note_fold(s, v, roots, &folded);
    } else if (!contracts(z, n)) {
        s->dropped |= roots;
    }
}

/* Values that were not computed from products, but only for what is. */
static void find_helpers(KdFuser *z) {
    for (KdValue v = z->f->n; v-- > 0;) {
        if (!z->live[v] || z->stream[v] != KD_NOT_STREAMED || kd_class(z->f, v) != KD_ELEMENTWISE ||
            kd_vtype(z->f, v)->count < BIG) {
            continue;
        }
        bool only = z->use_from[v] < z->use_from[v + 1];
        for (KdValue k = z->use_from[v]; k < z->use_from[v + 1] && only; k++) {
            only = z->stream[z->use[k]] == KD_STREAM_COMPOSED;
        }
        for (int i = 0; i < z->f->outputs.n && only; i++) {
            only = z->f->outputs.v[i].value != v;
        }
        if (only) {
            z->stream[v] = KD_STREAM_COMPOSED;
        }
    }
}

void kd_find_streams(KdFuser *z) {
    Streams s = {.z = z};
    uint64_t before;
    for (KdValue v = 0; v < z->f->n; v++) {
        if (z->live[v] && kd_may_stream(z->f, v)) {
            kd_push(z->cx, &s.product, v);
        }
    }
    if (s.product.n == 0) {
        return;
    }
    s.columns = KD_NEW_ARRAY(z->cx, uint64_t, z->f->n + 1);
    do {
        before = s.dropped;
        s.folded = 0;
        for (KdValue v = 0; v < z->f->n; v++) {
            z->stream[v] = KD_NOT_STREAMED;
            z->stream_roots[v] = 0;
            s.columns[v] = 0;
        }
        for (KdValue v = 0; v < z->f->n; v++) {
            if (z->live[v]) {
                visit(&s, v);
            }
        }
        for (int i = 0; i < z->f->outputs.n; i++) {
            s.dropped |= z->stream_roots[z->f->outputs.v[i].value];
        }
        for (int i = 0; i < s.product.n; i++) {
            s.dropped |= bit_of(&s, s.product.v[i]) & ~s.folded;
        }
    } while (s.dropped != before);
    find_helpers(z);
}
