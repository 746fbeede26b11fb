/* match.c: which tensor of a file is which weight.
 *
 * By name first: the same name; or the same after writing a[0].b as a.0.b; or the same once a prefix that all the
 * file's names share ("module.", "netG.") or that all of ours share ("S.") is left out; or, when the network
 * `net` is meant, with its name before ours, so that S finds its weights in what a session wrote.
 *
 * What is left is matched module by module, where the caller allows it. A module is all tensors whose names differ in
 * the last part only (weight, bias, running_mean, running_var); ours come in the order of creation, which is that of
 * execution. "By convention": if the file's modules are numbered as nn.Sequential numbers them (every step of a path
 * has numbered children only, or one child), the order of the numbers is the order of execution. So the k-th is our
 * k-th, whatever layers without tensors (padding, dropout, activations) did to the numbers: that covers CycleGAN's
 * ResNet, the U-Net, whose nested levels come down from the outside in and up from the inside out, and PatchGAN. "By
 * order": the file's order instead. Either holds only if all modules agree in the names of their parts and their
 * shapes. Statistics that no module of ours can take (of an instance norm) are passed over. If all of the file does
 * not fit, what lies under one first part of its names ("G_A.") may, if only one does.
 *
 * Else single weights and file tensors left over are matched by order and shape: in the file's order where
 * the two sequences of shapes are equal; else, for each shape, if there are as many weights as tensors of it. Anything
 * else is an error that names what is missing: a wrong map must never pass silently.
 */
#include "frontend/api/api.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* "down[0].conv" -> "down.0.conv" */
static const char *plain_name(KdContext *cx, const char *name) {
    KdStr s = {.cx = cx};
    for (const char *p = name; *p; p++) {
        if (*p == '[') {
            kd_str_add(&s, ".", 1);
        } else if (*p != ']') {
            kd_str_add(&s, p, 1);
        }
    }
    return kd_intern(cx, s.s ? s.s : "", s.n);
}

/* Length of the first component with its dot, if all n names begin with it; else 0. */
static size_t common_prefix(const char *const *name, int n) {
    const char *dot = n ? strchr(name[0], '.') : NULL;
    size_t length = dot ? (size_t)(dot - name[0]) + 1 : 0;
    for (int i = 1; i < n && length; i++) {
        if (strncmp(name[i], name[0], length) != 0) {
            length = 0;
        }
    }
    return length;
}

typedef struct Names {
    KdMap map; /* interned plain name -> file tensor */
    const char **name;
    size_t prefix;
} Names;

static Names file_names(KdContext *cx, const KdWeights *w) {
    Names f = {.map = {.cx = cx}, .name = KD_NEW_ARRAY(cx, const char *, w->n + 1)};
    for (int i = 0; i < w->n; i++) {
        f.name[i] = plain_name(cx, w->tensor[i].name);
    }
    f.prefix = common_prefix(f.name, w->n);
    for (int i = 0; i < w->n; i++) { /* full names win over shortened ones */
        kd_map_put(&f.map, (uint64_t)(uintptr_t)kd_intern_z(cx, f.name[i] + f.prefix), (uint64_t)i);
    }
    for (int i = 0; i < w->n; i++) {
        kd_map_put(&f.map, (uint64_t)(uintptr_t)f.name[i], (uint64_t)i);
    }
    return f;
}

static void match_names(KdContext *cx, const char *net, KdcTensor *const *t, int n, const KdWeights *w,
                        KdcMatch *m, bool *used) {
    Names f = file_names(cx, w);
    const char **ours = KD_NEW_ARRAY(cx, const char *, n + 1);
    for (int i = 0; i < n; i++) {
        ours[i] = plain_name(cx, t[i]->name);
    }
    size_t prefix = common_prefix(ours, n);
    for (int pass = 0; pass < (net ? 3 : 2); pass++) {
        for (int i = 0; i < n; i++) {
            uint64_t k;
            const char *name = pass == 0   ? ours[i]
                               : pass == 1 ? kd_intern_z(cx, ours[i] + prefix)
                                           : kd_intern_z(cx, kd_format(cx, "%s.%s", net, ours[i]));
            if (isdigit((unsigned char)*name)) { /* conv[2] of ours is no "2" of an nn.Sequential */
                continue;
            }
            if (!m->from[i] && kd_map_get(&f.map, (uint64_t)(uintptr_t)name, &k) && !used[k]) {
                m->from[i] = &w->tensor[k];
                m->kind[i] = KDC_MATCH_NAME;
                used[k] = true;
            }
        }
    }
}

/* ---- shapes ----------------------------------------------------------------------------------------- */

static const char *file_shape(KdContext *cx, const KdTensor *x) {
    KdStr s = {.cx = cx};
    kd_str_add(&s, "[", 1);
    for (int d = 0; d < x->rank; d++) {
        kd_str_printf(&s, "%s%" PRId64, d ? ", " : "", x->dim[d]);
    }
    kd_str_add(&s, "]", 1);
    return s.s;
}

static void wrong_shape(KdContext *cx, const KdcTensor *t, const KdTensor *x, const char *file) {
    kd_error(cx, 0, "%s: %s should be %s, the file has %s", file, t->name, kdc_tensor_shape(cx, t),
             file_shape(cx, x));
}

static bool same_shape(const KdcTensor *t, const KdTensor *x) {
    bool same = t->rank == x->rank;
    for (int d = 0; same && d < t->rank; d++) {
        same = t->dim[d] == x->dim[d];
    }
    return same;
}

/* That, or t is a narrowed network's and x is larger: its leading part will do. */
static bool fits(const KdcTensor *t, const KdTensor *x) {
    bool fit = t->rank == x->rank;
    for (int d = 0; fit && d < t->rank; d++) {
        fit = t->dim[d] == x->dim[d] || (t->part_of && t->dim[d] < x->dim[d]);
    }
    return fit;
}

static bool trained(const KdcTensor *t) {
    return t->role == KDC_WEIGHT || t->role == KDC_FROZEN;
}

/* ---- modules ---------------------------------------------------------------------------------------- */

#define MAX_PARTS 8 /* tensors of one module */

typedef struct Part {
    const char *leaf; /* "weight" */
    int tensor;
} Part;

typedef struct Module {
    const char *path; /* interned; "" at the top */
    int n;
    Part part[MAX_PARTS];
} Module;

typedef KD_VEC(Module) Modules;

static const char *leaf_of(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

static bool is_counter(const char *leaf) {
    return strcmp(leaf, "num_batches_tracked") == 0;
}

static bool is_statistic(const char *leaf) {
    return strcmp(leaf, "running_mean") == 0 || strcmp(leaf, "running_var") == 0;
}

/* Adds tensor number i under its module, in order of first appearance. false: more parts than modules have. */
static bool add_part(KdContext *cx, Modules *v, KdMap *map, const char *name, int i) {
    const char *leaf = leaf_of(name), *path = kd_intern(cx, name, leaf > name ? (size_t)(leaf - name) - 1 : 0);
    uint64_t k;
    if (!kd_map_get(map, (uint64_t)(uintptr_t)path, &k)) {
        Module new = {.path = path};
        k = (uint64_t)v->n;
        kd_push(cx, v, new);
        kd_map_put(map, (uint64_t)(uintptr_t)path, k);
    }
    Module *m = &v->v[k];
    if (m->n == MAX_PARTS) {
        return false;
    }
    m->part[m->n++] = (Part){leaf, i};
    return true;
}

static bool our_modules(KdContext *cx, KdcTensor *const *t, int n, const KdcMatch *m, Modules *v) {
    KdMap map = {.cx = cx};
    bool ok = true;
    for (int i = 0; i < n; i++) {
        if (!m->from[i]) {
            ok = ok && (trained(t[i]) || t[i]->role == KDC_BUFFER) && add_part(cx, v, &map, plain_name(cx, t[i]->name), i);
        }
    }
    return ok;
}

/* Those whose names begin with `under`. */
static bool file_modules(KdContext *cx, const KdWeights *w, const bool *used, const char *under, Modules *v) {
    KdMap map = {.cx = cx};
    bool ok = true;
    for (int k = 0; k < w->n; k++) {
        const char *name = w->tensor[k].name;
        if (!used[k] && !is_counter(leaf_of(name)) && strncmp(name, under, strlen(under)) == 0) {
            ok = ok && add_part(cx, v, &map, name, k);
        }
    }
    return ok;
}

static bool numbered(const char *part, size_t n) {
    bool digits = n > 0 && n < 10;
    for (size_t i = 0; i < n; i++) {
        digits = digits && isdigit((unsigned char)part[i]);
    }
    return digits;
}

/* Where two paths part: their first different components; length 0 where one ends. */
static void where_different(const char **a, size_t *na, const char **b, size_t *nb) {
    for (;;) {
        *na = strcspn(*a, ".");
        *nb = strcspn(*b, ".");
        if (*na != *nb || memcmp(*a, *b, *na) != 0 || !*na) {
            return;
        }
        *a += *na + ((*a)[*na] == '.');
        *b += *nb + ((*b)[*nb] == '.');
    }
}

static int by_number(const void *x, const void *y) {
    const char *a = ((const Module *)x)->path, *b = ((const Module *)y)->path;
    size_t na, nb;
    where_different(&a, &na, &b, &nb);
    if (numbered(a, na) != numbered(b, nb)) {
        return numbered(a, na) ? -1 : 1;
    }
    return numbered(a, na) ? (atoi(a) > atoi(b)) - (atoi(a) < atoi(b)) : strcmp(a, b);
}

/* Sorts modules that are numbered throughout; false, and nothing is sorted, when they are not. */
static bool sort_sequential(KdContext *cx, Modules *v) {
    Modules sorted = *v;
    sorted.v = KD_NEW_ARRAY(cx, Module, v->n + 1);
    memcpy(sorted.v, v->v, sizeof *v->v * (size_t)v->n);
    qsort(sorted.v, (size_t)sorted.n, sizeof *sorted.v, by_number);
    bool any = false;
    for (int i = 0; i + 1 < v->n; i++) {
        const char *a = sorted.v[i].path, *b = sorted.v[i + 1].path;
        size_t na, nb;
        where_different(&a, &na, &b, &nb);
        if (!numbered(a, na) || !numbered(b, nb)) {
            return false;
        }
        any = true;
    }
    *v = sorted;
    return any;
}

static const Part *part_of(const Module *m, const char *leaf) {
    for (int i = 0; i < m->n; i++) {
        if (strcmp(m->part[i].leaf, leaf) == 0) {
            return &m->part[i];
        }
    }
    return NULL;
}

static bool module_fits(const Module *our, const Module *their, KdcTensor *const *t, const KdWeights *w) {
    for (int i = 0; i < our->n; i++) {
        const Part *p = part_of(their, our->part[i].leaf);
        if (!p || !same_shape(t[our->part[i].tensor], &w->tensor[p->tensor])) {
            return false;
        }
    }
    for (int i = 0; i < their->n; i++) {
        if (!part_of(our, their->part[i].leaf) && !is_statistic(their->part[i].leaf)) {
            return false;
        }
    }
    return true;
}

static bool only_statistics(const Module *m) {
    bool only = true;
    for (int i = 0; i < m->n; i++) {
        only = only && is_statistic(m->part[i].leaf);
    }
    return only;
}

/* pair[k]: which of theirs our k-th module is. false: not all of both fit. */
static bool modules_fit(const Modules *ours, const Modules *theirs, KdcTensor *const *t, const KdWeights *w, int *pair) {
    int k = 0;
    for (int i = 0; i < theirs->n; i++) {
        const Module *their = &theirs->v[i];
        if (k < ours->n && module_fits(&ours->v[k], their, t, w)) {
            pair[k++] = i;
        } else if (!only_statistics(their)) {
            return false;
        }
    }
    return k == ours->n;
}

static void take_modules(const Modules *ours, const Modules *theirs, const KdWeights *w, const int *pair, KdcMatchKind kind,
                         KdcMatch *m, bool *used) {
    for (int k = 0; k < ours->n; k++) {
        for (int i = 0; i < ours->v[k].n; i++) {
            const Part *our = &ours->v[k].part[i], *their = part_of(&theirs->v[pair[k]], our->leaf);
            m->from[our->tensor] = &w->tensor[their->tensor];
            m->kind[our->tensor] = kind;
            used[their->tensor] = true;
        }
    }
}

/* Tries those tensors of the file whose names begin with `under`. */
static bool try_under(KdContext *cx, const Modules *ours, const char *under, KdcTensor *const *t, const KdWeights *w,
                      const bool *used, Modules *theirs, int *pair, KdcMatchKind *kind) {
    *theirs = (Modules){0};
    if (!file_modules(cx, w, used, under, theirs) || !theirs->n) {
        return false;
    }
    *kind = sort_sequential(cx, theirs) ? KDC_MATCH_CONVENTION : KDC_MATCH_ORDER;
    return modules_fit(ours, theirs, t, w, pair);
}

/* false after a diagnostic: two parts of the file fit. Where nothing fits, nothing is matched. */
static bool match_modules(KdContext *cx, const char *net, KdcTensor *const *t, int n, const KdWeights *w, const char *file,
                          KdcMatch *m, bool *used) {
    Modules ours = {0}, theirs, found;
    KdcMatchKind kind, found_kind = KDC_MATCH_NONE;
    if (!our_modules(cx, t, n, m, &ours) || !ours.n) {
        return true;
    }
    int *pair = KD_NEW_ARRAY(cx, int, ours.n), *found_pair = KD_NEW_ARRAY(cx, int, ours.n);
    if (try_under(cx, &ours, "", t, w, used, &theirs, pair, &kind)) {
        take_modules(&ours, &theirs, w, pair, kind, m, used);
        return true;
    }
    const char *found_under = NULL;
    KdMap seen = {.cx = cx};
    for (int k = 0; k < w->n; k++) {
        const char *name = w->tensor[k].name, *dot = strchr(name, '.');
        uint64_t before;
        const char *under = kd_intern(cx, name, dot ? (size_t)(dot - name) + 1 : 0);
        if (!*under || used[k] || kd_map_get(&seen, (uint64_t)(uintptr_t)under, &before)) {
            continue;
        }
        kd_map_put(&seen, (uint64_t)(uintptr_t)under, 1);
        if (!try_under(cx, &ours, under, t, w, used, &theirs, pair, &kind)) {
            continue;
        }
        bool named = net && strncmp(under, net, strlen(net)) == 0 && under[strlen(net)] == '.';
        if (found_under && !named) {
            kd_error(cx, 0, "%s: what lies under '%.*s' and what lies under '%.*s' both fit", file,
                     (int)strlen(found_under) - 1, found_under, (int)strlen(under) - 1, under);
            kd_hint(cx, "kdc import --map FILE with the line '* = %.*s' says which", (int)strlen(under) - 1, under);
            return false;
        }
        found_under = under;
        found = theirs;
        found_kind = kind;
        memcpy(found_pair, pair, sizeof *pair * (size_t)ours.n);
        if (named) {
            break;
        }
    }
    if (found_under) {
        take_modules(&ours, &found, w, found_pair, found_kind, m, used);
    }
    return true;
}

/* ---- single weights --------------------------------------------------------------------------------- */

/* In one pass over both: is the k-th weight without a tensor of the same shape as the k-th unused tensor, for all k? */
static bool sequences_equal(KdcTensor *const *t, int n, const KdWeights *w, const KdcMatch *m,
                            const bool *used) {
    int k = 0;
    for (int i = 0; i < n; i++) {
        if (m->from[i] || !trained(t[i])) {
            continue;
        }
        while (k < w->n && used[k]) {
            k++;
        }
        if (k == w->n || !same_shape(t[i], &w->tensor[k])) {
            return false;
        }
        k++;
    }
    while (k < w->n && used[k]) {
        k++;
    }
    return k == w->n;
}

/* How many weights and unused tensors have the shape of t. */
static void count_shape(const KdcTensor *like, KdcTensor *const *t, int n, const KdWeights *w,
                        const KdcMatch *m, const bool *used, int *weights, int *tensors) {
    *weights = *tensors = 0;
    for (int i = 0; i < n; i++) {
        bool same = t[i]->rank == like->rank &&
                    memcmp(t[i]->dim, like->dim, sizeof *like->dim * (size_t)like->rank) == 0;
        *weights += !m->from[i] && trained(t[i]) && same;
    }
    for (int k = 0; k < w->n; k++) {
        *tensors += !used[k] && same_shape(like, &w->tensor[k]);
    }
}

static void list_unused(KdContext *cx, const KdWeights *w, const bool *used, const char *file) {
    KdStr s = {.cx = cx};
    int count = 0;
    for (int k = 0; k < w->n; k++) {
        if (!used[k] && count++ < 8) {
            kd_str_printf(&s, "%s%s %s", count > 1 ? ", " : "", w->tensor[k].name,
                          file_shape(cx, &w->tensor[k]));
        }
    }
    if (count) {
        kd_note(cx, 0, "%s has %d tensors that nothing uses: %s%s", file, count, s.s,
                count > 8 ? ", ..." : "");
    } else {
        kd_note(cx, 0, "every tensor of %s is used", file);
    }
}

static bool match_order(KdContext *cx, KdcTensor *const *t, int n, const KdWeights *w,
                        const char *file, KdcMatch *m, bool *used) {
    for (int k = 0; k < w->n; k++) { /* never a weight */
        used[k] = used[k] || is_counter(leaf_of(w->tensor[k].name)) || is_statistic(leaf_of(w->tensor[k].name));
    }
    bool sequence = sequences_equal(t, n, w, m, used);
    for (int i = 0; i < n && !sequence; i++) {
        int weights, tensors;
        if (m->from[i] || !trained(t[i])) {
            continue;
        }
        count_shape(t[i], t, n, w, m, used, &weights, &tensors);
        if (weights != tensors) {
            kd_error(cx, 0,
                     "%s: no tensor for weight %s %s: none of that name, and by shape there are %d "
                     "tensors for %d weights",
                     file, t[i]->name, kdc_tensor_shape(cx, t[i]), tensors, weights);
            list_unused(cx, w, used, file);
            return false;
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < w->n && !m->from[i] && trained(t[i]); k++) {
            if (!used[k] && same_shape(t[i], &w->tensor[k])) {
                m->from[i] = &w->tensor[k];
                m->kind[i] = KDC_MATCH_ORDER;
                used[k] = true;
            }
        }
    }
    return true;
}

bool kdc_match(KdcProgram *p, const char *net, KdcTensor *const *t, int n, const KdWeights *w, const char *file,
               bool by_order, KdcMatch *m) {
    KdContext *cx = p->cx;
    bool *used = KD_NEW_ARRAY(cx, bool, w->n + 1);
    m->from = KD_NEW_ARRAY(cx, const KdTensor *, n + 1);
    m->kind = KD_NEW_ARRAY(cx, KdcMatchKind, n + 1);
    match_names(cx, n && t[0]->part_of ? t[0]->part_of : net, t, n, w, m, used);
    bool ok = true;
    for (int i = 0; i < n; i++) { /* a name that fits with a shape that does not is a wrong file */
        if (m->from[i] && !fits(t[i], m->from[i])) {
            wrong_shape(cx, t[i], m->from[i], file);
            ok = false;
        }
    }
    ok = ok && (!by_order || (match_modules(cx, net, t, n, w, file, m, used) && match_order(cx, t, n, w, file, m, used)));
    m->unused = w->n;
    for (int i = 0; i < n; i++) {
        m->unused -= m->from[i] != NULL; /* no tensor is taken twice */
    }
    return ok;
}

/* x, converted, into t's memory, which has a place for all of it. */
static bool convert(KdcDType d, const KdTensor *x, void *data, KdTrouble *trouble) {
    switch (d) {
    case KDC_F32:
        return kd_tensor_f32(x, data, trouble);
    case KDC_I32:
        return kd_tensor_i32(x, data, trouble);
    case KDC_U8:
        return kd_tensor_u8(x, data, trouble);
    }
    return false;
}

/* The leading part of what has x's dims. */
static void copy_part(const KdcTensor *t, const KdTensor *x, const char *from) {
    size_t item = t->dtype == KDC_U8 ? 1 : 4;
    int64_t line = t->rank ? t->dim[t->rank - 1] : 1, at[KD_MAX_RANK] = {0};
    char *to = t->data;
    for (int64_t done = 0; done < t->count; done += line, to += item * (size_t)line) {
        int64_t offset = 0;
        for (int d = 0; d < t->rank; d++) {
            offset = offset * x->dim[d] + at[d];
        }
        memcpy(to, from + item * (size_t)offset, item * (size_t)line);
        for (int d = t->rank - 2; d >= 0 && ++at[d] == t->dim[d]; d--) {
            at[d] = 0;
        }
    }
}

static bool load_part(KdcProgram *p, const KdcTensor *t, const KdTensor *x, KdTrouble *trouble) {
    int64_t count = 1;
    for (int d = 0; d < x->rank; d++) {
        count *= x->dim[d];
    }
    KdcTensor whole = *t;
    whole.count = count;
    void *data = kdc_memory(p, kdc_tensor_bytes(&whole));
    bool ok = convert(t->dtype, x, data, trouble);
    if (ok) {
        copy_part(t, x, data);
    }
    kdc_memory_free(p, data);
    return ok;
}

bool kdc_load_tensor(KdcProgram *p, KdcTensor *t, const KdTensor *x, const char *file) {
    KdTrouble trouble;
    if (!fits(t, x)) {
        wrong_shape(p->cx, t, x, file);
        return false;
    }
    bool ok = same_shape(t, x) ? convert(t->dtype, x, t->data, &trouble) : load_part(p, t, x, &trouble);
    if (!ok) {
        kd_error(p->cx, 0, "%s: %s", file, trouble.text);
    }
    return ok;
}
