/* SPDX-License-Identifier: Apache-2.0 */
/* reconcile.h - from wishes and facts to commands. Pure: the clock comes in by arguments,
 * commands and news go out through `struct rc_sink`, so that tests drive it with a fake cluster.
 *
 * One replica:
 *
 *     NEW --placed--> PREPARING --files there--> LOADING --all loaded, head linked--> READY
 *      ^  no room: WAITING (or the launch fails)    |                                   |
 *      +---- its worker died ----------------------+-----------------------------------+
 *                                                   |  a shard ended                    |
 *     ERROR <--over budget-- PAUSED <---------------+-----------------------------------+
 *                              +-- pause over: LOADING again, new epoch, same place
 *
 * Invariants
 * 1. Each start of a replica has its own epoch, greater than all before; shard ids end in it.
 *    Facts with another id or epoch change nothing here; such shards are told to stop.
 * 2. A shard that loses its place becomes an orphan: its memory stays reserved and StopShard is
 *    repeated until the worker says that it is gone, or the worker is dead.
 * 3. up and down alternate for a replica; down comes before its shards are touched.
 * 4. A launch settles once: ready when all replicas are, failed when one gives up. A model that
 *    was ready once restarts its replicas within a budget of 3 failures in 60 s each. What fails
 *    because a worker of the replica is silent or dead is not counted. */
#ifndef QUIRE_CONTROL_RECONCILE_H
#define QUIRE_CONTROL_RECONCILE_H

#include "base/err.h"
#include "supervisor/control/cluster.h"

enum {
    RC_BUDGET = 3,
    RC_BUDGET_LAUNCH = 1, /* before the first READY a person waits: one retry */
    RC_BUDGET_WINDOW_MS = 60000,
    RC_STALL_MS = 300000, /* no progress of a fetch or load for so long is a failure */
    RC_ADOPT_MS = 8000,   /* how long stored shards may stay unheard of after our start */
    RC_JOIN_MS = 10000,   /* how long a launch waits for the first worker after our start */
    RC_RETRY_PLACE_MS = 1000,
    RC_LAST_WORD_MS = 1000, /* a shard's end is heard before its peer's worker is missed */
    RC_PROBE_MS = 1000,     /* how often a silent worker's replica is probed */
    RC_RESEND_STOP_MS = 3000,
    RC_ORPHAN_MS = 30000
};

struct rc_sink {
    void (*prepare)(void *ctx, struct cs_worker *w, const struct cs_model *m);
    void (*start)(void *ctx, struct cs_worker *w, const struct cs_model *m,
                  const struct cs_replica *r, uint32_t shard);
    void (*stop)(void *ctx, struct cs_worker *w, const char *shard_id, uint64_t epoch);
    void (*link)(void *ctx, struct cs_worker *w, const struct cs_replica *r);
    void (*up)(void *ctx, const struct cs_model *m, const struct cs_replica *r);
    void (*down)(void *ctx, const struct cs_model *m, const struct cs_replica *r, const char *why);
    /* Try to reach the head of a replica whose worker is silent; rc_on_probe tells. May be NULL. */
    void (*probe)(void *ctx, const struct cs_model *m, const struct cs_replica *r);
    uint64_t (*next_epoch)(void *ctx);
    /* What must survive a restart has changed: placement, shape, state. */
    void (*changed)(void *ctx, const struct cs_model *m);
    /* The launch is over: 0, or a code with m->error as text. */
    void (*settled)(void *ctx, struct cs_model *m, int rc);
    void (*note)(void *ctx, const struct cs_model *m, const char *text); /* for log and events */
    void *ctx;
};

struct rc {
    struct cs_workers *workers;
    struct cs_models *models;
    struct cs_orphans orphans; /* owned */
    const struct rc_sink *sink;
    uint64_t started_ms;
    int64_t now_unix; /* set by the owner before each call: for created stamps */
};

void rc_fini(struct rc *rc);

/* Move everything that can move. Call after each fact and about every 100 ms. */
void rc_tick(struct rc *rc, uint64_t now_ms);

struct rc_shard_fact {
    const char *shard_id;
    uint64_t epoch;
    enum cs_shard_state state; /* LOADING, LOADED or READY */
    bool exited;
    double progress;
    const char *address, *error;
    uint64_t mem_bytes;
    int64_t pid;
};
void rc_on_shard(struct rc *rc, const char *worker, const struct rc_shard_fact *f, uint64_t now_ms);
/* A worker said hello with these shards: adopt ours, stop the others, miss the missing. */
void rc_on_hello(struct rc *rc, struct cs_worker *w, const struct rc_shard_fact *facts, size_t n,
                 uint64_t now_ms);

struct rc_prepare_fact {
    const char *uid;
    uint64_t order; /* of the launch that asked */
    bool done;
    double progress;
    const char *error, *path;
    const struct cs_shape *shape; /* with done */
};
void rc_on_prepare(struct rc *rc, const char *worker, const struct rc_prepare_fact *f,
                   uint64_t now_ms);

/* The gateway could not reach this replica's head. */
void rc_on_unreachable(struct rc *rc, struct cs_model *m, uint32_t replica, uint64_t epoch,
                       uint64_t now_ms);

/* The head of a silent worker's replica was not reached by a probe. */
void rc_on_probe_failed(struct rc *rc, struct cs_model *m, uint32_t replica, uint64_t epoch,
                        uint64_t now_ms);

/* Fail a launch (cancelled by a person, or hopeless): shards stop, the model stays as ERROR. */
void rc_fail(struct rc *rc, struct cs_model *m, int code, const char *text, uint64_t now_ms);
/* Take the model down; afterwards it owns no placement and may be freed. */
void rc_remove(struct rc *rc, struct cs_model *m, uint64_t now_ms);

/* One replica more: *index is its name; it is placed by the next tick. Q_EFULL, Q_ENOMEM. */
int rc_scale_up(struct rc *rc, struct cs_model *m, uint32_t *index);
/* One less, not the last. Q_ENOTFOUND, Q_EINVAL. */
int rc_scale_down(struct rc *rc, struct cs_model *m, uint32_t index, uint64_t now_ms);

/* Memory that is promised on a worker. */
uint64_t rc_reserved(const struct rc *rc, const char *worker);
/* What placement may still give away there. */
uint64_t rc_free(const struct rc *rc, const struct cs_worker *w);
/* 0..1; exactly 1 when ready. */
double rc_progress(const struct cs_model *m);
uint32_t rc_n_up(const struct cs_model *m);

#endif
