/* SPDX-License-Identifier: Apache-2.0 */
/* join.h - the door for workers: /quire.Cluster/Join on the RPC loop, events on the libuv loop.
 *
 * Each worker's stream is a `struct join_link`. Its messages are unpacked and checked for size
 * on the RPC thread, pushed to a bounded box and delivered on the loop thread; a worker that
 * floods the box loses its stream. closed comes once and last; then the link is gone. */
#ifndef QUIRE_CONTROL_JOIN_H
#define QUIRE_CONTROL_JOIN_H

#include "base/err.h"

#include <uv.h>

struct join;
struct join_link;
struct rpc_loop;
struct Quire__WorkerUp;
struct Quire__SupervisorDown;

struct join_events {
    void (*message)(void *ctx, struct join_link *l, const struct Quire__WorkerUp *up);
    void (*closed)(void *ctx, struct join_link *l);
    void (*batch_end)(void *ctx); /* after a run of messages: decide now */
    void *ctx;
};

Q_MUST_CHECK int join_open(struct join **out, uv_loop_t *loop, struct rpc_loop *rpc,
                           const char *host, int port, const struct join_events *ev, struct err *e);
int join_port(const struct join *j);
/* Ends all streams (blocks for a moment); no event follows. closed runs on the loop. */
void join_close(struct join *j, void (*closed)(void *ctx), void *ctx);

/* What control keeps with a link; NULL at first. */
void *join_link_data(const struct join_link *l);
void join_link_set_data(struct join_link *l, void *data);
const char *join_link_peer(const struct join_link *l);
/* A stream that does not take a command is broken: it is cancelled, closed follows. */
void join_send(struct join_link *l, const struct Quire__SupervisorDown *down);
void join_drop(struct join_link *l, const char *why);

#endif
