/* SPDX-License-Identifier: Apache-2.0 */
/* gateway_int.h - what gateway.c (the interface) and gateway_call.c (a call's way) share.
 *
 * A call and its thread crossings:
 *
 *     loop thread                               rpc thread
 *     call_place: choose, open a leg's stream
 *                                               on_message: unpack, count, post
 *     call_take: deliver, or hold while paused
 *     gateway_cancel: dead, cancel streams
 *                                               on_close: post the leg's last event
 *     call_take: leg closed --all told--> free
 *                    |  replica lost
 *                    v
 *                call_place again; no replica: wait, at most g->patience_ms
 *
 * A leg is one stream: of the whole request first; after a loss, of one choice each. Its memory
 * goes with its last event. A call's memory goes when it is dead and has no legs: `dead` says
 * that its owner has heard the end or has cancelled, and mutes the rest. It is freed from the
 * loop only (call_reap), never under an owner's feet. Posted events are bounded by bytes per call
 * (`backlog`). */
#ifndef QUIRE_GATEWAY_INT_H
#define QUIRE_GATEWAY_INT_H

#include "base/mbox.h"
#include "proto/rpc.h"
#include "supervisor/gateway/gateway.h"
#include "supervisor/gateway/journal.h"
#include "supervisor/gateway/router.h"

#include <stdatomic.h>

/* A request moves twice at most: one that kills what answers it must not take down the fleet. */
#define CALL_MAX_LOST 3

struct link {
    struct link *next, *prev;
};

struct leg;

struct event {
    struct mbox_msg msg;
    struct leg *leg;
    Quire__GenerateEvent *ev; /* NULL: the stream has closed */
    size_t cost;
};

struct leg {
    struct leg *next;
    struct gateway_call *call;
    struct router_replica *replica;
    struct rpc_stream *stream;
    uint32_t choice; /* or LEG_ALL */
    bool counted;    /* in the replica's load */
    struct event closed;
    enum rpc_status status;
    char status_text[600];
};
#define LEG_ALL UINT32_MAX

struct gateway_call {
    struct link all, resume, wait; /* the latter two: in g->resuming, g->waiting, or alone */
    struct gateway *g;
    const struct gateway_events *events;
    void *ctx;
    struct journal *journal;
    struct leg *legs;
    char uid[192];
    uint32_t n_finished;
    bool dead, paused;
    struct mbox_msg *held, **held_tail; /* events that came while paused */
    /* Replicas lost under it, by serial; when and how far it was then. */
    uint64_t lost[CALL_MAX_LOST];
    unsigned n_lost;
    uint32_t lost_index;
    uint64_t lost_ms, lost_tokens;
    bool gone; /* its model was terminated */
    /* Shared with the rpc thread. */
    atomic_size_t backlog;
    atomic_bool overrun, garbled;
};

struct gateway {
    struct control *control;
    struct router *router;
    struct mbox box;
    uv_async_t wake;
    uv_timer_t timer; /* runs while calls wait for a replica */
    unsigned patience_ms, n_handles;
    struct link calls, resuming, waiting;
    /* rpc-thread callbacks that are inside mbox_push: it wakes the loop after the message can
     * be taken, so the gateway must outlive that last step too. */
    atomic_uint posting;
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

#define CALL_OF(l, member)                                                                         \
    ((struct gateway_call *)(void *)((char *)(l)-offsetof(struct gateway_call, member)))

static inline void link_init(struct link *l)
{
    l->next = l->prev = l;
}

static inline bool link_alone(const struct link *l)
{
    return l->next == l;
}

static inline void link_del(struct link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    link_init(l);
}

/* Moves it, if it was in a list. */
static inline void link_add(struct link *head, struct link *l)
{
    link_del(l);
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

/* ---- gateway_call.c ----------------------------------------------------------------------  */

/* The first leg, on a replica that was chosen (and counted) for it. On failure there is none. */
Q_MUST_CHECK int call_start(struct gateway_call *call, struct router_replica *rep, struct err *e);
void call_take(struct event *e);             /* an event came; may free its call */
void call_resume(struct gateway_call *call); /* deliver what is held; may free the call */
void call_retry(struct gateway_call *call);  /* it waits for a replica; may free it */
void call_fail(struct gateway_call *call, int code, const char *text); /* on_error */
void call_cancel(struct gateway_call *call);
/* Have the loop look at it (call_resume) soon. */
void call_poke(struct gateway_call *call);

/* ---- gateway.c ----------------------------------------------------------------------------- */

void gateway_call_freed(struct gateway *g);
void gateway_wait(struct gateway *g, struct gateway_call *call); /* call_retry until it leaves */

#endif
