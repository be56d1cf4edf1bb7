/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/stage_link.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "proto/stage.pb-c.h"
#include "worker/engine/stage_wire.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct result {
    struct result *next;
    uint64_t step;
    uint32_t n_rows;
    float rows[];
};

/* One shard as the head sees it. Streams live from connect to drop. */
struct peer {
    struct stage_link *link;
    uint32_t index; /* in the replica, from 1 */
    struct rpc_channel *channel;
    struct rpc_stream *session; /* NULL: not opened */
    bool ready;
    uint32_t layer_from, layer_to, n_pages;
    char hash[80];
};

/* Everything below lock is shared with the loop thread's callbacks. */
struct stage_link {
    struct pipeline_config cfg;
    struct peer *peers;
    uint32_t n_peers;
    struct rpc_stream *hidden; /* to shard 1 */

    pthread_mutex_t lock;
    pthread_cond_t cond; /* anything below changed */
    void (*on_lost)(void *ctx);
    void *on_lost_ctx;
    uint64_t session;    /* 0: none */
    unsigned n_streams;  /* whose on_close has not run */
    uint64_t n_writable; /* counts on_writable, so that none is missed */
    bool up, interrupted;
    int lost_code; /* of this session; 0: not lost */
    char lost[256];
    struct result *results, **results_tail;
    unsigned n_results;
};

int stage_link_open(struct stage_link **out, const struct pipeline_config *cfg, struct err *e)
{
    *out = NULL;
    struct stage_link *l = calloc(1, sizeof(*l));
    if (!l)
        return err_set(e, Q_ENOMEM, "out of memory for the link to other shards");
    l->cfg = *cfg;
    l->results_tail = &l->results;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->cond, &attr);
    pthread_condattr_destroy(&attr);
    *out = l;
    return 0;
}

void stage_link_close(struct stage_link *l)
{
    if (!l)
        return;
    stage_link_drop(l);
    pthread_cond_destroy(&l->cond);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

bool stage_link_ready(const struct stage_link *link)
{
    struct stage_link *l = (struct stage_link *)(uintptr_t)link; /* the lock is not its state */
    pthread_mutex_lock(&l->lock);
    bool ready = l->up && !l->lost_code && !l->interrupted;
    pthread_mutex_unlock(&l->lock);
    return ready;
}

void stage_link_interrupt(struct stage_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->interrupted = true;
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

void stage_link_on_lost(struct stage_link *l, void (*fn)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&l->lock);
    l->on_lost = fn;
    l->on_lost_ctx = ctx;
    pthread_mutex_unlock(&l->lock);
}

int stage_link_check(struct stage_link *l, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    if (l->lost_code)
        rc = err_set(e, l->lost_code, "%s", l->lost);
    else if (!l->up || l->interrupted)
        rc = err_set(e, Q_EUNAVAILABLE, "the model is not linked to its other shards");
    pthread_mutex_unlock(&l->lock);
    return rc;
}

/* ---- callbacks, on the loop thread -------------------------------------------------------- */

static void set_lost_locked(struct stage_link *l, uint32_t index, const char *why)
{
    if (l->lost_code || !l->session)
        return;
    l->lost_code = Q_EUNAVAILABLE;
    snprintf(l->lost, sizeof(l->lost), "shard %u of %u of %s was lost (%s)", index + 1,
             l->cfg.n_shards, l->cfg.replica_id, why);
    pthread_cond_broadcast(&l->cond);
    if (l->on_lost)
        l->on_lost(l->on_lost_ctx);
}

static void take_ready(struct peer *p, const Quire__SessionReady *r)
{
    p->layer_from = r->layer_from;
    p->layer_to = r->layer_to;
    p->n_pages = r->n_pages;
    snprintf(p->hash, sizeof(p->hash), "%s", r->model_hash);
    p->ready = true;
}

static void take_rows_locked(struct peer *p, const Quire__HiddenHead *h, const struct stage_wire *w)
{
    struct stage_link *l = p->link;
    if (h->session != l->session)
        return; /* of a session that is over */
    if (p->index != l->n_peers || h->width != l->cfg.width || h->n_rows > l->cfg.max_out ||
        w->n_values != (size_t)h->n_rows * h->width || l->n_results >= 2 * PIPELINE_MAX_DEPTH) {
        set_lost_locked(l, p->index, "it sent rows that nobody asked for");
        return;
    }
    struct result *r = malloc(sizeof(*r) + w->n_values * sizeof(float));
    if (!r) {
        set_lost_locked(l, p->index, "out of memory for its rows");
        return;
    }
    r->next = NULL;
    r->step = h->step;
    r->n_rows = h->n_rows;
    if (w->n_values)
        memcpy(r->rows, w->rows, w->n_values * sizeof(float));
    *l->results_tail = r;
    l->results_tail = &r->next;
    l->n_results++;
}

static void on_session_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)s;
    struct peer *p = ctx;
    struct stage_link *l = p->link;
    struct stage_wire w;
    Quire__SessionUp *up = NULL;
    if (stage_wire_parse(&w, data, n) == 0)
        up = (Quire__SessionUp *)(void *)rpc_unpack(&quire__session_up__descriptor, w.pb, w.n_pb,
                                                    1 << 16);
    pthread_mutex_lock(&l->lock);
    if (!up)
        set_lost_locked(l, p->index, "it sent a message that cannot be read");
    else if (up->kind_case == QUIRE__SESSION_UP__KIND_READY)
        take_ready(p, up->ready);
    else if (up->kind_case == QUIRE__SESSION_UP__KIND_HIDDEN)
        take_rows_locked(p, up->hidden, &w);
    else if (up->kind_case == QUIRE__SESSION_UP__KIND_ERROR)
        set_lost_locked(l, p->index, up->error);
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
    rpc_msg_free(up ? &up->base : NULL);
}

static void on_writable(struct rpc_stream *s, void *ctx)
{
    (void)s;
    struct stage_link *l = ((struct peer *)ctx)->link;
    pthread_mutex_lock(&l->lock);
    l->n_writable++;
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

static void on_close(struct rpc_stream *s, enum rpc_status status, const char *msg, void *ctx)
{
    (void)s;
    struct peer *p = ctx;
    struct stage_link *l = p->link;
    pthread_mutex_lock(&l->lock);
    set_lost_locked(l, p->index,
                    msg && *msg        ? msg
                    : status == RPC_OK ? "it left"
                                       : "no connection");
    l->n_streams--;
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

static void on_no_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    (void)data;
    (void)n;
    (void)ctx;
    rpc_stream_cancel(s); /* nothing may come back on a Hidden stream */
}

static const struct rpc_handler session_handler = {
    .on_message = on_session_message, .on_writable = on_writable, .on_close = on_close};
static const struct rpc_handler hidden_handler = {
    .on_message = on_no_message, .on_writable = on_writable, .on_close = on_close};

/* ---- driving thread ----------------------------------------------------------------------- */

/* Wait for a change; the caller holds the lock. Q_ETIMEOUT, Q_ECANCELLED, or how it was lost. */
static int wait_locked(struct stage_link *l, uint64_t until_ms, struct err *e)
{
    if (l->interrupted)
        return err_set(e, Q_ECANCELLED, "the link to the other shards was closed");
    if (l->lost_code)
        return err_set(e, l->lost_code, "%s", l->lost);
    if (clock_mono_ms() >= until_ms)
        return err_set(e, Q_ETIMEOUT, "the other shards of %s gave no answer in time",
                       l->cfg.replica_id);
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_cond_timedwait(&l->cond, &l->lock, &until);
    return 0;
}

void stage_link_drop(struct stage_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->session = 0;
    l->up = false;
    pthread_mutex_unlock(&l->lock);
    if (l->hidden)
        rpc_stream_cancel(l->hidden);
    for (uint32_t i = 0; i < l->n_peers; i++)
        if (l->peers[i].session)
            rpc_stream_cancel(l->peers[i].session);
    /* A cancelled stream's on_close comes soon and surely; the callbacks use our memory. */
    pthread_mutex_lock(&l->lock);
    while (l->n_streams > 0)
        pthread_cond_wait(&l->cond, &l->lock);
    while (l->results) {
        struct result *r = l->results;
        l->results = r->next;
        free(r);
    }
    l->results_tail = &l->results;
    l->n_results = 0;
    l->lost_code = 0;
    pthread_mutex_unlock(&l->lock);
    rpc_stream_unref(l->hidden);
    l->hidden = NULL;
    for (uint32_t i = 0; i < l->n_peers; i++) {
        rpc_stream_unref(l->peers[i].session);
        if (l->peers[i].channel)
            rpc_channel_close(l->peers[i].channel);
    }
    free(l->peers);
    l->peers = NULL;
    l->n_peers = 0;
}

/* Send, waiting while the stream's queue is full. */
static int send_wait(struct stage_link *l, struct rpc_stream *s, const struct ProtobufCMessage *m,
                     const float *rows, size_t n_values, uint64_t until_ms, struct err *e)
{
    for (;;) {
        pthread_mutex_lock(&l->lock);
        uint64_t seen = l->n_writable;
        pthread_mutex_unlock(&l->lock);
        int rc = stage_wire_send(s, m, rows, n_values);
        if (rc == 0)
            return 0;
        pthread_mutex_lock(&l->lock);
        int wrc = 0;
        if (rc == Q_ECANCELLED) { /* on_close says why */
            while (!l->lost_code && wrc == 0)
                wrc = wait_locked(l, until_ms, e);
            if (wrc == 0)
                wrc = wait_locked(l, until_ms, e);
        } else if (rc == Q_EFULL) {
            while (l->n_writable == seen && wrc == 0)
                wrc = wait_locked(l, until_ms, e);
        } else {
            wrc = err_set(e, rc, "cannot send to the other shards (%s)", err_name(rc));
        }
        pthread_mutex_unlock(&l->lock);
        if (wrc != 0)
            return wrc;
    }
}

static int open_stream(struct stage_link *l, struct peer *p, const char *method,
                       const struct rpc_handler *h, struct rpc_stream **out, struct err *e)
{
    struct rpc_call_config cc = {.method = method,
                                 .handler = h,
                                 .ctx = p,
                                 .wait_for_ready = true,
                                 .max_queue_bytes = STAGE_WIRE_QUEUE};
    pthread_mutex_lock(&l->lock);
    l->n_streams++;
    pthread_mutex_unlock(&l->lock);
    int rc = rpc_stream_open(out, p->channel, &cc, e);
    if (rc != 0) {
        *out = NULL;
        pthread_mutex_lock(&l->lock);
        l->n_streams--;
        pthread_mutex_unlock(&l->lock);
    }
    return rc;
}

static int check_peers(struct stage_link *l, struct err *e)
{
    uint32_t layer = l->cfg.layer_to;
    for (uint32_t i = 0; i < l->n_peers; i++) {
        const struct peer *p = &l->peers[i];
        if (strcmp(p->hash, l->cfg.model_hash) != 0)
            return err_set(e, Q_EINVAL, "shard %u of %s has another model file", p->index + 1,
                           l->cfg.replica_id);
        if (p->layer_from != layer || p->layer_to < layer)
            return err_set(e, Q_EINVAL, "shard %u of %s holds layers %u to %u, expected from %u",
                           p->index + 1, l->cfg.replica_id, p->layer_from, p->layer_to, layer);
        if (p->n_pages < l->cfg.n_pages)
            return err_set(e, Q_EINVAL, "shard %u of %s has %u KV pages, %u are needed",
                           p->index + 1, l->cfg.replica_id, p->n_pages, l->cfg.n_pages);
        layer = p->layer_to;
    }
    if (layer != l->cfg.n_layers)
        return err_set(e, Q_EINVAL, "the shards of %s end at layer %u of %u", l->cfg.replica_id,
                       layer, l->cfg.n_layers);
    return 0;
}

static uint64_t random_session(void)
{
    char hex[33];
    hash_random_id(hex);
    uint64_t s = hash_u64(hex, 32, 0);
    return s ? s : 1;
}

static int open_sessions(struct stage_link *l, const char *const *addr, uint64_t epoch,
                         uint64_t until_ms, struct err *e)
{
    for (uint32_t i = 0; i < l->n_peers; i++) {
        struct peer *p = &l->peers[i];
        int rc = rpc_channel_open(&p->channel, l->cfg.loop, addr[i], STAGE_WIRE_MAX_MESSAGE, e);
        if (rc == 0)
            rc = open_stream(l, p, STAGE_SESSION_METHOD, &session_handler, &p->session, e);
        if (rc != 0)
            return rc;
        Quire__SessionOpen so = QUIRE__SESSION_OPEN__INIT;
        so.replica_id = (char *)(uintptr_t)l->cfg.replica_id;
        so.epoch = epoch;
        so.index = p->index;
        so.n_shards = l->cfg.n_shards;
        so.next_address = (char *)(uintptr_t)(i + 1 < l->n_peers ? addr[i + 1] : "");
        so.session = l->session;
        Quire__SessionDown down = QUIRE__SESSION_DOWN__INIT;
        down.kind_case = QUIRE__SESSION_DOWN__KIND_OPEN;
        down.open = &so;
        rc = send_wait(l, p->session, &down.base, NULL, 0, until_ms, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int wait_ready(struct stage_link *l, uint64_t until_ms, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    for (uint32_t i = 0; i < l->n_peers && rc == 0;) {
        if (l->peers[i].ready)
            i++;
        else
            rc = wait_locked(l, until_ms, e);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

int stage_link_connect(struct stage_link *l, const char *const *addr, uint32_t n_peers,
                       uint64_t epoch, uint64_t until_ms, struct err *e)
{
    stage_link_drop(l);
    if (n_peers + 1 != l->cfg.n_shards)
        return err_set(e, Q_EINVAL, "%u peers given, a replica of %u shards needs %u", n_peers,
                       l->cfg.n_shards, l->cfg.n_shards - 1);
    l->peers = calloc(n_peers, sizeof(*l->peers));
    if (!l->peers)
        return err_set(e, Q_ENOMEM, "out of memory for %u shards", n_peers);
    l->n_peers = n_peers;
    for (uint32_t i = 0; i < n_peers; i++) {
        l->peers[i].link = l;
        l->peers[i].index = i + 1;
    }
    pthread_mutex_lock(&l->lock);
    l->session = random_session();
    pthread_mutex_unlock(&l->lock);
    int rc;
    if ((rc = open_sessions(l, addr, epoch, until_ms, e)) != 0 ||
        (rc = wait_ready(l, until_ms, e)) != 0 || (rc = check_peers(l, e)) != 0 ||
        (rc = open_stream(l, &l->peers[0], STAGE_HIDDEN_METHOD, &hidden_handler, &l->hidden, e)))
        return rc;
    pthread_mutex_lock(&l->lock);
    l->up = true;
    pthread_mutex_unlock(&l->lock);
    return 0;
}

/* Far more than any queue needs to drain; a peer that reads nothing for so long is lost. */
#define SEND_TIMEOUT_MS 60000

int stage_link_plan(struct stage_link *l, const struct step *s, struct err *e)
{
    int rc = stage_link_check(l, e);
    if (rc != 0)
        return rc;
    Quire__PlanSeq *seqs = calloc(s->n_seqs, sizeof(*seqs));
    Quire__PlanSeq **list = calloc(s->n_seqs, sizeof(*list));
    if (!seqs || !list)
        rc = err_set(e, Q_ENOMEM, "out of memory for a plan of %u sequences", s->n_seqs);
    Quire__StepPlan plan = QUIRE__STEP_PLAN__INIT;
    for (uint32_t i = 0; i < s->n_seqs && rc == 0; i++) {
        quire__plan_seq__init(&seqs[i]);
        seqs[i].n_rows = s->seqs[i].n_rows;
        seqs[i].n_ctx = s->seqs[i].n_ctx;
        seqs[i].n_pages = (s->seqs[i].n_ctx + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
        seqs[i].pages = (uint32_t *)(uintptr_t)s->seqs[i].pages;
        list[i] = &seqs[i];
    }
    plan.step = s->id;
    plan.n_rows = s->n_rows;
    plan.n_seqs = s->n_seqs;
    plan.seqs = list;
    plan.n_out_rows = s->n_out;
    plan.out_rows = (uint32_t *)(uintptr_t)s->out_rows;
    Quire__SessionDown down = QUIRE__SESSION_DOWN__INIT;
    down.kind_case = QUIRE__SESSION_DOWN__KIND_PLAN;
    down.plan = &plan;
    for (uint32_t i = 0; i < l->n_peers && rc == 0; i++)
        rc = send_wait(l, l->peers[i].session, &down.base, NULL, 0,
                       clock_mono_ms() + SEND_TIMEOUT_MS, e);
    free(seqs);
    free(list);
    return rc;
}

int stage_link_hidden(struct stage_link *l, uint64_t step, uint32_t n_rows, const float *rows,
                      struct err *e)
{
    Quire__HiddenHead h = QUIRE__HIDDEN_HEAD__INIT;
    h.session = l->session;
    h.step = step;
    h.n_rows = n_rows;
    h.width = l->cfg.width;
    return send_wait(l, l->hidden, &h.base, rows, (size_t)n_rows * l->cfg.width,
                     clock_mono_ms() + SEND_TIMEOUT_MS, e);
}

int stage_link_result(struct stage_link *l, uint64_t step, uint32_t n_out, float *rows,
                      uint64_t until_ms, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    while (!l->results && rc == 0)
        rc = wait_locked(l, until_ms, e);
    struct result *r = l->results;
    if (rc == 0) {
        l->results = r->next;
        if (!l->results)
            l->results_tail = &l->results;
        l->n_results--;
    }
    pthread_mutex_unlock(&l->lock);
    if (rc != 0)
        return rc;
    if (r->step != step || r->n_rows != n_out)
        rc = err_set(e, Q_EUNAVAILABLE, "the last shard of %s answered another step",
                     l->cfg.replica_id);
    else
        memcpy(rows, r->rows, (size_t)n_out * l->cfg.width * sizeof(float));
    free(r);
    return rc;
}
