/* SPDX-License-Identifier: Apache-2.0 */
/* http_route.h - which handler a path belongs to. Pure; the tables are borrowed. */
#ifndef QUIRE_HTTP_ROUTE_H
#define QUIRE_HTTP_ROUTE_H

#include "supervisor/http/http.h"

struct http_msg;

#define HTTP_MAX_TABLES 24
#define HTTP_MAX_PARAMS 6

struct http_routes {
    struct {
        const struct http_route *routes;
        size_t n;
        void *ctx;
    } tables[HTTP_MAX_TABLES];
    size_t n_tables;
};

struct http_hit {
    const struct http_route *route; /* NULL: none */
    void *ctx;
    struct {
        const char *name; /* in the pattern, n bytes */
        size_t n;
        const char *value; /* in the message's uri */
    } params[HTTP_MAX_PARAMS];
    unsigned n_params;
    bool path_known; /* some route has this path, with another method */
};

/* Find the route: among those with the method and a matching path the one with fixed text at
 * the first segment where they differ. HEAD falls back to GET. */
void http_route_find(const struct http_routes *t, const struct http_msg *m, struct http_hit *hit);
/* "GET, HEAD, POST": the methods of a path. */
void http_route_allow(const struct http_routes *t, const struct http_msg *m, struct buf *out);

#endif
