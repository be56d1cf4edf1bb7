/* SPDX-License-Identifier: Apache-2.0 */
/* outparse_named.c - calls whose name stands in the markup and whose arguments are one JSON
 * object: Mistral, DeepSeek, Kimi, Functionary by script; gpt-oss (harmony) by its headers. */
#include "worker/text/outparse_int.h"

#include <string.h>

/* Kimi's "functions.NAME:INDEX" is the id of the call, too. */
static void split_kimi(struct outparse *p)
{
    static const char pre[] = "functions.";
    buf_clear(&p->id);
    buf_put(&p->id, p->name.data, p->name.len);
    size_t n = p->name.len;
    while (n > 0 && p->name.data[n - 1] >= '0' && p->name.data[n - 1] <= '9')
        n--;
    if (n > 0 && n < p->name.len && p->name.data[n - 1] == ':') {
        p->name.len = n - 1;
        p->name.data[n - 1] = '\0';
    } else {
        buf_clear(&p->id);
    }
    if (p->name.len > sizeof pre - 1 && memcmp(p->name.data, pre, sizeof pre - 1) == 0)
        buf_shift(&p->name, sizeof pre - 1);
}

/* One object as arguments, the call begun at its brace. Done: the call has ended. */
static enum op_result args_byte(struct outparse *p, char c)
{
    char out[8];
    size_t n;
    if (!p->call_open) {
        if (c != '{')
            return OP_FAIL;
        if (p->fmt->ids == OP_ID_KIMI && p->name.len > 0)
            split_kimi(p);
        if (!op_begin(p))
            return OP_FAIL;
        ojs_init(&p->js);
    }
    enum ojs_result r = ojs_push(&p->js, c, out, &n);
    if (r == OJS_BAD || r == OJS_DONE_REDO)
        return OP_FAIL;
    op_args(p, out, n);
    if (r == OJS_MORE)
        return OP_MORE;
    op_end(p);
    return OP_DONE;
}

enum part { PART_MORE, PART_NEXT, PART_NEXT_REDO, PART_FAIL };

static enum part lit_part(struct outparse *p, const char *text, char c)
{
    if (c != text[p->at])
        return PART_FAIL;
    return text[++p->at] ? PART_MORE : PART_NEXT;
}

static enum part name_part(struct outparse *p, struct buf *b, char c)
{
    if (!op_name_char(c))
        return b->len > 0 ? PART_NEXT_REDO : PART_FAIL;
    return op_keep(p, b, c, OUTPARSE_MAX_NAME) ? PART_MORE : PART_FAIL;
}

static enum part id_part(struct outparse *p, const char *text, char c)
{
    if (p->at == 0 && c != text[0])
        return PART_NEXT_REDO;
    if (text[p->at]) {
        if (c != text[p->at])
            return PART_FAIL;
        p->at++;
        return PART_MORE;
    }
    if (c == '[')
        return PART_NEXT;
    return op_name_char(c) && op_keep(p, &p->id, c, 64) ? PART_MORE : PART_FAIL;
}

static enum part part_byte(struct outparse *p, const struct op_script *s, char c)
{
    switch (s->op) {
    case S_LIT:
        return lit_part(p, s->text, c);
    case S_OPT:
        return p->at == 0 && c != s->text[0] ? PART_NEXT_REDO : lit_part(p, s->text, c);
    case S_WS:
        return op_is_ws(c) ? PART_MORE : PART_NEXT_REDO;
    case S_NAME:
        return name_part(p, &p->name, c);
    case S_NAME2:
        if (p->at == 0 && c == '{')
            return PART_NEXT_REDO;
        if (p->at == 0)
            buf_clear(&p->name);
        p->at = 1;
        return name_part(p, &p->name, c);
    case S_ID:
        return id_part(p, s->text, c);
    case S_JSON:
    default: {
        enum op_result r = args_byte(p, c);
        return r == OP_MORE ? PART_MORE : r == OP_DONE ? PART_NEXT : PART_FAIL;
    }
    }
}

static enum op_result run_script(struct outparse *p, const struct op_script *s, char c)
{
    for (;;) {
        enum part r = part_byte(p, &s[p->pc], c);
        if (r == PART_FAIL)
            return OP_FAIL;
        if (r == PART_MORE)
            return OP_MORE;
        p->pc++;
        p->at = 0;
        if (s[p->pc].op == S_END)
            return r == PART_NEXT ? OP_DONE : OP_DONE_REDO;
        if (r == PART_NEXT)
            return OP_MORE;
    }
}

enum op_result op_step_script(struct outparse *p, char c)
{
    return run_script(p, p->trigger->arg, c);
}

/* The older form is an array of objects, the newer one NAME[CALL_ID]ID[ARGS]{...}. */
enum op_result op_step_mistral(struct outparse *p, char c)
{
    static const struct op_script named[] = {{S_NAME, NULL},   {S_OPT, "["}, {S_ID, "CALL_ID]"},
                                             {S_OPT, "ARGS]"}, {S_WS, NULL}, {S_JSON, NULL},
                                             {S_END, NULL}};
    if (p->pc == 0 && p->name.len == 0) {
        if (op_is_ws(c))
            return OP_MORE;
        if (c == '[' || c == '{') {
            p->step = op_step_json;
            return op_step_json(p, c);
        }
    }
    return run_script(p, named, c);
}

/* ---- harmony ---- */

enum { H_HEADER, H_ARGS };
#define MAX_HEADER 512

/* The word after `key` in the header, ended by white space or '<'. */
static bool header_word(const char *h, const char *key, char *out, size_t cap)
{
    const char *at = strstr(h, key);
    if (!at)
        return false;
    at += strlen(key);
    size_t n = strcspn(at, " \t\r\n<");
    if (n == 0 || n >= cap)
        return false;
    memcpy(out, at, n);
    out[n] = '\0';
    return true;
}

static enum op_result header_done(struct outparse *p)
{
    char header[MAX_HEADER + OP_MAX_HOLD + 1], to[OUTPARSE_MAX_NAME + 16], channel[32];
    size_t n_mark = strlen(p->trigger->mark);
    memcpy(header, p->trigger->mark, n_mark);
    memcpy(header + n_mark, buf_cstr(&p->val), p->val.len + 1);
    buf_clear(&p->val);
    if (header_word(header, "to=", to, sizeof to) && strcmp(to, "user") != 0 &&
        strcmp(to, "assistant") != 0) {
        const char *name = strncmp(to, "functions.", 10) == 0 ? to + 10 : to;
        if (p->no_calls)
            return OP_FAIL;
        buf_puts(&p->name, name);
        p->st = H_ARGS;
        return OP_MORE;
    }
    if (!header_word(header, "<|channel|>", channel, sizeof channel))
        return OP_FAIL;
    if (strcmp(channel, "analysis") != 0)
        return OP_DONE;
    if (p->no_reasoning)
        return OP_FAIL;
    buf_clear(&p->held);
    op_reason(p, "<|end|>");
    return OP_MORE;
}

enum op_result op_step_harmony(struct outparse *p, char c)
{
    static const char end[] = "<|message|>";
    if (p->st == H_ARGS) {
        if (op_is_ws(c) && !p->call_open)
            return OP_MORE;
        return args_byte(p, c);
    }
    if (c == '\n' || !op_keep(p, &p->val, c, MAX_HEADER))
        return OP_FAIL;
    size_t n = p->val.len, k = sizeof end - 1;
    if (c != '>' || n < k || memcmp(p->val.data + n - k, end, k) != 0)
        return OP_MORE;
    return header_done(p);
}
