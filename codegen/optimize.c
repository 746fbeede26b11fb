/* optimize.c: what of LLVM is used, and how it is set up.
 *
 * Kernels come with vectors, unrolling and accumulators written down, so of LLVM's IR passes only sharing of equal
 * expressions (`early-cse`: unrolled copies compute the same addresses) and hoisting out of loops (`licm`) pay for
 * their time; the rest is the code generator. Its scheduler before register allocation is switched off: it hoists
 * broadcast loads over the multiply-adds they feed, and spills (performance.md: 1.5 times slower). There is no switch
 * for that but LLVM's process-wide one. (emit.c's keep_order deals with the other pass that moves loads.)
 */
#include "codegen/internal.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/Support.h>
#include <llvm-c/Target.h>
#include <llvm-c/Transforms/PassBuilder.h>

#include <pthread.h>
#include <string.h>

static void init_once(void) {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser(); /* artefacts ask for CPUID */
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    static const char *const switches[] = {"kdc", "-enable-misched=false"};
    LLVMParseCommandLineOptions(KD_COUNT(switches), switches, "");
}

void kd_llvm_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT; /* LLVM's registries are process-wide, and so is this */
    pthread_once(&once, init_once);
}

/* NULL after writing why. */
static LLVMTargetMachineRef target_machine(const KdTarget *t, int opt, char **why) {
    static const LLVMCodeGenOptLevel levels[] = {LLVMCodeGenLevelNone, LLVMCodeGenLevelLess,
                                                 LLVMCodeGenLevelDefault, LLVMCodeGenLevelAggressive};
    LLVMTargetRef target;
    if (LLVMGetTargetFromTriple(t->triple, &target, why))
        return NULL;
    return LLVMCreateTargetMachine(target, t->triple, t->cpu, t->features, levels[opt < 0 ? 0 : opt > 3 ? 3 : opt],
                                   LLVMRelocPIC, LLVMCodeModelDefault);
}

static bool run_passes(LLVMModuleRef module, LLVMTargetMachineRef tm, int opt, char **why) {
    if (LLVMVerifyModule(module, LLVMReturnStatusAction, why))
        return false;
    LLVMDisposeMessage(*why);
    *why = NULL;
    if (opt <= 0)
        return true;
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef error = LLVMRunPasses(module, "function(early-cse,loop-mssa(licm))", tm, options);
    LLVMDisposePassBuilderOptions(options);
    if (!error)
        return true;
    char *text = LLVMGetErrorMessage(error);
    *why = LLVMCreateMessage(text);
    LLVMDisposeErrorMessage(text);
    return false;
}

/* Without a handler LLVM prints and, at an error, exits. */
static void note_diagnostic(LLVMDiagnosticInfoRef info, void *first) {
    char **why = first;
    if (LLVMGetDiagInfoSeverity(info) == LLVMDSError && !*why)
        *why = LLVMGetDiagInfoDescription(info);
}

static bool write_out(LLVMModuleRef module, LLVMTargetMachineRef tm, KdEmit what, LLVMMemoryBufferRef *out,
                      char **why) {
    switch (what) {
    case KD_EMIT_LLVM: {
        char *text = LLVMPrintModuleToString(module);
        *out = LLVMCreateMemoryBufferWithMemoryRangeCopy(text, strlen(text), "");
        LLVMDisposeMessage(text);
        return true;
    }
    case KD_EMIT_ASM: return !LLVMTargetMachineEmitToMemoryBuffer(tm, module, LLVMAssemblyFile, why, out);
    case KD_EMIT_OBJ: return !LLVMTargetMachineEmitToMemoryBuffer(tm, module, LLVMObjectFile, why, out);
    }
    return false;
}

bool kd_compile(const KdEmitJob *job, int opt, KdEmit what, LLVMMemoryBufferRef *out, char **why) {
    *why = NULL;
    *out = NULL;
    kd_llvm_init();
    LLVMTargetMachineRef tm = target_machine(job->t, opt, why);
    if (!tm)
        return false;
    char *diagnostic = NULL;
    LLVMContextRef cx = LLVMContextCreate();
    LLVMContextSetDiagnosticHandler(cx, note_diagnostic, &diagnostic);
    LLVMModuleRef module = LLVMModuleCreateWithNameInContext(job->m->name, cx);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(tm);
    LLVMSetModuleDataLayout(module, layout);
    LLVMDisposeTargetData(layout);
    LLVMSetTarget(module, job->t->triple);
    bool ok = kd_emit(job, module) && run_passes(module, tm, opt, why) &&
              (!job->artefact || kd_artefact_link(module, tm, job->artefact, why)) &&
              write_out(module, tm, what, out, why);
    LLVMDisposeModule(module);
    LLVMContextDispose(cx);
    LLVMDisposeTargetMachine(tm);
    if (ok && !diagnostic)
        return true;
    if (*out)
        LLVMDisposeMemoryBuffer(*out);
    *out = NULL;
    if (*why)
        LLVMDisposeMessage(diagnostic);
    else
        *why = diagnostic;
    return false;
}

_Noreturn void kd_raise_compile(KdContext *cx, char *why) {
    if (!why)
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory while generating code");
    const char *text = kd_format(cx, "%s", why);
    LLVMDisposeMessage(why);
    kd_raise(cx, KD_FAIL_INTERNAL, "codegen: LLVM refuses what was emitted: %s", text);
}
