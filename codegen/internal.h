/* internal.h: what the files of codegen/ share. No other folder includes it. */
#ifndef KD_CODEGEN_INTERNAL_H
#define KD_CODEGEN_INTERNAL_H

#include "codegen/codegen.h"

#include <llvm-c/Core.h>
#include <llvm-c/Orc.h>
#include <llvm-c/TargetMachine.h>

#include "runtime/kdrt/kdrt.h"

/* ---- target.c ------------------------------------------------------------------------------------ */

/* What emission must know of the instruction set, beyond what schedules may. */
typedef struct KdIsa {
    KlMachine machine; /* lanes, registers, fma, gather; caches are guesses */
    bool round;        /* rounding instructions (SSE4.1, NEON); otherwise they would become libm calls */
} KdIsa;

/* By the words in t; false if the triple or the CPU is unknown. */
bool kd_isa_of(const char *triple, const char *cpu, const char *features, KdIsa *isa);

/* ---- emit.c, emit_expr.c -------------------------------------------------------------------------- */

typedef struct KdEmitter {
    const KlModule *m;
    const KdTarget *t;
    const char *symbol; /* of the only kernel, or NULL */
    KdIsa isa;
    LLVMContextRef cx;
    LLVMModuleRef module;
    LLVMBuilderRef b;
    LLVMTypeRef i1, i8, i32, i64, f32, f64, ptr, empty; /* empty: void */
    /* of the kernel at hand */
    const KlKernel *k;
    LLVMValueRef fn;
    LLVMValueRef *value;   /* by KlValue: its LLVM value at this point of emission */
    const KlInstr **def;   /* by KlValue: the instruction that defines it; NULL for block parameters */
    LLVMValueRef *base;    /* by KlValue: if not NULL, the value is base + addend (i64, constant) */
    int64_t *addend;
    LLVMValueRef *buf;     /* by buffer: its address */
    LLVMValueRef *scope, *noalias; /* by buffer: metadata lists; NULL if nothing is known */
    bool in_tile;          /* inside a loop whose accumulators take most registers */
    bool computed;         /* vector arithmetic was emitted since the last vector load */
    bool out_of_memory;
} KdEmitter;

/* Emits into `module`: the kernels listed, and the entry with its tables if `entry`. Kernels are local to the module
 * if `local`, else visible to the other objects of a JIT. `pool`: the constants are part of the module; otherwise
 * NAME_pool is left to be resolved. Allocates nothing from the KdContext, so threads may emit side by side.
 * false when out of memory. */
typedef struct KdEmitJob {
    const KlModule *m;
    const KdTarget *t;
    const int *kernels;
    int n_kernels;
    bool entry, local, pool;
    const char *symbol; /* of the only kernel; NULL: NAME_kN */
    const KdArtefact *artefact; /* NULL, or what kd_compile links after the passes */
} KdEmitJob;
bool kd_emit(const KdEmitJob *job, LLVMModuleRef module);

/* How the plan's tables hold a call: its buffers but for scratch, and an argument's KdrtArg.base. */
int kd_args_of(const KlKernel *k);
int64_t kd_arg_base(const KlArg *a);

LLVMTypeRef kd_emit_type(const KdEmitter *e, KlType t);
/* The value of a PURE instruction; notes base and addend where they are known. */
LLVMValueRef kd_emit_expr(KdEmitter *e, const KlInstr *in);
LLVMValueRef kd_emit_intrinsic(KdEmitter *e, const char *name, LLVMTypeRef *types, int n_types,
                               LLVMValueRef *args, int n_args);

/* ---- rtcall.c -------------------------------------------------------------------------------------- */

LLVMValueRef kd_rt_declare(LLVMModuleRef module, const char *name, LLVMTypeRef *type);
/* Makes the runtime's functions known to a JIT under their names. */
LLVMErrorRef kd_rt_define(LLVMOrcExecutionSessionRef session, LLVMOrcJITDylibRef lib);

/* ---- optimize.c ------------------------------------------------------------------------------------ */

/* Initialises LLVM's targets and switches, once per process. */
void kd_llvm_init(void);

/* Emits the job and takes it through LLVM: text, assembly or object in *out (LLVMDisposeMemoryBuffer). Touches no
 * KdContext, so threads may compile side by side. false after writing why (malloc'ed); NULL if memory ran out. */
bool kd_compile(const KdEmitJob *job, int opt, KdEmit what, LLVMMemoryBufferRef *out, char **why);

/* Links the C part of an artefact into the emitted module: artefact.c. false after writing why. */
bool kd_artefact_link(LLVMModuleRef module, LLVMTargetMachineRef tm, const KdArtefact *a, char **why);

/* A failed kd_compile, raised. */
_Noreturn void kd_raise_compile(KdContext *cx, char *why);

/* ---- kernels.c ------------------------------------------------------------------------------------- */

typedef struct KdKernelKey {
    uint64_t a, b;
} KdKernelKey;

/* fn[i]: the i-th kernel of m, loaded into the store, which keeps it. Raises. Adds what it did to *stats. */
void kd_kernels_get(KdContext *cx, KdKernels *k, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o,
                    KdrtKernel **fn, KdJitStats *stats);

/* ---- cache.c --------------------------------------------------------------------------------------- */

/* The hash of all that a kernel's machine code depends on. */
KdKernelKey kd_kernel_key(const KlKernel *k, const KdTarget *t, const KdCodegenOptions *o);
/* Where its object would be kept: FOLDER/KEY.kdo. */
const char *kd_cache_path(KdContext *cx, const char *folder, KdKernelKey key);
LLVMMemoryBufferRef kd_cache_load(const char *path); /* NULL: absent, or not what was written */
void kd_cache_save(const char *path, const char *object, size_t size); /* best effort: a cache may fail */
/* Deletes what was not used for longest where there is too much; a call for each batch of saves. */
void kd_cache_prune(const char *folder);

#endif
