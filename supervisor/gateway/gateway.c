/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/gateway/gateway.h"

#include "base/log.h"
#include "supervisor/gateway/gateway_int.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long a call waits for a replica to take it over, and how often it looks. */
#define PATIENCE_MS 30000
#define TICK_MS     100

/* ---- on the loop ------------------------------------------------------------------------- */

static void on_wake(uv_async_t *a)
{
    struct gateway *g = a->data;
    while (!link_alone(&g->resuming)) {
        struct link *l = g->resuming.next;
        link_del(l);
        call_resume(CALL_OF(l, resume));
    }
    for (struct mbox_msg *m = mbox_take(&g->box), *next; m; m = next) {
        next = m->next;
        call_take((struct event *)(void *)m);
    }
}

static void wake(void *ctx)
{
    struct gateway *g = ctx;
    uv_async_send(&g->wake);
}

static void on_timer(uv_timer_t *t)
{
    struct gateway *g = t->data;
    struct link now;
    link_init(&now);
    /* One by one from a list of its own: whoever goes on waiting comes back to g->waiting, and
     * one call's end may take others out. */
    while (!link_alone(&g->waiting))
        link_add(&now, g->waiting.next);
    while (!link_alone(&now)) {
        struct gateway_call *call = CALL_OF(now.next, wait);
        link_del(&call->wait);
        call_retry(call);
    }
    if (link_alone(&g->waiting))
        uv_timer_stop(t);
}

void gateway_wait(struct gateway *g, struct gateway_call *call)
{
    link_add(&g->waiting, &call->wait);
    if (!uv_is_active((uv_handle_t *)&g->timer))
        uv_timer_start(&g->timer, on_timer, TICK_MS, TICK_MS);
}

/* Something has changed for those that wait. The caller may be in the middle of something. */
static void look_soon(struct gateway *g)
{
    if (!link_alone(&g->waiting))
        uv_timer_start(&g->timer, on_timer, 0, TICK_MS);
}

/* ---- life -------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h)
{
    struct gateway *g = h->data;
    if (--g->n_handles > 0)
        return;
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
    if (!g->closing || !link_alone(&g->calls) || uv_is_closing((uv_handle_t *)&g->wake))
        return;
    while (atomic_load(&g->posting) > 0)
        sched_yield(); /* a few instructions of another thread */
    uv_close((uv_handle_t *)&g->timer, on_handle_closed);
    uv_close((uv_handle_t *)&g->wake, on_handle_closed);
}

void gateway_call_freed(struct gateway *g)
{
    maybe_closed(g);
}

int gateway_open(struct gateway **out, uv_loop_t *loop, struct rpc_loop *rpc, struct err *e)
{
    *out = NULL;
    struct gateway *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(e, Q_ENOMEM, "out of memory");
    g->patience_ms = PATIENCE_MS;
    link_init(&g->calls);
    link_init(&g->resuming);
    link_init(&g->waiting);
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
    uv_timer_init(loop, &g->timer);
    g->n_handles = 2;
    g->wake.data = g->timer.data = g;
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
        if (!call->dead)
            call_fail(call, Q_EUNAVAILABLE, "the server is shutting down");
    }
    maybe_closed(g);
}

void gateway_set_patience(struct gateway *g, unsigned ms)
{
    g->patience_ms = ms;
}

/* ---- control's news ---------------------------------------------------------------------- */

static void replica_up(void *ctx, const char *uid, uint32_t replica, uint64_t epoch,
                       const char *head_address)
{
    struct gateway *g = ctx;
    struct err e;
    if (g->closing)
        return;
    if (router_up(g->router, uid, replica, epoch, head_address, &e))
        log_error("gateway", "replica %s-rep%u cannot be used: %s", uid, replica, e.msg);
    look_soon(g);
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
    /* Another model may get this name before they look again. */
    for (struct link *l = g->waiting.next; l != &g->waiting; l = l->next)
        if (strcmp(CALL_OF(l, wait)->uid, uid) == 0)
            CALL_OF(l, wait)->gone = true;
    look_soon(g);
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

/* ---- requests ---------------------------------------------------------------------------- */

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
    call->held_tail = &call->held;
    link_init(&call->all);
    link_init(&call->resume);
    link_init(&call->wait);
    struct router_replica *rep;
    int rc = router_choose(g->router, uid, limit, &rep);
    if (rc) {
        free(call);
        return refuse(g, rc, uid, limit, e);
    }
    rc = journal_open(&call->journal, req, e);
    if (rc) {
        router_release(rep);
        router_stream_closed(g->router, rep);
    } else {
        rc = call_start(call, rep, e);
    }
    if (rc) {
        journal_close(call->journal);
        free(call);
        return rc;
    }
    link_add(&g->calls, &call->all);
    *out = call;
    return 0;
}

void gateway_cancel(struct gateway_call *call)
{
    if (call && !call->dead)
        call_cancel(call);
}

void gateway_pause(struct gateway_call *call, bool paused)
{
    if (call->dead || call->paused == paused)
        return;
    call->paused = paused;
    if (!paused && call->held)
        call_poke(call);
}

bool gateway_load(const struct gateway *g, const char *uid, struct gateway_model_load *out)
{
    struct router_load l;
    bool known = router_load(g->router, uid, &l);
    out->in_flight = l.in_flight;
    out->total = l.total;
    return known;
}
