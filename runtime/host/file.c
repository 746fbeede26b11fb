/* file.c: see file.h. Plain POSIX; every call's result is looked at, interrupted calls are repeated. */
#define _GNU_SOURCE
#include "runtime/host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct KdFileOut {
    int fd;
    int error;  /* errno of the first failure, or 0 */
    char *path; /* where it ends */
    char *temp; /* where it is until then; NULL when written in place */
};

bool kd_trouble(KdTrouble *t, bool machine, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->text, sizeof t->text, fmt, ap);
    va_end(ap);
    t->machine = machine;
    return false;
}

/* A path that leads nowhere is the user's mistake, anything else the machine's. */
static bool is_machine(int error) {
    return error != ENOENT && error != ENOTDIR && error != EISDIR && error != ENAMETOOLONG &&
           error != ELOOP && error != EINVAL;
}

static bool say(KdTrouble *t, const char *doing, const char *path, int error) {
    return kd_trouble(t, is_machine(error), "cannot %s %s: %s", doing, path, strerror(error));
}

/* error EFBIG: more than `most` bytes. */
static bool read_all(int fd, char **data, size_t *n, size_t guess, size_t most, int *error) {
    size_t cap = guess + 1;
    char *p = malloc(cap);
    size_t have = 0;
    while (p) {
        if (have + 1 >= cap) { /* one byte stays free for the NUL */
            if (cap > SIZE_MAX / 2) {
                break;
            }
            char *q = realloc(p, cap *= 2);
            if (!q) {
                break;
            }
            p = q;
        }
        size_t want = cap - have - 1;
        ssize_t got = read(fd, p + have, want < (1u << 30) ? want : (1u << 30));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            *error = errno;
            free(p);
            return false;
        }
        if (got == 0) {
            p[have] = '\0';
            *data = p;
            *n = have;
            return true;
        }
        have += (size_t)got;
        if (have > most) {
            free(p);
            *error = EFBIG;
            return false;
        }
    }
    free(p);
    *error = ENOMEM;
    return false;
}

static const char *kind_of(mode_t mode) {
    return S_ISFIFO(mode) ? "a pipe" : S_ISSOCK(mode) ? "a socket" : "a device";
}

char *kd_file_read(const char *path, size_t *n, KdTrouble *t) {
    int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
    if (fd < 0) {
        say(t, "open", path, errno);
        return NULL;
    }
    struct stat st = {0};
    char *data = NULL;
    if (fstat(fd, &st) != 0) {
        error = errno;
    } else if (S_ISDIR(st.st_mode)) {
        error = EISDIR;
    } else {
        bool regular = S_ISREG(st.st_mode);
        read_all(fd, &data, n, regular ? (size_t)st.st_size + 1 : 65536, regular ? SIZE_MAX : KD_FILE_MAX_STREAM, &error);
    }
    close(fd);
    if (error == EFBIG && !S_ISREG(st.st_mode)) {
        kd_trouble(t, false, "%s: %s that gives more than %zu MiB; a file is expected", path, kind_of(st.st_mode),
                   KD_FILE_MAX_STREAM >> 20);
    } else if (error) {
        say(t, "read", path, error);
    }
    return data;
}

bool kd_file_plain(const char *path, KdTrouble *t) {
    struct stat st;
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        return true;
    }
    return kd_trouble(t, false, "%s is %s, not a plain file", path, kind_of(st.st_mode));
}

static void forget(KdFileOut *f) {
    free(f->path);
    free(f->temp);
    free(f);
}

/* Opens a new file beside f->path whose name nobody else has. */
static int open_temp(KdFileOut *f) {
    const char *slash = strrchr(f->path, '/');
    int folder = slash ? (int)(slash - f->path) + 1 : 0;
    for (int attempt = 0; attempt < 1000; attempt++) {
        free(f->temp);
        /* Not after the file's own name: that may already be as long as a name can be. */
        if (asprintf(&f->temp, "%.*s.kdc-%ld-%d.tmp", folder, f->path, (long)getpid(), attempt) < 0) {
            f->temp = NULL;
            errno = ENOMEM;
            return -1;
        }
        int fd = open(f->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST) {
            return fd;
        }
    }
    return -1;
}

KdFileOut *kd_file_begin(const char *path, KdTrouble *t) {
    KdFileOut *f = calloc(1, sizeof *f);
    struct stat st;
    bool there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode)) {
        free(f);
        say(t, "write", path, EISDIR);
        return NULL;
    }
    if (f) {
        f->path = there ? realpath(path, NULL) : strdup(path);
    }
    if (!f || !f->path) {
        free(f);
        say(t, "write", path, ENOMEM);
        return NULL;
    }
    if (there && !S_ISREG(st.st_mode)) {
        f->fd = open(f->path, O_WRONLY | O_CLOEXEC);
    } else {
        f->fd = open_temp(f);
        if (f->fd >= 0 && there) {
            f->error = fchmod(f->fd, st.st_mode & 0777) == 0 ? 0 : errno;
        }
    }
    if (f->fd < 0) {
        say(t, "write", path, errno);
        forget(f);
        return NULL;
    }
    return f;
}

bool kd_file_put(KdFileOut *f, const void *p, size_t n) {
    const char *at = p;
    while (n > 0 && !f->error) {
        ssize_t put = write(f->fd, at, n < (1u << 30) ? n : (1u << 30));
        if (put > 0) {
            at += put;
            n -= (size_t)put;
        } else if (put == 0) {
            f->error = ENOSPC;
        } else if (errno != EINTR) {
            f->error = errno;
        }
    }
    return !f->error;
}

/* The rename itself must survive a power cut: sync the folder. Some file systems cannot; that is no failure. */
static int sync_folder(const char *path) {
    char *folder = strdup(path);
    if (!folder) {
        return ENOMEM;
    }
    char *slash = strrchr(folder, '/');
    const char *name = !slash ? "." : slash == folder ? "/" : folder;
    if (slash) {
        *slash = '\0';
    }
    int error = 0, fd = open(slash == folder ? "/" : name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) {
            error = errno;
        }
        close(fd);
    }
    free(folder);
    return error;
}

bool kd_file_commit(KdFileOut *f, KdTrouble *t) {
    if (!f->error && f->temp && fsync(f->fd) != 0) {
        f->error = errno;
    }
    if (close(f->fd) != 0 && !f->error && errno != EINTR) {
        f->error = errno;
    }
    if (!f->error && f->temp && rename(f->temp, f->path) != 0) {
        f->error = errno;
    }
    if (f->error && f->temp) {
        unlink(f->temp);
    }
    if (!f->error && f->temp) {
        f->error = sync_folder(f->path);
    }
    bool ok = !f->error;
    if (!ok) {
        say(t, "write", f->path, f->error);
    }
    forget(f);
    return ok;
}

void kd_file_abandon(KdFileOut *f) {
    close(f->fd);
    if (f->temp) {
        unlink(f->temp);
    }
    forget(f);
}

bool kd_file_write(const char *path, const void *p, size_t n, KdTrouble *t) {
    KdFileOut *f = kd_file_begin(path, t);
    if (!f) {
        return false;
    }
    kd_file_put(f, p, n);
    return kd_file_commit(f, t);
}
