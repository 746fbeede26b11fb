/* heat.h: maps over positions drawn on pictures: colours, frames, panels side by side. A position covers cell_h x
 * cell_w pixels. */
#ifndef KDC_HEAT_H
#define KDC_HEAT_H

#include "runtime/host/image.h"

typedef struct KdcMap {
    int height, width; /* positions */
    double cell_h, cell_w;
    const double *v;
} KdcMap;

int kdc_map_position(const KdcMap *m, int64_t x, int64_t y); /* that covers the pixel (x, y) */
void kdc_map_range(const KdcMap *m, double *lo, double *hi);

void kdc_heat_colour(double v, uint8_t rgb[3]); /* 0: dark blue, through green, to 1: yellow; cut off outside */

/* Anything that can be read as a picture, for looking at: RGB8; of a label map, grays that differ. */
bool kdc_heat_rgb(const KdImage *x, KdImage *out, KdTrouble *t);
/* The picture in gray under the map's colours, lo to hi. */
bool kdc_heat_over(const KdImage *rgb, const KdcMap *m, double lo, double hi, KdImage *out, KdTrouble *t);
/* The picture where chosen[position], darker and gray elsewhere, with a line between. */
bool kdc_heat_chosen(const KdImage *rgb, const KdcMap *m, const bool *chosen, KdImage *out, KdTrouble *t);
/* A frame around a position, on a picture `scale` times as large as what the map is of; never smaller than
 * can be seen. */
void kdc_heat_frame(KdImage *rgb, const KdcMap *m, int position, double scale, const uint8_t colour[3]);
/* The colours from hi, above, to lo, with these numbers; `more`: what is above hi has its colour. */
bool kdc_heat_bar(int height, double lo, double hi, bool more, KdImage *out, KdTrouble *t);

typedef struct KdcPanel {
    const char *name;
    KdImage image;
} KdcPanel;
/* Side by side under their names; those without samples are left out. */
bool kdc_heat_panels(const KdcPanel *v, int n, KdImage *out, KdTrouble *t);

#endif
