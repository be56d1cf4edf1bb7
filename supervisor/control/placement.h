/* SPDX-License-Identifier: Apache-2.0 */
/* placement.h - where the shards of one replica go. Pure: everything comes in by arguments.
 *
 * A replica is cut into n_shards contiguous layer ranges, one per worker, never two on one. The
 * head (shard 0) also holds embedding and output head. Cuts minimise the heaviest shard's bytes
 * within what each worker has free. Workers that run the fewest shards of the model come first
 * (replicas spread), then those that have the file, then those with the least reserved. */
#ifndef QUIRE_CONTROL_PLACEMENT_H
#define QUIRE_CONTROL_PLACEMENT_H

#include "base/err.h"
#include "supervisor/control/cluster.h"

enum { PLACE_PAGE_TOKENS = 16, PLACE_DEFAULT_CTX = 4096, PLACE_DEFAULT_PARALLEL = 16 };
/* Activations, logits and the process itself. */
#define PLACE_SCRATCH_HEAD  (UINT64_C(64) << 20)
#define PLACE_SCRATCH_SHARD (UINT64_C(32) << 20)

struct place_worker {
    const char *id, *address;
    const char *host; /* workers of one host share free_bytes; NULL or "": alone there */
    uint64_t free_bytes, reserved_bytes;
    uint32_t n_same; /* shards of this model that it has already */
    bool has_file;
    const char *excluded; /* not NULL: why it can't be chosen */
};

struct place_request {
    const struct cs_shape *shape;
    uint32_t n_shards; /* 1.. */
    uint32_t n_ctx;
    uint32_t n_pages; /* wanted; fewer are used when memory is short, down to one context */
};

struct place_shard {
    size_t worker; /* index into the workers given */
    uint32_t layer_from, layer_to;
    uint64_t bytes;
};

struct place_result {
    struct place_shard shards[CS_MAX_SHARDS];
    uint32_t n_shards, n_pages;
    char why[CS_TEXT]; /* who won and why each other one lost */
};

/* 0, or Q_EFULL (no room now: text with the need and what each worker has), Q_EINVAL (cannot be
 * done with this cluster: "needs 3 workers, there are 2"; more shards than layers). */
Q_MUST_CHECK int place_replica(struct place_result *out, const struct place_request *rq,
                               const struct place_worker *workers, size_t n_workers, struct err *e);

/* The context that a replica gets: wanted, or the default; never more than the model knows. */
uint32_t place_ctx(const struct cs_shape *shape, uint32_t wanted);
/* KV pages for n_parallel sequences (0: default): at least one whole context; beyond it no more
 * than 16384 tokens, 256 MiB or a quarter of the weights, whichever allows more bytes. */
uint32_t place_pages(const struct cs_shape *shape, uint32_t n_ctx, uint32_t n_parallel);
/* What a shard reserves. */
uint64_t place_shard_bytes(const struct cs_shape *shape, uint32_t from, uint32_t to, bool head,
                           uint32_t n_pages);
/* Is the worker named by a wish list ("host", "host:port", comma separated; NULL: all)? */
bool place_wished(const char *list, const char *address, const char *host);

#endif
