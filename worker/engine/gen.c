/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/gen.h"

#include <stdio.h>
#include <stdlib.h>

/* An event that did not fit into the stream's queue. */
struct kept {
    struct kept *next;
    size_t n;
    void *data;
};

static void drop_kept_locked(struct gen *g)
{
    while (g->kept) {
        struct kept *k = g->kept;
        g->kept = k->next;
        free(k->data);
        free(k);
    }
    g->kept_tail = &g->kept;
}

void gen_unref(struct gen *g)
{
    pthread_mutex_lock(&g->lock);
    bool last = --g->refs == 0;
    pthread_mutex_unlock(&g->lock);
    if (!last)
        return;
    drop_kept_locked(g);
    request_unref(g->request);
    constraint_unref(g->constraint);
    rpc_msg_free(g->req ? &g->req->base : NULL);
    rpc_stream_unref(g->stream);
    for (uint32_t i = 0; i < g->n_answers; i++)
        answer_close(g->answers[i]);
    free(g->answers);
    buf_fini(&g->text);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static void finish_locked(struct gen *g, enum rpc_status status, const char *msg)
{
    if (g->finish)
        return;
    g->finish = true;
    g->status = status;
    snprintf(g->msg, sizeof(g->msg), "%s", msg);
    if (!g->kept)
        rpc_stream_finish(g->stream, status, g->msg);
}

void gen_finish(struct gen *g, enum rpc_status status, const char *msg)
{
    pthread_mutex_lock(&g->lock);
    finish_locked(g, status, msg);
    pthread_mutex_unlock(&g->lock);
}

static void keep_locked(struct gen *g, const Quire__GenerateEvent *ev)
{
    struct kept *k = calloc(1, sizeof(*k));
    if (!k || rpc_pack(&ev->base, &k->data, &k->n) != 0) {
        free(k);
        finish_locked(g, RPC_EXHAUSTED, "out of memory for an event");
        rpc_stream_cancel(g->stream);
        return;
    }
    *g->kept_tail = k;
    g->kept_tail = &k->next;
}

void gen_send(struct gen *g, const Quire__GenerateEvent *ev)
{
    pthread_mutex_lock(&g->lock);
    if (!g->over && !g->finish) {
        int rc = g->kept ? Q_EFULL : rpc_stream_send_msg(g->stream, &ev->base);
        if (rc == Q_EFULL) {
            keep_locked(g, ev);
            engine_pause(g->request);
        } else if (rc != 0 && rc != Q_ECANCELLED) {
            finish_locked(g, RPC_INTERNAL, "an event cannot be sent");
            engine_cancel(g->svc->cfg.engine, g->request);
        }
    }
    pthread_mutex_unlock(&g->lock);
}

static void on_writable(struct rpc_stream *st, void *ctx)
{
    struct gen *g = ctx;
    pthread_mutex_lock(&g->lock);
    bool was = g->kept != NULL;
    while (g->kept) {
        struct kept *k = g->kept;
        if (rpc_stream_send(st, k->data, k->n) == Q_EFULL)
            break;
        g->kept = k->next;
        free(k->data);
        free(k);
    }
    if (was && !g->kept) {
        g->kept_tail = &g->kept;
        if (g->finish)
            rpc_stream_finish(g->stream, g->status, g->msg);
        else if (g->request)
            engine_resume(g->svc->cfg.engine, g->request);
    }
    pthread_mutex_unlock(&g->lock);
}

static void on_close(struct rpc_stream *st, enum rpc_status status, const char *msg, void *ctx)
{
    (void)st;
    (void)msg;
    struct gen *g = ctx;
    pthread_mutex_lock(&g->lock);
    g->over = true;
    drop_kept_locked(g);
    if (status != RPC_OK && g->request)
        engine_cancel(g->svc->cfg.engine, g->request);
    pthread_mutex_unlock(&g->lock);
    gen_unref(g);
}

static void on_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    (void)st;
    struct gen *g = ctx;
    if (g->asked) {
        gen_finish(g, RPC_INVALID, "one request per call");
        return;
    }
    g->asked = true;
    g->req = (Quire__GenerateRequest *)(void *)rpc_unpack(&quire__generate_request__descriptor,
                                                          data, n, GEN_MAX_UNPACKED);
    if (!g->req) {
        gen_finish(g, RPC_INVALID, "the request cannot be read");
        return;
    }
    pthread_mutex_lock(&g->lock);
    g->refs++;
    pthread_mutex_unlock(&g->lock);
    g->job.run = gen_run;
    if (text_pool_push(g->svc->pool, &g->job) != 0) {
        gen_finish(g, RPC_EXHAUSTED, "the queue is full, try again");
        gen_unref(g);
    }
}

static void on_end(struct rpc_stream *st, void *ctx)
{
    (void)st;
    struct gen *g = ctx;
    if (!g->asked)
        gen_finish(g, RPC_INVALID, "the call had no request");
}

void gen_on_open(struct rpc_stream *st, void *ctx)
{
    static const struct rpc_handler h = {.on_message = on_message,
                                         .on_end = on_end,
                                         .on_writable = on_writable,
                                         .on_close = on_close};
    struct gen *g = calloc(1, sizeof(*g));
    if (!g) {
        rpc_stream_finish(st, RPC_EXHAUSTED, "out of memory");
        return;
    }
    g->svc = ctx;
    g->stream = rpc_stream_ref(st);
    g->refs = 1;
    g->kept_tail = &g->kept;
    buf_init(&g->text, (size_t)16 << 20);
    pthread_mutex_init(&g->lock, NULL);
    rpc_stream_set_handler(st, &h, g);
}
