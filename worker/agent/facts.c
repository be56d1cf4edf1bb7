/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/facts.h"

#include "base/fs.h"
#include "base/num.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Small files of the kernel; empty text when there is none. */
static void slurp(struct buf *b, const char *path)
{
    buf_clear(b);
    if (fs_read(b, path, NULL) != 0)
        buf_clear(b);
}

/* The number after `key` at the start of a line; dflt when absent. */
static uint64_t field(const struct buf *b, const char *key, uint64_t dflt)
{
    size_t n = strlen(key);
    for (const char *p = buf_cstr(b); p; p = strchr(p, '\n')) {
        if (*p == '\n')
            p++;
        if (strncmp(p, key, n) == 0)
            return strtoull(p + n, NULL, 10);
    }
    return dflt;
}

/* Text of a file of our control group: version 2, or the old layout. */
static bool cgroup_file(struct buf *b, const char *v2, const char *v1)
{
    char path[512], own[300] = "";
    slurp(b, "/proc/self/cgroup");
    const char *p = strstr(buf_cstr(b), "0::/");
    if (p)
        snprintf(own, sizeof own, "%.*s", (int)strcspn(p + 3, "\n"), p + 3);
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", own, v2);
    slurp(b, path);
    if (b->len == 0) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", v2);
        slurp(b, path);
    }
    if (b->len == 0 && v1) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", v1);
        slurp(b, path);
    }
    return b->len > 0;
}

static void memory(uint64_t *total, uint64_t *available)
{
    struct buf b;
    buf_init(&b, 1 << 16);
    slurp(&b, "/proc/meminfo");
    *total = field(&b, "MemTotal:", 0) * 1024;
    *available = field(&b, "MemAvailable:", 0) * 1024;
    if (cgroup_file(&b, "memory.max", "memory/memory.limit_in_bytes")) {
        uint64_t limit = strtoull(buf_cstr(&b), NULL, 10); /* "max" reads as 0: no limit */
        if (limit > 0 && limit < *total) {
            uint64_t used = 0, cache = 0;
            if (cgroup_file(&b, "memory.current", "memory/memory.usage_in_bytes"))
                used = strtoull(buf_cstr(&b), NULL, 10);
            if (cgroup_file(&b, "memory.stat", "memory/memory.stat"))
                cache = field(&b, "inactive_file ", 0);
            used -= NUM_MIN(cache, used);
            uint64_t left = limit - NUM_MIN(used, limit);
            *total = limit;
            *available = NUM_MIN(*available, left);
        }
    }
    buf_fini(&b);
}

static long topology(unsigned cpu, const char *what)
{
    char path[128];
    struct buf b;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/%s", cpu, what);
    buf_init(&b, 64);
    slurp(&b, path);
    long v = b.len ? strtol(buf_cstr(&b), NULL, 10) : -1;
    buf_fini(&b);
    return v;
}

/* Hyper-threads of a core share its vector units: cores are what counts. */
static uint32_t physical_cores(void)
{
    cpu_set_t set;
    struct {
        long package, core;
    } seen[CPU_SETSIZE];
    uint32_t n = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        long package = topology(cpu, "physical_package_id"), core = topology(cpu, "core_id");
        bool known = false;
        for (uint32_t i = 0; i < n && !known && core >= 0; i++)
            known = seen[i].package == package && seen[i].core == core;
        if (!known) {
            seen[n].package = package;
            seen[n++].core = core;
        }
    }
    return n ? n : 1;
}

static uint32_t cpu_quota(uint32_t n)
{
    struct buf b;
    buf_init(&b, 256);
    if (cgroup_file(&b, "cpu.max", NULL)) {
        char *end;
        uint64_t quota = strtoull(buf_cstr(&b), &end, 10); /* "max" reads as 0 */
        uint64_t period = strtoull(end, NULL, 10);
        if (quota > 0 && period > 0 && quota / period < n)
            n = (uint32_t)(quota / period);
    }
    buf_fini(&b);
    return n ? n : 1;
}

void facts_machine(struct facts_machine *m)
{
    uint64_t available;
    struct buf b;
    memset(m, 0, sizeof *m);
    if (gethostname(m->host, sizeof m->host) != 0)
        snprintf(m->host, sizeof m->host, "localhost");
    m->host[sizeof m->host - 1] = '\0';
    m->n_cpus = cpu_quota(physical_cores());
    memory(&m->mem_total, &available);
    buf_init(&b, 1 << 20);
    slurp(&b, "/proc/cpuinfo");
    const char *p = strstr(buf_cstr(&b), "model name");
    p = p ? strchr(p, ':') : NULL;
    if (p)
        snprintf(m->cpu_name, sizeof m->cpu_name, "%.*s", (int)strcspn(p + 2, "\n"), p + 2);
    else
        snprintf(m->cpu_name, sizeof m->cpu_name, "CPU");
    buf_fini(&b);
}

void facts_usage(struct facts_usage *u)
{
    uint64_t t[8] = {0}, total = 0;
    struct buf b;
    buf_init(&b, 1 << 18);
    slurp(&b, "/proc/stat");
    if (sscanf(buf_cstr(&b),
               "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
               " %" SCNu64 " %" SCNu64,
               &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) >= 4) {
        for (size_t i = 0; i < NUM_COUNT(t); i++)
            total += t[i];
        uint64_t busy = total - t[3] - t[4]; /* without idle and waiting for disks */
        if (total > u->total && busy >= u->busy)
            u->cpu = (double)(busy - u->busy) / (double)(total - u->total);
        u->total = total;
        u->busy = busy;
    }
    buf_fini(&b);
    memory(&u->mem_total, &u->mem_available);
}
