/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of the CPU back end.
 *
 * A query walks chunks of CPU_CHUNK positions from position 0; each chunk gives a partial
 * result (max, sum, acc) that starts afresh, and partial results are merged in order. Where a
 * chunk ends does not depend on the batch, so it makes no difference whether one thread walks
 * all chunks (prefill) or several share them (decoding at depth). */
#include "base/num.h"
#include "worker/cpu/cpu_int.h"

#include <string.h>

static uint32_t group(const struct cpu_stage *s)
{
    return s->hp.n_heads / s->hp.n_kv_heads;
}

/* First position that a query at `pos` sees. */
static uint32_t first_seen(const struct cpu_stage *s, uint32_t pos)
{
    return s->hp.window && pos >= s->hp.window ? pos - s->hp.window + 1 : 0;
}

void cpu_attn_plan(struct cpu_stage *s)
{
    const struct batch *b = s->batch;
    uint32_t longest = 0;

    s->n_tasks = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *q = &b->seqs[i];
        longest = NUM_MAX(longest, q->n_ctx);
        for (uint32_t r = 0; r < q->n_rows; r += s->attn_rows) {
            s->tasks[s->n_tasks++] =
                (struct cpu_rows){i, q->first_row + r, NUM_MIN(q->n_rows - r, s->attn_rows)};
        }
    }
    s->n_chunks = (longest + CPU_CHUNK - 1) / CPU_CHUNK;
    s->split_attn = s->n_threads > 1 && s->n_chunks > 1 && b->n_rows <= s->partial_rows &&
                    b->n_rows * s->hp.n_kv_heads < 8 * s->n_threads;
}

/* The partial result (max, sum, acc) joins what stands in *max_all, ... */
static void merge(const struct cpu_stage *s, float *max_all, float *sum_all, float *acc_all,
                  float max, float sum, const float *acc)
{
    size_t n = s->layout.dv_pad;
    if (*sum_all == 0) {
        *max_all = max;
        *sum_all = sum;
        memcpy(acc_all, acc, n * sizeof(*acc));
        return;
    }
    float top = NUM_MAX(*max_all, max);
    float a = s->attn->exp1(*max_all - top), b = s->attn->exp1(max - top);
    for (size_t d = 0; d < n; d++)
        acc_all[d] = acc_all[d] * a + acc[d] * b;
    *sum_all = *sum_all * a + sum * b;
    *max_all = top;
}

static void finish(const struct cpu_stage *s, float *out, const float *acc, float sum)
{
    float inv = 1 / sum;
    for (uint32_t d = 0; d < s->hp.head_dim_v; d++)
        out[d] = acc[d] * inv;
}

/* All queries of thread th walk the blocks of one chunk. positions[] are those of its rows. */
static void walk_chunk(const struct cpu_stage *s, const struct cpu_thread *th, uint32_t layer,
                       const struct batch_seq *seq, uint32_t head, const uint32_t *positions,
                       uint32_t n_rows, uint32_t chunk)
{
    uint32_t g = group(s), n_q = n_rows * g, last = 0, first = UINT32_MAX;
    uint32_t from = chunk * CPU_CHUNK;
    struct attn_block b = {.l = &s->layout,
                           .n_q = n_q,
                           .q = th->q,
                           .lo = th->lo,
                           .hi = th->hi,
                           .max = th->max,
                           .sum = th->sum,
                           .acc = th->acc};

    for (uint32_t i = 0; i < n_q; i++) {
        th->max[i] = ATTN_MASKED;
        th->sum[i] = 0;
    }
    memset(th->acc, 0, (size_t)n_q * s->layout.dv_pad * sizeof(*th->acc));
    for (uint32_t r = 0; r < n_rows; r++) {
        last = NUM_MAX(last, positions[r]);
        first = NUM_MIN(first, first_seen(s, positions[r]));
    }
    uint32_t end = NUM_MIN(last + 1, from + CPU_CHUNK);
    uint32_t n_pages = (end + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
    for (uint32_t at = NUM_MAX(first / ATTN_BLOCK * ATTN_BLOCK, from); at < end; at += ATTN_BLOCK) {
        for (uint32_t r = 0; r < n_rows; r++) {
            uint32_t seen = first_seen(s, positions[r]), hi = positions[r] + 1;
            hi = hi > at ? NUM_MIN(hi - at, (uint32_t)ATTN_BLOCK) : 0;
            uint32_t lo = seen > at ? NUM_MIN(seen - at, (uint32_t)ATTN_BLOCK) : 0;
            for (uint32_t h = 0; h < g; h++) {
                th->lo[r * g + h] = (uint8_t)lo;
                th->hi[r * g + h] = (uint8_t)hi;
            }
        }
        for (uint32_t p = 0; p < ATTN_PAGES; p++) {
            uint32_t page = at / BACKEND_PAGE_TOKENS + p, next = page + ATTN_PAGES;
            b.page[p] = page < n_pages ? cpu_kv_at(s, layer, seq->pages[page], head) : NULL;
            b.next[p] = next < n_pages ? cpu_kv_at(s, layer, seq->pages[next], head) : NULL;
        }
        s->attn->block[s->layout.type](&b);
    }
}

static float *partial_at(const struct cpu_stage *s, uint32_t row, uint32_t head, uint32_t chunk)
{
    return s->partial + (((size_t)row * s->hp.n_heads + head) * s->partial_chunks + chunk) *
                            (s->layout.dv_pad + 2);
}

static void set_queries(const struct cpu_stage *s, const struct cpu_thread *th, uint32_t at,
                        uint32_t row, uint32_t head)
{
    uint32_t g = group(s);
    const unsigned char *q =
        s->q + ((size_t)row * s->hp.n_heads + (size_t)head * g) * s->layout.query_bytes;
    for (uint32_t h = 0; h < g; h++) {
        uint32_t i = at * g + h;
        attn_put_query(&s->layout, q + h * s->layout.query_bytes, i % ATTN_TILE,
                       th->q + i / ATTN_TILE * s->layout.tile_bytes);
    }
}

/* One task: some rows of a sequence, one KV head, all chunks. */
static void whole_task(const struct cpu_stage *s, const struct cpu_op *op,
                       const struct cpu_thread *th, const struct cpu_rows *task, uint32_t head,
                       bool crop)
{
    const struct batch_seq *seq = &s->batch->seqs[task->seq];
    uint32_t g = group(s), dv = s->hp.head_dim_v, n = 0;
    uint32_t rows[ATTN_BLOCK], positions[ATTN_BLOCK], first = UINT32_MAX, last = 0;

    for (uint32_t i = 0; i < task->n; i++) {
        uint32_t row = task->row + i;
        if (crop && !s->rows[row].wanted)
            continue;
        rows[n] = row;
        positions[n] = s->rows[row].pos;
        first = NUM_MIN(first, first_seen(s, positions[n]));
        last = positions[n];
        set_queries(s, th, n, row, head);
        n++;
    }
    if (n == 0)
        return;
    for (uint32_t i = 0; i < n * g; i++)
        th->sum_all[i] = 0;
    for (uint32_t c = first / CPU_CHUNK; c <= last / CPU_CHUNK; c++) {
        walk_chunk(s, th, op->layer, seq, head, positions, n, c);
        for (uint32_t i = 0; i < n * g; i++) {
            if (th->sum[i] > 0)
                merge(s, &th->max_all[i], &th->sum_all[i],
                      th->acc_all + (size_t)i * s->layout.dv_pad, th->max[i], th->sum[i],
                      th->acc + (size_t)i * s->layout.dv_pad);
        }
    }
    for (uint32_t i = 0; i < n * g; i++) {
        float *out = s->att + ((size_t)rows[i / g] * s->hp.n_heads + head * g + i % g) * dv;
        finish(s, out, th->acc_all + (size_t)i * s->layout.dv_pad, th->sum_all[i]);
    }
}

/* One row, one KV head, one chunk; the results wait in s->partial. */
static void chunk_task(const struct cpu_stage *s, const struct cpu_op *op,
                       const struct cpu_thread *th, uint32_t row, uint32_t head, uint32_t chunk)
{
    uint32_t g = group(s), pos = s->rows[row].pos;
    if (chunk < first_seen(s, pos) / CPU_CHUNK || chunk > pos / CPU_CHUNK)
        return;
    set_queries(s, th, 0, row, head);
    walk_chunk(s, th, op->layer, &s->batch->seqs[s->rows[row].seq], head, &pos, 1, chunk);
    for (uint32_t h = 0; h < g; h++) {
        float *to = partial_at(s, row, head * g + h, chunk);
        to[0] = th->max[h];
        to[1] = th->sum[h];
        memcpy(to + 2, th->acc + (size_t)h * s->layout.dv_pad, s->layout.dv_pad * sizeof(*to));
    }
}

static void merge_chunks(const struct cpu_stage *s, const struct cpu_thread *th, uint32_t row,
                         uint32_t head)
{
    uint32_t pos = s->rows[row].pos;
    float max = ATTN_MASKED, sum = 0;
    for (uint32_t c = first_seen(s, pos) / CPU_CHUNK; c <= pos / CPU_CHUNK; c++) {
        const float *part = partial_at(s, row, head, c);
        if (part[1] > 0)
            merge(s, &max, &sum, th->acc_all, part[0], part[1], part + 2);
    }
    finish(s, s->att + ((size_t)row * s->hp.n_heads + head) * s->hp.head_dim_v, th->acc_all, sum);
}

void cpu_attn_op(struct cpu_stage *s, const struct cpu_op *op, struct cpu_claim *claim,
                 uint32_t tid)
{
    const struct cpu_thread *th = &s->threads[tid];
    bool crop = op->crop && s->crop;
    uint32_t kv = s->hp.n_kv_heads, i;

    if (!s->split_attn) {
        uint32_t n = s->n_tasks * kv;
        /* The last rows of a prompt have the most keys: they go first. */
        while ((i = cpu_claim_one(claim)) < n) {
            uint32_t k = n - 1 - i;
            whole_task(s, op, th, &s->tasks[k / kv], k % kv, crop);
        }
        return;
    }
    /* The last chunks are the shorter ones: they go last and even out who waits. */
    uint32_t heads = s->batch->n_rows * kv, n = heads * s->n_chunks;
    while ((i = cpu_claim_one(claim)) < n) {
        uint32_t row = i % heads / kv;
        if (!crop || s->rows[row].wanted)
            chunk_task(s, op, th, row, i % kv, i / heads);
    }
    pool_barrier(s->pool, tid);
    n = s->batch->n_rows * s->hp.n_heads;
    for (i = tid; i < n; i += pool_active(s->pool)) {
        if (!crop || s->rows[i / s->hp.n_heads].wanted)
            merge_chunks(s, th, i / s->hp.n_heads, i % s->hp.n_heads);
    }
}
