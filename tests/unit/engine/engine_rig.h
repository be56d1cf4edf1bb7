/* SPDX-License-Identifier: Apache-2.0 */
/* engine_rig.h - an engine on a fake stage, and collectors of what requests produce. */
#ifndef ENGINE_RIG_H
#define ENGINE_RIG_H

#include "fake_stage.h"
#include "worker/engine/engine.h"

#include <pthread.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct rig {
    struct fake_stage *stage;
    struct pipeline *pipe;
    struct engine *en;
};

struct rig_config {
    uint32_t n_ctx, n_pages, max_rows, max_seqs, max_waiting, pause_limit_ms;
    unsigned delay_us;
    bool never_eog;
};

static inline void rig_open(struct rig *r, struct rig_config c)
{
    struct err e;
    struct stage_config sc = {.layer_to = FAKE_LAYERS,
                              .embed = true,
                              .head = true,
                              .n_pages = c.n_pages,
                              .max_tokens = c.max_rows,
                              .max_seqs = c.max_seqs};
    r->stage = fake_open(&sc);
    r->stage->delay_us = c.delay_us;
    r->stage->never_eog = c.never_eog;
    struct pipeline_config pc = {.stage = &r->stage->base,
                                 .n_vocab = FAKE_VOCAB,
                                 .width = FAKE_WIDTH,
                                 .max_rows = c.max_rows,
                                 .max_out = c.max_seqs,
                                 .max_seqs = c.max_seqs,
                                 .n_shards = 1};
    assert_int_equal(pipeline_open(&r->pipe, &pc, &e), 0);
    struct engine_config ec = {.pipeline = r->pipe,
                               .text = fake_text,
                               .n_ctx = c.n_ctx,
                               .n_pages = c.n_pages,
                               .max_rows = c.max_rows,
                               .max_seqs = c.max_seqs,
                               .max_out = c.max_seqs,
                               .max_waiting = c.max_waiting,
                               .pause_limit_ms = c.pause_limit_ms};
    assert_int_equal(engine_open(&r->en, &ec, &e), 0);
}

static inline void rig_close(struct rig *r)
{
    engine_close(r->en);
    pipeline_close(r->pipe);
    stage_close(&r->stage->base);
}

#define GOT_CHOICES 4
#define GOT_MAX     600

/* What one request produced. */
struct got {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct request *req;
    uint32_t tokens[GOT_CHOICES][GOT_MAX];
    uint32_t n[GOT_CHOICES];
    char text[GOT_CHOICES][GOT_MAX * 2];
    size_t text_len[GOT_CHOICES];
    struct token_logprobs *lps;
    size_t n_lps;
    enum finish finish[GOT_CHOICES];
    char stop_text[GOT_CHOICES][32];
    uint32_t n_completion[GOT_CHOICES], n_prompt, choice_base;
    int started, closed, code;
    bool pause_next;
    char msg[200];
    atomic_uint *watch; /* when set: its value at the end is kept in watched */
    unsigned watched;
};

static inline void got_event(void *ctx, const struct engine_event *ev)
{
    struct got *g = ctx;
    pthread_mutex_lock(&g->lock);
    assert(!g->closed);
    uint32_t c = ev->choice - g->choice_base;
    switch (ev->kind) {
    case ENGINE_STARTED:
        assert(!g->started++);
        g->n_prompt = ev->n_prompt;
        assert(ev->n_tokens == ev->n_prompt);
        break;
    case ENGINE_DELTA:
        assert(c < GOT_CHOICES && g->started && g->finish[c] == FINISH_NOT);
        for (size_t i = 0; i < ev->n_tokens; i++)
            g->tokens[c][g->n[c]++] = ev->tokens[i];
        memcpy(g->text[c] + g->text_len[c], ev->text, ev->text_len + 1);
        g->text_len[c] += ev->text_len;
        if (ev->n_logprobs) {
            g->lps = realloc(g->lps, (g->n_lps + ev->n_logprobs) * sizeof(*g->lps));
            memcpy(g->lps + g->n_lps, ev->logprobs, ev->n_logprobs * sizeof(*g->lps));
            g->n_lps += ev->n_logprobs;
        }
        if (g->pause_next) {
            g->pause_next = false;
            engine_pause(g->req);
        }
        break;
    case ENGINE_FINISHED:
        assert(g->finish[c] == FINISH_NOT && ev->finish != FINISH_NOT);
        g->finish[c] = ev->finish;
        g->n_completion[c] = ev->n_completion;
        snprintf(g->stop_text[c], sizeof(g->stop_text[c]), "%s",
                 ev->stop_text ? ev->stop_text : "");
        break;
    case ENGINE_CLOSED:
        g->closed = 1;
        g->watched = g->watch ? atomic_load(g->watch) : 0;
        g->code = ev->code;
        snprintf(g->msg, sizeof(g->msg), "%s", ev->msg);
        break;
    }
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

static inline struct got *got_new(void)
{
    struct got *g = calloc(1, sizeof(*g));
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
    return g;
}

static inline void got_free(struct got *g)
{
    request_unref(g->req);
    free(g->lps);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->cond);
    free(g);
}

static inline void got_wait_closed(struct got *g)
{
    pthread_mutex_lock(&g->lock);
    while (!g->closed)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static inline void got_wait_tokens(struct got *g, uint32_t n)
{
    pthread_mutex_lock(&g->lock);
    while (!g->closed && g->n[0] < n)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

/* Random prompts and settings by number; what a request asks depends on `which` only. */
struct ask {
    uint32_t prompt[GOT_MAX];
    struct request_config cfg;
};

static inline void ask_make(struct ask *a, unsigned which, uint32_t n_prompt, uint32_t max_tokens)
{
    memset(a, 0, sizeof(*a));
    for (uint32_t i = 0; i < n_prompt; i++)
        a->prompt[i] = (uint32_t)(2 + fake_mix(which * 1000003u + i) % (FAKE_VOCAB - 2));
    a->cfg = (struct request_config){
        .prompt = a->prompt,
        .n_prompt = n_prompt,
        .max_tokens = max_tokens,
        .sampling = {.temperature = which % 3 ? 1.0 : 0.0,
                     .top_p = which % 4 ? 1.0 : 0.9,
                     .top_k = which % 5 ? 0 : 10,
                     .repetition_penalty = which % 2 ? 1.0 : 1.1,
                     .seed = which},
    };
}

static inline int ask_submit(struct engine *en, struct ask *a, struct got **out, struct err *e)
{
    struct got *g = got_new();
    a->cfg.on_event = got_event;
    a->cfg.ctx = g;
    g->choice_base = a->cfg.choice_base;
    /* The lock keeps events away until g->req is set. */
    pthread_mutex_lock(&g->lock);
    int rc = engine_submit(en, &a->cfg, &g->req, e);
    pthread_mutex_unlock(&g->lock);
    if (rc != 0) {
        got_free(g);
        g = NULL;
    }
    *out = g;
    return rc;
}

static inline struct got *ask_run(struct engine *en, struct ask *a)
{
    struct got *g;
    struct err e = {0};
    if (ask_submit(en, a, &g, &e) != 0)
        fail_msg("submit: %s", e.msg);
    got_wait_closed(g);
    return g;
}

static inline void assert_same_answer(const struct got *a, const struct got *b)
{
    for (int c = 0; c < GOT_CHOICES; c++) {
        assert_int_equal(a->n[c], b->n[c]);
        assert_memory_equal(a->tokens[c], b->tokens[c], a->n[c] * sizeof(uint32_t));
        assert_string_equal(a->text[c], b->text[c]);
        assert_int_equal(a->finish[c], b->finish[c]);
    }
}

#endif
