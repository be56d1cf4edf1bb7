/* SPDX-License-Identifier: Apache-2.0 */
/* test_base.c - the base library: buffers, UTF-8, JSON, options, files, hashes, mailboxes. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mbox.h"
#include "base/num.h"
#include "base/opts.h"
#include "base/utf8.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_buf_grows_to_its_ceiling(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_string_equal(buf_cstr(&b), "");
    assert_int_equal(buf_puts(&b, "12345"), 0);
    assert_int_equal(buf_printf(&b, "%d", 678), 0);
    assert_string_equal(b.data, "12345678");
    assert_int_equal(buf_puts(&b, "too long"), Q_ENOMEM);
    assert_true(b.failed);
    assert_string_equal(b.data, "12345678");       /* unchanged */
    assert_int_equal(buf_putc(&b, 'x'), Q_ENOMEM); /* and stays failed */
    buf_clear(&b);
    assert_int_equal(buf_puts(&b, "1234567890"), 0); /* exactly max */
    buf_shift(&b, 4);
    assert_string_equal(b.data, "567890");
    size_t n;
    char *s = buf_take(&b, &n);
    assert_int_equal(n, 6);
    assert_string_equal(s, "567890");
    free(s);
    s = buf_take(&b, NULL);
    assert_string_equal(s, "");
    free(s);
    buf_fini(&b);
}

static void test_utf8_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t used;
        uint32_t cp;
    } good[] = {{"a", 1, 'a'},
                {"\xC3\xA9", 2, 0xE9},
                {"\xE2\x82\xAC", 3, 0x20AC},
                {"\xF0\x9F\x98\x80", 4, 0x1F600},
                {"\xF4\x8F\xBF\xBF", 4, 0x10FFFF}};
    for (size_t i = 0; i < NUM_COUNT(good); i++) {
        uint32_t cp = 0;
        assert_int_equal(utf8_decode(good[i].s, strlen(good[i].s), &cp), good[i].used);
        assert_int_equal(cp, good[i].cp);
        char out[4];
        assert_int_equal(utf8_encode(out, cp), good[i].used);
        assert_memory_equal(out, good[i].s, good[i].used);
    }
    static const uint32_t no_character[] = {0xD800, 0xDFFF, 0x110000, UINT32_MAX};
    for (size_t i = 0; i < NUM_COUNT(no_character); i++) {
        char out[4];
        assert_int_equal(utf8_encode(out, no_character[i]), 3);
        assert_memory_equal(out, "\xEF\xBF\xBD", 3);
    }
    static const char *const bad[] = {
        "\xC0\x80", "\xC1\xBF",         "\xE0\x80\x80",     "\xED\xA0\x80", /* surrogate */
        "\x80",     "\xF5\x80\x80\x80", "\xF4\x90\x80\x80", "\xE2\x82",     "\xFF"};
    for (size_t i = 0; i < NUM_COUNT(bad); i++) {
        uint32_t cp;
        assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &cp), 0);
        assert_false(utf8_valid(bad[i], strlen(bad[i]), NULL));
    }
    size_t at = 0;
    assert_false(utf8_valid("ab\xFF", 3, &at));
    assert_int_equal(at, 2);
    /* Wherever in a longer text, on whatever side of what is read at once. */
    for (size_t pos = 0; pos <= 20; pos++) {
        for (size_t i = 0; i < NUM_COUNT(bad) + NUM_COUNT(good); i++) {
            bool is_good = i >= NUM_COUNT(bad);
            const char *part = is_good ? good[i - NUM_COUNT(bad)].s : bad[i];
            char text[32] = "abcdefghijklmnopqrstuvwx";
            memcpy(text + pos, part, strlen(part));
            assert_int_equal(utf8_valid(text, 24, &at), is_good);
            assert_int_equal(utf8_valid(text, pos + strlen(part), &at), is_good);
            assert_int_equal(is_good ? pos : at, pos);
        }
    }
}

/* Names of files and seeds are made of it: the values stay. */
static void test_hash_values(void **state)
{
    (void)state;
    static const uint64_t want[] = {0x0000000000000000, 0xa159fbb8d0344088, 0x8ebca725607b48ee,
                                    0x420ff07493f270ba, 0xe0ce24c8b1769ee1, 0x972cbc25e9967bef,
                                    0x3f1f57f247bfdade, 0xf7e936a8ae914f2a, 0xeeee689689173d4a,
                                    0x011bb3371c4dead0, 0x591631539f78756a, 0x7a8ccee99ad5c40b,
                                    0xbd6850b00c6cf4b7, 0x6cde4648d540073e, 0xc2d4b83516684415,
                                    0x70bd8c8bb674349a, 0x2bc5ae1a46606ff9, 0x0359d6e034a0ddc5};
    for (size_t n = 0; n < NUM_COUNT(want); n++)
        assert_int_equal(hash_u64("the quick brown fox", n, n), want[n]);
}

static void test_utf8_prefix_never_cuts_a_character(void **state)
{
    (void)state;
    const char *s = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
    size_t n = strlen(s);
    for (size_t k = 0; k <= n; k++) {
        size_t p = utf8_complete_prefix(s, k);
        assert_true(p <= k && k - p <= 3);
        assert_true(utf8_valid(s, p, NULL));
    }
    assert_int_equal(utf8_complete_prefix("\xE2\x82", 2), 0);
    assert_int_equal(utf8_complete_prefix("\xFF", 1), 1); /* never valid: not held back */
    assert_int_equal(utf8_complete_prefix("\x80\x80\x80\x80", 4), 4);
    assert_int_equal(utf8_complete_prefix("\xED\xA0", 2), 2); /* a surrogate cannot complete */
}

static void test_json_reads_strictly(void **state)
{
    (void)state;
    const char *text = "{\"b\": 1, \"a\": [1.0, true, null, \"\\u00e9\"], \"big\": "
                       "123456789012345678901234567890}";
    struct jv *v;
    struct err e;
    assert_int_equal(jv_parse(&v, text, strlen(text), 8, &e), 0);
    assert_int_equal(jv_kind(jv_get(v, "b")), JV_INT);
    const struct jv *a = jv_get(v, "a");
    assert_int_equal(jv_len(a), 4);
    assert_int_equal(jv_kind(jv_at(a, 0)), JV_REAL);
    assert_true(jv_bool(jv_at(a, 1), false));
    assert_int_equal(jv_kind(jv_at(a, 2)), JV_NULL);
    assert_string_equal(jv_str(jv_at(a, 3), ""), "\xC3\xA9");
    assert_true(jv_num(jv_get(v, "big"), 0) > 1e29);
    assert_null(jv_get(v, "none"));
    assert_int_equal(jv_kind(NULL), JV_NULL);
    void *it = jv_iter(v); /* order is kept */
    assert_string_equal(jv_iter_key(it), "b");
    assert_string_equal(jv_iter_key(jv_next(v, it)), "a");
    jv_free(v);

    static const char *const bad[] = {"",          "{",          "[1,]",  "{\"a\":}",
                                      "nul",       "\"\xFF\"",   "[1] x", "\"\\u0000\"",
                                      "{\"a\" 1}", "\"\\ud800\""};
    for (size_t i = 0; i < NUM_COUNT(bad); i++) {
        assert_int_equal(jv_parse(&v, bad[i], strlen(bad[i]), 8, &e), Q_EINVAL);
        assert_null(v);
        assert_true(strlen(e.msg) > 10);
    }
    assert_int_equal(jv_parse(&v, "[\"a\\u0000b\"]", 11, 8, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "u0000"));
    char deep[2000];
    memset(deep, '[', sizeof deep);
    assert_int_equal(jv_parse(&v, deep, sizeof deep, 64, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "64"));
    /* Brackets inside strings are no nesting. */
    assert_int_equal(jv_parse(&v, "\"[[[[[[\\\"[[[\"", 13, 2, &e), 0);
    jv_free(v);
}

static void test_json_writer(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    buf_puts(&b, "data: ");
    jw_obj(&b);
    jw_kstr(&b, "s", "q\"\\\n\t\x01\xC3\xA9\xFFz");
    jw_kint(&b, "i", -5);
    jw_knum(&b, "d", 0.1);
    jw_knum(&b, "nan", NAN);
    jw_kbool(&b, "t", true);
    jw_key(&b, "a");
    jw_arr(&b);
    jw_int(&b, 1);
    jw_arr(&b);
    jw_end_arr(&b);
    jw_null(&b);
    jw_end_arr(&b);
    jw_kstr(&b, "none", NULL);
    jw_end_obj(&b);
    assert_string_equal(b.data,
                        "data: {\"s\":\"q\\\"\\\\\\n\\t\\u0001\xC3\xA9\xEF\xBF\xBDz\",\"i\":-5,"
                        "\"d\":0.1,\"nan\":null,\"t\":true,\"a\":[1,[],null],\"none\":null}");
    buf_fini(&b);
    static const double exact[] = {0.1, 1.0 / 3, 1e300, -2.5e-7, 123456789.123456789, 5e-324};
    for (size_t i = 0; i < NUM_COUNT(exact); i++) {
        buf_init(&b, 64);
        jw_num(&b, exact[i]);
        assert_true(strtod(b.data, NULL) == exact[i]);
        buf_fini(&b);
    }
}

static int extra(void *ctx, const char *name, const char *value, struct err *e)
{
    (void)e;
    snprintf(ctx, 64, "%s=%s", name, value);
    return 0;
}

static void test_options(void **state)
{
    (void)state;
    const char *host = "h";
    int64_t port = 9997;
    double temp = 1;
    bool flag = false, choice = true;
    const struct opt opts[] = {{"host", "H", OPT_STR, &host, NULL, "", 0, 0},
                               {"supervisor-port", "p", OPT_INT, &port, NULL, "", 0, 65535},
                               {"temp", NULL, OPT_NUM, &temp, NULL, "", 0, 2},
                               {"force", "f", OPT_FLAG, &flag, NULL, "", 0, 0},
                               {"stream", NULL, OPT_BOOL, &choice, NULL, "", 0, 0}};
    const struct opts_cmd cmd = {"quire x", NULL, "about", NULL, opts, NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos = 0;
    char *good[] = {"x",      "one", "-H",      "0.0.0.0",  "--supervisor_port=12",
                    "--temp", "0.5", "--force", "--stream", "No",
                    "-5",     "--",  "--two"};
    assert_int_equal(opts_parse(&cmd, NUM_COUNT(good), good, &n_pos, NULL, NULL, &e), OPTS_RUN);
    assert_string_equal(host, "0.0.0.0");
    assert_int_equal(port, 12);
    assert_true(temp == 0.5 && flag && !choice);
    assert_int_equal(n_pos, 3);
    assert_string_equal(good[1], "one");
    assert_string_equal(good[2], "-5");
    assert_string_equal(good[3], "--two");

    static const char *const bad[][3] = {{"--hots", "x", "--host"},
                                         {"-p", "70000", "65535"},
                                         {"-p", "1x", "whole number"},
                                         {"--temp", "hot", "number"},
                                         {"--stream", "maybe", "true or false"}};
    for (size_t i = 0; i < NUM_COUNT(bad); i++) {
        char *argv[] = {"x", strdup(bad[i][0]), strdup(bad[i][1])};
        assert_int_equal(opts_parse(&cmd, 3, argv, &n_pos, NULL, NULL, &e), Q_EINVAL);
        assert_non_null(strstr(e.msg, bad[i][2]));
        free(argv[1]);
        free(argv[2]);
    }
    char *last[] = {"x", "--host"};
    assert_int_equal(opts_parse(&cmd, 2, last, &n_pos, NULL, NULL, &e), Q_EINVAL);
    char seen[64];
    char *more[] = {"x", "--n_ctx", "4096"};
    assert_int_equal(opts_parse(&cmd, 3, more, &n_pos, extra, seen, &e), OPTS_RUN);
    assert_string_equal(seen, "n_ctx=4096");
}

static void test_distance(void **state)
{
    (void)state;
    assert_int_equal(opts_distance("smollm2", "smollm2"), 0);
    assert_int_equal(opts_distance("SmolLM2", "smollm2"), 0);
    assert_int_equal(opts_distance("smolm2", "smollm2"), 1);
    assert_int_equal(opts_distance("launhc", "launch"), 1); /* a swap is one slip */
    assert_int_equal(opts_distance("", "abc"), 3);
    assert_int_equal(opts_distance("kitten", "sitting"), 3);
}

static void test_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/quire-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct err e;
    char *sub = fs_join(dir, "a/b/");
    assert_int_equal(fs_mkdirs(sub, &e), 0);
    char *file = fs_join(sub, "/f");
    assert_int_equal(fs_write_atomic(file, "hello", 5, &e), 0);
    assert_int_equal(fs_write_atomic(file, "again", 5, &e), 0);
    struct buf b;
    buf_init(&b, 100);
    assert_int_equal(fs_read(&b, file, &e), 0);
    assert_string_equal(b.data, "again");
    buf_fini(&b);
    buf_init(&b, 10);
    assert_int_equal(fs_read(&b, file, &e), 0);
    assert_int_equal(fs_read(&b, file, &e), 0); /* appends, up to the limit */
    assert_string_equal(b.data, "againagain");
    assert_int_equal(fs_read(&b, file, &e), Q_EINVAL);
    buf_fini(&b);
    buf_init(&b, 4);
    assert_int_equal(fs_read(&b, file, &e), Q_EINVAL);
    buf_fini(&b);
    assert_int_equal(fs_read(&b, "/nowhere/x", &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "/nowhere/x"));
    char hex[HASH_SHA256_HEX], hex2[HASH_SHA256_HEX];
    hash_sha256_hex("again", 5, hex);
    assert_int_equal(hash_sha256_file(file, hex2, NULL, NULL, &e), 0);
    assert_string_equal(hex, hex2);
    hash_sha256_hex("abc", 3, hex); /* FIPS 180-2, appendix B.1 */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    unlink(file);
    rmdir(sub);
    sub[strlen(sub) - 2] = '\0';
    rmdir(sub);
    rmdir(dir);
    free(file);
    free(sub);
    assert_true(fs_name_ok("qwen2.5-instruct_7b"));
    assert_false(fs_name_ok("../x"));
    assert_false(fs_name_ok(".hidden"));
    assert_false(fs_name_ok(""));
    assert_false(fs_name_ok("a/b"));
}

struct item {
    struct mbox_msg msg;
    int value;
};

static void *sender(void *arg)
{
    struct mbox *m = arg;
    for (int i = 0; i < 1000; i++) {
        struct item *it = malloc(sizeof *it);
        it->value = i;
        while (mbox_push(m, &it->msg) != 0)
            usleep(100);
    }
    return NULL;
}

static void test_mailbox(void **state)
{
    (void)state;
    struct mbox m;
    mbox_init(&m, 64, NULL, NULL);
    assert_null(mbox_take(&m));
    uint64_t t0 = clock_mono_ms();
    assert_null(mbox_wait(&m, 20));
    assert_true(clock_mono_ms() - t0 >= 19);
    struct item items[65];
    for (int i = 0; i < 64; i++)
        assert_int_equal(mbox_push(&m, &items[i].msg), 0);
    assert_int_equal(mbox_push(&m, &items[64].msg), Q_EFULL);
    assert_ptr_equal(mbox_take(&m), &items[0].msg);

    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, sender, &m);
    int n = 0;
    long sum = 0;
    while (n < 3000) {
        struct mbox_msg *list = mbox_wait(&m, 5000);
        assert_non_null(list);
        while (list) {
            struct item *it = (struct item *)list;
            list = list->next;
            sum += it->value;
            n++;
            free(it);
        }
    }
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(sum, 3L * 999 * 1000 / 2);
    mbox_fini(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_grows_to_its_ceiling),
        cmocka_unit_test(test_utf8_is_strict),
        cmocka_unit_test(test_hash_values),
        cmocka_unit_test(test_utf8_prefix_never_cuts_a_character),
        cmocka_unit_test(test_json_reads_strictly),
        cmocka_unit_test(test_json_writer),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_mailbox),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
