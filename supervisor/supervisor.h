/* SPDX-License-Identifier: Apache-2.0 */
/* supervisor.h - the supervisor process: HTTP, gateway and control on one libuv loop. */
#ifndef QUIRE_SUPERVISOR_H
#define QUIRE_SUPERVISOR_H

/* `quire supervisor`: run until SIGTERM or SIGINT; returns the exit code. */
int supervisor_main(int argc, char **argv);
/* `quire start`: the same with one worker process of this machine as a child. */
int start_main(int argc, char **argv);

#endif
