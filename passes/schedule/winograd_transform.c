/* winograd_transform.c: the one-dimensional transforms of Winograd's minimal filtering: F(2, 3), F(4, 3) and F(2, 4),
 * with the points 0, 1, -1; 0, 1, -1, 2, -2; and 0, 1, -1, 2 (Lavin and Gray 2016; with points a_0 .. a_{n-2} row j
 * of A is the powers of a_j, row j of G the same over the product of a_j - a_l,
 * row j of B^T the coefficients of the product of x - a_l, l other than j; the last rows stand for infinity). Two
 * dimensions are one after the other.
 *
 *   y = A^T [(G g) * (B^T d)]      d: n = m + taps - 1 inputs, y: m outputs
 * and for the gradient of the taps, by the chain rule:
 *   dg = G^T [(A dy) * (B^T d)]
 */
#include "passes/schedule/winograd.h"

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

/* F(2, 4): rows of B^T, of G, and of A. */
static const double b24[5][5] = {
    {2, -1, -2, 1, 0}, {0, -2, -1, 1, 0}, {0, 2, -3, 1, 0}, {0, -1, 0, 1, 0}, {0, 2, -1, -2, 1}};
static const double g24[5][4] = {{1.0 / 2, 0, 0, 0},
                                 {-1.0 / 2, -1.0 / 2, -1.0 / 2, -1.0 / 2},
                                 {-1.0 / 6, 1.0 / 6, -1.0 / 6, 1.0 / 6},
                                 {1.0 / 6, 1.0 / 3, 2.0 / 3, 4.0 / 3},
                                 {0, 0, 0, 1}};
static const double a24[5][2] = {{1, 0}, {1, 1}, {1, -1}, {1, 2}, {0, 1}};

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
    for (int j = 0; j < w->n && w->taps == 4; j++)
        r[j] = dot(b, w, b24[j], 1, w->n, d);
    if (w->taps == 4) return;
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
    for (int j = 0; j < w->n && w->taps == 4; j++)
        u[j] = dot(b, w, g24[j], 1, w->taps, g);
    if (w->taps == 4) return;
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
    for (int i = 0; i < w->m && w->taps == 4; i++)
        y[i] = dot(b, w, &a24[0][i], 2, w->n, p);
    if (w->taps == 4) return;
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
    for (int j = 0; j < w->n && w->taps == 4; j++)
        r[j] = dot(b, w, a24[j], 1, w->m, y);
    if (w->taps == 4) return;
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
    for (int i = 0; i < w->taps && w->taps == 4; i++)
        g[i] = dot(b, w, &g24[0][i], 4, w->n, u);
    if (w->taps == 4) return;
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

/* d[j] = elements m * t + j of the line buffer, t running over the lanes. */
static void split(KlBuilder *b, const SchWinograd *w, int line, KlValue at, KlValue *d) {
    int lanes = w->lanes, m = w->m, pick[64], join[64], next[64];
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
    for (int e = m; e < w->n; e++) { /* what belongs to the next tiles, too; the last lanes' are in the last vector */
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
    int lanes = w->lanes, held = line->gradient ? w->m : w->n;
    SchGuard guard = sch_guard_begin(b, line->place[2], line->height);
    sch_fill_line(l, line->source, line->place, line->origin, line->across * w->m + lanes, line->buffer, kl_i64(b, 0));
    KlValue d[SCH_WINOGRAD_MOST] = {0}, t[SCH_WINOGRAD_MOST] = {0};
    for (int pass = 0; pass < 2; pass++) { /* apart, because both need many registers */
        KlFor v = sch_loop(b, kl_i64(b, 0), kl_i64(b, line->across), lanes);
        KlValue at = sch_add(b, to, v.i);
        if (pass == 0) split(b, w, line->buffer, sch_mulc(b, v.i, w->m), d);
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
