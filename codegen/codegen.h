/* codegen.h: loop IR -> machine code, through the LLVM 19 C API. The only folder that includes llvm-c.
 *
 * A module becomes functions
 *     void NAME(KdrtContext *cx, void *const *ext, void *arena);   the entry: runs the plan
 *     void NAME_kN(void *const *bufs, int64_t begin, int64_t end, void *scratch);   one per kernel (local)
 * Kernels are emitted in the same way for ORC and for an object file, so the two cannot drift; the JIT needs no entry. Generated code calls nothing but what
 * runtime/kdrt/kdrt.def lists. Externs must be memory of their own: two of them may not overlap.
 */
#ifndef KD_CODEGEN_H
#define KD_CODEGEN_H

#include "ir/loop.h"

typedef struct KdTarget {
    const char *triple, *cpu, *features; /* LLVM's words; interned */
    KlMachine machine;                   /* what the schedules may know of it */
} KdTarget;

/* The machine this runs on, found out once per call (LLVM for CPU and features, /sys for caches). */
bool kd_target_host(KdContext *cx, KdTarget *t);
/* By triple and CPU ("x86-64-v3", "cortex-a72", "" = generic); NULL triple: host. false after kd_error. */
bool kd_target_named(KdContext *cx, const char *triple, const char *cpu, KdTarget *t);

typedef enum KdEmit { KD_EMIT_LLVM, KD_EMIT_ASM, KD_EMIT_OBJ } KdEmit;

/* Compiled kernels of this process, which modules share. One thread at a time may make JITs with it; it outlives them. */
typedef struct KdKernels KdKernels;
KdKernels *kd_kernels_new(void); /* NULL: out of memory */
void kd_kernels_free(KdKernels *k);

typedef struct KdCodegenOptions {
    int opt;         /* 0..3: codegen level; IR passes are few either way */
    int jobs;        /* threads that compile; 0: all cores */
    const char *cache; /* folder of compiled objects, or NULL for none */
    KdKernels *kernels; /* shared by modules: each compiled kernel once; NULL: the JIT has its own */
} KdCodegenOptions;

/* Text or bytes of one stage, appended to out. Beside the entry an object has two constants,
 * `const int64_t NAME_scratch_bytes, NAME_arena_bytes`: what a KdrtContext's scratch_bytes and the arena need. */
bool kd_codegen(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, KdEmit what, KdStr *out);

/* ---- what became of the loops (spills.c) ---- */

/* A basic block of assembly, as KD_EMIT_ASM wrote it. */
typedef struct KdAsmBlock {
    const char *function; /* `length` characters; NULL before the first */
    size_t length;
    bool loop;                      /* it ends with a jump to its own beginning */
    int instructions, fmas, spills; /* spills: vector registers that go to the stack or come back */
} KdAsmBlock;
enum { KD_ASM_MANY_FMAS = 8 }; /* with so many, a block is part of a schedule's inner loop */
typedef void KdAsmBlockFn(void *user, const KdAsmBlock *b);
void kd_asm_blocks(const char *text, const KdTarget *t, KdAsmBlockFn *fn, void *user);
/* By kernel of m: the spills in its inner loops (those blocks that are loops, and those of many multiply-adds).
 * Compiles m again, as assembly. NULL after kd_error. */
int *kd_kernel_spills(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o);

/* ---- artefacts: objects that run without kdc and kdrt (artefact.c, elf.c) ---- */

typedef struct KdBytes {
    const char *name;
    const void *bytes;
    size_t n;
} KdBytes;

typedef struct KdRename {
    const char *from, *as;
} KdRename;

#define KD_ARTEFACT_POINTERS 64

/* C code, as bitcode of the target's architecture, and what it is to be linked with; all names are C identifiers. */
typedef struct KdArtefact {
    KdBytes bitcode;
    const KdBytes *constants; /* defined under their names, on multiples of 64 */
    int n_constants;
    const char *run; /* the function that becomes kdrt_run */
    const KdRename *public_names; /* functions that the outside sees, as what */
    int n_public;
    /* And one more, made here: int spread_as(void *state, void *p0, ...) with n_pointers pointers after the first; it
     * calls the code's int spread(void *state, void *const *pointers). */
    const char *spread, *spread_as;
    int n_pointers;
} KdArtefact;

/* The object, appended to out. The entry of m is `void kdx_entry(KdrtContext *, void *const *ext, void *arena)` to the C code. */
bool kd_artefact(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, const KdArtefact *a,
                 KdStr *out);

typedef struct KdSymbols {
    KD_VEC(const char *) defined, undefined; /* global ones */
} KdSymbols;
/* false: no ELF object. */
bool kd_object_symbols(KdContext *cx, const KdStr *object, KdSymbols *out);
/* An archive (libX.a) with the object as its only member, appended to out. */
void kd_archive(const KdStr *object, const char *name, const KdSymbols *symbols, KdStr *out);

/* Scratch bytes that a thread needs to run any kernel of m: KdrtContext.scratch_bytes. */
int64_t kd_scratch_bytes(const KlModule *m);

typedef struct KdJit KdJit;
typedef struct KdJitStats {
    int kernels;       /* distinct kernels */
    int compiled;      /* of them, neither in the store nor in the cache's folder */
    bool from_cache;   /* nothing was compiled */
    double seconds;
    int64_t object_bytes; /* of those that the store lacked */
} KdJitStats;
/* Compiles (or takes from the cache) and loads. NULL after kd_error / raises for our own bugs. */
KdJit *kd_jit_new(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, KdJitStats *stats);
/* Runs the plan. kdrt_context: a KdrtContext. */
void kd_jit_run(const KdJit *j, void *kdrt_context, void *const *ext, void *arena);
size_t kd_jit_scratch(const KdJit *j); /* KdrtContext.scratch_bytes */
void kd_jit_free(KdJit *j); /* any time after the last run; the KdContext may be gone */
/* "$XDG_CACHE_HOME/kdc" or "$HOME/.cache/kdc"; NULL if neither is set. Created on first write. */
const char *kd_cache_folder(KdContext *cx);

#endif
