/* test_pth.c: PyTorch checkpoints: what PyTorch wrote (golden/pth, see make_pth.py) loads with every type and stride in
 * each form; pickles that ask for code, numbers outside of their storage, missing, short, damaged, cut and mutated
 * files are refused with a sentence; what is written reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "runtime/host/pth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define GOLDEN KDC_SOURCE_DIR "/tests/golden/pth/"

static char path[64];

/* ---- bytes ------------------------------------------------------------------------------------------ */

typedef struct Bytes {
    size_t n, room;
    unsigned char *p;
} Bytes;

static void put(Bytes *b, const void *p, size_t n) {
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n) + 64;
        b->p = realloc(b->p, b->room);
        assert_non_null(b->p);
    }
    if (n) {
        memcpy(b->p + b->n, p, n);
    }
    b->n += n;
}

#define PUT(b, literal) put((b), (literal), sizeof(literal) - 1)

static void put_text(Bytes *b, const char *text) {
    uint32_t n = (uint32_t)strlen(text);
    unsigned char head[5] = {'X', n & 255, n >> 8 & 255, n >> 16 & 255, n >> 24};
    put(b, head, 5);
    put(b, text, n);
}

static void put_int(Bytes *b, int64_t v) {
    unsigned char e[10] = {0x8a, 8};
    for (int i = 0; i < 8; i++) {
        e[2 + i] = (unsigned char)((uint64_t)v >> 8 * i);
    }
    put(b, e, 10);
}

/* 'name': tensor in storage `key` of `count` floats, two dims */
static void put_tensor(Bytes *b, const char *name, const char *key, int64_t count, int64_t offset, const int64_t *v) {
    put_text(b, name);
    PUT(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    PUT(b, "ctorch\nFloatStorage\n");
    put_text(b, key);
    put_text(b, "cuda:0");
    put_int(b, count);
    PUT(b, "tQ");
    put_int(b, offset);
    PUT(b, "(");
    put_int(b, v[0]);
    put_int(b, v[1]);
    PUT(b, "t(");
    put_int(b, v[2]);
    put_int(b, v[3]);
    PUT(b, "t\x89" "ccollections\nOrderedDict\n)RtR");
}

static void put_floats(Bytes *b, int n) {
    for (int i = 0; i < n; i++) {
        float f = (float)i;
        put(b, &f, 4);
    }
}

/* Not through kd_file_write, which waits for the disk, as some file systems do when a file is cut to nothing. */
static void write_file(const void *p, size_t n) {
    unlink(path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A legacy file around an object's pickle; `keys`: the list of storages, then `data`. */
static void write_legacy(const Bytes *object, const char *keys, size_t n_keys, const Bytes *data) {
    Bytes b = {0};
    PUT(&b, "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.");
    PUT(&b, "\x80\x02M\xe9\x03.");
    PUT(&b, "\x80\x02}(U\x0dlittle_endian\x88u.");
    put(&b, object->p, object->n);
    put(&b, keys, n_keys);
    if (data) {
        put(&b, data->p, data->n);
    }
    write_file(b.p, b.n);
    free(b.p);
}

static KdWeights *try_read(KdTrouble *t) {
    memset(t, 0, sizeof *t);
    KdWeights *w = kd_pth_read(path, t);
    if (!w) {
        assert_true(t->text[0]);
    }
    return w;
}

static void refused(const char *says) {
    KdTrouble t;
    KdWeights *w = try_read(&t);
    if (w || !strstr(t.text, says) || !strstr(t.text, path)) {
        fail_msg("expected '%s', %s", says, w ? "it was read" : t.text);
    }
    assert_false(t.machine);
}

/* Reads every byte of every tensor. */
static double sum_of(const KdWeights *w) {
    double sum = 0;
    KdTrouble t;
    for (int i = 0; i < w->n; i++) {
        float *f = malloc(sizeof *f * (size_t)(w->tensor[i].count + 1));
        assert_non_null(f);
        assert_true(kd_tensor_f32(&w->tensor[i], f, &t));
        for (int64_t k = 0; k < w->tensor[i].count; k++) {
            sum += (double)f[k];
        }
        free(f);
    }
    return sum;
}

/* ---- what PyTorch wrote ----------------------------------------------------------------------------- */

typedef struct Expected {
    const char *name;
    KdStored dtype;
    int rank;
    int64_t dim[4];
    float first[6]; /* elements from the start */
} Expected;

static const Expected odd[] = {
    {"plain", KD_STORED_F32, 4, {2, 3, 2, 4}, {0, 1, 2, 3, 4, 5}},
    {"flipped", KD_STORED_F32, 4, {4, 2, 2, 3}, {0, 8, 16, 4, 12, 20}},
    {"channels_last", KD_STORED_F32, 4, {2, 3, 2, 4}, {0, 1, 2, 3, 4, 5}},
    {"part", KD_STORED_F32, 3, {1, 2, 4}, {28, 29, 30, 31, 44, 45}},
    {"scalar", KD_STORED_F32, 0, {0}, {2.5f}},
    {"empty", KD_STORED_F32, 2, {0, 3}, {0}},
    {"parameter", KD_STORED_F32, 1, {4}, {5, 6, 7, 8}},
    {"half", KD_STORED_F16, 1, {4}, {-1, 0, 1, 2}},
    {"bfloat16", KD_STORED_BF16, 1, {4}, {-1, 0, 1, 2}},
    {"double", KD_STORED_F64, 1, {4}, {-1, 0, 1, 2}},
    {"long", KD_STORED_I64, 1, {4}, {-1, 0, 1, 2}},
    {"int", KD_STORED_I32, 1, {4}, {-1, 0, 1, 2}},
    {"short", KD_STORED_I16, 1, {4}, {-1, 0, 1, 2}},
    {"char", KD_STORED_I8, 1, {4}, {-1, 0, 1, 2}},
    {"byte", KD_STORED_U8, 1, {4}, {0, 1, 2, 3}},
    {"bool", KD_STORED_BOOL, 1, {4}, {1, 0, 1, 1}},
};

static void test_golden(void **state) {
    (void)state;
    static const char *const files[] = {GOLDEN "odd.pth", GOLDEN "odd_old.pth", GOLDEN "odd_4.pth"};
    for (size_t f = 0; f < COUNT(files); f++) {
        KdTrouble t = {0};
        KdWeights *w = kd_checkpoint_file_read(files[f], &t);
        if (!w) {
            fail_msg("%s", t.text);
        }
        assert_int_equal(w->n, COUNT(odd));
        for (int i = 0; i < w->n; i++) {
            const Expected *e = &odd[i];
            const KdTensor *x = &w->tensor[i];
            assert_string_equal(x->name, e->name);
            assert_int_equal(x->dtype, e->dtype);
            assert_int_equal(x->rank, e->rank);
            assert_memory_equal(x->dim, e->dim, sizeof *e->dim * (size_t)e->rank);
            float v[48];
            assert_true(x->count <= 48 && kd_tensor_f32(x, v, &t));
            for (int k = 0; k < x->count && k < 6; k++) {
                assert_true(v[k] == e->first[k]);
            }
            if (x->count == 48) {
                assert_true(v[47] == 47);
            }
        }
        kd_weights_free(w);
    }
}

static void test_by_content(void **state) {
    (void)state;
    KdTrouble t = {0};
    KdWeights *w = kd_checkpoint_file_read(GOLDEN "resnet.safetensors", &t);
    assert_non_null(w);
    kd_weights_free(w);
    assert_null(kd_pth_read(GOLDEN "resnet.safetensors", &t));
    assert_non_null(strstr(t.text, "not a PyTorch checkpoint"));
    assert_null(kd_checkpoint_file_read("/nonexistent/a.pth", &t));
    assert_non_null(strstr(t.text, "/nonexistent/a.pth"));
    char tar[512] = "pickle";
    memcpy(tar + 257, "ustar", 5);
    write_file(tar, sizeof tar);
    refused("a tar file");
    write_file("", 0);
    refused("not a PyTorch checkpoint");
    assert_null(kd_checkpoint_file_read(path, &t));
    assert_non_null(strstr(t.text, "too few for a safetensors file"));
}

/* ---- pickles ---------------------------------------------------------------------------------------- */

typedef struct Hostile {
    const char *pickle;
    size_t n;
    const char *says;
} Hostile;

#define CASE(bytes, says) {bytes, sizeof(bytes) - 1, says}

static const Hostile hostile[] = {
    CASE("\x80\x02" "cos\nsystem\n(U\x07" "echo hitR.", "asks for 'os.system' at byte 2; only state dicts of tensors are read"),
    CASE("\x80\x02" "cbuiltins\neval\nX\x01\0\0\0" "1\x85R.", "asks for 'builtins.eval'"),
    CASE("\x80\x02" "c__builtin__\neval\n.", "asks for '__builtin__.eval'"),
    CASE("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.", "asks for 'posix.system' at byte 17"),
    CASE("\x80\x02" "ctorch\nload\n.", "asks for 'torch.load'"),
    CASE("\x80\x02" "c\x1b[31m\nx\n.", "asks for '?[31m.x'"),
    CASE("\x80\x02" "cos\nsystem", "cut off"),
    CASE("\x80\x02" "X\1\0\0\0aX\1\0\0\0b\x85R.", "a call of what is no known name"),
    CASE("\x80\x02" "ctorch\nfloat32\n)R.", "a call of a type"),
    CASE("\x80\x02}}b}\x81.", "opcode 0x81"),
    CASE("\x80\x02(ios\nsystem\n.", "opcode 0x69 ('i')"),
    CASE("\x80\x02(cos\nsystem\no.", "'os.system'"),
    CASE("\x80\x02(}o.", "opcode 0x6f ('o')"),
    CASE("\x80\x02\x82\x01.", "opcode 0x82"),
    CASE("\x80\x02P123\n.", "opcode 0x50 ('P')"),
    CASE("\x80\x02" "B\0\0\0\0.", "opcode 0x42 ('B')"),
    CASE("\x80\x01N.", "a protocol other than 2 to 5"),
    CASE("\x80\x06N.", "a protocol other than 2 to 5"),
    CASE("\x80\x02.", "other than one value"),
    CASE("\x80\x02NN.", "other than one value"),
    CASE("\x80\x02N(.", "other than one value"),
    CASE("\x80\x02t.", "no mark"),
    CASE("\x80\x02}u.", "no mark"),
    CASE("\x80\x02(u.", "too few values"),
    CASE("\x80\x02\x87.", "too few values"),
    CASE("\x80\x02N(\x85.", "too few values"),
    CASE("\x80\x02R.", "too few values"),
    CASE("\x80\x02q\0N.", "too few values"),
    CASE("\x80\x02Q.", "too few values"),
    CASE("\x80\x02h\0.", "an empty memo slot"),
    CASE("\x80\x02j\xff\xff\xff\xff.", "an empty memo slot"),
    CASE("\x80\x02Nr\xff\xff\xff\xff.", "a memo slot out of bounds"),
    CASE("\x80\x02N}s.", "too few values"),
    CASE("\x80\x02NNNs.", "no dict"),
    CASE("\x80\x02}(Nu.", "no dict"),
    CASE("\x80\x02}Na.", "no list"),
    CASE("\x80\x02]}b.", "attributes set on what is no dict"),
    CASE("\x80\x02NQ.", "a persistent id that is no storage"),
    CASE("\x80\x02(U\x06moduleNNNtQ.", "a whole Python module"),
    CASE("\x80\x02(U\x06moduleNNNtQ.", "torch.save(model.state_dict(), ...)"),
    CASE("\x80\x02" "c__main__\nNet\n)\x81.", "as torch.save(model.state_dict(), ...) writes them"),
    CASE("\x80\x02(U\7storagectorch\nFloatStorage\nU\3../U\3cpuK\1tQ.", "key is no number"),
    CASE("\x80\x02(U\7storagectorch\nFloatStorage\nU\2" "01U\3cpuK\1tQ.", "key is no number"),
    CASE("\x80\x02(U\7storagectorch\nFloatStorage\nU\1" "0U\3cpuJ\xff\xff\xff\xfftQ.", "count of elements is out of bounds"),
    CASE("\x80\x02(U\7storagectorch\nSize\nU\1" "0U\3cpuK\1tQ.", "a persistent id that is no storage"),
    CASE("\x80\x02(U\7storagectorch\nFloatStorage\nU\1" "0U\3cpuK\1tQ0(U\7storagectorch\nHalfStorage\nU\1" "0U\3cpuK\1tQ.",
         "opcode 0x30 ('0')"),
    CASE("\x80\x02]((U\7storagectorch\nFloatStorage\nU\1" "0U\3cpuK\1tQ(U\7storagectorch\nHalfStorage\nU\1" "0U\3cpuK\1tQe.",
         "two types or sizes"),
    CASE("\x80\x02(U\7storagectorch\nFloatStorage\nU\1" "0U\3cpuK\4(U\1" "1K\2K\3ttQ.", "a view outside of its storage"),
    CASE("\x80\x02" "ctorch._utils\n_rebuild_tensor\n(NK\0))tR.", "not (storage, offset, size, stride)"),
    CASE("\x80\x02" "ctorch._utils\n_rebuild_parameter\nN\x88)\x87R.", "a parameter of no tensor"),
    CASE("\x80\x02" "ccollections\nOrderedDict\n]K\1a\x85R.", "an item that is no pair"),
    CASE("\x80\x02}.", "there is no tensor"),
    CASE("\x80\x02N.", "there is no tensor"),
    CASE("\x80\x02X\xff\xff\xff\xff.", "cut off"),
    CASE("\x80\x02}q\0(X\1\0\0\0ah\0u.", "nested more than 32 deep"),
    CASE("\x80\x02}(X\1\0\0\0\x07]u.", "control characters"),
    CASE("\x80\x02}(X\2\0\0\0\xc0\x80]u.", "no UTF-8"),
    CASE("\x80\x02}(X\0\0\0\0]u.", "is empty"),
};

static void test_hostile_pickles(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(hostile); i++) {
        Bytes b = {hostile[i].n, 0, (unsigned char *)(uintptr_t)hostile[i].pickle};
        write_legacy(&b, "\x80\x02].", 4, NULL);
        KdTrouble t;
        KdWeights *w = try_read(&t);
        if (w || !strstr(t.text, hostile[i].says)) {
            fail_msg("case %zu: expected '%s', %s", i, hostile[i].says, w ? "it was read" : t.text);
        }
        assert_false(t.machine);
    }
}

typedef struct Numbers {
    int64_t count, offset, v[4]; /* of the storage; sizes, strides */
    const char *says;            /* NULL: it is read */
} Numbers;

static const Numbers numbers[] = {
    {6, 0, {2, 3, 3, 1}, NULL},
    {6, 0, {2, 3, 1, 2}, NULL},
    {6, 5, {1, 1, INT64_MAX, INT64_MAX}, NULL}, /* never stepped */
    {6, 6, {0, 3, 3, 1}, NULL},
    {6, 0, {6, 6, 0, 1}, NULL}, /* expanded, but small */
    {6, 1, {2, 3, 3, 1}, "reaches element 6 of a storage of 6"},
    {6, 0, {2, 3, 4, 1}, "reaches element 6 of a storage of 6"},
    {6, 0, {2, 3, INT64_MAX, 1}, "strides out of bounds"},
    {6, 0, {3, 3, INT64_MAX / 2 + 1, 1}, "strides out of bounds"},
    {6, INT64_MAX, {2, 3, 3, 1}, "strides out of bounds"},
    {6, -1, {2, 3, 3, 1}, "negative offset"},
    {6, 0, {-2, 3, 3, 1}, "no number >= 0"},
    {6, 5, {2, 3, -3, 1}, "no number >= 0"},
    {6, 0, {INT64_MAX, INT64_MAX, 0, 0}, "too many elements"},
    {6, 0, {1 << 30, 1 << 20, 0, 0}, "more than four times what the file holds"},
    {7, 0, {2, 3, 3, 1}, "has 6 elements, the pickle says 7"},
    {INT64_MAX / 16, 0, {INT64_MAX / 16, 1, 1, 1}, "the pickle says"},
};

static void test_numbers(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        Bytes b = {0}, data = {0};
        PUT(&b, "\x80\x02}(");
        put_tensor(&b, "w", "17", numbers[i].count, numbers[i].offset, numbers[i].v);
        PUT(&b, "u.");
        PUT(&data, "\6\0\0\0\0\0\0\0");
        put_floats(&data, 6);
        write_legacy(&b, "\x80\x02](U\2" "17e.", 10, &data);
        KdTrouble t;
        KdWeights *w = try_read(&t);
        if (!numbers[i].says != !!w || (!w && !strstr(t.text, numbers[i].says))) {
            fail_msg("case %zu: expected '%s', found '%s'", i, numbers[i].says ? numbers[i].says : "", t.text);
        }
        if (w) {
            sum_of(w);
        }
        kd_weights_free(w);
        free(b.p);
        free(data.p);
    }
}

/* Python 2's forms: OrderedDict of a list of pairs, byte strings, _rebuild_tensor, a view of a storage. */
static void test_python_2(void **state) {
    (void)state;
    static const char object[] = "\x80\x02" "ccollections\nOrderedDict\n](](U\1a" "ctorch._utils\n_rebuild_tensor\n"
                                 "((U\7storagectorch\nFloatStorage\nU\1" "5T\3\0\0\0cpuK\6(U\1" "6K\2K\4ttQK\1K\2K\2\x86K\1K\1\x86tRe"
                                 "e\x85R.";
    Bytes b = {sizeof object - 1, 0, (unsigned char *)(uintptr_t)object}, data = {0};
    PUT(&data, "\6\0\0\0\0\0\0\0");
    put_floats(&data, 6);
    write_legacy(&b, "\x80\x02](U\1" "5e.", 9, &data);
    free(data.p);
    KdTrouble t;
    KdWeights *w = try_read(&t);
    if (!w) {
        fail_msg("%s", t.text);
    }
    float v[4];
    assert_int_equal(w->n, 1);
    assert_string_equal(w->tensor[0].name, "a");
    assert_true(kd_tensor_f32(&w->tensor[0], v, &t));
    assert_true(v[0] == 3 && v[1] == 4 && v[2] == 4 && v[3] == 5); /* the view begins at 2, the tensor at its 1 */
    kd_weights_free(w);
}

/* The same tensor under many names, and dicts that hold each other, ask for more than there is. */
static void test_bombs(void **state) {
    (void)state;
    Bytes b = {0};
    PUT(&b, "\x80\x02}(X\1\0\0\0a");
    for (int i = 0; i < 100000; i++) {
        PUT(&b, "]");
    }
    for (int i = 0; i < 99999; i++) {
        PUT(&b, "a");
    }
    PUT(&b, "u.");
    write_legacy(&b, "\x80\x02].", 4, NULL);
    refused("nested more than 32 deep");
    b.n = 0;
    PUT(&b, "\x80\x02]q\0");
    for (int i = 0; i < 28; i++) { /* (x, x) of (x, x) of ... */
        const unsigned char level[] = {'h', (unsigned char)i, 0x86, 'q', (unsigned char)(i + 1)};
        put(&b, level, sizeof level);
    }
    PUT(&b, ".");
    write_legacy(&b, "\x80\x02].", 4, NULL);
    refused("more than 4000000 values");
    b.n = 0;
    PUT(&b, "\x80\x02](");
    for (int i = 0; i < 5000000; i++) {
        PUT(&b, "N");
    }
    PUT(&b, "e.");
    write_legacy(&b, "\x80\x02].", 4, NULL);
    refused("more than 8000000 values");
    free(b.p);
}

static void test_cut_and_mutated(void **state) {
    (void)state;
    static const char *const files[] = {GOLDEN "odd_old.pth", GOLDEN "odd.pth", GOLDEN "odd_4.pth"};
    uint64_t random = 88172645463325252u;
    int read = 0;
    for (size_t f = 0; f < COUNT(files); f++) {
        KdTrouble t;
        size_t n;
        unsigned char *whole = (unsigned char *)kd_file_read(files[f], &n, &t);
        assert_non_null(whole);
        for (size_t cut = 0; cut < n; cut += f ? 7 : 1) {
            write_file(whole, cut);
            assert_null(try_read(&t));
        }
        for (int i = 0; i < 1500; i++) {
            unsigned char *copy = malloc(n);
            memcpy(copy, whole, n);
            for (int k = 0; k <= i % 3; k++) {
                random ^= random << 13, random ^= random >> 7, random ^= random << 17;
                copy[random % n] ^= (unsigned char)(1u << (random >> 40) % 8) | (i % 2 ? (unsigned char)(random >> 50) : 0);
            }
            write_file(copy, n);
            KdWeights *w = try_read(&t);
            if (w) { /* a mutated number of a tensor, or padding */
                sum_of(w);
                read++;
            }
            kd_weights_free(w);
            free(copy);
        }
        free(whole);
    }
    assert_true(read > 100 && read < 4500);
}

/* ---- zip -------------------------------------------------------------------------------------------- */

static void add_file(zip_t *z, const char *name, const void *p, size_t n, bool deflated) {
    zip_int64_t i = zip_file_add(z, name, zip_source_buffer(z, p, n, 0), 0);
    assert_true(i >= 0);
    assert_int_equal(zip_set_file_compression(z, (zip_uint64_t)i, deflated ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0), 0);
}

typedef struct ZipCase {
    const char *pickle, *data, *order; /* names of entries and a content; NULL: none */
    int floats;
    bool deflated, second;
    const char *says;
} ZipCase;

static const ZipCase zips[] = {
    {"a/data.pkl", "a/data/3", NULL, 6, false, false, NULL},
    {"a/data.pkl", "a/data/3", "little", 6, true, false, NULL},
    {"a/data.pkl", "a/data/3", "big", 6, false, false, "byte order"},
    {"a/data.pkl", "a/data/4", NULL, 6, false, false, "a/data/3 is missing"},
    {"a/data.pkl", "data/3", NULL, 6, false, false, "a/data/3 is missing"},
    {"a/data.pkl", "a/data/3", NULL, 5, false, false, "a/data/3 has 20 bytes, the pickle says 6 of F32"},
    {"a/data.pkl", "a/data/3", NULL, 7, false, false, "a/data/3 has 28 bytes"},
    {"a/data.pkl", "a/data/3", NULL, 6, false, true, "two zip entries are called data.pkl"},
    {"data.pickle", "a/data/3", NULL, 6, false, false, "without data.pkl"},
};

static void write_zip(const ZipCase *c, const Bytes *pickle) {
    Bytes data = {0};
    put_floats(&data, 8);
    unlink(path);
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(z);
    add_file(z, c->pickle, pickle->p, pickle->n, c->deflated);
    if (c->second) {
        add_file(z, "b/data.pkl", pickle->p, pickle->n, false);
    }
    if (c->order) {
        add_file(z, "a/byteorder", c->order, strlen(c->order), false);
    }
    add_file(z, c->data, data.p, (size_t)c->floats * 4, c->deflated);
    assert_int_equal(zip_close(z), 0);
    free(data.p);
}

static void test_zip(void **state) {
    (void)state;
    const int64_t shape[4] = {2, 3, 3, 1};
    Bytes b = {0};
    PUT(&b, "\x80\x02}(");
    put_tensor(&b, "w", "3", 6, 0, shape);
    PUT(&b, "u.");
    for (size_t i = 0; i < COUNT(zips); i++) {
        write_zip(&zips[i], &b);
        if (zips[i].says) {
            refused(zips[i].says);
            continue;
        }
        KdTrouble t;
        KdWeights *w = try_read(&t);
        if (!w) {
            fail_msg("%s", t.text);
        }
        assert_true(sum_of(w) == 15);
        kd_weights_free(w);
    }
    /* a damaged byte of the tensor: the CRC does not fit */
    write_zip(&zips[0], &b);
    KdTrouble t;
    size_t n;
    char *file = kd_file_read(path, &n, &t);
    assert_non_null(file);
    const float two = 2;
    for (size_t i = 0; i + 4 < n; i++) {
        if (memcmp(file + i, &two, 4) == 0) {
            file[i] ^= 1;
        }
    }
    write_file(file, n);
    free(file);
    refused("damaged");
    PUT(&b, "N");
    write_zip(&zips[0], &b);
    refused("1 bytes after the pickle's end");
    free(b.p);
}

static void test_write(void **state) {
    (void)state;
    const float a[6] = {1, 2, 3, 4, 5, 6.5f};
    const int32_t i[2] = {-7, 1 << 30};
    const unsigned char u[1] = {200};
    const int64_t da[3] = {1, 2, 3}, di[1] = {2}, de[2] = {0, 4};
    const KdTensorOut x[] = {{"net.a[0]", KD_STORED_F32, 3, da, a},
                             {"\xc3\xa4", KD_STORED_I32, 1, di, i},
                             {"u", KD_STORED_U8, 0, NULL, u},
                             {"e", KD_STORED_F32, 2, de, NULL}};
    KdTrouble t = {0};
    if (!kd_pth_write(path, x, 4, &t)) {
        fail_msg("%s", t.text);
    }
    KdWeights *w = try_read(&t);
    if (!w) {
        fail_msg("%s", t.text);
    }
    assert_int_equal(w->n, 4);
    for (int k = 0; k < 4; k++) {
        assert_string_equal(w->tensor[k].name, x[k].name);
        assert_int_equal(w->tensor[k].dtype, x[k].dtype);
        assert_int_equal(w->tensor[k].rank, x[k].rank);
    }
    assert_memory_equal(w->tensor[0].data, a, sizeof a);
    assert_memory_equal(w->tensor[1].data, i, sizeof i);
    assert_int_equal(w->tensor[2].data[0], 200);
    assert_int_equal(w->tensor[3].count, 0);
    kd_weights_free(w);
    const KdTensorOut bad[] = {{"a\n", KD_STORED_U8, 0, NULL, u}};
    assert_false(kd_pth_write(path, bad, 1, &t));
    assert_false(t.machine);
    assert_false(kd_pth_write("/nonexistent/a.pth", x, 4, &t));
    assert_non_null(strstr(t.text, "/nonexistent/a.pth"));
}

static int setup(void **state) {
    (void)state;
    snprintf(path, sizeof path, "%s/test_pth_XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int teardown(void **state) {
    (void)state;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),     cmocka_unit_test(test_by_content), cmocka_unit_test(test_hostile_pickles),
        cmocka_unit_test(test_numbers),    cmocka_unit_test(test_python_2),   cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_cut_and_mutated), cmocka_unit_test(test_zip),   cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
