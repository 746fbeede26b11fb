/* fuzz.c: libFuzzer targets for everything that reads what it did not write; fuzz.sh builds one for each FUZZ_x. A target that
 * takes a path gets a file in memory. Nothing is checked but that it neither crashes, nor leaks, nor hangs. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(FUZZ_IMAGE)
#include "runtime/host/image.h"
static void run(const uint8_t *data, size_t n) {
    for (int want = KD_IMAGE_RGB8; want <= KD_IMAGE_INDEX; want++) {
        KdImage x;
        KdTrouble t;
        if (kd_image_decode("fuzz", data, n, (KdImageWant)want, &x, &t)) {
            kd_image_free(&x);
        }
    }
}
#elif defined(FUZZ_SAFETENSORS)
#include "runtime/host/weights.h"
static void run(const uint8_t *data, size_t n) {
    KdTrouble t;
    kd_weights_free(kd_weights_parse("fuzz", data, n, &t));
}
#elif defined(FUZZ_PTH) || defined(FUZZ_NPZ) || defined(FUZZ_LOG)
#include "runtime/host/log.h"
#include "runtime/host/npz.h"
#include "runtime/host/pth.h"
static void run(const uint8_t *data, size_t n) {
    char path[64];
    KdTrouble t;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) {
        abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
#if defined(FUZZ_PTH)
    kd_weights_free(kd_pth_read(path, &t));
#elif defined(FUZZ_NPZ)
    KdArrays a;
    if (kd_npz_read(path, &a, &t)) {
        kd_npz_free(&a);
    }
#else
    KdLogData d;
    if (kd_log_read(path, &d, &t)) {
        kd_log_data_free(&d);
    }
#endif
    close(fd);
}
#elif defined(FUZZ_KD)
#include "frontend/lang/lang.h"
static void run(const uint8_t *data, size_t n) {
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (cx && KD_TRY(cx, l)) {
        KdLangOptions o = {0};
        KdProgram *p = kd_lang_load(cx, "fuzz.kd", (const char *)data, n, &o);
        int count = 0;
        const KdDecl *d = p ? kd_lang_decls(p, &count) : NULL;
        for (int i = 0; i < count; i++) {
            KdNetOptions net = {.height = 8, .width = 8};
            if (d[i].main && (d[i].kind == KD_DECL_FN || d[i].kind == KD_DECL_NET || d[i].kind == KD_DECL_INSTANCE)) {
                kd_lang_net(p, d[i].name, &net);
            }
        }
        kd_landing_pop(cx);
    }
    kd_context_free(cx);
}
#elif defined(FUZZ_GRAPH) || defined(FUZZ_LOOPS)
#include "ir/ir.h"
#include "ir/loop.h"
static void run(const uint8_t *data, size_t n) {
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (cx && KD_TRY(cx, l)) {
#if defined(FUZZ_GRAPH)
        kd_parse_module(cx, "fuzz", (const char *)data, n);
#else
        kl_parse_module(cx, "fuzz", (const char *)data, n);
#endif
        kd_landing_pop(cx);
    }
    kd_context_free(cx);
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    uint8_t *copy = malloc(n + 1); /* texts end with a NUL */
    if (copy) {
        for (size_t i = 0; i < n; i++) {
            copy[i] = data[i];
        }
        copy[n] = 0;
        run(copy, n);
        free(copy);
    }
    return 0;
}
