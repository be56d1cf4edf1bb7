/* SPDX-License-Identifier: Apache-2.0 */
/* api_xinference.h - Xinference's routes except inference: cluster, launch, models, replicas,
 * registrations, engines. Loop thread only. */
#ifndef QUIRE_API_XINFERENCE_H
#define QUIRE_API_XINFERENCE_H

#include "supervisor/api/api.h"

struct api_site {
    struct api *api;
    struct http_server *http;
    bool auth;      /* requests need the API key */
    double started; /* clock_unix() */
    /* DELETE /v1/clusters: end this process soon; the answer has been given. */
    void (*stop)(void *ctx);
    void *stop_ctx;
};

/* All borrow the site for the server's life. */
void api_xinference_register(struct http_server *s, struct api_site *site);

/* One file each; called by api_xinference_register. */
void api_xinference_models(struct http_server *s, struct api_site *site);
void api_xinference_launch(struct http_server *s, struct api_site *site);
void api_xinference_registry(struct http_server *s, struct api_site *site);

/* A body that is a JSON text made here. */
void api_xinference_null(struct http_req *r);
/* ?name=true / 1 / yes */
bool api_xinference_flag(const struct http_req *r, const char *name, bool dflt);
/* "7" as 7, "0_5" as "0_5"; NULL writes null. */
void api_xinference_size(struct buf *b, const char *size);
/* Status of a code of control, in this dialect. */
int api_xinference_status(int q_err);

#endif
