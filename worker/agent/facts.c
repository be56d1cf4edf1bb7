/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/agent/facts.h"

#include "base/cpus.h"
#include "base/fs.h"
#include "base/num.h"

#include <inttypes.h>
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

void facts_machine(struct facts_machine *m)
{
    uint64_t available;
    struct cpus cpus;
    struct buf b;
    memset(m, 0, sizeof *m);
    if (gethostname(m->host, sizeof m->host) != 0)
        snprintf(m->host, sizeof m->host, "localhost");
    m->host[sizeof m->host - 1] = '\0';
    m->n_cpus = 1;
    if (cpus_read(&cpus, NULL) == 0) {
        m->n_cpus = cpus_threads(&cpus);
        cpus_free(&cpus);
    }
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
