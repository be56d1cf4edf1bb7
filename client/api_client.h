/* SPDX-License-Identifier: Apache-2.0 */
/* api_client.h - HTTP calls to a Quire (or Xinference) endpoint.
 *
 * Owns libcurl: no other file of the client includes it. One client per thread. */
#ifndef QUIRE_CLIENT_API_CLIENT_H
#define QUIRE_CLIENT_API_CLIENT_H

#include "base/json.h"

struct api_client;

/* endpoint NULL: QUIRE_ENDPOINT, XINFERENCE_ENDPOINT, else http://127.0.0.1:9997.
 * api_key NULL: QUIRE_API_KEY, else none. */
Q_MUST_CHECK int api_client_open(struct api_client **out, const char *endpoint, const char *api_key,
                                 struct err *e);
void api_client_close(struct api_client *c);
const char *api_client_endpoint(const struct api_client *c);

/* One request. body NULL: none. *answer (may be NULL) is the parsed JSON, the caller's. A status
 * of 400 and above is an error whose text is the server's `detail`; Q_EUNAVAILABLE when nobody
 * listens, with a text that says how to start a cluster. */
Q_MUST_CHECK int api_client_call(struct api_client *c, const char *method, const char *path,
                                 const struct jv *body, struct jv **answer, struct err *e);

/* A streaming POST: on_event gets each `data:` payload of the event stream except [DONE];
 * return non-zero to stop. Fails if the stream ends without [DONE]. */
Q_MUST_CHECK int api_client_stream(struct api_client *c, const char *path, const struct jv *body,
                                   int (*on_event)(void *ctx, const char *json, size_t n),
                                   void *ctx, struct err *e);

/* Percent-encode into b. */
void api_client_escape(struct buf *b, const char *text);

#endif
