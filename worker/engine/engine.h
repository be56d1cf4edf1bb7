/* SPDX-License-Identifier: Apache-2.0 */
/* engine.h - the thread that turns requests into tokens.
 *
 * One thread owns all requests, the scheduler, the sampler and the pipeline. Everybody else
 * talks to it by messages (base/mbox.h) and hears from it through each request's on_event.
 *
 *     submit, cancel, resume --mbox--> [ plan -> pipeline -> sample -> text -> on_event ] --+
 *                                       ^                                                  |
 *                                       +--------------------------------------------------+
 *
 * A token's bits do not depend on what else is in its batch: the stages see to that, and the
 * sampler draws by (seed, choice, position). So batching, preemption and chunk sizes never change
 * an answer.
 *
 * Back-pressure: a consumer that cannot take events calls engine_pause from inside on_event; the
 * sequences stop after the steps under way (at most a few more events come), their pages go to
 * others when needed, and after pause_limit_ms the request fails with Q_ETIMEOUT. */
#ifndef QUIRE_ENGINE_ENGINE_H
#define QUIRE_ENGINE_ENGINE_H

#include "worker/engine/pipeline.h"
#include "worker/engine/request.h"

struct engine;

struct engine_config {
    struct pipeline *pipeline; /* borrowed; only the engine thread uses it from now on */
    struct request_text text;
    uint32_t n_logits; /* a row of logits, at least text.n_vocab; 0: as many as that */
    uint32_t n_ctx;    /* longest sequence; at most 16 n_pages */
    uint32_t n_pages;
    uint32_t max_rows;       /* token budget of a step */
    uint32_t max_seqs;       /* sequences running at once */
    uint32_t max_out;        /* results of a step, at least max_seqs */
    uint32_t max_waiting;    /* choices waiting; 0: 4 max_seqs, at least 2048 */
    uint32_t pause_limit_ms; /* 0: 60 s */
    /* The pipeline lost a peer; text for a person. Engine thread. May be NULL. */
    void (*on_lost)(void *ctx, const char *msg);
    void *ctx;
};

struct engine_stats {
    uint32_t n_running, n_waiting, n_ctx, pages_total, pages_free;
    uint64_t n_steps, n_rows, n_preempted;
    bool ready;
};

Q_MUST_CHECK int engine_open(struct engine **out, const struct engine_config *cfg, struct err *e);
/* Every open request gets CLOSED with Q_EUNAVAILABLE; nothing is accepted any more. Returns when
 * the thread has ended. Callable twice. */
void engine_stop(struct engine *en);
/* Stops and frees. No other thread may use the engine any more. */
void engine_close(struct engine *en); /* NULL is fine */

/* Any thread. On success events follow (they may begin before this returns) and *out is the
 * caller's reference. Q_EINVAL: "field: why"; Q_EFULL: the queue is full; Q_EUNAVAILABLE: not
 * linked or stopping. On failure no event comes. */
Q_MUST_CHECK int engine_submit(struct engine *en, const struct request_config *cfg,
                               struct request **out, struct err *e);
/* Any thread, while a reference is held. The work stops within one step; CLOSED with
 * Q_ECANCELLED follows unless it came before. */
void engine_cancel(struct engine *en, struct request *r);
void engine_pause(struct request *r); /* from on_event */
void engine_resume(struct engine *en, struct request *r);

/* (Re)link the head with its other shards: running requests fail, then one tiny step goes through
 * all. Blocks the caller; any thread. */
Q_MUST_CHECK int engine_link(struct engine *en, const char *const *peers, uint32_t n_peers,
                             uint64_t epoch, uint32_t timeout_ms, struct err *e);

void engine_stats(const struct engine *en, struct engine_stats *out); /* any thread */
uint32_t engine_n_ctx(const struct engine *en);

#endif
