/* SPDX-License-Identifier: Apache-2.0 */
/* text_pool.h - a few threads for work that is too slow for an RPC callback and must not stop
 * the engine: rendering templates and tokenising.
 *
 * A job embeds `struct text_job` and is run once, by some thread of the pool. */
#ifndef QUIRE_ENGINE_TEXT_POOL_H
#define QUIRE_ENGINE_TEXT_POOL_H

#include "base/err.h"

struct text_pool;

struct text_job {
    struct text_job *next;
    void (*run)(struct text_job *j);
};

/* niceness: how far its threads stand back behind others, 0 to 19. */
Q_MUST_CHECK int text_pool_open(struct text_pool **out, unsigned n_threads, unsigned max_jobs,
                                int niceness, struct err *e);
/* Runs what is queued, then joins. No push may follow. NULL is fine. */
void text_pool_close(struct text_pool *p);
/* Q_EFULL: the job still belongs to the caller. Any thread. */
Q_MUST_CHECK int text_pool_push(struct text_pool *p, struct text_job *j);

#endif
