/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/engine_service.h"

#include "base/log.h"
#include "worker/engine/gen.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_THREADS  2
#define SLOW_THREADS  2
#define SLOW_NICENESS 10
#define TEXT_JOBS     1024 /* as many as one connection may have calls (rpc_server) */

/* A call of Tokenize. */
struct tokenize {
    struct text_job job;
    struct engine_service *svc;
    struct rpc_stream *stream;
    Quire__TokenizeRequest *req;
};

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
        &quire__tokenize_request__descriptor, data, n, GEN_MAX_UNPACKED);
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

/* ---- life --------------------------------------------------------------------------------- */

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
    m[0] = (struct rpc_method){"/quire.Engine/Generate", gen_on_open, s};
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
