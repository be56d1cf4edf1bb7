/* SPDX-License-Identifier: Apache-2.0 */
/* Regular expressions of pre-tokenisers, and the scanners that stand for the best known. */
#include "base/num.h"
#include "base/utf8.h"
#include "worker/text/tok_regex.h"
#include "worker/text/tok_split.h"
#include "worker/text/tok_unicode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <utf8proc.h>

static struct rx *open_rx(const char *pattern)
{
    struct rx *rx = NULL;
    struct err e = {0};
    uni_init();
    if (rx_open(&rx, pattern, strlen(pattern), &e))
        fail_msg("%s: %s", pattern, e.msg);
    return rx;
}

/* All matches of the pattern, each followed by '|'; empty ones as "^". */
static void check(const char *pattern, const char *text, const char *want)
{
    struct rx *rx = open_rx(pattern);
    struct rx_text t = {0};
    struct buf out;
    size_t n = strlen(text), from = 0, start, end;
    buf_init(&out, 1 << 16);
    assert_int_equal(rx_text_set(&t, rx, text, n, NULL), 0);
    while (from <= n && rx_find(rx, &t, from, &start, &end) == 1) {
        buf_put(&out, start == end ? "^" : text + start, start == end ? 1 : end - start);
        buf_putc(&out, '|');
        from = end > start ? end : end + 1;
    }
    if (strcmp(buf_cstr(&out), want) != 0)
        fail_msg("/%s/ on \"%s\": \"%s\", not \"%s\"", pattern, text, buf_cstr(&out), want);
    buf_fini(&out);
    rx_text_fini(&t);
    rx_close(rx);
}

static void test_matches(void **state)
{
    (void)state;
    check("a|ab", "ab", "a|"); /* the first alternative, not the longest */
    check("ab|a", "ab", "ab|");
    check("a+?b*", "aab", "a|ab|");
    check("(a|b)*c|a", "ababa", "a|a|a|");
    check("a{2,3}", "aaaaa", "aaa|aa|");
    check("a{2}", "aaaaa", "aa|aa|");
    check("a{,2}b", "aaab", "aab|");
    check("x{y", "x{y", "x{y|");
    check("\\s+(?!\\S)|\\s+", "a   b  ", "  | |  |");
    check("\\p{L}+|\\p{N}", "ab12é\xC3\xBC", "ab|1|2|é\xC3\xBC|");
    check("[^\\s\\p{L}]+", "a.,1 b", ".,1|");
    check("\\P{L}", "a1", "1|");
    check("\\p{^L}", "a1", "1|");
    check("(?i:re|S)",
          "RE\xC5\xBF"
          "rE",
          "RE|\xC5\xBF|rE|"); /* long s */
    check("(?i)ab|c", "ABC", "AB|C|");
    check("[a-z&&[^aeiou]]+", "badge", "b|dg|");
    check("[[:digit:]x-]+", "1x-y", "1x-|");
    check("[]a]+", "]a[", "]a|");
    check("[\\]\\\\]+", "]\\", "]\\|");
    check("^a|b$", "a\nab\nb", "a|a|b|b|");
    check("\\Aa|b\\z", "aab\nb", "a|b|");
    check("\\bx", "x ax xa", "x|x|");
    check("a\\B", "a ab", "a|");
    check("(?<=a)b", "bab", "b|");
    check("(?<!a)b", "bab", "b|");
    check("(?<=ab)c", "abc bc", "c|");
    check("a(?=bc)", "abc ab", "a|");
    check("a(?!bc)", "abc ab", "a|");
    check("\\d{1,3}(?=(?:\\d{3})*\\b)", "1234567 12", "1|234|567|12|");
    check("(?=(\\d{3})+(?!\\d))", "1234567", "^|^|");
    check("a++b|a", "aaab", "aaab|");
    check("[a]++a|a", "aa", "a|a|"); /* possessive: none is given back */
    check("\\p{Han}+|\\p{Script=Greek}", "\xE6\xBC\xA2\xE5\xAD\x97\xCE\xB1",
          "\xE6\xBC\xA2\xE5\xAD\x97|\xCE\xB1|");
    check("\\u4E00|\\x{4E01}|\\x41",
          "\xE4\xB8\x80\xE4\xB8\x81"
          "A",
          "\xE4\xB8\x80|\xE4\xB8\x81|A|");
    check(".", "a\nb", "a|b|");
    check("(?m:.)", "a\n", "a|\n|");
    check("(?<name>a)(?#no)b", "ab", "ab|");
    check("[^a]",
          "a\xFF"
          "b",
          "\xFF|b|");                         /* a byte that is no character */
    check("\\p{N}{1,3}+", "12345", "12345|"); /* a repetition repeated */
}

static void check_refused(const char *pattern, int code, const char *why)
{
    struct rx *rx = NULL;
    struct err e = {0};
    uni_init();
    int rc = rx_open(&rx, pattern, strlen(pattern), &e);
    if (rc != code || !strstr(e.msg, why))
        fail_msg("/%s/: %d, %s", pattern, rc, e.msg);
    assert_null(rx);
}

static void test_refusals(void **state)
{
    (void)state;
    check_refused("(a)\\1", Q_EUNSUPPORTED, "back reference");
    check_refused("(?>a)", Q_EUNSUPPORTED, "atomic group");
    check_refused("(?:ab)++", Q_EUNSUPPORTED, "possessive group");
    check_refused("\\p{Klingon}", Q_EUNSUPPORTED, "\\p{Klingon}");
    check_refused("\\G", Q_EUNSUPPORTED, "\\G");
    check_refused("a{1001}", Q_EUNSUPPORTED, "repetitions");
    check_refused("(?:a{1000}){1000}", Q_EUNSUPPORTED, "too large");
    check_refused("(?=ab(?=cd))", Q_EUNSUPPORTED, "look-around within");
    check_refused("(", Q_EINVAL, "( without )");
    check_refused(")", Q_EINVAL, ") without (");
    check_refused("[a", Q_EINVAL, "[ without ]");
    check_refused("[z-a]", Q_EINVAL, "backwards");
    check_refused("*", Q_EINVAL, "nothing to repeat");
    check_refused("a{3,2}", Q_EINVAL, "m below n");
    check_refused("\\", Q_EINVAL, "too early");
    char deep[200];
    memset(deep, '(', 100);
    memset(deep + 100, ')', 99);
    deep[199] = '\0';
    check_refused(deep, Q_EUNSUPPORTED, "deep nesting");
}

/* A pattern that takes quadratic time gives up, one that does not goes to the end. */
static void test_bounded(void **state)
{
    (void)state;
    size_t n = 1000000, start, end;
    char *s = malloc(n);
    assert_non_null(s);
    memset(s, 'a', n);
    struct rx *rx = open_rx("a*b");
    struct rx_text t = {0};
    assert_int_equal(rx_text_set(&t, rx, s, n, NULL), 0);
    assert_int_equal(rx_find(rx, &t, 0, &start, &end), Q_EUNSUPPORTED);
    rx_close(rx);
    memset(s, '1', n);
    rx = open_rx("\\d{1,3}(?=(?:\\d{3})*\\b)");
    assert_int_equal(rx_text_set(&t, rx, s, n, NULL), 0);
    size_t count = 0;
    for (size_t from = 0; rx_find(rx, &t, from, &start, &end) == 1; from = end)
        count++;
    assert_int_equal(count, (n + 2) / 3);
    rx_text_fini(&t);
    rx_close(rx);
    free(s);
}

/* ---- scanners against the expressions they stand for ---- */

static uint64_t seed = 12345;

static uint32_t rnd(void)
{
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(seed >> 33);
}

static size_t random_text(char *s, size_t max)
{
    static const char *const bits[] = {
        "'s",   "'LL",      "'\xC5\xBF", " ",        "  ",           "\n",
        "\r\n", "\t",       "a",         "Bc",       "dE",           "12",
        "345",  "\xC2\xA0", "\xCC\x81",  "\xC7\x85", "\xE4\xB8\xAD", "\xF0\x9F\x98\x80",
        "!",    "/",        "_",         "\xC2\xB2", "\xE2\x80\x83", "\xFF",
        "\xC3"};
    size_t n = 0;
    while (n + 8 < max) {
        if (rnd() % 4 == 0) {
            uint32_t cp = rnd() % 3 ? rnd() % 0x3000 : rnd() % 0x20000;
            n += utf8_encode(s + n, cp);
        } else {
            const char *b = bits[rnd() % NUM_COUNT(bits)];
            memcpy(s + n, b, strlen(b));
            n += strlen(b);
        }
        if (rnd() % 12 == 0)
            break;
    }
    return n;
}

static int add_cut(void *ctx, const char *s, size_t n)
{
    (void)s;
    return buf_printf(ctx, "%zu ", n);
}

static void test_scanners(void **state)
{
    (void)state;
#define CT   "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UP   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LO   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define W1   "[^\\r\\n\\p{L}\\p{N}]?"
#define REST "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    static const char *const same[] = {
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
        CT "|" W1 "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST,
        CT "|" W1 "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST,
        W1 UP "*" LO "+" CT "?|" W1 UP "+" LO "*" CT
              "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST,
        W1 UP "*" LO "+|" W1 UP "+" LO "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST,
    };
    for (size_t k = 0; k < NUM_COUNT(same); k++) {
        struct rx *rx = open_rx(same[k]);
        const struct tok_pre *pre = pre_find_regex(same[k], strlen(same[k]));
        struct tok_split *sp = calloc(1, sizeof(*sp));
        struct split_work w = {0};
        assert_non_null(pre);
        assert_non_null(sp);
        sp->step[sp->n++] =
            (struct split_step){.kind = SPLIT_REGEX, .how = SPLIT_ISOLATED, .rx = rx};
        for (int round = 0; round < 20000; round++) {
            char s[100];
            size_t n = random_text(s, sizeof(s));
            struct buf a, b;
            buf_init(&a, 4096);
            buf_init(&b, 4096);
            assert_int_equal(pre_split(pre, s, n, add_cut, &a), 0);
            assert_int_equal(split_run(sp, &w, s, n, true, add_cut, &b, NULL), 0);
            if (strcmp(buf_cstr(&a), buf_cstr(&b)) != 0)
                fail_msg("expression %zu on \"%.*s\": scanner %s, table %s", k, (int)n, s,
                         buf_cstr(&a), buf_cstr(&b));
            buf_fini(&a);
            buf_fini(&b);
        }
        split_work_fini(&w);
        split_close(sp);
    }
}

/* ---- pre-tokenisers that are lists of expressions ---- */

static int add_piece(void *ctx, const char *s, size_t n)
{
    buf_put(ctx, s, n);
    return buf_putc(ctx, '|');
}

static void check_pre(const char *name, const char *text, const char *want)
{
    const struct tok_pre *pre = pre_find(name, strlen(name));
    struct tok_split *sp = NULL;
    struct split_work w = {0};
    struct err e = {0};
    struct buf out;
    uni_init();
    assert_non_null(pre);
    if (split_open_pre(&sp, pre, &e))
        fail_msg("%s: %s", name, e.msg);
    buf_init(&out, 1 << 20);
    assert_int_equal(split_run(sp, &w, text, strlen(text), true, add_piece, &out, &e), 0);
    if (strcmp(buf_cstr(&out), want) != 0)
        fail_msg("%s on \"%s\": \"%s\", not \"%s\"", name, text, buf_cstr(&out), want);
    buf_fini(&out);
    split_work_fini(&w);
    split_close(sp);
}

static void test_named(void **state)
{
    (void)state;
    char spaces[600], want[700];
    memset(spaces, ' ', 599);
    spaces[599] = '\0';
    snprintf(want, sizeof(want), "%.512s|%.64s|%.16s|%.4s|%.2s| |", spaces, spaces, spaces, spaces,
             spaces);
    check_pre("jais-2", spaces, want);
    check_pre("jais-2", "He'll go  \n12345", "He|'ll| go|  \n|123|45|");
    check_pre("tiny_aya", "aB 1234567 x", "a|B| |1|234|567| x|");
    check_pre("superbpe", "a 1234567 b", "a |1|234|567| b|");
    check_pre("kimi-k2",
              "ab\xE6\xBC\xA2\xE5\xAD\x97"
              "cd 1234",
              "ab|\xE6\xBC\xA2\xE5\xAD\x97|cd| |123|4|");
    check_pre("exaone-moe", "ab cd 12 !\n", "ab cd| |1|2| !\n|");
    check_pre("youtu", "ab\xEA\xB0\x80\xE4\xB8\xAD 12", "ab|\xEA\xB0\x80|\xE4\xB8\xAD| |1|2|");
    check_pre("afmoe", "x12345 \xE4\xB8\xAD!a", "x|12|345| |\xE4\xB8\xAD|!a|");
    check_pre("chameleon", "<sentinel:12>a  b\t7", "<|sentinel|:|1|2|>|a|  |b|\t|7|");
    check_pre("gemma4", "a b\n\nc", "a b|\n\n|c|");
}

/* What opening skips for speed changes nothing. */
static void test_categories(void **state)
{
    (void)state;
    uni_init();
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        const char *name = utf8proc_category_string((utf8proc_int32_t)cp);
        if (uni_cat(cp) != UNI_CAT(name[0], name[1]))
            fail_msg("U+%04X is %s", cp, name);
        bool space = name[0] == 'Z' || (cp >= 9 && cp <= 13) || cp == 0x85;
        unsigned cls = space ? UNI_SP
                             : (name[0] == 'L' ? UNI_L : 0U) | (name[0] == 'N' ? UNI_N : 0U) |
                                   (name[0] == 'P' ? UNI_P : 0U) | (name[0] == 'S' ? UNI_S : 0U) |
                                   (name[0] == 'M' ? UNI_M : 0U);
        if ((uni_class_table[cp] & ~(UNI_UP | UNI_LO)) != cls)
            fail_msg("U+%04X has the class %u", cp, uni_class_table[cp]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bounded), cmocka_unit_test(test_scanners),
        cmocka_unit_test(test_named),   cmocka_unit_test(test_categories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
