/* SPDX-License-Identifier: Apache-2.0 */
/* probe.h - does somebody listen there? One TCP connection, no word said. Loop thread only. */
#ifndef QUIRE_CONTROL_PROBE_H
#define QUIRE_CONTROL_PROBE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* done runs once, on the loop, unless this returns an error; address is "ip:port" or
 * "[ip]:port". */
Q_MUST_CHECK int probe_start(uv_loop_t *loop, const char *address, uint64_t timeout_ms,
                             void (*done)(void *ctx, bool reached), void *ctx, struct err *e);

#endif
