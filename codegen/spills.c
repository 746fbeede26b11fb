/* spills.c: what the loops of emitted assembly are made of. In: the text of kd_codegen(..., KD_EMIT_ASM). Out: its
 * basic blocks, each from a label or jump to the next jump or label, with counts.
 *
 * A spill is an instruction that moves a vector register to the stack or back: memory relative to the stack pointer and
 * a vector register in one line. LLVM keeps nothing else of vectors there: scratch comes in through a pointer.
 */
#include <string.h>

#include "codegen/codegen.h"

typedef struct Words { /* how an architecture spells things */
    const char *fma[3], *stack, *vector[3];
    bool arm;
} Words;

static const Words x86 = {{"vfmadd", "vfnmadd", "vfmsub"}, "(%rsp", {"%zmm", "%ymm", "%xmm"}, false};
static const Words aarch64 = {{"fmla", "fmls", "fmadd"}, "[sp", {"\tq", " q", ",q"}, true};

static bool has(const char *line, size_t n, const char *what) {
    size_t m = strlen(what);
    for (size_t i = 0; i + m <= n; i++) {
        if (memcmp(line + i, what, m) == 0) {
            return true;
        }
    }
    return false;
}

static bool has_any(const char *line, size_t n, const char *const *what) {
    return has(line, n, what[0]) || has(line, n, what[1]) || has(line, n, what[2]);
}

/* Of a line that begins with a tab. Calls come back, so they end no block. */
static bool is_jump(const Words *w, const char *line, size_t n) {
    if (!w->arm) {
        return n > 1 && line[1] == 'j';
    }
    static const char *const jumps[] = {"\tb\t", "\tb.", "\tcbz\t", "\tcbnz\t", "\ttbz\t", "\ttbnz\t"};
    for (int i = 0; i < KD_COUNT(jumps); i++) {
        if (n > strlen(jumps[i]) && memcmp(line, jumps[i], strlen(jumps[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* Does the jump in this line go to `label` (n_label characters)? Its target is its last word. */
static bool goes_to(const char *line, size_t n, const char *label, size_t n_label) {
    return n_label > 0 && n > n_label && memcmp(line + n - n_label, label, n_label) == 0 &&
           (line[n - n_label - 1] == '\t' || line[n - n_label - 1] == ' ');
}

void kd_asm_blocks(const char *text, const KdTarget *t, KdAsmBlockFn *fn, void *user) {
    const Words *w = strncmp(t->triple, "aarch64", 7) == 0 ? &aarch64 : &x86;
    KdAsmBlock b = {0};
    const char *label = NULL;
    size_t n_label = 0;
    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        bool is_label = n > 1 && *line != '\t' && *line != ' ' && *line != '#' && line[n - 1] == ':';
        bool jump = *line == '\t' && is_jump(w, line, n);
        if (jump || is_label) {
            b.instructions += jump;
            b.loop = jump && goes_to(line, n, label, n_label);
            if (b.instructions > 0) {
                fn(user, &b);
            }
            b = (KdAsmBlock){.function = b.function, .length = b.length};
            label = is_label ? line : NULL; /* what follows a jump is no loop of the label before it */
            n_label = is_label ? n - 1 : 0;
            if (is_label && *line != '.') {
                b.function = line;
                b.length = n - 1;
            }
        } else if (*line == '\t' && n > 1 && line[1] != '.' && line[1] != '#' && line[1] != '/') {
            b.instructions++;
            b.fmas += has_any(line, n, w->fma);
            b.spills += has(line, n, w->stack) && has_any(line, n, w->vector);
        }
        line += n + (line[n] == '\n');
    }
}

typedef struct Count {
    const KlModule *m;
    int *spills;
} Count;

/* Kernel 12 of module S is the function S_k12. */
static void add_spills(void *user, const KdAsmBlock *b) {
    const Count *c = user;
    size_t n = strlen(c->m->name);
    if (!b->spills || (!b->loop && b->fmas < KD_ASM_MANY_FMAS) || b->length <= n + 2 ||
        memcmp(b->function, c->m->name, n) != 0 || memcmp(b->function + n, "_k", 2) != 0) {
        return;
    }
    int kernel = 0;
    for (size_t i = n + 2; i < b->length && kernel <= c->m->kernels.n; i++) {
        kernel = 10 * kernel + (b->function[i] - '0');
    }
    if (kernel >= 0 && kernel < c->m->kernels.n) {
        c->spills[kernel] += b->spills;
    }
}

int *kd_kernel_spills(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o) {
    KdStr s = {.cx = cx};
    Count c = {m, KD_NEW_ARRAY(cx, int, m->kernels.n + 1)};
    if (!kd_codegen(cx, m, t, o, KD_EMIT_ASM, &s)) {
        return NULL;
    }
    memset(c.spills, 0, sizeof *c.spills * (size_t)(m->kernels.n + 1));
    kd_asm_blocks(s.s ? s.s : "", t, add_spills, &c);
    return c.spills;
}
