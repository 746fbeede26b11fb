/* export_use.c: a program that uses the exported network G in every way its header offers; compiled by test_export.c with
 * the artefact. x.bin, y.bin: input and output floats that the JIT computed; rgb.bin, want.bin: the same as pictures.
 * Gives 0, or the line of what failed. -DNEAR: floats within 1e-4, pictures within 1. */
#include "G.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)      \
    do {                 \
        if (!(what)) {   \
            return __LINE__; \
        }                \
    } while (0)

static float x[G_INPUT_COUNT], y[G_OUTPUT_COUNT];
static unsigned char rgb[G_INPUT_COUNT], want[G_OUTPUT_COUNT];

static int load(const char *path, void *to, size_t n) {
    FILE *f = fopen(path, "rb");
    size_t got = f ? fread(to, 1, n, f) : 0;
    if (f) {
        fclose(f);
    }
    return got == n;
}

#ifdef G_WEIGHT_FILE_BYTES
static unsigned char *weights;
#define INIT(net, arena) G_init(net, weights, G_WEIGHT_FILE_BYTES, arena)

static int corrupted(void) {
    G_net net;
    size_t last = G_WEIGHT_FILE_BYTES - 64; /* what follows the last tensor's bytes is zero, and counts too */
    CHECK(G_init(&net, weights, G_WEIGHT_FILE_BYTES - 1, NULL) == G_ERROR_WEIGHTS);
    CHECK(G_init(&net, NULL, 0, NULL) == G_ERROR_WEIGHTS);
    weights[0] ^= 1;
    CHECK(INIT(&net, NULL) == G_ERROR_WEIGHTS && G_selftest(&net) == G_ERROR_STATE);
    weights[0] ^= 1;
    weights[last] ^= 1;
    CHECK(INIT(&net, NULL) == G_ERROR_WEIGHTS && G_selftest(&net) == G_ERROR_STATE);
    G_free(&net);
    weights[last] ^= 1;
    CHECK(INIT(&net, NULL) == G_OK && G_selftest(&net) == G_OK);
    weights[last] ^= 1; /* while it is used */
    CHECK(G_selftest(&net) == G_ERROR_WEIGHTS);
    weights[last] ^= 1;
    CHECK(G_selftest(&net) == G_OK);
    G_free(&net);
    return 0;
}
#else
#define INIT(net, arena) G_init(net, arena)
#endif

static int same_floats(const float *a) {
#ifdef NEAR
    int i;
    for (i = 0; i < G_OUTPUT_COUNT; i++) {
        if (!(a[i] - y[i] <= 1e-4f && y[i] - a[i] <= 1e-4f)) {
            return 0;
        }
    }
    return 1;
#else
    return memcmp(a, y, sizeof y) == 0;
#endif
}

static int same_picture(const unsigned char *a) {
#ifdef NEAR
    int i;
    for (i = 0; i < G_OUTPUT_COUNT; i++) {
        if (a[i] - want[i] > 1 || want[i] - a[i] > 1) {
            return 0;
        }
    }
    return 1;
#else
    return memcmp(a, want, sizeof want) == 0;
#endif
}

static int use(G_net *net) {
    float *out = malloc(sizeof y);
    unsigned char *picture = malloc(sizeof want);
    int i, ok = out && picture;
    for (i = 0; i < 2 && ok; i++) {
        ok = G_run(net, x, out) == G_OK && same_floats(out) && G_run_rgb8(net, rgb, picture) == G_OK &&
             same_picture(picture) && G_selftest(net) == G_OK;
    }
    free(out);
    free(picture);
    return ok;
}

static void *in_thread(void *net) {
    return use((G_net *)net) ? net : NULL;
}

static int two_at_once(void) {
    G_net a, b;
    pthread_t thread;
    void *result = NULL;
    CHECK(INIT(&a, NULL) == G_OK && INIT(&b, NULL) == G_OK);
    CHECK(pthread_create(&thread, NULL, in_thread, &a) == 0);
    CHECK(use(&b));
    CHECK(pthread_join(thread, &result) == 0 && result == &a);
    G_free(&a);
    G_free(&b);
    return 0;
}

/* Not aligned, not zero, with a guard behind. */
static int own_arena(void) {
    G_net net;
    int i;
    unsigned char *arena = malloc(G_ARENA_BYTES + 17);
    CHECK(arena);
    memset(arena, 0xff, G_ARENA_BYTES + 17);
    CHECK(INIT(&net, arena + 1) == G_OK && use(&net));
    for (i = 0; i < 16; i++) {
        CHECK(arena[G_ARENA_BYTES + 1 + i] == 0xff);
    }
    CHECK(arena[0] == 0xff);
    G_free(&net);
    CHECK(G_run(&net, x, y) == G_ERROR_STATE && G_run_rgb8(&net, rgb, want) == G_ERROR_STATE &&
          G_selftest(&net) == G_ERROR_STATE);
    free(arena);
    return 0;
}

int main(void) {
    int line;
    CHECK(load("x.bin", x, sizeof x) && load("y.bin", y, sizeof y));
    CHECK(load("rgb.bin", rgb, sizeof rgb) && load("want.bin", want, sizeof want));
#ifdef G_WEIGHT_FILE_BYTES
    weights = malloc(G_WEIGHT_FILE_BYTES);
    CHECK(weights && load("out/G.weights", weights, G_WEIGHT_FILE_BYTES));
    if ((line = corrupted()) != 0) {
        fprintf(stderr, "line %d\n", line);
        return 1;
    }
#endif
    if ((line = own_arena()) != 0 || (line = two_at_once()) != 0) {
        fprintf(stderr, "line %d\n", line);
        return 1;
    }
#ifdef G_WEIGHT_FILE_BYTES
    free(weights);
#endif
    return 0;
}
