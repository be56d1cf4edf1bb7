/* SPDX-License-Identifier: Apache-2.0 */
/* pool_tune.h - how many of its threads a pool should use now.
 *
 * On a machine that others use too, threads of a pool mostly wait for the one that is not
 * running: the scheduler may even put all of them on the core that is left, where they take
 * turns and spin. What counts is the effective number of threads: CPU time spent on work,
 * without spinning, per time passed. Where n threads have given less than n - 1 for long
 * enough, fewer do better. Where more were in use once they are tried again after a pause and
 * kept when they bring at least half of what they should. Pauses grow while tries fail.
 *
 * Short disturbances are common even on quiet machines (a process starts, threads share a core
 * until the scheduler parts them) and must not cost more than they take: what counts against n
 * threads is the work lost, and good windows pay it back.
 *
 * Pure: time comes in from outside. One thread (the pool's caller) calls. */
#ifndef QUIRE_CPU_POOL_TUNE_H
#define QUIRE_CPU_POOL_TUNE_H

#include <stdbool.h>
#include <stdint.h>

/* Work is judged over windows of at least so much of it. */
#define POOL_TUNE_WINDOW_NS 5000000U
/* So much time of a thread lost: fewer threads; a try has failed. */
#define POOL_TUNE_LOST_NS      15000000U
#define POOL_TUNE_TRY_LOST_NS  5000000U
#define POOL_TUNE_TRY_WINDOWS  3U
#define POOL_TUNE_MIN_PAUSE_NS 20000000U
#define POOL_TUNE_MAX_PAUSE_NS 1000000000U

struct pool_tune {
    uint32_t max, n; /* threads: all, to use now */
    uint32_t step;   /* by which n changes next */
    bool trying;     /* n is above `base`, which gave base_eff */
    uint32_t base, windows;
    double base_eff;
    double lost_ns; /* against one thread less or, trying, against the base */
    uint64_t pause_ns, next_try_ns;
    uint64_t wall_ns, work_ns; /* of the window so far */
};

void pool_tune_init(struct pool_tune *t, uint32_t n_threads);
/* After a step on t->n threads that took wall_ns: work_ns is the sum of what they worked. */
void pool_tune_step(struct pool_tune *t, uint64_t now_ns, uint64_t wall_ns, uint64_t work_ns);

#endif
