/* SPDX-License-Identifier: Apache-2.0 */
/* tool_template.c - `quire template`: what prompt text a conversation becomes.
 *
 * A line's own template is rendered as the reference would, with exactly the variables of the
 * line. The model's template gets the messages in the shape that it wants, as in serving. */
#include "base/fs.h"
#include "base/num.h"
#include "base/opts.h"
#include "worker/text/chat.h"
#include "worker/text/tokenizer.h"
#include "worker/tools/jsonl.h"
#include "worker/tools/tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PROMPT ((size_t)256 << 20)
#define MAX_INPUT  ((size_t)64 << 20)

struct cmd {
    const char *model, *file, *system;
    bool jsonl, no_prompt, go;
    int64_t threads; /* part of the common form; one thread is enough here */
    struct chat_template *chat;
    char *template_text;
    char *bos, *eos; /* texts of the model's tokens, "" if none */
};

static char *token_text(const struct tokenizer *t, uint32_t id)
{
    const char *s = id == TOKEN_NONE ? NULL : tokenizer_text(t, id);
    return strdup(s ? s : "");
}

static int open_model(struct cmd *c, struct err *e)
{
    struct gguf *g = NULL;
    struct tokenizer *tok = NULL;
    char *path = NULL;
    int rc = tools_model_path(c->model, &path, e);
    if (rc == 0)
        rc = gguf_open(&g, path, e);
    if (rc == 0)
        rc = tokenizer_open_gguf(&tok, g, e);
    if (rc == 0) {
        c->bos = token_text(tok, tokenizer_bos(tok));
        c->eos = token_text(tok, tokenizer_eos(tok));
        if (!c->bos || !c->eos)
            rc = err_set(e, Q_ENOMEM, "out of memory");
    }
    if (rc == 0) {
        rc = chat_open_gguf(&c->chat, g, e);
        if (rc == Q_ENOTFOUND) /* a line may bring its own template */
            rc = 0;
    }
    tokenizer_close(tok);
    gguf_close(g);
    free(path);
    return rc;
}

static const char *token_of(const struct jv *req, const char *key, const char *of_model)
{
    return jv_str(jv_get(req, key), of_model ? of_model : "");
}

/* The line as the variables of a template of its own. */
static struct jv *line_vars(const struct cmd *c, const struct jv *req)
{
    static const char *const keys[] = {"messages", "tools", "add_generation_prompt"};
    struct jv *v = jv_new_object();
    int rc = v ? 0 : Q_ENOMEM;
    for (size_t i = 0; !rc && i < NUM_COUNT(keys); i++)
        if (!jv_is(jv_get(req, keys[i]), JV_NULL))
            rc = jv_set(v, keys[i], jv_ref(jv_get(req, keys[i])));
    if (!rc && (c->bos || jv_get(req, "bos_token")))
        rc = jv_set(v, "bos_token", jv_new_str(token_of(req, "bos_token", c->bos)));
    if (!rc && (c->eos || jv_get(req, "eos_token")))
        rc = jv_set(v, "eos_token", jv_new_str(token_of(req, "eos_token", c->eos)));
    const struct jv *extra = jv_get(req, "extra");
    for (void *it = jv_iter(extra); !rc && it; it = jv_next(extra, it))
        rc = jv_set(v, jv_iter_key(it), jv_ref(jv_iter_value(it)));
    if (rc) {
        jv_free(v);
        return NULL;
    }
    return v;
}

/* Through a chat template, in the shape that it wants. */
static int render_with(const struct cmd *c, const struct chat_template *t, const struct jv *req,
                       struct buf *out, bool *raised, struct err *e)
{
    struct chat_input in = {.messages = jv_get(req, "messages"),
                            .tools = jv_get(req, "tools"),
                            .extra = jv_get(req, "extra"),
                            .add_generation_prompt =
                                jv_bool(jv_get(req, "add_generation_prompt"), false),
                            .bos_token = token_of(req, "bos_token", c->bos),
                            .eos_token = token_of(req, "eos_token", c->eos)};
    if (!jv_is(in.messages, JV_ARRAY))
        return err_set(e, Q_EINVAL, "'messages' must be an array");
    return chat_render(t, &in, out, raised, e);
}

static int render_own(const struct cmd *c, const struct jv *req, const char *text, size_t n,
                      struct buf *out, bool *raised, struct err *e)
{
    if (c->go) {
        struct chat_template *t;
        int rc = chat_open_go(&t, text, n, e);
        if (rc)
            return rc;
        rc = render_with(c, t, req, out, raised, e);
        chat_close(t);
        return rc;
    }
    struct jv *vars = line_vars(c, req);
    if (!vars)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = chat_render_raw(text, n, vars, out, raised, e);
    jv_free(vars);
    return rc;
}

static int render_model(const struct cmd *c, const struct jv *req, struct buf *out, bool *raised,
                        struct err *e)
{
    if (!c->chat)
        return err_set(e, Q_ENOTFOUND,
                       c->model ? "the model file has no chat template"
                                : "a template or --model is needed");
    return render_with(c, c->chat, req, out, raised, e);
}

static int render(const struct cmd *c, const struct jv *req, struct buf *out, bool *raised,
                  struct err *e)
{
    const struct jv *text = jv_get(req, "template");
    *raised = false;
    if (!jv_is(req, JV_OBJECT))
        return err_set(e, Q_EINVAL, "an object is expected");
    if (jv_is(text, JV_STRING))
        return render_own(c, req, jv_str(text, ""), jv_str_len(text), out, raised, e);
    if (!jv_is(text, JV_NULL))
        return err_set(e, Q_EINVAL, "'template' must be a string");
    if (c->template_text)
        return render_own(c, req, c->template_text, strlen(c->template_text), out, raised, e);
    return render_model(c, req, out, raised, e);
}

static int template_line(void *ctx, const struct jv *req, struct buf *out, struct err *e)
{
    struct buf text;
    bool raised;
    buf_init(&text, MAX_PROMPT);
    int rc = render(ctx, req, &text, &raised, e);
    if (rc == 0) {
        jw_key(out, "text");
        jw_strn(out, buf_cstr(&text), text.len);
    } else {
        jw_kbool(out, "raised", raised);
        rc = JSONL_ERROR_WITH;
    }
    buf_fini(&text);
    return rc;
}

/* ---- for a person ---- */

static int push_message(struct jv *messages, const char *role, const char *content)
{
    struct jv *m = jv_new_object();
    if (!m || jv_set(m, "role", jv_new_str(role)) || jv_set(m, "content", jv_new_str(content))) {
        jv_free(m);
        return Q_EINVAL;
    }
    return jv_push(messages, m);
}

/* One user message of the arguments or stdin, with --system before it. */
static struct jv *make_request(const struct cmd *c, int n_pos, char **argv, struct err *e)
{
    struct buf text;
    struct jv *req = jv_new_object(), *messages = jv_new_array();
    int rc = req && messages ? 0 : err_set(e, Q_ENOMEM, "out of memory");
    buf_init(&text, MAX_INPUT);
    for (int i = 1; i <= n_pos; i++) {
        if (i > 1)
            buf_putc(&text, ' ');
        buf_puts(&text, argv[i]);
    }
    if (!rc && n_pos == 0)
        rc = fs_read_fd(&text, STDIN_FILENO, "the input", e);
    if (!rc && c->system && push_message(messages, "system", c->system))
        rc = err_set(e, Q_EINVAL, "the system text is not valid UTF-8");
    if (!rc && (text.failed || push_message(messages, "user", buf_cstr(&text))))
        rc = err_set(e, Q_EINVAL, "the text is too large or not valid UTF-8");
    buf_fini(&text);
    if (!rc) {
        rc = jv_set(req, "messages", messages);
        messages = NULL;
    }
    if (!rc)
        rc = jv_set(req, "add_generation_prompt", jv_new_bool(!c->no_prompt));
    if (rc) {
        jv_free(messages);
        jv_free(req);
        return NULL;
    }
    return req;
}

static int template_text(const struct cmd *c, int n_pos, char **argv, struct err *e)
{
    struct buf out;
    bool raised;
    struct jv *req = make_request(c, n_pos, argv, e);
    if (!req)
        return e->code ? e->code : err_set(e, Q_ENOMEM, "out of memory");
    buf_init(&out, MAX_PROMPT);
    int rc = render(c, req, &out, &raised, e);
    if (rc == 0) {
        fwrite(buf_cstr(&out), 1, out.len, stdout);
        if (isatty(STDOUT_FILENO))
            putchar('\n');
    } else if (raised) {
        err_prefix(e, rc, "the template refuses");
    }
    buf_fini(&out);
    jv_free(req);
    return rc;
}

/* ---- entry ---- */

static int open_file(struct cmd *c, struct err *e)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    int rc = fs_read(&b, c->file, e);
    if (rc == 0 && !(c->template_text = buf_take(&b, NULL)))
        rc = err_set(e, Q_ENOMEM, "out of memory");
    buf_fini(&b);
    return rc;
}

int tool_template(int argc, char **argv)
{
    struct cmd c = {0};
    struct err e = {0};
    const struct opt opts[] = {
        {.name = "model",
         .kind = OPT_STR,
         .to = &c.model,
         .value = "MODEL",
         .help = "GGUF file or name; its template and special tokens are used"},
        {.name = "template",
         .kind = OPT_STR,
         .to = &c.file,
         .value = "FILE",
         .help = "a template file, in place of the model's"},
        {.name = "go",
         .kind = OPT_FLAG,
         .to = &c.go,
         .help = "given templates are in Go's language, as Ollama's"},
        {.name = "system",
         .kind = OPT_STR,
         .to = &c.system,
         .value = "TEXT",
         .help = "system message before the user's"},
        {.name = "no-generation-prompt",
         .kind = OPT_FLAG,
         .to = &c.no_prompt,
         .help = "don't open the assistant's turn"},
        {.name = "jsonl",
         .kind = OPT_FLAG,
         .to = &c.jsonl,
         .help = "one JSON object a line in, one out"},
        {.name = "threads",
         .kind = OPT_INT,
         .to = &c.threads,
         .value = "N",
         .help = "accepted as in the other tools",
         .min = 0,
         .max = 1024}};
    const struct opts_cmd spec = {
        .name = "quire template",
        .args = "[TEXT...]",
        .about = "Show the prompt that a conversation becomes.",
        .examples = "  quire template --model story \"Hello\"\n"
                    "  quire template --template my.jinja --system \"Be brief.\" \"Hello\"\n"
                    "  quire template --jsonl < cases.jsonl",
        .opts = opts,
        .n_opts = NUM_COUNT(opts)};
    int n_pos, status = 2;
    int rc = opts_parse(&spec, argc, argv, &n_pos, NULL, NULL, &e);
    if (rc == OPTS_HELP)
        return 0;
    if (rc == OPTS_RUN && c.jsonl && n_pos > 0)
        rc = err_set(&e, Q_EINVAL, "--jsonl takes its input from stdin, not from arguments");
    if (rc == OPTS_RUN && !c.jsonl && !c.model && !c.file)
        rc = err_set(&e, Q_EINVAL, "--model or --template is needed");
    if (rc == OPTS_RUN) {
        status = 1;
        rc = c.model ? open_model(&c, &e) : 0;
    }
    if (rc == 0 && c.file)
        rc = open_file(&c, &e);
    if (rc == 0 && c.jsonl) {
        const struct jsonl_config cfg = {
            .in_fd = STDIN_FILENO, .out_fd = STDOUT_FILENO, .allow_nul = true};
        rc = jsonl_run(&cfg, template_line, &c, &e);
    } else if (rc == 0) {
        rc = template_text(&c, n_pos, argv, &e);
    }
    if (rc == 0 && fflush(stdout) == 0)
        status = 0;
    else
        fprintf(stderr, "quire template: %s\n", rc ? e.msg : "cannot write the output");
    chat_close(c.chat);
    free(c.template_text);
    free(c.bos);
    free(c.eos);
    return status;
}
