/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/pool.h"

#include "base/clock.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_NS     40000U /* longer than a barrier's usual wait, shorter than anyone notices */
#define MAX_THREADS 1024U

/* A counter that threads wait on to change. */
struct event {
    alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
};

struct pool {
    struct event work;    /* raised once per pool_run */
    struct event barrier; /* raised when the last thread arrives */
    alignas(64) _Atomic uint32_t arrived;
    alignas(64) void (*fn)(void *ctx, uint32_t tid);
    void *ctx;
    bool stop;
    uint32_t n;
    uint32_t spins;
    struct member {
        struct pool *pool;
        pthread_t thread;
        uint32_t tid;
    } members[];
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void event_raise(struct event *ev)
{
    /* Sequentially consistent: either the sleeper sees the new value before it sleeps or we
     * see that it sleeps. */
    atomic_fetch_add(&ev->value, 1);
    if (atomic_load(&ev->sleepers) > 0)
        syscall(SYS_futex, &ev->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void event_wait(struct event *ev, uint32_t old, uint32_t spins)
{
    for (uint32_t i = 0; i < spins; i++) {
        if (atomic_load_explicit(&ev->value, memory_order_acquire) != old)
            return;
        pause_cpu();
    }
    atomic_fetch_add(&ev->sleepers, 1);
    while (atomic_load(&ev->value) == old)
        syscall(SYS_futex, &ev->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&ev->sleepers, 1);
}

void pool_barrier(struct pool *p)
{
    if (p->n == 1)
        return;
    uint32_t old = atomic_load_explicit(&p->barrier.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == p->n) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        event_raise(&p->barrier);
    } else {
        event_wait(&p->barrier, old, p->spins);
    }
}

static void *member_main(void *arg)
{
    struct member *m = arg;
    struct pool *p = m->pool;
    uint32_t seen = 0;

    for (;;) {
        event_wait(&p->work, seen, p->spins);
        seen++;
        if (p->stop)
            return NULL;
        p->fn(p->ctx, m->tid);
        pool_barrier(p);
    }
}

void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t tid), void *ctx)
{
    p->fn = fn;
    p->ctx = ctx;
    if (p->n > 1)
        event_raise(&p->work);
    fn(ctx, 0);
    pool_barrier(p);
}

/* How many pauses fill SPIN_NS: a pause takes 40 to 140 cycles, depending on the CPU. */
static uint32_t measure_spins(void)
{
    uint64_t t0 = clock_mono_ns();
    for (int i = 0; i < 500; i++)
        pause_cpu();
    uint64_t per_pause = (clock_mono_ns() - t0) / 500 + 1;
    return (uint32_t)(SPIN_NS / per_pause) + 1;
}

static void stop_members(struct pool *p, uint32_t n)
{
    p->stop = true;
    event_raise(&p->work);
    for (uint32_t i = 1; i < n; i++)
        pthread_join(p->members[i].thread, NULL);
}

int pool_open(struct pool **out, uint32_t n_threads, struct err *e)
{
    *out = NULL;
    if (n_threads == 0)
        n_threads = pool_default_threads();
    if (n_threads > MAX_THREADS)
        return err_set(e, Q_EINVAL, "%u threads, at most %u", n_threads, MAX_THREADS);
    size_t bytes = sizeof(struct pool) + n_threads * sizeof(struct member);
    struct pool *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        return err_set(e, Q_ENOMEM, "no memory for %u threads", n_threads);
    memset(p, 0, bytes);
    p->n = n_threads;
    p->spins = measure_spins();
    for (uint32_t i = 1; i < n_threads; i++) {
        struct member *m = &p->members[i];
        m->pool = p;
        m->tid = i;
        int rc = pthread_create(&m->thread, NULL, member_main, m);
        if (rc) {
            stop_members(p, i);
            free(p);
            return err_set(e, Q_ENOMEM, "can't start thread %u of %u: %s", i + 1, n_threads,
                           strerror(rc));
        }
    }
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    stop_members(p, p->n);
    free(p);
}

uint32_t pool_threads(const struct pool *p)
{
    return p->n;
}
