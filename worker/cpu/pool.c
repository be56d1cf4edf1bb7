/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/pool.h"

#include "base/clock.h"
#include "base/cpus.h"
#include "base/num.h"
#include "worker/cpu/pool_tune.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NS     40000U /* longer than a barrier's usual wait, shorter than anyone notices */
#define MAX_THREADS 1024U

/* A counter that threads wait on to change. */
struct event {
    alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
};

/* What a thread owns; the caller reads worked_ns of the others after a region. */
struct member {
    struct event work; /* raised once per region in which the thread takes part */
    struct pool *pool;
    pthread_t thread;
    uint32_t tid, node_from, node_to, node;
    cpu_set_t *where;   /* the CPUs it may use; NULL: any */
    uint64_t spun;      /* pauses since worked_ns was taken */
    uint64_t cpu_ns;    /* of the thread then */
    uint64_t worked_ns; /* in the last region: CPU time without spinning */
};

struct pool {
    struct event barrier; /* raised when the last thread arrives */
    alignas(64) _Atomic uint32_t arrived;
    alignas(64) void (*fn)(void *ctx, uint32_t tid);
    void *ctx;
    bool stop;
    uint32_t n, active; /* threads: all, in this region */
    size_t set_bytes;   /* of each member's `where` */
    cpu_set_t *before;  /* where the caller may run outside a region */
    uint32_t spins;
    double pause_ns;
    struct pool_tune tune;
    struct member members[];
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* "yield" does nothing on most CPUs */
#endif
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static void event_raise(struct event *ev)
{
    /* Sequentially consistent: either the sleeper sees the new value before it sleeps or we
     * see that it sleeps. */
    atomic_fetch_add(&ev->value, 1);
    if (atomic_load(&ev->sleepers) > 0)
        syscall(SYS_futex, &ev->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void event_wait(struct event *ev, uint32_t old, uint32_t spins, uint64_t *spun)
{
    for (uint32_t i = 0; i < spins; i++) {
        if (atomic_load_explicit(&ev->value, memory_order_acquire) != old) {
            *spun += i;
            return;
        }
        pause_cpu();
    }
    *spun += spins;
    atomic_fetch_add(&ev->sleepers, 1);
    while (atomic_load(&ev->value) == old)
        syscall(SYS_futex, &ev->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&ev->sleepers, 1);
}

void pool_barrier(struct pool *p, uint32_t tid)
{
    uint32_t n = p->active; /* the next region may set it as soon as we have arrived */
    if (n == 1)
        return;
    uint32_t old = atomic_load_explicit(&p->barrier.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == n) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        event_raise(&p->barrier);
    } else {
        event_wait(&p->barrier, old, p->spins, &p->members[tid].spun);
    }
}

static void take_work(struct member *m)
{
    uint64_t now = thread_cpu_ns(), spun = (uint64_t)((double)m->spun * m->pool->pause_ns);
    m->worked_ns = now - m->cpu_ns > spun ? now - m->cpu_ns - spun : 0;
    m->cpu_ns = now;
    m->spun = 0;
}

static void *member_main(void *arg)
{
    struct member *m = arg;
    struct pool *p = m->pool;
    uint32_t seen = 0;

    if (m->where)
        sched_setaffinity(0, p->set_bytes, m->where); /* a wish: works without */
    for (;;) {
        event_wait(&m->work, seen, p->spins, &m->spun);
        seen++;
        if (p->stop)
            return NULL;
        p->fn(p->ctx, m->tid);
        take_work(m);
        pool_barrier(p, m->tid);
    }
}

static void region(struct pool *p, uint32_t n, void (*fn)(void *ctx, uint32_t tid), void *ctx)
{
    const cpu_set_t *where = p->members[0].where;
    bool bound = where && sched_getaffinity(0, p->set_bytes, p->before) == 0 &&
                 sched_setaffinity(0, p->set_bytes, where) == 0;
    p->fn = fn;
    p->ctx = ctx;
    p->active = n;
    for (uint32_t i = 1; i < n; i++)
        event_raise(&p->members[i].work);
    fn(ctx, 0);
    pool_barrier(p, 0);
    if (bound)
        sched_setaffinity(0, p->set_bytes, p->before);
}

void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t tid), void *ctx)
{
    region(p, p->n, fn, ctx);
}

void pool_step(struct pool *p, void (*fn)(void *ctx, uint32_t tid), void *ctx)
{
    if (p->n == 1) {
        region(p, 1, fn, ctx);
        return;
    }
    uint64_t t0 = clock_mono_ns();
    take_work(&p->members[0]); /* forget what the caller did outside */
    region(p, p->tune.n, fn, ctx);
    take_work(&p->members[0]);
    uint64_t t1 = clock_mono_ns(), sum = 0;
    for (uint32_t i = 0; i < p->active; i++)
        sum += p->members[i].worked_ns;
    pool_tune_step(&p->tune, t1, t1 - t0, sum);
}

/* What a pause takes, 40 to 140 cycles depending on the CPU: the least of some tries. */
static double measure_pause(void)
{
    uint64_t least = UINT64_MAX;
    for (int t = 0; t < 5; t++) {
        uint64_t t0 = clock_mono_ns();
        for (int i = 0; i < 200; i++)
            pause_cpu();
        least = NUM_MIN(least, clock_mono_ns() - t0);
    }
    return (double)NUM_MAX(least, (uint64_t)200) / 200;
}

static void stop_members(struct pool *p, uint32_t n)
{
    p->stop = true;
    for (uint32_t i = 1; i < n; i++)
        event_raise(&p->members[i].work);
    for (uint32_t i = 1; i < n; i++)
        pthread_join(p->members[i].thread, NULL);
}

/* Give every thread its node and, where wanted, its CPUs. */
static int place_members(struct pool *p, const struct cpus *c, bool pin, struct err *e)
{
    bool bind = pin || c->n_nodes > 1;
    uint32_t node = 0;
    p->set_bytes = CPU_ALLOC_SIZE(CPUS_MAX);
    if (bind && !(p->before = CPU_ALLOC(CPUS_MAX)))
        return err_set(e, Q_ENOMEM, "no memory to place %u threads", p->n);
    for (uint32_t t = 0; t < p->n; t++) {
        struct member *m = &p->members[t];
        uint32_t at = cpus_place(c, t, p->n);
        m->pool = p;
        m->tid = t;
        bool same = t > 0 && c->all[at].node == node;
        m->node_from = same ? p->members[t - 1].node_from : t;
        m->node = t > 0 ? p->members[t - 1].node + !same : 0;
        node = c->all[at].node;
        for (uint32_t u = m->node_from; u <= t; u++)
            p->members[u].node_to = t + 1;
        if (!bind)
            continue;
        if (!(m->where = CPU_ALLOC(CPUS_MAX)))
            return err_set(e, Q_ENOMEM, "no memory to place %u threads", p->n);
        CPU_ZERO_S(p->set_bytes, m->where);
        for (uint32_t i = 0; i < c->n; i++) {
            if (pin ? i == at : c->all[i].node == node)
                CPU_SET_S(c->all[i].cpu, p->set_bytes, m->where);
        }
    }
    return 0;
}

static void release(struct pool *p)
{
    for (uint32_t t = 0; t < p->n; t++)
        CPU_FREE(p->members[t].where);
    CPU_FREE(p->before);
    free(p);
}

static int start_members(struct pool *p, struct err *e)
{
    for (uint32_t i = 1; i < p->n; i++) {
        struct member *m = &p->members[i];
        int rc = pthread_create(&m->thread, NULL, member_main, m);
        if (rc) {
            stop_members(p, i);
            return err_set(e, Q_ENOMEM, "can't start thread %u of %u: %s", i + 1, p->n,
                           strerror(rc));
        }
    }
    return 0;
}

static int open_on(struct pool **out, uint32_t n, const struct cpus *c, bool pin, struct err *e)
{
    if (n > MAX_THREADS)
        return err_set(e, Q_EINVAL, "%u threads, at most %u", n, MAX_THREADS);
    size_t bytes = sizeof(struct pool) + n * sizeof(struct member);
    struct pool *p = aligned_alloc(64, bytes);
    if (!p)
        return err_set(e, Q_ENOMEM, "no memory for %u threads", n);
    memset(p, 0, bytes);
    p->n = n;
    p->pause_ns = measure_pause();
    p->spins = (uint32_t)(SPIN_NS / p->pause_ns) + 1;
    pool_tune_init(&p->tune, n);
    int rc = place_members(p, c, pin, e);
    if (rc == 0)
        rc = start_members(p, e);
    if (rc) {
        release(p);
        return rc;
    }
    *out = p;
    return 0;
}

int pool_open(struct pool **out, const struct pool_config *cfg, struct err *e)
{
    struct cpus c;
    *out = NULL;
    int rc = cpus_read(&c, e);
    if (rc)
        return rc;
    rc = open_on(out, cfg->n_threads ? cfg->n_threads : cpus_threads(&c), &c, cfg->pin, e);
    cpus_free(&c);
    return rc;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    stop_members(p, p->n);
    release(p);
}

void pool_node(const struct pool *p, uint32_t tid, uint32_t *from, uint32_t *to)
{
    *from = p->members[tid].node_from;
    *to = p->members[tid].node_to;
}

uint32_t pool_node_index(const struct pool *p, uint32_t tid)
{
    return p->members[tid].node;
}

uint32_t pool_nodes(const struct pool *p)
{
    return p->members[p->n - 1].node + 1;
}

uint32_t pool_threads(const struct pool *p)
{
    return p->n;
}

uint32_t pool_active(const struct pool *p)
{
    return p->active;
}
