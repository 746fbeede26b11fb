/* dataset.h: folders of images as people have them, to samples in a reproducible order.
 *
 * Layouts (the conventions of pix2pix, CycleGAN, pix2pixHD):
 *   aligned    root/PHASE/X.jpg      A left, B right, each half of the width
 *   unpaired   root/PHASE + A, root/PHASE + B (trainA, trainB)
 *   folders    root/A/PHASE/X, root/B/PHASE/X (or root/A/X, root/B/X) with equal stems
 *   labels     root/PHASE_label/X.png (class indices), root/PHASE_img/X (or, when that is not there, the B-free half of
 *              root/aligned/PHASE or root/PHASE), root/PHASE_inst/X.png (optional, instance ids)
 *   plain      root/PHASE/X, or root/X: single images
 * Stems are matched after dropping the conventional suffixes (_leftImg8bit, _gtFine_labelIds, _gtFine_instanceIds, _A,
 * _B).
 *
 * A sample is a pure function of (options, its number): number s belongs to epoch s / count; within an epoch items come
 * in an order drawn from (seed, epoch); crop and flip are drawn from (seed, s), the same for all images of a sample
 * that belong together (of an unpaired sample A and B draw their own). So a run goes on from any number with nothing
 * saved.
 */
#ifndef KD_HOST_DATASET_H
#define KD_HOST_DATASET_H

#include "runtime/host/image.h"

typedef enum KdLayout {
    KD_LAYOUT_AUTO, KD_LAYOUT_ALIGNED, KD_LAYOUT_UNPAIRED, KD_LAYOUT_FOLDERS, KD_LAYOUT_LABELS, KD_LAYOUT_PLAIN,
} KdLayout;
const char *kd_layout_name(KdLayout l); /* "aligned" */

typedef enum KdPreprocess {
    KD_PRE_RESIZE_AND_CROP,      /* to load_h x load_w (bicubic, aspect not kept), random crop */
    KD_PRE_CROP,                 /* random crop; smaller images are an error that names them */
    KD_PRE_SCALE_WIDTH,          /* to load_w, aspect kept; then the height must be crop_h */
    KD_PRE_SCALE_WIDTH_AND_CROP, /* to load_w, aspect kept (never below crop_h high), random crop */
    KD_PRE_NONE,                 /* height and width rounded to multiples of 4 (bicubic when that changes them) */
} KdPreprocess;
bool kd_layout_named(const char *name, KdLayout *l);          /* not "auto" */
bool kd_preprocess_named(const char *name, KdPreprocess *p); /* "resize_and_crop", "resize-and-crop", ... */

typedef struct KdDataOptions {
    const char *root;
    const char *phase;      /* "train"; NULL: train (test: test), else what there is. Images without phases serve any */
    KdLayout layout;        /* AUTO: by what is there, from `wanted` where several fit */
    KdLayout wanted;        /* what the session says: ALIGNED (also FOLDERS), UNPAIRED, LABELS, PLAIN; AUTO: any */
    bool b_to_a;            /* the first image of a pair is B */
    KdPreprocess preprocess;
    int load_h, load_w;     /* 0: crop * 286 / 256 when train, crop else */
    int crop_h, crop_w;     /* of every sample; 0 only with KD_PRE_NONE or KD_PRE_SCALE_WIDTH (sizes then differ) */
    bool no_flip;
    bool test;              /* no randomness: order by name, load = crop, centre crop, no flip */
    bool serial;            /* unpaired: B by number too, not at random; order by name */
    int64_t limit;          /* use at most so many items; 0: all */
    int64_t hold_out;       /* so many items (of each folder of an unpaired set) are held out, drawn with a seed of its own: the same
                               for the same number of items; 0: none */
    bool held;              /* only those that are held out, instead of only the others */
    double share;           /* between 0 and 1: so much of the items (at least one), drawn with a seed of its own: the same for
                               the same number of items, and a smaller share is part of a larger one; 0: all */
    bool others;            /* those that are not in the share instead; if there are none, all */
    int classes;            /* labels: values 0..classes-1 (others are an error that names file and value); 0: 256 */
    int ignore;             /* labels: a value that is allowed besides; -1: none */
    uint64_t seed;
} KdDataOptions;

typedef struct KdDataset KdDataset;

/* Lists and matches; decodes nothing. false/NULL after *t: no folder, no images, nothing matches (with an example). */
KdDataset *kd_dataset_open(const KdDataOptions *o, KdTrouble *t);
void kd_dataset_free(KdDataset *d);
KdLayout kd_dataset_layout(const KdDataset *d);
const char *kd_dataset_phase(const KdDataset *d); /* "train"; "": images without phases */
/* The phases at which the layout has images, train, val and test first; each and the list are the caller's to free. */
bool kd_dataset_phases(const char *root, KdLayout layout, char ***phase, int *n, KdTrouble *t);
int64_t kd_dataset_count(const KdDataset *d); /* samples of an epoch; unpaired: the larger folder's */
int64_t kd_dataset_of(const KdDataset *d);    /* the same if there were no share */
const char *kd_dataset_path(const KdDataset *d, int64_t item); /* of its first file */
/* Images of a sample: 1 (plain), 2 (pair, unpaired), 2 or 3 (labels first: label, image, instance). */
int kd_dataset_images(const KdDataset *d);
/* What decoding one image takes, by the largest of the first few: for the memory plan, times the number of workers. */
int64_t kd_dataset_decode_bytes(const KdDataset *d);

typedef struct KdSample {
    int n;
    KdImage image[3];    /* RGB8; label and instance maps: KD_IMAGE_INDEX */
    const char *name[3]; /* paths, owned by the dataset */
    bool mirrored[3];
} KdSample;
/* Any thread. The images are the caller's: kd_sample_free. */
bool kd_dataset_sample(const KdDataset *d, int64_t number, KdSample *s, KdTrouble *t);
void kd_sample_free(KdSample *s);

/* Decoding ahead: worker threads make samples first, first + 1, ...; next hands them out in that order. */
typedef struct KdLoader KdLoader;
KdLoader *kd_loader_new(const KdDataset *d, int64_t first, int workers, int ahead, KdTrouble *t);
/* false: this sample's error; the next call goes on with the one after it. One thread at a time. */
bool kd_loader_next(KdLoader *l, KdSample *s, KdTrouble *t);
double kd_loader_waited(const KdLoader *l); /* seconds that next has waited so far */
void kd_loader_free(KdLoader *l);

/* Pictures of kinds that are not read, counted by the endings of their names, in any case: of ".bmp" first. */
enum { KD_OTHER_KINDS = 12 };
const char *kd_other_kind(int kind); /* ".bmp" */
/* "12 files of other kinds are not read: .bmp 10, .webp 2; PNG and JPEG are". false and "": none. */
bool kd_other_kinds_text(const int64_t count[KD_OTHER_KINDS], char *text, size_t size);

/* `kdc data`: decodes everything. Each finding is a line "path: what", in the order of the lists: first what cannot be
 * read, has a wrong label, or does not fit a crop size that the options give; then what has no counterpart. */
typedef struct KdDataReport {
    int64_t items, images; /* samples of an epoch; image files looked at */
    int64_t unreadable, wrong, unmatched;
    int min_w, min_h, max_w, max_h; /* of stored images and label maps; 0: none was readable */
    int label_min, label_max;       /* -1: no labels */
    int64_t labels;                 /* different labels that occur */
    uint8_t occurs[65536 / 8];      /* label v: bit v % 8 of byte v / 8 */
    int64_t gray, alpha, sixteen;   /* images (not maps) of such kinds */
    int64_t other[KD_OTHER_KINDS];  /* beside the images, in the same folders */
    int n_lines;
    char **line;
} KdDataReport;
bool kd_dataset_check(const KdDataset *d, int workers, KdDataReport *r, KdTrouble *t);
void kd_data_report_free(KdDataReport *r);

/* [3, h, w] f32 in [-1, 1] ((v / 255 - 0.5) / 0.5), planes from interleaved RGB8. */
void kd_image_to_planes(const KdImage *x, float *out);
/* And back: (v + 1) / 2 * 255, clamped to 0..255 (NaN: 0), to nearest (truncate: PyTorch scripts' cast). 1 or 3 planes. */
bool kd_image_from_planes(const float *x, int channels, int height, int width, bool truncate, KdImage *out,
                          KdTrouble *t);

#endif
