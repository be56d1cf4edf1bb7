/* SPDX-License-Identifier: Apache-2.0 */
/* Public schemas and instances: none that is invalid may be accepted; schemas that compile
 * accept what is valid, with the misses counted. */
#include "worker/text/grammar.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct tally {
    unsigned schemas, passed, refused, wrong, missed;
};

static const char *data_dir(void)
{
    const char *d = getenv("QUIRE_TEST_DATA");
    return d && *d ? d : QUIRE_SHARED_DATA;
}

static void one_schema(const struct jv *schema, const struct jv *tests, const char *name,
                       struct tally *t)
{
    struct grammar *g;
    struct gmatch *m;
    struct err e = {0};
    bool missed = false, wrong = false;
    t->schemas++;
    int rc = grammar_compile_schema(&g, schema, NULL, &e);
    if (rc) {
        bool any_valid = false;
        for (size_t i = 0; i < jv_len(tests); i++)
            any_valid |= jv_bool(jv_get(jv_at(tests, i), "valid"), false);
        t->passed += !any_valid;
        t->refused += any_valid;
        if (any_valid)
            printf("refused %s: %s\n", name, e.msg);
        assert_true(e.msg[0]);
        return;
    }
    assert_int_equal(gmatch_open(&m, g, NULL, &e), 0);
    for (size_t i = 0; i < jv_len(tests); i++) {
        const struct jv *c = jv_at(tests, i);
        bool valid = jv_bool(jv_get(c, "valid"), false);
        for (int indent = 0; indent < 3; indent += 2) {
            struct buf text;
            size_t at;
            buf_init(&text, 1 << 24);
            assert_int_equal(jv_write(&text, jv_get(c, "data"), indent), 0);
            gmatch_reset(m);
            bool ok = gmatch_accept_bytes(m, buf_cstr(&text), text.len, &at) && gmatch_can_stop(m);
            if (ok && !valid) {
                wrong = true;
                printf("WRONG %s: accepted %.200s\n", name, buf_cstr(&text));
            }
            if (!ok && valid) {
                missed = true;
                if (indent == 0)
                    printf("missed %s at %zu: %.200s\n", name, at, buf_cstr(&text));
            }
            buf_fini(&text);
        }
    }
    t->missed += missed;
    t->wrong += wrong;
    t->passed += !missed && !wrong;
    gmatch_close(m);
    grammar_free(g);
}

static void report(const char *what, const struct tally *t)
{
    printf("%s: %u schemas, %u pass, %u refused by name, %u reject a valid instance, "
           "%u accept an invalid one\n",
           what, t->schemas, t->passed, t->refused, t->missed, t->wrong);
}

static void test_maskbench(void **state)
{
    (void)state;
    char path[512], *line = NULL;
    size_t cap = 0;
    ssize_t n;
    struct tally t = {0};
    snprintf(path, sizeof path, "%s/json-schema/maskbench-dev.jsonl", data_dir());
    FILE *f = fopen(path, "r");
    if (!f) {
        printf("skipped: no %s\n", path);
        skip();
    }
    while ((n = getline(&line, &cap, f)) > 0) {
        struct jv *v;
        struct err e = {0};
        if (jv_parse(&v, line, (size_t)n, 128, &e)) {
            printf("not read: %s\n", e.msg);
            continue;
        }
        one_schema(jv_get(v, "schema"), jv_get(v, "tests"), jv_str(jv_get(v, "source"), "?"), &t);
        jv_free(v);
    }
    free(line);
    fclose(f);
    report("MaskBench", &t);
    assert_int_equal(t.wrong, 0);
    assert_true(t.passed * 100 >= t.schemas * 93);
}

static void test_suite(void **state)
{
    (void)state;
    char path[512];
    struct tally t = {0};
    snprintf(path, sizeof path, "%s/json-schema/draft2020-12", data_dir());
    DIR *d = opendir(path);
    if (!d) {
        printf("skipped: no %s\n", path);
        skip();
    }
    for (struct dirent *f = readdir(d); f; f = readdir(d)) {
        char name[1024];
        struct jv *v;
        struct err e = {0};
        if (!strstr(f->d_name, ".json"))
            continue;
        snprintf(name, sizeof name, "%s/%s", path, f->d_name);
        if (jv_parse_file(&v, name, 1 << 24, &e)) {
            printf("not read: %s\n", e.msg);
            continue;
        }
        for (size_t i = 0; i < jv_len(v); i++) {
            const struct jv *g = jv_at(v, i);
            snprintf(name, sizeof name, "%s: %s", f->d_name, jv_str(jv_get(g, "description"), "?"));
            one_schema(jv_get(g, "schema"), jv_get(g, "tests"), name, &t);
        }
        jv_free(v);
    }
    closedir(d);
    report("JSON-Schema-Test-Suite draft 2020-12", &t);
    assert_int_equal(t.wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maskbench),
        cmocka_unit_test(test_suite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
