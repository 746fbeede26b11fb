/* metrics.h: distances between pictures and between sets of them. All sums in double, in a fixed order. */
#ifndef KD_HOST_METRICS_H
#define KD_HOST_METRICS_H

#include "runtime/host/image.h"

/* Two RGB8 or gray images of one size (else false and *t). */
bool kd_metric_l1(const KdImage *a, const KdImage *b, double *out, KdTrouble *t);   /* mean |a - b|, on 0..255 */
bool kd_metric_psnr(const KdImage *a, const KdImage *b, double *out, KdTrouble *t); /* 10 log10(255^2 / mse), inf when equal */
/* Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03, L 255, population covariances, windows that lie
 * inside; the mean over channels. Images below 11 x 11 are refused. (skimage: gaussian_weights, use_sample_covariance off) */
bool kd_metric_ssim(const KdImage *a, const KdImage *b, double *out, KdTrouble *t);

/* Frechet distance between Gaussians: mean and covariance (n - 1) of feature rows, added one at a time. */
typedef struct KdMoments KdMoments;
KdMoments *kd_moments_new(int dims, KdTrouble *t);
void kd_moments_add(KdMoments *m, const float *row);
void kd_moments_free(KdMoments *m);
/* mean[dims], cov[dims * dims]; needs at least two rows. */
bool kd_moments_get(const KdMoments *m, double *mean, double *cov, KdTrouble *t);
/* |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017), by symmetric eigenvalues (LAPACK dpstrf, dsyevd). Singular
 * covariances are fine. NaN, infinity, and what is no covariance are refused. */
bool kd_frechet(int dims, const double *m1, const double *c1, const double *m2, const double *c2, double *out, KdTrouble *t);

/* Confusion counts of label maps; ignore: a label that does not count, or -1. */
typedef struct KdConfusion {
    int classes, ignore;
    int64_t *count; /* [truth][prediction] */
} KdConfusion;
bool kd_confusion_init(KdConfusion *c, int classes, int ignore, KdTrouble *t);
bool kd_confusion_add(KdConfusion *c, const KdImage *truth, const KdImage *prediction, KdTrouble *t);
void kd_confusion_free(KdConfusion *c);
/* Pixel accuracy, mean accuracy of the classes that occur in the truth, mean intersection over union of those that occur in
 * truth or prediction. 0..1; NaN when nothing was counted. */
void kd_confusion_scores(const KdConfusion *c, double *pixel, double *per_class, double *miou);

/* uint8 RGB (gray: repeated) -> [3, size, size] f32 in [-1, 1], bilinear (align_corners off, no anti-aliasing): Inception's
 * input. */
void kd_fid_input(const KdImage *x, int size, float *out);

#endif
