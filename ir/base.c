/* base.c: contexts, arena, interning, maps, places and diagnostics; see base.h for the contract.
 *
 * The arena is a list of blocks, each at least twice the last request and never returned before the context is. Strings,
 * places and types are interned in open-addressing tables over the arena. Diagnostics are kept as records until they are
 * printed, so that the library itself never writes anywhere.
 */
#include "ir/base.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DIAGNOSTICS = 20, FIRST_BLOCK = 1 << 16 };

typedef struct Block {
    struct Block *next;
    size_t used, size;
    _Alignas(16) unsigned char bytes[];
} Block;

typedef struct Source {
    const char *file, *text;
    size_t n;
} Source;

typedef struct Diag {
    KdSeverity severity;
    KdLoc loc;
    const char *text;
} Diag;

typedef struct Interned {
    uint64_t hash;
    const char *s;
    size_t n;
} Interned;

struct KdContext {
    Block *blocks;
    KdLanding *landing;
    KdFail fail;
    char fail_text[1024]; /* must work without memory */
    Interned *strings;
    size_t n_strings, cap_strings;
    KD_VEC(Source) sources;
    KD_VEC(KdPlace) places; /* [0] is "nowhere" */
    KdMap place_index;
    KdMap types;
    void *ops;
    KD_VEC(Diag) diags;
    int errors, suppressed;
    bool muted; /* notes of a suppressed diagnostic go with it */
};

/* ---- failures --------------------------------------------------------------------------------- */

void kd_landing_push(KdContext *cx, KdLanding *l) {
    l->outer = cx->landing;
    cx->landing = l;
}

void kd_landing_pop(KdContext *cx) { cx->landing = cx->landing->outer; }

_Noreturn void kd_raise(KdContext *cx, KdFail kind, const char *fmt, ...) {
    cx->fail = kind;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cx->fail_text, sizeof cx->fail_text, fmt, ap);
    va_end(ap);
    KdLanding *l = cx->landing;
    if (!l) { /* our bug: a caller without KD_TRY; there is nowhere to go */
        fprintf(stderr, "kdc: %s\n", cx->fail_text);
        __builtin_trap();
    }
    cx->landing = l->outer;
    longjmp(l->env, 1);
}

KdFail kd_failure(const KdContext *cx, const char **message) {
    if (message) *message = cx->fail_text;
    return cx->fail;
}

KdMap *kd_context_types(KdContext *cx) { return &cx->types; }

void **kd_context_ops(KdContext *cx) { return &cx->ops; }

/* ---- memory ------------------------------------------------------------------------------------- */

KdContext *kd_context_new(void) {
    KdContext *cx = calloc(1, sizeof *cx);
    if (!cx) return NULL;
    cx->place_index.cx = cx->types.cx = cx;
    return cx;
}

void kd_context_free(KdContext *cx) {
    if (!cx) return;
    for (Block *b = cx->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(cx);
}

void *kd_alloc(KdContext *cx, size_t bytes) {
    if (bytes > SIZE_MAX / 4) kd_raise(cx, KD_FAIL_MACHINE, "out of memory (asked for %zu bytes)", bytes);
    size_t need = (bytes + 15) & ~(size_t)15;
    Block *b = cx->blocks;
    if (!b || b->size - b->used < need) {
        size_t size = b ? b->size : FIRST_BLOCK;
        if (size < (size_t)1 << 22) size *= 2;
        if (size < need * 2) size = need * 2;
        Block *fresh = calloc(1, sizeof(Block) + size);
        if (!fresh) kd_raise(cx, KD_FAIL_MACHINE, "out of memory (asked for %zu bytes)", size);
        fresh->size = size;
        fresh->next = b;
        cx->blocks = b = fresh;
    }
    void *p = b->bytes + b->used;
    b->used += need;
    return p;
}

size_t kd_context_bytes(const KdContext *cx) {
    size_t sum = 0;
    for (const Block *b = cx->blocks; b; b = b->next) sum += sizeof *b + b->size;
    return sum;
}

void *kd_alloc_array(KdContext *cx, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size)
        kd_raise(cx, KD_FAIL_MACHINE, "out of memory (asked for %zu times %zu bytes)", count, size);
    return kd_alloc(cx, count * size);
}

void kd_vec_room(KdContext *cx, void **v, int *n, int *cap, size_t size) {
    if (*n < *cap) return;
    if (*cap > INT32_MAX / 2) kd_raise(cx, KD_FAIL_MACHINE, "out of memory (a list of %d entries)", *cap);
    int grown = *cap ? *cap * 2 : 8;
    void *p = kd_alloc_array(cx, (size_t)grown, size);
    if (*n) memcpy(p, *v, (size_t)*n * size);
    *v = p;
    *cap = grown;
}

/* ---- strings -------------------------------------------------------------------------------------- */

void kd_str_add(KdStr *s, const char *text, size_t n) {
    if (s->cap - s->n < n + 1) {
        size_t cap = (s->cap + n + 1) * 2;
        char *p = kd_alloc(s->cx, cap);
        if (s->n) memcpy(p, s->s, s->n);
        s->s = p;
        s->cap = cap;
    }
    memcpy(s->s + s->n, text, n);
    s->n += n;
    s->s[s->n] = 0;
}

static void str_vprintf(KdStr *s, const char *fmt, va_list ap) {
    char small[256];
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n < 0) n = 0;
    if ((size_t)n < sizeof small) {
        kd_str_add(s, small, (size_t)n);
    } else {
        char *big = kd_alloc(s->cx, (size_t)n + 1);
        vsnprintf(big, (size_t)n + 1, fmt, again);
        kd_str_add(s, big, (size_t)n);
    }
    va_end(again);
}

void kd_str_printf(KdStr *s, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    str_vprintf(s, fmt, ap);
    va_end(ap);
}

const char *kd_vformat(KdContext *cx, const char *fmt, va_list ap) {
    KdStr s = {cx, NULL, 0, 0};
    str_vprintf(&s, fmt, ap);
    return s.s;
}

const char *kd_format(KdContext *cx, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    const char *s = kd_vformat(cx, fmt, ap);
    va_end(ap);
    return s;
}

uint64_t kd_hash_bytes(const void *p, size_t n, uint64_t seed) {
    const unsigned char *c = p;
    uint64_t h = seed ^ 0xcbf29ce484222325u ^ (n * 0x9e3779b97f4a7c15u);
    for (; n >= 8; n -= 8, c += 8) {
        uint64_t w;
        memcpy(&w, c, 8);
        h = (h ^ w) * 0x9fb21c651e98df25u;
        h ^= h >> 32;
    }
    for (; n; n--, c++) h = (h ^ *c) * 0x100000001b3u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return h ^ (h >> 32);
}

static void grow_strings(KdContext *cx) {
    size_t cap = cx->cap_strings ? cx->cap_strings * 2 : 256;
    Interned *t = KD_NEW_ARRAY(cx, Interned, cap);
    for (size_t i = 0; i < cx->cap_strings; i++) {
        if (!cx->strings[i].s) continue;
        size_t at = cx->strings[i].hash & (cap - 1);
        while (t[at].s) at = (at + 1) & (cap - 1);
        t[at] = cx->strings[i];
    }
    cx->strings = t;
    cx->cap_strings = cap;
}

const char *kd_intern(KdContext *cx, const char *s, size_t n) {
    if (cx->n_strings * 2 >= cx->cap_strings) grow_strings(cx);
    uint64_t h = kd_hash_bytes(s, n, 0);
    size_t at = h & (cx->cap_strings - 1);
    for (; cx->strings[at].s; at = (at + 1) & (cx->cap_strings - 1)) {
        Interned *e = &cx->strings[at];
        if (e->hash == h && e->n == n && memcmp(e->s, s, n) == 0) return e->s;
    }
    char *copy = kd_alloc(cx, n + 1);
    if (n) memcpy(copy, s, n);
    cx->strings[at] = (Interned){h, copy, n};
    cx->n_strings++;
    return copy;
}

const char *kd_intern_z(KdContext *cx, const char *s) { return kd_intern(cx, s, strlen(s)); }

/* ---- maps ------------------------------------------------------------------------------------------- */

static size_t map_slot(const KdMap *m, uint64_t key) {
    size_t mask = (size_t)m->cap - 1;
    size_t at = kd_hash_bytes(&key, sizeof key, 1) & mask;
    while (m->used[at] && m->keys[at] != key) at = (at + 1) & mask;
    return at;
}

bool kd_map_get(const KdMap *m, uint64_t key, uint64_t *val) {
    if (!m->n) return false;
    size_t at = map_slot(m, key);
    if (!m->used[at]) return false;
    if (val) *val = m->vals[at];
    return true;
}

void kd_map_put(KdMap *m, uint64_t key, uint64_t val) {
    if (m->n * 2 >= m->cap) {
        KdMap old = *m;
        m->cap = old.cap ? old.cap * 2 : 32;
        m->n = 0;
        m->keys = KD_NEW_ARRAY(m->cx, uint64_t, m->cap);
        m->vals = KD_NEW_ARRAY(m->cx, uint64_t, m->cap);
        m->used = KD_NEW_ARRAY(m->cx, uint8_t, m->cap);
        for (int i = 0; i < old.cap; i++)
            if (old.used[i]) kd_map_put(m, old.keys[i], old.vals[i]);
    }
    size_t at = map_slot(m, key);
    if (!m->used[at]) {
        m->used[at] = 1;
        m->keys[at] = key;
        m->n++;
    }
    m->vals[at] = val;
}

/* ---- arithmetic and names ------------------------------------------------------------------------------ */

bool kd_add_ok(int64_t a, int64_t b, int64_t *r) {
    int64_t t;
    if (__builtin_add_overflow(a, b, &t)) return false;
    *r = t;
    return true;
}

bool kd_mul_ok(int64_t a, int64_t b, int64_t *r) {
    int64_t t;
    if (__builtin_mul_overflow(a, b, &t)) return false;
    *r = t;
    return true;
}

/* Edit distance of two short strings: insertions, deletions, changed and swapped letters; 64 or more counts as "far". */
static int edit_distance(const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    if (na >= 64 || nb >= 64) return 64;
    int rows[3][65], *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= nb; j++) last[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            row[j] = best;
        }
        int *free_row = before;
        before = last;
        last = row;
        row = free_row;
    }
    return last[nb];
}

const char *kd_nearest(const char *s, const char *const *names, int n) {
    const char *best = NULL;
    int limit = (int)(strlen(s) + 2) / 3, least = limit + 1;
    for (int i = 0; i < n; i++) {
        int d = edit_distance(s, names[i]);
        if (d < least) {
            least = d;
            best = names[i];
        }
    }
    return best;
}

/* ---- places ------------------------------------------------------------------------------------------------ */

void kd_source_add(KdContext *cx, const char *file, const char *text, size_t n) {
    kd_push(cx, &cx->sources, (Source){kd_intern_z(cx, file), text, n});
}

static bool place_equal(const KdPlace *a, const KdPlace *b) {
    return a->file == b->file && a->line == b->line && a->col == b->col && a->len == b->len &&
           a->outer == b->outer && a->what == b->what;
}

KdLoc kd_loc(KdContext *cx, KdPlace p) {
    if (p.file) p.file = kd_intern_z(cx, p.file);
    if (p.what) p.what = kd_intern_z(cx, p.what);
    if (p.len < 1) p.len = 1;
    if (cx->places.n == 0) kd_push(cx, &cx->places, (KdPlace){0}); /* 0 is "nowhere" */
    uint64_t words[5] = {(uint64_t)(uintptr_t)p.file, (uint64_t)(uintptr_t)p.what,
                         (uint64_t)(uint32_t)p.line << 32 | (uint32_t)p.col, (uint64_t)p.len, p.outer};
    uint64_t h = kd_hash_bytes(words, sizeof words, 2), found;
    /* a colliding hash moves on to the next key */
    for (; kd_map_get(&cx->place_index, h, &found); h++)
        if (place_equal(&cx->places.v[found], &p)) return (KdLoc)found;
    kd_push(cx, &cx->places, p);
    kd_map_put(&cx->place_index, h, (uint64_t)(cx->places.n - 1));
    return (KdLoc)(cx->places.n - 1);
}

const KdPlace *kd_place(const KdContext *cx, KdLoc loc) {
    return loc > 0 && loc < (KdLoc)cx->places.n ? &cx->places.v[loc] : NULL;
}

/* ---- diagnostics ---------------------------------------------------------------------------------------------- */

static void add_diag(KdContext *cx, KdSeverity s, KdLoc loc, const char *fmt, va_list ap) {
    if (s == KD_ERROR) {
        cx->errors++;
        cx->muted = cx->errors > MAX_DIAGNOSTICS;
        cx->suppressed += cx->muted;
    } else if (s == KD_WARNING) {
        cx->muted = false;
    }
    if (cx->muted) return;
    kd_push(cx, &cx->diags, (Diag){s, loc, kd_vformat(cx, fmt, ap)});
}

static void add_diag_f(KdContext *cx, KdSeverity s, KdLoc loc, const char *fmt, ...) KD_PRINTF(4, 5);
static void add_diag_f(KdContext *cx, KdSeverity s, KdLoc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add_diag(cx, s, loc, fmt, ap);
    va_end(ap);
}

/* One note for each application that led to loc, innermost first; a long chain keeps its ends. */
static void add_chain(KdContext *cx, KdLoc loc) {
    enum { HEAD = 6, TAIL = 2 };
    int depth = 0, i = 0;
    for (const KdPlace *p = kd_place(cx, loc); p && p->outer; p = kd_place(cx, p->outer)) depth++;
    for (const KdPlace *p = kd_place(cx, loc); p && p->outer; p = kd_place(cx, p->outer), i++) {
        const KdPlace *outer = kd_place(cx, p->outer);
        if (depth > HEAD + TAIL + 1 && i == HEAD)
            add_diag_f(cx, KD_NOTE, 0, "... %d more applications ...", depth - HEAD - TAIL);
        if (depth > HEAD + TAIL + 1 && i >= HEAD && i < depth - TAIL) continue;
        add_diag_f(cx, KD_NOTE, p->outer, "%s", outer && outer->what ? outer->what : "applied here");
    }
}

void kd_error(KdContext *cx, KdLoc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add_diag(cx, KD_ERROR, loc, fmt, ap);
    va_end(ap);
    add_chain(cx, loc);
}

void kd_warning(KdContext *cx, KdLoc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add_diag(cx, KD_WARNING, loc, fmt, ap);
    va_end(ap);
    add_chain(cx, loc);
}

void kd_note(KdContext *cx, KdLoc loc, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add_diag(cx, KD_NOTE, loc, fmt, ap);
    va_end(ap);
}

void kd_hint(KdContext *cx, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    add_diag(cx, KD_HINT, 0, fmt, ap);
    va_end(ap);
}

int kd_error_count(const KdContext *cx) { return cx->errors; }

/* The text of a line, without its end; *n = 0 when the source is not known. */
static const char *source_line(const KdContext *cx, const char *file, int line, size_t *n) {
    *n = 0;
    for (int i = cx->sources.n - 1; i >= 0; i--) {
        const Source *s = &cx->sources.v[i];
        if (s->file != file) continue;
        const char *p = s->text, *end = s->text + s->n;
        for (int at = 1; at < line && p; at++) {
            p = memchr(p, '\n', (size_t)(end - p));
            if (p) p++;
        }
        if (!p || p > end) return NULL;
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        if (stop > p && stop[-1] == '\r') stop--;
        *n = (size_t)(stop - p);
        return p;
    }
    return NULL;
}

/* The line with a caret under the place; control bytes become spaces, long lines are cut around the caret. */
static void print_line(const KdContext *cx, FILE *out, const KdPlace *p, const char *on, const char *off) {
    enum { WIDTH = 110 };
    size_t n, from = 0;
    const char *text = source_line(cx, p->file, p->line, &n);
    if (!text || n == 0) return;
    size_t col = p->col > 0 ? (size_t)p->col - 1 : 0;
    if (col > n) col = n;
    if (col > WIDTH - 30) from = col - (WIDTH - 30);
    size_t to = n < from + WIDTH ? n : from + WIDTH;
    fprintf(out, "%5d | %s", p->line, from ? "..." : "");
    for (size_t i = from; i < to; i++) fputc((unsigned char)text[i] < 32 ? ' ' : text[i], out);
    fprintf(out, "%s\n      | %s", to < n ? "..." : "", from ? "   " : "");
    for (size_t i = from; i < col; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80) fputc(' ', out);
    fputs(on, out);
    for (int i = 0; i < p->len && (i == 0 || col + (size_t)i < to); i++)
        if (i == 0 || ((unsigned char)text[col + (size_t)i] & 0xC0) != 0x80) fputc(i ? '~' : '^', out);
    fprintf(out, "%s\n", off);
}

void kd_diag_print(KdContext *cx, FILE *out, bool color) {
    static const char *const word[] = {"error", "warning", "note", "hint"};
    static const char *const paint[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m", "\033[1;32m"};
    for (int i = 0; i < cx->diags.n; i++) {
        const Diag *d = &cx->diags.v[i];
        const KdPlace *p = kd_place(cx, d->loc);
        const char *on = color ? paint[d->severity] : "", *off = color ? "\033[0m" : "";
        if (p && p->file) fprintf(out, "%s:%d:%d: ", p->file, p->line, p->col);
        else if (d->severity == KD_ERROR || d->severity == KD_WARNING) fprintf(out, "kdc: ");
        else fprintf(out, "  ");
        fprintf(out, "%s%s:%s %s\n", on, word[d->severity], off, d->text);
        if (p && p->file) print_line(cx, out, p, on, off);
    }
    if (cx->suppressed) fprintf(out, "kdc: %d more errors are not shown\n", cx->suppressed);
    cx->suppressed = 0;
    cx->diags.n = 0;
}
