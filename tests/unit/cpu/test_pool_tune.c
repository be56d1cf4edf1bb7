/* SPDX-License-Identifier: Apache-2.0 */
/* How many threads a pool uses, on simulated machines: time is a number here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/cpu/pool_tune.h"

#include <stdio.h>

#define MS 1000000U

/* A machine with n_cores, some of them taken, and steps that take step_ns on one thread. */
struct machine {
    uint32_t n_cores, n_taken;
    uint64_t now_ns, done_ns; /* done: work finished, in time of one thread */
};

/* Effective threads when n are used: free cores serve fully; with one more, all wait for the
 * one that shares a core, and turns cost something. */
static double effective(const struct machine *m, uint32_t n)
{
    uint32_t n_free = m->n_cores - m->n_taken;
    return n <= n_free ? 0.95 * n + 0.05 : 0.45 * n * n_free / (n_free + 0.5);
}

static void run(struct machine *m, struct pool_tune *t, uint64_t step_ns, uint64_t for_ns)
{
    uint64_t end = m->now_ns + for_ns;
    while (m->now_ns < end) {
        double eff = effective(m, t->n);
        uint64_t wall = (uint64_t)((double)step_ns / eff) + 1;
        m->now_ns += wall;
        m->done_ns += step_ns;
        pool_tune_step(t, m->now_ns, wall, step_ns);
    }
}

static void test_calm(void **state)
{
    static const uint32_t cores[] = {1, 2, 3, 8, 64};
    (void)state;
    for (size_t i = 0; i < sizeof(cores) / sizeof(*cores); i++) {
        struct machine m = {.n_cores = cores[i]};
        struct pool_tune t;
        pool_tune_init(&t, cores[i]);
        for (int k = 0; k < 100; k++) {
            run(&m, &t, 3 * MS, 20 * MS);
            assert_int_equal(t.n, cores[i]);
        }
    }
}

/* The cores that are left are used, nearly all of the time, and all when they are free again. */
static void test_taken(void **state)
{
    static const struct {
        uint32_t cores, taken;
    } cases[] = {{2, 1}, {4, 1}, {4, 3}, {16, 1}, {16, 5}, {64, 1}, {64, 32}};
    static const uint64_t steps[] = {100000, 3 * MS, 300 * MS};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        for (size_t k = 0; k < 3; k++) {
            struct machine m = {.n_cores = cases[i].cores, .n_taken = cases[i].taken};
            struct pool_tune t;
            double free_cores = cases[i].cores - cases[i].taken;
            pool_tune_init(&t, m.n_cores);
            run(&m, &t, steps[k], 2000 * MS); /* finds it */
            m.done_ns = 0;
            uint64_t from = m.now_ns;
            run(&m, &t, steps[k], 10000U * (uint64_t)MS);
            double got = (double)m.done_ns / (double)(m.now_ns - from);
            if (got < 0.9 * (0.95 * free_cores))
                fail_msg("%u of %u cores taken, steps of %.1f ms: %.2f threads' work", m.n_taken,
                         m.n_cores, (double)steps[k] * 1e-6, got);
            m.n_taken = 0;
            run(&m, &t, steps[k], 3000U * (uint64_t)MS);
            assert_int_equal(t.n, m.n_cores);
        }
    }
}

/* One thread waits for the other for most of the time: soon one goes on alone. */
static void test_detection(void **state)
{
    struct machine m = {.n_cores = 2, .n_taken = 1};
    struct pool_tune t;
    (void)state;
    pool_tune_init(&t, 2);
    run(&m, &t, 10 * MS, 1);
    assert_int_equal(t.n, 2); /* too early to say */
    run(&m, &t, 10 * MS, 60 * MS);
    assert_int_equal(t.n, 1);
}

/* Disturbances of 12 ms, many a second: both threads stay. */
static void test_disturbances(void **state)
{
    struct machine m = {.n_cores = 2};
    struct pool_tune t;
    (void)state;
    pool_tune_init(&t, 2);
    for (int k = 0; k < 200; k++) {
        m.n_taken = 1;
        run(&m, &t, 3 * MS, 12 * MS);
        assert_int_equal(t.n, 2);
        m.n_taken = 0;
        run(&m, &t, 3 * MS, 40 * MS);
        assert_int_equal(t.n, 2);
    }
}

/* A burst of trouble costs little: two threads are back soon. */
static void test_burst(void **state)
{
    struct machine m = {.n_cores = 2};
    struct pool_tune t;
    (void)state;
    pool_tune_init(&t, 2);
    for (int k = 0; k < 20; k++) {
        m.n_taken = 0;
        run(&m, &t, 3 * MS, 1500 * MS);
        assert_int_equal(t.n, 2);
        assert_true(t.pause_ns <= 2 * POOL_TUNE_MIN_PAUSE_NS);
        m.n_taken = 1;
        run(&m, &t, 3 * MS, 80 * MS);
    }
}

/* Failing tries become rare, and no thread count leaves its range. */
static void test_tries(void **state)
{
    struct machine m = {.n_cores = 8, .n_taken = 7};
    struct pool_tune t;
    uint32_t tries = 0;
    (void)state;
    pool_tune_init(&t, 8);
    run(&m, &t, 2 * MS, 3000U * (uint64_t)MS);
    for (int k = 0; k < 10000; k++) {
        bool before = t.trying;
        run(&m, &t, 2 * MS, 1);
        tries += t.trying && !before;
        assert_in_range(t.n, 1, 8);
    }
    assert_in_range(tries, 2, 40); /* in about 20 s */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),      cmocka_unit_test(test_taken),
        cmocka_unit_test(test_detection), cmocka_unit_test(test_disturbances),
        cmocka_unit_test(test_burst),     cmocka_unit_test(test_tries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
