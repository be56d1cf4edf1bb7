/* SPDX-License-Identifier: Apache-2.0 */
/* http_int.h - what the files of the HTTP server share. Loop thread only.
 *
 * A connection reads into its parser; a complete message becomes a request, and reading of
 * further messages waits (bytes that come meanwhile go to `pending`) until the answer ended.
 * Output goes to the kernel at once; what it does not take is collected in `queued` while the
 * one uv_write of `inflight` runs, so that a slow reader costs few calls and one buffer.
 *
 * Life of a connection:
 *
 *     open --answer with close, refusal--> finishing --all sent--> lingering --FIN, 2 s--> closed
 *     open, finishing --write error, client gone, time-out--> broken (kick) --> closed
 *
 * Nothing of a connection is freed, and no callback of a request runs, inside a call of the
 * request's owner: faults mark the connection and `kick` it, and the loop does the rest. */
#ifndef QUIRE_HTTP_INT_H
#define QUIRE_HTTP_INT_H

#include "supervisor/http/http.h"
#include "supervisor/http/http_parse.h"
#include "supervisor/http/http_route.h"

struct http_list {
    struct http_list *next, *prev;
};

struct http_conn {
    uv_tcp_t tcp;
    struct http_server *s;
    struct http_list all;  /* in s->conns */
    struct http_list kick; /* in s->kicked, or empty */
    struct http_parser parser;
    struct http_req *req; /* being answered */
    struct buf pending;   /* bytes after the request being answered */

    uv_write_t write;
    uv_shutdown_t shutdown;
    struct buf inflight, queued;
    uint64_t put_total, sent_mark; /* bytes handed over; sent ones at the last sweep */
    uint64_t sent_at;              /* when a sweep last saw progress */

    uint64_t deadline; /* of reading or lingering, loop ms; 0: none */
    bool writing, read_stopped, peer_ended;
    bool finishing, lingering, broken, closing;
    char peer[56];
};

struct http_server {
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_timer_t sweep, grace;
    uv_idle_t idle; /* runs while connections are kicked */
    struct http_config cfg;
    char *host;
    int port;
    struct http_routes routes;
    struct http_budget budget;
    struct http_list conns, kicked;
    struct http_stats stats;
    unsigned n_handles; /* of our own, still open */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
    char read_buf[64 * 1024]; /* shared: a read is consumed before the next begins */
};

struct http_req {
    struct http_conn *c;
    struct http_msg msg;
    struct http_hit hit;
    struct buf headers; /* extra response headers, ready to send */
    void (*on_close)(struct http_req *r, void *ctx);
    void (*on_drain)(struct http_req *r, void *ctx);
    void *watch_ctx;
    bool is_head, started, chunked, full;
    char id[33];
};

/* http_server.c */
void http_server_wake(struct http_server *s);      /* something was kicked */
void http_server_conn_gone(struct http_server *s); /* a connection's memory is freed */

/* http_conn.c */
void http_conn_accept(struct http_server *s);
void http_conn_kicked(struct http_conn *c); /* from the loop: do what is due */
void http_conn_sweep(struct http_conn *c, uint64_t now);
void http_conn_close(struct http_conn *c); /* not from inside an owner's call */
/* The answer is over: free the request, go on with the connection. */
void http_conn_request_over(struct http_conn *c, bool keep);
void http_conn_kick(struct http_conn *c);

/* http_write.c */
void http_out(struct http_conn *c, uv_buf_t *v, unsigned n);
size_t http_out_unsent(const struct http_conn *c);
/* Everything sent: goes on to linger when the connection is finishing. */
void http_out_idle(struct http_conn *c);
void http_answer_error(struct http_req *r, int status, const char *text);
/* An answer without a request, for input that never became one. */
void http_refuse(struct http_conn *c, int status, const char *path, const char *text);

static inline void http_list_init(struct http_list *l)
{
    l->next = l->prev = l;
}

static inline void http_list_add(struct http_list *head, struct http_list *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static inline void http_list_del(struct http_list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->next = l->prev = l;
}

#define HTTP_CONN_OF(l, member)                                                                    \
    ((struct http_conn *)(void *)((char *)(l)-offsetof(struct http_conn, member)))

#endif
