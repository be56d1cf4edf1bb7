/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fs.h"
#include "supervisor/control/catalogue.h"
#include "supervisor/store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char home[64];

static int setup(void **state)
{
    snprintf(home, sizeof home, "/tmp/quire-test-XXXXXX");
    if (!mkdtemp(home))
        return -1;
    struct err e = {0};
    struct catalogue *c = NULL;
    if (catalogue_open(&c, QUIRE_SOURCE_DIR "/share", home, &e))
        fail_msg("%s", e.msg);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    char cmd[128];
    catalogue_close(*state);
    snprintf(cmd, sizeof cmd, "rm -rf %s", home);
    return system(cmd);
}

static struct jv *json(const char *text)
{
    struct jv *v;
    struct err e;
    if (jv_parse(&v, text, strlen(text), 32, &e))
        fail_msg("%s", e.msg);
    return v;
}

static const char *text_of(const struct jv *spec, const char *key)
{
    return jv_str(jv_get(spec, key), "");
}

static void picks(void **state)
{
    const struct jv *f, *s;
    struct err e;
    struct catalogue_wish w = {.name = "smollm2-135m-instruct", .type = "LLM"};
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), 0);
    assert_string_equal(text_of(f, "model_name"), "smollm2");
    assert_string_equal(text_of(s, "quantization"), "q4_1");
    char *path, *source;
    assert_int_equal(catalogue_source(f, s, &path, &source, &e), 0);
    assert_null(path);
    assert_non_null(strstr(source, "\"kind\":\"pypi\""));
    free(source);

    w = (struct catalogue_wish){.name = "qwen2.5-instruct", .type = "LLM", .size = "0.5"};
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), 0);
    assert_string_equal(text_of(s, "quantization"), "q4_k_m");
    assert_string_equal(text_of(s, "model_size_in_billions"), "0_5");
    w.size = "7";
    w.quantization = "Q8_0";
    w.format = "ggufv2";
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), 0);
    assert_int_equal(jv_int(jv_get(s, "model_size_in_billions"), 0), 7);
    assert_string_equal(text_of(s, "quantization"), "q8_0");
    assert_int_equal(catalogue_source(f, s, &path, &source, &e), Q_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "cannot download qwen2.5-instruct here"));
    assert_non_null(strstr(e.msg, "--model-path: qwen2.5-7b-instruct-q8_0.gguf"));
}

static void teaches(void **state)
{
    const struct jv *f, *s;
    struct err e;
    struct catalogue_wish w = {.name = "smolm2", .type = "LLM"};
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "Model not found, name: smolm2, format: None"));
    assert_non_null(strstr(e.msg, "Did you mean: smollm2"));
    w.name = "qwen2.5";
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "qwen2.5-instruct"));
    w.name = "zzzzzzzzzzzzzzzzzzzzzzzzzz";
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), Q_ENOTFOUND);
    assert_null(strstr(e.msg, "Did you mean"));
    w = (struct catalogue_wish){.name = "story", .type = "LLM", .quantization = "q2_k"};
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "There is: 0_0026 ggufv2 q8_0"));
    w = (struct catalogue_wish){.name = "story", .type = "nonsense"};
    assert_int_equal(catalogue_pick(*state, &w, &f, &s, &e), Q_EINVAL);
}

static void registers(void **state)
{
    struct catalogue *c = *state;
    struct err e = {0};
    const char *param = NULL;
    struct jv *v = json("{\"model_name\": \"mine\", \"extra\": 1, \"model_specs\": ["
                        "{\"quantizations\": [\"q4_0\", \"q8_0\"], \"model_size_in_billions\": 1,"
                        " \"model_uri\": \"file:///models/\","
                        " \"model_file_name_template\": \"m-{quantization}.gguf\"}]}");
    assert_int_equal(catalogue_register(c, "LLM", v, &param, &e), 0);
    assert_int_equal(catalogue_register(c, "LLM", v, &param, &e), Q_EEXIST);
    assert_false(catalogue_is_builtin(c, "LLM", "mine"));
    assert_true(catalogue_is_builtin(c, "LLM", "story"));
    jv_free(v);

    struct catalogue *again;
    assert_int_equal(catalogue_open(&again, QUIRE_SOURCE_DIR "/share", home, &e), 0);
    const struct jv *f, *s;
    struct catalogue_wish w = {.name = "mine", .type = "LLM", .quantization = "Q8_0"};
    assert_int_equal(catalogue_pick(again, &w, &f, &s, &e), 0);
    assert_int_equal(jv_int(jv_get(f, "extra"), 0), 1);
    char *path, *source;
    assert_int_equal(catalogue_source(f, s, &path, &source, &e), 0);
    assert_string_equal(path, "/models/m-q8_0.gguf");
    free(path);
    catalogue_close(again);

    assert_int_equal(catalogue_unregister(c, "LLM", "story", &e), Q_EINVAL);
    assert_int_equal(catalogue_unregister(c, "LLM", "nobody", &e), 0);
    assert_int_equal(catalogue_unregister(c, "LLM", "mine", &e), 0);
    assert_null(catalogue_find(c, "LLM", "mine"));
    assert_int_equal(catalogue_open(&again, QUIRE_SOURCE_DIR "/share", home, &e), 0);
    assert_null(catalogue_find(again, "LLM", "mine"));
    catalogue_close(again);
}

static void refuses(void **state)
{
    static const char *const bad[] = {
        "[]",
        "{}",
        "{\"model_name\": \"../../etc/x\", \"model_specs\": [{}]}",
        "{\"model_name\": \"a b\", \"model_specs\": [{}]}",
        "{\"model_name\": \"x\"}",
        "{\"model_name\": \"x\", \"model_specs\": []}",
        "{\"model_name\": \"x\", \"model_specs\": [1]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_uri\": \"http://a/b\"}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_uri\": \"file://host/b\"}]}",
        "{\"model_name\": \"x\", \"context_length\": -1, \"model_specs\": [{}]}",
        "{\"model_name\": \"x\", \"model_ability\": \"chat\", \"model_specs\": [{}]}",
        "{\"model_name\": \"x\", \"model_ability\": [1], \"model_specs\": [{}]}",
        "{\"model_name\": \"story\", \"model_specs\": [{}]}",
        "{\"model_name\": 7, \"model_specs\": [{}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": -1}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": 0}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": \"abc\"}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": \"\"}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": \"-7\"}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": \"1.8.1\"}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": \"0\"}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": true}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": []}]}",
        "{\"model_name\": \"x\", \"model_specs\": [{\"model_size_in_billions\": 1e9}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct jv *v = json(bad[i]);
        struct err e = {0};
        const char *param = NULL;
        assert_true(catalogue_register(*state, "LLM", v, &param, &e) < 0);
        assert_non_null(param);
        assert_true(e.msg[0] != 0);
        jv_free(v);
    }
    struct jv *v = json("{\"model_name\": \"x\", \"model_specs\": [{}]}");
    const char *param = NULL;
    assert_int_equal(catalogue_register(*state, "LLN", v, &param, NULL), Q_EINVAL);
    jv_free(v);
}

static void damaged_registration_is_skipped(void **state)
{
    (void)state;
    struct err e;
    char path[128];
    snprintf(path, sizeof path, "%s/registrations/llm", home);
    assert_int_equal(fs_mkdirs(path, &e), 0);
    snprintf(path, sizeof path, "%s/registrations/llm/broken.json", home);
    assert_int_equal(fs_write_atomic(path, "{\"model", 7, &e), 0);
    struct catalogue *c;
    assert_int_equal(catalogue_open(&c, QUIRE_SOURCE_DIR "/share", home, &e), 0);
    catalogue_close(c);
}

/* ---- store ------------------------------------------------------------------------------- */

static void each_model(void *ctx, const char *uid, const char *text, size_t n)
{
    struct buf *b = ctx;
    assert_int_equal(strlen(text), n);
    buf_printf(b, "%s=%s;", uid, text);
}

static void stores(void **state)
{
    (void)state;
    struct err e;
    char path[128];
    snprintf(path, sizeof path, "%s/state.db", home);
    struct store *s, *second;
    struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(store_open(&s, path, &e), 0);
    assert_int_equal(store_get(s, "epoch", &b, &e), Q_ENOTFOUND);
    assert_int_equal(store_set(s, "epoch", "7", &e), 0);
    assert_int_equal(store_set(s, "epoch", "8", &e), 0);
    assert_int_equal(store_model_put(s, "b", "{}", &e), 0);
    assert_int_equal(store_model_put(s, "a'; DROP TABLE models", "[1]", &e), 0);
    assert_int_equal(store_model_put(s, "b", "{\"x\":1}", &e), 0);
    assert_int_equal(store_open(&second, path, &e), Q_EEXIST);
    assert_non_null(strstr(e.msg, "another supervisor"));
    store_close(s);
    assert_int_equal(store_open(&s, path, &e), 0);
    assert_int_equal(store_get(s, "epoch", &b, &e), 0);
    assert_string_equal(buf_cstr(&b), "8");
    buf_clear(&b);
    assert_int_equal(store_models(s, each_model, &b, &e), 0);
    assert_string_equal(buf_cstr(&b), "b={\"x\":1};a'; DROP TABLE models=[1];");
    assert_int_equal(store_model_del(s, "b", &e), 0);
    buf_clear(&b);
    assert_int_equal(store_models(s, each_model, &b, &e), 0);
    assert_string_equal(buf_cstr(&b), "a'; DROP TABLE models=[1];");
    store_close(s);
    buf_fini(&b);
    assert_int_equal(store_open(&s, "/nonexistent/state.db", &e), Q_EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(picks, setup, teardown),
        cmocka_unit_test_setup_teardown(teaches, setup, teardown),
        cmocka_unit_test_setup_teardown(registers, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_registration_is_skipped, setup, teardown),
        cmocka_unit_test_setup_teardown(stores, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
