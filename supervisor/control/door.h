/* SPDX-License-Identifier: Apache-2.0 */
/* door.h - the door for workers: /quire.Cluster/Join on the RPC loop, events on the libuv loop.
 *
 * Each worker's stream is a `struct door_link`. Its messages are unpacked and checked for size
 * on the RPC thread, pushed to a bounded box and delivered on the loop thread; a worker that
 * floods the box loses its stream. closed comes once and last; then the link is gone. */
#ifndef QUIRE_CONTROL_DOOR_H
#define QUIRE_CONTROL_DOOR_H

#include "base/err.h"

#include <stdbool.h>

#include <uv.h>

struct door;
struct door_link;
struct rpc_loop;
struct Quire__WorkerUp;
struct Quire__SupervisorDown;

struct door_events {
    void (*message)(void *ctx, struct door_link *l, const struct Quire__WorkerUp *up);
    void (*closed)(void *ctx, struct door_link *l);
    void (*batch_end)(void *ctx); /* after a run of messages: decide now */
    void *ctx;
};

Q_MUST_CHECK int door_open(struct door **out, uv_loop_t *loop, struct rpc_loop *rpc,
                           const char *host, int port, const struct door_events *ev, struct err *e);
int door_port(const struct door *d);
/* Ends all streams (blocks for a moment); no event follows. closed runs on the loop. */
void door_close(struct door *d, void (*closed)(void *ctx), void *ctx);

/* What control keeps with a link; NULL at first. */
void *door_link_data(const struct door_link *l);
void door_link_set_data(struct door_link *l, void *data);
const char *door_link_peer(const struct door_link *l);
/* From `closed`: the worker said goodbye, nothing broke. */
bool door_link_left(const struct door_link *l);
/* A stream that does not take a command is broken: it is cancelled, closed follows. */
void door_send(struct door_link *l, const struct Quire__SupervisorDown *down);
void door_drop(struct door_link *l, const char *why);

#endif
