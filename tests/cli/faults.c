/* faults.c: preloaded into a command, makes the KD_FAULT_AT-th call of KD_FAULT_CALL (write, fsync, rename, open for writing) fail,
 * once, as a full or broken disk would. Calls on standard streams do not count. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long count;

static int fails(const char *call) {
    const char *which = getenv("KD_FAULT_CALL"), *at = getenv("KD_FAULT_AT");
    return which && at && strcmp(which, call) == 0 && atomic_fetch_add(&count, 1) + 1 == atol(at);
}

ssize_t write(int fd, const void *p, size_t n) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (fd > 2 && fails("write")) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, p, n);
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (fails("fsync")) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    if (fails("rename")) {
        errno = EACCES;
        return -1;
    }
    return real(from, to);
}

int open(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if ((flags & O_ACCMODE) != O_RDONLY && fails("open")) {
        errno = EMFILE;
        return -1;
    }
    return real(path, flags, mode);
}
