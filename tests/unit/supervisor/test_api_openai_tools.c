/* SPDX-License-Identifier: Apache-2.0 */
/* Tool calls, reasoning and constraints of /v1/chat/completions: what reaches the engine and what
 * its events become. */
#include "tests/unit/supervisor/openai_fixture.h"

#define ASK(what, rest)                                                                            \
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" what "\"}]," rest           \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"weather\"}}]}"

static void test_tool_calls(void **state)
{
    (void)state;
    assert_int_equal(post(CHAT, ASK("CALLS", "")), 200);
    assert_true(last()->parse_tools && !last()->no_reasoning_parse);
    struct jv *v = json_of();
    expect_str(v, "choices.0.finish_reason", "tool_calls");
    struct jv *m = dig(v, "choices.0.message");
    assert_non_null(jv_get(m, "content"));
    assert_true(jv_is(jv_get(m, "content"), JV_NULL));
    expect_str(m, "reasoning_content", "They want the weather.");
    expect_str(m, "reasoning", "They want the weather.");
    assert_int_equal(jv_len(jv_get(m, "tool_calls")), 2);
    expect_str(m, "tool_calls.0.id", "call_a");
    expect_str(m, "tool_calls.0.type", "function");
    expect_str(m, "tool_calls.0.function.name", "weather");
    expect_str(m, "tool_calls.0.function.arguments", "{\"city\":\"Bern\"}");
    expect_str(m, "tool_calls.1.function.arguments", "{}");
    expect_int(v, "usage.completion_tokens", 20);
    jv_free(v);
    /* A call that broke off is text again, beside one that did not. */
    assert_int_equal(post(CHAT, ASK("MIXED", "\"include_reasoning\":false,")), 200);
    v = json_of();
    expect_str(v, "choices.0.finish_reason", "tool_calls");
    expect_str(v, "choices.0.message.content", "I'll look. <tool_call>{\"name\":\"now\",{");
    assert_int_equal(jv_len(dig(v, "choices.0.message.tool_calls")), 1);
    jv_free(v);
    assert_int_equal(post(CHAT, ASK("BROKEN", "")), 200);
    v = json_of();
    expect_str(v, "choices.0.finish_reason", "stop");
    expect_str(v, "choices.0.message.content", "<tool_call>{\"name\":\"now\",{");
    assert_null(dig(v, "choices.0.message.tool_calls"));
    assert_null(dig(v, "choices.0.message.reasoning_content"));
    jv_free(v);
    /* Wishes. */
    assert_int_equal(post(CHAT, ASK("CALLS", "\"parallel_tool_calls\":false,"
                                             "\"include_reasoning\":false,")),
                     200);
    v = json_of();
    assert_int_equal(jv_len(dig(v, "choices.0.message.tool_calls")), 1);
    assert_null(dig(v, "choices.0.message.reasoning_content"));
    jv_free(v);
    assert_int_equal(post(CHAT, ASK("x", "\"tool_choice\":\"none\",")), 200);
    assert_true(!last()->parse_tools && *last()->tools_json);
    assert_int_equal(post(CHAT, ASK("x", "\"tool_choice\":\"auto\",")), 200);
    assert_true(last()->parse_tools);
    assert_int_equal(post(CHAT, ASK("x", "\"reasoning_format\":\"none\",")), 200);
    assert_true(last()->no_reasoning_parse);
    assert_int_equal(post(CHAT, ASK("x", "\"separate_reasoning\":false,")), 200);
    assert_true(last()->no_reasoning_parse);
    assert_int_equal(post(CHAT, "{\"model\":\"m\"," USER "}"), 200);
    assert_false(last()->parse_tools);
    expect_error(CHAT, ASK("x", "\"reasoning_format\":\"odd\","), 400, "reasoning_format", NULL);
    expect_error(CHAT, ASK("x", "\"parallel_tool_calls\":3,"), 400, "parallel_tool_calls",
                 "invalid_type");
    assert_int_equal(post(CHAT, ASK("x", "\"tool_choice\":{\"type\":\"function\",\"function\":"
                                         "{\"name\":\"weather\"}},")),
                     200);
    assert_true(last()->force_tools && last()->one_call);
    assert_int_equal(last()->n_allowed_tools, 1);
    assert_string_equal(last()->allowed_tools[0], "weather");
    assert_int_equal(post(CHAT, ASK("x", "\"tool_choice\":\"required\",")), 200);
    assert_true(last()->force_tools && !last()->one_call && last()->n_allowed_tools == 0);
}

/* The many spellings of one constraint reach the engine as one. */
static void test_constraints(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *text, *field;
        Quire__ConstraintKind kind;
    } cases[] = {{"\"response_format\":{\"type\":\"json_object\"}", "", "response_format",
                  QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_OBJECT},
                 {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\","
                  "\"schema\":{\"type\":\"null\"}}}",
                  "{\"type\":\"null\"}", "response_format",
                  QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_SCHEMA},
                 {"\"guided_json\":\"{}\"", "{}", "guided_json",
                  QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_SCHEMA},
                 {"\"structured_outputs\":{\"regex\":\"a+\"}", "a+", "structured_outputs.regex",
                  QUIRE__CONSTRAINT_KIND__CONSTRAINT_REGEX},
                 {"\"grammar\":\"root ::= \\\"a\\\"\"", "root ::= \"a\"", "grammar",
                  QUIRE__CONSTRAINT_KIND__CONSTRAINT_GRAMMAR},
                 {"\"guided_choice\":[\"a\",\"b\"]", "[\"a\",\"b\"]", "guided_choice",
                  QUIRE__CONSTRAINT_KIND__CONSTRAINT_CHOICE}};
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        char body[512];
        snprintf(body, sizeof body, "{\"model\":\"m\"," USER ",%s}", cases[i].fields);
        assert_int_equal(post(CHAT, body), 200);
        const Quire__Constraint *c = last()->constraint;
        assert_non_null(c);
        assert_int_equal(c->kind, cases[i].kind);
        assert_string_equal(c->text, cases[i].text);
        assert_string_equal(c->field, cases[i].field);
    }
    assert_int_equal(post(CHAT, "{\"model\":\"m\"," USER ",\"grammar\":\"\"}"), 200);
    assert_null(last()->constraint);
}

static void test_tool_calls_stream(void **state)
{
    (void)state;
    const char *ev[64];
    char reasoning[64] = "", arguments[2][64] = {"", ""};
    int begun[2] = {0, 0};
    assert_int_equal(post(CHAT, ASK("CALLS", "\"stream\":true,")), 200);
    size_t n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 1 + 2 + 3 + 3 + 1 + 1);
    for (size_t i = 1; i + 2 < n; i++) {
        struct jv *v = parse(ev[i]), *delta = dig(v, "choices.0.delta");
        assert_true(jv_is(dig(v, "choices.0.finish_reason"), JV_NULL));
        if (i <= 2) {
            assert_int_equal(jv_len(delta), 2);
            strcat(reasoning, jv_str(jv_get(delta, "reasoning_content"), ""));
            expect_str(delta, "reasoning", jv_str(jv_get(delta, "reasoning_content"), "?"));
        } else {
            struct jv *t = dig(delta, "tool_calls.0");
            assert_true(jv_len(delta) == 1 && jv_len(jv_get(delta, "tool_calls")) == 1);
            int64_t k = jv_int(jv_get(t, "index"), 9);
            assert_in_range(k, 0, 1);
            strcat(arguments[k], jv_str(dig(t, "function.arguments"), "(none)"));
            if (jv_get(t, "id")) {
                expect_str(t, "type", "function");
                expect_str(t, "function.name", k ? "now" : "weather");
                expect_str(t, "function.arguments", "");
                begun[k]++;
            } else {
                assert_int_equal(jv_len(t), 2);
                assert_int_equal(jv_len(jv_get(t, "function")), 1);
            }
        }
        jv_free(v);
    }
    assert_string_equal(reasoning, "They want the weather.");
    assert_string_equal(arguments[0], "{\"city\":\"Bern\"}");
    assert_string_equal(arguments[1], "{}");
    assert_true(begun[0] == 1 && begun[1] == 1);
    struct jv *v = parse(ev[n - 2]);
    expect_str(v, "choices.0.finish_reason", "tool_calls");
    assert_int_equal(jv_len(dig(v, "choices.0.delta")), 0);
    jv_free(v);
    post(CHAT, ASK("CALLS", "\"stream\":true,\"parallel_tool_calls\":false,"));
    assert_int_equal(split_events(body_of(), ev, 64), 1 + 2 + 3 + 1 + 1);
    post(CHAT, ASK("BROKEN", "\"stream\":true,"));
    n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 1 + 2 + 1 + 1);
    v = parse(ev[n - 2]);
    expect_str(v, "choices.0.finish_reason", "stop");
    jv_free(v);
}

#define OLD(what, rest)                                                                            \
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"" what "\"}]," rest           \
    "\"functions\":[{\"name\":\"weather\"},{\"name\":\"now\"}]}"

/* The old `functions`: asked for and answered in their own words. */
static void test_function_call(void **state)
{
    (void)state;
    const char *ev[64];
    assert_int_equal(post(CHAT, OLD("CALLS", "")), 200);
    assert_true(last()->parse_tools && last()->one_call && !last()->force_tools);
    struct jv *v = json_of(), *m = dig(v, "choices.0.message");
    expect_str(v, "choices.0.finish_reason", "function_call");
    expect_str(m, "function_call.name", "weather");
    expect_str(m, "function_call.arguments", "{\"city\":\"Bern\"}");
    assert_true(jv_is(jv_get(m, "content"), JV_NULL) && !jv_get(m, "tool_calls"));
    jv_free(v);
    assert_int_equal(post(CHAT, OLD("BROKEN", "\"function_call\":\"auto\",")), 200);
    v = json_of();
    expect_str(v, "choices.0.finish_reason", "stop");
    assert_null(dig(v, "choices.0.message.function_call"));
    jv_free(v);
    assert_int_equal(post(CHAT, OLD("CALLS", "\"stream\":true,")), 200);
    size_t n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 1 + 2 + 3 + 1 + 1);
    static const char *const deltas[] = {
        "{\"function_call\":{\"name\":\"weather\",\"arguments\":\"\"}}",
        "{\"function_call\":{\"arguments\":\"{\\\"city\\\":\"}}",
        "{\"function_call\":{\"arguments\":\"\\\"Bern\\\"}\"}}"};
    for (size_t i = 0; i < 3; i++)
        assert_non_null(strstr(ev[3 + i], deltas[i]));
    assert_non_null(strstr(ev[6], "\"finish_reason\":\"function_call\""));
    assert_int_equal(post(CHAT, OLD("x", "\"function_call\":{\"name\":\"now\"},")), 200);
    assert_true(last()->force_tools && last()->one_call && last()->parse_tools);
    assert_int_equal(last()->n_allowed_tools, 1);
    assert_string_equal(last()->allowed_tools[0], "now");
    assert_int_equal(post(CHAT, OLD("x", "\"function_call\":\"none\",")), 200);
    assert_true(!last()->parse_tools && *last()->tools_json);
    expect_error(CHAT, OLD("x", "\"function_call\":{\"name\":\"no\"},"), 400, "function_call",
                 NULL);
    expect_error(CHAT, OLD("x", "\"function_call\":{},"), 400, "function_call", NULL);
    expect_error(CHAT, OLD("x", "\"function_call\":\"now\","), 400, "function_call", NULL);
    expect_error(CHAT, OLD("x", "\"function_call\":7,"), 400, "function_call", "invalid_type");
    expect_error(CHAT, "{\"model\":\"m\"," USER ",\"function_call\":{\"name\":\"f\"}}", 400,
                 "function_call", NULL);
    expect_error(CHAT, OLD("x", "\"guided_regex\":\"a\",\"function_call\":{\"name\":\"now\"},"),
                 400, "guided_regex", NULL);
    /* Older turns reach the template as calls and results. */
    assert_int_equal(
        post(CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"},"
                   "{\"role\":\"assistant\",\"content\":null,\"function_call\":{\"name\":\"now\","
                   "\"arguments\":\"{}\"}},"
                   "{\"role\":\"function\",\"name\":\"now\",\"content\":\"noon\"}]}"),
        200);
    v = parse(last()->messages_json);
    expect_str(v, "1.tool_calls.0.id", "fcall0001");
    expect_str(v, "1.tool_calls.0.function.name", "now");
    expect_str(v, "2.role", "tool");
    expect_str(v, "2.tool_call_id", "fcall0001");
    jv_free(v);
    expect_error(CHAT,
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null,"
                 "\"function_call\":{\"name\":3}}]}",
                 400, "messages[0].function_call", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_constraints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tool_calls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tool_calls_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_function_call, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
