/* picture.h: a network of the file as a function from pictures to pictures of any size.
 *
 * Each size that comes up is compiled as a program of its own; the weights are the command's program's, filled once and
 * shared by all sizes. The sizes used last are kept: at most four, and not more than about a GiB of activations together, so
 * memory is bounded however many sizes a folder has.
 *
 * A size that the network cannot take, or gives back in another size, is made larger: to the next multiple of 2, 4, 8, ...
 * 1024 that works, by mirroring at the right and lower edge (as numpy's "reflect"), and what comes out is cut. A result may
 * also be a whole number of times as large as what went in.
 *
 * What a network may take: f32 [1, 3, h, w] (colour), f32 [1, 1, h, w] (gray), u8 [1, 3, h, w] (as stored), and of a label map f32
 * [1, classes, h, w] (one channel a class, 1 where it is; a label that is no class is 0 in all) or i32 [1, h, w] or [1, 1, h, w].
 * What it may give: f32 [1, 3, h, w], [1, 1, h, w], or [1, classes, h, w], of which the class of the largest value is the result.
 */
#ifndef KDC_PICTURE_H
#define KDC_PICTURE_H

#include "frontend/cli/tensors.h"
#include "runtime/host/image.h"

typedef struct KdcPictureNet KdcPictureNet;

/* Looks at what network `name` of p takes, with pictures of height x width (0: not known yet). f may be freed after the
 * first run. NULL after messages in p. Free before p is closed. */
KdcPictureNet *kdc_picture_net(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, const char *name, int height, int width);
/* The same, for what it has inside: `tap` names a feature as --tap does ("down[2]"), f32 [1, c, h, w]; what the network
 * gives need then be no picture. NULL also where there is no such tap. tap NULL: what it gives, of any shape. */
KdcPictureNet *kdc_feature_net(KdcProgram *p, const KdcArgs *a, const KdcFiles *f, const char *name, const char *tap,
                               int height, int width);
void kdc_picture_free(KdcPictureNet *n); /* NULL is fine */

/* How a picture for it must be read. */
KdImageWant kdc_picture_want(const KdcPictureNet *n);

typedef struct KdcPictureRun { /* of one run */
    double seconds;            /* in the network alone */
    bool compiled;             /* this size is new */
    int height, width;         /* as the network saw it: padded */
} KdcPictureRun;

/* in: as kdc_picture_want says. out: gray or RGB with 8 bits, or a label map (of a feature net that gives none: no
 * samples); kd_image_free. false: with messages in p, nothing will work any more; without, it is this picture that does
 * not, and *t says why. */
bool kdc_picture_run(KdcPictureNet *n, const KdImage *in, KdImage *out, KdcPictureRun *r, KdTrouble *t);

KdcStats kdc_picture_stats(const KdcPictureNet *n); /* of what ran last; zeros: nothing did */

/* The network's own output of the last run, f32 [1, c, h, w], before cutting. NULL: there was none. */
const KdcTensor *kdc_picture_output(const KdcPictureNet *n);
/* The tap of the last run, of the picture as the network saw it: padded. */
const KdcTensor *kdc_picture_feature(const KdcPictureNet *n);
/* What the network was given in the last run, padded. NULL: there was none. */
const KdcTensor *kdc_picture_input(const KdcPictureNet *n);
/* Writes a picture as element i of `in`, which is as kdc_picture_input but for its batch, as a run would. */
void kdc_picture_put(const KdcPictureNet *n, const KdImage *x, const KdcTensor *in, int64_t i);

/* Its weights and buffers, all of them after the first run; whoever writes one says so with kdc_picture_changed. */
KdcTensor *const *kdc_picture_weights(const KdcPictureNet *n, int *count);
void kdc_picture_changed(KdcPictureNet *n);

#endif
