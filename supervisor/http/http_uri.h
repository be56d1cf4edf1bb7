/* SPDX-License-Identifier: Apache-2.0 */
/* http_uri.h - the request target, decoded and split. Pure, any thread. */
#ifndef QUIRE_HTTP_URI_H
#define QUIRE_HTTP_URI_H

struct http_msg;

/* Fill m->uri and its offsets from the target (m->head.data). NULL, or static text that says
 * what is wrong. Paths decode segment by segment, so that %2F does not split one. */
const char *http_uri_parse(struct http_msg *m);

#endif
