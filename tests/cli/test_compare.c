/* test_compare.c: kdc compare as a person uses it: counts that are known, formats that parse and agree, metrics as kdc
 * eval has them, a page, and what is wrong said in a sentence.
 *
 * Runs the built binary: $KDC_BIN, or ../kdc beside this program; skipped when there is none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/cli/command.h"

/* At 16x16: 27 ch + ch and 48 ch + 3 parameters; 27 ch x 64 multiply-adds, and 48 ch x 64 or x 256; ch x 64 results of
 * the convolution, as many of relu, 3 x 256 of the second one. */
static const char nets_kd[] =
    "param width = 8\n"
    "param unused = 0.0\n"
    "net Up[ch = 4](x: [n, 3, h, w]) {\n"
    "    let down = conv2d[ch, 3, stride = 2, padding = 1]\n"
    "    let up = conv_transpose2d[3, 4, stride = 2, padding = 1]\n"
    "    return up(relu(down(x)))\n"
    "}\n"
    "net Scale[](x: [n, 3, h, w]) { return x * reshape(weight([1], \"ones\", name = \"w\"), [1, 1, 1, 1]) }\n"
    "net Gray[ch = 4](x: [n, 1, h, w]) { return conv2d[ch, 1](x) }\n"
    "let G = Up[ch = width]\n"
    "let S = Scale[]\n"
    "session fit(x: [1, 3, 16, 16]) {\n"
    "    let loss = mean(square(G(x)))\n"
    "    minimize loss over G with adam(0.01)\n"
    "}\n";

static Setup here;

/* stdout of what has to work, to free */
static char *output(const char *line) {
    expect(&here, line, 0, "stdout", "");
    return read_text(&here, "stdout", NULL);
}

static const json_t *row(const json_t *o, int i) {
    return json_array_get(json_object_get(o, "networks"), (size_t)i);
}

static void named(const json_t *o, int i, const char *name) {
    assert_string_equal(json_string_value(json_object_get(row(o, i), "network")), name);
}

static void is(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * fabs(want))) {
        fail_msg("%.12g, expected %.12g", got, want);
    }
}

static void is_up(const json_t *r, double ch) {
    is(at(r, "parameters"), 76 * ch + 3);
    is(at(r, "size_bytes"), 4 * (76 * ch + 3));
    is(at(r, "macs.noT"), 27 * ch * 64);
    is(at(r, "macs.Tin"), 75 * ch * 64);
    is(at(r, "macs.Tout"), 27 * ch * 64 + 48 * ch * 256);
    is(at(r, "memory.layers"), 4 * (2 * ch * 64 + 3 * 256));
    assert_true(at(r, "memory.peak") > 0);
}

/* ---- setting up --------------------------------------------------------------------------------------- */

/* pair/test/pK.png: A left, B right */
static void make_pictures(void) {
    assert_int_equal(mkdir(in_folder(&here, "pair"), 0777), 0);
    assert_int_equal(mkdir(in_folder(&here, "pair/test"), 0777), 0);
    for (int k = 0; k < 2; k++) {
        enum { SIDE = 16 };
        KdImage x;
        KdTrouble t;
        char name[64];
        assert_true(kd_image_new(2 * SIDE, SIDE, 3, 8, &x, &t));
        for (int i = 0; i < 2 * SIDE * SIDE * 3; i++) {
            ((uint8_t *)x.samples)[i] = (uint8_t)((unsigned)(i + 31 * k) * 2654435761u >> 24);
        }
        snprintf(name, sizeof name, "pair/test/p%d.png", k);
        assert_true(kd_png_write(in_folder(&here, name), &x, NULL, 0, &t));
        kd_image_free(&x);
    }
}

static void make_weights(const char *name, float v) {
    const int64_t one = 1;
    const KdTensorOut w = {"w", KD_STORED_F32, 1, &one, &v};
    KdTrouble t;
    assert_true(kd_weights_write(in_folder(&here, name), &w, 1, NULL, 0, &t));
}

static int set_up(void **state) {
    (void)state;
    if (!open_setup(&here, "compare")) {
        return 0;
    }
    own_cache(&here);
    make_pictures();
    make_weights("half.safetensors", 0.5f);
    make_weights("w0.9.safetensors", 0.9f);
    write_text(&here, "n.kd", nets_kd, strlen(nets_kd));
    write_text(&here, "b.kd", nets_kd, strlen(nets_kd));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    close_setup(&here);
    return 0;
}

/* ---- rows --------------------------------------------------------------------------------------------- */

static void test_counts(void **state) {
    (void)state;
    skip_unless(&here);
    json_t *o = results(&here, "compare n.kd:G n.kd:Up[ch=4] n.kd:G[width=2] --size 16 --no-latency --json");
    assert_int_equal(json_array_size(json_object_get(o, "networks")), 3);
    named(o, 0, "G");
    named(o, 1, "Up[ch=4]");
    named(o, 2, "G[width=2]");
    is_up(row(o, 0), 8);
    is_up(row(o, 1), 4);
    is_up(row(o, 2), 2);
    is(at(row(o, 0), "ratio.parameters"), 1);
    is(at(row(o, 1), "ratio.parameters"), 611.0 / 307);
    is(at(row(o, 2), "ratio.macs_Tin"), 4);
    is(at(row(o, 2), "ratio.layer_bytes"), (16. * 64 + 768) / (4. * 64 + 768));
    assert_int_equal(json_array_size(json_object_get(row(o, 0), "latency")), 0);
    json_decref(o);
}

static void test_each(void **state) {
    static const char *const names[] = {"n:G[width=6]", "n:G[width=3]", "b:G[width=6]", "b:G[width=3]"};
    (void)state;
    skip_unless(&here);
    json_t *o = results(&here, "compare n.kd:G b.kd:G --each width=6,3 --size 16 --no-latency --format json");
    assert_int_equal(json_array_size(json_object_get(o, "networks")), 4);
    assert_string_equal(json_string_value(json_object_get(o, "width")), "width");
    for (int i = 0; i < 4; i++) {
        named(o, i, names[i]);
        is_up(row(o, i), i % 2 ? 3 : 6);
    }
    json_decref(o);
    o = results(&here, "compare n.kd:Up --each ch=5,7 --size 16 --no-latency --json");
    named(o, 1, "Up[ch=7]");
    is_up(row(o, 0), 5);
    is_up(row(o, 1), 7);
    json_decref(o);
}

/* Twice the same network. */
static void test_names(void **state) {
    (void)state;
    skip_unless(&here);
    json_t *o = results(&here, "compare n.kd:G n.kd:G --size 16 --no-latency --json");
    named(o, 0, "n:G (1)");
    named(o, 1, "n:G (2)");
    assert_true(json_is_null(json_object_get(o, "width")));
    json_decref(o);
}

/* ---- formats ------------------------------------------------------------------------------------------ */

#define LINE "compare n.kd:Up[ch=8] n.kd:Up[ch=2] --size 16 --no-latency "

static int count(const char *text, const char *end, char c) {
    int n = 0;
    for (; text < end; text++) {
        n += *text == c;
    }
    return n;
}

static void test_text(void **state) {
    (void)state;
    skip_unless(&here);
    char *text = output(LINE);
    assert_non_null(strstr(text, "network   parameters        size KiB   noT k"));
    assert_non_null(strstr(text, "\nUp[ch=8]         611 1.00x      2.39"));
    assert_non_null(strstr(text, "\nUp[ch=2]         155 3.94x      0.61"));
    free(text);
}

static void test_markdown(void **state) {
    (void)state;
    skip_unless(&here);
    char *text = output(LINE "-q --format markdown");
    int lines = 0;
    for (char *p = text; *p; lines++) {
        char *end = strchr(p, '\n');
        assert_non_null(end);
        assert_int_equal(*p, '|');
        assert_int_equal(count(p, end, '|'), 9);
        p = end + 1;
    }
    assert_int_equal(lines, 4);
    assert_non_null(strstr(text, "| Up[ch=2] | 155 (3.94x) |"));
    free(text);
}

static void test_csv(void **state) {
    (void)state;
    skip_unless(&here);
    char *text = output(LINE "--format csv");
    char *first = strchr(text, '\n') + 1, *second = strchr(first, '\n') + 1;
    int fields = count(text, first, ',');
    assert_true(strncmp(text, "network,file,net,ch,parameters,parameters_ratio,size_bytes,", 58) == 0);
    assert_true(strncmp(first, "Up[ch=8],n.kd,Up,8,611,1,2444,1,13824,1,38400,1,112128,1,", 57) == 0);
    assert_int_equal(count(first, second, ','), fields);
    assert_int_equal(count(second, second + strlen(second), ','), fields);
    free(text);
    text = output("compare n.kd:G --each width=8,4 --each unused=1,2 --size 16 --no-latency --format csv");
    assert_non_null(strstr(text, "\n\"G[width=8,unused=2]\",n.kd,G,8,611,"));
    assert_non_null(strstr(text, "\n\"G[width=4,unused=1]\",n.kd,G,4,307,"));
    free(text);
}

/* ---- time and metrics --------------------------------------------------------------------------------- */

static void test_latency(void **state) {
    (void)state;
    skip_unless(&here);
    json_t *o = results(&here, "compare n.kd:Up[ch=8] n.kd:Up[ch=2] --size 16 --runs 3 --threads 2 --json");
    is(at(o, "rounds"), 3);
    for (int i = 0; i < 2; i++) {
        const json_t *times = json_object_get(row(o, i), "latency");
        assert_int_equal(json_array_size(times), 2);
        for (int t = 0; t < 2; t++) {
            const json_t *v = json_array_get(times, (size_t)t);
            is(at(v, "threads"), t + 1);
            assert_true(at(v, "min_ms") > 0);
            assert_true(at(v, "min_ms") <= at(v, "median_ms") && at(v, "median_ms") <= at(v, "max_ms"));
        }
    }
    is(at(row(o, 1), "ratio.latency_1"), at(json_array_get(json_object_get(row(o, 0), "latency"), 0), "median_ms") /
                                             at(json_array_get(json_object_get(row(o, 1), "latency"), 0), "median_ms"));
    json_decref(o);
    o = results(&here, "compare n.kd:Up --size 16 --runs 2 --threads 1 --json");
    assert_int_equal(json_array_size(json_object_get(row(o, 0), "latency")), 1);
    json_decref(o);
}

/* The numbers of kdc eval with the same weights; a row without weights has none. */
static void test_metrics(void **state) {
    static const char *const weights[] = {"half.safetensors", "w0.9.safetensors"};
    static const char *const metrics[] = {"l1", "psnr", "ssim"};
    (void)state;
    skip_unless(&here);
    json_t *o = results(&here, "compare n.kd:S n.kd:S b.kd:S --data pair --weights 1=half.safetensors "
                        "--weights 2=w0.9.safetensors --no-latency --json");
    for (int i = 0; i < 2; i++) {
        char line[256];
        snprintf(line, sizeof line, "eval n.kd:S --weights %s --data pair --json", weights[i]);
        json_t *e = results(&here, line);
        for (int m = 0; m < 3; m++) {
            char ours[64], theirs[64];
            snprintf(ours, sizeof ours, "metrics.%s", metrics[m]);
            snprintf(theirs, sizeof theirs, "metrics.%s.mean", metrics[m]);
            is(at(row(o, i), ours), at(e, theirs));
        }
        assert_string_equal(json_string_value(json_object_get(json_object_get(o, "data"), "list_hash")),
                            json_string_value(json_object_get(json_object_get(e, "data"), "list_hash")));
        json_decref(e);
    }
    assert_true(at(row(o, 0), "metrics.l1") != at(row(o, 1), "metrics.l1"));
    assert_true(json_is_null(json_object_get(json_object_get(row(o, 2), "metrics"), "l1")));
    json_t *each = results(&here, "compare n.kd:S --each unused=0.9 --weights w{unused}.safetensors --data pair --no-latency "
                           "--json");
    is(at(row(each, 0), "metrics.l1"), at(row(o, 1), "metrics.l1"));
    json_decref(each);
    json_decref(o);
    char *text = output("compare n.kd:S --data pair --weights S=half.safetensors --metrics psnr --no-latency");
    assert_non_null(strstr(text, "PSNR dB"));
    assert_null(strstr(text, "SSIM"));
    free(text);
    json_t *own = results(&here, "compare n.kd:S --data pair --weights half.safetensors --no-latency --features b.kd:S --json");
    json_t *e = results(&here, "eval n.kd:S --weights half.safetensors --data pair --features b.kd:S --json");
    is(at(row(own, 0), "metrics.frechet"), at(e, "metrics.frechet.value"));
    assert_string_equal(json_string_value(json_object_get(json_object_get(own, "data"), "frechet_features")), "b.kd:S");
    json_decref(own);
    json_decref(e);
}

static void test_page(void **state) {
    (void)state;
    skip_unless(&here);
    free(output("compare n.kd:Up b.kd:Up --each ch=8,4,2 --size 16 --runs 2 --threads 1 -o page.html"));
    char *page = read_text(&here, "page.html", NULL);
    static const char *const has[] = {"<!doctype html>", "</html>", "Latency on 1 core, ms", "against ch", "n:Up",
                                      "b:Up", "b:Up[ch=2]", "611", "class=\"line\""};
    for (int i = 0; i < (int)(sizeof has / sizeof *has); i++) {
        if (!strstr(page, has[i])) {
            fail_msg("page.html has no %s", has[i]);
        }
    }
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "http"));
    assert_null(strstr(page, "nan"));
    free(page);
    free(output("compare n.kd:S --data pair --weights half.safetensors n.kd:S[] --no-latency -o page.html"));
    page = read_text(&here, "page.html", NULL);
    assert_non_null(strstr(page, "<h3>PSNR, dB</h3>"));
    free(page);
}

/* ---- mistakes ----------------------------------------------------------------------------------------- */

static void wrong(const char *line, int code, const char *sentence) {
    int got = run(&here, line);
    char *err = read_text(&here, "stderr", NULL), *out = read_text(&here, "stdout", NULL);
    if (got != code || !strstr(err, sentence) || *out) {
        fail_msg("kdc %s: exit code %d, expected %d and '%s'\n%s%s", line, got, code, sentence, out, err);
    }
    free(err);
    free(out);
}

static void test_mistakes(void **state) {
    (void)state;
    skip_unless(&here);
    wrong("compare", 2, "which networks? kdc compare A.kd:NET B.kd:NET ...");
    wrong("compare n.kd", 2, "which network of n.kd? name it: n.kd:NAME");
    wrong("compare n.kd:Q --no-latency", 1, "n.kd has no fn, net or network 'Q'");
    wrong("compare no.kd:Q --no-latency", 1, "cannot read no.kd");
    wrong("compare n.kd:fit --no-latency", 1, "fit is a session; networks are compared");
    wrong("compare n.kd:G n.kd:Gray --size 16 --no-latency", 1,
          "G takes [1, 3, 16, 16], but Gray takes [1, 1, 16, 16]; networks that are compared take the same input");
    wrong("compare n.kd:G --format xml", 2, "--format takes text, markdown, csv or json, got 'xml'");
    wrong("compare n.kd:G --json --format csv", 2, "--json and --format csv: one of them");
    wrong("compare n.kd:Up[ch=8", 2, "n.kd:Up[ch=8: expected ']' at the end");
    wrong("compare n.kd:Up]", 2, "n.kd:Up]: a ']' without its '['");
    wrong("compare n.kd:G[3]", 2, "expected n.kd:G[PARAM=VALUE,...], got '3' in the brackets");
    wrong("compare n.kd:G[wdth=3] --no-latency", 1, "n.kd has no param 'wdth'");
    wrong("compare n.kd:Up[chan=3] --no-latency", 1, "Up[] has no parameter 'chan'");
    wrong("compare n.kd:G --each width", 2, "--each needs NAME=A,B,..., such as ngf=64,32,16, got 'width'");
    wrong("compare n.kd:G --each width=1,,2", 2, "a value is empty");
    wrong("compare n.kd:G -o x.csv", 2, "expected a name that ends in .html, got 'x.csv'");
    wrong("compare n.kd:G --data pair", 2, "--data is for metrics, which need --weights");
    wrong("compare n.kd:G --weights 2=half.safetensors", 2, "expected a row's number, 1 to 1, or its name: G");
    wrong("compare n.kd:G --weights Q=half.safetensors", 2, "expected a row's number, 1 to 1, or its name: G");
    wrong("compare n.kd:S --weights w{a}.safetensors", 2, "S is given no param 'a'");
    wrong("compare n.kd:S --weights no.safetensors --no-latency", 1, "no.safetensors");
    wrong("compare n.kd:S --weights half.safetensors --data pair --metrics fid --no-latency", 1, "no FID");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),   cmocka_unit_test(test_each),    cmocka_unit_test(test_names),
        cmocka_unit_test(test_text),     cmocka_unit_test(test_markdown), cmocka_unit_test(test_csv),
        cmocka_unit_test(test_latency),  cmocka_unit_test(test_metrics), cmocka_unit_test(test_page),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
