/* source.c: files and imports -> parsed modules, imported ones before those that import them.
 *
 * An import is looked for beside the importing file, then in the folders of the options, then among
 * the built-in models/ that travel in the binary. A file is read once, however many import it; a
 * circle of imports is an error that names it.
 */
#define _GNU_SOURCE
#include "frontend/lang/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/lang/embedded.h"

enum { MAX_IMPORT_DEPTH = 64 };

typedef struct Loader {
    KdProgram *p;
    KdContext *cx;
    const KdLangOptions *o;
    KD_VEC(KdSourceModule *) open; /* being read: the chain of imports */
} Loader;

/* ---- text ------------------------------------------------------------------------------------ */

static const KdEmbedded *find_embedded(const char *name) {
    for (const KdEmbedded *e = kd_embedded; e->name; e++)
        if (strcmp(e->name, name) == 0) return e;
    return NULL;
}

/* The whole file, or NULL with the reason in *why. */
static char *read_file(KdContext *cx, const char *path, size_t *n, const char **why) {
    FILE *f = fopen(path, "rb");
    *n = 0;
    if (!f) {
        *why = strerror(errno);
        return NULL;
    }
    KdStr s = {cx, NULL, 0, 0};
    char part[1 << 14];
    size_t got;
    kd_str_add(&s, "", 0);
    errno = 0;
    while ((got = fread(part, 1, sizeof part, f)) > 0 && s.n <= KD_MAX_SOURCE)
        kd_str_add(&s, part, got);
    *why = ferror(f)             ? strerror(errno ? errno : EIO)
           : s.n > KD_MAX_SOURCE ? "it is larger than 16 MiB"
                                 : NULL;
    fclose(f);
    *n = s.n;
    return *why ? NULL : s.s;
}

/* dir of `file` + path, with . and .. taken out where that is certain. */
static const char *join(KdContext *cx, const char *file, const char *path) {
    const char *slash = strrchr(file, '/');
    if (path[0] == '/' || !slash) return kd_intern_z(cx, path);
    return kd_intern_z(cx, kd_format(cx, "%.*s/%s", (int)(slash - file), file, path));
}

static const char *normal(KdContext *cx, const char *path) {
    KD_VEC(const char *) part = {0};
    KdStr s = {cx, NULL, 0, 0};
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.' && part.n > 0 &&
            strcmp(part.v[part.n - 1], "..") != 0)
            part.n--;
        else if (n > 0 && !(n == 1 && p[0] == '.'))
            kd_push(cx, &part, kd_intern(cx, p, n));
        p += n + (p[n] == '/');
    }
    kd_str_printf(&s, "%s", path[0] == '/' ? "/" : "");
    for (int i = 0; i < part.n; i++)
        kd_str_printf(&s, "%s%s", i ? "/" : "", part.v[i]);
    return kd_intern_z(cx, s.s);
}

/* ---- modules --------------------------------------------------------------------------------- */

static KdSourceModule *load(Loader *l, const char *key, const char *shown, const char *text,
                            size_t n, bool embedded, bool prelude);

static KdSourceModule *known(Loader *l, const char *key) {
    for (int i = 0; i < l->p->modules.n; i++)
        if (l->p->modules.v[i]->key == key) return l->p->modules.v[i];
    return NULL;
}

static bool circle(Loader *l, const char *key, KdLoc at) {
    for (int i = 0; i < l->open.n; i++) {
        if (l->open.v[i]->key != key) continue;
        KdStr s = {l->cx, NULL, 0, 0};
        for (int k = i; k < l->open.n; k++)
            kd_str_printf(&s, "%s imports ", l->open.v[k]->file);
        kd_error(l->cx, at, "imports go in a circle: %s%s", s.s, l->open.v[i]->file);
        return true;
    }
    if (l->open.n < MAX_IMPORT_DEPTH) return false;
    kd_error(l->cx, at, "imports nest more than %d deep", MAX_IMPORT_DEPTH);
    return true;
}

static KdSourceModule *load_disk(Loader *l, const char *path, KdLoc at, bool *found) {
    const char *why;
    size_t n;
    char real[4096];
    *found = false;
    if (strlen(path) >= sizeof real || !realpath(path, real)) return NULL;
    *found = true;
    const char *key = kd_intern_z(l->cx, real);
    KdSourceModule *m = known(l, key);
    if (m || circle(l, key, at)) return m;
    char *text = read_file(l->cx, path, &n, &why);
    if (text) return load(l, key, path, text, n, false, false);
    kd_error(l->cx, at, "cannot read %s: %s", path, why);
    return NULL;
}

static KdSourceModule *load_embedded(Loader *l, const char *name, KdLoc at, bool *found) {
    const KdEmbedded *e = find_embedded(name);
    *found = e != NULL;
    if (!e) return NULL;
    const char *key = kd_intern_z(l->cx, kd_format(l->cx, "models/%s", e->name));
    KdSourceModule *m = known(l, key);
    if (m || circle(l, key, at)) return m;
    return load(l, key, key, e->text, e->size, true, false);
}

/* Everything an import can mean, in order. */
static KdSourceModule *import(Loader *l, const KdSourceModule *from, const char *path, KdLoc at) {
    bool found = false;
    KdSourceModule *m = NULL;
    if (from->embedded)
        m = load_embedded(l, normal(l->cx, join(l->cx, from->file + strlen("models/"), path)), at,
                          &found);
    else
        m = load_disk(l, join(l->cx, from->file, path), at, &found);
    for (int i = 0; !found && i < l->o->n_import_path && path[0] != '/'; i++)
        m = load_disk(l, kd_intern_z(l->cx, kd_format(l->cx, "%s/%s", l->o->import_path[i], path)),
                      at, &found);
    if (!found) m = load_embedded(l, normal(l->cx, path), at, &found);
    if (found) return m;
    KD_VEC(const char *) names = {0};
    for (const KdEmbedded *e = kd_embedded; e->name; e++)
        if (strchr(e->name, '/')) kd_push(l->cx, &names, e->name);
    kd_error(l->cx, at, "cannot find \"%s\": looked beside %s%s and among the built-in models",
             path, from->file, l->o->n_import_path ? ", in the import folders" : "");
    const char *near = kd_nearest(path, names.v, names.n);
    if (near) kd_hint(l->cx, "did you mean \"%s\"?", near);
    return NULL;
}

static KdSourceModule *load(Loader *l, const char *key, const char *shown, const char *text,
                            size_t n, bool embedded, bool prelude) {
    KdSourceModule *m = KD_NEW(l->cx, KdSourceModule);
    m->key = key;
    m->file = kd_intern_z(l->cx, shown);
    m->embedded = embedded;
    m->prelude = prelude;
    kd_source_add(l->cx, m->file, text, n);
    m->block = kd_parse_source(l->cx, m->file, text, n);
    kd_push(l->cx, &l->open, m);
    for (int i = 0; i < m->block.n; i++) {
        KdStmt *s = m->block.v[i];
        if (s->kind == KD_STMT_DEF) s->def->module = m;
        if (s->kind != KD_STMT_IMPORT || !s->n_names) continue;
        KdSourceModule *other =
            import(l, m, s->names[0], kd_span_loc(l->cx, m->file, s->name_spans[0]));
        if (other)
            kd_push(l->cx, &m->imports, other);
        else
            l->p->import_failed = true;
    }
    l->open.n--;
    m->index = l->p->modules.n;
    kd_push(l->cx, &l->p->modules, m);
    return m;
}

bool kd_load_sources(KdProgram *p, const char *file, const char *text, size_t n) {
    KdContext *cx = p->cx;
    Loader l = {.p = p, .cx = cx, .o = &p->options};
    int errors = kd_error_count(cx);
    const KdEmbedded *prelude = find_embedded("prelude.kd");
    if (!prelude) kd_raise(cx, KD_FAIL_INTERNAL, "the prelude is missing from the binary");
    load(&l, kd_intern_z(cx, "prelude.kd"), "prelude.kd", prelude->text, prelude->size, true, true);
    if (kd_error_count(cx) != errors) kd_raise(cx, KD_FAIL_INTERNAL, "the prelude does not parse");
    char real[4096];
    const char *key = file;
    if (!text) {
        const char *why = NULL;
        text = read_file(cx, file, &n, &why);
        if (!text) {
            kd_error(cx, 0, "cannot read %s: %s", file, why);
            return false;
        }
        if (strlen(file) < sizeof real && realpath(file, real)) key = real;
    }
    p->main = load(&l, kd_intern_z(cx, key), file, text, n, false, false);
    p->main->main = true;
    return kd_error_count(cx) == errors;
}
