/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/join.h"

#include "base/log.h"
#include "base/mbox.h"
#include "base/num.h"
#include "proto/rpc.h"
#include "worker/agent/facts.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MESSAGE    (1u << 20)
#define MAX_UNPACKED   (4u << 20)
#define MAX_EVENTS     1024
#define RENEW_MS       1000
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 2000
#define REFUSED_MS     5000
#define WELCOME_MS     10000
#define GOODBYE_MS     500
#define COMPLAIN_EVERY 10 /* failed attempts between two log lines with the same text */

enum event_kind { EVENT_COMMAND, EVENT_WRITABLE, EVENT_CLOSED };

struct event {
    struct mbox_msg link; /* first: the mailbox hands these out */
    enum event_kind kind;
    Quire__SupervisorDown *cmd;
    enum rpc_status status;
    char text[256];
};

/* One attempt: belongs to the RPC thread's callbacks until its EVENT_CLOSED is handled. */
struct attempt {
    struct join *j;
    struct rpc_stream *stream;
    struct event closed;
};

struct join {
    struct join_config cfg;
    struct rpc_loop *rpc;
    struct rpc_channel *channel;
    char address[256]; /* of channel */
    struct mbox box;
    uv_async_t async;
    uv_timer_t retry, renew;
    uv_work_t lookup;
    struct {
        struct lookup_url url;
        char address[256];
        int rc;
        struct err err;
    } found; /* written by the look-up */
    bool looking, joined, refused, leaving, left, closing;
    struct attempt *attempt;
    unsigned backoff_ms, n_failures, n_handles;
    char last_complaint[300];
    uint64_t sequence, waiting_ms; /* since hello */
    struct facts_usage usage;
};

static void connect_later(struct join *j);

/* ---- on the RPC thread -------------------------------------------------------------------- */

static void on_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct attempt *a = ctx;
    struct event *ev = calloc(1, sizeof *ev);
    if (ev)
        ev->cmd = (Quire__SupervisorDown *)rpc_unpack(&quire__supervisor_down__descriptor, data, n,
                                                      MAX_UNPACKED);
    /* A supervisor that we cannot follow is left; joining again starts with clean books. */
    if (!ev || !ev->cmd || mbox_push(&a->j->box, &ev->link) != 0) {
        if (ev && ev->cmd)
            rpc_msg_free(&ev->cmd->base);
        free(ev);
        log_warn("join", "a message of the supervisor cannot be taken; the call is cancelled");
        rpc_stream_cancel(s);
    }
}

static void on_writable(struct rpc_stream *s, void *ctx)
{
    struct attempt *a = ctx;
    struct event *ev = calloc(1, sizeof *ev);
    (void)s;
    if (!ev)
        return; /* the next renewal tries again */
    ev->kind = EVENT_WRITABLE;
    if (mbox_push(&a->j->box, &ev->link) != 0)
        free(ev);
}

static void on_end(struct rpc_stream *s, void *ctx)
{
    (void)ctx;
    rpc_stream_finish(s, RPC_OK, NULL);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    struct attempt *a = ctx;
    (void)s;
    a->closed.kind = EVENT_CLOSED;
    a->closed.status = status;
    snprintf(a->closed.text, sizeof a->closed.text, "%s", msg);
    mbox_push_force(&a->j->box, &a->closed.link);
}

static const struct rpc_handler handler = {
    .on_message = on_message, .on_end = on_end, .on_writable = on_writable, .on_close = on_close};

static void wake(void *ctx)
{
    struct join *j = ctx;
    uv_async_send(&j->async);
}

/* ---- attempts ----------------------------------------------------------------------------- */

static void complain(struct join *j, const char *text)
{
    if (strncmp(text, j->last_complaint, sizeof j->last_complaint - 1) != 0 ||
        j->n_failures % COMPLAIN_EVERY == 0)
        log_warn("join", "no supervisor: %s; trying again", text);
    snprintf(j->last_complaint, sizeof j->last_complaint, "%.299s", text);
    j->n_failures++;
}

static int open_channel(struct join *j, const char *address, struct err *e)
{
    char host[256];
    if (j->channel && strcmp(address, j->address) == 0)
        return 0;
    snprintf(host, sizeof host, "%s", address);
    char *colon = strrchr(host, ':');
    if (colon)
        *colon = '\0';
    if (!j->cfg.insecure && !lookup_is_loopback(host))
        return err_set(e, Q_EPERM,
                       "the supervisor is at %s: links between machines are not encrypted; "
                       "--insecure allows that on a trusted network",
                       address);
    rpc_channel_close(j->channel);
    j->channel = NULL;
    int rc = rpc_channel_open(&j->channel, j->rpc, address, MAX_MESSAGE, e);
    if (rc == 0)
        snprintf(j->address, sizeof j->address, "%s", address);
    return rc;
}

static void open_call(struct join *j)
{
    struct err e;
    struct attempt *a = calloc(1, sizeof *a);
    if (!a || open_channel(j, j->found.address, &e) != 0) {
        complain(j, a ? e.msg : "out of memory");
        free(a);
        connect_later(j);
        return;
    }
    a->j = j;
    const struct rpc_call_config cfg = {
        .method = "/quire.Cluster/Join", .handler = &handler, .ctx = a};
    if (rpc_stream_open(&a->stream, j->channel, &cfg, &e) != 0) {
        complain(j, e.msg);
        free(a);
        connect_later(j);
        return;
    }
    j->attempt = a;
    j->waiting_ms = 0;
    j->refused = false;
    if (j->cfg.hello(j->cfg.ctx, j) != 0)
        rpc_stream_cancel(a->stream);
}

static void look_up(uv_work_t *w)
{
    struct join *j = w->data;
    j->found.rc = lookup_address(&j->found.url, j->found.address, &j->found.err);
}

static void free_if_closed(struct join *j)
{
    if (!j->closing || j->n_handles > 0 || j->looking)
        return;
    mbox_fini(&j->box);
    free(j);
}

static void looked_up(uv_work_t *w, int status)
{
    struct join *j = w->data;
    j->looking = false;
    if (j->leaving) {
        free_if_closed(j);
        return;
    }
    if (status == 0 && j->found.rc == 0) {
        open_call(j);
        return;
    }
    complain(j, j->found.err.msg);
    connect_later(j);
}

static void connect_now(uv_timer_t *t)
{
    struct join *j = t->data;
    if (j->leaving || j->looking || j->attempt)
        return;
    j->lookup.data = j;
    j->looking = uv_queue_work(j->cfg.loop, &j->lookup, look_up, looked_up) == 0;
    if (!j->looking)
        connect_later(j);
}

static void connect_later(struct join *j)
{
    if (j->leaving)
        return;
    unsigned ms = j->refused ? REFUSED_MS : j->backoff_ms;
    j->backoff_ms = NUM_MIN(j->backoff_ms * 2, BACKOFF_MAX_MS);
    uv_timer_start(&j->retry, connect_now, ms, 0);
}

/* ---- the lease ---------------------------------------------------------------------------- */

static void renew(uv_timer_t *t)
{
    struct join *j = t->data;
    facts_usage(&j->usage);
    if (!j->attempt || j->leaving)
        return;
    if (!j->joined) {
        j->waiting_ms += RENEW_MS;
        if (j->waiting_ms >= WELCOME_MS)
            rpc_stream_cancel(j->attempt->stream);
        return;
    }
    Quire__WorkerUp up = QUIRE__WORKER_UP__INIT;
    Quire__Renew r = QUIRE__RENEW__INIT;
    Quire__Usage u = QUIRE__USAGE__INIT;
    u.cpu = j->usage.cpu;
    u.mem_total = j->usage.mem_total;
    u.mem_available = j->usage.mem_available;
    r.sequence = ++j->sequence;
    r.usage = &u;
    up.kind_case = QUIRE__WORKER_UP__KIND_RENEW;
    up.renew = &r;
    if (join_send(j, &up) == Q_EFULL)
        log_warn("join", "the supervisor reads too slowly; a renewal was left out");
}

/* ---- events from the RPC thread, on the loop thread --------------------------------------- */

static void welcome(struct join *j, const Quire__Welcome *w)
{
    if (w->refused[0]) {
        j->refused = true;
        complain(j, w->refused);
        rpc_stream_cancel(j->attempt->stream);
        return;
    }
    j->joined = true;
    j->backoff_ms = BACKOFF_MIN_MS;
    j->n_failures = 0;
    j->last_complaint[0] = '\0';
    j->cfg.joined(j->cfg.ctx);
}

static void leave_done(struct join *j)
{
    if (j->left || j->attempt)
        return;
    j->left = true;
    uv_timer_stop(&j->retry);
    uv_timer_stop(&j->renew);
    rpc_channel_close(j->channel);
    j->channel = NULL;
    rpc_loop_close(j->rpc);
    j->rpc = NULL;
    j->cfg.left(j->cfg.ctx);
}

static void call_closed(struct join *j, const struct event *ev)
{
    struct attempt *a = j->attempt;
    bool was = j->joined;
    j->joined = false;
    j->attempt = NULL;
    if (was && !j->leaving)
        log_warn("join", "the connection to the supervisor ended (%s); models keep running",
                 ev->text[0] ? ev->text : "closed");
    else if (!j->refused && !j->leaving)
        complain(j, ev->text[0] ? ev->text : "the call ended");
    rpc_stream_unref(a->stream);
    free(a); /* and ev with it */
    if (j->leaving)
        leave_done(j);
    else
        connect_later(j);
}

static void take_events(uv_async_t *h)
{
    struct join *j = h->data;
    for (struct mbox_msg *m = mbox_take(&j->box); m;) {
        struct event *ev = (struct event *)m;
        m = m->next;
        if (ev->kind == EVENT_CLOSED) {
            call_closed(j, ev);
            continue;
        }
        if (ev->kind == EVENT_WRITABLE && j->joined)
            j->cfg.writable(j->cfg.ctx);
        if (ev->kind == EVENT_COMMAND &&
            ev->cmd->kind_case == QUIRE__SUPERVISOR_DOWN__KIND_WELCOME && ev->cmd->welcome) {
            if (!j->joined && j->attempt && !j->leaving)
                welcome(j, ev->cmd->welcome);
        } else if (ev->kind == EVENT_COMMAND && j->joined && !j->leaving) {
            j->cfg.command(j->cfg.ctx, ev->cmd);
        }
        if (ev->cmd)
            rpc_msg_free(&ev->cmd->base);
        free(ev);
    }
}

/* ---- the public side ---------------------------------------------------------------------- */

int join_open(struct join **out, const struct join_config *cfg, struct err *e)
{
    *out = NULL;
    struct join *j = calloc(1, sizeof *j);
    if (!j)
        return err_set(e, Q_ENOMEM, "out of memory");
    j->cfg = *cfg;
    j->found.url = cfg->endpoint;
    j->backoff_ms = BACKOFF_MIN_MS;
    int rc = rpc_loop_open(&j->rpc, "control", e);
    if (rc != 0) {
        free(j);
        return rc;
    }
    mbox_init(&j->box, MAX_EVENTS, wake, j);
    uv_async_init(cfg->loop, &j->async, take_events);
    uv_timer_init(cfg->loop, &j->retry);
    uv_timer_init(cfg->loop, &j->renew);
    j->async.data = j->retry.data = j->renew.data = j;
    j->n_handles = 3;
    facts_usage(&j->usage);
    uv_timer_start(&j->renew, renew, RENEW_MS, RENEW_MS);
    uv_timer_start(&j->retry, connect_now, 0, 0);
    *out = j;
    return 0;
}

bool join_is_joined(const struct join *j)
{
    return j->joined;
}

int join_send(struct join *j, const Quire__WorkerUp *up)
{
    return j->attempt ? rpc_stream_send_msg(j->attempt->stream, &up->base) : Q_EUNAVAILABLE;
}

static void goodbye_late(uv_timer_t *t)
{
    struct join *j = t->data;
    if (j->attempt)
        rpc_stream_cancel(j->attempt->stream);
}

void join_leave(struct join *j)
{
    if (j->leaving)
        return;
    j->leaving = true;
    uv_timer_stop(&j->retry);
    if (!j->attempt) {
        leave_done(j);
        return;
    }
    /* The end of our side is the goodbye; the supervisor answers by ending the call. */
    rpc_stream_finish(j->attempt->stream, RPC_OK, NULL);
    uv_timer_start(&j->retry, goodbye_late, GOODBYE_MS, 0);
}

static void handle_closed(uv_handle_t *h)
{
    struct join *j = h->data;
    j->n_handles--;
    free_if_closed(j);
}

void join_close(struct join *j)
{
    assert(j->left);
    j->closing = true;
    uv_close((uv_handle_t *)&j->async, handle_closed);
    uv_close((uv_handle_t *)&j->retry, handle_closed);
    uv_close((uv_handle_t *)&j->renew, handle_closed);
}
