/* SPDX-License-Identifier: Apache-2.0 */
/* router.h - which replicas can answer, how busy each is, and which one is next.
 *
 * The picture comes from control (router_up, router_down, router_gone) and is a snapshot: no
 * choice waits for anybody. Load is counted by router_choose and given back exactly once by
 * router_release. A replica that went down takes no new requests; its channel and memory stay
 * until the last stream on it has closed. Loop thread only. */
#ifndef QUIRE_GATEWAY_ROUTER_H
#define QUIRE_GATEWAY_ROUTER_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct router;
struct rpc_loop;
struct rpc_channel;

struct router_replica {
    struct router_replica *next;
    struct router_model *model;
    uint32_t index;
    uint64_t epoch;
    uint64_t serial; /* of this coming up: no two are alike */
    char *address;
    struct rpc_channel *channel;
    unsigned in_flight; /* requests being answered */
    unsigned n_streams; /* calls whose RPC stream has not closed yet */
    bool suspect;       /* the last call on it broke: chosen only when nothing else is there */
    bool reported;      /* to control */
    bool down;
};

Q_MUST_CHECK int router_open(struct router **out, struct rpc_loop *rpc, struct err *e);
void router_close(struct router *r); /* no stream may be open */

/* The same replica with another epoch replaces the old one. */
Q_MUST_CHECK int router_up(struct router *r, const char *uid, uint32_t index, uint64_t epoch,
                           const char *address, struct err *e);
void router_down(struct router *r, const char *uid, uint32_t index, uint64_t epoch);
void router_gone(struct router *r, const char *uid);

/* The least loaded replica of the model, in turns among equals. limit < 0: none; else requests
 * per replica. Counts the request and its stream on success.
 * Q_ENOTFOUND: no such model here; Q_EUNAVAILABLE: no replica is up; Q_EFULL: all at limit. */
Q_MUST_CHECK int router_choose(struct router *r, const char *uid, int64_t limit,
                               struct router_replica **out);
/* Another one for a request that was counted before and has lost these serials. No limit. */
Q_MUST_CHECK int router_choose_again(struct router *r, const char *uid, const uint64_t *lost,
                                     size_t n_lost, struct router_replica **out);
void router_release(struct router_replica *rep);                         /* the request is over */
void router_stream_closed(struct router *r, struct router_replica *rep); /* may free rep */

struct router_load {
    unsigned in_flight;
    uint64_t total;
};
bool router_load(const struct router *r, const char *uid, struct router_load *out);
bool router_model_gone(const struct router_replica *rep);

#endif
