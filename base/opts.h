/* SPDX-License-Identifier: Apache-2.0 */
/* opts.h - command-line options from a table, with help that teaches.
 *
 * A command names its options once; parsing, type checks, `--help` and the error for an
 * unknown or mistyped option (with the nearest known one) come from the table. Both
 * `--name value` and `--name=value` work; `_` and `-` in long names are the same. */
#ifndef QUIRE_BASE_OPTS_H
#define QUIRE_BASE_OPTS_H

#include "base/buf.h"

#include <stdio.h>

enum opt_kind {
    OPT_STR,  /* const char ** */
    OPT_INT,  /* int64_t *, range-checked by min and max */
    OPT_NUM,  /* double *, range-checked */
    OPT_FLAG, /* bool *, no value */
    OPT_BOOL  /* bool *, value true/false/1/0/yes/no */
};

struct opt {
    const char *name; /* long name without dashes */
    const char *abbr; /* one- or two-letter form without dash ("H", "ak"), or NULL */
    enum opt_kind kind;
    void *to;
    const char *value; /* placeholder in help: "URL" */
    const char *help;
    double min, max; /* for OPT_INT and OPT_NUM when max > min */
};

struct opts_cmd {
    const char *name;     /* "quire launch" */
    const char *args;     /* positional arguments in the usage line, or NULL */
    const char *about;    /* one sentence */
    const char *examples; /* lines shown under "Examples:", or NULL */
    const struct opt *opts;
    size_t n_opts;
};

/* Called for an option that the table does not have: name without dashes, value as given
 * (never NULL: an option without value is an error). Return 0 to accept it. */
typedef int opts_extra_fn(void *ctx, const char *name, const char *value, struct err *e);

enum { OPTS_RUN = 0, OPTS_HELP = 1 };

/* Parse argv[1..argc). Positionals are moved to argv[1..*n_pos] in order. Returns OPTS_RUN,
 * OPTS_HELP (help was printed to stdout; exit 0) or a negative code with e set (exit 2).
 * extra may be NULL: then unknown options are errors. Strings point into argv. */
Q_MUST_CHECK int opts_parse(const struct opts_cmd *cmd, int argc, char **argv, int *n_pos,
                            opts_extra_fn *extra, void *ctx, struct err *e);
void opts_help(const struct opts_cmd *cmd, FILE *out);

/* Edit distance (insert, delete, replace, swap), case-insensitive; for "did you mean". */
unsigned opts_distance(const char *a, const char *b);

#endif
