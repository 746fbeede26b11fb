/* eval_source.c: where the pictures to compare come from: two folders, matched by name, or a data set through a network.
 *
 * A data set is read in test mode, in the order of names, so a result is a function of the arguments alone. An unpaired set
 * repeats the smaller of its folders; here each picture counts once, so a pair may lack one side.
 */
#include "frontend/cli/eval.h"
#include "frontend/cli/eval_net.h"
#include "frontend/cli/train.h"
#include "runtime/host/dataset.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct Folders { /* both sorted, path by path the same stem */
    const char **got, **want;
    int n;
} Folders;

struct KdcEvalSource {
    Folders folders;
    KdDataset *set; /* or NULL: folders */
    KdLoader *loader;
    KdcFiles files;
    KdcEvalNet net, other; /* other: --against */
    int classes, map_classes; /* of what is compared; of the maps of the set, 0: not known */
    int64_t at, count;
    char got_from[4400]; /* what the latest pair's image is of, for messages */
    char want_from[4400];
    KdSample *kept; /* those that were read so far: `at` of them and more; malloc'ed */
    int64_t n_kept;
    const char *first[2]; /* names of sample 0: of an unpaired set, where one comes again its folder has been used up */
    bool over[2];
};

void kdc_eval_hash(uint64_t *hash, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        *hash = (*hash ^ p[i]) * 0x100000001b3u;
    }
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void hash_name(KdcEval *e, const char *path) {
    kdc_eval_hash(&e->list, base_name(path), strlen(base_name(path)) + 1);
}

/* ---- folders ----------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

bool kdc_eval_list(KdcProgram *p, const char *folder, const char ***path, int *n) {
    KD_VEC(const char *) found = {0};
    KdTrouble t;
    DIR *d = opendir(folder);
    if (!d) {
        bool mine = errno != ENOENT && errno != ENOTDIR && errno != EACCES;
        kd_trouble(&t, mine, "cannot read the folder %s: %s", folder, strerror(errno));
        return kdc_cli_trouble(p, &t);
    }
    KdLanding l;
    volatile bool ok = false;
    if (KD_TRY(p->cx, l)) {
        for (struct dirent *entry; (entry = readdir(d));) {
            if (entry->d_name[0] != '.' && kd_image_name(entry->d_name)) {
                kd_push(p->cx, &found, kd_format(p->cx, "%s/%s", folder, entry->d_name));
            }
        }
        ok = true;
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    closedir(d);
    if (!ok) {
        return false;
    }
    if (!found.n) {
        kd_error(p->cx, 0, "%s: no images there (.png, .jpg, .jpeg)", folder);
        return false;
    }
    qsort(found.v, (size_t)found.n, sizeof *found.v, by_name);
    *path = found.v;
    *n = found.n;
    return true;
}

/* What two names of the same picture share: no folder, no extension, no conventional suffix. */
static const char *stem_of(KdContext *cx, const char *path) {
    static const char *const suffixes[] = {"_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds", "_A", "_B"};
    const char *name = base_name(path), *dot = strrchr(name, '.');
    size_t n = dot ? (size_t)(dot - name) : strlen(name);
    for (int i = 0; i < KD_COUNT(suffixes); i++) {
        size_t m = strlen(suffixes[i]);
        if (n > m && strncmp(name + n - m, suffixes[i], m) == 0) {
            n -= m;
            break;
        }
    }
    return kd_format(cx, "%.*s", (int)n, name);
}

typedef struct Named { const char *stem, *path; } Named;

static int by_stem(const void *a, const void *b) {
    return strcmp(((const Named *)a)->stem, ((const Named *)b)->stem);
}

static Named *named(KdcProgram *p, const char *const *path, int n) {
    Named *v = KD_NEW_ARRAY(p->cx, Named, n + 1);
    for (int i = 0; i < n; i++) {
        v[i] = (Named){stem_of(p->cx, path[i]), path[i]};
    }
    qsort(v, (size_t)n, sizeof *v, by_stem);
    for (int i = 1; i < n; i++) {
        if (strcmp(v[i].stem, v[i - 1].stem) == 0) {
            kd_error(p->cx, 0, "%s and %s have the same name '%s'", v[i - 1].path, v[i].path, v[i].stem);
            return NULL;
        }
    }
    return v;
}

static void say_unmatched(const KdcEval *e, int n, const char *example) {
    if (n && !e->a->quiet) {
        fprintf(stderr, "kdc: warning: %d image%s no counterpart and not used: %s%s\n", n, n > 1 ? "s have" : " has", example,
                n > 1 ? ", ..." : "");
    }
}

/* Keeps what is in both, in the order of names. */
static bool match_folders(KdcEval *e, Folders *f, const char **got, int n_got, const char **want, int n_want) {
    Named *a = named(e->p, got, n_got), *b = a ? named(e->p, want, n_want) : NULL;
    if (!a || !b) {
        return false;
    }
    int i = 0, j = 0, alone = 0;
    const char *example = NULL;
    f->got = got;
    f->want = want;
    while (i < n_got || j < n_want) {
        int order = i == n_got ? 1 : j == n_want ? -1 : strcmp(a[i].stem, b[j].stem);
        if (order == 0) {
            f->got[f->n] = a[i++].path;
            f->want[f->n++] = b[j++].path;
        } else {
            alone++;
            example = example ? example : order < 0 ? a[i].path : b[j].path;
            i += order < 0;
            j += order > 0;
        }
    }
    if (!f->n) {
        kd_error(e->p->cx, 0, "no image of %s has the name of one of %s: for example %s and %s", e->a->pred, e->a->truth,
                 base_name(a[0].path), base_name(b[0].path));
        return false;
    }
    say_unmatched(e, alone, example);
    return true;
}

static bool open_folders(KdcEval *e) {
    Folders *f = &e->source->folders;
    const char **want = NULL;
    int n_want = 0;
    if (!kdc_eval_list(e->p, e->a->pred, &f->got, &f->n)) {
        return false;
    }
    if (e->a->truth) {
        const char **got = f->got;
        int n = f->n;
        f->n = 0;
        if (!kdc_eval_list(e->p, e->a->truth, &want, &n_want) || !match_folders(e, f, got, n, want, n_want)) {
            return false;
        }
    }
    if (e->a->limit && e->a->limit < f->n) {
        f->n = (int)e->a->limit;
    }
    e->source->count = f->n;
    e->source->classes = (int)e->a->classes;
    e->labels = e->a->classes > 0;
    e->paired = e->targets = e->a->truth != NULL;
    e->what = e->set = e->a->pred;
    e->against = e->a->truth ? e->a->truth : "nothing, picture by picture";
    e->preprocess = "none";
    return true;
}

static bool next_of_folders(KdcEval *e, KdcEvalPair *pair) {
    const Folders *f = &e->source->folders;
    int64_t i = e->source->at;
    KdImageWant want = e->labels ? KD_IMAGE_INDEX : KD_IMAGE_RGB8;
    KdTrouble t;
    pair->got_from = f->got[i];
    pair->name = base_name(f->got[i]);
    hash_name(e, f->got[i]);
    if (!kd_image_read(f->got[i], want, &pair->got, &t)) {
        return kdc_cli_trouble(e->p, &t);
    }
    if (f->want) {
        pair->want_from = f->want[i];
        hash_name(e, f->want[i]);
        if (!kd_image_read(f->want[i], want, &pair->want, &t)) {
            return kdc_cli_trouble(e->p, &t);
        }
    }
    return true;
}

/* ---- a data set through a network -------------------------------------------------------------------- */

static const char *preprocess_of(KdcEval *e, KdDataOptions *o) {
    const KdcArgs *a = e->a;
    bool sized = a->load_h || a->crop_h;
    const char *name = a->preprocess ? a->preprocess : sized ? "resize_and_crop" : "none";
    if (!kd_preprocess_named(name, &o->preprocess)) {
        kd_error(e->p->cx, 0, "--preprocess is resize_and_crop, crop, scale_width, scale_width_and_crop or none, not '%s'", name);
        return NULL;
    }
    o->crop_h = (int)(a->crop_h ? a->crop_h : a->load_h);
    o->crop_w = (int)(a->crop_w ? a->crop_w : a->load_w);
    o->load_h = (int)a->load_h;
    o->load_w = (int)a->load_w;
    return !sized ? name
                  : kd_format(e->p->cx, "%s, load %dx%d, crop %dx%d (bicubic)", name, o->load_h ? o->load_h : o->crop_h,
                              o->load_w ? o->load_w : o->crop_w, o->crop_h, o->crop_w);
}

static bool layout_of(KdcEval *e, KdLayout *l) {
    if (!e->a->layout || kd_layout_named(e->a->layout, l)) {
        return true;
    }
    kd_error(e->p->cx, 0, "--layout is aligned, unpaired, folders, labels or plain, not '%s'", e->a->layout);
    return false;
}

/* Pairs are best for a network from pictures to pictures; two folders do for FID, and pictures alone for --against. */
static KdDataset *open_as(KdDataOptions *o, KdLayout kind, KdTrouble *t) {
    static const KdLayout pictures[] = {KD_LAYOUT_ALIGNED, KD_LAYOUT_UNPAIRED, KD_LAYOUT_PLAIN};
    KdDataset *d = NULL;
    bool any = o->layout == KD_LAYOUT_AUTO && kind == KD_LAYOUT_ALIGNED;
    o->wanted = kind;
    for (int i = 0; any && i < KD_COUNT(pictures) && !d; i++) {
        o->wanted = pictures[i];
        d = kd_dataset_open(o, t);
        if (!d && t->machine) {
            return NULL;
        }
    }
    return d || any ? d : kd_dataset_open(o, t);
}

/* Without the classes that the network says. false after a message. */
static bool data_options(KdcEval *e, const char *phase, KdDataOptions *o) {
    *o = (KdDataOptions){.root = e->a->data,
                         .phase = phase,
                         .b_to_a = e->a->b_to_a,
                         .test = true,
                         .serial = true,
                         .no_flip = true,
                         .hold_out = e->a->hold_out,
                         .held = true,
                         .classes = (int)e->a->classes,
                         .ignore = (int)e->a->ignore};
    e->preprocess = preprocess_of(e, o);
    return e->preprocess && layout_of(e, &o->layout);
}

static bool open_set(KdcEval *e) {
    KdcEvalSource *s = e->source;
    KdTrouble t;
    KdDataOptions o;
    int classes;
    if (!data_options(e, e->a->phase ? e->a->phase : "test", &o)) {
        return false;
    }
    o.limit = e->a->limit;
    KdLayout kind = kdc_eval_net_kind(e->p, e->a->name, o.crop_h ? o.crop_h : 256, o.crop_w ? o.crop_w : 256, &classes);
    o.classes = s->map_classes = o.classes ? o.classes : classes; /* a map with others is an error that names it */
    s->set = open_as(&o, kind, &t);
    if (!s->set) {
        return kdc_cli_trouble(e->p, &t);
    }
    s->count = kd_dataset_count(s->set);
    KdLayout l = kd_dataset_layout(s->set);
    e->set = kd_format(e->p->cx, "%s (%s, %s%s)", e->a->data, kd_layout_name(l), o.phase,
                       l == KD_LAYOUT_PLAIN || l == KD_LAYOUT_LABELS ? "" : e->a->b_to_a ? ", BtoA" : ", AtoB");
    return true;
}

static bool comparable(KdcEval *e) {
    const KdcEvalSource *s = e->source;
    if (e->a->against && s->net.logits != s->other.logits) {
        kd_error(e->p->cx, 0, "%s gives %s, %s gives %s: they cannot be compared", e->a->name,
                 s->net.logits ? "class logits" : "pictures", e->a->against, s->other.logits ? "class logits" : "pictures");
        return false;
    }
    if (s->net.logits && s->net.channels > s->classes) {
        kd_error(e->p->cx, 0, "%s gives %d classes, --classes says %d", e->a->name, s->net.channels, s->classes);
        return false;
    }
    return true;
}

/* A run that was trained in the other direction: the network would be shown what it never saw. */
static void warn_direction(const KdcEval *e) {
    const KdcEvalSource *s = e->source;
    KdLayout l = kd_dataset_layout(s->set);
    const char *last = NULL;
    for (int i = 0; i < s->files.weights.n && !e->a->b_to_a && l != KD_LAYOUT_PLAIN && l != KD_LAYOUT_LABELS; i++) {
        const char *run = s->files.weights.v[i].trained;
        const KdcArgs none = {.ignore = -1};
        KdcArgs stored = none;
        KdcRunArgs r;
        KdTrouble ignored;
        if (!run || (last && strcmp(run, last) == 0)) {
            continue;
        }
        last = run;
        if (kdc_run_args_read(run, &stored, &r, &ignored) && stored.b_to_a) {
            kd_warning(e->p->cx, 0, "%s was trained with --direction BtoA, this is AtoB", run);
        }
        kdc_run_args_free(&stored, &none, &r);
    }
}

static bool open_networks(KdcEval *e) {
    KdcEvalSource *s = e->source;
    KdLayout l = kd_dataset_layout(s->set);
    KdSample x = {0};
    KdTrouble t;
    s->files = (KdcFiles){.live = e->live, .n_live = e->n_live};
    if (!e->n_live && !kdc_files_read(e->p, e->a, &s->files)) {
        return false;
    }
    warn_direction(e);
    if (!kd_dataset_sample(s->set, 0, &x, &t)) {
        return kdc_cli_trouble(e->p, &t);
    }
    bool ok = kdc_eval_net_open(&s->net, e->p, e->a, &s->files, e->a->name, l, &x) &&
              (!e->a->against || kdc_eval_net_open(&s->other, e->p, e->a, &s->files, e->a->against, l, &x));
    kd_sample_free(&x);
    if (!ok) {
        return false;
    }
    e->labels = s->net.logits;
    s->classes = e->a->classes ? (int)e->a->classes : s->net.channels;
    if (!comparable(e)) {
        return false;
    }
    e->paired = e->a->against || l == KD_LAYOUT_ALIGNED || l == KD_LAYOUT_FOLDERS || l == KD_LAYOUT_LABELS;
    e->targets = e->paired || l == KD_LAYOUT_UNPAIRED;
    e->what = kd_format(e->p->cx, "%s of %s", e->a->name, e->a->file);
    e->against = e->a->against ? e->a->against
                 : e->targets ? (e->labels ? "the data's own label maps" : "the data's own pictures")
                                                        : "nothing, picture by picture";
    return true;
}

/* --calibrate: statistics of norms from pictures of the same set, prepared alike. */
static bool calibrate(KdcEval *e) {
    KdcEvalSource *s = e->source;
    const KdcArgs *a = e->a;
    const char *phase = a->calibrate_phase ? a->calibrate_phase : "train";
    KdDataOptions o;
    KdTrouble t;
    if (!a->calibrate) {
        return true;
    }
    if (!data_options(e, phase, &o)) {
        return false;
    }
    o.held = false; /* those that it is measured on are left out */
    o.hold_out = strcmp(phase, a->phase ? a->phase : "test") == 0 ? o.hold_out : 0;
    o.layout = kd_dataset_layout(s->set);
    o.classes = s->map_classes;
    KdDataset *d = kd_dataset_open(&o, &t);
    if (!d) {
        return kdc_cli_trouble(e->p, &t);
    }
    e->calibration = (KdcCalibration){.batches = a->calibrate, .batch = a->batch ? a->batch : 1};
    e->calibration.pictures = kd_format(e->p->cx, "%s (%s, %s)", a->data, kd_layout_name(o.layout), o.phase);
    bool ok = kdc_calibrate(&s->net, d, &e->calibration);
    kd_dataset_free(d);
    if (ok && !e->calibration.norms && !a->quiet) {
        fprintf(stderr, "kdc: note: %s has no running statistics: --calibrate had nothing to estimate anew\n", a->name);
    }
    return ok && (!a->save_calibrated || kdc_calibrate_save(&s->net, a->save_calibrated));
}

/* Of an unpaired set: has this side of sample 0 come round again? */
static bool used_up(KdcEvalSource *s, int side, const char *name) {
    if (s->at == 0) {
        s->first[side] = name;
    } else if (strcmp(s->first[side], name) == 0) {
        s->over[side] = true;
    }
    return s->over[side];
}

static bool take_sample(KdcEval *e, KdSample *x, KdcEvalPair *pair) {
    KdcEvalSource *s = e->source;
    bool unpaired = kd_dataset_layout(s->set) == KD_LAYOUT_UNPAIRED;
    int target = kdc_eval_net_target(&s->net, x); /* -1: a sample is one image */
    bool no_input = unpaired && used_up(s, 0, x->name[0]), no_target = unpaired && used_up(s, 1, x->name[1]);
    int input = s->net.input;
    pair->name = base_name(x->name[input]); /* the data set's: nothing is allocated for a picture */
    snprintf(s->got_from, sizeof s->got_from, "%s of %s", e->a->name, x->name[input]);
    pair->got_from = s->got_from;
    if (!no_input) {
        hash_name(e, x->name[input]);
        if (!kdc_eval_net_run(&s->net, x, &pair->got)) {
            return false;
        }
    }
    if (e->a->against) {
        snprintf(s->want_from, sizeof s->want_from, "%s of %s", e->a->against, x->name[input]);
        pair->want_from = s->want_from;
        return no_input || kdc_eval_net_run(&s->other, x, &pair->want);
    }
    if (target >= 0 && !no_target) {
        pair->want_from = x->name[target];
        hash_name(e, x->name[target]);
        pair->want = x->image[target];
        x->image[target] = (KdImage){0}; /* the pair owns it now */
    }
    return true;
}

static bool copy_sample(const KdSample *from, KdSample *to, KdTrouble *t) {
    *to = *from;
    for (int i = 0; i < from->n; i++) {
        to->image[i] = (KdImage){0};
    }
    for (int i = 0; i < from->n; i++) {
        const KdImage *x = &from->image[i];
        if (!kd_image_new(x->width, x->height, x->channels, x->bits, &to->image[i], t)) {
            kd_sample_free(to);
            return false;
        }
        memcpy(to->image[i].samples, x->samples, (size_t)x->width * (size_t)x->height * (size_t)x->channels * (size_t)(x->bits / 8));
    }
    return true;
}

/* Sample number `at`. */
static bool next_sample(KdcEval *e, KdSample *x, KdTrouble *t) {
    KdcEvalSource *s = e->source;
    if (s->at < s->n_kept) {
        return copy_sample(&s->kept[s->at], x, t);
    }
    if (!kd_loader_next(s->loader, x, t)) {
        return false;
    }
    if (e->keep) {
        KdSample *more = realloc(s->kept, sizeof *more * (size_t)(s->n_kept + 1));
        if (!more) {
            return kd_trouble(t, true, "out of memory for pictures");
        }
        s->kept = more;
        return copy_sample(x, &s->kept[s->n_kept], t) && ++s->n_kept;
    }
    return true;
}

static bool next_of_set(KdcEval *e, KdcEvalPair *pair) {
    KdTrouble t;
    KdSample x = {0};
    if (!next_sample(e, &x, &t)) {
        kd_sample_free(&x);
        return kdc_cli_trouble(e->p, &t);
    }
    bool ok = take_sample(e, &x, pair);
    kd_sample_free(&x);
    return ok;
}

static bool open_loader(KdcEval *e) {
    KdcEvalSource *s = e->source;
    KdTrouble t;
    int workers = e->a->workers ? (int)e->a->workers : 2;
    kd_loader_free(s->loader);
    s->loader = kd_loader_new(s->set, 0, workers, 2 * workers, &t);
    return s->loader || kdc_cli_trouble(e->p, &t);
}

static void free_kept(KdcEvalSource *s) {
    for (int64_t i = 0; i < s->n_kept; i++) {
        kd_sample_free(&s->kept[i]);
    }
    free(s->kept);
    s->kept = NULL;
    s->n_kept = 0;
}

bool kdc_eval_take_net(KdcEval *e, KdcProgram *q) {
    KdcEvalSource *s = e->source;
    KdSample x = {0};
    KdTrouble t;
    kdc_eval_net_close(&s->net);
    bool ok = s->n_kept ? copy_sample(&s->kept[0], &x, &t) : kd_dataset_sample(s->set, 0, &x, &t);
    if (!ok) {
        return kdc_cli_trouble(q, &t);
    }
    ok = kdc_eval_net_open(&s->net, q, e->a, &s->files, e->a->name, kd_dataset_layout(s->set), &x) && calibrate(e);
    kd_sample_free(&x);
    return ok;
}

void kdc_eval_drop_net(KdcEval *e) {
    kdc_eval_net_close(&e->source->net);
}

bool kdc_eval_save_net(KdcEval *e, const char *path) {
    return kdc_calibrate_save(&e->source->net, path);
}

KdcStats kdc_eval_net_stats(const KdcEval *e) {
    return kdc_picture_stats(e->source->net.net);
}

/* ---- both -------------------------------------------------------------------------------------------- */

bool kdc_eval_open(KdcEval *e) {
    e->source = KD_NEW(e->p->cx, KdcEvalSource);
    return e->a->pred ? open_folders(e) : open_set(e) && open_networks(e) && calibrate(e);
}

bool kdc_eval_rewind(KdcEval *e) {
    KdcEvalSource *s = e->source;
    s->at = 0;
    s->over[0] = s->over[1] = false;
    e->list = e->pixels = KDC_EVAL_HASH_START;
    if (s->n_kept < s->count) { /* from the beginning: none is kept of a round that was left off */
        free_kept(s);
        return !s->set || open_loader(e);
    }
    return true;
}

bool kdc_eval_next(KdcEval *e, KdcEvalPair *pair, bool *done) {
    KdcEvalSource *s = e->source;
    *done = s->at >= s->count;
    if (*done) {
        return true;
    }
    bool ok = s->set ? next_of_set(e, pair) : next_of_folders(e, pair);
    s->at++;
    if (s->at == s->count) { /* threads with nothing to do until the next round */
        kd_loader_free(s->loader);
        s->loader = NULL;
    }
    return ok;
}

int kdc_eval_classes(const KdcEval *e) {
    return e->source->classes;
}

const char *kdc_eval_phase(const KdcEval *e) {
    return e->source->set ? kd_dataset_phase(e->source->set) : "";
}

int64_t kdc_eval_pictures(const KdcEval *e) {
    return e->source->count;
}

void kdc_eval_close(KdcEval *e) {
    KdcEvalSource *s = e->source;
    if (s) {
        kdc_eval_net_close(&s->net);
        kdc_eval_net_close(&s->other);
        kd_loader_free(s->loader);
        free_kept(s);
        kd_dataset_free(s->set);
        kdc_files_free(&s->files);
    }
}
