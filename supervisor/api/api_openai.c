/* SPDX-License-Identifier: Apache-2.0 */
/* A job is one HTTP request on its way: one call to the gateway per prompt, n choices each. It
 * ends in exactly one of three ways, each of which frees it: the answer was sent (finish), a
 * call failed (fail), the client left (on_client_gone).
 *
 * A stream's status line waits for the first token, so that errors before it keep their real
 * status; only a prefill longer than KEEPALIVE_MS starts it earlier, with a comment line, so
 * that nobody on the way takes the connection for dead. */
#include "supervisor/api/api_openai.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEPALIVE_MS     15000
#define MAX_ANSWER_BYTES ((size_t)64 << 20)
#define MAX_RUNNING      16 /* calls of one request at a time */

struct oa_ticker {
    uv_timer_t timer;
    struct api *api;
};

static void start_calls(struct oa_job *j);
static void fail(struct oa_job *j, const struct api_fault *f);

/* ---- life ---------------------------------------------------------------------------------- */

static void ticker_freed(uv_handle_t *h)
{
    free(h->data);
}

static void job_unlink(struct oa_job *j)
{
    struct api *api = j->api;
    if (j->prev)
        j->prev->next = j->next;
    else
        api->openai_jobs = j->next;
    if (j->next)
        j->next->prev = j->prev;
    /* The timer goes with the last job, so that an idle server's loop can end. */
    if (!api->openai_jobs && api->openai_ticker) {
        uv_close((uv_handle_t *)&api->openai_ticker->timer, ticker_freed);
        api->openai_ticker = NULL;
    }
}

/* Stops what still runs. j->r is the caller's business. */
static void job_free(struct oa_job *j)
{
    for (size_t i = 0; i < j->n_calls; i++)
        gateway_cancel(j->calls[i].call);
    job_unlink(j);
    for (size_t i = 0; i < j->n_choices; i++)
        oa_choice_fini(&j->choices[i]);
    buf_fini(&j->head);
    buf_fini(&j->out);
    oa_params_fini(&j->params);
    free(j->choices);
    free(j->calls);
    free(j->model);
    free(j);
}

static void on_client_gone(struct http_req *r, void *ctx)
{
    (void)r;
    job_free(ctx);
}

/* ---- stream -------------------------------------------------------------------------------- */

static void stream_start(struct oa_job *j)
{
    if (j->started)
        return;
    j->started = true;
    http_set_header(j->r, "Cache-Control", "no-cache");
    http_set_header(j->r, "X-Accel-Buffering", "no");
    http_stream_start(j->r, 200, "text/event-stream; charset=utf-8");
}

static void pause_calls(struct oa_job *j, bool paused)
{
    for (size_t i = 0; i < j->n_calls; i++)
        if (j->calls[i].call)
            gateway_pause(j->calls[i].call, paused);
}

/* Send what j->out holds, all events of this moment as one write. */
static void stream_send(struct oa_job *j)
{
    if (j->out.len == 0 && !j->out.failed)
        return;
    if (j->out.failed) {
        struct api_fault f;
        api_fault_set(&f, 503, NULL, NULL, "out of memory");
        fail(j, &f);
        return;
    }
    stream_start(j);
    int rc = http_stream_write(j->r, j->out.data, j->out.len);
    buf_clear(&j->out);
    j->last_sent_ms = clock_mono_ms();
    if (rc == Q_EFULL && !j->full) {
        j->full = true;
        pause_calls(j, true);
    }
}

static void on_client_ready(struct http_req *r, void *ctx)
{
    struct oa_job *j = ctx;
    (void)r;
    j->full = false;
    pause_calls(j, false);
}

static unsigned keepalive_ms(const struct api *api)
{
    return api->keepalive_ms ? api->keepalive_ms : KEEPALIVE_MS;
}

static void on_tick(uv_timer_t *t)
{
    struct oa_ticker *ticker = t->data;
    struct api *api = ticker->api;
    uint64_t now = clock_mono_ms();
    for (struct oa_job *j = api->openai_jobs, *next; j; j = next) {
        next = j->next;
        if (j->stream && !j->full && now - j->last_sent_ms >= keepalive_ms(api)) {
            buf_puts(&j->out, ": ping\n\n");
            stream_send(j);
        }
    }
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* Frees the job. */
static void fail(struct oa_job *j, const struct api_fault *f)
{
    struct http_req *r = j->r;
    if (!j->started) {
        job_free(j);
        api_fault_send(r, f);
        return;
    }
    /* The status is long gone: the error is the last event, and [DONE] stays out. */
    struct buf b;
    buf_init(&b, 16 << 10);
    buf_puts(&b, "data: {\"error\":");
    api_fault_object(&b, f);
    buf_puts(&b, "}\n\n");
    job_free(j);
    http_stream_write(r, b.data, b.len);
    http_stream_end(r);
    buf_fini(&b);
}

static void finish(struct oa_job *j)
{
    struct http_req *r = j->r;
    if (j->stream) {
        if (j->include_usage)
            oa_chunk_usage(j);
        buf_puts(&j->out, "data: [DONE]\n\n");
        stream_start(j);
        http_stream_write(r, buf_cstr(&j->out), j->out.len);
        job_free(j);
        http_stream_end(r);
        return;
    }
    struct buf b;
    buf_init(&b, MAX_ANSWER_BYTES);
    oa_write_answer(j, &b);
    job_free(j);
    if (b.failed)
        api_error(r, 500, NULL, NULL, "the answer is too large");
    else
        http_respond_json(r, 200, &b);
    buf_fini(&b);
}

/* ---- events of the gateway ----------------------------------------------------------------- */

static void on_started(void *ctx, const Quire__Started *s)
{
    struct oa_call *c = ctx;
    c->n_prompt = s->n_prompt_tokens;
    c->n_cached = s->n_cached_tokens;
}

static uint32_t index_of(const struct oa_call *c, uint32_t choice)
{
    return c->index * c->job->n + choice;
}

static void on_delta(void *ctx, const Quire__Delta *d)
{
    struct oa_call *c = ctx;
    struct oa_job *j = c->job;
    uint32_t i = index_of(c, d->choice);
    oa_note_delta(j, &j->choices[i], d);
    if (j->stream) {
        oa_chunk_delta(j, i, d);
        stream_send(j);
    }
}

static void on_finished(void *ctx, const Quire__Finished *f)
{
    struct oa_call *c = ctx;
    struct oa_job *j = c->job;
    uint32_t i = index_of(c, f->choice);
    struct oa_choice *choice = &j->choices[i];
    choice->reason = (uint8_t)f->reason;
    choice->n_tokens = f->n_completion_tokens;
    if (f->n_prompt_tokens)
        c->n_prompt = f->n_prompt_tokens;
    const char *kept = j->keep_stop ? f->stop_text : "";
    if (!j->stream) {
        buf_puts(&choice->text, kept);
        return;
    }
    if (*kept)
        oa_chunk_text(j, i, kept);
    /* Tokens whose text was cut off by a stop leave no log probabilities. */
    for (int k = 0; k < 4; k++)
        buf_clear(&choice->lp[k]);
    oa_chunk_finish(j, i);
    /* Sent by on_done or the next event: the end leaves in one packet. */
    if (j->n > 1 || j->n_calls > 1)
        stream_send(j);
}

static void on_done(void *ctx)
{
    struct oa_call *c = ctx;
    struct oa_job *j = c->job;
    c->call = NULL;
    j->n_over++;
    if (j->n_over == j->n_calls)
        finish(j);
    else
        start_calls(j);
}

static void fault_of(const struct oa_job *j, int code, const char *text, struct api_fault *f)
{
    api_fault_from(f, code, text);
    if (code == Q_ENOTFOUND) {
        snprintf(f->param, sizeof f->param, "model");
        f->code = "model_not_found";
        f->type = "invalid_request_error";
    } else if (code == Q_EUNAVAILABLE) {
        f->code = strstr(text, "loading")         ? "model_loading"
                  : strstr(text, "was lost")      ? "replica_lost"
                  : strstr(text, "shutting down") ? "shutting_down"
                                                  : "overloaded";
    } else if (code == Q_EINVAL) {
        api_fault_param_of_text(f);
        if (j->chat && strcmp(f->param, "prompt") == 0)
            snprintf(f->param, sizeof f->param, "messages");
        if (*f->param && strcmp(f->param, j->constraint_field) == 0)
            f->code = oa_format_code(j->constraint);
        else if (strncmp(f->param, "tools[", 6) == 0)
            f->code = "invalid_json_schema";
        if (strstr(text, "maximum context length") || strstr(text, "available context size")) {
            f->code = "context_length_exceeded";
            snprintf(f->param, sizeof f->param, "%s", j->chat ? "messages" : "prompt");
        }
    }
}

static void on_error(void *ctx, int code, const char *text)
{
    struct oa_call *c = ctx;
    struct api_fault f;
    c->call = NULL;
    fault_of(c->job, code, text, &f);
    fail(c->job, &f);
}

static const struct gateway_events events = {on_started, on_delta, on_finished, on_done, on_error};

/* ---- start --------------------------------------------------------------------------------- */

/* Start calls up to MAX_RUNNING; may free the job. */
static void start_calls(struct oa_job *j)
{
    while (j->n_started < j->n_calls && j->n_started - j->n_over < MAX_RUNNING) {
        struct oa_call *c = &j->calls[j->n_started];
        struct oa_params *p = &j->params;
        char id[80];
        struct err e = {0};
        snprintf(id, sizeof id, "%s-%zu", j->id, j->n_started);
        p->msg.request_id = id;
        if (!j->chat) {
            struct oa_prompt *prompt = &p->prompts[j->n_started];
            p->msg.has_prompt = prompt->text != NULL;
            p->msg.prompt = prompt->text ? prompt->text : (char *)protobuf_c_empty_string;
            p->msg.prompt_tokens = prompt->tokens;
            p->msg.n_prompt_tokens = prompt->n_tokens;
        }
        int rc = gateway_generate(j->api->gateway, j->model, &p->msg, &events, c, &c->call, &e);
        if (rc) {
            struct api_fault f;
            fault_of(j, rc, e.msg, &f);
            fail(j, &f);
            return;
        }
        if (j->full)
            gateway_pause(c->call, true);
        j->n_started++;
    }
    /* A stream need not keep its prompt in memory. */
    if (j->n_started == j->n_calls)
        oa_params_fini(&j->params);
}

static void fingerprint(struct oa_job *j)
{
    struct model_info m;
    uint64_t h = hash_u64(QUIRE_VERSION, strlen(QUIRE_VERSION), 1);
    if (control_model(j->api->control, j->model, &m)) {
        const char *const parts[] = {m.name, m.format, m.quantization, m.size_in_billions, m.path};
        for (size_t i = 0; i < NUM_COUNT(parts); i++)
            if (parts[i])
                h = hash_u64(parts[i], strlen(parts[i]), h);
    }
    snprintf(j->fingerprint, sizeof j->fingerprint, "b%s-%08x", QUIRE_VERSION, (uint32_t)h);
}

/* Takes what the params say into the job; 0 or -1: out of memory. */
static int job_fill(struct oa_job *j)
{
    const struct oa_params *p = &j->params;
    char hex[33];
    hash_random_id(hex);
    snprintf(j->id, sizeof j->id, "%s-%s", p->chat ? "chatcmpl" : "cmpl", hex);
    j->chat = p->chat;
    j->stream = p->stream;
    j->include_usage = p->include_usage;
    j->running_usage = p->running_usage;
    j->keep_stop = p->keep_stop;
    j->logprobs = p->logprobs;
    j->one_call = p->one_call;
    j->legacy = p->legacy;
    j->drop_reasoning = p->drop_reasoning;
    j->echo = p->msg.echo;
    j->top_logprobs = p->top_logprobs;
    j->constraint = p->constraint.kind;
    snprintf(j->constraint_field, sizeof j->constraint_field, "%s", p->constraint_field);
    j->n = p->n;
    j->created = clock_unix_s();
    j->last_sent_ms = clock_mono_ms();
    j->model = strdup(p->model);
    j->n_choices = p->n_prompts * p->n;
    j->calls = calloc(p->n_prompts, sizeof *j->calls);
    j->choices = calloc(j->n_choices, sizeof *j->choices);
    if (!j->model || !j->calls || !j->choices) {
        j->n_choices = 0;
        return -1;
    }
    j->n_calls = p->n_prompts;
    for (uint32_t i = 0; i < j->n_calls; i++) {
        j->calls[i].job = j;
        j->calls[i].index = i;
    }
    for (size_t i = 0; i < j->n_choices; i++) {
        buf_init(&j->choices[i].text, MAX_ANSWER_BYTES);
        buf_init(&j->choices[i].reasoning, MAX_ANSWER_BYTES);
        for (int k = 0; k < 4; k++)
            buf_init(&j->choices[i].lp[k], MAX_ANSWER_BYTES);
    }
    fingerprint(j);
    if (j->stream)
        oa_write_head(j);
    return 0;
}

static void job_link(struct oa_job *j)
{
    struct api *api = j->api;
    j->next = api->openai_jobs;
    if (j->next)
        j->next->prev = j;
    api->openai_jobs = j;
    if (api->openai_ticker)
        return;
    struct oa_ticker *t = calloc(1, sizeof *t);
    if (!t)
        return; /* no keep-alive comments, but answers */
    t->api = api;
    uv_timer_init(http_loop(j->r), &t->timer);
    t->timer.data = t;
    unsigned tick_ms = NUM_MIN(1000u, keepalive_ms(api));
    uv_timer_start(&t->timer, on_tick, tick_ms, tick_ms);
    api->openai_ticker = t;
}

static void handle(struct http_req *r, struct api *api, bool chat)
{
    struct jv *body = api_json_body(r);
    if (!body)
        return;
    struct oa_job *j = calloc(1, sizeof *j);
    if (!j) {
        jv_free(body);
        api_error(r, 503, NULL, NULL, "out of memory");
        return;
    }
    j->api = api;
    j->r = r;
    buf_init(&j->head, 64 << 10);
    buf_init(&j->out, (size_t)16 << 20);
    job_link(j);
    struct api_fault f;
    int rc = oa_params_parse(&j->params, api, body, chat, &f);
    if (rc == 0 && job_fill(j))
        rc = api_fault_set(&f, 503, NULL, NULL, "out of memory");
    if (rc) {
        fail(j, &f);
        return;
    }
    http_body_drop(r);
    http_watch(r, on_client_gone, on_client_ready, j);
    start_calls(j);
}

static void chat_completions(struct http_req *r, void *ctx)
{
    handle(r, ctx, true);
}

static void completions(struct http_req *r, void *ctx)
{
    handle(r, ctx, false);
}

void api_openai_register(struct http_server *s, struct api *api)
{
    static const struct http_route routes[] = {
        {"POST", "/v1/chat/completions", chat_completions},
        {"POST", "/chat/completions", chat_completions},
        {"POST", "/v1/completions", completions},
        {"POST", "/completions", completions},
    };
    http_server_add(s, routes, NUM_COUNT(routes), api);
}
