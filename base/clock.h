/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - time. Monotonic for durations and deadlines, wall clock for people. Any thread. */
#ifndef QUIRE_BASE_CLOCK_H
#define QUIRE_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_ns(void);
uint64_t clock_mono_ms(void);
int64_t clock_unix_s(void);
double clock_unix(void); /* seconds with fraction */

#endif
