/* SPDX-License-Identifier: Apache-2.0 */
/* pipeline.h - run a step through all layers of a replica, wherever they are.
 *
 * Steps go in by pipeline_submit and come out by pipeline_complete in the same order, at most
 * pipeline_depth of them at once. A replica in one piece has depth 1 and computes inside submit.
 * The head of several shards computes its own layers in submit, while the other shards work on
 * earlier steps, and the output head in complete:
 *
 *     submit: plan -> all shards;  embed + first layers -> hidden -> shard 1 -> ... -> last
 *     complete:  logits <- head-only stage <- hidden rows of out_rows <- last shard
 *
 * Every stage sees the steps in one order, so a KV page may be given to another sequence while a
 * step that writes it is still under way: the later step writes it later, everywhere.
 *
 * One thread drives a pipeline; pipeline_interrupt and pipeline_ready may be called from any. */
#ifndef QUIRE_ENGINE_PIPELINE_H
#define QUIRE_ENGINE_PIPELINE_H

#include "worker/model/backend.h"

#define PIPELINE_MAX_SHARDS 64
#define PIPELINE_MAX_DEPTH  8

struct pipeline;
struct rpc_loop;

/* Rows of sequences as in struct batch; the memory is the caller's and may be reused as soon as
 * submit returns. */
struct step {
    uint64_t id;
    uint32_t n_rows, n_seqs, n_out;
    const uint32_t *tokens;
    const struct batch_seq *seqs;
    const uint32_t *out_rows;
};

struct pipeline_config {
    struct stage *stage; /* embedding and the head's layers; with output head if n_shards is 1 */
    struct stage *head;  /* the output head alone, when n_shards > 1 */
    uint32_t n_vocab, width;
    uint32_t max_rows, max_out, max_seqs; /* of one step */

    uint32_t n_shards; /* 1: all local, the rest is unused */
    struct rpc_loop *loop;
    const char *replica_id;      /* named in errors */
    const char *model_hash;      /* all shards must agree */
    uint32_t n_layers, layer_to; /* of the model; end of the head's own range */
    uint32_t n_pages;
};

/* The stages are borrowed. */
Q_MUST_CHECK int pipeline_open(struct pipeline **out, const struct pipeline_config *cfg,
                               struct err *e);
void pipeline_close(struct pipeline *p); /* NULL is fine */

uint32_t pipeline_depth(const struct pipeline *p);
/* Can it take steps? Always, when in one piece; else between a link and the loss of a peer. */
bool pipeline_ready(const struct pipeline *p);

/* Begin a new session with the other shards, in order; ends the one before. Blocks until all
 * have answered and one tiny step went round, or timeout_ms passed. No step may be under way. */
Q_MUST_CHECK int pipeline_link(struct pipeline *p, const char *const *peers, uint32_t n_peers,
                               uint64_t epoch, uint32_t timeout_ms, struct err *e);

/* One row through all layers, before anything else runs: readiness means that a token came
 * through, not that a port is open. */
Q_MUST_CHECK int pipeline_warm(struct pipeline *p, struct err *e);
/* On failure the session is over: steps under way are lost and the pipeline is not ready. */
Q_MUST_CHECK int pipeline_submit(struct pipeline *p, const struct step *s, struct err *e);
/* Wait for the oldest step: *logits is [n_out][n_vocab], valid until the next call. */
Q_MUST_CHECK int pipeline_complete(struct pipeline *p, uint64_t *step_id, const float **logits,
                                   struct err *e);
/* Is the session alive? Otherwise how it was lost; the pipeline is not ready then. */
Q_MUST_CHECK int pipeline_check(struct pipeline *p, struct err *e);
/* fn runs, on any thread, whenever a peer is lost; it must not call back. NULL: no more, and none
 * is running when this returns. */
void pipeline_on_lost(struct pipeline *p, void (*fn)(void *ctx), void *ctx);
/* Make a waiting pipeline_complete or pipeline_link fail with Q_ECANCELLED, now and for ever. */
void pipeline_interrupt(struct pipeline *p);

#endif
