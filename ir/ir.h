/* ir.h: the graph IR. THE interface of this folder: types, nodes, functions, builder, text, checks.
 *
 * A function (KdFunc) is one array of nodes in topological order. A node has one result; operands
 * are 32-bit indices of earlier nodes (KdValue); types are interned and static. There are no
 * pointers between nodes and no use lists: a pass walks the old function and rebuilds a new one
 * through the builder (kd_build), which infers, checks, simplifies and hash-conses. Everything is
 * pure, parameter updates included: a training step returns its new weights as outputs.
 *
 * Arithmetic: f32 is IEEE single; no reassociation, no contraction unless an op says so. i32 wraps.
 * A comparison gives f32 1 or 0; `where` takes any non-zero f32 as true. u8 holds 0..255 and is only
 * stored, moved and cast. A value of rank 0 is a scalar.
 */
#ifndef KD_IR_H
#define KD_IR_H

#include "ir/base.h"

/* ---- types ------------------------------------------------------------------------------------ */

#define KD_MAX_RANK 6

typedef enum KdDType { KD_F32, KD_I32, KD_U8, KD_DTYPE_COUNT } KdDType;

typedef struct KdType {
    KdDType dtype;
    int rank;
    int64_t dim[KD_MAX_RANK];
    int64_t count; /* product of dims; checked, at most 2^31 - 1 */
} KdType;

/* Interned: equal types are one pointer. NULL (no diagnostic) if a dim is < 0, the rank too large,
 * or the element count does not fit. */
const KdType *kd_type(KdContext *cx, KdDType dtype, int rank, const int64_t *dim);
const char *kd_type_text(KdContext *cx, const KdType *t);  /* "f32[1, 3, 256, 256]", "f32[]" */
const char *kd_shape_text(KdContext *cx, const KdType *t); /* "[1, 3, 256, 256]": for users */
const char *kd_dtype_name(KdDType d);                      /* "f32" */
int kd_dtype_size(KdDType d);                              /* bytes */

/* ---- ops -------------------------------------------------------------------------------------- */

/* How an op may join others in one pass over memory: a ladder, from freest to least free. */
typedef enum KdClass {
    KD_LEAF,        /* input, const, literal, iota, random: no operand tensor to wait for */
    KD_ELEMENTWISE, /* result[i] from operands[i] */
    KD_INDEX,       /* result[i] from operand[f(i)]: moves, pads, broadcasts, gathers */
    KD_WINDOW,      /* result[i] from a small window of its operand: pools */
    KD_REDUCE,      /* folds whole axes: flag says sum or max */
    KD_ANCHOR,      /* a contraction with a schedule of its own */
    KD_OPAQUE,      /* its own kernel, nothing joins (scatter_add, update_row, rank) */
    KD_META,        /* gone before fusion: grad, optimiser updates */
} KdClass;

enum { /* KdOpInfo.flags */
    KD_COMMUTES = 1 << 0,    /* a op b == b op a, bit for bit */
    KD_TYPED = 1 << 1,       /* the type is given, not inferred (leaves) */
    KD_SUM = 1 << 2,         /* a KD_REDUCE that adds */
    KD_MAX = 1 << 3,         /* a KD_REDUCE that takes the maximum */
    KD_COSTLY = 1 << 4,      /* too dear to compute twice (exp, log, tanh, pow, ...) */
    KD_UNIQUE = 1 << 5,      /* never hash-consed (input; random with equal stream is equal) */
    KD_INPLACE = 1 << 6,     /* result is operand 0 with few elements changed */
    KD_VARIADIC = 1 << 7,    /* one or more operands */
};

typedef enum KdOp {
#define OP(id, ...) KD_OP_##id,
#include "ir/ops.def"
#undef OP
    KD_OP_COUNT
} KdOp;

typedef enum KdAttrKind { KD_ATTR_INT, KD_ATTR_FLOAT, KD_ATTR_STR, KD_ATTR_INTS, KD_ATTR_FLOATS } KdAttrKind;

typedef struct KdInts { int n; const int64_t *v; } KdInts;
typedef struct KdFloats { int n; const double *v; } KdFloats;

typedef union KdAttr {
    int64_t i;
    double f;
    const char *s; /* interned */
    KdInts ints;
    KdFloats floats;
} KdAttr;

#define KD_MAX_ATTRS 8

typedef struct KdAttrSpec {
    const char *name;
    KdAttrKind kind;
    bool required; /* no default */
    KdAttr def;
} KdAttrSpec;

typedef uint32_t KdValue;
#define KD_NONE UINT32_MAX

typedef struct KdNode {
    uint16_t op; /* KdOp */
    uint16_t n_in;
    uint32_t group; /* after recomputation: when it is computed; different times do not fuse. 0 elsewhere; not printed */
    const KdValue *in;
    const KdType *type;
    const KdAttr *attr; /* as many as the op has, in the row's order */
    KdLoc loc;
} KdNode;

typedef struct KdFunc KdFunc;
typedef struct KdBuilder KdBuilder;
typedef struct KdElem KdElem; /* element rules: see elem.h */

/* infer: the result type, or NULL after kd_error(b->cx, b->loc, ...) in the user's terms. */
typedef const KdType *KdInferFn(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr);
/* gradient: n is a node of b->f, gy the gradient of its result (same type as n). Writes one value
 * per operand into gin, KD_NONE where there is none. Appends nodes to b->f. Must only use ops, so that
 * gradients are differentiable again. grad_none = "not differentiable: zero". */
typedef void KdGradFn(KdBuilder *b, KdValue n, KdValue gy, KdValue *gin);
/* eval: the obviously right, naive value of n in double precision. in[k] and out are dense row-major
 * arrays of doubles (i32 and u8 values are held exactly). Independent of the element rule. */
typedef void KdEvalFn(const KdFunc *f, const KdNode *n, const double *const *in, double *out);
/* element rule: emits loop IR that computes one element; see elem.h */
typedef uint32_t KdElemFn(KdElem *e, KdValue n, const uint32_t *idx);

typedef struct KdOpInfo {
    const char *name;
    int n_in; /* -1 when KD_VARIADIC */
    KdClass cls;
    KdInferFn *infer;
    KdGradFn *grad;
    KdElemFn *elem;
    KdEvalFn *eval;
    unsigned flags;
    const char *attr_text; /* as in the row */
} KdOpInfo;

extern const KdOpInfo kd_op_info[KD_OP_COUNT];
bool kd_op_by_name(const char *name, KdOp *op);
/* The op's attributes, parsed once per context from the row's text; *n may be 0. */
const KdAttrSpec *kd_op_attrs(KdContext *cx, KdOp op, int *n);
int kd_attr_index(KdContext *cx, KdOp op, const char *name); /* -1: no such attribute */

/* ---- functions -------------------------------------------------------------------------------- */

/* What the outside world owes or keeps for an input. */
typedef enum KdRole {
    KD_DATA,   /* given anew for each call */
    KD_WEIGHT, /* a trained parameter */
    KD_BUFFER, /* state that is not trained: running statistics, spectral norm's u */
    KD_STATE,  /* what the step itself keeps: moments, image pools, counters */
    KD_FROZEN, /* a weight or buffer that never changes in this function */
    KD_ROLE_COUNT,
} KdRole; /* printed as data weight buffer state frozen: the input's attribute `role` */
extern const char *const kd_role_name[KD_ROLE_COUNT];

typedef struct KdOutput {
    const char *name; /* interned */
    KdValue value;
    KdValue updates; /* the INPUT node whose stored value this replaces after the call, or KD_NONE */
} KdOutput;

struct KdFunc {
    KdContext *cx;
    const char *name;
    KdNode *nodes;
    uint32_t n, cap;
    KD_VEC(KdValue) inputs; /* INPUT nodes, in declaration order */
    KD_VEC(KdOutput) outputs;
    const char *part_of; /* of a narrowed network: the one of whose weights its own are the leading parts; else NULL */
    KdMap cons; /* structural hash -> node */
};

KdFunc *kd_func_new(KdContext *cx, const char *name);
KdFunc *kd_func_like(const KdFunc *f); /* an empty one that stands for f: its context, name, part_of */
static inline const KdNode *kd_node(const KdFunc *f, KdValue v) { return &f->nodes[v]; }
static inline const KdType *kd_vtype(const KdFunc *f, KdValue v) { return f->nodes[v].type; }
void kd_output(KdFunc *f, const char *name, KdValue v, KdValue updates);
KdValue kd_find_input(const KdFunc *f, const char *name); /* KD_NONE if there is none */
/* Attributes of a node by name; the attribute must exist. */
int64_t kd_attr_int(const KdFunc *f, const KdNode *n, const char *name);
double kd_attr_float(const KdFunc *f, const KdNode *n, const char *name);
const char *kd_attr_str(const KdFunc *f, const KdNode *n, const char *name);
KdInts kd_attr_ints(const KdFunc *f, const KdNode *n, const char *name);
KdFloats kd_attr_floats(const KdFunc *f, const KdNode *n, const char *name);
KdRole kd_input_role(const KdFunc *f, KdValue input);

typedef struct KdModule {
    KdContext *cx;
    KD_VEC(KdFunc *) funcs;
} KdModule;

/* ---- the one door ------------------------------------------------------------------------------ */

struct KdBuilder {
    KdContext *cx;
    KdFunc *f;
    KdLoc loc; /* given to the nodes that are made */
    bool plain; /* every call appends the node as it is asked for: no simplifying, no sharing. For the parser */
};

static inline KdBuilder kd_builder(KdFunc *f) { return (KdBuilder){f->cx, f, 0, false}; }

/* Infers, checks, simplifies, looks for an equal node, appends. attr: all attributes in the row's
 * order, or NULL for defaults. `type` only for KD_TYPED ops, NULL otherwise.
 * KD_NONE after a diagnostic; an operand that is KD_NONE gives KD_NONE silently. */
KdValue kd_build(KdBuilder *b, KdOp op, const KdType *type, const KdValue *in, int n_in, const KdAttr *attr);
/* What a leaf's given type and attributes must satisfy: true, or false after a diagnostic. */
bool kd_check_typed(KdBuilder *b, KdOp op, const KdType *type, const KdAttr *attr);
/* The same node with other operands, into b->f: what a rewriting pass calls. old is in f_old. */
KdValue kd_rebuild(KdBuilder *b, const KdFunc *f_old, KdValue old, const KdValue *in);

/* Shorthands over kd_build. Elementwise ops demand equal types; kd_broadcast2 makes them so. */
KdValue kd_input(KdBuilder *b, const char *name, KdRole role, const KdType *t, const char *init);
KdValue kd_const(KdBuilder *b, const KdType *t, double value);      /* filled tensor */
KdValue kd_const_like(KdBuilder *b, KdValue v, double value);
KdValue kd_unary(KdBuilder *b, KdOp op, KdValue x);
KdValue kd_binary(KdBuilder *b, KdOp op, KdValue x, KdValue y);     /* numpy broadcasting included */
KdValue kd_scale(KdBuilder *b, KdValue x, double s);                /* x * s */
KdValue kd_where(KdBuilder *b, KdValue c, KdValue x, KdValue y);
KdValue kd_reshape(KdBuilder *b, KdValue x, int rank, const int64_t *dim);
KdValue kd_broadcast(KdBuilder *b, KdValue x, int rank, const int64_t *dim); /* numpy rules, rank may grow */
KdValue kd_transpose(KdBuilder *b, KdValue x, const int64_t *perm);
KdValue kd_sum(KdBuilder *b, KdValue x, int n_axes, const int64_t *axes);    /* keeps dims as 1 */
/* Sums x down to the shape of t (the adjoint of broadcasting t up to x). */
KdValue kd_sum_to(KdBuilder *b, KdValue x, const KdType *t);
KdValue kd_slice(KdBuilder *b, KdValue x, const int64_t *begin, const int64_t *end, const int64_t *step);
KdValue kd_pad(KdBuilder *b, KdValue x, const int64_t *lo, const int64_t *hi, const int64_t *interior, double value);
KdValue kd_matmul(KdBuilder *b, KdValue x, KdValue y, bool tx, bool ty);
KdValue kd_cast(KdBuilder *b, KdValue x, KdDType d);
KdValue kd_zero_like(KdBuilder *b, KdValue v);

/* ---- text, checks, reference ------------------------------------------------------------------- */

/* Canonical text; print(parse(t)) == t. See docs/ir.md for the grammar. */
void kd_print_func(KdStr *s, const KdFunc *f);
void kd_print_module(KdStr *s, const KdModule *m);
/* NULL after diagnostics (file, line, column). `file` only names the text. */
KdModule *kd_parse_module(KdContext *cx, const char *file, const char *text, size_t n);
/* Checks everything the builder promises, from the table. false after writing what is wrong,
 * naming the node, into *why. */
bool kd_verify(const KdFunc *f, KdStr *why);

/* The reference: evaluates every node in double precision. in[k]: f->inputs[k]'s elements;
 * out[k]: receives f->outputs[k]'s, allocated by the caller. KD_META ops are not evaluated here. */
void kd_eval(const KdFunc *f, const double *const *in, double *const *out);

#endif
