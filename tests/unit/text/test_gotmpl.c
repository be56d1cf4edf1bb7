/* SPDX-License-Identifier: Apache-2.0 */
/* Go templates: the language and the data of a chat against what Go's text/template printed
 * (tests/data/gotmpl/cases.jsonl), Ollama's templates, the turn-by-turn form, marks, limits. */
#include "base/fs.h"
#include "base/json.h"
#include "base/num.h"
#include "worker/text/chat.h"
#include "worker/text/gotmpl.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOW 1795262400 /* 2026-11-21 UTC */

static const char *data_dir(void)
{
    const char *d = getenv("QUIRE_TEST_DATA");
    return d && *d ? d : QUIRE_SHARED_DATA;
}

static char *read_text(const char *path)
{
    struct buf b;
    buf_init(&b, 8 << 20);
    if (fs_read(&b, path, NULL)) {
        buf_fini(&b);
        return NULL;
    }
    return buf_take(&b, NULL);
}

static struct jv *parse(const char *json)
{
    struct jv *v = NULL;
    assert_int_equal(jv_parse(&v, json, strlen(json), 64, NULL), 0);
    return v;
}

static int render_case(const struct jv *c, struct buf *out, struct err *e)
{
    struct gotmpl *t;
    const struct jv *text = jv_get(c, "template"), *chat = jv_get(c, "chat");
    int rc = gotmpl_compile(&t, jv_str(text, ""), jv_str_len(text), e);
    if (rc)
        return rc;
    struct gotmpl_chat in = {.messages = jv_get(chat, "messages"),
                             .tools = jv_get(chat, "tools"),
                             .think = true,
                             .think_set = true,
                             .think_level = "high"};
    rc = chat ? gotmpl_render_chat(t, &in, NOW, out, NULL, e)
              : gotmpl_render(t, jv_get(c, "data"), NOW, out, e);
    gotmpl_free(t);
    return rc;
}

static void test_like_go(void **state)
{
    (void)state;
    char *all = read_text(QUIRE_SOURCE_DIR "/tests/data/gotmpl/cases.jsonl"), *save = NULL;
    size_t n = 0, bad = 0;
    assert_non_null(all);
    for (char *line = strtok_r(all, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct jv *c = parse(line);
        struct err e = {0};
        struct buf out;
        buf_init(&out, 1 << 20);
        const char *want = jv_str(jv_get(c, "text"), NULL);
        int rc = render_case(c, &out, &e);
        if (want ? rc || strcmp(buf_cstr(&out), want) != 0 : rc == 0) {
            bad++;
            printf("  %s\n    got  %s\n    want %s\n", jv_str(jv_get(c, "template"), ""),
                   rc ? e.msg : buf_cstr(&out), want ? want : jv_str(jv_get(c, "error"), ""));
        }
        n++;
        buf_fini(&out);
        jv_free(c);
    }
    free(all);
    assert_int_equal(bad, 0);
    assert_true(n > 150);
}

static void test_ollama_templates(void **state)
{
    static const char *const names[] = {
        "alpaca",          "chatml",           "command-r", "gemma-instruct", "llama2-chat",
        "llama3-instruct", "mistral-instruct", "phi-3",     "vicuna",         "zephyr"};
    static const char *const roles[] = {"user", "user-assistant-user",
                                        "system-user-assistant-user"};
    struct jv *chats[3],
        *all = parse(
            "[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
            "{\"role\":\"user\",\"content\":\"Hello, how are you?\"},"
            "{\"role\":\"assistant\",\"content\":\"I'm doing great. How can I help you today?\"},"
            "{\"role\":\"user\",\"content\":\"I'd like to show off how chat templating works!\"}]");
    size_t bad = 0;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        chats[i] = jv_new_array();
        for (size_t j = i < 2 ? 1 : 0; j < (i ? 4u : 2u); j++)
            assert_int_equal(jv_push(chats[i], jv_ref(jv_at(all, j))), 0);
    }
    for (size_t i = 0; i < NUM_COUNT(names); i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/templates/ollama-gotmpl/%s.gotmpl", data_dir(), names[i]);
        char *text = read_text(path);
        if (!text) {
            printf("skipped: no %s\n", path);
            jv_free(all);
            for (size_t j = 0; j < 3; j++)
                jv_free(chats[j]);
            skip();
        }
        struct chat_template *t;
        assert_true(chat_text_is_go(text, strlen(text)));
        assert_int_equal(chat_open_go(&t, text, strlen(text), NULL), 0);
        for (size_t j = 0; j < 3; j++) {
            struct chat_input in = {.messages = chats[j]};
            struct buf out;
            buf_init(&out, 1 << 20);
            snprintf(path, sizeof path, "%s/templates/ollama-gotmpl/expected/%s/%s", data_dir(),
                     names[i], roles[j]);
            char *want = read_text(path);
            assert_non_null(want);
            assert_int_equal(chat_render(t, &in, &out, NULL, NULL), 0);
            if (strcmp(buf_cstr(&out), want) != 0) {
                bad++;
                printf("  %s %s\n    got  %s\n    want %s\n", names[i], roles[j], buf_cstr(&out),
                       want);
            }
            free(want);
            buf_fini(&out);
        }
        chat_close(t);
        free(text);
    }
    for (size_t j = 0; j < 3; j++)
        jv_free(chats[j]);
    jv_free(all);
    assert_int_equal(bad, 0);
}

static void check_chat(const char *text, const char *messages, const char *want)
{
    struct gotmpl *t;
    struct err e = {0};
    struct buf out;
    struct jv *m = parse(messages);
    struct gotmpl_chat in = {.messages = m};
    buf_init(&out, 1 << 20);
    assert_int_equal(gotmpl_compile(&t, text, strlen(text), &e), 0);
    assert_int_equal(gotmpl_render_chat(t, &in, NOW, &out, NULL, &e), 0);
    assert_string_equal(buf_cstr(&out), want);
    gotmpl_free(t);
    buf_fini(&out);
    jv_free(m);
}

#define M(role, content) "{\"role\":\"" role "\",\"content\":\"" content "\"}"

static void test_turns(void **state)
{
    static const char T[] = "{{ if .System }}S:{{ .System }} {{ end }}{{ if .Prompt }}U:{{ .Prompt "
                            "}} {{ end }}A:{{ .Response }}<end>";
    static const char ELSE[] = "{{ if .Prompt }}({{ .Response }}{{ else }}none{{ end }})";
    (void)state;
    check_chat(T, "[" M("user", "1") "]", "U:1 A:");
    check_chat(
        T, "[" M("system", "s") "," M("user", "1") "," M("assistant", "2") "," M("user", "3") "]",
        "S:s U:1 A:2<end>U:3 A:");
    check_chat(T, "[" M("user", "1") "," M("system", "s") "," M("user", "2") "]",
               "U:1 A:<end>S:s U:2 A:");
    check_chat(T, "[" M("user", "1") "," M("assistant", "half") "]", "U:1 A:half");
    check_chat(T, "[" M("user", "1") "," M("user", "2") "]", "U:1\n\n2 A:");
    check_chat("{{ .Prompt }}|", "[" M("user", "1") "," M("assistant", "2") "," M("user", "3") "]",
               "1|23|");
    check_chat(ELSE, "[" M("assistant", "x") "]", "");
    check_chat(ELSE, "[" M("user", "x") "]", "(");
    check_chat("{{ .System }}", "[]", "");
}

static void test_openai_messages(void **state)
{
    (void)state;
    check_chat(
        "{{ .System }}/{{ range .Messages }}{{ .Role }}={{ .Content }}{{ .Thinking }}{{ range "
        ".ToolCalls }}<{{ .Function.Name }} {{ .Function.Arguments }}>{{ end }}{{ .ToolName }};"
        "{{ end }}",
        "[" M("developer", "d") "," M(
            "user",
            "a") ","
                 "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"b\"},{\"type\":"
                 "\"image_url\",\"image_url\":{\"url\":\"x\"}}]},"
                 "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"r\",\"tool_calls\":"
                 "[{\"id\":\"7\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{"
                 "\\\"z\\\":1,\\\"a\\\":2}\"}}]},"
                 "{\"role\":\"tool\",\"tool_call_id\":\"7\",\"content\":\"ok\"}]",
        "d/system=d;user=a\n\n[img-0]b;assistant=r<f {\"a\":2,\"z\":1}>;tool=okf;");
}

/* What users wrote must not become special tokens; what the template wrote may. */
static void test_marks(void **state)
{
    static const char T[] = "{{ range .Messages }}<|{{ .Role }}|>{{ printf \"%s!%s\" .Content "
                            "\"<x>\" }}{{ json .Content }}{{ end }}";
    struct gotmpl *t;
    struct buf out, mark;
    struct jv *m = parse("[" M("user", "<x>") "]");
    struct gotmpl_chat in = {.messages = m};
    (void)state;
    buf_init(&out, 1 << 20);
    buf_init(&mark, 1 << 20);
    assert_int_equal(gotmpl_compile(&t, T, strlen(T), NULL), 0);
    assert_int_equal(gotmpl_render_chat(t, &in, NOW, &out, &mark, NULL), 0);
    assert_string_equal(buf_cstr(&out), "<|user|><x>!<x>\"\\u003cx\\u003e\"");
    for (size_t i = 0; i < mark.len; i++)
        mark.data[i] = mark.data[i] ? '1' : '0';
    assert_string_equal(buf_cstr(&mark), "00000000"
                                         "111"
                                         "0"
                                         "000"
                                         "0"
                                         "111111"
                                         "1"
                                         "111111"
                                         "0");
    gotmpl_free(t);
    buf_fini(&out);
    buf_fini(&mark);
    jv_free(m);
}

static void check_fails(const char *text, const char *word)
{
    struct gotmpl *t;
    struct err e = {0};
    struct buf out;
    struct jv *data = parse("{\"l\":[1,2,3]}");
    buf_init(&out, 1 << 16);
    int rc = gotmpl_compile(&t, text, strlen(text), &e);
    if (rc == 0) {
        rc = gotmpl_render(t, data, NOW, &out, &e);
        gotmpl_free(t);
    }
    assert_int_not_equal(rc, 0);
    if (!strstr(e.msg, word))
        printf("  %s: %s\n", text, e.msg);
    assert_non_null(strstr(e.msg, word));
    buf_fini(&out);
    jv_free(data);
}

static void test_limits(void **state)
{
    (void)state;
    check_fails("{{range 1000000000}}{{end}}", "too much work");
    check_fails("{{range 100000}}0123456789{{end}}", "output is too large");
    check_fails("{{define \"r\"}}{{template \"r\" .}}{{end}}{{template \"r\"}}", "too deeply");
    check_fails("{{$a := \"xxxxxxxx\"}}{{range 60}}{{$a = print $a $a}}{{end}}", "too much");
    check_fails("{{printf \"%1000d\" 1 | printf \"%s%s\" | nope}}", "\"nope\" is not defined");
    check_fails("a\n{{ .l.x }}", "line 2");
    char deep[1201];
    memset(deep, '(', 1200);
    memcpy(deep, "{{", 2);
    deep[1200] = 0;
    check_fails(deep, "too deeply");
    struct buf nest;
    buf_init(&nest, 1 << 20);
    for (int i = 0; i < 5000; i++)
        buf_puts(&nest, "{{if 1}}");
    check_fails(buf_cstr(&nest), "too deeply");
    buf_fini(&nest);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_go), cmocka_unit_test(test_ollama_templates),
        cmocka_unit_test(test_turns),   cmocka_unit_test(test_openai_messages),
        cmocka_unit_test(test_marks),   cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
