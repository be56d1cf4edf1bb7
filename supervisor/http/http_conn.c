/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/http/http_int.h"

#include "base/hash.h"
#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PENDING    (64u << 10)
#define OVERLOAD_EXTRA 64 /* connections over the limit that are still told so */
#define KEEPALIVE_SECS 30

static bool can_read_on(const struct http_conn *c)
{
    return !c->req && !c->finishing && !c->broken && !c->closing;
}

void http_conn_kick(struct http_conn *c)
{
    if (c->closing || c->kick.next != &c->kick)
        return;
    http_list_add(&c->s->kicked, &c->kick);
    http_server_wake(c->s);
}

static void req_free(struct http_req *r)
{
    http_msg_fini(&r->msg);
    buf_fini(&r->headers);
    free(r);
}

static void on_closed(uv_handle_t *h)
{
    struct http_conn *c = h->data;
    struct http_server *s = c->s;
    http_list_del(&c->all);
    http_parser_fini(&c->parser);
    buf_fini(&c->pending);
    buf_fini(&c->inflight);
    buf_fini(&c->queued);
    free(c);
    http_server_conn_gone(s);
}

void http_conn_close(struct http_conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    http_list_del(&c->kick);
    struct http_req *r = c->req;
    if (r) {
        if (r->on_close)
            r->on_close(r, r->watch_ctx);
        c->req = NULL;
        req_free(r);
    }
    uv_close((uv_handle_t *)&c->tcp, on_closed);
}

/* ---- requests ---------------------------------------------------------------------------- */

static void preflight(struct http_req *r)
{
    struct buf allow;
    buf_init(&allow, 256);
    http_route_allow(&r->c->s->routes, &r->msg, &allow);
    const char *asked = http_header(r, "access-control-request-headers");
    http_set_header(r, "Allow", buf_cstr(&allow));
    http_set_header(r, "Access-Control-Allow-Methods",
                    r->hit.path_known ? buf_cstr(&allow) : "GET, POST, PUT, DELETE, OPTIONS");
    /* A star does not cover Authorization, so the list asked for is given back. */
    http_set_header(r, "Access-Control-Allow-Headers", asked && strlen(asked) < 1024 ? asked : "*");
    http_set_header(r, "Access-Control-Max-Age", "600");
    buf_fini(&allow);
    http_respond(r, 200, NULL, NULL, 0);
}

static void dispatch(struct http_conn *c)
{
    struct http_server *s = c->s;
    s->stats.requests++;
    struct http_req *r = calloc(1, sizeof *r);
    if (!r) {
        http_refuse(c, 503, "", "out of memory");
        return;
    }
    r->c = c;
    http_parser_take(&c->parser, &r->msg);
    buf_init(&r->headers, 16 << 10);
    hash_random_id(r->id);
    r->is_head = strcmp(r->msg.method, "HEAD") == 0;
    c->req = r;
    c->deadline = 0;
    bool asked_only = strcmp(r->msg.method, "OPTIONS") == 0;
    if (s->cfg.admit && !asked_only && !s->cfg.admit(r, s->cfg.admit_ctx))
        return;
    http_route_find(&s->routes, &r->msg, &r->hit);
    if (r->hit.route) {
        r->hit.route->fn(r, r->hit.ctx);
    } else if (strcmp(r->msg.method, "OPTIONS") == 0) {
        preflight(r);
    } else if (r->hit.path_known) {
        struct buf allow;
        buf_init(&allow, 256);
        http_route_allow(&s->routes, &r->msg, &allow);
        http_set_header(r, "Allow", buf_cstr(&allow));
        buf_fini(&allow);
        http_answer_error(r, 405, "Method Not Allowed");
    } else {
        http_answer_error(r, 404, "Not Found");
    }
}

/* Set the clock for what is read now. */
static void set_read_deadline(struct http_conn *c, enum http_parse_state before)
{
    const struct http_config *cfg = &c->s->cfg;
    uint64_t now = uv_now(c->s->loop);
    switch (c->parser.state) {
    case HTTP_PARSE_IDLE:
        if (before != HTTP_PARSE_IDLE || !c->deadline)
            c->deadline = now + cfg->idle_timeout_ms;
        break;
    case HTTP_PARSE_HEAD:
        /* From the first byte on; more bytes buy no time. */
        if (before != HTTP_PARSE_HEAD)
            c->deadline = now + cfg->head_timeout_ms;
        break;
    case HTTP_PARSE_BODY:
        c->deadline = now + cfg->body_timeout_ms;
        break;
    default:
        break;
    }
}

/* Parse and answer as far as the bytes and the answers go; returns what was consumed. */
static size_t feed(struct http_conn *c, const char *data, size_t n)
{
    size_t at = 0;
    while (at < n && can_read_on(c)) {
        struct http_parser *p = &c->parser;
        enum http_parse_state before = p->state;
        at += http_parse(p, data + at, n - at);
        if (p->state == HTTP_PARSE_BAD) {
            http_refuse(c, p->status, "", p->text);
        } else if (p->state == HTTP_PARSE_DONE) {
            dispatch(c);
        } else {
            set_read_deadline(c, before);
            if (p->state == HTTP_PARSE_BODY && p->expect_continue) {
                p->expect_continue = false;
                uv_buf_t go = uv_buf_init((char[]){"HTTP/1.1 100 Continue\r\n\r\n"}, 25);
                if (p->msg.body.len == 0)
                    http_out(c, &go, 1);
            }
        }
    }
    return at;
}

void http_conn_request_over(struct http_conn *c, bool keep)
{
    struct http_req *r = c->req;
    keep = keep && r->msg.keep_alive && !c->s->closing;
    c->req = NULL;
    req_free(r);
    if (!keep) {
        c->finishing = true;
        buf_fini(&c->pending);
        http_out_idle(c);
        return;
    }
    c->deadline = uv_now(c->s->loop) + c->s->cfg.idle_timeout_ms;
    if (c->pending.len > 0)
        http_conn_kick(c);
}

/* ---- reading ----------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
    (void)suggested;
    struct http_conn *c = h->data;
    *out = uv_buf_init(c->s->read_buf, sizeof c->s->read_buf);
}

static void on_end(struct http_conn *c, ssize_t why)
{
    c->peer_ended = true;
    uv_read_stop((uv_stream_t *)&c->tcp);
    /* What has been answered completely is still delivered. */
    bool answered = !c->req && why == UV_EOF && http_out_unsent(c) > 0;
    if (!answered) {
        http_conn_close(c);
        return;
    }
    c->finishing = true;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct http_conn *c = stream->data;
    if (n < 0) {
        on_end(c, n);
        return;
    }
    size_t at = 0, len = (size_t)n;
    if (c->pending.len == 0)
        at = feed(c, b->base, len);
    if (at == len || c->finishing || c->broken || c->closing)
        return;
    if (buf_put(&c->pending, b->base + at, len - at)) {
        c->broken = true;
        http_conn_kick(c);
        return;
    }
    if (c->pending.len > MAX_PENDING && !c->read_stopped) {
        c->read_stopped = true;
        uv_read_stop(stream);
    }
}

static void read_pending(struct http_conn *c)
{
    if (c->pending.len > 0 && can_read_on(c)) {
        size_t at = feed(c, c->pending.data, c->pending.len);
        if (at == c->pending.len || c->finishing)
            buf_fini(&c->pending);
        else
            buf_shift(&c->pending, at);
    }
    if (c->read_stopped && c->pending.len <= MAX_PENDING && !c->closing && !c->peer_ended) {
        c->read_stopped = false;
        uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
    }
}

void http_conn_kicked(struct http_conn *c)
{
    if (c->broken) {
        http_conn_close(c);
        return;
    }
    read_pending(c);
    if (c->s->closing && can_read_on(c)) {
        if (http_out_unsent(c) == 0) {
            http_conn_close(c);
        } else {
            c->finishing = true;
        }
    }
}

void http_conn_sweep(struct http_conn *c, uint64_t now)
{
    if (c->closing)
        return;
    size_t unsent = http_out_unsent(c);
    uint64_t sent = c->put_total - unsent;
    if (unsent == 0 || sent != c->sent_mark) {
        c->sent_mark = sent;
        c->sent_at = now;
    } else if (now - c->sent_at >= c->s->cfg.write_timeout_ms) {
        http_conn_close(c);
        return;
    }
    if (!c->deadline || now < c->deadline || c->req)
        return;
    if (c->lingering || c->parser.state == HTTP_PARSE_IDLE || c->finishing) {
        if (unsent == 0 || c->lingering)
            http_conn_close(c);
        return;
    }
    http_refuse(c, 408, "",
                c->parser.state == HTTP_PARSE_HEAD ? "the request's headers came too slowly"
                                                   : "the request's body came too slowly");
}

/* ---- accepting --------------------------------------------------------------------------- */

static void read_peer(struct http_conn *c)
{
    struct sockaddr_storage addr;
    int len = sizeof addr;
    char ip[46] = "";
    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&addr, &len))
        return;
    if (addr.ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)(const void *)&addr;
        uv_ip6_name(a, ip, sizeof ip);
        snprintf(c->peer, sizeof c->peer, "[%s]:%d", ip, ntohs(a->sin6_port));
    } else {
        const struct sockaddr_in *a = (const struct sockaddr_in *)(const void *)&addr;
        uv_ip4_name(a, ip, sizeof ip);
        snprintf(c->peer, sizeof c->peer, "%s:%d", ip, ntohs(a->sin_port));
    }
}

void http_conn_accept(struct http_server *s)
{
    struct http_conn *c = calloc(1, sizeof *c);
    if (!c)
        return;
    c->s = s;
    http_list_init(&c->all);
    http_list_init(&c->kick);
    buf_init(&c->pending, MAX_PENDING + sizeof s->read_buf);
    buf_init(&c->inflight, SIZE_MAX / 4);
    buf_init(&c->queued, SIZE_MAX / 4);
    http_parser_init(&c->parser, s->cfg.max_header_bytes, s->cfg.max_body_bytes, &s->budget);
    if (uv_tcp_init(s->loop, &c->tcp)) {
        free(c);
        return;
    }
    c->tcp.data = c;
    http_list_add(&s->conns, &c->all);
    unsigned n_before = s->stats.connections_open++;
    s->stats.connections_total++;
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->tcp) || s->closing ||
        n_before >= s->cfg.max_connections + OVERLOAD_EXTRA) {
        http_conn_close(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_SECS);
    read_peer(c);
    uint64_t now = uv_now(s->loop);
    c->sent_at = now;
    c->deadline = now + s->cfg.idle_timeout_ms;
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read)) {
        http_conn_close(c);
        return;
    }
    if (n_before >= s->cfg.max_connections)
        http_refuse(c, 503, "", "too many connections");
}
