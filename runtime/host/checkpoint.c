/* checkpoint.c: see checkpoint.h. The sum goes over the tensors' bytes in the order given, which is their order in the file.
 * A run that was killed while it wrote leaves a temporary file (file.c: .kdc-PID-N.tmp); the next one that writes into the
 * folder removes it, unless its process still lives. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/host/checkpoint.h"

#include "runtime/host/checksum.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *path_of(const char *folder, int64_t step) {
    size_t n = strlen(folder) + 64;
    char *path = malloc(n);
    if (path) {
        snprintf(path, n, "%s/checkpoint-%06" PRId64 ".safetensors", folder, step);
    }
    return path;
}

/* The step that a file name says; -1: it is no checkpoint's. */
static int64_t step_of(const char *name) {
    int64_t step;
    int end = 0;
    if (sscanf(name, "checkpoint-%" SCNd64 ".safetensors%n", &step, &end) != 1 || end == 0 || name[end] || step < 0) {
        return -1;
    }
    return step;
}

static int descending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of all checkpoints of the folder, newest first: malloc'ed. NULL and *n = -1 after *t. */
static int64_t *list(const char *folder, int *n, KdTrouble *t) {
    DIR *d = opendir(folder);
    int64_t *step = NULL;
    *n = 0;
    if (!d) {
        *n = -1;
        kd_trouble(t, errno != ENOENT && errno != ENOTDIR, "%s: %s", folder, strerror(errno));
        return NULL;
    }
    for (struct dirent *e; (e = readdir(d));) {
        int64_t s = step_of(e->d_name);
        int64_t *more = s < 0 ? NULL : realloc(step, sizeof *step * (size_t)(*n + 1));
        if (s >= 0 && !more) {
            free(step);
            closedir(d);
            *n = -1;
            kd_trouble(t, true, "%s: out of memory", folder);
            return NULL;
        }
        if (more) {
            step = more;
            step[(*n)++] = s;
        }
    }
    closedir(d);
    if (*n) {
        qsort(step, (size_t)*n, sizeof *step, descending);
    }
    return step;
}

/* Removes all before `step` but the newest of them. What cannot be removed stays: it does no harm. */
static void drop_old(const char *folder, int64_t step) {
    int n, before = 0;
    KdTrouble ignored;
    int64_t *all = list(folder, &n, &ignored);
    for (int i = 0; i < n; i++) {
        before += all[i] < step ? 1 : 0;
        char *path = all[i] < step && before > 1 ? path_of(folder, all[i]) : NULL;
        if (path) {
            unlink(path);
        }
        free(path);
    }
    free(all);
}

/* Is it a temporary file that nobody will finish? One of this process is: a run's folder is written by one thread, in turn. */
static bool left_over(const char *name) {
    long pid;
    int end = 0;
    if (sscanf(name, ".kdc-%ld-%*d.tmp%n", &pid, &end) != 1 || end == 0 || name[end] || pid <= 0) {
        return false;
    }
    return pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
}

static void drop_left_over(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (left_over(e->d_name)) {
            unlinkat(dirfd(d), e->d_name, 0);
        }
    }
    if (d) {
        closedir(d);
    }
}

bool kd_checkpoint_write(const char *folder, int64_t step, const KdTensorOut *x, int n, const char *const *meta, int n_meta,
                         KdTrouble *t) {
    char *path = path_of(folder, step), sum[16], at[32];
    const char **all = calloc(2 * (size_t)n_meta + 4, sizeof *all);
    if (!path || !all) {
        free(path);
        free(all);
        return kd_trouble(t, true, "%s: out of memory", folder);
    }
    uint32_t crc = 0;
    for (int i = 0; i < n; i++) {
        int64_t count = 1;
        for (int d = 0; d < x[i].rank; d++) {
            count *= x[i].dim[d];
        }
        crc = kd_crc32c(crc, x[i].data, (size_t)count * (size_t)kd_stored_size(x[i].dtype));
    }
    snprintf(sum, sizeof sum, "%08" PRIx32, crc);
    snprintf(at, sizeof at, "%" PRId64, step);
    if (n_meta) {
        memcpy(all, meta, sizeof *all * 2 * (size_t)n_meta);
    }
    const char *own[] = {"step", at, "checksum", sum};
    memcpy(all + 2 * n_meta, own, sizeof own);
    bool ok = kd_weights_write(path, x, n, all, n_meta + 2, t);
    free(path);
    free(all);
    if (ok) {
        drop_old(folder, step);
        drop_left_over(folder);
    }
    return ok;
}

const char *kd_weights_meta(const KdWeights *w, const char *key) {
    for (int i = 0; i < w->n_meta; i++) {
        if (strcmp(w->meta[2 * i], key) == 0) {
            return w->meta[2 * i + 1];
        }
    }
    return NULL;
}

static bool sum_is(const char *path, const KdWeights *w, const char *sum, KdTrouble *t) {
    uint32_t crc = 0;
    char *end;
    for (int i = 0; i < w->n; i++) {
        const KdTensor *x = &w->tensor[i];
        crc = kd_crc32c(crc, x->data, (size_t)x->count * (size_t)kd_stored_size(x->dtype));
    }
    return (strtoul(sum, &end, 16) == crc && !*end) ||
           kd_trouble(t, false, "%s is damaged: its checksum is %08" PRIx32 ", expected %s", path, crc, sum);
}

bool kd_checkpoint_sum_ok(const char *path, const KdWeights *w, KdTrouble *t) {
    const char *sum = kd_weights_meta(w, "checksum");
    return !sum || strlen(sum) != 8 || !kd_weights_meta(w, "step") || sum_is(path, w, sum, t);
}

/* Is it whole, and what its name says? Else says why not. */
static bool sound(const char *path, const KdWeights *w, int64_t step, KdTrouble *t) {
    const char *sum = kd_weights_meta(w, "checksum"), *at = kd_weights_meta(w, "step");
    if (!sum || !at) {
        return kd_trouble(t, false, "%s is no checkpoint: its metadata has no \"%s\"", path, sum ? "step" : "checksum");
    }
    if (!sum_is(path, w, sum, t)) {
        return false;
    }
    if (strtoll(at, NULL, 10) != step) {
        return kd_trouble(t, false, "%s holds step %s", path, at);
    }
    return true;
}

KdWeights *kd_checkpoint_read(const char *folder, int64_t *step, char **path, char *note, size_t size, KdTrouble *t) {
    int n;
    int64_t *steps = list(folder, &n, t);
    KdWeights *found = NULL;
    KdTrouble first = {0};
    *path = NULL;
    if (size) {
        *note = '\0';
    }
    for (int i = 0; i < n && !found; i++) {
        char *name = path_of(folder, steps[i]);
        KdTrouble why = {0};
        KdWeights *w = name ? kd_weights_read(name, &why) : NULL;
        if (w && sound(name, w, steps[i], &why)) {
            found = w;
            *step = steps[i];
            *path = name;
            break;
        }
        kd_weights_free(w);
        free(name);
        first = *first.text ? first : why;
    }
    free(steps);
    if (found && *first.text && size) {
        snprintf(note, size, "%.400s; going on from %.80s", first.text, strrchr(*path, '/') + 1);
    }
    if (!found && n >= 0) {
        *t = first;
    }
    return found;
}
