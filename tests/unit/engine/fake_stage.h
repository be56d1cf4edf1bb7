/* SPDX-License-Identifier: Apache-2.0 */
/* fake_stage.h - a stage whose "model" is a hash of the token history.
 *
 * Each layer has a KV cache of 64-bit words in pages, as a real one; what it gives for a position
 * is a hash over the words of all positions so far, read through the page table. So a wrong page,
 * a stale position or a lost row changes the logits. A hidden row is 4 floats of 16 bits each. */
#ifndef FAKE_STAGE_H
#define FAKE_STAGE_H

#include "worker/engine/request.h"
#include "worker/model/backend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FAKE_VOCAB  64
#define FAKE_WIDTH  4
#define FAKE_LAYERS 6
#define FAKE_EOG    1

struct fake_stage {
    struct stage base;
    struct stage_config cfg;
    uint64_t *kv; /* [layer][page][16] */
    atomic_uint delay_us;
    atomic_uint n_runs, max_rows, max_seqs, fail;
    bool never_eog;
};

static inline uint64_t fake_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline void fake_logits(const struct fake_stage *s, uint64_t h, float *out)
{
    for (uint32_t i = 0; i < FAKE_VOCAB; i++)
        out[i] = (float)(fake_mix(h + i) >> 40) / (float)(1 << 22) - 2;
    if (s->never_eog)
        out[FAKE_EOG] = -50;
}

static inline uint64_t fake_layer(struct fake_stage *s, uint32_t layer, const struct batch_seq *q,
                                  uint32_t pos, uint64_t x)
{
    uint64_t *kv = s->kv + (size_t)layer * s->cfg.n_pages * 16;
    kv[(size_t)q->pages[pos / 16] * 16 + pos % 16] = x;
    uint64_t h = 7;
    for (uint32_t p = 0; p <= pos; p++)
        h = fake_mix(h * 31 + kv[(size_t)q->pages[p / 16] * 16 + p % 16]);
    return h;
}

static inline int fake_run(struct stage *stage, const struct batch *b, float *out)
{
    struct fake_stage *s = (struct fake_stage *)(void *)stage;
    if (atomic_load(&s->fail))
        return Q_EINTERNAL;
    assert(b->n_rows > 0 && b->n_rows <= s->cfg.max_tokens && b->n_seqs <= s->cfg.max_seqs);
    atomic_fetch_add(&s->n_runs, 1);
    if (b->n_rows > atomic_load(&s->max_rows))
        atomic_store(&s->max_rows, b->n_rows);
    if (b->n_seqs > atomic_load(&s->max_seqs))
        atomic_store(&s->max_seqs, b->n_seqs);
    unsigned delay_us = atomic_load(&s->delay_us);
    if (delay_us)
        nanosleep(&(struct timespec){.tv_nsec = (long)delay_us * 1000}, NULL);
    uint32_t k = 0, row = 0;
    bool all = b->out_all && !s->cfg.head;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *q = &b->seqs[i];
        assert(q->first_row == row && q->n_rows <= q->n_ctx);
        for (uint32_t r = 0; r < q->n_rows; r++, row++) {
            uint32_t pos = q->n_ctx - q->n_rows + r;
            uint64_t x = 0;
            if (s->cfg.embed)
                x = fake_mix(b->tokens[row] + 1000);
            else
                for (int w = 0; w < FAKE_WIDTH; w++)
                    x |= (uint64_t)b->hidden[(size_t)row * FAKE_WIDTH + (size_t)w] << (16 * w);
            for (uint32_t l = s->cfg.layer_from; l < s->cfg.layer_to; l++)
                x = fake_layer(s, l - s->cfg.layer_from, q, pos, x);
            bool wanted = all || (k < b->n_out && b->out_rows[k] == row);
            if (!wanted)
                continue;
            if (s->cfg.head)
                fake_logits(s, x, out + (size_t)k * FAKE_VOCAB);
            else
                for (int w = 0; w < FAKE_WIDTH; w++)
                    out[(size_t)(all ? row : k) * FAKE_WIDTH + (size_t)w] =
                        (float)((x >> (16 * w)) & 0xffff);
            k++;
        }
    }
    assert(row == b->n_rows && (all || k == b->n_out));
    return 0;
}

static inline void fake_close(struct stage *stage)
{
    struct fake_stage *s = (struct fake_stage *)(void *)stage;
    free(s->kv);
    free(s);
}

static inline struct fake_stage *fake_open(const struct stage_config *cfg)
{
    static const struct backend_ops ops = {.name = "fake", .close = fake_close, .run = fake_run};
    struct fake_stage *s = calloc(1, sizeof(*s));
    s->base.ops = &ops;
    s->cfg = *cfg;
    s->kv = calloc((size_t)(cfg->layer_to - cfg->layer_from) * cfg->n_pages * 16 + 1, 8);
    return s;
}

/* What the model says next, computed from the bare token history. */
static inline void fake_reference(const struct fake_stage *s, const uint32_t *tokens, uint32_t n,
                                  float *logits)
{
    uint64_t *x = malloc(n * sizeof(*x));
    for (uint32_t i = 0; i < n; i++)
        x[i] = fake_mix(tokens[i] + 1000);
    for (uint32_t l = 0; l < FAKE_LAYERS; l++) {
        uint64_t h = 7;
        for (uint32_t i = 0; i < n; i++) {
            h = fake_mix(h * 31 + x[i]);
            x[i] = h;
        }
    }
    fake_logits(s, x[n - 1], logits);
    free(x);
}

/* A vocabulary: a letter per token. */
static inline void fake_text_init(struct detok *d, const struct tokenizer *t, bool special,
                                  bool continues)
{
    (void)continues;
    memset(d, 0, sizeof(*d));
    d->t = t;
    d->special = special;
}

static inline int fake_text_put(struct detok *d, uint32_t id, struct buf *out)
{
    (void)d;
    if (id < 2)
        return 0;
    return buf_putc(out, (char)('a' + id % 26));
}

static inline int fake_text_flush(struct detok *d, struct buf *out)
{
    (void)d;
    (void)out;
    return 0;
}

static inline bool fake_is_eog(const struct tokenizer *t, uint32_t id)
{
    (void)t;
    return id == FAKE_EOG;
}

static const struct request_text fake_text = {
    .n_vocab = FAKE_VOCAB,
    .init = fake_text_init,
    .put = fake_text_put,
    .flush = fake_text_flush,
    .is_eog = fake_is_eog,
};

#endif
