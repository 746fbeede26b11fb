/* image_png.c: PNG through libpng's row API. Transformations bring every colour type and depth to what is wanted; the
 * file is in memory, so that reading needs no I/O inside libpng. libpng reports errors by longjmp: setjmp stands in
 * a function of its own (guarded_*), and everything that must be freed afterwards lives in its caller's struct,
 * which the jump leaves as it is. Hostile heads: sizes are checked, also against what deflate could hold at most,
 * before rows are asked for; ancillary chunks but tRNS are skipped unread. */
#include "runtime/host/image_codec.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

enum { DEFLATE_MOST = 1032 }; /* bytes out of one byte in, at most: 258 from two bits, RFC 1951 */

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
    int width, height;
} Png;

static void on_error(png_structp png, png_const_charp why) {
    Png *s = png_get_error_ptr(png);
    kd_trouble(s->t, s->writing, "%s: %s PNG: %s", s->from, s->writing ? "writing" : "broken", why);
    longjmp(png_jmpbuf(png), 1);
}

/* libpng warns of what it mends or skips; missing or damaged samples it raises as errors. */
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
    png_set_user_limits(s->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* kd_image_size_ok is stricter, with a sentence */
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1); /* all but IHDR PLTE tRNS IDAT IEND */
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
        return kd_trouble(s->t, false,
                          "%s is an RGB image; a label map is a palette or gray PNG whose samples are the classes",
                          s->from);
    }
    uint64_t pixel_bits = (uint64_t)png_get_channels(s->png, s->info) * png_get_bit_depth(s->png, s->info);
    uint64_t stored = ((uint64_t)s->width * pixel_bits + 7) / 8 * (uint64_t)s->height;
    if (stored / DEFLATE_MOST > s->n) {
        return kd_trouble(s->t, false, "%s: broken PNG: %zu bytes cannot hold the %d x %d samples it claims", s->from,
                          s->n, s->width, s->height);
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

static bool guarded_read(Png *s, KdImageWant want, KdImage *out) {
    if (setjmp(png_jmpbuf(s->png)) != 0) {
        return false;
    }
    return read_head(s) && read_rows(s, want, out);
}

bool kd_png_decode(const char *from, const void *data, size_t n, KdImageWant want, KdImage *out, KdTrouble *t) {
    Png s = {.from = from, .p = data, .n = n, .t = t};
    bool ok = open_reader(&s) && guarded_read(&s, want, out);
    close_reader(&s);
    if (!ok) {
        kd_image_free(out);
    } else if (want == KD_IMAGE_GRAY8) { /* in place: a gray sample is never ahead of its RGB */
        kd_gray_from_rgb(out->samples, (int64_t)out->width * out->height, out->samples);
        out->channels = 1;
    }
    return ok;
}

static bool guarded_head(Png *s) {
    if (setjmp(png_jmpbuf(s->png)) != 0) {
        return false;
    }
    return read_head(s);
}

bool kd_png_probe(const char *from, const void *data, size_t n, KdImageInfo *info, KdTrouble *t) {
    Png s = {.from = from, .p = data, .n = n, .t = t};
    bool ok = open_reader(&s) && guarded_head(&s);
    if (ok) {
        int type = png_get_color_type(s.png, s.info);
        *info = (KdImageInfo){.width = s.width,
                              .height = s.height,
                              .channels = png_get_channels(s.png, s.info),
                              .bits = png_get_bit_depth(s.png, s.info),
                              .palette = type == PNG_COLOR_TYPE_PALETTE,
                              .alpha = type & PNG_COLOR_MASK_ALPHA || png_get_valid(s.png, s.info, PNG_INFO_tRNS)};
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

/* Keys as the standard has them: 1 to 79 printable characters, no space at either end. */
static bool key_ok(const char *key) {
    size_t n = strlen(key);
    bool ok = n >= 1 && n <= 79 && key[0] != ' ' && key[n - 1] != ' ';
    for (size_t i = 0; ok && i < n; i++) {
        ok = key[i] >= 32 && key[i] < 127;
    }
    return ok;
}

/* ASCII goes into tEXt; tEXt is Latin-1, so that any other UTF-8 text goes into iTXt. */
static void put_text(Png *s, const char *key, const char *value) {
    bool ascii = true;
    for (const char *p = value; *p; p++) {
        ascii = ascii && !(*p & 0x80);
    }
    png_text text = {.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                     .key = (char *)key,
                     .text = (char *)value,
                     .text_length = ascii ? strlen(value) : 0,
                     .itxt_length = ascii ? 0 : strlen(value)};
    png_set_text(s->png, s->info, &text, 1);
}

static void write_rows(Png *s, const KdImage *x, const char *const *text, int n_text) {
    png_set_write_fn(s->png, s, on_write, on_flush);
    png_set_IHDR(s->png, s->info, (png_uint_32)x->width, (png_uint_32)x->height, x->bits,
                 x->channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
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

static bool guarded_write(Png *s, const KdImage *x, const char *const *text, int n_text) {
    if (setjmp(png_jmpbuf(s->png)) != 0) {
        return false;
    }
    write_rows(s, x, text, n_text);
    return true;
}

bool kd_png_encode(const KdImage *x, const char *const *text, int n_text, void **out, size_t *n, KdTrouble *t) {
    Png s = {.from = "image", .t = t, .writing = true};
    *out = NULL;
    *n = 0;
    for (int i = 0; i + 1 < n_text; i += 2) {
        if (!key_ok(text[i])) {
            return kd_trouble(t, false,
                              "\"%.100s\" cannot name a text in a PNG: 1 to 79 ASCII characters, no space at an end",
                              text[i]);
        }
    }
    s.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    s.info = s.png ? png_create_info_struct(s.png) : NULL;
    bool ok = s.info ? guarded_write(&s, x, text, n_text) : kd_trouble(t, true, "out of memory while writing a PNG");
    png_destroy_write_struct(s.png ? &s.png : NULL, s.info ? &s.info : NULL);
    if (!ok) {
        free(s.out);
        return false;
    }
    *out = s.out;
    *n = s.out_n;
    return true;
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
