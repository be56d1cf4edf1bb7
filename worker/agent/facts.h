/* SPDX-License-Identifier: Apache-2.0 */
/* facts.h - what this machine has and how busy it is, read from /proc and the control group.
 * A limit of the container counts as the machine's. Any thread; facts_usage keeps its last
 * sample in the caller's struct. */
#ifndef QUIRE_AGENT_FACTS_H
#define QUIRE_AGENT_FACTS_H

#include <stdint.h>

struct facts_machine {
    char host[72], cpu_name[80];
    uint32_t n_cpus;    /* physical cores that we may use, at least 1 */
    uint64_t mem_total; /* bytes */
};

struct facts_usage {
    uint64_t busy, total; /* last sample of /proc/stat, in ticks */
    double cpu;           /* 0..1 since then */
    uint64_t mem_total, mem_available;
};

void facts_machine(struct facts_machine *m);
/* Start with a zeroed struct; the first call measures since boot. */
void facts_usage(struct facts_usage *u);

#endif
