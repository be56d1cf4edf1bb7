/* SPDX-License-Identifier: Apache-2.0 */
/* tok_use.h - what the fuzz targets of tokenisers share: the text behind the file, and a run of
 * encoding and decoding that aborts where a rule is broken. */
#ifndef QUIRE_FUZZ_TOK_USE_H
#define QUIRE_FUZZ_TOK_USE_H

#include "worker/text/tokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The text is what follows the last "\n--text--\n"; returns the bytes before it. Without the
 * mark all is file and the text is empty. */
static inline size_t tok_split(const uint8_t *data, size_t size, const char **text, size_t *n)
{
    static const char mark[] = "\n--text--\n";
    const char *all = (const char *)data, *p = all;
    size_t n_file = size;
    *text = all;
    *n = 0;
    while ((p = memmem(p, (size_t)(all + size - p), mark, sizeof(mark) - 1)) != NULL) {
        n_file = (size_t)(p - all);
        p += sizeof(mark) - 1;
        *text = p;
        *n = (size_t)(all + size - p);
    }
    return n_file;
}

/* plain: text that is taken as text must not become a control token, but for the unknown one. */
static inline void tok_use(const struct tokenizer *t, const char *text, size_t n, bool plain)
{
    for (int how = 0; how < 4; how++) {
        struct token_list ids = {0};
        struct buf out;
        struct err e;
        buf_init(&out, 64 << 20);
        if (tokenizer_encode(t, text, n, how & 1, (how & 2) != 0, &ids, &e) == 0) {
            for (size_t i = 0; i < ids.n; i++) {
                uint32_t id = ids.ids[i];
                if (id >= tokenizer_n_vocab(t))
                    abort();
                bool unk = id == tokenizer_unk(t) && !tokenizer_is_eog(t, id);
                bool added = id == tokenizer_bos(t) || id == tokenizer_eos(t);
                if (plain && how == 0 && !added && !unk && tokenizer_is_control(t, id))
                    abort();
            }
            if (tokenizer_decode(t, ids.ids, ids.n, how & 1, &out, &e) && !out.failed)
                abort();
        }
        buf_fini(&out);
        free(ids.ids);
    }
}

#endif
