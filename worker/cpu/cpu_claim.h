/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_claim.h - who computes which units of a phase.
 *
 * Every thread has a home range of units, whose weights lie near it. It takes them from the
 * front in a few steps, one sequential stream of memory. A thread that is done helps others:
 * it takes steps from the back of ranges whose owners work, so that their streams go on, and
 * from the front of ranges whose owners sit this region out. Threads of the same memory node
 * are helped first. Nothing locks; which thread gets what changes no result. */
#ifndef QUIRE_CPU_CLAIM_H
#define QUIRE_CPU_CLAIM_H

#include "base/num.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A home range is taken in about so many steps. */
#define CPU_STEPS 8

/* Units taken from a range: from its front, and << 32 from its back. May exceed the range when
 * it is empty: by a step for every thread that asked. */
struct cpu_claim {
    alignas(64) _Atomic uint64_t taken;
};

/* One thread's way through the ranges of a phase. */
struct cpu_claimer {
    struct cpu_claim *claims; /* [n] */
    const uint32_t *split;    /* [n + 1]: range t is split[t] .. split[t + 1] */
    uint32_t n, n_active;     /* threads: all, in this region */
    uint32_t tid;
    uint32_t node_from, node_to; /* threads of our memory node */
    uint32_t nth;                /* ranges that we found empty */
    bool fours;                  /* steps of a multiple of four units */
    bool single;                 /* steps of one unit */
};

/* The range that a thread looks at after nth others: its own, those of its node, the rest. */
static inline uint32_t cpu_claim_range(const struct cpu_claimer *c, uint32_t nth)
{
    uint32_t here = c->node_to - c->node_from;
    if (nth < here)
        return c->node_from + (c->tid - c->node_from + nth) % here;
    return (c->node_to + (nth - here)) % c->n;
}

/* The next units [*from, *to); false when all are taken. */
static inline bool cpu_claim_next(struct cpu_claimer *c, uint32_t *from, uint32_t *to)
{
    for (; c->nth < c->n; c->nth++) {
        uint32_t v = cpu_claim_range(c, c->nth), size = c->split[v + 1] - c->split[v];
        uint32_t step = c->n_active == 1 ? size : (size + CPU_STEPS - 1) / CPU_STEPS;
        step = c->single ? 1 : c->fours ? (step + 3) / 4 * 4 : step;
        bool back = v != c->tid && v < c->n_active;
        uint64_t was = atomic_fetch_add_explicit(
            &c->claims[v].taken, back ? (uint64_t)step << 32 : step, memory_order_relaxed);
        uint64_t front = was & UINT32_MAX, behind = was >> 32;
        if (front + behind >= size)
            continue;
        uint32_t left = size - (uint32_t)(front + behind), n = NUM_MIN(step, left);
        *from = c->split[v] + (back ? size - (uint32_t)behind - n : (uint32_t)front);
        *to = *from + n;
        return true;
    }
    return false;
}

#endif
