/* SPDX-License-Identifier: Apache-2.0 */
/* stage_link.h - the head's side of a replica in several shards: one session with its peers.
 *
 *     head --Session: SessionOpen, StepPlan...--> shard 1, shard 2, ... (all at the same time)
 *     head --Hidden: rows--> shard 1 --Hidden--> shard 2 ... last --rows on its Session--> head
 *
 * A session lives until it is replaced or a peer is lost; what arrives for another session or
 * step is dropped. The driving thread (the engine's) calls everything except
 * stage_link_interrupt and stage_link_ready, which any thread may call. */
#ifndef QUIRE_ENGINE_STAGE_LINK_H
#define QUIRE_ENGINE_STAGE_LINK_H

#include "worker/engine/pipeline.h"

#include <stdbool.h>

struct stage_link;

Q_MUST_CHECK int stage_link_open(struct stage_link **out, const struct pipeline_config *cfg,
                                 struct err *e);
void stage_link_close(struct stage_link *l); /* NULL is fine */
bool stage_link_ready(const struct stage_link *l);
void stage_link_interrupt(struct stage_link *l);
/* fn runs on the loop thread, under our lock, when a session is lost. NULL: no more, and none
 * is running when this returns. */
void stage_link_on_lost(struct stage_link *l, void (*fn)(void *ctx), void *ctx);
/* 0, or why there is no session. */
Q_MUST_CHECK int stage_link_check(struct stage_link *l, struct err *e);

Q_MUST_CHECK int stage_link_connect(struct stage_link *l, const char *const *peers,
                                    uint32_t n_peers, uint64_t epoch, uint64_t until_ms,
                                    struct err *e);
/* End the session, if any. */
void stage_link_drop(struct stage_link *l);

Q_MUST_CHECK int stage_link_plan(struct stage_link *l, const struct step *s, struct err *e);
/* The head's own rows of a planned step, for shard 1. */
Q_MUST_CHECK int stage_link_hidden(struct stage_link *l, uint64_t step, uint32_t n_rows,
                                   const float *rows, struct err *e);
/* Wait for the last shard's rows of a step; copies [n_out][width] to rows. */
Q_MUST_CHECK int stage_link_result(struct stage_link *l, uint64_t step, uint32_t n_out, float *rows,
                                   uint64_t until_ms, struct err *e);

#endif
