/* SPDX-License-Identifier: Apache-2.0 */
/* openai_fixture.h - what the tests of the OpenAI dialect share: an HTTP server with a gateway and
 * a head shard that has no model, a client, and looks into the answers. One program each; static
 * state. */
#ifndef QUIRE_TEST_OPENAI_FIXTURE_H
#define QUIRE_TEST_OPENAI_FIXTURE_H

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

static inline void gateway_gone(void *ctx)
{
    (void)ctx;
    uv_close((uv_handle_t *)&fx.stop, NULL);
}

static inline void http_gone(void *ctx)
{
    (void)ctx;
    gateway_close(fx.gw, gateway_gone, NULL);
}

static inline void on_stop(uv_async_t *a)
{
    (void)a;
    http_server_close(fx.http, 200, http_gone, NULL);
}

static inline void *run(void *arg)
{
    (void)arg;
    uv_run(&fx.loop, UV_RUN_DEFAULT);
    return NULL;
}

static inline int setup(void **state)
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
    gateway_set_patience(fx.gw, 100);
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

static inline int teardown(void **state)
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

static inline int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fx.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval tv = {.tv_sec = 15};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static inline void put(int fd, const char *s, size_t n)
{
    while (n > 0) {
        ssize_t w = send(fd, s, n, MSG_NOSIGNAL);
        assert_true(w > 0);
        s += w;
        n -= (size_t)w;
    }
}

static char answer[8 << 20];

/* All of it, up to the end of the connection; its bytes. */
static inline size_t read_answer(int fd)
{
    size_t at = 0;
    for (;;) {
        ssize_t r = recv(fd, answer + at, sizeof answer - 1 - at, 0);
        if (r <= 0)
            break;
        at += (size_t)r;
    }
    answer[at] = '\0';
    close(fd);
    return at;
}

/* Posts as HTTP/1.0, so that a stream's body comes without chunk headers. */
static inline int post_n(const char *path, const char *type, const char *body, size_t n)
{
    char head[512];
    int fd = dial();
    int len = snprintf(head, sizeof head, "POST %s HTTP/1.0\r\n%s%s%sContent-Length: %zu\r\n\r\n",
                       path, type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", n);
    put(fd, head, (size_t)len);
    put(fd, body, n);
    read_answer(fd);
    return (int)strtol(answer + 9, NULL, 10);
}

static inline int post(const char *path, const char *body)
{
    return post_n(path, "application/json", body, strlen(body));
}

static const char *body_of(void)
{
    const char *b = strstr(answer, "\r\n\r\n");
    assert_non_null(b);
    return b + 4;
}

static inline struct jv *json_of(void)
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
static inline struct jv *dig(struct jv *v, const char *path)
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

static inline void expect_str(struct jv *v, const char *path, const char *want)
{
    assert_string_equal(jv_str(dig(v, path), "(none)"), want);
}

static inline void expect_int(struct jv *v, const char *path, int64_t want)
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
static inline Quire__GenerateRequest *last(void)
{
    return fx.engine.last;
}

/* Splits an SSE body into its events; every event is one data line or a comment. */
static inline size_t split_events(const char *body, const char *events[], size_t max)
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

static inline struct jv *parse(const char *text)
{
    struct jv *v;
    struct err e;
    assert_int_equal(jv_parse(&v, text, strlen(text), 64, &e), 0);
    return v;
}

#endif
