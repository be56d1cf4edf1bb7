/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server from outside: the loop runs in a thread, the tests speak bytes. */
#include "base/clock.h"
#include "supervisor/http/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a server with handlers that show every way to answer ---------------------------------- */

struct fixture {
    uv_loop_t loop;
    uv_async_t stop, act;
    struct http_server *s;
    pthread_t thread;
    int port;
    unsigned grace_ms;
    atomic_int n_closed, n_drained, n_full, n_streams, n_stopped;
    atomic_size_t n_written;
    struct http_req *held[2048];
    int n_held;
    atomic_int action; /* for on_act */
};

static struct fixture *fx;

static void h_echo(struct http_req *r, void *ctx)
{
    (void)ctx;
    size_t n;
    const char *body = http_body(r, &n);
    http_set_header(r, "X-Method", http_method(r));
    http_respond(r, 200, "text/plain", body, n);
}

static void h_param(struct http_req *r, void *ctx)
{
    char b[2048];
    const char *id = http_param(r, "id"), *q = http_query(r, "q");
    int n = snprintf(b, sizeof b, "%s|%s|%s|%s", (const char *)ctx, id ? id : "-", q ? q : "-",
                     http_path(r));
    http_respond(r, 200, "text/plain", b, (size_t)n);
}

static void h_fixed(struct http_req *r, void *ctx)
{
    (void)ctx;
    http_respond(r, 200, "text/plain", "fixed", 5);
}

static void on_close(struct http_req *r, void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&fx->n_closed, 1);
    for (int i = 0; i < fx->n_held; i++)
        if (fx->held[i] == r)
            fx->held[i] = NULL;
}

static void h_hold(struct http_req *r, void *ctx)
{
    (void)ctx;
    assert_true(fx->n_held < 2048);
    fx->held[fx->n_held++] = r;
    http_watch(r, on_close, NULL, NULL);
    atomic_fetch_add(&fx->n_streams, 1);
}

/* Writes until told to stop, goes on when there is room, 512 times. */
static void pump(struct http_req *r)
{
    static char block[32 * 1024];
    memset(block, 'x', sizeof block);
    while (atomic_load(&fx->n_written) < 512 * sizeof block) {
        atomic_fetch_add(&fx->n_written, sizeof block);
        if (http_stream_write(r, block, sizeof block) == Q_EFULL) {
            atomic_fetch_add(&fx->n_full, 1);
            return;
        }
    }
    http_stream_end(r);
}

static void on_drain(struct http_req *r, void *ctx)
{
    (void)ctx;
    atomic_fetch_add(&fx->n_drained, 1);
    pump(r);
}

static void h_flood(struct http_req *r, void *ctx)
{
    (void)ctx;
    http_watch(r, on_close, on_drain, NULL);
    http_stream_start(r, 200, "text/plain");
    pump(r);
}

static void h_stream(struct http_req *r, void *ctx)
{
    (void)ctx;
    http_stream_start(r, 200, "text/event-stream");
    http_stream_write(r, "one ", 4);
    http_stream_write(r, "", 0);
    http_stream_write(r, "two", 3);
    http_stream_end(r);
}

static void h_open(struct http_req *r, void *ctx)
{
    h_hold(r, ctx);
    http_stream_start(r, 200, "text/event-stream");
    http_stream_write(r, "data: hello\n\n", 13);
    http_body_drop(r);
}

static const struct http_route routes[] = {
    {"POST", "/echo", h_echo},
    {"PUT", "/echo", h_echo},
    {"GET", "/v1/models/{id}", h_param},
    {"DELETE", "/v1/models/{id}", h_param},
    {"GET", "/v1/models/prompts", h_fixed},
    {"GET", "/v1/models/{id}/events", h_fixed},
    {"GET", "/files/{id...}", h_param},
    {"GET", "/files/{id}/meta", h_fixed},
    {"GET", "/", h_fixed},
    {"POST", "/hold", h_hold},
    {"GET", "/flood", h_flood},
    {"GET", "/stream", h_stream},
    {"GET", "/open", h_open},
};

static void on_server_closed(void *ctx)
{
    (void)ctx;
    fx->s = NULL;
    atomic_store(&fx->n_stopped, 1);
    uv_close((uv_handle_t *)&fx->stop, NULL);
    uv_close((uv_handle_t *)&fx->act, NULL);
}

static void on_stop(uv_async_t *a)
{
    (void)a;
    http_server_close(fx->s, fx->grace_ms, on_server_closed, NULL);
}

static void on_act(uv_async_t *a)
{
    (void)a;
    int what = atomic_exchange(&fx->action, 0);
    for (int i = 0; i < fx->n_held; i++) {
        struct http_req *r = fx->held[i];
        if (!r)
            continue;
        if (what == 'r') {
            fx->held[i] = NULL;
            http_respond(r, 200, "text/plain", "late", 4);
        } else if (what == 'w') {
            http_stream_write(r, "data: tick\n\n", 12);
        } else if (what == 'e') {
            fx->held[i] = NULL;
            http_stream_end(r);
        } else if (what == 'a') {
            fx->held[i] = NULL;
            http_stream_abort(r);
        }
    }
}

static void act(int what)
{
    atomic_store(&fx->action, what);
    uv_async_send(&fx->act);
    for (int i = 0; i < 2000 && atomic_load(&fx->action); i++)
        usleep(1000);
}

static void *run(void *arg)
{
    (void)arg;
    uv_run(&fx->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void start_with(struct http_config cfg)
{
    fx = calloc(1, sizeof *fx);
    struct err e;
    assert_int_equal(uv_loop_init(&fx->loop), 0);
    uv_async_init(&fx->loop, &fx->stop, on_stop);
    uv_async_init(&fx->loop, &fx->act, on_act);
    cfg.host = "127.0.0.1";
    assert_int_equal(http_server_open(&fx->s, &fx->loop, &cfg, &e), 0);
    http_server_add(fx->s, routes, sizeof routes / sizeof *routes, (void *)(uintptr_t) "ctx");
    fx->port = http_server_port(fx->s);
    assert_int_equal(pthread_create(&fx->thread, NULL, run, NULL), 0);
}

static int start(void **state)
{
    (void)state;
    start_with((struct http_config){0});
    return 0;
}

/* Every case ends with a clean loop: no handle and no connection is left. */
static int stop(void **state)
{
    (void)state;
    uv_async_send(&fx->stop);
    pthread_join(fx->thread, NULL);
    assert_int_equal(atomic_load(&fx->n_stopped), 1);
    assert_int_equal(uv_loop_close(&fx->loop), 0);
    free(fx);
    fx = NULL;
    return 0;
}

/* ---- a client of bytes ------------------------------------------------------------------- */

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fx->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    struct timeval tv = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    return fd;
}

static void put(int fd, const char *s, size_t n)
{
    while (n > 0) {
        ssize_t w = send(fd, s, n, MSG_NOSIGNAL);
        if (w <= 0)
            return;
        s += w;
        n -= (size_t)w;
    }
}

static void puts_to(int fd, const char *s)
{
    put(fd, s, strlen(s));
}

/* Read until the text contains `until` n times (or the peer closes: until NULL). */
static char *read_until(int fd, const char *until, int n)
{
    static char b[4 << 20];
    size_t len = 0;
    b[0] = '\0';
    for (;;) {
        int seen = 0;
        for (const char *p = b; until && (p = strstr(p, until)) != NULL; p += strlen(until))
            seen++;
        if (until && seen >= n)
            return b;
        assert_true(len < sizeof b - 1);
        ssize_t r = recv(fd, b + len, sizeof b - 1 - len, 0);
        if (r <= 0) {
            if (until)
                print_error("connection ended before '%s' came %d times; got:\n%s\n", until, n, b);
            assert_null(until);
            return b;
        }
        len += (size_t)r;
        b[len] = '\0';
    }
}

static char *ask(const char *request)
{
    int fd = dial();
    puts_to(fd, request);
    shutdown(fd, SHUT_WR);
    char *answer = read_until(fd, NULL, 0);
    close(fd);
    return answer;
}

static void expect_status(const char *answer, int status)
{
    char want[32];
    snprintf(want, sizeof want, "HTTP/1.1 %d ", status);
    if (strncmp(answer, want, strlen(want)) != 0)
        print_error("want %d, got: %.300s\n", status, answer);
    assert_int_equal(strncmp(answer, want, strlen(want)), 0);
}

static void expect_in(const char *answer, const char *text)
{
    if (!strstr(answer, text))
        print_error("'%s' is not in: %.600s\n", text, answer);
    assert_non_null(strstr(answer, text));
}

#define HOST "Host: x\r\n"

/* ---- cases ------------------------------------------------------------------------------- */

static void test_basic(void **state)
{
    (void)state;
    char *a = ask("POST /echo HTTP/1.1\r\n" HOST "X-Empty:\r\nContent-Length: 5\r\n"
                  "X-Request-Id: abc-1\r\n\r\nhello");
    expect_status(a, 200);
    expect_in(a, "Content-Length: 5\r\n");
    expect_in(a, "X-Method: POST\r\n");
    expect_in(a, "X-Request-Id: abc-1\r\n");
    expect_in(a, "Access-Control-Allow-Origin: *\r\n");
    expect_in(a, "\r\n\r\nhello");
    a = ask("GET / HTTP/1.0\r\n\r\n");
    expect_status(a, 200);
    expect_in(a, "Connection: close");
    a = ask("GET /?a=b HTTP/1.1\r\n" HOST
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n");
    expect_status(a, 200);
    expect_in(a, "fixed");
}

static void test_routes(void **state)
{
    (void)state;
    expect_in(ask("GET /v1/models/prompts HTTP/1.1\r\n" HOST "\r\n"), "\r\n\r\nfixed");
    expect_in(ask("DELETE /v1/models/prompts HTTP/1.1\r\n" HOST "\r\n"), "ctx|prompts|-|");
    expect_in(ask("GET /v1/models/a%2Fb%20c?q=1%2B+2&x HTTP/1.1\r\n" HOST "\r\n"),
              "ctx|a/b c|1+ 2|/v1/models/a/b c");
    expect_in(ask("GET /v1/models/m/ HTTP/1.1\r\n" HOST "\r\n"), "ctx|m|-|/v1/models/m");
    expect_in(ask("GET /files/a/b/c HTTP/1.1\r\n" HOST "\r\n"), "ctx|a/b/c|-|");
    expect_in(ask("GET /files/a/meta HTTP/1.1\r\n" HOST "\r\n"), "\r\n\r\nfixed");
    expect_in(ask("GET http://h:1/v1/models/m HTTP/1.1\r\n" HOST "\r\n"), "ctx|m|-|");
    char *a = ask("PUT /v1/models/m HTTP/1.1\r\n" HOST "\r\n");
    expect_status(a, 405);
    expect_in(a, "Allow: GET, HEAD, DELETE, OPTIONS\r\n");
    expect_in(a, "{\"detail\":\"Method Not Allowed\"}");
    expect_status(ask("GET /v1//models HTTP/1.1\r\n" HOST "\r\n"), 404);
    expect_status(ask("GET /v1/models/ HTTP/1.1\r\n" HOST "\r\n"), 404);
    expect_status(ask("GET /nope HTTP/1.1\r\n" HOST "\r\n"), 404);
    a = ask("HEAD /v1/models/m HTTP/1.1\r\n" HOST "\r\n");
    expect_status(a, 200);
    expect_in(a, "Content-Length: 20\r\n");
    assert_null(strstr(a, "ctx|"));
    a = ask("OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: http://a\r\n"
            "Access-Control-Request-Headers: authorization,content-type\r\n\r\n");
    expect_status(a, 200);
    expect_in(a, "Access-Control-Allow-Headers: authorization,content-type\r\n");
    expect_in(a, "Access-Control-Allow-Methods: POST, PUT, OPTIONS\r\n");
    expect_status(ask("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), 200);
}

static void test_bad_requests(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        {"GARBAGE\r\n\r\n", 400},
        {"GET /\r\n\r\n", 505},
        {"GET / HTTP/2.0\r\n" HOST "\r\n", 505},
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400},
        {"GET /%00 HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /%0a HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /%zz HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /%4 HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /%ff HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /?q=%c0%80 HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /../etc HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET /%2e%2e/etc HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET nopath HTTP/1.1\r\n" HOST "\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
         400},
        {"POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n", 400},
        {"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: 999999999\r\n\r\n", 413},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
         415},
        {"POST /echo HTTP/1.1\r\n" HOST "Expect: miracles\r\nContent-Length: 1\r\n\r\nx", 417},
        {"POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
        {"POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
         400},
        {"GET / HTTP/1.1\r\n" HOST "X: a\rY: b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n" HOST "Bad Name: a\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length : 5\r\n\r\n", 400},
        {"CONNECT x:1 HTTP/1.1\r\n" HOST "\r\n", 405},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *a = ask(cases[i].request);
        if (strtol(a + 9, NULL, 10) != cases[i].status)
            print_error("case: %s\n", cases[i].request);
        expect_status(a, cases[i].status);
        expect_in(a, "Connection: close\r\n");
        expect_in(a, "{\"detail\":\"");
    }
    int fd = dial();
    put(fd, "GET /\0 HTTP/1.1\r\n" HOST "\r\n", 28);
    expect_status(read_until(fd, NULL, 0), 400);
    close(fd);
    fd = dial();
    put(fd, "GET / HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n", 36);
    expect_status(read_until(fd, NULL, 0), 400);
    close(fd);
}

static void test_too_large(void **state)
{
    (void)state;
    /* Headers: one long value, many small ones, a long target, long chunk extensions. */
    char *big = malloc(100000);
    assert_non_null(big);
    size_t n = (size_t)sprintf(big, "GET / HTTP/1.1\r\n" HOST "X: ");
    memset(big + n, 'a', 40000);
    strcpy(big + n + 40000, "\r\n\r\n");
    expect_status(ask(big), 431);
    n = (size_t)sprintf(big, "GET / HTTP/1.1\r\n" HOST);
    for (int i = 0; i < 9000; i++)
        n += (size_t)sprintf(big + n, "a: b\r\n");
    strcpy(big + n, "\r\n");
    expect_status(ask(big), 431);
    n = (size_t)sprintf(big, "GET /");
    memset(big + n, 'a', 40000);
    strcpy(big + n + 40000, " HTTP/1.1\r\n" HOST "\r\n");
    expect_status(ask(big), 431);
    n = (size_t)sprintf(big,
                        "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;a=");
    memset(big + n, 'a', 40000);
    strcpy(big + n + 40000, "\r\nx\r\n0\r\n\r\n");
    expect_status(ask(big), 431);
    free(big);
    /* A body over the limit whose sender goes on sending still gets its answer. */
    int fd = dial();
    puts_to(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    static char block[65536 + 16];
    size_t len = (size_t)sprintf(block, "10000\r\n");
    memset(block + len, 'b', 65536);
    memcpy(block + len + 65536, "\r\n", 2);
    for (int i = 0; i < 1040; i++)
        put(fd, block, len + 65536 + 2);
    const char *answer = read_until(fd, NULL, 0);
    expect_status(answer, 413);
    expect_in(answer, "X-Request-Id: "); /* also where no request came to be */
    close(fd);
}

static void test_pipelining(void **state)
{
    (void)state;
    int fd = dial();
    puts_to(fd, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n"
                "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nxyz"
                "\r\nPOST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                "2;x=y\r\nuv\r\n1\r\nw\r\n0\r\nTrailer: t\r\n\r\n"
                "GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"
                "GET / HTTP/1.1\r\n" HOST "\r\n");
    for (int i = 0; i < 1000 && !atomic_load(&fx->n_streams); i++)
        usleep(1000);
    act('r');
    char *a = read_until(fd, NULL, 0);
    /* No hexadecimal digits: the answers carry ids of these. */
    char *late = strstr(a, "late"), *xyz = strstr(a, "xyz"), *uvw = strstr(a, "uvw");
    char *fixed = strstr(a, "fixed");
    assert_true(late && xyz && uvw && fixed);
    assert_true(late < xyz && xyz < uvw && uvw < fixed);
    assert_null(strstr(fixed, "HTTP/1.1")); /* nothing is answered after a close */
    close(fd);
    /* A long train in one write. */
    fd = dial();
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 2000; i++)
        buf_puts(&b, "GET /v1/models/m HTTP/1.1\r\n" HOST "\r\n");
    put(fd, b.data, b.len);
    buf_fini(&b);
    read_until(fd, "ctx|m|", 2000);
    close(fd);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    const char *req = "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                      "4\r\nwiki\r\nA\r\n0123456789\r\n0\r\n\r\n";
    int fd = dial();
    int one = 1;
    setsockopt(fd, 6, 1, &one, sizeof one);
    for (const char *p = req; *p; p++) {
        put(fd, p, 1);
        usleep(200);
    }
    char *a = read_until(fd, "wiki0123456789", 1);
    expect_in(a, "Content-Length: 14\r\n");
    close(fd);
}

static void test_expect_continue(void **state)
{
    (void)state;
    int fd = dial();
    puts_to(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    char *a = read_until(fd, "\r\n\r\n", 1);
    assert_string_equal(a, "HTTP/1.1 100 Continue\r\n\r\n");
    puts_to(fd, "body");
    expect_status(read_until(fd, "body", 1), 200);
    close(fd);
    /* Too large: refused before the body is sent. */
    fd = dial();
    puts_to(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n"
                "Content-Length: 999999999\r\n\r\n");
    expect_status(read_until(fd, NULL, 0), 413);
    close(fd);
}

static void test_stream(void **state)
{
    (void)state;
    char *a = ask("GET /stream HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    expect_in(a, "Transfer-Encoding: chunked\r\n");
    expect_in(a, "\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n");
    a = ask("GET /stream HTTP/1.0\r\n\r\n");
    expect_in(a, "\r\n\r\none two");
    assert_null(strstr(a, "chunked"));
    a = ask("HEAD /stream HTTP/1.1\r\n" HOST "\r\n");
    assert_null(strstr(a, "one"));
    /* Aborted: the end chunk never comes. */
    int fd = dial();
    puts_to(fd, "GET /open HTTP/1.1\r\n" HOST "\r\n");
    read_until(fd, "hello", 1);
    act('a');
    assert_string_equal(read_until(fd, NULL, 0), "");
    close(fd);
    assert_int_equal(atomic_load(&fx->n_closed), 0);
}

static void wait_for(atomic_int *what, int n)
{
    for (int i = 0; i < 5000 && atomic_load(what) < n; i++)
        usleep(1000);
    assert_int_equal(atomic_load(what), n);
}

static void test_client_leaves(void **state)
{
    (void)state;
    /* FIN and RST, before and within a stream. */
    int fd = dial();
    puts_to(fd, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
    wait_for(&fx->n_streams, 1);
    close(fd);
    wait_for(&fx->n_closed, 1);
    fd = dial();
    puts_to(fd, "GET /open HTTP/1.1\r\n" HOST "\r\n");
    read_until(fd, "hello", 1);
    struct linger now = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
    wait_for(&fx->n_closed, 2);
    act('w'); /* nobody is left to write to */
    expect_status(ask("GET / HTTP/1.1\r\n" HOST "\r\n"), 200);
}

static void test_back_pressure(void **state)
{
    (void)state;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)fx->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    puts_to(fd, "GET /flood HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    wait_for(&fx->n_full, 1);
    usleep(50 * 1000);
    size_t stalled_at = atomic_load(&fx->n_written);
    usleep(50 * 1000);
    assert_int_equal(atomic_load(&fx->n_written), stalled_at);
    /* While this reader sleeps, others are served. */
    expect_status(ask("GET / HTTP/1.1\r\n" HOST "\r\n"), 200);
    size_t n_x = 0;
    static char b[65536];
    ssize_t r;
    while ((r = recv(fd, b, sizeof b, 0)) > 0)
        for (ssize_t i = 0; i < r; i++)
            n_x += b[i] == 'x';
    close(fd);
    /* "text/plain" and the header names contain no further x but these. */
    assert_true(n_x >= 512 * 32768 && n_x < 512 * 32768 + 16);
    assert_true(atomic_load(&fx->n_drained) >= 1);
    assert_int_equal(atomic_load(&fx->n_closed), 0);
}

static int start_short(void **state)
{
    (void)state;
    start_with((struct http_config){.head_timeout_ms = 200,
                                    .body_timeout_ms = 200,
                                    .idle_timeout_ms = 400,
                                    .write_timeout_ms = 300,
                                    .max_connections = 8,
                                    .max_bodies_bytes = 100000});
    return 0;
}

static void test_time_outs(void **state)
{
    (void)state;
    int fd = dial();
    uint64_t t0 = clock_mono_ms();
    /* A header that trickles buys no time. */
    puts_to(fd, "GET / HTTP/1.1\r\n" HOST "X: ");
    for (int i = 0; i < 40; i++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) > 0)
            break;
        put(fd, "a", 1);
    }
    expect_status(read_until(fd, NULL, 0), 408);
    assert_in_range(clock_mono_ms() - t0, 150, 2500);
    close(fd);
    fd = dial();
    puts_to(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\nabc");
    expect_status(read_until(fd, NULL, 0), 408);
    close(fd);
    /* Idle: closed without a word, but an answer being waited for is no idleness. */
    fd = dial();
    puts_to(fd, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
    usleep(900 * 1000);
    act('r');
    read_until(fd, "late", 1);
    t0 = clock_mono_ms();
    assert_string_equal(read_until(fd, NULL, 0), "");
    assert_in_range(clock_mono_ms() - t0, 250, 2500);
    close(fd);
    /* A reader that takes nothing: cut off, and its owner told. */
    fd = dial();
    puts_to(fd, "GET /flood HTTP/1.1\r\n" HOST "\r\n");
    wait_for(&fx->n_closed, 1);
    close(fd);
}

static void test_limits(void **state)
{
    (void)state;
    int fds[8];
    for (int i = 0; i < 8; i++) {
        fds[i] = dial();
        puts_to(fds[i], "GET / HTTP/1.1\r\n" HOST "\r\n");
        read_until(fds[i], "fixed", 1);
    }
    char *a = ask("GET / HTTP/1.1\r\n" HOST "\r\n");
    expect_status(a, 503);
    expect_in(a, "Retry-After: ");
    for (int i = 0; i < 8; i++)
        close(fds[i]);
    usleep(300 * 1000);
    expect_status(ask("GET / HTTP/1.1\r\n" HOST "\r\n"), 200);
    /* The budget for bodies is given back: the third large body is no problem. */
    for (int k = 0; k < 3; k++) {
        int fd = dial();
        puts_to(fd, "POST /echo HTTP/1.1\r\n" HOST
                    "Content-Length: 60000\r\nConnection: close\r\n\r\n");
        static char block[60000];
        memset(block, 'q', sizeof block);
        put(fd, block, sizeof block);
        expect_status(read_until(fd, NULL, 0), 200);
        close(fd);
    }
    int fd = dial();
    puts_to(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 200000\r\n\r\n");
    static char block[200000];
    put(fd, block, sizeof block);
    expect_status(read_until(fd, NULL, 0), 503);
    close(fd);
}

static size_t rss_kb(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long size = 0, rss = 0;
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
    struct rlimit lim;
    getrlimit(RLIMIT_NOFILE, &lim);
    lim.rlim_cur = lim.rlim_max < 4096 ? lim.rlim_max : 4096;
    setrlimit(RLIMIT_NOFILE, &lim);
    enum { N = 1000 };
    if (lim.rlim_cur < 2 * N + 50) {
        print_message("needs %d file descriptors, skipped\n", 2 * N + 50);
        skip();
    }
    static int fds[N];
    size_t before = rss_kb();
    for (int i = 0; i < N; i++) {
        fds[i] = dial();
        /* A prompt of 8 KiB each, which must not stay in memory. */
        char head[200];
        static char body[8192];
        memset(body, 'p', sizeof body);
        snprintf(head, sizeof head, "GET /open HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n",
                 sizeof body);
        puts_to(fds[i], head);
        put(fds[i], body, sizeof body);
    }
    wait_for(&fx->n_streams, N);
    size_t used = rss_kb() - before;
    print_message("%d idle streams: %zu KiB\n", N, used);
    assert_true(used < 100 * 1024);
    for (int k = 0; k < 5; k++)
        act('w');
    act('e');
    for (int i = 0; i < N; i++) {
        char *a = read_until(fds[i], "\r\n0\r\n\r\n", 1);
        int ticks = 0;
        for (const char *p = a; (p = strstr(p, "data: tick")) != NULL; p++)
            ticks++;
        assert_int_equal(ticks, 5);
        close(fds[i]);
    }
}

static void test_grace(void **state)
{
    (void)state;
    start_with((struct http_config){0});
    fx->grace_ms = 5000;
    int busy = dial(), idle = dial(), half = dial();
    puts_to(idle, "GET / HTTP/1.1\r\n" HOST "\r\n");
    read_until(idle, "fixed", 1);
    puts_to(half, "GET / HT");
    puts_to(busy, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
    wait_for(&fx->n_streams, 1);
    uv_async_send(&fx->stop);
    assert_string_equal(read_until(idle, NULL, 0), "");
    assert_string_equal(read_until(half, NULL, 0), "");
    act('r');
    char *a = read_until(busy, NULL, 0);
    expect_in(a, "Connection: close\r\n");
    expect_in(a, "late");
    close(busy);
    close(idle);
    close(half);
    uint64_t t0 = clock_mono_ms();
    pthread_join(fx->thread, NULL);
    assert_true(clock_mono_ms() - t0 < 3000);
    assert_int_equal(uv_loop_close(&fx->loop), 0);
    free(fx);
    /* And what does not end in time is cut off, with its owner told. */
    start_with((struct http_config){0});
    fx->grace_ms = 100;
    busy = dial();
    puts_to(busy, "GET /open HTTP/1.1\r\n" HOST "\r\n");
    read_until(busy, "hello", 1);
    uv_async_send(&fx->stop);
    pthread_join(fx->thread, NULL);
    assert_int_equal(atomic_load(&fx->n_closed), 1);
    assert_int_equal(uv_loop_close(&fx->loop), 0);
    close(busy);
    free(fx);
    fx = NULL;
}

static void test_port_taken(void **state)
{
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct http_server *s;
    struct err e;
    struct http_config cfg = {.host = "127.0.0.1", .port = fx->port};
    assert_int_equal(http_server_open(&s, &loop, &cfg, &e), Q_EEXIST);
    cfg.host = "not a host";
    assert_int_equal(http_server_open(&s, &loop, &cfg, &e), Q_EINVAL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_basic, start, stop),
        cmocka_unit_test_setup_teardown(test_routes, start, stop),
        cmocka_unit_test_setup_teardown(test_bad_requests, start, stop),
        cmocka_unit_test_setup_teardown(test_too_large, start, stop),
        cmocka_unit_test_setup_teardown(test_pipelining, start, stop),
        cmocka_unit_test_setup_teardown(test_byte_by_byte, start, stop),
        cmocka_unit_test_setup_teardown(test_expect_continue, start, stop),
        cmocka_unit_test_setup_teardown(test_stream, start, stop),
        cmocka_unit_test_setup_teardown(test_client_leaves, start, stop),
        cmocka_unit_test_setup_teardown(test_back_pressure, start, stop),
        cmocka_unit_test_setup_teardown(test_time_outs, start_short, stop),
        cmocka_unit_test_setup_teardown(test_limits, start_short, stop),
        cmocka_unit_test_setup_teardown(test_thousand_streams, start, stop),
        cmocka_unit_test(test_grace),
        cmocka_unit_test_setup_teardown(test_port_taken, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
