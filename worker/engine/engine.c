/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/engine/sched.h"

#include <assert.h>
#include <math.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EOG          64
#define DEFAULT_WAITING  2048
#define PAUSE_LIMIT_MS   60000
#define PAUSE_CHECK_MS   1000
#define STEP_NS_DECODING 250e6
#define STEP_NS_ALONE    1000e6
#define MIN_PREFILL_ROWS 32
#define FULL_TEXT        "the queue is full, try again"
#define UNLINKED_TEXT    "the model is not linked to its other shards"
#define STOPPING_TEXT    "the model is shutting down"

struct link_msg {
    struct request_msg base;
    const char *const *peers;
    uint32_t n_peers, timeout_ms;
    uint64_t epoch;
    int rc;
    struct err *e;
    sem_t done;
};

struct engine {
    struct engine_config cfg;
    pthread_t thread;
    bool has_thread;
    struct mbox mbox;
    struct request_msg msg_stop, msg_lost;
    atomic_bool lost_sent; /* msg_lost is in the mailbox */
    atomic_bool stopping, ready;
    pthread_mutex_t submit_lock; /* orders the last submit before the stop message */
    bool closed_for_submit;

    /* Counts for other threads. */
    atomic_uint n_waiting; /* choices submitted and not yet admitted */
    atomic_uint s_running, s_free;
    atomic_ullong s_steps, s_rows, s_preempted;

    /* Engine thread only. */
    struct sched sched;
    struct sched_step steps[PIPELINE_MAX_DEPTH];
    uint32_t depth, first, n_inflight; /* ring of steps under way */
    struct sampler *sampler;
    struct request *open; /* list of open requests */
    uint64_t next_order, next_step;
    double row_ns;     /* running mean over steps with prompt rows; 0: unknown */
    uint64_t began_ns; /* when the oldest step under way had the stages for itself */
    uint32_t n_paused;
    uint32_t banned[MAX_EOG + REQUEST_MAX_STOP_IDS];
    uint32_t n_eog;
    /* Made with the first constrained sequence. */
    struct gmask_scratch *scratch;
    uint64_t *mask;
};

static void *engine_main(void *arg);

/* A peer was lost, perhaps while nothing runs: let the engine look. Any thread. */
static void on_pipeline_lost(void *ctx)
{
    struct engine *en = ctx;
    if (!atomic_exchange(&en->lost_sent, true))
        mbox_push_force(&en->mbox, &en->msg_lost.link);
}

int engine_open(struct engine **out, const struct engine_config *cfg, struct err *e)
{
    *out = NULL;
    assert(cfg->max_out >= cfg->max_seqs && cfg->max_rows > 0 && cfg->max_seqs > 0);
    if ((uint64_t)cfg->n_pages * BACKEND_PAGE_TOKENS < cfg->n_ctx)
        return err_set(e, Q_EINVAL, "n_pages: %u pages hold less than one context of %u tokens",
                       cfg->n_pages, cfg->n_ctx);
    struct engine *en = calloc(1, sizeof(*en));
    if (!en)
        return err_set(e, Q_ENOMEM, "out of memory for the engine");
    en->cfg = *cfg;
    if (!en->cfg.n_logits)
        en->cfg.n_logits = cfg->text.n_vocab;
    if (!en->cfg.max_waiting)
        en->cfg.max_waiting = NUM_MAX(4 * cfg->max_seqs, DEFAULT_WAITING);
    if (!en->cfg.pause_limit_ms)
        en->cfg.pause_limit_ms = PAUSE_LIMIT_MS;
    en->depth = NUM_MIN(pipeline_depth(cfg->pipeline), PIPELINE_MAX_DEPTH);
    mbox_init(&en->mbox, SIZE_MAX, NULL, NULL);
    pthread_mutex_init(&en->submit_lock, NULL);
    struct sched_config sc = {.n_pages = cfg->n_pages,
                              .max_rows = cfg->max_rows,
                              .max_seqs = cfg->max_seqs,
                              .max_out = cfg->max_out,
                              .depth = en->depth};
    int rc = sched_init(&en->sched, &sc, e);
    for (uint32_t i = 0; i < en->depth && rc == 0; i++)
        rc = sched_step_init(&en->steps[i], &sc, e);
    if (rc == 0)
        rc = sampler_open(&en->sampler, cfg->text.n_vocab, e);
    for (uint32_t i = 0; i < cfg->text.n_vocab && en->n_eog < MAX_EOG; i++)
        if (cfg->text.is_eog(cfg->text.tok, i))
            en->banned[en->n_eog++] = i;
    atomic_store(&en->ready, pipeline_ready(cfg->pipeline));
    atomic_store(&en->s_free, cfg->n_pages);
    if (rc == 0)
        pipeline_on_lost(cfg->pipeline, on_pipeline_lost, en);
    if (rc == 0 && pthread_create(&en->thread, NULL, engine_main, en) != 0)
        rc = err_set(e, Q_EIO, "cannot start the engine thread");
    if (rc != 0) {
        engine_close(en);
        return rc;
    }
    en->has_thread = true;
    *out = en;
    return 0;
}

void engine_stop(struct engine *en)
{
    pthread_mutex_lock(&en->submit_lock);
    bool first = !en->closed_for_submit;
    en->closed_for_submit = true;
    pthread_mutex_unlock(&en->submit_lock);
    if (!first || !en->has_thread)
        return;
    atomic_store(&en->stopping, true);
    pipeline_interrupt(en->cfg.pipeline);
    mbox_push_force(&en->mbox, &en->msg_stop.link);
    pthread_join(en->thread, NULL);
    en->has_thread = false;
}

void engine_close(struct engine *en)
{
    if (!en)
        return;
    engine_stop(en);
    pipeline_on_lost(en->cfg.pipeline, NULL, NULL);
    for (struct mbox_msg *m = mbox_take(&en->mbox), *next; m; m = next) {
        next = m->next;
        struct request *r = ((struct request_msg *)(void *)m)->req;
        request_unref(r); /* pokes after the end; NULL: our own */
    }
    mbox_fini(&en->mbox);
    pthread_mutex_destroy(&en->submit_lock);
    sampler_close(en->sampler);
    gmask_scratch_close(en->scratch);
    free(en->mask);
    for (uint32_t i = 0; i < PIPELINE_MAX_DEPTH; i++)
        sched_step_fini(&en->steps[i]);
    sched_fini(&en->sched);
    free(en);
}

/* ---- other threads ------------------------------------------------------------------------ */

int engine_submit(struct engine *en, const struct request_config *cfg, struct request **out,
                  struct err *e)
{
    *out = NULL;
    uint32_t n = cfg->n_choices ? cfg->n_choices : 1;
    if (n > REQUEST_MAX_CHOICES)
        return err_set(e, Q_EINVAL, "n_choices: must be between 1 and %d", REQUEST_MAX_CHOICES);
    if (!atomic_load(&en->ready))
        return err_set(e, Q_EUNAVAILABLE, UNLINKED_TEXT);
    if (atomic_fetch_add(&en->n_waiting, n) + n > en->cfg.max_waiting) {
        atomic_fetch_sub(&en->n_waiting, n);
        return err_set(e, Q_EFULL, FULL_TEXT);
    }
    struct request *r;
    int rc = request_open(&r, cfg, &en->cfg.text, en->cfg.n_ctx, e);
    if (rc != 0) {
        atomic_fetch_sub(&en->n_waiting, n);
        return rc;
    }
    *out = request_ref(r);
    pthread_mutex_lock(&en->submit_lock);
    if (en->closed_for_submit)
        rc = err_set(e, Q_EUNAVAILABLE, STOPPING_TEXT);
    else
        mbox_push_force(&en->mbox, &r->msg_submit.link); /* bounded by n_waiting */
    pthread_mutex_unlock(&en->submit_lock);
    if (rc != 0) {
        atomic_fetch_sub(&en->n_waiting, n);
        request_unref(r);
        request_unref(r);
        *out = NULL;
    }
    return rc;
}

/* One message per request is in the mailbox at most; it holds a reference. */
static void poke(struct engine *en, struct request *r)
{
    if (atomic_exchange(&r->poked, true))
        return;
    request_ref(r);
    mbox_push_force(&en->mbox, &r->msg_poke.link);
}

void engine_cancel(struct engine *en, struct request *r)
{
    atomic_fetch_or(&r->flags, REQUEST_CANCEL);
    poke(en, r);
}

void engine_pause(struct request *r)
{
    atomic_fetch_or(&r->flags, REQUEST_PAUSE);
}

void engine_resume(struct engine *en, struct request *r)
{
    atomic_fetch_and(&r->flags, ~(unsigned)REQUEST_PAUSE);
    poke(en, r);
}

int engine_link(struct engine *en, const char *const *peers, uint32_t n_peers, uint64_t epoch,
                uint32_t timeout_ms, struct err *e)
{
    struct link_msg m = {
        .peers = peers, .n_peers = n_peers, .timeout_ms = timeout_ms, .epoch = epoch, .e = e};
    sem_init(&m.done, 0, 0);
    pthread_mutex_lock(&en->submit_lock);
    bool closed = en->closed_for_submit;
    if (!closed)
        mbox_push_force(&en->mbox, &m.base.link);
    pthread_mutex_unlock(&en->submit_lock);
    if (closed) {
        sem_destroy(&m.done);
        return err_set(e, Q_EUNAVAILABLE, STOPPING_TEXT);
    }
    while (sem_wait(&m.done) != 0)
        ; /* a signal */
    sem_destroy(&m.done);
    return m.rc;
}

void engine_stats(const struct engine *en, struct engine_stats *out)
{
    *out = (struct engine_stats){
        .n_running = atomic_load(&en->s_running),
        .n_waiting = atomic_load(&en->n_waiting),
        .n_ctx = en->cfg.n_ctx,
        .pages_total = en->cfg.n_pages,
        .pages_free = atomic_load(&en->s_free),
        .n_steps = atomic_load(&en->s_steps),
        .n_rows = atomic_load(&en->s_rows),
        .n_preempted = atomic_load(&en->s_preempted),
        .ready = atomic_load(&en->ready),
    };
}

uint32_t engine_n_ctx(const struct engine *en)
{
    return en->cfg.n_ctx;
}

/* ---- engine thread: ends ------------------------------------------------------------------ */

static struct sched_step *step_at(struct engine *en, uint32_t i)
{
    return &en->steps[(en->first + i) % en->depth];
}

static void drop_seq(struct engine *en, struct seq *q)
{
    if (q->state == SEQ_DONE)
        return;
    if (q->state == SEQ_WAITING && !q->admitted_ms)
        atomic_fetch_sub(&en->n_waiting, 1);
    sched_remove(&en->sched, q);
    for (uint32_t i = 0; i < en->n_inflight; i++) {
        struct sched_step *st = step_at(en, i);
        for (uint32_t k = 0; k < st->step.n_seqs; k++)
            if (st->items[k].seq == q)
                st->items[k].seq = NULL;
    }
}

/* The end of a request; it may be freed here. */
static void close_request(struct engine *en, struct request *r, int code, const char *msg)
{
    if (r->closed)
        return;
    r->closed = true;
    for (uint32_t i = 0; i < r->n_choices; i++)
        drop_seq(en, &r->seqs[i]);
    if (r->paused_ms)
        en->n_paused--;
    *(r->prev ? &r->prev->next : &en->open) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    request_emit(r, &(struct engine_event){.kind = ENGINE_CLOSED, .code = code, .msg = msg});
    request_unref(r);
}

static void close_all(struct engine *en, int code, const char *msg)
{
    while (en->open)
        close_request(en, en->open, code, msg);
}

/* A choice is done; the last one ends the request. */
static void end_seq(struct engine *en, struct seq *q)
{
    struct request *r = q->req;
    drop_seq(en, q);
    if (--r->n_open == 0)
        close_request(en, r, 0, "");
}

/* The pipeline failed: what runs cannot go on here. */
static void lost(struct engine *en, const struct err *e)
{
    bool stopping = atomic_load(&en->stopping);
    atomic_store(&en->ready, pipeline_ready(en->cfg.pipeline));
    if (!stopping)
        log_error("engine", "%s", e->msg);
    close_all(en, stopping ? Q_EUNAVAILABLE : e->code, stopping ? STOPPING_TEXT : e->msg);
    en->n_inflight = 0;
    if (!stopping && en->cfg.on_lost && !pipeline_ready(en->cfg.pipeline))
        en->cfg.on_lost(en->cfg.ctx, e->msg);
}

/* ---- engine thread: messages -------------------------------------------------------------- */

static void start_request(struct engine *en, struct request *r)
{
    r->next = en->open;
    if (r->next)
        r->next->prev = r;
    en->open = r;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        r->seqs[i].order = en->next_order++;
        sched_add(&en->sched, &r->seqs[i]);
    }
    if (!atomic_load(&en->ready)) {
        close_request(en, r, Q_EUNAVAILABLE, UNLINKED_TEXT);
        return;
    }
    enum finish why = seq_replayed(&r->seqs[0]);
    if (why != FINISH_NOT) {
        uint64_t now = clock_mono_ms();
        request_emit(r, &(struct engine_event){.kind = ENGINE_STARTED,
                                               .tokens = r->seqs[0].tokens,
                                               .n_tokens = r->n_prompt,
                                               .text = buf_cstr(&r->replayed),
                                               .text_len = r->replayed.len,
                                               .n_prompt = r->n_prompt});
        seq_emit_finished(&r->seqs[0], why, now);
        end_seq(en, &r->seqs[0]);
    }
}

static void look_at_flags(struct engine *en, struct request *r, uint64_t now)
{
    unsigned flags = atomic_load(&r->flags);
    if (r->closed)
        return;
    if (flags & REQUEST_CANCEL) {
        close_request(en, r, Q_ECANCELLED, "the request was cancelled");
        return;
    }
    bool paused = (flags & REQUEST_PAUSE) != 0;
    if (paused && !r->paused_ms) {
        r->paused_ms = now;
        en->n_paused++;
    } else if (!paused && r->paused_ms) {
        r->paused_ms = 0;
        en->n_paused--;
    }
}

static void do_link(struct engine *en, struct link_msg *m)
{
    close_all(en, Q_EUNAVAILABLE, "the model is being linked again");
    en->n_inflight = 0;
    m->rc = pipeline_link(en->cfg.pipeline, m->peers, m->n_peers, m->epoch, m->timeout_ms, m->e);
    atomic_store(&en->ready, pipeline_ready(en->cfg.pipeline));
    sem_post(&m->done);
}

/* False: stop. */
static bool handle(struct engine *en, struct mbox_msg *list)
{
    bool go_on = true;
    uint64_t now = clock_mono_ms();
    for (struct mbox_msg *next; list; list = next) {
        next = list->next;
        struct request_msg *m = (struct request_msg *)(void *)list;
        if (m == &en->msg_stop) {
            go_on = false;
        } else if (m == &en->msg_lost) {
            struct err e = {0};
            atomic_store(&en->lost_sent, false);
            if (atomic_load(&en->ready) && pipeline_check(en->cfg.pipeline, &e) != 0)
                lost(en, &e);
        } else if (!m->req) {
            do_link(en, (struct link_msg *)(void *)m);
        } else if (m == &m->req->msg_submit) {
            start_request(en, m->req);
        } else {
            struct request *r = m->req;
            atomic_store(&r->poked, false); /* before reading the flags: a later poke comes anew */
            look_at_flags(en, r, now);
            request_unref(r);
        }
    }
    return go_on;
}

static void check_paused(struct engine *en)
{
    uint64_t now = clock_mono_ms();
    for (struct request *r = en->open, *next; r; r = next) {
        next = r->next;
        if (r->paused_ms && now - r->paused_ms > en->cfg.pause_limit_ms)
            close_request(en, r, Q_ETIMEOUT, "the answer was not read in time");
    }
}

/* ---- engine thread: steps ----------------------------------------------------------------- */

/* Echo: the prompt's text first, then its logprobs as they are computed. */
static void tell_echo(struct engine *en, struct seq *q, const struct sched_item *it,
                      const float *logits)
{
    struct request *r = q->req;
    uint32_t n_vocab = en->cfg.n_logits;
    if (!q->echo_told) {
        struct token_logprobs first = {.token = q->tokens[0], .logprob = (double)NAN};
        request_emit(r, &(struct engine_event){.kind = ENGINE_DELTA,
                                               .choice = q->choice,
                                               .text = r->prompt_text,
                                               .text_len = strlen(r->prompt_text),
                                               .logprobs = &first,
                                               .n_logprobs = r->logprobs ? 1 : 0});
        q->echo_told = true;
        q->n_echo = NUM_MAX(q->n_echo, 1);
    }
    /* The results of this item are consecutive positions that end at its last row, or at the
     * last prompt token whose successor is known. */
    for (uint32_t i = 0; r->logprobs && i < it->n_out && q->n_echo < r->n_prompt; i++) {
        if (it->last && i + 1 == it->n_out)
            break;
        struct token_logprobs lp;
        sampler_logprobs(logits + (size_t)i * n_vocab, n_vocab, q->tokens[q->n_echo],
                         r->top_logprobs, &lp);
        request_emit(r, &(struct engine_event){.kind = ENGINE_DELTA,
                                               .choice = q->choice,
                                               .text = "",
                                               .logprobs = &lp,
                                               .n_logprobs = 1});
        q->n_echo++;
    }
}

/* The tokens that the constraint allows, NULL: all. 0, or an error: none, or out of memory. */
static int allowed_tokens(struct engine *en, struct seq *q, const uint64_t **mask, struct err *e)
{
    *mask = NULL;
    if (q->gate == GATE_NONE || q->gate == GATE_THINKING)
        return 0;
    if (!en->mask) {
        en->mask = calloc((size_t)en->cfg.text.n_vocab / 64 + 1, sizeof(*en->mask));
        int rc = gmask_scratch_open(&en->scratch, constraint_vocab(q->req->constraint), e);
        if (rc != 0 || !en->mask)
            return err_set(e, Q_ENOMEM, "out of memory for a constraint");
    }
    size_t n = seq_mask(q, en->scratch, en->mask);
    if (n == 0)
        return err_set(e, Q_EINVAL, "the constraint leaves no way to go on after %u tokens",
                       q->n_gen);
    *mask = n == SIZE_MAX ? NULL : en->mask;
    return 0;
}

static void next_token(struct engine *en, struct seq *q, const float *logits, uint64_t now)
{
    struct request *r = q->req;
    if (q->max_gen == 0) {
        seq_emit_finished(q, FINISH_LENGTH, now);
        end_seq(en, q);
        return;
    }
    struct sampler_input in = {
        .logits = logits,
        .tokens = q->tokens,
        .n_tokens = q->n_tokens,
        .n_prompt = r->n_prompt,
        .choice = q->choice,
        .position = q->n_gen,
    };
    bool early = q->n_gen < r->min_tokens, unmet = seq_must_go_on(q);
    if (early || unmet) {
        /* The end tokens of the model stand first; with ignore_eos they end nothing. */
        bool ends = unmet || !r->ignore_eos;
        memcpy(en->banned + en->n_eog, r->stop_ids, r->n_stop_ids * sizeof(*en->banned));
        in.banned = en->banned + (ends ? 0 : en->n_eog);
        in.n_banned = (early ? r->n_stop_ids : 0) + (ends ? en->n_eog : 0);
    }
    struct err e = {0};
    int rc = allowed_tokens(en, q, &in.allowed, &e);
    if (rc != 0) {
        close_request(en, r, rc, e.msg);
        return;
    }
    uint32_t token = seq_hurry(q, sampler_pick(en->sampler, &r->sampling, &in));
    struct token_logprobs lp;
    if (r->logprobs)
        sampler_logprobs(logits, en->cfg.n_logits, token, r->top_logprobs, &lp);
    rc = seq_accept(q, token, r->logprobs ? &lp : NULL, now);
    if (rc < 0)
        close_request(en, r, rc,
                      rc == Q_EINVAL ? "a token does not fit the constraint"
                                     : "out of memory for the answer's text");
    else if (rc != FINISH_NOT)
        end_seq(en, q);
}

static void take_results(struct engine *en, struct sched_step *st, const float *logits)
{
    uint64_t now = clock_mono_ms();
    sched_complete(st);
    for (uint32_t i = 0; i < st->step.n_seqs; i++) {
        struct sched_item *it = &st->items[i];
        struct seq *q = it->seq;
        if (!q)
            continue;
        const float *mine = logits + (size_t)it->first_out * en->cfg.n_logits;
        /* Other items of this request may be dropped by what happens now. */
        if (q->req->echo && it->n_out && q->n_gen == 0)
            tell_echo(en, q, it, mine);
        if (it->last)
            next_token(en, q, mine + (size_t)(it->n_out - 1) * en->cfg.n_logits, now);
    }
}

static void note_admitted(struct engine *en, struct sched_step *st)
{
    uint64_t now = clock_mono_ms();
    for (uint32_t i = 0; i < st->step.n_seqs; i++) {
        struct seq *q = st->items[i].seq;
        if (q->admitted_ms)
            continue;
        q->admitted_ms = now;
        atomic_fetch_sub(&en->n_waiting, 1);
        struct request *r = q->req;
        if (r->started)
            continue;
        r->started = true;
        request_emit(r, &(struct engine_event){.kind = ENGINE_STARTED,
                                               .tokens = q->tokens,
                                               .n_tokens = r->n_prompt,
                                               .text = buf_cstr(&r->replayed),
                                               .text_len = r->replayed.len,
                                               .n_prompt = r->n_prompt});
    }
}

/* How many prompt rows fit into a step, so that streams go on flowing beside a long prompt and
 * a cancelled request ends soon, on slow machines too. */
static uint32_t prefill_budget(const struct engine *en)
{
    if (en->row_ns <= 0)
        return en->cfg.max_rows;
    bool decoding = false;
    for (const struct seq *q = en->sched.running.head; q && !decoding; q = q->next)
        decoding = q->n_gen > q->req->n_accepted && !q->req->paused_ms;
    double rows = (decoding ? STEP_NS_DECODING : STEP_NS_ALONE) / en->row_ns;
    return rows > (double)en->cfg.max_rows ? en->cfg.max_rows
           : rows < MIN_PREFILL_ROWS       ? MIN_PREFILL_ROWS
                                           : (uint32_t)rows;
}

/* Fill the pipeline, then take its oldest step. False: nothing could be done. */
static bool work(struct engine *en)
{
    struct err e = {0};
    if (en->n_inflight == 0)
        en->began_ns = clock_mono_ns();
    while (en->n_inflight < en->depth && atomic_load(&en->ready)) {
        struct sched_step *st = step_at(en, en->n_inflight);
        if (!sched_plan(&en->sched, st, prefill_budget(en)))
            break;
        st->step.id = ++en->next_step;
        en->n_inflight++;
        note_admitted(en, st);
        atomic_fetch_add(&en->s_rows, st->step.n_rows);
        if (pipeline_submit(en->cfg.pipeline, &st->step, &e) != 0) {
            lost(en, &e);
            return true;
        }
    }
    if (en->n_inflight == 0)
        return false;
    struct sched_step *st = step_at(en, 0);
    uint64_t id, began = en->began_ns;
    const float *logits;
    if (pipeline_complete(en->cfg.pipeline, &id, &logits, &e) != 0) {
        lost(en, &e);
        return true;
    }
    assert(id == st->step.id);
    en->began_ns = clock_mono_ns();
    if (st->step.n_rows >= MIN_PREFILL_ROWS) {
        double ns = (double)(en->began_ns - began) / st->step.n_rows;
        en->row_ns = en->row_ns > 0 ? 0.7 * en->row_ns + 0.3 * ns : ns;
    }
    take_results(en, st, logits);
    en->first = (en->first + 1) % en->depth;
    en->n_inflight--;
    atomic_fetch_add(&en->s_steps, 1);
    return true;
}

static void *engine_main(void *arg)
{
    struct engine *en = arg;
    bool busy = false;
    for (;;) {
        struct mbox_msg *list =
            busy ? mbox_take(&en->mbox)
                 : mbox_wait(&en->mbox, en->n_paused ? PAUSE_CHECK_MS : UINT64_MAX);
        if (!handle(en, list))
            break;
        busy = work(en);
        uint64_t now = clock_mono_ms();
        for (struct request *r = en->open, *next; r; r = next) {
            next = r->next;
            look_at_flags(en, r, now); /* pauses come without a message */
        }
        if (en->n_paused)
            check_paused(en);
        atomic_store(&en->s_running, en->sched.running.n);
        atomic_store(&en->s_free, kv_pool_n_free(en->sched.pool));
        atomic_store(&en->s_preempted, en->sched.n_preempted);
    }
    close_all(en, Q_EUNAVAILABLE, STOPPING_TEXT);
    en->n_inflight = 0;
    return NULL;
}
