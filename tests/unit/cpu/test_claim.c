/* SPDX-License-Identifier: Apache-2.0 */
/* Every unit of a phase is claimed once, by whatever threads take part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/cpu/cpu_claim.h"
#include "worker/cpu/pool.h"

#include <string.h>

#define UNITS 1000U
#define MOST  8U

struct phase {
    struct pool *pool;
    struct cpu_claim claims[MOST];
    uint32_t split[MOST + 1], n, n_active;
    _Atomic uint32_t taken[UNITS];
};

static struct cpu_claimer claimer(struct phase *p, uint32_t tid)
{
    return (struct cpu_claimer){.claims = p->claims,
                                .split = p->split,
                                .n = p->n,
                                .n_active = p->n_active,
                                .tid = tid,
                                .node_to = p->n};
}

static void begin(struct phase *p, uint32_t n, uint32_t n_active, uint32_t units)
{
    p->n = n;
    p->n_active = n_active;
    for (uint32_t t = 0; t < MOST; t++)
        atomic_store(&p->claims[t].taken, 0);
    for (uint32_t u = 0; u < UNITS; u++)
        atomic_store(&p->taken[u], 0);
    for (uint32_t t = 0; t <= n; t++)
        p->split[t] = units * t / n;
}

static void check_all(struct phase *p, uint32_t units)
{
    for (uint32_t u = 0; u < UNITS; u++)
        assert_int_equal(atomic_load(&p->taken[u]), u < units);
}

static void take(struct phase *p, uint32_t from, uint32_t to)
{
    for (uint32_t u = from; u < to; u++)
        atomic_fetch_add(&p->taken[u], 1);
}

/* One thread after the other: the first takes everything, its own range from the front. */
static void test_alone(void **state)
{
    static const uint32_t units[] = {0, 1, 2, 7, 8, 9, 63, 64, 65, 999, UNITS};
    static struct phase p;
    (void)state;
    for (uint32_t n = 1; n <= MOST; n++) {
        for (uint32_t active = 1; active <= n; active++) {
            for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
                begin(&p, n, active, units[i]);
                for (uint32_t tid = 0; tid < active; tid++) {
                    struct cpu_claimer c = claimer(&p, tid);
                    uint32_t from, to, at = p.split[tid];
                    while (cpu_claim_next(&c, &from, &to)) {
                        assert_true(from < to && to <= units[i]);
                        if (c.nth == 0)
                            assert_int_equal(from, at);
                        at = to;
                        take(&p, from, to);
                    }
                }
                check_all(&p, units[i]);
            }
        }
    }
}

/* Helping does not cut the owner's stream: its steps stay next to each other. */
static void test_streams(void **state)
{
    static struct phase p;
    uint32_t from = 0, to = 0, at = 0, helped = UNITS;
    (void)state;
    begin(&p, 2, 2, UNITS);
    struct cpu_claimer a = claimer(&p, 0), b = claimer(&p, 1);
    while (b.nth == 0 && cpu_claim_next(&b, &from, &to))
        take(&p, from, to);
    assert_true(b.nth == 1 && to == p.split[1]); /* a step from the end of a's range */
    while (cpu_claim_next(&a, &from, &to)) {
        assert_int_equal(from, at);
        at = to;
        take(&p, from, to);
        if (cpu_claim_next(&b, &from, &to)) {
            assert_true(from >= at && to <= helped);
            helped = from;
            take(&p, from, to);
        }
    }
    assert_false(cpu_claim_next(&b, &from, &to));
    check_all(&p, UNITS);
}

/* Single steps: also from the back of others' ranges, and of those that sleep. */
static void test_single(void **state)
{
    static struct phase p;
    uint32_t from = 0, to = 0;
    (void)state;
    for (uint32_t active = 1; active <= 3; active++) {
        begin(&p, 3, active, 10);
        struct cpu_claimer c = claimer(&p, active - 1);
        c.single = true;
        for (uint32_t n = 0; n < 10; n++) {
            assert_true(cpu_claim_next(&c, &from, &to));
            assert_int_equal(to, from + 1);
            if (c.nth == 1 && active == 2)
                assert_true(from < p.split[1] || from >= p.split[2]);
            take(&p, from, to);
        }
        assert_false(cpu_claim_next(&c, &from, &to));
        check_all(&p, 10);
    }
}

/* Ranges of sleeping threads are read forwards. */
static void test_absent(void **state)
{
    static struct phase p;
    uint32_t from, to, at = 0;
    (void)state;
    begin(&p, 4, 1, UNITS);
    struct cpu_claimer c = claimer(&p, 0);
    for (uint32_t steps = 0; cpu_claim_next(&c, &from, &to); steps++, at = to) {
        assert_int_equal(from, at);
        assert_true(steps < 4); /* whole ranges: nobody else takes any */
    }
    assert_int_equal(at, UNITS);
}

static void test_order(void **state)
{
    /* 7 threads on nodes {0, 1, 2}, {3, 4}, {5, 6}. */
    static const uint32_t node[][2] = {{0, 3}, {0, 3}, {0, 3}, {3, 5}, {3, 5}, {5, 7}, {5, 7}};
    (void)state;
    for (uint32_t tid = 0; tid < 7; tid++) {
        struct cpu_claimer c = {
            .n = 7, .tid = tid, .node_from = node[tid][0], .node_to = node[tid][1]};
        uint32_t seen = 0;
        assert_int_equal(cpu_claim_range(&c, 0), tid);
        for (uint32_t i = 0; i < 7; i++) {
            uint32_t v = cpu_claim_range(&c, i);
            bool near = v >= c.node_from && v < c.node_to;
            assert_int_equal(near, i < c.node_to - c.node_from);
            seen |= 1U << v;
        }
        assert_int_equal(seen, 127);
    }
}

static void together(void *ctx, uint32_t tid)
{
    struct phase *p = ctx;
    struct cpu_claimer c = claimer(p, tid);
    uint32_t from, to;
    while (cpu_claim_next(&c, &from, &to))
        take(p, from, to);
}

static void test_together(void **state)
{
    static struct phase p;
    struct err e = {0};
    (void)state;
    assert_int_equal(pool_open(&p.pool, &(struct pool_config){.n_threads = 5}, &e), 0);
    for (uint32_t k = 0; k < 300; k++) {
        uint32_t units = k * 37 % UNITS;
        begin(&p, 5 + k % 3, 5, units); /* up to two more threads that are absent */
        pool_run(p.pool, together, &p);
        check_all(&p, units);
    }
    pool_close(p.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),  cmocka_unit_test(test_streams),
        cmocka_unit_test(test_single), cmocka_unit_test(test_absent),
        cmocka_unit_test(test_order),  cmocka_unit_test(test_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
