/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_trace.h - what the tests of output parsers share: tools, events as text, and a check
 * that every way to cut the text gives the same. For one test program each; static state. */
#ifndef QUIRE_TEST_OUTPARSE_TRACE_H
#define QUIRE_TEST_OUTPARSE_TRACE_H

#include "base/num.h"
#include "worker/text/outparse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char TOOLS[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},"
    "\"metric\":{\"type\":\"boolean\"},\"opts\":{\"type\":\"object\"},\"zip\":{\"type\":"
    "[\"string\",\"null\"]},\"code\":{\"type\":\"string\"}}}}},"
    "{\"name\":\"now\",\"parameters\":{\"type\":\"object\",\"properties\":{}}},"
    "{\"name\":\"a.b\",\"parameters\":{}}]";

/* Events as text: {R}reasoning {C}content {K name}arguments{/} or {!} for a broken call. */
struct trace {
    struct buf out;
    int kind;
    bool open;
    char ids[4096];
};

static int on_event(void *ctx, const struct outparse_event *ev)
{
    struct trace *t = ctx;
    switch (ev->kind) {
    case OUTPARSE_CONTENT:
    case OUTPARSE_REASONING:
        assert_false(t->open);
        assert_true(ev->n > 0);
        if (t->kind != (int)ev->kind)
            buf_puts(&t->out, ev->kind == OUTPARSE_CONTENT ? "{C}" : "{R}");
        buf_put(&t->out, ev->text, ev->n);
        break;
    case OUTPARSE_CALL_BEGIN:
        assert_false(t->open);
        t->open = true;
        buf_printf(&t->out, "{K %s}", ev->name);
        if (strlen(t->ids) + strlen(ev->id) + 2 < sizeof t->ids)
            strcat(strcat(t->ids, ev->id), " ");
        break;
    case OUTPARSE_CALL_ARGS:
        assert_true(t->open && ev->n > 0);
        buf_put(&t->out, ev->text, ev->n);
        break;
    case OUTPARSE_CALL_END:
        assert_true(t->open && ev->raw_from < ev->raw_to);
        t->open = false;
        buf_puts(&t->out, ev->complete ? "{/}" : "{!}");
        break;
    }
    t->kind = (int)ev->kind;
    return 0;
}

static struct jv *tools;

static char *parse_cut(const char *format, const struct outparse_config *cfg, const char *text,
                       size_t a, size_t b, char *ids)
{
    struct outparse *p;
    struct trace t = {.kind = -1};
    struct err e = {0};
    size_t n = strlen(text), step = a == 0 && b == 0 ? 1 : n;
    buf_init(&t.out, 32 << 20);
    assert_int_equal(outparse_open(&p, format, cfg, &e), 0);
    if (step == 1) {
        for (size_t i = 0; i < n; i++)
            assert_int_equal(outparse_feed(p, text + i, 1, on_event, &t), 0);
    } else {
        assert_int_equal(outparse_feed(p, text, a, on_event, &t), 0);
        assert_int_equal(outparse_feed(p, text + a, b - a, on_event, &t), 0);
        assert_int_equal(outparse_feed(p, text + b, n - b, on_event, &t), 0);
    }
    assert_int_equal(outparse_end(p, on_event, &t), 0);
    assert_false(t.open);
    outparse_close(p);
    if (ids)
        strcpy(ids, t.ids);
    char *s = buf_take(&t.out, NULL);
    assert_non_null(s);
    return s;
}

static inline void check_cfg(const char *format, const struct outparse_config *cfg,
                             const char *text, const char *want)
{
    size_t n = strlen(text);
    char *whole = parse_cut(format, cfg, text, n, n, NULL);
    if (strcmp(whole, want) != 0)
        print_message("format %s\n text %s\n want %s\n  got %s\n", format, text, want, whole);
    assert_string_equal(whole, want);
    for (size_t a = 0; a <= n; a++)
        for (size_t b = a; b <= n; b += n > 60 ? 23 : 3) {
            char *cut = parse_cut(format, cfg, text, a, b, NULL);
            assert_string_equal(cut, whole);
            free(cut);
        }
    free(whole);
}

static inline void check(const char *format, const char *text, const char *want)
{
    struct outparse_config cfg = {.tools = tools, .id_seed = 7};
    check_cfg(format, &cfg, text, want);
}

static int setup(void **st)
{
    struct err e;
    (void)st;
    return jv_parse(&tools, TOOLS, strlen(TOOLS), 64, &e);
}

static int teardown(void **st)
{
    (void)st;
    jv_free(tools);
    return 0;
}

#endif
