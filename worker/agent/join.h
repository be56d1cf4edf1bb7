/* SPDX-License-Identifier: Apache-2.0 */
/* join.h - the worker's membership: find the supervisor, say hello, renew the lease, take
 * orders; start over whenever the connection ends.
 *
 *   look up <endpoint>/v1/address -> open Join -> hello -> welcome -> joined
 *        ^                                                               |
 *        +------------- wait 0.1 to 2 s <----- the call is over <--------+
 *
 * Called on the loop thread; callbacks run there too. */
#ifndef QUIRE_AGENT_JOIN_H
#define QUIRE_AGENT_JOIN_H

#include "base/err.h"
#include "proto/cluster.pb-c.h"
#include "worker/agent/lookup.h"

#include <stdbool.h>
#include <uv.h>

struct join;

struct join_config {
    uv_loop_t *loop;
    struct lookup_url endpoint;
    bool insecure; /* a supervisor beyond loopback may be spoken to without encryption */
    /* Fill in the hello, send it with join_send; the message is only borrowed. */
    int (*hello)(void *ctx, struct join *j);
    void (*joined)(void *ctx);   /* welcome came: tell what there is to tell */
    void (*writable)(void *ctx); /* join_send takes messages again */
    void (*command)(void *ctx, const Quire__SupervisorDown *cmd);
    void (*left)(void *ctx); /* after join_leave: gone */
    void *ctx;
};

Q_MUST_CHECK int join_open(struct join **out, const struct join_config *cfg, struct err *e);
bool join_is_joined(const struct join *j);
/* 0, or an error: keep the news and say it again when joined or writable runs. */
int join_send(struct join *j, const Quire__WorkerUp *up);
/* Say goodbye and stay away; `left` runs once, within a second. */
void join_leave(struct join *j);
/* After left. Frees when libuv has closed the handles and a look-up under way has ended. */
void join_close(struct join *j);

#endif
