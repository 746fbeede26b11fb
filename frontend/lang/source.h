/* source.h: reading a program's files. Private to frontend/lang. */
#ifndef KD_SOURCE_H
#define KD_SOURCE_H

#include "frontend/lang/elaborate.h"

/* Fills p->modules (the prelude first, imported before importing) and p->main. text NULL: read the file.
 * false after diagnostics. */
bool kd_load_sources(KdProgram *p, const char *file, const char *text, size_t n);

#endif
