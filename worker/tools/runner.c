/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/runner.h"

#include "base/num.h"
#include "worker/tools/tools.h"

#include <stdlib.h>
#include <string.h>

static int open_stage(struct runner *r, const struct runner_config *cfg, struct err *e)
{
    const struct model_hparams *h = model_hparams(r->model);
    uint32_t positions = cfg->n_positions ? cfg->n_positions : NUM_MAX(h->n_ctx_train, 4096U);
    uint32_t per_seq =
        (NUM_MIN(positions, 1U << 24) + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
    uint64_t n_pages = (uint64_t)per_seq * cfg->n_seqs;

    if (n_pages > 1U << 26)
        return err_set(e, Q_EINVAL, "%u sequences of %u positions are too many", cfg->n_seqs,
                       positions);
    r->n_vocab = h->n_vocab;
    r->max_rows = cfg->max_rows;
    r->n_seqs = cfg->n_seqs;
    r->n_positions = per_seq * BACKEND_PAGE_TOKENS;
    r->pages = malloc(n_pages * sizeof(*r->pages));
    r->seqs = calloc(cfg->n_seqs, sizeof(*r->seqs));
    r->rows = malloc(cfg->max_rows * sizeof(*r->rows));
    if (!r->pages || !r->seqs || !r->rows)
        return err_set(e, Q_ENOMEM, "no memory for sequences");
    for (uint32_t i = 0; i < n_pages; i++)
        r->pages[i] = i;
    struct stage_config sc = {
        .model = r->model,
        .layer_to = h->n_layers,
        .embed = true,
        .head = true,
        .n_pages = (uint32_t)n_pages,
        .kv = cfg->kv,
        .max_tokens = NUM_MAX(cfg->max_rows, cfg->n_seqs),
        .max_seqs = cfg->n_seqs,
        .n_threads = cfg->n_threads,
        .pack = cfg->pack,
        .pin_threads = cfg->pin_threads,
    };
    return backend_cpu()->open(&r->stage, &sc, e);
}

int runner_open(struct runner *r, const char *name, const struct runner_config *cfg, struct err *e)
{
    char *path = NULL;
    memset(r, 0, sizeof(*r));
    int rc = tools_model_path(name, &path, e);
    if (rc == 0)
        rc = model_open(&r->model, path, e);
    if (rc == 0)
        rc = open_stage(r, cfg, e);
    free(path);
    if (rc)
        runner_close(r);
    return rc;
}

void runner_close(struct runner *r)
{
    stage_close(r->stage);
    model_close(r->model);
    free(r->pages);
    free(r->seqs);
    free(r->rows);
    memset(r, 0, sizeof(*r));
}

int runner_kv_type(const char *name, enum kv_type *kv, struct err *e)
{
    if (strcmp(name, "f16") == 0) {
        *kv = KV_F16;
    } else if (strcmp(name, "f32") == 0) {
        *kv = KV_F32;
    } else if (strcmp(name, "q8_0") == 0) {
        *kv = KV_Q8_0;
    } else {
        return err_set(e, Q_EINVAL, "--kv %s: f16, q8_0 or f32", name);
    }
    return 0;
}

static const uint32_t *pages_of(const struct runner *r, uint32_t seq)
{
    return r->pages + (size_t)seq * (r->n_positions / BACKEND_PAGE_TOKENS);
}

static int run(struct runner *r, const struct batch *b, float *out, struct err *e)
{
    int rc = stage_run(r->stage, b, out);
    return rc ? err_set(e, rc, "the step was refused") : 0;
}

static int check_room(const struct runner *r, uint32_t pos, uint32_t n, struct err *e)
{
    if ((uint64_t)pos + n > r->n_positions)
        return err_set(e, Q_EINVAL, "%llu positions are needed, there is room for %u",
                       (unsigned long long)pos + n, r->n_positions);
    return 0;
}

int runner_feed(struct runner *r, uint32_t seq, uint32_t pos, const uint32_t *tokens, uint32_t n,
                bool all, float *out, struct err *e)
{
    int rc = check_room(r, pos, n, e);
    for (uint32_t at = 0; rc == 0 && at < n; at += r->max_rows) {
        uint32_t m = NUM_MIN(n - at, r->max_rows);
        struct batch_seq s = {0, m, pos + at + m, pages_of(r, seq)};
        struct batch b = {
            .n_rows = m, .tokens = tokens + at, .seqs = &s, .n_seqs = 1, .out_rows = r->rows};
        if (out && all) {
            b.n_out = m;
            for (uint32_t i = 0; i < m; i++)
                r->rows[i] = i;
        } else if (out && at + m == n) {
            b.n_out = 1;
            r->rows[0] = m - 1;
        }
        rc = run(r, &b, out && all ? out + (size_t)at * r->n_vocab : out, e);
    }
    return rc;
}

int runner_feed_texts(struct runner *r, uint32_t n, uint32_t pos, const uint32_t *tokens,
                      uint32_t len, uint32_t out_from, float *out, struct err *e)
{
    int rc = check_room(r, pos, len, e);
    if (rc)
        return rc;
    struct batch b = {
        .n_rows = n * len, .tokens = tokens, .seqs = r->seqs, .n_seqs = n, .out_rows = r->rows};
    for (uint32_t i = 0; i < n; i++) {
        r->seqs[i] = (struct batch_seq){i * len, len, pos + len, pages_of(r, i)};
        for (uint32_t t = 0; out && t < len; t++) {
            if (pos + t >= out_from)
                r->rows[b.n_out++] = i * len + t;
        }
    }
    return run(r, &b, out, e);
}

int runner_decode(struct runner *r, uint32_t n, uint32_t pos, const uint32_t *tokens, float *out,
                  struct err *e)
{
    int rc = check_room(r, pos, 1, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < n; i++) {
        r->seqs[i] = (struct batch_seq){i, 1, pos + 1, pages_of(r, i)};
        r->rows[i] = i;
    }
    struct batch b = {.n_rows = n,
                      .tokens = tokens,
                      .seqs = r->seqs,
                      .n_seqs = n,
                      .out_rows = r->rows,
                      .n_out = n};
    return run(r, &b, out, e);
}

uint32_t runner_argmax(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best])
            best = i;
    }
    return best;
}
