/* SPDX-License-Identifier: Apache-2.0 */
/* ident.h - who this worker is: an id that survives restarts, one process at a time.
 *
 * The id lies in <home>/worker/id (worker-2, worker-3 ... for further workers with the same
 * home, worker-port-<port> when the port was given) and is held by a file lock. */
#ifndef QUIRE_AGENT_IDENT_H
#define QUIRE_AGENT_IDENT_H

#include "base/err.h"

struct ident {
    char id[65];
    int lock_fd;
};

/* port 0: none was given. Creates home when absent. */
Q_MUST_CHECK int ident_open(struct ident *i, const char *home, int port, struct err *e);
void ident_close(struct ident *i);

#endif
