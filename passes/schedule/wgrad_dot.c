/* wgrad_dot.c: conv2d_wgrad where a group has few channels, above all depthwise.
 *
 * Pixels are lanes: for a pair of channels, each tap of the kernel has one vector of sums; the
 * gradient's vector is multiplied by the picture's as each tap sees it, for several rows at once, so
 * that a vector of the picture is loaded once. Both operands go into scratch band by band: the
 * picture padded and by class as in conv.c, the gradient with zeros up to whole vectors and whole
 * sets of rows, so that what is read beyond counts nothing (where nothing is beyond, it is read as
 * it lies). The sums are folded across lanes at the very end. An item of the parallel range is one
 * group.
 */
#include "passes/schedule/depthwise.h"
#include "passes/schedule/wgrad.h"

enum { MOST_SUMS = SCH_MOST_TAPS };

typedef struct Dot {
    SchWgrad w;
    SchConv conv;    /* the forward convolution, for the picture's layout */
    SchCut bands;    /* output rows */
    int rows;        /* that are summed together; bands are whole sets of them */
    bool direct;     /* the gradient is read where it is */
    int64_t row;     /* a gradient row in scratch, whole vectors */
    int64_t lines;   /* picture lines of a band */
    int64_t at_once; /* kernel rows whose sums are in registers together */
} Dot;

static bool plan(Dot *d, const KdLower *l, KdValue root) {
    *d = (Dot){.bands = {0}};
    if (!sch_wgrad_shape(&d->w, l, root)) return false;
    const SchWgrad *w = &d->w;
    SchConv *c = &d->conv;
    int lanes = w->machine.lanes;
    c->node = root;
    c->machine = w->machine;
    c->tile.lanes = lanes;
    for (int k = 0; k < 2; k++) {
        const SchSpan *s = k ? &w->x : &w->y;
        SchDim *dim = k ? &c->x : &c->y;
        *dim = (SchDim){.in = s->in,
                        .out = s->out,
                        .kernel = s->kernel,
                        .stride = s->stride,
                        .dilation = s->dilation,
                        .pad = s->pad};
        sch_dim_forward(dim);
    }
    int64_t sums = w->machine.registers - 3 < MOST_SUMS ? w->machine.registers - 3 : MOST_SUMS;
    if (w->x.kernel > sums || w->outputs * w->inputs > 64) return false;
    d->at_once = w->y.kernel * w->x.kernel <= sums ? w->y.kernel : 1;
    d->row = sch_ceil(w->x.out, lanes) * lanes;
    c->pitch = c->x.grid + c->x.reach;
    int64_t line = c->pitch * c->y.classes * c->x.classes;
    int64_t rows = (int64_t)(0.6 * w->machine.l1 / 4) / (line + d->row) - c->y.reach;
    /* Sums, a vector of each gradient row, one of the picture. */
    int64_t room = w->machine.registers - 2 - d->at_once * w->x.kernel;
    d->rows = (int)sch_min(SCH_MOST_ROWS, sch_min(w->y.out, sch_max(1, room)));
    d->bands = sch_cut(w->y.out, sch_max(rows, sch_min(w->y.out, 2)));
    d->bands.size = sch_ceil(d->bands.size, d->rows) * d->rows;
    d->bands.count = sch_ceil(w->y.out, d->bands.size);
    d->direct = sch_is_stored(l, root, 1) && w->x.out % lanes == 0 && w->y.out % d->rows == 0;
    d->lines = d->bands.size + c->y.reach;
    c->plane = d->lines * c->pitch;
    c->channel = c->plane * c->y.classes * c->x.classes;
    return true;
}

typedef struct Buffers {
    int picture, gradient, line, sums;
} Buffers;

static void fill_band(KdLower *l, const Dot *d, const Buffers *f, KlValue group, KlValue image,
                      KlValue first, KlValue rows) {
    KlBuilder *b = &l->b;
    const SchWgrad *w = &d->w;
    KlFor i = sch_loop_n(b, w->inputs);
    sch_conv_fill(l, &d->conv, f->line, image, sch_madc(b, group, w->inputs, i.i), first, d->lines,
                  f->picture, sch_mulc(b, i.i, d->conv.channel));
    sch_loop_end(b, &i);
    if (d->direct) return;
    SchSource s = {.element = sch_picture_element,
                   .node = w->node,
                   .operand = 1,
                   .width = w->x.out,
                   .border = sch_border(l, w->node, 1, 3)};
    KlFor o = sch_loop_n(b, w->outputs), r = sch_loop(b, kl_i64(b, 0), rows, 1);
    KlValue line[3] = {image, sch_madc(b, group, w->outputs, o.i), sch_add(b, first, r.i)};
    sch_fill_line(l, &s, line, 0, d->row, f->gradient,
                  sch_mulc(b, sch_madc(b, o.i, d->bands.size, r.i), d->row));
    sch_loop_end(b, &r);
    if (w->y.out % d->rows) {
        KlFor z = sch_loop(b, rows, kl_i64(b, d->bands.size), 1);
        sch_zero(b, f->gradient, sch_mulc(b, sch_madc(b, o.i, d->bands.size, z.i), d->row), d->row,
                 w->machine.lanes);
        sch_loop_end(b, &z);
    }
    sch_loop_end(b, &o);
}

/* acc[tap] += gradient * picture, for the rows of a set; at_once kernel rows from a0 on. */
static void some_rows(KlBuilder *b, const Dot *d, const Buffers *f, int64_t a0, KlValue picture,
                      KlValue gradient, KlValue *acc) {
    const SchWgrad *w = &d->w;
    int lanes = w->machine.lanes, n = (int)(d->at_once * w->x.kernel);
    int64_t at[SCH_MOST_PLACES];
    int places = sch_places(&d->conv, d->rows, a0, d->at_once, at);
    KlValue g[SCH_MOST_ROWS];
    for (int r = 0; r < d->rows; r++)
        g[r] = kl_load(b, f->gradient, sch_addc(b, gradient, r * d->row), lanes);
    for (int p = 0; p < places; p++) {
        KlValue x = kl_load(b, f->picture, sch_addc(b, picture, at[p]), lanes);
        for (int r = 0; r < d->rows; r++)
            for (int k = 0; k < n; k++) {
                int64_t tap = sch_tap_at(&d->conv, a0 + k / w->x.kernel, k % w->x.kernel);
                if (r * d->conv.pitch + tap != at[p]) continue;
                acc[k] = w->machine.fma
                             ? kl_fma(b, g[r], x, acc[k])
                             : kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, g[r], x), acc[k]);
            }
    }
}

/* Sums of kernel rows a0 .. a0 + at_once of one pair of channels over a band. */
static void sum_taps(KlBuilder *b, const Dot *d, const Buffers *f, int64_t a0, KlValue picture,
                     KlValue gradient, KlValue rows, KlValue at) {
    const SchWgrad *w = &d->w;
    int lanes = w->machine.lanes, n = (int)(d->at_once * w->x.kernel);
    KlValue acc[MOST_SUMS], next[MOST_SUMS], inner[MOST_SUMS];
    at = sch_addc(b, at, a0 * w->x.kernel * lanes);
    for (int k = 0; k < n; k++)
        acc[k] = kl_load(b, f->sums, sch_addc(b, at, (int64_t)k * lanes), lanes);
    KlFor p = kl_for_begin(b, kl_i64(b, 0), rows, d->rows, n, acc);
    for (int k = 0; k < n; k++)
        next[k] = p.carried[k];
    KlFor q = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, d->row), lanes, n, next);
    for (int k = 0; k < n; k++)
        inner[k] = q.carried[k];
    some_rows(b, d, f, a0, sch_add(b, sch_madc(b, p.i, d->conv.pitch, picture), q.i),
              sch_add(b, sch_madc(b, p.i, d->row, gradient), q.i), inner);
    kl_for_end(b, &q, inner, next);
    kl_for_end(b, &p, next, acc);
    for (int k = 0; k < n; k++)
        kl_store(b, f->sums, sch_addc(b, at, (int64_t)k * lanes), acc[k]);
}

static void finish(KdLower *l, const Dot *d, const Buffers *f, KlValue group) {
    KlBuilder *b = &l->b;
    const SchWgrad *w = &d->w;
    int lanes = w->machine.lanes;
    KlFor o = sch_loop_n(b, w->outputs), i = sch_loop_n(b, w->inputs),
          t = sch_loop_n(b, w->y.kernel * w->x.kernel);
    KlValue which = sch_madc(b, sch_madc(b, o.i, w->inputs, i.i), w->y.kernel * w->x.kernel, t.i);
    KlValue sum = kl_reduce(b, KL_OP_ADD, kl_load(b, f->sums, sch_mulc(b, which, lanes), lanes));
    KlValue ky = t.i, kx = sch_split(b, &ky, w->x.kernel);
    KlValue idx[4] = {sch_madc(b, group, w->outputs, o.i), i.i, ky, kx};
    kd_lower_finish(l, sum, idx);
    sch_loop_end(b, &t);
    sch_loop_end(b, &i);
    sch_loop_end(b, &o);
}

double cost_wgrad_dot(const KdLower *l, const KdGroup *g) {
    Dot d;
    if (!plan(&d, l, g->root)) return -1;
    const SchWgrad *w = &d.w;
    double taps = (double)(w->y.kernel * w->x.kernel), passes = (double)(w->y.kernel / d.at_once);
    double vectors = (double)(d.bands.size * d.row / w->machine.lanes),
           pairs = (double)(w->outputs * w->inputs);
    double bands = (double)(w->batch * d.bands.count);
    double fill = (double)(w->inputs * d.conv.channel +
                           (d.direct ? 0 : w->outputs * d.bands.size * d.row)) * 0.35;
    double each = d.rows > 2 ? 0.7 : 1.1;
    double item =
        bands * (pairs * (vectors * (taps * each + passes) + taps * 3) + fill) + pairs * taps * 15;
    return (item * sch_dealt((double)w->groups) + 4000) / SCH_HERTZ;
}

void build_wgrad_dot(KdLower *l, const KdGroup *g) {
    Dot d;
    plan(&d, l, g->root);
    const SchWgrad *w = &d.w;
    const KdType *t = kd_vtype(l->fu->f, g->root);
    int lanes = w->machine.lanes;
    int64_t taps = w->y.kernel * w->x.kernel, sums = w->outputs * w->inputs * taps * lanes;
    kd_lower_begin(l, kd_format(l->cx, "conv2d_wgrad %s", kd_shape_text(l->cx, t)), w->groups);
    KlBuilder *b = &l->b;
    Buffers f = {.line = sch_conv_line_buffer(l, &d.conv)};
    /* Vectors read past the last line by less than one vector and the kernel's reach. */
    int64_t picture = w->inputs * d.conv.channel, over = lanes + d.conv.x.reach;
    f.picture = kl_buf(l->k, "picture", KL_F32, picture + over, KL_SCRATCH);
    f.gradient = d.direct ? kd_lower_buffer(l, kd_node(l->fu->f, g->root)->in[1])
                          : kl_buf(l->k, "gradient", KL_F32,
                                   w->outputs * d.bands.size * d.row, KL_SCRATCH);
    f.sums = kl_buf(l->k, "sums", KL_F32, sums, KL_SCRATCH);
    sch_zero(b, f.picture, kl_i64(b, picture), over, lanes);
    sch_zero(b, f.sums, kl_i64(b, 0), sums, lanes);
    KlValue group = kl_parallel_index(l->k);
    KlFor n = sch_loop_n(b, w->batch), band = sch_loop_n(b, d.bands.count);
    KlValue rows = sch_cut_length(b, &d.bands, band.i);
    fill_band(l, &d, &f, group, n.i, sch_mulc(b, band.i, d.bands.size), rows);
    KlFor o = sch_loop_n(b, w->outputs), i = sch_loop_n(b, w->inputs);
    KlValue at = sch_mulc(b, sch_madc(b, o.i, w->inputs, i.i), taps * lanes);
    KlValue gradient = sch_mulc(b, o.i, d.bands.size * d.row);
    if (d.direct) {
        KlValue channel = sch_madc(b, sch_madc(b, n.i, w->groups, group), w->outputs, o.i);
        gradient = sch_madc(b, channel, w->y.out, sch_mulc(b, band.i, d.bands.size));
        gradient = sch_mulc(b, gradient, d.row);
    }
    for (int64_t a = 0; a < w->y.kernel; a += d.at_once)
        sum_taps(b, &d, &f, a, sch_mulc(b, i.i, d.conv.channel), gradient, rows, at);
    sch_loop_end(b, &i);
    sch_loop_end(b, &o);
    sch_loop_end(b, &band);
    sch_loop_end(b, &n);
    finish(l, &d, &f, group);
    l->k->flops = 2 * sch_macs(l, g->root);
    l->k->bytes = 4.0 * (double)(sch_operand_type(l, g->root, 0)->count +
                                 sch_operand_type(l, g->root, 1)->count + t->count);
    kd_lower_end(l);
}

void explain_wgrad_dot(KdStr *s, const KdLower *l, const KdGroup *g) {
    Dot d;
    if (!plan(&d, l, g->root)) return;
    kd_str_printf(s, "%lld x %lld sums, each a vector of %d pixels", (long long)d.at_once,
                  (long long)d.w.x.kernel, d.w.machine.lanes);
    sch_explain_cut(s, &d.bands, "bands", 1, "rows");
}
