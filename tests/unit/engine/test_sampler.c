/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define V 50

static float logits[V];
static struct sampler *smp;

static const struct sampler_params plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static uint64_t rnd_state = 88172645463325252u;

static double rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return (double)(rnd_state >> 11) * 0x1p-53;
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < V; i++)
        logits[i] = (float)(6 * rnd() - 3);
    return sampler_open(&smp, V, NULL);
}

static int teardown(void **state)
{
    (void)state;
    sampler_close(smp);
    return 0;
}

static uint32_t pick(const struct sampler_params *p, uint32_t position)
{
    struct sampler_input in = {.logits = logits, .position = position};
    return sampler_pick(smp, p, &in);
}

/* Closed form: what the filters leave, by sorting. */
static void expected(const struct sampler_params *p, double prob[V])
{
    int order[V];
    double e[V], total = 0, max = -1e9;
    for (int i = 0; i < V; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (int i = 0; i < V; i++) {
        order[i] = i;
        e[i] = exp(((double)logits[i] - max) / p->temperature);
        if (e[i] < p->min_p)
            e[i] = 0;
    }
    for (int i = 1; i < V; i++) /* stable, so lower ids come first among equals */
        for (int j = i; j > 0 && e[order[j]] > e[order[j - 1]]; j--) {
            int t = order[j];
            order[j] = order[j - 1];
            order[j - 1] = t;
        }
    int n = p->top_k && p->top_k < V ? (int)p->top_k : V;
    for (int i = 0; i < n; i++)
        total += e[order[i]];
    double mass = 0;
    int kept = 0;
    while (kept < n && e[order[kept]] > 0) {
        mass += e[order[kept++]];
        if (mass >= p->top_p * total)
            break;
    }
    memset(prob, 0, V * sizeof(*prob));
    for (int i = 0; i < kept; i++)
        prob[order[i]] = e[order[i]] / mass;
}

static void check_distribution(const struct sampler_params *base)
{
    enum { DRAWS = 60000 };
    double prob[V];
    int hits[V] = {0};
    expected(base, prob);
    struct sampler_params p = *base;
    for (uint32_t i = 0; i < DRAWS; i++) {
        p.seed = i / 1000;
        hits[pick(&p, i % 1000)]++;
    }
    double chi2 = 0;
    int cells = 0;
    for (int i = 0; i < V; i++) {
        if (prob[i] <= 0) {
            assert_int_equal(hits[i], 0);
            continue;
        }
        double want = prob[i] * DRAWS, d = hits[i] - want;
        if (want >= 5) {
            chi2 += d * d / want;
            cells++;
        }
    }
    /* Five standard deviations above the mean of chi squared. */
    assert_true(chi2 < cells + 5 * sqrt(2.0 * cells) + 10);
}

static void test_distributions(void **state)
{
    (void)state;
    struct sampler_params p = plain;
    check_distribution(&p);
    p.temperature = 0.6;
    check_distribution(&p);
    p.temperature = 1.7;
    p.top_k = 7;
    check_distribution(&p);
    p.top_k = 0;
    p.top_p = 0.8;
    check_distribution(&p);
    p.top_k = 12;
    p.top_p = 0.6;
    check_distribution(&p);
    p = plain;
    p.min_p = 0.2;
    check_distribution(&p);
    p.top_k = 9;
    p.top_p = 0.9;
    check_distribution(&p);
}

static void test_edges(void **state)
{
    (void)state;
    uint32_t best = 0;
    for (uint32_t i = 1; i < V; i++)
        if (logits[i] > logits[best])
            best = i;
    struct sampler_params p = plain;
    p.temperature = 0;
    assert_int_equal(pick(&p, 0), best);
    for (uint32_t i = 0; i < 200; i++) {
        p = plain;
        p.top_k = 1;
        assert_int_equal(pick(&p, i), best);
        p.top_k = 0;
        p.top_p = 0;
        assert_int_equal(pick(&p, i), best);
        p.top_p = 1;
        p.min_p = 1;
        assert_int_equal(pick(&p, i), best);
        p = plain;
        p.temperature = 1e-9;
        assert_int_equal(pick(&p, i), best);
        p.temperature = 0.001;
        assert_int_equal(pick(&p, i), best);
    }
    p = plain;
    p.top_k = V + 100;
    check_distribution(&(struct sampler_params){
        .temperature = 1, .top_p = 1, .top_k = V + 100, .repetition_penalty = 1});
    /* Ties: the lowest id, also at the border of top-k and top-p. */
    for (int i = 0; i < V; i++)
        logits[i] = 1;
    p = plain;
    p.temperature = 0;
    assert_int_equal(pick(&p, 0), 0);
    p = plain;
    p.top_k = 3;
    for (uint32_t i = 0; i < 300; i++)
        assert_true(pick(&p, i) < 3);
    p.top_k = 0;
    p.top_p = 0.0999;
    for (uint32_t i = 0; i < 300; i++)
        assert_true(pick(&p, i) < 5);
}

static void test_odd_logits(void **state)
{
    (void)state;
    struct sampler_params p = plain;
    for (int i = 0; i < V; i++)
        logits[i] = NAN;
    assert_int_equal(pick(&p, 0), 0);
    for (int i = 0; i < V; i++)
        logits[i] = -INFINITY;
    assert_int_equal(pick(&p, 0), 0);
    logits[7] = 2;
    logits[9] = NAN;
    assert_int_equal(pick(&p, 0), 7);
    logits[11] = INFINITY;
    assert_int_equal(pick(&p, 0), 11);
    logits[11] = -1e30f;
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(pick(&p, i), 7);
}

static void test_seeds(void **state)
{
    (void)state;
    struct sampler_params p = plain;
    uint32_t a[64], same_seed = 0, same_choice = 0, same_order = 0;
    for (uint32_t i = 0; i < 64; i++) {
        p.seed = 42;
        a[i] = pick(&p, i);
    }
    for (uint32_t i = 64; i-- > 0;) { /* any order of calls */
        same_order += pick(&p, i) == a[i];
        struct sampler_input in = {.logits = logits, .position = i, .choice = 1};
        same_choice += sampler_pick(smp, &p, &in) == a[i];
        struct sampler_params q = p;
        q.seed = 43;
        same_seed += pick(&q, i) == a[i];
    }
    assert_int_equal(same_order, 64);
    assert_true(same_choice < 30);
    assert_true(same_seed < 30);
    double sum = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        double u = sampler_uniform(7, i % 3, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
}

static uint32_t pick_history(const struct sampler_params *p, const uint32_t *tokens, size_t n,
                             size_t n_prompt)
{
    struct sampler_input in = {
        .logits = logits, .tokens = tokens, .n_tokens = n, .n_prompt = n_prompt};
    return sampler_pick(smp, p, &in);
}

static void test_penalties(void **state)
{
    (void)state;
    struct sampler_params p = plain;
    p.temperature = 0;
    for (int i = 0; i < V; i++)
        logits[i] = -5;
    logits[3] = 4;
    logits[4] = 3;
    logits[5] = 2;
    uint32_t history[] = {3, 3, 4, 4, 4, 60}; /* 60 lies outside and is ignored */
    assert_int_equal(pick_history(&p, history, 6, 2), 3);
    /* Repetition: once per token, prompt too: 4/2 = 2, 3/2 = 1.5, 2 stays: tie to the lower. */
    p.repetition_penalty = 2;
    assert_int_equal(pick_history(&p, history, 6, 2), 3);
    p.repetition_penalty = 2.01;
    assert_int_equal(pick_history(&p, history, 6, 2), 5);
    /* Negative logits are multiplied. */
    for (int i = 0; i < V; i++)
        logits[i] = -5;
    logits[3] = -2;
    logits[5] = -3;
    p.repetition_penalty = 1.6;
    assert_int_equal(pick_history(&p, history, 1, 1), 5);
    /* Presence and frequency: generated tokens only. */
    p = plain;
    p.temperature = 0;
    logits[3] = 4;
    logits[4] = 3.5f;
    logits[5] = 2.1f;
    p.presence_penalty = 2;
    assert_int_equal(pick_history(&p, history, 2, 2), 3);
    assert_int_equal(pick_history(&p, history, 5, 0), 5); /* 2, 1.5, 2.1 */
    assert_int_equal(pick_history(&p, history, 5, 2), 3); /* 4, 1.5, 2.1 */
    p.presence_penalty = 0;
    p.frequency_penalty = 0.5;
    assert_int_equal(pick_history(&p, history, 5, 0), 3); /* 3, 2, 2.1 */
    p.frequency_penalty = 1;
    assert_int_equal(pick_history(&p, history, 5, 0), 5); /* 2, 0.5, 2.1 */
    /* Negative penalties encourage; nothing of all that was left behind. */
    p.frequency_penalty = -1;
    assert_int_equal(pick_history(&p, history, 5, 0), 4); /* 6, 6.5, 2.1 */
    p.frequency_penalty = 0;
    assert_int_equal(pick_history(&p, history, 5, 0), 3);
}

static void test_bias_and_bans(void **state)
{
    (void)state;
    struct sampler_bias bias[] = {{10, -100}, {11, 100}};
    struct sampler_params p = plain;
    for (int i = 0; i < V; i++)
        logits[i] = 0;
    logits[10] = 1000;
    logits[11] = -1000;
    p.bias = bias;
    p.n_bias = 1;
    for (uint32_t i = 0; i < 200; i++)
        assert_int_not_equal(pick(&p, i), 10);
    p.n_bias = 2;
    for (uint32_t i = 0; i < 200; i++)
        assert_int_equal(pick(&p, i), 11);
    uint32_t banned[] = {11, 12, 900};
    struct sampler_input in = {.logits = logits, .banned = banned, .n_banned = 3};
    for (in.position = 0; in.position < 300; in.position++) {
        uint32_t t = sampler_pick(smp, &p, &in);
        assert_true(t != 10 && t != 11 && t != 12);
    }
}

static void test_logprobs(void **state)
{
    (void)state;
    double sum = 0, total = 0;
    for (int i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    struct token_logprobs lp;
    for (uint32_t t = 0; t < V; t++) {
        sampler_logprobs(logits, V, t, 0, &lp);
        assert_int_equal(lp.token, t);
        assert_int_equal(lp.n_top, 0);
        assert_true(fabs(lp.logprob - ((double)logits[t] - log(sum))) < 1e-12);
        total += exp(lp.logprob);
    }
    assert_true(fabs(total - 1) < 1e-12);
    logits[20] = logits[30]; /* a tie */
    sampler_logprobs(logits, V, 5, 20, &lp);
    assert_int_equal(lp.n_top, 20);
    for (uint32_t i = 1; i < 20; i++) {
        float a = logits[lp.top[i - 1].token], b = logits[lp.top[i].token];
        assert_true(a > b || (a >= b && lp.top[i - 1].token < lp.top[i].token));
    }
    uint32_t better = 0;
    for (uint32_t i = 0; i < V; i++)
        better += logits[i] > logits[lp.top[19].token];
    assert_true(better <= 19);
    logits[0] = -INFINITY;
    sampler_logprobs(logits, V, 0, 1, &lp);
    assert_true(lp.logprob <= SAMPLER_MIN_LOGPROB && lp.logprob >= SAMPLER_MIN_LOGPROB);
}

static void test_check_names_the_field(void **state)
{
    (void)state;
    struct err e;
    struct sampler_params p = plain;
    assert_int_equal(sampler_check(&p, V, &e), 0);
    p.temperature = NAN;
    assert_int_equal(sampler_check(&p, V, &e), Q_EINVAL);
    assert_memory_equal(e.msg, "temperature: ", 13);
    p = plain;
    p.top_p = 1.1;
    assert_int_equal(sampler_check(&p, V, &e), Q_EINVAL);
    assert_memory_equal(e.msg, "top_p: ", 7);
    p = plain;
    p.repetition_penalty = 0;
    assert_int_equal(sampler_check(&p, V, &e), Q_EINVAL);
    p = plain;
    struct sampler_bias bias = {V, 1};
    p.bias = &bias;
    p.n_bias = 1;
    assert_int_equal(sampler_check(&p, V, &e), Q_EINVAL);
    assert_memory_equal(e.msg, "logit_bias: ", 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_distributions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_edges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_logits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seeds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_penalties, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bias_and_bans, setup, teardown),
        cmocka_unit_test_setup_teardown(test_logprobs, setup, teardown),
        cmocka_unit_test(test_check_names_the_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
