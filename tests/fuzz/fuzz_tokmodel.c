/* SPDX-License-Identifier: Apache-2.0 */
/* A SentencePiece model, then text after the last "\n--text--\n": open, encode, decode. */
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
    const char *all = (const char *)data, *text = all, *p = all;
    size_t n = 0, n_model = size;
    struct tokenizer *t = NULL;
    struct err e = {0};
    while ((p = memmem(p, (size_t)(all + size - p), mark, sizeof(mark) - 1)) != NULL) {
        n_model = (size_t)(p - all);
        p += sizeof(mark) - 1;
        text = p;
        n = (size_t)(all + size - p);
    }
    char *model = malloc(n_model + 1);
    if (!model)
        return 0;
    if (n_model)
        memcpy(model, data, n_model);
    model[n_model] = '\0';
    if (tokenizer_open_sp(&t, model, n_model, &e) == 0)
        use(t, text, n < 4096 ? n : 4096);
    else if (e.code == 0 || e.msg[0] == '\0')
        abort(); /* a refusal has a reason */
    tokenizer_close(t);
    free(model);
    return 0;
}
