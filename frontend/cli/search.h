/* search.h: what the files of `kdc search` share.
 *
 * cmd_search.c      the verb: usage, budgets, from beginning to end
 * search_space.c    what is searched: genes, configurations as text and as indices, random draws
 * search_evolve.c   which configurations: evolution, random, all
 * search_ask.c      what is asked of workers: counts, plans, times, metrics; budgets
 * search_pool.c     worker processes
 * search_worker.c   what a worker does
 * search_kernels.c  the table of measured kernels, predictions from it
 * search_state.c    search.json and cache.json, written and read
 * search_table.c    the front as text, Markdown, CSV; the summary
 * search_page.c     the page and the picture
 *
 * Everything that decides which configuration comes next is in one process and drawn from the seed,
 * the generation and the place in it, so results depend neither on the number of workers nor on
 * where a search was interrupted. What a worker does for one configuration depends on that
 * configuration alone.
 */
#ifndef KDC_SEARCH_H
#define KDC_SEARCH_H

#include "frontend/cli/eval.h"

/* ---- search_space.c: what is searched
 * ------------------------------------------------------------------ */

enum { KDC_GENES = 256 };

typedef struct KdcPicks { /* of one gene: alternatives from small to large, as the language writes
                             them */
    const char **value;
    int n;
} KdcPicks;

typedef struct KdcSpaceParam { /* a param or choice: one gene, or a list of n */
    const char *name;
    bool list;
    int first, n; /* genes */
} KdcSpaceParam;

typedef struct KdcSpace {
    KdcSpaceParam *param;
    int n_params;
    KdcPicks gene[KDC_GENES];
    int n;       /* genes */
    double size; /* configurations */
} KdcSpace;

typedef enum KdcFirst {
    KDC_UNIFORM,
    KDC_ARITHMETIC,
    KDC_GEOMETRIC
} KdcFirst; /* weights of alternatives: 1; 1, 2, 3; 1, 2, 4 */

/* Adds param `name` with the space that text says: [16, 24, 32], a list of such lists, or either
 * times a number. false after a message. */
bool kdc_space_add(KdcSpace *s, KdContext *cx, const char *name, const char *text);
void kdc_space_finish(KdcSpace *s); /* after the last */
/* "channels=[16,24]": the definition of param k in a configuration. */
const char *kdc_space_define(const KdcSpace *s, KdContext *cx, int k, const uint8_t *pick);
const char *kdc_space_key(const KdcSpace *s, KdContext *cx,
                          const uint8_t *pick); /* all, with blanks between */

/* Random numbers: a stream for each key; equal keys, equal numbers. */
typedef struct KdcDraw {
    uint64_t key, counter;
} KdcDraw;
KdcDraw kdc_draw_new(uint64_t seed, int64_t generation, int64_t place);
int64_t kdc_draw_below(KdcDraw *d, int64_t n); /* 0..n-1 */
double kdc_draw_unit(KdcDraw *d);              /* 0 <= x < 1 */
void kdc_space_draw(const KdcSpace *s, KdcDraw *d, KdcFirst first, uint8_t *pick);
bool kdc_space_lower(const KdcSpace *s, KdcDraw *d,
                     uint8_t *pick); /* one gene a step narrower; false: all are narrowest */

/* ---- configurations
 * ------------------------------------------------------------------------------------- */

typedef enum KdcCost {
    KDC_COST_LATENCY,
    KDC_COST_MACS,
    KDC_COST_MEMORY,
    KDC_COST_PARAMS,
    KDC_COSTS
} KdcCost;

typedef struct KdcKernelUse { /* a kernel of the compiled network, by what it computes */
    uint64_t hash;
    int calls;
} KdcKernelUse;

/* In units of KdcSearch.anchor, so that a machine whose speed changes from minute to minute
 * measures the same; NaN: not known. */
typedef struct KdcLatency {
    double measured;  /* without interruptions, by the anchor's of the same rounds */
    double predicted; /* from the table of kernels */
} KdcLatency;

typedef struct KdcFresh {   /* seconds that a configuration took that had not been seen */
    double elaborate, plan; /* counting it, and what a plan takes besides */
    double code, evaluate,
        whole; /* its metrics: machine code; the pictures; all from the file to the first picture */
    bool from_cache; /* machine code */
} KdcFresh;

typedef struct KdcCandidate {
    uint8_t *pick;
    const char *key;     /* interned: equal configurations, one pointer */
    const char *refused; /* why it cannot be built; or NULL */
    bool counted, planned, valued;
    int64_t parameters, peak;
    KdMacs macs;
    double layers; /* bytes */
    KdcKernelUse *kernel;
    int n_kernels;
    KdcLatency latency; /* as the search saw it */
    double final;       /* the same, measured at the end */
    double clock[2]; /* seconds of the latest rounds, as the clock had them: the low tenth and the
                        median */
    double metric[KDC_METRICS]; /* NaN: not measured */
    const char *failed;         /* why it has no metric; or NULL */
    int generation, place; /* where it was first taken up; -1: never, as it is over the budget */
    bool cached;           /* its metrics were measured earlier */
    KdcFresh fresh;
} KdcCandidate;

/* ---- the search
 * ------------------------------------------------------------------------------------------ */

typedef struct KdcPool KdcPool;
typedef struct KdcKernels KdcKernels;

typedef struct KdcBudget {   /* NaN: none */
    double limit[KDC_COSTS]; /* seconds, multiply-accumulates, bytes, elements */
    const char *macs;        /* "noT", "Tin", "Tout" */
    bool layers;             /* memory is torchstat's, not the planned peak */
} KdcBudget;

typedef struct KdcGeneration { /* a point of the curve */
    double best, mean;         /* so far; of the population */
    int valued;                /* configurations with a metric so far */
} KdcGeneration;

typedef enum KdcStrategy { KDC_EVOLUTION, KDC_RANDOM, KDC_ALL } KdcStrategy;

typedef enum KdcPart { /* of what a metric depends on */
    KDC_PART_PROGRAM,
    KDC_PART_WEIGHTS,
    KDC_PART_PICTURES,
    KDC_PART_METRIC,
    KDC_PARTS
} KdcPart;

typedef struct KdcSearch {
    const KdcArgs *a;
    KdcArgs base; /* the command's, as workers see it: phase, threads */
    KdcProgram *p;
    const volatile sig_atomic_t *stop;
    KdcSpace space;
    KdcStrategy strategy;
    KdcBudget budget;
    KdcCost axis; /* what the front is over */
    KdcMetric objective;
    bool more; /* a larger metric is better */
    KdcFirst first;
    int population, parents, mutants, crossovers, evaluations, patience, jobs, runs;
    int64_t generations;
    double mutate;
    bool predict, interrupted;
    double anchor; /* seconds that the widest configuration takes, at the best speed that the
                      machine has shown; NaN: not timed */
    double slower; /* how many times as long it took in the latest rounds */
    KdcPool *pool;
    KdcKernels *kernels; /* NULL: latency is not predicted */
    KD_VEC(KdcCandidate *) all;
    KdMap index;                   /* by key */
    KD_VEC(KdcCandidate *) people; /* the population */
    KD_VEC(KdcGeneration) curve;
    int64_t generation; /* the one that is over; -1: none */
    const char *folder, *cache, *fingerprint,
        *ended; /* fingerprint: of what a metric depends on; ended: why it was over */
    uint64_t part[KDC_PARTS]; /* the fingerprint's */
    KdcCandidate *best;
    const char *set, *preprocess, *inputs; /* of the pictures; of the network */
    int64_t pictures;
    uint64_t list;
    int drawn, refused, measured;  /* refused: cannot be built; measured: configurations that were
                                      timed for the table */
    int reused;                    /* metrics taken from the cache */
    double start, seconds, before; /* of this run; of those that it goes on from */
    struct KdcCheck {
        int n;
        double median, most;
    } check;    /* of predictions against measured configurations */
    int passed; /* better ones that were too slow when they were measured at the end */
    bool over;  /* all that were measured then */
    int lock;   /* of the folder; 0, -1: none */
    const char *made[2]; /* folders that were not there before: the folder's own, and that */
} KdcSearch;

/* The candidate of a configuration; one and the same each time. */
KdcCandidate *kdc_search_candidate(KdcSearch *s, const uint8_t *pick);
bool kdc_search_better(const KdcSearch *s, const KdcCandidate *x,
                       const KdcCandidate *y); /* strictly; both with a metric */
double kdc_search_value(const KdcSearch *s, const KdcCandidate *x); /* the objective */
bool kdc_search_sorted(const KdcSearch *s, KdcCandidate ***v,
                       int *n); /* those with a metric, best first. Always true */
/* Those that no other one is as good as and cheaper than along `axis`: by cost. */
void kdc_search_front(const KdcSearch *s, KdcCost axis, KdcCandidate ***v, int *n);

/* search_evolve.c. Until it is over, or interrupted. false after a message. */
bool kdc_search_evolve(KdcSearch *s);

/* search_ask.c. Each: false after a message, or when interrupted. */
bool kdc_ask_open(KdcSearch *s); /* the network, the data, the metric: is all there? */
bool kdc_ask_costs(KdcSearch *s, KdcCandidate **v, int n);  /* what budgets need */
bool kdc_ask_values(KdcSearch *s, KdcCandidate **v, int n); /* metrics */
bool kdc_ask_anchor(KdcSearch *s);                          /* times the widest configuration */
bool kdc_ask_times(KdcSearch *s, KdcCandidate **v, int n, int runs); /* measured latencies */
bool kdc_ask_extract(KdcSearch *s, const KdcCandidate *x,
                     const char *path); /* its weights, to a file */
double kdc_search_cost(const KdcSearch *s, const KdcCandidate *x, KdcCost k); /* NaN: not known */
bool kdc_search_fits(const KdcSearch *s, const KdcCandidate *x);
const char *kdc_cost_text(KdContext *cx, KdcCost k, double v); /* "2.600 G", "1.93 ms" */
const char *kdc_cost_name(const KdcSearch *s, KdcCost k);      /* "MACs (Tout)" */
const char *kdc_cost_key(KdcCost k);                           /* "macs" */

/* search_pool.c. Worker processes: this program again, with the same arguments and --search-worker.
 */
KdcPool *kdc_pool_new(KdcSearch *s, int jobs);
typedef json_t *KdcAskFn(void *user, int i);                 /* request i; the pool frees it */
typedef bool KdcAnswerFn(void *user, int i, json_t *answer); /* false ends it, after a message */
/* n requests, each to a worker that is free; answers in the order in which they come. false after a
 * message in the search's program, or when interrupted. most: at most so many workers. */
bool kdc_pool_run(KdcPool *pool, int n, int most, KdcAskFn *ask, KdcAnswerFn *answer, void *user);
void kdc_pool_free(KdcPool *pool);

/* search_worker.c. Where only one of --size and --crop-size (or --load-size) is given, it is the other, too. */
void kdc_search_sizes(KdcArgs *a);
/* Answers requests on standard input until it ends. The exit code. */
int kdc_search_worker(const KdcArgs *a);

/* search_kernels.c */
KdcKernels *
kdc_kernels_open(KdcSearch *s,
                 const char *path); /* the file may not be there yet. NULL after a message */
/* All in units of the anchor, in the file in seconds. A run's; NaN: some kernel has not been
 * measured. */
double kdc_kernels_predict(const KdcKernels *t, const KdcKernelUse *v, int n);
/* A measured network: one call of each kernel, and a run. */
void kdc_kernels_add(KdcKernels *t, const KdcKernelUse *v, const double *seconds, int n,
                     double run);
bool kdc_kernels_save(KdcKernels *t); /* false after a message */
bool kdc_kernels_knows(const KdcKernels *t, uint64_t hash);
int kdc_kernels_count(const KdcKernels *t);

/* search_state.c */
/* Makes it and takes it for this process; is there a search in it already, or at work? false after a message. */
bool kdc_state_folder(KdcSearch *s);
void kdc_state_leave(KdcSearch *s); /* at the end: folders that were made and are empty go */
bool kdc_state_begin(KdcSearch *s); /* after kdc_ask_open: reads the cache and, where --resume says
                                       so, the state. false after a message */
bool kdc_state_save(KdcSearch *s);  /* both */
json_t *kdc_state_json(const KdcSearch *s);

/* search_table.c */
bool kdc_search_print(KdcSearch *s); /* as --format says, to stdout */
const char *kdc_search_line(const KdcSearch *s, const KdcCandidate *x); /* "-D channels=[16,24]" */
void kdc_search_summary(KdcSearch *s, FILE *out);
typedef struct KdcFreshSummary {
    int n, cached;
    /* Medians, seconds. compiled, code: of those that had new kernels; shared: of the others. */
    double elaborate, plan, code, compiled, shared, evaluate;
} KdcFreshSummary;
KdcFreshSummary kdc_search_fresh(const KdcSearch *s);

/* search_page.c */
bool kdc_search_page(KdcSearch *s, const char *path);
bool kdc_search_picture(KdcSearch *s, const char *path); /* the front, as PNG */

#endif
