/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tools/machine_probe.h"

#include "base/clock.h"
#include "quant/kern.h"
#include "worker/cpu/pool.h"

#include <string.h>
#include <sys/mman.h>

#define PER_THREAD (128U << 20) /* beyond any cache that the thread could have for itself */
#define ROUNDS     4000000U
#define REPEATS    3

struct work {
    const struct probe_loops *loops;
    unsigned char *mem;
    volatile uint64_t sink;
};

static uint64_t read_ref(const void *p, uint64_t bytes)
{
    const uint64_t *x = p;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < bytes / sizeof(*x); i++)
        sum += x[i];
    return sum;
}

static void int8_ref(uint64_t rounds)
{
    volatile int32_t sum = 0;
    for (uint64_t i = 0; i < rounds / 16; i++)
        sum = sum + (int32_t)(int8_t)i * (int8_t)(i >> 3);
}

static void f32_ref(uint64_t rounds)
{
    volatile float sum = 0;
    for (uint64_t i = 0; i < rounds / 16; i++)
        sum = sum + (float)(int8_t)i * 0.5f;
}

const struct probe_loops probe_loops_ref = {read_ref, int8_ref, 2.0 / 16, f32_ref, 2.0 / 16};

static void touch(void *ctx, uint32_t tid)
{
    struct work *w = ctx;
    memset(w->mem + (size_t)tid * PER_THREAD, (int)tid + 1, PER_THREAD);
}

static void read_all(void *ctx, uint32_t tid)
{
    struct work *w = ctx;
    w->sink = w->loops->read(w->mem + (size_t)tid * PER_THREAD, PER_THREAD);
}

static void multiply_int8(void *ctx, uint32_t tid)
{
    struct work *w = ctx;
    (void)tid;
    w->loops->int8(ROUNDS);
}

static void multiply_f32(void *ctx, uint32_t tid)
{
    struct work *w = ctx;
    (void)tid;
    w->loops->f32(ROUNDS);
}

/* Seconds of the fastest of some runs. */
static double best_time(struct pool *pool, void (*fn)(void *, uint32_t), struct work *w)
{
    double best = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        uint64_t t0 = clock_mono_ns();
        pool_run(pool, fn, w);
        double t = (double)(clock_mono_ns() - t0) * 1e-9;
        best = t < best ? t : best;
    }
    return best;
}

static const struct probe_loops *loops_of(enum kern_level level)
{
#if defined(__x86_64__)
    if (level == KERN_AVX512)
        return &probe_loops_avx512;
    if (level == KERN_AVX2)
        return &probe_loops_avx2;
#elif defined(__aarch64__)
    if (level == KERN_NEON)
        return &probe_loops_neon;
#endif
    (void)level;
    return &probe_loops_ref;
}

int probe_machine(struct probe *p, uint32_t n_threads, struct err *e)
{
    /* Pinned: in regions as short as these the system often leaves new threads on one core. */
    const struct kern *kern;
    struct pool *pool;
    int rc = kern_get(&kern, e);
    if (rc == 0)
        rc = pool_open(&pool, &(struct pool_config){.n_threads = n_threads, .pin = true}, e);
    if (rc)
        return rc;
    uint32_t n = pool_threads(pool);
    p->n_threads = n;
    size_t bytes = (size_t)n * PER_THREAD;
    struct work w = {.loops = loops_of(kern->level)};
    w.mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w.mem == MAP_FAILED) {
        pool_close(pool);
        return err_set(e, Q_ENOMEM, "no memory to measure with");
    }
    madvise(w.mem, bytes, MADV_HUGEPAGE);
    pool_run(pool, touch, &w);
    p->read_gb_s = (double)bytes / best_time(pool, read_all, &w) * 1e-9;
    const double rounds = (double)ROUNDS * n * 1e-9;
    p->int8_gop_s = rounds * w.loops->int8_ops / best_time(pool, multiply_int8, &w);
    p->f32_gop_s = rounds * w.loops->f32_ops / best_time(pool, multiply_f32, &w);
    munmap(w.mem, bytes);
    pool_close(pool);
    return 0;
}
