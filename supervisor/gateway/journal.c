/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/gateway/journal.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/num.h"
#include "proto/rpc.h"

#include <stdlib.h>

#define MAX_TOKENS   (1u << 22) /* of a choice: no context is longer */
#define MAX_UNPACKED ((size_t)512 << 20)
#define FIRST_ROOM   64

struct told {
    uint32_t *tokens, n, cap;
    uint32_t base;         /* a continuation begins behind so many tokens */
    uint32_t n_behind;     /* Deltas shown behind them */
    uint32_t n_silent;     /* tokens whose log probabilities have not come */
    uint32_t first_forced; /* index of the first token that the limit chose, or UINT32_MAX */
    /* Of the answer under way. */
    uint32_t n_hide; /* Deltas still to be hidden */
    uint32_t at;     /* its tokens so far, base included: n when nothing is hidden */
    bool finished;
};

struct journal {
    void *request;
    size_t n_request;
    uint32_t max_tokens, n_choices;
    bool logprobs, begun, started;
    bool torn; /* a token could not be kept */
    uint64_t prompt;
    struct told told[];
};

int journal_open(struct journal **out, const Quire__GenerateRequest *req, struct err *e)
{
    uint32_t n = req->n_choices ? req->n_choices : 1;
    struct journal *j = calloc(1, sizeof *j + n * sizeof *j->told);
    *out = NULL;
    if (!j)
        return err_set(e, Q_ENOMEM, "out of memory");
    j->n_choices = n;
    j->max_tokens = req->max_tokens ? NUM_MIN(req->max_tokens, MAX_TOKENS) : MAX_TOKENS;
    j->logprobs = req->logprobs;
    for (uint32_t i = 0; i < n; i++)
        j->told[i].first_forced = UINT32_MAX;
    /* A template that shows the date gives the same prompt again tomorrow. */
    Quire__GenerateRequest r = *req;
    if (!r.unix_time)
        r.unix_time = clock_unix_s();
    int rc = rpc_pack(&r.base, &j->request, &j->n_request);
    if (rc) {
        free(j);
        return err_set(e, rc, "out of memory");
    }
    *out = j;
    return 0;
}

void journal_close(struct journal *j)
{
    if (!j)
        return;
    for (uint32_t i = 0; i < j->n_choices; i++)
        free(j->told[i].tokens);
    free(j->request);
    free(j);
}

static void keep(struct journal *j, struct told *t, uint32_t token)
{
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? NUM_MIN(2 * t->cap, j->max_tokens)
                              : NUM_MIN((uint32_t)FIRST_ROOM, j->max_tokens);
        uint32_t *p = cap > t->n ? realloc(t->tokens, cap * sizeof *p) : NULL;
        if (!p) {
            j->torn = true;
            return;
        }
        t->tokens = p;
        t->cap = cap;
    }
    t->tokens[t->n++] = token;
}

static enum journal_say note_delta(struct journal *j, struct told *t, const Quire__Delta *d)
{
    if (t->n_hide > 0) {
        t->n_hide--;
        for (size_t i = 0; i < d->n_tokens; i++)
            if (t->at >= t->n || t->tokens[t->at++] != d->tokens[i])
                return JOURNAL_DIFFERS;
        return JOURNAL_HIDE;
    }
    if (t->at != t->n)
        return JOURNAL_DIFFERS;
    j->begun = true;
    if (d->n_tokens > 0) {
        /* Before the first token comes an echo, which only an answer from the start repeats. */
        if (t->n > 0 && t->n_silent == 0) {
            t->base = t->n;
            t->n_behind = 0;
        }
        if (d->forced)
            t->first_forced = NUM_MIN(t->first_forced, t->n);
        for (size_t i = 0; i < d->n_tokens && !j->torn; i++)
            keep(j, t, d->tokens[i]);
        t->at = t->n;
        if (j->logprobs) {
            uint64_t silent = (uint64_t)t->n_silent + d->n_tokens;
            t->n_silent = (uint32_t)(silent - NUM_MIN(silent, (uint64_t)d->n_logprobs));
        }
    }
    t->n_behind++;
    return JOURNAL_SHOW;
}

static enum journal_say note_started(struct journal *j, const Quire__Started *s)
{
    uint64_t h =
        hash_u64(s->prompt_ids, s->n_prompt_ids * sizeof *s->prompt_ids, s->n_prompt_tokens);
    if (j->started)
        return h == j->prompt ? JOURNAL_HIDE : JOURNAL_DIFFERS;
    j->started = true;
    j->prompt = h;
    return JOURNAL_SHOW;
}

enum journal_say journal_note(struct journal *j, const Quire__GenerateEvent *ev)
{
    bool delta = ev->kind_case == QUIRE__GENERATE_EVENT__KIND_DELTA;
    if (ev->kind_case == QUIRE__GENERATE_EVENT__KIND_STARTED)
        return note_started(j, ev->started);
    if (!delta && ev->kind_case != QUIRE__GENERATE_EVENT__KIND_FINISHED)
        return JOURNAL_HIDE; /* a newer engine's event */
    uint32_t choice = delta ? ev->delta->choice : ev->finished->choice;
    if (choice >= j->n_choices || j->told[choice].finished)
        return JOURNAL_HIDE;
    struct told *t = &j->told[choice];
    if (delta)
        return note_delta(j, t, ev->delta);
    if (t->n_hide > 0 || t->at != t->n)
        return JOURNAL_DIFFERS;
    j->begun = t->finished = true;
    free(t->tokens);
    t->tokens = NULL;
    return JOURNAL_SHOW;
}

uint32_t journal_n_choices(const struct journal *j)
{
    return j->n_choices;
}

bool journal_finished(const struct journal *j, uint32_t choice)
{
    return j->told[choice].finished;
}

bool journal_begun(const struct journal *j)
{
    return j->begun;
}

uint64_t journal_n_tokens(const struct journal *j)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < j->n_choices; i++)
        n += j->told[i].n;
    return n;
}

const void *journal_request(const struct journal *j, size_t *n)
{
    *n = j->n_request;
    return j->request;
}

int journal_continue(struct journal *j, uint32_t choice, void **data, size_t *n, struct err *e)
{
    struct told *t = &j->told[choice];
    if (j->torn)
        return err_set(e, Q_ENOMEM, "the answer is too long to go on elsewhere");
    Quire__GenerateRequest *r = (Quire__GenerateRequest *)(void *)rpc_unpack(
        &quire__generate_request__descriptor, j->request, j->n_request, MAX_UNPACKED);
    if (!r)
        return err_set(e, Q_ENOMEM, "out of memory");
    uint32_t *own = r->accepted_tokens;
    size_t n_own = r->n_accepted_tokens;
    r->accepted_tokens = t->tokens;
    r->n_accepted_tokens = t->base;
    r->accepted_forced = t->first_forced < t->base;
    r->choice_base = choice;
    r->n_choices = 1;
    int rc = rpc_pack(&r->base, data, n);
    r->accepted_tokens = own;
    r->n_accepted_tokens = n_own;
    rpc_msg_free(&r->base);
    if (rc)
        return err_set(e, rc, "out of memory");
    t->n_hide = t->n_behind;
    t->at = t->base;
    return 0;
}
