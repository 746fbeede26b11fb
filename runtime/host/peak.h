/* peak.h: the machine's own limits, the yardsticks of `kdc bench`: f32 multiply-adds, and memory. */
#ifndef KD_HOST_PEAK_H
#define KD_HOST_PEAK_H

/* GFLOP/s that `threads` threads together reach with independent multiply-adds in registers, the best of a few runs
 * of some 10 to 20 ms. More threads than the machine has cores are measured as that many: there is no more to reach.
 * 0 when threads cannot be started. */
double kd_host_fma_peak(int threads);

/* What it was measured with: "avx512", "avx2+fma", "sse2", "neon". */
const char *kd_host_fma_name(void);

/* GB/s (1e9 bytes) that `threads` threads together get from memory and bring there; 0 where that cannot be measured. */
typedef struct KdBandwidth {
    double triad; /* a[i] = b[i] + s * c[i], 12 bytes for each i, whatever the caches do besides */
    double read;
} KdBandwidth;

/* The best of a few passes over 192 MB (in all threads together), which are allocated and freed; some 0.3 s. As many
 * threads as above. */
KdBandwidth kd_host_bandwidth(int threads);

#endif
