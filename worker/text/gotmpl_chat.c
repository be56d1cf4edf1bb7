/* SPDX-License-Identifier: Apache-2.0 */
/* gotmpl_chat.c - a conversation as the data of a Go template: specification "ollama", 7.2. */
#include "worker/text/gotmpl_int.h"

#include <stdlib.h>
#include <string.h>

#define MAX_CONTENT ((size_t)64 << 20)

static int no_memory(struct err *e)
{
    return err_set(e, Q_ENOMEM, "out of memory");
}

/* ---- messages ---- */

static const char *str_of(const struct jv *m, const char *key)
{
    return jv_str(jv_get(m, key), "");
}

static const char *role_of(const struct jv *m)
{
    const char *role = str_of(m, "role");
    return strcmp(role, "developer") == 0 ? "system" : role;
}

/* Images are announced as [img-N], in place of [img] where the text has it. */
static void put_content(struct buf *b, const struct jv *m, unsigned *n_images)
{
    const struct jv *content = jv_get(m, "content");
    size_t images = jv_len(jv_get(m, "images"));
    struct buf text;
    buf_init(&text, MAX_CONTENT);
    if (jv_is(content, JV_STRING))
        buf_put(&text, jv_str(content, ""), jv_str_len(content));
    for (size_t i = 0; jv_is(content, JV_ARRAY) && i < jv_len(content); i++) {
        const struct jv *part = jv_at(content, i), *s = jv_get(part, "text");
        images += strcmp(str_of(part, "type"), "image_url") == 0;
        if (jv_is(s, JV_STRING)) {
            if (text.len)
                buf_putc(&text, '\n');
            buf_put(&text, jv_str(s, ""), jv_str_len(s));
        }
    }
    const char *rest = buf_cstr(&text), *end = rest + text.len, *hole;
    size_t holes = 0;
    for (hole = rest; (hole = strstr(hole, "[img]")); hole += 5)
        holes++;
    for (size_t i = holes; i < images; i++)
        buf_printf(b, "[img-%u]", (*n_images)++);
    for (size_t i = 0; i < NUM_MIN(images, holes); i++) {
        hole = strstr(rest, "[img]");
        buf_put(b, rest, (size_t)(hole - rest));
        buf_printf(b, "[img-%u]", (*n_images)++);
        rest = hole + 5;
    }
    buf_put(b, rest, (size_t)(end - rest));
    b->failed |= text.failed;
    buf_fini(&text);
}

/* {id, function: {index, name, arguments: {}}} of either dialect; NULL: no memory. */
static struct jv *call_of(const struct jv *call, size_t index)
{
    const struct jv *fn = jv_get(call, "function"), *args;
    struct jv *out = jv_new_object(), *f = jv_new_object(), *parsed = NULL;
    fn = fn ? fn : call;
    args = jv_get(fn, "arguments");
    if (jv_is(args, JV_STRING)) {
        if (jv_parse(&parsed, jv_str(args, ""), jv_str_len(args), 64, NULL))
            parsed = NULL;
    } else if (args) {
        parsed = jv_ref(args);
    }
    if (!jv_is(parsed, JV_OBJECT)) {
        jv_free(parsed);
        parsed = jv_new_object();
    }
    int rc = out && f ? 0 : Q_ENOMEM;
    if (!rc && jv_is(jv_get(call, "id"), JV_STRING))
        rc = jv_set(out, "id", jv_ref(jv_get(call, "id")));
    if (!rc)
        rc = jv_set(f, "index", jv_new_int(jv_int(jv_get(fn, "index"), (int64_t)index)));
    if (!rc)
        rc = jv_set(f, "name", jv_new_str(str_of(fn, "name")));
    if (!rc) {
        rc = jv_set(f, "arguments", parsed);
        parsed = NULL;
    }
    if (!rc) {
        rc = jv_set(out, "function", f);
        f = NULL;
    }
    jv_free(parsed);
    jv_free(f);
    if (rc) {
        jv_free(out);
        return NULL;
    }
    return out;
}

/* The name of the function that a tool message answers: given, or found by its call's id. */
static const char *tool_name(const struct jv *messages, size_t at)
{
    const struct jv *m = jv_at(messages, at);
    const char *id = str_of(m, "tool_call_id");
    if (*str_of(m, "tool_name") || *str_of(m, "name"))
        return *str_of(m, "tool_name") ? str_of(m, "tool_name") : str_of(m, "name");
    for (size_t i = at; *id && i-- > 0;) {
        const struct jv *calls = jv_get(jv_at(messages, i), "tool_calls");
        for (size_t j = 0; j < jv_len(calls); j++)
            if (strcmp(str_of(jv_at(calls, j), "id"), id) == 0)
                return str_of(jv_get(jv_at(calls, j), "function"), "name");
    }
    return "";
}

static const char *thinking_of(const struct jv *m)
{
    static const char *const keys[] = {"thinking", "reasoning_content", "reasoning"};
    for (size_t i = 0; i < NUM_COUNT(keys); i++)
        if (*str_of(m, keys[i]))
            return str_of(m, keys[i]);
    return "";
}

static int set_text(struct jv *o, const char *key, const char *text)
{
    return *text ? jv_set(o, key, jv_new_str(text)) : 0;
}

/* Add message `at` to the list: behind its predecessor of the same role, or as a new one. */
static int collate(struct jv *list, const struct jv *messages, size_t at, unsigned *n_images)
{
    const struct jv *m = jv_at(messages, at), *calls = jv_get(m, "tool_calls");
    const char *role = role_of(m);
    struct jv *last = jv_len(list) ? jv_at(list, jv_len(list) - 1) : NULL;
    bool merge = last && strcmp(str_of(last, "role"), role) == 0 && strcmp(role, "tool") != 0;
    struct jv *o = merge ? last : jv_new_object(), *all;
    struct buf b;
    buf_init(&b, MAX_CONTENT);
    if (merge) {
        const struct jv *before = jv_get(last, "content");
        buf_put(&b, jv_str(before, ""), jv_str_len(before));
        buf_puts(&b, "\n\n");
    }
    put_content(&b, m, n_images);
    int rc = o && !b.failed ? 0 : Q_ENOMEM;
    if (!rc && !merge) {
        rc = jv_set(o, "role", jv_new_str(role));
        if (!rc && !(rc = set_text(o, "thinking", thinking_of(m))) && strcmp(role, "tool") == 0)
            rc = set_text(o, "tool_name", tool_name(messages, at));
        if (!rc)
            rc = set_text(o, "tool_call_id", str_of(m, "tool_call_id"));
    }
    if (!rc)
        rc = jv_set(o, "content", jv_new_strn(buf_cstr(&b), b.len));
    if (!rc && jv_len(calls) && !jv_get(o, "tool_calls"))
        rc = jv_set(o, "tool_calls", jv_new_array());
    all = rc ? NULL : jv_get(o, "tool_calls");
    for (size_t i = 0; all && !rc && i < jv_len(calls); i++) {
        struct jv *call = call_of(jv_at(calls, i), jv_len(all));
        rc = call ? jv_push(all, call) : Q_ENOMEM;
    }
    buf_fini(&b);
    if (merge)
        return rc;
    if (rc) {
        jv_free(o);
        return rc;
    }
    return jv_push(list, o);
}

/* ---- the top level ---- */

/* System, Think and so on; the caller adds what its mode has. */
static struct jv *root_new(const struct gotmpl_chat *chat)
{
    struct jv *root = jv_new_object();
    int rc = root ? 0 : Q_ENOMEM;
    if (!rc)
        rc = jv_set(root, "Think", jv_new_bool(chat->think));
    if (!rc)
        rc = jv_set(root, "ThinkLevel", jv_new_str(chat->think_level ? chat->think_level : ""));
    if (!rc)
        rc = jv_set(root, "IsThinkSet", jv_new_bool(chat->think_set));
    if (!rc)
        rc = jv_set(root, "Response", jv_new_str(""));
    if (rc) {
        jv_free(root);
        return NULL;
    }
    return root;
}

static struct gt_val root_val(const struct jv *root)
{
    return (struct gt_val){.t = GT_STRUCT, .of = &gt_desc_root, .u.v = root};
}

static int render_messages(const struct gotmpl *t, const struct gotmpl_chat *chat,
                           struct jv *messages, int64_t now, struct buf *out, struct buf *mark,
                           struct err *e)
{
    struct jv *root = root_new(chat);
    struct buf system;
    size_t n_system = 0;
    buf_init(&system, MAX_CONTENT);
    for (size_t i = 0; i < jv_len(chat->messages); i++) {
        const struct jv *m = jv_at(chat->messages, i);
        unsigned images = 0;
        if (strcmp(role_of(m), "system") != 0)
            continue;
        if (n_system++)
            buf_puts(&system, "\n\n");
        put_content(&system, m, &images);
    }
    int rc = root && !system.failed ? 0 : Q_ENOMEM;
    if (!rc)
        rc = jv_set(root, "System", jv_new_strn(buf_cstr(&system), system.len));
    if (!rc)
        rc = jv_set(root, "Messages", jv_ref(messages));
    if (!rc && jv_len(chat->tools))
        rc = jv_set(root, "Tools", jv_ref(chat->tools));
    rc = rc ? no_memory(e) : gt_run(t, root_val(root), now, UINT32_MAX, out, mark, e);
    buf_fini(&system);
    jv_free(root);
    return rc;
}

struct turn {
    const struct jv *system, *prompt, *response; /* strings; NULL: none */
};

static int set_ref(struct jv *root, const char *key, const struct jv *text)
{
    return jv_set(root, key, text ? jv_ref(text) : jv_new_str(""));
}

static int render_turn(const struct gotmpl *t, const struct gotmpl_chat *chat,
                       const struct turn *turn, bool last, int64_t now, struct buf *out,
                       struct buf *mark, struct err *e)
{
    struct jv *root = root_new(chat);
    if (!root || set_ref(root, "System", turn->system) || set_ref(root, "Prompt", turn->prompt) ||
        set_ref(root, "Response", turn->response)) {
        jv_free(root);
        return no_memory(e);
    }
    int rc = gt_run(t, root_val(root), now, last ? t->response_order : UINT32_MAX, out, mark, e);
    /* A template without the word gets the answer at its end. */
    if (!rc && !t->has_response && turn->response) {
        size_t n = jv_str_len(turn->response);
        rc = buf_put(out, jv_str(turn->response, ""), n);
        for (size_t i = 0; mark && !rc && i < n; i++)
            rc = buf_putc(mark, 1);
        if (rc)
            rc = err_set(e, Q_EINVAL, "the output is too large");
    }
    jv_free(root);
    return rc;
}

static bool has_text(const struct jv *s)
{
    return jv_str_len(s) > 0;
}

/* Turn by turn: one is complete when a user follows an answer or a system text follows either. */
static int render_turns(const struct gotmpl *t, const struct gotmpl_chat *chat,
                        const struct jv *messages, int64_t now, struct buf *out, struct buf *mark,
                        struct err *e)
{
    struct turn turn = {0};
    int rc = 0;
    for (size_t i = 0; !rc && i < jv_len(messages); i++) {
        const struct jv *m = jv_at(messages, i), *content = jv_get(m, "content");
        const char *role = str_of(m, "role");
        bool system = strcmp(role, "system") == 0, user = strcmp(role, "user") == 0;
        bool full = has_text(turn.response) || (system && has_text(turn.prompt));
        if ((system || user) && full) {
            rc = render_turn(t, chat, &turn, false, now, out, mark, e);
            turn = (struct turn){0};
        }
        if (system)
            turn.system = content;
        else if (user)
            turn.prompt = content;
        else if (strcmp(role, "assistant") == 0)
            turn.response = content;
    }
    return rc ? rc : render_turn(t, chat, &turn, true, now, out, mark, e);
}

static int render_insert(const struct gotmpl *t, const struct gotmpl_chat *chat, int64_t now,
                         struct buf *out, struct buf *mark, struct err *e)
{
    struct jv *root = root_new(chat);
    if (!root || jv_set(root, "Prompt", jv_new_str(chat->prompt)) ||
        jv_set(root, "Suffix", jv_new_str(chat->suffix))) {
        jv_free(root);
        return no_memory(e);
    }
    int rc = gt_run(t, root_val(root), now, UINT32_MAX, out, mark, e);
    jv_free(root);
    return rc;
}

int gotmpl_render_chat(const struct gotmpl *t, const struct gotmpl_chat *chat, int64_t now,
                       struct buf *out, struct buf *mark, struct err *e)
{
    unsigned n_images = 0;
    if (chat->prompt && *chat->prompt && chat->suffix && *chat->suffix)
        return render_insert(t, chat, now, out, mark, e);
    struct jv *messages = jv_new_array();
    int rc = messages ? 0 : Q_ENOMEM;
    for (size_t i = 0; !rc && i < jv_len(chat->messages); i++)
        rc = collate(messages, chat->messages, i, &n_images);
    if (rc)
        rc = no_memory(e);
    else if (t->has_messages)
        rc = render_messages(t, chat, messages, now, out, mark, e);
    else
        rc = render_turns(t, chat, messages, now, out, mark, e);
    jv_free(messages);
    return rc;
}
