/* file.h: files that are either there whole or not at all, and the two ways they can go wrong.
 *
 * Writing goes to a temporary name in the same folder; kd_file_commit syncs it, renames it over the target and syncs the
 * folder. Until then the old file stands untouched. What exists and is no regular file (/dev/null, a pipe) is written in
 * place; a symbolic link is followed, not replaced.
 */
#ifndef KD_HOST_FILE_H
#define KD_HOST_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* What went wrong, as a sentence. machine: the disk or the memory; else what the user gave is at fault. */
typedef struct KdTrouble {
    bool machine;
    char text[512];
} KdTrouble;

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
bool kd_trouble(KdTrouble *t, bool machine, const char *fmt, ...); /* always false */

/* The whole file, with a NUL after its last byte; free() it. NULL after filling *t. */
char *kd_file_read(const char *path, size_t *n, KdTrouble *t);

typedef struct KdFileOut KdFileOut;
KdFileOut *kd_file_begin(const char *path, KdTrouble *t);
bool kd_file_put(KdFileOut *f, const void *p, size_t n); /* an error is kept until kd_file_commit */
/* True when the file is safely there. Frees f either way; on failure the temporary file is gone. */
bool kd_file_commit(KdFileOut *f, KdTrouble *t);
void kd_file_abandon(KdFileOut *f);

bool kd_file_write(const char *path, const void *p, size_t n, KdTrouble *t); /* begin, put, commit */

#endif
