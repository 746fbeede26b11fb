/* match.c: which tensor of a file is which weight.
 *
 * By name first: the same name; or the same after writing a[0].b as a.0.b; or the same once a prefix that all the
 * file's names share ("module.", "netG.") or that all of ours share ("S.") is left out; or, when the network
 * `net` is meant, with its name before ours, so that S finds its weights in what a session wrote. If by that some weights have no tensor and
 * the caller allows it, the weights and file tensors left over are matched by order and shape: in the file's order where
 * the two sequences of shapes are equal; else, for each shape, if there are as many weights as tensors of it. Anything
 * else is an error that names what is missing: a wrong map must never pass silently.
 */
#include "frontend/api/api.h"

#include <inttypes.h>
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
            if (!m->from[i] && kd_map_get(&f.map, (uint64_t)(uintptr_t)name, &k) && !used[k]) {
                m->from[i] = &w->tensor[k];
                m->kind[i] = KDC_MATCH_NAME;
                used[k] = true;
            }
        }
    }
}

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

static bool trained(const KdcTensor *t) {
    return t->role == KDC_WEIGHT || t->role == KDC_FROZEN;
}

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
    m->unused = 0;
    match_names(cx, net, t, n, w, m, used);
    bool ok = true;
    for (int i = 0; i < n; i++) { /* a name that fits with a shape that does not is a wrong file */
        if (m->from[i] && !same_shape(t[i], m->from[i])) {
            wrong_shape(cx, t[i], m->from[i], file);
            ok = false;
        }
    }
    if (ok && by_order) {
        ok = match_order(cx, t, n, w, file, m, used);
    }
    for (int k = 0; k < w->n; k++) {
        m->unused += !used[k];
    }
    return ok;
}

bool kdc_load_tensor(KdcProgram *p, KdcTensor *t, const KdTensor *x, const char *file) {
    KdTrouble trouble;
    bool ok = false;
    if (!same_shape(t, x)) {
        wrong_shape(p->cx, t, x, file);
        return false;
    }
    switch (t->dtype) {
    case KDC_F32:
        ok = kd_tensor_f32(x, t->data, &trouble);
        break;
    case KDC_I32:
        ok = kd_tensor_i32(x, t->data, &trouble);
        break;
    case KDC_U8:
        ok = kd_tensor_u8(x, t->data, &trouble);
        break;
    }
    if (!ok) {
        kd_error(p->cx, 0, "%s: %s", file, trouble.text);
    }
    return ok;
}
