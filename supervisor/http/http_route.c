/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/http/http_route.h"

#include "supervisor/http/http_parse.h"

#include <string.h>

/* How tightly a pattern fits, most significant segment first: 3 fixed, 2 one parameter, 1 the
 * rest of the path, 0 no segment. Compared as numbers. */
typedef uint64_t fit_t;

_Static_assert(HTTP_MAX_SEGMENTS * 2 < 64, "two bits of fit per segment");

/* 0: no match. The root path matches with fit 1. */
static fit_t match(const char *pattern, const struct http_msg *m, struct http_hit *hit)
{
    fit_t fit = 0;
    unsigned i = 0;
    const char *s = pattern + 1; /* patterns begin with '/' */
    hit->n_params = 0;
    while (*s) {
        size_t len = strcspn(s, "/");
        const char *seg = http_msg_seg(m, i);
        if (!seg)
            return 0;
        unsigned bits = 3;
        if (s[0] == '{') {
            bool rest = len > 5 && memcmp(s + len - 4, "...}", 4) == 0;
            if (!*seg || hit->n_params == HTTP_MAX_PARAMS)
                return 0;
            hit->params[hit->n_params].name = s + 1;
            hit->params[hit->n_params].n = len - (rest ? 5 : 2);
            hit->params[hit->n_params].value = rest ? m->uri.data + m->seg_in_path[i] : seg;
            hit->n_params++;
            bits = rest ? 1 : 2;
            if (rest)
                i = (unsigned)m->n_segs - 1;
        } else if (strlen(seg) != len || memcmp(seg, s, len) != 0) {
            return 0;
        }
        fit = fit * 4 + bits;
        i++;
        s += len + (s[len] == '/');
    }
    return i == m->n_segs ? (fit ? fit : 1) : 0;
}

/* Patterns of different length match the same path only through "{rest...}", so their fits
 * are aligned to the left before they are compared. */
static fit_t align_left(fit_t fit)
{
    while (fit && !(fit >> (HTTP_MAX_SEGMENTS * 2 - 2)))
        fit <<= 2;
    return fit;
}

static bool method_fits(const char *route, const char *request, bool *exact)
{
    *exact = strcmp(route, request) == 0;
    return *exact || (strcmp(request, "HEAD") == 0 && strcmp(route, "GET") == 0);
}

void http_route_find(const struct http_routes *t, const struct http_msg *m, struct http_hit *hit)
{
    fit_t best = 0;
    memset(hit, 0, sizeof *hit);
    for (size_t k = 0; k < t->n_tables; k++) {
        for (size_t i = 0; i < t->tables[k].n; i++) {
            const struct http_route *r = &t->tables[k].routes[i];
            struct http_hit h;
            fit_t fit = align_left(match(r->pattern, m, &h));
            bool exact;
            if (!fit)
                continue;
            hit->path_known = true;
            if (!method_fits(r->method, m->method, &exact))
                continue;
            fit = fit * 2 + exact;
            if (fit <= best)
                continue;
            best = fit;
            h.route = r;
            h.ctx = t->tables[k].ctx;
            h.path_known = true;
            *hit = h;
        }
    }
}

void http_route_allow(const struct http_routes *t, const struct http_msg *m, struct buf *out)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};
    for (size_t w = 0; w < sizeof methods / sizeof *methods; w++) {
        bool has = false, exact;
        for (size_t k = 0; k < t->n_tables && !has; k++)
            for (size_t i = 0; i < t->tables[k].n && !has; i++) {
                const struct http_route *r = &t->tables[k].routes[i];
                struct http_hit h;
                has = method_fits(r->method, methods[w], &exact) && match(r->pattern, m, &h);
            }
        if (has)
            buf_printf(out, "%s%s", out->len ? ", " : "", methods[w]);
    }
    buf_printf(out, "%sOPTIONS", out->len ? ", " : "");
}
