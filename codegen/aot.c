/* aot.c: a whole module as LLVM text, assembly or an object file.
 *
 * One LLVM module, one object: kernels are local symbols, constants are inside, and all that stays undefined is what
 * runtime/kdrt/kdrt.def lists. The same emission as the JIT's, through the same kd_compile. */
#include "codegen/internal.h"

bool kd_codegen(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o, KdEmit what,
                KdStr *out) {
    int *kernels = KD_NEW_ARRAY(cx, int, m->kernels.n + 1);
    for (int i = 0; i < m->kernels.n; i++)
        kernels[i] = i;
    KdEmitJob job = {.m = m, .t = t, .kernels = kernels, .n_kernels = m->kernels.n,
                     .entry = true, .local = true, .pool = true};
    LLVMMemoryBufferRef buffer;
    char *why;
    if (!kd_compile(&job, o->opt, what, &buffer, &why))
        kd_raise_compile(cx, why);
    kd_str_add(out, LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
    LLVMDisposeMemoryBuffer(buffer);
    return true;
}
