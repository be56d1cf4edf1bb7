/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON-lines loop, and the two commands that are built on little else. */
#include "base/fs.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static FILE *temp_with(const char *text, size_t n)
{
    FILE *f = tmpfile();
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    rewind(f);
    return f;
}

static void read_all(FILE *f, struct buf *b)
{
    char chunk[4096];
    size_t n;
    rewind(f);
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_put(b, chunk, n);
}

/* {"do":"ok"|"fail"|"with"|"huge"} */
static int act(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    const char *what;
    ++*(int *)ctx;
    int rc = jsonl_str(req, "do", &what, NULL, e);
    if (rc)
        return rc;
    jw_kint(out, "before", 1);
    if (strcmp(what, "huge") == 0) {
        for (int i = 0; i < 100000; i++)
            buf_puts(out, "0123456789");
    }
    if (strcmp(what, "fail") == 0)
        return err_set(e, Q_EINVAL, "it \"failed\"");
    if (strcmp(what, "with") == 0) {
        err_set(e, Q_EINVAL, "refused");
        return JSONL_ERROR_WITH;
    }
    return 0;
}

static void check_loop(const char *in, size_t n, size_t max_line, const char *want, int want_calls)
{
    FILE *fi = temp_with(in, n), *fo = tmpfile();
    struct jsonl_config cfg = {.in_fd = fileno(fi),
                               .out_fd = fileno(fo),
                               .max_line_bytes = max_line,
                               .max_answer_bytes = 100000};
    int calls = 0;
    struct buf got;
    buf_init(&got, 1 << 24);
    assert_int_equal(jsonl_run(&cfg, act, &calls, NULL), 0);
    read_all(fo, &got);
    assert_string_equal(buf_cstr(&got), want);
    assert_int_equal(calls, want_calls);
    buf_fini(&got);
    fclose(fi);
    fclose(fo);
}

static void test_loop(void **state)
{
    (void)state;
    static const char in[] = "{\"id\":1,\"do\":\"ok\"}\n"
                             "{\"id\":[\"x\"],\"do\":\"fail\"}\n"
                             "{\"do\":\"with\"}\r\n"
                             "[]\n"
                             "{\"id\":4}\n"
                             "{\"id\":5,\"do\":\"huge\"}\n"
                             "{\"id\":6,\"do\":\"ok\"}"; /* no newline at the end */
    check_loop(in, sizeof(in) - 1, 0,
               "{\"id\":1,\"before\":1}\n"
               "{\"id\":[\"x\"],\"error\":\"it \\\"failed\\\"\"}\n"
               "{\"id\":null,\"before\":1,\"error\":\"refused\"}\n"
               "{\"id\":null,\"error\":\"not a JSON object\"}\n"
               "{\"id\":4,\"error\":\"\\\"do\\\" is missing\"}\n"
               "{\"id\":5,\"error\":\"the answer is too large or memory ran out\"}\n"
               "{\"id\":6,\"before\":1}\n",
               6);
    check_loop("", 0, 0, "", 0);
}

static void test_long_line(void **state)
{
    (void)state;
    size_t n = 600000;
    char *in = malloc(n + 100);
    assert_non_null(in);
    memset(in, ' ', n);
    strcpy(in + n, "\n{\"id\":2,\"do\":\"ok\"}\n");
    check_loop(in, strlen(in), 100000,
               "{\"id\":null,\"error\":\"the line is too long\"}\n{\"id\":2,\"before\":1}\n", 1);
    free(in);
}

/* Answers come one by one to a caller that waits for each. */
static void test_dialogue(void **state)
{
    (void)state;
    int to[2], from[2];
    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int calls = 0;
        close(to[1]);
        close(from[0]);
        struct jsonl_config cfg = {.in_fd = to[0], .out_fd = from[1]};
        _exit(jsonl_run(&cfg, act, &calls, NULL) ? 1 : 0);
    }
    close(to[0]);
    close(from[1]);
    for (int i = 0; i < 3; i++) {
        char line[100];
        size_t n = 0;
        dprintf(to[1], "{\"id\":%d,\"do\":\"ok\"}\n", i);
        while (n < sizeof(line) - 1 && (n == 0 || line[n - 1] != '\n')) {
            ssize_t r = read(from[0], line + n, sizeof(line) - 1 - n);
            assert_true(r > 0);
            n += (size_t)r;
        }
        line[n] = '\0';
        char want[100];
        snprintf(want, sizeof(want), "{\"id\":%d,\"before\":1}\n", i);
        assert_string_equal(line, want);
    }
    close(to[1]);
    close(from[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Run a command in a child with stdin from `in`; its stdout goes to out. Returns its status. */
static int run_tool(int (*tool)(int, char **), const char *const *args, const char *in,
                    struct buf *out)
{
    FILE *fi = temp_with(in, strlen(in)), *fo = tmpfile();
    char *argv[16];
    int argc = 0, status;
    while (args[argc] && argc < 15) {
        argv[argc] = strdup(args[argc]);
        argc++;
    }
    argv[argc] = NULL;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fileno(fi), STDIN_FILENO);
        dup2(fileno(fo), STDOUT_FILENO);
        if (!freopen("/dev/null", "w", stderr))
            _exit(99);
        int rc = tool(argc, argv);
        fflush(stdout);
        _exit(rc);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    buf_clear(out);
    read_all(fo, out);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    fclose(fi);
    fclose(fo);
    return WEXITSTATUS(status);
}

static void test_tokenize(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 20);
    setenv("QUIRE_SHARE", QUIRE_SOURCE_DIR "/share", 1);
    const char *jsonl[] = {"tokenize", "--model", "story", "--jsonl", NULL};
    int rc = run_tool(tool_tokenize, jsonl,
                      "{\"id\":1,\"text\":\"Once upon a time\"}\n"
                      "{\"id\":2,\"text\":\"<|endoftext|>\",\"add_special\":false}\n"
                      "{\"id\":3,\"text\":\"a\\u0000\",\"add_special\":false}\n"
                      "{\"id\":4,\"text\":7}\n"
                      "what?\n",
                      &out);
    assert_int_equal(rc, 0);
    char *at = strstr(out.data, "{\"id\":1,\"ids\":[0,376,377,259,360]}\n{\"id\":2,\"ids\":[0]}\n");
    assert_ptr_equal(at, out.data);
    assert_non_null(strstr(out.data, "{\"id\":4,\"error\":"));
    assert_non_null(strstr(out.data, "{\"id\":null,\"error\":"));

    const char *detok[] = {"detokenize", "--model", "story", "--jsonl", NULL};
    rc = run_tool(tool_detokenize, detok,
                  "{\"id\":1,\"ids\":[0,376,377],\"special\":false}\n"
                  "{\"id\":2,\"ids\":[0,376]}\n{\"id\":3,\"ids\":[1024]}\n",
                  &out);
    assert_int_equal(rc, 0);
    assert_string_equal(out.data, "{\"id\":1,\"text\":\"Once upon\"}\n"
                                  "{\"id\":2,\"text\":\"<|endoftext|>Once\"}\n"
                                  "{\"id\":3,\"error\":\"\\\"ids\\\"[0] is no token id: the "
                                  "vocabulary has 1024 tokens\"}\n");
    buf_fini(&out);
}

static void test_exit_status(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 20);
    setenv("QUIRE_SHARE", QUIRE_SOURCE_DIR "/share", 1);
    const char *ok[] = {"tokenize", "-m", "story", "Once upon", NULL};
    const char *no_model[] = {"tokenize", "text", NULL};
    const char *unknown[] = {"tokenize", "--model", "no-such-model", NULL};
    const char *no_gguf[] = {"tokenize", "--model", QUIRE_SOURCE_DIR "/CMakeLists.txt", NULL};
    const char *bad_opt[] = {"tokenize", "--modle", "story", NULL};
    const char *bad_id[] = {"detokenize", "-m", "story", "12x", NULL};
    const char *ids[] = {"detokenize", "-m", "story", "376,", "377", NULL};
    assert_int_equal(run_tool(tool_tokenize, ok, "", &out), 0);
    assert_non_null(strstr(out.data, "\"Once\""));
    assert_int_equal(run_tool(tool_tokenize, no_model, "", &out), 2);
    assert_int_equal(run_tool(tool_tokenize, unknown, "", &out), 1);
    assert_int_equal(run_tool(tool_tokenize, no_gguf, "", &out), 1);
    assert_int_equal(run_tool(tool_tokenize, bad_opt, "", &out), 2);
    assert_int_equal(run_tool(tool_detokenize, bad_id, "", &out), 2);
    assert_int_equal(run_tool(tool_detokenize, ids, "", &out), 0);
    assert_string_equal(out.data, "Once upon\n");
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loop),        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_dialogue),    cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_exit_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
