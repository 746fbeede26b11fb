/* frechet.c: the Frechet distance between Gaussians, as metrics.h says.
 *
 * Moments are sums of the rows' differences to the first row, so that a large common mean costs no digits. The trace of
 * (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of M = W^T C2 W with C1 = W W^T: M has the eigenvalues of
 * C1^(1/2) C2 C1^(1/2), and those of C1 C2 but for zeros. W is a pivoted Cholesky factor that ends where what is left is zero
 * to rounding: fewer rows than dims make a singular C1, and M then is only as large as its rank. Unlike a general matrix
 * root this needs no 1e-6 on the diagonals to stay finite.
 */
#include "runtime/host/metrics.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- moments ---------------------------------------------------------------------------------------- */

struct KdMoments {
    int dims;
    int64_t n;
    double *first, *d, *sum; /* [dims]: the first row, a row's difference to it, and their sum */
    double *product;         /* [dims][dims], the lower half: sum of d d^T */
};

KdMoments *kd_moments_new(int dims, KdTrouble *t) {
    if (dims < 1 || dims > 16384) {
        kd_trouble(t, false, "features have 1 to 16384 dimensions, not %d", dims);
        return NULL;
    }
    KdMoments *m = calloc(1, sizeof *m);
    size_t k = (size_t)dims;
    double *all = m ? calloc(k * (k + 3), sizeof *all) : NULL;
    if (!all) {
        free(m);
        kd_trouble(t, true, "out of memory for the moments of %d features", dims);
        return NULL;
    }
    *m = (KdMoments){.dims = dims, .first = all, .d = all + k, .sum = all + 2 * k, .product = all + 3 * k};
    return m;
}

void kd_moments_free(KdMoments *m) {
    if (m) {
        free(m->first);
        free(m);
    }
}

void kd_moments_add(KdMoments *m, const float *row) {
    int n = m->dims;
    for (int i = 0; i < n; i++) {
        if (m->n == 0) {
            m->first[i] = (double)row[i];
        }
        m->d[i] = (double)row[i] - m->first[i];
        m->sum[i] += m->d[i];
    }
    for (int i = 0; i < n; i++) {
        double *p = m->product + (size_t)i * (size_t)n, x = m->d[i];
        for (int j = 0; j <= i; j++) {
            p[j] += x * m->d[j];
        }
    }
    m->n++;
}

bool kd_moments_get(const KdMoments *m, double *mean, double *cov, KdTrouble *t) {
    if (m->n < 2) {
        return kd_trouble(t, false, "a covariance needs at least 2 pictures, found %d", (int)m->n);
    }
    size_t n = (size_t)m->dims;
    double rows = (double)m->n;
    for (size_t i = 0; i < n; i++) {
        mean[i] = m->first[i] + m->sum[i] / rows;
        for (size_t j = 0; j <= i; j++) {
            double v = (m->product[i * n + j] - m->sum[i] * m->sum[j] / rows) / (rows - 1);
            cov[i * n + j] = cov[j * n + i] = v;
        }
    }
    return true;
}

/* ---- matrices --------------------------------------------------------------------------------------- */

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* c[rows][cols] = a b, a[rows][inner], b[inner][cols]. A block of b stays in the cache while every row of a passes it. */
static void product(size_t rows, size_t inner, size_t cols, const double *a, const double *b, double *c) {
    const size_t deep = 64, wide = 256;
    memset(c, 0, rows * cols * sizeof *c);
    for (size_t k0 = 0; k0 < inner; k0 += deep) {
        size_t k1 = least(k0 + deep, inner);
        for (size_t j0 = 0; j0 < cols; j0 += wide) {
            size_t j1 = least(j0 + wide, cols);
            for (size_t i = 0; i < rows; i++) {
                double *y = c + i * cols;
                size_t k = k0;
                for (; k + 4 <= k1; k += 4) {
                    const double *x = a + i * inner + k, *b0 = b + k * cols, *b1 = b0 + cols, *b2 = b1 + cols,
                                 *b3 = b2 + cols;
                    for (size_t j = j0; j < j1; j++) {
                        y[j] += (x[0] * b0[j] + x[1] * b1[j]) + (x[2] * b2[j] + x[3] * b3[j]);
                    }
                }
                for (; k < k1; k++) {
                    for (size_t j = j0; j < j1; j++) {
                        y[j] += a[i * inner + k] * b[k * cols + j];
                    }
                }
            }
        }
    }
}

static void transpose(size_t rows, size_t cols, const double *a, double *out) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < cols; j++) {
            out[j * rows + i] = a[i * cols + j];
        }
    }
}

/* Of the symmetric a, which is lost. */
static bool eigenvalues(size_t n, double *a, double *value, KdTrouble *t) {
    int info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'N', 'L', (lapack_int)n, a, (lapack_int)n, value);
    if (info < 0) {
        return kd_trouble(t, true, "out of memory for the eigenvalues of %d x %d numbers", (int)n, (int)n);
    }
    return info == 0 || kd_trouble(t, false, "the eigenvalues of the covariance (%d x %d) were not found", (int)n, (int)n);
}

/* ---- the distance ----------------------------------------------------------------------------------- */

/* symmetric to rounding, all finite, diagonal not negative */
static bool covariance(size_t n, const double *mean, const double *c, const char *which, KdTrouble *t) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        bool fine = isfinite(mean[i]);
        for (size_t j = 0; j < n; j++) {
            fine = fine && isfinite(c[i * n + j]);
            largest = fmax(largest, fabs(c[i * n + j]));
        }
        if (!fine) {
            return kd_trouble(t, false, "the %s statistics hold NaN or infinity (row %d)", which, (int)i);
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++) {
            if (fabs(c[i * n + j] - c[j * n + i]) > 1e-6 * largest) {
                return kd_trouble(t, false, "the %s covariance is not symmetric: (%d, %d) is %.9g, (%d, %d) is %.9g",
                                  which, (int)i, (int)j, c[i * n + j], (int)j, (int)i, c[j * n + i]);
            }
        }
        if (c[i * n + i] < 0) {
            return kd_trouble(t, false, "the %s covariance has the negative variance %.9g (row %d)", which, c[i * n + i],
                              (int)i);
        }
    }
    return true;
}

/* a, symmetric, becomes W^T, [rank][n], with W W^T = a but for what is zero to rounding. false after *t. */
static bool factor(size_t n, double *a, double *work, lapack_int *pivot, size_t *rank, KdTrouble *t) {
    lapack_int r = 0;
    int info = LAPACKE_dpstrf(LAPACK_COL_MAJOR, 'L', (lapack_int)n, a, (lapack_int)n, pivot, &r, -1);
    if (info < 0) {
        return kd_trouble(t, true, "out of memory for the factors of %d x %d numbers", (int)n, (int)n);
    }
    *rank = (size_t)r; /* info 1: below n */
    memset(work, 0, *rank * n * sizeof *work);
    for (size_t k = 0; k < *rank; k++) { /* column k of L, its rows back in their places */
        for (size_t i = k; i < n; i++) {
            work[k * n + (size_t)pivot[i] - 1] = a[k * n + i];
        }
    }
    memcpy(a, work, *rank * n * sizeof *a);
    return true;
}

/* Tr (c1 c2)^(1/2). a, b, d: n * n numbers each; value, pivot: n. */
static bool root_trace(size_t n, const double *c1, const double *c2, double *a, double *b, double *d, double *value,
                       lapack_int *pivot, double *out, KdTrouble *t) {
    size_t rank = 0;
    memcpy(a, c1, n * n * sizeof *a);
    if (!factor(n, a, b, pivot, &rank, t)) {
        return false;
    }
    product(rank, n, n, a, c2, b);
    transpose(rank, n, a, d);
    product(rank, n, rank, b, d, a); /* the factor is not needed any more */
    *out = 0;
    if (rank && !eigenvalues(rank, a, value, t)) {
        return false;
    }
    for (size_t k = 0; k < rank; k++) {
        *out += value[k] > 0 ? sqrt(value[k]) : 0; /* below 0 by rounding only: M is positive semidefinite */
    }
    return true;
}

bool kd_frechet(int dims, const double *m1, const double *c1, const double *m2, const double *c2, double *out,
                KdTrouble *t) {
    if (dims < 1 || dims > 16384) {
        return kd_trouble(t, false, "features have 1 to 16384 dimensions, not %d", dims);
    }
    size_t n = (size_t)dims;
    if (!covariance(n, m1, c1, "first", t) || !covariance(n, m2, c2, "second", t)) {
        return false;
    }
    double *all = malloc((3 * n * n + n) * sizeof *all), root = 0, sum = 0;
    lapack_int *pivot = malloc(n * sizeof *pivot);
    if (!all || !pivot) {
        free(all);
        free(pivot);
        return kd_trouble(t, true, "out of memory for the Frechet distance of %d features", dims);
    }
    bool ok = root_trace(n, c1, c2, all, all + n * n, all + 2 * n * n, all + 3 * n * n, pivot, &root, t);
    free(all);
    free(pivot);
    for (size_t i = 0; i < n; i++) {
        double d = m1[i] - m2[i];
        sum += d * d + c1[i * n + i] + c2[i * n + i];
    }
    *out = sum - 2 * root;
    if (ok && !isfinite(*out)) {
        return kd_trouble(t, false, "the Frechet distance of these statistics is not finite: their numbers are too large");
    }
    return ok;
}
