/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.h - from the endpoint that people know to the address that the cluster speaks at.
 * These block (names, sockets) for a few seconds at most; not for the loop thread. */
#ifndef QUIRE_AGENT_LOOKUP_H
#define QUIRE_AGENT_LOOKUP_H

#include "base/err.h"

#include <stdbool.h>

struct lookup_url {
    char host[256], port[8], path[256]; /* path without a slash at its end */
};

/* "http://host:port/path"; only plain HTTP. */
Q_MUST_CHECK int lookup_parse(struct lookup_url *u, const char *endpoint, struct err *e);
/* GET <endpoint>/v1/address: "host:port" of the supervisor's RPC service. */
Q_MUST_CHECK int lookup_address(const struct lookup_url *u, char out[256], struct err *e);
/* Our own address as seen on the way to the endpoint. */
Q_MUST_CHECK int lookup_local(const struct lookup_url *u, char out[64], struct err *e);
/* Is this host (without port) only reachable from this machine? */
bool lookup_is_loopback(const char *host);

#endif
