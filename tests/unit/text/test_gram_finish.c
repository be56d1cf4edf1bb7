/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of random tokens that are made to end within a budget: they end, and valid. */
#include "base/clock.h"
#include "base/num.h"
#include "tests/unit/text/grammar_kinds.h"
#include "worker/text/gram_finish.h"

static struct {
    struct grammar_vocab *v;
    struct gmask_scratch *w;
    uint64_t *mask;
    uint64_t rng;
    uint32_t end; /* the token that ends a text */
} T;

static int setup(void **state)
{
    (void)state;
    struct err e = {0};
    struct tokenizer *t = open_vocab("ggml-vocab-gpt-2.gguf");
    if (!t)
        return 0;
    assert_int_equal(grammar_vocab_open(&T.v, t, &e), 0);
    tokenizer_close(t);
    assert_non_null(T.v);
    assert_int_equal(gmask_scratch_open(&T.w, T.v, &e), 0);
    T.end = grammar_vocab_control(T.v, "<|endoftext|>");
    T.mask = calloc(grammar_vocab_size(T.v) / 64 + 1, sizeof *T.mask);
    assert_non_null(T.mask);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gmask_scratch_close(T.w);
    grammar_vocab_close(T.v);
    free(T.mask);
    return 0;
}

static uint64_t draw(void)
{
    T.rng = T.rng * 6364136223846793005ULL + 1442695040888963407ULL;
    return T.rng >> 33;
}

/* One of the tokens in the mask; half of the time one of the first few, which are short. */
static uint32_t any_token(size_t n)
{
    size_t k = draw() % (draw() % 2 ? n : NUM_MIN(n, (size_t)40));
    for (uint32_t i = 0;; i++) {
        uint64_t x = T.mask[i];
        size_t here = (size_t)__builtin_popcountll(x);
        if (k >= here) {
            k -= here;
            continue;
        }
        while (k-- > 0)
            x &= x - 1;
        return i * 64 + (uint32_t)__builtin_ctzll(x);
    }
}

struct run {
    struct buf text;
    bool whole, hurried;
    uint32_t used;
    uint32_t ids[512];
};

/* A text of random tokens within the budget. */
static void walk(const struct grammar *g, uint32_t budget, struct run *r)
{
    struct gmatch *m;
    struct gfinish *f;
    struct err e;
    assert_int_equal(gmatch_open(&m, g, T.v, &e), 0);
    assert_int_equal(gfinish_open(&f, g, T.v, m, budget, &e), 0);
    buf_clear(&r->text);
    r->whole = r->hurried = false;
    for (r->used = 0; r->used < budget && !r->whole;) {
        size_t n_text, n = gmatch_fill_mask(m, T.w, T.mask);
        if (n == 0)
            break; /* a dead end of the schema itself */
        uint32_t meant = any_token(n), left = budget - r->used - 1;
        uint32_t id = gfinish_pick(f, m, meant, left);
        r->hurried |= id != meant;
        r->ids[r->used % NUM_COUNT(r->ids)] = id;
        r->used++;
        if (id == T.end) {
            r->whole = true;
            break;
        }
        const char *s = grammar_vocab_text(T.v, id, &n_text);
        if (!gmatch_accept_token(m, id))
            fail_msg("token %u '%.*s' (meant: %u) behind %s with %u left", id, (int)n_text, s,
                     meant, buf_cstr(&r->text), left);
        gfinish_follow(f, m, id, left);
        assert_int_equal(buf_put(&r->text, s, n_text), 0);
        r->whole = gmatch_finished(m);
    }
    r->whole = gmatch_can_stop(m);
    gfinish_close(f);
    gmatch_close(m);
}

/* Tokens of the way that is known at the start, 0: none is. */
static uint32_t cost_of(const struct grammar *g)
{
    struct gmatch *m;
    struct gfinish *f;
    struct err e;
    uint32_t n;
    assert_int_equal(gmatch_open(&m, g, T.v, &e), 0);
    assert_int_equal(gfinish_open(&f, g, T.v, m, GFINISH_MAX, &e), 0);
    bool known = gfinish_known(f, &n);
    gfinish_close(f);
    gmatch_close(m);
    return known ? n : 0;
}

#define PERSON                                                                                     \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"tags\":{\"type\":"      \
    "\"array\",\"items\":{\"type\":\"string\",\"minLength\":2},\"uniqueItems\":true},\"n\":{"      \
    "\"enum\":[\"one\",\"two\",12]}},\"required\":[\"name\",\"n\"]}"

static void test_every_budget(void **state)
{
    (void)state;
    static const struct {
        enum kind kind;
        const char *grammar;
        uint32_t most; /* tokens of the shortest text at most */
    } cases[] = {
        {TIGHT, "{\"type\":\"object\"}", 2},
        {TIGHT, PERSON, 10},
        {TIGHT, "{\"type\":\"string\",\"pattern\":\"^a.*z[0-9]{3}$\"}", 7},
        {TIGHT, "{\"type\":\"number\",\"minimum\":1500,\"multipleOf\":7}", 6},
        {TIGHT, "{\"type\":\"number\",\"exclusiveMinimum\":0,\"maximum\":0.3}", 4},
        {TIGHT,
         "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"required\":[\"k\"],"
         "\"properties\":{\"k\":{\"anyOf\":[{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}"
         ",\"minItems\":1},{\"type\":\"integer\"}]}}}}}",
         7},
        {TIGHT,
         "{\"type\":\"array\",\"minItems\":3,\"uniqueItems\":true,\"items\":{\"type\":\"object\","
         "\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}}",
         25},
        {TIGHT,
         "{\"oneOf\":[{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]},{\"properties\":"
         "{\"bb\":{\"const\":2}},\"required\":[\"bb\"]}],\"type\":\"object\"}",
         6},
        {TIGHT,
         "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},\"minProperties\":"
         "3}",
         16},
        {TIGHT, "{\"type\":\"array\",\"contains\":{\"const\":\"needle\"},\"minItems\":2}", 9},
        {TIGHT, /* what must be there is said by what must not */
         "{\"type\":\"object\",\"not\":{\"patternProperties\":{\"^key\":{\"not\":{\"type\":"
         "\"object\",\"not\":{\"additionalProperties\":{\"not\":{\"type\":\"string\","
         "\"pattern\":\"^x[0-9]\"}}}}}}}}",
         16},
        {TIGHT, "{\"const\":{\"\\u00e9\\n\\\"\":[null,true,\"\\ud83d\\ude00\"]}}", 20},
        {GBNF, "root ::= [^\"]* \"\\\"\" [0-9]+ x\nx ::= \"(\" x \")\" | \"end\"", 4},
        {REGEX, "(foo|bar)+[0-9]{2,}(\\.|stop)", 5},
        {CHOICE, "[\"yes, of course\",\"no, of course not\"]", 5},
        {TOOLS, "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":" PERSON "}}]",
         40},
    };
    if (!T.v) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    struct run r = {.used = 0};
    unsigned hurried = 0;
    buf_init(&r.text, 1 << 20);
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        struct grammar *g;
        struct err e = {0};
        if (compile(cases[i].kind, cases[i].grammar, T.v, &g, &e))
            fail_msg("%s: %s", cases[i].grammar, e.msg);
        uint32_t least = cost_of(g);
        if (least == 0 || least > cases[i].most)
            fail_msg("%s: the shortest text has %u tokens", cases[i].grammar, least);
        for (uint32_t budget = least; budget < least + 24; budget += 1 + budget % 3) {
            for (unsigned seed = 0; seed < 3; seed++) {
                T.rng = budget * 100 + seed;
                walk(g, budget, &r);
                hurried += r.hurried;
                if (!r.whole)
                    fail_msg("%s: %u tokens end at %s", cases[i].grammar, budget,
                             buf_cstr(&r.text));
            }
        }
        grammar_free(g);
    }
    assert_true(hurried > 100);
    buf_fini(&r.text);
}

/* The tokens alone say what comes: a matcher that follows them chooses as the first did. */
static void test_replay(void **state)
{
    (void)state;
    struct grammar *g;
    struct gmatch *m;
    struct gfinish *f;
    struct err e = {0};
    struct run r = {.used = 0};
    if (!T.v)
        skip();
    buf_init(&r.text, 1 << 20);
    assert_int_equal(compile(TIGHT, PERSON, NULL, &g, &e), 0);
    for (unsigned seed = 0; seed < 40; seed++) {
        T.rng = seed;
        uint32_t budget = 12 + seed;
        walk(g, budget, &r);
        for (uint32_t cut = 0; cut < r.used; cut += 3) {
            assert_int_equal(gmatch_open(&m, g, T.v, &e), 0);
            assert_int_equal(gfinish_open(&f, g, T.v, m, budget, &e), 0);
            for (uint32_t i = 0; i < r.used; i++) {
                /* Before the cut tokens are only followed. */
                if (i >= cut)
                    assert_int_equal(gfinish_pick(f, m, r.ids[i], budget - i - 1), r.ids[i]);
                assert_true(gmatch_accept_token(m, r.ids[i]));
                gfinish_follow(f, m, r.ids[i], budget - i - 1);
            }
            gfinish_close(f);
            gmatch_close(m);
        }
    }
    buf_fini(&r.text);
    grammar_free(g);
}

static void test_maskbench(void **state)
{
    (void)state;
    const struct grammar_options tight = {.closed = true, .tight = true};
    char path[512], *line = NULL;
    size_t cap = 0;
    ssize_t n;
    unsigned schemas = 0, no_way = 0, cut = 0;
    struct run r = {.used = 0};
    snprintf(path, sizeof path, "%s/json-schema/maskbench-dev.jsonl", data_dir());
    FILE *in = T.v ? fopen(path, "r") : NULL;
    if (!in) {
        printf("skipped: no %s\n", path);
        skip();
    }
    buf_init(&r.text, 1 << 20);
    while ((n = getline(&line, &cap, in)) > 0) {
        struct jv *v;
        struct grammar *g;
        struct err e = {0};
        if (jv_parse(&v, line, (size_t)n, 128, &e))
            continue;
        const char *name = jv_str(jv_get(v, "source"), "?");
        if (grammar_compile_schema(&g, jv_get(v, "schema"), &tight, &e)) {
            jv_free(v);
            continue;
        }
        /* What a model may write is less than what is valid: judge by all of it. */
        struct grammar *all;
        struct gmatch *judge;
        assert_int_equal(grammar_compile_schema(&all, jv_get(v, "schema"), NULL, &e), 0);
        assert_int_equal(gmatch_open(&judge, all, NULL, &e), 0);
        uint32_t least = cost_of(g);
        schemas++;
        no_way += least == 0;
        if (least == 0)
            printf("no way to the end: %s\n", name);
        for (uint32_t more = 0; least && more < 3; more++) {
            T.rng = schemas * 10 + more;
            walk(g, least + more * 15, &r);
            cut += !r.whole;
            if (!r.whole)
                printf("cut: %s: %.300s\n", name, buf_cstr(&r.text));
            gmatch_reset(judge);
            if (r.whole && !(gmatch_accept_bytes(judge, buf_cstr(&r.text), r.text.len, NULL) &&
                             gmatch_can_stop(judge)))
                fail_msg("%s: invalid: %s", name, buf_cstr(&r.text));
        }
        gmatch_close(judge);
        grammar_free(all);
        grammar_free(g);
        jv_free(v);
    }
    free(line);
    fclose(in);
    buf_fini(&r.text);
    printf("%u schemas, %u without a way, %u texts cut\n", schemas, no_way, cut);
    assert_true(schemas > 200);
    assert_int_equal(no_way, 0);
    assert_int_equal(cut, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_budget),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_maskbench),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
