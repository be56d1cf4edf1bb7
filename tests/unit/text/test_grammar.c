/* SPDX-License-Identifier: Apache-2.0 */
/* Which texts each kind of grammar takes, refusals by name, and masks that agree with what
 * the automaton accepts, token by token. */
#include "base/clock.h"
#include "base/num.h"
#include "tests/unit/text/grammar_kinds.h"

static bool takes(struct gmatch *m, const char *text)
{
    gmatch_reset(m);
    return gmatch_accept_bytes(m, text, strlen(text), NULL) && gmatch_can_stop(m);
}

struct kase {
    enum kind kind;
    const char *grammar;
    const char *good[6], *bad[8];
};

static const struct kase cases[] = {
    {TIGHT, /* names in order, what a model need not write is refused */
     "{\"properties\":{\"b\":{\"type\":\"integer\"},\"a\":{\"multipleOf\":0.5}},\"required\":["
     "\"a\"],\"type\":\"object\"}",
     {"{\"b\": 1, \"a\": 2.5}", "{\"a\":0.5}", "{\n  \"a\": 1\n}"},
     {"{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":2}", "{\"a\":  1}", "{\"b\":1.0,\"a\":1}", "{\"a\":1e3}",
      "{\"\\u0061\":1}", "{\"a\":0.50}", "{ }"}},
    {TIGHT, /* closing a branch of oneOf lets nothing in that two branches take */
     "{\"oneOf\":[{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]},{\"properties\":{"
     "\"b\":{\"const\":2}},\"required\":[\"b\"]}],\"type\":\"object\"}",
     {"{\"a\":1}", "{\"b\":2}"},
     {"{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":3}", "{}"}},
    {TIGHT, /* a name whose turn has not come is no name too many */
     "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"object\",\"required\":[\"name\",\"checked\"],"
     "\"properties\":{\"name\":{\"type\":\"string\"},\"checked\":{\"type\":\"boolean\"}},"
     "\"additionalProperties\":false}]}",
     {"\"a\"", "{\"name\":\"a\",\"checked\":true}"},
     {"{\"name\":\"a\"}", "{}", "{\"checked\":true}"}},
    {TIGHT, /* several speak of one object: none is closed */
     "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}}},{\"properties\":{\"b\":{"
     "\"type\":\"integer\"}}}],\"type\":\"object\"}",
     {"{\"b\":1,\"a\":2}", "{\"c\":0}"},
     {"{\"a\":\"x\"}", "{\"b\":1.5}"}},
    {TIGHT, /* a name that would be one too many is not begun */
     "{\"type\":\"object\",\"oneOf\":[{\"required\":[\"l\",\"w\"]},{\"required\":[\"r\"]}],"
     "\"properties\":{\"l\":{},\"r\":{},\"w\":{}}}",
     {"{\"l\":1,\"w\":2}", "{\"r\":1}", "{\"w\":1,\"r\":2}"},
     {"{\"l\":1,\"w\":2,", "{\"l\":1,\"w\":2,\"r\":3}", "{\"l\":1}", "{}"}},
    {TIGHT, /* digits lead to a number that fits, without an exponent */
     "{\"type\":\"integer\",\"minimum\":50,\"maximum\":69,\"multipleOf\":7}",
     {"56", "63"},
     {"4", "1", "7", "57", "56.", "0", "-", "5e1"}},
    {TIGHT,
     "{\"type\":\"number\",\"exclusiveMinimum\":-2.5,\"maximum\":0.75,\"multipleOf\":0.25}",
     {"-2.25", "0.75", "0", "-1", "0.50"},
     {"-2.5", "-3", "1", "0.8", "-2.26", "0.505", "1e0"}},
    {TIGHT, /* 1.0 is an integer too, though none is written so */
     "{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\",\"multipleOf\":0.5}]}",
     {"1.5", "-0.5"},
     {"1.0", "1", "1.2", "-2.0"}},
    {TIGHT, /* required and not declared */
     "{\"properties\":{\"a\":{}},\"required\":[\"z\"],\"type\":\"object\"}",
     {"{\"z\":[1]}", "{\"a\":1,\"z\":2}"},
     {"{\"a\":1}", "{\"z\":1,\"y\":2}"}},
    {SCHEMA, /* no white space into a wall */
     "{\"required\":[\"a\"],\"type\":\"object\"}",
     {"{\"b\": 1, \"a\": 2 }"},
     {"{\"b\": 1 "}},
    {SCHEMA,
     "{\"type\":\"integer\",\"minimum\":3,\"maximum\":12}",
     {"3", "12", "10.0"},
     {"2", "13", "30", "-3", "3.5", "1"}},
    {SCHEMA, /* numbers that differ by sign and one bit are two */
     "{\"type\":\"array\",\"uniqueItems\":true}",
     {"[-7,6]", "[7,-6]", "[8,-9]"},
     {"[-7,-7.0]", "[0,-0]"}},
    {SCHEMA, "{\"minimum\":0}", {"-0", "-0.0", "0"}, {"-1", "-0.1"}},
    {SCHEMA, /* trees hold no digits beyond 64 bits: near the bound is nothing */
     "{\"minimum\":12345678901234567890,\"maximum\":18446744073709551615}",
     {"12345678901234570000", "18446744073709540000"},
     {"12345678901234567889", "18446744073709551616"}},
    {SCHEMA,
     "{\"not\":{\"exclusiveMaximum\":12345678901234567890},\"type\":\"number\"}",
     {"12345678901234570000"},
     {"12345678901234567889", "12345678901234560000"}},
    {SCHEMA,
     "{\"type\":\"number\",\"exclusiveMaximum\":5,\"multipleOf\":0.5}",
     {"4.5", "-7", "0"},
     {"5", "4.25", "5.5"}},
    {SCHEMA,
     "{\"type\":[\"string\",\"null\"],\"minLength\":2,\"maxLength\":3}",
     {"null", "\"ab\"", "\"\\u00e9\xC3\xA9x\"", "\"\\ud83d\\ude00a\""},
     {"\"a\"", "\"abcd\"", "1", "\"\\ud83d\\ude00\"", "\"\\ud83dab\"", "\"\xC3\"", "\"a\nb\""}},
    {SCHEMA,
     "{\"type\":\"string\",\"pattern\":\"^[a-c]+(\\\\d{2})?$\"}",
     {"\"abc\"", "\"a12\"", "\"\\u0061\""},
     {"\"\"", "\"a1\"", "\"d\"", "\"a123\""}},
    {SCHEMA,
     "{\"enum\":[\"x\",1,true,null,[1,{\"a\":2}]]}",
     {"\"x\"", "1.0", "true", "null", "[1,{\"a\":2}]"},
     {"false", "2", "\"xx\"", "[1]", "[1,{}]"}},
    {SCHEMA,
     "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{}},"
     "\"required\":[\"a\"],\"additionalProperties\":false}",
     {"{\"b\":[],\"a\":1}", "{ \"a\": 1 }", "{\n  \"a\": 1\n}"},
     {"{}", "{\"a\":\"1\"}", "{\"a\":1,\"c\":2}", "{\"a\":1,\"a\":2}", "{\"a\":1,}", "{\"a\" :1}",
      "[]"}},
    {SCHEMA,
     "{\"properties\":{\"a\":{\"type\":\"string\"}},\"additionalProperties\":"
     "{\"type\":\"integer\"},\"maxProperties\":2}",
     {"{\"a\":\"x\",\"b\":1}", "7"},
     {"{\"\\u0061\":1}", "{\"b\":\"x\"}", "{\"x\":1,\"y\":2,\"z\":3}", "{\"b\":1,\"\\u0062\":2}"}},
    {SCHEMA,
     "{\"patternProperties\":{\"^n\":{\"type\":\"number\"}},\"minProperties\":1,"
     "\"propertyNames\":{\"maxLength\":2}}",
     {"{\"n1\":1}", "{\"a\":\"x\"}"},
     {"{}", "{\"n\":\"x\"}", "{\"abc\":1}"}},
    {SCHEMA,
     "{\"dependentRequired\":{\"a\":[\"b\"]},\"dependentSchemas\":{\"c\":{\"required\":"
     "[\"d\"]}}}",
     {"{}", "{\"b\":1,\"a\":1}", "{\"c\":1,\"d\":1}"},
     {"{\"a\":1}", "{\"c\":1}"}},
    {SCHEMA,
     "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"string\"}],\"items\":{\"type\":"
     "\"integer\"},\"minItems\":1,\"maxItems\":3,\"uniqueItems\":true}",
     {"[\"a\"]", "[\"a\",1,2]"},
     {"[]", "[1]", "[\"a\",1,1]", "[\"a\",1,1.0]", "[\"a\",1,2,3]"}},
    {SCHEMA,
     "{\"type\":\"array\",\"contains\":{\"const\":5},\"minContains\":2,\"maxContains\":2}",
     {"[5,1,5]"},
     {"[5]", "[5,5,5]", "[]"}},
    {SCHEMA,
     "{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":2}]}",
     {"1", "2.5", "\"x\""},
     {"3", "1.5"}},
    {SCHEMA,
     "{\"not\":{\"type\":\"string\"},\"if\":{\"type\":\"integer\"},\"then\":{\"maximum\":5},"
     "\"else\":{\"type\":\"null\"}}",
     {"4", "null"},
     {"\"x\"", "6", "true"}},
    {SCHEMA,
     "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"k\":{\"$ref\":\"#/$defs/t\"}},"
     "\"additionalProperties\":false}},\"$ref\":\"#/$defs/t\"}",
     {"{\"k\":{\"k\":{}}}"},
     {"{\"k\":{\"k\":1}}", "{\"k\":{\"j\":{}}}"}},
    {SCHEMA,
     "{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-29\""},
     {"\"2023-02-29\"", "\"2024-13-01\"", "\"24-01-01\""}},
    {REGEX, "a(b|c)*d{2,3}", {"add", "abcbddd"}, {"ad", "adddd", "xadd"}},
    {REGEX,
     "[^a-z]\xC3\xA9?",
     {"A", "\xE2\x82\xAC", "1\xC3\xA9"},
     {"a", "\xC3\xA9\xC3\xA9\xC3\xA9"}},
    {CHOICE, "[\"yes\",\"yes sir\",\"no\"]", {"yes", "yes sir", "no"}, {"ye", "yes ", "nope", ""}},
    {GBNF, "root ::= \"(\" root \")\" | [0-9]+ # digits\n", {"7", "((12))"}, {"(1", "1)", "()"}},
    {GBNF,
     "root ::= item{2,3} (\", \" item)?\nitem ::= \"a\" | \"\\x62\" |\n  \"c\"",
     {"ab", "abc", "aab, c"},
     {"a", "abca", "ab,c"}},
    {GBNF, "root ::= list\nlist ::= [a-z] list | \"\"", {"", "abcabc"}, {"a1"}},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < NUM_COUNT(cases); i++) {
        const struct kase *c = &cases[i];
        struct grammar *g;
        struct gmatch *m;
        struct err e = {0};
        if (compile(c->kind, c->grammar, NULL, &g, &e))
            fail_msg("%s: %s", c->grammar, e.msg);
        assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
        for (size_t k = 0; k < NUM_COUNT(c->good) && c->good[k]; k++)
            if (!takes(m, c->good[k]))
                fail_msg("%s does not take %s", c->grammar, c->good[k]);
        for (size_t k = 0; k < NUM_COUNT(c->bad) && c->bad[k]; k++)
            if (takes(m, c->bad[k]))
                fail_msg("%s takes %s", c->grammar, c->bad[k]);
        gmatch_close(m);
        grammar_free(g);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        enum kind kind;
        const char *text;
        int code;
        const char *says;
    } bad[] = {
        {SCHEMA, "{\"items\":{\"unevaluatedItems\":false}}", Q_EUNSUPPORTED,
         "unevaluatedItems is not supported (at #/items)"},
        {SCHEMA, "{\"$ref\":\"http://x/y\"}", Q_EUNSUPPORTED, "$ref"},
        {SCHEMA, "{\"$ref\":\"#/nowhere\"}", Q_EINVAL, "not there"},
        {SCHEMA, "{\"$ref\":\"#\"}", Q_EUNSUPPORTED, "itself"},
        {SCHEMA, "{\"type\":\"text\"}", Q_EINVAL, "type"},
        {SCHEMA, "{\"pattern\":\"(?=a)b\"}", Q_EUNSUPPORTED, "lookahead"},
        {SCHEMA, "{\"type\":\"integer\",\"enum\":[\"a\"],\"pattern\":\"[\"}", Q_EINVAL, "pattern"},
        {REGEX, "(a{1000}){1000}", Q_ENOMEM, "large"},
        {REGEX, "(.*a.{20})", Q_ENOMEM, "states"},
        {REGEX, "a\\1", Q_EUNSUPPORTED, "back reference"},
        {GBNF, "root ::= root \"a\"", Q_EINVAL, "left recursion"},
        {GBNF, "root ::= x", Q_EINVAL, "not defined"},
        {GBNF, "x ::= \"a\"", Q_EINVAL, "root"},
        {CHOICE, "[]", Q_EINVAL, "choice"},
    };
    for (size_t i = 0; i < NUM_COUNT(bad); i++) {
        struct grammar *g;
        struct err e = {0};
        int rc = compile(bad[i].kind, bad[i].text, NULL, &g, &e);
        if (rc != bad[i].code || !strstr(e.msg, bad[i].says) || g)
            fail_msg("%s: %d %s", bad[i].text, rc, e.msg);
    }
}

/* Every token: in the mask exactly when it is accepted. */
static void agree(struct gmatch *m, struct gmatch *copy, const struct grammar_vocab *v,
                  struct gmask_scratch *w, uint64_t *mask, const char *what)
{
    size_t n = 0, said = gmatch_fill_mask(m, w, mask);
    for (uint32_t id = 0; id < grammar_vocab_size(v); id++) {
        gmatch_copy(copy, m);
        bool in = mask[id / 64] >> (id % 64) & 1;
        n += in;
        if (in != gmatch_accept_token(copy, id))
            fail_msg("token %u in %s: the mask says %d", id, what, in);
    }
    assert_int_equal(n, said);
}

static void test_masks(void **state)
{
    (void)state;
    static const struct {
        enum kind kind;
        const char *grammar, *text;
    } walks[] = {
        {SCHEMA, "{\"type\":\"object\"}", "{\"a\\\": \\u00e9\": [1, \"x, y\", {}], \"b\":-1.5e3}"},
        {SCHEMA,
         "{\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":9},\"tags\":{\"type\":"
         "\"array\",\"items\":{\"type\":\"string\",\"minLength\":2},\"uniqueItems\":true},\"n\":"
         "{\"enum\":[\"one\",\"two\",12]}},\"required\":[\"name\"],\"additionalProperties\":false}",
         "{\"tags\": [\"ab\", \"abc\"], \"n\": \"two\", \"name\": \"J\xC3\xBCrgen\"}"},
        {SCHEMA, "{\"type\":\"string\",\"pattern\":\"^a.*z$\"}", "\"a quick z\""},
        {TIGHT,
         "{\"properties\":{\"id\":{\"type\":\"string\",\"pattern\":\"^[a-z \\u0001]+\\\\d*$\"},"
         "\"n\":{\"type\":\"integer\"},\"o\":{}},\"required\":[\"n\"]}",
         "{\n  \"id\": \"some \\u0001 words 12\",\n  \"n\": -12, \"o\": [\"a\", 2.5 ]}"},
        {GBNF, "root ::= [^\"]* \"\\\"\" [0-9]+", "some text\"42"},
        {REGEX, "(foo|bar)+[0-9]*", "foobar123"},
        {CHOICE, "[\"Ja\", \"Nein \\\"doch\\\"\", \"vielleicht\"]", "Nein \"doch\""},
    };
    struct err e = {0};
    struct tokenizer *t = open_vocab("ggml-vocab-gpt-2.gguf");
    struct grammar_vocab *v;
    if (!t) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    assert_int_equal(grammar_vocab_open(&v, t, &e), 0);
    tokenizer_close(t);
    uint64_t *mask = calloc(grammar_vocab_size(v) / 64 + 1, sizeof *mask);
    struct gmask_scratch *w;
    assert_int_equal(gmask_scratch_open(&w, v, &e), 0);
    for (size_t i = 0; i < NUM_COUNT(walks); i++) {
        struct grammar *g;
        struct gmatch *m, *copy;
        assert_int_equal(compile(walks[i].kind, walks[i].grammar, NULL, &g, &e), 0);
        assert_int_equal(gmatch_open(&m, g, v, &e), 0);
        assert_int_equal(gmatch_open(&copy, g, v, &e), 0);
        const char *s = walks[i].text;
        for (size_t k = 0; k < strlen(s); k++) {
            agree(m, copy, v, w, mask, s + k);
            if (!gmatch_accept_bytes(m, s + k, 1, NULL))
                fail_msg("%s stops at %s", walks[i].grammar, s + k);
        }
        assert_true(gmatch_can_stop(m));
        agree(m, copy, v, w, mask, "the end");
        gmatch_close(m);
        gmatch_close(copy);
        grammar_free(g);
    }
    free(mask);
    gmask_scratch_close(w);
    grammar_vocab_close(v);
}

/* A token that the mask allows; half of the time one with a quote, so that strings end. */
static uint32_t choose(const struct grammar_vocab *v, const uint64_t *mask, uint64_t *rng)
{
    uint32_t n = grammar_vocab_size(v), found = TOKEN_NONE;
    *rng = *rng * 6364136223846793005ULL + 1442695040888963407ULL;
    bool quote = *rng >> 60 & 1;
    for (uint32_t i = 0, id = (uint32_t)(*rng >> 33) % n; i < n; i++, id = (id + 1) % n) {
        size_t len;
        if (!(mask[id / 64] >> (id % 64) & 1))
            continue;
        const char *s = grammar_vocab_text(v, id, &len);
        if (!quote || memchr(s, '"', len))
            return id;
        found = found == TOKEN_NONE ? id : found;
    }
    return found;
}

/* Where masks take whole parts of the vocabulary: keys and strings that automata watch, lengths,
 * items that differ, schemas that exclude each other. */
static void test_random_masks(void **state)
{
    (void)state;
    static const struct {
        enum kind kind;
        const char *grammar;
    } on[] = {
        {SCHEMA, "{\"patternProperties\":{\"^[^ ]+$\":{\"type\":\"string\"},\"^x-\":{}},"
                 "\"additionalProperties\":false,\"minProperties\":3}"},
        {TIGHT, "{\"type\":\"object\",\"properties\":{\"name\":{},\"next\":{}},"
                "\"additionalProperties\":{\"type\":\"string\",\"maxLength\":7},"
                "\"minProperties\":4}"},
        {SCHEMA, "{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-z_.]{2,9}$\"},"
                 "\"minProperties\":3,\"additionalProperties\":{\"enum\":[\"a\",\"b c\"]}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":5,\"uniqueItems\":true,\"items\":"
                 "{\"type\":\"string\",\"maxLength\":2}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":5,\"uniqueItems\":true,\"items\":{\"type\":"
                 "\"object\",\"properties\":{\"k\":{\"maxLength\":1}},\"required\":[\"k\"]}}"},
        {TIGHT, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"type\":\"string\","
                "\"pattern\":\"^([a-z]|[ ])*$\"}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"type\":\"string\","
                 "\"pattern\":\"^\\\\S{3,40}$\",\"maxLength\":30}}"},
        {TIGHT, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"type\":\"string\","
                "\"format\":\"uri\"}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"format\":\"email\","
                 "\"type\":\"string\",\"maxLength\":24}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"type\":\"string\",\"oneOf\":["
                 "{\"pattern\":\"^.*[0-9]$\"},{\"maxLength\":9},{\"pattern\":\"^[A-F]+/\"}]}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"type\":\"string\",\"not\":"
                 "{\"pattern\":\"e\"},\"minLength\":3}}"},
        {SCHEMA, "{\"type\":\"array\",\"minItems\":4,\"items\":{\"type\":\"string\","
                 "\"pattern\":\"^[^\\u0400-\\u04ff]{1,33}\\u00e9?$\"}}"},
        {REGEX, "([^\"\\\\]|\\\\.){40}[\\s\\S]*"},
        {REGEX, "[^x]*x[^y]*"},
        {GBNF, "root ::= value\nvalue ::= \"[\" ws (value (\",\" ws value)*)? \"]\" | string\n"
               "string ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f] | \"\\\\\" [\"nu])* \"\\\"\"\n"
               "ws ::= [ \\t\\n]*"},
        {GBNF, "root ::= (word \" \" | \"/*\" ([^*] | \"*\" [^/])* \"*/\")+\n"
               "word ::= [a-zA-Z\\u00e0-\\u0142]+ | \"int\" | \"(\" root \")\""},
        {GBNF, "root ::= [\\u3041-\\u9fff\\n]+ [a-z]{3,9} \"\\\"\" root?"},
        {GBNF, "root ::= [a-z \"]{1,3000} [0-9]"}, /* more states than are kept */
    };
    struct err e = {0};
    struct tokenizer *t = open_vocab("ggml-vocab-phi-3.gguf"); /* bytes are tokens too */
    struct grammar_vocab *v;
    struct gmask_scratch *w;
    uint64_t rng = 7;
    if (!t) {
        printf("skipped: no vocabulary\n");
        skip();
    }
    assert_int_equal(grammar_vocab_open(&v, t, &e), 0);
    tokenizer_close(t);
    uint64_t *mask = calloc(grammar_vocab_size(v) / 64 + 1, sizeof *mask);
    assert_int_equal(gmask_scratch_open(&w, v, &e), 0);
    for (size_t i = 0; i < NUM_COUNT(on); i++) {
        struct grammar *g;
        struct gmatch *m, *copy;
        if (compile(on[i].kind, on[i].grammar, NULL, &g, &e))
            fail_msg("%s: %s", on[i].grammar, e.msg);
        assert_int_equal(gmatch_open(&m, g, v, &e), 0);
        assert_int_equal(gmatch_open(&copy, g, v, &e), 0);
        for (unsigned k = 0; k < 24 && !gmatch_finished(m); k++) {
            gmatch_fill_mask(m, w, mask);
            if (k % 2)
                agree(m, copy, v, w, mask, on[i].grammar);
            uint32_t id = choose(v, mask, &rng);
            if (id == TOKEN_NONE) {
                agree(m, copy, v, w, mask, on[i].grammar); /* a dead end it is */
                break;
            }
            if (!gmatch_accept_token(m, id))
                fail_msg("%s: token %u is refused", on[i].grammar, id);
        }
        gmatch_close(m);
        gmatch_close(copy);
        grammar_free(g);
    }
    free(mask);
    gmask_scratch_close(w);
    grammar_vocab_close(v);
}

static void test_gbnf_files(void **state)
{
    (void)state;
    static const struct {
        const char *file, *good, *bad;
    } files[] = {
        {"json.gbnf", "{\"a\": [1, true, null, \"x\"]}", "{\"a\": tru}"},
        {"json_arr.gbnf", "[\n1,\n\"a\"]", "{\"a\":1}"},
        {"list.gbnf", "- one\n- two\n", "one\n"},
        {"arithmetic.gbnf", "1 +2 = 3\n", "1 + = 3\n"},
        {"chess.gbnf", "1. e4 e5\n2. Nf3 Nc6\n", "1. z9 e5\n"},
        {"c.gbnf", "int main(int x){return x;}", "int main(int x){"},
        {"english.gbnf", "Hello", "\xE3\x81\x82"},
        {"japanese.gbnf", "\xE3\x81\x82\xE3\x81\x84", "hello"},
    };
    for (size_t i = 0; i < NUM_COUNT(files); i++) {
        char path[512], text[65536];
        struct grammar *g;
        struct gmatch *m;
        struct err e = {0};
        snprintf(path, sizeof path, "%s/grammars/%s", data_dir(), files[i].file);
        FILE *f = fopen(path, "rb");
        if (!f) {
            printf("skipped: no %s\n", path);
            skip();
        }
        size_t n = fread(text, 1, sizeof text, f);
        fclose(f);
        if (grammar_compile_gbnf(&g, text, n, &e))
            fail_msg("%s: %s", files[i].file, e.msg);
        assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
        if (!takes(m, files[i].good) || takes(m, files[i].bad))
            fail_msg("%s: wrong about its texts", files[i].file);
        gmatch_close(m);
        grammar_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_masks),      cmocka_unit_test(test_random_masks),
        cmocka_unit_test(test_gbnf_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
