/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/kv_pool.h"

#include <assert.h>
#include <stdlib.h>

struct kv_pool {
    uint32_t n_pages;
    uint32_t n_free;
    uint32_t *free;  /* stack of free ids: [0, n_free) */
    uint32_t *count; /* references by id; 0: on the stack */
};

int kv_pool_open(struct kv_pool **out, uint32_t n_pages, struct err *e)
{
    *out = NULL;
    if (n_pages == 0 || n_pages > KV_POOL_MAX_PAGES)
        return err_set(e, Q_EINVAL, "n_pages: must be between 1 and %u", KV_POOL_MAX_PAGES);
    struct kv_pool *p = calloc(1, sizeof(*p));
    if (!p)
        goto fail;
    p->free = malloc(n_pages * sizeof(*p->free));
    p->count = calloc(n_pages, sizeof(*p->count));
    if (!p->free || !p->count)
        goto fail;
    p->n_pages = p->n_free = n_pages;
    /* Low ids come off the stack first, so that a lightly used cache stays in few pages. */
    for (uint32_t i = 0; i < n_pages; i++)
        p->free[i] = n_pages - 1 - i;
    *out = p;
    return 0;
fail:
    kv_pool_close(p);
    return err_set(e, Q_ENOMEM, "out of memory for the table of %u KV pages", n_pages);
}

void kv_pool_close(struct kv_pool *p)
{
    if (!p)
        return;
    free(p->free);
    free(p->count);
    free(p);
}

int kv_pool_take(struct kv_pool *p, uint32_t n, uint32_t *ids)
{
    if (n > p->n_free)
        return Q_EFULL;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = p->free[--p->n_free];
        p->count[id] = 1;
        ids[i] = id;
    }
    return 0;
}

void kv_pool_ref(struct kv_pool *p, uint32_t id)
{
    assert(id < p->n_pages && p->count[id] > 0);
    p->count[id]++;
}

void kv_pool_unref(struct kv_pool *p, uint32_t id)
{
    assert(id < p->n_pages && p->count[id] > 0);
    if (--p->count[id] == 0)
        p->free[p->n_free++] = id;
}

uint32_t kv_pool_n_free(const struct kv_pool *p)
{
    return p->n_free;
}

uint32_t kv_pool_n_pages(const struct kv_pool *p)
{
    return p->n_pages;
}
