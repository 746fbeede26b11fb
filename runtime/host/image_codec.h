/* image_codec.h: what image.c, image_png.c and image_jpeg.c share; not for others. */
#ifndef KD_HOST_IMAGE_CODEC_H
#define KD_HOST_IMAGE_CODEC_H

#include "runtime/host/image.h"

bool kd_png_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t);
bool kd_jpeg_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t);
bool kd_png_probe(const char *from, const void *data, size_t n, KdImageInfo *info, KdTrouble *t);
bool kd_jpeg_probe(const char *from, const void *data, size_t n, KdImageInfo *info, KdTrouble *t);
/* Positive and at most KD_IMAGE_MAX_PIXELS? To be asked before memory is. from: the file; NULL: an image is to be made. */
bool kd_image_size_ok(const char *from, int64_t width, int64_t height, KdTrouble *t);
void kd_gray_from_rgb(const uint8_t *rgb, int64_t pixels, uint8_t *gray); /* Pillow's luma */

#endif
