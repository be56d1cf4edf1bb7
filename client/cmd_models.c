/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_models.c - list, terminate, registrations, register, unregister, stop-cluster. */
#include "client/cli.h"
#include "client/cli_common.h"
#include "client/table.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A JSON scalar as a table cell. */
static void cell(struct table *t, const struct jv *v)
{
    char s[64];
    switch (jv_kind(v)) {
    case JV_STRING:
        table_cell(t, jv_str(v, ""), false);
        break;
    case JV_INT:
        snprintf(s, sizeof s, "%lld", (long long)jv_int(v, 0));
        table_cell(t, s, true);
        break;
    case JV_REAL:
        snprintf(s, sizeof s, "%g", jv_num(v, 0));
        table_cell(t, s, true);
        break;
    case JV_BOOL:
        table_cell(t, jv_bool(v, false) ? "True" : "False", false);
        break;
    case JV_ARRAY: {
        struct buf b;
        buf_init(&b, 4096);
        buf_puts(&b, "[");
        for (size_t i = 0; i < jv_len(v); i++)
            buf_printf(&b, "%s'%s'", i ? ", " : "", jv_str(jv_at(v, i), "?"));
        buf_puts(&b, "]");
        table_cell(t, buf_cstr(&b), false);
        buf_fini(&b);
        break;
    }
    default:
        table_cell(t, "-", false);
    }
}

/* "0_5" is how sizes below one travel; people read 0.5. */
static void size_cell(struct table *t, const struct jv *v)
{
    if (!jv_is(v, JV_STRING)) {
        cell(t, v);
        return;
    }
    char s[32];
    snprintf(s, sizeof s, "%s", jv_str(v, ""));
    for (char *p = s; *p; p++)
        if (*p == '_')
            *p = '.';
    table_cell(t, s, true);
}

int cli_list(int argc, char **argv)
{
    struct cli_conn conn = {0};
    const struct opt opts[] = {CLI_CONN_OPTS(conn)};
    const struct opts_cmd cmd = {"quire list",
                                 NULL,
                                 "Show the running models.",
                                 "  quire list\n  quire list --endpoint http://rig:9997",
                                 opts,
                                 NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);

    struct api_client *c = NULL;
    struct jv *answer = NULL;
    struct table *t = NULL;
    if (api_client_open(&c, conn.endpoint, conn.api_key, &e) != 0 ||
        api_client_call(c, "GET", "/v1/models", NULL, &answer, &e) != 0) {
        rc = cli_fail(&e);
        goto done;
    }
    static const char *const cols[] = {
        "UID", "Type", "Name", "Format", "Size (in billions)", "Quantization"};
    t = table_new(NUM_COUNT(cols), cols);
    const struct jv *data = jv_get(answer, "data");
    for (size_t i = 0; t && i < jv_len(data); i++) {
        const struct jv *m = jv_at(data, i);
        cell(t, jv_get(m, "id"));
        cell(t, jv_get(m, "model_type"));
        cell(t, jv_get(m, "model_name"));
        cell(t, jv_get(m, "model_format"));
        size_cell(t, jv_get(m, "model_size_in_billions"));
        cell(t, jv_get(m, "quantization"));
    }
    if (t && jv_len(data) > 0) {
        table_print(t, stderr);
        putchar('\n');
    } else {
        fprintf(stderr,
                "No model is running. Launch one with: quire launch --model-name smollm2\n");
    }
    rc = 0;
done:
    table_free(t);
    jv_free(answer);
    api_client_close(c);
    return rc;
}

/* Commands that make one call on a path and print nothing on success. */
static int simple_call(const struct cli_conn *conn, const char *method, const char *path,
                       const struct jv *body)
{
    struct err e = {0};
    struct api_client *c = NULL;
    int rc = 0;
    if (api_client_open(&c, conn->endpoint, conn->api_key, &e) != 0 ||
        api_client_call(c, method, path, body, NULL, &e) != 0)
        rc = cli_fail(&e);
    api_client_close(c);
    return rc;
}

int cli_terminate(int argc, char **argv)
{
    struct cli_conn conn = {0};
    const char *uid = NULL;
    const struct opt opts[] = {
        {"model-uid", "u", OPT_STR, &uid, "UID", "the model to stop (see quire list)", 0, 0},
        CLI_CONN_OPTS(conn)};
    const struct opts_cmd cmd = {"quire terminate",
                                 "[UID]",
                                 "Stop a model and free its memory.",
                                 "  quire terminate --model-uid smollm2",
                                 opts,
                                 NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);
    if (!uid && n_pos > 0)
        uid = argv[1];
    if (!uid) {
        err_set(&e, Q_EINVAL, "which model? Name it with --model-uid");
        return cli_usage(&cmd, &e);
    }
    struct buf path;
    buf_init(&path, 4096);
    cli_model_path(&path, uid, "");
    rc = simple_call(&conn, "DELETE", buf_cstr(&path), NULL);
    buf_fini(&path);
    return rc;
}

int cli_registrations(int argc, char **argv)
{
    struct cli_conn conn = {0};
    const char *type = "LLM";
    const struct opt opts[] = {
        {"model-type", "t", OPT_STR, &type, "TYPE", "kind of model (default LLM)", 0, 0},
        CLI_CONN_OPTS(conn)};
    const struct opts_cmd cmd = {
        "quire registrations",   NULL, "Show the models that can be launched by name.",
        "  quire registrations", opts, NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);

    struct api_client *c = NULL;
    struct jv *answer = NULL;
    struct table *t = NULL;
    struct buf path;
    buf_init(&path, 1024);
    buf_puts(&path, "/v1/model_registrations/");
    api_client_escape(&path, type);
    buf_puts(&path, "?detailed=true");
    if (api_client_open(&c, conn.endpoint, conn.api_key, &e) != 0 ||
        api_client_call(c, "GET", buf_cstr(&path), NULL, &answer, &e) != 0) {
        rc = cli_fail(&e);
        goto done;
    }
    static const char *const cols[] = {"Type", "Name", "Language", "Ability", "Is-built-in"};
    t = table_new(NUM_COUNT(cols), cols);
    for (size_t i = 0; t && i < jv_len(answer); i++) {
        const struct jv *m = jv_at(answer, i);
        table_cell(t, type, false);
        cell(t, jv_get(m, "model_name"));
        cell(t, jv_get(m, "model_lang"));
        cell(t, jv_get(m, "model_ability"));
        cell(t, jv_get(m, "is_builtin"));
    }
    if (t)
        table_print(t, stderr);
    rc = 0;
done:
    table_free(t);
    buf_fini(&path);
    jv_free(answer);
    api_client_close(c);
    return rc;
}

int cli_register(int argc, char **argv)
{
    struct cli_conn conn = {0};
    const char *type = "LLM", *file = NULL, *worker_ip = NULL;
    bool persist = false;
    const struct opt opts[] = {
        {"model-type", "t", OPT_STR, &type, "TYPE", "kind of model (default LLM)", 0, 0},
        {"file", "f", OPT_STR, &file, "FILE", "JSON description of the model family", 0, 0},
        {"worker-ip", "w", OPT_STR, &worker_ip, "ADDRESS", "accepted; every worker learns it", 0,
         0},
        {"persist", "p", OPT_FLAG, &persist, NULL, "accepted; registrations are always kept", 0, 0},
        CLI_CONN_OPTS(conn)};
    const struct opts_cmd cmd = {"quire register",
                                 NULL,
                                 "Make a model of your own launchable by name.",
                                 "  quire register --file my-model.json\n"
                                 "The form of the file: docs/catalogue.md",
                                 opts,
                                 NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);
    if (!file) {
        err_set(&e, Q_EINVAL, "which file? Name it with --file");
        return cli_usage(&cmd, &e);
    }
    struct buf text, path;
    buf_init(&text, 8 << 20);
    buf_init(&path, 1024);
    struct jv *family = NULL, *body = jv_new_object();
    if (jv_parse_file(&family, file, 4 << 20, &e) != 0) {
        rc = cli_fail(&e);
        goto done;
    }
    jv_write(&text, family, 0); /* the API wants the description as a text */
    jv_set(body, "model", jv_new_strn(buf_cstr(&text), text.len));
    jv_set(body, "persist", jv_new_bool(true));
    buf_puts(&path, "/v1/model_registrations/");
    api_client_escape(&path, type);
    rc = simple_call(&conn, "POST", buf_cstr(&path), body);
done:
    jv_free(family);
    jv_free(body);
    buf_fini(&path);
    buf_fini(&text);
    return rc;
}

int cli_unregister(int argc, char **argv)
{
    struct cli_conn conn = {0};
    const char *type = "LLM", *name = NULL;
    const struct opt opts[] = {
        {"model-type", "t", OPT_STR, &type, "TYPE", "kind of model (default LLM)", 0, 0},
        {"model-name", "n", OPT_STR, &name, "NAME", "the registered name", 0, 0},
        CLI_CONN_OPTS(conn)};
    const struct opts_cmd cmd = {"quire unregister",
                                 NULL,
                                 "Forget a model that was registered by hand.",
                                 "  quire unregister --model-name my-model",
                                 opts,
                                 NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);
    if (!name) {
        err_set(&e, Q_EINVAL, "which model? Name it with --model-name");
        return cli_usage(&cmd, &e);
    }
    struct buf path;
    buf_init(&path, 2048);
    buf_puts(&path, "/v1/model_registrations/");
    api_client_escape(&path, type);
    buf_putc(&path, '/');
    api_client_escape(&path, name);
    rc = simple_call(&conn, "DELETE", buf_cstr(&path), NULL);
    buf_fini(&path);
    return rc;
}

int cli_stop_cluster(int argc, char **argv)
{
    struct cli_conn conn = {0};
    bool check = false;
    const struct opt opts[] = {{"check", NULL, OPT_FLAG, &check, NULL, "do not ask first", 0, 0},
                               CLI_CONN_OPTS(conn)};
    const struct opts_cmd cmd = {"quire stop-cluster",
                                 NULL,
                                 "Stop the supervisor, its workers and all models.",
                                 "  quire stop-cluster --endpoint http://127.0.0.1:9997 --check",
                                 opts,
                                 NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);
    if (!check) {
        fprintf(stderr, "This stops every model and worker of the cluster. Go on? (y/[n]): ");
        int ch = getchar();
        if (ch != 'y' && ch != 'Y')
            return 1;
    }
    rc = simple_call(&conn, "DELETE", "/v1/clusters", NULL);
    if (rc == 0)
        puts("Cluster stopped: True");
    return rc;
}
