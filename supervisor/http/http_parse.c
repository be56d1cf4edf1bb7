/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/http/http_parse.h"

#include "base/num.h"
#include "supervisor/http/http_uri.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- messages ---------------------------------------------------------------------------- */

static void msg_init(struct http_msg *m, const struct http_parser *p)
{
    memset(m, 0, sizeof *m);
    m->budget = p->budget;
    /* Two extra bytes per header for the NULs, and one for the target's. */
    buf_init(&m->head, p->max_head * 2 + 64);
    buf_init(&m->body, p->max_body);
    buf_init(&m->uri, p->max_head * 3 + 64);
}

void http_msg_fini(struct http_msg *m)
{
    if (m->budget)
        m->budget->used -= m->body.len;
    buf_fini(&m->head);
    buf_fini(&m->body);
    buf_fini(&m->uri);
    memset(m, 0, sizeof *m);
}

const char *http_msg_path(const struct http_msg *m)
{
    return m->uri.data ? m->uri.data + m->path_at : "";
}

const char *http_msg_seg(const struct http_msg *m, unsigned i)
{
    return i < m->n_segs ? m->uri.data + m->seg[i] : NULL;
}

const char *http_msg_header(const struct http_msg *m, const char *name)
{
    const char *s = m->head.data ? m->head.data + m->headers_at : "";
    const char *end = m->head.data ? m->head.data + m->head.len : s;
    while (s < end) {
        const char *value = s + strlen(s) + 1;
        if (strcmp(s, name) == 0)
            return value;
        s = value + strlen(value) + 1;
    }
    return NULL;
}

const char *http_msg_query(const struct http_msg *m, const char *name)
{
    for (unsigned i = 0; i < m->n_query; i++) {
        const char *s = m->uri.data + m->query[i];
        if (strcmp(s, name) == 0)
            return s + strlen(s) + 1;
    }
    return NULL;
}

/* ---- llhttp callbacks -------------------------------------------------------------------- */

static struct http_parser *of(llhttp_t *ll)
{
    return ll->data;
}

static int bad(struct http_parser *p, int status, const char *text)
{
    if (p->state != HTTP_PARSE_BAD) {
        p->state = HTTP_PARSE_BAD;
        p->status = status;
        p->text = text;
    }
    return HPE_USER;
}

/* Count bytes of everything that is neither body nor framing, kept or not. */
static int count_head(struct http_parser *p, size_t n)
{
    p->n_head += n;
    if (p->n_head > p->max_head)
        return bad(p, 431, "the request's headers are too large");
    return 0;
}

static int put_head(struct http_parser *p, const char *at, size_t n)
{
    int rc = count_head(p, n);
    if (rc)
        return rc;
    /* Trailers are counted and dropped: nothing here may be set after the body. */
    if (p->state == HTTP_PARSE_BODY)
        return 0;
    return buf_put(&p->msg.head, at, n) ? bad(p, 503, "out of memory") : 0;
}

static int end_head_item(struct http_parser *p)
{
    if (p->state == HTTP_PARSE_BODY)
        return count_head(p, 2);
    return buf_putc(&p->msg.head, '\0') ? bad(p, 503, "out of memory") : count_head(p, 2);
}

static int on_url(llhttp_t *ll, const char *at, size_t n)
{
    return put_head(of(ll), at, n);
}

static int on_url_complete(llhttp_t *ll)
{
    struct http_parser *p = of(ll);
    int rc = end_head_item(p);
    p->msg.headers_at = (uint32_t)p->msg.head.len;
    return rc;
}

/* llhttp takes spaces in names; "Content-Length : 5" then reads differently elsewhere. */
static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return true;
}

static int on_field(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = of(ll);
    if (!is_token(at, n))
        return bad(p, 400, "bad character in a header's name");
    size_t from = p->msg.head.len;
    int rc = put_head(p, at, n);
    for (size_t i = from; !rc && i < p->msg.head.len; i++) {
        char c = p->msg.head.data[i];
        if (c >= 'A' && c <= 'Z')
            p->msg.head.data[i] = (char)(c - 'A' + 'a');
    }
    return rc;
}

static int on_value(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = of(ll);
    /* A lone CR or LF inside a value would split it for another reader of the same bytes. */
    if (memchr(at, '\r', n) || memchr(at, '\n', n) || memchr(at, '\0', n))
        return bad(p, 400, "control character in a header");
    return put_head(p, at, n);
}

static int on_item_complete(llhttp_t *ll)
{
    return end_head_item(of(ll));
}

static int on_extension(llhttp_t *ll, const char *at, size_t n)
{
    (void)at;
    return count_head(of(ll), n);
}

/* Repeated or unusual framing headers: what two readers could understand differently. */
static int check_headers(struct http_parser *p)
{
    struct http_msg *m = &p->msg;
    unsigned n_host = 0;
    const char *end = m->head.data + m->head.len;
    for (const char *s = m->head.data + m->headers_at; s < end;) {
        const char *value = s + strlen(s) + 1;
        if (strcmp(s, "host") == 0) {
            n_host++;
        } else if (strcmp(s, "transfer-encoding") == 0) {
            if (m->minor == 0)
                return bad(p, 400, "Transfer-Encoding needs HTTP/1.1");
            if (strcasecmp(value, "chunked") != 0)
                return bad(p, 400, "the only transfer coding is chunked");
        } else if (strcmp(s, "content-encoding") == 0) {
            if (*value && strcasecmp(value, "identity") != 0)
                return bad(p, 415, "compressed request bodies are not read");
        } else if (strcmp(s, "expect") == 0) {
            if (strcasecmp(value, "100-continue") != 0)
                return bad(p, 417, "unknown expectation");
            p->expect_continue = m->minor > 0;
        }
        s = value + strlen(value) + 1;
    }
    if (n_host > 1 || (n_host == 0 && m->minor > 0))
        return bad(p, 400, "the request needs exactly one Host header");
    return 0;
}

static int on_headers_complete(llhttp_t *ll)
{
    struct http_parser *p = of(ll);
    struct http_msg *m = &p->msg;
    m->method = llhttp_method_name((llhttp_method_t)ll->method);
    m->major = ll->http_major;
    m->minor = ll->http_minor;
    if (m->major != 1 || m->minor > 1)
        return bad(p, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    if (ll->method == HTTP_CONNECT)
        return bad(p, 405, "this is not a proxy");
    /* Offers of another protocol are ignored: the request itself is answered. */
    ll->upgrade = 0;
    if (check_headers(p))
        return HPE_USER;
    const char *why = http_uri_parse(m);
    if (why)
        return bad(p, 400, why);
    if ((ll->flags & F_CONTENT_LENGTH) && ll->content_length > p->max_body)
        return bad(p, 413, "the request's body is too large");
    p->expect_continue = p->expect_continue && ((ll->flags & F_CHUNKED) || ll->content_length > 0);
    p->state = HTTP_PARSE_BODY;
    return 0;
}

static int on_body(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = of(ll);
    struct buf *b = &p->msg.body;
    if (n > p->max_body - b->len)
        return bad(p, 413, "the request's body is too large");
    if (p->budget && n > p->budget->max - p->budget->used)
        return bad(p, 503, "too many request bodies at once");
    if (buf_put(b, at, n))
        return bad(p, 503, "out of memory");
    if (p->budget)
        p->budget->used += n;
    return 0;
}

static int on_message_complete(llhttp_t *ll)
{
    struct http_parser *p = of(ll);
    p->msg.keep_alive = llhttp_should_keep_alive(ll);
    p->state = HTTP_PARSE_DONE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_field,
    .on_header_field_complete = on_item_complete,
    .on_header_value = on_value,
    .on_header_value_complete = on_item_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_extension_name = on_extension,
    .on_chunk_extension_value = on_extension,
    .on_message_complete = on_message_complete,
};

/* ---- parser ------------------------------------------------------------------------------ */

static void start(struct http_parser *p)
{
    msg_init(&p->msg, p);
    p->n_head = 0;
    p->state = HTTP_PARSE_IDLE;
    p->expect_continue = false;
    p->status = 0;
    p->text = NULL;
    llhttp_init(&p->ll, HTTP_REQUEST, &settings);
    p->ll.data = p;
}

void http_parser_init(struct http_parser *p, size_t max_head, size_t max_body,
                      struct http_budget *budget)
{
    memset(p, 0, sizeof *p);
    p->max_head = max_head;
    p->max_body = max_body;
    p->budget = budget;
    start(p);
}

void http_parser_fini(struct http_parser *p)
{
    http_msg_fini(&p->msg);
}

void http_parser_reset(struct http_parser *p)
{
    http_msg_fini(&p->msg);
    start(p);
}

void http_parser_take(struct http_parser *p, struct http_msg *out)
{
    *out = p->msg;
    start(p);
}

size_t http_parse(struct http_parser *p, const char *data, size_t n)
{
    if (p->state == HTTP_PARSE_BAD || p->state == HTTP_PARSE_DONE)
        return 0;
    size_t skip = 0;
    if (p->state == HTTP_PARSE_IDLE) {
        /* Blank lines before a request are allowed and begin nothing. */
        while (skip < n && (data[skip] == '\r' || data[skip] == '\n'))
            skip++;
        if (skip == n)
            return n;
        p->state = HTTP_PARSE_HEAD;
    }
    llhttp_errno_t rc = llhttp_execute(&p->ll, data + skip, n - skip);
    if (p->state == HTTP_PARSE_DONE)
        return (size_t)(llhttp_get_error_pos(&p->ll) - data);
    if (rc != HPE_OK)
        bad(p, 400, "malformed HTTP request");
    return n;
}
