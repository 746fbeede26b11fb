/* program.h: what program.c and entry.c share. Private to frontend/lang. */
#ifndef KD_PROGRAM_H
#define KD_PROGRAM_H

#include "frontend/lang/elaborate.h"

/* A new elaboration that has run the top level of every module. */
KdElab *kd_elab_new(KdProgram *p, const char *name, KdMode mode, bool loading, const int *draw); /* draw: KdNetOptions' */
/* A frame of the main module in which names of the program can be looked up. */
void kd_enter_main(KdElab *E);
/* The session `def`, elaborated into E->f. false after diagnostics. */
bool kd_run_session(KdElab *E, const KdDef *def, unsigned mask, const KdNetOptions *o);

#endif
