/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a schema line by line with texts: the first line is the schema (or, when it
 * starts with '/', a regex), the rest is text for its matcher. */
#include "worker/text/grammar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nl = memchr(data, '\n', n);
    size_t head = nl ? (size_t)(nl - data) : n;
    struct grammar *g = NULL;
    struct gmatch *m;
    struct jv *v = NULL;
    struct err e = {0};
    int rc;
    if (head > 0 && data[0] == '/') {
        rc = grammar_compile_regex(&g, (const char *)data + 1, head - 1, &e);
    } else {
        if (jv_parse(&v, (const char *)data, head, 64, &e))
            return 0;
        rc = grammar_compile_schema(&g, v, NULL, &e);
    }
    jv_free(v);
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
