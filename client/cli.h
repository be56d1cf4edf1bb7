/* SPDX-License-Identifier: Apache-2.0 */
/* cli.h - the commands for people. Each takes the arguments that follow the command's name
 * (argv[0] is the name itself) and returns the exit status: 0 done, 1 failed (one line on stderr
 * says why and what to do next), 2 wrong usage. Main thread only. */
#ifndef QUIRE_CLIENT_CLI_H
#define QUIRE_CLIENT_CLI_H

int cli_launch(int argc, char **argv);
int cli_list(int argc, char **argv);
int cli_terminate(int argc, char **argv);
int cli_chat(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_registrations(int argc, char **argv);
int cli_register(int argc, char **argv);
int cli_unregister(int argc, char **argv);
int cli_stop_cluster(int argc, char **argv);

#endif
