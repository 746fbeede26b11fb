/* dataset.c: see dataset.h. Which folders there are, which layout they make, which files belong together.
 *
 * A layout at a phase is a set of folders under the root (folders_of); it fits when each of them holds an image.
 * Choosing tries phases in order (train, val, test, none: images without a phase, others by name), and at each phase
 * the layouts that the caller can use. Names are sorted by bytes, so nothing depends on the order in which a file
 * system lists them.
 */
#define _GNU_SOURCE
#include "runtime/host/dataset_parts.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_PROBED = 8 };

const char *kd_layout_name(KdLayout l) {
    switch (l) {
    case KD_LAYOUT_AUTO: return "auto";
    case KD_LAYOUT_ALIGNED: return "aligned";
    case KD_LAYOUT_UNPAIRED: return "unpaired";
    case KD_LAYOUT_FOLDERS: return "folders";
    case KD_LAYOUT_LABELS: return "labels";
    case KD_LAYOUT_PLAIN: return "plain";
    }
    return "?";
}

bool kd_layout_named(const char *name, KdLayout *l) {
    for (int i = KD_LAYOUT_ALIGNED; i <= KD_LAYOUT_PLAIN; i++) {
        if (strcmp(name, kd_layout_name((KdLayout)i)) == 0) {
            *l = (KdLayout)i;
            return true;
        }
    }
    return false;
}

bool kd_preprocess_named(const char *name, KdPreprocess *p) {
    static const char *const names[] = {"resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"};
    char word[32];
    if (strlen(name) >= sizeof word) {
        return false;
    }
    strcpy(word, name);
    for (char *c = word; *c; c++) {
        *c = *c == '-' ? '_' : *c;
    }
    for (int i = 0; i < 5; i++) {
        if (strcmp(word, names[i]) == 0) {
            *p = (KdPreprocess)i;
            return true;
        }
    }
    return false;
}

/* ---- lists ------------------------------------------------------------------------------------------ */

static bool no_memory(KdTrouble *t) {
    return kd_trouble(t, true, "out of memory while listing a data set");
}

bool kd_data_push(KdDataList *l, char *path) {
    if (path && l->n == l->cap) {
        int64_t cap = l->cap ? l->cap * 2 : 16;
        char **p = realloc(l->path, (size_t)cap * sizeof *p);
        if (!p) {
            free(path);
            return false;
        }
        l->path = p;
        l->cap = cap;
    }
    if (!path) {
        return false;
    }
    l->path[l->n++] = path;
    return true;
}

void kd_data_list_free(KdDataList *l) {
    for (int64_t i = 0; i < l->n; i++) {
        free(l->path[i]);
    }
    free(l->path);
    *l = (KdDataList){0};
}

bool kd_data_is_index(const KdDataset *d, int k) {
    return d->layout == KD_LAYOUT_LABELS && k != 1;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_list(KdDataList *l) {
    if (l->n > 1) {
        qsort(l->path, (size_t)l->n, sizeof *l->path, by_bytes);
    }
}

static char *join(const char *a, const char *b) {
    char *s = NULL;
    if (!*b) {
        return strdup(a);
    }
    return asprintf(&s, "%s/%s", a, b) < 0 ? NULL : s;
}

static char *concat(const char *a, const char *b) {
    char *s = NULL;
    return asprintf(&s, "%s%s", a, b) < 0 ? NULL : s;
}

/* Links are followed; what leads nowhere is no folder (and will be an image that cannot be read). */
static bool is_folder(const char *folder, const struct dirent *e) {
    struct stat st;
    if (e->d_type != DT_UNKNOWN && e->d_type != DT_LNK) {
        return e->d_type == DT_DIR;
    }
    char *path = join(folder, e->d_name);
    bool yes = path && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    free(path);
    return yes;
}

/* Images of the folder (their paths), or its subfolders (their names), sorted; at most `most`. A folder that is not
 * there has none of either. */
static bool list_folder(const char *folder, bool subfolders, int64_t most, KdDataList *l, KdTrouble *t) {
    DIR *dir = opendir(folder);
    if (!dir) {
        if (errno == ENOENT || errno == ENOTDIR) {
            return true;
        }
        return kd_trouble(t, errno != EACCES, "cannot read the folder %s: %s", folder, strerror(errno));
    }
    bool ok = true;
    const struct dirent *e;
    errno = 0;
    while (ok && l->n < most && (e = readdir(dir))) {
        bool candidate = e->d_name[0] != '.' && (subfolders || kd_image_name(e->d_name));
        if (candidate && is_folder(folder, e) == subfolders) {
            ok = kd_data_push(l, subfolders ? strdup(e->d_name) : join(folder, e->d_name)) || no_memory(t);
        }
        errno = 0;
    }
    if (ok && l->n < most && errno) {
        ok = kd_trouble(t, true, "cannot read the folder %s: %s", folder, strerror(errno));
    }
    closedir(dir);
    sort_list(l);
    return ok;
}

static bool has_images(const char *folder) {
    KdDataList l = {0};
    KdTrouble ignored;
    list_folder(folder, false, 1, &l, &ignored);
    bool yes = l.n > 0;
    kd_data_list_free(&l);
    return yes;
}

const char *kd_other_kind(int kind) {
    static const char *const endings[KD_OTHER_KINDS] = {".bmp",  ".tif",  ".tiff", ".webp", ".ppm", ".pgm",
                                                        ".gif", ".jfif", ".jp2",  ".avif", ".heic", ".tga"};
    return endings[kind];
}

void kd_data_count_other(const char *folder, int64_t count[KD_OTHER_KINDS]) {
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        const char *dot = e->d_name[0] != '.' ? strrchr(e->d_name, '.') : NULL;
        for (int k = 0; dot && k < KD_OTHER_KINDS; k++) {
            if (strcasecmp(dot, kd_other_kind(k)) == 0 && !is_folder(folder, e)) {
                count[k]++;
            }
        }
    }
    if (dir) {
        closedir(dir);
    }
}

bool kd_other_kinds_text(const int64_t count[KD_OTHER_KINDS], char *text, size_t size) {
    int64_t n = 0;
    const char *separator = ":";
    for (int k = 0; k < KD_OTHER_KINDS; k++) {
        n += count[k];
    }
    size_t at = n ? (size_t)snprintf(text, size, "%" PRId64 " file%s of other kinds %s not read", n, n > 1 ? "s" : "",
                                     n > 1 ? "are" : "is")
                  : 0;
    text[at < size ? at : 0] = '\0';
    for (int k = 0; k < KD_OTHER_KINDS && at < size; k++) {
        if (count[k]) {
            at += (size_t)snprintf(text + at, size - at, "%s %s %" PRId64, separator, kd_other_kind(k), count[k]);
            separator = ",";
        }
    }
    if (n && at < size) {
        snprintf(text + at, size - at, "; PNG and JPEG are");
    }
    return n > 0;
}

static bool contains(const KdDataList *l, const char *name) {
    for (int64_t i = 0; i < l->n; i++) {
        if (strcmp(l->path[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- layouts ---------------------------------------------------------------------------------------- */

/* The folders that make the layout at this phase ("": images without phases). Returns how many, 0: none; -1: no memory.
 * Of labels only the maps' folder: where the images are is settled by open_labels. */
static int folders_of(KdLayout layout, const char *root, const char *phase, char *f[2]) {
    char *name[2] = {NULL, NULL};
    int n = 0;
    f[0] = f[1] = NULL;
    switch (layout) {
    case KD_LAYOUT_AUTO:
        return 0;
    case KD_LAYOUT_ALIGNED:
    case KD_LAYOUT_PLAIN:
        name[n++] = strdup(phase);
        break;
    case KD_LAYOUT_UNPAIRED:
        name[n++] = concat(phase, "A");
        name[n++] = concat(phase, "B");
        break;
    case KD_LAYOUT_FOLDERS:
        name[n++] = join("A", phase);
        name[n++] = join("B", phase);
        break;
    case KD_LAYOUT_LABELS:
        if (!*phase) {
            return 0;
        }
        name[n++] = concat(phase, "_label");
        break;
    }
    bool ok = true;
    for (int i = 0; i < n; i++) {
        f[i] = name[i] ? join(root, name[i]) : NULL;
        ok = ok && f[i];
        free(name[i]);
    }
    return ok ? n : -1;
}

static void free_two(char *f[2]) {
    free(f[0]);
    free(f[1]);
}

static bool fits(KdLayout layout, const char *root, const char *phase) {
    char *f[2];
    int n = folders_of(layout, root, phase, f);
    bool yes = n > 0;
    for (int i = 0; i < n; i++) {
        yes = yes && has_images(f[i]);
    }
    free_two(f);
    return yes;
}

/* Are the first images of root/PHASE twice as wide as high? What cannot be read does not count. */
static bool looks_aligned(const char *root, const char *phase) {
    KdDataList l = {0};
    KdTrouble t;
    KdImageInfo info;
    char *folder = join(root, phase);
    int wide = 0, others = 0;
    if (folder && list_folder(folder, false, INT64_MAX, &l, &t)) {
        for (int64_t i = 0; i < l.n && i < MAX_PROBED; i++) {
            if (kd_image_probe(l.path[i], &info, &t)) {
                *(info.width == 2 * (int64_t)info.height ? &wide : &others) += 1;
            }
        }
    }
    free(folder);
    kd_data_list_free(&l);
    return wide > 0 && others == 0;
}

/* Layouts that may be meant, best first. Returns how many. */
static int candidates(const KdDataOptions *o, KdLayout c[5]) {
    int n = 0;
    if (o->layout != KD_LAYOUT_AUTO) {
        c[n++] = o->layout;
        return n;
    }
    switch (o->wanted) {
    case KD_LAYOUT_ALIGNED:
    case KD_LAYOUT_FOLDERS:
        c[n++] = KD_LAYOUT_ALIGNED;
        c[n++] = KD_LAYOUT_FOLDERS;
        break;
    case KD_LAYOUT_UNPAIRED:
    case KD_LAYOUT_LABELS:
    case KD_LAYOUT_PLAIN:
        c[n++] = o->wanted;
        break;
    case KD_LAYOUT_AUTO:
        c[n++] = KD_LAYOUT_LABELS;
        c[n++] = KD_LAYOUT_FOLDERS;
        c[n++] = KD_LAYOUT_UNPAIRED;
        c[n++] = KD_LAYOUT_ALIGNED;
        c[n++] = KD_LAYOUT_PLAIN;
        break;
    }
    return n;
}

static bool ends(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static bool push_new(KdDataList *l, const char *name, size_t n) {
    char *s = strndup(name, n);
    if (s && contains(l, s)) {
        free(s);
        return true;
    }
    return kd_data_push(l, s);
}

/* Does the folder only make a phase together with others: A and B, trainB, train_img, train_inst? */
static bool is_part(const KdDataList *dirs, const char *name) {
    char *a = strdup(name);
    bool yes = !a || strcmp(name, "A") == 0 || strcmp(name, "B") == 0 || ends(name, "_img") || ends(name, "_inst");
    if (a && ends(name, "B")) {
        a[strlen(a) - 1] = 'A';
        yes = yes || contains(dirs, a);
    }
    free(a);
    return yes;
}

/* What the names of the root's folders, and of those in root/A, say about phases. */
static bool phases_of_names(const char *root, KdDataList *names, KdTrouble *t) {
    KdDataList dirs = {0}, inner = {0};
    char *a = join(root, "A");
    bool ok = (a || no_memory(t)) && list_folder(root, true, INT64_MAX, &dirs, t) &&
              list_folder(a, true, INT64_MAX, &inner, t);
    for (int64_t i = 0; ok && i < dirs.n; i++) {
        const char *d = dirs.path[i];
        size_t n = strlen(d);
        char *other = strdup(d);
        ok = other || no_memory(t);
        if (!ok) {
            break;
        }
        other[n - 1] = 'B';
        if (ends(d, "_label")) {
            ok = push_new(names, d, n - 6);
        } else if (ends(d, "A") && contains(&dirs, other)) {
            ok = push_new(names, d, n - 1);
        } else if (!is_part(&dirs, d)) {
            ok = push_new(names, d, n);
        }
        ok = ok || no_memory(t);
        free(other);
    }
    for (int64_t i = 0; ok && i < inner.n; i++) {
        ok = push_new(names, inner.path[i], strlen(inner.path[i])) || no_memory(t);
    }
    kd_data_list_free(&dirs);
    kd_data_list_free(&inner);
    free(a);
    sort_list(names);
    return ok;
}

/* Phases to try, in order. */
static bool phases_to_try(const KdDataOptions *o, const char *root, KdDataList *l, KdTrouble *t) {
    static const char *const when_training[] = {"train", "val", "test", ""};
    static const char *const when_testing[] = {"test", "val", "train", ""};
    KdDataList names = {0};
    bool ok = true;
    if (o->phase) {
        return (push_new(l, o->phase, strlen(o->phase)) && push_new(l, "", 0)) || no_memory(t);
    }
    for (int i = 0; ok && i < 4; i++) {
        const char *p = o->test ? when_testing[i] : when_training[i];
        ok = push_new(l, p, strlen(p)) || no_memory(t);
    }
    ok = ok && phases_of_names(root, &names, t);
    for (int64_t i = 0; ok && i < names.n; i++) {
        ok = push_new(l, names.path[i], strlen(names.path[i])) || no_memory(t);
    }
    kd_data_list_free(&names);
    return ok;
}

/* "A/train, B/train, train_label": what was looked for at a phase. */
static void say_looked_for(const KdLayout *c, int n, const char *root, const KdDataList *phases, char *text,
                           size_t size) {
    size_t at = 0;
    const char *phase = phases->n ? phases->path[0] : "";
    text[0] = '\0';
    for (int i = 0; i < n; i++) {
        char *f[2] = {NULL, NULL};
        int m = c[i] == KD_LAYOUT_PLAIN && n > 1 ? 0 : folders_of(c[i], root, phase, f); /* as aligned */
        for (int k = 0; k < m && at < size; k++) {
            const char *name = f[k] + strlen(root);
            at += (size_t)snprintf(text + at, size - at, "%s%s", at ? (k ? " and " : ", ") : "",
                                   *name == '/' ? name + 1 : name);
        }
        free_two(f);
    }
}

static bool nothing_fits(const KdDataOptions *o, const char *root, const KdDataList *phases, KdTrouble *t) {
    struct stat st;
    KdLayout c[5];
    KdDataList dirs = {0};
    char looked[160], there[120] = "no folders", unread[120];
    int64_t other[KD_OTHER_KINDS] = {0};
    if (stat(root, &st) != 0) {
        return kd_trouble(t, errno != ENOENT && errno != ENOTDIR && errno != EACCES, "cannot open the data set %s: %s",
                          root, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        return kd_trouble(t, false, "%s is a file; a data set is a folder of images", root);
    }
    int n = candidates(o, c);
    say_looked_for(c, n, root, phases, looked, sizeof looked);
    if (!list_folder(root, true, INT64_MAX, &dirs, t)) {
        kd_data_list_free(&dirs);
        return false;
    }
    size_t at = 0;
    kd_data_count_other(root, other);
    for (int64_t i = 0; i < dirs.n; i++) {
        char *inner = join(root, dirs.path[i]);
        if (inner) {
            kd_data_count_other(inner, other);
        }
        free(inner);
    }
    bool any = kd_other_kinds_text(other, unread, sizeof unread);
    for (int64_t i = 0; i < dirs.n && at < sizeof there - 1; i++) {
        at += (size_t)snprintf(there + at, sizeof there - at, "%s%s", i ? ", " : "", dirs.path[i]);
    }
    if (at >= sizeof there) {
        memcpy(there + sizeof there - 4, "...", 4);
    }
    kd_data_list_free(&dirs);
    return kd_trouble(t, false, "%s: no images for layout %s: looked for %s; it holds %s%s%s%s", root,
                      n == 1                        ? kd_layout_name(c[0])
                      : o->wanted == KD_LAYOUT_AUTO ? "auto (any)"
                                                    : "aligned or folders",
                      looked, there, has_images(root) ? ", and images in the folder itself (layout plain)" : "",
                      any ? "; " : "", unread);
}

/* Where nobody said that these are pairs, single images must not be cut in two. */
static bool may_be_aligned(const KdDataset *d, const char *phase) {
    bool any = d->o.wanted == KD_LAYOUT_AUTO;
    bool usual = d->o.phase || strcmp(phase, "train") == 0 || strcmp(phase, "val") == 0 || strcmp(phase, "test") == 0;
    if (d->o.layout == KD_LAYOUT_ALIGNED || (!any && usual && *phase)) {
        return true;
    }
    return !(any && !*phase) && looks_aligned(d->root, phase);
}

/* Fills d->layout and d->phase. */
static bool choose(KdDataset *d, KdTrouble *t) {
    KdDataList phases = {0};
    KdLayout c[5];
    int n = candidates(&d->o, c);
    bool ok = phases_to_try(&d->o, d->root, &phases, t);
    for (int64_t i = 0; ok && !d->phase && i < phases.n; i++) {
        for (int k = 0; k < n && !d->phase; k++) {
            if (fits(c[k], d->root, phases.path[i]) &&
                (c[k] != KD_LAYOUT_ALIGNED || may_be_aligned(d, phases.path[i]))) {
                d->layout = c[k];
                d->phase = strdup(phases.path[i]);
                ok = d->phase || no_memory(t);
            }
        }
    }
    if (ok && !d->phase) {
        ok = nothing_fits(&d->o, d->root, &phases, t);
    }
    kd_data_list_free(&phases);
    return ok;
}

/* ---- matching --------------------------------------------------------------------------------------- */

typedef struct Entry {
    char *stem, *path; /* path: the list's */
} Entry;

static char *stem_of(const char *path) {
    static const char *const endings[] = {"_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds", "_A", "_B"};
    const char *slash = strrchr(path, '/');
    char *s = strdup(slash ? slash + 1 : path), *dot = s ? strrchr(s, '.') : NULL;
    if (dot) {
        *dot = '\0';
    }
    for (int i = 0; s && i < 5; i++) {
        if (ends(s, endings[i])) {
            s[strlen(s) - strlen(endings[i])] = '\0';
            break;
        }
    }
    return s;
}

static int by_stem(const void *a, const void *b) {
    return strcmp(((const Entry *)a)->stem, ((const Entry *)b)->stem);
}

static void free_entries(Entry *e, int64_t n) {
    for (int64_t i = 0; e && i < n; i++) {
        free(e[i].stem);
    }
    free(e);
}

/* Sorted by stem. Two files of a folder with one stem: an error, as either could be meant. */
static Entry *entries_of(const KdDataList *l, KdTrouble *t) {
    Entry *e = calloc((size_t)l->n + 1, sizeof *e);
    bool ok = e || no_memory(t);
    for (int64_t i = 0; ok && i < l->n; i++) {
        e[i] = (Entry){stem_of(l->path[i]), l->path[i]};
        ok = e[i].stem || no_memory(t);
    }
    if (ok && l->n > 1) {
        qsort(e, (size_t)l->n, sizeof *e, by_stem);
    }
    for (int64_t i = 1; ok && i < l->n; i++) {
        if (strcmp(e[i - 1].stem, e[i].stem) == 0) {
            ok = kd_trouble(t, false, "%s and %s have the same stem '%s': which one is meant?", e[i - 1].path,
                            e[i].path, e[i].stem);
        }
    }
    if (!ok) {
        free_entries(e, l->n);
        return NULL;
    }
    return e;
}

static const Entry *find(const Entry *e, int64_t n, const Entry *x) {
    return n ? bsearch(x, e, (size_t)n, sizeof *e, by_stem) : NULL;
}

static bool push_copy(KdDataList *l, const char *path) {
    return kd_data_push(l, strdup(path));
}

/* Items are the stems that every list has; the rest goes to d->unmatched. */
static bool match(KdDataset *d, KdTrouble *t) {
    Entry *e[3] = {0};
    KdDataList out[3] = {0};
    bool ok = true;
    for (int k = 0; ok && k < d->lists; k++) {
        e[k] = entries_of(&d->list[k], t);
        ok = e[k];
    }
    for (int64_t i = 0; ok && i < d->list[0].n; i++) {
        const Entry *x[3] = {&e[0][i]};
        bool all = true;
        for (int k = 1; k < d->lists; k++) {
            x[k] = find(e[k], d->list[k].n, &e[0][i]);
            all = all && x[k];
        }
        for (int k = 0; ok && all && k < d->lists; k++) {
            ok = push_copy(&out[k], x[k]->path);
        }
        ok = ok && (all || push_copy(&d->unmatched, e[0][i].path));
    }
    for (int k = 1; ok && k < d->lists; k++) {
        for (int64_t i = 0; ok && i < d->list[k].n; i++) {
            ok = find(e[0], d->list[0].n, &e[k][i]) || push_copy(&d->unmatched, e[k][i].path);
        }
    }
    if (!ok && e[d->lists - 1]) {
        no_memory(t);
    }
    if (ok && out[0].n == 0) {
        ok = kd_trouble(t, false,
                        "%s: no names match: %s has no counterpart among %s and others (compared without extension)",
                        d->root, e[0][0].path, e[1][0].path);
    }
    for (int k = 0; k < d->lists; k++) {
        free_entries(e[k], d->list[k].n);
        kd_data_list_free(&d->list[k]);
        d->list[k] = out[k];
    }
    return ok;
}

/* ---- opening ---------------------------------------------------------------------------------------- */

/* Is the image a pair beside its label map: in proportion twice as wide? */
static bool twice_as_wide(const char *label, const char *image) {
    KdImageInfo a, b;
    KdTrouble t;
    return kd_image_probe(label, &a, &t) && kd_image_probe(image, &b, &t) &&
           (int64_t)b.width * a.height == 2 * (int64_t)a.width * b.height;
}

/* Images and instance ids of a labels data set, whose label maps are listed already. */
static bool open_labels(KdDataset *d, KdTrouble *t) {
    char *img = NULL, *aligned = NULL, *flat = join(d->root, d->phase), *inst = NULL;
    bool ok = asprintf(&img, "%s/%s_img", d->root, d->phase) >= 0 &&
              asprintf(&inst, "%s/%s_inst", d->root, d->phase) >= 0 &&
              asprintf(&aligned, "%s/aligned/%s", d->root, d->phase) >= 0 && flat;
    ok = ok || no_memory(t);
    d->lists = 2;
    ok = ok && list_folder(img, false, INT64_MAX, &d->list[1], t);
    if (ok && d->list[1].n == 0) {
        ok = list_folder(aligned, false, INT64_MAX, &d->list[1], t);
        d->half = d->list[1].n > 0;
    }
    bool in_phase = ok && d->list[1].n == 0;
    ok = ok && (!in_phase || list_folder(flat, false, INT64_MAX, &d->list[1], t));
    if (ok && d->list[1].n == 0) {
        ok = kd_trouble(t, false, "%s has label maps in %s_label but no images: looked for %s_img, aligned/%s and %s",
                        d->root, d->phase, d->phase, d->phase, d->phase);
    }
    ok = ok && list_folder(inst, false, INT64_MAX, &d->list[2], t);
    d->lists += ok && d->list[2].n > 0 ? 1 : 0;
    ok = ok && match(d, t);
    d->half = d->half || (ok && in_phase && twice_as_wide(d->list[0].path[0], d->list[1].path[0]));
    free(img);
    free(aligned);
    free(flat);
    free(inst);
    return ok;
}

static bool open_lists(KdDataset *d, KdTrouble *t) {
    char *f[2];
    int n = folders_of(d->layout, d->root, d->phase, f);
    bool ok = n > 0 || no_memory(t);
    d->lists = n > 0 ? n : 0;
    for (int k = 0; ok && k < n; k++) {
        ok = list_folder(f[k], false, INT64_MAX, &d->list[k], t);
        if (ok && d->list[k].n == 0) { /* it had some a moment ago */
            ok = kd_trouble(t, false, "%s: no images in this folder", f[k]);
        }
    }
    free_two(f);
    if (ok && d->layout == KD_LAYOUT_LABELS) {
        return open_labels(d, t);
    }
    return ok && (d->layout != KD_LAYOUT_FOLDERS || match(d, t));
}

/* Before limits and shares, so that what is held out depends on neither. */
static bool hold_out(KdDataset *d, KdTrouble *t) {
    const uint64_t key = 0x6b6420686f6c64;
    for (int k = 0; d->o.hold_out > 0 && k < d->lists; k++) {
        KdDataList *l = &d->list[k];
        int64_t n = l->n;
        if (d->o.hold_out >= n) {
            return kd_trouble(t, false, "%s: %" PRId64 " pictures are to be held out, but %s has only %" PRId64, d->root,
                              d->o.hold_out, *d->phase ? d->phase : "it", n);
        }
        l->n = 0;
        for (int64_t i = 0; i < n; i++) {
            if ((kd_data_permuted(key, i, n) < d->o.hold_out) == d->o.held) {
                l->path[l->n++] = l->path[i];
            } else {
                free(l->path[i]);
            }
        }
    }
    return true;
}

static void limit_lists(KdDataset *d) {
    for (int k = 0; k < d->lists; k++) {
        KdDataList *l = &d->list[k];
        while (d->o.limit > 0 && l->n > d->o.limit) {
            free(l->path[--l->n]);
        }
        d->count = l->n > d->count ? l->n : d->count;
    }
}

/* Which items a share has is a matter of their number and places alone, so that runs with other seeds have the same. */
static bool in_share(double share, int64_t i, int64_t n) {
    const uint64_t key = 0x6b646320736861;
    int64_t part = (int64_t)(share * (double)n + 0.5);
    return kd_data_permuted(key, i, n) < (part > 1 ? part : 1);
}

static void take_share(KdDataset *d) {
    d->of = d->count;
    d->count = d->o.share > 0 ? 0 : d->count;
    for (int k = 0; d->o.share > 0 && k < d->lists; k++) {
        KdDataList *l = &d->list[k];
        int64_t n = l->n, in = 0;
        for (int64_t i = 0; i < n; i++) {
            in += in_share(d->o.share, i, n);
        }
        bool all = d->o.others && in == n;
        l->n = 0;
        for (int64_t i = 0; i < n; i++) {
            if (all || in_share(d->o.share, i, n) != d->o.others) {
                l->path[l->n++] = l->path[i];
            } else {
                free(l->path[i]);
            }
        }
        d->count = l->n > d->count ? l->n : d->count;
    }
}

static void probe_some(KdDataset *d) {
    KdImageInfo info;
    KdTrouble ignored;
    for (int k = 0; k < d->lists; k++) {
        for (int64_t i = 0; i < d->list[k].n && i < MAX_PROBED; i++) {
            if (kd_image_probe(d->list[k].path[i], &info, &ignored)) {
                int64_t bytes = (int64_t)info.width * info.height * 6; /* decoded, and a resized or halved copy */
                d->decode_bytes = bytes > d->decode_bytes ? bytes : d->decode_bytes;
            }
        }
    }
}

/* Sizes against each other, and those that were not given. */
static bool settle_sizes(KdDataOptions *o, KdTrouble *t) {
    bool own = o->preprocess == KD_PRE_NONE || o->preprocess == KD_PRE_SCALE_WIDTH;
    bool loads = o->preprocess == KD_PRE_RESIZE_AND_CROP || o->preprocess == KD_PRE_SCALE_WIDTH_AND_CROP;
    if (o->crop_h < 0 || o->crop_w < 0 || o->load_h < 0 || o->load_w < 0 || o->crop_h > 65536 || o->crop_w > 65536 ||
        o->load_h > 65536 || o->load_w > 65536) {
        return kd_trouble(t, false, "image sizes go from 1 to 65536");
    }
    if (!own && (o->crop_h == 0 || o->crop_w == 0)) {
        return kd_trouble(t, false, "images need a crop size (only preprocess none and scale_width go without)");
    }
    if (loads) {
        o->load_h = o->load_h ? o->load_h : o->test ? o->crop_h : o->crop_h * 286 / 256;
        o->load_w = o->load_w ? o->load_w : o->test ? o->crop_w : o->crop_w * 286 / 256;
    }
    if (o->preprocess == KD_PRE_SCALE_WIDTH) {
        o->load_w = o->load_w ? o->load_w : o->crop_w;
        if (o->load_w == 0) {
            return kd_trouble(t, false,
                              "preprocess scale_width needs a load size: the width that images are scaled to");
        }
        if (o->crop_w && o->load_w != o->crop_w) {
            return kd_trouble(t, false, "preprocess scale_width does not crop: load width %d, but samples are %d wide",
                              o->load_w, o->crop_w);
        }
    }
    if (loads && (o->load_w < o->crop_w || (o->preprocess == KD_PRE_RESIZE_AND_CROP && o->load_h < o->crop_h))) {
        return kd_trouble(t, false, "load size %dx%d is smaller than crop size %dx%d", o->load_h, o->load_w, o->crop_h,
                          o->crop_w);
    }
    o->classes = o->classes ? o->classes : 256;
    return true;
}

KdDataset *kd_dataset_open(const KdDataOptions *o, KdTrouble *t) {
    KdDataset *d = calloc(1, sizeof *d);
    if (!d) {
        no_memory(t);
        return NULL;
    }
    d->o = *o;
    d->root = strdup(o->root);
    bool ok = d->root || no_memory(t);
    for (size_t n = ok ? strlen(d->root) : 0; n > 1 && d->root[n - 1] == '/'; n--) {
        d->root[n - 1] = '\0';
    }
    ok = ok && settle_sizes(&d->o, t) && choose(d, t) && open_lists(d, t) && hold_out(d, t);
    if (!ok) {
        kd_dataset_free(d);
        return NULL;
    }
    d->o.root = d->root;
    d->o.phase = d->phase;
    limit_lists(d);
    take_share(d);
    probe_some(d);
    return d;
}

void kd_dataset_free(KdDataset *d) {
    if (!d) {
        return;
    }
    for (int k = 0; k < 3; k++) {
        kd_data_list_free(&d->list[k]);
    }
    kd_data_list_free(&d->unmatched);
    free(d->root);
    free(d->phase);
    free(d);
}

bool kd_dataset_phases(const char *root, KdLayout layout, char ***phase, int *n, KdTrouble *t) {
    KdDataOptions o = {.root = root};
    KdDataList l = {0}, found = {0};
    bool ok = phases_to_try(&o, root, &l, t);
    for (int64_t i = 0; ok && i < l.n; i++) {
        if (fits(layout, root, l.path[i])) {
            ok = push_copy(&found, l.path[i]) || no_memory(t);
        }
    }
    kd_data_list_free(&l);
    if (!ok) {
        kd_data_list_free(&found);
    }
    *phase = found.path;
    *n = (int)found.n;
    return ok;
}

const char *kd_dataset_phase(const KdDataset *d) {
    return d->phase;
}

KdLayout kd_dataset_layout(const KdDataset *d) {
    return d->layout;
}

int64_t kd_dataset_of(const KdDataset *d) {
    return d->of;
}

const char *kd_dataset_path(const KdDataset *d, int64_t item) {
    return d->list[0].path[item];
}

int64_t kd_dataset_count(const KdDataset *d) {
    return d->count;
}

int kd_dataset_images(const KdDataset *d) {
    return d->layout == KD_LAYOUT_ALIGNED ? 2 : d->lists;
}

int64_t kd_dataset_decode_bytes(const KdDataset *d) {
    return d->decode_bytes;
}
