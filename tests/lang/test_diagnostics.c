/* test_diagnostics.c: every file of errors/ is a program with mistakes; the comments at its end are what must be said, in order:
 *
 *   # error 3:14: text        # note 5:2: text        # hint text
 *
 * Before them may stand  # run NAME  (elaborate this fn or net; else all sessions of the file are) and  # define NAME=VALUE.
 * KDC_BLESS=1 rewrites the expectations: read the diff.
 */
#include "tests/lang/lang_test.h"

#include <dirent.h>

typedef struct File { char name[80], path[400]; } File;

static char *read_all(const char *path) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = calloc(1, 1 << 16);
    size_t n = fread(text, 1, (1 << 16) - 1, f);
    fclose(f);
    text[n] = 0;
    return text;
}

static const char dir[] = KDC_SOURCE_DIR "/tests/lang/errors/";

/* The diagnostics as expectations: places without the file's own name, source lines and carets left out. */
static char *said(KdContext *cx, const char *path) {
    char *raw = lt_messages(cx), *all = calloc(1, strlen(raw) + 1), *out = calloc(1, strlen(raw) + 4096), *at = all;
    for (const char *p = raw; *p;) {
        if (strncmp(p, dir, strlen(dir)) == 0) p += strlen(dir);
        else *at++ = *p++;
    }
    free(raw);
    at = out;
    path += strlen(dir);
    size_t n = strlen(path);
    for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "  hint: ", 8) == 0) at += sprintf(at, "# hint %s\n", line + 8);
        else if (strncmp(line, "  note: ", 8) == 0) at += sprintf(at, "# note %s\n", line + 8);
        else if (strncmp(line, "kdc: ", 5) == 0) at += sprintf(at, "# %s\n", line + 5);
        else if (line[0] != ' ') {
            const char *place = strncmp(line, path, n) == 0 ? line + n + 1 : line;
            const char *kind = strstr(place, ": error: ");
            if (!kind) kind = strstr(place, ": note: ");
            if (!kind) kind = strstr(place, ": warning: ");
            if (!kind) fail_msg("cannot read the diagnostic: %s", line);
            int word = (int)strcspn(kind + 2, ":");
            at += sprintf(at, "# %.*s %.*s:%s\n", word, kind + 2, (int)(kind - place), place, kind + 2 + word + 1);
        }
    }
    free(all);
    return out;
}

static void diagnose(KdContext *cx, const char *path, const char *text) {
    KdDefine define[4];
    int n_define = 0;
    bool named = false;
    for (const char *p = text; (p = strstr(p, "# define ")); p++) {
        const char *eq = strchr(p, '='), *end = p + strcspn(p, "\n");
        define[n_define++] = (KdDefine){kd_intern(cx, p + 9, (size_t)(eq - p - 9)), kd_intern(cx, eq + 1, (size_t)(end - eq - 1))};
    }
    KdProgram *p = kd_lang_load(cx, path, NULL, 0, &(KdLangOptions){.define = define, .n_define = n_define});
    if (!p) return;
    for (const char *at = text; (at = strstr(at, "# run ")); at++) {
        named = true;
        kd_lang_net(p, kd_intern(cx, at + 6, strcspn(at + 6, "\n ")), &(KdNetOptions){.mode = KD_TRAIN});
    }
    int n;
    const KdDecl *d = kd_lang_decls(p, &n);
    for (int i = 0; i < n && !named; i++)
        if (d[i].kind == KD_DECL_SESSION && d[i].main) kd_lang_session(p, d[i].name, ~0u, NULL, NULL);
}

static const char *expectations(const char *text) {
    const char *first = NULL;
    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
        bool yes = strncmp(p, "# error ", 8) == 0 || strncmp(p, "# error: ", 9) == 0 || strncmp(p, "# note ", 7) == 0 || strncmp(p, "# hint ", 7) == 0 || strncmp(p, "# warning ", 10) == 0;
        if (yes && !first) first = p;
        if (!yes) first = NULL;
    }
    return first ? first : text + strlen(text);
}

static void check(void **state) {
    const File *file = *state;
    char *text = read_all(file->path);
    KdContext *cx = kd_context_new();
    const char *want = expectations(text);
    diagnose(cx, file->path, text);
    char *got = said(cx, file->path);
    if (getenv("KDC_BLESS") && strcmp(got, want) != 0) {
        FILE *f = fopen(file->path, "wb");
        fwrite(text, 1, (size_t)(want - text), f);
        fputs(got, f);
        fclose(f);
    } else {
        assert_true(*want != 0);
        assert_string_equal(got, want);
    }
    free(got);
    free(text);
    kd_context_free(cx);
}

static int by_name(const void *a, const void *b) { return strcmp(((const File *)a)->name, ((const File *)b)->name); }

int main(void) {
    enum { MOST = 200 };
    static File files[MOST];
    static struct CMUnitTest tests[MOST];
    int n = 0;
    DIR *d = opendir(dir);
    if (!d) return 1;
    for (struct dirent *e; (e = readdir(d)) && n < MOST;) {
        size_t len = strlen(e->d_name);
        if (len < 4 || len >= sizeof files[n].name || strcmp(e->d_name + len - 3, ".kd") != 0) continue;
        strcpy(files[n].name, e->d_name);
        snprintf(files[n].path, sizeof files[n].path, "%s%s", dir, e->d_name);
        n++;
    }
    closedir(d);
    qsort(files, (size_t)n, sizeof *files, by_name);
    for (int i = 0; i < n; i++) tests[i] = (struct CMUnitTest){files[i].name, check, NULL, NULL, &files[i]};
    if (n < 60) return 1;
    return _cmocka_run_group_tests("diagnostics", tests, (size_t)n, NULL, NULL);
}
