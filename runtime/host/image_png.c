/* image_png.c: PNG through libpng's row API. Transformations bring every colour type and depth to what is wanted; the file is
 * in memory, so that reading needs no I/O inside libpng. libpng reports errors by longjmp: everything that must be freed
 * afterwards lives in a struct that the jump does not touch. */
#include "runtime/host/image_codec.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

typedef struct Png {
    const char *from;
    const unsigned char *p;
    size_t n, at;
    KdTrouble *t;
    bool writing;
    png_structp png;
    png_infop info;
    png_bytep *rows;
    unsigned char *out; /* writing: the bytes so far */
    size_t out_n, out_room;
    bool bad;
    int width, height;
} Png;

static void on_error(png_structp png, png_const_charp why) {
    Png *s = png_get_error_ptr(png);
    kd_trouble(s->t, s->writing, "%s: %s PNG: %s", s->from, s->writing ? "writing" : "broken", why);
    longjmp(png_jmpbuf(png), 1);
}

/* libpng warns of what it mends; but data that end early are errors for us too, and those it raises itself. */
static void on_warning(png_structp png, png_const_charp why) {
    (void)png, (void)why;
}

static void on_read(png_structp png, png_bytep to, size_t n) {
    Png *s = png_get_io_ptr(png);
    if (n > s->n - s->at) {
        png_error(png, "it ends early");
    }
    memcpy(to, s->p + s->at, n);
    s->at += n;
}

static bool open_reader(Png *s) {
    s->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
    s->info = s->png ? png_create_info_struct(s->png) : NULL;
    if (!s->info) {
        return kd_trouble(s->t, true, "%s: out of memory", s->from);
    }
    png_set_read_fn(s->png, s, on_read);
    png_set_user_limits(s->png, 0x7fffff, 0x7fffff);
    png_set_chunk_cache_max(s->png, 64);
    png_set_chunk_malloc_max(s->png, 8u << 20);
    return true;
}

static void close_reader(Png *s) {
    png_destroy_read_struct(s->png ? &s->png : NULL, s->info ? &s->info : NULL, NULL);
    free(s->rows);
}

static void set_transforms(Png *s, KdImageWant want) {
    int type = png_get_color_type(s->png, s->info), bits = png_get_bit_depth(s->png, s->info);
    if (want == KD_IMAGE_INDEX) { /* as stored: small samples unpacked, alpha dropped, 16 bits in host order */
        png_set_packing(s->png);
        if (type & PNG_COLOR_MASK_ALPHA) {
            png_set_strip_alpha(s->png);
        }
        if (bits == 16 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) {
            png_set_swap(s->png);
        }
    } else {
        if (bits == 16) {
            png_set_scale_16(s->png);
        }
        if (type == PNG_COLOR_TYPE_PALETTE) {
            png_set_palette_to_rgb(s->png);
        }
        if (!(type & PNG_COLOR_MASK_COLOR)) {
            png_set_expand_gray_1_2_4_to_8(s->png);
            png_set_gray_to_rgb(s->png);
        }
        png_set_strip_alpha(s->png);
    }
    png_set_interlace_handling(s->png);
    png_read_update_info(s->png, s->info);
}

static bool read_rows(Png *s, KdImageWant want, KdImage *out) {
    int type = png_get_color_type(s->png, s->info);
    if (want == KD_IMAGE_INDEX && (type & PNG_COLOR_MASK_COLOR) && type != PNG_COLOR_TYPE_PALETTE) {
        return kd_trouble(s->t, false, "%s is an RGB image; a label map is a palette or gray PNG whose samples are the classes", s->from);
    }
    set_transforms(s, want);
    bool index = want == KD_IMAGE_INDEX;
    int bits = index && png_get_bit_depth(s->png, s->info) == 16 ? 16 : 8;
    if (!kd_image_new(s->width, s->height, index ? 1 : 3, bits, out, s->t)) {
        return false;
    }
    size_t row = (size_t)s->width * (size_t)out->channels * (bits == 16 ? 2 : 1);
    if (png_get_rowbytes(s->png, s->info) != row) {
        png_error(s->png, "rows of an unexpected size");
    }
    s->rows = malloc(sizeof *s->rows * (size_t)s->height);
    if (!s->rows) {
        return kd_trouble(s->t, true, "%s: out of memory", s->from);
    }
    for (int r = 0; r < s->height; r++) {
        s->rows[r] = (png_bytep)out->samples + (size_t)r * row;
    }
    png_read_image(s->png, s->rows);
    png_read_end(s->png, NULL);
    return true;
}

static bool read_head(Png *s) {
    png_read_info(s->png, s->info);
    int64_t w = png_get_image_width(s->png, s->info), h = png_get_image_height(s->png, s->info);
    if (!kd_image_size_ok(s->from, w, h, s->t)) {
        return false;
    }
    s->width = (int)w;
    s->height = (int)h;
    return true;
}

bool kd_png_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t) {
    Png s = {.from = from, .p = data, .n = n, .t = t};
    volatile bool ok = false;
    if (!open_reader(&s)) {
        close_reader(&s);
        return false;
    }
    if (setjmp(png_jmpbuf(s.png)) == 0) {
        ok = read_head(&s) && read_rows(&s, want, out);
    } else {
        ok = false;
    }
    close_reader(&s);
    if (!ok) {
        kd_image_free(out);
    } else if (want == KD_IMAGE_GRAY8) { /* in place: a gray sample is never ahead of its RGB */
        kd_gray_from_rgb(out->samples, (int64_t)out->width * out->height, out->samples);
        out->channels = 1;
    }
    return ok;
}

bool kd_png_probe(const char *from, const void *data, size_t n, KdImageInfo *info, KdTrouble *t) {
    Png s = {.from = from, .p = data, .n = n, .t = t};
    volatile bool ok = false;
    if (open_reader(&s) && setjmp(png_jmpbuf(s.png)) == 0 && read_head(&s)) {
        int type = png_get_color_type(s.png, s.info);
        info->width = s.width;
        info->height = s.height;
        info->channels = png_get_channels(s.png, s.info);
        info->bits = png_get_bit_depth(s.png, s.info);
        info->palette = type == PNG_COLOR_TYPE_PALETTE;
        info->alpha = type & PNG_COLOR_MASK_ALPHA || png_get_valid(s.png, s.info, PNG_INFO_tRNS);
        ok = true;
    }
    close_reader(&s);
    return ok;
}

/* ---- writing ---------------------------------------------------------------------------------------- */

static void on_write(png_structp png, png_bytep from, size_t n) {
    Png *s = png_get_io_ptr(png);
    if (n > s->out_room - s->out_n) {
        size_t room = 2 * s->out_room + n + 4096;
        unsigned char *more = realloc(s->out, room);
        if (!more) {
            png_error(png, "out of memory");
        }
        s->out = more;
        s->out_room = room;
    }
    memcpy(s->out + s->out_n, from, n);
    s->out_n += n;
}

static void on_flush(png_structp png) {
    (void)png;
}

/* tEXt is Latin-1: what is not printable ASCII becomes '?'; keys have 1 to 79 characters. */
static void put_text(Png *s, const char *key, const char *value) {
    char clean_key[80], clean[1024];
    size_t k = 0, v = 0;
    for (const char *p = key; *p && k < sizeof clean_key - 1; p++) {
        clean_key[k++] = *p >= 32 && *p < 127 ? *p : '?';
    }
    for (const char *p = value; *p && v < sizeof clean - 1; p++) {
        clean[v++] = *p >= 32 && *p < 127 ? *p : '?';
    }
    clean_key[k] = clean[v] = '\0';
    png_text text = {.compression = PNG_TEXT_COMPRESSION_NONE, .key = clean_key, .text = clean, .text_length = v};
    if (k) {
        png_set_text(s->png, s->info, &text, 1);
    }
}

static void write_rows(Png *s, const KdImage *x, const char *const *text, int n_text) {
    png_set_write_fn(s->png, s, on_write, on_flush);
    png_set_IHDR(s->png, s->info, (png_uint_32)x->width, (png_uint_32)x->height, x->bits,
                 x->channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(s->png, 6);
    for (int i = 0; i + 1 < n_text; i += 2) {
        put_text(s, text[i], text[i + 1]);
    }
    png_write_info(s->png, s->info);
    if (x->bits == 16 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) {
        png_set_swap(s->png);
    }
    size_t row = (size_t)x->width * (size_t)x->channels * (x->bits == 16 ? 2 : 1);
    for (int r = 0; r < x->height; r++) {
        png_write_row(s->png, (png_const_bytep)x->samples + (size_t)r * row);
    }
    png_write_end(s->png, s->info);
}

bool kd_png_encode(const KdImage *x, const char *const *text, int n_text, void **out, size_t *n, KdTrouble *t) {
    Png s = {.from = "image", .t = t, .writing = true};
    volatile bool ok = false;
    s.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    s.info = s.png ? png_create_info_struct(s.png) : NULL;
    if (!s.info) {
        kd_trouble(t, true, "out of memory while writing a PNG");
    } else if (setjmp(png_jmpbuf(s.png)) == 0) {
        write_rows(&s, x, text, n_text);
        ok = true;
    }
    png_destroy_write_struct(s.png ? &s.png : NULL, s.info ? &s.info : NULL);
    if (!ok) {
        free(s.out);
        s.out = NULL;
    }
    *out = s.out;
    *n = s.out_n;
    return ok;
}

bool kd_png_write(const char *path, const KdImage *x, const char *const *text, int n_text, KdTrouble *t) {
    void *data;
    size_t n;
    if (!kd_png_encode(x, text, n_text, &data, &n, t)) {
        return false;
    }
    bool ok = kd_file_write(path, data, n, t);
    free(data);
    return ok;
}
