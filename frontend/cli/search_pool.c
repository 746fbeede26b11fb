/* search_pool.c: worker processes of kdc search: this program again, with the same arguments and
 * --search-worker, at the other end of a pair of sockets that is its standard input. A request and
 * an answer are a line of JSON each.
 *
 * Workers are started when there is work for them. They ignore Ctrl-C, which is this process's to
 * answer, and end when their socket does.
 */
#include "frontend/cli/search.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BUSY_NONE = -1 };

typedef struct Worker {
    pid_t pid;    /* 0: not started */
    int fd, item; /* item: BUSY_NONE when it is free */
    char *in;
    size_t n, room;
} Worker;

struct KdcPool {
    KdcSearch *s;
    char **argv;
    Worker *worker;
    int n;
};

KdcPool *kdc_pool_new(KdcSearch *s, int jobs) {
    KdContext *cx = s->p->cx;
    const KdcArgs *a = s->a;
    KdcPool *pool = KD_NEW(cx, KdcPool);
    int n = 0;
    *pool = (KdcPool){.s = s, .worker = KD_NEW_ARRAY(cx, Worker, jobs), .n = jobs};
    pool->argv = KD_NEW_ARRAY(cx, char *, a->argc + 2 * s->base.n_defines + 4);
    for (int i = 0; i < 2; i++) {
        pool->argv[n++] =
            a->argv[i]; /* kdc search; our own in front of words, before which a `--` may stand */
    }
    pool->argv[n++] = (char *)(uintptr_t) "--search-worker";
    pool->argv[n++] = (char *)(uintptr_t) "--net";
    pool->argv[n++] = (char *)(uintptr_t)a->name;
    for (int i = a->n_defines; i < s->base.n_defines; i++) {
        pool->argv[n++] = (char *)(uintptr_t) "-D";
        pool->argv[n++] = (char *)(uintptr_t)s->base.defines[i];
    }
    for (int i = 2; i < a->argc; i++) {
        pool->argv[n++] = a->argv[i];
    }
    for (int i = 0; i < jobs; i++) {
        pool->worker[i] = (Worker){.fd = -1, .item = BUSY_NONE};
    }
    return pool;
}

/* In the new process: becomes a worker, or ends. */
static _Noreturn void become(KdcPool *pool, int fd, pid_t parent) {
    signal(SIGINT, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent || dup2(fd, 0) < 0 || dup2(2, 1) < 0) {
        _exit(3);
    }
    execv("/proc/self/exe", pool->argv);
    _exit(127);
}

static bool start(KdcPool *pool, Worker *w) {
    int pair[2];
    KdTrouble t;
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        kd_trouble(&t, true, "cannot start a worker: %s", strerror(errno));
        return kdc_cli_trouble(pool->s->p, &t);
    }
    w->pid = fork();
    if (w->pid == 0) {
        become(pool, pair[1], parent);
    }
    close(pair[1]);
    if (w->pid < 0) {
        w->pid = 0;
        close(pair[0]);
        kd_trouble(&t, true, "cannot start a worker: %s", strerror(errno));
        return kdc_cli_trouble(pool->s->p, &t);
    }
    w->fd = pair[0];
    w->item = BUSY_NONE;
    return true;
}

static void stop(Worker *w, int *status) {
    if (w->pid) {
        close(w->fd);
        if (w->item != BUSY_NONE) {
            kill(w->pid, SIGTERM); /* in the middle of something that nobody waits for */
        }
        while (waitpid(w->pid, status, 0) < 0 && errno == EINTR) {
        }
    }
    free(w->in);
    *w = (Worker){.fd = -1, .item = BUSY_NONE};
}

void kdc_pool_free(KdcPool *pool) {
    int status;
    for (int i = 0; pool && i < pool->n; i++) {
        stop(&pool->worker[i], &status);
    }
}

static bool has_died(KdcPool *pool, Worker *w) {
    int status = 0;
    KdTrouble t;
    w->item = BUSY_NONE;
    stop(w, &status);
    if (WIFSIGNALED(status)) {
        kd_trouble(&t, true, "a worker was ended by signal %d (%s)%s", WTERMSIG(status),
                   strsignal(WTERMSIG(status)),
                   WTERMSIG(status) == SIGKILL ? ": was the memory enough? fewer --jobs need less"
                                               : "");
    } else {
        kd_trouble(&t, true, "a worker ended with exit code %d", WEXITSTATUS(status));
    }
    return kdc_cli_trouble(pool->s->p, &t);
}

/* ---- a request
 * ------------------------------------------------------------------------------------------- */

static bool give(KdcPool *pool, Worker *w, int item, json_t *request) {
    char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
    size_t n = text ? strlen(text) : 0, at = 0;
    json_decref(request);
    line = text ? realloc(text, n + 2) : NULL;
    if (!line) {
        free(text);
        kd_raise(pool->s->p->cx, KD_FAIL_MACHINE, "out of memory for a request");
    }
    memcpy(line + n++, "\n", 2);
    while (at < n) {
        ssize_t sent = send(w->fd, line + at, n - at, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            break;
        }
        at += sent > 0 ? (size_t)sent : 0;
    }
    free(line);
    w->item = item;
    return at == n || has_died(pool, w);
}

/* A line is there: *answer; none yet: NULL. false after a message. */
static bool receive(KdcPool *pool, Worker *w, json_t **answer) {
    KdTrouble t;
    json_error_t error;
    *answer = NULL;
    if (w->room - w->n < 65536) {
        char *more = realloc(w->in, 2 * w->room + 131072);
        if (!more) {
            kd_raise(pool->s->p->cx, KD_FAIL_MACHINE, "out of memory for an answer");
        }
        w->in = more;
        w->room = 2 * w->room + 131072;
    }
    ssize_t got = read(w->fd, w->in + w->n, w->room - w->n - 1);
    if (got <= 0) {
        return (got < 0 && errno == EINTR) || has_died(pool, w);
    }
    w->n += (size_t)got;
    if (w->in[w->n - 1] != '\n') {
        return true;
    }
    *answer = json_loadb(w->in, w->n, 0, &error);
    w->n = 0;
    if (!*answer) {
        kd_trouble(&t, true, "a worker's answer cannot be read: %s", error.text);
        return kdc_cli_trouble(pool->s->p, &t);
    }
    return true;
}

static bool wait_for(KdcPool *pool, struct pollfd *fds, bool *interrupted) {
    int n = 0;
    for (int i = 0; i < pool->n; i++) {
        if (pool->worker[i].item != BUSY_NONE) {
            fds[n++] = (struct pollfd){.fd = pool->worker[i].fd, .events = POLLIN};
        }
    }
    if (!*pool->s->stop) {
        poll(fds, (nfds_t)n, 200); /* Ctrl-C between the question and the wait is seen soon */
    }
    *interrupted = *pool->s->stop;
    return n > 0;
}

static bool is_ready(const struct pollfd *fds, int n, int fd) {
    for (int i = 0; i < n; i++) {
        if (fds[i].fd == fd) {
            return fds[i].revents != 0;
        }
    }
    return false;
}

bool kdc_pool_run(KdcPool *pool, int n, int most, KdcAskFn *ask, KdcAnswerFn *answer, void *user) {
    int next = 0, done = 0, used = most < pool->n ? most : pool->n;
    struct pollfd *fds = KD_NEW_ARRAY(pool->s->p->cx, struct pollfd, pool->n);
    bool interrupted = false;
    while (done < n) {
        for (int i = 0; i < used && next < n; i++) {
            Worker *w = &pool->worker[i];
            if (w->item == BUSY_NONE) {
                if ((!w->pid && !start(pool, w)) || !give(pool, w, next, ask(user, next))) {
                    return false;
                }
                next++;
            }
        }
        memset(fds, 0, sizeof *fds * (size_t)pool->n);
        if (!wait_for(pool, fds, &interrupted) || interrupted) {
            pool->s->interrupted = interrupted;
            return false;
        }
        for (int i = 0; i < used; i++) {
            Worker *w = &pool->worker[i];
            json_t *got = NULL;
            if (w->item == BUSY_NONE || !is_ready(fds, pool->n, w->fd)) {
                continue;
            }
            if (!receive(pool, w, &got)) {
                return false;
            }
            if (got) {
                int item = w->item;
                w->item = BUSY_NONE;
                done++;
                bool ok = answer(user, item, got);
                json_decref(got);
                if (!ok) {
                    return false;
                }
            }
        }
    }
    return true;
}
