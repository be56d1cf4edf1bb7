/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as JSON: refused with a text, or written and read again to the same value. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void write_text(struct buf *b, const struct jv *v, int indent)
{
    buf_init(b, 64 << 20);
    if (jv_write(b, v, indent))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct jv *v, *again;
    struct err e = {0};
    if (jv_parse(&v, (const char *)data, n, 64, &e)) {
        if (v || !e.msg[0])
            abort();
        return 0;
    }
    struct buf first, second, pretty;
    write_text(&first, v, 0);
    if (jv_parse(&again, first.data, first.len, 64, &e))
        abort();
    write_text(&second, again, 0);
    if (first.len != second.len || memcmp(first.data, second.data, first.len) != 0)
        abort();
    jv_free(again);
    write_text(&pretty, v, 2);
    if (jv_parse(&again, pretty.data, pretty.len, 64, &e))
        abort();
    jv_free(again);
    jv_free(v);
    buf_fini(&first);
    buf_fini(&second);
    buf_fini(&pretty);
    return 0;
}
