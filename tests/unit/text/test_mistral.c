/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations with tools by Mistral's own SentencePiece vocabularies: messages to text to ids, as
 * the makers' package does it (shared/data/vocabs/mistral). Skipped where the data is absent. */
#include "base/fs.h"
#include "base/json.h"
#include "worker/text/chat.h"
#include "worker/text/tokenizer.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The makers join the instructions and put them, like the tools, before the last question. */
static const char v3[] =
    "{%- set ns = namespace(system='', last=-1) %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'system' %}"
    "{%- set ns.system = ns.system + m.content + '\\n\\n' %}"
    "{%- elif m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' %}"
    "{%- if loop.index0 == ns.last and tools %}"
    "{{- '[AVAILABLE_TOOLS]' + tools|tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{{- '[INST]' + (ns.system if loop.index0 == ns.last else '') + m.content + '[/INST]' }}"
    "{%- elif m.role == 'assistant' and m.tool_calls %}"
    "{{- '[TOOL_CALLS][' }}"
    "{%- for c in m.tool_calls %}"
    "{{- '{\"name\": ' + c.function.name|tojson + ', \"arguments\": ' +"
    " c.function.arguments|tojson + ', \"id\": ' + c.id|tojson + '}' }}"
    "{{- '' if loop.last else ', ' }}"
    "{%- endfor %}"
    "{{- ']' + eos_token }}"
    "{%- elif m.role == 'assistant' %}"
    "{{- m.content + eos_token }}"
    "{%- elif m.role == 'tool' %}"
    "{{- '[TOOL_RESULTS]{\"content\": ' + m.content|tojson + ', \"call_id\": ' +"
    " m.tool_call_id|tojson + '}[/TOOL_RESULTS]' }}"
    "{%- endif %}"
    "{%- endfor %}";

/* The first version has no control tokens for turns, and no tools. */
static const char v1[] = "{{- bos_token }}"
                         "{%- for m in messages %}"
                         "{{- '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else"
                         " ' ' + m.content + eos_token }}"
                         "{%- endfor %}";

static char *data_path(const char *name)
{
    const char *dir = getenv("QUIRE_TEST_DATA");
    char rel[300];
    snprintf(rel, sizeof(rel), "vocabs/mistral/%s", name);
    return fs_join(dir && *dir ? dir : QUIRE_SHARED_DATA, rel);
}

static void read_data(const char *name, struct buf *b)
{
    char *path = data_path(name);
    struct err e = {0};
    buf_init(b, (size_t)1 << 24);
    if (fs_read(b, path, &e))
        fail_msg("%s: %s", path, e.msg);
    free(path);
}

static struct jv *read_json(const char *sample, const char *name)
{
    struct jv *v = NULL;
    struct buf b;
    char rel[300];
    snprintf(rel, sizeof(rel), "samples/%s/%s", sample, name);
    read_data(rel, &b);
    assert_int_equal(jv_parse(&v, b.data, b.len, 64, NULL), 0);
    buf_fini(&b);
    return v;
}

/* What a tool says is JSON where it can be. */
static void parse_results(struct jv *messages)
{
    for (size_t i = 0; i < jv_len(messages); i++) {
        struct jv *m = jv_at(messages, i), *v = NULL;
        if (strcmp(jv_str(jv_get(m, "role"), ""), "tool") != 0)
            continue;
        const char *s = jv_str(jv_get(m, "content"), "");
        char array[2000];
        int n = snprintf(array, sizeof(array), "[%s]", s); /* a number alone is no document */
        if (jv_parse(&v, array, (size_t)n, 16, NULL) == 0 && jv_len(v) == 1)
            assert_int_equal(jv_set(m, "content", jv_ref(jv_at(v, 0))), 0);
        jv_free(v);
    }
}

static void check_ids(const char *what, const struct jv *want, const struct token_list *got)
{
    for (size_t i = 0; i < jv_len(want) || i < got->n; i++) {
        int64_t id = i < jv_len(want) ? jv_int(jv_at(want, i), -2) : -1;
        int64_t mine = i < got->n ? (int64_t)got->ids[i] : -1;
        if (id != mine)
            fail_msg("%s: token %zu is %lld, not %lld", what, i, (long long)mine, (long long)id);
    }
}

/* The makers' text: the vocabulary's texts side by side. */
static void check_texts(const char *what, const struct tokenizer *t, const struct token_list *l,
                        const char *file)
{
    struct buf want, got;
    read_data(file, &want);
    buf_init(&got, 1 << 20);
    for (size_t i = 0; i < l->n; i++)
        buf_puts(&got, tokenizer_text(t, l->ids[i]));
    while (want.len > 0 && want.data[want.len - 1] == '\n')
        want.len--;
    if (want.len != got.len || memcmp(want.data, got.data, want.len) != 0)
        fail_msg("%s: the texts are\n%s", what, buf_cstr(&got));
    buf_fini(&want);
    buf_fini(&got);
}

static void check_sample(const struct tokenizer *t, const char *template, const char *version,
                         const char *sample)
{
    struct jv *in = read_json(sample, "sample.json");
    char name[200];
    snprintf(name, sizeof(name), "tokens_%s.json", version);
    struct jv *tokens = read_json(sample, name);
    struct chat_template *c = NULL;
    struct buf text, mark;
    struct token_list ids = {0};
    struct err e = {0};
    bool raised = false;

    parse_results(jv_get(in, "messages"));
    struct chat_input chat = {.messages = jv_get(in, "messages"),
                              .tools = jv_get(in, "tools"),
                              .bos_token = tokenizer_text(t, tokenizer_bos(t)),
                              .eos_token = tokenizer_text(t, tokenizer_eos(t))};
    buf_init(&text, 1 << 20);
    buf_init(&mark, 1 << 20);
    assert_int_equal(chat_open_text(&c, template, strlen(template), &e), 0);
    if (chat_render_marked(c, &chat, &text, &mark, &raised, &e))
        fail_msg("%s: %s", sample, e.msg);
    assert_int_equal(
        tokenizer_encode_marked(t, buf_cstr(&text), text.len, buf_cstr(&mark), &ids, &e), 0);
    check_ids(sample, jv_get(tokens, "tokens"), &ids);
    snprintf(name, sizeof(name), "samples/%s/text_%s.txt", sample, version);
    check_texts(sample, t, &ids, name);

    free(ids.ids);
    buf_fini(&text);
    buf_fini(&mark);
    chat_close(c);
    jv_free(tokens);
    jv_free(in);
}

static struct tokenizer *open_model(const char *name)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    char *path = data_path(name);
    if (tokenizer_open_path(&t, path, &e))
        fail_msg("%s", e.msg);
    free(path);
    return t;
}

static bool is_absent(void)
{
    char *path = data_path("samples/no_tools/sample.json");
    bool absent = !fs_exists(path);
    if (absent)
        print_message("skipped: no %s\n", path);
    free(path);
    return absent;
}

static void test_v3(void **state)
{
    (void)state;
    if (is_absent())
        skip();
    struct tokenizer *t = open_model("mistral_instruct_tokenizer_240323.model.v3");
    static const char *const samples[] = {"no_tools", "get_weather_full", "get_weather_no_history",
                                          "parallel_calls"};
    for (size_t i = 0; i < 4; i++)
        check_sample(t, v3, "v3", samples[i]);
    tokenizer_close(t);
}

static void test_v1(void **state)
{
    (void)state;
    if (is_absent())
        skip();
    struct tokenizer *t = open_model("tokenizer.model.v1");
    check_sample(t, v1, "v1", "no_tools");
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_v3), cmocka_unit_test(test_v1)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
