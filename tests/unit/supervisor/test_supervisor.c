/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor as a process, without workers: start, keys, routes, stop. */
#include "base/clock.h"
#include "base/json.h"
#include "supervisor/supervisor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char home[64];
static pid_t pid;
static int port;

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

/* The child runs the program's own main function. */
static pid_t run(const char *const *extra)
{
    pid_t child = fork();
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    dup2(null, 2);
    setenv("QUIRE_HOME", home, 1);
    setenv("QUIRE_SHARE", QUIRE_SOURCE_DIR "/share", 1);
    unsetenv("QUIRE_API_KEY");
    char text[16];
    snprintf(text, sizeof text, "%d", port);
    char *argv[16] = {(char *)"supervisor", (char *)"-p", text};
    int argc = 3;
    for (; extra && *extra; extra++)
        argv[argc++] = (char *)*extra;
    exit(supervisor_main(argc, argv));
}

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void start(const char *const *extra)
{
    port = free_port();
    pid = run(extra);
    int fd = -1;
    for (int i = 0; i < 1000 && (fd = dial()) < 0; i++)
        usleep(5000);
    assert_true(fd >= 0);
    close(fd);
}

/* Status of the answer; its body in *body when it is JSON. */
static int ask(const char *method, const char *path, const char *header, const char *json,
               struct jv **body)
{
    static char in[1 << 20];
    char out[4096];
    int n = snprintf(out, sizeof out,
                     "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %zu\r\n"
                     "Content-Type: application/json\r\n\r\n%s",
                     method, path, header ? header : "", json ? strlen(json) : 0, json ? json : "");
    int fd = dial(), status = 0;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, out, (size_t)n), n);
    size_t got = 0;
    for (ssize_t k; got < sizeof in - 1 && (k = read(fd, in + got, sizeof in - 1 - got)) > 0;)
        got += (size_t)k;
    close(fd);
    in[got] = 0;
    assert_int_equal(sscanf(in, "HTTP/1.1 %d", &status), 1);
    const char *text = strstr(in, "\r\n\r\n");
    struct err e;
    if (body) {
        *body = NULL;
        assert_non_null(text);
        if (jv_parse(body, text + 4, strlen(text + 4), 64, &e))
            fail_msg("%s %s: %s in %s", method, path, e.msg, text);
    }
    return status;
}

static int stop(int sig)
{
    int status = 0;
    uint64_t begun = clock_mono_ms();
    kill(pid, sig);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(clock_mono_ms() - begun < 5000);
    pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int setup(void **state)
{
    (void)state;
    snprintf(home, sizeof home, "/tmp/quire-test-XXXXXX");
    return mkdtemp(home) ? 0 : -1;
}

static int teardown(void **state)
{
    char cmd[128];
    (void)state;
    if (pid)
        stop(SIGKILL);
    snprintf(cmd, sizeof cmd, "rm -rf %s", home);
    return system(cmd);
}

static const char *detail(const struct jv *body)
{
    return jv_str(jv_get(body, "detail"), "");
}

static void starts_answers_stops(void **state)
{
    (void)state;
    struct jv *b;
    start(NULL);
    assert_int_equal(ask("GET", "/v1/models", NULL, NULL, &b), 200);
    assert_int_equal(jv_len(jv_get(b, "data")), 0);
    jv_free(b);
    assert_int_equal(ask("GET", "/status", NULL, NULL, &b), 200);
    assert_true(jv_is(jv_get(b, "workers"), JV_OBJECT));
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/address", NULL, NULL, &b), 200);
    assert_int_equal(strncmp(jv_str(b, ""), "127.0.0.1:", 10), 0);
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/cluster/auth", NULL, NULL, &b), 200);
    assert_false(jv_bool(jv_get(b, "auth"), true));
    jv_free(b);
    assert_int_equal(ask("GET", "/metrics", NULL, NULL, NULL), 200);
    assert_int_equal(ask("GET", "/", NULL, NULL, NULL), 200);
    static const char *const health[] = {"/health", "/v1/health", "/ping"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(ask("GET", health[i], NULL, NULL, &b), 200);
        assert_string_equal(jv_str(jv_get(b, "status"), ""), "ok");
        jv_free(b);
    }
    assert_int_equal(ask("GET", "/models", NULL, NULL, &b), 200);
    assert_string_equal(jv_str(jv_get(b, "object"), ""), "list");
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/nothing", NULL, NULL, &b), 404);
    assert_true(detail(b)[0] != 0);
    jv_free(b);
    assert_int_equal(stop(SIGTERM), 0);
    start(NULL); /* the state file is free again */
    assert_int_equal(stop(SIGINT), 0);
}

static void needs_the_key(void **state)
{
    (void)state;
    struct jv *b;
    static const char *const args[] = {"--api-key", "secret-1", NULL};
    start(args);
    assert_int_equal(ask("GET", "/v1/models", NULL, NULL, &b), 401);
    assert_true(detail(b)[0] != 0);
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/models", "Authorization: Bearer secret-2\r\n", NULL, NULL),
                     401);
    assert_int_equal(ask("GET", "/v1/models", "Authorization: Bearer \r\n", NULL, NULL), 401);
    assert_int_equal(ask("GET", "/v1/models", "Authorization: Basic secret-1\r\n", NULL, NULL),
                     401);
    assert_int_equal(ask("GET", "/v1/nothing", NULL, NULL, NULL), 401);
    assert_int_equal(ask("POST", "/v1/chat/completions", NULL, "{}", NULL), 401);
    assert_int_equal(ask("DELETE", "/v1/clusters", NULL, NULL, NULL), 401);
    assert_int_equal(ask("GET", "/v1/models", "Authorization: Bearer secret-1\r\n", NULL, NULL),
                     200);
    assert_int_equal(ask("GET", "/v1/models", "x-api-key: secret-1\r\n", NULL, NULL), 200);
    assert_int_equal(ask("GET", "/models", NULL, NULL, NULL), 401);
    assert_int_equal(ask("GET", "/status", NULL, NULL, NULL), 200);
    assert_int_equal(ask("GET", "/health", NULL, NULL, NULL), 200);
    assert_int_equal(ask("GET", "/v1/health", NULL, NULL, NULL), 200);
    assert_int_equal(ask("GET", "/ping", NULL, NULL, NULL), 200);
    assert_int_equal(ask("GET", "/v1/cluster/auth", NULL, NULL, &b), 200);
    assert_true(jv_bool(jv_get(b, "auth"), false));
    jv_free(b);
    assert_int_equal(stop(SIGTERM), 0);
}

static int exit_code(const char *const *args)
{
    int status;
    pid_t child = run(args);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void refuses_to_start(void **state)
{
    (void)state;
    static const char *const open_bind[] = {"-H", "0.0.0.0", NULL};
    static const char *const empty_key[] = {"--api-key", "", NULL};
    static const char *const unknown[] = {"--prot", "1", NULL};
    static const char *const level[] = {"--log-level", "loud", NULL};
    port = free_port();
    assert_int_equal(exit_code(open_bind), 2);
    assert_int_equal(exit_code(empty_key), 2);
    assert_int_equal(exit_code(unknown), 2);
    assert_int_equal(exit_code(level), 2);
    start(NULL);
    assert_int_equal(exit_code(NULL), 1); /* the port is taken */
    port = free_port();
    assert_int_equal(exit_code(NULL), 1); /* the home is taken */
    assert_int_equal(stop(SIGTERM), 0);
}

static void assert_param(const struct jv *body, const char *param)
{
    const struct jv *p = jv_get(jv_get(body, "error"), "param");
    if (param)
        assert_string_equal(jv_str(p, "(null)"), param);
    else
        assert_true(jv_is(p, JV_NULL));
}

static void launch_faults(void **state)
{
    (void)state;
    static const struct {
        const char *body, *says, *param; /* param NULL: null */
    } bad[] = {
        {"[]", "object", NULL},
        {"{", "JSON", NULL},
        {"{}", "specify the `model_name` field", "model_name"},
        {"{\"model_name\": 5}", "must be a string", "model_name"},
        {"{\"model_name\": \"story\", \"replica\": 0}", "at least 1", "replica"},
        {"{\"model_name\": \"story\", \"replica\": null}", "replica", "replica"},
        {"{\"model_name\": \"story\", \"replica\": true}", "replica", "replica"},
        {"{\"model_name\": \"story\", \"replica\": \"1.5\"}", "1.5", "replica"},
        {"{\"model_name\": \"story\", \"n_worker\": 0}", "n_worker must be a positive integer.",
         "n_worker"},
        {"{\"model_name\": \"story\", \"n_worker\": 2.0}", "n_worker", "n_worker"},
        {"{\"model_name\": \"story\", \"n_gpu\": -1}", "n_gpu", "n_gpu"},
        {"{\"model_name\": \"story\", \"replica\": 2, \"gpu_idx\": [0]}", "multiple of replica",
         "gpu_idx"},
        {"{\"model_name\": \"story\", \"request_limits\": -1}", "request_limits", "request_limits"},
        {"{\"model_name\": \"story\", \"n_ctx\": -5}", "n_ctx", "n_ctx"},
        {"{\"model_name\": \"story\", \"model_uid\": \"\"}", "model_uid", "model_uid"},
        {"{\"model_name\": \"story\", \"model_uid\": \"a/b\"}", "model_uid", "model_uid"},
        {"{\"model_name\": \"story\", \"model_size_in_billions\": []}", "model_size_in_billions",
         "model_size_in_billions"},
        {"{\"model_name\": \"story\", \"model_size_in_billions\": 7}", "Model not found",
         "model_size_in_billions"},
        {"{\"model_name\": \"story\", \"model_format\": \"pytorch\"}", "ggufv2", "model_format"},
        {"{\"model_name\": \"story\", \"model_type\": \"video\"}", "Unsupported model type",
         "model_type"},
        {"{\"model_name\": \"story\", \"model_engine\": \"warp\"}", "engine", "model_engine"},
        {"{\"model_name\": \"storry\"}", "Did you mean: story", "model_name"},
        {"{\"model_name\": \"qwen3\", \"model_size_in_billions\": \"0_6\"}", "--model-path",
         "model_name"},
        {"{\"model_name\": \"story\", \"quantization\": \"q9\"}", "Model not found",
         "quantization"},
        {"{\"model_name\": \"story\", \"kv_type\": \"f8\"}", "kv_type", "kv_type"},
        {"{\"model_name\": \"story\", \"pack_cache\": \"no\"}", "pack_cache", "pack_cache"},
        {"{\"model_name\": \"story\", \"n_parallel\": 5000}", "1024", "n_parallel"},
        {"{\"model_name\": \"story\", \"replica\": 9999}", "replica", "replica"},
        {"{\"model_name\": \"story\", \"replica_config\": [{}]}", "replica_config",
         "replica_config"},
        {"{\"model_name\": \"story\", \"peft_model_config\": {\"lora_list\": []}}", "LoRA",
         "peft_model_config"},
    };
    start(NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct jv *b;
        int status = ask("POST", "/v1/models", NULL, bad[i].body, &b);
        if (status != 400 || !strstr(detail(b), bad[i].says))
            fail_msg("%s: %d %s", bad[i].body, status, detail(b));
        assert_string_equal(jv_str(jv_get(jv_get(b, "error"), "message"), ""), detail(b));
        assert_param(b, bad[i].param);
        jv_free(b);
    }
    assert_int_equal(stop(SIGTERM), 0);
}

static void registration_faults(void **state)
{
    (void)state;
    static const struct {
        const char *body, *says, *param;
    } bad[] = {
        {"{}", "`model`", "model"},
        {"{\"model\": \"{\"}", "JSON", "model"},
        {"{\"model\": []}", "object", "model"},
        {"{\"model\": {\"model_specs\": [{}]}}", "model_name", "model_name"},
        {"{\"model\": {\"model_name\": \"a b\", \"model_specs\": [{}]}}", "a b", "model_name"},
        {"{\"model\": {\"model_name\": \"x\"}}", "model_specs", "model_specs"},
        {"{\"model\": {\"model_name\": \"x\", \"model_specs\": [{\"model_uri\": \"a\"}]}}",
         "model_uri", "model_uri"},
        {"{\"model\": {\"model_name\": \"x\", \"context_length\": 0, \"model_specs\": [{}]}}",
         "context_length", "context_length"},
        {"{\"model\": {\"model_name\": \"story\", \"model_specs\": [{}]}}", "conflicts",
         "model_name"},
        {"{\"model\": {\"model_name\": \"x\", \"model_specs\": "
         "[{\"model_size_in_billions\": -7}]}}",
         "positive number", "model_size_in_billions"},
    };
    start(NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct jv *b;
        int status = ask("POST", "/v1/model_registrations/LLM", NULL, bad[i].body, &b);
        if (status != 400 || !strstr(detail(b), bad[i].says))
            fail_msg("%s: %d %s", bad[i].body, status, detail(b));
        assert_param(b, bad[i].param);
        jv_free(b);
    }
    assert_int_equal(stop(SIGTERM), 0);
}

static void registrations(void **state)
{
    (void)state;
    struct jv *b;
    start(NULL);
    assert_int_equal(ask("POST", "/v1/model_registrations/LLM", NULL,
                         "{\"persist\": true, \"model\": \"{\\\"model_name\\\": \\\"mine\\\", "
                         "\\\"model_ability\\\": [\\\"chat\\\"], \\\"model_specs\\\": "
                         "[{\\\"model_uri\\\": \\\"/m.gguf\\\", "
                         "\\\"model_size_in_billions\\\": 1}]}\"}",
                         &b),
                     200);
    assert_true(jv_is(b, JV_NULL));
    jv_free(b);
    assert_int_equal(stop(SIGTERM), 0);
    start(NULL);
    assert_int_equal(ask("GET", "/v1/model_registrations/LLM/mine", NULL, NULL, &b), 200);
    assert_false(jv_bool(jv_get(b, "is_builtin"), true));
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/model_registrations/LLM?detailed=true", NULL, NULL, &b), 200);
    assert_true(jv_len(b) > 40);
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/model_registrations/nonsense", NULL, NULL, &b), 400);
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/engines/LLM/mine", NULL, NULL, &b), 200);
    assert_int_equal(jv_len(jv_get(b, "llama.cpp")), 1);
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/engines/nobody", NULL, NULL, &b), 200);
    assert_true(jv_is(b, JV_NULL));
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/models/LLM/mine/versions", NULL, NULL, &b), 200);
    assert_string_equal(jv_str(jv_get(jv_at(b, 0), "model_version"), ""), "mine--1B--ggufv2--none");
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/models/families", NULL, NULL, &b), 200);
    assert_true(jv_len(jv_get(b, "chat")) > 20);
    jv_free(b);
    assert_int_equal(ask("DELETE", "/v1/model_registrations/LLM/mine", NULL, NULL, NULL), 200);
    assert_int_equal(ask("GET", "/v1/model_registrations/LLM/mine", NULL, NULL, &b), 400);
    jv_free(b);
    assert_int_equal(stop(SIGTERM), 0);
}

/* A launch without workers waits for the first, and can be cancelled meanwhile. */
static void cancel_of_a_waiting_launch(void **state)
{
    (void)state;
    struct jv *b;
    start(NULL);
    assert_int_equal(
        ask("POST", "/v1/models?wait_ready=false", NULL, "{\"model_name\": \"story\"}", &b), 200);
    assert_string_equal(jv_str(jv_get(b, "model_uid"), ""), "story");
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/models/story", NULL, NULL, &b), 503);
    jv_free(b);
    assert_int_equal(ask("DELETE", "/v1/models/story", NULL, NULL, &b), 400);
    assert_non_null(strstr(detail(b), "is launching"));
    assert_non_null(strstr(detail(b), "Ctrl-C in `quire launch`"));
    jv_free(b);
    assert_int_equal(ask("GET", "/health", NULL, NULL, &b), 503);
    assert_string_equal(detail(b), "Loading model");
    jv_free(b);
    assert_int_equal(ask("POST", "/v1/models/story/cancel", NULL, "{}", &b), 200);
    jv_free(b);
    assert_int_equal(ask("POST", "/v1/models/story/cancel", NULL, "{}", &b), 500);
    jv_free(b);
    assert_int_equal(ask("GET", "/v1/models/instances?model_uid=story", NULL, NULL, &b), 200);
    assert_string_equal(jv_str(jv_get(jv_at(b, 0), "status"), ""), "ERROR");
    jv_free(b);
    assert_int_equal(ask("DELETE", "/v1/clusters", NULL, NULL, &b), 200);
    jv_free(b);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    pid = 0;
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(starts_answers_stops),
        T(needs_the_key),
        T(refuses_to_start),
        T(launch_faults),
        T(registrations),
        T(registration_faults),
        T(cancel_of_a_waiting_launch),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
