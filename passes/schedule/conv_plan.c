/* conv_plan.c: the geometry of conv2d and conv_transpose2d, and the choice of tile sizes by
 * counting cycles.
 *
 * In: the node. Out: SchConv with sizes and an estimate. The search is over the register tile, the
 * number of channel blocks, the number of row bands, and whether the padded picture is made once or
 * by each item; it looks only at shapes and the machine's sizes, never at the number of threads, so
 * that results do not depend on it.
 */
#include "passes/schedule/conv.h"

static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

static int64_t floor_div(int64_t a, int64_t b) { return (a - sch_mod(a, b)) / b; }

void sch_dim_forward(SchDim *d) {
    d->phases = 1;
    d->grid = d->out;
    d->step = d->stride;
    d->origin = -d->pad;
    d->taps[0] = (SchTaps){.count = d->kernel, .first = 0, .step = 1};
    d->classes = 1, d->reach = 0;
    for (int64_t a = 0; a < d->kernel; a++) {
        int64_t e = a * d->dilation;
        d->classes = sch_max(d->classes, e % d->stride + 1);
        d->reach = sch_max(d->reach, e / d->stride);
    }
}

static bool dim_transposed(SchDim *d) {
    if (d->stride > SCH_MAX_PHASES) return false;
    d->phases = d->stride;
    d->grid = sch_ceil(d->out, d->stride);
    d->step = 1;
    d->classes = 1;
    int64_t lo = INT64_MAX, hi = INT64_MIN;
    for (int64_t p = 0; p < d->phases; p++) {
        SchTaps *t = &d->taps[p];
        *t = (SchTaps){.step = d->stride / gcd(d->stride, d->dilation)};
        t->offset_step = -t->step * d->dilation / d->stride;
        for (int64_t a = 0; a < d->kernel; a++) {
            int64_t e = p + d->pad - a * d->dilation;
            if (sch_mod(e, d->stride)) continue;
            int64_t offset = floor_div(e, d->stride);
            if (!t->count++) t->first = a, t->offset = offset;
            lo = sch_min(lo, offset), hi = sch_max(hi, offset);
        }
    }
    d->origin = lo;
    d->reach = hi - lo;
    for (int64_t p = 0; p < d->phases; p++)
        d->taps[p].offset -= lo;
    return true;
}

bool sch_conv_geometry(SchConv *c, const KdLower *l, KdValue root) {
    const KdFunc *f = l->fu->f;
    const KdNode *n = kd_node(f, root);
    const KdType *x = sch_operand_type(l, root, 0), *w = sch_operand_type(l, root, 1), *y = n->type;
    bool transposed = n->op == KD_OP_CONV_TRANSPOSE2D;
    int64_t groups = kd_attr_int(f, n, "groups");
    KdInts stride = kd_attr_ints(f, n, "stride"), pad = kd_attr_ints(f, n, "pad");
    KdInts dilation = kd_attr_ints(f, n, "dilation");
    *c = (SchConv){
        .node = root, .machine = sch_machine(l), .transposed = transposed, .groups = groups, .keep = l->o->keep};
    c->batch = x->dim[0];
    c->depth = x->dim[1] / groups;
    c->rows_out = y->dim[1] / groups;
    if (y->count == 0 || x->count == 0 || w->count == 0 || x->dtype != KD_F32) return false;
    for (int k = 0; k < 2; k++) {
        SchDim *d = k ? &c->x : &c->y;
        *d = (SchDim){.transposed = transposed,
                      .in = x->dim[2 + k],
                      .out = y->dim[2 + k],
                      .kernel = w->dim[2 + k],
                      .stride = stride.v[k],
                      .dilation = dilation.v[k],
                      .pad = pad.v[k]};
        if (transposed && !dim_transposed(d)) return false;
        if (!transposed) sch_dim_forward(d);
    }
    return true;
}

/* ---- the plan ---------------------------------------------------------------------------- */

static int64_t used_taps(const SchConv *c) {
    int64_t ny = 0, nx = 0;
    for (int64_t p = 0; p < c->y.phases; p++)
        ny += c->y.taps[p].count;
    for (int64_t p = 0; p < c->x.phases; p++)
        nx += c->x.taps[p].count;
    return ny * nx;
}

/* How many lines of the first cache a row tile's weights of one slice take in its fullest set, where they lie as they
 * are: pieces a power of two apart meet in the same sets. */
static double fullest_set(const SchConv *c) {
    enum { WAY = 4096, LINE = 64 };
    int64_t taps = 4 * c->y.kernel * c->x.kernel;
    int64_t apart = taps * (c->transposed ? c->rows_out : c->depth);
    int64_t pieces = c->transposed ? c->slices.size : c->tile.mr;
    int64_t piece = taps * (c->transposed ? c->tile.mr : c->slices.size);
    int64_t common = gcd(apart, WAY), lines = sch_min(piece / LINE + 1, sch_max(common / LINE, 1));
    double spread = (double)(WAY / common * lines) / (WAY / LINE); /* share of the sets that they can reach */
    return (double)(pieces * (piece / LINE + 1)) / (WAY / LINE) / (spread < 1 ? spread : 1);
}

/* How many lines of the first cache a column tile of one slice has too many in their sets, where channels are `channel`
 * elements apart. Row tiles read these lines again and again. */
static int64_t evictions(const SchConv *c, int64_t channel) {
    enum { SETS = 64, WAYS = 8, LINE = 16 };
    int64_t in_set[SETS] = {0}, over = 0, columns = (int64_t)c->tile.nv * c->tile.lanes;
    for (int64_t i = 0; i < c->slices.size; i++)
        for (int64_t k = 0; k < c->y.classes * c->x.classes; k++)
            for (int64_t r = 0; r <= c->y.reach; r++) {
                int64_t at = i * channel + k * c->plane + r * c->pitch, end = at + columns + c->x.reach;
                for (int64_t line = at / LINE; line * LINE < end; line++)
                    over += in_set[line % SETS]++ >= WAYS;
            }
    return over;
}

/* Channels and rows of the output tile a power of two apart meet in the same sets: a few lines between them help. */
static void spread(SchConv *c) {
    enum { LINE = 16 };
    int64_t least = evictions(c, c->channel), channel = c->channel;
    for (int64_t pad = LINE; pad <= 8 * LINE && least && !c->prefill; pad += LINE) {
        int64_t over = evictions(c, channel + pad);
        if (over < least) least = over, c->channel = channel + pad;
    }
    if (c->width % (4 * LINE) == 0) c->width += LINE;
}

/* Everything that follows from tile, tiles.size, bands.size and prefill; then the cycles. */
static void derive(SchConv *c) {
    const SchMachine *m = &c->machine;
    const SchTile *t = &c->tile;
    int64_t columns = (int64_t)t->nv * t->lanes, phases = sch_conv_phases(c), taps = used_taps(c);
    int64_t lines = (c->prefill ? c->bands.count * c->bands.size : c->bands.size) + c->y.reach;
    c->pitch = c->x.grid + c->x.reach;
    c->plane = lines * c->pitch;
    c->channel = c->plane * c->y.classes * c->x.classes;
    c->vectors = sch_ceil((c->bands.size - 1) * c->pitch + c->x.grid, columns);
    c->width = c->vectors * columns;

    /* A slice of input channels: what one column tile reads, and the weights of one row tile, in
     * the first cache. */
    double weights = (double)c->y.kernel * (double)c->x.kernel;
    double near = (double)c->y.classes * (double)c->x.classes *
                  ((double)columns + (double)((c->y.reach + 1) * (c->x.reach + 1)));
    double span = (double)(c->y.reach + 1) * (double)c->x.classes * (double)c->y.classes *
                  (double)sch_min(columns + c->x.reach, c->plane);
    near = near > span ? near : span;
    /* Packed, a phase reads its own alone. */
    int64_t slice = (int64_t)(0.75 * m->l1 / 4 / (near + t->mr * weights / (c->packed ? (double)phases : 1)));
    c->slices = sch_cut(c->depth, sch_max(slice, sch_min(c->depth, 4)));

    double rows = (double)(c->tiles.size * t->mr), depth = (double)c->depth;
    double items = (double)(c->batch * c->groups * c->bands.count * c->tiles.count);
    double step = sch_tile_cycles(m, t->mr, t->nv, false);
    double calls = (double)(c->vectors * c->tiles.size);
    double work =
        calls * ((double)taps * depth * step +
                 (double)phases * depth * (double)c->y.kernel / (double)c->y.phases * 0.7 +
                 (double)(phases * c->slices.count) * (1.5 * t->mr * t->nv + 20));
    /* Unpacked weights that push each other out of the first cache, or of whose lines a phase uses a part. */
    double touched = depth * t->mr * (weights * 4 < 64 ? weights / 16 : 1) * (double)phases;
    if (!c->packed && weights > 1) work += calls * touched * (fullest_set(c) > 6 ? 1.0 : phases > 1 ? 0.3 : 0.0);
    /* Weights come from the second cache while the whole set fits, else from memory, about a byte a
     * cycle: their rows are far apart. */
    double weight_bytes = 4 * rows * depth * weights,
           all_bytes = weight_bytes * (double)(c->groups * c->tiles.count);
    double fetch = all_bytes > 0.5 * m->l2 ? weight_bytes / (c->packed ? 4 : 1.3) : 0;
    work = work > fetch ? work : fetch;
    double line = (double)c->pitch * (double)c->x.step,
           wide = line >= 2 * t->lanes ? 4.0 / t->lanes : 2.5;
    double fill =
        depth * (double)(c->y.classes * lines) * (line * wide * (c->x.step > 1 ? 1.6 : 1) + 8);
    double out = rows * (double)(c->bands.size * c->x.grid * phases) *
                 (c->x.grid >= t->lanes ? 6.0 / t->lanes : 3.0);
    double scratch = 4 * ((double)phases * rows * (double)c->width +
                          (c->prefill ? 0 : depth / (double)c->slices.count * (double)c->channel)) +
                     weight_bytes / (double)c->slices.count;
    /* Measured over the models' layers: what is not counted here takes a third as much again; with phases two fifths. */
    work *= phases > 1 ? 1.4 : 1.3;
    double item = work * sch_crowding(&c->machine, scratch) + out + (c->prefill ? 0 : fill) + 100;
    c->cycles = item * sch_dealt(items) + 4000;
    if (c->packed && all_bytes > (double)c->keep) c->cycles += all_bytes / 4 * 2 + 4000;
    if (c->prefill) c->cycles += fill * (double)(c->batch * c->groups) + 4000;
}

static void try_blocks(SchConv *best, SchConv *c) {
    int64_t tiles = sch_ceil(c->rows_out, c->tile.mr);
    for (int64_t blocks = 1; blocks <= tiles; blocks = sch_next_count(blocks)) {
        c->tiles = sch_cut(tiles, sch_ceil(tiles, blocks));
        for (int64_t bands = 1; bands <= c->y.grid; bands = sch_next_count(bands)) {
            c->bands = sch_cut(c->y.grid, sch_ceil(c->y.grid, bands));
            for (int way = 0; way < 4; way++) {
                c->prefill = way & 1, c->packed = way & 2;
                /* Making the whole padded picture is for small ones: it must stay in the caches. */
                if (c->prefill && c->y.grid * c->x.grid > 2048) continue;
                derive(c);
                if (best->cycles < 0 || c->cycles < best->cycles) *best = *c;
            }
        }
    }
}

bool sch_conv_plan(SchConv *c, const KdLower *l) {
    KdValue node = c->node;
    if (sch_recall(l, node, "conv", c, sizeof *c)) {
        c->node = node;
        return c->cycles >= 0;
    }
    SchConv best = *c, trial = *c;
    best.cycles = -1;
    /* Register tiles that are nearly the best for this number of channels; the pixels decide among
     * them. */
    double least = 1e30;
    for (int pass = 0; pass < 2; pass++)
        for (int mr = 1; mr <= 14 && mr <= c->rows_out; mr++)
            for (int nv = 1; nv <= 8; nv++) {
                if (!sch_tile_fits(&c->machine, mr, nv)) continue;
                double waste = (double)(sch_ceil(c->rows_out, mr) * mr) / (double)c->rows_out;
                int64_t vectors = sch_ceil(c->y.grid * (c->x.grid + c->x.reach), c->machine.lanes);
                waste *= (double)(sch_ceil(vectors, nv) * nv) / (double)vectors;
                double cost = sch_tile_cycles(&c->machine, mr, nv, false) / (mr * nv) * waste;
                if (pass == 0) {
                    least = cost < least ? cost : least;
                } else if (cost <= 1.1 * least) {
                    trial.tile = (SchTile){mr, nv, c->machine.lanes, c->machine.fma};
                    try_blocks(&best, &trial);
                }
            }
    *c = best;
    if (c->cycles >= 0) spread(c);
    sch_remember(l, node, "conv", c, sizeof *c);
    return best.cycles >= 0;
}
