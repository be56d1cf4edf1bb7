/* SPDX-License-Identifier: Apache-2.0 */
/* machine_probe.h - what the machine could do at best, measured: the yardstick of `quire bench`.
 * Starts its own threads for the time of a call. */
#ifndef QUIRE_TOOLS_MACHINE_PROBE_H
#define QUIRE_TOOLS_MACHINE_PROBE_H

#include "base/err.h"

#include <stdint.h>

struct probe {
    double read_gb_s;  /* sequential reads from memory, all threads together */
    double int8_gop_s; /* int8 multiply-add pairs of the level's best instruction, as 2 each */
    double f32_gop_s;  /* fused multiply-adds of floats, as 2 each */
    uint32_t n_threads;
};

/* About half a second. n_threads 0: physical cores. */
Q_MUST_CHECK int probe_machine(struct probe *p, uint32_t n_threads, struct err *e);

/* Inner loops of one instruction set. Their sums must stay in registers (UNROLL): in memory a
 * multiplication waits for a load and a store, and the limit comes out at a half. */
struct probe_loops {
    uint64_t (*read)(const void *p, uint64_t bytes); /* some sum; bytes a multiple of 4096 */
    void (*int8)(uint64_t rounds);
    double int8_ops; /* of a round */
    void (*f32)(uint64_t rounds);
    double f32_ops;
};
extern const struct probe_loops probe_loops_ref;
#if defined(__x86_64__)
extern const struct probe_loops probe_loops_avx2, probe_loops_avx512;
#elif defined(__aarch64__)
extern const struct probe_loops probe_loops_neon;
#endif

#endif
