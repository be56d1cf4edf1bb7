/* SPDX-License-Identifier: Apache-2.0 */
/* gen.h - one call of Generate inside the engine service. Private to its files:
 *
 *     gen.c          the life of a call: its stream, what is kept for it, its end
 *     gen_request.c  message -> prompt, constraint, parsers -> engine_submit
 *     gen_event.c    the engine's events -> GenerateEvents
 *
 * A gen is counted: the stream holds one until on_close, the text job one, the request one until
 * its CLOSED event. */
#ifndef QUIRE_ENGINE_GEN_H
#define QUIRE_ENGINE_GEN_H

#include "proto/engine.pb-c.h"
#include "worker/engine/answer.h"
#include "worker/engine/constraint.h"
#include "worker/engine/engine_service.h"
#include "worker/engine/text_pool.h"

#include <pthread.h>

#define GEN_MAX_UNPACKED ((size_t)512 << 20) /* memory of one message taken apart */

struct engine_service {
    struct engine_service_config cfg;
    struct text_pool *pool;
    const char *bos, *eos;             /* texts, "" if none */
    bool think_control;                /* the marks of reasoning are control tokens */
    char think_end[OUTPARSE_MAX_MARK]; /* "": no reasoning */
    uint32_t think_start;              /* the token that opens it, or TOKEN_NONE */
    /* Grammars are compiled beside the rest: they may take long, and hold up their own requests
     * only. */
    struct text_pool *slow;
    struct constraints *constraints;
    struct text_job warm;
};

struct kept; /* an event that did not fit into the stream's queue */

struct gen {
    struct text_job job;
    struct engine_service *svc;
    struct rpc_stream *stream;
    Quire__GenerateRequest *req;
    struct constraint *constraint;
    const char *format; /* of the answer's parser, NULL: not taken apart */
    bool within;        /* calls of strict tools keep a form, the text around them is free */
    struct buf text;    /* engine thread: token texts of one event */
    /* One per choice, NULL when the text goes out as it is. Made before the request, then the
     * engine thread's. */
    struct answer **answers;
    uint32_t n_answers;

    pthread_mutex_t lock; /* the rest */
    unsigned refs;
    struct request *request; /* NULL before submit */
    bool asked, over;        /* a request came; the call has ended */
    struct kept *kept, **kept_tail;
    bool finish; /* with these, after what is kept */
    enum rpc_status status;
    char msg[512];
};

/* RPC thread: a call came in; ctx is the engine_service. */
void gen_on_open(struct rpc_stream *st, void *ctx);
/* Text pool: check the request and hand it to the engine, or finish with what is wrong. Ends with
 * the job's reference. */
void gen_run(struct text_job *j);
/* Engine thread, or the one that closes the engine; ctx is the gen. */
void gen_on_event(void *ctx, const struct engine_event *ev);

/* Any thread. */
void gen_unref(struct gen *g);
/* Send, or keep and pause the request. */
void gen_send(struct gen *g, const Quire__GenerateEvent *ev);
/* End the call after what is kept. Only the first end counts. */
void gen_finish(struct gen *g, enum rpc_status status, const char *msg);

#endif
