/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/engine_service.h"

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/num.h"
#include "proto/engine.pb-c.h"
#include "worker/engine/answer.h"
#include "worker/engine/text_pool.h"
#include "worker/text/gram_tools.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_THREADS   2
#define SLOW_THREADS   2
#define SLOW_NICENESS  10
#define TEXT_JOBS      1024 /* as many as one connection may have calls (rpc_server) */
#define MAX_PROMPT     ((size_t)64 << 20) /* bytes of text before tokenising */
#define MAX_UNPACKED   ((size_t)512 << 20)
#define MAX_JSON_DEPTH 64

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

/* An event that did not fit into the stream's queue. */
struct kept {
    struct kept *next;
    size_t n;
    void *data;
};

/* One call of Generate. Counted: the stream (until on_close), the text job, the request (until
 * its CLOSED event). */
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

/* A call of Tokenize. */
struct tokenize {
    struct text_job job;
    struct engine_service *svc;
    struct rpc_stream *stream;
    Quire__TokenizeRequest *req;
};

static void on_generate(struct rpc_stream *st, void *ctx);
static void on_tokenize(struct rpc_stream *st, void *ctx);
static void on_status(struct rpc_stream *st, void *ctx);

static void find_think_marks(struct engine_service *s)
{
    const struct tokenizer *tok = s->cfg.tok;
    const char *format = s->cfg.format;
    char start[OUTPARSE_MAX_MARK];
    s->think_start = TOKEN_NONE;
    if (!format || !outparse_reasoning_marks(format, start, s->think_end))
        return;
    for (uint32_t i = 0; i < tokenizer_n_vocab(tok); i++) {
        const char *text = tokenizer_text(tok, i);
        size_t n = strlen(text);
        bool whole = strcmp(text, start) == 0;
        /* A mark of several tokens begins with a control token. */
        if (whole || (s->think_start == TOKEN_NONE && n > 2 && tokenizer_is_control(tok, i) &&
                      strncmp(text, start, n) == 0))
            s->think_start = i;
        if (tokenizer_is_control(tok, i) && outparse_marks_reasoning(format, text))
            s->think_control = true;
    }
}

static void run_warm(struct text_job *j)
{
    struct engine_service *s =
        (struct engine_service *)(void *)((char *)j - offsetof(struct engine_service, warm));
    struct err e;
    if (constraints_warm(s->constraints, &e) != 0)
        log_warn("engine", "constrained output: %s", e.msg);
}

int engine_service_open(struct engine_service **out, const struct engine_service_config *cfg,
                        struct err *e)
{
    *out = NULL;
    struct engine_service *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, Q_ENOMEM, "out of memory for the engine service");
    s->cfg = *cfg;
    uint32_t bos = tokenizer_bos(cfg->tok), eos = tokenizer_eos(cfg->tok);
    s->bos = bos != TOKEN_NONE ? tokenizer_text(cfg->tok, bos) : "";
    s->eos = eos != TOKEN_NONE ? tokenizer_text(cfg->tok, eos) : "";
    find_think_marks(s);
    int rc = text_pool_open(&s->pool, TEXT_THREADS, TEXT_JOBS, 0, e);
    if (rc == 0)
        rc = text_pool_open(&s->slow, SLOW_THREADS, TEXT_JOBS, SLOW_NICENESS, e);
    if (rc == 0)
        rc = constraints_open(&s->constraints, cfg->tok, e);
    s->warm.run = run_warm;
    if (rc == 0)
        rc = text_pool_push(s->slow, &s->warm);
    if (rc != 0) {
        engine_service_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void engine_service_methods(struct engine_service *s, struct rpc_method *m)
{
    m[0] = (struct rpc_method){"/quire.Engine/Generate", on_generate, s};
    m[1] = (struct rpc_method){"/quire.Engine/Tokenize", on_tokenize, s};
    m[2] = (struct rpc_method){"/quire.Engine/Status", on_status, s};
}

void engine_service_close(struct engine_service *s)
{
    if (!s)
        return;
    text_pool_close(s->pool); /* it may push to the slow one */
    text_pool_close(s->slow);
    constraints_close(s->constraints);
    free(s);
}

/* ---- life of a call ----------------------------------------------------------------------- */

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

static void gen_unref(struct gen *g)
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

/* End the call after what is kept. */
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

static void finish(struct gen *g, enum rpc_status status, const char *msg)
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

static void send_event(struct gen *g, const Quire__GenerateEvent *ev)
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

/* ---- events ------------------------------------------------------------------------------- */

/* Text of a token for people: its bytes, control tokens by name among the alternatives. */
static void put_piece(struct gen *g, uint32_t token, bool special)
{
    (void)tokenizer_piece(g->svc->cfg.tok, token, special, &g->text);
}

static struct answer *answer_of(const struct gen *g, uint32_t choice)
{
    uint32_t i = choice - g->req->choice_base;
    return i < g->n_answers ? g->answers[i] : NULL;
}

static void put_delta(void *ctx, const Quire__Delta *d)
{
    Quire__GenerateEvent out = QUIRE__GENERATE_EVENT__INIT;
    out.kind_case = QUIRE__GENERATE_EVENT__KIND_DELTA;
    out.delta = (Quire__Delta *)(uintptr_t)d;
    send_event(ctx, &out);
}

static void answer_failed(struct gen *g)
{
    finish(g, RPC_EXHAUSTED, "out of memory for an answer");
    engine_cancel(g->svc->cfg.engine, g->request);
}

/* The text of an event, as it is or taken apart. */
static void put_text(struct gen *g, const struct engine_event *ev, Quire__Delta *d)
{
    struct answer *a = answer_of(g, ev->choice);
    if (!a) {
        d->text = (char *)(uintptr_t)ev->text;
        put_delta(g, d);
    } else if (answer_feed(a, ev->text, ev->text_len, d, put_delta, g) != 0) {
        answer_failed(g);
    }
}

static void send_delta(struct gen *g, const struct engine_event *ev)
{
    Quire__Delta d = QUIRE__DELTA__INIT;
    d.choice = ev->choice;
    d.n_tokens = ev->n_tokens;
    d.tokens = (uint32_t *)(uintptr_t)ev->tokens;
    d.forced = ev->hurried;
    if (ev->n_logprobs == 0) {
        put_text(g, ev, &d);
        return;
    }
    size_t n = ev->n_logprobs, n_top = 0, at = 0, t = 0;
    for (size_t i = 0; i < n; i++)
        n_top += ev->logprobs[i].n_top;
    Quire__TokenLogprob *lp = calloc(n, sizeof(*lp));
    Quire__TokenLogprob **lps = calloc(n, sizeof(*lps));
    Quire__TopLogprob *top = calloc(n_top + 1, sizeof(*top));
    Quire__TopLogprob **tops = calloc(n_top + 1, sizeof(*tops));
    size_t *end = calloc(n + n_top, sizeof(*end));
    if (!lp || !lps || !top || !tops || !end) {
        finish(g, RPC_EXHAUSTED, "out of memory for log probabilities");
        engine_cancel(g->svc->cfg.engine, g->request);
        goto out;
    }
    buf_clear(&g->text);
    for (size_t i = 0; i < n; i++) {
        const struct token_logprobs *s = &ev->logprobs[i];
        put_piece(g, s->token, false);
        end[at++] = g->text.len;
        for (uint32_t k = 0; k < s->n_top; k++) {
            put_piece(g, s->top[k].token, true);
            end[at++] = g->text.len;
        }
    }
    /* The buffer stands still now: point into it. */
    at = 0;
    size_t begin = 0;
    uint8_t *bytes = (uint8_t *)(g->text.data ? g->text.data : (char *)(uintptr_t) "");
    for (size_t i = 0; i < n; i++) {
        const struct token_logprobs *s = &ev->logprobs[i];
        quire__token_logprob__init(&lp[i]);
        lp[i].token = s->token;
        lp[i].logprob = s->logprob;
        lp[i].text = (ProtobufCBinaryData){end[at] - begin, bytes + begin};
        begin = end[at++];
        lp[i].n_top = s->n_top;
        lp[i].top = tops + t;
        lps[i] = &lp[i];
        for (uint32_t k = 0; k < s->n_top; k++, t++) {
            quire__top_logprob__init(&top[t]);
            top[t].token = s->top[k].token;
            top[t].logprob = s->top[k].logprob;
            top[t].text = (ProtobufCBinaryData){end[at] - begin, bytes + begin};
            begin = end[at++];
            tops[t] = &top[t];
        }
    }
    d.n_logprobs = n;
    d.logprobs = lps;
    put_text(g, ev, &d);
out:
    free(lp);
    free(lps);
    free(top);
    free(tops);
    free(end);
}

static void send_finished(struct gen *g, const struct engine_event *ev)
{
    Quire__GenerateEvent out = QUIRE__GENERATE_EVENT__INIT;
    Quire__Finished f = QUIRE__FINISHED__INIT;
    struct answer *a = answer_of(g, ev->choice);
    f.choice = ev->choice;
    f.reason = ev->finish == FINISH_STOP ? QUIRE__FINISH_REASON__FINISH_STOP
                                         : QUIRE__FINISH_REASON__FINISH_LENGTH;
    if (a) {
        if (answer_end(a, ev->choice, put_delta, g) != 0) {
            answer_failed(g);
            return;
        }
        f.reason = answer_reason(a, f.reason, ev->hurried);
    }
    f.n_prompt_tokens = ev->n_prompt;
    f.n_completion_tokens = ev->n_completion;
    f.stop_text = (char *)(uintptr_t)(ev->stop_text ? ev->stop_text : "");
    f.prefill_ms = ev->prefill_ms;
    f.decode_ms = ev->decode_ms;
    out.kind_case = QUIRE__GENERATE_EVENT__KIND_FINISHED;
    out.finished = &f;
    send_event(g, &out);
}

static void on_event(void *ctx, const struct engine_event *ev)
{
    struct gen *g = ctx;
    Quire__GenerateEvent out = QUIRE__GENERATE_EVENT__INIT;
    switch (ev->kind) {
    case ENGINE_STARTED: {
        /* A continuation: the parser goes on behind what was shown before. */
        Quire__Delta shown = QUIRE__DELTA__INIT;
        if (g->n_answers > 0 && ev->text_len > 0 &&
            answer_feed(g->answers[0], ev->text, ev->text_len, &shown, NULL, NULL) != 0)
            answer_failed(g);
        Quire__Started s = QUIRE__STARTED__INIT;
        s.n_prompt_tokens = ev->n_prompt;
        s.n_prompt_ids = ev->n_tokens;
        s.prompt_ids = (uint32_t *)(uintptr_t)ev->tokens;
        out.kind_case = QUIRE__GENERATE_EVENT__KIND_STARTED;
        out.started = &s;
        send_event(g, &out);
        break;
    }
    case ENGINE_DELTA:
        send_delta(g, ev);
        break;
    case ENGINE_FINISHED:
        send_finished(g, ev);
        break;
    case ENGINE_CLOSED:
        finish(g, ev->code == 0 ? RPC_OK : rpc_status_of(ev->code), ev->msg);
        gen_unref(g);
        break;
    }
}

/* ---- from a message to a request ---------------------------------------------------------- */

static int parse_field(struct jv **out, const char *field, const char *json, enum jv_kind kind,
                       struct err *e)
{
    *out = NULL;
    if (!json || !*json)
        return 0;
    int rc = jv_parse(out, json, strlen(json), MAX_JSON_DEPTH, e);
    if (rc != 0)
        return err_prefix(e, rc, "%s", field);
    if (!jv_is(*out, kind))
        return err_set(e, Q_EINVAL, "%s: must be an %s", field,
                       kind == JV_ARRAY ? "array" : "object");
    return 0;
}

/* mark: which bytes of the text are the conversation's and not the template's. */
static int render(struct engine_service *s, const Quire__GenerateRequest *q, struct buf *out,
                  struct buf *mark, struct err *e)
{
    if (!s->cfg.chat)
        return err_set(e, Q_EINVAL,
                       "messages: this model has no chat template; give it a prompt instead");
    struct jv *messages = NULL, *tools = NULL, *extra = NULL;
    int rc;
    if ((rc = parse_field(&messages, "messages", q->messages_json, JV_ARRAY, e)) != 0 ||
        (rc = parse_field(&tools, "tools", q->tools_json, JV_ARRAY, e)) != 0 ||
        (rc = parse_field(&extra, "chat_template_kwargs", q->template_extra_json, JV_OBJECT, e)))
        goto out;
    if (jv_len(messages) == 0) {
        rc = err_set(e, Q_EINVAL, "messages: must not be empty");
        goto out;
    }
    struct chat_input in = {.messages = messages,
                            .tools = tools,
                            .extra = extra,
                            .add_generation_prompt = q->add_generation_prompt,
                            .bos_token = s->bos,
                            .eos_token = s->eos,
                            .unix_time = q->unix_time};
    bool raised = false;
    rc = chat_render_marked(s->cfg.chat, &in, out, mark, &raised, e);
    if (rc != 0 && rc != Q_ENOMEM)
        rc = err_prefix(e, Q_EINVAL, "messages: %s",
                        raised ? "the model's template refused them"
                               : "the model's template failed");
out:
    jv_free(messages);
    jv_free(tools);
    jv_free(extra);
    return rc;
}

/* The prompt's tokens into ids, its text (for echo) into text. */
static int make_prompt(struct engine_service *s, const Quire__GenerateRequest *q, struct buf *text,
                       struct token_list *ids, struct err *e)
{
    bool chat = q->messages_json && *q->messages_json;
    if ((chat ? 1 : 0) + (q->has_prompt ? 1 : 0) + (q->n_prompt_tokens ? 1 : 0) != 1)
        return err_set(e, Q_EINVAL, "prompt: give exactly one of messages, a text and tokens");
    int rc;
    if (q->n_prompt_tokens) {
        ids->ids = malloc(q->n_prompt_tokens * sizeof(*ids->ids));
        if (!ids->ids)
            return err_set(e, Q_ENOMEM, "out of memory for the prompt");
        memcpy(ids->ids, q->prompt_tokens, q->n_prompt_tokens * sizeof(*ids->ids));
        ids->n = ids->cap = q->n_prompt_tokens;
        if (!q->echo)
            return 0;
        for (size_t i = 0; i < ids->n; i++)
            if (ids->ids[i] >= tokenizer_n_vocab(s->cfg.tok))
                return err_set(e, Q_EINVAL, "prompt: token %u is outside the vocabulary of %u",
                               ids->ids[i], tokenizer_n_vocab(s->cfg.tok));
        return tokenizer_decode(s->cfg.tok, ids->ids, ids->n, false, text, e);
    }
    if (chat) {
        /* A template writes its own BOS, and only it writes control tokens. */
        struct buf mark;
        buf_init(&mark, MAX_PROMPT);
        rc = render(s, q, text, &mark, e);
        if (rc == 0)
            rc = tokenizer_encode_marked(s->cfg.tok, buf_cstr(text), text->len, mark.data, ids, e);
        buf_fini(&mark);
    } else if (buf_puts(text, q->prompt) != 0) {
        return err_set(e, Q_EINVAL, "prompt: longer than %zu bytes", MAX_PROMPT);
    } else {
        rc = tokenizer_encode(s->cfg.tok, buf_cstr(text), text->len, true, true, ids, e);
    }
    if (rc != 0)
        return rc;
    if (ids->n == 0 && tokenizer_bos(s->cfg.tok) != TOKEN_NONE) {
        ids->ids = malloc(sizeof(*ids->ids));
        if (!ids->ids)
            return err_set(e, Q_ENOMEM, "out of memory for the prompt");
        ids->ids[0] = tokenizer_bos(s->cfg.tok);
        ids->n = ids->cap = 1;
    }
    return 0;
}

static int take_sampling(const Quire__GenerateRequest *q, struct sampler_params *p,
                         struct sampler_bias **bias, struct err *e)
{
    *p = (struct sampler_params){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    const Quire__Sampling *s = q->sampling;
    if (!s)
        return 0;
    p->temperature = s->temperature;
    p->top_k = s->top_k;
    p->top_p = s->top_p;
    p->min_p = s->min_p;
    /* Zero would divide; a field left out means off. */
    p->repetition_penalty =
        s->repetition_penalty < 0 || s->repetition_penalty > 0 ? s->repetition_penalty : 1;
    p->presence_penalty = s->presence_penalty;
    p->frequency_penalty = s->frequency_penalty;
    p->seed = s->seed;
    if (s->n_logit_bias > SAMPLER_MAX_BIAS)
        return err_set(e, Q_EINVAL, "logit_bias: %zu entries given, at most %d are allowed",
                       s->n_logit_bias, SAMPLER_MAX_BIAS);
    *bias = calloc(s->n_logit_bias + 1, sizeof(**bias));
    if (!*bias)
        return err_set(e, Q_ENOMEM, "out of memory for logit_bias");
    for (size_t i = 0; i < s->n_logit_bias; i++)
        (*bias)[i] = (struct sampler_bias){s->logit_bias[i]->token, (float)s->logit_bias[i]->bias};
    p->bias = *bias;
    p->n_bias = s->n_logit_bias;
    return 0;
}

/* Parsers for the choices of a conversation; none when the model's family has no marks or nothing
 * is to be taken apart. Ids follow from the request, so that a continuation gives the same. */
static int open_answers(struct gen *g, const struct buf *prompt, struct err *e)
{
    const Quire__GenerateRequest *q = g->req;
    const char *format = g->format;
    uint32_t n = q->n_choices ? q->n_choices : 1;
    bool calls = q->parse_tools && *q->tools_json;
    if (!*q->messages_json || !format || strcmp(format, "none") == 0 ||
        (!calls && q->no_reasoning_parse) || n > REQUEST_MAX_CHOICES)
        return 0;
    struct jv *tools = NULL;
    int rc = calls ? parse_field(&tools, "tools", q->tools_json, JV_ARRAY, e) : 0;
    if (rc == 0 && !(g->answers = calloc(n, sizeof(struct answer *))))
        rc = err_set(e, Q_ENOMEM, "out of memory for %u answers", n);
    struct outparse_config cfg = {
        .tools = tools, .no_calls = !calls, .no_reasoning = q->no_reasoning_parse};
    cfg.no_line_marks = g->within;
    cfg.reasons_as = g->svc->cfg.format;
    cfg.starts_reasoning =
        !cfg.no_reasoning && outparse_prompt_opens(cfg.reasons_as, buf_cstr(prompt), prompt->len);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        uint64_t choice = (uint64_t)q->choice_base + i;
        cfg.id_seed = hash_u64(q->request_id, strlen(q->request_id), choice + 1);
        rc = answer_open(&g->answers[i], format, &cfg, e);
        g->n_answers += rc == 0;
    }
    jv_free(tools);
    return rc;
}

static bool wants_calls(const Quire__GenerateRequest *q)
{
    return q->parse_tools && *q->tools_json && *q->messages_json;
}

static bool any_strict(const char *tools_json)
{
    struct jv *tools;
    bool strict = false;
    if (!strstr(tools_json, "\"strict\"") ||
        jv_parse(&tools, tools_json, strlen(tools_json), MAX_JSON_DEPTH, NULL) != 0)
        return false;
    for (size_t i = 0; i < jv_len(tools) && !strict; i++)
        strict = jv_bool(jv_get(jv_get(jv_at(tools, i), "function"), "strict"), false);
    jv_free(tools);
    return strict;
}

/* What the text must look like; false: anything. */
static bool make_spec(const struct gen *g, struct constraint_spec *s)
{
    static const enum constraint_kind kinds[] = {
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_OBJECT] = CONSTRAINT_JSON_OBJECT,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_JSON_SCHEMA] = CONSTRAINT_JSON_SCHEMA,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_REGEX] = CONSTRAINT_REGEX,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_CHOICE] = CONSTRAINT_CHOICE,
        [QUIRE__CONSTRAINT_KIND__CONSTRAINT_GRAMMAR] = CONSTRAINT_GBNF};
    const Quire__GenerateRequest *q = g->req;
    const Quire__Constraint *c = q->constraint;
    bool calls = wants_calls(q), has = c && c->kind > 0 && (size_t)c->kind < NUM_COUNT(kinds);
    *s = (struct constraint_spec){.field = "tools",
                                  .format = g->format ? g->format : "generic",
                                  .allowed = (const char *const *)q->allowed_tools,
                                  .n_allowed = q->n_allowed_tools,
                                  .one_call = q->one_call,
                                  .content = ""};
    if (has) {
        s->kind = kinds[c->kind];
        s->text = c->text;
        s->field = *c->field ? c->field : "constraint";
    }
    bool json = has && (s->kind == CONSTRAINT_JSON_OBJECT || s->kind == CONSTRAINT_JSON_SCHEMA);
    if (calls && (q->force_tools || (json && gram_tools_beside(s->format)))) {
        if (!q->force_tools)
            s->content = s->kind == CONSTRAINT_JSON_SCHEMA ? s->text : "{\"type\":\"object\"}";
        s->kind = CONSTRAINT_TOOLS;
        s->text = q->tools_json;
        has = true;
    } else if (g->within) {
        s->kind = CONSTRAINT_TOOLS;
        s->text = q->tools_json;
        s->when_called = has = true;
    }
    return has;
}

/* Does the text end behind a closed block of reasoning? Then it is not opened again. */
static bool closed_thinking(const struct buf *text, const char *end)
{
    size_t n = text->len, k = strlen(end);
    while (n > 0 && strchr(" \n\r\t", text->data[n - 1]))
        n--;
    return n >= k && memcmp(text->data + n - k, end, k) == 0;
}

static void set_constraint(const struct gen *g, const struct buf *prompt,
                           struct request_config *cfg)
{
    const struct engine_service *s = g->svc;
    cfg->constraint = g->constraint;
    cfg->think_start = TOKEN_NONE;
    /* Forced and strict calls of gpt-oss have their analysis inside the grammar. */
    if (wants_calls(g->req) && g->format && strcmp(g->format, "gpt_oss") == 0)
        return;
    if (!g->constraint || !*s->think_end || !*g->req->messages_json)
        return;
    cfg->think_end = s->think_end;
    cfg->thinking = outparse_prompt_opens(s->cfg.format, buf_cstr(prompt), prompt->len);
    if (!closed_thinking(prompt, s->think_end))
        cfg->think_start = s->think_start;
}

/* From here on nothing takes long. Ends with a reference of the job. */
static void submit(struct gen *g)
{
    struct engine_service *s = g->svc;
    const Quire__GenerateRequest *q = g->req;
    struct err e = {0};
    struct buf text;
    struct token_list ids = {0};
    struct sampler_bias *bias = NULL;
    bool forced = q->force_tools && wants_calls(q);
    struct request_config cfg = {
        .accepted = q->accepted_tokens,
        .n_accepted = q->n_accepted_tokens,
        .accepted_hurried = q->accepted_forced,
        .stops = (const char *const *)q->stop,
        .n_stops = forced ? 0 : q->n_stop, /* they would break a call */
        .stop_ids = q->stop_token_ids,
        .n_stop_ids = q->n_stop_token_ids,
        .max_tokens = q->max_tokens,
        .min_tokens = q->min_tokens,
        .n_choices = q->n_choices,
        .choice_base = q->choice_base,
        .ignore_eos = q->ignore_eos,
        .logprobs = q->logprobs,
        .echo = q->echo,
        .only_prompt = q->only_prompt && q->echo,
        .top_logprobs = q->top_logprobs,
        .on_event = on_event,
        .ctx = g,
    };
    buf_init(&text, MAX_PROMPT);
    int rc = take_sampling(q, &cfg.sampling, &bias, &e);
    if (rc == 0)
        rc = make_prompt(s, q, &text, &ids, &e);
    if (rc == 0)
        rc = open_answers(g, &text, &e);
    if (rc == 0) {
        /* Marks may be control tokens. Others stay unseen, so none is shown that nobody takes
         * out; "generic" has only plain marks. */
        cfg.show_special = g->n_answers > 0 && strcmp(g->format, "generic") != 0 &&
                           (wants_calls(q) || (!q->no_reasoning_parse && s->think_control));
        set_constraint(g, &text, &cfg);
        cfg.prompt = ids.ids;
        cfg.n_prompt = ids.n;
        cfg.prompt_text = buf_cstr(&text);
        /* Events wait for the lock, so they find the request. */
        pthread_mutex_lock(&g->lock);
        g->refs++;
        rc = g->over ? Q_ECANCELLED : engine_submit(s->cfg.engine, &cfg, &g->request, &e);
        if (rc != 0)
            g->refs--;
        pthread_mutex_unlock(&g->lock);
    }
    if (rc != 0)
        finish(g, rpc_status_of(rc), e.msg);
    buf_fini(&text);
    free(ids.ids);
    free(bias);
    gen_unref(g);
}

static void run_compile(struct text_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    struct constraint_spec spec;
    struct err e = {0};
    pthread_mutex_lock(&g->lock);
    bool over = g->over;
    pthread_mutex_unlock(&g->lock);
    int rc = over || !make_spec(g, &spec)
                 ? Q_ECANCELLED
                 : constraints_get(g->svc->constraints, &spec, &g->constraint, &e);
    if (rc == 0) {
        submit(g);
        return;
    }
    finish(g, rc == Q_ENOMEM ? RPC_INVALID : rpc_status_of(rc), e.msg);
    gen_unref(g);
}

static void run_generate(struct text_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    struct engine_service *s = g->svc;
    struct constraint_spec spec;
    bool forced = g->req->force_tools && wants_calls(g->req);
    g->format = forced ? gram_tools_format(s->cfg.format) : s->cfg.format;
    g->within =
        wants_calls(g->req) && !g->req->force_tools && g->format && gram_tools_within(g->format) &&
        (!g->req->constraint || g->req->constraint->kind == 0) && any_strict(g->req->tools_json);
    bool has = make_spec(g, &spec);
    if (has && !(g->constraint = constraints_find(s->constraints, &spec))) {
        g->job.run = run_compile;
        if (text_pool_push(s->slow, &g->job) != 0) {
            finish(g, RPC_EXHAUSTED, "the queue is full, try again");
            gen_unref(g);
        }
        return;
    }
    submit(g);
}

static void on_generate_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    (void)st;
    struct gen *g = ctx;
    if (g->asked) {
        finish(g, RPC_INVALID, "one request per call");
        return;
    }
    g->asked = true;
    g->req = (Quire__GenerateRequest *)(void *)rpc_unpack(&quire__generate_request__descriptor,
                                                          data, n, MAX_UNPACKED);
    if (!g->req) {
        finish(g, RPC_INVALID, "the request cannot be read");
        return;
    }
    pthread_mutex_lock(&g->lock);
    g->refs++;
    pthread_mutex_unlock(&g->lock);
    g->job.run = run_generate;
    if (text_pool_push(g->svc->pool, &g->job) != 0) {
        finish(g, RPC_EXHAUSTED, "the queue is full, try again");
        gen_unref(g);
    }
}

static void on_generate_end(struct rpc_stream *st, void *ctx)
{
    (void)st;
    struct gen *g = ctx;
    if (!g->asked)
        finish(g, RPC_INVALID, "the call had no request");
}

static void on_generate(struct rpc_stream *st, void *ctx)
{
    static const struct rpc_handler h = {.on_message = on_generate_message,
                                         .on_end = on_generate_end,
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

/* ---- Tokenize and Status ------------------------------------------------------------------ */

static void run_tokenize(struct text_job *j)
{
    struct tokenize *t = (struct tokenize *)(void *)j;
    struct token_list ids = {0};
    struct err e = {0};
    const Quire__TokenizeRequest *q = t->req;
    int rc = tokenizer_encode(t->svc->cfg.tok, q->text, strlen(q->text), q->add_special,
                              q->parse_special, &ids, &e);
    if (rc == 0) {
        Quire__TokenizeReply r = QUIRE__TOKENIZE_REPLY__INIT;
        r.n_tokens = ids.n;
        r.tokens = ids.ids;
        rc = rpc_stream_send_msg(t->stream, &r.base);
        if (rc != 0)
            err_set(&e, rc, "the reply cannot be sent");
    }
    rpc_stream_finish(t->stream, rc == 0 ? RPC_OK : rpc_status_of(rc), e.msg);
    free(ids.ids);
    rpc_msg_free(&t->req->base);
    rpc_stream_unref(t->stream);
    free(t);
}

static void on_tokenize_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    struct engine_service *s = ctx;
    struct tokenize *t = calloc(1, sizeof(*t));
    Quire__TokenizeRequest *q = (Quire__TokenizeRequest *)(void *)rpc_unpack(
        &quire__tokenize_request__descriptor, data, n, MAX_UNPACKED);
    if (!t || !q) {
        free(t);
        rpc_msg_free(q ? &q->base : NULL);
        rpc_stream_finish(st, RPC_INVALID, "the request cannot be read");
        return;
    }
    *t = (struct tokenize){
        .job.run = run_tokenize, .svc = s, .stream = rpc_stream_ref(st), .req = q};
    if (text_pool_push(s->pool, &t->job) != 0) {
        rpc_stream_finish(st, RPC_EXHAUSTED, "the queue is full, try again");
        rpc_msg_free(&q->base);
        rpc_stream_unref(t->stream);
        free(t);
    }
}

static void on_tokenize(struct rpc_stream *st, void *ctx)
{
    static const struct rpc_handler h = {.on_message = on_tokenize_message};
    rpc_stream_set_handler(st, &h, ctx);
}

static void on_status_message(struct rpc_stream *st, const void *data, size_t n, void *ctx)
{
    (void)data;
    (void)n;
    struct engine_service *s = ctx;
    struct engine_stats v;
    engine_stats(s->cfg.engine, &v);
    Quire__StatusReply r = QUIRE__STATUS_REPLY__INIT;
    r.n_running = v.n_running;
    r.n_waiting = v.n_waiting;
    r.n_ctx = v.n_ctx;
    r.pages_total = v.pages_total;
    r.pages_free = v.pages_free;
    int rc = rpc_stream_send_msg(st, &r.base);
    rpc_stream_finish(st, rc == 0 ? RPC_OK : rpc_status_of(rc), "");
}

static void on_status(struct rpc_stream *st, void *ctx)
{
    static const struct rpc_handler h = {.on_message = on_status_message};
    rpc_stream_set_handler(st, &h, ctx);
}
