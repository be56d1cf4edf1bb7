/* SPDX-License-Identifier: Apache-2.0 */
/* An answer that is cut anywhere and goes on elsewhere is shown as if it had not been cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/num.h"
#include "proto/rpc.h"
#include "supervisor/gateway/journal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_TOKENS   7
#define MAX_EVENTS 64

/* What the engine says, one line per event. Log probabilities of two tokens
 * come together with the second; tokens come in one to three Deltas. */
struct line {
    enum { STARTED, DELTA, FINISHED } kind;
    int token; /* -1: none */
    uint32_t n_logprobs;
    bool forced;
    char text[19]; /* no padding: lines are compared as bytes */
};

static size_t script(struct line *v, bool logprobs, bool echo, uint32_t from)
{
    size_t n = 0;
    v[n++] = (struct line){.kind = STARTED};
    for (int i = 0; echo && from == 0 && i < 3; i++) {
        v[n] = (struct line){.kind = DELTA, .token = -1, .n_logprobs = logprobs};
        snprintf(v[n++].text, sizeof v->text, "e%d", i);
    }
    for (uint32_t i = from; i < N_TOKENS; i++)
        for (uint32_t k = 0; k < 1 + i % 3; k++) {
            v[n] = (struct line){.kind = DELTA,
                                 .token = k ? -1 : (int)(100 + i),
                                 .n_logprobs = logprobs && k == 0 && i % 2 ? 2 : 0,
                                 .forced = k == 0 && i >= 4};
            snprintf(v[n++].text, sizeof v->text, "t%u.%u", i, k);
        }
    v[n] = (struct line){.kind = DELTA, .token = -1};
    snprintf(v[n++].text, sizeof v->text, "end");
    v[n++] = (struct line){.kind = FINISHED};
    return n;
}

static enum journal_say note(struct journal *j, const struct line *l, uint32_t choice)
{
    static Quire__TokenLogprob lp, *lps[2] = {&lp, &lp};
    uint32_t ids[3] = {1, 2, 3}, token = (uint32_t)l->token;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    Quire__Started s = QUIRE__STARTED__INIT;
    Quire__Delta d = QUIRE__DELTA__INIT;
    Quire__Finished f = QUIRE__FINISHED__INIT;
    s.n_prompt_tokens = 3;
    s.prompt_ids = ids;
    s.n_prompt_ids = 3;
    d.choice = f.choice = choice;
    d.text = (char *)(uintptr_t)l->text;
    d.tokens = &token;
    d.n_tokens = l->token >= 0;
    d.forced = l->forced;
    d.logprobs = lps;
    d.n_logprobs = l->n_logprobs;
    ev.kind_case = l->kind == STARTED ? QUIRE__GENERATE_EVENT__KIND_STARTED
                   : l->kind == DELTA ? QUIRE__GENERATE_EVENT__KIND_DELTA
                                      : QUIRE__GENERATE_EVENT__KIND_FINISHED;
    if (l->kind == STARTED)
        ev.started = &s;
    else if (l->kind == DELTA)
        ev.delta = &d;
    else
        ev.finished = &f;
    return journal_note(j, &ev);
}

struct shown {
    struct line v[MAX_EVENTS];
    size_t n;
};

/* Up to n_events of what a replica says. */
static void feed(struct journal *j, struct shown *s, const struct line *v, size_t n_events,
                 uint32_t choice)
{
    for (size_t i = 0; i < n_events; i++) {
        enum journal_say say = note(j, &v[i], choice);
        assert_int_not_equal(say, JOURNAL_DIFFERS);
        if (say == JOURNAL_SHOW)
            s->v[s->n++] = v[i];
    }
}

/* The next replica's script, after checking what it is asked. */
static size_t again(struct journal *j, struct line *v, bool logprobs, bool echo, uint32_t choice)
{
    size_t n_data;
    void *data;
    struct err e;
    if (!journal_begun(j))
        return script(v, logprobs, echo, 0);
    assert_int_equal(journal_continue(j, choice, &data, &n_data, &e), 0);
    Quire__GenerateRequest *r = (Quire__GenerateRequest *)(void *)rpc_unpack(
        &quire__generate_request__descriptor, data, n_data, 1 << 20);
    assert_non_null(r);
    assert_string_equal(r->prompt, "Once");
    assert_int_equal(r->choice_base, choice);
    assert_int_equal(r->n_choices, 1);
    assert_int_not_equal(r->unix_time, 0);
    assert_true(r->n_accepted_tokens < N_TOKENS);
    assert_int_equal(r->accepted_forced, r->n_accepted_tokens > 4);
    for (size_t i = 0; i < r->n_accepted_tokens; i++)
        assert_int_equal(r->accepted_tokens[i], 100 + i);
    size_t n = script(v, logprobs, echo, (uint32_t)r->n_accepted_tokens);
    rpc_msg_free(&r->base);
    free(data);
    return n;
}

static struct journal *open_journal(bool logprobs, uint32_t n_choices)
{
    struct journal *j;
    struct err e;
    Quire__GenerateRequest r = QUIRE__GENERATE_REQUEST__INIT;
    r.prompt = (char *)(uintptr_t) "Once";
    r.has_prompt = true;
    r.logprobs = logprobs;
    r.n_choices = n_choices;
    assert_int_equal(journal_open(&j, &r, &e), 0);
    return j;
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    struct line whole[MAX_EVENTS], second[MAX_EVENTS], third[MAX_EVENTS];
    for (int how = 0; how < 4; how++) {
        bool logprobs = how & 1, echo = how & 2;
        size_t n = script(whole, logprobs, echo, 0);
        for (size_t cut = 0; cut < n; cut++)
            for (size_t cut2 = 0; cut2 < n; cut2++) {
                struct journal *j = open_journal(logprobs, 1);
                struct shown s = {.n = 0};
                feed(j, &s, whole, cut, 0);
                size_t n2 = again(j, second, logprobs, echo, 0);
                feed(j, &s, second, NUM_MIN(cut2, n2), 0);
                if (cut2 < n2) {
                    size_t n3 = again(j, third, logprobs, echo, 0);
                    feed(j, &s, third, n3, 0);
                }
                assert_true(journal_finished(j, 0));
                assert_int_equal(s.n, n);
                assert_memory_equal(s.v, whole, n * sizeof *whole);
                journal_close(j);
            }
    }
}

/* Choices stand alone. */
static void test_choices(void **state)
{
    (void)state;
    struct line whole[MAX_EVENTS], rest[MAX_EVENTS];
    size_t n = script(whole, false, false, 0);
    struct journal *j = open_journal(false, 3);
    struct shown s[3] = {{.n = 0}};
    feed(j, &s[0], whole, n, 0);
    feed(j, &s[2], whole + 1, 5, 2);
    assert_true(journal_finished(j, 0));
    assert_int_equal(journal_n_tokens(j), N_TOKENS + 3);
    for (uint32_t k = 1; k < 3; k++) {
        assert_false(journal_finished(j, k));
        size_t n_rest = again(j, rest, false, false, k);
        feed(j, &s[k], rest, n_rest, k);
        assert_int_equal(s[k].n, n - 1);
        assert_memory_equal(s[k].v, whole + 1, s[k].n * sizeof *whole);
    }
    journal_close(j);
}

static void test_another_answer_is_noticed(void **state)
{
    (void)state;
    struct line whole[MAX_EVENTS], rest[MAX_EVENTS];
    struct shown s = {.n = 0};
    size_t n = script(whole, false, false, 0);
    /* Another token in the place of one that was told, or too few Deltas, or too many. */
    for (int how = 0; how < 3; how++) {
        struct journal *j = open_journal(false, 1);
        s.n = 0;
        feed(j, &s, whole, 7, 0); /* STARTED t0.0 t1.0 t1.1 t2.0 t2.1 t2.2 */
        again(j, rest, false, false, 0);
        enum journal_say say = JOURNAL_HIDE;
        if (how == 0)
            rest[1].token++;
        for (size_t i = 0; i < n && say == JOURNAL_HIDE; i++)
            if (how != 1 || rest[i].token >= 0 || rest[i].kind != DELTA)
                say = note(j, &rest[i], 0);
        assert_int_equal(say, how < 2 ? JOURNAL_DIFFERS : JOURNAL_SHOW);
        journal_close(j);
    }
    /* Another prompt. */
    struct journal *j = open_journal(false, 1);
    feed(j, &s, whole, 2, 0);
    Quire__Started other = QUIRE__STARTED__INIT;
    Quire__GenerateEvent ev = QUIRE__GENERATE_EVENT__INIT;
    other.n_prompt_tokens = 4;
    ev.kind_case = QUIRE__GENERATE_EVENT__KIND_STARTED;
    ev.started = &other;
    assert_int_equal(journal_note(j, &ev), JOURNAL_DIFFERS);
    journal_close(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_another_answer_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
