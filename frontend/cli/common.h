/* common.h: what verbs share: opening the program, observing its passes, output that is whole or not there. */
#ifndef KDC_COMMON_H
#define KDC_COMMON_H

#include "frontend/api/api.h"
#include "frontend/cli/options.h"

/* What --print-after and --time-passes collect while pipelines run. */
typedef struct KdcWatch {
    const KdcArgs *args;
    const char *unit; /* the function being compiled */
    int n;
    const char *name[64]; /* by pass, in order of first appearance */
    double seconds[64];
} KdcWatch;

KdcOptions kdc_cli_options(const KdcArgs *a); /* those of a program that the command opens */

/* The program, loaded, with passes' names checked. NULL after messages; *code is then the exit code. */
KdcProgram *kdc_cli_open(const KdcArgs *a, KdcWatch *w, int *code);
/* Of verbs that take pictures through one network: is everything named? 0, or 2 after a message. */
int kdc_cli_check_pictures(const KdcArgs *a);
/* The same with the text that a->file is to have; NULL: read it. */
KdcProgram *kdc_cli_open_text(const KdcArgs *a, const char *text, size_t n, KdcWatch *w, int *code);
/* Prints what is left to say, frees, and gives the exit code. ok: the verb itself succeeded. */
int kdc_cli_close(const KdcArgs *a, KdcWatch *w, KdcProgram *p, bool ok);

/* kd_error's counterpart for host files: a diagnostic or the machine's fault, into p. Always false. */
bool kdc_cli_trouble(KdcProgram *p, const KdTrouble *t);
const KdDecl *kdc_cli_find(const KdcProgram *p, const char *name); /* NULL: no such declaration */

/* shapes.c. The shapes that --shape gives; false after a message in p: one that no tensor has. */
bool kdc_cli_shapes(KdcProgram *p, const KdcArgs *a, KdcShapes *s);
/* Where network `name` cannot be elaborated with *s, which does not tell its input x: x is given as a picture, too, f32
 * [1, 3, 256, 256] or what --batch and --size say, if that is enough; else *s is left as it is. */
void kdc_cli_default_shape(KdcProgram *p, const KdcArgs *a, const char *name, KdcShapes *s);
/* Is each --shape of one of the data inputs among t? false after a message in p. */
bool kdc_cli_check_shapes(KdcProgram *p, const KdcArgs *a, KdcTensor *const *t, int n);

bool kdc_cli_is_folder(const char *path);
bool kdc_cli_ends_in(const char *path, const char *ending); /* ".png": in any case, after something */
const char *kdc_cli_result_path(KdContext *cx, const char *folder, const char *in); /* FOLDER/STEM.png */
bool kdc_cli_make_folder(KdcProgram *p, const char *path); /* or it is there. false after a message in p */
/* The folder is this process's until *lock is closed (-1: its file system has no locks, which is no reason not to work). false after a
 * message in p: another one of `verb` ("kdc train") has it. */
bool kdc_cli_lock_folder(KdcProgram *p, const char *path, const char *verb, const char *kind, int *lock);
bool kdc_cli_same_file(const char *x, const char *y); /* both are there, and are one: by name or by a link */
/* No verb writes over what it reads. true: path (NULL or "-": none) is neither a source of the program nor one of the inputs;
 * false after a message in p. To be asked before anything is compiled. */
bool kdc_cli_spares(KdcProgram *p, const KdcArgs *a, const char *path, const char *const *inputs, int n);

/* Writes to path, or to stdout when it is NULL or "-". false after a message in p. */
bool kdc_cli_write(KdcProgram *p, const char *path, const void *data, size_t n);

const char *kdc_cli_quoted(KdContext *cx, const char *text); /* for a shell: in quotes unless it needs none */

/* Those n characters without blanks outside of quotes: " ngf = 16" is "ngf=16". Interned. */
const char *kdc_cli_without_blanks(KdContext *cx, const char *text, size_t n);

int kdc_ascending(const void *a, const void *b); /* doubles, for qsort */
double kdc_median(double *v, int n); /* sorts v; NaN: there are none */

#endif
