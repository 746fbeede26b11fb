/* target.c: which machine code is for.
 *
 * In: nothing (the host), or a triple and a CPU name. Out: a KdTarget: LLVM's words for the machine, and the few
 * numbers that schedules choose by. The host is asked through LLVM (CPU name, feature list) and /sys (caches). For a
 * named CPU there is nobody to ask (LLVM's C API does not tell a CPU's features), so a table gives each name the level
 * of vectors it has; that also makes a misspelt name an error instead of a warning by LLVM.
 */
#include "codegen/internal.h"

#include <stdlib.h>
#include <string.h>

typedef enum Level { SSE2, SSE41, AVX, AVX2, AVX512, NEON } Level;

static const KdIsa isa_of_level[] = {
    [SSE2] = {{.lanes = 4, .registers = 16}, .round = false},
    [SSE41] = {{.lanes = 4, .registers = 16}, .round = true},
    [AVX] = {{.lanes = 8, .registers = 16}, .round = true},
    [AVX2] = {{.lanes = 8, .registers = 16, .fma = true, .gather = true}, .round = true},
    [AVX512] = {{.lanes = 16, .registers = 32, .fma = true, .gather = true}, .round = true},
    [NEON] = {{.lanes = 4, .registers = 32, .fma = true}, .round = true},
};

typedef struct Cpu {
    const char *name;
    Level level;
} Cpu;

static const Cpu x86_cpus[] = {
    {"x86-64", SSE2},           {"generic", SSE2},         {"nocona", SSE2},
    {"k8", SSE2},               {"core2", SSE2},           {"penryn", SSE41},
    {"x86-64-v2", SSE41},       {"nehalem", SSE41},        {"westmere", SSE41},
    {"silvermont", SSE41},      {"goldmont", SSE41},       {"tremont", SSE41},
    {"sandybridge", AVX},       {"ivybridge", AVX},        {"btver2", AVX},
    {"bdver1", AVX},            {"x86-64-v3", AVX2},       {"haswell", AVX2},
    {"broadwell", AVX2},        {"skylake", AVX2},         {"alderlake", AVX2},
    {"raptorlake", AVX2},       {"meteorlake", AVX2},      {"lunarlake", AVX2},
    {"gracemont", AVX2},        {"sierraforest", AVX2},    {"znver1", AVX2},
    {"znver2", AVX2},           {"znver3", AVX2},          {"x86-64-v4", AVX512},
    {"skylake-avx512", AVX512}, {"cascadelake", AVX512},   {"cooperlake", AVX512},
    {"cannonlake", AVX512},     {"icelake-client", AVX512}, {"icelake-server", AVX512},
    {"tigerlake", AVX512},      {"rocketlake", AVX512},    {"sapphirerapids", AVX512},
    {"emeraldrapids", AVX512},  {"graniterapids", AVX512}, {"znver4", AVX512},
    {"znver5", AVX512},
};

static const Cpu arm_cpus[] = {
    {"generic", NEON},      {"cortex-a35", NEON},   {"cortex-a53", NEON},  {"cortex-a55", NEON},
    {"cortex-a57", NEON},   {"cortex-a72", NEON},   {"cortex-a73", NEON},  {"cortex-a75", NEON},
    {"cortex-a76", NEON},   {"cortex-a77", NEON},   {"cortex-a78", NEON},  {"cortex-a510", NEON},
    {"cortex-a710", NEON},  {"cortex-a715", NEON},  {"cortex-x1", NEON},   {"cortex-x2", NEON},
    {"cortex-x3", NEON},    {"neoverse-n1", NEON},  {"neoverse-n2", NEON}, {"neoverse-v1", NEON},
    {"neoverse-v2", NEON},  {"ampere1", NEON},      {"apple-a14", NEON},   {"apple-m1", NEON},
    {"apple-m2", NEON},     {"apple-m3", NEON},     {"a64fx", NEON},       {"thunderx2t99", NEON},
};

typedef enum Arch { ARCH_NONE, ARCH_X86, ARCH_ARM } Arch;

static Arch arch_of(const char *triple) {
    size_t n = strcspn(triple, "-");
    if ((n == 6 && strncmp(triple, "x86_64", n) == 0) || (n == 5 && strncmp(triple, "amd64", n) == 0))
        return ARCH_X86;
    if ((n == 7 && strncmp(triple, "aarch64", n) == 0) || (n == 5 && strncmp(triple, "arm64", n) == 0))
        return ARCH_ARM;
    return ARCH_NONE;
}

static const Cpu *cpus_of(Arch arch, int *n) {
    *n = arch == ARCH_X86 ? KD_COUNT(x86_cpus) : arch == ARCH_ARM ? KD_COUNT(arm_cpus) : 0;
    return arch == ARCH_X86 ? x86_cpus : arch == ARCH_ARM ? arm_cpus : NULL;
}

/* Whether "+sse4.1,-avx,..." switches `name` on. */
static bool has_feature(const char *features, const char *name) {
    size_t n = strlen(name);
    for (const char *f = features; *f;) {
        size_t len = strcspn(f, ",");
        if (len == n + 1 && f[0] == '+' && memcmp(f + 1, name, n) == 0)
            return true;
        f += len + (f[len] == ',');
    }
    return false;
}

static Level level_of_features(const char *f) {
    if (has_feature(f, "avx512f") && has_feature(f, "avx512bw") && has_feature(f, "avx512dq") &&
        has_feature(f, "avx512vl"))
        return AVX512;
    if (has_feature(f, "avx2") && has_feature(f, "fma"))
        return AVX2;
    if (has_feature(f, "avx"))
        return AVX;
    return has_feature(f, "sse4.1") ? SSE41 : SSE2;
}

bool kd_isa_of(const char *triple, const char *cpu, const char *features, KdIsa *isa) {
    Arch arch = arch_of(triple);
    if (arch == ARCH_X86 && *features) {
        *isa = isa_of_level[level_of_features(features)];
        return true;
    }
    if (arch == ARCH_ARM && *features) {
        *isa = isa_of_level[NEON];
        return true;
    }
    int n;
    const Cpu *cpus = cpus_of(arch, &n);
    for (int i = 0; i < n; i++)
        if (strcmp(cpus[i].name, *cpu ? cpu : "generic") == 0) {
            *isa = isa_of_level[cpus[i].level];
            return true;
        }
    return false;
}

/* Reads one line of a cache's description; "" if it is not there. */
static void read_cache_file(int index, const char *what, char *line, int size) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", index, what);
    line[0] = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    if (!fgets(line, size, f))
        line[0] = 0;
    fclose(f);
}

/* What nothing is known of: the least that desktop machines of the last ten years have. */
static void guess_caches(KlMachine *m) {
    m->l1 = 32 << 10;
    m->l2 = m->lanes == 16 ? 1 << 20 : 512 << 10;
    m->l3 = 8 << 20;
}

static void find_caches(KlMachine *m) {
    guess_caches(m);
    for (int i = 0; i < 8; i++) {
        char level[32], type[32], size[32], unit = 0;
        long bytes = 0;
        read_cache_file(i, "level", level, sizeof level);
        read_cache_file(i, "type", type, sizeof type);
        read_cache_file(i, "size", size, sizeof size);
        if (strncmp(type, "Instruction", 11) == 0 || sscanf(size, "%ld%c", &bytes, &unit) < 1 || bytes <= 0)
            continue;
        int64_t whole = (int64_t)bytes << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0);
        switch (level[0]) {
        case '1': m->l1 = whole; break;
        case '2': m->l2 = whole; break;
        case '3': m->l3 = whole; break;
        default: break;
        }
    }
}

static const char *intern_message(KdContext *cx, char *message) {
    const char *s = kd_intern_z(cx, message);
    LLVMDisposeMessage(message);
    return s;
}

bool kd_target_host(KdContext *cx, KdTarget *t) {
    kd_llvm_init();
    t->triple = intern_message(cx, LLVMGetDefaultTargetTriple());
    t->cpu = intern_message(cx, LLVMGetHostCPUName());
    t->features = intern_message(cx, LLVMGetHostCPUFeatures());
    KdIsa isa;
    if (!kd_isa_of(t->triple, t->cpu, t->features, &isa)) {
        kd_error(cx, 0, "kdc makes no code for this machine (%s); it knows x86_64 and aarch64", t->triple);
        return false;
    }
    t->machine = isa.machine;
    find_caches(&t->machine);
    return true;
}

static void hint_cpus(KdContext *cx, Arch arch, const char *cpu) {
    const char *names[KD_COUNT(x86_cpus)];
    int n;
    const Cpu *cpus = cpus_of(arch, &n);
    for (int i = 0; i < n; i++)
        names[i] = cpus[i].name;
    const char *near = kd_nearest(cpu, names, n);
    if (near)
        kd_hint(cx, "did you mean '%s'?", near);
}

bool kd_target_named(KdContext *cx, const char *triple, const char *cpu, KdTarget *t) {
    kd_llvm_init();
    bool same_machine = !triple;
    t->triple = triple ? intern_message(cx, LLVMNormalizeTargetTriple(triple))
                       : intern_message(cx, LLVMGetDefaultTargetTriple());
    Arch arch = arch_of(t->triple);
    if (arch == ARCH_NONE) {
        kd_error(cx, 0, "no code generator for '%s'; there are x86_64 and aarch64", t->triple);
        return false;
    }
    t->cpu = kd_intern_z(cx, cpu && *cpu ? cpu : arch == ARCH_X86 ? "x86-64" : "generic");
    t->features = kd_intern_z(cx, "");
    KdIsa isa;
    if (!kd_isa_of(t->triple, t->cpu, t->features, &isa)) {
        kd_error(cx, 0, "no CPU '%s' among those known for '%s'", t->cpu, t->triple);
        hint_cpus(cx, arch, t->cpu);
        return false;
    }
    t->machine = isa.machine;
    if (same_machine)
        find_caches(&t->machine);
    else
        guess_caches(&t->machine);
    return true;
}
