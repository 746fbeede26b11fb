/* random_bits.h: the one definition of our random numbers.
 *
 * In: a 32-bit key and a 32-bit counter. Out: 32 bits that look independent for every pair. There
 * is no state, so any element of any tensor of any step can be drawn alone, by any thread, in any
 * order.
 *
 *   mix(x):          x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16
 *   bits(key, c):    mix(mix(c + 0x9e3779b9) ^ key)
 *   key(s, t, r):    bits(bits(bits(0, s), t), r)      s: seed, t: step, r: the op's stream
 *   uniform(bits):   (bits >> 8) * 2^-24               in [0, 1), exact in float
 *
 * All arithmetic is modulo 2^32, shifts are logical. mix is a bijection, so under one key the
 * counters 0..2^32-1 give every value exactly once. The constants are Chris Wellons' "lowbias32"
 * (found by search for least avalanche bias); 0x9e3779b9 is 2^32 over the golden ratio and keeps
 * (0, 0) off mix's fixed point 0.
 *
 * kl_random_bits (loop_math.c) is the same function as loop IR; tests/ir/test_ops_a.c compares the
 * two bit for bit.
 */
#ifndef KD_RANDOM_BITS_H
#define KD_RANDOM_BITS_H

#include <stdint.h>

static inline uint32_t kd_random_mix(uint32_t x) {
    x ^= x >> 16;
    x *= UINT32_C(0x7feb352d);
    x ^= x >> 15;
    x *= UINT32_C(0x846ca68b);
    x ^= x >> 16;
    return x;
}

static inline uint32_t kd_random_bits(uint32_t key, uint32_t counter) {
    return kd_random_mix(kd_random_mix(counter + UINT32_C(0x9e3779b9)) ^ key);
}

/* The key of one random tensor: what kd_random_bits takes with the element's linear index. */
static inline uint32_t kd_random_key(uint32_t seed, uint32_t step, uint32_t stream) {
    return kd_random_bits(kd_random_bits(kd_random_bits(0, seed), step), stream);
}

static inline float kd_random_uniform(uint32_t bits) {
    return (float)(bits >> 8) * 0x1p-24f;
}

#endif
