/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_open.h - make and free a CPU stage (cold; cpu_stage.c runs it). One thread. */
#ifndef QUIRE_CPU_OPEN_H
#define QUIRE_CPU_OPEN_H

#include "worker/cpu/cpu_int.h"

Q_MUST_CHECK int cpu_stage_new(struct cpu_stage **out, const struct stage_config *cfg,
                               struct err *e);
void cpu_stage_free(struct cpu_stage *s);

#endif
