/* checksum.c: see checksum.h. A byte at a time from a table that the compiler could hold: some 400 MB/s, files are small. */
#include "runtime/host/checksum.h"

static void make_table(uint32_t table[256]) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        }
        table[i] = c;
    }
}

uint32_t kd_crc32c(uint32_t crc, const void *data, size_t n) {
    uint32_t table[256]; /* made anew each time, some microseconds: nothing global */
    const unsigned char *p = data;
    make_table(table);
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc = table[(crc ^ p[i]) & 255] ^ crc >> 8;
    }
    return ~crc;
}
