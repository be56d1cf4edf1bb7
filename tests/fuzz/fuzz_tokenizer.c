/* SPDX-License-Identifier: Apache-2.0 */
/* A GGUF with a vocabulary, then text: open the tokeniser, encode the text, decode the ids.
 * The text is what follows the last "\n--text--\n"; without it, the whole input. */
#include "worker/text/tokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char mark[] = "\n--text--\n";

static void use(const struct tokenizer *t, const char *text, size_t n)
{
    for (int how = 0; how < 4; how++) {
        struct token_list ids = {0};
        struct buf out;
        struct err e;
        buf_init(&out, 64 << 20);
        if (tokenizer_encode(t, text, n, how & 1, (how & 2) != 0, &ids, &e) == 0) {
            for (size_t i = 0; i < ids.n; i++) {
                if (ids.ids[i] >= tokenizer_n_vocab(t))
                    abort();
                /* Plain text must never become a control token, but for the unknown one. */
                bool unk = ids.ids[i] == tokenizer_unk(t) && !tokenizer_is_eog(t, ids.ids[i]);
                bool added = ids.ids[i] == tokenizer_bos(t) || ids.ids[i] == tokenizer_eos(t);
                if (how == 0 && !added && !unk && tokenizer_is_control(t, ids.ids[i]))
                    abort();
            }
            if (tokenizer_decode(t, ids.ids, ids.n, how & 1, &out, &e) && !out.failed)
                abort();
        }
        buf_fini(&out);
        free(ids.ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct err e = {0};
    const char *text = (const char *)data, *end = text + size;
    size_t n = size;

    for (const char *p = text;
         (p = memmem(p, (size_t)(end - p), mark, sizeof(mark) - 1)) != NULL;) {
        p += sizeof(mark) - 1;
        text = p;
        n = (size_t)(end - p);
    }
    if (gguf_open_mem(&g, data, size, &e) == 0) {
        if (tokenizer_open_gguf(&t, g, &e) == 0) {
            use(t, text, n);
        } else if (e.code == 0 || e.msg[0] == '\0') {
            abort(); /* a refusal has a reason */
        }
        tokenizer_close(t);
        gguf_close(g);
    }
    return 0;
}
