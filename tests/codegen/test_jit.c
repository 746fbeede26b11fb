/* test_jit.c: plans, threads, the cache of objects, targets, and what may be undefined in an object file. */
#include "tests/codegen/harness.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

/* ---- modules ------------------------------------------------------------------------------------- */

static KlValue at(KlBuilder *b, KlValue p, int64_t scale, KlValue i, int64_t offset) {
    KlValue v = kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, p, kl_i64(b, scale)), kl_i64(b, offset));
    return i == KL_NONE ? v : kl_op2(b, KL_OP_ADD, v, i);
}

/* out[p][0..64) = in[p][..] * factor + sum(table), by way of scratch. */
static int scale_kernel(KlModule *m, double factor, int64_t range) {
    KlKernel *k = kl_kernel_new(m->cx, "scale", range);
    int in = kl_buf(k, "in", KL_F32, range * 64, KL_IN), table = kl_buf(k, "table", KL_F32, 64, KL_IN);
    int out = kl_buf(k, "out", KL_F32, range * 64, KL_OUT), tmp = kl_buf(k, "tmp", KL_F32, 80, KL_SCRATCH);
    int tmp2 = kl_buf(k, "tmp2", KL_F32, 3, KL_SCRATCH);
    KlBuilder bb = kl_builder(k), *b = &bb;
    KlValue p = kl_parallel_index(k), sum[1] = {kl_f32(b, 0)};
    KlFor f = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, 64), 4, 1, sum);
    KlValue v = kl_load(b, table, f.i, 4), next[1] = {kl_op2(b, KL_OP_ADD, f.carried[0], kl_reduce(b, KL_OP_ADD, v))};
    kl_store(b, tmp, f.i, kl_op2(b, KL_OP_MUL, kl_load(b, in, at(b, p, 64, f.i, 0), 4), kl_f32(b, factor)));
    kl_for_end(b, &f, next, sum);
    kl_store(b, tmp2, kl_i64(b, 2), sum[0]);
    KlFor g = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, 64), 8, 0, NULL);
    KlValue w = kl_op2(b, KL_OP_ADD, kl_load(b, tmp, g.i, 8), kl_splat(b, 8, kl_load(b, tmp2, kl_i64(b, 2), 1)));
    kl_store(b, out, at(b, p, 64, g.i, 0), w);
    kl_for_end(b, &g, NULL, NULL);
    return kl_module_add(m, k);
}

static int negate_kernel(KlModule *m, int64_t n) { /* in place or not */
    KlKernel *k = kl_kernel_new(m->cx, "negate", n);
    int in = kl_buf(k, "in", KL_F32, n, KL_IN), out = kl_buf(k, "out", KL_F32, n, KL_OUT);
    KlBuilder b = kl_builder(k);
    KlValue p = kl_parallel_index(k);
    kl_store(&b, out, p, kl_op1(&b, KL_OP_NEG, kl_load(&b, in, p, 1)));
    return kl_module_add(m, k);
}

enum { ROWS = 37, ROW = 64 };

/* Externs, arena, pool, offsets, in-place calls, one kernel called twice. */
static KlModule *plan_module(KdContext *cx, float pool_value) {
    KlModule *m = kl_module_new(cx, "plan");
    int x = add_extern(m, "x", KL_F32, (ROWS + 1) * ROW, false), y = add_extern(m, "y", KL_F32, ROWS * ROW, true);
    int twice = scale_kernel(m, 2, ROWS), neg = negate_kernel(m, ROWS * ROW), half = scale_kernel(m, 0.5, ROWS);
    int64_t bytes = ROWS * ROW * 4;
    m->arena = 2 * bytes;
    for (int i = 0; i < 2 * ROW; i++) {
        float f = i < ROW ? 1 : pool_value * (float)i;
        const uint8_t *raw = (const uint8_t *)&f;
        for (int j = 0; j < 4; j++)
            kd_push(cx, &m->pool, raw[j]);
    }
    KlArg in = {KL_ARG_EXTERN, x, ROW * 4}, out = {KL_ARG_EXTERN, y, 0}, low = {KL_ARG_ARENA, 0, 0};
    KlArg high = {KL_ARG_ARENA, 0, bytes}, ones = {KL_ARG_POOL, 0, 0}, ramp = {KL_ARG_POOL, 0, ROW * 4};
    add_call(m, twice, 3, (KlArg[]){in, ones, low});
    add_call(m, neg, 2, (KlArg[]){low, low});
    add_call(m, twice, 3, (KlArg[]){low, ramp, high});
    add_call(m, half, 3, (KlArg[]){high, ones, out});
    add_call(m, neg, 2, (KlArg[]){out, out});
    return m;
}

/* ---- plans and threads ------------------------------------------------------------------------------- */

static void test_plan(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = plan_module(cx, 0.25f);
    check_module(cx, m, 4, 3, WAY_ALL);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

static void test_threads(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = plan_module(cx, 0.25f);
    Memory one = memory_new(m, 8);
    KdTarget t;
    assert_true(kd_target_host(cx, &t));
    Made j = make_jit(cx, m, &t, 2);
    assert_int_equal(j.scratch, 320 + 64);
    run_made_on(&j, m->arena, &one, 1);
    for (int threads = 2; threads <= 8; threads++) {
        Memory more = memory_new(m, 8);
        run_made_on(&j, m->arena, &more, threads);
        assert_same(m, &one, &more, "several threads");
        memory_free(&more);
    }
    memory_free(&one);
    kd_jit_free(j.jit);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* Thousands of calls are data: they must not take seconds to compile. */
static void test_long_plan(void **state) {
    (void)state;
    enum { CALLS = 4001, N = 16 };
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = kl_module_new(cx, "long_plan");
    int x = add_extern(m, "x", KL_F32, N, true), neg = negate_kernel(m, N);
    KlArg arg = {KL_ARG_EXTERN, x, 0};
    for (int c = 0; c < CALLS; c++)
        add_call(m, neg, 2, (KlArg[]){arg, arg});
    KdTarget t;
    KdJitStats stats;
    assert_true(kd_target_host(cx, &t));
    KdJit *j = kd_jit_new(cx, m, &t, &(KdCodegenOptions){.opt = 2, .jobs = 2}, &stats);
    assert_true(stats.seconds < 1.0);
    assert_int_equal(stats.kernels, 1);
    assert_true(stats.object_bytes > 0 && !stats.from_cache);
    float data[N];
    void *ext[1] = {data};
    for (int i = 0; i < N; i++)
        data[i] = (float)i;
    KdrtProfile profile = {.n = CALLS, .call = calloc(CALLS, sizeof *profile.call)};
    KdrtContext rt = {.threads = 1, .profile = &profile};
    kd_jit_run(j, &rt, ext, NULL);
    for (int i = 0; i < N; i++)
        assert_true(data[i] == -(float)i);
    for (int c = 0; c < CALLS; c++)
        assert_true(profile.call[c].calls == 1 && profile.call[c].seconds >= 0);
    free(profile.call);
    kd_jit_free(j);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* ---- the cache ------------------------------------------------------------------------------------------ */

/* The only file of the folder; "" if there is none. */
static int list_cache(const char *folder, char *path, size_t size) {
    int n = 0;
    DIR *d = opendir(folder);
    path[0] = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            n++;
            snprintf(path, size, "%s/%s", folder, e->d_name);
        }
    if (d)
        closedir(d);
    return n;
}

static void remove_folder(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(folder);
}

/* Compiles the plan module with the cache, runs it, compares with the evaluator; whether it came from the cache. */
static bool cached_run(const char *folder, int opt, float pool_value) {
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KlModule *m = plan_module(cx, pool_value);
    KdTarget t;
    KdJitStats stats;
    KdStr why = {.cx = cx};
    assert_true(kd_target_host(cx, &t));
    KdJit *j = kd_jit_new(cx, m, &t, &(KdCodegenOptions){.opt = opt, .jobs = 2, .cache = folder}, &stats);
    Memory want = memory_new(m, 5), got = memory_new(m, 5);
    assert_true(kl_eval(m, want.ext, &why));
    run_made_on(&(Made){.scratch = kd_jit_scratch(j), .jit = j}, m->arena, &got, 2);
    assert_same(m, &want, &got, "cached JIT");
    memory_free(&want);
    memory_free(&got);
    kd_jit_free(j);
    kd_landing_pop(cx);
    kd_context_free(cx);
    return stats.from_cache;
}

static void flip_byte(const char *path, long offset) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, offset, offset < 0 ? SEEK_END : SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(c ^ 0x40, f), c ^ 0x40);
    assert_int_equal(fclose(f), 0);
}

static void test_cache(void **state) {
    (void)state;
    char base[] = "/tmp/kdc-cache-XXXXXX", folder[64], path[512];
    assert_non_null(mkdtemp(base));
    snprintf(folder, sizeof folder, "%s/deep/er", base);
    assert_false(cached_run(folder, 2, 0.25f));
    int kernels = list_cache(folder, path, sizeof path);
    assert_true(kernels > 1);
    assert_true(cached_run(folder, 2, 0.25f));
    assert_true(cached_run(folder, 2, 4.0f)); /* other constants, same code */
    struct stat whole;
    assert_int_equal(stat(path, &whole), 0);
    static const long places[] = {0, 9, 20, 45, -1, -100};
    for (int i = 0; i < KD_COUNT(places); i++) {
        flip_byte(path, places[i]);
        assert_false(cached_run(folder, 2, 0.25f)); /* damaged: compiled again, and kept again */
        assert_true(cached_run(folder, 2, 0.25f));
    }
    const off_t sizes[] = {0, 10, 30, 60, whole.st_size / 2};
    for (int i = 0; i < KD_COUNT(sizes); i++) {
        assert_int_equal(truncate(path, sizes[i]), 0);
        assert_false(cached_run(folder, 2, 0.25f));
    }
    assert_int_equal(truncate(path, whole.st_size + 8), 0);
    assert_false(cached_run(folder, 2, 0.25f));
    assert_int_equal(list_cache(folder, path, sizeof path), kernels); /* and no temporary files */
    assert_false(cached_run(folder, 0, 0.25f));
    assert_int_equal(list_cache(folder, path, sizeof path), 2 * kernels);
    remove_folder(folder);
    snprintf(path, sizeof path, "%s/deep", base);
    rmdir(path);
    rmdir(base);
    /* A folder that cannot be made is no failure. */
    assert_false(cached_run("/dev/null/kdc", 2, 0.25f));
}

/* The folder does not grow without end, and what is in use stays. */
static void test_cache_is_pruned(void **state) {
    (void)state;
    char folder[] = "/tmp/kdc-cache-XXXXXX", ours[512], path[512], other[64];
    assert_non_null(mkdtemp(folder));
    assert_false(cached_run(folder, 2, 0.25f));
    int kernels = list_cache(folder, ours, sizeof ours);
    snprintf(other, sizeof other, "%s/notes.txt", folder); /* not ours: stays */
    write_whole(other, "", 0);
    enum { MANY = 8300, LEFT = 6144 }; /* cache.c's limits */
    for (int i = 0; i < MANY; i++) {
        snprintf(path, sizeof path, "%s/%032x.kdo", folder, i);
        write_whole(path, "", 0);
        struct timespec old[2] = {{1000000 + i, 0}, {1000000 + i, 0}};
        assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    }
    assert_true(cached_run(folder, 2, 0.25f));
    assert_int_equal(list_cache(folder, path, sizeof path), MANY + kernels + 1);
    assert_false(cached_run(folder, 1, 0.25f)); /* saves, and prunes */
    assert_int_equal(list_cache(folder, path, sizeof path), LEFT + 1);
    assert_true(cached_run(folder, 2, 0.25f));
    snprintf(path, sizeof path, "%s/%032x.kdo", folder, MANY - 1); /* of the old ones the youngest */
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(access(other, F_OK), 0);
    remove_folder(folder);
}

static void test_cache_folder(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    char *xdg = getenv("XDG_CACHE_HOME") ? strdup(getenv("XDG_CACHE_HOME")) : NULL;
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    setenv("XDG_CACHE_HOME", "/x/cache", 1);
    setenv("HOME", "/home/me", 1);
    assert_string_equal(kd_cache_folder(cx), "/x/cache/kdc");
    setenv("XDG_CACHE_HOME", "", 1);
    assert_string_equal(kd_cache_folder(cx), "/home/me/.cache/kdc");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_null(kd_cache_folder(cx));
    if (xdg)
        setenv("XDG_CACHE_HOME", xdg, 1);
    if (home)
        setenv("HOME", home, 1);
    free(xdg);
    free(home);
    kd_context_free(cx);
}

/* Two threads with contexts of their own compile at the same time, into one cache. */
static void *thread_main(void *folder) {
    for (int i = 0; i < 3; i++)
        cached_run(folder, 1 + i, 0.25f);
    return NULL;
}

static void test_two_contexts(void **state) {
    (void)state;
    char folder[] = "/tmp/kdc-cache-XXXXXX", path[512];
    assert_non_null(mkdtemp(folder));
    assert_false(cached_run(folder, 1, 0.25f));
    int kernels = list_cache(folder, path, sizeof path);
    pthread_t a;
    assert_int_equal(pthread_create(&a, NULL, thread_main, folder), 0);
    thread_main(folder);
    pthread_join(a, NULL);
    assert_int_equal(list_cache(folder, path, sizeof path), 3 * kernels);
    remove_folder(folder);
}

/* ---- targets ------------------------------------------------------------------------------------------------ */

/* All that a machine may lack: fma, rounding, gathers, masks, 64-bit arithmetic, saturation; scalars, vectors of the
 * machine's width, and wider ones. */
static KlModule *hard_module(KdContext *cx, int width) {
    KlModule *m = kl_module_new(cx, "hard");
    const int lanes[] = {1, width, 2 * width};
    for (int i = 0; i < KD_COUNT(lanes); i++) {
        int n = lanes[i], slot = 0;
        KlKernel *k = kl_kernel_new(cx, "hard", 4);
        int in = kl_buf(k, "in", KL_F32, 256, KL_IN), ints = kl_buf(k, "ints", KL_I32, 256, KL_IN);
        int bytes = kl_buf(k, "bytes", KL_U8, 256, KL_INOUT), out = kl_buf(k, "out", KL_F32, 4 * 32 * n, KL_OUT);
        KlBuilder bb = kl_builder(k), *b = &bb;
        KlValue p = kl_parallel_index(k), x = kl_load(b, in, kl_op2(b, KL_OP_MUL, p, kl_i64(b, n)), n);
        KlValue j = kl_load(b, ints, kl_i64(b, 3), n), mask = kl_cmp(b, KL_LT, j, kl_constant_like(b, j, 9));
        KlValue low = kl_op2(b, KL_OP_AND, j, kl_constant_like(b, j, 255)), wide = kl_cvt(b, KL_I64, x);
        KlValue d = kl_op2(b, KL_OP_OR, j, kl_constant_like(b, j, 1)), u = kl_load_if(b, bytes, p, mask, KL_NONE);
        KlValue r[] = {kl_fma(b, x, x, x), kl_op1(b, KL_OP_FLOOR, x), kl_op1(b, KL_OP_ROUND, x), kl_op1(b, KL_OP_SQRT, x),
                       kl_exp(b, x), kl_log(b, x), kl_tanh(b, x), kl_pow(b, x, x), kl_gather(b, in, low, mask, x),
                       kl_load_if(b, in, p, mask, x), kl_cvt(b, KL_F32, kl_op2(b, KL_OP_MUL, wide, wide)),
                       kl_cvt(b, KL_F32, kl_op2(b, KL_OP_DIV, j, d)), kl_cvt(b, KL_F32, kl_op2(b, KL_OP_REM, wide, kl_cvt(b, KL_I64, d))),
                       kl_cvt(b, KL_F32, u), kl_op2(b, KL_OP_DIV, x, x), kl_splat(b, n, kl_reduce(b, KL_OP_MAX, x)),
                       kl_cvt(b, KL_F32, kl_random_bits(b, j, low)), kl_cvt(b, KL_F32, kl_op2(b, KL_OP_SHR, wide, kl_cvt(b, KL_I64, kl_op2(b, KL_OP_AND, low, kl_constant_like(b, low, 31)))))};
        for (int o = 0; o < KD_COUNT(r); o++)
            kl_store_if(b, out, kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, p, kl_i64(b, 32 * n)), kl_i64(b, slot++ * n)), r[o], mask);
        kl_scatter(b, bytes, low, u, mask);
        kl_scatter(b, out, kl_op2(b, KL_OP_AND, j, kl_constant_like(b, j, 31)), x, KL_NONE);
        kl_store_if(b, bytes, p, u, mask);
        add_kernel_with_externs(m, k);
    }
    return m;
}

/* The symbols that a 64-bit ELF object leaves undefined, but kdrt's; NULL if there are none. */
static const char *undefined_symbol(const char *object) {
    const Elf64_Ehdr *head = (const Elf64_Ehdr *)(const void *)object;
    assert_memory_equal(head->e_ident, ELFMAG, SELFMAG);
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(const void *)(object + head->e_shoff);
    int kdrt = 0;
    for (int i = 0; i < head->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB)
            continue;
        const char *names = object + sections[sections[i].sh_link].sh_offset;
        const Elf64_Sym *symbols = (const Elf64_Sym *)(const void *)(object + sections[i].sh_offset);
        for (size_t s = 1; s < sections[i].sh_size / sizeof *symbols; s++) {
            if (symbols[s].st_shndx != SHN_UNDEF)
                continue;
            if (strncmp(names + symbols[s].st_name, "kdrt_", 5) != 0)
                return names + symbols[s].st_name;
            kdrt++;
        }
    }
    assert_true(kdrt > 0); /* the table was read at all */
    return NULL;
}

typedef struct TargetCase {
    const char *triple, *cpu;
    int lanes, registers;
    bool fma, gather;
    const char *word; /* of its assembly */
} TargetCase;

static const TargetCase targets[] = {
    {"x86_64-linux-gnu", "", 4, 16, false, false, "mulps"},
    {"x86_64-linux-gnu", "x86-64-v2", 4, 16, false, false, "roundps"},
    {"x86_64-linux-gnu", "sandybridge", 8, 16, false, false, "%ymm"},
    {"x86_64-linux-gnu", "x86-64-v3", 8, 16, true, true, "vfmadd"},
    {"x86_64-linux-gnu", "x86-64-v4", 16, 32, true, true, "%zmm"},
    {"x86_64-linux-gnu", "cascadelake", 16, 32, true, true, "%zmm"},
    {"aarch64-linux-gnu", "", 4, 32, true, false, "fmla"},
    {"aarch64-linux-gnu", "cortex-a72", 4, 32, true, false, "frintn"},
};

static void test_target(void **state) {
    const TargetCase *c = *state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KdTarget t;
    assert_true(kd_target_named(cx, c->triple, c->cpu, &t));
    assert_int_equal(t.machine.lanes, c->lanes);
    assert_int_equal(t.machine.registers, c->registers);
    assert_int_equal(t.machine.fma, c->fma);
    assert_int_equal(t.machine.gather, c->gather);
    assert_true(t.machine.l1 >= 16 << 10 && t.machine.l2 > t.machine.l1 && t.machine.l3 > 0);
    KlModule *m = hard_module(cx, c->lanes);
    for (int opt = 0; opt <= 3; opt += 3) {
        KdStr object = {.cx = cx}, text = {.cx = cx}, ir = {.cx = cx};
        KdCodegenOptions o = {.opt = opt};
        assert_true(kd_codegen(cx, m, &t, &o, KD_EMIT_OBJ, &object));
        const char *missing = undefined_symbol(object.s);
        if (missing)
            fail_msg("-O%d for %s %s calls %s", opt, c->triple, c->cpu, missing);
        if (opt == 0)
            continue;
        assert_true(kd_codegen(cx, m, &t, &o, KD_EMIT_ASM, &text));
        assert_true(kd_codegen(cx, m, &t, &o, KD_EMIT_LLVM, &ir));
        assert_non_null(strstr(text.s, c->word));
        assert_non_null(strstr(ir.s, "define internal void @hard_k0(ptr"));
        assert_non_null(strstr(ir.s, "define void @hard(ptr"));
        assert_null(strstr(ir.s, "fast"));
    }
    kd_landing_pop(cx);
    kd_context_free(cx);
}

static void test_host(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdTarget t;
    assert_true(kd_target_host(cx, &t));
    assert_true(t.machine.lanes >= 4 && t.machine.registers >= 16);
    assert_true(t.machine.l1 >= 8 << 10 && t.machine.l2 >= t.machine.l1);
    assert_true(t.triple == kd_intern_z(cx, t.triple) && *t.cpu);
    kd_context_free(cx);
}

static void expect_error(KdContext *cx, const char *a, const char *b) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    kd_diag_print(cx, f, false);
    fclose(f);
    if (!strstr(text, a) || (b && !strstr(text, b)))
        fail_msg("wanted '%s' and '%s' in: %s", a, b ? b : "", text);
    free(text);
}

static void test_wrong_targets(void **state) {
    (void)state;
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    KdTarget t;
    assert_false(kd_target_named(cx, "x86_64-linux-gnu", "cascadelak", &t));
    expect_error(cx, "no CPU 'cascadelak'", "'cascadelake'");
    assert_false(kd_target_named(cx, "sparc-sun-solaris", "", &t));
    expect_error(cx, "no code generator for 'sparc-sun-solaris'", NULL);
    KdTarget host;
    assert_true(kd_target_host(cx, &host));
    bool x86 = strncmp(host.triple, "x86", 3) == 0;
    assert_true(kd_target_named(cx, x86 ? "aarch64-linux-gnu" : "x86_64-linux-gnu", "", &t));
    assert_null(kd_jit_new(cx, plan_module(cx, 1), &t, &(KdCodegenOptions){.opt = 1}, NULL));
    expect_error(cx, "cannot run on this machine", NULL);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

/* ---- what the schedules count on ---------------------------------------------------------------------------- */

/* A tile of rows x 2 accumulators, as the direct convolution has it: no spill in the loop, whatever the unrolling. */
static KlModule *tile_module(KdContext *cx, int rows, int lanes, int unroll) {
    enum { K = 96 };
    KlModule *m = kl_module_new(cx, "tile");
    KlKernel *k = kl_kernel_new(cx, "tile", 4);
    int a = kl_buf(k, "a", KL_F32, 4 * rows * K, KL_IN), w = kl_buf(k, "w", KL_F32, 2 * lanes * K, KL_IN);
    int out = kl_buf(k, "out", KL_F32, 4 * rows * 2 * lanes, KL_OUT);
    KlBuilder bb = kl_builder(k), *b = &bb;
    KlValue p = kl_parallel_index(k), acc[64], next[64], zero = kl_splat(b, lanes, kl_f32(b, 0)), weight[2];
    for (int i = 0; i < 2 * rows; i++)
        acc[i] = zero;
    KlFor f = kl_for_begin(b, kl_i64(b, 0), kl_i64(b, K), 1, 2 * rows, acc);
    f.instr->unroll = (uint16_t)unroll;
    for (int n = 0; n < 2; n++)
        weight[n] = kl_load(b, w, kl_op2(b, KL_OP_ADD, kl_op2(b, KL_OP_MUL, f.i, kl_i64(b, 2 * lanes)), kl_i64(b, n * lanes)), lanes);
    for (int r = 0; r < rows; r++) {
        KlValue x = kl_splat(b, lanes, kl_load(b, a, at(b, p, rows * K, f.i, r * K), 1));
        for (int n = 0; n < 2; n++)
            next[2 * r + n] = kl_fma(b, x, weight[n], f.carried[2 * r + n]);
    }
    kl_for_end(b, &f, next, acc);
    for (int i = 0; i < 2 * rows; i++)
        kl_store(b, out, at(b, p, 2 * rows * lanes, KL_NONE, i * lanes), acc[i]);
    add_kernel_with_externs(m, k);
    return m;
}

static int count(const char *text, const char *word) {
    int n = 0;
    for (const char *s = text; (s = strstr(s, word)); s += strlen(word))
        n++;
    return n;
}

static void test_no_spills(void **state) {
    (void)state;
    static const struct { const char *triple, *cpu; int rows, lanes; const char *stack; } cases[] = {
        {"x86_64-linux-gnu", "cascadelake", 14, 16, "(%rsp)"},
        {"x86_64-linux-gnu", "x86-64-v3", 6, 8, "(%rsp), %ymm"},
        {"aarch64-linux-gnu", "cortex-a72", 12, 4, "q8, [sp"},
    };
    KdContext *cx = kd_context_new();
    KdLanding l;
    if (!KD_TRY(cx, l))
        raised(cx);
    for (int c = 0; c < KD_COUNT(cases); c++)
        for (int unroll = 1; unroll <= 8; unroll *= 2) {
            KdTarget t;
            KdStr text = {.cx = cx};
            assert_true(kd_target_named(cx, cases[c].triple, cases[c].cpu, &t));
            KlModule *m = tile_module(cx, cases[c].rows, cases[c].lanes, unroll);
            assert_true(kd_codegen(cx, m, &t, &(KdCodegenOptions){.opt = 2}, KD_EMIT_ASM, &text));
            int spills = count(text.s, cases[c].stack);
            if (spills > 0)
                fail_msg("%s, tile of %d x 2, unrolled %d times: %d spills", cases[c].cpu, cases[c].rows, unroll, spills);
            int fmas = count(text.s, c < 2 ? "vfmadd" : "fmla");
            assert_int_equal(fmas, 2 * cases[c].rows * unroll);
        }
    check_module(cx, tile_module(cx, 14, 16, 4), 3, 1, WAY_O0 | WAY_O3);
    kd_landing_pop(cx);
    kd_context_free(cx);
}

int main(void) {
    struct CMUnitTest tests[16 + KD_COUNT(targets)] = {
        cmocka_unit_test(test_plan),         cmocka_unit_test(test_threads),      cmocka_unit_test(test_long_plan),
        cmocka_unit_test(test_cache),        cmocka_unit_test(test_cache_folder), cmocka_unit_test(test_two_contexts),
        cmocka_unit_test(test_host),         cmocka_unit_test(test_wrong_targets), cmocka_unit_test(test_no_spills),
        cmocka_unit_test(test_cache_is_pruned),
    };
    static char names[KD_COUNT(targets)][64];
    int n = 10;
    for (int i = 0; i < KD_COUNT(targets); i++) {
        snprintf(names[i], sizeof names[i], "target_%s_%s", targets[i].triple, targets[i].cpu);
        tests[n++] = (struct CMUnitTest){.name = names[i], .test_func = test_target,
                                         .initial_state = (void *)(uintptr_t)&targets[i]};
    }
    return _cmocka_run_group_tests("jit", tests, (size_t)n, NULL, NULL);
}
