/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h - threads that run one function together.
 *
 * pool_run calls fn(ctx, 0) on the caller and fn(ctx, 1..n-1) on the pool's threads and
 * returns when all are done. pool_step does the same with as many of the threads as are worth
 * it now (pool_tune.h): on a busy machine fewer are faster. Inside, pool_active says how many
 * take part and pool_barrier makes these wait for each other. Waiting spins for a few tens of
 * microseconds, then sleeps in a futex, so that a busy core is given away. One caller at a
 * time. */
#ifndef QUIRE_CPU_POOL_H
#define QUIRE_CPU_POOL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct pool;

struct pool_config {
    uint32_t n_threads; /* with the caller; 0: cores within the control group's quota */
    /* Every thread stays on a core of its own; the caller while a region runs. Good where
     * nobody else works, bad where somebody does. On several memory nodes threads stay on
     * their node in any case, so that rows of weights have a home. */
    bool pin;
};

Q_MUST_CHECK int pool_open(struct pool **out, const struct pool_config *cfg, struct err *e);
void pool_close(struct pool *p); /* joins the threads; NULL is fine */
uint32_t pool_threads(const struct pool *p);
/* Threads [*from, *to) share the memory node of thread tid: the same threads for the same
 * number of them on the same machine. */
void pool_node(const struct pool *p, uint32_t tid, uint32_t *from, uint32_t *to);
/* That node among those that have threads, counted from 0; how many these are. */
uint32_t pool_node_index(const struct pool *p, uint32_t tid);
uint32_t pool_nodes(const struct pool *p);
void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t tid), void *ctx);
void pool_step(struct pool *p, void (*fn)(void *ctx, uint32_t tid), void *ctx);
uint32_t pool_active(const struct pool *p);
void pool_barrier(struct pool *p, uint32_t tid);

#endif
