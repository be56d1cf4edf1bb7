/* SPDX-License-Identifier: Apache-2.0 */
/* child.h - run a helper program to its end from a pool thread: bounded, stoppable, and never
 * outliving us. */
#ifndef QUIRE_AGENT_CHILD_H
#define QUIRE_AGENT_CHILD_H

#include "base/err.h"

#include <stdbool.h>

struct child_run {
    char *const *argv; /* found along PATH */
    char *const *env;
    /* About every 200 ms; false stops the child, and child_run fails with Q_ECANCELLED. May set
     * its own error first. */
    bool (*tick)(void *ctx, struct err *e);
    void *ctx;
};

/* 0 when it exits with 0; else an error that ends with the last line it wrote. The child and
 * what it started (its process group) are gone on return. */
Q_MUST_CHECK int child_run(const struct child_run *r, struct err *e);

#endif
