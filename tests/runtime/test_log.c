/* test_log.c: log.jsonl is written, cut back and read again; event files are decoded by a reader of their own here, and one
 * record is compared with bytes worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/checksum.h"
#include "runtime/host/log.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Place {
    char folder[32], path[64];
} Place;

static int set_up(void **state) {
    Place *p = calloc(1, sizeof *p);
    strcpy(p->folder, "/tmp/kdc-log-XXXXXX");
    *state = p;
    if (!mkdtemp(p->folder)) {
        return -1;
    }
    snprintf(p->path, sizeof p->path, "%s/log.jsonl", p->folder);
    return 0;
}

static int tear_down(void **state) {
    Place *p = *state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", p->folder);
    int rc = system(command);
    free(p);
    return rc;
}

/* ---- log.jsonl -------------------------------------------------------------------------------------- */

static void append(const char *path, const char *text) {
    FILE *f = fopen(path, "ab");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void expect_text(const char *path, const char *want) {
    KdTrouble t;
    size_t n;
    char *text = kd_file_read(path, &n, &t);
    assert_non_null(text);
    assert_string_equal(text, want);
    free(text);
}

static void write_steps(const Place *p, int64_t keep, int64_t first, int64_t last) {
    KdTrouble t = {0};
    KdLog *l = kd_log_open(p->path, keep, &t);
    if (!l) {
        fail_msg("%s", t.text);
    }
    const char *const names[] = {"rec", "adv"};
    for (int64_t s = first; s <= last; s++) {
        const double v[] = {(double)s + 0.5, 1.0 / (double)s};
        assert_true(kd_log_step(l, 1700000000.25 + (double)s, s, 1 + s / 4, 3.5, names, v, s == 1 ? 1 : 2, &t));
    }
    kd_log_close(l);
}

static void lines_are_json(void **state) {
    const Place *p = *state;
    KdTrouble t;
    KdLog *l = kd_log_open(p->path, 0, &t);
    const char *const names[] = {"adv", "a\"b\\c\n", "big", "low"};
    const double v[] = {1.0 / 3, NAN, INFINITY, -1.5e-30};
    assert_true(kd_log_step(l, 1700000000.125, 12, 1, 3.1, names, v, 4, &t));
    assert_true(kd_log_step(l, 1700000001, 13, 2, 0, NULL, NULL, 0, &t));
    kd_log_close(l);
    expect_text(p->path,
                "{\"ts\":1700000000.125,\"step\":12,\"epoch\":1,\"images_per_s\":3.1,\"loss\":{\"adv\":0.333333333,"
                "\"a\\\"b\\\\c\\n\":null,\"big\":null,\"low\":-1.5e-30}}\n"
                "{\"ts\":1700000001.000,\"step\":13,\"epoch\":2,\"images_per_s\":0,\"loss\":{}}\n");
}

static void reads_back(void **state) {
    const Place *p = *state;
    KdTrouble t;
    KdLogData d;
    write_steps(p, 0, 1, 5);
    append(p->path, "{\"ts\":1,\"step\":6,\"loss\":{\"rec\":1}"); /* torn: the writer was killed */
    assert_true(kd_log_read(p->path, &d, &t));
    assert_int_equal(d.n_steps, 5);
    assert_int_equal(d.n_names, 2);
    assert_string_equal(d.name[0], "rec");
    assert_string_equal(d.name[1], "adv");
    for (int i = 0; i < 5; i++) {
        assert_int_equal(d.step[i], i + 1);
        assert_int_equal(d.epoch[i], 1 + (i + 1) / 4);
        assert_true(d.time[i] == 1700000000.25 + i + 1 && d.rate[i] == 3.5);
        assert_true(d.value[i] == i + 1.5);
        assert_true(i == 0 ? isnan(d.value[5]) : fabs(d.value[5 + i] - 1.0 / (i + 1)) < 1e-9);
    }
    kd_log_data_free(&d);
    assert_int_equal(d.n_steps, 0);
    unlink(p->path);
    assert_false(kd_log_read(p->path, &d, &t));
    assert_non_null(strstr(t.text, p->path));
    append(p->path, "");
    assert_true(kd_log_read(p->path, &d, &t));
    assert_int_equal(d.n_steps, 0);
    kd_log_data_free(&d);
}

static void strange_lines_are_passed_over(void **state) {
    const Place *p = *state;
    KdTrouble t;
    KdLogData d;
    append(p->path, "not json\n[1]\n{\"step\":\"3\"}\n\n{\"step\":4}\n{\"step\":5,\"loss\":{\"a\":\"x\"}}\n{\"step\":6,\"loss\":7}\n");
    assert_true(kd_log_read(p->path, &d, &t));
    assert_int_equal(d.n_steps, 3);
    assert_int_equal(d.n_names, 1);
    assert_true(isnan(d.value[0]) && isnan(d.value[1]) && isnan(d.value[2]));
    kd_log_data_free(&d);
}

/* Evaluations have lines of their own, beside those of steps; what a metric came to keeps last, best and mean apart. */
static void evaluations(void **state) {
    const Place *p = *state;
    KdTrouble t;
    KdLogData d;
    KdLogMetric m;
    const char *const names[] = {"S.l1", "S.psnr", "S.never"};
    const double l1[] = {9, 4, 6, 5, 7, 8, 6.5};
    write_steps(p, 0, 1, 3);
    KdLog *l = kd_log_open(p->path, 3, &t);
    assert_non_null(l);
    for (int i = 0; i < 7; i++) {
        const double v[] = {l1[i], i == 6 ? INFINITY : 20 + l1[i], NAN};
        assert_true(kd_log_eval(l, 1700000000 + i, 10 * (i + 1), 2, names, v, 3, &t));
    }
    kd_log_close(l);
    assert_true(kd_log_read(p->path, &d, &t));
    assert_int_equal(d.n_steps, 3);
    assert_int_equal(d.n_names, 2);
    assert_int_equal(d.n_evals, 7);
    assert_int_equal(d.n_metrics, 3);
    assert_int_equal(d.eval_step[6], 70);
    assert_true(d.eval_value[1] == 4 && d.eval_value[7 + 1] == 24 && isnan(d.eval_value[7 + 6]));
    assert_true(kd_log_metric(&d, 0, &m));
    assert_true(!m.more_is_better && m.best == 4 && m.best_step == 20 && m.last == 6.5 && m.last_step == 70);
    assert_true(m.of == 5 && m.mean == (6 + 5 + 7 + 8 + 6.5) / 5);
    assert_true(kd_log_metric(&d, 1, &m));
    assert_true(m.more_is_better && m.best == 29 && m.best_step == 10 && m.last == 28 && m.last_step == 60);
    assert_false(kd_log_metric(&d, 2, &m));
    kd_log_data_free(&d);
    kd_log_close(kd_log_open(p->path, 30, &t)); /* a run that goes on after step 30 */
    assert_true(kd_log_read(p->path, &d, &t));
    assert_int_equal(d.n_evals, 3);
    kd_log_data_free(&d);
    unlink(p->path);
    l = kd_log_open(p->path, 0, &t);
    const double v[] = {1.0 / 3, INFINITY};
    assert_true(kd_log_eval(l, 1700000000.5, 7, 2, names, v, 2, &t));
    kd_log_close(l);
    expect_text(p->path,
                "{\"ts\":1700000000.500,\"step\":7,\"epoch\":2,\"eval\":{\"S.l1\":0.333333333,\"S.psnr\":null}}\n");
}

/* Cutting back and going on gives the bytes of a run that was never stopped. */
static void cut_back(void **state) {
    const Place *p = *state;
    KdTrouble t;
    size_t n;
    write_steps(p, 0, 1, 9);
    char *whole = kd_file_read(p->path, &n, &t);
    append(p->path, "{\"ts\":1700000010.250,\"step\":10,\"ep");
    write_steps(p, 5, 6, 9);
    expect_text(p->path, whole);
    write_steps(p, 9, 10, 9); /* nothing to drop, nothing to add */
    expect_text(p->path, whole);
    write_steps(p, 0, 1, 9);
    expect_text(p->path, whole);
    free(whole);
    char nowhere[96];
    snprintf(nowhere, sizeof nowhere, "%s/none/log.jsonl", p->folder);
    assert_null(kd_log_open(nowhere, 0, &t));
    assert_non_null(strstr(t.text, nowhere));
}

/* ---- event files ------------------------------------------------------------------------------------ */

typedef struct Reader {
    const unsigned char *p;
    size_t n, at;
} Reader;

static uint64_t little(Reader *r, int n) {
    uint64_t v = 0;
    assert_true(r->n - r->at >= (size_t)n);
    for (int i = 0; i < n; i++) {
        v |= (uint64_t)r->p[r->at++] << 8 * i;
    }
    return v;
}

static uint64_t varint(Reader *r) {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        uint64_t byte = little(r, 1);
        v |= (byte & 127) << shift;
        if (byte < 128) {
            return v;
        }
    }
}

static Reader part(Reader *r, size_t n) {
    assert_true(r->n - r->at >= n);
    Reader inner = {r->p + r->at, n, 0};
    r->at += n;
    return inner;
}

typedef struct Field {
    int number;
    uint64_t v; /* varint or fixed bits */
    Reader text;
} Field;

/* The next field of a message; false at its end. */
static bool next(Reader *r, Field *f) {
    if (r->at == r->n) {
        return false;
    }
    uint64_t key = varint(r);
    int type = (int)(key & 7);
    f->number = (int)(key >> 3);
    assert_true(type == 0 || type == 1 || type == 2 || type == 5);
    if (type == 2) {
        f->text = part(r, (size_t)varint(r));
    } else {
        f->v = type == 0 ? varint(r) : little(r, type == 1 ? 8 : 4);
    }
    return true;
}

static uint32_t masked(const unsigned char *p, size_t n) {
    uint32_t c = kd_crc32c(0, p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

static Reader record(Reader *r) {
    uint32_t want = masked(r->p + r->at, 8);
    uint64_t n = little(r, 8);
    assert_int_equal(little(r, 4), want);
    Reader data = part(r, (size_t)n);
    assert_int_equal(little(r, 4), masked(data.p, data.n));
    return data;
}

typedef struct Event {
    double time;
    int64_t step;
    char version[32], tag[32];
    bool scalar;
    float value;
    int height, width, colours, status;
    Reader png;
} Event;

static void copy(char *to, size_t size, Reader r) {
    assert_true(r.n < size);
    memcpy(to, r.p, r.n);
    to[r.n] = '\0';
}

static void image(Reader r, Event *e) {
    for (Field f; next(&r, &f);) {
        e->height = f.number == 1 ? (int)f.v : e->height;
        e->width = f.number == 2 ? (int)f.v : e->width;
        e->colours = f.number == 3 ? (int)f.v : e->colours;
        e->png = f.number == 4 ? f.text : e->png;
    }
}

static Event event(Reader r) {
    Event e = {.step = -1};
    Field f, g;
    while (next(&r, &f)) {
        if (f.number == 1) {
            memcpy(&e.time, &f.v, 8);
        } else if (f.number == 2) {
            e.step = (int64_t)f.v;
        } else if (f.number == 3) {
            copy(e.version, sizeof e.version, f.text);
        } else if (f.number == 7) {
            assert_true(next(&f.text, &g) && g.number == 1);
            e.status = (int)g.v;
        } else {
            assert_int_equal(f.number, 5);
            assert_true(next(&f.text, &g) && g.number == 1);
            for (Reader value = g.text; next(&value, &g);) {
                if (g.number == 1) {
                    copy(e.tag, sizeof e.tag, g.text);
                } else if (g.number == 2) {
                    uint32_t bits = (uint32_t)g.v;
                    memcpy(&e.value, &bits, 4);
                    e.scalar = true;
                } else {
                    assert_int_equal(g.number, 4);
                    image(g.text, &e);
                }
            }
        }
    }
    return e;
}

/* The one event file of the folder that is not `but`. */
static char *event_file(const Place *p, const char *but, size_t *n) {
    KdTrouble t;
    DIR *d = opendir(p->folder);
    char *text = NULL;
    static char path[512];
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, "events.out.tfevents.", 20) == 0 && strcmp(e->d_name, but) != 0) {
            assert_null(text);
            assert_true(strspn(e->d_name + 20, "0123456789") == 10);
            snprintf(path, sizeof path, "%s/%s", p->folder, e->d_name);
            text = kd_file_read(path, n, &t);
        }
    }
    closedir(d);
    assert_non_null(text);
    return text;
}

static void events_decode(void **state) {
    const Place *p = *state;
    KdTrouble t = {0};
    size_t n;
    unsigned char png[300];
    for (size_t i = 0; i < sizeof png; i++) {
        png[i] = (unsigned char)(i * 7);
    }
    KdEvents *e = kd_events_open(p->folder, 0, &t);
    if (!e) {
        fail_msg("%s", t.text);
    }
    assert_true(kd_events_scalar(e, 1700000000.5, 1, "loss/adv", 0.3125, &t));
    assert_true(kd_events_scalar(e, 1700000001.5, 1LL << 40, "loss/rec", -2.5, &t));
    assert_true(kd_events_image(e, 1700000002.5, 300, "samples", png, sizeof png, 640, 129, &t));
    char *bytes = event_file(p, "", &n); /* before it is closed: nothing waits in a buffer */
    Reader r = {(unsigned char *)bytes, n, 0};
    assert_string_equal(event(record(&r)).version, "brain.Event:2");
    Event x = event(record(&r));
    assert_true(x.time == 1700000000.5 && x.step == 1 && x.scalar && x.value == 0.3125f);
    assert_string_equal(x.tag, "loss/adv");
    x = event(record(&r));
    assert_true(x.step == 1LL << 40 && x.value == -2.5f);
    x = event(record(&r));
    assert_true(!x.scalar && x.step == 300 && x.width == 640 && x.height == 129 && x.colours == 3);
    assert_true(x.png.n == sizeof png && memcmp(x.png.p, png, sizeof png) == 0);
    assert_int_equal(r.at, r.n);
    kd_events_close(e);
    free(bytes);
}

/* A new file beside the old one, which says that what came after `keep` is void. */
static void events_go_on(void **state) {
    const Place *p = *state;
    KdTrouble t = {0};
    size_t n;
    KdEvents *e = kd_events_open(p->folder, 0, &t);
    kd_events_close(e);
    DIR *d = opendir(p->folder);
    char old[256] = "";
    for (struct dirent *f; (f = readdir(d));) {
        if (f->d_name[0] == 'e') {
            snprintf(old, sizeof old, "%s", f->d_name);
        }
    }
    closedir(d);
    e = kd_events_open(p->folder, 120, &t);
    assert_non_null(e);
    kd_events_close(e);
    char *bytes = event_file(p, old, &n);
    Reader r = {(unsigned char *)bytes, n, 0};
    record(&r);
    Event x = event(record(&r));
    assert_true(x.status == 1 && x.step == 121 && r.at == r.n);
    free(bytes);
    assert_null(kd_events_open("/tmp/kdc-log-none/x", 0, &t));
    assert_non_null(strstr(t.text, "/tmp/kdc-log-none/x"));
}

static void golden_record(void **state) {
    const Place *p = *state;
    /* time 1.5 at step 3, tag "a", value 2.0; packed by struct of Python, sums bit by bit there */
    static const unsigned char want[] = {
        0x17, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xe7, 0xce, 0xf8, 0x1e, 0x09, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0xf8, 0x3f, 0x10, 0x03, 0x2a, 0x0a, 0x0a, 0x08, 0x0a, 0x01, 0x61, 0x15, 0x00,
        0x00, 0x00, 0x40, 0xe8, 0x1c, 0x3a, 0x9d,
    };
    KdTrouble t;
    size_t n;
    KdEvents *e = kd_events_open(p->folder, 0, &t);
    assert_true(kd_events_scalar(e, 1.5, 3, "a", 2.0, &t));
    kd_events_close(e);
    char *bytes = event_file(p, "", &n);
    assert_true(n > sizeof want);
    assert_memory_equal(bytes + n - sizeof want, want, sizeof want);
    assert_int_equal(n - sizeof want, 8 + 4 + 9 + 2 + 13 + 4);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_are_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(strange_lines_are_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(evaluations, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cut_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(events_decode, set_up, tear_down),
        cmocka_unit_test_setup_teardown(events_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(golden_record, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
