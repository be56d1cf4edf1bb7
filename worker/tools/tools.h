/* SPDX-License-Identifier: Apache-2.0 */
/* tools.h - commands that show one part of the engine without a server.
 *
 * Each is a whole command: argv[0] is its name, the result the exit status (0 done, 1 the
 * model or file can't be used, 2 wrong usage). They own stdin, stdout and stderr. */
#ifndef QUIRE_TOOLS_TOOLS_H
#define QUIRE_TOOLS_TOOLS_H

#include "base/err.h"

/* The file of a model: an existing path, else that of a registered name, else NAME.gguf or the
 * one file NAME*.gguf in <share>/models, else somewhere below <home>/models. *path is malloc'ed. */
Q_MUST_CHECK int tools_model_path(const char *name, char **path, struct err *e);

int tool_inspect(int argc, char **argv);
int tool_tokenize(int argc, char **argv);
int tool_detokenize(int argc, char **argv);
int tool_logits(int argc, char **argv);
int tool_bench(int argc, char **argv);
int tool_perplexity(int argc, char **argv);
int tool_template(int argc, char **argv);
int tool_schema_check(int argc, char **argv);
int tool_parse_output(int argc, char **argv);

#endif
