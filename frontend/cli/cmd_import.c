/* cmd_import.c: kdc import CHECKPOINT FILE.kd:NET -o W.safetensors: weights of another program under the network's
 * names.
 *
 * The network is elaborated, not compiled: only its weights' names and shapes matter. Lines of --map go first:
 * `OUR = THEIR` names a tensor for a weight, `* = PREFIX` keeps of the file only what lies under PREFIX. All others are
 * matched by kdc_match. Every weight and buffer must get a tensor. The map used goes to stdout, what is left over and
 * why to stderr, the tensors (converted to the network's types) to the output: safetensors, or a PyTorch file where
 * its name ends in .pth or .pt, with names as PyTorch has them. CHECKPOINT may be a run folder of kdc train, and RUN:NAME
 * or FILE:NAME one network of it.
 */
#include "frontend/cli/tensors.h"

#include "runtime/host/checkpoint.h"
#include "runtime/host/pth.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Import {
    const KdcArgs *a;
    KdcProgram *p;
    KdWeights *w;   /* the checkpoint */
    KdWeights kept; /* what of it may be matched: names as the map's prefix leaves them */
    KD_VEC(KdcTensor *) t;
    const KdTensor **from; /* by weight */
    const char **how;
} Import;

/* ---- the map file ----------------------------------------------------------------------------------- */

static const char *trimmed(KdContext *cx, const char *s, size_t n) {
    while (n && (*s == ' ' || *s == '\t')) {
        s++;
        n--;
    }
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r')) {
        n--;
    }
    return kd_intern(cx, s, n);
}

static KdcTensor *weight_named(const Import *m, const char *name, int *at) {
    for (*at = 0; *at < m->t.n; ++*at) {
        if (strcmp(m->t.v[*at]->name, name) == 0) {
            return m->t.v[*at];
        }
    }
    return NULL;
}

static const char *nearest_weight(const Import *m, const char *name) {
    const char **names = KD_NEW_ARRAY(m->p->cx, const char *, m->t.n + 1);
    for (int i = 0; i < m->t.n; i++) {
        names[i] = m->t.v[i]->name;
    }
    return kd_nearest(name, names, m->t.n);
}

/* `* = PREFIX`: of the file, what lies under it, without it. */
static bool keep_under(Import *m, int line, const char *prefix) {
    int n = 0;
    size_t length = strlen(prefix);
    for (int k = 0; k < m->kept.n; k++) {
        KdTensor x = m->kept.tensor[k];
        if (strncmp(x.name, prefix, length) == 0 && x.name[length] == '.') {
            x.name += length + 1;
            m->kept.tensor[n++] = x;
        }
    }
    if (!n) {
        kd_error(m->p->cx, 0, "%s:%d: nothing in %s lies under '%s'", m->a->map, line, m->a->other, prefix);
        return false;
    }
    m->kept.n = n;
    return true;
}

static bool map_one(Import *m, int line, const char *our, const char *their) {
    KdContext *cx = m->p->cx;
    int i;
    KdcTensor *t = weight_named(m, our, &i);
    const KdTensor *x = kd_weights_find(&m->kept, their);
    if (!t) {
        const char *near = nearest_weight(m, our);
        kd_error(cx, 0, "%s:%d: %s has no weight '%s'", m->a->map, line, m->a->name, our);
        if (near) {
            kd_hint(cx, "did you mean '%s'?", near);
        }
        return false;
    }
    if (!x) {
        kd_error(cx, 0, "%s:%d: %s has no tensor '%s'", m->a->map, line, m->a->other, their);
        return false;
    }
    for (int k = 0; k < m->t.n; k++) {
        if (k == i ? m->from[k] != NULL : m->from[k] == x) {
            kd_error(cx, 0, "%s:%d: '%s' is mapped already", m->a->map, line, k == i ? our : their);
            return false;
        }
    }
    m->from[i] = x;
    m->how[i] = "by map";
    return true;
}

/* One line, without its end. pass 0: the prefix; 1: the tensors. */
static bool map_line(Import *m, const char *s, size_t n, int line, int pass) {
    KdContext *cx = m->p->cx;
    const char *hash = memchr(s, '#', n);
    const char *text = trimmed(cx, s, hash ? (size_t)(hash - s) : n), *equals = strchr(text, '=');
    if (!*text) {
        return true;
    }
    const char *our = equals ? trimmed(cx, text, (size_t)(equals - text)) : "";
    const char *their = equals ? trimmed(cx, equals + 1, strlen(equals + 1)) : "";
    if (!*our || !*their || strchr(their, '=') || memchr(s, 0, n)) {
        kd_error(cx, 0, "%s:%d: expected 'OUR.NAME = THEIR.NAME', found '%.100s'", m->a->map, line, text);
        return false;
    }
    bool prefix = strcmp(our, "*") == 0;
    return prefix != (pass == 0) || (prefix ? keep_under(m, line, their) : map_one(m, line, our, their));
}

static bool read_map(Import *m) {
    KdTrouble t;
    size_t n;
    char *text = kd_file_read(m->a->map, &n, &t);
    if (!text) {
        return kdc_cli_trouble(m->p, &t);
    }
    const char *copy = kd_intern(m->p->cx, text, n); /* what is raised must not lose it */
    free(text);
    bool ok = true;
    for (int pass = 0; pass < 2 && ok; pass++) {
        int line = 1;
        for (size_t at = 0; at < n; line++) {
            const char *end = memchr(copy + at, '\n', n - at);
            size_t length = end ? (size_t)(end - copy) - at : n - at;
            ok = map_line(m, copy + at, length, line, pass) && ok;
            at += length + 1;
        }
    }
    return ok;
}

/* ---- the network ------------------------------------------------------------------------------------ */

static bool find_weights(Import *m) {
    KdcProgram *p = m->p;
    KD_VEC(KdcTensor *) data = {0};
    KdcShapes s = {0};
    KdNetOptions o;
    KdcUnit u;
    if (!kdc_cli_shapes(p, m->a, &s)) {
        return false;
    }
    kdc_cli_default_shape(p, m->a, m->a->name, &s);
    if (!kdc_net_options(p, &s, &o) || !kdc_unit_net(p, m->a->name, &o, &u)) {
        return false;
    }
    for (int i = 0; i < u.func->inputs.n; i++) {
        KdValue v = u.func->inputs.v[i];
        bool is_data = kd_input_role(u.func, v) == KD_DATA;
        if (is_data && !m->a->n_shapes) {
            continue;
        }
        KdcTensor *t = KD_NEW(p->cx, KdcTensor);
        *t = kdc_tensor_of(p, u.func, v);
        if (is_data) {
            kd_push(p->cx, &data, t);
        } else {
            kd_push(p->cx, &m->t, t);
        }
    }
    if (!kdc_cli_check_shapes(p, m->a, data.v, data.n)) {
        return false;
    }
    if (!m->t.n) {
        kd_error(p->cx, 0, "%s: %s has no weights", m->a->file, m->a->name);
    }
    return m->t.n > 0;
}

/* ---- matching --------------------------------------------------------------------------------------- */

/* Is x, whichever copy of it, some weight's tensor? Copies keep the end of the name where it is. */
static bool is_used(const Import *m, const KdTensor *x) {
    const char *end = x->name + strlen(x->name);
    bool used = false;
    for (int i = 0; i < m->t.n; i++) {
        used = used || (m->from[i] && m->from[i]->name + strlen(m->from[i]->name) == end);
    }
    return used;
}

/* What --map has left, through kdc_match. */
static bool match_rest(Import *m) {
    static const char *const how[] = {
        [KDC_MATCH_NAME] = "by name", [KDC_MATCH_CONVENTION] = "by convention", [KDC_MATCH_ORDER] = "by order and shape"};
    KdContext *cx = m->p->cx;
    KdWeights *rest = KD_NEW(cx, KdWeights);
    KdcTensor **t = KD_NEW_ARRAY(cx, KdcTensor *, m->t.n + 1);
    int *place = KD_NEW_ARRAY(cx, int, m->t.n + 1), n = 0;
    *rest = (KdWeights){.tensor = KD_NEW_ARRAY(cx, KdTensor, m->kept.n + 1)};
    for (int k = 0; k < m->kept.n; k++) {
        if (!is_used(m, &m->kept.tensor[k])) {
            rest->tensor[rest->n++] = m->kept.tensor[k];
        }
    }
    for (int i = 0; i < m->t.n; i++) {
        if (!m->from[i]) {
            place[n] = i;
            t[n++] = m->t.v[i];
        }
    }
    KdcMatch r;
    if (!kdc_match(m->p, m->a->name, t, n, rest, m->a->other, true, &r)) {
        return false;
    }
    bool ok = true;
    for (int i = 0; i < n; i++) {
        m->from[place[i]] = r.from[i];
        m->how[place[i]] = r.from[i] ? how[r.kind[i]] : NULL;
        if (!r.from[i]) {
            kd_error(cx, 0, "%s: no tensor for %s %s", m->a->other, t[i]->name, kdc_tensor_shape(cx, t[i]));
            ok = false;
        }
    }
    return ok;
}

/* ---- results ---------------------------------------------------------------------------------------- */

/* As the file has it: with what a line `* = PREFIX` took away. */
static const char *full_name(const Import *m, const KdTensor *x) {
    const char *end = x->name + strlen(x->name);
    for (int k = 0; k < m->w->n; k++) {
        const char *name = m->w->tensor[k].name;
        if (name + strlen(name) == end) {
            return name;
        }
    }
    return x->name;
}

static void print_map(const Import *m) {
    static const char *const ways[] = {"by name", "by convention", "by map", "by order and shape"};
    const char *separator = " ";
    for (int i = 0; i < m->t.n; i++) {
        const KdcTensor *t = m->t.v[i];
        printf("%s = %s   %s  (%s)\n", t->name, full_name(m, m->from[i]), kdc_tensor_shape(m->p->cx, t),
               m->how[i]);
    }
    printf("%d tensors of %s:", m->t.n, m->a->name);
    for (int k = 0; k < KD_COUNT(ways); k++) {
        int n = 0;
        for (int i = 0; i < m->t.n; i++) {
            n += strcmp(m->how[i], ways[k]) == 0;
        }
        if (n) {
            printf("%s%d %s", separator, n, ways[k]);
            separator = ", ";
        }
    }
    printf("; written to %s\n", m->a->output);
}

static bool ends_in(const char *name, const char *end) {
    return strlen(name) > strlen(end) && strcmp(name + strlen(name) - strlen(end), end) == 0;
}

/* Of a checkpoint of kdc train: what the optimisers, pools and counters of the run hold. */
static bool is_state(const Import *m, const char *name) {
    static const char *const under[] = {"opt.", "pool.", "every."};
    bool state = false;
    for (int i = 0; i < KD_COUNT(under); i++) {
        state = state || strncmp(name, under[i], strlen(under[i])) == 0;
    }
    return state && kd_weights_meta(m->w, "step") && kd_weights_meta(m->w, "checksum");
}

/* Named by their names in the file, prefix and all; a run's state is only counted. */
static void print_unused(const Import *m) {
    int states = 0;
    for (int k = 0; k < m->w->n; k++) {
        const KdTensor *x = &m->w->tensor[k];
        if (is_used(m, x)) {
            continue;
        }
        if (is_state(m, x->name)) {
            states++;
            continue;
        }
        bool statistic = ends_in(x->name, "running_mean") || ends_in(x->name, "running_var");
        fprintf(stderr, "not used: %s (%s)\n", x->name,
                ends_in(x->name, "num_batches_tracked") ? "a counter"
                : statistic                             ? "statistics of a normalisation that has none here"
                                                        : "no weight takes it");
    }
    if (states) {
        fprintf(stderr, "not used: %d tensor%s of the training run's state (opt, pool, every)\n", states,
                states > 1 ? "s" : "");
    }
}

/* "blocks[0].conv.weight" -> "blocks.0.conv.weight": what torch's load_state_dict looks for. */
static const char *torch_name(KdContext *cx, const char *name) {
    KdStr s = {.cx = cx};
    for (const char *c = name; *c; c++) {
        if (*c != ']') {
            kd_str_add(&s, *c == '[' ? "." : c, 1);
        }
    }
    return kd_intern(cx, s.s ? s.s : "", s.n);
}

static bool write_out(const Import *m) {
    static const KdStored stored[] = {[KDC_F32] = KD_STORED_F32, [KDC_I32] = KD_STORED_I32, [KDC_U8] = KD_STORED_U8};
    KdTensorOut *out = KD_NEW_ARRAY(m->p->cx, KdTensorOut, m->t.n + 1);
    bool pth = ends_in(m->a->output, ".pth") || ends_in(m->a->output, ".pt");
    for (int i = 0; i < m->t.n; i++) {
        const KdcTensor *t = m->t.v[i];
        out[i] = (KdTensorOut){pth ? torch_name(m->p->cx, t->name) : t->name, stored[t->dtype], t->rank, t->dim, t->data};
    }
    KdTrouble t;
    return (pth ? kd_pth_write(m->a->output, out, m->t.n, &t) : kd_weights_write(m->a->output, out, m->t.n, NULL, 0, &t)) ||
           kdc_cli_trouble(m->p, &t);
}

/* The length of FILE in FILE:NAME, one network of a file or run folder; 0: it is a file or folder of that name. */
static size_t before_name(const char *other) {
    const char *colon = strrchr(other, ':');
    struct stat st;
    return colon && colon[1] && !strchr(colon, '/') && stat(other, &st) != 0 ? (size_t)(colon - other) : 0;
}

/* FILE:NAME as --weights reads it. */
static bool read_network(Import *m) {
    const char *other[] = {m->a->other};
    KdcArgs a = {.weights = other, .n_weights = 1};
    KdcFiles files;
    bool ok = kdc_files_read(m->p, &a, &files) && files.weights.n > 0;
    if (ok) {
        m->w = files.weights.v[0].w;
        files.weights.v[0].w = NULL;
    }
    kdc_files_free(&files);
    return ok;
}

/* The file; of a folder of kdc train its newest good checkpoint. */
static bool read_checkpoint(Import *m) {
    KdTrouble t = {0};
    struct stat st;
    char *path = NULL, note[512] = "";
    int64_t step;
    if (before_name(m->a->other)) {
        return read_network(m);
    }
    if (stat(m->a->other, &st) != 0 || !S_ISDIR(st.st_mode)) {
        m->w = kd_checkpoint_file_read(m->a->other, &t);
        return m->w || kdc_cli_trouble(m->p, &t);
    }
    m->w = kd_checkpoint_read(m->a->other, &step, &path, note, sizeof note, &t);
    free(path);
    if (!m->w && !*t.text) {
        kd_trouble(&t, false, "%s is a folder without a checkpoint of kdc train", m->a->other);
    }
    if (*note) {
        kd_warning(m->p->cx, 0, "%s", note);
    }
    return m->w || kdc_cli_trouble(m->p, &t);
}

static bool work(Import *m) {
    KdContext *cx = m->p->cx;
    size_t n = before_name(m->a->other);
    const char *const inputs[] = {n ? kd_intern(cx, m->a->other, n) : m->a->other, m->a->map};
    if (!kdc_cli_spares(m->p, m->a, m->a->output, inputs, KD_COUNT(inputs)) || !find_weights(m)) {
        return false;
    }
    if (!read_checkpoint(m)) {
        return false;
    }
    m->from = KD_NEW_ARRAY(cx, const KdTensor *, m->t.n + 1);
    m->how = KD_NEW_ARRAY(cx, const char *, m->t.n + 1);
    m->kept = (KdWeights){.n = m->w->n, .tensor = KD_NEW_ARRAY(cx, KdTensor, m->w->n + 1)};
    memcpy(m->kept.tensor, m->w->tensor, sizeof *m->w->tensor * (size_t)m->w->n);
    if ((m->a->map && !read_map(m)) || !match_rest(m)) {
        return false;
    }
    for (int i = 0; i < m->t.n; i++) {
        if (!kdc_load_tensor(m->p, m->t.v[i], m->from[i], m->a->other)) {
            return false;
        }
    }
    if (!write_out(m)) {
        return false;
    }
    if (!m->a->quiet) {
        print_map(m);
        print_unused(m);
    }
    return true;
}

int kdc_cmd_import(const KdcArgs *a) {
    KdcWatch w;
    int code;
    if (!a->name) {
        return kdc_usage_error(a, "which network of %s? name it: %s:NET", a->file, a->file);
    }
    if (!a->output) {
        return kdc_usage_error(a, "where to? -o W.safetensors");
    }
    KdcProgram *p = kdc_cli_open(a, &w, &code);
    if (!p) {
        return code;
    }
    w.unit = a->name;
    Import m = {.a = a, .p = p};
    volatile bool ok = false;
    KdLanding l;
    if (KD_TRY(p->cx, l)) {
        ok = work(&m);
        kd_landing_pop(p->cx);
    } else {
        kdc_failed(p);
    }
    kd_weights_free(m.w);
    kdc_settle(p, 0);
    return kdc_cli_close(a, &w, p, ok);
}
