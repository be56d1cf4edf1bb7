/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GGUF file: refused with a text, or every promised byte readable. */
#include "quant/gguf.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static unsigned volatile sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g;
    struct err e = {0};
    if (gguf_open_mem(&g, data, n, &e) != 0) {
        if (!e.msg[0])
            abort();
        return 0;
    }
    unsigned sum = 0;
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        const unsigned char *cur = NULL;
        for (uint64_t k = 0; k < kv->count; k++) {
            struct gguf_str s = {NULL, 0};
            if (kv->elem == GGUF_STRING) {
                cur = gguf_arr_next_str(kv, cur, &s);
                sum += s.n ? (unsigned char)s.p[s.n - 1] : 0;
            } else {
                sum += (unsigned)gguf_arr_i64(kv, k);
            }
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        sum += ((const unsigned char *)t->data)[t->bytes - 1];
        if (t->type->decode) {
            float y[256];
            t->type->decode(t->data, y, t->type->block_len);
        }
    }
    sink += sum;
    gguf_close(g);
    return 0;
}
