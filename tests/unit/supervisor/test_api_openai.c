/* SPDX-License-Identifier: Apache-2.0 */
/* /v1/chat/completions and /v1/completions over sockets, with a head shard that has no model. */
#include "tests/unit/supervisor/openai_fixture.h"

/* ---- cases --------------------------------------------------------------------------------- */

static void test_chat(void **state)
{
    (void)state;
    assert_int_equal(post(CHAT, "{\"model\":\"m\"," USER ",\"max_tokens\":4}"), 200);
    assert_non_null(strstr(answer, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(answer, "X-Request-Id: "));
    struct jv *v = json_of();
    expect_str(v, "object", "chat.completion");
    expect_str(v, "model", "m");
    expect_str(v, "choices.0.message.role", "assistant");
    expect_str(v, "choices.0.message.content", "w0 w1 w2 w3 ");
    expect_str(v, "choices.0.finish_reason", "length");
    expect_int(v, "choices.0.index", 0);
    assert_true(jv_is(dig(v, "choices.0.logprobs"), JV_NULL));
    expect_int(v, "usage.prompt_tokens", 7);
    expect_int(v, "usage.completion_tokens", 4);
    expect_int(v, "usage.total_tokens", 11);
    expect_int(v, "usage.prompt_tokens_details.cached_tokens", 2);
    assert_int_equal(strncmp(jv_str(dig(v, "id"), ""), "chatcmpl-", 9), 0);
    assert_true(jv_str_len(dig(v, "id")) >= 33);
    assert_int_equal(jv_str(dig(v, "system_fingerprint"), "x")[0], 'b');
    jv_free(v);
    assert_string_equal(last()->messages_json, "[{\"role\":\"user\",\"content\":\"hi\"}]");
    assert_true(last()->add_generation_prompt);
    assert_true(last()->sampling->temperature == 1 && last()->sampling->top_p == 1);
    assert_int_equal(post("/chat/completions/", "{\"model\":\"m\"," USER "}"), 200);
    v = json_of();
    expect_str(v, "choices.0.finish_reason", "stop");
    jv_free(v);
}

static void test_parameters_arrive(void **state)
{
    (void)state;
    assert_int_equal(
        post(CHAT,
             "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"d\"},"
             "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},"
             "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":"
             "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
             "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"}],"
             "\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40.0,\"min_p\":0.05,"
             "\"max_tokens\":7,\"max_completion_tokens\":3,\"min_tokens\":2,\"seed\":42,"
             "\"stop\":[\"END\",\"\",\"x\"],\"stop_token_ids\":[5],\"presence_penalty\":-2,"
             "\"frequency_penalty\":1.5,\"repetition_penalty\":1.1,\"ignore_eos\":true,\"n\":2,"
             "\"logit_bias\":{\"17\":-100,\"4\":2.5},\"user\":\"u\",\"store\":true,"
             "\"metadata\":{},\"response_format\":{\"type\":\"text\"},\"unknown\":1,"
             "\"chat_template_kwargs\":{\"enable_thinking\":true},\"reasoning_effort\":\"none\","
             "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}],"
             "\"tool_choice\":\"auto\",\"logprobs\":null}"),
        200);
    Quire__GenerateRequest *r = last();
    assert_true(r->sampling->temperature == 0.5 && r->sampling->top_p == 0.9);
    assert_int_equal(r->sampling->top_k, 40);
    assert_true(r->sampling->min_p == 0.05 && r->sampling->presence_penalty == -2);
    assert_true(r->sampling->frequency_penalty == 1.5 && r->sampling->repetition_penalty == 1.1);
    assert_int_equal(r->sampling->seed, 42);
    assert_int_equal(r->sampling->n_logit_bias, 2);
    assert_int_equal(r->sampling->logit_bias[0]->token, 17);
    assert_true(r->sampling->logit_bias[0]->bias == -100);
    assert_int_equal(r->max_tokens, 3);
    assert_int_equal(r->min_tokens, 2);
    assert_int_equal(r->n_stop, 2);
    assert_string_equal(r->stop[1], "x");
    assert_int_equal(r->n_stop_token_ids, 1);
    assert_true(r->ignore_eos && !r->logprobs);
    assert_int_equal(r->n_choices, 2);
    assert_non_null(strstr(r->tools_json, "\"name\":\"f\""));
    assert_non_null(strstr(r->messages_json, "[{\"role\":\"system\",\"content\":\"d\"}"));
    assert_non_null(strstr(r->template_extra_json, "\"enable_thinking\":true"));
    assert_non_null(strstr(r->template_extra_json, "\"thinking\":false"));
    struct jv *v = json_of();
    assert_int_equal(jv_len(dig(v, "choices")), 2);
    expect_int(v, "choices.1.index", 1);
    expect_int(v, "usage.prompt_tokens", 7);
    expect_int(v, "usage.completion_tokens", 6);
    jv_free(v);
    /* Unseeded requests differ. */
    post(CHAT, "{\"model\":\"m\"," USER ",\"seed\":-1}");
    uint64_t first = last()->sampling->seed;
    post(CHAT, "{\"model\":\"m\"," USER "}");
    assert_true(last()->sampling->seed != first);
    post(CHAT, "{\"model\":\"m\"," USER ",\"top_p\":0}");
    assert_int_equal(last()->sampling->top_k, 1);
}

static void test_chat_errors(void **state)
{
    (void)state;
    static const struct {
        const char *rest; /* beside model and messages */
        const char *param, *code;
    } fields[] = {
        {"\"temperature\":2.1", "temperature", "invalid_value"},
        {"\"temperature\":-0.1", "temperature", "invalid_value"},
        {"\"temperature\":\"1\"", "temperature", "invalid_type"},
        {"\"temperature\":true", "temperature", "invalid_type"},
        {"\"top_p\":1.5", "top_p", NULL},
        {"\"top_k\":-2", "top_k", NULL},
        {"\"top_k\":1.5", "top_k", NULL},
        {"\"min_p\":2", "min_p", NULL},
        {"\"max_tokens\":0", "max_tokens", NULL},
        {"\"max_tokens\":-2", "max_tokens", NULL},
        {"\"max_tokens\":\"5\"", "max_tokens", "invalid_type"},
        {"\"max_tokens\":1e300", "max_tokens", NULL},
        {"\"max_completion_tokens\":0", "max_completion_tokens", NULL},
        {"\"max_tokens\":2,\"min_tokens\":3", "min_tokens", NULL},
        {"\"presence_penalty\":3", "presence_penalty", NULL},
        {"\"frequency_penalty\":-3", "frequency_penalty", NULL},
        {"\"repetition_penalty\":0", "repetition_penalty", NULL},
        {"\"n\":0", "n", NULL},
        {"\"n\":129", "n", NULL},
        {"\"best_of\":4", "best_of", NULL},
        {"\"seed\":1.5", "seed", NULL},
        {"\"seed\":\"a\"", "seed", "invalid_type"},
        {"\"stop\":5", "stop", "invalid_type"},
        {"\"user\":5", "user", "invalid_type"},
        {"\"store\":\"no\"", "store", "invalid_type"},
        {"\"metadata\":[]", "metadata", "invalid_type"},
        {"\"stop\":[\"a\",1]", "stop", "invalid_type"},
        {"\"stream\":\"yes\"", "stream", "invalid_type"},
        {"\"stream\":1", "stream", "invalid_type"},
        {"\"stream_options\":{\"include_usage\":true}", "stream_options", NULL},
        {"\"stream\":true,\"stream_options\":[]", "stream_options", "invalid_type"},
        {"\"logprobs\":3", "logprobs", "invalid_type"},
        {"\"top_logprobs\":3", "top_logprobs", NULL},
        {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs", NULL},
        {"\"logit_bias\":{\"1\":101}", "logit_bias", NULL},
        {"\"logit_bias\":{\"word\":1}", "logit_bias", NULL},
        {"\"logit_bias\":{\"-1\":1}", "logit_bias", NULL},
        {"\"logit_bias\":{\"99999999999999999999\":1}", "logit_bias", NULL},
        {"\"logit_bias\":[[1]]", "logit_bias", NULL},
        {"\"logit_bias\":7", "logit_bias", "invalid_type"},
        {"\"response_format\":{\"type\":\"xml\"}", "response_format", "unsupported_value"},
        {"\"response_format\":{\"type\":\"json_schema\"}", "response_format",
         "invalid_json_schema"},
        {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a b\","
         "\"schema\":{}}}",
         "response_format.json_schema.name", NULL},
        {"\"response_format\":{\"type\":\"json_object\"},\"guided_regex\":\"a\"", "guided_regex",
         NULL},
        {"\"guided_choice\":[1]", "guided_choice", "invalid_type"},
        {"\"structured_outputs\":{\"structural_tag\":\"x\"}", "structured_outputs.structural_tag",
         "unsupported_parameter"},
        {"\"response_format\":\"text\"", "response_format", "invalid_type"},
        {"\"tools\":[]", "tools", NULL},
        {"\"tools\":{}", "tools", "invalid_type"},
        {"\"tools\":[{\"type\":\"x\"}]", "tools[0].type", NULL},
        {"\"tools\":[{\"type\":\"function\",\"function\":{}}]", "tools[0].function.name", NULL},
        {"\"tool_choice\":\"required\"", "tool_choice", NULL},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
         "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}",
         "tool_choice", NULL},
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
         "\"tool_choice\":\"required\",\"response_format\":{\"type\":\"json_object\"}",
         "response_format", NULL},
        {"\"modalities\":[\"text\",\"audio\"]", "modalities", "unsupported_value"},
        {"\"guided_json\":3", "guided_json", "invalid_json_schema"},
        {"\"mirostat\":2", "mirostat", "unsupported_parameter"},
        {"\"chat_template\":\"x\"", "chat_template", "unsupported_parameter"},
        {"\"chat_template_kwargs\":[]", "chat_template_kwargs", "invalid_type"},
        {"\"reasoning_effort\":\"huge\"", "reasoning_effort", NULL},
        {"\"ignore_eos\":\"no\"", "ignore_eos", "invalid_type"},
    };
    char body[1024];
    for (size_t i = 0; i < NUM_COUNT(fields); i++) {
        snprintf(body, sizeof body, "{\"model\":\"m\"," USER ",%s}", fields[i].rest);
        expect_error(CHAT, body, 400, fields[i].param, fields[i].code);
    }
    static const struct {
        const char *messages, *param;
    } talks[] = {
        {"null", "messages"},
        {"\"hi\"", "messages"},
        {"[]", "messages"},
        {"{}", "messages"},
        {"[1]", "messages[0]"},
        {"[{}]", "messages[0].role"},
        {"[{\"role\":\"king\",\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":5,\"content\":\"x\"}]", "messages[0].role"},
        {"[{\"role\":\"user\"}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":null}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":3}]", "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[3]}]", "messages[0].content[0]"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"x\"}]}]",
         "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"tool\",\"content\":\"x\"}]",
         "messages[1].tool_call_id"},
        {"[{\"role\":\"assistant\",\"content\":\"x\"},{\"role\":\"assistant\"}]", "messages"},
    };
    for (size_t i = 0; i < NUM_COUNT(talks); i++) {
        snprintf(body, sizeof body, "{\"model\":\"m\",\"messages\":%s}", talks[i].messages);
        expect_error(CHAT, body, 400, talks[i].param, NULL);
    }
    expect_error(CHAT, "{\"model\":\"m\"}", 400, "messages", "missing_required_parameter");
    expect_error(CHAT, "{\"model\":\"none\"," USER "}", 404, "model", "model_not_found");
    expect_error(CHAT, "{\"model\":5," USER "}", 400, "model", "invalid_type");
    expect_error(CHAT, "{" USER "}", 400, "model", "missing_required_parameter");
    expect_error(CHAT, "{\"model\":\"loading\"," USER "}", 503, NULL, "model_loading");
    assert_non_null(strstr(answer, "Retry-After: "));
    /* With one model alone, it need not be named. */
    n_fake_models = 1;
    assert_int_equal(post(CHAT, "{" USER "}"), 200);
    n_fake_models = 2;
    /* The engine's own refusals. */
    expect_error(CHAT,
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"INVALID\"}]}",
                 400, NULL, NULL);
    expect_error(CHAT,
                 "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                 "\"TOOLONG\"}]}",
                 400, "messages", "context_length_exceeded");
    expect_error(CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"BUSY\"}]}",
                 429, NULL, "rate_limit_exceeded");
    expect_error(CHAT,
                 "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                 "\"EARLY\"}]}",
                 503, NULL, NULL);
}

static void test_bad_bodies(void **state)
{
    (void)state;
    expect_error(CHAT, "", 400, NULL, NULL);
    expect_error(CHAT, "{", 400, NULL, NULL);
    expect_error(CHAT, "[]", 400, NULL, NULL);
    expect_error(CHAT, "\"x\"", 400, NULL, NULL);
    expect_error(CHAT, "{\"model\":\"m\"}x", 400, NULL, NULL);
    expect_error(CHAT, "{\"model\":\"\xff\"}", 400, NULL, NULL);
    expect_error(CHAT, "{\"model\":\"a\\u0000b\"," USER "}", 400, NULL, NULL);
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_puts(&b, "{\"model\":");
    for (int i = 0; i < 100000; i++)
        buf_putc(&b, '[');
    expect_error(CHAT, b.data, 400, NULL, NULL);
    buf_fini(&b);
    const char *ok = "{\"model\":\"m\"," USER "}";
    assert_int_equal(post_n(CHAT, NULL, ok, strlen(ok)), 200);
    assert_int_equal(post_n(CHAT, "application/vnd.x+json; charset=utf-8", ok, strlen(ok)), 200);
    assert_int_equal(post_n(CHAT, "text/plain", ok, strlen(ok)), 415);
    assert_int_equal(post_n(CHAT, "application/x-www-form-urlencoded", ok, strlen(ok)), 415);
    char *big = malloc(5 << 20);
    assert_non_null(big);
    memset(big, ' ', 5 << 20);
    int fd = dial();
    const char *head = "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Length: 5242880\r\n\r\n";
    put(fd, head, strlen(head));
    ssize_t n = recv(fd, answer, sizeof answer - 1, 0);
    assert_true(n > 0);
    answer[n] = '\0';
    assert_int_equal(strncmp(answer, "HTTP/1.1 413", 12), 0);
    assert_non_null(strstr(answer, "\"code\":\"request_too_large\""));
    close(fd);
    free(big);
    expect_error("/v1/unknown", "{}", 404, NULL, NULL);
}

static void test_chat_stream(void **state)
{
    (void)state;
    const char *ev[64];
    assert_int_equal(post(CHAT, "{\"model\":\"m\"," USER ",\"max_tokens\":3,\"stream\":true,"
                                "\"stream_options\":{\"include_usage\":true}}"),
                     200);
    assert_non_null(strstr(answer, "Content-Type: text/event-stream; charset=utf-8\r\n"));
    assert_non_null(strstr(answer, "Cache-Control: no-cache\r\n"));
    size_t n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 1 + 3 + 1 + 1 + 1);
    assert_string_equal(ev[6], "[DONE]");
    char id[64] = "";
    for (size_t i = 0; i < 6; i++) {
        struct jv *v = parse(ev[i]);
        expect_str(v, "object", "chat.completion.chunk");
        if (i == 0)
            snprintf(id, sizeof id, "%s", jv_str(dig(v, "id"), ""));
        expect_str(v, "id", id);
        assert_null(jv_get(v, "error"));
        struct jv *delta = dig(v, "choices.0.delta");
        const char *words[] = {"", "w0 ", "w1 ", "w2 "};
        if (i == 0) {
            expect_str(delta, "role", "assistant");
            assert_non_null(jv_get(delta, "content"));
            assert_true(jv_is(jv_get(delta, "content"), JV_NULL));
        } else if (i <= 3) {
            expect_str(delta, "content", words[i]);
            assert_int_equal(jv_len(delta), 1);
            assert_true(jv_is(dig(v, "choices.0.finish_reason"), JV_NULL));
        } else if (i == 4) {
            assert_int_equal(jv_len(delta), 0);
            expect_str(v, "choices.0.finish_reason", "length");
        } else {
            assert_int_equal(jv_len(dig(v, "choices")), 0);
            expect_int(v, "usage.completion_tokens", 3);
            expect_int(v, "usage.total_tokens", 10);
        }
        assert_true(i == 5 || !jv_get(v, "usage"));
        jv_free(v);
    }
    /* Running usage counts up with the tokens. */
    post(CHAT, "{\"model\":\"m\"," USER ",\"max_tokens\":2,\"stream\":true,\"stream_options\":"
               "{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 1 + 2 + 1 + 1 + 1);
    struct jv *u = parse(ev[2]);
    expect_int(u, "usage.completion_tokens", 2);
    jv_free(u);
    /* Two choices: each has its own role and its own end. */
    post(CHAT, "{\"model\":\"m\"," USER ",\"max_tokens\":2,\"stream\":true,\"n\":2}");
    n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 2 * (1 + 2 + 1) + 1);
    int roles[2] = {0}, ends[2] = {0};
    for (size_t i = 0; i + 1 < n; i++) {
        struct jv *v = parse(ev[i]);
        int64_t k = jv_int(dig(v, "choices.0.index"), 9);
        assert_in_range(k, 0, 1);
        roles[k] += dig(v, "choices.0.delta.role") != NULL;
        ends[k] += jv_is(dig(v, "choices.0.finish_reason"), JV_STRING);
        jv_free(v);
    }
    assert_true(roles[0] == 1 && roles[1] == 1 && ends[0] == 1 && ends[1] == 1);
    /* Broken in the middle: the text so far, an error event, no [DONE]. */
    assert_int_equal(post(CHAT, "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\","
                                "\"content\":\"BREAK\"}]}"),
                     200);
    n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 3);
    struct jv *v = parse(ev[2]);
    expect_str(v, "error.type", "unavailable_error");
    expect_str(v, "error.code", "replica_lost");
    assert_non_null(strstr(jv_str(dig(v, "error.message"), ""), "was lost"));
    jv_free(v);
    /* Not streamed, the same is a proper status. */
    expect_error(CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"BREAK\"}]}",
                 503, NULL, NULL);
}

static void test_logprobs(void **state)
{
    (void)state;
    const char *ev[64];
    post(CHAT, "{\"model\":\"m\"," USER ",\"max_tokens\":2,\"logprobs\":true,\"top_logprobs\":3}");
    struct jv *v = json_of();
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.content")), 2);
    expect_str(v, "choices.0.logprobs.content.1.token", "w1 ");
    expect_int(v, "choices.0.logprobs.content.1.bytes.0", 'w');
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.content.1.top_logprobs")), 3);
    assert_true(jv_num(dig(v, "choices.0.logprobs.content.1.logprob"), 0) == -0.5);
    jv_free(v);
    post(CHAT, "{\"model\":\"m\"," USER ",\"max_tokens\":2,\"logprobs\":true,\"stream\":true}");
    assert_int_equal(split_events(body_of(), ev, 64), 5);
    v = parse(ev[2]);
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.content")), 1);
    expect_str(v, "choices.0.logprobs.content.0.token", "w1 ");
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.content.0.top_logprobs")), 0);
    jv_free(v);
    post(TEXT, "{\"model\":\"m\",\"prompt\":\"hi\",\"max_tokens\":3,\"logprobs\":2}");
    v = json_of();
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.tokens")), 3);
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.token_logprobs")), 3);
    expect_int(v, "choices.0.logprobs.text_offset.2", 6);
    assert_true(jv_is(dig(v, "choices.0.logprobs.top_logprobs.0"), JV_OBJECT));
    jv_free(v);
    post(TEXT, "{\"model\":\"m\",\"prompt\":\"hi\",\"max_tokens\":3,\"logprobs\":0,"
               "\"echo\":true}");
    v = json_of();
    assert_true(jv_is(dig(v, "choices.0.logprobs.token_logprobs.0"), JV_NULL));
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.top_logprobs")), 3);
    assert_int_equal(jv_len(dig(v, "choices.0.logprobs.top_logprobs.1")), 1);
    jv_free(v);
}

static void test_completions(void **state)
{
    (void)state;
    const char *ev[64];
    assert_int_equal(post(TEXT, "{\"model\":\"m\",\"prompt\":\"hi\"}"), 200);
    struct jv *v = json_of();
    expect_str(v, "object", "text_completion");
    assert_int_equal(strncmp(jv_str(dig(v, "id"), ""), "cmpl-", 5), 0);
    expect_int(v, "usage.completion_tokens", 16);
    jv_free(v);
    assert_true(last()->has_prompt);
    assert_string_equal(last()->prompt, "hi");
    assert_int_equal(post(TEXT, "{\"model\":\"m\",\"prompt\":[1,2,3.0],\"max_tokens\":2,"
                                "\"echo\":true}"),
                     200);
    assert_false(last()->has_prompt);
    assert_int_equal(last()->n_prompt_tokens, 3);
    assert_true(last()->echo && !last()->only_prompt);
    post(TEXT, "{\"model\":\"m\",\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true}");
    assert_true(last()->echo && last()->only_prompt && last()->max_tokens == 0);
    assert_int_equal(post(TEXT, "{\"model\":\"m\",\"prompt\":\"\",\"max_tokens\":2}"), 200);
    assert_true(last()->has_prompt);
    /* Several prompts, more than run at a time, two choices each. */
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_puts(&b, "{\"model\":\"m\",\"max_tokens\":2,\"n\":2,\"prompt\":[");
    for (int i = 0; i < 40; i++)
        buf_printf(&b, "%s\"p%d\"", i ? "," : "", i);
    buf_puts(&b, "]}");
    assert_int_equal(post(TEXT, b.data), 200);
    v = json_of();
    assert_int_equal(jv_len(dig(v, "choices")), 80);
    expect_int(v, "choices.79.index", 79);
    expect_str(v, "choices.79.text", "w0 w1 ");
    expect_int(v, "usage.prompt_tokens", 40 * 7);
    expect_int(v, "usage.completion_tokens", 80 * 2);
    jv_free(v);
    buf_fini(&b);
    assert_int_equal(post("/completions", "{\"model\":\"m\",\"prompt\":[[1],[2]],\"stream\":true,"
                                          "\"max_tokens\":2}"),
                     200);
    size_t n = split_events(body_of(), ev, 64);
    assert_int_equal(n, 2 * (2 + 1) + 1);
    v = parse(ev[0]);
    expect_str(v, "object", "text_completion");
    expect_str(v, "choices.0.text", "w0 ");
    jv_free(v);
    static const struct {
        const char *rest, *param;
    } fields[] = {
        {"\"x\":1", "prompt"},
        {"\"prompt\":null", "prompt"},
        {"\"prompt\":[]", "prompt"},
        {"\"prompt\":[[]]", "prompt"},
        {"\"prompt\":5", "prompt"},
        {"\"prompt\":{}", "prompt"},
        {"\"prompt\":[1,\"a\"]", "prompt"},
        {"\"prompt\":[\"a\",5]", "prompt"},
        {"\"prompt\":[-1]", "prompt"},
        {"\"prompt\":\"a\",\"suffix\":\"b\"", "suffix"},
        {"\"prompt\":\"a\",\"logprobs\":21", "logprobs"},
        {"\"prompt\":\"a\",\"logprobs\":true", "logprobs"},
        {"\"prompt\":\"a\",\"best_of\":2", "best_of"},
        {"\"prompt\":\"a\",\"echo\":1", "echo"},
        {"\"prompt\":\"a\",\"max_tokens\":0", "max_tokens"},
        {"\"prompt\":\"a\",\"max_tokens\":0,\"echo\":false", "max_tokens"},
        {"\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true,\"min_tokens\":1", "min_tokens"},
    };
    char body[256];
    for (size_t i = 0; i < NUM_COUNT(fields); i++) {
        snprintf(body, sizeof body, "{\"model\":\"m\",%s}", fields[i].rest);
        expect_error(TEXT, body, 400, fields[i].param, NULL);
    }
    expect_error(TEXT, "{\"model\":\"m\",\"prompt\":\"TOOLONG\"}", 400, "prompt",
                 "context_length_exceeded");
    /* One prompt of several fails: the request fails once. */
    expect_error(TEXT, "{\"model\":\"m\",\"prompt\":[\"a\",\"INVALID\",\"SILENT\"]}", 400, NULL,
                 NULL);
}

static void test_keepalive(void **state)
{
    (void)state;
    /* A prefill without end: comments keep the connection alive, and when the shard goes the
     * stream, whose status is out, ends with the error as an event. */
    const char *body =
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
        "\"SILENT\"}]}";
    char head[300];
    int fd = dial();
    int n = snprintf(head, sizeof head, "POST " CHAT " HTTP/1.0\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    put(fd, head, (size_t)n);
    size_t at = 0;
    bool stopped = false;
    for (;;) {
        ssize_t r = recv(fd, answer + at, sizeof answer - 1 - at, 0);
        if (r <= 0)
            break;
        at += (size_t)r;
        answer[at] = '\0';
        const char *ping = strstr(answer, "\r\n\r\n: ping\n\n: ping\n\n");
        if (ping && !stopped) {
            stopped = true;
            pthread_mutex_lock(&fx.engine.lock);
            rpc_stream_finish(fx.engine.parked, RPC_INTERNAL, "the device failed");
            pthread_mutex_unlock(&fx.engine.lock);
        }
    }
    close(fd);
    assert_true(stopped);
    assert_int_equal(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    const char *end = strstr(answer, "data: {\"error\":{\"message\":\"the device failed\"");
    assert_non_null(end);
    assert_null(strstr(end, "[DONE]"));
}

static void wait_cancelled(unsigned n)
{
    for (int i = 0; i < 5000 && atomic_load(&fx.engine.n_cancelled) < n; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&fx.engine.n_cancelled), n);
}

static void test_client_leaves(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}]}",
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"SILENT\"}]}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"SILENT\"}]}",
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"FLOOD\"}]}",
    };
    for (unsigned i = 0; i < NUM_COUNT(bodies); i++) {
        int fd = dial();
        char head[600];
        int n = snprintf(head, sizeof head,
                         "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                         strlen(bodies[i]), bodies[i]);
        put(fd, head, (size_t)n);
        for (int k = 0; k < 5000 && atomic_load(&fx.engine.n_calls) <= i; k++)
            usleep(1000);
        if (i == 0)
            assert_true(recv(fd, answer, sizeof answer, 0) > 0);
        if (i == 3)
            usleep(50 * 1000); /* back-pressure has set in: nobody reads */
        close(fd);
        wait_cancelled(i + 1);
    }
    assert_int_equal(post(CHAT, "{\"model\":\"m\"," USER "}"), 200);
}

static size_t rss_kb(void)
{
    unsigned long size = 0, rss = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%lu %lu", &size, &rss) != 2)
            rss = 0;
        fclose(f);
    }
    return rss * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

static void test_thousand_streams(void **state)
{
    (void)state;
    enum { N = 1000 };
    static int fds[N];
    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    lim.rlim_cur = lim.rlim_max < 4096 ? lim.rlim_max : 4096;
    setrlimit(RLIMIT_NOFILE, &lim);
    if (lim.rlim_cur < 2 * N + 100) {
        print_message("needs %d file descriptors, skipped\n", 2 * N + 100);
        skip();
    }
    const char *body =
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"HANG\"}]}";
    char head[300];
    int n = snprintf(head, sizeof head,
                     "POST " CHAT " HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    size_t before = rss_kb();
    for (int i = 0; i < N; i++) {
        fds[i] = dial();
        put(fds[i], head, (size_t)n);
    }
    for (int i = 0; i < N; i++) {
        size_t at = 0;
        do {
            ssize_t r = recv(fds[i], answer + at, sizeof answer - 1 - at, 0);
            assert_true(r > 0);
            at += (size_t)r;
            answer[at] = '\0';
        } while (!strstr(answer, "\"content\":\"w0 \""));
    }
    size_t used = rss_kb() - before;
    print_message("%d open answers, both ends of their RPC streams included: %zu KiB\n", N, used);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(used < 100 * 1024);
#endif
    for (int i = 0; i < N; i++)
        close(fds[i]);
    wait_cancelled(N);
}

static void test_slow_reader(void **state)
{
    (void)state;
    /* 3000 tokens of which nothing is read for a while: all arrive, in order. */
    const char *body = "{\"model\":\"m\"," USER ",\"max_tokens\":3000,\"stream\":true,"
                       "\"logprobs\":true,\"top_logprobs\":5}";
    char head[300];
    int fd = dial();
    int n = snprintf(head, sizeof head, "POST " CHAT " HTTP/1.0\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    put(fd, head, (size_t)n);
    usleep(300 * 1000);
    size_t at = read_answer(fd);
    const char *p = answer;
    for (int i = 0; i < 3000; i++) {
        char want[40];
        snprintf(want, sizeof want, "\"content\":\"w%d \"", i);
        const char *next = strstr(p, want);
        if (!next)
            print_error("%s is missing among %zu bytes; end: %s\n", want, at,
                        answer + (at > 300 ? at - 300 : 0));
        assert_non_null(next);
        p = next;
    }
    assert_non_null(strstr(p, "data: [DONE]\n\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_chat, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parameters_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chat_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_bodies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chat_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_logprobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_completions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keepalive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_leaves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_thousand_streams, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
