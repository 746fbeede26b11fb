/* options.h: the command line as data: one table of options (in options.c), one struct of results.
 *
 * Long options are --name VALUE or --name=VALUE, unambiguous beginnings are enough; short ones -oFILE or -o FILE;
 * `--` ends options. A verb knows which options are its own; any other is a usage error that names the nearest.
 */
#ifndef KDC_OPTIONS_H
#define KDC_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum KdcVerbId {
    KDC_VERB_COMPILE, KDC_VERB_TRAIN, KDC_VERB_RUN, KDC_VERB_EVAL, KDC_VERB_EXPORT, KDC_VERB_BENCH, KDC_VERB_COMPARE,
    KDC_VERB_PRUNE, KDC_VERB_SEARCH,
    KDC_VERB_IMPORT, KDC_VERB_DATA, KDC_VERB_SIMILARITY, KDC_VERB_ATTENTION, KDC_VERB_CALL, KDC_VERB_COUNT,
} KdcVerbId;

typedef struct KdcSearchArgs { /* NULL, 0: not given; -1 where 0 is a value */
    const char *objective, *memory, *strategy, *first, *cache, *kernels;
    int64_t population, generations, parents, mutants, crossovers, evaluations, patience, jobs;
    double mutate;
    bool predict, no_extract, worker; /* worker: this is one of its processes */
} KdcSearchArgs;

typedef struct KdcArgs {
    KdcVerbId verb;
    bool help, version, list_ops;
    const char *file, *name; /* FILE.kd[:NAME]; NULL if not given */
    const char **defines, **imports, **skips, **prints, **taps, **weights, **shapes, **adaptors, **evals,
        **operands, **eaches; /* operands: of compare, as they were given; file is the first */
    const char **tos; /* of prune: "channels=[16, 24]" */
    int n_tos;
    const char **chooses; /* of search: "channels=[[16, 24]] * 8" */
    int n_chooses;
    KdcSearchArgs search;
    int argc; /* as main got them */
    char **argv;
    int n_defines, n_imports, n_skips, n_prints, n_taps, n_weights, n_shapes, n_adaptors, n_evals, n_operands, n_eaches;
    const char *other; /* import: the checkpoint; data: the folder */
    const char *output, *emit, *in, *out, *triple, *cpu, *data, *phase, *preprocess, *map, *pred, *truth, *ref,
        *inception, *features, *feature_weights, *metrics, *layout, *against, *schedule, *raw, *eval_data, *eval_phase, *format, *calibrate_phase, *save_calibrated;
    bool print_all, time_passes, json, grad, train, no_cache, quiet, no_flip, serial, b_to_a, profile, openmp, truncate,
        beside, resume, has_seed, explain, dot, has_at, eval_stored, no_latency;
    const char *by, *convention, *recipe; /* of prune; NULL: not given */
    double macs, parameters, latency; /* targets; latency: in ms; 0: not given */
    bool dry_run;
    int64_t min_channels;
    const char *weights_by; /* no option: which one gives a network's weights, for messages; NULL: --weights FILE */
    const char *winograd; /* "4x4", "2x2", "off", or NULL: 4x4 */
    int verbose, opt; /* opt: level plus 1, 0: not given */
    int64_t batch, height, width, steps, epochs, threads, load_h, load_w, crop_h, crop_w, limit, workers, save_every,
        sample_every, memory_limit, classes, ignore, runs, at_x, at_y, k, eval_every, eval_h, eval_w, eval_pictures, calibrate,
        hold_out;
    /* 0: not given. memory_limit: bytes. ignore: -1 when not given */
    double range_lo, range_hi; /* of a network's images; -1, 1 */
    double labelled;           /* the share of the pairs whose truth is used; 0: not given */
    uint64_t seed;
    bool color; /* of stderr: decided from --color, NO_COLOR, TERM and the terminal */
} KdcArgs;

/* Returns 0, or 2 after a message on stderr. Free with kdc_args_free either way. */
int kdc_args_parse(KdcArgs *a, int argc, char **argv);
void kdc_args_free(KdcArgs *a);
void kdc_options_help(FILE *out, KdcVerbId verb); /* the verb's options, one a line */

/* "kdc: error: ..." on stderr, with the hint where help is. Returns 2. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int kdc_usage_error(const KdcArgs *a, const char *fmt, ...);

/* 123, 900M, 1.5GB (powers of 1024) at the beginning of text; what is behind it. Anything at all where there is no number. */
const char *kdc_read_bytes(const char *text, double *bytes);

/* main.c: verbs by number. */
const char *kdc_verb_name(KdcVerbId v);
int kdc_cmd_compile(const KdcArgs *a);
int kdc_cmd_train(const KdcArgs *a);
int kdc_cmd_run(const KdcArgs *a);
int kdc_cmd_eval(const KdcArgs *a);
int kdc_cmd_export(const KdcArgs *a);
int kdc_cmd_bench(const KdcArgs *a);
int kdc_cmd_compare(const KdcArgs *a);
int kdc_cmd_prune(const KdcArgs *a);
int kdc_cmd_search(const KdcArgs *a);
int kdc_cmd_import(const KdcArgs *a);
int kdc_cmd_data(const KdcArgs *a);
int kdc_cmd_similarity(const KdcArgs *a);
int kdc_cmd_attention(const KdcArgs *a);
int kdc_cmd_call(const KdcArgs *a);

#endif
