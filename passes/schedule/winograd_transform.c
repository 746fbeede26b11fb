/* winograd_transform.c: the one-dimensional transforms of Winograd's minimal filtering. Stride 1: F(2, 3), F(4, 3) and F(2, 4),
 * with the points 0, 1, -1; 0, 1, -1, 2, -2; and 0, 1, -1, 2 (Lavin and Gray 2016; with points a_0 .. a_{n-2} row j
 * of A is the powers of a_j, row j of G the same over the product of a_j - a_l,
 * row j of B^T the coefficients of the product of x - a_l, l other than j; the last rows stand for infinity). Two
 * dimensions are one after the other.
 *
 *   y = A^T [(G g) * (B^T d)]      d: n = m + taps - 1 inputs, y: m outputs
 * and for the gradient of the taps, by the chain rule:
 *   dg = G^T [(A dy) * (B^T d)]
 *
 * Stride 2 is taken apart by parity, into convolutions of stride 1 with half of the taps: forward one for each class of inputs,
 * whose results are added; transposed one for each phase of outputs. Those with two taps are F(2, 2), points 0, 1:
 *   y0 = (d0 - d1) g0 + d1 (g0 + g1)      y1 = d1 (g0 + g1) - (d1 - d2) g1
 * three products for four; those with one tap have two for two. In two dimensions 4 taps need 36 products for 64, 3 taps 25 for
 * 36. Sums of integers stay exact.
 */
#include "passes/schedule/winograd.h"

#include <string.h>

/* y + c * x */
static KlValue madd(KlBuilder *b, const SchWinograd *w, KlValue y, double c, KlValue x) {
    if (c == 1) return kl_op2(b, KL_OP_ADD, y, x);
    if (c == -1) return kl_op2(b, KL_OP_SUB, y, x);
    KlValue k = kl_constant_like(b, x, c);
    return w->fma ? kl_fma(b, x, k, y) : kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, x, k), y);
}

static KlValue scaled(KlBuilder *b, double c, KlValue x) {
    return kl_op2(b, KL_OP_MUL, x, kl_constant_like(b, x, c));
}

/* ---- the transforms there are ------------------------------------------------------------ */

static SchWinograd begin(const SchMachine *machine, int m, int n, int64_t taps, int inputs, int step) {
    return (SchWinograd){.m = m, .n = n, .taps = (int)taps, .inputs = inputs, .step = step,
                         .fma = machine->fma, .lanes = machine->lanes};
}

bool sch_winograd(SchWinograd *w, const SchMachine *machine, int m, int64_t taps) {
    static const double b24[5][5] = {
        {2, -1, -2, 1, 0}, {0, -2, -1, 1, 0}, {0, 2, -3, 1, 0}, {0, -1, 0, 1, 0}, {0, 2, -1, -2, 1}};
    static const double g24[5][4] = {{1.0 / 2, 0, 0, 0},
                                     {-1.0 / 2, -1.0 / 2, -1.0 / 2, -1.0 / 2},
                                     {-1.0 / 6, 1.0 / 6, -1.0 / 6, 1.0 / 6},
                                     {1.0 / 6, 1.0 / 3, 2.0 / 3, 4.0 / 3},
                                     {0, 0, 0, 1}};
    static const double a24[5][2] = {{1, 0}, {1, 1}, {1, -1}, {1, 2}, {0, 1}};
    if (!((taps == 3 && (m == 2 || m == 4)) || (taps == 4 && m == 2))) return false;
    int n = m + (int)taps - 1;
    *w = begin(machine, m, n, taps, n, m);
    w->tabled = taps == 4;
    for (int j = 0; j < n && w->tabled; j++) {
        memcpy(w->b[j], b24[j], sizeof b24[j]);
        memcpy(w->g[j], g24[j], sizeof g24[j]);
        memcpy(w->a[j], a24[j], sizeof a24[j]);
    }
    return true;
}

/* Products for outputs y and y + 2 (or y + 1, `apart`) of one class or phase. Two taps: y0 = d0 g0 + d1 g1, y1 = d1 g0 + d2 g1,
 * inputs d, d + by, d + 2 by. One tap: y0 = d0 g0, y1 = d1 g0. */
static void add_products(SchWinograd *w, int d, int by, const int *tap, int taps, int y, int apart) {
    double(*b)[SCH_WINOGRAD_MOST] = w->b + w->n, (*g)[SCH_WINOGRAD_TAPS] = w->g + w->n, (*a)[SCH_WINOGRAD_TAPS] = w->a + w->n;
    if (taps == 1) {
        for (int k = 0; k < 2; k++)
            b[k][d + k * by] = g[k][tap[0]] = a[k][y + k * apart] = 1;
        w->n += 2;
        return;
    }
    b[0][d] = 1, b[0][d + by] = -1, g[0][tap[0]] = 1, a[0][y] = 1;
    b[1][d + by] = 1, g[1][tap[0]] = g[1][tap[1]] = 1, a[1][y] = a[1][y + apart] = 1;
    b[2][d + by] = 1, b[2][d + 2 * by] = -1, g[2][tap[1]] = 1, a[2][y + apart] = -1;
    w->n += 3;
}

bool sch_winograd_strided(SchWinograd *w, const SchMachine *machine, int64_t taps, bool transposed, int64_t pad, int64_t *origin) {
    if (taps != 3 && taps != 4) return false;
    if (!transposed) {
        *w = begin(machine, 2, 0, taps, 2 + (int)taps, 4);
        for (int c = 0; c < 2; c++)
            add_products(w, c, 2, (const int[2]){c, c + 2}, c + 2 < taps ? 2 : 1, 0, 1);
        *origin = -pad;
    } else {
        /* Output 4 t + j collects input 2 t + (j + pad - tap) / 2 for the taps of the parity of j + pad: the first tap's of outputs 0
         * and 1, and the one before if there are two. */
        int64_t last[2], first[2], count[2];
        for (int j = 0; j < 2; j++) {
            int64_t tap = (j + pad) % 2;
            last[j] = (j + pad - tap) / 2;
            count[j] = tap + 2 < taps ? 2 : 1;
            first[j] = last[j] - (count[j] - 1);
        }
        *origin = sch_min(first[0], first[1]);
        *w = begin(machine, 4, 0, taps, (int)(sch_max(last[0], last[1]) + 2 - *origin), 2);
        for (int j = 0; j < 2; j++) {
            int tap = (int)((j + pad) % 2);
            add_products(w, (int)(first[j] - *origin), 1, count[j] == 2 ? (const int[2]){tap + 2, tap} : (const int[2]){tap, 0},
                         (int)count[j], j, 2);
        }
    }
    w->tabled = true;
    return true;
}

/* ---- one dimension ----------------------------------------------------------------------- */

/* The sum of c[k * step] * x[k], without what is zero. */
static KlValue dot(KlBuilder *b, const SchWinograd *w, const double *c, int step, int n, const KlValue *x) {
    KlValue sum = KL_NONE;
    for (int k = 0; k < n; k++) {
        double f = c[k * step];
        if (f == 0) continue;
        if (sum != KL_NONE)
            sum = madd(b, w, sum, f, x[k]);
        else
            sum = f == 1 ? x[k] : scaled(b, f, x[k]);
    }
    return sum;
}

/* r = B^T d */
void sch_winograd_input(KlBuilder *b, const SchWinograd *w, const KlValue *d, KlValue *r) {
    for (int j = 0; j < w->n && w->tabled; j++)
        r[j] = dot(b, w, w->b[j], 1, w->inputs, d);
    if (w->tabled) return;
    if (w->m == 2) {
        r[0] = madd(b, w, d[0], -1, d[2]), r[1] = madd(b, w, d[1], 1, d[2]);
        r[2] = madd(b, w, d[2], -1, d[1]), r[3] = madd(b, w, d[1], -1, d[3]);
        return;
    }
    KlValue even = madd(b, w, d[4], -4, d[2]), odd = madd(b, w, d[3], -4, d[1]);
    KlValue outer = madd(b, w, d[4], -1, d[2]), inner = madd(b, w, d[3], -1, d[1]);
    r[0] = madd(b, w, madd(b, w, d[4], -5, d[2]), 4, d[0]);
    r[1] = madd(b, w, even, 1, odd), r[2] = madd(b, w, even, -1, odd);
    r[3] = madd(b, w, outer, 2, inner), r[4] = madd(b, w, outer, -2, inner);
    r[5] = madd(b, w, madd(b, w, d[5], -5, d[3]), 4, d[1]);
}

/* u = G g */
void sch_winograd_weights(KlBuilder *b, const SchWinograd *w, const KlValue *g, KlValue *u) {
    for (int j = 0; j < w->n && w->tabled; j++)
        u[j] = dot(b, w, w->g[j], 1, w->taps, g);
    if (w->tabled) return;
    KlValue sum = madd(b, w, g[0], 1, g[2]);
    if (w->m == 2) {
        KlValue half = scaled(b, 0.5, sum);
        u[0] = g[0], u[3] = g[2];
        u[1] = madd(b, w, half, 0.5, g[1]), u[2] = madd(b, w, half, -0.5, g[1]);
        return;
    }
    KlValue sixth = scaled(b, -1.0 / 6, sum);
    KlValue far = madd(b, w, scaled(b, 1.0 / 24, g[0]), 1.0 / 6, g[2]);
    u[0] = scaled(b, 0.25, g[0]), u[5] = g[2];
    u[1] = madd(b, w, sixth, -1.0 / 6, g[1]), u[2] = madd(b, w, sixth, 1.0 / 6, g[1]);
    u[3] = madd(b, w, far, 1.0 / 12, g[1]), u[4] = madd(b, w, far, -1.0 / 12, g[1]);
}

/* y = A^T p */
void sch_winograd_output(KlBuilder *b, const SchWinograd *w, const KlValue *p, KlValue *y) {
    for (int i = 0; i < w->m && w->tabled; i++)
        y[i] = dot(b, w, &w->a[0][i], SCH_WINOGRAD_TAPS, w->n, p);
    if (w->tabled) return;
    KlValue sum = madd(b, w, p[1], 1, p[2]), difference = madd(b, w, p[1], -1, p[2]);
    if (w->m == 2) {
        y[0] = madd(b, w, p[0], 1, sum), y[1] = madd(b, w, difference, -1, p[3]);
        return;
    }
    KlValue sum2 = madd(b, w, p[3], 1, p[4]), difference2 = madd(b, w, p[3], -1, p[4]);
    y[0] = madd(b, w, madd(b, w, p[0], 1, sum), 1, sum2);
    y[1] = madd(b, w, difference, 2, difference2);
    y[2] = madd(b, w, sum, 4, sum2);
    y[3] = madd(b, w, madd(b, w, difference, 8, difference2), 1, p[5]);
}

/* r = A dy */
void sch_winograd_gradient(KlBuilder *b, const SchWinograd *w, const KlValue *y, KlValue *r) {
    for (int j = 0; j < w->n && w->tabled; j++)
        r[j] = dot(b, w, w->a[j], 1, w->m, y);
    if (w->tabled) return;
    r[0] = y[0];
    if (w->m == 2) {
        r[1] = madd(b, w, y[0], 1, y[1]), r[2] = madd(b, w, y[0], -1, y[1]);
        r[3] = scaled(b, -1, y[1]);
        return;
    }
    KlValue even = madd(b, w, y[0], 1, y[2]), odd = madd(b, w, y[1], 1, y[3]);
    KlValue even2 = madd(b, w, y[0], 4, y[2]), odd2 = madd(b, w, y[1], 4, y[3]);
    r[1] = madd(b, w, even, 1, odd), r[2] = madd(b, w, even, -1, odd);
    r[3] = madd(b, w, even2, 2, odd2), r[4] = madd(b, w, even2, -2, odd2);
    r[5] = y[3];
}

/* g = G^T u */
void sch_winograd_taps(KlBuilder *b, const SchWinograd *w, const KlValue *u, KlValue *g) {
    for (int i = 0; i < w->taps && w->tabled; i++)
        g[i] = dot(b, w, &w->g[0][i], SCH_WINOGRAD_TAPS, w->n, u);
    if (w->tabled) return;
    KlValue sum = madd(b, w, u[1], 1, u[2]);
    if (w->m == 2) {
        g[0] = madd(b, w, u[0], 0.5, sum), g[2] = madd(b, w, u[3], 0.5, sum);
        g[1] = scaled(b, 0.5, madd(b, w, u[1], -1, u[2]));
        return;
    }
    KlValue sum2 = madd(b, w, u[3], 1, u[4]), sixth = scaled(b, -1.0 / 6, sum);
    g[0] = madd(b, w, madd(b, w, sixth, 0.25, u[0]), 1.0 / 24, sum2);
    g[1] = madd(b, w, scaled(b, 1.0 / 6, madd(b, w, u[2], -1, u[1])), 1.0 / 12, madd(b, w, u[3], -1, u[4]));
    g[2] = madd(b, w, madd(b, w, sixth, 1.0 / 6, sum2), 1, u[5]);
}

/* ---- lines of pictures ------------------------------------------------------------------- */

/* d[j] = elements m * t + j of the line buffer for j in 0 .. n, t running over the lanes; m is 2 or 4. */
static void split(KlBuilder *b, const SchWinograd *w, int m, int n, int line, KlValue at, KlValue *d) {
    int lanes = w->lanes, pick[64], join[64], next[64];
    KlValue v[SCH_WINOGRAD_MOST];
    for (int k = 0; k <= m; k++)
        v[k] = kl_load(b, line, sch_addc(b, at, (int64_t)k * lanes), lanes);
    for (int j = 0; j < m; j++) {
        if (m == 2) {
            for (int i = 0; i < lanes; i++)
                pick[i] = 2 * i + j;
            d[j] = kl_shuffle(b, v[0], v[1], lanes, pick);
            continue;
        }
        for (int i = 0; i < lanes; i++) {
            pick[i] = (4 * i + j) % (2 * lanes);
            join[i] = i < lanes / 2 ? i : lanes / 2 + i;
        }
        KlValue lo = kl_shuffle(b, v[0], v[1], lanes, pick);
        KlValue hi = kl_shuffle(b, v[2], v[3], lanes, pick);
        d[j] = kl_shuffle(b, lo, hi, lanes, join);
    }
    for (int e = m; e < n; e++) { /* what belongs to the next tiles, too; the last lanes' are in the last vector */
        for (int i = 0; i < lanes; i++) {
            int tile = i + e / m;
            next[i] = tile < lanes ? tile : lanes + m * (tile - lanes) + e % m;
        }
        d[e] = kl_shuffle(b, d[e % m], v[m], lanes, next);
    }
}

void sch_winograd_line(KdLower *l, const SchWinograd *w, const SchWinogradLine *line, int buffer, KlValue to,
                       int64_t plane) {
    KlBuilder *b = &l->b;
    int lanes = w->lanes, held = line->gradient ? w->m : w->inputs, step = line->gradient ? w->m : w->step;
    SchGuard guard = sch_guard_begin(b, line->place[2], line->height);
    sch_fill_line(l, line->source, line->place, line->origin, line->across * step + lanes, line->buffer, kl_i64(b, 0));
    KlValue d[SCH_WINOGRAD_MOST] = {0}, t[SCH_WINOGRAD_MOST] = {0};
    for (int pass = 0; pass < 2; pass++) { /* apart, because both need many registers */
        KlFor v = sch_loop(b, kl_i64(b, 0), kl_i64(b, line->across), lanes);
        KlValue at = sch_add(b, to, v.i);
        if (pass == 0) split(b, w, step, held, line->buffer, sch_mulc(b, v.i, step), d);
        for (int j = 0; j < held && pass == 1; j++)
            d[j] = kl_load(b, buffer, sch_addc(b, at, j * plane), lanes);
        if (pass == 1) (line->gradient ? sch_winograd_gradient : sch_winograd_input)(b, w, d, t);
        for (int j = 0; j < (pass == 0 ? held : w->n); j++)
            kl_store(b, buffer, sch_addc(b, at, j * plane), pass == 0 ? d[j] : t[j]);
        sch_loop_end(b, &v);
    }
    if (sch_guard_else(b, &guard)) {
        KlFor j = sch_loop_n(b, w->n);
        sch_zero(b, buffer, sch_madc(b, j.i, plane, to), line->across, lanes);
        sch_loop_end(b, &j);
        sch_guard_end(b, &guard);
    }
}
