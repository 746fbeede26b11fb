/* dataset.c: what a folder holds: layouts, phases, matching by stems. Nothing is decoded but the head of one image. */
#include "runtime/host/dataset_private.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static const char *const layout_names[] = {[KD_LAYOUT_AUTO] = "auto",       [KD_LAYOUT_ALIGNED] = "aligned",
                                           [KD_LAYOUT_UNPAIRED] = "unpaired", [KD_LAYOUT_FOLDERS] = "folders",
                                           [KD_LAYOUT_LABELS] = "labels",   [KD_LAYOUT_PLAIN] = "plain"};

const char *kd_layout_name(KdLayout l) {
    return layout_names[l];
}

bool kd_preprocess_named(const char *name, KdPreprocess *p) {
    static const char *const names[] = {[KD_PRE_RESIZE_AND_CROP] = "resize_and_crop",
                                        [KD_PRE_CROP] = "crop",
                                        [KD_PRE_SCALE_WIDTH] = "scale_width",
                                        [KD_PRE_SCALE_WIDTH_AND_CROP] = "scale_width_and_crop",
                                        [KD_PRE_NONE] = "none"};
    char word[64];
    snprintf(word, sizeof word, "%s", name);
    for (char *c = word; *c; c++) {
        *c = *c == '-' ? '_' : *c;
    }
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        if (strcmp(word, names[i]) == 0) {
            *p = (KdPreprocess)i;
            return true;
        }
    }
    return false;
}

/* ---- names ------------------------------------------------------------------------------------------ */

static void free_names(KdNames *v) {
    for (int64_t i = 0; i < v->n; i++) {
        free(v->path[i]);
    }
    free(v->path);
    *v = (KdNames){0};
}

static bool add_name(KdNames *v, char *path) {
    char **more = path ? realloc(v->path, sizeof *more * (size_t)(v->n + 1)) : NULL;
    if (!more) {
        free(path);
        return false;
    }
    v->path = more;
    v->path[v->n++] = path;
    return true;
}

static char *join(const char *a, const char *b) {
    size_t n = strlen(a) + strlen(b) + 2;
    char *s = malloc(n);
    if (s) {
        snprintf(s, n, *b ? "%s/%s" : "%s%s", a, b);
    }
    return s;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Images directly in root/inner, sorted bytewise. true with n = 0 when there is no such folder. */
static bool list_images(const char *root, const char *inner, KdNames *v, KdTrouble *t) {
    char *folder = join(root, inner);
    DIR *d = folder ? opendir(folder) : NULL;
    bool ok = folder != NULL;
    *v = (KdNames){0};
    for (struct dirent *e; d && ok && (e = readdir(d));) {
        if (e->d_name[0] != '.' && kd_image_name(e->d_name)) {
            ok = add_name(v, join(folder, e->d_name));
        }
    }
    if (d) {
        closedir(d);
    }
    free(folder);
    if (!ok) {
        free_names(v);
        return kd_trouble(t, true, "%s: out of memory", root);
    }
    if (v->n) {
        qsort(v->path, (size_t)v->n, sizeof *v->path, by_name);
    }
    return true;
}

/* The part of a path that pairs share: no folder, no ending, none of the conventional suffixes. */
static void stem_of(const char *path, char *out, size_t n) {
    static const char *const suffixes[] = {"_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds", "_gtFine_labelTrainIds", "_A", "_B"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    size_t length = dot ? (size_t)(dot - name) : strlen(name);
    for (int i = 0; i < (int)(sizeof suffixes / sizeof *suffixes); i++) {
        size_t k = strlen(suffixes[i]);
        if (length > k && strncmp(name + length - k, suffixes[i], k) == 0) {
            length -= k;
            break;
        }
    }
    snprintf(out, n, "%.*s", (int)length, name);
}

typedef struct Stem {
    char name[256];
    char *path;
} Stem;

static int by_stem(const void *a, const void *b) {
    return strcmp(((const Stem *)a)->name, ((const Stem *)b)->name);
}

static Stem *stems_of(const KdNames *v) {
    Stem *s = malloc(sizeof *s * (size_t)(v->n + 1));
    for (int64_t i = 0; s && i < v->n; i++) {
        stem_of(v->path[i], s[i].name, sizeof s[i].name);
        s[i].path = v->path[i];
    }
    if (s && v->n) {
        qsort(s, (size_t)v->n, sizeof *s, by_stem);
    }
    return s;
}

/* Keeps of both lists what has a partner in the other, in the order of stems; the rest goes to `unmatched`. */
static bool match(KdNames *a, KdNames *b, KdNames *unmatched) {
    Stem *x = stems_of(a), *y = stems_of(b);
    KdNames na = {0}, nb = {0};
    bool ok = x && y;
    int64_t i = 0, j = 0;
    while (ok && (i < a->n || j < b->n)) {
        int order = i == a->n ? 1 : j == b->n ? -1 : strcmp(x[i].name, y[j].name);
        if (order == 0) {
            ok = add_name(&na, strdup(x[i++].path)) && add_name(&nb, strdup(y[j++].path));
        } else {
            ok = add_name(unmatched, strdup(order < 0 ? x[i++].path : y[j++].path));
        }
    }
    free(x);
    free(y);
    if (!ok) {
        free_names(&na);
        free_names(&nb);
        return false;
    }
    free_names(a);
    free_names(b);
    *a = na;
    *b = nb;
    return true;
}

/* ---- layouts ---------------------------------------------------------------------------------------- */

static bool has_folder(const char *root, const char *a, const char *b) {
    char *first = join(root, a), *whole = first ? join(first, b) : NULL;
    bool yes = whole && is_folder(whole);
    free(first);
    free(whole);
    return yes;
}

static bool has_suffixed(const char *root, const char *phase, const char *suffix) {
    char name[300];
    snprintf(name, sizeof name, "%.200s%s", phase, suffix);
    return has_folder(root, name, "");
}

/* Is `layout` there for the phase? */
static bool there(const char *root, const char *phase, KdLayout layout) {
    switch (layout) {
    case KD_LAYOUT_ALIGNED:
        return has_folder(root, phase, "") || has_folder(root, "aligned", phase);
    case KD_LAYOUT_UNPAIRED:
        return has_suffixed(root, phase, "A") && has_suffixed(root, phase, "B");
    case KD_LAYOUT_FOLDERS:
        return has_folder(root, "A", "") && has_folder(root, "B", "");
    case KD_LAYOUT_LABELS:
        return has_suffixed(root, phase, "_label");
    case KD_LAYOUT_PLAIN:
        return true;
    case KD_LAYOUT_AUTO:
        return false;
    }
    return false;
}

/* Are the images of this folder twice as wide as high or more? Of the first that can be read. */
static bool looks_aligned(const char *root, const char *phase) {
    KdNames v;
    KdTrouble t;
    KdImageInfo info;
    bool yes = false;
    if (list_images(root, phase, &v, &t) && v.n) {
        yes = kd_image_probe(v.path[0], &info, &t) && info.width >= 2 * info.height;
    }
    free_names(&v);
    return yes;
}

static KdLayout choose(const char *root, const char *phase, KdLayout wanted) {
    static const KdLayout order[] = {KD_LAYOUT_UNPAIRED, KD_LAYOUT_FOLDERS, KD_LAYOUT_LABELS};
    if (wanted == KD_LAYOUT_ALIGNED && !has_folder(root, phase, "") && there(root, phase, KD_LAYOUT_FOLDERS)) {
        return KD_LAYOUT_FOLDERS;
    }
    if ((wanted == KD_LAYOUT_ALIGNED || wanted == KD_LAYOUT_UNPAIRED || wanted == KD_LAYOUT_LABELS) && there(root, phase, wanted)) {
        return wanted;
    }
    for (int i = 0; i < 3; i++) {
        if (there(root, phase, order[i])) {
            return order[i];
        }
    }
    return looks_aligned(root, phase) && wanted != KD_LAYOUT_PLAIN ? KD_LAYOUT_ALIGNED : KD_LAYOUT_PLAIN;
}

static const char *choose_phase(const char *root) {
    static const char *const phases[] = {"train", "test", "val"};
    for (int i = 0; i < 3; i++) {
        for (int l = KD_LAYOUT_ALIGNED; l < KD_LAYOUT_PLAIN; l++) {
            if (l != KD_LAYOUT_FOLDERS && there(root, phases[i], (KdLayout)l)) {
                return phases[i];
            }
        }
        if (has_folder(root, "A", phases[i])) {
            return phases[i];
        }
    }
    return "train";
}

static bool list_suffixed(const KdDataset *d, const char *suffix, KdNames *v, KdTrouble *t) {
    char name[300];
    snprintf(name, sizeof name, "%.200s%s", d->o.phase, suffix);
    return list_images(d->o.root, name, v, t);
}

/* root/A/PHASE, or root/A */
static bool list_side(const KdDataset *d, const char *side, KdNames *v, KdTrouble *t) {
    char name[300];
    snprintf(name, sizeof name, "%s/%.200s", side, d->o.phase);
    return list_images(d->o.root, has_folder(d->o.root, side, d->o.phase) ? name : side, v, t);
}

static bool list_labels(KdDataset *d, KdTrouble *t) {
    KdNames inst = {0}, spare = {0};
    bool ok = list_suffixed(d, "_label", &d->list[0], t) && list_suffixed(d, "_img", &d->list[1], t);
    if (ok && d->list[1].n == 0) { /* images beside label maps may be the left halves of aligned pairs */
        char inner[300];
        snprintf(inner, sizeof inner, "aligned/%.200s", d->o.phase);
        bool nested = has_folder(d->o.root, "aligned", d->o.phase);
        ok = list_images(d->o.root, nested ? inner : d->o.phase, &d->list[1], t);
        d->half = ok && looks_aligned(d->o.root, nested ? inner : d->o.phase);
    }
    d->lists = d->images = 2;
    ok = ok && (match(&d->list[0], &d->list[1], &d->unmatched) || kd_trouble(t, true, "out of memory")) &&
         list_suffixed(d, "_inst", &inst, t);
    if (ok && inst.n) {
        int64_t before = d->list[0].n;
        KdNames copy = {0};
        for (int64_t i = 0; ok && i < before; i++) {
            ok = add_name(&copy, strdup(d->list[0].path[i]));
        }
        ok = (ok && match(&copy, &inst, &spare)) || kd_trouble(t, true, "out of memory");
        if (ok && copy.n != before) {
            ok = kd_trouble(t, false, "%s: %lld of %lld label maps have no instance map, such as %s", d->o.root,
                            (long long)(before - copy.n), (long long)before, spare.path[0]);
        }
        free_names(&copy);
        d->list[2] = inst;
        inst = (KdNames){0};
        d->lists = d->images = 3;
    }
    free_names(&inst);
    free_names(&spare);
    return ok;
}

static bool list_all(KdDataset *d, KdTrouble *t) {
    const char *root = d->o.root, *phase = d->o.phase;
    char nested[300];
    snprintf(nested, sizeof nested, "aligned/%.200s", phase);
    d->lists = d->images = 1;
    switch (d->layout) {
    case KD_LAYOUT_ALIGNED:
        d->images = 2;
        return list_images(root, has_folder(root, phase, "") ? phase : nested, &d->list[0], t);
    case KD_LAYOUT_UNPAIRED:
        d->lists = d->images = 2;
        return list_suffixed(d, "A", &d->list[0], t) && list_suffixed(d, "B", &d->list[1], t);
    case KD_LAYOUT_FOLDERS:
        d->lists = d->images = 2;
        return list_side(d, "A", &d->list[0], t) && list_side(d, "B", &d->list[1], t) &&
               (match(&d->list[0], &d->list[1], &d->unmatched) || kd_trouble(t, true, "out of memory"));
    case KD_LAYOUT_LABELS:
        return list_labels(d, t);
    case KD_LAYOUT_PLAIN:
        return list_images(root, has_folder(root, phase, "") ? phase : "", &d->list[0], t);
    case KD_LAYOUT_AUTO:
        break;
    }
    return kd_trouble(t, false, "%s: no layout", root);
}

/* ---- opening ---------------------------------------------------------------------------------------- */

static const char *looked_for(KdLayout l) {
    switch (l) {
    case KD_LAYOUT_ALIGNED:
        return "images with A left and B right in PHASE/";
    case KD_LAYOUT_UNPAIRED:
        return "images in PHASEA/ and PHASEB/";
    case KD_LAYOUT_FOLDERS:
        return "images with equal names in A/PHASE/ and B/PHASE/ (or A/ and B/)";
    case KD_LAYOUT_LABELS:
        return "label maps in PHASE_label/ and images of the same names in PHASE_img/";
    case KD_LAYOUT_PLAIN:
    case KD_LAYOUT_AUTO:
        return "images (.png, .jpg, .jpeg) in PHASE/ or in the folder itself";
    }
    return "";
}

static bool nothing(const KdDataset *d, KdTrouble *t) {
    if (d->unmatched.n) {
        return kd_trouble(t, false, "%s: no names match: %s has no partner; expected %s, where PHASE is %s", d->o.root, d->unmatched.path[0],
                          looked_for(d->layout), d->o.phase);
    }
    return kd_trouble(t, false, "%s: nothing to read: expected %s, where PHASE is %s", d->o.root, looked_for(d->layout), d->o.phase);
}

static void measure(KdDataset *d) {
    for (int l = 0; l < d->lists; l++) {
        for (int64_t i = 0; i < d->list[l].n && i < 4; i++) {
            KdImageInfo info;
            KdTrouble t;
            struct stat st;
            if (kd_image_probe(d->list[l].path[i], &info, &t) && stat(d->list[l].path[i], &st) == 0) {
                int64_t bytes = (int64_t)info.width * info.height * 3 * 2 + st.st_size;
                d->decode_bytes = bytes > d->decode_bytes ? bytes : d->decode_bytes;
            }
        }
    }
}

static bool open_all(KdDataset *d, KdTrouble *t) {
    struct stat st;
    if (stat(d->o.root, &st) != 0) {
        return kd_trouble(t, false, "%s: %s", d->o.root, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        return kd_trouble(t, false, "%s is no folder", d->o.root);
    }
    bool sized = d->o.preprocess == KD_PRE_NONE || d->o.preprocess == KD_PRE_SCALE_WIDTH;
    if ((d->o.crop_h <= 0 || d->o.crop_w <= 0) && !sized) {
        return kd_trouble(t, false, "%s: no crop size is given", d->o.root);
    }
    d->layout = d->o.layout != KD_LAYOUT_AUTO ? d->o.layout : choose(d->o.root, d->o.phase, d->o.wanted);
    if (!list_all(d, t)) {
        return false;
    }
    d->count = d->list[0].n;
    if (d->layout == KD_LAYOUT_UNPAIRED) {
        d->count = d->list[1].n == 0 || d->count == 0 ? 0 : d->count > d->list[1].n ? d->count : d->list[1].n;
    }
    d->count = d->o.limit > 0 && d->count > d->o.limit ? d->o.limit : d->count;
    if (d->count == 0) {
        return nothing(d, t);
    }
    measure(d);
    return true;
}

KdDataset *kd_dataset_open(const KdDataOptions *o, KdTrouble *t) {
    KdDataset *d = calloc(1, sizeof *d);
    char *root = strdup(o->root), *phase = strdup(o->phase ? o->phase : choose_phase(o->root));
    if (!d || !root || !phase) {
        free(d);
        free(root);
        free(phase);
        kd_trouble(t, true, "%s: out of memory", o->root);
        return NULL;
    }
    d->o = *o;
    for (size_t n = strlen(root); n > 1 && root[n - 1] == '/'; n--) {
        root[n - 1] = '\0';
    }
    d->o.root = root;
    d->o.phase = phase;
    if (!open_all(d, t)) {
        kd_dataset_free(d);
        return NULL;
    }
    return d;
}

void kd_dataset_free(KdDataset *d) {
    if (d) {
        for (int i = 0; i < 3; i++) {
            free_names(&d->list[i]);
        }
        free_names(&d->unmatched);
        free((char *)(uintptr_t)d->o.root);
        free((char *)(uintptr_t)d->o.phase);
        free(d);
    }
}

KdLayout kd_dataset_layout(const KdDataset *d) {
    return d->layout;
}

int64_t kd_dataset_count(const KdDataset *d) {
    return d->count;
}

int kd_dataset_images(const KdDataset *d) {
    return d->images;
}

int64_t kd_dataset_decode_bytes(const KdDataset *d) {
    return d->decode_bytes;
}
