/* SPDX-License-Identifier: Apache-2.0 */
/* cluster.h - what the supervisor knows: workers, models, replicas, shards, old shards.
 *
 * Plain data. membership.h changes workers, reconcile.h changes the rest, placement.h only
 * reads; control.c owns the lists. One thread (the loop's). Strings are fixed arrays, cut to
 * fit: what comes from workers is bounded here. Counts are bounded by the CS_MAX_ values. */
#ifndef QUIRE_CONTROL_CLUSTER_H
#define QUIRE_CONTROL_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CS_MAX_WORKERS = 1024,
    CS_MAX_MODELS = 1024,
    CS_MAX_LAYERS = 1024,
    CS_MAX_REPLICAS = 64,
    CS_MAX_SHARDS = 64,
    CS_MAX_ORPHANS = 4096,
    CS_ID = 64,
    CS_UID = 128,
    CS_SHARD_ID = 192,
    CS_ADDRESS = 128,
    CS_TEXT = 480,
    CS_PATH = 1024
};

/* ---- workers ----------------------------------------------------------------------------- */

enum cs_worker_state { CS_ALIVE, CS_SUSPECT, CS_DEAD };

struct cs_worker {
    char id[CS_ID], address[CS_ADDRESS], host[CS_ADDRESS], version[32];
    uint64_t incarnation;
    enum cs_worker_state state;
    bool connected; /* its stream is open: commands can be sent */
    uint64_t seen_ms;
    double seen_unix;
    uint32_t n_cpus, n_gpus;
    double cpu_usage;
    uint64_t mem_usable; /* of the device, for models */
    uint64_t mem_total, mem_available;
    void *link; /* control's connection */
};

/* Sparse pointers in order of joining; a worker is never removed while the process lives. */
struct cs_workers {
    struct cs_worker **v;
    size_t n, cap;
};

/* ---- models ------------------------------------------------------------------------------ */

struct cs_shape {
    char arch[64], name[CS_UID], quantization[32];
    uint32_t n_layers, n_ctx_train;
    uint64_t embed_bytes, head_bytes, kv_bytes_per_token_layer, file_bytes, n_params;
    bool has_chat_template;
    uint64_t layer_bytes[CS_MAX_LAYERS];
};

enum cs_shard_state {
    CS_SHARD_UNKNOWN, /* placed before this supervisor started; its worker has not spoken yet */
    CS_SHARD_PLACED,  /* memory is reserved, nothing was sent */
    CS_SHARD_LOADING, /* started */
    CS_SHARD_LOADED,  /* weights are in, the service listens */
    CS_SHARD_READY
};

struct cs_shard {
    char id[CS_SHARD_ID]; /* unique per placement: it ends in the epoch */
    char worker[CS_ID];
    uint32_t layer_from, layer_to;
    uint64_t reserve_bytes;
    enum cs_shard_state state;
    double progress;
    char address[CS_ADDRESS];
    uint64_t mem_bytes; /* as measured by the worker */
    int64_t pid;
};

enum cs_replica_state {
    CS_REP_NEW,       /* to be placed */
    CS_REP_PREPARING, /* placed; a worker still fetches the file */
    CS_REP_LOADING,   /* shards are started; then linked */
    CS_REP_READY,
    CS_REP_PAUSED,  /* failed; starts again at resume_ms */
    CS_REP_WAITING, /* no worker has room now; tried again */
    CS_REP_ERROR    /* gave up */
};

struct cs_replica {
    uint32_t index; /* its name; gaps are left by replicas that were taken away */
    uint64_t epoch;
    enum cs_replica_state state;
    uint32_t n_shards;
    struct cs_shard *shards; /* NULL while not placed */
    bool linked;
    bool up;             /* the observer was told so */
    uint64_t changed_ms; /* last progress while loading */
    uint64_t resume_ms;
    uint64_t doubt_ms;    /* the gateway could not reach the head: not routed until then */
    uint64_t reported_ms; /* when it last said so */
    uint64_t probed_ms;   /* its worker is silent: when its head was last tried */
    uint64_t fails_ms[8]; /* failures within the budget's window, oldest first */
    uint32_t n_fails;
    bool spent; /* paused: gives up unless a lost worker turns out to be the cause */
    int64_t created;
    char error[CS_TEXT];
};

/* The model's file on one worker. */
struct cs_file {
    char worker[CS_ID];
    bool sent, done, failed;
    double progress;
    uint64_t changed_ms;
    char path[CS_PATH];
    char error[CS_TEXT];
};

enum cs_model_state {
    CS_MODEL_LAUNCHING, /* no replica can answer (yet, or again) */
    CS_MODEL_READY,
    CS_MODEL_ERROR
};

struct cs_model {
    char uid[CS_UID];
    /* the wish */
    uint32_t n_replica, n_worker, n_ctx, n_parallel, n_threads; /* n_ctx 0: default */
    char kv_type[16], pack_cache[8], chat_template_language[8];
    char *chat_template; /* in place of the file's, or NULL; malloc'ed */
    char *worker_ip;     /* comma list or NULL; malloc'ed as the next two */
    char *path;          /* a file on the workers, or NULL: */
    char *source_json;   /* a source of the catalogue */
    bool needs_fetch;    /* progress counts a download */
    /* decided and observed */
    struct cs_shape *shape; /* NULL until a worker has read the file */
    uint32_t n_ctx_used, n_pages;
    struct cs_file *files;
    size_t n_files;
    struct cs_replica *replicas; /* n_replica of them */
    enum cs_model_state state;
    bool launched;         /* all replicas were ready once: failures restart instead of ending it */
    bool settled;          /* the launch's outcome was told */
    double progress_floor; /* progress never goes back while launching */
    int error_code;
    char error[CS_TEXT];
    char note[CS_TEXT]; /* why the last placement is what it is */
    uint64_t placed_ms; /* last try */
    int64_t created;
    uint64_t order; /* of launch */
    void *info;     /* control's description */
};

struct cs_models {
    struct cs_model **v;
    size_t n, cap;
};

/* A shard that must go: its placement ended. Its memory stays reserved until it is gone. */
struct cs_orphan {
    char id[CS_SHARD_ID];
    char worker[CS_ID];
    uint64_t epoch, reserve_bytes, since_ms, sent_ms;
};

struct cs_orphans {
    struct cs_orphan *v;
    size_t n, cap;
};

struct cs_worker *cs_worker_find(const struct cs_workers *w, const char *id);
struct cs_model *cs_model_find(const struct cs_models *m, const char *uid);
struct cs_replica *cs_replica_find(const struct cs_model *m, uint32_t index);
struct cs_file *cs_file_find(const struct cs_model *m, const char *worker);
/* Free what the model owns, and the model; not info. NULL is fine. */
void cs_model_free(struct cs_model *m);
/* Drop the placement (n_shards 0). */
void cs_replica_clear(struct cs_replica *r);
/* Copy, cut to fit, always with a NUL; NULL copies "". Never cuts inside a UTF-8 character. */
void cs_copy(char *dst, size_t cap, const char *src);

const char *cs_worker_state_name(enum cs_worker_state s);
const char *cs_replica_state_name(enum cs_replica_state s);

#endif
