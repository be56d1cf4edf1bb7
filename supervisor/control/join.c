/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/join.h"

#include "base/log.h"
#include "base/mbox.h"
#include "proto/cluster.pb-c.h"
#include "proto/rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MESSAGE = 1 << 20, MAX_UNPACKED = 4 << 20, MAX_WAITING = 8192, CLOSE_GRACE_MS = 200 };

struct join {
    struct rpc_server *server;
    struct mbox box;
    uv_async_t wake;
    struct join_events ev;
    struct join_link *links; /* loop thread */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

struct event {
    struct mbox_msg msg; /* first */
    struct join_link *link;
    Quire__WorkerUp *up; /* NULL: the stream is over */
};

struct join_link {
    struct join *j;
    struct event over;         /* the last word needs no memory */
    struct rpc_stream *stream; /* our reference */
    struct join_link *next, **at;
    bool known; /* in the list: loop thread */
    void *data;
};

/* ---- RPC thread -------------------------------------------------------------------------- */

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct join_link *l = ctx;
    struct event *ev = calloc(1, sizeof *ev);
    if (!ev) {
        rpc_stream_cancel(s);
        return;
    }
    ev->link = l;
    ev->up = (Quire__WorkerUp *)rpc_unpack(&quire__worker_up__descriptor, data, n, MAX_UNPACKED);
    if (!ev->up || mbox_push(&l->j->box, &ev->msg)) {
        log_warn("join", "worker at %s dropped: %s", rpc_stream_peer(s),
                 ev->up ? "it sends faster than we read" : "it sent a malformed message");
        rpc_msg_free((ProtobufCMessage *)ev->up);
        free(ev);
        rpc_stream_cancel(s);
    }
}

static void on_end(struct rpc_stream *s, void *ctx)
{
    (void)ctx;
    rpc_stream_finish(s, RPC_OK, "");
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    (void)status;
    (void)msg;
    struct join_link *l = ctx;
    mbox_push_force(&l->j->box, &l->over.msg);
}

static const struct rpc_handler HANDLER = {
    .on_message = on_message, .on_end = on_end, .on_close = on_close};

static void on_open(struct rpc_stream *s, void *ctx)
{
    struct join_link *l = calloc(1, sizeof *l);
    if (!l) {
        rpc_stream_finish(s, RPC_EXHAUSTED, "out of memory");
        return;
    }
    l->j = ctx;
    l->over.link = l;
    l->stream = rpc_stream_ref(s);
    rpc_stream_set_handler(s, &HANDLER, l);
}

static void wake(void *ctx)
{
    uv_async_send(&((struct join *)ctx)->wake);
}

/* ---- loop thread ------------------------------------------------------------------------- */

static void link_know(struct join_link *l)
{
    struct join *j = l->j;
    if (l->known)
        return;
    l->known = true;
    l->next = j->links;
    l->at = &j->links;
    if (l->next)
        l->next->at = &l->next;
    j->links = l;
}

static void link_free(struct join_link *l)
{
    if (l->known) {
        *l->at = l->next;
        if (l->next)
            l->next->at = l->at;
    }
    rpc_stream_unref(l->stream);
    free(l);
}

static void deliver(struct join *j)
{
    struct mbox_msg *next, *m = mbox_take(&j->box);
    bool any = m != NULL;
    for (; m; m = next) {
        next = m->next;
        struct event *ev = (struct event *)m;
        struct join_link *l = ev->link;
        if (ev->up && !j->closing) {
            link_know(l);
            j->ev.message(j->ev.ctx, l, ev->up);
        } else if (!ev->up) {
            if (!j->closing && l->known)
                j->ev.closed(j->ev.ctx, l);
            link_free(l); /* and the event with it */
            continue;
        }
        rpc_msg_free((ProtobufCMessage *)ev->up);
        free(ev);
    }
    if (any && !j->closing && j->ev.batch_end)
        j->ev.batch_end(j->ev.ctx);
}

static void on_wake(uv_async_t *h)
{
    deliver(h->data);
}

int join_open(struct join **out, uv_loop_t *loop, struct rpc_loop *rpc, const char *host, int port,
              const struct join_events *ev, struct err *e)
{
    *out = NULL;
    struct join *j = calloc(1, sizeof *j);
    if (!j)
        return err_set(e, Q_ENOMEM, "out of memory");
    j->ev = *ev;
    if (uv_async_init(loop, &j->wake, on_wake) != 0) {
        free(j);
        return err_set(e, Q_EIO, "cannot make a wake-up handle");
    }
    j->wake.data = j;
    mbox_init(&j->box, MAX_WAITING, wake, j);
    char address[300];
    snprintf(address, sizeof address, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, port);
    const struct rpc_method method = {"/quire.Cluster/Join", on_open, j};
    const struct rpc_server_config cfg = {
        .address = address, .methods = &method, .n_methods = 1, .max_message_bytes = MAX_MESSAGE};
    int rc = rpc_server_open(&j->server, rpc, &cfg, e);
    if (rc) {
        join_close(j, NULL, NULL);
        return rc;
    }
    *out = j;
    return 0;
}

int join_port(const struct join *j)
{
    return rpc_server_port(j->server);
}

static void on_wake_closed(uv_handle_t *h)
{
    struct join *j = h->data;
    void (*closed)(void *ctx) = j->closed;
    void *ctx = j->closed_ctx;
    mbox_fini(&j->box);
    free(j);
    if (closed)
        closed(ctx);
}

void join_close(struct join *j, void (*closed)(void *ctx), void *ctx)
{
    j->closing = true;
    j->closed = closed;
    j->closed_ctx = ctx;
    for (struct join_link *l = j->links; l; l = l->next)
        rpc_stream_finish(l->stream, RPC_UNAVAILABLE, "the supervisor stops");
    if (j->server)
        rpc_server_close(j->server, CLOSE_GRACE_MS);
    deliver(j); /* every stream has said its last word */
    uv_close((uv_handle_t *)&j->wake, on_wake_closed);
}

void *join_link_data(const struct join_link *l)
{
    return l->data;
}

void join_link_set_data(struct join_link *l, void *data)
{
    l->data = data;
}

const char *join_link_peer(const struct join_link *l)
{
    return rpc_stream_peer(l->stream);
}

void join_send(struct join_link *l, const Quire__SupervisorDown *down)
{
    int rc = rpc_stream_send_msg(l->stream, &down->base);
    if (rc && rc != Q_ECANCELLED) {
        log_warn("join", "worker at %s dropped: it does not take commands", join_link_peer(l));
        rpc_stream_cancel(l->stream);
    }
}

void join_drop(struct join_link *l, const char *why)
{
    rpc_stream_finish(l->stream, RPC_PERMISSION, why);
}
