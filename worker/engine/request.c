/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/request.h"

#include "worker/model/backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Text of one token and text held back: far above what a vocabulary has. */
#define TEXT_MAX   ((size_t)1 << 20)
#define REPLAY_MAX ((size_t)64 << 20)

void request_text_of(struct request_text *t, const struct tokenizer *tok)
{
    *t = (struct request_text){
        .tok = tok,
        .n_vocab = tokenizer_n_vocab(tok),
        .init = detok_init,
        .put = detok_put,
        .flush = detok_flush,
        .is_eog = tokenizer_is_eog,
    };
}

static int check_ids(const char *field, const uint32_t *ids, size_t n, uint32_t n_vocab,
                     struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= n_vocab)
            return err_set(e, Q_EINVAL, "%s: token %u is outside the vocabulary of %u", field,
                           ids[i], n_vocab);
    return 0;
}

static int check(const struct request_config *c, uint32_t n_vocab, uint32_t n_ctx, struct err *e)
{
    int rc = sampler_check(&c->sampling, n_vocab, e);
    if (rc != 0)
        return rc;
    if (c->n_prompt == 0)
        return err_set(e, Q_EINVAL, "prompt: must not be empty");
    /* Clients recognise these words. */
    if (c->n_prompt >= n_ctx)
        return err_set(e, Q_EINVAL,
                       "prompt: it has %zu tokens, but this model's maximum context length is %u "
                       "tokens; the request exceeds the available context size",
                       c->n_prompt, n_ctx);
    if (c->n_accepted > n_ctx - c->n_prompt)
        return err_set(e, Q_EINVAL,
                       "accepted_tokens: prompt and accepted tokens together exceed the context "
                       "of %u",
                       n_ctx);
    if (c->n_choices > REQUEST_MAX_CHOICES)
        return err_set(e, Q_EINVAL, "n_choices: must be between 1 and %d", REQUEST_MAX_CHOICES);
    if (c->n_accepted > 0 && c->n_choices > 1)
        return err_set(e, Q_EINVAL, "accepted_tokens: only one choice can be continued at a time");
    if (c->top_logprobs > SAMPLER_MAX_TOP)
        return err_set(e, Q_EINVAL, "top_logprobs: must be between 0 and %d", SAMPLER_MAX_TOP);
    if (c->top_logprobs > 0 && !c->logprobs)
        return err_set(e, Q_EINVAL, "top_logprobs: needs logprobs");
    if (c->max_tokens > 0 && c->min_tokens > c->max_tokens)
        return err_set(e, Q_EINVAL, "min_tokens: must not be above max_tokens");
    if (c->n_stop_ids > REQUEST_MAX_STOP_IDS)
        return err_set(e, Q_EINVAL, "stop_token_ids: %zu given, at most %d are allowed",
                       c->n_stop_ids, REQUEST_MAX_STOP_IDS);
    if ((rc = check_ids("prompt", c->prompt, c->n_prompt, n_vocab, e)) != 0 ||
        (rc = check_ids("accepted_tokens", c->accepted, c->n_accepted, n_vocab, e)) != 0 ||
        (rc = check_ids("stop_token_ids", c->stop_ids, c->n_stop_ids, n_vocab, e)) != 0)
        return rc;
    return 0;
}

static void *copy_of(const void *p, size_t n, size_t size)
{
    void *c = malloc(n ? n * size : 1);
    if (c && n)
        memcpy(c, p, n * size);
    return c;
}

static int seq_open(struct seq *q, struct request *r, uint32_t choice,
                    const struct request_config *c, uint32_t n_ctx)
{
    q->req = r;
    q->choice = choice;
    uint32_t room = n_ctx - (uint32_t)c->n_prompt;
    q->max_gen = c->max_tokens && c->max_tokens < room ? c->max_tokens : room;
    if (c->only_prompt)
        q->max_gen = 0;
    if (q->max_gen < c->n_accepted)
        q->max_gen = (uint32_t)c->n_accepted;
    q->cap_tokens = (uint32_t)c->n_prompt + q->max_gen;
    q->tokens = malloc(q->cap_tokens * sizeof(*q->tokens));
    q->pages = malloc((q->cap_tokens / BACKEND_PAGE_TOKENS + 1) * sizeof(*q->pages));
    buf_init(&q->piece, TEXT_MAX);
    buf_init(&q->out, TEXT_MAX);
    stop_init(&q->stop, &r->stops);
    if (!q->tokens || !q->pages)
        return Q_ENOMEM;
    memcpy(q->tokens, c->prompt, c->n_prompt * sizeof(*q->tokens));
    q->n_tokens = (uint32_t)c->n_prompt;
    r->text->init(&q->detok, r->text->tok, r->show_special, true);
    if (r->constraint) {
        struct err e;
        q->gate = c->thinking ? GATE_THINKING : c->think_start != TOKEN_NONE ? GATE_FIRST : GATE_ON;
        int rc = gmatch_open(&q->match, constraint_grammar(r->constraint),
                             constraint_vocab(r->constraint), &e);
        return rc ? rc
                  : gfinish_open(&q->finish, constraint_grammar(r->constraint),
                                 constraint_vocab(r->constraint), q->match, q->max_gen, &e);
    }
    return 0;
}

static int replay(struct seq *q, const uint32_t *ids, size_t n);

int request_open(struct request **out, const struct request_config *c,
                 const struct request_text *text, uint32_t n_ctx, struct err *e)
{
    *out = NULL;
    int rc = check(c, text->n_vocab, n_ctx, e);
    if (rc != 0)
        return rc;
    struct request *r = calloc(1, sizeof(*r));
    if (!r)
        return err_set(e, Q_ENOMEM, "out of memory for a request");
    atomic_init(&r->refs, 1);
    r->msg_submit.req = r->msg_poke.req = r;
    r->text = text;
    r->n_prompt = (uint32_t)c->n_prompt;
    r->n_accepted = (uint32_t)c->n_accepted;
    r->max_tokens = c->max_tokens;
    r->min_tokens = c->min_tokens;
    r->n_choices = r->n_open = c->n_choices ? c->n_choices : 1;
    r->ignore_eos = c->ignore_eos;
    r->logprobs = c->logprobs;
    r->top_logprobs = c->top_logprobs;
    r->show_special = c->show_special;
    r->constraint = constraint_ref(c->constraint);
    r->think_end = c->think_end;
    r->think_start = c->think_start;
    buf_init(&r->replayed, REPLAY_MAX);
    /* A continuation has shown its prompt already. */
    r->echo = c->echo && c->n_accepted == 0;
    r->on_event = c->on_event;
    r->ctx = c->ctx;
    r->sampling = c->sampling;
    r->sampling.bias = copy_of(c->sampling.bias, c->sampling.n_bias, sizeof(*c->sampling.bias));
    r->stop_ids = copy_of(c->stop_ids, c->n_stop_ids, sizeof(*c->stop_ids));
    r->n_stop_ids = c->n_stop_ids;
    r->prompt_text = strdup(r->echo && c->prompt_text ? c->prompt_text : "");
    r->seqs = calloc(r->n_choices, sizeof(*r->seqs));
    if (!r->sampling.bias || !r->stop_ids || !r->prompt_text || !r->seqs)
        goto nomem;
    if ((rc = stop_set_init(&r->stops, c->stops, c->n_stops, e)) != 0)
        goto fail;
    for (uint32_t i = 0; i < r->n_choices; i++)
        if (seq_open(&r->seqs[i], r, c->choice_base + i, c, n_ctx) != 0)
            goto nomem;
    r->seqs[0].hurried = c->accepted_hurried && c->n_accepted > 0;
    rc = replay(&r->seqs[0], c->accepted, c->n_accepted);
    if (rc == Q_EINVAL) {
        err_set(e, rc, "accepted_tokens: they do not fit the constraint");
        goto fail;
    }
    if (rc != 0)
        goto nomem;
    *out = r;
    return 0;
nomem:
    rc = err_set(e, Q_ENOMEM, "out of memory for a request of %zu prompt tokens", c->n_prompt);
fail:
    request_unref(r);
    return rc;
}

struct request *request_ref(struct request *r)
{
    atomic_fetch_add(&r->refs, 1);
    return r;
}

void request_unref(struct request *r)
{
    if (!r || atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    for (uint32_t i = 0; r->seqs && i < r->n_choices; i++) {
        struct seq *q = &r->seqs[i];
        assert(q->n_pages == 0);
        free(q->tokens);
        free(q->pages);
        free(q->lp);
        free(q->lp_end);
        gmatch_close(q->match);
        gfinish_close(q->finish);
        stop_fini(&q->stop);
        buf_fini(&q->piece);
        buf_fini(&q->out);
    }
    free(r->seqs);
    stop_set_fini(&r->stops);
    free((void *)(uintptr_t)r->sampling.bias);
    free(r->stop_ids);
    free(r->prompt_text);
    constraint_unref(r->constraint);
    buf_fini(&r->replayed);
    free(r);
}

void request_emit(struct request *r, const struct engine_event *ev)
{
    r->on_event(r->ctx, ev);
}

bool seq_is_last(const struct seq *q, uint32_t token)
{
    const struct request *r = q->req;
    for (size_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == token)
            return true;
    return !r->ignore_eos && r->text->is_eog(r->text->tok, token);
}

static int keep_logprobs(struct seq *q, const struct token_logprobs *lp)
{
    if (q->n_lp == q->cap_lp) {
        size_t cap = q->cap_lp ? 2 * q->cap_lp : 4;
        struct token_logprobs *l = realloc(q->lp, cap * sizeof(*l));
        if (!l)
            return Q_ENOMEM;
        q->lp = l;
        uint64_t *end = realloc(q->lp_end, cap * sizeof(*end));
        if (!end)
            return Q_ENOMEM;
        q->lp_end = end;
        q->cap_lp = cap;
    }
    q->lp_end[q->n_lp] = UINT64_MAX;
    q->lp[q->n_lp++] = *lp;
    return 0;
}

/* Look for the end of the reasoning in the text of a token. What follows it belongs to the
 * constraint already, but for white space. */
static int think(struct seq *q, uint32_t token)
{
    const char *mark = q->req->think_end;
    size_t n, i = 0;
    const char *s = grammar_vocab_text(constraint_vocab(q->req->constraint), token, &n);
    for (; i < n && mark[q->n_mark]; i++) {
        while (q->n_mark > 0 && mark[q->n_mark] != s[i]) {
            uint32_t k = q->n_mark - 1; /* the longest beginning of the mark that ends here */
            while (k > 0 && memcmp(mark, mark + q->n_mark - k, k) != 0)
                k--;
            q->n_mark = k;
        }
        q->n_mark += mark[q->n_mark] == s[i];
    }
    if (mark[q->n_mark])
        return 0;
    q->gate = GATE_ON;
    while (i < n && (s[i] == ' ' || s[i] == '\n' || s[i] == '\r' || s[i] == '\t'))
        i++;
    return i == n || gmatch_accept_bytes(q->match, s + i, n - i, NULL) ? 0 : Q_EINVAL;
}

/* The constraint goes on behind a token. */
static int follow(struct seq *q, uint32_t token, enum finish *why)
{
    const struct request *r = q->req;
    if (q->gate == GATE_FIRST)
        q->gate = token == r->think_start ? GATE_THINKING : GATE_ON;
    if (q->gate == GATE_THINKING) {
        /* A token that ends the text ends it here too. */
        int rc = *why == FINISH_STOP ? 0 : think(q, token);
        if (rc != 0)
            return rc;
        token = TOKEN_NONE;
    } else if (!gmatch_accept_token(q->match, token) && *why != FINISH_STOP) {
        return Q_EINVAL;
    }
    if (q->gate == GATE_ON && gmatch_finished(q->match))
        *why = FINISH_STOP;
    else if (*why == FINISH_NOT)
        gfinish_follow(q->finish, q->match, token, q->max_gen - q->n_gen);
    return 0;
}

static bool all_may_come(const struct seq *q)
{
    return q->gate == GATE_NONE || q->gate == GATE_THINKING || gmatch_is_free(q->match);
}

bool seq_must_go_on(const struct seq *q)
{
    return q->gate != GATE_NONE && all_may_come(q) && !gmatch_can_stop(q->match);
}

/* While the model reasons, tokens are kept for the mark that ends it and for a short text. */
static uint32_t hurry_thinking(struct seq *q, uint32_t token)
{
    const char *mark = q->req->think_end;
    uint32_t left = q->max_gen - q->n_gen, text, all, next;
    if (!gfinish_known(q->finish, &text))
        return token;
    all = gfinish_spell(q->finish, mark, strlen(mark), &next);
    /* Behind any token at all the whole mark may have to come. */
    if (all == UINT32_MAX || text + all < left)
        return token;
    uint32_t rest = gfinish_spell(q->finish, mark + q->n_mark, strlen(mark + q->n_mark), &next);
    return rest != UINT32_MAX && text + rest <= left ? next : token;
}

uint32_t seq_hurry(struct seq *q, uint32_t token)
{
    uint32_t meant = token;
    /* Free text that may end owes nothing. */
    if (q->gate == GATE_NONE || seq_is_last(q, token) ||
        (q->gate == GATE_ON && gmatch_is_free(q->match) && gmatch_can_stop(q->match)))
        return token;
    if (q->gate == GATE_THINKING) {
        token = hurry_thinking(q, token);
    } else if (q->gate == GATE_FIRST && token == q->req->think_start) {
        uint32_t text, all, next;
        all = gfinish_spell(q->finish, q->req->think_end, strlen(q->req->think_end), &next);
        if (gfinish_known(q->finish, &text) &&
            (all == UINT32_MAX || text + all >= q->max_gen - q->n_gen))
            token = gfinish_first(q->finish);
    } else {
        token = gfinish_pick(q->finish, q->match, token, q->max_gen - q->n_gen - 1);
    }
    q->hurried |= token != meant;
    return token;
}

size_t seq_mask(const struct seq *q, struct gmask_scratch *w, uint64_t *mask)
{
    const struct request *r = q->req;
    if (all_may_come(q))
        return SIZE_MAX;
    size_t n = gmatch_fill_mask(q->match, w, mask);
    uint32_t t = r->think_start;
    if (q->gate == GATE_FIRST && !(mask[t / 64] >> (t % 64) & 1)) {
        mask[t / 64] |= UINT64_C(1) << (t % 64);
        n++;
    }
    return n;
}

/* Append the token, make its text and let out of it (into q->out) what may be shown. */
static int advance(struct seq *q, uint32_t token, const struct token_logprobs *lp, enum finish *why)
{
    const struct request *r = q->req;
    assert(q->n_tokens < q->cap_tokens);
    q->tokens[q->n_tokens++] = token;
    q->n_gen++;
    buf_clear(&q->piece);
    buf_clear(&q->out);
    *why = FINISH_NOT;
    int rc = 0;
    if (seq_is_last(q, token)) {
        *why = FINISH_STOP;
    } else {
        q->detok.special = r->show_special && !r->text->is_eog(r->text->tok, token);
        rc = r->text->put(&q->detok, token, &q->piece);
        if (lp && rc == 0)
            rc = keep_logprobs(q, lp);
        if (q->n_gen == q->max_gen)
            *why = FINISH_LENGTH;
    }
    if (rc == 0 && q->match)
        rc = follow(q, token, why);
    if (*why != FINISH_NOT && rc == 0)
        rc = r->text->flush(&q->detok, &q->piece);
    if (rc != 0)
        return rc;
    q->n_text += q->piece.len;
    /* Tokens that end inside a character are told with the one that completes it. */
    if (q->detok.n_held == 0 || *why != FINISH_NOT)
        for (size_t i = q->n_lp; i-- > 0 && q->lp_end[i] == UINT64_MAX;)
            q->lp_end[i] = q->n_text;
    const char *text = buf_cstr(&q->piece);
    if (q->n_gen < r->min_tokens)
        rc = buf_put(&q->out, text, q->piece.len);
    else
        rc = stop_put(&q->stop, text, q->piece.len, &q->out);
    if (rc == 0 && *why != FINISH_NOT)
        rc = stop_flush(&q->stop, &q->out);
    if (q->hurried && *why == FINISH_STOP)
        *why = FINISH_LENGTH;
    if (q->stop.matched >= 0)
        *why = FINISH_STOP;
    q->n_shown += q->out.len;
    return rc;
}

static int replay(struct seq *q, const uint32_t *ids, size_t n)
{
    enum finish why = FINISH_NOT;
    for (size_t i = 0; i < n && why == FINISH_NOT; i++) {
        int rc = advance(q, ids[i], NULL, &why);
        if (rc == 0)
            rc = buf_put(&q->req->replayed, buf_cstr(&q->out), q->out.len);
        if (rc != 0)
            return rc;
    }
    return 0;
}

enum finish seq_replayed(const struct seq *q)
{
    if (q->n_gen == 0)
        return FINISH_NOT;
    if (q->stop.matched >= 0)
        return FINISH_STOP;
    if (seq_is_last(q, q->tokens[q->n_tokens - 1]) ||
        (q->gate == GATE_ON && gmatch_finished(q->match)))
        return q->hurried ? FINISH_LENGTH : FINISH_STOP;
    return q->n_gen >= q->max_gen ? FINISH_LENGTH : FINISH_NOT;
}

void seq_emit_finished(struct seq *q, enum finish why, uint64_t now_ms)
{
    uint64_t first = q->first_ms ? q->first_ms : now_ms;
    uint64_t begin = q->admitted_ms ? q->admitted_ms : first;
    request_emit(q->req,
                 &(struct engine_event){
                     .kind = ENGINE_FINISHED,
                     .choice = q->choice,
                     .finish = why,
                     .hurried = q->hurried,
                     .stop_text = q->stop.matched >= 0 ? q->req->stops.text[q->stop.matched] : NULL,
                     .n_prompt = q->req->n_prompt,
                     .n_completion = q->n_gen,
                     .prefill_ms = (double)(first - begin),
                     .decode_ms = (double)(now_ms - first),
                 });
}

int seq_accept(struct seq *q, uint32_t token, const struct token_logprobs *lp, uint64_t now_ms)
{
    enum finish why;
    int rc = advance(q, token, lp, &why);
    if (rc != 0)
        return rc;
    if (!q->first_ms)
        q->first_ms = now_ms;
    size_t n = 0;
    while (n < q->n_lp && q->lp_end[n] <= q->n_shown)
        n++;
    request_emit(q->req, &(struct engine_event){
                             .kind = ENGINE_DELTA,
                             .choice = q->choice,
                             .tokens = &token,
                             .n_tokens = 1,
                             .text = buf_cstr(&q->out),
                             .text_len = q->out.len,
                             .logprobs = q->lp,
                             .n_logprobs = n,
                             .hurried = q->hurried,
                         });
    if (n > 0) {
        q->n_lp -= n;
        memmove(q->lp, q->lp + n, q->n_lp * sizeof(*q->lp));
        memmove(q->lp_end, q->lp_end + n, q->n_lp * sizeof(*q->lp_end));
    }
    if (why != FINISH_NOT)
        seq_emit_finished(q, why, now_ms);
    return (int)why;
}
