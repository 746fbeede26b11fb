/* pipeline.c: runs passes.def, top to bottom, on one function.
 *
 * After each step the verifier looks at what came out; when it objects, the error is ours and names the step. The observer
 * sees every step with its time: --print-after, --time-passes and --emit hang there.
 */
#include <string.h>
#include <time.h>

#include "passes/passes.h"

typedef enum Kind { GRAPH, RECOMPUTE, FUSE, ORDER, MEMPLAN, LOWER, LOOP } Kind;

#define GRAPH_PASS_GRAPH(name) kd_pass_##name
#define GRAPH_PASS_RECOMPUTE(name) NULL
#define GRAPH_PASS_FUSE(name) NULL
#define GRAPH_PASS_ORDER(name) NULL
#define GRAPH_PASS_MEMPLAN(name) NULL
#define GRAPH_PASS_LOWER(name) NULL
#define GRAPH_PASS_LOOP(name) NULL

static const struct Row {
    const char *name;
    Kind kind;
    bool may_skip;
    KdFunc *(*graph)(const KdFunc *f);
    const char *purpose;
} rows[] = {
#define PASS(name, kind, skip, purpose) {#name, kind, skip, GRAPH_PASS_##kind(name), purpose},
#include "passes/passes.def"
#undef PASS
};

static const char *const names[] = {
#define PASS(name, kind, skip, purpose) #name,
#include "passes/passes.def"
#undef PASS
};

const char *const *kd_pass_names(int *n) {
    *n = KD_COUNT(names);
    return names;
}

bool kd_pass_may_skip(const char *name) {
    for (int i = 0; i < KD_COUNT(rows); i++)
        if (strcmp(rows[i].name, name) == 0) return rows[i].may_skip;
    return false;
}

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool skipped(const KdPassOptions *o, const struct Row *row) {
    for (int i = 0; i < o->n_skip; i++)
        if (strcmp(o->skip[i], row->name) == 0) return row->may_skip;
    return false;
}

static void check(KdContext *cx, const struct Row *row, bool ok, const KdStr *why) {
    if (!ok) kd_raise(cx, KD_FAIL_INTERNAL, "after pass '%s': %s", row->name, why->s ? why->s : "not valid");
}

static const char *mebibytes(KdContext *cx, int64_t bytes) {
    return bytes < 10 << 20 ? kd_format(cx, "%.1f KiB", (double)bytes / 1024) : kd_format(cx, "%.1f MiB", (double)bytes / (1 << 20));
}

static bool names_pass(const KdPassOptions *o, const char *pass) {
    for (int i = 0; i < o->n_skip; i++)
        if (strcmp(o->skip[i], pass) == 0) return true;
    return false;
}

/* packed: bytes that kernels take besides the planned ones, or -1. */
static void recompute(KdContext *cx, const KdPassOptions *o, int64_t packed, KdPipelineResult *r) {
    KdPassOptions plain = *o;
    plain.fuse = o->fuse && !names_pass(o, "fuse");
    r->final = kd_recompute(r->whole, &plain, packed, &r->recomputed);
    packed = r->recomputed.packed;
    if (r->recomputed.least > o->memory_limit - packed)
        kd_raise(cx, KD_FAIL_INPUT, "%s: activations are limited to %s; the smallest plan found has %s (%s without recomputation)",
                 r->final->name, mebibytes(cx, o->memory_limit), mebibytes(cx, r->recomputed.least + packed),
                 mebibytes(cx, r->recomputed.planned + packed));
}

/* What kernels pack is only known when they are there: once more, with that much less for the plan. */
static void lower_again(KdContext *cx, const KdPassOptions *o, KdPipelineResult *r) {
    KdPassOptions plain = *o;
    plain.fuse = o->fuse && !names_pass(o, "fuse");
    recompute(cx, o, r->loops->arena - r->plan->arena, r);
    KdFusion *fu = kd_fuse(r->final, &plain);
    if (!names_pass(o, "order")) kd_order(fu);
    r->fusion = fu;
    r->plan = kd_memplan(fu);
    r->loops = kd_lower(fu, r->plan, o);
    if (r->loops->arena > o->memory_limit)
        kd_raise(cx, KD_FAIL_INPUT, "%s: activations are limited to %s, but came to %s", r->final->name, mebibytes(cx, o->memory_limit),
                 mebibytes(cx, r->loops->arena));
}

/* One step: `r` before it, `r` after it. */
static void step(KdContext *cx, const struct Row *row, const KdPassOptions *o, KdPipelineResult *r) {
    KdStr why = {cx, NULL, 0, 0};
    bool skip = skipped(o, row);
    switch (row->kind) {
    case GRAPH:
        if (!skip) r->final = row->graph(r->final);
        check(cx, row, kd_verify(r->final, &why), &why);
        break;
    case RECOMPUTE:
        r->whole = r->final;
        if (!skip && o->memory_limit > 0) recompute(cx, o, -1, r);
        check(cx, row, kd_verify(r->final, &why), &why);
        break;
    case FUSE: {
        KdPassOptions plain = *o;
        plain.fuse = o->fuse && !skip;
        r->fusion = kd_fuse(r->final, &plain);
        check(cx, row, kd_fusion_verify(r->fusion, &why), &why);
        break;
    }
    case ORDER:
        if (!skip) kd_order((KdFusion *)r->fusion);
        check(cx, row, kd_fusion_verify(r->fusion, &why), &why);
        break;
    case MEMPLAN: r->plan = kd_memplan(r->fusion); break;
    case LOWER:
        r->loops = kd_lower(r->fusion, r->plan, o);
        if (o->memory_limit > 0 && r->loops->arena > o->memory_limit && !names_pass(o, "recompute")) lower_again(cx, o, r);
        check(cx, row, kl_verify(r->loops, &why), &why);
        break;
    case LOOP:
        for (int i = 0; i < r->loops->kernels.n && !skip; i++) kl_vectorize(r->loops->kernels.v[i], &o->machine);
        check(cx, row, kl_verify(r->loops, &why), &why);
        break;
    }
}

/* The same, but what goes wrong inside names the step. */
static void named_step(KdContext *cx, const struct Row *row, const KdPassOptions *o, KdPipelineResult *r) {
    KdLanding landing;
    if (KD_TRY(cx, landing)) {
        step(cx, row, o, r);
        kd_landing_pop(cx);
        return;
    }
    const char *message;
    char said[900]; /* the message is written anew over the old one */
    KdFail kind = kd_failure(cx, &message);
    snprintf(said, sizeof said, "%s", message);
    if (kind != KD_FAIL_INTERNAL || strncmp(said, "after pass", 10) == 0) kd_raise(cx, kind, "%s", said);
    kd_raise(cx, kind, "in pass '%s': %s", row->name, said);
}

KdPipelineResult kd_pipeline(const KdFunc *f, const KdPassOptions *o, KdStageFn *observe, void *user) {
    KdPipelineResult r = {.final = f};
    KdStr why = {f->cx, NULL, 0, 0};
    if (!kd_verify(f, &why)) kd_raise(f->cx, KD_FAIL_INTERNAL, "before the first pass: %s", why.s);
    for (int i = 0; i < KD_COUNT(rows); i++) {
        double start = now();
        named_step(f->cx, &rows[i], o, &r);
        KdStage stage = {rows[i].name, r.final, r.fusion, r.plan, r.loops, now() - start};
        if (strcmp(rows[i].name, "optimizer") == 0) r.grad = r.final;
        if (observe) observe(user, &stage);
    }
    return r;
}
