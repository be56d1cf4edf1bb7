/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cpus.h"

#include "base/num.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NODES 1024U

/* First line of root + path, without its end; false when there is none. */
static bool read_line(const char *root, const char *path, char *text, size_t n)
{
    char full[1200];
    if (snprintf(full, sizeof(full), "%s%s", root, path) >= (int)sizeof(full))
        return false;
    FILE *f = fopen(full, "re");
    if (!f)
        return false;
    char *got = fgets(text, (int)n, f);
    fclose(f);
    if (!got)
        return false;
    text[strcspn(text, "\n")] = 0;
    return true;
}

/* Mark the numbers of a list as "0-3,8"; those from max on are left out. */
static void mark_list(const char *s, uint32_t max, uint32_t *marks, uint32_t mark)
{
    while (*s) {
        char *end;
        unsigned long from = strtoul(s, &end, 10), to = from;
        if (end == s)
            return;
        s = end;
        if (*s == '-') {
            to = strtoul(s + 1, &end, 10);
            s = end;
        }
        for (unsigned long i = from; i <= to && i < max; i++)
            marks[i] = mark;
        if (*s != ',')
            return;
        s++;
    }
}

static uint32_t least_of(uint32_t a, uint32_t b)
{
    return NUM_MIN(a, b);
}

/* ---- control group ------------------------------------------------------------------------- */

/* Half a core and more counts as one: two threads at a quota of 1.5 stand still for a quarter
 * of the time and are still faster than one. */
static uint32_t granted(double quota, double period)
{
    if (!(quota > 0) || !(period > 0))
        return UINT32_MAX;
    double cores = quota / period;
    if (cores >= CPUS_MAX)
        return UINT32_MAX;
    return NUM_MAX((uint32_t)(cores + 0.5), 1U);
}

static uint32_t quota_at(const char *root, const char *dir, bool v2)
{
    char path[700], text[128], text2[128];
    double quota = 0, period = 0;
    if (v2) {
        snprintf(path, sizeof(path), "%s/cpu.max", dir);
        if (!read_line(root, path, text, sizeof(text)) ||
            sscanf(text, "%lf %lf", &quota, &period) != 2)
            return UINT32_MAX; /* "max 100000" */
        return granted(quota, period);
    }
    snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", dir);
    if (!read_line(root, path, text, sizeof(text)))
        return UINT32_MAX;
    snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", dir);
    if (!read_line(root, path, text2, sizeof(text2)))
        return UINT32_MAX;
    return granted(strtod(text, NULL), strtod(text2, NULL));
}

/* The tightest quota of group `own` below `mount` and of its parents. In a container the path
 * may be one of the host that is not seen here: then the mount itself is our group. */
static uint32_t quota_below(const char *root, const char *mount, const char *own, bool v2)
{
    char dir[600];
    uint32_t least = UINT32_MAX;
    snprintf(dir, sizeof(dir), "%s%s", mount, own);
    size_t least_len = strlen(mount);
    for (;;) {
        least = least_of(least, quota_at(root, dir, v2));
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < least_len)
            return least;
        *slash = 0;
    }
}

/* One line of /proc/self/cgroup: "0::/path", or "4:cpu,cpuacct:/path". */
static uint32_t quota_of_line(const char *root, char *line)
{
    char *list = strchr(line, ':'), *own = list ? strchr(list + 1, ':') : NULL;
    if (!own)
        return UINT32_MAX;
    *own++ = 0;
    list++;
    if (!*list)
        return quota_below(root, "/sys/fs/cgroup", own, true);
    char mount[160];
    bool cpu = false;
    snprintf(mount, sizeof(mount), "/sys/fs/cgroup/%.120s", list);
    for (char *save, *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save))
        cpu = cpu || strcmp(name, "cpu") == 0;
    if (!cpu)
        return UINT32_MAX;
    uint32_t plain = quota_below(root, "/sys/fs/cgroup/cpu", own, false);
    return least_of(plain, quota_below(root, mount, own, false));
}

static uint32_t read_quota(const char *root)
{
    char path[1200], line[512];
    uint32_t least = quota_at(root, "/sys/fs/cgroup", true);
    least = least_of(least, quota_at(root, "/sys/fs/cgroup/cpu", false));
    snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f)
        return least;
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        least = least_of(least, quota_of_line(root, line));
    }
    fclose(f);
    return least;
}

/* ---- CPUs ---------------------------------------------------------------------------------- */

/* node_of[cpu]: the system's number of its memory node. */
static void read_nodes(const char *root, uint32_t *node_of)
{
    char path[96], text[4096];
    uint32_t online[MAX_NODES] = {0};
    if (!read_line(root, "/sys/devices/system/node/online", text, sizeof(text)))
        return;
    mark_list(text, MAX_NODES, online, 1);
    for (uint32_t i = 0; i < MAX_NODES; i++) {
        snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/cpulist", i);
        if (online[i] && read_line(root, path, text, sizeof(text)))
            mark_list(text, CPUS_MAX, node_of, i);
    }
}

/* Is cpu the first of its core among the allowed? Siblings are asked once: the first that is
 * met marks the others. */
static bool first_of_core(const char *root, uint32_t cpu, uint32_t *known)
{
    char path[96], text[4096];
    if (known[cpu])
        return false;
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
             cpu);
    if (read_line(root, path, text, sizeof(text)))
        mark_list(text, CPUS_MAX, known, 1);
    return true;
}

static int by_node(const void *a, const void *b)
{
    const struct cpus_one *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

int cpus_read_at(struct cpus *c, const char *root, const uint32_t *allowed, uint32_t n_allowed,
                 struct err *e)
{
    uint32_t *marks = calloc(2 * (size_t)CPUS_MAX, sizeof(*marks));
    *c = (struct cpus){.quota = read_quota(root)};
    c->all = calloc(NUM_MAX(n_allowed, 1U), sizeof(*c->all));
    if (!marks || !c->all) {
        free(marks);
        cpus_free(c);
        return err_set(e, Q_ENOMEM, "no memory to list %u CPUs", n_allowed);
    }
    uint32_t *known = marks, *node_of = marks + CPUS_MAX;
    read_nodes(root, node_of);
    for (uint32_t i = 0; i < n_allowed; i++) {
        uint32_t cpu = allowed[i];
        if (cpu >= CPUS_MAX)
            continue;
        bool core = first_of_core(root, cpu, known);
        c->all[c->n++] = (struct cpus_one){cpu, node_of[cpu], core};
        c->n_cores += core;
    }
    free(marks);
    if (c->n == 0) {
        c->all[0] = (struct cpus_one){0, 0, true};
        c->n = c->n_cores = 1;
    }
    qsort(c->all, c->n, sizeof(*c->all), by_node);
    for (uint32_t i = 0, last = 0; i < c->n; i++) {
        uint32_t node = c->all[i].node;
        c->n_nodes += i == 0 || node != last;
        c->all[i].node = c->n_nodes - 1;
        last = node;
    }
    return 0;
}

int cpus_read(struct cpus *c, struct err *e)
{
    cpu_set_t *set = CPU_ALLOC(CPUS_MAX);
    uint32_t *allowed = malloc(CPUS_MAX * sizeof(*allowed)), n = 0;
    size_t bytes = CPU_ALLOC_SIZE(CPUS_MAX);
    int rc = set && allowed ? 0 : err_set(e, Q_ENOMEM, "no memory to list the CPUs");
    if (rc == 0 && sched_getaffinity(0, bytes, set) == 0) {
        for (uint32_t cpu = 0; cpu < CPUS_MAX; cpu++) {
            if (CPU_ISSET_S(cpu, bytes, set))
                allowed[n++] = cpu;
        }
    }
    const char *root = getenv("QUIRE_SYS_ROOT");
    if (rc == 0)
        rc = cpus_read_at(c, root ? root : "", allowed, n, e);
    free(allowed);
    CPU_FREE(set);
    return rc;
}

void cpus_free(struct cpus *c)
{
    free(c->all);
    *c = (struct cpus){.all = NULL};
}

uint32_t cpus_threads(const struct cpus *c)
{
    return NUM_MAX(NUM_MIN(c->n_cores, c->quota), 1U);
}

uint32_t cpus_place(const struct cpus *c, uint32_t t, uint32_t n)
{
    uint32_t want = (uint32_t)((uint64_t)t * c->n_cores / n), i = 0;
    for (; i < c->n; i++) {
        if (c->all[i].core && want-- == 0)
            break;
    }
    return i;
}
