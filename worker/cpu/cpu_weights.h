/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_weights.h - a stage's weights in memory: mapped from the packed cache, or packed here.
 *
 * Matrices are grouped into units, a layer's or the output's. A unit that the cache has is mapped
 * read-only and shared with whoever else maps it; the others are packed into anonymous memory
 * by all threads, unit by unit, and the file's pages are let go. What was packed is then written
 * to the cache by a thread in the background, and when a unit is safely on disk its
 * anonymous pages are exchanged for the file's (mremap over a running reader: it sees the
 * same bytes before and after). So requests never wait for the disk, and at no time is more
 * than one unit in memory twice. One thread opens and closes. */
#ifndef QUIRE_CPU_WEIGHTS_H
#define QUIRE_CPU_WEIGHTS_H

#include "worker/cpu/cpu_int.h"

/* Set the data of all matrices, biases and norms of s->ops, which are planned. */
Q_MUST_CHECK int cpu_weights_open(struct cpu_stage *s, const struct stage_config *cfg,
                                  const struct program *prog, struct err *e);
void cpu_weights_close(struct cpu_stage *s);

#endif
