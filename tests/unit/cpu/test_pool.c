/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/cpu/harness.h"

#include "base/cpus.h"
#include "worker/cpu/pool.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define MOST   7U
#define PHASES 50U

static int open_n(struct pool **p, uint32_t n, bool pin, struct err *e)
{
    const struct pool_config c = {.n_threads = n, .pin = pin};
    return pool_open(p, &c, e);
}

struct work {
    struct pool *pool;
    uint32_t value[MOST];       /* each written by one thread, read by all after a barrier */
    _Atomic uint32_t mask, sum; /* threads seen; wrong values seen */
    uint32_t active;
};

static void phases(void *ctx, uint32_t tid)
{
    struct work *w = ctx;
    uint32_t n = pool_active(w->pool);
    if (tid == 0)
        w->active = n;
    atomic_fetch_or(&w->mask, 1U << tid);
    for (uint32_t k = 1; k <= PHASES; k++) {
        w->value[tid] = k;
        pool_barrier(w->pool, tid);
        for (uint32_t i = 0; i < n; i++)
            atomic_fetch_add(&w->sum, w->value[i] != k);
        pool_barrier(w->pool, tid);
    }
}

static void test_run(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= MOST; n++) {
        struct work w = {.pool = NULL};
        struct err e = {0};
        assert_int_equal(open_n(&w.pool, n, false, &e), 0);
        assert_int_equal(pool_threads(w.pool), n);
        for (int k = 0; k < 20; k++) {
            atomic_store(&w.mask, 0);
            pool_run(w.pool, phases, &w);
            assert_int_equal(w.active, n);
            assert_int_equal(atomic_load(&w.mask), (1U << n) - 1);
        }
        assert_int_equal(atomic_load(&w.sum), 0);
        pool_close(w.pool);
    }
}

/* More threads than cores: whatever number takes part, it is threads 0 to n - 1, and the next
 * region with all of them still works. */
static void test_step(void **state)
{
    struct work w = {.pool = NULL};
    struct err e = {0};
    (void)state;
    assert_int_equal(open_n(&w.pool, MOST, false, &e), 0);
    for (int k = 0; k < 200; k++) {
        atomic_store(&w.mask, 0);
        pool_step(w.pool, phases, &w);
        assert_in_range(w.active, 1, MOST);
        assert_int_equal(atomic_load(&w.mask), (1U << w.active) - 1);
    }
    atomic_store(&w.mask, 0);
    pool_run(w.pool, phases, &w);
    assert_int_equal(atomic_load(&w.mask), (1U << MOST) - 1);
    assert_int_equal(atomic_load(&w.sum), 0);
    pool_close(w.pool);
}

static void test_limits(void **state)
{
    struct pool *p;
    struct cpus c;
    struct err e = {0};
    (void)state;
    assert_int_equal(open_n(&p, 1U << 20, false, &e), Q_EINVAL);
    assert_null(p);
    assert_int_equal(open_n(&p, 0, false, &e), 0);
    assert_int_equal(cpus_read(&c, &e), 0);
    assert_int_equal(pool_threads(p), cpus_threads(&c));
    cpus_free(&c);
    pool_close(p);
    pool_close(NULL);
}

static void note_cpus(void *ctx, uint32_t tid)
{
    cpu_set_t *sets = ctx;
    assert_int_equal(sched_getaffinity(0, sizeof(*sets), &sets[tid]), 0);
}

/* Each thread has one CPU, cores before anything twice; the caller is free again afterwards. */
static void test_pin(void **state)
{
    cpu_set_t sets[MOST], before, after;
    struct pool *p;
    struct cpus c;
    struct err e = {0};
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    assert_int_equal(cpus_read(&c, &e), 0);
    uint32_t n = c.n_cores < MOST ? c.n_cores : MOST;
    assert_int_equal(open_n(&p, n, true, &e), 0);
    for (int k = 0; k < 3; k++) {
        pool_run(p, note_cpus, sets);
        for (uint32_t t = 0; t < n; t++) {
            assert_int_equal(CPU_COUNT(&sets[t]), 1);
            assert_true(CPU_ISSET(c.all[cpus_place(&c, t, n)].cpu, &sets[t]));
            for (uint32_t u = 0; u < t; u++)
                assert_false(CPU_EQUAL(&sets[t], &sets[u]));
        }
        assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
        assert_true(CPU_EQUAL(&before, &after));
    }
    pool_close(p);
    cpus_free(&c);
    assert_int_equal(open_n(&p, MOST, true, &e), 0); /* more threads than cores */
    pool_run(p, note_cpus, sets);
    for (uint32_t t = 0; t < MOST; t++) {
        assert_int_equal(CPU_COUNT(&sets[t]), 1);
        uint32_t from, to;
        pool_node(p, t, &from, &to);
        assert_true(from <= t && t < to && to <= MOST);
    }
    pool_close(p);
}

/* Two memory nodes: threads are divided between them and stay there. */
static void test_nodes(void **state)
{
    char root[64];
    cpu_set_t sets[MOST];
    struct pool *p;
    struct err e = {0};
    (void)state;
    assert_int_equal(open_n(&p, 3, false, &e), 0);
    for (uint32_t t = 0; t < 3; t++)
        assert_true(pool_node_index(p, t) < pool_nodes(p));
    pool_close(p);
    if (!h_two_nodes(root))
        skip();
    for (uint32_t n = 1; n <= MOST; n++) {
        assert_int_equal(open_n(&p, n, false, &e), 0);
        assert_int_equal(pool_nodes(p), n > 1 ? 2 : 1);
        pool_run(p, note_cpus, sets);
        for (uint32_t t = 0; t < n; t++) {
            uint32_t from, to, node = pool_node_index(p, t);
            pool_node(p, t, &from, &to);
            assert_int_equal(node, from > 0);
            assert_int_equal(node, to == n && n > 1);
            for (uint32_t u = from; u < to; u++)
                assert_true(CPU_EQUAL(&sets[u], &sets[t]));
        }
        if (n > 1) {
            CPU_AND(&sets[0], &sets[0], &sets[n - 1]);
            assert_int_equal(CPU_COUNT(&sets[0]), 0);
        }
        pool_close(p);
    }
    h_one_node(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),   cmocka_unit_test(test_step),   cmocka_unit_test(test_pin),
        cmocka_unit_test(test_nodes), cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
