/* export.c: see export.h.
 *
 * What the network makes of its weights alone by sums or products, a spectral norm's quotient, is computed once, here,
 * and is a weight of what is exported (passes/hoist.h). The network goes through the passes for the target, and the JIT
 * computes the golden output: with code for that same target where this machine can run it (every bit then counts in the
 * self-test), else with its own (a few values count, to a tolerance). codegen/artefact.c links the kernels with
 * runtime/export/artefact.c and with constants that are made here: the table of externs, the weights, the arena's
 * layout, the golden values. The text of the header and the sample is in export_text.c.
 */
#include "frontend/api/export_private.h"

#include "passes/hoist.h"
#include "runtime/export/files.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

/* ---- compiling ---------------------------------------------------------------------------------------- */

static size_t arch_length(const char *triple) {
    return strcspn(triple, "-");
}

static bool same_arch(const KdTarget *a, const KdTarget *b) {
    size_t n = arch_length(a->triple);
    return n == arch_length(b->triple) && strncmp(a->triple, b->triple, n) == 0;
}

/* Can this machine run what is made for the target? Only of the levels that an architecture defines is known what they are a
 * part of. */
static bool runs_here(const KdcProgram *p) {
    static const char *const levels[] = {"x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "generic"};
    const KdTarget *t = &p->target, *host = &p->host;
    bool known = strcmp(t->cpu, host->cpu) == 0 && strcmp(t->features, host->features) == 0;
    for (int i = 0; i < KD_COUNT(levels); i++) {
        known = known || (strcmp(t->cpu, levels[i]) == 0 && !*t->features);
    }
    return known && same_arch(t, host) && t->machine.lanes <= host->machine.lanes &&
           (!t->machine.fma || host->machine.fma);
}

static bool jit(KdcProgram *p, KdcUnit *u, const KdTarget *t) {
    KdCodegenOptions code = kdc_codegen_options(p);
    u->jit = kd_jit_new(p->cx, u->result.loops, t, &code, &u->jit_stats);
    if (u->jit) {
        kd_push(p->cx, &p->jits, u->jit);
    }
    return u->jit != NULL;
}

/* A tensor that e->folding has is e->r's, too: a result of folding as a weight, or a weight that both use. */
static KdcTensor *shared(void *user, const KdFunc *f, KdValue input) {
    KdcExport *e = user;
    const char *name = kd_attr_str(f, kd_node(f, input), "name");
    KdcTensor *made = e->folding ? kdc_find_output(e->folding, name) : NULL;
    if (!made) {
        return e->folding ? kdc_find(e->folding, name) : NULL;
    }
    KdcTensor *t = KD_NEW(e->p->cx, KdcTensor);
    *t = *made;
    t->role = kd_input_role(f, input) == KD_FROZEN ? KDC_FROZEN : KDC_WEIGHT;
    return t;
}

/* Elaborates; *before, if not NULL: becomes what is computed from weights first, func NULL if that is nothing. */
static bool elaborate(KdcExport *e, const KdNetOptions *o, KdcUnit *u, KdcUnit *before) {
    KdFunc *early, *late;
    if (!kdc_unit_net(e->p, e->name, o, u)) {
        return false;
    }
    e->whole = u->func;
    if (kd_hoist(u->func, &early, &late)) {
        u->func = late;
        if (before) {
            *before = (KdcUnit){.name = u->name, .func = early};
        }
    }
    return true;
}

KdcExport *kdc_export_new(KdcProgram *p, const char *name, const KdcShapes *s) {
    KdcExport *e = KD_NEW(p->cx, KdcExport);
    KdNetOptions o;
    KdcUnit before = {0};
    *e = (KdcExport){.p = p, .name = name, .exact = runs_here(p)};
    if (!kdc_net_options(p, s, &o) || !elaborate(e, &o, &e->unit, &before)) {
        return NULL;
    }
    kdc_unit_passes(p, &e->unit, &p->target);
    e->golden = e->unit;
    KdTarget t = e->exact ? p->target : p->host;
    if (!e->exact) {
        if (!elaborate(e, &o, &e->golden, NULL)) {
            return NULL;
        }
        kdc_unit_passes(p, &e->golden, &t);
    }
    if (before.func) {
        kdc_unit_passes(p, &before, &t);
    }
    t.triple = p->host.triple;
    if (!jit(p, &e->golden, &t) || (before.func && !jit(p, &before, &t))) {
        return NULL;
    }
    e->folding = before.func ? kdc_runnable_new(p, &before, NULL, NULL, NULL) : NULL;
    e->r = kdc_runnable_new(p, &e->golden, shared, e, NULL);
    return e;
}

KdcTensor **kdc_export_inputs(KdcExport *e, int *n) {
    KdcTensor **all = KD_NEW_ARRAY(e->p->cx, KdcTensor *, e->whole->inputs.n + 1);
    *n = 0;
    for (int i = 0; i < e->whole->inputs.n; i++) {
        const char *name = kd_attr_str(e->whole, kd_node(e->whole, e->whole->inputs.v[i]), "name");
        KdcTensor *t = e->folding ? kdc_find(e->folding, name) : NULL;
        all[(*n)++] = t ? t : kdc_find(e->r, name);
    }
    return all;
}

/* ---- the descriptor -------------------------------------------------------------------------------------- */

static int64_t up64(int64_t n) {
    return (n + 63) & ~INT64_C(63);
}

static KdxType type_of(KdcDType d) {
    return d == KDC_F32 ? KDX_F32 : d == KDC_I32 ? KDX_I32 : KDX_U8;
}

/* Inputs and outputs in the plan's order. */
static bool describe_externs(KdcExport *e) {
    KdcProgram *p = e->p;
    int n_in = kdc_input_count(e->r), n_out = kdc_output_count(e->r), pointers = 0;
    e->extern_of = KD_NEW_ARRAY(p->cx, KdxExtern, n_in + n_out + 1);
    e->tensor = KD_NEW_ARRAY(p->cx, KdcTensor *, n_in + n_out + 1);
    for (int i = 0; i < n_in + n_out; i++) {
        KdcTensor *t = i < n_in ? kdc_input(e->r, i) : kdc_output(e->r, i - n_in);
        KdxKind kind = i >= n_in ? KDX_OUTPUT : t->role == KDC_DATA ? KDX_INPUT : KDX_WEIGHT;
        if (t->updated) {
            kd_error(p->cx, 0, "%s: a run changes its own '%s'; an exported network must leave its weights alone", e->name,
                     t->name);
            return false;
        }
        int64_t *end = kind == KDX_WEIGHT ? &e->weight_bytes : &e->io_bytes;
        e->extern_of[i] = (KdxExtern){kind, type_of(t->dtype), t->count, *end};
        e->tensor[i] = t;
        *end += up64(kdc_tensor_bytes(t));
        e->n_data_in += kind == KDX_INPUT;
        e->n_out += kind == KDX_OUTPUT;
        e->parameters += t->role == KDC_WEIGHT || t->role == KDC_FROZEN ? t->count : 0;
        pointers += kind != KDX_WEIGHT;
    }
    e->n_externs = n_in + n_out;
    if (e->unit.result.loops->externs.n != e->n_externs) {
        kd_raise(p->cx, KD_FAIL_INTERNAL, "export: %s has %d externs, its inputs and outputs are %d", e->name,
                 e->unit.result.loops->externs.n, e->n_externs);
    }
    if (pointers > KD_ARTEFACT_POINTERS) {
        kd_error(p->cx, 0, "%s: %d inputs and outputs are too many for an export; at most %d", e->name, pointers,
                 KD_ARTEFACT_POINTERS);
        return false;
    }
    return true;
}

static void gather_weights(KdcExport *e) {
    e->weights = kd_alloc(e->p->cx, (size_t)e->weight_bytes + 64);
    for (int i = 0; i < e->n_externs; i++) {
        if (e->extern_of[i].kind == KDX_WEIGHT) {
            memcpy(e->weights + e->extern_of[i].at, e->tensor[i]->data, (size_t)kdc_tensor_bytes(e->tensor[i]));
        }
    }
}

static bool is_picture(const KdcTensor *t) {
    return t->dtype == KDC_F32 && t->rank == 4 && t->dim[0] == 1 && t->dim[1] == 3;
}

/* Picture to picture: nothing else goes in or out. */
static void describe_pictures(KdcExport *e, KdxNet *net) {
    const KdcTensor *in = NULL, *out = NULL;
    for (int i = 0; i < e->n_externs; i++) {
        in = e->extern_of[i].kind == KDX_INPUT ? e->tensor[i] : in;
        out = e->extern_of[i].kind == KDX_OUTPUT ? e->tensor[i] : out;
    }
    net->rgb8 = e->n_data_in == 1 && e->n_out == 1 && is_picture(in) && is_picture(out);
    if (net->rgb8) {
        net->height = in->dim[2];
        net->width = in->dim[3];
        net->out_height = out->dim[2];
        net->out_width = out->dim[3];
    }
}

static KdxLevel level_of(const KdTarget *t) {
    if (strncmp(t->triple, "x86_64", 6) != 0 && strncmp(t->triple, "amd64", 5) != 0) {
        return KDX_LEVEL_ANY;
    }
    return t->machine.lanes == 16 ? KDX_LEVEL_AVX512
           : t->machine.lanes < 8 ? KDX_LEVEL_ANY
           : t->machine.fma       ? KDX_LEVEL_AVX2
                                  : KDX_LEVEL_AVX;
}

static bool describe_net(KdcExport *e, const KdcExportOptions *o) {
    const KlModule *m = e->unit.result.loops;
    KdxNet *net = &e->net;
    int64_t scratch, arena;
    *net = (KdxNet){.n_externs = e->n_externs, .lo = o->lo, .hi = o->hi, .truncate = o->truncate,
                    .threads = o->openmp ? o->threads : 1, .level = level_of(&e->p->target),
                    .weight_bytes = e->weight_bytes, .exact = e->exact};
    net->weight_hash = kdx_hash(0, e->weights, (size_t)e->weight_bytes);
    net->scratch_bytes = up64(kd_scratch_bytes(m));
    net->externs_at = up64(m->arena);
    net->scratch_at = net->externs_at + up64(8 * e->n_externs);
    if (!kd_mul_ok(net->scratch_bytes, net->threads, &scratch) ||
        !kd_add_ok(net->scratch_at + e->io_bytes, scratch, &arena) || arena > INT64_MAX / 2) {
        kd_error(e->p->cx, 0, "%s needs more memory than can be addressed", e->name);
        return false;
    }
    net->io_at = net->scratch_at + scratch;
    net->arena_bytes = arena;
    describe_pictures(e, net);
    return true;
}

/* ---- the golden output ---------------------------------------------------------------------------------- */

#define REFERENCES 64

static double element(const KdcTensor *t, int64_t i) {
    return t->dtype == KDC_F32   ? (double)((const float *)t->data)[i]
           : t->dtype == KDC_I32 ? (double)((const int32_t *)t->data)[i]
                                 : (double)((const uint8_t *)t->data)[i];
}

/* Evenly spread over all outputs' elements; the tolerance is 1e-4 of the largest, and of 1 at least. */
static bool note_references(KdcExport *e) {
    double most = 1;
    int per_output = (REFERENCES + e->n_out - 1) / e->n_out;
    e->reference = KD_NEW_ARRAY(e->p->cx, KdxReference, per_output * e->n_out + 1);
    for (int i = 0; i < e->n_externs; i++) {
        const KdcTensor *t = e->tensor[i];
        int64_t n = t->count < per_output ? t->count : per_output;
        for (int64_t k = 0; k < n && e->extern_of[i].kind == KDX_OUTPUT; k++) {
            int64_t at = (2 * k + 1) * t->count / (2 * n);
            double v = element(t, at);
            if (!isfinite(v)) {
                kd_error(e->p->cx, 0, "%s gives %g for the self-test's input: are these the right weights?", e->name, v);
                return false;
            }
            most = fabs(v) > most ? fabs(v) : most;
            e->reference[e->net.n_references++] = (KdxReference){i, at, v};
        }
    }
    e->net.tolerance = 1e-4 * most;
    return true;
}

static bool golden(KdcExport *e) {
    for (int i = 0; i < e->n_externs; i++) {
        if (e->extern_of[i].kind == KDX_INPUT) {
            kdx_golden(&e->extern_of[i], i, e->net.lo, e->net.hi, e->tensor[i]->data);
        }
    }
    kdc_run(e->r);
    for (int i = 0; i < e->n_externs; i++) {
        if (e->extern_of[i].kind == KDX_OUTPUT) {
            e->net.golden_hash = kdx_hash(e->net.golden_hash, e->tensor[i]->data, (size_t)kdc_tensor_bytes(e->tensor[i]));
        }
    }
    return note_references(e);
}

/* ---- the object -------------------------------------------------------------------------------------------- */

const KdxFile *kdc_export_text(KdcExport *e, const char *name) {
    for (const KdxFile *f = kdx_files; f->name; f++) {
        if (strcmp(f->name, name) == 0) {
            return f;
        }
    }
    kd_raise(e->p->cx, KD_FAIL_INTERNAL, "export: this kdc was built without %s", name);
}

static const char *public_name(KdcExport *e, const char *suffix) {
    return kd_format(e->p->cx, "%s_%s", e->id, suffix);
}

#define MOST_INSIDE (INT64_C(1) << 30) /* code reaches 2 GB far */

static bool generate(KdcExport *e, const KdcExportOptions *o, KdStr *object) {
    KdContext *cx = e->p->cx;
    bool arm = strncmp(e->p->target.triple, "aarch64", 7) == 0 || strncmp(e->p->target.triple, "arm64", 5) == 0;
    const KdxFile *code = kdc_export_text(e, arm ? "aarch64.bc" : "x86_64.bc");
    const KdBytes constants[] = {
        {"kdx_net", &e->net, sizeof e->net},
        {"kdx_externs", e->extern_of, (size_t)e->n_externs * sizeof *e->extern_of},
        {"kdx_references", e->reference, (size_t)e->net.n_references * sizeof *e->reference},
        {"kdx_weights", e->weights, (size_t)e->weight_bytes},
    };
    KdRename names[5] = {
        {o->beside ? "kdx_init_beside" : "kdx_init_inside", public_name(e, "init")},
        {"kdx_free", public_name(e, "free")},
        {"kdx_selftest", public_name(e, "selftest")},
        {"kdx_run_rgb8", public_name(e, "run_rgb8")},
    };
    const KdArtefact a = {.bitcode = {"artefact", code->bytes, code->n},
                          .constants = constants,
                          .n_constants = KD_COUNT(constants) - o->beside,
                          .run = o->openmp ? "kdx_run_openmp" : "kdx_run_serial",
                          .public_names = names,
                          .n_public = e->net.rgb8 ? 4 : 3,
                          .spread = "kdx_run",
                          .spread_as = public_name(e, "run"),
                          .n_pointers = e->n_data_in + e->n_out};
    KdCodegenOptions co = kdc_codegen_options(e->p);
    if (!o->beside && e->weight_bytes > MOST_INSIDE) {
        kd_error(cx, 0, "%s: weights of %" PRId64 " bytes are too many to be part of a library", e->name, e->weight_bytes);
        kd_hint(cx, "--beside keeps them in a file");
        return false;
    }
    return kd_artefact(cx, e->unit.result.loops, &e->p->target, &co, &a, object);
}

/* ---- files --------------------------------------------------------------------------------------------------- */

static bool write_file(KdcExport *e, const KdcExportOptions *o, const char *name, const void *bytes, size_t n,
                       KdcExportReport *r) {
    KdTrouble t;
    const char *path = kd_format(e->p->cx, "%s/%s", o->folder, name);
    r->file[r->n_files++] = (KdcExportFile){path, n, false};
    return kd_file_write(path, bytes, n, &t) || kdc_host_trouble(e->p, &t);
}

int kdc_export_paths(KdcProgram *p, const char *name, const KdcExportOptions *o, const char *path[4]) {
    const char *id = kdc_export_identifier(p->cx, name);
    path[0] = kd_format(p->cx, "%s/%s.o", o->folder, id);
    path[1] = kd_format(p->cx, "%s/lib%s.a", o->folder, id);
    path[2] = kd_format(p->cx, "%s/%s.h", o->folder, id);
    path[3] = kd_format(p->cx, "%s/%s.weights", o->folder, id);
    return o->beside ? 4 : 3;
}

/* A main.c without the words that we put into ours is the user's. */
static bool write_sample(KdcExport *e, const KdcExportOptions *o, const KdStr *text, KdcExportReport *r) {
    KdTrouble t;
    size_t n = 0;
    const char *path = kd_format(e->p->cx, "%s/main.c", o->folder);
    struct stat st;
    if (stat(path, &st) == 0) {
        char *old = kd_file_read(path, &n, &t);
        bool ours = old && strstr(old, "Made by kdc export, which writes over it");
        free(old);
        if (!ours) {
            r->file[r->n_files++] = (KdcExportFile){path, n, true};
            return true;
        }
    }
    return write_file(e, o, "main.c", text->s, text->n, r);
}

static bool make_folder(KdcExport *e, const char *folder) {
    KdTrouble t;
    struct stat st;
    if (mkdir(folder, 0777) == 0 || (errno == EEXIST && stat(folder, &st) == 0 && S_ISDIR(st.st_mode))) {
        return true;
    }
    const char *why = errno == EEXIST ? "it is a file" : strerror(errno);
    kd_trouble(&t, true, "%s: the folder cannot be made: %s", folder, why);
    return kdc_host_trouble(e->p, &t);
}

static bool write_weights(KdcExport *e, const KdcExportOptions *o, KdcExportReport *r) {
    KdStr all = {.cx = e->p->cx};
    KdxWeightsHead head = {.bytes = (uint64_t)e->weight_bytes, .hash = e->net.weight_hash};
    memcpy(head.magic, KDX_WEIGHTS_MAGIC, sizeof head.magic);
    kd_str_add(&all, (const char *)&head, sizeof head);
    kd_str_add(&all, e->weights, (size_t)e->weight_bytes);
    return write_file(e, o, kd_format(e->p->cx, "%s.weights", e->id), all.s, all.n, r);
}

static bool write_all(KdcExport *e, const KdcExportOptions *o, const KdStr *object, KdcExportReport *r) {
    KdContext *cx = e->p->cx;
    KdStr archive = {.cx = cx}, header = {.cx = cx}, sample = {.cx = cx};
    kd_archive(object, kd_format(cx, "%s.o", e->id), &r->symbols, &archive);
    kdc_export_header(e, o, &header);
    r->cc = kdc_export_sample(e, o, &sample);
    return make_folder(e, o->folder) && (!o->beside || write_weights(e, o, r)) &&
           write_file(e, o, kd_format(cx, "%s.o", e->id), object->s, object->n, r) &&
           write_file(e, o, kd_format(cx, "lib%s.a", e->id), archive.s, archive.n, r) &&
           write_file(e, o, kd_format(cx, "%s.h", e->id), header.s, header.n, r) && write_sample(e, o, &sample, r);
}

bool kdc_export_write(KdcExport *e, const KdcExportOptions *o, KdcExportReport *r) {
    KdStr object = {.cx = e->p->cx};
    *r = (KdcExportReport){0};
    e->id = kdc_export_identifier(e->p->cx, e->name);
    if (!describe_externs(e)) {
        return false;
    }
    if (e->folding) {
        kdc_run(e->folding);
    }
    gather_weights(e);
    if (!describe_net(e, o) || !golden(e) || !generate(e, o, &object)) {
        return false;
    }
    if (!kd_object_symbols(e->p->cx, &object, &r->symbols)) {
        kd_error(e->p->cx, 0, "code for '%s' is no ELF object; kdc exports for Linux and what else uses ELF",
                 e->p->target.triple);
        return false;
    }
    r->net = e->id;
    r->arena_bytes = e->net.arena_bytes + 64;
    r->weight_bytes = e->weight_bytes;
    r->parameters = e->parameters;
    r->rgb8 = e->net.rgb8 != 0;
    r->exact = e->exact;
    return write_all(e, o, &object, r);
}
