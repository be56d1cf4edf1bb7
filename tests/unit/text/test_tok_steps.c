/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile texts take steps in proportion to their length: characters looked at, states of an
 * expression, pairs weighed. Counted, not timed: the sources are compiled here once more with a
 * counter in their calls. */
#include "worker/text/tok_impl.h"

#include "worker/text/tok_regex.h"
#include "worker/text/tok_unicode.h"

static size_t steps;

static inline struct uni_char counted_next(const char *s, size_t n)
{
    steps++;
    return uni_next(s, n);
}

static uint32_t counted_match(const struct tokenizer *t, const struct tok_special *set,
                              const char *s, size_t n, bool control, size_t *len)
{
    uint32_t id = tok_special_match(t, set, s, n, control, len);
    steps += 1 + (id == TOKEN_NONE ? 0 : *len);
    return id;
}

#define uni_next          counted_next
#define tok_special_match counted_match
// clang-format off
#include "worker/text/tok_pre.c"
#include "worker/text/tokenizer.c"
// clang-format on
#undef uni_next
#undef tok_special_match

#include "base/fs.h"
#include "base/json.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <stdio.h>

/* Repeated; the last byte of a text is of its own, so that what looks for an end finds one. */
static const char *const hostile[] = {"a",
                                      " ",
                                      "\n",
                                      "\t",
                                      "ab",
                                      "aB",
                                      "a ",
                                      " \n",
                                      "\r\n",
                                      "'",
                                      "'s",
                                      "1",
                                      "1 ",
                                      "1a",
                                      "-",
                                      "- ",
                                      ".\n",
                                      "\xE4\xB8\xAD",             /* CJK */
                                      "\xE4\xB8\xAD\xE3\x81\x82", /* and Hiragana */
                                      "\xCC\x81",
                                      "a\xCC\x81",
                                      "\xCC\x81\xCC\x96",             /* combining marks */
                                      "\xF0\x9F\x91\xA9\xE2\x80\x8D", /* emoji with joiners */
                                      "\xF0\x9F\x87\xA9",             /* flags */
                                      "\x80",
                                      "\xE4\xB8",
                                      "\xF0\x9F\x91",
                                      "\xFF ", /* no UTF-8 */
                                      "\xE2\x80\x83",
                                      "\xC2\xA0 ",
                                      "\xE2\x80\xA8\n", /* other spaces */
                                      "\xD7\x90",
                                      "\xC7\x85",
                                      "<s",
                                      "[MASK",
                                      "<x> ",
                                      "the ",
                                      "IMG",
                                      "\xED\x95\x9C "};

static void fill(char *s, size_t n, const char *unit, char last)
{
    size_t k = strlen(unit);
    for (size_t i = 0; i < n; i++)
        s[i] = unit[i % k];
    s[n - 1] = last;
}

typedef int run_fn(const void *what, const char *s, size_t n);

/* Twice the text at most 2.2 times the steps, and never more than `most` a byte. */
static void check_steps(const char *name, run_fn *run, const void *what, size_t most)
{
    static const char lasts[] = {'a', ' ', '\n', '.', '\x80'};
    size_t n = 3000;
    char *s = malloc(2 * n);
    assert_non_null(s);
    for (size_t i = 0; i < NUM_COUNT(hostile); i++) {
        for (size_t k = 0; k < sizeof(lasts); k++) {
            size_t count[2];
            for (unsigned twice = 0; twice < 2; twice++) {
                steps = 0;
                fill(s, n << twice, hostile[i], lasts[k]);
                if (run(what, s, n << twice))
                    fail_msg("%s fails on text %zu", name, i);
                count[twice] = steps;
            }
            if (count[1] * 10 > count[0] * 22 + 1000 || count[0] > most * n)
                fail_msg("%s, text %zu ('%s') before %d: %zu steps for %zu bytes, %zu for twice as "
                         "many",
                         name, i, hostile[i], lasts[k], count[0], n, count[1]);
        }
    }
    free(s);
}

/* ---- scanners ---- */

static int ignore(void *ctx, const char *s, size_t n)
{
    (void)ctx;
    (void)s;
    (void)n;
    return 0;
}

static int run_scanner(const void *what, const char *s, size_t n)
{
    return pre_split(what, s, n, ignore, NULL);
}

static void test_scanners(void **state)
{
    (void)state;
    uni_init();
    for (size_t i = 0; i < NUM_COUNT(known); i++) {
        if (pre_scans(&known[i]))
            check_steps(known[i].names, run_scanner, &known[i], 24);
    }
}

/* ---- expressions ---- */

static int run_regex(const void *what, const char *s, size_t n)
{
    const struct rx *rx = what;
    struct rx_text t = {0};
    size_t from = 0, start, end;
    int rc = rx_text_set(&t, rx, s, n, NULL), found = 0;
    size_t budget = t.steps;
    while (rc == 0 && from <= n && (found = rx_find(rx, &t, from, &start, &end)) == 1)
        from = end > from ? end : from + 1;
    steps = budget - t.steps;
    rx_text_fini(&t);
    return rc ? rc : found < 0 ? found : 0;
}

static void check_regex(const char *regex)
{
    struct rx *rx = NULL;
    struct err e = {0};
    if (rx_open(&rx, regex, strlen(regex), &e))
        fail_msg("%s: %s", regex, e.msg);
    check_steps(regex, run_regex, rx, 24);
    rx_close(rx);
}

static void test_expressions(void **state)
{
    (void)state;
    uni_init();
    for (size_t i = 0; i < NUM_COUNT(known); i++) {
        for (unsigned k = 0; k < MAX_STAGES && known[i].regex[k]; k++)
            check_regex(known[i].regex[k]);
    }
    for (size_t i = 0; i < NUM_COUNT(spelt); i++)
        check_regex(spelt[i].regex);
    static const char *const others[] = {
        "(a*)*|x", "\\s+(?!\\S)|\\s+|\\S+",
        ("'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++"
         "[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s")};
    for (size_t i = 0; i < NUM_COUNT(others); i++) {
        struct rx *rx = NULL;
        if (rx_open(&rx, others[i], strlen(others[i]), NULL) == 0) {
            rx_close(rx);
            check_regex(others[i]);
        }
    }
}

/* An expression that looks to the end from each place stops at its bound. */
static void test_bound(void **state)
{
    (void)state;
    struct rx *rx = NULL;
    size_t n = 50000;
    char *s = malloc(n);
    assert_non_null(s);
    uni_init();
    memset(s, 'a', n);
    assert_int_equal(rx_open(&rx, "(a|b)*c|a", 9, NULL), 0);
    assert_int_equal(run_regex(rx, s, n), Q_EUNSUPPORTED);
    assert_true(steps <= 64 * n + (1U << 20));
    rx_close(rx);
    free(s);
}

/* ---- merges ---- */

struct rule {
    uint32_t mod, times; /* rank: the length, or the place by these */
};
static struct rule rule;

static void weigh(const struct tokenizer *t, const char *piece, struct tok_sym *a,
                  const struct tok_sym *b)
{
    (void)t;
    (void)piece;
    steps++;
    a->key = rule.mod ? a->pos * rule.times % rule.mod : a->len + b->len;
    a->merged = 0;
}

static void test_merges(void **state)
{
    (void)state;
    static const struct rule rules[] = {{0, 0}, {1, 1}, {2, 1}, {1U << 31, 1}, {65537, 40503}};
    size_t n = 100000;
    struct tok_work w = {0};
    for (size_t r = 0; r < NUM_COUNT(rules); r++) {
        rule = rules[r];
        steps = 0;
        assert_int_equal(tok_work_syms(&w, n, NULL), 0);
        for (size_t i = 0; i < n; i++)
            w.sym[i] = (struct tok_sym){.pos = (uint32_t)i, .len = 1};
        assert_int_equal(tok_merge_all(NULL, &w, "", n, weigh, NULL), 0);
        assert_true(w.sym[0].next == TOKEN_NONE);
        assert_true(steps <= 3 * n); /* each enters the queue once, and leaves it in log n */
    }
    tok_work_fini(&w);
}

/* ---- whole tokenisers: added tokens, normalisers, words ---- */

static int run_tokenizer(const void *what, const char *s, size_t n)
{
    struct token_list l = {0};
    int rc = tokenizer_encode(what, s, n, true, true, &l, NULL);
    steps += l.n;
    free(l.ids);
    return rc;
}

static void test_tokenizers(void **state)
{
    (void)state;
    static const char *const names[] = {"added",   "added_bytes", "added_in_model", "added_twice",
                                        "roberta", "llama2",      "bert",           "unigram",
                                        "qwen",    "falcon",      "kimi",           "clip"};
    for (size_t i = 0; i < NUM_COUNT(names); i++) {
        char path[500];
        struct buf b, json;
        struct jv *v = NULL;
        struct tokenizer *t = NULL;
        struct err e = {0};
        snprintf(path, sizeof(path), "%s/tests/data/tokenizers/%s.json", QUIRE_SOURCE_DIR,
                 names[i]);
        buf_init(&b, 1 << 24);
        buf_init(&json, 1 << 24);
        assert_int_equal(fs_read(&b, path, &e), 0);
        assert_int_equal(jv_parse(&v, b.data, b.len, 64, &e), 0);
        assert_int_equal(jv_write(&json, jv_get(v, "tokenizer"), 0), 0);
        if (tokenizer_open_json(&t, buf_cstr(&json), json.len, &e))
            fail_msg("%s: %s", names[i], e.msg);
        check_steps(names[i], run_tokenizer, t, 40);
        tokenizer_close(t);
        jv_free(v);
        buf_fini(&b);
        buf_fini(&json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scanners),
                                       cmocka_unit_test(test_expressions),
                                       cmocka_unit_test(test_bound), cmocka_unit_test(test_merges),
                                       cmocka_unit_test(test_tokenizers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
