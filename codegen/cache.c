/* cache.c: compiled objects, kept between runs.
 *
 * One file holds all objects of one module: FOLDER/KEY.kdo, where KEY is the hash of everything the machine code
 * depends on: kernels and plan, target, level, this code generator's own text, LLVM's version. (Constants are not in
 * the objects, so they are not in the key.) A file is written under a temporary name and renamed, so readers in other
 * processes see all of it or nothing; its checksum turns a damaged one into a miss. A cache may always fail: then
 * the caller compiles.
 *
 * File, native byte order: Header, n sizes (uint64_t), the objects one after the other.
 */
#include "codegen/internal.h"
#include "codegen/version.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Header {
    char magic[8];
    uint64_t n;           /* objects */
    uint64_t bytes;       /* all that follows the header */
    uint64_t checksum[2]; /* of that, with two seeds */
} Header;

static const char magic[8] = "kdobj 1";

void kd_objects_free(KdObjects *o) {
    for (int i = 0; i < o->n; i++)
        free(o->object[i].bytes);
    free(o->object);
    *o = (KdObjects){0};
}

const char *kd_cache_folder(KdContext *cx) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && xdg[0] == '/')
        return kd_intern_z(cx, kd_format(cx, "%s/kdc", xdg));
    return home && home[0] == '/' ? kd_intern_z(cx, kd_format(cx, "%s/.cache/kdc", home)) : NULL;
}

/* ---- keys -------------------------------------------------------------------------------------- */

typedef struct Key {
    uint64_t a, b;
} Key;

static void add_bytes(Key *k, const void *p, size_t n) {
    k->a = kd_hash_bytes(p, n, k->a);
    k->b = kd_hash_bytes(p, n, k->b);
}

static void add_text(Key *k, const char *s) { add_bytes(k, s, strlen(s) + 1); }

static void add_number(Key *k, int64_t n) { add_bytes(k, &n, sizeof n); }

/* Everything of a kernel that code depends on: what its text holds but for names. (The text itself takes longer to print
 * than the objects to load.) Structs have padding, so fields go in one by one. */
static void add_block(Key *key, const KlBlock *b) {
    add_number(key, b->params.n);
    if (b->params.n)
        add_bytes(key, b->params.v, (size_t)b->params.n * sizeof *b->params.v);
    add_number(key, b->instrs.n);
    for (int i = 0; i < b->instrs.n; i++) {
        const KlInstr *in = b->instrs.v[i];
        int64_t fields[] = {in->op,     in->n_in, in->n_results, in->type.scalar, in->type.lanes,
                            in->result, in->imm,  in->unroll,    in->body != NULL, in->shuffle != NULL};
        add_bytes(key, fields, sizeof fields);
        add_bytes(key, &in->fimm, sizeof in->fimm);
        if (in->n_in)
            add_bytes(key, in->in, in->n_in * sizeof *in->in);
        if (in->shuffle)
            add_bytes(key, in->shuffle, in->type.lanes * sizeof *in->shuffle);
        if (in->body)
            add_block(key, in->body);
    }
}

static void add_kernel(Key *key, const KlKernel *k) {
    add_number(key, k->range);
    add_number(key, k->grain);
    add_number(key, k->types.n);
    for (int i = 0; i < k->bufs.n; i++) {
        int64_t fields[] = {k->bufs.v[i].dtype, k->bufs.v[i].count, k->bufs.v[i].access};
        add_bytes(key, fields, sizeof fields);
    }
    add_block(key, &k->body);
}

static void add_plan(Key *key, const KlModule *m) {
    add_number(key, m->externs.n);
    add_number(key, m->arena);
    add_number(key, m->pool.n);
    for (int c = 0; c < m->calls.n; c++) {
        const KlCall *call = &m->calls.v[c];
        const KlKernel *k = m->kernels.v[call->kernel];
        int n = 0;
        for (int i = 0; i < k->bufs.n; i++)
            n += k->bufs.v[i].access != KL_SCRATCH;
        add_number(key, call->kernel);
        add_number(key, call->once);
        for (int a = 0; a < n; a++) {
            add_number(key, call->args[a].kind);
            add_number(key, call->args[a].index);
            add_number(key, call->args[a].offset);
        }
    }
}

const char *kd_cache_path(KdContext *cx, const KlModule *m, const KdTarget *t, const KdCodegenOptions *o) {
    Key key = {0x6b64632d61, 0x6b64632d62};
    unsigned major, minor, patch;
    LLVMGetVersion(&major, &minor, &patch);
    add_text(&key, KD_CODEGEN_VERSION);
    add_number(&key, major * 1000000 + minor * 1000 + patch);
    add_text(&key, t->triple);
    add_text(&key, t->cpu);
    add_text(&key, t->features);
    add_number(&key, o->opt);
    add_text(&key, m->name);
    add_number(&key, m->kernels.n);
    for (int i = 0; i < m->kernels.n; i++)
        add_kernel(&key, m->kernels.v[i]);
    add_plan(&key, m);
    return kd_format(cx, "%s/%016llx%016llx.kdo", o->cache, (unsigned long long)key.a, (unsigned long long)key.b);
}

/* ---- files -------------------------------------------------------------------------------------- */

/* The whole file, malloc'ed; NULL if it cannot be read. */
static char *read_file(const char *path, size_t *size) {
    struct stat s;
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *bytes = NULL;
    if (fstat(fileno(f), &s) == 0 && S_ISREG(s.st_mode) && s.st_size >= (off_t)sizeof(Header)) {
        *size = (size_t)s.st_size;
        bytes = malloc(*size);
        if (bytes && fread(bytes, 1, *size, f) != *size) {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(f);
    return bytes;
}

/* Cuts the body of a file, known to be what was written, into objects. */
static bool split(const char *body, const Header *h, KdObjects *o) {
    uint64_t at = h->n * sizeof(uint64_t);
    o->object = calloc((size_t)h->n + 1, sizeof *o->object);
    for (; o->object && (uint64_t)o->n < h->n; o->n++) {
        uint64_t size;
        memcpy(&size, body + (uint64_t)o->n * sizeof size, sizeof size);
        char *bytes = size <= h->bytes - at ? malloc(size + 1) : NULL;
        if (!bytes)
            break;
        memcpy(bytes, body + at, size);
        o->object[o->n].bytes = bytes;
        o->object[o->n].size = size;
        at += size;
    }
    if (o->object && (uint64_t)o->n == h->n)
        return true;
    kd_objects_free(o);
    return false;
}

bool kd_cache_load(const char *path, KdObjects *o) {
    *o = (KdObjects){0};
    size_t size = 0;
    char *file = read_file(path, &size);
    if (!file)
        return false;
    Header h;
    memcpy(&h, file, sizeof h);
    const char *body = file + sizeof h;
    bool sound = memcmp(h.magic, magic, sizeof magic) == 0 && h.bytes == size - sizeof h &&
                 h.n <= h.bytes / sizeof(uint64_t) && h.n < INT32_MAX &&
                 kd_hash_bytes(body, h.bytes, 1) == h.checksum[0] &&
                 kd_hash_bytes(body, h.bytes, 2) == h.checksum[1];
    bool ok = sound && split(body, &h, o);
    free(file);
    if (ok)
        (void)utimensat(AT_FDCWD, path, NULL, 0); /* prune() goes by this */
    return ok;
}

/* mkdir -p of everything in front of the last slash. */
static void make_folders(char *path) {
    for (char *s = path + 1; (s = strchr(s, '/')); s++) {
        *s = 0;
        (void)mkdir(path, 0700); /* exists, or opening the file will tell */
        *s = '/';
    }
}

static char *join(const KdObjects *o, size_t *size) {
    Header h = {.n = (uint64_t)o->n, .bytes = (uint64_t)o->n * sizeof(uint64_t)};
    memcpy(h.magic, magic, sizeof magic);
    for (int i = 0; i < o->n; i++)
        h.bytes += o->object[i].size;
    char *file = malloc(sizeof h + h.bytes), *body = file + sizeof h;
    if (!file)
        return NULL;
    size_t at = (size_t)o->n * sizeof(uint64_t);
    for (int i = 0; i < o->n; i++) {
        uint64_t bytes = o->object[i].size;
        memcpy(body + (size_t)i * sizeof bytes, &bytes, sizeof bytes);
        memcpy(body + at, o->object[i].bytes, o->object[i].size);
        at += o->object[i].size;
    }
    h.checksum[0] = kd_hash_bytes(body, h.bytes, 1);
    h.checksum[1] = kd_hash_bytes(body, h.bytes, 2);
    memcpy(file, &h, sizeof h);
    *size = sizeof h + h.bytes;
    return file;
}

static bool write_all(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        size -= (size_t)n;
    }
    return true;
}

typedef struct Kept {
    char name[64];
    struct timespec used;
} Kept;

static int older(const void *a, const void *b) {
    const Kept *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

/* Beyond KEEP_MOST files those that were not used for longest are deleted, down to KEEP_LEAST. Another process may
 * do the same at the same time; a file deleted twice or under a reader's hands is only a miss. */
static void prune(const char *folder) {
    enum { KEEP_MOST = 256, KEEP_LEAST = 192, LOOK_AT = 4096 };
    DIR *d = opendir(folder);
    Kept *kept = calloc(LOOK_AT, sizeof *kept);
    int n = 0;
    for (struct dirent *e; d && kept && n < LOOK_AT && (e = readdir(d));) {
        size_t len = strlen(e->d_name);
        struct stat s;
        if (len != 36 || strcmp(e->d_name + 32, ".kdo") != 0 || fstatat(dirfd(d), e->d_name, &s, 0) != 0)
            continue;
        memcpy(kept[n].name, e->d_name, len + 1);
        kept[n++].used = s.st_mtim;
    }
    if (n > KEEP_MOST) {
        qsort(kept, (size_t)n, sizeof *kept, older);
        for (int i = 0; i < n - KEEP_LEAST; i++)
            (void)unlinkat(dirfd(d), kept[i].name, 0);
    }
    free(kept);
    if (d)
        closedir(d);
}

void kd_cache_save(const char *path, const KdObjects *o) {
    size_t size = 0, n = strlen(path);
    char *file = join(o, &size), *temporary = malloc(n + 8);
    if (file && temporary) {
        memcpy(temporary, path, n + 1);
        make_folders(temporary);
        memcpy(temporary + n, ".XXXXXX", 8);
        int fd = mkstemp(temporary);
        if (fd >= 0) {
            bool written = write_all(fd, file, size);
            written = close(fd) == 0 && written;
            if (!written || rename(temporary, path) != 0)
                unlink(temporary);
            *strrchr(temporary, '/') = 0;
            prune(temporary);
        }
    }
    free(file);
    free(temporary);
}
