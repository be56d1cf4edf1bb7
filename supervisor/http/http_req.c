/* SPDX-License-Identifier: Apache-2.0 */
/* What handlers ask a request. */
#include "supervisor/http/http_int.h"

#include <string.h>

const char *http_method(const struct http_req *r)
{
    return r->msg.method;
}

const char *http_path(const struct http_req *r)
{
    return http_msg_path(&r->msg);
}

const char *http_param(const struct http_req *r, const char *name)
{
    size_t n = strlen(name);
    for (unsigned i = 0; i < r->hit.n_params; i++)
        if (r->hit.params[i].n == n && memcmp(r->hit.params[i].name, name, n) == 0)
            return r->hit.params[i].value;
    return NULL;
}

const char *http_query(const struct http_req *r, const char *name)
{
    return http_msg_query(&r->msg, name);
}

const char *http_header(const struct http_req *r, const char *name)
{
    char lower[64];
    size_t n = strlen(name);
    if (n >= sizeof lower)
        return NULL;
    for (size_t i = 0; i <= n; i++)
        lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
    return http_msg_header(&r->msg, lower);
}

const char *http_body(const struct http_req *r, size_t *n)
{
    if (n)
        *n = r->msg.body.len;
    return buf_cstr(&r->msg.body);
}

void http_body_drop(struct http_req *r)
{
    if (r->msg.budget)
        r->msg.budget->used -= r->msg.body.len;
    buf_fini(&r->msg.body);
}

const char *http_peer(const struct http_req *r)
{
    return r->c->peer;
}

/* The client's own id when it is fit to be sent back and logged. */
const char *http_request_id(const struct http_req *r)
{
    const char *own = http_msg_header(&r->msg, "x-request-id");
    size_t n = own ? strlen(own) : 0;
    if (n == 0 || n > 128)
        return r->id;
    for (size_t i = 0; i < n; i++)
        if (own[i] <= ' ' || own[i] > '~')
            return r->id;
    return own;
}

uv_loop_t *http_loop(const struct http_req *r)
{
    return r->c->s->loop;
}

void http_set_header(struct http_req *r, const char *name, const char *value)
{
    /* A line break would let a value write headers of its own. */
    if (strpbrk(value, "\r\n"))
        return;
    buf_printf(&r->headers, "%s: %s\r\n", name, value);
}

void http_watch(struct http_req *r, void (*on_close)(struct http_req *r, void *ctx),
                void (*on_drain)(struct http_req *r, void *ctx), void *ctx)
{
    r->on_close = on_close;
    r->on_drain = on_drain;
    r->watch_ctx = ctx;
}
