/* parse.c: graph IR text -> functions; what print.c writes, and what people write for tests. docs/ir.md holds the grammar.
 *
 * Nodes are built through kd_build in plain mode, so they are inferred and checked but stand exactly as written. An error is
 * a diagnostic with its place; reading goes on with the next line, and a value that failed makes its users fail silently.
 * A text can only cost time and memory in proportion to its length: nothing here recurses or allocates by a number read.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ir/text.h"

enum { ENOUGH_ERRORS = 20, NUMBER_CHARS = 48 };

typedef struct Parser {
    KdContext *cx;
    const char *file;
    const char *p, *end, *line_start;
    int line;
    int errors_before;
    bool panic; /* an error was reported: back to the next line */
    KdBuilder b;
    KdMap ids; /* number in the text -> value */
} Parser;

/* ---- places and words ---------------------------------------------------------------------------- */

static KdLoc here(Parser *s, const char *from) {
    KdPlace place = {.file = s->file, .line = s->line, .col = (int)(from - s->line_start) + 1,
                     .len = s->p > from ? (int)(s->p - from) : 1};
    return kd_loc(s->cx, place);
}

static void fail(Parser *s, const char *from, const char *fmt, ...) KD_PRINTF(3, 4);
static void fail(Parser *s, const char *from, const char *fmt, ...) {
    if (s->panic) return;
    va_list ap;
    va_start(ap, fmt);
    const char *text = kd_vformat(s->cx, fmt, ap);
    va_end(ap);
    kd_error(s->cx, here(s, from), "%s", text);
    s->panic = true;
}

static void skip(Parser *s) {
    while (s->p < s->end) {
        char c = *s->p;
        if (c == '#')
            while (s->p < s->end && *s->p != '\n') s->p++;
        else if (c == '\n') {
            s->line_start = ++s->p;
            s->line++;
        } else if (c == ' ' || c == '\t' || c == '\r') s->p++;
        else return;
    }
}

static void skip_line(Parser *s) {
    while (s->p < s->end && *s->p != '\n') s->p++;
}

static bool at_end(Parser *s) {
    skip(s);
    return s->p >= s->end;
}

static bool peek(Parser *s, char c) { return !at_end(s) && *s->p == c; }

static bool take(Parser *s, char c) {
    if (!peek(s, c)) return false;
    s->p++;
    return true;
}

/* What stands here, for messages. */
static const char *found(Parser *s) {
    if (at_end(s)) return "the end of the text";
    const char *q = s->p;
    while (q < s->end && q - s->p < 20 && kd_name_char(*q)) q++;
    if (q > s->p) return kd_format(s->cx, "'%.*s'", (int)(q - s->p), s->p);
    unsigned char c = (unsigned char)*s->p;
    return c >= 32 && c < 127 ? kd_format(s->cx, "'%c'", c) : kd_format(s->cx, "byte %d", c);
}

static void expect(Parser *s, char c) {
    if (s->panic || take(s, c)) return;
    const char *what = found(s);
    fail(s, s->p, "expected '%c', found %s", c, what);
}

/* A name, interned; NULL after an error. */
static const char *word(Parser *s, const char *what) {
    if (s->panic) return NULL;
    skip(s);
    const char *from = s->p;
    while (s->p < s->end && kd_name_char(*s->p)) s->p++;
    if (s->p > from) return kd_intern(s->cx, from, (size_t)(s->p - from));
    fail(s, from, "expected %s, found %s", what, found(s));
    return NULL;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* After a backslash: the byte meant, or -1. */
static int escape(Parser *s) {
    if (s->p >= s->end) return -1;
    char c = *s->p++;
    if (c == '"' || c == '\\') return c;
    if (c == 'n') return '\n';
    if (c == 't') return '\t';
    if (c != 'x' || s->end - s->p < 2) return -1;
    int hi = hex_digit(s->p[0]), lo = hex_digit(s->p[1]);
    s->p += 2;
    return hi < 0 || lo < 0 || hi * 16 + lo == 0 ? -1 : hi * 16 + lo;
}

static const char *string(Parser *s) {
    if (s->panic) return NULL;
    skip(s);
    const char *from = s->p;
    if (!take(s, '"')) {
        fail(s, from, "expected a string, found %s", found(s));
        return NULL;
    }
    KdStr text = {.cx = s->cx};
    while (s->p < s->end && *s->p != '"' && *s->p != '\n' && *s->p) {
        int c = (unsigned char)*s->p++;
        if (c == '\\') c = escape(s);
        if (c < 0) {
            fail(s, from, "an escape is one of \\\" \\\\ \\n \\t and \\x with two digits 0-9a-f, not 00");
            return NULL;
        }
        char byte = (char)c;
        kd_str_add(&text, &byte, 1);
    }
    if (s->p >= s->end || *s->p != '"') {
        fail(s, from, "this string does not end on its line");
        return NULL;
    }
    s->p++;
    return kd_intern(s->cx, text.s ? text.s : "", text.n);
}

/* ---- numbers ---------------------------------------------------------------------------------------- */

/* The characters of a number, copied into `text`; false after an error. */
static bool number_text(Parser *s, const char *what, char *text, const char **from) {
    if (s->panic) return false;
    skip(s);
    *from = s->p;
    const char *q = s->p;
    while (q < s->end && (kd_name_char(*q) || *q == '-' || *q == '+')) q++;
    size_t n = (size_t)(q - s->p);
    if (n == 0 || n >= NUMBER_CHARS) {
        fail(s, s->p, "expected %s, found %s", what, found(s));
        return false;
    }
    memcpy(text, s->p, n);
    text[n] = 0;
    s->p = q;
    return true;
}

static int64_t integer(Parser *s) {
    char text[NUMBER_CHARS], *stop;
    const char *from;
    if (!number_text(s, "an integer", text, &from)) return 0;
    const char *digits = text[0] == '-' ? text + 1 : text;
    errno = 0;
    int64_t v = strtoll(text, &stop, 10);
    if (*stop || digits[0] < '0' || digits[0] > '9') fail(s, from, "expected an integer, found '%s'", text);
    else if (errno) fail(s, from, "%s does not fit 64 bits", text);
    return v;
}

static double real(Parser *s) {
    char text[NUMBER_CHARS], *stop;
    const char *from;
    if (!number_text(s, "a number", text, &from)) return 0;
    bool named = !strcmp(text, "inf") || !strcmp(text, "-inf") || !strcmp(text, "nan");
    double v = strtod(text, &stop);
    if (*stop || (!named && strspn(text, "0123456789+-.eE") != strlen(text)))
        fail(s, from, "expected a number, found '%s'", text);
    return v;
}

/* "%12" -> its number; the value it stands for is another matter. */
static uint64_t value_id(Parser *s) {
    if (s->panic) return 0;
    skip(s);
    const char *from = s->p;
    if (!take(s, '%')) {
        fail(s, from, "expected a value like %%0, found %s", found(s));
        return 0;
    }
    int64_t id = s->p < s->end && *s->p >= '0' && *s->p <= '9' ? integer(s) : -1;
    if (id < 0) fail(s, from, "a value is '%%' and its number");
    return (uint64_t)id;
}

/* A value that is used: KD_NONE, without an error, if its own line failed. */
static KdValue used_value(Parser *s) {
    skip(s);
    const char *from = s->p;
    uint64_t id = value_id(s), v = KD_NONE;
    if (!s->panic && !kd_map_get(&s->ids, id, &v))
        fail(s, from, "%%%" PRIu64 " is not defined before this", id);
    return (KdValue)v;
}

/* ---- types and attributes -------------------------------------------------------------------------------- */

static const KdType *type(Parser *s) {
    skip(s);
    const char *from = s->p;
    const char *name = word(s, "a type");
    if (!name) return NULL;
    KdDType d = 0;
    while (d < KD_DTYPE_COUNT && strcmp(kd_dtype_name(d), name)) d++;
    if (d == KD_DTYPE_COUNT) {
        fail(s, from, "there is no element type '%s' (f32, i32, u8)", name);
        return NULL;
    }
    int64_t dim[KD_MAX_RANK];
    int rank = 0;
    expect(s, '[');
    while (!s->panic && !peek(s, ']')) {
        if (rank == KD_MAX_RANK) fail(s, from, "a tensor has at most %d dimensions", KD_MAX_RANK);
        else dim[rank++] = integer(s);
        if (!peek(s, ']')) expect(s, ',');
    }
    expect(s, ']');
    if (s->panic) return NULL;
    const KdType *t = kd_type(s->cx, d, rank, dim);
    if (!t) fail(s, from, "a size is negative, or there are more than 2^31 - 1 elements");
    return t;
}

static KdAttr attr_value(Parser *s, KdAttrKind kind) {
    KdAttr a = {0};
    switch (kind) {
    case KD_ATTR_INT: a.i = integer(s); break;
    case KD_ATTR_FLOAT: a.f = real(s); break;
    case KD_ATTR_STR: a.s = string(s); break;
    case KD_ATTR_INTS: {
        KD_VEC(int64_t) v = {0};
        expect(s, '[');
        while (!s->panic && !peek(s, ']')) {
            kd_push(s->cx, &v, integer(s));
            if (!peek(s, ']')) expect(s, ',');
        }
        expect(s, ']');
        a.ints = (KdInts){v.n, v.v};
        break;
    }
    case KD_ATTR_FLOATS: {
        KD_VEC(double) v = {0};
        expect(s, '[');
        while (!s->panic && !peek(s, ']')) {
            kd_push(s->cx, &v, real(s));
            if (!peek(s, ']')) expect(s, ',');
        }
        expect(s, ']');
        a.floats = (KdFloats){v.n, v.v};
        break;
    }
    }
    return a;
}

static int attr_named(Parser *s, KdOp op, const char *from, const char *name) {
    int at = kd_attr_index(s->cx, op, name), n;
    if (at >= 0) return at;
    const KdAttrSpec *spec = kd_op_attrs(s->cx, op, &n);
    const char *known[KD_MAX_ATTRS];
    for (int k = 0; k < n; k++) known[k] = spec[k].name;
    const char *near = kd_nearest(name, known, n);
    fail(s, from, "%s has no attribute '%s'", kd_op_info[op].name, name);
    if (near) kd_hint(s->cx, "did you mean '%s'?", near);
    return -1;
}

/* "{name=value, ...}" or nothing: all of op's attributes, in the row's order. */
static void attributes(Parser *s, KdOp op, const char *op_at, KdAttr *a) {
    int n;
    const KdAttrSpec *spec = kd_op_attrs(s->cx, op, &n);
    bool given[KD_MAX_ATTRS] = {false};
    for (int k = 0; k < n; k++) a[k] = spec[k].def;
    if (!s->panic && take(s, '{'))
        while (!s->panic && !take(s, '}')) {
            skip(s);
            const char *from = s->p;
            const char *name = word(s, "an attribute");
            int at = name ? attr_named(s, op, from, name) : -1;
            if (at < 0) return;
            if (given[at]) fail(s, from, "'%s' is given twice", name);
            given[at] = true;
            expect(s, '=');
            a[at] = attr_value(s, spec[at].kind);
            if (!peek(s, '}')) expect(s, ',');
        }
    for (int k = 0; k < n; k++)
        if (spec[k].required && !given[k]) fail(s, op_at, "%s needs its attribute '%s'", kd_op_info[op].name, spec[k].name);
}

/* ---- nodes ------------------------------------------------------------------------------------------------ */

static bool op_named(Parser *s, KdOp *op) {
    skip(s);
    const char *from = s->p;
    const char *name = word(s, "an operation");
    if (!name) return false;
    if (kd_op_by_name(name, op)) return true;
    const char *known[KD_OP_COUNT];
    for (int k = 0; k < KD_OP_COUNT; k++) known[k] = kd_op_info[k].name;
    const char *near = kd_nearest(name, known, KD_OP_COUNT);
    fail(s, from, "there is no operation '%s'", name);
    if (near) kd_hint(s->cx, "did you mean '%s'?", near);
    return false;
}

/* op [(operands)] [{attributes}] : type */
static KdValue node(Parser *s) {
    KdOp op;
    KD_VEC(KdValue) in = {0};
    KdAttr attr[KD_MAX_ATTRS] = {0};
    skip(s);
    const char *op_at = s->p;
    if (!op_named(s, &op)) return KD_NONE;
    KdLoc loc = here(s, op_at);
    const char *op_line = s->line_start;
    if (take(s, '('))
        while (!s->panic && !take(s, ')')) {
            kd_push(s->cx, &in, used_value(s));
            if (!peek(s, ')')) expect(s, ',');
        }
    attributes(s, op, s->line_start == op_line ? op_at : s->p, attr);
    expect(s, ':');
    skip(s);
    const char *type_at = s->p;
    const KdType *t = s->panic ? NULL : type(s);
    if (!t) return KD_NONE;
    s->b.loc = loc;
    KdValue v = kd_build(&s->b, op, kd_op_info[op].flags & KD_TYPED ? t : NULL, in.v, in.n, attr);
    if (v != KD_NONE && kd_vtype(s->b.f, v) != t)
        fail(s, type_at, "the result of this %s is %s", kd_op_info[op].name, kd_type_text(s->cx, kd_vtype(s->b.f, v)));
    return v;
}

static void definition(Parser *s) {
    const char *from = s->p;
    uint64_t id = value_id(s);
    if (!s->panic && kd_map_get(&s->ids, id, NULL)) fail(s, from, "%%%" PRIu64 " is defined twice", id);
    if (s->panic) return;
    expect(s, '=');
    KdValue v = s->panic ? KD_NONE : node(s);
    kd_map_put(&s->ids, id, v);
}

/* output "name" = %v [updates %w] */
static void output(Parser *s) {
    const char *name = string(s);
    expect(s, '=');
    KdValue v = used_value(s), updates = KD_NONE;
    bool has_updates = !s->panic && !at_end(s) && *s->p == 'u';
    if (has_updates) {
        const char *from = s->p, *w = word(s, "'updates'");
        if (w && strcmp(w, "updates")) fail(s, from, "expected 'updates', found '%s'", w);
        updates = used_value(s);
    }
    if (!s->panic && v != KD_NONE && (!has_updates || updates != KD_NONE)) kd_output(s->b.f, name, v, updates);
}

/* ---- functions ---------------------------------------------------------------------------------------------- */

static bool enough(const Parser *s) { return kd_error_count(s->cx) - s->errors_before >= ENOUGH_ERRORS; }

static void body(Parser *s) {
    while (!enough(s) && !take(s, '}')) {
        if (at_end(s)) {
            fail(s, s->p, "the function does not end: expected '}'");
            return;
        }
        const char *from = s->p;
        if (*from == '%') definition(s);
        else {
            const char *w = word(s, "a definition, an output or '}'");
            if (w && !strcmp(w, "output")) output(s);
            else if (w) fail(s, from, "expected a definition, an output or '}', found '%s'", w);
        }
        if (s->panic) skip_line(s);
        s->panic = false;
    }
}

static KdFunc *func(Parser *s) {
    skip(s);
    const char *from = s->p, *w = word(s, "'func'");
    if (w && strcmp(w, "func")) fail(s, from, "expected 'func', found '%s'", w);
    expect(s, '@');
    const char *name = !s->panic && peek(s, '"') ? string(s) : word(s, "the function's name");
    KdLoc loc = here(s, from);
    expect(s, '{');
    if (s->panic) return NULL;
    s->b = kd_builder(kd_func_new(s->cx, name));
    s->b.plain = true;
    s->ids = (KdMap){.cx = s->cx};
    int before = kd_error_count(s->cx);
    body(s);
    KdStr why = {.cx = s->cx};
    if (kd_error_count(s->cx) == before && !s->panic && !kd_verify(s->b.f, &why)) kd_error(s->cx, loc, "%s", why.s);
    return s->b.f;
}

/* After an error outside a body: on to the next line that begins a function. */
static void next_func(Parser *s) {
    do {
        skip_line(s);
        skip(s);
    } while (s->p < s->end && (s->end - s->p < 4 || memcmp(s->p, "func", 4)));
    s->panic = false;
}

KdModule *kd_parse_module(KdContext *cx, const char *file, const char *text, size_t n) {
    kd_source_add(cx, file, text, n);
    Parser s = {.cx = cx, .file = kd_intern_z(cx, file), .p = text, .end = text + n, .line_start = text, .line = 1,
                .errors_before = kd_error_count(cx)};
    KdModule *m = KD_NEW(cx, KdModule);
    m->cx = cx;
    while (!at_end(&s) && !enough(&s)) {
        KdFunc *f = func(&s);
        if (f) kd_push(cx, &m->funcs, f);
        if (s.panic) next_func(&s);
    }
    return kd_error_count(cx) == s.errors_before ? m : NULL;
}
