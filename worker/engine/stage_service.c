/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/stage_service.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mbox.h"
#include "base/num.h"
#include "proto/stage.pb-c.h"
#include "worker/engine/pipeline.h"
#include "worker/engine/stage_wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Steps that may wait: more than a head ever has under way. */
#define MAX_QUEUED (4 * PIPELINE_MAX_DEPTH)
/* Messages in the mailbox: steps of one session, and opens and ends of streams. */
#define MAX_MAIL        (4 * MAX_QUEUED)
#define SEND_TIMEOUT_MS 60000

enum mail_kind {
    MAIL_OPEN,  /* a SessionOpen on stream */
    MAIL_PLAN,  /* a StepPlan on stream */
    MAIL_ROWS,  /* hidden rows */
    MAIL_ENDED, /* a Session stream is over */
    MAIL_NEXT   /* our Hidden stream to the next shard is over */
};

struct mail {
    struct mbox_msg link;
    enum mail_kind kind;
    struct rpc_stream *stream; /* a reference */
    Quire__SessionDown *down;  /* OPEN, PLAN */
    uint64_t session, step;    /* ROWS; session also in NEXT */
    uint32_t n_rows;
    struct mail *next; /* in the compute thread's queues */
    char why[200];     /* NEXT */
    float rows[];
};

struct mail_queue {
    struct mail *head, **tail;
    unsigned n;
};

/* The stream to the next shard; freed by its on_close. */
struct next_stream {
    struct stage_service *svc;
    uint64_t session;
};

struct stage_service {
    struct stage_service_config cfg;
    struct mbox mbox;
    pthread_t thread;
    bool has_thread;
    struct mbox_msg stop_mail;

    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stopped;
    uint64_t n_writable;          /* on_writable and on_close of our outgoing streams */
    struct rpc_stream *hidden_in; /* the newest stream of rows, to end it when we stop */
    unsigned n_next;              /* next_streams whose on_close has not run */

    /* Compute thread. */
    struct rpc_stream *head; /* the Session stream; NULL: no session */
    uint64_t session, epoch;
    bool last;
    struct rpc_channel *next_channel;
    struct rpc_stream *next;
    struct mail_queue plans, rows;
    struct batch_seq *seqs;
    float *out;
};

static void *compute_main(void *arg);

int stage_service_open(struct stage_service **out, const struct stage_service_config *cfg,
                       struct err *e)
{
    *out = NULL;
    struct stage_service *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, Q_ENOMEM, "out of memory for the stage service");
    s->cfg = *cfg;
    s->epoch = cfg->epoch;
    s->plans.tail = &s->plans.head;
    s->rows.tail = &s->rows.head;
    mbox_init(&s->mbox, MAX_MAIL, NULL, NULL);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->cond, &attr);
    pthread_condattr_destroy(&attr);
    size_t n;
    s->seqs = calloc(cfg->max_seqs, sizeof(*s->seqs));
    s->out = num_mul((size_t)cfg->max_rows * sizeof(float), cfg->width, &n) ? malloc(n) : NULL;
    int rc = 0;
    if (!s->seqs || !s->out)
        rc = err_set(e, Q_ENOMEM, "out of memory for %u rows of hidden states", cfg->max_rows);
    else if (pthread_create(&s->thread, NULL, compute_main, s) != 0)
        rc = err_set(e, Q_EIO, "cannot start the stage thread");
    else
        s->has_thread = true;
    if (rc != 0) {
        stage_service_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

static void mail_free(struct mail *m)
{
    if (!m)
        return;
    rpc_stream_unref(m->stream);
    rpc_msg_free(m->down ? &m->down->base : NULL);
    free(m);
}

void stage_service_stop(struct stage_service *s)
{
    if (!s->has_thread)
        return;
    mbox_push_force(&s->mbox, &s->stop_mail);
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    s->has_thread = false;
}

void stage_service_close(struct stage_service *s)
{
    if (!s)
        return;
    stage_service_stop(s);
    for (struct mbox_msg *m = mbox_take(&s->mbox), *next; m; m = next) {
        next = m->next;
        mail_free((struct mail *)(void *)m);
    }
    mbox_fini(&s->mbox);
    rpc_stream_unref(s->hidden_in);
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->lock);
    free(s->seqs);
    free(s->out);
    free(s);
}

/* ---- callbacks, on the loop thread -------------------------------------------------------- */

static struct mail *mail_new(enum mail_kind kind, struct rpc_stream *stream, size_t n_values)
{
    struct mail *m = calloc(1, sizeof(*m) + n_values * sizeof(float));
    if (!m)
        return NULL;
    m->kind = kind;
    m->stream = stream ? rpc_stream_ref(stream) : NULL;
    return m;
}

static void on_session_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    struct stage_service *s = ctx;
    struct stage_wire w;
    Quire__SessionDown *d = NULL;
    if (stage_wire_parse(&w, data, n) == 0 && w.n_values == 0)
        d = (Quire__SessionDown *)(void *)rpc_unpack(&quire__session_down__descriptor, w.pb, w.n_pb,
                                                     8 * STAGE_WIRE_MAX_PB);
    if (!d || d->kind_case == QUIRE__SESSION_DOWN__KIND__NOT_SET) {
        rpc_msg_free(d ? &d->base : NULL);
        rpc_stream_finish(st, RPC_INVALID, "the message cannot be read");
        return;
    }
    bool open = d->kind_case == QUIRE__SESSION_DOWN__KIND_OPEN;
    struct mail *m = mail_new(open ? MAIL_OPEN : MAIL_PLAN, st, 0);
    if (m)
        m->down = d;
    else
        rpc_msg_free(&d->base);
    if (!m || mbox_push(&s->mbox, &m->link) != 0) {
        mail_free(m);
        rpc_stream_finish(st, RPC_EXHAUSTED, "too many messages wait");
    }
}

static void on_outgoing_change(struct rpc_stream *st, void *ctx)
{
    (void)st;
    struct stage_service *s = ctx;
    pthread_mutex_lock(&s->lock);
    s->n_writable++;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

static void on_session_close(struct rpc_stream *st, enum rpc_status status, const char *msg,
                             void *ctx)
{
    (void)status;
    (void)msg;
    struct stage_service *s = ctx;
    on_outgoing_change(st, s);
    struct mail *m = mail_new(MAIL_ENDED, st, 0);
    if (m)
        mbox_push_force(&s->mbox, &m->link); /* one per stream */
}

static void on_session_open(struct rpc_stream *st, void *ctx)
{
    static const struct rpc_handler h = {.on_message = on_session_message,
                                         .on_writable = on_outgoing_change,
                                         .on_close = on_session_close};
    rpc_stream_set_handler(st, &h, ctx);
}

static void on_hidden_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    struct stage_service *s = ctx;
    struct stage_wire w;
    Quire__HiddenHead *h = NULL;
    if (stage_wire_parse(&w, data, n) == 0)
        h = (Quire__HiddenHead *)(void *)rpc_unpack(&quire__hidden_head__descriptor, w.pb, w.n_pb,
                                                    4096);
    bool ok = h && h->width == s->cfg.width && h->n_rows <= s->cfg.max_rows &&
              w.n_values == (size_t)h->n_rows * h->width;
    struct mail *m = ok ? mail_new(MAIL_ROWS, NULL, w.n_values) : NULL;
    if (m) {
        m->session = h->session;
        m->step = h->step;
        m->n_rows = h->n_rows;
        if (w.n_values)
            memcpy(m->rows, w.rows, w.n_values * sizeof(float));
    }
    rpc_msg_free(h ? &h->base : NULL);
    if (!m || mbox_push(&s->mbox, &m->link) != 0) {
        mail_free(m);
        rpc_stream_finish(st, ok ? RPC_EXHAUSTED : RPC_INVALID,
                          ok ? "too many rows wait" : "the rows cannot be read");
    }
}

static void on_hidden_open(struct rpc_stream *st, void *ctx)
{
    static const struct rpc_handler h = {.on_message = on_hidden_message};
    struct stage_service *s = ctx;
    rpc_stream_set_handler(st, &h, ctx);
    pthread_mutex_lock(&s->lock);
    struct rpc_stream *before = s->hidden_in;
    s->hidden_in = rpc_stream_ref(st);
    pthread_mutex_unlock(&s->lock);
    rpc_stream_unref(before);
}

void stage_service_methods(struct stage_service *s, struct rpc_method *methods)
{
    methods[0] =
        (struct rpc_method){.name = STAGE_SESSION_METHOD, .on_open = on_session_open, .ctx = s};
    methods[1] =
        (struct rpc_method){.name = STAGE_HIDDEN_METHOD, .on_open = on_hidden_open, .ctx = s};
}

static void on_next_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    (void)data;
    (void)n;
    (void)ctx;
    rpc_stream_cancel(st);
}

static void on_next_writable(struct rpc_stream *st, void *ctx)
{
    on_outgoing_change(st, ((struct next_stream *)ctx)->svc);
}

static void on_next_close(struct rpc_stream *st, enum rpc_status status, const char *msg, void *ctx)
{
    (void)st;
    struct next_stream *n = ctx;
    struct stage_service *s = n->svc;
    struct mail *m = mail_new(MAIL_NEXT, NULL, 0);
    if (m) {
        m->session = n->session;
        snprintf(m->why, sizeof(m->why), "%s", msg && *msg ? msg : "no connection");
        (void)status;
        mbox_push_force(&s->mbox, &m->link);
    }
    free(n);
    pthread_mutex_lock(&s->lock);
    s->n_next--;
    s->n_writable++;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

/* ---- compute thread: sessions ------------------------------------------------------------- */

static void queue_put(struct mail_queue *q, struct mail *m)
{
    m->next = NULL;
    *q->tail = m;
    q->tail = &m->next;
    q->n++;
}

static struct mail *queue_take(struct mail_queue *q)
{
    struct mail *m = q->head;
    q->head = m->next;
    if (!q->head)
        q->tail = &q->head;
    q->n--;
    return m;
}

static void end_session(struct stage_service *s, enum rpc_status status, const char *why)
{
    if (s->head) {
        if (status != RPC_OK && status != RPC_CANCELLED)
            log_warn("stage", "session ended: %s", why);
        rpc_stream_finish(s->head, status, why);
        rpc_stream_unref(s->head);
        s->head = NULL;
    }
    s->session = 0;
    if (s->next) {
        rpc_stream_cancel(s->next);
        rpc_stream_unref(s->next);
        s->next = NULL;
    }
    if (s->next_channel) {
        rpc_channel_close(s->next_channel);
        s->next_channel = NULL;
    }
    while (s->plans.n)
        mail_free(queue_take(&s->plans));
    while (s->rows.n)
        mail_free(queue_take(&s->rows));
}

static int open_next(struct stage_service *s, const char *address, struct err *e)
{
    static const struct rpc_handler h = {
        .on_message = on_next_message, .on_writable = on_next_writable, .on_close = on_next_close};
    int rc = rpc_channel_open(&s->next_channel, s->cfg.loop, address, STAGE_WIRE_MAX_MESSAGE, e);
    if (rc != 0)
        return rc;
    struct next_stream *n = malloc(sizeof(*n));
    if (!n)
        return err_set(e, Q_ENOMEM, "out of memory for the link to the next shard");
    *n = (struct next_stream){.svc = s, .session = s->session};
    pthread_mutex_lock(&s->lock);
    s->n_next++;
    pthread_mutex_unlock(&s->lock);
    struct rpc_call_config cc = {.method = STAGE_HIDDEN_METHOD,
                                 .handler = &h,
                                 .ctx = n,
                                 .wait_for_ready = true,
                                 .max_queue_bytes = STAGE_WIRE_QUEUE};
    if ((rc = rpc_stream_open(&s->next, s->next_channel, &cc, e)) != 0) {
        s->next = NULL;
        free(n);
        pthread_mutex_lock(&s->lock);
        s->n_next--;
        pthread_mutex_unlock(&s->lock);
    }
    return rc;
}

static void begin_session(struct stage_service *s, struct mail *m)
{
    const Quire__SessionOpen *o = m->down->open;
    char why[256];
    if (o->epoch < s->epoch) {
        snprintf(why, sizeof(why), "epoch %llu is over, this is %llu", (unsigned long long)o->epoch,
                 (unsigned long long)s->epoch);
        rpc_stream_finish(m->stream, RPC_FAILED_PRECONDITION, why);
        return;
    }
    bool last = !o->next_address || !*o->next_address;
    if (o->index != s->cfg.index || o->n_shards != s->cfg.n_shards || o->session == 0 ||
        last != (s->cfg.index + 1 == s->cfg.n_shards)) {
        snprintf(why, sizeof(why), "this is shard %u of %u, not %u of %u", s->cfg.index + 1,
                 s->cfg.n_shards, o->index + 1, o->n_shards);
        rpc_stream_finish(m->stream, RPC_INVALID, why);
        return;
    }
    end_session(s, RPC_ABORTED, "a newer session took over");
    s->head = rpc_stream_ref(m->stream);
    s->epoch = o->epoch;
    s->session = o->session;
    s->last = last;
    struct err e = {0};
    if (!last && open_next(s, o->next_address, &e) != 0) {
        end_session(s, RPC_UNAVAILABLE, e.msg);
        return;
    }
    Quire__SessionReady r = QUIRE__SESSION_READY__INIT;
    r.layer_from = s->cfg.layer_from;
    r.layer_to = s->cfg.layer_to;
    r.n_pages = s->cfg.n_pages;
    r.model_hash = (char *)(uintptr_t)s->cfg.model_hash;
    Quire__SessionUp up = QUIRE__SESSION_UP__INIT;
    up.kind_case = QUIRE__SESSION_UP__KIND_READY;
    up.ready = &r;
    if (stage_wire_send(s->head, &up.base, NULL, 0) != 0)
        end_session(s, RPC_UNAVAILABLE, "the head does not listen");
    else
        log_info("stage", "session of epoch %llu began", (unsigned long long)s->epoch);
}

/* ---- compute thread: steps ---------------------------------------------------------------- */

/* Fill s->seqs from a plan, checked against every limit of the stage. */
static bool take_plan(struct stage_service *s, const Quire__StepPlan *p)
{
    if (p->n_rows == 0 || p->n_rows > s->cfg.max_rows || p->n_seqs == 0 ||
        p->n_seqs > s->cfg.max_seqs || p->n_out_rows > p->n_rows)
        return false;
    uint32_t row = 0;
    for (size_t i = 0; i < p->n_seqs; i++) {
        const Quire__PlanSeq *q = p->seqs[i];
        uint64_t n_pages = ((uint64_t)q->n_ctx + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
        if (q->n_rows == 0 || q->n_rows > p->n_rows - row || q->n_ctx < q->n_rows ||
            q->n_pages != n_pages || n_pages > s->cfg.n_pages)
            return false;
        for (size_t k = 0; k < q->n_pages; k++)
            if (q->pages[k] >= s->cfg.n_pages)
                return false;
        s->seqs[i] = (struct batch_seq){
            .first_row = row, .n_rows = q->n_rows, .n_ctx = q->n_ctx, .pages = q->pages};
        row += q->n_rows;
    }
    for (size_t i = 0; i < p->n_out_rows; i++)
        if (p->out_rows[i] >= p->n_rows || (i > 0 && p->out_rows[i] <= p->out_rows[i - 1]))
            return false;
    return row == p->n_rows;
}

/* Send rows on; waits while the queue is full, as long as the session lives. */
static int send_rows(struct stage_service *s, const struct ProtobufCMessage *m,
                     struct rpc_stream *to, size_t n_values)
{
    uint64_t until_ms = clock_mono_ms() + SEND_TIMEOUT_MS;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        uint64_t seen = s->n_writable;
        pthread_mutex_unlock(&s->lock);
        int rc = stage_wire_send(to, m, s->out, n_values);
        if (rc != Q_EFULL)
            return rc;
        struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                 .tv_nsec = (long)(until_ms % 1000) * 1000000};
        int wrc = 0;
        pthread_mutex_lock(&s->lock);
        while (s->n_writable == seen && !s->stopped && wrc == 0)
            wrc = pthread_cond_timedwait(&s->cond, &s->lock, &until);
        bool stopped = s->stopped;
        pthread_mutex_unlock(&s->lock);
        if (wrc != 0 || stopped)
            return wrc != 0 ? Q_ETIMEOUT : Q_ECANCELLED;
    }
}

static void run_step(struct stage_service *s, const Quire__StepPlan *p, const struct mail *rows)
{
    char why[128];
    if (rows->step != p->step || rows->n_rows != p->n_rows || !take_plan(s, p)) {
        end_session(s, RPC_INVALID, "the plan does not fit the rows or this shard");
        return;
    }
    struct batch b = {
        .n_rows = p->n_rows,
        .hidden = rows->rows,
        .seqs = s->seqs,
        .n_seqs = (uint32_t)p->n_seqs,
        .out_rows = p->out_rows,
        .n_out = (uint32_t)p->n_out_rows,
        .out_all = !s->last,
    };
    int rc = stage_run(s->cfg.stage, &b, s->out);
    if (rc != 0) {
        snprintf(why, sizeof(why), "it failed to compute a step (%s)", err_name(rc));
        end_session(s, RPC_INTERNAL, why);
        return;
    }
    Quire__HiddenHead h = QUIRE__HIDDEN_HEAD__INIT;
    h.session = s->session;
    h.step = p->step;
    h.n_rows = s->last ? b.n_out : b.n_rows;
    h.width = s->cfg.width;
    size_t n_values = (size_t)h.n_rows * h.width;
    if (s->last) {
        Quire__SessionUp up = QUIRE__SESSION_UP__INIT;
        up.kind_case = QUIRE__SESSION_UP__KIND_HIDDEN;
        up.hidden = &h;
        rc = send_rows(s, &up.base, s->head, n_values);
    } else {
        rc = send_rows(s, &h.base, s->next, n_values);
    }
    if (rc != 0) {
        snprintf(why, sizeof(why), "it cannot send its rows to shard %u (%s)",
                 s->last ? 1 : s->cfg.index + 2, err_name(rc));
        end_session(s, RPC_UNAVAILABLE, why);
    }
}

static void take_mail(struct stage_service *s, struct mail *m)
{
    char why[256];
    switch (m->kind) {
    case MAIL_OPEN:
        begin_session(s, m);
        break;
    case MAIL_PLAN:
        if (m->stream == s->head && s->plans.n < MAX_QUEUED) {
            queue_put(&s->plans, m);
            return;
        }
        if (m->stream == s->head)
            end_session(s, RPC_EXHAUSTED, "too many plans wait");
        else
            rpc_stream_finish(m->stream, RPC_FAILED_PRECONDITION, "no session on this stream");
        break;
    case MAIL_ROWS:
        if (m->session == s->session && s->head && s->rows.n < MAX_QUEUED) {
            queue_put(&s->rows, m);
            return;
        }
        break; /* of a session that is over */
    case MAIL_ENDED:
        if (m->stream == s->head)
            end_session(s, RPC_CANCELLED, "the head left");
        break;
    case MAIL_NEXT:
        if (m->session == s->session && s->head) {
            snprintf(why, sizeof(why), "its link to shard %u broke: %s", s->cfg.index + 2, m->why);
            end_session(s, RPC_UNAVAILABLE, why);
        }
        break;
    }
    mail_free(m);
}

static void *compute_main(void *arg)
{
    struct stage_service *s = arg;
    bool stop = false;
    while (!stop) {
        struct mbox_msg *list =
            s->plans.n && s->rows.n ? mbox_take(&s->mbox) : mbox_wait(&s->mbox, UINT64_MAX);
        for (struct mbox_msg *next; list; list = next) {
            next = list->next;
            if (list == &s->stop_mail)
                stop = true;
            else
                take_mail(s, (struct mail *)(void *)list);
        }
        if (!stop && s->head && s->plans.n && s->rows.n) {
            struct mail *plan = queue_take(&s->plans), *rows = queue_take(&s->rows);
            run_step(s, plan->down->plan, rows);
            mail_free(plan);
            mail_free(rows);
        }
    }
    end_session(s, RPC_UNAVAILABLE, "the shard is shutting down");
    /* The callbacks of our streams use our memory. */
    pthread_mutex_lock(&s->lock);
    if (s->hidden_in)
        rpc_stream_finish(s->hidden_in, RPC_UNAVAILABLE, "the shard is shutting down");
    while (s->n_next > 0)
        pthread_cond_wait(&s->cond, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
