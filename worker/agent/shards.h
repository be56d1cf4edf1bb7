/* SPDX-License-Identifier: Apache-2.0 */
/* shards.h - the child processes of a worker: started, told, watched, buried.
 *
 * A shard is `quire shard` of our own program (or QUIRE_SHARD_PROGRAM). It reads JSON lines from
 * stdin (configuration, link, stop), writes JSON lines to stdout (progress, loaded, ready, error)
 * and exits when stdin closes, so it never outlives us. An exited shard stays known, so that
 * commands of an older epoch find it and are ignored. All calls on the loop thread. */
#ifndef QUIRE_AGENT_SHARDS_H
#define QUIRE_AGENT_SHARDS_H

#include "base/err.h"
#include "proto/cluster.pb-c.h"

#include <stdbool.h>
#include <uv.h>

struct shards;

struct shards_config {
    uv_loop_t *loop;
    const char *host;           /* where shards listen */
    uint32_t n_threads;         /* when the supervisor leaves it to us */
    bool pin_threads;           /* each on a core of its own */
    void (*changed)(void *ctx); /* shards_flush has news, or a shard is gone */
    void *ctx;
};

Q_MUST_CHECK int shards_open(struct shards **out, const struct shards_config *cfg, struct err *e);
/* Every process must be gone. The rest is freed when libuv has closed its handles. */
void shards_close(struct shards *s);

void shards_start(struct shards *s, const Quire__StartShard *cmd);
void shards_stop(struct shards *s, const char *shard_id, uint64_t epoch);
void shards_link(struct shards *s, const Quire__LinkShard *cmd);
/* Ask all to stop; those that do not are killed after 3 s, at once when hard. */
void shards_stop_all(struct shards *s, bool hard);

/* Shards whose process lives or whose end is not complete. */
size_t shards_running(const struct shards *s);
/* Offer all news; send returns 0 when it took the message (borrowed). */
void shards_flush(struct shards *s, int (*send)(void *ctx, const Quire__ShardFact *f), void *ctx);
/* Facts of the living, for a hello: fills up to max, returns how many. What is not in it is news
 * for shards_flush. */
size_t shards_inventory(struct shards *s, Quire__ShardFact *facts, size_t max);

#endif
