/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/http/http_uri.h"

#include "base/utf8.h"
#include "supervisor/http/http_parse.h"

#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Append the decoded text of s[0..n) and a NUL. Controls are refused raw, and encoded in
 * paths: no name of ours has one, and they would travel into logs and headers. */
static const char *decode(struct buf *b, const char *s, size_t n, bool plus_is_space)
{
    size_t from = b->len;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '%') {
            int hi = n - i > 2 ? hex_digit(s[i + 1]) : -1;
            int lo = hi >= 0 ? hex_digit(s[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return "bad percent-encoding in the request target";
            c = (unsigned char)(hi * 16 + lo);
            i += 2;
            if (c == 0 || (c < 0x20 && !plus_is_space))
                return "control character in the request target";
        } else if (c <= 0x20 || c == 0x7f) {
            return "control character in the request target";
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (buf_putc(b, (char)c))
            return "request target too long";
    }
    if (!utf8_valid(b->data ? b->data + from : "", b->len - from, NULL))
        return "the request target is not UTF-8";
    return buf_putc(b, '\0') ? "request target too long" : NULL;
}

static const char *parse_path(struct http_msg *m, const char *path, size_t n)
{
    struct buf *u = &m->uri;
    const char *why;
    if (n == 1 && path[0] == '*')
        return buf_put(u, "*", 2) ? "request target too long" : NULL;
    /* One trailing slash means nothing. */
    if (n > 1 && path[n - 1] == '/')
        n--;
    /* Segments first, each with its NUL; the joined path is written after them. */
    for (size_t i = 0; i < n;) {
        size_t end = ++i;
        while (end < n && path[end] != '/')
            end++;
        if (n == 1)
            break;
        if (m->n_segs == HTTP_MAX_SEGMENTS)
            return "too many segments in the request path";
        m->seg[m->n_segs] = (uint32_t)u->len;
        if ((why = decode(u, path + i, end - i, false)) != NULL)
            return why;
        const char *seg = u->data + m->seg[m->n_segs];
        if (strcmp(seg, ".") == 0 || strcmp(seg, "..") == 0)
            return "dot segment in the request path";
        m->n_segs++;
        i = end;
    }
    m->path_at = (uint32_t)u->len;
    for (unsigned i = 0; i < m->n_segs; i++) {
        uint32_t len = (uint32_t)strlen(u->data + m->seg[i]);
        if (buf_putc(u, '/') || buf_reserve(u, len))
            return "request target too long";
        m->seg_in_path[i] = (uint32_t)u->len;
        buf_put(u, u->data + m->seg[i], len);
    }
    if (m->n_segs == 0)
        buf_putc(u, '/');
    return buf_putc(u, '\0') ? "request target too long" : NULL;
}

static const char *parse_query(struct http_msg *m, const char *q, size_t n)
{
    const char *why;
    for (size_t i = 0; i < n;) {
        const char *amp = memchr(q + i, '&', n - i);
        size_t len = amp ? (size_t)(amp - (q + i)) : n - i;
        const char *eq = memchr(q + i, '=', len);
        size_t n_name = eq ? (size_t)(eq - (q + i)) : len;
        if (len > 0) {
            if (m->n_query == HTTP_MAX_QUERY)
                return "too many query parameters";
            m->query[m->n_query++] = (uint32_t)m->uri.len;
            if ((why = decode(&m->uri, q + i, n_name, true)) != NULL)
                return why;
            size_t from = eq ? n_name + 1 : n_name;
            if ((why = decode(&m->uri, q + i + from, len - from, true)) != NULL)
                return why;
        }
        i += len + 1;
    }
    return NULL;
}

const char *http_uri_parse(struct http_msg *m)
{
    const char *t = buf_cstr(&m->head);
    /* The absolute form, which proxies send. */
    size_t scheme = strncasecmp(t, "http://", 7) == 0    ? 7
                    : strncasecmp(t, "https://", 8) == 0 ? 8
                                                         : 0;
    if (scheme > 0)
        t += scheme + strcspn(t + scheme, "/?#");
    size_t n = strcspn(t, "#");
    size_t n_path = strcspn(t, "?#");
    bool star = n == 1 && t[0] == '*' && strcmp(m->method, "OPTIONS") == 0;
    if (n_path > 0 && t[0] != '/' && !star)
        return "the request target must begin with '/'";
    if (n_path == 0 && scheme == 0)
        return "empty request target";
    const char *why = n_path == 0 ? parse_path(m, "/", 1) : parse_path(m, t, n_path);
    if (!why && n > n_path)
        why = parse_query(m, t + n_path + 1, n - n_path - 1);
    return why;
}
