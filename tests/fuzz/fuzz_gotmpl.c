/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a Go template, rendered with one conversation: refused with a text, or rendered
 * with a mark for every byte. */
#include "base/json.h"
#include "worker/text/gotmpl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char CHAT[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":"
    "\" Hi <b> \\\"q\\\" \"},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"1\","
    "\"function\":{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,null],\"y\":\"z\"}}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"ok\"}],\"tools\":[{\"type\":\"function\","
    "\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"x\":{\"type\":[\"array\",\"null\"],\"enum\":[1,\"a\"]}}}}}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct jv *chat;
    struct gotmpl *t;
    struct err e = {0};
    if (!chat && jv_parse(&chat, CHAT, strlen(CHAT), 64, &e))
        abort();
    if (gotmpl_compile(&t, (const char *)data, n, &e)) {
        if (!e.msg[0])
            abort();
        return 0;
    }
    struct gotmpl_chat in = {.messages = jv_get(chat, "messages"), .tools = jv_get(chat, "tools")};
    struct buf out, mark;
    buf_init(&out, 1 << 16);
    buf_init(&mark, 1 << 16);
    int rc = gotmpl_render_chat(t, &in, 1795262400, &out, &mark, &e);
    if ((rc == 0 && out.len != mark.len) || (rc && !e.msg[0]))
        abort();
    buf_fini(&out);
    buf_fini(&mark);
    gotmpl_free(t);
    return 0;
}
