/* session.c: a training session: one store of tensors, one compiled variant per set of `every` blocks.
 *
 * The session is elaborated once with all its blocks, which names every input there can be; the store holds them. A
 * step looks up (or compiles) the variant of the blocks whose period divides its number, bound to the store's memory,
 * and runs it: weights and states change in place.
 *
 * Where the session depends on choices, a step has a pick for each of their genes, which follows from the seed and the
 * step's number alone, and a variant belongs to its picks, too. There can be as many of those as steps, so each is
 * compiled in a program of its own, and the one that has not run for longest is closed when there are too many. What makes
 * one cheap is the cache of compiled kernels, most of which configurations share.
 */
#include "frontend/api/api.h"

#include "ir/random_bits.h"
#include "runtime/host/checksum.h"

#include <stdlib.h>
#include <string.h>

typedef struct Variant {
    unsigned mask;
    const int *draw; /* the pick of each gene; NULL: nothing is drawn */
    KdcProgram *p;   /* the session's, or of a drawn one its own */
    KdcUnit unit;
    KdcRunnable *r; /* NULL: not run yet */
    int64_t used;   /* when it last ran */
} Variant;

struct KdcSession {
    KdcProgram *p;
    const char *name;
    KdNetOptions o;
    KdSessionInfo info;
    KdcUnit whole; /* all blocks; compiled only if a step needs it */
    KD_VEC(KdcTensor *) store;
    KD_VEC(Variant *) variants;
    const KdcDrawn *genes; /* of the choices that it depends on */
    int n_genes, all_genes; /* of the program */
    int *draw; /* the picks of the latest step, of all genes */
    int64_t used;
    KdcDrawnStats drawn;
    size_t drawn_bytes; /* that their programs may take */
    void *arena; /* of all variants, one after the other */
    int64_t arena_bytes;
    KdcRunnable *last; /* of the latest step */
};

static KdcTensor *find(KdcSession *s, const char *name) {
    for (int i = 0; i < s->store.n; i++) {
        if (strcmp(s->store.v[i]->name, name) == 0) {
            return s->store.v[i];
        }
    }
    return NULL;
}

/* The store's tensor for an input of a variant: made when it is new. */
static KdcTensor *shared(void *user, const KdFunc *f, KdValue input) {
    KdcSession *s = user;
    const KdType *type = kd_vtype(f, input);
    KdcTensor *t = find(s, kd_attr_str(f, kd_node(f, input), "name"));
    if (!t) {
        t = KD_NEW(s->p->cx, KdcTensor);
        *t = kdc_tensor_of(s->p, f, input);
        t->name = kd_intern_z(s->p->cx, t->name); /* f's context may be a drawn variant's */
        t->init = kd_intern_z(s->p->cx, t->init);
        kd_push(s->p->cx, &s->store, t);
    }
    if (t->count != type->count) {
        kd_raise(s->p->cx, KD_FAIL_INTERNAL, "session %s: %s has two shapes", s->name, t->name);
    }
    for (int i = 0; i < f->outputs.n; i++) {
        t->updated = t->updated || f->outputs.v[i].updates == input;
    }
    return t;
}

static unsigned all_blocks(const KdcSession *s) {
    return (1u << s->info.n_every) - 1;
}

/* ---- choices ---------------------------------------------------------------------------------------- */

static uint32_t hash_of(KdContext *cx, const KdFunc *f) {
    KdStr text = {.cx = cx};
    kd_print_func(&text, f);
    return kd_crc32c(0, text.s, text.n);
}

/* Does the step change with this choice? One that other things of the file depend on is not drawn. */
static bool matters(KdcSession *s, const KdChoice *c, uint32_t widest) {
    KdcProgram *p = s->p;
    int *draw = KD_NEW_ARRAY(p->cx, int, s->all_genes);
    KdNetOptions o = s->o;
    KdSessionInfo info;
    KdcUnit u;
    for (int i = 0; i < s->all_genes; i++) {
        draw[i] = i >= c->first && i < c->first + c->n_genes ? 0 : INT32_MAX;
    }
    o.draw = draw;
    return !kdc_unit_session(p, s->name, ~0u, &o, &info, &u) || hash_of(p->cx, u.func) != widest;
}

static void find_genes(KdcSession *s) {
    int n;
    const KdChoice *c = kd_lang_choices(s->p->lang, &n);
    s->all_genes = kd_lang_genes(s->p->lang);
    KdcDrawn *g = KD_NEW_ARRAY(s->p->cx, KdcDrawn, s->all_genes + 1);
    uint32_t widest = n ? hash_of(s->p->cx, s->whole.func) : 0;
    for (int i = 0; i < n; i++) {
        for (int k = 0; !c[i].fixed && k < c[i].n_genes; k++) {
            if (k == 0 && !matters(s, &c[i], widest)) {
                break;
            }
            g[s->n_genes++] = (KdcDrawn){c[i].name, c[i].list ? k : -1, c[i].first + k, c[i].genes[k].n, c[i].genes[k].alternative};
        }
    }
    s->genes = g;
    s->draw = KD_NEW_ARRAY(s->p->cx, int, s->all_genes + 1);
    for (int i = 0; i < s->all_genes; i++) {
        s->draw[i] = INT32_MAX; /* of what is not drawn, the last */
    }
}

/* A step's pick of a gene: uniform, and independent of the others. */
static int pick_of(const KdcDrawn *g, int64_t step, uint64_t seed) {
    uint32_t key = kd_random_key((uint32_t)(seed ^ (seed >> 32)), (uint32_t)step, UINT32_C(0x63686f69) + (uint32_t)g->index);
    return (int)((uint64_t)kd_random_bits(key, 0) * (uint64_t)g->n >> 32);
}

/* The picks of a step, in s->draw; NULL where nothing is drawn. */
static const int *draw_of(KdcSession *s, int64_t step, uint64_t seed) {
    for (int i = 0; i < s->n_genes; i++) {
        s->draw[s->genes[i].index] = pick_of(&s->genes[i], step, seed);
    }
    return s->n_genes ? s->draw : NULL;
}

int kdc_session_gene_count(const KdcSession *s) {
    return s->n_genes;
}

const KdcDrawn *kdc_session_gene(const KdcSession *s, int i) {
    return &s->genes[i];
}

size_t kdc_session_drawn_bytes(const KdcSession *s) {
    return s->n_genes ? s->drawn_bytes : 0;
}

void kdc_session_limit_drawn(KdcSession *s, size_t bytes) {
    s->drawn_bytes = bytes < KDC_DRAWN_BYTES ? bytes : KDC_DRAWN_BYTES;
}

KdcDrawnStats kdc_session_drawn(const KdcSession *s) {
    return s->drawn;
}

const char *kdc_session_pick(const KdcSession *s, int i, int64_t step, uint64_t seed) {
    return s->genes[i].alternative[pick_of(&s->genes[i], step, seed)];
}

/* ---- variants --------------------------------------------------------------------------------------- */

static KdcSession *open_session(KdcProgram *p, const char *name, const KdcShapes *shapes) {
    KdcSession *s = KD_NEW(p->cx, KdcSession);
    s->p = p;
    s->name = kd_intern_z(p->cx, name);
    s->drawn_bytes = KDC_DRAWN_BYTES;
    if (!kdc_net_options(p, shapes, &s->o)) {
        return NULL;
    }
    s->o.mode = KD_TRAIN;
    if (!kdc_unit_session(p, s->name, ~0u, &s->o, &s->info, &s->whole)) {
        return NULL;
    }
    for (int i = 0; i < s->whole.func->inputs.n; i++) {
        shared(s, s->whole.func, s->whole.func->inputs.v[i]);
    }
    int errors = kd_error_count(p->cx);
    find_genes(s);
    return kd_error_count(p->cx) == errors ? s : NULL;
}

KdcSession *kdc_session(KdcProgram *p, const char *name, const KdcShapes *shapes) {
    KdcSession *volatile s = NULL;
    int errors = kd_error_count(p->cx);
    KdLanding l;
    if (!p->lang) {
        return NULL;
    }
    if (KD_TRY(p->cx, l)) {
        s = open_session(p, name, shapes);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_settle(p, errors);
    return s;
}

static unsigned mask_of(const KdcSession *s, int64_t step) {
    unsigned mask = 0;
    for (int k = 0; k < s->info.n_every; k++) {
        mask |= step % s->info.every[k] == 0 ? 1u << k : 0;
    }
    return mask;
}

static bool same_draw(const KdcSession *s, const int *a, const int *b) {
    return a == b || (a && b && memcmp(a, b, sizeof *a * (size_t)s->all_genes) == 0);
}

/* "channels = [16, 24], depth = 2": a draw as text. */
static const char *draw_text(const KdcSession *s, const int *draw) {
    KdStr t = {.cx = s->p->cx};
    for (int i = 0; i < s->n_genes; i++) {
        const KdcDrawn *g = &s->genes[i];
        bool last = i + 1 == s->n_genes || s->genes[i + 1].element <= 0;
        kd_str_printf(&t, "%s", i ? ", " : "");
        if (g->element <= 0) {
            kd_str_printf(&t, "%s = %s", g->choice, g->element == 0 ? "[" : "");
        }
        kd_str_printf(&t, "%s%s", g->alternative[draw[g->index] < g->n ? draw[g->index] : g->n - 1], g->element >= 0 && last ? "]" : "");
    }
    return t.s;
}

/* What went wrong in a drawn variant's own program, as the session's. */
static void hand_on(KdcSession *s, KdcProgram *own, const int *draw) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f) {
        kdc_print_messages(own, f, false);
        fclose(f);
    }
    const char *copy = kd_format(s->p->cx, "%s", text ? text : "");
    free(text);
    if (kdc_status(own) == KDC_MACHINE) {
        kd_raise(s->p->cx, KD_FAIL_MACHINE, "with %s: %s", draw_text(s, draw), copy);
    }
    kd_error(s->p->cx, 0, "the step with %s cannot be compiled:\n%s", draw_text(s, draw), copy);
}

/* Made in its own program, with which all that belongs to it goes. NULL: own says why. */
static Variant *compile_drawn(KdcSession *s, KdcProgram *own, unsigned mask, const int *draw) {
    KdKernels *kernels = kdc_kernels(s->p);
    KdSessionInfo info;
    KdNetOptions o = s->o;
    KdLanding l;
    Variant *volatile made = NULL;
    if (kdc_status(own) == KDC_OK && KD_TRY(own->cx, l)) {
        Variant *v = KD_NEW(own->cx, Variant);
        int *picks = KD_NEW_ARRAY(own->cx, int, s->all_genes);
        memcpy(picks, draw, sizeof *picks * (size_t)s->all_genes);
        *v = (Variant){.mask = mask, .draw = picks, .p = own};
        kdc_given_in(own->cx, &o);
        o.draw = picks;
        own->kernels = kernels;
        own->borrowed = true;
        own->observe = s->p->observe;
        own->observe_user = s->p->observe_user;
        if (kdc_unit_session(own, s->name, mask, &o, &info, &v->unit)) {
            kdc_unit_passes(own, &v->unit, &own->host);
            made = kdc_unit_jit(own, &v->unit) ? v : NULL;
        }
        kd_landing_pop(own->cx);
    } else {
        kdc_failed(own);
    }
    return made;
}

/* A new variant of drawn choices. NULL after diagnostics. */
static Variant *new_drawn(KdcSession *s, unsigned mask, const int *draw) {
    double start = kdc_now();
    KdcProgram *p = s->p, *own = kdc_open(p->file, p->text, p->text_size, &p->o);
    if (!own) {
        kd_raise(p->cx, KD_FAIL_MACHINE, "out of memory: a configuration's program could not be opened");
    }
    kd_push(p->cx, &p->drawn, own); /* closed with p */
    Variant *v = compile_drawn(s, own, mask, draw);
    if (!v) {
        hand_on(s, own, draw);
        return NULL;
    }
    s->drawn.count++;
    s->drawn.seconds += kdc_now() - start;
    s->drawn.kernels += v->unit.jit_stats.compiled;
    return v;
}

static Variant *new_variant(KdcSession *s, unsigned mask) {
    Variant *v = KD_NEW(s->p->cx, Variant);
    KdSessionInfo info;
    *v = (Variant){.mask = mask, .p = s->p, .unit = s->whole};
    if (mask != all_blocks(s) && !kdc_unit_session(s->p, s->name, mask, &s->o, &info, &v->unit)) {
        return NULL;
    }
    kdc_unit_passes(s->p, &v->unit, &s->p->host);
    return kdc_unit_jit(s->p, &v->unit) ? v : NULL;
}

static void close_variant(KdcSession *s, int i) {
    Variant *v = s->variants.v[i];
    s->last = s->last == v->r ? NULL : s->last;
    s->variants.v[i] = s->variants.v[--s->variants.n];
    for (int k = 0; k < s->p->drawn.n; k++) {
        if (s->p->drawn.v[k] == v->p) {
            s->p->drawn.v[k] = s->p->drawn.v[--s->p->drawn.n];
            break;
        }
    }
    kdc_close(v->p);
}

/* Closes those that have not run for longest while the others, with one more as large as the largest, take too much. */
static void close_oldest(KdcSession *s) {
    for (;;) {
        size_t sum = 0, most = 0;
        int oldest = -1;
        for (int i = 0; i < s->variants.n; i++) {
            const Variant *v = s->variants.v[i];
            size_t bytes = v->draw ? kd_context_bytes(v->p->cx) : 0;
            sum += bytes;
            most = bytes > most ? bytes : most;
            oldest = v->draw && (oldest < 0 || v->used < s->variants.v[oldest]->used) ? i : oldest;
        }
        if (oldest < 0 || sum + most <= s->drawn_bytes) {
            return;
        }
        close_variant(s, oldest);
    }
}

/* The variant of those blocks and picks, compiled. NULL after diagnostics. */
static Variant *variant(KdcSession *s, unsigned mask, const int *draw) {
    for (int i = 0; i < s->variants.n; i++) {
        if (s->variants.v[i]->mask == mask && same_draw(s, s->variants.v[i]->draw, draw)) {
            return s->variants.v[i];
        }
    }
    if (draw) {
        close_oldest(s);
    }
    Variant *v = draw ? new_drawn(s, mask, draw) : new_variant(s, mask);
    if (v) {
        kd_push(s->p->cx, &s->variants, v);
    }
    return v;
}

/* The largest arena of the variants compiled so far, for all of them: a larger one later means new runnables. */
static void share_arena(KdcSession *s) {
    int64_t most = 0;
    for (int i = 0; i < s->variants.n; i++) {
        int64_t bytes = s->variants.v[i]->unit.result.loops->arena;
        most = bytes > most ? bytes : most;
    }
    if (s->arena && most <= s->arena_bytes) {
        return;
    }
    kdc_memory_free(s->p, s->arena);
    s->arena = NULL;
    s->arena = kdc_memory(s->p, most);
    s->arena_bytes = most;
    for (int i = 0; i < s->variants.n; i++) {
        if (s->variants.v[i]->r) {
            kdc_runnable_arena(s->variants.v[i]->r, s->arena);
        }
    }
}

static KdcRunnable *runnable(KdcSession *s, unsigned mask, const int *draw) {
    Variant *v = variant(s, mask, draw);
    if (!v) {
        return NULL;
    }
    share_arena(s);
    v->r = v->r ? v->r : kdc_runnable_new(v->p, &v->unit, shared, s, s->arena);
    v->used = ++s->used;
    return v->r;
}

static void prepare(KdcSession *s, int64_t first, int64_t last, KdcStats *stats) {
    const int64_t enough = 1 << 20; /* steps looked at: blocks that only run together later are compiled then */
    for (int64_t step = first; step <= last && step - first < enough; step++) {
        if ((step > first && s->info.n_every == 0) || !variant(s, mask_of(s, step), NULL)) {
            break;
        }
    }
    for (int i = 0; i < s->variants.n; i++) {
        KdcStats one = kdc_unit_stats(&s->variants.v[i]->unit);
        stats->seconds += one.seconds;
        stats->code_seconds += one.code_seconds;
        stats->kernels += one.kernels;
        stats->calls += one.calls;
        stats->memory = one.memory > stats->memory ? one.memory : stats->memory;
        stats->memory_naive = one.memory_naive > stats->memory_naive ? one.memory_naive : stats->memory_naive;
        stats->memory_planned = one.memory_planned > stats->memory_planned ? one.memory_planned : stats->memory_planned;
        stats->more_work = one.more_work > stats->more_work ? one.more_work : stats->more_work;
        stats->from_cache = (i == 0 || stats->from_cache) && one.from_cache;
    }
}

KdcStatus kdc_session_prepare(KdcSession *s, int64_t first, int64_t last, KdcStats *stats) {
    int errors = kd_error_count(s->p->cx);
    KdLanding l;
    *stats = (KdcStats){0};
    if (KD_TRY(s->p->cx, l)) {
        prepare(s, first, last, stats);
        kd_landing_pop(s->p->cx);
    } else {
        kdc_failed(s->p);
    }
    return kdc_settle(s->p, errors);
}

static void set_scalar(KdcSession *s, const char *name, int64_t v) {
    KdcTensor *t = find(s, name);
    if (!t || t->role != KDC_DATA || t->rank != 0) {
        return;
    }
    switch (t->dtype) {
    case KDC_F32:
        *(float *)t->data = (float)v;
        break;
    case KDC_I32:
        *(int32_t *)t->data = (int32_t)(uint32_t)v;
        break;
    case KDC_U8:
        *(uint8_t *)t->data = (uint8_t)v;
        break;
    }
}

/* s->last: what runs that step, with its scalars set; else NULL. */
static KdcStatus begin_step(KdcSession *s, int64_t step, int64_t epoch, uint64_t seed) {
    KdcProgram *p = s->p;
    int errors = kd_error_count(p->cx);
    KdLanding l;
    s->last = NULL;
    if (KD_TRY(p->cx, l)) {
        s->last = runnable(s, mask_of(s, step), draw_of(s, step, seed));
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    if (kdc_settle(p, errors) != KDC_OK || !s->last) {
        return p->status;
    }
    set_scalar(s, "step", step);
    set_scalar(s, "epoch", epoch);
    set_scalar(s, "seed", (int64_t)seed);
    return KDC_OK;
}

KdcStatus kdc_session_step(KdcSession *s, int64_t step, int64_t epoch, uint64_t seed) {
    KdcStatus status = begin_step(s, step, epoch, seed);
    return s->last ? kdc_run(s->last) : status;
}

/* The step's variant with nothing fused: every op has a kernel, and a place, of its own. NULL where that cannot be had (it
 * takes more memory): the fused one is then looked at, whose passes hold several ops. */
static KdcRunnable *unfused(KdcSession *s, unsigned mask, const int *draw) {
    KdcProgram *p = s->p;
    const char **skip = KD_NEW_ARRAY(p->cx, const char *, p->o.n_skip + 2), *const *before = p->o.skip;
    KdcRunnable *volatile r = NULL;
    KdcUnit u = s->whole;
    KdSessionInfo info;
    KdNetOptions o = s->o;
    KdLanding l;
    o.draw = draw;
    int n = p->o.n_skip;
    int64_t limit = p->o.memory_limit;
    for (int i = 0; i < n; i++) {
        skip[i] = before[i];
    }
    skip[n] = "fuse";
    p->o.skip = skip;
    p->o.n_skip = n + 1;
    p->o.memory_limit = 0;
    if (KD_TRY(p->cx, l)) {
        if ((mask == all_blocks(s) && !draw) || kdc_unit_session(p, s->name, mask, &o, &info, &u)) {
            kdc_unit_passes(p, &u, &p->host);
            r = kdc_unit_jit(p, &u) ? kdc_runnable_new(p, &u, shared, s, NULL) : NULL;
        }
        kd_landing_pop(p->cx);
    }
    p->o.skip = before;
    p->o.n_skip = n;
    p->o.memory_limit = limit;
    return r;
}

KdcStatus kdc_session_trace(KdcSession *s, int64_t step, int64_t epoch, uint64_t seed, KdcFault *fault) {
    KdcStatus status = begin_step(s, step, epoch, seed);
    KdcRunnable *apart = s->last ? unfused(s, mask_of(s, step), draw_of(s, step, seed)) : NULL;
    int call;
    *fault = (KdcFault){0};
    s->last = apart ? apart : s->last;
    if (!s->last || !kdc_run_watched(s->last, &call, &fault->nan)) {
        return status;
    }
    const KlModule *m = kdc_runnable_unit(s->last)->result.loops;
    const KdPlace *place = kd_place(s->p->cx, m->calls.v[call].loc);
    fault->found = true;
    fault->what = m->kernels.v[m->calls.v[call].kernel]->what;
    fault->file = place ? place->file : NULL;
    fault->line = place ? place->line : 0;
    fault->column = place ? place->col : 0;
    return status;
}

uint32_t kdc_session_hash(const KdcSession *s) {
    return hash_of(s->p->cx, s->whole.func);
}

KdcProgram *kdc_session_program(const KdcSession *s) {
    return s->p;
}

KdcRunnable *kdc_session_runnable(const KdcSession *s) {
    return s->last;
}

KdMacs kdc_session_macs(const KdcSession *s) {
    return kd_lang_macs(s->whole.func);
}

const char *kdc_session_from(const KdcSession *s) {
    return s->info.from;
}

KdcStatus kdc_session_initialise(KdcSession *s, uint64_t seed) {
    int errors = kd_error_count(s->p->cx);
    KdLanding l;
    if (KD_TRY(s->p->cx, l)) {
        for (int i = 0; i < s->store.n; i++) {
            if (s->store.v[i]->role != KDC_DATA) {
                kdc_init_tensor(s->p->cx, s->store.v[i], seed);
            }
        }
        kd_landing_pop(s->p->cx);
    } else {
        kdc_failed(s->p);
    }
    return kdc_settle(s->p, errors);
}

int kdc_session_count(const KdcSession *s) {
    return s->store.n;
}

KdcTensor *kdc_session_tensor(KdcSession *s, int i) {
    return s->store.v[i];
}

KdcTensor *kdc_session_find(KdcSession *s, const char *name) {
    return find(s, name);
}

int kdc_session_output_count(const KdcSession *s) {
    return s->last ? kdc_output_count(s->last) : 0;
}

KdcTensor *kdc_session_output(KdcSession *s, int i) {
    return kdc_output(s->last, i);
}

int kdc_session_log_count(const KdcSession *s) {
    return s->info.n_logs;
}

const char *kdc_session_log(const KdcSession *s, int i) {
    return s->info.logs[i];
}
