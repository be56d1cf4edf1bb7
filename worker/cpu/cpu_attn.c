/* SPDX-License-Identifier: Apache-2.0 */
/* Attention of the CPU back end.
 *
 * Work comes in units: a chunk of one row and KV head where threads share sequences, else some
 * rows of a sequence and a KV head. Every thread has a home range of units (cpu_claim.h) and
 * knows what it will read next, so that the first block of a unit is asked for during the last
 * one of the unit before.
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
    s->n_attn_units =
        s->split_attn ? b->n_rows * s->hp.n_kv_heads * s->n_chunks : s->n_tasks * s->hp.n_kv_heads;
    uint32_t each = s->n_attn_units / s->n_threads, more = s->n_attn_units % s->n_threads;
    for (uint32_t t = 0; t <= s->n_threads; t++)
        s->attn_split[t] = t * each + NUM_MIN(t, more);
}

/* What a unit stands for. */
struct attn_unit {
    uint32_t row, head, chunk; /* of a divided sequence */
    const struct cpu_rows *task;
};

static struct attn_unit unit_at(const struct cpu_stage *s, uint32_t u)
{
    uint32_t kv = s->hp.n_kv_heads, t = 0;
    if (s->split_attn) /* chunks of a head one after the other: one stream of memory */
        return (struct attn_unit){
            .row = u / s->n_chunks / kv, .head = u / s->n_chunks % kv, .chunk = u % s->n_chunks};
    /* Homes share out the tasks like cards. The last rows of a prompt have the most keys: they
     * go first. */
    while (u >= s->attn_split[t + 1])
        t++;
    uint32_t k = s->n_attn_units - 1 - ((u - s->attn_split[t]) * s->n_threads + t);
    return (struct attn_unit){.head = k % kv, .task = &s->tasks[k / kv]};
}

/* Pages of a sequence that are read together; those past its end are NULL. */
static void block_pages(const struct cpu_stage *s, uint32_t layer, const struct batch_seq *seq,
                        uint32_t head, uint32_t pos, const unsigned char **pages)
{
    uint32_t n = (seq->n_ctx + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
    uint32_t page = pos / ATTN_BLOCK * ATTN_PAGES;
    for (uint32_t p = 0; p < ATTN_PAGES; p++, page++)
        pages[p] = page < n ? cpu_kv_at(s, layer, seq->pages[page], head) : NULL;
}

/* The first block of unit u. */
static void first_pages(const struct cpu_stage *s, uint32_t layer, uint32_t u,
                        const unsigned char **pages)
{
    struct attn_unit unit = unit_at(s, u);
    const struct cpu_row *row = &s->rows[unit.task ? unit.task->row : unit.row];
    uint32_t pos = first_seen(s, row->pos);
    block_pages(s, layer, &s->batch->seqs[row->seq], unit.head,
                NUM_MAX(pos, unit.chunk * CPU_CHUNK), pages);
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

/* All queries of thread th walk the blocks of one chunk. positions[] are those of its rows;
 * after[ATTN_PAGES]: what is read next. */
static void walk_chunk(const struct cpu_stage *s, const struct cpu_thread *th, uint32_t layer,
                       const struct batch_seq *seq, uint32_t head, const uint32_t *positions,
                       uint32_t n_rows, uint32_t chunk, const unsigned char *const *after)
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
        block_pages(s, layer, seq, head, at, b.page);
        if (at + ATTN_BLOCK < end)
            block_pages(s, layer, seq, head, at + ATTN_BLOCK, b.next);
        else
            memcpy(b.next, after, sizeof(b.next));
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
                       bool crop, const unsigned char *const *after)
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
        const unsigned char *next[ATTN_PAGES];
        if (c < last / CPU_CHUNK)
            block_pages(s, op->layer, seq, head, (c + 1) * CPU_CHUNK, next);
        else
            memcpy(next, after, sizeof(next));
        walk_chunk(s, th, op->layer, seq, head, positions, n, c, next);
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
                       const struct cpu_thread *th, const struct attn_unit *unit,
                       const unsigned char *const *after)
{
    uint32_t row = unit->row, head = unit->head, chunk = unit->chunk;
    uint32_t g = group(s), pos = s->rows[row].pos;
    if (chunk < first_seen(s, pos) / CPU_CHUNK || chunk > pos / CPU_CHUNK)
        return;
    set_queries(s, th, 0, row, head);
    walk_chunk(s, th, op->layer, &s->batch->seqs[s->rows[row].seq], head, &pos, 1, chunk, after);
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

void cpu_attn_ask(const struct cpu_stage *s, uint32_t layer, uint32_t tid)
{
    const unsigned char *pages[ATTN_PAGES];
    if (s->attn_split[tid] == s->attn_split[tid + 1])
        return;
    first_pages(s, layer, s->attn_split[tid], pages);
    for (uint32_t p = 0; p < ATTN_PAGES && pages[p]; p++) {
        for (size_t at = 0; at < s->layout.bytes; at += 64)
            __builtin_prefetch(pages[p] + at, 0, 3);
    }
}

void cpu_attn_op(struct cpu_stage *s, const struct cpu_op *op, struct cpu_claimer *claimer,
                 uint32_t tid)
{
    const struct cpu_thread *th = &s->threads[tid];
    bool crop = op->crop && s->crop;
    uint32_t u, to;

    while (cpu_claim_next(claimer, &u, &to)) {
        for (; u < to; u++) {
            const struct attn_unit unit = unit_at(s, u);
            const unsigned char *after[ATTN_PAGES] = {NULL};
            if (u >= s->attn_split[tid] && u + 1 < s->attn_split[tid + 1])
                first_pages(s, op->layer, u + 1, after);
            if (unit.task)
                whole_task(s, op, th, unit.task, unit.head, crop, after);
            else if (!crop || s->rows[unit.row].wanted)
                chunk_task(s, op, th, &unit, after);
        }
    }
    if (!s->split_attn)
        return;
    pool_barrier(s->pool, tid);
    uint32_t n = s->batch->n_rows * s->hp.n_heads;
    for (uint32_t i = tid; i < n; i += pool_active(s->pool)) {
        if (!crop || s->rows[i / s->hp.n_heads].wanted)
            merge_chunks(s, th, i / s->hp.n_heads, i % s->hp.n_heads);
    }
}
