/* export_text.c: the C text of an export: the header, and the sample from its template.
 *
 * Nothing of the user's reaches the text but names made of letters, digits and _, and numbers.
 */
#include "frontend/api/export_private.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

const char *kdc_export_identifier(KdContext *cx, const char *name) {
    bool odd = !isalpha((unsigned char)*name) && *name != '_';
    KdStr s = {.cx = cx};
    /* kdx_ is the C part's own; and no identifier begins with a digit */
    kd_str_printf(&s, "%s", odd || strncmp(name, "kdx", 3) == 0 ? "net_" : "");
    for (const char *p = name; *p; p++) {
        char c = isalnum((unsigned char)*p) && (unsigned char)*p < 128 ? *p : '_';
        kd_str_add(&s, &c, 1);
    }
    return s.s;
}

/* Replaces each @WORD@ in a template. Words that are not in the list stay. */
typedef struct Word {
    const char *word, *text;
} Word;

static void fill(const char *template, const Word *words, int n, KdStr *out) {
    while (*template) {
        size_t plain = strcspn(template, "@");
        kd_str_add(out, template, plain);
        template += plain;
        if (!*template) {
            return;
        }
        size_t length = strcspn(template + 1, "@ \n");
        const char *text = NULL;
        for (int i = 0; i < n && template[1 + length] == '@'; i++) {
            bool same = strlen(words[i].word) == length && strncmp(words[i].word, template + 1, length) == 0;
            text = same ? words[i].text : text;
        }
        if (text) {
            kd_str_add(out, text, strlen(text));
            template += length + 2;
        } else {
            kd_str_add(out, template, 1);
            template++;
        }
    }
}

/* ---- the header ------------------------------------------------------------------------------------- */

static const char head[] =
    "/* @ID@.h: the network @ID@ for @TRIPLE@, processor @CPU@. Made by kdc export; do not edit.\n"
    " *\n"
    " *     @ID@_net net;\n"
    "@EXAMPLE_INIT@"
    "@EXAMPLE_RUN@"
    " *     @ID@_free(&net);\n"
    " *\n"
    " * Link with lib@ID@.a or @ID@.o@OPENMP_LINK@; it needs nothing but memcpy, memset, malloc and free@OPENMP_NEEDS@.\n"
    " * After @ID@_init nothing is allocated. There is no global state: any number of nets may run at once, each with an\n"
    " * object of its own; one object serves one call at a time. An object may be moved, but not copied to be used twice.\n"
    " */\n"
    "#ifndef KDC_EXPORT_@ID@_H\n"
    "#define KDC_EXPORT_@ID@_H\n"
    "\n"
    "#include <stddef.h>\n"
    "\n"
    "#ifdef __cplusplus\n"
    "extern \"C\" {\n"
    "#endif\n"
    "\n";

static const char states[] =
    "\n"
    "typedef struct @ID@_net {\n"
    "    void *kept[4]; /* not for you */\n"
    "} @ID@_net;\n"
    "\n"
    "/* What the functions return. */\n"
    "#define @ID@_OK 0\n"
    "#define @ID@_ERROR_MEMORY 1    /* malloc gave none */\n"
    "#define @ID@_ERROR_CPU 2       /* this processor lacks instructions that the code was made for (@CPU@) */\n"
    "#define @ID@_ERROR_WEIGHTS 3   /* these are not the weights of this network, or they are damaged */\n"
    "#define @ID@_ERROR_STATE 4     /* not initialised */\n"
    "#define @ID@_ERROR_DIFFERENT 5 /* self-test: other values than when the network was exported */\n"
    "\n";

static const char inside[] =
    "/* arena: @ID@_ARENA_BYTES bytes that stay yours, for as long as the net is used; NULL: from malloc. The weights are\n"
    " * inside the library. */\n"
    "int @ID@_init(@ID@_net *net, void *arena);\n";

static const char outside[] =
    "/* weights: the content of @ID@.weights, @ID@_WEIGHT_FILE_BYTES bytes, on a multiple of 4 (malloc's memory is). It is\n"
    " * checked here, and must stay where it is for as long as the net is used; several nets may share it.\n"
    " * arena: @ID@_ARENA_BYTES bytes that stay yours, for as long as the net is used; NULL: from malloc. */\n"
    "int @ID@_init(@ID@_net *net, const void *weights, size_t weight_bytes, void *arena);\n";

static const char functions[] =
    "\n"
    "/* Gives back what @ID@_init took from malloc. Also after an init that failed. */\n"
    "void @ID@_free(@ID@_net *net);\n"
    "\n"
    "/* Computes the network for a fixed input and compares the output with what kdc computed when it exported:\n"
    " * @SELFTEST@ */\n"
    "int @ID@_selftest(@ID@_net *net);\n"
    "\n"
    "/* @RUN@ Inputs and outputs must not overlap. */\n"
    "int @ID@_run(@ID@_net *net, @PARAMETERS@);\n";

static const char rgb8[] =
    "\n"
    "/* The same for pictures: rows from the top, red, green and blue bytes by turns, rows without padding. 0 is @LO@ to the\n"
    " * network and 255 is @HI@; what comes out is clamped and @ROUNDED@. */\n"
    "int @ID@_run_rgb8(@ID@_net *net, const unsigned char *input, unsigned char *output);\n";

static const char tail[] =
    "\n"
    "#ifdef __cplusplus\n"
    "}\n"
    "#endif\n"
    "#endif\n";

/* "input" and "output", with the name where there are several; uppercase for macros. */
static const char *place_name(KdcExport *e, int i, bool macro) {
    KdContext *cx = e->p->cx;
    bool in = e->extern_of[i].kind == KDX_INPUT, alone = (in ? e->n_data_in : e->n_out) == 1;
    const char *stem = macro ? (in ? "INPUT" : "OUTPUT") : (in ? "input" : "output");
    return alone ? stem : kd_format(cx, "%s_%s", stem, kdc_export_identifier(cx, e->tensor[i]->name));
}

static void print_sizes(KdcExport *e, int i, KdStr *out) {
    static const char *const dims[4] = {"BATCH", "CHANNELS", "HEIGHT", "WIDTH"};
    const KdcTensor *t = e->tensor[i];
    const char *name = place_name(e, i, true);
    kd_str_printf(out, "#define %s_%s_COUNT %" PRId64 " /* elements: ", e->id, name, t->count);
    for (int d = 0; d < t->rank; d++) {
        kd_str_printf(out, "%s%" PRId64, d ? " x " : "", t->dim[d]);
    }
    kd_str_printf(out, "%s */\n", t->rank ? "" : "one number");
    for (int d = 0; d < t->rank && t->rank == 4; d++) {
        kd_str_printf(out, "#define %s_%s_%s %" PRId64 "\n", e->id, name, dims[d], t->dim[d]);
    }
}

static void print_macros(KdcExport *e, const KdcExportOptions *o, KdStr *out) {
    for (int i = 0; i < e->n_externs; i++) {
        if (e->extern_of[i].kind != KDX_WEIGHT) {
            print_sizes(e, i, out);
        }
    }
    kd_str_printf(out, "#define %s_ARENA_BYTES %" PRId64 "\n", e->id, e->net.arena_bytes + 64);
    kd_str_printf(out, "#define %s_WEIGHT_BYTES %" PRId64 "\n", e->id, e->weight_bytes);
    if (o->beside) {
        kd_str_printf(out, "#define %s_WEIGHT_FILE_BYTES %" PRId64 "\n", e->id,
                      e->weight_bytes + (int64_t)sizeof(KdxWeightsHead));
    }
    if (o->openmp) {
        kd_str_printf(out, "#define %s_MOST_THREADS %d /* of omp_get_max_threads() so many are used */\n", e->id, o->threads);
    }
}

static const char *parameters(KdcExport *e) {
    static const char *const type[] = {[KDX_F32] = "float", [KDX_I32] = "int", [KDX_U8] = "unsigned char"};
    KdStr s = {.cx = e->p->cx};
    for (int i = 0; i < e->n_externs; i++) {
        const KdxExtern *x = &e->extern_of[i];
        if (x->kind != KDX_WEIGHT) {
            kd_str_printf(&s, "%s%s%s *%s", s.n ? ", " : "", x->kind == KDX_INPUT ? "const " : "", type[x->type],
                          place_name(e, i, false));
        }
    }
    return s.s;
}

/* A processor's or target's name: not ours, so only what cannot end a comment. */
static const char *harmless(KdContext *cx, const char *text) {
    KdStr s = {.cx = cx};
    for (; *text; text++) {
        char c = isalnum((unsigned char)*text) || strchr("._-", *text) ? *text : '_';
        kd_str_add(&s, &c, 1);
    }
    return s.n ? s.s : "";
}

void kdc_export_header(KdcExport *e, const KdcExportOptions *o, KdStr *out) {
    KdContext *cx = e->p->cx;
    const char *id = e->id;
    const char *exact = "every bit must be the same, since kdc could run this processor's code itself.";
    const char *near = kd_format(cx, "%d values of it must be within %.3g (it could not run this processor's code itself).",
                                 (int)e->net.n_references, e->net.tolerance);
    const Word words[] = {
        {"ID", id},
        {"TRIPLE", harmless(cx, e->p->target.triple)},
        {"CPU", harmless(cx, e->p->target.cpu)},
        {"EXAMPLE_INIT", o->beside ? kd_format(cx, " *     int failed = %s_init(&net, weights, weight_bytes, NULL);\n", id)
                                   : kd_format(cx, " *     int failed = %s_init(&net, NULL);\n", id)},
        {"EXAMPLE_RUN", e->net.rgb8 ? kd_format(cx, " *     if (!failed) %s_run_rgb8(&net, rgb_in, rgb_out);\n", id)
                                    : kd_format(cx, " *     if (!failed) failed = %s_selftest(&net);\n", id)},
        {"OPENMP_LINK", o->openmp ? " and -fopenmp" : ""},
        {"OPENMP_NEEDS", o->openmp ? ", and OpenMP's library" : ""},
        {"SELFTEST", e->exact ? exact : near},
        {"RUN", e->n_data_in == 1 && e->n_out == 1 ? "The network: floats in C order (batch, channels, rows, columns)."
                                                   : "The network: each tensor in C order."},
        {"PARAMETERS", parameters(e)},
        {"LO", kd_format(cx, "%g", e->net.lo)},
        {"HI", kd_format(cx, "%g", e->net.hi)},
        {"ROUNDED", o->truncate ? "cut to whole numbers" : "rounded"},
    };
    fill(head, words, KD_COUNT(words), out);
    print_macros(e, o, out);
    fill(states, words, KD_COUNT(words), out);
    fill(o->beside ? outside : inside, words, KD_COUNT(words), out);
    fill(functions, words, KD_COUNT(words), out);
    if (e->net.rgb8) {
        fill(rgb8, words, KD_COUNT(words), out);
    }
    fill(tail, words, KD_COUNT(words), out);
}

/* ---- the sample --------------------------------------------------------------------------------------- */

static const char read_weights[] =
    "\n"
    "static unsigned char *read_weights(const char *path) {\n"
    "    unsigned char *bytes = malloc(@ID@_WEIGHT_FILE_BYTES);\n"
    "    FILE *f = fopen(path, \"rb\");\n"
    "    if (f && bytes && fread(bytes, 1, @ID@_WEIGHT_FILE_BYTES, f) != @ID@_WEIGHT_FILE_BYTES) {\n"
    "        free(bytes);\n"
    "        bytes = NULL;\n"
    "    }\n"
    "    if (f) {\n"
    "        fclose(f);\n"
    "        return bytes;\n"
    "    }\n"
    "    free(bytes);\n"
    "    return NULL;\n"
    "}\n";

static const char init_beside[] =
    "    weights = read_weights(argv[1]);\n"
    "    failed = @ID@_init(&net, weights, weights ? @ID@_WEIGHT_FILE_BYTES : 0, NULL);\n";

const char *kdc_export_sample(KdcExport *e, const KdcExportOptions *o, KdStr *out) {
    KdContext *cx = e->p->cx;
    KdStr reader = {.cx = cx}, init = {.cx = cx};
    bool pictures = e->net.rgb8 != 0, cross = !e->exact && strncmp(e->p->target.triple, e->p->host.triple, 6) != 0;
    bool arm = strncmp(e->p->target.triple, "a", 1) == 0;
    const char *cc = kd_format(cx, "%s -O2%s main.c lib%s.a -o %s-sample",
                               !cross ? "cc" : arm ? "aarch64-linux-gnu-gcc -static" : "x86_64-linux-gnu-gcc -static",
                               o->openmp ? " -fopenmp" : "", e->id, e->id);
    const Word id = {"ID", e->id};
    fill(o->beside ? read_weights : "", &id, 1, &reader);
    fill(o->beside ? init_beside : "    failed = @ID@_init(&net, NULL);\n", &id, 1, &init);
    const char *file = kd_format(cx, "%s.weights", e->id);
    const Word words[] = {
        {"NET", e->id},
        {"CC", cc},
        {"WEIGHTS_ARG", !o->beside ? "" : kd_format(cx, pictures ? "%s " : " %s", file)},
        {"USAGE_WEIGHTS", !o->beside ? "" : pictures ? "WEIGHTS " : " WEIGHTS"},
        {"BESIDE_READ", reader.n ? reader.s : ""},
        {"BESIDE_VARIABLES", o->beside ? "    unsigned char *weights;\n" : ""},
        {"BESIDE_FREE", o->beside ? "    free(weights);\n" : ""},
        {"INIT", init.s},
        {"ARGC", kd_format(cx, "%d", 1 + 2 * pictures + o->beside)},
        {"ARG_IN", o->beside ? "2" : "1"},
        {"ARG_OUT", o->beside ? "3" : "2"},
    };
    fill(kdc_export_text(e, pictures ? "sample_rgb8.txt" : "sample_float.txt")->bytes, words, KD_COUNT(words), out);
    return cc;
}
