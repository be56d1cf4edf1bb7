/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fs.h"
#include "base/json.h"
#include "worker/tools/tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define STORY QUIRE_SOURCE_DIR "/share/models/story-Q8_0.gguf"

/* Run `inspect ARGS` with stdout and stderr in files; the texts end up in out and err. */
static int run(struct buf *out, struct buf *err_text, const char *a, const char *b)
{
    char name[] = "inspect", arg1[1024], arg2[1024];
    char *argv[] = {name, arg1, arg2, NULL};
    int argc = 1 + (a ? 1 : 0) + (b ? 1 : 0), fds[2] = {dup(1), dup(2)};
    snprintf(arg1, sizeof arg1, "%s", a ? a : "");
    snprintf(arg2, sizeof arg2, "%s", b ? b : "");
    argv[argc] = NULL;
    FILE *files[2] = {tmpfile(), tmpfile()};
    assert_true(files[0] && files[1]);
    fflush(stdout);
    fflush(stderr);
    dup2(fileno(files[0]), 1);
    dup2(fileno(files[1]), 2);
    int status = tool_inspect(argc, argv);
    fflush(stdout);
    fflush(stderr);
    struct buf *to[2] = {out, err_text};
    for (int i = 0; i < 2; i++) {
        dup2(fds[i], i + 1);
        close(fds[i]);
        char chunk[4096];
        size_t n;
        buf_init(to[i], 16u << 20);
        rewind(files[i]);
        while ((n = fread(chunk, 1, sizeof chunk, files[i])) > 0)
            buf_put(to[i], chunk, n);
        fclose(files[i]);
    }
    return status;
}

static void test_json(void **state)
{
    (void)state;
    struct buf out, text;
    struct err e;
    struct jv *v;
    assert_int_equal(run(&out, &text, STORY, "--json"), 0);
    if (jv_parse(&v, out.data, out.len, 16, &e) != 0)
        fail_msg("%s", e.msg);
    assert_string_equal(jv_str(jv_get(v, "architecture"), ""), "llama");
    assert_int_equal(jv_int(jv_get(jv_get(v, "metadata"), "llama.block_count"), 0), 4);
    struct jv *tensors = jv_get(v, "tensors"), *needs = jv_get(v, "needs");
    int64_t bytes = 0;
    for (size_t i = 0; i < jv_len(tensors); i++)
        bytes += jv_int(jv_get(jv_at(tensors, i), "bytes"), 0);
    assert_true(jv_len(tensors) > 30);
    assert_int_equal(jv_int(jv_get(needs, "weight_bytes"), 0), bytes);
    assert_int_equal(jv_int(jv_get(needs, "layers"), 0), 4);
    /* 4 layers, 4 KV heads of 32, keys and values, 2 bytes */
    assert_int_equal(jv_int(jv_get(needs, "kv_bytes_per_token"), 0), 4 * 4 * 32 * 2 * 2);
    struct jv *q8 = jv_get(jv_get(v, "types"), "Q8_0");
    assert_true(jv_bool(jv_get(q8, "runs"), false));
    struct jv *tokens = jv_get(jv_get(v, "metadata"), "tokenizer.ggml.tokens");
    assert_int_equal(jv_int(jv_get(tokens, "count"), 0), 1024);
    jv_free(v);
    buf_fini(&out);
    buf_fini(&text);
}

static void test_human(void **state)
{
    (void)state;
    struct buf out, text;
    assert_int_equal(run(&out, &text, STORY, NULL), 0);
    assert_non_null(strstr(out.data, "blk.0.attn_q.weight"));
    assert_non_null(strstr(out.data, "256 x 256"));
    assert_non_null(strstr(out.data, "Needed to run it"));
    for (size_t i = 0; i < out.len; i++)
        assert_true((unsigned char)out.data[i] >= 32 || out.data[i] == '\n');
    buf_fini(&out);
    buf_fini(&text);
}

static void test_what_cannot_run_is_named(void **state)
{
    (void)state;
    static const char old_name[] = "blk.2.ffn_up.weight";
    char path[] = "/tmp/quire-inspect-XXXXXX";
    struct buf out, text, file;
    struct err e;
    assert_int_equal(run(&out, &text, STORY, NULL), 0);
    assert_null(strstr(out.data, "cannot be run"));
    buf_fini(&out), buf_fini(&text);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    buf_init(&file, 16u << 20);
    if (fs_read(&file, STORY, &e) != 0)
        fail_msg("%s", e.msg);
    char *at = memmem(file.data, file.len, old_name, strlen(old_name));
    assert_non_null(at);
    at[strlen(old_name) - 1] = 'X';
    if (fs_write_atomic(path, file.data, file.len, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(run(&out, &text, path, NULL), 0);
    assert_non_null(strstr(out.data, "cannot be run: 1 tensor"));
    assert_non_null(strstr(out.data, "blk.2.ffn_up.weight is missing"));
    buf_fini(&out), buf_fini(&text);
    assert_int_equal(run(&out, &text, path, "--json"), 0);
    assert_non_null(strstr(out.data, "\"can_run\":false"));
    unlink(path);
    buf_fini(&out), buf_fini(&text), buf_fini(&file);
}

static void test_names_of_registrations(void **state)
{
    (void)state;
    static const char sha[] = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    char home[] = "/tmp/quire-names-XXXXXX", dir[256], file[300];
    struct err e;
    char *path;
    assert_non_null(mkdtemp(home));
    setenv("QUIRE_HOME", home, 1);
    setenv("QUIRE_SHARE", QUIRE_SOURCE_DIR "/share", 1);
    /* Known, but nobody fetched it yet. */
    assert_int_equal(tools_model_path("smollm2", &path, &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "quire launch --model-name smollm2"));
    snprintf(dir, sizeof dir, "%s/models/%s", home, sha);
    snprintf(file, sizeof file, "%s/file.gguf", dir);
    if (fs_mkdirs(dir, &e) != 0 || fs_write_atomic(file, "GGUF", 4, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(tools_model_path("smollm2", &path, &e), 0);
    assert_string_equal(path, file);
    free(path);
    unlink(file);
    rmdir(dir);

    /* One's own registration. */
    snprintf(dir, sizeof dir, "%s/registrations/llm", home);
    snprintf(file, sizeof file, "%s/mine.json", dir);
    static const char mine[] = "{\"model_name\":\"mine\",\"model_specs\":[{\"model_uri\":"
                               "\"file://" STORY "\"}]}";
    if (fs_mkdirs(dir, &e) != 0 || fs_write_atomic(file, mine, strlen(mine), &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(tools_model_path("mine", &path, &e), 0);
    assert_string_equal(path, STORY);
    free(path);
    unlink(file);
    assert_int_equal(tools_model_path("mine", &path, &e), Q_ENOTFOUND);
    assert_non_null(strstr(e.msg, "no file or model named"));
    assert_int_equal(tools_model_path("story", &path, &e), 0);
    assert_non_null(strstr(path, "story-Q8_0.gguf"));
    free(path);
}

static void test_refused(void **state)
{
    (void)state;
    struct buf out, text, file;
    struct err e;
    assert_int_equal(run(&out, &text, NULL, NULL), 2);
    assert_non_null(strstr(text.data, "FILE"));
    buf_fini(&out), buf_fini(&text);
    assert_int_equal(run(&out, &text, STORY, "--jsen"), 2);
    buf_fini(&out), buf_fini(&text);
    assert_int_equal(run(&out, &text, "/nonexistent/model.gguf", NULL), 1);
    assert_int_equal(out.len, 0);
    buf_fini(&out), buf_fini(&text);

    /* A file cut short: the reason, the tensor, a byte. */
    char path[] = "/tmp/quire-inspect-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    buf_init(&file, 16u << 20);
    if (fs_read(&file, STORY, &e) != 0 || fs_write_atomic(path, file.data, 1000000, &e) != 0)
        fail_msg("%s", e.msg);
    assert_int_equal(run(&out, &text, path, "--json"), 1);
    unlink(path);
    assert_int_equal(out.len, 0);
    assert_non_null(strstr(text.data, "tensor \""));
    assert_non_null(strstr(text.data, "byte "));
    assert_non_null(strstr(text.data, "truncated"));
    buf_fini(&out), buf_fini(&text), buf_fini(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_human),
        cmocka_unit_test(test_what_cannot_run_is_named),
        cmocka_unit_test(test_names_of_registrations),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
