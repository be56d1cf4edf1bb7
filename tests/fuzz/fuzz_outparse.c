/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a model's output: byte 0 picks the format (by name or one of a Go template's),
 * byte 1 the options and the cuts; the same bytes as a template. The
 * events must be well formed and the same for two ways to cut the text; finished arguments must
 * be JSON. */
#include "base/utf8.h"
#include "worker/text/outparse_int.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct trace {
    struct buf out, args;
    int kind;
    bool open;
    unsigned n_calls;
};

/* By the grammar alone: the tree reader also refuses lone surrogates and huge numbers. */
static bool is_json_object(const char *s, size_t n)
{
    struct ojs j;
    char out[8];
    size_t k;
    ojs_init(&j);
    if (n == 0 || s[0] != '{' || !utf8_valid(s, n, NULL))
        return false;
    for (size_t i = 0; i < n; i++) {
        enum ojs_result r = ojs_push(&j, s[i], out, &k);
        if (k != 1 || r == OJS_BAD || (r == OJS_DONE) != (i + 1 == n))
            return false;
    }
    return true;
}

static int on_event(void *ctx, const struct outparse_event *ev)
{
    struct trace *t = ctx;
    if (t->kind != (int)ev->kind)
        buf_printf(&t->out, "{%d}", (int)ev->kind);
    t->kind = (int)ev->kind;
    switch (ev->kind) {
    case OUTPARSE_CONTENT:
    case OUTPARSE_REASONING:
        if (t->open || ev->n == 0)
            abort();
        buf_put(&t->out, ev->text, ev->n);
        break;
    case OUTPARSE_CALL_BEGIN:
        if (t->open || ev->index != t->n_calls++ || !ev->name[0] || !ev->id[0])
            abort();
        t->open = true;
        buf_clear(&t->args);
        buf_puts(&t->out, ev->name);
        break;
    case OUTPARSE_CALL_ARGS:
        if (!t->open || ev->n == 0)
            abort();
        buf_put(&t->out, ev->text, ev->n);
        buf_put(&t->args, ev->text, ev->n);
        break;
    case OUTPARSE_CALL_END:
        if (!t->open || ev->raw_from >= ev->raw_to)
            abort();
        t->open = false;
        t->kind = -1;
        buf_printf(&t->out, "%d %zu %zu", ev->complete, ev->raw_from, ev->raw_to);
        if (ev->complete && !is_json_object(t->args.data, t->args.len))
            abort();
        break;
    }
    return 0;
}

static void run(struct trace *t, const char *format, const struct outparse_config *cfg,
                const char *text, size_t n, size_t step)
{
    struct outparse *p;
    struct err e;
    memset(t, 0, sizeof *t);
    t->kind = -1;
    buf_init(&t->out, 64 << 20);
    buf_init(&t->args, 64 << 20);
    if (outparse_open(&p, format, cfg, &e))
        abort();
    for (size_t i = 0; i < n; i += step)
        if (outparse_feed(p, text + i, n - i < step ? n - i : step, on_event, t))
            abort();
    if (outparse_end(p, on_event, t) || t->open)
        abort();
    outparse_close(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct jv *tools;
    static const char text[] = "[{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":"
                               "\"string\"},\"b\":{\"type\":\"integer\"}}}}]";
    struct trace one, two;
    struct err e;
    size_t n_formats = 0;
    if (!tools && jv_parse(&tools, text, sizeof text - 1, 16, &e))
        abort();
    while (outparse_format_name(n_formats))
        n_formats++;
    if (n < 2)
        return 0;
    static const char *const written[] = {"[\"<r>\",\"</r>\",\"<c>\",\"</c>\"]",
                                          "[\"\",\"\",\"[\",\"\"]",
                                          "[\"<r>\",\"<r>\",\"<r>{\",\"<\"]"};
    size_t pick = data[0] % (n_formats + 3);
    const char *format = pick < n_formats ? outparse_format_name(pick) : written[pick - n_formats];
    struct outparse_config cfg = {.tools = data[1] & 1 ? tools : NULL,
                                  .no_calls = (data[1] & 6) == 6,
                                  .no_reasoning = (data[1] & 24) == 24,
                                  .starts_reasoning = (data[1] & 96) == 96,
                                  .id_seed = 1};
    run(&one, format, &cfg, (const char *)data + 2, n - 2, n);
    run(&two, format, &cfg, (const char *)data + 2, n - 2, 1 + (size_t)data[1] / 128 * 2);
    if (one.out.len != two.out.len ||
        (one.out.len && memcmp(one.out.data, two.out.data, one.out.len) != 0))
        abort();
    outparse_detect((const char *)data, n);
    struct buf found;
    struct outparse *p;
    buf_init(&found, 1 << 16);
    if (outparse_detect_go((const char *)data, n, &found, &e) == 0) {
        if (outparse_open(&p, buf_cstr(&found), &cfg, &e))
            abort();
        outparse_close(p);
    }
    buf_fini(&found);
    buf_fini(&one.out);
    buf_fini(&one.args);
    buf_fini(&two.out);
    buf_fini(&two.args);
    return 0;
}
