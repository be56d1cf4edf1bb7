/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_chat.c - talk to a model: `chat` keeps a conversation, `generate` continues text. */
#include "client/cli.h"
#include "client/cli_common.h"

#include <editline/readline.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct talk {
    struct cli_conn conn;
    const char *uid, *prompt, *system;
    int64_t max_tokens;
    double temperature;
    int64_t seed;
    bool stream, chat;
    struct api_client *client;
};

/* Collects the answer while it is printed. */
struct answer {
    struct buf text;
    struct err error;
    bool chat;
};

static int on_event(void *ctx, const char *json, size_t n)
{
    struct answer *a = ctx;
    struct jv *j = NULL;
    if (jv_parse(&j, json, n, 64, &a->error) != 0)
        return 1;
    const struct jv *error = jv_get(j, "error");
    if (error) {
        const char *text = jv_str(jv_get(error, "message"), jv_str(error, "unknown error"));
        err_set(&a->error, Q_EINTERNAL, "%s", text);
        jv_free(j);
        return 1;
    }
    const struct jv *choice = jv_at(jv_get(j, "choices"), 0);
    const char *text =
        jv_str(a->chat ? jv_get(jv_get(choice, "delta"), "content") : jv_get(choice, "text"), "");
    buf_puts(&a->text, text);
    fputs(text, stdout);
    fflush(stdout);
    jv_free(j);
    return 0;
}

static void print_whole(struct answer *a, const struct jv *j)
{
    const struct jv *choice = jv_at(jv_get(j, "choices"), 0);
    const char *text =
        jv_str(a->chat ? jv_get(jv_get(choice, "message"), "content") : jv_get(choice, "text"), "");
    buf_puts(&a->text, text);
    fputs(text, stdout);
}

/* One request. messages (chat) or prompt (generate); the text goes to stdout and into out. */
static int ask(struct talk *t, const struct jv *messages, const char *prompt, struct buf *out,
               struct err *e)
{
    struct jv *body = jv_new_object(), *whole = NULL;
    jv_set(body, "model", jv_new_str(t->uid));
    if (messages)
        jv_set(body, "messages", jv_ref(messages));
    else
        jv_set(body, "prompt", jv_new_str(prompt));
    if (t->max_tokens > 0)
        jv_set(body, "max_tokens", jv_new_int(t->max_tokens));
    /* The API's default of 1 suits large models; people here often meet small ones. */
    jv_set(body, "temperature", jv_new_real(t->temperature));
    jv_set(body, "top_p", jv_new_real(0.9));
    if (t->seed >= 0)
        jv_set(body, "seed", jv_new_int(t->seed));
    jv_set(body, "stream", jv_new_bool(t->stream));
    const char *path = messages ? "/v1/chat/completions" : "/v1/completions";
    struct answer a = {.chat = messages != NULL};
    buf_init(&a.text, 16 << 20);
    int rc;
    if (t->stream) {
        rc = api_client_stream(t->client, path, body, on_event, &a, e);
        if (rc == 0 && a.error.code != 0) {
            *e = a.error;
            rc = a.error.code;
        }
    } else {
        rc = api_client_call(t->client, "POST", path, body, &whole, e);
        if (rc == 0)
            print_whole(&a, whole);
    }
    putchar('\n');
    if (rc == 0 && out)
        buf_put(out, buf_cstr(&a.text), a.text.len);
    buf_fini(&a.text);
    jv_free(whole);
    jv_free(body);
    return rc;
}

static struct jv *message(const char *role, const char *content)
{
    struct jv *m = jv_new_object();
    jv_set(m, "role", jv_new_str(role));
    struct jv *text = jv_new_str(content);
    jv_set(m, "content", text ? text : jv_new_str(""));
    return m;
}

/* Only one model runs: no need to name it. */
static int pick_uid(struct talk *t, struct buf *uid, struct err *e)
{
    struct jv *models = NULL;
    int rc = api_client_call(t->client, "GET", "/v1/models", NULL, &models, e);
    const struct jv *data = jv_get(models, "data");
    if (rc == 0 && jv_len(data) == 0)
        rc = err_set(e, Q_ENOTFOUND,
                     "no model is running; launch one with: quire launch --model-name smollm2");
    if (rc == 0 && jv_len(data) > 1)
        rc = err_set(e, Q_EINVAL, "several models run: choose one with --model-uid (quire list)");
    if (rc == 0) {
        buf_puts(uid, jv_str(jv_get(jv_at(data, 0), "id"), ""));
        t->uid = buf_cstr(uid);
    }
    jv_free(models);
    return rc;
}

/* Refuse early and kindly when the model cannot chat. */
static int check_ability(struct talk *t, struct err *e)
{
    struct buf path;
    struct jv *m = NULL;
    buf_init(&path, 4096);
    cli_model_path(&path, t->uid, "");
    int rc = api_client_call(t->client, "GET", buf_cstr(&path), NULL, &m, e);
    const struct jv *ability = jv_get(m, "model_ability");
    bool can = jv_len(ability) == 0;
    for (size_t i = 0; i < jv_len(ability); i++)
        can |= strcmp(jv_str(jv_at(ability, i), ""), t->chat ? "chat" : "generate") == 0;
    if (rc == 0 && !can && t->chat)
        rc = err_set(e, Q_EUNSUPPORTED,
                     "%s does not chat, it continues text; use: quire generate --model-uid %s",
                     t->uid, t->uid);
    jv_free(m);
    buf_fini(&path);
    return rc;
}

static char *read_prompt(const char *label)
{
    if (isatty(STDIN_FILENO)) {
        char *line = readline(label);
        if (line && *line)
            add_history(line);
        return line;
    }
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        line[--n] = '\0';
    return line;
}

static int converse(struct talk *t, struct err *e)
{
    struct jv *messages = jv_new_array();
    if (t->system)
        jv_push(messages, message("system", t->system));
    int rc = 0;
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "Talking to %s. An empty line ends.\n", t->uid);
    for (;;) {
        char *line = t->prompt ? strdup(t->prompt) : read_prompt(t->chat ? "User: " : "Prompt: ");
        if (!line || !*line) {
            free(line);
            break;
        }
        struct buf reply;
        buf_init(&reply, 16 << 20);
        if (t->chat) {
            if (!t->prompt)
                printf("Assistant: ");
            jv_push(messages, message("user", line));
            rc = ask(t, messages, NULL, &reply, e);
            jv_push(messages, message("assistant", buf_cstr(&reply)));
        } else {
            printf(t->prompt ? "%s" : "Completion: %s", line);
            fflush(stdout);
            rc = ask(t, NULL, line, NULL, e);
        }
        buf_fini(&reply);
        free(line);
        if (t->prompt || rc != 0)
            break;
    }
    jv_free(messages);
    return rc;
}

static int talk_main(int argc, char **argv, bool chat)
{
    struct talk t = {
        .stream = true, .max_tokens = 512, .temperature = 0.4, .seed = -1, .chat = chat};
    const struct opt opts[] = {
        {"model-uid", "u", OPT_STR, &t.uid, "UID", "which model (default: the only one)", 0, 0},
        {"max-tokens", NULL, OPT_INT, &t.max_tokens, "N", "longest answer (default 512)", 1, 1e9},
        {"temperature", NULL, OPT_NUM, &t.temperature, "T",
         "0 always takes the likeliest token (default 0.4)", 0, 2},
        {"seed", NULL, OPT_INT, &t.seed, "N", "the same seed gives the same answer", 0, 9e15},
        {"stream", NULL, OPT_BOOL, &t.stream, "BOOL", "print as it comes (default true)", 0, 0},
        {"system", NULL, OPT_STR, &t.system, "TEXT", "system message of a chat", 0, 0},
        CLI_CONN_OPTS(t.conn)};
    const struct opts_cmd cmd = {
        chat ? "quire chat" : "quire generate",
        "[TEXT]",
        chat ? "Chat with a model. With TEXT: ask once and print the answer."
             : "Let a model continue text. With TEXT: once, then exit.",
        chat ? "  quire chat --model-uid smollm2\n  quire chat \"Why is the sky blue?\""
             : "  quire generate --model-uid story \"Once upon a time\"",
        opts,
        NUM_COUNT(opts)};
    struct err e = {0};
    int n_pos;
    int rc = opts_parse(&cmd, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc != OPTS_RUN)
        return rc == OPTS_HELP ? 0 : cli_usage(&cmd, &e);
    if (n_pos > 1) {
        err_set(&e, Q_EINVAL, "one text only; put it in quotes");
        return cli_usage(&cmd, &e);
    }
    t.prompt = n_pos == 1 ? argv[1] : NULL;
    struct buf uid;
    buf_init(&uid, 1024);
    rc = api_client_open(&t.client, t.conn.endpoint, t.conn.api_key, &e);
    if (rc == 0 && !t.uid)
        rc = pick_uid(&t, &uid, &e);
    if (rc == 0)
        rc = check_ability(&t, &e);
    if (rc == 0)
        rc = converse(&t, &e);
    api_client_close(t.client);
    buf_fini(&uid);
    return rc == 0 ? 0 : cli_fail(&e);
}

int cli_chat(int argc, char **argv)
{
    return talk_main(argc, argv, true);
}

int cli_generate(int argc, char **argv)
{
    return talk_main(argc, argv, false);
}
