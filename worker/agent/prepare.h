/* SPDX-License-Identifier: Apache-2.0 */
/* prepare.h - jobs that make a model file ready on this machine: fetch it, read its shape.
 *
 * Called on the loop thread. A few jobs run at once on libuv's thread pool, the rest wait; a
 * job whose outcome was not taken by the supervisor is kept and offered again. */
#ifndef QUIRE_AGENT_PREPARE_H
#define QUIRE_AGENT_PREPARE_H

#include "proto/cluster.pb-c.h"

#include <stdbool.h>
#include <uv.h>

struct prepare;

struct err;

/* changed runs whenever prepare_flush has something to say. */
int prepare_open(struct prepare **out, uv_loop_t *loop, const char *home,
                 void (*changed)(void *ctx), void *ctx, struct err *e);
/* An unknown job id starts a job, a known one reports again. */
void prepare_start(struct prepare *p, const Quire__Prepare *cmd);
/* Offer all news; send returns 0 when it took the message (borrowed). */
void prepare_flush(struct prepare *p, int (*send)(void *ctx, const Quire__PrepareFact *f),
                   void *ctx);
/* Say everything again to a supervisor that may have forgotten. */
void prepare_renew(struct prepare *p);
void prepare_cancel(struct prepare *p); /* all jobs; their children die soon */
bool prepare_busy(const struct prepare *p);
/* Frees when the last job has ended; no callback runs any more. */
void prepare_close(struct prepare *p);

#endif
