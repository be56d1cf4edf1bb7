/* SPDX-License-Identifier: Apache-2.0 */
/* The message shapes that chat.c finds out, and templates in GGUF files. */
#include "worker/text/chat.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <string.h>

static void check_chat(const char *text, const char *messages_json, const char *want)
{
    struct chat_template *c;
    struct jv *messages = NULL;
    struct buf out;
    struct err e = {0};
    bool raised;
    buf_init(&out, 10000);
    assert_int_equal(chat_open_text(&c, text, strlen(text), &e), 0);
    assert_int_equal(jv_parse(&messages, messages_json, strlen(messages_json), 64, NULL), 0);
    struct chat_input in = {.messages = messages, .bos_token = "<s>", .eos_token = "</s>"};
    int rc = chat_render(c, &in, &out, &raised, &e);
    assert_string_equal(rc ? e.msg : buf_cstr(&out), want);
    buf_fini(&out);
    jv_free(messages);
    chat_close(c);
}

static void test_shapes(void **state)
{
    (void)state;
    static const char parts[] =
        "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"text\",\"text\":\"b\"}]}]";
    static const char plain[] = "[{\"role\":\"user\",\"content\":\"hey\"}]";
    check_chat("{% for m in messages %}{{ m.content + '!' }}{% endfor %}", parts, "a\nb!");
    check_chat("{% for m in messages %}{{ m.content }}{% endfor %}", parts, "a\nb");
    check_chat("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
               "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}",
               parts, "<a><b>");
    check_chat(
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}<{{ p.text }}>"
        "{% endif %}{% endfor %}{% endfor %}",
        plain, "<hey>");

    static const char call[] =
        "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"type\":\"function\","
        "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"city\\\": \\\"Oslo\\\"}\"}}]}]";
    check_chat("{% for m in messages %}{% for c in m.tool_calls or [] %}"
               "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
               "{% endfor %}{% endfor %}",
               call, "city=Oslo");
    check_chat("{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
               "{{ '```' + c.function.arguments + '```' }}{% endfor %}{% endfor %}",
               call, "```{\"city\": \"Oslo\"}```");
    check_chat("{% for m in messages %}{% if m.content is none %}{% for c in m.tool_calls %}"
               "{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{% endfor %}",
               call, "{\"city\": \"Oslo\"}");
    check_chat("{{ raise_exception('never') }}", plain, "never");
}

static void put_u32(struct buf *b, uint32_t v)
{
    buf_put(b, &v, 4);
}

static void put_str(struct buf *b, const char *s)
{
    uint64_t n = strlen(s);
    buf_put(b, &n, 8);
    buf_puts(b, s);
}

static void test_gguf(void **state)
{
    (void)state;
    static const char *const kv[][2] = {
        {"tokenizer.chat_template", "plain{{ bos_token }}"},
        {"tokenizer.chat_template.tool_use", "tools{{ tools | length }}"}};
    struct buf file, out;
    struct gguf *g;
    struct chat_template *c;
    struct err e = {0};
    struct jv *messages = jv_new_array(), *tools = jv_new_array();
    uint64_t zero = 0, two = 2;
    buf_init(&file, 10000);
    buf_init(&out, 10000);
    buf_puts(&file, "GGUF");
    put_u32(&file, 3);
    buf_put(&file, &zero, 8);
    buf_put(&file, &two, 8);
    for (int i = 0; i < 2; i++) {
        put_str(&file, kv[i][0]);
        put_u32(&file, 8); /* a string */
        put_str(&file, kv[i][1]);
    }
    while (file.len % 32)
        buf_putc(&file, 0);
    assert_int_equal(gguf_open_mem(&g, file.data, file.len, &e), 0);
    assert_int_equal(chat_open_gguf(&c, g, &e), 0);
    struct chat_input in = {.messages = messages, .bos_token = "<s>", .eos_token = ""};
    assert_int_equal(chat_render(c, &in, &out, NULL, &e), 0);
    assert_string_equal(buf_cstr(&out), "plain<s>");
    buf_clear(&out);
    assert_int_equal(jv_push(tools, jv_new_object()), 0);
    in.tools = tools;
    assert_int_equal(chat_render(c, &in, &out, NULL, &e), 0);
    assert_string_equal(buf_cstr(&out), "tools1");
    chat_close(c);
    gguf_close(g);
    jv_free(messages);
    jv_free(tools);
    buf_fini(&file);
    buf_fini(&out);
}

/* Another head writes the same date when it is told the time. */
static void test_time_is_given(void **state)
{
    static const char text[] = "{{ messages[0].content }} {{ strftime_now('%Y-%m') }}";
    (void)state;
    struct chat_template *c;
    struct buf out;
    struct err e = {0};
    struct jv *messages;
    static const char said[] = "[{\"role\":\"user\",\"content\":\"hi\"}]";
    buf_init(&out, 1000);
    assert_int_equal(jv_parse(&messages, said, sizeof said - 1, 8, &e), 0);
    assert_int_equal(chat_open_text(&c, text, sizeof text - 1, &e), 0);
    struct chat_input in = {
        .messages = messages, .bos_token = "", .eos_token = "", .unix_time = 1000000000};
    assert_int_equal(chat_render(c, &in, &out, NULL, &e), 0);
    assert_string_equal(buf_cstr(&out), "hi 2001-09");
    chat_close(c);
    jv_free(messages);
    buf_fini(&out);
}

/* Which language a template is in shows by its marks. */
static void test_language(void **state)
{
    static const struct {
        const char *text;
        bool go;
    } cases[] = {{"{{ .Prompt }}", true},
                 {"a {{- if .System }}{{ .System }}{{ end -}} b", true},
                 {"{{ $x := 1 }}{{ $x }}", true},
                 {"{{/* nothing */}}x", true},
                 {"{{-\n  range .Messages}}{{end}}", true},
                 {"{{ messages[0].content }}", false},
                 {"{{ ifx }}{{ endless }}{{ withal }}", false},
                 {"{% if x %}{{ .5 }}{% endif %}", false},
                 {"{{ .Prompt }}{%- set a = 1 -%}", false},
                 {"", false},
                 {"{{", false},
                 {"{{ if", false},
                 {"plain", false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (chat_text_is_go(cases[i].text, strlen(cases[i].text)) != cases[i].go)
            fail_msg("%s", cases[i].text);
    struct chat_template *c;
    assert_int_equal(chat_open_go(&c, "{{ .Prompt }}", 13, NULL), 0);
    assert_true(chat_leaves_bos(c));
    chat_close(c);
    assert_int_equal(chat_open_text(&c, "{{ bos_token }}", 15, NULL), 0);
    assert_false(chat_leaves_bos(c));
    chat_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_gguf),
                                       cmocka_unit_test(test_time_is_given),
                                       cmocka_unit_test(test_language)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
