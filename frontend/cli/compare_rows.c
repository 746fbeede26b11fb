/* compare_rows.c: which networks are compared: FILE.kd:NET[PARAM=VALUE,...] once, or once for each of --each's values.
 *
 * A param in brackets is a hyper-parameter where NET is a net template; that instance is then declared in a line behind
 * the file's own text. Of a network that a `let` declares it is a param of the program, as with -D.
 */
#include "frontend/cli/compare.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- operands ---------------------------------------------------------------------------------------- */

/* The end of what begins at p: a comma, or `stop`, outside of brackets and strings. */
static const char *end_of(const char *p, const char *stop) {
    int depth = 0;
    bool quoted = false;
    for (; p < stop && (depth || quoted || *p != ','); p++) {
        quoted ^= *p == '"';
        depth += quoted ? 0 : *p == '[' || *p == '(' ? 1 : *p == ']' || *p == ')' ? -1 : 0;
    }
    return p;
}

static bool is_param(const char *p, const char *end) {
    const char *q = p;
    while (q < end && (isalnum((unsigned char)*q) || *q == '_')) {
        q++;
    }
    return q > p && !isdigit((unsigned char)*p) && q < end && *q == '=' && q + 1 < end;
}

static bool add_param(KdcCompare *c, KdcCompareRow *r, const char *p, size_t n) {
    if (r->n_params == KD_COUNT(r->param)) {
        c->usage = kdc_usage_error(c->a, "%s: more than %d params", r->net, KD_COUNT(r->param));
        return false;
    }
    r->param[r->n_params++] = kd_intern(c->p->cx, p, n);
    return true;
}

/* FILE.kd:NET[A=1,B=2] */
static bool read_operand(KdcCompare *c, const char *text, KdcCompareRow *r) {
    KdContext *cx = c->p->cx;
    size_t n = strlen(text);
    const char *open = n && text[n - 1] == ']' ? text + n - 1 : NULL;
    for (int depth = 0; open && open >= text; open--) {
        depth += *open == ']' ? 1 : *open == '[' ? -1 : 0;
        if (!depth) {
            break;
        }
    }
    open = open && open > text ? open : NULL;
    const char *base = open ? kd_intern(cx, text, (size_t)(open - text)) : text, *colon = strrchr(base, ':');
    bool named = colon && colon > base && colon[1] && !strchr(colon, '/');
    r->file = named ? kd_intern(cx, base, (size_t)(colon - base)) : base;
    r->net = named ? kd_intern_z(cx, colon + 1) : c->a->name;
    if (!r->net) {
        c->usage = kdc_usage_error(c->a, "which network of %s? name it: %s:NAME", r->file, r->file);
        return false;
    }
    if (strpbrk(r->net, "[]")) { /* no network is called so */
        c->usage = kdc_usage_error(c->a, strchr(r->net, '[') ? "%s: expected ']' at the end" : "%s: a ']' without its '['",
                                   text);
        return false;
    }
    if (strcmp(r->file, "-") == 0) {
        c->usage = kdc_usage_error(c->a, "programs that are compared are files, not standard input");
        return false;
    }
    const char *stop = open ? text + n - 1 : NULL;
    for (const char *p = open ? open + 1 : NULL; p && p < stop;) {
        const char *end = end_of(p, stop), *one = kdc_cli_without_blanks(cx, p, (size_t)(end - p));
        if (!is_param(one, one + strlen(one))) {
            c->usage = kdc_usage_error(c->a, "%s: expected %s:%s[PARAM=VALUE,...], got '%s' in the brackets", text,
                                       r->file, r->net, one);
            return false;
        }
        if (!add_param(c, r, one, strlen(one))) {
            return false;
        }
        p = end + (end < stop);
    }
    return true;
}

/* ---- rows ------------------------------------------------------------------------------------------- */

static int count_values(const char *each) {
    int n = 0;
    for (const char *p = strchr(each, '=') + 1, *stop = p + strlen(p); p <= stop; n++) {
        p = end_of(p, stop) + 1;
    }
    return n;
}

/* "ngf=64" of "ngf=64,32": value number i */
static const char *each_value(KdContext *cx, const char *each, int i) {
    const char *p = strchr(each, '=') + 1, *stop = p + strlen(p), *end = end_of(p, stop);
    for (; i > 0; i--) {
        p = end + 1;
        end = end_of(p, stop);
    }
    return kd_format(cx, "%.*s=%.*s", (int)(strchr(each, '=') - each), each, (int)(end - p), p);
}

static const char *label_of(KdContext *cx, const KdcCompareRow *r) {
    KdStr s = {.cx = cx};
    kd_str_printf(&s, "%s", r->net);
    for (int i = 0; i < r->n_params; i++) {
        kd_str_printf(&s, "%s%s", i ? "," : "[", r->param[i]);
    }
    kd_str_printf(&s, "%s", r->n_params ? "]" : "");
    return s.s;
}

static const char *stem_of(KdContext *cx, const char *file) {
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    size_t n = strlen(name);
    return kd_intern(cx, name, n > 3 && strcmp(name + n - 3, ".kd") == 0 ? n - 3 : n);
}

static bool taken(const KdcCompare *c, int row, const char *label) {
    bool found = false;
    for (int i = 0; i < c->n; i++) {
        found = found || (i != row && c->row[i].label && strcmp(c->row[i].label, label) == 0);
    }
    return found;
}

/* Names of their own: with the file where two are called alike, then with the row's number. */
static void name_rows(KdcCompare *c) {
    KdContext *cx = c->p->cx;
    for (int i = 0; i < c->n; i++) {
        c->row[i].label = label_of(cx, &c->row[i]);
    }
    const char **longer = KD_NEW_ARRAY(cx, const char *, c->n + 1);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < c->n; i++) {
            const char *label = c->row[i].label;
            longer[i] = !taken(c, i, label) ? label
                        : pass == 0         ? kd_format(cx, "%s:%s", stem_of(cx, c->row[i].file), label)
                                            : kd_format(cx, "%s (%d)", label, i + 1);
        }
        for (int i = 0; i < c->n; i++) {
            c->row[i].label = longer[i];
        }
    }
}

static bool add_rows(KdcCompare *c, const KdcCompareRow *from) {
    int each = c->a->n_eaches, rows = 1;
    for (int i = 0; i < each; i++) {
        rows *= count_values(c->a->eaches[i]);
        rows = rows > KDC_COMPARE_ROWS ? KDC_COMPARE_ROWS + 1 : rows;
    }
    if (c->n + rows > KDC_COMPARE_ROWS) {
        c->usage = kdc_usage_error(c->a, "more than %d networks", KDC_COMPARE_ROWS);
        return false;
    }
    for (int k = 0; k < rows; k++) {
        KdcCompareRow *r = &c->row[c->n++];
        int rest = k, left = rows;
        *r = *from;
        for (int i = 0; i < each; i++) { /* the last of --each changes fastest */
            left /= count_values(c->a->eaches[i]);
            const char *value = each_value(c->p->cx, c->a->eaches[i], rest / left);
            rest %= left;
            if (!add_param(c, r, value, strlen(value))) {
                return false;
            }
            if (!is_param(value, value + strlen(value))) {
                c->usage = kdc_usage_error(c->a, "--each %s: a value is empty", c->a->eaches[i]);
                return false;
            }
        }
    }
    return true;
}

/* ---- weights ---------------------------------------------------------------------------------------- */

/* runs/w{ngf}: the row's own value of ngf. NULL: it has none of that name; *missing is then that name. */
static const char *filled_in(KdContext *cx, const KdcCompareRow *r, const char *text, const char **missing) {
    KdStr s = {.cx = cx};
    while (*text) {
        const char *close = *text == '{' ? strchr(text, '}') : NULL;
        if (!close) {
            kd_str_add(&s, text++, 1);
            continue;
        }
        size_t n = (size_t)(close - text) - 1;
        const char *value = NULL;
        for (int i = 0; i < r->n_params; i++) {
            if (strcspn(r->param[i], "=") == n && strncmp(r->param[i], text + 1, n) == 0) {
                value = r->param[i] + n + 1;
            }
        }
        if (!value) {
            *missing = kd_intern(cx, text + 1, n);
            return NULL;
        }
        kd_str_printf(&s, "%s", value);
        text = close + 1;
    }
    return s.s ? s.s : "";
}

typedef struct Given { /* one --weights */
    int row;         /* -1: any */
    const char *net; /* NULL: any */
    const char *file;
} Given;

/* ROW=FILE, NET=FILE or FILE. false after a message: there is no such row. */
static bool read_given(KdcCompare *c, const char *text, Given *g) {
    KdStr names = {.cx = c->p->cx};
    size_t digits = strspn(text, "0123456789"), length = strcspn(text, "=");
    *g = (Given){.row = -1, .file = text};
    if (digits && digits < 6 && text[digits] == '=' && atoi(text) >= 1 && atoi(text) <= c->n) {
        *g = (Given){.row = atoi(text) - 1, .file = text + digits + 1};
        return true;
    }
    for (int i = 0; i < c->n; i++) {
        size_t n = strlen(c->row[i].label);
        if (strncmp(text, c->row[i].label, n) == 0 && text[n] == '=') {
            *g = (Given){.row = i, .file = text + n + 1};
            return true;
        }
        kd_str_printf(&names, "%s%s", i ? ", " : "", c->row[i].label);
    }
    for (int i = 0; i < c->n; i++) {
        if (strlen(c->row[i].net) == length && strncmp(text, c->row[i].net, length) == 0 && text[length]) {
            *g = (Given){.row = -1, .net = c->row[i].net, .file = text + length + 1};
            return true;
        }
    }
    if (!text[length] || memchr(text, '/', length) || memchr(text, '.', length)) {
        return true; /* a path */
    }
    c->usage = kdc_usage_error(c->a, "--weights %s: expected a row's number, 1 to %d, or its name: %s", text, c->n,
                               names.s);
    return false;
}

static bool share_weights(KdcCompare *c) {
    KdContext *cx = c->p->cx;
    for (int k = 0; k < c->a->n_weights; k++) {
        Given g;
        if (!read_given(c, c->a->weights[k], &g)) {
            return false;
        }
        for (int i = 0; i < c->n; i++) {
            KdcCompareRow *r = &c->row[i];
            const char *missing = NULL;
            if ((g.row >= 0 && g.row != i) || (g.net && strcmp(g.net, r->net) != 0)) {
                continue;
            }
            r->a.weights[r->a.n_weights] = filled_in(cx, r, g.file, &missing);
            if (missing) {
                c->usage = kdc_usage_error(c->a, "--weights %s: %s is given no param '%s'", g.file, r->label, missing);
                return false;
            }
            r->a.n_weights++;
        }
    }
    return true;
}

bool kdc_compare_rows(KdcCompare *c) {
    KdContext *cx = c->p->cx;
    const KdcArgs *a = c->a;
    c->row = KD_NEW_ARRAY(cx, KdcCompareRow, KDC_COMPARE_ROWS);
    for (int i = 0; i < a->n_operands; i++) {
        KdcCompareRow r = {.operand = i, .width = NAN};
        for (int m = 0; m < KDC_METRICS; m++) {
            r.metric[m] = NAN;
        }
        if (!read_operand(c, a->operands[i], &r)) {
            return false;
        }
        r.series = label_of(cx, &r);
        if (!add_rows(c, &r)) {
            return false;
        }
    }
    name_rows(c);
    for (int i = 0; i < c->n; i++) {
        KdcCompareRow *r = &c->row[i];
        r->a = *a;
        r->a.file = r->file;
        r->a.name = r->net;
        r->a.output = NULL;
        r->a.weights = KD_NEW_ARRAY(cx, const char *, a->n_weights + 1);
        r->a.n_weights = 0;
    }
    return share_weights(c);
}

/* ---- programs --------------------------------------------------------------------------------------- */

/* The file's text with `let NAME = NET[...]` behind it. NULL after a message. */
static char *with_instance(KdcCompare *c, KdcCompareRow *r, size_t *n) {
    KdContext *cx = c->p->cx;
    KdTrouble t;
    KdStr name = {.cx = cx}, line = {.cx = cx};
    kd_str_printf(&name, "%s", r->net);
    kd_str_printf(&line, "%s[", r->net);
    for (int i = 0; i < r->n_params; i++) {
        size_t equals = strcspn(r->param[i], "=");
        kd_str_printf(&line, "%s%.*s = %s", i ? ", " : "", (int)equals, r->param[i], r->param[i] + equals + 1);
        kd_str_printf(&name, "_%s", r->param[i]);
    }
    for (char *p = name.s; *p; p++) {
        *p = isalnum((unsigned char)*p) ? *p : '_';
    }
    char *file = kd_file_read(r->file, n, &t);
    if (!file) {
        kdc_cli_trouble(c->p, &t);
        return NULL;
    }
    const char *add = kd_format(cx, "\nlet %s = %s]\n", name.s, line.s);
    char *text = realloc(file, *n + strlen(add) + 1);
    if (!text) {
        free(file);
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory for %s", r->file);
    }
    memcpy(text + *n, add, strlen(add) + 1);
    *n += strlen(add);
    r->a.name = name.s;
    return text;
}

bool kdc_compare_open(KdcCompare *c, KdcCompareRow *r, int *code) {
    KdContext *cx = c->p->cx;
    r->watch.unit = r->label;
    r->p = r->n_params ? kdc_cli_open(&r->a, &r->watch, code) : NULL;
    const KdDecl *d = r->p ? kdc_cli_find(r->p, r->net) : NULL;
    if (r->n_params && !r->p) {
        return false;
    }
    bool template = d && d->kind == KD_DECL_NET;
    if (r->p) {
        kdc_close(r->p);
        r->p = NULL;
    }
    if (template) {
        size_t n = 0;
        char *text = with_instance(c, r, &n);
        r->p = text ? kdc_cli_open_text(&r->a, text, n, &r->watch, code) : NULL;
        free(text);
        return r->p != NULL;
    }
    if (r->n_params) {
        r->a.defines = KD_NEW_ARRAY(cx, const char *, c->a->n_defines + r->n_params);
        r->a.n_defines = 0;
        for (int i = 0; i < c->a->n_defines; i++) {
            r->a.defines[r->a.n_defines++] = c->a->defines[i];
        }
        for (int i = 0; i < r->n_params; i++) {
            r->a.defines[r->a.n_defines++] = r->param[i];
        }
    }
    r->p = kdc_cli_open(&r->a, &r->watch, code);
    return r->p != NULL;
}

/* ---- widths ----------------------------------------------------------------------------------------- */

static double number(const char *text) {
    char *end;
    double v = strtod(text, &end);
    return end > text && !*end && isfinite(v) ? v : NAN;
}

/* The row's own value of a param, or the program's. NaN: it has none, or it is no number. */
static double value_of(const KdcCompareRow *r, const char *name, size_t n) {
    for (int i = 0; i < r->n_params; i++) {
        if (strcspn(r->param[i], "=") == n && strncmp(r->param[i], name, n) == 0) {
            return number(r->param[i] + n + 1);
        }
    }
    const KdDecl *d = r->p ? kdc_cli_find(r->p, kd_intern(r->p->cx, name, n)) : NULL;
    return d && d->kind == KD_DECL_PARAM ? number(d->value) : NAN;
}

static bool differs(const KdcCompare *c, const char *name, size_t n) {
    double lo = INFINITY, hi = -INFINITY;
    for (int i = 0; i < c->n; i++) {
        double v = value_of(&c->row[i], name, n);
        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
    }
    return lo < hi;
}

/* The width: the first param of --each, else in brackets, of which rows have different numbers. */
void kdc_compare_widths(KdcCompare *c) {
    for (int i = 0; i < c->a->n_eaches && !c->width; i++) {
        const char *each = c->a->eaches[i];
        size_t n = strcspn(each, "=");
        c->width = differs(c, each, n) ? kd_intern(c->p->cx, each, n) : NULL;
    }
    for (int i = 0; i < c->n && !c->width; i++) {
        for (int k = 0; k < c->row[i].n_params && !c->width; k++) {
            const char *param = c->row[i].param[k];
            size_t n = strcspn(param, "=");
            c->width = differs(c, param, n) ? kd_intern(c->p->cx, param, n) : NULL;
        }
    }
    for (int i = 0; i < c->n && c->width; i++) {
        KdcCompareRow *r = &c->row[i];
        KdcCompareRow plain = {.net = r->net};
        size_t n = strlen(c->width);
        r->width = value_of(r, c->width, n);
        for (int k = 0; k < r->n_params; k++) {
            if (strcspn(r->param[k], "=") != n || strncmp(r->param[k], c->width, n) != 0) {
                plain.param[plain.n_params++] = r->param[k];
            }
        }
        r->series = kd_format(c->p->cx, "%s:%s", stem_of(c->p->cx, r->file), label_of(c->p->cx, &plain));
    }
}
