/* SPDX-License-Identifier: Apache-2.0 */
/* How many threads are worth starting: cores that we may use, within the cgroup's quota. */
#include "base/num.h"
#include "worker/cpu/pool.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CPUS 4096U

/* First integer of a small system file, or -1. */
static long read_long(const char *path)
{
    char text[64];
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    char *got = fgets(text, sizeof(text), f);
    fclose(f);
    if (!got)
        return -1;
    char *end;
    long v = strtol(text, &end, 10);
    return end == text ? -1 : v;
}

static uint32_t physical_cores(void)
{
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    size_t bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    uint32_t n = 0, n_seen = 0;
    static const char fmt[] = "/sys/devices/system/cpu/cpu%u/topology/%s";
    long(*seen)[2] = malloc(MAX_CPUS * sizeof(*seen));

    if (set && seen && sched_getaffinity(0, bytes, set) == 0) {
        for (uint32_t cpu = 0; cpu < MAX_CPUS; cpu++) {
            char path[128];
            if (!CPU_ISSET_S(cpu, bytes, set))
                continue;
            snprintf(path, sizeof(path), fmt, cpu, "core_id");
            long core = read_long(path);
            snprintf(path, sizeof(path), fmt, cpu, "physical_package_id");
            long package = read_long(path);
            bool new_core = true;
            for (uint32_t i = 0; core >= 0 && i < n_seen; i++) {
                if (seen[i][0] == core && seen[i][1] == package)
                    new_core = false;
            }
            if (new_core && core >= 0) {
                seen[n_seen][0] = core;
                seen[n_seen++][1] = package;
            }
            n += new_core;
        }
    }
    free(seen);
    CPU_FREE(set);
    return n;
}

/* Cores granted by "<quota> <period>" in cpu.max, rounded up; UINT32_MAX: no limit. */
static uint32_t quota_of(const char *dir)
{
    char path[512], text[64];
    snprintf(path, sizeof(path), "%s/cpu.max", dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return UINT32_MAX;
    char *got = fgets(text, sizeof(text), f);
    fclose(f);
    unsigned long quota = 0, period = 0;
    if (!got || sscanf(text, "%lu %lu", &quota, &period) != 2 || quota == 0 || period == 0)
        return UINT32_MAX; /* "max 100000" */
    return (uint32_t)NUM_MIN((quota + period - 1) / period, (unsigned long)MAX_CPUS);
}

/* The tightest quota of our cgroup and its parents (version 2), or of version 1's one. */
static uint32_t cgroup_quota(void)
{
    char dir[448] = "/sys/fs/cgroup", line[256];
    uint32_t least = UINT32_MAX;

    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f) {
        while (fgets(line, sizeof(line), f)) {
            if (strncmp(line, "0::", 3) == 0) {
                line[strcspn(line, "\n")] = 0;
                snprintf(dir, sizeof(dir), "/sys/fs/cgroup%s", line + 3);
            }
        }
        fclose(f);
    }
    while (strlen(dir) >= strlen("/sys/fs/cgroup")) {
        least = NUM_MIN(least, quota_of(dir));
        char *slash = strrchr(dir, '/');
        *slash = 0;
    }
    long quota = read_long("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    long period = read_long("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (quota > 0 && period > 0)
        least = NUM_MIN(least, (uint32_t)((quota + period - 1) / period));
    return least;
}

uint32_t pool_default_threads(void)
{
    uint32_t n = NUM_MIN(physical_cores(), cgroup_quota());
    return NUM_MAX(n, 1U);
}
