/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/door.h"

#include "base/log.h"
#include "base/mbox.h"
#include "proto/cluster.pb-c.h"
#include "proto/rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MESSAGE = 1 << 20, MAX_UNPACKED = 4 << 20, MAX_WAITING = 8192, CLOSE_GRACE_MS = 200 };

struct door {
    struct rpc_server *server;
    struct mbox box;
    uv_async_t wake;
    struct door_events ev;
    struct door_link *links; /* loop thread */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

struct event {
    struct mbox_msg msg; /* first */
    struct door_link *link;
    Quire__WorkerUp *up; /* NULL: the stream is over */
};

struct door_link {
    struct door *d;
    struct event over;         /* the last word needs no memory */
    struct rpc_stream *stream; /* our reference */
    struct door_link *next, **at;
    bool known;   /* in the list: loop thread */
    bool goodbye; /* the worker has ended its side: rpc thread until closed */
    bool left;    /* and it was not the connection that broke */
    void *data;
};

/* ---- RPC thread -------------------------------------------------------------------------- */

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct door_link *l = ctx;
    struct event *ev = calloc(1, sizeof *ev);
    if (!ev) {
        rpc_stream_cancel(s);
        return;
    }
    ev->link = l;
    ev->up = (Quire__WorkerUp *)rpc_unpack(&quire__worker_up__descriptor, data, n, MAX_UNPACKED);
    if (!ev->up || mbox_push(&l->d->box, &ev->msg)) {
        log_warn("door", "worker at %s dropped: %s", rpc_stream_peer(s),
                 ev->up ? "it sends faster than we read" : "it sent a malformed message");
        rpc_msg_free((ProtobufCMessage *)ev->up);
        free(ev);
        rpc_stream_cancel(s);
    }
}

static void on_end(struct rpc_stream *s, void *ctx)
{
    struct door_link *l = ctx;
    l->goodbye = true;
    rpc_stream_finish(s, RPC_OK, "");
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    (void)msg;
    struct door_link *l = ctx;
    l->left = l->goodbye && status == RPC_OK;
    mbox_push_force(&l->d->box, &l->over.msg);
}

static const struct rpc_handler HANDLER = {
    .on_message = on_message, .on_end = on_end, .on_close = on_close};

static void on_open(struct rpc_stream *s, void *ctx)
{
    struct door_link *l = calloc(1, sizeof *l);
    if (!l) {
        rpc_stream_finish(s, RPC_EXHAUSTED, "out of memory");
        return;
    }
    l->d = ctx;
    l->over.link = l;
    l->stream = rpc_stream_ref(s);
    rpc_stream_set_handler(s, &HANDLER, l);
}

static void wake(void *ctx)
{
    uv_async_send(&((struct door *)ctx)->wake);
}

/* ---- loop thread ------------------------------------------------------------------------- */

static void link_know(struct door_link *l)
{
    struct door *d = l->d;
    if (l->known)
        return;
    l->known = true;
    l->next = d->links;
    l->at = &d->links;
    if (l->next)
        l->next->at = &l->next;
    d->links = l;
}

static void link_free(struct door_link *l)
{
    if (l->known) {
        *l->at = l->next;
        if (l->next)
            l->next->at = l->at;
    }
    rpc_stream_unref(l->stream);
    free(l);
}

static void deliver(struct door *d)
{
    struct mbox_msg *next, *m = mbox_take(&d->box);
    bool any = m != NULL;
    for (; m; m = next) {
        next = m->next;
        struct event *ev = (struct event *)m;
        struct door_link *l = ev->link;
        if (ev->up && !d->closing) {
            link_know(l);
            d->ev.message(d->ev.ctx, l, ev->up);
        } else if (!ev->up) {
            if (!d->closing && l->known)
                d->ev.closed(d->ev.ctx, l);
            link_free(l); /* and the event with it */
            continue;
        }
        rpc_msg_free((ProtobufCMessage *)ev->up);
        free(ev);
    }
    if (any && !d->closing && d->ev.batch_end)
        d->ev.batch_end(d->ev.ctx);
}

static void on_wake(uv_async_t *h)
{
    deliver(h->data);
}

int door_open(struct door **out, uv_loop_t *loop, struct rpc_loop *rpc, const char *host, int port,
              const struct door_events *ev, struct err *e)
{
    *out = NULL;
    struct door *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(e, Q_ENOMEM, "out of memory");
    d->ev = *ev;
    if (uv_async_init(loop, &d->wake, on_wake) != 0) {
        free(d);
        return err_set(e, Q_EIO, "cannot make a wake-up handle");
    }
    d->wake.data = d;
    mbox_init(&d->box, MAX_WAITING, wake, d);
    char address[300];
    snprintf(address, sizeof address, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, port);
    const struct rpc_method method = {"/quire.Cluster/Join", on_open, d};
    const struct rpc_server_config cfg = {
        .address = address, .methods = &method, .n_methods = 1, .max_message_bytes = MAX_MESSAGE};
    int rc = rpc_server_open(&d->server, rpc, &cfg, e);
    if (rc) {
        door_close(d, NULL, NULL);
        return rc;
    }
    *out = d;
    return 0;
}

int door_port(const struct door *d)
{
    return rpc_server_port(d->server);
}

static void on_wake_closed(uv_handle_t *h)
{
    struct door *d = h->data;
    void (*closed)(void *ctx) = d->closed;
    void *ctx = d->closed_ctx;
    mbox_fini(&d->box);
    free(d);
    if (closed)
        closed(ctx);
}

void door_close(struct door *d, void (*closed)(void *ctx), void *ctx)
{
    d->closing = true;
    d->closed = closed;
    d->closed_ctx = ctx;
    for (struct door_link *l = d->links; l; l = l->next)
        rpc_stream_finish(l->stream, RPC_UNAVAILABLE, "the supervisor stops");
    if (d->server)
        rpc_server_close(d->server, CLOSE_GRACE_MS);
    deliver(d); /* every stream has said its last word */
    uv_close((uv_handle_t *)&d->wake, on_wake_closed);
}

void *door_link_data(const struct door_link *l)
{
    return l->data;
}

void door_link_set_data(struct door_link *l, void *data)
{
    l->data = data;
}

const char *door_link_peer(const struct door_link *l)
{
    return rpc_stream_peer(l->stream);
}

bool door_link_left(const struct door_link *l)
{
    return l->left;
}

void door_send(struct door_link *l, const Quire__SupervisorDown *down)
{
    int rc = rpc_stream_send_msg(l->stream, &down->base);
    if (rc && rc != Q_ECANCELLED) {
        log_warn("door", "worker at %s dropped: it does not take commands", door_link_peer(l));
        rpc_stream_cancel(l->stream);
    }
}

void door_drop(struct door_link *l, const char *why)
{
    rpc_stream_finish(l->stream, RPC_PERMISSION, why);
}
