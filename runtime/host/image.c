/* image.c: what PNG and JPEG share: memory, kinds by content, crop, mirror. See image.h. */
#include "runtime/host/image_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool kd_image_size_ok(const char *from, int64_t width, int64_t height, KdTrouble *t) {
    if (width < 1 || height < 1 || width > INT32_MAX / 8 || height > INT32_MAX / 8 ||
        width > KD_IMAGE_MAX_PIXELS / height) {
        const long long w = width, h = height, most = KD_IMAGE_MAX_PIXELS;
        return from ? kd_trouble(t, false, "%s: an image of %lld x %lld; at most %lld pixels are read", from, w, h, most)
                    : kd_trouble(t, false, "an image cannot be %lld x %lld: sides are at least 1, with at most %lld pixels "
                                           "in all", w, h, most);
    }
    return true;
}

static size_t sample_bytes(const KdImage *x) {
    return x->bits == 16 ? 2 : 1;
}

static size_t row_bytes(const KdImage *x) {
    return (size_t)x->width * (size_t)x->channels * sample_bytes(x);
}

bool kd_image_new(int width, int height, int channels, int bits, KdImage *out, KdTrouble *t) {
    *out = (KdImage){width, height, channels, bits, NULL};
    if (!kd_image_size_ok(NULL, width, height, t)) {
        return false;
    }
    out->samples = malloc(row_bytes(out) * (size_t)height);
    return out->samples || kd_trouble(t, true, "out of memory: an image of %d x %d", width, height);
}

void kd_image_free(KdImage *x) {
    free(x->samples);
    *x = (KdImage){0};
}

bool kd_image_name(const char *path) {
    static const char *const endings[] = {".png", ".jpg", ".jpeg"};
    const char *dot = strrchr(path, '.');
    for (int i = 0; dot && i < 3; i++) {
        if (strcasecmp(dot, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_png(const unsigned char *p, size_t n) {
    return n >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0;
}

static bool is_jpeg(const unsigned char *p, size_t n) {
    return n >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff;
}

static bool unknown(const char *from, size_t n, KdTrouble *t) {
    return kd_trouble(t, false, n ? "%s is neither PNG nor JPEG" : "%s is empty", from);
}

bool kd_image_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t) {
    *out = (KdImage){0};
    if (is_png(data, n)) {
        return kd_png_decode(from, data, n, want, out, t);
    }
    return is_jpeg(data, n) ? kd_jpeg_decode(from, data, n, want, out, t) : unknown(from, n, t);
}

bool kd_image_read(const char *path, KdImageWant want, KdImage *out, KdTrouble *t) {
    size_t n;
    char *data = kd_file_plain(path, t) ? kd_file_read(path, &n, t) : NULL;
    *out = (KdImage){0};
    if (!data) {
        return false;
    }
    bool ok = kd_image_decode(path, data, n, want, out, t);
    free(data);
    return ok;
}

static bool probe(const char *from, const void *data, size_t n, KdImageInfo *info, KdTrouble *t) {
    *info = (KdImageInfo){0};
    return is_png(data, n)    ? kd_png_probe(from, data, n, info, t)
           : is_jpeg(data, n) ? kd_jpeg_probe(from, data, n, info, t)
                              : unknown(from, n, t);
}

/* Folders of thousands are probed: a first piece of the file mostly has it all. If not, the whole file decides. */
bool kd_image_probe(const char *path, KdImageInfo *info, KdTrouble *t) {
    char head[8192];
    *info = (KdImageInfo){0};
    if (!kd_file_plain(path, t)) {
        return false;
    }
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) {
        fclose(f);
    }
    if (n > 0 && probe(path, head, n, info, t)) {
        return true;
    }
    *info = (KdImageInfo){0};
    char *data = kd_file_read(path, &n, t);
    bool ok = data && probe(path, data, n, info, t);
    free(data);
    return ok;
}

uint8_t kd_image_luma(const uint8_t *rgb) {
    return (uint8_t)((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16);
}

void kd_gray_from_rgb(const uint8_t *rgb, int64_t pixels, uint8_t *gray) {
    for (int64_t i = 0; i < pixels; i++) {
        gray[i] = kd_image_luma(rgb + 3 * i);
    }
}

bool kd_image_crop(const KdImage *x, int left, int top, int width, int height, KdImage *out, KdTrouble *t) {
    *out = (KdImage){0};
    if (left < 0 || top < 0 || width < 1 || height < 1 || left > x->width - width || top > x->height - height) {
        return kd_trouble(t, false, "a crop of %d x %d at (%d, %d) does not lie inside %d x %d", width, height, left,
                          top, x->width, x->height);
    }
    if (!kd_image_new(width, height, x->channels, x->bits, out, t)) {
        return false;
    }
    size_t from = row_bytes(x), to = row_bytes(out), skip = (size_t)left * (size_t)x->channels * sample_bytes(x);
    for (int r = 0; r < height; r++) {
        memcpy((char *)out->samples + (size_t)r * to, (const char *)x->samples + (size_t)(top + r) * from + skip, to);
    }
    return true;
}

void kd_image_mirror(KdImage *x) {
    size_t pixel = (size_t)x->channels * sample_bytes(x), row = row_bytes(x);
    char swap[8];
    for (int r = 0; r < x->height; r++) {
        char *a = (char *)x->samples + (size_t)r * row, *b = a + row - pixel;
        for (; a < b; a += pixel, b -= pixel) {
            memcpy(swap, a, pixel);
            memcpy(a, b, pixel);
            memcpy(b, swap, pixel);
        }
    }
}
