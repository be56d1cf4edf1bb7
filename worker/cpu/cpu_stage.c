/* SPDX-License-Identifier: Apache-2.0 */
#include "base/num.h"
#include "worker/cpu/cpu_int.h"
#include "worker/cpu/cpu_open.h"

#include <stdlib.h>
#include <string.h>

static int check_seq(const struct cpu_stage *s, const struct batch_seq *q, uint32_t n_rows)
{
    if (q->n_rows == 0 || q->first_row > n_rows || q->n_rows > n_rows - q->first_row ||
        q->n_ctx < q->n_rows)
        return Q_EINVAL;
    if (s->n_layers == 0)
        return 0;
    if (q->n_ctx > s->n_pages * (uint64_t)BACKEND_PAGE_TOKENS)
        return Q_EINVAL;
    for (uint32_t i = 0; i < (q->n_ctx + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS; i++) {
        if (q->pages[i] >= s->n_pages)
            return Q_EINVAL;
    }
    return 0;
}

/* Check the batch and write down what each row is. Rows belong to one sequence each, in order. */
static int take_batch(struct cpu_stage *s, const struct batch *b)
{
    uint32_t row = 0;

    if (b->n_rows == 0 || b->n_rows > s->max_tokens || b->n_seqs == 0 || b->n_seqs > s->max_seqs ||
        b->n_out > b->n_rows || (s->embed ? !b->tokens : !b->hidden))
        return Q_EINVAL;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *q = &b->seqs[i];
        if (q->first_row != row || check_seq(s, q, b->n_rows))
            return Q_EINVAL;
        for (uint32_t r = 0; r < q->n_rows; r++)
            s->rows[row++] = (struct cpu_row){i, q->n_ctx - q->n_rows + r, false};
    }
    if (row != b->n_rows)
        return Q_EINVAL;
    for (uint32_t i = 0; s->embed && i < b->n_rows; i++) {
        if (b->tokens[i] >= s->hp.n_vocab)
            return Q_EINVAL;
    }
    s->crop = s->head || !b->out_all;
    s->n_live = s->crop ? b->n_out : b->n_rows;
    for (uint32_t i = 0; s->crop && i < b->n_out; i++) {
        if (b->out_rows[i] >= b->n_rows || (i > 0 && b->out_rows[i] <= b->out_rows[i - 1]))
            return Q_EINVAL;
        s->map[i] = b->out_rows[i];
        s->rows[b->out_rows[i]].wanted = true;
    }
    s->batch = b;
    return 0;
}

static int cpu_run(struct stage *stage, const struct batch *b, float *out)
{
    struct cpu_stage *s = (struct cpu_stage *)stage;
    int rc = take_batch(s, b);
    if (rc)
        return rc;
    s->out = out;
    cpu_attn_plan(s);
    for (uint32_t i = 0; i < 2 * s->n_threads; i++)
        atomic_store_explicit(&s->claims[i].taken, 0, memory_order_relaxed);
    if (s->fixed_threads) {
        pool_run(s->pool, cpu_region, s);
    } else {
        pool_step(s->pool, cpu_region, s);
    }
    s->batch = NULL;
    return 0;
}

static void cpu_close(struct stage *stage)
{
    cpu_stage_free((struct cpu_stage *)stage);
}

static size_t cpu_weight_bytes(const struct stage *stage)
{
    return ((const struct cpu_stage *)stage)->weight_bytes;
}

static size_t cpu_kv_bytes(const struct stage *stage)
{
    return ((const struct cpu_stage *)stage)->kv.bytes;
}

static int cpu_open(struct stage **out, const struct stage_config *cfg, struct err *e)
{
    struct cpu_stage *s;
    *out = NULL;
    int rc = cpu_stage_new(&s, cfg, e);
    if (rc)
        return rc;
    s->base.ops = backend_cpu();
    *out = &s->base;
    return 0;
}

const struct backend_ops *backend_cpu(void)
{
    static const struct backend_ops ops = {"cpu",   cpu_open,         cpu_close,
                                           cpu_run, cpu_weight_bytes, cpu_kv_bytes};
    return &ops;
}
