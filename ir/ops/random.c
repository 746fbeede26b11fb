/* random.c: uniform numbers as a pure function of (seed, step, stream, linear index): see
 * ir/random_bits.h. */
#include "ir/ops/ops.h"
#include "ir/ops/shape.h"
#include "ir/random_bits.h"

const KdType *infer_random(KdBuilder *b, KdOp op, const KdValue *in, int n_in, const KdAttr *attr) {
    (void)n_in;
    if (!kd_check_scalar(b, op, "seed", kd_vtype(b->f, in[0]), KD_I32)) return NULL;
    if (!kd_check_scalar(b, op, "step", kd_vtype(b->f, in[1]), KD_I32)) return NULL;
    if (attr[0].i < 0 || attr[0].i > INT32_MAX) {
        kd_error(b->cx, b->loc, "random: the stream must be in 0 .. 2^31 - 1, found %lld",
                 (long long)attr[0].i);
        return NULL;
    }
    return kd_result_type(b, op, KD_F32, attr[1].ints.n, attr[1].ints.v);
}

/* The key is the same for all elements; as pure code of loop-invariant values it is computed once.
 * */
uint32_t elem_random(KdElem *e, KdValue n, const uint32_t *idx) {
    const KdNode *node = kd_node(e->f, n);
    KlBuilder *b = e->b;
    const KlValue none[1] = {KL_NONE};
    KlValue seed = e->operand(e, n, 0, none), step = e->operand(e, n, 1, none);
    KlValue stream = kl_i32(b, (int32_t)kd_attr_int(e->f, node, "stream"));
    KlValue key = kl_random_bits(b, kl_i32(b, 0), seed);
    key = kl_random_bits(b, kl_random_bits(b, key, step), stream);
    KlValue counter = kl_cvt(b, KL_I32, kd_linear_index(b, node->type, idx));
    KlValue bits = kl_random_bits(b, key, counter);
    KlValue top = kl_op2(b, KL_OP_SHR, bits, kl_i32(b, 8));
    return kl_op2(b, KL_OP_MUL, kl_cvt(b, KL_F32, top), kl_f32(b, 0x1p-24));
}

void eval_random(const KdFunc *f, const KdNode *n, const double *const *in, double *out) {
    uint32_t seed = (uint32_t)(int32_t)in[0][0], step = (uint32_t)(int32_t)in[1][0];
    uint32_t key = kd_random_key(seed, step, (uint32_t)kd_attr_int(f, n, "stream"));
    for (int64_t i = 0; i < n->type->count; i++)
        out[i] = (double)kd_random_uniform(kd_random_bits(key, (uint32_t)i));
}
