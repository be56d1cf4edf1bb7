/* SPDX-License-Identifier: Apache-2.0 */
/* stage_service.h - a shard that is not the head: "/quire.Stage/Session" and "/quire.Stage/Hidden".
 *
 *     Session (head) ---- plans ---->  +---------+
 *                                      | mailbox | --> compute thread --rows--> next shard's Hidden
 *     Hidden (shard before) -- rows -> +---------+          |     or, from the last, the Session
 *
 * One session at a time; a newer one (same or higher epoch) replaces it, an older epoch is
 * refused. Rows of another session are dropped. The compute thread owns the stage and all session
 * state; RPC callbacks only parse and post. Messages are hostile until checked: a plan that does
 * not fit the stage's limits ends the session. */
#ifndef QUIRE_ENGINE_STAGE_SERVICE_H
#define QUIRE_ENGINE_STAGE_SERVICE_H

#include "proto/rpc.h"
#include "worker/model/backend.h"

struct stage_service;

struct stage_service_config {
    struct stage *stage; /* borrowed: layers only, hidden states in and out */
    uint32_t index, n_shards;
    uint32_t layer_from, layer_to, n_pages, width;
    uint32_t max_rows, max_seqs;
    const char *model_hash;
    uint64_t epoch; /* sessions of older ones are refused */
    struct rpc_loop *loop;
};

#define STAGE_SERVICE_METHODS 2

Q_MUST_CHECK int stage_service_open(struct stage_service **out,
                                    const struct stage_service_config *cfg, struct err *e);
/* The methods to serve; fills STAGE_SERVICE_METHODS entries. */
void stage_service_methods(struct stage_service *s, struct rpc_method *methods);
/* Ends the session and the thread. Before the server closes, so that its streams end. */
void stage_service_stop(struct stage_service *s);
/* After the server was closed. NULL is fine. */
void stage_service_close(struct stage_service *s);

#endif
