/* test_docs.c: the examples of the documentation are programs. Every ```kd block of docs/ and README.md is loaded, and its sessions are
 * elaborated; a block marked ```kd fragment must only parse. */
#include <dirent.h>

#include "frontend/lang/ast.h"
#include "tests/lang/lang_test.h"

static int blocks;

static void check_block(const char *file, int line, const char *text, bool fragment) {
    KdContext *cx = kd_context_new();
    const char *label = kd_format(cx, "%s:%d", file, line);
    blocks++;
    if (fragment) {
        kd_source_add(cx, label, text, strlen(text));
        kd_parse_source(cx, label, text, strlen(text));
    } else {
        KdProgram *p = kd_lang_load(cx, label, text, strlen(text), NULL);
        int n = 0;
        const KdDecl *d = p ? kd_lang_decls(p, &n) : NULL;
        for (int i = 0; i < n; i++)
            if (d[i].main && d[i].kind == KD_DECL_SESSION) kd_lang_session(p, d[i].name, ~0u, NULL, NULL);
    }
    if (kd_error_count(cx)) lt_fail(cx, label);
    kd_context_free(cx);
}

static void check_file(const char *path) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char line[4000], *text = NULL;
    size_t size = 0;
    FILE *block = NULL;
    bool fragment = false;
    for (int n = 1, begin = 0; fgets(line, sizeof line, f); n++) {
        if (!block && strncmp(line, "```kd", 5) == 0) {
            fragment = strstr(line, "fragment") != NULL;
            block = open_memstream(&text, &size);
            begin = n;
        } else if (block && strncmp(line, "```", 3) == 0) {
            fclose(block);
            block = NULL;
            check_block(path, begin, text, fragment);
            free(text);
        } else if (block) {
            fputs(line, block);
        }
    }
    assert_null(block);
    fclose(f);
}

static void test_docs(void **state) {
    (void)state;
    char path[400];
    check_file(KDC_SOURCE_DIR "/README.md");
    DIR *d = opendir(KDC_SOURCE_DIR "/docs");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n < 4 || strcmp(e->d_name + n - 3, ".md") != 0) continue;
        snprintf(path, sizeof path, KDC_SOURCE_DIR "/docs/%s", e->d_name);
        check_file(path);
    }
    closedir(d);
    assert_true(blocks >= 6);
}

/* The reference lists everything that exists. */
static void test_complete(void **state) {
    (void)state;
    FILE *f = fopen(KDC_SOURCE_DIR "/docs/language.md", "r");
    static char page[1 << 16];
    assert_non_null(f);
    page[fread(page, 1, sizeof page - 1, f)] = 0;
    fclose(f);
    KdContext *cx = kd_context_new();
    KdProgram *p = lt_load(cx, KDC_SOURCE_DIR "/frontend/lang/prelude.kd", NULL, NULL);
    int n;
    const KdDecl *d = kd_lang_decls(p, &n);
    static const char *const helpers[] = {"rows_of", "same_sides", "conv_sides", "l2_vector", "spectral_step", "over_sigma", "per_channel", "pad_sides",
                                          "pool_counts", "pool_check", "target_size", "wavelet_filters", "dwt_axis", "gaussian_window", "blur", "cos01"};
    for (int i = 0; i < n; i++) {
        bool helper = false;
        for (int k = 0; k < KD_COUNT(helpers); k++) helper = helper || strcmp(helpers[k], d[i].name) == 0;
        const char *quoted = kd_format(cx, "`%s", d[i].name);
        const char *at = strstr(page, quoted);
        if (!helper && !at) fail_msg("docs/language.md does not list %s", d[i].name);
    }
    kd_context_free(cx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_docs), cmocka_unit_test(test_complete)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
