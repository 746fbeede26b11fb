/* checksum.h: CRC-32C (Castagnoli, reflected 0x82F63B78, initial and final xor 0xffffffff): TensorBoard's records and the
 * sum inside a checkpoint. crc: 0 to begin, or the result so far. */
#ifndef KD_HOST_CHECKSUM_H
#define KD_HOST_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint32_t kd_crc32c(uint32_t crc, const void *data, size_t n);

#endif
