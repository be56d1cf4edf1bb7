/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/http/http_int.h"

#include "base/num.h"

#include <assert.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

static void defaults(struct http_config *c)
{
    if (!c->host)
        c->host = "127.0.0.1";
    if (!c->max_body_bytes)
        c->max_body_bytes = (size_t)64 << 20;
    if (!c->max_bodies_bytes)
        c->max_bodies_bytes = (size_t)1 << 30;
    if (!c->max_header_bytes)
        c->max_header_bytes = 32 << 10;
    if (!c->max_connections)
        c->max_connections = 4096;
    if (!c->head_timeout_ms)
        c->head_timeout_ms = 10 * 1000;
    if (!c->body_timeout_ms)
        c->body_timeout_ms = 30 * 1000;
    if (!c->idle_timeout_ms)
        c->idle_timeout_ms = 75 * 1000;
    if (!c->write_timeout_ms)
        c->write_timeout_ms = 60 * 1000;
    if (!c->stream_high_bytes)
        c->stream_high_bytes = 256 << 10;
}

static int resolve(const char *host, int port, struct sockaddr_storage *out, struct err *e)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(*host ? host : NULL, service, &hints, &list);
    if (rc)
        return err_set(e, Q_EINVAL, "cannot listen on host '%s': %s", host, gai_strerror(rc));
    /* "localhost" has both families; clients try 127.0.0.1 more reliably. */
    struct addrinfo *pick = list;
    for (struct addrinfo *a = list; a; a = a->ai_next)
        if (a->ai_family == AF_INET) {
            pick = a;
            break;
        }
    memcpy(out, pick->ai_addr, pick->ai_addrlen);
    freeaddrinfo(list);
    return 0;
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status == 0)
        http_conn_accept(listener->data);
}

/* Several connections may close while one is handled, so the next one is looked up anew: each
 * kicked connection is taken off the list before it runs. */
static void on_idle(uv_idle_t *idle)
{
    struct http_server *s = idle->data;
    struct http_list now;
    http_list_init(&now);
    while (s->kicked.next != &s->kicked) {
        struct http_list *l = s->kicked.next;
        http_list_del(l);
        http_list_add(&now, l);
    }
    while (now.next != &now) {
        struct http_list *l = now.next;
        http_list_del(l);
        http_conn_kicked(HTTP_CONN_OF(l, kick));
    }
    if (s->kicked.next == &s->kicked)
        uv_idle_stop(idle);
}

void http_server_wake(struct http_server *s)
{
    if (!uv_is_active((uv_handle_t *)&s->idle) && !uv_is_closing((uv_handle_t *)&s->idle))
        uv_idle_start(&s->idle, on_idle);
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    uint64_t now = uv_now(s->loop);
    for (struct http_list *l = s->conns.next, *next; l != &s->conns; l = next) {
        next = l->next;
        http_conn_sweep(HTTP_CONN_OF(l, all), now);
    }
}

static void server_free(struct http_server *s)
{
    free(s->host);
    free(s);
}

static void maybe_closed(struct http_server *s)
{
    if (s->n_handles > 0 || s->stats.connections_open > 0)
        return;
    void (*closed)(void *) = s->closed;
    void *ctx = s->closed_ctx;
    server_free(s);
    if (closed)
        closed(ctx);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct http_server *s = h->data;
    s->n_handles--;
    maybe_closed(s);
}

static void close_handles(struct http_server *s)
{
    uv_handle_t *const handles[] = {(uv_handle_t *)&s->sweep, (uv_handle_t *)&s->grace,
                                    (uv_handle_t *)&s->idle};
    for (size_t i = 0; i < NUM_COUNT(handles); i++)
        if (!uv_is_closing(handles[i]))
            uv_close(handles[i], on_handle_closed);
}

/* Called as the last connection's memory goes. */
void http_server_conn_gone(struct http_server *s)
{
    s->stats.connections_open--;
    if (s->closing && s->stats.connections_open == 0)
        close_handles(s);
}

static void add_handle(struct http_server *s, uv_handle_t *h)
{
    h->data = s;
    s->n_handles++;
}

static int listen_on(struct http_server *s, struct err *e)
{
    struct sockaddr_storage addr;
    int rc = resolve(s->host, s->cfg.port, &addr, e);
    if (rc)
        return rc;
    rc = uv_tcp_bind(&s->listener, (const struct sockaddr *)&addr, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&s->listener, 1024, on_connection);
    if (rc)
        return err_set(e, rc == UV_EADDRINUSE ? Q_EEXIST : Q_EIO, "cannot listen on %s:%d: %s",
                       s->host, s->cfg.port, uv_strerror(rc));
    int len = sizeof addr;
    rc = uv_tcp_getsockname(&s->listener, (struct sockaddr *)&addr, &len);
    if (rc)
        return err_set(e, Q_EIO, "cannot read the port: %s", uv_strerror(rc));
    s->port = addr.ss_family == AF_INET6
                  ? ntohs(((const struct sockaddr_in6 *)(const void *)&addr)->sin6_port)
                  : ntohs(((const struct sockaddr_in *)(const void *)&addr)->sin_port);
    return 0;
}

int http_server_open(struct http_server **out, uv_loop_t *loop, const struct http_config *cfg,
                     struct err *e)
{
    *out = NULL;
    struct http_server *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, Q_ENOMEM, "out of memory");
    s->loop = loop;
    s->cfg = *cfg;
    defaults(&s->cfg);
    s->host = strdup(s->cfg.host);
    if (!s->host) {
        free(s);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    s->cfg.host = s->host;
    s->budget.max = s->cfg.max_bodies_bytes;
    http_list_init(&s->conns);
    http_list_init(&s->kicked);
    uv_timer_init(loop, &s->sweep);
    add_handle(s, (uv_handle_t *)&s->sweep);
    uv_timer_init(loop, &s->grace);
    add_handle(s, (uv_handle_t *)&s->grace);
    uv_idle_init(loop, &s->idle);
    add_handle(s, (uv_handle_t *)&s->idle);
    uv_tcp_init(loop, &s->listener);
    add_handle(s, (uv_handle_t *)&s->listener);
    int rc = listen_on(s, e);
    if (rc) {
        /* The handles belong to the loop until their close callbacks ran. */
        uv_close((uv_handle_t *)&s->listener, on_handle_closed);
        close_handles(s);
        return rc;
    }
    unsigned tick = 1000;
    tick = NUM_MIN(tick, s->cfg.head_timeout_ms / 4);
    tick = NUM_MIN(tick, s->cfg.body_timeout_ms / 4);
    tick = NUM_MIN(tick, s->cfg.idle_timeout_ms / 4);
    tick = NUM_MIN(tick, s->cfg.write_timeout_ms / 4);
    tick = NUM_MAX(tick, 10u);
    uv_timer_start(&s->sweep, on_sweep, tick, tick);
    *out = s;
    return 0;
}

int http_server_port(const struct http_server *s)
{
    return s->port;
}

void http_server_add(struct http_server *s, const struct http_route *routes, size_t n, void *ctx)
{
    struct http_routes *t = &s->routes;
    assert(t->n_tables < HTTP_MAX_TABLES);
    t->tables[t->n_tables].routes = routes;
    t->tables[t->n_tables].n = n;
    t->tables[t->n_tables].ctx = ctx;
    t->n_tables++;
}

static void on_grace(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    for (struct http_list *l = s->conns.next, *next; l != &s->conns; l = next) {
        next = l->next;
        http_conn_close(HTTP_CONN_OF(l, all));
    }
}

void http_server_close(struct http_server *s, unsigned grace_ms, void (*closed)(void *ctx),
                       void *ctx)
{
    if (!s || s->closing)
        return;
    s->closing = true;
    s->closed = closed;
    s->closed_ctx = ctx;
    uv_close((uv_handle_t *)&s->listener, on_handle_closed);
    if (s->stats.connections_open == 0) {
        close_handles(s);
        return;
    }
    uv_timer_start(&s->grace, on_grace, grace_ms, 0);
    /* Kicked connections that are not answering anything close themselves. */
    for (struct http_list *l = s->conns.next; l != &s->conns; l = l->next)
        http_conn_kick(HTTP_CONN_OF(l, all));
}

void http_server_stats(const struct http_server *s, struct http_stats *out)
{
    *out = s->stats;
}
