/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/http/http_int.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/num.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINGER_MS     2000
#define STREAM_FACTOR 16 /* times stream_high_bytes that a deaf writer may pile up */

/* ---- bytes out --------------------------------------------------------------------------- */

size_t http_out_unsent(const struct http_conn *c)
{
    size_t n = c->queued.len;
    if (c->writing)
        n += uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
    return n;
}

static void mark_broken(struct http_conn *c)
{
    c->broken = true;
    http_conn_kick(c);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct http_conn *c = req->handle->data;
    if (status < 0 && !c->closing)
        mark_broken(c);
}

void http_out_idle(struct http_conn *c)
{
    if (!c->finishing || c->lingering || c->writing || c->broken || c->closing)
        return;
    c->lingering = true;
    c->deadline = uv_now(c->s->loop) + LINGER_MS;
    /* Our end is closed first and the peer's bytes are read and dropped for a while: closing
     * with unread input would send a reset that can overtake the answer. */
    if (c->peer_ended || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown))
        mark_broken(c);
    else if (c->read_stopped)
        c->deadline = uv_now(c->s->loop) + 100;
}

static void flush(struct http_conn *c);

static void on_written(uv_write_t *w, int status)
{
    struct http_conn *c = w->handle->data;
    c->writing = false;
    if (c->closing)
        return;
    if (status < 0) {
        mark_broken(c);
        return;
    }
    buf_clear(&c->inflight);
    flush(c);
    struct http_req *r = c->req;
    if (r && r->full && http_out_unsent(c) <= c->s->cfg.stream_high_bytes / 2) {
        r->full = false;
        if (r->on_drain)
            r->on_drain(r, r->watch_ctx);
    }
    if (!c->writing) {
        /* Caught up: an idle connection keeps no buffers. */
        buf_fini(&c->inflight);
        buf_fini(&c->queued);
        http_out_idle(c);
    }
}

static void flush(struct http_conn *c)
{
    if (c->queued.len == 0)
        return;
    struct buf tmp = c->inflight;
    c->inflight = c->queued;
    c->queued = tmp;
    uv_buf_t v = uv_buf_init(c->inflight.data, (unsigned)c->inflight.len);
    c->writing = true;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &v, 1, on_written)) {
        c->writing = false;
        mark_broken(c);
    }
}

void http_out(struct http_conn *c, uv_buf_t *v, unsigned n)
{
    if (c->broken || c->closing)
        return;
    for (unsigned i = 0; i < n; i++)
        c->put_total += v[i].len;
    if (!c->writing && c->queued.len == 0) {
        int rc = uv_try_write((uv_stream_t *)&c->tcp, v, n);
        if (rc < 0 && rc != UV_EAGAIN) {
            mark_broken(c);
            return;
        }
        size_t sent = rc > 0 ? (size_t)rc : 0;
        while (n > 0 && sent >= v->len) {
            sent -= v->len;
            v++;
            n--;
        }
        if (n > 0) {
            v->base += sent;
            v->len -= sent;
        }
    }
    for (unsigned i = 0; i < n; i++)
        if (buf_put(&c->queued, v[i].base, v[i].len)) {
            mark_broken(c);
            return;
        }
    if (!c->writing)
        flush(c);
}

/* ---- heads ------------------------------------------------------------------------------- */

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 202:
        return "Accepted";
    case 204:
        return "No Content";
    case 301:
        return "Moved Permanently";
    case 302:
        return "Found";
    case 304:
        return "Not Modified";
    case 307:
        return "Temporary Redirect";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 413:
        return "Content Too Large";
    case 415:
        return "Unsupported Media Type";
    case 417:
        return "Expectation Failed";
    case 422:
        return "Unprocessable Content";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 499:
        return "Client Closed Request";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Unknown";
    }
}

static void put_head(struct buf *b, int status, const char *content_type)
{
    char date[40];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    buf_printf(b, "HTTP/1.1 %d %s\r\nDate: %s\r\nAccess-Control-Allow-Origin: *\r\n", status,
               status_text(status), date);
    if (content_type)
        buf_printf(b, "Content-Type: %s\r\n", content_type);
}

static bool keeps(const struct http_req *r)
{
    return r->msg.keep_alive && !r->c->s->closing;
}

static void put_req_head(struct buf *b, struct http_req *r, int status, const char *content_type)
{
    put_head(b, status, content_type);
    buf_printf(b, "X-Request-Id: %s\r\n", http_request_id(r));
    if (!keeps(r))
        buf_puts(b, "Connection: close\r\n");
    else if (r->msg.minor == 0)
        buf_puts(b, "Connection: keep-alive\r\n");
    buf_put(b, buf_cstr(&r->headers), r->headers.len);
}

static void error_body(struct http_server *s, struct buf *b, int status, const char *path,
                       const char *text)
{
    if (s->cfg.write_error) {
        s->cfg.write_error(b, status, path, text);
        return;
    }
    jw_obj(b);
    jw_kstr(b, "detail", text);
    jw_end_obj(b);
}

void http_answer_error(struct http_req *r, int status, const char *text)
{
    struct buf b;
    buf_init(&b, 64 << 10);
    error_body(r->c->s, &b, status, http_path(r), text);
    http_respond(r, status, "application/json", buf_cstr(&b), b.len);
    buf_fini(&b);
}

void http_refuse(struct http_conn *c, int status, const char *path, const char *text)
{
    struct buf head, body;
    buf_init(&head, 4 << 10);
    buf_init(&body, 64 << 10);
    error_body(c->s, &body, status, path, text);
    put_head(&head, status, "application/json");
    char id[33];
    hash_random_id(id);
    buf_printf(&head, "X-Request-Id: %s\r\n", id);
    if (status == 503)
        buf_puts(&head, "Retry-After: 1\r\n");
    buf_printf(&head, "Connection: close\r\nContent-Length: %zu\r\n\r\n", body.len);
    uv_buf_t v[2] = {uv_buf_init(head.data, (unsigned)head.len),
                     uv_buf_init(body.data, (unsigned)body.len)};
    http_out(c, v, 2);
    buf_fini(&head);
    buf_fini(&body);
    http_parser_reset(&c->parser);
    c->finishing = true;
    http_out_idle(c);
}

/* ---- answers ----------------------------------------------------------------------------- */

void http_respond(struct http_req *r, int status, const char *content_type, const void *body,
                  size_t n)
{
    assert(!r->started);
    struct http_conn *c = r->c;
    struct buf head;
    buf_init(&head, 32 << 10);
    put_req_head(&head, r, status, content_type);
    buf_printf(&head, "Content-Length: %zu\r\n\r\n", n);
    if (head.failed) {
        mark_broken(c);
    } else {
        uv_buf_t v[2] = {uv_buf_init(head.data, (unsigned)head.len), {0}};
        unsigned n_v = 1;
        if (n > 0 && !r->is_head) {
            /* uv_buf_t has no const; nothing writes through it. */
            memcpy(&v[1].base, &body, sizeof body);
            v[1].len = n;
            n_v = 2;
        }
        http_out(c, v, n_v);
    }
    buf_fini(&head);
    http_conn_request_over(c, true);
}

void http_respond_json(struct http_req *r, int status, const struct buf *body)
{
    if (body->failed) {
        http_answer_error(r, 500, "out of memory");
        return;
    }
    http_respond(r, status, "application/json", buf_cstr(body), body->len);
}

void http_stream_start(struct http_req *r, int status, const char *content_type)
{
    assert(!r->started);
    struct buf head;
    buf_init(&head, 32 << 10);
    r->started = true;
    r->chunked = r->msg.minor > 0;
    /* An HTTP/1.0 client reads until we close. */
    if (!r->chunked)
        r->msg.keep_alive = false;
    put_req_head(&head, r, status, content_type);
    buf_puts(&head, r->chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    if (head.failed) {
        mark_broken(r->c);
    } else {
        uv_buf_t v = uv_buf_init(head.data, (unsigned)head.len);
        http_out(r->c, &v, 1);
    }
    buf_fini(&head);
}

int http_stream_write(struct http_req *r, const void *p, size_t n)
{
    assert(r->started);
    struct http_conn *c = r->c;
    if (n > 0 && !r->is_head) {
        char size[24];
        uv_buf_t v[3];
        v[0] = uv_buf_init(size, (unsigned)snprintf(size, sizeof size, "%zx\r\n", n));
        memcpy(&v[1].base, &p, sizeof p);
        v[1].len = n;
        v[2] = uv_buf_init((char[]){"\r\n"}, 2);
        if (r->chunked)
            http_out(c, v, 3);
        else
            http_out(c, v + 1, 1);
    }
    size_t unsent = http_out_unsent(c), high = c->s->cfg.stream_high_bytes;
    if (c->broken || unsent <= high)
        return 0;
    if (unsent / STREAM_FACTOR > high) {
        mark_broken(c);
        return 0;
    }
    r->full = true;
    return Q_EFULL;
}

void http_stream_end(struct http_req *r)
{
    assert(r->started);
    struct http_conn *c = r->c;
    if (r->chunked && !r->is_head) {
        uv_buf_t v = uv_buf_init((char[]){"0\r\n\r\n"}, 5);
        http_out(c, &v, 1);
    }
    http_conn_request_over(c, true);
}

void http_stream_abort(struct http_req *r)
{
    struct http_conn *c = r->c;
    http_conn_request_over(c, false);
    mark_broken(c);
}

size_t http_stream_unsent(const struct http_req *r)
{
    return http_out_unsent(r->c);
}
