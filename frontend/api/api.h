/* api.h: what the files of frontend/api and the command share behind kdc.h.
 *
 * A KdcUnit is one function on its way: elaborated, through the passes, compiled. Functions here that can fail
 * raise (in the program's context) or return NULL / false after diagnostics; only those of kdc.h catch.
 */
#ifndef KDC_API_H
#define KDC_API_H

#include "codegen/codegen.h"
#include "frontend/api/kdc.h"
#include "frontend/lang/lang.h"
#include "passes/passes.h"
#include "runtime/host/weights.h"

#include <jansson.h>

struct KdrtProfile;

struct KdcProgram {
    KdContext *cx;
    KdProgram *lang; /* NULL when it did not load */
    const char *file, *text; /* as given to kdc_open */
    size_t text_size;
    KdcOptions o;    /* copied */
    KdTarget host, target; /* target: of object files */
    KdcStatus status;
    const char *failure; /* what was raised and not printed yet, or NULL */
    KdStageFn *observe;  /* of every pipeline; the command's --print-after and --time-passes */
    void *observe_user;
    KD_VEC(struct KdcProgram *) drawn; /* of its sessions' drawn configurations; closed by kdc_close */
    KdKernels *kernels; /* compiled ones, of all its functions; a drawn configuration's are its session's program's */
    bool borrowed;      /* kernels is another program's */
    KD_VEC(KdJit *) jits;    /* freed by kdc_close */
    KD_VEC(void *) memory;   /* kdrt_alloc'ed, freed by kdc_close */
};

typedef struct KdcUnit {
    const char *name;
    KdFunc *func;              /* as elaborated */
    KdPipelineResult result;   /* loops NULL: not yet */
    KdJit *jit;                /* NULL: not yet */
    KdJitStats jit_stats;
    double elaborate_seconds, pass_seconds;
    bool keeps;                /* packed weights may stay from run to run (kdc_hold_weights) */
} KdcUnit;

/* if (KD_TRY(p->cx, l)) { ...; kd_landing_pop(p->cx); } else { kdc_failed(p); }  kdc_settle(p, errors);
 * kdc_failed turns what was raised into the status; kdc_settle does so with diagnostics since `errors_before`. */
void kdc_failed(KdcProgram *p);
KdcStatus kdc_settle(KdcProgram *p, int errors_before);

/* ---- compile.c ------------------------------------------------------------------------------------- */

/* The options of elaboration: shapes as types, sizes from p. false after a diagnostic. */
bool kdc_net_options(KdcProgram *p, const KdcShapes *s, KdNetOptions *o);
void kdc_given_in(KdContext *cx, KdNetOptions *o); /* o->given as cx's: types and names belong to a context */
bool kdc_unit_net(KdcProgram *p, const char *name, const KdNetOptions *o, KdcUnit *u);
bool kdc_unit_session(KdcProgram *p, const char *name, unsigned mask, const KdNetOptions *o,
                      KdSessionInfo *info, KdcUnit *u);
void kdc_unit_passes(KdcProgram *p, KdcUnit *u, const KdTarget *t);
KdPassOptions kdc_pass_options(const KdcProgram *p, const KdTarget *t); /* those it uses */
KdKernels *kdc_kernels(KdcProgram *p); /* p's store of compiled kernels */
bool kdc_unit_jit(KdcProgram *p, KdcUnit *u);
KdCodegenOptions kdc_codegen_options(const KdcProgram *p);
KdcStats kdc_unit_stats(const KdcUnit *u);
double kdc_now(void); /* seconds */

/* Can `name` be elaborated so? In a context of its own: leaves no diagnostics. rank[i]: if not NULL, receives the
 * rank of the data input names[i], or -1 if there is none. */
bool kdc_probe(const KdcProgram *p, const char *name, bool session, const KdNetOptions *o,
               const char *const *names, int n, int *rank);

/* Multiply-accumulates of net `name` applied at height x width, batch 1. false when it cannot be elaborated by itself. */
bool kdc_probe_macs(const KdcProgram *p, const char *name, int64_t height, int64_t width, KdMacs *macs);

/* How networks are applied in a session: each different "in Unet[ngf = 16] applied to x: [1, 3, 256, 256]" of its
 * elaboration, in p's context; NULL when it cannot be elaborated. */
const char *const *kdc_applications(KdcProgram *p, const char *session, int *n);

/* ---- call.c ---------------------------------------------------------------------------------------- */

/* A runnable over u, which has been compiled. Inputs' memory is taken from `share` where it has a tensor of that name.
 * arena: u's plan's bytes, the caller's, used only while it runs; NULL: one of its own. */
typedef KdcTensor *KdcShareFn(void *user, const KdFunc *f, KdValue input);
KdcRunnable *kdc_runnable_new(KdcProgram *p, const KdcUnit *u, KdcShareFn *share, void *user, void *arena);
const KdcUnit *kdc_runnable_unit(const KdcRunnable *r);

/* Runs r and looks at all that each call wrote. true when something was no finite number: *call is the first that wrote
 * such a thing, *nan whether NaNs are among it. */
bool kdc_run_watched(KdcRunnable *r, int *call, bool *nan);
void kdc_runnable_arena(KdcRunnable *r, void *arena); /* from now on */
/* From now on the time of each call of the plan is added up in *profile (kdrt.h), which is the caller's; NULL: no more. */
void kdc_runnable_profile(KdcRunnable *r, struct KdrtProfile *profile);
void kdc_runnable_threads(KdcRunnable *r, int threads); /* from now on; at most kdc_threads of its program */
int kdc_threads(const KdcProgram *p); /* that a run of its networks uses */
KdcTensor kdc_tensor_of(KdcProgram *p, const KdFunc *f, KdValue input); /* with memory */
void *kdc_memory(KdcProgram *p, int64_t bytes);
void kdc_memory_free(KdcProgram *p, void *m); /* before kdc_close would; NULL is fine */
int64_t kdc_tensor_bytes(const KdcTensor *t);
const char *kdc_tensor_shape(KdContext *cx, const KdcTensor *t); /* "[1, 3, 8, 8]" */

/* ---- session.c -------------------------------------------------------------------------------------- */

/* What a session's programs of drawn configurations may take: some ten of a whole GAN. */
#define KDC_DRAWN_BYTES ((size_t)512 << 20)
size_t kdc_session_drawn_bytes(const KdcSession *s); /* that they may take; 0: nothing is drawn */
void kdc_session_limit_drawn(KdcSession *s, size_t bytes); /* from now on, at most; the one that runs is always there */
KdcProgram *kdc_session_program(const KdcSession *s);
KdcRunnable *kdc_session_runnable(const KdcSession *s); /* what ran the latest step; NULL: there was none */
KdMacs kdc_session_macs(const KdcSession *s); /* of a step's forward passes */

/* A host file's trouble as a diagnostic or the machine's fault, into p. Always false. */
bool kdc_host_trouble(KdcProgram *p, const KdTrouble *t);

/* ---- init.c ---------------------------------------------------------------------------------------- */

/* Fills t as its init says. false after a diagnostic naming t. */
bool kdc_init_tensor(KdContext *cx, KdcTensor *t, uint64_t seed);

/* ---- match.c --------------------------------------------------------------------------------------- */

typedef enum KdcMatchKind { KDC_MATCH_NONE, KDC_MATCH_NAME, KDC_MATCH_CONVENTION, KDC_MATCH_ORDER } KdcMatchKind;

/* file tensor of each of n tensors; NULL where there is none. */
typedef struct KdcMatch {
    const KdTensor **from;
    KdcMatchKind *kind;
    int unused; /* of the file */
} KdcMatch;

/* By name (also "a[0].b" = "a.0.b", under a prefix common to the file, and as "NET.a" for net NET, which may be NULL), then, if
 * allowed, module by module as nn.Sequential numbers them (convention) or in the file's order, then by order and shape.
 * A narrowed network (KdcTensor.part_of) finds the larger tensors of its whole one. Nothing is written. false after a
 * diagnostic that names the tensors in question. */
bool kdc_match(KdcProgram *p, const char *net, KdcTensor *const *t, int n, const KdWeights *w, const char *file,
               bool by_order, KdcMatch *m);
/* Copies x, or where t.part_of allows its leading part, into t, converted. false after a diagnostic. */
bool kdc_load_tensor(KdcProgram *p, KdcTensor *t, const KdTensor *x, const char *file);

/* ---- summary.c ------------------------------------------------------------------------------------- */

typedef struct KdcSummary {
    const char *name, *what; /* "S", "Unet[ngf = 16]"; session: "paired" */
    bool session;
    const KdcUnit *unit;
    const char *skipped; /* why it was not compiled by itself, or NULL */
} KdcSummary;
void kdc_summary_text(KdStr *s, const KdcSummary *v, int n);
json_t *kdc_summary_json(const char *file, const KdcSummary *v, int n, double seconds);

#endif
