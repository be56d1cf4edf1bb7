/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - which models should run, where they run, and what workers report.
 *
 * Stores wishes (launched models), observes facts (workers, shards), reconciles. Everything
 * here is called on the supervisor's loop thread; RPC events are posted to it. The decision
 * code (placement.h, reconcile.h) is pure: no clock, socket or randomness of its own.
 *
 * Strings in the info structs are borrowed and valid until the next call into control. */
#ifndef QUIRE_CONTROL_CONTROL_H
#define QUIRE_CONTROL_CONTROL_H

#include "base/json.h"

#include <uv.h>

struct control;
struct rpc_loop;

/* Told about replicas that can answer; the gateway's router implements it. */
struct control_observer {
    void (*replica_up)(void *ctx, const char *uid, uint32_t replica, uint64_t epoch,
                       const char *head_address);
    void (*replica_down)(void *ctx, const char *uid, uint32_t replica, uint64_t epoch,
                         const char *why);
    /* The model is gone from the list: forget it. */
    void (*model_gone)(void *ctx, const char *uid);
    void *ctx;
};

struct control_config {
    uv_loop_t *loop;
    struct rpc_loop *rpc;
    const char *rpc_host;  /* where workers dial in */
    int rpc_port;          /* 0: any */
    const char *advertise; /* the host that workers are told; NULL: rpc_host */
    const char *home;      /* QUIRE_HOME: state.db, registrations */
    const char *share;     /* catalogue.json */
    struct control_observer observer;
};

Q_MUST_CHECK int control_open(struct control **out, const struct control_config *cfg,
                              struct err *e);
const char *control_rpc_address(const struct control *c); /* host:port */
/* Asks workers that belong to `quire start` nothing: they stay. Closes streams, then closed. */
void control_close(struct control *c, void (*closed)(void *ctx), void *ctx);

/* ---- launch and terminate ---------------------------------------------------------------- */

struct launch_request {
    const char *model_name; /* label when model_path is given */
    const char *model_uid;  /* NULL: the name, made unique */
    const char *model_type; /* NULL: "LLM" */
    const char *engine, *format, *quantization, *size_in_billions; /* NULL: any */
    const char *model_path;                                        /* NULL: from the catalogue */
    const char *worker_ip;      /* NULL, or a comma list of host or host:port */
    uint32_t replica, n_worker; /* 1.. */
    uint32_t n_ctx;             /* 0: default */
    uint32_t n_parallel;        /* sequences per step; 0: default */
    uint32_t n_threads;         /* per shard; 0: the worker decides */
    const char *kv_type;        /* NULL: f16 */
    const char *pack_cache;     /* auto, on, off, verify; NULL: the worker decides */
    const char *chat_template;  /* in place of the file's; NULL: the registered one or the file's */
    const char *chat_template_language; /* jinja, go; NULL: the text tells */
    int64_t request_limits;             /* -1: none */
    const char *raw_json; /* the request as it came, kept for launch history and describe */
    const char **param;   /* NULL, or where the name of a faulty field is left (static) */
};

/* Accept the wish. uid_out: the model UID. The load goes on by itself; watch it with
 * control_wait or control_progress. Q_EINVAL with a text for the person (an unknown name
 * offers the nearest ones; a model that cannot fit says how much it needs and what each worker
 * has); Q_EEXIST when the uid is taken. */
Q_MUST_CHECK int control_launch(struct control *c, const struct launch_request *r,
                                char uid_out[128], struct err *e);
/* done runs once, when the model is ready (rc 0), failed or was terminated (rc < 0, text). May
 * run before control_wait returns. Returns an id for control_wait_cancel, or 0 if already done. */
uint64_t control_wait(struct control *c, const char *uid,
                      void (*done)(void *ctx, int rc, const char *text), void *ctx);
void control_wait_cancel(struct control *c, uint64_t id);
Q_MUST_CHECK int control_terminate(struct control *c, const char *uid, struct err *e);
/* Stop a launch that is not ready yet: it stays as MODEL_ERROR, its name can be launched again.
 * Q_EINVAL when nothing is launching. Waiters get Q_ECANCELLED. */
Q_MUST_CHECK int control_cancel(struct control *c, const char *uid, struct err *e);

/* One replica more of a ready model. Q_ENOTFOUND; Q_EINVAL (not ready, or sharded); Q_EFULL with
 * the reason when no worker has room. */
Q_MUST_CHECK int control_scale_up(struct control *c, const char *uid, uint32_t *replica,
                                  struct err *e);
/* Take one away; the last one terminates the model. *left: how many remain. */
Q_MUST_CHECK int control_scale_down(struct control *c, const char *uid, uint32_t replica,
                                    uint32_t *left, struct err *e);

/* ---- what there is ----------------------------------------------------------------------- */

enum model_state { MODEL_LAUNCHING, MODEL_READY, MODEL_ERROR, MODEL_TERMINATING };

struct model_info {
    const char *uid, *name, *type, *engine, *format, *quantization, *size_in_billions;
    const char *family, *path, *address; /* address of the first ready head, or "" */
    const struct jv *lang, *ability;     /* arrays or NULL */
    const char *description;
    enum model_state state;
    const char *error;     /* of MODEL_ERROR, or the last one */
    const char *placement; /* why it runs where it runs, and why others lost */
    bool was_ready;        /* LAUNCHING again after it could answer once */
    double progress;       /* 0..1 */
    uint32_t n_ctx, n_replica, n_ready, n_worker;
    int64_t created; /* unix seconds */
    int64_t request_limits;
};

size_t control_n_models(const struct control *c);
bool control_model_at(const struct control *c, size_t i, struct model_info *out);
bool control_model(const struct control *c, const char *uid, struct model_info *out);

struct shard_info {
    const char *shard_id, *worker, *address, *state, *error;
    uint32_t index, layer_from, layer_to;
    uint64_t mem_bytes;
    int64_t pid;
};
struct replica_info {
    const char *id;            /* "uid-rep0" */
    const char *state, *error; /* "READY", "CREATED", "DOWNLOADING", "LOADING", "ERROR" */
    const char *address;
    const char *worker; /* address of the head's worker, or "" */
    uint32_t index, n_shards;
    uint64_t epoch;
    int64_t created;
    double progress;
};
bool control_replica(const struct control *c, const char *uid, uint32_t i,
                     struct replica_info *out);
/* replica: its index. */
bool control_shard(const struct control *c, const char *uid, uint32_t replica, uint32_t i,
                   struct shard_info *out);

struct worker_info {
    const char *id, *address, *host, *state; /* state: alive, suspect, dead */
    uint32_t n_cpus, n_gpus;
    double cpu_usage;
    uint64_t mem_total, mem_available, mem_reserved;
    double last_seen; /* unix seconds */
};
/* Living ones and those that died in the last ten minutes. */
size_t control_n_workers(const struct control *c);
bool control_worker_at(const struct control *c, size_t i, struct worker_info *out);

/* Data-plane evidence from the gateway: this replica's head did not answer. */
void control_report_failure(struct control *c, const char *uid, uint32_t replica, uint64_t epoch);

/* ---- catalogue --------------------------------------------------------------------------- */

/* Families of a type ("LLM"); the array is the catalogue's own, in Xinference's spec form. */
const struct jv *control_families(const struct control *c, const char *type);
/* Add a user's family (kept under home, survives restarts). Takes a copy. *param: the faulty
 * field (static), or untouched. */
Q_MUST_CHECK int control_register(struct control *c, const char *type, const struct jv *family,
                                  const char **param, struct err *e);
Q_MUST_CHECK int control_unregister(struct control *c, const char *type, const char *name,
                                    struct err *e);
bool control_is_builtin(const struct control *c, const char *type, const char *name);

/* ---- for people -------------------------------------------------------------------------- */

struct event_info {
    const char *type; /* "INFO", "WARNING", "ERROR" */
    int64_t at;       /* unix seconds */
    const char *text;
};
/* The last 100 of a model uid, oldest first; kept after it is gone. */
size_t control_n_events(const struct control *c, const char *uid);
bool control_event_at(const struct control *c, const char *uid, size_t i, struct event_info *out);

struct control_counters {
    uint64_t launches, launches_failed, terminations, restarts, workers_joined, workers_suspect,
        workers_dead;
};
void control_counters(const struct control *c, struct control_counters *out);

/* Ask all workers to stop (DELETE /v1/clusters). */
void control_stop_workers(struct control *c);

#endif
