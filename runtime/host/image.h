/* image.h: PNG and JPEG to rows of samples and back, and Pillow's resampling.
 *
 * Samples are interleaved, row by row from the top, without padding. Reading converts to what the caller wants; what is
 * lost on the way is fixed here: palettes are looked up; gray is repeated to R = G = B; alpha is dropped (not blended);
 * 16-bit samples are scaled to 8 as libpng's png_set_scale_16 does; CMYK and YCCK become RGB as Pillow makes them;
 * neither gamma nor colour profiles nor EXIF orientation change a sample. A truncated or corrupt file is an error that
 * names it; none is ever returned in part. Width times height is limited to KD_IMAGE_MAX_PIXELS before memory is asked
 * for, and a PNG too short for the samples it claims is refused then too.
 */
#ifndef KD_HOST_IMAGE_H
#define KD_HOST_IMAGE_H

#include "runtime/host/file.h"

#include <stdint.h>

#define KD_IMAGE_MAX_PIXELS (1LL << 28)

typedef struct KdImage {
    int width, height;
    int channels;  /* 1 gray, 3 RGB */
    int bits;      /* of a sample: 8 (uint8_t) or 16 (uint16_t, host order) */
    void *samples; /* width * height * channels; owned: kd_image_free */
} KdImage;

typedef enum KdImageWant {
    KD_IMAGE_RGB8,  /* colour, 3 x 8 bits */
    KD_IMAGE_GRAY8, /* luma as Pillow's convert("L"): (19595 R + 38470 G + 7471 B + 32768) >> 16 */
    KD_IMAGE_INDEX, /* a label map: palette indices or gray samples as stored, 8 or 16 bits; RGB and JPEG are refused */
} KdImageWant;

uint8_t kd_image_luma(const uint8_t *rgb); /* of one pixel, as KD_IMAGE_GRAY8 */

/* By content, not by name: PNG or JPEG. false after filling *t. */
bool kd_image_read(const char *path, KdImageWant want, KdImage *out, KdTrouble *t);
/* The same from memory; `from` names it in messages. */
bool kd_image_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t);
void kd_image_free(KdImage *x); /* of a zeroed one: nothing */

typedef struct KdImageInfo {
    int width, height;
    int channels, bits; /* as stored: 1..4, 1..16; a palette has 1 channel */
    bool palette, alpha, jpeg;
} KdImageInfo;
/* From the head of the file alone. false after filling *t. */
bool kd_image_probe(const char *path, KdImageInfo *info, KdTrouble *t);

/* Is this a name of an image: .png .jpg .jpeg in any case? */
bool kd_image_name(const char *path);

/* A fresh image of channels x bits, samples not set. false when there is no memory or it is too large. */
bool kd_image_new(int width, int height, int channels, int bits, KdImage *out, KdTrouble *t);

/* PNG. text: n_text strings, pairs of a key (1 to 79 ASCII characters, no space at either end; others are refused) and
 * a value in UTF-8: tEXt when it is ASCII, iTXt else. To memory: *out is malloc'ed, n its size. */
bool kd_png_encode(const KdImage *x, const char *const *text, int n_text, void **out, size_t *n, KdTrouble *t);
bool kd_png_write(const char *path, const KdImage *x, const char *const *text, int n_text, KdTrouble *t); /* atomic */

typedef enum KdFilter { KD_FILTER_NEAREST, KD_FILTER_BILINEAR, KD_FILTER_BICUBIC } KdFilter;

/* Pillow's Image.resize, to the bit for 8-bit samples: separable, support scaled when shrinking, a = -0.5, 22-bit
 * fixed-point coefficients, an 8-bit intermediate after the horizontal pass. NEAREST: the sample at
 * floor((i + 0.5) * in / out), added up in double as Pillow does; any bits. 16-bit images: NEAREST only. */
bool kd_image_resize(const KdImage *x, int width, int height, KdFilter filter, KdImage *out, KdTrouble *t);
/* The rectangle at (left, top); it must lie inside. */
bool kd_image_crop(const KdImage *x, int left, int top, int width, int height, KdImage *out, KdTrouble *t);
void kd_image_mirror(KdImage *x); /* left to right, in place */

#endif
