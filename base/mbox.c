/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mbox.h"

#include <assert.h>
#include <time.h>

void mbox_init(struct mbox *m, size_t max_msgs, void (*wake)(void *ctx), void *ctx)
{
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->cond, &attr);
    pthread_condattr_destroy(&attr);
    m->head = NULL;
    m->tail = &m->head;
    m->n = 0;
    m->max = max_msgs;
    m->wake = wake;
    m->wake_ctx = ctx;
}

void mbox_fini(struct mbox *m)
{
    assert(!m->head);
    pthread_cond_destroy(&m->cond);
    pthread_mutex_destroy(&m->lock);
}

static int push(struct mbox *m, struct mbox_msg *msg, size_t max)
{
    pthread_mutex_lock(&m->lock);
    if (m->n >= max) {
        pthread_mutex_unlock(&m->lock);
        return Q_EFULL;
    }
    int was_empty = m->head == NULL;
    msg->next = NULL;
    *m->tail = msg;
    m->tail = &msg->next;
    m->n++;
    if (was_empty)
        pthread_cond_signal(&m->cond);
    pthread_mutex_unlock(&m->lock);
    if (was_empty && m->wake)
        m->wake(m->wake_ctx);
    return 0;
}

int mbox_push(struct mbox *m, struct mbox_msg *msg)
{
    return push(m, msg, m->max);
}

void mbox_push_force(struct mbox *m, struct mbox_msg *msg)
{
    (void)push(m, msg, SIZE_MAX);
}

static struct mbox_msg *take_locked(struct mbox *m)
{
    struct mbox_msg *list = m->head;
    m->head = NULL;
    m->tail = &m->head;
    m->n = 0;
    return list;
}

struct mbox_msg *mbox_take(struct mbox *m)
{
    pthread_mutex_lock(&m->lock);
    struct mbox_msg *list = take_locked(m);
    pthread_mutex_unlock(&m->lock);
    return list;
}

struct mbox_msg *mbox_wait(struct mbox *m, uint64_t timeout_ms)
{
    struct timespec until;
    if (timeout_ms != UINT64_MAX) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)(timeout_ms / 1000);
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
    }
    pthread_mutex_lock(&m->lock);
    while (!m->head) {
        if (timeout_ms == UINT64_MAX)
            pthread_cond_wait(&m->cond, &m->lock);
        else if (pthread_cond_timedwait(&m->cond, &m->lock, &until) != 0)
            break;
    }
    struct mbox_msg *list = take_locked(m);
    pthread_mutex_unlock(&m->lock);
    return list;
}
