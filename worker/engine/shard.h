/* SPDX-License-Identifier: Apache-2.0 */
/* shard.h - one shard in a process: a model file's layer range, served over RPC.
 *
 * The head (index 0) has the embedding, its layers, the output head, tokeniser, template and
 * engine, and answers /quire.Engine. The others hold layers and answer /quire.Stage. One thread
 * drives a shard; shard_interrupt may come from any. */
#ifndef QUIRE_ENGINE_SHARD_H
#define QUIRE_ENGINE_SHARD_H

#include "base/err.h"
#include "worker/model/backend.h"

struct shard;

struct shard_config {
    const char *shard_id, *model_uid, *path, *host;
    uint64_t epoch;
    uint32_t replica, index, n_shards;
    uint32_t layer_from, layer_to; /* both 0 in a replica of one piece: all */
    uint32_t n_ctx;                /* 0: the model's, at most 4096 */
    uint32_t n_pages;              /* 0: chosen by n_ctx, max_seqs and memory */
    uint32_t n_threads;            /* 0: the back end decides */
    bool pin_threads;              /* each on a core of its own */
    uint32_t max_seqs;             /* 0: 16 */
    enum kv_type kv;
    enum pack_mode pack;
    const char *chat_template; /* in place of the file's; NULL or "": the file's. Of the head */
    const char *chat_template_language;       /* "jinja", "go"; NULL or "": the text tells */
    void (*progress)(double done, void *ctx); /* opening thread; may be NULL */
    void (*lost)(const char *msg, void *ctx); /* a linked shard was lost; engine thread */
    void *ctx;
};

/* Loads and listens. A replica in one piece answers from here on. Strings are copied. */
Q_MUST_CHECK int shard_open(struct shard **out, const struct shard_config *cfg, struct err *e);
/* Stops what runs with a clear status, gives streams up to grace_ms, frees. NULL is fine. */
void shard_close(struct shard *s, unsigned grace_ms);
/* Head of several: link with the others (in order), then it answers. An older epoch than the
 * one before is refused. */
Q_MUST_CHECK int shard_link(struct shard *s, const char *const *peers, uint32_t n_peers,
                            uint64_t epoch, struct err *e);
void shard_interrupt(struct shard *s); /* a shard_link under way fails */

const char *shard_address(const struct shard *s); /* "127.0.0.1:40123" */
size_t shard_mem_bytes(const struct shard *s);

#endif
