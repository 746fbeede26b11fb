/* prune_trial.c: the network of kdc prune with other hyper-parameters. See prune.h.
 *
 * A candidate is the very text that STUDENT.kd gets, elaborated as a program of its own: what is counted, measured and
 * compared is what will be there.
 */
#define _GNU_SOURCE
#include "frontend/cli/prune.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What p has to say, as one line in m's memory; "" for nothing. */
static const char *said_by(KdcPrune *m, KdcProgram *p) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) {
        return "";
    }
    kdc_print_messages(p, f, false);
    fclose(f);
    const char *line = kd_intern(m->p->cx, text, strcspn(text, "\n"));
    free(text);
    return line;
}

/* ---- where it is imported from ----------------------------------------------------------------------- */

/* The folder of path, without its slash; "." of a bare name. */
static const char *folder_of(KdContext *cx, const char *path) {
    const char *slash = strrchr(path, '/');
    return !slash ? "." : slash == path ? "/" : kd_intern(cx, path, (size_t)(slash - path));
}

/* `to` as seen from folder `from`, both absolute: "../nets/my.kd". */
static const char *relative(KdContext *cx, const char *from, const char *to) {
    KdStr s = {.cx = cx};
    size_t same = 0, k = 0;
    for (; from[k] && from[k] == to[k]; k++) {
        same = from[k] == '/' ? k + 1 : same;
    }
    same = !from[k] && to[k] == '/' ? k + 1 : same;
    for (const char *p = from + (same > k ? k : same); *p; p += strspn(p, "/")) {
        kd_str_printf(&s, "../");
        p += strcspn(p, "/");
    }
    kd_str_printf(&s, "%s", to + same);
    return s.s;
}

static void add_param(KdStr *s, const KdDecl *d, const char *define) {
    /* a long list is cut short in messages, but not on the command line */
    bool cut = strstr(d->value, "...") != NULL;
    kd_str_printf(s, "param %s = %s\n", d->name, cut ? strchr(define, '=') + 1 : d->value);
}

/* The text so far, with these of -D; to close. */
static KdcProgram *open_with(KdcPrune *m, const char **defines, int n) {
    const char *text = kdc_prune_text(m, NULL);
    KdcOptions o = m->p->o;
    o.defines = defines;
    o.n_defines = n;
    return kdc_open(m->file, text, strlen(text), &o);
}

static const KdDecl *param_of(const KdcProgram *p, const char *define) {
    const KdDecl *d = kdc_cli_find(p, kd_intern(p->cx, define, strcspn(define, "=")));
    return d && d->kind == KD_DECL_PARAM ? d : NULL;
}

/* Params that -D sets and the network's own file (or the recipe) has. */
static bool copy_params(KdcPrune *m) {
    KdStr s = {.cx = m->p->cx};
    int late = m->recipe ? m->n_late : 0;
    m->params = "";
    KdcProgram *p = m->p->o.n_defines || late ? open_with(m, m->late, late) : NULL;
    bool ok = p && p->lang;
    for (int i = 0; ok && i < m->p->o.n_defines; i++) {
        const char *define = m->p->o.defines[i];
        const KdDecl *here = param_of(m->p, define);
        if (here && param_of(p, define)) {
            add_param(&s, here, define);
        }
    }
    for (int i = 0; ok && i < late; i++) {
        add_param(&s, param_of(p, m->late[i]), m->late[i]);
    }
    kdc_close(p);
    m->params = s.n ? s.s : "";
    return true;
}

/* What STUDENT.kd writes to import this file. NULL after a message. */
static const char *import_of(KdcPrune *m, const char *file) {
    char from[PATH_MAX], to[PATH_MAX];
    KdContext *cx = m->p->cx;
    if (!realpath(folder_of(cx, m->file), from)) {
        kd_error(cx, 0, "cannot write %s: there is no folder %s", m->file, folder_of(cx, m->file));
        return NULL;
    }
    if (!realpath(file, to)) {
        kd_error(cx, 0, "cannot find %s again, where %s is declared", file, m->config.net);
        return NULL;
    }
    return relative(cx, from, to);
}

bool kdc_prune_place(KdcPrune *m) {
    const char *file = m->config.file;
    if (file && strcmp(file, "<stdin>") == 0) {
        kd_error(m->p->cx, 0, "%s is declared in standard input, from where the student cannot import it",
                 m->config.net);
        return false;
    }
    m->import = !file || m->config.embedded ? file : import_of(m, file);
    return (m->import || !file) && copy_params(m);
}

/* The text is the recipe from now on, without params yet. false after a message in p. */
static bool place_recipe(KdcPrune *m, const char **file) {
    KdContext *cx = m->p->cx;
    const char *colon = strrchr(m->a->recipe, ':');
    bool named = colon && colon > m->a->recipe && colon[1] && !strchr(colon, '/');
    *file = named ? kd_intern(cx, m->a->recipe, (size_t)(colon - m->a->recipe)) : m->a->recipe;
    m->recipe = true;
    m->params = "";
    m->name = named ? colon + 1 : "S";
    m->import = access(*file, R_OK) == 0 ? import_of(m, *file) : *file; /* else it may be built-in */
    return m->import != NULL;
}

bool kdc_prune_check_late(KdcPrune *m) {
    KdcPrune recipe = *m;
    const char *file;
    if (!m->n_late) {
        return true;
    }
    if (!place_recipe(&recipe, &file)) {
        return false;
    }
    KdcProgram *p = open_with(&recipe, NULL, 0);
    bool ok = true;
    for (int i = 0; p && kdc_status(p) == KDC_OK && i < m->n_late; i++) {
        if (!param_of(p, m->late[i])) {
            kd_error(m->p->cx, 0, "-D %s: neither %s nor %s has a param '%.*s'", m->late[i], m->a->file, file,
                     (int)strcspn(m->late[i], "="), m->late[i]);
            ok = false;
        }
    }
    if (p && kdc_status(p) != KDC_OK) {
        kd_error(m->p->cx, 0, "--recipe: %s", said_by(m, p));
        ok = false;
    }
    kdc_close(p);
    return ok;
}

/* A recipe that has its teacher's width of its own, and the network another. */
static void note_teacher(KdcPrune *m, const char *file) {
    KdContext *cx = m->p->cx;
    KdcProgram *p = open_with(m, NULL, 0);
    const KdDecl *d = p && p->lang ? param_of(p, "teacher_ngf") : NULL;
    for (int i = 0; d && i < m->config.n; i++) {
        const KdHyper *v = &m->config.v[i];
        if (strcmp(v->name, "ngf") == 0 && strcmp(v->value, d->value) != 0) {
            m->note = kd_format(cx, "teacher_ngf is %s, as %s has it; with %s (ngf = %s) as its teacher: -D teacher_ngf=%s",
                                d->value, file, m->a->name, v->value, v->value);
        }
    }
    kdc_close(p);
}

bool kdc_prune_use_recipe(KdcPrune *m) {
    KdContext *cx = m->p->cx;
    const char *file, *why;
    KdcTrial t;
    if (!place_recipe(m, &file) || !copy_params(m)) {
        return false;
    }
    note_teacher(m, file);
    bool same = kdc_prune_try(m, m->value, 0, &t, &why) && t.inputs == m->after.inputs;
    for (int i = 0; same && i < m->c->groups.n; i++) {
        same = t.count[i] == m->after.count[i];
    }
    if (!same) {
        kd_error(cx, 0, "--recipe: %s of %s, with widths of its own, is not this student: %s", m->name, file,
                 *why ? why : "it has other layers or widths");
        kd_hint(cx, "a recipe that trains pruned students makes %s from params student_channels (and student_branches)",
                m->name);
    }
    return same;
}

/* ---- text ---------------------------------------------------------------------------------------------- */

/* A value of a hyper-parameter, its lists of lists in lines of at most 130 characters. */
static void add_value(KdStr *s, const char *value, size_t at) {
    size_t used = at;
    for (const char *p = value; *p;) {
        size_t n = strcspn(p, " ");
        if (used + n > 130 && used > 8) {
            kd_str_printf(s, "\n        ");
            used = 8;
        } else if (p > value) {
            kd_str_add(s, " ", 1);
            used++;
        }
        kd_str_add(s, p, n);
        used += n;
        p += n + strspn(p + n, " ");
    }
}

/* The recipe, and each list of widths as its param. */
static const char *recipe_text(const KdcPrune *m, const char *const *value) {
    KdStr s = {.cx = m->p->cx};
    kd_str_printf(&s, "import \"%s\"\n\n%s", m->import, m->params);
    for (int i = 0; value && i < m->config.n; i++) {
        if (value[i] && *value[i] == '[' && strcmp(value[i], m->config.v[i].value) != 0) {
            kd_str_printf(&s, "param student_%s = ", m->config.v[i].name);
            add_value(&s, value[i], 17 + strlen(m->config.v[i].name));
            kd_str_printf(&s, "\n");
        }
    }
    return s.s;
}

const char *kdc_prune_text(const KdcPrune *m, const char *const *value) {
    KdStr s = {.cx = m->p->cx};
    int n = 0;
    if (m->recipe) {
        return recipe_text(m, value);
    }
    if (m->import) {
        kd_str_printf(&s, "import \"%s\"\n", m->import);
    }
    kd_str_printf(&s, "%s\nlet %s = %s[", m->params ? m->params : "", m->name, m->config.net);
    for (int i = 0; value && i < m->config.n; i++) {
        if (value[i]) {
            kd_str_printf(&s, "%s    %s = ", n++ ? ",\n" : "\n", m->config.v[i].name);
            add_value(&s, value[i], 7 + strlen(m->config.v[i].name));
        }
    }
    kd_str_printf(&s, "%s]\n", n ? "\n" : "");
    return s.s;
}

/* How the network is configured with these values. false: it cannot be. What it gives lives as long as *p. */
static bool config_of(KdcPrune *m, const char *const *value, KdcProgram **p, KdConfig *c) {
    const char *text = kdc_prune_text(m, value);
    KdcOptions o = m->p->o;
    o.defines = NULL;
    o.n_defines = 0;
    *p = kdc_open(m->file, text, strlen(text), &o);
    return *p && (*p)->lang && kd_lang_config((*p)->lang, kd_intern_z((*p)->cx, m->name), c) && c->n == m->config.n;
}

void kdc_prune_shorten(KdcPrune *m, const char **value) {
    KdcProgram *p;
    KdConfig c;
    bool ok = config_of(m, value, &p, &c);
    for (int i = 0; ok && i < c.n; i++) { /* as kdc writes them */
        value[i] = value[i] ? kd_intern_z(m->p->cx, c.v[i].value) : NULL;
    }
    kdc_close(p);
    for (int i = m->config.n; ok && i-- > 0;) {
        const char *kept = value[i];
        value[i] = NULL;
        bool same = kept && config_of(m, value, &p, &c);
        for (int k = 0; same && k < c.n; k++) {
            const char *want = k == i ? kept : value[k];
            same = !want || strcmp(c.v[k].value, want) == 0;
        }
        if (kept) {
            kdc_close(p);
        }
        value[i] = same ? NULL : kept;
    }
}

/* ---- trials --------------------------------------------------------------------------------------------- */

/* The median time of `runs` runs after two untimed ones. false: p says why. */
static bool measure(KdcPrune *m, KdcProgram *p, int runs, double *median) {
    enum { WARM = 2 };
    double *seconds = KD_NEW_ARRAY(m->p->cx, double, runs);
    KdcRunnable *r = kdc_net(p, m->name, &m->shapes);
    if (!r || kdc_initialise(r, m->a->seed) != KDC_OK) {
        return false;
    }
    for (int i = 0; i < kdc_input_count(r); i++) {
        KdcTensor *t = kdc_input(r, i);
        for (int64_t k = 0; t->role == KDC_DATA && t->dtype == KDC_F32 && k < t->count; k++) {
            ((float *)t->data)[k] = (float)(k * 37 % 256) / 128 - 1;
        }
    }
    kdc_hold_weights(r, true);
    for (int i = -WARM; i < runs; i++) {
        double start = kdc_now();
        if (kdc_run(r) != KDC_OK) {
            return false;
        }
        seconds[i < 0 ? 0 : i] = kdc_now() - start;
    }
    *median = kdc_median(seconds, runs);
    return true;
}

static bool try_program(KdcPrune *m, KdcProgram *p, int runs, KdcTrial *t, KdStr *why) {
    KdNetOptions o;
    KdcUnit u;
    if (!kdc_net_options(p, &m->shapes, &o) || !kdc_unit_net(p, m->name, &o, &u)) {
        return false;
    }
    t->count = KD_NEW_ARRAY(m->p->cx, int, m->c->groups.n + 1);
    t->inputs = u.func->inputs.n;
    t->parameters = kd_lang_parameters(u.func);
    t->macs = kd_lang_macs(u.func);
    return kd_channels_fit(m->c, u.func, t->count, why) && (!runs || measure(m, p, runs, &t->seconds));
}

static bool try_text(KdcPrune *m, const char *text, int runs, KdcTrial *t, const char **why) {
    KdStr reason = {.cx = m->p->cx};
    KdcOptions o = m->p->o;
    o.defines = NULL;
    o.n_defines = 0;
    *t = (KdcTrial){0};
    KdcProgram *p = kdc_open(m->file, text, text ? strlen(text) : 0, &o);
    if (!p) {
        kd_raise(m->p->cx, KD_FAIL_MACHINE, "out of memory");
    }
    volatile bool ok = false;
    KdLanding l;
    if (kdc_status(p) == KDC_OK && KD_TRY(p->cx, l)) {
        ok = try_program(m, p, runs, t, &reason);
        kd_landing_pop(p->cx);
    } else if (kdc_status(p) == KDC_OK) {
        kdc_failed(p);
    }
    kdc_settle(p, 0);
    bool machine = kdc_status(p) == KDC_MACHINE;
    const char *said = ok ? "" : reason.n ? reason.s : said_by(m, p);
    kdc_close(p);
    if (machine) {
        kd_raise(m->p->cx, KD_FAIL_MACHINE, "%s", said);
    }
    if (why) {
        *why = said;
    }
    return ok;
}

bool kdc_prune_try(KdcPrune *m, const char *const *value, int runs, KdcTrial *t, const char **why) {
    return try_text(m, kdc_prune_text(m, value), runs, t, why);
}

bool kdc_prune_verify(KdcPrune *m, const KdcTrial *t) {
    KdcTrial now;
    const char *why;
    bool same = try_text(m, NULL, 0, &now, &why) && now.inputs == t->inputs && now.parameters == t->parameters;
    for (int i = 0; same && i < m->c->groups.n; i++) {
        same = now.count[i] == t->count[i];
    }
    if (!same) {
        kd_raise(m->p->cx, KD_FAIL_INTERNAL, "%s is not the network that was to be written: %s", m->file, why);
    }
    return same;
}
