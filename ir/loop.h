/* loop.h: the loop IR: kernels of explicit loops over flat buffers, and the plan that calls them.
 *
 * A kernel is what one pass over memory does. Its buffers are flat arrays; its outermost iteration
 * space is a parallel range 0..n of which one call executes [begin, end). Inside: structured loops
 * with carried values, straight-line SSA, nothing implicit: vector width, unrolling, FMA, accumulators,
 * scratch and masks are all written down. Values are scalars or vectors of a power-of-two lane count.
 *
 * Arithmetic: f32 IEEE single, round to nearest; `fma` is one rounding; nothing is contracted or
 * reassociated behind our back, so the evaluator (loop_eval.c), JIT and object file give equal bits.
 * i32 and i64 wrap; div and rem round toward zero; shifts by >= the width are not allowed.
 * min/max on f32: (a < b ? a : b) resp. (a > b ? a : b), i.e. the second operand when unordered.
 *
 * Text (canonical, reads back; one instruction a line; values are numbered in order of definition):
 *
 *   kernel @k0 range 16 {
 *     buf x: f32[65536] in
 *     buf y: f32[65536] out
 *     scratch t: f32[1024]
 *     body(%0) {                                  # %0: i64, the parallel index
 *       %1 = mul i64 %0, 4096
 *       %3 = for %2 = 0 .. 4096 step 16 carry(%4 = %c) unroll 2 {
 *         ...
 *         yield %5
 *       }
 *     }
 *   }
 * (loop_print.c's head comment holds the whole grammar.)
 */
#ifndef KD_LOOP_H
#define KD_LOOP_H

#include "ir/base.h"

typedef enum KlScalar { KL_VOID, KL_I1, KL_U8, KL_I32, KL_I64, KL_F32 } KlScalar;

typedef struct KlType {
    uint16_t scalar; /* KlScalar */
    uint16_t lanes;  /* 1: a scalar; else a power of two up to 64 */
} KlType;

typedef uint32_t KlValue;
#define KL_NONE UINT32_MAX

typedef enum KlOp {
#define KL(id, ...) KL_OP_##id,
#include "ir/loop.def"
#undef KL
    KL_OP_COUNT
} KlOp;

typedef enum KlPred { KL_EQ, KL_NE, KL_LT, KL_LE, KL_GT, KL_GE } KlPred; /* f32: ordered, but NE unordered */

typedef struct KlInstr KlInstr;

typedef struct KlBlock {
    KD_VEC(KlValue) params; /* of a loop body: induction variable, then carried values */
    KD_VEC(KlInstr *) instrs;
} KlBlock;

struct KlInstr {
    uint16_t op;       /* KlOp */
    uint16_t n_in;
    uint16_t n_results;
    KlType type;       /* of the (first) result; of the value stored, for stores */
    KlValue *in;       /* for: lo, hi, initial carried values. if: condition. load: index, [mask, else] */
    KlValue result;    /* results are result, result+1, ...; KL_NONE if none */
    int64_t imm;       /* const: value; load/store/gather: buffer; cmp: KlPred; for: step; extract: lane */
    double fimm;       /* const f32 (exact float value) */
    const int *shuffle; /* shuffle: type.lanes selectors into concat(a, b) */
    KlBlock *body;     /* for, if */
    uint16_t unroll;   /* for: 0 or 1 = leave as it is; U = body repeated U times a trip; UINT16_MAX = fully */
    uint16_t vector;   /* for: W > 1: the vectoriser may turn W iterations into one (passes/vectorize.c).
                          The iterations must be independent but for carried sums / maxima (KlInstr.fold) */
    uint16_t fold;     /* for, with vector > 1 and carried values: KlOp of the fold (ADD or MAX or MIN), all carried alike */
};

typedef enum KlAccess { KL_IN, KL_OUT, KL_INOUT, KL_SCRATCH } KlAccess;

typedef struct KlBuf {
    const char *name; /* interned; only for reading, not part of a kernel's identity */
    KlScalar dtype;   /* KL_F32, KL_I32 or KL_U8 */
    int64_t count;    /* elements: every access is inside 0..count (the evaluator checks) */
    KlAccess access;  /* KL_SCRATCH: one per running thread, 64-byte aligned, contents undefined at entry of each call.
                         Others: no two alias, except that equal (buffer, offset) may be bound to an `in` and an `out`
                         when every element is read before it is written by the same iteration (in-place). */
} KlBuf;

typedef struct KlKernel {
    KdContext *cx;
    const char *name; /* "k0"; set by kl_module_add */
    const char *what; /* for people and profiles: "conv2d+add+relu 256x64x64"; not part of identity */
    KD_VEC(KlBuf) bufs;
    int64_t range; /* the parallel index runs over 0..range */
    int64_t grain; /* least number of consecutive indices worth a thread of their own; >= 1. A hint. */
    double flops, bytes; /* per whole call: multiply and add are two; bytes moved to and from buffers */
    KlBlock body;  /* params[0] = the parallel index */
    KD_VEC(KlType) types; /* by KlValue */
    const char *identity; /* set by kl_module_add: see loop_identity.c */
    size_t identity_bytes;
} KlKernel;

/* ---- the plan ------------------------------------------------------------------------------------ */

/* What the caller passes in: one pointer each, 64-byte aligned. */
typedef struct KlExtern {
    const char *name;
    KlScalar dtype;
    int64_t count;
    bool written;
} KlExtern;

typedef enum KlArgKind { KL_ARG_EXTERN, KL_ARG_ARENA, KL_ARG_POOL } KlArgKind;

typedef struct KlArg {
    KlArgKind kind;
    int index;      /* extern number */
    int64_t offset; /* bytes into the extern, the arena, or the constant pool; a multiple of 64 (arena, pool) */
} KlArg;

typedef struct KlCall {
    int kernel;
    const KlArg *args; /* one per non-scratch buffer of the kernel, in order */
    bool once;         /* depends on weights alone, and nothing else writes its results: a caller whose weights have not
                          changed since its last run may leave it out */
    KdLoc loc;         /* what in the program it computes, for messages; not part of the text; 0: unknown */
} KlCall;

typedef struct KlModule {
    KdContext *cx;
    const char *name; /* the entry's symbol */
    KD_VEC(KlKernel *) kernels;
    KD_VEC(KlExtern) externs;
    KD_VEC(KlCall) calls; /* executed in order */
    int64_t arena;        /* bytes */
    int64_t kept;         /* of them, the last, which stay from run to run: what `once` calls write */
    KD_VEC(uint8_t) pool; /* constant data, 64-byte aligned */
} KlModule;

/* ---- the machine, as far as a schedule may know it ------------------------------------------------- */

typedef struct KlMachine {
    int lanes;     /* f32 lanes of a vector register: 16 AVX-512, 8 AVX2, 4 SSE / NEON */
    int registers; /* vector registers: 32 or 16 */
    bool fma;      /* hardware FMA (if not, `fma` is still exact but slow: schedules use mul + add) */
    bool gather;   /* a real gather instruction */
    int64_t l1, l2, l3; /* bytes of data cache per core (l3: whole) */
} KlMachine;

/* ---- builder --------------------------------------------------------------------------------------- */

/* Appends to `at`. Folds constants and the identities of integer arithmetic that index maps need
 * (x+0, x*1, 0*x, (x*c)/c, (x/c)*c + x%c, min/max/cmp/select decided by known ranges), and shares equal
 * pure instructions within a block and its enclosing ones. */
typedef struct KlBuilder {
    KdContext *cx;
    KlKernel *k;
    KlBlock *at;
    struct KlScope *scope; /* open loops and their known values: private to loop_build.c */
    int lanes_hint;        /* free for the caller */
} KlBuilder;

KlModule *kl_module_new(KdContext *cx, const char *name);
KlKernel *kl_kernel_new(KdContext *cx, const char *what, int64_t range);
int kl_buf(KlKernel *k, const char *name, KlScalar dtype, int64_t count, KlAccess access); /* buffer number */
KlBuilder kl_builder(KlKernel *k);           /* positioned at the end of the kernel's body */
KlValue kl_parallel_index(const KlKernel *k);
/* Adds k, or finds an equal one (same text but for names); returns its number. */
int kl_module_add(KlModule *m, KlKernel *k);

static inline KlType kl_type(KlScalar s, int lanes) { return (KlType){(uint16_t)s, (uint16_t)lanes}; }
static inline KlType kl_vtype(const KlKernel *k, KlValue v) { return k->types.v[v]; }

KlValue kl_i64(KlBuilder *b, int64_t c);
KlValue kl_i32(KlBuilder *b, int32_t c);
KlValue kl_f32(KlBuilder *b, double c);  /* rounded to float */
KlValue kl_constant_like(KlBuilder *b, KlValue like, double c); /* same type, splat if a vector */
bool kl_is_const(const KlBuilder *b, KlValue v, int64_t *c);    /* integer constants */

/* Lane-wise; a scalar operand of a vector operation is splat by the builder. */
KlValue kl_op1(KlBuilder *b, KlOp op, KlValue x);
KlValue kl_op2(KlBuilder *b, KlOp op, KlValue x, KlValue y);
KlValue kl_fma(KlBuilder *b, KlValue x, KlValue y, KlValue z); /* x*y + z, one rounding */
KlValue kl_cmp(KlBuilder *b, KlPred p, KlValue x, KlValue y);  /* i1 */
KlValue kl_select(KlBuilder *b, KlValue c, KlValue x, KlValue y);
KlValue kl_cvt(KlBuilder *b, KlScalar to, KlValue x); /* f32->int truncates and saturates (NaN: 0); u8 is zero-extended;
                                                         ->u8 takes the low byte; i1 -> 0 / 1 */
KlValue kl_bitcast(KlBuilder *b, KlScalar to, KlValue x); /* f32 <-> i32 */
KlValue kl_splat(KlBuilder *b, int lanes, KlValue x);
KlValue kl_iota(KlBuilder *b, KlScalar s, int lanes);     /* 0, 1, 2, ... (i32 or i64) */
KlValue kl_extract(KlBuilder *b, KlValue x, int lane);
KlValue kl_shuffle(KlBuilder *b, KlValue x, KlValue y, int lanes, const int *selector); /* y may be KL_NONE */
/* Folds the lanes by a balanced tree: halves first (lane i with lane i + n/2), then quarters, ... */
KlValue kl_reduce(KlBuilder *b, KlOp op, KlValue x); /* op: KL_OP_ADD, KL_OP_MAX, KL_OP_MIN */

/* idx: scalar i64, the element index of lane 0. lanes == 1: a scalar. u8 buffers give KL_U8. */
KlValue kl_load(KlBuilder *b, int buf, KlValue idx, int lanes);
void kl_store(KlBuilder *b, int buf, KlValue idx, KlValue v);
/* Lanes whose mask is false are not touched; a load gives `els` there. For scalars too. */
KlValue kl_load_if(KlBuilder *b, int buf, KlValue idx, KlValue mask, KlValue els);
void kl_store_if(KlBuilder *b, int buf, KlValue idx, KlValue v, KlValue mask);
/* idx: vector of i32 element indices. mask, els: KL_NONE for all lanes. Scatter: lanes in order, later wins. */
KlValue kl_gather(KlBuilder *b, int buf, KlValue idx, KlValue mask, KlValue els);
/* Asks for the line of an element that will be read, or written where the buffer is, soon: it is brought to the second
 * cache. Nothing depends on it, and idx may lie outside of the buffer. */
void kl_prefetch(KlBuilder *b, int buf, KlValue idx);
void kl_scatter(KlBuilder *b, int buf, KlValue idx, KlValue v, KlValue mask);

/* A loop lo <= i < hi in steps of `step` > 0 (a constant). Between begin and end, b appends to the body;
 * carried[j] is the j-th carried value inside. kl_for_end takes the next values; results[j] is the final one.
 *
 *   KlValue acc[1] = { kl_f32(b, 0) }, out[1];
 *   KlFor l = kl_for_begin(b, lo, hi, 1, 1, acc);
 *   KlValue next[1] = { kl_op2(b, KL_OP_ADD, l.carried[0], ...l.i...) };
 *   kl_for_end(b, &l, next, out);
 */
typedef struct KlFor {
    KlInstr *instr; /* set ->unroll, ->vector, ->fold here, before or after kl_for_end */
    KlValue i;
    const KlValue *carried;
    KlBlock *outer;
} KlFor;
KlFor kl_for_begin(KlBuilder *b, KlValue lo, KlValue hi, int64_t step, int n, const KlValue *init);
void kl_for_end(KlBuilder *b, KlFor *l, const KlValue *next, KlValue *results);

typedef struct KlIf { KlInstr *instr; KlBlock *outer; } KlIf; /* for stores and loops; no results */
/* Is b inside this block (one that b->at was before)? What was loaded there can then still be used. */
bool kl_is_open(const KlBuilder *b, const KlBlock *block);

KlIf kl_if_begin(KlBuilder *b, KlValue cond);
void kl_if_end(KlBuilder *b, KlIf *i);

/* The same instruction (no for, if or yield) with other operands, folded anew: what rewrites of kernels call. A constant
 * or iota may be given other lanes by type `t`; all other results follow from the operands. KL_NONE for stores. */
KlValue kl_rebuild(KlBuilder *b, const KlInstr *i, const KlValue *in, KlType t);
/* Drops pure instructions, loads and loops that nothing uses. kl_module_add and kl_vectorize do so. */
void kl_sweep(KlKernel *k);

/* What is known of an i64 or i32 value: lo <= v <= hi. Loop variables with constant bounds, constants and
 * arithmetic on them are known; everything else has the type's whole range. */
void kl_range(const KlBuilder *b, KlValue v, int64_t *lo, int64_t *hi);

/* ---- functions (loop_math.c): our own polynomials, written as loop IR, any lane count --------------- */

KlValue kl_exp(KlBuilder *b, KlValue x);
KlValue kl_log(KlBuilder *b, KlValue x);
KlValue kl_tanh(KlBuilder *b, KlValue x);
KlValue kl_sigmoid(KlBuilder *b, KlValue x);
KlValue kl_softplus(KlBuilder *b, KlValue x);
KlValue kl_rsqrt(KlBuilder *b, KlValue x); /* 1/sqrt: sqrt and div, correctly rounded each */
KlValue kl_pow(KlBuilder *b, KlValue x, KlValue y);
/* Counter-based random bits: a 32-bit hash of (key, counter); all i32, any lane count. See docs/ir.md. */
KlValue kl_random_bits(KlBuilder *b, KlValue key, KlValue counter);

/* ---- text, checks, reference, transformation --------------------------------------------------------- */

void kl_print_kernel(KdStr *s, const KlKernel *k);
void kl_print_module(KdStr *s, const KlModule *m); /* kernels, then externs, arena, pool, calls */
KlModule *kl_parse_module(KdContext *cx, const char *file, const char *text, size_t n);
bool kl_verify(const KlModule *m, KdStr *why); /* types, dominance, terminators, buffer numbers, plan bounds */
/* Executes the plan without LLVM, one index after the other; ext[k] is extern k's memory. Every access is
 * checked against its buffer: false after writing what went wrong into *why. */
bool kl_eval(const KlModule *m, void *const *ext, KdStr *why);

#endif
