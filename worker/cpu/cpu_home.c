/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/cpu/cpu_home.h"

#include <stdlib.h>

static uint32_t thread_of(const uint32_t *split, uint32_t at, uint32_t n_threads)
{
    uint32_t t = 0;
    while (t + 1 < n_threads && at >= split[t + 1])
        t++;
    return t;
}

/* Units of matrix `mat` are in the order of their panels. */
static uint32_t unit_of(const struct cpu_op *op, uint32_t mat, uint32_t panel)
{
    uint32_t u = 0;
    while (u + 1 < op->n_units && (op->units[u].mat != mat || panel >= op->units[u].panel_to))
        u++;
    return u;
}

uint32_t cpu_home(const struct cpu_op *op, uint32_t mat, uint32_t panel, uint32_t n_threads)
{
    if (op->kind == PROG_QKV)
        return thread_of(op->split, unit_of(op, mat, panel), n_threads);
    if (op->kind != PROG_FFN)
        return thread_of(op->split, panel, n_threads);
    if (mat == PROG_DOWN)
        return thread_of(op->split2, panel, n_threads);
    /* Units are counted in panels of the gate; the rows of the up matrix go with its. */
    uint32_t row = panel * op->mat[mat].m.k->panel_rows;
    uint32_t gate = row / op->mat[PROG_GATE].m.k->panel_rows;
    return thread_of(op->split, unit_of(op, PROG_GATE, gate), n_threads);
}

int cpu_tasks_open(struct cpu_tasks *t, const uint32_t *node_of, uint32_t n, uint32_t n_nodes,
                   struct err *e)
{
    uint32_t at = 0;
    *t = (struct cpu_tasks){.n_nodes = n_nodes};
    t->order = malloc(NUM_MAX(n, 1U) * sizeof(*t->order));
    t->nodes = malloc(n_nodes * sizeof(*t->nodes));
    if (!t->order || !t->nodes) {
        cpu_tasks_close(t);
        return err_set(e, Q_ENOMEM, "no memory to divide %u tasks", n);
    }
    for (uint32_t node = 0; node < n_nodes; node++) {
        atomic_init(&t->nodes[node].next, at);
        for (uint32_t i = 0; i < n; i++) {
            if (node_of[i] == node)
                t->order[at++] = i;
        }
        t->nodes[node].to = at;
    }
    return 0;
}

void cpu_tasks_close(struct cpu_tasks *t)
{
    free(t->order);
    free(t->nodes);
    *t = (struct cpu_tasks){.order = NULL};
}

bool cpu_tasks_next(struct cpu_tasks *t, uint32_t node, uint32_t *task)
{
    for (uint32_t i = 0; i < t->n_nodes; i++) {
        struct cpu_tasks_of *of = &t->nodes[(node + i) % t->n_nodes];
        uint32_t at = atomic_fetch_add_explicit(&of->next, 1, memory_order_relaxed);
        if (at < of->to) {
            *task = t->order[at];
            return true;
        }
    }
    return false;
}
