/* heat.c: see heat.h. */
#include "frontend/cli/heat.h"

#include "frontend/cli/report.h"
#include "runtime/host/dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int kdc_map_position(const KdcMap *m, int64_t x, int64_t y) {
    int row = (int)(((double)y + 0.5) / m->cell_h), column = (int)(((double)x + 0.5) / m->cell_w);
    row = row >= m->height ? m->height - 1 : row;
    column = column >= m->width ? m->width - 1 : column;
    return row * m->width + column;
}

void kdc_map_range(const KdcMap *m, double *lo, double *hi) {
    *lo = INFINITY;
    *hi = -INFINITY;
    for (int64_t i = 0; i < (int64_t)m->height * m->width; i++) {
        *lo = m->v[i] < *lo ? m->v[i] : *lo;
        *hi = m->v[i] > *hi ? m->v[i] : *hi;
    }
}

/* Between colours whose lightness rises evenly, so that order can be seen in print and by people who do not see red and
 * green. */
void kdc_heat_colour(double v, uint8_t rgb[3]) {
    static const uint8_t stop[6][3] = {{40, 10, 90},   {40, 75, 140},  {25, 125, 140},
                                       {50, 175, 115}, {160, 215, 60}, {255, 235, 60}};
    double at = (v > 0 ? v < 1 ? v : 1 : 0) * 5;
    int i = at >= 5 ? 4 : (int)at;
    for (int c = 0; c < 3; c++) {
        rgb[c] = (uint8_t)(stop[i][c] + (at - i) * (stop[i + 1][c] - stop[i][c]) + 0.5);
    }
}

/* ---- pictures ------------------------------------------------------------------------------------------- */

static uint8_t *pixel(const KdImage *x, int column, int row) {
    return (uint8_t *)x->samples + 3 * ((size_t)row * (size_t)x->width + (size_t)column);
}

static int sample_at(const KdImage *x, int64_t i) {
    return x->bits == 16 ? ((const uint16_t *)x->samples)[i] : ((const uint8_t *)x->samples)[i];
}

bool kdc_heat_rgb(const KdImage *x, KdImage *out, KdTrouble *t) {
    int64_t n = (int64_t)x->width * x->height;
    int most = 1;
    if (!kd_image_new(x->width, x->height, 3, 8, out, t)) {
        return false;
    }
    for (int64_t i = 0; i < n * x->channels; i++) {
        most = sample_at(x, i) > most ? sample_at(x, i) : most;
    }
    most = most > 64 && x->bits == 8 ? 255 : most; /* few values: labels */
    for (int64_t i = 0; i < 3 * n; i++) {
        int v = sample_at(x, x->channels == 3 ? i : i / 3);
        ((uint8_t *)out->samples)[i] = (uint8_t)(x->channels == 3 ? v : v * 255 / most);
    }
    return true;
}

bool kdc_heat_over(const KdImage *rgb, const KdcMap *m, double lo, double hi, KdImage *out, KdTrouble *t) {
    if (!kd_image_new(rgb->width, rgb->height, 3, 8, out, t)) {
        return false;
    }
    for (int r = 0; r < rgb->height; r++) {
        for (int c = 0; c < rgb->width; c++) {
            double v = m->v[kdc_map_position(m, c, r)];
            uint8_t colour[3], *to = pixel(out, c, r);
            int gray = kd_image_luma(pixel(rgb, c, r));
            kdc_heat_colour(hi > lo ? (v - lo) / (hi - lo) : 0.5, colour);
            for (int k = 0; k < 3; k++) {
                to[k] = (uint8_t)((gray * 2 + colour[k] * 3 + 2) / 5);
            }
        }
    }
    return true;
}

bool kdc_heat_chosen(const KdImage *rgb, const KdcMap *m, const bool *chosen, KdImage *out, KdTrouble *t) {
    static const uint8_t line[3] = {255, 225, 40};
    bool lines = m->cell_h >= 4 && m->cell_w >= 4;
    if (!kd_image_new(rgb->width, rgb->height, 3, 8, out, t)) {
        return false;
    }
    for (int r = 0; r < rgb->height; r++) {
        for (int c = 0; c < rgb->width; c++) {
            const uint8_t *from = pixel(rgb, c, r);
            uint8_t *to = pixel(out, c, r), dim = (uint8_t)(kd_image_luma(from) / 2);
            bool inside = chosen[kdc_map_position(m, c, r)], edge = false;
            for (int k = 0; k < 4 && inside && lines; k++) {
                int x = c + (k == 0) - (k == 1), y = r + (k == 2) - (k == 3);
                bool there = x >= 0 && y >= 0 && x < rgb->width && y < rgb->height;
                edge = edge || !there || !chosen[kdc_map_position(m, x, y)];
            }
            for (int k = 0; k < 3; k++) {
                to[k] = edge ? line[k] : inside ? from[k] : dim;
            }
        }
    }
    return true;
}

static void box(KdImage *x, int left, int top, int right, int bottom, const uint8_t colour[3]) {
    for (int r = top; r <= bottom; r++) {
        for (int c = left; c <= right; c++) {
            bool on = r == top || r == bottom || c == left || c == right;
            if (on && r >= 0 && c >= 0 && r < x->height && c < x->width) {
                memcpy(pixel(x, c, r), colour, 3);
            }
        }
    }
}

void kdc_heat_frame(KdImage *rgb, const KdcMap *m, int position, double scale, const uint8_t colour[3]) {
    enum { LEAST = 7 };
    static const uint8_t dark[3] = {0, 0, 0};
    int row = position / m->width, column = position % m->width;
    double h = m->cell_h * scale, w = m->cell_w * scale, y = (row + 0.5) * h, x = (column + 0.5) * w;
    double half_h = h > LEAST ? h / 2 : LEAST / 2.0, half_w = w > LEAST ? w / 2 : LEAST / 2.0;
    int left = (int)floor(x - half_w), right = (int)ceil(x + half_w) - 1, top = (int)floor(y - half_h),
        bottom = (int)ceil(y + half_h) - 1;
    box(rgb, left - 2, top - 2, right + 2, bottom + 2, dark); /* outside: what is framed stays to be seen */
    box(rgb, left - 1, top - 1, right + 1, bottom + 1, colour);
}

bool kdc_heat_bar(int height, double lo, double hi, bool more, KdImage *out, KdTrouble *t) {
    enum { BAR = 10, WIDTH = 60 };
    char text[32];
    if (!kd_image_new(WIDTH, height, 3, 8, out, t)) {
        return false;
    }
    memset(out->samples, 255, 3 * (size_t)WIDTH * (size_t)height);
    for (int r = 0; r < height; r++) {
        uint8_t colour[3];
        kdc_heat_colour(height > 1 ? 1 - (double)r / (height - 1) : 0.5, colour);
        for (int c = 0; c < BAR; c++) {
            memcpy(pixel(out, c, r), colour, 3);
        }
    }
    if (height >= 2 * KDC_GLYPH_HEIGHT) {
        snprintf(text, sizeof text, "%s%.3g", more ? ">" : "", hi);
        kdc_put_text(out, BAR + 4, 0, WIDTH - BAR - 4, text);
        snprintf(text, sizeof text, "%.3g", lo);
        kdc_put_text(out, BAR + 4, height - KDC_GLYPH_HEIGHT, WIDTH - BAR - 4, text);
    }
    return true;
}

/* ---- panels ---------------------------------------------------------------------------------------------- */

bool kdc_heat_panels(const KdcPanel *v, int n, KdImage *out, KdTrouble *t) {
    enum { MOST = 8 };
    KdcShown shown[MOST];
    float *planes[MOST] = {0};
    int count = 0;
    bool ok = true;
    for (int i = 0; i < n && count < MOST && ok; i++) {
        const KdImage *x = &v[i].image;
        if (!x->samples) {
            continue;
        }
        float *data = planes[count] = malloc(sizeof *data * 3 * (size_t)x->width * (size_t)x->height);
        ok = data || kd_trouble(t, true, "out of memory for a picture of %d x %d", x->width, x->height);
        if (ok) {
            kd_image_to_planes(x, data);
            shown[count++] = (KdcShown){v[i].name, 1, 3, x->height, x->width, data};
        }
    }
    ok = ok && kdc_sample_grid(shown, count, 1, out, t);
    for (int i = 0; i < MOST; i++) {
        free(planes[i]);
    }
    return ok;
}
