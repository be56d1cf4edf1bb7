/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a GBNF grammar; what follows a NUL byte is text for its matcher. */
#include "worker/text/grammar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t head = nul ? (size_t)(nul - data) : n;
    struct grammar *g;
    struct gmatch *m;
    struct err e = {0};
    int rc = grammar_compile_gbnf(&g, (const char *)data, head, &e);
    if (rc) {
        if (g || !e.msg[0] || e.code != rc)
            abort();
        return 0;
    }
    if (gmatch_open(&m, g, NULL, &e) == 0) {
        for (size_t i = head + 1; i < n; i++)
            if (!gmatch_accept_bytes(m, (const char *)data + i, 1, NULL))
                gmatch_reset(m);
        (void)gmatch_can_stop(m);
        gmatch_close(m);
    }
    grammar_free(g);
    return 0;
}
