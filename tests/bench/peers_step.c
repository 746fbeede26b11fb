/* peers_step.c: runs training steps, or a function with its gradients, through libkdc: the same steps `kdc train` runs.
 *
 *     peers_step session FILE.kd NAME THREADS IMPORTS [PARAM=VALUE ...]   its steps 1, 2, ... on random data
 *     peers_step grads FILE.kd NAME THREADS IMPORTS                       a function and gradients of all its inputs
 *     peers_step peak THREADS                                             "run" gives the multiply-add peak in GFLOP/s
 */
#include "peers_serve.h"

#include "frontend/api/kdc.h"
#include "runtime/host/peak.h"

static const float no_output[1];

typedef struct Step {
    KdcProgram *p;
    KdcSession *session;
    KdcRunnable *runnable;
    int64_t step;
    int threads;
} Step;

static void done(KdcProgram *p, bool ok) {
    if (!ok) {
        kdc_print_messages(p, stderr, false);
        peers_fail("kdc could not do that");
    }
}

/* f32 like a picture's, each tensor its own; `seed`, what gradients are of the sum with, is 1. */
static void fill(KdcTensor *t, uint32_t *state) {
    if (t->role != KDC_DATA || t->dtype != KDC_F32) {
        return;
    }
    for (int64_t i = 0; i < t->count; i++) {
        *state = *state * 1664525u + 1013904223u; /* Knuth's and Lewis's */
        ((float *)t->data)[i] = strcmp(t->name, "seed") == 0 ? 1 : (float)(*state >> 8) / 8388608 - 1;
    }
}

static void prepare(Step *s, const char *name) {
    uint32_t state = 1;
    if (s->session) {
        KdcStats stats;
        done(s->p, kdc_session_prepare(s->session, 1, 4, &stats) == KDC_OK);
        done(s->p, kdc_session_initialise(s->session, 1) == KDC_OK);
        for (int i = 0; i < kdc_session_count(s->session); i++) {
            fill(kdc_session_tensor(s->session, i), &state);
        }
        return;
    }
    s->runnable = kdc_net(s->p, name, &(KdcShapes){.grads = true});
    done(s->p, s->runnable != NULL);
    for (int i = 0; i < kdc_input_count(s->runnable); i++) {
        fill(kdc_input(s->runnable, i), &state);
    }
}

static double once(void *user) {
    Step *s = user;
    double start = peers_now();
    done(s->p, (s->session ? kdc_session_step(s->session, ++s->step, 1, 1) : kdc_run(s->runnable)) == KDC_OK);
    return 1e3 * (peers_now() - start);
}

static double peak(void *user) {
    return kd_host_fma_peak(((Step *)user)->threads);
}

int main(int argc, char **argv) {
    Step s = {0};
    if (argc == 3 && strcmp(argv[1], "peak") == 0) {
        s.threads = atoi(argv[2]);
        peers_serve(peak, &s, no_output, 0);
        return 0;
    }
    if (argc < 6) {
        peers_fail("usage: peers_step session|grads FILE NAME THREADS IMPORTS [PARAM=VALUE ...]");
    }
    const char *imports[] = {argv[5]};
    KdcOptions o = {.defines = (const char *const *)argv + 6,
                    .n_defines = argc - 6,
                    .import_path = imports,
                    .n_import_path = 1,
                    .threads = atoi(argv[4])};
    s.p = kdc_open(argv[2], NULL, 0, &o);
    if (!s.p) {
        peers_fail("out of memory");
    }
    done(s.p, kdc_status(s.p) == KDC_OK);
    if (strcmp(argv[1], "session") == 0) {
        s.session = kdc_session(s.p, argv[3], &(KdcShapes){.train = true});
        done(s.p, s.session != NULL);
    }
    prepare(&s, argv[3]);
    peers_serve(once, &s, no_output, 0);
    kdc_close(s.p);
    return 0;
}
