/* passes.h: how a program changes. THE interface of this folder.
 *
 * Graph passes take a function and give a new one (rebuilt through the builder). After them come analyses
 * that lay the function out in memory and in kernels:  fuse -> order -> memplan -> lower.
 * The order of everything is passes.def, run by pipeline.c; the verifier runs after each step.
 */
#ifndef KD_PASSES_H
#define KD_PASSES_H

#include "ir/elem.h"
#include "ir/ir.h"
#include "ir/loop.h"

/* ---- graph -> graph ---------------------------------------------------------------------------------- */

KdFunc *kd_pass_autodiff(const KdFunc *f);  /* replaces every `grad` by the nodes that compute it */
KdFunc *kd_pass_optimizer(const KdFunc *f); /* adam, sgd, rmsprop -> elementwise nodes */
KdFunc *kd_pass_dce(const KdFunc *f);       /* what no output needs is gone; inputs stay */
KdFunc *kd_pass_freeze(const KdFunc *f);    /* detach and no-op casts vanish; what frozen weights alone decide is noted for packing */
KdFunc *kd_pass_split(const KdFunc *f);  /* what is made of big products, so that it goes row by row */

/* ---- fusion: which values live in memory, and which are computed together ------------------------------ */

typedef enum KdGroupKind {
    KD_GROUP_MAP,    /* every store has the domain's element count; one loop over the domain */
    KD_GROUP_ROW,    /* reductions over the trailing part of a domain, and maps over the same domain around them:
                        outer loop over rows (the kept dims), stages inside; each reduction is row-local. Also products
                        (tails) of which one operand is streamed and made of the rows and their results */
    KD_GROUP_ANCHOR, /* a contraction, its prologue (in its operands) and its epilogue (maps of its result) */
    KD_GROUP_OPAQUE, /* one KD_OPAQUE op (operands may be composed) */
} KdGroupKind;

typedef struct KdGroup {
    KdGroupKind kind;
    KdValue root;          /* the anchor, the opaque op, or the node whose type is the domain */
    KD_VEC(KdValue) stores; /* members that are written to memory, in topological order */
    KD_VEC(KdValue) local;  /* row groups: reductions kept per row, in topological order */
    struct KdTouch *touch;  /* private to fuse_*.c: what a walk over the group found, kept for the next */
    int n_touch;
} KdGroup;

/* See KdFusion.stream, and fuse_stream.c. */
enum KdStreamed { KD_NOT_STREAMED, KD_STREAM_PRODUCT, KD_STREAM_COMPOSED };

/* A value that is neither stored, nor an alias, nor local to the group that asks is computed in place, wherever
 * it is needed, by composition of element rules. */
typedef struct KdFusion {
    const KdFunc *f;
    bool *stored;     /* by node: has memory of its own (inputs and literals count as stored) */
    KdValue *alias;   /* by node: a reshape (or the like) of a stored value: whose memory it is; else KD_NONE */
    int *group;       /* by node: the group that stores it or keeps it local; -1 */
    bool *streamed;   /* by node: a big product that is never in memory: whoever needs it computes it, block by block */
    const uint8_t *stream; /* by node, KdStreamed: the same, and what is made of the elements of such products */
    KD_VEC(KdGroup) groups; /* in an executable order */
    struct KdWalk *walk;    /* private to fuse_*.c: scratch of the queries below */
} KdFusion;

typedef struct KdPassOptions {
    KlMachine machine;
    const char *const *skip; /* names of passes to leave out (only those passes.def allows) */
    int n_skip;
    bool fuse;               /* false: every node is stored (--skip=fuse) */
    const char *schedule;    /* forces one schedule by name where it applies, or NULL */
    int64_t memory_limit;    /* bytes of the arena, met by computing values again; 0: none */
    int64_t keep;            /* bytes of packed weights that may stay in the arena from run to run (KlCall.once) */
    int winograd;            /* Winograd's tiles may be so large: 4, 2, or 0: none (see schedule/winograd.c) */
} KdPassOptions;

KdFusion *kd_fuse(const KdFunc *f, const KdPassOptions *o);
/* Every value that is not in memory can be composed where it is needed, groups only load what inputs and earlier
 * groups wrote, and no group loads what it writes itself. false after writing what is wrong into *why. */
bool kd_fusion_verify(const KdFusion *fu, KdStr *why);
/* Does the group load stored value `read` (not an alias) only at the place where it also writes: element i (or row i) of
 * the domain when it computes element i? Then a store of the same element count may take read's memory: the lowering
 * loads before it stores. For KD_INPLACE ops: is operand 0 read by nothing else in the group? */
bool kd_group_reads_only_at_index(const KdFusion *fu, int group, KdValue read);
void kd_print_fusion(KdStr *s, const KdFusion *fu); /* the function, group by group: --emit=fused */

/* ---- memory plan ---------------------------------------------------------------------------------------- */

typedef struct KdMemPlan {
    KlArg *place;      /* by node, for stored nodes and aliases: where it lives */
    int64_t arena;     /* bytes, as planned */
    int64_t naive;     /* bytes if every stored value had its own */
    /* Externs, in this order: f->inputs, then one per output that does not update an input. */
    KD_VEC(KlExtern) externs;
    /* Outputs whose place is not yet where they must end: copied at the end of the step. */
    struct {
        KdValue from;
        KlArg to;
        int64_t kept; /* 0, or 1 + the offset in the arena where an earlier copy kept `from`, overwritten by now */
    } *copies;
    int n_copies;
} KdMemPlan;

/* May reorder fu->groups to lower the peak; then assigns places. An output that updates an input is written in place
 * when nobody reads the old value after that group (the group itself may, at the same element). */
void kd_order(KdFusion *fu);
KdMemPlan *kd_memplan(const KdFusion *fu);
void kd_print_memplan(KdStr *s, const KdFusion *fu, const KdMemPlan *p);

/* ---- recomputation --------------------------------------------------------------------------------------- */

typedef struct KdRecomputed {
    int64_t naive, planned; /* KdMemPlan's naive and arena without; 0: no limit was given */
    int64_t least;          /* the arena with: at most the limit less what is packed, or the least that was found */
    int64_t packed;         /* what was left for that */
    double more_work;       /* operations of contractions that are done again, as a share of all */
} KdRecomputed;

/* The function whose plan and `packed`, what its kernels take besides, fit o->memory_limit, or the nearest to it; f itself if it
 * fits anyway. packed < 0: not known; where f's plan alone does not fit, a 32nd of the limit is left for it. What comes back may
 * hold equal nodes: it is not to be rebuilt through the builder's sharing. */
const KdFunc *kd_recompute(const KdFunc *f, const KdPassOptions *o, int64_t packed, KdRecomputed *info);

/* ---- lowering -------------------------------------------------------------------------------------------- */

/* What lower.c and the schedules share while one group becomes kernels. */
typedef struct KdLower {
    KdContext *cx;
    const KdFusion *fu;
    const KdMemPlan *plan;
    const KdPassOptions *o;
    KlModule *m;
    const KdGroup *g;
    KlKernel *k;  /* the kernel being built, and its builder */
    KlBuilder b;
    KdElem e;     /* composes element rules; binds stored values to kernel buffers on first use */
    struct KdBinding *binding; /* private to lower.c */
    KdMap *schedules;          /* private to schedule/: plans by shape */
} KdLower;

KlModule *kd_lower(const KdFusion *fu, const KdMemPlan *plan, const KdPassOptions *o);

/* For schedules. A group may become several kernels: begin, build, end; in call order. */
void kd_lower_begin(KdLower *l, const char *what, int64_t range);
void kd_lower_end(KdLower *l);
/* Before kd_lower_begin of a kernel that computes temporary `temp` from `source` alone: if source is a weight that no step
 * changes and KdPassOptions.keep leaves room, the temporary stays from run to run, and the call is marked `once`. */
bool kd_lower_keep(KdLower *l, KdValue source, int temp, int64_t bytes);
/* prologue: the element of operand k of node n at idx (loads it, or computes it in place) */
KlValue kd_lower_operand(KdLower *l, KdValue n, int k, const KlValue *idx);
/* the kernel's buffer holding stored value v (bound on first use), for explicit vector loads */
int kd_lower_buffer(KdLower *l, KdValue v);
/* Is operand k of n stored as it is (so that a schedule may load vectors from kd_lower_buffer directly)? */
bool kd_lower_is_stored(const KdLower *l, KdValue n, int k);
/* temporary memory that lives from one kernel of this group to the next (partial sums): buffer in this kernel */
int kd_lower_temp(KdLower *l, int temp, KlScalar s, int64_t count, KlAccess access);
/* epilogue: given the anchor's element at idx, computes and writes every store of the group there. Scalar code: put
 * it into a loop with ->vector set and let the vectoriser widen it. Exactly once for each element: what the epilogue
 * loads may be replaced by what it stores (weights, by an optimiser). */
void kd_lower_finish(KdLower *l, KlValue acc, const KlValue *idx);

/* One row a schedule: see passes/schedule/schedule.def. Cost in seconds-like units, smaller wins; < 0: does not apply. */
typedef double KdScheduleCost(const KdLower *l, const KdGroup *g);
typedef void KdScheduleBuild(KdLower *l, const KdGroup *g);

/* The cheapest schedule for g's anchor (or the one o->schedule forces, where it applies); NULL: the generic path. */
const char *kd_schedule_choose(const KdLower *l, const KdGroup *g);
/* Builds g's kernels with that schedule; false, having built nothing, when it is the generic path. */
bool kd_schedule_build(KdLower *l, const KdGroup *g);

/* Widens loops marked `vector`: kernel -> kernel. In vectorize.c. */
void kl_vectorize(KlKernel *k, const KlMachine *machine);
/* Repeats loop bodies marked `unroll`: only for full unrolling of short loops; others are left to codegen. */
void kl_unroll(KlKernel *k);

/* ---- the pipeline ------------------------------------------------------------------------------------------ */

typedef struct KdStage {
    const char *name; /* as in passes.def */
    const KdFunc *func;
    const KdFusion *fusion;
    const KdMemPlan *plan;
    const KlModule *loops;
    double seconds;
} KdStage;

/* Called after each step, for --print-after, --time-passes and --emit. */
typedef void KdStageFn(void *user, const KdStage *stage);

typedef struct KdPipelineResult {
    const KdFunc *grad;  /* after autodiff and optimizer */
    const KdFunc *whole; /* before recomputation */
    const KdFunc *final; /* what was fused */
    const KdFusion *fusion;
    const KdMemPlan *plan;
    KlModule *loops;
    KdRecomputed recomputed;
} KdPipelineResult;

/* Runs everything in passes.def on f. Raises KD_FAIL_INTERNAL naming the pass when the verifier objects, and KD_FAIL_INPUT when
 * o->memory_limit cannot be met. */
KdPipelineResult kd_pipeline(const KdFunc *f, const KdPassOptions *o, KdStageFn *observe, void *user);
bool kd_pass_may_skip(const char *name);
const char *const *kd_pass_names(int *n); /* for --skip and --print-after, and their misspellings */

#endif
