/* SPDX-License-Identifier: Apache-2.0 */
/* test_client.c - tables that line up, escaped paths, endpoints. */
#include "client/api_client.h"
#include "client/cli_common.h"
#include "client/table.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void test_table_lines_up(void **state)
{
    (void)state;
    static const char *const cols[] = {"UID", "Size", "Name"};
    struct table *t = table_new(3, cols);
    table_cell(t, "a-long-uid", false);
    table_cell(t, "7", true);
    table_cell(t, NULL, false);
    table_cell(t, "\xC3\xA9", false); /* one character, two bytes */
    table_cell(t, "0.5", true);
    table_cell(t, "x", false);
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    table_print(t, f);
    fclose(f);
    assert_string_equal(text, "UID         Size  Name\n"
                              "----------  ----  ----\n"
                              "a-long-uid     7  -\n"
                              "\xC3\xA9            0.5  x\n");
    free(text);
    table_free(t);
}

static void test_paths_are_escaped(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 256);
    cli_model_path(&b, "a b/../\xC3\xA9?x", "/progress");
    assert_string_equal(b.data, "/v1/models/a%20b%2F..%2F%C3%A9%3Fx/progress");
    buf_fini(&b);
}

static void test_endpoint(void **state)
{
    (void)state;
    struct err e;
    struct api_client *c;
    assert_int_equal(api_client_open(&c, "localhost:9997", NULL, &e), Q_EINVAL);
    assert_non_null(strstr(e.msg, "http://"));
    assert_int_equal(api_client_open(&c, "http://127.0.0.1:1///", NULL, &e), 0);
    assert_string_equal(api_client_endpoint(c), "http://127.0.0.1:1");
    assert_int_equal(api_client_call(c, "GET", "/v1/models", NULL, NULL, &e), Q_EUNAVAILABLE);
    assert_non_null(strstr(e.msg, "quire start"));
    api_client_close(c);
}

static void test_a_silent_server_is_given_up(void **state)
{
    (void)state;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)(void *)&a, n), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)(void *)&a, &n), 0);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(a.sin_port));
    struct err e;
    struct api_client *c;
    alarm(30); /* without a time-out of its own the call never returns */
    assert_int_equal(api_client_open(&c, url, NULL, &e), 0);
    assert_int_equal(api_client_call(c, "GET", "/v1/models", NULL, NULL, &e), Q_EIO);
    alarm(0);
    assert_non_null(strstr(e.msg, "Timeout"));
    api_client_close(c);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_lines_up),
        cmocka_unit_test(test_paths_are_escaped),
        cmocka_unit_test(test_endpoint),
        cmocka_unit_test(test_a_silent_server_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
