/* artefact.c: a module and the C code that runs it as one object that needs neither kdc nor kdrt.
 *
 * In: the module as kd_codegen emits it, after its passes; C code as LLVM bitcode for the same architecture; constants that
 * this code reads, as bytes. Out: one LLVM module in which only the public functions are visible. The kernels have been
 * through the same passes as for the JIT before anything is linked to them, so they are the same machine code.
 *
 * The C code's symbols begin with "kdx_". Its function that takes the plan becomes kdrt_run, which the entry calls; one
 * function more is made here: the entry with a parameter for each pointer of the caller's, since only here their
 * number is known.
 */
#include "codegen/internal.h"

#include <llvm-c/BitReader.h>
#include <llvm-c/Error.h>
#include <llvm-c/Linker.h>
#include <llvm-c/Transforms/PassBuilder.h>

#include <string.h>

static bool refuse(char **why, const char *text) {
    if (!*why)
        *why = LLVMCreateMessage(text);
    return false;
}

static void add_constant(LLVMModuleRef module, const KdBytes *b) {
    LLVMContextRef cx = LLVMGetModuleContext(module);
    LLVMValueRef init = LLVMConstStringInContext2(cx, b->bytes, b->n, true);
    LLVMValueRef g = LLVMAddGlobal(module, LLVMTypeOf(init), b->name);
    LLVMSetInitializer(g, init);
    LLVMSetGlobalConstant(g, true);
    LLVMSetAlignment(g, 64);
}

static bool link_code(LLVMModuleRef module, const KdArtefact *a, char **why) {
    LLVMMemoryBufferRef buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(a->bitcode.bytes, a->bitcode.n, a->bitcode.name);
    LLVMModuleRef code;
    LLVMBool bad = LLVMParseBitcodeInContext2(LLVMGetModuleContext(module), buffer, &code);
    LLVMDisposeMemoryBuffer(buffer);
    if (bad)
        return refuse(why, "the C part of the export is no bitcode");
    LLVMValueRef run = LLVMGetNamedFunction(code, a->run);
    if (!run) {
        LLVMDisposeModule(code);
        return refuse(why, "the C part of the export has no function that runs a plan");
    }
    LLVMSetValueName2(run, "kdrt_run", strlen("kdrt_run"));
    LLVMSetTarget(code, LLVMGetTarget(module)); /* the vendor's word may differ */
    LLVMSetDataLayout(code, LLVMGetDataLayoutStr(module));
    return !LLVMLinkModules2(module, code) || refuse(why, "the C part of the export does not fit the network's code");
}

/* int NAME(void *state, void *p0, ..., void *pN-1): calls `spread`(state, {p0, ..., pN-1}) */
static bool add_spread(LLVMModuleRef module, const KdArtefact *a) {
    LLVMContextRef cx = LLVMGetModuleContext(module);
    LLVMTypeRef ptr = LLVMPointerTypeInContext(cx, 0), i32 = LLVMInt32TypeInContext(cx), params[KD_ARTEFACT_POINTERS + 1];
    LLVMValueRef callee = LLVMGetNamedFunction(module, a->spread);
    unsigned n = (unsigned)a->n_pointers;
    if (!callee || a->n_pointers > KD_ARTEFACT_POINTERS)
        return false;
    for (unsigned i = 0; i <= n; i++)
        params[i] = ptr;
    LLVMValueRef fn = LLVMAddFunction(module, a->spread_as, LLVMFunctionType(i32, params, n + 1, false));
    LLVMBuilderRef b = LLVMCreateBuilderInContext(cx);
    LLVMPositionBuilderAtEnd(b, LLVMAppendBasicBlockInContext(cx, fn, ""));
    LLVMTypeRef table_type = LLVMArrayType2(ptr, n ? n : 1);
    LLVMValueRef table = LLVMBuildAlloca(b, table_type, "");
    for (unsigned i = 0; i < n; i++) {
        LLVMValueRef at = LLVMConstInt(LLVMInt64TypeInContext(cx), i, false);
        LLVMBuildStore(b, LLVMGetParam(fn, i + 1), LLVMBuildGEP2(b, ptr, table, &at, 1, ""));
    }
    LLVMValueRef args[2] = {LLVMGetParam(fn, 0), table};
    LLVMBuildRet(b, LLVMBuildCall2(b, LLVMFunctionType(i32, params, 2, false), callee, args, 2, ""));
    LLVMDisposeBuilder(b);
    size_t length;
    return strcmp(LLVMGetValueName2(fn, &length), a->spread_as) == 0;
}

/* Everything that is defined becomes local. */
static void hide_all(LLVMModuleRef module) {
    for (LLVMValueRef f = LLVMGetFirstFunction(module); f; f = LLVMGetNextFunction(f))
        if (!LLVMIsDeclaration(f))
            LLVMSetLinkage(f, LLVMInternalLinkage);
    for (LLVMValueRef g = LLVMGetFirstGlobal(module); g; g = LLVMGetNextGlobal(g))
        if (!LLVMIsDeclaration(g) && LLVMGetLinkage(g) == LLVMExternalLinkage)
            LLVMSetLinkage(g, LLVMInternalLinkage);
}

static bool publish(LLVMModuleRef module, const KdArtefact *a, char **why) {
    for (int i = 0; i < a->n_public; i++) {
        LLVMValueRef f = LLVMGetNamedFunction(module, a->public_names[i].from);
        if (!f)
            return refuse(why, "the C part of the export lacks a function");
        LLVMSetLinkage(f, LLVMExternalLinkage);
        LLVMSetValueName2(f, a->public_names[i].as, strlen(a->public_names[i].as));
    }
    return true;
}

static bool drop_unused(LLVMModuleRef module, LLVMTargetMachineRef tm, char **why) {
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef error = LLVMRunPasses(module, "globaldce", tm, options);
    LLVMDisposePassBuilderOptions(options);
    if (!error)
        return true;
    LLVMConsumeError(error);
    return refuse(why, "LLVM cannot drop what the export does not use");
}

bool kd_artefact_link(LLVMModuleRef module, LLVMTargetMachineRef tm, const KdArtefact *a, char **why) {
    for (int i = 0; i < a->n_constants; i++)
        add_constant(module, &a->constants[i]);
    if (!link_code(module, a, why))
        return false;
    hide_all(module);
    if (!publish(module, a, why))
        return false;
    return add_spread(module, a) ? drop_unused(module, tm, why) : refuse(why, "the export's names clash");
}

bool kd_artefact(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, const KdArtefact *a,
                 KdStr *out) {
    int *kernels = KD_NEW_ARRAY(cx, int, m->kernels.n + 1);
    for (int i = 0; i < m->kernels.n; i++)
        kernels[i] = i;
    KlModule named = *m; /* a network may be called malloc */
    named.name = "kdx_entry";
    KdEmitJob job = {.m = &named, .t = t, .kernels = kernels, .n_kernels = m->kernels.n, .entry = true, .local = true,
                     .pool = true, .artefact = a};
    LLVMMemoryBufferRef buffer;
    char *why;
    if (!kd_compile(&job, o->opt, KD_EMIT_OBJ, &buffer, &why))
        kd_raise_compile(cx, why);
    kd_str_add(out, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
    LLVMDisposeMemoryBuffer(buffer);
    return true;
}
