/* SPDX-License-Identifier: Apache-2.0 */
/* A call and its thread crossings:
 *
 *     loop thread                               rpc thread
 *     gateway_generate: choose, open stream
 *                                               on_message: unpack, count, post
 *     on_wake: deliver, or hold while paused
 *     gateway_cancel: dead, cancel stream
 *                                               on_close: post the last event
 *     on_wake: finish, retry or fail, free
 *
 * The call's memory goes with its stream's last event, whatever happened before: `dead` says
 * that its owner has heard the end or has cancelled, and mutes the rest. Posted events are
 * bounded by bytes per call (`backlog`); a reader further behind than BACKLOG_BYTES loses the
 * call with Q_EFULL. */
#include "supervisor/gateway/gateway.h"

#include "base/log.h"
#include "base/mbox.h"
#include "proto/engine.pb-c.h"
#include "proto/rpc.h"
#include "supervisor/gateway/router.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METHOD             "/quire.Engine/Generate"
#define BACKLOG_BYTES      ((size_t)4 << 20)
#define EVENT_OVERHEAD     256                /* what an event costs beside its message's bytes */
#define MAX_UNPACKED_BYTES ((size_t)16 << 20) /* Started repeats the prompt's tokens */
#define MAX_TRIES          2

struct event {
    struct mbox_msg msg;
    struct gateway_call *call;
    Quire__GenerateEvent *ev; /* NULL: the stream has closed */
    size_t cost;
};

struct link {
    struct link *next, *prev;
};

struct gateway_call {
    struct link all, resume; /* resume: in g->resuming, or alone */
    struct gateway *g;
    const struct gateway_events *events;
    void *ctx;
    struct router_replica *replica;
    struct rpc_stream *stream;
    void *request; /* packed, kept until the first event: a lost replica can be replaced */
    size_t n_request;
    char uid[192];
    int64_t limit;
    unsigned n_choices, n_finished, n_tries;
    bool dead, paused, counted, started;
    struct mbox_msg *held, **held_tail; /* events that came while paused */
    struct event closed;
    enum rpc_status status;
    char status_text[600];
    /* Shared with the rpc thread. */
    atomic_size_t backlog;
    atomic_bool overrun, garbled;
};

struct gateway {
    uv_loop_t *loop;
    struct rpc_loop *rpc;
    struct control *control;
    struct router *router;
    struct mbox box;
    uv_async_t wake;
    struct link calls, resuming;
    /* rpc-thread callbacks that are inside mbox_push: it wakes the loop after the message can
     * be taken, so the gateway must outlive that last step too. */
    atomic_uint posting;
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

#define CALL_OF(l, member)                                                                         \
    ((struct gateway_call *)(void *)((char *)(l)-offsetof(struct gateway_call, member)))

static void link_init(struct link *l)
{
    l->next = l->prev = l;
}

static void link_add(struct link *head, struct link *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static void link_del(struct link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    link_init(l);
}

/* ---- on the rpc thread ------------------------------------------------------------------- */

static void post(struct gateway *g, struct event *e)
{
    atomic_fetch_add(&g->posting, 1);
    mbox_push_force(&g->box, &e->msg); /* bounded by the backlog of each call */
    atomic_fetch_sub(&g->posting, 1);
}

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct gateway_call *call = ctx;
    if (atomic_load(&call->overrun) || atomic_load(&call->garbled))
        return;
    size_t cost = n + EVENT_OVERHEAD;
    if (atomic_fetch_add(&call->backlog, cost) + cost > BACKLOG_BYTES) {
        atomic_store(&call->overrun, true);
        rpc_stream_cancel(s);
        return;
    }
    struct event *e = malloc(sizeof *e);
    struct ProtobufCMessage *m =
        rpc_unpack(&quire__generate_event__descriptor, data, n, MAX_UNPACKED_BYTES);
    if (!e || !m) {
        free(e);
        rpc_msg_free(m);
        atomic_store(&call->garbled, true);
        rpc_stream_cancel(s);
        return;
    }
    e->call = call;
    e->ev = (Quire__GenerateEvent *)(void *)m;
    e->cost = cost;
    post(call->g, e);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    struct gateway_call *call = ctx;
    (void)s;
    call->status = status;
    snprintf(call->status_text, sizeof call->status_text, "%s", msg ? msg : "");
    post(call->g, &call->closed);
}

static const struct rpc_handler handler = {.on_message = on_message, .on_close = on_close};

/* ---- ends -------------------------------------------------------------------------------- */

static void event_free(struct event *e)
{
    atomic_fetch_sub(&e->call->backlog, e->cost);
    rpc_msg_free((struct ProtobufCMessage *)(void *)e->ev);
    free(e);
}

/* The owner's part is over: no event follows, the load is given back. */
static void retire(struct gateway_call *call)
{
    call->dead = true;
    if (call->counted) {
        call->counted = false;
        router_release(call->replica);
    }
    free(call->request);
    call->request = NULL;
}

static void fail(struct gateway_call *call, int code, const char *text)
{
    retire(call);
    call->events->on_error(call->ctx, code, text);
}

static void on_wake_closed(uv_handle_t *h)
{
    struct gateway *g = h->data;
    void (*closed)(void *) = g->closed;
    void *ctx = g->closed_ctx;
    mbox_fini(&g->box);
    router_close(g->router);
    free(g);
    if (closed)
        closed(ctx);
}

static void maybe_closed(struct gateway *g)
{
    if (!g->closing || g->calls.next != &g->calls || uv_is_closing((uv_handle_t *)&g->wake))
        return;
    while (atomic_load(&g->posting) > 0)
        sched_yield(); /* a few instructions of another thread */
    uv_close((uv_handle_t *)&g->wake, on_wake_closed);
}

static void call_free(struct gateway_call *call)
{
    struct gateway *g = call->g;
    while (call->held) {
        struct event *e = (struct event *)(void *)call->held;
        call->held = call->held->next;
        if (e != &call->closed)
            event_free(e);
    }
    link_del(&call->all);
    link_del(&call->resume);
    rpc_stream_unref(call->stream);
    free(call->request);
    free(call);
    maybe_closed(g);
}

/* ---- tries ------------------------------------------------------------------------------- */

/* Open a stream on call->replica and send the request. On failure nothing is open. */
static int start_try(struct gateway_call *call, struct err *e)
{
    const struct rpc_call_config cfg = {
        .method = METHOD,
        .handler = &handler,
        .ctx = call,
        .max_queue_bytes = call->n_request + 4096,
    };
    call->n_tries++;
    int rc = rpc_stream_open(&call->stream, call->replica->channel, &cfg, e);
    if (rc)
        return rc;
    /* A stream that breaks now still says so by on_close, like one that breaks later. */
    if (rpc_stream_send(call->stream, call->request, call->n_request))
        rpc_stream_cancel(call->stream);
    else
        rpc_stream_finish(call->stream, RPC_OK, NULL);
    return 0;
}

/* Before the first event a lost replica costs nothing but time: take another one. */
static bool try_again(struct gateway_call *call)
{
    struct gateway *g = call->g;
    struct router_replica *lost = call->replica, *next;
    if (call->started || call->dead || g->closing || call->n_tries >= MAX_TRIES || !call->request)
        return false;
    if (router_choose(g->router, call->uid, call->limit, lost, &next))
        return false;
    router_release(lost);
    router_stream_closed(g->router, lost);
    rpc_stream_unref(call->stream);
    call->stream = NULL;
    call->replica = next;
    struct err e;
    if (start_try(call, &e) == 0)
        return true;
    fail(call, Q_EUNAVAILABLE, e.msg);
    router_stream_closed(g->router, next);
    call_free(call);
    return true;
}

static void stream_closed(struct gateway_call *call)
{
    struct gateway *g = call->g;
    bool overrun = atomic_load(&call->overrun), garbled = atomic_load(&call->garbled);
    bool lost = call->status == RPC_UNAVAILABLE || call->status == RPC_CANCELLED;
    if (!call->dead && lost && !overrun && !garbled) {
        call->replica->suspect = true;
        log_warn("gateway", "replica %s-rep%u was lost with a request on it: %s", call->uid,
                 call->replica->index, call->status_text);
        if (g->control && !call->replica->down)
            control_report_failure(g->control, call->uid, call->replica->index,
                                   call->replica->epoch);
        if (try_again(call))
            return;
    }
    if (!call->dead) {
        char text[320];
        int code = rpc_err_of(call->status);
        if (overrun) {
            fail(call, Q_EFULL, "the answer was read too slowly");
        } else if (garbled) {
            fail(call, Q_EINTERNAL, "the engine sent an unreadable message");
        } else if (lost) {
            snprintf(text, sizeof text,
                     "the replica that was answering (%s-rep%u) was lost; please try again",
                     call->uid, call->replica->index);
            fail(call, Q_EUNAVAILABLE, text);
        } else if (call->status == RPC_OK) {
            fail(call, Q_EINTERNAL, "the engine ended the answer early");
        } else {
            fail(call, code, call->status_text);
        }
    }
    router_stream_closed(g->router, call->replica);
    call_free(call);
}

/* ---- on the loop ------------------------------------------------------------------------- */

/* Frees e; may free the call when e is its last one. */
static void deliver(struct event *e)
{
    struct gateway_call *call = e->call;
    if (!e->ev) {
        stream_closed(call);
        return;
    }
    if (call->dead) {
        event_free(e);
        return;
    }
    if (!call->started) {
        call->started = true;
        call->replica->suspect = false;
        free(call->request);
        call->request = NULL;
    }
    switch (e->ev->kind_case) {
    case QUIRE__GENERATE_EVENT__KIND_STARTED:
        call->events->on_started(call->ctx, e->ev->started);
        break;
    case QUIRE__GENERATE_EVENT__KIND_DELTA:
        if (e->ev->delta->choice < call->n_choices)
            call->events->on_delta(call->ctx, e->ev->delta);
        break;
    case QUIRE__GENERATE_EVENT__KIND_FINISHED:
        if (e->ev->finished->choice >= call->n_choices)
            break;
        call->events->on_finished(call->ctx, e->ev->finished);
        call->n_finished++;
        if (!call->dead && call->n_finished == call->n_choices) {
            retire(call);
            call->events->on_done(call->ctx);
        }
        break;
    default:
        break; /* a newer engine's event */
    }
    event_free(e);
}

static void take(struct event *e)
{
    struct gateway_call *call = e->call;
    if (!call->dead && (call->paused || call->held)) {
        e->msg.next = NULL;
        *call->held_tail = &e->msg;
        call->held_tail = &e->msg.next;
        return;
    }
    deliver(e);
}

/* Deliver what was held, until the owner pauses again. */
static void resume(struct gateway_call *call)
{
    while (call->held && (call->dead || !call->paused)) {
        struct event *e = (struct event *)(void *)call->held;
        call->held = e->msg.next;
        if (!call->held)
            call->held_tail = &call->held;
        bool last = !e->ev;
        deliver(e);
        if (last)
            return; /* the call may be gone */
    }
}

static void on_wake(uv_async_t *a)
{
    struct gateway *g = a->data;
    while (g->resuming.next != &g->resuming) {
        struct link *l = g->resuming.next;
        link_del(l);
        resume(CALL_OF(l, resume));
    }
    for (struct mbox_msg *m = mbox_take(&g->box), *next; m; m = next) {
        next = m->next;
        take((struct event *)(void *)m);
    }
}

static void wake(void *ctx)
{
    struct gateway *g = ctx;
    uv_async_send(&g->wake);
}

/* ---- interface --------------------------------------------------------------------------- */

int gateway_open(struct gateway **out, uv_loop_t *loop, struct rpc_loop *rpc, struct err *e)
{
    *out = NULL;
    struct gateway *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(e, Q_ENOMEM, "out of memory");
    g->loop = loop;
    g->rpc = rpc;
    link_init(&g->calls);
    link_init(&g->resuming);
    int rc = router_open(&g->router, rpc, e);
    if (rc) {
        free(g);
        return rc;
    }
    rc = uv_async_init(loop, &g->wake, on_wake);
    if (rc) {
        router_close(g->router);
        free(g);
        return err_set(e, Q_EIO, "cannot open the gateway: %s", uv_strerror(rc));
    }
    g->wake.data = g;
    mbox_init(&g->box, SIZE_MAX, wake, g);
    *out = g;
    return 0;
}

void gateway_close(struct gateway *g, void (*closed)(void *ctx), void *ctx)
{
    if (!g)
        return;
    g->closing = true;
    g->closed = closed;
    g->closed_ctx = ctx;
    for (struct link *l = g->calls.next; l != &g->calls; l = l->next) {
        struct gateway_call *call = CALL_OF(l, all);
        if (call->dead)
            continue;
        rpc_stream_cancel(call->stream);
        fail(call, Q_EUNAVAILABLE, "the server is shutting down");
        if (call->held) {
            link_del(&call->resume);
            link_add(&g->resuming, &call->resume);
            uv_async_send(&g->wake);
        }
    }
    maybe_closed(g);
}

static void replica_up(void *ctx, const char *uid, uint32_t replica, uint64_t epoch,
                       const char *head_address)
{
    struct gateway *g = ctx;
    struct err e;
    if (g->closing)
        return;
    if (router_up(g->router, uid, replica, epoch, head_address, &e))
        log_error("gateway", "replica %s-rep%u cannot be used: %s", uid, replica, e.msg);
}

static void replica_down(void *ctx, const char *uid, uint32_t replica, uint64_t epoch,
                         const char *why)
{
    struct gateway *g = ctx;
    (void)why;
    /* Streams on it go on: if its process is gone they break by themselves, at once or by the
     * channel's keepalive; if it is only being drained they finish. */
    router_down(g->router, uid, replica, epoch);
}

static void model_gone(void *ctx, const char *uid)
{
    struct gateway *g = ctx;
    router_gone(g->router, uid);
}

struct control_observer gateway_observer(struct gateway *g)
{
    return (struct control_observer){
        .replica_up = replica_up, .replica_down = replica_down, .model_gone = model_gone, .ctx = g};
}

void gateway_set_control(struct gateway *g, struct control *c)
{
    g->control = c;
}

static int refuse(struct gateway *g, int rc, const char *uid, int64_t limit, struct err *e)
{
    struct model_info info;
    bool known = g->control && control_model(g->control, uid, &info);
    if (rc == Q_ENOTFOUND && !known)
        return err_set(e, Q_ENOTFOUND, "Model not found in the model list, uid: %s", uid);
    if (rc == Q_EFULL)
        return err_set(e, Q_EFULL,
                       "Rate limit reached for the model. Request limit %lld for the model: %s",
                       (long long)limit, uid);
    if (known && info.state == MODEL_LAUNCHING)
        return err_set(e, Q_EUNAVAILABLE, "Model %s is still loading", uid);
    if (known && info.state == MODEL_ERROR)
        return err_set(e, Q_EUNAVAILABLE, "Model %s failed to load: %s", uid,
                       info.error ? info.error : "see the supervisor's log");
    return err_set(e, Q_EUNAVAILABLE, "Model %s has no replica that can answer now", uid);
}

int gateway_generate(struct gateway *g, const char *uid, const struct Quire__GenerateRequest *req,
                     const struct gateway_events *events, void *ctx, struct gateway_call **out,
                     struct err *e)
{
    *out = NULL;
    if (g->closing)
        return err_set(e, Q_EUNAVAILABLE, "the server is shutting down");
    struct model_info info;
    int64_t limit = -1;
    if (g->control && control_model(g->control, uid, &info))
        limit = info.request_limits;
    struct gateway_call *call = calloc(1, sizeof *call);
    if (!call)
        return err_set(e, Q_ENOMEM, "out of memory");
    if (strlen(uid) >= sizeof call->uid) {
        free(call);
        return err_set(e, Q_ENOTFOUND, "Model not found in the model list, uid: %.80s...", uid);
    }
    snprintf(call->uid, sizeof call->uid, "%s", uid);
    call->g = g;
    call->events = events;
    call->ctx = ctx;
    call->limit = limit;
    call->n_choices = req->n_choices ? req->n_choices : 1;
    call->held_tail = &call->held;
    call->closed.call = call;
    int rc = rpc_pack(&req->base, &call->request, &call->n_request);
    if (rc) {
        free(call);
        return err_set(e, rc, "out of memory");
    }
    rc = router_choose(g->router, uid, limit, NULL, &call->replica);
    if (rc) {
        free(call->request);
        free(call);
        return refuse(g, rc, uid, limit, e);
    }
    call->counted = true;
    link_add(&g->calls, &call->all);
    link_init(&call->resume);
    rc = start_try(call, e);
    if (rc) {
        retire(call);
        router_stream_closed(g->router, call->replica);
        call_free(call);
        return rc;
    }
    *out = call;
    return 0;
}

void gateway_cancel(struct gateway_call *call)
{
    if (!call || call->dead)
        return;
    retire(call);
    rpc_stream_cancel(call->stream);
    if (call->held) {
        /* What is held is freed from the loop, the last event among it perhaps. */
        link_del(&call->resume);
        link_add(&call->g->resuming, &call->resume);
        uv_async_send(&call->g->wake);
    }
}

void gateway_pause(struct gateway_call *call, bool paused)
{
    if (call->dead || call->paused == paused)
        return;
    call->paused = paused;
    if (!paused && call->held) {
        link_del(&call->resume);
        link_add(&call->g->resuming, &call->resume);
        uv_async_send(&call->g->wake);
    }
}

bool gateway_load(const struct gateway *g, const char *uid, struct gateway_model_load *out)
{
    struct router_load l;
    bool known = router_load(g->router, uid, &l);
    out->in_flight = l.in_flight;
    out->total = l.total;
    return known;
}
