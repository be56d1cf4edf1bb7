/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct probe {
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_connect_t connect;
    int n_open;
    bool over;
    void (*done)(void *ctx, bool reached);
    void *ctx;
};

static void on_closed(uv_handle_t *h)
{
    struct probe *p = h->data;
    if (--p->n_open == 0)
        free(p);
}

static void finish(struct probe *p, bool reached)
{
    if (p->over)
        return;
    p->over = true;
    p->done(p->ctx, reached);
    uv_close((uv_handle_t *)&p->timer, on_closed);
    uv_close((uv_handle_t *)&p->tcp, on_closed);
}

static void on_connect(uv_connect_t *c, int status)
{
    finish(c->data, status == 0);
}

static void on_timeout(uv_timer_t *t)
{
    finish(t->data, false);
}

static bool parse(const char *address, struct sockaddr_storage *out)
{
    char host[128];
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (n == 0 || n >= sizeof host)
        return false;
    bool v6 = address[0] == '[' && address[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(v6 ? n - 2 : n), v6 ? address + 1 : address);
    int port = atoi(colon + 1);
    return uv_ip4_addr(host, port, (struct sockaddr_in *)out) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)out) == 0;
}

int probe_start(uv_loop_t *loop, const char *address, uint64_t timeout_ms,
                void (*done)(void *ctx, bool reached), void *ctx, struct err *e)
{
    struct sockaddr_storage to;
    if (!parse(address, &to))
        return err_set(e, Q_EINVAL, "not an address: %.100s", address);
    struct probe *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(e, Q_ENOMEM, "out of memory");
    p->done = done;
    p->ctx = ctx;
    uv_tcp_init(loop, &p->tcp);
    uv_timer_init(loop, &p->timer);
    p->tcp.data = p->timer.data = p->connect.data = p;
    p->n_open = 2;
    int rc = uv_tcp_connect(&p->connect, &p->tcp, (const struct sockaddr *)&to, on_connect);
    /* A refusal at once is news too; it comes from the loop like the others. */
    uv_timer_start(&p->timer, on_timeout, rc ? 0 : timeout_ms, 0);
    return 0;
}
