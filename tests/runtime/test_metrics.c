/* test_metrics.c: L1, PSNR, SSIM, confusion scores, moments, the Frechet distance and Inception's input against what numpy
 * and PyTorch say (tests/golden/make_metrics.py), identities, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/metrics.h"
#include "tests/golden/golden.h"

#include <float.h>

static int set_up(void **state) {
    *state = golden_read("metrics/metrics.safetensors");
    return *state ? 0 : -1;
}

static int tear_down(void **state) {
    kd_weights_free(*state);
    return 0;
}

/* The names NAME of "GROUP.NAME.values", one after the other: i is where to go on. NULL: no more. */
static const char *next_case(const KdWeights *w, const char *group, int *i, char *name, size_t n) {
    for (; *i < w->n; ++*i) {
        const char *full = w->tensor[*i].name, *last = strrchr(full, '.');
        if (strncmp(full, group, strlen(group)) == 0 &&
            (strcmp(last, ".values") == 0 || strcmp(last, ".input") == 0)) {
            snprintf(name, n, "%.*s", (int)(last - full), full);
            ++*i;
            return name;
        }
    }
    return NULL;
}

static const KdTensor *part(const KdWeights *w, const char *name, const char *what) {
    const KdTensor *x = golden_find(w, name, what, NULL);
    assert_non_null(x);
    return x;
}

static KdImage picture(const KdTensor *x) {
    KdImage i = {(int)x->dim[1], (int)x->dim[0], (int)x->dim[2], 8, malloc((size_t)x->count)};
    assert_non_null(i.samples);
    memcpy(i.samples, x->data, (size_t)x->count);
    return i;
}

static KdImage label_map(const KdTensor *x, int bits) {
    KdImage i = {(int)x->dim[1], (int)x->dim[0], 1, bits, malloc((size_t)x->count * 2)};
    assert_non_null(i.samples);
    for (int64_t k = 0; k < x->count; k++) {
        int v = (int)golden_at(x, k);
        if (bits == 8) {
            ((uint8_t *)i.samples)[k] = (uint8_t)v;
        } else {
            ((uint16_t *)i.samples)[k] = (uint16_t)v;
        }
    }
    return i;
}

static void near(const char *name, const char *what, double got, double want, double relative) {
    if (got == want || fabs(got - want) <= relative * fabs(want)) {
        return;
    }
    fail_msg("%s: %s is %.17g, expected %.17g", name, what, got, want);
}

/* ---- pictures --------------------------------------------------------------------------------------- */

static void pictures_agree(void **state) {
    const KdWeights *w = *state;
    char name[128];
    KdTrouble t;
    int cases = 0;
    for (int i = 0; next_case(w, "pair.", &i, name, sizeof name); cases++) {
        KdImage a = picture(part(w, name, "a")), b = picture(part(w, name, "b"));
        const KdTensor *v = part(w, name, "values");
        double l1, psnr, ssim, back;
        assert_true(kd_metric_l1(&a, &b, &l1, &t));
        assert_true(kd_metric_psnr(&a, &b, &psnr, &t));
        near(name, "L1", l1, golden_at(v, 0), 1e-9);
        near(name, "PSNR", psnr, golden_at(v, 1), 1e-9);
        if (isnan(golden_at(v, 2))) {
            assert_false(kd_metric_ssim(&a, &b, &ssim, &t));
            assert_false(t.machine);
            assert_non_null(strstr(t.text, "at least 11 x 11, found 40 x 10"));
        } else {
            assert_true(kd_metric_ssim(&a, &b, &ssim, &t));
            assert_true(kd_metric_ssim(&b, &a, &back, &t));
            near(name, "SSIM", ssim, golden_at(v, 2), 1e-6);
            near(name, "SSIM the other way", back, ssim, 1e-12);
        }
        free(a.samples);
        free(b.samples);
    }
    assert_int_equal(cases, 10);
}

static void equal_pictures(void **state) {
    (void)state;
    uint8_t x[15 * 13 * 3];
    KdImage a = {15, 13, 3, 8, x};
    KdTrouble t;
    double v;
    for (int i = 0; i < (int)sizeof x; i++) {
        x[i] = (uint8_t)(i * 37);
    }
    assert_true(kd_metric_l1(&a, &a, &v, &t));
    assert_true(v == 0);
    assert_true(kd_metric_psnr(&a, &a, &v, &t));
    assert_true(isinf(v) && v > 0);
    assert_true(kd_metric_ssim(&a, &a, &v, &t));
    near("equal", "SSIM", v, 1, 1e-12);
}

static void other_pictures_are_refused(void **state) {
    (void)state;
    uint8_t x[24 * 20 * 3 * 2] = {0};
    const KdImage a = {24, 20, 3, 8, x};
    const KdImage others[] = {{23, 20, 3, 8, x}, {24, 19, 3, 8, x}, {24, 20, 1, 8, x}, {24, 20, 3, 16, x}};
    const char *says[] = {"24 x 20 with 3 channels and 23 x 20 with 3", "and 24 x 19", "20 with 1", "8 and 16"};
    for (int i = 0; i < 4; i++) {
        KdTrouble t;
        double v;
        assert_false(kd_metric_l1(&a, &others[i], &v, &t));
        assert_non_null(strstr(t.text, says[i]));
        assert_false(kd_metric_psnr(&a, &others[i], &v, &t));
        assert_non_null(strstr(t.text, says[i]));
        assert_false(kd_metric_ssim(&a, &others[i], &v, &t));
        assert_non_null(strstr(t.text, says[i]));
        assert_false(t.machine);
    }
}

/* ---- label maps ------------------------------------------------------------------------------------- */

static void labels_agree(void **state) {
    const KdWeights *w = *state;
    char name[128];
    KdTrouble t;
    int cases = 0;
    for (int i = 0; next_case(w, "labels.", &i, name, sizeof name); cases++) {
        const KdTensor *v = part(w, name, "values");
        int classes = (int)golden_at(v, 0), bits = classes > 256 ? 16 : 8;
        KdImage truth = label_map(part(w, name, "truth"), bits), pred = label_map(part(w, name, "pred"), bits);
        KdConfusion c;
        double pixel, per_class, miou;
        assert_true(kd_confusion_init(&c, classes, (int)golden_at(v, 1), &t));
        assert_true(kd_confusion_add(&c, &truth, &pred, &t));
        kd_confusion_scores(&c, &pixel, &per_class, &miou);
        near(name, "pixel accuracy", pixel, golden_at(v, 2), 1e-12);
        near(name, "class accuracy", per_class, golden_at(v, 3), 1e-12);
        near(name, "mIoU", miou, golden_at(v, 4), 1e-12);
        kd_confusion_free(&c);
        assert_true(kd_confusion_init(&c, classes, (int)golden_at(v, 1), &t));
        if (golden_at(v, 1) < 0) {
            assert_true(kd_confusion_add(&c, &truth, &truth, &t));
            kd_confusion_scores(&c, &pixel, &per_class, &miou);
            assert_true(pixel == 1 && per_class == 1 && miou == 1);
        }
        kd_confusion_free(&c);
        free(truth.samples);
        free(pred.samples);
    }
    assert_int_equal(cases, 3);
}

static void wrong_labels_are_named(void **state) {
    (void)state;
    uint8_t x[] = {0, 1, 2, 3, 1, 0}, y[] = {0, 1, 2, 2, 9, 0}, z[6] = {0};
    KdImage truth = {3, 2, 1, 8, x}, pred = {3, 2, 1, 8, y}, narrow = {2, 3, 1, 8, z}, colour = {3, 2, 3, 8, z};
    KdConfusion c;
    KdTrouble t;
    double pixel, per_class, miou;
    assert_true(kd_confusion_init(&c, 3, -1, &t));
    assert_false(kd_confusion_add(&c, &truth, &pred, &t));
    assert_non_null(strstr(t.text, "truth has label 3 at x = 0, y = 1, expected 0..2"));
    c.ignore = 3;
    assert_false(kd_confusion_add(&c, &truth, &pred, &t));
    assert_non_null(strstr(t.text, "prediction has label 9 at x = 1, y = 1"));
    assert_false(kd_confusion_add(&c, &truth, &narrow, &t));
    assert_non_null(strstr(t.text, "truth 3 x 2, prediction 2 x 3"));
    assert_false(kd_confusion_add(&c, &colour, &pred, &t));
    assert_non_null(strstr(t.text, "one channel"));
    kd_confusion_scores(&c, &pixel, &per_class, &miou); /* what was refused counted nothing */
    assert_true(isnan(pixel) && isnan(per_class) && isnan(miou));
    kd_confusion_free(&c);
    assert_false(kd_confusion_init(&c, 0, -1, &t));
    assert_false(kd_confusion_init(&c, 5000, -1, &t));
}

/* ---- Gaussians -------------------------------------------------------------------------------------- */

typedef struct Stats {
    double *mean, *cov;
} Stats;

static Stats stats_of(const KdTensor *rows) {
    int n = (int)rows->dim[1];
    KdTrouble t;
    KdMoments *m = kd_moments_new(n, &t);
    assert_non_null(m);
    for (int64_t i = 0; i < rows->dim[0]; i++) {
        float row[64];
        memcpy(row, rows->data + i * n * 4, (size_t)n * 4);
        kd_moments_add(m, row);
    }
    Stats s = {malloc(sizeof(double) * (size_t)n), malloc(sizeof(double) * (size_t)(n * n))};
    assert_true(kd_moments_get(m, s.mean, s.cov, &t));
    kd_moments_free(m);
    return s;
}

static void stats_free(Stats s) {
    free(s.mean);
    free(s.cov);
}

static void gaussians_agree(void **state) {
    const KdWeights *w = *state;
    char name[128];
    KdTrouble t;
    int cases = 0;
    for (int i = 0; next_case(w, "gauss.", &i, name, sizeof name); cases++) {
        const KdTensor *r1 = part(w, name, "rows1"), *mean = golden_find(w, name, "mean", NULL);
        int n = (int)r1->dim[1];
        Stats a = stats_of(r1), b = stats_of(part(w, name, "rows2"));
        double ab, ba, aa;
        assert_true(kd_frechet(n, a.mean, a.cov, b.mean, b.cov, &ab, &t));
        assert_true(kd_frechet(n, b.mean, b.cov, a.mean, a.cov, &ba, &t));
        assert_true(kd_frechet(n, a.mean, a.cov, a.mean, a.cov, &aa, &t));
        near(name, "distance", ab, golden_at(part(w, name, "values"), 0), 1e-6);
        near(name, "distance the other way", ba, ab, 1e-6);
        assert_true(fabs(aa) < 1e-9);
        for (int k = 0; mean && k < n; k++) {
            near(name, "mean", a.mean[k], golden_at(mean, k), 1e-12);
        }
        for (int k = 0; mean && k < n * n; k++) {
            assert_true(fabs(a.cov[k] - golden_at(part(w, name, "cov"), k)) < 1e-12);
        }
        stats_free(a);
        stats_free(b);
    }
    assert_int_equal(cases, 7);
}

/* Of diagonal covariances: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2. */
static void diagonal_gaussians(void **state) {
    (void)state;
    enum { N = 5 };
    double m1[N] = {1, 2, 3, 4, 5}, m2[N] = {1, 2, 3, 4, 7}, c1[N * N] = {0}, c2[N * N] = {0}, want = 4, got;
    const double a[N] = {4, 1, 0, 9, 1e-12}, b[N] = {1, 1, 25, 0, 1e-12};
    KdTrouble t;
    for (int i = 0; i < N; i++) {
        c1[i * N + i] = a[i];
        c2[i * N + i] = b[i];
        want += (sqrt(a[i]) - sqrt(b[i])) * (sqrt(a[i]) - sqrt(b[i]));
    }
    assert_true(kd_frechet(N, m1, c1, m2, c2, &got, &t));
    near("diagonal", "distance", got, want, 1e-12);
    memset(c1, 0, sizeof c1);
    assert_true(kd_frechet(N, m1, c1, m2, c1, &got, &t)); /* no variance at all */
    near("points", "distance", got, 4, 1e-12);
}

static void no_statistics(void **state) {
    (void)state;
    double m[2] = {0, 1}, c[4] = {1, 0.5, 0.5, 1}, bad[4], v;
    KdTrouble t;
    assert_true(kd_frechet(2, m, c, m, c, &v, &t));
    const struct { int at; double value; const char *says; } rows[] = {
        {0, NAN, "second statistics hold NaN or infinity (row 0)"},
        {3, INFINITY, "row 1"},
        {2, 0.75, "not symmetric: (1, 0) is 0.75, (0, 1) is 0.5"},
        {3, -1, "negative variance -1 (row 1)"},
        {3, DBL_MAX, "not"},
    };
    for (int i = 0; i < 5; i++) {
        memcpy(bad, c, sizeof c);
        bad[rows[i].at] = rows[i].value;
        if (rows[i].value == DBL_MAX) { /* finite, but twice of it is not */
            bad[0] = DBL_MAX;
        }
        assert_false(kd_frechet(2, m, c, m, bad, &v, &t));
        assert_false(t.machine);
        if (!strstr(t.text, rows[i].says)) {
            fail_msg("expected '%s' in '%s'", rows[i].says, t.text);
        }
    }
    KdMoments *one = kd_moments_new(3, &t);
    const float row[3] = {1, 2, 3};
    double mean[3], cov[9];
    assert_non_null(one);
    assert_false(kd_moments_get(one, mean, cov, &t));
    kd_moments_add(one, row);
    assert_false(kd_moments_get(one, mean, cov, &t));
    assert_non_null(strstr(t.text, "at least 2 pictures, found 1"));
    kd_moments_add(one, row);
    assert_true(kd_moments_get(one, mean, cov, &t));
    assert_true(mean[2] == 3 && cov[8] == 0);
    kd_moments_free(one);
    assert_null(kd_moments_new(0, &t));
    assert_null(kd_moments_new(100000, &t));
}

/* ---- Inception's input ------------------------------------------------------------------------------ */

static void inputs_agree(void **state) {
    const KdWeights *w = *state;
    char name[128];
    int cases = 0;
    for (int i = 0; next_case(w, "fid.", &i, name, sizeof name); cases++) {
        KdImage x = picture(part(w, name, "x"));
        const KdTensor *want = part(w, name, "input");
        float *got = malloc((size_t)want->count * sizeof *got);
        kd_fid_input(&x, (int)want->dim[1], got);
        for (int64_t k = 0; k < want->count; k++) {
            if (fabs((double)got[k] - golden_at(want, k)) > 1e-6) {
                fail_msg("%s: element %d is %.9g, expected %.9g", name, (int)k, (double)got[k], golden_at(want, k));
            }
        }
        free(got);
        free(x.samples);
    }
    assert_int_equal(cases, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_agree), cmocka_unit_test(equal_pictures),
        cmocka_unit_test(other_pictures_are_refused), cmocka_unit_test(labels_agree),
        cmocka_unit_test(wrong_labels_are_named), cmocka_unit_test(gaussians_agree),
        cmocka_unit_test(diagonal_gaussians), cmocka_unit_test(no_statistics), cmocka_unit_test(inputs_agree),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
