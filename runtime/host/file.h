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

/* The whole file, with a NUL after its last byte; free() it. NULL after filling *t. Of what is no regular file (a pipe, a
 * device), which may never end, at most KD_FILE_MAX_STREAM bytes: more is an error. */
#define KD_FILE_MAX_STREAM ((size_t)64 << 20)
char *kd_file_read(const char *path, size_t *n, KdTrouble *t);

/* false after *t for a pipe, a device or a socket (links are followed): what is read from the middle, or read twice, or one
 * of many that were found in a folder, must not be one. What is not there, and a folder, is left to who opens it. */
bool kd_file_plain(const char *path, KdTrouble *t);

typedef struct KdFileOut KdFileOut;
KdFileOut *kd_file_begin(const char *path, KdTrouble *t);
bool kd_file_put(KdFileOut *f, const void *p, size_t n); /* an error is kept until kd_file_commit */
/* True when the file is safely there. Frees f either way; on failure the temporary file is gone. */
bool kd_file_commit(KdFileOut *f, KdTrouble *t);
void kd_file_abandon(KdFileOut *f);

bool kd_file_write(const char *path, const void *p, size_t n, KdTrouble *t); /* begin, put, commit */

#endif
