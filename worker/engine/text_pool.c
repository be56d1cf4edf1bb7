/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/text_pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>

#define MAX_THREADS 16

struct text_pool {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct text_job *head, **tail;
    unsigned n_jobs, max_jobs;
    bool closing;
    int niceness;
    unsigned n_threads;
    pthread_t threads[MAX_THREADS];
};

static void *worker(void *arg)
{
    struct text_pool *p = arg;
    if (p->niceness > 0)
        (void)setpriority(PRIO_PROCESS, 0, p->niceness); /* on Linux: this thread's */
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->head && !p->closing)
            pthread_cond_wait(&p->cond, &p->lock);
        struct text_job *j = p->head;
        if (!j)
            break;
        p->head = j->next;
        if (!p->head)
            p->tail = &p->head;
        p->n_jobs--;
        pthread_mutex_unlock(&p->lock);
        j->run(j);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int text_pool_open(struct text_pool **out, unsigned n_threads, unsigned max_jobs, int niceness,
                   struct err *e)
{
    *out = NULL;
    struct text_pool *p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(e, Q_ENOMEM, "out of memory for text threads");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->cond, NULL);
    p->tail = &p->head;
    p->max_jobs = max_jobs;
    p->niceness = niceness;
    for (; p->n_threads < n_threads && p->n_threads < MAX_THREADS; p->n_threads++)
        if (pthread_create(&p->threads[p->n_threads], NULL, worker, p) != 0)
            break;
    if (p->n_threads == 0) {
        text_pool_close(p);
        return err_set(e, Q_EIO, "cannot start text threads");
    }
    *out = p;
    return 0;
}

void text_pool_close(struct text_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int text_pool_push(struct text_pool *p, struct text_job *j)
{
    int rc = 0;
    j->next = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->n_jobs >= p->max_jobs) {
        rc = Q_EFULL;
    } else {
        *p->tail = j;
        p->tail = &j->next;
        p->n_jobs++;
        pthread_cond_signal(&p->cond);
    }
    pthread_mutex_unlock(&p->lock);
    return rc;
}
