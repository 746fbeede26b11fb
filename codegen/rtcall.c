/* rtcall.c: the runtime functions that generated code may call, from kdrt.def: their LLVM declarations, and their
 * addresses for a JIT. An object file leaves them undefined; nothing else may be. */
#include "codegen/internal.h"
#include "runtime/kdrt/kdrt.h"

#include <string.h>

typedef struct RtFunction {
    const char *name, *result, *params;
    void (*address)(void);
} RtFunction;

static const RtFunction functions[] = {
#define RT(name, result, params) {#name, result, params, (void (*)(void))name},
#include "runtime/kdrt/kdrt.def"
#undef RT
};

static LLVMTypeRef type_of_letter(LLVMContextRef cx, char letter) {
    if (letter == 'p')
        return LLVMPointerTypeInContext(cx, 0);
    return letter == 'l' ? LLVMInt64TypeInContext(cx) : LLVMVoidTypeInContext(cx);
}

LLVMValueRef kd_rt_declare(LLVMModuleRef module, const char *name, LLVMTypeRef *type) {
    LLVMContextRef cx = LLVMGetModuleContext(module);
    for (int i = 0; i < KD_COUNT(functions); i++) {
        const RtFunction *f = &functions[i];
        if (strcmp(f->name, name) != 0)
            continue;
        LLVMTypeRef params[8];
        unsigned n = (unsigned)strlen(f->params);
        for (unsigned p = 0; p < n; p++)
            params[p] = type_of_letter(cx, f->params[p]);
        *type = LLVMFunctionType(type_of_letter(cx, f->result[0]), params, n, false);
        LLVMValueRef known = LLVMGetNamedFunction(module, name);
        return known ? known : LLVMAddFunction(module, name, *type);
    }
    return NULL;
}

LLVMErrorRef kd_rt_define(LLVMOrcExecutionSessionRef session, LLVMOrcJITDylibRef lib) {
    LLVMOrcCSymbolMapPair pairs[KD_COUNT(functions)];
    for (int i = 0; i < KD_COUNT(functions); i++)
        pairs[i] = (LLVMOrcCSymbolMapPair){
            LLVMOrcExecutionSessionIntern(session, functions[i].name),
            {(LLVMOrcExecutorAddress)(uintptr_t)functions[i].address,
             {LLVMJITSymbolGenericFlagsExported | LLVMJITSymbolGenericFlagsCallable, 0}}};
    LLVMOrcMaterializationUnitRef unit = LLVMOrcAbsoluteSymbols(pairs, KD_COUNT(functions));
    LLVMErrorRef error = LLVMOrcJITDylibDefine(lib, unit);
    if (error)
        LLVMOrcDisposeMaterializationUnit(unit);
    return error;
}
