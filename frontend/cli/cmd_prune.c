/* cmd_prune.c: kdc prune FILE.kd:NET --weights W --macs N -o STUDENT.kd: a narrower network from a trained one.
 *
 * The channels of the network are grouped (passes/channels.h), scored, and chosen; its hyper-parameters are set so that
 * each layer is as wide as what stays of it, and the weights' rows and columns that stay are written beside.
 */
#define _GNU_SOURCE
#include "frontend/cli/prune.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the network and its weights ------------------------------------------------------------------------- */

static bool analyse(KdcPrune *m) {
    KdcProgram *p = m->p;
    KdNetOptions o;
    KdcUnit u;
    KD_VEC(KdcTensor *) data = {0};
    if (!kd_lang_config(p->lang, m->a->name, &m->config) || !kdc_cli_shapes(p, m->a, &m->shapes)) {
        return false;
    }
    kdc_cli_default_shape(p, m->a, m->a->name, &m->shapes);
    if (!kdc_net_options(p, &m->shapes, &o) || !kdc_unit_net(p, m->a->name, &o, &u)) {
        return false;
    }
    m->f = u.func;
    m->tensor = KD_NEW_ARRAY(p->cx, KdcTensor *, m->f->inputs.n + 1);
    for (int i = 0; i < m->f->inputs.n; i++) {
        KdcTensor *t = KD_NEW(p->cx, KdcTensor);
        *t = kdc_tensor_of(p, m->f, m->f->inputs.v[i]);
        m->tensor[i] = t->role == KDC_DATA ? NULL : t;
        if (t->role == KDC_DATA) {
            kd_push(p->cx, &data, t);
        }
    }
    if (!kdc_cli_check_shapes(p, m->a, data.v, data.n)) {
        return false;
    }
    m->c = kd_channels(m->f);
    return true;
}

/* Is x, under the network's name or the file's own, t with another number of input channels? */
static bool same_but_inputs(const KdcTensor *t, const KdTensor *x) {
    size_t n = strlen(x->name), own = strlen(t->name);
    bool same = n >= own && strcmp(x->name + n - own, t->name) == 0 && t->rank == 4 && x->rank == 4 && t->dim[1] != x->dim[1];
    for (int d = 0; same && d < 4; d++) {
        same = d == 1 || t->dim[d] == x->dim[d];
    }
    return same;
}

/* Where the file's first layer takes another number of channels than the pictures that were taken for granted have. */
static void hint_shape(const KdcPrune *m, const KdcFiles *files) {
    const KdcTensor *first = NULL, *data = NULL;
    for (int i = 0; i < m->f->inputs.n; i++) {
        if (!m->tensor[i]) {
            KdcTensor *t = KD_NEW(m->p->cx, KdcTensor);
            *t = kdc_tensor_of(m->p, m->f, m->f->inputs.v[i]);
            data = data ? data : t;
        }
        first = first || !m->tensor[i] || m->tensor[i]->rank != 4 ? first : m->tensor[i];
    }
    if (!first || !data || data->rank != 4 || data->dim[1] != first->dim[1]) {
        return;
    }
    for (int k = 0; k < files->weights.n; k++) {
        const KdWeights *w = files->weights.v[k].w;
        for (int i = 0; i < w->n; i++) {
            if (same_but_inputs(first, &w->tensor[i])) {
                kd_hint(m->p->cx, "--shape %s=1x%dx%dx%d gives it as many channels as these weights have", data->name,
                        (int)w->tensor[i].dim[1], (int)data->dim[2], (int)data->dim[3]);
                return;
            }
        }
    }
}

static bool load(KdcPrune *m) {
    KdcFiles files;
    KD_VEC(KdcTensor *) all = {0};
    for (int i = 0; i < m->f->inputs.n; i++) {
        if (m->tensor[i]) {
            kd_push(m->p->cx, &all, m->tensor[i]);
        }
    }
    bool ok = kdc_files_read(m->p, m->a, &files);
    if (ok && !kdc_fill_weights(m->p, m->a, &files, true, all.v, all.n)) {
        hint_shape(m, &files);
        ok = false;
    }
    kdc_files_free(&files);
    return ok;
}

/* ---- given widths --------------------------------------------------------------------------------------- */

static int hyper_named(KdcPrune *m, const char *name, size_t n) {
    const char **names = KD_NEW_ARRAY(m->p->cx, const char *, m->config.n + 1);
    for (int i = 0; i < m->config.n; i++) {
        names[i] = m->config.v[i].name;
        if (strlen(names[i]) == n && strncmp(names[i], name, n) == 0) {
            return i;
        }
    }
    const char *copy = kd_intern(m->p->cx, name, n), *near = kd_nearest(copy, names, m->config.n);
    kd_error(m->p->cx, 0, "--to: %s has no hyper-parameter '%s'", m->config.net, copy);
    if (near) {
        kd_hint(m->p->cx, "did you mean '%s'?", near);
    }
    return -1;
}

/* --to: what else is not the default stays. */
static bool set_given(KdcPrune *m) {
    KdContext *cx = m->p->cx;
    const char *why;
    m->value = KD_NEW_ARRAY(cx, const char *, m->config.n + 1);
    m->threshold = NAN;
    for (int i = 0; i < m->config.n; i++) {
        m->value[i] = m->config.v[i].value;
    }
    kdc_prune_shorten(m, m->value);
    if (!kdc_prune_try(m, m->value, 0, &m->before, &why)) {
        kd_error(cx, 0, "%s[...] with its hyper-parameters written out is not %s: %s", m->config.net, m->a->name, why);
        return false;
    }
    for (int i = 0; i < m->a->n_tos; i++) {
        size_t n = strcspn(m->a->tos[i], "=");
        int hyper = hyper_named(m, m->a->tos[i], n);
        if (hyper < 0) {
            return false;
        }
        m->value[hyper] = kd_intern_z(cx, m->a->tos[i] + n + 1);
    }
    if (!kdc_prune_try(m, m->value, 0, &m->after, &why)) {
        kd_error(cx, 0, "%s cannot be made narrower so: %s", m->a->name, why);
        return false;
    }
    return kdc_prune_can_choose(m, &m->after);
}

static const char written[] = ", pruned by kdc:"; /* ends the first line of a STUDENT.kd */

/* ---- what is written --------------------------------------------------------------------------------------- */

/* The indices of a dimension that stay; n of them. */
static int *kept_of(const KdcPrune *m, bool **keep, int input, int dim, int64_t *n) {
    const KdChannelDim *d = &m->c->dim[input][dim];
    int64_t size = m->tensor[input]->dim[dim];
    int *index = KD_NEW_ARRAY(m->p->cx, int, size + 1);
    *n = 0;
    for (int64_t i = 0; i < size; i++) {
        int group = d->group ? d->group[i] : -1;
        if (group < 0 || m->c->groups.v[group].why || keep[group][d->channel[i]]) {
            index[(*n)++] = (int)i;
        }
    }
    return index;
}

/* The elements of tensor `input` at indices that stay. NULL: none is left, as of a layer that has vanished. */
static KdTensorOut *cut(const KdcPrune *m, bool **keep, int input) {
    static const KdStored stored[] = {[KDC_F32] = KD_STORED_F32, [KDC_I32] = KD_STORED_I32, [KDC_U8] = KD_STORED_U8};
    KdContext *cx = m->p->cx;
    const KdcTensor *t = m->tensor[input];
    int *index[KD_MAX_RANK];
    int64_t *dim = KD_NEW_ARRAY(cx, int64_t, KD_MAX_RANK), count = 1, at[KD_MAX_RANK] = {0};
    size_t size = t->dtype == KDC_U8 ? 1 : 4;
    for (int d = 0; d < t->rank; d++) {
        index[d] = kept_of(m, keep, input, d, &dim[d]);
        count *= dim[d];
    }
    if (!count && t->count) {
        return NULL;
    }
    char *data = kd_alloc_array(cx, (size_t)count + 1, size);
    for (int64_t k = 0; k < count; k++) {
        int64_t from = 0;
        for (int d = 0; d < t->rank; d++) {
            from = from * t->dim[d] + index[d][at[d]];
        }
        memcpy(data + (size_t)k * size, (const char *)t->data + (size_t)from * size, size);
        for (int d = t->rank; d-- > 0 && ++at[d] == dim[d];) {
            at[d] = 0;
        }
    }
    KdTensorOut *x = KD_NEW(cx, KdTensorOut);
    *x = (KdTensorOut){t->name, stored[t->dtype], t->rank, dim, data};
    return x;
}

static const char *target_line(const KdcPrune *m) {
    KdStr s = {.cx = m->p->cx};
    kd_str_printf(&s, "by %s, ", kdc_prune_by_name(m->by));
    if (!m->target) {
        kd_str_printf(&s, "widths as given (--to)");
        return s.s;
    }
    kd_str_printf(&s, m->by == KDC_BY_NORM ? "the weakest %.4g of each layer's channels; " : "scores up to %.6g gone; ",
                  m->threshold);
    kd_str_printf(&s, "target %s, ", m->target);
    kd_str_printf(&s, "%s %s, %.2f %% below", m->a->latency ? "measured" : "got", kdc_prune_amount(m, m->got), 100 * (m->aim - m->got) / m->aim);
    return s.s;
}

const char *kdc_prune_inputs(const KdcPrune *m) {
    KdStr s = {.cx = m->p->cx};
    for (int i = 0; i < m->f->inputs.n; i++) {
        if (!m->tensor[i]) {
            kd_str_printf(&s, "%s%s", s.n ? ", " : "", kd_shape_text(m->p->cx, kd_vtype(m->f, m->f->inputs.v[i])));
        }
    }
    return s.n ? s.s : "none";
}

/* The lines of counts before and after, each behind `begin`. */
static void add_counts(KdStr *s, const KdcPrune *m, const char *begin) {
    static const char *const names[] = {"MACs, noT", "MACs, Tin", "MACs, Tout"};
    KdContext *cx = m->p->cx;
    const KdMacs *x = &m->before.macs, *y = &m->after.macs;
    double was[] = {x->no_t, x->t_in, x->t_out}, is[] = {y->no_t, y->t_in, y->t_out};
    kd_str_printf(s, "%s%-12s %18s\n", begin, "input", kdc_prune_inputs(m));
    kd_str_printf(s, "%s%-12s %18s -> %s\n", begin, "parameters", kdc_prune_grouped(cx, m->before.parameters),
                  kdc_prune_grouped(cx, m->after.parameters));
    for (int i = 0; i < 3; i++) {
        kd_str_printf(s, "%s%-12s %18s -> %s\n", begin, names[i], kdc_prune_grouped(cx, (int64_t)was[i]),
                      kdc_prune_grouped(cx, (int64_t)is[i]));
    }
    if (m->before.seconds > 0) {
        kd_str_printf(s, "%s%-12s %15.3f ms -> %.3f ms, %d threads\n", begin, "latency", 1e3 * m->before.seconds,
                      1e3 * m->after.seconds, kdc_threads(m->p));
    }
}

static bool write_network(KdcPrune *m) {
    KdStr s = {.cx = m->p->cx};
    kd_str_printf(&s, "# %s of %s%s\n# %s.\n#\n", m->a->name, m->a->file, written, target_line(m));
    add_counts(&s, m, "#   ");
    kd_str_printf(&s, "#\n# Its weights: %s\n%s", strrchr(m->values, '/') ? strrchr(m->values, '/') + 1 : m->values,
                  kdc_prune_text(m, m->value));
    return kdc_cli_write(m->p, m->file, s.s, s.n);
}

static bool write_weights(KdcPrune *m) {
    bool **keep = kdc_prune_keep(m, &m->after);
    KdTensorOut *out = KD_NEW_ARRAY(m->p->cx, KdTensorOut, m->f->inputs.n + 1);
    KdTrouble t;
    int n = 0;
    for (int i = 0; i < m->f->inputs.n; i++) {
        KdTensorOut *x = m->tensor[i] ? cut(m, keep, i) : NULL;
        if (x) {
            out[n++] = *x;
        }
    }
    return kd_weights_write(m->values, out, n, NULL, 0, &t) || kdc_cli_trouble(m->p, &t);
}

/* ---- the table ---------------------------------------------------------------------------------------------- */

/* "cat.kd:29", or "" */
static const char *place_of(const KdcPrune *m, KdLoc loc) {
    const KdPlace *p = kd_place(m->p->cx, loc);
    return p ? kd_format(m->p->cx, ", %s:%d", p->file, p->line) : "";
}

static void print_group(const KdcPrune *m, int i, int width) {
    const KdChannelGroup *g = &m->c->groups.v[i];
    const KdcGene *gene = m->gene && m->gene[i] >= 0 ? &m->genes.v[m->gene[i]] : NULL;
    const char *why = g->why                                 ? g->why
                      : !m->target || (gene && gene->chosen) ? NULL
                      : gene                                 ? "it has no scores"
                                                             : "no hyper-parameter says its width alone";
    printf("%-*s  %5d -> %-5d  %s%s%s\n", width, g->name, g->n, m->after.count[i], gene ? gene->label : "",
           why ? gene ? ": stays, " : "stays: " : "", why ? why : "");
    if (why && m->a->verbose) {
        printf("%-*s    %s\n", width, "", place_of(m, g->where) + (*place_of(m, g->where) ? 2 : 0));
    }
}

static void print_table(const KdcPrune *m) {
    KdStr s = {.cx = m->p->cx};
    int width = 5;
    for (int i = 0; i < m->c->groups.n; i++) {
        int n = (int)strlen(m->c->groups.v[i].name);
        width = n > width ? n : width;
    }
    printf("%-*s  %14s\n", width, "layer", "channels");
    for (int i = 0; i < m->c->groups.n; i++) {
        print_group(m, i, width);
    }
    printf("\n%s: %s\n", m->a->name, target_line(m));
    add_counts(&s, m, "  ");
    printf("%s", s.s);
    if (m->note) {
        printf("  %s\n", m->note);
    }
    if (m->target && m->got < 0.99 * m->aim) {
        fprintf(stderr, "kdc: warning: %.1f %% below the target: channels with equal scores go together, and widths "
                        "change in steps\n", 100 * (m->aim - m->got) / m->aim);
    }
}

/* What kdc prune wrote may be written anew, a file of one's own not. */
static bool may_write(const KdcPrune *m) {
    KdTrouble t;
    size_t n = 0;
    const char *hit = access(m->file, F_OK) == 0 ? m->file : access(m->values, F_OK) == 0 ? m->values : NULL;
    if (!hit || m->a->dry_run) {
        return true;
    }
    char *text = hit == m->file ? kd_file_read(m->file, &n, &t) : NULL;
    size_t line = text ? strcspn(text, "\n") : 0;
    bool ours = line < n && text[0] == '#' && memmem(text, line, written, strlen(written));
    free(text);
    if (!ours) {
        kd_error(m->p->cx, 0, "%s is there already, and not from kdc prune", hit);
        kd_hint(m->p->cx, "write to another place than -o %s, or move it away", m->file);
    }
    return ours;
}

/* ---- the verb ------------------------------------------------------------------------------------------------- */

static bool work(KdcPrune *m) {
    if (!analyse(m) || !kdc_prune_place(m) || !kdc_prune_check_late(m) ||
        !kdc_cli_spares(m->p, m->a, m->file, m->a->weights, m->a->n_weights) ||
        !kdc_cli_spares(m->p, m->a, m->values, m->a->weights, m->a->n_weights) || !may_write(m) || !load(m) ||
        !kdc_prune_score(m)) {
        return false;
    }
    bool given = m->a->n_tos > 0;
    if (given ? !set_given(m) : !kdc_prune_genes(m) || !kdc_prune_choose(m)) {
        return false;
    }
    if (m->a->recipe && !kdc_prune_use_recipe(m)) {
        return false;
    }
    if (!m->recipe) {
        kdc_prune_shorten(m, m->value);
    }
    if (!m->a->dry_run && (!write_weights(m) || !write_network(m) || !kdc_prune_verify(m, &m->after))) {
        return false;
    }
    if (!m->a->quiet) {
        print_table(m);
        printf(m->a->dry_run ? "  nothing written (--dry-run)\n" : "  written to %s and %s\n", m->file, m->values);
    }
    return true;
}

static int check_usage(const KdcArgs *a, KdcPruneBy *by) {
    int targets = (a->macs > 0) + (a->parameters > 0) + (a->latency > 0);
    if (!a->name) {
        return kdc_usage_error(a, "which network of %s? name it: %s:NET", a->file, a->file);
    }
    if (a->by && !kdc_prune_known_by(a->by, by)) {
        return kdc_usage_error(a, "--by needs scale, l1 or norm, got '%s'", a->by);
    }
    if (targets + (a->n_tos > 0) != 1) {
        return kdc_usage_error(a, targets || a->n_tos
                                      ? "one of --macs, --params, --latency and --to, not several"
                                      : "how small? --macs N, --params N, --latency MS, or --to NAME=VALUE");
    }
    if (a->convention && strcmp(a->convention, "noT") != 0 && strcmp(a->convention, "Tin") != 0 &&
        strcmp(a->convention, "Tout") != 0) {
        return kdc_usage_error(a, "--convention needs noT, Tin or Tout, got '%s'", a->convention);
    }
    if (a->convention && !(a->macs > 0)) {
        return kdc_usage_error(a, "--convention is for --macs");
    }
    if (!a->n_weights) {
        return kdc_usage_error(a, "which weights? --weights W: random ones say nothing about channels");
    }
    if (!a->output && !a->dry_run) {
        return kdc_usage_error(a, "where to? -o STUDENT.kd (or --dry-run)");
    }
    return a->output && !kdc_cli_ends_in(a->output, ".kd")
               ? kdc_usage_error(a, "-o needs a name that ends in .kd, got '%s'", a->output)
               : 0;
}

/* With --recipe, -D of which the network's file has no param is for the recipe: b gets the others, late those. Both of a
 * length of n_defines. What does not load is left to the verb to say. */
static int split_defines(const KdcArgs *a, KdcArgs *b, const char **own, const char **late) {
    KdcOptions o = kdc_cli_options(a);
    int n = 0;
    o.defines = NULL;
    o.n_defines = 0;
    KdcProgram *p = strcmp(a->file, "-") != 0 ? kdc_open(a->file, NULL, 0, &o) : NULL;
    if (p && kdc_status(p) == KDC_OK) {
        b->defines = own;
        b->n_defines = 0;
        for (int i = 0; i < a->n_defines; i++) {
            const KdDecl *d = kdc_cli_find(p, kd_intern(p->cx, a->defines[i], strcspn(a->defines[i], "=")));
            if (d && (d->kind == KD_DECL_PARAM || d->kind == KD_DECL_CHOICE)) {
                own[b->n_defines++] = a->defines[i];
            } else {
                late[n++] = a->defines[i];
            }
        }
    }
    kdc_close(p);
    return n;
}

static int prune(const KdcArgs *a, KdcPruneBy by, const char **late, int n_late) {
    KdcWatch w;
    int code;
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = a->name;
    const KdDecl *d = kdc_cli_find(p, a->name);
    const char *file = a->output ? a->output : "pruned.kd";
    KdcPrune m = {.a = a, .p = p, .by = by, .file = file, .late = late, .n_late = n_late, .name = d && d->kind == KD_DECL_INSTANCE ? d->name : "S"};
    m.values = kd_format(p->cx, "%.*s.safetensors", (int)strlen(file) - 3, file);
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(&m);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kdc_settle(p, 0);
    return kdc_cli_close(a, &w, p, ok);
}

int kdc_cmd_prune(const KdcArgs *a) {
    KdcPruneBy by = KDC_BY_NORM;
    KdcArgs b = *a;
    int code = check_usage(a, &by), n_late = 0;
    if (code || !a->recipe || !a->n_defines) {
        return code ? code : prune(a, by, NULL, 0);
    }
    const char **own = calloc((size_t)a->n_defines * 2, sizeof *own);
    if (!own) {
        fprintf(stderr, "kdc: error: out of memory\n");
        return 3;
    }
    n_late = split_defines(a, &b, own, own + a->n_defines);
    code = prune(&b, by, own + a->n_defines, n_late);
    free(own);
    return code;
}
