/* embedded.h: the .kd files that travel inside the binary (prelude.kd and models/). */
#ifndef KD_EMBEDDED_H
#define KD_EMBEDDED_H

#include <stddef.h>

typedef struct KdEmbedded {
    const char *name; /* "prelude.kd", "nets/unet.kd"; NULL ends the list */
    const char *text; /* NUL-terminated */
    size_t size;
} KdEmbedded;

extern const KdEmbedded kd_embedded[];

#endif
