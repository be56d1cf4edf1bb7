/* SPDX-License-Identifier: Apache-2.0 */
/* jinja.h - the template language of chat templates: compile once, render many times.
 *
 * Renders as Jinja2 under transformers' environment (trim_blocks, lstrip_blocks, loop controls,
 * tojson without HTML escapes, raise_exception, strftime_now). Templates come from model files
 * and requests: hostile. Steps, output size, recursion and memory are bounded.
 * A compiled template is immutable: any thread may render it, many at once. */
#ifndef QUIRE_TEXT_JINJA_H
#define QUIRE_TEXT_JINJA_H

#include "base/buf.h"
#include "base/json.h"

struct jinja;

/* e->msg: what and at which line. */
Q_MUST_CHECK int jinja_compile(struct jinja **out, const char *text, size_t n, struct err *e);
void jinja_free(struct jinja *t);

struct jinja_limits {
    uint64_t max_steps; /* 0: 10 million evaluation steps */
    size_t max_memory;  /* 0: 256 MiB of values during one render */
};

/* Append the rendering to out (whose max bounds it). vars: an object, the top-level variables;
 * borrowed. *raised (may be NULL) is set when the template itself refused (raise_exception):
 * then e->msg is its message. `now` is the time for strftime_now (unix seconds, shown as local
 * time). */
Q_MUST_CHECK int jinja_render(const struct jinja *t, const struct jv *vars, int64_t now,
                              const struct jinja_limits *lim, struct buf *out, bool *raised,
                              struct err *e);
/* The same, and mark (NULL: not wanted) gets one byte per byte of out: 1 where the byte came
 * from the conversation (strings and keys inside the variables), 0 where the template or a
 * top-level string (bos_token ...) wrote it. Only unmarked text may stand for special tokens,
 * else users could forge turns. The words of "role" and "type" members count as the
 * template's. */
Q_MUST_CHECK int jinja_render_marked(const struct jinja *t, const struct jv *vars, int64_t now,
                                     const struct jinja_limits *lim, struct buf *out,
                                     struct buf *mark, bool *raised, struct err *e);

#endif
