/* cache.c: compiled objects, kept between runs.
 *
 * A file holds the object of one kernel: FOLDER/KEY.kdo, where KEY is the hash of everything its machine code depends on:
 * the kernel, target, level, this code generator's own text, LLVM's version. Plans and constants are not in objects, so
 * programs share what kernels they have in common. A file is written under a temporary name and renamed, so readers in
 * other processes see all of it or nothing; its checksum turns a damaged one into a miss. A cache may always fail: then
 * the caller compiles.
 *
 * File, native byte order: Header, the object.
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
    uint64_t bytes;       /* of the object */
    uint64_t checksum[2]; /* of it, with two seeds */
} Header;

static const char magic[8] = "kdobj 2";

const char *kd_cache_folder(KdContext *cx) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && xdg[0] == '/')
        return kd_intern_z(cx, kd_format(cx, "%s/kdc", xdg));
    return home && home[0] == '/' ? kd_intern_z(cx, kd_format(cx, "%s/.cache/kdc", home)) : NULL;
}

/* ---- keys -------------------------------------------------------------------------------------- */

static void add_bytes(KdKernelKey *k, const void *p, size_t n) {
    k->a = kd_hash_bytes(p, n, k->a);
    k->b = kd_hash_bytes(p, n, k->b);
}

static void add_text(KdKernelKey *k, const char *s) { add_bytes(k, s, strlen(s) + 1); }

static void add_number(KdKernelKey *k, int64_t n) { add_bytes(k, &n, sizeof n); }

/* Everything of a kernel that code depends on: what its text holds but for names. (The text itself takes longer to print
 * than the objects to load.) Structs have padding, so fields go in one by one. */
static void add_block(KdKernelKey *key, const KlBlock *b) {
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

static void add_kernel(KdKernelKey *key, const KlKernel *k) {
    add_number(key, k->range);
    add_number(key, k->grain);
    add_number(key, k->types.n);
    for (int i = 0; i < k->bufs.n; i++) {
        int64_t fields[] = {k->bufs.v[i].dtype, k->bufs.v[i].count, k->bufs.v[i].access};
        add_bytes(key, fields, sizeof fields);
    }
    add_block(key, &k->body);
}

KdKernelKey kd_kernel_key(const KlKernel *k, const KdTarget *t, const KdCodegenOptions *o) {
    KdKernelKey key = {0x6b64632d61, 0x6b64632d62};
    unsigned major, minor, patch;
    LLVMGetVersion(&major, &minor, &patch);
    add_text(&key, KD_CODEGEN_VERSION);
    add_number(&key, major * 1000000 + minor * 1000 + patch);
    add_text(&key, t->triple);
    add_text(&key, t->cpu);
    add_text(&key, t->features);
    add_number(&key, o->opt);
    add_kernel(&key, k);
    return key;
}

const char *kd_cache_path(KdContext *cx, const char *folder, KdKernelKey key) {
    return kd_format(cx, "%s/%016llx%016llx.kdo", folder, (unsigned long long)key.a, (unsigned long long)key.b);
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

LLVMMemoryBufferRef kd_cache_load(const char *path) {
    size_t size = 0;
    char *file = read_file(path, &size);
    if (!file)
        return NULL;
    Header h;
    memcpy(&h, file, sizeof h);
    const char *object = file + sizeof h;
    bool sound = memcmp(h.magic, magic, sizeof magic) == 0 && h.bytes == size - sizeof h &&
                 kd_hash_bytes(object, h.bytes, 1) == h.checksum[0] && kd_hash_bytes(object, h.bytes, 2) == h.checksum[1];
    LLVMMemoryBufferRef copy = sound ? LLVMCreateMemoryBufferWithMemoryRangeCopy(object, h.bytes, "kdc") : NULL;
    free(file);
    if (copy)
        (void)utimensat(AT_FDCWD, path, NULL, 0); /* pruning goes by this */
    return copy;
}

/* mkdir -p of everything in front of the last slash. */
static void make_folders(char *path) {
    for (char *s = path + 1; (s = strchr(s, '/')); s++) {
        *s = 0;
        (void)mkdir(path, 0700); /* exists, or opening the file will tell */
        *s = '/';
    }
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

/* Beyond KEEP_MOST files (some ten kB each) those that were not used for longest are deleted, down to KEEP_LEAST. Another
 * process may do the same at the same time; a file deleted twice or under a reader's hands is only a miss. */
void kd_cache_prune(const char *folder) {
    enum { KEEP_MOST = 8192, KEEP_LEAST = 6144, LOOK_AT = 16384 };
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

void kd_cache_save(const char *path, const char *object, size_t size) {
    Header h = {.bytes = size, .checksum = {kd_hash_bytes(object, size, 1), kd_hash_bytes(object, size, 2)}};
    memcpy(h.magic, magic, sizeof magic);
    size_t n = strlen(path);
    char *temporary = malloc(n + 8);
    if (!temporary)
        return;
    memcpy(temporary, path, n + 1);
    make_folders(temporary);
    memcpy(temporary + n, ".XXXXXX", 8);
    int fd = mkstemp(temporary);
    if (fd >= 0) {
        bool written = write_all(fd, (const char *)&h, sizeof h) && write_all(fd, object, size);
        written = close(fd) == 0 && written;
        if (!written || rename(temporary, path) != 0)
            unlink(temporary);
    }
    free(temporary);
}
