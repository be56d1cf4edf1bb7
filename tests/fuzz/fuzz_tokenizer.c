/* SPDX-License-Identifier: Apache-2.0 */
/* A GGUF with a vocabulary, then text: open the tokeniser, encode the text, decode the ids.
 * The text is what follows the last "\n--text--\n"; without it, the whole input. */
#include "tests/fuzz/tok_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct err e = {0};
    const char *text;
    size_t n;

    if (tok_split(data, size, &text, &n) == size)
        n = size;
    if (gguf_open_mem(&g, data, size, &e) == 0) {
        if (tokenizer_open_gguf(&t, g, &e) == 0) {
            tok_use(t, text, n, true);
        } else if (e.code == 0 || e.msg[0] == '\0') {
            abort(); /* a refusal has a reason */
        }
        tokenizer_close(t);
        gguf_close(g);
    }
    return 0;
}
