/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/engine/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static unsigned rnd_state = 12345;

static unsigned rnd(unsigned n)
{
    rnd_state = rnd_state * 1664525u + 1013904223u;
    return (rnd_state >> 8) % n;
}

/* The rule on a whole text: earliest start, then shortest. Returns where output ends. */
static size_t whole(const char *text, const char *const *stops, size_t n, int *which)
{
    size_t len = strlen(text);
    *which = -1;
    for (size_t pos = 0; pos < len; pos++) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i < n; i++) {
            size_t sl = strlen(stops[i]);
            if (sl && strncmp(text + pos, stops[i], sl) == 0 && sl < best) {
                best = sl;
                *which = (int)i;
            }
        }
        if (*which >= 0)
            return pos;
    }
    return len;
}

static void run_split(const char *text, const char *const *stops, size_t n, unsigned max_piece)
{
    struct stop_set set;
    assert_int_equal(stop_set_init(&set, stops, n, NULL), 0);
    struct stop s;
    struct buf out;
    stop_init(&s, &set);
    buf_init(&out, 1 << 20);
    int which;
    size_t len = strlen(text), end = whole(text, stops, n, &which);
    for (size_t at = 0; at < len;) {
        size_t k = 1 + rnd(max_piece);
        if (k > len - at)
            k = len - at;
        assert_int_equal(stop_put(&s, text + at, k, &out), 0);
        at += k;
        /* Never past the stop, and never more held back than a stop string is long. */
        assert_true(out.len <= end);
        size_t longest = 1;
        for (size_t i = 0; i < n; i++)
            longest = strlen(stops[i]) > longest ? strlen(stops[i]) : longest;
        if (s.matched < 0)
            assert_true(out.len + longest > at);
    }
    assert_int_equal(stop_flush(&s, &out), 0);
    assert_int_equal(out.len, end);
    assert_memory_equal(buf_cstr(&out), text, end);
    if (which < 0)
        assert_int_equal(s.matched, -1);
    else
        assert_string_equal(set.text[s.matched], stops[which]);
    stop_fini(&s);
    stop_set_fini(&set);
    buf_fini(&out);
}

static void test_random_splits_never_leak(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char text[41], stop[4][6];
        const char *stops[4];
        size_t n = rnd(5), len = rnd(40);
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + rnd(3));
        text[len] = 0;
        for (size_t i = 0; i < n; i++) {
            size_t sl = 1 + rnd(5);
            for (size_t j = 0; j < sl; j++)
                stop[i][j] = (char)('a' + rnd(3));
            stop[i][sl] = 0;
            stops[i] = stop[i];
        }
        run_split(text, stops, n, 1 + rnd(7));
    }
}

static void test_earlier_longer_stop_wins(void **state)
{
    (void)state;
    const char *stops[] = {"b", "abc"};
    run_split("xxabcyy", stops, 2, 1);
    run_split("xxabdyy", stops, 2, 1);
    run_split("xxab", stops, 2, 1);
}

static void test_holds_only_a_possible_start(void **state)
{
    (void)state;
    const char *stops[] = {"\n\nUser:"};
    struct stop_set set;
    assert_int_equal(stop_set_init(&set, stops, 1, NULL), 0);
    struct stop s;
    struct buf out;
    stop_init(&s, &set);
    buf_init(&out, 100);
    assert_int_equal(stop_put(&s, "Hi\n", 3, &out), 0);
    assert_string_equal(buf_cstr(&out), "Hi");
    assert_int_equal(stop_put(&s, "you\n\nUse", 8, &out), 0);
    assert_string_equal(buf_cstr(&out), "Hi\nyou");
    assert_int_equal(stop_put(&s, "d", 1, &out), 0);
    assert_string_equal(buf_cstr(&out), "Hi\nyou\n\nUsed");
    assert_int_equal(stop_put(&s, "\n\nUser: more", 12, &out), 0);
    assert_int_equal(s.matched, 0);
    assert_int_equal(stop_put(&s, "never shown", 11, &out), 0);
    assert_string_equal(buf_cstr(&out), "Hi\nyou\n\nUsed");
    stop_fini(&s);
    buf_fini(&out);
    stop_set_fini(&set);
}

static void test_limits(void **state)
{
    (void)state;
    struct stop_set set;
    struct err e;
    const char *many[STOP_MAX + 1];
    for (size_t i = 0; i <= STOP_MAX; i++)
        many[i] = "x";
    assert_int_equal(stop_set_init(&set, many, STOP_MAX + 1, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "64"));
    char *big = malloc(STOP_MAX_BYTES + 2);
    memset(big, 'x', STOP_MAX_BYTES + 1);
    big[STOP_MAX_BYTES + 1] = 0;
    const char *one[] = {big};
    assert_int_equal(stop_set_init(&set, one, 1, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "1024"));
    const char *empty[] = {"", "a", ""};
    assert_int_equal(stop_set_init(&set, empty, 3, &e), 0);
    assert_int_equal(set.n, 1);
    stop_set_fini(&set);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_splits_never_leak),
        cmocka_unit_test(test_earlier_longer_stop_wins),
        cmocka_unit_test(test_holds_only_a_possible_start),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
