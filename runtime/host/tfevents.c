/* tfevents.c: TensorBoard event files: records of protobuf messages, written by hand, since three messages need only varints,
 * doubles and nested lengths.
 *
 * A record is u64 length, u32 masked CRC-32C of those eight bytes, the bytes, u32 masked CRC-32C of them; little-endian.
 *   Event       wall_time 1 (double), step 2 (int64), file_version 3 (string), summary 5, session_log 7
 *   Summary     value 1: tag 1 (string), simple_value 2 (float), image 4
 *   Image       height 1, width 2, colorspace 3 (3: RGB), encoded_image_string 4
 *   SessionLog  status 1 (1: START; readers drop what was logged at its step or later before it)
 */
#include "runtime/host/checksum.h"
#include "runtime/host/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct KdEvents {
    int fd;
    char path[4096];
};

typedef struct Bytes {
    unsigned char *p;
    size_t n, room;
    bool failed;
} Bytes;

static void put(Bytes *b, const void *p, size_t n) {
    if (!b->failed && n > b->room - b->n) {
        size_t room = 2 * b->room + n + 64;
        unsigned char *more = realloc(b->p, room);
        b->failed = !more;
        b->p = more ? more : b->p;
        b->room = more ? room : b->room;
    }
    if (!b->failed && n) {
        memcpy(b->p + b->n, p, n);
        b->n += n;
    }
}

static void put_little(Bytes *b, uint64_t v, int n) {
    unsigned char byte[8];
    for (int i = 0; i < n; i++) {
        byte[i] = (unsigned char)(v >> 8 * i);
    }
    put(b, byte, (size_t)n);
}

static void put_varint(Bytes *b, uint64_t v) {
    do {
        unsigned char byte = (unsigned char)((v & 127) | (v > 127 ? 128 : 0));
        put(b, &byte, 1);
        v >>= 7;
    } while (v);
}

enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 }; /* protobuf's wire types */

static void put_key(Bytes *b, int field, int type) {
    put_varint(b, (uint64_t)(field << 3 | type));
}

static void put_int(Bytes *b, int field, int64_t v) {
    put_key(b, field, VARINT);
    put_varint(b, (uint64_t)v);
}

static void put_block(Bytes *b, int field, const void *p, size_t n) {
    put_key(b, field, LENGTH);
    put_varint(b, n);
    put(b, p, n);
}

static void put_double(Bytes *b, int field, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(b, field, FIXED64);
    put_little(b, bits, 8);
}

static void put_float(Bytes *b, int field, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(b, field, FIXED32);
    put_little(b, bits, 4);
}

static uint32_t masked(const void *p, size_t n) {
    uint32_t c = kd_crc32c(0, p, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static bool write_record(KdEvents *e, Bytes *event, KdTrouble *t) {
    Bytes r = {0};
    put_little(&r, event->n, 8);
    put_little(&r, r.failed ? 0 : masked(r.p, 8), 4);
    put(&r, event->p, event->n);
    put_little(&r, event->failed ? 0 : masked(event->p, event->n), 4);
    bool ok = !r.failed && !event->failed;
    if (!ok) {
        kd_trouble(t, true, "%s: out of memory", e->path);
    }
    for (size_t at = 0; ok && at < r.n;) {
        ssize_t k = write(e->fd, r.p + at, r.n - at);
        ok = k > 0 || (k < 0 && errno == EINTR) || kd_trouble(t, true, "%s: %s", e->path, strerror(errno));
        at += k > 0 ? (size_t)k : 0;
    }
    free(r.p);
    free(event->p);
    return ok;
}

static void begin_event(Bytes *event, double unix_time, int64_t step) {
    put_double(event, 1, unix_time);
    put_int(event, 2, step);
}

KdEvents *kd_events_open(const char *folder, int64_t keep, KdTrouble *t) {
    char host[65] = "host";
    KdEvents *e = calloc(1, sizeof *e);
    struct timespec now;
    if (!e) {
        kd_trouble(t, true, "%s: out of memory", folder);
        return NULL;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    gethostname(host, sizeof host - 1);
    for (int n = 0; n < 1000; n++) { /* two runs may begin in one second */
        snprintf(e->path, sizeof e->path, "%s/events.out.tfevents.%010lld.%s.%ld.%d", folder, (long long)now.tv_sec, host, (long)getpid(), n);
        e->fd = open(e->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (e->fd >= 0 || errno != EEXIST) {
            break;
        }
    }
    if (e->fd < 0) {
        kd_trouble(t, true, "%s: %s", e->path, strerror(errno));
        free(e);
        return NULL;
    }
    Bytes first = {0}, start = {0}, log = {0};
    double time = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_double(&first, 1, time);
    put_block(&first, 3, "brain.Event:2", 13);
    bool ok = write_record(e, &first, t);
    if (ok && keep > 0) {
        begin_event(&start, time, keep + 1);
        put_int(&log, 1, 1);
        put_block(&start, 7, log.p, log.n);
        start.failed = start.failed || log.failed;
        ok = write_record(e, &start, t);
    }
    free(log.p);
    if (!ok) {
        kd_events_close(e);
        return NULL;
    }
    return e;
}

/* An event of one Summary.Value; value holds what comes after its tag. */
static bool write_value(KdEvents *e, double unix_time, int64_t step, const char *tag, const Bytes *value, KdTrouble *t) {
    Bytes event = {0}, summary = {0}, inner = {0};
    put_block(&inner, 1, tag, strlen(tag));
    put(&inner, value->p, value->n);
    put_block(&summary, 1, inner.p, inner.n);
    begin_event(&event, unix_time, step);
    put_block(&event, 5, summary.p, summary.n);
    event.failed = event.failed || summary.failed || inner.failed || value->failed;
    free(inner.p);
    free(summary.p);
    return write_record(e, &event, t);
}

bool kd_events_scalar(KdEvents *e, double unix_time, int64_t step, const char *tag, double value, KdTrouble *t) {
    Bytes v = {0};
    put_float(&v, 2, (float)value);
    bool ok = write_value(e, unix_time, step, tag, &v, t);
    free(v.p);
    return ok;
}

bool kd_events_image(KdEvents *e, double unix_time, int64_t step, const char *tag, const void *png, size_t n, int width,
                     int height, KdTrouble *t) {
    Bytes v = {0}, image = {0};
    put_int(&image, 1, height);
    put_int(&image, 2, width);
    put_int(&image, 3, 3);
    put_block(&image, 4, png, n);
    put_block(&v, 4, image.p, image.n);
    v.failed = v.failed || image.failed;
    bool ok = write_value(e, unix_time, step, tag, &v, t);
    free(image.p);
    free(v.p);
    return ok;
}

void kd_events_close(KdEvents *e) {
    if (e) {
        close(e->fd);
        free(e);
    }
}
