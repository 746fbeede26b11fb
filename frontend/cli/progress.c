/* progress.c: the line under a running training: see report.h. */
#include "frontend/cli/report.h"

#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t kdc_resident_bytes(void) {
    long long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%lld %lld", &pages, &resident) != 2) {
            resident = 0;
        }
        fclose(f);
    }
    return resident * sysconf(_SC_PAGESIZE);
}

int64_t kdc_peak_bytes(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (int64_t)u.ru_maxrss * 1024 : 0;
}

const char *kdc_duration(double seconds, char *text, size_t n) {
    long long s = seconds > 0 && seconds < 3e8 ? (long long)(seconds + 0.5) : 0;
    if (s >= 3600) {
        snprintf(text, n, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(text, n, "%lld:%02lld", s / 60, s % 60);
    }
    return text;
}

void kdc_progress_begin(KdcProgress *p, FILE *out, bool terminal, int64_t first, int64_t total, int64_t images_per_step) {
    *p = (KdcProgress){.out = out,
                       .live = terminal,
                       .seconds = terminal ? 0.2 : 10,
                       .first = first,
                       .total = total,
                       .images_per_step = images_per_step,
                       .start = now()};
    p->last = p->mark = p->start;
}

static int columns(const KdcProgress *p) {
    struct winsize w;
    return p->live && ioctl(fileno(p->out), TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 200;
}

static void add(char *line, size_t size, const char *text) {
    size_t n = strlen(line);
    snprintf(line + n, size - n, "%s", text);
}

/* What a step takes of late: a mean whose weights fall off over half a minute, and at first the plain mean of all. */
static void take_time(KdcProgress *p, double t, int64_t step) {
    double took = t - p->mark, plain = step > p->first ? 1.0 / (double)(step - p->first) : 1, recent = 1 - exp(-took / 30);
    p->step_seconds += (took - p->step_seconds) * (plain > recent ? plain : recent);
    p->mark = t;
}

void kdc_progress_step(KdcProgress *p, int64_t epoch, int64_t step, const char *const *name, const double *value, int n) {
    double t = now();
    char line[1024], part[96], left[32];
    take_time(p, t, step);
    if (t - p->last < p->seconds && step != p->total) {
        return;
    }
    p->last = t;
    double rate = p->step_seconds > 0 ? 1 / p->step_seconds : 0;
    snprintf(line, sizeof line, "epoch %lld  step %lld/%lld", (long long)epoch, (long long)step, (long long)p->total);
    for (int i = 0; i < n; i++) {
        if (!isnan(value[i])) {
            snprintf(part, sizeof part, "  %.40s %.4g", name[i], value[i]);
            add(line, sizeof line, part);
        }
    }
    kdc_duration(rate > 0 ? (double)(p->total - step) / rate + p->extra : 0, left, sizeof left);
    snprintf(part, sizeof part, "  %.3g images/s  %s left  %lld MiB", rate * (double)p->images_per_step, left,
             (long long)(kdc_resident_bytes() >> 20));
    add(line, sizeof line, part);
    if (p->live) {
        fprintf(p->out, "\r\033[K%.*s", columns(p) - 1, line);
    } else {
        fprintf(p->out, "%s\n", line);
    }
    fflush(p->out);
}

void kdc_progress_end(KdcProgress *p) {
    if (p->live && p->last > p->start) {
        fputc('\n', p->out);
        fflush(p->out);
        p->last = p->start;
    }
}
