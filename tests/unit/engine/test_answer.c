/* SPDX-License-Identifier: Apache-2.0 */
/* Answers taken apart: the same Deltas in sum wherever the text was cut, broken calls as text,
 * continuations as if there had been no break. */
#include "worker/engine/answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char TOOLS[] = "[{\"type\":\"function\",\"function\":{\"name\":\"weather\"}}]";

/* What a client would put together. */
struct seen {
    struct buf text, reasoning, calls;
    unsigned n_deltas, n_tokens;
};

static void on_delta(void *ctx, const Quire__Delta *d)
{
    struct seen *s = ctx;
    s->n_deltas++;
    s->n_tokens += (unsigned)d->n_tokens;
    assert_int_equal(d->choice, 3);
    buf_puts(&s->text, d->text);
    buf_puts(&s->reasoning, d->reasoning);
    for (size_t i = 0; i < d->n_tool_calls; i++) {
        const Quire__ToolCallDelta *t = d->tool_calls[i];
        assert_true(!*t->name == !*t->id);
        if (*t->name)
            buf_printf(&s->calls, "[%u %s %s]", t->index, t->name, t->id);
        buf_puts(&s->calls, t->arguments);
        if (*t->broken)
            buf_printf(&s->calls, "!%s!", t->broken);
    }
}

static void seen_init(struct seen *s)
{
    memset(s, 0, sizeof(*s));
    buf_init(&s->text, 1 << 20);
    buf_init(&s->reasoning, 1 << 20);
    buf_init(&s->calls, 1 << 20);
}

static void seen_fini(struct seen *s)
{
    buf_fini(&s->text);
    buf_fini(&s->reasoning);
    buf_fini(&s->calls);
}

static struct answer *open_answer(bool calls)
{
    struct err e;
    struct jv *tools;
    struct answer *a;
    assert_int_equal(jv_parse(&tools, TOOLS, strlen(TOOLS), 16, &e), 0);
    struct outparse_config cfg = {.tools = calls ? tools : NULL, .no_calls = !calls, .id_seed = 5};
    assert_int_equal(answer_open(&a, "hermes", &cfg, &e), 0);
    jv_free(tools);
    return a;
}

/* Pieces of `step` bytes; the first `silent` bytes as a continuation. */
static Quire__FinishReason take(struct seen *s, const char *text, size_t step, size_t silent,
                                bool calls, Quire__FinishReason why)
{
    struct answer *a = open_answer(calls);
    Quire__Delta d = QUIRE__DELTA__INIT;
    uint32_t token = 7;
    seen_init(s);
    if (silent > 0)
        assert_int_equal(answer_feed(a, text, silent, &d, NULL, NULL), 0);
    d.choice = 3;
    d.tokens = &token;
    d.n_tokens = 1;
    unsigned n_feeds = 0;
    for (size_t n = strlen(text), at = silent; at < n; at += step, n_feeds++) {
        unsigned before = s->n_deltas;
        size_t k = at + step < n ? step : n - at;
        assert_int_equal(answer_feed(a, text + at, k, &d, on_delta, s), 0);
        assert_true(s->n_deltas > before);
    }
    assert_int_equal(s->n_tokens, n_feeds);
    assert_int_equal(answer_end(a, 3, on_delta, s), 0);
    Quire__FinishReason r = answer_reason(a, why, false);
    answer_close(a);
    return r;
}

#define STOP  QUIRE__FINISH_REASON__FINISH_STOP
#define LEN   QUIRE__FINISH_REASON__FINISH_LENGTH
#define CALLS QUIRE__FINISH_REASON__FINISH_TOOL_CALLS

static const struct {
    const char *text, *content, *reasoning, *calls;
    bool parse_calls;
    Quire__FinishReason why, reason;
} cases[] = {
    {"Just text.", "Just text.", "", "", true, STOP, STOP},
    {"<think>\nhm\n</think>\n\nYes.", "Yes.", "hm", "", false, STOP, STOP},
    {"<think>cut", "", "cut", "", true, LEN, LEN},
    {"Look: <tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>",
     "Look:", "", "[0 weather ID]{\"city\": \"Bern\"}", true, STOP, CALLS},
    {"<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n"
     "{\"name\": \"weather\", \"arguments\": {\"a\": 1}}\n</tool_call>",
     "", "", "[0 weather ID]{}[1 weather ID]{\"a\": 1}", true, STOP, CALLS},
    {"<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>",
     "<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>", "", "", false, STOP,
     STOP},
    {"<tool_call>no call</tool_call>", "<tool_call>no call</tool_call>", "", "", true, STOP, STOP},
    {"a <tool", "a <tool", "", "", true, STOP, STOP},
    {"<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\"", "", "",
     "[0 weather ID]{\"a\"!<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\"!", true, LEN,
     LEN},
    {"<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>\n"
     "<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\"",
     "", "",
     "[0 weather ID]{}[1 weather ID]{\"a\"!<tool_call>{\"name\": \"weather\", \"arguments\": "
     "{\"a\"!",
     true, LEN, LEN},
};

/* The ids follow from the seed: 24 letters and digits after call_. */
static void mask_ids(struct buf *b)
{
    char *from = b->data, *at;
    while (from && (at = strstr(from, "call_")) && strcspn(at, "]") == 29) {
        memcpy(at, "ID", 2);
        memmove(at + 2, at + 29, strlen(at + 29) + 1);
        from = at;
    }
}

static void test_all_cuts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t step = 1; step <= strlen(cases[i].text); step++) {
            struct seen s;
            Quire__FinishReason r =
                take(&s, cases[i].text, step, 0, cases[i].parse_calls, cases[i].why);
            mask_ids(&s.calls);
            if (strcmp(buf_cstr(&s.text), cases[i].content) != 0 ||
                strcmp(buf_cstr(&s.reasoning), cases[i].reasoning) != 0 ||
                strcmp(buf_cstr(&s.calls), cases[i].calls) != 0 || r != cases[i].reason)
                fail_msg("case %zu, step %zu: '%s' '%s' '%s' %d", i, step, buf_cstr(&s.text),
                         buf_cstr(&s.reasoning), buf_cstr(&s.calls), (int)r);
            seen_fini(&s);
        }
}

static void test_continuations(void **state)
{
    (void)state;
    const char *text = cases[4].text;
    struct seen whole, rest;
    take(&whole, text, 1, 0, true, STOP);
    for (size_t from = 1; from < strlen(text); from++) {
        assert_int_equal(take(&rest, text, 1, from, true, STOP), CALLS);
        size_t n = rest.calls.len;
        assert_true(n <= whole.calls.len);
        assert_string_equal(buf_cstr(&rest.calls), buf_cstr(&whole.calls) + whole.calls.len - n);
        seen_fini(&rest);
    }
    seen_fini(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_cuts),
        cmocka_unit_test(test_continuations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
