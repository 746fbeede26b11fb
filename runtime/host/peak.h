/* peak.h: the machine's own f32 multiply-add peak, the yardstick of `kdc bench`. */
#ifndef KD_HOST_PEAK_H
#define KD_HOST_PEAK_H

/* GFLOP/s that `threads` threads together reach with independent multiply-adds in registers, the best of a few runs
 * of some 10 to 20 ms. More threads than the machine has cores are measured as that many: there is no more to reach.
 * 0 when threads cannot be started. */
double kd_host_fma_peak(int threads);

/* What it was measured with: "avx512", "avx2+fma", "sse2", "neon". */
const char *kd_host_fma_name(void);

#endif
