/* SPDX-License-Identifier: Apache-2.0 */
/* control_int.h - what the files of control share. Loop thread only. */
#ifndef QUIRE_CONTROL_CONTROL_INT_H
#define QUIRE_CONTROL_CONTROL_INT_H

#include "supervisor/control/catalogue.h"
#include "supervisor/control/control.h"
#include "supervisor/control/door.h"
#include "supervisor/control/membership.h"
#include "supervisor/control/reconcile.h"
#include "supervisor/store/store.h"

enum { CONTROL_EVENTS = 100 };

struct model_event {
    const char *type; /* static */
    int64_t at;
    char *text;
};

/* What people know about a model; owned. Texts may be NULL where noted in model_info. */
struct model_meta {
    char *name, *type, *engine, *format, *quantization, *size, *family, *description;
    struct jv *lang, *ability; /* arrays */
    int64_t request_limits;
    char *raw_json;
    bool from_path; /* described by the file, not by the catalogue */
};

struct history {
    char uid[CS_UID];
    struct model_event ring[CONTROL_EVENTS];
    size_t n;
};

struct waiter {
    uint64_t id, order; /* order: of the launch waited for */
    void (*done)(void *ctx, int rc, const char *text);
    void *ctx;
    struct waiter *next;
};

struct doubt {
    char uid[CS_UID];
    uint32_t replica;
    uint64_t epoch;
};

struct control {
    uv_loop_t *loop;
    struct control_observer observer;
    struct store *store;
    struct catalogue *catalogue;
    struct door *door;
    uv_timer_t timer;
    char rpc_address[CS_ADDRESS + 16];
    char cluster_id[33];
    struct membership members;
    struct cs_models models;
    struct rc_sink sink;
    struct rc rc;
    uint64_t epoch, next_order, next_wait;
    struct waiter *waiters;
    struct history **histories;
    size_t n_histories;
    struct doubt doubts[64]; /* reports that came while deciding */
    size_t n_doubts;
    bool deciding;
    struct control_counters counters;
    int n_probes;
    int closing; /* handles still open */
    void (*closed)(void *ctx);
    void *closed_ctx;
};

/* control_cmd.c: reconcile's sink */
void control_sink_init(struct control *c);
void control_history_free(struct control *c);
/* One of the handles counted in `closing` is gone. */
void control_part_closed(struct control *c);

void control_meta_free(struct model_meta *meta);
/* Decide now, tell waiters, forget what is over. */
void control_decide(struct control *c);
void control_event(struct control *c, const char *uid, const char *type, const char *text);
/* Append the model's stored form. */
void control_state_write(struct buf *b, const struct cs_model *m);
/* A model from its stored form; NULL with e set when it is damaged. */
struct cs_model *control_state_read(const char *uid, const char *json, size_t n, struct err *e);
/* Take the model into the list; it is freed on failure. */
Q_MUST_CHECK int control_add(struct control *c, struct cs_model *m, struct err *e);

#endif
