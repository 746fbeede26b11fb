/* harness.h: runs one loop module in every way there is and compares all that it wrote, bit for bit.
 *
 * The ways: the evaluator, the JIT at levels 0 and 3 for this machine, the JIT for the poorest CPU of its architecture
 * (where fma, floor and round are emulated), and an object file linked by the system's compiler. NaN equals NaN: which
 * NaN an operation yields is nobody's promise.
 */
#ifndef KD_TEST_CODEGEN_HARNESS_H
#define KD_TEST_CODEGEN_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/codegen.h"
#include "runtime/kdrt/kdrt.h"

extern char **environ;

/* ---- random numbers and test values ------------------------------------------------------------- */

static inline uint32_t rnd(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *s ^ (*s >> 29);
    return (uint32_t)(x >> 32) ^ (uint32_t)(x >> 13);
}

static inline int rnd_below(uint64_t *s, int n) { return (int)(rnd(s) % (uint32_t)n); }

/* Ordinary numbers mostly, and all that is special. */
static inline float rnd_float(uint64_t *s) {
    static const float special[] = {0.0f,       -0.0f,   1.0f,      -1.0f,     0.5f,      -0.5f,     1.5f,  2.5f,
                                    -2.5f,      INFINITY, -INFINITY, NAN,      0x1p-149f, -0x1p-126f, 0x1p127f, 0x1p23f,
                                    0x1.8p23f,  -0x1p31f, 0x1p31f,   0x1p63f,  8388607.5f, 4194303.5f, 0.49999997f, 3e38f};
    uint32_t kind = rnd(s) % 8;
    if (kind == 0)
        return special[rnd(s) % (uint32_t)KD_COUNT(special)];
    if (kind == 1) { /* any bits but NaN */
        uint32_t bits = rnd(s);
        float f;
        memcpy(&f, &bits, 4);
        return isnan(f) ? 1.25f : f;
    }
    return (float)((int32_t)rnd(s) % 4001) / (kind == 2 ? 1.0f : 256.0f);
}

static inline int32_t rnd_int(uint64_t *s) {
    static const int32_t special[] = {0, 1, -1, INT32_MAX, INT32_MIN, 255, 256, -128};
    uint32_t kind = rnd(s) % 4;
    if (kind == 0)
        return special[rnd(s) % (uint32_t)KD_COUNT(special)];
    return kind == 1 ? (int32_t)rnd(s) : (int32_t)(rnd(s) % 2001) - 1000;
}

/* ---- memory of a run -------------------------------------------------------------------------------- */

typedef struct Memory {
    int n;
    void *ext[16];
    size_t bytes[16];
} Memory;

static inline size_t scalar_bytes(KlScalar s) { return s == KL_U8 ? 1 : 4; }

/* Every extern filled from the seed: what is only written, too. */
static inline Memory memory_new(const KlModule *m, uint64_t seed) {
    Memory r = {.n = m->externs.n};
    assert_true(r.n <= 16);
    for (int i = 0; i < r.n; i++) {
        const KlExtern *e = &m->externs.v[i];
        r.bytes[i] = (size_t)e->count * scalar_bytes(e->dtype);
        r.ext[i] = kdrt_alloc(r.bytes[i]);
        assert_non_null(r.ext[i]);
        for (int64_t j = 0; j < e->count; j++) {
            if (e->dtype == KL_F32)
                ((float *)r.ext[i])[j] = rnd_float(&seed);
            else if (e->dtype == KL_I32)
                ((int32_t *)r.ext[i])[j] = rnd_int(&seed);
            else
                ((uint8_t *)r.ext[i])[j] = (uint8_t)rnd(&seed);
        }
    }
    return r;
}

static inline void memory_free(Memory *r) {
    for (int i = 0; i < r->n; i++)
        kdrt_free(r->ext[i]);
}

static inline void assert_same(const KlModule *m, const Memory *want, const Memory *got, const char *way) {
    for (int i = 0; i < want->n; i++) {
        size_t step = scalar_bytes(m->externs.v[i].dtype);
        for (size_t at = 0; at < want->bytes[i]; at += step) {
            const char *a = (char *)want->ext[i] + at, *b = (char *)got->ext[i] + at;
            if (memcmp(a, b, step) == 0)
                continue;
            float x = 0, y = 0;
            uint32_t xb = 0, yb = 0;
            memcpy(&xb, a, step);
            memcpy(&yb, b, step);
            if (m->externs.v[i].dtype == KL_F32) {
                memcpy(&x, a, 4);
                memcpy(&y, b, 4);
                if (isnan(x) && isnan(y))
                    continue;
            }
            fail_msg("%s, %s: extern %s [%zu]: evaluator %08x (%g), here %08x (%g)", m->name, way,
                     m->externs.v[i].name, at / step, xb, (double)x, yb, (double)y);
        }
    }
}

/* ---- ways to run -------------------------------------------------------------------------------------- */

static inline void raised(KdContext *cx) {
    const char *why;
    kd_failure(cx, &why);
    kd_diag_print(cx, stderr, false);
    fail_msg("raised: %s", why);
}

/* What a module was made into: by the JIT, or an object file linked and loaded, with its entry. */
typedef void Entry(void *kdrt_context, void *const *ext, void *arena);
typedef struct Made {
    Entry *entry; /* NULL: jit */
    size_t scratch;
    KdJit *jit;
} Made;

static inline void run_made_once(const Made *made, KdrtContext *rt, void *const *ext, void *arena) {
    if (made->jit)
        kd_jit_run(made->jit, rt, ext, arena);
    else
        made->entry(rt, ext, arena);
}

static inline void run_made_on(const Made *made, int64_t arena, const Memory *mem, int threads) {
    void *arena_memory = kdrt_alloc((size_t)arena);
    KdrtContext rt = {
        .threads = threads, .scratch = kdrt_alloc(made->scratch * (size_t)threads), .scratch_bytes = made->scratch};
    assert_non_null(arena_memory);
    assert_non_null(rt.scratch);
    run_made_once(made, &rt, mem->ext, arena_memory);
    kdrt_free(arena_memory);
    kdrt_free(rt.scratch);
}

static inline Made make_jit(KdContext *cx, const KlModule *m, const KdTarget *t, int opt) {
    KdCodegenOptions o = {.opt = opt, .jobs = 1};
    KdJit *j = kd_jit_new(cx, m, t, &o, NULL);
    assert_non_null(j);
    return (Made){.scratch = kd_jit_scratch(j), .jit = j};
}

static inline bool spawn(const char *const *argv) {
    pid_t pid;
    int status;
    return posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ) == 0 &&
           waitpid(pid, &status, 0) == pid && status == 0;
}

static inline void write_whole(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* As an export does it: an object, linked with the runtime's own sources. */
static inline Made make_object(KdContext *cx, const KlModule *m, const KdTarget *t, int opt) {
    char folder[] = "/tmp/kdc-test-XXXXXX", object[64], library[64], name[128];
    assert_non_null(mkdtemp(folder));
    snprintf(object, sizeof object, "%s/m.o", folder);
    snprintf(library, sizeof library, "%s/m.so", folder);
    KdStr s = {.cx = cx};
    assert_true(kd_codegen(cx, m, t, &(KdCodegenOptions){.opt = opt}, KD_EMIT_OBJ, &s));
    write_whole(object, s.s, s.n);
    const char *argv[] = {"cc", "-shared", "-fPIC", "-fopenmp", "-O1", "-I" KDC_SOURCE_DIR, "-o", library, object,
                          KDC_SOURCE_DIR "/runtime/kdrt/parallel.c", NULL};
    assert_true(spawn(argv));
    void *so = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!so)
        fail_msg("%s", dlerror());
    snprintf(name, sizeof name, "%s_scratch_bytes", m->name);
    const int64_t *scratch = dlsym(so, name);
    snprintf(name, sizeof name, "%s_arena_bytes", m->name);
    const int64_t *arena = dlsym(so, name);
    Entry *entry;
    *(void **)&entry = dlsym(so, m->name);
    assert_true(entry && scratch && arena);
    assert_int_equal(*arena, m->arena);
    unlink(object);
    unlink(library);
    rmdir(folder);
    /* It stays loaded: libgomp's threads may still be on their way out of the library's region. */
    return (Made){entry, (size_t)*scratch, NULL};
}

enum { WAY_O0 = 1, WAY_O3 = 2, WAY_POOR = 4, WAY_OBJECT = 8, WAY_JIT = 7, WAY_ALL = 15 };

static inline Made make(KdContext *cx, const KlModule *m, int way) {
    KdTarget t;
    assert_true(way == WAY_POOR ? kd_target_named(cx, NULL, "", &t) : kd_target_host(cx, &t));
    return way == WAY_OBJECT ? make_object(cx, m, &t, 2) : make_jit(cx, m, &t, way == WAY_O0 ? 0 : 3);
}

/* The same module with the same memory, every way in `ways`; memory from `seed` and the n - 1 seeds after it. */
static inline void check_module(KdContext *cx, const KlModule *m, uint64_t seed, int n, int ways) {
    static const char *const names[] = {"JIT -O0", "JIT -O3", "JIT for the poorest CPU", "object file"};
    KdStr why = {.cx = cx};
    if (!kl_verify(m, &why))
        fail_msg("%s: not valid: %s", m->name, why.s);
    Made made[4] = {{0}};
    for (int way = 0; way < 4; way++)
        if (ways & 1 << way)
            made[way] = make(cx, m, 1 << way);
    for (uint64_t s = seed; s < seed + (uint64_t)n; s++) {
        Memory want = memory_new(m, s);
        if (!kl_eval(m, want.ext, &why))
            fail_msg("%s: evaluator: %s", m->name, why.s);
        for (int way = 0; way < 4; way++) {
            if (!made[way].entry)
                continue;
            Memory got = memory_new(m, s);
            run_made_on(&made[way], m->arena, &got, 2);
            assert_same(m, &want, &got, names[way]);
            memory_free(&got);
        }
        memory_free(&want);
    }
    for (int way = 0; way < 4; way++)
        kd_jit_free(made[way].jit);
}

/* ---- making modules ------------------------------------------------------------------------------------- */

static inline int add_extern(KlModule *m, const char *name, KlScalar dtype, int64_t count, bool written) {
    kd_push(m->cx, &m->externs, (KlExtern){kd_intern_z(m->cx, name), dtype, count, written});
    return m->externs.n - 1;
}

static inline void add_call(KlModule *m, int kernel, int n, const KlArg *args) {
    KlArg *copy = KD_NEW_ARRAY(m->cx, KlArg, n + 1);
    memcpy(copy, args, (size_t)n * sizeof *args);
    kd_push(m->cx, &m->calls, (KlCall){kernel, copy});
}

/* Adds k, an extern for each of its buffers, and one call. */
static inline void add_kernel_with_externs(KlModule *m, KlKernel *k) {
    KlArg args[16];
    int n = 0;
    for (int i = 0; i < k->bufs.n; i++) {
        const KlBuf *b = &k->bufs.v[i];
        if (b->access != KL_SCRATCH)
            args[n++] = (KlArg){KL_ARG_EXTERN, add_extern(m, b->name, b->dtype, b->count, b->access != KL_IN), 0};
    }
    add_call(m, kl_module_add(m, k), n, args);
}

#endif
