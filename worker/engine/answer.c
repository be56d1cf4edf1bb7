/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/answer.h"

#include "base/num.h"

#include <stdlib.h>

#define MAX_RAW ((size_t)64 << 20)

struct answer {
    struct outparse *parse;
    bool keep_raw;
    struct buf raw;   /* all text so far */
    struct buf piece; /* of the present event, NUL-terminated */
    unsigned n_whole, n_broken;
    /* The Delta that goes out next, and to whom. */
    Quire__Delta d;
    bool sent;
    answer_fn *fn;
    void *ctx;
};

int answer_open(struct answer **out, const char *format, const struct outparse_config *cfg,
                struct err *e)
{
    *out = NULL;
    struct answer *a = calloc(1, sizeof(*a));
    if (!a)
        return err_set(e, Q_ENOMEM, "out of memory for an answer");
    buf_init(&a->raw, MAX_RAW);
    buf_init(&a->piece, MAX_RAW);
    a->keep_raw = !cfg->no_calls;
    int rc = outparse_open(&a->parse, format, cfg, e);
    if (rc != 0) {
        answer_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void answer_close(struct answer *a)
{
    if (!a)
        return;
    outparse_close(a->parse);
    buf_fini(&a->raw);
    buf_fini(&a->piece);
    free(a);
}

/* Tokens and log probabilities leave with the first Delta only. */
static void send_piece(struct answer *a)
{
    uint32_t choice = a->d.choice;
    if (a->fn)
        a->fn(a->ctx, &a->d);
    quire__delta__init(&a->d);
    a->d.choice = choice;
    a->sent = true;
}

static int on_piece(void *ctx, const struct outparse_event *ev)
{
    struct answer *a = ctx;
    const char *from = ev->text;
    size_t n = ev->n;
    if (ev->kind == OUTPARSE_CALL_END) {
        if (ev->complete) {
            a->n_whole++;
            return 0;
        }
        a->n_broken++;
        size_t to = NUM_MIN(ev->raw_to, a->raw.len);
        from = buf_cstr(&a->raw) + NUM_MIN(ev->raw_from, to);
        n = to - NUM_MIN(ev->raw_from, to);
    }
    buf_clear(&a->piece);
    if (n > 0 && buf_put(&a->piece, from, n) != 0)
        return Q_ENOMEM;
    char *text = (char *)(uintptr_t)buf_cstr(&a->piece);
    Quire__ToolCallDelta call = QUIRE__TOOL_CALL_DELTA__INIT, *calls = &call;
    call.index = ev->index;
    switch (ev->kind) {
    case OUTPARSE_CONTENT:
        a->d.text = text;
        break;
    case OUTPARSE_REASONING:
        a->d.reasoning = text;
        break;
    case OUTPARSE_CALL_BEGIN:
        call.id = (char *)(uintptr_t)ev->id;
        call.name = (char *)(uintptr_t)ev->name;
        break;
    case OUTPARSE_CALL_ARGS:
        call.arguments = text;
        break;
    case OUTPARSE_CALL_END:
        call.broken = text;
        break;
    }
    if (ev->kind != OUTPARSE_CONTENT && ev->kind != OUTPARSE_REASONING) {
        a->d.tool_calls = &calls;
        a->d.n_tool_calls = 1;
    }
    send_piece(a);
    return 0;
}

int answer_feed(struct answer *a, const char *text, size_t n, const Quire__Delta *d, answer_fn *fn,
                void *ctx)
{
    a->d = *d;
    a->sent = false;
    a->fn = fn;
    a->ctx = ctx;
    if (a->keep_raw && n > 0 && buf_put(&a->raw, text, n) != 0)
        return Q_ENOMEM;
    int rc = outparse_feed(a->parse, text, n, on_piece, a);
    if (rc == 0 && !a->sent)
        send_piece(a);
    return rc;
}

int answer_end(struct answer *a, uint32_t choice, answer_fn *fn, void *ctx)
{
    quire__delta__init(&a->d);
    a->d.choice = choice;
    a->fn = fn;
    a->ctx = ctx;
    return outparse_end(a->parse, on_piece, a);
}

Quire__FinishReason answer_reason(const struct answer *a, Quire__FinishReason why, bool hurried)
{
    /* A caller must not run a call that the token limit cut off, or gave its arguments. */
    bool cut = why == QUIRE__FINISH_REASON__FINISH_LENGTH && (a->n_broken > 0 || hurried);
    return a->n_whole > 0 && !cut ? QUIRE__FINISH_REASON__FINISH_TOOL_CALLS : why;
}
