/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_rig.h"

#include "base/clock.h"

#include <math.h>

#define N 16

static const struct rig_config roomy = {
    .n_ctx = 512, .n_pages = 512, .max_rows = 512, .max_seqs = 16};

static void wait_pages_free(struct engine *en)
{
    struct engine_stats st;
    uint64_t until = clock_mono_ms() + 5000;
    do {
        engine_stats(en, &st);
        if (st.pages_free == st.pages_total && st.n_running == 0 && st.n_waiting == 0)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (clock_mono_ms() < until);
    fail_msg("%u of %u pages free, %u running, %u waiting", st.pages_free, st.pages_total,
             st.n_running, st.n_waiting);
}

/* The answers that the model's definition gives, without an engine. */
static void test_greedy_is_the_models(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, roomy);
    struct ask a;
    ask_make(&a, 3, 37, 60);
    struct got *g = ask_run(r.en, &a);
    assert_int_equal(g->code, 0);
    assert_int_equal(g->n_prompt, 37);
    uint32_t tokens[100];
    memcpy(tokens, a.prompt, 37 * sizeof(uint32_t));
    for (uint32_t i = 0; i < g->n[0]; i++) {
        float logits[FAKE_VOCAB];
        fake_reference(r.stage, tokens, 37 + i, logits);
        uint32_t best = 0;
        for (uint32_t k = 1; k < FAKE_VOCAB; k++)
            if (logits[k] > logits[best])
                best = k;
        assert_int_equal(g->tokens[0][i], best);
        tokens[37 + i] = best;
    }
    bool eog = g->tokens[0][g->n[0] - 1] == FAKE_EOG;
    assert_int_equal(g->finish[0], eog ? FINISH_STOP : FINISH_LENGTH);
    assert_int_equal(g->n_completion[0], g->n[0]);
    assert_int_equal(g->text_len[0], g->n[0] - (eog ? 1 : 0));
    got_free(g);
    wait_pages_free(r.en);
    rig_close(&r);
}

static void run_together(struct rig_config c, struct got *alone[N], bool expect_preempt)
{
    struct rig r;
    struct got *g[N];
    struct err e;
    rig_open(&r, c);
    for (unsigned i = 0; i < N; i++) {
        struct ask a;
        ask_make(&a, i, 20 + 7 * i, 40 + i);
        assert_int_equal(ask_submit(r.en, &a, &g[i], &e), 0);
    }
    for (unsigned i = 0; i < N; i++) {
        got_wait_closed(g[i]);
        assert_int_equal(g[i]->code, 0);
        assert_same_answer(alone[i], g[i]);
        got_free(g[i]);
    }
    wait_pages_free(r.en);
    struct engine_stats st;
    engine_stats(r.en, &st);
    if (expect_preempt)
        assert_true(st.n_preempted > 0);
    assert_true(atomic_load(&r.stage->max_rows) <= c.max_rows);
    rig_close(&r);
}

static void test_batches_chunks_and_preemption_change_nothing(void **state)
{
    (void)state;
    struct got *alone[N];
    struct rig r;
    rig_open(&r, roomy);
    for (unsigned i = 0; i < N; i++) {
        struct ask a;
        ask_make(&a, i, 20 + 7 * i, 40 + i);
        alone[i] = ask_run(r.en, &a);
        assert_int_equal(alone[i]->code, 0);
    }
    rig_close(&r);
    struct rig_config c = roomy;
    run_together(c, alone, false);
    for (uint32_t rows = 1; rows < 100; rows = rows * 3 + 1) {
        c = roomy;
        c.max_rows = rows;
        run_together(c, alone, false);
    }
    c = roomy;
    c.max_seqs = 3;
    run_together(c, alone, false);
    /* Pages for about two sequences: everybody is preempted now and then. */
    c = roomy;
    c.n_ctx = 256;
    c.n_pages = 17;
    c.delay_us = 100;
    run_together(c, alone, true);
    c.max_rows = 5;
    run_together(c, alone, true);
    for (unsigned i = 0; i < N; i++)
        got_free(alone[i]);
}

static void test_sixteen_prompts_fill_two_steps(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.delay_us = 20000;
    c.never_eog = true;
    struct rig r;
    rig_open(&r, c);
    struct ask a, first;
    struct got *g[N], *g0;
    struct err e;
    ask_make(&first, 77, 5, 3); /* the engine is busy while the sixteen arrive */
    assert_int_equal(ask_submit(r.en, &first, &g0, &e), 0);
    for (unsigned i = 0; i < N; i++) {
        ask_make(&a, i, 64, 4);
        assert_int_equal(ask_submit(r.en, &a, &g[i], &e), 0);
    }
    for (unsigned i = 0; i < N; i++) {
        got_wait_closed(g[i]);
        assert_int_equal(g[i]->n[0], 4);
        got_free(g[i]);
    }
    got_wait_closed(g0);
    got_free(g0);
    assert_true(atomic_load(&r.stage->max_rows) > 300);
    assert_true(atomic_load(&r.stage->max_seqs) == 16);
    /* 1 to 3 for the first, 2 or 3 for 1024 rows, 3 more tokens for each. */
    assert_true(atomic_load(&r.stage->n_runs) <= 11);
    rig_close(&r);
}

static void test_cancel_frees_pages(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.delay_us = 2000;
    c.max_seqs = 2;
    c.never_eog = true;
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    struct got *g[4];
    struct err e;
    for (unsigned i = 0; i < 4; i++) { /* two run, two wait */
        ask_make(&a, i, 100, 0);
        assert_int_equal(ask_submit(r.en, &a, &g[i], &e), 0);
    }
    got_wait_tokens(g[0], 3);
    engine_cancel(r.en, g[3]->req);
    got_wait_closed(g[3]);
    assert_int_equal(g[3]->code, Q_ECANCELLED);
    assert_int_equal(g[3]->started, 0);
    pthread_mutex_lock(&g[0]->lock);
    g[0]->watch = &r.stage->n_runs; /* counted by the engine: this thread may be late */
    pthread_mutex_unlock(&g[0]->lock);
    engine_cancel(r.en, g[0]->req);
    int runs = (int)atomic_load(&r.stage->n_runs);
    got_wait_closed(g[0]);
    assert_true((int)g[0]->watched - runs <= 2);
    engine_cancel(r.en, g[0]->req); /* once more does no harm */
    engine_cancel(r.en, g[1]->req);
    engine_cancel(r.en, g[2]->req);
    for (int i = 0; i < 4; i++) {
        got_wait_closed(g[i]);
        assert_int_equal(g[i]->code, Q_ECANCELLED);
        got_free(g[i]);
    }
    wait_pages_free(r.en);
    rig_close(&r);
}

static void test_queue_is_bounded(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.delay_us = 5000;
    c.max_seqs = 1;
    c.max_waiting = 3;
    c.never_eog = true;
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    struct got *g[4], *none;
    struct err e;
    ask_make(&a, 0, 10, 0);
    assert_int_equal(ask_submit(r.en, &a, &g[0], &e), 0);
    got_wait_tokens(g[0], 1);
    for (unsigned i = 1; i < 4; i++)
        assert_int_equal(ask_submit(r.en, &a, &g[i], &e), 0);
    assert_int_equal(ask_submit(r.en, &a, &none, &e), Q_EFULL);
    assert_string_equal(e.msg, "the queue is full, try again");
    a.cfg.n_choices = 4;
    assert_int_equal(ask_submit(r.en, &a, &none, &e), Q_EFULL);
    for (int i = 0; i < 4; i++)
        engine_cancel(r.en, g[i]->req);
    for (int i = 0; i < 4; i++) {
        got_wait_closed(g[i]);
        got_free(g[i]);
    }
    wait_pages_free(r.en);
    rig_close(&r);
}

static void test_context_end(void **state)
{
    (void)state;
    struct rig_config c = {
        .n_ctx = 100, .n_pages = 7, .max_rows = 64, .max_seqs = 4, .never_eog = true};
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    struct err e;
    struct got *g;
    ask_make(&a, 1, 100, 0);
    assert_int_equal(ask_submit(r.en, &a, &g, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "prompt: "));
    assert_non_null(strstr(e.msg, "100 tokens"));
    assert_non_null(strstr(e.msg, "maximum context length is 100 tokens"));
    assert_non_null(strstr(e.msg, "exceeds the available context size"));
    ask_make(&a, 1, 99, 0);
    g = ask_run(r.en, &a);
    assert_int_equal(g->n[0], 1);
    assert_int_equal(g->finish[0], FINISH_LENGTH);
    got_free(g);
    ask_make(&a, 2, 3, 5000);
    g = ask_run(r.en, &a);
    assert_int_equal(g->n[0], 97);
    assert_int_equal(g->finish[0], FINISH_LENGTH);
    got_free(g);
    wait_pages_free(r.en);
    rig_close(&r);
}

static void test_continuation_is_the_same_stream(void **state)
{
    (void)state;
    struct rig r;
    struct rig_config c = roomy;
    c.never_eog = true;
    rig_open(&r, c);
    for (unsigned which = 0; which < 6; which++) {
        struct ask a;
        ask_make(&a, which, 30, 50);
        a.cfg.choice_base = which % 2;
        const char *stops[] = {"qqqq", "xyz"};
        a.cfg.stops = stops;
        a.cfg.n_stops = 2;
        struct got *whole = ask_run(r.en, &a);
        for (uint32_t cut = 1; cut <= whole->n[0]; cut += 7) {
            a.cfg.accepted = whole->tokens[0];
            a.cfg.n_accepted = cut;
            struct got *rest = ask_run(r.en, &a);
            assert_int_equal(rest->code, 0);
            assert_int_equal(rest->n[0], whole->n[0] - cut);
            assert_memory_equal(rest->tokens[0], whole->tokens[0] + cut, rest->n[0] * 4);
            assert_int_equal(rest->n_completion[0], whole->n[0]);
            assert_int_equal(rest->finish[0], whole->finish[0]);
            /* Its text is the tail of the whole. */
            size_t n = rest->text_len[0];
            assert_true(n <= whole->text_len[0]);
            assert_string_equal(rest->text[0], whole->text[0] + whole->text_len[0] - n);
            got_free(rest);
        }
        got_free(whole);
    }
    rig_close(&r);
}

/* Greedy text of one request, to choose stops from. */
static void test_stops(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.never_eog = true;
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    ask_make(&a, 9, 12, 40);
    struct got *base = ask_run(r.en, &a), *g;
    assert_int_equal(base->text_len[0], 40);
    char stop[4] = {0};
    memcpy(stop, base->text[0] + 10, 3);
    size_t at = (size_t)(strstr(base->text[0], stop) - base->text[0]);
    const char *stops[] = {"nothing like this", stop};
    a.cfg.stops = stops;
    a.cfg.n_stops = 2;
    a.cfg.logprobs = true;
    g = ask_run(r.en, &a);
    assert_int_equal(g->finish[0], FINISH_STOP);
    assert_string_equal(g->stop_text[0], stop);
    assert_int_equal(g->text_len[0], at);
    assert_memory_equal(g->text[0], base->text[0], at);
    assert_int_equal(g->n_completion[0], at + 3); /* tokens of the stop string count */
    assert_int_equal(g->n_lps, at);               /* but are not reported */
    got_free(g);
    /* Held text comes out at the end when no stop completes. */
    char almost[8];
    snprintf(almost, sizeof(almost), "%.2s!", base->text[0] + 38);
    stops[1] = almost;
    g = ask_run(r.en, &a);
    assert_int_equal(g->finish[0], FINISH_LENGTH);
    assert_string_equal(g->text[0], base->text[0]);
    assert_int_equal(g->n_lps, 40);
    got_free(g);
    /* min_tokens delays stop strings. */
    stops[1] = stop;
    a.cfg.min_tokens = (uint32_t)at + 4;
    g = ask_run(r.en, &a);
    assert_true(g->n_completion[0] >= at + 4);
    got_free(g);
    /* Stop tokens; ignore_eos does not touch them, min_tokens bans them. */
    a.cfg.n_stops = 0;
    a.cfg.min_tokens = 0;
    a.cfg.ignore_eos = true;
    uint32_t id = base->tokens[0][5];
    a.cfg.stop_ids = &id;
    a.cfg.n_stop_ids = 1;
    g = ask_run(r.en, &a);
    assert_int_equal(g->finish[0], FINISH_STOP);
    assert_true(g->n_completion[0] <= 6);
    assert_int_equal(g->tokens[0][g->n[0] - 1], id);
    assert_int_equal(g->text_len[0], g->n[0] - 1);
    got_free(g);
    a.cfg.min_tokens = 20;
    g = ask_run(r.en, &a);
    assert_true(g->n_completion[0] > 20 || g->finish[0] == FINISH_LENGTH);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_not_equal(g->tokens[0][i], id);
    got_free(g);
    got_free(base);
    rig_close(&r);
}

static void test_eos(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, roomy);
    struct ask a;
    int stopped = 0, went_on = 0;
    for (unsigned which = 0; which < 30; which++) {
        ask_make(&a, which, 10, 100);
        struct got *g = ask_run(r.en, &a);
        for (uint32_t i = 0; i + 1 < g->n[0]; i++)
            assert_int_not_equal(g->tokens[0][i], FAKE_EOG);
        if (g->finish[0] == FINISH_STOP) {
            stopped++;
            assert_int_equal(g->tokens[0][g->n[0] - 1], FAKE_EOG);
            assert_int_equal(g->n_completion[0], g->n[0]);
            a.cfg.ignore_eos = true;
            struct got *h = ask_run(r.en, &a);
            assert_int_equal(h->n[0], 100);
            assert_int_equal(h->finish[0], FINISH_LENGTH);
            went_on += h->tokens[0][g->n[0] - 1] == FAKE_EOG;
            got_free(h);
            a.cfg.ignore_eos = false;
            a.cfg.min_tokens = 60;
            h = ask_run(r.en, &a);
            assert_true(h->n[0] >= 60);
            got_free(h);
        }
        got_free(g);
    }
    assert_true(stopped > 5);
    assert_int_equal(went_on, stopped);
    rig_close(&r);
}

static void test_choices_differ_and_stand_alone(void **state)
{
    (void)state;
    struct rig r;
    struct rig_config c = roomy;
    c.never_eog = true;
    rig_open(&r, c);
    struct ask a;
    ask_make(&a, 1, 40, 30);
    a.cfg.n_choices = 3;
    struct got *g = ask_run(r.en, &a);
    assert_int_equal(g->code, 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(g->n[i], 30);
        a.cfg.n_choices = 1;
        a.cfg.choice_base = i;
        struct got *one = ask_run(r.en, &a);
        assert_memory_equal(one->tokens[0], g->tokens[i], 30 * 4);
        got_free(one);
        if (i)
            assert_memory_not_equal(g->tokens[0], g->tokens[i], 30 * 4);
    }
    got_free(g);
    rig_close(&r);
}

static void test_choices_share_the_prompt(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.never_eog = true;
    c.n_ctx = 400;
    c.max_rows = 60;
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    ask_make(&a, 7, 330, 20); /* 20 full pages and 10 tokens */
    a.cfg.n_choices = 4;
    struct got *whole = ask_run(r.en, &a);
    struct engine_stats st;
    engine_stats(r.en, &st);
    assert_int_equal(whole->code, 0);
    assert_int_equal(st.n_rows, 330 + 3 * 10 + 4 * 19);
    wait_pages_free(r.en);
    rig_close(&r);
    /* Scarce pages: 21 for the prompt, 2 or 3 more for each. */
    c.n_pages = 25;
    c.delay_us = 100;
    rig_open(&r, c);
    struct got *g = ask_run(r.en, &a);
    assert_int_equal(g->code, 0);
    assert_same_answer(whole, g);
    got_free(g);
    wait_pages_free(r.en);
    rig_close(&r);
    got_free(whole);
}

static void test_logprobs_and_echo(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.max_rows = 7; /* chunks */
    c.max_seqs = 4; /* and few results per step */
    c.never_eog = true;
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    ask_make(&a, 4, 25, 8);
    a.cfg.logprobs = true;
    a.cfg.top_logprobs = 3;
    a.cfg.echo = true;
    a.cfg.prompt_text = "the prompt ";
    struct got *g = ask_run(r.en, &a);
    assert_int_equal(g->code, 0);
    assert_int_equal(g->n_lps, 33);
    assert_true(isnan(g->lps[0].logprob));
    assert_int_equal(g->lps[0].token, a.prompt[0]);
    assert_memory_equal(g->text[0], "the prompt ", 11);
    assert_int_equal(g->text_len[0], 11 + 8);
    uint32_t all[33];
    memcpy(all, a.prompt, 25 * 4);
    memcpy(all + 25, g->tokens[0], 8 * 4);
    for (uint32_t i = 1; i < 33; i++) {
        float logits[FAKE_VOCAB];
        struct token_logprobs want;
        fake_reference(r.stage, all, i, logits);
        sampler_logprobs(logits, FAKE_VOCAB, all[i], 3, &want);
        assert_int_equal(g->lps[i].token, all[i]);
        assert_true(fabs(g->lps[i].logprob - want.logprob) < 1e-12);
        assert_int_equal(g->lps[i].n_top, 3);
        for (int k = 0; k < 3; k++)
            assert_int_equal(g->lps[i].top[k].token, want.top[k].token);
    }
    got_free(g);
    a.cfg.logprobs = false;
    a.cfg.top_logprobs = 0;
    g = ask_run(r.en, &a);
    assert_int_equal(g->n_lps, 0);
    assert_memory_equal(g->text[0], "the prompt ", 11);
    got_free(g);
    /* Nothing but the prompt. */
    a.cfg.logprobs = a.cfg.only_prompt = true;
    a.cfg.max_tokens = 0;
    g = ask_run(r.en, &a);
    assert_int_equal(g->code, 0);
    assert_int_equal(g->n_lps, 25);
    assert_int_equal(g->text_len[0], 11);
    assert_int_equal(g->n_completion[0], 0);
    got_free(g);
    rig_close(&r);
}

static void test_pause(void **state)
{
    (void)state;
    struct rig_config c = {.n_ctx = 256,
                           .n_pages = 16,
                           .max_rows = 64,
                           .max_seqs = 4,
                           .pause_limit_ms = 60000,
                           .never_eog = true};
    struct rig r;
    rig_open(&r, c);
    struct ask a, b;
    struct err e;
    ask_make(&a, 1, 20, 150);
    struct got *want = ask_run(r.en, &a), *g, *h;
    assert_int_equal(ask_submit(r.en, &a, &g, &e), 0);
    pthread_mutex_lock(&g->lock);
    g->pause_next = true;
    uint32_t n = g->n[0];
    pthread_mutex_unlock(&g->lock);
    got_wait_tokens(g, n + 1);
    /* Another one gets the pages of the paused one. */
    ask_make(&b, 2, 20, 230);
    h = ask_run(r.en, &b);
    assert_int_equal(h->code, 0);
    assert_int_equal(h->n[0], 230);
    got_free(h);
    pthread_mutex_lock(&g->lock);
    uint32_t stuck = g->n[0];
    pthread_mutex_unlock(&g->lock);
    assert_true(stuck < 150);
    engine_resume(r.en, g->req);
    got_wait_closed(g);
    assert_int_equal(g->code, 0);
    assert_same_answer(want, g);
    got_free(g);
    got_free(want);
    rig_close(&r);
    /* Never resumed: it fails after the limit. */
    c.pause_limit_ms = 300;
    rig_open(&r, c);
    assert_int_equal(ask_submit(r.en, &a, &g, &e), 0);
    pthread_mutex_lock(&g->lock);
    g->pause_next = true;
    pthread_mutex_unlock(&g->lock);
    got_wait_closed(g);
    assert_int_equal(g->code, Q_ETIMEOUT);
    got_free(g);
    wait_pages_free(r.en);
    rig_close(&r);
}

static void test_stop_and_failure(void **state)
{
    (void)state;
    struct rig_config c = roomy;
    c.delay_us = 1000;
    c.never_eog = true;
    struct rig r;
    rig_open(&r, c);
    struct ask a;
    struct err e;
    struct got *g, *h;
    ask_make(&a, 1, 20, 0);
    assert_int_equal(ask_submit(r.en, &a, &g, &e), 0);
    got_wait_tokens(g, 2);
    atomic_store(&r.stage->fail, 1);
    got_wait_closed(g);
    assert_int_equal(g->code, Q_EINTERNAL);
    got_free(g);
    atomic_store(&r.stage->fail, 0);
    assert_int_equal(ask_submit(r.en, &a, &g, &e), 0);
    got_wait_tokens(g, 2);
    engine_stop(r.en);
    assert_int_equal(g->closed, 1);
    assert_int_equal(g->code, Q_EUNAVAILABLE);
    assert_int_equal(ask_submit(r.en, &a, &h, &e), Q_EUNAVAILABLE);
    engine_cancel(r.en, g->req);
    rig_close(&r);
    got_free(g);
}

static void test_refusals_name_the_field(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, roomy);
    struct ask a;
    struct err e;
    struct got *g;
    static const char *const fields[] = {
        "prompt: ", "temperature: ",    "n_choices: ",       "top_logprobs: ", "min_tokens: ",
        "stop: ",   "stop_token_ids: ", "accepted_tokens: ", "prompt: "};
    const char *many[STOP_MAX + 1];
    for (size_t i = 0; i <= STOP_MAX; i++)
        many[i] = "s";
    uint32_t bad = FAKE_VOCAB;
    for (unsigned i = 0; i < 9; i++) {
        ask_make(&a, 1, 10, 20);
        switch (i) {
        case 0:
            a.cfg.n_prompt = 0;
            break;
        case 1:
            a.cfg.sampling.temperature = -1;
            break;
        case 2:
            a.cfg.n_choices = REQUEST_MAX_CHOICES + 1;
            break;
        case 3:
            a.cfg.top_logprobs = 21;
            break;
        case 4:
            a.cfg.min_tokens = 21;
            break;
        case 5:
            a.cfg.stops = many;
            a.cfg.n_stops = STOP_MAX + 1;
            break;
        case 6:
            a.cfg.stop_ids = &bad;
            a.cfg.n_stop_ids = 1;
            break;
        case 7:
            a.cfg.accepted = &bad;
            a.cfg.n_accepted = 1;
            break;
        default:
            a.prompt[3] = FAKE_VOCAB;
            break;
        }
        int rc = ask_submit(r.en, &a, &g, &e);
        assert_int_equal(rc, Q_EINVAL);
        assert_memory_equal(e.msg, fields[i], strlen(fields[i]));
    }
    wait_pages_free(r.en);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_is_the_models),
        cmocka_unit_test(test_batches_chunks_and_preemption_change_nothing),
        cmocka_unit_test(test_sixteen_prompts_fill_two_steps),
        cmocka_unit_test(test_cancel_frees_pages),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_context_end),
        cmocka_unit_test(test_continuation_is_the_same_stream),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_eos),
        cmocka_unit_test(test_choices_differ_and_stand_alone),
        cmocka_unit_test(test_choices_share_the_prompt),
        cmocka_unit_test(test_logprobs_and_echo),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_stop_and_failure),
        cmocka_unit_test(test_refusals_name_the_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
