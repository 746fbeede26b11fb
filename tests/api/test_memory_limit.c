/* test_memory_limit.c: training within a memory limit gives the bits that it gives without: a small CycleGAN with image
 * pools, and a network with dropout, two optimisers and a block that runs every second step.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/api/kdc.h"

#include <stdio.h>
#include <string.h>

static const char dropping[] =
    "import \"nets/resnet.kd\"\n"
    "import \"nets/patchgan.kd\"\n"
    "import \"losses/gan.kd\"\n"
    "let G = ResnetGen[ngf = 4, n_blocks = 5, dropout = true]\n"
    "let D = PatchGan[ndf = 4, n_layers = 2]\n"
    "session dropping(a: [1, 3, 32, 32], b: [1, 3, 32, 32]) {\n"
    "    let fake = G(a)\n"
    "    let loss = l1_loss(fake, b) + gan_loss(D(fake), real = true, generator = true)\n"
    "    minimize loss over G with adam(1e-3)\n"
    "    every 2 {\n"
    "        minimize gan_loss(D(b), real = true) + gan_loss(D(history(fake, 2)), real = false) over D with adam(1e-3)\n"
    "    }\n"
    "    log loss\n"
    "}\n";

typedef struct Case {
    const char *file, *text, *session;
} Case;

typedef struct Run {
    KdcProgram *p;
    KdcSession *s;
    KdcStats stats;
} Run;

enum { STEPS = 4 };

static void demand(KdcProgram *p, bool ok) {
    if (!ok || kdc_status(p) != KDC_OK) {
        kdc_print_messages(p, stderr, false);
        fail_msg("status %d", (int)kdc_status(p));
    }
}

static Run prepare(const Case *c, int64_t limit) {
    static const char *const defines[] = {"size=32", "ngf=4", "ndf=4", "n_blocks=1", "pool=2"};
    static const char *const import[] = {KDC_SOURCE_DIR "/models"};
    KdcOptions o = {.defines = defines, .n_defines = c->text ? 0 : 5, .import_path = import, .n_import_path = 1, .opt = 1,
                    .cache = "", .memory_limit = limit};
    Run r = {.p = kdc_open(c->file, c->text, c->text ? strlen(c->text) : 0, &o)};
    assert_non_null(r.p);
    demand(r.p, true);
    r.s = kdc_session(r.p, c->session, &(KdcShapes){0});
    demand(r.p, r.s);
    demand(r.p, kdc_session_initialise(r.s, 3) == KDC_OK);
    kdc_session_prepare(r.s, 1, STEPS, &r.stats);
    return r;
}

static void train(Run *r) {
    uint64_t seed = 1;
    for (int step = 1; step <= STEPS; step++) {
        for (int k = 0; k < 2; k++) {
            KdcTensor *t = kdc_session_find(r->s, k ? "b" : "a");
            for (int64_t i = 0; i < t->count; i++) {
                seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                ((float *)t->data)[i] = (float)(int32_t)(seed >> 32) / 2147483648.0f;
            }
        }
        demand(r->p, kdc_session_step(r->s, step, 1, 9) == KDC_OK);
    }
}

static void same_bits(const Run *want, const Run *got) {
    assert_int_equal(kdc_session_count(want->s), kdc_session_count(got->s));
    for (int i = 0; i < kdc_session_count(want->s); i++) {
        const KdcTensor *a = kdc_session_tensor(want->s, i), *b = kdc_session_tensor(got->s, i);
        assert_string_equal(a->name, b->name);
        if (memcmp(a->data, b->data, (size_t)a->count * (a->dtype == KDC_U8 ? 1 : 4)) != 0) {
            fail_msg("%s differs", a->name);
        }
    }
    for (int i = 0; i < kdc_session_output_count(want->s); i++) {
        const KdcTensor *a = kdc_session_output(want->s, i), *b = kdc_session_output(got->s, i);
        assert_memory_equal(a->data, b->data, (size_t)a->count * 4);
    }
}

static void limited(void **state) {
    const Case *c = *state;
    Run free_run = prepare(c, 0);
    demand(free_run.p, true);
    assert_int_equal(free_run.stats.memory, free_run.stats.memory_planned);
    train(&free_run);
    int64_t limit = free_run.stats.memory * 17 / 20;
    Run tight = prepare(c, limit);
    demand(tight.p, true);
    assert_true(tight.stats.memory <= limit);
    assert_true(tight.stats.memory_planned >= free_run.stats.memory);
    assert_int_equal(tight.stats.memory_naive, free_run.stats.memory_naive);
    train(&tight);
    same_bits(&free_run, &tight);
    kdc_close(free_run.p);
    kdc_close(tight.p);
}

static void too_tight(void **state) {
    Run r = prepare(*state, 20000);
    assert_int_equal(kdc_status(r.p), KDC_INPUT);
    char text[512] = "";
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    assert_non_null(out);
    kdc_print_messages(r.p, out, false);
    fclose(out);
    assert_non_null(strstr(text, "activations are limited to 19.5 KiB; the smallest plan found has "));
    kdc_close(r.p);
}

int main(void) {
    static Case cyclegan = {KDC_SOURCE_DIR "/models/recipes/cyclegan.kd", NULL, "cyclegan"}, dropout = {"dropping.kd", dropping, "dropping"};
    const struct CMUnitTest tests[] = {
        {"cyclegan", limited, NULL, NULL, &cyclegan},
        {"dropout and every", limited, NULL, NULL, &dropout},
        {"too tight", too_tight, NULL, NULL, &dropout},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
