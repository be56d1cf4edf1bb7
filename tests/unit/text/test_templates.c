/* SPDX-License-Identifier: Apache-2.0 */
/* Real chat templates against what Jinja2 renders: every template with every conversation. */
#include "base/fs.h"
#include "base/json.h"
#include "worker/text/chat.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *data_dir;
static struct jv *contexts;

static char *data_path(const char *a, const char *b, const char *ext)
{
    char *path = NULL;
    if (asprintf(&path, "%s/templates/%s/%s%s", data_dir, a, b, ext) < 0)
        abort();
    return path;
}

static char *read_text(const char *path, size_t *n)
{
    struct buf b;
    struct err e;
    buf_init(&b, 8 << 20);
    if (fs_read(&b, path, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        abort();
    }
    return buf_take(&b, n);
}

/* The variables of a context: its members, with those of "extra" one level up. */
static struct jv *vars_of(const struct jv *ctx)
{
    struct jv *vars = jv_new_object();
    const struct jv *from[] = {ctx, jv_get(ctx, "extra")};
    for (int i = 0; i < 2; i++)
        for (void *it = jv_iter(from[i]); it; it = jv_next(from[i], it))
            if (strcmp(jv_iter_key(it), "name") != 0 && strcmp(jv_iter_key(it), "extra") != 0)
                assert_int_equal(jv_set(vars, jv_iter_key(it), jv_ref(jv_iter_value(it))), 0);
    return vars;
}

static void show_difference(const char *got, const char *want)
{
    size_t at = 0;
    while (got[at] && got[at] == want[at])
        at++;
    size_t from = at > 60 ? at - 60 : 0;
    printf("    byte %zu\n    got  ...%.160s\n    want ...%.160s\n", at, got + from, want + from);
}

/* One pair; prints and returns false when it differs from the expectation. */
static bool check_pair(const char *name, const char *text, size_t n, const struct jv *ctx,
                       const struct jv *want)
{
    struct jv *vars = vars_of(ctx);
    struct buf out;
    struct err e = {0};
    bool raised, good;
    buf_init(&out, 4 << 20);
    assert_false(chat_text_is_go(text, n));
    int rc = chat_render_raw(text, n, vars, &out, &raised, &e);
    const char *label = jv_str(jv_get(ctx, "name"), "?");
    if (jv_bool(jv_get(want, "ok"), false)) {
        good = rc == 0 && strcmp(buf_cstr(&out), jv_str(jv_get(want, "text"), "")) == 0;
        if (!good && rc)
            printf("  %s / %s: %s\n", name, label, e.msg);
        else if (!good) {
            printf("  %s / %s: another text\n", name, label);
            show_difference(buf_cstr(&out), jv_str(jv_get(want, "text"), ""));
        }
    } else if (jv_get(want, "raised")) {
        good = rc != 0 && raised && strcmp(e.msg, jv_str(jv_get(want, "raised"), "")) == 0;
        if (!good)
            printf("  %s / %s: should refuse with '%s' (rc %d, %s)\n", name, label,
                   jv_str(jv_get(want, "raised"), ""), rc, e.msg);
    } else {
        good = rc != 0 && !raised;
        if (!good)
            printf("  %s / %s: should fail: %s\n", name, label, jv_str(jv_get(want, "error"), ""));
    }
    buf_fini(&out);
    jv_free(vars);
    return good;
}

static void check_template(const char *name, int *n_good, int *n_all)
{
    char *path = data_path("jinja", name, ".jinja"),
         *want_path = data_path("expected", name, ".json");
    size_t n;
    char *text = read_text(path, &n);
    struct jv *want = NULL;
    struct err e;
    assert_int_equal(jv_parse_file(&want, want_path, 8 << 20, &e), 0);
    const struct jv *renderings = jv_get(want, "renderings");
    int good = 0;
    for (size_t i = 0; i < jv_len(contexts); i++) {
        const struct jv *ctx = jv_at(contexts, i);
        const struct jv *one = jv_get(renderings, jv_str(jv_get(ctx, "name"), ""));
        assert_non_null(one);
        good += check_pair(name, text, n, ctx, one);
    }
    if ((size_t)good != jv_len(contexts))
        printf("%s: %d of %zu\n", name, good, jv_len(contexts));
    *n_good += good;
    *n_all += (int)jv_len(contexts);
    jv_free(want);
    free(text);
    free(path);
    free(want_path);
}

static void test_vendors(void **state)
{
    (void)state;
    char *dir = data_path("jinja", "", "");
    DIR *d = opendir(dir);
    int n_good = 0, n_all = 0;
    assert_non_null(d);
    struct dirent *de;
    while ((de = readdir(d)) != NULL) {
        char *dot = strstr(de->d_name, ".jinja");
        if (!dot)
            continue;
        *dot = 0;
        check_template(de->d_name, &n_good, &n_all);
    }
    closedir(d);
    free(dir);
    printf("%d of %d renderings as expected\n", n_good, n_all);
    assert_int_equal(n_good, n_all);
}

static void test_cases(void **state)
{
    (void)state;
    char *path = data_path("e2e-cases.jsonl", "", "");
    path[strlen(path) - 1] = 0; /* the joining slash */
    size_t n;
    char *all = read_text(path, &n), *save = NULL;
    int n_good = 0, n_all = 0;
    for (char *line = strtok_r(all, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct jv *c = NULL;
        struct err e = {0};
        assert_int_equal(jv_parse(&c, line, strlen(line), 64, &e), 0);
        const char *text = jv_str(jv_get(c, "chat_template"), "");
        struct jv *vars = vars_of(jv_get(c, "data"));
        struct buf out;
        bool raised;
        buf_init(&out, 4 << 20);
        assert_false(chat_text_is_go(text, strlen(text)));
        int rc = chat_render_raw(text, strlen(text), vars, &out, &raised, &e);
        bool good = rc == 0 && strcmp(buf_cstr(&out), jv_str(jv_get(c, "expected"), "")) == 0;
        if (!good) {
            printf("  %s: %s\n", jv_str(jv_get(c, "name"), "?"), rc ? e.msg : "another text");
            if (!rc)
                show_difference(buf_cstr(&out), jv_str(jv_get(c, "expected"), ""));
        }
        n_good += good;
        n_all++;
        buf_fini(&out);
        jv_free(vars);
        jv_free(c);
    }
    free(all);
    free(path);
    printf("%d of %d cases as expected\n", n_good, n_all);
    assert_int_equal(n_good, n_all);
}

int main(void)
{
    const char *env = getenv("QUIRE_TEST_DATA");
    struct err e;
    data_dir = strdup(env ? env : QUIRE_SHARED_DATA);
    char *path = data_path("contexts.json", "", "");
    path[strlen(path) - 1] = 0;
    if (!fs_exists(path)) {
        printf("no test data at %s: skipped\n", path);
        return 77;
    }
    setenv("QUIRE_FIXED_TIME", "2026-11-21T12:00:00", 1);
    if (jv_parse_file(&contexts, path, 8 << 20, &e)) {
        printf("%s\n", e.msg);
        return 1;
    }
    free(path);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vendors),
                                       cmocka_unit_test(test_cases)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    jv_free(contexts);
    free(data_dir);
    return rc;
}
