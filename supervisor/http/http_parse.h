/* SPDX-License-Identifier: Apache-2.0 */
/* http_parse.h - bytes to requests, without sockets: the part that hostile input meets first.
 *
 * A parser reads one message at a time into its `msg`. Feed it until it is DONE or BAD, take
 * the message, reset, go on. Every size is bounded: target and headers together by max_head,
 * the body by max_body, the bodies of all parsers of a budget by the budget. One thread.
 *
 *     IDLE --first byte--> HEAD --blank line--> BODY --last byte--> DONE
 *       any of them --fault--> BAD (status and text say what to answer; the parser is dead)
 */
#ifndef QUIRE_HTTP_PARSE_H
#define QUIRE_HTTP_PARSE_H

#include "base/buf.h"

#include <llhttp/llhttp.h>

#define HTTP_MAX_SEGMENTS 24
#define HTTP_MAX_QUERY    32

/* Memory for request bodies, shared by all connections of a server. */
struct http_budget {
    size_t used, max;
};

struct http_msg {
    const char *method; /* static text */
    struct buf head;    /* target NUL, then per header: lower-case name NUL value NUL */
    struct buf body;
    struct buf uri; /* decoded: segments, path, query names and values, NUL after each */
    struct http_budget *budget;              /* holds body.len bytes of it */
    uint32_t headers_at;                     /* offset of the first header in head */
    uint32_t path_at;                        /* offset of the path in uri */
    uint32_t seg[HTTP_MAX_SEGMENTS];         /* offsets in uri of the segments */
    uint32_t seg_in_path[HTTP_MAX_SEGMENTS]; /* and where each one begins in the path */
    uint32_t query[HTTP_MAX_QUERY];          /* offsets in uri of "name NUL value NUL" */
    uint16_t n_segs, n_query;
    uint8_t major, minor;
    bool keep_alive;
};

void http_msg_fini(struct http_msg *m);
const char *http_msg_path(const struct http_msg *m);
const char *http_msg_seg(const struct http_msg *m, unsigned i);
/* name in lower case; the first of several. NULL: none. */
const char *http_msg_header(const struct http_msg *m, const char *name);
const char *http_msg_query(const struct http_msg *m, const char *name);

enum http_parse_state {
    HTTP_PARSE_IDLE,
    HTTP_PARSE_HEAD,
    HTTP_PARSE_BODY,
    HTTP_PARSE_DONE,
    HTTP_PARSE_BAD
};

struct http_parser {
    llhttp_t ll;
    struct http_msg msg;
    struct http_budget *budget;
    size_t max_head, max_body;
    size_t n_head; /* bytes of target, headers, trailers and chunk extensions so far */
    enum http_parse_state state;
    bool expect_continue; /* the client waits for "100 Continue" before the body */
    int status;           /* BAD: what to answer */
    const char *text;     /* BAD: static text */
};

void http_parser_init(struct http_parser *p, size_t max_head, size_t max_body,
                      struct http_budget *budget);
void http_parser_fini(struct http_parser *p);
/* Drop or forget (after http_parser_take) the message and start over. */
void http_parser_reset(struct http_parser *p);
/* Read up to the end of the message. Returns the bytes consumed, n unless DONE or BAD. */
size_t http_parse(struct http_parser *p, const char *data, size_t n);
/* DONE only: the message becomes the caller's, the parser is reset. */
void http_parser_take(struct http_parser *p, struct http_msg *out);

#endif
