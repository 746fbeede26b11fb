/* pth.c: see pth.h.
 *
 * The pickle (pickle.c) says which tensors there are and which storages they lie in; here the storages' bytes are
 * found, in zip entries or behind the pickles, and their lengths held against what the pickle says. Then the tensors
 * are copied by their strides into one block, whose size is known and bounded before it is allocated.
 */
#include "runtime/host/pth.h"
#include "runtime/host/checkpoint.h"
#include "runtime/host/pickle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#define MAX_DEPTH 32       /* dicts in dicts */
#define MAX_NAME 1000      /* bytes of a tensor's path */
#define MAX_TENSORS 200000
#define MAX_VISITS 4000000 /* values looked at: a dict may stand in many places */
#define MAX_ENTRIES 1000000

/* ---- the tensors of a tree -------------------------------------------------------------------------- */

typedef struct Found {
    char *name;
    int top; /* item of the outermost dict that it is in */
    const KdPickleTensor *x;
} Found;

typedef struct Walk {
    const char *from;
    KdTrouble *t;
    Found *found;
    int n, room, visits, top;
    char name[MAX_NAME + 1];
} Walk;

/* UTF-8 in its shortest form, no surrogates, no control characters. */
static bool is_name(const unsigned char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        unsigned char c = s[i++];
        int more = c < 0x80 ? 0
                   : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : -1;
        uint32_t v = more > 0 ? c & (0x3fu >> more) : c;
        for (int k = 0; k < more; k++, i++) {
            if (i == n || (s[i] & 0xc0) != 0x80) {
                return false;
            }
            v = v << 6 | (s[i] & 0x3fu);
        }
        if (more < 0 || v < 0x20 || (v >= 0x7f && v < 0xa0) ||
            (more == 2 && (v < 0x800 || (v >= 0xd800 && v < 0xe000))) ||
            (more == 3 && (v < 0x10000 || v > 0x10ffff))) {
            return false;
        }
    }
    return true;
}

static bool add_found(Walk *w, size_t length, const KdPickleTensor *x) {
    if (w->n == MAX_TENSORS) {
        return kd_trouble(w->t, false, "%s: more than %d tensors", w->from, MAX_TENSORS);
    }
    if (w->n == w->room) {
        int more = w->room ? 2 * w->room : 64;
        Found *grown = realloc(w->found, sizeof *grown * (size_t)more);
        if (!grown) {
            return kd_trouble(w->t, true, "%s: out of memory", w->from);
        }
        w->found = grown;
        w->room = more;
    }
    char *name = length ? strndup(w->name, length) : strdup("tensor"); /* a tensor that was saved alone */
    if (!name) {
        return kd_trouble(w->t, true, "%s: out of memory", w->from);
    }
    w->found[w->n++] = (Found){name, w->top, x};
    return true;
}

/* The key behind the path so far. 0: no key that a path can have; -1 after a message. */
static int add_key(Walk *w, size_t *length, const KdPickleValue *key) {
    char digits[32];
    const char *text = key->text;
    size_t n = (size_t)key->n;
    if (key->kind == KD_PICKLE_INT) {
        n = (size_t)snprintf(digits, sizeof digits, "%" PRId64, key->i);
        text = digits;
    } else if (key->kind != KD_PICKLE_TEXT) {
        return 0;
    }
    if (!n || !is_name((const unsigned char *)text, n)) {
        kd_trouble(w->t, false, "%s: a name under '%.*s' is empty, no UTF-8, or has control characters", w->from,
                   (int)(*length < 100 ? *length : 100), w->name);
        return -1;
    }
    if (*length + n + 1 > MAX_NAME) {
        kd_trouble(w->t, false, "%s: a name of more than %d bytes, beginning '%.60s'", w->from, MAX_NAME, w->name);
        return -1;
    }
    if (*length) {
        w->name[(*length)++] = '.';
    }
    memcpy(w->name + *length, text, n);
    *length += n;
    w->name[*length] = 0;
    return 1;
}

static bool may_hold(const KdPickleValue *v) {
    return v->kind == KD_PICKLE_DICT || v->kind == KD_PICKLE_LIST ||
           v->kind == KD_PICKLE_TUPLE || v->kind == KD_PICKLE_TENSOR;
}

static bool walk(Walk *w, const KdPickleValue *v, size_t length, int depth) {
    if (v->kind == KD_PICKLE_TENSOR) {
        return add_found(w, length, v->tensor);
    }
    if (depth == MAX_DEPTH) {
        return kd_trouble(w->t, false, "%s: dicts and lists are nested more than %d deep", w->from, MAX_DEPTH);
    }
    int pair = v->kind == KD_PICKLE_DICT ? 2 : 1;
    for (int i = 0; i < v->n; i += pair) {
        const KdPickleValue *x = v->item[i + pair - 1], at = {.kind = KD_PICKLE_INT, .i = i};
        if (++w->visits > MAX_VISITS) {
            return kd_trouble(w->t, false, "%s: more than %d values", w->from, MAX_VISITS);
        }
        w->top = depth ? w->top : i;
        if (!may_hold(x)) { /* epoch numbers, configurations */
            continue;
        }
        size_t n = length;
        int key = add_key(w, &n, pair == 2 ? v->item[i] : &at);
        if (key < 0 || (key > 0 && !walk(w, x, n, depth + 1))) {
            return false;
        }
    }
    return true;
}

static bool is_text(const KdPickleValue *v, const char *text) {
    return v->kind == KD_PICKLE_TEXT && strlen(text) == (size_t)v->n && memcmp(v->text, text, (size_t)v->n) == 0;
}

/* Where all tensors come from one entry of the outermost dict, a dict whose name says no more than that, that name is
 * left out of theirs. */
static void unwrap(Walk *w, const KdPickleValue *root) {
    static const char *const names[] = {"state_dict", "params", "params_ema", "model", "net", "generator"};
    bool wraps = false;
    for (int i = 1; i < w->n; i++) {
        if (w->found[i].top != w->found[0].top) {
            return;
        }
    }
    if (root->kind != KD_PICKLE_DICT || root->item[w->found[0].top + 1]->kind != KD_PICKLE_DICT) {
        return;
    }
    const KdPickleValue *key = root->item[w->found[0].top];
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        wraps = wraps || is_text(key, names[k]);
    }
    for (int i = 0; wraps && i < w->n; i++) {
        char *rest = w->found[i].name + key->n + 1;
        memmove(w->found[i].name, rest, strlen(rest) + 1);
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool names_differ(Walk *w) {
    const char **name = malloc(sizeof *name * (size_t)(w->n + 1));
    if (!name) {
        return kd_trouble(w->t, true, "%s: out of memory", w->from);
    }
    for (int i = 0; i < w->n; i++) {
        name[i] = w->found[i].name;
    }
    qsort(name, (size_t)w->n, sizeof *name, by_name);
    const char *twice = NULL;
    for (int i = 1; i < w->n && !twice; i++) {
        twice = strcmp(name[i - 1], name[i]) == 0 ? name[i] : NULL;
    }
    free(name);
    return !twice || kd_trouble(w->t, false, "%s: two tensors are called '%.200s'", w->from, twice);
}

static bool find_tensors(Walk *w, const KdPickleValue *root) {
    if (!walk(w, root, 0, 0)) {
        return false;
    }
    if (!w->n) {
        return kd_trouble(w->t, false, "%s: there is no tensor in it", w->from);
    }
    unwrap(w, root);
    return names_differ(w);
}

/* ---- tensors from storages -------------------------------------------------------------------------- */

/* Elements of x, by its strides, the last dimension first in count: row by row. */
static void copy_strided(unsigned char *out, const unsigned char *in, const KdPickleTensor *x, size_t size) {
    int64_t index[KD_PICKLE_MAX_RANK] = {0}, at = x->offset;
    for (int64_t i = 0; i < x->count; i++) {
        memcpy(out, in + (size_t)at * size, size);
        out += size;
        for (int d = x->rank - 1; d >= 0; d--) {
            at += x->stride[d];
            if (++index[d] < x->dim[d]) {
                break;
            }
            at -= x->stride[d] * x->dim[d];
            index[d] = 0;
        }
    }
}

static bool is_contiguous(const KdPickleTensor *x) {
    int64_t stride = 1;
    for (int d = x->rank - 1; d >= 0; d--) {
        if (x->dim[d] != 1 && x->stride[d] != stride) {
            return false;
        }
        stride *= x->dim[d];
    }
    return true;
}

static size_t aligned(size_t n) {
    return (n + 7) / 8 * 8;
}

/* Bytes of the block: dims, then names, then data, each tensor at a multiple of 8. 0 after a message. Tensors may share
 * storages, so that a small file could ask for much: together they are at most four times what it holds. */
static size_t block_size(const Walk *w, const KdPickle *p) {
    size_t held = (size_t)64 << 20, total = 0, rest = 0;
    for (int i = 0; i < p->n_storages; i++) {
        held += 4 * (size_t)p->storage[i].count * (size_t)kd_stored_size(p->storage[i].dtype);
    }
    for (int i = 0; i < w->n; i++) {
        const KdPickleTensor *x = w->found[i].x;
        size_t bytes = (size_t)x->count * (size_t)kd_stored_size(p->storage[x->storage].dtype); /* below 2^63 */
        if (bytes > held || total > held - bytes) {
            kd_trouble(w->t, false, "%s: tensor %.200s: the tensors together are more than four times what the file holds",
                       w->from, w->found[i].name);
            return 0;
        }
        total += bytes;
        rest += 8 + sizeof(int64_t) * (size_t)x->rank + strlen(w->found[i].name) + 1;
    }
    return total + rest + 16;
}

/* data[i]: the bytes of storage i, all of them there. */
static KdWeights *weights_of(const Walk *w, const KdPickle *p, const unsigned char *const *data) {
    size_t size = block_size(w, p);
    if (!size) {
        return NULL;
    }
    unsigned char *block = malloc(size), *at = block;
    KdTensor *tensor = calloc((size_t)w->n + 1, sizeof *tensor);
    KdWeights *r = block && tensor ? kd_weights_new(tensor, w->n, block) : NULL;
    if (!r) {
        free(block);
        free(tensor);
        kd_trouble(w->t, true, "%s: out of memory", w->from);
        return NULL;
    }
    for (int i = 0; i < w->n; i++) {
        const KdPickleTensor *x = w->found[i].x;
        tensor[i] = (KdTensor){.dtype = p->storage[x->storage].dtype, .rank = x->rank, .count = x->count};
        if (x->rank) {
            memcpy(at, x->dim, sizeof *x->dim * (size_t)x->rank);
        }
        tensor[i].dim = (const int64_t *)(void *)at;
        at += sizeof *x->dim * (size_t)x->rank;
    }
    for (int i = 0; i < w->n; i++) {
        size_t n = strlen(w->found[i].name) + 1;
        tensor[i].name = memcpy(at, w->found[i].name, n);
        at += n;
    }
    for (int i = 0; i < w->n; i++) {
        const KdPickleTensor *x = w->found[i].x;
        size_t element = (size_t)kd_stored_size(tensor[i].dtype);
        at = block + aligned((size_t)(at - block));
        if (x->count && is_contiguous(x)) {
            memcpy(at, data[x->storage] + (size_t)x->offset * element, (size_t)x->count * element);
        } else if (x->count) {
            copy_strided(at, data[x->storage], x, element);
        }
        tensor[i].data = at;
        at += (size_t)x->count * element;
    }
    return r;
}

static void walk_free(Walk *w) {
    for (int i = 0; i < w->n; i++) {
        free(w->found[i].name);
    }
    free(w->found);
}

/* ---- zip -------------------------------------------------------------------------------------------- */

typedef struct Zip {
    const char *from;
    KdTrouble *t;
    zip_t *z;
    char *folder; /* "archive/" */
    uint64_t size; /* of the file */
} Zip;

/* Checks that no two entries have one name and finds the one data.pkl, and with it the folder. */
static bool find_pickle(Zip *z) {
    zip_int64_t n = zip_get_num_entries(z->z, 0);
    if (n > MAX_ENTRIES) {
        return kd_trouble(z->t, false, "%s: %lld zip entries are too many", z->from, (long long)n);
    }
    for (zip_int64_t i = 0; i < n; i++) {
        const char *name = zip_get_name(z->z, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        size_t length = name ? strlen(name) : 0;
        if (!name || zip_name_locate(z->z, name, ZIP_FL_ENC_RAW) != i) {
            return kd_trouble(z->t, false, "%s: two zip entries have one name", z->from);
        }
        if (length < 9 || strcmp(name + length - 9, "/data.pkl") != 0) {
            continue;
        }
        if (z->folder) {
            return kd_trouble(z->t, false, "%s: two zip entries are called data.pkl", z->from);
        }
        z->folder = strndup(name, length - 8);
        if (!z->folder) {
            return kd_trouble(z->t, true, "%s: out of memory", z->from);
        }
    }
    return z->folder || kd_trouble(z->t, false, "%s: a zip file without data.pkl, so no PyTorch checkpoint", z->from);
}

/* Whole entry folder + name, its CRC checked; most: more bytes are refused. NULL after a message; absent: may it be
 * missing? Then NULL with *n 0 and no message. */
static unsigned char *entry(const Zip *z, const char *name, size_t most, bool absent, size_t *n) {
    char path[600];
    zip_stat_t s;
    *n = 0;
    if ((size_t)snprintf(path, sizeof path, "%s%s", z->folder, name) >= sizeof path) {
        kd_trouble(z->t, false, "%s: the zip's folder has too long a name", z->from);
        return NULL;
    }
    if (zip_stat(z->z, path, ZIP_FL_ENC_RAW, &s) != 0) {
        if (!absent) {
            kd_trouble(z->t, false, "%s: zip entry %.200s is missing", z->from, path);
        }
        return NULL;
    }
    bool stored = s.comp_method == ZIP_CM_STORE;
    if (!(s.valid & ZIP_STAT_SIZE) || !(s.valid & ZIP_STAT_COMP_SIZE) || (!stored && s.comp_method != ZIP_CM_DEFLATE)) {
        kd_trouble(z->t, false, "%s: zip entry %.200s is neither stored nor deflated", z->from, path);
        return NULL;
    }
    /* Deflate makes at most 1032 bytes of one. */
    if (s.comp_size > z->size || s.size > most || (stored ? s.size != s.comp_size : s.size / 1032 > s.comp_size)) {
        kd_trouble(z->t, false, "%s: zip entry %.200s: %" PRIu64 " bytes are not possible", z->from, path,
                   (uint64_t)s.size);
        return NULL;
    }
    zip_file_t *f = zip_fopen(z->z, path, ZIP_FL_ENC_RAW);
    unsigned char *data = f ? malloc((size_t)s.size + 1) : NULL, more;
    zip_uint64_t got = 0;
    zip_int64_t k = -1;
    while (data && got < s.size && (k = zip_fread(f, data + got, s.size - got)) > 0) {
        got += (zip_uint64_t)k;
    }
    /* The CRC is checked where reading comes to the end. */
    if (data && (got != s.size || zip_fread(f, &more, 1) != 0)) {
        kd_trouble(z->t, false, "%s: zip entry %.200s is damaged: %.100s", z->from, path,
                   k < 0 || got == s.size ? zip_file_strerror(f) : "cut off");
        free(data);
        data = NULL;
    } else if (!data) {
        kd_trouble(z->t, f != NULL, "%s: zip entry %.200s: %.100s", z->from, path,
                   f ? "out of memory" : zip_strerror(z->z));
    }
    if (f) {
        zip_fclose(f);
    }
    *n = data ? (size_t)s.size : 0;
    return data;
}

static bool little_endian(const Zip *z) {
    size_t n = 0;
    *z->t = (KdTrouble){0};
    char *order = (char *)entry(z, "byteorder", 64, true, &n);
    if (!order) {
        return !z->t->text[0]; /* older files have none */
    }
    bool little = n >= 6 && memcmp(order, "little", 6) == 0 && (n == 6 || (n == 7 && order[6] == '\n'));
    free(order);
    return little || kd_trouble(z->t, false, "%s: its byte order is not 'little'", z->from);
}

static bool zip_storages(const Zip *z, const KdPickle *p, unsigned char **data) {
    for (int i = 0; i < p->n_storages; i++) {
        const KdPickleStorage *s = &p->storage[i];
        char name[40];
        size_t n, expected = (size_t)s->count * (size_t)kd_stored_size(s->dtype);
        snprintf(name, sizeof name, "data/%" PRIu64, s->key);
        data[i] = entry(z, name, SIZE_MAX / 2, false, &n);
        if (!data[i]) {
            return false;
        }
        if (n != expected) {
            return kd_trouble(z->t, false, "%s: zip entry %s%s has %zu bytes, the pickle says %" PRId64 " of %s",
                              z->from,
                              z->folder, name, n, s->count, kd_stored_name(s->dtype));
        }
    }
    return true;
}

static KdWeights *zip_weights(Zip *z) {
    size_t n = 0, used = 0;
    unsigned char *pickle = find_pickle(z) && little_endian(z)
                                ? entry(z, "data.pkl", KD_PICKLE_MAX_BYTES, false, &n)
                                : NULL;
    if (!pickle) {
        return NULL;
    }
    KdPickle p = {.from = z->from};
    Walk w = {.from = z->from, .t = z->t};
    KdWeights *r = NULL;
    unsigned char **data = NULL;
    const KdPickleValue *root = kd_pickle_read(&p, pickle, n, &used, z->t);
    if (root && used != n) {
        kd_trouble(z->t, false, "%s: %zu bytes after the pickle's end", z->from, n - used);
    } else if (root && find_tensors(&w, root)) {
        data = calloc((size_t)p.n_storages + 1, sizeof *data);
        if (!data) {
            kd_trouble(z->t, true, "%s: out of memory", z->from);
        } else if (zip_storages(z, &p, data)) {
            r = weights_of(&w, &p, (const unsigned char *const *)data);
        }
    }
    for (int i = 0; data && i < p.n_storages; i++) {
        free(data[i]);
    }
    free(data);
    free(pickle);
    walk_free(&w);
    kd_pickle_free(&p);
    return r;
}

static KdWeights *read_zip(const char *path, uint64_t size, KdTrouble *t) {
    int code = 0;
    Zip z = {.from = path, .t = t, .size = size};
    z.z = zip_open(path, ZIP_RDONLY | ZIP_CHECKCONS, &code);
    if (!z.z) {
        zip_error_t e;
        zip_error_init_with_code(&e, code);
        kd_trouble(t, code == ZIP_ER_MEMORY || code == ZIP_ER_OPEN, "%s: not a zip file that can be read: %.200s", path,
                   zip_error_strerror(&e));
        zip_error_fini(&e);
        return NULL;
    }
    KdWeights *r = zip_weights(&z);
    free(z.folder);
    zip_discard(z.z);
    return r;
}

/* ---- legacy ----------------------------------------------------------------------------------------- */

/* The first pickle, the number 0x1950a86a20f9469cfc6c, as it always stands there. */
static const unsigned char legacy_magic[] = {0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46,
                                              0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};

typedef struct Legacy {
    const char *from;
    KdTrouble *t;
    const unsigned char *data;
    size_t n, at;
    KdPickle p;
} Legacy;

static const KdPickleValue *next_pickle(Legacy *l) {
    size_t used = 0;
    const KdPickleValue *v = kd_pickle_read(&l->p, l->data + l->at, l->n - l->at, &used, l->t);
    l->at += used;
    return v;
}

/* Protocol 1001 and a dict that says whether the machine was little-endian. */
static bool legacy_header(Legacy *l) {
    const KdPickleValue *v = next_pickle(l);
    if (!v || v->kind != KD_PICKLE_INT || v->i != 1001) {
        return v && kd_trouble(l->t, false, "%s: a legacy checkpoint of another protocol than 1001", l->from);
    }
    v = next_pickle(l);
    if (!v || v->kind != KD_PICKLE_DICT) {
        return v && kd_trouble(l->t, false, "%s: the legacy checkpoint says nothing about its system", l->from);
    }
    for (int i = 0; i < v->n; i += 2) {
        if (is_text(v->item[i], "little_endian") && v->item[i + 1]->kind == KD_PICKLE_BOOL && v->item[i + 1]->i) {
            return true;
        }
    }
    return kd_trouble(l->t, false, "%s: its byte order is not little-endian", l->from);
}

/* For each key of the list: int64 count, elements. */
static bool legacy_storages(Legacy *l, const unsigned char **data) {
    const KdPickleValue *keys = next_pickle(l);
    if (!keys || keys->kind != KD_PICKLE_LIST) {
        return keys && kd_trouble(l->t, false, "%s: no list of storages after the tensors", l->from);
    }
    for (int i = 0; i < keys->n; i++) {
        const KdPickleValue *k = keys->item[i];
        uint64_t key, count = 0;
        int s = k->kind == KD_PICKLE_TEXT && kd_pickle_key(k->text, k->n, &key) ? kd_pickle_storage(&l->p, key) : -1;
        if (s < 0 || data[s]) {
            return kd_trouble(l->t, false, "%s: entry %d of its list of storages is of no tensor, or is there twice",
                              l->from, i);
        }
        if (l->n - l->at < 8) {
            return kd_trouble(l->t, false, "%s: cut off before storage %" PRIu64, l->from, key);
        }
        for (int b = 7; b >= 0; b--) {
            count = count << 8 | l->data[l->at + (size_t)b];
        }
        l->at += 8;
        const KdPickleStorage *known = &l->p.storage[s];
        size_t element = (size_t)kd_stored_size(known->dtype);
        if (count != (uint64_t)known->count) {
            return kd_trouble(l->t, false, "%s: storage %" PRIu64 " has %" PRIu64 " elements, the pickle says %" PRId64,
                              l->from,
                              key, count, known->count);
        }
        if (count > (l->n - l->at) / element) {
            return kd_trouble(l->t, false, "%s: cut off inside storage %" PRIu64, l->from, key);
        }
        data[s] = l->data + l->at;
        l->at += (size_t)count * element;
    }
    for (int i = 0; i < l->p.n_storages; i++) {
        if (!data[i]) {
            return kd_trouble(l->t, false, "%s: storage %" PRIu64 " is missing", l->from, l->p.storage[i].key);
        }
    }
    return l->at == l->n ||
           kd_trouble(l->t, false, "%s: %zu bytes after the last storage belong to nothing", l->from, l->n - l->at);
}

static KdWeights *read_legacy(const char *path, KdTrouble *t) {
    Legacy l = {.from = path, .t = t, .at = sizeof legacy_magic, .p = {.from = path}};
    char *file = kd_file_read(path, &l.n, t);
    if (!file) {
        return NULL;
    }
    l.data = (const unsigned char *)file;
    KdWeights *r = NULL;
    Walk w = {.from = path, .t = t};
    const unsigned char **data = NULL;
    if (l.n < sizeof legacy_magic || memcmp(file, legacy_magic, sizeof legacy_magic) != 0) {
        kd_trouble(t, false, "%s: begins like a PyTorch legacy checkpoint, but is none", path);
    } else if (legacy_header(&l)) {
        const KdPickleValue *root = next_pickle(&l);
        data = root ? calloc((size_t)l.p.n_storages + 1, sizeof *data) : NULL;
        if (root && !data) {
            kd_trouble(t, true, "%s: out of memory", path);
        } else if (root && find_tensors(&w, root) && legacy_storages(&l, data)) {
            r = weights_of(&w, &l.p, data);
        }
    }
    free(data);
    free(file);
    walk_free(&w);
    kd_pickle_free(&l.p);
    return r;
}

/* ---- by content ------------------------------------------------------------------------------------- */

typedef enum Form { FORM_ZIP, FORM_LEGACY, FORM_TAR, FORM_OTHER, FORM_NONE } Form;

/* FORM_NONE after a message. */
static Form form_of(const char *path, uint64_t *size, KdTrouble *t) {
    unsigned char head[512] = {0};
    if (!kd_file_plain(path, t)) { /* it is opened twice */
        return FORM_NONE;
    }
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    bool ok = f && !ferror(f) && fseek(f, 0, SEEK_END) == 0;
    long end = ok ? ftell(f) : 0;
    if (f) {
        fclose(f);
    }
    if (!ok) {
        size_t length; /* says what is wrong */
        char *data = kd_file_read(path, &length, t);
        if (data) {
            free(data);
            kd_trouble(t, true, "%s: cannot be read", path);
        }
        return FORM_NONE;
    }
    *size = (uint64_t)(end < 0 ? 0 : end);
    return n >= 4 && memcmp(head, "PK\3\4", 4) == 0        ? FORM_ZIP
           : n >= 4 && memcmp(head, legacy_magic, 4) == 0  ? FORM_LEGACY
           : n >= 262 && memcmp(head + 257, "ustar", 5) == 0 ? FORM_TAR
                                                            : FORM_OTHER;
}

static KdWeights *read_form(const char *path, Form form, uint64_t size, KdTrouble *t) {
    switch (form) {
    case FORM_ZIP:
        return read_zip(path, size, t);
    case FORM_LEGACY:
        return read_legacy(path, t);
    case FORM_TAR:
        kd_trouble(t, false, "%s: a tar file, PyTorch's form before 2017, is not read; load and save it with a newer PyTorch",
                   path);
        return NULL;
    case FORM_OTHER:
        kd_trouble(t, false, "%s: not a PyTorch checkpoint: neither zip nor legacy form", path);
        return NULL;
    case FORM_NONE:
        return NULL;
    }
    return NULL;
}

KdWeights *kd_pth_read(const char *path, KdTrouble *t) {
    uint64_t size = 0;
    Form form = form_of(path, &size, t);
    return read_form(path, form, size, t);
}

KdWeights *kd_checkpoint_file_read(const char *path, KdTrouble *t) {
    uint64_t size = 0;
    Form form = form_of(path, &size, t);
    if (form != FORM_OTHER) {
        return read_form(path, form, size, t);
    }
    KdWeights *w = kd_weights_read(path, t);
    if (w && !kd_checkpoint_sum_ok(path, w, t)) {
        kd_weights_free(w);
        w = NULL;
    }
    return w;
}

/* ---- writing ---------------------------------------------------------------------------------------- */

/* Bytes that grow; failed: there was no memory. */
typedef struct Out {
    unsigned char *p;
    size_t n, room;
    bool failed;
} Out;

static void put(Out *o, const void *p, size_t n) {
    if (n > o->room - o->n) {
        size_t room = 2 * (o->n + n) + 256;
        unsigned char *grown = o->failed ? NULL : realloc(o->p, room);
        if (!grown) {
            o->failed = true;
            return;
        }
        o->p = grown;
        o->room = room;
    }
    memcpy(o->p + o->n, p, n);
    o->n += n;
}

static void put_text(Out *o, const char *text) {
    put(o, text, strlen(text));
}

static void put_little(Out *o, uint64_t v, int n) {
    unsigned char b[8];
    for (int i = 0; i < n; i++) {
        b[i] = (unsigned char)(v >> 8 * i);
    }
    put(o, b, (size_t)n);
}

static void put_unicode(Out *o, const char *text) {
    put_text(o, "X");
    put_little(o, strlen(text), 4);
    put_text(o, text);
}

static void put_int(Out *o, int64_t v) {
    if (v <= INT32_MAX) {
        put_text(o, "J");
        put_little(o, (uint64_t)v, 4);
    } else {
        put(o, "\x8a\x08", 2);
        put_little(o, (uint64_t)v, 8);
    }
}

/* name, _rebuild_tensor_v2(('storage', type, key, 'cpu', count), 0, size, stride, False, OrderedDict()) */
static void put_tensor(Out *o, const KdTensorOut *x, int key) {
    char text[32];
    int64_t count = 1, stride = 1;
    for (int d = 0; d < x->rank; d++) {
        count *= x->dim[d];
    }
    put_unicode(o, x->name);
    put_text(o, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_unicode(o, "storage");
    put_text(o, "ctorch\n");
    put_text(o, kd_pickle_storage_name(x->dtype));
    put_text(o, "\n");
    snprintf(text, sizeof text, "%d", key);
    put_unicode(o, text);
    put_unicode(o, "cpu");
    put_int(o, count);
    put_text(o, "tQ");
    put_int(o, 0);
    put_text(o, "(");
    for (int d = 0; d < x->rank; d++) {
        put_int(o, x->dim[d]);
    }
    put_text(o, "t(");
    for (int d = 0; d < x->rank; d++) {
        stride = 1;
        for (int k = d + 1; k < x->rank; k++) {
            stride *= x->dim[k] ? x->dim[k] : 1;
        }
        put_int(o, stride);
    }
    put_text(o, "t\x89" "ccollections\nOrderedDict\n)RtR");
}

/* The elements little-endian: x's own bytes, or a swapped copy that *copy frees. NULL: no memory. */
static const void *little_elements(const KdTensorOut *x, size_t n, void **copy) {
    const uint16_t probe = 1;
    size_t size = (size_t)kd_stored_size(x->dtype);
    *copy = NULL;
    if (size == 1 || *(const unsigned char *)&probe == 1) {
        return x->data;
    }
    unsigned char *out = *copy = malloc(n + 1);
    for (size_t i = 0; out && i < n; i++) {
        out[i] = ((const unsigned char *)x->data)[i / size * size + size - 1 - i % size];
    }
    return out;
}

/* An entry "archive/NAME", stored, without a date: the same tensors are the same bytes. Takes `data`, malloc'ed, when
 * owned. */
static bool add_entry(zip_t *z, const char *name, const void *data, size_t n, bool owned) {
    char path[64];
    snprintf(path, sizeof path, "archive/%s", name);
    zip_source_t *s = zip_source_buffer(z, data, n, owned);
    if (!s) {
        if (owned) {
            free((void *)(uintptr_t)data);
        }
        return false;
    }
    zip_int64_t i = zip_file_add(z, path, s, ZIP_FL_ENC_UTF_8);
    if (i < 0) {
        zip_source_free(s);
        return false;
    }
    return zip_set_file_compression(z, (zip_uint64_t)i, ZIP_CM_STORE, 0) == 0 &&
           zip_file_set_dostime(z, (zip_uint64_t)i, 0, 0x21, 0) == 0; /* 1980-01-01 */
}

static bool add_tensors(zip_t *z, const KdTensorOut *x, int n) {
    Out o = {0};
    put_text(&o, "\x80\x02" "ccollections\nOrderedDict\n)R(");
    for (int i = 0; i < n; i++) {
        put_tensor(&o, &x[i], i);
    }
    put_text(&o, "u.");
    if (o.failed) {
        free(o.p);
        return false;
    }
    if (!add_entry(z, "data.pkl", o.p, o.n, true) || !add_entry(z, "byteorder", "little", 6, false)) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        char name[32];
        void *copy;
        size_t bytes = (size_t)kd_stored_size(x[i].dtype);
        for (int d = 0; d < x[i].rank; d++) {
            bytes *= (size_t)x[i].dim[d];
        }
        const void *data = little_elements(&x[i], bytes, &copy);
        snprintf(name, sizeof name, "data/%d", i);
        if ((bytes && !data) || !add_entry(z, name, data, bytes, copy != NULL)) {
            return false;
        }
    }
    return add_entry(z, "version", "3\n", 2, false);
}

/* The whole zip in memory, in a source that has to be freed. NULL: no memory. */
static zip_source_t *zip_in_memory(const KdTensorOut *x, int n) {
    zip_error_t e;
    zip_error_init(&e);
    zip_source_t *s = zip_source_buffer_create(NULL, 0, 0, &e);
    zip_t *z = s ? zip_open_from_source(s, ZIP_TRUNCATE, &e) : NULL;
    if (z) {
        zip_source_keep(s); /* beyond the archive */
        if (add_tensors(z, x, n) && zip_close(z) == 0) {
            zip_error_fini(&e);
            return s;
        }
        zip_discard(z);
    }
    if (s) {
        zip_source_free(s);
    }
    zip_error_fini(&e);
    return NULL;
}

bool kd_pth_write(const char *path, const KdTensorOut *x, int n, KdTrouble *t) {
    for (int i = 0; i < n; i++) {
        if (!is_name((const unsigned char *)x[i].name, strlen(x[i].name)) || !kd_pickle_storage_name(x[i].dtype)) {
            return kd_trouble(t, false, "cannot write %s: tensor %d has a name that is not UTF-8, or a type PyTorch has not",
                              path, i);
        }
    }
    zip_source_t *s = zip_in_memory(x, n);
    if (!s || zip_source_open(s) != 0) {
        if (s) {
            zip_source_free(s);
        }
        return kd_trouble(t, true, "%s: out of memory", path);
    }
    KdFileOut *f = kd_file_begin(path, t);
    unsigned char buffer[65536];
    zip_int64_t k = 0;
    while (f && (k = zip_source_read(s, buffer, sizeof buffer)) > 0) {
        kd_file_put(f, buffer, (size_t)k);
    }
    zip_source_close(s);
    zip_source_free(s);
    if (!f) {
        return false;
    }
    if (k < 0) {
        kd_file_abandon(f);
        return kd_trouble(t, true, "%s: out of memory", path);
    }
    return kd_file_commit(f, t);
}
