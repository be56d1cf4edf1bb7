/* SPDX-License-Identifier: Apache-2.0 */
/* The rpc_* wrapper over real sockets on loopback: both ends in this process, two loops. */
#include "base/clock.h"
#include "base/num.h"
#include "proto/engine.pb-c.h"
#include "proto/rpc.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_MESSAGE (256u << 10)
#define WAIT_MS     20000

static void nap_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* Poll a counter that callbacks move; false when it takes too long. */
static bool reached(atomic_uint *n, unsigned want)
{
    uint64_t end = clock_mono_ms() + WAIT_MS;
    while (atomic_load(n) < want) {
        if (clock_mono_ms() > end)
            return false;
        nap_ms(1);
    }
    return true;
}

/* ---- the server's side ------------------------------------------------------------------- */

struct bench {
    struct rpc_loop *server_loop, *client_loop;
    struct rpc_server *server;
    struct rpc_channel *channel;
    char address[40];
};

static atomic_uint n_server_closed, n_server_cancelled, n_server_messages, n_flood_writable;
static atomic_uint slow_reader_ms;
static atomic_uint n_flooded;
static _Atomic(struct rpc_stream *) paused_stream;

static void server_closed(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    (void)msg;
    (void)ctx;
    if (status == RPC_CANCELLED)
        atomic_fetch_add(&n_server_cancelled, 1);
    atomic_fetch_add(&n_server_closed, 1);
}

static void echo_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)ctx;
    unsigned ms = atomic_load(&slow_reader_ms);
    atomic_fetch_add(&n_server_messages, 1);
    if (ms) {
        nap_ms(ms);
        return;
    }
    int rc = rpc_stream_send(s, data, n);
    if (rc == Q_EFULL) /* the bound is large enough for these tests */
        rpc_stream_finish(s, RPC_EXHAUSTED, "echo queue full");
}

static void echo_end(struct rpc_stream *s, void *ctx)
{
    (void)ctx;
    rpc_stream_finish(s, RPC_OK, NULL);
}

static const struct rpc_handler echo_handler = {
    .on_message = echo_message, .on_end = echo_end, .on_close = server_closed};

static void echo_open(struct rpc_stream *s, void *ctx)
{
    rpc_stream_set_handler(s, &echo_handler, ctx);
}

/* "/t/Sink": reads and never answers until the client ends. */
static void sink_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)s;
    (void)data;
    (void)n;
    (void)ctx;
    atomic_fetch_add(&n_server_messages, 1);
}

static const struct rpc_handler sink_handler = {
    .on_message = sink_message, .on_end = echo_end, .on_close = server_closed};

static void sink_open(struct rpc_stream *s, void *ctx)
{
    rpc_stream_set_handler(s, &sink_handler, ctx);
}

/* "/t/Paused": as Sink, but paused from the start. */
static void paused_open(struct rpc_stream *s, void *ctx)
{
    rpc_stream_set_handler(s, &sink_handler, ctx);
    rpc_stream_pause(s, true);
    atomic_store(&paused_stream, rpc_stream_ref(s));
}

/* "/t/Refuse": an error at once. */
static void refuse_open(struct rpc_stream *s, void *ctx)
{
    (void)ctx;
    rpc_stream_set_handler(s, &sink_handler, NULL);
    rpc_stream_finish(s, RPC_FAILED_PRECONDITION, "not today: \xc3\xa9");
}

/* "/t/Nothing": forgets its handler. */
static void nothing_open(struct rpc_stream *s, void *ctx)
{
    (void)s;
    (void)ctx;
}

/* "/t/Flood": sends n_flooded messages as fast as the queue takes them. */
static void flood_more(struct rpc_stream *s, void *ctx)
{
    static char body[8192];
    (void)ctx;
    for (;;) {
        unsigned i = atomic_load(&n_flooded);
        if (i == 2000) {
            rpc_stream_finish(s, RPC_OK, NULL);
            return;
        }
        int rc = rpc_stream_send2(s, &i, sizeof i, body, sizeof body);
        if (rc != 0) {
            if (rc == Q_EFULL)
                atomic_fetch_add(&n_flood_writable, 1);
            return;
        }
        atomic_store(&n_flooded, i + 1);
    }
}

static const struct rpc_handler flood_handler = {
    .on_message = sink_message, .on_writable = flood_more, .on_close = server_closed};

static void flood_open(struct rpc_stream *s, void *ctx)
{
    rpc_stream_set_handler(s, &flood_handler, ctx);
    flood_more(s, ctx);
}

static void start_server(struct bench *b, const char *address)
{
    static const struct rpc_method methods[] = {
        {"/t/Echo", echo_open, NULL},       {"/t/Sink", sink_open, NULL},
        {"/t/Paused", paused_open, NULL},   {"/t/Refuse", refuse_open, NULL},
        {"/t/Nothing", nothing_open, NULL}, {"/t/Flood", flood_open, NULL},
    };
    struct err e;
    const struct rpc_server_config cfg = {.address = address,
                                          .methods = methods,
                                          .n_methods = NUM_COUNT(methods),
                                          .max_message_bytes = MAX_MESSAGE,
                                          .max_queue_bytes = 4u << 20};
    if (rpc_server_open(&b->server, b->server_loop, &cfg, &e) != 0)
        fail_msg("%s", e.msg);
    assert_true(rpc_server_port(b->server) > 0);
}

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct err e;
    assert_non_null(b);
    rpc_global_init();
    assert_int_equal(rpc_loop_open(&b->server_loop, "server", &e), 0);
    assert_int_equal(rpc_loop_open(&b->client_loop, "client", &e), 0);
    start_server(b, "127.0.0.1:0");
    snprintf(b->address, sizeof b->address, "127.0.0.1:%d", rpc_server_port(b->server));
    assert_int_equal(rpc_channel_open(&b->channel, b->client_loop, b->address, MAX_MESSAGE, &e), 0);
    atomic_store(&n_server_closed, 0);
    atomic_store(&n_server_cancelled, 0);
    atomic_store(&n_server_messages, 0);
    atomic_store(&n_flood_writable, 0);
    atomic_store(&n_flooded, 0);
    atomic_store(&slow_reader_ms, 0);
    atomic_store(&paused_stream, NULL);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    rpc_channel_close(b->channel);
    rpc_server_close(b->server, 100);
    rpc_loop_close(b->client_loop);
    rpc_loop_close(b->server_loop);
    rpc_global_fini();
    free(b);
    return 0;
}

/* ---- the client's side -------------------------------------------------------------------- */

struct client {
    atomic_uint n_messages, n_closed, n_writable, n_ended, n_disorder, nap_ms;
    unsigned next;
    enum rpc_status status;
    char msg[200];
};

static void client_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct client *c = ctx;
    unsigned i;
    (void)s;
    if (n >= sizeof i) {
        memcpy(&i, data, sizeof i);
        if (i != c->next)
            atomic_fetch_add(&c->n_disorder, 1);
    }
    c->next++;
    if (atomic_load(&c->nap_ms))
        nap_ms(atomic_load(&c->nap_ms));
    atomic_fetch_add(&c->n_messages, 1);
}

static void client_end(struct rpc_stream *s, void *ctx)
{
    (void)s;
    atomic_fetch_add(&((struct client *)ctx)->n_ended, 1);
}

static void client_writable(struct rpc_stream *s, void *ctx)
{
    (void)s;
    atomic_fetch_add(&((struct client *)ctx)->n_writable, 1);
}

static void client_closed(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    struct client *c = ctx;
    (void)s;
    c->status = status;
    snprintf(c->msg, sizeof c->msg, "%s", msg);
    atomic_fetch_add(&c->n_closed, 1);
}

static const struct rpc_handler client_handler = {.on_message = client_message,
                                                  .on_end = client_end,
                                                  .on_writable = client_writable,
                                                  .on_close = client_closed};

static struct rpc_stream *dial(struct bench *b, const char *method, struct client *c,
                               uint64_t deadline_ms, size_t max_queue)
{
    struct err e;
    struct rpc_stream *s;
    const struct rpc_call_config cfg = {.method = method,
                                        .handler = &client_handler,
                                        .ctx = c,
                                        .deadline_ms = deadline_ms,
                                        .max_queue_bytes = max_queue};
    if (rpc_stream_open(&s, b->channel, &cfg, &e) != 0)
        fail_msg("%s", e.msg);
    return s;
}

struct reply {
    atomic_uint n_done;
    enum rpc_status status;
    char msg[200], data[200];
    size_t n;
};

static void got_reply(void *ctx, enum rpc_status status, const char *msg, const void *data,
                      size_t n)
{
    struct reply *r = ctx;
    r->status = status;
    snprintf(r->msg, sizeof r->msg, "%s", msg);
    r->n = n;
    memcpy(r->data, data ? data : "", n < sizeof r->data ? n : 0);
    atomic_fetch_add(&r->n_done, 1);
}

static void test_unary(void **state)
{
    struct bench *b = *state;
    struct err e;
    struct reply r = {0};
    for (unsigned i = 1; i <= 200; i++) {
        assert_int_equal(rpc_call(b->channel, "/t/Echo", "hello", 5, 5000, got_reply, &r, &e), 0);
        assert_true(reached(&r.n_done, i));
        assert_int_equal(r.status, RPC_OK);
        assert_int_equal(r.n, 5);
        assert_memory_equal(r.data, "hello", 5);
    }
    assert_int_equal(rpc_call(b->channel, "/t/Echo", NULL, 0, 0, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 201));
    assert_int_equal(r.status, RPC_OK);
    assert_int_equal(r.n, 0);
    /* An OK without a reply is an error. */
    assert_int_equal(rpc_call(b->channel, "/t/Sink", "x", 1, 5000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 202));
    assert_int_equal(r.status, RPC_INTERNAL);
    /* The server's own status and text arrive. */
    assert_int_equal(rpc_call(b->channel, "/t/Refuse", "x", 1, 5000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 203));
    assert_int_equal(r.status, RPC_FAILED_PRECONDITION);
    assert_string_equal(r.msg, "not today: \xc3\xa9");
    assert_int_equal(rpc_call(b->channel, "/t/Nothing", "x", 1, 5000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 204));
    assert_int_equal(r.status, RPC_INTERNAL);
}

/* A peer that is slow to answer: bytes pass through, the first after a while. */
struct slow_peer {
    int listener;
    const char *address; /* of the real server */
};

static void copy_both_ways(int a, int b)
{
    struct pollfd fds[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
    char data[4096];
    while (poll(fds, 2, -1) > 0) {
        for (int i = 0; i < 2; i++) {
            if (!fds[i].revents)
                continue;
            ssize_t n = read(fds[i].fd, data, sizeof data);
            if (n <= 0 || write(fds[1 - i].fd, data, (size_t)n) != n)
                return;
        }
    }
}

static void *slow_peer_main(void *arg)
{
    struct slow_peer *p = arg;
    int in = accept(p->listener, NULL, NULL);
    nap_ms(500);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(strrchr(p->address, ':') + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int out = socket(AF_INET, SOCK_STREAM, 0);
    if (in >= 0 && connect(out, (struct sockaddr *)&to, sizeof to) == 0)
        copy_both_ways(in, out);
    close(in);
    close(out);
    return NULL;
}

/* A busy machine needs a while to take a connection: no reason to fail the call. */
static void test_slow_to_connect(void **state)
{
    struct bench *b = *state;
    struct err e;
    struct reply r = {0};
    struct slow_peer peer = {socket(AF_INET, SOCK_STREAM, 0), b->address};
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof own;
    assert_int_equal(bind(peer.listener, (struct sockaddr *)&own, len), 0);
    assert_int_equal(listen(peer.listener, 1), 0);
    assert_int_equal(getsockname(peer.listener, (struct sockaddr *)&own, &len), 0);
    pthread_t thread;
    pthread_create(&thread, NULL, slow_peer_main, &peer);
    char address[40];
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(own.sin_port));
    struct rpc_channel *c;
    assert_int_equal(rpc_channel_open(&c, b->client_loop, address, MAX_MESSAGE, &e), 0);
    assert_int_equal(rpc_call(c, "/t/Echo", "hello", 5, 5000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 1));
    assert_int_equal(r.status, RPC_OK);
    rpc_channel_close(c);
    pthread_join(thread, NULL);
    close(peer.listener);
}

static void test_many_unary_at_once(void **state)
{
    struct bench *b = *state;
    struct err e;
    struct reply r = {0};
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(rpc_call(b->channel, "/t/Echo", "x", 1, 20000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 500));
    assert_int_equal(r.status, RPC_OK);
    assert_true(reached(&n_server_closed, 500));
}

static void send_numbers(struct rpc_stream *s, struct client *c, unsigned n)
{
    char body[100] = {0};
    for (unsigned i = 0; i < n; i++) {
        for (;;) {
            unsigned seen = atomic_load(&c->n_writable);
            int rc = rpc_stream_send2(s, &i, sizeof i, body, i % sizeof body);
            if (rc == 0)
                break;
            assert_int_equal(rc, Q_EFULL);
            assert_true(reached(&c->n_writable, seen + 1));
        }
    }
}

static void test_ten_thousand_in_order(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    struct rpc_stream *s = dial(b, "/t/Echo", &c, 0, 64 << 10);
    assert_ptr_equal(rpc_stream_ctx(s), &c);
    assert_string_equal(rpc_stream_peer(s), b->address);
    assert_true(rpc_stream_deadline_ms(s) == UINT64_MAX);
    send_numbers(s, &c, 10000);
    rpc_stream_finish(s, RPC_OK, NULL);
    assert_int_equal(rpc_stream_send(s, "x", 1), Q_ECANCELLED);
    assert_true(reached(&c.n_closed, 1));
    assert_int_equal(c.status, RPC_OK);
    assert_int_equal(atomic_load(&c.n_messages), 10000);
    assert_int_equal(atomic_load(&c.n_disorder), 0);
    assert_int_equal(atomic_load(&c.n_ended), 1);
    assert_int_equal(rpc_stream_send(s, "x", 1), Q_ECANCELLED);
    rpc_stream_cancel(s); /* harmless now */
    rpc_stream_pause(s, true);
    rpc_stream_finish(s, RPC_OK, NULL);
    rpc_stream_unref(s);
    assert_true(reached(&n_server_closed, 1));
    assert_int_equal(atomic_load(&n_server_cancelled), 0);
}

static void test_flood_from_server_to_slow_reader(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    atomic_store(&c.nap_ms, 1);
    struct rpc_stream *s = dial(b, "/t/Flood", &c, 0, 0);
    nap_ms(300);
    /* 16 MiB do not fit into queue and windows: the server had to stop. */
    assert_true(atomic_load(&n_flooded) < 2000);
    assert_true(atomic_load(&n_flood_writable) > 0);
    atomic_store(&c.nap_ms, 0);
    assert_true(reached(&c.n_closed, 1));
    assert_int_equal(c.status, RPC_OK);
    assert_int_equal(atomic_load(&c.n_messages), 2000);
    assert_int_equal(atomic_load(&c.n_disorder), 0);
    rpc_stream_unref(s);
}

static void test_back_pressure_to_client(void **state)
{
    struct bench *b = *state;
    static char body[64 << 10];
    struct client c = {0};
    atomic_store(&slow_reader_ms, 5);
    struct rpc_stream *s = dial(b, "/t/Echo", &c, 0, 256 << 10);
    int rc = 0;
    unsigned sent = 0;
    while (rc == 0 && sent < 1000) {
        rc = rpc_stream_send(s, body, sizeof body);
        sent += rc == 0;
    }
    assert_int_equal(rc, Q_EFULL);
    assert_true(sent < 1000);
    assert_true(reached(&c.n_writable, 1));
    assert_int_equal(rpc_stream_send(s, body, sizeof body), 0);
    rpc_stream_finish(s, RPC_OK, NULL);
    assert_true(reached(&c.n_closed, 1));
    assert_int_equal(c.status, RPC_OK);
    assert_int_equal(atomic_load(&n_server_messages), sent + 1);
    rpc_stream_unref(s);
}

static void test_pause(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    struct rpc_stream *s = dial(b, "/t/Paused", &c, 0, 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(rpc_stream_send(s, &i, sizeof i), 0);
    nap_ms(200);
    assert_int_equal(atomic_load(&n_server_messages), 0);
    struct rpc_stream *paused = atomic_load(&paused_stream);
    assert_non_null(paused);
    rpc_stream_pause(paused, false);
    assert_true(reached(&n_server_messages, 50));
    rpc_stream_pause(paused, true);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(rpc_stream_send(s, &i, sizeof i), 0);
    nap_ms(100);
    assert_true(atomic_load(&n_server_messages) <= 51);
    /* A pause does not outlive the call. */
    rpc_stream_cancel(s);
    assert_true(reached(&c.n_closed, 1));
    assert_true(reached(&n_server_closed, 1));
    rpc_stream_unref(paused);
    rpc_stream_unref(s);
}

static void test_cancel_is_seen(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    struct rpc_stream *s = dial(b, "/t/Sink", &c, 0, 0);
    assert_int_equal(rpc_stream_send(s, "x", 1), 0);
    assert_true(reached(&n_server_messages, 1));
    rpc_stream_cancel(s);
    assert_true(reached(&c.n_closed, 1));
    assert_int_equal(c.status, RPC_CANCELLED);
    assert_true(reached(&n_server_cancelled, 1));
    assert_int_equal(rpc_stream_send(s, "x", 1), Q_ECANCELLED);
    rpc_stream_unref(s);
}

static void test_deadline(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    uint64_t t0 = clock_mono_ms();
    struct rpc_stream *s = dial(b, "/t/Sink", &c, 200, 0);
    assert_true(rpc_stream_deadline_ms(s) <= 200);
    assert_int_equal(rpc_stream_send(s, "x", 1), 0);
    assert_true(reached(&c.n_closed, 1));
    assert_int_equal(c.status, RPC_DEADLINE);
    assert_in_range(clock_mono_ms() - t0, 190, 3000);
    assert_true(reached(&n_server_cancelled, 1));
    rpc_stream_unref(s);
    /* So short that it is over before it runs. */
    struct client d = {0};
    for (unsigned i = 1; i <= 200; i++) {
        s = dial(b, "/t/Sink", &d, 1, 0);
        rpc_stream_unref(s);
    }
    assert_true(reached(&d.n_closed, 200));
}

static void test_unknown_method(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    for (unsigned i = 1; i <= 20; i++) {
        struct rpc_stream *s = dial(b, "/t/NoSuchThing", &c, 5000, 0);
        assert_true(reached(&c.n_closed, i));
        assert_int_equal(c.status, RPC_UNIMPLEMENTED);
        assert_non_null(strstr(c.msg, "/t/NoSuchThing"));
        rpc_stream_unref(s);
    }
}

static void test_too_large(void **state)
{
    struct bench *b = *state;
    struct err e;
    static char big[MAX_MESSAGE + 1];
    struct client c = {0};
    struct rpc_stream *s = dial(b, "/t/Echo", &c, 0, 1000);
    assert_int_equal(rpc_stream_send(s, big, sizeof big), Q_EINVAL);
    /* An empty queue takes what is over its own bound. */
    assert_int_equal(rpc_stream_send(s, big, MAX_MESSAGE), 0);
    assert_true(reached(&c.n_messages, 1));
    rpc_stream_cancel(s);
    assert_true(reached(&c.n_closed, 1));
    rpc_stream_unref(s);
    /* A client with a larger limit is refused by the server. */
    struct rpc_channel *wide;
    struct reply r = {0};
    assert_int_equal(rpc_channel_open(&wide, b->client_loop, b->address, 4 * MAX_MESSAGE, &e), 0);
    assert_int_equal(rpc_call(wide, "/t/Echo", big, sizeof big, 5000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 1));
    assert_int_not_equal(r.status, RPC_OK);
    rpc_channel_close(wide);
    /* A client with a smaller one refuses the answer. */
    assert_int_equal(rpc_channel_open(&wide, b->client_loop, b->address, 1024, &e), 0);
    assert_int_not_equal(rpc_call(wide, "/t/Echo", big, 2000, 5000, got_reply, &r, &e), 0);
    struct client f = {0};
    const struct rpc_call_config cfg = {
        .method = "/t/Flood", .handler = &client_handler, .ctx = &f, .deadline_ms = 5000};
    assert_int_equal(rpc_stream_open(&s, wide, &cfg, &e), 0);
    assert_true(reached(&f.n_closed, 1));
    assert_int_equal(f.status, RPC_EXHAUSTED);
    rpc_stream_unref(s);
    rpc_channel_close(wide);
}

static void test_server_gone_and_back(void **state)
{
    struct bench *b = *state;
    struct err e;
    struct reply r = {0};
    struct client c = {0}, w = {0};
    struct rpc_stream *s = dial(b, "/t/Sink", &c, 0, 0);
    assert_int_equal(rpc_stream_send(s, "x", 1), 0);
    assert_true(reached(&n_server_messages, 1));
    rpc_server_close(b->server, 50);
    b->server = NULL;
    assert_true(reached(&c.n_closed, 1));
    assert_int_not_equal(c.status, RPC_OK);
    rpc_stream_unref(s);
    assert_int_equal(rpc_call(b->channel, "/t/Echo", "x", 1, 5000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 1));
    assert_int_equal(r.status, RPC_UNAVAILABLE);
    assert_true(r.msg[0] != '\0');
    /* One that waits for a connection is served when the server is back. */
    const struct rpc_call_config cfg = {
        .method = "/t/Echo", .handler = &client_handler, .ctx = &w, .wait_for_ready = true};
    assert_int_equal(rpc_stream_open(&s, b->channel, &cfg, &e), 0);
    unsigned zero = 0;
    assert_int_equal(rpc_stream_send(s, &zero, sizeof zero), 0);
    nap_ms(200);
    uint64_t t0 = clock_mono_ms();
    start_server(b, b->address);
    assert_true(reached(&w.n_messages, 1));
    assert_true(clock_mono_ms() - t0 < 5000);
    rpc_stream_finish(s, RPC_OK, NULL);
    assert_true(reached(&w.n_closed, 1));
    assert_int_equal(w.status, RPC_OK);
    rpc_stream_unref(s);
}

static void test_port_taken(void **state)
{
    struct bench *b = *state;
    struct err e;
    struct rpc_server *second;
    struct rpc_server_config cfg = {.address = b->address, .max_message_bytes = 1000};
    assert_int_equal(rpc_server_open(&second, b->server_loop, &cfg, &e), Q_EIO);
    assert_null(second);
    static const char *const bad[] = {"",      "127.0.0.1",   "unix:/tmp/x", "a:b",
                                      "host:", ":1",          "x:70000",     "[::1:5",
                                      "a/b:1", "host:123456", "[]:1",        "dns:///x:1"};
    for (size_t i = 0; i < NUM_COUNT(bad); i++) {
        struct rpc_channel *ch;
        cfg.address = bad[i];
        assert_int_equal(rpc_server_open(&second, b->server_loop, &cfg, &e), Q_EINVAL);
        assert_int_equal(rpc_channel_open(&ch, b->client_loop, bad[i], 1000, &e), Q_EINVAL);
    }
}

struct sender {
    struct rpc_stream *s;
    atomic_uint n_sent, stop;
    int last;
};

static void *send_until_stopped(void *arg)
{
    struct sender *t = arg;
    char body[300] = {0};
    while (!atomic_load(&t->stop)) {
        int rc = rpc_stream_send(t->s, body, sizeof body);
        if (rc == Q_ECANCELLED) {
            t->last = rc;
            break;
        }
        if (rc == Q_EFULL)
            nap_ms(1);
        else
            atomic_fetch_add(&t->n_sent, 1);
    }
    return NULL;
}

static void test_threads_send(void **state)
{
    struct bench *b = *state;
    struct client c = {0};
    struct rpc_stream *s = dial(b, "/t/Sink", &c, 0, 64 << 10);
    struct sender t[3] = {{.s = s}, {.s = s}, {.s = s}};
    pthread_t id[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&id[i], NULL, send_until_stopped, &t[i]), 0);
    assert_true(reached(&n_server_messages, 2000));
    unsigned total = 0;
    for (int i = 0; i < 3; i++) {
        atomic_store(&t[i].stop, 1);
        pthread_join(id[i], NULL);
        total += atomic_load(&t[i].n_sent);
    }
    rpc_stream_finish(s, RPC_OK, NULL);
    assert_true(reached(&c.n_closed, 1));
    assert_int_equal(c.status, RPC_OK);
    assert_int_equal(atomic_load(&n_server_messages), total);
    rpc_stream_unref(s);
}

static void test_close_under_load(void **state)
{
    (void)state;
    struct bench b = {0};
    struct err e;
    rpc_global_init();
    for (int round = 0; round < 10; round++) {
        struct client c[4] = {0};
        struct sender t[4];
        struct reply r = {0};
        pthread_t id[4];
        assert_int_equal(rpc_loop_open(&b.server_loop, "server", &e), 0);
        assert_int_equal(rpc_loop_open(&b.client_loop, "client", &e), 0);
        start_server(&b, "127.0.0.1:0");
        snprintf(b.address, sizeof b.address, "127.0.0.1:%d", rpc_server_port(b.server));
        assert_int_equal(rpc_channel_open(&b.channel, b.client_loop, b.address, MAX_MESSAGE, &e),
                         0);
        atomic_store(&n_server_messages, 0);
        for (int i = 0; i < 4; i++) {
            t[i] = (struct sender){.s = dial(&b, i & 1 ? "/t/Echo" : "/t/Sink", &c[i], 0, 0)};
            assert_int_equal(pthread_create(&id[i], NULL, send_until_stopped, &t[i]), 0);
        }
        assert_true(reached(&n_server_messages, 100));
        for (int i = 0; i < 20; i++)
            assert_int_equal(rpc_call(b.channel, "/t/Echo", "x", 1, 9000, got_reply, &r, &e), 0);
        /* Even rounds: the server goes first; odd rounds: the clients do. */
        if (round % 2 == 0) {
            rpc_server_close(b.server, round % 4 == 0 ? 0 : 20);
            for (int i = 0; i < 4; i++)
                assert_true(reached(&c[i].n_closed, 1));
        } else {
            for (int i = 0; i < 4; i++)
                rpc_stream_cancel(t[i].s);
        }
        rpc_channel_close(b.channel);
        for (int i = 0; i < 4; i++) {
            pthread_join(id[i], NULL);
            assert_int_equal(t[i].last, Q_ECANCELLED);
            rpc_stream_unref(t[i].s);
        }
        if (round % 2 == 1)
            rpc_server_close(b.server, 20);
        rpc_loop_close(b.client_loop);
        rpc_loop_close(b.server_loop);
        for (int i = 0; i < 4; i++)
            assert_int_equal(atomic_load(&c[i].n_closed), 1);
        assert_int_equal(atomic_load(&r.n_done), 20);
    }
    rpc_global_fini();
}

/* A peer that accepts connections and never speaks: the call must end by itself. */
static void test_silent_peer(void **state)
{
    struct bench *b = *state;
    struct err e;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    char address[40];
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(a.sin_port));
    struct rpc_channel *ch;
    struct reply r = {0};
    assert_int_equal(rpc_channel_open(&ch, b->client_loop, address, 1000, &e), 0);
    assert_int_equal(rpc_call(ch, "/t/Echo", "x", 1, 6000, got_reply, &r, &e), 0);
    assert_true(reached(&r.n_done, 1));
    assert_true(r.status == RPC_UNAVAILABLE || r.status == RPC_DEADLINE);
    rpc_channel_close(ch);
    close(fd);
}

static void test_status_codes(void **state)
{
    (void)state;
    for (int q = Q_EPERM; q <= 0; q++) {
        int back = rpc_err_of(rpc_status_of(q));
        if (q == Q_ENOMEM)
            assert_int_equal(back, Q_EFULL);
        else if (q == Q_EIO)
            assert_int_equal(back, Q_EINTERNAL);
        else
            assert_int_equal(back, q);
    }
}

static void test_messages(void **state)
{
    (void)state;
    Quire__GenerateRequest q = QUIRE__GENERATE_REQUEST__INIT;
    Quire__Sampling sampling = QUIRE__SAMPLING__INIT;
    char *stops[2] = {(char *)"END", (char *)"gr\xc3\xbc\xc3\x9f"};
    uint32_t tokens[3] = {1, 2, 70000};
    void *data;
    size_t n;
    q.request_id = (char *)"r1";
    q.prompt = (char *)"hello";
    q.stop = stops;
    q.n_stop = 2;
    q.prompt_tokens = tokens;
    q.n_prompt_tokens = 3;
    q.sampling = &sampling;
    sampling.temperature = 0.5;
    assert_int_equal(rpc_pack(&q.base, &data, &n), 0);
    const ProtobufCMessageDescriptor *d = &quire__generate_request__descriptor;
    Quire__GenerateRequest *r = (Quire__GenerateRequest *)rpc_unpack(d, data, n, 1 << 20);
    assert_non_null(r);
    assert_string_equal(r->prompt, "hello");
    assert_int_equal(r->n_stop, 2);
    assert_string_equal(r->stop[1], stops[1]);
    assert_int_equal(r->prompt_tokens[2], 70000);
    assert_true(r->sampling->temperature == 0.5);
    rpc_msg_free(&r->base);
    /* Memory is bounded, and every budget below the needed one fails cleanly. */
    size_t budget = 0;
    while (!(r = (Quire__GenerateRequest *)rpc_unpack(d, data, n, budget)))
        assert_true(++budget < 100000);
    assert_true(budget > sizeof *r);
    rpc_msg_free(&r->base);
    /* Cut anywhere: refused or a shorter message, never a crash. */
    for (size_t i = 0; i < n; i++)
        rpc_msg_free(rpc_unpack(d, data, i, 1 << 20));
    free(data);
    /* Text must be text, also in repeated and nested fields. */
    q.prompt = (char *)"\xff";
    assert_int_equal(rpc_pack(&q.base, &data, &n), 0);
    assert_null(rpc_unpack(d, data, n, 1 << 20));
    free(data);
    q.prompt = (char *)"fine";
    stops[1] = (char *)"\xc0\x80";
    assert_int_equal(rpc_pack(&q.base, &data, &n), 0);
    assert_null(rpc_unpack(d, data, n, 1 << 20));
    free(data);
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    Quire__Delta delta = QUIRE__DELTA__INIT;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_DELTA;
    ev.delta = &delta;
    delta.text = (char *)"\xed\xa0\x80";
    assert_int_equal(rpc_pack(&ev.base, &data, &n), 0);
    assert_null(rpc_unpack(&quire__generate_event__descriptor, data, n, 1 << 20));
    free(data);
    rpc_msg_free(rpc_unpack(d, NULL, 0, 1 << 20));
    rpc_msg_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_codes),
        cmocka_unit_test(test_messages),
        cmocka_unit_test_setup_teardown(test_unary, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_to_connect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_unary_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ten_thousand_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood_from_server_to_slow_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_back_pressure_to_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_is_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unknown_method, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_server_gone_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads_send, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silent_peer, setup, teardown),
        cmocka_unit_test(test_close_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
