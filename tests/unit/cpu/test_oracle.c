/* SPDX-License-Identifier: Apache-2.0 */
/* Logits and greedy tokens against reference results of other implementations. */
#include "tests/unit/cpu/harness.h"

#define MAX_TOKENS 1024U
#define PAGES      128U

static uint32_t pages[PAGES];

static struct jv *expected(const char *rel)
{
    struct jv *v = NULL;
    struct err e = {0};
    char *path = h_data(rel);
    if (!path) {
        printf("no test data: %s\n", rel);
        return NULL;
    }
    int rc = jv_parse_file(&v, path, 32U << 20, &e);
    if (rc)
        fail_msg("%s: %s", path, e.msg);
    free(path);
    return v;
}

static bool open_data(struct h_run *r, const char *rel, enum kv_type kv, uint32_t threads)
{
    struct h_config c = {.n_threads = threads, .max_rows = 128, .n_pages = PAGES, .kv = kv};
    char *path = h_data(rel);
    if (!path) {
        printf("no test data: %s\n", rel);
        return false;
    }
    h_open(r, path, &c);
    free(path);
    return true;
}

/* Continue greedily from the logits of the last prompt token; the number of equal tokens. */
static uint32_t greedy(struct h_run *r, uint32_t n_prompt, float *logits, const struct jv *want,
                       const struct jv *margins, double min_margin)
{
    uint32_t n = (uint32_t)jv_len(want), i;
    for (i = 0; i < n; i++) {
        uint32_t token = h_argmax(logits, r->n_vocab);
        if ((int64_t)token != jv_int(jv_at(want, i), -1)) {
            /* A close call may go the other way when activations are rounded. */
            if (margins && jv_num(jv_at(margins, i), 0) < min_margin)
                return n;
            return i;
        }
        if (i + 1 < n)
            h_feed(r, &token, 1, n_prompt + i, pages, 128, false, logits);
    }
    return n;
}

static void one_arch(const char *name, enum kv_type kv, double tolerance)
{
    char rel[256];
    struct h_run r;
    snprintf(rel, sizeof(rel), "oracle/arch/%s/expected.json", name);
    struct jv *want = expected(rel);
    snprintf(rel, sizeof(rel), "oracle/arch/%s/model.gguf", name);
    if (!want || !open_data(&r, rel, kv, 2))
        skip();
    float *logits = malloc((size_t)MAX_TOKENS * r.n_vocab * sizeof(float));
    assert_non_null(logits);
    const struct jv *prompts = jv_get(want, "prompts");
    assert_true(jv_len(prompts) > 0);
    for (size_t i = 0; i < jv_len(prompts); i++) {
        const struct jv *p = jv_at(prompts, i);
        uint32_t tokens[MAX_TOKENS];
        uint32_t n = h_ids(jv_get(p, "tokens"), tokens, MAX_TOKENS);
        double range = jv_num(jv_get(p, "logits_range"), 0);
        h_feed(&r, tokens, n, 0, pages, 128, false, logits);
        double diff = h_diff(logits, jv_get(p, "logits_last"));
        printf("%s kv %d prompt %u: %.2g of the range\n", name, kv, n, diff / range);
        if (!(diff <= tolerance * range))
            fail_msg("%s prompt %u: logits differ by %g of the range", name, n, diff / range);
        const struct jv *g = jv_get(p, "greedy");
        uint32_t same = greedy(&r, n, logits, g, NULL, 0);
        if (kv != KV_Q8_0)
            assert_int_equal(same, jv_len(g));
    }
    free(logits);
    h_close(&r);
    jv_free(want);
}

static const char *const arch_list[] = {
    "llama",       "llama_tied_bias", "llama3_rope", "llama_linear_rope", "llama_yarn", "mistral",
    "mistral_swa", "qwen2",           "qwen3"};

static void test_archs_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(arch_list) / sizeof(*arch_list); i++)
        one_arch(arch_list[i], KV_F32, 2e-4);
}

static void test_archs_f16(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(arch_list) / sizeof(*arch_list); i++)
        one_arch(arch_list[i], KV_F16, 2e-3);
}

/* 8-bit keys and values: logits stay near; greedy text tips where random weights make it close. */
static void test_archs_q8(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(arch_list) / sizeof(*arch_list); i++)
        one_arch(arch_list[i], KV_Q8_0, 3e-2);
}

static void test_quants(void **state)
{
    static const char *const types[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0",
                                        "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "mixed-Q4_K_M"};
    (void)state;
    struct jv *want = expected("oracle/quants/expected.json");
    if (!want)
        skip();
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        char rel[128];
        struct h_run r;
        snprintf(rel, sizeof(rel), "oracle/quants/%s.gguf", types[i]);
        if (!open_data(&r, rel, KV_F32, 2))
            skip();
        float *logits = malloc(r.n_vocab * sizeof(float));
        assert_non_null(logits);
        const struct jv *prompts = jv_get(jv_get(jv_get(want, "types"), types[i]), "prompts");
        bool plain = i < 3;
        assert_true(jv_len(prompts) > 0);
        for (size_t k = 0; k < jv_len(prompts); k++) {
            const struct jv *p = jv_at(prompts, k);
            uint32_t tokens[MAX_TOKENS];
            uint32_t n = h_ids(jv_get(p, "tokens"), tokens, MAX_TOKENS);
            double range = jv_num(jv_get(p, "logits_range"), 0);
            double limit = 2e-4 * range;
            if (!plain)
                limit = 2 * jv_num(jv_get(p, "llama_cpp_error"), 0);
            h_feed(&r, tokens, n, 0, pages, 128, false, logits);
            double diff = h_diff(logits, jv_get(p, "logits_exact"));
            printf("%s prompt %u: %.2g of the range, limit %.2g\n", types[i], n, diff / range,
                   limit / range);
            if (!(diff <= limit))
                fail_msg("%s: logits differ by %g, limit %g", types[i], diff, limit);
            const struct jv *g = jv_get(p, "greedy_exact");
            if (plain)
                assert_int_equal(greedy(&r, n, logits, g, NULL, 0), jv_len(g));
        }
        free(logits);
        h_close(&r);
    }
    jv_free(want);
}

/* A trained model: prompts continued greedily, and the first step's logits. Returns the runs that
 * are equal; those whose closest step had a margin below min_margin count as equal. */
static uint32_t trained(const char *model, enum kv_type kv, const struct jv *cases,
                        const char *logits_key, double tolerance, double min_margin,
                        uint32_t *n_cases)
{
    struct h_run r;
    uint32_t equal = 0;
    if (!open_data(&r, model, kv, 2))
        skip();
    float *logits = malloc(r.n_vocab * sizeof(float));
    assert_non_null(logits);
    *n_cases = (uint32_t)jv_len(cases);
    assert_true(*n_cases > 0);
    for (uint32_t i = 0; i < *n_cases; i++) {
        const struct jv *c = jv_at(cases, i);
        uint32_t tokens[MAX_TOKENS];
        uint32_t n = h_ids(jv_get(c, "prompt_tokens"), tokens, MAX_TOKENS);
        h_feed(&r, tokens, n, 0, pages, 128, false, logits);
        const struct jv *first = jv_get(c, logits_key);
        double lo = 1e30, hi = -1e30, diff = h_diff(logits, first);
        for (size_t k = 0; k < jv_len(first); k++) {
            lo = fmin(lo, jv_num(jv_at(first, k), 0));
            hi = fmax(hi, jv_num(jv_at(first, k), 0));
        }
        const struct jv *g = jv_get(c, "tokens");
        uint32_t same = greedy(&r, n, logits, g, NULL, 0);
        printf("%s case %u: %.2g of the range, %u of %zu tokens\n", model, i, diff / (hi - lo),
               same, jv_len(g));
        if (!(diff <= tolerance * (hi - lo)))
            fail_msg("%s case %u: logits differ by %g of the range", model, i, diff / (hi - lo));
        equal += same == jv_len(g) || jv_num(jv_get(c, "min_top1_top2_margin"), 0) < min_margin;
    }
    free(logits);
    h_close(&r);
    return equal;
}

static void test_story(void **state)
{
    uint32_t n;
    (void)state;
    struct jv *want = expected("models/story/expected.json");
    if (!want)
        skip();
    const struct jv *f16 = jv_get(jv_get(want, "F16"), "greedy");
    assert_int_equal(
        trained("models/story/story-F16.gguf", KV_F16, f16, "logits_first_step", 2e-3, 0, &n),
        jv_len(f16));
    assert_true(trained("models/story/story-F16.gguf", KV_Q8_0, f16, "logits_first_step", 1e-2, 0,
                        &n) >= jv_len(f16) - 1);
    /* Activations are rounded to 8 bits: a close step may tip a run. */
    const struct jv *q8 = jv_get(jv_get(want, "Q8_0"), "greedy");
    assert_int_equal(
        trained("models/story/story-Q8_0.gguf", KV_F16, q8, "logits_first_step", 5e-3, 0.03, &n),
        jv_len(q8));
    jv_free(want);
}

static void test_stories260k(void **state)
{
    uint32_t n;
    (void)state;
    struct jv *want = expected("models/stories260K/expected.json");
    if (!want)
        skip();
    const struct jv *g = jv_get(want, "greedy");
    assert_int_equal(
        trained("models/stories260K/stories260K.gguf", KV_F16, g, "first_step_logits", 2e-3, 0, &n),
        jv_len(g));
    jv_free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_archs_f32), cmocka_unit_test(test_archs_f16),
        cmocka_unit_test(test_archs_q8),  cmocka_unit_test(test_quants),
        cmocka_unit_test(test_story),     cmocka_unit_test(test_stories260k),
    };
    for (uint32_t i = 0; i < PAGES; i++)
        pages[i] = (i * 37 + 5) % PAGES; /* scattered on purpose; 37 and 128 are coprime */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
