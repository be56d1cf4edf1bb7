/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli_common.h"

#include <stdio.h>

int cli_fail(const struct err *e)
{
    fprintf(stderr, "quire: %s\n", e->msg);
    return 1;
}

int cli_usage(const struct opts_cmd *cmd, const struct err *e)
{
    fprintf(stderr, "%s: %s\nSee %s --help.\n", cmd->name, e->msg, cmd->name);
    return 2;
}

void cli_model_path(struct buf *b, const char *uid, const char *suffix)
{
    buf_puts(b, "/v1/models/");
    api_client_escape(b, uid);
    buf_puts(b, suffix);
}
