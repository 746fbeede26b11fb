/* peers_serve.h: how a program that peers.py measures is asked, a line at a time on stdin, each answered with a line.
 *
 *     run WARM LEAST SECONDS   WARM runs unmeasured, then at least LEAST and for SECONDS: milliseconds of each
 *     out FILE                 writes the output of the latest run, f32 as in memory
 *     mem                      the most memory this process has held (VmHWM), in MB
 *
 * "ready" is said first. The input of every engine is peers_input. With PEERS_CLOCK=cpu in the environment times are
 * the process's processor time, which others on the machine hardly change.
 */
#ifndef PEERS_SERVE_H
#define PEERS_SERVE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double peers_now(void) {
    struct timespec t;
    const char *clock = getenv("PEERS_CLOCK");
    clock_gettime(clock && strcmp(clock, "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* In [-1, 1], in eighths: exact whoever computes it. */
static inline void peers_input(float *x, long n) {
    for (long i = 0; i < n; i++) {
        x[i] = (float)(i * 7 % 17) / 8 - 1;
    }
}

static inline double peers_memory(void) {
    char line[256];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) {
        sscanf(line, "VmHWM: %ld", &kb);
    }
    if (f) {
        fclose(f);
    }
    return (double)kb * 1024e-6;
}

static inline void peers_fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static inline void peers_write(const char *path, const float *out, long count) {
    FILE *f = fopen(path, "wb");
    if (!f || (long)fwrite(out, sizeof *out, (size_t)count, f) != count || fclose(f) != 0) {
        peers_fail("cannot write the output");
    }
}

/* `once` runs once and gives how long that took in milliseconds (or another figure that is to be reported). */
static inline void peers_serve(double (*once)(void *), void *user, const float *out, long count) {
    char line[512], path[512];
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int warm, least;
        double seconds;
        if (sscanf(line, "run %d %d %lf", &warm, &least, &seconds) == 3) {
            for (int i = 0; i < warm; i++) {
                once(user);
            }
            double start = peers_now();
            for (int i = 0; i < least || peers_now() - start < seconds; i++) {
                printf("%.6g ", once(user));
            }
            printf("\n");
        } else if (sscanf(line, "out %511s", path) == 1) {
            peers_write(path, out, count);
            printf("%ld\n", count);
        } else if (strncmp(line, "mem", 3) == 0) {
            printf("%.1f\n", peers_memory());
        } else {
            peers_fail("unknown command");
        }
        fflush(stdout);
    }
}

#endif
