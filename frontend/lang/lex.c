/* lex.c: text -> tokens. In: UTF-8 bytes. Out: an array that ends in END, whatever the bytes were.
 *
 * One pass over the bytes. A character that belongs nowhere is reported once (a run of them as
 * one), becomes nothing, and the pass goes on. Line ends are not tokens: each token knows whether
 * it is the first of its line.
 */
#include "frontend/lang/ast.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Lexer {
    KdContext *cx;
    const char *file, *p, *end, *line_start;
    int line;
    bool newline;
    KD_VEC(KdToken) out;
} Lexer;

static const struct {
    const char *text;
    size_t n;
} spelling[KD_TOK_COUNT] = {
#define TOKEN(id, text) {text, sizeof(text) - 1},
#include "frontend/lang/tokens.def"
#undef TOKEN
};

KdLoc kd_span_loc(KdContext *cx, const char *file, KdSpan s) {
    if (s.line == 0) return 0;
    return kd_loc(cx, (KdPlace){.file = file, .line = s.line, .col = s.col, .len = s.len});
}

static KdSpan span_of(const Lexer *l, const char *from, const char *to) {
    int len = (int)(to - from);
    return (KdSpan){l->line, (int)(from - l->line_start) + 1, len > 0 ? len : 1};
}

static void complain(Lexer *l, const char *from, const char *to, const char *text) {
    kd_error(l->cx, kd_span_loc(l->cx, l->file, span_of(l, from, to)), "%s", text);
}

static KdToken *emit(Lexer *l, KdTok kind, const char *from, const char *to) {
    kd_push(l->cx, &l->out,
            (KdToken){.kind = kind, .newline = l->newline, .span = span_of(l, from, to)});
    l->newline = false;
    KdToken *t = &l->out.v[l->out.n - 1];
    t->text = spelling[kind].text;
    return t;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
static bool is_word(char c) { return is_letter(c) || is_digit(c); }
static char peek(const Lexer *l, int k) { return l->end - l->p > k ? l->p[k] : 0; }

static void lex_number(Lexer *l) {
    const char *from = l->p;
    bool real = false;
    while (is_digit(peek(l, 0)))
        l->p++;
    if (peek(l, 0) == '.' && is_digit(peek(l, 1))) { /* `0..n` is a range */
        real = true;
        l->p++;
        while (is_digit(peek(l, 0)))
            l->p++;
    }
    if (peek(l, 0) == 'e' || peek(l, 0) == 'E') {
        int sign = peek(l, 1) == '+' || peek(l, 1) == '-';
        if (is_digit(peek(l, 1 + sign))) {
            real = true;
            l->p += 1 + sign;
            while (is_digit(peek(l, 0)))
                l->p++;
        }
    }
    if (is_word(peek(l, 0))) {
        while (is_word(peek(l, 0)))
            l->p++;
        complain(l, from, l->p, "this is neither a number nor a name");
        emit(l, KD_TOK_BAD, from, l->p);
        return;
    }
    const char *text = kd_intern(l->cx, from, (size_t)(l->p - from));
    KdToken *t = emit(l, real ? KD_TOK_FLOAT : KD_TOK_INT, from, l->p);
    t->text = text;
    errno = 0;
    if (real) {
        t->f = strtod(text, NULL);
        if (isinf(t->f)) complain(l, from, l->p, "this number is too large for a float");
    } else {
        t->i = strtoll(text, NULL, 10);
        if (errno == ERANGE) complain(l, from, l->p, "this integer does not fit into 64 bits");
    }
}

static void lex_string(Lexer *l) {
    const char *from = l->p++;
    KdStr s = {l->cx, NULL, 0, 0};
    kd_str_add(&s, "", 0);
    while (l->p < l->end && *l->p != '"' && *l->p != '\n') {
        char c = *l->p++;
        if (c == '\\' && l->p < l->end && *l->p != '\n') {
            char e = *l->p++;
            c = e == 'n' ? '\n' : e == 't' ? '\t' : e;
            if (e != 'n' && e != 't' && e != '"' && e != '\\')
                complain(l, l->p - 2, l->p,
                         "unknown escape in a string; known are \\n \\t \\\" \\\\");
        }
        kd_str_add(&s, &c, 1);
    }
    if (l->p < l->end && *l->p == '"')
        l->p++;
    else
        complain(l, from, l->p, "this string has no closing quote on its line");
    KdToken *t = emit(l, KD_TOK_STRING, from, l->p);
    t->text = kd_intern(l->cx, s.s, s.n);
}

static void lex_word(Lexer *l) {
    const char *from = l->p;
    while (is_word(peek(l, 0)))
        l->p++;
    size_t n = (size_t)(l->p - from);
    for (KdTok k = KD_TOK_LET; k <= KD_TOK_FROZEN; k++)
        if (spelling[k].n == n && memcmp(spelling[k].text, from, n) == 0) {
            emit(l, k, from, l->p);
            return;
        }
    const char *text = kd_intern(l->cx, from, n);
    emit(l, KD_TOK_NAME, from, l->p)->text = text;
}

static bool lex_sign(Lexer *l) {
    for (KdTok k = KD_TOK_PIPE; k < KD_TOK_COUNT; k++) {
        size_t n = spelling[k].n;
        if ((size_t)(l->end - l->p) < n || memcmp(spelling[k].text, l->p, n) != 0) continue;
        const char *from = l->p;
        l->p += n;
        emit(l, k, from, l->p);
        return true;
    }
    return false;
}

/* A run of bytes that begin no token: one complaint. */
static void lex_unknown(Lexer *l) {
    const char *from = l->p;
    unsigned char c = (unsigned char)*l->p++;
    while (l->p < l->end && ((unsigned char)*l->p & 0xC0) == 0x80)
        l->p++;
    if (c == '&' || c == '|' || c == '!')
        complain(l, from, l->p,
                 c == '!'   ? "there is no '!'; write 'not'"
                 : c == '&' ? "there is no '&'; write 'and'"
                            : "there is no '|'; write 'or', or '|>' to apply");
    else if (c == '^')
        complain(l, from, l->p, "there is no '^'; powers are written '**'");
    else if (c == ';')
        complain(l, from, l->p, "there is no ';'; a statement ends with its line");
    else if (c == '\'')
        complain(l, from, l->p, "strings are written with double quotes");
    else if (c < 32 || c == 127)
        complain(l, from, l->p, "a control character that is not text");
    else if (c >= 0x80)
        complain(l, from, l->p, "this character is only allowed in strings and comments");
    else
        kd_error(l->cx, kd_span_loc(l->cx, l->file, span_of(l, from, l->p)),
                 "unexpected character '%c'", c);
    while ((c == '|' || c == '&') && peek(l, 0) == (char)c)
        l->p++;      /* `||` and `&&` are one mistake, */
    if (c == '\'') { /* and so is 'text' */
        while (l->p < l->end && *l->p != '\n' && *l->p != '\'')
            l->p++;
        if (peek(l, 0) == '\'') l->p++;
    }
    emit(l, KD_TOK_BAD, from, l->p);
}

/* Bytes that are not UTF-8 are reported once, by their first place. */
static bool check_utf8(Lexer *l) {
    const unsigned char *p = (const unsigned char *)l->p, *end = (const unsigned char *)l->end,
                        *line = p;
    int n_line = 1;
    while (p < end) {
        unsigned char c = *p;
        int more = c < 0x80                  ? 0
                   : (c >= 0xC2 && c < 0xE0) ? 1
                   : (c & 0xF0) == 0xE0      ? 2
                   : (c >= 0xF0 && c < 0xF5) ? 3
                                             : -1;
        bool good = more >= 0 && end - p > more;
        for (int i = 1; good && i <= more; i++)
            good = (p[i] & 0xC0) == 0x80;
        if (!good) {
            KdSpan s = {n_line, (int)(p - line) + 1, 1};
            kd_error(l->cx, kd_span_loc(l->cx, l->file, s), "this byte (0x%02x) is not UTF-8 text",
                     c);
            return false;
        }
        p += more + 1;
        if (c == '\n') {
            line = p;
            n_line++;
        }
    }
    return true;
}

KdTokens kd_lex(KdContext *cx, const char *file, const char *text, size_t n) {
    Lexer l = {.cx = cx,
               .file = file,
               .p = text,
               .end = text + n,
               .line_start = text,
               .line = 1,
               .newline = true};
    if (!check_utf8(&l)) l.p = l.end;
    if (l.p < l.end && n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        l.p += 3; /* a byte order mark */
    while (l.p < l.end) {
        char c = *l.p;
        if (c == '\n') {
            l.p++;
            l.line++;
            l.line_start = l.p;
            l.newline = true;
        } else if (c == ' ' || c == '\t' || c == '\r') {
            l.p++;
        } else if (c == '#') {
            while (l.p < l.end && *l.p != '\n')
                l.p++;
        } else if (is_digit(c)) {
            lex_number(&l);
        } else if (is_letter(c)) {
            lex_word(&l);
        } else if (c == '"') {
            lex_string(&l);
        } else if (!lex_sign(&l)) {
            lex_unknown(&l);
        }
    }
    l.newline = true;
    emit(&l, KD_TOK_END, l.p, l.p);
    return (KdTokens){l.out.v, l.out.n};
}
