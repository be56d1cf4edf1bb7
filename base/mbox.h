/* SPDX-License-Identifier: Apache-2.0 */
/* mbox.h - hand work to a thread: many senders, one receiver, bounded.
 *
 * A message embeds `struct mbox_msg`. Senders push; when the box was empty the wake function
 * runs (on the sender's thread, outside the lock): it signals an eventfd, a condition or
 * uv_async_send. The receiver takes all waiting messages as one list, oldest first.
 * mbox_wait serves receivers that are plain threads. */
#ifndef QUIRE_BASE_MBOX_H
#define QUIRE_BASE_MBOX_H

#include "base/err.h"

#include <pthread.h>
#include <stdint.h>

struct mbox_msg {
    struct mbox_msg *next;
};

struct mbox {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct mbox_msg *head, **tail;
    size_t n, max;
    void (*wake)(void *ctx);
    void *wake_ctx;
};

/* wake may be NULL when the receiver uses mbox_wait. */
void mbox_init(struct mbox *m, size_t max_msgs, void (*wake)(void *ctx), void *ctx);
void mbox_fini(struct mbox *m); /* must be empty */
/* 0, or Q_EFULL: the message still belongs to the caller. */
Q_MUST_CHECK int mbox_push(struct mbox *m, struct mbox_msg *msg);
/* Push without a bound: for messages whose number is bounded elsewhere (one per call). */
void mbox_push_force(struct mbox *m, struct mbox_msg *msg);
/* All messages or NULL; never blocks. */
struct mbox_msg *mbox_take(struct mbox *m);
/* Wait up to timeout_ms (UINT64_MAX: for ever) for messages; NULL on timeout. */
struct mbox_msg *mbox_wait(struct mbox *m, uint64_t timeout_ms);

#endif
