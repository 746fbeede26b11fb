/* lang.h: source text -> graph IR. Includes ir/ only.
 *
 * kd_lang_load parses a file and its imports and evaluates the top level (params, lets, fns, nets, sessions).
 * kd_lang_net / kd_lang_session elaborate one thing into a KdFunc: control flow runs, shapes are checked, layers
 * expand into ops, `minimize` becomes grad and optimiser nodes. All errors are diagnostics in cx.
 */
#ifndef KD_LANG_H
#define KD_LANG_H

#include "ir/ir.h"

typedef struct KdDefine { const char *name, *value; } KdDefine; /* -D name=value */

typedef struct KdLangOptions {
    const KdDefine *define;
    int n_define;
    const char *const *import_path; /* folders searched after the importing file's own; then the built-in models/ */
    int n_import_path;
    int max_depth; /* of applications; 0: the default (documented) */
} KdLangOptions;

typedef struct KdProgram KdProgram;

/* NULL after diagnostics. text NULL: read the file. */
KdProgram *kd_lang_load(KdContext *cx, const char *file, const char *text, size_t n, const KdLangOptions *o);
void kd_lang_print_ast(KdStr *s, const KdProgram *p); /* --emit=ast: reads as .kd */

typedef enum KdDeclKind { KD_DECL_PARAM, KD_DECL_CHOICE, KD_DECL_LET, KD_DECL_INSTANCE, KD_DECL_FN, KD_DECL_NET, KD_DECL_SESSION } KdDeclKind;

typedef struct KdDecl {
    KdDeclKind kind;
    const char *name;
    const char *value; /* of a param or a choice: its value as text; of an instance: "Unet[ngf = 16]"; else "" */
    bool frozen;       /* of an instance */
    const char *part_of; /* of one made by narrow(): the network whose leading part it is; else NULL */
    bool main;         /* declared in the file itself, not in an import */
    KdLoc loc;
} KdDecl;
const KdDecl *kd_lang_decls(const KdProgram *p, int *n);

/* `choice NAME = SPACE`: what a training step draws and a search searches. */
typedef struct KdGene { const char *const *alternative; int n; } KdGene; /* as text, in the order written: from small to large */
typedef struct KdChoice {
    const char *name;
    const KdGene *genes;
    int n_genes, first; /* genes first ... first + n_genes - 1 of the program */
    bool list;          /* the value is a list with one pick of each gene; else of the only gene */
    bool fixed;         /* by -D: nothing is drawn */
    KdLoc loc;
} KdChoice;
const KdChoice *kd_lang_choices(const KdProgram *p, int *n);
int kd_lang_genes(const KdProgram *p); /* of all choices */

/* A type given from outside for a data parameter (from a tensor file, or --size / --batch). */
typedef struct KdGiven { const char *name; const KdType *type; } KdGiven;

typedef enum KdMode { KD_INFER, KD_TRAIN } KdMode;

typedef struct KdNetOptions {
    const KdGiven *given; int n_given;
    int64_t batch, height, width; /* for named dims not bound otherwise (n, h, w; channels must be known); 0: 1, 256, 256 */
    KdMode mode;
    bool grads; /* add outputs "grad.X" for every data input and weight X, of sum(out * seed); `seed` is a data input if given, else ones */
    const char *const *taps; int n_taps; /* extra outputs: "bottleneck", "down[3]" */
    const int *draw; /* the pick of each gene of the program; NULL: the last ones */
} KdNetOptions;

/* NAME is a fn, a net template with all hyper-parameters defaulted, or an instance. The function's inputs: data by parameter
 * name, then weights and buffers by path relative to the net ("down[0].conv.weight"), in order of creation. Output "out"
 * (or "out.0", "out.1", ... when it returns a list), then buffer updates in training mode, taps and gradients. */
KdFunc *kd_lang_net(KdProgram *p, const char *name, const KdNetOptions *o);

/* How network `name`, an instance or a template with defaults, is configured. */
typedef struct KdHyper { const char *name, *value; } KdHyper; /* value: as one writes it: "64", "[16, 24]", "instance_norm" */
typedef struct KdConfig {
    const char *net;  /* "Unet" */
    const char *file; /* where it is declared: as an import of it begins (built-in: "nets/unet.kd"); NULL: the prelude */
    bool embedded;    /* built-in */
    int n;
    KdHyper *v; /* all of its hyper-parameters, in order */
} KdConfig;
bool kd_lang_config(KdProgram *p, const char *name, KdConfig *c); /* false after diagnostics */

typedef struct KdSessionInfo {
    const char *name, *from; /* "paired", "unpaired", "labels", or "" */
    int n_every; const int64_t *every; /* periods of the `every` blocks, in program order; at most 16 */
    int n_logs; const char *const *logs;   /* outputs "log.NAME" */
    int n_shows; const char *const *shows; /* outputs "show.NAME" */
} KdSessionInfo;

/* One training step. every_mask: bit i = the i-th `every` block runs in this variant. Inputs: data by parameter name; scalars
 * `step` (f32, 1 in the first), `epoch` (f32, 1 in the first), `seed` (i32) as KD_DATA; weights "S.down[0].conv.weight" etc.; states
 * "opt.0.m.S...." for the k-th minimize, "pool.0" for the k-th history. Every changed one is an output that updates its input. */
KdFunc *kd_lang_session(KdProgram *p, const char *name, unsigned every_mask, const KdNetOptions *o, KdSessionInfo *info);

/* Multiply-accumulates of f's contractions, as written (before gradients): see methods.md A.5. Bias and norm are left out. */
typedef struct KdMacs { double no_t, t_in, t_out; } KdMacs;
KdMacs kd_lang_macs(const KdFunc *f);
int64_t kd_lang_parameters(const KdFunc *f); /* elements of KD_WEIGHT and frozen weights */
/* Elements that contractions give, and that biases, norms, norms' scales and activations are applied to: what other counters add to
 * the multiply-accumulates, each in its own way (methods.md A.6). moved: that mirroring and repeating pads, pools and enlargements give. */
typedef struct KdElements { double results, biases, norms, scales, activations, moved; } KdElements;
KdElements kd_lang_elements(const KdFunc *f);
/* What torchstat calls memory: 4 bytes for each result of a layer, which convolutions, products, norms, activations, such pads, pools
 * and enlargements are (methods.md D.5). */
double kd_lang_layer_bytes(const KdFunc *f);

#endif
