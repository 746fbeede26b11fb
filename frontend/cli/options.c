/* options.c: see options.h. The table says everything about an option but what it does; take() does that. */
#include "frontend/cli/options.h"

#include "ir/base.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef enum OptId {
    OPT_EMIT, OPT_OUTPUT, OPT_IN, OPT_OUT, OPT_WEIGHTS, OPT_GRAD, OPT_TRAIN, OPT_TAP, OPT_STEPS, OPT_NET, OPT_JSON,
    OPT_PRINT_AFTER, OPT_PRINT_AFTER_ALL, OPT_TIME_PASSES, OPT_SKIP, OPT_LIST_OPS, OPT_DEFINE, OPT_IMPORT, OPT_SIZE, OPT_SHAPE,
    OPT_BATCH, OPT_SEED, OPT_THREADS, OPT_LEVEL, OPT_TARGET, OPT_CPU, OPT_NO_CACHE, OPT_QUIET, OPT_VERBOSE,
    OPT_COLOR, OPT_HELP, OPT_VERSION,
} OptId;

enum { COMPILE = 1 << KDC_VERB_COMPILE, CALL = 1 << KDC_VERB_CALL, ALL = COMPILE | CALL };

typedef struct Option {
    OptId id;
    char letter;      /* or 0 */
    const char *name; /* or NULL: only a letter */
    const char *value; /* what it takes, or NULL */
    unsigned verbs;
    const char *help;
} Option;

static const Option options[] = {
    {OPT_OUTPUT, 'o', "output", "FILE", COMPILE, "write the object (or the stage that --emit names) to FILE"},
    {OPT_EMIT, 0, "emit", "STAGE", COMPILE, "print a stage: ast, ir, grad, fused, loops, llvm, asm, obj"},
    {OPT_IN, 0, "in", "FILE", CALL, "safetensors: inputs by parameter name, weights by their own"},
    {OPT_OUT, 0, "out", "FILE", CALL, "safetensors to write; without it, a line per output is printed"},
    {OPT_WEIGHTS, 0, "weights", "[NET=]FILE", CALL, "safetensors: weights (of NET), by name or by order and shape; may be repeated"},
    {OPT_GRAD, 0, "grad", NULL, CALL, "also grad.X for every input and weight X, of the sum of output * seed"},
    {OPT_TRAIN, 0, "train", NULL, CALL, "training mode: dropout on, batch statistics"},
    {OPT_TAP, 0, "tap", "NAME", CALL, "also write an inner feature; may be repeated"},
    {OPT_STEPS, 0, "steps", "N", CALL, "of a session: how many steps to run (1)"},
    {OPT_NET, 0, "net", "NAME", ALL, "the network, function or session meant; the same as FILE.kd:NAME"},
    {OPT_DEFINE, 'D', "define", "NAME=VALUE", ALL, "set a param"},
    {OPT_IMPORT, 'I', "import", "FOLDER", ALL, "look for imports there too"},
    {OPT_SIZE, 0, "size", "HxW", ALL, "image size where the program leaves it open (256x256)"},
    {OPT_SHAPE, 0, "shape", "X=DIMS", COMPILE, "shape of an input: x=1x3x256x256; may be repeated"},
    {OPT_BATCH, 0, "batch", "N", ALL, "batch size where the program leaves it open (1)"},
    {OPT_SEED, 0, "seed", "N", CALL, "of initial weights and random numbers (0)"},
    {OPT_THREADS, 0, "threads", "N", ALL, "threads (all cores); results do not depend on it"},
    {OPT_SKIP, 0, "skip", "PASS", ALL, "leave out a pass; may be repeated"},
    {OPT_PRINT_AFTER, 0, "print-after", "PASS", ALL, "print the program after a pass, to stderr"},
    {OPT_PRINT_AFTER_ALL, 0, "print-after-all", NULL, ALL, "after each pass"},
    {OPT_TIME_PASSES, 0, "time-passes", NULL, ALL, "how long each pass took, to stderr"},
    {OPT_LEVEL, 'O', NULL, "0..3", ALL, "level of code generation (3)"},
    {OPT_TARGET, 0, "target", "TRIPLE", COMPILE, "generate code for another machine"},
    {OPT_CPU, 0, "cpu", "NAME", COMPILE, "and its processor: x86-64-v3, cortex-a72, ..."},
    {OPT_NO_CACHE, 0, "no-cache", NULL, ALL, "neither read nor write the cache of compiled objects"},
    {OPT_JSON, 0, "json", NULL, COMPILE, "the summary (or --list-ops) as JSON"},
    {OPT_LIST_OPS, 0, "list-ops", NULL, COMPILE, "every primitive op with its attributes"},
    {OPT_QUIET, 'q', "quiet", NULL, ALL, "print no summary and no notes"},
    {OPT_VERBOSE, 'v', "verbose", NULL, ALL, "say more: which tensor became which weight, what was skipped"},
    {OPT_COLOR, 0, "color", "WHEN", ALL, "auto, always or never"},
    {OPT_HELP, 'h', "help", NULL, ALL, "this text"},
    {OPT_VERSION, 0, "version", NULL, ALL, "version, LLVM and processor"},
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
        if (!(o->verbs & 1u << verb)) {
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

static int take_whole(KdcArgs *a, const Option *o, const char *text, int64_t lo, int64_t hi,
                      int64_t *v) {
    if (whole(text, lo, hi, v)) {
        return 0;
    }
    return kdc_usage_error(a, "--%s needs a number from %lld to %lld, got '%s'", o->name,
                           (long long)lo, (long long)hi, text);
}

static int take_size(KdcArgs *a, const char *text) {
    char first[32];
    size_t n = strcspn(text, "xX");
    if (n < sizeof first) {
        memcpy(first, text, n);
        first[n] = '\0';
        const char *second = text[n] ? text + n + 1 : first;
        if (whole(first, 1, 65536, &a->height) && whole(second, 1, 65536, &a->width)) {
            return 0;
        }
    }
    return kdc_usage_error(a, "--size needs HxW, such as 256x512, got '%s'", text);
}

/* NAME=8x8 (NAME= for a scalar) */
static int take_shape(KdcArgs *a, const char *text) {
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
        return kdc_usage_error(a, "--shape needs NAME=DIMS, such as x=1x3x256x256, got '%s'", text);
    }
    a->shapes[a->n_shapes++] = text;
    return 0;
}

static int take_seed(KdcArgs *a, const char *text) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno) {
        return kdc_usage_error(a, "--seed needs a number >= 0, got '%s'", text);
    }
    a->seed = v;
    return 0;
}

static int take_color(KdcArgs *a, const char *text) {
    if (strcmp(text, "always") == 0) {
        a->color = true;
    } else if (strcmp(text, "never") == 0) {
        a->color = false;
    } else if (strcmp(text, "auto") != 0) {
        return kdc_usage_error(a, "--color needs auto, always or never, got '%s'", text);
    }
    return 0;
}

static int take_define(KdcArgs *a, const char *text) {
    const char *p = text;
    while (isalnum((unsigned char)*p) || *p == '_') {
        p++;
    }
    if (p == text || isdigit((unsigned char)*text) || *p != '=') {
        return kdc_usage_error(a, "-D needs NAME=VALUE, got '%s'", text);
    }
    a->defines[a->n_defines++] = text;
    return 0;
}

/* Stores one option. */
static int take(KdcArgs *a, const Option *o, const char *value) {
    int64_t level;
    switch (o->id) {
    case OPT_EMIT: a->emit = value; return 0;
    case OPT_OUTPUT: a->output = value; return 0;
    case OPT_IN: a->in = value; return 0;
    case OPT_OUT: a->out = value; return 0;
    case OPT_WEIGHTS: a->weights[a->n_weights++] = value; return 0;
    case OPT_GRAD: a->grad = true; return 0;
    case OPT_TRAIN: a->train = true; return 0;
    case OPT_TAP: a->taps[a->n_taps++] = value; return 0;
    case OPT_STEPS: return take_whole(a, o, value, 1, 1000000, &a->steps);
    case OPT_NET: a->name = value; return 0;
    case OPT_JSON: a->json = true; return 0;
    case OPT_PRINT_AFTER: a->prints[a->n_prints++] = value; return 0;
    case OPT_PRINT_AFTER_ALL: a->print_all = true; return 0;
    case OPT_TIME_PASSES: a->time_passes = true; return 0;
    case OPT_SKIP: a->skips[a->n_skips++] = value; return 0;
    case OPT_LIST_OPS: a->list_ops = true; return 0;
    case OPT_DEFINE: return take_define(a, value);
    case OPT_IMPORT: a->imports[a->n_imports++] = value; return 0;
    case OPT_SIZE: return take_size(a, value);
    case OPT_SHAPE: return take_shape(a, value);
    case OPT_BATCH: return take_whole(a, o, value, 1, 65536, &a->batch);
    case OPT_SEED: return take_seed(a, value);
    case OPT_THREADS: return take_whole(a, o, value, 1, 1024, &a->threads);
    case OPT_LEVEL:
        if (!whole(value, 0, 3, &level)) {
            return kdc_usage_error(a, "-O needs a level from 0 to 3, got '%s'", value);
        }
        a->opt = (int)level + 1;
        return 0;
    case OPT_TARGET: a->triple = value; return 0;
    case OPT_CPU: a->cpu = value; return 0;
    case OPT_NO_CACHE: a->no_cache = true; return 0;
    case OPT_QUIET: a->quiet = true; return 0;
    case OPT_VERBOSE: a->verbose++; return 0;
    case OPT_COLOR: return take_color(a, value);
    case OPT_HELP: a->help = true; return 0;
    case OPT_VERSION: a->version = true; return 0;
    }
    return 0;
}

/* ---- finding options ------------------------------------------------------------------------------ */

static int unknown_option(const KdcArgs *a, const char *name, size_t n) {
    const char *names[KD_COUNT(options)];
    char word[64];
    int count = 0;
    for (int i = 0; i < KD_COUNT(options); i++) {
        if (options[i].name && options[i].verbs & 1u << a->verb) {
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
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    int error = 0;
    const Option *o = find_long(a, name, n, &error);
    if (!o) {
        return error;
    }
    if (!o->value) {
        return equals ? kdc_usage_error(a, "--%s takes no value", o->name) : take(a, o, NULL);
    }
    if (!equals && *i + 1 >= argc) {
        return kdc_usage_error(a, "--%s needs %s", o->name, o->value);
    }
    return take(a, o, equals ? equals + 1 : argv[++*i]);
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
            return take(a, o, p[1] ? p + 1 : argv[++*i]);
        }
        take(a, o, NULL);
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
    *a = (KdcArgs){.steps = 1};
    a->color = isatty(2) && !(no_color && *no_color) && !(term && strcmp(term, "dumb") == 0);
    const char ***lists[] = {&a->defines, &a->imports, &a->skips, &a->prints, &a->taps, &a->weights, &a->shapes};
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
    return take_words(a, argc, argv, verb_at);
}

void kdc_args_free(KdcArgs *a) {
    free(a->defines);
    free(a->imports);
    free(a->skips);
    free(a->prints);
    free(a->taps);
    free(a->weights);
    free(a->shapes);
}
