/* base.h: what every folder of the compiler stands on.
 *
 * One KdContext owns all memory, interned strings, types, source files, locations and diagnostics
 * of one compilation. Nothing here is global: two contexts may live in one process, on two threads.
 *
 * Errors are of three kinds and are never mixed:
 *   - the user's input is at fault: kd_error() records a diagnostic with a place; work goes on so
 *     that several can be reported, and the caller checks kd_error_count() at the end of a stage;
 *   - the machine is at fault (memory, I/O): kd_raise(cx, KD_FAIL_MACHINE, ...) unwinds to KD_TRY;
 *   - we are at fault: kd_raise(cx, KD_FAIL_INTERNAL, ...) likewise.
 * The library never exits.
 */
#ifndef KD_BASE_H
#define KD_BASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__GNUC__)
#define KD_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define KD_PRINTF(fmt, args)
#endif

#define KD_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

typedef struct KdContext KdContext;

/* ---- contexts and failures ------------------------------------------------------------------ */

typedef enum KdFail {
    KD_FAIL_NONE,
    KD_FAIL_INPUT,    /* the user's input; diagnostics say more             (exit code 1) */
    KD_FAIL_USAGE,    /* the command line                                   (exit code 2) */
    KD_FAIL_MACHINE,  /* memory, I/O                                        (exit code 3) */
    KD_FAIL_INTERNAL, /* a bug of ours; the message names the pass          (exit code 3) */
} KdFail;

KdContext *kd_context_new(void); /* NULL when out of memory */
void kd_context_free(KdContext *cx);

/* Where kd_raise lands. Nested landings are a stack: see KD_TRY. */
typedef struct KdLanding {
    jmp_buf env;
    struct KdLanding *outer;
} KdLanding;

void kd_landing_push(KdContext *cx, KdLanding *l);
void kd_landing_pop(KdContext *cx);

/* if (KD_TRY(cx, landing)) { ...may raise...; kd_landing_pop(cx); } else { failed: see kd_failure }
 * kd_raise pops the landing itself before it jumps. */
#define KD_TRY(cx, l) (kd_landing_push((cx), &(l)), setjmp((l).env) == 0)

_Noreturn void kd_raise(KdContext *cx, KdFail kind, const char *fmt, ...) KD_PRINTF(3, 4);
KdFail kd_failure(const KdContext *cx, const char **message); /* of the last kd_raise */

/* ---- memory ---------------------------------------------------------------------------------- */

/* Zeroed, 16-byte aligned, freed with the context. Raises KD_FAIL_MACHINE when out of memory. */
void *kd_alloc(KdContext *cx, size_t bytes);
size_t kd_context_bytes(const KdContext *cx); /* that it has taken from the system */
void *kd_alloc_array(KdContext *cx, size_t count, size_t size); /* checked product */
#define KD_NEW(cx, T) ((T *)kd_alloc((cx), sizeof(T)))
#define KD_NEW_ARRAY(cx, T, count) ((T *)kd_alloc_array((cx), (size_t)(count), sizeof(T)))

/* A growable array in the context's arena: KD_VEC(int) v = {0}; kd_push(cx, &v, 3); v.v[0]; v.n */
#define KD_VEC(T) struct { T *v; int n, cap; }
#define kd_push(cx, vec, ...)                                                                     \
    (kd_vec_room((cx), (void **)&(vec)->v, &(vec)->n, &(vec)->cap, sizeof *(vec)->v),             \
     (void)((vec)->v[(vec)->n++] = (__VA_ARGS__)))
void kd_vec_room(KdContext *cx, void **v, int *n, int *cap, size_t size);

/* A growable string in the context's arena; s is always NUL-terminated once something was added. */
typedef struct KdStr { KdContext *cx; char *s; size_t n, cap; } KdStr;
void kd_str_add(KdStr *s, const char *text, size_t n);
void kd_str_printf(KdStr *s, const char *fmt, ...) KD_PRINTF(2, 3);
const char *kd_format(KdContext *cx, const char *fmt, ...) KD_PRINTF(2, 3);
const char *kd_vformat(KdContext *cx, const char *fmt, va_list ap);

/* Equal strings are one pointer: compare with ==. kd_intern takes n bytes. */
const char *kd_intern(KdContext *cx, const char *s, size_t n);
const char *kd_intern_z(KdContext *cx, const char *s);

/* A hash map from a 64-bit key (or a pointer cast to one) to a 64-bit value. */
typedef struct KdMap { KdContext *cx; uint64_t *keys, *vals; uint8_t *used; int n, cap; } KdMap;
bool kd_map_get(const KdMap *m, uint64_t key, uint64_t *val);
void kd_map_put(KdMap *m, uint64_t key, uint64_t val); /* m->cx must be set */
uint64_t kd_hash_bytes(const void *p, size_t n, uint64_t seed);
KdMap *kd_context_types(KdContext *cx); /* the context's table of interned types: for type.c only */
/* A slot of the context for the parsed attributes of the op table: for ops.c only. */
void **kd_context_ops(KdContext *cx);

/* Exact integer arithmetic: false on overflow, result untouched. */
bool kd_add_ok(int64_t a, int64_t b, int64_t *r);
bool kd_mul_ok(int64_t a, int64_t b, int64_t *r);

/* The name in names[0..n) nearest to s (edit distance at most a third of its length), or NULL. */
const char *kd_nearest(const char *s, const char *const *names, int n);

/* ---- source places and diagnostics ------------------------------------------------------------ */

/* A place in a source text; 0 is "nowhere". A place knows the application that led there. */
typedef uint32_t KdLoc;

typedef struct KdPlace {
    const char *file; /* as the user named it */
    int line, col;    /* from 1 */
    int len;          /* bytes under the caret, at least 1 */
    KdLoc outer;      /* the application that led here, or 0 */
    const char *what; /* of an application: "in Unet[ngf = 16] applied to x: [1, 3, 264, 256]" */
} KdPlace;

/* Registers a source text, so that diagnostics can show its lines. `text` is kept by reference. */
void kd_source_add(KdContext *cx, const char *file, const char *text, size_t n);
KdLoc kd_loc(KdContext *cx, KdPlace place); /* interned: equal places give equal locs */
const KdPlace *kd_place(const KdContext *cx, KdLoc loc); /* NULL for 0 */

typedef enum KdSeverity { KD_ERROR, KD_WARNING, KD_NOTE, KD_HINT } KdSeverity;

/* kd_error adds "file:line:col: error: ..." and, after it, one note per application in loc's chain.
 * kd_note and kd_hint attach to the diagnostic added last. Beyond 20 errors the rest is counted. */
void kd_error(KdContext *cx, KdLoc loc, const char *fmt, ...) KD_PRINTF(3, 4);
void kd_warning(KdContext *cx, KdLoc loc, const char *fmt, ...) KD_PRINTF(3, 4);
void kd_note(KdContext *cx, KdLoc loc, const char *fmt, ...) KD_PRINTF(3, 4);
void kd_hint(KdContext *cx, const char *fmt, ...) KD_PRINTF(2, 3);
int kd_error_count(const KdContext *cx);
/* Prints all diagnostics recorded so far with source line and caret, then forgets them
 * (the error count stays). */
void kd_diag_print(KdContext *cx, FILE *out, bool color);

#endif
