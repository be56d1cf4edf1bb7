/* SPDX-License-Identifier: Apache-2.0 */
/* CPUs, cores, nodes and quotas, read from made-up system files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];

static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    strcpy(root, "/tmp/quire-cpus-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    char cmd[128];
    (void)state;
    snprintf(cmd, sizeof(cmd), "rm -r '%s'", root);
    return system(cmd);
}

static struct cpus read_first(uint32_t n)
{
    uint32_t allowed[64];
    struct cpus c;
    struct err e = {0};
    assert_true(n <= 64);
    for (uint32_t i = 0; i < n; i++)
        allowed[i] = i;
    assert_int_equal(cpus_read_at(&c, root, allowed, n, &e), 0);
    return c;
}

static void test_bare(void **state)
{
    (void)state;
    struct cpus c = read_first(3);
    assert_int_equal(c.n, 3);
    assert_int_equal(c.n_cores, 3);
    assert_int_equal(c.n_nodes, 1);
    assert_int_equal(c.quota, UINT32_MAX);
    assert_int_equal(cpus_threads(&c), 3);
    cpus_free(&c);
    c = read_first(0); /* nothing known: there is one CPU that runs this */
    assert_int_equal(c.n, 1);
    assert_int_equal(cpus_threads(&c), 1);
    assert_int_equal(cpus_place(&c, 0, 1), 0);
    cpus_free(&c);
}

/* Two nodes of four cores with two hyper-threads: siblings are i and i + 8, node 1 has the odd
 * CPUs, the nodes are called 0 and 3. */
static void put_two_nodes(void)
{
    put("/sys/devices/system/node/online", "0,3\n");
    put("/sys/devices/system/node/node0/cpulist", "0,2,4,6,8,10,12,14\n");
    put("/sys/devices/system/node/node3/cpulist", "1,3,5,7,9,11,13,15\n");
    for (unsigned i = 0; i < 16; i++) {
        char path[128], text[32];
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
                 i);
        snprintf(text, sizeof(text), "%u,%u\n", i % 8, i % 8 + 8);
        put(path, text);
    }
}

static void test_nodes(void **state)
{
    (void)state;
    put_two_nodes();
    struct cpus c = read_first(16);
    assert_int_equal(c.n, 16);
    assert_int_equal(c.n_cores, 8);
    assert_int_equal(c.n_nodes, 2);
    for (uint32_t i = 0; i < 16; i++) {
        assert_int_equal(c.all[i].node, i / 8);
        assert_int_equal(c.all[i].cpu, i % 8 * 2 + i / 8);
        assert_int_equal(c.all[i].core, c.all[i].cpu < 8);
    }
    static const uint32_t want8[] = {0, 2, 4, 6, 1, 3, 5, 7}, want3[] = {0, 4, 3};
    for (uint32_t t = 0; t < 8; t++)
        assert_int_equal(c.all[cpus_place(&c, t, 8)].cpu, want8[t]);
    for (uint32_t t = 0; t < 3; t++)
        assert_int_equal(c.all[cpus_place(&c, t, 3)].cpu, want3[t]);
    for (uint32_t n = 1; n < 40; n++) {
        uint32_t last = 0;
        for (uint32_t t = 0; t < n; t++) {
            uint32_t at = cpus_place(&c, t, n);
            assert_true(at < c.n && c.all[at].core);
            assert_true(c.all[at].node >= last); /* threads of a node lie together */
            last = c.all[at].node;
        }
        assert_int_equal(last, n > 1);
    }
    cpus_free(&c);
}

/* A mask that leaves only second hyper-threads, and some CPUs of one node. */
static void test_mask(void **state)
{
    static const uint32_t allowed[] = {9, 3, 11, 13};
    struct cpus c;
    struct err e = {0};
    (void)state;
    put_two_nodes();
    assert_int_equal(cpus_read_at(&c, root, allowed, 4, &e), 0);
    assert_int_equal(c.n, 4);
    assert_int_equal(c.n_cores, 3); /* 3 and 11 are one */
    assert_int_equal(c.n_nodes, 1);
    assert_int_equal(c.all[0].cpu, 3);
    assert_int_equal(c.all[3].cpu, 13);
    cpus_free(&c);
}

static uint32_t quota_v2(const char *text)
{
    put("/sys/fs/cgroup/cpu.max", text);
    struct cpus c = read_first(8);
    uint32_t n = cpus_threads(&c);
    cpus_free(&c);
    return n;
}

static void test_quota_v2(void **state)
{
    (void)state;
    assert_int_equal(quota_v2("max 100000\n"), 8);
    assert_int_equal(quota_v2("100000 100000\n"), 1);
    assert_int_equal(quota_v2("20000 100000\n"), 1);
    assert_int_equal(quota_v2("149000 100000\n"), 1);
    assert_int_equal(quota_v2("150000 100000\n"), 2);
    assert_int_equal(quota_v2("290000 100000\n"), 3);
    assert_int_equal(quota_v2("9900000 100000\n"), 8);
    assert_int_equal(quota_v2("100000 0\n"), 8);
    assert_int_equal(quota_v2("-5 100000\n"), 8);
    assert_int_equal(quota_v2("1e300 1\n"), 8);
    assert_int_equal(quota_v2("rubbish\n"), 8);
    assert_int_equal(quota_v2(""), 8);
    /* The tightest of our group and its parents. */
    assert_int_equal(quota_v2("700000 100000\n"), 7);
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/cpu.max", "300000 100000\n");
    put("/sys/fs/cgroup/a/b/cpu.max", "500000 100000\n");
    assert_int_equal(quota_v2("700000 100000\n"), 3);
    put("/sys/fs/cgroup/a/b/cpu.max", "200000 100000\n");
    assert_int_equal(quota_v2("700000 100000\n"), 2);
    /* A path of the host that this container doesn't see. */
    put("/proc/self/cgroup", "0::/../../host/slice\n");
    assert_int_equal(quota_v2("400000 100000\n"), 4);
}

static void test_quota_v1(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "3:cpuset:/\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    struct cpus c = read_first(8);
    assert_int_equal(cpus_threads(&c), 8);
    cpus_free(&c);
    put("/sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "250000\n");
    put("/sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
    c = read_first(8);
    assert_int_equal(cpus_threads(&c), 3);
    cpus_free(&c);
    put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "50000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "25000\n");
    c = read_first(8);
    assert_int_equal(cpus_threads(&c), 2);
    cpus_free(&c);
}

static void test_own(void **state)
{
    struct cpus c;
    struct err e = {0};
    (void)state;
    assert_int_equal(cpus_read(&c, &e), 0);
    assert_true(c.n >= 1 && c.n_cores >= 1 && c.n_cores <= c.n && c.n_nodes >= 1);
    assert_in_range(cpus_threads(&c), 1, c.n);
    cpus_free(&c);
    cpus_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bare, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nodes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mask, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quota_v2, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quota_v1, setup, teardown),
        cmocka_unit_test(test_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
