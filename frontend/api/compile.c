/* compile.c: opening a program, and one function's way from the language to machine code.
 *
 * Raised failures land in the public functions, which turn them into the program's status; diagnostics
 * stay in the context until kdc_print_messages. The arena of the context holds everything but tensor memory and
 * compiled code, which kdc_close frees from two lists.
 */
#include "frontend/api/api.h"

#include "runtime/kdrt/kdrt.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double kdc_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { KEEP = 16 << 20 }; /* a default that is small beside a network of some hundred channels, which has more work for each weight */

void kdc_failed(KdcProgram *p) {
    const char *message = NULL;
    switch (kd_failure(p->cx, &message)) {
    case KD_FAIL_NONE:
        return;
    case KD_FAIL_INPUT:
        p->status = KDC_INPUT;
        break;
    case KD_FAIL_USAGE:
        p->status = KDC_USAGE;
        break;
    case KD_FAIL_MACHINE:
    case KD_FAIL_INTERNAL:
        p->status = KDC_MACHINE;
        break;
    }
    p->failure = message;
}

KdcStatus kdc_settle(KdcProgram *p, int errors_before) {
    if (p->status == KDC_OK && kd_error_count(p->cx) > errors_before) {
        p->status = KDC_INPUT;
    }
    return p->status;
}

bool kdc_host_trouble(KdcProgram *p, const KdTrouble *t) {
    if (t->machine) {
        p->failure = kd_format(p->cx, "%s", t->text);
        p->status = KDC_MACHINE;
    } else {
        kd_error(p->cx, 0, "%s", t->text);
        p->status = p->status == KDC_OK ? KDC_INPUT : p->status;
    }
    return false;
}

KdcStatus kdc_status(const KdcProgram *p) {
    return p->status;
}

void kdc_print_messages(KdcProgram *p, FILE *out, bool color) {
    kd_diag_print(p->cx, out, color);
    if (p->failure && *p->failure) {
        fprintf(out, "%skdc: error:%s %s\n", color ? "\033[1;31m" : "", color ? "\033[0m" : "",
                p->failure);
    }
    p->failure = NULL;
}

/* ---- opening -------------------------------------------------------------------------------------- */

static const char *const *copy_names(KdContext *cx, const char *const *v, int n) {
    const char **copy = KD_NEW_ARRAY(cx, const char *, n + 1);
    for (int i = 0; i < n; i++) {
        copy[i] = kd_intern_z(cx, v[i]);
    }
    return copy;
}

static void copy_options(KdcProgram *p, const KdcOptions *o) {
    KdContext *cx = p->cx;
    p->o = *o;
    p->o.defines = copy_names(cx, o->defines, o->n_defines);
    p->o.import_path = copy_names(cx, o->import_path, o->n_import_path);
    p->o.skip = copy_names(cx, o->skip, o->n_skip);
    p->o.schedule = o->schedule ? kd_intern_z(cx, o->schedule) : NULL;
    p->o.cache = o->cache ? kd_intern_z(cx, o->cache) : kd_cache_folder(cx);
    p->o.triple = o->triple ? kd_intern_z(cx, o->triple) : NULL;
    p->o.cpu = kd_intern_z(cx, o->cpu ? o->cpu : "");
}

static KdLangOptions lang_options(const KdcProgram *p, KdContext *cx) {
    KdDefine *define = KD_NEW_ARRAY(cx, KdDefine, p->o.n_defines + 1);
    for (int i = 0; i < p->o.n_defines; i++) {
        const char *text = p->o.defines[i], *equals = strchr(text, '=');
        size_t n = equals ? (size_t)(equals - text) : strlen(text);
        define[i] = (KdDefine){kd_intern(cx, text, n), equals ? equals + 1 : "true"};
    }
    return (KdLangOptions){define, p->o.n_defines, p->o.import_path, p->o.n_import_path, 0};
}

static void open_program(KdcProgram *p, const char *file, const char *text, size_t n,
                         const KdcOptions *o) {
    copy_options(p, o);
    if (!kd_target_host(p->cx, &p->host)) {
        return;
    }
    p->target = p->host;
    if ((p->o.triple || *p->o.cpu) && !kd_target_named(p->cx, p->o.triple, p->o.cpu, &p->target)) {
        return;
    }
    p->file = kd_intern_z(p->cx, file);
    p->text_size = n;
    if (text) {
        char *copy = kd_alloc(p->cx, n + 1);
        memcpy(copy, text, n);
        p->text = copy;
    }
    KdLangOptions lo = lang_options(p, p->cx);
    p->lang = kd_lang_load(p->cx, p->file, p->text, n, &lo);
}

KdcProgram *kdc_open(const char *file, const char *text, size_t n, const KdcOptions *o) {
    KdContext *cx = kd_context_new();
    KdcProgram *p = calloc(1, sizeof *p);
    KdLanding l;
    if (!cx || !p) {
        free(p);
        if (cx) {
            kd_context_free(cx);
        }
        return NULL;
    }
    p->cx = cx;
    if (KD_TRY(cx, l)) {
        open_program(p, file, text, n, o);
        kd_landing_pop(cx);
    } else {
        kdc_failed(p);
    }
    kdc_settle(p, 0);
    if (!p->lang && p->status == KDC_OK) {
        p->status = KDC_INPUT;
    }
    return p;
}

void kdc_close(KdcProgram *p) {
    if (!p) {
        return;
    }
    for (int i = 0; i < p->drawn.n; i++) {
        kdc_close(p->drawn.v[i]);
    }
    for (int i = 0; i < p->jits.n; i++) {
        kd_jit_free(p->jits.v[i]);
    }
    if (!p->borrowed) {
        kd_kernels_free(p->kernels);
    }
    for (int i = 0; i < p->memory.n; i++) {
        kdrt_free(p->memory.v[i]);
    }
    kd_context_free(p->cx);
    free(p);
}

/* ---- one function ----------------------------------------------------------------------------------- */

bool kdc_net_options(KdcProgram *p, const KdcShapes *s, KdNetOptions *o) {
    static const KdDType dtype[] = {[KDC_F32] = KD_F32, [KDC_I32] = KD_I32, [KDC_U8] = KD_U8};
    KdContext *cx = p->cx;
    KdGiven *given = KD_NEW_ARRAY(cx, KdGiven, s->n_given + 1);
    for (int i = 0; i < s->n_given; i++) {
        const KdcShape *g = &s->given[i];
        const KdType *t = kd_type(cx, dtype[g->dtype], g->rank, g->dim);
        if (!t) {
            kd_error(cx, 0, "%s: the given shape is too large", g->name);
            return false;
        }
        given[i] = (KdGiven){kd_intern_z(cx, g->name), t};
    }
    *o = (KdNetOptions){.given = given,
                        .n_given = s->n_given,
                        .batch = p->o.batch,
                        .height = p->o.height,
                        .width = p->o.width,
                        .mode = s->train ? KD_TRAIN : KD_INFER,
                        .grads = s->grads,
                        .taps = copy_names(cx, s->taps, s->n_taps),
                        .n_taps = s->n_taps};
    return true;
}

/* Elaboration may leave a function and errors; only without errors is it one to go on with. */
static bool elaborated(KdcProgram *p, KdcUnit *u, const char *name, int errors, double start) {
    if (!u->func || kd_error_count(p->cx) > errors) {
        return false;
    }
    u->name = kd_intern_z(p->cx, name);
    u->elaborate_seconds = kdc_now() - start;
    return true;
}

bool kdc_unit_net(KdcProgram *p, const char *name, const KdNetOptions *o, KdcUnit *u) {
    int errors = kd_error_count(p->cx);
    double start = kdc_now();
    *u = (KdcUnit){.keeps = true};
    u->func = kd_lang_net(p->lang, kd_intern_z(p->cx, name), o);
    return elaborated(p, u, name, errors, start);
}

bool kdc_unit_session(KdcProgram *p, const char *name, unsigned mask, const KdNetOptions *o,
                      KdSessionInfo *info, KdcUnit *u) {
    int errors = kd_error_count(p->cx);
    double start = kdc_now();
    *u = (KdcUnit){0};
    u->func = kd_lang_session(p->lang, kd_intern_z(p->cx, name), mask, o, info);
    return elaborated(p, u, name, errors, start);
}

KdPassOptions kdc_pass_options(const KdcProgram *p, const KdTarget *t) {
    static const int winograd[] = {[KDC_WINOGRAD_4X4] = 4, [KDC_WINOGRAD_2X2] = 2, [KDC_WINOGRAD_OFF] = 0};
    KdPassOptions o = {.machine = t->machine,
                       .skip = p->o.skip,
                       .n_skip = p->o.n_skip,
                       .fuse = true,
                       .schedule = p->o.schedule,
                       .memory_limit = p->o.memory_limit,
                       .winograd = winograd[p->o.winograd]};
    for (int i = 0; i < p->o.n_skip; i++) {
        o.fuse = o.fuse && strcmp(p->o.skip[i], "fuse") != 0;
    }
    return o;
}

void kdc_unit_passes(KdcProgram *p, KdcUnit *u, const KdTarget *t) {
    double start = kdc_now();
    KdPassOptions o = kdc_pass_options(p, t);
    o.keep = u->keeps && !o.memory_limit ? (p->o.keep ? p->o.keep : KEEP) : 0;
    u->result = kd_pipeline(u->func, &o, p->observe, p->observe_user);
    u->pass_seconds = kdc_now() - start;
}

KdCodegenOptions kdc_codegen_options(const KdcProgram *p) {
    return (KdCodegenOptions){.opt = p->o.opt ? p->o.opt - 1 : 3,
                              .jobs = p->o.threads,
                              .cache = p->o.cache && *p->o.cache ? p->o.cache : NULL};
}

KdKernels *kdc_kernels(KdcProgram *p) {
    if (!p->kernels && !(p->kernels = kd_kernels_new())) {
        kd_raise(p->cx, KD_FAIL_MACHINE, "out of memory: compiled kernels");
    }
    return p->kernels;
}

bool kdc_unit_jit(KdcProgram *p, KdcUnit *u) {
    KdCodegenOptions o = kdc_codegen_options(p);
    o.kernels = kdc_kernels(p);
    KdJit *jit = kd_jit_new(p->cx, u->result.loops, &p->host, &o, &u->jit_stats);
    if (jit) {
        kd_push(p->cx, &p->jits, jit);
    }
    u->jit = jit;
    return jit != NULL;
}

KdcStats kdc_unit_stats(const KdcUnit *u) {
    KdcStats s = {.seconds = u->elaborate_seconds + u->pass_seconds + u->jit_stats.seconds,
                  .code_seconds = u->jit_stats.seconds,
                  .from_cache = u->jit_stats.from_cache};
    if (u->result.loops) {
        s.kernels = u->result.loops->kernels.n;
        s.calls = u->result.loops->calls.n;
        s.memory = u->result.loops->arena - u->result.loops->kept;
        s.memory_packed = u->result.loops->kept;
        s.memory_naive = u->result.plan->naive;
        s.memory_planned = s.memory;
        if (u->result.recomputed.planned > u->result.plan->arena) {
            s.memory_naive = u->result.recomputed.naive;
            s.memory_planned = u->result.recomputed.planned + s.memory - u->result.plan->arena;
            s.more_work = u->result.recomputed.more_work;
        }
    }
    return s;
}

/* ---- trying without leaving a trace ----------------------------------------------------------------- */

void kdc_given_in(KdContext *cx, KdNetOptions *o) {
    KdGiven *given = KD_NEW_ARRAY(cx, KdGiven, o->n_given + 1);
    for (int i = 0; i < o->n_given; i++) {
        const KdType *t = o->given[i].type;
        given[i] = (KdGiven){kd_intern_z(cx, o->given[i].name), kd_type(cx, t->dtype, t->rank, t->dim)};
    }
    o->given = given;
}

static KdFunc *probe(const KdcProgram *p, KdContext *cx, const char *name, bool session, KdNetOptions o) {
    KdLangOptions lo = lang_options(p, cx);
    KdSessionInfo info;
    kdc_given_in(cx, &o);
    o.taps = NULL;
    o.n_taps = 0;
    KdProgram *lang = kd_lang_load(cx, kd_intern_z(cx, p->file), p->text, p->text_size, &lo);
    if (!lang || kd_error_count(cx)) {
        return NULL;
    }
    name = kd_intern_z(cx, name);
    KdFunc *f = session ? kd_lang_session(lang, name, ~0u, &o, &info) : kd_lang_net(lang, name, &o);
    return kd_error_count(cx) ? NULL : f;
}

bool kdc_probe(const KdcProgram *p, const char *name, bool session, const KdNetOptions *o,
               const char *const *names, int n, int *rank) {
    KdContext *cx = kd_context_new();
    KdFunc *volatile f = NULL;
    KdLanding l;
    if (!cx) {
        return false;
    }
    if (KD_TRY(cx, l)) {
        f = probe(p, cx, name, session, *o);
        for (int i = 0; f && i < n; i++) {
            KdValue v = kd_find_input(f, kd_intern_z(cx, names[i]));
            rank[i] = v == KD_NONE || kd_input_role(f, v) != KD_DATA ? -1 : kd_vtype(f, v)->rank;
        }
        kd_landing_pop(cx);
    }
    bool ok = f != NULL;
    kd_context_free(cx);
    return ok;
}

bool kdc_probe_macs(const KdcProgram *p, const char *name, int64_t height, int64_t width, KdMacs *macs) {
    KdContext *cx = kd_context_new();
    volatile bool ok = false;
    KdLanding l;
    if (!cx) {
        return false;
    }
    if (KD_TRY(cx, l)) {
        KdFunc *f = probe(p, cx, name, false, (KdNetOptions){.batch = 1, .height = height, .width = width});
        *macs = f ? kd_lang_macs(f) : *macs;
        ok = f != NULL;
        kd_landing_pop(cx);
    }
    kd_context_free(cx);
    return ok;
}

typedef KD_VEC(const char *) Texts;

/* The applications among the places of f's nodes and of what led there, each place once. */
static void applications_of(const KdFunc *f, KdMap *seen, Texts *out) {
    for (uint32_t v = 0; v < f->n; v++) {
        KdLoc loc = f->nodes[v].loc;
        while (loc && !kd_map_get(seen, loc, &(uint64_t){0})) {
            const KdPlace *place = kd_place(f->cx, loc);
            kd_map_put(seen, loc, 1);
            if (place->what && strstr(place->what, " applied to ")) {
                kd_push(f->cx, out, place->what);
            }
            loc = place->outer;
        }
    }
}

const char *const *kdc_applications(KdcProgram *p, const char *session, int *n) {
    KdContext *cx = kd_context_new();
    Texts found = {0};
    KdMap seen = {.cx = cx};
    KdLanding l;
    const char **copy = NULL;
    KdNetOptions o = {.mode = KD_TRAIN};
    *n = 0;
    if (!cx) {
        return NULL;
    }
    if (KD_TRY(cx, l)) {
        KdFunc *f = probe(p, cx, session, true, o);
        if (f) {
            applications_of(f, &seen, &found);
        }
        kd_landing_pop(cx);
    }
    copy = KD_NEW_ARRAY(p->cx, const char *, found.n + 1);
    for (int i = 0; i < found.n; i++) {
        copy[i] = kd_intern_z(p->cx, found.v[i]);
    }
    *n = found.n;
    kd_context_free(cx);
    return copy;
}
