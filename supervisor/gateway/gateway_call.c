/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/log.h"
#include "supervisor/gateway/gateway_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METHOD             "/quire.Engine/Generate"
#define BACKLOG_BYTES      ((size_t)4 << 20)
#define EVENT_OVERHEAD     256                /* what an event costs beside its message's bytes */
#define MAX_UNPACKED_BYTES ((size_t)16 << 20) /* Started repeats the prompt's tokens */
/* Losses so long ago, with tokens since then, are not this request's doing. */
#define FORGET_MS 60000

/* ---- on the rpc thread ------------------------------------------------------------------- */

static void post(struct gateway *g, struct event *e)
{
    atomic_fetch_add(&g->posting, 1);
    mbox_push_force(&g->box, &e->msg); /* bounded by the backlog of each call */
    atomic_fetch_sub(&g->posting, 1);
}

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct leg *leg = ctx;
    struct gateway_call *call = leg->call;
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
    e->leg = leg;
    e->ev = (Quire__GenerateEvent *)(void *)m;
    e->cost = cost;
    post(call->g, e);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    struct leg *leg = ctx;
    (void)s;
    leg->status = status;
    snprintf(leg->status_text, sizeof leg->status_text, "%s", msg ? msg : "");
    post(leg->call->g, &leg->closed);
}

static const struct rpc_handler handler = {.on_message = on_message, .on_close = on_close};

/* ---- ends -------------------------------------------------------------------------------- */

static void event_free(struct event *e)
{
    atomic_fetch_sub(&e->leg->call->backlog, e->cost);
    rpc_msg_free((struct ProtobufCMessage *)(void *)e->ev);
    free(e);
}

void call_poke(struct gateway_call *call)
{
    link_add(&call->g->resuming, &call->resume);
    uv_async_send(&call->g->wake);
}

/* The owner's part is over: no event follows, the load is given back. What is held is freed from
 * the loop, and so is the call. */
static void retire(struct gateway_call *call, bool cancel)
{
    call->dead = true;
    link_del(&call->wait);
    for (struct leg *leg = call->legs; leg; leg = leg->next) {
        if (leg->counted)
            router_release(leg->replica);
        leg->counted = false;
        if (cancel)
            rpc_stream_cancel(leg->stream);
    }
    if (call->held || !call->legs)
        call_poke(call);
}

void call_fail(struct gateway_call *call, int code, const char *text)
{
    retire(call, true);
    call->events->on_error(call->ctx, code, text);
}

void call_cancel(struct gateway_call *call)
{
    retire(call, true);
}

/* Free it if nothing can come any more. */
static void reap(struct gateway_call *call)
{
    struct gateway *g = call->g;
    if (!call->dead || call->legs)
        return;
    link_del(&call->all);
    link_del(&call->resume);
    link_del(&call->wait);
    journal_close(call->journal);
    free(call);
    gateway_call_freed(g);
}

static void leg_free(struct leg *leg)
{
    struct gateway_call *call = leg->call;
    struct leg **at = &call->legs;
    while (*at != leg)
        at = &(*at)->next;
    *at = leg->next;
    if (leg->counted)
        router_release(leg->replica);
    router_stream_closed(call->g->router, leg->replica);
    rpc_stream_unref(leg->stream);
    free(leg);
}

/* ---- legs -------------------------------------------------------------------------------- */

/* Open a stream on a replica that was chosen for it, and send the request. On failure the replica
 * is given back. */
static int leg_open(struct gateway_call *call, uint32_t choice, struct router_replica *rep,
                    const void *data, size_t n, struct err *e)
{
    struct leg *leg = calloc(1, sizeof *leg);
    if (!leg) {
        router_release(rep);
        router_stream_closed(call->g->router, rep);
        return err_set(e, Q_ENOMEM, "out of memory");
    }
    leg->call = call;
    leg->replica = rep;
    leg->choice = choice;
    leg->counted = true;
    leg->closed.leg = leg;
    leg->next = call->legs;
    call->legs = leg;
    const struct rpc_call_config cfg = {
        .method = METHOD,
        .handler = &handler,
        .ctx = leg,
        .max_queue_bytes = n + 4096,
    };
    int rc = rpc_stream_open(&leg->stream, rep->channel, &cfg, e);
    if (rc) {
        leg_free(leg);
        return rc;
    }
    /* A stream that breaks now still says so by on_close, like one that breaks later. */
    if (rpc_stream_send(leg->stream, data, n))
        rpc_stream_cancel(leg->stream);
    else
        rpc_stream_finish(leg->stream, RPC_OK, NULL);
    return 0;
}

int call_start(struct gateway_call *call, struct router_replica *rep, struct err *e)
{
    size_t n;
    const void *data = journal_request(call->journal, &n);
    return leg_open(call, LEG_ALL, rep, data, n, e);
}

static bool has_leg(const struct gateway_call *call, uint32_t choice)
{
    for (const struct leg *leg = call->legs; leg; leg = leg->next)
        if (leg->choice == choice || leg->choice == LEG_ALL)
            return true;
    return false;
}

static int choose_again(struct gateway_call *call, struct router_replica **rep)
{
    return router_choose_again(call->g->router, call->uid, call->lost, call->n_lost, rep);
}

/* A leg for everything that has none. Q_EUNAVAILABLE: not yet for all. */
static int place(struct gateway_call *call, struct err *e)
{
    struct router_replica *rep;
    if (!journal_begun(call->journal)) {
        int rc = choose_again(call, &rep);
        return rc ? rc : call_start(call, rep, e);
    }
    for (uint32_t i = 0; i < journal_n_choices(call->journal); i++) {
        void *data;
        size_t n;
        if (journal_finished(call->journal, i) || has_leg(call, i))
            continue;
        int rc = choose_again(call, &rep);
        if (rc)
            return rc;
        rc = journal_continue(call->journal, i, &data, &n, e);
        if (rc) {
            router_release(rep);
            router_stream_closed(call->g->router, rep);
            return rc;
        }
        rc = leg_open(call, i, rep, data, n, e);
        free(data);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- a replica is lost --------------------------------------------------------------------- */

static void note_lost(struct gateway_call *call, struct leg *leg)
{
    struct gateway *g = call->g;
    struct router_replica *rep = leg->replica;
    uint64_t now = clock_mono_ms(), n = journal_n_tokens(call->journal);
    rep->suspect = true;
    call->gone = call->gone || router_model_gone(rep);
    for (unsigned i = 0; i < call->n_lost; i++)
        if (call->lost[i] == rep->serial)
            return; /* another choice's leg on it */
    log_warn("gateway", "replica %s-rep%u was lost with a request on it: %s", call->uid, rep->index,
             leg->status_text);
    if (g->control && !rep->down && !rep->reported)
        control_report_failure(g->control, call->uid, rep->index, rep->epoch);
    rep->reported = true;
    if (call->n_lost && now - call->lost_ms > FORGET_MS && n > call->lost_tokens)
        call->n_lost = 0;
    if (call->n_lost < CALL_MAX_LOST)
        call->lost[call->n_lost++] = rep->serial;
    call->lost_index = rep->index;
    call->lost_ms = now;
    call->lost_tokens = n;
}

static void fail_lost(struct gateway_call *call, const char *how)
{
    char text[320];
    snprintf(text, sizeof text, "the replica that was answering (%s-rep%u) was lost%s", call->uid,
             call->lost_index, how);
    call_fail(call, Q_EUNAVAILABLE, text);
}

/* Can a replica still come back? */
static bool hopeful(const struct gateway_call *call)
{
    const struct gateway *g = call->g;
    struct model_info info;
    return !call->gone && !g->closing && call->n_lost < CALL_MAX_LOST && g->control &&
           clock_mono_ms() - call->lost_ms < g->patience_ms &&
           control_model(g->control, call->uid, &info) &&
           (info.state == MODEL_READY || info.state == MODEL_LAUNCHING);
}

static void move(struct gateway_call *call)
{
    struct err e = {0};
    int rc = call->gone || call->n_lost >= CALL_MAX_LOST ? Q_EUNAVAILABLE : place(call, &e);
    if (rc == 0)
        link_del(&call->wait);
    else if (rc == Q_ENOMEM)
        call_fail(call, rc, e.msg);
    else if (hopeful(call))
        gateway_wait(call->g, call);
    else
        fail_lost(call, "; please try again");
}

void call_retry(struct gateway_call *call)
{
    move(call);
    reap(call);
}

/* ---- events -------------------------------------------------------------------------------- */

static void leg_closed(struct leg *leg)
{
    struct gateway_call *call = leg->call;
    enum rpc_status status = leg->status;
    char text[sizeof leg->status_text];
    bool overrun = atomic_load(&call->overrun), garbled = atomic_load(&call->garbled);
    bool lost = (status == RPC_UNAVAILABLE || status == RPC_CANCELLED) && !overrun && !garbled;
    bool told = leg->choice != LEG_ALL && journal_finished(call->journal, leg->choice);
    snprintf(text, sizeof text, "%s", leg->status_text);
    if (!call->dead && lost && !told)
        note_lost(call, leg);
    leg_free(leg);
    if (call->dead || told)
        return;
    if (overrun)
        call_fail(call, Q_EFULL, "the answer was read too slowly");
    else if (garbled)
        call_fail(call, Q_EINTERNAL, "the engine sent an unreadable message");
    else if (lost)
        move(call);
    else if (status == RPC_EXHAUSTED && call->n_lost && hopeful(call))
        gateway_wait(call->g, call); /* it has been accepted once */
    else if (status == RPC_OK)
        call_fail(call, Q_EINTERNAL, "the engine ended the answer early");
    else
        call_fail(call, rpc_err_of(status), text);
}

static void show(struct gateway_call *call, const Quire__GenerateEvent *ev)
{
    switch (ev->kind_case) {
    case QUIRE__GENERATE_EVENT__KIND_STARTED:
        call->events->on_started(call->ctx, ev->started);
        break;
    case QUIRE__GENERATE_EVENT__KIND_DELTA:
        call->events->on_delta(call->ctx, ev->delta);
        break;
    case QUIRE__GENERATE_EVENT__KIND_FINISHED:
        call->events->on_finished(call->ctx, ev->finished);
        call->n_finished++;
        if (!call->dead && call->n_finished == journal_n_choices(call->journal)) {
            retire(call, false);
            call->events->on_done(call->ctx);
        }
        break;
    default:
        break;
    }
}

/* Frees e. */
static void deliver(struct event *e)
{
    struct gateway_call *call = e->leg->call;
    if (!e->ev) {
        leg_closed(e->leg);
        return;
    }
    if (!call->dead) {
        e->leg->replica->suspect = false;
        switch (journal_note(call->journal, e->ev)) {
        case JOURNAL_SHOW:
            show(call, e->ev);
            break;
        case JOURNAL_HIDE:
            break;
        case JOURNAL_DIFFERS:
            log_error("gateway", "replica %s-rep%u answers a request otherwise than the one before",
                      call->uid, e->leg->replica->index);
            fail_lost(call, ", and another one answers differently; please try again");
            break;
        }
    }
    event_free(e);
}

void call_take(struct event *e)
{
    struct gateway_call *call = e->leg->call;
    /* Behind what is held, dead or not: a leg's end comes last. */
    if (call->held || (call->paused && !call->dead)) {
        e->msg.next = NULL;
        *call->held_tail = &e->msg;
        call->held_tail = &e->msg.next;
        return;
    }
    deliver(e);
    reap(call);
}

void call_resume(struct gateway_call *call)
{
    while (call->held && (call->dead || !call->paused)) {
        struct event *e = (struct event *)(void *)call->held;
        call->held = e->msg.next;
        if (!call->held)
            call->held_tail = &call->held;
        deliver(e);
    }
    reap(call);
}
