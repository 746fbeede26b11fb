/* kdc.h: libkdc: a .kd file -> compiled networks and training steps that run in this process.
 *
 *     KdcProgram *p = kdc_open("model.kd", NULL, 0, &(KdcOptions){0});
 *     KdcRunnable *r = kdc_net(p, "S", &(KdcShapes){0});            NULL: see kdc_status, kdc_print_messages
 *     kdc_initialise(r, 1);                                         or write weights into kdc_find(r, "...")->data
 *     memcpy(kdc_find(r, "x")->data, pixels, ...);
 *     kdc_run(r);
 *     ... kdc_find_output(r, "out")->data ...
 *     kdc_close(p);                                                 frees everything that came from p
 *
 * Nothing is global: several programs may be open at once, on different threads; one program is for one thread at a
 * time. No function exits or prints (but kdc_print_messages). A runnable uses p's threads; results do not depend on
 * their number.
 */
#ifndef KDC_H
#define KDC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum KdcStatus { /* the command's exit codes */
    KDC_OK = 0,
    KDC_INPUT = 1,   /* what the user wrote is at fault: see the messages */
    KDC_USAGE = 2,   /* how the library or command was called */
    KDC_MACHINE = 3, /* memory, I/O, or a bug of ours; the message says which */
} KdcStatus;

/* How large the tiles of Winograd's convolutions may be (passes/schedule/winograd.c says how far they round). */
typedef enum KdcWinograd { KDC_WINOGRAD_4X4, KDC_WINOGRAD_2X2, KDC_WINOGRAD_OFF } KdcWinograd;

typedef struct KdcOptions { /* all zero: the defaults */
    const char *const *defines; /* "name=value": sets a param, like -D */
    int n_defines;
    const char *const *import_path;
    int n_import_path;
    int64_t batch, height, width; /* for dims that nothing else decides; 0: 1, 256, 256 */
    int threads;                  /* 0: all cores */
    const char *cache;            /* folder of compiled objects; NULL: the user's; "": none */
    const char *const *skip;      /* passes to leave out */
    int n_skip;
    const char *schedule; /* forces this schedule of passes/schedule/schedule.def where it applies; NULL: the cheapest */
    int64_t memory_limit; /* bytes of activations, met by computing values again where that is needed; 0: none */
    int64_t keep; /* bytes of packed weights that a net may keep from run to run (kdc_hold_weights); 0: 16 MiB; -1: none */
    KdcWinograd winograd;
    int opt;            /* code generation level 0..3, plus 1; 0: the default (3) */
    const char *triple; /* for object files; NULL: this machine. What runs here is always for this machine. */
    const char *cpu;
} KdcOptions;

typedef struct KdcProgram KdcProgram;
typedef struct KdcRunnable KdcRunnable;
typedef struct KdcSession KdcSession;

typedef enum KdcDType { KDC_F32, KDC_I32, KDC_U8 } KdcDType;
typedef enum KdcRole { KDC_DATA, KDC_WEIGHT, KDC_BUFFER, KDC_STATE, KDC_FROZEN, KDC_OUTPUT } KdcRole;

typedef struct KdcTensor {
    const char *name; /* as in the language: "x", "down[0].conv.weight", "out" */
    KdcDType dtype;
    KdcRole role;
    int rank;
    int64_t dim[6], count;
    const char *init; /* how it begins, for weights, buffers and states: "normal(0, 0.02)"; else "" */
    bool updated;     /* an input that a run overwrites with its new value */
    const char *part_of; /* of a network made by narrow(): the network of whose tensors this is the leading part; else NULL */
    void *data;       /* 64-byte aligned, owned by the runnable or session; zero at first */
} KdcTensor;

/* Types of data inputs, given by name: what a tensor file or a caller fixes. */
typedef struct KdcShape {
    const char *name;
    KdcDType dtype;
    int rank;
    int64_t dim[6];
} KdcShape;

typedef struct KdcShapes {
    const KdcShape *given;
    int n_given;
    bool train; /* training mode: dropout, batch statistics */
    bool grads; /* also "grad.X" for each data input and weight X, of the sum of output * seed */
    const char *const *taps;
    int n_taps;
} KdcShapes;

typedef struct KdcStats {
    double seconds;       /* elaborating, passes, code generation together */
    double code_seconds;  /* of it, code generation */
    int kernels, calls;   /* distinct kernels; calls of one run */
    int64_t memory_naive, memory; /* bytes of activations if each had its own place; as planned */
    int64_t memory_packed; /* bytes of packed weights that stay from run to run (kdc_hold_weights) */
    int64_t memory_planned; /* as planned without computing anything again: less than that is memory, where a limit asks for it */
    double more_work;       /* operations of convolutions and products of matrices done again, as a share of all */
    bool from_cache;
} KdcStats;

/* Reads, parses and evaluates `file` (or `text`, when given; file then only names it). NULL only when out of memory;
 * whether it worked says kdc_status. All names and options are copied. */
KdcProgram *kdc_open(const char *file, const char *text, size_t n, const KdcOptions *o);
void kdc_close(KdcProgram *p);
KdcStatus kdc_status(const KdcProgram *p);                       /* of everything done with p so far */
void kdc_print_messages(KdcProgram *p, FILE *out, bool color);   /* those not printed yet */

/* A fn, a net whose hyper-parameters have defaults, or an instance. NULL on failure. */
KdcRunnable *kdc_net(KdcProgram *p, const char *name, const KdcShapes *s);
int kdc_input_count(const KdcRunnable *r);
KdcTensor *kdc_input(KdcRunnable *r, int i); /* data first, then weights and buffers in order of creation */
int kdc_output_count(const KdcRunnable *r);
KdcTensor *kdc_output(KdcRunnable *r, int i);
KdcTensor *kdc_find(KdcRunnable *r, const char *input);         /* NULL: no such input */
KdcTensor *kdc_find_output(KdcRunnable *r, const char *output); /* NULL: no such output */
/* Fills weights, buffers and states as their init says; each tensor's numbers depend on seed and its name alone. */
KdcStatus kdc_initialise(KdcRunnable *r, uint64_t seed);
KdcStatus kdc_run(KdcRunnable *r);
/* held: the caller writes no weight or buffer from now on, so what kernels pack of them is packed in the next run alone.
 * Before writing one again: kdc_hold_weights(r, false). Without it every run packs them. */
void kdc_hold_weights(KdcRunnable *r, bool held);
KdcStats kdc_stats(const KdcRunnable *r);

/* A training session: weights and states live in the session, steps are compiled when first needed. */
KdcSession *kdc_session(KdcProgram *p, const char *name, const KdcShapes *s); /* NULL on failure */
int kdc_session_count(const KdcSession *s);
KdcTensor *kdc_session_tensor(KdcSession *s, int i); /* inputs: data, weights, buffers, states */
KdcTensor *kdc_session_find(KdcSession *s, const char *name);
KdcStatus kdc_session_initialise(KdcSession *s, uint64_t seed);
/* Runs step number `step` (from 1; decides which `every` blocks run) in epoch `epoch` (from 1). `step`, `epoch` and
 * `seed` of the program are set from here. Outputs of this step, "log.NAME" and "show.NAME": the functions below. */
KdcStatus kdc_session_step(KdcSession *s, int64_t step, int64_t epoch, uint64_t seed);
/* `choice`s that the session depends on and that no define sets: each step has a pick of each gene, drawn from its seed and
 * number alone. Its configuration is compiled when it first comes up; the latest ones are kept. */
typedef struct KdcDrawn {
    const char *choice; /* "channels" */
    int element;        /* of the choice's list, or -1: it is no list */
    int index;          /* among the genes of the program */
    int n;              /* alternatives */
    const char *const *alternative; /* as text, from small to large */
} KdcDrawn;
int kdc_session_gene_count(const KdcSession *s); /* 0: nothing is drawn */
const KdcDrawn *kdc_session_gene(const KdcSession *s, int i);
const char *kdc_session_pick(const KdcSession *s, int i, int64_t step, uint64_t seed); /* of the i-th gene */
typedef struct KdcDrawnStats {
    int64_t count;  /* configurations compiled so far; one that comes up again after many others counts again */
    double seconds; /* that they took, from reading the program to machine code */
    int64_t kernels; /* compiled for them: those that no configuration before had, nor the cache */
} KdcDrawnStats;
KdcDrawnStats kdc_session_drawn(const KdcSession *s);
/* Compiles what the steps first..last need (of drawn configurations the largest), which else happens when one is first run.
 * What that takes, together: memory is the arena that all of them share; nothing of it is allocated yet. */
KdcStatus kdc_session_prepare(KdcSession *s, int64_t first, int64_t last, KdcStats *stats);
/* Where the first value of a step that is no finite number came up: a NaN, else an infinity. */
typedef struct KdcFault {
    bool found, nan;
    const char *what; /* the op, or the ops of a pass over memory, and the shape: "log 1x1x30x30" */
    const char *file; /* and its place in the program; NULL: unknown */
    int line, column;
} KdcFault;
/* Runs a step like kdc_session_step, but op by op, looking at everything that is computed. Compiles it anew: slow. */
KdcStatus kdc_session_trace(KdcSession *s, int64_t step, int64_t epoch, uint64_t seed, KdcFault *fault);
/* Saves all that decides how the session goes on (weights, buffers, states; not frozen networks) as `folder`'s checkpoint
 * after `step` steps; the two newest are kept. meta: n_meta pairs of strings kept in it. Refuses what is not finite. */
KdcStatus kdc_session_save(KdcSession *s, const char *folder, int64_t step, const char *const *meta, int n_meta);
/* Takes the newest good checkpoint of `folder`: *step is its step; 0 when there is none. One that is damaged is passed over
 * with a warning; one that is of another program is an error. */
KdcStatus kdc_session_restore(KdcSession *s, const char *folder, int64_t *step);
/* The same for frozen networks, whose weights never change: one file, written once. */
KdcStatus kdc_session_save_frozen(KdcSession *s, const char *file);
KdcStatus kdc_session_restore_frozen(KdcSession *s, const char *file);
uint32_t kdc_session_hash(const KdcSession *s); /* of the step as elaborated: program, params and shapes */
const char *kdc_session_from(const KdcSession *s); /* "paired", "unpaired", "labels" or "" */
int kdc_session_output_count(const KdcSession *s);
KdcTensor *kdc_session_output(KdcSession *s, int i);
int kdc_session_log_count(const KdcSession *s); /* names of all logs, whichever block they are in */
const char *kdc_session_log(const KdcSession *s, int i);

#ifdef __cplusplus
}
#endif
#endif
