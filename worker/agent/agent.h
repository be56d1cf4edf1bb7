/* SPDX-License-Identifier: Apache-2.0 */
/* agent.h - the worker process: `quire worker`.
 *
 * One per machine (several are fine). It dials the supervisor, renews a lease, fetches model
 * files and is the parent of the shards. Everything runs on one libuv loop; only blocking work
 * (look-ups, files) goes to its thread pool and RPC events come in through a mailbox. */
#ifndef QUIRE_AGENT_AGENT_H
#define QUIRE_AGENT_AGENT_H

/* Run until SIGTERM, SIGINT or the supervisor's order; returns the exit code. */
int agent_main(int argc, char **argv);

#endif
