/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/pipeline.h"

#include "base/clock.h"
#include "base/num.h"
#include "worker/engine/stage_link.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A peer that is alive but gives no result for so long is treated as lost. */
#define STEP_TIMEOUT_MS 300000
#define HEAD_ROWS       64u

struct flight {
    uint64_t id;
    uint32_t n_out;
};

struct pipeline {
    struct pipeline_config cfg;
    struct stage_link *link; /* NULL: all local */
    float *hidden;           /* [max_rows][width], several shards only */
    float *logits;           /* [max_out][n_vocab] */
    struct flight flights[PIPELINE_MAX_DEPTH];
    uint32_t first, n_flights, depth;
    uint32_t step_timeout_ms;
};

int pipeline_open(struct pipeline **out, const struct pipeline_config *cfg, struct err *e)
{
    *out = NULL;
    assert(cfg->n_shards >= 1 && cfg->n_shards <= PIPELINE_MAX_SHARDS);
    struct pipeline *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(e, Q_ENOMEM, "out of memory for the pipeline");
    p->cfg = *cfg;
    p->step_timeout_ms = STEP_TIMEOUT_MS;
    p->depth = NUM_MIN(cfg->n_shards, PIPELINE_MAX_DEPTH);
    size_t n_logits, n_hidden;
    int rc = Q_ENOMEM;
    if (num_mul((size_t)cfg->max_out * sizeof(float), cfg->n_vocab, &n_logits))
        p->logits = malloc(n_logits);
    if (cfg->n_shards > 1 && num_mul((size_t)NUM_MAX(cfg->max_rows, cfg->max_out) * sizeof(float),
                                     cfg->width, &n_hidden))
        p->hidden = malloc(n_hidden);
    if (!p->logits || (cfg->n_shards > 1 && !p->hidden)) {
        err_set(e, rc, "out of memory for %u rows of logits", cfg->max_out);
        goto fail;
    }
    if (cfg->n_shards > 1 && (rc = stage_link_open(&p->link, cfg, e)) != 0)
        goto fail;
    *out = p;
    return 0;
fail:
    pipeline_close(p);
    return rc;
}

void pipeline_close(struct pipeline *p)
{
    if (!p)
        return;
    stage_link_close(p->link);
    free(p->hidden);
    free(p->logits);
    free(p);
}

uint32_t pipeline_depth(const struct pipeline *p)
{
    return p->depth;
}

bool pipeline_ready(const struct pipeline *p)
{
    return !p->link || stage_link_ready(p->link);
}

void pipeline_interrupt(struct pipeline *p)
{
    if (p->link)
        stage_link_interrupt(p->link);
}

void pipeline_on_lost(struct pipeline *p, void (*fn)(void *ctx), void *ctx)
{
    if (p->link)
        stage_link_on_lost(p->link, fn, ctx);
}

/* Nothing under way survives a failure. */
static int failed(struct pipeline *p, int rc)
{
    p->n_flights = 0;
    if (p->link)
        stage_link_drop(p->link);
    return rc;
}

int pipeline_check(struct pipeline *p, struct err *e)
{
    int rc = p->link ? stage_link_check(p->link, e) : 0;
    return rc != 0 ? failed(p, rc) : 0;
}

int pipeline_submit(struct pipeline *p, const struct step *s, struct err *e)
{
    assert(p->n_flights < p->depth);
    struct batch b = {
        .n_rows = s->n_rows,
        .tokens = s->tokens,
        .seqs = s->seqs,
        .n_seqs = s->n_seqs,
        .out_rows = s->out_rows,
        .n_out = s->n_out,
        .out_all = p->link != NULL,
    };
    int rc = p->link ? stage_link_plan(p->link, s, e) : 0;
    if (rc != 0)
        return failed(p, rc);
    rc = stage_run(p->cfg.stage, &b, p->link ? p->hidden : p->logits);
    if (rc != 0)
        return failed(
            p, err_set(e, Q_EINTERNAL, "the model failed to compute a step (%s)", err_name(rc)));
    if (p->link && (rc = stage_link_hidden(p->link, s->id, s->n_rows, p->hidden, e)) != 0)
        return failed(p, rc);
    p->flights[(p->first + p->n_flights++) % p->depth] =
        (struct flight){.id = s->id, .n_out = s->n_out};
    return 0;
}

/* Logits of the rows that came back, by the stage that has the output head and no layers. What
 * it computes for a row depends on that row only; the sequence is a form to fill in. */
static int run_head(struct pipeline *p, uint32_t n)
{
    static const uint32_t no_pages[HEAD_ROWS / BACKEND_PAGE_TOKENS];
    uint32_t rows[HEAD_ROWS];
    for (uint32_t i = 0; i < HEAD_ROWS; i++)
        rows[i] = i;
    for (uint32_t done = 0, k; done < n; done += k) {
        k = NUM_MIN(n - done, NUM_MIN(HEAD_ROWS, p->cfg.max_rows));
        struct batch_seq seq = {.n_rows = k, .n_ctx = k, .pages = no_pages};
        struct batch b = {
            .n_rows = k,
            .hidden = p->hidden + (size_t)done * p->cfg.width,
            .seqs = &seq,
            .n_seqs = 1,
            .out_rows = rows,
            .n_out = k,
        };
        int rc = stage_run(p->cfg.head, &b, p->logits + (size_t)done * p->cfg.n_vocab);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int pipeline_complete(struct pipeline *p, uint64_t *step_id, const float **logits, struct err *e)
{
    assert(p->n_flights > 0);
    struct flight f = p->flights[p->first];
    if (p->link) {
        int rc = stage_link_result(p->link, f.id, f.n_out, p->hidden,
                                   clock_mono_ms() + p->step_timeout_ms, e);
        if (rc != 0)
            return failed(p, rc);
        if ((rc = run_head(p, f.n_out)) != 0)
            return failed(p, err_set(e, Q_EINTERNAL, "the output head failed (%s)", err_name(rc)));
    }
    p->first = (p->first + 1) % p->depth;
    p->n_flights--;
    *step_id = f.id;
    *logits = p->logits;
    return 0;
}

int pipeline_warm(struct pipeline *p, struct err *e)
{
    /* Page 0 is free: nothing runs. */
    uint32_t token = 0, page = 0, row = 0;
    struct batch_seq seq = {.first_row = 0, .n_rows = 1, .n_ctx = 1, .pages = &page};
    struct step warm = {
        .n_rows = 1, .n_seqs = 1, .n_out = 1, .tokens = &token, .seqs = &seq, .out_rows = &row};
    uint64_t id;
    const float *logits;
    int rc;
    if ((rc = pipeline_submit(p, &warm, e)) != 0 ||
        (rc = pipeline_complete(p, &id, &logits, e)) != 0)
        return err_prefix(e, rc, "the first step through all layers failed");
    return 0;
}

int pipeline_link(struct pipeline *p, const char *const *peers, uint32_t n_peers, uint64_t epoch,
                  uint32_t timeout_ms, struct err *e)
{
    if (!p->link)
        return err_set(e, Q_EINVAL, "a replica in one piece has no shards to link");
    p->n_flights = 0;
    int rc = stage_link_connect(p->link, peers, n_peers, epoch, clock_mono_ms() + timeout_ms, e);
    if (rc != 0)
        return failed(p, rc);
    p->step_timeout_ms = timeout_ms;
    rc = pipeline_warm(p, e);
    p->step_timeout_ms = STEP_TIMEOUT_MS;
    return rc;
}
