/* SPDX-License-Identifier: Apache-2.0 */
/* cpus.h - the CPUs that this process may use: cores, hyper-threads, memory nodes, quota.
 *
 * Read from sysfs, the affinity mask and the control group (version 1 or 2). Where the system
 * says nothing, every CPU is a core of node 0. Any thread; a struct belongs to its caller. */
#ifndef QUIRE_BASE_CPUS_H
#define QUIRE_BASE_CPUS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define CPUS_MAX 4096U

struct cpus {
    /* Those we may use, those of a memory node together, ascending. */
    struct cpus_one {
        uint32_t cpu;
        uint32_t node; /* counted from 0 without gaps: not the system's number */
        bool core;     /* the first of its core; the others are its hyper-threads */
    } * all;
    uint32_t n, n_cores, n_nodes;
    uint32_t quota; /* cores that the control group grants, rounded; UINT32_MAX: no limit */
};

/* QUIRE_SYS_ROOT: a folder that stands for / (tests make memory nodes there). */
Q_MUST_CHECK int cpus_read(struct cpus *c, struct err *e);
/* The same over a copy of the system's files under `root`, for CPUs allowed[0..n). */
Q_MUST_CHECK int cpus_read_at(struct cpus *c, const char *root, const uint32_t *allowed,
                              uint32_t n_allowed, struct err *e);
void cpus_free(struct cpus *c);

/* Threads worth starting: cores, at most the quota; 1 or more. */
uint32_t cpus_threads(const struct cpus *c);
/* Where thread t of n belongs: a place in c->all that is a core. Neighbouring threads share a
 * node, and every node gets its share of them. */
uint32_t cpus_place(const struct cpus *c, uint32_t t, uint32_t n);

#endif
