/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - conversations into the shape that a template expects, then through it.
 *
 * Templates disagree on three points: whether content may be a list of parts (or must be one),
 * whether the arguments of a tool call are an object or JSON text, and whether a call's
 * missing content is null or "". What this one wants is found out once, at opening, by
 * rendering small conversations with words that can be recognised in the output. */
#include "worker/text/chat.h"

#include "base/clock.h"
#include "base/num.h"
#include "worker/text/gotmpl.h"
#include "worker/text/jinja.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PROMPT ((size_t)64 << 20)
#define WORD       "QuireProbe"

struct shape {
    bool takes_parts;  /* content lists are read part by part */
    bool needs_parts;  /* a plain string is not shown */
    bool text_args;    /* tool call arguments as JSON text */
    bool null_content; /* null, not "", beside tool calls */
};

struct chat_template {
    struct jinja *plain;
    struct jinja *tool_use; /* when tools are given; NULL: plain serves both */
    struct shape shape, tool_shape;
    struct gotmpl *go; /* in place of all the others */
};

/* ---- the messages as a template wants them ---- */

static bool is_empty(const struct jv *content)
{
    return jv_is(content, JV_NULL) || (jv_is(content, JV_STRING) && jv_str_len(content) == 0);
}

/* The text parts as one string; NULL when out of memory. Other parts have no text. */
static struct jv *join_parts(const struct jv *parts)
{
    struct buf b;
    buf_init(&b, MAX_PROMPT);
    for (size_t i = 0; i < jv_len(parts); i++) {
        const struct jv *part = jv_at(parts, i);
        const struct jv *text = jv_is(part, JV_STRING) ? part : jv_get(part, "text");
        if (jv_is(text, JV_STRING)) {
            if (b.len)
                buf_putc(&b, '\n');
            buf_put(&b, jv_str(text, ""), jv_str_len(text));
        }
    }
    struct jv *joined = b.failed ? NULL : jv_new_strn(buf_cstr(&b), b.len);
    buf_fini(&b);
    return joined;
}

static struct jv *one_part(const struct jv *text)
{
    struct jv *part = jv_new_object(), *list = jv_new_array();
    if (!part || !list || jv_set(part, "type", jv_new_str("text")) ||
        jv_set(part, "text", jv_ref(text))) {
        jv_free(part);
        jv_free(list);
        return NULL;
    }
    if (jv_push(list, part)) {
        jv_free(list);
        return NULL;
    }
    return list;
}

/* The arguments in the other form, or NULL to leave them. */
static struct jv *convert_args(const struct jv *args, bool text)
{
    struct jv *out = NULL;
    if (!text && jv_is(args, JV_STRING)) {
        if (jv_parse(&out, jv_str(args, ""), jv_str_len(args), 64, NULL) == 0 &&
            jv_is(out, JV_OBJECT))
            return out;
        jv_free(out);
        return NULL;
    }
    if (text && jv_is(args, JV_OBJECT)) {
        struct buf b;
        buf_init(&b, MAX_PROMPT);
        if (jv_write(&b, args, 0) == 0)
            out = jv_new_strn(buf_cstr(&b), b.len);
        buf_fini(&b);
    }
    return out;
}

static int convert_calls(struct jv *msg, const struct shape *shape)
{
    const struct jv *calls = jv_get(msg, "tool_calls");
    struct jv *out = jv_new_array();
    int rc = out ? 0 : Q_ENOMEM;
    for (size_t i = 0; !rc && i < jv_len(calls); i++) {
        struct jv *call = jv_copy(jv_at(calls, i));
        struct jv *fn = jv_get(call, "function");
        struct jv *holder = fn ? fn : call;
        struct jv *args = convert_args(jv_get(holder, "arguments"), shape->text_args);
        if (args)
            rc = jv_set(holder, "arguments", args);
        rc = jv_push(out, call) || rc ? Q_ENOMEM : 0;
    }
    if (rc) {
        jv_free(out);
        return rc;
    }
    return jv_set(msg, "tool_calls", out);
}

/* A shallow copy of m with the members that need it replaced. */
static struct jv *convert_message(const struct jv *m, const struct shape *shape)
{
    struct jv *out = jv_new_object();
    const struct jv *content = jv_get(m, "content");
    bool calls = jv_len(jv_get(m, "tool_calls")) > 0;
    int rc = out ? 0 : Q_ENOMEM;
    for (void *it = jv_iter(m); !rc && it; it = jv_next(m, it))
        rc = jv_set(out, jv_iter_key(it), jv_ref(jv_iter_value(it)));
    if (!rc && is_empty(content))
        rc = jv_set(out, "content", calls && shape->null_content ? jv_new_null() : jv_new_str(""));
    else if (!rc && jv_is(content, JV_ARRAY) && !shape->takes_parts)
        rc = jv_set(out, "content", join_parts(content));
    else if (!rc && jv_is(content, JV_STRING) && shape->needs_parts)
        rc = jv_set(out, "content", one_part(content));
    if (!rc && calls)
        rc = convert_calls(out, shape);
    if (rc) {
        jv_free(out);
        return NULL;
    }
    return out;
}

static struct jv *convert_messages(const struct jv *messages, const struct shape *shape)
{
    struct jv *out = jv_new_array();
    for (size_t i = 0; out && i < jv_len(messages); i++) {
        const struct jv *m = jv_at(messages, i);
        struct jv *msg = jv_is(m, JV_OBJECT) ? convert_message(m, shape) : jv_ref(m);
        if (!msg || jv_push(out, msg)) {
            jv_free(out);
            return NULL;
        }
    }
    return out;
}

/* ---- rendering ---- */

static int64_t template_time(int64_t given)
{
    const char *fixed = getenv("QUIRE_FIXED_TIME");
    struct tm tm = {.tm_isdst = -1};
    if (fixed && strptime(fixed, "%Y-%m-%dT%H:%M:%S", &tm))
        return (int64_t)mktime(&tm);
    return given ? given : clock_unix_s();
}

/* The top-level variables; messages is taken. */
static struct jv *make_vars(const struct chat_input *in, struct jv *messages)
{
    struct jv *v = jv_new_object();
    if (!v) {
        jv_free(messages);
        return NULL;
    }
    int rc = jv_set(v, "messages", messages);
    /* Without tools the name stays undefined: more templates take that than null. */
    if (jv_len(in->tools))
        rc |= jv_set(v, "tools", jv_ref(in->tools));
    rc |= jv_set(v, "add_generation_prompt", jv_new_bool(in->add_generation_prompt));
    rc |= jv_set(v, "bos_token", jv_new_str(in->bos_token ? in->bos_token : ""));
    rc |= jv_set(v, "eos_token", jv_new_str(in->eos_token ? in->eos_token : ""));
    for (void *it = jv_iter(in->extra); !rc && it; it = jv_next(in->extra, it))
        rc = jv_set(v, jv_iter_key(it), jv_ref(jv_iter_value(it)));
    if (rc) {
        jv_free(v);
        return NULL;
    }
    return v;
}

static int render(const struct jinja *t, const struct chat_input *in, struct jv *messages,
                  const struct jinja_limits *lim, struct buf *out, struct buf *mark, bool *raised,
                  struct err *e)
{
    *raised = false;
    struct jv *vars = messages ? make_vars(in, messages) : NULL;
    if (!vars)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = jinja_render_marked(t, vars, template_time(in->unix_time), lim, out, mark, raised, e);
    jv_free(vars);
    return rc;
}

/* ---- probing ---- */

/* Render the probe and look for the words; bad (may be NULL) must not appear. */
static bool probe(const struct jinja *t, const char *messages_json, const struct shape *shape,
                  const char *good, const char *bad)
{
    static const struct jinja_limits lim = {.max_steps = 200000, .max_memory = 16 << 20};
    struct chat_input in = {.bos_token = "", .eos_token = ""};
    struct jv *messages = NULL;
    struct buf out;
    bool raised, ok = false;
    buf_init(&out, 1 << 20);
    if (jv_parse(&messages, messages_json, strlen(messages_json), 32, NULL) == 0) {
        struct jv *shaped = shape ? convert_messages(messages, shape) : jv_ref(messages);
        ok = render(t, &in, shaped, &lim, &out, NULL, &raised, NULL) == 0 &&
             strstr(buf_cstr(&out), good) && !(bad && strstr(buf_cstr(&out), bad));
    }
    jv_free(messages);
    buf_fini(&out);
    return ok;
}

static struct shape find_shape(const struct jinja *t)
{
    static const char PARTS[] =
        "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"" WORD "\"}]}]";
    static const char PLAIN[] = "[{\"role\":\"user\",\"content\":\"" WORD "\"}]";
    static const char CALL[] =
        "[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":null,"
        "\"tool_calls\":[{\"id\":\"abcdefgh1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
        "\"arguments\":{\"" WORD "\":\"x\"}}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"abcdefgh1\",\"name\":\"f\",\"content\":\"ok\"}]";
    struct shape s = {.null_content = true};
    s.takes_parts = probe(t, PARTS, NULL, WORD, "'" WORD "'");
    s.needs_parts = s.takes_parts && !probe(t, PLAIN, NULL, WORD, NULL);
    for (int form = 0; form < 4; form++) {
        s.text_args = form >= 2;
        s.null_content = form % 2 == 0;
        /* Printed with single quotes it was an object shown as Python writes it. */
        if (probe(t, CALL, &s, WORD, s.null_content ? "None" : "'" WORD "'") &&
            probe(t, CALL, &s, WORD, "'" WORD "'"))
            return s;
    }
    s.text_args = s.null_content = false;
    return s;
}

/* ---- entry ---- */

static int compile(struct jinja **t, struct shape *shape, const char *text, size_t n, struct err *e)
{
    int rc = jinja_compile(t, text, n, e);
    if (rc == 0)
        *shape = find_shape(*t);
    return rc;
}

int chat_open_text(struct chat_template **out, const char *text, size_t n, struct err *e)
{
    *out = NULL;
    struct chat_template *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = compile(&c->plain, &c->shape, text, n, e);
    if (rc) {
        free(c);
        return rc;
    }
    *out = c;
    return 0;
}

int chat_open_go(struct chat_template **out, const char *text, size_t n, struct err *e)
{
    *out = NULL;
    struct chat_template *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, Q_ENOMEM, "out of memory");
    int rc = gotmpl_compile(&c->go, text, n, e);
    if (rc) {
        free(c);
        return rc;
    }
    *out = c;
    return 0;
}

/* Does an action of Go's begin here, behind "{{"? Jinja has no fields without a name in front, and
 * its statements are written in {% %}. */
static bool go_action(const char *s, size_t n)
{
    static const char *const words[] = {"if",     "range", "with",  "else",     "end",
                                        "define", "block", "break", "continue", "template"};
    size_t at = n && *s == '-';
    while (at < n && memchr(" \t\r\n", s[at], 4))
        at++;
    if (at == n)
        return false;
    if (memchr(".$/", s[at], 3))
        return true;
    for (size_t i = 0; i < NUM_COUNT(words); i++) {
        size_t len = strlen(words[i]);
        if (n - at > len && memcmp(s + at, words[i], len) == 0 &&
            memchr(" \t\r\n}-", s[at + len], 6))
            return true;
    }
    return false;
}

bool chat_text_is_go(const char *text, size_t n)
{
    bool go = false;
    for (size_t i = 0; i + 1 < n; i++) {
        if (text[i] != '{')
            continue;
        if (text[i + 1] == '%')
            return false;
        go |= text[i + 1] == '{' && go_action(text + i + 2, n - i - 2);
    }
    return go;
}

int chat_open_gguf(struct chat_template **out, const struct gguf *g, struct err *e)
{
    struct gguf_str text;
    *out = NULL;
    int rc = gguf_get_str(g, "tokenizer.chat_template", &text, e);
    if (rc == Q_ENOTFOUND)
        return err_set(e, rc, "the model file has no chat template");
    if (rc)
        return rc;
    rc = chat_open_text(out, text.p, text.n, e);
    if (rc)
        return err_prefix(e, rc, "tokenizer.chat_template");
    if (gguf_get_str(g, "tokenizer.chat_template.tool_use", &text, NULL) == 0) {
        rc = compile(&(*out)->tool_use, &(*out)->tool_shape, text.p, text.n, e);
        if (rc) {
            chat_close(*out);
            *out = NULL;
            return err_prefix(e, rc, "tokenizer.chat_template.tool_use");
        }
    }
    return 0;
}

bool chat_leaves_bos(const struct chat_template *c)
{
    return c->go != NULL;
}

void chat_close(struct chat_template *c)
{
    if (!c)
        return;
    jinja_free(c->plain);
    jinja_free(c->tool_use);
    gotmpl_free(c->go);
    free(c);
}

static int render_go(const struct chat_template *c, const struct chat_input *in, struct buf *out,
                     struct buf *mark, struct err *e)
{
    const struct jv *think = jv_get(in->extra, "think");
    const char *effort = jv_str(jv_get(in->extra, "reasoning_effort"), NULL);
    if (!think)
        think = jv_get(in->extra, "enable_thinking");
    struct gotmpl_chat chat = {.messages = in->messages,
                               .tools = in->tools,
                               .think = jv_bool(think, effort && strcmp(effort, "none") != 0),
                               .think_set = think || effort,
                               .think_level = effort};
    return gotmpl_render_chat(c->go, &chat, template_time(in->unix_time), out, mark, e);
}

int chat_render_marked(const struct chat_template *c, const struct chat_input *in, struct buf *out,
                       struct buf *mark, bool *raised, struct err *e)
{
    if (c->go) {
        if (raised)
            *raised = false;
        return render_go(c, in, out, mark, e);
    }
    bool with_tools = jv_len(in->tools) > 0 && c->tool_use, spare;
    const struct jinja *t = with_tools ? c->tool_use : c->plain;
    const struct shape *shape = with_tools ? &c->tool_shape : &c->shape;
    return render(t, in, convert_messages(in->messages, shape), NULL, out, mark,
                  raised ? raised : &spare, e);
}

int chat_render(const struct chat_template *c, const struct chat_input *in, struct buf *out,
                bool *raised, struct err *e)
{
    return chat_render_marked(c, in, out, NULL, raised, e);
}

int chat_render_raw(const char *text, size_t n, const struct jv *vars, struct buf *out,
                    bool *raised, struct err *e)
{
    struct jinja *t;
    if (raised)
        *raised = false;
    int rc = jinja_compile(&t, text, n, e);
    if (rc)
        return rc;
    rc = jinja_render(t, vars, template_time(0), NULL, out, raised, e);
    jinja_free(t);
    return rc;
}
