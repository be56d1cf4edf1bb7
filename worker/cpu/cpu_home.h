/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_home.h - packing by memory nodes: who writes a part of the weights first.
 *
 * Threads take the rows of a matrix from their home ranges (cpu_claim.h), and memory lies on the
 * node of the thread that first writes it. So chunks of matrices are packed by threads of the
 * node whose threads will read them; who is done helps the other nodes. With one node chunks are
 * taken in their order. Nothing locks; cpu_tasks_next is for any thread. */
#ifndef QUIRE_CPU_HOME_H
#define QUIRE_CPU_HOME_H

#include "worker/cpu/cpu_int.h"

/* The thread in whose home range a panel of op's matrix `mat` lies. */
uint32_t cpu_home(const struct cpu_op *op, uint32_t mat, uint32_t panel, uint32_t n_threads);

/* Tasks 0 .. n - 1, each at home on a node, each taken once. */
struct cpu_tasks {
    uint32_t n_nodes;
    uint32_t *order; /* those of a node together, ascending */
    struct cpu_tasks_of {
        uint32_t to; /* end of the node's tasks in order */
        _Atomic uint32_t next;
    } * nodes;
};

/* node_of[n] < n_nodes. On failure nothing is left. */
Q_MUST_CHECK int cpu_tasks_open(struct cpu_tasks *t, const uint32_t *node_of, uint32_t n,
                                uint32_t n_nodes, struct err *e);
void cpu_tasks_close(struct cpu_tasks *t);
/* The next task for a thread of `node`; false when all are taken. */
bool cpu_tasks_next(struct cpu_tasks *t, uint32_t node, uint32_t *task);

#endif
