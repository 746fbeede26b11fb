/* elaborate.h: what the parts of the elaborator share. Private to frontend/lang.
 *
 * An elaboration (KdElab) runs a program once, from its top level, for one purpose: checking the top level, one net, or
 * one step of a session. Tensors are values of the function under construction; everything else is a compile-time value.
 * Who does what:
 *   source.c             files and imports
 *   program.c            params, the top level, declarations; kd_lang_load
 *   entry.c              kd_lang_net, kd_lang_session: inputs, outputs
 *   resolve.c            names that do not exist, before anything runs
 *   elaborate_value.c    values, scopes, places, errors
 *   elaborate_expr.c     expressions          elaborate_index.c  x[...] and list elements
 *   elaborate_call.c     calls: arguments, annotations, applications, names of instances
 *   elaborate_store.c    instances' names, weights and buffers
 *   elaborate_stmt.c     statements
 *   elaborate_session.c  minimize, together, every, log, show, history; stale values
 *   builtins*.c          functions that are not written in the language; the primitive ops
 *
 * Errors: a place is complained of once in an elaboration. A value that could not be computed is poison: everything
 * made of it is poison, silently.
 */
#ifndef KD_ELABORATE_H
#define KD_ELABORATE_H

#include "frontend/lang/ast.h"
#include "frontend/lang/lang.h"

enum {
    KD_DEFAULT_DEPTH = 500,      /* applications inside one another */
    KD_MAX_EVAL_NESTING = 10000, /* expressions inside one another, through all applications */
    KD_MAX_EVAL_STEPS = 10000000, /* evaluated expressions and elements of lists */
    KD_MAX_LIST = 1 << 20,
    KD_MAX_NODES = 1000000,
    KD_STACK_BYTES = 64 << 20,   /* of the thread that elaborates: does not depend on the caller's stack */
    KD_MAX_EVERY = 16,
};

typedef struct KdElab KdElab;
typedef struct KdInst KdInst;
typedef struct KdStore KdStore;
typedef struct KdWeight KdWeight;
typedef struct KdFrame KdFrame;
typedef struct KdBuiltin KdBuiltin;
typedef struct KdApplied KdApplied;

/* ---- values ------------------------------------------------------------------------------------------------ */

typedef enum KdValKind {
    KD_VAL_POISON,
    KD_VAL_NONE,
    KD_VAL_INT,
    KD_VAL_FLOAT,
    KD_VAL_BOOL,
    KD_VAL_STRING,
    KD_VAL_LIST,
    KD_VAL_TENSOR,
    KD_VAL_DEF,      /* a fn, net or session as declared */
    KD_VAL_INSTANCE,
    KD_VAL_BUILTIN,
    KD_VAL_OPTIMIZER,
    KD_VAL_OPS,      /* `op`: the primitive operations by their own names */
} KdValKind;

typedef struct KdVal KdVal;
typedef struct KdListVal { int n; KdVal *v; } KdListVal;

typedef struct KdOptimizer {
    KdOp op;
    KdValue lr; /* rank-0 f32 */
    KdAttr attr[KD_MAX_ATTRS]; /* without `part` */
    bool clamped; /* weights are kept in lo ... hi */
    double lo, hi;
} KdOptimizer;

struct KdVal {
    KdValKind kind;
    bool has_mode; /* of an instance: train_mode / eval_mode */
    KdMode mode;
    union {
        int64_t i;
        double f;
        const char *s;
        const KdListVal *list;
        KdValue t;
        const KdDef *def;
        KdInst *inst;
        const KdBuiltin *builtin;
        const KdOptimizer *opt;
    };
    const KdApplied *applied; /* what a net gave back: its taps and those inside */
    KdWeight *weight;         /* this very weight or buffer, or its leading part */
};

typedef struct KdNamed { const char *name; KdVal value; } KdNamed;

struct KdApplied {
    KD_VEC(KdNamed) taps;
    KD_VEC(KdNamed) inner; /* results of the instances created inside, by local name: "down[0]" */
};

/* ---- instances, weights, scopes ------------------------------------------------------------------------------ */

struct KdWeight {
    const char *name, *path; /* "weight", "S.down[0].conv.weight" */
    const KdType *type;
    const char *init;
    bool buffer;
    KdStore *store;
    KdValue input, now; /* `now` after the updates so far */
    KdLoc where;        /* created */
    uint64_t claim;
    bool buffer_updated;
};

/* A place for weights: an instance's name and what was created inside. Instances that an application creates anew
 * each time find their store by name, so their weights persist. */
struct KdStore {
    const char *local, *path; /* "down[0]", "S.down[0]"; the root's are "" */
    KdStore *owner;
    const KdDef *net;
    bool frozen;
    bool applied;   /* its net has run at least once */
    uint64_t claim; /* the application of the owner that used the name last */
    KD_VEC(KdStore *) subs;
    KD_VEC(KdWeight *) weights;
};

struct KdInst {
    const KdDef *net;
    KdVal *hyper;
    const char *label; /* "Unet[ngf = 16]" */
    KdFrame *frame;    /* that created it; of one that a fn gave back, the caller's */
    KdStore *store;    /* NULL until it has a name */
    bool *given;       /* hyper-parameters that were written; the others have defaults */
    bool frozen, bare; /* bare: a net applied without brackets */
    bool narrow;       /* made by narrow(): weights are the leading parts of those of `whole`, whose store this is */
    bool by_inputs;    /* of narrow(S) alone: hyper-parameters are those of the whole one */
    const struct KdInst *whole;
    KdLoc where;
};

typedef struct KdScope {
    struct KdScope *outer;
    KD_VEC(KdNamed) vars;
    int round;          /* of a loop's body: 0, 1, ...; else -1. Part of names: see elaborate_store.c */
    bool every;         /* body of `every`: outer names cannot be rebound from here */
} KdScope;

typedef struct KdHint { const char *text; } KdHint;

struct KdFrame {
    KdFrame *caller;
    const KdSourceModule *module;
    const KdDef *def;
    KdScope *scope;
    KdStore *store;   /* where weights go; NULL in a fn */
    bool bare;        /* of a net applied without brackets */
    const char *what; /* for notes */
    KdLoc outer;      /* the application that led here */
    KdLoc user;       /* in the prelude: the place in the user's text that called it */
    uint64_t serial;
    KdApplied *applied;
    KdVal ret;
    bool returned;
    bool doubtful;    /* control flow depended on poison: the end of the body means nothing */
    KD_VEC(KdHint) hints;
};

/* ---- modules and programs --------------------------------------------------------------------------------------- */

struct KdModule_ {
    const char *file; /* as shown */
    const char *key;  /* one for each file */
    int index;
    bool prelude, main, embedded;
    KdBlock block;
    KD_VEC(KdSourceModule *) imports;
    KdMap resolved; /* names of the top level, for resolve.c: name -> statement */
};

struct KdProgram {
    KdContext *cx;
    KdLangOptions options;
    KD_VEC(KdSourceModule *) modules; /* imported before importing; [0] is the prelude */
    KdSourceModule *main;
    KD_VEC(KdDecl) decls;
    KD_VEC(KdChoice) choices;
    int n_genes;
    bool *define_used;
    bool import_failed;
    KdMap warned; /* places of warnings: a session is elaborated once a variant */
};

typedef struct KdGlobals { KdMap index; KD_VEC(KdNamed) vars; } KdGlobals;

/* ---- one elaboration ----------------------------------------------------------------------------------------------- */

typedef struct KdStale { KdWeight *weight; KdLoc updated; } KdStale;

typedef struct KdPending { KdWeight *weight; KdValue value; KdLoc where; } KdPending;

typedef struct KdRecord { const char *name; KdValue value; } KdRecord;

typedef struct KdSession {
    const KdDef *def;
    KdValue step, epoch, seed; /* inputs */
    KdValue step_i32;
    unsigned mask;
    KD_VEC(int64_t) every;
    int every_now;      /* index of the block we are in, or -1 */
    KdValue every_tick; /* how often this block ran, now included */
    bool idle;          /* in an `every` block that does not run this time */
    int together;       /* depth */
    KD_VEC(KdPending) pending;
    int n_minimize, n_history;
    KD_VEC(KdRecord) logs, shows;
    struct { KdValue input, now; const char *name; } *state;
    int n_state, cap_state;
    KdMap stale; /* value -> index into stales */
    KD_VEC(KdStale) stales;
} KdSession;

struct KdElab {
    KdContext *cx;
    KdProgram *p;
    KdFunc *f;
    KdBuilder b;
    KdGlobals *globals; /* by module index */
    KdFrame *frame;
    KdStore *root;
    KD_VEC(KdWeight *) weights; /* in order of creation */
    KdMode mode;
    KdSession *session; /* or NULL */
    const char *strip;  /* prefix of paths that input names leave out ("S."), or "" */
    bool loading;       /* first elaboration: collect decls, report params */
    bool dead;          /* a limit was hit: everything is poison */
    const int *draw;    /* the picks of the choices' genes, or NULL */
    int n_genes;        /* of the choices so far */
    int narrow;         /* applications of narrowed instances around here */
    int depth, nesting, max_depth;
    int64_t steps;
    uint64_t serial;
    int64_t streams;    /* of random numbers */
    KdValue rng_seed, rng_step;
    KdMap complained;   /* places */
    KdScope *free_scopes;
    const KdExpr *hint_call; /* `let NAME = weight(...)`: the call that takes NAME */
    const char *hint_name;
};

/* ---- elaborate_value.c ------------------------------------------------------------------------------------------------ */

static inline KdVal kd_poison(void) { return (KdVal){.kind = KD_VAL_POISON}; }
static inline KdVal kd_none(void) { return (KdVal){.kind = KD_VAL_NONE}; }
static inline KdVal kd_int(int64_t i) { return (KdVal){.kind = KD_VAL_INT, .i = i}; }
static inline KdVal kd_float(double f) { return (KdVal){.kind = KD_VAL_FLOAT, .f = f}; }
static inline KdVal kd_bool(bool b) { return (KdVal){.kind = KD_VAL_BOOL, .i = b}; }
static inline KdVal kd_string(const char *s) { return (KdVal){.kind = KD_VAL_STRING, .s = s}; }
static inline KdVal kd_tensor(KdValue t) {
    return t == KD_NONE ? kd_poison() : (KdVal){.kind = KD_VAL_TENSOR, .t = t};
}
static inline bool kd_is_number(KdVal v) { return v.kind == KD_VAL_INT || v.kind == KD_VAL_FLOAT; }
static inline double kd_number(KdVal v) { return v.kind == KD_VAL_INT ? (double)v.i : v.f; }
KdVal kd_list(KdElab *E, int n);           /* of n poisons; fill with kd_items */
static inline KdVal *kd_items(KdVal list) { return list.list->v; }
bool kd_val_equal(KdVal a, KdVal b);       /* compile-time equality; tensors are equal when they are the same value */
const char *kd_val_text(KdElab *E, KdVal v);  /* as written: 3, 0.5, "x", [1, 2]; long ones cut short, for messages */
const char *kd_val_full_text(KdElab *E, KdVal v); /* whole */
const char *kd_val_describe(KdElab *E, KdVal v); /* "the integer 3", "a tensor [1, 3]", ... */
const KdType *kd_val_type(KdElab *E, KdVal v); /* of a tensor */

KdLoc kd_elab_loc(KdElab *E, KdSpan at);
bool kd_elab_complained(KdElab *E, KdSpan at); /* has this place been complained of? */
bool kd_elab_first(KdElab *E, KdLoc loc); /* false, or true and from now on complained of */
/* The error, the chain of applications, the hints of the frames. Returns poison. */
KdVal kd_elab_error(KdElab *E, KdSpan at, const char *fmt, ...) KD_PRINTF(3, 4);
void kd_elab_near(KdElab *E, const char *name, const char *const *names, int n); /* "did you mean" */
/* Around kd_build: sets the place; then a value, or poison after the IR's own diagnostic. */
bool kd_elab_begin(KdElab *E, KdSpan at); /* false: this place was complained of already */
KdVal kd_elab_end(KdElab *E, KdSpan at, KdValue v);

KdScope *kd_scope_push(KdElab *E);
void kd_scope_pop(KdElab *E);
void kd_bind(KdElab *E, const char *name, KdVal v);
void kd_bind_global(KdElab *E, const KdSourceModule *m, const char *name, KdVal v);
KdVal *kd_find_local(KdElab *E, const char *name, KdScope **scope);
bool kd_find(KdElab *E, const char *name, KdVal *v);
bool kd_find_applicable(KdElab *E, const char *name, KdVal *v); /* passes over what cannot be called */
bool kd_applicable(KdVal v);

/* ---- expressions and statements ------------------------------------------------------------------------------------------ */

KdVal kd_eval_expr(KdElab *E, const KdExpr *e);
bool kd_eval_int(KdElab *E, const KdExpr *e, const char *what, int64_t *out);
bool kd_eval_bool(KdElab *E, const KdExpr *e, const char *what, bool *out);
KdVal kd_eval_binary(KdElab *E, KdTok op, KdVal a, KdVal b, KdSpan at);
KdVal kd_eval_field(KdElab *E, KdVal v, const char *name, KdSpan at);
KdVal kd_eval_index(KdElab *E, KdVal base, const KdExpr *e);
KdVal kd_to_tensor(KdElab *E, KdVal v, KdDType d, KdSpan at); /* a number becomes a constant */
bool kd_broadcast_ok(KdElab *E, const char *name, const KdType *a, const KdType *b, KdSpan at); /* false after a diagnostic */
/* Elementwise op on two values, with broadcasting and promotion of i32 to f32. */
KdVal kd_elementwise2(KdElab *E, KdOp op, KdVal a, KdVal b, KdSpan at, const char *name);
void kd_exec_block(KdElab *E, const KdBlock *b);
void kd_exec_stmt(KdElab *E, const KdStmt *s);

/* ---- calls ---------------------------------------------------------------------------------------------------------------- */

typedef struct KdActual { /* an evaluated argument */
    const char *name;
    KdVal value;
    KdSpan span, name_span;
} KdActual;

typedef struct KdActuals { KdActual *v; int n; KdSpan at; } KdActuals;

KdVal kd_eval_call(KdElab *E, const KdExpr *e);
KdVal kd_eval_pipe(KdElab *E, const KdExpr *e);
/* Which argument goes to which of n parameters: slot[i], or NULL where the default holds. Called in the caller's frame.
 * false after diagnostics. what: "gram", "Unet[...]". */
bool kd_match_args(KdElab *E, const char *what, const KdFormal *f, int n, const KdActuals *args, const KdActual **slot);
/* Binds them in the scope of the current (the callee's) frame: defaults, annotations. out: the values, or NULL. */
bool kd_bind_formals(KdElab *E, const char *what, const KdFormal *f, int n, const KdActual *const *slot, KdVal *out);
bool kd_check_type(KdElab *E, const KdTypeNote *t, KdVal v, const char *what, KdSpan at, bool in_caller);
KdVal kd_apply(KdElab *E, KdVal callee, const KdActuals *args, const KdExpr *call);
KdVal kd_instantiate(KdElab *E, const KdDef *net, const KdExpr *e); /* Unet[...] */
KdVal kd_narrow(KdElab *E, const KdActuals *args); /* narrow(S, name = value, ...) */
KdVal kd_instantiate_default(KdElab *E, const KdDef *net, KdSpan at, bool bare);
KdFrame *kd_frame_new(KdElab *E, const KdSourceModule *m, const KdDef *def);
bool kd_enter(KdElab *E, KdFrame *f, KdSpan at, const char *what); /* false: too deep */
void kd_leave(KdElab *E);

/* ---- elaborate_store.c ------------------------------------------------------------------------------------------------------ */

KdStore *kd_store_new(KdElab *E, KdStore *owner, const char *local, const KdDef *net);
/* Gives the unnamed instances inside v, created in this frame, their names: base, base[0], ... */
void kd_name_instances(KdElab *E, KdVal v, const char *base, const KdScope *scope);
void kd_name_anonymous(KdElab *E, KdInst *inst); /* "conv2d_0" */
void kd_hand_over(KdVal v, const KdFrame *from, KdFrame *to); /* the instances in v that `from` created become `to`'s */
KdVal kd_declare_weight(KdElab *E, const KdExpr *call, KdVal shape, KdVal init, KdVal name, bool buffer, KdSpan at);
/* w's value with its leading part replaced by `part`, which is nowhere larger. */
KdValue kd_with_leading_part(KdElab *E, const KdWeight *w, KdValue part);
const char *kd_canonical_init(KdElab *E, const char *text, KdSpan at); /* NULL after a diagnostic */
/* All weights below a store, in order of creation; buffers too if asked. */
typedef struct KdWeights { KD_VEC(KdWeight *) v; } KdWeights;
void kd_store_weights(KdElab *E, const KdStore *s, bool buffers, KdWeights *out);

/* ---- elaborate_session.c ------------------------------------------------------------------------------------------------------ */

void kd_exec_minimize(KdElab *E, const KdStmt *s);
void kd_exec_together(KdElab *E, const KdStmt *s);
void kd_exec_every(KdElab *E, const KdStmt *s);
void kd_exec_record(KdElab *E, const KdStmt *s);
KdVal kd_history(KdElab *E, KdVal v, int64_t capacity, KdSpan at);
KdVal kd_session_scalar(KdElab *E, const char *name, KdSpan at); /* step, epoch */
void kd_random_inputs(KdElab *E, KdValue *seed, KdValue *step);
void kd_session_begin(KdElab *E, const KdDef *def, unsigned mask);
void kd_session_outputs(KdElab *E, KdSessionInfo *info);

/* ---- builtins --------------------------------------------------------------------------------------------------------------------- */

typedef struct KdCall {
    KdElab *E;
    const KdExpr *expr;    /* or NULL */
    KdSpan at;             /* the callee's name */
    const char *name;
    KdVal *v;              /* by parameter; KD_VAL_NONE where optional and not given */
    KdSpan *span;
    int n;                 /* of a variadic: how many came */
    const KdActuals *args; /* of a raw one */
} KdCall;

typedef KdVal KdBuiltinFn(KdCall *c);

struct KdBuiltin {
    const char *name;
    const char *params; /* "x, dim?, keepdim?"; "*x, dim?": any number first */
    KdBuiltinFn *fn;
    int op;             /* a primitive op called by its attributes, or -1 */
    bool raw;           /* fn gets the arguments as they came, in `args`, and nothing else */
};

const KdBuiltin *kd_find_builtin(const char *name);
const KdBuiltin *kd_find_op(KdElab *E, const char *name);
const char *const *kd_builtin_names(KdContext *cx, int *n); /* builtins, ops and the builtin values */
bool kd_builtin_value(KdElab *E, const char *name, KdSpan at, KdVal *v); /* step, epoch, training, pi, op */
bool kd_is_builtin_value(const char *name);
KdVal kd_call_builtin(KdElab *E, const KdBuiltin *b, const KdActuals *args, const KdExpr *call);

/* Arguments of a builtin, checked. false after a diagnostic (or when it is poison). */
bool kd_arg_tensor(KdCall *c, int k, KdValue *t);
bool kd_arg_int(KdCall *c, int k, int64_t *i);
bool kd_arg_float(KdCall *c, int k, double *f);
bool kd_arg_bool(KdCall *c, int k, bool def, bool *b);
bool kd_arg_string(KdCall *c, int k, const char **s);
bool kd_arg_ints(KdCall *c, int k, int max, int *n, int64_t *v); /* a list of integers, or one */
bool kd_arg_shape(KdCall *c, int k, int *rank, int64_t *dim);
bool kd_arg_dim(KdCall *c, int k, int rank, int64_t def, int64_t *dim); /* negative counts from the end */
KdVal kd_arg_error(KdCall *c, int k, const char *fmt, ...) KD_PRINTF(3, 4);
const char *kd_param_name(KdContext *cx, const KdBuiltin *b, int k);

extern const KdBuiltin kd_builtins_list[];   /* builtins_list.c: on compile-time values */
extern const KdBuiltin kd_builtins_tensor[]; /* builtins_tensor.c */
extern const KdBuiltin kd_builtins_train[];  /* builtins_train.c */

/* ---- program ------------------------------------------------------------------------------------------------------------------------ */

void kd_resolve(KdProgram *p, KdSourceModule *m); /* diagnostics for names that do not exist */
/* Runs fn(arg) on a stack of KD_STACK_BYTES; a failure in it is raised again here. */
void kd_on_big_stack(KdContext *cx, void (*fn)(void *), void *arg);

#endif
