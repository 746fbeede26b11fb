/* cmd_data.c: kdc data FOLDER: which layout, which phases, and what is in them, every file decoded once.
 *
 * Exit code 1 when a file cannot be read, holds a wrong label or does not fit the crop size that was given; names
 * without counterpart are warned about only. Names are printed on one line whatever they hold: control characters as \n
 * or \xNN.
 */
#include "frontend/cli/options.h"
#include "runtime/host/dataset.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LISTED = 40 }; /* labels in the text; JSON has all */

static int say(const KdcArgs *a, const KdTrouble *t) {
    fprintf(stderr, "%skdc: error:%s %s\n", a->color ? "\033[1;31m" : "", a->color ? "\033[0m" : "", t->text);
    return t->machine ? 3 : 1;
}

/* Bytes of a valid UTF-8 character at s, at most 4; 0: there is none. */
static int utf8(const unsigned char *s) {
    int n = s[0] < 0x80                   ? 1
            : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
            : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
            : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                          : 0;
    for (int i = 1; i < n; i++) {
        if (s[i] < 0x80 || s[i] > 0xbf) {
            return 0;
        }
    }
    bool bad = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
               (s[0] == 0xf4 && s[1] > 0x8f);
    return bad ? 0 : n;
}

/* The text with what would break a line, or is no UTF-8, written out. NULL: no memory. */
static char *printable(const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    char *out = malloc(strlen(text) * 4 + 1), *p = out;
    while (out && *s) {
        int n = utf8(s);
        if (*s == '\n') {
            p += sprintf(p, "\\n");
            s++;
        } else if (n == 0 || *s < 32 || *s == 127) {
            p += sprintf(p, "\\x%02x", *s);
            s++;
        } else {
            memcpy(p, s, (size_t)n);
            p += n;
            s += n;
        }
    }
    if (out) {
        *p = '\0';
    }
    return out;
}

/* ---- what was asked --------------------------------------------------------------------------------- */

static int options_of(const KdcArgs *a, KdDataOptions *o) {
    *o = (KdDataOptions){.root = a->other, .phase = a->phase, .b_to_a = a->b_to_a, .preprocess = KD_PRE_RESIZE_AND_CROP,
                         .load_h = (int)a->load_h, .load_w = (int)a->load_w, .crop_h = (int)a->crop_h,
                         .crop_w = (int)a->crop_w, .limit = a->limit, .classes = a->classes ? (int)a->classes : 65536,
                         .ignore = (int)a->ignore, .seed = a->seed};
    if (a->preprocess && !kd_preprocess_named(a->preprocess, &o->preprocess)) {
        return kdc_usage_error(
            a, "--preprocess is resize_and_crop, crop, scale_width, scale_width_and_crop or none, not '%s'",
            a->preprocess);
    }
    if (!a->preprocess && !a->crop_h && !a->crop_w) {
        o->preprocess = KD_PRE_NONE; /* any size will do */
    }
    if (!a->layout || kd_layout_named(a->layout, &o->layout)) {
        return 0;
    }
    return kdc_usage_error(a, "--layout is aligned, unpaired, folders, labels or plain, not '%s'", a->layout);
}

/* ---- as text ---------------------------------------------------------------------------------------- */

static bool occurs(const KdDataReport *r, int v) {
    return r->occurs[v / 8] >> v % 8 & 1;
}

/* "0..3, 7, 255" */
static void print_labels(const KdDataReport *r) {
    int listed = 0;
    printf("  labels    %" PRId64 " different:", r->labels);
    for (int v = r->label_min; v <= r->label_max; v++) {
        int end = v;
        if (!occurs(r, v)) {
            continue;
        }
        if (listed++ == MAX_LISTED) {
            printf(", ...");
            break;
        }
        while (end < r->label_max && occurs(r, end + 1)) {
            end++;
        }
        printf(end > v ? "%s %d..%d" : "%s %d", listed > 1 ? "," : "", v, end);
        v = end;
    }
    printf("\n");
}

static void print_kinds(const KdDataReport *r) {
    if (r->gray) {
        printf("  gray      %" PRId64 " (used as R = G = B)\n", r->gray);
    }
    if (r->alpha) {
        printf("  alpha     %" PRId64 " (dropped)\n", r->alpha);
    }
    if (r->sixteen) {
        printf("  16 bits   %" PRId64 " (scaled to 8)\n", r->sixteen);
    }
}

static bool print_text(const KdDataset *d, const KdDataReport *r) {
    const char *phase = kd_dataset_phase(d);
    printf("%s\n", *phase ? phase : "(no phases)");
    printf("  samples   %" PRId64 "\n", r->items);
    printf("  files     %" PRId64 "\n", r->images);
    if (r->max_w && (r->min_w != r->max_w || r->min_h != r->max_h)) {
        printf("  sizes     width %d to %d, height %d to %d\n", r->min_w, r->max_w, r->min_h, r->max_h);
    } else if (r->max_w) {
        printf("  sizes     all %dx%d (height x width)\n", r->max_h, r->max_w);
    }
    print_kinds(r);
    if (r->labels) {
        print_labels(r);
    }
    printf("  unreadable %" PRId64 ", wrong %" PRId64 ", without counterpart %" PRId64 "\n", r->unreadable, r->wrong,
           r->unmatched);
    char other[200];
    if (kd_other_kinds_text(r->other, other, sizeof other)) {
        printf("  %s\n", other);
    }
    for (int i = 0; i < r->n_lines; i++) {
        char *line = printable(r->line[i]);
        if (!line) {
            return false;
        }
        printf("  %s: %s\n", i < r->unreadable + r->wrong ? "error" : "warning", line);
        free(line);
    }
    return true;
}

/* ---- as JSON ---------------------------------------------------------------------------------------- */

static json_t *text_value(const char *s) {
    char *p = printable(s);
    json_t *v = p ? json_string(p) : NULL;
    free(p);
    return v;
}

static json_t *phase_value(const KdDataset *d, const KdDataReport *r) {
    json_t *labels = json_array(), *errors = json_array(), *warnings = json_array(), *other = json_object();
    for (int k = 0; k < KD_OTHER_KINDS; k++) {
        if (r->other[k]) {
            json_object_set_new(other, kd_other_kind(k), json_integer((json_int_t)r->other[k]));
        }
    }
    for (int v = 0; r->labels && v <= r->label_max; v++) {
        if (occurs(r, v)) {
            json_array_append_new(labels, json_integer(v));
        }
    }
    for (int i = 0; i < r->n_lines; i++) {
        json_array_append_new(i < r->unreadable + r->wrong ? errors : warnings, text_value(r->line[i]));
    }
    return json_pack("{s:o s:I s:I s:[i,i] s:[i,i] s:I s:I s:I s:o s:I s:I s:I s:o s:o s:o}", "phase",
                     text_value(kd_dataset_phase(d)), "samples", (json_int_t)r->items, "files", (json_int_t)r->images,
                     "width", r->min_w, r->max_w, "height", r->min_h, r->max_h, "gray", (json_int_t)r->gray, "alpha",
                     (json_int_t)r->alpha, "sixteen", (json_int_t)r->sixteen, "labels", labels, "unreadable",
                     (json_int_t)r->unreadable, "wrong", (json_int_t)r->wrong, "unmatched", (json_int_t)r->unmatched,
                     "other_kinds", other, "errors", errors, "warnings", warnings);
}

/* ---- the verb --------------------------------------------------------------------------------------- */

static int one_phase(const KdcArgs *a, const KdDataset *d, json_t *phases) {
    KdDataReport *r = malloc(sizeof *r);
    KdTrouble t;
    if (!r) {
        kd_trouble(&t, true, "out of memory");
        return say(a, &t);
    }
    if (!kd_dataset_check(d, a->workers ? (int)a->workers : 2, r, &t)) {
        free(r);
        return say(a, &t);
    }
    int code = r->unreadable || r->wrong ? 1 : 0;
    bool ok = phases ? json_array_append_new(phases, phase_value(d, r)) == 0 : print_text(d, r);
    kd_data_report_free(r);
    free(r);
    if (!ok) {
        kd_trouble(&t, true, "out of memory");
        return say(a, &t);
    }
    return code;
}

static int worse(int a, int b) {
    return a > b ? a : b;
}

/* d: the first one, open already. The other phases of the same layout follow, unless one was named. */
static int all_phases(const KdcArgs *a, const KdDataOptions *given, const KdDataset *d, json_t *phases) {
    KdDataOptions o = *given;
    KdTrouble t;
    char **phase = NULL;
    int n = 0, code = 0;
    o.layout = kd_dataset_layout(d);
    if (a->phase) {
        return one_phase(a, d, phases);
    }
    if (!kd_dataset_phases(a->other, o.layout, &phase, &n, &t)) {
        return say(a, &t);
    }
    for (int i = 0; i < n; i++) {
        o.phase = phase[i];
        KdDataset *each = kd_dataset_open(&o, &t);
        code = worse(code, each ? one_phase(a, each, phases) : say(a, &t));
        kd_dataset_free(each);
        free(phase[i]);
    }
    free(phase);
    return code;
}

int kdc_cmd_data(const KdcArgs *a) {
    KdDataOptions o;
    KdTrouble t;
    int code = options_of(a, &o);
    if (code) {
        return code;
    }
    KdDataset *d = kd_dataset_open(&o, &t);
    if (!d) {
        return say(a, &t);
    }
    const char *layout = kd_layout_name(kd_dataset_layout(d));
    if (!a->json) {
        printf("layout %s\n", layout);
    }
    json_t *phases = a->json ? json_array() : NULL;
    code = all_phases(a, &o, d, phases);
    kd_dataset_free(d);
    if (!a->json) {
        return code;
    }
    json_t *all = json_pack("{s:o s:s s:o}", "folder", text_value(a->other), "layout", layout, "phases", phases);
    if (!all || json_dumpf(all, stdout, JSON_INDENT(2)) != 0) {
        json_decref(all);
        kd_trouble(&t, true, "cannot write the report as JSON");
        return say(a, &t);
    }
    printf("\n");
    json_decref(all);
    return code;
}
