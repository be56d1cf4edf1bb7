/* SPDX-License-Identifier: Apache-2.0 */
/* A SentencePiece model, then text after the last "\n--text--\n": open, encode, decode. */
#include "tests/fuzz/tok_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text;
    size_t n, n_file = tok_split(data, size, &text, &n);
    struct tokenizer *t = NULL;
    struct err e = {0};
    char *file = malloc(n_file + 1); /* of its own, so that reading past the end is seen */
    if (!file)
        return 0;
    if (n_file)
        memcpy(file, data, n_file);
    file[n_file] = '\0';
    if (tokenizer_open_sp(&t, file, n_file, &e) == 0)
        tok_use(t, text, n < 4096 ? n : 4096, false);
    else if (e.code == 0 || e.msg[0] == '\0')
        abort(); /* a refusal has a reason */
    tokenizer_close(t);
    free(file);
    return 0;
}
