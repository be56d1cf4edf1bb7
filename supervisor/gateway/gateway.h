/* SPDX-License-Identifier: Apache-2.0 */
/* gateway.h - requests on their way to a replica and tokens on their way back.
 *
 * One internal request and one internal event stream serve all dialects. Loop thread only;
 * RPC events are posted to the loop. A request is routed to the least-loaded ready replica of
 * its model; load is counted when the replica is chosen and released exactly once.
 *
 * A replica that is lost takes no answer with it: what has been told is kept (journal.h), another
 * replica, or the same one once it is back, goes on with the next token, and the caller sees one
 * unbroken row of events. An answer is moved twice at most. */
#ifndef QUIRE_GATEWAY_GATEWAY_H
#define QUIRE_GATEWAY_GATEWAY_H

#include "base/err.h"
#include "supervisor/control/control.h"

struct gateway;
struct gateway_call;
struct rpc_loop;

/* Generated from proto/engine.proto. */
struct Quire__GenerateRequest;
struct Quire__Started;
struct Quire__Delta;
struct Quire__Finished;

Q_MUST_CHECK int gateway_open(struct gateway **out, uv_loop_t *loop, struct rpc_loop *rpc,
                              struct err *e);
/* Cancels what runs (each call gets on_error), then closed. */
void gateway_close(struct gateway *g, void (*closed)(void *ctx), void *ctx);
/* Hand this to control_open. */
struct control_observer gateway_observer(struct gateway *g);
/* Where failures of replicas are reported; set once control exists. */
void gateway_set_control(struct gateway *g, struct control *c);

/* How long a call that lost its replica waits for one that can take it over; 30 s unless set. */
void gateway_set_patience(struct gateway *g, unsigned ms);

struct gateway_events {
    void (*on_started)(void *ctx, const struct Quire__Started *s);
    void (*on_delta)(void *ctx, const struct Quire__Delta *d);
    void (*on_finished)(void *ctx, const struct Quire__Finished *f); /* one per choice */
    void (*on_done)(void *ctx);                                      /* all choices finished */
    /* Instead of on_done: code Q_EINVAL (the request is at fault, text says why),
     * Q_EFULL (busy, try later), Q_EUNAVAILABLE (replica lost) ... Exactly one of on_done and
     * on_error comes last, unless the call was cancelled. */
    void (*on_error)(void *ctx, int code, const char *text);
};

/* Start. Errors at once: Q_ENOTFOUND (unknown model), Q_EUNAVAILABLE (still loading or no
 * replica), Q_EFULL (request_limits). The request message is packed before this returns, and
 * kept for the call's life.
 * `events` is borrowed for the call's life. */
Q_MUST_CHECK int gateway_generate(struct gateway *g, const char *uid,
                                  const struct Quire__GenerateRequest *req,
                                  const struct gateway_events *events, void *ctx,
                                  struct gateway_call **out, struct err *e);
/* The client left: stop the work. No event follows; the pointer is dead. */
void gateway_cancel(struct gateway_call *call);
/* Back-pressure: while paused no events are delivered; they are kept, up to 4 MiB per call. A
 * reader further behind loses its call: the work stops, and on_error says Q_EFULL after what is
 * kept. Events come after gateway_pause(call, false) has returned. */
void gateway_pause(struct gateway_call *call, bool paused);

struct gateway_model_load {
    unsigned in_flight;
    uint64_t total;
};
bool gateway_load(const struct gateway *g, const char *uid, struct gateway_model_load *out);

#endif
