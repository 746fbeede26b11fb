/* type.c: interned types and their text. Equal types of one context are one pointer. */
#include <inttypes.h>

#include "ir/ir.h"

static const struct {
    const char *name;
    int size;
} dtypes[KD_DTYPE_COUNT] = {[KD_F32] = {"f32", 4}, [KD_I32] = {"i32", 4}, [KD_U8] = {"u8", 1}};

const char *kd_dtype_name(KdDType d) { return dtypes[d].name; }

int kd_dtype_size(KdDType d) { return dtypes[d].size; }

const KdType *kd_type(KdContext *cx, KdDType dtype, int rank, const int64_t *dim) {
    if (rank < 0 || rank > KD_MAX_RANK || dtype >= KD_DTYPE_COUNT) return NULL;
    KdType t = {dtype, rank, {0}, 1};
    for (int i = 0; i < rank; i++) {
        t.dim[i] = dim[i];
        if (dim[i] < 0 || dim[i] > INT32_MAX) return NULL; /* also beside a 0, so that no sum of sizes overflows */
        if (!kd_mul_ok(t.count, dim[i], &t.count) || t.count > INT32_MAX) return NULL;
    }
    KdMap *types = kd_context_types(cx);
    uint64_t words[2 + KD_MAX_RANK] = {(uint64_t)dtype, (uint64_t)rank};
    for (int i = 0; i < rank; i++) words[2 + i] = (uint64_t)dim[i];
    uint64_t key = kd_hash_bytes(words, sizeof words, 3), found;
    for (; kd_map_get(types, key, &found); key++) { /* a colliding hash moves on to the next key */
        const KdType *old = (const KdType *)(uintptr_t)found;
        bool same = old->dtype == dtype && old->rank == rank;
        for (int i = 0; same && i < rank; i++) same = old->dim[i] == dim[i];
        if (same) return old;
    }
    KdType *fresh = KD_NEW(cx, KdType);
    *fresh = t;
    kd_map_put(types, key, (uint64_t)(uintptr_t)fresh);
    return fresh;
}

const char *kd_shape_text(KdContext *cx, const KdType *t) {
    KdStr s = {cx, NULL, 0, 0};
    kd_str_printf(&s, "[");
    for (int i = 0; i < t->rank; i++) kd_str_printf(&s, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    kd_str_printf(&s, "]");
    return s.s;
}

const char *kd_type_text(KdContext *cx, const KdType *t) {
    return kd_format(cx, "%s%s", kd_dtype_name(t->dtype), kd_shape_text(cx, t));
}
