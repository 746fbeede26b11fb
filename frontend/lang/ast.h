/* ast.h: source text as tokens and as a tree. Private to frontend/lang.
 *
 * Lexer and parser report what is wrong and go on; a tree is always made, and where a piece could not be read it holds
 * KD_EXPR_ERROR, of which nobody complains again. Names and strings are interned. Everything lives in the context's arena.
 *
 * Limits, all documented in docs/language.md: KD_MAX_NESTING levels of brackets, blocks and prefix operators;
 * KD_MAX_CHAIN links of one chain (a + b + c ..., x |> f |> g ..., a.b.c ...). So no later walk over the tree is deep.
 */
#ifndef KD_AST_H
#define KD_AST_H

#include "ir/ir.h"

enum { KD_MAX_NESTING = 200, KD_MAX_CHAIN = 1000, KD_MAX_SOURCE = 16 << 20 };

typedef struct KdSpan { int line, col, len; } KdSpan; /* as in KdPlace; line 0: nowhere */

typedef enum KdTok {
#define TOKEN(id, text) KD_TOK_##id,
#include "frontend/lang/tokens.def"
#undef TOKEN
    KD_TOK_COUNT
} KdTok;

typedef struct KdToken {
    KdTok kind;
    bool newline; /* the first of its line */
    KdSpan span;
    const char *text; /* NAME: itself; STRING: decoded; keywords and signs: their spelling */
    int64_t i;
    double f;
} KdToken;

typedef struct KdTokens { KdToken *v; int n; } KdTokens; /* the last is END */

KdTokens kd_lex(KdContext *cx, const char *file, const char *text, size_t n);

/* ---- expressions ------------------------------------------------------------------------------------- */

typedef struct KdExpr KdExpr;

typedef enum KdExprKind {
    KD_EXPR_ERROR,
    KD_EXPR_NONE,
    KD_EXPR_INT,
    KD_EXPR_FLOAT,
    KD_EXPR_BOOL,
    KD_EXPR_STRING,
    KD_EXPR_NAME,
    KD_EXPR_LIST,    /* args, unnamed */
    KD_EXPR_EACH,    /* [a for NAME in b] */
    KD_EXPR_UNARY,   /* op a */
    KD_EXPR_FROZEN,  /* frozen a */
    KD_EXPR_BINARY,  /* a op b, also and, or, .. */
    KD_EXPR_CHOICE,  /* a if c else b */
    KD_EXPR_CALL,    /* a(args) */
    KD_EXPR_BRACKET, /* a[args]: an instance, an element or a slice */
    KD_EXPR_FIELD,   /* a.NAME */
    KD_EXPR_PIPE,    /* a |> b, b a CALL or something to apply */
} KdExprKind;

typedef struct KdArg {
    const char *name; /* of a keyword argument, or NULL */
    KdSpan name_span;
    KdExpr *value; /* NULL: a slice lo:hi:step, whose parts may be NULL */
    KdExpr *lo, *hi, *step;
    KdSpan span;
} KdArg;

struct KdExpr {
    KdExprKind kind;
    KdTok op;
    KdSpan span; /* all of it, as far as its first line goes */
    KdSpan at;   /* what an error points to: the operator, the callee's name, the field */
    int height;  /* of the tree below */
    int64_t i;
    double f;
    const char *s; /* NAME, STRING, FIELD, EACH */
    KdExpr *a, *b, *c;
    KdArg *args;
    int n_args;
};

/* ---- declarations and statements ------------------------------------------------------------------------ */

typedef struct KdTypeNote { /* [n, c, h, w], i32[n, k], int, ... */
    KdSpan span;
    int dtype;      /* KdDType, or -1 when not written (f32) */
    const char *kind; /* "int", "float", ...: not a tensor; NULL for a tensor */
    int n;
    KdExpr **dim; /* NULL entries: `_` */
} KdTypeNote;

typedef struct KdFormal { /* a parameter, of brackets or parentheses */
    const char *name;
    KdSpan span;
    KdTypeNote *type; /* or NULL */
    KdExpr *def;      /* or NULL */
} KdFormal;

typedef struct KdStmt KdStmt;
typedef struct KdBlock { KdStmt **v; int n; } KdBlock;

typedef struct KdModule_ KdSourceModule;

typedef enum KdDefKind { KD_DEF_FN, KD_DEF_NET, KD_DEF_SESSION } KdDefKind;

typedef struct KdDef {
    KdDefKind kind;
    const char *name;
    KdSpan span; /* of the name */
    KdFormal *hyper;
    int n_hyper;
    KdFormal *formal;
    int n_formal;
    KdTypeNote *result; /* or NULL */
    const char *from;   /* of a session, or "" */
    KdBlock body;
    KdSourceModule *module; /* where it was written; set by the loader */
} KdDef;

typedef enum KdStmtKind {
    KD_STMT_IMPORT,   /* names[0]: the path */
    KD_STMT_PARAM,    /* names[0], type, exprs[0] */
    KD_STMT_CHOICE,   /* names[0] = exprs[0] */
    KD_STMT_LET,      /* names = exprs[0]; several names take a list apart */
    KD_STMT_ASSIGN,   /* names[0] = exprs[0] */
    KD_STMT_EXPR,     /* exprs[0] */
    KD_STMT_RETURN,   /* exprs[0] or none */
    KD_STMT_IF,       /* exprs[0], body, orelse */
    KD_STMT_FOR,      /* names[0] in exprs[0], body */
    KD_STMT_TAP,      /* names[0] = exprs[0] */
    KD_STMT_UPDATE,   /* names[0] = exprs[0] */
    KD_STMT_MINIMIZE, /* exprs[0] over exprs[2..] with exprs[1] */
    KD_STMT_TOGETHER, /* body */
    KD_STMT_EVERY,    /* exprs[0], body */
    KD_STMT_LOG,      /* names[i] (or NULL) = exprs[i] */
    KD_STMT_SHOW,
    KD_STMT_DEF,      /* def */
} KdStmtKind;

struct KdStmt {
    KdStmtKind kind;
    KdSpan span; /* of its first word */
    const char **names;
    KdSpan *name_spans;
    int n_names;
    KdExpr **exprs;
    int n_exprs;
    KdTypeNote *type;
    KdBlock body, orelse;
    KdDef *def;
};

/* Parses a whole file. Errors are diagnostics; the tree holds what could be read. */
KdBlock kd_parse_source(KdContext *cx, const char *file, const char *text, size_t n);
/* Parses one expression that is the whole text: -D values, --tap names. NULL after diagnostics. */
KdExpr *kd_parse_expression(KdContext *cx, const char *file, const char *text, size_t n);

/* ---- text ------------------------------------------------------------------------------------------------- */

void kd_print_expr(KdStr *s, const KdExpr *e);
void kd_print_block(KdStr *s, const KdBlock *b, int indent); /* canonical .kd */
const char *kd_float_text(KdContext *cx, double v);          /* shortest that reads back, always with . or e */

/* ---- private to lexer and parser ------------------------------------------------------------------------------ */

typedef struct KdParser {
    KdContext *cx;
    const char *file;
    KdTokens t;
    int at;
    int nesting;
    int paren;  /* brackets that are open here: inside them a line's end means nothing */
    bool panic; /* an error was reported; be silent until the next statement */
    bool over;  /* a limit was hit: nothing after it is worth a word */
} KdParser;

KdExpr *kd_parse_expr(KdParser *p);
KdToken *kd_parse_peek(KdParser *p);
KdToken *kd_parse_next(KdParser *p);
bool kd_parse_take(KdParser *p, KdTok kind); /* consumes it if it is next, on this line or inside brackets */
bool kd_parse_expect(KdParser *p, KdTok kind, const char *where);
void kd_parse_error(KdParser *p, KdSpan at, const char *fmt, ...) KD_PRINTF(3, 4);
const char *kd_token_text(KdParser *p, const KdToken *t);
bool kd_parse_enter(KdParser *p, KdSpan at); /* one level deeper; false (an error) beyond the limit */
void kd_parse_leave(KdParser *p);
KdSpan kd_span_join(KdSpan a, KdSpan b); /* from a's start to b's end, if that is on the same line */
KdLoc kd_span_loc(KdContext *cx, const char *file, KdSpan s);

#endif
