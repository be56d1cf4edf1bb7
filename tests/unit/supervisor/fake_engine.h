/* SPDX-License-Identifier: Apache-2.0 */
/* fake_engine.h - a head shard without a model, and a control that knows a few models.
 *
 * The prompt (or the text of the conversation) is the script: its first word of the ones below
 * decides what comes back. Any other text is answered with max_tokens tokens (3 if unlimited)
 * "w0 ", "w1 " ... per choice. One engine per test program; its callbacks run on its own rpc
 * loop. */
#ifndef QUIRE_TESTS_FAKE_ENGINE_H
#define QUIRE_TESTS_FAKE_ENGINE_H

#include "base/num.h"
#include "proto/engine.pb-c.h"
#include "proto/rpc.h"
#include "supervisor/control/control.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_engine {
    struct rpc_loop *loop;
    struct rpc_server *server;
    char address[40];
    atomic_uint n_calls, n_cancelled, n_closed;
    pthread_mutex_t lock;
    Quire__GenerateRequest *last; /* the latest request, under lock */
    struct rpc_stream *parked;    /* of a SILENT or HANG request, under lock; counted */
};

struct fake_call {
    struct fake_engine *engine;
    bool flooding;
};

static inline void fake_send(struct rpc_stream *s, Quire__GenerateEvent *ev)
{
    (void)rpc_stream_send_msg(s, &ev->base);
}

static inline void fake_started(struct rpc_stream *s, uint32_t n_prompt)
{
    Quire__Started st = QUIRE__STARTED__INIT;
    st.n_prompt_tokens = n_prompt;
    st.n_cached_tokens = 2;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_STARTED;
    ev.started = &st;
    fake_send(s, &ev);
}

static inline int fake_delta(struct rpc_stream *s, uint32_t choice, const char *text,
                             uint32_t token, uint32_t n_top)
{
    Quire__Delta d = QUIRE__DELTA__INIT;
    Quire__TokenLogprob lp = QUIRE__TOKEN_LOGPROB__INIT, *lps = &lp;
    Quire__TopLogprob top = QUIRE__TOP_LOGPROB__INIT, *tops[20];
    d.choice = choice;
    d.text = (char *)(uintptr_t)text;
    d.tokens = &token;
    d.n_tokens = 1;
    if (n_top != UINT32_MAX) {
        lp.token = token;
        lp.text.data = (uint8_t *)(uintptr_t)text;
        lp.text.len = strlen(text);
        lp.logprob = -0.5;
        top.token = token;
        top.text = lp.text;
        top.logprob = -0.5;
        for (uint32_t i = 0; i < n_top && i < 20; i++)
            tops[i] = &top;
        lp.top = tops;
        lp.n_top = n_top;
        d.logprobs = &lps;
        d.n_logprobs = 1;
    }
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_DELTA;
    ev.delta = &d;
    return rpc_stream_send_msg(s, &ev.base);
}

/* More text of the token before. */
static inline void fake_text(struct rpc_stream *s, uint32_t choice, const char *text)
{
    Quire__Delta d = QUIRE__DELTA__INIT;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    d.choice = choice;
    d.text = (char *)(uintptr_t)text;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_DELTA;
    ev.delta = &d;
    fake_send(s, &ev);
}

static inline void fake_finished(struct rpc_stream *s, uint32_t choice, bool length, uint32_t n)
{
    Quire__Finished f = QUIRE__FINISHED__INIT;
    f.choice = choice;
    f.reason = length ? QUIRE__FINISH_REASON__FINISH_LENGTH : QUIRE__FINISH_REASON__FINISH_STOP;
    f.n_prompt_tokens = 7;
    f.n_completion_tokens = n;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_FINISHED;
    ev.finished = &f;
    fake_send(s, &ev);
}

/* A Delta of parsed output: text, reasoning or a piece of a call. */
static inline void fake_piece(struct rpc_stream *s, const char *text, const char *reasoning,
                              const Quire__ToolCallDelta *call)
{
    Quire__Delta d = QUIRE__DELTA__INIT;
    Quire__ToolCallDelta *calls = (Quire__ToolCallDelta *)(uintptr_t)call;
    uint32_t token = 9;
    d.tokens = &token;
    d.n_tokens = 1;
    d.text = (char *)(uintptr_t)text;
    d.reasoning = (char *)(uintptr_t)reasoning;
    d.tool_calls = &calls;
    d.n_tool_calls = call != NULL;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_DELTA;
    ev.delta = &d;
    fake_send(s, &ev);
}

static inline void fake_call_piece(struct rpc_stream *s, uint32_t index, const char *id,
                                   const char *name, const char *arguments, const char *broken)
{
    Quire__ToolCallDelta t = QUIRE__TOOL_CALL_DELTA__INIT;
    t.index = index;
    t.id = (char *)(uintptr_t)id;
    t.name = (char *)(uintptr_t)name;
    t.arguments = (char *)(uintptr_t)arguments;
    t.broken = (char *)(uintptr_t)broken;
    fake_piece(s, "", "", &t);
}

/* CALLS: reasoning and two calls. MIXED: text, a call, one that broke. BROKEN: only that. */
static inline void fake_calls(struct rpc_stream *s, const char *script)
{
    Quire__Finished f = QUIRE__FINISHED__INIT;
    bool broken = strstr(script, "BROKEN") != NULL, mixed = strstr(script, "MIXED") != NULL;
    fake_started(s, 7);
    if (mixed) {
        fake_piece(s, "I'll look. ", "", NULL);
    } else if (!broken) {
        fake_piece(s, "", "They want ", NULL);
        fake_piece(s, "", "the weather.", NULL);
    }
    if (!broken) {
        fake_call_piece(s, 0, "call_a", "weather", "", "");
        fake_call_piece(s, 0, "", "", "{\"city\":", "");
        fake_call_piece(s, 0, "", "", "\"Bern\"}", "");
    }
    fake_call_piece(s, broken ? 0 : 1, "call_b", "now", "", "");
    fake_call_piece(s, broken ? 0 : 1, "", "", "{", "");
    if (broken || mixed)
        fake_call_piece(s, broken ? 0 : 1, "", "", "", "<tool_call>{\"name\":\"now\",{");
    else
        fake_call_piece(s, 1, "", "", "}", "");
    f.reason = broken ? QUIRE__FINISH_REASON__FINISH_STOP : QUIRE__FINISH_REASON__FINISH_TOOL_CALLS;
    f.n_prompt_tokens = 7;
    f.n_completion_tokens = 20;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_FINISHED;
    ev.finished = &f;
    fake_send(s, &ev);
    rpc_stream_finish(s, RPC_OK, "");
}

static inline void fake_park(struct fake_engine *f, struct rpc_stream *s)
{
    pthread_mutex_lock(&f->lock);
    rpc_stream_unref(f->parked);
    f->parked = rpc_stream_ref(s);
    pthread_mutex_unlock(&f->lock);
}

static inline void fake_flood(struct rpc_stream *s, struct fake_call *c)
{
    static char text[32 * 1024];
    memset(text, 'f', sizeof text - 1);
    c->flooding = true;
    while (fake_delta(s, 0, text, 1, UINT32_MAX) == 0)
        ;
}

static inline void fake_answer(struct rpc_stream *s, const Quire__GenerateRequest *r)
{
    uint32_t n = r->max_tokens ? NUM_MIN(r->max_tokens, 5000u) : 3;
    uint32_t n_choices = r->n_choices ? r->n_choices : 1;
    fake_started(s, 7);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n_choices; k++) {
            char text[32];
            snprintf(text, sizeof text, "w%u ", i);
            fake_delta(s, k, text, 100 + i, r->logprobs ? r->top_logprobs : UINT32_MAX);
        }
    for (uint32_t k = 0; k < n_choices; k++)
        fake_finished(s, k, r->max_tokens > 0, n);
    rpc_stream_finish(s, RPC_OK, "");
}

/* LOSE: the same answer, but no replica lives for more than three tokens of a choice. A token
 * leaves in two Deltas; of the last one before the end only the first comes. */
static inline void fake_lose(struct rpc_stream *s, const Quire__GenerateRequest *r)
{
    uint32_t n = r->max_tokens, n_choices = r->n_choices ? r->n_choices : 1, i;
    uint32_t from = (uint32_t)r->n_accepted_tokens;
    fake_started(s, 7);
    for (i = from; i < n && i < from + 3; i++)
        for (uint32_t k = 0; k < n_choices; k++) {
            char text[32];
            snprintf(text, sizeof text, "%u ", i);
            fake_delta(s, r->choice_base + k, "w", 100 + i, UINT32_MAX);
            if (i < from + 2 || i + 1 == n)
                fake_text(s, r->choice_base + k, text);
        }
    for (uint32_t k = 0; i == n && k < n_choices; k++)
        fake_finished(s, r->choice_base + k, true, n);
    rpc_stream_finish(s, i == n ? RPC_OK : RPC_UNAVAILABLE, i == n ? "" : "gone");
}

static inline void fake_message(struct rpc_stream *s, const void *data, size_t n, void *ctx)
{
    struct fake_call *c = ctx;
    struct fake_engine *f = c->engine;
    Quire__GenerateRequest *r = (Quire__GenerateRequest *)(void *)rpc_unpack(
        &quire__generate_request__descriptor, data, n, (size_t)64 << 20);
    if (!r) {
        rpc_stream_finish(s, RPC_INVALID, "unreadable");
        return;
    }
    const char *script = r->has_prompt ? r->prompt : r->messages_json;
    if (strstr(script, "INVALID")) {
        rpc_stream_finish(s, RPC_INVALID, "the template said no");
    } else if (strstr(script, "TOOLONG")) {
        rpc_stream_finish(s, RPC_INVALID,
                          "This model's maximum context length is 64 tokens, but the prompt has 90 "
                          "tokens: the request exceeds the available context size");
    } else if (strstr(script, "BUSY")) {
        rpc_stream_finish(s, RPC_EXHAUSTED, "the queue is full");
    } else if (strstr(script, "SILENT")) {
        fake_park(f, s);
    } else if (strstr(script, "HANG")) {
        fake_started(s, 7);
        fake_delta(s, 0, "w0 ", 100, UINT32_MAX);
        fake_park(f, s);
    } else if (strstr(script, "EARLY")) {
        rpc_stream_finish(s, RPC_UNAVAILABLE, "gone before the first event");
    } else if (strstr(script, "BREAK")) {
        fake_started(s, 7);
        fake_delta(s, 0, "w0 ", 100, UINT32_MAX);
        rpc_stream_finish(s, RPC_UNAVAILABLE, "gone");
    } else if (strstr(script, "LOSE")) {
        fake_lose(s, r);
    } else if (strstr(script, "CALLS") || strstr(script, "MIXED") || strstr(script, "BROKEN")) {
        fake_calls(s, script);
    } else if (strstr(script, "FLOOD")) {
        fake_started(s, 7);
        fake_flood(s, c);
    } else {
        fake_answer(s, r);
    }
    pthread_mutex_lock(&f->lock);
    Quire__GenerateRequest *old = f->last;
    f->last = r;
    pthread_mutex_unlock(&f->lock);
    rpc_msg_free((struct ProtobufCMessage *)(void *)old);
    atomic_fetch_add(&f->n_calls, 1);
}

static inline void fake_writable(struct rpc_stream *s, void *ctx)
{
    struct fake_call *c = ctx;
    if (c->flooding)
        fake_flood(s, c);
}

static inline void fake_close(struct rpc_stream *s, enum rpc_status status, const char *msg,
                              void *ctx)
{
    struct fake_call *c = ctx;
    (void)s;
    (void)msg;
    if (status != RPC_OK)
        atomic_fetch_add(&c->engine->n_cancelled, 1);
    atomic_fetch_add(&c->engine->n_closed, 1);
    free(c);
}

static inline void fake_open(struct rpc_stream *s, void *ctx)
{
    static const struct rpc_handler handler = {
        .on_message = fake_message, .on_writable = fake_writable, .on_close = fake_close};
    struct fake_call *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->engine = ctx;
    rpc_stream_set_handler(s, &handler, c);
}

static inline void fake_engine_start(struct fake_engine *f)
{
    struct err e;
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    if (rpc_loop_open(&f->loop, "fake", &e))
        abort();
    static struct rpc_method methods[4];
    static unsigned n_methods;
    struct rpc_method *m = &methods[n_methods++ % 4];
    *m = (struct rpc_method){.name = "/quire.Engine/Generate", .on_open = fake_open, .ctx = f};
    struct rpc_server_config cfg = {.address = "127.0.0.1:0",
                                    .methods = m,
                                    .n_methods = 1,
                                    .max_message_bytes = (size_t)64 << 20};
    if (rpc_server_open(&f->server, f->loop, &cfg, &e))
        abort();
    snprintf(f->address, sizeof f->address, "127.0.0.1:%d", rpc_server_port(f->server));
}

static inline void fake_engine_stop(struct fake_engine *f)
{
    pthread_mutex_lock(&f->lock);
    rpc_stream_unref(f->parked);
    f->parked = NULL;
    pthread_mutex_unlock(&f->lock);
    rpc_server_close(f->server, 0);
    rpc_loop_close(f->loop);
    rpc_msg_free((struct ProtobufCMessage *)(void *)f->last);
    pthread_mutex_destroy(&f->lock);
}

/* ---- control ------------------------------------------------------------------------------- */

static struct model_info fake_models[4];
static unsigned n_fake_models;
static atomic_uint n_fake_failures;

bool control_model(const struct control *c, const char *uid, struct model_info *out)
{
    (void)c;
    for (unsigned i = 0; i < n_fake_models; i++)
        if (strcmp(fake_models[i].uid, uid) == 0) {
            *out = fake_models[i];
            return true;
        }
    return false;
}

size_t control_n_models(const struct control *c)
{
    (void)c;
    return n_fake_models;
}

bool control_model_at(const struct control *c, size_t i, struct model_info *out)
{
    (void)c;
    if (i >= n_fake_models)
        return false;
    *out = fake_models[i];
    return true;
}

void control_report_failure(struct control *c, const char *uid, uint32_t replica, uint64_t epoch)
{
    (void)c;
    (void)uid;
    (void)replica;
    (void)epoch;
    atomic_fetch_add(&n_fake_failures, 1);
}

static inline struct control *fake_control(void)
{
    static int anything;
    return (struct control *)(void *)&anything;
}

#endif
