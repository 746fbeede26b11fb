/* files.h: what `kdc export` puts into artefacts and writes beside them: artefact.c as bitcode ("x86_64.bc", "aarch64.bc") and
 * the samples ("sample_rgb8.txt", "sample_float.txt"). */
#ifndef KDX_FILES_H
#define KDX_FILES_H

#include <stddef.h>

typedef struct KdxFile {
    const char *name; /* NULL ends the list */
    const char *bytes; /* a NUL follows the last */
    size_t n;
} KdxFile;

extern const KdxFile kdx_files[];

#endif
