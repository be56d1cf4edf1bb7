/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/gen.h"

#include <stdlib.h>

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
    gen_send(ctx, &out);
}

static void answer_failed(struct gen *g)
{
    gen_finish(g, RPC_EXHAUSTED, "out of memory for an answer");
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
        gen_finish(g, RPC_EXHAUSTED, "out of memory for log probabilities");
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
    gen_send(g, &out);
}

void gen_on_event(void *ctx, const struct engine_event *ev)
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
        gen_send(g, &out);
        break;
    }
    case ENGINE_DELTA:
        send_delta(g, ev);
        break;
    case ENGINE_FINISHED:
        send_finished(g, ev);
        break;
    case ENGINE_CLOSED:
        gen_finish(g, ev->code == 0 ? RPC_OK : rpc_status_of(ev->code), ev->msg);
        gen_unref(g);
        break;
    }
}
