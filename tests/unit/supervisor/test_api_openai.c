/* SPDX-License-Identifier: Apache-2.0 */
/* /v1/chat/completions and /v1/completions over sockets, with a head shard that has no model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "supervisor/api/api.h"
#include "tests/unit/supervisor/fake_engine.h"

#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    uv_loop_t loop;
    uv_async_t stop;
    struct rpc_loop *rpc;
    struct gateway *gw;
    struct http_server *http;
    struct api api;
    struct fake_engine engine;
    pthread_t thread;
    int port;
} fx;

static void gateway_gone(void *ctx)
{
    (void)ctx;
    uv_close((uv_handle_t *)&fx.stop, NULL);
}

static void http_gone(void *ctx)
{
    (void)ctx;
    gateway_close(fx.gw, gateway_gone, NULL);
}

static void on_stop(uv_async_t *a)
{
    (void)a;
    http_server_close(fx.http, 200, http_gone, NULL);
}

static void *run(void *arg)
{
    (void)arg;
    uv_run(&fx.loop, UV_RUN_DEFAULT);
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    struct err e;
    memset(&fx, 0, sizeof fx);
    rpc_global_init();
    uv_loop_init(&fx.loop);
    uv_async_init(&fx.loop, &fx.stop, on_stop);
    assert_int_equal(rpc_loop_open(&fx.rpc, "test", &e), 0);
    fake_engine_start(&fx.engine);
    assert_int_equal(gateway_open(&fx.gw, &fx.loop, fx.rpc, &e), 0);
    gateway_set_control(fx.gw, fake_control());
    struct control_observer obs = gateway_observer(fx.gw);
    n_fake_models = 2;
    fake_models[0] = (struct model_info){.uid = "m", .state = MODEL_READY, .request_limits = -1};
    fake_models[1] =
        (struct model_info){.uid = "loading", .state = MODEL_LAUNCHING, .request_limits = -1};
    obs.replica_up(obs.ctx, "m", 0, 1, fx.engine.address);
    struct http_config cfg = {
        .host = "127.0.0.1", .write_error = api_write_error, .max_body_bytes = 4 << 20};
    assert_int_equal(http_server_open(&fx.http, &fx.loop, &cfg, &e), 0);
    fx.api.control = fake_control();
    fx.api.gateway = fx.gw;
    fx.api.keepalive_ms = 200;
    api_openai_register(fx.http, &fx.api);
    fx.port = http_server_port(fx.http);
    assert_int_equal(pthread_create(&fx.thread, NULL, run, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    uv_async_send(&fx.stop);
    pthread_join(fx.thread, NULL);
    assert_null(fx.api.openai_jobs);
    assert_int_equal(uv_loop_close(&fx.loop), 0);
    fake_engine_stop(&fx.engine);
    rpc_loop_close(fx.rpc);
    rpc_global_fini();
    return 0;
}

/* ---- client -------------------------------------------------------------------------------- */

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fx.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval tv = {.tv_sec = 15};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void put(int fd, const char *s, size_t n)
{
    while (n > 0) {
        ssize_t w = send(fd, s, n, MSG_NOSIGNAL);
        assert_true(w > 0);
        s += w;
        n -= (size_t)w;
    }
}

static char answer[8 << 20];

/* Posts as HTTP/1.0, so that a stream's body comes without chunk headers. */
static int post_n(const char *path, const char *type, const char *body, size_t n)
{
    char head[512];
    int fd = dial();
    int len = snprintf(head, sizeof head, "POST %s HTTP/1.0\r\n%s%s%sContent-Length: %zu\r\n\r\n",
                       path, type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", n);
    put(fd, head, (size_t)len);
    put(fd, body, n);
    size_t at = 0;
    for (;;) {
        ssize_t r = recv(fd, answer + at, sizeof answer - 1 - at, 0);
        if (r <= 0)
            break;
        at += (size_t)r;
    }
    answer[at] = '\0';
    close(fd);
    return (int)strtol(answer + 9, NULL, 10);
}

static int post(const char *path, const char *body)
{
    return post_n(path, "application/json", body, strlen(body));
}

static const char *body_of(void)
{
    const char *b = strstr(answer, "\r\n\r\n");
    assert_non_null(b);
    return b + 4;
}

static struct jv *json_of(void)
{
    struct jv *v;
    struct err e;
    const char *b = body_of();
    if (jv_parse(&v, b, strlen(b), 64, &e)) {
        print_error("%s in %s\n", e.msg, b);
        fail();
    }
    return v;
}

/* a.b.2.c */
static struct jv *dig(struct jv *v, const char *path)
{
    char key[64];
    while (*path && v) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        v = jv_is(v, JV_ARRAY) ? jv_at(v, strtoul(key, NULL, 10)) : jv_get(v, key);
        path += n + (path[n] == '.');
    }
    return v;
}

static void expect_str(struct jv *v, const char *path, const char *want)
{
    assert_string_equal(jv_str(dig(v, path), "(none)"), want);
}

static void expect_int(struct jv *v, const char *path, int64_t want)
{
    assert_int_equal(jv_int(dig(v, path), -999), want);
}

/* An error answer, both shapes at once. */
static void expect_error(const char *path, const char *body, int status, const char *param,
                         const char *code)
{
    int got = post(path, body);
    struct jv *v = json_of();
    const char *p = jv_str(dig(v, "error.param"), NULL), *c = jv_str(dig(v, "error.code"), NULL);
    bool ok = got == status && jv_is(dig(v, "error.message"), JV_STRING) &&
              jv_is(dig(v, "error.type"), JV_STRING) && jv_is(dig(v, "detail"), JV_STRING) &&
              jv_len(dig(v, "error")) == 4;
    ok = ok && (param ? p && strcmp(p, param) == 0 : !p);
    ok = ok && (!code || (c && strcmp(c, code) == 0));
    if (!ok)
        print_error("%s -> %d %s, want %d param %s code %s\n", body, got, body_of(), status,
                    param ? param : "null", code ? code : "any");
    assert_true(ok);
    jv_free(v);
}

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* The request that reached the head shard last. */
static Quire__GenerateRequest *last(void)
{
    return fx.engine.last;
}

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

/* Splits an SSE body into its events; every event is one data line or a comment. */
static size_t split_events(const char *body, const char *events[], size_t max)
{
    static char copy[4 << 20];
    snprintf(copy, sizeof copy, "%s", body);
    size_t n = 0;
    for (char *p = copy; *p;) {
        char *end = strstr(p, "\n\n");
        assert_non_null(end);
        *end = '\0';
        assert_null(strpbrk(p, "\r\n"));
        if (strcmp(p, ": ping") == 0) {
            p = end + 2; /* a busy machine */
            continue;
        }
        assert_true(n < max);
        assert_int_equal(strncmp(p, "data: ", 6), 0);
        events[n++] = p + 6;
        p = end + 2;
    }
    return n;
}

static struct jv *parse(const char *text)
{
    struct jv *v;
    struct err e;
    assert_int_equal(jv_parse(&v, text, strlen(text), 64, &e), 0);
    return v;
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
    assert_true(last()->echo);
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
    size_t at = 0;
    for (;;) {
        ssize_t r = recv(fd, answer + at, sizeof answer - 1 - at, 0);
        if (r <= 0)
            break;
        at += (size_t)r;
    }
    answer[at] = '\0';
    close(fd);
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
        cmocka_unit_test_setup_teardown(test_constraints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tool_calls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tool_calls_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_completions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keepalive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_leaves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_thousand_streams, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
