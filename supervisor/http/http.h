/* SPDX-License-Identifier: Apache-2.0 */
/* http.h - the HTTP/1.1 server: connections, parsing, limits, streaming. Knows no dialect.
 *
 * One thread (the libuv loop's) calls everything here. A handler gets a request whose body is
 * complete. It answers at once or keeps the `struct http_req *` and answers later. A request
 * lives until its answer has ended, or until the client left; then its on_close has run and
 * the pointer is dead. Requests of one connection are handled one after the other (pipelining
 * keeps their order).
 *
 * A client that closes its side (FIN) while its request is being answered counts as gone. None
 * of the callbacks below runs inside a call made here: a write that finds the connection broken
 * succeeds, and on_close follows from the loop. Every answer carries X-Request-Id and allows
 * any web origin; OPTIONS and HEAD are answered without routes of their own. */
#ifndef QUIRE_HTTP_HTTP_H
#define QUIRE_HTTP_HTTP_H

#include "base/buf.h"

#include <uv.h>

struct http_server;
struct http_req;

typedef void http_handler(struct http_req *r, void *ctx);

struct http_route {
    const char *method; /* "GET" */
    /* "/v1/models/{uid}/progress"; fixed segments win over {names}. A last segment {name...}
     * takes the rest of the path, slashes included, and loses against both. */
    const char *pattern;
    http_handler *fn;
};

struct http_config {
    const char *host;
    int port;                  /* 0: any free one */
    size_t max_body_bytes;     /* 0: 64 MiB */
    size_t max_bodies_bytes;   /* 0: 1 GiB for the bodies of all connections; beyond: 503 */
    size_t max_header_bytes;   /* 0: 32 KiB for all headers and the target */
    unsigned max_connections;  /* 0: 4096; more are answered 503 and closed */
    unsigned head_timeout_ms;  /* 0: 10 s from the first byte to the end of the headers */
    unsigned body_timeout_ms;  /* 0: 30 s without a byte of the body */
    unsigned idle_timeout_ms;  /* 0: 75 s between requests */
    unsigned write_timeout_ms; /* 0: 60 s without the peer taking a byte: a stalled reader */
    size_t stream_high_bytes;  /* 0: 256 KiB unsent bytes, then http_stream_write says full */
    /* Answers errors that happen before a route is found (404, 405, 413, 400 ...) in the shape
     * of the API; path may be "". NULL: plain {"detail": "..."}. */
    void (*write_error)(struct buf *body, int status, const char *path, const char *text);
    /* Asked before any route but OPTIONS: true to go on; false when it has answered (no key).
     * NULL: everybody may. */
    bool (*admit)(struct http_req *r, void *ctx);
    void *admit_ctx;
};

/* Listens. Q_EEXIST when the port is taken. */
Q_MUST_CHECK int http_server_open(struct http_server **out, uv_loop_t *loop,
                                  const struct http_config *cfg, struct err *e);
int http_server_port(const struct http_server *s);
/* Routes may be added until the loop runs; the table is borrowed. */
void http_server_add(struct http_server *s, const struct http_route *routes, size_t n, void *ctx);
/* Stop accepting; idle connections close now, busy ones after their answer or grace_ms. closed
 * runs when everything is gone. */
void http_server_close(struct http_server *s, unsigned grace_ms, void (*closed)(void *ctx),
                       void *ctx);

const char *http_method(const struct http_req *r);
const char *http_path(const struct http_req *r); /* percent-decoded, without the query */
const char *http_param(const struct http_req *r, const char *name);  /* {name}; NULL: none */
const char *http_query(const struct http_req *r, const char *name);  /* decoded; NULL: none */
const char *http_header(const struct http_req *r, const char *name); /* any letter case */
const char *http_body(const struct http_req *r, size_t *n);          /* NUL-terminated */
/* Free the body before the answer is over: a stream need not keep its prompt. */
void http_body_drop(struct http_req *r);
const char *http_peer(const struct http_req *r);
const char *http_request_id(const struct http_req *r); /* the client's own, or a random one */
uv_loop_t *http_loop(const struct http_req *r);

/* Extra response header, before the answer starts. */
void http_set_header(struct http_req *r, const char *name, const char *value);
/* Whole answer with Content-Length. The request is over. */
void http_respond(struct http_req *r, int status, const char *content_type, const void *body,
                  size_t n);
void http_respond_json(struct http_req *r, int status, const struct buf *body);

/* Streaming answer (chunked; to HTTP/1.0 clients until close). Each write leaves at once. */
void http_stream_start(struct http_req *r, int status, const char *content_type);
/* 0, or Q_EFULL: the bytes were taken, but stop until on_drain. A writer that goes on to 16
 * times the limit loses the connection. */
int http_stream_write(struct http_req *r, const void *p, size_t n);
void http_stream_end(struct http_req *r);
/* Break the connection off, so that the client sees an unfinished answer. */
void http_stream_abort(struct http_req *r);
size_t http_stream_unsent(const struct http_req *r);

/* on_close: the client left before the answer was over (not called after http_respond or
 * http_stream_end). on_drain: room again after Q_EFULL. Either may be NULL. */
void http_watch(struct http_req *r, void (*on_close)(struct http_req *r, void *ctx),
                void (*on_drain)(struct http_req *r, void *ctx), void *ctx);

struct http_stats {
    uint64_t requests, connections_total;
    unsigned connections_open;
};
void http_server_stats(const struct http_server *s, struct http_stats *out);

#endif
