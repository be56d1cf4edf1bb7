/* SPDX-License-Identifier: Apache-2.0 */
/* Which thread a part of a matrix belongs to, and packing by memory nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/cpu/cpu_home.h"

#include <string.h>

#define THREADS 4U

static const struct kern_type rows_8 = {.panel_rows = 8}, rows_16 = {.panel_rows = 16};

static struct cpu_mat mat_of(const struct kern_type *k, uint32_t n_panels)
{
    return (struct cpu_mat){.m = {.k = k, .n_panels = n_panels}};
}

/* Queries of 12 panels, keys and values of 2 each, two panels a unit. */
static void test_qkv(void **state)
{
    struct cpu_unit units[8] = {{PROG_Q, 0, 2},  {PROG_Q, 2, 4},   {PROG_Q, 4, 6}, {PROG_Q, 6, 8},
                                {PROG_Q, 8, 10}, {PROG_Q, 10, 12}, {PROG_K, 0, 2}, {PROG_V, 0, 2}};
    uint32_t split[THREADS + 1] = {0, 2, 4, 6, 8};
    struct cpu_op op = {.kind = PROG_QKV,
                        .mat = {mat_of(&rows_8, 12), mat_of(&rows_8, 2), mat_of(&rows_8, 2)},
                        .units = units,
                        .n_units = 8,
                        .split = split};
    (void)state;
    for (uint32_t p = 0; p < 12; p++)
        assert_int_equal(cpu_home(&op, PROG_Q, p, THREADS), p / 4);
    for (uint32_t p = 0; p < 2; p++) {
        assert_int_equal(cpu_home(&op, PROG_K, p, THREADS), 3);
        assert_int_equal(cpu_home(&op, PROG_V, p, THREADS), 3);
    }
}

/* Rows of up go where the same rows of gate go; down has a division of its own. */
static void test_ffn(void **state)
{
    struct cpu_unit units[6];
    uint32_t split[THREADS + 1] = {0, 1, 3, 4, 6}, split2[THREADS + 1] = {0, 5, 5, 9, 10};
    struct cpu_op op = {.kind = PROG_FFN,
                        .mat = {mat_of(&rows_8, 12), mat_of(&rows_16, 6), mat_of(&rows_8, 10)},
                        .units = units,
                        .n_units = 6,
                        .split = split,
                        .split2 = split2};
    (void)state;
    for (uint32_t u = 0; u < 6; u++)
        units[u] = (struct cpu_unit){PROG_GATE, 2 * u, 2 * u + 2};
    static const uint32_t of_unit[6] = {0, 1, 1, 2, 3, 3};
    for (uint32_t u = 0; u < 6; u++) {
        assert_int_equal(cpu_home(&op, PROG_GATE, 2 * u, THREADS), of_unit[u]);
        assert_int_equal(cpu_home(&op, PROG_GATE, 2 * u + 1, THREADS), of_unit[u]);
        assert_int_equal(cpu_home(&op, PROG_UP, u, THREADS), of_unit[u]);
    }
    for (uint32_t p = 0; p < 10; p++) /* thread 1 has none */
        assert_int_equal(cpu_home(&op, PROG_DOWN, p, THREADS), p < 5 ? 0 : p < 9 ? 2 : 3);
}

/* The thread that packs a panel is of the node whose thread claims it first from its front. */
static void test_same_as_claims(void **state)
{
    enum { PANELS = 103 };
    uint32_t split[THREADS + 1], from, to;
    struct cpu_claim claims[THREADS];
    struct cpu_op op = {.kind = PROG_OUT, .mat = {mat_of(&rows_8, PANELS)}, .split = split};
    (void)state;
    for (uint32_t t = 0; t <= THREADS; t++)
        split[t] = PANELS * t / THREADS;
    for (uint32_t t = 0; t < THREADS; t++) {
        memset(claims, 0, sizeof claims);
        struct cpu_claimer c = {.claims = claims,
                                .split = split,
                                .n = THREADS,
                                .n_active = THREADS,
                                .tid = t,
                                .node_from = t / 2 * 2,
                                .node_to = t / 2 * 2 + 2};
        uint32_t own = split[t + 1] - split[t], near = split[t / 2 * 2 + 2] - split[t / 2 * 2];
        for (uint32_t n = 0; n < PANELS && cpu_claim_next(&c, &from, &to); n += to - from) {
            for (uint32_t p = from; p < to; p++) {
                uint32_t home = cpu_home(&op, PROG_W, p, THREADS);
                if (n < own)
                    assert_int_equal(home, t);
                else
                    assert_int_equal(home / 2 == t / 2, n < near);
            }
        }
    }
}

/* Every task once, those of the own node first, in order; then help. */
static void test_tasks(void **state)
{
    enum { N = 60, NODES = 3 };
    uint32_t node_of[N], seen[N] = {0}, left[NODES] = {0}, task;
    struct cpu_tasks t;
    struct err e;
    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        node_of[i] = i * 7 % 5 < 2 ? 0 : i % 3 == 0 ? 2 : 1;
        left[node_of[i]]++;
    }
    assert_int_equal(cpu_tasks_open(&t, node_of, N, NODES, &e), 0);
    uint32_t last[NODES] = {0}, taken = 0;
    for (uint32_t turn = 0; taken < N; turn++) {
        uint32_t node = turn % 4 % NODES; /* node 0 has two threads */
        assert_true(cpu_tasks_next(&t, node, &task));
        uint32_t of = node_of[task];
        assert_true(of == node || left[node] == 0);
        assert_true(last[of] == 0 || task > last[of] - 1);
        assert_int_equal(seen[task]++, 0);
        last[of] = task + 1;
        left[of]--;
        taken++;
    }
    for (uint32_t node = 0; node < NODES; node++)
        assert_false(cpu_tasks_next(&t, node, &task));
    cpu_tasks_close(&t);
    /* One node: the order of the tasks. */
    memset(node_of, 0, sizeof node_of);
    assert_int_equal(cpu_tasks_open(&t, node_of, N, 1, &e), 0);
    for (uint32_t i = 0; i < N; i++) {
        assert_true(cpu_tasks_next(&t, 0, &task));
        assert_int_equal(task, i);
    }
    cpu_tasks_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qkv),
        cmocka_unit_test(test_ffn),
        cmocka_unit_test(test_same_as_claims),
        cmocka_unit_test(test_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
