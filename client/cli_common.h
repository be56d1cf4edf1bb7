/* SPDX-License-Identifier: Apache-2.0 */
/* cli_common.h - what the commands share: the endpoint options, errors, one-line answers. */
#ifndef QUIRE_CLIENT_CLI_COMMON_H
#define QUIRE_CLIENT_CLI_COMMON_H

#include "base/json.h"
#include "base/num.h"
#include "base/opts.h"
#include "client/api_client.h"

struct cli_conn {
    const char *endpoint, *api_key; /* option values */
};

/* The two options that every client command has, for its table. */
#define CLI_CONN_OPTS(conn)                                                                        \
    {                                                                                              \
        "endpoint",                                                                                \
        "e",                                                                                       \
        OPT_STR,                                                                                   \
        &(conn).endpoint,                                                                          \
        "URL",                                                                                     \
        "where the cluster answers (default: $QUIRE_ENDPOINT, else http://127.0.0.1:9997)",        \
        0,                                                                                         \
        0},                                                                                        \
    {                                                                                              \
        "api-key", "ak", OPT_STR, &(conn).api_key, "KEY",                                          \
            "key of the cluster, if it wants one (default: $QUIRE_API_KEY)", 0, 0                  \
    }

/* "quire: text" on stderr; returns the exit status for the code (2 for wrong usage). */
int cli_fail(const struct err *e);
int cli_usage(const struct opts_cmd *cmd, const struct err *e);

/* "/v1/models/<uid escaped><suffix>" into b. */
void cli_model_path(struct buf *b, const char *uid, const char *suffix);

#endif
