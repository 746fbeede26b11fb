/* tensors.c: see tensors.h. */
#include "frontend/cli/tensors.h"

#include "runtime/host/checkpoint.h"

#include "runtime/host/pth.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_name(const char *p, const char *end) {
    bool name = p < end && !isdigit((unsigned char)*p);
    for (; p < end; p++) {
        name = name && (isalnum((unsigned char)*p) || *p == '_');
    }
    return name;
}

/* FILE:FROM is the network FROM of FILE, unless there is a file of that whole name. */
static const char *take_from(KdcProgram *p, const char **file) {
    const char *colon = strrchr(*file, ':');
    if (!colon || !is_name(colon + 1, colon + strlen(colon)) || access(*file, F_OK) == 0) {
        return NULL;
    }
    *file = kd_intern(p->cx, *file, (size_t)(colon - *file));
    return kd_format(p->cx, "%s.", colon + 1);
}

/* Leaves those of network `from` ("G."), by their names in it; how many. */
static int keep_network(KdWeights *w, const char *from) {
    size_t n = strlen(from);
    int kept = 0;
    for (int i = 0; i < w->n; i++) {
        if (strncmp(w->tensor[i].name, from, n) == 0) {
            w->tensor[kept] = w->tensor[i];
            w->tensor[kept++].name += n;
        }
    }
    return w->n = kept;
}

/* Adds to "G, D" the network of the tensor of this name, once. */
static void list_network(KdStr *names, const char *tensor) {
    size_t n = strcspn(tensor, ".");
    bool optimiser = strncmp(tensor, "opt.", 4) == 0 || strncmp(tensor, "pool.", 5) == 0 || strncmp(tensor, "every.", 6) == 0;
    if (!tensor[n] || optimiser) {
        return;
    }
    for (const char *at = names->n ? names->s : ""; *at; at += strspn(at, ", ")) {
        size_t length = strcspn(at, ",");
        if (length == n && strncmp(at, tensor, n) == 0) {
            return;
        }
        at += length;
    }
    kd_str_printf(names, "%s%.*s", names->n ? ", " : "", (int)n, tensor);
}

/* The networks of a file, for a message. */
static void list_networks(const KdWeights *w, KdStr *names) {
    for (int i = 0; i < w->n; i++) {
        list_network(names, w->tensor[i].name);
    }
}

/* Of what was read from `file` only the files with something of `net` ("G.") are left; with alone, only those tensors, as from a
 * file of that network. An error when there is none: *names says which there are. */
static bool keep_files(KdcProgram *p, KdcFiles *f, int first, const char *file, const char *net, bool alone, KdStr *names) {
    int kept = first;
    for (int i = first; i < f->weights.n; i++) {
        KdcWeightsFile w = f->weights.v[i];
        list_networks(w.w, names);
        w.run = alone ? NULL : w.run; /* w.trained stays, for hints */
        if (alone ? keep_network(w.w, net) > 0 : kdc_weights_hold(w.w, net)) {
            f->weights.v[kept++] = w;
        } else {
            kd_weights_free(w.w);
        }
    }
    f->weights.n = kept;
    if (kept == first) {
        kd_error(p->cx, 0, "%s has no network %.*s; it has %s", file, (int)strlen(net) - 1, net, names->n ? names->s : "none");
    }
    return kept > first;
}

/* FILE:FROM: one network of what was read; the others are let go. */
static bool choose_network(KdcProgram *p, KdcFiles *f, int first, const char *file, const char *from) {
    return keep_files(p, f, first, file, from, true, &(KdStr){.cx = p->cx});
}

/* A run folder of kdc train: its newest good checkpoint, and its frozen networks. */
static bool read_run(KdcProgram *p, KdcFiles *f, KdcWeightsFile w) {
    const char *folder = w.file, *frozen = kd_format(p->cx, "%s/frozen.safetensors", folder);
    KdTrouble t = {0};
    char *path, note[512];
    int64_t step;
    w.run = w.trained = folder;
    w.w = kd_checkpoint_read(folder, &step, &path, note, sizeof note, &t);
    if (!w.w) {
        return *t.text ? kdc_cli_trouble(p, &t)
                       : (kd_trouble(&t, false, "%s is a folder without a checkpoint of kdc train", folder), kdc_cli_trouble(p, &t));
    }
    w.file = kd_intern_z(p->cx, path);
    free(path);
    if (*note) {
        kd_warning(p->cx, 0, "%s", note);
    }
    kd_push(p->cx, &f->weights, w);
    if (access(frozen, F_OK) == 0) {
        w.file = frozen;
        if (!(w.w = kd_weights_read(frozen, &t))) {
            return kdc_cli_trouble(p, &t);
        }
        kd_push(p->cx, &f->weights, w);
    }
    return true;
}

/* NET=RUN: where the run has nothing of NET, that would keep its random weights. */
static bool keep_holders(KdcProgram *p, KdcFiles *f, int first, const char *net, const char *folder) {
    KdStr names = {.cx = p->cx};
    int n = (int)strlen(net) - 1;
    bool ok = keep_files(p, f, first, folder, net, false, &names);
    if (!ok && names.n) {
        kd_hint(p->cx, "--weights %.*s=%s:%.*s", n, net, folder, (int)strcspn(names.s, ","), names.s);
    }
    return ok;
}

bool kdc_files_read(KdcProgram *p, const KdcArgs *a, KdcFiles *f) {
    KdTrouble t;
    *f = (KdcFiles){0};
    if (a->in && !(f->in = kd_weights_read(a->in, &t))) {
        return kdc_cli_trouble(p, &t);
    }
    for (int i = 0; i < a->n_weights; i++) {
        KdcWeightsFile w = {.net = "", .file = a->weights[i]};
        const char *equals = strchr(w.file, '=');
        if (equals && is_name(w.file, equals)) {
            w.net = kd_format(p->cx, "%.*s.", (int)(equals - w.file), w.file);
            w.file = equals + 1;
        }
        const char *from = take_from(p, &w.file);
        int first = f->weights.n;
        if (kdc_cli_is_folder(w.file)) {
            if (!read_run(p, f, w) || (*w.net && !from && !keep_holders(p, f, first, w.net, w.file))) {
                return false;
            }
        } else {
            if (!(w.w = kd_checkpoint_file_read(w.file, &t))) {
                return kdc_cli_trouble(p, &t);
            }
            kd_push(p->cx, &f->weights, w);
        }
        if (from && !choose_network(p, f, first, w.file, from)) {
            return false;
        }
    }
    return true;
}

void kdc_files_free(KdcFiles *f) {
    kd_weights_free(f->in);
    for (int i = 0; i < f->weights.n; i++) {
        kd_weights_free(f->weights.v[i].w);
    }
    *f = (KdcFiles){0};
}

static KdcDType dtype_of(KdStored s) {
    switch (s) {
    case KD_STORED_U8:
        return KDC_U8;
    case KD_STORED_I8:
    case KD_STORED_I16:
    case KD_STORED_U16:
    case KD_STORED_I32:
    case KD_STORED_U32:
    case KD_STORED_I64:
    case KD_STORED_U64:
        return KDC_I32;
    case KD_STORED_BOOL:
    case KD_STORED_F16:
    case KD_STORED_BF16:
    case KD_STORED_F32:
    case KD_STORED_F64:
        return KDC_F32;
    }
    return KDC_F32;
}

KdcShape *kdc_files_shapes(KdcProgram *p, const KdcFiles *f, int *n) {
    int count = f->in ? f->in->n : 0;
    KdcShape *s = KD_NEW_ARRAY(p->cx, KdcShape, count + 1);
    *n = 0;
    for (int i = 0; i < count; i++) {
        const KdTensor *x = &f->in->tensor[i];
        if (strpbrk(x->name, ".[") || x->rank > KD_MAX_RANK) { /* a weight, or nothing of ours */
            continue;
        }
        KdcShape *g = &s[(*n)++];
        *g = (KdcShape){.name = x->name, .dtype = dtype_of(x->dtype), .rank = x->rank};
        memcpy(g->dim, x->dim, sizeof *x->dim * (size_t)x->rank);
    }
    return s;
}

/* ---- weights ---------------------------------------------------------------------------------------- */

static void print_map(const KdcArgs *a, const KdcTensor *t, const char *file, const char *from,
                      const char *how) {
    if (a->verbose) {
        fprintf(stderr, "%s <- %s%s%s%s\n", t->name, file, *file ? ":" : "", from, how);
    }
}

/* What the tensors' network is called in a file: its own name, or that of the network that it was narrowed from. */
static const char *own_name(const KdcArgs *a, KdcTensor *const *t, int n) {
    return n && t[0]->part_of ? t[0]->part_of : a->name;
}

/* Loads what the file has for those tensors under `net` that are still missing; done[] says which. A file of weights of
 * which nothing is taken is a mistake (must); one of inputs need not hold any. */
static bool fill_from(KdcProgram *p, const KdcArgs *a, const KdWeights *w, const char *file, const char *net,
                      bool by_order, bool must, KdcTensor *const *t, int n, bool *done) {
    KdcTensor **missing = KD_NEW_ARRAY(p->cx, KdcTensor *, n + 1);
    int *place = KD_NEW_ARRAY(p->cx, int, n + 1);
    int count = 0, taken = 0, in_order = 0;
    for (int i = 0; i < n; i++) {
        if (!done[i] && strncmp(t[i]->name, net, strlen(net)) == 0) {
            place[count] = i;
            missing[count++] = t[i];
        }
    }
    KdcMatch m;
    const char *name = *net ? kd_intern(p->cx, net, strlen(net) - 1) : a->name;
    if (!kdc_match(p, name, missing, count, w, file, by_order, &m)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (!m.from[i]) {
            continue;
        }
        if (!kdc_load_tensor(p, missing[i], m.from[i], file)) {
            return false;
        }
        done[place[i]] = true;
        taken++;
        in_order += m.kind[i] == KDC_MATCH_ORDER;
        print_map(a, missing[i], file, m.from[i]->name,
                  m.kind[i] == KDC_MATCH_ORDER        ? " (by order and shape)"
                  : m.kind[i] == KDC_MATCH_CONVENTION ? " (by convention)"
                                                      : "");
    }
    if (must && count && !taken) {
        kd_error(p->cx, 0, "%s: none of its %d tensors is a weight that is still missing; its first is '%s'", file, w->n,
                 w->n ? w->tensor[0].name : "");
        kd_hint(p->cx, "--weights NET=FILE says whose they are: T=%s for a network T", file);
        return false;
    }
    if (in_order && !a->quiet) {
        fprintf(stderr, "%s: %d weights matched by order and shape (-v lists them)\n", file, in_order);
    }
    if (a->verbose && m.unused) {
        fprintf(stderr, "%s: %d tensors are no weights of this\n", file, m.unused);
    }
    return true;
}

bool kdc_weights_hold(const KdWeights *w, const char *net) {
    for (int i = 0; i < w->n; i++) {
        if (strncmp(w->tensor[i].name, net, strlen(net)) == 0) {
            return true;
        }
    }
    return false;
}

/* "trained with -D size=64 -D width=8", from the run's kdc.json. */
static void hint_defines(KdcProgram *p, const char *run) {
    size_t n;
    KdTrouble ignored;
    KdStr s = {.cx = p->cx};
    char *text = kd_file_read(kd_format(p->cx, "%s/kdc.json", run), &n, &ignored);
    json_t *root = text ? json_loadb(text, n, 0, NULL) : NULL;
    const json_t *list = json_object_get(json_object_get(root, "arguments"), "defines");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *define = json_string_value(json_array_get(list, i));
        kd_str_printf(&s, " -D %s", define ? define : "");
    }
    if (s.s) {
        kd_warning(p->cx, 0, "%s was trained with%s", run, s.s);
    }
    json_decref(root);
    free(text);
}

/* Of a run folder only what its networks are called is looked at: its optimiser's moments belong to its own session, and
 * other networks' weights to nobody here. */
static bool fill_from_run(KdcProgram *p, const KdcArgs *a, const KdcWeightsFile *w, const char *net, bool whole_net,
                          KdcTensor *const *t, int n, bool *done) {
    KdcTensor **kept = KD_NEW_ARRAY(p->cx, KdcTensor *, n + 1);
    int *place = KD_NEW_ARRAY(p->cx, int, n + 1);
    bool *filled = KD_NEW_ARRAY(p->cx, bool, n + 1);
    int count = 0;
    if (whole_net && !*net && !kdc_weights_hold(w->w, kd_format(p->cx, "%s.", own_name(a, t, n)))) {
        return true;
    }
    for (int i = 0; i < n; i++) {
        if (!done[i] && t[i]->role != KDC_STATE) {
            place[count] = i;
            kept[count++] = t[i];
        }
    }
    bool ok = fill_from(p, a, w->w, w->file, net, false, false, kept, count, filled);
    for (int i = 0; i < count; i++) {
        done[place[i]] = filled[i];
    }
    return ok;
}

/* A network that is taken from a run folder is there whole, or it is another network. */
static bool whole_from_run(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, KdcTensor *const *t, int n, const bool *done) {
    const char *run = NULL;
    for (int i = 0; i < f->weights.n; i++) {
        run = f->weights.v[i].run ? f->weights.v[i].run : run;
    }
    for (int i = 0; run && i < n; i++) {
        if (!done[i]) {
            kd_error(p->cx, 0, "%s has no tensor for weight %s %s of %s", run, t[i]->name, kdc_tensor_shape(p->cx, t[i]), a->name);
            kd_hint(p->cx, "a run folder gives its networks by the names they have in its program");
            hint_defines(p, run);
            return false;
        }
    }
    return true;
}

/* NET=FILE is for a network that is here. */
static bool known_network(KdcProgram *p, const KdcArgs *a, const KdcWeightsFile *w, bool whole_net, KdcTensor *const *t, int n) {
    KdStr names = {.cx = p->cx};
    size_t length = strlen(w->net);
    for (int i = 0; i < n; i++) {
        if (strncmp(t[i]->name, w->net, length) == 0) {
            return true;
        }
        list_network(&names, t[i]->name);
    }
    if (whole_net) { /* the names are those within the network */
        names = (KdStr){.cx = p->cx};
        kd_str_printf(&names, "the weights of %s alone", a->name);
    }
    kd_error(p->cx, 0, "--weights %.*s=%s: no network here is called %.*s; here are %s", (int)length - 1, w->net, w->file,
             (int)length - 1, w->net, names.n ? names.s : "none");
    return false;
}

/* What --in and --weights give, to those of t[] that have a place for it; done[] says which. */
static bool take_given(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, bool whole_net, KdcTensor *const *t, int n, bool *done) {
    if (f->in && !fill_from(p, a, f->in, a->in, "", false, false, t, n, done)) {
        return false;
    }
    for (int i = 0; i < f->weights.n; i++) {
        const KdcWeightsFile *w = &f->weights.v[i];
        bool own = whole_net && *w->net && /* S=FILE for S itself */
                   (strcmp(w->net, kd_format(p->cx, "%s.", a->name)) == 0 ||
                    strcmp(w->net, kd_format(p->cx, "%s.", own_name(a, t, n))) == 0);
        const char *net = own ? "" : w->net;
        if (*net && !known_network(p, a, w, whole_net, t, n)) {
            return false;
        }
        int errors = kd_error_count(p->cx);
        bool ok = w->run ? fill_from_run(p, a, w, net, whole_net, t, n, done)
                         : fill_from(p, a, w->w, w->file, net, whole_net || *net, true, t, n, done);
        if (!ok) {
            if (w->trained && kd_error_count(p->cx) > errors) {
                hint_defines(p, w->trained);
            }
            return false;
        }
    }
    return true;
}

/* Is what is called `name` at the top of the file an instance that is not frozen itself? Its frozen tensors belong to
 * parts inside it then, which whoever wrote the network wanted as their init makes them. */
static bool frozen_inside(const KdcProgram *p, const char *name, size_t length) {
    int n = 0;
    const KdDecl *d = p->lang ? kd_lang_decls(p->lang, &n) : NULL, *found = NULL;
    for (int i = 0; i < n; i++) {
        bool same = strncmp(d[i].name, name, length) == 0 && !d[i].name[length];
        found = same && (!found || d[i].main) ? &d[i] : found; /* the file's own goes before an import's */
    }
    return found && found->kind == KD_DECL_INSTANCE && !found->frozen;
}

/* Frozen networks that stay random: nothing will ever train them. Training from no teacher at all is said even with -q. */
static void warn_of_frozen(const KdcProgram *p, const KdcArgs *a, KdcTensor *const *t, int n, const bool *done) {
    for (int i = 0; i < n; i++) {
        const char *name = t[i]->name;
        size_t dot = strcspn(name, ".");
        int all = 0, missing = 0;
        bool again = t[i]->role != KDC_FROZEN;
        for (int k = 0; k < n && !again; k++) {
            if (t[k]->role == KDC_FROZEN && strncmp(t[k]->name, name, dot + 1) == 0) {
                again = k < i;
                all++;
                missing += !done[k];
            }
        }
        int given = all - missing, length = (int)dot;
        if (again || !missing) {
            continue;
        }
        if (frozen_inside(p, name, strcspn(name, ".["))) {
            if (a->verbose) {
                fprintf(stderr, "%.*s: %d tensors of frozen networks inside it have their initial values\n", length, name, missing);
            }
        } else if (given && !a->quiet) {
            fprintf(stderr, "kdc: warning: %.*s is frozen, and weights were given for %d of its %d tensors: the others are random "
                            "(--weights %.*s=FILE)\n", length, name, given, all, length, name);
        } else if (!given && (!a->quiet || a->verb == KDC_VERB_TRAIN)) {
            fprintf(stderr, "kdc: warning: %.*s is frozen, and no weights were given for it: all %d tensors are random "
                            "(--weights %.*s=FILE)\n", length, name, all, length, name);
        }
    }
}

bool kdc_fill_weights(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, bool whole_net, KdcTensor *const *t, int n) {
    KdcTensor **kept = KD_NEW_ARRAY(p->cx, KdcTensor *, n + 1);
    bool *done = KD_NEW_ARRAY(p->cx, bool, n + 1);
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (t[i]->role != KDC_DATA) {
            kept[count++] = t[i];
        }
    }
    if (!take_given(p, a, f, whole_net, kept, count, done)) {
        return false;
    }
    if (whole_net && !whole_from_run(p, a, f, kept, count, done)) {
        return false;
    }
    if (!whole_net) {
        warn_of_frozen(p, a, kept, count, done);
    }
    const KdcTensor *first = NULL;
    int missing = 0;
    for (int i = 0; i < count; i++) {
        if (!done[i]) {
            /* nobody wants to ship random weights, or to choose channels or configurations by them */
            if (a->verb == KDC_VERB_EXPORT || a->verb == KDC_VERB_PRUNE || a->verb == KDC_VERB_SEARCH) {
                first = missing++ ? first : kept[i];
                continue;
            }
            if (!kdc_init_tensor(p->cx, kept[i], a->seed)) {
                return false;
            }
            print_map(a, kept[i], "", *kept[i]->init ? kept[i]->init : "zeros", "");
        }
    }
    if (missing) {
        kd_error(p->cx, 0, "%s: no weights are given for %d of its %d tensors; the first is '%s' %s", a->name, missing, count,
                 first->name, kdc_tensor_shape(p->cx, first));
        kd_hint(p->cx, "%s", a->weights_by ? a->weights_by : "--weights FILE");
    }
    return !missing;
}

/* ---- results ---------------------------------------------------------------------------------------- */

void kdc_results_add(KdcResults *r, const char *name, KdcDType d, int rank, const int64_t *dim,
                     const void *data) {
    static const KdStored stored[] = {
        [KDC_F32] = KD_STORED_F32, [KDC_I32] = KD_STORED_I32, [KDC_U8] = KD_STORED_U8};
    kd_push(r->p->cx, &r->v, (KdTensorOut){name, stored[d], rank, dim, data});
}

static double element(const KdTensorOut *x, int64_t i) {
    return x->dtype == KD_STORED_F32   ? (double)((const float *)x->data)[i]
           : x->dtype == KD_STORED_I32 ? (double)((const int32_t *)x->data)[i]
                                       : (double)((const uint8_t *)x->data)[i];
}

/* "out [1, 3, 8, 8]: mean 0.1, from -1 to 1", of those that are no NaN; a scalar is its value */
static void print_result(const KdTensorOut *x) {
    int64_t count = 1, nan = 0;
    double sum = 0, lo = INFINITY, hi = -INFINITY;
    printf("%s [", x->name);
    for (int d = 0; d < x->rank; d++) {
        printf("%s%" PRId64, d ? ", " : "", x->dim[d]);
        count *= x->dim[d];
    }
    for (int64_t i = 0; i < count; i++) {
        double v = element(x, i);
        if (isnan(v)) {
            nan++;
            continue;
        }
        sum += v;
        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
    }
    if (count == 0) {
        printf("]: empty\n");
    } else if (nan == count) {
        printf("]: %" PRId64 " NaN\n", nan);
    } else if (count == 1) {
        printf("]: %.9g\n", sum);
    } else {
        printf("]: mean %.9g, from %.9g to %.9g", sum / (double)(count - nan), lo, hi);
        if (nan) {
            printf(", %" PRId64 " NaN", nan);
        }
        printf("\n");
    }
}

bool kdc_results_write(KdcResults *r, const KdcArgs *a) {
    KdTrouble t;
    if (a->out) {
        return kd_weights_write(a->out, r->v.v, r->v.n, NULL, 0, &t) || kdc_cli_trouble(r->p, &t);
    }
    for (int i = 0; i < r->v.n; i++) {
        print_result(&r->v.v[i]);
    }
    return true;
}
