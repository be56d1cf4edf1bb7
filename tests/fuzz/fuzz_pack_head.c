/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the header of a file of packed weights: refused with a text, or every place lies
 * inside the file. */
#include "worker/cpu/pack_cache.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(const void *page, size_t n, uint64_t file_bytes)
{
    struct pack_head h;
    struct err e = {0};
    if (pack_head_read(&h, page, n, file_bytes, &e) != 0) {
        if (!e.msg[0])
            abort();
        return;
    }
    if (h.n_mats < 1 || h.n_mats > PACK_MAX_MATS || !memchr(h.isa, 0, sizeof h.isa) ||
        h.payload_bytes > file_bytes)
        abort();
    for (uint32_t i = 0; i < h.n_mats; i++)
        if (h.mats[i].at > h.payload_bytes || h.mats[i].bytes > h.payload_bytes - h.mats[i].at)
            abort();
}

/* The first 8 bytes say how long the file is. Most inputs fail at the checksum, so the rest is
 * also taken as a header's content and sealed. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint64_t file_bytes;
    struct pack_head h;
    unsigned char page[PACK_HEADER_BYTES];
    if (n < sizeof file_bytes)
        return 0;
    memcpy(&file_bytes, data, sizeof file_bytes);
    data += sizeof file_bytes;
    n -= sizeof file_bytes;
    check(data, n, file_bytes);
    memset(&h, 0, sizeof h);
    memcpy(&h, data, n < sizeof h ? n : sizeof h);
    h.n_mats %= PACK_MAX_MATS + 1;
    pack_head_write(&h, page);
    check(page, sizeof page, h.payload_bytes + PACK_PAYLOAD_AT);
    check(page, sizeof page, file_bytes);
    return 0;
}
