/* image_jpeg.c: JPEG through libjpeg-turbo, with the decoder settings that Pillow uses (islow DCT, fancy upsampling),
 * so that pixels agree. A warning of the decoder (a truncated file decodes to a gray rest) is an error here. Errors
 * arrive by longjmp: setjmp stands in a function of its own (guarded_*), what must be freed in its caller's struct. */
#include "runtime/host/image_codec.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h> /* needs stdio.h before it */

#include <jerror.h>

enum { MAX_SCANS = 100 }; /* a few kilobytes of progressive scans could cost minutes */

typedef struct Jpeg {
    struct jpeg_error_mgr errors; /* first: libjpeg hands back a pointer to it */
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct jpeg;
    jmp_buf landing;
    const char *from;
    KdTrouble *t;
    unsigned char *cmyk; /* a row */
} Jpeg;

static void say(Jpeg *s, j_common_ptr jpeg) {
    char why[JMSG_LENGTH_MAX];
    jpeg->err->format_message(jpeg, why);
    int code = jpeg->err->msg_code;
    bool cut = code == JWRN_JPEG_EOF || code == JERR_INPUT_EOF;
    kd_trouble(s->t, code == JERR_OUT_OF_MEMORY, "%s: %s JPEG: %s", s->from, cut ? "truncated" : "broken", why);
}

static void on_error(j_common_ptr jpeg) {
    Jpeg *s = (Jpeg *)jpeg->err;
    say(s, jpeg);
    longjmp(s->landing, 1);
}

/* level -1: the data are damaged. */
static void on_message(j_common_ptr jpeg, int level) {
    if (level < 0) {
        on_error(jpeg);
    }
}

static void on_progress(j_common_ptr jpeg) {
    struct jpeg_decompress_struct *d = (struct jpeg_decompress_struct *)jpeg;
    Jpeg *s = (Jpeg *)jpeg->err;
    if (d->input_scan_number > MAX_SCANS) {
        kd_trouble(s->t, false, "%s: a JPEG of more than %d scans", s->from, MAX_SCANS);
        longjmp(s->landing, 1);
    }
}

static void begin(Jpeg *s, const void *data, size_t n) {
    jpeg_create_decompress(&s->jpeg);
    s->progress.progress_monitor = on_progress;
    s->jpeg.progress = &s->progress;
    s->jpeg.mem->max_memory_to_use = 1L << 30;
    jpeg_mem_src(&s->jpeg, data, (unsigned long)n);
    jpeg_read_header(&s->jpeg, TRUE);
}

/* Pillow takes every CMYK JPEG for one with Adobe's inverted samples, and so c, m, y and k here are 255 - ink. */
static void rgb_of_cmyk(const unsigned char *in, int width, unsigned char *out) {
    for (int i = 0; i < width; i++) {
        for (int c = 0; c < 3; c++) {
            unsigned v = (unsigned)in[4 * i + c] * in[4 * i + 3] + 128u; /* divided by 255, rounded */
            out[3 * i + c] = (unsigned char)(((v >> 8) + v) >> 8);
        }
    }
}

static bool read_rows(Jpeg *s, KdImageWant want, KdImage *out) {
    struct jpeg_decompress_struct *d = &s->jpeg;
    bool cmyk = d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK;
    bool gray = want == KD_IMAGE_GRAY8 && d->jpeg_color_space == JCS_GRAYSCALE;
    if (!kd_image_size_ok(s->from, d->image_width, d->image_height, s->t) ||
        !kd_image_new((int)d->image_width, (int)d->image_height, gray ? 1 : 3, 8, out, s->t)) {
        return false;
    }
    d->out_color_space = cmyk ? JCS_CMYK : gray ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(d);
    s->cmyk = cmyk ? malloc((size_t)d->output_width * 4) : NULL;
    if (cmyk && !s->cmyk) {
        return kd_trouble(s->t, true, "%s: out of memory", s->from);
    }
    while (d->output_scanline < d->output_height) {
        size_t row_bytes = (size_t)out->width * (size_t)out->channels;
        unsigned char *row = (unsigned char *)out->samples + d->output_scanline * row_bytes;
        JSAMPROW to = cmyk ? s->cmyk : row;
        jpeg_read_scanlines(d, &to, 1);
        if (cmyk) {
            rgb_of_cmyk(s->cmyk, out->width, row);
        }
    }
    jpeg_finish_decompress(d);
    if (want == KD_IMAGE_GRAY8 && !gray) { /* in place: a gray sample is never ahead of its RGB */
        kd_gray_from_rgb(out->samples, (int64_t)out->width * out->height, out->samples);
        out->channels = 1;
    }
    return true;
}

static void prepare(Jpeg *s) {
    s->jpeg.err = jpeg_std_error(&s->errors);
    s->errors.error_exit = on_error;
    s->errors.emit_message = on_message;
}

static bool guarded_read(Jpeg *s, const void *data, size_t n, KdImageWant want, KdImage *out) {
    if (setjmp(s->landing) != 0) {
        return false;
    }
    begin(s, data, n);
    return read_rows(s, want, out);
}

bool kd_jpeg_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t) {
    Jpeg s = {.from = from, .t = t};
    if (want == KD_IMAGE_INDEX) {
        return kd_trouble(t, false, "%s is a JPEG, whose samples are not exact; a label map is a palette or gray PNG",
                          from);
    }
    prepare(&s);
    bool ok = guarded_read(&s, data, n, want, out);
    jpeg_destroy_decompress(&s.jpeg);
    free(s.cmyk);
    if (!ok) {
        kd_image_free(out);
    }
    return ok;
}

static bool guarded_head(Jpeg *s, const void *data, size_t n) {
    if (setjmp(s->landing) != 0) {
        return false;
    }
    begin(s, data, n);
    return true;
}

bool kd_jpeg_probe(const char *from, const void *data, size_t n, KdImageInfo *info, KdTrouble *t) {
    Jpeg s = {.from = from, .t = t};
    prepare(&s);
    bool ok = guarded_head(&s, data, n) && kd_image_size_ok(from, s.jpeg.image_width, s.jpeg.image_height, t);
    if (ok) {
        *info = (KdImageInfo){.width = (int)s.jpeg.image_width,
                              .height = (int)s.jpeg.image_height,
                              .channels = s.jpeg.num_components,
                              .bits = 8,
                              .jpeg = true};
    }
    jpeg_destroy_decompress(&s.jpeg);
    return ok;
}
