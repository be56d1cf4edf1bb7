/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes against the HTTP parser, the target decoder and the router, as a connection would run
 * them. The first byte chooses the size of the pieces: how a request is cut must not matter. */
#include "base/num.h"
#include "supervisor/http/http_parse.h"
#include "supervisor/http/http_route.h"

#include <stdlib.h>
#include <string.h>

static const struct http_route routes[] = {
    {"GET", "/", NULL},
    {"POST", "/v1/chat/completions", NULL},
    {"GET", "/v1/models/{uid}", NULL},
    {"GET", "/v1/models/{uid}/replicas/{n}", NULL},
    {"GET", "/v1/{rest...}", NULL},
    {"DELETE", "/{a}/{b}/{c}", NULL},
};

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* What a message looked like, to compare two ways of cutting it. */
static uint64_t look(const struct http_msg *m, uint64_t sum)
{
    static const struct http_routes table = {
        .tables = {{routes, NUM_COUNT(routes), NULL}},
        .n_tables = 1,
    };
    struct http_hit hit;
    http_route_find(&table, m, &hit);
    for (unsigned i = 0; i < hit.n_params; i++)
        sum = sum * 31 + strlen(hit.params[i].value);
    struct buf allow;
    buf_init(&allow, 256);
    http_route_allow(&table, m, &allow);
    check(!allow.failed);
    buf_fini(&allow);
    const char *type = http_msg_header(m, "content-type");
    const char *q = http_msg_query(m, "q");
    sum = sum * 31 + strlen(http_msg_path(m)) + (type ? strlen(type) : 7) + (q ? strlen(q) : 9);
    for (unsigned i = 0; i < m->n_segs; i++)
        sum = sum * 31 + strlen(http_msg_seg(m, i));
    for (size_t i = 0; i < m->body.len; i++)
        sum = sum * 31 + (unsigned char)m->body.data[i];
    return sum * 31 + m->head.len + (hit.route ? 1 : 0) + (m->keep_alive ? 2 : 0);
}

static uint64_t feed(const char *data, size_t n, size_t piece)
{
    struct http_budget budget = {.max = 3000};
    struct http_parser p;
    http_parser_init(&p, 1000, 2000, &budget);
    uint64_t sum = 0;
    size_t at = 0;
    while (at < n && p.state != HTTP_PARSE_BAD) {
        size_t len = NUM_MIN(piece, n - at);
        size_t used = http_parse(&p, data + at, len);
        check(used <= len);
        check(budget.used <= budget.max);
        at += used;
        if (p.state == HTTP_PARSE_DONE) {
            struct http_msg m;
            http_parser_take(&p, &m);
            sum = look(&m, sum);
            http_msg_fini(&m);
            check(budget.used == 0);
        } else {
            check(used == len);
        }
    }
    if (p.state == HTTP_PARSE_BAD) {
        check(p.status >= 400 && p.status < 600 && p.text);
        sum = sum * 31 + 1;
    }
    http_parser_fini(&p);
    check(budget.used == 0);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    size_t piece = data[0] % 16 + 1;
    const char *text = (const char *)data + 1;
    check(feed(text, n - 1, n) == feed(text, n - 1, piece));
    return 0;
}
