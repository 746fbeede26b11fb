/* options.c: see options.h. The table says everything about an option: whose it is, what it takes, where it goes. */
#include "frontend/cli/options.h"

#include "ir/base.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Option Option;
typedef int TakeFn(KdcArgs *a, const Option *o, const char *value); /* 0, or 2 after a message */

struct Option {
    char letter;       /* or 0 */
    const char *name;  /* or NULL: only a letter */
    const char *value; /* what it takes, or NULL */
    unsigned verbs;
    const char *help;
    TakeFn *take;
    size_t field, count; /* where it goes in KdcArgs; of a list: where its length is */
    int64_t least, most; /* of a whole number */
};

enum {
    COMPILE = 1 << KDC_VERB_COMPILE, TRAIN = 1 << KDC_VERB_TRAIN, RUN = 1 << KDC_VERB_RUN, EVAL = 1 << KDC_VERB_EVAL,
    EXPORT = 1 << KDC_VERB_EXPORT, BENCH = 1 << KDC_VERB_BENCH, IMPORT = 1 << KDC_VERB_IMPORT, DATA = 1 << KDC_VERB_DATA,
    CALL = 1 << KDC_VERB_CALL, SIMILARITY = 1 << KDC_VERB_SIMILARITY, ATTENTION = 1 << KDC_VERB_ATTENTION,
    COMPARE = 1 << KDC_VERB_COMPARE, PRUNE = 1 << KDC_VERB_PRUNE, SEARCH = 1 << KDC_VERB_SEARCH,
    ALL = (1 << KDC_VERB_COUNT) - 1,
    CODE = ALL & ~DATA,               /* those that compile */
    PASSES = COMPILE | CALL,          /* those that people look at the compiler with */
    FOLDERS = TRAIN | EVAL | DATA | COMPARE | SEARCH, /* those that read data sets */
    MAPS = SIMILARITY | ATTENTION,    /* those that draw features */
};

static TakeFn take_each, take_flag, take_text, take_list, take_whole, take_level, take_size, take_load, take_crop, take_shape,
    take_seed, take_color, take_winograd, take_define, take_bytes, take_range, take_direction, take_more, take_at, take_measure,
    take_eval_size, take_share, take_amount, take_to,
    take_choose, take_probability;

#define FLAG(f) take_flag, offsetof(KdcArgs, f), 0, 0, 0
#define TEXT(f) take_text, offsetof(KdcArgs, f), 0, 0, 0
#define LIST(f) take_list, offsetof(KdcArgs, f), offsetof(KdcArgs, n_##f), 0, 0
#define WHOLE(f, lo, hi) take_whole, offsetof(KdcArgs, f), 0, lo, hi
#define OWN(fn) fn, 0, 0, 0, 0

static const Option options[] = {
    {'o', "output", "FILE", COMPILE, "write the object (or the stage that --emit names) to FILE", TEXT(output)},
    {0, "emit", "STAGE", COMPILE, "print a stage: ast, ir, grad, fused, loops, llvm, asm, obj", TEXT(emit)},
    {0, "in", "FILE", CALL, "safetensors: inputs by parameter name, weights by their own", TEXT(in)},
    {0, "out", "FILE", CALL, "safetensors to write; without it, a line per output is printed", TEXT(out)},

    {0, "data", "FOLDER", TRAIN | EVAL | COMPARE | SEARCH, "the data set: see kdc data --help for the layouts", TEXT(data)},
    {'o', "out", "FOLDER", TRAIN, "the run folder (runs/SESSION): checkpoints, log, samples, report.html", TEXT(output)},
    {0, "resume", NULL, TRAIN, "go on from the newest good checkpoint of the run folder, bit for bit", FLAG(resume)},
    {0, "epochs", "N", TRAIN, "train so many times over the data; what a schedule calls an epoch", WHOLE(epochs, 1, 1000000)},
    {0, "steps", "N", TRAIN, "train so many steps in all (with --resume, too)", WHOLE(steps, 1, 1000000000)},
    {0, "eval", "NET[:BtoA]", TRAIN, "now and then, metrics of NET on test pictures, as kdc eval (none: not any more); may be repeated", LIST(evals)},
    {0, "eval-every", "N", TRAIN, "steps between them (1/20 of the run)", WHOLE(eval_every, 1, 1000000000)},
    {0, "eval-data", "FOLDER", TRAIN, "the test pictures' data set (that of --data)", TEXT(eval_data)},
    {0, "eval-phase", "NAME", TRAIN, "which part of it (test)", TEXT(eval_phase)},
    {0, "eval-size", "HxW|stored", TRAIN, "test pictures are resized to this (what the session takes)", OWN(take_eval_size)},
    {0, "eval-pictures", "N", TRAIN, "use so many of them only", WHOLE(eval_pictures, 1, 1000000000)},
    {0, "save-every", "N", TRAIN, "steps between checkpoints (about a minute's worth)", WHOLE(save_every, 1, 1000000000)},
    {0, "sample-every", "N", TRAIN, "steps between sample grids (1/20 of the run)", WHOLE(sample_every, 1, 1000000000)},
    {0, "memory-limit", "SIZE", TRAIN, "of the whole run: 900M, 4G. Values are computed again to keep it (the machine's memory)", OWN(take_bytes)},
    {0, "memory-limit", "SIZE", COMPILE | BENCH | CALL, "of activations: 900M, 1.5G. Values are computed again to keep it", OWN(take_bytes)},
    {0, "workers", "N", TRAIN | EVAL | RUN | DATA | COMPARE | SEARCH, "threads that decode images ahead (2)", WHOLE(workers, 1, 64)},

    {'i', "in", "PATH", RUN | MAPS, "an image, or a folder of them", TEXT(in)},
    {'o', "out", "PATH", RUN | MAPS, "the image to write, or a folder (X.jpg becomes X.png there)", TEXT(output)},
    {'o', "output", "FOLDER", EXPORT, "where NET.h, NET.o, libNET.a and main.c go", TEXT(output)},
    {'o', "output", "FILE", IMPORT, "the safetensors file to write", TEXT(output)},
    {0, "map", "FILE", IMPORT, "which tensor becomes which weight: lines 'OUR.NAME = THEIR.NAME'", TEXT(map)},

    {0, "phase", "NAME", FOLDERS, "which part of the data set: train, val, test, ...", TEXT(phase)},
    {0, "layout", "NAME", FOLDERS, "aligned, unpaired, folders, labels or plain (by what is there)", TEXT(layout)},
    {0, "direction", "AtoB|BtoA", FOLDERS, "which image of a pair is the input (AtoB)", OWN(take_direction)},
    {0, "preprocess", "NAME", FOLDERS, "resize_and_crop, crop, scale_width, scale_width_and_crop, none", TEXT(preprocess)},
    {0, "load-size", "HxW", FOLDERS, "images are resized to this first (crop size * 286/256)", OWN(take_load)},
    {0, "crop-size", "HxW", FOLDERS, "then cropped to this (what the session or network takes)", OWN(take_crop)},
    {0, "no-flip", NULL, TRAIN, "never mirror images", FLAG(no_flip)},
    {0, "serial-batches", NULL, TRAIN, "images in the order of their names", FLAG(serial)},
    {0, "max-dataset-size", "N", FOLDERS | RUN | MAPS, "use so many images only", WHOLE(limit, 1, 1000000000)},
    {0, "labelled", "SHARE", TRAIN, "the truth of so many of the pairs only, drawn at random: 0.25 or 25% (all)", OWN(take_share)},
    {0, "classes", "N", FOLDERS, "label maps: values 0..N-1", WHOLE(classes, 1, 65536)},
    {0, "ignore-label", "N", FOLDERS, "label maps: a value that does not count", WHOLE(ignore, 0, 65535)},

    {0, "metrics", "LIST", EVAL | TRAIN | COMPARE, "some of l1,psnr,ssim,fid,miou,frechet (each that its inputs are given for)", TEXT(metrics)},
    {0, "calibrate", "N", EVAL | SEARCH, "first, running statistics of norms are estimated anew over N batches of training pictures", WHOLE(calibrate, 1, 1000000)},
    {0, "calibrate-phase", "NAME", EVAL | SEARCH, "which part of the data set these are (train)", TEXT(calibrate_phase)},
    {0, "save-calibrated", "FILE", EVAL, "write the weights with these statistics: safetensors", TEXT(save_calibrated)},
    {0, "against", "NET", EVAL | TRAIN | SEARCH, "compare with this network of the file instead of with the data's own pictures", TEXT(against)},
    {0, "against", "NET", SIMILARITY, "the teacher (the only frozen network of the file)", TEXT(against)},
    {0, "tap", "[NET=]NAME", SIMILARITY, "the feature, such as down[2]: of both networks, or of NET; may be repeated", LIST(taps)},
    {0, "tap", "NAME", ATTENTION, "the feature, such as down[2]", LIST(taps)},
    {0, "adaptor", "[NET=]A", SIMILARITY, "network A of the file maps the student's (or NET's) features to as many channels as the other's", LIST(adaptors)},
    {0, "at", "X,Y", SIMILARITY, "the student's patch, a pixel from the left and the top (where the teacher's attention is largest)", OWN(take_at)},
    {0, "measure", "NAME", SIMILARITY, "cosine or dot (cosine)", OWN(take_measure)},
    {0, "k", "N", ATTENTION, "how many positions are chosen (64)", WHOLE(k, 1, 1000000000)},
    {0, "raw", "FILE", MAPS, "also the numbers, of one picture: .npz or .safetensors", TEXT(raw)},
    {0, "pred", "FOLDER", EVAL, "pictures (or label maps) made earlier, instead of a network", TEXT(pred)},
    {0, "truth", "FOLDER", EVAL, "what --pred is compared with, by name", TEXT(truth)},
    {0, "ref", "FILE|FOLDER", EVAL | TRAIN | COMPARE | SEARCH, "FID, Frechet: statistics (.npz with mu and sigma), or the pictures they are of", TEXT(ref)},
    {0, "inception", "FILE", EVAL | TRAIN | COMPARE | SEARCH, "FID: weights of models/nets/inception.kd", TEXT(inception)},
    {0, "features", "FILE.kd:NET.TAP", EVAL | TRAIN | COMPARE | SEARCH, "Frechet: a network whose features at TAP (or without it: what it gives) are compared; or RUN:NET.TAP, of a run folder", TEXT(features)},
    {0, "feature-weights", "FILE", EVAL | TRAIN | COMPARE | SEARCH, "weights of that network, if it is of no run", TEXT(feature_weights)},

    {0, "weights", "[NET=]FILE[:FROM]", CODE & ~(COMPILE | IMPORT | COMPARE),
     "weights (of NET): safetensors, .pth, or a run folder (of its network FROM); by name or by order and shape; may be repeated", LIST(weights)},
    {0, "range", "LO..HI", RUN | EVAL | COMPARE | EXPORT | MAPS | SEARCH, "what 0 and 255 are to the network (-1..1)", OWN(take_range)},
    {0, "truncate", NULL, RUN | EVAL | EXPORT | COMPARE | SEARCH, "cut instead of round when pictures become 8-bit, as PyTorch scripts do", FLAG(truncate)},
    {0, "beside", NULL, EXPORT, "weights in a file beside the library instead of inside", FLAG(beside)},
    {0, "openmp", NULL, EXPORT, "run on all cores, through OpenMP (link with -fopenmp)", FLAG(openmp)},
    {0, "weights", "[ROW=]FILE", COMPARE, "weights of a row (its number, from 1, or its name); {ngf} becomes its param; may be repeated", LIST(weights)},
    {0, "each", "NAME=A,B,...", COMPARE, "every network once for each of these values of a param; may be repeated", OWN(take_each)},
    {0, "format", "NAME", COMPARE | SEARCH, "text, markdown, csv or json (text)", TEXT(format)},
    {'o', "output", "PAGE.html", COMPARE, "also a page: the table, latency and metrics against width as plots", TEXT(output)},
    {'o', "output", "STUDENT.kd", PRUNE, "the network to write, and STUDENT.safetensors, its weights", TEXT(output)},
    {0, "macs", "N", PRUNE | SEARCH, "at most so many multiply-accumulates: 2.6e9, 2.6G", OWN(take_amount)},
    {0, "params", "N", PRUNE | SEARCH, "at most so many parameters: 350000, 0.35M", OWN(take_amount)},
    {0, "latency", "MS", PRUNE | SEARCH, "at most so many milliseconds a run, measured here on --threads N (search: 1)", OWN(take_amount)},
    {0, "to", "NAME=VALUE", PRUNE, "instead of a target: this hyper-parameter of the network, channels=[16,24]; may be repeated", OWN(take_to)},
    {0, "by", "NAME", PRUNE, "scale (of norms), l1 (mean |w| of filters), norm (L1 norm of filters, layer by layer)", TEXT(by)},
    {0, "convention", "NAME", PRUNE | SEARCH, "how --macs counts transposed convolutions: noT, Tin or Tout (Tout)", TEXT(convention)},
    {0, "recipe", "R.kd[:NET]", PRUNE, "STUDENT.kd is this recipe with the widths of its NET (S) set: ready for kdc train", TEXT(recipe)},
    {0, "min-channels", "N", PRUNE, "leave so many in each layer that cannot vanish altogether (16)", WHOLE(min_channels, 1, 65536)},
    {0, "dry-run", NULL, PRUNE, "write nothing, only say what would come out", FLAG(dry_run)},
    {0, "runs", "N", PRUNE, "with --latency: timed runs of each candidate, of which the median counts (10)", WHOLE(runs, 1, 1000000)},
    {0, "no-latency", NULL, COMPARE, "measure no times", FLAG(no_latency)},
    {0, "runs", "N", COMPARE, "rounds of timed runs over all networks, after a warm-up (30)", WHOLE(runs, 1, 1000000)},
    {0, "runs", "N", BENCH, "timed runs after the warm-up (20)", WHOLE(runs, 1, 1000000)},
    {0, "profile", NULL, BENCH, "also a table of kernels", FLAG(profile)},
    {0, "explain", NULL, COMPILE | BENCH, "also, for each convolution and product, which schedule it got and why", FLAG(explain)},

    {0, "objective", "METRIC", SEARCH, "what is best: l1, psnr, ssim, fid, miou or frechet, on pictures of --phase (train)", TEXT(search.objective)},
    {0, "hold-out", "N", TRAIN, "leave out N of the pictures: those that kdc search and kdc eval --hold-out N measure on", WHOLE(hold_out, 1, 1000000000)},
    {0, "hold-out", "N", SEARCH | EVAL, "measure on N of these pictures only, always the same ones (kdc train --hold-out N leaves them out)", WHOLE(hold_out, 1, 1000000000)},
    {0, "memory", "SIZE[:layers]", SEARCH, "at most so many bytes of activations, planned: 900K, 1.5M; or of layers' results, as torchstat counts", TEXT(search.memory)},
    {0, "predict", NULL, SEARCH, "with --latency: from a table of measured kernels, and its error at the end", FLAG(search.predict)},
    {0, "kernels", "FILE", SEARCH, "that table (kernels.json in the folder)", TEXT(search.kernels)},
    {0, "choose", "NAME=SPACE", SEARCH, "search this param, too: width=[8,16,32], channels=[[16,24,32]]*8; may be repeated", OWN(take_choose)},
    {0, "strategy", "NAME", SEARCH, "evolution (the default), random, or all", TEXT(search.strategy)},
    {0, "population", "N", SEARCH, "random configurations of the first generation (100)", WHOLE(search.population, 1, 100000)},
    {0, "generations", "N", SEARCH, "generations after it (500)", WHOLE(search.generations, 0, 1000000)},
    {0, "parents", "N", SEARCH, "the best so many have children (25)", WHOLE(search.parents, 1, 100000)},
    {0, "mutants", "N", SEARCH, "children of one parent in a generation (50)", WHOLE(search.mutants, 0, 100000)},
    {0, "crossovers", "N", SEARCH, "and of two (50)", WHOLE(search.crossovers, 0, 100000)},
    {0, "mutate-prob", "P", SEARCH, "with which a mutant draws each pick anew (0.2)", OWN(take_probability)},
    {0, "first", "NAME", SEARCH, "first draws: uniform (the default), or wide picks more often: arithmetic, geometric", TEXT(search.first)},
    {0, "evaluations", "N", SEARCH, "end when so many configurations have a metric (random: 10 times the population)", WHOLE(search.evaluations, 1, 1000000000)},
    {0, "patience", "N", SEARCH, "end after so many generations without a better one", WHOLE(search.patience, 1, 1000000)},
    {0, "jobs", "N", SEARCH, "processes (1); results do not depend on it", WHOLE(search.jobs, 1, 256)},
    {0, "cache", "FILE", SEARCH, "metrics by configuration (cache.json in the folder), also of an earlier search", TEXT(search.cache)},
    {'o', "output", "FOLDER", SEARCH, "results and state (runs/search-NET)", TEXT(output)},
    {0, "resume", NULL, SEARCH, "go on with the search in the folder", FLAG(resume)},
    {0, "no-extract", NULL, SEARCH, "do not write the best one's weights", FLAG(search.no_extract)},
    {0, "runs", "N", SEARCH, "rounds in which latency is measured (20): of each kernel the low tenth of them counts", WHOLE(runs, 1, 1000000)},
    {0, "search-worker", NULL, SEARCH, NULL, FLAG(search.worker)},

    {0, "grad", NULL, CALL, "also grad.X for every input and weight X, of the sum of output * seed", FLAG(grad)},
    {0, "train", NULL, CALL | BENCH, "training mode: dropout on, batch statistics", FLAG(train)},
    {0, "tap", "NAME", CALL, "also write an inner feature; may be repeated", LIST(taps)},
    {0, "steps", "N", CALL, "of a session: how many steps to run (1)", WHOLE(steps, 1, 1000000)},
    {0, "net", "NAME", CODE, "the network, function or session meant; the same as FILE.kd:NAME", TEXT(name)},
    {'D', "define", "NAME=VALUE", CODE, "set a param", OWN(take_define)},
    {'I', "import", "FOLDER", CODE, "look for imports there too", LIST(imports)},
    {0, "size", "HxW", CODE, "image size where the program leaves it open (256x256)", OWN(take_size)},
    {0, "shape", "X=DIMS", COMPILE | EXPORT | BENCH | COMPARE | IMPORT | PRUNE | SEARCH, "shape of an input: x=1x3x256x256; may be repeated", OWN(take_shape)},
    {0, "batch", "N", CODE, "batch size where the program leaves it open (1)", WHOLE(batch, 1, 65536)},
    {0, "seed", "N", CALL | TRAIN | BENCH | COMPARE | DATA | SEARCH, "of initial weights, order and random numbers (0)", OWN(take_seed)},
    {0, "threads", "N", CODE, "threads (all cores); results do not depend on it", WHOLE(threads, 1, 1024)},
    {0, "skip", "PASS", CODE, "leave out a pass; may be repeated", LIST(skips)},
    {0, "schedule", "NAME", CODE & ~IMPORT, "force this schedule where it applies (see --explain), or generic", TEXT(schedule)},
    {0, "winograd", "SIZE", CODE & ~IMPORT, "largest output tiles of Winograd convolutions: 4x4 (the default), 2x2 (rounds less), or off", OWN(take_winograd)},
    {0, "print-after", "PASS", PASSES, "print the program after a pass, to stderr", LIST(prints)},
    {0, "print-after-all", NULL, PASSES, "after each pass", FLAG(print_all)},
    {0, "time-passes", NULL, PASSES, "how long each pass took, to stderr", FLAG(time_passes)},
    {'O', NULL, "0..3", CODE, "level of code generation (3)", OWN(take_level)},
    {0, "target", "TRIPLE", COMPILE | EXPORT, "generate code for another machine", TEXT(triple)},
    {0, "cpu", "NAME", COMPILE | EXPORT, "and its processor: x86-64-v3, cortex-a72, ...", TEXT(cpu)},
    {0, "no-cache", NULL, CODE, "neither read nor write the cache of compiled objects", FLAG(no_cache)},
    {0, "json", NULL, COMPILE | EVAL | BENCH | COMPARE | DATA | SEARCH, "the results as JSON", FLAG(json)},
    {0, "list-ops", NULL, COMPILE, "every primitive op with its attributes", FLAG(list_ops)},
    {'q', "quiet", NULL, ALL, "print no summary, no progress and no notes", FLAG(quiet)},
    {'v', "verbose", NULL, ALL, "say more: which tensor became which weight, what was skipped", OWN(take_more)},
    {0, "color", "WHEN", ALL, "auto, always or never", OWN(take_color)},
    {'h', "help", NULL, ALL, "this text", FLAG(help)},
    {0, "version", NULL, ALL, "version, LLVM and processor", FLAG(version)},
};

/* Words of the field's other programs for the same things. `_` in an option is `-`. */
static const struct { const char *alias, *name; } aliases[] = {
    {"dataroot", "data"}, {"init", "weights"},          {"batch-size", "batch"}, {"n-epochs", "epochs"},
    {"input", "in"},      {"continue-train", "resume"}, {"name", "out"},         {"num-threads", "workers"},
};

int kdc_usage_error(const KdcArgs *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%skdc: error:%s ", a->color ? "\033[1;31m" : "", a->color ? "\033[0m" : "");
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    if (a->verb == KDC_VERB_COMPILE) {
        fprintf(stderr, "\nsee kdc --help\n");
    } else {
        fprintf(stderr, "\nsee kdc %s --help\n", kdc_verb_name(a->verb));
    }
    return 2;
}

void kdc_options_help(FILE *out, KdcVerbId verb) {
    for (int i = 0; i < KD_COUNT(options); i++) {
        const Option *o = &options[i];
        char left[64];
        if (!(o->verbs & 1u << verb) || !o->help) { /* without help: the program's own */
            continue;
        }
        if (!o->name) {
            snprintf(left, sizeof left, "-%c%s", o->letter, o->value);
        } else if (o->letter) {
            snprintf(left, sizeof left, "-%c, --%s%s%s", o->letter, o->name, o->value ? " " : "",
                     o->value ? o->value : "");
        } else {
            snprintf(left, sizeof left, "    --%s%s%s", o->name, o->value ? " " : "",
                     o->value ? o->value : "");
        }
        fprintf(out, "  %-28s %s\n", left, o->help);
    }
}

/* ---- values --------------------------------------------------------------------------------------- */

static bool whole(const char *text, int64_t lo, int64_t hi, int64_t *v) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || n < lo || n > hi) {
        return false;
    }
    *v = n;
    return true;
}

static void *field(KdcArgs *a, size_t at) {
    return (char *)a + at;
}

static int take_flag(KdcArgs *a, const Option *o, const char *value) {
    (void)value;
    *(bool *)field(a, o->field) = true;
    return 0;
}

/* 0, or 2 after a message: an empty path names nothing. */
static int check_path(const KdcArgs *a, const Option *o, const char *value) {
    static const char *const paths[] = {"FILE", "FOLDER", "PATH", "FILE|FOLDER", "[NET=]FILE[:FROM]", "[ROW=]FILE", "PAGE.html", "STUDENT.kd", "R.kd[:NET]"};
    for (int i = 0; i < KD_COUNT(paths) && !*value; i++) {
        if (strcmp(o->value, paths[i]) == 0) {
            return kdc_usage_error(a, "--%s needs %s, got ''", o->name, o->value);
        }
    }
    return 0;
}

static int take_text(KdcArgs *a, const Option *o, const char *value) {
    *(const char **)field(a, o->field) = value;
    return check_path(a, o, value);
}

static int take_list(KdcArgs *a, const Option *o, const char *value) {
    const char **list = *(const char ***)field(a, o->field);
    list[(*(int *)field(a, o->count))++] = value;
    return check_path(a, o, value);
}

static int take_whole(KdcArgs *a, const Option *o, const char *text) {
    if (whole(text, o->least, o->most, field(a, o->field))) {
        return 0;
    }
    return kdc_usage_error(a, "--%s needs a number from %lld to %lld, got '%s'", o->name, (long long)o->least,
                           (long long)o->most, text);
}

static int take_level(KdcArgs *a, const Option *o, const char *text) {
    int64_t level;
    (void)o;
    if (!whole(text, 0, 3, &level)) {
        return kdc_usage_error(a, "-O needs a level from 0 to 3, got '%s'", text);
    }
    a->opt = (int)level + 1;
    return 0;
}

static int take_more(KdcArgs *a, const Option *o, const char *value) {
    (void)o, (void)value;
    a->verbose++;
    return 0;
}

/* HxW, or one number for both */
static int take_hw(KdcArgs *a, const Option *o, const char *text, int64_t *height, int64_t *width) {
    char first[32];
    size_t n = strcspn(text, "xX");
    if (n < sizeof first) {
        memcpy(first, text, n);
        first[n] = '\0';
        const char *second = text[n] ? text + n + 1 : first;
        if (whole(first, 1, 65536, height) && whole(second, 1, 65536, width)) {
            return 0;
        }
    }
    return kdc_usage_error(a, "--%s needs HxW, such as 256x512, got '%s'", o->name, text);
}

static int take_size(KdcArgs *a, const Option *o, const char *text) {
    return take_hw(a, o, text, &a->height, &a->width);
}

static int take_load(KdcArgs *a, const Option *o, const char *text) {
    return take_hw(a, o, text, &a->load_h, &a->load_w);
}

static int take_crop(KdcArgs *a, const Option *o, const char *text) {
    return take_hw(a, o, text, &a->crop_h, &a->crop_w);
}

static int take_direction(KdcArgs *a, const Option *o, const char *text) {
    a->b_to_a = strcmp(text, "BtoA") == 0;
    if (a->b_to_a || strcmp(text, "AtoB") == 0) {
        return 0;
    }
    return kdc_usage_error(a, "--%s needs AtoB or BtoA, got '%s'", o->name, text);
}

/* X,Y */
static int take_at(KdcArgs *a, const Option *o, const char *text) {
    char first[32] = "";
    const char *comma = strchr(text, ',');
    size_t n = comma ? (size_t)(comma - text) : 0;
    if (n > 0 && n < sizeof first) {
        memcpy(first, text, n);
        a->has_at = whole(first, 0, 1000000, &a->at_x) && whole(comma + 1, 0, 1000000, &a->at_y);
    }
    return a->has_at ? 0 : kdc_usage_error(a, "--%s needs X,Y in pixels, such as 120,88, got '%s'", o->name, text);
}

static int take_measure(KdcArgs *a, const Option *o, const char *text) {
    a->dot = strcmp(text, "dot") == 0;
    if (a->dot || strcmp(text, "cosine") == 0) {
        return 0;
    }
    return kdc_usage_error(a, "--%s needs cosine or dot, got '%s'", o->name, text);
}

static int take_eval_size(KdcArgs *a, const Option *o, const char *text) {
    a->eval_stored = strcmp(text, "stored") == 0;
    return a->eval_stored ? 0 : take_hw(a, o, text, &a->eval_h, &a->eval_w);
}

const char *kdc_read_bytes(const char *text, double *bytes) {
    static const char units[] = "KMGT";
    char *end;
    *bytes = strtod(text, &end);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    for (int k = 0; unit && k <= unit - units; k++) {
        *bytes *= 1024;
    }
    end += unit ? 1 : 0;
    return end + (unit && (*end == 'B' || *end == 'b'));
}

/* 123, 900M, 1.5G */
static int take_bytes(KdcArgs *a, const Option *o, const char *text) {
    double v;
    const char *end = kdc_read_bytes(text, &v);
    if (!isdigit((unsigned char)*text) || *end || !(v >= 1 && v < 9e18)) {
        return kdc_usage_error(a, "--%s needs bytes, such as 900M or 1.5G, got '%s'", o->name, text);
    }
    a->memory_limit = (int64_t)v;
    return 0;
}

/* 0.25 or 25% */
static int take_share(KdcArgs *a, const Option *o, const char *text) {
    char *end;
    double v = strtod(text, &end);
    bool percent = *end == '%' && end > text;
    v = percent ? v / 100 : v;
    if (!isdigit((unsigned char)*text) || end[percent ? 1 : 0] || !(v > 0 && v <= 1)) {
        return kdc_usage_error(a, "--%s needs a share above 0 and up to 1, such as 0.25 or 25%%, got '%s'", o->name, text);
    }
    a->labelled = v;
    return 0;
}

/* 2.6e9, 2.6G (powers of 1000): an amount above 0, for --macs, --params or --latency */
static int take_amount(KdcArgs *a, const Option *o, const char *text) {
    char *end;
    double v = strtod(text, &end);
    bool time = strcmp(o->name, "latency") == 0;
    const char *unit = *end && !time ? strchr("KMG", toupper((unsigned char)*end)) : NULL;
    for (int k = 0; unit && k <= unit - strchr("KMG", 'K'); k++) {
        v *= 1000;
    }
    end += unit ? 1 : 0;
    if (!(isdigit((unsigned char)*text) || *text == '.') || *end || !(v > 0 && v < 1e18)) {
        return kdc_usage_error(a, time ? "--%s needs milliseconds, such as 12.5, got '%s'" : "--%s needs a number above 0, such as 2.6e9 or 2.6G, got '%s'",
                               o->name, text);
    }
    *(time ? &a->latency : *o->name == 'm' ? &a->macs : &a->parameters) = v;
    return 0;
}

/* LO..HI */
static int take_range(KdcArgs *a, const Option *o, const char *text) {
    char first[32] = "", *end;
    const char *dots = strstr(text, "..");
    size_t n = dots ? (size_t)(dots - text) : 0;
    if (n > 0 && n < sizeof first) {
        memcpy(first, text, n); /* by itself: strtod would take "0." of "0..255" */
        a->range_lo = strtod(first, &end);
        bool whole_first = !*end;
        a->range_hi = strtod(dots + 2, &end);
        if (whole_first && dots[2] && !*end && a->range_hi > a->range_lo) {
            return 0;
        }
    }
    return kdc_usage_error(a, "--%s needs LO..HI, such as 0..255 or -1..1, got '%s'", o->name, text);
}

/* NAME=8x8 (NAME= for a scalar) */
static int take_shape(KdcArgs *a, const Option *o, const char *text) {
    const char *equals = strchr(text, '='), *p = equals ? equals + 1 : text;
    bool ok = equals && equals > text;
    for (const char *q = text; ok && q < equals; q++) {
        ok = isalnum((unsigned char)*q) || *q == '_';
    }
    while (ok && *p) {
        ok = isdigit((unsigned char)*p);
        p += strspn(p, "0123456789");
        ok = ok && (!*p || (*p++ == 'x' && *p));
    }
    if (!ok) {
        return kdc_usage_error(a, "--%s needs NAME=DIMS, such as x=1x3x256x256, got '%s'", o->name, text);
    }
    a->shapes[a->n_shapes++] = text;
    return 0;
}

static int take_seed(KdcArgs *a, const Option *o, const char *text) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno) {
        return kdc_usage_error(a, "--%s needs a number >= 0, got '%s'", o->name, text);
    }
    a->seed = v;
    a->has_seed = true;
    return 0;
}

static int take_color(KdcArgs *a, const Option *o, const char *text) {
    if (strcmp(text, "always") == 0) {
        a->color = true;
    } else if (strcmp(text, "never") == 0) {
        a->color = false;
    } else if (strcmp(text, "auto") != 0) {
        return kdc_usage_error(a, "--%s needs auto, always or never, got '%s'", o->name, text);
    }
    return 0;
}

static int take_winograd(KdcArgs *a, const Option *o, const char *text) {
    if (strcmp(text, "4x4") != 0 && strcmp(text, "2x2") != 0 && strcmp(text, "off") != 0) {
        return kdc_usage_error(a, "--%s needs 4x4, 2x2 or off, got '%s'", o->name, text);
    }
    a->winograd = text;
    return 0;
}

static bool is_assignment(const char *text) {
    const char *p = text;
    while (isalnum((unsigned char)*p) || *p == '_') {
        p++;
    }
    return p > text && !isdigit((unsigned char)*text) && *p == '=';
}

static int take_each(KdcArgs *a, const Option *o, const char *text) {
    if (!is_assignment(text) || !strchr(text, '=')[1]) {
        return kdc_usage_error(a, "--%s needs NAME=A,B,..., such as ngf=64,32,16, got '%s'", o->name, text);
    }
    a->eaches[a->n_eaches++] = text;
    return 0;
}

static int take_to(KdcArgs *a, const Option *o, const char *text) {
    if (!is_assignment(text) || !strchr(text, '=')[1]) {
        return kdc_usage_error(a, "--%s needs NAME=VALUE, such as channels=[16,24], got '%s'", o->name, text);
    }
    a->tos[a->n_tos++] = text;
    return 0;
}

static int take_choose(KdcArgs *a, const Option *o, const char *text) {
    if (!is_assignment(text) || !strchr(text, '=')[1]) {
        return kdc_usage_error(a, "--%s needs NAME=SPACE, such as width=[8,16,32], got '%s'", o->name, text);
    }
    a->chooses[a->n_chooses++] = text;
    return 0;
}

static int take_probability(KdcArgs *a, const Option *o, const char *text) {
    char *end;
    double v = strtod(text, &end);
    if (!(isdigit((unsigned char)*text) || *text == '.') || *end || !(v > 0 && v <= 1)) {
        return kdc_usage_error(a, "--%s needs a number above 0 and at most 1, got '%s'", o->name, text);
    }
    a->search.mutate = v;
    return 0;
}

static int take_define(KdcArgs *a, const Option *o, const char *text) {
    if (!is_assignment(text)) {
        return kdc_usage_error(a, "-%c needs NAME=VALUE, got '%s'", o->letter, text);
    }
    a->defines[a->n_defines++] = text;
    return 0;
}

/* ---- finding options ------------------------------------------------------------------------------ */

static int unknown_option(const KdcArgs *a, const char *name, size_t n) {
    const char *names[KD_COUNT(options)];
    char word[64];
    int count = 0;
    for (int i = 0; i < KD_COUNT(options); i++) {
        if (options[i].name && options[i].help && options[i].verbs & 1u << a->verb) {
            names[count++] = options[i].name;
        }
    }
    snprintf(word, sizeof word, "%.*s", (int)(n < 60 ? n : 60), name);
    const char *near = kd_nearest(word, names, count);
    return kdc_usage_error(a, "unknown option --%s%s%s%s", word, near ? "; did you mean --" : "",
                           near ? near : "", near ? "?" : "");
}

/* The option of this verb that name[0..n) is or unambiguously begins; NULL after setting *error. */
static const Option *find_long(const KdcArgs *a, const char *name, size_t n, int *error) {
    const Option *found = NULL;
    for (int i = 0; i < KD_COUNT(options); i++) {
        const Option *o = &options[i];
        if (!o->name || !(o->verbs & 1u << a->verb) || strncmp(o->name, name, n) != 0 || n == 0) {
            continue;
        }
        if (strlen(o->name) == n) {
            return o;
        }
        if (found) {
            *error = kdc_usage_error(a, "--%.*s could be --%s or --%s", (int)n, name, found->name,
                                     o->name);
            return NULL;
        }
        found = o;
    }
    if (!found) {
        *error = unknown_option(a, name, n);
    }
    return found;
}

static int take_long(KdcArgs *a, int argc, char **argv, int *i) {
    const char *text = argv[*i] + 2, *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    char name[64];
    int error = 0;
    snprintf(name, sizeof name, "%.*s", (int)(n < 60 ? n : 60), text);
    for (char *p = name; *p; p++) {
        *p = *p == '_' ? '-' : *p;
    }
    for (int k = 0; k < KD_COUNT(aliases); k++) {
        if (strcmp(name, aliases[k].alias) == 0) {
            snprintf(name, sizeof name, "%s", aliases[k].name);
        }
    }
    const Option *o = find_long(a, name, strlen(name), &error);
    if (!o) {
        return error;
    }
    if (!o->value) {
        return equals ? kdc_usage_error(a, "--%s takes no value", o->name) : o->take(a, o, NULL);
    }
    if (!equals && *i + 1 >= argc) {
        return kdc_usage_error(a, "--%s needs %s", o->name, o->value);
    }
    return o->take(a, o, equals ? equals + 1 : argv[++*i]);
}

static int take_short(KdcArgs *a, int argc, char **argv, int *i) {
    for (const char *p = argv[*i] + 1; *p; p++) {
        const Option *o = NULL;
        for (int k = 0; k < KD_COUNT(options); k++) {
            if (options[k].letter == *p && options[k].verbs & 1u << a->verb) {
                o = &options[k];
            }
        }
        if (!o) {
            return kdc_usage_error(a, "unknown option -%c", *p);
        }
        if (o->value) {
            if (!p[1] && *i + 1 >= argc) {
                return kdc_usage_error(a, "-%c needs %s", *p, o->value);
            }
            return o->take(a, o, p[1] ? p + 1 : argv[++*i]);
        }
        o->take(a, o, NULL);
    }
    return 0;
}

/* ---- the line -------------------------------------------------------------------------------------- */

static bool exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

/* FILE.kd:NAME; a file that is called so as a whole goes first. */
static int take_file(KdcArgs *a, char *text) {
    if (!a->other && (a->verb == KDC_VERB_IMPORT || a->verb == KDC_VERB_DATA)) {
        a->other = text; /* the checkpoint; the folder */
        return 0;
    }
    if (a->verb == KDC_VERB_DATA) {
        return kdc_usage_error(a, "one folder at a time: '%s' after '%s'", text, a->other);
    }
    if (a->verb == KDC_VERB_COMPARE) {
        a->operands[a->n_operands++] = text; /* taken apart there */
        a->file = a->operands[0];
        return 0;
    }
    if (a->file) {
        return kdc_usage_error(a, "one file at a time: '%s' after '%s'", text, a->file);
    }
    char *colon = strrchr(text, ':');
    a->file = text;
    if (colon && colon != text && colon[1] && !strchr(colon, '/') && !exists(text)) {
        *colon = '\0';
        a->name = a->name ? a->name : colon + 1;
    }
    return 0;
}

/* The first word that is no option may be a verb; what looks like no file at all is a misspelt one. */
static int take_verb(KdcArgs *a, const char *word, bool *is_verb) {
    const char *names[KDC_VERB_COUNT];
    int n = 0;
    *is_verb = true;
    for (int v = 1; v < KDC_VERB_COUNT; v++) {
        names[n++] = kdc_verb_name((KdcVerbId)v);
        if (strcmp(word, kdc_verb_name((KdcVerbId)v)) == 0) {
            a->verb = (KdcVerbId)v;
            return 0;
        }
    }
    if (strcmp(word, "help") == 0) {
        a->help = true;
        return 0;
    }
    *is_verb = false;
    if (strpbrk(word, "./:") || exists(word) || strcmp(word, "-") == 0) {
        return 0;
    }
    const char *near = kd_nearest(word, names, n);
    return kdc_usage_error(a, "no file and no verb is called '%s'%s%s%s", word,
                           near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static int take_words(KdcArgs *a, int argc, char **argv, int verb_at) {
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        int error = 0;
        if (i == verb_at) {
            continue;
        }
        if (only_words || argv[i][0] != '-' || strcmp(argv[i], "-") == 0) {
            error = take_file(a, argv[i]);
        } else if (strcmp(argv[i], "--") == 0) {
            only_words = true;
        } else if (argv[i][1] == '-') {
            error = take_long(a, argc, argv, &i);
        } else {
            error = take_short(a, argc, argv, &i);
        }
        if (error) {
            return error;
        }
    }
    return 0;
}

int kdc_args_parse(KdcArgs *a, int argc, char **argv) {
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    *a = (KdcArgs){.ignore = -1, .range_lo = -1, .range_hi = 1, .argc = argc, .argv = argv};
    a->search.generations = a->search.mutants = a->search.crossovers = -1;
    a->color = isatty(2) && !(no_color && *no_color) && !(term && strcmp(term, "dumb") == 0);
    const char ***lists[] = {&a->defines, &a->imports, &a->skips,    &a->prints, &a->taps,
                             &a->weights, &a->shapes,  &a->adaptors, &a->evals,  &a->operands,
                             &a->eaches,  &a->tos,     &a->chooses};
    for (int i = 0; i < KD_COUNT(lists); i++) {
        *lists[i] = calloc((size_t)argc + 1, sizeof **lists[i]);
        if (!*lists[i]) {
            fprintf(stderr, "kdc: error: out of memory\n");
            return 3;
        }
    }
    int verb_at = 0;
    bool is_verb = false;
    if (argc > 1 && argv[1][0] != '-') {
        int error = take_verb(a, argv[1], &is_verb);
        if (error) {
            return error;
        }
        verb_at = is_verb ? 1 : 0;
    }
    if (is_verb && a->help && argc > 2 && argv[2][0] != '-') { /* kdc help VERB */
        return take_verb(a, argv[2], &is_verb);
    }
    int error = take_words(a, argc, argv, verb_at);
    a->steps = a->steps || a->verb != KDC_VERB_CALL ? a->steps : 1;
    return error;
}

void kdc_args_free(KdcArgs *a) {
    free(a->defines);
    free(a->imports);
    free(a->skips);
    free(a->prints);
    free(a->taps);
    free(a->weights);
    free(a->shapes);
    free(a->adaptors);
    free(a->evals);
    free(a->operands);
    free(a->eaches);
    free(a->tos);
    free(a->chooses);
}
