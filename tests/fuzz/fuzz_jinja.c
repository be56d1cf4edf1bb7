/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a chat template, rendered with one conversation under tight limits: refused
 * with a text, or rendered with a mark for every byte. */
#include "base/json.h"
#include "worker/text/jinja.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char VARS[] =
    "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":true,"
    "\"s\":\"a,b c\\u00e9\\n x\",\"l\":[3,1,2,-1.5],\"d\":{\"a\":1,\"b\":[null,true,{\"c\":\"x'y\"}]},"
    "\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":"
    "[{\"type\":\"text\",\"text\":\" Hi <b> \\\"q\\\" \"}]},{\"role\":\"assistant\",\"content\":null,"
    "\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
    "{\"x\":[1,2],\"y\":\"z\"}}}]},{\"role\":\"tool\",\"name\":\"f\",\"content\":\"ok\"}],"
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\","
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"array\"}}}}}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct jinja_limits lim = {.max_steps = 20000, .max_memory = 4 << 20};
    static struct jv *vars;
    struct jinja *t;
    struct err e = {0};
    if (!vars && jv_parse(&vars, VARS, strlen(VARS), 64, &e))
        abort();
    if (jinja_compile(&t, (const char *)data, n, &e)) {
        if (!e.msg[0])
            abort();
        return 0;
    }
    struct buf out, mark;
    bool raised;
    buf_init(&out, 1 << 16);
    buf_init(&mark, 1 << 16);
    int rc = jinja_render_marked(t, vars, 1795262400, &lim, &out, &mark, &raised, &e);
    if ((rc == 0 && out.len != mark.len) || (raised && rc == 0) || (rc && !raised && !e.msg[0]))
        abort();
    buf_fini(&out);
    buf_fini(&mark);
    jinja_free(t);
    return 0;
}
