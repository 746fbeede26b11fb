/* pickle.c: see pickle.h. */
#include "runtime/host/pickle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory: blocks that are freed together ------------------------------------------------------- */

typedef struct Block {
    struct Block *next;
    size_t used, size;
    max_align_t data[];
} Block;

typedef struct Memory {
    Block *block;
    int64_t values;
    uint32_t *slot; /* hash table: storage number + 1 by key; n_slots is a power of two */
    uint32_t n_slots;
    int capacity; /* of the storages */
} Memory;

/* One run over one pickle. */
typedef struct Machine {
    KdPickle *p;
    Memory *m;
    KdTrouble *t;
    const unsigned char *data;
    size_t n, at, op; /* op: where the opcode being run stands */
    KdPickleValue **stack, **memo;
    int *mark; /* heights of the stack */
    int sp, n_marks, n_memo, stack_room, mark_room, memo_room, memoized;
} Machine;

static bool no_memory(Machine *m) {
    return kd_trouble(m->t, true, "%s: out of memory", m->p->from);
}

static void *take(Machine *m, size_t bytes) {
    size_t size = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    Block *b = m->m->block;
    if (!b || b->size - b->used < size) {
        size_t room = size > 65536 ? size : 65536;
        b = malloc(sizeof *b + room);
        if (!b) {
            no_memory(m);
            return NULL;
        }
        *b = (Block){.next = m->m->block, .size = room};
        m->m->block = b;
    }
    void *v = (unsigned char *)b->data + b->used;
    b->used += size;
    return memset(v, 0, bytes);
}

/* Room for n + 1 pointers or numbers in *v. */
static bool reserve(Machine *m, void *v, int n, int *room, size_t size) {
    void **array = v;
    if (n < *room) {
        return true;
    }
    int more = n < 64 ? 128 : n + n / 2 + 1;
    void *grown = realloc(*array, (size_t)more * size);
    if (!grown) {
        return no_memory(m);
    }
    memset((unsigned char *)grown + (size_t)*room * size, 0, (size_t)(more - *room) * size);
    *array = grown;
    *room = more;
    return true;
}

/* ---- what is allowed ------------------------------------------------------------------------------- */

typedef enum Global { G_ORDERED_DICT, G_REBUILD, G_REBUILD_V2, G_PARAMETER, G_SIZE, G_DTYPE, G_STORAGE } Global;

static const struct {
    const char *module, *name;
    Global tag;
    KdStored stored; /* of G_STORAGE */
} globals[] = {
    {"collections", "OrderedDict", G_ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor", G_REBUILD, 0},
    {"torch._utils", "_rebuild_tensor_v2", G_REBUILD_V2, 0},
    {"torch._utils", "_rebuild_parameter", G_PARAMETER, 0},
    {"torch", "Size", G_SIZE, 0},
    {"torch", "FloatStorage", G_STORAGE, KD_STORED_F32},
    {"torch", "HalfStorage", G_STORAGE, KD_STORED_F16},
    {"torch", "BFloat16Storage", G_STORAGE, KD_STORED_BF16},
    {"torch", "DoubleStorage", G_STORAGE, KD_STORED_F64},
    {"torch", "LongStorage", G_STORAGE, KD_STORED_I64},
    {"torch", "IntStorage", G_STORAGE, KD_STORED_I32},
    {"torch", "ShortStorage", G_STORAGE, KD_STORED_I16},
    {"torch", "CharStorage", G_STORAGE, KD_STORED_I8},
    {"torch", "ByteStorage", G_STORAGE, KD_STORED_U8},
    {"torch", "BoolStorage", G_STORAGE, KD_STORED_BOOL},
    {"torch", "float32", G_DTYPE, 0},
    {"torch", "float16", G_DTYPE, 0},
    {"torch", "bfloat16", G_DTYPE, 0},
    {"torch", "float64", G_DTYPE, 0},
    {"torch", "int64", G_DTYPE, 0},
    {"torch", "int32", G_DTYPE, 0},
    {"torch", "int16", G_DTYPE, 0},
    {"torch", "int8", G_DTYPE, 0},
    {"torch", "uint8", G_DTYPE, 0},
    {"torch", "bool", G_DTYPE, 0},
};
#define N_GLOBALS ((int)(sizeof globals / sizeof globals[0]))

const char *kd_pickle_storage_name(KdStored s) {
    for (int i = 0; i < N_GLOBALS; i++) {
        if (globals[i].tag == G_STORAGE && globals[i].stored == s) {
            return globals[i].name;
        }
    }
    return NULL;
}

/* Printable, for a message: what is no plain character becomes '?'. */
static void printable(char *out, size_t size, const char *text, size_t n) {
    size_t k = 0;
    for (; k < n && k + 1 < size; k++) {
        out[k] = text[k] >= ' ' && text[k] <= '~' ? text[k] : '?';
    }
    out[k] = 0;
}

static bool bad(Machine *m, const char *what) {
    return kd_trouble(m->t, false, "%s: %s at byte %zu of the pickle; only state dicts of tensors are read", m->p->from,
                      what, m->op);
}

/* ---- values ---------------------------------------------------------------------------------------- */

/* Every value made, pushed or put into a dict counts, so that a small file cannot ask for much work or memory. */
static bool count(Machine *m) {
    return m->m->values++ < KD_PICKLE_MAX_VALUES ||
           kd_trouble(m->t, false, "%s: the pickle has more than %d values", m->p->from, KD_PICKLE_MAX_VALUES);
}

static KdPickleValue *value(Machine *m, KdPickleKind kind) {
    KdPickleValue *v = count(m) ? take(m, sizeof *v) : NULL;
    if (v) {
        v->kind = kind;
    }
    return v;
}

static bool push(Machine *m, KdPickleValue *v) {
    if (!v || !count(m) || !reserve(m, &m->stack, m->sp, &m->stack_room, sizeof *m->stack)) {
        return false;
    }
    m->stack[m->sp++] = v;
    return true;
}

static bool push_int(Machine *m, KdPickleKind kind, int64_t i) {
    KdPickleValue *v = value(m, kind);
    if (v) {
        v->i = i;
    }
    return push(m, v);
}

static bool push_text(Machine *m, const unsigned char *text, size_t n) {
    KdPickleValue *v = value(m, KD_PICKLE_TEXT);
    char *copy = v ? take(m, n + 1) : NULL;
    if (!copy) {
        return false;
    }
    memcpy(copy, text, n);
    v->n = (int)n; /* at most KD_PICKLE_MAX_BYTES */
    v->text = copy;
    return push(m, v);
}

static bool append(Machine *m, KdPickleValue *v, KdPickleValue *x) {
    if (!count(m)) {
        return false;
    }
    if (v->n == v->capacity) {
        int more = v->n ? 2 * v->n : 4;
        KdPickleValue **grown = take(m, (size_t)more * sizeof *grown);
        if (!grown) {
            return false;
        }
        if (v->n) {
            memcpy(grown, v->item, (size_t)v->n * sizeof *grown);
        }
        v->item = grown;
        v->capacity = more;
    }
    v->item[v->n++] = x;
    return true;
}

/* ---- reading bytes --------------------------------------------------------------------------------- */

static const unsigned char *bytes(Machine *m, uint64_t n) {
    if (n > m->n - m->at) {
        kd_trouble(m->t, false, "%s: cut off: the pickle ends inside what byte %zu begins", m->p->from, m->op);
        return NULL;
    }
    const unsigned char *p = m->data + m->at;
    m->at += (size_t)n;
    return p;
}

/* A little-endian number of n bytes. */
static bool number(Machine *m, int n, uint64_t *v) {
    const unsigned char *p = bytes(m, (uint64_t)n);
    *v = 0;
    for (int i = n - 1; p && i >= 0; i--) {
        *v = *v << 8 | p[i];
    }
    return p != NULL;
}

static bool text_of(Machine *m, int size) {
    uint64_t n;
    const unsigned char *p = number(m, size, &n) ? bytes(m, n) : NULL;
    return p && push_text(m, p, (size_t)n);
}

static bool long_of(Machine *m) {
    uint64_t n, v = 0;
    const unsigned char *p = number(m, 1, &n) ? bytes(m, n) : NULL;
    if (!p) {
        return false;
    }
    if (n > 8) {
        return push_int(m, KD_PICKLE_LONG, 0);
    }
    for (int i = 7; i >= 0; i--) { /* the sign goes on */
        v = v << 8 | ((uint64_t)i < n ? p[i] : n && p[n - 1] >= 128 ? 255u : 0u);
    }
    return push_int(m, KD_PICKLE_INT, (int64_t)v);
}

/* ---- stack ----------------------------------------------------------------------------------------- */

/* The topmost n values, none of them below the last mark; NULL after a message. */
static KdPickleValue **top(Machine *m, int n) {
    int base = m->n_marks ? m->mark[m->n_marks - 1] : 0;
    if (m->sp - base < n) {
        bad(m, "too few values on the stack");
        return NULL;
    }
    return m->stack + m->sp - n;
}

/* Takes the last mark away; *n: how many values are above it. */
static KdPickleValue **above_mark(Machine *m, int *n) {
    if (!m->n_marks) {
        bad(m, "no mark on the stack");
        return NULL;
    }
    int base = m->mark[--m->n_marks];
    *n = m->sp - base;
    m->sp = base;
    return m->stack + base;
}

static bool make_tuple(Machine *m, KdPickleValue **x, int n) {
    KdPickleValue *v = x ? value(m, KD_PICKLE_TUPLE) : NULL;
    if (!v) {
        return false;
    }
    if (n) {
        v->item = take(m, (size_t)n * sizeof *x);
        if (!v->item) {
            return false;
        }
        memcpy(v->item, x, (size_t)n * sizeof *x);
        v->n = v->capacity = n;
    }
    return push(m, v);
}

static bool short_tuple(Machine *m, int n) {
    KdPickleValue **x = top(m, n);
    if (x) {
        m->sp -= n;
    }
    return make_tuple(m, x, n);
}

static bool long_tuple(Machine *m) {
    int n = 0;
    KdPickleValue **x = above_mark(m, &n);
    return make_tuple(m, x, n);
}

/* APPENDS and SETITEMS; APPEND and SETITEM where n is given. */
static bool extend(Machine *m, KdPickleKind kind, int n) {
    KdPickleValue **x = n ? top(m, n) : above_mark(m, &n);
    if (!x) {
        return false;
    }
    if (m->sp == x - m->stack + n) { /* APPEND: the values are still on it */
        m->sp -= n;
    }
    KdPickleValue **target = top(m, 1);
    if (!target) {
        return false;
    }
    KdPickleValue *v = *target;
    if (v->kind != kind || (kind == KD_PICKLE_DICT && n % 2)) {
        return bad(m, kind == KD_PICKLE_DICT ? "items set in what is no dict" : "values appended to what is no list");
    }
    for (int i = 0; i < n; i++) {
        if (!append(m, v, x[i])) {
            return false;
        }
    }
    return true;
}

static bool put(Machine *m, uint64_t slot) {
    KdPickleValue **x = top(m, 1);
    if (!x) {
        return false;
    }
    if (slot >= KD_PICKLE_MAX_VALUES) {
        return bad(m, "a memo slot out of bounds");
    }
    if (!reserve(m, &m->memo, (int)slot, &m->memo_room, sizeof *m->memo)) {
        return false;
    }
    m->memoized += m->memo[slot] == NULL;
    m->memo[slot] = *x;
    return true;
}

static bool get(Machine *m, uint64_t slot) {
    KdPickleValue *v = slot < (uint64_t)m->memo_room ? m->memo[slot] : NULL;
    return v ? push(m, v) : bad(m, "an empty memo slot is read");
}

/* ---- globals --------------------------------------------------------------------------------------- */

static bool global(Machine *m, const char *module, size_t n_module, const char *name, size_t n_name) {
    for (int i = 0; i < N_GLOBALS; i++) {
        if (strlen(globals[i].module) == n_module && memcmp(globals[i].module, module, n_module) == 0 &&
            strlen(globals[i].name) == n_name && memcmp(globals[i].name, name, n_name) == 0) {
            return push_int(m, KD_PICKLE_GLOBAL, i);
        }
    }
    char a[100], b[100];
    printable(a, sizeof a, module, n_module);
    printable(b, sizeof b, name, n_name);
    return kd_trouble(m->t, false, "%s: the pickle asks for '%s.%s' at byte %zu; only state dicts of tensors are read, as "
                                   "torch.save(model.state_dict(), ...) writes them",
                      m->p->from, a, b, m->op);
}

static bool global_lines(Machine *m) {
    const unsigned char *line[2];
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        line[i] = m->data + m->at;
        const unsigned char *end = memchr(line[i], '\n', m->n - m->at);
        if (!end) {
            return bytes(m, UINT64_MAX) != NULL; /* cut off */
        }
        n[i] = (size_t)(end - line[i]);
        m->at += n[i] + 1;
    }
    return global(m, (const char *)line[0], n[0], (const char *)line[1], n[1]);
}

static bool global_stack(Machine *m) {
    KdPickleValue **x = top(m, 2);
    if (!x) {
        return false;
    }
    if (x[0]->kind != KD_PICKLE_TEXT || x[1]->kind != KD_PICKLE_TEXT) {
        return bad(m, "a global whose name is no text");
    }
    m->sp -= 2;
    return global(m, x[0]->text, (size_t)x[0]->n, x[1]->text, (size_t)x[1]->n);
}

/* ---- storages -------------------------------------------------------------------------------------- */

bool kd_pickle_key(const char *text, int n, uint64_t *key) {
    *key = 0;
    if (n < 1 || n > 19 || (n > 1 && text[0] == '0')) { /* 19 digits fit into 64 bits */
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        *key = *key * 10 + (uint64_t)(text[i] - '0');
    }
    return true;
}

/* Where key stands in the table of n slots, or would. */
static uint32_t slot_of(const KdPickle *p, const uint32_t *slot, uint32_t n, uint64_t key) {
    uint32_t h = (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & (n - 1);
    while (slot[h] && p->storage[slot[h] - 1].key != key) {
        h = (h + 1) & (n - 1);
    }
    return h;
}

int kd_pickle_storage(const KdPickle *p, uint64_t key) {
    const Memory *m = p->memory;
    return m && m->n_slots ? (int)m->slot[slot_of(p, m->slot, m->n_slots, key)] - 1 : -1;
}

/* Room for one more storage in the table, which stays at most half full, and in the array. */
static bool room_for_storage(Machine *m) {
    Memory *mem = m->m;
    KdPickle *p = m->p;
    if (2 * (uint32_t)p->n_storages >= mem->n_slots) {
        uint32_t n = mem->n_slots ? 2 * mem->n_slots : 256;
        uint32_t *slot = calloc(n, sizeof *slot);
        if (!slot) {
            return no_memory(m);
        }
        for (int i = 0; i < p->n_storages; i++) {
            slot[slot_of(p, slot, n, p->storage[i].key)] = (uint32_t)i + 1;
        }
        free(mem->slot);
        mem->slot = slot;
        mem->n_slots = n;
    }
    return reserve(m, &p->storage, p->n_storages, &mem->capacity, sizeof *p->storage);
}

static bool is_text(const KdPickleValue *v, const char *text) {
    return v->kind == KD_PICKLE_TEXT && (size_t)v->n == strlen(text) && memcmp(v->text, text, (size_t)v->n) == 0;
}

/* ('storage', type, key, location, count[, view]) -> STORAGE */
static bool persistent(Machine *m) {
    KdPickleValue **x = top(m, 1);
    if (!x) {
        return false;
    }
    const KdPickleValue *id = x[0], *view = NULL;
    if (id->kind == KD_PICKLE_TUPLE && id->n && is_text(id->item[0], "module")) {
        return kd_trouble(m->t, false, "%s: a whole Python module (byte %zu of the pickle); what can be read is what "
                                       "torch.save(model.state_dict(), ...) writes", m->p->from, m->op);
    }
    if (id->kind != KD_PICKLE_TUPLE || id->n < 5 || id->n > 6 || !is_text(id->item[0], "storage") ||
        id->item[1]->kind != KD_PICKLE_GLOBAL || globals[id->item[1]->i].tag != G_STORAGE ||
        id->item[2]->kind != KD_PICKLE_TEXT || id->item[4]->kind != KD_PICKLE_INT) {
        return bad(m, "a persistent id that is no storage");
    }
    KdPickleStorage s = {.dtype = globals[id->item[1]->i].stored, .count = id->item[4]->i};
    if (!kd_pickle_key(id->item[2]->text, id->item[2]->n, &s.key)) {
        return bad(m, "a storage whose key is no number");
    }
    if (s.count < 0 || s.count > INT64_MAX / 16) {
        return bad(m, "a storage whose count of elements is out of bounds");
    }
    KdPickleValue *v = value(m, KD_PICKLE_STORAGE);
    if (!v || !room_for_storage(m)) {
        return false;
    }
    v->size = s.count;
    if (id->n == 6 && id->item[5]->kind != KD_PICKLE_NONE) { /* old: (its key, offset, count) */
        view = id->item[5];
        if (view->kind != KD_PICKLE_TUPLE || view->n != 3 || view->item[1]->kind != KD_PICKLE_INT ||
            view->item[2]->kind != KD_PICKLE_INT) {
            return bad(m, "a storage's view that is no (key, offset, count)");
        }
        v->from = view->item[1]->i;
        v->size = view->item[2]->i;
        if (v->from < 0 || v->size < 0 || v->from > s.count || v->size > s.count - v->from) {
            return bad(m, "a view outside of its storage");
        }
    }
    Memory *mem = m->m;
    uint32_t h = slot_of(m->p, mem->slot, mem->n_slots, s.key);
    if (!mem->slot[h]) {
        m->p->storage[m->p->n_storages++] = s;
        mem->slot[h] = (uint32_t)m->p->n_storages;
    }
    const KdPickleStorage *known = &m->p->storage[mem->slot[h] - 1];
    if (known->dtype != s.dtype || known->count != s.count) {
        return bad(m, "a storage with two types or sizes");
    }
    v->i = mem->slot[h] - 1;
    x[0] = v;
    return true;
}

/* ---- REDUCE and BUILD ------------------------------------------------------------------------------ */

/* Everything that makes an index of the tensor safe. */
static bool tensor_fits(Machine *m, const KdPickleValue *storage, const KdPickleValue *const *arg, KdPickleTensor *x) {
    int64_t last = x->offset;
    if (x->offset < 0) {
        return bad(m, "a tensor with a negative offset");
    }
    x->count = 1;
    for (int d = 0; d < x->rank; d++) {
        const KdPickleValue *n = arg[2]->item[d], *s = arg[3]->item[d];
        if (n->kind != KD_PICKLE_INT || s->kind != KD_PICKLE_INT || n->i < 0 || s->i < 0) {
            return bad(m, "a tensor with a size or stride that is no number >= 0");
        }
        x->dim[d] = n->i;
        x->stride[d] = s->i;
        if (n->i > 0 && x->count > INT64_MAX / 16 / n->i) {
            return bad(m, "a tensor with too many elements");
        }
        x->count *= n->i;
    }
    for (int d = 0; d < x->rank && x->count; d++) {
        int64_t reach;
        if (__builtin_mul_overflow(x->dim[d] - 1, x->stride[d], &reach) || __builtin_add_overflow(last, reach, &last)) {
            return bad(m, "a tensor with strides out of bounds");
        }
    }
    if (x->count && last >= storage->size) {
        return kd_trouble(m->t, false,
                          "%s: the tensor at byte %zu of the pickle reaches element %" PRId64 " of a storage of %" PRId64,
                          m->p->from, m->op, last, storage->size);
    }
    x->offset += storage->from;
    return true;
}

/* (storage, offset, size, stride[, requires_grad, hooks[, metadata]]) */
static bool rebuild(Machine *m, const KdPickleValue *args, int least, int most) {
    const KdPickleValue *const *arg = (const KdPickleValue *const *)args->item;
    if (args->n < least || args->n > most || arg[0]->kind != KD_PICKLE_STORAGE || arg[1]->kind != KD_PICKLE_INT ||
        arg[2]->kind != KD_PICKLE_TUPLE || arg[3]->kind != KD_PICKLE_TUPLE || arg[2]->n != arg[3]->n ||
        arg[2]->n > KD_PICKLE_MAX_RANK) {
        return bad(m, "a tensor that is not (storage, offset, size, stride)");
    }
    KdPickleValue *v = value(m, KD_PICKLE_TENSOR);
    KdPickleTensor *x = v ? take(m, sizeof *x) : NULL;
    int64_t *numbers = x ? take(m, 2 * sizeof *numbers * (size_t)(arg[2]->n + 1)) : NULL;
    if (!numbers) {
        return false;
    }
    *x = (KdPickleTensor){(int)arg[0]->i, arg[2]->n, arg[1]->i, 0, numbers, numbers + arg[2]->n};
    v->tensor = x;
    return tensor_fits(m, arg[0], arg, x) && push(m, v);
}

/* OrderedDict(), or Python 2's OrderedDict([[key, value], ...]) */
static bool ordered_dict(Machine *m, const KdPickleValue *args) {
    KdPickleValue *v = value(m, KD_PICKLE_DICT);
    if (!v) {
        return false;
    }
    if (args->n > 1 || (args->n == 1 && args->item[0]->kind != KD_PICKLE_LIST)) {
        return bad(m, "an OrderedDict of something else than a list");
    }
    for (int i = 0; args->n && i < args->item[0]->n; i++) {
        const KdPickleValue *pair = args->item[0]->item[i];
        if ((pair->kind != KD_PICKLE_LIST && pair->kind != KD_PICKLE_TUPLE) || pair->n != 2) {
            return bad(m, "an OrderedDict with an item that is no pair");
        }
        if (!append(m, v, pair->item[0]) || !append(m, v, pair->item[1])) {
            return false;
        }
    }
    return push(m, v);
}

static bool reduce(Machine *m) {
    KdPickleValue **x = top(m, 2);
    if (!x) {
        return false;
    }
    if (x[0]->kind != KD_PICKLE_GLOBAL || x[1]->kind != KD_PICKLE_TUPLE) {
        return bad(m, "a call of what is no known name");
    }
    m->sp -= 2;
    KdPickleValue *args = x[1];
    switch (globals[x[0]->i].tag) {
    case G_ORDERED_DICT:
        return ordered_dict(m, args);
    case G_REBUILD:
        return rebuild(m, args, 4, 4);
    case G_REBUILD_V2:
        return rebuild(m, args, 6, 7);
    case G_PARAMETER: /* (tensor, requires_grad, hooks) */
        return args->n >= 1 && args->n <= 3 && args->item[0]->kind == KD_PICKLE_TENSOR
                   ? push(m, args->item[0])
                   : bad(m, "a parameter of no tensor");
    case G_SIZE:
        return args->n == 1 && args->item[0]->kind == KD_PICKLE_TUPLE
                   ? push(m, args->item[0])
                   : bad(m, "a Size of no tuple");
    case G_DTYPE:
    case G_STORAGE:
        break;
    }
    return bad(m, "a call of a type");
}

/* A dict's attributes (_metadata), which mean nothing here. */
static bool build(Machine *m) {
    KdPickleValue **x = top(m, 2);
    if (!x) {
        return false;
    }
    if (x[0]->kind != KD_PICKLE_DICT) {
        return bad(m, "attributes set on what is no dict");
    }
    m->sp--;
    return true;
}

/* ---- the machine ----------------------------------------------------------------------------------- */

static bool protocol(Machine *m) {
    uint64_t v;
    return number(m, 1, &v) && ((v >= 2 && v <= 5) || bad(m, "a protocol other than 2 to 5"));
}

static bool mark(Machine *m) {
    if (m->n_marks >= KD_PICKLE_MAX_VALUES) {
        return bad(m, "too many marks");
    }
    if (!reserve(m, &m->mark, m->n_marks, &m->mark_room, sizeof *m->mark)) {
        return false;
    }
    m->mark[m->n_marks++] = m->sp;
    return true;
}

static bool step(Machine *m, unsigned char op) {
    uint64_t v;
    char what[64];
    switch (op) {
    case 0x80: return protocol(m);
    case 0x95: return bytes(m, 8) != NULL; /* FRAME: a hint about buffering */
    case '(': return mark(m);
    case 'N': return push(m, value(m, KD_PICKLE_NONE));
    case 0x88: return push_int(m, KD_PICKLE_BOOL, 1);
    case 0x89: return push_int(m, KD_PICKLE_BOOL, 0);
    case 'K': return number(m, 1, &v) && push_int(m, KD_PICKLE_INT, (int64_t)v);
    case 'M': return number(m, 2, &v) && push_int(m, KD_PICKLE_INT, (int64_t)v);
    case 'J': return number(m, 4, &v) && push_int(m, KD_PICKLE_INT, (int32_t)(uint32_t)v);
    case 0x8a: return long_of(m);
    case 'G': return bytes(m, 8) && push(m, value(m, KD_PICKLE_FLOAT)); /* skipped wherever it is */
    case 'U': case 0x8c: return text_of(m, 1);
    case 'T': case 'X': return text_of(m, 4);
    case ')': return make_tuple(m, m->stack, 0);
    case 't': return long_tuple(m);
    case 0x85: return short_tuple(m, 1);
    case 0x86: return short_tuple(m, 2);
    case 0x87: return short_tuple(m, 3);
    case ']': return push(m, value(m, KD_PICKLE_LIST));
    case '}': return push(m, value(m, KD_PICKLE_DICT));
    case 'a': return extend(m, KD_PICKLE_LIST, 1);
    case 'e': return extend(m, KD_PICKLE_LIST, 0);
    case 's': return extend(m, KD_PICKLE_DICT, 2);
    case 'u': return extend(m, KD_PICKLE_DICT, 0);
    case 'q': return number(m, 1, &v) && put(m, v);
    case 'r': return number(m, 4, &v) && put(m, v);
    case 0x94: return put(m, (uint64_t)m->memoized);
    case 'h': return number(m, 1, &v) && get(m, v);
    case 'j': return number(m, 4, &v) && get(m, v);
    case 'c': return global_lines(m);
    case 0x93: return global_stack(m);
    case 'Q': return persistent(m);
    case 'R': return reduce(m);
    case 'b': return build(m);
    }
    snprintf(what, sizeof what, op > ' ' && op <= '~' ? "opcode 0x%02x ('%c')" : "opcode 0x%02x", op, op);
    return bad(m, what);
}

static KdPickleValue *machine_run(Machine *m) {
    for (;;) {
        m->op = m->at;
        const unsigned char *op = bytes(m, 1);
        if (!op) {
            return NULL;
        }
        if (*op == '.') {
            if (m->sp != 1 || m->n_marks) {
                bad(m, "an end with other than one value left");
                return NULL;
            }
            return m->stack[0];
        }
        if (!step(m, *op)) {
            return NULL;
        }
    }
}

const KdPickleValue *kd_pickle_read(KdPickle *p, const unsigned char *data, size_t n, size_t *used, KdTrouble *t) {
    if (!p->memory && !(p->memory = calloc(1, sizeof(Memory)))) {
        kd_trouble(t, true, "%s: out of memory", p->from);
        return NULL;
    }
    Machine m = {.p = p, .m = p->memory, .t = t, .data = data, .n = n < KD_PICKLE_MAX_BYTES ? n : KD_PICKLE_MAX_BYTES};
    KdPickleValue *v = reserve(&m, &m.stack, 0, &m.stack_room, sizeof *m.stack) ? machine_run(&m) : NULL;
    free(m.stack);
    free(m.memo);
    free(m.mark);
    *used = m.at;
    return v;
}

void kd_pickle_free(KdPickle *p) {
    Memory *m = p->memory;
    while (m && m->block) {
        Block *next = m->block->next;
        free(m->block);
        m->block = next;
    }
    if (m) {
        free(m->slot);
    }
    free(m);
    free(p->storage);
    p->memory = NULL;
    p->storage = NULL;
    p->n_storages = 0;
}
