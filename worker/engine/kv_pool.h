/* SPDX-License-Identifier: Apache-2.0 */
/* kv_pool.h - which pages of the KV cache are free.
 *
 * A page holds BACKEND_PAGE_TOKENS positions of every layer of a replica; its id means the
 * same in all shards. The pool knows numbers only, never the memory. Pages are counted, not
 * owned: a sequence holds one reference per page. The engine thread calls everything here;
 * nothing locks and, after opening, nothing allocates. */
#ifndef QUIRE_ENGINE_KV_POOL_H
#define QUIRE_ENGINE_KV_POOL_H

#include "base/err.h"

#include <stdint.h>

#define KV_POOL_MAX_PAGES (UINT32_C(1) << 24)

struct kv_pool;

/* All n_pages pages are free at first. */
Q_MUST_CHECK int kv_pool_open(struct kv_pool **out, uint32_t n_pages, struct err *e);
void kv_pool_close(struct kv_pool *p); /* NULL is fine */

/* Take n free pages into ids[], each with one reference. All or nothing: on Q_EFULL ids[] is
 * untouched. */
Q_MUST_CHECK int kv_pool_take(struct kv_pool *p, uint32_t n, uint32_t *ids);
void kv_pool_ref(struct kv_pool *p, uint32_t id);
void kv_pool_unref(struct kv_pool *p, uint32_t id); /* free again at the last one */

uint32_t kv_pool_n_free(const struct kv_pool *p);
uint32_t kv_pool_n_pages(const struct kv_pool *p);

#endif
