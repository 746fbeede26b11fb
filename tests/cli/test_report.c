/* test_report.c: sample grids to the pixel, the progress line, and a page that escapes what users wrote, stays small and is one
 * well-formed document. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "frontend/cli/report.h"
#include "runtime/host/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- grids ------------------------------------------------------------------------------------------ */

static int pixel(const KdImage *x, int left, int top, int channel) {
    return ((uint8_t *)x->samples)[3 * (top * x->width + left) + channel];
}

static void grid_of_two(void **state) {
    (void)state;
    enum { H = 8, W = 20 };
    float colour[2 * 3 * H * W], gray[1 * 1 * 4 * W];
    for (int i = 0; i < 2 * 3 * H * W; i++) {
        colour[i] = i / (H * W) % 3 == 0 ? -1.0f : i / (H * W) % 3 == 1 ? 0.0f : 7.0f;
    }
    for (int i = 0; i < 4 * W; i++) {
        gray[i] = i == 0 ? NAN : i == 1 ? -INFINITY : 0.5f;
    }
    const KdcShown v[] = {{"Il", 2, 3, H, W, colour}, {"a name that is too long", 1, 1, 4, W, gray}};
    KdImage x = {0};
    KdTrouble t;
    assert_true(kdc_sample_grid(v, 2, 4, &x, &t));
    assert_int_equal(x.channels, 3);
    assert_int_equal(x.width, 2 + W + 2 + W + 2);
    int top = x.height - 2 * (H + 2);
    assert_true(top >= 9);
    for (int r = 0; r < 2; r++) { /* red least, green in the middle, blue clamped */
        assert_int_equal(pixel(&x, 2, top + r * (H + 2), 0), 0);
        assert_int_equal(pixel(&x, 2 + W - 1, top + r * (H + 2) + H - 1, 1), 128);
        assert_int_equal(pixel(&x, 2, top + r * (H + 2), 2), 255);
    }
    int left = 2 + W + 2;
    assert_int_equal(pixel(&x, left, top, 0), 0);     /* NaN */
    assert_int_equal(pixel(&x, left + 1, top, 0), 0); /* -inf */
    for (int k = 0; k < 3; k++) {
        assert_int_equal(pixel(&x, left + 2, top, k), 191); /* (0.5 + 1) / 2 * 255 = 191.25 */
        assert_int_equal(pixel(&x, left, top + 4, k), 255); /* lower than the row: white */
        assert_int_equal(pixel(&x, left, top + H + 2, k), 255); /* one image only */
        assert_int_equal(pixel(&x, 0, top, k), 255);
    }
    int dark = 0, beyond = 0;
    for (int r = 0; r < top; r++) {
        for (int c = 0; c < x.width; c++) {
            bool ink = pixel(&x, c, r, 0) < 128;
            dark += ink && c < 2 + W;
            beyond += ink && (c < 2 || c >= left + W);
        }
    }
    assert_int_equal(dark, 11 + 10); /* "I": 3 + 5 + 3; "l": 2 + 5 + 3 */
    assert_int_equal(beyond, 0);
    kd_image_free(&x);
    assert_true(kdc_sample_grid(v, 2, 1, &x, &t));
    assert_int_equal(x.height, top + H + 2);
    kd_image_free(&x);
}

/* No two characters look alike, and none is empty but the space. */
static void font_is_whole(void **state) {
    (void)state;
    enum { N = 95, CELL = 6 };
    char name[N + 1];
    float *blank = calloc(N * CELL, sizeof *blank);
    KdImage x;
    KdTrouble t;
    for (int i = 0; i < N; i++) {
        name[i] = (char)(32 + i);
    }
    name[N] = '\0';
    const KdcShown v = {name, 1, 1, 1, N * CELL, blank};
    assert_true(kdc_sample_grid(&v, 1, 1, &x, &t));
    uint64_t seen[N];
    for (int i = 0; i < N; i++) {
        seen[i] = 0;
        for (int r = 0; r < 7; r++) {
            for (int c = 0; c < 5; c++) {
                seen[i] = seen[i] << 1 | (pixel(&x, 2 + i * CELL + c, 2 + r, 0) < 128);
            }
        }
        assert_true((seen[i] == 0) == (i == 0));
        for (int k = 0; k < i; k++) {
            if (seen[k] == seen[i]) {
                fail_msg("'%c' looks like '%c'", name[i], name[k]);
            }
        }
    }
    kd_image_free(&x);
    free(blank);
}

/* ---- progress --------------------------------------------------------------------------------------- */

static char *text_of(FILE *f, size_t *n) {
    *n = (size_t)ftell(f);
    char *text = calloc(*n + 1, 1);
    rewind(f);
    assert_int_equal(fread(text, 1, *n, f), *n);
    return text;
}

static void durations(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *says;
    } all[] = {{0, "0:00"}, {92.4, "1:32"}, {59.6, "1:00"}, {3599.6, "1:00:00"}, {7500, "2:05:00"}, {360000, "100:00:00"},
               {-3, "0:00"}, {NAN, "0:00"}, {INFINITY, "0:00"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char text[32];
        assert_string_equal(kdc_duration(all[i].seconds, text, sizeof text), all[i].says);
    }
    assert_true(kdc_resident_bytes() > 1 << 16);
    assert_true(kdc_peak_bytes() >= kdc_resident_bytes() / 2);
}

static void progress_in_a_file(void **state) {
    (void)state;
    FILE *f = tmpfile();
    KdcProgress p;
    const char *const names[] = {"adv", "rec", "r1"};
    const double values[] = {0.3125, 8.125, NAN};
    size_t n;
    kdc_progress_begin(&p, f, false, 100, 104, 2);
    for (int s = 101; s <= 104; s++) {
        struct timespec nap = {0, 20000000};
        nanosleep(&nap, NULL);
        kdc_progress_step(&p, 3, s, names, values, 3);
        p.seconds = s == 101 ? 0 : 1000; /* 102 is due, 103 is not, 104 is the last */
    }
    kdc_progress_end(&p);
    char *text = text_of(f, &n), left[16];
    long long step = 0, mib = 0;
    double adv = 0, rec = 0, rate = 0;
    assert_null(strchr(text, '\r'));
    assert_int_equal(sscanf(text, "epoch 3  step %lld/104  adv %lf  rec %lf  %lf images/s  %15s left  %lld MiB", &step, &adv, &rec,
                            &rate, left, &mib), 6);
    assert_true(step == 102 && adv == 0.3125 && rec == 8.125);
    assert_true(rate > 2 && rate <= 100); /* 2 images in at least 20 ms */
    const char *second = strchr(text, '\n') + 1;
    assert_true(strncmp(second, "epoch 3  step 104/104", 21) == 0);
    assert_non_null(strstr(second, "  0:00 left"));
    assert_null(strstr(text, "r1"));
    assert_string_equal(strchr(second, '\n'), "\n");
    free(text);
    fclose(f);
}

static void progress_live(void **state) {
    (void)state;
    FILE *f = tmpfile();
    KdcProgress p;
    size_t n;
    kdc_progress_begin(&p, f, true, 0, 2, 1);
    p.seconds = 0;
    kdc_progress_step(&p, 1, 1, NULL, NULL, 0);
    kdc_progress_step(&p, 1, 2, NULL, NULL, 0);
    kdc_progress_end(&p);
    kdc_progress_end(&p); /* once is enough */
    char *text = text_of(f, &n);
    assert_true(text[0] == '\r' && text[n - 1] == '\n' && text[n - 2] != '\n');
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    assert_non_null(strstr(text, "\r\033[Kepoch 1  step 2/2"));
    free(text);
    fclose(f);
}

/* ---- the page --------------------------------------------------------------------------------------- */

static char folder[32];

static int set_up(void **state) {
    (void)state;
    char path[64];
    strcpy(folder, "/tmp/kdc-report-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/samples", folder);
    return mkdir(path, 0777);
}

static int tear_down(void **state) {
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void write_log(int64_t steps) {
    char path[64];
    KdTrouble t;
    const char *const names[] = {"rec", "<b>\"&'", "never"};
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    KdLog *l = kd_log_open(path, 0, &t);
    assert_non_null(l);
    for (int64_t s = 1; s <= steps; s++) {
        const double v[] = {1.0 / (double)s, s % 3 ? NAN : (double)s, NAN};
        assert_true(kd_log_step(l, 1700000000 + (double)s, s, 1, 2.5, names, v, 3, &t));
    }
    kd_log_close(l);
}

static void write_sample(int64_t step, int size, int noise) {
    char path[96];
    KdImage x;
    KdTrouble t;
    assert_true(kd_image_new(size, size, 3, 8, &x, &t));
    uint32_t r = 1;
    for (int i = 0; i < 3 * size * size; i++) {
        r = r * 1664525u + 1013904223u;
        ((uint8_t *)x.samples)[i] = noise ? (uint8_t)(r >> 24) : (uint8_t)step;
    }
    snprintf(path, sizeof path, "%s/samples/%06" PRId64 ".png", folder, step);
    assert_true(kd_png_write(path, &x, NULL, 0, &t));
    kd_image_free(&x);
}

/* The page, freed by the caller. Every opening tag of the kinds that close is closed, in order. */
static char *page(const KdcReport *r, size_t *n) {
    static const char *const alone[] = {"meta", "img", "!doctype", "line", "path", "rect"};
    KdTrouble t;
    char path[64], *stack[64];
    int depth = 0;
    if (!kdc_report_write(r, &t)) {
        fail_msg("%s", t.text);
    }
    snprintf(path, sizeof path, "%s/report.html", folder);
    char *text = kd_file_read(path, n, &t);
    assert_non_null(text);
    for (char *p = text; (p = strchr(p, '<')); p++) {
        size_t length = strcspn(p + 1, " >/");
        char *end = strchr(p, '>');
        bool single = end[-1] == '/';
        for (size_t i = 0; i < sizeof alone / sizeof alone[0]; i++) {
            single = single || (strlen(alone[i]) == length && strncmp(alone[i], p + 1, length) == 0);
        }
        if (p[1] == '/') {
            length = strcspn(p + 2, ">");
            assert_true(depth > 0);
            depth--;
            if (strncmp(stack[depth], p + 2, length) != 0) {
                fail_msg("%.20s closes %.20s", p, stack[depth]);
            }
        } else if (!single) {
            assert_true(depth < 64);
            stack[depth++] = p + 1;
        }
    }
    assert_int_equal(depth, 0);
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "http:"));
    assert_null(strstr(text, "https:"));
    assert_null(strstr(text, " nan")); /* base64 has no blanks */
    assert_null(strstr(text, " -nan"));
    return text;
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) {
        n++;
    }
    return n;
}

static const KdcReport bare = {.title = "m.kd: s", .folder = folder, .state = "running"};

static void page_of_a_run(void **state) {
    (void)state;
    const KdcReportRow net[] = {{"T", "Gen[w = 8]", true, 1234567, 5.5e9}, {"S<i>", "Gen[\"x\"]", false, 7, -1}};
    const KdcPagePair plan[] = {{"time", "1 < 2 & 3"}}, setting[] = {{"seed", "1"}, {"<p>", "</td>"}};
    KdcReport r = {"a<script>\"b\".kd: s", folder, net, 2, plan, 1, setting, 2, "stopped: <x> is NaN at step 7"};
    size_t n;
    write_log(50);
    for (int s = 0; s <= 40; s++) {
        write_sample(s, 8, 0);
    }
    char *text = page(&r, &n);
    assert_int_equal(count(text, "<svg "), 2); /* "never" has no value, so no panel */
    assert_int_equal(count(text, "data:image/png;base64,iVBORw0KGgo"), 13);
    assert_int_equal(count(text, "<figcaption>step 40</figcaption>"), 1);
    assert_int_equal(count(text, "<figcaption>step 0</figcaption>"), 1);
    assert_true(strstr(text, "step 40<") < strstr(text, "step 0<"));
    assert_int_equal(count(text, "1,234,567"), 1);
    assert_int_equal(count(text, "a&lt;script&gt;&quot;b&quot;.kd: s"), 2);
    assert_non_null(strstr(text, "stopped: &lt;x&gt; is NaN at step 7"));
    assert_non_null(strstr(text, "1 &lt; 2 &amp; 3"));
    assert_non_null(strstr(text, "aria-label=\"&lt;b&gt;&quot;&amp;&#39; by step\""));
    assert_non_null(strstr(text, "&lt;/td&gt;"));
    assert_non_null(strstr(text, "last 0.02, least 0.02"));
    free(text);
}

/* Metrics have panels of their own: all points, a ring around the best one. */
static void page_of_metrics(void **state) {
    (void)state;
    size_t n;
    char path[64];
    KdTrouble t;
    const char *const names[] = {"S.l1", "<b>.psnr", "never"};
    write_log(4);
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    KdLog *l = kd_log_open(path, 4, &t);
    assert_non_null(l);
    for (int i = 1; i <= 3; i++) {
        const double v[] = {i == 2 ? 1 : 5 + i, 20 + i, NAN};
        assert_true(kd_log_eval(l, 1700000000, i, 1, names, v, 3, &t));
        char *text = page(&bare, &n); /* one value already makes a panel */
        assert_int_equal(count(text, "<circle class=\"best\""), 2);
        assert_int_equal(count(text, "<circle class=\"dot\""), 2 * i);
        free(text);
    }
    kd_log_close(l);
    char *text = page(&bare, &n);
    assert_non_null(strstr(text, "last 8, best 1 (lowest, step 2), mean of the last 3 5"));
    assert_non_null(strstr(text, "last 23, best 23 (highest, step 3), mean of the last 3 22"));
    assert_non_null(strstr(text, "<h3>&lt;b&gt;.psnr</h3>"));
    assert_null(strstr(text, "never"));
    free(text);
}

static void page_without_much(void **state) {
    (void)state;
    size_t n;
    write_log(0);
    free(page(&bare, &n));
    write_log(1);
    write_sample(0, 4, 0);
    char *text = page(&bare, &n);
    assert_int_equal(count(text, "<svg "), 1);
    assert_int_equal(count(text, "<img "), 1);
    free(text);
    KdcReport r = bare;
    KdTrouble t;
    r.folder = "/tmp/kdc-report-none";
    assert_false(kdc_report_write(&r, &t));
    assert_non_null(strstr(t.text, "/tmp/kdc-report-none/log.jsonl"));
}

/* Tens of thousands of steps and grids of a megabyte: the page stays below 10 MB. */
static void page_stays_small(void **state) {
    (void)state;
    size_t n, small;
    write_log(20000);
    free(page(&bare, &small));
    assert_true(small < 100000);
    write_sample(1, 600, 1);
    for (int s = 2; s <= 14; s++) {
        char from[96], to[96];
        snprintf(from, sizeof from, "%s/samples/000001.png", folder);
        snprintf(to, sizeof to, "%s/samples/%06d.png", folder, s);
        assert_int_equal(link(from, to), 0);
    }
    char *text = page(&bare, &n);
    assert_true(n > 8000000 && n < 10500000);
    assert_int_equal(count(text, "<img "), 6);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grid_of_two),
        cmocka_unit_test(font_is_whole),
        cmocka_unit_test(durations),
        cmocka_unit_test(progress_in_a_file),
        cmocka_unit_test(progress_live),
        cmocka_unit_test_setup_teardown(page_of_a_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(page_of_metrics, set_up, tear_down),
        cmocka_unit_test_setup_teardown(page_without_much, set_up, tear_down),
        cmocka_unit_test_setup_teardown(page_stays_small, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
