/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/control/placement.h"

#include "base/buf.h"
#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

/* Sums saturate: a shape comes from a worker, and "does not fit" is the right answer to
 * absurd numbers. */
static uint64_t add(uint64_t a, uint64_t b)
{
    uint64_t r;
    return __builtin_add_overflow(a, b, &r) ? UINT64_MAX : r;
}

static uint64_t mul(uint64_t a, uint64_t b)
{
    uint64_t r;
    return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
}

uint32_t place_ctx(const struct cs_shape *shape, uint32_t wanted)
{
    uint32_t n = wanted ? wanted : PLACE_DEFAULT_CTX;
    if (shape->n_ctx_train && n > shape->n_ctx_train)
        n = shape->n_ctx_train;
    return NUM_MAX(n, (uint32_t)PLACE_PAGE_TOKENS);
}

static uint32_t ctx_pages(uint32_t n_ctx)
{
    return n_ctx / PLACE_PAGE_TOKENS + (n_ctx % PLACE_PAGE_TOKENS != 0);
}

static uint64_t weight_bytes(const struct cs_shape *s, uint32_t from, uint32_t to, bool head)
{
    uint64_t sum = head ? add(s->embed_bytes, s->head_bytes) : 0;
    for (uint32_t i = from; i < to; i++)
        sum = add(sum, s->layer_bytes[i]);
    return sum;
}

uint32_t place_pages(const struct cs_shape *shape, uint32_t n_ctx, uint32_t n_parallel)
{
    uint64_t n_seq = n_parallel ? n_parallel : PLACE_DEFAULT_PARALLEL;
    uint64_t tokens = NUM_MIN(n_seq * n_ctx, UINT64_C(16384));
    uint64_t per_token = mul(shape->kv_bytes_per_token_layer, shape->n_layers);
    uint64_t budget = NUM_MAX(256 * MIB, weight_bytes(shape, 0, shape->n_layers, true) / 4);
    if (per_token && tokens > budget / per_token)
        tokens = budget / per_token;
    uint64_t pages = tokens / PLACE_PAGE_TOKENS;
    uint32_t least = ctx_pages(n_ctx);
    return pages > least ? (uint32_t)pages : least;
}

uint64_t place_shard_bytes(const struct cs_shape *s, uint32_t from, uint32_t to, bool head,
                           uint32_t n_pages)
{
    uint64_t kv =
        mul(mul(s->kv_bytes_per_token_layer, to - from), (uint64_t)n_pages * PLACE_PAGE_TOKENS);
    uint64_t sum = add(weight_bytes(s, from, to, head), kv);
    return add(sum, head ? PLACE_SCRATCH_HEAD : PLACE_SCRATCH_SHARD);
}

bool place_wished(const char *list, const char *address, const char *host)
{
    if (!list || !*list)
        return true;
    const char *colon = strrchr(address, ':');
    size_t n_addr_host = colon ? (size_t)(colon - address) : strlen(address);
    while (*list) {
        list += strspn(list, ", ");
        size_t n = strcspn(list, ", ");
        if (n && ((strlen(address) == n && memcmp(address, list, n) == 0) ||
                  (n_addr_host == n && memcmp(address, list, n) == 0) ||
                  (strlen(host) == n && memcmp(host, list, n) == 0)))
            return true;
        list += n;
    }
    return false;
}

/* ---- order of candidates ----------------------------------------------------------------- */

struct cand {
    const struct place_worker *w;
    size_t index;
};

static int better(const void *a, const void *b)
{
    const struct place_worker *x = ((const struct cand *)a)->w, *y = ((const struct cand *)b)->w;
    if (x->n_same != y->n_same)
        return x->n_same < y->n_same ? -1 : 1;
    if (x->has_file != y->has_file)
        return x->has_file ? -1 : 1;
    if (x->reserved_bytes != y->reserved_bytes)
        return x->reserved_bytes < y->reserved_bytes ? -1 : 1;
    if (x->free_bytes != y->free_bytes)
        return x->free_bytes > y->free_bytes ? -1 : 1;
    return strcmp(x->id, y->id);
}

/* ---- cutting ----------------------------------------------------------------------------- */

/* What its host gives to the shards before shard i. */
static uint64_t taken_on_host(const struct place_shard *out, const struct cand *cands, uint32_t i)
{
    const char *host = cands[i].w->host;
    uint64_t sum = 0;
    for (uint32_t k = 0; host && *host && k < i; k++)
        if (cands[k].w->host && strcmp(cands[k].w->host, host) == 0)
            sum = add(sum, out[k].bytes);
    return sum;
}

/* Give shard i the most layers with at most `limit` bytes, and no more than its worker has
 * free, leaving one layer for each shard after it. true when all layers found a place. */
static bool fill(struct place_shard *out, const struct place_request *rq, const struct cand *cands,
                 uint32_t n_pages, uint64_t limit)
{
    const struct cs_shape *s = rq->shape;
    uint32_t at = 0;
    for (uint32_t i = 0; i < rq->n_shards; i++) {
        uint64_t taken = taken_on_host(out, cands, i), free_bytes = cands[i].w->free_bytes;
        uint64_t room = NUM_MIN(limit, free_bytes > taken ? free_bytes - taken : 0);
        uint32_t last = s->n_layers - (rq->n_shards - 1 - i);
        uint64_t used = place_shard_bytes(s, at, at, i == 0, n_pages);
        uint64_t kv = mul(s->kv_bytes_per_token_layer, (uint64_t)n_pages * PLACE_PAGE_TOKENS);
        uint32_t to = at;
        while (to < last) {
            uint64_t next = add(used, add(s->layer_bytes[to], kv));
            if (next > room)
                break;
            used = next;
            to++;
        }
        if (to == at)
            return false;
        out[i] = (struct place_shard){cands[i].index, at, to, used};
        at = to;
    }
    return at == s->n_layers;
}

/* The lightest heaviest shard: binary search over its bytes. */
static bool cut(struct place_shard *out, const struct place_request *rq, const struct cand *cands,
                uint32_t n_pages)
{
    enum { STEPS = 32 };
    uint64_t all = place_shard_bytes(rq->shape, 0, rq->shape->n_layers, true, n_pages);
    uint64_t low = 0, high = all;
    if (!fill(out, rq, cands, n_pages, high)) {
        /* On one host a greedy shard starves the next: a lower limit may fit all. */
        uint64_t k = 1;
        while (k < STEPS && !fill(out, rq, cands, n_pages, all / STEPS * k))
            k++;
        if (k == STEPS)
            return false;
        low = all / STEPS * (k - 1);
        high = all / STEPS * k;
    }
    while (high - low > 4096) {
        uint64_t mid = low + (high - low) / 2;
        if (fill(out, rq, cands, n_pages, mid))
            high = mid;
        else
            low = mid;
    }
    return fill(out, rq, cands, n_pages, high);
}

/* ---- words ------------------------------------------------------------------------------- */

static const char *size_text(char *buf, size_t cap, uint64_t bytes)
{
    if (bytes >= 10 * 1024 * MIB)
        snprintf(buf, cap, "%.0f GiB", (double)bytes / (1024.0 * (double)MIB));
    else if (bytes >= 1024 * MIB)
        snprintf(buf, cap, "%.1f GiB", (double)bytes / (1024.0 * (double)MIB));
    else
        snprintf(buf, cap, "%.0f MiB", (double)bytes / (double)MIB);
    return buf;
}

static int no_room(const struct place_request *rq, const struct place_worker *workers,
                   size_t n_workers, uint32_t least_pages, struct err *e)
{
    char size[32];
    struct buf b;
    buf_init(&b, sizeof e->msg - 80);
    uint64_t need = place_shard_bytes(rq->shape, 0, rq->shape->n_layers, true, least_pages) +
                    (uint64_t)(rq->n_shards - 1) * PLACE_SCRATCH_SHARD;
    buf_printf(&b, "the model needs %s", size_text(size, sizeof size, need));
    if (rq->n_shards > 1)
        buf_printf(&b, " over %u workers", rq->n_shards);
    buf_printf(&b, " (weights and a context of %u tokens)", rq->n_ctx);
    for (size_t i = 0; i < n_workers; i++) {
        const struct place_worker *w = &workers[i];
        if (w->excluded)
            buf_printf(&b, "; %s: %s", w->address, w->excluded);
        else
            buf_printf(&b, "; %s has %s free", w->address,
                       size_text(size, sizeof size, w->free_bytes));
    }
    int rc = err_set(e, Q_EFULL, "No available slot found for the model: %s%s", buf_cstr(&b),
                     b.failed ? "; ..." : "");
    buf_fini(&b);
    return rc;
}

static void explain(struct place_result *out, const struct place_request *rq,
                    const struct place_worker *workers, const struct cand *cands, size_t n_cands,
                    size_t n_workers)
{
    char size[32];
    struct buf b;
    buf_init(&b, sizeof out->why - 1);
    for (uint32_t i = 0; i < out->n_shards; i++)
        buf_printf(&b, "%slayers %u-%u on %s (%s)", i ? ", " : "", out->shards[i].layer_from,
                   out->shards[i].layer_to - 1, workers[out->shards[i].worker].address,
                   size_text(size, sizeof size, out->shards[i].bytes));
    for (size_t i = rq->n_shards; i < n_cands; i++) {
        const struct place_worker *w = cands[i].w, *last = cands[rq->n_shards - 1].w;
        const char *why = w->n_same > last->n_same                    ? "runs this model already"
                          : w->has_file != last->has_file             ? "lacks the file"
                          : w->reserved_bytes != last->reserved_bytes ? "has more reserved"
                                                                      : "was not needed";
        buf_printf(&b, "; %s %s", w->address, why);
    }
    for (size_t i = 0; i < n_workers; i++)
        if (workers[i].excluded)
            buf_printf(&b, "; %s: %s", workers[i].address, workers[i].excluded);
    cs_copy(out->why, sizeof out->why, buf_cstr(&b));
    buf_fini(&b);
}

/* ---- choosing ---------------------------------------------------------------------------- */

/* With one shard, skip past candidates that are too small; with several, the cut itself weighs
 * who takes how much, so try dropping the smallest candidates one by one. */
static bool choose(struct place_result *out, const struct place_request *rq, struct cand *cands,
                   size_t n_cands, uint32_t n_pages)
{
    for (size_t skip = 0; skip + rq->n_shards <= n_cands; skip++) {
        if (cut(out->shards, rq, cands + skip, n_pages)) {
            if (skip) { /* the chosen ones first: explain() counts on it */
                struct cand tmp[CS_MAX_SHARDS];
                memcpy(tmp, cands + skip, rq->n_shards * sizeof *tmp);
                memmove(cands + rq->n_shards, cands, skip * sizeof *cands);
                memcpy(cands, tmp, rq->n_shards * sizeof *tmp);
            }
            return true;
        }
    }
    return false;
}

int place_replica(struct place_result *out, const struct place_request *rq,
                  const struct place_worker *workers, size_t n_workers, struct err *e)
{
    if (rq->n_shards == 0 || rq->n_shards > CS_MAX_SHARDS)
        return err_set(e, Q_EINVAL, "n_worker must be between 1 and %d.", CS_MAX_SHARDS);
    if (rq->shape->n_layers == 0 || rq->shape->n_layers > CS_MAX_LAYERS)
        return err_set(e, Q_EINVAL, "a model of %u layers cannot be placed", rq->shape->n_layers);
    if (rq->n_shards > rq->shape->n_layers)
        return err_set(e, Q_EINVAL, "the model has %u layers and cannot be split over %u workers",
                       rq->shape->n_layers, rq->n_shards);
    struct cand *cands = calloc(n_workers ? n_workers : 1, sizeof *cands);
    if (!cands)
        return err_set(e, Q_ENOMEM, "out of memory");
    size_t n_cands = 0;
    for (size_t i = 0; i < n_workers; i++)
        if (!workers[i].excluded)
            cands[n_cands++] = (struct cand){&workers[i], i};
    int rc = 0;
    if (n_cands == 0 && n_workers == 0) {
        rc = err_set(e, Q_EUNAVAILABLE, "No available worker found: no worker has joined");
        goto done;
    }
    if (n_cands < rq->n_shards && n_cands > 0) {
        rc = err_set(e, Q_EINVAL, "the model needs %u workers, there %s %zu", rq->n_shards,
                     n_cands == 1 ? "is" : "are", n_cands);
        goto done;
    }
    qsort(cands, n_cands, sizeof *cands, better);

    uint32_t least = ctx_pages(rq->n_ctx);
    for (uint32_t pages = NUM_MAX(rq->n_pages, least);;) {
        if (choose(out, rq, cands, n_cands, pages)) {
            out->n_shards = rq->n_shards;
            out->n_pages = pages;
            explain(out, rq, workers, cands, n_cands, n_workers);
            goto done;
        }
        if (pages == least)
            break;
        pages = NUM_MAX(pages / 2, least);
    }
    rc = no_room(rq, workers, n_workers, least, e);
done:
    free(cands);
    return rc;
}
