/* test_inception.c: models/nets/inception.kd against PyTorch (tests/golden/make_inception.py): the same names of weights, and
 * on weights that both sides compute from those names the same 2048 features. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/api/kdc.h"
#include "tests/golden/golden.h"

static uint32_t fnv(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++) {
        h = (h ^ (unsigned char)*name) * 16777619u;
    }
    return h;
}

/* make_inception.py: value */
static void fill(KdcTensor *t) {
    float *x = t->data, scale, base = 0;
    if (t->rank == 4) {
        scale = (float)sqrt(6.0 / (double)(t->dim[1] * t->dim[2] * t->dim[3]));
    } else {
        bool variance = golden_ends(t->name, ".running_var");
        base = variance || golden_ends(t->name, ".weight") ? 1 : 0;
        scale = variance ? 0.5f : 0.2f;
    }
    golden_uniform(fnv(t->name), x, t->count);
    for (int64_t i = 0; i < t->count; i++) {
        x[i] = base + x[i] * scale;
    }
}

static void features_are_pytorchs(void **state) {
    (void)state;
    static const char text[] = "import \"nets/inception.kd\"\nlet I = Inception[]\n";
    KdWeights *golden = golden_read("metrics/inception.safetensors");
    assert_non_null(golden);
    const KdTensor *size = kd_weights_find(golden, "x.size"), *want = kd_weights_find(golden, "out");
    assert_true(size && want);
    KdcOptions o = {.height = (int64_t)golden_at(size, 0), .width = (int64_t)golden_at(size, 1), .threads = 2};
    KdcProgram *p = kdc_open("test", text, sizeof text - 1, &o);
    assert_non_null(p);
    KdcRunnable *r = kdc_net(p, "I", &(KdcShapes){0});
    kdc_print_messages(p, stderr, false);
    assert_non_null(r);
    int named = 0, listed = 0;
    for (int i = 0; i < kdc_input_count(r); i++) {
        KdcTensor *t = kdc_input(r, i);
        if (t->role == KDC_DATA) {
            golden_uniform(1, t->data, t->count);
            continue;
        }
        const KdTensor *count = golden_find(golden, "count", t->name, NULL);
        if (!count || golden_at(count, 0) != (double)t->count) {
            fail_msg("PyTorch's network has no %s of %d numbers", t->name, (int)t->count);
        }
        named++;
        fill(t);
    }
    for (int i = 0; i < golden->n; i++) {
        listed += strncmp(golden->tensor[i].name, "count.", 6) == 0;
    }
    assert_int_equal(named, listed);
    assert_int_equal(kdc_run(r), KDC_OK);
    const KdcTensor *out = kdc_find_output(r, "out");
    assert_true(out && out->count == want->count && out->count == 2048);
    double largest = 0, off = 0;
    for (int64_t i = 0; i < out->count; i++) {
        largest = fmax(largest, fabs(golden_at(want, i)));
        off = fmax(off, fabs((double)((const float *)out->data)[i] - golden_at(want, i)));
    }
    printf("largest feature %g, largest difference %g\n", largest, off);
    assert_true(largest > 1 && off <= 1e-4 * largest);
    kdc_close(p);
    kd_weights_free(golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(features_are_pytorchs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
